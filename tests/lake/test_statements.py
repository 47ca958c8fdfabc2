"""What a commit states of its rows is true of them and of no others."""

from __future__ import annotations

import polars as pl
import pytest

from atomlake.lake.statements import state, unlike_stated

ROWS = pl.DataFrame(
    {
        "sequence": [7, 8, 9],
        "text": ["a", None, "bc"],
        "numbers": [[1, 2], [], None],
        "files": [[{"name": "x", "nbytes": 1}], [], [{"name": None, "nbytes": 2}]],
        "share": [0.5, None, -0.0],
        "is_set": [True, False, None],
        "later": pl.Series([None, None, None], dtype=pl.String),
    }
)

CHANGES = {
    "a text": pl.lit(pl.Series("text", ["b", None, "bc"])),
    "a text for null": pl.lit(pl.Series("text", ["a", "", "bc"])),
    "where a text ends": pl.lit(pl.Series("text", ["ab", None, "c"])),
    "where a list ends": pl.lit(pl.Series("numbers", [[1], [2], None])),
    "an empty list for null": pl.lit(pl.Series("numbers", [[1, 2], [], []])),
    "a number in a list of records": pl.lit(
        pl.Series(
            "files", [[{"name": "x", "nbytes": 3}], [], [{"name": None, "nbytes": 2}]]
        )
    ),
    "the sign of zero": pl.lit(pl.Series("share", [0.5, None, 0.0])),
    "a truth": pl.lit(pl.Series("is_set", [True, True, None])),
    "a column that was empty": pl.lit(pl.Series("later", [None, "x", None])),
}  # fmt: skip


def test_rows_as_stated_are_as_stated_in_any_order_and_beside_others() -> None:
    others = ROWS.with_columns(pl.col("sequence") + 10)
    together = pl.concat([others, ROWS.reverse()])
    assert not list(unlike_stated(together, [state(ROWS), state(others)]))


def test_a_column_that_came_later_changes_nothing() -> None:
    assert not list(unlike_stated(ROWS, [state(ROWS.drop("later"))]))
    assert not list(unlike_stated(ROWS.drop("share"), [state(ROWS)])), "a newer one's column"


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_value_is_seen(change: str) -> None:
    (problem,) = unlike_stated(ROWS.with_columns(CHANGES[change]), [state(ROWS)])
    assert "not all are as they were" in problem


@pytest.mark.parametrize("rows", [ROWS[:2], ROWS.clear(), pl.concat([ROWS, ROWS[:1]])])
def test_rows_that_are_gone_or_there_twice_are_seen(rows: pl.DataFrame) -> None:
    (problem,) = unlike_stated(rows, [state(ROWS)])
    assert "3 were committed" in problem


def test_what_is_stated_of_all_rows_replaces_what_was_stated_of_some() -> None:
    stated = [state(ROWS[:2]), state(ROWS[2:]), state(ROWS[1:], is_all=True)]
    assert not list(unlike_stated(ROWS[1:], stated))
    assert list(unlike_stated(ROWS, stated))
