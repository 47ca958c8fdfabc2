"""Small parts become large ones, old states go, and no reader that is protected notices."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from lake_building import Builder, Toy, same_bits

from atomlake.descriptors.base import Gradients
from atomlake.errors import LakeError, SetAside
from atomlake.lake import Lake
from atomlake.lake.compaction import compact
from atomlake.lake.garbage import collect, purge, unpublished
from atomlake.lake.verify import verify

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from observing import content

FORMS = [
    Gradients(),
    Gradients("pairs", strain=True),
    Gradients("summed", strain=True),
    Gradients("none", strain=True),
]
NOW = timedelta(0)


def part_ids(lake: Lake) -> list[str]:
    live = lake.catalogue.structures(["part_id", "sequence"]).sort("sequence").collect()
    return live["part_id"].unique(maintain_order=True).to_list()


def retire(lake: Lake, *keys: str) -> None:
    gone = lake.catalogue.structures().filter(pl.col("key").is_in(keys)).collect()
    lake.catalogue.publish_structures(gone.clear(), retire=gone, run_id="retirement")


@pytest.mark.parametrize("gradients", FORMS, ids=str)
@pytest.mark.parametrize("toy", [Toy(), Toy(components=3)], ids=["scalar", "equivariant"])
def test_every_bit_is_where_readers_look_for_it(
    builder: Builder, toy: Toy, gradients: Gradients
) -> None:
    for sizes in ([3, 1], [4], [2, 5, 1], [1]):
        builder.features(*builder.part(sizes), toy, gradients)
    before = builder.lake.refresh()
    expected = content(before)
    done = compact(before.path)
    after = before.refresh()
    assert (done.n_parts_before, done.n_parts_after, done.n_moved) == (4, 1, 7)
    assert len(part_ids(after)) == 1
    assert content(after) == expected
    assert content(before) == expected, "who opened the lake before reads on"
    assert content(Lake.open(before.path, before.version)) == expected
    assert not verify(after, deep=True).problems


def test_what_was_set_aside_for_a_descriptor_stays_set_aside(builder: Builder) -> None:
    reason = SetAside("too_many_neighbours", "5 of them")
    for _ in range(2):
        part_id, structures = builder.part([3, 1, 4])
        builder.features(part_id, structures, Toy(), rows=[0, 2], set_aside={1: reason})
    before = builder.lake.refresh()
    columns = ["structure_id", "code", "reason"]
    compact(before.path)
    after = before.refresh()
    assert content(after) == content(before)
    assert after.rejected().select(columns).equals(before.rejected().select(columns))
    assert not verify(after, deep=True).problems


def test_only_parts_of_one_kind_are_joined(builder: Builder) -> None:
    first = builder.part()
    builder.part(source="other", location="b.xyz")
    builder.part(labels=("energy",))
    builder.features(*builder.part(), Toy())
    builder.part()
    before = builder.lake.refresh()
    done = compact(before.path)
    assert (done.n_parts_before, done.n_parts_after) == (5, 4)
    assert first[0] not in part_ids(before.refresh())
    assert content(before.refresh()) == content(before)


def test_parts_that_are_large_enough_stay(builder: Builder) -> None:
    for _ in range(3):
        builder.part()
    before = part_ids(builder.lake.refresh())
    assert compact(builder.lake.path, part_nbytes=1).n_moved == 0
    assert part_ids(builder.lake.refresh()) == before


def test_a_part_that_is_mostly_retired_is_written_anew(builder: Builder) -> None:
    builder.features(*builder.part([2, 3, 4]), Toy(), Gradients("pairs"))
    retire(builder.lake.refresh(), "0", "2")
    before = builder.lake.refresh()
    assert compact(before.path, part_nbytes=1).n_moved == 1
    assert content(before.refresh()) == content(before)
    assert not verify(before.refresh(), deep=True).problems


def test_a_second_compaction_has_nothing_to_do(builder: Builder) -> None:
    for _ in range(3):
        builder.features(*builder.part(), Toy())
    compact(builder.lake.path)
    version = builder.lake.refresh().version.split(".")[:3]
    assert compact(builder.lake.path).n_moved == 0
    assert builder.lake.refresh().version.split(".")[:3] == version


def test_a_structure_that_is_retired_meanwhile_does_not_come_back(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomlake.lake import compaction

    for _ in range(2):
        builder.part()
    write = compaction.write_structures

    def disturbed(*arguments: object) -> object:
        retire(builder.lake.refresh(), "0")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "write_structures", disturbed)
    with pytest.raises(LakeError, match="retirement changed structures"):
        compact(builder.lake.path)
    assert "db:0" not in content(builder.lake.refresh())["structures"]
    assert not verify(builder.lake.refresh(), deep=True).problems


def test_features_that_are_published_meanwhile_are_not_left_behind(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomlake.lake import compaction

    parts = [builder.part() for _ in range(2)]
    write = compaction.write_structures

    def disturbed(*arguments: object) -> object:
        builder.features(*parts[0], Toy())
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "write_structures", disturbed)
    with pytest.raises(LakeError, match="published features"):
        compact(builder.lake.path)
    assert len(content(builder.lake.refresh())[f"features {Toy().descriptor_id}"]) == 3


# ----- What goes


def test_joined_parts_are_purged_when_nobody_is_protected_any_more(builder: Builder) -> None:
    for _ in range(3):
        builder.features(*builder.part(), Toy(), Gradients("pairs"))
    retire(builder.lake.refresh(), "1")
    expected = content(builder.lake.refresh())
    before = builder.lake.refresh()
    compact(before.path)
    assert purge(before.path, timedelta(hours=1)) == []
    assert content(before) == expected
    assert content(Lake.open(before.path, before.version)) == expected
    assert len(purge(before.path, NOW)) == 6
    after = before.refresh()
    assert content(after) == expected
    assert not verify(after, deep=True).problems
    assert len(list((before.path / "parts").iterdir())) == 1
    for as_of in (before.version, datetime.now(UTC) - timedelta(days=1)):
        with pytest.raises(LakeError, match="any more"):
            Lake.open(before.path, as_of)


def test_a_purged_lake_goes_on(builder: Builder) -> None:
    for _ in range(3):
        builder.features(*builder.part(), Toy())
        retire(builder.lake.refresh(), str(builder.n_keys - 1))
        held = builder.lake.refresh()
        purge(builder.lake.path, NOW)
        builder.lake = held.refresh()
    lake = builder.lake.refresh()
    assert len(content(lake)["structures"]) == 6
    assert not verify(lake, deep=True).problems
    log = lake.catalogue.log("structures").collect()
    assert len(log) == 6, "what is purged is in the tables no more"


def test_features_that_were_replaced_are_purged(builder: Builder) -> None:
    part = builder.part()
    builder.features(*part, Toy())
    values, _ = builder.features(*part, Toy())
    assert len(purge(builder.lake.path, NOW)) == 1
    found = builder.lake.refresh().features("toy").features.values
    assert same_bits(found, values.features)


def test_orphans_are_collected_when_they_are_old_enough(builder: Builder) -> None:
    from atomlake.lake import parts

    _, structures = builder.part()
    parts.write_structures(builder.lake.path, "dead", structures)
    assert collect(builder.lake.path, timedelta(hours=1)) == []
    assert [group.path for group in unpublished(builder.lake.path)] == ["parts/dead/structures"]
    assert len(collect(builder.lake.path, NOW)) == 1
    assert not (builder.lake.path / "parts" / "dead").exists()
    assert not verify(builder.lake.refresh(), deep=True).problems
