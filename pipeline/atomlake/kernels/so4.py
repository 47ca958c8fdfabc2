"""Bispectrum of a density projected on the 3-sphere, with its derivatives.

A neighbour at ``r`` becomes a rotation by ``2 θ(r)`` about ``r``, that is the unit
quaternion ``(cos θ, sin θ r/|r|)``, and counts for ``s(r)``. The density of the neighbours is
expanded in the representations ``U^j`` of rotations, ``u^j = Σ s U^j``, and triples of
expansion coefficients are coupled to invariants. With ``u^j(q)`` the part of the density
that the coefficients ``u^j`` describe, an invariant is the integral of
``u^j1(q) u^j2(q) u^j(q)`` over the sphere, so it depends on the three in the same way
(A. P. Bartók et al., Phys. Rev. Lett. 104, 136403 (2010), equations 3 to 5).

**Numbers.** ``j`` is twice the angular momentum; rows and columns of ``U^j`` count
``0..j``. ``U^j[j-row, j-m] = (-1)^(row-m) conj U^j[row, m]``, so the rows ``0..j/2`` hold
everything: ``(j + 1)²`` independent real numbers, the *block* of ``j``, in the order
``[row, m, real or imaginary]``. In the middle row of an even ``j`` it ends with the real
element ``m = j/2``. A *channel* is an element (a group of species with a density of its
own) with a ``j``.

**Lanes.** The functions of a centre's neighbours are computed for eight neighbours at
once, the couplings for eight centres at once: both are the same arithmetic in every lane,
whatever the ``j``. Derivatives of components are then one product of matrices per centre:
``Σ_block (∂component/∂u) (∂u/∂r)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel
from atomlake.kernels.lanes import (
    LANES,
    broadcast,
    lane_sum,
    load,
    n_padded,
    pointer,
    store,
    store_some,
)
from atomlake.kernels.transposition import store_columns

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Neighbours whose derivatives are contracted together: their matrix stays in the L2 cache.
CHUNK = 32
#: Columns of that matrix: three directions of every neighbour.
COLUMNS = 3 * CHUNK
#: Columns that are contracted together: their products with all components stay in the L1 cache.
WIDTH = 2 * LANES
#: Components that are contracted together.
TILE = 4

# Rows of the table of one group of eight neighbours.
_ALPHA, _BETA, _WEIGHT, _TURN, _FADE = 0, 2, 4, 5, 14
_GROUP_ROWS = 17
# Zeros before and after the functions of a group: neighbours of the first and the last
# element of a row are read there, and multiplied with 0.
_MARGIN = 2 * LANES


class Projection(NamedTuple):
    """Where the neighbours of a range of centres lie on the 3-sphere; shape (n_pairs,).

    Attributes
    ----------
    cosine, sine : float64 array
        Of half the rotation angle, ``θ(r)``.
    turn : float64 array
        ``dθ/dr`` in 1/Å.
    weight, fade : float64 array
        What a neighbour counts for, ``s(r)``, and ``ds/dr`` in 1/Å. A neighbour with both
        zero is left out.
    """

    cosine: Floats
    sine: Floats
    turn: Floats
    weight: Floats
    fade: Floats


class Pairs(NamedTuple):
    """Pointers to the pairs, the element of every atom, and the first pair of the range."""

    neighbour_index: Integers
    vectors: Floats
    distances: Floats
    element: Integers
    start: int
    projection: Projection


class Couplings(NamedTuple):
    """Which components there are, and how they are coupled.

    Made by :func:`atomlake.kernels.so4_couplings.couplings`.

    Attributes
    ----------
    twojmax : int
        Largest ``j``.
    n_elements : int
        Densities that are told apart.
    roots : float64 array, shape (twojmax + 2,)
        Square roots of 0, 1, 2, ...
    coefficients : float64 array
        Clebsch–Gordan coefficients ``[m, m1]`` of all couplings, one after the other.
    coupling : int64 array, shape (n_couplings, 6)
        Channels ``a`` and ``b`` coupled to ``j``: element and ``j`` of ``a``, of ``b``, then
        ``j`` and where its coefficients begin.
    n_value_couplings : int
        So many of the first couplings are in components; the rest only in derivatives.
    coupled_offsets : int64 array, shape (n_couplings + 1,)
        Where the block of each coupling begins.
    component : int64 array, shape (n_components, 2)
        The coupling in each component, and the element of the third channel.
    row_offsets : int64 array, shape (n_elements * (twojmax + 1) + 1,)
        Rows of derivatives by the block of each channel; their number is a multiple of
        :data:`TILE`.
    weight_offsets : int64 array, shape (n_elements * (twojmax + 1) + 1,)
        Numbers in the blocks of the rows before those of each channel.
    row_component : int64 array, shape (n_rows,)
        Component of each row; ``n_components`` where the row is only there to fill a tile.
    row_coupling : int64 array, shape (n_rows,)
        Coupling whose block is the derivative, times ``row_factor``.
    row_factor : float64 array, shape (n_rows,)
    feature_component : int64 array, shape (n_features,)
    feature_scale : float64 array, shape (n_features,)
        Each linear feature is a component times a number.
    """

    twojmax: int
    n_elements: int
    roots: Floats
    coefficients: Floats
    coupling: Integers
    n_value_couplings: int
    coupled_offsets: Integers
    component: Integers
    row_offsets: Integers
    weight_offsets: Integers
    row_component: Integers
    row_coupling: Integers
    row_factor: Floats
    feature_component: Integers
    feature_scale: Floats


class Scratch(NamedTuple):
    """Room for eight centres; made by :func:`empty_scratch`."""

    # Pairs of a centre that count, sorted by element; those of element e are
    # bounds[e]:bounds[e + 1].
    order: Integers
    bounds: Integers
    # (_GROUP_ROWS, 8): a group of neighbours: α, β, s, s M (3 × 3), s' r/|r|.
    group: Floats
    # Functions U of a group, complex rows 0..j/2 of every j, eight lanes each.
    functions: Floats
    # Sum of the functions over groups of neighbours.
    total: Floats
    # (8 centres, n_elements, n_block): the expansions of the densities; then with the
    # centres last; then all rows of them, (n_elements, n_block, real and imaginary, 8 centres).
    sums: Floats
    expansion: Floats
    unfolded: Floats
    # Blocks of all couplings, (8 centres) each, and the components, (n_components, 8).
    coupled: Floats
    components: Floats
    # (8 centres, rows of all channels): derivatives of the components by the expansion.
    weights: Floats
    # (n_block, COLUMNS): derivatives of the expansion by positions.
    derivatives: Floats
    # (n_components + 1, WIDTH): derivatives of the components by positions, and
    # (WIDTH, n_linear): of the features.
    products: Floats
    rows: Floats
    # Linear features of a centre, and their derivatives by strain.
    values: Floats
    strain: Floats


def empty_scratch(couplings: Couplings, max_pairs: int, has_gradients: bool) -> Scratch:
    """Allocate room for centres of at most ``max_pairs`` neighbours."""
    n_channels = couplings.twojmax + 1
    n_block = _element_size(couplings.twojmax)
    n_components = len(couplings.component)
    n_linear = n_padded(len(couplings.feature_component))
    n_couplings = len(couplings.coupling) if has_gradients else couplings.n_value_couplings
    has = int(has_gradients)
    functions = _aligned(2 * _half_offset(n_channels) * LANES + 2 * _MARGIN)
    functions.fill(0.0)
    return Scratch(
        order=np.empty(max_pairs, np.int64),
        bounds=np.empty(couplings.n_elements + 1, np.int64),
        group=_aligned(_GROUP_ROWS * LANES),
        functions=functions,
        total=_aligned(n_block * LANES),
        sums=_aligned(couplings.n_elements * n_block * LANES),
        expansion=_aligned(couplings.n_elements * n_block * LANES),
        unfolded=_aligned(couplings.n_elements * n_block * 2 * LANES),
        # Blocks are read eight numbers at a time, past the end of the last one.
        coupled=_aligned((int(couplings.coupled_offsets[n_couplings]) + LANES) * LANES),
        components=_aligned(n_components * LANES),
        weights=_aligned(has * (int(couplings.weight_offsets[-1]) + LANES) * LANES),
        derivatives=_aligned(has * n_block * COLUMNS),
        products=_aligned(has * (n_components + 1) * WIDTH),
        rows=_aligned(has * n_linear * WIDTH),
        values=np.empty(n_linear),
        strain=np.empty(9 * n_linear),
    )


def _aligned(n: int) -> Floats:
    """Allocate n numbers that begin at a cache line, so that no block of lanes lies in two."""
    buffer = np.empty(n + LANES)
    begin = -(buffer.ctypes.data // 8) % LANES
    return buffer[begin : begin + n]


@kernel
def so4_bispectrum(
    first: int,
    last: int,
    pair_offsets: Integers,
    neighbour_index: Integers,
    vectors: Floats,
    distances: Floats,
    projection: Projection,
    element: Integers,
    self_weights: Floats,
    zero: Floats,
    couplings: Couplings,
    scratch: Scratch,
    features: NDArray[Any],
    gradient_positions: NDArray[Any],
    gradient_strain: NDArray[Any],
    position_sums: Floats,
    group: Integers,
    first_atom: int,
) -> None:
    """Write the features of the centres ``first:last`` and their gradients.

    Linear features come first; where ``features`` has more columns, the products
    ``½ B_a²``, ``B_a B_b`` with ``a < b`` follow, in the order of the upper triangle.

    Parameters
    ----------
    pair_offsets, neighbour_index, vectors, distances : array
        As in :class:`atomlake.neighbours.Neighbours`.
    projection : Projection
        Of the pairs of the centres ``first:last``.
    element : array, shape (n_atoms,)
        The density that each atom belongs to.
    self_weights : array, shape (n_elements, n_elements)
        What a centre of element ``c`` counts for in the density of element ``e``: ``[c, e]``.
    zero : array, shape (n_elements, n_linear_features)
        Subtracted from the linear features of a centre of each element.
    couplings : Couplings
        What to compute.
    scratch : Scratch
        Work space.
    features : array, shape (n, n_features)
        Output.
    gradient_positions : array, shape (n_pairs of the centres or 0, 3, n_features)
        Output, by the neighbour of each pair.
    gradient_strain : array, shape (n or 0, 3, 3, n_features)
        Output.
    position_sums : array, shape (n_atoms of the structures or 0, n_groups, 3, n)
        Derivatives of linear features by the positions of all atoms, the centres included, are
        added to the first numbers of each row.
    group : array, shape (n_atoms,)
        Column of ``position_sums`` that each centre contributes to.
    first_atom : int
        The atom of the first row of ``position_sums``.
    """
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    has_sums = position_sums.shape[0] > 0
    has_gradients = has_positions or has_strain or has_sums
    n_features = features.shape[1]
    n_linear = couplings.feature_component.shape[0]
    n_components = couplings.component.shape[0]
    n_couplings = couplings.coupling.shape[0] if has_gradients else couplings.n_value_couplings
    n_elements = couplings.n_elements
    n_expansion = scratch.expansion.shape[0]
    n_row = scratch.values.shape[0]
    # Derivatives by the three directions of an atom; rows of groups; rows of atoms.
    sums_row = position_sums.shape[3]
    sums_atom = position_sums.shape[1] * 3 * sums_row
    start = pair_offsets[first]
    pairs = Pairs(
        pointer(neighbour_index),
        pointer(vectors),
        pointer(distances),
        pointer(element),
        start,
        Projection(
            pointer(projection.cosine),
            pointer(projection.sine),
            pointer(projection.turn),
            pointer(projection.weight),
            pointer(projection.fade),
        ),
    )
    couplings = _coupling_pointers(couplings)
    scratch = _scratch_pointers(scratch)
    values, rows, strain = scratch.values, scratch.rows, scratch.strain
    features = pointer(features)
    gradient_positions = pointer(gradient_positions)
    gradient_strain = pointer(gradient_strain)
    position_sums = pointer(position_sums)

    for block in range(first, last, LANES):
        n_centres = min(LANES, last - block)
        for c in range(n_expansion):
            scratch.sums[c] = 0.0
        for lane in range(n_centres):
            i = block + lane
            _sort_pairs(pair_offsets[i], pair_offsets[i + 1], n_elements, pairs, scratch)
            for e in range(n_elements):
                at = (lane * n_elements + e) * (n_expansion // (LANES * n_elements))
                _expand(couplings, e, self_weights[element[i], e], at, pairs, scratch)
        _turn_lanes(scratch.sums, n_expansion // LANES, scratch.expansion)
        _unfold(couplings, scratch)
        _couple(couplings, n_couplings, scratch)
        _contract_components(couplings, n_components, scratch)
        if has_gradients:
            _collect_weights(couplings, scratch)

        for lane in range(n_centres):
            i = block + lane
            for f in range(n_linear):
                component = scratch.components[couplings.feature_component[f] * LANES + lane]
                values[f] = couplings.feature_scale[f] * component - zero[element[i], f]
            _write_features(values, n_linear, features, (i - first) * n_features, n_features)
            if not has_gradients:
                continue
            lower, upper = pair_offsets[i], pair_offsets[i + 1]
            _sort_pairs(lower, upper, n_elements, pairs, scratch)
            for f in range(9 * n_row):
                strain[f] = 0.0
            if has_positions and scratch.bounds[n_elements] < upper - lower:
                # Pairs that do not count have no derivatives.
                for at in range(3 * (lower - start) * n_features, 3 * (upper - start) * n_features):
                    gradient_positions[at] = 0.0
            for e in range(n_elements):
                for begin in range(scratch.bounds[e], scratch.bounds[e + 1], CHUNK):
                    n = min(CHUNK, scratch.bounds[e + 1] - begin)
                    _differentiate(couplings, begin, n, pairs, scratch)
                    for column in range(3 * n):
                        if column % WIDTH == 0:
                            _multiply(couplings, e, n_components, lane, column, scratch)
                            _turn_products(couplings, n_linear, n_row, scratch)
                        a, pair = column // n, scratch.order[begin + column % n]
                        row = column % WIDTH * n_row
                        if has_positions:
                            at = (3 * (pair - start) + a) * n_features
                            _write_gradient(
                                values, rows, row, n_linear, gradient_positions, at, n_features
                            )
                        if has_sums and neighbour_index[pair] != i:
                            at = (3 * group[i] + a) * sums_row
                            atom = at + (neighbour_index[pair] - first_atom) * sums_atom
                            centre = at + (i - first_atom) * sums_atom
                            # Two loops: LLVM cannot know that the rows are not the same.
                            for f in range(n_linear):
                                position_sums[atom + f] += rows[row + f]
                            for f in range(n_linear):
                                position_sums[centre + f] -= rows[row + f]
                        if has_strain:
                            # A rotation changes no invariant: the derivative is symmetric.
                            for b in range(a, 3):
                                total = (3 * a + b) * n_row
                                factor = vectors[pair, b]
                                for f in range(n_linear):
                                    strain[total + f] += factor * rows[row + f]
            if has_strain:
                for a in range(3):
                    for b in range(3):
                        at = (9 * (i - first) + 3 * a + b) * n_features
                        source = (3 * min(a, b) + max(a, b)) * n_row
                        _write_gradient(
                            values, strain, source, n_linear, gradient_strain, at, n_features
                        )


@inlined
def block_size(j: int) -> int:
    """Real numbers in the block of ``j``."""
    return (j + 1) * (j + 1)


@inlined
def block_offset(j: int) -> int:
    """Real numbers in the blocks before that of ``j``."""
    return j * (j + 1) * (2 * j + 1) // 6


@inlined
def _element_size(twojmax: int) -> int:
    """Numbers in the expansion of one element: all blocks, rounded up to whole lanes."""
    return -(-block_offset(twojmax + 1) // LANES) * LANES


@inlined
def _half_offset(j: int) -> int:
    """Complex numbers in the rows ``0..j'/2`` of all ``j' < j``."""
    # An odd j' has (j' + 1)² / 2; the middle row of an even one adds (j' + 1) / 2 to that.
    n_even = (j + 1) // 2
    return (block_offset(j) + n_even * n_even) // 2


@inlined
def _coupling_pointers(couplings: Couplings) -> Couplings:
    """Replace the arrays by pointers."""
    return Couplings(
        couplings.twojmax,
        couplings.n_elements,
        pointer(couplings.roots),
        pointer(couplings.coefficients),
        pointer(couplings.coupling),
        couplings.n_value_couplings,
        pointer(couplings.coupled_offsets),
        pointer(couplings.component),
        pointer(couplings.row_offsets),
        pointer(couplings.weight_offsets),
        pointer(couplings.row_component),
        pointer(couplings.row_coupling),
        pointer(couplings.row_factor),
        pointer(couplings.feature_component),
        pointer(couplings.feature_scale),
    )


@inlined
def _scratch_pointers(scratch: Scratch) -> Scratch:
    """Replace the arrays by pointers."""
    return Scratch(
        pointer(scratch.order),
        pointer(scratch.bounds),
        pointer(scratch.group),
        pointer(scratch.functions),
        pointer(scratch.total),
        pointer(scratch.sums),
        pointer(scratch.expansion),
        pointer(scratch.unfolded),
        pointer(scratch.coupled),
        pointer(scratch.components),
        pointer(scratch.weights),
        pointer(scratch.derivatives),
        pointer(scratch.products),
        pointer(scratch.rows),
        pointer(scratch.values),
        pointer(scratch.strain),
    )


@kernel
def _sort_pairs(lower: int, upper: int, n_elements: int, pairs: Pairs, scratch: Scratch) -> None:
    """List the pairs ``lower:upper`` that count, sorted by element."""
    weight, fade = pairs.projection.weight, pairs.projection.fade
    n = 0
    for e in range(n_elements):
        scratch.bounds[e] = n
        for pair in range(lower, upper):
            counts = weight[pair - pairs.start] != 0.0 or fade[pair - pairs.start] != 0.0
            if counts and pairs.element[pairs.neighbour_index[pair]] == e:
                scratch.order[n] = pair
                n += 1
    scratch.bounds[n_elements] = n


@kernel
def _place(begin: int, n_lanes: int, pairs: Pairs, scratch: Scratch) -> None:
    """Write the rotations of a group of neighbours as the matrices [[α, β], [-β*, α*]].

    The quaternion ``(cos θ, n sin θ)`` is the matrix ``cos θ - i sin θ n·σ``. Lanes without
    a neighbour hold the identity, with the weight 0.
    """
    group, projection = scratch.group, pairs.projection
    for lane in range(LANES):
        group[_ALPHA * LANES + lane] = 1.0
        for row in range(_ALPHA + 1, _WEIGHT + 1):
            group[row * LANES + lane] = 0.0
    for lane in range(n_lanes):
        pair = scratch.order[begin + lane]
        cosine = projection.cosine[pair - pairs.start]
        ratio = projection.sine[pair - pairs.start] / pairs.distances[pair]
        group[_ALPHA * LANES + lane] = cosine
        group[(_ALPHA + 1) * LANES + lane] = -ratio * pairs.vectors[3 * pair + 2]
        group[_BETA * LANES + lane] = -ratio * pairs.vectors[3 * pair + 1]
        group[(_BETA + 1) * LANES + lane] = -ratio * pairs.vectors[3 * pair]
        group[_WEIGHT * LANES + lane] = projection.weight[pair - pairs.start]


@kernel
def _turn(begin: int, n_lanes: int, pairs: Pairs, scratch: Scratch) -> None:
    """Write how a group's rotations and weights change with the neighbours' positions.

    Moving a neighbour by ``dr`` multiplies its quaternion from the right with
    ``1 + ω``, ``ω = q* dq = M dr``, where with ``n = r/|r|``

        ``M_ak = θ' n_a n_k + sin θ cos θ / r (δ_ak - n_a n_k) - sin² θ / r Σ_b ε_abk n_b``.

    Written are ``s M`` and ``s' n``.
    """
    group, projection = scratch.group, pairs.projection
    for lane in range(n_lanes):
        pair = scratch.order[begin + lane]
        inverse_r = 1.0 / pairs.distances[pair]
        x, y, z = (
            pairs.vectors[3 * pair] * inverse_r,
            pairs.vectors[3 * pair + 1] * inverse_r,
            pairs.vectors[3 * pair + 2] * inverse_r,
        )
        cosine, sine = projection.cosine[pair - pairs.start], projection.sine[pair - pairs.start]
        weight = projection.weight[pair - pairs.start]
        across = weight * sine * cosine * inverse_r
        along = weight * projection.turn[pair - pairs.start] - across
        twist = weight * sine * sine * inverse_r
        at = _TURN * LANES + lane
        group[at] = along * x * x + across
        group[at + LANES] = along * x * y + twist * z
        group[at + 2 * LANES] = along * x * z - twist * y
        group[at + 3 * LANES] = along * y * x - twist * z
        group[at + 4 * LANES] = along * y * y + across
        group[at + 5 * LANES] = along * y * z + twist * x
        group[at + 6 * LANES] = along * z * x + twist * y
        group[at + 7 * LANES] = along * z * y - twist * x
        group[at + 8 * LANES] = along * z * z + across
        fade = projection.fade[pair - pairs.start]
        at = _FADE * LANES + lane
        group[at] = fade * x
        group[at + LANES] = fade * y
        group[at + 2 * LANES] = fade * z


@kernel
def _functions(couplings: Couplings, scratch: Scratch) -> None:
    """Write the representations of a group's rotations, rows ``0..j/2`` of every ``j``.

    On the polynomials ``φ_m = ξ^m η^(j-m) / √(m! (j-m)!)`` the matrix [[α, β], [-β*, α*]] acts
    by ``ξ → α ξ + β η``, ``η → -β* ξ + α* η``, so row p of ``U^j`` is row p of ``U^(j-1)`` times
    ``(-β* ξ + α* η) / √(j-p)``; the middle row is row ``p - 1`` times ``(α ξ + β η) / √p``
    (Varshalovich et al., Quantum Theory of Angular Momentum, section 4.8.2).
    """
    group, functions, roots = scratch.group, scratch.functions, couplings.roots
    zero = broadcast(0.0)
    alpha_r, alpha_i = load(group, _ALPHA * LANES), load(group, (_ALPHA + 1) * LANES)
    beta_r, beta_i = load(group, _BETA * LANES), load(group, (_BETA + 1) * LANES)
    store(functions, _MARGIN, broadcast(1.0))
    store(functions, _MARGIN + LANES, zero)
    for j in range(1, couplings.twojmax + 1):
        for p in range(j // 2 + 1):
            target = _MARGIN + 2 * LANES * (_half_offset(j) + p * (j + 1))
            source = _MARGIN + 2 * LANES * (_half_offset(j - 1) + p * j)
            eta_r, eta_i = alpha_r, zero - alpha_i
            xi_r, xi_i = zero - beta_r, beta_i
            scale = 1.0 / roots[j - p]
            if 2 * p == j:
                source -= 2 * LANES * j
                eta_r, eta_i = beta_r, beta_i
                xi_r, xi_i = alpha_r, alpha_i
                scale = 1.0 / roots[p]
            carry_r, carry_i = zero, zero
            for m in range(j):
                u_r, u_i = load(functions, source), load(functions, source + LANES)
                root = broadcast(scale * roots[j - m])
                store(functions, target, carry_r + root * (eta_r * u_r - eta_i * u_i))
                store(functions, target + LANES, carry_i + root * (eta_r * u_i + eta_i * u_r))
                root = broadcast(scale * roots[m + 1])
                carry_r = root * (xi_r * u_r - xi_i * u_i)
                carry_i = root * (xi_r * u_i + xi_i * u_r)
                source += 2 * LANES
                target += 2 * LANES
            store(functions, target, carry_r)
            store(functions, target + LANES, carry_i)


@kernel
def _expand(
    couplings: Couplings, e: int, self_weight: float, at: int, pairs: Pairs, scratch: Scratch
) -> None:
    """Add up the functions of a centre's neighbours of element ``e``, and the centre's own."""
    total, sums, functions = scratch.total, scratch.sums, scratch.functions
    n_block = _element_size(couplings.twojmax)
    if scratch.bounds[e + 1] > scratch.bounds[e]:
        for c in range(n_block * LANES):
            total[c] = 0.0
        for begin in range(scratch.bounds[e], scratch.bounds[e + 1], LANES):
            _place(begin, min(LANES, scratch.bounds[e + 1] - begin), pairs, scratch)
            _functions(couplings, scratch)
            weight = load(scratch.group, _WEIGHT * LANES)
            for j in range(couplings.twojmax + 1):
                target = block_offset(j) * LANES
                source = _MARGIN + 2 * LANES * _half_offset(j)
                for _ in range(block_size(j)):
                    store(total, target, load(total, target) + weight * load(functions, source))
                    source += LANES
                    target += LANES
        for c in range(block_offset(couplings.twojmax + 1)):
            sums[at + c] = lane_sum(load(total, c * LANES))
    # The centre sits where θ = 0: its U is the identity.
    if self_weight != 0.0:
        for j in range(couplings.twojmax + 1):
            for p in range(j // 2 + 1):
                sums[at + block_offset(j) + 2 * (p * (j + 1) + p)] += self_weight


@kernel
def _turn_lanes(rows: Floats, n: int, columns: Floats) -> None:
    """Turn eight rows of ``n`` numbers into ``n`` blocks of eight lanes."""
    for c in range(0, n, LANES):
        store_columns(
            columns,
            c * LANES,
            LANES,
            load(rows, c),
            load(rows, c + n),
            load(rows, c + 2 * n),
            load(rows, c + 3 * n),
            load(rows, c + 4 * n),
            load(rows, c + 5 * n),
            load(rows, c + 6 * n),
            load(rows, c + 7 * n),
        )


@kernel
def _unfold(couplings: Couplings, scratch: Scratch) -> None:
    """Write all rows of the expansion, by the symmetry of its upper and lower half."""
    expansion, unfolded = scratch.expansion, scratch.unfolded
    zero = broadcast(0.0)
    for e in range(couplings.n_elements):
        for j in range(couplings.twojmax + 1):
            begin = e * _element_size(couplings.twojmax) + block_offset(j)
            source = begin * LANES
            for n in range(block_size(j) // 2):
                real, imaginary = load(expansion, source), load(expansion, source + LANES)
                source += 2 * LANES
                at = 2 * LANES * (begin + n)
                store(unfolded, at, real)
                store(unfolded, at + LANES, imaginary)
                at = 2 * LANES * (begin + block_size(j) - 1 - n)
                row, m = n // (j + 1), n % (j + 1)
                if (row - m) % 2 == 0:
                    store(unfolded, at, real)
                    store(unfolded, at + LANES, zero - imaginary)
                else:
                    store(unfolded, at, zero - real)
                    store(unfolded, at + LANES, imaginary)
            if j % 2 == 0:
                at = 2 * LANES * (begin + block_size(j) // 2)
                store(unfolded, at, load(expansion, source))
                store(unfolded, at + LANES, zero)


@kernel
def _couple(couplings: Couplings, n_couplings: int, scratch: Scratch) -> None:
    """Couple pairs of channels: the block ``[row, m]`` of ``Σ C C u^a u^b``.

    Both indices are coupled with the same coefficients, ``C[m, m1]`` with
    ``m1 + m2 = m + (ja + jb - j)/2``.
    """
    unfolded, coupled, coefficients = scratch.unfolded, scratch.coupled, couplings.coefficients
    n_block = _element_size(couplings.twojmax)
    zero = broadcast(0.0)
    for t in range(n_couplings):
        ea, ja = couplings.coupling[6 * t + 0], couplings.coupling[6 * t + 1]
        eb, jb = couplings.coupling[6 * t + 2], couplings.coupling[6 * t + 3]
        j, c = couplings.coupling[6 * t + 4], couplings.coupling[6 * t + 5]
        a = 2 * LANES * (ea * n_block + block_offset(ja))
        b = 2 * LANES * (eb * n_block + block_offset(jb))
        shift = (ja + jb - j) // 2
        is_same = ea == eb and ja == jb
        target = couplings.coupled_offsets[t] * LANES
        for n in range((block_size(j) + 1) // 2):
            row, m = n // (j + 1), n % (j + 1)
            sum_r, sum_i = zero, zero
            # A channel coupled to itself: every product of two rows comes twice.
            last_row = (row + shift) // 2 if is_same else min(ja, row + shift)
            for row_a in range(max(0, row + shift - jb), last_row + 1):
                row_b = row + shift - row_a
                inner_r, inner_i = zero, zero
                for m_a in range(max(0, m + shift - jb), min(ja, m + shift) + 1):
                    at = a + 2 * LANES * (row_a * (ja + 1) + m_a)
                    a_r, a_i = load(unfolded, at), load(unfolded, at + LANES)
                    at = b + 2 * LANES * (row_b * (jb + 1) + m + shift - m_a)
                    b_r, b_i = load(unfolded, at), load(unfolded, at + LANES)
                    factor = broadcast(coefficients[c + m * (ja + 1) + m_a])
                    inner_r = inner_r + factor * (a_r * b_r - a_i * b_i)
                    inner_i = inner_i + factor * (a_r * b_i + a_i * b_r)
                times = 2.0 if is_same and row_a != row_b else 1.0
                factor = broadcast(times * coefficients[c + row * (ja + 1) + row_a])
                sum_r = sum_r + factor * inner_r
                sum_i = sum_i + factor * inner_i
            store(coupled, target, sum_r)
            if 2 * n + 1 < block_size(j):
                store(coupled, target + LANES, sum_i)
            target += 2 * LANES


@kernel
def _contract_components(couplings: Couplings, n_components: int, scratch: Scratch) -> None:
    """Write the components: the real part of ``Σ conj(u^j) Z`` over all rows."""
    expansion, coupled = scratch.expansion, scratch.coupled
    n_block = _element_size(couplings.twojmax)
    two = broadcast(2.0)
    for k in range(n_components):
        t, e = couplings.component[2 * k], couplings.component[2 * k + 1]
        j = couplings.coupling[6 * t + 4]
        u = LANES * (e * n_block + block_offset(j))
        z = LANES * couplings.coupled_offsets[t]
        sum_ = broadcast(0.0)
        # Each row stands for itself and its mirror image; the middle element for itself.
        for _ in range(block_size(j) - (j % 2 == 0)):
            sum_ = sum_ + load(expansion, u) * load(coupled, z)
            u += LANES
            z += LANES
        sum_ = two * sum_
        if j % 2 == 0:
            sum_ = sum_ + load(expansion, u) * load(coupled, z)
        store(scratch.components, k * LANES, sum_)


@kernel
def _collect_weights(couplings: Couplings, scratch: Scratch) -> None:
    """Write the derivatives of every centre's components by its expansion."""
    coupled, weights = scratch.coupled, scratch.weights
    n_channels = couplings.n_elements * (couplings.twojmax + 1)
    n_weights = couplings.weight_offsets[n_channels] + LANES
    for channel in range(n_channels):
        j = channel % (couplings.twojmax + 1)
        size = block_size(j)
        target = couplings.weight_offsets[channel]
        for row in range(couplings.row_offsets[channel], couplings.row_offsets[channel + 1]):
            source = couplings.coupled_offsets[couplings.row_coupling[row]] * LANES
            # Mirror images count double, but the middle element of an even j.
            factor = broadcast(2.0 * couplings.row_factor[row])
            # Past the end of the row, the next one overwrites what is written.
            for n in range(0, size, LANES):
                at = source + n * LANES
                store_columns(
                    weights,
                    target + n,
                    n_weights,
                    factor * load(coupled, at),
                    factor * load(coupled, at + LANES),
                    factor * load(coupled, at + 2 * LANES),
                    factor * load(coupled, at + 3 * LANES),
                    factor * load(coupled, at + 4 * LANES),
                    factor * load(coupled, at + 5 * LANES),
                    factor * load(coupled, at + 6 * LANES),
                    factor * load(coupled, at + 7 * LANES),
                )
            target += size
            if j % 2 == 0:
                for lane in range(LANES):
                    weights[lane * n_weights + target - 1] *= 0.5


@kernel
def _differentiate(
    couplings: Couplings, begin: int, n: int, pairs: Pairs, scratch: Scratch
) -> None:
    """Write the derivatives of the expansion by the positions of ``n`` neighbours."""
    for g in range(0, n, LANES):
        n_lanes = min(LANES, n - g)
        _place(begin + g, n_lanes, pairs, scratch)
        _turn(begin + g, n_lanes, pairs, scratch)
        _functions(couplings, scratch)
        _differentiate_group(couplings, g, n, n_lanes, scratch)


@kernel
def _differentiate_group(
    couplings: Couplings, g: int, n: int, n_lanes: int, scratch: Scratch
) -> None:
    """Write the derivatives of the weighted functions of a group by its positions.

    With ``ω`` from :func:`_turn`, ``φ_m`` changes by
    ``-i (ω_z (2m - j) φ_m + (ω_x - i ω_y) t_m φ_(m-1) + (ω_x + i ω_y) t_(m+1) φ_(m+1))``,
    ``t_m = √(m (j - m + 1))``.
    """
    group, functions, derivatives = scratch.group, scratch.functions, scratch.derivatives
    roots = couplings.roots
    at = _TURN * LANES
    xx, xy, xz = load(group, at), load(group, at + LANES), load(group, at + 2 * LANES)
    at += 3 * LANES
    yx, yy, yz = load(group, at), load(group, at + LANES), load(group, at + 2 * LANES)
    at += 3 * LANES
    zx, zy, zz = load(group, at), load(group, at + LANES), load(group, at + 2 * LANES)
    at = _FADE * LANES
    vx, vy, vz = load(group, at), load(group, at + LANES), load(group, at + 2 * LANES)
    for j in range(couplings.twojmax + 1):
        source = _MARGIN + 2 * LANES * _half_offset(j)
        target = block_offset(j) * COLUMNS + g
        for k in range((block_size(j) + 1) // 2):
            m = k % (j + 1)
            u_r, u_i = load(functions, source), load(functions, source + LANES)
            up = broadcast(roots[m + 1] * roots[j - m])
            up_r = up * load(functions, source + 2 * LANES)
            up_i = up * load(functions, source + 3 * LANES)
            down = broadcast(roots[m] * roots[j - m + 1])
            down_r = down * load(functions, source - 2 * LANES)
            down_i = down * load(functions, source - LANES)
            level = broadcast(2.0 * m - j)
            x_r, x_i = up_i + down_i, up_r + down_r
            y_r, y_i = down_r - up_r, down_i - up_i
            z_r, z_i = level * u_i, level * u_r
            value = xx * x_r + yx * y_r + zx * z_r + vx * u_r
            store_some(derivatives, target, value, 0, n_lanes)
            value = xy * x_r + yy * y_r + zy * z_r + vy * u_r
            store_some(derivatives, target + n, value, 0, n_lanes)
            value = xz * x_r + yz * y_r + zz * z_r + vz * u_r
            store_some(derivatives, target + 2 * n, value, 0, n_lanes)
            if 2 * k + 1 < block_size(j):
                target += COLUMNS
                value = vx * u_i + yx * y_i - xx * x_i - zx * z_i
                store_some(derivatives, target, value, 0, n_lanes)
                value = vy * u_i + yy * y_i - xy * x_i - zy * z_i
                store_some(derivatives, target + n, value, 0, n_lanes)
                value = vz * u_i + yz * y_i - xz * x_i - zz * z_i
                store_some(derivatives, target + 2 * n, value, 0, n_lanes)
                target += COLUMNS
            source += 2 * LANES


@kernel
def _multiply(
    couplings: Couplings, e: int, n_components: int, lane: int, column: int, scratch: Scratch
) -> None:
    """Write the derivatives of a centre's components by the positions of some neighbours.

    These are ``WIDTH`` columns from ``column`` on.
    """
    products = scratch.products
    n_channels = couplings.twojmax + 1
    n_weights = couplings.weight_offsets[couplings.n_elements * n_channels] + LANES
    for at in range(n_components * WIDTH):
        products[at] = 0.0
    for j in range(n_channels):
        channel = e * n_channels + j
        size = block_size(j)
        lower, upper = couplings.row_offsets[channel], couplings.row_offsets[channel + 1]
        begin = lane * n_weights + couplings.weight_offsets[channel]
        for row in range(lower, upper, TILE):
            _multiply_tile(
                scratch.weights,
                begin + (row - lower) * size,
                scratch.derivatives,
                block_offset(j) * COLUMNS + column,
                size,
                couplings.row_component,
                row,
                products,
            )


@inlined
def _multiply_tile(
    weights: Floats,
    w: int,
    derivatives: Floats,
    d: int,
    size: int,
    row_component: Integers,
    row: int,
    products: Floats,
) -> None:
    """Add the product of four rows of weights and sixteen columns of derivatives."""
    left_0, left_1, left_2, left_3 = (
        broadcast(0.0),
        broadcast(0.0),
        broadcast(0.0),
        broadcast(0.0),
    )
    right_0, right_1, right_2, right_3 = left_0, left_0, left_0, left_0
    for _ in range(size):
        left, right = load(derivatives, d), load(derivatives, d + LANES)
        w_0, w_1 = broadcast(weights[w]), broadcast(weights[w + size])
        w_2, w_3 = broadcast(weights[w + 2 * size]), broadcast(weights[w + 3 * size])
        left_0, right_0 = left_0 + w_0 * left, right_0 + w_0 * right
        left_1, right_1 = left_1 + w_1 * left, right_1 + w_1 * right
        left_2, right_2 = left_2 + w_2 * left, right_2 + w_2 * right
        left_3, right_3 = left_3 + w_3 * left, right_3 + w_3 * right
        w += 1
        d += COLUMNS
    at = row_component[row] * WIDTH
    _add_lanes(products, at, left_0, right_0)
    at = row_component[row + 1] * WIDTH
    _add_lanes(products, at, left_1, right_1)
    at = row_component[row + 2] * WIDTH
    _add_lanes(products, at, left_2, right_2)
    at = row_component[row + 3] * WIDTH
    _add_lanes(products, at, left_3, right_3)


@inlined
def _add_lanes(array: Floats, at: int, left: Any, right: Any) -> None:
    store(array, at, load(array, at) + left)
    store(array, at + LANES, load(array, at + LANES) + right)


@kernel
def _turn_products(couplings: Couplings, n_linear: int, n_row: int, scratch: Scratch) -> None:
    """Write the derivatives of the features, one row for each coordinate of a neighbour."""
    component, scale = couplings.feature_component, couplings.feature_scale
    products, rows = scratch.products, scratch.rows
    last = n_linear - 1
    for f in range(0, n_linear, LANES):
        f1, f2, f3, f4 = min(f + 1, last), min(f + 2, last), min(f + 3, last), min(f + 4, last)
        f5, f6, f7 = min(f + 5, last), min(f + 6, last), min(f + 7, last)
        for column in range(0, WIDTH, LANES):
            store_columns(
                rows,
                column * n_row + f,
                n_row,
                broadcast(scale[f]) * load(products, component[f] * WIDTH + column),
                broadcast(scale[f1]) * load(products, component[f1] * WIDTH + column),
                broadcast(scale[f2]) * load(products, component[f2] * WIDTH + column),
                broadcast(scale[f3]) * load(products, component[f3] * WIDTH + column),
                broadcast(scale[f4]) * load(products, component[f4] * WIDTH + column),
                broadcast(scale[f5]) * load(products, component[f5] * WIDTH + column),
                broadcast(scale[f6]) * load(products, component[f6] * WIDTH + column),
                broadcast(scale[f7]) * load(products, component[f7] * WIDTH + column),
            )


@kernel
def expand_components(
    components: Floats, couplings: Couplings, row: Floats, features: NDArray[Any]
) -> None:
    """Write features, or their derivatives, where components are known.

    Parameters
    ----------
    components : array, shape (n, at least n_components)
        May be the array that is written to.
    couplings : Couplings
        What the features are.
    row : array, shape (n_components,)
        Work space.
    features : array, shape (n, n_features)
        Output.
    """
    component, scale = couplings.feature_component, couplings.feature_scale
    for i in range(features.shape[0]):
        for k in range(row.shape[0]):
            row[k] = components[i, k]
        for f in range(component.shape[0]):
            features[i, f] = scale[f] * row[component[f]]


@inlined
def _write_features(
    values: Floats, n_linear: int, features: NDArray[Any], at: int, n_features: int
) -> None:
    for a in range(n_linear):
        features[at + a] = values[a]
    if n_features > n_linear:
        at += n_linear
        for a in range(n_linear):
            features[at] = 0.5 * values[a] * values[a]
            for b in range(a + 1, n_linear):
                features[at + b - a] = values[a] * values[b]
            at += n_linear - a


@inlined
def _write_gradient(
    values: Floats,
    row: Floats,
    source: int,
    n_linear: int,
    gradient: NDArray[Any],
    at: int,
    n_features: int,
) -> None:
    for a in range(n_linear):
        gradient[at + a] = row[source + a]
    if n_features > n_linear:
        at += n_linear
        for a in range(n_linear):
            gradient[at] = values[a] * row[source + a]
            for b in range(a + 1, n_linear):
                gradient[at + b - a] = values[a] * row[source + b] + values[b] * row[source + a]
            at += n_linear - a
