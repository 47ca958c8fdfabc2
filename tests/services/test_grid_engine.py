"""A real Grid Engine: the same recipe, the same lake."""

import subprocess

import pytest
from servers import stopped_by

from conftest import HERE


@pytest.fixture(scope="module")
def grid_engine(workbench):
    with stopped_by(HERE / "grid_engine.sh", "stop"):
        subprocess.run([HERE / "grid_engine.sh", "start"], check=True, timeout=300)
        workbench.prefix = ["nsenter", "--net=/run/netns/alsge"]
        workbench.environment |= {"SGE_ROOT": "/var/lib/gridengine", "SGE_CELL": "default"}
        yield
    workbench.prefix = []


def test_jobs_compute_what_the_local_run_computed(workbench, grid_engine):
    cluster = {
        "kind": "sge",
        "workers": 2,
        "memory": "2GB",
        "walltime": "00:30:00",
        "queue": "default",
        "interface": "lo",
        "shared_folder": str(workbench.folder / "shared"),
        "local_folder": str(workbench.folder),
    }
    recipe = workbench.recipe("grid_engine", cluster)
    assert "the cluster would work" in workbench.do("cluster", "check", recipe)
    workbench.do("run", recipe)
    workbench.must_equal("grid_engine", "expected")
