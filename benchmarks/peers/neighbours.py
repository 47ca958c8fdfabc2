"""Neighbour lists: vesin, matscipy and ase."""

from __future__ import annotations

from typing import Any

import ase
import matscipy.neighbours
import numpy as np
import vesin
from ase.neighborlist import neighbor_list

from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

from .codes import Array, Code, Family
from .soap import in_a_box

CUTOFF = 5.0


class List(Code):
    """Every ordered pair with its cell shift, vector and distance."""

    quantities = ("pairs",)

    def pairs(self, atoms: ase.Atoms) -> Any:
        """Return first and second atoms, cell shifts, vectors and distances."""
        raise NotImplementedError

    def compute(self, quantity: str) -> Any:
        """List structure by structure."""
        for atoms in self.structures:
            self.pairs(atoms)

    def twin(self, quantity: str) -> Code:
        """Return atomlake: there is one convention."""
        return Atomlake(self.structures)

    def numbers(self, quantity: str) -> Array:
        """Return rows of atoms, shift and distance in ascending order."""
        first, second, shift, _, distance = self.pairs(self.structures[0])
        rows = np.column_stack([first, second, shift, distance])
        return rows[np.lexsort(rows.T[4::-1])]


class Atomlake(List):
    """Atomlake's own, of all structures at once."""

    name = "atomlake"
    package = "atomlake"

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.batch = Structures.from_ase(structures)

    def compute(self, quantity: str) -> None:
        """List all structures at once."""
        found, _ = find_neighbours(self.batch, CUTOFF)
        # They are not written before they are asked for.
        _ = found.vectors, found.cell_shift

    def pairs(self, atoms: ase.Atoms) -> Any:
        """Return the arrays of one structure."""
        found, _ = find_neighbours(Structures.from_ase(atoms), CUTOFF)
        first = np.repeat(np.arange(len(atoms)), found.counts)
        return first, found.neighbour_index, found.cell_shift, found.vectors, found.distances


class Vesin(List):
    """vesin, in whatever order it finds pairs, which is faster than by centre."""

    name = "vesin"
    package = "vesin"

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.list = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=False, n_threads=1)

    def pairs(self, atoms: ase.Atoms) -> Any:
        """Return the arrays of one structure."""
        return self.list.compute(
            points=atoms.positions,
            box=atoms.cell.array,
            periodic=atoms.pbc,
            quantities="ijSDd",
            copy=True,
        )


class Matscipy(List):
    """matscipy, which needs a cell."""

    name = "matscipy"
    package = "matscipy"

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__([in_a_box(atoms, 2.0) for atoms in structures])

    def pairs(self, atoms: ase.Atoms) -> Any:
        """Return the arrays of one structure."""
        return matscipy.neighbours.neighbour_list("ijSDd", atoms, CUTOFF)


class Ase(List):
    """ase, in Python and numpy."""

    name = "ase"
    package = "ase"

    def pairs(self, atoms: ase.Atoms) -> Any:
        """Return the arrays of one structure."""
        return neighbor_list("ijSDd", atoms, CUTOFF)


FAMILIES = (
    Family(
        "neighbour lists",
        "all ordered pairs within 5 Å, with cell shifts, vectors and distances",
        {"pairs": 2.0},
        Atomlake,
        (Vesin, Matscipy, Ase),
    ),
)
