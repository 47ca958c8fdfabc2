"""Which locations a source stands for, and which reader each of them gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources.base import LabelKeys, Reader, Source

FILES = ["b.xyz", "a.extxyz.gz", "deep/er/c.cif", "deep/POSCAR", ".hidden.xyz", ".git/d.xyz"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in [*FILES, "e.db", "e.db-wal", "e.db-shm", "e.json.lock"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n\nH 0 0 0\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("b.xyz", ["b.xyz"]),
        ("./b.xyz", ["./b.xyz"]),
        (".hidden.xyz", [".hidden.xyz"]),
        ("*.xyz", ["b.xyz"]),
        ("*xyz*", ["a.extxyz.gz", "b.xyz"]),
        ("**/*.cif", ["deep/er/c.cif"]),
        ("[ab].*", ["a.extxyz.gz", "b.xyz"]),
        ("deep", ["deep/POSCAR", "deep/er/c.cif"]),
        ("de*", ["deep/POSCAR", "deep/er/c.cif"]),
        ("deep/", ["deep/POSCAR", "deep/er/c.cif"]),
        (".", ["./a.extxyz.gz", "./b.xyz", "./deep/POSCAR", "./deep/er/c.cif", "./e.db"]),
        ("ase:g2", ["ase:g2"]),
        ("postgresql://u:p@host/db", ["postgresql://u@host/db"]),
    ],
)
def test_locations(folder, path, expected):
    assert sources.expand(Source(path=path)) == expected


def test_absolute_paths_and_home(folder, monkeypatch):
    assert sources.expand(Source(path=f"{folder}/*.xyz")) == [f"{folder}/b.xyz"]
    monkeypatch.setenv("HOME", str(folder))
    assert sources.expand(Source(path="~/b.xyz")) == [f"{folder}/b.xyz"]


def test_a_name_that_looks_like_a_glob_is_taken_as_it_is(folder):
    (folder / "x[1].xyz").write_text("1\n\nH 0 0 0\n")
    assert sources.expand(Source(path="x[1].xyz")) == ["x[1].xyz"]


@pytest.mark.parametrize("path", ["missing.xyz", "*.traj", "empty", "missing/**"])
def test_nothing_matches(folder, path):
    with pytest.raises(SourceError, match="matches no file"):
        sources.expand(Source(path=path))


@pytest.mark.parametrize(
    ("location", "format"),
    [
        ("a.xyz", "extxyz"),
        ("folder/A.XYZ", "extxyz"),
        ("a.extxyz.xz", "extxyz"),
        ("a.xyz.gz", "extxyz"),
        ("a.db", "ase_sqlite"),
        ("a.json", "ase_database"),
        ("a.aselmdb", "ase_database"),
        ("postgresql://u:p@host/db", "ase_server"),
        ("mysql://u:p@host/db", "ase_server"),
        ("ase:s22", "ase_collection"),
        ("POSCAR", "ase"),
        ("a.traj", "ase"),
        ("a.xyz.zip", "ase"),
    ],
)
def test_format_by_name(tmp_path, location, format):
    assert sources.reader(location, Source(path=location), tmp_path).format == format


def test_format_by_recipe(tmp_path):
    for name in sources.names():
        assert sources.reader("a", Source(path="a", format=name), tmp_path).format == name
    assert sources.reader("a.xyz", Source(path="a", format="cif"), tmp_path).format == "ase"
    with pytest.raises(SourceError, match=r"no format is called 'xzy'; there are \['ase'"):
        sources.reader("a.xyz", Source(path="a", format="xzy"), tmp_path)


def test_select_is_for_databases(tmp_path):
    with pytest.raises(SourceError, match=r"a\.xyz is read as extxyz; remove it"):
        sources.reader("a.xyz", Source(path="a.xyz", select="energy<0"), tmp_path)
    assert sources.reader("a.db", Source(path="a.db", select="energy<0"), tmp_path)


def test_registry():
    for name in sources.names():
        reader = sources.get(name)
        assert issubclass(reader, Reader)
        assert reader.format == name
        assert reader.title
        assert all(pattern == pattern.lower() for pattern in reader.patterns)
    with pytest.raises(KeyError, match="nonsense"):
        sources.get("nonsense")


def test_a_format_of_another_package(monkeypatch, tmp_path):
    class Other(Reader):
        format = "other"
        title = "other"
        patterns = ("*.other",)
        index = read = None

    class Entry:
        load = staticmethod(lambda: Other)

    monkeypatch.setattr(sources._REGISTRY, "_offered", {"other": Entry})
    monkeypatch.setattr(sources._REGISTRY, "_loaded", {})
    assert "other" in sources.names()
    assert isinstance(sources.reader("a.other", Source(path="a"), Path(tmp_path)), Other)


def test_what_decides_the_content_is_hashed():
    base = Source(path="a.db")
    others = [
        base.model_copy(update={"select": "energy<0"}),
        base.model_copy(update={"format": "ase"}),
        base.model_copy(update={"labels": LabelKeys(energy="e")}),
    ]
    hashes = {sources.options_hash("a.db", source) for source in [base, *others]}
    assert len(hashes) == 4
    assert sources.options_hash("a.db", base.model_copy(update={"name": "n"})) in hashes
