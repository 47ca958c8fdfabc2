"""Behler–Parrinello symmetry functions and their weighted forms.

One centre at a time. Its neighbours are sorted by channel (their species), so that the
neighbours of a channel lie next to each other.

The angular functions of a pair of channels are all of the form
``Σ P(cos θ) E(r_ij, r_ik, r_jk)`` with few distinct powers ``P`` and Gaussians ``E``. These are
tabulated over a run of triples, and every function is then a dot product of two rows of the
tables. Runs end at a whole block of lanes; the triples that fill up a block have weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel
from atomlake.kernels.cutoffs import cutoff_functions, cutoff_values
from atomlake.kernels.elementary import exponential
from atomlake.kernels.lanes import (
    LANES,
    broadcast,
    count_below,
    lane_sum,
    larger,
    load,
    load_at,
    load_some,
    n_padded,
    pack_below,
    pointer,
    smaller,
    square_root,
    store,
    store_some,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Most channels that neighbours are looked through for one by one; more are counted.
_MOST_LOOKED_THROUGH = 8
#: About as many triples are tabulated together: their tables fit in the L2 cache.
RUN = 256


# ----- What is to be computed


class Envelope(NamedTuple):
    """The cutoff function, in the terms of :mod:`atomlake.kernels.cutoffs`."""

    code: int
    parameter: float
    cutoff: float


class RadialFunctions(NamedTuple):
    """Functions of one distance: the cutoff function itself, Gaussians, then cosines.

    Attributes
    ----------
    n_plain, n_gaussians, n_cosines : int
        How many there are; of the first none or one.
    eta, r_s : float64 array
        Parameters of the Gaussians in 1/Å² and Å, filled up to a whole block of lanes.
    kappa : float64 array, shape (n_cosines,)
        In 1/Å.
    n_channels : int
        Channels that each have all functions.
    column : int64 array, shape (n_channels,)
        Feature column where the functions of a channel begin.
    """

    n_plain: int
    n_gaussians: int
    n_cosines: int
    eta: Floats
    r_s: Floats
    kappa: Floats
    n_channels: int
    column: Integers


class AngularFunctions(NamedTuple):
    """Functions of one angle: each the product of a power and a Gaussian.

    Attributes
    ----------
    is_closed : bool
        Whether the third side of the triangle enters, with its Gaussian and its cutoff
        function (G4, W4), or not (G5).
    n_powers, n_gaussians, n_functions : int
        How many there are.
    zeta, lambda_ : float64 array, shape (n_powers,)
        Distinct powers ``2 ((1 + λ cos θ) / 2)^ζ``.
    eta, r_s : float64 array, shape (n_gaussians,)
        Distinct Gaussians, in 1/Å² and Å.
    power, gaussian : int64 array, shape (n_functions,)
        The two factors of each function.
    n_channels : int
        Channels, each pair of which has all functions.
    column : int64 array, shape (n_channels, n_channels)
        Feature column where the functions of a pair of channels begin.
    """

    is_closed: bool
    n_powers: int
    n_gaussians: int
    n_functions: int
    zeta: Floats
    lambda_: Floats
    eta: Floats
    r_s: Floats
    power: Integers
    gaussian: Integers
    n_channels: int
    column: Integers


class Functions(NamedTuple):
    """Everything that is computed.

    Attributes
    ----------
    envelope : Envelope
        Cutoff function of every distance.
    channel : int64 array, shape (119,)
        Channel of each atomic number.
    channel_number : float64 array, shape (n_channels,)
        Atomic number of each channel; of no meaning where there is one channel for all.
    radial, closed, opened : RadialFunctions, AngularFunctions
        Functions for each channel and each pair of channels.
    weighted_radial, weighted_closed : RadialFunctions, AngularFunctions
        Functions of all neighbours in one channel, each neighbour counted with its atomic number.
    """

    envelope: Envelope
    channel: Integers
    channel_number: Floats
    radial: RadialFunctions
    closed: AngularFunctions
    opened: AngularFunctions
    weighted_radial: RadialFunctions
    weighted_closed: AngularFunctions


def radial_functions(
    has_plain: bool,
    gaussians: Sequence[tuple[float, float]],
    kappas: Sequence[float],
    column: Integers,
) -> RadialFunctions:
    """Lay out functions given by their (eta, r_s) and kappa."""
    eta, r_s = np.zeros((2, n_padded(len(gaussians))))
    for f, parameters in enumerate(gaussians):
        eta[f], r_s[f] = parameters
    return RadialFunctions(
        n_plain=int(has_plain),
        n_gaussians=len(gaussians),
        n_cosines=len(kappas),
        eta=eta,
        r_s=r_s,
        kappa=np.array(kappas, dtype=np.float64),
        n_channels=len(column),
        column=column.astype(np.int64),
    )


def angular_functions(
    is_closed: bool, functions: Sequence[tuple[float, float, float, float]], column: Integers
) -> AngularFunctions:
    """Lay out functions given by their (eta, zeta, lambda, r_s)."""
    powers = sorted({(zeta, lambda_) for _, zeta, lambda_, _ in functions})
    gaussians = sorted({(eta, r_s) for eta, _, _, r_s in functions})
    return AngularFunctions(
        is_closed=is_closed,
        n_powers=len(powers),
        n_gaussians=len(gaussians),
        n_functions=len(functions),
        zeta=np.array([zeta for zeta, _ in powers], dtype=np.float64),
        lambda_=np.array([lambda_ for _, lambda_ in powers], dtype=np.float64),
        eta=np.array([eta for eta, _ in gaussians], dtype=np.float64),
        r_s=np.array([r_s for _, r_s in gaussians], dtype=np.float64),
        power=np.array([powers.index((z, l)) for _, z, l, _ in functions], dtype=np.int64),
        gaussian=np.array([gaussians.index((e, s)) for e, _, _, s in functions], dtype=np.int64),
        n_channels=len(column),
        column=column.astype(np.int64),
    )


# ----- Room for one centre


class Channels(NamedTuple):
    """How the neighbours of one centre are told apart, and what each counts for.

    Attributes
    ----------
    value, slope : float64 array, shape (capacity,)
        Cutoff function times weight, and its derivative by the distance.
    bounds : int64 array, shape (n_channels + 1,)
        Neighbours of channel c are ``bounds[c]:bounds[c + 1]``.
    """

    value: Floats
    slope: Floats
    bounds: Integers


class Environment(NamedTuple):
    """The neighbours of one centre, sorted by channel.

    Attributes
    ----------
    x, y, z, r, inverse_r : float64 array, shape (capacity,)
        Position relative to the centre, distance and its inverse.
    place : int64 array, shape (capacity,)
        Place in the centre's list of pairs.
    order : int64 array, shape (capacity,)
        0, 1, 2, ...
    number : float64 array, shape (capacity,)
        Atomic numbers in the order of the centre's list.
    plain, weighted : Channels
        By species, each counted once; all together, each counted with its atomic number.
    """

    x: Floats
    y: Floats
    z: Floats
    r: Floats
    inverse_r: Floats
    place: Integers
    order: Integers
    number: Floats
    plain: Channels
    weighted: Channels


class Triples(NamedTuple):
    """Tables over a run of triples (centre, j, k), with last axis (capacity,).

    Attributes
    ----------
    capacity : int
        Length of the rows.
    x, y, z, inverse_r : float64 array
        Position of k relative to the centre, and its inverse distance.
    cosine : float64 array
        Of the angle at the centre.
    third, third_value, third_slope : float64 array
        Length of the third side (its square until the run is tabulated), its cutoff function and
        the derivative of that; 1 and 0 for open functions.
    lengths, squares : float64 array
        Sums over the sides of their lengths and of their squares.
    weight : float64 array
        Cutoff functions and weights of j and k; those of k alone where there are gradients.
    power, power_along_j, power_along_k : float64 array, shape (n_powers, capacity)
        The power, and its derivative by r_j along r_j and along r_k.
    gaussian, gaussian_along_j, gaussian_along_k : float64 array, shape (n_gaussians, capacity)
        The Gaussian with all weights, and its derivative by r_j along r_j and along r_k.
    bounds : int64 array, shape (n_channels + 1,)
        Triples whose k is of channel c begin at ``bounds[c]``, a whole block.
    """

    capacity: int
    x: Floats
    y: Floats
    z: Floats
    inverse_r: Floats
    cosine: Floats
    third: Floats
    third_value: Floats
    third_slope: Floats
    lengths: Floats
    squares: Floats
    weight: Floats
    power: Floats
    power_along_j: Floats
    power_along_k: Floats
    gaussian: Floats
    gaussian_along_j: Floats
    gaussian_along_k: Floats
    bounds: Integers


class Workspace(NamedTuple):
    """Room for one centre.

    Attributes
    ----------
    environment : Environment
        Its neighbours.
    triples : Triples
        Its triples.
    row : float64 array, shape (n_features + 8,)
        Its features.
    block : float64 array, shape (3, n_block)
        Gradient of the functions of one channel or pair of channels.
    strain : float64 array, shape (9, n_features + 8)
        Gradient of its features by strain.
    """

    environment: Environment
    triples: Triples
    row: Floats
    block: Floats
    strain: Floats


def empty_workspace(functions: Functions, max_pairs: int, n_features: int) -> Workspace:
    """Allocate room for centres of at most ``max_pairs`` neighbours."""
    angular = functions.closed, functions.opened, functions.weighted_closed
    radial = functions.radial, functions.weighted_radial
    n_channels = max(f.n_channels for f in angular)
    n_powers = max(f.n_powers for f in angular)
    n_gaussians = max(f.n_gaussians for f in angular)
    n_block = max(
        *(f.n_plain + len(f.eta) + f.n_cosines + LANES for f in radial),
        *(f.n_functions for f in angular),
    )
    # Lanes are loaded and stored whole, so every list has room for one block more.
    n = max_pairs + LANES
    capacity = n_padded(max(RUN, LANES * n_channels) + n)
    x, y, z, r, inverse_r, value, slope, weighted_value, weighted_slope = np.empty((9, n))
    bounds, weighted_bounds = np.empty(n_channels + 1, np.int64), np.empty(2, np.int64)
    triples = np.empty((11, capacity))
    powers, gaussians = np.empty((3, n_powers, capacity)), np.empty((3, n_gaussians, capacity))
    return Workspace(
        environment=Environment(
            x,
            y,
            z,
            r,
            inverse_r,
            place=np.empty(n, np.int64),
            order=np.arange(n),
            number=np.empty(n),
            plain=Channels(value, slope, bounds),
            weighted=Channels(weighted_value, weighted_slope, weighted_bounds),
        ),
        triples=Triples._make(
            [capacity, *triples, *powers, *gaussians, np.empty(n_channels + 1, np.int64)]
        ),
        row=np.empty(n_features + LANES),
        block=np.empty((3, n_padded(n_block))),
        strain=np.empty((9, n_features + LANES)),
    )


class _Output(NamedTuple):
    """Where the rows of one centre go; pointers."""

    n_features: int
    row: Floats
    block: Floats
    n_block: int
    # Gradients by positions, and the row of the centre's first pair in them.
    has_positions: bool
    positions: NDArray[Any]
    first_pair: int
    has_strain: bool
    strain: Floats


# ----- The kernel


@kernel
def symmetry_functions(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    numbers: NDArray[np.int32],
    functions: Functions,
    workspace: Workspace,
    features: NDArray[Any],
    gradient_positions: NDArray[Any],
    gradient_strain: NDArray[Any],
) -> None:
    """Write the features of the centres ``first:last`` and their gradients.

    Parameters
    ----------
    pair_offsets, neighbour_index, vectors, distances : array
        As in :class:`atomlake.neighbours.Neighbours`; vectors have no rows where there are neither
        angular functions nor gradients.
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers.
    functions : Functions
        What to compute.
    workspace : Workspace
        With room for every centre; its content does not matter.
    features : array, shape (n, n_features)
    gradient_positions : array, shape (n_pairs of the centres, 3, n_features) or no rows
    gradient_strain : array, shape (n, 3, 3, n_features) or no rows
    """
    n_features = features.shape[1]
    n_block = workspace.block.shape[1]
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    channel, channel_number = pointer(functions.channel), pointer(functions.channel_number)
    envelope = functions.envelope
    radial = _radial_pointers(functions.radial)
    closed = _angular_pointers(functions.closed)
    opened = _angular_pointers(functions.opened)
    weighted_radial = _radial_pointers(functions.weighted_radial)
    weighted_closed = _angular_pointers(functions.weighted_closed)
    environment = _environment_pointers(workspace.environment)
    triples = _triples_pointers(workspace.triples)
    row, block, strain = (
        pointer(workspace.row),
        pointer(workspace.block),
        pointer(workspace.strain),
    )
    positions = pointer(gradient_positions)
    stride = n_features + LANES
    has_radial = radial.n_plain + radial.n_gaussians + radial.n_cosines > 0
    has_weighted_radial = weighted_radial.n_gaussians > 0
    has_closed = closed.n_functions > 0
    has_opened = opened.n_functions > 0
    has_weighted_closed = weighted_closed.n_functions > 0
    has_weighted = has_weighted_radial or has_weighted_closed
    has_gradients = has_positions or has_strain
    has_vectors = vectors.shape[0] > 0

    for i in range(first, last):
        n = pair_offsets[i + 1] - pair_offsets[i]
        _sort_neighbours(
            n,
            pair_offsets[i],
            pointer(neighbour_index),
            pointer(vectors),
            pointer(distances),
            pointer(numbers),
            channel,
            channel_number,
            closed.n_channels,
            envelope,
            has_vectors,
            has_weighted,
            has_gradients,
            environment,
        )
        first_pair = pair_offsets[i] - pair_offsets[first]
        for f in range(n_features):
            row[f] = 0.0
        if has_positions:
            for t in range(first_pair * 3 * n_features, (first_pair + n) * 3 * n_features):
                positions[t] = 0.0
        if has_strain:
            for t in range(9 * stride):
                strain[t] = 0.0
        output = _Output(
            n_features,
            row,
            block,
            n_block,
            has_positions,
            positions,
            first_pair,
            has_strain,
            strain,
        )
        plain, weighted = environment.plain, environment.weighted
        if has_gradients:
            if has_radial:
                _radial_gradients(radial, environment, plain, output)
            if has_weighted_radial:
                _radial_gradients(weighted_radial, environment, weighted, output)
            if has_closed:
                _angular_gradients(closed, envelope, environment, plain, triples, output)
            if has_opened:
                _angular_gradients(opened, envelope, environment, plain, triples, output)
            if has_weighted_closed:
                _angular_gradients(
                    weighted_closed, envelope, environment, weighted, triples, output
                )
        else:
            if has_radial:
                _radial_values(radial, environment, plain, row)
            if has_weighted_radial:
                _radial_values(weighted_radial, environment, weighted, row)
            if has_closed:
                _angular_values(closed, envelope, environment, plain, triples, row)
            if has_opened:
                _angular_values(opened, envelope, environment, plain, triples, row)
            if has_weighted_closed:
                _angular_values(weighted_closed, envelope, environment, weighted, triples, row)
        for f in range(n_features):
            features[i - first, f] = row[f]
        if has_strain:
            for a in range(3):
                for b in range(3):
                    for f in range(n_features):
                        gradient_strain[i - first, a, b, f] = strain[(3 * a + b) * stride + f]


@inlined
def _radial_pointers(functions: RadialFunctions) -> RadialFunctions:
    return RadialFunctions(
        functions.n_plain,
        functions.n_gaussians,
        functions.n_cosines,
        pointer(functions.eta),
        pointer(functions.r_s),
        pointer(functions.kappa),
        functions.n_channels,
        pointer(functions.column),
    )


@inlined
def _angular_pointers(functions: AngularFunctions) -> AngularFunctions:
    return AngularFunctions(
        functions.is_closed,
        functions.n_powers,
        functions.n_gaussians,
        functions.n_functions,
        pointer(functions.zeta),
        pointer(functions.lambda_),
        pointer(functions.eta),
        pointer(functions.r_s),
        pointer(functions.power),
        pointer(functions.gaussian),
        functions.n_channels,
        pointer(functions.column),
    )


@inlined
def _environment_pointers(environment: Environment) -> Environment:
    plain, weighted = environment.plain, environment.weighted
    return Environment(
        pointer(environment.x),
        pointer(environment.y),
        pointer(environment.z),
        pointer(environment.r),
        pointer(environment.inverse_r),
        pointer(environment.place),
        pointer(environment.order),
        pointer(environment.number),
        Channels(pointer(plain.value), pointer(plain.slope), pointer(plain.bounds)),
        Channels(pointer(weighted.value), pointer(weighted.slope), pointer(weighted.bounds)),
    )


@inlined
def _triples_pointers(triples: Triples) -> Triples:
    return Triples(
        triples.capacity,
        pointer(triples.x),
        pointer(triples.y),
        pointer(triples.z),
        pointer(triples.inverse_r),
        pointer(triples.cosine),
        pointer(triples.third),
        pointer(triples.third_value),
        pointer(triples.third_slope),
        pointer(triples.lengths),
        pointer(triples.squares),
        pointer(triples.weight),
        pointer(triples.power),
        pointer(triples.power_along_j),
        pointer(triples.power_along_k),
        pointer(triples.gaussian),
        pointer(triples.gaussian_along_j),
        pointer(triples.gaussian_along_k),
        pointer(triples.bounds),
    )


@kernel
def _sort_neighbours(
    n: int,
    first_pair: int,
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    numbers: NDArray[np.int32],
    channel: Integers,
    channel_number: Floats,
    n_channels: int,
    envelope: Envelope,
    has_vectors: bool,
    has_weighted: bool,
    has_gradients: bool,
    environment: Environment,
) -> None:
    """Fill the environment of a centre.

    Neighbours of a few channels are sorted in whole blocks of lanes, once for each channel: a
    centre has few neighbours, and where a loop over them ends the processor guesses wrong.
    """
    plain, weighted = environment.plain, environment.weighted
    order, place, r = environment.order, environment.place, environment.r
    number, bounds = environment.number, plain.bounds
    if n_channels == 1:
        for t in range(0, n, LANES):
            store(r, t, load_some(distances, first_pair + t, 0, n - t))
            store(place, t, load(order, t))
        bounds[0] = 0
        bounds[1] = n
    elif n_channels <= _MOST_LOOKED_THROUGH:
        for t in range(0, n, LANES):
            store(number, t, load_at(numbers, neighbour_index, first_pair + t, n - t))
        to = 0
        for c in range(n_channels):
            bounds[c] = to
            for t in range(0, n, LANES):
                gap = load(number, t) - channel_number[c]
                test, distance = gap * gap, load_some(distances, first_pair + t, 0, n - t)
                store(r, to, pack_below(distance, test, 0.5, n - t))
                store(place, to, pack_below(load(order, t), test, 0.5, n - t))
                to += count_below(test, 0.5, n - t)
        bounds[n_channels] = n
    else:
        _count_channels(n, first_pair, neighbour_index, numbers, channel, n_channels, bounds)
        for t in range(n):
            c = channel[numbers[neighbour_index[first_pair + t]]]
            place[bounds[c]] = t
            bounds[c] += 1
        # Each bound has moved on to the start of the next channel.
        for c in range(n_channels, 0, -1):
            bounds[c] = bounds[c - 1]
        bounds[0] = 0
        for t in range(n):
            r[t] = distances[first_pair + place[t]]
    if has_vectors:
        for t in range(n):
            pair = first_pair + place[t]
            environment.x[t] = vectors[3 * pair]
            environment.y[t] = vectors[3 * pair + 1]
            environment.z[t] = vectors[3 * pair + 2]
            environment.inverse_r[t] = 1.0 / r[t]
    code, parameter, cutoff = envelope.code, envelope.parameter, envelope.cutoff
    if has_gradients:
        cutoff_functions(code, parameter, cutoff, r, n, plain.value, plain.slope)
    else:
        cutoff_values(code, parameter, cutoff, r, n, plain.value)
    weighted.bounds[0] = 0
    weighted.bounds[1] = n
    for t in range(n if has_weighted else 0):
        weight = float(numbers[neighbour_index[first_pair + place[t]]])
        weighted.value[t] = weight * plain.value[t]
        weighted.slope[t] = weight * plain.slope[t]


@inlined
def _count_channels(
    n: int,
    first_pair: int,
    neighbour_index: Integers,
    numbers: NDArray[np.int32],
    channel: Integers,
    n_channels: int,
    bounds: Integers,
) -> None:
    """Write where the neighbours of each channel begin."""
    for c in range(n_channels + 1):
        bounds[c] = 0
    for pair in range(first_pair, first_pair + n):
        bounds[channel[numbers[neighbour_index[pair]]] + 1] += 1
    for c in range(1, n_channels + 1):
        bounds[c] += bounds[c - 1]


@inlined
def _radial_values(
    functions: RadialFunctions, environment: Environment, channels: Channels, row: Floats
) -> None:
    """Write the radial functions: eight Gaussians in a register, over all neighbours."""
    r, value = environment.r, channels.value
    for c in range(functions.n_channels):
        first, last = channels.bounds[c], channels.bounds[c + 1]
        column = functions.column[c]
        # The plain sum waits for its last term; beside the first Gaussians it costs nothing.
        plain = 0.0
        for f in range(0, max(functions.n_gaussians, functions.n_plain), LANES):
            eta, r_s = load(functions.eta, f) * -1.0, load(functions.r_s, f)
            total = broadcast(0.0)
            plain = 0.0
            for j in range(first, last):
                d = r[j] - r_s
                total = total + exponential(eta * d * d) * value[j]
                plain += value[j]
            store_some(row, column + functions.n_plain + f, total, 0, functions.n_gaussians - f)
        if functions.n_plain > 0:
            row[column] = plain
        column += functions.n_plain + functions.n_gaussians
        for f in range(functions.n_cosines):
            cosines = 0.0
            for j in range(first, last):
                cosines += np.cos(functions.kappa[f] * r[j]) * value[j]
            row[column + f] = cosines


@kernel
def _radial_gradients(
    functions: RadialFunctions, environment: Environment, channels: Channels, output: _Output
) -> None:
    """Add the radial functions, and write their gradients."""
    n_functions = functions.n_plain + functions.n_gaussians + functions.n_cosines
    row, block = output.row, output.block
    for c in range(functions.n_channels):
        column = functions.column[c]
        for j in range(channels.bounds[c], channels.bounds[c + 1]):
            r, value, slope = environment.r[j], channels.value[j], channels.slope[j]
            x = environment.x[j] * environment.inverse_r[j]
            y = environment.y[j] * environment.inverse_r[j]
            z = environment.z[j] * environment.inverse_r[j]
            to = functions.n_plain
            if functions.n_plain > 0:
                row[column] += value
                block[0] = slope * x
                block[output.n_block] = slope * y
                block[2 * output.n_block] = slope * z
            for f in range(0, functions.n_gaussians, LANES):
                eta = load(functions.eta, f)
                d = r - load(functions.r_s, f)
                gaussian = exponential(eta * d * d * -1.0)
                n = functions.n_gaussians - f
                total = load(row, column + to) + gaussian * value
                store_some(row, column + to, total, 0, n)
                derivative = gaussian * (slope - eta * d * (2.0 * value))
                store(block, to, derivative * x)
                store(block, output.n_block + to, derivative * y)
                store(block, 2 * output.n_block + to, derivative * z)
                to += min(n, LANES)
            for f in range(functions.n_cosines):
                kappa = functions.kappa[f]
                cosine, sine = np.cos(kappa * r), np.sin(kappa * r)
                row[column + to] += cosine * value
                falling = cosine * slope - kappa * sine * value
                block[to] = falling * x
                block[output.n_block + to] = falling * y
                block[2 * output.n_block + to] = falling * z
                to += 1
            _write_block(n_functions, column, j, environment, output)


@inlined
def _write_block(
    n_functions: int, column: int, j: int, environment: Environment, output: _Output
) -> None:
    """Write the gradient of some columns by the position of j, and add it to the strain's."""
    n_features = output.n_features
    stride = n_features + LANES
    positions, strain = output.positions, output.strain
    for f in range(0, n_functions, LANES):
        n = n_functions - f
        x = load_some(output.block, f, 0, n)
        y = load_some(output.block, output.n_block + f, 0, n)
        z = load_some(output.block, 2 * output.n_block + f, 0, n)
        if output.has_positions:
            at = (output.first_pair + environment.place[j]) * 3 * n_features + column + f
            store_some(positions, at, x, 0, n)
            store_some(positions, at + n_features, y, 0, n)
            store_some(positions, at + 2 * n_features, z, 0, n)
        if output.has_strain:
            at = column + f
            for b, along in enumerate((environment.x[j], environment.y[j], environment.z[j])):
                at = b * stride + column + f
                store(strain, at, load(strain, at) + x * along)
                at += 3 * stride
                store(strain, at, load(strain, at) + y * along)
                at += 3 * stride
                store(strain, at, load(strain, at) + z * along)


@inlined
def _append_triples(
    squared_cutoff: float,
    environment: Environment,
    value: Floats,
    j: int,
    first: int,
    last: int,
    scale: float,
    has_gradients: bool,
    triples: Triples,
    n: int,
) -> int:
    """Append the triples of j with the neighbours ``first:last``; return how many there are.

    Leaves out those whose squared third side is not below ``squared_cutoff``.
    """
    x, y, z = environment.x[j], environment.y[j], environment.z[j]
    r, inverse_r = environment.r[j], environment.inverse_r[j]
    for k in range(first, last, LANES):
        x_k, y_k, z_k = load(environment.x, k), load(environment.y, k), load(environment.z, k)
        r_k, inverse_r_k = load(environment.r, k), load(environment.inverse_r, k)
        dx, dy, dz = x_k - x, y_k - y, z_k - z
        third = dx * dx + dy * dy + dz * dz
        cosine = (x_k * x + y_k * y + z_k * z) * inverse_r_k * inverse_r
        # Rounding can take a cosine past ±1, where powers that are not whole are undefined.
        cosine = smaller(larger(cosine, -1.0), 1.0)
        squares = r_k * r_k + r * r
        limit, left = squared_cutoff, last - k
        store(triples.cosine, n, pack_below(cosine, third, limit, left))
        store(triples.third, n, pack_below(third, third, limit, left))
        store(triples.lengths, n, pack_below(r_k + r, third, limit, left))
        store(triples.squares, n, pack_below(squares, third, limit, left))
        store(triples.weight, n, pack_below(load(value, k) * scale, third, limit, left))
        if has_gradients:
            store(triples.x, n, pack_below(x_k, third, limit, left))
            store(triples.y, n, pack_below(y_k, third, limit, left))
            store(triples.z, n, pack_below(z_k, third, limit, left))
            store(triples.inverse_r, n, pack_below(inverse_r_k, third, limit, left))
        n += count_below(third, limit, left)
    return n


@inlined
def _fill_block(triples: Triples, n: int) -> int:
    """Append triples of no weight up to a whole block; return how many there are."""
    while n % LANES != 0:
        triples.x[n] = triples.y[n] = triples.z[n] = triples.inverse_r[n] = 0.0
        triples.cosine[n] = triples.lengths[n] = triples.squares[n] = triples.weight[n] = 0.0
        triples.third[n] = 1.0
        n += 1
    return n


@inlined
def _tabulate_powers(functions: AngularFunctions, triples: Triples, n: int) -> None:
    """Write ``2 h^ζ`` with ``h = (1 + λ cos θ) / 2``, and ``ζ λ h^(ζ-1)`` as ``along_j``."""
    for p in range(functions.n_powers):
        zeta, half = functions.zeta[p], 0.5 * functions.lambda_[p]
        row = p * triples.capacity
        if zeta == int(zeta):
            for t in range(0, n, LANES):
                h = load(triples.cosine, t) * half + 0.5
                power, square = broadcast(1.0), h
                exponent = int(zeta) - 1
                while exponent > 0:
                    if exponent & 1:
                        power = power * square
                    square = square * square
                    exponent >>= 1
                store(triples.power, row + t, power * h * 2.0)
                store(triples.power_along_j, row + t, power * (2.0 * zeta * half))
        else:
            for t in range(n):
                base = triples.cosine[t] * half + 0.5
                root = base ** (zeta - 1.0)
                triples.power[row + t] = 2.0 * base * root
                triples.power_along_j[row + t] = 2.0 * zeta * half * root


@inlined
def _tabulate_third_side(
    functions: AngularFunctions, envelope: Envelope, triples: Triples, n: int
) -> None:
    """Turn squared third sides into lengths, with their cutoff function, and add them up."""
    if functions.is_closed:
        for t in range(0, n, LANES):
            square = load(triples.third, t)
            side = square_root(square)
            store(triples.third, t, side)
            store(triples.lengths, t, load(triples.lengths, t) + side)
            store(triples.squares, t, load(triples.squares, t) + square)
        cutoff_functions(
            envelope.code,
            envelope.parameter,
            envelope.cutoff,
            triples.third,
            n,
            triples.third_value,
            triples.third_slope,
        )
    else:
        for t in range(0, n, LANES):
            store(triples.third_value, t, broadcast(1.0))
            store(triples.third_slope, t, broadcast(0.0))


@inlined
def _gaussian(functions: AngularFunctions, e: int, triples: Triples, t: int) -> Any:
    """Return the exponential of ``-η Σ (r - r_s)²`` over the sides of a block of triples."""
    eta, r_s = functions.eta[e], functions.r_s[e]
    n_sides = 3.0 if functions.is_closed else 2.0
    shifted = load(triples.squares, t) - load(triples.lengths, t) * (2.0 * r_s)
    return exponential((shifted + n_sides * r_s * r_s) * -eta)


@kernel
def _angular_values(
    functions: AngularFunctions,
    envelope: Envelope,
    environment: Environment,
    channels: Channels,
    triples: Triples,
    row: Floats,
) -> None:
    """Add the angular functions of all pairs of neighbours, each pair once."""
    value, bounds = channels.value, channels.bounds
    n_channels = functions.n_channels
    squared_cutoff = envelope.cutoff * envelope.cutoff if functions.is_closed else np.inf
    for a in range(n_channels):
        for b in range(a, n_channels if bounds[a + 1] > bounds[a] else 0):
            n = 0
            for j in range(bounds[a], bounds[a + 1]):
                n = _append_triples(
                    squared_cutoff,
                    environment,
                    value,
                    j,
                    j + 1 if a == b else bounds[b],
                    bounds[b + 1],
                    value[j],
                    False,
                    triples,
                    n,
                )
                if n >= RUN or (n > 0 and j + 1 == bounds[a + 1]):
                    n = _fill_block(triples, n)
                    column = functions.column[a * n_channels + b]
                    _add_values(functions, envelope, triples, n, column, row)
                    n = 0


@inlined
def _add_values(
    functions: AngularFunctions,
    envelope: Envelope,
    triples: Triples,
    n: int,
    column: int,
    row: Floats,
) -> None:
    capacity = triples.capacity
    _tabulate_powers(functions, triples, n)
    _tabulate_third_side(functions, envelope, triples, n)
    for e in range(functions.n_gaussians):
        for t in range(0, n, LANES):
            weight = load(triples.weight, t) * load(triples.third_value, t)
            store(triples.gaussian, e * capacity + t, weight * _gaussian(functions, e, triples, t))
    for f in range(functions.n_functions):
        power, gaussian = functions.power[f] * capacity, functions.gaussian[f] * capacity
        total = broadcast(0.0)
        for t in range(0, n, LANES):
            total = total + load(triples.power, power + t) * load(triples.gaussian, gaussian + t)
        row[column + f] += lane_sum(total)


@kernel
def _angular_gradients(
    functions: AngularFunctions,
    envelope: Envelope,
    environment: Environment,
    channels: Channels,
    triples: Triples,
    output: _Output,
) -> None:
    """Add the angular functions and write their gradients.

    Goes over ordered pairs (j, k), so that the gradient by r_j is complete after each j.
    """
    bounds = channels.bounds
    n_channels = functions.n_channels
    squared_cutoff = envelope.cutoff * envelope.cutoff if functions.is_closed else np.inf
    for a in range(n_channels):
        for j in range(bounds[a], bounds[a + 1]):
            n = 0
            for b in range(n_channels):
                triples.bounds[b] = n
                # The second list leaves j itself out.
                split = j if a == b else bounds[b + 1]
                for first, last in ((bounds[b], split), (split + 1, bounds[b + 1])):
                    n = _append_triples(
                        squared_cutoff,
                        environment,
                        channels.value,
                        j,
                        first,
                        last,
                        1.0,
                        True,
                        triples,
                        n,
                    )
                n = _fill_block(triples, n)
            triples.bounds[n_channels] = n
            _tabulate_powers(functions, triples, n)
            _tabulate_third_side(functions, envelope, triples, n)
            _tabulate_gradients(functions, environment, channels, j, triples, n)
            for b in range(n_channels):
                if triples.bounds[b + 1] > triples.bounds[b]:
                    column = functions.column[a * n_channels + b]
                    _sum_gradients(functions, environment, j, b, column, triples, output)
                    _write_block(functions.n_functions, column, j, environment, output)


@inlined
def _tabulate_gradients(
    functions: AngularFunctions,
    environment: Environment,
    channels: Channels,
    j: int,
    triples: Triples,
    n: int,
) -> None:
    """Write the Gaussians of the triples of j, and all derivatives by r_j.

    These are combinations of r_j and r_k: the cosine gives ``r_k / (r_j r_k) - cos θ r_j / r_j²``,
    a function of the third side something along ``r_j - r_k``.
    """
    capacity = triples.capacity
    inverse_r = environment.inverse_r[j]
    value, slope = channels.value[j], channels.slope[j] * inverse_r
    for p in range(functions.n_powers):
        row = p * capacity
        for t in range(0, n, LANES):
            derivative = load(triples.power_along_j, row + t) * inverse_r
            along_j = derivative * load(triples.cosine, t) * -inverse_r
            store(triples.power_along_j, row + t, along_j)
            store(triples.power_along_k, row + t, derivative * load(triples.inverse_r, t))
    for e in range(functions.n_gaussians):
        eta, r_s = functions.eta[e], functions.r_s[e]
        third_eta = 2.0 * eta if functions.is_closed else 0.0
        side_slope = slope - 2.0 * eta * (1.0 - r_s * inverse_r) * value
        row = e * capacity
        for t in range(0, n, LANES):
            inverse_third = 1.0 / load(triples.third, t)
            third_value = load(triples.third_value, t)
            gaussian = load(triples.weight, t) * _gaussian(functions, e, triples, t)
            third_slope = load(triples.third_slope, t) * inverse_third
            pull = third_slope - (1.0 - inverse_third * r_s) * third_value * third_eta
            third = gaussian * pull * value
            gaussian = gaussian * third_value
            store(triples.gaussian, row + t, gaussian * value)
            store(triples.gaussian_along_j, row + t, gaussian * side_slope + third)
            store(triples.gaussian_along_k, row + t, third * -1.0)


@inlined
def _sum_gradients(
    functions: AngularFunctions,
    environment: Environment,
    j: int,
    b: int,
    column: int,
    triples: Triples,
    output: _Output,
) -> None:
    """Add the functions of j with channel b to the row, and write their gradient by r_j."""
    for f in range(functions.n_functions):
        p = functions.power[f] * triples.capacity
        e = functions.gaussian[f] * triples.capacity
        total, along_j = broadcast(0.0), broadcast(0.0)
        x, y, z = broadcast(0.0), broadcast(0.0), broadcast(0.0)
        for t in range(triples.bounds[b], triples.bounds[b + 1], LANES):
            power, gaussian = load(triples.power, p + t), load(triples.gaussian, e + t)
            total = total + power * gaussian
            along_j = along_j + power * load(triples.gaussian_along_j, e + t)
            along_j = along_j + gaussian * load(triples.power_along_j, p + t)
            along_k = power * load(triples.gaussian_along_k, e + t)
            along_k = along_k + gaussian * load(triples.power_along_k, p + t)
            x = x + along_k * load(triples.x, t)
            y = y + along_k * load(triples.y, t)
            z = z + along_k * load(triples.z, t)
        # Each triple is met from both of its neighbours.
        output.row[column + f] += 0.5 * lane_sum(total)
        along = lane_sum(along_j)
        output.block[f] = along * environment.x[j] + lane_sum(x)
        output.block[output.n_block + f] = along * environment.y[j] + lane_sum(y)
        output.block[2 * output.n_block + f] = along * environment.z[j] + lane_sum(z)
