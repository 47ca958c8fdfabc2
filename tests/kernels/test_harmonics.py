"""Real spherical harmonics against scipy, and the gradients that come with them."""

import numpy as np
import pytest
from scipy.special import sph_harm_y

from atomlake.kernels.compiled import kernel
from atomlake.kernels.harmonics import recursion_coefficients, solid_gradients, spherical_harmonics
from atomlake.kernels.lanes import LANES, pointer


@kernel
def _evaluate(l_max, coefficients, directions, harmonics):
    size = (l_max + 1) ** 2 * LANES
    data = pointer(harmonics)
    recursion = pointer(coefficients)
    spherical_harmonics(l_max, recursion, pointer(directions), 0, data, 0)
    solid_gradients(l_max, recursion, data, 0, size)


def evaluate(l_max, directions):
    """Values and gradients of eight unit vectors, shape (4, n_harmonics, 8)."""
    harmonics = np.full((4, (l_max + 1) ** 2, LANES), np.nan)
    coefficients = recursion_coefficients(l_max)
    _evaluate(l_max, coefficients, np.ascontiguousarray(directions.T), harmonics)
    return harmonics


def degrees(l_max):
    return np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)


def scipy_harmonics(l_max, directions):
    polar = np.arccos(np.clip(directions[:, 2], -1, 1))
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    rows = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            # (-1)^m takes scipy's Condon-Shortley phase away.
            y = (-1) ** m * sph_harm_y(l, abs(m), polar, azimuth)
            rows.append(y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag))
    return np.array(rows)


@pytest.fixture
def directions(rng):
    """Both poles, the axes, and vectors in no special direction."""
    vectors = rng.normal(size=(LANES, 3))
    vectors[:4] = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("l_max", [0, 1, 2, 6, 20])
def test_values_are_the_real_spherical_harmonics(l_max, directions):
    # scipy's own recursion loses a few digits at high degree.
    np.testing.assert_allclose(
        evaluate(l_max, directions)[0], scipy_harmonics(l_max, directions), atol=1e-13
    )


def test_degree_one_is_y_z_x(directions):
    expected = np.sqrt(3 / (4 * np.pi)) * directions.T[[1, 2, 0]]
    np.testing.assert_allclose(evaluate(1, directions)[0, 1:], expected, atol=1e-15)


@pytest.mark.parametrize("l_max", [1, 6, 20])
def test_addition_theorem_holds_to_rounding(l_max, directions):
    values = evaluate(l_max, directions)[0]
    l = np.arange(l_max + 1)
    sums = np.add.reduceat(values**2, l * l)
    expected = np.repeat((2 * l + 1)[:, None] / (4 * np.pi), LANES, axis=1)
    np.testing.assert_allclose(sums, expected, rtol=1e-13)


@pytest.mark.parametrize("l_max", [1, 3, 8])
def test_gradients_are_those_of_the_solid_harmonics(l_max, directions):
    step = 1e-3
    l = degrees(l_max)[:, None]

    def solid(points):
        r = np.linalg.norm(points, axis=1, keepdims=True)
        return r[:, 0] ** l * evaluate(l_max, points / r)[0]

    gradients = evaluate(l_max, directions)[1:]
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        slope = (8 * (solid(directions + shift) - solid(directions - shift))) / (12 * step) - (
            solid(directions + 2 * shift) - solid(directions - 2 * shift)
        ) / (12 * step)
        # Five points err by step⁴ / 30 times a fifth derivative of at most l^5.
        np.testing.assert_allclose(gradients[axis], slope, atol=1e-8)


@pytest.mark.parametrize("l_max", [6, 20])
def test_gradients_obey_euler(l_max, directions):
    """A homogeneous function of degree l has ``r · gradient = l · value``."""
    values, *gradients = evaluate(l_max, directions)
    along = sum(directions[:, axis] * gradients[axis] for axis in range(3))
    np.testing.assert_allclose(along, degrees(l_max)[:, None] * values, atol=1e-12)
