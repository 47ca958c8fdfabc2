"""Neighbour lists over batches of structures.

The pair convention is ``r_ij = r_j - r_i + S · H`` with ``S`` the integer cell shift and
``H`` the cell vectors as rows. Every ordered pair within the cutoff is listed, an atom's
own periodic images included, an atom itself (``j = i``, ``S = 0``) never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from atomlake.errors import SetAside
from atomlake.kernels import neighbours as kernels
from atomlake.structures import COINCIDENT_DISTANCE, Structures

#: For kernels that take vectors, where they are not needed.
NO_VECTORS = np.empty((0, 3))
#: Neighbours of an atom that there is room for at first, on average over a batch.
_EXPECTED_PER_ATOM = 64


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of every atom of a batch of structures.

    The pairs of a centre are in an order that depends on its structure alone: neither on
    the rest of the batch nor on the cutoff. Vectors and cell shifts take most of the memory and
    not everybody needs them: they are written when they are first asked for.

    Attributes
    ----------
    cutoff : float
        Pairs with ``distances < cutoff`` are listed, in Å.
    pair_offsets : int64 array, shape (n_atoms + 1,)
        Pairs of centre ``i`` are ``pair_offsets[i]:pair_offsets[i + 1]``.
    neighbour_index : int64 array, shape (n_pairs,)
        The neighbour, as an atom of the batch.
    distances : float64 array, shape (n_pairs,)
        Length of ``vectors`` in Å.
    """

    cutoff: float
    pair_offsets: NDArray[np.int64]
    neighbour_index: NDArray[np.int64]
    distances: NDArray[np.float64]
    _images: NDArray[np.int32]
    _batch: kernels.Batch

    @classmethod
    def _of(cls, cutoff: float, pairs: kernels.Pairs, batch: kernels.Batch) -> Neighbours:
        n = int(pairs.offsets[-1])
        distances, atoms, images = pairs.distances[:n], pairs.atoms[:n], pairs.images[:n]
        return cls(cutoff, pairs.offsets, atoms, distances, images, batch)

    @cached_property
    def vectors(self) -> NDArray[np.float64]:
        """``r_ij`` in Å, from the centre to the neighbour, shape (n_pairs, 3)."""
        vectors = kernels.empty_doubles(3 * self.n_pairs).reshape(-1, 3)
        kernels.write_vectors(self._batch, self.pair_offsets, self._images, vectors)
        return vectors

    @cached_property
    def cell_shift(self) -> NDArray[np.int32]:
        """Multiples of the cell vectors added to the neighbour's position, shape (n_pairs, 3)."""
        n = 3 * self.n_pairs
        shifts = kernels.empty_doubles(-(-n // 2)).view(np.int32)[:n].reshape(-1, 3)
        kernels.write_cell_shifts(self._batch, self.pair_offsets, self._images, shifts)
        return shifts

    @property
    def n_pairs(self) -> int:
        """Number of ordered pairs."""
        return len(self.neighbour_index)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of neighbours of each centre, shape (n_atoms,)."""
        return np.diff(self.pair_offsets)

    @cached_property
    def max_count(self) -> int:
        """Most neighbours of a centre."""
        return int(self.counts.max(initial=0))

    def within(self, cutoff: float) -> Neighbours:
        """Return the pairs closer than a smaller cutoff, in the same order.

        The result is what :func:`find_neighbours` returns for that cutoff, bit by bit.

        Raises
        ------
        ValueError
            If ``cutoff`` is greater than that of this list.
        """
        if not 0 <= cutoff <= self.cutoff:
            raise ValueError(
                f"a list of the pairs within {self.cutoff} Å does not hold those within {cutoff} Å"
            )
        if cutoff == self.cutoff:
            return self
        cutoff = float(cutoff)
        counts = np.empty(len(self.pair_offsets) - 1, dtype=np.int64)
        kernels.count_within(self.distances, self.pair_offsets, cutoff, counts)
        pairs = kernels.empty_pairs(len(counts), int(counts.sum()))
        np.cumsum(counts, out=pairs.offsets[1:])
        kernels.list_within(self.distances, self.neighbour_index, self._images, cutoff, pairs)
        return Neighbours._of(cutoff, pairs, self._batch)


def find_neighbours(
    structures: Structures, cutoff: float, *, max_neighbours: int = 2000
) -> tuple[Neighbours, list[SetAside | None]]:
    """List all pairs of atoms closer than ``cutoff``.

    Parameters
    ----------
    structures : Structures
        Structures that passed :func:`atomlake.structures.check`.
    cutoff : float
        Distance in Å. Coincident atoms are found whatever the cutoff, even 0.
    max_neighbours : int
        A structure with an atom of more neighbours than this is set aside.

    Returns
    -------
    neighbours : Neighbours
        A structure that is set aside has no pairs.
    set_aside : list of SetAside or None, one per structure
        Structures with coincident atoms or with too many neighbours.

    Raises
    ------
    ValueError
        If ``cutoff`` is negative or not finite.
    """
    if not 0 <= cutoff < math.inf:
        raise ValueError(f"a cutoff must be a finite distance in Å, not {cutoff}")
    cutoff = float(cutoff)
    n_structures, n_atoms = structures.n_structures, structures.n_atoms
    pbc, offsets = _plain(structures.pbc), _plain(structures.structure_offsets)
    reach = max(cutoff, COINCIDENT_DISTANCE)
    limits = _least_square(reach), _least_square(COINCIDENT_DISTANCE)
    placed = kernels.empty_placed(n_atoms, n_structures)
    states = np.empty(n_structures, dtype=np.int8)
    kernels.place_structures(
        _plain(structures.positions),
        _plain(structures.cells),
        pbc,
        offsets,
        reach,
        max_neighbours,
        placed,
        states,
    )
    batch = kernels.Batch(placed, pbc, offsets, kernels.empty_images(placed, states), states)
    witnesses = np.empty((n_structures, 5), dtype=np.int64)
    room = batch.images.most_of_structure
    pairs = kernels.empty_pairs(n_atoms, _EXPECTED_PER_ATOM * n_atoms, room)
    n_done = kernels.find_pairs(batch, *limits, max_neighbours, 0, witnesses, pairs)
    while n_done < n_atoms:
        # As many for each atom as there were so far, and a tenth more.
        expected = int(1.1 * pairs.offsets[n_done] / n_done * n_atoms)
        pairs = kernels.moved(pairs, n_done, kernels.empty_pairs(n_atoms, expected, room))
        n_done = kernels.find_pairs(batch, *limits, max_neighbours, n_done, witnesses, pairs)
    set_aside: list[SetAside | None] = [None] * n_structures
    for s in np.flatnonzero(states != kernels.FINE).tolist():
        if states[s] == kernels.COINCIDENT:
            set_aside[s] = _coincident(structures, s, witnesses[s])
        elif states[s] == kernels.TOO_MANY:
            found = f"atom {witnesses[s, 0]} has {witnesses[s, 1]} neighbours within {cutoff:g} Å"
            set_aside[s] = _too_many(found, max_neighbours)
        else:
            found = (
                f"about {placed.n_images[s]:.2g} atoms, periodic images included, are within "
                f"{cutoff:g} Å of the box of its {structures.n_atoms_per_structure[s]} atoms"
            )
            set_aside[s] = _too_many(found, max_neighbours)
    return Neighbours._of(cutoff, pairs, batch), set_aside


def _plain[Type: np.generic](array: NDArray[Type]) -> NDArray[Type]:
    """Return the array, or a copy if kernels would be compiled anew for its layout or flags."""
    return np.require(array, requirements=("C", "W"))


def _least_square(distance: float) -> float:
    """Return the least number whose square root is not below ``distance``.

    Squares below it are exactly those of distances below ``distance``.
    """
    square = distance * distance
    while math.sqrt(square) >= distance:
        square = math.nextafter(square, 0)
    while math.sqrt(square) < distance:
        square = math.nextafter(square, math.inf)
    return square


def _coincident(structures: Structures, s: int, witness: NDArray[np.int64]) -> SetAside:
    first = structures.structure_offsets[s]
    i, j, shift = int(witness[0]), int(witness[1]), witness[2:]
    vector = structures.positions[first + j] - structures.positions[first + i]
    # A shift along a free direction is 0, whatever its cell vector is.
    distance = float(np.linalg.norm(vector + shift @ structures.cells[s]))
    other = f"atom {j}"
    if shift.any():
        other = f"the image of atom {j} shifted by {shift.tolist()} cells"
    return SetAside(
        "coincident_atoms",
        f"atom {i} and {other} are {distance:.2g} Å apart, and atoms closer than "
        f"{COINCIDENT_DISTANCE:g} Å count as one site given twice; remove one of them",
    )


def _too_many(found: str, max_neighbours: int) -> SetAside:
    return SetAside(
        "too_many_neighbours",
        f"{found}, and at most {max_neighbours} neighbours are accepted; check the cell and the "
        "unit of length, use a smaller cutoff, or raise max_neighbours",
    )
