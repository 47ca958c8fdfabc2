"""Behler–Parrinello symmetry functions and their weighted forms.

One centre at a time. Its neighbours are sorted by channel (their species), so that
the neighbours of a channel lie next to each other. The angular functions of a pair of
channels are all of the form ``Σ P(cos θ) E(r_ij, r_ik, r_jk)`` with few distinct powers
``P`` and Gaussians ``E``: these are tabulated over a run of triples, and every function is
then a dot product of two rows of the tables.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel, summing
from atomlake.kernels.cutoffs import cutoff_functions
from atomlake.kernels.elementary import exponential

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: About as many triples are tabulated together: their tables fit in the L2 cache.
RUN = 256


class Envelope(NamedTuple):
    """The cutoff function, in the terms of :mod:`atomlake.kernels.cutoffs`."""

    code: int
    parameter: float
    cutoff: float


class RadialFunctions(NamedTuple):
    """Functions of one distance, in the order G1, Gaussians, cosines.

    Attributes
    ----------
    n_sums : int
        1 with G1, the sum of the cutoff function, else 0.
    eta, r_s : float64 array, shape (n_gaussians,)
        In 1/Å² and Å.
    kappa : float64 array, shape (n_cosines,)
        In 1/Å.
    column : int64 array, shape (n_channels,)
        Feature column where the functions of a channel begin.
    """

    n_sums: int
    eta: Floats
    r_s: Floats
    kappa: Floats
    column: Integers


class AngularFunctions(NamedTuple):
    """Functions of one angle: each the product of a power and a Gaussian.

    Attributes
    ----------
    is_closed : bool
        Whether the third side of the triangle enters, with its Gaussian and its cutoff
        function (G4, W4), or not (G5).
    zeta, lambda_ : float64 array, shape (n_powers,)
        Distinct powers ``2 ((1 + λ cos θ) / 2)^ζ``.
    eta, r_s : float64 array, shape (n_gaussians,)
        Distinct Gaussians, in 1/Å² and Å.
    power, gaussian : int64 array, shape (n_functions,)
        The two factors of each function.
    column : int64 array, shape (n_channels, n_channels)
        Feature column where the functions of a pair of channels begin.
    """

    is_closed: bool
    zeta: Floats
    lambda_: Floats
    eta: Floats
    r_s: Floats
    power: Integers
    gaussian: Integers
    column: Integers


class _Environment(NamedTuple):
    """Neighbours of one centre, sorted by channel; shape (capacity,)."""

    x: Floats
    y: Floats
    z: Floats
    r: Floats
    inverse_r: Floats
    # Place in the centre's list of pairs.
    place: Integers


class _Channels(NamedTuple):
    """How the neighbours of one centre are told apart, and what each counts for."""

    # Cutoff function times weight, and its derivative by the distance; shape (capacity,).
    value: Floats
    slope: Floats
    # Neighbours of channel c are bounds[c]:bounds[c + 1].
    bounds: Integers


class _Triples(NamedTuple):
    """Tables over a run of triples (centre, j, k); last axis (capacity,)."""

    # Position of k relative to the centre.
    x: Floats
    y: Floats
    z: Floats
    inverse_r: Floats
    cosine: Floats
    # Length of the third side (its square until it is tabulated), its cutoff function,
    # and the derivative of that divided by the length; 1 and 0 for open functions.
    third: Floats
    third_value: Floats
    third_slope: Floats
    # Sums over the sides of their lengths and of their squares.
    lengths: Floats
    squares: Floats
    # Cutoff functions and weights of j and k; those of k alone for gradients.
    weight: Floats
    # (n_powers, capacity): the power; its derivative by the cosine, times the derivative of
    # the cosine by r_j along r_j and along r_k.
    power: Floats
    power_along_j: Floats
    power_along_k: Floats
    # (n_gaussians, capacity): the Gaussian with all weights; its derivative by r_j along
    # r_j and along r_k.
    gaussian: Floats
    gaussian_along_j: Floats
    gaussian_along_k: Floats
    # Triples whose k is of channel c are bounds[c]:bounds[c + 1].
    bounds: Integers


@kernel
def symmetry_functions(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    numbers: NDArray[np.int32],
    channel: Integers,
    envelope: Envelope,
    radial: RadialFunctions,
    closed: AngularFunctions,
    opened: AngularFunctions,
    weighted_radial: RadialFunctions,
    weighted_closed: AngularFunctions,
    features: NDArray[Any],
    gradient_positions: NDArray[Any],
    gradient_strain: NDArray[Any],
) -> None:
    """Write the features of the centres ``first:last`` and their gradients.

    Parameters
    ----------
    pair_offsets, neighbour_index, vectors, distances : array
        As in :class:`atomlake.neighbours.Neighbours`.
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers, which are the weights of the weighted functions.
    channel : array, shape (119,)
        Channel of each atomic number.
    radial, closed, opened : RadialFunctions, AngularFunctions
        Functions per channel and per pair of channels.
    weighted_radial, weighted_closed : RadialFunctions, AngularFunctions
        Functions of all neighbours in one channel, weighted.
    features : array, shape (n, n_features)
    gradient_positions : array, shape (n_pairs of the centres, 3, n_features) or no rows
    gradient_strain : array, shape (n, 3, 3, n_features) or no rows
    """
    n_features = features.shape[1]
    capacity = 0
    for i in range(first, last):
        capacity = max(capacity, pair_offsets[i + 1] - pair_offsets[i])
    environment = _empty_environment(capacity)
    plain = _empty_channels(capacity, radial.column.shape[0])
    weighted = _empty_channels(capacity, 1)
    n_radial = max(_n_radial(radial), _n_radial(weighted_radial))
    table = np.empty((2, n_radial, capacity))
    closed_triples = _empty_triples(closed, capacity)
    opened_triples = _empty_triples(opened, capacity)
    weighted_triples = _empty_triples(weighted_closed, capacity)
    has_gradients = gradient_positions.shape[0] + gradient_strain.shape[0] > 0
    row = np.empty(n_features)
    block = np.empty((3, n_features))
    strain = np.empty((3, 3, n_features if gradient_strain.shape[0] > 0 else 0))

    for i in range(first, last):
        lower, upper = pair_offsets[i], pair_offsets[i + 1]
        _sort_neighbours(
            neighbour_index[lower:upper],
            vectors[lower:upper],
            distances[lower:upper],
            numbers,
            channel,
            envelope,
            environment,
            plain,
            weighted,
        )
        row[:] = 0.0
        if not has_gradients:
            _radial_values(radial, environment, plain, table, row)
            _radial_values(weighted_radial, environment, weighted, table, row)
            _angular_values(closed, envelope, environment, plain, closed_triples, row)
            _angular_values(opened, envelope, environment, plain, opened_triples, row)
            _angular_values(weighted_closed, envelope, environment, weighted, weighted_triples, row)
            features[i - first] = row
            continue
        start = pair_offsets[first]
        pairs = gradient_positions[lower - start : upper - start]
        pairs[:] = 0.0
        strain[:] = 0.0
        _radial_gradients(radial, environment, plain, table, row, block, pairs, strain)
        _radial_gradients(weighted_radial, environment, weighted, table, row, block, pairs, strain)
        _angular_gradients(
            closed, envelope, environment, plain, closed_triples, row, block, pairs, strain
        )
        _angular_gradients(
            opened, envelope, environment, plain, opened_triples, row, block, pairs, strain
        )
        _angular_gradients(
            weighted_closed,
            envelope,
            environment,
            weighted,
            weighted_triples,
            row,
            block,
            pairs,
            strain,
        )
        features[i - first] = row
        if gradient_strain.shape[0] > 0:
            gradient_strain[i - first] = strain


@inlined
def _n_radial(functions: RadialFunctions) -> int:
    return functions.n_sums + len(functions.eta) + len(functions.kappa)


@kernel
def _empty_environment(capacity: int) -> _Environment:
    return _Environment(
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity, np.int64),
    )


@kernel
def _empty_channels(capacity: int, n_channels: int) -> _Channels:
    return _Channels(
        np.empty(capacity), np.empty(capacity), np.zeros(n_channels + 1, dtype=np.int64)
    )


@kernel
def _empty_triples(functions: AngularFunctions, n_neighbours: int) -> _Triples:
    capacity = RUN + n_neighbours
    n_powers = functions.zeta.shape[0]
    n_gaussians = functions.eta.shape[0]
    return _Triples(
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.ones(capacity),
        np.zeros(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty(capacity),
        np.empty((n_powers, capacity)),
        np.empty((n_powers, capacity)),
        np.empty((n_powers, capacity)),
        np.empty((n_gaussians, capacity)),
        np.empty((n_gaussians, capacity)),
        np.empty((n_gaussians, capacity)),
        np.empty(functions.column.shape[0] + 1, np.int64),
    )


@kernel
def _sort_neighbours(
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    numbers: NDArray[np.int32],
    channel: Integers,
    envelope: Envelope,
    environment: _Environment,
    plain: _Channels,
    weighted: _Channels,
) -> None:
    n = neighbour_index.shape[0]
    bounds = plain.bounds
    bounds[:] = 0
    for pair in range(n):
        bounds[channel[numbers[neighbour_index[pair]]] + 1] += 1
    for c in range(1, bounds.shape[0]):
        bounds[c] += bounds[c - 1]
    # Placing a neighbour moves its channel's lower bound up; afterwards each lower bound
    # stands at its upper one, so the bounds are shifted back by one channel.
    for pair in range(n):
        c = channel[numbers[neighbour_index[pair]]]
        t = bounds[c]
        bounds[c] += 1
        environment.place[t] = pair
        environment.x[t] = vectors[pair, 0]
        environment.y[t] = vectors[pair, 1]
        environment.z[t] = vectors[pair, 2]
        environment.r[t] = distances[pair]
        environment.inverse_r[t] = 1.0 / distances[pair]
    for c in range(bounds.shape[0] - 1, 0, -1):
        bounds[c] = bounds[c - 1]
    bounds[0] = 0
    weighted.bounds[1] = n
    cutoff_functions(
        envelope.code,
        envelope.parameter,
        envelope.cutoff,
        environment.r,
        n,
        plain.value,
        plain.slope,
    )
    for t in range(n):
        weight = float(numbers[neighbour_index[environment.place[t]]])
        weighted.value[t] = weight * plain.value[t]
        weighted.slope[t] = weight * plain.slope[t]


# The rows of tables are named by index, not handed over as views: making a view counts a
# reference, which costs more than a short sum.


@summing
def _sum(table: Floats, row: int, first: int, last: int) -> float:
    total = 0.0
    for t in range(np.uint64(first), np.uint64(last)):
        total += table[row, t]
    return total


@summing
def _dot(a: Floats, a_row: int, b: Floats, b_row: int, first: int, last: int) -> float:
    total = 0.0
    for t in range(np.uint64(first), np.uint64(last)):
        total += a[a_row, t] * b[b_row, t]
    return total


@summing
def _dot_gradient(
    triples: _Triples, p: int, e: int, first: int, last: int
) -> tuple[float, float, float, float, float]:
    """Return the sum of power times Gaussian, and its derivative by r_j.

    The derivative comes as the factor of r_j, and the sum along all r_k.
    """
    value, along_j, x, y, z = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(np.uint64(first), np.uint64(last)):
        power, gaussian = triples.power[p, t], triples.gaussian[e, t]
        value += power * gaussian
        along_j += power * triples.gaussian_along_j[e, t] + triples.power_along_j[p, t] * gaussian
        along_k = power * triples.gaussian_along_k[e, t] + triples.power_along_k[p, t] * gaussian
        x += along_k * triples.x[t]
        y += along_k * triples.y[t]
        z += along_k * triples.z[t]
    return value, along_j, x, y, z


@inlined
def _tabulate_radial(
    functions: RadialFunctions, environment: _Environment, channels: _Channels, table: Floats
) -> None:
    """Write each function of each neighbour and its derivative by the distance."""
    n = channels.bounds[-1]
    r, value, slope = environment.r, channels.value, channels.slope
    f = 0
    if functions.n_sums:
        table[0, 0, :n] = value[:n]
        table[1, 0, :n] = slope[:n]
        f = 1
    for e in range(functions.eta.shape[0]):
        eta, r_s = functions.eta[e], functions.r_s[e]
        for t in range(n):
            d = r[t] - r_s
            gaussian = exponential(-eta * d * d)
            table[0, f, t] = gaussian * value[t]
            table[1, f, t] = gaussian * (slope[t] - 2.0 * eta * d * value[t])
        f += 1
    for e in range(functions.kappa.shape[0]):
        kappa = functions.kappa[e]
        for t in range(n):
            cosine, sine = math.cos(kappa * r[t]), math.sin(kappa * r[t])
            table[0, f, t] = cosine * value[t]
            table[1, f, t] = cosine * slope[t] - kappa * sine * value[t]
        f += 1


@kernel
def _radial_values(
    functions: RadialFunctions,
    environment: _Environment,
    channels: _Channels,
    table: Floats,
    row: Floats,
) -> None:
    _tabulate_radial(functions, environment, channels, table)
    for c in range(channels.bounds.shape[0] - 1):
        lower, upper = channels.bounds[c], channels.bounds[c + 1]
        if upper > lower:
            for f in range(_n_radial(functions)):
                row[functions.column[c] + f] = _sum(table[0], f, lower, upper)


@kernel
def _radial_gradients(
    functions: RadialFunctions,
    environment: _Environment,
    channels: _Channels,
    table: Floats,
    row: Floats,
    block: Floats,
    pairs: NDArray[Any],
    strain: Floats,
) -> None:
    n_functions = _n_radial(functions)
    if n_functions == 0:
        return
    _radial_values(functions, environment, channels, table, row)
    for c in range(channels.bounds.shape[0] - 1):
        for j in range(channels.bounds[c], channels.bounds[c + 1]):
            for f in range(n_functions):
                slope = table[1, f, j] * environment.inverse_r[j]
                block[0, f] = slope * environment.x[j]
                block[1, f] = slope * environment.y[j]
                block[2, f] = slope * environment.z[j]
            _write_block(block, n_functions, functions.column[c], j, environment, pairs, strain)


@inlined
def _write_block(
    block: Floats,
    n_functions: int,
    column: int,
    j: int,
    environment: _Environment,
    pairs: NDArray[Any],
    strain: Floats,
) -> None:
    """Write the gradient of some columns by the position of j, and add it to the strain's."""
    if pairs.shape[0] > 0:
        rows = pairs[environment.place[j]]
        for a in range(3):
            for f in range(n_functions):
                rows[a, column + f] = block[a, f]
    if strain.shape[2] > 0:
        x, y, z = environment.x[j], environment.y[j], environment.z[j]
        for a in range(3):
            for f in range(n_functions):
                strain[a, 0, column + f] += block[a, f] * x
                strain[a, 1, column + f] += block[a, f] * y
                strain[a, 2, column + f] += block[a, f] * z


@inlined
def _append_triples(
    functions: AngularFunctions,
    cutoff: float,
    environment: _Environment,
    value: Floats,
    j: int,
    first: int,
    last: int,
    scale: float,
    triples: _Triples,
    n: int,
) -> int:
    """Append the triples of j with the neighbours ``first:last``; return how many there are.

    Closed functions vanish where the third side is not below the cutoff: such a triple
    is overwritten by the next.
    """
    x, y, z = environment.x[j], environment.y[j], environment.z[j]
    r, inverse_r = environment.r[j], environment.inverse_r[j]
    squared_cutoff = cutoff * cutoff if functions.is_closed else np.inf
    for k in range(np.uint64(first), np.uint64(last)):
        dx, dy, dz = environment.x[k] - x, environment.y[k] - y, environment.z[k] - z
        third = dx * dx + dy * dy + dz * dz
        dot = environment.x[k] * x + environment.y[k] * y + environment.z[k] * z
        r_k = environment.r[k]
        triples.x[n] = environment.x[k]
        triples.y[n] = environment.y[k]
        triples.z[n] = environment.z[k]
        triples.inverse_r[n] = environment.inverse_r[k]
        # Rounding can take a cosine past ±1, where powers that are not whole are undefined.
        triples.cosine[n] = min(max(dot * inverse_r * environment.inverse_r[k], -1.0), 1.0)
        triples.third[n] = third
        triples.lengths[n] = r + r_k
        triples.squares[n] = r * r + r_k * r_k
        triples.weight[n] = scale * value[k]
        n += third < squared_cutoff
    return n


@inlined
def _tabulate_powers(functions: AngularFunctions, triples: _Triples, n: int) -> None:
    """Write ``2 h^ζ`` with ``h = (1 + λ cos θ) / 2``, and ``ζ λ h^(ζ-1)`` as ``along_j``."""
    for p in range(functions.zeta.shape[0]):
        zeta, lambda_ = functions.zeta[p], functions.lambda_[p]
        exponent = int(zeta) - 1
        if zeta == exponent + 1 and exponent < 128:
            # h^exponent is the product of h^1, h^2, h^4, ..., h^64 over the bits of the
            # exponent; where a bit is 0, the factor 1 stands in.
            b0, b1, b2 = exponent & 1, exponent >> 1 & 1, exponent >> 2 & 1
            b3, b4, b5, b6 = (
                exponent >> 3 & 1,
                exponent >> 4 & 1,
                exponent >> 5 & 1,
                exponent >> 6 & 1,
            )
            for t in range(n):
                h1 = 0.5 + 0.5 * lambda_ * triples.cosine[t]
                h2 = h1 * h1
                h4 = h2 * h2
                h8 = h4 * h4
                h16 = h8 * h8
                h32 = h16 * h16
                h64 = h32 * h32
                low = (b0 * h1 + (1 - b0)) * (b1 * h2 + (1 - b1)) * (b2 * h4 + (1 - b2))
                high = (b3 * h8 + (1 - b3)) * (b4 * h16 + (1 - b4)) * (b5 * h32 + (1 - b5))
                triples.power_along_j[p, t] = low * high * (b6 * h64 + (1 - b6))
        else:
            for t in range(n):
                h = 0.5 + 0.5 * lambda_ * triples.cosine[t]
                triples.power_along_j[p, t] = h ** (zeta - 1.0)
        for t in range(n):
            h = 0.5 + 0.5 * lambda_ * triples.cosine[t]
            triples.power[p, t] = 2.0 * h * triples.power_along_j[p, t]
            triples.power_along_j[p, t] *= zeta * lambda_


@inlined
def _tabulate_third_side(
    functions: AngularFunctions, envelope: Envelope, triples: _Triples, n: int
) -> None:
    """Turn squared third sides into lengths, with their cutoff function, and add them up."""
    if functions.is_closed:
        for t in range(n):
            square = triples.third[t]
            side = math.sqrt(square)
            triples.third[t] = side
            triples.lengths[t] += side
            triples.squares[t] += square
        cutoff_functions(
            envelope.code,
            envelope.parameter,
            envelope.cutoff,
            triples.third,
            n,
            triples.third_value,
            triples.third_slope,
        )


@inlined
def _add_values(
    functions: AngularFunctions,
    envelope: Envelope,
    triples: _Triples,
    n: int,
    column: int,
    row: Floats,
) -> None:
    _tabulate_powers(functions, triples, n)
    _tabulate_third_side(functions, envelope, triples, n)
    n_sides = 3.0 if functions.is_closed else 2.0
    for e in range(functions.eta.shape[0]):
        eta, r_s = functions.eta[e], functions.r_s[e]
        for t in range(n):
            squares = triples.squares[t] - 2.0 * r_s * triples.lengths[t] + n_sides * r_s * r_s
            triples.gaussian[e, t] = (
                triples.weight[t] * triples.third_value[t] * exponential(-eta * squares)
            )
    for f in range(functions.power.shape[0]):
        row[column + f] += _dot(
            triples.power, functions.power[f], triples.gaussian, functions.gaussian[f], 0, n
        )


@kernel
def _angular_values(
    functions: AngularFunctions,
    envelope: Envelope,
    environment: _Environment,
    channels: _Channels,
    triples: _Triples,
    row: Floats,
) -> None:
    if functions.power.shape[0] == 0:
        return
    value, bounds = channels.value, channels.bounds
    n_channels = bounds.shape[0] - 1
    for a in range(n_channels):
        if bounds[a + 1] == bounds[a]:
            continue
        for b in range(a, n_channels):
            n = 0
            for j in range(bounds[a], bounds[a + 1]):
                first = j + 1 if a == b else bounds[b]
                n = _append_triples(
                    functions,
                    envelope.cutoff,
                    environment,
                    value,
                    j,
                    first,
                    bounds[b + 1],
                    value[j],
                    triples,
                    n,
                )
                if n >= RUN or (n > 0 and j + 1 == bounds[a + 1]):
                    _add_values(functions, envelope, triples, n, functions.column[a, b], row)
                    n = 0


@inlined
def _tabulate_gradients(
    functions: AngularFunctions,
    environment: _Environment,
    channels: _Channels,
    j: int,
    triples: _Triples,
    n: int,
) -> None:
    """Write the Gaussians of the triples of j, and all derivatives by r_j.

    These are combinations of r_j and r_k: the cosine gives ``r_k / (r_j r_k) - cos θ r_j / r_j²``,
    a function of the third side something along ``r_j - r_k``.
    """
    inverse_r = environment.inverse_r[j]
    value, slope = channels.value[j], channels.slope[j] * inverse_r
    for p in range(functions.zeta.shape[0]):
        for t in range(n):
            derivative = triples.power_along_j[p, t] * inverse_r
            triples.power_along_j[p, t] = -derivative * inverse_r * triples.cosine[t]
            triples.power_along_k[p, t] = derivative * triples.inverse_r[t]
    n_sides = 3.0 if functions.is_closed else 2.0
    for t in range(n):
        triples.third_slope[t] /= triples.third[t]
    for e in range(functions.eta.shape[0]):
        eta, r_s = functions.eta[e], functions.r_s[e]
        third_eta = 2.0 * eta if functions.is_closed else 0.0
        slope_e = slope - 2.0 * eta * (1.0 - r_s * inverse_r) * value
        for t in range(n):
            squares = triples.squares[t] - 2.0 * r_s * triples.lengths[t] + n_sides * r_s * r_s
            gaussian = triples.weight[t] * exponential(-eta * squares)
            third = value * (
                gaussian * triples.third_slope[t]
                - third_eta * (1.0 - r_s / triples.third[t]) * gaussian * triples.third_value[t]
            )
            gaussian *= triples.third_value[t]
            triples.gaussian[e, t] = value * gaussian
            triples.gaussian_along_j[e, t] = slope_e * gaussian + third
            triples.gaussian_along_k[e, t] = -third


@kernel
def _angular_gradients(
    functions: AngularFunctions,
    envelope: Envelope,
    environment: _Environment,
    channels: _Channels,
    triples: _Triples,
    row: Floats,
    block: Floats,
    pairs: NDArray[Any],
    strain: Floats,
) -> None:
    """Go over all ordered pairs (j, k), so that the gradient by j is complete after each j."""
    n_functions = functions.power.shape[0]
    if n_functions == 0:
        return
    value, bounds = channels.value, channels.bounds
    n_channels = bounds.shape[0] - 1
    for a in range(n_channels):
        for j in range(bounds[a], bounds[a + 1]):
            n = 0
            for b in range(n_channels):
                triples.bounds[b] = n
                # The second run leaves j itself out.
                split = j if a == b else bounds[b + 1]
                for first, last in ((bounds[b], split), (split + 1, bounds[b + 1])):
                    n = _append_triples(
                        functions,
                        envelope.cutoff,
                        environment,
                        value,
                        j,
                        first,
                        last,
                        1.0,
                        triples,
                        n,
                    )
            triples.bounds[n_channels] = n
            _tabulate_powers(functions, triples, n)
            _tabulate_third_side(functions, envelope, triples, n)
            _tabulate_gradients(functions, environment, channels, j, triples, n)
            for b in range(n_channels):
                lower, upper = triples.bounds[b], triples.bounds[b + 1]
                if upper == lower:
                    continue
                column = functions.column[a, b]
                for f in range(n_functions):
                    p, e = functions.power[f], functions.gaussian[f]
                    total, along_j, x, y, z = _dot_gradient(triples, p, e, lower, upper)
                    # Each triple is met from both of its neighbours.
                    row[column + f] += 0.5 * total
                    block[0, f] = along_j * environment.x[j] + x
                    block[1, f] = along_j * environment.y[j] + y
                    block[2, f] = along_j * environment.z[j] + z
                _write_block(block, n_functions, column, j, environment, pairs, strain)
