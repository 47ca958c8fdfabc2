"""SOAP power spectrum: rotational invariants of the smoothed neighbour density."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from atomlake.descriptors.base import Citation, Gradients, LabelColumn, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.descriptors.density import (
    DensityDescriptor,
    RadialScaling,
    batch_pairs,
    exact_rows,
    expansion_parameters,
    in_double_precision,
    room,
)
from atomlake.kernels.expansion import empty_environment
from atomlake.kernels.lanes import n_padded
from atomlake.kernels.power_spectrum import (
    Layout,
    n_sums,
    power_spectrum,
    power_spectrum_of_mean,
)
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures

#: What the presets of DScribe have in common.
_DSCRIBE: dict[str, Any] = {
    "cutoff_function": {"function": "step"},
    "density": "unit_height",
    "prefactor": "rotation_integral",
    "layout": "triangle",
    "scale_off_diagonal": False,
}


class Soap(DensityDescriptor):
    """Smooth overlap of atomic positions: the power spectrum of the neighbour density.

    Every neighbour within ``cutoff`` is a Gaussian of width ``sigma``; the density of each
    species around an atom is expanded in ``n_max`` radial functions and in spherical harmonics
    up to degree ``l_max``:

        c[s, n, l, m] = Σ_j f(r_j) ∫ g(r - r_j) R_nl(r) Y_lm(r) dr

    The features are ``p = prefactor_l Σ_m c[s1, n1, l, m] c[s2, n2, l, m]``.

    With the defaults each feature is stored once and features that stand for two equal
    numbers carry √2, so that the dot product of two rows is the SOAP kernel: the square of
    the overlap of two environments, averaged over all rotations of one. The presets
    ``dscribe``, ``dscribe_polynomial`` and ``featomic`` give the numbers of these codes, in
    their order.

    With S species there are S (S + 1) / 2 pairs. ``compression`` keeps fewer of them, or pairs
    with the density of all elements, c̄ = Σ_s w_s c[s] (Darby et al. 2022); in place of elements'
    densities there may be a few mixed ones, with ``species_weights``:

    =============  ==========================================  ============================
    ``off``        pairs of all densities
    ``mu1nu1``     w_s c[s] with c̄                             S n² (l_max + 1) features
    ``crossover``  each density with itself                    S n (n + 1) / 2 (l_max + 1)
    ``mu2``        c̄ with itself                               n (n + 1) / 2 (l_max + 1)
    =============  ==========================================  ============================

    Gradients by strain take ``r`` to ``(1 + strain) r``: component ``[a, b]`` is
    ``Σ_j dp/dr_j,a · (r_j - r_i)_b``.
    """

    kind: ClassVar[str] = "soap"
    kernel_version: ClassVar[int] = 2
    title: ClassVar[str] = "SOAP power spectrum"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Bartók, Kondor & Csányi, Phys. Rev. B 87, 184115 (2013)", "10.1103/PhysRevB.87.184115"
        ),
        Citation("Musil et al., J. Chem. Phys. 154, 114109 (2021)", "10.1063/5.0044689"),
        Citation(
            "Darby, Kermode & Csányi, npj Comput. Mater. 8, 166 (2022)",
            "10.1038/s41524-022-00847-y",
        ),
    )
    body_order: ClassVar[str] = "3"
    averages: ClassVar[tuple[str, ...]] = ("none", "outer", "inner")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dscribe": {"radial_basis": "gto", **_DSCRIBE},
        "dscribe_polynomial": {"radial_basis": "polynomial", **_DSCRIBE},
        "featomic": {
            "radial_basis": "gto_monomial",
            "cutoff_function": {"function": "shifted_cosine", "width": 0.5},
            "density": "unit_norm",
            "prefactor": "coupling",
            "layout": "blocks",
            "scale_off_diagonal": True,
        },
    }

    prefactor: Literal["rotation_mean", "rotation_integral", "coupling"] = Field(
        default="rotation_mean",
        description="Weight of degree l: 1/√(2l + 1), so that the kernel is the mean over "
        "rotations; √(8π²/(2l + 1)), their integral; (-1)^l/√(2l + 1), the Clebsch–Gordan "
        "coefficient of coupling to zero.",
    )
    layout: Literal["triangle", "blocks"] = Field(
        default="triangle",
        description="Each pair of (species, n) once; or each pair of species once, "
        "with all n1 and n2.",
    )
    scale_off_diagonal: bool = Field(
        default=True, description="Whether a feature that stands for two equal ones carries √2."
    )
    compression: Literal["off", "mu1nu1", "crossover", "mu2"] = Field(
        default="off",
        description="Which densities are paired: all; each element's with that of all elements; "
        "each with itself; that of all elements with itself.",
    )

    @model_validator(mode="after")
    def _one_mixture(self) -> Self:
        if self.species_weights and self.compression in ("mu1nu1", "mu2"):
            n = len(self.species_weights[0][1])
            if n != 1:
                raise ValueError(
                    f"{self.compression} has one density of all elements and species_weights "
                    f"define {n}; give one weight for each element, or switch compression off"
                )
        return self

    @classmethod
    def preset(cls, name: str, /, **parameters: Any) -> Self:
        """Return the descriptor of a preset, with ``parameters`` added or put in its place.

        In the presets of DScribe ``cutoff`` is its ``r_cut``, the extent of the basis:
        DScribe sees neighbours as far beyond it as their Gaussians take to fall to 1e-3, and
        the descriptor's ``cutoff`` is set to that. ``n_max`` is the number of radial functions,
        featomic's ``max_radial + 1``.

        Raises
        ------
        ValueError
            If there is no such preset, or the parameters are not valid.
        """
        soap = super().preset(name, **parameters)
        if name.startswith("dscribe") and soap.basis_cutoff is None and soap.sigma is not None:
            tail = soap.sigma * np.sqrt(-2 * np.log(1e-3))
            seen = {"basis_cutoff": soap.cutoff, "cutoff": float(soap.cutoff + tail)}
            return soap.model_copy(update=seen)
        return soap

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        small: dict[str, Any] = {"species": species, "cutoff": 4.0, "n_max": 3, "l_max": 2}
        return [
            cls(**small),
            *(cls.preset(name, **small) for name in cls.presets),
            cls(**small, average="outer", cutoff_function=Cutoff(function="poly2")),
            cls(
                **small,
                average="inner",
                radial_basis="polynomial",
                radial_scaling=RadialScaling(),
                cutoff_function=Cutoff(function="cosine"),
            ),
            cls(
                **(small | {"n_max": 9}),
                sigma=0.4,
                dtype="float32",
                centre_weight=0.0,
                basis_cutoff=3.5,
            ),
            cls(**small, compression="mu1nu1", dtype="float32"),
            cls(**small, compression="mu1nu1", average="inner", layout="blocks"),
            cls(**small, compression="crossover"),
            cls(**small, compression="mu2"),
            cls(
                **small,
                species_weights={s: (1.0, 0.7 - 0.3 * i) for i, s in enumerate(species)},
            ),
        ]

    @property
    def n_features(self) -> int:
        """Number of features."""
        # Asked for every block of rows, so it is not counted each time.
        return _layout(self).n_features

    @property
    def densities(self) -> NDArray[np.float64]:
        """Weight of each element in each density that is expanded, (n_elements, n_densities)."""
        if self.compression in ("off", "crossover"):
            return super().densities
        n = len(self.species)
        mixed = np.ones((n, 1)) if self.species_weights is None else super().densities
        return mixed if self.compression == "mu2" else np.hstack([np.diag(mixed[:, 0]), mixed])

    @property
    def density_labels(self) -> NDArray[np.int32]:
        """Atomic number of each density; -1, -2, ... for mixed ones."""
        if self.compression in ("off", "crossover"):
            return super().density_labels
        mixed = np.array([-1], dtype=np.int32)
        return mixed if self.compression == "mu2" else np.append(self.species_numbers, mixed)

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; from the kernels' times on several systems."""
        n_coefficients = (self.l_max + 1) ** 2 * n_padded(self.n_max)
        features = 8e-10 * self.n_features
        seconds = 5e-7 + 1.6e-10 * n_coefficients * n_neighbours + features
        if gradients.positions != "none":
            # A neighbour takes part in the features of its own species alone; the rest of
            # its rows is only cleared.
            sizes = np.array(self._sizes) * (self.l_max + 1)
            is_equal = np.array([first == second for first, second in self._pairs])
            share = np.count_nonzero(self.densities) / self.densities.size
            own = share * sizes[is_equal].sum()
            mixed = 2 * share * sizes[~is_equal].sum()
            rows = 1e-9 * own + 4e-10 * mixed + 1.5e-10 * self.n_features
            if self.densities.shape[1] > 1 and (np.count_nonzero(self.densities, axis=1) > 1).any():
                # Rows of an element that counts as several densities are summed up.
                rows += 4e-10 * self.n_features * np.count_nonzero(self.densities, axis=1).max()
            if gradients.positions == "summed":
                rows += 1e-9 * self.n_features
            seconds += 3 * n_neighbours * rows
        if gradients.strain:
            seconds += 8e-10 * n_coefficients * n_neighbours + 12 * features
        return seconds

    def label_columns(self) -> dict[str, LabelColumn]:
        """Species (atomic number; -1, ... if mixed), radial functions and degree of features."""
        numbers = self.density_labels
        n = self.n_max
        all_pairs = np.divmod(np.arange(n * n), n)
        upper = np.triu_indices(n) if self.layout == "triangle" else all_pairs
        degrees = np.arange(self.l_max + 1)
        columns: list[list[NDArray[np.int64]]] = [[], [], [], [], []]
        for first, second in self._pairs:
            n1, n2 = upper if first == second else all_pairs
            size = len(degrees) * len(n1)
            block = (
                np.full(size, numbers[first]),
                np.full(size, numbers[second]),
                np.repeat(degrees, len(n1)),
                np.tile(n1, len(degrees)),
                np.tile(n2, len(degrees)),
            )
            for column, part in zip(columns, block, strict=True):
                column.append(part)
        names = ("species_1", "species_2", "l", "n_1", "n_2")
        return {
            name: LabelColumn(np.concatenate(column).astype(np.int32))
            for name, column in zip(names, columns, strict=True)
        }

    def _environments(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        held = np.full(len(rows.gradient_positions), -1)
        self._environments_again(structures, neighbours, first, last, rows, held)

    def _environments_again(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
        held: NDArray[np.int64],
    ) -> None:
        expansion, layout = expansion_parameters(self), _layout(self)
        # Atoms that count as several species have their rows summed up.
        row = np.empty((3, layout.n_features if expansion.n_repeats > 1 else 0))
        with exact_rows(expansion, rows) as exact:
            power_spectrum(
                expansion,
                layout,
                batch_pairs(structures, neighbours),
                first,
                last,
                room(expansion, neighbours, rows),
                np.empty(n_sums(expansion)),
                row,
                *exact,
                held,
            )

    def _inner_average(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        expansion = expansion_parameters(self)
        with in_double_precision(rows) as exact:
            power_spectrum_of_mean(
                expansion,
                _layout(self),
                batch_pairs(structures, neighbours),
                structures.structure_offsets,
                first,
                last,
                room(expansion, neighbours, rows),
                empty_environment(expansion, 0, False, len(rows.gradient_strain) > 0),
                np.empty(n_sums(expansion)),
                np.empty((3, self.n_features)),
                *exact,
            )

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        """Pairs of densities that have features, in their order."""
        n = len(self.density_labels)
        if self.compression == "crossover":
            return [(i, i) for i in range(n)]
        if self.compression == "mu1nu1":
            return [(i, n - 1) for i in range(n - 1)]
        return [(i, j) for i in range(n) for j in range(i, n)]

    @property
    def _sizes(self) -> list[int]:
        """Number of pairs n1, n2 of each of the pairs of densities."""
        n = self.n_max
        equal = n * (n + 1) // 2 if self.layout == "triangle" else n**2
        return [equal if first == second else n**2 for first, second in self._pairs]


@lru_cache(maxsize=64)
def _layout(soap: Soap) -> Layout:
    n_densities, n = len(soap.density_labels), soap.n_max
    offsets = np.full((n_densities, n_densities), -1)
    first, second = np.array(soap._pairs).T
    offsets[first, second] = (soap.l_max + 1) * np.cumsum([0, *soap._sizes[:-1]])
    is_triangle = soap.layout == "triangle"
    twice = np.sqrt(2) if soap.scale_off_diagonal else 1.0
    equal = np.zeros((n, n_padded(n)))
    equal[:, :n] = twice if is_triangle else 1.0
    np.fill_diagonal(equal, 1.0)
    l = np.arange(soap.l_max + 1)
    degree = {
        "rotation_mean": np.ones(len(l)),
        "rotation_integral": np.full(len(l), np.pi * np.sqrt(8)),
        "coupling": (-1.0) ** l,
    }[soap.prefactor] / np.sqrt(2 * l + 1)
    return Layout(
        n_features=(soap.l_max + 1) * sum(soap._sizes),
        block_offsets=offsets,
        is_triangle=is_triangle,
        weight_equal=equal,
        # With the density of all elements a pair of densities stands for itself.
        weight_unequal=1.0 if soap.compression == "mu1nu1" else float(twice),
        weight_degree=degree,
    )
