"""What is measured: a code, set up for some structures, and a family of codes to compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import ase
import numpy as np
from numpy.typing import NDArray

from atomlake.descriptors.base import Descriptor, Gradients, RowMemory, empty_rows
from atomlake.neighbours import Neighbours, find_neighbours
from atomlake.structures import Structures

Array = NDArray[Any]

#: Rows that are computed before their memory is used again.
BLOCK_NBYTES = 8 * 2**20
#: Centres whose gradients are compared.
N_COMPARED = 3


class Impossible(Exception):
    """A code cannot describe these structures; the message says why."""


class Code(ABC):
    """A code, set up for some structures.

    Structures are converted to what the code takes when it is set up, unless the code itself
    takes ``ase.Atoms``; neighbour lists are always part of what is timed.
    """

    #: As in the table.
    name: ClassVar[str]
    #: The installed package whose version is stated.
    package: ClassVar[str]
    #: Of ``features``, ``positions``, ``strain``, ``pairs``; gradients include the features.
    quantities: ClassVar[tuple[str, ...]] = ("features",)
    #: Largest difference to atomlake's features or pairs, relative to the norm of a row.
    tolerance: ClassVar[float] = 1e-9
    #: The same of gradients.
    gradient_tolerance: ClassVar[float] = 1e-9
    #: Why numbers are not compared, or what else the reader of the table has to know.
    remark: ClassVar[str] = ""

    def __init__(self, structures: list[ase.Atoms]) -> None:
        self.structures = structures

    def prepare(self, quantity: str) -> None:  # noqa: B027
        """Do what is not timed and needed before each call of :meth:`compute`."""

    @abstractmethod
    def compute(self, quantity: str) -> Any:
        """Describe all structures."""

    def nbytes(self, quantity: str) -> float:
        """Return the size of the largest array that :meth:`compute` needs."""
        return 0.0

    def growth(self, quantity: str) -> float:
        """Return the power of its number of atoms that the time of a structure grows with."""
        return 1.0

    def effort(self, quantity: str) -> float:
        """Return about how many times longer than the features it takes."""
        return 1.0

    def twin(self, quantity: str) -> Code | None:
        """Return atomlake with the conventions of this code, or None if it has not got them."""
        return None

    def numbers(self, quantity: str) -> Array:
        """Return what a comparison looks at, rows along the last axis.

        Of the first structure: ``features`` (n_rows, n_features); of its first
        :data:`N_COMPARED` rows ``positions`` (n_rows, n_atoms, 3, n_features) and ``strain``
        (n_rows, 3, 3, n_features). Rows are atoms or the structure.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Family:
    """Codes that compute the same thing.

    Attributes
    ----------
    name : str
        As in the table.
    parameters : str
        What was computed, for the reader of the table.
    targets : dict
        For each quantity how many times faster than the fastest peer atomlake wants to be;
        0 where nothing is promised.
    ours : callable
        Sets up atomlake for structures.
    peers : tuple of Code classes
        The others.
    periodic_targets : dict
        Targets for crystals and slabs, where they differ.
    """

    name: str
    parameters: str
    targets: Mapping[str, float]
    ours: Callable[[list[ase.Atoms]], Code]
    peers: tuple[type[Code], ...]
    periodic_targets: Mapping[str, float] = field(default_factory=dict)

    def target(self, quantity: str, is_periodic: bool) -> float:
        """Return how many times faster than the fastest peer atomlake wants to be, or 0."""
        special = self.periodic_targets if is_periodic else {}
        return special.get(quantity, self.targets[quantity])


class Atomlake(Code):
    """A descriptor of atomlake, as the pipeline calls it: in blocks that use the same memory."""

    name = "atomlake"
    package = "atomlake"
    quantities = ("features", "positions", "strain")

    def __init__(
        self,
        descriptor: Descriptor,
        structures: list[ase.Atoms],
        *,
        is_summed: bool = False,
        growth: float = 1.0,
    ) -> None:
        super().__init__(structures)
        self.descriptor = descriptor
        self.positions = Gradients("summed" if is_summed else "pairs")
        self._growth = growth
        self.batch = Structures.from_ase(structures)
        problems = [problem for problem in descriptor.check(self.batch) if problem]
        if problems:
            raise Impossible(problems[0].reason)
        self._memory: dict[str, RowMemory] = {}

    def wanted(self, quantity: str) -> Gradients:
        """Return the derivatives of a quantity."""
        strain = Gradients("none", True)
        return {"features": Gradients(), "positions": self.positions, "strain": strain}[quantity]

    def prepare(self, quantity: str) -> None:
        """Keep memory for one quantity at a time."""
        if quantity not in self._memory:
            self._memory = {
                quantity: RowMemory(self.descriptor, self.wanted(quantity), BLOCK_NBYTES)
            }

    def compute(self, quantity: str) -> None:
        """Find neighbours and compute all rows."""
        neighbours, memory = self._neighbours(), self._memory[quantity]
        for block in self._blocks(quantity, neighbours):
            memory.compute(self.batch, neighbours, *block)

    def nbytes(self, quantity: str) -> float:
        """Return the size of the largest block."""
        neighbours, wanted = self._neighbours(), self.wanted(quantity)
        shapes = [
            self.descriptor.row_shapes(self.batch, neighbours.pair_offsets, *block, wanted)
            for block in self._blocks(quantity, neighbours)
        ]
        largest = max(sum(float(np.prod(part)) for part in shape) for shape in shapes)
        return largest * np.dtype(self.descriptor.dtype).itemsize

    def growth(self, quantity: str) -> float:
        """Return what was said when this was set up."""
        return self._growth

    def numbers(self, quantity: str) -> Array:
        """Return rows of the first structure; those of pairs are summed over images."""
        one = self.batch.take([0])
        neighbours, _ = find_neighbours(one, self.descriptor.cutoff)
        wanted, descriptor = self.wanted(quantity), self.descriptor
        n = one.n_structures if descriptor.counts_structures(wanted) else one.n_atoms
        n = n if quantity == "features" else min(n, N_COMPARED)
        rows = empty_rows(descriptor, one, neighbours, 0, n, wanted)
        descriptor.compute_rows(one, neighbours, 0, n, wanted, rows)
        if quantity == "features":
            return rows.features
        if quantity == "strain":
            return rows.gradient_strain
        if descriptor.counts_structures(wanted):
            return rows.gradient_positions[np.newaxis]
        return by_atom(rows.gradient_positions, neighbours, n)

    def _neighbours(self) -> Neighbours:
        return find_neighbours(self.batch, self.descriptor.cutoff)[0]

    def _blocks(self, quantity: str, neighbours: Neighbours) -> list[tuple[int, int]]:
        wanted = self.wanted(quantity)
        return list(self.descriptor.blocks(self.batch, neighbours, wanted, BLOCK_NBYTES))


def by_atom(rows: Array, neighbours: Neighbours, n_centres: int) -> Array:
    """Turn rows of pairs into ``d p_i / d r_a`` of the first centres and every atom."""
    offsets = neighbours.pair_offsets
    dense = np.zeros((n_centres, len(offsets) - 1, *rows.shape[1:]))
    for i in range(n_centres):
        pairs = slice(offsets[i], offsets[i + 1])
        np.add.at(dense[i], neighbours.neighbour_index[pairs], rows[pairs])
        dense[i, i] -= rows[pairs].sum(axis=0)
    return dense


def difference(expected: Array, actual: Array) -> float:
    """Return the largest difference relative to the largest norm of a row."""
    if expected.shape != actual.shape:
        raise AssertionError(f"shapes {expected.shape} and {actual.shape} differ")
    norm = np.linalg.norm(expected, axis=-1).max()
    return float(np.abs(expected - actual).max() / norm) if norm else float(np.abs(actual).max())
