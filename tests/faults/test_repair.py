"""kill -9 of a repair, at every step: no reader loses anything, and the next repair completes it.

The short form kills at some of the steps. All of them:

    pytest -m slow tests/faults/test_repair.py -s
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from ase.build import molecule
from ase.io import write
from observing import content

from atomlake.engine.repair import repair
from atomlake.engine.run import run
from atomlake.errors import LakeError
from atomlake.lake import Lake
from atomlake.recipe import load

INJECTION = Path(__file__).with_name("injection")
#: How a process ends that is killed at a point, or by the clock a moment after.
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
KEYS = [str(i) for i in range(6)]
REPAIR = """
import sys
from atomlake.engine.repair import repair
from atomlake.recipe import load
recipe = load(sys.argv[1])
repair(recipe.lake, recipe, executor="synchronous")
"""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A recipe whose lake is damaged in the structures of one part and the features of another."""
    folder = tmp_path_factory.mktemp("repair")
    names = ("H2O", "NH3", "CH4", "CO2", "C2H6", "CH3OH")
    write(folder / "s.xyz", [molecule(name) for name in names], format="extxyz")
    g2 = {"g2": [[0.05, 0.0]], "species": ["H", "C", "N", "O"], "cutoff": 3.0}
    recipe = {
        "lake": str(folder / "lake"),
        "sources": [{"path": str(folder / "s.xyz"), "name": "s"}],
        "descriptors": [{"kind": "symmetry_functions", "gradients": "pairs", "parameters": g2}],
        "parts": {"structures": 3},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(load(path), executor="synchronous")
    whole = content(Lake.open(folder / "lake"), with_ids=True)
    first, second = sorted(folder.glob("lake/parts/*"))
    flip(first / "structures" / "positions" / "c" / "0" / "0")
    flip(next(second.glob("symmetry_functions-*/features/c/0/*")))
    (folder / "lake").rename(folder / "damaged")
    return path, whole


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


@pytest.fixture
def lake(damaged):
    path = damaged[0].parent / "lake"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(path.with_name("damaged"), path)
    return path


def killed_repair(recipe, nth):
    """Repair in a process that is killed at the ``nth`` point, none if 0; list its points."""
    record, token = recipe.with_name("points"), recipe.with_name("token")
    record.unlink(missing_ok=True)
    token.unlink(missing_ok=True)
    points = {
        "lake": str(recipe.parent / "lake"),
        "nth": nth,
        "token": str(token),
        "record": str(record),
    }
    path = f"{INJECTION}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", REPAIR, str(recipe)],
        env={**os.environ, "PYTHONPATH": path, "ATOMLAKE_KILL_POINT": json.dumps(points)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode in KILLED) if token.exists() else not done.returncode, done.stderr
    return record.read_text().splitlines()


def readable(lake):
    """What a reader gets of each structure, where it is not damaged."""
    views = {
        "structures": lake.structures,
        "features": lambda **of: lake.features("symmetry_functions", **of),
        "gradients": lambda **of: lake.gradients("symmetry_functions", **of),
    }
    found = {}
    for view, open_view in views.items():
        for key in KEYS:
            try:
                data = open_view(key=key).load()
            except LakeError:
                continue
            if data.sizes.get("structure", 1) and len(data["structure_id"]):
                found[view, key] = data
    return found


def assert_completed_after_kills(damaged, lake, chosen):
    """Kill repairs at points of which ``chosen`` picks some."""
    recipe, whole = damaged
    before = readable(Lake.open(lake))
    assert 0 < len(before) < 3 * len(KEYS)
    counts = Counter()
    points = killed_repair(recipe, 0)
    for nth in chosen(points):
        shutil.rmtree(lake)
        shutil.copytree(lake.with_name("damaged"), lake)
        killed_repair(recipe, nth)
        after = readable(Lake.open(lake))
        for what, data in before.items():
            assert what in after, f"{what} was readable before {points[nth - 1]}"
            assert after[what].equals(data)
        repaired = repair(lake, load(recipe), executor="synchronous")
        assert not repaired.problems, points[nth - 1]
        assert content(Lake.open(lake), with_ids=True) == whole
        counts["kills"] += 1
        counts["structures that were readable before the next repair"] += len(after)
    print(f"\n{len(points)} points, {dict(counts)}, losses 0")
    return counts


def test_a_repair_that_is_killed_between_its_commits(damaged, lake):
    def chosen(points):
        wanted = ("after commit features", "before commit structures", "after commit structures")
        return [len(points) - points[::-1].index(what) for what in wanted]

    assert assert_completed_after_kills(damaged, lake, chosen)["kills"] == 3


@pytest.mark.slow
def test_a_repair_that_is_killed_anywhere(damaged, lake):
    counts = assert_completed_after_kills(damaged, lake, lambda points: range(1, len(points) + 1))
    assert counts["kills"] > 30
