"""Two machines that are reached by SSH: their workers make the lake that a local run makes."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from servers import stopped_by

from atomlake.errors import ExitCode
from conftest import HERE

PATIENCE = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with stopped_by(HERE / "ssh.sh", "stop", folder):
        subprocess.run([HERE / "ssh.sh", "start", folder, str(port)], check=True, timeout=300)
        yield folder, port


@pytest.fixture
def cluster(workbench, server):
    folder, port = server
    yield {
        "kind": "ssh",
        "hosts": ["127.0.0.1", "127.0.0.2"],
        "port": port,
        "identity": str(folder / "key"),
        "known_hosts": str(folder / "known_hosts"),
        "memory": "2GB",
        "shared_folder": str(workbench.folder / "shared"),
        "environment": {"OF_THE_TEST": str(folder)},
    }
    assert not list(left_behind(folder))


def left_behind(folder):
    """Workers that outlive their run: a variable tells those of this test."""
    waited_until = time.monotonic() + PATIENCE
    while time.monotonic() < waited_until:
        found = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_worker(pid, folder)]
        if not found:
            return []
        time.sleep(0.2)
    return found


def is_worker(pid, folder):
    try:
        return f"OF_THE_TEST={folder}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_the_cluster_is_found_to_work(workbench, cluster):
    output = workbench.do("cluster", "check", workbench.recipe("ssh_checked", cluster))
    assert "the cluster would work" in output


def test_machines_compute_what_the_local_run_computed(workbench, cluster):
    workbench.do("run", workbench.recipe("ssh", cluster))
    assert len(workbench.workers_of("ssh")) == 2
    workbench.must_equal("ssh", "expected")


def test_a_machine_whose_key_is_not_known_is_refused(workbench, cluster, tmp_path):
    (tmp_path / "known_hosts").touch()
    recipe = workbench.recipe("unknown", cluster | {"known_hosts": str(tmp_path / "known_hosts")})
    run = workbench.start("run", recipe)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == ExitCode.CLUSTER, output
    assert "127.0.0.1" in output
    assert "not trusted" in output
