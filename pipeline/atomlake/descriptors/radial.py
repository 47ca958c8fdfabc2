"""Radial functions of neighbour densities, and their tables for the kernels.

In a density of Gaussians a neighbour at distance d is a Gaussian of width σ. Its coefficient
for radial function R_n, degree l, is ``I_nl(d) Y_lm(direction)`` with

    I_nl(d) = ∫ r² R_n(r) K_l(r, d) dr,
    K_l(r, d) = 4π exp(-(r² + d²) / 2σ²) i_l(r d / σ²)

(i_l: modified spherical Bessel function; Bartók et al., PRB 87, 184115 (2013), Eq. 26). A
radial basis is therefore nothing but points r_q and a matrix for each degree: ``I_nl(d) =
Σ_q functional[l, n, q] K_l(r_q, d)``. To add one, write a function and a line of
:data:`FAMILIES`.

In a density of points the coefficient is ``R_nl(d) Y_lm(direction)``: the function at the
neighbour itself. Such functions are those of :data:`POINT_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its modules are loaded at their first use, a fifth of a second for this one
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from atomlake.kernels.lanes import n_padded

Floats = NDArray[np.float64]
#: Points r_q, shape (n_points,), and the functional, shape (l_max + 1, n_max, n_points).
Basis = tuple[Floats, Floats]

#: Error of a table relative to the largest value of its degree l.
TABLE_ERROR = 1e-11
#: Largest condition number of normalised primitive functions. Orthonormal functions, and with
#: them the features, lose this times 2e-16 in relative accuracy.
MAX_CONDITION = 1e8


def gto(n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """``r^l exp(-α_nl r²)``, falling to 1e-3 at n_max distances from 1 Å to the cutoff.

    Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), Eq. 17.
    """
    if cutoff <= 1:
        raise ValueError(
            f"the gto basis starts at 1 Å, so its cutoff must be larger, not {cutoff} Å; "
            "use a larger cutoff or the polynomial basis"
        )
    reach = np.linspace(1.0, cutoff, n_max)
    powers = np.arange(l_max + 1.0)[:, None]
    exponents = (powers * np.log(reach) - np.log(1e-3)) / reach**2
    points, weights, primitives = _gaussian_type(powers, exponents, sigma)
    return points, _orthonormalised(primitives, points, weights)


def gto_monomial(n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """``r^n exp(-r² / 2 s_n²)``, ``s_n = cutoff max(√n, 1) / n_max``, n from 0, for every l.

    Musil et al., J. Chem. Phys. 154, 114109 (2021), Eq. 21.
    """
    powers = np.arange(float(n_max))
    widths = cutoff * np.maximum(np.sqrt(powers), 1.0) / n_max
    points, weights, primitives = _gaussian_type(powers, 0.5 / widths**2, sigma)
    primitives /= np.sqrt(primitives**2 @ (weights * points**2))[:, None]
    functional = _orthonormalised(primitives, points, weights)
    return points, np.broadcast_to(functional, (l_max + 1, *functional.shape))


def polynomial(n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """``(cutoff - r)^(n + 2)``, n from 1, for every l.

    Bartók et al., PRB 87, 184115 (2013), Eq. 28.
    """
    points, weights = _quadrature(cutoff, sigma)
    primitives = (cutoff - points) ** np.arange(3.0, n_max + 3)[:, None]
    functional = _orthonormalised(primitives, points, weights)
    return points, np.broadcast_to(functional, (l_max + 1, *functional.shape))


def dvr(n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """Discrete variables: the density at n_max Gauss–Legendre points up to ``cutoff + 3 sigma``.

    Light & Carrington, Adv. Chem. Phys. 114, 263 (2000).
    """
    x, w = np.polynomial.legendre.leggauss(n_max)
    half = 0.5 * (cutoff + 3 * sigma)
    points = half * (1 + x)
    functional = np.diag(np.sqrt(half * w) * points)
    return points, np.broadcast_to(functional, (l_max + 1, *functional.shape))


def laplacian_eigenstates(n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """``j_l(z_nl r / cutoff)``, normalised, with z_nl the n-th zero of j_l.

    Bigi et al., J. Chem. Phys. 157, 234101 (2022).
    """
    zeros = _spherical_bessel_zeros(n_max, l_max)
    points, weights = _quadrature(cutoff, min(sigma, cutoff / zeros.max()))
    values = laplacian_eigenstates_of_points(points, n_max, l_max, cutoff, None)[0]
    return points, values.transpose(1, 2, 0) * (weights * points**2)


#: Every radial basis of a density of Gaussians by name: functions of n_max, l_max, cutoff, sigma.
FAMILIES: dict[str, Callable[[int, int, float, float], Basis]] = {
    "gto": gto,
    "gto_monomial": gto_monomial,
    "polynomial": polynomial,
    "dvr": dvr,
    "laplacian_eigenstates": laplacian_eigenstates,
}


def laplacian_eigenstates_of_points(
    distances: Floats, n_max: int, l_max: int, cutoff: float, decay: float | None
) -> Floats:
    """The functions of :func:`laplacian_eigenstates`."""
    zeros = _spherical_bessel_zeros(n_max, l_max)
    result = np.empty((3, len(distances), l_max + 1, n_max))
    for l in range(l_max + 1):
        waves = zeros[l] / cutoff
        bessel = [
            scipy.special.spherical_jn(abs(k), distances[:, None] * waves)
            for k in range(l - 2, l + 3)
        ]

        def derivative(f: list[Floats], first: int) -> list[Floats]:
            # j_k' = (k j_(k-1) - (k + 1) j_(k+1)) / (2k + 1); the list f starts with k = first.
            return [
                (k * f[k - first - 1] - (k + 1) * f[k - first + 1]) / (2 * k + 1)
                for k in range(first + 1, first + len(f) - 1)
            ]

        slope = derivative(bessel, l - 2)
        curvature = derivative(slope, l - 1)
        norms = np.sqrt(2 / cutoff**3) / np.abs(scipy.special.spherical_jn(l + 1, zeros[l]))
        result[:, :, l] = (
            bessel[2] * norms,
            slope[1] * norms * waves,
            curvature[0] * norms * waves**2,
        )
    return result


def chebyshev_exponential(
    distances: Floats, n_max: int, l_max: int, cutoff: float, decay: float | None
) -> Floats:
    """1 and ``(1 - T_n(x)) / 2``, ``x = 1 - 2 (e^(-λr/cutoff) - e^-λ) / (1 - e^-λ)``, λ the decay.

    Drautz, Phys. Rev. B 99, 014104 (2019): with a cosine cutoff function, pacemaker's
    ``ChebExpCos`` (Bochkarev et al., Phys. Rev. Mater. 6, 013804 (2022)).
    """
    rate = (decay or 0.0) / cutoff
    fall = 2 * np.exp(-rate * distances) / -np.expm1(-rate * cutoff)
    x = 1 - fall + 2 * np.exp(-rate * cutoff) / -np.expm1(-rate * cutoff)
    values = _chebyshev(n_max - 1, x, rate * fall, -(rate**2) * fall, l_max)
    first = np.zeros((*values.shape[:-1], 1))
    first[0] = 1.0
    return np.concatenate([first, values], axis=-1)


def chebyshev_power(
    distances: Floats, n_max: int, l_max: int, cutoff: float, decay: float | None
) -> Floats:
    """``(1 - T_n(x)) / 2``, n from 1, ``x = 1 - 2 (1 - r / cutoff)^λ``, λ the decay.

    Zero at the cutoff without any cutoff function: pacemaker's ``ChebPow`` (Bochkarev et al.,
    Phys. Rev. Mater. 6, 013804 (2022)).
    """
    power = decay or 0.0
    if power < 2 or (power < 4 and power != int(power)):
        raise ValueError(
            f"chebyshev_power functions with a radial_decay of {power} are not smooth at the "
            "cutoff; use 2, 3 or any number from 4 on"
        )
    rest = np.maximum(1 - distances / cutoff, 0.0)
    slope = 2 * power / cutoff * rest ** (power - 1)
    curvature = -2 * power * (power - 1) / cutoff**2 * rest ** (power - 2)
    return _chebyshev(n_max, 1 - 2 * rest**power, slope, curvature, l_max)


def zernike(
    distances: Floats, n_max: int, l_max: int, cutoff: float, decay: float | None
) -> Floats:
    """Zernike's radial polynomials R_(l + 2n)l, n from 0, orthonormal within the cutoff.

    Khorshidi & Peterson, Comput. Phys. Commun. 207, 310 (2016), times ``cutoff^(-3/2)``;
    as Jacobi polynomials, which keep their digits at any n.
    """
    rho = (distances / cutoff)[:, None, None]
    n = np.arange(n_max)
    l = np.arange(l_max + 1.0)[:, None]
    t = 2 * rho**2 - 1
    # d/dt P_n^(a,b) = (n + a + b + 1) / 2 P_(n-1)^(a+1,b+1)
    half = l + 0.5
    p = scipy.special.eval_jacobi(n, 0, half, t)
    p1 = np.where(
        n > 0,
        (n + half + 1) / 2 * scipy.special.eval_jacobi(np.maximum(n - 1, 0), 1, half + 1, t),
        0,
    )
    p2 = np.where(
        n > 1,
        (n + half + 1)
        / 2
        * (n + half + 2)
        / 2
        * scipy.special.eval_jacobi(np.maximum(n - 2, 0), 2, half + 2, t),
        0,
    )
    norms = np.sqrt((2 * l + 4 * n + 3) / cutoff**3)
    lower = l * rho ** np.maximum(l - 1, 0)
    lowest = l * (l - 1) * rho ** np.maximum(l - 2, 0)
    return np.array(
        [
            norms * rho**l * p,
            norms / cutoff * (lower * p + 4 * rho ** (l + 1) * p1),
            norms / cutoff**2 * (lowest * p + (8 * l + 4) * rho**l * p1 + 16 * rho ** (l + 2) * p2),
        ]
    )


#: Radial functions of a density of points by name: functions of distances, n_max, l_max, cutoff
#: and decay that return values, first and second derivatives, shape (3, n_distances, l_max + 1,
#: n_max).
POINT_FAMILIES: dict[str, Callable[[Floats, int, int, float, float | None], Floats]] = {
    "chebyshev_exponential": chebyshev_exponential,
    "chebyshev_power": chebyshev_power,
    "laplacian_eigenstates": laplacian_eigenstates_of_points,
    "zernike": zernike,
}
#: Radial functions of points that have a decay, and its default.
DECAYS = {"chebyshev_exponential": 5.25, "chebyshev_power": 2.0}
#: Radial functions of points that are zero at the cutoff.
CLOSED = frozenset({"chebyshev_power", "laplacian_eigenstates"})


def check_functions(
    family: str,
    n_max: int,
    l_max: int,
    cutoff: float,
    sigma: float | None,
    decay: float | None,
) -> None:
    """Raise a ValueError that says what helps where there are no such radial functions."""
    if sigma is None:
        POINT_FAMILIES[family](np.array([0.5 * cutoff]), n_max, l_max, cutoff, decay)
    else:
        radial_basis(family, n_max, l_max, cutoff, sigma)


@dataclass(frozen=True)
class RadialTable:
    """Radial functions of all n and l on a grid of distances, as the kernels read them.

    Attributes
    ----------
    values : float64 array, shape (n_nodes, 3, (l_max + 1) n_padded)
        As described in :mod:`atomlake.kernels.radial`; within a degree the n_max functions
        are padded with zeros.
    spacing : float
        Distance between nodes in Å.
    error : float
        Largest interpolation error relative to the largest value of the same degree. That
        of derivatives is at most ``3.5 / spacing`` times as large.
    """

    values: Floats
    spacing: float
    error: float


@lru_cache(maxsize=32)
def radial_basis(family: str, n_max: int, l_max: int, cutoff: float, sigma: float) -> Basis:
    """Return the points and the functional of a basis.

    Raises
    ------
    ValueError
        If its functions are numerically dependent; the message says what helps.
    """
    try:
        return FAMILIES[family](n_max, l_max, cutoff, sigma)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{n_max} {family} radial functions within {cutoff} Å are numerically dependent; "
            "use fewer functions (n_max), a larger cutoff or another radial basis"
        ) from None


@lru_cache(maxsize=32)
def radial_table(
    family: str,
    n_max: int,
    l_max: int,
    cutoff: float,
    sigma: float | None,
    decay: float | None,
    reach: float,
) -> RadialTable:
    """Tabulate the radial functions from 0 to ``reach``, finely enough for :data:`TABLE_ERROR`.

    Parameters
    ----------
    family : str
        One of :data:`FAMILIES`, or of :data:`POINT_FAMILIES` where there is no sigma.
    n_max, l_max : int
        Number of radial functions, largest degree.
    cutoff : float
        Extent of the basis in Å.
    sigma : float or None
        Width of the Gaussians in Å; None for a density of points.
    decay : float or None
        Of the families in :data:`DECAYS`.
    reach : float
        Largest distance of a neighbour in Å.

    Raises
    ------
    ValueError
        If the basis is singular, or so fine a structure would need an absurd table.
    """

    def functions(distances: Floats) -> Floats:
        if sigma is None:
            return POINT_FAMILIES[family](distances, n_max, l_max, cutoff, decay)
        return _smeared(radial_basis(family, n_max, l_max, cutoff, sigma), sigma, distances)

    n_intervals = 16
    while True:
        spacing = reach / n_intervals
        nodes = spacing * np.arange(n_intervals + 1)
        exact = functions(np.concatenate([nodes, nodes[:-1] + spacing / 2]))
        rows = exact[:, : len(nodes)] * np.array([1, spacing, spacing**2])[:, None, None, None]
        left, right = rows[:, :-1], rows[:, 1:]
        # The error of Hermite interpolation is largest in the middle of an interval.
        middle = (
            (left[0] + right[0]) / 2 + 5 / 32 * (left[1] - right[1]) + (left[2] + right[2]) / 64
        )
        largest = np.abs(exact[0]).max(axis=(0, 2))[:, None]
        error = float((np.abs(middle - exact[0, len(nodes) :]) / largest).max())
        if error <= TABLE_ERROR:
            break
        # The error falls with the sixth power of the spacing.
        n_intervals = int(n_intervals * min(1.05 * (error / TABLE_ERROR) ** (1 / 6), 4.0)) + 1
        if n_intervals > 20_000:
            raise ValueError(
                f"a table of {n_max} {family} radial functions with cutoff {cutoff} Å and sigma "
                f"{sigma} Å needs more than 20,000 nodes; use a larger sigma or fewer functions"
            )
    values = np.zeros((len(nodes), 3, l_max + 1, n_padded(n_max)))
    values[..., :n_max] = rows.transpose(1, 0, 2, 3)
    values.flags.writeable = False
    return RadialTable(values.reshape(len(nodes), 3, -1), spacing, error)


def _smeared(basis: Basis, sigma: float, distances: Floats) -> Floats:
    """I_nl, its first and its second derivative: shape (3, n_distances, l_max + 1, n_max)."""
    points, functional = basis
    result = np.empty((3, len(distances), *functional.shape[:2]))
    for start in range(0, len(distances), 256):
        some = slice(start, start + 256)
        smearing = _smearing(len(functional) - 1, points, distances[some], sigma)
        result[:, some] = np.matmul(functional, smearing).transpose(0, 3, 1, 2)
    return result


def _smearing(l_max: int, r: Floats, d: Floats, sigma: float) -> Floats:
    """K_l and its first and second derivative by d, shape (3, l_max + 1, n_r, n_d)."""
    result = np.zeros((3, l_max + 1, len(r), len(d)))
    # A Gaussian is below 1e-18 at nine widths.
    near = np.abs(r[:, None] - d) < 9 * sigma
    i, j = np.nonzero(near)
    r, d = r[i] / sigma, d[j] / sigma
    gauss = 4 * np.pi * np.exp(-0.5 * (r - d) ** 2)
    values = [gauss * bessel for bessel in _scaled_bessel(l_max + 2, r * d)]

    def derivative(f: list[Floats]) -> list[Floats]:
        # i_l' = (l i_(l-1) + (l + 1) i_(l+1)) / (2l + 1)
        return [
            (r * (l * f[l - 1] + (l + 1) * f[l + 1]) / (2 * l + 1) - d * f[l]) / sigma
            for l in range(len(f) - 1)
        ]

    first = derivative(values)
    second = derivative(first)
    for l in range(l_max + 1):
        result[:, l, i, j] = values[l], first[l], second[l] - values[l] / sigma**2
    return result


def _scaled_bessel(l_max: int, x: Floats) -> list[Floats]:
    """``exp(-x) i_l(x)`` for l = 0..l_max and x >= 0."""
    result = np.empty((l_max + 1, len(x)))
    result[0] = np.where(x > 1e-8, -np.expm1(-2 * x) / np.maximum(2 * x, 1e-300), 1 - x)
    # The recursion upwards is stable while l² < x.
    large = x > l_max**2 + 1
    y = x[large]
    below, here = np.exp(-2 * y) / y + result[0, large], result[0, large]
    for l in range(l_max):
        below, here = here, below - (2 * l + 1) / y * here
        result[l + 1, large] = here
    # Below, the continued fraction of the ratios: so far above l_max they no longer matter.
    y = x[~large]
    ratio = np.zeros_like(y)
    ratios = []
    for l in range(7 * l_max + 25, 0, -1):
        ratio = y / (2 * l + 1 + y * ratio)
        ratios.append(ratio)
    for l in range(l_max):
        result[l + 1, ~large] = result[l, ~large] * ratios[-1 - l]
    return list(result)


def _chebyshev(n_max: int, x: Floats, slope: Floats, curvature: Floats, l_max: int) -> Floats:
    """``(1 - T_n(x)) / 2``, n from 1, and derivatives, from x and its derivatives by distance."""
    series = np.eye(n_max + 1)[:, 1:]
    t, t1, t2 = (chebyshev.chebval(x, chebyshev.chebder(series, m)) for m in range(3))
    jet = -0.5 * np.array([t - 1, t1 * slope, t2 * slope**2 + t1 * curvature])
    return np.broadcast_to(jet.transpose(0, 2, 1)[:, :, None], (3, len(x), l_max + 1, n_max))


@lru_cache(maxsize=32)
def _spherical_bessel_zeros(n_max: int, l_max: int) -> Floats:
    """The first zeros of j_l, shape (l_max + 1, n_max)."""
    # Those of j_l lie between those of j_(l-1), and those of j_0 are multiples of π.
    zeros = np.pi * np.arange(1, n_max + l_max + 1)
    rows = [zeros[:n_max]]
    for l in range(1, l_max + 1):
        lower, upper = zeros[:-1], zeros[1:]
        sign = np.sign(scipy.special.spherical_jn(l, lower))
        for _ in range(60):
            middle = (lower + upper) / 2
            is_before = np.sign(scipy.special.spherical_jn(l, middle)) == sign
            lower, upper = np.where(is_before, middle, lower), np.where(is_before, upper, middle)
        zeros = (lower + upper) / 2
        rows.append(zeros[:n_max])
    return np.array(rows)


def _gaussian_type(
    powers: Floats, exponents: Floats, sigma: float
) -> tuple[Floats, Floats, Floats]:
    """Points, weights and ``r^power exp(-exponent r²)`` for arrays of powers and exponents."""
    # Beyond `upper` every primitive is below 1e-18 of its maximum.
    log_peak = 0.5 * powers * (np.log(np.maximum(powers, 1) / (2 * exponents)) - 1)
    upper = 1.0
    while (powers * np.log(upper) - exponents * upper**2 - log_peak > -42).any():
        upper *= 1.05
    points, weights = _quadrature(upper, min(sigma, np.sqrt(0.5 / exponents.max())))
    primitives = points ** powers[..., None] * np.exp(-exponents[..., None] * points**2)
    return points, weights, primitives


def _quadrature(upper: float, scale: float) -> Basis:
    """Gauss–Legendre points and weights on [0, upper] for features of width ``scale``."""
    x, w = np.polynomial.legendre.leggauss(20)
    n_panels = int(np.ceil(upper / (4 * scale)))
    half = 0.5 * upper / n_panels
    starts = 2 * half * np.arange(n_panels)
    return (starts[:, None] + half * (1 + x)).ravel(), np.tile(half * w, n_panels)


def _orthonormalised(primitives: Floats, points: Floats, weights: Floats) -> Floats:
    """Löwdin's orthonormal functions, as the functional over the points.

    ``S^(-1/2) P`` is the unitary factor of P's polar decomposition. Taken from P's singular
    vectors, it keeps the digits that forming the overlap S, whose condition is squared,
    would cost.
    """
    measure = np.sqrt(weights) * points
    matrix = primitives * measure
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    if (np.linalg.cond(matrix / norms) > MAX_CONDITION).any():
        raise np.linalg.LinAlgError
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return np.matmul(u, v) * measure  # type: ignore[no-any-return]
