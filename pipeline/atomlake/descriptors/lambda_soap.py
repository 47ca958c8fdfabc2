"""λ-SOAP: equivariant products of two expansion coefficients."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from atomlake.descriptors.base import Citation
from atomlake.descriptors.correlations import DensityCorrelation, Order
from atomlake.descriptors.cutoffs import Cutoff


class LambdaSoap(DensityCorrelation):
    """Pairs of expansion coefficients, coupled to any degree λ.

        p[λ μ] = 1/√(2 λ + 1) Σ C[l1 m1 l2 m2 | λ μ] c[s1, n1, l1, m1] c[s2, n2, l2, m2]

    The 2 λ + 1 components of a feature rotate like real harmonics of degree λ (m = -λ … λ:
    y, z, x for λ = 1). A reflection multiplies them by ``(-1)^λ`` if ``l1 + l2 + λ`` is
    even (proper), by ``-(-1)^λ`` if it is odd (pseudo). Of two products that differ in the
    order of their factors one is kept, with the weight √2, so that dot products are those of
    the full set. λ = 0 is the power spectrum, with the sign ``(-1)^l`` of featomic. The preset
    ``featomic`` gives the numbers of its ``EquivariantPowerSpectrum``, without repetitions.
    """

    kind: ClassVar[str] = "lambda_soap"
    title: ClassVar[str] = "λ-SOAP, the equivariant power spectrum"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Grisafi, Wilkins, Csányi & Ceriotti, Phys. Rev. Lett. 120, 036002 (2018)",
            "10.1103/PhysRevLett.120.036002",
        ),
        Citation(
            "Willatt, Musil & Ceriotti, J. Chem. Phys. 150, 154110 (2019)", "10.1063/1.5090481"
        ),
    )
    body_order: ClassVar[str] = "3"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "featomic": {
            "radial_basis": "gto_monomial",
            "normalisation": "coupling",
            "scale_off_diagonal": False,
        }
    }

    degree: int = Field(default=1, ge=0, le=8, description="λ, the degree of the features.")
    n_max: int = Field(default=4, ge=1, le=32, description="Number of radial functions.")
    l_max: int = Field(default=4, ge=0, le=20, description="Largest degree of the harmonics.")
    parity: Literal["proper", "pseudo", "both"] = Field(
        default="both",
        description="Which features to keep: those with l1 + l2 + λ even (proper), odd (pseudo), "
        "or both.",
    )

    normalisation: Literal["rotation_mean", "coupling"] = Field(
        default="rotation_mean",
        description="1/√(2λ + 1), so that the length of the vector of components is that of the "
        "kernel's mean over rotations; or none, the bare Clebsch–Gordan coefficients.",
    )
    scale_off_diagonal: bool = Field(
        default=True, description="Whether a feature that stands for two equal ones carries √2."
    )

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 2, "l_max": 2}
        return [
            cls(**small),
            cls.preset("featomic", **small, degree=2, parity="proper"),
            cls(**small, degree=3, parity="pseudo", dtype="float32", centre_weight=0.0),
            cls(**small, degree=0, average="outer", cutoff_function=Cutoff(function="poly2")),
            cls(**small, average="inner"),
        ]

    @property
    def counts_orderings(self) -> bool:
        """As the option says."""
        return self.scale_off_diagonal

    @property
    def prefactor(self) -> float:
        """Trees are of norm 1; Clebsch–Gordan coefficients are of norm 1 for each component."""
        return self.n_components**0.5 if self.normalisation == "coupling" else 1.0

    @property
    def orders(self) -> tuple[Order, ...]:
        """Pairs of any of the coefficients."""
        return (Order(2, self.n_max, self.l_max),)
