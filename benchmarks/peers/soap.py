"""SOAP: featomic, DScribe and QUIP."""

from __future__ import annotations

from functools import partial
from typing import Any

import ase
import dscribe.descriptors
import numpy as np
import quippy.descriptors
from featomic import SoapPowerSpectrum
from metatensor import Labels

from atomlake.descriptors import Soap
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

from .codes import N_COMPARED, Array, Atomlake, Code, Family, Impossible
from .structures import species_of

SIZE: dict[str, Any] = {"cutoff": 5.0, "n_max": 8, "l_max": 6, "sigma": 0.5}


def ours(structures: list[ase.Atoms], **parameters: Any) -> Atomlake:
    """Set up atomlake with its default conventions."""
    return Atomlake(Soap(species=species_of(structures), **SIZE, **parameters), structures)


def gradient_nbytes(structures: list[ase.Atoms], n_features: float) -> float:
    """Return the size of rows for all pairs of an atom and a neighbour, and of their features."""
    neighbours, _ = find_neighbours(Structures.from_ase(structures), SIZE["cutoff"])
    return 8 * 3 * float(neighbours.n_pairs + len(neighbours.counts)) * n_features


def featomic_expansion(cutoff: float, n_max: int, l_max: int, sigma: float) -> dict[str, Any]:
    """Return featomic's names and values of our parameters."""
    return {
        "cutoff": {"radius": cutoff, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        "density": {"type": "Gaussian", "width": sigma},
        "basis": {
            "type": "TensorProduct",
            "max_angular": l_max,
            "radial": {"type": "Gto", "max_radial": n_max - 1},
        },
    }


def featomic_structures(structures: list[ase.Atoms]) -> list[ase.Atoms]:
    """Return structures that featomic takes: a slab is a crystal with enough vacuum."""
    result = []
    for atoms in structures:
        copy = atoms.copy()
        if 0 < atoms.pbc.sum() < 3:
            z = atoms.positions[:, 2]
            if atoms.pbc.tolist() != [True, True, False]:
                raise Impossible("no partial periodicity")
            if atoms.cell[2, 2] - np.ptp(z) < 10.0:
                copy.cell[2] = [0.0, 0.0, np.ptp(z) + 10.0]
            copy.pbc = True
        result.append(copy)
    return result


class Featomic(Code):
    """featomic's power spectrum with splined radial integrals, its default."""

    name = "featomic"
    package = "featomic"
    quantities = ("features", "positions", "strain")
    # Its splines of radial integrals are right to 1e-8, their derivatives to less.
    tolerance = 1e-7
    gradient_tolerance = 1e-5

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(featomic_structures(structures))
        self.calculator = SoapPowerSpectrum(**featomic_expansion(**SIZE))
        self.species = species_of(structures)

    def compute(self, quantity: str) -> Any:
        """Compute blocks by species, the form in which featomic gives them."""
        gradients = [] if quantity == "features" else [quantity]
        return self.calculator.compute(self.structures, gradients=gradients)

    def nbytes(self, quantity: str) -> float:
        """Return the size of gradients: a block holds those by atoms of its two species."""
        if quantity == "features":
            return 0.0
        n_features = Soap(species=self.species, **SIZE, layout="blocks").n_features
        if quantity == "strain":
            return 8 * 9 * float(sum(map(len, self.structures))) * n_features
        part = min(1.0, 2 / len(self.species))
        return part * gradient_nbytes(self.structures, n_features)

    def twin(self, quantity: str) -> Code:
        """Return the preset of its name."""
        present = species_of(self.structures[:1])
        soap = Soap.preset("featomic", species=present, **SIZE)
        return Atomlake(soap, self.structures[:1])

    def numbers(self, quantity: str) -> Array:
        """Return dense rows in the order of atoms."""
        atoms = self.structures[0]
        gradients = [] if quantity == "features" else [quantity]
        n = len(atoms) if quantity == "features" else min(len(atoms), N_COMPARED)
        spectrum = self.calculator.compute(
            atoms, gradients=gradients, selected_samples=first_samples(n)
        )
        spectrum = spectrum.keys_to_samples("center_type")
        block = spectrum.keys_to_properties(["neighbor_1_type", "neighbor_2_type"]).block()
        centres = np.asarray(block.samples["atom"])
        if quantity == "features":
            return np.asarray(block.values)[np.argsort(centres)]
        gradient = block.gradient(quantity)
        rows = np.asarray(gradient.values)
        of_centre = centres[np.asarray(gradient.samples["sample"])]
        if quantity == "strain":
            return rows[np.argsort(of_centre)]
        dense = np.zeros((n, len(atoms), *rows.shape[1:]))
        np.add.at(dense, (of_centre, np.asarray(gradient.samples["atom"])), rows)
        return dense


def first_samples(n: int) -> Any:
    """Return featomic's name for the first atoms."""
    return Labels(["atom"], np.arange(n).reshape(-1, 1))


class Dscribe(Code):
    """DScribe's SOAP with Gaussian type orbitals."""

    name = "DScribe"
    package = "dscribe"
    quantities = ("features", "positions")
    remark = (
        "DScribe sees neighbours up to 1.9 Å beyond the cutoff; its gradients in crystals are "
        "finite differences."
    )
    # Ours are splined to 1e-8; its differences are of 1e-4 Å.
    tolerance = 1e-7
    gradient_tolerance = 1e-5

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.is_periodic = bool(structures[0].pbc.any())
        self.species = species_of(structures)
        self.soap = dscribe.descriptors.SOAP(
            r_cut=SIZE["cutoff"],
            n_max=SIZE["n_max"],
            l_max=SIZE["l_max"],
            sigma=SIZE["sigma"],
            species=self.species,
            periodic=self.is_periodic,
        )

    def compute(self, quantity: str) -> Any:
        """Compute structure by structure."""
        if quantity == "features":
            return [self.soap.create(atoms) for atoms in self.structures]
        for atoms in self.structures:
            self.soap.derivatives(atoms, attach=True)
        return None

    def nbytes(self, quantity: str) -> float:
        """Return the size of the dense array of derivatives of one structure."""
        n = max(map(len, self.structures))
        return (
            0.0 if quantity == "features" else 8.0 * n * n * 3 * self.soap.get_number_of_features()
        )

    def growth(self, quantity: str) -> float:
        """Derivatives are a dense matrix over atoms."""
        return 1.0 if quantity == "features" else 2.0

    def effort(self, quantity: str) -> float:
        """Two computations for each coordinate where differences are finite."""
        if quantity == "features" or not self.is_periodic:
            return 1.0
        return 6.0 * max(map(len, self.structures))

    def twin(self, quantity: str) -> Code:
        """Return the preset of its name."""
        soap = Soap.preset("dscribe", species=self.species, **SIZE)
        return Atomlake(soap, self.structures[:1])

    def numbers(self, quantity: str) -> Array:
        """Return what DScribe returns, which is dense."""
        atoms = self.structures[0]
        if quantity == "features":
            return np.asarray(self.soap.create(atoms))
        centres = list(range(min(len(atoms), N_COMPARED)))
        derivatives, _ = self.soap.derivatives(atoms, centers=centres, attach=True)
        return np.asarray(derivatives)


class Quip(Code):
    """QUIP's SOAP."""

    name = "QUIP"
    package = "quippy-ase"
    quantities = ("features", "positions")
    remark = "QUIP has radial functions of its own: its numbers are not compared."

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__([in_a_box(atoms, 2 * SIZE["cutoff"]) for atoms in structures])
        numbers = sorted({int(z) for atoms in structures for z in atoms.numbers})
        listed = " ".join(map(str, numbers))
        self.soap = quippy.descriptors.Descriptor(
            f"soap cutoff={SIZE['cutoff']} cutoff_transition_width=0.5 l_max={SIZE['l_max']} "
            f"n_max={SIZE['n_max']} atom_sigma={SIZE['sigma']} n_Z={len(numbers)} Z={{{listed}}} "
            f"n_species={len(numbers)} species_Z={{{listed}}}"
        )

    def compute(self, quantity: str) -> Any:
        """Compute structure by structure."""
        for atoms in self.structures:
            self.soap.calc(atoms, grad=quantity == "positions")

    def nbytes(self, quantity: str) -> float:
        """Return the size of gradients of the largest structure, and of a copy."""
        if quantity == "features":
            return 0.0
        largest = max(self.structures, key=len)
        return 2 * gradient_nbytes([largest], self.soap.dimensions())


def in_a_box(atoms: ase.Atoms, vacuum: float) -> ase.Atoms:
    """Return atoms with a cell around them along directions that have none."""
    atoms = atoms.copy()
    for k in np.flatnonzero(~atoms.pbc):
        if not atoms.cell[k].any():
            atoms.cell[k, k] = np.ptp(atoms.positions[:, k]) + vacuum
            atoms.positions[:, k] += vacuum / 2 - atoms.positions[:, k].min()
    return atoms


FAMILIES = (
    Family(
        "SOAP",
        "n_max 8, l_max 6, cutoff 5 Å, σ 0.5 Å, Gaussian type orbitals",
        {"features": 10.0, "positions": 20.0, "strain": 20.0},
        ours,
        (Featomic, Dscribe, Quip),
    ),
    Family(
        "SOAP, float32",
        "as SOAP, numbers stored as float32 by atomlake",
        {"features": 10.0, "positions": 20.0, "strain": 20.0},
        partial(ours, dtype="float32"),
        (),
    ),
)
