"""Products of expansion coefficients, coupled under rotation.

    p[μ, f] = weight Σ_t w_t Π_k c[channel_fk, l_k, m_tk]

A feature names its ν factors' channels (species and radial function) and a coupling: the
degrees l_k, and for each component μ a list of terms, each a weight and one m for every factor.

Features come in an order that makes this a few matrix products. Equal factors (a *group*)
enter as one *power*, a product of coefficients of one channel, tabulated once for each centre
beside the coefficients themselves. A *run* of features differs in nothing but the channel of
the last group, which goes up by one, and a *panel* is made of runs that differ in the channel of
the group before, the middle one. Then

    scaled[t] = w_t power[t, outer channels]                                for each panel
    partial[q, b] = Σ_(t with last power q) scaled[t] power[t, b]           for all runs b
    p[μ, b, c] = Σ_(q of μ) partial[q, b] power[q, c]                       for all features c

and the innermost loops are over b and c, consecutive numbers for whole lanes.

Derivatives go the same way, by the rules for sums and products, for three directions at a
time: those in which one neighbour moves, or three components of the strain. A neighbour
moves the coefficients of its own species alone, so most runs are done with a few of their
channels. The result is a whole row of the output, which is written once from end to end.

Features of the mean coefficients of a structure are the same function; the directions are
those in which an atom moves the mean coefficients of one species.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel
from atomlake.kernels.expansion import (
    STRAIN_COMPONENTS,
    Environment,
    Expansion,
    Memory,
    Pairs,
    add_to_mean,
    divide,
    expand,
    expansion_pointers,
    pair_pointers,
    start_mean,
)
from atomlake.kernels.lanes import (
    LANES,
    broadcast,
    load,
    n_padded,
    pointer,
    store,
    store_some,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Output = NDArray[Any]

#: Most factors of a product.
MAX_FACTORS = 4


class Couplings(NamedTuple):
    """Which products are features.

    A product has up to four groups: two outer ones, the middle one and the last one. Those that it
    lacks are the power that is one, in the channel after the last.

    Attributes
    ----------
    n_features, n_components : int
        Length of a row, and components of each feature.
    n_powers, n_channels : int
        Powers that are tabulated, and channels of each: species times radial functions.
    power_factors : int64 array, shape (n_powers - (l_max + 1)² - 1, 2)
        The first powers are the coefficients and the number one; every other is the product of
        two before it.
    panel_coupling, panel_middle, panel_runs : int64 array, shape (n_panels,)
        Coupling of each panel; channel of its first run's middle group; its number of runs.
    panel_outer : int64 array, shape (n_panels, 2)
        Channels of its outer groups.
    panel_scaled, panel_partial : int64 array, shape (n_panels + 1,)
        Where its numbers begin in :class:`Tables`.
    run_features, run_last, run_lengths : int64 array, shape (n_runs,)
        First feature of each run; channel of its last group; number of features.
    feature_strides : int64 array, shape (n_couplings,)
        From one feature of a run to the next.
    last_offsets : int64 array, shape (n_couplings · n_components + 1,)
        Last powers of each coupling's components.
    last_powers, term_offsets : int64 array, shape (n_lasts,), (n_lasts + 1,)
        The powers, and the terms of each.
    term_powers : int64 array, shape (n_terms, 3)
        Powers of the outer groups and of the middle one.
    term_weights : float64 array, shape (n_terms,)
        w, times the weight of the features.
    generators : float64 array, shape (3, n_components, n_components)
        What infinitesimal rotations do to the components:
        ``dp/dstrain_ab - dp/dstrain_ba = G p`` for (a, b) = (x, y), (x, z), (y, z).
    """

    n_features: int
    n_components: int
    n_powers: int
    n_channels: int
    n_panels: int
    power_factors: Integers
    panel_coupling: Integers
    panel_middle: Integers
    panel_runs: Integers
    panel_outer: Integers
    panel_scaled: Integers
    panel_partial: Integers
    run_features: Integers
    run_last: Integers
    run_lengths: Integers
    feature_strides: Integers
    last_offsets: Integers
    last_powers: Integers
    term_offsets: Integers
    term_powers: Integers
    term_weights: Floats
    generators: Floats


class Tables(NamedTuple):
    """What features are made of, or the derivative of that by one direction.

    Attributes
    ----------
    powers : float64 array
        Powers of the coefficients, [power, channel].
    scaled : float64 array
        Of each panel, [term]. Of derivatives that of one panel.
    partial : float64 array
        Of each panel, [last power, run], runs filled up to whole lanes. Of derivatives that of
        one panel.
    """

    powers: Floats
    scaled: Floats
    partial: Floats


class Room(NamedTuple):
    """Room for one centre, or for the mean over a structure.

    Attributes
    ----------
    width : int
        Length of a row of tables: channels, and so much more that whole lanes can be read.
    tables : Tables
        For the values.
    x, y, z : Tables
        For the three directions.
    derivatives : float64 array
        dc[sorted pair, axis, lm, radial function].
    values : float64 array
        p.
    moved : float64 array
        dp by the three directions.
    strain : float64 array
        dp/dstrain of the components of :data:`STRAIN_COMPONENTS`.
    lanes : float64 array, shape (8,)
        Lanes that go to different places.
    """

    width: int
    tables: Tables
    x: Tables
    y: Tables
    z: Tables
    derivatives: Floats
    values: Floats
    moved: Floats
    strain: Floats
    lanes: Floats


def empty_room(
    expansion: Expansion,
    couplings: Couplings,
    max_pairs: int,
    has_positions: bool,
    has_strain: bool,
) -> Room:
    """Allocate room for centres of at most ``max_pairs`` neighbours."""
    n_coefficients = expansion.n_max * (expansion.l_max + 1) ** 2
    n_values = couplings.n_components * couplings.n_features
    width = n_padded(couplings.n_channels) + LANES
    n_moves = 3 * max_pairs * expansion.n_repeats if has_positions else 0
    scaled, partial = couplings.panel_scaled, couplings.panel_partial
    x, y, z = (
        _empty_tables(couplings, width, np.diff(scaled).max(), np.diff(partial).max())
        for _ in range(3)
    )
    return Room(
        width=width,
        tables=_empty_tables(couplings, width, scaled[-1], partial[-1]),
        x=x,
        y=y,
        z=z,
        derivatives=np.empty(n_coefficients * n_moves),
        values=np.empty(n_values),
        moved=np.empty(3 * n_values if has_positions else 0),
        strain=np.empty(6 * n_values if has_strain else 0),
        lanes=np.empty(LANES),
    )


def _empty_tables(couplings: Couplings, width: int, n_scaled: int, n_partial: int) -> Tables:
    # Lanes beyond the last channel are computed and left out, so they must hold numbers.
    powers = np.zeros(couplings.n_powers * width)
    return Tables(powers, np.empty(n_scaled), np.empty(n_partial))


@inlined
def _coupling_pointers(couplings: Couplings) -> Couplings:
    """Replace the arrays by pointers."""
    return Couplings(
        couplings.n_features,
        couplings.n_components,
        couplings.n_powers,
        couplings.n_channels,
        couplings.n_panels,
        pointer(couplings.power_factors),
        pointer(couplings.panel_coupling),
        pointer(couplings.panel_middle),
        pointer(couplings.panel_runs),
        pointer(couplings.panel_outer),
        pointer(couplings.panel_scaled),
        pointer(couplings.panel_partial),
        pointer(couplings.run_features),
        pointer(couplings.run_last),
        pointer(couplings.run_lengths),
        pointer(couplings.feature_strides),
        pointer(couplings.last_offsets),
        pointer(couplings.last_powers),
        pointer(couplings.term_offsets),
        pointer(couplings.term_powers),
        pointer(couplings.term_weights),
        pointer(couplings.generators),
    )


@inlined
def _table_pointers(tables: Tables) -> Tables:
    """Replace the arrays by pointers."""
    return Tables(pointer(tables.powers), pointer(tables.scaled), pointer(tables.partial))


@inlined
def _room_pointers(room: Room) -> Room:
    """Replace the arrays by pointers."""
    return Room(
        room.width,
        _table_pointers(room.tables),
        _table_pointers(room.x),
        _table_pointers(room.y),
        _table_pointers(room.z),
        pointer(room.derivatives),
        pointer(room.values),
        pointer(room.moved),
        pointer(room.strain),
        pointer(room.lanes),
    )


@kernel
def correlations(
    expansion: Expansion,
    couplings: Couplings,
    pairs: Pairs,
    first: int,
    last: int,
    memory: Memory,
    room: Room,
    features: Output,
    gradient_positions: Output,
    gradient_strain: Output,
) -> None:
    """Write the coupled products of the centres ``first:last`` and their derivatives.

    Parameters
    ----------
    memory, room : Memory, Room
        For the largest of the centres.
    features : array, shape (n, n_values)
        Output; n_values is components times features, each component's features side by side.
    gradient_positions : array, shape (n_pairs of the centres or 0, 3, n_values)
        Output, by the neighbour of each pair.
    gradient_strain : array, shape (n or 0, 3, 3, n_values)
        Output.
    """
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    expansion = expansion_pointers(expansion)
    couplings = _coupling_pointers(couplings)
    pairs = pair_pointers(pairs)
    environment = divide(expansion, memory)
    room = _room_pointers(room)
    features = pointer(features)
    gradient_positions = pointer(gradient_positions)
    gradient_strain = pointer(gradient_strain)
    n_values = couplings.n_components * couplings.n_features
    for centre in range(first, last):
        n_slots = expand(
            expansion, pairs, centre, environment, has_positions or has_strain, has_strain
        )
        n_pairs = pairs.offsets[centre + 1] - pairs.offsets[centre]
        if has_positions:
            n_sorted = environment.slot_offsets[n_slots]
            _differentiate(expansion, environment, n_sorted, room.derivatives)
        _write(
            expansion,
            couplings,
            environment,
            n_slots,
            n_pairs,
            expansion.n_repeats > 1,
            has_positions,
            has_strain,
            room,
            features,
            (centre - first) * n_values,
            gradient_positions,
            3 * n_values * (pairs.offsets[centre] - pairs.offsets[first]),
            gradient_strain,
        )


@kernel
def correlations_of_mean(
    expansion: Expansion,
    couplings: Couplings,
    pairs: Pairs,
    structure_offsets: Integers,
    first: int,
    last: int,
    memory: Memory,
    derivatives: Floats,
    memory_of_mean: Memory,
    room: Room,
    features: Floats,
    gradient_positions: Floats,
    gradient_strain: Floats,
) -> None:
    """Write the coupled products of the mean coefficients of the structures ``first:last``.

    Parameters
    ----------
    structure_offsets : array
        Atoms of structure s are ``structure_offsets[s]:structure_offsets[s + 1]``.
    memory : Memory
        For the largest of the centres.
    derivatives : array
        Room for the derivatives of its coefficients.
    memory_of_mean, room : Memory, Room
        For the mean; for as many pairs as the largest structure has atoms, times species.
    features : array, shape (n, n_values)
        Output.
    gradient_positions : array, shape (n_atoms of the structures or 0, 3, n_values)
        Output.
    gradient_strain : array, shape (n or 0, 3, 3, n_values)
        Output.
    """
    has_positions = gradient_positions.shape[0] > 0
    has_strain = gradient_strain.shape[0] > 0
    expansion = expansion_pointers(expansion)
    couplings = _coupling_pointers(couplings)
    pairs = pair_pointers(pairs)
    structure_offsets = pointer(structure_offsets)
    environment = divide(expansion, memory)
    derivatives = pointer(derivatives)
    mean = divide(expansion, memory_of_mean)
    room = _room_pointers(room)
    features = pointer(features)
    gradient_positions = pointer(gradient_positions)
    gradient_strain = pointer(gradient_strain)
    n_values = couplings.n_components * couplings.n_features
    n_coefficients = expansion.n_max * (expansion.l_max + 1) ** 2
    for structure in range(first, last):
        begin = structure_offsets[structure]
        end = structure_offsets[structure + 1]
        n_atoms = end - begin
        n_slots = start_mean(expansion, pairs, begin, end, mean, has_strain)
        for slot in range(n_slots + 1):
            mean.slot_offsets[slot] = slot * n_atoms
        for p in range(n_slots * n_atoms):
            mean.order[p] = p % n_atoms
        for i in range(3 * n_slots * n_atoms * n_coefficients if has_positions else 0):
            room.derivatives[i] = 0.0
        for centre in range(begin, end):
            n = expand(
                expansion, pairs, centre, environment, has_positions or has_strain, has_strain
            )
            add_to_mean(expansion, environment, n, 1.0 / n_atoms, mean, n_slots, has_strain)
            if has_positions:
                _differentiate(expansion, environment, environment.slot_offsets[n], derivatives)
                _add_derivatives(
                    expansion,
                    pairs,
                    centre,
                    environment,
                    n,
                    derivatives,
                    begin,
                    n_atoms,
                    mean,
                    room.derivatives,
                )
        _write(
            expansion,
            couplings,
            mean,
            n_slots,
            n_atoms,
            n_slots > 1,
            has_positions,
            has_strain,
            room,
            features,
            (structure - first) * n_values,
            gradient_positions,
            3 * n_values * (begin - structure_offsets[first]),
            gradient_strain,
        )


@inlined
def _write(
    expansion: Expansion,
    couplings: Couplings,
    environment: Environment,
    n_slots: int,
    n_pairs: int,
    is_summed: bool,
    has_positions: bool,
    has_strain: bool,
    room: Room,
    features: Output,
    row: int,
    gradient_positions: Output,
    first_move: int,
    gradient_strain: Output,
) -> None:
    """Couple the coefficients, and write the features and their derivatives.

    Where ``is_summed``, several places of the sorted list share one of the ``n_pairs`` rows of
    ``gradient_positions``, which start at ``first_move``.
    """
    n_values = couplings.n_components * couplings.n_features
    n_harmonics = (expansion.l_max + 1) ** 2
    _tabulate_coefficients(expansion, couplings, environment, n_slots, room)
    _multiply(expansion, couplings, environment, room)
    for v in range(n_values):
        features[row + v] = room.values[v]
    for i in range(3 * n_pairs * n_values if has_positions and is_summed else 0):
        gradient_positions[first_move + i] = 0.0
    for slot in range(n_slots if has_positions else 0):
        species = environment.slots.species[slot]
        begin = species * expansion.n_max
        end = begin + expansion.n_max
        _clear_moves(couplings, room)
        for p in range(environment.slot_offsets[slot], environment.slot_offsets[slot + 1]):
            size = n_harmonics * expansion.n_max
            _move_species(expansion, room, 3 * p * size, begin, room.x)
            _move_species(expansion, room, (3 * p + 1) * size, begin, room.y)
            _move_species(expansion, room, (3 * p + 2) * size, begin, room.z)
            _multiply_moved(expansion, couplings, environment, begin, end, room, room.moved, 0)
            to = first_move + 3 * environment.order[p] * n_values
            if is_summed:
                for v in range(3 * n_values):
                    gradient_positions[to + v] += room.moved[v]
            else:
                for v in range(3 * n_values):
                    gradient_positions[to + v] = room.moved[v]
    if has_strain:
        _clear_moves(couplings, room)
        for half in range(2):
            _move_all(expansion, environment, n_slots, 3 * half, room.width, room.x)
            _move_all(expansion, environment, n_slots, 3 * half + 1, room.width, room.y)
            _move_all(expansion, environment, n_slots, 3 * half + 2, room.width, room.z)
            _multiply_moved(
                expansion,
                couplings,
                environment,
                0,
                couplings.n_channels,
                room,
                room.strain,
                3 * half * n_values,
            )
        _write_strain(couplings, room, gradient_strain, 9 * row)


@inlined
def _tabulate_coefficients(
    expansion: Expansion, couplings: Couplings, environment: Environment, n_slots: int, room: Room
) -> None:
    """Sort the coefficients by channel, and tabulate their powers."""
    n_harmonics = (expansion.l_max + 1) ** 2
    powers, width = room.tables.powers, room.width
    for s in range(expansion.n_species):
        slot = environment.slots.of_species[s]
        for lm in range(n_harmonics):
            to = lm * width + s * expansion.n_max
            at = (lm * n_slots + slot) * expansion.n_padded
            for n in range(expansion.n_max):
                powers[to + n] = environment.coefficients[at + n] if slot >= 0 else 0.0
    for c in range(width):
        powers[n_harmonics * width + c] = 1.0
    for k in range(couplings.n_powers - n_harmonics - 1):
        one = couplings.power_factors[2 * k] * width
        two = couplings.power_factors[2 * k + 1] * width
        to = (n_harmonics + 1 + k) * width
        for c in range(0, couplings.n_channels, LANES):
            store(powers, to + c, load(powers, one + c) * load(powers, two + c))


@inlined
def _clear_moves(couplings: Couplings, room: Room) -> None:
    for i in range(couplings.n_powers * room.width):
        room.x.powers[i] = 0.0
        room.y.powers[i] = 0.0
        room.z.powers[i] = 0.0


@inlined
def _move_species(expansion: Expansion, room: Room, at: int, begin: int, tables: Tables) -> None:
    """Take over what moves the coefficients of one species, whose channels start at ``begin``."""
    for lm in range((expansion.l_max + 1) ** 2):
        for n in range(expansion.n_max):
            value = room.derivatives[at + lm * expansion.n_max + n]
            tables.powers[lm * room.width + begin + n] = value


@inlined
def _move_all(
    expansion: Expansion,
    environment: Environment,
    n_slots: int,
    component: int,
    width: int,
    tables: Tables,
) -> None:
    """Take over what one component of the strain does to the coefficients."""
    n_harmonics = (expansion.l_max + 1) ** 2
    for lm in range(n_harmonics):
        for slot in range(n_slots):
            begin = environment.slots.species[slot] * expansion.n_max
            at = ((component * n_harmonics + lm) * n_slots + slot) * expansion.n_padded
            for n in range(expansion.n_max):
                tables.powers[lm * width + begin + n] = environment.strain[at + n]


@inlined
def _move_powers(
    expansion: Expansion,
    couplings: Couplings,
    begin: int,
    end: int,
    room: Room,
    tables: Tables,
) -> None:
    """Tabulate the derivatives of the powers of the channels ``begin:end``."""
    powers, width = room.tables.powers, room.width
    n_harmonics = (expansion.l_max + 1) ** 2
    for k in range(couplings.n_powers - n_harmonics - 1):
        one = couplings.power_factors[2 * k] * width
        two = couplings.power_factors[2 * k + 1] * width
        to = (n_harmonics + 1 + k) * width
        for c in range(begin, end, LANES):
            slope = load(tables.powers, one + c) * load(powers, two + c)
            slope = slope + load(tables.powers, two + c) * load(powers, one + c)
            store(tables.powers, to + c, slope)


@inlined
def _differentiate(
    expansion: Expansion, environment: Environment, n_pairs: int, derivatives: Floats
) -> None:
    """Write the derivatives of the coefficients by all pairs' vectors."""
    l_max, n_max = expansion.l_max, expansion.n_max
    n_harmonics = (l_max + 1) ** 2
    n_radial = (l_max + 1) * expansion.n_padded
    size = n_harmonics * n_max
    gradient = n_harmonics * LANES
    for p in range(n_pairs):
        direction = p // LANES * 3 * LANES + p % LANES
        for axis in range(3):
            u = environment.directions[direction + axis * LANES]
            to = (3 * p + axis) * size
            for l in range(l_max + 1):
                radial = 2 * p * n_radial + l * expansion.n_padded
                for lm in range(l * l, (l + 1) * (l + 1)):
                    h = p // LANES * 4 * gradient + p % LANES + lm * LANES
                    along = environment.harmonics[h] * u
                    across = environment.harmonics[h + (1 + axis) * gradient]
                    for n in range(n_max):
                        slope = environment.radial[radial + n]
                        level = environment.radial[radial + n_radial + n]
                        derivatives[to + lm * n_max + n] = slope * along + level * across


@inlined
def _add_derivatives(
    expansion: Expansion,
    pairs: Pairs,
    centre: int,
    environment: Environment,
    n_slots: int,
    derivatives: Floats,
    first_atom: int,
    n_atoms: int,
    mean: Environment,
    of_mean: Floats,
) -> None:
    """Add the share of one centre in the derivatives of the mean, by species and atom."""
    weight = 1.0 / n_atoms
    size = 3 * expansion.n_max * (expansion.l_max + 1) ** 2
    for slot in range(n_slots):
        mean_slot = mean.slots.of_species[environment.slots.species[slot]]
        row = mean_slot * n_atoms * size
        back = row + (centre - first_atom) * size
        for p in range(environment.slot_offsets[slot], environment.slot_offsets[slot + 1]):
            pair = pairs.offsets[centre] + environment.order[p]
            # A pair moves its neighbour, and its centre the other way.
            to = row + (pairs.neighbour_index[pair] - first_atom) * size
            for i in range(size):
                value = weight * derivatives[p * size + i]
                of_mean[to + i] += value
                of_mean[back + i] -= value


@inlined
def _is_absent(
    expansion: Expansion, couplings: Couplings, environment: Environment, panel: int
) -> bool:
    """Whether a species of the outer groups does not occur, so that the panel is zero."""
    for k in range(2):
        channel = couplings.panel_outer[2 * panel + k]
        is_there = channel < couplings.n_channels
        if is_there and environment.slots.of_species[channel // expansion.n_max] < 0:
            return True
    return False


@inlined
def _multiply(
    expansion: Expansion, couplings: Couplings, environment: Environment, room: Room
) -> None:
    """Compute the values of all features."""
    powers, _, partial = room.tables
    width = room.width
    for v in range(couplings.n_components * couplings.n_features):
        room.values[v] = 0.0
    first_run = 0
    for panel in range(couplings.n_panels):
        n_runs = couplings.panel_runs[panel]
        if not _is_absent(expansion, couplings, environment, panel):
            _multiply_panel(couplings, panel, room.tables, width)
            padded = (n_runs + LANES - 1) // LANES * LANES
            first_list = couplings.panel_coupling[panel] * couplings.n_components
            stride = couplings.feature_strides[couplings.panel_coupling[panel]]
            # Four runs share the addresses, and are as many independent sums as it takes to hide
            # how long an addition lasts. The last one stands in for those that are too few.
            for b in range(0, n_runs, 4):
                run0 = first_run + b
                run1 = first_run + min(b + 1, n_runs - 1)
                run2 = first_run + min(b + 2, n_runs - 1)
                run3 = first_run + min(b + 3, n_runs - 1)
                last0, last1 = couplings.run_last[run0], couplings.run_last[run1]
                last2, last3 = couplings.run_last[run2], couplings.run_last[run3]
                length0, length1 = couplings.run_lengths[run0], couplings.run_lengths[run1]
                length2, length3 = couplings.run_lengths[run2], couplings.run_lengths[run3]
                i = couplings.panel_partial[panel] + b
                for component in range(couplings.n_components):
                    to = component * couplings.n_features
                    begin = couplings.last_offsets[first_list + component]
                    end = couplings.last_offsets[first_list + component + 1]
                    for c in range(0, max(length0, length1, length2, length3), LANES):
                        sum0 = sum1 = sum2 = sum3 = broadcast(0.0)
                        for q in range(begin, end):
                            k = couplings.last_powers[q] * width + c
                            j = i + (q - begin) * padded
                            sum0 = sum0 + load(powers, k + last0) * partial[j]
                            sum1 = sum1 + load(powers, k + last1) * partial[j + run1 - run0]
                            sum2 = sum2 + load(powers, k + last2) * partial[j + run2 - run0]
                            sum3 = sum3 + load(powers, k + last3) * partial[j + run3 - run0]
                        row = to + c * stride
                        at0 = row + couplings.run_features[run0]
                        at1 = row + couplings.run_features[run1]
                        at2 = row + couplings.run_features[run2]
                        at3 = row + couplings.run_features[run3]
                        _store_strided(room.values, at0, stride, sum0, length0 - c, room.lanes)
                        _store_strided(room.values, at1, stride, sum1, length1 - c, room.lanes)
                        _store_strided(room.values, at2, stride, sum2, length2 - c, room.lanes)
                        _store_strided(room.values, at3, stride, sum3, length3 - c, room.lanes)
                    i += (end - begin) * padded
        first_run += n_runs


@inlined
def _store_strided(
    values: Floats, to: int, stride: int, lanes: Any, n: int, one_by_one: Floats
) -> None:
    """Write the first ``n`` lanes to every ``stride``-th place."""
    if stride == 1:
        store_some(values, to, lanes, 0, n)
    else:
        store(one_by_one, 0, lanes)
        for k in range(min(n, LANES)):
            values[to + k * stride] = one_by_one[k]


@inlined
def _has_outer(couplings: Couplings, panel: int) -> bool:
    """Whether there are outer groups; products of two factors have none, and w is all of scaled."""
    one, two = couplings.panel_outer[2 * panel], couplings.panel_outer[2 * panel + 1]
    return bool(min(one, two) < couplings.n_channels)


@inlined
def _multiply_panel(couplings: Couplings, panel: int, tables: Tables, width: int) -> None:
    """Write ``scaled`` and ``partial`` of one panel."""
    powers, scaled, partial = tables
    first_list = couplings.panel_coupling[panel] * couplings.n_components
    first_q = couplings.last_offsets[first_list]
    end_q = couplings.last_offsets[first_list + couplings.n_components]
    one, two = couplings.panel_outer[2 * panel], couplings.panel_outer[2 * panel + 1]
    middle = couplings.panel_middle[panel]
    first_t = couplings.term_offsets[first_q]
    to_scaled = couplings.panel_scaled[panel] - first_t
    if not _has_outer(couplings, panel):
        scaled, to_scaled = couplings.term_weights, 0
    else:
        for t in range(first_t, couplings.term_offsets[end_q]):
            of_one = powers[couplings.term_powers[3 * t] * width + one]
            of_two = powers[couplings.term_powers[3 * t + 1] * width + two]
            scaled[to_scaled + t] = couplings.term_weights[t] * of_one * of_two
    to = couplings.panel_partial[panel]
    for q in range(first_q, end_q):
        for b in range(0, couplings.panel_runs[panel], LANES):
            total = broadcast(0.0)
            for t in range(couplings.term_offsets[q], couplings.term_offsets[q + 1]):
                power = load(powers, couplings.term_powers[3 * t + 2] * width + middle + b)
                total = total + power * scaled[to_scaled + t]
            store(partial, to, total)
            to += LANES


@inlined
def _multiply_moved(
    expansion: Expansion,
    couplings: Couplings,
    environment: Environment,
    begin: int,
    end: int,
    room: Room,
    moved: Floats,
    at: int,
) -> None:
    """Compute the derivatives by three directions, which move the channels ``begin:end``.

    Written to three rows of ``moved`` from ``at`` on.
    """
    powers, partial, width = room.tables.powers, room.tables.partial, room.width
    n_values = couplings.n_components * couplings.n_features
    _move_powers(expansion, couplings, begin, end, room, room.x)
    _move_powers(expansion, couplings, begin, end, room, room.y)
    _move_powers(expansion, couplings, begin, end, room, room.z)
    for v in range(3 * n_values):
        moved[at + v] = 0.0
    first_run = 0
    for panel in range(couplings.n_panels):
        n_runs = couplings.panel_runs[panel]
        if not _is_absent(expansion, couplings, environment, panel):
            one, two = couplings.panel_outer[2 * panel], couplings.panel_outer[2 * panel + 1]
            middle = couplings.panel_middle[panel]
            is_outer = begin <= one < end or begin <= two < end
            first_b = 0 if is_outer else max(begin - middle, 0) // LANES * LANES
            end_b = n_runs if is_outer else min(end - middle, n_runs)
            if first_b < end_b:
                _move_panel(couplings, panel, room.tables, is_outer, first_b, end_b, room.x, width)
                _move_panel(couplings, panel, room.tables, is_outer, first_b, end_b, room.y, width)
                _move_panel(couplings, panel, room.tables, is_outer, first_b, end_b, room.z, width)
            padded = (n_runs + LANES - 1) // LANES * LANES
            first_list = couplings.panel_coupling[panel] * couplings.n_components
            stride = couplings.feature_strides[couplings.panel_coupling[panel]]
            for b in range(n_runs):
                run = first_run + b
                length, last = couplings.run_lengths[run], couplings.run_last[run]
                is_moved = is_outer or begin <= middle + b < end
                # Where all but the last group stay, so do features of its other channels.
                first_c = 0 if is_moved else max(begin - last, 0)
                end_c = length if is_moved else min(end - last, length)
                i = b
                for component in range(couplings.n_components if first_c < end_c else 0):
                    to = at + component * couplings.n_features + couplings.run_features[run]
                    begin_q = couplings.last_offsets[first_list + component]
                    end_q = couplings.last_offsets[first_list + component + 1]
                    for c in range(first_c, end_c, LANES):
                        x, y, z = broadcast(0.0), broadcast(0.0), broadcast(0.0)
                        for q in range(begin_q, end_q):
                            k = couplings.last_powers[q] * width + last + c
                            j = i + (q - begin_q) * padded
                            fixed = partial[couplings.panel_partial[panel] + j]
                            x = x + load(room.x.powers, k) * fixed
                            y = y + load(room.y.powers, k) * fixed
                            z = z + load(room.z.powers, k) * fixed
                            if is_moved:
                                power = load(powers, k)
                                x = x + power * room.x.partial[j]
                                y = y + power * room.y.partial[j]
                                z = z + power * room.z.partial[j]
                        row = to + c * stride
                        _store_strided(moved, row, stride, x, end_c - c, room.lanes)
                        row += n_values
                        _store_strided(moved, row, stride, y, end_c - c, room.lanes)
                        row += n_values
                        _store_strided(moved, row, stride, z, end_c - c, room.lanes)
                    i += (end_q - begin_q) * padded
        first_run += n_runs


@inlined
def _move_panel(
    couplings: Couplings,
    panel: int,
    tables: Tables,
    is_outer: bool,
    first_b: int,
    end_b: int,
    moved: Tables,
    width: int,
) -> None:
    """Write the derivatives of ``scaled``, unless it stays, and of some of ``partial``."""
    powers, scaled = tables.powers, tables.scaled
    first_list = couplings.panel_coupling[panel] * couplings.n_components
    first_q = couplings.last_offsets[first_list]
    end_q = couplings.last_offsets[first_list + couplings.n_components]
    one, two = couplings.panel_outer[2 * panel], couplings.panel_outer[2 * panel + 1]
    middle = couplings.panel_middle[panel]
    first_t = couplings.term_offsets[first_q]
    to_scaled = couplings.panel_scaled[panel] - first_t
    if not _has_outer(couplings, panel):
        scaled, to_scaled = couplings.term_weights, 0
    for t in range(first_t, couplings.term_offsets[end_q] if is_outer else first_t):
        of_one = couplings.term_powers[3 * t] * width + one
        of_two = couplings.term_powers[3 * t + 1] * width + two
        slope = moved.powers[of_one] * powers[of_two] + powers[of_one] * moved.powers[of_two]
        moved.scaled[t - first_t] = couplings.term_weights[t] * slope
    padded = (couplings.panel_runs[panel] + LANES - 1) // LANES * LANES
    for q in range(first_q, end_q):
        for b in range(first_b, end_b, LANES):
            total = broadcast(0.0)
            for t in range(couplings.term_offsets[q], couplings.term_offsets[q + 1]):
                k = couplings.term_powers[3 * t + 2] * width + middle + b
                total = total + load(moved.powers, k) * scaled[to_scaled + t]
                if is_outer:
                    total = total + load(powers, k) * moved.scaled[t - first_t]
            store(moved.partial, (q - first_q) * padded + b, total)


@inlined
def _write_strain(couplings: Couplings, room: Room, out: Output, out_at: int) -> None:
    """Write the nine components of the derivatives by strain."""
    n_features = couplings.n_features
    n_components = couplings.n_components
    n_values = n_components * n_features
    # The pairs of axes that differ are those of the generators, in the same order.
    rotation = 0
    for k in range(6):
        a, b = STRAIN_COMPONENTS[k]
        to = out_at + (3 * a + b) * n_values
        at = k * n_values
        for v in range(n_values):
            out[to + v] = room.strain[at + v]
        if a == b:
            continue
        for row in range(n_components):
            for column in range(n_components):
                generator = couplings.generators[rotation + row * n_components + column]
                for f in range(n_features if generator != 0.0 else 0):
                    room.strain[at + row * n_features + f] -= (
                        generator * room.values[column * n_features + f]
                    )
        mirror = out_at + (3 * b + a) * n_values
        for v in range(n_values):
            out[mirror + v] = room.strain[at + v]
        rotation += n_components * n_components
