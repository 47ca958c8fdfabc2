"""Columns of eight blocks of lanes."""

import numba
import numpy as np

from atomlake.kernels.lanes import load, pointer
from atomlake.kernels.transposition import store_columns


@numba.njit
def turned(rows, stride, columns):
    rows, columns = pointer(rows), pointer(columns)
    store_columns(
        columns,
        3,
        stride,
        load(rows, 0),
        load(rows, 8),
        load(rows, 16),
        load(rows, 24),
        load(rows, 32),
        load(rows, 40),
        load(rows, 48),
        load(rows, 56),
    )


def test_lanes_become_rows(rng):
    rows, columns = rng.random((8, 8)), np.zeros(3 + 8 * 11)
    turned(rows, 11, columns)
    np.testing.assert_array_equal(columns[:3], 0)
    np.testing.assert_array_equal(columns[3:].reshape(8, 11)[:, :8], rows.T)
    np.testing.assert_array_equal(columns[3:].reshape(8, 11)[:, 8:], 0)
