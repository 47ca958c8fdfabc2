"""A schedule of every minute for ten minutes: a long run, a crash, a time that is missed."""

import faulthandler
import os
import signal
import subprocess
import threading
import time
from datetime import timedelta

import pytest
import yaml
from ase.build import molecule
from ase.io import write

from atomlake.lake import Lake
from conftest import ANGLES

MINUTES = 10


# pytest would take ten minutes for a hanging test
pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def patience():
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def kept(workbench):
    """A recipe that fires every minute, over a folder that grows, and who keeps it."""
    folder = workbench.folder / "growing"
    folder.mkdir()
    write(folder / "0.xyz", molecule("H2O"), format="extxyz")
    content = yaml.safe_load(
        workbench.recipe("kept", {"kind": "local", "workers": 1}, [ANGLES]).read_text()
    )
    content["sources"].append({"path": str(folder), "name": "growing"})
    content["descriptors"] = [
        ANGLES | {"sources": ["NbMoTaW"]},
        {
            "kind": "symmetry_functions",
            "sources": ["growing"],
            "parameters": {"species": ["H", "O"], "g2": [[0.5, 1.0]], "cutoff": 4.0},
        },
    ]
    content["schedule"] = {"cron": "* * * * *", "retries": 2, "back_off": 5}
    content["checks"] = {"largest_drift": None}
    recipe = workbench.folder / "kept.yaml"
    recipe.write_text(yaml.safe_dump(content))
    keeper = Kept(workbench, recipe, folder)
    yield keeper
    keeper.stop()


class Kept:
    def __init__(self, workbench, recipe, folder):
        self.workbench, self.recipe, self.folder = workbench, recipe, folder
        self.lines = []
        self.n_files = 1

    def start(self):
        self.process = self.workbench.start("schedule", self.recipe)
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        self.process.wait(timeout=120)
        self.listener.join()
        self.process.stdout.close()

    def grow(self):
        write(self.folder / f"{self.n_files}.xyz", molecule("H2O"), format="extxyz")
        self.n_files += 1

    def wait_for(self, text, seconds):
        end = time.monotonic() + seconds
        seen = len(self.lines)
        while time.monotonic() < end:
            if any(text in line for line in self.lines[seen:]):
                return
            time.sleep(0.05)
        raise AssertionError(f"{text!r} was not said in {seconds} s:\n" + "\n".join(self.lines))

    def wait_until_at_work(self, seconds):
        """Wait until a run has planned and started: it opens its log then."""
        logs = self.workbench.folder / "kept" / "logs"
        seen, end = set(logs.glob("*")), time.monotonic() + seconds
        while set(logs.glob("*")) == seen:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.3)

    def running(self):
        """Processes of ``atomlake run`` that the schedule has started."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]


def test_ten_minutes(kept, workbench):
    began = time.monotonic()
    # nobody keeps the time of the first run: it is there already when the schedule starts
    workbench.do("run", workbench.recipe("unrelated", {"kind": "local", "workers": 1}))
    kept.start()

    # a run is held up until the next one falls due
    kept.wait_for("run, attempt 1", 130)
    kept.wait_until_at_work(30)
    held_up = kept.running()
    for process in held_up:
        os.kill(process, signal.SIGSTOP)
    kept.wait_for("this time is left out", 70)
    for process in held_up:
        os.kill(process, signal.SIGCONT)
    kept.wait_for("check ended with 0", 600)

    # a run that is killed is repeated
    kept.grow()
    kept.wait_for("run, attempt 1", 130)
    kept.wait_until_at_work(30)
    for process in kept.running():
        os.kill(process, signal.SIGKILL)
    kept.wait_for("was killed by SIGKILL", 60)
    kept.wait_for("check ended with 0", 300)

    # nobody keeps the schedule for two times, and the machine comes back
    kept.stop()
    kept.grow()
    time.sleep(130)
    kept.start()
    kept.wait_for("was missed; it runs now", 90)
    kept.wait_for("check ended with 0", 300)

    while time.monotonic() < began + 60 * MINUTES:
        time.sleep(1)
    kept.stop()

    lake = Lake.open(workbench.folder / "kept")
    runs = lake.runs().sort("started")
    counts = dict(runs["status"].value_counts().iter_rows())
    print(f"{len(runs)} runs {counts}, {sum('left out' in line for line in kept.lines)} left out")
    assert counts.pop("killed") == 1
    assert set(counts) == {"finished"}
    ended = runs.filter(runs["status"] == "finished")
    for before, after in zip(ended["finished"], ended["started"][1:], strict=False):
        assert after >= before - timedelta(seconds=1), "two runs at once"
    sources = dict(lake.catalogue.structures(["source"]).collect()["source"].value_counts().rows())
    assert sources == {"NbMoTaW": 5658, "growing": kept.n_files}
