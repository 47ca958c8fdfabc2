"""Symmetry functions: their formulae, the numbers of DScribe, their parameters."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from atomlake.descriptors import SymmetryFunctions
from atomlake.kernels.symmetry_functions import _MOST_LOOKED_THROUGH
from atomlake.structures import Structures

G2 = [(0.05, 0.0), (4.0, 0.0), (1.0, 1.5), (0.5, 3.0)]
G3 = [0.5, 2.0]
ANGULAR = [
    (eta, zeta, lambda_) for eta in (0.005, 0.3) for zeta in (1, 2, 7) for lambda_ in (1, -1)
]


def structures():
    crystal = bulk("NaCl", "rocksalt", 5.64)
    alloy = bulk("Cu", cubic=True)
    alloy.symbols[:2] = "Al"
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    slab.symbols[0] = "O"
    result = {
        "molecule": molecule("CH3CONH2"),
        "crystal": crystal,
        "alloy": alloy,
        "slab": slab,
        "two atoms": molecule("CO"),
    }
    for seed, atoms in enumerate(result.values()):
        atoms.rattle(0.1, seed=seed)
    return result


STRUCTURES = structures()


def symbols(atoms):
    return tuple(sorted(set(atoms.symbols)))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("cutoff", [3.1, 6.0])
def test_equal_to_dscribe(name, cutoff):
    """The primitive crystal is 4 Å wide, so its cutoff of 6 Å reaches over several cells."""
    acsf = pytest.importorskip("dscribe.descriptors").ACSF
    atoms = STRUCTURES[name]
    oracle = acsf(
        r_cut=cutoff,
        g2_params=G2,
        g3_params=G3,
        g4_params=ANGULAR,
        g5_params=ANGULAR,
        species=symbols(atoms),
        periodic=bool(atoms.pbc.any()),
    )
    ours = SymmetryFunctions.preset(
        "dscribe", species=symbols(atoms), cutoff=cutoff, g2=G2, g3=G3, g4=ANGULAR, g5=ANGULAR
    )
    assert ours.n_features == oracle.get_number_of_features()
    # Rounding alone: both sum the same terms, of order one.
    np.testing.assert_allclose(
        ours.compute(atoms).features.values, oracle.create(atoms), rtol=1e-10, atol=1e-10
    )


class Reference:
    """The formulae as printed, one centre, one neighbour, one pair at a time."""

    def __init__(self, atoms, cutoff, cutoff_function, unit=1.0):
        self.cutoff, self.cutoff_function, self.unit = cutoff, cutoff_function, unit
        centre, self.neighbour, self.vector = neighbor_list("ijD", atoms, float(cutoff))
        self.rows = [np.flatnonzero(centre == i) for i in range(len(atoms))]
        self.z = atoms.numbers[self.neighbour]

    def fc(self, r):
        return self.cutoff_function(r / self.cutoff) if r < self.cutoff else 0.0

    def r(self, pair):
        return np.linalg.norm(self.vector[pair])

    def gaussian(self, eta, *distances):
        return math.exp(-eta * sum(d * d for d in distances) / self.unit**2)

    def radial(self, eta, r_s, weight):
        return np.array(
            [
                sum(
                    weight(self.z[j]) * self.gaussian(eta, self.r(j) - r_s) * self.fc(self.r(j))
                    for j in pairs
                )
                for pairs in self.rows
            ]
        )

    def angular(self, eta, zeta, lambda_, r_s, weight, closed=True):
        result = np.zeros(len(self.rows))
        for i, pairs in enumerate(self.rows):
            for j, k in combinations(pairs, 2):
                r_ij, r_ik = self.r(j), self.r(k)
                r_jk = np.linalg.norm(self.vector[j] - self.vector[k])
                cosine = np.clip(self.vector[j] @ self.vector[k] / (r_ij * r_ik), -1, 1)
                sides = (r_ij, r_ik, r_jk) if closed else (r_ij, r_ik)
                result[i] += (
                    weight(self.z[j], self.z[k])
                    * 2 ** (1 - zeta)
                    * (1 + lambda_ * cosine) ** zeta
                    * self.gaussian(eta, *(side - r_s for side in sides))
                    * math.prod(self.fc(side) for side in sides)
                )
        return result


def cosine(x):
    return 0.5 * (1 + math.cos(math.pi * x))


def of_features(dataset, **labels):
    """Columns whose labels have the given values."""
    chosen = np.ones(dataset.sizes["feature"], dtype=bool)
    for name, value in labels.items():
        chosen &= dataset[name].values == value
    return dataset.features.values[:, chosen]


@pytest.mark.parametrize("name", STRUCTURES)
def test_weighted_functions_are_the_printed_formulae(name):
    atoms = STRUCTURES[name]
    radial = [(0.1, 0.0), (2.0, 2.1)]
    angular = [(0.02, 1.0, 1.0, 0.0), (0.1, 3.0, -1.0, 1.2), (0.1, 1.5, 0.7, 2.0)]
    ours = SymmetryFunctions(cutoff=4.2, w2=radial, w4=angular, cutoff_function="poly2").compute(
        atoms
    )
    reference = Reference(atoms, 4.2, lambda x: ((15 - 6 * x) * x - 10) * x**3 + 1)
    expected = [reference.radial(*p, weight=lambda z: z) for p in radial]
    expected += [reference.angular(*p, weight=lambda z_1, z_2: z_1 * z_2) for p in angular]
    # Weights of up to 29² times a few hundred pairs, each rounded to 1e-16.
    np.testing.assert_allclose(ours.features.values, np.transpose(expected), rtol=1e-11, atol=1e-9)


def test_functions_of_species_are_the_printed_formulae():
    """With a shift in the angular functions, which DScribe does not have."""
    atoms = STRUCTURES["alloy"]
    functions = [(0.3, 2.0, -1.0, 1.1), (0.05, 4.0, 1.0, 0.0)]
    ours = SymmetryFunctions(species=["Cu", "Al"], cutoff=4.0, g4=functions, g5=functions)
    dataset = ours.compute(atoms)
    reference = Reference(atoms, 4.0, cosine)
    for (one, two), (name, closed), (eta, zeta, lambda_, r_s) in product(
        [(13, 13), (13, 29), (29, 29)], [("g4", True), ("g5", False)], functions
    ):
        expected = reference.angular(
            eta, zeta, lambda_, r_s, lambda *z, pair=(one, two): tuple(sorted(z)) == pair, closed
        )
        column = of_features(dataset, function=name, species_1=one, species_2=two, zeta=zeta)
        np.testing.assert_allclose(column[:, 0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", STRUCTURES)
def test_species_that_do_not_occur_change_nothing(name):
    """Neighbours are sorted in one way where there are few species, in another where many."""
    own = symbols(STRUCTURES[name])
    others = ("H", "Li", "Be", "B", "F", "Mg", "Si", "P", "Au", "U")
    assert len({*own, *others}) > _MOST_LOOKED_THROUGH
    options = {"cutoff": 4.0, "g1": True, "g2": G2, "g4": ANGULAR}
    few = SymmetryFunctions(species=own, **options).compute(STRUCTURES[name], ["positions"])
    many = SymmetryFunctions(species=tuple({*own, *others}), **options)
    many = many.compute(STRUCTURES[name], ["positions"])
    numbers = [0, *(atomic_numbers[symbol] for symbol in own)]
    is_own = np.isin(many.species_1, numbers) & np.isin(many.species_2, numbers)
    for quantity in ("features", "gradient_positions"):
        np.testing.assert_array_equal(many[quantity].values[..., is_own], few[quantity].values)
        assert not many[quantity].values[..., ~is_own].any()


def test_amp_counts_eta_in_units_of_the_cutoff():
    atoms = STRUCTURES["molecule"]
    ours = SymmetryFunctions.preset("amp", species=symbols(atoms))
    assert ours.cutoff == 6.5
    dataset = ours.compute(atoms)
    reference = Reference(atoms, 6.5, cosine, unit=6.5)
    for eta in np.logspace(np.log10(0.05), np.log10(5), 4):
        expected = reference.radial(eta, 0.0, lambda z: z == 1)
        column = dataset.features.values[
            :, (dataset.species_1 == 1) & np.isclose(dataset.eta, eta) & (dataset.function == "g2")
        ]
        np.testing.assert_allclose(column[:, 0], expected, rtol=1e-11)
    expected = reference.angular(0.005, 4.0, -1.0, 0.0, lambda *z: tuple(sorted(z)) == (1, 6))
    column = of_features(dataset, species_1=1, species_2=6, zeta=4.0, **{"lambda": -1.0})
    np.testing.assert_allclose(column[:, 0], expected, rtol=1e-11)


def test_an_atom_s_own_images_are_neighbours():
    """A cubic cell of 3 Å has six images within 4 Å: 3 pairs in line, 12 at a right angle."""
    atoms = Atoms("Fe", cell=[3.0, 3.0, 3.0], pbc=True)
    dataset = SymmetryFunctions(
        species=["Fe"], cutoff=4.0, g1=True, g5=[(0.0, 1.0, 1.0), (0.0, 1.0, -1.0)]
    ).compute(atoms)
    fc = cosine(3 / 4)
    np.testing.assert_allclose(
        dataset.features.values[0], [6 * fc, 12 * fc**2, (12 + 3 * 2) * fc**2], rtol=1e-13
    )


@pytest.mark.parametrize("zeta", [1.0, 1.5, 2.5, 300.0])
@pytest.mark.parametrize("lambda_", [1.0, -1.0])
def test_atoms_in_line_give_finite_numbers(zeta, lambda_):
    """Rounding takes their cosine past ±1, where powers that are not whole are undefined."""
    direction = np.array([0.3, 0.7, 0.645])
    atoms = Atoms("C5", positions=np.outer([-2.7, -1.4, 0.0, 1.3, 2.9], direction))
    function = [(0.01, zeta, lambda_)]
    dataset = SymmetryFunctions(species=["C"], cutoff=6.0, g4=function, g5=function, w4=function)
    dataset = dataset.compute(atoms, ["positions", "strain"])
    for name in ("features", "gradient_positions", "gradient_strain"):
        assert np.isfinite(dataset[name].values).all()


def test_cutoff_function_can_be_chosen():
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.2]])
    ours = SymmetryFunctions(species=["C", "O"], cutoff=3.0, g1=True, cutoff_function="tanh3")
    expected = math.tanh(1 - 1.2 / 3.0) ** 3
    np.testing.assert_allclose(of_features(ours.compute(atoms), species_1=8)[0], expected)


# ----- Parameters


def test_weighted_functions_take_any_species():
    ours = SymmetryFunctions.preset("gastegger_centred", cutoff=5.0)
    assert ours.species is None
    dataset = ours.compute([STRUCTURES["slab"], STRUCTURES["molecule"]])
    assert dataset.sizes["feature"] == ours.n_features == 32


def test_species_only_limit_what_weighted_functions_accept():
    atoms = STRUCTURES["molecule"]
    parameters = {"cutoff": 5.0, "w2": [(0.1, 0.0)], "w4": [(0.1, 1, 1)]}
    listed = SymmetryFunctions(species=symbols(atoms), **parameters)
    any_species = SymmetryFunctions(**parameters)
    np.testing.assert_array_equal(
        listed.compute(atoms).features.values, any_species.compute(atoms).features.values
    )
    assert listed.check(Structures.from_ase(STRUCTURES["slab"]))[0].code == "unknown_species"


def test_centred_grid():
    """η = 1/(2 r²) with r from 0.5 Å to the cutoff less 1 Å; no shift."""
    ours = SymmetryFunctions(cutoff=6.0, w2={"grid": "centred", "n": 4})
    for (eta, r_s), r in zip(ours.w2, [0.5, 2.0, 3.5, 5.0], strict=True):
        assert eta == pytest.approx(0.5 / r**2)
        assert r_s == 0


def test_shifted_grid_in_units_of_the_cutoff():
    """η = 1/(2 d²) with d the step."""
    ours = SymmetryFunctions(cutoff=6.0, eta_unit="cutoff", w2={"grid": "shifted", "n": 4})
    for (eta, r_s), r in zip(ours.w2, [0.5, 2.0, 3.5, 5.0], strict=True):
        assert eta == pytest.approx(0.5 / 1.5**2 * 6.0**2)
        assert r_s == pytest.approx(r)


def test_angular_grid_has_every_power():
    grid = {"grid": "centred", "n": 2, "first": 1.0, "last": 2.0, "zeta": [1, 4], "lambda": [-1]}
    ours = SymmetryFunctions(species=["H"], cutoff=6.0, g4=grid)
    assert [tuple(p) for p in ours.g4] == [
        (0.5, 1, -1, 0),
        (0.5, 4, -1, 0),
        (0.125, 1, -1, 0),
        (0.125, 4, -1, 0),
    ]


def test_a_grid_and_its_list_are_the_same_descriptor():
    grid = SymmetryFunctions(cutoff=5.0, w2={"grid": "shifted", "n": 3})
    listed = SymmetryFunctions(cutoff=5.0, w2=grid.parameters["w2"])
    assert listed == grid
    assert listed.descriptor_id == grid.descriptor_id


def test_presets_follow_the_cutoff():
    ours = SymmetryFunctions.preset("gastegger_shifted", cutoff=5.0)
    assert len(ours.w2) == 22
    assert len(ours.w4) == 10
    assert ours.w2[-1].r_s == pytest.approx(4.0)


def test_order_of_features():
    ours = SymmetryFunctions(
        species=["O", "H", "Ti"],
        cutoff=4.0,
        g1=True,
        g2=[(1, 0)],
        g3=[1],
        g4=[(1, 1, 1)],
        g5=[(1, 1, 1)],
        w2=[(1, 0)],
        w4=[(1, 1, 1)],
    )
    labels = ours.labels()
    rows = list(
        zip(labels.function.values, labels.species_1.values, labels.species_2.values, strict=True)
    )
    pairs = [(1, 1), (1, 8), (8, 8), (1, 22), (8, 22), (22, 22)]
    assert rows == [
        *((f, z, 0) for z in (1, 8, 22) for f in ("g1", "g2", "g3")),
        *((f, *pair) for pair in pairs for f in ("g4", "g5")),
        ("w2", 0, 0),
        ("w4", 0, 0),
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"species": ["H"]}, "no function to compute"),
        ({"g2": [(1, 0)]}, "species must be listed"),
        ({"w2": [(-1, 0)]}, "greater than or equal to 0"),
        ({"w4": [(1, 0.5, 1)]}, "greater than or equal to 1"),
        ({"w4": [(1, 1, 2)]}, "less than or equal to 1"),
        ({"w2": [(1, 0)], "cutoff": 0}, "greater than 0"),
        ({"w2": [(1, math.inf)]}, "finite"),
        ({"w2": [(1, 0)], "cutoff_function": "step"}, "goes to zero"),
        ({"w2": {"grid": "centred", "n": 3}, "cutoff": 1.2}, "not beyond"),
        ({"w2": {"grid": "centred", "n": 3, "zeta": [1]}}, "zeta"),
        ({"w2": {"grid": "square", "n": 3}}, "centred"),
        ({"w2": [(1, 0)], "average": "inner"}, "no 'inner' average"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        SymmetryFunctions(**{"cutoff": 4.0, **parameters})
