"""Real services on this machine: started, used and stopped by the tests that need them.

They install Debian's packages and need root, so they run only when asked for: ``make services``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(HERE.parent / "faults"))

from observing import content  # noqa: E402

from atomlake.lake import Lake  # noqa: E402
from atomlake.lake.verify import verify  # noqa: E402

NBMOTAW = DATA / "snap_mvl" / "NbMoTaW.extxyz.xz"
SPECIES = ["Nb", "Mo", "Ta", "W"]

#: Cheap to compute and to compare, with gradients.
FUNCTIONS = {
    "kind": "symmetry_functions",
    "gradients": "pairs",
    "parameters": {
        "species": SPECIES,
        "cutoff": 4.5,
        "g2": [[0.05, 0.0], [0.5, 1.0]],
        "dtype": "float32",
    },
}


def angles(cutoff):
    """Takes long and next to no space: the time grows with the sixth power of the cutoff."""
    term = {
        "geometry": "cosine",
        "grid": {"start": -1.0, "stop": 1.0, "n_bins": 40, "sigma": 0.2},
        "weighting": {"function": "smooth_cutoff", "cutoff": cutoff},
    }
    return {"kind": "mbtr", "parameters": {"species": SPECIES, "dtype": "float32", "terms": [term]}}


ANGLES = angles(7.5)


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.service)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="services are started as root"))


class Workbench:
    """A folder with recipes, lakes, and the lake that an undisturbed local run makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ)
        self.prefix: list[str] = []

    def recipe(self, name, cluster, descriptors=(FUNCTIONS,), **more) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "lake": str(self.folder / name),
                    "sources": [{"path": str(NBMOTAW), "name": "NbMoTaW"}],
                    "descriptors": list(descriptors),
                    "cluster": cluster,
                    "parts": {"structures": 100},
                }
                | more,
                sort_keys=False,
            )
        )
        return path

    def start(self, *arguments) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "atomlake", *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def do(self, *arguments, timeout=600) -> str:
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, output
        return output

    def wait_for_units(self, name, n_units, process=None, timeout=300) -> None:
        """Wait until the newest run of a lake has had so many units back."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            logs = sorted((self.folder / name / "logs").glob("*.jsonl"))
            done = [
                line
                for line in (logs[-1].read_text().splitlines() if logs else [])
                if '"UnitDone"' in line
            ]
            if len(done) >= n_units:
                return
            assert process is None or process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        raise AssertionError(f"no {n_units} units of {name} after {timeout} s")

    def workers_of(self, name) -> set[str]:
        lines = [
            json.loads(line)
            for log in (self.folder / name / "logs").glob("*.jsonl")
            for line in log.read_text().splitlines()
        ]
        return {line["worker"] for line in lines if line["event"] == "UnitDone"}

    def must_equal(self, name, expected) -> None:
        """Require that a lake is whole, and bit by bit what the local run made."""
        lake = Lake.open(self.folder / name)
        assert not verify(lake).problems
        assert content(lake) == content(Lake.open(self.folder / expected))


@pytest.fixture(scope="session")
def workbench(tmp_path_factory):
    if not NBMOTAW.exists():
        pytest.skip(f"{NBMOTAW} is absent")
    bench = Workbench(tmp_path_factory.mktemp("services"))
    local = {"kind": "local", "workers": 2, "dashboard": False}
    bench.do("run", bench.recipe("expected", local))
    return bench


@pytest.fixture(scope="session")
def expected_angles(workbench):
    local = {"kind": "local", "workers": 2, "dashboard": False}
    workbench.do("run", workbench.recipe("expected_angles", local, [ANGLES]))
    return "expected_angles"
