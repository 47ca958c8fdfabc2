"""MBTR and LMBTR against DScribe: features, gradients, the order of columns."""

import json

import environments
import numpy as np
import pytest

from atomlake.descriptors.mbtr import Lmbtr, Mbtr
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

REFERENCE = json.loads((environments.HERE / "dscribe_mbtr.json").read_text())
#: The reference is rounded to twelve digits, which is 5e-12 of numbers just above a power of ten.
TOLERANCE = 1e-11
#: DScribe takes the arccosine, which turns rounding of a cosine near -1 into 1e-8 rad: an atom
#: lies on a line with its own periodic images.
ANGLE_TOLERANCE = 1e-7
#: DScribe's LMBTR needs no cutoff for molecules.
LONGER_THAN_THE_MOLECULE = 8.0


def cases(reference):
    result = []
    for name, entry in reference.items():
        for case in entry["cases"]:
            parameters = case["parameters"]
            label = "-".join(
                [
                    name,
                    case["kind"],
                    parameters["geometry"]["function"],
                    parameters["weighting"]["function"],
                    parameters["normalization"],
                ]
            )
            result.append(pytest.param(entry, case, id=label))
    return result


def structure(entry):
    return Structures.single(entry["numbers"], entry["positions"], entry["cell"], entry["pbc"])


def descriptor(case):
    """Ours, from the parameters that DScribe was given."""
    given = case["parameters"]
    weighting = dict(given["weighting"])
    if "r_cut" in weighting:
        weighting["cutoff"] = weighting.pop("r_cut")
    if case["kind"] == "LMBTR" and weighting["function"] == "unity":
        weighting["cutoff"] = LONGER_THAN_THE_MOLECULE
    grid = given["grid"]
    return {"MBTR": Mbtr, "LMBTR": Lmbtr}[case["kind"]](
        species=given["species"],
        terms=[
            {
                "geometry": given["geometry"]["function"],
                "grid": {
                    "start": grid["min"],
                    "stop": grid["max"],
                    "n_bins": grid["n"],
                    "sigma": grid["sigma"],
                },
                "weighting": weighting,
            }
        ],
        normalisation=given["normalization"],
        normalise_gaussians=given["normalize_gaussians"],
    )


def columns(ours, case):
    """Column of DScribe for each of our features, found by its species."""
    labels = ours.labels()
    species = np.stack([labels[f"species_{place}"].values for place in (1, 2, 3)], axis=1)
    n_bins = case["parameters"]["grid"]["n"]
    result = []
    for f, numbers in enumerate(species.tolist()):
        symbols = " ".join(CHEMICAL_SYMBOLS[z] for z in numbers if z >= 0)
        result.append(case["first_columns"][symbols] + f % n_bins)
    return np.array(result)


def assert_equal_to_dscribe(entry, case):
    ours = descriptor(case)
    result = ours.compute(structure(entry), ["positions"])
    expected = np.atleast_2d(case["features"])
    # Of a row of zeros DScribe makes NaN where it divides by its norm.
    expected = np.nan_to_num(expected)
    ordered = columns(ours, case)
    assert (np.diff(ordered) > 0).all()
    others = np.setdiff1d(np.arange(expected.shape[1]), ordered)
    assert not expected[:, others].any()
    assert (len(others) == 0) == (case["kind"] == "MBTR")
    is_angle = case["parameters"]["geometry"]["function"] == "angle"
    tolerance = (ANGLE_TOLERANCE if is_angle else TOLERANCE) * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(result.features.values, expected[:, ordered], rtol=0, atol=tolerance)
    if "gradients" in case:
        gradients = np.array(case["gradients"])
        tolerance = TOLERANCE * max(1.0, np.abs(gradients).max())
        np.testing.assert_allclose(
            result.gradient_positions.values, gradients, rtol=0, atol=tolerance
        )


@pytest.mark.parametrize(("entry", "case"), cases(REFERENCE))
def test_equal_to_dscribe(entry, case):
    assert_equal_to_dscribe(entry, case)


@pytest.mark.slow
def test_equal_to_dscribe_with_every_combination_of_options(tmp_path):
    environments.write_reference("dscribe_mbtr", tmp_path / "all.json", "all")
    for parameter in cases(json.loads((tmp_path / "all.json").read_text())):
        assert_equal_to_dscribe(*parameter.values)
