"""SNAP: LAMMPS."""

from __future__ import annotations

from functools import partial
from typing import Any

import ase
import numpy as np
from tests.oracles.lammps_snap import start

from atomlake.descriptors import Snap

from .codes import Array, Atomlake, Code, Family
from .structures import species_of

STYLES = {"features": "sna/atom", "positions": "snad/atom", "strain": "snav/atom"}
#: Rows and columns of LAMMPS' six components of a symmetric matrix.
VOIGT = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
WEIGHTED: dict[str, Any] = {"rcutfac": 4.7, "twojmax": 8}
CHEMICAL: dict[str, Any] = {"rcutfac": 4.7, "twojmax": 2, "chemflag": True}


def weights(species: tuple[str, ...]) -> dict[str, float]:
    """Return a different weight for every element."""
    return {symbol: 1.0 - 0.1 * k for k, symbol in enumerate(species)}


def descriptor(structures: list[ase.Atoms], parameters: dict[str, Any]) -> Snap:
    """Return ours for the elements of some structures."""
    species = species_of(structures)
    return Snap(species=species, weights=weights(species), **parameters)


class ByElement(Atomlake):
    """Atomlake's numbers as LAMMPS adds them up."""

    def numbers(self, quantity: str) -> Array:
        """Return strain gradients summed over the centres of each element, six components."""
        if quantity != "strain":
            return super().numbers(quantity)
        result = self.descriptor.compute(self.structures[0], gradients=["strain"])
        rows = result.gradient_strain.values
        symbols = np.array(self.structures[0].get_chemical_symbols())
        return np.array(
            [rows[symbols == s].sum(axis=0)[VOIGT] for s in self.descriptor.species or ()]
        )


def ours(structures: list[ase.Atoms], parameters: dict[str, Any]) -> ByElement:
    """Set up atomlake, gradients summed over centres as LAMMPS' are."""
    return ByElement(descriptor(structures, parameters), structures, is_summed=True)


class Lammps(Code):
    """LAMMPS: what is timed are the computes, which list their neighbours themselves."""

    name = "LAMMPS"
    package = "lammps"
    quantities = ("features", "positions", "strain")
    remark = "Gradients are summed over the centres of each element, in both codes."

    parameters: dict[str, Any]

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.snap = descriptor(structures, self.parameters)
        self.species = list(species_of(structures))
        self.runs = [self._set_up(atoms) for atoms in structures]

    def _set_up(self, atoms: ase.Atoms) -> Any:
        run = start()
        low = np.where(atoms.pbc, 0.0, atoms.positions.min(axis=0) - 0.1)
        high = np.where(atoms.pbc, atoms.cell.array.diagonal(), atoms.positions.max(axis=0) + 0.1)
        (xlo, ylo, zlo), (xhi, yhi, zhi) = low.tolist(), high.tolist()
        (_, _, _), (xy, _, _), (xz, yz, _) = atoms.cell.array.tolist()
        boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
        snap = self.snap
        words = [snap.rcutfac, snap.rfac0, snap.twojmax, *[0.5] * len(self.species)]
        words += weights(tuple(self.species)).values()
        if snap.chemflag:
            words += ["chem", len(self.species), *range(len(self.species))]
        arguments = " ".join(map(str, words))
        run.commands_string(f"""
            units metal
            atom_modify map array sort 0 0
            boundary {boundary}
            box tilt large
            region cell prism {xlo} {xhi} {ylo} {yhi} {zlo} {zhi} {xy} {xz} {yz}
            create_box {len(self.species)} cell
            mass * 1
            pair_style zero {snap.cutoff}
            pair_coeff * *
            neighbor 0.0 bin
        """)
        n = len(atoms)
        types = [self.species.index(symbol) + 1 for symbol in atoms.symbols]
        created = run.create_atoms(
            n, list(range(1, n + 1)), types, atoms.positions.ravel().tolist()
        )
        if created != n:
            raise AssertionError(f"LAMMPS created {created} of {n} atoms")
        for quantity, style in STYLES.items():
            run.command(f"compute {quantity} all {style} {arguments}")
        return run

    def prepare(self, quantity: str) -> None:
        """Make the computes forget what they computed."""
        for run in self.runs:
            run.command("run 0 post no")

    def compute(self, quantity: str) -> Any:
        """Ask for the arrays, which is when they are computed."""
        return [run.numpy.extract_compute(quantity, 1, 2) for run in self.runs]

    def twin(self, quantity: str) -> Code:
        """Return what is timed: there is one convention."""
        return ByElement(self.snap, self.structures, is_summed=True)

    def numbers(self, quantity: str) -> Array:
        """Return rows in the order of atoms, derivatives with their sign."""
        self.prepare(quantity)
        run, n = self.runs[0], len(self.structures[0])
        rows = run.numpy.extract_compute(quantity, 1, 2)[:n]
        rows = rows[np.argsort(run.numpy.extract_atom("id")[:n])]
        if quantity == "features":
            return rows
        if quantity == "positions":
            return -rows.reshape(1, n, len(self.species), 3, -1)
        return -rows.sum(axis=0).reshape(len(self.species), 6, -1)

    def __del__(self) -> None:
        for run in getattr(self, "runs", ()):
            run.close()


class Weighted(Lammps):
    """One density, elements by weights."""

    parameters = WEIGHTED


class Chemical(Lammps):
    """A density for each element."""

    parameters = CHEMICAL


FAMILIES = tuple(
    Family(
        name,
        text,
        dict.fromkeys(STYLES, 1.5),
        partial(ours, parameters=peer.parameters),
        (peer,),
    )
    for name, text, peer in [
        ("SNAP", "2J 8, cutoff 4.7 Å, elements by weights", Weighted),
        ("SNAP, by element", "2J 2, cutoff 4.7 Å, a density for each element", Chemical),
    ]
)
