"""From file to lake, against its parts: kernels alone, codec and writing alone.

For each recipe: the time of the whole run with two workers, and the time of (a) the kernels and
(b) encoding and writing the same arrays, each measured alone in one process and divided by the
number of workers. The whole run also reads, checks, finds neighbours, starts workers and commits.
It is made twice, into two lakes: first in a fresh process, in which Python still has to import
what planning and working need, then again, with that done.

    python benchmarks/pipeline.py ../shared/data
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

from atomlake.descriptors.base import Descriptor, Gradients, empty_rows
from atomlake.engine.run import preview, run
from atomlake.engine.tasks import warm
from atomlake.engine.units import Unit
from atomlake.lake import Lake, parts
from atomlake.neighbours import find_neighbours
from atomlake.recipe import Recipe
from atomlake.sources import reader
from atomlake.structures import Structures

WORKERS = 2

CASES = {
    "NbMoTaW, SOAP": (
        "snap_mvl/NbMoTaW.extxyz.xz",
        {
            "kind": "soap",
            "parameters": {
                "species": ["Nb", "Mo", "Ta", "W"],
                "cutoff": 5.0,
                "n_max": 8,
                "l_max": 6,
                "sigma": 0.5,
                "dtype": "float32",
            },
        },
    ),
    "perov_5_val, weighted symmetry functions": (
        "cdvae_perov5_carbon24/perov_5_val.extxyz.xz",
        {
            "kind": "symmetry_functions",
            "preset": "gastegger_centred",
            "parameters": {"cutoff": 5.0, "dtype": "float32"},
        },
    ),
}


def measure(name: str, file: Path, entry: dict[str, object]) -> None:
    """Measure one case and print it, stage by stage."""
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as folder:
        recipe = Recipe.model_validate(
            {
                "lake": f"{folder}/lake",
                "sources": [{"path": str(file)}],
                "descriptors": [entry],
                "cluster": {"kind": "local", "workers": WORKERS},
            }
        )
        descriptor = recipe.descriptors[0].build()
        warm([(descriptor, Gradients())])
        units = preview(recipe).units
        cold = run(recipe.model_copy(update={"lake": f"{folder}/cold"}))
        outcome = run(recipe)
        alone = stages_alone(units, descriptor, Path(folder))
    seconds, workers = outcome.seconds, outcome.totals.seconds
    bound = (alone["kernel"] + alone["write"]) / WORKERS
    print(f"\n{name}: {outcome.totals.n_structures} structures, {outcome.totals.n_atoms} atoms")
    print(f"  {len(units)} units, {outcome.totals.nbytes / 1e6:.0f} MB on disk")
    print("  alone, one process:  " + ", ".join(f"{k} {v:.2f} s" for k, v in alone.items()))
    print("  in the run, workers: " + ", ".join(f"{k} {v:.2f} s" for k, v in workers.items()))
    print("  the run, wall:       " + ", ".join(f"{k} {v:.2f} s" for k, v in seconds.items()))
    print(f"  the run before it, imports included: {cold.seconds['total']:.2f} s")
    busy = sum(workers.values()) / WORKERS
    print(
        f"  workers busy {busy:.2f} s each; plan, start of workers and commits "
        f"{seconds['total'] - busy:.2f} s"
    )
    print(
        f"  whole run / (kernel + write alone, on {WORKERS} workers) = "
        f"{seconds['total']:.2f} / {bound:.2f} = {seconds['total'] / bound:.2f}; "
        f"work of the workers alone {busy / bound:.2f}; "
        f"against one worker's sum {seconds['total'] / (WORKERS * bound):.2f}"
    )


def stages_alone(units: list[Unit], descriptor: Descriptor, folder: Path) -> dict[str, float]:
    """Time each stage by itself, in this process, over the units of a plan."""
    seconds = dict.fromkeys(("read", "neighbours", "kernel", "write"), 0.0)
    none = Gradients()
    lake = Lake.create(folder / "alone")
    for unit in units:
        start = time.perf_counter()
        structures = Structures.concatenate(
            [reader(p.location, p.source, folder).read(p.locations).structures for p in unit.pieces]
        )
        seconds["read"] += time.perf_counter() - start

        start = time.perf_counter()
        neighbours, _ = find_neighbours(structures, descriptor.cutoff)
        seconds["neighbours"] += time.perf_counter() - start

        n = structures.n_atoms
        rows = empty_rows(descriptor, structures, neighbours, 0, n, none)
        rows.features[...] = 0  # memory is mapped before the clock starts
        start = time.perf_counter()
        for first, last in descriptor.blocks(structures, neighbours, none):
            block = rows._replace(features=rows.features[first:last])
            descriptor.compute_rows(structures, neighbours, first, last, none, block)
        seconds["kernel"] += time.perf_counter() - start

        start = time.perf_counter()
        part_id = uuid.uuid4().hex
        parts.write_structures(lake.path, part_id, structures)
        writer = parts.FeatureWriter(lake.path, part_id, descriptor, none, structures, neighbours)
        for first in range(0, n, 4096):
            writer.append(rows._replace(features=rows.features[first : first + 4096]))
        writer.close(seconds=0.0, max_neighbours=2000)
        seconds["write"] += time.perf_counter() - start
        assert np.isfinite(rows.features).all()
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    arguments = parser.parse_args()
    for name, (file, entry) in CASES.items():
        measure(name, arguments.data / file, entry)


if __name__ == "__main__":
    main()
