"""Behler–Parrinello symmetry functions, plain and weighted, in any mixture."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atomlake.descriptors.base import Citation, Descriptor, Gradients, LabelColumn, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels import symmetry_functions as kernels
from atomlake.neighbours import NO_VECTORS, Neighbours
from atomlake.structures import Structures

#: Largest ζ: (1 + λ cos θ)^ζ then counts angles within 4° of the direction only.
MAX_ZETA = 1024

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RadialParameters(NamedTuple):
    """Parameters of a function ``exp(-eta (r - r_s)²)`` of one distance.

    Attributes
    ----------
    eta : float
        In 1/Å², or in 1/cutoff² (see :attr:`SymmetryFunctions.eta_unit`).
    r_s : float
        Centre in Å.
    """

    eta: NotNegative
    r_s: Finite = 0.0


class AngularParameters(NamedTuple):
    """Parameters of a function ``2^(1-zeta) (1 + lambda_ cos θ)^zeta exp(-eta ...)``.

    Attributes
    ----------
    eta : float
        As in :class:`RadialParameters`.
    zeta : float
        At least 1: below, the derivative is infinite or jumps where three atoms are in line.
    lambda_ : float
        From -1 to 1.
    r_s : float
        Centre in Å of the Gaussian of every distance.
    """

    eta: NotNegative
    zeta: Annotated[float, Field(ge=1, le=MAX_ZETA)]
    lambda_: Annotated[float, Field(ge=-1, le=1)]
    r_s: Finite = 0.0


class Grid(BaseModel):
    """Radial parameters on a grid, instead of a list (Gastegger et al. 2018, Sec. II C).

    With ``r_i`` from ``first`` to ``last`` in n steps of d: ``centred`` has Gaussians of
    width r_i around the centre (eta = 1 / 2 r_i², r_s = 0), ``shifted`` Gaussians of width
    d around r_i (eta = 1 / 2 d², r_s = r_i).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    grid: Literal["centred", "shifted"] = Field(description="Which grid.")
    n: int = Field(ge=2, description="Number of radial parameters.")
    first: float = Field(default=0.5, gt=0, description="First distance in Å.")
    last: float | None = Field(
        default=None, gt=0, description="Last distance in Å; cutoff - 1 if not given."
    )

    def radial_parameters(self, cutoff: float) -> list[RadialParameters]:
        """Return the parameters, with eta in 1/Å².

        Raises
        ------
        ValueError
            If the last distance is not beyond the first.
        """
        last = cutoff - 1 if self.last is None else self.last
        if last <= self.first:
            raise ValueError(
                f"the grid ends at {last} Å, which is not beyond its first distance of "
                f"{self.first} Å; use a larger cutoff or set first and last"
            )
        distances = np.linspace(self.first, last, self.n)
        if self.grid == "centred":
            return [RadialParameters(float(0.5 / r**2), 0.0) for r in distances]
        eta = float(0.5 / (distances[1] - distances[0]) ** 2)
        return [RadialParameters(eta, float(r)) for r in distances]


class AngularGrid(Grid):
    """Every radial parameter of a grid with every zeta and lambda."""

    zeta: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="Values of zeta.")
    lambda_: tuple[float, ...] = Field(
        default=(1.0, -1.0), min_length=1, alias="lambda", description="Values of lambda."
    )

    def angular_parameters(self, cutoff: float) -> list[AngularParameters]:
        """Return the parameters, with eta in 1/Å²."""
        return [
            AngularParameters(radial.eta, zeta, lambda_, radial.r_s)
            for radial, zeta, lambda_ in product(
                self.radial_parameters(cutoff), self.zeta, self.lambda_
            )
        ]


class SymmetryFunctions(Descriptor):
    """Atom-centred symmetry functions.

    With the cutoff function fc and ``θ`` the angle between neighbours j and k:

    ========  ====================================================================
    ``g1``    Σ fc(r)
    ``g2``    Σ exp(-η (r - r_s)²) fc(r)
    ``g3``    Σ cos(κ r) fc(r)
    ``g4``    2^(1-ζ) Σ (1 + λ cos θ)^ζ exp(-η (r_ij² + r_ik² + r_jk²)) fc fc fc
    ``g5``    as ``g4``, without every factor of r_jk
    ``w2``    as ``g2``, over all neighbours, each counted with its atomic number
    ``w4``    as ``g4``, over all pairs, each counted with both atomic numbers
    ========  ====================================================================

    Each pair j, k counts once. ``g1`` to ``g3`` exist for every species, ``g4`` and ``g5`` for
    every pair of species, all with the same parameters; ``w2`` and ``w4`` exist once, so
    their number does not depend on the species. With ``r_s`` in angular functions, every r
    in the exponent is ``r - r_s``.

    Features are ordered as DScribe orders them: for each species (by atomic number) g1, g2,
    g3; then for each pair of species, (1, 1), (1, 2), (2, 2), (1, 3), ..., g4, g5; then w2, w4.
    """

    family: ClassVar[str] = "atom-centred functions"
    kind: ClassVar[str] = "symmetry_functions"
    title: ClassVar[str] = "Behler–Parrinello symmetry functions, plain and weighted"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Behler & Parrinello, Phys. Rev. Lett. 98, 146401 (2007)",
            "10.1103/PhysRevLett.98.146401",
        ),
        Citation("Behler, J. Chem. Phys. 134, 074106 (2011)", "10.1063/1.3553717"),
        Citation("Gastegger et al., J. Chem. Phys. 148, 241709 (2018)", "10.1063/1.5019667"),
    )
    body_order: ClassVar[str] = "2 (g1, g2, g3, w2) and 3 (g4, g5, w4)"
    basis: ClassVar[str] = "Gaussians and cosines of distances, powers of 1 ± cos θ"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # DScribe always has G1, with the cosine cutoff function.
        "dscribe": {"g1": True},
        # make_default_symmetry_functions of AMP.
        "amp": {
            "cutoff": 6.5,
            "eta_unit": "cutoff",
            "g2": [(float(eta), 0.0) for eta in np.logspace(np.log10(0.05), np.log10(5.0), 4)],
            "g4": [(0.005, zeta, lambda_) for zeta in (1.0, 4.0) for lambda_ in (1.0, -1.0)],
        },
        # The 22 radial and 10 angular functions of Gastegger et al. (2018).
        "gastegger_centred": {
            "cutoff": 8.0,
            "w2": {"grid": "centred", "n": 22},
            "w4": {"grid": "centred", "n": 5},
        },
        "gastegger_shifted": {
            "cutoff": 8.0,
            "w2": {"grid": "shifted", "n": 22},
            "w4": {"grid": "shifted", "n": 5},
        },
    }

    cutoff: float = Field(gt=0, description="Distance in Å beyond which neighbours do not count.")
    cutoff_function: Cutoff = Field(
        default=Cutoff(), description="Function that takes neighbours smoothly to zero."
    )
    eta_unit: Literal["angstrom", "cutoff"] = Field(
        default="angstrom",
        description="Length that eta refers to: exp(-eta r²) with r in Å (DScribe, n2p2), or in "
        "units of the cutoff (AMP).",
    )
    g1: bool = Field(default=False, description="Sum of the cutoff function.")
    g2: tuple[RadialParameters, ...] = Field(
        default=(), description="[eta, r_s] of each Gaussian, or a grid."
    )
    g3: tuple[Finite, ...] = Field(default=(), description="kappa of each cosine, in 1/Å.")
    g4: tuple[AngularParameters, ...] = Field(
        default=(), description="[eta, zeta, lambda, r_s] of each closed function, or a grid."
    )
    g5: tuple[AngularParameters, ...] = Field(
        default=(), description="[eta, zeta, lambda, r_s] of each open function, or a grid."
    )
    w2: tuple[RadialParameters, ...] = Field(
        default=(), description="[eta, r_s] of each weighted Gaussian, or a grid."
    )
    w4: tuple[AngularParameters, ...] = Field(
        default=(), description="[eta, zeta, lambda, r_s] of each weighted function, or a grid."
    )

    @field_validator("cutoff_function", mode="after")
    @classmethod
    def _no_step(cls, function: Cutoff) -> Cutoff:
        if function.function == "step":
            raise ValueError(
                "symmetry functions are continuous only with a cutoff function that goes to "
                "zero; use cosine or another in place of step"
            )
        return function

    @field_validator("g2", "w2", "g4", "g5", "w4", mode="before")
    @classmethod
    def _from_grid(cls, given: Any, info: ValidationInfo) -> Any:
        """Write a grid out, so that parameters are lists of numbers however they were given."""
        if not isinstance(given, dict | Grid) or not {"cutoff", "eta_unit"} <= info.data.keys():
            return given
        cutoff = info.data["cutoff"]
        unit = cutoff if info.data["eta_unit"] == "cutoff" else 1.0
        parameters: list[Any]
        if info.field_name in ("g2", "w2"):
            parameters = Grid.model_validate(given).radial_parameters(cutoff)
        else:
            parameters = AngularGrid.model_validate(given).angular_parameters(cutoff)
        return [entry._replace(eta=entry.eta * unit**2) for entry in parameters]

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        if not (self._has_channels or self.w2 or self.w4):
            raise ValueError(
                "there is no function to compute; give at least one of g1, g2, g3, g4, g5, w2, w4, "
                f"or start from a preset: {sorted(self.presets)}"
            )
        if self._has_channels and self.species is None:
            raise ValueError(
                "g1 to g5 exist for every species, so species must be listed; only w2 and w4 "
                "take any species"
            )
        return self

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        return [
            cls(
                species=species,
                cutoff=4.0,
                g1=True,
                g2=((0.05, 0.0), (1.0, 1.5)),
                g3=(1.3,),
                g4=((0.01, 1.0, 1.0), (0.05, 4.0, -1.0), (0.05, 2.5, 0.5, 1.0)),
                g5=((0.01, 2.0, -1.0), (0.1, 1.0, 1.0)),
            ),
            cls.preset("gastegger_shifted", cutoff=4.5, cutoff_function="poly2"),
            cls.preset("gastegger_centred", cutoff=4.0, w2={"grid": "centred", "n": 3}),
            cls.preset("amp", species=species, cutoff=5.0, cutoff_function="amp_polynomial"),
            cls.preset(
                "dscribe", species=species, cutoff=3.5, w4=((0.1, 3.0, 1.0),), average="outer"
            ),
        ]

    @property
    def n_features(self) -> int:
        """Number of features."""
        s = len(self.species_numbers)
        return (
            s * self._n_per_species
            + s * (s + 1) // 2 * self._n_per_pair
            + len(self.w2)
            + len(self.w4)
        )

    @property
    def _n_per_species(self) -> int:
        return self.g1 + len(self.g2) + len(self.g3)

    @property
    def _n_per_pair(self) -> int:
        return len(self.g4) + len(self.g5)

    @property
    def _has_channels(self) -> bool:
        """Whether neighbours of different species are told apart."""
        return self._n_per_species + self._n_per_pair > 0

    def label_columns(self) -> dict[str, LabelColumn]:
        """Say what each feature is.

        Returns
        -------
        dict of str to LabelColumn
            ``function`` (g1 to g5, w2, w4), ``species_1`` and ``species_2``
            (atomic numbers; 0 where a function has none), ``eta``, ``r_s``, ``zeta``, ``lambda``,
            ``kappa`` (NaN where a function has none).
        """
        nan = float("nan")
        none = nan, nan, nan, nan
        radial = [("g1", *none, nan)] if self.g1 else []
        radial += [("g2", eta, r_s, nan, nan, nan) for eta, r_s in self.g2]
        radial += [("g3", *none, kappa) for kappa in self.g3]
        angular = [
            (name, p.eta, p.r_s, p.zeta, p.lambda_, nan)
            for name, functions in (("g4", self.g4), ("g5", self.g5))
            for p in functions
        ]
        weighted = [("w2", eta, r_s, nan, nan, nan) for eta, r_s in self.w2]
        weighted += [("w4", p.eta, p.r_s, p.zeta, p.lambda_, nan) for p in self.w4]
        z = self.species_numbers.tolist()
        rows = [(z_1, 0, *f) for z_1 in z for f in radial]
        rows += [(z[a], z[b], *f) for b in range(len(z)) for a in range(b + 1) for f in angular]
        rows += [(0, 0, *f) for f in weighted]
        eta_unit = "1/Å^2" if self.eta_unit == "angstrom" else "1/cutoff^2"
        columns = {
            "species_1": (np.int32, "1", "atomic number of the neighbour"),
            "species_2": (np.int32, "1", "atomic number of the other neighbour"),
            "function": (np.str_, "1", "symmetry function"),
            "eta": (np.float64, eta_unit, "exponent of the Gaussian"),
            "r_s": (np.float64, "Å", "centre of the Gaussian"),
            "zeta": (np.float64, "1", "power of the angular part"),
            "lambda": (np.float64, "1", "direction of the angular part"),
            "kappa": (np.float64, "1/Å", "wave number of the cosine"),
        }
        return {
            name: LabelColumn(np.array([row[c] for row in rows], dtype=dtype), units, long_name)
            for c, (name, (dtype, units, long_name)) in enumerate(columns.items())
        }

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; within a factor of 1.5 of measured times."""
        n_radial = self.g1 + len(self.g2) + len(self.g3) + len(self.w2)
        n_pairs = n_neighbours**2 / 2
        n_gradients = (gradients.positions != "none") + gradients.strain
        nanoseconds = 500 + n_neighbours * (14 + 0.5 * n_radial + 1.2 * n_radial * n_gradients)
        if gradients.positions != "none":
            nanoseconds += n_neighbours * self.n_features
        # About half of all pairs of neighbours are close enough for a closed triangle.
        for functions, share in ((self.g4, 0.5), (self.g5, 1.0), (self.w4, 0.5)):
            if functions:
                n_powers = len({(p.zeta, p.lambda_) for p in functions})
                n_gaussians = len({(p.eta, p.r_s) for p in functions})
                if n_gradients:
                    tables = 1.2 * n_powers + 2.0 * n_gaussians + 1.0 * len(functions)
                    nanoseconds += n_pairs * (4.0 + share * tables)
                else:
                    tables = 0.26 * n_powers + 0.6 * n_gaussians + 0.1 * len(functions)
                    nanoseconds += n_pairs * (1.6 + share * tables)
        return nanoseconds * 1e-9

    def _environments(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int, rows: Rows
    ) -> None:
        functions = _kernel_functions(self)
        has_vectors = rows.has_gradients or bool(self.g4 or self.g5 or self.w4)
        kernels.symmetry_functions(
            first,
            last,
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.vectors if has_vectors else NO_VECTORS,
            neighbours.distances,
            structures.numbers,
            functions,
            kernels.empty_workspace(functions, neighbours.max_count, self.n_features),
            *rows,
        )


@lru_cache(maxsize=64)
def _kernel_functions(descriptor: SymmetryFunctions) -> kernels.Functions:
    """Return all functions in the terms of the kernels."""
    d = descriptor
    n_channels = len(d.species_numbers) if d._has_channels else 1
    first_pair = n_channels * d._n_per_species
    first_weighted = d.n_features - len(d.w2) - len(d.w4)
    one, two = np.indices((n_channels, n_channels))
    low, high = np.minimum(one, two), np.maximum(one, two)
    pairs = first_pair + (high * (high + 1) // 2 + low) * d._n_per_pair
    unit = d.cutoff**2 if d.eta_unit == "cutoff" else 1.0
    g2, w2 = ([(p.eta / unit, p.r_s) for p in functions] for functions in (d.g2, d.w2))
    g4, g5, w4 = (
        [(p.eta / unit, p.zeta, p.lambda_, p.r_s) for p in functions]
        for functions in (d.g4, d.g5, d.w4)
    )
    return kernels.Functions(
        envelope=kernels.Envelope(d.cutoff_function.code, d.cutoff_function.parameter, d.cutoff),
        channel=np.maximum(d.species_table, 0) if d._has_channels else 0 * d.species_table,
        channel_number=d.species_numbers.astype(np.float64) if d._has_channels else np.zeros(1),
        radial=kernels.radial_functions(d.g1, g2, d.g3, np.arange(n_channels) * d._n_per_species),
        closed=kernels.angular_functions(True, g4, pairs),
        opened=kernels.angular_functions(False, g5, pairs + len(g4)),
        weighted_radial=kernels.radial_functions(False, w2, (), np.array([first_weighted])),
        weighted_closed=kernels.angular_functions(True, w4, np.array([[first_weighted + len(w2)]])),
    )
