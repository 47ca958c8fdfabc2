"""Three hosts in network namespaces, encrypted; the link of one is cut while it works."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ANGLES, HERE, ROOT

HOSTS = ("alhost1", "alhost2", "alhost3")


def network(*arguments):
    subprocess.run([HERE / "network.sh", *map(str, arguments)], check=True, timeout=120)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates") / "made"
    subprocess.run([ROOT / "cluster" / "certificates.sh", folder], check=True)
    return folder


@pytest.fixture
def hosts(workbench):
    network("stop")
    network("start", len(HOSTS))
    workbench.prefix = ["nsenter", "--net=/run/netns/alhub"]
    yield
    workbench.prefix = []
    network("stop")


@contextlib.contextmanager
def scheduler_and_workers(workbench, certificates, silence):
    """What somebody runs on machines of a network: dask's own commands, as documented."""
    tls = [
        f"--tls-ca-file={certificates}/authority.pem",
        f"--tls-cert={certificates}/cluster.pem",
        f"--tls-key={certificates}/cluster.key",
    ]
    environment = {
        **os.environ,
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": silence,
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    log = (workbench.folder / "dask.log").open("a")

    def start(host, *command):
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{host}", sys.executable, "-m", *command, *tls],
            env=environment,
            cwd=workbench.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    processes = [
        start(
            "alhub",
            "distributed.cli.dask_scheduler",
            "--host=tls://10.77.0.1",
            "--port=8786",
            "--no-dashboard",
        )
    ]
    processes += [
        start(
            host,
            "distributed.cli.dask_worker",
            "tls://10.77.0.1:8786",
            f"--host=tls://10.77.0.1{i}",
            "--nthreads=1",
            "--memory-limit=2GB",
            "--no-dashboard",
            f"--name={host}",
            f"--local-directory={workbench.folder}/{host}",
        )
        for i, host in enumerate(HOSTS, start=1)
    ]
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.mark.parametrize(
    ("seconds", "silence"),
    [(10, "300s"), (75, "300s"), (None, "30s")],
    ids=["for 10 s", "for 75 s", "for good"],
)
def test_a_link_that_is_cut(
    workbench, expected_angles, hosts, certificates, seconds, silence, request
):
    name = "cut-" + request.node.callspec.id.replace(" ", "-")
    cluster = {
        "kind": "address",
        "scheduler": "tls://10.77.0.1:8786",
        "workers": len(HOSTS),
        "memory": "2GB",
        "certificates": {
            "authority": f"{certificates}/authority.pem",
            "certificate": f"{certificates}/cluster.pem",
            "key": f"{certificates}/cluster.key",
        },
    }
    with scheduler_and_workers(workbench, certificates, silence):
        recipe = workbench.recipe(name, cluster, [ANGLES])
        assert "the cluster would work" in workbench.do("cluster", "check", recipe)
        run = workbench.start("run", recipe)
        workbench.wait_for_units(name, 3, run)
        network("cut", 2)
        mending = threading.Timer(seconds or 1e6, network, ("mend", 2))
        mending.start()
        started = time.monotonic()
        output, _ = run.communicate(timeout=1500)
        mending.cancel()
    assert run.returncode == 0, output
    print(f"{name}: done {time.monotonic() - started:.0f} s after the cut")
    assert len(workbench.workers_of(name)) == 3 or seconds is None
    workbench.must_equal(name, expected_angles)
