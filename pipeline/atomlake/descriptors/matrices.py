"""Coulomb, sine and Ewald sum matrices: a whole structure as one matrix over its atoms.

Every matrix is padded with zeros to ``n_atoms_max`` rows and flattened: to its eigenvalues
by descending magnitude, or to its rows. Units are those of distances in Å and charges in
elementary charges.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from atomlake.descriptors.base import Array, Citation, Descriptor, Gradients, LabelColumn, Rows
from atomlake.errors import SetAside
from atomlake.kernels import matrices
from atomlake.neighbours import Neighbours
from atomlake.structures import Structures

_RUPP = Citation(
    "Rupp, Tkatchenko, Müller, von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012)",
    "10.1103/PhysRevLett.108.058301",
)
_FABER = Citation(
    "Faber, Lindmaa, von Lilienfeld, Armiento, Int. J. Quantum Chem. 115, 1094 (2015)",
    "10.1002/qua.24917",
)

_FORMS = {
    "none": matrices.LISTED,
    "sorted_l2": matrices.SORTED,
    "eigenspectrum": matrices.EIGENVALUES,
}


class _Matrix(Descriptor):
    family: ClassVar[str] = "matrices of whole structures"
    native_rows: ClassVar[Literal["atom", "structure"]] = "structure"
    averages: ClassVar[tuple[str, ...]] = ("none",)
    body_order: ClassVar[str] = "2 (rows), all atoms (eigenvalues)"
    differentiable_except: ClassVar[str] = (
        "where two eigenvalues have the same magnitude, or two rows the same norm, because their "
        "order changes there; equal eigenvalues share the mean of their derivatives, the others "
        "have the derivative on one side"
    )

    #: Which matrix, in the terms of :mod:`atomlake.kernels.matrices`.
    matrix: ClassVar[int]

    n_atoms_max: int = Field(
        ge=1, description="Rows of the matrix; structures with more atoms are set aside."
    )
    permutation: Literal["eigenspectrum", "sorted_l2", "none"] = Field(
        default="eigenspectrum",
        description="eigenspectrum: eigenvalues by descending magnitude. sorted_l2: rows and "
        "columns by descending norm; atoms of equal norm keep the order in which they are "
        "listed. none: rows and columns in the order in which atoms are listed, which the "
        "features then depend on.",
    )

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        return [
            cls(species=species, n_atoms_max=8),
            cls(n_atoms_max=9, permutation="none"),
            cls.preset("dscribe", n_atoms_max=10),
        ]

    @property
    def cutoff(self) -> float:
        """0: the matrix runs over all atoms and needs no neighbours."""
        return 0.0

    @property
    def n_features(self) -> int:
        """``n_atoms_max`` eigenvalues, or as many rows of as many columns."""
        return self.n_atoms_max if self.permutation == "eigenspectrum" else self.n_atoms_max**2

    @property
    def symmetries(self) -> frozenset[str]:
        """All but permutation, where rows stand in the order of the atoms."""
        return super().symmetries - ({"permutation"} if self.permutation == "none" else set())

    def label_columns(self) -> dict[str, LabelColumn]:
        """Return the rank of each eigenvalue, or the row and column of each element, from 0."""
        feature = np.arange(self.n_features)
        if self.permutation == "eigenspectrum":
            columns = {"eigenvalue": (feature, "rank of the eigenvalue by magnitude")}
        else:
            rank = "place of the atom in the structure"
            if self.permutation == "sorted_l2":
                rank = "rank of the atom by the norm of its row"
            columns = {
                "row": (feature // self.n_atoms_max, rank),
                "column": (feature % self.n_atoms_max, rank),
            }
        return {name: LabelColumn(values, "1", text) for name, (values, text) in columns.items()}

    def check(self, structures: Structures) -> list[SetAside | None]:
        """Refuse too many atoms, and periodicity that the matrix cannot take."""
        result = super().check(structures)
        for s, n_atoms in enumerate(structures.n_atoms_per_structure):
            if result[s] is None and n_atoms > self.n_atoms_max:
                result[s] = SetAside(
                    "too_many_atoms",
                    f"{self.kind} is set up for at most {self.n_atoms_max} atoms and the "
                    f"structure has {n_atoms}; raise n_atoms_max",
                )
            elif result[s] is None:
                result[s] = self._check_periodicity(structures.pbc[s].tolist())
        return result

    def _check_periodicity(self, periodic: list[bool]) -> SetAside | None:
        """Say why this periodicity along the cell vectors will not do, or None."""
        if all(periodic):
            return None
        return SetAside(
            "not_periodic",
            f"{self.kind} needs structures that are periodic along all three cell vectors, but "
            f"pbc is {periodic}; use coulomb_matrix for molecules",
        )

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom of a structure of ``n_atoms_max`` atoms."""
        per_pair = 4e-8 + 1.3e-7 * gradients.any
        return 1e-6 + per_pair * self.n_atoms_max + 1e-9 * gradients.any * self.n_features

    def scratch_nbytes(self, n_atoms: Array, n_neighbours: Array, gradients: Gradients) -> Array:
        """Bytes of the matrix, what solves for its eigenvalues, and its derivatives."""
        values = 24 + (24 * (gradients.positions != "none") + 48 * gradients.strain)
        values += 32 * gradients.any  # eigenvectors
        return values * np.minimum(n_atoms, self.n_atoms_max) ** 2

    def _whole_structures(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        matrices.structure_matrices(
            self.matrix,
            _FORMS[self.permutation],
            first,
            last,
            structures.structure_offsets,
            structures.numbers,
            structures.positions,
            structures.cells,
            self._ewald,
            self.n_atoms_max,
            rows.features,
            rows.gradient_positions,
            rows.gradient_strain,
        )

    @property
    def _ewald(self) -> matrices.Ewald:
        return matrices.Ewald(0.0, 0.0, 0.0, 0.0)


class CoulombMatrix(_Matrix):
    """Nuclear repulsion ``Z_i Z_j / |r_i - r_j|``, with ``½ Z_i^2.4`` on the diagonal.

    The matrix of a molecule. It knows no periodic images: of a crystal it would describe
    the one cell that happens to be listed, so periodic structures are set aside unless
    ``ignore_periodicity`` says otherwise.
    """

    kind: ClassVar[str] = "coulomb_matrix"
    title: ClassVar[str] = "Coulomb matrix of a molecule"
    citations: ClassVar[tuple[Citation, ...]] = (_RUPP,)
    basis: ClassVar[str] = "nuclear repulsion of all pairs"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dscribe": {"permutation": "sorted_l2", "ignore_periodicity": True}
    }
    matrix: ClassVar[int] = matrices.COULOMB

    ignore_periodicity: bool = Field(
        default=False,
        description="Take the atoms of periodic structures where they are listed, with no "
        "images; they are set aside otherwise.",
    )

    @property
    def symmetries(self) -> frozenset[str]:
        """As of every matrix; with periodicity ignored, not the choice of cell."""
        return super().symmetries - ({"cell"} if self.ignore_periodicity else set())

    def _check_periodicity(self, periodic: list[bool]) -> SetAside | None:
        if self.ignore_periodicity or not any(periodic):
            return None
        return SetAside(
            "periodic",
            f"{self.kind} knows no periodic images, but pbc is {periodic}; use sine_matrix or "
            "ewald_matrix, or set ignore_periodicity to take the atoms where they are listed",
        )


class SineMatrix(_Matrix):
    """Coulomb matrix with a distance that has the period of the cell.

    The distance of two atoms is the length of ``Σ_a sin²(π f_a) h_a`` with the cell vectors
    ``h_a`` and the fractional coordinates ``f`` of their difference; the diagonal is
    ``½ Z_i^2.4``. The value depends on which cell vectors describe the lattice.
    """

    kind: ClassVar[str] = "sine_matrix"
    title: ClassVar[str] = "Sine matrix of a crystal"
    citations: ClassVar[tuple[Citation, ...]] = (_FABER,)
    basis: ClassVar[str] = "repulsion over a periodic distance of all pairs"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"dscribe": {"permutation": "sorted_l2"}}
    matrix: ClassVar[int] = matrices.SINE

    @property
    def symmetries(self) -> frozenset[str]:
        """As of every matrix, but the distance depends on the cell vectors."""
        return super().symmetries - {"cell"}


class EwaldMatrix(_Matrix):
    """Coulomb energy of each pair of atoms and all their images, by Ewald summation.

    A uniform background makes the cell neutral. Half of an atom's interaction with its
    own images stands on the diagonal, so that the energy of the bare nuclei is the sum over
    the upper triangle with the diagonal. The sum does not depend on the screening, except
    for the terms beyond the cutoffs: these have ``accuracy`` as their relative size, and the
    features jump by as much where a lattice vector crosses a cutoff.
    """

    kind: ClassVar[str] = "ewald_matrix"
    title: ClassVar[str] = "Ewald sum matrix of a crystal"
    citations: ClassVar[tuple[Citation, ...]] = (
        _FABER,
        Citation("Jackson & Catlow, Mol. Simul. 1, 207 (1988)", "10.1080/08927022.2013.840898"),
    )
    basis: ClassVar[str] = "Coulomb energy of all pairs of sublattices"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dscribe": {"permutation": "sorted_l2", "accuracy": 1e-5}
    }
    matrix: ClassVar[int] = matrices.EWALD

    accuracy: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Relative size of the terms left out, which sets the cutoffs of each "
        "structure that are not given.",
    )
    screening: float | None = Field(
        default=None,
        gt=0,
        description="Inverse width a of the Gaussian charges in 1/Å; √π (n_atoms / volume²)^(1/6) "
        "of each structure if not given.",
    )
    real_cutoff: float | None = Field(
        default=None,
        gt=0,
        description="Cutoff of the sum over images in Å; √(-ln accuracy) / a if not given.",
    )
    reciprocal_cutoff: float | None = Field(
        default=None,
        gt=0,
        description="Cutoff of the sum over reciprocal lattice vectors in 1/Å; "
        "2 a √(-ln accuracy) if not given.",
    )

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option."""
        # So accurate that jumps at the cutoffs are below rounding.
        parameters: dict[str, Any] = {"n_atoms_max": 8, "accuracy": 1e-15}
        cutoffs = {"screening": 0.9, "real_cutoff": 6.5, "reciprocal_cutoff": 10.6}
        return [
            cls(species=species, **parameters),
            cls(permutation="none", **parameters),
            cls.preset("dscribe", **parameters, **cutoffs),
        ]

    @model_validator(mode="after")
    def _both_cutoffs(self) -> Self:
        if (self.real_cutoff is None) != (self.reciprocal_cutoff is None):
            raise ValueError("give both real_cutoff and reciprocal_cutoff, or neither")
        return self

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom of a structure of ``n_atoms_max`` atoms."""
        return 4 * super().cost(n_neighbours, gradients)

    @property
    def _ewald(self) -> matrices.Ewald:
        return matrices.Ewald(
            self.accuracy,
            self.screening or 0.0,
            self.real_cutoff or 0.0,
            self.reciprocal_cutoff or 0.0,
        )
