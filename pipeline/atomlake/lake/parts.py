"""Parts: zarr groups that are written once, by one task, and read ever after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.descriptors.base import Descriptor, Gradients, Rows
from atomlake.errors import SetAside
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures


class StoredFile(NamedTuple):
    """One file of a zarr group: its path inside the group, its size and its CRC-32C."""

    name: str
    nbytes: int
    crc32c: int


@dataclass(frozen=True)
class PartRecord:
    """What the catalogue holds of the structures of a part."""

    part_id: str
    path: str
    n_structures: int
    n_atoms: int
    files: tuple[StoredFile, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(file.nbytes for file in self.files)


@dataclass(frozen=True)
class FeaturesRecord:
    """What the catalogue holds of the features of a part.

    Attributes
    ----------
    rows : tuple of int or None
        Rows of the part that have features; None for all of them.
    structure_n_atoms, structure_n_pairs : tuple of int
        Counts of each structure that has features, where the layout depends on them:
        atoms if ``rows`` is not None, pairs if gradients are stored per pair; else empty.
    set_aside : mapping of int to SetAside
        Rows of the part that the descriptor cannot describe.
    seconds : float
        Time that computing and writing took.
    versions : mapping of str to str
        Software that made them.
    """

    descriptor_id: str
    kind: str
    part_id: str
    path: str
    gradients: str
    strain: bool
    n_structures: int
    n_rows: int
    n_pairs: int
    rows: tuple[int, ...] | None
    structure_n_atoms: tuple[int, ...]
    structure_n_pairs: tuple[int, ...]
    files: tuple[StoredFile, ...]
    set_aside: Mapping[int, SetAside]
    seconds: float
    versions: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(file.nbytes for file in self.files)


def write_structures(lake: Path | str, part_id: str, structures: Structures) -> PartRecord:
    """Write the structures of a part; nobody sees them until the record is published."""
    raise NotImplementedError


def read_structures(
    lake: Path | str, part_id: str, rows: Sequence[int] | NDArray[np.int64] | None = None
) -> Structures:
    """Read the structures of a part, or those at ``rows``, in that order."""
    raise NotImplementedError


def write_descriptor(lake: Path | str, descriptor: Descriptor) -> None:
    """Write labels and parameters of a descriptor once; do nothing if they are there."""
    raise NotImplementedError


class FeatureWriter:
    """Writes features and gradients of one part, block by block, in whole shards.

    Parameters
    ----------
    lake : Path or str
        The lake.
    part_id : str
        The part.
    descriptor : Descriptor
        What was computed.
    gradients : Gradients
        Which derivatives will come.
    structures : Structures
        The structures that have features: those of the part, or those at ``rows``.
    neighbours : Neighbours
        Pairs within the descriptor's cutoff, over ``structures``.
    rows : sequence of int, optional
        Rows of the part that ``structures`` are; all of them if not given.

    Examples
    --------
    >>> writer = FeatureWriter(lake, part_id, soap, gradients, structures, neighbours)
    >>> for first, last in soap.blocks(structures, neighbours, gradients):
    ...     rows = empty_rows(soap, structures, neighbours, first, last, gradients)
    ...     soap.compute_rows(structures, neighbours, first, last, gradients, rows)
    ...     writer.append(rows)
    >>> record = writer.close(seconds=1.0)
    """

    def __init__(
        self,
        lake: Path | str,
        part_id: str,
        descriptor: Descriptor,
        gradients: Gradients,
        structures: Structures,
        neighbours: Neighbours,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        raise NotImplementedError

    def append(self, rows: Rows) -> None:
        """Take the next block; its arrays may be reused as soon as this returns."""
        raise NotImplementedError

    def close(
        self,
        *,
        seconds: float,
        set_aside: Mapping[int, SetAside] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> FeaturesRecord:
        """Write what is left, and return what the catalogue must hold."""
        raise NotImplementedError
