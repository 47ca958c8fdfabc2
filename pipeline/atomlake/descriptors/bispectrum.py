"""Bispectrum of the neighbour density: products of three expansion coefficients."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field

from atomlake.descriptors.base import Citation
from atomlake.descriptors.correlations import DensityCorrelation, Order
from atomlake.descriptors.cutoffs import Cutoff


class Bispectrum(DensityCorrelation):
    """Triples of expansion coefficients, coupled to invariants.

        b = (-1)^l3/√(2 l3 + 1) Σ C[l1 m1 l2 m2 | l3 m3] c[s1, n1, l1, m1] c[s2, n2, l2, m2]
            c[s3, n3, l3, m3]

    Each triple of factors (l, s, n) is kept in one order, the ascending one, with the root of
    the number of its orders as weight, so that dot products are those of the full set. A
    reflection changes nothing where ``l1 + l2 + l3`` is even (proper) and the sign where it is
    odd (pseudo), which takes three different factors.
    """

    kind: ClassVar[str] = "bispectrum"
    title: ClassVar[str] = "Bispectrum of the neighbour density"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Bartók, Kondor & Csányi, Phys. Rev. B 87, 184115 (2013)", "10.1103/PhysRevB.87.184115"
        ),
        Citation(
            "Willatt, Musil & Ceriotti, J. Chem. Phys. 150, 154110 (2019)", "10.1063/1.5090481"
        ),
    )
    body_order: ClassVar[str] = "4"

    n_max: int = Field(default=4, ge=1, le=32, description="Number of radial functions.")
    l_max: int = Field(default=3, ge=0, le=20, description="Largest degree of the harmonics.")

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 1, "l_max": 2}
        return [
            cls(**small),
            cls(
                **small,
                parity="both",
                radial_basis="gto_monomial",
                average="outer",
                cutoff_function=Cutoff(function="poly2"),
                dtype="float32",
            ),
            cls(**small, parity="both", average="inner"),
        ]

    @property
    def degree(self) -> int:
        """Invariants have degree 0."""
        return 0

    @property
    def orders(self) -> tuple[Order, ...]:
        """Triples of any of the coefficients."""
        return (Order(3, self.n_max, self.l_max),)
