"""The spherical expansion: the coefficients of the neighbour density themselves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from atomlake.descriptors.base import Citation, LabelColumn
from atomlake.descriptors.correlations import DensityCorrelation, Order
from atomlake.descriptors.cutoffs import Cutoff


class SphericalExpansion(DensityCorrelation):
    """Expansion coefficients of one degree l: ``p[m; s, n] = c[s, n, l, m]``.

    The 2 l + 1 components of a feature rotate like real harmonics of degree l (m = -l … l: y, z, x
    for l = 1), and a reflection does to them what it does to these. Features are linear in the
    density, so those of its mean over a structure are their own mean, the outer average. The
    preset ``featomic`` gives featomic's numbers.
    """

    kind: ClassVar[str] = "spherical_expansion"
    title: ClassVar[str] = "Spherical expansion"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Bartók, Kondor & Csányi, Phys. Rev. B 87, 184115 (2013)", "10.1103/PhysRevB.87.184115"
        ),
        Citation("Musil et al., J. Chem. Phys. 154, 114109 (2021)", "10.1063/5.0044689"),
    )
    body_order: ClassVar[str] = "2"
    averages: ClassVar[tuple[str, ...]] = ("none", "outer")
    presets: ClassVar[dict[str, dict[str, Any]]] = {"featomic": {"radial_basis": "gto_monomial"}}

    degree: int = Field(default=1, ge=0, le=20, description="l, the degree of the features.")
    l_max: int = Field(
        default=1, ge=0, le=20, description="Largest degree of the harmonics; that of the features."
    )
    parity: Literal["proper"] = Field(
        default="proper",
        description="A reflection does nothing that it does not do to the harmonics.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_degree(cls, given: Any) -> Any:
        if isinstance(given, dict) and "degree" in given:
            if "l_max" in given and given["l_max"] != given["degree"]:
                raise ValueError(
                    f"l_max = {given['l_max']} is not the degree {given['degree']}; features of a "
                    "spherical expansion have one degree: leave l_max out"
                )
            return {**given, "l_max": given["degree"]}
        return given

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 3}
        return [
            cls(**small),
            cls.preset("featomic", **small, degree=2, dtype="float32"),
            cls(**small, degree=0, average="outer", cutoff_function=Cutoff(function="poly2")),
            cls(
                **small,
                degree=3,
                sigma=None,
                radial_basis="zernike",
                species_weights={s: (1.0, 0.5 + 0.5 * i) for i, s in enumerate(species)},
            ),
        ]

    @property
    def orders(self) -> tuple[Order, ...]:
        """One factor."""
        return (Order(1, self.n_max, self.l_max),)

    @property
    def prefactor(self) -> float:
        """Coupled to nothing, a coefficient is itself and not divided by √(2 l + 1)."""
        return float((2 * self.degree + 1) ** 0.5)

    def label_columns(self) -> dict[str, LabelColumn]:
        """Species (atomic number; -1, -2, ... if mixed), l and radial function of each feature."""
        columns = super().label_columns()
        return {"species": columns["species_1"], "l": columns["l_1"], "n": columns["n_1"]}
