"""Zernike descriptors: the definition, AMP's weights, mixed densities."""

import json
from math import comb
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError
from scipy.special import binom, sph_harm_y

from atomlake.descriptors import Zernike
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

CUTOFF = 4.5
AMP = json.loads((Path(__file__).parents[1] / "oracles" / "amp_zernike.json").read_text())


def structures():
    crystal = bulk("NaCl", "rocksalt", 4.4)
    crystal.rattle(0.1, seed=1)
    return {"molecule": molecule("CH3CONH2"), "crystal": crystal}


STRUCTURES = structures()


def radial(n, l, rho):
    """Khorshidi & Peterson 2016, as written."""
    k = (n - l) // 2
    terms = [
        (-1) ** s * comb(k, s) * binom(n - s + 0.5, k) * rho ** (n - 2 * s) for s in range(k + 1)
    ]
    return np.sqrt(2 * n + 3) * sum(terms)


def cosine(x):
    return 0.5 * (1 + np.cos(np.pi * x))


def amp_polynomial(x, gamma=4):
    return 1 + gamma * x ** (gamma + 1) - (gamma + 1) * x**gamma


def from_the_definition(atoms, n_max, fading, weight, is_mean=False):
    """Σ_m |c_nlm|² of every atom, from complex harmonics; ``weight`` of an atomic number.

    Or of the mean of c over the atoms.
    """
    batch = Structures.from_ase([atoms])
    neighbours, _ = find_neighbours(batch, CUTOFF)
    rows = []
    for i in range(len(atoms)):
        some = slice(*neighbours.pair_offsets[i : i + 2])
        x, y, z = neighbours.vectors[some].T
        r = neighbours.distances[some]
        w = np.array([weight(a) for a in atoms.numbers[neighbours.neighbour_index[some]]])
        theta, phi = np.arccos(np.clip(z / r, -1, 1)), np.arctan2(y, x)
        row = []
        for n in range(n_max + 1):
            for l in range(n % 2, n + 1, 2):
                values = w * fading(r / CUTOFF) * radial(n, l, r / CUTOFF)
                row += [(values * sph_harm_y(l, m, theta, phi)).sum() for m in range(-l, l + 1)]
        rows.append(row)
    moments = np.mean(rows, axis=0, keepdims=True) if is_mean else np.array(rows)
    degrees = [l for n in range(n_max + 1) for l in range(n % 2, n + 1, 2)]
    starts = np.cumsum([0, *(2 * l + 1 for l in degrees[:-1])])
    return np.add.reduceat(np.abs(moments) ** 2, starts, axis=1)


def assert_equal_to(expected, actual, tolerance):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", AMP)
def test_equal_to_amp(name):
    case = AMP[name]
    atoms = Atoms(case["numbers"], case["positions"], cell=case["cell"], pbc=case["pbc"])
    parameters = case["parameters"]
    if parameters["weights"]:
        weights = {
            "species": tuple(parameters["weights"]),
            "species_weights": parameters["weights"],
        }
    else:
        weights = {}
    zernike = Zernike.preset(
        "amp", cutoff=parameters["cutoff"], n_max=parameters["n_max"], **weights
    )
    assert_equal_to(np.array(case["features"]), zernike.compute(atoms).features.values, 1e-10)


@pytest.mark.parametrize(("n_max", "n_features"), [(0, 1), (1, 2), (4, 9), (5, 12), (8, 25)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_one_density_of_atomic_numbers(name, n_max, n_features):
    atoms = STRUCTURES[name]
    zernike = Zernike.preset("amp", cutoff=CUTOFF, n_max=n_max)
    assert zernike.n_features == n_features
    expected = from_the_definition(atoms, n_max, cosine, float)
    # Tabulated functions are good to 1e-11 of the largest value.
    assert_equal_to(expected, zernike.compute(atoms).features.values, 1e-10)


def test_amp_polynomial_cutoff():
    atoms = STRUCTURES["molecule"]
    zernike = Zernike.preset("amp", cutoff=CUTOFF, cutoff_function="amp_polynomial")
    expected = from_the_definition(atoms, 5, amp_polynomial, float)
    assert_equal_to(expected, zernike.compute(atoms).features.values, 1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_species_has_its_own_features(name):
    atoms = STRUCTURES[name]
    zernike = Zernike(species=set(atoms.symbols), cutoff=CUTOFF)
    result = zernike.compute(atoms)
    for z in zernike.species_numbers:
        expected = from_the_definition(atoms, 5, cosine, lambda other, z=z: float(other == z))
        assert_equal_to(expected, result.features.values[:, result.species == z], 1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
def test_inner_average_is_the_norm_of_mean_moments(name):
    atoms = STRUCTURES[name]
    zernike = Zernike.preset("amp", cutoff=CUTOFF, average="inner")
    expected = from_the_definition(atoms, 5, cosine, float, is_mean=True)
    assert_equal_to(expected, zernike.compute(atoms).features.values, 1e-10)


def test_mixed_densities():
    atoms = STRUCTURES["molecule"]
    weights = {"O": (0.3, 1.0), "H": (1.0, -0.5), "C": (0.0, 2.0), "N": (1.0, 0.0)}
    zernike = Zernike(species=list(weights), cutoff=CUTOFF, species_weights=weights)
    result = zernike.compute(atoms)
    assert sorted(set(result.species.values)) == [-2, -1]
    for k in range(2):
        by_number = {Atoms(symbol).numbers[0]: w[k] for symbol, w in weights.items()}
        expected = from_the_definition(atoms, 5, cosine, by_number.get)
        assert_equal_to(expected, result.features.values[:, result.species == -1 - k], 1e-10)


def test_one_weight_each_that_is_the_atomic_number_is_amp():
    atoms = STRUCTURES["crystal"]
    amp = Zernike.preset("amp", cutoff=CUTOFF).compute(atoms).features.values
    weighted = Zernike(species=["Na", "Cl"], cutoff=CUTOFF, species_weights={"Cl": 17, "Na": 11})
    np.testing.assert_array_equal(weighted.compute(atoms).features.values, amp)
    assert Zernike.model_validate(weighted.parameters) == weighted


def test_equal_weights_do_not_tell_elements_apart():
    """What AMP's form cannot do, and the features by species can."""
    first, second = Atoms("OHFH"), Atoms("OFHH")
    for atoms in (first, second):
        atoms.positions = [[0, 0, 0], [1, 0, 0.1], [0, 1.2, 0], [0.3, 0.2, 1.1]]
    equal = {"H": 1.0, "O": 1.0, "F": 1.0}
    mixed = Zernike(species=list(equal), species_weights=equal)
    apart = Zernike(species=list(equal))
    a, b = (mixed.compute(atoms).features.values[0] for atoms in (first, second))
    np.testing.assert_array_equal(a, b)
    a, b = (apart.compute(atoms).features.values[0] for atoms in (first, second))
    assert np.abs(a - b).max() > 0.01 * np.abs(a).max()


def test_labels_name_every_feature_once():
    labels = Zernike(species=["H", "O"]).labels()
    table = np.array([labels[name].values for name in ("species", "n", "l")]).T
    assert len(np.unique(table, axis=0)) == len(table) == 24
    assert table[:3].tolist() == [[1, 0, 0], [1, 1, 1], [1, 2, 0]]
    assert ((table[:, 1] - table[:, 2]) % 2 == 0).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "give the species"),
        ({"species": ["H"], "species_weights": {"H": 1, "O": 2}}, "give weights for each"),
        ({"species": ["H", "O"], "species_weights": {"H": 1, "O": (1, 2)}}, "same number"),
        ({"species": ["H", "O"], "species_weights": {"H": (1, 0), "O": (1, 0)}}, "no element"),
        ({"species": ["H"], "species_weights": 3.0}, "valid tuple"),
        ({"species": ["H"], "n_max": 21}, "less than or equal to 20"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_any_work(parameters, message):
    with pytest.raises(ValidationError, match=message):
        Zernike(**parameters)
