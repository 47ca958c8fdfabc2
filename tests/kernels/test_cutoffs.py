"""Cutoff functions: their formulae, their ends, their derivatives."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from atomlake.descriptors.cutoffs import Cutoff
from atomlake.kernels.compiled import kernel
from atomlake.kernels.cutoffs import cutoff_function

CUTOFF = 5.0
FUNCTIONS = [
    Cutoff(function="step"),
    Cutoff(function="cosine"),
    Cutoff(function="shifted_cosine"),
    Cutoff(function="shifted_cosine", width=3.0),
    Cutoff(function="shifted_cosine", width=5.0),
    Cutoff(function="amp_polynomial"),
    Cutoff(function="amp_polynomial", gamma=2.5),
    Cutoff(function="poly2"),
    Cutoff(function="poly3"),
    Cutoff(function="exponential"),
    Cutoff(function="tanh3"),
]


@kernel
def _evaluate(code, parameter, cutoff, r, values, derivatives):
    for i in range(len(r)):
        values[i], derivatives[i] = cutoff_function(code, parameter, cutoff, r[i])


def evaluate(function, r, cutoff=CUTOFF):
    r = np.atleast_1d(np.asarray(r, dtype=float))
    values, derivatives = np.empty((2, len(r)))
    _evaluate(function.code, function.parameter, cutoff, r, values, derivatives)
    return values, derivatives


def name(function):
    return f"{function.function}{function.parameter:g}"


@pytest.mark.parametrize(
    ("function", "r", "expected"),
    [
        (Cutoff(function="cosine"), 1.0, 0.5 * (1 + math.cos(math.pi / 5))),
        (Cutoff(function="shifted_cosine", width=2.0), 2.9, 1.0),
        (Cutoff(function="shifted_cosine", width=2.0), 3.5, 0.5 * (1 + math.cos(math.pi / 4))),
        (Cutoff(function="amp_polynomial"), 2.0, 1 + 4 * 0.4**5 - 5 * 0.4**4),
        (Cutoff(function="poly2"), 2.0, 1 + ((15 - 6 * 0.4) * 0.4 - 10) * 0.4**3),
        (
            Cutoff(function="poly3"),
            2.0,
            1 + (0.4 * (0.4 * (20 * 0.4 - 70) + 84) - 35) * 0.4**4,
        ),
        (Cutoff(function="exponential"), 2.0, math.exp(1 - 1 / (1 - 0.16))),
        (Cutoff(function="tanh3"), 2.0, math.tanh(0.6) ** 3),
    ],
    ids=lambda v: name(v) if isinstance(v, Cutoff) else None,
)
def test_values_are_those_of_the_papers(function, r, expected):
    assert evaluate(function, r)[0][0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("function", FUNCTIONS, ids=name)
def test_nothing_is_left_at_and_beyond_the_cutoff(function):
    values, derivatives = evaluate(function, [CUTOFF, CUTOFF + 1e-9, 7.0])
    assert not values.any()
    assert not derivatives.any()


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.function != "step"], ids=name)
def test_the_last_bit_before_the_cutoff_is_smooth(function):
    values, derivatives = evaluate(function, CUTOFF * (1 - 1e-9))
    assert abs(values[0]) < 1e-15  # every function falls at least quadratically
    assert abs(derivatives[0]) < 1e-6


@pytest.mark.parametrize("function", FUNCTIONS, ids=name)
def test_the_derivative_is_that_of_the_value(function):
    r = np.linspace(0.013, CUTOFF - 0.017, 97)
    step = 1e-5
    plus, minus = evaluate(function, r + step)[0], evaluate(function, r - step)[0]
    # Central differences err by step² f'''/6 and, at the kink of f'' of shifted_cosine, by
    # step f''; both stay below 1e-7 for widths of 0.5 Å.
    np.testing.assert_allclose(evaluate(function, r)[1], (plus - minus) / (2 * step), atol=1e-7)


def test_a_name_alone_is_a_cutoff_with_its_default_parameter():
    assert Cutoff.model_validate("shifted_cosine") == Cutoff(function="shifted_cosine", width=0.5)
    assert Cutoff(function="amp_polynomial").gamma == 4.0


@pytest.mark.parametrize(
    "parameters",
    [
        {"function": "cosine", "width": 1.0},
        {"function": "shifted_cosine", "gamma": 2.0},
        {"function": "shifted_cosine", "width": 0.0},
        {"function": "amp_polynomial", "gamma": 0.5},
        {"function": "hat"},
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(parameters):
    with pytest.raises(ValidationError):
        Cutoff(**parameters)
