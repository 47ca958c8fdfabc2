"""kill -9 of whatever there is, then the same command: the lake is as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
def test_a_run_can_be_killed_anywhere():
    counts = campaign()
    assert counts["kills"] > 300
    assert counts["losses"] == 0
