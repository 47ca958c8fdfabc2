"""Batches hold what the views hold, every structure once, in an order that can be had again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lake_building import Builder, Toy, same_bits

from atomlake.descriptors.base import Gradients
from atomlake.errors import LakeError, SetAside
from atomlake.lake import Lake, batches, groups


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Parts with labels and without, wholly and partly covered, in chunks of a few rows."""
    monkeypatch.setattr(batches, "BLOCK_NBYTES", 2**9)
    for name in ("FEATURE_CHUNKS", "GRADIENT_CHUNKS", "PLAIN_CHUNKS"):
        monkeypatch.setattr(groups, name, groups.Chunking(2**8, 2, 8))
    builder = Builder(Lake.create(tmp_path / "lake"))
    toy = Toy(width=3)
    for _ in range(3):
        part, structures = builder.part((3, 1, 4, 1, 5, 9, 2, 6))
        builder.features(part, structures, toy, Gradients("pairs", True))
    part, structures = builder.part((5, 3, 5), labels=["energy"])
    builder.features(
        part,
        structures,
        toy,
        Gradients("pairs", True),
        rows=[0, 2],
        set_aside={1: SetAside("", "")},
    )
    gone = builder.lake.refresh().catalogue.structures().collect().filter(key="4")
    builder.lake.catalogue.publish_structures(
        gone.clear().drop("sequence"), retire=gone, run_id="r"
    )
    return builder.lake.refresh()


ORDERS = ("blocks", "all", "none")


def seen(found: list[dict[str, Any]]) -> list[int]:
    return [int(s) for batch in found for s in batch["structure"]]


@pytest.mark.parametrize("shuffle", ORDERS)
@pytest.mark.parametrize("n_threads", [0, 1, 3])
@pytest.mark.parametrize("memory_nbytes", [1, 2**12, 2**30])
def test_batches_hold_what_the_views_hold(
    lake: Lake,
    shuffle: Any,
    n_threads: int,
    memory_nbytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Arrays that are kept whole: none, some, all.
    monkeypatch.setattr("atomlake.lake.batches._WHOLE_NBYTES", memory_nbytes)
    features, gradients = lake.features("toy").load(), lake.gradients("toy").load()
    structures = lake.structures().load()
    where = {i: n for n, i in enumerate(structures.structure_id.values)}
    found = lake.batches(
        "toy",
        n_structures=4,
        shuffle=shuffle,
        gradients=True,
        n_threads=n_threads,
        memory_nbytes=memory_nbytes,
    )
    for epoch in range(2):
        read = list(found.epoch(epoch))
        assert len(read) == len(found)
        assert sorted(seen(read)) == list(range(features.sizes["structure"]))
        for batch in read:
            offsets, pair_offsets = batch["structure_offsets"], batch["pair_offsets"]
            for at, s in enumerate(batch["structure"]):
                mine = slice(offsets[at], offsets[at + 1])
                first, last = features.structure_offsets.values[s : s + 2]
                assert same_bits(batch["features"][mine], features.features.values[first:last])
                strain = gradients.gradient_strain.values[first:last]
                assert same_bits(batch["gradient_strain"][mine], strain)
                own = where[features.structure_id.values[s]]
                atoms = slice(*structures.structure_offsets.values[own : own + 2])
                assert same_bits(batch["numbers"][mine], structures.numbers.values[atoms])
                assert same_bits(batch["forces"][mine], structures.forces.values[atoms])
                assert same_bits(batch["energy"][at], structures.energy.values[own])
                pairs = slice(*gradients.pair_offsets.values[[first, last]])
                here = slice(pair_offsets[mine.start], pair_offsets[mine.stop])
                for name in ("gradient_positions", "cell_shift"):
                    assert same_bits(batch[name][here], gradients[name].values[pairs])
                np.testing.assert_array_equal(
                    batch["neighbour_index"][here] - mine.start,
                    gradients.neighbour_index.values[pairs] - first,
                )
                np.testing.assert_array_equal(
                    pair_offsets[mine.start : mine.stop + 1] - here.start,
                    gradients.pair_offsets.values[first : last + 1] - pairs.start,
                )


def test_asked_for_arrays_come_and_no_others(lake: Lake) -> None:
    batch = next(iter(lake.batches("toy", arrays=["positions", "cells"])))
    assert set(batch) == {"structure", "structure_offsets", "features", "positions", "cells"}
    with pytest.raises(LakeError, match="have no 'charge'; they have"):
        lake.batches("toy", arrays=["charge"])


@pytest.mark.parametrize("shuffle", ["blocks", "all"])
def test_seed_and_epoch_decide_the_order(lake: Lake, shuffle: Any) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        found = lake.batches("toy", n_structures=4, shuffle=shuffle, seed=seed)
        return seen(list(found.epoch(epoch)))

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("shuffle", ORDERS)
@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("n_structures", [1, 4, 100])
def test_ranks_share_an_epoch_out(
    lake: Lake, shuffle: Any, world_size: int, n_structures: int
) -> None:
    ranks = [
        lake.batches(
            "toy", n_structures=n_structures, shuffle=shuffle, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1
    read = [list(rank.epoch(3)) for rank in ranks]
    assert {len(found) for found in read} == {len(ranks[0])}
    assert sorted(s for found in read for s in seen(found)) == list(range(ranks[0].n_structures))
    sizes = [len(batch["structure"]) for found in read for batch in found]
    assert max(sizes) <= n_structures
    assert max(sizes) - min(sizes) <= 1


def test_an_epoch_goes_on_where_it_was_left_also_after_a_pickle(lake: Lake) -> None:
    found = lake.batches("toy", n_structures=3)
    whole = seen(list(found.epoch(5)))
    n_seen = len(seen(list(found.epoch(5))[:4]))
    rest = pickle.loads(pickle.dumps(found)).epoch(5, start=4)
    assert seen(list(rest)) == whole[n_seen:]


def test_an_epoch_that_is_given_up_ends_its_threads(lake: Lake) -> None:
    import threading

    for _ in lake.batches("toy", n_structures=2, n_threads=2).epoch(0):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("atomlake-batches")]


def test_a_damaged_file_is_named(lake: Lake) -> None:
    path = next(p for p in lake.path.glob("parts/*/toy-*/features/c/*/*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(LakeError, match=path.relative_to(lake.path).as_posix()):
        list(lake.batches("toy"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shuffle": "some"}, "shuffle must be one of"),
        ({"rank": 2, "world_size": 2}, "rank must be"),
        ({"n_structures": 0}, "must have a structure"),
    ],
)
def test_options_out_of_range_are_refused(lake: Lake, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lake.batches("toy", **wrong)
    with pytest.raises(LakeError, match="cannot be shared out among 1000 ranks"):
        lake.batches("toy", world_size=1000)
