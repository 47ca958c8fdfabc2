"""Chebyshev expansions of the distances and angles around an atom.

The angular functions are sums over pairs of neighbours, ``Σ_{j<k} h_j h_k T_n(cos θ_jk)``.
With ``T_n = Σ_l a_nl P_l`` and the addition theorem of the spherical harmonics such a sum is

    ½ Σ_l b_nl Σ_m A_lm² - ½ Σ_j h_j²,    A_lm = Σ_j h_j Y_lm(j),    b_nl = 4π / (2l + 1) a_nl,

so that both the value and the gradient take one pass over the neighbours, not one over
their pairs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel, summing
from atomlake.kernels.cutoffs import cutoff_functions
from atomlake.kernels.harmonics import solid_gradients, spherical_harmonics
from atomlake.kernels.lanes import LANES, broadcast, load, n_padded, pointer, store

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Rows of :attr:`Workspace.sides` and :attr:`Workspace.arms`.
_VALUE, _SLOPE, _VALUE_BY_R = range(3)


class Envelope(NamedTuple):
    """A cutoff function, in the terms of :mod:`atomlake.kernels.cutoffs`."""

    code: int
    parameter: float
    cutoff: float


class Workspace(NamedTuple):
    """Room for one centre, whose neighbours inside both cutoffs come first.

    Lists of neighbours end at a whole block of eight, where lanes beyond the last neighbour
    count for nothing.

    Attributes
    ----------
    directions : float64 array, shape (n_blocks, 3, 8)
        Unit vectors.
    distances : float64 array, shape (capacity,)
        In Å.
    place : int64 array, shape (capacity,)
        Place of each neighbour in the centre's list of pairs.
    envelope : float64 array, shape (2, capacity)
        Cutoff function and its derivative by the distance.
    sides, arms : float64 array, shape (3, n_channels, capacity)
        Weight times cutoff function for distances and for angles, the same with the derivative
        of the cutoff function, and the first divided by the distance.
    table : float64 array, shape (2, n_radial, capacity)
        Radial polynomials and their derivatives by the distance.
    harmonics : float64 array
        Rows of eight: Y_lm of every block, then the derivatives by x, y and z of one block.
    density : float64 array, shape (n_channels, n_harmonics)
        A_lm.
    projected : float64 array, shape (n_angular, 4, 8)
        ``Σ_m A_lm Y_lm`` of each l, and the same with the derivatives by x, y and z.
    row : float64 array, shape (n_features,)
        Features.
    gradients : float64 array, shape (n_features, 3, 8)
        By the positions of the neighbours of one block.
    strain : float64 array, shape (n_features, 3, 3, 8)
        By strain, in eight parts.
    """

    directions: Floats
    distances: Floats
    place: Integers
    envelope: Floats
    sides: Floats
    arms: Floats
    table: Floats
    harmonics: Floats
    density: Floats
    projected: Floats
    row: Floats
    gradients: Floats
    strain: Floats


def empty_workspace(max_pairs: int, n_channels: int, n_radial: int, n_angular: int) -> Workspace:
    """Allocate room for centres of at most ``max_pairs`` neighbours."""
    capacity = n_padded(max_pairs)
    n_blocks = capacity // LANES
    n_harmonics = n_angular * n_angular
    n_features = n_channels * (n_radial + n_angular)
    return Workspace(
        directions=np.empty((n_blocks, 3, LANES)),
        distances=np.empty(capacity),
        place=np.empty(capacity, dtype=np.int64),
        envelope=np.empty((2, capacity)),
        sides=np.empty((3, n_channels, capacity)),
        arms=np.empty((3, n_channels, capacity)),
        table=np.empty((2, n_radial, capacity)),
        harmonics=np.empty((n_blocks + 3) * n_harmonics * LANES),
        density=np.empty((n_channels, n_harmonics)),
        projected=np.empty((n_angular, 4, LANES)),
        row=np.empty(n_features),
        gradients=np.empty((n_features, 3, LANES)),
        strain=np.empty((n_features, 3, 3, LANES)),
    )


def legendre_coefficients(order: int) -> Floats:
    """``b_nl = 4π / (2l + 1) a_nl`` with ``T_n = Σ_l a_nl P_l``, shape (order + 1, order + 1)."""
    # The products T_n P_l are polynomials of degree at most 2 order: exact on these nodes.
    x, weights = np.polynomial.legendre.leggauss(order + 1)
    degrees = np.arange(order + 1)
    chebyshev = np.polynomial.chebyshev.chebvander(x, order)
    legendre = np.polynomial.legendre.legvander(x, order)
    coefficients = 2 * np.pi * np.einsum("x,xn,xl->nl", weights, chebyshev, legendre)
    return np.where((degrees[:, None] - degrees) % 2 == 0, coefficients, 0.0)


@kernel
def chebyshev(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    weights: Floats,
    radial: Envelope,
    angular: Envelope,
    legendre: Floats,
    recursion: Floats,
    work: Workspace,
    features: NDArray[Any],
    gradient_positions: NDArray[Any],
    gradient_strain: NDArray[Any],
) -> None:
    """Write the features of the centres ``first:last`` and their gradients.

    Parameters
    ----------
    pair_offsets, neighbour_index, vectors, distances : array
        As in :class:`atomlake.neighbours.Neighbours`.
    weights : array, shape (n_channels, n_atoms)
        What each atom counts for as a neighbour, once for every block of features.
    radial, angular : Envelope
        Cutoff functions of distances and of the two sides of an angle.
    legendre : array
        Of :func:`legendre_coefficients`.
    recursion : array
        Of :func:`atomlake.kernels.harmonics.recursion_coefficients`, of the same order.
    work : Workspace
        With room for every centre.
    features : array, shape (n, n_channels * (n_radial + n_angular))
    gradient_positions : array, shape (n_pairs of the centres, 3, n_features) or no rows
    gradient_strain : array, shape (n, 3, 3, n_features) or no rows
    """
    n_features = features.shape[1]
    n_channels = weights.shape[0]
    n_radial = work.table.shape[1]
    n_functions = n_radial + legendre.shape[0]
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    has_gradients = has_positions or has_strain
    inner = min(radial.cutoff, angular.cutoff)

    for i in range(first, last):
        lower, upper = pair_offsets[i], pair_offsets[i + 1]
        n = upper - lower
        n_inner = _gather(vectors[lower:upper], distances[lower:upper], inner, work)
        n_sides = n if radial.cutoff > inner else n_inner
        n_arms = n if angular.cutoff > inner else n_inner
        index = neighbour_index[lower:upper]
        _weigh(index, weights, radial, n_sides, n, work, work.sides)
        _weigh(index, weights, angular, n_arms, n, work, work.arms)
        _tabulate(radial.cutoff, n_sides, has_gradients, work)
        _expand(n_arms, recursion, work)
        for c in range(n_channels):
            column = c * n_functions
            for k in range(n_radial):
                work.row[column + k] = _dot(work.sides[_VALUE, c], work.table[0, k], n_sides)
            _angular_values(
                work.arms[_VALUE, c],
                n_arms,
                work.density[c],
                legendre,
                work.row[column + n_radial :],
            )
        features[i - first] = work.row
        if not has_gradients:
            continue

        work.strain[:] = 0.0
        start = lower - pair_offsets[first]
        for block in range(_n_blocks(n)):
            work.gradients[:] = 0.0
            if block < _n_blocks(n_sides):
                _radial_gradients(block, n_functions, work)
            if block < _n_blocks(n_arms):
                _angular_gradients(block, n_radial, legendre, recursion, work)
            if has_positions:
                for lane in range(min(LANES, n - block * LANES)):
                    pair = start + work.place[block * LANES + lane]
                    for x in range(3):
                        for k in range(n_features):
                            gradient_positions[pair, x, k] = work.gradients[k, x, lane]
            if has_strain:
                _add_strain(block, work)
        if has_strain:
            for a in range(3):
                for b in range(3):
                    for k in range(n_features):
                        gradient_strain[i - first, a, b, k] = np.sum(work.strain[k, a, b])


@inlined
def _n_blocks(n: int) -> int:
    """Blocks of lanes that hold ``n`` neighbours."""
    return (n + LANES - 1) // LANES


@inlined
def _gather(vectors: Floats, distances: Floats, inner: float, work: Workspace) -> int:
    """Write the neighbours, those closer than ``inner`` first, and return how many these are."""
    n, n_inner = 0, 0
    for is_inner in (True, False):
        for t in range(distances.shape[0]):
            if (distances[t] < inner) == is_inner:
                work.distances[n] = distances[t]
                work.place[n] = t
                for x in range(3):
                    work.directions[n // LANES, x, n % LANES] = vectors[t, x] / distances[t]
                n += 1
        if is_inner:
            n_inner = n
    for t in range(n, LANES * _n_blocks(n)):
        work.distances[t] = 1.0
        for x in range(3):
            work.directions[t // LANES, x, t % LANES] = 1.0 if x == 2 else 0.0
    return n_inner


@kernel
def _weigh(
    neighbour_index: Integers,
    weights: Floats,
    cutoff: Envelope,
    n: int,
    n_all: int,
    work: Workspace,
    weighted: Floats,
) -> None:
    """Write what the first ``n`` of all neighbours count for, and zero for the others."""
    value, slope = work.envelope[0], work.envelope[1]
    cutoff_functions(cutoff.code, cutoff.parameter, cutoff.cutoff, work.distances, n, value, slope)
    for c in range(weights.shape[0]):
        for t in range(n):
            weight = weights[c, neighbour_index[work.place[t]]]
            weighted[_VALUE, c, t] = weight * value[t]
            weighted[_SLOPE, c, t] = weight * slope[t]
            weighted[_VALUE_BY_R, c, t] = weight * value[t] / work.distances[t]
        for row in range(3):
            for t in range(n, LANES * _n_blocks(n_all)):
                weighted[row, c, t] = 0.0


@kernel
def _tabulate(cutoff: float, n: int, has_gradients: bool, work: Workspace) -> None:
    """Write ``T_k(2 r / cutoff - 1)`` and its derivative by r.

    Both follow from three-term recurrences, which hold at the ends of the interval too,
    where ``cos(k arccos x)`` loses its derivative.
    """
    value, slope = work.table[0], work.table[1]
    inner = 2.0 / cutoff
    n_lanes = LANES * _n_blocks(n)
    for k in range(value.shape[0]):
        if k == 0:
            for t in range(n_lanes):
                value[k, t] = 1.0
                slope[k, t] = 0.0
        elif k == 1:
            for t in range(n_lanes):
                # Beyond the cutoff, where nothing counts, stay finite.
                value[k, t] = min(inner * work.distances[t] - 1.0, 1.0)
                slope[k, t] = inner
        else:
            for t in range(n_lanes):
                value[k, t] = 2.0 * value[1, t] * value[k - 1, t] - value[k - 2, t]
            if has_gradients:
                for t in range(n_lanes):
                    slope[k, t] = (
                        2.0 * inner * value[k - 1, t]
                        + 2.0 * value[1, t] * slope[k - 1, t]
                        - slope[k - 2, t]
                    )


@summing
def _dot(a: Floats, b: Floats, n: int) -> float:
    total = 0.0
    for t in range(n):
        total += a[t] * b[t]
    return total


@inlined
def _expand(n: int, recursion: Floats, work: Workspace) -> None:
    """Write the harmonics of every neighbour and the density ``A_lm`` of each channel."""
    n_harmonics = work.density.shape[1]
    l_max = round(math.sqrt(n_harmonics)) - 1
    size = n_harmonics * LANES
    for block in range(_n_blocks(n)):
        spherical_harmonics(
            l_max,
            pointer(recursion),
            pointer(work.directions),
            3 * LANES * block,
            pointer(work.harmonics),
            block * size,
        )
    for c in range(work.density.shape[0]):
        value = work.arms[_VALUE, c]
        for lm in range(n_harmonics):
            total = 0.0
            for block in range(_n_blocks(n)):
                start = block * size + lm * LANES
                total += _dot(value[block * LANES :], work.harmonics[start:], LANES)
            work.density[c, lm] = total


@inlined
def _angular_values(value: Floats, n: int, density: Floats, legendre: Floats, row: Floats) -> None:
    """Write ``½ Σ_l b_nl Σ_m A_lm² - ½ Σ_j h_j²``, with l even or odd as n is."""
    itself = _dot(value, value, n)
    for k in range(legendre.shape[0]):
        total = 0.0
        for degree in range(k % 2, k + 1, 2):
            power = density[degree * degree :]
            total += legendre[k, degree] * _dot(power, power, 2 * degree + 1)
        row[k] = 0.5 * (total - itself)


@kernel
def _radial_gradients(block: int, n_functions: int, work: Workspace) -> None:
    """Write ``(h' T_k + h T_k') u`` for each neighbour, with its direction u."""
    n_channels, n_radial, capacity = work.sides.shape[1], work.table.shape[1], work.table.shape[2]
    sides, table, gradients = pointer(work.sides), pointer(work.table), pointer(work.gradients)
    direction = 3 * LANES * block
    x = load(pointer(work.directions), direction)
    y = load(pointer(work.directions), direction + LANES)
    z = load(pointer(work.directions), direction + 2 * LANES)
    for c in range(n_channels):
        at = c * capacity + block * LANES
        value = load(sides, _VALUE * n_channels * capacity + at)
        slope = load(sides, _SLOPE * n_channels * capacity + at)
        for k in range(n_radial):
            at = k * capacity + block * LANES
            derivative = slope * load(table, at) + value * load(table, n_radial * capacity + at)
            to = 3 * LANES * (c * n_functions + k)
            store(gradients, to, derivative * x)
            store(gradients, to + LANES, derivative * y)
            store(gradients, to + 2 * LANES, derivative * z)


@kernel
def _angular_gradients(
    block: int, n_radial: int, legendre: Floats, recursion: Floats, work: Workspace
) -> None:
    """Write ``h' u (Σ_l b_nl q_l - h) + h Σ_l b_nl (Q_l - l u q_l) / r`` for each neighbour.

    ``u`` is its direction, ``q_l = Σ_m A_lm Y_lm``, and ``Q_l`` the same with the gradients of the
    solid harmonics.
    """
    n_angular, n_channels = legendre.shape[0], work.arms.shape[1]
    capacity = work.arms.shape[2]
    size = work.density.shape[1] * LANES
    solid = work.harmonics.shape[0] - 3 * size
    arms, harmonics, projected = (
        pointer(work.arms),
        pointer(work.harmonics),
        pointer(work.projected),
    )
    density, b, gradients = pointer(work.density), pointer(legendre), pointer(work.gradients)
    direction = 3 * LANES * block
    x = load(pointer(work.directions), direction)
    y = load(pointer(work.directions), direction + LANES)
    z = load(pointer(work.directions), direction + 2 * LANES)
    zero = broadcast(0.0)
    solid_gradients(n_angular - 1, pointer(recursion), harmonics, block * size, solid)
    for c in range(n_channels):
        for degree in range(n_angular):
            q, q_x, q_y, q_z = zero, zero, zero, zero
            for lm in range(degree * degree, (degree + 1) * (degree + 1)):
                a = broadcast(density[c * (size // LANES) + lm])
                row = lm * LANES
                q = q + a * load(harmonics, block * size + row)
                q_x = q_x + a * load(harmonics, solid + row)
                q_y = q_y + a * load(harmonics, solid + size + row)
                q_z = q_z + a * load(harmonics, solid + 2 * size + row)
            to = 4 * LANES * degree
            store(projected, to, q)
            store(projected, to + LANES, q_x)
            store(projected, to + 2 * LANES, q_y)
            store(projected, to + 3 * LANES, q_z)
        at = c * capacity + block * LANES
        value = load(arms, _VALUE * n_channels * capacity + at)
        slope = load(arms, _SLOPE * n_channels * capacity + at)
        value_by_r = load(arms, _VALUE_BY_R * n_channels * capacity + at)
        for k in range(n_angular):
            along, falling, by_x, by_y, by_z = zero, zero, zero, zero, zero
            for degree in range(k % 2, k + 1, 2):
                coefficient = broadcast(b[k * n_angular + degree])
                at = 4 * LANES * degree
                q = coefficient * load(projected, at)
                along = along + q
                falling = falling + broadcast(float(degree)) * q
                by_x = by_x + coefficient * load(projected, at + LANES)
                by_y = by_y + coefficient * load(projected, at + 2 * LANES)
                by_z = by_z + coefficient * load(projected, at + 3 * LANES)
            outward = slope * (along - value) - value_by_r * falling
            to = 3 * LANES * (c * (n_radial + n_angular) + n_radial + k)
            store(gradients, to, outward * x + value_by_r * by_x)
            store(gradients, to + LANES, outward * y + value_by_r * by_y)
            store(gradients, to + 2 * LANES, outward * z + value_by_r * by_z)


@inlined
def _add_strain(block: int, work: Workspace) -> None:
    """Add the products of each neighbour's gradient with its vector, lane by lane."""
    gradients, strain = pointer(work.gradients), pointer(work.strain)
    r = load(pointer(work.distances), block * LANES)
    for b in range(3):
        vector = r * load(pointer(work.directions), (3 * block + b) * LANES)
        for row in range(3 * work.gradients.shape[0]):
            to = (3 * row + b) * LANES
            store(strain, to, load(strain, to) + load(gradients, row * LANES) * vector)
