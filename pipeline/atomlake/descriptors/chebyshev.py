"""Chebyshev expansions of distances and angles, plain and weighted by species."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, FiniteFloat, field_validator, model_validator

from atomlake.descriptors.base import Citation, Descriptor, LabelColumn, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels import chebyshev as kernels
from atomlake.kernels.harmonics import recursion_coefficients
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures


class Chebyshev(Descriptor):
    """Distances and angles in Chebyshev polynomials T_n.

    With the cutoff function fc of the radial cutoff R and of the angular cutoff, and ``θ`` the
    angle between neighbours j and k:

    ===========  =====================================================
    ``radial``   Σ_j fc(r_j) T_n(2 r_j / R - 1), n = 0 ... radial_order
    ``angular``  Σ_{j<k} fc(r_j) fc(r_k) T_n(cos θ), n = 0 ... angular_order
    ===========  =====================================================

    Of several species, both stand a second time with neighbour j counted with the weight of
    its species, so that the number of features does not depend on the number of species:
    radial, angular, weighted radial, weighted angular. The paper writes these sums as expansion
    coefficients with dual functions; they are computed without, as aenet does.

    For M species by ascending atomic number the weights are -⌊M/2⌋, -⌊M/2⌋ + 1, ... without 0 where
    M is even: (-1, 1), (-1, 0, 1), (-2, -1, 1, 2). aenet deals out the same weights in the order
    in which its input lists the species: give ``weights`` to reproduce its numbers.
    """

    family: ClassVar[str] = "atom-centred functions"
    kind: ClassVar[str] = "chebyshev"
    title: ClassVar[str] = "Artrith–Urban–Ceder Chebyshev expansions of distances and angles"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Artrith, Urban & Ceder, Phys. Rev. B 96, 014112 (2017)",
            "10.1103/PhysRevB.96.014112",
        ),
    )
    body_order: ClassVar[str] = "2 (radial) and 3 (angular)"
    basis: ClassVar[str] = "Chebyshev polynomials of distances and of cos θ"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The set of aenet's example for TiO2.
        "aenet": {
            "radial_cutoff": 8.0,
            "radial_order": 16,
            "angular_cutoff": 6.5,
            "angular_order": 4,
        },
    }

    species: tuple[str, ...] = Field(
        min_length=1, description="Chemical symbols that may occur; sorted by atomic number."
    )
    radial_cutoff: float = Field(
        gt=0, description="Distance in Å beyond which neighbours do not count in radial functions."
    )
    radial_order: int = Field(ge=0, description="Largest n of the radial functions.")
    angular_cutoff: float = Field(
        gt=0, description="Distance in Å beyond which neighbours do not count in angular functions."
    )
    angular_order: int = Field(ge=0, description="Largest n of the angular functions.")
    cutoff_function: Cutoff = Field(
        default=Cutoff(), description="Function that takes neighbours smoothly to zero."
    )
    weights: dict[str, FiniteFloat] | None = Field(
        default=None,
        description="Weight of each species; dealt out by ascending atomic number if not given.",
    )

    @field_validator("cutoff_function", mode="after")
    @classmethod
    def _no_step(cls, function: Cutoff) -> Cutoff:
        if function.function == "step":
            raise ValueError(
                "Chebyshev expansions are continuous only with a cutoff function that goes to "
                "zero; use cosine or another in place of step"
            )
        return function

    @model_validator(mode="after")
    def _a_weight_for_each_species(self) -> Self:
        if self.weights is None:
            return self
        if len(self.species) == 1:
            raise ValueError(f"with {self.species[0]} alone nothing is weighted; leave out weights")
        if set(self.weights) != set(self.species):
            raise ValueError(
                f"weights must name the species {list(self.species)}, and they name "
                f"{list(self.weights)}"
            )
        return self

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        weights = {symbol: 0.5 + i**2 for i, symbol in enumerate(species)}
        return [
            cls.preset("aenet", species=species, radial_cutoff=5.0, angular_cutoff=4.0),
            cls(
                species=species,
                radial_cutoff=3.0,
                radial_order=1,
                angular_cutoff=4.5,
                angular_order=9,
                cutoff_function=Cutoff(function="poly2"),
                weights=weights if len(species) > 1 else None,
                average="outer",
            ),
        ]

    @property
    def cutoff(self) -> float:
        """The larger of the two cutoffs in Å."""
        return max(self.radial_cutoff, self.angular_cutoff)

    @property
    def n_features(self) -> int:
        """Radial and angular functions, twice where there are several species."""
        return len(self._channel_weights) * (self.radial_order + self.angular_order + 2)

    @property
    def _channel_weights(self) -> kernels.Floats:
        """Weight of each species in each block of features, shape (n_channels, n_species)."""
        m = len(self.species)
        plain = np.ones(m)
        if m == 1:
            return plain[None]
        if self.weights is None:
            steps = np.arange(-(m // 2), m // 2 + 1)
            weighted = steps if m % 2 else steps[steps != 0]
        else:
            weighted = np.array([self.weights[symbol] for symbol in self.species])
        return np.stack([plain, weighted])

    def label_columns(self) -> dict[str, LabelColumn]:
        """Say what each feature is.

        Returns
        -------
        dict of str to LabelColumn
            ``function`` (radial or angular), ``order`` n, and ``is_weighted``.
        """
        functions = [("radial", n) for n in range(self.radial_order + 1)]
        functions += [("angular", n) for n in range(self.angular_order + 1)]
        n_channels = len(self._channel_weights)
        columns = {
            "function": (
                np.tile([name for name, _ in functions], n_channels),
                "what is expanded: distances (radial) or angles (angular)",
            ),
            "order": (np.tile([n for _, n in functions], n_channels), "order of the polynomial"),
            "is_weighted": (
                np.repeat(np.arange(n_channels) == 1, len(functions)),
                "whether neighbours count with the weight of their species",
            ),
        }
        return {name: LabelColumn(values, "1", text) for name, (values, text) in columns.items()}

    def _environments(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int, rows: Rows
    ) -> None:
        function = self.cutoff_function
        weights = np.take(self._channel_weights, self.species_index(structures), axis=1)
        kernels.chebyshev(
            first,
            last,
            neighbours.pair_offsets,
            neighbours.neighbour_index,
            neighbours.vectors,
            neighbours.distances,
            weights,
            kernels.Envelope(function.code, function.parameter, self.radial_cutoff),
            kernels.Envelope(function.code, function.parameter, self.angular_cutoff),
            kernels.legendre_coefficients(self.angular_order),
            recursion_coefficients(self.angular_order),
            kernels.empty_workspace(
                neighbours.max_count,
                len(weights),
                self.radial_order + 1,
                self.angular_order + 1,
            ),
            *rows,
        )
