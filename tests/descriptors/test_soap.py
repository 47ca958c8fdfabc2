"""SOAP: the numbers of DScribe and featomic, analytic gradients, the kernel, its parameters."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError
from scipy.special import spherical_in

from atomlake.descriptors import LambdaSoap, Soap
from atomlake.descriptors.cutoffs import Cutoff
from atomlake.descriptors.soap import RadialScaling
from atomlake.errors import StructureError
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

SMALL = {"cutoff": 4.2, "n_max": 5, "l_max": 4, "sigma": 0.4}


def structures():
    rng = np.random.default_rng(7)
    metal = bulk("Cu", cubic=True)
    metal.rattle(0.1, seed=1)
    # Narrower than the cutoff in every direction: self-images, and images of images.
    skewed = Atoms(
        "NaClO",
        positions=[[0.1, 0.0, 0.2], [1.9, 1.4, 0.3], [0.4, 1.8, 2.2]],
        cell=[[3.4, 0, 0], [1.6, 3.1, 0], [-1.1, 0.9, 3.7]],
        pbc=True,
    )
    alloy = bulk("Ni", cubic=True).repeat((2, 1, 1))
    alloy.symbols = ["Cr", "Mn", "Fe", "Co", "Ni", "Fe", "Cr", "Ni"]
    alloy.rattle(0.08, seed=2)
    slab = Atoms(
        "AlOAl",
        positions=rng.uniform(0, 1, (3, 3)) * 0.3 + [[0, 0, 0], [1.6, 0.9, 1.2], [0.2, 2.0, 2.3]],
        cell=[[3.0, 0, 0], [0.7, 3.3, 0], [0, 0, 30.0]],
        pbc=[True, True, False],
    )
    return {
        "metal": metal,
        "skewed": skewed,
        "alloy": alloy,
        "slab": slab,
        "molecule": molecule("CH3CONH2"),
        "one atom": Atoms("C"),
    }


STRUCTURES = structures()


def symbols(atoms):
    return tuple(sorted(set(atoms.symbols)))


def assert_equal_to(expected, actual, tolerance):
    """Equal relative to the largest number there is."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# ----- DScribe


@pytest.fixture
def dscribe_soap():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("dscribe.descriptors").SOAP


@pytest.mark.parametrize(
    ("preset", "rbf", "n_max"),
    # DScribe inverts the overlap matrix of its polynomials; beyond five of them its functions
    # are orthonormal to only 1e-8 (six) or 1e-5 (eight).
    [("dscribe", "gto", 5), ("dscribe", "gto", 8), ("dscribe_polynomial", "polynomial", 5)],
)
@pytest.mark.parametrize("name", STRUCTURES)
def test_equal_to_dscribe(dscribe_soap, name, preset, rbf, n_max):
    atoms = STRUCTURES[name]
    oracle = dscribe_soap(
        r_cut=4.2,
        n_max=n_max,
        l_max=4,
        sigma=0.4,
        rbf=rbf,
        species=symbols(atoms),
        periodic=bool(atoms.pbc.any()),
    )
    soap = Soap.preset(preset, species=symbols(atoms), **(SMALL | {"n_max": n_max}))
    assert_equal_to(oracle.create(atoms), soap.compute(atoms).features.values, 1e-8)


@pytest.mark.parametrize("weights", [None, {"C": 2.0, "H": 1.0, "N": -0.7, "O": 3.0}])
@pytest.mark.parametrize("mode", ["mu2", "mu1nu1", "crossover"])
@pytest.mark.parametrize("average", ["off", "inner"])
def test_compressions_are_those_of_dscribe(dscribe_soap, mode, weights, average):
    if mode == "crossover" and weights:
        pytest.skip("weights of DScribe only scale features where no elements are mixed")
    atoms = STRUCTURES["molecule"]
    oracle = dscribe_soap(
        r_cut=4.2,
        n_max=5,
        l_max=4,
        sigma=0.4,
        species=symbols(atoms),
        average=average,
        compression={"mode": mode, "species_weighting": weights},
    )
    soap = Soap.preset(
        "dscribe",
        species=symbols(atoms),
        compression=mode,
        species_weights=weights,
        average="none" if average == "off" else average,
        **SMALL,
    )
    expected = np.atleast_2d(oracle.create(atoms))
    assert soap.n_features == oracle.get_number_of_features()
    assert_equal_to(expected, soap.compute(atoms).features.values, 1e-8)


def test_presets_of_dscribe_see_neighbours_beyond_the_basis():
    soap = Soap.preset("dscribe", species=["Si"], cutoff=5.0, sigma=0.5)
    assert soap.basis_cutoff == 5.0
    assert soap.cutoff == pytest.approx(5.0 + 0.5 * np.sqrt(2 * np.log(1000)), rel=1e-15)
    assert Soap.model_validate(soap.parameters) == soap


@pytest.mark.parametrize("average", ["inner", "outer"])
@pytest.mark.parametrize("name", ["alloy", "molecule"])
def test_averages_are_those_of_dscribe(dscribe_soap, name, average):
    atoms = STRUCTURES[name]
    oracle = dscribe_soap(
        r_cut=4.2,
        n_max=5,
        l_max=4,
        sigma=0.4,
        species=symbols(atoms),
        periodic=bool(atoms.pbc.any()),
        average=average,
    )
    soap = Soap.preset("dscribe", species=symbols(atoms), average=average, **SMALL)
    assert_equal_to(oracle.create(atoms)[None], soap.compute(atoms).features.values, 1e-8)


# ----- featomic


@pytest.fixture
def featomic():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("featomic")


def featomic_block(featomic, atoms, gradients=(), scaling=None):
    """One block with all species of neighbours as properties and atoms in order as samples."""
    density = {"type": "Gaussian", "width": 0.4}
    calculator = featomic.SoapPowerSpectrum(
        cutoff={"radius": 4.2, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density=density | ({"scaling": scaling} if scaling else {}),
        basis={
            "type": "TensorProduct",
            "max_angular": 4,
            "radial": {"type": "Gto", "max_radial": 4},
            "spline_accuracy": None,
        },
    )
    spectrum = calculator.compute(atoms, gradients=list(gradients))
    spectrum = spectrum.keys_to_samples("center_type")
    return spectrum.keys_to_properties(["neighbor_1_type", "neighbor_2_type"]).block()


def periodic(atoms):
    """The same atoms as featomic takes them: a slab as a crystal with vacuum."""
    if atoms.pbc.any():
        atoms = atoms.copy()
        atoms.pbc = True
    return atoms


@pytest.mark.parametrize("scaling", [None, RadialScaling(rate=1.5, scale=2.0, exponent=4.0)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_equal_to_featomic(featomic, name, scaling):
    atoms = periodic(STRUCTURES[name])
    options = {"type": "Willatt2018", **scaling.model_dump()} if scaling else None
    block = featomic_block(featomic, atoms, scaling=options)
    order = np.argsort(block.samples["atom"])
    soap = Soap.preset("featomic", species=symbols(atoms), radial_scaling=scaling, **SMALL)
    result = soap.compute(atoms)
    assert_equal_to(np.asarray(block.values)[order], result.features.values, 1e-8)
    for theirs, ours in {
        "neighbor_1_type": "species_1",
        "neighbor_2_type": "species_2",
        "l": "l",
        "n_1": "n_1",
        "n_2": "n_2",
    }.items():
        assert np.array_equal(block.properties[theirs], result[ours])


@pytest.mark.parametrize("name", ["metal", "skewed", "slab", "molecule"])
def test_gradients_equal_to_featomic(featomic, name):
    """featomic adds up the images of a neighbour, and keeps the centre's own row."""
    atoms = periodic(STRUCTURES[name])
    block = featomic_block(featomic, atoms, gradients=["positions", "strain"])
    soap = Soap.preset("featomic", species=symbols(atoms), **SMALL)
    result = soap.compute(atoms, gradients=["positions", "strain"])
    centres = np.asarray(block.samples["atom"])
    n, f = len(atoms), soap.n_features

    positions = block.gradient("positions")
    expected = np.zeros((n, n, 3, f))
    np.add.at(
        expected,
        (centres[positions.samples["sample"]], np.asarray(positions.samples["atom"])),
        np.asarray(positions.values),
    )
    assert_equal_to(expected, by_centre_and_atom(result), 1e-7)

    strain = block.gradient("strain")
    expected = np.zeros((n, 3, 3, f))
    expected[centres[strain.samples["sample"]]] = np.asarray(strain.values)
    assert_equal_to(expected, result.gradient_strain.values, 1e-7)


def by_centre_and_atom(result):
    """d p_i / d r_a for all i and a, from the rows per pair."""
    rows, offsets = result.gradient_positions.values, result.pair_offsets.values
    n = len(offsets) - 1
    dense = np.zeros((n, n, *rows.shape[1:]))
    for i in range(n):
        for pair in range(offsets[i], offsets[i + 1]):
            dense[i, result.neighbour_index.values[pair]] += rows[pair]
            dense[i, i] -= rows[pair]
    return dense


# ----- Derivatives against differences

VARIANTS = {
    "default": Soap(species=["H"], **SMALL),
    "dscribe": Soap.preset("dscribe", species=["H"], **SMALL),
    "polynomial, scaled, wide": Soap(
        species=["H"],
        cutoff=5.0,
        n_max=9,
        l_max=2,
        radial_basis="polynomial",
        cutoff_function=Cutoff(function="poly2"),
        radial_scaling=RadialScaling(),
        centre_weight=0.5,
    ),
}
INNER = {name: soap.model_copy(update={"average": "inner"}) for name, soap in VARIANTS.items()}


def with_species(soap, atoms):
    return soap.model_validate(soap.parameters | {"species": symbols(atoms)})


def differences(values, step=2e-4):
    """Derivative at 0 by five points; errs by step⁴ / 30 times the fifth derivative."""
    close = values(step) - values(-step)
    far = values(2 * step) - values(-2 * step)
    return (8 * close - far) / (12 * step)


def moved(atoms, atom, axis, step):
    atoms = atoms.copy()
    atoms.positions[atom, axis] += step
    return atoms


def strained(atoms, a, b, step):
    atoms = atoms.copy()
    deformation = np.eye(3)
    deformation[a, b] += step
    atoms.set_cell(atoms.cell.array @ deformation.T)
    atoms.positions = atoms.positions @ deformation.T
    return atoms


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["skewed", "slab", "molecule"])
def test_gradients_are_those_of_the_features(name, variant):
    atoms = STRUCTURES[name]
    soap = with_species(VARIANTS[variant], atoms)
    result = soap.compute(atoms, gradients=["positions", "strain"])
    dense = by_centre_and_atom(result)
    for atom, axis in [(0, 0), (1, 1), (2, 2)]:

        def features(step, atom=atom, axis=axis):
            return soap.compute(moved(atoms, atom, axis, step)).features.values

        assert_equal_to(differences(features), dense[:, atom, axis], 1e-6)
    for a, b in [(0, 0), (0, 1), (1, 0), (2, 1)]:

        def features(step, a=a, b=b):
            return soap.compute(strained(atoms, a, b, step)).features.values

        assert_equal_to(differences(features), result.gradient_strain.values[:, a, b], 1e-6)


@pytest.mark.parametrize("variant", INNER)
@pytest.mark.parametrize("name", ["skewed", "slab", "molecule"])
def test_gradients_of_the_inner_average(name, variant):
    atoms = STRUCTURES[name]
    soap = with_species(INNER[variant], atoms)
    result = soap.compute(atoms, gradients=["positions", "strain"])
    for atom, axis in [(0, 0), (1, 1), (2, 2)]:

        def features(step, atom=atom, axis=axis):
            return soap.compute(moved(atoms, atom, axis, step)).features.values[0]

        assert_equal_to(differences(features), result.gradient_positions.values[atom, axis], 1e-6)
    for a, b in [(0, 0), (0, 1), (1, 0), (2, 1)]:

        def features(step, a=a, b=b):
            return soap.compute(strained(atoms, a, b, step)).features.values[0]

        assert_equal_to(differences(features), result.gradient_strain.values[0, a, b], 1e-6)


@pytest.mark.parametrize("name", ["skewed", "slab", "molecule", "alloy"])
@pytest.mark.parametrize("average", ["none", "inner"])
def test_moving_everything_changes_nothing(name, average):
    atoms = STRUCTURES[name]
    soap = Soap(species=symbols(atoms), average=average, **SMALL)
    result = soap.compute(atoms, gradients=["positions", "strain"], rows="summed")
    gradient = result.gradient_positions.values
    assert np.abs(gradient.sum(axis=0)).max() < 1e-13 * np.abs(gradient).max() * len(atoms)
    strain = result.gradient_strain.values
    np.testing.assert_array_equal(strain, np.swapaxes(strain, -3, -2))


# ----- The kernel


def rotations(n):
    """Rotation matrices and weights that integrate harmonics up to degree n exactly."""
    alpha = 2 * np.pi * np.arange(n + 1) / (n + 1)
    cosines, weights = np.polynomial.legendre.leggauss(n // 2 + 1)

    def about_z(angle):
        c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
        return np.array([[c, -s, zero], [s, c, zero], [zero, zero, one]]).transpose(2, 0, 1)

    s = np.sqrt(1 - cosines**2)
    zero, one = np.zeros_like(s), np.ones_like(s)
    about_y = np.array([[cosines, zero, s], [zero, one, zero], [-s, zero, cosines]])
    z = about_z(alpha)
    matrices = np.einsum("aij,jkb,ckl->abcil", z, about_y, z)
    w = np.broadcast_to(weights[None, :, None] / 2 / (n + 1) ** 2, matrices.shape[:3])
    return matrices.reshape(-1, 3, 3), w.ravel()


def environments():
    """Two centres with two species around them, well inside the cutoff."""
    first = Atoms(
        "COHHO", [[0, 0, 0], [1.1, 0.1, 0], [-0.5, 0.9, 0.2], [0.1, -0.6, 1.0], [0, 0, 1.2]]
    )
    second = Atoms("COHO", [[0, 0, 0], [0.2, 1.2, 0.1], [0.7, -0.6, 0.6], [-0.8, 0.1, -0.9]])
    return first, second


def test_dot_product_is_the_rotation_averaged_overlap():
    """Two Gaussians of unit norm a distance d apart overlap by exp(-d² / 4σ²)."""
    sigma = 0.6
    a, b = environments()
    matrices, weights = rotations(40)

    def kernel(a, b):
        overlap = np.zeros(len(weights))
        for z in set(a.numbers) & set(b.numbers):
            turned = np.einsum("rij,bj->rbi", matrices, b.positions[b.numbers == z])
            distances = a.positions[a.numbers == z][:, None, None] - turned
            overlap += np.exp(-(distances**2).sum(axis=-1) / (4 * sigma**2)).sum(axis=(0, 2))
        return weights @ overlap**2

    soap = Soap(
        species=["H", "C", "O"],
        cutoff=4.5,
        n_max=12,
        l_max=10,
        sigma=sigma,
        cutoff_function=Cutoff(function="step"),
    )
    p, q = (soap.compute(x).features.values[0] for x in (a, b))
    # What twelve radial functions and ten degrees cannot resolve of Gaussians this wide.
    for actual, expected in [(p @ p, kernel(a, a)), (p @ q, kernel(a, b)), (q @ q, kernel(b, b))]:
        assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", ["triangle", "blocks"])
@pytest.mark.parametrize(
    ("prefactor", "constant"),
    [("rotation_mean", 1.0), ("rotation_integral", 8 * np.pi**2), ("coupling", 1.0)],
)
def test_every_layout_has_the_same_kernel(layout, prefactor, constant):
    reference, other = (
        Soap(species=["H", "C", "O"], layout=layout_, prefactor=prefactor_, **SMALL)
        for layout_, prefactor_ in [("triangle", "rotation_mean"), (layout, prefactor)]
    )
    p = np.array([reference.compute(x).features.values[0] for x in environments()])
    q = np.array([other.compute(x).features.values[0] for x in environments()])
    np.testing.assert_allclose(q @ q.T, constant * p @ p.T, rtol=1e-13)


def test_l_zero_of_one_neighbour_by_hand():
    """Monopole of a pair: the centre's and the neighbour's Gaussian in one polynomial."""
    d, sigma, cutoff = 1.3, 0.5, 4.0
    soap = Soap(
        species=["H", "C"],
        cutoff=cutoff,
        n_max=1,
        l_max=0,
        sigma=sigma,
        radial_basis="polynomial",
        density="unit_height",
    )
    r = np.linspace(0, cutoff, 40001)
    function = (cutoff - r) ** 3
    function /= np.sqrt(np.trapezoid(r**2 * function**2, r))

    def coefficient(d):
        smeared = 4 * np.pi * np.exp(-(r**2 + d**2) / (2 * sigma**2))
        smeared *= spherical_in(0, r * d / sigma**2) / np.sqrt(4 * np.pi)
        return np.trapezoid(r**2 * function * smeared, r)

    h, c = coefficient(d), coefficient(0.0)
    features = soap.compute(Atoms("CH", [[0, 0, 0], [0, 0, d]])).features.values
    expected = [[h * h, np.sqrt(2) * h * c, c * c], [c * c, np.sqrt(2) * h * c, h * h]]
    # Trapezoids of 0.1 mÅ.
    np.testing.assert_allclose(features, expected, rtol=1e-7)


# ----- Fewer densities than elements


def test_mixed_densities_are_mixtures_of_the_features():
    """p[k1, k2] = Σ w[s1, k1] w[s2, k2] p[s1, s2], for values and both gradients."""
    atoms = STRUCTURES["molecule"]
    weights = {"C": (2.0, 0.0), "H": (1.0, 0.4), "N": (-0.7, 1.0), "O": (0.3, 0.3)}
    common = {"species": symbols(atoms), "layout": "blocks", "scale_off_diagonal": False}
    gradients = ["positions", "strain"]
    full = Soap(**common, **SMALL).compute(atoms, gradients)
    mixed = Soap(**common, **SMALL, species_weights=weights).compute(atoms, gradients)
    matrix = np.array([weights[s] for s in ("H", "C", "N", "O")])
    numbers = [1, 6, 7, 8]
    n, degrees = 5, 5
    for name in ("features", "gradient_positions", "gradient_strain"):
        values = full[name].values
        blocks = np.empty((4, 4, *values.shape[:-1], degrees, n, n))
        for i, first in enumerate(numbers):
            for j, second in enumerate(numbers[i:], i):
                some = (full.species_1.values == first) & (full.species_2.values == second)
                block = values[..., some].reshape(*values.shape[:-1], degrees, n, n)
                blocks[i, j], blocks[j, i] = block, block.swapaxes(-1, -2)
        expected = np.einsum("ia,jb,ij...->ab...", matrix, matrix, blocks)
        for k1, k2 in [(0, 0), (0, 1), (1, 1)]:
            some = (mixed.species_1.values == -1 - k1) & (mixed.species_2.values == -1 - k2)
            actual = mixed[name].values[..., some]
            assert_equal_to(expected[k1, k2].reshape(actual.shape), actual, 1e-13)


def test_mixed_densities_have_the_same_kernel_in_both_contractions():
    """λ-SOAP of degree 0 is the power spectrum up to order and signs of its features."""
    atoms = STRUCTURES["molecule"]
    common = {
        "species": symbols(atoms),
        "species_weights": {"C": (2.0, 0.5), "H": (1.0, 0.4), "N": (-0.7, 1.0), "O": (0.3, 0.3)},
        "n_max": 2,
        "l_max": 2,
    }
    grams = []
    for descriptor in (Soap(**common), LambdaSoap(**common, degree=0, parity="proper")):
        result = descriptor.compute(atoms, ["positions", "strain"])
        names = ("features", "gradient_positions", "gradient_strain")
        rows = [result[name].values.reshape(-1, descriptor.n_features) for name in names]
        assert [len(r) for r in rows] == [9, 3 * 72, 9 * 9]
        stacked = np.concatenate(rows)
        grams.append(stacked @ stacked.T)
    assert_equal_to(*grams, 1e-13)


@pytest.mark.parametrize(
    ("compression", "n_features"),
    [("off", 4 * 15 + 6 * 25), ("mu1nu1", 4 * 25), ("crossover", 4 * 15), ("mu2", 15)],
)
def test_number_of_features_of_compressions(compression, n_features):
    soap = Soap(species=["H", "C", "N", "O"], compression=compression, **SMALL)
    assert soap.n_features == soap.labels().sizes["feature"] == 5 * n_features


def test_a_hundred_elements_have_as_few_features_as_one():
    symbols_ = CHEMICAL_SYMBOLS[1:101]
    soap = Soap(species=symbols_, compression="mu2", **SMALL)
    alloy = Atoms(symbols_[::10], positions=1.3 * np.arange(30).reshape(10, 3) % 4.1)
    result = soap.compute(alloy, ["positions"])
    assert result.sizes["feature"] == 5 * 15
    carbon = Soap(species=["C"], **SMALL)
    alloy.symbols[:] = "C"
    np.testing.assert_array_equal(
        result.features.values, carbon.compute(alloy, ["positions"]).features.values
    )


# ----- Rows and columns


def test_species_that_are_absent_have_features_of_zero():
    atoms = STRUCTURES["molecule"]
    narrow = Soap(species=symbols(atoms), **SMALL)
    wide = Soap(species=["H", "B", "C", "N", "O", "U"], **SMALL)
    gradients = ["positions", "strain"]
    a, b = narrow.compute(atoms, gradients), wide.compute(atoms, gradients)
    known = np.isin(b.species_1, narrow.species_numbers) & np.isin(
        b.species_2, narrow.species_numbers
    )
    for name in ("features", "gradient_positions", "gradient_strain"):
        np.testing.assert_array_equal(b[name].values[..., known], a[name].values)
        assert not b[name].values[..., ~known].any()


def test_gradient_rows_are_zero_where_the_neighbour_takes_no_part():
    atoms = STRUCTURES["molecule"]
    result = Soap(species=symbols(atoms), **SMALL).compute(atoms, gradients=["positions"])
    z = atoms.numbers[result.neighbour_index.values][:, None, None]
    foreign = (result.species_1.values != z) & (result.species_2.values != z)
    assert not (result.gradient_positions.values * foreign).any()


def test_centre_without_weight_is_not_seen_in_its_own_environment():
    pair = Atoms("CH", [[0, 0, 0], [0, 0, 1.1]])
    result = Soap(species=["H", "C"], centre_weight=0.0, **SMALL).compute(pair)
    carbon_row, hydrogen_row = result.features.values
    is_carbon = (result.species_1.values == 6) | (result.species_2.values == 6)
    assert not carbon_row[is_carbon].any()
    assert carbon_row[~is_carbon].any()
    assert hydrogen_row[result.species_1.values == 6].any()


def test_labels_name_every_feature_once():
    soap = Soap(species=["O", "H"], n_max=3, l_max=2)
    labels = soap.labels()
    assert list(labels.coords) == ["species_1", "species_2", "l", "n_1", "n_2"]
    assert labels.sizes["feature"] == soap.n_features == 3 * (6 + 9 + 6)
    table = np.array([labels[name].values for name in labels.coords]).T
    assert len(np.unique(table, axis=0)) == len(table)
    assert table[0].tolist() == [1, 1, 0, 0, 0]
    assert table[1].tolist() == [1, 1, 0, 0, 1]
    assert table[-1].tolist() == [8, 8, 2, 2, 2]


@pytest.mark.parametrize(("n_max", "l_max"), [(1, 0), (7, 1), (8, 6), (9, 3), (12, 9)])
def test_any_number_of_functions(n_max, l_max):
    """Radial functions do not depend on l_max, nor l on n_max: smaller is a part of larger."""
    atoms = STRUCTURES["slab"]
    common = {"species": symbols(atoms), "cutoff": 4.5, "sigma": 0.5, "n_max": n_max}
    small = Soap(**common, l_max=l_max).compute(atoms, gradients=["positions"])
    large = Soap(**common, l_max=l_max + 1).compute(atoms, gradients=["positions"])
    part = large.l.values <= l_max
    # Both tables are good to 1e-11, their derivatives to 3.5 / spacing times as much.
    for name, tolerance in [("features", 1e-10), ("gradient_positions", 1e-8)]:
        assert_equal_to(large[name].values[..., part], small[name].values, tolerance)


def test_single_precision_is_rounded_once():
    atoms = STRUCTURES["alloy"]
    gradients = ["positions", "strain"]
    for average in ("none", "inner"):
        soap = Soap(species=symbols(atoms), average=average, **SMALL)
        single = soap.model_copy(update={"dtype": "float32"})
        exact, rounded = soap.compute(atoms, gradients), single.compute(atoms, gradients)
        for name in ("features", "gradient_positions", "gradient_strain"):
            assert rounded[name].dtype == np.float32
            np.testing.assert_array_equal(rounded[name], exact[name].values.astype(np.float32))


def test_a_batch_is_its_structures():
    atoms = [STRUCTURES[name] for name in ("molecule", "one atom", "molecule")]
    for average in ("none", "inner"):
        soap = Soap(species=symbols(atoms[0]), average=average, **SMALL)
        together = soap.compute(Structures.from_ase(atoms)).features.values
        alone = np.concatenate([soap.compute(a).features.values for a in atoms])
        np.testing.assert_array_equal(together, alone)


# ----- What cannot be


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cutoff": 0.0}, "greater than or equal to 0.01"),
        ({"sigma": -0.1}, "greater than 0"),
        ({"sigma": 0.001}, "use at least 0.025"),
        ({"n_max": 0}, "greater than or equal to 1"),
        ({"l_max": 21}, "less than or equal to 20"),
        ({"n_max": 20, "cutoff": 3.0}, "use fewer functions"),
        ({"n_max": 14, "radial_basis": "polynomial"}, "use fewer functions"),
        ({"cutoff": 0.9}, "use a larger cutoff or the polynomial basis"),
        ({"radial_basis": "bessel"}, "use one of"),
        ({"cutoff": 2.0, "cutoff_function": {"function": "shifted_cosine", "width": 3}}, "smaller"),
        ({"species": []}, "at least 1"),
        ({"sigma": None}, "density of Gaussians: give a sigma"),
        ({"radial_basis": "zernike"}, "set sigma to None"),
        ({"sigma": None, "radial_basis": "zernike", "basis_cutoff": 3}, "no tails"),
        ({"species": CHEMICAL_SYMBOLS[1:101], "l_max": 9}, "3,204,000 numbers.*compression='mu2'"),
        ({"radial_decay": 2.0}, "gto has no radial_decay"),
        ({"species_weights": {"C": 1.0}}, "give weights for each"),
        ({"species_weights": {"Si": (1.0, 2.0)}, "compression": "mu2"}, "one weight for each"),
        ({"species": ["Xx"]}, "unknown chemical symbol"),
        ({"r_cut": 5.0}, "Extra inputs"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_any_work(parameters, message):
    with pytest.raises(ValidationError, match=message):
        Soap(**({"species": ["Si"]} | parameters))


def test_species_must_be_given():
    with pytest.raises(ValidationError, match="species"):
        Soap()


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="dscribe_polynomial"):
        Soap.preset("quip", species=["Si"])


def test_a_foreign_species_is_named():
    with pytest.raises(StructureError, match=r"also holds.*'N'"):
        Soap(species=["H", "C", "O"], **SMALL).compute(STRUCTURES["molecule"])
