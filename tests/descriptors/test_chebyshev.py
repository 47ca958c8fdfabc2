"""Chebyshev expansions: their definition, their weights, their parameters."""

from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from numpy.polynomial.chebyshev import chebval
from pydantic import ValidationError

from atomlake.descriptors import Chebyshev


def structures():
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab.symbols[0] = "O"
    result = {
        "molecule": molecule("CH3CONH2"),
        # 4 Å wide: the cutoffs reach over several cells.
        "crystal": bulk("NaCl", "rocksalt", 5.64),
        "slab": slab,
        "one species": bulk("Si"),
    }
    for seed, atoms in enumerate(result.values()):
        atoms.rattle(0.1, seed=seed)
    return result


STRUCTURES = structures()


def chebyshev(**parameters):
    defaults = {"radial_cutoff": 5.0, "radial_order": 3, "angular_cutoff": 4.0, "angular_order": 2}
    return Chebyshev(**{**defaults, **parameters})


def polynomials(order, x):
    return np.array([chebval(x, np.eye(order + 1)[n]) for n in range(order + 1)])


def by_the_formulae(atoms, descriptor, weights):
    """One row per atom, summed over neighbours and over pairs of neighbours one by one."""
    centres, neighbours, vectors, distances = neighbor_list("ijDd", atoms, descriptor.cutoff)

    def fading(r, cutoff):
        return 0.5 * (1 + np.cos(np.pi * r / cutoff)) if r < cutoff else 0.0

    rows = []
    for i in range(len(atoms)):
        environment = [
            (weights[atoms.symbols[j]], vector, r)
            for centre, j, vector, r in zip(centres, neighbours, vectors, distances, strict=True)
            if centre == i
        ]
        radial = np.zeros((2, descriptor.radial_order + 1))
        for weight, _, r in environment:
            x = 2 * r / descriptor.radial_cutoff - 1
            terms = fading(r, descriptor.radial_cutoff) * polynomials(descriptor.radial_order, x)
            radial += np.outer([1, weight], terms)
        angular = np.zeros((2, descriptor.angular_order + 1))
        for (weight_1, vector_1, r_1), (weight_2, vector_2, r_2) in combinations(environment, 2):
            cosine = vector_1 @ vector_2 / (r_1 * r_2)
            terms = polynomials(descriptor.angular_order, cosine)
            terms *= fading(r_1, descriptor.angular_cutoff)
            terms *= fading(r_2, descriptor.angular_cutoff)
            angular += np.outer([1, weight_1 * weight_2], terms)
        rows.append(np.concatenate([radial[0], angular[0], radial[1], angular[1]]))
    return np.array(rows)[:, : descriptor.n_features]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("cutoffs", [(5.0, 3.5), (3.1, 4.2)], ids=str)
def test_equal_to_the_formulae(name, cutoffs):
    atoms = STRUCTURES[name]
    symbols = sorted(set(atoms.symbols))
    weights = {symbol: 1.5 - i for i, symbol in enumerate(symbols)}
    descriptor = chebyshev(
        species=symbols,
        radial_cutoff=cutoffs[0],
        radial_order=9,
        angular_cutoff=cutoffs[1],
        angular_order=6,
        weights=weights if len(symbols) > 1 else None,
    )
    expected = by_the_formulae(atoms, descriptor, weights)
    actual = descriptor.compute(atoms).features.values
    # Rounding in sums of up to a thousand terms of order one.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_the_sum_over_harmonics_is_stable_to_high_orders():
    atoms = STRUCTURES["molecule"]
    weights = {"H": -2.0, "C": -1.0, "N": 1.0, "O": 2.0}
    descriptor = chebyshev(species=list(weights), radial_order=60, angular_order=40)
    expected = by_the_formulae(atoms, descriptor, weights)
    np.testing.assert_allclose(
        descriptor.compute(atoms).features.values, expected, rtol=0, atol=1e-11
    )


def test_two_atoms_have_radial_functions_only():
    descriptor = chebyshev(species=["C", "O"])
    features = descriptor.compute(Atoms("CO", [[0, 0, 0], [0, 0, 1.25]])).features.values
    # A quarter of the cutoff: x = -1/2, where T_n = cos(2πn/3), and fc = (1 + cos(π/4)) / 2.
    radial = (1 + np.sqrt(0.5)) / 2 * np.array([1, -0.5, -0.5, 1])
    nothing = np.zeros(3)
    expected = [
        np.concatenate([radial, nothing, radial, nothing]),
        np.concatenate([radial, nothing, -radial, nothing]),
    ]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [(0, (1, 1, 1)), (60, (1, 0.5, -0.5)), (90, (1, 0, -1)), (180, (1, -1, 1))],
)
def test_three_atoms_have_one_angle(angle, expected):
    """At 2 Å half of the cosine cutoff of 4 Å is left; in line the derivative exists too."""
    turn = np.deg2rad(angle)
    # Not the same distance, so that an angle of 0 does not put two atoms on one place.
    water = Atoms("OH2", [[0, 0, 0], [2, 0, 0], [3 * np.cos(turn), 3 * np.sin(turn), 0]])
    result = chebyshev(species=["H", "O"]).compute(water, ["positions", "strain"])
    fading = 0.5 * 0.5 * (1 - np.sqrt(0.5))
    angular = result.features.values[0, (result.function == "angular") & ~result.is_weighted]
    np.testing.assert_allclose(angular, fading * np.array(expected), rtol=0, atol=1e-15)
    assert np.isfinite(result.gradient_positions.values).all()
    if angle in (0, 180):
        # In line: moving a neighbour sideways turns cos θ around.
        sideways = result.gradient_positions.values[: result.pair_offsets.values[1], 1:]
        np.testing.assert_allclose(sideways, 0, rtol=0, atol=1e-15)


def test_different_angles_of_the_same_histogram_collide():
    """What correlates three atoms cannot tell these apart, with C in the centre."""

    def ring(steps):
        angles = np.deg2rad(45) * np.array(steps)
        circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        return Atoms("CH4", np.concatenate([np.zeros((1, 3)), circle]))

    descriptor = chebyshev(species=["H", "C"], angular_order=12, radial_order=12)
    one, other = (
        descriptor.compute(ring(steps)).features.values for steps in ((0, 1, 3, 4), (0, 1, 2, 5))
    )
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-12)
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    ("species", "weights"),
    [
        (["H", "C"], [-1, 1]),
        (["H", "C", "N"], [-1, 0, 1]),
        (["H", "C", "N", "O"], [-2, -1, 1, 2]),
        (["H", "C", "N", "O", "S"], [-2, -1, 0, 1, 2]),
    ],
)
def test_weights_are_dealt_out_by_atomic_number(species, weights):
    atoms = STRUCTURES["molecule"].copy()
    atoms.symbols = [species[i % len(species)] for i in range(len(atoms))]
    given = chebyshev(species=species, weights=dict(zip(species, weights, strict=True)))
    dealt_out = chebyshev(species=species[::-1])
    np.testing.assert_array_equal(
        dealt_out.compute(atoms).features.values, given.compute(atoms).features.values
    )


def test_species_with_the_same_weight_are_not_told_apart():
    atoms = STRUCTURES["crystal"]
    swapped = atoms.copy()
    swapped.symbols = ["Cl", "Na"]
    alike = chebyshev(species=["Na", "Cl"], weights={"Na": 2.0, "Cl": 2.0})
    different = chebyshev(species=["Na", "Cl"])
    same, other = alike.compute(atoms).features.values, alike.compute(swapped).features.values
    np.testing.assert_array_equal(same, other)
    same, other = (different.compute(a).features.values for a in (atoms, swapped))
    plain = ~different.labels().is_weighted.values
    np.testing.assert_array_equal(same[:, plain], other[:, plain])
    assert np.abs(same - other).max() > 0.01


def test_number_of_features_does_not_depend_on_the_number_of_species():
    sizes = [
        Chebyshev.preset("aenet", species=species).n_features
        for species in (["Ti"], ["Ti", "O"], ["Ti", "O", "Li", "Ni"])
    ]
    assert sizes == [22, 44, 44]


def test_labels_follow_the_order_of_aenet():
    labels = chebyshev(species=["Ti", "O"], radial_order=1, angular_order=0).labels()
    rows = list(
        zip(
            labels.function.values.tolist(),
            labels.order.values.tolist(),
            labels.is_weighted.values.tolist(),
            strict=True,
        )
    )
    block = [("radial", 0), ("radial", 1), ("angular", 0)]
    assert rows == [(*f, weighted) for weighted in (False, True) for f in block]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"species": ["Ti"], "weights": {"Ti": 1.0}}, "nothing is weighted"),
        ({"species": ["Ti", "O"], "weights": {"Ti": 1.0}}, "must name the species"),
        ({"species": ["Ti", "O"], "weights": {"Ti": 1.0, "O": float("nan")}}, "finite"),
        ({"species": ["Ti"], "cutoff_function": "step"}, "goes to zero"),
        ({"species": None}, "species"),
        ({"species": ["Ti"], "angular_order": -1}, "angular_order"),
    ],
)
def test_what_cannot_be_computed_is_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        chebyshev(**parameters)
