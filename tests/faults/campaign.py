"""Kills runs, in every way there is, and looks at what they leave.

::

    python tests/faults/campaign.py                  every point, and 120 kills at random times
    python tests/faults/campaign.py --points 8 --random 2 --explicit 2

Each cycle kills (-9) a run in a fresh lake, then runs the same recipe again undisturbed and
compares the lake, structure by structure and bit by bit, with one that nobody ever disturbed.
Nothing may have been committed twice, and nothing may be left to do. All the while a reader opens
the lake again and again, and reads everything in it.

- *Scripted*: the run computes in the driver's process, which is killed before and after each file
  of a part, and before, in the middle of and after each commit. Every point is tried.
- *Compaction*: the same, for ``atomlake compact`` of a lake of many small parts.
- *Purge*: the same, for ``atomlake purge`` of all that is old in a lake that was compacted.
- *Local*: ``atomlake run`` on its local cluster. The driver (in whose process dask's scheduler and
  nannies live), a worker, or the process that workers are forked from is killed at a random time,
  or a worker at a scripted point.
- *Explicit*: scheduler, nannies, workers and driver are processes of their own, killed at random
  times.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "injection")]

import kill_points  # noqa: E402

from atomlake.clusters.forking import WORKER_ENVIRONMENT  # noqa: E402

# Processes are forked from this one, which therefore must not start threads.
os.environ.update(WORKER_ENVIRONMENT)
# Before atomlake imports what changes tables.
kill_points.wrap_commits()

import contextlib  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from datetime import timedelta  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from ase.build import bulk, molecule  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402
from observing import Content, Reader, committed_twice, content, stray  # noqa: E402

from atomlake import recipe as recipes  # noqa: E402
from atomlake.engine import run as running  # noqa: E402
from atomlake.engine.run import preview, run  # noqa: E402
from atomlake.engine.tasks import warm  # noqa: E402
from atomlake.lake import Lake  # noqa: E402
from atomlake.lake.compaction import compact  # noqa: E402
from atomlake.lake.garbage import collect, purge, unpublished  # noqa: E402
from atomlake.lake.verify import verify  # noqa: E402

#: Seconds after which a run that was disturbed is said to hang.
PATIENCE = 120.0


class Failure(Exception):
    """What the campaign is there to find."""


# ----- The recipe


def make_recipe(folder: Path, lake: Path, n_structures: int, part_size: int) -> Path:
    """Write a recipe: molecules and crystals, some to be set aside; features and gradients."""
    file = folder / "structures.xyz"
    if not file.exists():
        rng = np.random.default_rng(7)
        templates = [molecule("CH3CH2OH"), molecule("H2O"), bulk("Cu", cubic=True), molecule("CO2")]
        structures = []
        for i in range(n_structures):
            atoms = templates[i % len(templates)].copy()
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            forces = rng.normal(size=atoms.positions.shape)
            if i == n_structures // 2:  # nothing can describe it
                atoms.positions[:] = 0.0
            if i == n_structures - 1:  # of an element that the descriptors do not know
                atoms.symbols[:] = "He"
            atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces)
            structures.append(atoms)
        write(file, structures, format="extxyz")
    parameters = {"species": ["H", "C", "O", "Cu"], "cutoff": 3.0}
    path = folder / f"{lake.name}.yaml"
    path.write_text(
        json.dumps(
            {
                "lake": str(lake),
                "sources": [{"path": str(file), "name": "db"}],
                "descriptors": [
                    {
                        "kind": "soap",
                        "gradients": "pairs",
                        "parameters": {**parameters, "n_max": 2, "l_max": 2, "sigma": 0.5},
                    },
                    {
                        "kind": "symmetry_functions",
                        "parameters": {**parameters, "g2": [[0.5, 1.0]]},
                    },
                ],
                "cluster": {"kind": "local", "workers": 2, "dashboard": False},
                "parts": {"structures": part_size},
            }
        )
    )
    return path


# ----- Processes


def in_child(work: Callable[[], None], log: Path) -> int:
    """Fork, work, and return the child's process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        log.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def wait_for(child: int, log: Path) -> bool:
    """Wait for a child; whether it was killed. It does not survive the waiting.

    Raises
    ------
    Failure
        If it failed, or hangs.
    """
    end = time.monotonic() + PATIENCE
    found = status = 0
    try:
        while not found:
            if time.monotonic() > end:
                raise Failure(f"a run hangs for more than {PATIENCE} s")
            time.sleep(0.005)
            found, status = os.waitpid(child, os.WNOHANG)
    finally:
        if not found:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise Failure(log.read_text())
    return False


class Run:
    """A run in a session of its own, of which no process survives leaving it."""

    def __init__(self, command: list[str], log: Path, settings: dict[str, object] | None) -> None:
        environment = dict(os.environ)
        if settings is not None:
            environment[kill_points.VARIABLE] = json.dumps(settings)
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(HERE / "injection"), environment.get("PYTHONPATH", "")]
            )
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=stream, env=environment, start_new_session=True
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def members(self) -> list[psutil.Process]:
        """All processes of the session that are alive."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid and process.status() != "zombie":
                    found.append(process)
        return found

    def wait(self, victim: str) -> int:
        """Wait for the end of a run that lost ``victim``.

        Raises
        ------
        Failure
            If it does not come.
        """
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            said = self.log.read_text(errors="replace")[-2000:]
            raise Failure(f"without {victim} a run hangs for {PATIENCE} s: {said}") from None


# ----- The campaign


class Campaign:
    """Kills, checks and counts."""

    def __init__(self, folder: Path, n_structures: int, seed: int) -> None:
        self.folder = folder
        self.n_structures = n_structures
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.n_cycles = 0
        self.n_survived = 0
        self.n_orphans = 0
        self.points: list[str] = []
        self.compaction_points: list[str] = []
        self.purge_points: list[str] = []
        self.log = folder / "log"
        self.current = folder / "current"
        self.stop = folder / "stop"
        self.report = folder / "report.json"
        self.reports: list[dict[str, Any]] = []
        self.expected: Content = {}

    def prepare(self) -> None:
        """Make the lake that is never disturbed, and list the points."""
        lake = self.folder / "undisturbed"
        record = self.folder / "points"
        asked = recipes.load(make_recipe(self.folder, lake, self.n_structures, 8))
        # A commit for every part, so that there are states between the first and the last.
        running.PUBLISH_INTERVAL = 0.0
        # Compiled once; the processes that are forked inherit them.
        warm([(entry.build(), entry.wanted) for entry in asked.descriptors])

        def work() -> None:
            kill_points.points.arm(str(lake), record=str(record))
            run(asked, executor="synchronous")
            kill_points.points.lake = ""
            found = content(Lake.open(lake))
            (self.folder / "expected.json").write_text(json.dumps(found))

        wait_for(in_child(work, self.log), self.log)
        self.points = record.read_text().splitlines()
        self.expected = json.loads((self.folder / "expected.json").read_text())
        assert len(self.expected["structures"]) == self.n_structures - 1
        assert len(self.expected["set aside"]) == 1 + len(asked.descriptors)
        self.current.write_text(str(lake))

    def prepare_maintenance(self) -> None:
        """Make a lake of small parts and a compacted one; list the points of their maintenance."""
        lake, compacted = self.folder / "small-parts", self.folder / "compacted"
        purged = self.folder / "purged"
        asked = recipes.load(make_recipe(self.folder, lake, self.n_structures, 4))
        compaction, purges = (self.folder / f"points-of-{what}" for what in ("compaction", "purge"))

        def work() -> None:
            run(asked, executor="synchronous")
            shutil.copytree(lake, compacted)
            kill_points.points.arm(str(compacted), record=str(compaction))
            compact(compacted)
            shutil.copytree(compacted, purged)
            kill_points.points.arm(str(purged), record=str(purges))
            purge(purged, timedelta(0))

        wait_for(in_child(work, self.log), self.log)
        self.compaction_points = compaction.read_text().splitlines()
        self.purge_points = purges.read_text().splitlines()

    @contextlib.contextmanager
    def read_in_parallel(self) -> Iterator[None]:
        """Have a reader at work."""
        reader = Reader(self.expected)
        child = in_child(lambda: reader.watch(self.current, self.stop, self.report), self.log)
        try:
            yield
        finally:
            self.stop.touch()
            wait_for(child, self.log)
            self.stop.unlink()
            self.reports.append(json.loads(self.report.read_text()))

    def fresh(self, part_size: int) -> tuple[Path, Path]:
        """Return a lake that is not there yet and a recipe for it; remove the one before."""
        before = Path(self.current.read_text())
        self.n_cycles += 1
        lake = self.folder / f"lake-{self.n_cycles}"
        self.current.write_text(str(lake))
        if before.name != "undisturbed":
            shutil.rmtree(before, ignore_errors=True)
        return lake, make_recipe(self.folder, lake, self.n_structures, part_size)

    def converge(self, lake: Path, recipe: Path, what: str, *, is_moved: bool = False) -> None:
        """Run undisturbed, and compare; structures that moved were committed again for that."""

        def work() -> None:
            asked = recipes.load(recipe)
            run(asked, executor="synchronous")
            if not preview(asked).is_empty:
                raise Failure("a run that was not disturbed leaves something to do")
            if not is_moved and (twice := committed_twice(Lake.open(lake))):
                raise Failure("\n".join(twice))
            (self.folder / "orphans").write_text(str(len(collect(lake, timedelta(0)))))
            self.compare(lake)

        try:
            wait_for(in_child(work, self.log), self.log)
        except Failure as failure:
            raise Failure(f"after {what}: {failure}") from None
        self.n_orphans += int((self.folder / "orphans").read_text())

    def compare(self, path: Path) -> None:
        """Compare a lake with the undisturbed one.

        Raises
        ------
        Failure
            If they differ.
        """
        lake = Lake.open(path)
        found = content(lake)
        problems = stray(found, self.expected)
        problems += [
            f"{view}: {len(digests)} structures, and there must be {len(self.expected[view])}"
            for view, digests in found.items()
            if len(digests) != len(self.expected[view])
        ]
        problems += [f"{view} is not there" for view in self.expected if view not in found]
        problems += [str(problem) for problem in verify(lake, deep=True).problems]
        if problems:
            raise Failure("\n".join(problems))

    # ----- Ways to kill

    def at_point(self, nth: int) -> None:
        """Kill a run that computes in its own process at a scripted point."""
        lake, recipe = self.fresh(8)
        token = self.folder / "token"
        token.unlink(missing_ok=True)

        def work() -> None:
            kill_points.points.arm(str(lake), nth=nth, token=str(token))
            run(recipes.load(recipe), executor="synchronous")

        is_killed = wait_for(in_child(work, self.log), self.log)
        what = f"a kill at point {nth} ({self.points[nth - 1]})"
        self.count("driver, scripted" if is_killed else None)
        self.converge(lake, recipe, what)

    def in_compaction(self, nth: int) -> None:
        """Kill a compaction at a scripted point, then run and compact undisturbed."""
        lake, recipe = self.fresh(4)
        # The reader looks at a lake as soon as it is there.
        shutil.copytree(self.folder / "small-parts", self.folder / "copy").rename(lake)
        token = self.folder / "token"
        token.unlink(missing_ok=True)

        def work() -> None:
            kill_points.points.arm(str(lake), nth=nth, token=str(token))
            compact(lake)

        is_killed = wait_for(in_child(work, self.log), self.log)
        self.count("compaction, scripted" if is_killed else None)
        what = f"a kill at point {nth} of a compaction ({self.compaction_points[nth - 1]})"
        self.converge(lake, recipe, what, is_moved=True)

        def again() -> None:
            compact(lake)
            purge(lake, timedelta(hours=1))
            self.compare(lake)
            parts = Lake.open(lake).catalogue.structures(["part_id"]).drop_nulls().unique()
            assert len(parts.collect()) == 1

        wait_for(in_child(again, self.log), self.log)

    def in_purge(self, nth: int) -> None:
        """Kill a purge of all that is old at a scripted point, then purge undisturbed.

        It protects nobody who opened the lake before: the reader in parallel looks elsewhere.
        """
        self.n_cycles += 1
        lake = self.folder / "purged"
        shutil.rmtree(lake)
        shutil.copytree(self.folder / "compacted", lake)
        recipe = make_recipe(self.folder, lake, self.n_structures, 4)
        token = self.folder / "token"
        token.unlink(missing_ok=True)

        def work() -> None:
            kill_points.points.arm(str(lake), nth=nth, token=str(token))
            purge(lake, timedelta(0))

        def again() -> None:
            self.compare(lake)
            purge(lake, timedelta(0))
            self.compare(lake)
            if left := unpublished(lake):
                raise Failure(f"two purges leave {left}")

        is_killed = wait_for(in_child(work, self.log), self.log)
        self.count("purge, scripted" if is_killed else None)
        what = f"a kill at point {nth} of a purge ({self.purge_points[nth - 1]})"
        try:
            wait_for(in_child(again, self.log), self.log)
        except Failure as failure:
            raise Failure(f"after {what}: {failure}") from None
        self.converge(lake, recipe, what, is_moved=True)

    def on_local_cluster(self, victim: str, longest: float) -> None:
        """Kill a process of ``atomlake run``: the driver, a worker or the workers' parent."""
        lake, recipe = self.fresh(2)
        token = self.folder / "token"
        token.unlink(missing_ok=True)
        settings: dict[str, object] | None = None
        if victim == "worker, scripted":
            nth = self.random.randint(1, len(self.points))
            settings = {"lake": str(lake), "role": "worker", "nth": nth, "token": str(token)}
        command = [sys.executable, "-m", "atomlake", "run", str(recipe), "--quiet"]
        with Run(command, self.log, settings) as processes:
            if settings is None:
                self.wait_until_started(lake, processes)
                time.sleep(self.random.uniform(0, longest))
                is_killed = self.kill_one(processes, victim)
            if victim != "driver":
                self.note(victim, processes.wait(victim))
            if settings is not None:
                is_killed = token.exists()
            self.count(victim if is_killed else None)
            # What the dead driver left running may still write while the next run is at work.
            self.converge(lake, recipe, f"a kill of the {victim}")

    def on_explicit_cluster(self, victim: str, longest: float) -> None:
        """Kill a process of a cluster that was not started by the run."""
        lake, recipe = self.fresh(2)
        command = [sys.executable, str(HERE / "explicit_cluster.py"), str(recipe)]
        with Run(command, self.log, None) as processes:
            self.wait_until_started(lake, processes)
            time.sleep(self.random.uniform(0, longest))
            is_killed = self.kill_one(processes, victim)
            if victim != "driver":
                self.note(victim, processes.wait(victim))
            self.count(f"explicit {victim}" if is_killed else None)
            self.converge(lake, recipe, f"a kill of the {victim} of an explicit cluster")

    def wait_until_started(self, lake: Path, processes: Run) -> None:
        """Until the first part appears, most of the time; else kill what still starts."""
        if self.random.random() < 0.8:
            while processes.process.poll() is None and not list(lake.glob("parts/*/*")):
                time.sleep(0.005)

    def kill_one(self, processes: Run, victim: str) -> bool:
        """Kill one process of a run; whether there was one."""
        candidates = [p for p in processes.members() if role(p, processes.process.pid) == victim]
        if not candidates:
            return False
        chosen = self.random.choice(candidates)
        with contextlib.suppress(psutil.NoSuchProcess):
            chosen.kill()
            chosen.wait()
        return True

    def note(self, victim: str, code: int) -> None:
        """Note how a run ended that had lost one of its processes."""
        self.codes[f"{victim}: {code}"] += 1
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            print(f"without {victim}, code {code}: {lines[-1][:300]}", file=sys.stderr)

    def count(self, kill: str | None) -> None:
        """Count a kill, or a run that ended before its kill."""
        if kill is None:
            self.n_survived += 1
        else:
            self.kills[kill] += 1

    def summary(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "points": len(self.points),
            "points_of_compaction": len(self.compaction_points),
            "points_of_purge": len(self.purge_points),
            "cycles": self.n_cycles,
            "kills": sum(self.kills.values()),
            "kills_by_victim": dict(self.kills),
            "exit_codes_of_runs_that_went_on": dict(self.codes),
            "runs_that_ended_before_their_kill": self.n_survived,
            "groups_left_behind_and_collected": self.n_orphans,
            "reader_opened": sum(r["opened"] for r in self.reports),
            "reader_saw_unfinished": sum(r["unfinished"] for r in self.reports),
            "reader_reread": sum(r["reread"] for r in self.reports),
            "reader_problems": [p for r in self.reports for p in r["problems"]],
        }


def role(process: psutil.Process, leader: int) -> str:
    """Say what a process of a run is."""
    try:
        command = " ".join(process.cmdline())
        parent = process.parent()
        parents = " ".join(parent.cmdline()) if parent is not None else ""
    except psutil.Error:
        return "gone"
    if "distributed.cli.dask_scheduler" in command or "dask scheduler" in command:
        return "scheduler"
    if "dask worker" in command:
        return "nanny"
    if "forkserver" in command:
        return "worker" if "forkserver" in parents else "parent of the workers"
    if "explicit_cluster.py" in command and "--driver" in command:
        return "driver"
    if process.pid == leader and "explicit_cluster.py" not in command:
        return "driver"
    if "multiprocessing.spawn" in command:
        return "worker"
    return "other"


def spread(n_points: int, n_wanted: int | None) -> list[int]:
    """Return all points, or some spread evenly, counted from 1."""
    n = n_points if n_wanted is None else min(n_wanted, n_points)
    return [1 + i * n_points // n for i in range(n)]


# ----- Command


@click.command()
@click.option("--points", type=int, help="Scripted points to try, spread evenly; all if not given.")
@click.option("--compaction", type=int, help="The same for the points of a compaction.")
@click.option("--purge", "n_purge", type=int, help="The same for the points of a purge.")
@click.option(
    "--random", "n_random", default=80, show_default=True, help="Kills on the local cluster."
)
@click.option(
    "--explicit", "n_explicit", default=40, show_default=True, help="Kills on an explicit cluster."
)
@click.option("--structures", default=16, show_default=True, help="Structures of the recipe.")
@click.option("--minutes", type=float, help="Begin no kill after that time.")
@click.option("--seed", default=1, show_default=True, help="Of the random times and victims.")
def main(
    points: int | None,
    compaction: int | None,
    n_purge: int | None,
    n_random: int,
    n_explicit: int,
    structures: int,
    minutes: float | None,
    seed: int,
) -> None:
    """Kill runs in every way there is; print the counts as JSON; fail if anything was lost."""
    started = time.monotonic()
    # As an interrupt does, it ends every `with` and `finally`, and so children and folder.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="atomlake-faults-"))
    # What dead workers leave among temporary files goes with the folder.
    os.environ["TMPDIR"] = str(folder)
    campaign = Campaign(folder, structures, seed)
    failures = []
    try:
        campaign.prepare()
        campaign.prepare_maintenance()
        cycles: list[Callable[[], None]] = [
            lambda n=n: campaign.at_point(n) for n in spread(len(campaign.points), points)
        ]
        cycles += [
            lambda n=n: campaign.in_compaction(n)
            for n in spread(len(campaign.compaction_points), compaction)
        ]
        cycles += [
            lambda n=n: campaign.in_purge(n) for n in spread(len(campaign.purge_points), n_purge)
        ]
        local = ["driver", "worker", "worker, scripted", "parent of the workers"]
        cycles += [
            lambda v=local[i % 4]: campaign.on_local_cluster(v, 0.6) for i in range(n_random)
        ]
        explicit = ["scheduler", "nanny", "worker", "driver"]
        cycles += [
            lambda v=explicit[i % 4]: campaign.on_explicit_cluster(v, 0.6)
            for i in range(n_explicit)
        ]
        with campaign.read_in_parallel():
            for i, cycle in enumerate(cycles):
                if minutes is not None and time.monotonic() - started > 60 * minutes:
                    break
                try:
                    cycle()
                except Failure as failure:
                    failures.append(str(failure))
                    print(f"FAILED: {failure}", file=sys.stderr, flush=True)
                if i % 20 == 19:
                    print(f"{i + 1} of {len(cycles)} cycles", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    summary = campaign.summary()
    failures += summary["reader_problems"]
    print(
        json.dumps(
            summary | {"losses": len(failures), "seconds": round(time.monotonic() - started, 1)},
            indent=2,
        )
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
