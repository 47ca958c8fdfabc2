"""Radial spectrum and spherical expansion: the numbers of featomic, and what they are made of."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError

from atomlake.descriptors import RadialSpectrum, Soap, SphericalExpansion
from atomlake.descriptors.cutoffs import Cutoff

SMALL = {"cutoff": 4.2, "n_max": 4, "sigma": 0.4}


def structures():
    crystal = bulk("NaCl", "rocksalt", 4.4)
    crystal.rattle(0.1, seed=1)
    return {"molecule": molecule("CH3CONH2"), "crystal": crystal}


STRUCTURES = structures()


def symbols(atoms):
    return tuple(sorted(set(atoms.symbols)))


def assert_equal_to(expected, actual, tolerance):
    """Equal relative to the largest number there is."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def featomic():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("featomic")


def parameters(basis):
    return {
        "cutoff": {"radius": 4.2, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        "density": {"type": "Gaussian", "width": 0.4},
        "basis": {
            **basis,
            "radial": {"type": "Gto", "max_radial": 3},
            "spline_accuracy": None,
        },
    }


def dense(block, atoms, centres):
    """Gradients of featomic by all atoms, (n_atoms, n_atoms, 3, ...), from its sparse rows."""
    gradient = block.gradient("positions")
    values = np.asarray(gradient.values)
    result = np.zeros((len(atoms), len(atoms), *values.shape[1:]))
    rows = centres[gradient.samples["sample"]], np.asarray(gradient.samples["atom"])
    np.add.at(result, rows, values)
    return result


def by_centre_and_atom(result):
    """d p_i / d r_a for all i and a, from the rows per pair."""
    rows, offsets = result.gradient_positions.values, result.pair_offsets.values
    n = len(offsets) - 1
    centre = np.repeat(np.arange(n), np.diff(offsets))
    by_atom = np.zeros((n, n, *rows.shape[1:]))
    np.add.at(by_atom, (centre, result.neighbour_index.values), rows)
    np.add.at(by_atom, (centre, centre), -rows)
    return by_atom


@pytest.mark.parametrize("name", STRUCTURES)
def test_radial_spectrum_equals_featomic(featomic, name):
    atoms = STRUCTURES[name]
    calculator = featomic.SoapRadialSpectrum(**parameters({}))
    spectrum = calculator.compute(atoms, gradients=["positions", "strain"])
    block = spectrum.keys_to_samples("center_type").keys_to_properties("neighbor_type").block()
    ours = RadialSpectrum.preset("featomic", species=symbols(atoms), **SMALL)
    result = ours.compute(atoms, ["positions", "strain"])
    centres = np.asarray(block.samples["atom"])
    assert_equal_to(np.asarray(block.values), result.features.values[centres], 1e-8)
    assert np.array_equal(block.properties["neighbor_type"], result.species)
    assert np.array_equal(block.properties["n"], result.n)
    assert_equal_to(dense(block, atoms, centres), by_centre_and_atom(result), 1e-7)
    strain = block.gradient("strain")
    expected = np.zeros(result.gradient_strain.shape)
    expected[centres[strain.samples["sample"]]] = np.asarray(strain.values)
    assert_equal_to(expected, result.gradient_strain.values, 1e-7)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("name", STRUCTURES)
def test_spherical_expansion_equals_featomic(featomic, name, degree):
    atoms = STRUCTURES[name]
    basis = {"type": "TensorProduct", "max_angular": 3}
    calculator = featomic.SphericalExpansion(**parameters(basis))
    expansion = calculator.compute(atoms, gradients=["positions", "strain"])
    expansion = expansion.keys_to_samples("center_type").keys_to_properties("neighbor_type")
    block = expansion.block({"o3_lambda": degree})
    ours = SphericalExpansion.preset("featomic", species=symbols(atoms), degree=degree, **SMALL)
    result = ours.compute(atoms, ["positions", "strain"])
    centres = np.asarray(block.samples["atom"])

    def shaped(values, like):
        return values.reshape(like.shape)

    features = result.features.values[centres]
    assert_equal_to(shaped(np.asarray(block.values), features), features, 1e-8)
    assert np.array_equal(block.properties["neighbor_type"], result.species)
    gradients = by_centre_and_atom(result)
    assert_equal_to(shaped(dense(block, atoms, centres), gradients), gradients, 1e-7)
    strain = block.gradient("strain")
    expected = np.zeros(result.gradient_strain.shape)
    values = np.asarray(strain.values)
    # featomic takes r to r (1 + strain): its two axes are ours the other way round.
    expected[centres[strain.samples["sample"]]] = shaped(
        values.swapaxes(1, 2), np.empty((len(values), *expected.shape[1:]))
    )
    assert_equal_to(expected, result.gradient_strain.values, 1e-7)


@pytest.mark.parametrize("degree", [0, 2])
def test_squares_of_the_expansion_are_the_power_spectrum(degree):
    atoms = STRUCTURES["molecule"]
    species = symbols(atoms)
    expansion = SphericalExpansion(species=species, degree=degree, **SMALL).compute(atoms)
    soap = Soap(species=species, l_max=2, **SMALL).compute(atoms)
    is_square = (
        (soap.species_1 == soap.species_2) & (soap.n_1 == soap.n_2) & (soap.l == degree)
    ).values
    values = expansion.features.values.reshape(len(atoms), 2 * degree + 1, -1)
    expected = (values**2).sum(axis=1) / np.sqrt(2 * degree + 1)
    # Functions of both are tabulated to 1e-11.
    assert_equal_to(expected, soap.features.values[:, is_square], 1e-10)


def test_points_are_counted_by_the_radial_functions_themselves():
    """chebyshev_power by hand: 1 - (2 x - 1)², x = (1 - r/cutoff)², of one neighbour."""
    d, cutoff = 1.3, 4.0
    spectrum = RadialSpectrum(
        species=["H"],
        cutoff=cutoff,
        n_max=2,
        sigma=None,
        radial_basis="chebyshev_power",
        cutoff_function=Cutoff(function="step"),
        centre_weight=0.0,
    )
    t = 2 * (1 - (1 - d / cutoff) ** 2) - 1
    expected = np.array([(1 - t) / 2, 1 - t**2]) / np.sqrt(4 * np.pi)
    features = spectrum.compute(Atoms("H2", [[0, 0, 0], [0, 0, d]])).features.values
    np.testing.assert_allclose(features, [expected, expected], rtol=1e-10)
    assert spectrum.is_continuous


def test_a_spherical_expansion_has_one_degree():
    expansion = SphericalExpansion(species=["H", "O"], degree=2)
    assert expansion.l_max == 2
    assert expansion.n_features == 2 * expansion.n_max
    assert SphericalExpansion.model_validate(expansion.parameters) == expansion
    with pytest.raises(ValidationError, match="leave l_max out"):
        SphericalExpansion(species=["H"], degree=2, l_max=3)
