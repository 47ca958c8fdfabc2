"""The neighbour density of an atom, expanded in radial functions and spherical harmonics.

    c[lm, s, n] = Σ_j f(r_j) R_ln(r_j) Y_lm(direction of j),   j of species s,

with the table's radial functions R_ln and f the product of cutoff function and radial
scaling. All families of density correlations are contractions of these coefficients
and of their derivatives

    d c[lm, s, n] / d r_j = slope_ln Y_lm u_j + level_ln g_lm(u_j),

where ``u_j`` is the unit vector, ``g_lm`` the gradient of the solid harmonic there,
``level = f R / r`` and ``slope = (f R)' - l level``. Both factors are kept for each pair, so
that a contraction can sum over m first and over n afterwards.

One centre is worked on at a time, in an :class:`Environment` that every centre reuses.
A species is an element, or a mixture of elements that share a density: an atom counts as one
species or as several, each with a weight. A pair enters the sorted list once for each of them.
Only species that occur take part: each gets a slot, in ascending order of species, and
coefficients are ``c[lm, slot, n]`` with n padded to whole :data:`~atomlake.kernels.lanes.LANES`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined
from atomlake.kernels.cutoffs import cutoff_functions
from atomlake.kernels.harmonics import solid_gradients, spherical_harmonics
from atomlake.kernels.lanes import (
    LANES,
    advanced,
    aligned,
    broadcast,
    load,
    n_padded,
    pointer,
    store,
)
from atomlake.kernels.radial import hermite_weights, hermite_weights_derivative, scaled_weights

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Axes (a, b) of the six independent components of the strain derivative of an invariant.
STRAIN_COMPONENTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

#: Pairs that are added at a time: a coefficient is loaded and stored once for all of them.
TOGETHER = 4

_Y00 = 0.28209479177387814


class Expansion(NamedTuple):
    """Parameters of an expansion.

    Attributes
    ----------
    n_max, l_max : int
        Number of radial functions, largest degree.
    n_padded : int
        ``n_max`` rounded up to whole lanes.
    table : array
        Radial functions; see :mod:`atomlake.kernels.radial`.
    n_nodes, spacing : int, float
        Nodes of the table, and the distance between two in Å.
    recursion : array
        Constants of the harmonics.
    cutoff, cutoff_parameter : float
        Of the cutoff function, in Å.
    cutoff_code : int
        One of :mod:`atomlake.kernels.cutoffs`.
    scaling_rate, scaling_scale, scaling_exponent : float
        Neighbours are weighted by ``rate / (rate + (r / scale)^exponent)``; not at all where the
        exponent is 0.
    centre_weight : float
        Weight of the centre's own density.
    species_offsets : int64 array, shape (n_numbers + 1,)
        Species of atomic number z are ``species[species_offsets[z]:species_offsets[z + 1]]``.
    species : int64 array
        Species that atoms of each atomic number count as.
    species_weights : float64 array
        Weight in each of them.
    n_species : int
        Number of species.
    n_repeats : int
        Most species that one atom counts as.
    """

    n_max: int
    l_max: int
    n_padded: int
    table: Floats
    n_nodes: int
    spacing: float
    recursion: Floats
    cutoff: float
    cutoff_code: int
    cutoff_parameter: float
    scaling_rate: float
    scaling_scale: float
    scaling_exponent: float
    centre_weight: float
    species_offsets: Integers
    species: Integers
    species_weights: Floats
    n_species: int
    n_repeats: int


class Pairs(NamedTuple):
    """The atoms of a batch and their neighbours.

    Attributes
    ----------
    vectors : float64 array, shape (n_pairs, 3)
        From the centre to the neighbour, in Å.
    distances : float64 array, shape (n_pairs,)
        Their lengths.
    offsets : int64 array, shape (n_atoms + 1,)
        Pairs of centre i are ``offsets[i]:offsets[i + 1]``.
    neighbour_index : int64 array, shape (n_pairs,)
        The neighbour's atom.
    numbers : int32 array, shape (n_atoms,)
        Atomic numbers.
    """

    vectors: Floats
    distances: Floats
    offsets: Integers
    neighbour_index: Integers
    numbers: NDArray[np.int32]


class Slots(NamedTuple):
    """Places of the species that occur, in ascending order of species.

    Attributes
    ----------
    of_species : int64 array, shape (n_species,)
        Slot of each species, -1 where it is absent.
    species : int64 array, shape (n_species,)
        Species of each slot.
    """

    of_species: Integers
    species: Integers


class Environment(NamedTuple):
    """Room for the expansion of one centre; pairs are sorted by slot.

    Attributes
    ----------
    slots : Slots
        Species that occur.
    order : int64 array
        The pair, relative to the centre's first, at each place of the sorted list.
    weights : float64 array
        Its weight.
    slot_offsets : int64 array, shape (n_species + 1,)
        Sorted pairs of each slot.
    distances, fading, fading_slope : float64 array
        r, f and f' of each sorted pair.
    directions : float64 array
        Unit vectors in blocks of eight pairs: eight x, eight y, eight z.
    harmonics : float64 array
        For each block of eight pairs: rows of eight, Y_lm, then the x, y and z components of g_lm.
    values : float64 array
        f R_ln of the pairs that are being added.
    radial : float64 array
        For each sorted pair: slope_ln of all l and n, then level_ln.
    coefficients : float64 array
        c[lm, slot, n].
    strain : float64 array
        d c / d strain_ab for each of :data:`STRAIN_COMPONENTS`.
    """

    slots: Slots
    order: Integers
    weights: Floats
    slot_offsets: Integers
    distances: Floats
    directions: Floats
    fading: Floats
    fading_slope: Floats
    harmonics: Floats
    values: Floats
    radial: Floats
    coefficients: Floats
    strain: Floats


class Memory(NamedTuple):
    """Memory for an :class:`Environment`, which kernels divide with :func:`divide`.

    Attributes
    ----------
    max_pairs : int
        Length of the longest sorted list.
    has_gradient, has_strain : bool
        Whether there is room for what only derivatives need.
    numbers : float64 array
        For all that is float64.
    integers : int64 array
        For the rest.
    """

    max_pairs: int
    has_gradient: bool
    has_strain: bool
    numbers: Floats
    integers: Integers


def empty_environment(
    expansion: Expansion, max_pairs: int, has_gradient: bool, has_strain: bool
) -> Memory:
    """Allocate memory for centres of at most ``max_pairs`` neighbours."""
    max_pairs *= expansion.n_repeats
    n_harmonics = (expansion.l_max + 1) ** 2
    n_radial = (expansion.l_max + 1) * expansion.n_padded
    n_coefficients = n_harmonics * expansion.n_species * expansion.n_padded
    of_pair = 7 + n_harmonics + (3 * n_harmonics + 2 * n_radial if has_gradient else 0)
    of_centre = TOGETHER * n_radial + (7 if has_strain else 1) * n_coefficients
    # Two pieces: for a block of few centres an array for each part of the environment, made here
    # and handed over one by one, would take a tenth of the kernel's time.
    return Memory(
        max_pairs,
        has_gradient,
        has_strain,
        np.empty(n_padded(max_pairs) * of_pair + of_centre + LANES),
        np.empty(max_pairs + 3 * expansion.n_species + 1, np.int64),
    )


@inlined
def divide(expansion: Expansion, memory: Memory) -> Environment:
    """Lay an environment, of pointers, into its memory."""
    # Lanes are loaded whole, so lists of pairs end at a whole block.
    padded = (memory.max_pairs + LANES - 1) // LANES * LANES
    n_harmonics = (expansion.l_max + 1) ** 2
    n_radial = (expansion.l_max + 1) * expansion.n_padded
    n_coefficients = n_harmonics * expansion.n_species * expansion.n_padded
    order = pointer(memory.integers)
    of_species = advanced(order, memory.max_pairs)
    species = advanced(of_species, expansion.n_species)
    weights = aligned(pointer(memory.numbers))
    distances = advanced(weights, padded)
    directions = advanced(distances, padded)
    fading = advanced(directions, 3 * padded)
    fading_slope = advanced(fading, padded)
    harmonics = advanced(fading_slope, padded)
    radial = advanced(harmonics, (4 if memory.has_gradient else 1) * n_harmonics * padded)
    values = advanced(radial, 2 * n_radial * padded if memory.has_gradient else 0)
    coefficients = advanced(values, TOGETHER * n_radial)
    return Environment(
        Slots(of_species, species),
        order,
        weights,
        advanced(species, expansion.n_species),
        distances,
        directions,
        fading,
        fading_slope,
        harmonics,
        values,
        radial,
        coefficients,
        advanced(coefficients, n_coefficients),
    )


@inlined
def expansion_pointers(expansion: Expansion) -> Expansion:
    """Replace the arrays by pointers."""
    return Expansion(
        expansion.n_max,
        expansion.l_max,
        expansion.n_padded,
        pointer(expansion.table),
        expansion.n_nodes,
        expansion.spacing,
        pointer(expansion.recursion),
        expansion.cutoff,
        expansion.cutoff_code,
        expansion.cutoff_parameter,
        expansion.scaling_rate,
        expansion.scaling_scale,
        expansion.scaling_exponent,
        expansion.centre_weight,
        pointer(expansion.species_offsets),
        pointer(expansion.species),
        pointer(expansion.species_weights),
        expansion.n_species,
        expansion.n_repeats,
    )


@inlined
def pair_pointers(pairs: Pairs) -> Pairs:
    """Replace the arrays by pointers."""
    return Pairs(
        pointer(pairs.vectors),
        pointer(pairs.distances),
        pointer(pairs.offsets),
        pointer(pairs.neighbour_index),
        pointer(pairs.numbers),
    )


@inlined
def expand(
    expansion: Expansion,
    pairs: Pairs,
    centre: int,
    environment: Environment,
    has_gradient: bool,
    has_strain: bool,
) -> int:
    """Fill ``environment`` for one centre, in one pass over its neighbours.

    Parameters
    ----------
    expansion, pairs, environment
        Of pointers.
    centre : int
        The atom.
    has_gradient : bool
        Whether to keep what derivatives by positions need: ``harmonics`` and ``radial``.
    has_strain : bool
        Whether to sum up ``strain``; implies ``has_gradient``.

    Returns
    -------
    int
        Number of slots in use.
    """
    n_slots = _sort_by_species(expansion, pairs, centre, environment)
    n_pairs = environment.slot_offsets[n_slots]
    _sorted_geometry(expansion, pairs, centre, n_pairs, environment)
    n_harmonics = (expansion.l_max + 1) ** 2
    block_size = (4 if has_gradient else 1) * n_harmonics * LANES
    for block in range((n_pairs + LANES - 1) // LANES):
        values = block * block_size
        spherical_harmonics(
            expansion.l_max,
            expansion.recursion,
            environment.directions,
            3 * LANES * block,
            environment.harmonics,
            values,
        )
        if has_gradient:
            solid_gradients(
                expansion.l_max,
                expansion.recursion,
                environment.harmonics,
                values,
                values + n_harmonics * LANES,
            )
    width = n_slots * expansion.n_padded
    zero = broadcast(0.0)
    for i in range(0, n_harmonics * width, LANES):
        store(environment.coefficients, i, zero)
    if has_strain:
        for i in range(0, 6 * n_harmonics * width, LANES):
            store(environment.strain, i, zero)
    if expansion.centre_weight != 0.0:
        number = pairs.numbers[centre]
        for e in range(expansion.species_offsets[number], expansion.species_offsets[number + 1]):
            slot = environment.slots.of_species[expansion.species[e]]
            weight = broadcast(expansion.centre_weight * expansion.species_weights[e] * _Y00)
            for n in range(0, expansion.n_padded, LANES):
                value = weight * load(expansion.table, n)
                store(environment.coefficients, slot * expansion.n_padded + n, value)
    for slot in range(n_slots):
        end = environment.slot_offsets[slot + 1]
        for p in range(environment.slot_offsets[slot], end, TOGETHER):
            n = min(TOGETHER, end - p)
            for k in range(n):
                _radial_functions(expansion, environment, p + k, k, has_gradient)
            _add_neighbours(expansion, environment, p, n, slot, width, has_gradient)
            if has_strain:
                for k in range(0, n, 2):
                    _add_strain(expansion, environment, p, k, n, slot, width)
    return n_slots


@inlined
def start_mean(
    expansion: Expansion, pairs: Pairs, first: int, last: int, mean: Environment, has_strain: bool
) -> int:
    """Give every species of the atoms ``first:last`` a slot, and clear what will be summed up.

    Returns
    -------
    int
        Number of slots.
    """
    slots = mean.slots
    for s in range(expansion.n_species):
        slots.of_species[s] = -1
    for atom in range(first, last):
        number = pairs.numbers[atom]
        for e in range(expansion.species_offsets[number], expansion.species_offsets[number + 1]):
            slots.of_species[expansion.species[e]] = 0
    n_slots = 0
    for s in range(expansion.n_species):
        if slots.of_species[s] == 0:
            slots.of_species[s] = n_slots
            slots.species[n_slots] = s
            n_slots += 1
    n_coefficients = (expansion.l_max + 1) ** 2 * n_slots * expansion.n_padded
    for i in range(n_coefficients):
        mean.coefficients[i] = 0.0
    for i in range(6 * n_coefficients if has_strain else 0):
        mean.strain[i] = 0.0
    return n_slots


@inlined
def add_to_mean(
    expansion: Expansion,
    environment: Environment,
    n_slots: int,
    weight: float,
    mean: Environment,
    n_mean_slots: int,
    has_strain: bool,
) -> None:
    """Add the coefficients of a centre (and their strain derivatives), times ``weight``."""
    n_padded = expansion.n_padded
    n_harmonics = (expansion.l_max + 1) ** 2
    for slot in range(n_slots):
        mean_slot = mean.slots.of_species[environment.slots.species[slot]]
        for k in range(n_harmonics):
            i = (k * n_slots + slot) * n_padded
            j = (k * n_mean_slots + mean_slot) * n_padded
            for c in range(n_padded):
                mean.coefficients[j + c] += weight * environment.coefficients[i + c]
        for k in range(6 * n_harmonics if has_strain else 0):
            i = (k * n_slots + slot) * n_padded
            j = (k * n_mean_slots + mean_slot) * n_padded
            for c in range(n_padded):
                mean.strain[j + c] += weight * environment.strain[i + c]


@inlined
def _sort_by_species(
    expansion: Expansion, pairs: Pairs, centre: int, environment: Environment
) -> int:
    first = pairs.offsets[centre]
    last = pairs.offsets[centre + 1]
    slots = environment.slots
    slot_offsets = environment.slot_offsets
    entries = expansion.species_offsets
    for s in range(expansion.n_species):
        slots.of_species[s] = -1
    if expansion.centre_weight != 0.0:
        number = pairs.numbers[centre]
        for e in range(entries[number], entries[number + 1]):
            slots.of_species[expansion.species[e]] = 0
    for pair in range(first, last):
        number = pairs.numbers[pairs.neighbour_index[pair]]
        for e in range(entries[number], entries[number + 1]):
            s = expansion.species[e]
            slots.of_species[s] = max(slots.of_species[s], 0) + 1
    n_slots = 0
    slot_offsets[0] = 0
    for s in range(expansion.n_species):
        count = slots.of_species[s]
        if count >= 0:
            slots.of_species[s] = n_slots
            slots.species[n_slots] = s
            n_slots += 1
            slot_offsets[n_slots] = slot_offsets[n_slots - 1] + count
    for pair in range(first, last):
        number = pairs.numbers[pairs.neighbour_index[pair]]
        for e in range(entries[number], entries[number + 1]):
            slot = slots.of_species[expansion.species[e]]
            environment.order[slot_offsets[slot]] = pair - first
            environment.weights[slot_offsets[slot]] = expansion.species_weights[e]
            slot_offsets[slot] += 1
    # Each offset has moved on to the next slot's start.
    for slot in range(n_slots, 0, -1):
        slot_offsets[slot] = slot_offsets[slot - 1]
    slot_offsets[0] = 0
    return n_slots


@inlined
def _sorted_geometry(
    expansion: Expansion, pairs: Pairs, centre: int, n_pairs: int, environment: Environment
) -> None:
    first = pairs.offsets[centre]
    directions = environment.directions
    for p in range(n_pairs):
        pair = first + environment.order[p]
        r = pairs.distances[pair]
        environment.distances[p] = r
        at = p // LANES * 3 * LANES + p % LANES
        directions[at] = pairs.vectors[3 * pair] / r
        directions[at + LANES] = pairs.vectors[3 * pair + 1] / r
        directions[at + 2 * LANES] = pairs.vectors[3 * pair + 2] / r
    for p in range(n_pairs, (n_pairs + LANES - 1) // LANES * LANES):
        at = p // LANES * 3 * LANES + p % LANES
        directions[at] = directions[at + LANES] = directions[at + 2 * LANES] = 0.0
    cutoff_functions(
        expansion.cutoff_code,
        expansion.cutoff_parameter,
        expansion.cutoff,
        environment.distances,
        n_pairs,
        environment.fading,
        environment.fading_slope,
    )
    for p in range(n_pairs):
        environment.fading[p] *= environment.weights[p]
        environment.fading_slope[p] *= environment.weights[p]
    if expansion.scaling_exponent != 0.0:
        for p in range(n_pairs):
            r = environment.distances[p]
            fall = (r / expansion.scaling_scale) ** expansion.scaling_exponent
            scaling = expansion.scaling_rate / (expansion.scaling_rate + fall)
            slope = -expansion.scaling_exponent * fall / r / (expansion.scaling_rate + fall)
            environment.fading_slope[p] = scaling * (
                environment.fading_slope[p] + slope * environment.fading[p]
            )
            environment.fading[p] *= scaling


@inlined
def _radial_functions(
    expansion: Expansion, environment: Environment, p: int, k: int, has_gradient: bool
) -> None:
    """Write f R_ln of sorted pair ``p`` to row ``k`` of ``values``, and its ``radial``."""
    l_max = expansion.l_max
    padded = expansion.n_padded
    n_radial = (l_max + 1) * padded
    table = expansion.table
    r = environment.distances[p]
    node = min(int(r / expansion.spacing), expansion.n_nodes - 2)
    t = r / expansion.spacing - node
    interpolate = hermite_weights(t)
    fading = environment.fading[p]
    w0, w1, w2, w3, w4, w5 = scaled_weights(interpolate, fading, interpolate, 0.0)
    if has_gradient:
        d0, d1, d2, d3, d4, d5 = scaled_weights(
            hermite_weights_derivative(t),
            fading / expansion.spacing,
            interpolate,
            environment.fading_slope[p],
        )
        inverse = broadcast(1.0 / r)
    for l in range(l_max + 1):
        for n in range(l * padded, (l + 1) * padded, LANES):
            at = node * 3 * n_radial + n
            v0 = load(table, at)
            v1 = load(table, at + n_radial)
            v2 = load(table, at + 2 * n_radial)
            v3 = load(table, at + 3 * n_radial)
            v4 = load(table, at + 4 * n_radial)
            v5 = load(table, at + 5 * n_radial)
            value = (
                broadcast(w0) * v0
                + broadcast(w1) * v1
                + broadcast(w2) * v2
                + broadcast(w3) * v3
                + broadcast(w4) * v4
                + broadcast(w5) * v5
            )
            store(environment.values, k * n_radial + n, value)
            if has_gradient:
                derivative = (
                    broadcast(d0) * v0
                    + broadcast(d1) * v1
                    + broadcast(d2) * v2
                    + broadcast(d3) * v3
                    + broadcast(d4) * v4
                    + broadcast(d5) * v5
                )
                level = inverse * value
                slope = derivative - broadcast(float(l)) * level
                at = 2 * p * n_radial + n
                store(environment.radial, at, slope)
                store(environment.radial, at + n_radial, level)


@inlined
def _add_neighbours(
    expansion: Expansion,
    environment: Environment,
    p: int,
    n_pairs: int,
    slot: int,
    width: int,
    has_gradient: bool,
) -> None:
    """Add the sorted pairs ``p:p + n_pairs``, at most four, to the coefficients."""
    padded = expansion.n_padded
    n_radial = (expansion.l_max + 1) * padded
    coefficients = environment.coefficients
    harmonics = environment.harmonics
    values = environment.values
    block_size = (4 if has_gradient else 1) * (expansion.l_max + 1) ** 2 * LANES
    # A pair that is missing counts as the last one, times zero.
    last = p + n_pairs - 1
    p1, p2, p3 = min(p + 1, last), min(p + 2, last), min(p + 3, last)
    h0 = p // LANES * block_size + p % LANES
    h1 = p1 // LANES * block_size + p1 % LANES
    h2 = p2 // LANES * block_size + p2 % LANES
    h3 = p3 // LANES * block_size + p3 % LANES
    zero = broadcast(0.0)
    for l in range(expansion.l_max + 1):
        for n in range(0, padded, LANES):
            at = l * padded + n
            v0 = load(values, at)
            v1 = load(values, at + n_radial) if n_pairs > 1 else zero
            v2 = load(values, at + 2 * n_radial) if n_pairs > 2 else zero
            v3 = load(values, at + 3 * n_radial) if n_pairs > 3 else zero
            for lm in range(l * l, (l + 1) * (l + 1)):
                i = lm * width + slot * padded + n
                y = lm * LANES
                c = load(coefficients, i)
                c = c + broadcast(harmonics[h0 + y]) * v0
                c = c + broadcast(harmonics[h1 + y]) * v1
                c = c + broadcast(harmonics[h2 + y]) * v2
                c = c + broadcast(harmonics[h3 + y]) * v3
                store(coefficients, i, c)


@inlined
def _add_strain(
    expansion: Expansion,
    environment: Environment,
    p: int,
    k: int,
    n_pairs: int,
    slot: int,
    width: int,
) -> None:
    """Add d c / d r_a · r_b of the sorted pairs ``p + k`` and ``p + k + 1``.

    That is their share of d c / d strain_ab. With r the distance, ``r level`` is the value, of
    which ``values`` has the rows of ``n_pairs`` pairs from ``p`` on.
    """
    padded = expansion.n_padded
    n_radial = (expansion.l_max + 1) * padded
    n_harmonics = (expansion.l_max + 1) ** 2
    harmonics = environment.harmonics
    directions = environment.directions
    values = environment.values
    strain = environment.strain
    # Two pairs share the loads and stores of the sums. One that is missing counts as the last one,
    # times zero.
    q = p + k
    next_k = min(k + 1, n_pairs - 1)
    next_q = p + next_k
    has_next = 1.0 if next_k > k else 0.0
    at = q // LANES * 3 * LANES + q % LANES
    x = broadcast(directions[at])
    y = broadcast(directions[at + LANES])
    z = broadcast(directions[at + 2 * LANES])
    r = broadcast(environment.distances[q])
    at = next_q // LANES * 3 * LANES + next_q % LANES
    next_x = broadcast(directions[at])
    next_y = broadcast(directions[at + LANES])
    next_z = broadcast(directions[at + 2 * LANES])
    next_r = broadcast(environment.distances[next_q])
    size = n_harmonics * width
    gradient = n_harmonics * LANES
    pair_harmonics = q // LANES * 4 * gradient + q % LANES
    next_harmonics = next_q // LANES * 4 * gradient + next_q % LANES
    for l in range(expansion.l_max + 1):
        for n in range(l * padded, (l + 1) * padded, LANES):
            slope = r * load(environment.radial, 2 * q * n_radial + n)
            level = load(values, k * n_radial + n)
            next_slope = next_r * load(environment.radial, 2 * next_q * n_radial + n)
            next_level = load(values, next_k * n_radial + n)
            next_slope = has_next * next_slope
            next_level = has_next * next_level
            for lm in range(l * l, (l + 1) * (l + 1)):
                h = pair_harmonics + lm * LANES
                value = harmonics[h] * slope
                along_x = x * value + harmonics[h + gradient] * level
                along_y = y * value + harmonics[h + 2 * gradient] * level
                along_z = z * value + harmonics[h + 3 * gradient] * level
                h = next_harmonics + lm * LANES
                value = harmonics[h] * next_slope
                next_along_x = next_x * value + harmonics[h + gradient] * next_level
                next_along_y = next_y * value + harmonics[h + 2 * gradient] * next_level
                next_along_z = next_z * value + harmonics[h + 3 * gradient] * next_level
                i = lm * width + slot * padded + n - l * padded
                store(strain, i, load(strain, i) + along_x * x + next_along_x * next_x)
                i += size
                store(strain, i, load(strain, i) + along_x * y + next_along_x * next_y)
                i += size
                store(strain, i, load(strain, i) + along_x * z + next_along_x * next_z)
                i += size
                store(strain, i, load(strain, i) + along_y * y + next_along_y * next_y)
                i += size
                store(strain, i, load(strain, i) + along_y * z + next_along_y * next_z)
                i += size
                store(strain, i, load(strain, i) + along_z * z + next_along_z * next_z)
