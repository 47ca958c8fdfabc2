"""Coulomb, sine and Ewald sum matrices: DScribe's numbers, known energies, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError

from atomlake.descriptors import CoulombMatrix, EwaldMatrix, SineMatrix
from atomlake.structures import Structures

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "oracles" / "dscribe_matrices.json").read_text()
)
KINDS = {
    "coulomb": (CoulombMatrix, {"ignore_periodicity": True}),
    "sine": (SineMatrix, {}),
    "ewald": (EwaldMatrix, {}),
    "ewald_accurate": (EwaldMatrix, {"accuracy": 1e-11}),
    "ewald_split": (
        EwaldMatrix,
        {"screening": 0.7, "real_cutoff": 5.0, "reciprocal_cutoff": 4.0},
    ),
}
FORMS = ("none", "sorted_l2", "eigenspectrum")


def matrix(descriptor, structure):
    """The one structure's matrix, without padding."""
    n = descriptor.n_atoms_max
    return descriptor.compute(structure).features.values.reshape(n, n)


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("permutation", FORMS)
def test_equal_to_dscribe(name, kind, permutation):
    entry = REFERENCE[name]
    structure = Structures.single(entry["numbers"], entry["positions"], entry["cell"], True)
    family, parameters = KINDS[kind]
    descriptor = family(n_atoms_max=7, permutation=permutation, **parameters)
    expected = np.array(entry["matrices"][f"{kind} {permutation}"])
    actual = descriptor.compute(structure).features.values[0]
    # Rounding in sums of some hundred terms.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["coulomb", "sine", "ewald"])
def test_preset_has_the_defaults_of_dscribe(kind):
    entry = REFERENCE["triclinic"]
    structure = Structures.single(entry["numbers"], entry["positions"], entry["cell"], True)
    descriptor = KINDS[kind][0].preset("dscribe", n_atoms_max=7)
    expected = entry["matrices"][f"{kind} sorted_l2"]
    np.testing.assert_allclose(descriptor.compute(structure).features[0], expected, rtol=1e-12)


def test_hydrogen_molecule():
    """½ Z^2.4 on the diagonal and 1 / d beside it, whose sum and difference are the spectrum."""
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    rows = matrix(CoulombMatrix(n_atoms_max=2, permutation="none"), hydrogen)
    np.testing.assert_allclose(rows, [[0.5, 1.25], [1.25, 0.5]], rtol=1e-15)
    spectrum = CoulombMatrix(n_atoms_max=3).compute(hydrogen)
    np.testing.assert_allclose(spectrum.features.values, [[1.75, -0.75, 0]], rtol=1e-15)


def test_sine_distance_is_half_of_the_diagonal_at_the_far_end_of_the_cell():
    """sin² is 1 half a cell away and 0 a whole cell away."""
    crystal = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4, 4, 4], pbc=True)
    for shift in (0.0, 4.0):
        crystal.positions[1, 0] += shift
        rows = matrix(SineMatrix(n_atoms_max=2, permutation="none"), crystal)
        assert rows[0, 1] == pytest.approx(55 * 17 / (4 * np.sqrt(3)), rel=1e-14)


@pytest.mark.parametrize(
    ("crystal", "madelung"),
    [
        (bulk("NaCl", "rocksalt", 2.0), 1.747564594633182),
        (bulk("CsCl", "cesiumchloride", 2 / np.sqrt(3)), 1.762674773070),
        (bulk("ZnS", "zincblende", 4 / np.sqrt(3)), 1.638055053388),
    ],
    ids=lambda value: value if isinstance(value, float) else value.get_chemical_formula(),
)
def test_madelung_constants(crystal, madelung):
    """Unit charges of both signs, neighbours at 1 Å: the energy per pair is minus the constant."""
    descriptor = EwaldMatrix(n_atoms_max=2, permutation="none", accuracy=1e-16)
    charges = crystal.numbers
    rows = matrix(descriptor, crystal) / np.outer(charges, charges)
    energy = rows[0, 0] + rows[1, 1] - rows[0, 1]
    # The constants are given to twelve digits.
    assert energy == pytest.approx(-madelung, abs=1e-11)


def test_point_charges_on_a_simple_cubic_lattice_in_a_uniform_background():
    """The energy of the Wigner lattice, Fuchs, Proc. R. Soc. A 151, 585 (1935)."""
    lattice = Atoms("H", cell=[1.0, 1.0, 1.0], pbc=True)
    descriptor = EwaldMatrix(n_atoms_max=1, accuracy=1e-16)
    assert descriptor.compute(lattice).features.item() == pytest.approx(-1.41864873, abs=1e-8)


@pytest.mark.parametrize("screening", [0.35, 0.6, 1.1])
def test_ewald_sum_does_not_depend_on_the_screening(screening):
    entry = REFERENCE["triclinic"]
    structure = Structures.single(entry["numbers"], entry["positions"], entry["cell"], True)
    default = EwaldMatrix(n_atoms_max=5, accuracy=1e-14)
    split = EwaldMatrix(n_atoms_max=5, accuracy=1e-14, screening=screening)
    expected = default.compute(structure).features.values
    np.testing.assert_allclose(
        split.compute(structure).features.values, expected, rtol=0, atol=1e-11 * expected.max()
    )


@pytest.mark.parametrize("accuracy", [1e-3, 1e-5, 1e-8])
def test_ewald_sum_is_as_accurate_as_asked(accuracy):
    entry = REFERENCE["left-handed"]
    structure = Structures.single(entry["numbers"], entry["positions"], entry["cell"], True)
    parameters = {"n_atoms_max": 7, "permutation": "none"}
    exact = matrix(EwaldMatrix(accuracy=1e-15, **parameters), structure)
    error = matrix(EwaldMatrix(accuracy=accuracy, **parameters), structure) - exact
    assert np.abs(error).max() < accuracy * np.abs(exact).max()
    assert np.abs(error).max() > 1e-4 * accuracy * np.abs(exact).max()


# ----- Where derivatives are not unique


def test_degenerate_eigenvalues_share_the_mean_of_their_derivatives():
    """Methane: the eigenvalues of three equivalent combinations of hydrogens are equal."""
    methane = Structures.from_ase(molecule("CH4"))
    descriptor = CoulombMatrix(n_atoms_max=5)
    result = descriptor.compute(methane, ["positions", "strain"])
    values, gradients = result.features.values[0], result.gradient_positions.values
    degenerate = np.abs(values[:, None] - values) < 1e-9
    (group,) = np.flatnonzero(degenerate.sum(axis=0) == 3)[None]
    assert len(group) == 3
    step = 1e-4
    moved = [methane.positions.copy() for _ in range(2)]
    moved[0][1] += [step, 0, 0]
    moved[1][1] -= [step, 0, 0]
    forward, backward = (
        descriptor.compute(Structures.single(methane.numbers, p)).features.values[0, group].sum()
        for p in moved
    )
    # The sum of the three is smooth; central differences are right to 1e-7.
    expected = (forward - backward) / (2 * step) / 3
    np.testing.assert_allclose(gradients[1, 0, group], expected, rtol=0, atol=1e-6)
    # Equal derivatives along equivalent directions, in whatever orientation.
    stretch = result.gradient_strain.values[0]
    np.testing.assert_allclose(
        stretch, np.eye(3)[:, :, None] * stretch[0, 0], rtol=0, atol=1e-9 * np.abs(stretch).max()
    )


def test_rows_of_equal_norm_keep_the_order_of_the_atoms():
    """However the molecule is turned, which rounds the norms of equivalent atoms differently."""
    benzene = molecule("C6H6")
    descriptor = CoulombMatrix(n_atoms_max=12, permutation="sorted_l2")
    expected = descriptor.compute(benzene).features.values
    for angle in (17, 40, 111):
        benzene.rotate(angle, (1, 2, 3))
        actual = descriptor.compute(benzene).features.values
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


# ----- What is refused


def test_too_many_atoms_are_set_aside():
    structures = Structures.from_ase([molecule("H2O"), molecule("CH4")])
    good, bad = CoulombMatrix(n_atoms_max=3).check(structures)
    assert good is None
    assert bad.code == "too_many_atoms"
    assert "at most 3 atoms and the structure has 5" in bad.reason


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
@pytest.mark.parametrize("family", [SineMatrix, EwaldMatrix])
def test_crystal_matrices_need_periodicity_along_all_vectors(family, pbc):
    atoms = bulk("Si")
    atoms.pbc = pbc
    (problem,) = family(n_atoms_max=2).check(Structures.from_ase(atoms))
    assert problem.code == "not_periodic"


def test_coulomb_matrix_refuses_periodic_structures_unless_told_to_ignore_it():
    slab = bulk("Si")
    slab.pbc = (False, True, False)
    (problem,) = CoulombMatrix(n_atoms_max=2).check(Structures.from_ase(slab))
    assert problem.code == "periodic"
    descriptor = CoulombMatrix(n_atoms_max=2, ignore_periodicity=True)
    ignored = descriptor.compute(slab).features.values
    slab.pbc = False
    np.testing.assert_array_equal(ignored, CoulombMatrix(n_atoms_max=2).compute(slab).features)


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    [
        (CoulombMatrix, {"n_atoms_max": 0}, "greater than or equal to 1"),
        (CoulombMatrix, {"permutation": "random"}, "permutation"),
        (CoulombMatrix, {"average": "outer"}, "no 'outer' average"),
        (EwaldMatrix, {"real_cutoff": 5.0}, "both real_cutoff and reciprocal_cutoff"),
        (EwaldMatrix, {"accuracy": 1.0}, "less than 1"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(family, parameters, message):
    with pytest.raises(ValidationError, match=message):
        family(**{"n_atoms_max": 4, **parameters})


@pytest.mark.parametrize("permutation", FORMS)
def test_empty_rows_are_zero(permutation):
    """Padding has neither a value nor a derivative."""
    descriptor = CoulombMatrix(n_atoms_max=4, permutation=permutation)
    result = descriptor.compute(molecule("H2O"), ["positions", "strain"])
    labels = descriptor.labels()
    padding = np.any([labels[name] == 3 for name in labels.coords], axis=0)
    for name in ("features", "gradient_positions", "gradient_strain"):
        np.testing.assert_array_equal(result[name].values[..., padding], 0)
