"""What is written to a part comes back bit by bit, and opens without us."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_building import Toy, neighbours_of, rows_of, same_bits, structures_of
from lake_building import write_features as write

from atomlake.descriptors.base import Gradients
from atomlake.errors import LakeError, SetAside
from atomlake.lake import groups, layout, parts
from atomlake.structures import Structures
from atomlake.variables import Variable


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A folder: parts do not need a catalogue."""
    return tmp_path


FIELDS = ("numbers", "positions", "cells", "pbc", "structure_offsets")


def assert_same_structures(found: Structures, expected: Structures) -> None:
    for name in FIELDS:
        assert same_bits(getattr(found, name), getattr(expected, name)), name
    for which in ("structure_labels", "atom_labels"):
        a, b = getattr(found, which), getattr(expected, which)
        assert set(a) == set(b)
        for name in a:
            assert same_bits(a[name], b[name]), name


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (3, 1, 400), (2,) * 50])
@pytest.mark.parametrize("labels", [(), ("energy", "forces", "gap")])
def test_structures_come_back_bit_by_bit(
    lake: Path, rng: np.random.Generator, sizes: tuple[int, ...], labels: tuple[str, ...]
) -> None:
    structures = structures_of(sizes, rng, labels)
    record = parts.write_structures(lake, "p", structures)
    assert (record.n_structures, record.n_atoms) == (len(sizes), sum(sizes))
    found = parts.read_structures(lake, "p")
    assert_same_structures(found, structures)
    assert found.content_hashes() == structures.content_hashes()


def test_some_rows_come_back_in_the_order_asked_for(lake: Path, rng: np.random.Generator) -> None:
    structures = structures_of((3, 1, 4, 2), rng)
    parts.write_structures(lake, "p", structures)
    found = parts.read_structures(lake, "p", [3, 0])
    assert_same_structures(found, structures.take([3, 0]))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "zarr.json", "numbers", "source", "_x", "é"])
def test_labels_that_cannot_be_array_names_are_refused(lake: Path, name: str) -> None:
    structures = Structures.single([1], [[0, 0, 0]], structure_labels={name: 1.0})
    with pytest.raises(LakeError, match="a label cannot be called"):
        parts.write_structures(lake, "p", structures)


FORMS = [
    Gradients(),
    Gradients("none", True),
    Gradients("pairs", False),
    Gradients("pairs", True),
    Gradients("summed", True),
]
TOYS = [
    Toy(),
    Toy(dtype="float32"),
    Toy(average="outer"),
    Toy(components=3),
    Toy(species=("H", "O"), dtype="float32"),
]


@pytest.mark.parametrize("gradients", FORMS, ids=str)
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.descriptor_id)
@pytest.mark.parametrize("sizes", [(1,), (3, 1, 4)])
def test_features_come_back_bit_by_bit(
    lake: Path,
    rng: np.random.Generator,
    toy: Toy,
    gradients: Gradients,
    sizes: tuple[int, ...],
) -> None:
    """NaN, negative zero and subnormals included, in blocks of any size."""
    structures = structures_of(sizes, rng)
    neighbours = neighbours_of(structures, rng)
    values = rows_of(toy, structures, neighbours, gradients, rng)
    record = write(lake, "p", toy, gradients, structures, neighbours, values, block=2)
    root = layout.resolve(lake, record.path)
    dims = groups.array_dims(root)
    for name, value in zip(values._fields, values, strict=True):
        if len(value):
            found = groups.read(groups.open_array(root, name), ...)
            assert same_bits(found.reshape(value.shape), value), name
        else:
            assert name not in dims
    assert record.n_rows == len(values.features)
    assert record.n_structures == len(sizes)
    with xr.open_zarr(root) as dataset:
        assert dataset["features"].dims[-1] == "feature"
        assert dataset.sizes["feature"] == toy.n_features
        assert ("component" in dataset.sizes) == (toy.n_components > 1)
        assert dataset.attrs["descriptor_id"] == toy.descriptor_id
        assert dataset.attrs["format_version"] == layout.FORMAT_VERSION
        assert all("long_name" in array.attrs for array in dataset.values())
        if toy.per == "atom" and gradients.positions == "pairs":
            for name in ("pair_offsets", "neighbour_index", "cell_shift"):
                assert same_bits(dataset[name].values, getattr(neighbours, name))


@settings(max_examples=15, deadline=None)
@given(
    n_rows=st.integers(1, 3000),
    cuts=st.lists(st.integers(1, 2000), min_size=1, max_size=8),
    shard=st.sampled_from([2**16, 2**18, 2**26]),
)
def test_blocks_of_any_size_make_the_same_array(
    tmp_path_factory: pytest.TempPathFactory, n_rows: int, cuts: list[int], shard: int
) -> None:
    root = tmp_path_factory.mktemp("g")
    values = np.arange(n_rows * 20, dtype=np.float64).reshape(n_rows, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "SHARD_NBYTES", shard)
        writer = groups.GroupWriter(root, {})
        variable = Variable(("atom", "feature"), "", "1", "")
        stream = writer.stream("features", variable, values.shape, "f8", groups.FEATURE_CHUNKS)
        start = 0
        for i in range(n_rows):
            stop = start + cuts[i % len(cuts)]
            stream.append(values[start:stop])
            start = stop
        stream.finish()
        writer.close()
    np.testing.assert_array_equal(groups.read(groups.open_array(root, "features"), ...), values)


def test_the_writer_keeps_no_block(lake: Path, rng: np.random.Generator) -> None:
    """The engine computes the next block into the same memory."""
    structures = structures_of((3, 2), rng)
    neighbours = neighbours_of(structures, rng)
    toy = Toy()
    writer = parts.FeatureWriter(lake, "p", toy, Gradients(), structures, neighbours.pair_offsets)
    rows = rows_of(toy, structures.take([0]), neighbours_of(structures, rng), Gradients(), rng)
    for value, n in ((1.0, 3), (2.0, 2)):
        rows.features[:] = value
        writer.append(parts.Rows(rows.features[:n], *rows[1:]))
    rows.features[:] = np.nan
    record = writer.close(seconds=0.0)
    array = groups.open_array(layout.resolve(lake, record.path), "features")
    assert groups.read(array, (slice(None), 0)).tolist() == [1, 1, 1, 2, 2]


def test_records_say_what_readers_need_to_find_structures(
    lake: Path, rng: np.random.Generator
) -> None:
    structures = structures_of((3, 1, 4), rng)
    neighbours = neighbours_of(structures, rng)
    gradients = Gradients("pairs")
    values = rows_of(Toy(), structures, neighbours, gradients, rng)
    problem = {1: SetAside("bad", "because")}
    record = write(lake, "p", Toy(), gradients, structures, neighbours, values, [0, 2, 3], problem)
    assert record.rows == (0, 2, 3)
    assert record.structure_n_atoms == (3, 1, 4)
    assert record.structure_n_pairs is not None
    assert sum(record.structure_n_pairs) == record.n_pairs == neighbours.pair_offsets[-1]
    assert record.set_aside == problem
    assert record.nbytes == sum(
        p.stat().st_size for p in layout.resolve(lake, record.path).rglob("*") if p.is_file()
    )
    assert pickle.loads(pickle.dumps(record)) == record


def test_no_structure_at_all_is_a_valid_outcome(lake: Path) -> None:
    """Every structure of a part may be set aside by a descriptor."""
    structures = Structures.empty()
    neighbours = neighbours_of(structures, np.random.default_rng(0))
    for gradients in FORMS:
        offsets = neighbours.pair_offsets
        writer = parts.FeatureWriter(lake, "p", Toy(), gradients, structures, offsets, rows=[])
        record = writer.close(seconds=0.0, set_aside={0: SetAside("bad", "because")})
        assert (record.n_structures, record.n_rows, record.rows) == (0, 0, ())


def test_two_attempts_at_one_part_do_not_meet(lake: Path, rng: np.random.Generator) -> None:
    structures = structures_of((3, 1), rng)
    neighbours = neighbours_of(structures, rng)
    values = rows_of(Toy(), structures, neighbours, Gradients(), rng)
    paths = {
        write(lake, "p", Toy(), Gradients(), structures, neighbours, values).path for _ in range(2)
    }
    assert len(paths) == 2


def test_labels_of_a_descriptor_are_written_once_and_come_back(lake: Path) -> None:
    toy = Toy(components=3, species=("O", "H"))
    parts.write_descriptor(lake, toy)
    root = layout.resolve(lake, layout.descriptor_path(toy.descriptor_id))
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    parts.write_descriptor(lake, toy)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert [p.name for p in root.parent.iterdir()] == [root.name], "nothing temporary stays"
    found = parts.read_descriptor(lake, toy.descriptor_id)
    assert found["n"].values.tolist() == [0, 1, 2, 3, 4]
    assert found["species"].values.tolist() == ["H0é", "H1é", "H2é", "H3é", "H4é"]
    assert found["n"].attrs["long_name"] == "number"
    assert found.attrs["per"] == "atom"
    assert found.attrs["n_components"] == 3
    assert found.attrs["species"] == ["H", "O"]


def test_a_full_disk_says_so(
    lake: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(LakeError, match=r"No space left on device.*make room"):
        parts.write_structures(lake, "p", structures_of((1,), rng))
