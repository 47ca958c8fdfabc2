"""What correlations of the neighbour density share: which products there are, and how they couple.

A correlation of order ν is a product of ν expansion coefficients, coupled to a degree λ:
an invariant where λ is 0, else a vector of 2 λ + 1 components that rotates like the
harmonics of degree λ (Willatt, Musil & Ceriotti, J. Chem. Phys. 150, 154110 (2019)). A product is
a multiset of factors, each a degree, a species and a radial function, kept in this
order; of its couplings those are kept that are independent (see
:mod:`atomlake.descriptors.couplings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, combinations_with_replacement, groupby, pairwise, product
from math import comb, factorial, prod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from atomlake.descriptors.base import Array, Descriptor, Gradients, LabelColumn, Rows
from atomlake.descriptors.couplings import n_trees, rotation_generators, trees
from atomlake.descriptors.density import (
    DensityDescriptor,
    batch_pairs,
    exact_rows,
    expansion_parameters,
    in_double_precision,
    room,
)
from atomlake.kernels.correlations import (
    MAX_FACTORS,
    Couplings,
    correlations,
    correlations_of_mean,
    empty_room,
)
from atomlake.kernels.expansion import Expansion, empty_environment
from atomlake.kernels.lanes import LANES, n_padded
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Order(NamedTuple):
    """Limits of the products of one order.

    Attributes
    ----------
    n_factors : int
        ν.
    n_max : int
        The first so many radial functions take part.
    l_max : int
        Largest degree that takes part.
    """

    n_factors: int
    n_max: int
    l_max: int


class Products(NamedTuple):
    """All products of the same degrees with the same factors equal.

    Attributes
    ----------
    order : Order
        Limits.
    degrees : tuple of int
        ``l_1 <= … <= l_ν``.
    groups : tuple of int
        Runs of equal factors, by their lengths.
    n_products : int
        Number of products; each has :func:`~atomlake.descriptors.couplings.n_trees` features.
    """

    order: Order
    degrees: tuple[int, ...]
    groups: tuple[int, ...]
    n_products: int


class CoupledProducts(Descriptor):
    """Coupled products of coefficients of any expansion of the neighbour density."""

    @property
    def _expansion(self) -> Expansion:
        raise NotImplementedError

    @property
    def _couplings(self) -> Couplings:
        raise NotImplementedError

    def scratch_nbytes(self, n_atoms: Array, n_neighbours: Array, gradients: Gradients) -> Array:
        """Bytes of what is summed, and of the derivatives of the coefficients."""
        expansion, is_inner = self._expansion, self.average == "inner"
        n_members = n_atoms if is_inner else n_neighbours
        repeats = expansion.n_species if is_inner else expansion.n_repeats
        n_harmonics = (expansion.l_max + 1) ** 2
        n_derivatives = 3 * expansion.n_max * n_harmonics * (gradients.positions != "none")
        per_member = 8 * repeats * (n_derivatives + 4 * n_harmonics + 8)
        summed = super().scratch_nbytes(n_atoms, n_neighbours, gradients)
        coefficients: Array = per_member * (n_members + LANES)
        return summed + coefficients

    def _environments(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        expansion, couplings = self._expansion, self._couplings
        has_positions, has_strain = len(rows.gradient_positions) > 0, len(rows.gradient_strain) > 0
        with exact_rows(expansion, rows) as exact:
            correlations(
                expansion,
                couplings,
                batch_pairs(structures, neighbours),
                first,
                last,
                room(expansion, neighbours, rows),
                empty_room(expansion, couplings, neighbours.max_count, has_positions, has_strain),
                *exact,
            )

    def _inner_average(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        expansion, couplings = self._expansion, self._couplings
        has_positions, has_strain = len(rows.gradient_positions) > 0, len(rows.gradient_strain) > 0
        max_atoms = int(structures.n_atoms_per_structure[first:last].max(initial=0))
        # An atom moves coefficients of every species: those of its neighbours, as their centre.
        of_mean = expansion._replace(n_repeats=expansion.n_species)
        with in_double_precision(rows) as exact:
            correlations_of_mean(
                expansion,
                couplings,
                batch_pairs(structures, neighbours),
                structures.structure_offsets,
                first,
                last,
                room(expansion, neighbours, rows),
                empty_room(
                    expansion, couplings, neighbours.max_count, has_positions, False
                ).derivatives,
                empty_environment(of_mean, max_atoms, False, has_strain),
                empty_room(of_mean, couplings, max_atoms, has_positions, has_strain),
                *exact,
            )


class DensityCorrelation(DensityDescriptor, CoupledProducts):
    """Coupled products of expansion coefficients in a radial basis."""

    averages: ClassVar[tuple[str, ...]] = ("none", "outer", "inner")

    parity: Literal["proper", "pseudo", "both"] = Field(
        default="proper",
        description="What a reflection does: nothing that it does not do to the harmonics "
        "(proper), or that and a change of sign (pseudo).",
    )

    @model_validator(mode="after")
    def _has_features(self) -> Self:
        if self.n_features == 0:
            raise ValueError(
                f"there is no {self.parity} product of these degrees and radial functions that "
                "can be coupled; raise l_max or n_max, or keep the other parity"
            )
        return self

    @property
    def orders(self) -> tuple[Order, ...]:
        """Orders of the products, ascending."""
        raise NotImplementedError

    if TYPE_CHECKING:
        # A field of λ-SOAP, a property of invariants; see Descriptor.cutoff.
        @property
        def degree(self) -> int:
            """λ, the degree that products are coupled to."""

    @property
    def counts_orderings(self) -> bool:
        """Whether features carry the root of the number of equal products they stand for."""
        return True

    @property
    def prefactor(self) -> float:
        """Factor of every feature."""
        return 1.0

    @property
    def n_components(self) -> int:
        """2 λ + 1."""
        return 2 * self.degree + 1

    @property
    def n_features(self) -> int:
        """Number of features."""
        return _n_features(self)

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; within a factor of 2 of measured times."""
        n_coefficients = (self.l_max + 1) ** 2 * self.n_max
        n_values = self.n_values
        seconds = 1e-6 + 4e-10 * n_coefficients * n_neighbours + 2e-9 * n_values
        if gradients.positions != "none":
            # Every pair moves the values, or, where they are those of a mean, every atom does.
            n_moves = self.densities.shape[1] if self.average == "inner" else n_neighbours
            seconds += n_moves * (3e-6 + 4e-9 * n_values) + 6e-9 * n_coefficients * n_neighbours
        if gradients.strain:
            seconds += 6e-6 + 1.2e-8 * n_values + 1e-9 * n_coefficients * n_neighbours
        return seconds

    def label_columns(self) -> dict[str, LabelColumn]:
        """Factors, intermediate degree and parity of each feature.

        Factor k has ``species_k`` (atomic number; -1, -2, ... for mixed densities), ``n_k`` and
        ``l_k``; factors that a product of lower order lacks have species 0, n and l -1.
        ``intermediate`` is the degree that the first two factors of four are coupled to, else -1.
        ``parity`` is the sign that a reflection brings beside what it does to harmonics of
        degree λ.
        """
        columns = _features(self)
        highest = max(order.n_factors for order in self.orders)
        names = [f"{name}_{k + 1}" for name in ("species", "l", "n") for k in range(highest)]
        is_there = columns.degrees >= 0
        # A channel beyond the last one has no species.
        numbers = np.append(self.density_labels, 0)
        species = numbers[columns.channels // self.n_max]
        radial = np.where(is_there, columns.channels % self.n_max, -1)
        values = [*species.T[:highest], *columns.degrees.T[:highest], *radial.T[:highest]]
        if len(self.orders) > 1:
            names.append("correlation_order")
            values.append(is_there.sum(axis=1))
        if highest > 3:
            names.append("intermediate")
            values.append(columns.intermediate)
        names.append("parity")
        values.append(columns.parity)
        return {
            name: LabelColumn(column.astype(np.int32))
            for name, column in zip(names, values, strict=True)
        }

    @property
    def _expansion(self) -> Expansion:
        return expansion_parameters(self)

    @property
    def _couplings(self) -> Couplings:
        return _couplings(self)


class _Features(NamedTuple):
    """The features of a descriptor, one row each.

    Attributes
    ----------
    channels, degrees : int64 array, shape (n_features, MAX_FACTORS)
        Factors; where there is none, the number of channels and -1.
    intermediate, parity : int64 array, shape (n_features,)
        See :meth:`DensityCorrelation.labels`.
    """

    channels: Integers
    degrees: Integers
    intermediate: Integers
    parity: Integers


def _products(descriptor: DensityCorrelation) -> Iterator[Products]:
    """Everything that can be coupled to the descriptor's degree with its parity."""
    for order in descriptor.orders:
        n_channels = len(descriptor.density_labels) * order.n_max
        for degrees in combinations_with_replacement(range(order.l_max + 1), order.n_factors):
            if descriptor.parity not in ("both", _PARITIES[_parity(degrees, descriptor.degree)]):
                continue
            runs = [len(list(run)) for _, run in groupby(degrees)]
            for parts in product(*map(_compositions, runs)):
                groups = tuple(size for part in parts for size in part)
                if n_trees(degrees, groups, descriptor.degree):
                    # The groups of a run have channels in ascending order.
                    n_products = prod(comb(n_channels, len(part)) for part in parts)
                    yield Products(order, degrees, groups, n_products)


_PARITIES = {1: "proper", -1: "pseudo"}


def _parity(degrees: tuple[int, ...], total: int) -> int:
    return 1 if (sum(degrees) + total) % 2 == 0 else -1


def _compositions(n: int) -> list[tuple[int, ...]]:
    """All ordered ways to write ``n`` as a sum, most summands first."""
    if n == 0:
        return [()]
    return [(k, *rest) for k in range(1, n + 1) for rest in _compositions(n - k)]


@lru_cache(maxsize=64)
def _n_features(descriptor: DensityCorrelation) -> int:
    return sum(
        products.n_products * n_trees(products.degrees, products.groups, descriptor.degree)
        for products in _products(descriptor)
    )


def _features(descriptor: DensityCorrelation) -> _Features:
    """List the features: for each kind of product the products, for each of them its couplings."""
    n_channels = len(descriptor.density_labels) * descriptor.n_max
    blocks: list[tuple[Integers, ...]] = []
    for order, of_factors, groups, _ in _products(descriptor):
        found = trees(of_factors, groups, descriptor.degree)
        of_products = _channels(descriptor, order, of_factors, groups)
        n = len(of_products) * len(found)
        nothing = ((0, 0), (0, MAX_FACTORS - order.n_factors))
        reached = [t.intermediates[0] if order.n_factors > 3 else -1 for t in found]
        blocks.append(
            (
                np.repeat(np.pad(of_products, nothing, constant_values=n_channels), len(found), 0),
                np.tile(np.pad([of_factors], nothing, constant_values=-1), (n, 1)),
                np.tile(reached, len(of_products)),
                np.full(n, _parity(of_factors, descriptor.degree)),
            )
        )
    return _Features(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _channels(
    descriptor: DensityCorrelation, order: Order, degrees: tuple[int, ...], groups: tuple[int, ...]
) -> Integers:
    """Channels of all factors of all products, shape (n_products, n_factors)."""
    n_densities = len(descriptor.density_labels)
    species, n = np.divmod(np.arange(n_densities * order.n_max), order.n_max)
    of_order = species * descriptor.n_max + n
    starts = np.cumsum([0, *groups])[:-1]
    n_groups = [len(list(run)) for _, run in groupby(degrees[start] for start in starts)]
    per_run = [
        np.array(list(combinations(of_order.tolist(), size)), dtype=np.int64).reshape(-1, size)
        for size in n_groups
    ]
    indices = np.indices([len(tuples) for tuples in per_run]).reshape(len(per_run), -1)
    of_groups = np.hstack([tuples[i] for tuples, i in zip(per_run, indices, strict=True)])
    return np.repeat(of_groups, groups, axis=1)


@lru_cache(maxsize=8)
def _couplings(descriptor: DensityCorrelation) -> Couplings:
    """Parameters of the kernel."""
    blocks = []
    first_feature = 0
    for order, degrees, groups, _ in _products(descriptor):
        n_orderings = factorial(order.n_factors) // prod(factorial(size) for size in groups)
        weight = descriptor.prefactor
        weight *= n_orderings**0.5 if descriptor.counts_orderings else 1.0
        tensors = [weight * t.tensor for t in trees(degrees, groups, descriptor.degree)]
        channels = _channels(descriptor, order, degrees, groups)
        features = first_feature + len(tensors) * np.arange(len(channels))
        blocks.append(Block(degrees, groups, channels, features, tensors))
        first_feature += len(tensors) * len(channels)
    n_channels = len(descriptor.density_labels) * descriptor.n_max
    return assemble(blocks, n_channels, descriptor.l_max, descriptor.degree)


class Block(NamedTuple):
    """Products of the same degrees with the same factors equal, and how they are coupled.

    Attributes
    ----------
    degrees, groups : tuple of int
        As in :class:`Products`.
    channels : int64 array, shape (n_products, n_factors)
        Density times n_max plus radial function, of every factor.
    features : int64 array, shape (n_products,)
        First feature of each product; one follows for each further tensor.
    tensors : list of float64 array, shape (n_components, 2 l_1 + 1, ...)
        The couplings, symmetric in equal factors.
    """

    degrees: tuple[int, ...]
    groups: tuple[int, ...]
    channels: Integers
    features: Integers
    tensors: list[Floats]


def assemble(blocks: list[Block], n_channels: int, l_max: int, degree: int) -> Couplings:
    """Return the parameters of the kernel for products that are coupled to a degree."""
    powers = _Powers((l_max + 1) ** 2)
    panels: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    strides: list[int] = []
    lists: list[tuple[Integers, Floats]] = []
    for degrees, groups, channels, features, tensors in blocks:
        of_groups = _in_four(channels[:, np.cumsum([0, *groups])[:-1]], n_channels)
        of_panels, of_runs = _panels(of_groups, features, len(tensors))
        for k, tensor in enumerate(tensors):
            panels.extend((len(strides), *panel) for panel in of_panels)
            runs.extend((first + k, last, length) for first, last, length in of_runs)
            strides.append(len(tensors))
            lists.extend(_terms(component, degrees, groups, powers) for component in tensor)
    coupling, *outer, middle, n_runs = np.array(panels).T
    run_features, run_last, run_lengths = np.ascontiguousarray(np.array(runs).T)
    lasts = [np.unique(of_terms[:, 3], return_counts=True) for of_terms, _ in lists]
    last_offsets = np.cumsum([0, *(len(last) for last, _ in lasts)])
    term_offsets = np.cumsum([0, *np.concatenate([counts for _, counts in lasts])])
    n_components = 2 * degree + 1
    of_couplings = last_offsets[::n_components]
    n_terms = np.diff(term_offsets[of_couplings])[coupling]
    n_partial = np.diff(of_couplings)[coupling] * n_padded(n_runs)
    return Couplings(
        n_features=int(sum(run_lengths)),
        n_components=n_components,
        n_powers=len(powers),
        n_channels=n_channels,
        n_panels=len(panels),
        power_factors=powers.factors,
        panel_coupling=np.ascontiguousarray(coupling),
        panel_middle=np.ascontiguousarray(middle),
        panel_runs=np.ascontiguousarray(n_runs),
        panel_outer=np.stack(outer, axis=1),
        panel_scaled=np.cumsum([0, *n_terms]),
        panel_partial=np.cumsum([0, *n_partial]),
        run_features=run_features,
        run_last=run_last,
        run_lengths=run_lengths,
        feature_strides=np.array(strides),
        last_offsets=last_offsets,
        last_powers=np.concatenate([last for last, _ in lasts]),
        term_offsets=term_offsets,
        term_powers=np.concatenate([of_terms[:, :3] for of_terms, _ in lists]),
        term_weights=np.concatenate([weights for _, weights in lists]),
        generators=rotation_generators(degree),
    )


class _Powers:
    """Products of coefficients of one channel, numbered as they are asked for."""

    def __init__(self, n_harmonics: int) -> None:
        self._numbers: dict[tuple[int, ...], int] = {(lm,): lm for lm in range(n_harmonics)}
        self._numbers[()] = n_harmonics
        self._factors: list[tuple[int, int]] = []

    def __getitem__(self, harmonics: tuple[int, ...]) -> int:
        """Number of the product of these harmonics, ascending."""
        if harmonics not in self._numbers:
            self._factors.append((self[harmonics[:-1]], self[harmonics[-1:]]))
            self._numbers[harmonics] = len(self._numbers)
        return self._numbers[harmonics]

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def factors(self) -> Integers:
        """Factors of every product of several harmonics."""
        return np.array(self._factors, dtype=np.int64).reshape(-1, 2)


def _in_four(of_groups: Integers, missing: int) -> Integers:
    """Put the groups of each row last, after two, one or no missing ones."""
    n_missing = MAX_FACTORS - of_groups.shape[1]
    return np.pad(of_groups, ((0, 0), (n_missing, 0)), constant_values=missing)


def _panels(
    of_groups: Integers, features: Integers, stride: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Cut products into panels and runs.

    Parameters
    ----------
    of_groups : int64 array, shape (n_products, 4)
        Channels of the outer groups, of the middle one and of the last one.
    features : int64 array, shape (n_products,)
        First feature of each product.
    stride : int
        Features of a product.

    Returns
    -------
    panels : list of [outer channel, outer channel, first middle channel, number of runs]
    runs : list of [first feature, first last channel, number of products]
    """
    if len(features) == 0:
        return [], []
    steps = np.diff(np.column_stack([of_groups, features]), axis=0)
    starts = np.append(0, 1 + np.flatnonzero((steps != [0, 0, 0, 1, stride]).any(axis=1)))
    lengths = np.diff(np.append(starts, len(of_groups)))
    of_runs = of_groups[starts]
    steps = np.diff(of_runs[:, :3], axis=0)
    first_runs = np.append(0, 1 + np.flatnonzero((steps != [0, 0, 1]).any(axis=1)))
    n_runs = np.diff(np.append(first_runs, len(starts)))
    panels = np.column_stack([of_runs[first_runs, :3], n_runs])
    runs = np.column_stack([features[starts], of_runs[:, 3], lengths])
    return panels.tolist(), runs.tolist()


def _terms(
    tensor: Floats, degrees: tuple[int, ...], groups: tuple[int, ...], powers: _Powers
) -> tuple[Integers, Floats]:
    """Nonzero elements of a tensor symmetric within groups, each product of powers once.

    Returns
    -------
    int64 array, shape (n_terms, 4)
        Power of every group, ordered by the last.
    float64 array, shape (n_terms,)
        Weights.
    """
    # Rounding leaves 1e-16 of a tensor of norm 1.
    indices = np.argwhere(np.abs(tensor) > 1e-14)
    values = tensor[tuple(indices.T)]
    harmonics = indices + np.square(degrees)
    bounds = np.cumsum([0, *groups])
    of_groups = np.array(
        [
            [powers[tuple(sorted(term[a:b]))] for a, b in pairwise(bounds)]
            for term in harmonics.tolist()
        ],
        dtype=np.int64,
    ).reshape(-1, len(groups))
    of_groups = _in_four(of_groups, powers[()])
    # By the last group first.
    found, place = np.unique(of_groups[:, ::-1], axis=0, return_inverse=True)
    return found[:, ::-1], np.bincount(place.ravel(), values, minlength=len(found))
