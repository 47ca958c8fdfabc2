"""Units of work: cut within every limit, in order, nothing lost."""

import pickle

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from atomlake.descriptors.base import Gradients
from atomlake.engine.tasks import UnitRecord
from atomlake.engine.units import LEAST_UNIT_NBYTES, Piece, Task, costs, cut, shared_out
from atomlake.recipe import PartSize
from atomlake.sources.base import Fingerprint, Source

FUNCTIONS = {"cutoff": 4.0, "w2": [[0.5, 0.0]]}
FEATURES = Task("symmetry_functions", FUNCTIONS, Gradients())
PAIRS = Task("symmetry_functions", FUNCTIONS, Gradients("pairs", True))


def cost_of(n_atoms, tasks=(FEATURES,), volumes=None, speed=None):
    n_atoms = np.asarray(n_atoms)
    volumes = np.full(len(n_atoms), np.nan) if volumes is None else np.asarray(volumes)
    return costs(n_atoms, volumes, tasks, speed or {}, max_neighbours=100)


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=200),
    st.integers(1000, 10**7),
    st.integers(1, 50),
)
def test_units_cover_every_structure_once_and_stay_within_the_limits(n_atoms, nbytes, structures):
    cost = cost_of(n_atoms)
    size = PartSize(nbytes=nbytes, structures=structures)
    units = list(cut(cost, size))
    assert [i for rows in units for i in range(rows.start, rows.stop)] == list(range(len(n_atoms)))
    for rows in units:
        n = rows.stop - rows.start
        assert n <= structures
        assert n == 1 or cost.total(rows).nbytes <= nbytes


def n_units(cost):
    return len(list(cut(cost, shared_out(PartSize(), cost))))


@given(st.integers(1, 10**6), st.integers(1, 200))
def test_little_work_is_cut_for_several_workers_and_not_into_crumbs(n_atoms, n_structures):
    cost = cost_of([n_atoms] * n_structures)
    nbytes = cost.nbytes.sum()
    assert n_units(cost) <= max(8, nbytes / LEAST_UNIT_NBYTES, len(list(cut(cost, PartSize()))))
    if nbytes > 16 * LEAST_UNIT_NBYTES and n_structures > 16:
        assert n_units(cost) >= 4


def test_a_recipe_may_ask_for_smaller_parts_and_gets_them():
    cost = cost_of([100] * 1000)
    small = PartSize(nbytes=10**6)
    assert shared_out(small, cost) == small


def test_the_cut_does_not_depend_on_the_workers():
    cost = cost_of([10] * 1000)
    assert list(cut(cost, PartSize())) == list(cut(cost_of([10] * 1000), PartSize()))


def test_a_structure_larger_than_a_part_is_a_unit_of_its_own():
    units = list(cut(cost_of([10, 10**6, 10]), PartSize(nbytes=10**6)))
    assert units == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_gradients_count():
    with_pairs, without = cost_of([50], [PAIRS]), cost_of([50])
    assert with_pairs.nbytes > 5 * without.nbytes
    assert with_pairs.seconds > without.seconds


def test_density_decides_the_number_of_pairs_up_to_the_limit():
    thin, dense, absurd = cost_of([10] * 3, volumes=[1e4, 1e2, 1e-9]).n_pairs
    assert thin < dense < absurd
    assert absurd == 10 * 100


def test_measured_speed_replaces_the_estimate():
    descriptor_id = FEATURES.descriptor.descriptor_id
    slow = cost_of([10], speed={(descriptor_id, Gradients()): 2.0})
    assert 20 < slow.seconds[0] < 20.1


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), max_size=20))
def test_a_piece_reaches_a_worker_as_it_is(places):
    n = len(places)
    sent = Piece(
        Source(path="f.extxyz"),
        "f.extxyz",
        Fingerprint(1, 2, "digest"),
        np.array(places, np.int64).reshape(n, 2),
        pl.Series([f"key {i}" for i in range(n)], dtype=pl.String),
        np.arange(16 * n, dtype=np.uint8).reshape(n, 16),
        np.arange(n, dtype=np.uint32),
    )
    arrived = pickle.loads(pickle.dumps(sent))
    assert (arrived.source, arrived.location) == (sent.source, sent.location)
    assert arrived.fingerprint == sent.fingerprint
    assert arrived.keys.to_list() == sent.keys.to_list()
    for name in ("locations", "record_hashes", "nth"):
        np.testing.assert_array_equal(getattr(arrived, name), getattr(sent, name), strict=True)


def test_a_record_reaches_the_driver_as_it_is():
    rows = pl.DataFrame({"key": ["a", "b"], "labels": [["energy"], []]})
    for structures in (rows, pl.DataFrame()):
        sent = UnitRecord(structures, n_structures=len(structures))
        assert pickle.loads(pickle.dumps(sent)).structures.equals(structures)
