"""Neighbour lists over batches of structures.

The pair convention is ``r_ij = r_j - r_i + S · H`` with ``S`` the integer cell shift and
``H`` the cell vectors as rows. Every ordered pair within the cutoff is listed, an atom's
own periodic images included, an atom itself (``j = i``, ``S = 0``) never.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomlake.errors import SetAside
from atomlake.structures import Structures


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of every atom of a batch of structures.

    Attributes
    ----------
    cutoff : float
        Pairs with ``distances < cutoff`` are listed, in Å.
    pair_offsets : int64 array, shape (n_atoms + 1,)
        Pairs of centre ``i`` are ``pair_offsets[i]:pair_offsets[i + 1]``.
    neighbour_index : int64 array, shape (n_pairs,)
        The neighbour, as an atom of the batch.
    cell_shift : int32 array, shape (n_pairs, 3)
        Integer multiples of the cell vectors added to the neighbour's position.
    vectors : float64 array, shape (n_pairs, 3)
        ``r_ij`` in Å, from the centre to the neighbour.
    distances : float64 array, shape (n_pairs,)
        Length of ``vectors`` in Å.
    """

    cutoff: float
    pair_offsets: NDArray[np.int64]
    neighbour_index: NDArray[np.int64]
    cell_shift: NDArray[np.int32]
    vectors: NDArray[np.float64]
    distances: NDArray[np.float64]

    @property
    def n_pairs(self) -> int:
        """Number of ordered pairs."""
        return len(self.neighbour_index)

    def within(self, cutoff: float) -> Neighbours:
        """Return the pairs closer than a smaller cutoff, in the same order."""
        raise NotImplementedError


def find_neighbours(
    structures: Structures, cutoff: float, *, max_neighbours: int = 2000
) -> tuple[Neighbours, list[SetAside | None]]:
    """List all pairs of atoms closer than ``cutoff``.

    Parameters
    ----------
    structures : Structures
        Structures that passed :func:`atomlake.structures.check`.
    cutoff : float
        Distance in Å.
    max_neighbours : int
        A structure with an atom of more neighbours than this is set aside.

    Returns
    -------
    neighbours : Neighbours
        A structure that is set aside has no pairs.
    set_aside : list of SetAside or None, one per structure
        Structures with coincident atoms or with too many neighbours.
    """
    raise NotImplementedError
