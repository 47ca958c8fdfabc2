"""The power spectrum: pairs of expansion coefficients, contracted over m.

    p[s1, s2, l, n1, n2] = weight Σ_m c[lm, s1, n1] c[lm, s2, n2]

for all or some ``s1 <= s2`` (and ``n1 <= n2`` within a species, where the layout asks for
it). Every derivative is the same contraction with one factor differentiated. By the
neighbour vector that is a product of vectors over n only: with the sums over m of a pair,

    A[s', n'] = Σ_m Y_lm c[lm, s', n'],   B_x[s', n'] = Σ_m g_lm,x c[lm, s', n'],

the derivative of ``Σ_m c[lm, s, n] c[lm, s', n']`` by x is
``slope_ln u_x A[s', n'] + level_ln B_x[s', n']`` (and its mirror image for ``s' = s``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import called, inlined, kernel
from atomlake.kernels.expansion import (
    STRAIN_COMPONENTS,
    Environment,
    Expansion,
    Memory,
    Pairs,
    Slots,
    add_to_mean,
    divide,
    expand,
    expansion_pointers,
    pair_pointers,
    start_mean,
)
from atomlake.kernels.lanes import (
    LANES,
    aligned,
    broadcast,
    load,
    pointer,
    store,
    store_some,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Output = NDArray[Any]


class Layout(NamedTuple):
    """Which pairs of coefficients are features, where they stand, and their weights.

    Attributes
    ----------
    n_features : int
        Length of a row.
    block_offsets : int64 array, shape (n_species, n_species)
        First feature of each species pair ``s1 <= s2``; within it, l, n1, n2. -1 for pairs that
        have no features.
    is_triangle : bool
        Whether ``n1 <= n2`` where ``s1 = s2``.
    weight_equal : float64 array, shape (n_max, n_padded)
        Weight of n1, n2 where ``s1 = s2``.
    weight_unequal : float
        Weight where ``s1 < s2``.
    weight_degree : float64 array, shape (l_max + 1,)
        Weight of each l.
    """

    n_features: int
    block_offsets: Integers
    is_triangle: bool
    weight_equal: Floats
    weight_unequal: float
    weight_degree: Floats


@inlined
def _layout_pointers(layout: Layout) -> Layout:
    """Replace the arrays by pointers."""
    return Layout(
        layout.n_features,
        pointer(layout.block_offsets),
        layout.is_triangle,
        pointer(layout.weight_equal),
        layout.weight_unequal,
        pointer(layout.weight_degree),
    )


def n_sums(expansion: Expansion) -> int:
    """Room for the sums over m of one pair, or for a tile of eight by eight, from a line on."""
    of_pair = 6 * expansion.n_species * (expansion.l_max + 1) * expansion.n_padded
    return max(LANES**2, of_pair) + LANES


@kernel
def power_spectrum(
    expansion: Expansion,
    layout: Layout,
    pairs: Pairs,
    first: int,
    last: int,
    memory: Memory,
    sums: Floats,
    row: Floats,
    features: Output,
    gradient_positions: Output,
    gradient_strain: Output,
    held: Integers,
) -> None:
    """Write the power spectrum of the centres ``first:last`` and its derivatives.

    Parameters
    ----------
    memory : Memory
        For the largest of the centres.
    sums : array, shape (n_sums,)
        Room; see :func:`n_sums`.
    row : array, shape (3, n_features)
        Room; may be empty where no atom counts as several species.
    features : array, shape (n, n_features)
        Output.
    gradient_positions : array, shape (n_pairs of the centres or 0, 3, n_features)
        Output, by the neighbour of each pair.
    gradient_strain : array, shape (n or 0, 3, 3, n_features)
        Output.
    held : array, shape (n_pairs of the centres or 0,)
        The species outside of whose features each row of ``gradient_positions`` is zero, -1
        for a row of any content. Becomes that of the row's neighbour; where an atom counts as
        several species it is neither read nor written.
    """
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    expansion = expansion_pointers(expansion)
    layout = _layout_pointers(layout)
    pairs = pair_pointers(pairs)
    environment = divide(expansion, memory)
    sums = aligned(pointer(sums))
    row = pointer(row)
    features = pointer(features)
    gradient_positions = pointer(gradient_positions)
    gradient_strain = pointer(gradient_strain)
    held = pointer(held)
    slots = environment.slots
    n_features = layout.n_features
    for centre in range(first, last):
        n_slots = expand(
            expansion, pairs, centre, environment, has_positions or has_strain, has_strain
        )
        at = (centre - first) * n_features
        _contract(expansion, layout, slots, n_slots, environment, sums, features, at)
        if has_strain:
            _differentiate_by_strain(
                expansion, layout, slots, n_slots, environment, sums, gradient_strain, 9 * at
            )
        if has_positions:
            first_pair = pairs.offsets[centre] - pairs.offsets[first]
            last_pair = pairs.offsets[centre + 1] - pairs.offsets[first]
            _differentiate_by_positions(
                expansion,
                layout,
                environment,
                n_slots,
                sums,
                row,
                first_pair,
                last_pair,
                gradient_positions,
                held,
            )


@kernel
def power_spectrum_of_mean(
    expansion: Expansion,
    layout: Layout,
    pairs: Pairs,
    structure_offsets: Integers,
    first: int,
    last: int,
    memory: Memory,
    memory_of_mean: Memory,
    sums: Floats,
    row: Floats,
    features: Floats,
    gradient_positions: Floats,
    gradient_strain: Floats,
) -> None:
    """Write the power spectrum of the mean coefficients of the structures ``first:last``.

    Parameters
    ----------
    structure_offsets : array
        Atoms of structure s are ``structure_offsets[s]:structure_offsets[s + 1]``.
    memory : Memory
        For the largest of the centres.
    memory_of_mean : Memory
        For the mean; no room for pairs is needed.
    sums : array, shape (n_sums,)
        Room; see :func:`n_sums`.
    row : array, shape (3, n_features)
        Room.
    features : array, shape (n, n_features)
        Output.
    gradient_positions : array, shape (n_atoms of the structures or 0, 3, n_features)
        Output.
    gradient_strain : array, shape (n or 0, 3, 3, n_features)
        Output.
    """
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    expansion = expansion_pointers(expansion)
    layout = _layout_pointers(layout)
    pairs = pair_pointers(pairs)
    structure_offsets = pointer(structure_offsets)
    environment = divide(expansion, memory)
    mean = divide(expansion, memory_of_mean)
    sums = aligned(pointer(sums))
    row = pointer(row)
    features = pointer(features)
    gradient_positions = pointer(gradient_positions)
    gradient_strain = pointer(gradient_strain)
    n_row = 3 * layout.n_features
    for structure in range(first, last):
        begin = structure_offsets[structure]
        end = structure_offsets[structure + 1]
        weight = 1.0 / (end - begin)
        n_slots = start_mean(expansion, pairs, begin, end, mean, has_strain)
        for centre in range(begin, end):
            n = expand(expansion, pairs, centre, environment, has_strain, has_strain)
            add_to_mean(expansion, environment, n, weight, mean, n_slots, has_strain)
        at = (structure - first) * layout.n_features
        _contract(expansion, layout, mean.slots, n_slots, mean, sums, features, at)
        if has_strain:
            _differentiate_by_strain(
                expansion, layout, mean.slots, n_slots, mean, sums, gradient_strain, 9 * at
            )
        if not has_positions:
            continue
        # Derivatives are collected atom by atom: a pair moves its neighbour and its centre.
        origin = structure_offsets[first]
        for i in range((begin - origin) * n_row, (end - origin) * n_row):
            gradient_positions[i] = 0.0
        for centre in range(begin, end):
            n = expand(expansion, pairs, centre, environment, True, False)
            for slot in range(n):
                mean_slot = mean.slots.of_species[environment.slots.species[slot]]
                for p in range(environment.slot_offsets[slot], environment.slot_offsets[slot + 1]):
                    pair = pairs.offsets[centre] + environment.order[p]
                    neighbour = pairs.neighbour_index[pair]
                    if neighbour == centre:
                        continue
                    _differentiate_by_pair(
                        expansion,
                        layout,
                        environment,
                        p,
                        mean.slots,
                        n_slots,
                        mean_slot,
                        mean.coefficients,
                        sums,
                        -1,
                        row,
                        0,
                    )
                    to = (neighbour - origin) * n_row
                    back = (centre - origin) * n_row
                    for f in range(n_row):
                        gradient_positions[to + f] += weight * row[f]
                        gradient_positions[back + f] -= weight * row[f]


@called
def _differentiate_by_positions(
    expansion: Expansion,
    layout: Layout,
    environment: Environment,
    n_slots: int,
    sums: Floats,
    row: Floats,
    first_pair: int,
    last_pair: int,
    out: Output,
    held: Integers,
) -> None:
    """Write the derivatives by the neighbours of one centre, rows ``first_pair:last_pair``."""
    slots = environment.slots
    n_row = 3 * layout.n_features
    if expansion.n_repeats > 1:
        for i in range(n_row * first_pair, n_row * last_pair):
            out[i] = 0.0
    for slot in range(n_slots):
        for p in range(environment.slot_offsets[slot], environment.slot_offsets[slot + 1]):
            pair = first_pair + environment.order[p]
            at = n_row * pair
            if expansion.n_repeats == 1:
                _differentiate_by_pair(
                    expansion,
                    layout,
                    environment,
                    p,
                    slots,
                    n_slots,
                    slot,
                    environment.coefficients,
                    sums,
                    held[pair],
                    out,
                    at,
                )
                held[pair] = slots.species[slot]
                continue
            _differentiate_by_pair(
                expansion,
                layout,
                environment,
                p,
                slots,
                n_slots,
                slot,
                environment.coefficients,
                sums,
                -1,
                row,
                0,
            )
            for f in range(n_row):
                out[at + f] += row[f]


@inlined
def _contract(
    expansion: Expansion,
    layout: Layout,
    slots: Slots,
    n_slots: int,
    environment: Environment,
    tile: Floats,
    out: Output,
    out_at: int,
) -> None:
    """Write the features."""
    c = environment.coefficients
    _contract_factors(expansion, layout, slots, n_slots, c, 0, c, False, tile, out, out_at)


@inlined
def _differentiate_by_strain(
    expansion: Expansion,
    layout: Layout,
    slots: Slots,
    n_slots: int,
    environment: Environment,
    tile: Floats,
    out: Output,
    out_at: int,
) -> None:
    """Write the nine components of the derivative by strain."""
    n_features = layout.n_features
    size = (expansion.l_max + 1) ** 2 * n_slots * expansion.n_padded
    for k in range(6):
        a, b = STRAIN_COMPONENTS[k]
        at = out_at + (3 * a + b) * n_features
        _contract_factors(
            expansion,
            layout,
            slots,
            n_slots,
            environment.strain,
            k * size,
            environment.coefficients,
            True,
            tile,
            out,
            at,
        )
        # A rotation changes no invariant, so the derivative is symmetric.
        mirror = out_at + (3 * b + a) * n_features
        if a != b:
            for f in range(n_features):
                out[mirror + f] = out[at + f]


@inlined
def _contract_factors(
    expansion: Expansion,
    layout: Layout,
    slots: Slots,
    n_slots: int,
    x: Floats,
    x_at: int,
    y: Floats,
    is_product_rule: bool,
    tile: Floats,
    out: Output,
    out_at: int,
) -> None:
    """Write ``Σ_m x y`` of all species pairs, or ``Σ_m x y + y x``."""
    _clear_absent(expansion, layout, slots, out, out_at)
    for slot1 in range(n_slots):
        for slot2 in range(slot1, n_slots):
            species1 = slots.species[slot1]
            species2 = slots.species[slot2]
            block = layout.block_offsets[species1 * expansion.n_species + species2]
            if block < 0:
                continue
            block += out_at
            # Where a row of eight functions is one register, and the number eight a constant,
            # loops are unrolled and addresses need no arithmetic: half the time.
            if expansion.n_max == LANES:
                _contract_pair(
                    expansion.l_max,
                    LANES,
                    layout,
                    n_slots,
                    slot1,
                    slot2,
                    x,
                    x_at,
                    y,
                    is_product_rule,
                    tile,
                    out,
                    block,
                )
            else:
                _contract_pair(
                    expansion.l_max,
                    expansion.n_max,
                    layout,
                    n_slots,
                    slot1,
                    slot2,
                    x,
                    x_at,
                    y,
                    is_product_rule,
                    tile,
                    out,
                    block,
                )


@inlined
def _contract_pair(
    l_max: int,
    n_max: int,
    layout: Layout,
    n_slots: int,
    slot1: int,
    slot2: int,
    x: Floats,
    x_at: int,
    y: Floats,
    is_product_rule: bool,
    tile: Floats,
    out: Output,
    block: int,
) -> None:
    """Write the features of one pair of species, which start at ``block``."""
    n_padded = (n_max + LANES - 1) // LANES * LANES
    width = n_slots * n_padded
    is_equal = slot1 == slot2
    is_triangle = is_equal and layout.is_triangle
    for l in range(l_max + 1):
        weight = layout.weight_degree[l]
        if not is_equal:
            weight *= layout.weight_unequal
        for n1 in range(0, n_max, LANES):
            for n2 in range(n1 if is_triangle else 0, n_max, LANES):
                i = l * l * width + slot1 * n_padded + n1
                j = l * l * width + slot2 * n_padded + n2
                _sum_tile(x, x_at, y, i, j, width, 2 * l + 1, weight, is_product_rule, tile)
                _write_tile(layout, tile, n_max, l, n1, n2, is_equal, out, block)


@inlined
def _sum_tile(
    x: Floats,
    x_at: int,
    y: Floats,
    i: int,
    j: int,
    width: int,
    n_terms: int,
    weight: float,
    is_product_rule: bool,
    tile: Floats,
) -> None:
    """Write weighted ``Σ_m x y`` of eight rows and eight columns."""
    # Eight rows share the load of the columns, and are as many independent sums as it takes
    # to hide how long an addition lasts.
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = broadcast(0.0)
    for _ in range(n_terms):
        column = load(y, j)
        a0 = a0 + broadcast(x[x_at + i]) * column
        a1 = a1 + broadcast(x[x_at + i + 1]) * column
        a2 = a2 + broadcast(x[x_at + i + 2]) * column
        a3 = a3 + broadcast(x[x_at + i + 3]) * column
        a4 = a4 + broadcast(x[x_at + i + 4]) * column
        a5 = a5 + broadcast(x[x_at + i + 5]) * column
        a6 = a6 + broadcast(x[x_at + i + 6]) * column
        a7 = a7 + broadcast(x[x_at + i + 7]) * column
        if is_product_rule:
            column = load(x, x_at + j)
            a0 = a0 + broadcast(y[i]) * column
            a1 = a1 + broadcast(y[i + 1]) * column
            a2 = a2 + broadcast(y[i + 2]) * column
            a3 = a3 + broadcast(y[i + 3]) * column
            a4 = a4 + broadcast(y[i + 4]) * column
            a5 = a5 + broadcast(y[i + 5]) * column
            a6 = a6 + broadcast(y[i + 6]) * column
            a7 = a7 + broadcast(y[i + 7]) * column
        i += width
        j += width
    factor = broadcast(weight)
    store(tile, 0, factor * a0)
    store(tile, LANES, factor * a1)
    store(tile, 2 * LANES, factor * a2)
    store(tile, 3 * LANES, factor * a3)
    store(tile, 4 * LANES, factor * a4)
    store(tile, 5 * LANES, factor * a5)
    store(tile, 6 * LANES, factor * a6)
    store(tile, 7 * LANES, factor * a7)


@inlined
def _write_tile(
    layout: Layout,
    tile: Floats,
    n_max: int,
    l: int,
    n1: int,
    n2: int,
    is_equal: bool,
    out: Output,
    block: int,
) -> None:
    """Write those features of eight rows and eight columns that exist."""
    n_rows = min(LANES, n_max - n1)
    if not is_equal:
        at = block + (l * n_max + n1) * n_max + n2
        for k in range(n_rows):
            value = load(tile, LANES * k)
            if n2 + LANES <= n_max:
                # Without a mask, which memory beyond the caches takes at half the speed.
                store(out, at, value)
            else:
                store_some(out, at, value, 0, n_max - n2)
            at += n_max
        return
    n_equal = _n_equal(n_max, layout)
    for k in range(n_rows):
        value = load(tile, LANES * k)
        _write_equal_row(n_max, layout, n1 + k, n2, value, out, block + l * n_equal)


@inlined
def _differentiate_by_pair(
    expansion: Expansion,
    layout: Layout,
    environment: Environment,
    p: int,
    slots: Slots,
    n_slots: int,
    slot: int,
    coefficients: Floats,
    sums: Floats,
    held: int,
    out: Output,
    out_at: int,
) -> None:
    """Write the derivative by the vector of the environment's sorted pair ``p``.

    The neighbour's species has ``slot`` among those of ``coefficients``. What is there already
    is zero outside of the features of the species ``held``, or of any content where that is -1.
    """
    _clear_others(expansion, layout, slots.species[slot], held, out, out_at)
    # As in _contract_factors, eight functions are worth code of their own.
    if expansion.n_max == LANES:
        _sum_over_m(expansion, LANES, environment, p, coefficients, n_slots, sums)
        _write_pair(expansion, LANES, layout, environment, p, slots, slot, sums, out, out_at)
    else:
        n_padded = expansion.n_padded
        _sum_over_m(expansion, n_padded, environment, p, coefficients, n_slots, sums)
        n_max = expansion.n_max
        _write_pair(expansion, n_max, layout, environment, p, slots, slot, sums, out, out_at)


@inlined
def _clear_others(
    expansion: Expansion, layout: Layout, species: int, held: int, out: Output, out_at: int
) -> None:
    """Zero the derivatives of features of other species, as far as they are not.

    A neighbour moves the features of its own species alone. With five of them two thirds of a
    row are zeros, and to write these again would take as long as all else.
    """
    if held == species:
        return
    n_species = expansion.n_species
    n_equal = _n_equal(expansion.n_max, layout)
    for axis in range(3):
        for s1 in range(n_species):
            for s2 in range(s1, n_species):
                block = layout.block_offsets[s1 * n_species + s2]
                is_zero = held >= 0 and held not in (s1, s2)
                if block < 0 or is_zero or species in (s1, s2):
                    continue
                to = out_at + axis * layout.n_features + block
                size = n_equal if s1 == s2 else expansion.n_max**2
                for f in range(to, to + (expansion.l_max + 1) * size):
                    out[f] = 0.0


@inlined
def _sum_over_m(
    expansion: Expansion,
    n_padded: int,
    environment: Environment,
    p: int,
    coefficients: Floats,
    n_slots: int,
    sums: Floats,
) -> None:
    """Write ``u_x A``, ``u_y A``, ``u_z A``, ``B_x``, ``B_y``, ``B_z`` of each slot and l."""
    l_max = expansion.l_max
    width = n_slots * n_padded
    harmonics = environment.harmonics
    gradient = (l_max + 1) ** 2 * LANES
    pair_harmonics = p // LANES * 4 * gradient + p % LANES
    at = p // LANES * 3 * LANES + p % LANES
    ux = broadcast(environment.directions[at])
    uy = broadcast(environment.directions[at + LANES])
    uz = broadcast(environment.directions[at + 2 * LANES])
    zero = broadcast(0.0)
    for l in range(l_max + 1):
        # Two slots share the loads of the harmonics, and are as many independent sums as it
        # takes to hide how long an addition lasts. The last of an odd number goes twice.
        for slot in range(0, n_slots, 2):
            next_slot = min(slot + 1, n_slots - 1)
            for n in range(0, n_padded, LANES):
                a = bx = by = bz = zero
                next_a = next_bx = next_by = next_bz = zero
                h = pair_harmonics + l * l * LANES
                i = l * l * width + slot * n_padded + n
                j = l * l * width + next_slot * n_padded + n
                for _ in range(2 * l + 1):
                    c = load(coefficients, i)
                    next_c = load(coefficients, j)
                    y = broadcast(harmonics[h])
                    gx = broadcast(harmonics[h + gradient])
                    gy = broadcast(harmonics[h + 2 * gradient])
                    gz = broadcast(harmonics[h + 3 * gradient])
                    a = a + y * c
                    bx = bx + gx * c
                    by = by + gy * c
                    bz = bz + gz * c
                    next_a = next_a + y * next_c
                    next_bx = next_bx + gx * next_c
                    next_by = next_by + gy * next_c
                    next_bz = next_bz + gz * next_c
                    h += LANES
                    i += width
                    j += width
                at = 6 * (slot * (l_max + 1) + l) * n_padded + n
                store(sums, at, ux * a)
                store(sums, at + n_padded, uy * a)
                store(sums, at + 2 * n_padded, uz * a)
                store(sums, at + 3 * n_padded, bx)
                store(sums, at + 4 * n_padded, by)
                store(sums, at + 5 * n_padded, bz)
                at = 6 * (next_slot * (l_max + 1) + l) * n_padded + n
                store(sums, at, ux * next_a)
                store(sums, at + n_padded, uy * next_a)
                store(sums, at + 2 * n_padded, uz * next_a)
                store(sums, at + 3 * n_padded, next_bx)
                store(sums, at + 4 * n_padded, next_by)
                store(sums, at + 5 * n_padded, next_bz)


@inlined
def _write_pair(
    expansion: Expansion,
    n_max: int,
    layout: Layout,
    environment: Environment,
    p: int,
    slots: Slots,
    slot: int,
    sums: Floats,
    out: Output,
    out_at: int,
) -> None:
    """Write the derivatives of the features of the neighbour's species."""
    l_max = expansion.l_max
    n_padded = (n_max + LANES - 1) // LANES * LANES
    n_species = expansion.n_species
    radial = environment.radial
    species = slots.species[slot]
    n_equal = _n_equal(n_max, layout)
    for axis in range(3):
        for s1 in range(n_species):
            for s2 in range(s1, n_species):
                block = layout.block_offsets[s1 * n_species + s2]
                if block < 0 or species not in (s1, s2):
                    continue
                to = out_at + axis * layout.n_features + block
                size = n_equal if s1 == s2 else n_max * n_max
                other = slots.of_species[s1 + s2 - species]
                if other < 0:
                    for f in range(to, to + (l_max + 1) * size):
                        out[f] = 0.0
                    continue
                for l in range(l_max + 1):
                    slope = (2 * p * (l_max + 1) + l) * n_padded
                    level = slope + (l_max + 1) * n_padded
                    a = (6 * (other * (l_max + 1) + l) + axis) * n_padded
                    b = a + 3 * n_padded
                    weight = layout.weight_degree[l]
                    if s1 == s2:
                        _write_symmetric(
                            n_max, layout, weight, radial, slope, level, sums, a, b, out, to
                        )
                    # Rows belong to the lower species.
                    elif s1 == species:
                        weight *= layout.weight_unequal
                        _write_products(n_max, weight, radial, slope, level, sums, a, b, out, to)
                    else:
                        weight *= layout.weight_unequal
                        _write_products(n_max, weight, sums, a, b, radial, slope, level, out, to)
                    to += size


@inlined
def _n_equal(n_max: int, layout: Layout) -> int:
    """Features of one degree of a species with itself."""
    return n_max * (n_max + 1) // 2 if layout.is_triangle else n_max * n_max


@inlined
def _write_products(
    n_max: int,
    weight: float,
    x: Floats,
    x1: int,
    x2: int,
    y: Floats,
    y1: int,
    y2: int,
    out: Output,
    to: int,
) -> None:
    """Write weighted ``x1 y1 + x2 y2`` for all n1 of x and n2 of y."""
    factor = broadcast(weight)
    for n2 in range(0, n_max, LANES):
        column1 = factor * load(y, y1 + n2)
        column2 = factor * load(y, y2 + n2)
        for n1 in range(n_max):
            value = broadcast(x[x1 + n1]) * column1 + broadcast(x[x2 + n1]) * column2
            if n2 + LANES <= n_max:
                store(out, to + n1 * n_max + n2, value)
            else:
                store_some(out, to + n1 * n_max + n2, value, 0, n_max - n2)


@inlined
def _write_symmetric(
    n_max: int,
    layout: Layout,
    weight: float,
    x: Floats,
    x1: int,
    x2: int,
    y: Floats,
    y1: int,
    y2: int,
    out: Output,
    to: int,
) -> None:
    """Write weighted ``x1 y1 + x2 y2`` and its mirror image for n1, n2 of one species."""
    factor = broadcast(weight)
    for n2 in range(0, n_max, LANES):
        column1 = factor * load(y, y1 + n2)
        column2 = factor * load(y, y2 + n2)
        mirror1 = factor * load(x, x1 + n2)
        mirror2 = factor * load(x, x2 + n2)
        for n1 in range(min(n2 + LANES, n_max) if layout.is_triangle else n_max):
            value = broadcast(x[x1 + n1]) * column1 + broadcast(x[x2 + n1]) * column2
            value = value + broadcast(y[y1 + n1]) * mirror1 + broadcast(y[y2 + n1]) * mirror2
            _write_equal_row(n_max, layout, n1, n2, value, out, to)


@inlined
def _write_equal_row(
    n_max: int,
    layout: Layout,
    n1: int,
    n2: int,
    value: Any,
    out: Output,
    to: int,
) -> None:
    """Write eight features of one species, row ``n1`` from ``n2`` on, as far as they exist."""
    n_padded = (n_max + LANES - 1) // LANES * LANES
    value = value * load(layout.weight_equal, n1 * n_padded + n2)
    if layout.is_triangle:
        # Row n1 starts at its diagonal, after the n1 rows above it.
        at = n1 * n_max - n1 * (n1 + 1) // 2 + n2
        store_some(out, to + at, value, n1 - n2, n_max - n2)
    else:
        store_some(out, to + n1 * n_max + n2, value, 0, n_max - n2)


@inlined
def _clear_absent(
    expansion: Expansion, layout: Layout, slots: Slots, out: Output, out_at: int
) -> None:
    """Zero the features of pairs of species of which one does not occur."""
    n_species = expansion.n_species
    n = expansion.n_max
    for s1 in range(n_species):
        for s2 in range(s1, n_species):
            if layout.block_offsets[s1 * n_species + s2] < 0:
                continue
            if slots.of_species[s1] < 0 or slots.of_species[s2] < 0:
                size = (expansion.l_max + 1) * (_n_equal(n, layout) if s1 == s2 else n * n)
                begin = out_at + layout.block_offsets[s1 * n_species + s2]
                for f in range(begin, begin + size):
                    out[f] = 0.0
