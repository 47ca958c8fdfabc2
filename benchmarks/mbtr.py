"""MBTR and LMBTR against DScribe: the same numbers, and how long they take.

DScribe's need an older ase than ours, so they run in a process of their own, in an environment
that is built on first use. Each side runs on one core, after a first call, on the same
structures, and is measured in processor time. Ours includes the neighbour list, as DScribe's does.

    python benchmarks/mbtr.py
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import bulk, fcc111, molecule

ORACLES = Path(__file__).parents[1] / "tests" / "oracles"

EXP = {"function": "exp", "scale": 0.5, "threshold": 1e-3}
PAIRS = {
    "geometry": {"function": "inverse_distance"},
    "grid": {"min": 0, "max": 1, "n": 100, "sigma": 0.02},
}
TRIPLES = {
    "geometry": {"function": "cosine"},
    "grid": {"min": -1, "max": 1, "n": 100, "sigma": 0.05},
}
CASES = {
    ("MBTR", "k2"): PAIRS,
    ("MBTR", "k3"): TRIPLES,
    ("LMBTR", "k2"): PAIRS,
    ("LMBTR", "k3"): TRIPLES,
}


def structures() -> dict[str, list[ase.Atoms]]:
    """Return molecules, a metal, a semiconductor, a salt and a slab."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.symbols[::3] = "Au"
    names = ("CH3CONH2", "C6H6", "C5H5N", "CH3CH2OCH3")
    result = {
        "molecules": [molecule(name) for name in names] * 5,
        "Si": [bulk("Si", cubic=True).repeat(2)],
        "NaCl": [bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(2)],
        "CuAu slab": [slab.copy() for _ in range(5)],
    }
    for group in result.values():
        for seed, atoms in enumerate(group):
            atoms.rattle(0.05, seed=seed)
            atoms.wrap()
    return result


def cases() -> Iterator[tuple[str, list[ase.Atoms], str, str, dict[str, Any]]]:
    """Yield structures with their name, descriptor, term and parameters of DScribe."""
    for name, group in structures().items():
        species = sorted({symbol for atoms in group for symbol in atoms.symbols})
        is_periodic = bool(group[0].pbc.any())
        for (kind, term), parameters in CASES.items():
            weighting = EXP if is_periodic else {"function": "unity"}
            yield (
                name,
                group,
                kind,
                term,
                {**parameters, "weighting": weighting, "species": species, "periodic": is_periodic},
            )


def microseconds(function: Callable[[], object], n_atoms: int, seconds: float = 1.0) -> float:
    """Shortest processor time of a call, per atom, of as many calls as fit in some seconds."""
    function()
    best, end = float("inf"), time.process_time() + seconds
    while time.process_time() < end:
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best / n_atoms * 1e6


def their_results(group: list[ase.Atoms], kind: str, parameters: dict[str, Any]) -> Any:
    """Return DScribe's features, their time and that of their gradients."""
    import dscribe.descriptors

    n = sum(map(len, group))
    descriptor = getattr(dscribe.descriptors, kind)(**parameters)
    features = np.concatenate([np.atleast_2d(descriptor.create(atoms)) for atoms in group])
    alone = microseconds(lambda: [descriptor.create(atoms) for atoms in group], n)
    if kind == "LMBTR":
        # Its gradients are finite differences.
        return features, alone, float("nan")
    gradients = microseconds(
        lambda: [descriptor.derivatives(atoms, method="analytical") for atoms in group], n
    )
    return features, alone, gradients


def our_results(group: list[ase.Atoms], kind: str, parameters: dict[str, Any]) -> Any:
    """Return our features, their number of neighbours and times: features, gradients, strain."""
    from atomlake.descriptors import Lmbtr, Mbtr
    from atomlake.descriptors.base import Gradients, empty_rows
    from atomlake.neighbours import find_neighbours
    from atomlake.structures import Structures

    weighting = parameters["weighting"]
    if kind == "LMBTR" and weighting["function"] == "unity":
        # Longer than the molecules; an angle at a neighbour reaches twice as far.
        weighting = {**weighting, "cutoff": 8.0}
    grid = parameters["grid"]
    term = {
        "geometry": parameters["geometry"]["function"],
        "grid": {
            "start": grid["min"],
            "stop": grid["max"],
            "n_bins": grid["n"],
            "sigma": grid["sigma"],
        },
        "weighting": weighting,
    }
    descriptor = {"MBTR": Mbtr, "LMBTR": Lmbtr}[kind](species=parameters["species"], terms=[term])
    batch = Structures.from_ase(group)
    neighbours, _ = find_neighbours(batch, descriptor.cutoff)

    def compute(gradients: Gradients) -> None:
        for first, last in descriptor.blocks(batch, neighbours, gradients):
            rows = empty_rows(descriptor, batch, neighbours, first, last, gradients)
            descriptor.compute_rows(batch, neighbours, first, last, gradients, rows)

    n = batch.n_atoms
    listing = microseconds(lambda: find_neighbours(batch, descriptor.cutoff), n)
    alone, pairs, strain = (
        microseconds(lambda wanted=wanted: compute(wanted), n)
        for wanted in (Gradients(), Gradients("pairs"), Gradients("none", True))
    )
    features = descriptor.compute(batch).features.values
    times = listing + alone, listing + pairs, listing + strain
    return features, neighbours.n_pairs / n, times


def main() -> None:
    """Print one line for each case."""
    sys.path.insert(0, str(ORACLES))
    import environments

    python = environments.interpreter("dscribe")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results"
        subprocess.run([python, "-W", "ignore", __file__, output], check=True)
        results = pickle.loads(output.read_bytes())
    print("microseconds per atom, neighbour list included")
    print(
        f"{'':22}{'neighbours':>11}{'features':>9}{'dscribe':>9}{'ours':>8}{'ratio':>7}"
        f"{'gradients':>11}{'ours':>8}{'ratio':>7}{'strain':>8}"
    )
    for (name, group, kind, term, parameters), theirs in zip(cases(), results, strict=True):
        expected, their_time, their_gradients = theirs
        actual, n_neighbours, (features, gradients, strain) = our_results(group, kind, parameters)
        if kind == "MBTR":
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * expected.max())
        print(
            f"{f'{name} {kind} {term}':22}{n_neighbours:11.1f}{actual.shape[1]:9}"
            f"{their_time:9.1f}{features:8.2f}{their_time / features:7.1f}"
            f"{their_gradients:11.1f}{gradients:8.2f}{their_gradients / gradients:7.1f}"
            f"{strain:8.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        everything = [their_results(group, kind, given) for _, group, kind, _, given in cases()]
        Path(sys.argv[1]).write_bytes(pickle.dumps(everything))
    else:
        main()
