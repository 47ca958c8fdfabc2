"""A real Slurm of two nodes: whatever dies, the lake becomes what a local run makes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import stopped_by

from conftest import ANGLES, HERE, angles


@pytest.fixture(scope="module")
def slurm(workbench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with stopped_by(HERE / "slurm.sh", "stop", folder):
        subprocess.run([HERE / "slurm.sh", "start", folder, "2", "2"], check=True, timeout=300)
        workbench.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        yield Slurm(folder)
    workbench.environment = dict(os.environ)


class Slurm:
    def __init__(self, folder):
        self.folder = folder

    def call(self, *command):
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def jobs(self):
        return self.call("squeue", "-h", "-t", "R", "-o", "%i").split()

    def job_at_work(self, workbench, name):
        """The job whose worker has computed something and is alive."""
        for worker in workbench.workers_of(name):
            job = _variables(worker.split()[-1]).get("SLURM_JOB_ID")
            if job in self.jobs():
                return job
        raise AssertionError(f"no worker of {name} is alive")

    def wait_until_empty(self):
        for _ in range(600):
            if not self.call("squeue", "-h", "-o", "%i").split():
                return
            time.sleep(0.1)
        raise AssertionError(self.call("squeue"))


@pytest.fixture
def cluster(workbench):
    return {
        "kind": "slurm",
        "workers": 2,
        "memory": "2GB",
        "walltime": "00:30:00",
        "queue": "main",
        "interface": "lo",
        "shared_folder": str(workbench.folder / "shared"),
        "local_folder": str(workbench.folder),
    }


def test_the_cluster_is_found_to_work(workbench, slurm, cluster):
    output = workbench.do("cluster", "check", workbench.recipe("checked", cluster))
    assert "the cluster would work" in output
    slurm.wait_until_empty()


def test_jobs_compute_what_the_local_run_computed(workbench, slurm, cluster):
    workbench.do("run", workbench.recipe("undisturbed", cluster))
    workbench.must_equal("undisturbed", "expected")
    slurm.wait_until_empty()


def test_a_job_that_is_cancelled_is_replaced(workbench, slurm, cluster):
    recipe = workbench.recipe("cancelled", cluster, [ANGLES])
    run = workbench.start("run", recipe)
    workbench.wait_for_units("cancelled", 3, run)
    slurm.call("scancel", slurm.job_at_work(workbench, "cancelled"))
    workbench.wait_for_units("cancelled", 20, run)
    slurm.call("scancel", "--signal=KILL", "--full", slurm.job_at_work(workbench, "cancelled"))
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output
    assert len(workbench.workers_of("cancelled")) >= 2


def test_and_the_lake_is_the_same(workbench, expected_angles):
    workbench.must_equal("cancelled", expected_angles)


def test_wall_time_ends_jobs_and_needs_nobody(workbench, slurm, cluster):
    local = {"kind": "local", "workers": 2, "dashboard": False}
    workbench.do("run", workbench.recipe("expected_long", local, [angles(12.0)]), timeout=1500)
    short = cluster | {"walltime": "00:01:00", "workers": 1}
    run = workbench.start("run", workbench.recipe("expired", short, [angles(12.0)]))
    output, _ = run.communicate(timeout=2400)
    assert run.returncode == 0, output
    workbench.must_equal("expired", "expected_long")
    assert len(workbench.workers_of("expired")) >= 2, "no job reached its wall time"


def test_a_node_that_dies_is_done_without(workbench, slurm, cluster):
    run = workbench.start("run", workbench.recipe("node", cluster, [ANGLES]))
    workbench.wait_for_units("node", 3, run)
    job = slurm.jobs()[0]
    node = slurm.call("squeue", "-h", "-j", job, "-o", "%N").strip()
    daemon = int((slurm.folder / "pid" / f"slurmd.{node}.pid").read_text())
    os.kill(daemon, signal.SIGKILL)
    for process in _of_job(job):
        os.kill(process, signal.SIGKILL)
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output
    workbench.must_equal("node", "expected_angles")
    environment = {**os.environ, "SLURM_CONF": str(slurm.folder / "slurm.conf")}
    subprocess.run(
        ["slurmd", "-f", environment["SLURM_CONF"], "-N", node], env=environment, check=True
    )


def test_a_driver_that_is_killed_goes_on_when_started_again(workbench, slurm, cluster):
    recipe = workbench.recipe("driver", cluster)
    run = workbench.start("run", recipe)
    workbench.wait_for_units("driver", 5, run)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    workbench.do("run", recipe)
    workbench.must_equal("driver", "expected")
    # the orphaned jobs end by themselves: nobody is left to answer them
    slurm.wait_until_empty()


def test_one_allocation_holds_everything(workbench, slurm, cluster):
    allocation = {
        "kind": "slurm-allocation",
        "memory": "2GB",
        "interface": "lo",
        "shared_folder": cluster["shared_folder"],
    }
    recipe = workbench.recipe("allocation", allocation)
    script = workbench.folder / "allocation.sh"
    script.write_text(f"#!/bin/bash\nsrun {sys.executable} -m atomlake run {recipe}\n")
    output = slurm.call(
        "sbatch", "--parsable", "--ntasks=4", "--mem-per-cpu=1500M", f"--chdir={workbench.folder}",
        f"--output={workbench.folder}/allocation.out", str(script),
    )  # fmt: skip
    assert re.match(r"\d+", output)
    slurm.wait_until_empty()
    assert (workbench.folder / "allocation").exists(), (
        workbench.folder / "allocation.out"
    ).read_text()
    workbench.must_equal("allocation", "expected")


def test_a_job_array_with_one_task_killed(workbench, slurm):
    """Two commands of a site that wants nothing but sbatch: the array, and what comes after."""
    recipe = workbench.recipe("array", {"kind": "local", "workers": 1, "dashboard": False})
    atomlake = f"{sys.executable} -m atomlake"
    workbench.do("init", recipe)
    common = ["--parsable", f"--chdir={workbench.folder}", f"--output={workbench.folder}/array.out"]
    task = f"{atomlake} run {recipe} --part-of $((SLURM_ARRAY_TASK_ID + 1))/4"
    array = slurm.call("sbatch", *common, "--array=0-3", "--mem=2G", "--wrap", task).strip()
    records = workbench.folder / "array" / "shares"
    while not list(records.glob("*.json")):
        time.sleep(0.1)
    slurm.call("scancel", "--signal=KILL", f"{array}_2")
    after = f"{atomlake} publish {recipe} || {atomlake} run {recipe}"
    slurm.call("sbatch", *common, f"--dependency=afterany:{array}", "--mem=4G", "--wrap", after)
    slurm.wait_until_empty()
    workbench.must_equal("array", "expected")


def _variables(process):
    """The environment in which a process was started; none if it is gone."""
    try:
        text = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def _of_job(job):
    """Processes that Slurm started for a job."""
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    return [int(p) for p in processes if _variables(p).get("SLURM_JOB_ID") == job]
