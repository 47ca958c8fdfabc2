"""Every kind of cluster: strict settings, a script without starting anything, encryption."""

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from atomlake import clusters
from atomlake.clusters import local
from atomlake.clusters.batch import Batch
from atomlake.clusters.certificates import Certificates, issued
from atomlake.errors import ClusterError, RecipeError
from atomlake.recipe import parse

ROOT = Path(__file__).parents[2]
KINDS = [clusters.get(name) for name in clusters.names()]
BATCH = [kind for kind in KINDS if issubclass(kind, Batch)]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def kind(request):
    return request.param


@pytest.fixture(params=BATCH, ids=lambda kind: kind.kind)
def batch(request, tmp_path):
    return request.param.model_validate(
        request.param.example | {"shared_folder": tmp_path, "interface": "lo"}
    )


def test_its_example_is_a_valid_section_of_a_recipe(kind):
    import yaml

    section = yaml.safe_dump({"cluster": {"kind": kind.kind} | kind.example})
    cluster = parse("lake: lake\nsources: [{path: 'ase:g2'}]\n" + section).cluster
    assert type(cluster) is kind
    assert cluster.n_workers >= 1
    assert cluster.memory_per_worker >= 1e9


def test_unknown_settings_are_refused(kind):
    with pytest.raises(ValidationError, match="wrokers"):
        kind.model_validate(kind.example | {"wrokers": 2})


def test_a_script_starts_nothing_and_names_what_the_job_needs(batch):
    script = batch.script()
    assert "-m distributed.cli.dask_worker tls://SCHEDULER:PORT" in script
    assert "--nthreads 1" in script
    assert "NUMBA_NUM_THREADS=1" in script
    assert "DASK_DISTRIBUTED__WORKER__PRELOAD=atomlake.engine.preload" in script
    assert re.search(r"--tls-key \S+/CERTIFICATES/cluster.key", script)


def test_workers_retire_before_the_wall(batch):
    assert "--lifetime" not in batch.model_copy(update={"walltime": timedelta(minutes=5)}).script()
    long = batch.model_validate(batch.example | {"walltime": "01:40:00"})
    assert "--lifetime 5100s --lifetime-stagger 600s" in long.script()


def test_a_kind_without_a_script_says_so():
    with pytest.raises(ClusterError, match="has no script"):
        clusters.get("local")().script()


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{kind: address, scheduler: 'tcp://10.0.0.1:8786'}", "on another machine and not enc"),
        ("{kind: address, scheduler: 'tls://10.0.0.1:8786'}", "needs certificates"),
        ("{kind: address, scheduler: 'login1'}", "is no address such as"),
        ("{kind: kubernetes, image: i}", "speaks plain TCP"),
        ("{kind: htcondor, queue: main}", "has no queues"),
        ("{kind: slurm, walltime: '00:00:10'}", "a minute at least"),
        ("{kind: slurm, site: /nowhere.yaml}", "the site file /nowhere.yaml cannot be read"),
        ("{kind: slurn}", "no cluster kind is called 'slurn'"),
    ],
)
def test_what_cannot_work_is_refused_by_the_recipe(section, expected):
    with pytest.raises(RecipeError, match=re.escape(expected)):
        parse(f"lake: lake\nsources: [{{path: 'ase:g2'}}]\ncluster: {section}\n")


def test_a_site_file_gives_what_the_recipe_does_not_say():
    site = ROOT / "cluster" / "sites" / "slurm-example.yaml"
    slurm = clusters.get("slurm").model_validate({"site": str(site), "queue": "gpu"})
    assert (slurm.queue, slurm.memory) == ("gpu", 4 * 10**9)
    with pytest.raises(ValidationError, match="is for 'slurm' and the recipe for 'pbs'"):
        clusters.get("pbs").model_validate({"site": str(site)})


# ----- Certificates


@pytest.fixture(params=["issued for a run", "made by the script"])
def certificates(request, tmp_path):
    if request.param == "issued for a run":
        with issued(tmp_path) as files:
            assert files.key.stat().st_mode & 0o077 == 0
            yield files
        assert not files.key.exists()
    else:
        folder = tmp_path / "made"
        subprocess.run([ROOT / "cluster" / "certificates.sh", folder], check=True)
        assert (folder / "cluster.key").stat().st_mode & 0o077 == 0
        yield Certificates.in_folder(folder)


def test_a_scheduler_with_certificates_serves_only_who_has_them(certificates):
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=1,
        processes=False,
        threads_per_worker=1,
        host="127.0.0.1",
        protocol="tls://",
        security=certificates.security(),
        dashboard_address="127.0.0.1:0",
    ) as running:
        settings = {
            "scheduler": running.scheduler_address,
            "certificates": certificates.model_dump(),
        }
        with clusters.get("address").model_validate(settings).open() as client:
            assert client.submit(sum, [1, 2]).result() == 3
        with pytest.raises((OSError, TypeError)):
            Client(running.scheduler_address, timeout=2)


def test_no_answer_is_told(monkeypatch):
    monkeypatch.setattr("atomlake.clusters.address.PATIENCE", 1)
    nobody = clusters.get("address")(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match="no scheduler answers at"), nobody.open():
        pass


def test_a_nanny_that_gives_up_is_replaced(monkeypatch):
    lost = {"distributed.deploy.lost-worker-timeout": "1 s"}
    monkeypatch.setattr(local, "LOCAL_SETTINGS", local.LOCAL_SETTINGS | lost)
    cluster = local.Local(workers=1, memory="1GB", dashboard=False)
    with cluster.open() as client:
        (before,) = client.scheduler_info()["workers"]
        (nanny,) = client.cluster.workers.values()
        client.sync(nanny.close)
        assert client.submit(os.getpid).result(timeout=60) != os.getpid()
        (after,) = client.scheduler_info()["workers"]
    assert after != before
