"""What all families of density correlations share: how the density around an atom is expanded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atomlake.descriptors import radial
from atomlake.descriptors.base import Descriptor, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.expansion import Environment, Expansion, Pairs, empty_environment
from atomlake.kernels.harmonics import recursion_coefficients
from atomlake.kernels.lanes import n_padded
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures

_RADIAL_BASES = tuple(dict.fromkeys([*radial.FAMILIES, *radial.POINT_FAMILIES]))


class RadialScaling(BaseModel):
    """Weight ``rate / (rate + (r / scale)^exponent)`` of a neighbour at distance r.

    Willatt, Musil & Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018), Eq. 10.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: float = Field(default=1.0, gt=0, description="How late the weight starts to fall.")
    scale: float = Field(default=2.0, gt=0, description="Distance in Å where it does.")
    exponent: float = Field(default=3.0, gt=0, description="How fast it falls.")


class DensityDescriptor(Descriptor):
    """A function of the expansion of the neighbour density.

    Every neighbour within ``cutoff`` is a Gaussian of width ``sigma``; the density of each
    species around an atom is expanded in ``n_max`` radial functions and in spherical harmonics
    up to degree ``l_max``:

        c[s, n, l, m] = Σ_j f(r_j) ∫ g(r - r_j) R_nl(r) Y_lm(r) dr

    With no ``sigma`` a neighbour is a point: ``c[s, n, l, m] = Σ_j f(r_j) R_nl(r_j) Y_lm(r_j)``.
    """

    basis: ClassVar[str] = "radial functions and spherical harmonics"

    species: tuple[str, ...] = Field(
        min_length=1, description="Chemical symbols that may occur; sorted by atomic number."
    )
    cutoff: float = Field(
        default=5.0, gt=0, description="Distance in Å beyond which neighbours are not seen."
    )
    n_max: int = Field(default=8, ge=1, le=32, description="Number of radial functions.")
    l_max: int = Field(default=6, ge=0, le=20, description="Largest degree of the harmonics.")
    sigma: float | None = Field(
        default=0.5, gt=0, description="Width of the Gaussians in Å; none for a density of points."
    )
    radial_basis: str = Field(
        default="gto",
        description="Radial functions: "
        f"of Gaussians {', '.join(radial.FAMILIES)}; of points {', '.join(radial.POINT_FAMILIES)}.",
        json_schema_extra={"enum": list(_RADIAL_BASES)},
    )
    radial_decay: float | None = Field(
        default=None,
        gt=0,
        le=20,
        description="λ of the chebyshev functions; 5.25 for chebyshev_exponential and 2 for "
        "chebyshev_power if not given.",
    )
    basis_cutoff: float | None = Field(
        default=None,
        gt=0,
        description="Extent of the radial basis in Å; the cutoff if not given. Where it is "
        "smaller, the tails of neighbours outside reach into the basis.",
    )
    cutoff_function: Cutoff = Field(
        default=Cutoff(function="shifted_cosine"),
        description="How neighbours fade out towards the cutoff.",
    )
    radial_scaling: RadialScaling | None = Field(
        default=None, description="How the weight of a neighbour falls with distance."
    )
    centre_weight: float = Field(
        default=1.0, ge=0, description="Weight of the centre's own Gaussian."
    )
    density: Literal["unit_norm", "unit_height"] = Field(
        default="unit_norm",
        description="Normalisation of a Gaussian: its square integrates to 1, or it is 1 at "
        "its centre. Points count 1.",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill in the decay, so that equal functions compare equal."""
        if isinstance(given, dict) and given.get("radial_decay") is None:
            basis = given.get("radial_basis", cls.model_fields["radial_basis"].default)
            if basis in radial.DECAYS:
                return {**given, "radial_decay": radial.DECAYS[basis]}
        return given

    @field_validator("radial_basis", mode="after")
    @classmethod
    def _known_basis(cls, name: str) -> str:
        if name not in _RADIAL_BASES:
            raise ValueError(f"there is no radial basis {name!r}; use one of {list(_RADIAL_BASES)}")
        return name

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.radial_decay is not None and self.radial_basis not in radial.DECAYS:
            raise ValueError(
                f"{self.radial_basis} has no radial_decay; only {list(radial.DECAYS)} have one"
            )
        if self.sigma is None:
            if self.radial_basis not in radial.POINT_FAMILIES:
                raise ValueError(
                    f"the {self.radial_basis} basis is that of a density of Gaussians: give a "
                    f"sigma, or use one of {list(radial.POINT_FAMILIES)}"
                )
            if self.basis_cutoff is not None:
                raise ValueError(
                    "a density of points has no tails that could reach into a smaller basis; "
                    "leave out basis_cutoff"
                )
        elif self.radial_basis not in radial.FAMILIES:
            raise ValueError(
                f"{self.radial_basis} functions are evaluated at the neighbours themselves: set "
                f"sigma to None, or use one of {list(radial.FAMILIES)}"
            )
        elif self.sigma < self.cutoff / 200:
            raise ValueError(
                f"sigma = {self.sigma} Å is too narrow to be resolved within a cutoff of "
                f"{self.cutoff} Å; use at least {self.cutoff / 200} Å"
            )
        if (self.cutoff_function.width or 0) > self.cutoff:
            raise ValueError(
                f"the cutoff function's width of {self.cutoff_function.width} Å is larger than the "
                f"cutoff of {self.cutoff} Å; use a smaller width"
            )
        radial.check_functions(*self._radial_parameters)
        return self

    @property
    def is_continuous(self) -> bool:
        """Whether features change continuously as an atom crosses the cutoff."""
        is_closed = self.sigma is None and self.radial_basis in radial.CLOSED
        return is_closed or self.cutoff_function.function != "step"

    @property
    def _radial_parameters(self) -> tuple[str, int, int, float, float | None, float | None]:
        extent = self.basis_cutoff or self.cutoff
        return self.radial_basis, self.n_max, self.l_max, extent, self.sigma, self.radial_decay


def batch_pairs(structures: Structures, neighbours: Neighbours) -> Pairs:
    """Return the pairs of a batch as the kernels read them."""
    return Pairs(
        neighbours.vectors,
        neighbours.distances,
        neighbours.pair_offsets,
        neighbours.neighbour_index,
        structures.numbers,
    )


def room(
    expansion: Expansion, neighbours: Neighbours, first: int, last: int, rows: Rows
) -> Environment:
    """Allocate room for the largest environment of the centres ``first:last``."""
    counts = np.diff(neighbours.pair_offsets[first : last + 1])
    has_strain = len(rows.gradient_strain) > 0
    has_gradient = has_strain or len(rows.gradient_positions) > 0
    return empty_environment(expansion, int(counts.max(initial=0)), has_gradient, has_strain)


@lru_cache(maxsize=64)
def expansion_parameters(descriptor: DensityDescriptor) -> Expansion:
    """Return the parameters of the kernels, with the radial functions tabulated."""
    table = radial.radial_table(*descriptor._radial_parameters, descriptor.cutoff)
    norm = 1.0
    if descriptor.sigma is not None and descriptor.density == "unit_norm":
        norm = float((np.pi * descriptor.sigma**2) ** -0.75)
    scaling = descriptor.radial_scaling
    return Expansion(
        n_max=descriptor.n_max,
        l_max=descriptor.l_max,
        n_padded=n_padded(descriptor.n_max),
        table=norm * table.values,
        n_nodes=len(table.values),
        spacing=table.spacing,
        recursion=recursion_coefficients(descriptor.l_max),
        cutoff=descriptor.cutoff,
        cutoff_code=descriptor.cutoff_function.code,
        cutoff_parameter=descriptor.cutoff_function.parameter,
        scaling_rate=scaling.rate if scaling else 1.0,
        scaling_scale=scaling.scale if scaling else 1.0,
        scaling_exponent=scaling.exponent if scaling else 0.0,
        centre_weight=descriptor.centre_weight,
        species=descriptor.species_table,
        n_species=len(descriptor.species),
    )
