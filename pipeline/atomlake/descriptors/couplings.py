"""How real spherical harmonics couple under rotation: Clebsch–Gordan coefficients and trees.

Harmonics are those of :mod:`atomlake.kernels.harmonics`: real, m = -l … l, no
Condon–Shortley phase. Products of ν objects ``c_1 … c_ν`` that rotate like harmonics of
degrees ``l_1 … l_ν`` are coupled to degree λ one after another, over intermediate
degrees ``L_2 … L_(ν-1)``:

    (…((c_1 c_2)_L2 c_3)_L3 …)_λμ = Σ_m T[μ, m_1 … m_ν] c_1,m1 … c_ν,mν

Trees with different intermediate degrees are independent as long as all factors differ.
Where factors are equal only the part of T that is symmetric in them counts, and some
trees vanish or depend on others; those are left out.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from math import factorial, prod, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]

#: A tree is dependent where less than this part of its symmetrised tensor's norm (1 for
#: distinct factors) is independent of the trees before it. Of four factors up to degree 5,
#: dependent trees leave at most 5e-16 and independent ones at least 0.2.
DEPENDENT = 1e-8


class Tree(NamedTuple):
    """One coupling of ν factors.

    Attributes
    ----------
    intermediates : tuple of int
        ``L_2 … L_(ν-1)``.
    tensor : float64 array, shape (2 λ + 1, 2 l_1 + 1, …, 2 l_ν + 1)
        T, symmetrised over equal factors.
    """

    intermediates: tuple[int, ...]
    tensor: Floats


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> Floats:
    """Clebsch–Gordan coefficients of real harmonics, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).

    ``Σ_(m1, m2) C[m1, m2, m3] C[m1, m2, m3'] = δ``. For even ``l1 + l2 + l3`` these are the
    complex coefficients in another basis; for odd sums, where that is imaginary, they are
    multiplied by i, as featomic does.
    """
    complex_ = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            value = _clebsch_gordan(l1, m1, l2, m2, l3)
            complex_[m1 + l1, m2 + l2, m1 + m2 + l3] = value
    u1, u2, u3 = (_real_from_complex(l) for l in (l1, l2, l3))
    real = np.einsum("ai,bj,ck,ijk->abc", u1.conj(), u2.conj(), u3, complex_, optimize=True)
    result = real.real if (l1 + l2 + l3) % 2 == 0 else -real.imag
    result = np.where(np.abs(result) < 1e-15, 0.0, result)
    result.flags.writeable = False
    return result


@cache
def rotation_generators(degree: int) -> Floats:
    """Matrices G of infinitesimal rotations, shape (3, 2 l + 1, 2 l + 1).

    ``r_b dY_m/dr_a - r_a dY_m/dr_b = Σ_m' G[m, m'] Y_m'`` for (a, b) = (x, y), (x, z), (y, z).
    """
    m = np.arange(-degree, degree + 1)
    up = np.diag(np.sqrt((degree - m[:-1]) * (degree + m[:-1] + 1.0)), -1)
    momenta = (up + up.T) / 2, (up - up.T) / 2j, np.diag(m.astype(complex))
    lx, ly, lz = momenta
    u = _real_from_complex(degree)
    return np.array(
        [(u @ (i * l).T @ u.conj().T).real for i, l in ((-1j, lz), (1j, ly), (-1j, lx))]
    )


@cache
def trees(degrees: tuple[int, ...], groups: tuple[int, ...], total: int) -> tuple[Tree, ...]:
    """Independent couplings of factors of which some are equal.

    Parameters
    ----------
    degrees : tuple of int
        ``l_1 … l_ν``.
    groups : tuple of int
        Runs of equal factors, by their lengths; they sum up to ν.
    total : int
        λ.
    """
    n_expected = n_trees(degrees, groups, total)
    found: list[Tree] = []
    independent: list[Floats] = []
    for intermediates in _intermediates(degrees, total):
        if len(found) == n_expected:
            break
        tensor = _symmetrised(_tensor(degrees, intermediates, total), groups)
        rest = tensor.ravel()
        # Twice, because the first pass leaves rounding errors of what it removes.
        for _ in range(2):
            for direction in independent:
                rest = rest - (direction @ rest) * direction
        norm = np.linalg.norm(rest)
        if norm > DEPENDENT:
            independent.append(rest / norm)
            found.append(Tree(intermediates, tensor))
    return tuple(found)


@cache
def n_trees(degrees: tuple[int, ...], groups: tuple[int, ...], total: int) -> int:
    """Number of :func:`trees`, from the characters of the rotation group.

    A product of symmetric powers of degrees ``l`` holds degree λ as often as it has more
    states of ``M = λ`` than of ``M = λ + 1``.
    """
    states = np.ones(1, dtype=np.int64)
    start = 0
    for size in groups:
        states = np.convolve(states, _symmetric_power(degrees[start], size))
        start += size
    # From M = 0 to the largest.
    states = states[len(states) // 2 :]
    if total >= len(states):
        return 0
    return int(states[total] - states[total + 1 : total + 2].sum())


@cache
def _symmetric_power(degree: int, size: int) -> NDArray[np.int64]:
    """Number of states of each M, ascending, of ``size`` equal objects of one degree."""
    # states[k][i]: multisets of k of the harmonics so far, whose l + m sum up to i
    states = np.zeros((size + 1, 2 * degree * size + 1), dtype=np.int64)
    states[0, 0] = 1
    for m in range(2 * degree + 1):
        for k in range(1, size + 1):
            states[k, m:] += states[k - 1, : states.shape[1] - m]
    return states[size]  # type: ignore[no-any-return]


def _intermediates(degrees: tuple[int, ...], total: int) -> list[tuple[int, ...]]:
    """All ``L_2 … L_(ν-1)`` that the triangle inequalities allow, ascending."""
    if len(degrees) == 1:
        return [()] if degrees[0] == total else []
    paths: list[tuple[int, ...]] = [(degrees[0],)]
    for l in degrees[1:]:
        paths = [(*path, L) for path in paths for L in range(abs(path[-1] - l), path[-1] + l + 1)]
    return [path[1:-1] for path in paths if path[-1] == total]


def _tensor(degrees: tuple[int, ...], intermediates: tuple[int, ...], total: int) -> Floats:
    """T of one tree, of norm 1."""
    # The last axis is the degree reached so far.
    tensor = np.eye(2 * degrees[0] + 1)
    path = (degrees[0], *intermediates, total)
    for step, l in enumerate(degrees[1:]):
        tensor = np.tensordot(tensor, clebsch_gordan(path[step], l, path[step + 1]), axes=1)
    return np.moveaxis(tensor, -1, 0) / sqrt(2 * total + 1)


def _symmetrised(tensor: Floats, groups: tuple[int, ...]) -> Floats:
    start = 1
    for size in groups:
        axes = list(range(tensor.ndim))
        orders = list(permutations(range(start, start + size)))
        tensor = sum(
            (tensor.transpose([*axes[:start], *order, *axes[start + size :]]) for order in orders),
            np.zeros(tensor.shape),
        ) / len(orders)
        start += size
    return tensor


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Racah's formula, in exact integers up to the last step."""
    m3 = m1 + m2
    terms = range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1)
    bottom = [
        factorial(k)
        * factorial(l1 + l2 - l3 - k)
        * factorial(l1 - m1 - k)
        * factorial(l2 + m2 - k)
        * factorial(l3 - l2 + m1 + k)
        * factorial(l3 - l1 - m2 + k)
        for k in terms
    ]
    common = prod(bottom)
    numerator = sum((-1) ** k * (common // b) for k, b in zip(terms, bottom, strict=True))
    if numerator == 0:
        return 0.0
    squared = (
        (2 * l3 + 1)
        * factorial(l3 + l1 - l2)
        * factorial(l3 - l1 + l2)
        * factorial(l1 + l2 - l3)
        * prod(factorial(l + m) * factorial(l - m) for l, m in ((l1, m1), (l2, m2), (l3, m3)))
    )
    # The ratio of the integers is exact before it is rounded; only then comes the root.
    magnitude = sqrt(squared * numerator**2 / (factorial(l1 + l2 + l3 + 1) * common**2))
    return magnitude if numerator > 0 else -magnitude


@cache
def _real_from_complex(degree: int) -> Complex:
    """Unitary U with ``real = U complex``, both ordered m = -l … l."""
    u = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    u[degree, degree] = 1
    for m in range(1, degree + 1):
        sign = (-1) ** m
        # Y_l,-m = (-1)^m conj(Y_lm)
        u[degree + m, [degree + m, degree - m]] = np.array([sign, 1]) / sqrt(2)
        u[degree - m, [degree + m, degree - m]] = np.array([sign, -1]) / (1j * sqrt(2))
    return u
