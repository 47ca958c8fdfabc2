"""Products of expansion coefficients: couplings, featomic's numbers, independence, labels."""

import warnings
from itertools import combinations_with_replacement, groupby

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from pydantic import ValidationError

from atomlake.descriptors import Ace, Bispectrum, LambdaSoap, Soap
from atomlake.descriptors.couplings import (
    clebsch_gordan,
    n_trees,
    rotation_generators,
    trees,
)

SPECIES = ("H", "C", "N", "O")
#: featomic's numbers are compared relative to the largest; its radial integrals are not
#: splined, and sums of a few hundred terms differ by rounding.
ROUNDING = 1e-11
EXPANSION = {"cutoff": 4.2, "n_max": 2, "l_max": 2, "sigma": 0.4, "radial_basis": "gto_monomial"}


def shaken_molecule():
    atoms = molecule("CH3CONH2")
    atoms.rattle(0.1, seed=1)
    return atoms


ATOMS = shaken_molecule()


def factors(dataset, n_factors):
    """For each feature its factors (l, species, n), ascending."""
    columns = np.stack(
        [
            [dataset[f"{name}_{k + 1}"].values for name in ("l", "species", "n")]
            for k in range(n_factors)
        ]
    )
    return [tuple(map(tuple, feature.tolist())) for feature in np.moveaxis(columns, -1, 0)]


# ----- Couplings


@pytest.mark.parametrize("degrees", [(0, 2, 2), (1, 1, 1), (2, 3, 4), (6, 6, 6), (8, 5, 7)])
def test_clebsch_gordan_coefficients_are_orthonormal(degrees):
    c = clebsch_gordan(*degrees)
    overlap = np.einsum("abc,abd->cd", c, c)
    np.testing.assert_allclose(overlap, np.eye(2 * degrees[2] + 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("degrees", [(1, 1, 2), (1, 2, 2), (2, 3, 4), (4, 4, 3)])
def test_clebsch_gordan_coefficients_commute_with_rotations(degrees):
    """Rotating both factors is rotating the result: the same for infinitesimal rotations."""
    c = clebsch_gordan(*degrees)
    g1, g2, g3 = (rotation_generators(l) for l in degrees)
    both = np.einsum("gax,abc->gxbc", g1, c) + np.einsum("gbx,abc->gaxc", g2, c)
    np.testing.assert_allclose(both, np.einsum("gcx,abx->gabc", g3, c), rtol=0, atol=1e-13)


def test_as_many_couplings_are_kept_as_the_rotation_group_has():
    """By characters, which need no coefficients and no threshold."""
    n_pruned = 0
    for degrees in combinations_with_replacement(range(5), 4):
        runs = tuple(len(list(run)) for _, run in groupby(degrees))
        for groups in {(1, 1, 1, 1), runs}:
            n = n_trees(degrees, groups, 0)
            assert len(trees(degrees, groups, 0)) == n, (degrees, groups)
            n_pruned += n_trees(degrees, (1, 1, 1, 1), 0) - n
    assert n_pruned > 0


# ----- featomic


@pytest.fixture(scope="module")
def featomic():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("featomic")
        from featomic import SphericalExpansion, clebsch_gordan

    expansion = SphericalExpansion(
        cutoff={"radius": 4.2, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": 0.4},
        basis={
            "type": "TensorProduct",
            "max_angular": 2,
            "radial": {"type": "Gto", "max_radial": 1},
            "spline_accuracy": None,
        },
    )
    return expansion, clebsch_gordan


def in_order_of_atoms(block):
    return block.values[np.argsort(block.samples["atom"])]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_lambda_soap_is_that_of_featomic(featomic, degree):
    expansion, module = featomic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = module.EquivariantPowerSpectrum(expansion).compute(
            ATOMS, neighbors_to_properties=True
        )
    oracle = oracle.keys_to_samples("center_type")
    result = LambdaSoap.preset("featomic", species=SPECIES, degree=degree, **EXPANSION)
    result = result.compute(ATOMS)
    values = result.features.values.reshape(len(ATOMS), 2 * degree + 1, -1)
    place = {key: i for i, key in enumerate(factors(result, 2))}
    n_compared = 0
    for sign in (1, -1):
        if (degree, sign) not in [(int(k[0]), int(k[1])) for k in oracle.keys]:
            continue
        block = oracle.block({"o3_lambda": degree, "o3_sigma": sign})
        expected = in_order_of_atoms(block)
        names = ("l_1", "neighbor_1_type", "n_1", "l_2", "neighbor_2_type", "n_2")
        for f, key in enumerate(zip(*(block.properties[name] for name in names), strict=True)):
            first, second = tuple(map(int, key[:3])), tuple(map(int, key[3:]))
            ordered = tuple(sorted((first, second)))
            # The coupling of l_2 with l_1 is that of l_1 with l_2, times the parity.
            swap = sign if ordered != (first, second) else 1
            if ordered not in place:
                assert first == second
                assert np.abs(expected[..., f]).max() < 1e-15
                continue
            i = place[ordered]
            assert result.parity.values[i] == sign
            np.testing.assert_allclose(
                swap * values[..., i],
                expected[..., f],
                rtol=0,
                atol=ROUNDING * np.abs(values).max(),
            )
            n_compared += 1
    assert n_compared >= result.sizes["feature"]


def density_correlations(featomic, n_factors, atoms):
    """Invariants of featomic, by (sign, degrees, intermediate) and (species, n) of all factors."""
    expansion, module = featomic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = expansion.compute(atoms)
        density = density.keys_to_samples("center_type").keys_to_properties("neighbor_type")
        calculator = module.DensityCorrelations(
            n_correlations=n_factors - 1, max_angular=2 * n_factors, skip_redundant=False
        )
        return calculator.compute(density)


def test_bispectrum_is_that_of_featomic(featomic):
    oracle = density_correlations(featomic, 3, ATOMS)
    result = Bispectrum(species=SPECIES, parity="both", **EXPANSION).compute(ATOMS)
    values = result.features.values
    place = {key: i for i, key in enumerate(factors(result, 3))}
    seen = set()
    for key, block in oracle.items():
        if key["o3_lambda"] != 0:
            continue
        expected = in_order_of_atoms(block)[:, 0]
        degrees = [int(key[f"l_{k}"]) for k in (1, 2, 3)]
        names = [f"{name}_{k}{end}" for k in (1, 2, 3) for name, end in _NAMES]
        columns = [block.properties[name] for name in names]
        for f, labels in enumerate(np.stack(columns, axis=1).tolist()):
            product = tuple((l, *labels[2 * k : 2 * k + 2]) for k, l in enumerate(degrees))
            i = place.get(tuple(sorted(product)))
            if i is None or product != tuple(sorted(product)):
                continue
            assert result.parity.values[i] == key["o3_sigma"]
            weight = {1: 1, 2: 3, 3: 6}[len(set(product))] ** -0.5
            np.testing.assert_allclose(
                weight * values[:, i],
                expected[:, f],
                rtol=0,
                atol=ROUNDING * np.abs(values).max(),
            )
            seen.add(i)
    assert len(seen) == len(place)


_NAMES = (("neighbor", "_type"), ("n", ""))


@pytest.mark.parametrize("sign", [1, -1])
def test_four_factors_span_what_those_of_featomic_do(featomic, sign):
    rng = np.random.default_rng(5)
    clusters = [Atoms("C8", positions=rng.uniform(-2, 2, (8, 3))) for _ in range(25)]
    oracle = density_correlations(featomic, 4, clusters)
    expected = np.hstack(
        [
            block.values[:, 0]
            for key, block in oracle.items()
            if key["o3_lambda"] == 0 and key["o3_sigma"] == sign
        ]
    )
    ace = Ace(
        species=("C",),
        **EXPANSION,
        cutoff_function={"function": "shifted_cosine"},
        centre_weight=1.0,
        n_limits=(1, 1, 1, 2),
        l_limits=(0, 0, 0, 2),
        parity="proper" if sign == 1 else "pseudo",
    )
    result = ace.compute(clusters)
    actual = result.features.values[:, result.correlation_order.values == 4]
    # No feature depends on the others, and together they give all of featomic's.
    actual = actual / np.linalg.norm(actual, axis=0)
    singular = np.linalg.svd(actual, compute_uv=False)
    assert actual.shape[1] < len(actual)
    assert singular[-1] > 1e-9 * singular[0]
    solution, *_ = np.linalg.lstsq(actual, expected, rcond=1e-13)
    error = np.abs(actual @ solution - expected).max()
    assert error < 1e-8 * np.abs(expected).max()
    assert np.linalg.matrix_rank(expected / np.abs(expected).max(), tol=1e-11) <= actual.shape[1]


# ----- Among ourselves


@pytest.mark.parametrize("average", ["none", "inner"])
def test_degree_zero_is_the_power_spectrum(average):
    parameters = {"species": SPECIES, "cutoff": 4.2, "n_max": 3, "l_max": 3, "average": average}
    soap = Soap.preset("featomic", layout="triangle", **parameters)
    zero = LambdaSoap.preset("featomic", degree=0, scale_off_diagonal=True, **parameters)
    gradients = ["positions", "strain"] if average == "inner" else []
    expected, actual = soap.compute(ATOMS, gradients), zero.compute(ATOMS, gradients)
    expected = expected.assign_coords(l_1=expected.l, l_2=expected.l)
    place = {tuple(sorted(key)): i for i, key in enumerate(factors(expected, 2))}
    order = [place[key] for key in factors(actual, 2)]
    assert sorted(order) == list(range(soap.n_features))
    for name in ("features", *(f"gradient_{by}" for by in gradients)):
        # Gradients are sums of a hundred terms of the size of 1, in another order.
        np.testing.assert_allclose(
            actual[name].values, expected[name].values[..., order], rtol=0, atol=1e-14
        )


@pytest.mark.parametrize("average", ["none", "inner"])
def test_ace_holds_the_lower_orders(average):
    """Products of two and three are those of λ-SOAP and of the bispectrum, without weights."""
    parameters = {"species": SPECIES, "cutoff": 4.2, "n_max": 2, "l_max": 2, "sigma": 0.4}
    parameters |= {"radial_basis": "gto", "cutoff_function": {"function": "cosine"}}
    parameters |= {"average": average}
    ace = Ace(
        **parameters, n_limits=(2, 2, 2), l_limits=(0, 2, 2), centre_weight=1.0, parity="both"
    ).compute(ATOMS)
    for n_factors, other in (
        (2, LambdaSoap(**parameters, degree=0)),
        (3, Bispectrum(**parameters, parity="both")),
    ):
        expected = other.compute(ATOMS)
        is_of_order = ace.correlation_order.values == n_factors
        keys = factors(expected, n_factors)
        of_ace = [
            key[:n_factors] for key, kept in zip(factors(ace, 3), is_of_order, strict=True) if kept
        ]
        assert of_ace == keys
        n_equal = {1: 1, 2: {2: 2, 3: 3}[n_factors], 3: 6}
        weights = np.array([n_equal[len(set(key))] ** 0.5 for key in keys])
        np.testing.assert_allclose(
            ace.features.values[:, is_of_order] * weights,
            expected.features.values,
            rtol=1e-12,
            atol=1e-15,
        )


@pytest.mark.parametrize(
    "descriptor",
    [
        LambdaSoap(species=SPECIES, **EXPANSION, degree=2, centre_weight=0.0, average="inner"),
        Bispectrum(species=SPECIES, **EXPANSION, centre_weight=0.0, average="inner"),
        Ace(species=SPECIES, n_limits=(2, 2, 1, 1), l_limits=(0, 2, 2, 1), average="inner"),
    ],
    ids=lambda descriptor: descriptor.kind,
)
def test_atoms_without_neighbours_dilute_the_inner_average(descriptor):
    """The mean density falls with their share, and products of ν factors with its power ν."""
    n_alone = 3
    alone = Atoms("CHO", positions=[[50.0 * (i + 1), 0, 0] for i in range(n_alone)])
    share = len(ATOMS) / (len(ATOMS) + n_alone)
    pure, diluted = descriptor.compute(ATOMS), descriptor.compute(ATOMS + alone)
    highest = max(order.n_factors for order in descriptor.orders)
    orders = pure.correlation_order.values if "correlation_order" in pure else highest
    np.testing.assert_allclose(
        diluted.features.values, share**orders * pure.features.values, rtol=1e-11, atol=1e-15
    )


def test_too_many_features_are_counted_without_a_list_and_refused():
    with pytest.raises(ValidationError, match="13,300,380 numbers"):
        Bispectrum(species=("H", "C", "N", "O", "S"), n_max=12, l_max=8, parity="both")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_limits": (1, 1), "l_limits": (0,)}, "one number for each order"),
        ({"n_limits": (9,), "l_limits": (0,)}, "raise n_max"),
        ({"n_limits": (1,), "l_limits": (9,)}, "raise l_max"),
        ({"n_limits": (1,), "l_limits": (0,), "parity": "pseudo"}, "keep the other parity"),
    ],
)
def test_limits_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        Ace(species=("H",), **parameters)
