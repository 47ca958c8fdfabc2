"""Sums over the centres of a structure, from rows per centre and rows per pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@kernel
def sum_features(
    features: Floats,
    structure_index: Integers,
    weights: Floats,
    first_centre: int,
    first_structure: int,
    total: Floats,
) -> None:
    """Add each centre's features, weighted by its structure, to its structure's row."""
    for i in range(features.shape[0]):
        s = structure_index[first_centre + i]
        w = weights[s]
        for f in range(features.shape[1]):
            total[s - first_structure, f] += w * features[i, f]


@kernel
def sum_pair_gradients(
    gradients: Floats,
    pair_offsets: Integers,
    neighbour_index: Integers,
    structure_index: Integers,
    group: Integers,
    weights: Floats,
    first_centre: int,
    last_centre: int,
    first_atom: int,
    total: Floats,
) -> None:
    """Add rows per pair to the neighbour's atom and subtract them from the centre's.

    Parameters
    ----------
    gradients : array, shape (n_pairs of the centres, 3, n_values)
        ``d p_i / d r_j`` for each image of j.
    group : array, shape (n_atoms,)
        Column of ``total`` that each centre contributes to.
    total : array, shape (n_atoms, n_groups, 3, n_values)
        Row ``a - first_atom`` receives ``sum_i w_i d p_i / d r_a``.
    """
    start = pair_offsets[first_centre]
    for i in range(first_centre, last_centre):
        w = weights[structure_index[i]]
        g = group[i]
        centre = i - first_atom
        for pair in range(pair_offsets[i], pair_offsets[i + 1]):
            atom = neighbour_index[pair] - first_atom
            if atom == centre:
                continue
            # One loop for each of the two rows: LLVM cannot know that they are not the same.
            for x in range(3):
                for f in range(gradients.shape[2]):
                    total[atom, g, x, f] += w * gradients[pair - start, x, f]
                for f in range(gradients.shape[2]):
                    total[centre, g, x, f] -= w * gradients[pair - start, x, f]


@kernel
def sum_strain_gradients(
    gradients: Floats,
    structure_index: Integers,
    group: Integers,
    weights: Floats,
    first_centre: int,
    first_structure: int,
    total: Floats,
) -> None:
    """Add each centre's strain derivative to its structure's row and its group."""
    for i in range(gradients.shape[0]):
        s = structure_index[first_centre + i]
        w = weights[s]
        g = group[first_centre + i]
        for a in range(3):
            for b in range(3):
                for f in range(gradients.shape[3]):
                    total[s - first_structure, g, a, b, f] += w * gradients[i, a, b, f]
