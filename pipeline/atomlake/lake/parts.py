"""Parts: structures, their features and gradients, written once, by one task, and read ever after.

What a task writes means nothing until the record that it returns is published.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from atomlake.descriptors.base import Descriptor, Gradients, Rows
from atomlake.errors import LakeError, SetAside
from atomlake.lake import layout
from atomlake.lake.chunks import Files
from atomlake.lake.groups import (
    FEATURE_CHUNKS,
    GRADIENT_CHUNKS,
    Array,
    GroupWriter,
    StoredFile,
    array_dims,
    file_problem,
    group_attributes,
    open_array,
    read,
    reading,
    writing,
)
from atomlake.neighbours import Neighbours
from atomlake.structures import LABELS, Structures
from atomlake.variables import PAIR_VARIABLES, STRUCTURE_VARIABLES, Variable, feature_variables

if TYPE_CHECKING:
    import xarray as xr

_PLAIN = ("numbers", "positions", "cells", "pbc", "structure_offsets")
_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


#: Size and checksum of each file of a descriptor's group, which the catalogue does not list.
_FILES = "files.json"


class Label(NamedTuple):
    """A label that a part holds: one value of ``shape`` per ``atom`` or per ``structure``."""

    name: str
    per: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PartRecord:
    """What the catalogue holds of the structures of a part."""

    part_id: str
    path: str
    n_structures: int
    n_atoms: int
    labels: tuple[Label, ...]
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
    structure_n_atoms, structure_n_pairs : tuple of int or None
        Counts of each structure that has features, where readers need them to find a
        structure: atoms if ``rows`` is not None, pairs if gradients are stored per pair.
    set_aside : mapping of int to SetAside
        Rows of the part that the descriptor cannot describe.
    max_neighbours : int or None
        Limit above which structures were set aside.
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
    structure_n_atoms: tuple[int, ...] | None
    structure_n_pairs: tuple[int, ...] | None
    files: tuple[StoredFile, ...]
    set_aside: Mapping[int, SetAside]
    max_neighbours: int | None
    seconds: float
    versions: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(file.nbytes for file in self.files)


# ----- Structures


def check_label_name(name: str) -> None:
    """Refuse a label that cannot be the name of an array.

    Raises
    ------
    LakeError
        If the name is taken or has characters other than letters, digits, ``_`` and ``-``.
    """
    taken = set(_PLAIN) | {
        "structure_id",
        "structure_index",
        "source",
        "location",
        "key",
        "formula",
    }
    if not _LABEL_NAME.fullmatch(name) or name in taken:
        raise LakeError(
            f"a label cannot be called {name!r}: names of labels start with a letter, go on with "
            f"letters, digits, '_' and '-', and are none of {sorted(taken)}"
        )


def write_structures(lake: layout.Place | str, part_id: str, structures: Structures) -> PartRecord:
    """Write the structures of a part; nobody sees them until the record is published.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    part_id : str
        A fresh ``uuid.uuid4().hex``.
    structures : Structures
        At least one structure.

    Raises
    ------
    LakeError
        If the lake cannot be written, or a label cannot be stored under its name.
    """
    path = layout.structures_path(part_id)
    labels: list[Label] = []
    with writing(lake, path):
        group = GroupWriter(
            layout.resolve(lake, path),
            {"title": "structures", "part_id": part_id, "format_version": layout.FORMAT_VERSION},
        )
        for name in _PLAIN:
            group.write(name, STRUCTURE_VARIABLES[name], getattr(structures, name))
        for per, values in (
            ("structure", structures.structure_labels),
            ("atom", structures.atom_labels),
        ):
            for name, value in sorted(values.items()):
                check_label_name(name)
                label = Label(name, per, value.shape[1:])
                group.write(name, label_variable(label), value)
                labels.append(label)
        files = group.close()
    return PartRecord(
        part_id, path, structures.n_structures, structures.n_atoms, tuple(labels), files
    )


def label_variable(label: Label) -> Variable:
    """Say what the array of a label is."""
    if label.name in LABELS:
        return STRUCTURE_VARIABLES[label.name]
    axes = tuple(f"{label.name}_axis{i}" for i in range(len(label.shape)))
    return Variable((label.per, *axes), "float64", "", label.name)


def read_structures(
    lake: layout.Place | str, part_id: str, rows: Sequence[int] | NDArray[np.int64] | None = None
) -> Structures:
    """Read the structures of a part, or those at ``rows``, in that order.

    Raises
    ------
    LakeError
        If the part is not there or damaged.
    """
    path = layout.structures_path(part_id)
    files = Files(lake)
    values: dict[str, Array] = {}
    labels: dict[str, dict[str, Array]] = {"structure": {}, "atom": {}}
    with reading(f"{path} of {lake}"):
        for name in files.arrays(path):
            array = files.array(path, name)
            if name in _PLAIN:
                values[name] = array.read()
            else:
                labels[array.dims[0]][name] = array.read()
        structures = Structures(
            **values, structure_labels=labels["structure"], atom_labels=labels["atom"]
        )
    return structures if rows is None else structures.take(rows)


# ----- Features


class FeatureWriter:
    """Writes features and gradients of one part, block by block, in whole shards.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    part_id : str
        The part.
    descriptor : Descriptor
        What was computed.
    gradients : Gradients
        Which derivatives will come.
    structures : Structures
        The structures that have features: those of the part, or those at ``rows``.
    pair_offsets : int64 array, shape (n_atoms + 1,)
        Of the pairs within the descriptor's cutoff, over ``structures``.
    rows : sequence of int, optional
        Rows of the part that ``structures`` are; all of them if not given.

    Raises
    ------
    LakeError
        If the lake cannot be written.

    Examples
    --------
    >>> offsets = neighbours.pair_offsets
    >>> writer = FeatureWriter(lake, part_id, soap, gradients, structures, offsets)
    >>> writer.append_pairs(neighbours)
    >>> for first, last in soap.blocks(structures, neighbours, gradients):
    ...     rows = empty_rows(soap, structures, neighbours, first, last, gradients)
    ...     soap.compute_rows(structures, neighbours, first, last, gradients, rows)
    ...     writer.append(rows)
    >>> record = writer.close(seconds=1.0)
    """

    def __init__(
        self,
        lake: layout.Place | str,
        part_id: str,
        descriptor: Descriptor,
        gradients: Gradients,
        structures: Structures,
        pair_offsets: NDArray[np.int64],
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        self.lake = lake
        self.part_id = part_id
        self.descriptor = descriptor
        self.gradients = gradients
        self.structures = structures
        self.pair_offsets = pair_offsets
        self.has_pairs = descriptor.per == "atom" and gradients.positions == "pairs"
        self._n_listed = 0
        self.rows = None if rows is None else tuple(int(row) for row in rows)
        self.path = layout.new_features_path(part_id, descriptor.descriptor_id)
        is_equivariant = descriptor.n_components > 1
        tail = (descriptor.n_components,) * is_equivariant + (descriptor.n_features,)
        n = (
            structures.n_structures
            if descriptor.counts_structures(gradients)
            else structures.n_atoms
        )
        shapes = descriptor.row_shapes(structures, pair_offsets, 0, n, gradients)
        variables = feature_variables(descriptor.per, gradients.positions, is_equivariant)
        with writing(lake, self.path):
            self._group = GroupWriter(
                layout.resolve(lake, self.path),
                descriptor.attributes
                | {"part_id": part_id, "format_version": layout.FORMAT_VERSION},
            )
            self._arrays = {
                name: self._group.stream(
                    name,
                    variable,
                    (*shape[:-1], *tail),
                    descriptor.dtype,
                    FEATURE_CHUNKS if name == "features" else GRADIENT_CHUNKS,
                )
                for (name, variable), shape in zip(
                    variables.items(), cast("tuple[tuple[int, ...], ...]", shapes), strict=True
                )
                if name == "features"
                or (name == "gradient_positions" and gradients.positions != "none")
                or (name == "gradient_strain" and gradients.strain)
            }
            if self.has_pairs:
                n_pairs = int(pair_offsets[-1])
                for name, shape in (("neighbour_index", (n_pairs,)), ("cell_shift", (n_pairs, 3))):
                    variable = PAIR_VARIABLES[name]
                    stream = self._group.stream(name, variable, shape, variable.dtype)
                    self._arrays[name] = stream

    def append_pairs(self, neighbours: Neighbours) -> None:
        """Take the neighbours of the next structures, before, between or after blocks of rows."""
        if self.has_pairs:
            with writing(self.lake, self.path):
                index = neighbours.neighbour_index
                self._arrays["neighbour_index"].append(index + self._n_listed)
                self._arrays["cell_shift"].append(neighbours.cell_shift)
            self._n_listed += len(neighbours.pair_offsets) - 1

    def append(self, rows: Rows) -> None:
        """Take the next block; its arrays may be reused as soon as this returns."""
        with writing(self.lake, self.path):
            for name, block in zip(Rows._fields, rows, strict=True):
                if name in self._arrays:
                    self._arrays[name].append(block)

    def close(
        self,
        *,
        seconds: float,
        set_aside: Mapping[int, SetAside] | None = None,
        max_neighbours: int | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> FeaturesRecord:
        """Write what is left, and return what the catalogue must hold.

        Parameters
        ----------
        seconds : float
            Time that computing and writing took.
        set_aside : mapping of int to SetAside, optional
            Rows of the part that the descriptor cannot describe.
        max_neighbours : int, optional
            Limit above which structures were set aside.
        versions : mapping of str to str, optional
            Software that made the features.

        Raises
        ------
        LakeError
            If rows are missing, or the lake cannot be written.
        """
        structures = self.structures
        with writing(self.lake, self.path):
            for array in self._arrays.values():
                array.finish()
            self._group.write(
                "structure_offsets",
                STRUCTURE_VARIABLES["structure_offsets"],
                structures.structure_offsets,
            )
            if self.has_pairs:
                variable = PAIR_VARIABLES["pair_offsets"]
                self._group.write("pair_offsets", variable, self.pair_offsets)
            files = self._group.close()
        counts = structures.n_atoms_per_structure
        pairs = np.diff(self.pair_offsets[structures.structure_offsets])
        return FeaturesRecord(
            descriptor_id=self.descriptor.descriptor_id,
            kind=self.descriptor.kind,
            part_id=self.part_id,
            path=self.path,
            gradients=self.gradients.positions,
            strain=self.gradients.strain,
            n_structures=structures.n_structures,
            n_rows=self._arrays["features"].shape[0],
            n_pairs=int(self.pair_offsets[-1]) if self.has_pairs else 0,
            rows=self.rows,
            structure_n_atoms=None if self.rows is None else tuple(counts.tolist()),
            structure_n_pairs=tuple(pairs.tolist()) if self.has_pairs else None,
            files=files,
            set_aside=dict(set_aside or {}),
            max_neighbours=max_neighbours,
            seconds=seconds,
            versions=dict(versions or {}),
        )


# ----- Descriptors


def write_descriptor(lake: layout.Place | str, descriptor: Descriptor) -> None:
    """Write labels and parameters of a descriptor once; do nothing if they are there.

    Raises
    ------
    LakeError
        If the lake cannot be written.
    """
    path = layout.descriptor_path(descriptor.descriptor_id)
    root = layout.resolve(lake, path)
    if (root / _FILES).exists():
        return
    columns = descriptor.label_columns()
    # In a bucket nothing can be renamed: the list of the files comes last, and says it is whole.
    temporary = root.with_name(f".{root.name}-{uuid.uuid4().hex[:8]}")
    written = temporary if isinstance(root, Path) else root
    with writing(lake, path):
        group = GroupWriter(
            written,
            descriptor.attributes
            | {
                "format_version": layout.FORMAT_VERSION,
                "per": descriptor.per,
                "dtype": descriptor.dtype,
                "n_features": descriptor.n_features,
                "n_components": descriptor.n_components,
                "species": list(descriptor.species or ()),
            },
        )
        for name, column in columns.items():
            variable = Variable(("feature",), "", column.units, column.long_name)
            group.write(name, variable, column.values)
        files = [file._asdict() for file in group.close()]
        (written / _FILES).write_bytes(json.dumps(files, indent=2).encode())
        if isinstance(root, Path) and isinstance(written, Path):
            try:
                written.rename(root)
            except OSError:
                layout.remove(written)
                if not root.exists():
                    raise


def read_descriptor(lake: layout.Place | str, descriptor_id: str) -> xr.Dataset:
    """Read labels and parameters of a descriptor.

    Raises
    ------
    LakeError
        If they are not there or damaged.
    """
    import xarray as xr

    root = layout.resolve(lake, layout.descriptor_path(descriptor_id))
    with reading(str(root)):
        files = [StoredFile(**entry) for entry in json.loads((root / _FILES).read_bytes())]
    for file in files:
        if problem := file_problem(root, file):
            raise LakeError(
                f"{root / file.name}: {problem[1]}; delete {root} and run the recipe again, which "
                "writes it anew"
            )
    labels = {}
    for name, dims in array_dims(root).items():
        array = open_array(root, name)
        values = read(array, ...)
        if values.dtype.kind == "T":
            values = values.astype(object)
        labels[name] = (dims, values, dict(array.attrs))
    return xr.Dataset(coords=labels, attrs=group_attributes(root))
