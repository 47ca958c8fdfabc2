"""What it costs to wait for the disk: the same run with and without ``durable``, in turn.

::

    python benchmarks/durability.py --structures 3000 --repeats 3
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from ase.build import molecule
from ase.io import write

from atomlake.engine.run import run
from atomlake.lake import layout
from atomlake.recipe import Recipe


@click.command()
@click.option("--structures", default=3000, show_default=True)
@click.option("--parts", default=6, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option(
    "--folder", type=Path, help="On the disk to measure; that of temporary files if not given."
)
def main(structures: int, parts: int, repeats: int, folder: Path | None) -> None:
    """Print median seconds of a run, and their ratio."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        where = Path(name)
        rng = np.random.default_rng(0)
        batch = [molecule("CH3CH2OH") for _ in range(structures)]
        for atoms in batch:
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        write(where / "structures.xyz", batch, format="extxyz")
        seconds: dict[bool, list[float]] = {False: [], True: []}
        n_files = nbytes = 0
        for repeat in range(repeats + 1):
            for durable in seconds:
                lake = where / f"{durable}-{repeat}"
                started = time.perf_counter()
                run(recipe(where, lake, -(-structures // parts), durable), executor="synchronous")
                # The first run of each loads the kernels.
                if repeat:
                    seconds[durable].append(time.perf_counter() - started)
                sizes = [stored.nbytes for _, stored in layout.files(lake, layout.PARTS)]
                n_files, nbytes = len(sizes), sum(sizes)
    plain, waiting = (statistics.median(seconds[durable]) for durable in (False, True))
    print(f"{structures} structures, {parts} parts, {n_files} files, {nbytes / 1e6:.0f} MB")
    print(f"not durable {plain:.2f} s, durable {waiting:.2f} s, ratio {waiting / plain:.2f}")


def recipe(where: Path, lake: Path, part_structures: int, durable: bool) -> Recipe:
    """Features and gradients of molecules."""
    parameters = {"species": ["H", "C", "O"], "cutoff": 4.0, "n_max": 4, "l_max": 4, "sigma": 0.5}
    return Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": [{"path": str(where / "structures.xyz")}],
            "descriptors": [{"kind": "soap", "gradients": "summed", "parameters": parameters}],
            "parts": {"structures": part_structures},
            "durable": durable,
        }
    )


if __name__ == "__main__":
    main()
