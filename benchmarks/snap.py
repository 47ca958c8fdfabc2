"""SNAP against LAMMPS: the same structures and options, microseconds per atom.

Both run in one process with one thread and make a neighbour list. What counts is processor
time, so that others on the machine disturb little. Numbers are compared before they are timed.
LAMMPS sums gradients over the centres of each type (computes snad/atom and snav/atom), which is
what ``summed`` is here; ``pairs`` are the gradients of every centre by every neighbour.

    python benchmarks/snap.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from numpy.typing import NDArray

from atomlake.descriptors import Snap
from atomlake.descriptors.base import Gradients, empty_rows
from atomlake.neighbours import find_neighbours
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

sys.path.append(str(Path(__file__).parents[1] / "tests" / "oracles"))

from environments import interpreter
from lammps_snap import start

REPEAT = 5
VOIGT = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]


def cases() -> dict[str, tuple[ase.Atoms, Snap, str]]:
    """Return structures, descriptors, and the arguments of LAMMPS for them."""
    rng = np.random.default_rng(0)
    tungsten = bulk("W", "bcc", a=3.1803, cubic=True).repeat(6)
    alloy = tungsten.copy()
    alloy.numbers = rng.choice([41, 42, 73, 74], len(alloy))
    binary = tungsten.copy()
    binary.numbers = rng.choice([42, 74], len(binary))
    for seed, atoms in enumerate((tungsten, alloy, binary)):
        atoms.rattle(0.1, seed=seed)
    one, two, four = ("W",), ("Mo", "W"), ("Nb", "Mo", "Ta", "W")
    cut = 4.73442
    weights = {"Nb": 1.0, "Mo": 0.9, "Ta": 0.8, "W": 0.7}
    return {
        "W, twojmax 6": (tungsten, Snap(species=one, rcutfac=cut, twojmax=6), "0.5 1"),
        "W, twojmax 8": (tungsten, Snap(species=one, rcutfac=cut, twojmax=8), "0.5 1"),
        "NbMoTaW, weights, twojmax 6": (
            alloy,
            Snap(species=four, rcutfac=cut, twojmax=6, weights=weights),
            "0.5 0.5 0.5 0.5 1 0.9 0.8 0.7",
        ),
        "MoW, chem, twojmax 4": (
            binary,
            Snap(species=two, rcutfac=cut, twojmax=4, chemflag=True),
            "0.5 0.5 1 1 chem 2 0 1",
        ),
    }


def of_lammps(
    atoms: ase.Atoms, snap: Snap, words: str, style: str
) -> tuple[NDArray[np.float64], float]:
    """Return an array of LAMMPS and the shortest time to compute it, per atom."""
    x, y, z = atoms.cell.lengths()
    species = list(snap.species or ())
    types = [species.index(symbol) + 1 for symbol in atoms.symbols]
    best = float("inf")
    for _ in range(REPEAT):
        run = start()
        run.commands_string(f"""
            units metal
            atom_modify map array sort 0 0
            region cell block 0 {x} 0 {y} 0 {z}
            create_box {len(species)} cell
            mass * 1
            pair_style zero {snap.cutoff}
            pair_coeff * *
            neighbor 0.0 bin
        """)
        n = len(atoms)
        run.create_atoms(n, list(range(1, n + 1)), types, atoms.positions.ravel().tolist())
        run.command(f"compute c all {style} {snap.rcutfac} {snap.rfac0} {snap.twojmax} {words}")
        run.command("run 0 post no")
        # The computes work when they are asked, not in the run.
        begin = time.process_time()
        rows = run.numpy.extract_compute("c", 1, 2)
        best = min(best, time.process_time() - begin)
        array = rows[:n][np.argsort(run.numpy.extract_atom("id")[:n])].copy()
        run.close()
    return array, best / n * 1e6


def ours(
    batch: Structures, snap: Snap, gradients: Gradients
) -> tuple[tuple[NDArray[np.float64], ...], float]:
    """Return our arrays and the shortest time to compute them, per atom."""
    by_structure = snap.counts_structures(gradients)
    n = batch.n_structures if by_structure else batch.n_atoms
    neighbours, _ = find_neighbours(batch, snap.cutoff)
    rows = empty_rows(snap, batch, neighbours, 0, n, gradients)

    def work() -> None:
        neighbours, _ = find_neighbours(batch, snap.cutoff)
        snap.compute_rows(batch, neighbours, 0, n, gradients, rows)

    return rows, microseconds(work, batch.n_atoms)


def microseconds(function: Callable[[], Any], n_atoms: int) -> float:
    """Shortest time of a call, after a first one, per atom."""
    function()
    best = float("inf")
    for _ in range(REPEAT):
        begin = time.process_time()
        function()
        best = min(best, time.process_time() - begin)
    return best / n_atoms * 1e6


def compare(name: str, atoms: ase.Atoms, snap: Snap, words: str) -> None:
    """Check the numbers of one case and print its times."""
    # LAMMPS moves atoms into the cell, which changes their last digits.
    atoms.wrap()
    batch = Structures.from_ase(atoms)
    n, n_types = batch.n_atoms, len(snap.species or ())
    print(f"\n{name}: {snap.n_features} features, {n} atoms")
    print(f"  {'':28}{'LAMMPS':>9}{'ours':>9}{'ratio':>8}")

    rows, time_ours = ours(batch, snap, Gradients())
    expected, time_theirs = of_lammps(atoms, snap, words, "sna/atom")
    check(rows[0], expected)
    line("features", time_theirs, time_ours)

    rows, time_ours = ours(batch, snap, Gradients("summed"))
    expected, time_theirs = of_lammps(atoms, snap, words, "snad/atom")
    check(-rows[1].ravel(), expected.ravel())
    line("with gradients, summed", time_theirs, time_ours)
    line("with gradients, pairs", time_theirs, ours(batch, snap, Gradients("pairs"))[1])

    rows, time_ours = ours(batch, snap, Gradients("none", True))
    expected, time_theirs = of_lammps(atoms, snap, words, "snav/atom")
    numbers = [CHEMICAL_SYMBOLS[z] for z in batch.numbers]
    by_type = [
        rows[2][np.array(numbers) == symbol].sum(axis=0)[VOIGT] for symbol in snap.species or ()
    ]
    check(-np.array(by_type), expected.sum(axis=0).reshape(n_types, 6, -1))
    line("with strain", time_theirs, time_ours)


def check(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Stop unless numbers are equal."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * scale)


def line(name: str, theirs: float, ours: float) -> None:
    """Print one ratio."""
    print(f"  {name:28}{theirs:9.1f}{ours:9.1f}{theirs / ours:8.1f}")


def main() -> None:
    """Compare all cases."""
    environment = interpreter("lammps").parents[1]
    (packages,) = environment.glob("lib/python*/site-packages")
    sys.path.append(str(packages))
    for name, (atoms, snap, words) in cases().items():
        compare(name, atoms, snap, words)


if __name__ == "__main__":
    main()
