"""Pairs of environments that correlations of low order cannot tell apart, and higher ones can.

Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020).
"""

import re

import numpy as np
import pytest
from ase import Atoms

from atomlake import descriptors
from atomlake.descriptors import Ace, Bispectrum, LambdaSoap, Soap

#: Rounding, relative to the largest feature.
EQUAL = 1e-12


def same_pairs():
    """Two environments with the same distances and angles; the centre is atom 0."""
    for steps in ([0, 1, 3, 4], [0, 1, 2, 5]):
        angles = np.radians(45) * np.array(steps)
        ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(4)], axis=1)
        yield Atoms("CH4", positions=[[0, 0, 0], *ring])


def same_triples():
    """Two environments with the same tetrahedra of the centre, atom 0, and three neighbours."""
    angles = np.array([0.1, 1.7, 3.4])

    def ring(rotation, z):
        x, y = 1.6 * np.cos(angles + rotation), 1.6 * np.sin(angles + rotation)
        return np.stack([x, y, np.full(3, z)], axis=1)

    for apex in (1.3, -1.3):
        yield Atoms("B8", positions=[[0, 0, 0], *ring(0, 0.7), *ring(0.9, -0.7), [0, 0, apex]])


def invariants_of_order(n_bodies):
    """Examples of all registered descriptors of environments up to a body order."""
    for name in descriptors.names():
        for i, example in enumerate(descriptors.get(name).examples(("H", "B", "C"))):
            is_invariant = example.n_components == 1 and example.per == "atom"
            if is_invariant and max(re.findall(r"\b\d\b", example.body_order)) <= str(n_bodies):
                yield pytest.param(example, id=f"{name}-{i}")


def difference(descriptor, pair):
    """Of the features of the two centres, relative to the largest."""
    descriptor = type(descriptor).model_validate({**descriptor.parameters, "dtype": "float64"})
    first, second = (descriptor.compute(atoms).features.values[0] for atoms in pair)
    return np.abs(first - second).max() / np.abs(first).max()


@pytest.mark.parametrize("descriptor", list(invariants_of_order(3)))
def test_three_bodies_do_not_tell_apart_the_same_angles(descriptor):
    assert difference(descriptor, same_pairs()) < EQUAL


@pytest.mark.parametrize("descriptor", list(invariants_of_order(4)))
def test_four_bodies_do_not_tell_apart_the_same_tetrahedra(descriptor):
    assert difference(descriptor, same_triples()) < EQUAL


SMALL = {"species": ("H", "B", "C"), "cutoff": 4.0, "n_max": 1, "l_max": 4}


@pytest.mark.parametrize(
    "descriptor",
    [
        Soap(**SMALL),
        LambdaSoap(**SMALL, degree=0),
        Ace(**SMALL, n_limits=(1, 1), l_limits=(0, 4)),
    ],
    ids=lambda descriptor: descriptor.kind,
)
def test_two_factors_do_not_suffice(descriptor):
    assert difference(descriptor, same_pairs()) < EQUAL
    assert difference(descriptor, same_triples()) < EQUAL


@pytest.mark.parametrize(
    "descriptor",
    [Bispectrum(**SMALL), Ace(**SMALL, n_limits=(1, 1, 1), l_limits=(0, 4, 4))],
    ids=lambda descriptor: descriptor.kind,
)
def test_three_factors_tell_apart_the_same_angles_but_not_the_same_tetrahedra(descriptor):
    assert difference(descriptor, same_pairs()) > 1e-3
    both = type(descriptor).model_validate({**descriptor.parameters, "parity": "both"})
    assert difference(both, same_triples()) < EQUAL


@pytest.mark.parametrize("parity", ["proper", "pseudo"])
def test_four_factors_tell_apart_the_same_tetrahedra(parity):
    ace = Ace(**SMALL, n_limits=(1, 1, 1, 1), l_limits=(0, 4, 4, 4), parity=parity)
    assert difference(ace, same_triples()) > 1e-4
