"""Growth: what a structure costs as the lake grows, and what a thousand workers cost.

``lake`` makes structures by perturbing real ones, brings them into a lake of each size with
two workers, and prints time per structure, peak memory of the driver and size of the
catalogue; then how long a second run takes that finds nothing to do, and a run after 1,000
structures were added, as a file beside and at the end of the large file. Every run is a process
of its own, and its imports count. ``plan`` plans a number of structures for an
empty lake, for a lake that holds them, and for one that holds all but 1,000. ``scheduler`` runs
tasks that only sleep on many workers, with the engine's own submission.

    python benchmarks/growth.py lake --sizes 10000 100000 1000000
    python benchmarks/growth.py plan --sizes 10000000
    python benchmarks/growth.py scheduler --workers 1000 --seconds 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from itertools import batched
from pathlib import Path
from random import uniform
from typing import Any

import dask
import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomlake import sources
from atomlake.clusters.base import DASK_SETTINGS
from atomlake.clusters.local import Local
from atomlake.descriptors.base import Descriptor
from atomlake.engine import tasks
from atomlake.engine.execute import on_cluster
from atomlake.engine.plan import Plan
from atomlake.engine.run import _Publisher, preview, run
from atomlake.engine.tasks import UnitRecord
from atomlake.engine.units import Estimate, Piece, Task, Unit
from atomlake.errors import SourceError
from atomlake.lake import Lake, parts
from atomlake.recipe import Limits, Recipe
from atomlake.sources import reader
from atomlake.sources.base import (
    FileIndex,
    Fingerprint,
    Reader,
    ReadResult,
    Source,
    numbered_keys,
)
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

#: Real structures to perturb: crystals of five atoms.
REAL = "cdvae_perov5_carbon24/perov_5_val.extxyz.xz"
#: Standard deviation of the perturbation in Å.
NOISE = 0.02
N_ADDED = 1000
WORKERS = 2
DESCRIPTOR = {
    "kind": "symmetry_functions",
    "preset": "gastegger_centred",
    "parameters": {"cutoff": 4.0, "dtype": "float32"},
}


#: A worker looks at itself twice a second, which a process with a thousand of them cannot.
NO_SELF_OBSERVATION = {"distributed.admin.system-monitor.interval": "60s"}


# ----- Lakes of different sizes


def real_structures(data: Path) -> Structures:
    """Read the structures to perturb."""
    with tempfile.TemporaryDirectory(prefix="atomlake-growth-") as scratch:
        real = reader(str(data / REAL), Source(path=str(data / REAL)), Path(scratch))
        return real.read(real.index().locations).structures


def write_perturbed(file: Path, real: Structures, n: int, seed: int, mode: str = "w") -> None:
    """Write ``n`` structures as extended XYZ, each a perturbed copy of a real one."""
    random = np.random.default_rng(seed)
    forms = []
    for s in range(real.n_structures):
        atoms = slice(*real.structure_offsets[s : s + 2].tolist())
        lattice = " ".join(f"{x:.6f}" for x in real.cells[s].ravel())
        symbols = [CHEMICAL_SYMBOLS[z] for z in real.numbers[atoms]]
        lines = "".join(f"{symbol} %.6f %.6f %.6f\n" for symbol in symbols)
        comment = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
        forms.append((f"{len(symbols)}\n{comment}\n{lines}", real.positions[atoms]))
    with file.open(mode) as stream:
        for block in batched(range(n), 10_000):
            stream.write(
                "".join(
                    form % tuple((positions + random.normal(0, NOISE, positions.shape)).ravel())
                    for form, positions in (forms[i % len(forms)] for i in block)
                )
            )


def measure_lake(data: Path, n: int, folder: Path) -> None:
    """Bring ``n`` structures into a lake, then run again with nothing and with little to do."""
    real = real_structures(data)
    files = folder / "structures"
    files.mkdir()
    start = time.perf_counter()
    write_perturbed(files / "many.extxyz", real, n, seed=0)
    print(f"\n{n:,} structures, {real.n_atoms / real.n_structures:.1f} atoms each", flush=True)
    print(f"  made in {time.perf_counter() - start:.1f} s, {_nbytes(files) / 1e6:,.0f} MB of text")
    lake = folder / "lake"
    first = in_own_process(lake, files)
    _tell("first run", first, n)
    print(f"    {1e6 * first['wall'] / n:.1f} µs a structure, {first['n_units']} parts")
    catalogue = _nbytes(lake / "catalogue")
    print(
        f"    lake {_nbytes(lake) / 1e6:,.0f} MB, of which catalogue {catalogue / 1e6:,.2f} MB: "
        f"{catalogue / n:.0f} bytes a structure",
        flush=True,
    )
    _tell("second run, nothing to do", in_own_process(lake, files), 0)
    write_perturbed(files / "beside.extxyz", real, N_ADDED, seed=1)
    _tell("1,000 structures in a file beside", in_own_process(lake, files), N_ADDED)
    write_perturbed(files / "many.extxyz", real, N_ADDED, seed=2, mode="a")
    _tell("1,000 structures at the end of the large file", in_own_process(lake, files), N_ADDED)
    start = time.perf_counter()
    features = Lake.open(lake).features(str(DESCRIPTOR["kind"]))
    print(f"  features view of {features.sizes['structure']:,} structures opened in "
          f"{time.perf_counter() - start:.2f} s", flush=True)  # fmt: skip


def in_own_process(lake: Path, files: Path) -> dict[str, Any]:
    """Run the recipe in a fresh process; return what it measured, and its wall time."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "run", str(lake), str(files)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(result.stdout)
    return found | {"wall": time.perf_counter() - start}


def run_once(lake: Path, files: Path) -> dict[str, Any]:
    """Run the recipe here; return what it took."""
    recipe = Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": [{"path": str(files), "name": "many"}],
            "descriptors": [DESCRIPTOR],
            "cluster": {"kind": "local", "workers": WORKERS},
        }
    )
    before = peak_nbytes()
    outcome = run(recipe)
    return {
        "seconds": outcome.seconds,
        "n_structures": outcome.totals.n_structures,
        "n_units": len(outcome.plan.units),
        "workers": outcome.totals.seconds,
        "nbytes_before": before,
        "peak_nbytes": peak_nbytes(),
    }


def _tell(what: str, found: dict[str, Any], n: int) -> None:
    assert found["n_structures"] == n, (what, found["n_structures"], n)
    phases = ", ".join(f"{k} {v:.2f} s" for k, v in found["seconds"].items())
    print(f"  {what}: {found['wall']:.2f} s ({phases})")
    print(
        f"    driver's peak memory {found['peak_nbytes'] / 1e6:,.0f} MB, "
        f"{found['nbytes_before'] / 1e6:,.0f} MB of it after the imports",
        flush=True,
    )


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak_nbytes() -> int:
    """Peak memory of this process so far; what getrusage says starts with its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


# ----- Plans


class Synthetic(Reader):
    """``synthetic://N/SEED``: an index of N records of five atoms, and nothing to read."""

    format = "synthetic"
    title = "records that only the planner ever sees"
    patterns = ("synthetic://*",)

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Tell sources of different sizes apart."""
        return Fingerprint(0, 0, self.location)

    def index(self) -> FileIndex:
        """List records whose hashes depend on their position and the seed alone."""
        n, seed = map(int, self.source.path.removeprefix("synthetic://").split("/"))
        hashes = np.random.default_rng(seed).integers(0, 256, (n, 16), dtype=np.uint8)
        locations = np.zeros((n, 2), dtype=np.int64)
        locations[:, 0] = np.arange(n)
        return FileIndex(
            keys=numbered_keys(n),
            record_hashes=hashes,
            n_atoms=np.full(n, 5, dtype=np.int32),
            volumes=np.full(n, 60.0, dtype=np.float32),
            locations=locations,
        )

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Refuse: nobody may read what is only planned."""
        raise SourceError("there is nothing to read in a synthetic source")


def planning_recipe(lake: Path, n: int, seed: int = 0) -> Recipe:
    """Return a recipe for a synthetic source."""
    path = f"synthetic://{n}/{seed}"
    return Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": [{"path": path, "format": "synthetic", "name": "many"}],
            "descriptors": [DESCRIPTOR],
        }
    )


def fill_catalogue(lake: Path, n: int) -> None:
    """Write the catalogue that a run over ``n`` synthetic records would have left."""
    recipe = planning_recipe(lake, n)
    source, descriptor = recipe.sources[0], recipe.descriptors[0].build()
    index = sources.reader(source.path, source, lake).index()
    catalogue = Lake.create(lake).catalogue
    for rows in batched(range(n), recipe.parts.structures):
        part_id = uuid.uuid4().hex
        at = list(rows)
        fingerprint = Fingerprint(0, 0, source.path)
        piece = Piece(source, source.path, fingerprint, index.locations[at], index.keys[at],
                      index.record_hashes[at], np.zeros(len(at), np.uint32))  # fmt: skip
        frame = described(piece, range(len(at)), part_id)
        part = parts.PartRecord(
            part_id, f"parts/{part_id}/structures", len(at), 5 * len(at), (), ()
        )
        catalogue.publish_structures(frame, parts=[part], run_id="synthetic")
        catalogue.publish_features(
            [features_record(descriptor, part_id, len(at), 5 * len(at))], run_id="synthetic"
        )
    state = {"source": source.label, "location": source.path, **fingerprint._asdict()}
    options = {"options_hash": sources.options_hash(source.path, source), "n_structures": n}
    catalogue.publish_sources(pl.DataFrame([state | options | {"run_id": "synthetic"}]))


def described(piece: Piece, records: range, part_id: str) -> pl.DataFrame:
    """Rows of the structures table, as a task makes them."""
    return piece.described(records).with_columns(
        status=pl.lit("ok"),
        content_hash="record_hash",
        part_id=pl.lit(part_id),
        row=pl.int_range(pl.len()),
        first_atom=5 * pl.int_range(pl.len()),
        n_atoms=pl.lit(5),
        formula=pl.lit("ABO3"),
        pbc=pl.lit("TTT"),
    )


def features_record(
    descriptor: Descriptor, part_id: str, n_structures: int, n_rows: int
) -> parts.FeaturesRecord:
    """Return what a task reports of the features of a part."""
    return parts.FeaturesRecord(
        descriptor_id=descriptor.descriptor_id,
        kind=descriptor.kind,
        part_id=part_id,
        path=f"parts/{part_id}/{descriptor.descriptor_id}",
        gradients="none",
        strain=False,
        n_structures=n_structures,
        n_rows=n_rows,
        n_pairs=0,
        rows=None,
        structure_n_atoms=None,
        structure_n_pairs=None,
        set_aside={},
        max_neighbours=2000,
        files=(),
        seconds=1.0,
        versions={},
    )


def measure_plans(n: int, folder: Path) -> None:
    """Plan ``n`` records in fresh processes, for lakes that hold none, all, and others."""
    print(f"\n{n:,} records to plan", flush=True)
    _tell_plan("into an empty lake", planned_in_own_process(folder / "empty", n), n)
    start = time.perf_counter()
    fill_catalogue(folder / "full", n)
    nbytes = _nbytes(folder / "full" / "catalogue")
    print(f"  catalogue written in {time.perf_counter() - start:.0f} s: {nbytes / 1e6:,.0f} MB")
    _tell_plan("all there and unchanged", planned_in_own_process(folder / "full", n), 0)
    more = planned_in_own_process(folder / "full", n + N_ADDED)
    _tell_plan("changed, all compared: 1,000 are new", more, N_ADDED)
    others = planned_in_own_process(folder / "full", n, seed=1)
    _tell_plan("changed, all compared: every record is another", others, n)


def planned_in_own_process(lake: Path, n: int, seed: int = 0) -> dict[str, Any]:
    """Plan in a fresh process; return what it measured."""
    command = [sys.executable, __file__, "plan-once", str(lake), str(n), str(seed)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def plan_once(lake: Path, n: int, seed: int) -> dict[str, Any]:
    """Plan here; return what it took."""
    before = peak_nbytes()
    start = time.perf_counter()
    planned = preview(planning_recipe(lake, n, seed))
    seconds = time.perf_counter() - start
    return {
        "n_structures": planned.n_new,
        "n_units": len(planned.units),
        "seconds": seconds,
        "nbytes_before": before,
        "peak_nbytes": peak_nbytes(),
    }


def _tell_plan(what: str, found: dict[str, Any], n: int) -> None:
    assert found["n_structures"] == n, (what, found, n)
    print(
        f"  {what}: {found['seconds']:.1f} s, {found['n_units']} units, peak memory "
        f"{found['peak_nbytes'] / 1e6:,.0f} MB, {found['nbytes_before'] / 1e6:,.0f} MB of it "
        "after the imports",
        flush=True,
    )


# ----- A thousand workers


def measure_scheduler(n_workers: int, seconds: float, n_structures: int, rounds: int) -> None:
    """Let the engine submit tasks that sleep to many workers, and publish what they return.

    No two tasks of a real run take equally long, so each of these sleeps for half to one and a
    half times ``seconds``: otherwise a thousand workers would all come at the same moment.
    The scheduler, the driver and its commits are in this process, as in a real run; the workers
    are dask's own, with a thread each, all in one other process. Prints for how much of the
    time a worker waits between two tasks, and what a task costs this process.
    """
    from distributed import Client, LocalCluster

    units = sleeping_units(rounds * n_workers, n_structures, seconds)
    with (
        tempfile.TemporaryDirectory(prefix="atomlake-growth-") as folder,
        dask.config.set(DASK_SETTINGS),
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        command = [sys.executable, __file__, "sleepers", client.scheduler.address]
        command += [str(n_workers), str(seconds)]
        sleepers = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            client.wait_for_workers(n_workers, timeout=300)
            lake = Lake.create(Path(folder) / "lake")
            plan = Plan(units, {}, pl.DataFrame(), [], [], [], Estimate(), 0, 0)
            publisher = _Publisher(lake, plan, "sleep", lambda event: None)
            cpu, start, before = time.process_time(), time.time(), peak_nbytes()
            spans: dict[str, list[tuple[float, float]]] = {}
            slept = 0.0
            for unit, result in on_cluster(
                client,
                units,
                str(lake.path),
                Limits(),
                Local(workers=n_workers, memory="1GB"),
                lambda event: None,
            ):
                assert isinstance(result, UnitRecord), result
                span = result.seconds["start"], result.seconds["stop"]
                spans.setdefault(result.part.path, []).append(span)
                slept += result.seconds["sleep"]
                publisher.take(unit, result)
            publisher.flush()
            wall, cpu = time.time() - start, time.process_time() - cpu
        finally:
            sleepers.terminate()
            sleepers.wait()
    working = [max(b for _, b in span) - min(a for a, _ in span) for span in spans.values()]
    n_gaps = len(units) - len(spans)
    waited = (sum(working) - slept) / n_gaps
    print(
        f"\n{n_workers:,} workers, {len(units):,} tasks of {seconds / 2:g} to {1.5 * seconds:g} s, "
        f"each with {n_structures:,} structures to publish"
    )
    print(f"  between two tasks a worker waits {1e3 * waited:.0f} ms: {waited / seconds:.2%}")
    print(f"  from the first submission to the last commit {wall:.1f} s")
    print(
        f"  scheduler, driver and commits: {1e3 * cpu / len(units):.2f} ms of CPU a task, "
        f"{cpu / wall:.0%} of a core; memory {before / 1e6:,.0f} MB before, "
        f"{peak_nbytes() / 1e6:,.0f} MB at most"
    )


def sleeping_units(n: int, n_structures: int, seconds: float) -> list[Unit]:
    """Return units that are as large as real ones."""
    source = Source(path="synthetic://0/0", format="synthetic", name="many")
    entry = planning_recipe(Path("lake"), 0).descriptors[0]
    computed = (Task(entry.kind, entry.build().parameters, entry.wanted),)
    random = np.random.default_rng(0)
    return [
        Unit(
            source.label,
            (
                Piece(
                    source,
                    source.path,
                    Fingerprint(0, 0, ""),
                    records_of_a_file(random.integers(380, 420, n_structures)),
                    numbered_keys(n_structures),
                    random.integers(0, 256, (n_structures, 16), dtype=np.uint8),
                    np.zeros(n_structures, np.uint32),
                ),
            ),
            None,
            None,
            computed,
            Estimate(n_structures, 5 * n_structures, seconds=seconds),
        )
        for _ in range(n)
    ]


def records_of_a_file(nbytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return offsets and lengths of records that follow each other."""
    return np.stack([np.cumsum(nbytes) - nbytes, nbytes], axis=1)


def start_sleepers(address: str, n_workers: int, seconds: float) -> None:
    """Run workers that sleep, until they are stopped."""
    from distributed import Worker, get_worker

    records: dict[int, UnitRecord] = {}
    lock = threading.Lock()

    def sleep(lake: str, unit: Unit, limits: Limits) -> UnitRecord:
        start = time.time()
        (piece,) = unit.pieces
        with lock:
            if not records:
                records[0] = pretended(piece, unit)
        duration = seconds * uniform(0.5, 1.5)
        time.sleep(max(0.0, start + duration - time.time()))
        part_id = uuid.uuid4().hex
        return replace(
            records[0],
            part=parts.PartRecord(part_id, get_worker().name, len(piece), 0, (), ()),
            seconds={"start": start, "stop": time.time(), "sleep": duration},
        )

    async def serve() -> None:
        settings: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False}
        workers = [Worker(address, name=f"sleeper-{i}", **settings) for i in range(n_workers)]
        for some in batched(workers, 50):
            await asyncio.gather(*some)
        await asyncio.gather(*(worker.finished() for worker in workers))

    tasks.run_unit = sleep  # what a task calls, by its name
    with (
        dask.config.set(DASK_SETTINGS | NO_SELF_OBSERVATION),
        tempfile.TemporaryDirectory() as folder,
    ):
        dask.config.set({"temporary-directory": folder})
        asyncio.run(serve())


def pretended(piece: Piece, unit: Unit) -> UnitRecord:
    """Return the record of a unit of which nothing was computed."""
    frame = described(piece, range(len(piece)), "part")
    record = UnitRecord(frame, n_structures=len(piece))
    descriptor = unit.tasks[0].descriptor
    record.features.append(features_record(descriptor, "part", len(piece), 5 * len(piece)))
    return record


# ----- The command


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    lake = commands.add_parser("lake", help="lakes of these sizes, one after the other")
    lake.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    lake.add_argument("--data", type=Path, default=Path("../shared/data"))
    plan = commands.add_parser("plan", help="plans for these numbers of structures")
    plan.add_argument("--sizes", type=int, nargs="+", default=[10_000_000])
    many = commands.add_parser("scheduler", help="tasks that sleep, on many workers")
    many.add_argument("--workers", type=int, default=1000)
    many.add_argument("--seconds", type=float, default=8.0, help="of one task")
    many.add_argument("--structures", type=int, default=1000, help="of one task")
    many.add_argument("--rounds", type=int, default=5, help="tasks for each worker")
    sleepers = commands.add_parser("sleepers", help="the workers of scheduler, in this process")
    sleepers.add_argument("address")
    sleepers.add_argument("n_workers", type=int)
    sleepers.add_argument("seconds", type=float)
    one = commands.add_parser("run", help="one run, in this process")
    one.add_argument("lake", type=Path)
    one.add_argument("files", type=Path)
    once = commands.add_parser("plan-once", help="one plan, in this process")
    once.add_argument("lake", type=Path)
    once.add_argument("n", type=int)
    once.add_argument("seed", type=int)
    arguments = parser.parse_args()
    match arguments.command:
        case "lake":
            for n in arguments.sizes:
                with tempfile.TemporaryDirectory(prefix="atomlake-growth-") as folder:
                    measure_lake(arguments.data, n, Path(folder))
        case "plan":
            for n in arguments.sizes:
                with tempfile.TemporaryDirectory(prefix="atomlake-growth-") as folder:
                    measure_plans(n, Path(folder))
        case "scheduler":
            measure_scheduler(
                arguments.workers, arguments.seconds, arguments.structures, arguments.rounds
            )
        case "sleepers":
            start_sleepers(arguments.address, arguments.n_workers, arguments.seconds)
        case "run":
            print(json.dumps(run_once(arguments.lake, arguments.files)))
        case "plan-once":
            print(json.dumps(plan_once(arguments.lake, arguments.n, arguments.seed)))


# The registry finds the class under the name of this module, which is run as a program.
sources._REGISTRY.listed["synthetic"] = f"{__name__}:Synthetic"

if __name__ == "__main__":
    main()
