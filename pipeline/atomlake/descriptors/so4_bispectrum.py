"""Bispectra of the neighbour density on the 3-sphere: SNAP, and the one of AMP."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from atomlake.descriptors.base import (
    RUN_NBYTES,
    Citation,
    Descriptor,
    Gradients,
    LabelColumn,
    Rows,
    cut,
)
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels import accumulate
from atomlake.kernels.so4 import (
    Couplings,
    Projection,
    empty_scratch,
    expand_components,
    so4_bispectrum,
)
from atomlake.kernels.so4_couplings import Channel, couplings
from atomlake.kernels.so4_projections import (
    empty_projection,
    project_by_arcsine,
    project_linearly,
)
from atomlake.neighbours import Neighbours
from atomlake.structures import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS, Structures

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Floats = NDArray[np.float64]

#: More features than this for one atom are refused.
MAX_FEATURES = 2**18

_BARTOK = Citation(
    "Bartók, Payne, Kondor & Csányi, Phys. Rev. Lett. 104, 136403 (2010)",
    "10.1103/PhysRevLett.104.136403",
)


class _So4Bispectrum(Descriptor):
    """What the bispectra share: the kernel, and the labels of its components."""

    family: ClassVar[str] = "SO(4) bispectrum"
    body_order: ClassVar[str] = "4"
    basis: ClassVar[str] = "Wigner functions on the 3-sphere"

    @property
    @abstractmethod
    def _couplings(self) -> Couplings:
        """Components and how to compute them."""

    @abstractmethod
    def _project(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int
    ) -> Projection:
        """Place the neighbours of the centres ``first:last`` on the 3-sphere."""

    def _elements(self, structures: Structures) -> NDArray[np.int64]:
        """Density that each atom belongs to."""
        return np.zeros(structures.n_atoms, dtype=np.int64)

    def _self_weights(self) -> Floats:
        """What a centre counts for in each density, (n_elements, n_elements)."""
        return np.zeros((1, 1))

    def _zero(self) -> Floats:
        """What is subtracted from the linear features, (n_elements, n_linear_features)."""
        plan = self._couplings
        return np.zeros((plan.n_elements, len(plan.feature_scale)))

    def _environments(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        nowhere = np.empty((0, 1, 3, 0)), np.empty(0, dtype=np.int64), 0
        arguments = structures, neighbours, first, last, self._couplings, self._zero()
        self._describe(*arguments, rows, *nowhere)

    def _accumulate(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        gradients: Gradients,
        rows: Rows,
    ) -> None:
        """Sum derivatives of components over centres, then make features of them.

        Features that differ in the order of a triple share a component: with a density for
        each of several elements most do.
        """
        plan, n_features = self._couplings, rows.features.shape[-1]
        n = len(plan.component)
        if self.average != "none" or n_features > len(plan.feature_component):
            # Products of features are no sums over components.
            super()._accumulate(structures, neighbours, first, last, gradients, rows)
            return
        of_components = plan._replace(feature_component=np.arange(n), feature_scale=np.ones(n))
        zero = np.empty((plan.n_elements, n))
        zero[:, plan.feature_component] = self._zero() / plan.feature_scale

        first_atom, last_atom = structures.structure_offsets[[first, last]].tolist()
        group = self.centre_group(structures)
        features = np.empty((last_atom - first_atom, n))
        # There are never more components than features: rows have room for their sums.
        positions = rows.gradient_positions
        if positions.dtype != np.float64:
            positions = np.empty((*positions.shape[:-1], n))
        positions[..., :n] = 0.0
        strain = np.zeros((*rows.gradient_strain.shape[:-1], n))
        counts = np.diff(neighbours.pair_offsets[first_atom : last_atom + 1])
        nbytes = 8 * (len(Projection._fields) * counts + 9 * n * gradients.strain)
        for lower, upper in cut(nbytes, RUN_NBYTES):
            run = Rows(
                features[lower:upper],
                np.empty((0, 3, n)),
                np.empty(((upper - lower) * gradients.strain, 3, 3, n)),
            )
            lower, upper = lower + first_atom, upper + first_atom
            arguments = structures, neighbours, lower, upper, of_components, zero
            self._describe(*arguments, run, positions, group, first_atom)
            if gradients.strain:
                accumulate.sum_strain_gradients(
                    run.gradient_strain,
                    structures.structure_index,
                    group,
                    np.ones(structures.n_structures),
                    lower,
                    first,
                    strain,
                )
        row = np.empty(n)
        for components, target in zip((features, positions, strain), rows, strict=True):
            by_row = components.reshape(-1, components.shape[-1])
            expand_components(by_row, plan, row, target.reshape(-1, n_features))

    def _describe(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        plan: Couplings,
        zero: Floats,
        rows: Rows,
        position_sums: Floats,
        group: NDArray[np.int64],
        first_atom: int,
    ) -> None:
        """Call the kernel."""
        has_gradients = any(map(len, (*rows[1:], position_sums)))
        so4_bispectrum(
            first,
            last,
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.vectors,
            neighbours.distances,
            self._project(structures, neighbours, first, last),
            self._elements(structures),
            self._self_weights(),
            zero,
            plan,
            empty_scratch(plan, neighbours.max_count, has_gradients),
            *rows,
            position_sums,
            group,
            first_atom,
        )

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core."""
        plan = self._couplings
        n_functions = (plan.twojmax + 1) ** 3 / 3
        n_coupled = plan.coupled_offsets[-1 if gradients.any else plan.n_value_couplings]
        seconds = 1e-6 + 2e-10 * n_neighbours * n_functions + 1.4e-9 * n_coupled
        if gradients.any:
            seconds += n_neighbours * (5e-10 * n_functions + 7e-11 * plan.weight_offsets[-1])
            seconds += 5e-10 * self.n_values * (3 * n_neighbours + 9 * gradients.strain)
        return float(seconds + 1e-9 * self.n_values)


class Snap(_So4Bispectrum):
    """Bispectrum components of the spectral neighbour analysis potential, as LAMMPS has them.

    A neighbour j of atom i at the distance r is placed on the 3-sphere at the angle
    ``θ0 = rfac0 π (r - rmin0) / (R - rmin0)`` with ``R = rcutfac (R_i + R_j)``. The density

        u^j = U^j(0, 0, 0) + Σ w_j fc(r) U^j(θ0, θ, φ)

    is coupled to ``B(j1, j2, j) = Σ conj(u^j) H u^j1 u^j2``, ``j2 ≤ j1 ≤ j``, in the order of
    LAMMPS. Parameters have the names that they have in LAMMPS, computes ``sna/atom``,
    ``snad/atom``, ``snav/atom`` and ``snap``, and pair style ``snap``.

    Gradients are derivatives: LAMMPS lists their negatives. A neighbour closer than ``rmin0``
    is at a negative angle as in the equation above, where LAMMPS changes the sign of the ``U^j``
    of half-integer j.
    """

    kind: ClassVar[str] = "snap"
    title: ClassVar[str] = "SNAP bispectrum components"
    citations: ClassVar[tuple[Citation, ...]] = (
        _BARTOK,
        Citation("Thompson et al., J. Comput. Phys. 285, 316 (2015)", "10.1016/j.jcp.2014.12.018"),
        Citation("Wood & Thompson, J. Chem. Phys. 148, 241721 (2018)", "10.1063/1.5017641"),
        Citation(
            "Cusentino, Wood & Thompson, J. Phys. Chem. A 124, 5456 (2020)",
            "10.1021/acs.jpca.0c02450",
        ),
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # What the computes of LAMMPS take where a keyword is not given.
        "lammps": {
            "rfac0": 0.99363,
            "rmin0": 0.0,
            "switchflag": True,
            "bzeroflag": True,
            "quadraticflag": False,
            "chemflag": False,
            "bnormflag": False,
            "wselfallflag": False,
            "switchinnerflag": False,
        }
    }

    twojmax: int = Field(
        default=6, ge=0, le=20, description="Twice the largest angular momentum j."
    )
    rcutfac: float = Field(
        default=5.0,
        gt=0,
        description="Factor of all radii; with the default radii, the cutoff in Å.",
    )
    radii: dict[str, Positive] | None = Field(
        default=None,
        description="Radius of each species: a pair counts up to rcutfac times the sum of its "
        "radii. 0.5 if not given.",
    )
    weights: dict[str, Finite] | None = Field(
        default=None, description="What a neighbour of each species counts for; 1 if not given."
    )
    rfac0: float = Field(
        default=0.99363, gt=0, le=1, description="Angle on the 3-sphere at the cutoff, over π."
    )
    rmin0: float = Field(default=0.0, ge=0, description="Distance in Å at the angle 0.")
    switchflag: bool = Field(
        default=True, description="Whether neighbours fade out towards the cutoff."
    )
    bzeroflag: bool = Field(
        default=True, description="Whether the components of an isolated atom are subtracted."
    )
    quadraticflag: bool = Field(
        default=False, description="Whether products of all pairs of components follow them."
    )
    chemflag: bool = Field(
        default=False,
        description="Whether every species has a density of its own: components for all ordered "
        "triples of species.",
    )
    bnormflag: bool = Field(default=False, description="Whether components are divided by 2j + 1.")
    wselfallflag: bool = Field(
        default=False,
        description="With chemflag: whether the centre counts in the densities of all species, "
        "or only of its own.",
    )
    switchinnerflag: bool = Field(
        default=False, description="Whether neighbours fade in around sinner."
    )
    sinner: dict[str, Finite] | None = Field(
        default=None,
        description="With switchinnerflag: middle in Å of the interval where neighbours fade in, "
        "for each species; the mean over both atoms of a pair counts.",
    )
    dinner: dict[str, Positive] | None = Field(
        default=None, description="With switchinnerflag: half the width in Å of that interval."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("radii", "weights", "sinner", "dinner"):
            given = getattr(self, name)
            if given is not None and set(given) != set(self.species or ()):
                raise ValueError(
                    f"{name} must have one number for each of the species "
                    f"{list(self.species or ())}, but has them for {sorted(given)}"
                )
        if self.switchinnerflag != (self.sinner is not None and self.dinner is not None):
            raise ValueError("switchinnerflag needs both sinner and dinner, and they need it")
        if self.chemflag and self.species is None:
            raise ValueError("chemflag has a density for every species, so species must be listed")
        if self.wselfallflag and not self.chemflag:
            raise ValueError("wselfallflag only means something with chemflag")
        smallest = 2 * self.rcutfac * min((self.radii or {"": 0.5}).values())
        if self.rmin0 >= smallest:
            raise ValueError(
                f"rmin0 = {self.rmin0} Å must be below the smallest cutoff, {smallest} Å"
            )
        if self.n_features > MAX_FEATURES:
            raise ValueError(
                f"{self.n_features:,} features ({8e-6 * self.n_features:,.1f} MB per atom) are "
                f"more than {MAX_FEATURES:,}; lower twojmax, leave quadraticflag out, or replace "
                "chemflag by weights"
            )
        return self

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        numbers = np.array([ATOMIC_NUMBERS[s] for s in species])

        def each(values: Floats) -> dict[str, float]:
            return dict(zip(species, values.tolist(), strict=True))

        radii, weights = each(0.4 + 0.02 * np.sqrt(numbers)), each(1 - 0.05 * numbers)
        return [
            cls.preset("lammps", rcutfac=4.0, twojmax=5),
            cls(
                species=species,
                rcutfac=4.2,
                twojmax=3,
                radii=radii,
                weights=weights,
                rmin0=0.6,
                rfac0=0.9,
                bzeroflag=False,
                bnormflag=True,
            ),
            cls(
                species=species,
                rcutfac=4.0,
                twojmax=2,
                weights=weights,
                chemflag=True,
                wselfallflag=True,
                switchinnerflag=True,
                sinner=each(1.0 + 0.01 * numbers),
                dinner=each(0.4 + 0.01 * numbers),
            ),
            cls(
                species=species,
                rcutfac=3.6,
                twojmax=1,
                chemflag=True,
                quadraticflag=True,
                average="outer",
            ),
            cls(rcutfac=3.8, twojmax=4, switchflag=False, dtype="float32"),
        ]

    @property
    def cutoff(self) -> float:
        """Distance in Å within which neighbours are needed: that of the largest radius."""
        return 2 * self.rcutfac * max((self.radii or {"": 0.5}).values())

    @property
    def is_continuous(self) -> bool:
        """Whether neighbours fade out."""
        return self.switchflag

    @property
    def n_features(self) -> int:
        """Number of features."""
        m, odd = divmod(self.twojmax, 2)
        m += 1
        n = m * (m + 1) * (m + 2) // 3 if odd else m * (m + 1) * (2 * m + 1) // 6
        n *= self._n_elements**3
        return n + n * (n + 1) // 2 if self.quadraticflag else n

    def label_columns(self) -> dict[str, LabelColumn]:
        """Say what each feature is.

        Returns
        -------
        dict of str to LabelColumn
            ``twice_j1``, ``twice_j2``, ``twice_j``; with ``chemflag`` the atomic
            numbers ``species_1``, ``species_2``, ``species`` of the densities that they belong
            to; with ``quadraticflag`` the features ``factor_1`` and ``factor_2`` that are
            multiplied (halved where they are the same), -1 for features that are no
            product, while products have -1 in place of the former.
        """
        triples = _snap_triples(self.twojmax, self._n_elements)
        n = len(triples)
        names = ("1", "2", "")
        columns = {
            f"twice_j{name}": np.array([triple[k].j for triple in triples])
            for k, name in enumerate(names)
        }
        if self.chemflag:
            for k, name in enumerate(names):
                elements = np.array([triple[k].element for triple in triples])
                columns[f"species_{name}".rstrip("_")] = self.species_numbers[elements]
        if self.quadraticflag:
            factors = np.triu_indices(n)
            none = np.full(len(factors[0]), -1)
            columns = {name: np.concatenate([column, none]) for name, column in columns.items()}
            for k in range(2):
                columns[f"factor_{k + 1}"] = np.concatenate([np.full(n, -1), factors[k]])
        return _label_columns(columns)

    @property
    def _n_elements(self) -> int:
        return len(self.species or ()) if self.chemflag else 1

    @property
    def _couplings(self) -> Couplings:
        return _snap_couplings(self.twojmax, self._n_elements, self.bnormflag)

    def _elements(self, structures: Structures) -> NDArray[np.int64]:
        return self.species_index(structures) if self.chemflag else super()._elements(structures)

    def _self_weights(self) -> Floats:
        n = self._n_elements
        return np.ones((n, n)) if self.wselfallflag else np.eye(n)

    def _zero(self) -> Floats:
        if not self.bzeroflag:
            return super()._zero()
        return _isolated(self.twojmax, self._n_elements, self.bnormflag, self.wselfallflag)

    def _project(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int
    ) -> Projection:
        start, end = neighbours.pair_offsets[[first, last]].tolist()
        projection = empty_projection(end - start)
        inner = (self.sinner, self.dinner) if self.switchinnerflag else ()
        project_linearly(
            first,
            last,
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.distances,
            structures.numbers,
            self.rcutfac * _by_number(self.radii, 0.5),
            _by_number(self.weights, 1.0),
            self.rfac0,
            self.rmin0,
            self.switchflag,
            np.array([_by_number(column, 1.0) for column in inner]).reshape(2, -1 if inner else 0),
            projection,
        )
        return projection


class AmpBispectrum(_So4Bispectrum):
    """Bispectrum of the neighbour density as the code AMP defines it.

    A neighbour at the distance r is the rotation by ``ψ = arcsin(r / cutoff)`` about its direction,

        c^j = Σ w fc(r) U^j(ψ, θ, φ),   B(j1, j1, j) = Σ conj(c^j) H c^j1 c^j1

    for integer ``j ≤ min(2 j1, jmax)``: the components with ``j2 = j1``, and no term for the
    centre itself. The density covers a quarter of the sphere at most, so these numbers are
    no rescaled :class:`Snap`.
    """

    kind: ClassVar[str] = "amp_bispectrum"
    title: ClassVar[str] = "Bispectrum of AMP"
    citations: ClassVar[tuple[Citation, ...]] = (
        _BARTOK,
        Citation(
            "Khorshidi & Peterson, Comput. Phys. Commun. 207, 310 (2016)",
            "10.1016/j.cpc.2016.05.010",
        ),
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {"amp": {"cutoff": 6.5, "jmax": 5.0}}

    cutoff: float = Field(
        default=6.5, gt=0, description="Distance in Å beyond which neighbours do not count."
    )
    jmax: float = Field(
        default=5.0, ge=0, le=10, multiple_of=0.5, description="Largest angular momentum j."
    )
    cutoff_function: Cutoff = Field(
        default=Cutoff(), description="Function that takes neighbours smoothly to zero."
    )
    weights: dict[str, dict[str, Finite]] | None = Field(
        default=None,
        description="What a neighbour counts for, by species of the centre and of the neighbour "
        "(Gs of AMP); its atomic number if not given.",
    )

    @field_validator("cutoff_function", mode="after")
    @classmethod
    def _fades(cls, function: Cutoff) -> Cutoff:
        if function.function == "step":
            raise ValueError(
                "arcsin(r / cutoff) has an infinite slope at the cutoff, so neighbours must have "
                "faded out there; use cosine or another in place of step"
            )
        return function

    @model_validator(mode="after")
    def _weights_of_all_pairs(self) -> Self:
        if self.weights is None:
            return self
        species = set(self.species or ())
        rows = list(self.weights.values())
        if set(self.weights) != species or any(set(row) != species for row in rows):
            raise ValueError(
                f"weights must have one number for every pair of the species {sorted(species)}"
            )
        return self

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        weights = {
            a: {b: 1.0 + 0.3 * k - 0.7 * n for k, b in enumerate(species)}
            for n, a in enumerate(species)
        }
        return [
            cls(species=species, cutoff=4.0, jmax=2.0),
            cls.preset("amp", cutoff=4.5, jmax=2.5, cutoff_function="poly2", average="outer"),
            cls(species=species, cutoff=4.2, jmax=1.5, weights=weights, dtype="float32"),
        ]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(_amp_triples(self._twojmax))

    def label_columns(self) -> dict[str, LabelColumn]:
        """Twice the angular momenta of each feature: ``twice_j1``, ``twice_j2``, ``twice_j``."""
        triples = _amp_triples(self._twojmax)
        return _label_columns(
            {
                f"twice_j{name}": np.array([triple[k].j for triple in triples])
                for k, name in enumerate(("1", "2", ""))
            }
        )

    @property
    def _twojmax(self) -> int:
        return int(2 * self.jmax)

    @property
    def _couplings(self) -> Couplings:
        return _amp_couplings(self._twojmax)

    def _project(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int
    ) -> Projection:
        start, end = neighbours.pair_offsets[[first, last]].tolist()
        projection = empty_projection(end - start)
        weights = np.tile(np.arange(len(CHEMICAL_SYMBOLS), dtype=float), (len(CHEMICAL_SYMBOLS), 1))
        for centre, row in (self.weights or {}).items():
            weights[ATOMIC_NUMBERS[centre]] = _by_number(row, 0.0)
        project_by_arcsine(
            first,
            last,
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.distances,
            structures.numbers,
            weights,
            self.cutoff,
            self.cutoff_function.code,
            self.cutoff_function.parameter,
            projection,
        )
        return projection


Triple = tuple[Channel, Channel, Channel]


@lru_cache(maxsize=32)
def _snap_triples(twojmax: int, n_elements: int) -> list[Triple]:
    """Components in the order of LAMMPS: blocks of elements, the last changing fastest."""
    elements = range(n_elements)
    return [
        (Channel(j1, a), Channel(j2, b), Channel(j, c))
        for a in elements
        for b in elements
        for c in elements
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
        if j >= j1
    ]


@lru_cache(maxsize=32)
def _snap_couplings(twojmax: int, n_elements: int, is_normalised: bool) -> Couplings:
    return couplings(twojmax, n_elements, _snap_triples(twojmax, n_elements), is_normalised)


@lru_cache(maxsize=32)
def _isolated(twojmax: int, n_elements: int, is_normalised: bool, is_in_all: bool) -> Floats:
    """Components of an isolated atom of each element: (n_elements, n_components).

    Every u that the atom is in is the identity, and B its trace, 2 j + 1.
    """
    triples = _snap_triples(twojmax, n_elements)
    values = np.array([1.0 if is_normalised else c.j + 1.0 for _, _, c in triples])
    elements = np.array([[channel.element for channel in triple] for triple in triples])
    own = (elements == np.arange(n_elements)[:, None, None]).all(axis=2)
    return np.where(is_in_all | own, values, 0.0)


@lru_cache(maxsize=32)
def _amp_triples(twojmax: int) -> list[Triple]:
    """Components in the order of AMP; j is an integer, so twice j is even."""
    return [
        (Channel(j1), Channel(j1), Channel(j))
        for j1 in range(twojmax + 1)
        for j in range(0, min(2 * j1, twojmax) + 1, 2)
    ]


@lru_cache(maxsize=32)
def _amp_couplings(twojmax: int) -> Couplings:
    return couplings(twojmax, 1, _amp_triples(twojmax))


def _by_number(values: dict[str, float] | None, default: float) -> Floats:
    """Numbers per species as an array over atomic numbers."""
    result = np.full(len(CHEMICAL_SYMBOLS), default)
    for symbol, value in (values or {}).items():
        result[ATOMIC_NUMBERS[symbol]] = value
    return result


def _label_columns(columns: dict[str, NDArray[Any]]) -> dict[str, LabelColumn]:
    return {name: LabelColumn(column.astype(np.int32)) for name, column in columns.items()}
