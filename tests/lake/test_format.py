"""The format is what docs/format-spec.md says, and stays readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from independent_reader import Damage, Reader

from atomlake.errors import LakeError
from atomlake.lake import Lake, layout
from atomlake.lake.verify import verify

#: Lakes of every version of the format, made by tests/lake/data/make.py.
STORED = sorted((Path(__file__).parent / "data").glob("version_*"))


@pytest.fixture(params=STORED, ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "lake"))


def test_there_is_a_lake_of_this_version() -> None:
    assert f"version_{layout.FORMAT_VERSION}" in [path.name for path in STORED]


def test_stored_lakes_are_read_and_in_order(stored: Path) -> None:
    lake = Lake.open(stored)
    assert verify(lake, deep=True).problems == []
    structures = lake.structures()
    assert structures.key.values.tolist() == ["0", "1", "3", "2"]
    assert structures.formula.values.tolist() == ["H2O", "H3N", "Cu4", "CH4"]


def test_an_independent_reader_reads_the_same(stored: Path) -> None:
    lake, reader = Lake.open(stored), Reader(stored)
    assert reader.verify() > 30
    structures = lake.structures().load()
    assert reader.structures["structure_id"].to_list() == structures.structure_id.values.tolist()
    for s, row in enumerate(reader.structures.iter_rows(named=True)):
        found = reader.structure(row)
        atoms = slice(*structures.structure_offsets.values[s : s + 2])
        for name in ("numbers", "positions", "forces"):
            np.testing.assert_array_equal(found[name], structures[name].values[atoms])
        for name in ("cells", "pbc", "energy"):
            np.testing.assert_array_equal(found[name], structures[name].values[s])
    for record in reader.features.iter_rows(named=True):
        features = lake.features(record["descriptor_id"]).load()
        gradients = lake.gradients(record["descriptor_id"]).load()
        by_id = {name: s for s, name in enumerate(features.structure_id.values)}
        mine = reader.structures.filter(part_id=record["part_id"])
        for row in mine.iter_rows(named=True):
            found = reader.feature_rows(row, record)
            s = by_id[row["structure_id"]]
            first, last = features.structure_offsets.values[s : s + 2]
            np.testing.assert_array_equal(found["features"], features.features.values[first:last])
            pairs = slice(*gradients.pair_offsets.values[[first, last]])
            for name, shift in (("gradient_positions", 0), ("neighbour_index", first)):
                expected = gradients[name].values[pairs] - shift
                np.testing.assert_array_equal(found[name], expected)


def test_a_newer_lake_is_refused_by_all(stored: Path) -> None:
    marker = json.loads((stored / layout.MARKER).read_text())
    newer = marker | {"format_version": 99, "created_by": "atomlake 99"}
    (stored / layout.MARKER).write_text(json.dumps(newer))
    for open_lake in (Lake.open, Lake.create):
        with pytest.raises(LakeError, match="format version 99, written by atomlake 99"):
            open_lake(stored)
    with pytest.raises(Damage, match="99"):
        Reader(stored)


def test_the_first_writer_upgrades_version_by_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake.create(tmp_path / "lake")
    done: list[int] = []
    steps = {version: lambda _, v=version: done.append(v) for version in (1, 2)}
    monkeypatch.setattr(layout, "FORMAT_VERSION", 3)
    monkeypatch.setattr(layout, "UPGRADES", steps)
    Lake.open(tmp_path / "lake")
    assert done == [], "who reads changes nothing"
    Lake.create(tmp_path / "lake")
    Lake.create(tmp_path / "lake")
    assert done == [1, 2]
    assert json.loads((tmp_path / "lake" / layout.MARKER).read_text())["format_version"] == 3
