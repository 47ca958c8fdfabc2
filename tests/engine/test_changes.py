"""Matching the records of a source with what the lake has of it."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from atomlake.engine.changes import compare

EMPTY = pl.DataFrame(
    schema={**dict.fromkeys(["structure_id", "location", "key", "record_hash"], pl.String)}
)


def records(*rows):
    return pl.DataFrame(
        [(*row, i) for i, row in enumerate(rows)],
        schema={"location": str, "key": str, "record_hash": str, "position": int},
        orient="row",
    )


def known_after(changes, known=EMPTY):
    """The lake after the changes were published."""
    gone = {*changes.retired, *changes.new["replaces"].drop_nulls(), *changes.moved["structure_id"]}
    kept = known.filter(~pl.col("structure_id").is_in(list(gone)))
    moved = changes.moved.join(known, on="structure_id", suffix="_old")
    columns = ["structure_id", "location", "key", "record_hash"]
    return pl.concat([kept.select(columns), moved.select(columns), changes.new.select(columns)])


def ingest(*rows):
    return known_after(compare("s", records(*rows), EMPTY))


A, B, C = ("f", "0", "a"), ("f", "1", "b"), ("f", "2", "c")


def test_everything_is_new_in_an_empty_lake():
    changes = compare("s", records(A, B), EMPTY)
    assert changes.new["key"].to_list() == ["0", "1"]
    assert changes.new["structure_id"].n_unique() == 2
    assert changes.retired == []


def test_nothing_changes_when_nothing_changed():
    changes = compare("s", records(A, B), ingest(A, B))
    assert (len(changes.new), len(changes.moved), changes.retired) == (0, 0, [])
    assert changes.n_unchanged == 2


def test_an_insertion_at_the_start_moves_and_recomputes_nothing_else():
    known = ingest(A, B)
    changes = compare("s", records(("f", "0", "c"), ("f", "1", "a"), ("f", "2", "b")), known)
    assert changes.new["record_hash"].to_list() == ["c"]
    assert changes.new["replaces"].to_list() == [None]
    assert sorted(changes.moved["key"]) == ["1", "2"]
    assert changes.retired == []


def test_a_changed_record_replaces_its_predecessor():
    known = ingest(A, B)
    changes = compare("s", records(A, ("f", "1", "new")), known)
    old = known.filter(pl.col("key") == "1")["structure_id"].item()
    assert changes.new["replaces"].to_list() == [old]
    assert changes.retired == []


def test_a_removed_record_is_retired():
    known = ingest(A, B)
    changes = compare("s", records(A), known)
    assert changes.retired == known.filter(pl.col("key") == "1")["structure_id"].to_list()


def test_a_renamed_file_moves_its_structures():
    changes = compare("s", records(("g", "0", "a"), ("g", "1", "b")), ingest(A, B))
    assert len(changes.new) == 0
    assert changes.moved["location"].to_list() == ["g", "g"]


def test_equal_records_are_different_structures():
    twice = records(A, ("f", "1", "a"))
    changes = compare("s", twice, EMPTY)
    assert changes.new["structure_id"].n_unique() == 2
    again = compare("s", twice, known_after(changes))
    assert (len(again.new), len(again.moved), again.retired) == (0, 0, [])


contents = st.lists(st.sampled_from("abcd"), max_size=6)


@given(st.lists(contents, min_size=1, max_size=5))
def test_any_history_ends_with_exactly_the_last_records(history):
    known = EMPTY
    for content in history:
        now = records(*[("f", str(i), c) for i, c in enumerate(content)])
        changes = compare("s", now, known)
        known = known_after(changes, known)
        assert known["structure_id"].n_unique() == len(known)
        assert sorted(known.select("key", "record_hash").rows()) == sorted(
            now.select("key", "record_hash").rows()
        )
        settled = compare("s", now, known)
        assert (len(settled.new), len(settled.moved), settled.retired) == (0, 0, [])
        assert settled.n_unchanged == len(now)
