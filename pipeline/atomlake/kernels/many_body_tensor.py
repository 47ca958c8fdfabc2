"""Sums of Gaussians on a grid, one for each pair or triple of atoms.

A pair or a triple is one number (a distance, the cosine of an angle, ...), broadened by a
Gaussian whose share in each bin of a grid is added to the bins of its species. The axis
is cut into segments shorter than a standard deviation. On a segment the share in a bin is
a polynomial in the place of the Gaussian's centre, ``Σ_d c_d x^d``, with coefficients from
a table (:class:`Bins`). So the sum over all Gaussians on a segment needs only their moments
``Σ w x^d``: a Gaussian costs two SIMD registers, and the bins around a segment are
evaluated once, however many Gaussians there are. Gradients are evaluated for each Gaussian,
as each has atoms of its own: on finer segments, where polynomials are shorter. There is no call
of the error function.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel
from atomlake.kernels.cutoffs import AMP_POLYNOMIAL, cutoff_function
from atomlake.kernels.elementary import exponential
from atomlake.kernels.lanes import (
    LANES,
    append_between,
    broadcast,
    load,
    load_some,
    pack_below,
    pointer,
    square_root,
    store,
    store_some,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Vector = tuple[float, float, float]

DISTANCE = 0
INVERSE_DISTANCE = 1
COSINE = 2
ANGLE = 3

UNITY = 0
EXPONENTIAL = 1
INVERSE_SQUARE = 2
SMOOTH_CUTOFF = 3

#: Coefficients of each polynomial whose moments are summed: two registers.
N_MOMENTS = 2 * LANES
#: Coefficients of each polynomial that is evaluated for a single Gaussian.
N_SINGLE = 10

#: Below this sine three atoms lie on a line, where the angle has no derivative.
COLLINEAR_SINE = 1e-6

_DEGREES = 180.0 / math.pi


class Bins(NamedTuple):
    """The bins of a grid, and the share of a Gaussian in the bins around its centre.

    Attributes
    ----------
    first_edge : float
        Where the first bin begins, and the segment 0.
    n_bins : int
        Bins of the grid.
    segment : float
        Length of a segment of the axis.
    bins_per_segment, segments_per_bin : int
        A segment is several whole bins, or a part of one; the other number is 1.
    first_segment, n_segments : int
        Segments from which a Gaussian reaches the grid; the first is negative.
    n_before : int
        The table begins this many bins before the bin in which the segment begins.
    n_blocks : int
        Blocks of bins in the table.
    table : float64 array, shape (segments_per_bin, n_blocks, n_coefficients, LANES)
        Coefficients in ascending order of the polynomial in x, which runs from -1 to 1
        along the segment.
    """

    first_edge: float
    n_bins: int
    segment: float
    bins_per_segment: int
    segments_per_bin: int
    first_segment: int
    n_segments: int
    n_before: int
    n_blocks: int
    table: Floats


class Weighting(NamedTuple):
    """What a pair or triple counts for: a product of a function of its sides.

    Attributes
    ----------
    function : int
        One of the constants above.
    parameter : float
        Decay in 1/Å of ``EXPONENTIAL``, sharpness of ``SMOOTH_CUTOFF``.
    cutoff : float
        In Å, may be infinite. A pair must be closer, and both sides of an angle shorter.
        For ``EXPONENTIAL`` instead the sides of the triangle must not add up to more than
        twice the cutoff.
    """

    function: int
    parameter: float
    cutoff: float


class Term(NamedTuple):
    """One kind of correlation of pairs or of triples.

    Attributes
    ----------
    geometry : int
        One of the constants above.
    bins : Bins
        For moments, with :data:`N_MOMENTS` coefficients.
    single_bins : Bins
        The same bins with :data:`N_SINGLE` coefficients.
    weighting : Weighting
    first_column : int
        Feature column where the term begins.
    n_species : int
        Species that are told apart.
    channel : int64 array, shape (n_species,) * 2 or (n_species,) * 3
        Which run of bins belongs to a pair of species, or to a triple of which the
        species of the atom that the angle is at comes first.
    """

    geometry: int
    bins: Bins
    single_bins: Bins
    weighting: Weighting
    first_column: int
    n_species: int
    channel: Integers


class Atoms(NamedTuple):
    """Atoms of a batch, and the species they are told apart by.

    Attributes
    ----------
    numbers, positions : array
        As in :class:`atomlake.structures.Structures`.
    species : int64 array
        Species of each atomic number, an axis of ``Term.channel``.
    structure : int64 array, shape (n_centres,)
        Row of ``Output.factors`` and of ``structure_offsets`` for each centre.
    structure_offsets : int64 array, shape (n_structures + 1,)
        Atoms of the structures of the centres.
    """

    numbers: NDArray[np.int32]
    positions: Floats
    species: Integers
    structure: Integers
    structure_offsets: Integers


class Pairs(NamedTuple):
    """The neighbour list, as in :class:`atomlake.neighbours.Neighbours`.

    Vectors have no rows where there are neither angles nor gradients.
    """

    pair_offsets: Integers
    neighbour_index: Integers
    vectors: Floats
    distances: Floats


class Output(NamedTuple):
    """Where features and gradients of the centres ``first:last`` are added.

    Attributes
    ----------
    is_local : bool
        Either each centre has a row of features, and one of gradients for each of its
        pairs, and is itself of the species that is last in ``Term.channel``; or each
        structure has a row of features, and one of gradients for each of its atoms.
    n_features : int
        Length of a row.
    n_channels : int
        Channels of the term.
    factors : float64 array, shape (n_structures, n_channels)
        What a structure's pairs or triples of a channel are multiplied with.
    features, gradient_positions, gradient_strain : float64 array
        Rows of shape (n_features,), (3, n_features) and (3, 3, n_features). A gradient
        that is not wanted has no rows. Of the derivative by strain, which is symmetric,
        only the upper triangle is added to.
    """

    is_local: bool
    n_features: int
    n_channels: int
    factors: Floats
    features: Floats
    gradient_positions: Floats
    gradient_strain: Floats


class Scratch(NamedTuple):
    """Memory of a kernel; made by :func:`scratch`."""

    # Neighbours of one centre, those within the weighting's cutoff first.
    x: Floats
    y: Floats
    z: Floats
    r: Floats
    # Species of each, and the row of the gradient with respect to its position.
    species: Integers
    row: Integers
    # The weighting's function of r, and its derivative.
    side: Floats
    side_slope: Floats
    # Neighbours that make a triple with one of them: squared third side less what the perimeter
    # allows it, the side, and the weighting's function of it.
    other: NDArray[np.int32]
    excess: Floats
    third: Floats
    third_side: Floats
    third_slope: Floats
    # Gaussians to add: where, how much, to which channel; place of the pair or triple above.
    value: Floats
    weight: Floats
    channel: Integers
    place: Integers
    # (n_channels,) whether a row has Gaussians of the channel, and (n_channels, n_segments,
    # N_MOMENTS) their moments.
    is_touched: Integers
    moments: Floats
    # (6, LANES) factors of the powers of x.
    powers: Floats
    # Runs of bins that a Gaussian changes in the gradients: where each begins, and what the
    # share in a bin and its derivative by the value are multiplied with. Those of the gradient
    # by strain begin at _N_POSITION_RUNS.
    run: Integers
    by_share: Floats
    by_slope: Floats


#: Runs of bins of the gradient by the positions of three atoms, and of that by strain.
_N_POSITION_RUNS = 9
_N_STRAIN_RUNS = 6


class _Corner(NamedTuple):
    """An atom of a triple."""

    # Relative to the centre.
    position: Vector
    species: int
    # Row of the gradient by its position; -1 for none.
    row: int
    # Length of the side that lies opposite, and the weighting's function of it.
    length: float
    side: float
    side_slope: float


class _Angle(NamedTuple):
    """The angle at a corner of a triple."""

    # What is counted on the grid, and its derivative by the cosine.
    value: float
    slope: float
    cosine: float
    # Vectors to both other corners, and their inverse lengths.
    u: Vector
    v: Vector
    inverse_u: float
    inverse_v: float


class _Arm(NamedTuple):
    """From where a pair starts, or from where the angle of a triple is, to another atom.

    When the other atom moves by d, the share of the Gaussian in a bin changes by the
    product of d with ``by_share`` times the share, plus that with ``by_slope`` times the
    derivative of the share by the value.
    """

    row: int
    vector: Vector
    by_share: Vector
    by_slope: Vector


class _Window(NamedTuple):
    """The bins that a Gaussian of one segment reaches."""

    # Bin where the table begins; may be negative.
    start: int
    # Range of the table's blocks that overlap with the grid.
    first_block: int
    last_block: int
    # Where the coefficients of the segment begin in the table.
    coefficients: int


def scratch(capacity: int, n_channels: int, n_moments: int) -> Scratch:
    """Return memory for centres of up to ``capacity`` neighbours.

    Parameters
    ----------
    capacity : int
        Most neighbours of a centre.
    n_channels : int
        Channels of the term.
    n_moments : int
        Moments of each channel; none are needed for gradients.
    """
    # Blocks of lanes are read and written whole.
    capacity += LANES
    n_runs = _N_POSITION_RUNS + _N_STRAIN_RUNS
    lane = np.arange(LANES)
    has_power = [(lane & power) > 0 for power in (1, 2, 4)]
    return Scratch(
        x=np.empty(capacity),
        y=np.empty(capacity),
        z=np.empty(capacity),
        r=np.empty(capacity),
        species=np.empty(capacity, np.int64),
        row=np.empty(capacity, np.int64),
        side=np.empty(capacity),
        side_slope=np.empty(capacity),
        other=np.empty(capacity, np.int32),
        excess=np.empty(capacity),
        third=np.empty(capacity),
        third_side=np.empty(capacity),
        third_slope=np.empty(capacity),
        value=np.empty(capacity),
        weight=np.empty(capacity),
        channel=np.empty(capacity, np.int64),
        place=np.empty(capacity, np.int64),
        is_touched=np.zeros(n_channels, np.int64),
        moments=np.zeros((n_channels, n_moments)),
        powers=np.array([f for has in has_power for f in (has, ~has)], dtype=np.float64),
        run=np.empty(n_runs, np.int64),
        by_share=np.empty(n_runs),
        by_slope=np.empty(n_runs),
    )


@kernel
def add_pairs(
    first: int,
    last: int,
    atoms: Atoms,
    pairs: Pairs,
    term: Term,
    scratch: Scratch,
    output: Output,
) -> None:
    """Add the pairs of the centres ``first:last``.

    Whole structures have each pair once. A pair of an atom and its own periodic image is
    met from both ends and counts one half each time.
    """
    has_positions, has_strain = output.gradient_positions.size > 0, output.gradient_strain.size > 0
    atoms, pairs, term = _atom_pointers(atoms), _pair_pointers(pairs), _term_pointers(term)
    scratch, output = _scratch_pointers(scratch), _output_pointers(output)
    is_inverse = term.geometry == INVERSE_DISTANCE
    cutoff = term.weighting.cutoff
    no_arm = _Arm(-1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    for i in range(first, last):
        structure, feature_row, own_row, own_species = _centre(i, first, atoms, term, output)
        n, _ = _gather(
            i,
            first,
            cutoff,
            cutoff,
            atoms,
            pairs,
            output.is_local,
            has_positions or has_strain,
            scratch,
        )
        _weigh(term.weighting, n, scratch.r, scratch.side, scratch.side_slope)
        n_gaussians = 0
        for j in range(n):
            if scratch.row[j] < own_row:
                continue
            channel = term.channel[own_species * term.n_species + scratch.species[j]]
            factor = output.factors[structure * output.n_channels + channel]
            if scratch.row[j] == own_row:
                factor *= 0.5
            scratch.side_slope[j] *= factor
            scratch.value[n_gaussians] = 1.0 / scratch.r[j] if is_inverse else scratch.r[j]
            scratch.weight[n_gaussians] = factor * scratch.side[j]
            scratch.channel[n_gaussians] = channel
            scratch.place[n_gaussians] = j
            n_gaussians += scratch.side[j] > 0.0
        if not (has_positions or has_strain):
            _add_moments(n_gaussians, term.bins, scratch)
            if output.is_local or _is_last(i, first, last, atoms):
                _add_values(feature_row, term, scratch, output)
            continue
        for g in range(n_gaussians):
            j = scratch.place[g]
            r = scratch.r[j]
            vector = scratch.x[j], scratch.y[j], scratch.z[j]
            value_slope = -1.0 / (r * r) if is_inverse else 1.0
            by_share = _scaled(scratch.side_slope[j] / r, vector)
            by_slope = _scaled(scratch.weight[g] * value_slope / r, vector)
            arm = _Arm(scratch.row[j], vector, by_share, by_slope)
            _add_value_and_changes(
                g,
                feature_row,
                arm,
                no_arm,
                own_row,
                has_positions,
                has_strain,
                term,
                scratch,
                output,
            )


@kernel
def add_triples(
    first: int,
    last: int,
    atoms: Atoms,
    pairs: Pairs,
    term: Term,
    scratch: Scratch,
    output: Output,
) -> None:
    """Add the triples of the centres ``first:last``.

    Whole structures have the angles at each centre. A centre with a row of its own has
    all angles it takes part in: those at itself, and those at its neighbours.
    """
    has_positions, has_strain = output.gradient_positions.size > 0, output.gradient_strain.size > 0
    atoms, pairs, term = _atom_pointers(atoms), _pair_pointers(pairs), _term_pointers(term)
    scratch, output = _scratch_pointers(scratch), _output_pointers(output)
    cutoff = term.weighting.cutoff
    is_closed = term.weighting.function == EXPONENTIAL
    limit = 2.0 * cutoff if is_closed else np.inf
    # An angle at a neighbour may end at an atom that is as far again from that neighbour.
    reach = 2.0 * cutoff if output.is_local and not is_closed else cutoff

    for i in range(first, last):
        structure, feature_row, own_row, own_species = _centre(i, first, atoms, term, output)
        n_near, n = _gather(i, first, cutoff, reach, atoms, pairs, output.is_local, True, scratch)
        _weigh(term.weighting, n, scratch.r, scratch.side, scratch.side_slope)
        for j in range(n_near):
            n_others = _list_others(j, n, limit, scratch)
            if is_closed or output.is_local:
                _weigh(
                    term.weighting,
                    n_others,
                    scratch.third,
                    scratch.third_side,
                    scratch.third_slope,
                )
            for corner in range(3 if output.is_local else 1):
                n_gaussians = 0
                for t in range(n_others):
                    at, p, q = _triangle(corner, j, t, own_species, own_row, scratch)
                    weight = p.side * q.side * (at.side if is_closed else 1.0)
                    channel = term.channel[
                        (at.species * term.n_species + p.species) * term.n_species + q.species
                    ]
                    factor = output.factors[structure * output.n_channels + channel]
                    scratch.value[n_gaussians] = _angle(term.geometry, at, p, q).value
                    scratch.weight[n_gaussians] = factor * weight
                    scratch.channel[n_gaussians] = channel
                    scratch.place[n_gaussians] = t
                    n_gaussians += weight > 0.0
                if not (has_positions or has_strain):
                    _add_moments(n_gaussians, term.bins, scratch)
                    continue
                for g in range(n_gaussians):
                    at, p, q = _triangle(corner, j, scratch.place[g], own_species, own_row, scratch)
                    factor = output.factors[structure * output.n_channels + scratch.channel[g]]
                    arm_p, arm_q = _arms(
                        _angle(term.geometry, at, p, q),
                        scratch.weight[g],
                        factor,
                        is_closed,
                        at,
                        p,
                        q,
                    )
                    _add_value_and_changes(
                        g,
                        feature_row,
                        arm_p,
                        arm_q,
                        at.row,
                        has_positions,
                        has_strain,
                        term,
                        scratch,
                        output,
                    )
        if not (has_positions or has_strain) and (
            output.is_local or _is_last(i, first, last, atoms)
        ):
            _add_values(feature_row, term, scratch, output)


@inlined
def _is_last(i: int, first: int, last: int, atoms: Atoms) -> bool:
    """Whether no later centre is of the same structure."""
    return i + 1 == last or atoms.structure[i + 1 - first] != atoms.structure[i - first]


@inlined
def _atom_pointers(atoms: Atoms) -> Atoms:
    return Atoms(
        pointer(atoms.numbers),
        pointer(atoms.positions),
        pointer(atoms.species),
        pointer(atoms.structure),
        pointer(atoms.structure_offsets),
    )


@inlined
def _pair_pointers(pairs: Pairs) -> Pairs:
    return Pairs(
        pointer(pairs.pair_offsets),
        pointer(pairs.neighbour_index),
        pointer(pairs.vectors),
        pointer(pairs.distances),
    )


@inlined
def _term_pointers(term: Term) -> Term:
    return Term(
        term.geometry,
        _bin_pointers(term.bins),
        _bin_pointers(term.single_bins),
        term.weighting,
        term.first_column,
        term.n_species,
        pointer(term.channel),
    )


@inlined
def _bin_pointers(bins: Bins) -> Bins:
    return Bins(
        bins.first_edge,
        bins.n_bins,
        bins.segment,
        bins.bins_per_segment,
        bins.segments_per_bin,
        bins.first_segment,
        bins.n_segments,
        bins.n_before,
        bins.n_blocks,
        pointer(bins.table),
    )


@inlined
def _output_pointers(output: Output) -> Output:
    return Output(
        output.is_local,
        output.n_features,
        output.n_channels,
        pointer(output.factors),
        pointer(output.features),
        pointer(output.gradient_positions),
        pointer(output.gradient_strain),
    )


@inlined
def _scratch_pointers(scratch: Scratch) -> Scratch:
    return Scratch(
        pointer(scratch.x),
        pointer(scratch.y),
        pointer(scratch.z),
        pointer(scratch.r),
        pointer(scratch.species),
        pointer(scratch.row),
        pointer(scratch.side),
        pointer(scratch.side_slope),
        pointer(scratch.other),
        pointer(scratch.excess),
        pointer(scratch.third),
        pointer(scratch.third_side),
        pointer(scratch.third_slope),
        pointer(scratch.value),
        pointer(scratch.weight),
        pointer(scratch.channel),
        pointer(scratch.place),
        pointer(scratch.is_touched),
        pointer(scratch.moments),
        pointer(scratch.powers),
        pointer(scratch.run),
        pointer(scratch.by_share),
        pointer(scratch.by_slope),
    )


@inlined
def _centre(
    i: int, first: int, atoms: Atoms, term: Term, output: Output
) -> tuple[int, int, int, int]:
    """Rows of the centre's factors, of its features and of its gradient, and its species."""
    structure = atoms.structure[i - first]
    if output.is_local:
        return structure, i - first, -1, term.n_species - 1
    return structure, structure, i - first, atoms.species[atoms.numbers[i]]


@inlined
def _side(weighting: Weighting, r: float) -> tuple[float, float]:
    """What a side counts for that is not weighted exponentially, and its derivative."""
    if r >= weighting.cutoff:
        return 0.0, 0.0
    if weighting.function == INVERSE_SQUARE:
        value = 1.0 / (r * r)
        return value, -2.0 * value / r
    if weighting.function == SMOOTH_CUTOFF:
        return cutoff_function(AMP_POLYNOMIAL, weighting.parameter, weighting.cutoff, r)
    return 1.0, 0.0


@inlined
def _gather(
    i: int,
    first: int,
    cutoff: float,
    reach: float,
    atoms: Atoms,
    pairs: Pairs,
    is_local: bool,
    has_vectors: bool,
    scratch: Scratch,
) -> tuple[int, int]:
    """Collect neighbours below ``reach``, those below ``cutoff`` first; return both counts.

    Vectors, three fifths of what is read of a pair, are left out where distances are enough.
    An infinite cutoff takes all other atoms of the structure, whatever the neighbour list.
    """
    n = 0
    if cutoff == np.inf:
        s = atoms.structure[i - first]
        for j in range(atoms.structure_offsets[s], atoms.structure_offsets[s + 1]):
            if j == i:
                continue
            x = atoms.positions[3 * j] - atoms.positions[3 * i]
            y = atoms.positions[3 * j + 1] - atoms.positions[3 * i + 1]
            z = atoms.positions[3 * j + 2] - atoms.positions[3 * i + 2]
            scratch.x[n], scratch.y[n], scratch.z[n] = x, y, z
            scratch.r[n] = math.sqrt(x * x + y * y + z * z)
            scratch.species[n] = atoms.species[atoms.numbers[j]]
            scratch.row[n] = j - first
            n += 1
        return n, n
    n_near = 0
    lower, upper = 0.0, cutoff
    for _ in range(1 if reach == cutoff else 2):
        for pair in range(pairs.pair_offsets[i], pairs.pair_offsets[i + 1]):
            r = pairs.distances[pair]
            if lower <= r < upper:
                j = pairs.neighbour_index[pair]
                if has_vectors:
                    scratch.x[n] = pairs.vectors[3 * pair]
                    scratch.y[n] = pairs.vectors[3 * pair + 1]
                    scratch.z[n] = pairs.vectors[3 * pair + 2]
                scratch.r[n] = r
                scratch.species[n] = atoms.species[atoms.numbers[j]]
                scratch.row[n] = pair - pairs.pair_offsets[first] if is_local else j - first
                n += 1
        if lower == 0.0:
            n_near = n
        lower, upper = cutoff, reach
    return n_near, n


@inlined
def _list_others(j: int, n: int, limit: float, scratch: Scratch) -> int:
    """List neighbours after j with which the perimeter stays below the limit; count them."""
    x, y, z, rest = scratch.x[j], scratch.y[j], scratch.z[j], limit - scratch.r[j]
    n_others = 0
    for k in range(j + 1, n, LANES):
        dx, dy, dz = load(scratch.x, k) - x, load(scratch.y, k) - y, load(scratch.z, k) - z
        # The longest third side that the limit leaves.
        longest = rest - load(scratch.r, k)
        square = dx * dx + dy * dy + dz * dz
        excess = square - longest * longest
        third = square_root(pack_below(square, excess, 0.0, n - k))
        store(scratch.third, n_others, third)
        n_others = append_between(
            scratch.excess, scratch.other, n_others, excess, -np.inf, 0.0, k, n
        )
    return n_others


@inlined
def _weigh(weighting: Weighting, n: int, lengths: Floats, side: Floats, slope: Floats) -> None:
    """Say what the first n of some sides count for, and its derivative by their lengths."""
    if weighting.function == EXPONENTIAL:
        rate = -weighting.parameter
        for t in range(0, n, LANES):
            value = exponential(load(lengths, t) * rate)
            store(side, t, value)
            store(slope, t, value * rate)
    else:
        for t in range(n):
            side[t], slope[t] = _side(weighting, lengths[t])


@inlined
def _triangle(
    corner: int, j: int, t: int, own_species: int, own_row: int, scratch: Scratch
) -> tuple[_Corner, _Corner, _Corner]:
    """Corners of the triple of the centre, j and the other number t, ``corner`` first."""
    k = scratch.other[t]
    centre = _Corner(
        (0.0, 0.0, 0.0),
        own_species,
        own_row,
        scratch.third[t],
        scratch.third_side[t],
        scratch.third_slope[t],
    )
    p, q = _corner(j, k, scratch), _corner(k, j, scratch)
    if corner == 0:
        return centre, p, q
    if corner == 1:
        return p, q, centre
    return q, centre, p


@inlined
def _corner(j: int, k: int, scratch: Scratch) -> _Corner:
    """Neighbour j as a corner; opposite lies the side from the centre to neighbour k."""
    return _Corner(
        (scratch.x[j], scratch.y[j], scratch.z[j]),
        scratch.species[j],
        scratch.row[j],
        scratch.r[k],
        scratch.side[k],
        scratch.side_slope[k],
    )


@inlined
def _angle(geometry: int, at: _Corner, p: _Corner, q: _Corner) -> _Angle:
    """The angle between p and q, or its cosine."""
    u = _combined(1.0, p.position, -1.0, at.position)
    v = _combined(1.0, q.position, -1.0, at.position)
    # The side to p lies opposite of q, and the other way round.
    inverse_u, inverse_v = 1.0 / q.length, 1.0 / p.length
    dot = u[0] * v[0] + u[1] * v[1] + u[2] * v[2]
    # Rounding can take a cosine past ±1.
    cosine = min(max(dot * inverse_u * inverse_v, -1.0), 1.0)
    if geometry == COSINE:
        return _Angle(cosine, 1.0, cosine, u, v, inverse_u, inverse_v)
    x, y, z = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
    area = math.sqrt(x * x + y * y + z * z)
    sine = area * inverse_u * inverse_v
    slope = -_DEGREES / sine if sine > COLLINEAR_SINE else 0.0
    return _Angle(_DEGREES * math.atan2(area, dot), slope, cosine, u, v, inverse_u, inverse_v)


@inlined
def _arms(
    angle: _Angle,
    weight: float,
    factor: float,
    is_closed: bool,
    at: _Corner,
    p: _Corner,
    q: _Corner,
) -> tuple[_Arm, _Arm]:
    """What moving p and q does to the Gaussian of their angle."""
    u, v = angle.u, angle.v
    share_u = factor * q.side_slope * p.side * angle.inverse_u
    share_v = factor * p.side_slope * q.side * angle.inverse_v
    share_w = 0.0
    if is_closed:
        share_u *= at.side
        share_v *= at.side
        share_w = factor * p.side * q.side * at.side_slope / at.length
    # The gradient of the cosine by the end of an arm is the unit vector of the other arm less
    # its part along this arm, divided by the length of this arm.
    turn = weight * angle.slope
    slope_u = -turn * angle.cosine * angle.inverse_u * angle.inverse_u
    slope_v = -turn * angle.cosine * angle.inverse_v * angle.inverse_v
    slope_w = turn * angle.inverse_u * angle.inverse_v
    return (
        _Arm(
            p.row,
            u,
            _combined(share_u + share_w, u, -share_w, v),
            _combined(slope_u, u, slope_w, v),
        ),
        _Arm(
            q.row,
            v,
            _combined(share_v + share_w, v, -share_w, u),
            _combined(slope_v, v, slope_w, u),
        ),
    )


@inlined
def _scaled(a: float, u: Vector) -> Vector:
    return a * u[0], a * u[1], a * u[2]


@inlined
def _combined(a: float, u: Vector, b: float, v: Vector) -> Vector:
    """Return ``a u + b v``."""
    return a * u[0] + b * v[0], a * u[1] + b * v[1], a * u[2] + b * v[2]


@inlined
def _add_moments(n: int, bins: Bins, scratch: Scratch) -> None:
    """Add the first n Gaussians of the list to the moments of their segments."""
    moments = scratch.moments
    has_x, no_x = load(scratch.powers, 0), load(scratch.powers, LANES)
    has_x2, no_x2 = load(scratch.powers, 2 * LANES), load(scratch.powers, 3 * LANES)
    has_x4, no_x4 = load(scratch.powers, 4 * LANES), load(scratch.powers, 5 * LANES)
    for g in range(n):
        segment, x = _segment(bins, scratch.value[g])
        place = segment - bins.first_segment
        if place < 0 or place >= bins.n_segments:
            continue
        scratch.is_touched[scratch.channel[g]] = 1
        x2 = x * x
        x4 = x2 * x2
        # The powers of x from 0 to 7; in lane d are the factors that the bits of d say.
        low = (has_x * x + no_x) * (has_x2 * x2 + no_x2) * (has_x4 * x4 + no_x4) * scratch.weight[g]
        t = (scratch.channel[g] * bins.n_segments + place) * N_MOMENTS
        store(moments, t, load(moments, t) + low)
        store(moments, t + LANES, load(moments, t + LANES) + low * (x4 * x4))


@inlined
def _add_values(feature_row: int, term: Term, scratch: Scratch, output: Output) -> None:
    """Turn all moments into features of a row, and clear them."""
    bins, moments, features = term.bins, scratch.moments, output.features
    row = feature_row * output.n_features + term.first_column
    zeros = broadcast(0.0)
    for channel in range(output.n_channels):
        if scratch.is_touched[channel] == 0:
            continue
        scratch.is_touched[channel] = 0
        start = row + channel * bins.n_bins
        for place in range(bins.n_segments):
            t = (channel * bins.n_segments + place) * N_MOMENTS
            # The sum of weights, all of which are positive.
            if moments[t] == 0.0:
                continue
            window = _window(bins, bins.first_segment + place, N_MOMENTS)
            for block in range(window.first_block, window.last_block):
                bin_ = window.start + block * LANES
                lower, upper = max(0, -bin_), min(LANES, bins.n_bins - bin_)
                at = window.coefficients + block * N_MOMENTS * LANES
                sum_ = load_some(features, start + bin_, lower, upper)
                for d in range(N_MOMENTS):
                    sum_ = sum_ + load(bins.table, at + d * LANES) * moments[t + d]
                store_some(features, start + bin_, sum_, lower, upper)
            store(moments, t, zeros)
            store(moments, t + LANES, zeros)


@inlined
def _add_value_and_changes(
    g: int,
    feature_row: int,
    p: _Arm,
    q: _Arm,
    start_row: int,
    has_positions: bool,
    has_strain: bool,
    term: Term,
    scratch: Scratch,
    output: Output,
) -> None:
    """Add one Gaussian of the list to the features, and its changes to the gradients."""
    bins = term.single_bins
    column = term.first_column + scratch.channel[g] * bins.n_bins
    n_positions, n_strain = 0, 0
    if has_positions:
        # Moving the atom where the arms start moves all ends the other way.
        by_share = _combined(-1.0, p.by_share, -1.0, q.by_share)
        by_slope = _combined(-1.0, p.by_slope, -1.0, q.by_slope)
        n_positions = _list_runs(p.row, p.by_share, p.by_slope, 0, column, scratch, output)
        n_positions = _list_runs(
            q.row, q.by_share, q.by_slope, n_positions, column, scratch, output
        )
        n_positions = _list_runs(
            start_row, by_share, by_slope, n_positions, column, scratch, output
        )
    if has_strain:
        n_strain = _N_STRAIN_RUNS
        _list_strain_runs(p, q, feature_row, column, scratch, output)
    segment, x = _segment(bins, scratch.value[g])
    window = _window(bins, segment, N_SINGLE)
    start = feature_row * output.n_features + column
    for block in range(window.first_block, window.last_block):
        bin_ = window.start + block * LANES
        lower, upper = max(0, -bin_), min(LANES, bins.n_bins - bin_)
        share, slope = _share_and_slope(bins, window, block, x)
        sum_ = load_some(output.features, start + bin_, lower, upper) + share * scratch.weight[g]
        store_some(output.features, start + bin_, sum_, lower, upper)
        for t in range(n_positions):
            _add_changes(output.gradient_positions, t, bin_, lower, upper, share, slope, scratch)
        for t in range(_N_POSITION_RUNS, _N_POSITION_RUNS + n_strain):
            _add_changes(output.gradient_strain, t, bin_, lower, upper, share, slope, scratch)


@inlined
def _add_changes(
    gradient: Floats,
    t: int,
    bin_: int,
    lower: int,
    upper: int,
    share: Any,
    slope: Any,
    scratch: Scratch,
) -> None:
    """Add a Gaussian's changes to one block of one run of bins."""
    place = scratch.run[t] + bin_
    change = share * scratch.by_share[t] + slope * scratch.by_slope[t]
    store_some(gradient, place, load_some(gradient, place, lower, upper) + change, lower, upper)


@inlined
def _segment(bins: Bins, value: float) -> tuple[int, float]:
    """The segment that a value lies in, and x on it."""
    position = (value - bins.first_edge) / bins.segment
    segment = math.floor(position)
    return int(segment), 2.0 * (position - segment) - 1.0


@inlined
def _window(bins: Bins, segment: int, n_coefficients: int) -> _Window:
    """The bins that a Gaussian of a segment reaches."""
    bin_ = segment // bins.segments_per_bin
    start = bin_ * bins.bins_per_segment - bins.n_before
    return _Window(
        start,
        max(0, -start // LANES),
        min(bins.n_blocks, (bins.n_bins - start + LANES - 1) // LANES),
        (segment - bin_ * bins.segments_per_bin) * bins.n_blocks * n_coefficients * LANES,
    )


@inlined
def _share_and_slope(bins: Bins, window: _Window, block: int, x: float) -> tuple[Any, Any]:
    """Share of a Gaussian in a block of bins, and its derivative by the value."""
    at = window.coefficients + block * N_SINGLE * LANES
    share = load(bins.table, at + (N_SINGLE - 1) * LANES)
    slope = share
    for d in range(N_SINGLE - 2, 0, -1):
        share = share * x + load(bins.table, at + d * LANES)
        slope = slope * x + share
    # x runs over 2 while the value runs over the segment.
    return share * x + load(bins.table, at), slope * (2.0 / bins.segment)


@inlined
def _list_runs(
    row: int,
    by_share: Vector,
    by_slope: Vector,
    n: int,
    column: int,
    scratch: Scratch,
    output: Output,
) -> int:
    """List how the gradient by an atom's position changes after n runs; count them all."""
    if row < 0:
        return n
    for a in range(3):
        scratch.run[n + a] = (row * 3 + a) * output.n_features + column
        scratch.by_share[n + a] = by_share[a]
        scratch.by_slope[n + a] = by_slope[a]
    return n + 3


@inlined
def _list_strain_runs(
    p: _Arm, q: _Arm, row: int, column: int, scratch: Scratch, output: Output
) -> None:
    """List how the upper triangle of the gradient by strain changes."""
    n = _N_POSITION_RUNS
    for a in range(3):
        for b in range(a, 3):
            scratch.run[n] = (row * 9 + a * 3 + b) * output.n_features + column
            scratch.by_share[n] = p.by_share[a] * p.vector[b] + q.by_share[a] * q.vector[b]
            scratch.by_slope[n] = p.by_slope[a] * p.vector[b] + q.by_slope[a] * q.vector[b]
            n += 1


@kernel
def normalise(
    first_column: int,
    last_column: int,
    row_offsets: Integers,
    features: Floats,
    gradient_positions: Floats,
    gradient_strain: Floats,
) -> None:
    """Divide a range of columns of each row by its Euclidean norm, and its gradients with it.

    A row of zeros stays one, and its gradients become zero.

    Parameters
    ----------
    row_offsets : array, shape (n + 1,)
        Rows of ``gradient_positions`` that belong to each row of features.
    features : array, shape (n, n_features)
    gradient_positions : array, shape (n_rows, 3, n_features) or no rows
    gradient_strain : array, shape (n, 3, 3, n_features) or no rows
    """
    for i in range(features.shape[0]):
        row = features[i, first_column:last_column]
        square = 0.0
        for f in range(row.shape[0]):
            square += row[f] * row[f]
        inverse = 1.0 / math.sqrt(square) if square > 0.0 else 0.0
        for f in range(row.shape[0]):
            row[f] *= inverse
        if gradient_positions.shape[0] > 0:
            for t in range(row_offsets[i], row_offsets[i + 1]):
                for a in range(3):
                    _project(gradient_positions[t, a, first_column:last_column], row, inverse)
        if gradient_strain.shape[0] > 0:
            for a in range(3):
                for b in range(3):
                    _project(gradient_strain[i, a, b, first_column:last_column], row, inverse)


@inlined
def _project(gradient: Floats, row: Floats, inverse: float) -> None:
    """Turn the gradient of a row into that of the row divided by its norm."""
    along = 0.0
    for f in range(row.shape[0]):
        along += gradient[f] * row[f]
    for f in range(row.shape[0]):
        gradient[f] = inverse * (gradient[f] - along * row[f])
