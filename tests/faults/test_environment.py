"""A disk that is full or read-only, permissions that are missing, a clock that goes backwards.

Each time the run stops and says why, the lake stays good, and the next run converges. What
becomes of sources that change or disappear is in ``tests/engine/test_changing_sources.py``.

Scenarios with disks of their own run in a process with its own table of mounts, which ends with
it: a test that is killed leaves nothing mounted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from ase.io import write

from atomlake.engine import run as engine_run
from atomlake.engine.run import run
from atomlake.errors import ExitCode
from atomlake.lake import Lake
from atomlake.lake.verify import verify
from atomlake.recipe import load

#: How a scenario says that it is not allowed to mount.
NOT_ALLOWED = 77
#: Root without the right to pass over permissions is anybody.
AS_ANYBODY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def recipe_for(folder, n_structures):
    """Write a source and a recipe whose lake is ``folder``/lake; return its path."""
    structures = [bulk("Cu", a=3.5 + i / 1e4) * (2, 2, 2) for i in range(n_structures)]
    write(folder.parent / "copper.xyz", structures, format="extxyz")
    parameters = {"species": ["Cu"], "cutoff": 4.0, "n_max": 4, "l_max": 3, "sigma": 0.5}
    recipe = {
        "lake": str(folder / "lake"),
        "sources": [{"path": str(folder.parent / "copper.xyz"), "name": "copper"}],
        "descriptors": [{"kind": "soap", "gradients": "pairs", "parameters": parameters}],
        "cluster": {"kind": "local", "workers": 1, "dashboard": False},
        "parts": {"structures": 10},
    }
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def atomlake_run(path, *options, prefix=()):
    """Run the command; return its exit code and what it printed."""
    command = [*prefix, sys.executable, "-m", "atomlake", "run", str(path), "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


def assert_good(folder, n_structures):
    lake = Lake.open(folder / "lake")
    assert not verify(lake).problems
    assert len(lake.catalogue.structures().collect()) == n_structures


# ----- Scenarios that mount, each in a process of its own


def mount(*arguments):
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"this process may not mount: {done.stderr.strip()}")
        sys.exit(NOT_ALLOWED)


def disk_of_memory(folder, size):
    folder.mkdir()
    try:
        os.unshare(os.CLONE_NEWNS)
    except OSError as problem:
        print(f"this process may not have mounts of its own: {problem}")
        sys.exit(NOT_ALLOWED)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))


def full(folder):
    """Others fill the disk while the run is at work: what was published stays."""
    disk_of_memory(folder, "40M")
    assert atomlake_run(recipe_for(folder, 20))[0] == ExitCode.DONE
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(b"\0" * (free - 2 * 2**20))
    # The plan counts on the whole disk: what it sees as free is what a quota would let it see.
    recipe = recipe_for(folder, 100)
    code, said = atomlake_run(recipe)
    assert code == ExitCode.REFUSED, said
    assert "free" in said
    mount("-o", "remount,size=120M", str(folder))
    command = [sys.executable, __file__, "fill", str(folder)]
    filling = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert filling.stdout.readline() == b"ready\n"
    code, said = atomlake_run(recipe)
    filling.wait(60)
    assert code == ExitCode.LAKE, said
    assert "No space left" in said, said
    lake = Lake.open(folder / "lake")
    assert not verify(lake).problems
    assert len(lake.catalogue.structures().collect()) >= 20
    ballast.unlink()
    (folder / "fill").unlink()
    assert atomlake_run(recipe)[0] == ExitCode.DONE
    assert_good(folder, 100)


def fill(folder):
    """Fill the disk as soon as the run has begun to write."""
    before = len(list((folder / "lake" / "catalogue" / "runs").rglob("*.parquet")))
    print("ready", flush=True)
    while len(list((folder / "lake" / "catalogue" / "runs").rglob("*.parquet"))) == before:
        pass
    with (folder / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def read_only(folder):
    """The disk of the lake may only be read: nothing is done, and readers go on."""
    disk_of_memory(folder, "100M")
    assert atomlake_run(recipe_for(folder, 5))[0] == ExitCode.DONE
    mount("-o", "remount,ro", str(folder))
    code, said = atomlake_run(recipe_for(folder, 10))
    assert code == ExitCode.LAKE, said
    assert "Read-only" in said, said
    assert_good(folder, 5)
    mount("-o", "remount,rw", str(folder))
    assert atomlake_run(recipe_for(folder, 10))[0] == ExitCode.DONE
    assert_good(folder, 10)


@pytest.mark.parametrize("scenario", [pytest.param("full", marks=pytest.mark.slow), "read_only"])
def test_a_disk_that_is(scenario, tmp_path):
    command = [sys.executable, __file__, scenario, str(tmp_path / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == NOT_ALLOWED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


# ----- Scenarios of this process


@pytest.mark.parametrize("what", ["lake", "catalogue/structures/_delta_log", "parts"])
def test_a_lake_that_may_not_be_written(what, tmp_path):
    if AS_ANYBODY and subprocess.run([*AS_ANYBODY, "true"], check=False).returncode:
        pytest.skip("root cannot give up its rights here")
    folder = tmp_path / "disk"
    folder.mkdir()
    assert atomlake_run(recipe_for(folder, 5), "--executor", "synchronous")[0] == ExitCode.DONE
    recipe = recipe_for(folder, 10)
    closed = folder / "lake" / ("." if what == "lake" else what)
    closed.chmod(0o500)
    code, said = atomlake_run(recipe, "--executor", "synchronous", prefix=AS_ANYBODY)
    closed.chmod(0o700)
    assert code in (ExitCode.LAKE, ExitCode.DONE), said
    if code == ExitCode.LAKE:
        assert "ermission denied" in said, said
    lake = Lake.open(folder / "lake")
    assert not verify(lake).problems
    assert atomlake_run(recipe, "--executor", "synchronous")[0] == ExitCode.DONE
    assert_good(folder, 10)


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    """Every look at the clock shows a day less than the one before; what counts is the order."""
    folder = tmp_path / "disk"
    folder.mkdir()
    days = count()

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=next(days))

    monkeypatch.setattr(engine_run, "datetime", Clock)
    for n_structures in (5, 12, 12):
        outcome = run(load(recipe_for(folder, n_structures)), executor="synchronous")
        assert outcome.is_complete
        assert_good(folder, n_structures)
    assert outcome.totals.n_structures == 0
    runs = Lake.open(folder / "lake").runs()
    assert runs["status"].to_list() == ["finished"] * 3
    assert len(Lake.open(folder / "lake").features("soap").structure_id) == 12


if __name__ == "__main__":
    {"full": full, "fill": fill, "read_only": read_only}[sys.argv[1]](Path(sys.argv[2]))
