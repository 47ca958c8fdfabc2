"""Functions that take a neighbour's contribution smoothly to zero at the cutoff."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined
from atomlake.kernels.elementary import cosine_turn, sine_turn
from atomlake.kernels.lanes import LANES, larger, load, smaller, store

STEP = 0
COSINE = 1
SHIFTED_COSINE = 2
AMP_POLYNOMIAL = 3
POLY2 = 4
POLY3 = 5
EXPONENTIAL = 6
TANH3 = 7


@inlined
def cutoff_function(code: int, parameter: float, cutoff: float, r: float) -> tuple[float, float]:
    """Value and derivative by ``r`` of a cutoff function; both zero for ``r >= cutoff``.

    Parameters
    ----------
    code : int
        One of the constants above.
    parameter : float
        Width in Å of ``SHIFTED_COSINE``, exponent of ``AMP_POLYNOMIAL``; ignored by the others.
    cutoff, r : float
        Distances in Å.
    """
    if r >= cutoff:
        return 0.0, 0.0
    if code == STEP:
        return 1.0, 0.0
    x = r / cutoff
    if code == COSINE:
        angle = math.pi * x
        return 0.5 + 0.5 * math.cos(angle), -0.5 * math.pi / cutoff * math.sin(angle)
    if code == SHIFTED_COSINE:
        if r <= cutoff - parameter:
            return 1.0, 0.0
        angle = math.pi * (r - cutoff + parameter) / parameter
        return 0.5 + 0.5 * math.cos(angle), -0.5 * math.pi / parameter * math.sin(angle)
    if code == AMP_POLYNOMIAL:
        power = x ** (parameter - 1.0)
        value = 1.0 + x * power * (parameter * x - parameter - 1.0)
        return value, parameter * (parameter + 1.0) / cutoff * power * (x - 1.0)
    if code == POLY2:
        value = 1.0 + x * x * x * (x * (15.0 - 6.0 * x) - 10.0)
        return value, -30.0 / cutoff * x * x * (1.0 - x) * (1.0 - x)
    if code == POLY3:
        value = 1.0 + x * x * x * x * (x * (x * (20.0 * x - 70.0) + 84.0) - 35.0)
        return value, -140.0 / cutoff * x * x * x * (1.0 - x) * (1.0 - x) * (1.0 - x)
    if code == EXPONENTIAL:
        rest = 1.0 - x * x
        value = math.exp(1.0 - 1.0 / rest)
        return value, -2.0 * x / cutoff * value / (rest * rest)
    tanh = math.tanh(1.0 - x)
    return tanh * tanh * tanh, -3.0 / cutoff * tanh * tanh * (1.0 - tanh * tanh)


@inlined
def cutoff_values(
    code: int,
    parameter: float,
    cutoff: float,
    r: NDArray[np.float64],
    n: int,
    value: NDArray[np.float64],
) -> None:
    """As :func:`cutoff_functions`, without the derivative; writes whole blocks of lanes."""
    if code in (COSINE, SHIFTED_COSINE):
        width = cutoff if code == COSINE else parameter
        start = cutoff - width
        for t in range(0, n, LANES):
            x = smaller(larger((load(r, t) - start) / width, 0.0), 1.0)
            store(value, t, cosine_turn(x) * 0.5 + 0.5)
    else:
        for t in range(n):
            value[t], _ = cutoff_function(code, parameter, cutoff, r[t])


@inlined
def cutoff_functions(
    code: int,
    parameter: float,
    cutoff: float,
    r: NDArray[np.float64],
    n: int,
    value: NDArray[np.float64],
    derivative: NDArray[np.float64],
) -> None:
    """Write :func:`cutoff_function` of ``r[:n]`` and its derivative by ``r``.

    The cosines, which most descriptors use, go through a loop of plain arithmetic.
    """
    if code in (COSINE, SHIFTED_COSINE):
        width = cutoff if code == COSINE else parameter
        start = cutoff - width
        for t in range(n):
            x = (r[t] - start) / width
            x = x if x > 0.0 else 0.0
            x = x if x < 1.0 else 1.0
            value[t] = 0.5 + 0.5 * cosine_turn(x)
            derivative[t] = -0.5 * math.pi / width * sine_turn(x)
    else:
        for t in range(n):
            value[t], derivative[t] = cutoff_function(code, parameter, cutoff, r[t])
