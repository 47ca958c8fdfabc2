"""Blocks of eight numbers: what is read, computed and written, and what is left alone."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from atomlake.kernels.compiled import kernel
from atomlake.kernels.lanes import (
    LANES,
    broadcast,
    load,
    load_at,
    n_padded,
    pointer,
    store,
    store_some,
)


@kernel
def _polynomial(x, factor, result):
    """``factor x x + x - 1`` for whole blocks."""
    data = pointer(x)
    for i in range(0, x.shape[0], LANES):
        a = load(data, i)
        store(pointer(result), i, broadcast(factor) * a * a + a - broadcast(1.0))


@kernel
def _copy_some(x, first, last, result, at):
    store_some(pointer(result), at, load(pointer(x), 0), first, last)


def test_arithmetic_is_elementwise(rng):
    x = rng.normal(size=4 * LANES)
    result = np.empty_like(x)
    _polynomial(x, 0.3, result)
    # Products and sums may be fused, which rounds once less.
    np.testing.assert_allclose(result, 0.3 * x * x + x - 1, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("first", "last"), [(0, 8), (0, 3), (5, 8), (2, 6), (-3, 20), (4, 4)])
def test_some_lanes_are_written_and_the_rest_is_left_alone(rng, dtype, first, last):
    x = rng.normal(size=LANES)
    result = np.full(20, 7.0, dtype)
    _copy_some(x, first, last, result, 6)
    expected = np.full(20, 7.0, dtype)
    some = slice(max(first, 0), min(last, LANES))
    expected[6:14][some] = x[some]
    np.testing.assert_array_equal(result, expected)


@kernel
def _look_up(data, indices, first, n, result):
    store(pointer(result), 0, load_at(pointer(data), pointer(indices), first, n))


@pytest.mark.parametrize("n", [-1, 0, 3, 8, 20])
def test_numbers_are_looked_up_where_indices_say_and_nowhere_else(rng, n):
    data = rng.integers(-100, 100, 50).astype(np.int32)
    indices = rng.integers(0, 50, 2 + LANES)
    expected = np.where(np.arange(LANES) < n, data[indices[2:]], 0)
    indices[2 + max(n, 0) :] = 2**60
    result = np.empty(LANES)
    _look_up(data, indices, 2, n, result)
    np.testing.assert_array_equal(result, expected)


def test_pointers_of_strided_arrays_are_refused():
    with pytest.raises(TypingError, match="C-contiguous"):
        _polynomial(np.zeros(32)[::2], 1.0, np.zeros(16))


def test_padding_is_to_whole_blocks():
    assert [n_padded(n) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]
