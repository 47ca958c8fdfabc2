"""From file to lake, against its parts: every stage, one worker and two, and what people do today.

For each case: the kernels alone and the codec with writing alone, over the same arrays, in one
plain process and in two at once; the whole run with one worker and with two, twice, because the
first still has to load compiled kernels and start the process that workers are forked from; and
``atomlake run`` as a command, imports and all. With ``--peer`` the first case is also done as
people do it today: ase reads the file, DScribe computes SOAP in two processes, one array is saved.

    python benchmarks/pipeline.py ../shared/data --peer
"""

from __future__ import annotations

import argparse
import gc
import json
import lzma
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atomlake.descriptors.base import Descriptor, Gradients, RowMemory, empty_rows
from atomlake.engine.run import Outcome, preview, run
from atomlake.engine.tasks import warm
from atomlake.engine.units import Unit
from atomlake.lake import Lake, parts
from atomlake.neighbours import find_neighbours
from atomlake.recipe import Recipe
from atomlake.sources import reader
from atomlake.structures import Structures

WORKERS = 2
#: Whole run over kernels and writing, one worker over two, whole run of today over ours, seconds.
MOST_OVERHEAD, LEAST_SCALING, LEAST_SPEEDUP, MOST_FIXED = 1.25, 1.9, 10.0, 3.0

SOAP = {
    "species": ["Nb", "Mo", "Ta", "W"],
    "cutoff": 5.0,
    "n_max": 8,
    "l_max": 6,
    "sigma": 0.5,
    "dtype": "float32",
}
#: Angles around each atom: much to compute, little to write.
ANGLES = {
    "species": ["Nb", "Mo", "Ta", "W"],
    "terms": [
        {
            "geometry": "cosine",
            "grid": {"start": -1.0, "stop": 1.0, "n_bins": 100, "sigma": 0.05},
            "weighting": {"function": "exp", "scale": 0.5, "threshold": 1e-3},
        }
    ],
    "dtype": "float32",
}


class Case(NamedTuple):
    """A file, every how many of its structures, a descriptor, how often the file is repeated."""

    file: str
    every: int
    entry: dict[str, Any]
    times: int = 1


CASES = {
    "NbMoTaW, SOAP": Case("snap_mvl/NbMoTaW.extxyz.xz", 1, {"kind": "soap", "parameters": SOAP}),
    "every 6th of NbMoTaW, SOAP with position gradients": Case(
        "snap_mvl/NbMoTaW.extxyz.xz",
        6,
        {"kind": "soap", "parameters": SOAP, "gradients": {"positions": "pairs"}},
    ),
    "NbMoTaW 6 times, SOAP": Case(
        "snap_mvl/NbMoTaW.extxyz.xz", 1, {"kind": "soap", "parameters": SOAP}, times=6
    ),
    "NbMoTaW 18 times, SOAP": Case(
        "snap_mvl/NbMoTaW.extxyz.xz", 1, {"kind": "soap", "parameters": SOAP}, times=18
    ),
    "NbMoTaW 4 times, LMBTR of angles": Case(
        "snap_mvl/NbMoTaW.extxyz.xz", 1, {"kind": "lmbtr", "parameters": ANGLES}, times=4
    ),
    "perov_5_val, weighted symmetry functions": Case(
        "cdvae_perov5_carbon24/perov_5_val.extxyz.xz",
        1,
        {
            "kind": "symmetry_functions",
            "preset": "gastegger_centred",
            "parameters": {"cutoff": 5.0, "dtype": "float32"},
        },
    ),
}


# ----- The whole run


def measure(name: str, case: Case, data: Path, folder: Path) -> float:
    """Measure one case in a folder and print it; return the seconds of the command."""
    recipe = Recipe.model_validate(
        {
            "lake": f"{folder}/lake",
            "sources": [{"path": str(source_file(case, data, folder))}],
            "descriptors": [case.entry],
            "cluster": {"kind": "local", "workers": WORKERS},
        }
    )
    entry = recipe.descriptors[0]
    start = time.perf_counter()
    warm([(entry.build(), entry.wanted)])
    compiling = time.perf_counter() - start
    units = preview(recipe).units
    command = command_seconds(recipe, folder)
    first = into_new_lake(recipe, folder)
    runs = {
        workers: into_new_lake(
            recipe.model_copy(
                update={"cluster": recipe.cluster.model_copy(update={"workers": workers})}
            ),
            folder,
        )
        for workers in (1, WORKERS)
    }
    alone, together = stages_alone(units, folder), stages_together(units, folder)
    outcome = runs[WORKERS]
    total, busy = outcome.seconds["total"], sum(outcome.totals.seconds.values())
    plain = sum(alone[stage] for stage in ("kernel", "write"))
    bound = sum(together[stage] for stage in ("kernel", "write"))
    work = {
        stage: seconds for stage, seconds in outcome.totals.seconds.items() if stage != "compile"
    }
    print(f"\n{name}: {outcome.totals.n_structures} structures, {outcome.totals.n_atoms} atoms")
    print(f"  {len(units)} units, {outcome.totals.nbytes / 1e6:.0f} MB on disk")
    print(f"  kernels compiled or loaded here in {compiling:.2f} s")
    print(f"  alone, one process           {told(alone)}")
    print(f"  alone, two at once           {told(together)}")
    print(f"  workers, summed              {told(outcome.totals.seconds)}")
    print(f"  run, wall                    {told(outcome.seconds)}")
    print(
        f"  not at work                  {WORKERS} x {total:.2f} - {busy:.2f} = "
        f"{WORKERS * total - busy:.2f} s (plan, start, commits, end)"
    )
    print(
        f"  the command, imports and all {command:.2f} s; "
        f"first run here {first.seconds['total']:.2f} s"
    )
    print(
        f"  reading                      {work['read'] / sum(work.values()):.0%} of the work; "
        f"alone {alone['read']:.2f} s, kernel and write {plain:.2f} s"
    )
    print(
        f"  work / (kernel + write)      of the same workers "
        f"{sum(work.values()) / (work['kernel'] + work['write']):.2f}, "
        f"alone {sum(work.values()) / WORKERS / bound:.2f} (target {MOST_OVERHEAD})"
    )
    print(
        f"  run / (kernel + write alone) two processes at once {total / bound:.2f}, "
        f"one process {total / plain:.2f} (target {MOST_OVERHEAD})"
    )
    print(
        f"  one worker / two             run {runs[1].seconds['total'] / total:.2f}, computing "
        f"{runs[1].seconds['compute'] / outcome.seconds['compute']:.2f}; kernel + write alone "
        f"{plain / bound:.2f} (target {LEAST_SCALING} where the disk allows it)"
    )
    print(
        f"  fixed cost of the command    {command - busy / WORKERS:.2f} s (target {MOST_FIXED:.0f})"
    )
    return command


def source_file(case: Case, data: Path, folder: Path) -> Path:
    """Write the structures of a case to a plain file, which ase and atomlake both read as it is."""
    with lzma.open(data / case.file, "rt", encoding="utf-8") as stream:
        lines = case.times * stream.readlines()
    target = folder / "structures.extxyz"
    first = number = 0
    with target.open("w", encoding="utf-8") as stream:
        while first < len(lines):
            following = first + 2 + int(lines[first])
            if number % case.every == 0:
                stream.writelines(lines[first:following])
            first, number = following, number + 1
    return target


def into_new_lake(recipe: Recipe, folder: Path) -> Outcome:
    """Run a recipe into a lake of its own, which is emptied."""
    lake = folder / uuid.uuid4().hex
    outcome = run(recipe.model_copy(update={"lake": str(lake)}))
    empty(lake)
    return outcome


def empty(lake: Path) -> None:
    """Take the content from the files of a lake, which are all removed in the end.

    ext4 does not use a freed inode again for minutes: whoever makes files after a lake was removed
    waits while the file system looks at each of its inodes, a quarter of the time of a run.
    """
    for folder, _, files in os.walk(lake):
        for file in files:
            os.truncate(Path(folder, file), 0)


def command_seconds(recipe: Recipe, folder: Path) -> float:
    """Time ``atomlake run`` in a process of its own, from its start to its end; median of three."""
    file, seconds = folder / "recipe.yaml", []
    command = [sys.executable, "-m", "atomlake", "run", "--quiet", file]
    for _ in range(3):
        lake = folder / uuid.uuid4().hex
        content = recipe.model_dump(mode="json", exclude_defaults=True) | {"lake": str(lake)}
        content["cluster"] = {"kind": "local", "workers": WORKERS}
        file.write_text(json.dumps(content))
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
        empty(lake)
    return statistics.median(seconds)


def told(seconds: dict[str, float]) -> str:
    """Stages and their seconds, for people."""
    return ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())


# ----- The parts by themselves


def stages_together(units: list[Unit], folder: Path) -> dict[str, float]:
    """As :func:`stages_alone`, in as many processes at once as there are workers; the slowest."""
    if len(units) < WORKERS:
        bounds = [len(units[0]) * i // WORKERS for i in range(WORKERS + 1)]
        units = [units[0].take(range(*edges)) for edges in pairwise(bounds)]
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(stages_alone, [(units[:1], folder)] * WORKERS, chunksize=1)
        found = pool.starmap(
            stages_alone, [(units[i::WORKERS], folder) for i in range(WORKERS)], chunksize=1
        )
    return {stage: max(seconds[stage] for seconds in found) for stage in found[0]}


def stages_alone(units: list[Unit], folder: Path) -> dict[str, float]:
    """Time each stage by itself, in this process, over some units of a plan."""
    task = units[0].tasks[0]
    descriptor, gradients = task.descriptor, task.gradients
    warm([(descriptor, gradients)])
    seconds = dict.fromkeys(("read", "neighbours", "kernel", "write"), 0.0)
    lake = Lake.create(folder / f"alone-{uuid.uuid4().hex}")
    for unit in units:
        start = time.perf_counter()
        structures = Structures.concatenate(
            [reader(p.location, p.source, folder).read(p.locations).structures for p in unit.pieces]
        )
        seconds["read"] += time.perf_counter() - start
        kernel_and_write(lake, descriptor, gradients, structures, seconds)
    empty(lake.path)
    return seconds


def kernel_and_write(
    lake: Lake,
    descriptor: Descriptor,
    gradients: Gradients,
    structures: Structures,
    seconds: dict[str, float],
) -> None:
    """Compute all blocks in the same memory, then encode and write them, as a worker would."""
    start = time.perf_counter()
    neighbours, _ = find_neighbours(structures, descriptor.cutoff)
    seconds["neighbours"] += time.perf_counter() - start

    blocks = list(descriptor.blocks(structures, neighbours, gradients))
    stored = empty_rows(descriptor, structures, neighbours, 0, structures.n_atoms, gradients)
    offsets = neighbours.pair_offsets if gradients.positions == "pairs" else None

    def block(first: int, last: int) -> Any:
        pairs = slice(0, 0) if offsets is None else slice(offsets[first], offsets[last])
        return stored._replace(
            features=stored.features[first:last],
            gradient_positions=stored.gradient_positions[pairs],
        )

    memory = RowMemory(descriptor, gradients)
    start = time.perf_counter()
    for first, last in blocks:
        memory.compute(structures, neighbours, first, last)
    seconds["kernel"] += time.perf_counter() - start

    for first, last in blocks:
        descriptor.compute_rows(structures, neighbours, first, last, gradients, block(first, last))
    start = time.perf_counter()
    part_id = uuid.uuid4().hex
    parts.write_structures(lake.path, part_id, structures)
    writer = parts.FeatureWriter(
        lake.path, part_id, descriptor, gradients, structures, neighbours.pair_offsets
    )
    writer.append_pairs(neighbours)
    for first, last in blocks:
        writer.append(block(first, last))
    writer.close(seconds=0.0, max_neighbours=2000)
    seconds["write"] += time.perf_counter() - start


# ----- What people do today


def with_ase_and_dscribe(data: Path) -> dict[str, float]:
    """Read with ase, compute SOAP with DScribe in two processes, save one array."""
    from ase.io import read
    from dscribe.descriptors import SOAP as DscribeSoap

    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as folder:
        file = source_file(CASES["NbMoTaW, SOAP"], data, Path(folder))
        start = time.perf_counter()
        structures = read(file, ":", format="extxyz")
        seconds["read"] = time.perf_counter() - start
    start = time.perf_counter()
    soap = DscribeSoap(
        species=SOAP["species"],
        r_cut=SOAP["cutoff"],
        n_max=SOAP["n_max"],
        l_max=SOAP["l_max"],
        sigma=SOAP["sigma"],
        periodic=True,
        dtype="float32",
    )
    features = np.concatenate(soap.create(structures, n_jobs=WORKERS))
    seconds["features"] = time.perf_counter() - start
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as folder:
        np.save(Path(folder, "features.npy"), features)
        seconds["save"] = time.perf_counter() - start
    return seconds | {"total": sum(seconds.values())}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="All if not given.")
    parser.add_argument("--peer", action="store_true", help="Also as people do it today.")
    arguments = parser.parse_args()
    gc.set_threshold(50_000, 20, 100)  # as the command does
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as folder:
        commands = {
            name: measure(name, case, arguments.data, Path(folder))
            for name, case in CASES.items()
            if name in (arguments.case or CASES)
        }
    ours = commands.get("NbMoTaW, SOAP")
    if arguments.peer and ours is not None:
        today = with_ase_and_dscribe(arguments.data)
        print("\nNbMoTaW, SOAP, as people do it today: ase, DScribe in two processes, one array")
        print(f"  {told(today)}")
        print(
            f"  ase and DScribe / atomlake run: {today['total']:.1f} / {ours:.1f} = "
            f"{today['total'] / ours:.1f} (target {LEAST_SPEEDUP:.0f})"
        )


if __name__ == "__main__":
    main()
