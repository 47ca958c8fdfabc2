"""The structures that ship inside ase: its collections, and the crystals of the elements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import ClassVar

import ase
import numpy as np
from ase.build import bulk
from ase.collections import dcdft, g2, s22
from ase.data import chemical_symbols
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources.ase_formats import record_of
from atomlake.sources.base import (
    Batch,
    FileIndex,
    Fingerprint,
    Reader,
    ReadResult,
    content_hashes,
    parsed_index,
)

_COLLECTIONS = {"dcdft": dcdft, "g2": g2, "s22": s22}


class AseCollection(Reader):
    """``ase:g2``, ``ase:s22``, ``ase:dcdft`` and ``ase:elements``; keys are the names there."""

    format: ClassVar[str] = "ase_collection"
    title: ClassVar[str] = "structures that ship inside ase"
    patterns: ClassVar[tuple[str, ...]] = ("ase:*",)

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Return the state of the collection, which is that of the installed ase."""
        digest = hashlib.blake2b(digest_size=16)
        for name, atoms in self._structures().items():
            digest.update(name.encode() + atoms.numbers.tobytes() + atoms.positions.tobytes())
            digest.update(atoms.cell.array.tobytes() + atoms.pbc.tobytes())
        return Fingerprint(0, 0, digest.hexdigest())

    def index(self) -> FileIndex:
        """List the collection; see :class:`atomlake.sources.base.Reader`."""
        keys = list(self._structures())
        locations = np.stack([np.arange(len(keys)), np.zeros(len(keys), int)], axis=1)
        return parsed_index(self.read(locations), keys, locations, self.record_salt)

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read structures; see :class:`atomlake.sources.base.Reader`."""
        structures = list(self._structures().values())
        batch = Batch()
        for row, position in enumerate(locations[:, 0].tolist()):
            if position < len(structures):
                batch.add(row, record_of(structures[position], self.source.labels))
            else:
                batch.set_aside(row, SetAside("missing", "the installed ase has it no more"))
        return batch.result(content_hashes(self.record_salt))

    def _structures(self) -> Mapping[str, ase.Atoms]:
        name = self.location.removeprefix("ase:")
        if name == "elements":
            return _elements()
        if name not in _COLLECTIONS:
            raise SourceError(
                f"ase has no collection {name!r}; there are elements, {', '.join(_COLLECTIONS)}"
            )
        collection = _COLLECTIONS[name]
        return {name: collection[name] for name in collection.names}


@cache
def _elements() -> dict[str, ase.Atoms]:
    """Crystals of the elements whose reference data suffice for :func:`ase.build.bulk`."""
    crystals = {}
    for symbol in chemical_symbols:
        with suppress(ValueError, RuntimeError):
            crystals[symbol] = bulk(symbol)
    return crystals
