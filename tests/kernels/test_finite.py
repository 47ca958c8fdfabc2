"""Numbers that are not finite are found, wherever they stand."""

import numpy as np
import pytest

from atomlake.kernels.finite import all_finite

TYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@TYPES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_is_found_at_every_place(dtype, value, rng):
    numbers = rng.normal(size=77).astype(dtype)
    for place in range(len(numbers)):
        with_one = numbers.copy()
        with_one[place] = value
        assert not all_finite(with_one)


@TYPES
def test_infinities_of_both_signs_do_not_cancel(dtype):
    assert not all_finite(np.array([np.inf, -np.inf], dtype))


@TYPES
def test_numbers_are_finite_whose_sum_is_not(dtype):
    assert all_finite(np.full(100, np.finfo(dtype).max, dtype))
    assert all_finite(np.full(100, -np.finfo(dtype).smallest_subnormal, dtype))


@TYPES
def test_nothing_is_finite(dtype):
    assert all_finite(np.empty(0, dtype))
