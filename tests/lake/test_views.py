"""Views: the parts joined end to end, lazily, with what is not live left out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_building import Builder, Pairs, Toy, same_bits

from atomlake.descriptors.base import Gradients, Rows
from atomlake.errors import LakeError, SetAside
from atomlake.lake import Lake, arrays, groups
from atomlake.lake import open as open_lake
from atomlake.lake.chunks import Files, StoredArray
from atomlake.structures import Structures

BAD = SetAside("bad", "because")


def retire(lake: Lake, *keys: str) -> None:
    gone = lake.refresh().catalogue.structures().filter(pl.col("key").is_in(keys)).collect()
    assert len(gone) == len(keys)
    lake.catalogue.publish_structures(gone.clear().drop("sequence"), retire=gone, run_id="r")


class Filled:
    """Four parts, one of them partly covered and one not at all, and holes in two.

    Keys count from 0: parts hold 0-2, 3-5, 6-8 and 9-10. Structures 1, 8 and 10 are retired, 3 is
    set aside, and 9 has no features.
    """

    live = (0, 2, 3, 4, 5, 6, 7, 9)
    covered = (0, 2, 4, 5, 6, 7)

    def __init__(self, path: Path, toy: Toy, gradients: Gradients) -> None:
        builder = Builder(Lake.create(path))
        sizes = [(3, 1, 4), (2, 5, 1), (1, 6, 2), (4, 3)]
        rows: list[list[int] | None] = [None, [1, 2], None]
        self.toy, self.gradients = toy, gradients
        self.parts: list[Structures] = []
        self.values: list[tuple[Rows, Pairs]] = []
        for i, (size, chosen) in enumerate(zip(sizes, [*rows, None], strict=True)):
            labels = ("energy", "forces", "gap") if i == 1 else ("forces",)
            part_id, structures = builder.part(size, source="ab"[i % 2], labels=labels)
            self.parts.append(structures)
            if i < 3:
                self.values.append(
                    builder.features(
                        part_id,
                        structures,
                        toy,
                        gradients,
                        rows=chosen,
                        set_aside={0: BAD} if chosen else None,
                    )
                )
        retire(builder.lake, "1", "8", "10")
        self.builder = builder
        self.lake = builder.lake.refresh()

    def structures(self, keys: tuple[int, ...]) -> Structures:
        """The structures under some keys, in that order."""
        every = Structures.concatenate(self.parts)
        return every.take(keys)

    def covered_values(self) -> tuple[Rows, Pairs]:
        """Features of the covered structures, and their pairs counted over all of these."""
        rows: list[list[np.ndarray]] = [[], [], []]
        counts, neighbours, shifts = [], [], []
        n_atoms = 0
        positions = [0, 2, 0, 1, 0, 1]  # of the covered structures in what was written
        for key, s in zip(self.covered, positions, strict=True):
            part = {0: 0, 2: 0, 4: 1, 5: 1, 6: 2, 7: 2}[key]
            values, pairs = self.values[part]
            batch = self.parts[part] if part != 1 else self.parts[part].take([1, 2])
            first, last = batch.structure_offsets[s : s + 2]
            start, stop = pairs.pair_offsets[first], pairs.pair_offsets[last]
            ranges = {"atom": slice(first, last), "structure": slice(s, s + 1)}
            ranges["pair"] = slice(start, stop)
            for out, value, dim in zip(rows, values, self.dims(), strict=True):
                out.append(value[ranges[dim]] if len(value) else value)
            counts.append(np.diff(pairs.pair_offsets[first : last + 1]))
            neighbours.append(pairs.neighbour_index[start:stop] - first + n_atoms)
            shifts.append(pairs.cell_shift[start:stop])
            n_atoms += last - first
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
        pairs = Pairs(offsets, np.concatenate(neighbours), np.concatenate(shifts))
        return Rows(*map(np.concatenate, rows)), pairs

    def dims(self) -> tuple[str, str, str]:
        """First dimension of features and of both gradients."""
        if self.toy.per == "structure":
            return "structure", "atom", "structure"
        if self.gradients.positions == "summed":
            return "atom", "atom", "structure"
        return "atom", "pair", "atom"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return Filled(tmp_path_factory.mktemp("f") / "lake", Toy(), Gradients("pairs", True))


def tail(dataset: xr.Dataset, name: str, value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), *dataset[name].shape[1:])


# ----- What is visible


def test_structures_are_the_live_ones_in_order_of_publication(filled: Filled) -> None:
    dataset = filled.lake.structures()
    expected = filled.structures(filled.live)
    assert dataset["key"].values.tolist() == [str(k) for k in filled.live]
    for name in ("positions", "cells", "pbc", "numbers", "structure_offsets"):
        assert same_bits(dataset[name].values, getattr(expected, name)), name
    for name, value in (expected.structure_labels | expected.atom_labels).items():
        assert same_bits(dataset[name].values, value), name
    assert same_bits(dataset["structure_index"].values, expected.structure_index)
    assert dataset["formula"].values.tolist() == expected.formulas()
    assert dataset["positions"].attrs["units"] == "Å"
    assert dataset["energy"].attrs["units"] == "eV"


@pytest.mark.parametrize(
    "gradients",
    [Gradients("pairs", True), Gradients("summed", True), Gradients("none", True), Gradients()],
    ids=str,
)
@pytest.mark.parametrize(
    "toy",
    [Toy(), Toy(average="outer"), Toy(components=3, dtype="float32"), Toy(species=("H", "O"))],
    ids=["atom", "structure", "equivariant", "species"],
)
def test_features_and_gradients_are_the_parts_joined(
    tmp_path: Path, toy: Toy, gradients: Gradients
) -> None:
    filled = Filled(tmp_path / "lake", toy, gradients)
    values, pairs = filled.covered_values()
    structures = filled.structures(filled.covered)
    features = filled.lake.features("toy")
    assert features["key"].values.tolist() == [str(k) for k in filled.covered]
    assert same_bits(features["features"].values, tail(features, "features", values.features))
    assert features.attrs["n_structures_set_aside"] == 1
    assert features.attrs["n_structures_missing"] == 1
    assert features.attrs["descriptor_id"] == toy.descriptor_id
    assert features["n"].dims == ("feature",)
    if toy.per == "atom":
        assert same_bits(features["numbers"].values, structures.numbers)
        assert same_bits(features["structure_offsets"].values, structures.structure_offsets)
    if not gradients.any:
        with pytest.raises(LakeError, match=r"no .*gradients of toy"):
            filled.lake.gradients("toy")
        return
    dataset = filled.lake.gradients("toy")
    assert dataset.attrs["gradients"] == gradients.positions
    assert ("gradient_strain" in dataset) == gradients.strain
    for name in ("gradient_positions", "gradient_strain"):
        if name in dataset:
            assert same_bits(dataset[name].values, tail(dataset, name, getattr(values, name)))
    if "pair" in dataset.dims:
        for name in ("pair_offsets", "neighbour_index", "cell_shift"):
            assert same_bits(dataset[name].values, getattr(pairs, name)), name
    if "centre_species" in dataset.dims:
        assert dataset["centre_species"].values.tolist() == list(toy.species or ["any"])


def test_one_structure_is_found_by_source_and_key(filled: Filled) -> None:
    one = filled.lake.structure("b", "4")
    expected = filled.structures((4,))
    assert same_bits(one["positions"].values, expected.positions)
    assert one.sizes["structure"] == 1
    values, _ = filled.covered_values()
    rows = slice(*filled.structures(filled.covered).structure_offsets[2:4])
    found = filled.lake.features("toy", source="b", key="4")
    assert same_bits(found["features"].values, values.features[rows])
    pairs = filled.lake.gradients("toy", source="b", key="4")
    assert pairs["neighbour_index"].values.tolist() == [
        int(n) for n in pairs["neighbour_index"] if 0 <= n < expected.n_atoms
    ]
    assert int(pairs["pair_offsets"][-1]) == pairs.sizes["pair"]


def test_structures_and_features_of_a_source_line_up(filled: Filled) -> None:
    structures = filled.lake.structures(source="a")
    assert structures["key"].values.tolist() == ["0", "2", "6", "7"]
    features = filled.lake.features("toy", source="a")
    xr.testing.assert_equal(features["structure_id"], structures["structure_id"])
    xr.testing.assert_equal(features["numbers"], structures["numbers"])


def test_what_is_not_there_is_explained(filled: Filled) -> None:
    with pytest.raises(
        LakeError, match=r"no structure of source 'c'; its sources are \['a', 'b'\]"
    ):
        filled.lake.structures(source="c")
    with pytest.raises(LakeError, match=r"holds no features of 'soap'; it holds \['toy-"):
        filled.lake.features("soap")
    bad = pl.DataFrame(
        {
            "structure_id": ["x"],
            "source": ["a"],
            "location": ["a.xyz"],
            "key": ["99"],
            "status": ["set_aside"],
            "code": ["empty"],
            "reason": ["the structure has no atoms"],
        }
    )
    filled.lake.catalogue.publish_structures(bad, run_id="r")
    with pytest.raises(LakeError, match="key '99' was set aside: the structure has no atoms"):
        filled.lake.refresh().structure("a", "99")


def test_a_key_in_two_locations_must_be_told_apart(builder: Builder) -> None:
    for location in ("a.xyz", "b.xyz"):
        builder.n_keys = 0
        builder.part((2, 1), location=location)
    lake = builder.lake.refresh()
    with pytest.raises(LakeError, match=r"\['a.xyz', 'b.xyz'\]; name one"):
        lake.structure("db", "1")
    assert lake.structure("db", "1", "b.xyz")["location"].item() == "b.xyz"


def test_a_kind_with_several_parameters_must_be_told_apart(builder: Builder) -> None:
    part_id, structures = builder.part()
    for toy in (Toy(), Toy(width=3)):
        builder.features(part_id, structures, toy)
    lake = builder.lake.refresh()
    with pytest.raises(LakeError, match=r'2 descriptors of kind.*"width": 5.*"width": 3'):
        lake.features("toy")
    assert lake.features(Toy(width=3).descriptor_id).sizes["feature"] == 3


def test_the_newest_features_of_a_part_are_seen(builder: Builder) -> None:
    part_id, structures = builder.part()
    first, _ = builder.features(part_id, structures, Toy(), Gradients("pairs"))
    before = builder.lake.refresh()
    second, _ = builder.features(part_id, structures, Toy())
    after = builder.lake.refresh()
    assert same_bits(before.features("toy")["features"].values, first.features)
    assert same_bits(after.features("toy")["features"].values, second.features)
    found = after.gradients("toy")["gradient_positions"].values
    assert same_bits(found, first.gradient_positions)


def test_a_label_of_two_shapes_is_left_out_and_named(builder: Builder) -> None:
    for n in (2, 3):
        structures = Structures.single([1], [[0, 0, 0]], structure_labels={"gap": np.ones(n)})
        builder.part(structures=structures)
    dataset = builder.lake.refresh().structures()
    assert "gap" not in dataset
    assert dataset.attrs["labels_left_out"] == ["gap"]


def test_what_was_set_aside_is_listed_with_its_reason(filled: Filled) -> None:
    rejected = filled.lake.rejected().filter(pl.col("descriptor_id").is_not_null())
    assert rejected.select("key", "code", "reason").rows() == [("3", "bad", "because")]


def test_an_empty_lake_has_empty_datasets(lake: Lake) -> None:
    dataset = lake.structures().load()
    assert dataset.sizes["structure"] == dataset.sizes["atom"] == 0
    assert lake.rejected().is_empty()
    assert lake.descriptors().is_empty()
    assert lake.runs().is_empty()


def test_features_of_structures_that_are_all_gone_are_empty(builder: Builder) -> None:
    part_id, structures = builder.part((2, 1))
    builder.features(part_id, structures, Toy(), Gradients("pairs"))
    retire(builder.lake, "0", "1")
    lake = builder.lake.refresh()
    for dataset in (lake.features("toy"), lake.gradients("toy")):
        assert dataset.load().sizes["atom"] == 0
    assert lake.gradients("toy")["pair_offsets"].values.tolist() == [0]


# ----- Versions


def test_a_view_stays_as_it_was_while_others_write(filled: Filled, tmp_path: Path) -> None:
    builder = Builder(Lake.create(tmp_path / "lake"))
    part_id, structures = builder.part((3, 2))
    values, _ = builder.features(part_id, structures, Toy())
    lake = builder.lake.refresh()
    features, held = lake.features("toy"), lake.structures()
    builder.part((4,))
    retire(builder.lake, "0")
    builder.features(part_id, structures, Toy())
    assert same_bits(features["features"].values, values.features)
    assert held["key"].values.tolist() == ["0", "1"]
    assert same_bits(
        open_lake(lake.path, lake.version).features("toy")["features"].values, values.features
    )
    assert lake.refresh().structures()["key"].values.tolist() == ["1", "2"]


def test_what_is_not_published_is_not_seen(builder: Builder) -> None:
    """A task that dies after writing and before its record is published leaves nothing."""
    from lake_building import neighbours_of, rows_of, structures_of, write_features

    from atomlake.lake import parts

    part_id, structures = builder.part((3, 1))
    before = builder.lake.refresh()
    parts.write_structures(builder.lake.path, "f" * 32, structures_of((5,), builder.rng))
    neighbours = neighbours_of(structures, builder.rng)
    values = rows_of(Toy(), structures, neighbours, Gradients(), builder.rng)
    write_features(builder.lake.path, part_id, Toy(), Gradients(), structures, neighbours, values)
    after = builder.lake.refresh()
    assert after.version == before.version
    xr.testing.assert_identical(after.structures().load(), before.structures().load())
    assert after.descriptors().is_empty()


# ----- Lazy


class Counter:
    """Counts the arrays that are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        inner = Files.array

        def array(files: Files, group: str, name: str) -> StoredArray:
            self.opened.append(f"{group.rpartition('/')[2]}/{name}")
            return inner(files, group, name)

        monkeypatch.setattr(Files, "array", array)


@pytest.mark.parametrize("n_parts", [1, 12])
def test_opening_opens_no_part_however_many_there_are(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, n_parts: int
) -> None:
    for _ in range(n_parts):
        part_id, structures = builder.part((2, 1))
        builder.features(part_id, structures, Toy(), Gradients("pairs"))
    lake = builder.lake.refresh()
    counter = Counter(monkeypatch)
    datasets = lake.structures(), lake.features("toy"), lake.gradients("toy")
    for dataset in datasets:
        repr(dataset)
        assert dataset.sizes["atom"] == 3 * n_parts
    assert counter.opened == []
    first = datasets[1]["features"].isel(atom=slice(0, 2)).values
    assert first.shape == (2, 5)
    assert len(counter.opened) == 1


Key = int | slice | list[int]


def forward_keys(n: int) -> st.SearchStrategy[Key]:
    bound = st.integers(-n - 2, n + 2) | st.none()
    return (
        st.integers(-n, n - 1)
        | st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, 3]))
        | st.lists(st.integers(-n, n - 1), max_size=6)
    )


def keys(n: int) -> st.SearchStrategy[Key]:
    """Also backwards, but not over nothing, on which xarray itself fails."""
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    return (
        forward_keys(n)
        | st.builds(slice, st.none(), st.none(), st.sampled_from([-1, -2]))
        | ends.map(lambda e: slice(max(e), min(e) - 1 if min(e) else None, -1))
    )


@pytest.fixture(scope="module")
def pairs_of_arrays(filled: Filled) -> list[tuple[xr.DataArray, xr.DataArray]]:
    """Lazy arrays of every sort, and what they must be."""
    values, pairs = filled.covered_values()
    structures = filled.lake.structures()
    features, gradients = filled.lake.features("toy"), filled.lake.gradients("toy")
    cases: list[tuple[xr.DataArray, Any]] = [
        (features["features"], values.features),
        (gradients["gradient_positions"], values.gradient_positions),
        (gradients["neighbour_index"], pairs.neighbour_index),
        (gradients["pair_offsets"], pairs.pair_offsets),
        (structures["structure_index"], filled.structures(filled.live).structure_index),
        (structures["key"], np.array([str(k) for k in filled.live], dtype=object)),
    ]
    return [(array, xr.DataArray(value, dims=array.dims)) for array, value in cases]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_selection_reads_what_numpy_selects(
    pairs_of_arrays: list[tuple[xr.DataArray, xr.DataArray]], data: st.DataObject
) -> None:
    found, expected = pairs_of_arrays[data.draw(st.integers(0, len(pairs_of_arrays) - 1))]
    for step in (forward_keys, keys):
        selection = {dim: data.draw(step(n)) for dim, n in found.sizes.items() if n}
        found, expected = found.isel(selection), expected.isel(selection)
        np.testing.assert_array_equal(found.copy().values, expected.values)


def test_large_selections_are_read_in_windows(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_WINDOW", 4)
    values, pairs = filled.covered_values()
    gradients = filled.lake.gradients("toy")
    assert same_bits(gradients["neighbour_index"].values, pairs.neighbour_index)
    assert same_bits(gradients["gradient_strain"].values, values.gradient_strain)


def test_views_travel_between_processes(filled: Filled) -> None:
    for dataset in (filled.lake.features("toy"), filled.lake.gradients("toy")):
        xr.testing.assert_identical(pickle.loads(pickle.dumps(dataset)).load(), dataset.load())


def test_dask_chunks_follow_the_shards(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of dask reads whole shards, and few parts; arrays of one dataset agree."""
    monkeypatch.setattr(groups, "SHARD_NBYTES", 2**15)
    toy = Toy(width=64)
    values = []
    for sizes in ((100,) * 9, (3,), (4,), (70, 70)):
        part_id, structures = builder.part(sizes)
        values.append(builder.features(part_id, structures, toy)[0].features)
    dataset = builder.lake.refresh().features("toy")
    # 900 rows of 512 B: chunks of 512 rows, hence shards of 512. Small parts join a neighbour.
    chunked = dataset.chunk(dataset.encoding["preferred_chunks"])
    assert chunked.chunks["atom"] == (512, 395, 140)
    np.testing.assert_array_equal(chunked["features"].values, np.concatenate(values))


def test_damage_is_an_error_that_names_the_part(builder: Builder) -> None:
    part_id, structures = builder.part((2, 1))
    builder.features(part_id, structures, Toy())
    lake = builder.lake.refresh()
    features = lake.features("toy")
    (chunk,) = (lake.path / "parts" / part_id).glob("toy-*/features/c/0/0")
    chunk.unlink()
    with pytest.raises(LakeError, match=part_id):
        features["features"].load()


def test_a_catalogue_that_leads_out_of_the_lake_is_not_followed(builder: Builder) -> None:
    part_id, structures = builder.part((2, 1))
    builder.features(part_id, structures, Toy())
    log = builder.lake.refresh().catalogue.log("features").collect()
    builder.lake.catalogue._append("features", log.with_columns(path=pl.lit("../../elsewhere")))
    with pytest.raises(LakeError, match="must stay inside"):
        builder.lake.refresh().features("toy")["features"].load()
