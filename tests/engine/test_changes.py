"""Matching the records of a source with what the lake has of it."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlake.engine import changes
from atomlake.engine.changes import compare, hexadecimal, structure_id, told_apart

EMPTY = pl.DataFrame(
    schema={
        "structure_id": pl.String,
        "sequence": pl.Int64,
        "location": pl.String,
        "key": pl.String,
        "record_hash": pl.UInt128,
    }
)


def number(content):
    """The hash of a content: what differs does so in high bits and in low ones."""
    return int.from_bytes(content.encode(), "big") * (2**100 + 1)


def records(*rows):
    return pl.DataFrame(
        [(location, key, number(content), i) for i, (location, key, content) in enumerate(rows)],
        schema={
            "location": pl.String,
            "key": pl.String,
            "record_hash": pl.UInt128,
            "position": pl.UInt32,
        },
        orient="row",
    )


def brought(now, known):
    """What changes in a lake that knows some structures, and the lake afterwards."""
    changes = compare(now, [known.drop("structure_id")])
    twins = known.join(changes.new, on="record_hash", how="semi")
    new = told_apart("s", changes.new, twins.select("structure_id", "record_hash"))
    first = 1 + (known["sequence"].max() or 0)
    ids = [
        structure_id("s", location, text, nth)
        for location, text, nth in zip(
            new["location"], hexadecimal(new["record_hash"]), new["nth"], strict=True
        )
    ]
    added = (
        new.join(now, on=["location", "position"])
        .with_columns(structure_id=pl.Series(ids, dtype=pl.String))
        .with_columns(sequence=first + pl.int_range(pl.len()))
        .select(EMPTY.columns)
    )
    moved = known.join(changes.moved, on="sequence", suffix="_new").with_columns(
        location="location_new", key="key_new"
    )
    kept = known.filter(~pl.col("sequence").is_in([*changes.leaving, *changes.moved["sequence"]]))
    return changes, pl.concat([kept, moved.select(EMPTY.columns), added])


def ingest(*rows):
    return brought(records(*rows), EMPTY)[1]


A, B, C = ("f", "0", "a"), ("f", "1", "b"), ("f", "2", "c")


def counts(changes):
    return len(changes.new), len(changes.moved), len(changes.retired)


def test_everything_is_new_in_an_empty_lake():
    changes, lake = brought(records(A, B), EMPTY)
    assert counts(changes) == (2, 0, 0)
    assert lake["key"].to_list() == ["0", "1"]
    assert lake["structure_id"].n_unique() == 2


def test_nothing_changes_when_nothing_changed():
    changes, _ = brought(records(A, B), ingest(A, B))
    assert counts(changes) == (0, 0, 0)
    assert changes.n_unchanged == 2


def test_an_insertion_at_the_start_moves_and_recomputes_nothing_else():
    now = records(("f", "0", "c"), ("f", "1", "a"), ("f", "2", "b"))
    changes, _ = brought(now, ingest(A, B))
    assert changes.new["record_hash"].to_list() == [number("c")]
    assert changes.new["replaces"].to_list() == [None]
    assert sorted(changes.moved["key"]) == ["1", "2"]
    assert changes.retired.is_empty()


def test_a_changed_record_replaces_its_predecessor():
    known = ingest(A, B)
    changes, _ = brought(records(A, ("f", "1", "new")), known)
    old = known.filter(pl.col("key") == "1")["sequence"].item()
    assert changes.new["replaces"].to_list() == [old]
    assert changes.retired.is_empty()
    assert changes.leaving.to_list() == [old]


def test_a_replacement_is_known_by_its_identity():
    known = ingest(A, B)
    changes, lake = brought(records(A, ("f", "1", "new")), known)
    new = lake.filter(pl.col("record_hash") == number("new"))
    assert changes.replacements("s")["structure_id"].to_list() == new["structure_id"].to_list()
    assert changes.replacements("s")["sequence"].to_list() == changes.leaving.to_list()


def test_a_removed_record_is_retired():
    known = ingest(A, B)
    changes, _ = brought(records(A), known)
    expected = known.filter(pl.col("key") == "1")["sequence"]
    assert changes.retired.to_list() == expected.to_list()


def test_a_renamed_file_moves_its_structures():
    changes, _ = brought(records(("g", "0", "a"), ("g", "1", "b")), ingest(A, B))
    assert len(changes.new) == 0
    assert changes.moved["location"].to_list() == ["g", "g"]


def test_a_file_under_the_name_of_a_renamed_one_holds_structures_of_its_own():
    _, renamed = brought(records(("g", "0", "a")), ingest(A))
    changes, lake = brought(records(A, ("g", "0", "a")), renamed)
    assert counts(changes) == (1, 0, 0)
    assert lake["structure_id"].n_unique() == 2


def test_equal_records_are_different_structures():
    twice = records(A, ("f", "1", "a"))
    _, lake = brought(twice, EMPTY)
    assert lake["structure_id"].n_unique() == 2
    again, _ = brought(twice, lake)
    assert counts(again) == (0, 0, 0)


contents = st.lists(st.sampled_from("abcd"), max_size=6)


@given(st.lists(contents, min_size=1, max_size=5), st.integers(1, 4))
def test_any_history_ends_with_exactly_the_last_records(history, matched_at_once):
    known = EMPTY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "MATCHED_RECORDS", matched_at_once)
        for content in history:
            now = records(*[("f", str(i), c) for i, c in enumerate(content)])
            _, known = brought(now, known)
            assert known["structure_id"].n_unique() == len(known)
            assert sorted(known.select("key", "record_hash").rows()) == sorted(
                now.select("key", "record_hash").rows()
            )
            settled, _ = brought(now, known)
            assert counts(settled) == (0, 0, 0)
            assert settled.n_unchanged == len(now)


def test_nothing_is_left_where_every_record_is_gone():
    changes, lake = brought(records(), ingest(A, B))
    assert counts(changes) == (0, 0, 2)
    assert lake.is_empty()
