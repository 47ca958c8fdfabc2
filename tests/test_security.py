"""Nothing that a source, a recipe or a lake holds is run; passwords stay where they were."""

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.io.formats import ioformats

import atomlake
from atomlake import sources
from atomlake.engine.run import run
from atomlake.errors import LakeError, RecipeError, SourceError
from atomlake.lake import Lake, layout
from atomlake.recipe import parse
from atomlake.sources.ase_formats import READABLE, REFUSED
from atomlake.sources.base import Source

PACKAGE = Path(atomlake.__file__).parent
SECRET = "hush-7f3a"

#: Calls that run what they are given, or may. Methods of these names count by their module.
RUNNING = {
    *("eval", "exec", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads"),
    *("marshal.loads", "shelve.open", "dill.load", "joblib.load", "np.load", "numpy.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"),
    *("import_module", "importlib.import_module"),
}
#: Where one of them is wanted, and why it runs nothing that a source or a lake holds.
ALLOWED = {
    ("registry.py", "import_module"): "names in the package, and entry points that are installed",
    ("clusters/batch.py", "import_module"): "names in the package",
    (
        "engine/tasks.py",
        "pickle.loads",
    ): "what the driver gave the scheduler, like all that dask sends",
}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_package_calls_nothing_that_runs_data():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, node in calls(ast.parse(path.read_text())):
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            is_shell = words.get("shell", "False") != "False"
            if name in RUNNING or is_shell or words.get("allow_pickle", "False") != "False":
                found[path.relative_to(PACKAGE).as_posix(), name] = node.lineno
    # The command that a recipe names for notifications is its author's own.
    found.pop(("engine/schedule.py", "subprocess.run"))
    assert set(found) == set(ALLOWED), found


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    trap = tmp_path / "was-run"
    yield trap
    assert not trap.exists()


def look_at(path, **options):
    """Index and read a file whatever it is; it may be refused or set aside."""
    source = Source(path=str(path), **options)
    try:
        reader = sources.reader(str(path), source, path.parent / "scratch")
        reader.read(reader.index().locations)
    except SourceError:
        return


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pkl", "a.traj", "a.db", "a.json", "a.xyz"])
def test_pickles_are_not_unpickled(trap, tmp_path, name):
    path = tmp_path / name
    bomb = np.array([Bomb(trap)], dtype=object)
    if name.endswith(".npy"):
        np.save(path, bomb, allow_pickle=True)
    elif name.endswith(".npz"):
        np.savez(path, numbers=bomb)
    else:
        path.write_bytes(pickle.dumps(Bomb(trap)))
    look_at(path)


def test_a_pickle_in_a_row_of_a_database_is_not_unpickled(trap, tmp_path):
    import sqlite3

    path = tmp_path / "rows.db"
    with ase.db.connect(path) as database:
        database.write(bulk("Cu"), hull=1.0)
    payload = pickle.dumps(Bomb(trap))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE systems SET data = ?, positions = ?", (payload, payload))
    database.close()
    look_at(path, labels={"structure": ["hull", "gap"]})


@pytest.mark.parametrize(
    "value",
    [
        {"__ase_objtype__": "os.system", "command": "touch was-run"},
        {"__ndarray__": [[1], "object", ["x"]]},
        {"__reduce__": ["os.system", "touch was-run"]},
    ],
)
def test_objects_in_json_are_not_made(trap, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.json"
    ase.db.connect(path).write(bulk("Cu"), data={"gap": 1.0})
    content = json.loads(path.read_text())
    content["1"]["data"] = {"gap": value}
    path.write_text(json.dumps(content))
    look_at(path, labels={"structure": ["gap"]})
    text = json.dumps(value).replace('"', '\\"')
    lines = ["1", f'Properties=species:S:1:pos:R:3 gap="_JSON {text}"', "Cu 0 0 0", ""]
    (tmp_path / "rows.xyz").write_text("\n".join(lines))
    look_at(tmp_path / "rows.xyz", labels={"structure": ["gap"]})


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch was-run']", "!!python/name:os.system"]
)
def test_tags_of_yaml_make_no_objects(trap, tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="not valid YAML"):
        parse(f"lake: {tag}\nsources: []\n")


def test_every_format_of_ase_is_readable_or_refused_with_a_reason():
    assert not READABLE & set(REFUSED)
    assert all(REFUSED.values())
    for name in ("bundletrajectory", "gpw", "castep-cell", "py"):
        assert name not in READABLE
    for name in READABLE:
        module = sys.modules.get(ioformats[name].module.__name__)
        source = Path(module.__file__).read_text()
        running = {call for call, _ in calls(ast.parse(source))} & RUNNING
        # one imports compile from re
        assert running <= {"compile"}, f"{name}: {running}"


@pytest.mark.parametrize(
    "path", ["ase:../../etc/passwd", "ase:os", "ase:g2/../s22", "postgresql.json/../x.py"]
)
def test_names_of_collections_lead_nowhere_else(path, tmp_path):
    source = Source(path=path)

    def read():
        (location,) = sources.expand(source)
        sources.reader(location, source, tmp_path).index()

    with pytest.raises(SourceError):
        read()


def recipe(folder, **more):
    return {
        "lake": str(folder / "lake"),
        "sources": [
            {"path": "ase:s22", "name": "dimers"},
            {"path": f"postgresql://me:{SECRET}@127.0.0.1:9/db"},
        ],
        "schedule": {
            "cron": "0 2 * * *",
            "notify": {"webhook": f"https://host/{SECRET}", "command": f"tell {SECRET}"},
        },
    } | more


def test_no_byte_of_a_lake_holds_a_password_and_no_word_of_a_run(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path, descriptors=[])))
    said = ""
    page = tmp_path / "page.html"
    for arguments in (
        ["run", "--executor", "synchronous", path],
        ["run", "--executor", "synchronous", path],
        ["status", tmp_path / "lake"],
        ["status", tmp_path / "lake", "--web", page],
        ["sources", f"postgresql://me:{SECRET}@127.0.0.1:9/db"],
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "atomlake", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        said += done.stdout + done.stderr
    assert "postgresql://me@127.0.0.1:9/db" in said
    assert SECRET not in said
    path.unlink()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "text",
    [
        "lake: a\nsources: [postgresql://me:hush-7f3a@host/db]\n",
        "lake: a\nsources: [{path: 'postgresql://me:hush-7f3a@host/db', odd: 1}]\n",
        'lake: a\nsources: [{path: "postgresql://me:hush-7f3a@host/db]\n',
        "lake: a\nsources: postgresql://me:hush-7f3a@host/db\n",
        "lake: a\nsources: [{path: 'postgresql://host/db?password=hush-7f3a'}]\n",
    ],
)
def test_what_is_said_of_a_wrong_recipe_does_not_repeat_a_password(text):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert SECRET not in str(caught.value)


def test_a_password_changes_neither_names_nor_hashes(tmp_path):
    one = parse(yaml.safe_dump(recipe(tmp_path)))
    other = parse(yaml.safe_dump(recipe(tmp_path)).replace(SECRET, "${ANOTHER}"))
    assert one.recipe_hash == other.recipe_hash
    assert [s.label for s in one.sources] == [s.label for s in other.sources]
    second = [recipe.sources[1] for recipe in (one, other)]
    hashes = [sources.options_hash(source.path, source) for source in second]
    assert hashes[0] == hashes[1]


def test_a_link_out_of_a_lake_is_not_followed_by_what_removes(tmp_path):
    from datetime import timedelta

    from atomlake.lake.garbage import collect

    content = {"lake": str(tmp_path / "lake"), "sources": [{"path": "ase:s22"}]}
    run(parse(yaml.safe_dump(content)), executor="synchronous")
    outside = tmp_path / "outside"
    (outside / "group").mkdir(parents=True)
    (outside / "group" / "precious").write_text("mine")
    parts = tmp_path / "lake" / layout.PARTS
    (parts / "linked").symlink_to(outside)
    (parts / "holds-a-link").mkdir()
    (parts / "holds-a-link" / "group").symlink_to(outside / "group")
    (parts / "garbage" / "group").mkdir(parents=True)
    (parts / "garbage" / "group" / "inner").symlink_to(outside)
    collect(tmp_path / "lake", timedelta(0))
    assert (outside / "group" / "precious").read_text() == "mine"
    assert len(Lake.open(tmp_path / "lake").structures().structure_id) == 22


@pytest.mark.parametrize("path", ["../../outside", "/etc", "parts/../../x"])
def test_paths_of_a_catalogue_stay_in_the_lake(tmp_path, path):
    with pytest.raises(LakeError, match="must stay inside"):
        layout.resolve(tmp_path, path)


def test_what_listens_listens_to_this_machine_alone(monkeypatch):
    import distributed

    from atomlake.clusters import get, names
    from atomlake.clusters.local import Local

    given = {}

    def started(**settings):
        given.update(settings)
        raise InterruptedError

    monkeypatch.setattr(distributed, "LocalCluster", started)
    with pytest.raises(InterruptedError), Local(workers=1).open():
        pass
    assert given["host"] == "127.0.0.1"
    assert given["dashboard_address"] == "127.0.0.1:0"
    for name in names():
        field = get(name).model_fields.get("dashboard")
        assert field is None or field.default in (True, None, "127.0.0.1:0"), name
