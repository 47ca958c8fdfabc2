"""Atomic cluster expansion: invariant products of up to four expansion coefficients."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator

from atomlake.descriptors.base import Citation
from atomlake.descriptors.correlations import DensityCorrelation, Order
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.correlations import MAX_FACTORS


class Ace(DensityCorrelation):
    """Products of one to four expansion coefficients, coupled to invariants.

    With the defaults the density is one of points, and ``A[z, n, l, m] = Σ_j R_n(r_j) Y_lm`` with
    the exponential Chebyshev functions times a cosine cutoff.
    Order ν takes the first ``n_limits[ν - 1]`` radial functions and degrees up to
    ``l_limits[ν - 1]``, so that body order 5 stays affordable. Four factors are coupled in
    pairs: the first two to degree L (the label ``intermediate``), and with the third to the
    degree of the fourth. Where factors are equal only couplings that are independent are
    kept. Sums run over all neighbours for each factor alone, so products of a neighbour with
    itself are part of the basis.
    """

    kind: ClassVar[str] = "ace"
    title: ClassVar[str] = "Atomic cluster expansion"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation("Drautz, Phys. Rev. B 99, 014104 (2019)", "10.1103/PhysRevB.99.014104"),
        Citation("Dusson et al., J. Comput. Phys. 454, 110946 (2022)", "10.1016/j.jcp.2022.110946"),
    )
    body_order: ClassVar[str] = "2 to 5"

    n_max: int = Field(default=6, ge=1, le=32, description="Number of radial functions.")
    l_max: int = Field(default=4, ge=0, le=20, description="Largest degree of the harmonics.")
    sigma: float | None = Field(
        default=None, gt=0, description="Width of the Gaussians in Å; none for a density of points."
    )
    radial_basis: str = Field(
        default="chebyshev_exponential",
        description=DensityCorrelation.model_fields["radial_basis"].description,
        json_schema_extra=DensityCorrelation.model_fields["radial_basis"].json_schema_extra,
    )
    cutoff_function: Cutoff = Field(
        default=Cutoff(function="cosine"),
        description="How neighbours fade out towards the cutoff.",
    )
    centre_weight: float = Field(
        default=0.0, ge=0, description="Weight of the centre's own density."
    )
    n_limits: tuple[int, ...] = Field(
        default=(6, 4, 2, 1),
        min_length=1,
        max_length=MAX_FACTORS,
        description="Number of radial functions in products of one, two, three and four factors; "
        "as many orders as there are numbers.",
    )
    l_limits: tuple[int, ...] = Field(
        default=(0, 4, 3, 2),
        min_length=1,
        max_length=MAX_FACTORS,
        description="Largest degree in products of one, two, three and four factors.",
    )

    @field_validator("l_limits", mode="after")
    @classmethod
    def _within_the_expansion(
        cls, l_limits: tuple[int, ...], others: ValidationInfo
    ) -> tuple[int, ...]:
        if not {"n_max", "l_max", "n_limits"} <= others.data.keys():
            return l_limits
        n_max, l_max, n_limits = (others.data[name] for name in ("n_max", "l_max", "n_limits"))
        if len(n_limits) != len(l_limits):
            raise ValueError(
                f"n_limits has {len(n_limits)} orders and l_limits {len(l_limits)}; "
                "give one number for each order in both"
            )
        if min(n_limits) < 1 or max(n_limits) > n_max:
            raise ValueError(
                f"n_limits must be between 1 and n_max = {n_max}, not {n_limits}; "
                "raise n_max or lower them"
            )
        if min(l_limits) < 0 or max(l_limits) > l_max:
            raise ValueError(
                f"l_limits must be between 0 and l_max = {l_max}, not {l_limits}; "
                "raise l_max or lower them"
            )
        return l_limits

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 2, "l_max": 2}
        return [
            cls(**small, n_limits=(2, 2, 1, 1), l_limits=(0, 2, 2, 1)),
            cls(
                **small,
                parity="both",
                sigma=0.5,
                radial_basis="gto",
                n_limits=(2, 1, 1),
                l_limits=(0, 1, 2),
                dtype="float32",
                average="outer",
                cutoff_function=Cutoff(function="poly2"),
                centre_weight=1.0,
            ),
            cls(
                **small,
                n_limits=(2, 1, 1, 1),
                l_limits=(0, 2, 1, 1),
                average="inner",
                species_weights={s: (1.0, 0.5 + 0.5 * i) for i, s in enumerate(species)},
            ),
        ]

    @property
    def degree(self) -> int:
        """Invariants have degree 0."""
        return 0

    @property
    def counts_orderings(self) -> bool:
        """Products carry no weights."""
        return False

    @property
    def orders(self) -> tuple[Order, ...]:
        """One for each of the limits."""
        limits = zip(self.n_limits, self.l_limits, strict=True)
        return tuple(Order(v + 1, n_max, l_max) for v, (n_max, l_max) in enumerate(limits))
