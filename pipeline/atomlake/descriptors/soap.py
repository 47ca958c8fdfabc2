"""SOAP power spectrum: rotational invariants of the smoothed neighbour density."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from atomlake.descriptors.base import Citation, Gradients, Rows
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.descriptors.density import (
    DensityDescriptor,
    RadialScaling,
    batch_pairs,
    expansion_parameters,
    room,
)
from atomlake.kernels.expansion import empty_environment
from atomlake.kernels.lanes import n_padded
from atomlake.kernels.power_spectrum import Layout, power_spectrum, power_spectrum_of_mean
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

    Gradients by strain take ``r`` to ``(1 + strain) r``: component ``[a, b]`` is
    ``Σ_j dp/dr_j,a · (r_j - r_i)_b``.
    """

    kind: ClassVar[str] = "soap"
    title: ClassVar[str] = "SOAP power spectrum"
    citations: ClassVar[tuple[Citation, ...]] = (
        Citation(
            "Bartók, Kondor & Csányi, Phys. Rev. B 87, 184115 (2013)", "10.1103/PhysRevB.87.184115"
        ),
        Citation("Musil et al., J. Chem. Phys. 154, 114109 (2021)", "10.1063/5.0044689"),
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
        ]

    @property
    def n_features(self) -> int:
        """Number of features."""
        n_species = len(self.species)
        unequal = n_species * (n_species - 1) // 2 * self.n_max**2
        return (self.l_max + 1) * (unequal + n_species * self._n_equal)

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; from the kernels' times on several systems."""
        n_coefficients = (self.l_max + 1) ** 2 * n_padded(self.n_max)
        features = 8e-10 * self.n_features
        seconds = 5e-7 + 1.6e-10 * n_coefficients * n_neighbours + features
        if gradients.positions != "none":
            # A neighbour takes part in the features of its own species alone; the rest of
            # its rows is only cleared.
            own = (self.l_max + 1) * self._n_equal
            mixed = (self.l_max + 1) * self.n_max**2 * (len(self.species) - 1)
            rows = 1e-9 * own + 4e-10 * mixed + 1.5e-10 * self.n_features
            if gradients.positions == "summed":
                rows += 1e-9 * self.n_features
            seconds += 3 * n_neighbours * rows
        if gradients.strain:
            seconds += 8e-10 * n_coefficients * n_neighbours + 12 * features
        return seconds

    def labels(self) -> xr.Dataset:
        """Species (atomic numbers), radial functions and degree of each feature."""
        numbers = self.species_numbers
        n = self.n_max
        all_pairs = np.divmod(np.arange(n * n), n)
        upper = np.triu_indices(n) if self.layout == "triangle" else all_pairs
        degrees = np.arange(self.l_max + 1)
        columns: list[list[NDArray[np.int64]]] = [[], [], [], [], []]
        for i, first in enumerate(numbers):
            for second in numbers[i:]:
                n1, n2 = upper if first == second else all_pairs
                size = len(degrees) * len(n1)
                block = (
                    np.full(size, first),
                    np.full(size, second),
                    np.repeat(degrees, len(n1)),
                    np.tile(n1, len(degrees)),
                    np.tile(n2, len(degrees)),
                )
                for column, part in zip(columns, block, strict=True):
                    column.append(part)
        names = ("species_1", "species_2", "l", "n_1", "n_2")
        return xr.Dataset(
            coords={
                name: ("feature", np.concatenate(column).astype(np.int32))
                for name, column in zip(names, columns, strict=True)
            }
        )

    def _environments(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        expansion = expansion_parameters(self)
        power_spectrum(
            expansion,
            _layout(self),
            batch_pairs(structures, neighbours),
            first,
            last,
            room(expansion, neighbours, first, last, rows),
            np.empty(6 * expansion.n_padded),
            *rows,
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
        first_atom, last_atom = structures.structure_offsets[[first, last]].tolist()
        exact = Rows(*(np.empty(array.shape) for array in rows))
        power_spectrum_of_mean(
            expansion,
            _layout(self),
            batch_pairs(structures, neighbours),
            structures.structure_offsets,
            first,
            last,
            room(expansion, neighbours, first_atom, last_atom, rows),
            empty_environment(expansion, 0, False, len(rows.gradient_strain) > 0),
            np.empty(6 * expansion.n_padded),
            np.empty((3, self.n_features)),
            *exact,
        )
        for array, value in zip(rows, exact, strict=True):
            array[...] = value

    @property
    def _n_equal(self) -> int:
        """Pairs n1, n2 of one species."""
        return self.n_max * (self.n_max + 1) // 2 if self.layout == "triangle" else self.n_max**2


@lru_cache(maxsize=64)
def _layout(soap: Soap) -> Layout:
    n_species, n = len(soap.species), soap.n_max
    sizes = np.full((n_species, n_species), n * n)
    np.fill_diagonal(sizes, soap._n_equal)
    upper = np.triu_indices(n_species)
    ends = (soap.l_max + 1) * np.cumsum(sizes[upper])
    offsets = np.zeros((n_species, n_species), dtype=np.int64)
    offsets[upper] = ends - (soap.l_max + 1) * sizes[upper]
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
        n_features=soap.n_features,
        block_offsets=offsets,
        is_triangle=is_triangle,
        weight_equal=equal,
        weight_unequal=float(twice),
        weight_degree=degree,
    )
