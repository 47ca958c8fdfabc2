"""Time per atom of every registered descriptor, and of the neighbour list, as structures grow.

Each kind computes its first example, features alone, of one copper-gold crystal of 100 to
30,000 atoms, in blocks as a run does. The exponent is that of the time of a whole structure
between the two largest sizes that were measured: 1 where it is linear in the number of atoms.

Descriptors without a cutoff look at every pair of atoms of a structure, or at every triple, and
are not linear by definition. They are measured up to the size that takes no more than
some seconds, and marked.

    python benchmarks/growth_in_atoms.py [KIND ...]
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable

# Eigenvalues of a matrix would be computed by several threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import ase
import numpy as np
from ase.build import bulk

from atomlake import descriptors
from atomlake.descriptors.base import Descriptor, Gradients, empty_rows
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

SIZES = {
    100: (5, 5, 1),
    300: (5, 5, 3),
    1_000: (10, 5, 5),
    3_000: (10, 15, 5),
    30_000: (25, 20, 15),
}
SPECIES = ("Cu", "Au")
#: A size is not measured if it would take longer, by the exponent so far.
MAX_SECONDS = 1.5


def crystal(n_cells: tuple[int, int, int]) -> ase.Atoms:
    """Return an alloy at a finite temperature."""
    atoms = bulk("Cu", a=3.8, cubic=True).repeat(n_cells)
    atoms.numbers[np.random.default_rng(0).random(len(atoms)) < 0.3] = 79
    atoms.rattle(0.05, seed=0)
    return atoms


def example(kind: type[Descriptor], n_atoms: int) -> Descriptor:
    """Return the first example of a kind, large enough for so many atoms."""
    first = kind.examples(SPECIES)[0]
    if "n_atoms_max" in kind.model_fields:
        return first.model_copy(update={"n_atoms_max": n_atoms})
    return first


def compute(descriptor: Descriptor, batch: Structures) -> None:
    """Neighbours and all features, block by block."""
    wanted = Gradients()
    neighbours, _ = find_neighbours(batch, descriptor.cutoff)
    for first, last in descriptor.blocks(batch, neighbours, wanted):
        rows = empty_rows(descriptor, batch, neighbours, first, last, wanted)
        descriptor.compute_rows(batch, neighbours, first, last, wanted, rows)


def seconds(function: Callable[[], object], at_least: float = 0.1) -> float:
    """Least processor time of the calls that fit in some time, two or more."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < at_least:
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def line(name: str, cutoff: float, calculate: Callable[[Structures, int], object]) -> str:
    """Measure one kind at all sizes that are affordable, and return its row."""
    measured: list[tuple[int, float]] = []
    calculate(Structures.from_ase(crystal((2, 2, 2))), 32)
    for n_atoms, n_cells in SIZES.items():
        if measured:
            n_before, before = measured[-1]
            if before * (n_atoms / n_before) ** max(exponent(measured), 1.0) > MAX_SECONDS:
                break
        batch = Structures.from_ase(crystal(n_cells))
        measured.append((n_atoms, seconds(lambda: calculate(batch, n_atoms))))  # noqa: B023
    times = "".join(f"{1e6 * t / n:12.2f}" for n, t in measured).ljust(12 * len(SIZES))
    reach = f"{cutoff:8.1f}" if cutoff else f"{'none':>8}"
    return f"{name:22}{reach}{times}{exponent(measured):10.2f}"


def exponent(measured: list[tuple[int, float]]) -> float:
    """Exponent of the time between the last two sizes; 2 where there is one alone."""
    if len(measured) < 2:
        return 2.0
    (n_1, t_1), (n_2, t_2) = measured[-2:]
    return math.log(t_2 / t_1) / math.log(n_2 / n_1)


def main(kinds: list[str]) -> None:
    """Print one line for each kind."""
    print("features of one structure, microseconds per atom")
    heads = "".join(f"{f'{n:,} atoms':>12}" for n in SIZES)
    print(f"{'':22}{'cutoff':>8}{heads}{'exponent':>10}")
    if not kinds:
        print(line("neighbour list", 5.0, lambda batch, _: find_neighbours(batch, 5.0)))
    for name in kinds or descriptors.names():
        kind = descriptors.get(name)
        row = line(
            name,
            example(kind, 1).cutoff,
            lambda batch, n_atoms: compute(example(kind, n_atoms), batch),  # noqa: B023
        )
        print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
