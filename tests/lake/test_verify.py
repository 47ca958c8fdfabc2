"""Verification names what is damaged, whatever the damage, and finds nothing in a good lake."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lake_building import Builder, Pairs, Toy, structures_of

from atomlake.descriptors.base import Gradients
from atomlake.errors import LakeError, SetAside
from atomlake.lake import Lake, layout, parts
from atomlake.lake.catalogue import Catalogue
from atomlake.lake.garbage import collect, unpublished
from atomlake.lake.verify import verify


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two parts with features and gradients, one of them partly covered."""
    builder = Builder(Lake.create(tmp_path / "lake"))
    first, structures = builder.part((3, 1, 4))
    builder.features(first, structures, Toy(), Gradients("pairs", True))
    second, structures = builder.part((2, 5))
    builder.features(
        second, structures, Toy(), Gradients("pairs"), rows=[1], set_aside={0: SetAside("bad", "")}
    )
    return builder.lake.refresh()


def stored(lake: Lake) -> list[Path]:
    return sorted(p for p in (lake.path / "parts").rglob("*") if p.is_file())


@pytest.mark.parametrize("deep", [False, True])
def test_a_good_lake_has_no_problems(lake: Lake, deep: bool) -> None:
    report = verify(lake, deep=deep)
    assert report.problems == []
    assert (report.n_parts, report.n_files) == (2, len(stored(lake)))
    assert report.nbytes == sum(p.stat().st_size for p in stored(lake))
    assert (report.n_orphans, report.orphan_nbytes) == (0, 0)
    assert report.as_dict()["problems"] == []


def test_an_empty_lake_has_no_problems(tmp_path: Path) -> None:
    assert verify(Lake.create(tmp_path / "empty")).problems == []


def delete(path: Path) -> str:
    path.unlink()
    return "missing_file"


def truncate(path: Path) -> str:
    os.truncate(path, path.stat().st_size - 1)
    return "wrong_size"


def lengthen(path: Path) -> str:
    with path.open("ab") as file:
        file.write(b"\0")
    return "wrong_size"


def flip(path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "wrong_checksum"


@pytest.mark.parametrize("nth", range(4))
def test_damage_to_any_file_is_named(lake: Lake, nth: int) -> None:
    """Every file in one of four ways, and over the four tests in all of them."""
    for i, path in enumerate(stored(lake)[nth % 2 :: 2]):
        content = path.read_bytes()
        code = (delete, truncate, lengthen, flip)[(i + nth) % 4](path)
        (problem,) = verify(lake).problems
        assert problem.code == code
        assert lake.path / problem.where == path
        assert problem.part_id == path.relative_to(lake.path / "parts").parts[0]
        assert (problem.descriptor_id is None) == ("structures" in path.parts)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def many_chunks(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Structures that end within chunks of features and of pairs; a gap in the second part."""
    builder = Builder(Lake.create(tmp_path_factory.mktemp("verify") / "lake"))
    sizes = (3, 9, 20, 1, 7)
    for rows in (None, [0, 1, 3, 4]):
        part_id, structures = builder.part(sizes)
        wide = Toy(width=4096)
        builder.features(part_id, structures, wide, Gradients("pairs"), rows=rows)
    return builder.lake.refresh()


@pytest.mark.parametrize("name", ["features", "gradient_positions", "pair_offsets", "positions"])
@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize("place", [0.3, 1.0])
def test_the_structures_that_are_named_are_those_that_cannot_be_read(
    many_chunks: Lake, name: str, nth: int, place: float
) -> None:
    part_id = many_chunks.catalogue.parts().collect()["part_id"][nth]
    (chunks,) = (many_chunks.path / "parts" / part_id).glob(f"*/{name}/c")
    (file,) = (path for path in chunks.rglob("0") if path.is_file())
    original = file.read_bytes()
    content = bytearray(original)
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    try:
        (damage,) = verify(many_chunks).damaged
        seen = Lake.open(many_chunks.path)
        lost = {key for key in map(str, range(10)) if not can_be_read(seen, name, key)}
    finally:
        file.write_bytes(original)
    assert {structure["key"] for structure in damage.structures} == lost
    assert {(row["source"], row["location"]) for row in damage.structures} == {("db", "a.xyz")}
    assert damage.part_id == part_id
    assert (damage.descriptor_id is None) == (name == "positions")


def can_be_read(lake: Lake, name: str, key: str) -> bool:
    """Whether a structure can be read in the view that shows an array."""
    try:
        if name == "positions":
            lake.structures(key=key).load()
        elif name == "features":
            lake.features("toy", key=key).load()
        else:
            lake.gradients("toy", key=key).load()
    except LakeError:
        return False
    return True


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_flipped_bit_is_found(lake: Lake, data: st.DataObject) -> None:
    described = sorted(p for p in (lake.path / "descriptors").rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(stored(lake)) | st.sampled_from(described))
    original = path.read_bytes()
    content = bytearray(original)
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    code = "damaged_labels" if path in described else "wrong_checksum"
    try:
        assert [problem.code for problem in verify(lake).problems] == [code]
    finally:
        path.write_bytes(original)


def test_exchanged_files_are_found(lake: Lake) -> None:
    """Every chunk carries its own checksum, so an exchange needs one for the file."""
    first, second = sorted(p for p in stored(lake) if p.match("structures/structure_offsets/c/0"))
    content = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(content)
    assert {Path(p.where).name for p in verify(lake).problems} == {"0"}
    assert len(verify(lake).problems) == 2


@pytest.mark.parametrize("table", ["structures", "features"])
@pytest.mark.parametrize("other", [None, "structures", "features", "runs"])
def test_an_entry_of_a_log_that_is_empty_or_a_copy_is_found(
    lake: Lake, table: str, other: str | None
) -> None:
    """What it added is gone, and so is what it stated of that; the table can still be read."""
    entry, first = (
        lake.path / "catalogue" / name / "_delta_log" / f"{version:020}.json"
        for name, version in [(table, 1), (other or table, 0)]
    )
    entry.write_bytes(b"" if other is None else first.read_bytes())
    problems = verify(Lake.open(lake.path)).problems
    wanted = "does not say what was committed" if other is None else "is the same as"
    assert any(p.code == "damaged_table" and wanted in p.message for p in problems)


def test_damaged_labels_are_found(lake: Lake) -> None:
    (folder,) = (lake.path / "descriptors").iterdir()
    (folder / "n" / "c" / "0").unlink()
    (problem,) = verify(lake).problems
    assert problem.code == "damaged_labels"
    assert problem.descriptor_id == folder.name


# ----- A catalogue that contradicts what is stored


def tamper(lake: Lake, table: str, **columns: pl.Expr) -> Lake:
    """Commit the newest row of a table again, with other values."""
    rows = lake.catalogue.log(table).sort("sequence").collect().tail(1)
    lake.catalogue._append(table, rows.with_columns(**columns))
    return lake.refresh()


@pytest.mark.parametrize(
    ("table", "column", "value", "code"),
    [
        ("structures", "key", pl.lit("new"), "structure_twice"),
        ("structures", "structure_id", pl.lit("new"), "structure_twice"),
        ("features", "part_id", pl.lit("unknown"), "unknown_part"),
        ("features", "n_rows", pl.col("n_rows") + 1, "wrong_count"),
        ("features", "n_structures", pl.col("n_structures") + 1, "wrong_count"),
        ("features", "n_pairs", pl.col("n_pairs") + 1, "wrong_offsets"),
        ("features", "path", pl.lit("../outside"), "path_leaves_lake"),
        ("parts", "n_atoms", pl.col("n_atoms") + 1, "wrong_offsets"),
        ("parts", "n_structures", pl.col("n_structures") - 1, "unknown_place"),
    ],
)
def test_a_row_that_contradicts_the_files_is_named(
    lake: Lake, table: str, column: str, value: pl.Expr, code: str
) -> None:
    problems = verify(tamper(lake, table, **{column: value})).problems
    assert code in {problem.code for problem in problems}


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("row", pl.lit(7), "unknown_place"),
        ("part_id", pl.lit("unknown"), "unknown_place"),
        ("first_atom", pl.lit(1), "wrong_place"),
        ("content_hash", pl.lit("00"), "wrong_content"),
    ],
)
def test_a_structure_that_is_not_where_it_should_be_is_named(
    lake: Lake, column: str, value: pl.Expr, code: str
) -> None:
    other = {"structure_id": pl.lit("x"), "key": pl.lit("x")}
    problems = verify(tamper(lake, "structures", **other, **{column: value}), deep=True).problems
    assert code in {problem.code for problem in problems}


def test_neighbours_in_another_structure_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(Lake.create(tmp_path / "lake"))
    part_id, structures = builder.part((3, 2))
    append_pairs = parts.FeatureWriter.append_pairs

    def astray(self: parts.FeatureWriter, neighbours: Pairs) -> None:
        index = neighbours.neighbour_index
        stray = neighbours._replace(neighbour_index=np.where(index < 3, index + 2, index))
        append_pairs(self, stray)

    monkeypatch.setattr(parts.FeatureWriter, "append_pairs", astray)
    builder.features(part_id, structures, Toy(), Gradients("pairs"))
    (problem,) = verify(builder.lake.refresh()).problems
    assert problem.code == "stray_neighbour"


# ----- What was never published


def test_what_was_never_published_is_counted_and_no_problem(
    lake: Lake, rng: np.random.Generator
) -> None:
    record = parts.write_structures(lake.path, "f" * 32, structures_of((5,), rng))
    report = verify(lake)
    assert report.problems == []
    assert (report.n_orphans, report.orphan_nbytes) == (len(record.files), record.nbytes)


def test_collecting_spares_what_is_young_or_published(lake: Lake, rng: np.random.Generator) -> None:
    before = stored(lake)
    parts.write_structures(lake.path, "f" * 32, structures_of((5,), rng))
    half_written = lake.path / "descriptors" / ".toy-0-ab12"
    half_written.mkdir()
    hour = timedelta(hours=1)
    assert collect(lake.path, hour) == []
    old = time.time() - 2 * hour.total_seconds()
    for path in [*(lake.path / "parts").rglob("*"), half_written]:
        os.utime(path, (old, old))
    assert [group.path for group in collect(lake.path, hour)] == [
        f"parts/{'f' * 32}/structures",
        "descriptors/.toy-0-ab12",
    ]
    assert stored(lake) == before
    assert not (lake.path / "parts" / ("f" * 32)).exists()
    assert verify(lake).problems == []


def test_what_an_old_version_shows_is_not_garbage(tmp_path: Path) -> None:
    builder = Builder(Lake.create(tmp_path / "lake"))
    part_id, structures = builder.part((3, 1))
    for _ in range(2):
        builder.features(part_id, structures, Toy())
    gone = builder.lake.refresh().catalogue.structures().collect()
    builder.lake.catalogue.publish_structures(gone.clear(), retire=gone, run_id="r")
    assert unpublished(builder.lake.path) == []


def test_what_is_published_while_garbage_is_looked_for_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(Lake.create(tmp_path / "lake"))
    inner = Catalogue.open.__func__  # type: ignore[attr-defined]

    def publish_then_open(cls: type[Catalogue], *args: object) -> Catalogue:
        monkeypatch.setattr(Catalogue, "open", classmethod(inner))
        builder.lake.catalogue.publish_structures(rows, parts=[record], run_id="r")
        return Catalogue.open(*args)  # type: ignore[arg-type]

    structures = structures_of((2,), builder.rng)
    record = parts.write_structures(builder.lake.path, "a" * 32, structures)
    rows = builder.rows("a" * 32, structures)
    monkeypatch.setattr(Catalogue, "open", classmethod(publish_then_open))
    assert unpublished(builder.lake.path) == []


def test_a_catalogue_that_cannot_be_read_stops_the_collection(lake: Lake) -> None:
    """Else everything would look unpublished."""
    log = layout.resolve(lake.path, layout.table_path("parts")) / "_delta_log"
    for path in log.iterdir():
        path.unlink()
    with pytest.raises(LakeError):
        collect(lake.path, timedelta(0))
