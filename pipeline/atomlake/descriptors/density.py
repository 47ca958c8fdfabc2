"""What all families of density correlations share: how the density around an atom is expanded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from atomlake.descriptors import radial
from atomlake.descriptors.base import Descriptor, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.expansion import Expansion, Memory, Pairs, empty_environment
from atomlake.kernels.harmonics import recursion_coefficients
from atomlake.kernels.lanes import n_padded
from atomlake.neighbours import Neighbours
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

#: Most numbers that describe one atom, without gradients.
MAX_VALUES = 1_000_000


def _sorted_weights(given: Any) -> Any:
    """Bring weights by element, a mapping or pairs, one number or several, to one form."""
    items = given.items() if isinstance(given, Mapping) else given
    order = {symbol: z for z, symbol in enumerate(CHEMICAL_SYMBOLS)}
    try:
        return sorted(
            ((symbol, (w,) if isinstance(w, int | float) else w) for symbol, w in items),
            key=lambda item: order.get(item[0], 0),
        )
    except TypeError:
        # Neither of these: left for the type's own complaint.
        return given


#: Weights of elements in one or several mixed densities: ``{"H": 1.0, "C": 6.0}`` or
#: ``{"H": (1.0, 0.3), "C": (0.2, 1.0)}``.
SpeciesWeights = Annotated[
    tuple[tuple[str, tuple[float, ...]], ...], BeforeValidator(_sorted_weights)
]


def weight_matrix(weights: SpeciesWeights, species: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the weights as a matrix, shape (n_elements, n_densities).

    Raises
    ------
    ValueError
        If they are not weights of exactly these species, as many of each.
    """
    given = tuple(symbol for symbol, _ in weights)
    if given != species:
        raise ValueError(
            f"species_weights are those of {list(given)} and the species are {list(species)}; "
            "give weights for each of them"
        )
    lengths = {len(of_element) for _, of_element in weights}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"species_weights have {sorted(lengths)} numbers for an element; give the same number "
            "of weights, at least one, for each"
        )
    matrix = np.array([of_element for _, of_element in weights])
    if not matrix.any(axis=0).all():
        raise ValueError("no element counts in one of the mixed densities; give it a weight")
    return matrix


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

    family: ClassVar[str] = "density correlations"
    basis: ClassVar[str] = "radial functions and spherical harmonics"

    species: tuple[str, ...] = Field(
        min_length=1, description="Chemical symbols that may occur; sorted by atomic number."
    )
    species_weights: SpeciesWeights | None = Field(
        default=None,
        description="Weights of each element in one or several mixed densities (alchemical "
        "channels), which take the place of the elements' own.",
    )
    cutoff: float = Field(
        default=5.0,
        ge=0.01,
        le=1000.0,
        description="Distance in Å beyond which neighbours are not seen.",
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
        ge=0.01,
        le=1000.0,
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
            if isinstance(basis, str) and basis in radial.DECAYS:
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
        if self.species_weights is not None:
            weight_matrix(self.species_weights, self.species)
        return self

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        if self.n_values > MAX_VALUES:
            nbytes = self.n_values * np.dtype(self.dtype).itemsize
            compression = "compression='mu2', " if "compression" in type(self).model_fields else ""
            raise ValueError(
                f"{self.kind} of {len(self.species)} species would be {self.n_values:,} numbers, "
                f"{nbytes / 2**20:,.0f} MiB, for each atom; use {compression}species_weights that "
                "mix the elements into a few densities, or smaller n_max and l_max"
            )
        return self

    @property
    def densities(self) -> NDArray[np.float64]:
        """Weight of each element in each density that is expanded, (n_elements, n_densities)."""
        if self.species_weights is None:
            return np.eye(len(self.species))
        return weight_matrix(self.species_weights, self.species)

    @property
    def density_labels(self) -> NDArray[np.int32]:
        """Atomic number of each density; -1, -2, ... for mixed ones."""
        if self.species_weights is None:
            return self.species_numbers
        return -1 - np.arange(self.densities.shape[1], dtype=np.int32)

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


def room(expansion: Expansion, neighbours: Neighbours, rows: Rows) -> Memory:
    """Allocate memory for the largest environment of the batch."""
    has_strain = len(rows.gradient_strain) > 0
    return empty_environment(expansion, neighbours.max_count, rows.has_gradients, has_strain)


def exact_rows(expansion: Expansion, rows: Rows) -> AbstractContextManager[Rows]:
    """Give rows to write to; in double precision where kernels sum up a pair's row in them."""
    return nullcontext(rows) if expansion.n_repeats == 1 else in_double_precision(rows)


@contextmanager
def in_double_precision(rows: Rows) -> Iterator[Rows]:
    """Give rows of double precision to write to, which become ``rows`` at the end."""
    exact = Rows(*(np.empty(array.shape) for array in rows))
    yield exact
    for array, value in zip(rows, exact, strict=True):
        array[...] = value


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
        **elements_as_species(descriptor.species_numbers, descriptor.densities),
    )


def elements_as_species(numbers: NDArray[np.int32], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Return what an :class:`Expansion` says of species.

    Parameters
    ----------
    numbers : int32 array, shape (n_elements,)
        Atomic numbers, ascending.
    weights : float64 array, shape (n_elements, n_species)
        With which weight atoms of each element count as each species.
    """
    element, species = np.nonzero(weights)
    n_entries = np.zeros(len(CHEMICAL_SYMBOLS), dtype=np.int64)
    np.add.at(n_entries, numbers[element], 1)
    return {
        "species_offsets": np.concatenate([[0], np.cumsum(n_entries)]),
        "species": np.ascontiguousarray(species),
        "species_weights": weights[element, species],
        "n_species": weights.shape[1],
        "n_repeats": int(n_entries.max()),
    }
