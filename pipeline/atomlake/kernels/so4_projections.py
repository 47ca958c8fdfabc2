"""How neighbours are placed on the 3-sphere: the :class:`~atomlake.kernels.so4.Projection`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import kernel
from atomlake.kernels.cutoffs import cutoff_functions
from atomlake.kernels.elementary import cosine_turn, sine_turn
from atomlake.kernels.so4 import Projection

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def empty_projection(n_pairs: int) -> Projection:
    """Allocate a projection of ``n_pairs`` pairs."""
    return Projection(*(np.empty(n_pairs) for _ in Projection._fields))


@kernel
def project_linearly(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    distances: Floats,
    numbers: NDArray[np.int32],
    radii: Floats,
    weights: Floats,
    largest_angle: float,
    inner_radius: float,
    is_switched: bool,
    inner_switch: Floats,
    projection: Projection,
) -> None:
    """Place neighbours at an angle linear in the distance (Thompson et al. 2015, Eqs. 1 and 5).

    Parameters
    ----------
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers; what follows per species is indexed by them.
    radii, weights : array
        A pair counts up to the sum of its atoms' radii, in Å, with the neighbour's weight.
    largest_angle : float
        θ at the cutoff, in units of π; θ is 0 at ``inner_radius``.
    inner_radius : float
        Distance in Å up to which neighbours count fully.
    is_switched : bool
        Whether neighbours fade out by half a cosine between there and the cutoff.
    inner_switch : array, shape (2, n_numbers) or (2, 0)
        Centre and half width in Å of the interval where neighbours fade in, the mean over both
        atoms; not at all if there are no columns.
    projection : Projection
        Output, for the pairs of the centres ``first:last``.
    """
    start = pair_offsets[first]
    for i in range(first, last):
        for pair in range(pair_offsets[i], pair_offsets[i + 1]):
            at, r = pair - start, distances[pair]
            z_i, z_j = numbers[i], numbers[neighbour_index[pair]]
            cutoff = radii[z_i] + radii[z_j]
            inverse_width = 1.0 / (cutoff - inner_radius)
            x = (r - inner_radius) * inverse_width
            # Turns of 2 π do not matter; atoms inside of inner_radius lie at negative angles.
            turn = largest_angle * x
            turn -= 2.0 * np.floor(0.5 * turn + 0.5)
            sine = sine_turn(abs(turn))
            projection.sine[at] = sine if turn > 0.0 else -sine
            projection.cosine[at] = cosine_turn(abs(turn))
            projection.turn[at] = math.pi * largest_angle * inverse_width
            weight, fade = 1.0, 0.0
            if is_switched:
                x = min(max(x, 0.0), 1.0)
                weight = 0.5 + 0.5 * cosine_turn(x)
                fade = -0.5 * math.pi * inverse_width * sine_turn(x)
            if inner_switch.shape[1] > 0:
                middle = 0.5 * (inner_switch[0, z_i] + inner_switch[0, z_j])
                half_width = 0.5 * (inner_switch[1, z_i] + inner_switch[1, z_j])
                x = min(max(0.5 + 0.5 * (r - middle) / half_width, 0.0), 1.0)
                inner = 0.5 - 0.5 * cosine_turn(x)
                fade = fade * inner + weight * 0.25 * math.pi / half_width * sine_turn(x)
                weight *= inner
            scale = weights[z_j] if r < cutoff else 0.0
            projection.weight[at] = scale * weight
            projection.fade[at] = scale * fade


@kernel
def project_by_arcsine(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    distances: Floats,
    numbers: NDArray[np.int32],
    weights: Floats,
    cutoff: float,
    cutoff_code: int,
    cutoff_parameter: float,
    projection: Projection,
) -> None:
    """Place neighbours at the rotation angle ``2 θ = arcsin(r / cutoff)``.

    Parameters
    ----------
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers.
    weights : array, shape (n_numbers, n_numbers)
        What a neighbour counts for: ``[centre, neighbour]``, by atomic numbers.
    cutoff, cutoff_code, cutoff_parameter
        As in :func:`atomlake.kernels.cutoffs.cutoff_functions`.
    projection : Projection
        Output, for the pairs of the centres ``first:last``.
    """
    start, end = pair_offsets[first], pair_offsets[last]
    cutoff_functions(
        cutoff_code,
        cutoff_parameter,
        cutoff,
        distances[start:end],
        end - start,
        projection.weight,
        projection.fade,
    )
    for i in range(first, last):
        for pair in range(pair_offsets[i], pair_offsets[i + 1]):
            at, r = pair - start, distances[pair]
            # (cutoff - r)(cutoff + r) stays above 0 where 1 - (r / cutoff)² is rounded.
            root = math.sqrt((cutoff - r) * (cutoff + r))
            cosine = math.sqrt(0.5 + 0.5 * root / cutoff)
            projection.cosine[at] = cosine
            projection.sine[at] = 0.5 * r / (cutoff * cosine)
            projection.turn[at] = 0.5 / root
            weight = weights[numbers[i], numbers[neighbour_index[pair]]]
            projection.weight[at] *= weight
            projection.fade[at] *= weight
