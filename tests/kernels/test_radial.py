"""Radial functions: orthonormal bases, exact smearing, and tables as fine as they say."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import spherical_in

from atomlake.descriptors.radial import FAMILIES, TABLE_ERROR, radial_basis, radial_table
from atomlake.kernels.compiled import kernel
from atomlake.kernels.radial import hermite_weights, hermite_weights_derivative, scaled_weights

CUTOFF, SIGMA = 5.0, 0.5


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
    return lambda r: np.where(r < CUTOFF, CUTOFF - r, 0) ** (n + 3)


def orthonormal(family, l, n_max):
    """Löwdin's functions from the overlap matrix, as the papers do it."""
    r = np.linspace(0, 15, 15001)
    functions = np.array([primitive(family, n, l, n_max)(r) for n in range(n_max)])
    overlap = np.trapezoid(r**2 * functions[:, None] * functions, r)
    w, v = np.linalg.eigh(overlap)
    return r, (v / np.sqrt(w)) @ v.T @ functions


@pytest.mark.parametrize("l", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_tables_hold_the_smeared_orthonormal_functions(family, l):
    n_max = 4
    r, functions = orthonormal(family, l, n_max)
    table = radial_table(family, n_max, 2, CUTOFF, SIGMA, CUTOFF)
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


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("sigma", [0.25, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_tables_reach_their_stated_error(family, sigma, rng, monkeypatch):
    """A table twice as fine errs 64 times less, so it can judge."""
    table = radial_table(family, 6, 4, CUTOFF, sigma, 6.0)
    assert 0 < table.error <= TABLE_ERROR
    monkeypatch.setattr("atomlake.descriptors.radial.TABLE_ERROR", TABLE_ERROR / 64)
    finer = radial_table.__wrapped__(family, 6, 4, CUTOFF, sigma, 6.0)
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
