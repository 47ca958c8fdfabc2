"""Radial functions: orthonormal bases, exact smearing, and tables as fine as they say."""

from math import comb

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import binom, spherical_in, spherical_jn

from atomlake.descriptors.radial import (
    DECAYS,
    FAMILIES,
    POINT_FAMILIES,
    TABLE_ERROR,
    check_functions,
    radial_basis,
    radial_table,
)
from atomlake.kernels.compiled import kernel
from atomlake.kernels.radial import hermite_weights, hermite_weights_derivative, scaled_weights

CUTOFF, SIGMA = 5.0, 0.5

#: Where the functions themselves exist: discrete variables are points.
FUNCTIONS = [name for name in FAMILIES if name != "dvr"]


@kernel
def _weights(t, values, derivatives):
    for i in range(len(t)):
        w = hermite_weights(t[i])
        d = scaled_weights(hermite_weights_derivative(t[i]), 2.0, w, 0.0)
        for k in range(6):
            values[i, k] = w[k]
            derivatives[i, k] = d[k] / 2.0


def weights(t):
    values, derivatives = np.empty((2, len(t), 6))
    _weights(t, values, derivatives)
    return values, derivatives


def interpolate(table, r):
    """Values and derivatives of all columns at the distances r."""
    node = np.minimum((r / table.spacing).astype(int), len(table.values) - 2)
    rows = np.concatenate([table.values[node], table.values[node + 1]], axis=1)
    value, derivative = weights(r / table.spacing - node)
    return (
        np.einsum("rk,rkc->rc", value, rows),
        np.einsum("rk,rkc->rc", derivative, rows) / table.spacing,
    )


def columns(table, l, n_max):
    n_padded = -(-n_max // 8) * 8
    return table[..., l * n_padded : l * n_padded + n_max]


def primitive(family, n, l, n_max):
    """The formulae of the papers."""
    if family == "gto":
        reach = np.linspace(1, CUTOFF, n_max)[n]
        alpha = -np.log(1e-3 / reach**l) / reach**2
        return lambda r: r**l * np.exp(-alpha * r**2)
    if family == "gto_monomial":
        s = CUTOFF * max(np.sqrt(n), 1) / n_max
        norm = np.sqrt(quad(lambda r: r ** (2 * n + 2) * np.exp(-((r / s) ** 2)), 0, 30)[0])
        return lambda r: r**n * np.exp(-(r**2) / (2 * s**2)) / norm
    if family == "laplacian_eigenstates":
        zero = bessel_zero(l, n)
        return lambda r: np.where(r < CUTOFF, spherical_jn(l, zero * r / CUTOFF), 0)
    return lambda r: np.where(r < CUTOFF, CUTOFF - r, 0) ** (n + 3)


def bessel_zero(l, n):
    """The zero of j_l where its sign has changed n + 1 times."""
    x = np.linspace(1e-3, 60, 60001)
    y = spherical_jn(l, x)
    before = np.flatnonzero(np.sign(y[:-1]) != np.sign(y[1:]))[n]
    return brentq(lambda x: spherical_jn(l, x), x[before], x[before + 1], xtol=1e-13)


def orthonormal(family, l, n_max):
    """Löwdin's functions from the overlap matrix, as the papers do it."""
    r = np.linspace(0, 15, 15001)
    functions = np.array([primitive(family, n, l, n_max)(r) for n in range(n_max)])
    overlap = np.trapezoid(r**2 * functions[:, None] * functions, r)
    w, v = np.linalg.eigh(overlap)
    return r, (v / np.sqrt(w)) @ v.T @ functions


@pytest.mark.parametrize("l", [0, 2])
@pytest.mark.parametrize("family", FUNCTIONS)
def test_tables_hold_the_smeared_orthonormal_functions(family, l):
    n_max = 4
    r, functions = orthonormal(family, l, n_max)
    table = radial_table(family, n_max, 2, CUTOFF, SIGMA, None, CUTOFF)
    distances = np.array([0.3, 1.1, 2.35, 4.9])
    # Beyond, exp(-(r² + d²) / 2σ²) has underflowed and i_l(r d / σ²) would overflow.
    near = r < 9.0
    smearing = [
        4 * np.pi * np.exp(-(r**2 + d**2) / (2 * SIGMA**2)) * spherical_in(l, r * d / SIGMA**2)
        for d in distances
    ]
    expected = np.array([np.trapezoid((r**2 * functions * k)[:, near], r[near]) for k in smearing])
    actual = columns(interpolate(table, distances)[0], l, n_max)
    # The trapezoid rule on 1 mÅ errs by 1e-7 where the polynomials meet the cutoff.
    np.testing.assert_allclose(actual, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("family", FUNCTIONS)
def test_functions_are_orthonormal_to_rounding(family):
    points, functional = radial_basis(family, 8, 6, CUTOFF, SIGMA)
    # functional = R(r_q) r_q² w_q, and two of them differ from R R' r² w by the measure r² w.
    x, w = np.polynomial.legendre.leggauss(20)
    n_panels = len(points) // 20
    width = (points[20 * (n_panels // 2)] - points[0]) / (n_panels // 2)
    measure = points**2 * np.tile(0.5 * width * w, n_panels)
    assert len(x) * n_panels == len(points)
    overlap = np.einsum("lnq,lmq,q->lnm", functional, functional, 1 / measure)
    np.testing.assert_allclose(overlap, np.broadcast_to(np.eye(8), overlap.shape), atol=1e-12)


def test_discrete_variables_are_the_density_at_gauss_legendre_points():
    x, w = np.polynomial.legendre.leggauss(5)
    length = CUTOFF + 3 * SIGMA
    r, w = length * (1 + x) / 2, length * w / 2
    table = radial_table("dvr", 5, 2, CUTOFF, SIGMA, None, CUTOFF)
    d = np.array([0.3, 1.1, 2.35, 4.9])[:, None]
    for l in range(3):
        smearing = np.exp(-(r**2 + d**2) / (2 * SIGMA**2)) * spherical_in(l, r * d / SIGMA**2)
        expected = 4 * np.pi * np.sqrt(w) * r * smearing
        actual = columns(interpolate(table, d[:, 0])[0], l, 5)
        np.testing.assert_allclose(actual, expected, atol=2e-11 * np.abs(expected).max())


def point_function(family, n, l):
    """The formulae of the papers, of r / cutoff."""
    if family == "chebyshev_exponential":
        decay = 4.0

        def scaled(x):
            return 1 - 2 * (np.exp(-decay * x) - np.exp(-decay)) / (1 - np.exp(-decay))

        return lambda x: np.where(n == 0, 1.0, (1 - np.cos(n * np.arccos(scaled(x)))) / 2)
    if family == "chebyshev_power":
        angle = lambda x: np.arccos(2 * (1 - (1 - x) ** 4) - 1)  # noqa: E731
        return lambda x: (1 - np.cos((n + 1) * angle(x))) / 2
    if family == "laplacian_eigenstates":
        zero = bessel_zero(l, n)
        norm = quad(lambda x: x**2 * spherical_jn(l, zero * x) ** 2, 0, 1, epsabs=1e-13)[0]
        return lambda x: spherical_jn(l, zero * x) / np.sqrt(norm * CUTOFF**3)
    degree = l + 2 * n
    return lambda x: (
        np.sqrt((2 * degree + 3) / CUTOFF**3)
        * sum(
            (-1) ** s * comb(n, s) * binom(degree - s + 0.5, n) * x ** (degree - 2 * s)
            for s in range(n + 1)
        )
    )


@pytest.mark.parametrize("l", [0, 1, 4])
@pytest.mark.parametrize("family", POINT_FAMILIES)
def test_functions_of_points_are_those_of_the_papers(family, l):
    r = np.array([0.3, 1.1, 2.35, 4.9])
    decay = 4.0 if family in DECAYS else None
    values = POINT_FAMILIES[family](r, 5, 4, CUTOFF, decay)[0, :, l]
    expected = np.array([point_function(family, n, l)(r / CUTOFF) for n in range(5)]).T
    # The zeros of the Bessel functions and the sums of large terms are good to 1e-13.
    np.testing.assert_allclose(values, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("family", POINT_FAMILIES)
def test_derivatives_of_functions_of_points(family):
    r, step = np.array([0.0, 0.4, 2.35, 4.8, 5.0]), 1e-3
    inside = np.clip(r, step, CUTOFF - step)

    def jet(distances):
        return POINT_FAMILIES[family](distances, 4, 4, CUTOFF, DECAYS.get(family))

    assert np.isfinite(jet(r)).all()
    _, slopes, curvatures = jet(inside)
    above, below = jet(inside + step), jet(inside - step)
    # Central differences err by step² / 6 times the third derivative.
    scale = 1e-4 * np.abs(curvatures).max()
    np.testing.assert_allclose((above - below)[0] / (2 * step), slopes, atol=scale)
    np.testing.assert_allclose((above - below)[1] / (2 * step), curvatures, atol=scale)


@pytest.mark.parametrize("family", POINT_FAMILIES)
def test_tables_of_points_hold_the_functions(family):
    decay = DECAYS.get(family)
    table = radial_table(family, 5, 4, CUTOFF, None, decay, CUTOFF)
    assert table.error <= TABLE_ERROR
    r = np.linspace(0.01, CUTOFF, 57)
    exact = POINT_FAMILIES[family](r, 5, 4, CUTOFF, decay)
    values, slopes = interpolate(table, r)
    for l in range(5):
        scale = TABLE_ERROR * np.abs(exact[0, :, l]).max()
        np.testing.assert_allclose(columns(values, l, 5), exact[0, :, l], atol=1.1 * scale)
        error = 3.6 / table.spacing * scale
        np.testing.assert_allclose(columns(slopes, l, 5), exact[1, :, l], atol=error)


@pytest.mark.parametrize("family", ["laplacian_eigenstates", "zernike"])
def test_functions_of_points_are_orthonormal(family):
    x, w = np.polynomial.legendre.leggauss(60)
    r, w = CUTOFF * (1 + x) / 2, CUTOFF * w / 2
    values = POINT_FAMILIES[family](r, 8, 6, CUTOFF, None)[0]
    overlap = np.einsum("rln,rlm,r->lnm", values, values, w * r**2)
    np.testing.assert_allclose(overlap, np.broadcast_to(np.eye(8), overlap.shape), atol=1e-12)


def test_a_decay_that_is_not_smooth_at_the_cutoff_is_refused():
    with pytest.raises(ValueError, match="use 2, 3 or any number from 4 on"):
        check_functions("chebyshev_power", 4, 2, CUTOFF, None, 2.5)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_tables_reach_their_stated_error(family, sigma, rng, monkeypatch):
    """A table twice as fine errs 64 times less, so it can judge."""
    table = radial_table(family, 6, 4, CUTOFF, sigma, None, 6.0)
    assert 0 < table.error <= TABLE_ERROR
    monkeypatch.setattr("atomlake.descriptors.radial.TABLE_ERROR", TABLE_ERROR / 64)
    finer = radial_table.__wrapped__(family, 6, 4, CUTOFF, sigma, None, 6.0)
    r = rng.uniform(0, 6.0, 300)
    differences = [a - b for a, b in zip(interpolate(table, r), interpolate(finer, r), strict=True)]
    for l in range(5):
        largest = np.abs(columns(table.values, l, 6)[:, 0]).max()
        value, derivative = (np.abs(columns(d, l, 6)).max() / largest for d in differences)
        # One part in 64 is the finer table's own error.
        assert value <= 1.03 * table.error
        assert derivative <= 3.6 / table.spacing * table.error


def test_weights_interpolate_value_slope_and_curvature(rng):
    """Exact for polynomials of degree five, and equal to the rows at both nodes."""
    polynomial = np.polynomial.Polynomial(rng.normal(size=6))
    first, second = polynomial.deriv(), polynomial.deriv(2)
    rows = np.array([f(t) for t in (0.0, 1.0) for f in (polynomial, first, second)])
    t = np.linspace(0, 1, 11)
    value, derivative = weights(t)
    np.testing.assert_allclose(value @ rows, polynomial(t), atol=1e-13)
    np.testing.assert_allclose(derivative @ rows, first(t), atol=1e-12)


@pytest.mark.parametrize(
    ("family", "n_max", "cutoff"), [("polynomial", 14, 5.0), ("gto", 20, 3.0), ("gto", 12, 1.5)]
)
def test_a_numerically_singular_basis_is_refused_with_the_fix(family, n_max, cutoff):
    with pytest.raises(ValueError, match="dependent; use fewer functions"):
        radial_basis(family, n_max, 3, cutoff, SIGMA)


def test_gto_needs_more_than_one_angstrom():
    with pytest.raises(ValueError, match="larger cutoff or the polynomial basis"):
        radial_basis("gto", 3, 3, 0.9, 0.2)
