"""Elementary functions in plain arithmetic against numpy's."""

import numpy as np
import pytest

from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.compiled import kernel
from atomlake.kernels.cutoffs import cutoff_function, cutoff_functions
from atomlake.kernels.elementary import cosine_turn, exponential, sine_turn
from atomlake.kernels.lanes import (
    LANES,
    count_below,
    lane_sum,
    larger,
    load,
    pack_below,
    pointer,
    smaller,
    square_root,
    store,
)


@kernel
def _exponential(x, y):
    for i in range(x.shape[0]):
        y[i] = exponential(x[i])


@kernel
def _exponential_of_lanes(x, y):
    source, target = pointer(x), pointer(y)
    for i in range(0, x.shape[0], LANES):
        store(target, i, exponential(load(source, i)))


@kernel
def _cosine_turn(x, y):
    for i in range(x.shape[0]):
        y[i] = cosine_turn(x[i])


@kernel
def _sine_turn(x, y):
    for i in range(x.shape[0]):
        y[i] = sine_turn(x[i])


@kernel
def _one_by_one(code, parameter, cutoff, r, value, derivative):
    for i in range(r.shape[0]):
        value[i], derivative[i] = cutoff_function(code, parameter, cutoff, r[i])


@kernel
def _together(code, parameter, cutoff, r, value, derivative):
    cutoff_functions(code, parameter, cutoff, r, r.shape[0], value, derivative)


def apply(function, x):
    y = np.full_like(x, np.nan)
    function(x, y)
    return y


@pytest.mark.parametrize("function", [_exponential, _exponential_of_lanes])
def test_exponential_is_right_to_two_units_in_the_last_place(function):
    x = np.linspace(-708, 700, 100_000)
    np.testing.assert_allclose(apply(function, x), np.exp(x), rtol=2 * np.spacing(1.0), atol=0)


def test_exponential_stays_finite_and_positive_far_below_zero():
    y = apply(_exponential, np.array([-709.0, -1e4, -1e300]))
    assert (y > 0).all()
    assert (y < 1e-307).all()


@pytest.mark.parametrize(
    ("function", "reference"), [(_cosine_turn, np.cos), (_sine_turn, np.sin)], ids=["cos", "sin"]
)
def test_half_a_turn_is_right_to_rounding(function, reference):
    x = np.linspace(0, 1, 100_001)
    # numpy's own argument π x is rounded by 2e-16, which its result inherits.
    np.testing.assert_allclose(apply(function, x), reference(np.pi * x), rtol=0, atol=6e-16)


@pytest.mark.parametrize("name", Cutoff.model_fields["function"].annotation.__args__)
def test_cutoff_functions_of_many_distances_are_those_of_each(name):
    function = Cutoff(function=name)
    r = np.linspace(1e-3, 6.0, 1001)
    alone, together = np.full((2, 2, len(r)), np.nan)
    _one_by_one(function.code, function.parameter, 5.0, r, *alone)
    _together(function.code, function.parameter, 5.0, r, *together)
    # Rounding of the argument of the cosine, times the largest derivative.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-14)


@kernel
def _pack(x, test, limit, n, packed, count):
    test_lanes = load(pointer(test), 0)
    store(pointer(packed), 0, pack_below(load(pointer(x), 0), test_lanes, limit, n))
    count[0] = count_below(test_lanes, limit, n)


@pytest.mark.parametrize("n", [-1, 0, 1, 5, 8, 20])
def test_lanes_below_a_limit_move_to_the_front(n):
    x, test = np.arange(1.0, 9.0), np.array([3.0, 0.1, np.nan, 0.9, 1.0, 0.2, np.inf, -1.0])
    packed, count = np.empty(LANES), np.empty(1, dtype=int)
    _pack(x, test, 1.0, n, packed, count)
    expected = [x[k] for k in range(min(max(n, 0), LANES)) if test[k] < 1.0]
    assert packed[: count[0]].tolist() == expected


@kernel
def _lane_arithmetic(x, results, sums):
    value = load(pointer(x), 0)
    target = pointer(results)
    store(target, 0, 2.0 / (value + 1.0) - value * 0.5)
    store(target, 8, square_root(value))
    store(target, 16, larger(value, 3.0))
    store(target, 24, smaller(value, 3.0))
    sums[0] = lane_sum(value)


def test_lanes_are_eight_numbers_at_once():
    x = np.array([0.1, 9.0, 2.0, 3.0, 4.0, 0.5, 7.0, 1.0])
    results, sums = np.empty((4, LANES)), np.empty(1)
    _lane_arithmetic(x, results, sums)
    expected = [2 / (x + 1) - x * 0.5, np.sqrt(x), np.maximum(x, 3), np.minimum(x, 3)]
    # Fused multiplication and addition round once where numpy rounds twice.
    np.testing.assert_allclose(results, expected, rtol=1e-15)
    assert sums[0] == pytest.approx(x.sum(), rel=1e-15)
