"""Neighbour lists against vesin, matscipy and ase: the same pairs, and how long they take.

All run in one process on one core, after a first call, on the same structures: every ordered
pair with its cell shift, vector and distance. Ours takes a batch of structures at once, the
others take one after the other. What counts is the least processor time of several calls, so
that others on the machine disturb little. vesin sorts pairs by centre, as all others do, only
if asked to, and is shown both ways.

    pip install "vesin>=0.6" matscipy
    python benchmarks/neighbours.py [CUTOFF]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import ase
import matscipy.neighbours
import numpy as np
import vesin
from ase.build import bulk, fcc111
from ase.collections import g2
from ase.neighborlist import neighbor_list

from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures


def metal(n: int) -> ase.Atoms:
    """Return n * n * n cubic cells of copper at a finite temperature."""
    atoms = bulk("Cu", cubic=True) * (n, n, n)
    atoms.rattle(0.05, seed=n)
    return atoms


def liquid(n_atoms: int, density: float, pbc: bool) -> ase.Atoms:
    """Return atoms in a box in no order, none of them close to another."""
    rng = np.random.default_rng(0)
    length = (n_atoms / density) ** (1 / 3)
    n_sites = int(length / 1.5)
    sites = np.unravel_index(rng.permutation(n_sites**3)[:n_atoms], (n_sites,) * 3)
    positions = (np.stack(sites, axis=1) + rng.uniform(-0.3, 0.3, (n_atoms, 3))) * length / n_sites
    return ase.Atoms(f"C{n_atoms}", positions, cell=[length] * 3 if pbc else None, pbc=pbc)


def systems() -> dict[str, list[ase.Atoms]]:
    """Return what databases hold, and what is larger."""
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    result = {
        "silicon, 2 atoms": [bulk("Si")] * 500,
        "salt, 8 atoms": [salt] * 200,
        "molecules, 2 to 14": [g2[name] for name in g2.names],
        "slab, 36 atoms": [fcc111("Cu", (3, 3, 4), vacuum=8.0)] * 40,
        "metal, 108 atoms": [metal(3)] * 20,
        "metal, 4,000": [metal(10)],
        "15,000 without cell": [liquid(15_000, 0.1, False)],
        "30,000 periodic": [liquid(30_000, 0.08, True)],
    }
    for atoms in (atoms for group in result.values() for atoms in group):
        if not atoms.pbc.any():
            # matscipy refuses to do without a cell; it means nothing to the others.
            atoms.center(vacuum=1.0)
    return result


def peers(cutoff: float) -> dict[str, Callable[[ase.Atoms], int]]:
    """Return functions that list one structure and count its pairs."""

    def with_vesin(is_sorted: bool) -> Callable[[ase.Atoms], int]:
        calculator = vesin.NeighborList(
            cutoff=cutoff, full_list=True, sorted=is_sorted, n_threads=1
        )
        return lambda atoms: len(
            calculator.compute(
                points=atoms.positions,
                box=atoms.cell.array,
                periodic=atoms.pbc,
                quantities="ijSDd",
                copy=True,
            )[0]
        )

    return {
        "vesin": with_vesin(False),
        "sorted": with_vesin(True),
        "matscipy": lambda a: len(matscipy.neighbours.neighbour_list("ijSDd", a, cutoff)[0]),
        "ase": lambda atoms: len(neighbor_list("ijSDd", atoms, cutoff)[0]),
    }


def seconds(function: Callable[[], object], at_least: float = 0.3) -> float:
    """Least processor time of the calls that fit in some time, three or more."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def compare(name: str, group: Sequence[ase.Atoms], cutoff: float) -> str:
    """Time everybody on one group of structures and return a row of the table."""
    batch = Structures.from_ase(group)
    neighbours, _ = find_neighbours(batch, cutoff)
    ours = seconds(lambda: find_neighbours(batch, cutoff)) / batch.n_atoms
    theirs = {}
    for peer, count in peers(cutoff).items():
        n_pairs = sum(count(atoms) for atoms in group)
        if n_pairs != neighbours.n_pairs:
            sys.exit(f"{name}: {peer} finds {n_pairs} pairs, not {neighbours.n_pairs}")
        theirs[peer] = seconds(lambda: [count(atoms) for atoms in group]) / batch.n_atoms  # noqa: B023
    times = "".join(f"{1e6 * t:10.2f}" for t in (ours, *theirs.values()))
    n_per_atom = neighbours.n_pairs / batch.n_atoms
    return f"{name:22}{n_per_atom:8.1f}{times}{min(theirs.values()) / ours:9.1f}"


def main(cutoff: float = 5.0) -> None:
    """Print microseconds per atom of everybody, and the ratio of the fastest other to ours."""
    print(f"cutoff {cutoff} Å; microseconds per atom; vesin {vesin.__version__}")
    heads = "".join(f"{head:>10}" for head in ("ours", *peers(cutoff)))
    print(f"{'':22}{'pairs':>8}{heads}{'ratio':>9}")
    for name, group in systems().items():
        print(compare(name, group, cutoff), flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
