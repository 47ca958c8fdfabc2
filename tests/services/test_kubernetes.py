"""Kubernetes objects are what the API server and the dask operator accept: checked offline.

There is no cluster here. The operator's own schemas come inside its wheel; those of Kubernetes
inside kubernetes-validate. Both are installed in an environment of their own.
"""

import json
import subprocess
import sys

import pytest
import yaml

from conftest import HERE, ROOT

sys.path.insert(0, str(ROOT / "tests" / "oracles"))
from environments import interpreter

OBJECTS = [
    (path, document)
    for path in sorted((ROOT / "cluster" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.fixture(scope="module")
def python():
    return interpreter("kubernetes")


def problems(python, kind, document):
    done = subprocess.run(
        [python, HERE / "validate_kubernetes.py", kind],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "document", [d for _, d in OBJECTS], ids=[f"{p.name}-{d['kind']}" for p, d in OBJECTS]
)
def test_what_cluster_holds_is_valid(python, document):
    assert problems(python, "kubernetes", document) == []


def test_a_misspelt_key_is_found(python):
    cronjob = next(d for _, d in OBJECTS if d["kind"] == "CronJob")
    cronjob = cronjob | {"spec": cronjob["spec"] | {"shedule": "now"}}
    assert problems(python, "kubernetes", cronjob)


def test_the_script_of_a_recipe_is_a_valid_dask_cluster(python, tmp_path):
    document = yaml.safe_load(script(python, tmp_path))
    assert problems(python, "operator", document) == []
    worker = document["spec"]["worker"]["spec"]["containers"][0]
    assert worker["args"][:4] == ["dask", "worker", "--nthreads", "1"]
    assert {"name": "lakes", "mountPath": "/lakes"} in worker["volumeMounts"]
    document["spec"]["worker"]["replica"] = document["spec"]["worker"].pop("replicas")
    assert problems(python, "operator", document)


def script(python, folder):
    recipe = folder / "recipe.yaml"
    cluster = {
        "kind": "kubernetes",
        "image": "registry.example.org/atomlake:0.1.0",
        "workers": 3,
        "tls": False,
        "claims": {"lakes": "/lakes"},
        "secrets": ["bucket"],
    }
    recipe.write_text(
        yaml.safe_dump({"lake": "lake", "sources": [{"path": "ase:g2"}], "cluster": cluster})
    )
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    program = (
        "import sys; sys.path[1:1] = sys.argv[2:]; import atomlake.recipe as r; "
        "print(r.load(sys.argv[1]).cluster.script())"
    )
    return subprocess.run(
        [python, "-c", program, recipe, ROOT / "pipeline", packages],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
