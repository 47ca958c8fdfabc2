"""Structures as flat arrays: many structures, one array per property, offsets between them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers as _atomic_numbers
from ase.data import chemical_symbols as _chemical_symbols
from numpy.typing import NDArray

from atomlake.errors import SetAside

if TYPE_CHECKING:
    import ase

#: Chemical symbol of each atomic number; ``"X"`` at 0.
CHEMICAL_SYMBOLS: tuple[str, ...] = tuple(_chemical_symbols)
#: Atomic number of each chemical symbol.
ATOMIC_NUMBERS: Mapping[str, int] = dict(_atomic_numbers)

#: Shape of one structure's value and unit of the labels that have a fixed meaning.
#: ``n`` stands for the number of atoms.
LABELS: Mapping[str, tuple[tuple[int | str, ...], str]] = {
    "energy": ((), "eV"),
    "stress": ((3, 3), "eV/Å^3"),
    "forces": (("n", 3), "eV/Å"),
}

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Structures:
    """A batch of structures.

    Attributes
    ----------
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers.
    positions : float64 array, shape (n_atoms, 3)
        Cartesian positions in Å.
    cells : float64 array, shape (n_structures, 3, 3)
        Cell vectors as rows, in Å; zero rows where there is none.
    pbc : bool array, shape (n_structures, 3)
        Periodicity along each cell vector.
    structure_offsets : int64 array, shape (n_structures + 1,)
        Atoms of structure ``s`` are ``structure_offsets[s]:structure_offsets[s + 1]``.
    structure_labels : mapping of str to float64 array, shape (n_structures, ...)
        Labels of whole structures (``energy`` in eV, ``stress`` in eV/Å³); NaN where absent.
    atom_labels : mapping of str to float64 array, shape (n_atoms, ...)
        Labels of atoms (``forces`` in eV/Å, and what a recipe names); NaN where absent.
    """

    numbers: NDArray[np.int32]
    positions: Floats
    cells: Floats
    pbc: NDArray[np.bool_]
    structure_offsets: Integers
    structure_labels: Mapping[str, Floats] = field(default_factory=dict)
    atom_labels: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures together."""
        return len(self.numbers)

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.cells)

    @property
    def n_atoms_per_structure(self) -> Integers:
        """Number of atoms of each structure, shape (n_structures,)."""
        return np.diff(self.structure_offsets)

    @property
    def structure_index(self) -> Integers:
        """The structure each atom belongs to, shape (n_atoms,)."""
        return np.repeat(np.arange(self.n_structures), self.n_atoms_per_structure)

    def __len__(self) -> int:
        return self.n_structures

    def take(self, rows: Sequence[int] | Integers) -> Structures:
        """Return the structures at ``rows``, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = self.n_atoms_per_structure[rows]
        offsets = _offsets(counts)
        atoms = np.repeat(self.structure_offsets[:-1][rows] - offsets[:-1], counts) + np.arange(
            offsets[-1]
        )
        return Structures(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cells=self.cells[rows],
            pbc=self.pbc[rows],
            structure_offsets=offsets,
            structure_labels={k: v[rows] for k, v in self.structure_labels.items()},
            atom_labels={k: v[atoms] for k, v in self.atom_labels.items()},
        )

    @classmethod
    def concatenate(cls, batches: Sequence[Structures]) -> Structures:
        """Join batches; a label that a batch lacks is NaN for its structures."""
        if not batches:
            return cls.empty()

        def joined(which: str, lengths: list[int]) -> dict[str, Floats]:
            shapes = {k: v.shape[1:] for b in batches for k, v in getattr(b, which).items()}
            return {
                name: np.concatenate(
                    [
                        getattr(b, which).get(name, np.full((n, *shape), np.nan))
                        for b, n in zip(batches, lengths, strict=True)
                    ]
                )
                for name, shape in sorted(shapes.items())
            }

        return cls(
            numbers=np.concatenate([b.numbers for b in batches]),
            positions=np.concatenate([b.positions for b in batches]),
            cells=np.concatenate([b.cells for b in batches]),
            pbc=np.concatenate([b.pbc for b in batches]),
            structure_offsets=_offsets(np.concatenate([b.n_atoms_per_structure for b in batches])),
            structure_labels=joined("structure_labels", [len(b) for b in batches]),
            atom_labels=joined("atom_labels", [b.n_atoms for b in batches]),
        )

    @classmethod
    def empty(cls) -> Structures:
        """Return a batch of no structures."""
        return cls(
            numbers=np.zeros(0, np.int32),
            positions=np.zeros((0, 3)),
            cells=np.zeros((0, 3, 3)),
            pbc=np.zeros((0, 3), bool),
            structure_offsets=np.zeros(1, np.int64),
        )

    @classmethod
    def single(
        cls,
        numbers: Iterable[int] | NDArray[Any],
        positions: Any,
        cell: Any = None,
        pbc: Any = False,
        *,
        structure_labels: Mapping[str, Any] | None = None,
        atom_labels: Mapping[str, Any] | None = None,
    ) -> Structures:
        """Return a batch of one structure, which shares no memory with the arguments.

        Parameters
        ----------
        numbers : sequence of int
            Atomic numbers.
        positions : array, shape (n_atoms, 3)
            Cartesian positions in Å.
        cell : array, shape (3, 3), optional
            Cell vectors as rows in Å; zeros if not given.
        pbc : bool or sequence of 3 bool
            Periodicity.
        structure_labels, atom_labels : mapping, optional
            Labels without the leading structure axis, and per atom.
        """
        z = np.array(numbers, dtype=np.int32).reshape(-1)
        return cls(
            numbers=z,
            positions=np.array(positions, dtype=np.float64, order="C").reshape(len(z), 3),
            cells=np.zeros((1, 3, 3))
            if cell is None
            else np.array(cell, dtype=np.float64).reshape(1, 3, 3),
            pbc=np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).reshape(1, 3).copy(),
            structure_offsets=np.array([0, len(z)], dtype=np.int64),
            structure_labels={
                k: np.array(v, dtype=np.float64)[None] for k, v in (structure_labels or {}).items()
            },
            atom_labels={k: np.array(v, dtype=np.float64) for k, v in (atom_labels or {}).items()},
        )

    @classmethod
    def from_ase(cls, atoms: ase.Atoms | Iterable[ase.Atoms]) -> Structures:
        """Return the geometry of one or many :class:`ase.Atoms`; labels are not taken over."""
        group: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        if not group:
            return cls.empty()
        return cls(
            numbers=np.concatenate([a.numbers for a in group]).astype(np.int32),
            positions=np.concatenate([a.positions for a in group], dtype=np.float64),
            cells=np.array([a.cell.array for a in group], dtype=np.float64),
            pbc=np.array([a.pbc for a in group], dtype=np.bool_),
            structure_offsets=_offsets([len(a.numbers) for a in group]),
        )

    def to_ase(self) -> list[ase.Atoms]:
        """Return every structure as :class:`ase.Atoms`, with energy, forces and stress attached."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.stress import full_3x3_to_voigt_6_stress

        result = []
        for s, (first, last) in enumerate(
            zip(self.structure_offsets[:-1], self.structure_offsets[1:], strict=True)
        ):
            atoms = Atoms(
                numbers=self.numbers[first:last],
                positions=self.positions[first:last],
                cell=self.cells[s],
                pbc=self.pbc[s],
            )
            known = {
                **{k: v[s] for k, v in self.structure_labels.items() if k in LABELS},
                **{k: v[first:last] for k, v in self.atom_labels.items() if k in LABELS},
            }
            known = {k: v for k, v in known.items() if not np.isnan(v).any()}
            if "stress" in known:
                known["stress"] = full_3x3_to_voigt_6_stress(known["stress"])
            if known:
                atoms.calc = SinglePointCalculator(atoms, **known)
            result.append(atoms)
        return result

    def formulas(self) -> list[str]:
        """Chemical formula of each structure in alphabetical order of the symbols."""
        symbols = sorted(CHEMICAL_SYMBOLS)
        rank = np.array([symbols.index(symbol) for symbol in CHEMICAL_SYMBOLS])
        found, counts = np.unique(
            self.structure_index * len(symbols) + rank[self.numbers], return_counts=True
        )
        result = [""] * self.n_structures
        for s, i, n in zip(*divmod(found, len(symbols)), counts, strict=True):
            result[s] += f"{symbols[i]}{n if n > 1 else ''}"
        return result

    def content_hashes(self) -> list[bytes]:
        """16-byte hash of each structure's geometry and labels, independent of its source."""
        structures, atoms = np.arange(self.n_structures + 1), self.structure_offsets
        columns = [
            _cut(self.numbers, atoms),
            _cut(self.positions, atoms),
            _cut(self.cells, structures),
            _cut(self.pbc, structures),
        ]
        for where, offsets in (("structure", structures), ("atom", atoms)):
            labels = getattr(self, f"{where}_labels")
            for name in sorted(labels):
                columns.append(_cut_label(f"{where} {name}", labels[name], offsets))
        return [
            hashlib.blake2b(b"".join(parts), digest_size=16).digest()
            for parts in zip(*columns, strict=True)
        ]


def _cut(array: NDArray[Any], offsets: Integers) -> Iterator[bytes]:
    """Bytes of the rows of an array between two offsets and the next."""
    content, nbytes = array.tobytes(), array.itemsize * math.prod(array.shape[1:])
    for first, last in pairwise((offsets * nbytes).tolist()):
        yield content[first:last]


def _cut_label(title: str, values: Floats, offsets: Integers) -> Iterator[bytes]:
    """As :func:`_cut`, after the label's name; nothing for a structure that has no value."""
    is_known = ~np.isnan(values).all(axis=tuple(range(1, values.ndim)))
    n_known = np.diff(_offsets(is_known)[offsets])
    for content, n in zip(_cut(values, offsets), n_known.tolist(), strict=True):
        yield title.encode() + content if n else b""


def species_numbers(species: Sequence[str | int]) -> NDArray[np.int32]:
    """Atomic numbers of chemical symbols or numbers, in the given order.

    Raises
    ------
    ValueError
        If a symbol is unknown, or a species is listed twice.
    """
    numbers = []
    for entry in species:
        if isinstance(entry, str) and entry not in ATOMIC_NUMBERS:
            raise ValueError(f"unknown chemical symbol {entry!r}")
        number = ATOMIC_NUMBERS[entry] if isinstance(entry, str) else int(entry)
        if not 0 <= number < len(CHEMICAL_SYMBOLS):
            raise ValueError(f"atomic number {number} is not between 0 and 118")
        numbers.append(number)
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"a species is listed twice in {list(species)}")
    return np.array(numbers, dtype=np.int32)


#: Names what :func:`check` and the search for coincident atoms refuse; raised when that changes,
#: so that structures set aside before are looked at again.
CHECKS_VERSION = "1"

#: Two atoms closer than this (Å) count as one site given twice. The shortest real bond,
#: in H2, is 0.74 Å, and databases of compressed cells stay above 0.3 Å.
COINCIDENT_DISTANCE = 0.01
#: A periodic cell whose lattice planes are closer than this (Å) holds no atom of any size.
MIN_PLANE_SPACING = 0.1
#: Coordinates beyond this (Å) leave too few digits for distances between atoms.
MAX_COORDINATE = 1e7


def check(structures: Structures) -> list[SetAside | None]:
    """Say of each structure why it cannot be used, or None.

    Checks what needs no neighbour list: at least one atom, finite numbers, known
    species, and a cell that spans space along every periodic direction. A left-handed
    cell is fine.
    """
    result: list[SetAside | None] = [None] * structures.n_structures
    first_atoms, structure_index = structures.structure_offsets[:-1], structures.structure_index
    numbers, positions, cells = structures.numbers, structures.positions, structures.cells

    def refuse(is_bad: NDArray[np.bool_], code: str, reason: Callable[[int], str]) -> None:
        for s in np.flatnonzero(is_bad).tolist():
            if result[s] is None:
                result[s] = SetAside(code, reason(s))

    def refuse_atoms(
        is_bad: NDArray[np.bool_], code: str, reason: Callable[[int, int], str]
    ) -> None:
        atoms = np.flatnonzero(is_bad)
        n_bad = np.bincount(structure_index[atoms], minlength=structures.n_structures)
        first_bad = dict(
            zip(structure_index[atoms[::-1]].tolist(), atoms[::-1].tolist(), strict=True)
        )

        def of_structure(s: int) -> str:
            n_atoms = structures.n_atoms_per_structure[s]
            return (
                f"{reason(first_bad[s], first_bad[s] - int(first_atoms[s]))}"
                f" ({n_bad[s]} of {n_atoms} atoms)"
            )

        refuse(n_bad > 0, code, of_structure)

    refuse(structures.n_atoms_per_structure == 0, "empty", lambda s: "the structure has no atoms")
    refuse_atoms(
        (numbers < 0) | (numbers >= len(CHEMICAL_SYMBOLS)),
        "unknown_species",
        lambda atom, i: (
            f"atomic numbers must be 0 to {len(CHEMICAL_SYMBOLS) - 1}, but that of "
            f"atom {i} is {numbers[atom]}"
        ),
    )
    refuse_atoms(
        ~np.isfinite(positions).all(axis=1),
        "non_finite_position",
        lambda atom, i: (
            f"positions must be finite, but that of atom {i} is {positions[atom].tolist()}"
        ),
    )
    refuse(
        ~np.isfinite(cells).all(axis=(1, 2)),
        "non_finite_cell",
        lambda s: f"cell vectors must be finite, but they are {cells[s].tolist()}",
    )
    refuse_atoms(
        np.abs(positions).max(axis=1, initial=0) > MAX_COORDINATE,
        "position_out_of_range",
        lambda atom, i: (
            f"atoms must be within {MAX_COORDINATE:g} Å of the origin, but atom {i} is "
            f"at {positions[atom].tolist()}; check the unit of length"
        ),
    )
    spacings = np.full((structures.n_structures, 3), np.inf)
    is_periodic = structures.pbc.any(axis=1)
    if is_periodic.any():
        spacings[is_periodic] = plane_spacings(cells[is_periodic], structures.pbc[is_periodic])
    refuse(
        (structures.pbc & ~(spacings >= MIN_PLANE_SPACING)).any(axis=1),
        "degenerate_cell",
        lambda s: (
            "a periodic cell must have lattice planes at least "
            f"{MIN_PLANE_SPACING} Å apart, but along the periodic directions they are "
            f"{[float(f'{d:.3g}') for d in spacings[s][structures.pbc[s]]]} Å apart; "
            "set pbc to false or give the cell"
        ),
    )
    return result


def completed_cells(cells: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Replace the vectors of non-periodic directions by unit vectors normal to the rest.

    The result spans space whenever the periodic vectors are linearly independent, and
    its fractional coordinates along periodic directions do not depend on what the cell
    held along the others.

    Parameters
    ----------
    cells : float64 array, shape (n_structures, 3, 3)
    pbc : bool array, shape (n_structures, 3)
    """
    result = np.array(cells, dtype=np.float64)
    result[~pbc.any(axis=1)] = np.eye(3)
    with np.errstate(all="ignore"):
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            is_wire = pbc[:, a] & ~pbc[:, b] & ~pbc[:, c]
            if is_wire.any():
                along = result[is_wire, a]
                apart = np.eye(3)[np.argmin(np.abs(along), axis=1)]
                result[is_wire, b] = _unit_vectors(np.cross(apart, along))
                result[is_wire, c] = _unit_vectors(np.cross(along, result[is_wire, b]))
            is_slab = ~pbc[:, a] & pbc[:, b] & pbc[:, c]
            if is_slab.any():
                normal = np.cross(result[is_slab, b], result[is_slab, c])
                result[is_slab, a] = _unit_vectors(normal)
    return result


def plane_spacings(cells: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Distance between lattice planes along each direction, in Å; 0 if the cell is degenerate.

    Parameters
    ----------
    cells : float64 array, shape (n_structures, 3, 3)
    pbc : bool array, shape (n_structures, 3)

    Returns
    -------
    float64 array, shape (n_structures, 3)
    """
    full = completed_cells(cells, pbc)
    with np.errstate(all="ignore"):
        areas = [
            np.linalg.norm(np.cross(full[:, (a + 1) % 3], full[:, (a + 2) % 3]), axis=1)
            for a in range(3)
        ]
        spacings: Floats = np.abs(np.linalg.det(full))[:, None] / np.stack(areas, axis=1)
    return np.nan_to_num(spacings, nan=0.0)


def _unit_vectors(vectors: Floats) -> Floats:
    units: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _offsets(counts: Any) -> Integers:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
