"""Many-body tensor representations of whole structures and of environments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import numpy as np
import scipy
from numpy.polynomial import hermite_e
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atomlake.descriptors.base import Citation, Descriptor, Gradients, LabelColumn, Rows
from atomlake.errors import SetAside
from atomlake.kernels import many_body_tensor as kernels
from atomlake.kernels.lanes import LANES, n_padded
from atomlake.neighbours import NO_VECTORS, Neighbours
from atomlake.structures import Structures

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: A Gaussian is left out of bins that begin this many σ away from its centre, where it is
#: 1e-15 of its maximum.
REACH = 8.3
#: Longest segment in units of σ, for moments and for single Gaussians.
MAX_SEGMENT = 0.6
MAX_SINGLE_SEGMENT = 0.1
#: Narrowest Gaussian in units of a bin. A histogram would do, and it has no derivative.
MIN_SIGMA = 1e-3

#: Most atoms of a structure whose triples are all counted: 5e8 triples, some seconds.
MAX_ATOMS_OF_ALL_TRIPLES = 1000

#: Atoms that a structure without a cutoff is taken to have where time is estimated.
_MOLECULE = 20

_N_ATOMS = {"atomic_number": 1, "distance": 2, "inverse_distance": 2, "angle": 3, "cosine": 3}
_GEOMETRIES = {
    "distance": kernels.DISTANCE,
    "inverse_distance": kernels.INVERSE_DISTANCE,
    "angle": kernels.ANGLE,
    "cosine": kernels.COSINE,
}
_UNITS = {
    "atomic_number": "1",
    "distance": "Å",
    "inverse_distance": "1/Å",
    "angle": "degree",
    "cosine": "1",
}
_WEIGHTINGS = {
    "unity": kernels.UNITY,
    "exp": kernels.EXPONENTIAL,
    "inverse_square": kernels.INVERSE_SQUARE,
    "smooth_cutoff": kernels.SMOOTH_CUTOFF,
}

_HUO_RUPP = Citation(
    "Huo & Rupp, Mach. Learn.: Sci. Technol. 3, 045017 (2022), Eq. 1-4", "10.1088/2632-2153/aca005"
)
_DSCRIBE = Citation(
    "Himanen et al., Comput. Phys. Commun. 247, 106949 (2020)", "10.1016/j.cpc.2019.106949"
)


class Grid(BaseModel):
    """Bins of equal width, and the Gaussian that broadens every number.

    A feature is the mean of the sum of Gaussians over one bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float = Field(description="Where the grid starts, in the unit of the geometry.")
    stop: float = Field(description="Where the grid stops.")
    n_bins: int = Field(ge=2, description="Number of bins.")
    sigma: float = Field(gt=0, description="Standard deviation of the Gaussian.")
    points: Literal["centres", "left_edges"] = Field(
        default="centres",
        description="centres: bins are centred on n_bins points from start to stop, both "
        "included (DScribe). left_edges: bins fill the grid from start to stop and are named "
        "by where they begin (qmmlpack).",
    )

    @model_validator(mode="after")
    def _is_grid(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"the grid must stop beyond its start {self.start}, not {self.stop}")
        if not MIN_SIGMA * self.width <= self.sigma <= self.stop - self.start:
            raise ValueError(
                f"sigma is {self.sigma}; it must be at least {MIN_SIGMA} of a bin of "
                f"{self.width:.3g}, and not more than the whole grid"
            )
        return self

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.stop - self.start) / (self.n_bins - (self.points == "centres"))

    @property
    def values(self) -> Floats:
        """The number that names each bin, shape (n_bins,)."""
        return np.linspace(self.start, self.stop, self.n_bins, endpoint=self.points == "centres")

    @property
    def first_edge(self) -> float:
        """Where the first bin begins."""
        return self.start - 0.5 * self.width * (self.points == "centres")


class Weighting(BaseModel):
    """What a pair or a triple counts for.

    ==================  ======================================================================
    ``unity``           1, for all pairs and triples of a structure without periodicity; with
                        ``cutoff``, for those whose sides are shorter
    ``exp``             exp(-scale d), with d the distance of a pair or the sum of the three
                        sides of a triple; what is below ``threshold`` is left out
    ``inverse_square``  1 / d², for pairs only; with ``cutoff``, for those that are closer
    ``smooth_cutoff``   f(d) for a pair, f(d) f(d') for the sides that form the angle of a
                        triple, with f(d) = 1 + y x^(y+1) - (y+1) x^y, x = d / cutoff, and y the
                        sharpness
    ==================  ======================================================================

    Only ``smooth_cutoff``, and ``unity`` without a cutoff, make features that are continuous
    functions of the positions. With the others a feature jumps when a pair or triple enters, by the
    weight that it enters with: the threshold, 1 / cutoff² or 1, times the Gaussian.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    function: Literal["unity", "exp", "inverse_square", "smooth_cutoff"] = Field(
        default="unity", description="Name of the function."
    )
    scale: float | None = Field(default=None, gt=0, description="Decay of exp in 1/Å.")
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Smallest weight that exp keeps; 0.001 if not given. Pairs reach as far as "
        "-ln(threshold) / scale, and sides of triples half as far.",
    )
    cutoff: float | None = Field(
        default=None, gt=0, description="Longest distance in Å, of all functions but exp."
    )
    sharpness: float | None = Field(
        default=None, ge=1, description="y of smooth_cutoff; 2 if not given."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill the parameter that the function has, so that equal functions compare equal."""
        if isinstance(given, str):
            given = {"function": given}
        if isinstance(given, dict):
            if given.get("function") == "exp" and given.get("threshold") is None:
                given = {**given, "threshold": 1e-3}
            if given.get("function") == "smooth_cutoff" and given.get("sharpness") is None:
                given = {**given, "sharpness": 2.0}
        return given

    @model_validator(mode="after")
    def _has_its_parameters(self) -> Self:
        needed = {"exp": {"scale", "threshold"}, "smooth_cutoff": {"cutoff", "sharpness"}}
        required = needed.get(self.function, set())
        allowed = required or {"cutoff"}
        given = {
            name
            for name in ("scale", "threshold", "cutoff", "sharpness")
            if getattr(self, name) is not None
        }
        if required - given:
            raise ValueError(f"{self.function} needs {sorted(required - given)}")
        if given - allowed:
            raise ValueError(f"{self.function} has no {sorted(given - allowed)}")
        return self


class Term(BaseModel):
    """One kind of correlation of one, two or three atoms."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    geometry: Literal["atomic_number", "distance", "inverse_distance", "angle", "cosine"] = Field(
        description="What is counted on the grid: the atomic number of each atom; the distance "
        "of each pair in Å or its inverse; each angle of each triple in degrees or its cosine."
    )
    grid: Grid = Field(description="Bins.")
    weighting: Weighting = Field(
        default=Weighting(), description="What each pair or triple counts for."
    )

    @model_validator(mode="after")
    def _fitting_weighting(self) -> Self:
        allowed = {
            1: ("unity",),
            2: ("unity", "exp", "inverse_square", "smooth_cutoff"),
            3: ("unity", "exp", "smooth_cutoff"),
        }[self.k]
        if self.weighting.function not in allowed:
            raise ValueError(
                f"{self.geometry} has no {self.weighting.function} weighting; it has {allowed}"
            )
        if self.k == 1 and self.weighting.cutoff is not None:
            raise ValueError("atomic_number knows no distance, so its weighting has no cutoff")
        return self

    @property
    def k(self) -> int:
        """Number of atoms that are correlated."""
        return _N_ATOMS[self.geometry]

    @property
    def cutoff(self) -> float:
        """Longest side in Å that starts where the angle is; infinite without a limit."""
        if self.k == 1:
            return 0.0
        scale, threshold = self.weighting.scale, self.weighting.threshold
        if scale is not None and threshold is not None:
            return -math.log(threshold) / scale / (self.k - 1)
        return math.inf if self.weighting.cutoff is None else self.weighting.cutoff


class _ManyBodyTensor(Descriptor):
    """What the representations of structures and of environments share."""

    family: ClassVar[str] = "many-body tensors"
    citations: ClassVar[tuple[Citation, ...]] = (_HUO_RUPP, _DSCRIBE)
    body_order = "1 to 3"
    basis = "Gaussians on grids of distances and angles"

    species: tuple[str, ...] = Field(
        min_length=1, description="Chemical symbols that may occur; sorted by atomic number."
    )
    terms: tuple[Term, ...] = Field(
        min_length=1, description="Correlations, concatenated in this order."
    )
    normalisation: Literal["none", "l2", "n_atoms", "valle_oganov"] = Field(
        default="none",
        description="l2: each term has unit Euclidean norm. n_atoms: divided by the number of "
        "atoms. valle_oganov: pairs of species A and B are multiplied by V / (4π N_A N_B), by "
        "twice that for A = B, and triples by V / (N_A N_B N_C), with the volume V of the cell.",
    )
    normalise_gaussians: bool = Field(
        default=True, description="Gaussians of area 1; else of height 1."
    )

    @property
    def n_features(self) -> int:
        """For each term its bins times its channels of species."""
        return sum(term.grid.n_bins * self._n_channels(term.k) for term in self.terms)

    def _n_channels(self, k: int) -> int:
        """Number of species, of pairs or of triples that are told apart."""
        raise NotImplementedError

    def _channels(self, k: int) -> Integers:
        """Position in species of each channel's atoms, shape (n_channels, k).

        The atom where the angle of a triple is stands in the middle; the centre of an
        environment counts as one more species.
        """
        raise NotImplementedError

    @property
    def columns(self) -> list[slice]:
        """Features of each term."""
        sizes = [term.grid.n_bins * self._n_channels(term.k) for term in self.terms]
        bounds = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        return [slice(first, last) for first, last in pairwise(bounds)]

    def label_columns(self) -> dict[str, LabelColumn]:
        """Say what each feature is.

        Returns
        -------
        dict of str to LabelColumn
            ``term``; ``k``; ``geometry``; ``species_1``, ``species_2``,
            ``species_3``: atomic numbers, 0 for the centre of an environment and -1 where fewer
            than three atoms are correlated, with the angle at the second; ``value``, the grid
            point.
        """
        numbers = np.append(self.species_numbers, np.int32(0))
        columns: dict[str, list[Any]] = {
            name: []
            for name in ("term", "k", "geometry", "species_1", "species_2", "species_3", "value")
        }
        for number, term in enumerate(self.terms):
            n_bins = term.grid.n_bins
            channels = self._channels(term.k)
            n = len(channels) * n_bins
            columns["term"].append(np.full(n, number, dtype=np.int32))
            columns["k"].append(np.full(n, term.k, dtype=np.int32))
            columns["geometry"].append(np.full(n, term.geometry))
            for place in range(3):
                species = (
                    numbers[channels[:, place]]
                    if place < term.k
                    else np.full(len(channels), -1, dtype=np.int32)
                )
                columns[f"species_{place + 1}"].append(np.repeat(species, n_bins))
            columns["value"].append(np.tile(term.grid.values, len(channels)))
        units = {_UNITS[term.geometry] for term in self.terms}
        names = {
            "term": "place in terms",
            "k": "number of atoms that are correlated",
            "geometry": "what is counted on the grid",
            "species_1": "atomic number of the first atom; 0 the centre",
            "species_2": "atomic number of the second atom, where the angle is; 0 the centre",
            "species_3": "atomic number of the third atom; 0 the centre",
            "value": "grid point: "
            + ", ".join(f"{g} in {u}" for g, u in _UNITS.items() if u in units),
        }
        return {
            name: LabelColumn(np.concatenate(columns[name]), "1", text)
            for name, text in names.items()
        }

    def channel_table(self, k: int) -> Integers:
        """The channel of each pair of species, or of each triple with the middle first."""
        channels = self._channels(k)
        table = np.full((int(channels.max()) + 1,) * k, -1, dtype=np.int64)
        order = np.arange(len(channels))
        if k == 2:
            first, last = channels.T
            table[first, last] = order
            table[last, first] = order
        else:
            first, middle, last = channels.T
            table[middle, first, last] = order
            table[middle, last, first] = order
        return table

    @property
    def is_continuous(self) -> bool:
        """Whether no weighting jumps at its cutoff or threshold, nor the norm from zero to one."""
        return self.normalisation != "l2" and all(
            term.weighting.function == "smooth_cutoff" or math.isinf(term.cutoff) or term.k == 1
            for term in self.terms
        )

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core from measured times per pair and triple."""
        is_local = self.native_rows == "atom"
        has_positions = gradients.positions != "none"
        n_rows = 1.0 + 9.0 * gradients.strain
        n_rows += 3.0 * has_positions * (n_neighbours if is_local else 1.0)
        seconds = 1e-6 + 5e-10 * n_rows * self.n_features
        for term in self.terms:
            n = float(_MOLECULE)
            if math.isfinite(term.cutoff):
                n = n_neighbours * (term.cutoff / self.cutoff) ** 3 if term.cutoff else 0.0
            n_gaussians = n if is_local else n / 2
            if term.k == 3:
                seconds += 1e-9 * n * n / 2
                # The perimeter of one triple in eight is short enough for exp.
                kept = 0.125 if term.weighting.function == "exp" else 1.0
                n_gaussians = kept * n * n / 2 * (3 if is_local else 1)
            seconds += 1e-8 * (1.5 + 8 * has_positions + 5 * gradients.strain) * n_gaussians
        return seconds

    def _add_terms(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        structure: Integers,
        structure_offsets: Integers,
        factors: list[Floats],
        rows: Rows,
    ) -> None:
        """Write the sums over pairs and triples of the centres ``first:last``.

        The structure of each centre is a row of ``structure_offsets`` and of the ``factors``
        of each term.
        """
        for array in rows:
            array[...] = 0.0
        atoms = kernels.Atoms(
            structures.numbers,
            structures.positions,
            self.species_table,
            structure,
            structure_offsets,
        )
        terms = _kernel_terms(self)
        has_angles = any(term is not None and term.channel.ndim == 3 for term in terms)
        pairs = kernels.Pairs(
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.vectors if rows.has_gradients or has_angles else NO_VECTORS,
            neighbours.distances,
        )
        # No centre has more neighbours than pairs in the list, or atoms in its structure.
        n_listed = np.diff(neighbours.pair_offsets[first : last + 1]).max(initial=0)
        capacity = int(max(n_listed, np.diff(structure_offsets).max(initial=0)))
        for term, factor in zip(terms, factors, strict=True):
            if term is None:
                continue
            output = kernels.Output(
                self.native_rows == "atom", self.n_features, factor.shape[1], factor, *rows
            )
            n_moments = 0 if rows.has_gradients else term.bins.n_segments * kernels.N_MOMENTS
            scratch = kernels.scratch(capacity, factor.shape[1], n_moments)
            add = kernels.add_pairs if term.channel.ndim == 2 else kernels.add_triples
            add(first, last, atoms, pairs, term, scratch, output)
        for x, y in ((1, 0), (2, 0), (2, 1)):
            rows.gradient_strain[:, x, y] = rows.gradient_strain[:, y, x]


class Mbtr(_ManyBodyTensor):
    """Many-body tensor representation of a whole structure.

    Every atom, pair and angle is a Gaussian on a grid, added to the bins of its species:

    ``f(x; z_1 ... z_k) = Σ w(i_1 ... i_k) N(x; g(i_1 ... i_k), σ) δ(z, Z_i)``

    (Huo & Rupp 2022, Eq. 1). Each pair counts once and each angle once. Periodic
    structures have the pairs and angles of one cell, which is half of those that cross its
    border and what makes a supercell agree with its cell up to the number of cells.

    The angle has no derivative where three atoms lie on a line; such angles add nothing to
    the gradients, the mean of the derivatives from all sides. Its cosine is smooth.

    Features are ordered as DScribe orders them: pairs of species (1, 1), (1, 2), ..., (2, 2), ...;
    triples by the species in the middle, then as pairs.
    """

    kind = "mbtr"
    title = "Many-body tensor representation of structures"
    citations = (
        _HUO_RUPP,
        _DSCRIBE,
        Citation("Valle & Oganov, Acta Cryst. A 66, 507 (2010)", "10.1107/S0108767310026395"),
    )
    native_rows = "structure"
    averages = ("none",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The example of DScribe's tutorial.
        "dscribe": {
            "terms": [
                {
                    "geometry": "inverse_distance",
                    "grid": {"start": 0.0, "stop": 1.0, "n_bins": 100, "sigma": 0.1},
                    "weighting": {"function": "exp", "scale": 0.5, "threshold": 1e-3},
                }
            ],
            "normalisation": "l2",
        },
        # DScribe's ValleOganov with both of its functions (Valle & Oganov 2010).
        "valle_oganov": {
            "terms": [
                {
                    "geometry": "distance",
                    "grid": {"start": 0.0, "stop": 5.0, "n_bins": 100, "sigma": 0.1},
                    "weighting": {"function": "inverse_square", "cutoff": 5.0},
                },
                {
                    "geometry": "angle",
                    "grid": {"start": 0.0, "stop": 180.0, "n_bins": 100, "sigma": 3.0},
                    "weighting": {"function": "smooth_cutoff", "cutoff": 5.0},
                },
            ],
            "normalisation": "valle_oganov",
        },
    }

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        atomic_number = _example("atomic_number", (0, 20, 15, 1.0))
        return [
            cls(
                species=species,
                terms=(
                    atomic_number,
                    _example("distance", (0, 4, 30, 0.1), "smooth_cutoff", cutoff=4.0),
                    _example("angle", (0, 180, 15, 10), "smooth_cutoff", cutoff=3.0, sharpness=3),
                ),
            ),
            cls(
                species=species,
                terms=(
                    _example("inverse_distance", (0.1, 1, 20, 0.05), "exp", scale=1.5),
                    _example("cosine", (-1, 1, 15, 0.1), "exp", scale=1.0, threshold=1e-2),
                ),
                normalisation="l2",
            ),
            cls(
                species=species,
                terms=(
                    atomic_number,
                    _example("distance", (0.5, 4, 12, 0.02), "inverse_square", cutoff=3.3),
                    _example("cosine", (-0.9, 0.5, 12, 0.2, "left_edges"), "unity", cutoff=2.7),
                ),
                normalise_gaussians=False,
                normalisation="n_atoms",
            ),
            cls(
                species=species,
                terms=(
                    _example("inverse_distance", (0, 1, 20, 0.05), "inverse_square"),
                    _example("angle", (0, 180, 12, 15), "unity"),
                ),
            ),
            cls(
                species=species,
                terms=(
                    _example("distance", (0, 4, 30, 0.1), "smooth_cutoff", cutoff=3.5),
                    _example("cosine", (-1, 1, 15, 0.2), "smooth_cutoff", cutoff=3.0),
                ),
                normalisation="valle_oganov",
            ),
            cls.preset("dscribe", species=species),
        ]

    @property
    def cutoff(self) -> float:
        """Longest finite cutoff of the terms in Å; 0 if they need no neighbours."""
        return max(term.cutoff if math.isfinite(term.cutoff) else 0.0 for term in self.terms)

    def _n_channels(self, k: int) -> int:
        s = len(self.species)
        return {1: s, 2: s * (s + 1) // 2, 3: s * s * (s + 1) // 2}[k]

    def _channels(self, k: int) -> Integers:
        s = range(len(self.species))
        channels = {
            1: [(a,) for a in s],
            2: [(a, b) for a in s for b in s if a <= b],
            3: [(a, middle, b) for middle in s for a in s for b in s if a <= b],
        }[k]
        return np.array(channels, dtype=np.int64)

    def check(self, structures: Structures) -> list[SetAside | None]:
        """Refuse more pairs and triples than can be counted, and volumes that are not there."""
        result = super().check(structures)
        for s, n_atoms in enumerate(structures.n_atoms_per_structure.tolist()):
            if result[s] is None:
                result[s] = self._check_extent(structures.pbc[s].tolist(), n_atoms)
        return result

    def _check_extent(self, periodic: list[bool], n_atoms: int) -> SetAside | None:
        """Say why this periodicity or number of atoms will not do, or None."""
        unlimited = [term.k for term in self.terms if math.isinf(term.cutoff)]
        if unlimited and any(periodic):
            return SetAside(
                "not_finite",
                f"{self.kind} has a term that counts all pairs, and a structure with pbc "
                f"{periodic} has infinitely many; give the term's weighting a cutoff",
            )
        if 3 in unlimited and n_atoms > MAX_ATOMS_OF_ALL_TRIPLES:
            return SetAside(
                "too_many_atoms",
                f"{self.kind} has a term that counts all triples, for which at most "
                f"{MAX_ATOMS_OF_ALL_TRIPLES} atoms are accepted, and the structure has {n_atoms}; "
                "give the term's weighting a cutoff",
            )
        if self.normalisation == "valle_oganov" and not all(periodic):
            return SetAside(
                "not_periodic",
                f"{self.kind} with valle_oganov normalisation needs the volume of a structure that "
                f"is periodic along all three cell vectors, but pbc is {periodic}; use another "
                "normalisation",
            )
        return None

    def _whole_structures(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int, rows: Rows
    ) -> None:
        n = last - first
        offsets = structures.structure_offsets[first : last + 1]
        structure = np.repeat(np.arange(n), np.diff(offsets))
        species = self.species_table[structures.numbers[offsets[0] : offsets[-1]]]
        n_species = len(self.species)
        in_order = np.bincount(structure * n_species + species, minlength=n * n_species)
        counts = in_order.reshape(n, n_species)
        volumes = np.abs(np.linalg.det(structures.cells[first:last]))
        factors = [self._factors(term.k, counts, volumes) for term in self.terms]
        with _double_precision(rows) as work:
            centres = int(offsets[0]), int(offsets[-1])
            self._add_terms(structures, neighbours, *centres, structure, offsets, factors, work)
            for term, factor, columns in zip(self.terms, factors, self.columns, strict=True):
                if term.k == 1:
                    shares = _shares(
                        term.grid, self.species_numbers[:, None], self.normalise_gaussians
                    )
                    values = (counts * factor)[:, :, None] * shares
                    work.features[:, columns] = values.reshape(n, columns.stop - columns.start)
                if (
                    self.normalisation == "valle_oganov"
                    and term.k > 1
                    and len(work.gradient_strain)
                ):
                    # The volume grows with the trace of the strain.
                    for x in range(3):
                        work.gradient_strain[:, x, x, columns] += work.features[:, columns]
                if self.normalisation == "l2":
                    kernels.normalise(columns.start, columns.stop, offsets - offsets[0], *work)

    def _factors(self, k: int, counts: Integers, volumes: Floats) -> Floats:
        """What the normalisation multiplies each channel with, shape (n_structures, n_channels)."""
        channels = self._channels(k)
        if self.normalisation == "n_atoms":
            return np.repeat(1.0 / counts.sum(axis=1, keepdims=True), len(channels), axis=1)
        if self.normalisation == "valle_oganov" and k > 1:
            # A channel of a species that is not there has nothing to be multiplied.
            products = np.maximum(counts[:, channels].prod(axis=2), 1)
            like = channels[:, 0] == channels[:, 1]
            scale = np.where(like, 2.0, 1.0) / (4.0 * np.pi) if k == 2 else 1.0
            return np.ascontiguousarray(volumes[:, None] * scale / products)
        return np.ones((len(counts), len(channels)))


class Lmbtr(_ManyBodyTensor):
    """Many-body tensor representation of an atom's environment.

    The pairs and the angles of :class:`Mbtr` that the atom takes part in: those at the atom
    and those at its neighbours. The atom is of a species of its own, X, so that features
    do not depend on which element it is.

    Features are ordered as DScribe orders them, without its columns that are always zero (those
    of more than one X): pairs (X, 1), (X, 2), ...; triples with X in the middle, (1, X, 1),
    (1, X, 2), ..., (2, X, 2), ...; then triples with X at one end, (X, 1, 1), (X, 1, 2), ...,
    (X, 2, 1), ...
    """

    kind = "lmbtr"
    title = "Many-body tensor representation of environments"
    body_order = "2 and 3"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The example of DScribe's tutorial.
        "dscribe": {
            "terms": [
                {
                    "geometry": "distance",
                    "grid": {"start": 0.0, "stop": 5.0, "n_bins": 200, "sigma": 0.1},
                    "weighting": {"function": "exp", "scale": 0.5, "threshold": 1e-3},
                }
            ],
            "normalisation": "l2",
        },
    }

    normalisation: Literal["none", "l2"] = Field(
        default="none", description="l2: each term of each environment has unit Euclidean norm."
    )

    @field_validator("terms", mode="after")
    @classmethod
    def _are_local(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        for term in terms:
            if term.k == 1:
                raise ValueError("an environment has no atomic_number term; it is the same in all")
            if math.isinf(term.cutoff):
                raise ValueError(
                    f"the weighting {term.weighting.function} of {term.geometry} needs a cutoff, "
                    "within which an atom's neighbours are listed; to have all pairs of a "
                    "molecule, choose one that is longer than the molecule"
                )
        return terms

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        return [
            cls(
                species=species,
                terms=(
                    _example("distance", (0, 4, 30, 0.1), "smooth_cutoff", cutoff=4.0),
                    _example("angle", (0, 180, 10, 15), "smooth_cutoff", cutoff=2.0, sharpness=3),
                ),
            ),
            cls(
                species=species,
                terms=(
                    _example("inverse_distance", (0.1, 1, 20, 0.05), "exp", scale=1.5),
                    _example("cosine", (-1, 1, 15, 0.1), "exp", scale=1.0, threshold=1e-2),
                ),
                normalisation="l2",
            ),
            cls(
                species=species,
                terms=(
                    _example("distance", (0.5, 4, 12, 0.02), "inverse_square", cutoff=3.3),
                    _example("cosine", (-0.9, 0.5, 12, 0.2, "left_edges"), "unity", cutoff=1.9),
                ),
                normalise_gaussians=False,
            ),
        ]

    @property
    def cutoff(self) -> float:
        """Distance in Å to which pairs and triples reach."""
        return max(
            # An angle at a neighbour may end at an atom that is as far again from it.
            2.0 * term.cutoff if term.k == 3 and term.weighting.function != "exp" else term.cutoff
            for term in self.terms
        )

    def _n_channels(self, k: int) -> int:
        s = len(self.species)
        return s if k == 2 else s * (s + 1) // 2 + s * s

    def _channels(self, k: int) -> Integers:
        centre = len(self.species)
        s = range(centre)
        if k == 2:
            return np.array([(centre, a) for a in s], dtype=np.int64)
        middle = [(a, centre, b) for a in s for b in s if a <= b]
        ends = [(centre, a, b) for a in s for b in s]
        return np.array(middle + ends, dtype=np.int64)

    def _environments(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int, rows: Rows
    ) -> None:
        # Nothing depends on the structure: all centres are in one, of which no atoms are needed.
        structure, offsets = np.zeros(last - first, np.int64), np.zeros(2, np.int64)
        factors = [np.ones((1, self._n_channels(term.k))) for term in self.terms]
        with _double_precision(rows) as work:
            self._add_terms(structures, neighbours, first, last, structure, offsets, factors, work)
            if self.normalisation == "l2":
                pairs = neighbours.pair_offsets[first : last + 1]
                for columns in self.columns:
                    kernels.normalise(columns.start, columns.stop, pairs - pairs[0], *work)


@contextmanager
def _double_precision(rows: Rows) -> Iterator[Rows]:
    """Give contiguous arrays of double precision to work in, and store them into ``rows``."""
    work = Rows(
        *(
            array
            if array.dtype == np.float64 and array.flags.c_contiguous
            else np.empty(array.shape)
            for array in rows
        )
    )
    yield work
    for array, result in zip(rows, work, strict=True):
        if result is not array:
            array[...] = result


def _shares(grid: Grid, centre: Any, has_unit_area: bool, index: Any = None) -> Floats:
    """Mean of a Gaussian over bins of the grid; over all of them without ``index``."""
    index = np.arange(grid.n_bins) if index is None else index
    lower = (grid.first_edge + grid.width * index - centre) / grid.sigma
    upper = lower + grid.width / grid.sigma
    # On the right the distribution function is close to 1, and its mirror image more precise.
    mirrored = lower > 0
    share = scipy.special.ndtr(np.where(mirrored, -lower, upper)) - scipy.special.ndtr(
        np.where(mirrored, -upper, lower)
    )
    return np.asarray(share * _height(grid, has_unit_area))


def _height(grid: Grid, has_unit_area: bool) -> float:
    """Area of a Gaussian divided by the width of a bin."""
    return (1.0 if has_unit_area else grid.sigma * math.sqrt(2.0 * math.pi)) / grid.width


@lru_cache(maxsize=16)
def _kernel_terms(tensor: _ManyBodyTensor) -> list[kernels.Term | None]:
    """The terms of pairs and of triples as the kernels take them; None for k = 1."""
    return [
        None
        if term.k == 1
        else kernels.Term(
            _GEOMETRIES[term.geometry],
            _bins(term.grid, tensor.normalise_gaussians, MAX_SEGMENT, kernels.N_MOMENTS),
            _bins(term.grid, tensor.normalise_gaussians, MAX_SINGLE_SEGMENT, kernels.N_SINGLE),
            kernels.Weighting(
                _WEIGHTINGS[term.weighting.function],
                term.weighting.scale or term.weighting.sharpness or 0.0,
                term.cutoff,
            ),
            columns.start,
            len(tensor.channel_table(term.k)),
            tensor.channel_table(term.k),
        )
        for term, columns in zip(tensor.terms, tensor.columns, strict=True)
    ]


def _bins(grid: Grid, has_unit_area: bool, max_segment: float, n_coefficients: int) -> kernels.Bins:
    """Bins with the Taylor series of a Gaussian's share around the middle of each segment.

    The derivative of degree d of the distribution function is, up to its sign, the Hermite
    polynomial of degree d - 1 times the Gaussian. 16 coefficients leave out 4e-16 of the
    Gaussian's maximum on the longest segment for moments; 10 leave out 3e-17 on the longest for
    single Gaussians, and 8e-15 of the largest derivative.
    """
    bins_per_segment = max(1, math.floor(max_segment * grid.sigma / grid.width))
    segments_per_bin = max(1, math.ceil(grid.width / (max_segment * grid.sigma)))
    segment = grid.width * bins_per_segment / segments_per_bin
    n_before = math.ceil(REACH * grid.sigma / grid.width)
    n_blocks = n_padded(bins_per_segment + 2 * n_before) // LANES
    index = np.arange(n_blocks * LANES) - n_before
    middle = segment * (np.arange(segments_per_bin)[:, None] + 0.5)
    table = np.empty((segments_per_bin, n_coefficients, len(index)))
    table[:, 0] = _shares(grid, grid.first_edge + middle, has_unit_area, index)
    lower = (index * grid.width - middle) / grid.sigma
    upper = lower + grid.width / grid.sigma
    scale = -_height(grid, has_unit_area)
    for degree in range(1, n_coefficients):
        scale *= 0.5 * segment / grid.sigma / degree
        table[:, degree] = scale * (_derivative(degree, upper) - _derivative(degree, lower))
    n_outside = math.ceil(REACH * grid.sigma / segment)
    blocks = table.reshape(segments_per_bin, n_coefficients, n_blocks, LANES)
    return kernels.Bins(
        first_edge=grid.first_edge,
        n_bins=grid.n_bins,
        segment=segment,
        bins_per_segment=bins_per_segment,
        segments_per_bin=segments_per_bin,
        first_segment=-n_outside,
        n_segments=math.ceil(grid.n_bins * grid.width / segment) + 2 * n_outside,
        n_before=n_before,
        n_blocks=n_blocks,
        table=np.ascontiguousarray(blocks.swapaxes(1, 2)),
    )


def _derivative(degree: int, z: Floats) -> Floats:
    """Derivative of the normal distribution function, times -1 for even degrees."""
    one = np.eye(degree)[degree - 1]
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.asarray(hermite_e.hermeval(z, one) * density)


def _example(
    geometry: str, grid: tuple[Any, ...], function: str = "unity", **weighting: float
) -> Term:
    names = ("start", "stop", "n_bins", "sigma", "points")
    return Term.model_validate(
        {
            "geometry": geometry,
            "grid": dict(zip(names, grid, strict=False)),
            "weighting": {"function": function, **weighting},
        }
    )
