"""The radial spectrum: how many neighbours of each species are at which distance."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from atomlake.descriptors.base import Citation, LabelColumn
from atomlake.descriptors.correlations import DensityCorrelation, Order
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.descriptors.density import RadialScaling


class RadialSpectrum(DensityCorrelation):
    """Expansion coefficients of degree 0: ``p[s, n] = c[s, n, 0, 0]``.

    The neighbour density, averaged over all directions: invariant by itself. Features are linear
    in the density, so those of its mean over a structure are their own mean, the outer average.
    The preset ``featomic`` gives featomic's numbers.
    """

    kind: ClassVar[str] = "radial_spectrum"
    title: ClassVar[str] = "Radial spectrum"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Willatt, Musil & Ceriotti, J. Chem. Phys. 150, 154110 (2019)", "10.1063/1.5090481"
        ),
        Citation("Musil et al., J. Chem. Phys. 154, 114109 (2021)", "10.1063/5.0044689"),
    )
    body_order: ClassVar[str] = "2"
    averages: ClassVar[tuple[str, ...]] = ("none", "outer")
    presets: ClassVar[dict[str, dict[str, Any]]] = {"featomic": {"radial_basis": "gto_monomial"}}

    l_max: Literal[0] = Field(default=0, description="Largest degree of the harmonics.")
    parity: Literal["proper"] = Field(
        default="proper", description="A reflection changes no feature."
    )

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 3}
        points: dict[str, Any] = {**small, "sigma": None, "centre_weight": 0.0}
        return [
            cls(**small),
            cls.preset("featomic", **small, average="outer", dtype="float32"),
            cls(**small, radial_basis="dvr", radial_scaling=RadialScaling()),
            cls(**small, radial_basis="laplacian_eigenstates", basis_cutoff=3.5),
            cls(**points, radial_basis="chebyshev_power", cutoff_function=Cutoff(function="step")),
            cls(
                **points,
                radial_basis="chebyshev_exponential",
                radial_decay=3.0,
                cutoff_function=Cutoff(function="cosine"),
                species_weights={s: (1.0, 0.5 + 0.5 * i) for i, s in enumerate(species)},
            ),
        ]

    @property
    def degree(self) -> int:
        """Invariants have degree 0."""
        return 0

    @property
    def orders(self) -> tuple[Order, ...]:
        """One factor."""
        return (Order(1, self.n_max, 0),)

    def label_columns(self) -> dict[str, LabelColumn]:
        """Species (atomic number; -1, -2, ... if mixed) and radial function of each feature."""
        columns = super().label_columns()
        return {"species": columns["species_1"], "n": columns["n_1"]}
