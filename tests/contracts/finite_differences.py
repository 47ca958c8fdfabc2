"""Derivatives of a descriptor's features from its values alone."""

import numpy as np

from atomlake.structures import Structures

#: Distance in Å, and strain, of one step. Two steps to each side give derivatives with an error
#: of step⁴/30 times the fifth derivative, which is nothing, and of 1e-16/step, 1e-12, times the
#: value. A larger step would more often take a pair across the cutoff, where second derivatives
#: may jump.
STEP = 1e-4
WEIGHTS = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}


def _derivatives(descriptor, variants, n_derivatives):
    """Combine the features of ``n_derivatives · 4`` structures, in the order of WEIGHTS."""
    features = descriptor.compute(Structures.concatenate(variants)).features.values
    stencil = features.reshape(n_derivatives, len(WEIGHTS), -1, *features.shape[1:])
    return np.einsum("w,dw...->d...", np.array(list(WEIGHTS.values())), stencil) / STEP


def by_positions(descriptor, structure):
    """Return derivatives of every row by every atom, shape (n_atoms, 3, n_rows, ...).

    An atom moves together with all its periodic images.
    """
    variants = []
    for atom in range(structure.n_atoms):
        for axis in range(3):
            for steps in WEIGHTS:
                positions = structure.positions.copy()
                positions[atom, axis] += steps * STEP
                variants.append(with_geometry(structure, positions, structure.cells))
    result = _derivatives(descriptor, variants, 3 * structure.n_atoms)
    return result.reshape(structure.n_atoms, 3, *result.shape[1:])


def by_strain(descriptor, structure):
    """Return derivatives of every row by strain, shape (3, 3, n_rows, ...).

    Strain takes r to (1 + strain) r.
    """
    variants = []
    for a in range(3):
        for b in range(3):
            for steps in WEIGHTS:
                deformation = np.eye(3)
                deformation[a, b] += steps * STEP
                variants.append(transformed(structure, deformation))
    result = _derivatives(descriptor, variants, 9)
    return result.reshape(3, 3, *result.shape[1:])


def with_geometry(structures, positions, cells):
    """Return the same atoms at other positions, in other cells."""
    return Structures(
        numbers=structures.numbers,
        positions=positions,
        cells=cells,
        pbc=structures.pbc,
        structure_offsets=structures.structure_offsets,
    )


def transformed(structures, matrix):
    """Apply a linear map to positions and cells."""
    return with_geometry(structures, structures.positions @ matrix.T, structures.cells @ matrix.T)
