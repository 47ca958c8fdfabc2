"""SOAP against DScribe and featomic: the same structures and sizes, microseconds per atom.

All run in one process with one thread, after a first call; everybody makes a neighbour list.
What counts is processor time, so that others on the machine disturb little. Before anything
is timed, the presets named after the two codes are checked to give their numbers. DScribe's
gradients are left out: outside molecules they are finite differences and take tens of
milliseconds per atom.

    python benchmarks/soap.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from ase.collections import g2
from dscribe.descriptors import SOAP
from featomic import SoapPowerSpectrum

from atomlake.descriptors import Soap
from atomlake.descriptors.base import Gradients, Rows
from atomlake.descriptors.radial import radial_table
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

SIZE: dict[str, Any] = {"cutoff": 5.0, "n_max": 8, "l_max": 6, "sigma": 0.5}
#: Rows that are computed before their memory is used again.
BLOCK_NBYTES = 8 * 2**20
COLD_START = """
import time
from ase.build import bulk
from atomlake.descriptors import Soap
start = time.process_time()
Soap(species=["Si"]).compute(bulk("Si"), gradients=["positions", "strain"])
print(time.process_time() - start)
"""


def systems() -> dict[str, list[ase.Atoms]]:
    """Return a semiconductor, molecules and two alloys."""
    rng = np.random.default_rng(0)
    niobium = bulk("W", "bcc", a=3.2, cubic=True).repeat(4)
    niobium.numbers = rng.choice([41, 42, 73, 74], len(niobium))
    cantor = bulk("Ni", "fcc", a=3.56, cubic=True).repeat(3)
    cantor.numbers = rng.choice([24, 25, 26, 27, 28], len(cantor))
    molecules = [g2[name] for name in g2.names]
    result = {
        "Si": [bulk("Si", cubic=True).repeat(3)],
        "H C N O molecules": [m for m in molecules if set(m.symbols) <= set("HCNO")],
        "NbMoTaW": [niobium],
        "CrMnFeCoNi": [cantor],
    }
    for group in result.values():
        for seed, atoms in enumerate(group):
            atoms.rattle(0.05, seed=seed)
    return result


def microseconds(function: Callable[[], object], n_atoms: int, repeat: int = 5) -> float:
    """Shortest time of a call, per atom."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best / n_atoms * 1e6


def compute(soap: Soap, batch: Structures, gradients: Gradients) -> None:
    """Neighbours and all rows, in blocks that use the same memory."""
    neighbours, _ = find_neighbours(batch, soap.cutoff)
    blocks = list(soap.blocks(batch, neighbours, gradients, BLOCK_NBYTES))
    shapes = [soap.row_shapes(batch, neighbours, *block, gradients) for block in blocks]
    rooms = [np.empty(max(int(np.prod(s[k])) for s in shapes)) for k in range(3)]
    for block, shape in zip(blocks, shapes, strict=True):
        views = (m[: int(np.prod(s))].reshape(s) for m, s in zip(rooms, shape, strict=True))
        soap.compute_rows(batch, neighbours, *block, gradients, Rows(*views))


def featomic_calculator(**basis: Any) -> SoapPowerSpectrum:
    """Return featomic's power spectrum of the size that is compared."""
    return SoapPowerSpectrum(
        cutoff={"radius": SIZE["cutoff"], "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": SIZE["sigma"]},
        basis={
            "type": "TensorProduct",
            "max_angular": SIZE["l_max"],
            "radial": {"type": "Gto", "max_radial": SIZE["n_max"] - 1},
            **basis,
        },
    )


def check(atoms: ase.Atoms, species: list[str], dscribe: SOAP) -> None:
    """Refuse to time codes that do not compute the same thing."""
    theirs = dscribe.create(atoms)
    ours = Soap.preset("dscribe", species=species, **SIZE).compute(atoms).features.values
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())
    block = featomic_calculator(spline_accuracy=None).compute(atoms)
    block = block.keys_to_samples("center_type")
    block = block.keys_to_properties(["neighbor_1_type", "neighbor_2_type"]).block()
    theirs = np.asarray(block.values)[np.argsort(block.samples["atom"])]
    present = [s for s in species if s in set(atoms.symbols)]
    ours = Soap.preset("featomic", species=present, **SIZE).compute(atoms).features.values
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())


def line(name: str, group: list[ase.Atoms]) -> str:
    """Time all codes on one system."""
    species = sorted({symbol for atoms in group for symbol in atoms.symbols})
    dscribe = SOAP(
        r_cut=SIZE["cutoff"],
        n_max=SIZE["n_max"],
        l_max=SIZE["l_max"],
        sigma=SIZE["sigma"],
        species=species,
        periodic=bool(group[0].pbc.any()),
    )
    check(group[-1], species, dscribe)
    soap = Soap(species=species, **SIZE)
    batch = Structures.from_ase(group)
    neighbours, _ = find_neighbours(batch, soap.cutoff)
    n = batch.n_atoms
    # Gradients of featomic need gigabytes for many molecules.
    few = group[:12]
    n_few = sum(len(atoms) for atoms in few)
    featomic = featomic_calculator()
    ours, theirs = [], []
    for wanted, names in [
        (Gradients(), []),
        (Gradients("pairs"), ["positions"]),
        (Gradients("none", True), ["strain"]),
    ]:
        compute(soap, batch.take([0]), wanted)
        ours.append(microseconds(partial(compute, soap, batch, wanted), n))
        theirs.append(
            microseconds(partial(featomic.compute, few, gradients=names), n_few, repeat=2)
        )
    create = microseconds(lambda: [dscribe.create(atoms) for atoms in group], n, repeat=3)
    columns = (
        f"|{mine:8.1f}{other:9.1f}{other / mine:6.1f}"
        for mine, other in zip([ours[0], *ours], [create, *theirs], strict=True)
    )
    return f"{name:18}{neighbours.n_pairs / n:11.1f}{soap.n_features:9} " + " ".join(columns)


def main() -> None:
    """Print one line for each system, then what the table and the first call cost."""
    # featomic starts its threads on its first call.
    os.environ["RAYON_NUM_THREADS"] = "1"
    print("microseconds per atom: ours, theirs, how many times faster")
    heads = "features, dscribe", "features, featomic", "positions, featomic", "strain, featomic"
    print(f"{'':18}{'neighbours':>11}{'features':>9} " + " ".join(f"|{h:>23}" for h in heads))
    for name, group in systems().items():
        print(line(name, group), flush=True)
    table = radial_table("gto", SIZE["n_max"], SIZE["l_max"], 5.0, SIZE["sigma"], None, 5.0)
    print(
        f"radial table: {len(table.values)} nodes, {table.values.nbytes / 1e3:.0f} kB, "
        f"relative error {table.error:.1e}"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ATOMLAKE_CACHE_DIR": folder}
        for when in ("empty", "full"):
            process = subprocess.run(
                [sys.executable, "-c", COLD_START],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = float(process.stdout)
            print(f"first call with gradients, {when} cache of machine code: {seconds:.1f} s")


if __name__ == "__main__":
    main()
