"""Elementary functions in plain arithmetic against numpy's."""

import numpy as np
import pytest

from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.compiled import kernel
from atomlake.kernels.cutoffs import cutoff_function, cutoff_functions
from atomlake.kernels.elementary import cosine_turn, exponential, sine_turn


@kernel
def _exponential(x, y):
    for i in range(x.shape[0]):
        y[i] = exponential(x[i])


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


def test_exponential_is_right_to_two_units_in_the_last_place():
    x = np.linspace(-708, 700, 100_001)
    np.testing.assert_allclose(apply(_exponential, x), np.exp(x), rtol=2 * np.spacing(1.0), atol=0)


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
