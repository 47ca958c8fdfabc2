"""Many locations that nobody looked at before: several processes say what this one would."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.db import connect
from ase.io import write

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources import first_look
from atomlake.sources.base import Guard, Source
from atomlake.sources.first_look import first_looks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of several formats, two of them damaged."""
    monkeypatch.setattr(first_look, "LEAST_NBYTES", 0)
    folder = tmp_path / "structures"
    folder.mkdir()
    for n in range(5):
        write(folder / f"{n}.extxyz", [bulk("Cu", cubic=True) * (n + 1, 1, 1), molecule("H2O")])
    (folder / "packed.xyz.gz").write_bytes(gzip.compress((folder / "3.extxyz").read_bytes()))
    (folder / "damaged.xyz.gz").write_bytes(b"this was never compressed")
    (folder / "empty.xyz").write_bytes(b"")
    write(folder / "POSCAR", bulk("NaCl", "rocksalt", a=5.6))
    with connect(folder / "some.db") as database:
        database.write(molecule("CH3OH"), data={"note": 1})
    return folder


def look(folder, wants_species=True, n_processes=2):
    source = Source(path=str(folder))
    locations = sources.expand(source)
    scratch = folder.parent / "scratch"
    found = first_looks(locations, source, scratch, Guard(), wants_species, n_processes)
    return locations, source, scratch, found


def test_they_say_what_this_process_says(folder):
    locations, source, scratch, found = look(folder)
    unreadable = {str(folder / name) for name in ("damaged.xyz.gz", "empty.xyz")}
    assert set(locations) - found.keys() == unreadable
    for location, (fingerprint, index, species) in found.items():
        reader = sources.reader(location, source, scratch, Guard())
        expected = reader.index()
        assert fingerprint == reader.fingerprint()
        assert species == tuple(reader.species(expected))
        assert index.keys.to_list() == expected.keys.to_list()
        assert index.set_aside == expected.set_aside
        for name in ("record_hashes", "n_atoms", "volumes", "locations"):
            assert np.array_equal(
                getattr(index, name), getattr(expected, name), equal_nan=name == "volumes"
            )
    for location in unreadable:
        with pytest.raises(SourceError):
            sources.reader(location, source, scratch).index()


def test_species_are_looked_for_where_they_are_wanted(folder):
    *_, found = look(folder, wants_species=False)
    assert {species for _, _, species in found.values()} == {None}


@pytest.mark.parametrize("why", ["one process", "little to read", "one file", "no files"])
def test_nothing_is_started_where_it_is_not_worth_while(folder, monkeypatch, why):
    monkeypatch.setattr(first_look, "at_once", None)
    if why == "little to read":
        monkeypatch.setattr(first_look, "LEAST_NBYTES", 10**9)
    if why == "one file":
        folder /= "0.extxyz"
    if why == "no files":
        folder = "ase:g2"
        source = Source(path=folder)
        assert first_looks(sources.expand(source), source, None, Guard(), True, 2) == {}
        return
    *_, found = look(folder, n_processes=1 if why == "one process" else 2)
    assert found == {}
