"""Bispectra on the 3-sphere against LAMMPS and AMP, and what they can tell apart."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from atomlake.descriptors.so4_bispectrum import AmpBispectrum, Snap
from atomlake.kernels.so4 import CHUNK
from atomlake.kernels.so4_couplings import clebsch_gordan
from atomlake.structures import Structures

ORACLES = Path(__file__).parents[1] / "oracles"
LAMMPS = json.loads((ORACLES / "lammps_snap.json").read_text())
AMP = json.loads((ORACLES / "amp_bispectrum.json").read_text())

#: The references are right to 13 digits of their largest numbers, and so are the kernels.
TOLERANCE = 2e-12


def assert_close(actual, expected, tolerance=TOLERANCE):
    """Compare relative to the largest number."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def alloy():
    return Structures.single(LAMMPS["numbers"], LAMMPS["positions"], LAMMPS["cell"], True)


def cases_with(array):
    return [name for name, case in LAMMPS["cases"].items() if array in case]


def computed(name, gradients=(), rows="pairs"):
    snap = Snap(species=("Be", "W"), **LAMMPS["cases"][name]["parameters"])
    return snap.compute(alloy(), gradients, rows=rows)


# ----- Oracles


@pytest.mark.parametrize("name", LAMMPS["cases"])
def test_features_of_lammps(name):
    assert_close(computed(name).features.values, LAMMPS["cases"][name]["features"])


@pytest.mark.parametrize("name", cases_with("gradients"))
def test_gradients_of_lammps(name):
    result = computed(name, ["positions"])
    n = result.sizes["atom"]
    centre = np.repeat(np.arange(n), np.diff(result.pair_offsets.values))
    gradients = np.zeros((n, n, *result.gradient_positions.shape[1:]))
    np.add.at(gradients, (centre, result.neighbour_index.values), result.gradient_positions.values)
    np.subtract.at(gradients, (centre, centre), result.gradient_positions.values)
    assert_close(-gradients, LAMMPS["cases"][name]["gradients"])


@pytest.mark.parametrize("name", cases_with("summed"))
def test_summed_gradients_of_lammps(name):
    result = computed(name, ["positions"], rows="summed")
    assert_close(-result.gradient_positions.values, LAMMPS["cases"][name]["summed"])


@pytest.mark.parametrize("name", cases_with("strain"))
def test_virial_of_lammps(name):
    result = computed(name, ["strain"], rows="summed")
    total = result.gradient_strain.values.reshape(alloy().n_atoms, 3, 3, -1)
    voigt = total[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    by_type = [voigt[alloy().numbers == z].sum(axis=0) for z in (4, 74)]
    assert_close(-np.array(by_type), LAMMPS["cases"][name]["strain"])


@pytest.mark.parametrize("case", AMP.values(), ids=AMP)
def test_features_of_amp(case):
    structure = Structures.single(*(case[key] for key in ("numbers", "positions", "cell", "pbc")))
    species = (
        None if case["parameters"]["weights"] is None else tuple(case["parameters"]["weights"])
    )
    amp = AmpBispectrum(species=species, **case["parameters"])
    # AMP sums Wigner functions over four nested loops of complex exponentials.
    assert_close(amp.compute(structure).features.values, case["features"], 1e-11)


# ----- Couplings


@pytest.mark.parametrize(("j1", "j2"), [(1, 1), (4, 3), (7, 7), (20, 13)])
def test_clebsch_gordan_coefficients_are_orthonormal(j1, j2):
    """The matrix from products of two bases to all coupled ones is orthogonal."""
    rows = []
    for j in range(abs(j1 - j2), j1 + j2 + 1, 2):
        table = clebsch_gordan(j1, j2, j)
        for m in range(j + 1):
            row = np.zeros((j1 + 1, j2 + 1))
            for m1 in range(j1 + 1):
                m2 = m + (j1 + j2 - j) // 2 - m1
                if 0 <= m2 <= j2:
                    row[m1, m2] = table[m, m1]
                else:
                    assert table[m, m1] == 0
            rows.append(row.ravel())
    np.testing.assert_allclose(np.array(rows) @ np.array(rows).T, np.eye(len(rows)), atol=1e-13)


def test_more_neighbours_than_are_contracted_together():
    rng = np.random.default_rng(4)
    points = rng.normal(size=(2 * CHUNK + 5, 3))
    points *= (rng.uniform(1.5, 3.9, len(points)) / np.linalg.norm(points, axis=1))[:, None]
    numbers = [74] + [74, 4, 4] * (len(points) // 3)
    positions = np.concatenate([np.zeros((1, 3)), points])[: len(numbers)]
    snap = Snap(species=("Be", "W"), rcutfac=4.0, twojmax=3, chemflag=True)

    def cluster(stretch):
        return Structures.single(numbers, positions * [1.0, 1.0, 1.0 + stretch])

    strain = snap.compute(cluster(0.0), ["strain"]).gradient_strain.values[0, 2, 2]
    step = 1e-5
    up, down = (snap.compute(cluster(s)).features.values[0] for s in (step, -step))
    # Differences are right to step² and to rounding over step.
    assert_close((up - down) / (2 * step), strain, 1e-8)


# ----- Sizes and labels


@pytest.mark.parametrize(
    ("parameters", "n"),
    [
        ({"twojmax": 0}, 1),
        ({"twojmax": 1}, 2),
        ({"twojmax": 6}, 30),
        ({"twojmax": 8}, 55),
        ({"twojmax": 6, "chemflag": True}, 240),
        ({"twojmax": 8, "quadraticflag": True}, 1595),
    ],
)
def test_number_of_components(parameters, n):
    snap = Snap(species=("Be", "W"), **parameters)
    assert snap.n_features == n == snap.labels().sizes["feature"]


def test_labels_follow_the_order_of_lammps():
    labels = Snap(twojmax=2).labels()
    triples = zip(
        *(labels[f"twice_j{name}"].values.tolist() for name in ("1", "2", "")), strict=True
    )
    assert list(triples) == [(0, 0, 0), (1, 0, 1), (1, 1, 2), (2, 0, 2), (2, 2, 2)]
    labels = Snap(species=("W", "Be"), twojmax=0, chemflag=True).labels()
    assert labels.species.values.tolist() == [4, 74] * 4
    assert labels.species_1.values.tolist() == [4] * 4 + [74] * 4


def test_labels_of_products_name_their_factors():
    snap = Snap(twojmax=2, rcutfac=4.0, quadraticflag=True)
    labels, (values, *_) = snap.labels(), snap.compute(alloy()).features.values
    for f in range(5, snap.n_features):
        a, b = int(labels.factor_1[f]), int(labels.factor_2[f])
        assert values[f] == pytest.approx(values[a] * values[b] * (0.5 if a == b else 1.0))
        assert labels.twice_j[f] == -1


def test_number_of_amp_components():
    # AMP counts j1 = 0, ½, ..., jmax and integers j up to the smaller of 2 j1 and jmax.
    assert AmpBispectrum(jmax=5.0).n_features == 51
    assert AmpBispectrum.preset("amp").cutoff == 6.5
    assert AmpBispectrum(jmax=1.5).labels().twice_j.values.tolist() == [0, 0, 2, 0, 2, 0, 2]


# ----- What the parameters mean


def test_an_isolated_atom_has_zeros_unless_its_own_components_are_kept():
    atom = Structures.single([74], [[0.0, 0.0, 0.0]])
    for flags in ({}, {"bnormflag": True}, {"chemflag": True}, {"quadraticflag": True}):
        snap = Snap(species=("Be", "W"), twojmax=4, **flags)
        assert np.abs(snap.compute(atom).features.values).max() < 1e-13
    kept = Snap(twojmax=4, bzeroflag=False)
    twice_j = kept.labels().twice_j.values
    np.testing.assert_allclose(kept.compute(atom).features.values[0], twice_j + 1, rtol=1e-13)


def test_each_pair_counts_up_to_a_cutoff_of_its_own():
    snap = Snap(
        species=("Be", "W"), rcutfac=5.0, radii={"Be": 0.3, "W": 0.5}, twojmax=4, quadraticflag=True
    )
    assert snap.cutoff == pytest.approx(5.0)
    for numbers, cutoff in (([4, 4], 3.0), ([4, 74], 4.0), ([74, 74], 5.0)):
        for distance, counts in ((cutoff - 0.01, True), (cutoff + 0.01, False)):
            pair = Structures.single(numbers, [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])
            result = snap.compute(pair, ["positions"])
            for array in (result.features, result.gradient_positions):
                assert (np.abs(array.values).max(initial=0.0) > 1e-12) == counts


def test_features_are_continuous_where_a_neighbour_comes_closer_than_rmin0():
    snap = Snap(rcutfac=4.0, rmin0=1.5, twojmax=5)

    def at(distance):
        return snap.compute(
            Structures.single([1, 1, 1], [[0, 0, 0], [distance, 0, 0], [0, 2.1, 0.3]])
        ).features.values

    assert_close(at(1.5 - 1e-9), at(1.5 + 1e-9), 1e-8)
    assert_close(at(0.2 - 1e-9), at(0.2 + 1e-9), 1e-8)


def test_the_preset_of_lammps_is_its_default():
    assert Snap.preset("lammps", twojmax=4) == Snap(twojmax=4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"chemflag": True}, "species must be listed"),
        ({"radii": {"W": 0.5}}, r"radii must have one number for each .* \['W'\]"),
        ({"species": ("W", "Be"), "weights": {"W": 0.5}}, "weights must have one number"),
        ({"wselfallflag": True}, "only means something with chemflag"),
        ({"switchinnerflag": True}, "needs both sinner and dinner"),
        ({"species": ("W",), "sinner": {"W": 1.0}, "dinner": {"W": 0.2}}, "needs both"),
        ({"rmin0": 6.0}, "below the smallest cutoff, 5.0 Å"),
        ({"twojmax": 21}, "twojmax"),
        (
            {"species": ("H", "C", "N", "O"), "chemflag": True, "quadraticflag": True},
            r"1,846,080 features \(14.8 MB per atom\).*weights",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        Snap(**parameters)


def test_amp_refuses_half_of_a_half_and_a_step():
    with pytest.raises(ValidationError, match="jmax"):
        AmpBispectrum(jmax=1.25)
    with pytest.raises(ValidationError, match="infinite slope"):
        AmpBispectrum(cutoff_function="step")
    with pytest.raises(ValidationError, match="every pair of the species"):
        AmpBispectrum(species=("H", "O"), weights={"H": {"H": 1.0, "O": 2.0}})


# ----- What correlations of three neighbours tell apart

DESCRIPTORS = [Snap(rcutfac=4.0, twojmax=8), AmpBispectrum(cutoff=4.0, jmax=4.0)]


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=lambda d: d.kind)
def test_tells_apart_what_pairs_of_neighbours_do_not(descriptor):
    """Four neighbours on a circle with the same distances among each other, and to the centre."""
    first, second = (
        ring(1.0, np.pi / 4 * np.array(steps), 0.0) for steps in ([0, 1, 3, 4], [0, 1, 2, 5])
    )
    a, b = (centre(descriptor, [6, 1, 1, 1, 1], [[[0, 0, 0]], r]) for r in (first, second))
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=lambda d: d.kind)
def test_cannot_tell_apart_what_only_four_neighbours_do(descriptor):
    """Two rings and an apex on one side or the other."""
    angles = np.array([0.1, 1.7, 3.4])
    rings = [[[0, 0, 0]], ring(1.6, angles, 0.7), ring(1.6, angles + 0.9, -0.7)]
    a, b = (centre(descriptor, [5] * 8, [*rings, [[0, 0, z]]]) for z in (1.3, -1.3))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(a).max())


def ring(radius, angles, height):
    return np.stack(
        [radius * np.cos(angles), radius * np.sin(angles), np.full(len(angles), height)], axis=1
    )


def centre(descriptor, numbers, positions):
    structure = Structures.single(numbers, np.concatenate(positions))
    return descriptor.compute(structure).features.values[0]
