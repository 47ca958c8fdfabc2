"""kill -9 of whatever there is, then the same command: the lake is as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")


def campaign(*options):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CAMPAIGN), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    return json.loads(done.stdout)


def test_a_killed_run_is_completed_by_the_same_command():
    """Some of the points, and the driver and a worker of a cluster."""
    counts = campaign(
        *("--points", "4", "--compaction", "2", "--purge", "2", "--random", "2", "--explicit", "0")
    )
    assert counts["kills"] >= 7
    assert counts["kills"] + counts["runs_that_ended_before_their_kill"] == counts["cycles"]
    assert counts["reader_saw_unfinished"] > 0
    assert counts["losses"] == 0


@pytest.mark.slow
def test_a_campaign_that_is_terminated_leaves_nothing_behind(tmp_path):
    """Neither a process of its runs, of its reader or of its clusters, nor its folder."""
    options = ["--points", "0", "--compaction", "0", "--purge", "0", "--random", "0"]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(CAMPAIGN), *options],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("*/lake-*/parts")):
            time.sleep(0.01)
        assert len(processes_with(tmp_path)) > 3
        process.terminate()
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []
    assert processes_with(tmp_path) == []


def processes_with(folder):
    """Processes that write their temporary files to a folder, or below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_run_can_be_killed_anywhere():
    counts = campaign()
    assert counts["kills"] > 300
    assert counts["losses"] == 0
