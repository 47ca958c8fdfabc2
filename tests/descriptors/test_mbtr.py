"""MBTR and LMBTR: formulae, counts, what is refused. DScribe's numbers: tests/oracles."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError

from atomlake.descriptors import Lmbtr, Mbtr
from atomlake.descriptors.base import Gradients, Rows, empty_rows
from atomlake.descriptors.mbtr import Weighting
from atomlake.neighbours import find_neighbours
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

SPECIES = ("H", "C", "O", "Na", "Cl")
N_BINS = 60
RANGES = {
    "atomic_number": (-4, 24),
    "distance": (0, 8),
    "inverse_distance": (0, 1.5),
    "angle": (-30, 210),
    "cosine": (-1.5, 1.5),
}
WEIGHTINGS = [
    {"function": "unity", "cutoff": 3.1},
    {"function": "exp", "scale": 0.5, "threshold": 1e-2},
    {"function": "inverse_square", "cutoff": 4.2},
    {"function": "smooth_cutoff", "cutoff": 3.3},
]


def term(geometry, weighting=None, **grid):
    start, stop = RANGES[geometry]
    grid = {"start": start, "stop": stop, "n_bins": N_BINS, "sigma": (stop - start) / 50, **grid}
    return {"geometry": geometry, "grid": grid, "weighting": weighting or {"function": "unity"}}


def mbtr(*terms, kind=Mbtr, species=SPECIES, **parameters):
    return kind(species=species, terms=terms, **parameters)


def features(descriptor, structures):
    return descriptor.compute(structures).features.values


def salt():
    atoms = bulk("NaCl", "rocksalt", 5.0)
    atoms.rattle(0.1, seed=3)
    return atoms


# ----- One Gaussian


@pytest.mark.parametrize(
    ("n_bins", "sigma"),
    [(50, 0.2), (50, 0.06), (50, 0.009), (50, 2.5), (400, 0.3), (7, 0.4), (2, 1.0)],
)
@pytest.mark.parametrize("distance", [0.7, 1.013, 3.999, 4.31])
def test_a_pair_is_a_gaussian_averaged_over_each_bin(n_bins, sigma, distance):
    start, stop = 0.5, 4.0
    descriptor = mbtr(term("distance", start=start, stop=stop, n_bins=n_bins, sigma=sigma))
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, distance]])
    width = (stop - start) / (n_bins - 1)
    edges = start + width * (np.arange(n_bins + 1) - 0.5)
    erf = np.array([math.erf((e - distance) / sigma / math.sqrt(2)) for e in edges])
    expected = 0.5 * np.diff(erf) / width
    # A distance rounded to 1e-16 lies 1e-16 / width bins off: 1e-14 of the height.
    tolerance = 1e-13 / sigma
    actual = descriptor.compute(hydrogen, ["positions"])
    for values in (features(descriptor, hydrogen), actual.features.values):
        np.testing.assert_allclose(values[0, :n_bins], expected, rtol=0, atol=tolerance)
        assert not values[0, n_bins:].any()
    gaussian = np.exp(-0.5 * ((edges - distance) / sigma) ** 2) / sigma / math.sqrt(2 * math.pi)
    slope = -np.diff(gaussian) / width
    np.testing.assert_allclose(
        actual.gradient_positions.values[:, 2, :n_bins],
        np.outer([-1, 1], slope),
        rtol=0,
        atol=tolerance / sigma,
    )


def test_gaussians_of_height_one_are_wider_by_their_area():
    parameters = term("distance", sigma=0.3)
    area = features(mbtr(parameters), molecule("H2O"))
    height = features(mbtr(parameters, normalise_gaussians=False), molecule("H2O"))
    np.testing.assert_allclose(height, 0.3 * math.sqrt(2 * math.pi) * area, rtol=1e-14)


def test_bins_named_by_their_left_edges_are_the_same_bins():
    edges = mbtr(term("distance", start=0.0, stop=5.0, n_bins=50, points="left_edges"))
    centres = mbtr(term("distance", start=0.05, stop=4.95, n_bins=50, sigma=0.16))
    water = molecule("H2O")
    np.testing.assert_allclose(features(edges, water), features(centres, water), atol=1e-12)
    np.testing.assert_allclose(edges.labels().value[:3], [0.0, 0.1, 0.2], atol=1e-15)
    np.testing.assert_allclose(centres.labels().value[:3], [0.05, 0.15, 0.25], atol=1e-15)


# ----- Which pairs and triples


def areas(descriptor, structure):
    """Areas under each channel's Gaussians, one for each row, by the symbols of its species."""
    labels = descriptor.labels()
    (grid,) = (t.grid for t in descriptor.terms)
    values = features(descriptor, structure)
    values = values.reshape(len(values), -1, N_BINS)
    species = np.stack([labels[f"species_{p}"].values[::N_BINS] for p in (1, 2, 3)], axis=1)
    names = ["".join(CHEMICAL_SYMBOLS[z] for z in row if z >= 0) for row in species.tolist()]
    return dict(zip(names, (values.sum(axis=2) * grid.width).T, strict=True))


def test_every_atom_pair_and_angle_counts_once():
    methanol = molecule("CH3OH")
    expected = {
        "atomic_number": {"H": 4, "C": 1, "O": 1},
        "inverse_distance": {"HH": 6, "HC": 4, "HO": 4, "CO": 1},
        "cosine": {
            # The atom where the angle is stands in the middle.
            "HHH": 12,
            "HHC": 12,
            "HHO": 12,
            "CHO": 4,
            "HCH": 6,
            "HCO": 4,
            "HOH": 6,
            "HOC": 4,
        },
    }
    for geometry, counts in expected.items():
        actual = areas(mbtr(term(geometry)), methanol)
        for symbols, (area,) in actual.items():
            assert area == pytest.approx(counts.get(symbols, 0), abs=1e-9), symbols


def test_environments_have_the_pairs_and_angles_of_their_atom():
    methane = molecule("CH4")
    far = {"function": "unity", "cutoff": 5.0}
    pairs = areas(mbtr(term("distance", far), kind=Lmbtr), methane)
    np.testing.assert_allclose(pairs["XH"], [4, 3, 3, 3, 3], atol=1e-9)
    np.testing.assert_allclose(pairs["XC"], [0, 1, 1, 1, 1], atol=1e-9)
    triples = areas(mbtr(term("angle", far), kind=Lmbtr), methane)
    np.testing.assert_allclose(triples["HXH"], [6, 3, 3, 3, 3], atol=1e-9)
    np.testing.assert_allclose(triples["HXC"], [0, 3, 3, 3, 3], atol=1e-9)
    np.testing.assert_allclose(triples["XHH"], [12, 6, 6, 6, 6], atol=1e-9)
    np.testing.assert_allclose(triples["XHC"], [0, 3, 3, 3, 3], atol=1e-9)
    np.testing.assert_allclose(triples["XCH"], [0, 3, 3, 3, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("geometry", "weighting"),
    [("distance", w) for w in WEIGHTINGS]
    + [("cosine", w) for w in WEIGHTINGS if w["function"] != "inverse_square"],
    ids=lambda value: value if isinstance(value, str) else value["function"],
)
def test_an_angle_is_in_the_environments_of_its_atoms(geometry, weighting):
    whole = areas(mbtr(term(geometry, weighting)), salt())
    parts = areas(mbtr(term(geometry, weighting), kind=Lmbtr), salt())
    n_atoms = 2 if geometry == "distance" else 3
    total = sum(area.sum() for area in whole.values())
    assert total > 0.01
    assert sum(area.sum() for area in parts.values()) == pytest.approx(n_atoms * total, rel=1e-11)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: w["function"])
@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 2, 2)])
def test_a_supercell_has_as_many_times_the_pairs_and_angles(weighting, repeat):
    terms = [term("atomic_number"), term("distance", weighting)]
    if weighting["function"] != "inverse_square":
        terms.append(term("cosine", weighting))
    cell, supercell = salt(), salt().repeat(repeat)
    n = math.prod(repeat)
    expected = features(mbtr(*terms), cell)
    np.testing.assert_allclose(features(mbtr(*terms), supercell), n * expected, atol=1e-11)
    for normalisation in ("l2", "n_atoms"):
        descriptor = mbtr(*terms, normalisation=normalisation)
        expected = features(descriptor, cell)
        np.testing.assert_allclose(features(descriptor, supercell), expected, atol=1e-11)
    descriptor = mbtr(*terms[1:], normalisation="valle_oganov")
    # Pairs are n times as many as V / N_A N_B is smaller; V / N_A N_B N_C falls once more.
    n_pairs = N_BINS * 15
    expected = features(descriptor, cell)
    expected[:, n_pairs:] /= n
    np.testing.assert_allclose(features(descriptor, supercell), expected, atol=1e-10)


def test_exp_ends_where_the_weight_is_the_threshold():
    weighting = {"function": "exp", "scale": 2.0, "threshold": 1e-3}
    pairs, triples = mbtr(term("distance", weighting)), mbtr(term("angle", weighting))
    assert pairs.cutoff == pytest.approx(math.log(1000) / 2)
    assert triples.cutoff == pytest.approx(math.log(1000) / 4)
    for factor, is_inside in ((1 - 1e-9, True), (1 + 1e-9, False)):
        pair = Atoms("H2", [[0, 0, 0], [pairs.cutoff * factor, 0, 0]])
        assert features(pairs, pair).any() == is_inside
        side = 2 / 3 * triples.cutoff * factor
        triangle = Atoms("H3", side * np.array([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(0.75), 0]]))
        assert features(triples, triangle).any() == is_inside


# ----- The whole row


def test_terms_are_concatenated():
    terms = [term("cosine", WEIGHTINGS[1]), term("atomic_number"), term("distance", WEIGHTINGS[3])]
    together = mbtr(*terms, normalisation="l2").compute(salt(), ["positions", "strain"])
    alone = [mbtr(t, normalisation="l2").compute(salt(), ["positions", "strain"]) for t in terms]
    for name in ("features", "gradient_positions", "gradient_strain"):
        joined = np.concatenate([result[name].values for result in alone], axis=-1)
        np.testing.assert_array_equal(together[name].values, joined)


def test_each_term_has_unit_norm_and_nothing_stays_nothing():
    descriptor = mbtr(term("distance"), term("angle"), normalisation="l2", species=("H",))
    molecules = [Atoms("H3", np.eye(3)), Atoms("H2", np.eye(3)[:2]), Atoms("H")]
    result = descriptor.compute(molecules, ["positions", "strain"])
    norms = np.linalg.norm(result.features.values.reshape(3, 2, -1), axis=2)
    np.testing.assert_allclose(norms, [[1, 1], [1, 0], [0, 0]], rtol=1e-14)
    assert not result.gradient_strain.values[2].any()
    assert not result.gradient_positions.values[5].any()


def test_angles_on_a_line_do_not_enter_the_gradients():
    descriptor = mbtr(term("angle"))
    line = Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    result = descriptor.compute(line, ["positions", "strain"])
    labels = descriptor.labels()
    straight = (labels.species_2 == 6).values & (labels.species_1 == 8).values
    peak = labels.value.values[straight][result.features.values[0, straight].argmax()]
    assert peak == pytest.approx(180, abs=3)
    assert not result.gradient_positions.values.any()
    assert not result.gradient_strain.values.any()


def test_rows_may_lie_anywhere_in_memory():
    descriptor = mbtr(term("distance"), term("cosine"), species=("H", "O"))
    water = Structures.from_ase(molecule("H2O"))
    neighbours, _ = find_neighbours(water, descriptor.cutoff)
    gradients = Gradients("pairs", True)
    plain = empty_rows(descriptor, water, neighbours, 0, 1, gradients)
    descriptor.compute_rows(water, neighbours, 0, 1, gradients, plain)
    strided = Rows(*(np.full((*a.shape, 2), np.nan)[..., 0] for a in plain))
    descriptor.compute_rows(water, neighbours, 0, 1, gradients, strided)
    for a, b in zip(plain, strided, strict=True):
        np.testing.assert_array_equal(a, b)


# ----- What is refused


@pytest.mark.parametrize("pbc", [True, (True, False, False)])
def test_all_pairs_of_a_crystal_are_refused(pbc):
    crystal = Structures.single([11], [[0, 0, 0]], 3 * np.eye(3), pbc)
    for geometry in ("distance", "angle"):
        (problem,) = mbtr(term(geometry)).check(crystal)
        assert problem.code == "not_finite"
        assert "cutoff" in problem.reason
    assert mbtr(term("atomic_number")).check(crystal) == [None]


def test_all_triples_of_a_large_structure_are_refused():
    gas = Structures.single([1] * 1001, np.arange(3003.0).reshape(1001, 3))
    (problem,) = mbtr(term("cosine")).check(gas)
    assert problem.code == "too_many_atoms"
    assert "1001" in problem.reason
    assert mbtr(term("distance"), term("cosine", WEIGHTINGS[0])).check(gas) == [None]


def test_volumes_of_slabs_and_molecules_are_refused():
    descriptor = mbtr(term("distance", WEIGHTINGS[0]), normalisation="valle_oganov")
    slab = salt()
    slab.pbc = (True, True, False)
    problems = descriptor.check(Structures.from_ase([salt(), slab, molecule("H2O")]))
    assert [p and p.code for p in problems] == [None, "not_periodic", "not_periodic"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weighting": {"function": "inverse_square"}, "geometry": "angle"}, "inverse_square"),
        ({"weighting": {"function": "exp"}}, "scale"),
        ({"weighting": {"function": "exp", "scale": 1.0, "cutoff": 3.0}}, "cutoff"),
        ({"weighting": {"function": "unity", "scale": 1.0}}, "scale"),
        ({"weighting": {"function": "smooth_cutoff"}}, "cutoff"),
        (
            {"weighting": {"function": "unity", "cutoff": 3.0}, "geometry": "atomic_number"},
            "cutoff",
        ),
        ({"grid": {"start": 1, "stop": 1, "n_bins": 5, "sigma": 0.1}}, "stop"),
        ({"grid": {"start": 0, "stop": 1, "n_bins": 5, "sigma": 1e-4}}, "sigma"),
        ({"grid": {"start": 0, "stop": 1, "n_bins": 5, "sigma": 2.0}}, "sigma"),
        ({"grid": {"start": 0, "stop": 1, "n_bins": 1, "sigma": 0.1}}, "n_bins"),
    ],
)
def test_what_cannot_be_or_would_be_ignored_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        mbtr({**term("distance"), **changes})


def test_environments_need_a_cutoff_and_have_no_composition():
    with pytest.raises(ValidationError, match="longer than the molecule"):
        mbtr(term("distance"), kind=Lmbtr)
    with pytest.raises(ValidationError, match="atomic_number"):
        mbtr(term("atomic_number"), kind=Lmbtr)
    with pytest.raises(ValidationError, match="normalisation"):
        mbtr(term("distance", WEIGHTINGS[0]), kind=Lmbtr, normalisation="n_atoms")


def test_equal_weightings_compare_equal():
    assert Weighting.model_validate("unity") == Weighting(function="unity")
    assert Weighting(function="exp", scale=1.0) == Weighting(
        function="exp", scale=1.0, threshold=1e-3
    )
