"""Products of expansion coefficients, coupled under rotation.

    p[μ, f] = weight_f Σ_t w_t Π_k c[channel_fk, l_k, m_tk]

A feature names its ν factors' channels (species and radial function) and a coupling: the
degrees l_k, and for each component μ a list of terms, each a weight and one m for every
factor. With the adjoints ``∂p / ∂c``, of which a feature has one for each m of each factor, the
derivative by a neighbour's vector is their sum over the derivatives of the coefficients,

    dp / dr_j = Σ_k Σ_m ∂p/∂c[channel_k, l_k, m] · dc[channel_k, l_k, m]/dr_j.

It is done for a few features at a time and in the innermost loop over all pairs of the
channel's species, which lie side by side.

Features of the mean coefficients of a structure have the same adjoints. Their derivatives go by
atoms: ``d mean c / dr_a`` is summed up over the pairs of each atom first, and contracted
with the adjoints as if the atoms were the pairs, one of each species, of a centre.
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
    Pairs,
    add_to_mean,
    environment_pointers,
    expand,
    expansion_pointers,
    pair_pointers,
    start_mean,
)
from atomlake.kernels.lanes import LANES, pointer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Output = NDArray[Any]

#: Most factors of a product.
MAX_FACTORS = 4
#: Features whose derivatives are computed together before they are written.
_TILE = 16


class Couplings(NamedTuple):
    """Which products are features.

    Factors that a product has less than :data:`MAX_FACTORS` are the number one: their channel is
    the number of channels, their degree 0, their m 0.

    Attributes
    ----------
    n_features, n_components : int
        Length of a row, and components of each feature.
    n_factors : int64 array, shape (n_couplings,)
        ν.
    degrees : int64 array, shape (n_couplings, MAX_FACTORS)
        l of each factor.
    term_offsets : int64 array, shape (n_couplings · n_components + 1,)
        Terms of each coupling's components.
    term_harmonics : int64 array, shape (n_terms, MAX_FACTORS)
        l + m of each factor.
    term_weights : float64 array, shape (n_terms,)
        w.
    coupling : int64 array, shape (n_features,)
        Coupling of each feature.
    channels : int64 array, shape (n_features, MAX_FACTORS)
        Species times n_max plus radial function, of each factor.
    weights : float64 array, shape (n_features,)
        Weight of each feature.
    generators : float64 array, shape (3, n_components, n_components)
        What infinitesimal rotations do to the components:
        ``dp/dstrain_ab - dp/dstrain_ba = G p`` for (a, b) = (x, y), (x, z), (y, z).
    """

    n_features: int
    n_components: int
    n_factors: Integers
    degrees: Integers
    term_offsets: Integers
    term_harmonics: Integers
    term_weights: Floats
    coupling: Integers
    channels: Integers
    weights: Floats
    generators: Floats


class Room(NamedTuple):
    """Room for one centre, or for the mean over a structure.

    Attributes
    ----------
    coefficients : float64 array
        c[channel, lm], and a one behind them.
    derivatives : float64 array
        dc/dr[channel within the species, lm, sorted pair, axis].
    adjoints : float64 array
        ∂p/∂c[factor, m] of one feature.
    tile : float64 array
        dp/dr[feature of the tile, sorted pair, axis].
    values : float64 array
        p.
    strain : float64 array
        dp/dstrain of the components of :data:`STRAIN_COMPONENTS`.
    """

    coefficients: Floats
    derivatives: Floats
    adjoints: Floats
    tile: Floats
    values: Floats
    strain: Floats


def empty_room(
    expansion: Expansion,
    couplings: Couplings,
    max_pairs: int,
    has_positions: bool,
    has_strain: bool,
) -> Room:
    """Allocate room for centres of at most ``max_pairs`` neighbours."""
    n_harmonics = (expansion.l_max + 1) ** 2
    n_coefficients = expansion.n_max * n_harmonics
    max_pairs *= expansion.n_repeats
    n_values = couplings.n_components * couplings.n_features
    n_moves = 3 * max_pairs if has_positions else 0
    return Room(
        coefficients=np.empty(expansion.n_species * n_coefficients + 1),
        derivatives=np.empty(n_coefficients * n_moves),
        adjoints=np.empty(MAX_FACTORS * (2 * expansion.l_max + 1)),
        tile=np.empty(_TILE * n_moves),
        values=np.empty(n_values),
        strain=np.empty(6 * n_values if has_strain else 0),
    )


@inlined
def _coupling_pointers(couplings: Couplings) -> Couplings:
    """Replace the arrays by pointers."""
    return Couplings(
        couplings.n_features,
        couplings.n_components,
        pointer(couplings.n_factors),
        pointer(couplings.degrees),
        pointer(couplings.term_offsets),
        pointer(couplings.term_harmonics),
        pointer(couplings.term_weights),
        pointer(couplings.coupling),
        pointer(couplings.channels),
        pointer(couplings.weights),
        pointer(couplings.generators),
    )


@inlined
def _room_pointers(room: Room) -> Room:
    """Replace the arrays by pointers."""
    return Room(
        pointer(room.coefficients),
        pointer(room.derivatives),
        pointer(room.adjoints),
        pointer(room.tile),
        pointer(room.values),
        pointer(room.strain),
    )


@kernel
def correlations(
    expansion: Expansion,
    couplings: Couplings,
    pairs: Pairs,
    first: int,
    last: int,
    environment: Environment,
    room: Room,
    features: Output,
    gradient_positions: Output,
    gradient_strain: Output,
) -> None:
    """Write the coupled products of the centres ``first:last`` and their derivatives.

    Parameters
    ----------
    environment, room : Environment, Room
        Room for the largest of the centres.
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
    environment = environment_pointers(environment)
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
    environment: Environment,
    derivatives: Floats,
    mean: Environment,
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
    environment : Environment
        Room for the largest of the centres.
    derivatives : array
        Room for the derivatives of its coefficients.
    mean, room : Environment, Room
        Room for the mean; for as many pairs as the largest structure has atoms, times species.
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
    environment = environment_pointers(environment)
    derivatives = pointer(derivatives)
    mean = environment_pointers(mean)
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
                    n_slots,
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
    # Of the sorted list, where a pair stands once for each species it counts as.
    n_sorted = environment.slot_offsets[n_slots]
    _gather(expansion, environment, n_slots, room)
    for i in range(3 * n_pairs * n_values if has_positions and is_summed else 0):
        gradient_positions[first_move + i] = 0.0
    for start in range(0, n_values, _TILE):
        end = min(start + _TILE, n_values)
        _couple(
            expansion,
            couplings,
            environment,
            n_slots,
            n_sorted,
            start,
            end,
            has_positions,
            has_strain,
            room,
        )
        for p in range(n_sorted if has_positions else 0):
            for axis in range(3):
                to = first_move + (3 * environment.order[p] + axis) * n_values
                at = 3 * p + axis
                for v in range(start, end):
                    value = room.tile[at]
                    if is_summed:
                        value += gradient_positions[to + v]
                    gradient_positions[to + v] = value
                    at += 3 * n_sorted
    for v in range(n_values):
        features[row + v] = room.values[v]
    if has_strain:
        _write_strain(couplings, room, gradient_strain, 9 * row)


@inlined
def _gather(expansion: Expansion, environment: Environment, n_slots: int, room: Room) -> None:
    """Sort the coefficients by channel."""
    n_harmonics = (expansion.l_max + 1) ** 2
    width = n_slots * expansion.n_padded
    to = 0
    for s in range(expansion.n_species):
        slot = environment.slots.of_species[s]
        for n in range(expansion.n_max):
            at = slot * expansion.n_padded + n
            for lm in range(n_harmonics):
                value = environment.coefficients[at + lm * width] if slot >= 0 else 0.0
                room.coefficients[to + lm] = value
            to += n_harmonics
    room.coefficients[to] = 1.0


@inlined
def _differentiate(
    expansion: Expansion, environment: Environment, n_pairs: int, derivatives: Floats
) -> None:
    """Write the derivatives of the coefficients by all pairs' vectors."""
    l_max = expansion.l_max
    n_harmonics = (l_max + 1) ** 2
    n_radial = (l_max + 1) * expansion.n_padded
    gradient = n_harmonics * LANES
    n_moves = 3 * n_pairs
    for p in range(n_pairs):
        direction = p // LANES * 3 * LANES + p % LANES
        ux = environment.directions[direction]
        uy = environment.directions[direction + LANES]
        uz = environment.directions[direction + 2 * LANES]
        for n in range(expansion.n_max):
            for l in range(l_max + 1):
                radial = 2 * p * n_radial + l * expansion.n_padded + n
                slope = environment.radial[radial]
                level = environment.radial[radial + n_radial]
                for lm in range(l * l, (l + 1) * (l + 1)):
                    h = p // LANES * 4 * gradient + p % LANES + lm * LANES
                    along = slope * environment.harmonics[h]
                    to = (n * n_harmonics + lm) * n_moves + 3 * p
                    h += gradient
                    derivatives[to] = along * ux + level * environment.harmonics[h]
                    h += gradient
                    derivatives[to + 1] = along * uy + level * environment.harmonics[h]
                    h += gradient
                    derivatives[to + 2] = along * uz + level * environment.harmonics[h]


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
    n_mean_slots: int,
    of_mean: Floats,
) -> None:
    """Add the share of one centre in the derivatives of the mean, by species and atom."""
    weight = 1.0 / n_atoms
    n_moves = 3 * environment.slot_offsets[n_slots]
    n_mean_moves = 3 * n_mean_slots * n_atoms
    for k in range(expansion.n_max * (expansion.l_max + 1) ** 2):
        for slot in range(n_slots):
            mean_slot = mean.slots.of_species[environment.slots.species[slot]]
            row = k * n_mean_moves + 3 * mean_slot * n_atoms
            back = row + 3 * (centre - first_atom)
            for p in range(environment.slot_offsets[slot], environment.slot_offsets[slot + 1]):
                pair = pairs.offsets[centre] + environment.order[p]
                # A pair moves its neighbour, and its centre the other way.
                to = row + 3 * (pairs.neighbour_index[pair] - first_atom)
                for axis in range(3):
                    value = weight * derivatives[k * n_moves + 3 * p + axis]
                    of_mean[to + axis] += value
                    of_mean[back + axis] -= value


@inlined
def _couple(
    expansion: Expansion,
    couplings: Couplings,
    environment: Environment,
    n_slots: int,
    n_pairs: int,
    start: int,
    end: int,
    has_positions: bool,
    has_strain: bool,
    room: Room,
) -> None:
    """Compute the values ``start:end``, their strain derivatives, and the tile."""
    n_features = couplings.n_features
    n_values = couplings.n_components * n_features
    n_moves = 3 * n_pairs
    if has_positions:
        for i in range((end - start) * n_moves):
            room.tile[i] = 0.0
    if has_strain:
        for k in range(6):
            for v in range(start, end):
                room.strain[k * n_values + v] = 0.0
    for v in range(start, end):
        f = v % n_features
        room.values[v] = 0.0
        coupling = couplings.coupling[f]
        if _is_absent(expansion, couplings, environment, f, couplings.n_factors[coupling]):
            continue
        _multiply(expansion, couplings, v, has_positions or has_strain, room)
        for k in range(couplings.n_factors[coupling] if has_positions or has_strain else 0):
            channel = couplings.channels[MAX_FACTORS * f + k]
            species = channel // expansion.n_max
            n = channel - species * expansion.n_max
            slot = environment.slots.of_species[species]
            l = couplings.degrees[MAX_FACTORS * coupling + k]
            for m in range(2 * l + 1):
                adjoint = room.adjoints[k * (2 * expansion.l_max + 1) + m]
                lm = l * l + m
                if has_positions:
                    row = (v - start) * n_moves
                    at = (n * (expansion.l_max + 1) ** 2 + lm) * n_moves
                    for i in range(
                        3 * environment.slot_offsets[slot], 3 * environment.slot_offsets[slot + 1]
                    ):
                        room.tile[row + i] += adjoint * room.derivatives[at + i]
                if has_strain:
                    at = (lm * n_slots + slot) * expansion.n_padded + n
                    for ab in range(6):
                        room.strain[ab * n_values + v] += adjoint * environment.strain[at]
                        at += (expansion.l_max + 1) ** 2 * n_slots * expansion.n_padded


@inlined
def _is_absent(
    expansion: Expansion,
    couplings: Couplings,
    environment: Environment,
    feature: int,
    n_factors: int,
) -> bool:
    """Whether a species of the feature does not occur."""
    for k in range(n_factors):
        species = couplings.channels[MAX_FACTORS * feature + k] // expansion.n_max
        if environment.slots.of_species[species] < 0:
            return True
    return False


@inlined
def _multiply(
    expansion: Expansion, couplings: Couplings, v: int, has_gradient: bool, room: Room
) -> None:
    """Sum up the terms of value ``v``, and its adjoints."""
    component = v // couplings.n_features
    f = v - component * couplings.n_features
    coupling = couplings.coupling[f]
    factors = MAX_FACTORS * f
    degrees = MAX_FACTORS * coupling
    n_harmonics = (expansion.l_max + 1) ** 2
    base0 = couplings.channels[factors] * n_harmonics + couplings.degrees[degrees] ** 2
    base1 = couplings.channels[factors + 1] * n_harmonics + couplings.degrees[degrees + 1] ** 2
    base2 = couplings.channels[factors + 2] * n_harmonics + couplings.degrees[degrees + 2] ** 2
    base3 = couplings.channels[factors + 3] * n_harmonics + couplings.degrees[degrees + 3] ** 2
    stride = 2 * expansion.l_max + 1
    if has_gradient:
        for i in range(MAX_FACTORS * stride):
            room.adjoints[i] = 0.0
    list_ = coupling * couplings.n_components + component
    value = 0.0
    for t in range(couplings.term_offsets[list_], couplings.term_offsets[list_ + 1]):
        m0 = couplings.term_harmonics[MAX_FACTORS * t]
        m1 = couplings.term_harmonics[MAX_FACTORS * t + 1]
        m2 = couplings.term_harmonics[MAX_FACTORS * t + 2]
        m3 = couplings.term_harmonics[MAX_FACTORS * t + 3]
        c0 = room.coefficients[base0 + m0]
        c1 = room.coefficients[base1 + m1]
        c2 = room.coefficients[base2 + m2]
        c3 = room.coefficients[base3 + m3]
        weight = couplings.weights[f] * couplings.term_weights[t]
        first = weight * c0 * c1
        second = c2 * c3
        value += first * second
        if has_gradient:
            second *= weight
            room.adjoints[m0] += c1 * second
            room.adjoints[stride + m1] += c0 * second
            room.adjoints[2 * stride + m2] += first * c3
            room.adjoints[3 * stride + m3] += first * c2
    room.values[v] = value


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
