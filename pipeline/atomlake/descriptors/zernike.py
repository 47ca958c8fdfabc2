"""Zernike descriptors: norms of the expansion in three-dimensional Zernike polynomials."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from atomlake.descriptors.base import Citation, Gradients, LabelColumn
from atomlake.descriptors.correlations import Block, CoupledProducts, assemble
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.descriptors.density import SpeciesWeights, elements_as_species, weight_matrix
from atomlake.descriptors.radial import radial_table
from atomlake.kernels.correlations import Couplings
from atomlake.kernels.expansion import Expansion
from atomlake.kernels.harmonics import recursion_coefficients
from atomlake.kernels.lanes import n_padded
from atomlake.structures import CHEMICAL_SYMBOLS


class Zernike(CoupledProducts):
    """Norms of the neighbour density's Zernike moments.

    With ``ρ = r / cutoff`` and the cutoff function fc,

        c[s, n, l, m] = Σ_j w_j fc(r_j) R_nl(ρ_j) Y_lm(r_j),   p[s, n, l] = Σ_m c[s, n, l, m]²

    for ``n <= n_max`` and ``l = n, n - 2, …``, where

        R_nl(ρ) = √(2n + 3) Σ_k (-1)^k C(q, k) C(n - k + ½, q) ρ^(n - 2k),   q = (n - l) / 2.

    Each species has its moments, and all w are 1; or, with ``species_weights``, all elements
    share one density or several. Features are ordered by density, n, l. The preset ``amp`` gives
    AMP's numbers: one density weighted by atomic numbers.
    """

    family: ClassVar[str] = "density correlations"
    kind: ClassVar[str] = "zernike"
    title: ClassVar[str] = "Zernike descriptors"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Khorshidi & Peterson, Comput. Phys. Commun. 207, 310 (2016)",
            "10.1016/j.cpc.2016.05.010",
        ),
        Citation(
            "Novotni & Klein, Comput.-Aided Des. 36, 1047 (2004)", "10.1016/j.cad.2004.01.005"
        ),
    )
    body_order: ClassVar[str] = "3"
    basis: ClassVar[str] = "Zernike polynomials and spherical harmonics"
    averages: ClassVar[tuple[str, ...]] = ("none", "outer", "inner")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "amp": {
            "cutoff": 6.5,
            "n_max": 5,
            "cutoff_function": "cosine",
            "species_weights": "atomic_number",
        }
    }

    cutoff: float = Field(
        default=6.5, gt=0, description="Distance in Å beyond which neighbours are not seen."
    )
    n_max: int = Field(default=5, ge=0, le=20, description="Largest degree of the polynomials.")
    cutoff_function: Cutoff = Field(
        default=Cutoff(), description="How neighbours fade out towards the cutoff."
    )
    species_weights: Literal["atomic_number"] | SpeciesWeights | None = Field(
        default=None,
        description="Weights of each element in one or several mixed densities, which take the "
        "place of the elements' own; or every atom's atomic number, in one.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.cutoff_function.width or 0) > self.cutoff:
            raise ValueError(
                f"the cutoff function's width of {self.cutoff_function.width} Å is larger than the "
                f"cutoff of {self.cutoff} Å; use a smaller width"
            )
        if self.species is None and self.species_weights != "atomic_number":
            raise ValueError(
                "give the species, or species_weights = 'atomic_number' for any species"
            )
        self._densities  # noqa: B018
        return self

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        by_two = {symbol: (1.0, 0.5 - 0.4 * i) for i, symbol in enumerate(species)}
        return [
            cls(species=species, cutoff=4.0),
            cls.preset("amp", cutoff=4.5, cutoff_function="amp_polynomial", average="outer"),
            cls.preset("amp", species=species, cutoff=4.0, n_max=3),
            cls(species=species, cutoff=4.0, n_max=4, species_weights=by_two, dtype="float32"),
            cls(species=species, cutoff=4.0, average="inner"),
            cls(species=species, cutoff=4.0, n_max=3, species_weights=by_two, average="inner"),
        ]

    @property
    def is_continuous(self) -> bool:
        """Whether features change continuously as an atom crosses the cutoff."""
        return self.cutoff_function.function != "step"

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self._density_labels) * len(_degrees(self.n_max))

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; from the kernels' times on several systems."""
        n_coefficients = 8 * (self.n_max + 1) ** 2
        seconds = 1e-6 + 4e-10 * n_coefficients * n_neighbours
        n_adjoints = self.n_features * (self.n_max + 1)
        if gradients.positions != "none":
            seconds += 1e-9 * n_coefficients * n_neighbours
            # Adjoints meet every pair, or, those of a mean, every atom once for each density.
            n_moves = len(self._density_labels) if self.average == "inner" else n_neighbours
            seconds += 6e-10 * 3 * n_moves * (n_adjoints + self.n_features)
        if gradients.strain:
            seconds += 6e-9 * n_adjoints + 1e-9 * n_coefficients * n_neighbours
        return seconds

    def label_columns(self) -> dict[str, LabelColumn]:
        """Density (atomic number; -1, -2, ... if mixed), n and l of each feature."""
        n, l = np.array(_degrees(self.n_max)).T
        densities = self._density_labels
        columns = {
            "species": np.repeat(densities, len(n)),
            "n": np.tile(n, len(densities)),
            "l": np.tile(l, len(densities)),
        }
        return {name: LabelColumn(column.astype(np.int32)) for name, column in columns.items()}

    @property
    def _numbers(self) -> NDArray[np.int32]:
        """Atomic numbers of the rows of :attr:`_densities`."""
        if self.species is None:
            return np.arange(1, len(CHEMICAL_SYMBOLS), dtype=np.int32)
        return self.species_numbers

    @property
    def _densities(self) -> NDArray[np.float64]:
        """Weight of each element in each density, shape (n_elements, n_densities)."""
        if self.species_weights == "atomic_number":
            return self._numbers[:, None].astype(float)
        if self.species is None or self.species_weights is None:
            return np.eye(len(self._numbers))
        return weight_matrix(self.species_weights, self.species)

    @property
    def _density_labels(self) -> NDArray[np.int32]:
        if self.species_weights is None:
            return self.species_numbers
        return -1 - np.arange(self._densities.shape[1], dtype=np.int32)

    @property
    def _expansion(self) -> Expansion:
        return _expansion(self)

    @property
    def _couplings(self) -> Couplings:
        return _couplings(self)


def _degrees(n_max: int) -> list[tuple[int, int]]:
    """All n and l, in the order of the features."""
    return [(n, l) for n in range(n_max + 1) for l in range(n % 2, n + 1, 2)]


@lru_cache(maxsize=64)
def _expansion(zernike: Zernike) -> Expansion:
    # Radial function k of degree l is R_nl with n = l + 2k.
    n_radial = zernike.n_max // 2 + 1
    table = radial_table(
        "zernike", n_radial, zernike.n_max, zernike.cutoff, None, None, zernike.cutoff
    )
    return Expansion(
        n_max=n_radial,
        l_max=zernike.n_max,
        n_padded=n_padded(n_radial),
        # The table's functions are orthonormal in r, not in ρ.
        table=zernike.cutoff**1.5 * table.values,
        n_nodes=len(table.values),
        spacing=table.spacing,
        recursion=recursion_coefficients(zernike.n_max),
        cutoff=zernike.cutoff,
        cutoff_code=zernike.cutoff_function.code,
        cutoff_parameter=zernike.cutoff_function.parameter,
        scaling_rate=1.0,
        scaling_scale=1.0,
        scaling_exponent=0.0,
        centre_weight=0.0,
        **elements_as_species(zernike._numbers, zernike._densities),
    )


@lru_cache(maxsize=64)
def _couplings(zernike: Zernike) -> Couplings:
    """Squares, summed over m: a coupling for each degree."""
    n, l = np.array(_degrees(zernike.n_max)).T
    n_radial = zernike.n_max // 2 + 1
    n_densities = len(zernike._density_labels)
    blocks = []
    for degree in range(zernike.n_max + 1):
        found = np.flatnonzero(l == degree)
        density, place = np.divmod(np.arange(n_densities * len(found)), len(found))
        channels = density * n_radial + (n[found[place]] - degree) // 2
        features = density * len(n) + found[place]
        squares = np.eye(2 * degree + 1)[None]
        two = np.stack([channels, channels], axis=1)
        blocks.append(Block((degree, degree), (2,), two, features, [squares]))
    return assemble(blocks, n_densities * n_radial, zernike.n_max, 0)
