"""A structure that ends every worker that tries it costs that structure, not the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.io import write
from distributed import KilledWorker, Status
from distributed.scheduler import WorkerState

from atomlake.descriptors import get
from atomlake.engine import execute, known
from atomlake.engine.run import preview
from atomlake.engine.tasks import run_unit
from atomlake.engine.units import memory_of_worker
from atomlake.errors import SetAside
from atomlake.lake import Lake
from atomlake.lake.verify import verify

PROBLEM = SetAside("killed_worker", "it does")


class DeathError(Exception):
    """Stands for what a cluster says of a dead worker."""


@pytest.fixture
def deadly(database, monkeypatch):
    """A database whose ammonia is deadly, and the calls of a cluster whose workers die of it."""
    kind = get("symmetry_functions")
    compute_rows = kind.compute_rows
    deaths = Counter()

    def dies_of_nitrogen(self, structures, *arguments):
        if (structures.numbers == 7).any():
            raise KeyboardInterrupt
        compute_rows(self, structures, *arguments)

    monkeypatch.setattr(kind, "compute_rows", dies_of_nitrogen)

    def attempt(lake, unit, limits):
        try:
            return run_unit(lake, unit, limits)
        except KeyboardInterrupt:
            deaths[len(unit)] += 1
            return DeathError()

    def on_workers(units, lake, limits):
        return execute.without_fatal(
            units, lambda unit: attempt(lake, unit, limits), PROBLEM, DeathError
        )

    monkeypatch.setattr(execute, "in_this_process", on_workers)
    database.deaths = deaths
    return database


def formulas(database):
    return set(database.features())


def test_new_structures_are_halved_until_it_is_found(deadly):
    outcome = deadly.run()
    assert outcome.is_complete
    assert outcome.totals.set_aside == {"killed_worker": 1}
    assert outcome.totals.n_structures == 5
    assert deadly.deaths == {5: 1, 2: 1, 1: 1}
    assert formulas(deadly) == {"H2O", "CH4", "CO2", "Cu4"}
    rejected = deadly.open().rejected()
    assert rejected["code"].to_list() == ["killed_worker"]
    assert rejected["reason"].to_list() == ["it does"]
    assert not verify(deadly.open()).problems


def test_features_of_an_existing_part_stay_together(deadly):
    functions = deadly.descriptors
    deadly.descriptors = []
    deadly.run()
    deadly.descriptors = functions
    outcome = deadly.run()
    assert outcome.is_complete
    assert outcome.totals.set_aside == {"killed_worker": 1}
    assert formulas(deadly) == {"H2O", "CH4", "CO2", "Cu4"}
    assert len(deadly.open().catalogue.features().collect()) == 1
    assert deadly.open().rejected()["key"].to_list() == ["1"]
    assert not verify(deadly.open()).problems


def test_a_part_of_which_all_is_fatal(deadly):
    deadly.structures = [molecule("NH3")]
    deadly.save()
    functions = deadly.descriptors
    deadly.descriptors = []
    deadly.run()
    deadly.descriptors = functions
    assert deadly.run().totals.set_aside == {"killed_worker": 1}


def test_with_the_same_memory_it_is_not_tried_again_and_with_more_it_is(deadly, monkeypatch):
    deadly.run()
    monkeypatch.setattr(known, "memory_of_worker", lambda memory_nbytes: PROBLEM.reason)
    assert preview(deadly.recipe).is_empty
    monkeypatch.setattr(known, "memory_of_worker", memory_of_worker)
    assert preview(deadly.recipe).n_new == 1
    monkeypatch.setattr(execute, "without_fatal", None)
    monkeypatch.undo()
    outcome = deadly.run()
    assert outcome.totals.n_structures == 1
    assert formulas(deadly) == {"H2O", "H3N", "CH4", "CO2", "Cu4"}
    assert len(deadly.open().rejected()) == 0


def test_features_that_were_fatal_are_tried_again_with_more_memory(deadly, monkeypatch):
    functions = deadly.descriptors
    deadly.descriptors = []
    deadly.run()
    deadly.descriptors = functions
    deadly.run()
    monkeypatch.undo()
    deadly.run()
    assert formulas(deadly) == {"H2O", "H3N", "CH4", "CO2", "Cu4"}


def test_where_everything_is_fatal_the_search_ends(deadly, monkeypatch):
    monkeypatch.setattr(execute, "MAX_DEATHS", 4)
    deadly.structures = [molecule("NH3")] * 8
    deadly.save()
    outcome = deadly.run()
    assert not outcome.is_complete
    assert sum(deadly.deaths.values()) == 4
    assert "more memory" not in outcome.totals.failures[0]
    assert "enough memory" in outcome.totals.failures[0]


class Nannies:
    """A client that knows the workers of some nannies."""

    def __init__(self, *nannies):
        self.nannies = nannies

    def scheduler_info(self):
        return {"workers": {f"tcp://{i}": {"nanny": n} for i, n in enumerate(self.nannies)}}


@pytest.mark.parametrize(
    ("of_the_dead", "alive", "is_own"),
    [
        ("tcp://a", ["tcp://b", "tcp://a"], True),
        ("tcp://a", ["tcp://b"], False),
        (None, ["tcp://b", None], False),
    ],
)
def test_a_death_is_a_tasks_own_where_the_nanny_lives_on(of_the_dead, alive, is_own):
    worker = WorkerState(
        address="tcp://dead:1",
        status=Status.closed,
        pid=1,
        name="dead",
        nthreads=1,
        memory_limit=0,
        local_directory="",
        nanny=of_the_dead,
        server_id="dead",
    )
    death = KilledWorker(task="unit", last_worker=worker, allowed_failures=3)
    assert execute.is_own_death(Nannies(*alive), death, deadline=0.0) is is_own


@pytest.mark.parametrize(("n_lost", "is_complete"), [(2, True), (10**6, False)])
def test_units_whose_jobs_are_lost_are_never_set_aside(database, monkeypatch, n_lost, is_complete):
    tried = []

    def loses_its_job(client, units, lake, limits, window):
        for unit in units:
            tried.append(unit)
            lost = len(tried) <= n_lost
            yield unit, KilledWorker("unit", None, 3) if lost else run_unit(lake, unit, limits)

    monkeypatch.setattr(execute, "_in_window", loses_its_job)
    monkeypatch.setattr(execute, "is_own_death", lambda client, death, deadline: False)
    client = SimpleNamespace(subscribe_topic=lambda topic, handler: None)
    jobs = SimpleNamespace(n_workers=1, memory_per_worker=0, has_jobs=True)
    monkeypatch.setattr(
        execute,
        "in_this_process",
        lambda units, lake, limits: execute.on_cluster(client, units, lake, limits, jobs, print),
    )
    outcome = database.run()
    assert outcome.is_complete is is_complete
    assert not outcome.totals.set_aside
    assert len(tried) == execute.MAX_LOSSES
    if not is_complete:
        assert "lost together with their jobs" in outcome.totals.failures[0]
        monkeypatch.undo()
        assert database.run().is_complete
    assert len(database.open().catalogue.structures().collect()) == 5


DEADLY = """
import os
import signal
from typing import ClassVar

import numpy as np

from atomlake.descriptors.base import Descriptor, LabelColumn


class Deadly(Descriptor):
    kind: ClassVar[str] = "deadly"
    family: ClassVar[str] = "tests"
    title: ClassVar[str] = "Deadly for helium"
    citations: ClassVar[tuple] = ()
    gradients: ClassVar[tuple] = ()
    cutoff: float = 1.0

    @property
    def n_features(self):
        return 1

    def label_columns(self):
        return {"nothing": LabelColumn(np.zeros(1))}

    def _environments(self, structures, neighbours, first, last, rows):
        if (structures.numbers[first:last] == 2).any():
            os.kill(os.getpid(), signal.SIG)
        rows.features[...] = 1.0
"""

ENTRY_POINT = """[atomlake.descriptors]
deadly = deadly:Deadly
"""


@pytest.mark.parametrize(
    ("death", "fatal"),
    [("SIGKILL", [11]), pytest.param("SIGSEGV", [3, 29], marks=pytest.mark.slow)],
)
def test_real_workers_that_really_die(tmp_path, death, fatal):
    """A package with a descriptor beside ours, which dies of some of forty structures."""
    package = tmp_path / "site"
    (package / "deadly-1.dist-info").mkdir(parents=True)
    (package / "deadly.py").write_text(DEADLY.replace("signal.SIG)", f"signal.{death})"))
    (package / "deadly-1.dist-info" / "METADATA").write_text("Name: deadly\nVersion: 1\n")
    (package / "deadly-1.dist-info" / "entry_points.txt").write_text(ENTRY_POINT)
    structures = [Atoms("He" if i in fatal else "Ar", positions=[[0.0, 0.0, i]]) for i in range(40)]
    write(tmp_path / "gases.xyz", structures)
    recipe = {
        "lake": str(tmp_path / "lake"),
        "sources": [{"path": str(tmp_path / "gases.xyz"), "name": "gases"}],
        "descriptors": [{"kind": "deadly"}],
        "cluster": {"kind": "local", "workers": 2, "memory": "1GB", "dashboard": False},
        "parts": {"structures": 10},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    path = f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "atomlake", "run", str(tmp_path / "recipe.yaml"), "--quiet"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lake = Lake.open(tmp_path / "lake")
    rejected = lake.rejected()
    assert rejected["code"].to_list() == ["killed_worker"] * len(fatal)
    assert sorted(map(int, rejected["key"].to_list())) == fatal
    assert len(lake.catalogue.structures().collect()) == 40
    assert not verify(lake).problems
