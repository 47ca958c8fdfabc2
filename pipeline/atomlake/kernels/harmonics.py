"""Real spherical harmonics and their Cartesian gradients, for eight directions at a time.

Harmonic ``(l, m)`` sits at index ``l² + l + m``; ``m < 0`` is the sine, ``m > 0`` the cosine
of ``|m| φ``, without Condon–Shortley phase: degree 1 is proportional to ``(y, z, x)``. The
set is orthonormal on the sphere.

Values come from the recursion in ``l`` at fixed ``m`` over fully normalised polynomials,
which is stable to any degree and needs neither angles nor divisions. The gradient of
the solid harmonic ``r^l Y_lm`` is a combination of harmonics of degree ``l - 1``, which
costs two products per component. On the unit sphere

    d Y_lm(r/|r|) / d r = (gradient - l r Y_lm) / |r|,   r · gradient = l Y_lm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined
from atomlake.kernels.lanes import LANES, broadcast, load, store

Floats = NDArray[np.float64]

#: Rows of the array of :func:`recursion_coefficients`.
_FIRST, _SECOND, _RAISE, _LOWER, _KEEP = range(5)


def recursion_coefficients(l_max: int) -> Floats:
    """Constants of the recursions, shape (5, (l_max + 1) (l_max + 2) / 2).

    Column ``l (l + 1) / 2 + m`` holds those of degree ``l`` and ``m >= 0``. With
    ``f_lm = q_lm(z) (x + i y)^m`` and ``q_lm`` normalised such that its real and imaginary
    parts are the harmonics:

    - ``q_lm = first · z q_(l-1)m - second · q_(l-2)m``; where ``l = m``, ``first`` is ``q_mm``
    - gradient of ``f_lm``: ``raise`` goes with ``f_(l-1)(m+1)``, ``lower`` with
      ``f_(l-1)(m-1)``, ``keep`` with ``f_(l-1)m``.
    """
    coefficients = np.zeros((5, (l_max + 1) * (l_max + 2) // 2))
    # norm²[l, m] = (2 - δ_m0) (2 l + 1) / 4π · (l - m)! / (l + m)!, as ratios of neighbours,
    # which stay near one where factorials would overflow.
    diagonal = np.sqrt(1 / (4 * np.pi))
    for l in range(l_max + 1):
        if l > 0:
            # q_ll / q_(l-1)(l-1), of (2l - 1)!! and the norms.
            diagonal *= np.sqrt((2 * l + 1) / (2 * l) * (2 if l == 1 else 1))
        for m in range(l + 1):
            column = l * (l + 1) // 2 + m
            if m == l:
                coefficients[_FIRST, column] = diagonal
            else:
                coefficients[_FIRST, column] = np.sqrt((4 * l * l - 1) / (l * l - m * m))
            if m < l - 1:
                coefficients[_SECOND, column] = np.sqrt(
                    (2 * l + 1) * ((l - 1) ** 2 - m * m) / ((2 * l - 3) * (l * l - m * m))
                )
            if l == 0:
                continue
            degree = (2 * l + 1) / (2 * l - 1)
            if m < l - 1:
                # Half the ratio of the norms of (l, m) and (l - 1, m + 1); for m = 0 the mirror
                # image m - 1 = -1 contributes the other half.
                half = 1 / np.sqrt(2) if m == 0 else 0.5
                coefficients[_RAISE, column] = half * np.sqrt(degree * (l - m) * (l - m - 1))
            if m > 0:
                double = np.sqrt(2) if m == 1 else 1.0
                coefficients[_LOWER, column] = (
                    0.5 * double * np.sqrt(degree * (l + m) * (l + m - 1))
                )
            if m < l:
                coefficients[_KEEP, column] = np.sqrt(degree * (l - m) * (l + m))
    return coefficients


@inlined
def spherical_harmonics(
    l_max: int, coefficients: Floats, directions: Floats, at: int, harmonics: Floats, out: int
) -> None:
    """Write the harmonics of eight unit vectors.

    Parameters
    ----------
    coefficients : pointer
        To :func:`recursion_coefficients`.
    directions : pointer
        ``x`` of the eight vectors from flat index ``at``, then their ``y``, then their ``z``.
    harmonics : pointer
        Row ``lm``, eight numbers, starts at flat index ``out + 8 lm``.
    """
    size = (l_max + 1) * (l_max + 2) // 2
    x = load(directions, at)
    y = load(directions, at + LANES)
    z = load(directions, at + 2 * LANES)
    cosine = broadcast(1.0)
    sine = broadcast(0.0)
    for m in range(l_max + 1):
        before = broadcast(0.0)
        value = broadcast(coefficients[_FIRST * size + m * (m + 1) // 2 + m])
        for l in range(m, l_max + 1):
            if l > m:
                column = l * (l + 1) // 2 + m
                first = broadcast(coefficients[_FIRST * size + column])
                second = broadcast(coefficients[_SECOND * size + column])
                value, before = first * z * value - second * before, value
            row = out + LANES * (l * l + l)
            store(harmonics, row + LANES * m, value * cosine)
            if m > 0:
                store(harmonics, row - LANES * m, value * sine)
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine


@inlined
def solid_gradients(
    l_max: int, coefficients: Floats, harmonics: Floats, values: int, gradients: int
) -> None:
    """Write the Cartesian gradients of the solid harmonics ``r^l Y_lm`` of eight unit vectors.

    Parameters
    ----------
    harmonics : pointer
        Values as written by :func:`spherical_harmonics` from flat index ``values``; the rows of
        the derivatives by x, by y and by z are written from ``gradients``, one after another.
    """
    size = (l_max + 1) * (l_max + 2) // 2
    component = LANES * (l_max + 1) * (l_max + 1)
    zero = broadcast(0.0)
    for k in range(3):
        store(harmonics, gradients + k * component, zero)
    for l in range(1, l_max + 1):
        below = values + LANES * (l * l - l)
        row = gradients + LANES * (l * l + l)
        for m in range(l + 1):
            column = l * (l + 1) // 2 + m
            up_cosine, up_sine, down_cosine, down_sine = zero, zero, zero, zero
            keep_cosine, keep_sine = zero, zero
            if m < l - 1:
                up = broadcast(coefficients[_RAISE * size + column])
                up_cosine = up * load(harmonics, below + LANES * (m + 1))
                up_sine = up * load(harmonics, below - LANES * (m + 1))
            if m > 0:
                down = broadcast(coefficients[_LOWER * size + column])
                down_cosine = down * load(harmonics, below + LANES * (m - 1))
                if m > 1:
                    down_sine = down * load(harmonics, below - LANES * (m - 1))
            if m < l:
                keep = broadcast(coefficients[_KEEP * size + column])
                keep_cosine = keep * load(harmonics, below + LANES * m)
                keep_sine = keep * load(harmonics, below - LANES * m)
            to = row + LANES * m
            store(harmonics, to, down_cosine - up_cosine)
            store(harmonics, to + component, zero - up_sine - down_sine)
            store(harmonics, to + 2 * component, keep_cosine)
            if m > 0:
                to = row - LANES * m
                store(harmonics, to, down_sine - up_sine)
                store(harmonics, to + component, up_cosine + down_cosine)
                store(harmonics, to + 2 * component, keep_sine)
