"""Matrices over the atoms of a whole structure: Coulomb, sine and Ewald sum.

A matrix and its derivatives are built over the lower triangle, mirrored, and then flattened
to rows or to eigenvalues, one structure at a time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COULOMB = 0
SINE = 1
EWALD = 2

#: Rows in the order of the atoms, rows by descending norm, or eigenvalues by descending magnitude.
LISTED = 0
SORTED = 1
EIGENVALUES = 2

#: Norms and magnitudes within this fraction of one another keep the order they came in, so that
#: rounding does not order the rows of equivalent atoms.
TIE = 1e-10
#: Eigenvalues closer than this fraction of the largest magnitude share the mean of their
#: derivatives. Below it eigenvectors are lost to rounding, and only the mean is defined.
DEGENERATE = 1e-8


class Ewald(NamedTuple):
    """How the Ewald sum is split; 0 stands for the choice of :func:`_split`.

    Attributes
    ----------
    accuracy : float
        Relative size of the terms that are left out.
    screening : float
        Inverse width of the Gaussian charges, in 1/Å.
    real_cutoff, reciprocal_cutoff : float
        In Å and in 1/Å; given together or not at all.
    """

    accuracy: float
    screening: float
    real_cutoff: float
    reciprocal_cutoff: float


class _Matrix(NamedTuple):
    """A symmetric matrix of n atoms and its derivatives, which have no rows if not wanted."""

    # (n, n)
    value: Floats
    # (n, 3, n): element [i, x, j] is d value[i, j] / d r_i, minus that by r_j; zero for i = j.
    by_position: Floats
    # (n, 6, n): element [i, c, j] is d value[i, j] / d strain, components xx yy zz yz xz xy.
    by_strain: Floats


@kernel
def structure_matrices(
    matrix: int,
    form: int,
    first: int,
    last: int,
    structure_offsets: Integers,
    numbers: NDArray[np.int32],
    positions: Floats,
    cells: Floats,
    ewald: Ewald,
    n_atoms_max: int,
    features: NDArray[Any],
    gradient_positions: NDArray[Any],
    gradient_strain: NDArray[Any],
) -> None:
    """Write the flattened matrices of the structures ``first:last`` and their gradients.

    Parameters
    ----------
    matrix : int
        ``COULOMB``, ``SINE`` or ``EWALD``.
    form : int
        ``LISTED``, ``SORTED`` or ``EIGENVALUES``.
    structure_offsets, numbers, positions, cells : array
        As in :class:`atomlake.structures.Structures`.
    ewald : Ewald
        Used where ``matrix`` is ``EWALD``.
    n_atoms_max : int
        Rows of the padded matrix.
    features : array, shape (n, n_features)
        ``n_features`` is ``n_atoms_max`` for eigenvalues, else its square.
    gradient_positions : array, shape (n_atoms of the structures, 3, n_features) or no rows
    gradient_strain : array, shape (n, 3, 3, n_features) or no rows
    """
    largest = 0
    for s in range(first, last):
        largest = max(largest, structure_offsets[s + 1] - structure_offsets[s])
    n_elements = largest * largest
    scratch = np.empty(n_elements)
    position_scratch = np.empty(3 * n_elements if gradient_positions.shape[0] > 0 else 0)
    strain_scratch = np.empty(6 * n_elements if gradient_strain.shape[0] > 0 else 0)
    charges = np.empty(largest)
    wave = np.empty((2, largest))
    order = np.empty(largest, dtype=np.int64)
    row = np.empty(largest)
    first_atom = structure_offsets[first]

    for s in range(first, last):
        lower, upper = structure_offsets[s], structure_offsets[s + 1]
        n = upper - lower
        full = _Matrix(
            scratch[: n * n].reshape(n, n),
            position_scratch[: 3 * n * n].reshape(-1, 3, n),
            strain_scratch[: 6 * n * n].reshape(-1, 6, n),
        )
        for i in range(n):
            charges[i] = numbers[lower + i]
        if matrix == COULOMB:
            _coulomb(charges, positions[lower:upper], full)
        elif matrix == SINE:
            _sine(charges, positions[lower:upper], cells[s], full)
        else:
            _ewald(charges, positions[lower:upper], cells[s], ewald, wave, full)
        _mirror(full)

        values = features[s - first]
        by_position = gradient_positions[lower - first_atom : upper - first_atom]
        by_strain = gradient_strain[s - first : s - first + 1]
        values[:] = 0.0
        by_position[:] = 0.0
        by_strain[:] = 0.0
        if form == EIGENVALUES:
            _write_eigenvalues(full, order, row, values, by_position, by_strain)
        else:
            for i in range(n):
                order[i] = i
            if form == SORTED:
                for i in range(n):
                    row[i] = np.linalg.norm(full.value[i])
                _sort_descending(row, order[:n])
            _write_rows(full, order, n_atoms_max, values, by_position, by_strain)


# ----- The matrices, over i >= j


@inlined
def _coulomb(charges: Floats, positions: Floats, full: _Matrix) -> None:
    for i in range(positions.shape[0]):
        full.value[i, i] = 0.5 * charges[i] ** 2.4
        _clear_derivatives(full, i)
        for j in range(i):
            x = positions[j, 0] - positions[i, 0]
            y = positions[j, 1] - positions[i, 1]
            z = positions[j, 2] - positions[i, 2]
            square = x * x + y * y + z * z
            value = charges[i] * charges[j] / math.sqrt(square)
            full.value[i, j] = value
            slope = value / square
            if full.by_position.shape[0] > 0:
                full.by_position[i, 0, j] = slope * x
                full.by_position[i, 1, j] = slope * y
                full.by_position[i, 2, j] = slope * z
            _add_strain(full, i, j, -slope, x, y, z)


@inlined
def _sine(charges: Floats, positions: Floats, cell: Floats, full: _Matrix) -> None:
    inverse = np.linalg.inv(cell)
    for i in range(positions.shape[0]):
        full.value[i, i] = 0.5 * charges[i] ** 2.4
        _clear_derivatives(full, i)
        for j in range(i):
            # The vector that takes the place of r_j - r_i: Σ_a sin²(π f_a) h_a with the
            # fractional coordinates f, which strain leaves alone, and the cell vectors h.
            x, y, z = 0.0, 0.0, 0.0
            for a in range(3):
                sine = math.sin(math.pi * _fractional(positions, inverse, i, j, a))
                x += sine * sine * cell[a, 0]
                y += sine * sine * cell[a, 1]
                z += sine * sine * cell[a, 2]
            square = x * x + y * y + z * z
            value = charges[i] * charges[j] / math.sqrt(square)
            full.value[i, j] = value
            slope = value / square
            if full.by_position.shape[0] > 0:
                for a in range(3):
                    turn = 2.0 * math.pi * _fractional(positions, inverse, i, j, a)
                    along = x * cell[a, 0] + y * cell[a, 1] + z * cell[a, 2]
                    factor = slope * along * math.pi * math.sin(turn)
                    for k in range(3):
                        full.by_position[i, k, j] += factor * inverse[k, a]
            _add_strain(full, i, j, -slope, x, y, z)


@inlined
def _ewald(
    charges: Floats, positions: Floats, cell: Floats, ewald: Ewald, wave: Floats, full: _Matrix
) -> None:
    """Write the Ewald sums, with half of an atom's interaction with itself on the diagonal.

    All terms are first summed for unit charges and with the whole of that interaction.
    """
    n = positions.shape[0]
    volume = abs(np.linalg.det(cell))
    inverse = np.linalg.inv(cell)
    a, real_cutoff, reciprocal_cutoff = _split(ewald, n, volume)
    # d a / d strain_xx, which is that of a ~ volume^(-1/3) where a is not given.
    a_by_strain = 0.0 if ewald.screening > 0.0 else -a / 3.0

    background = math.pi / (volume * a * a)
    for i in range(n):
        _clear_derivatives(full, i)
        for j in range(i + 1):
            full.value[i, j] = -background
            _add_isotropic(full, i, j, background * (1.0 + 2.0 * a_by_strain / a))
        full.value[i, i] -= 2.0 * a / math.sqrt(math.pi)
        _add_isotropic(full, i, i, -2.0 / math.sqrt(math.pi) * a_by_strain)

    _add_real(positions, cell, inverse, a, a_by_strain, real_cutoff, full)
    _add_reciprocal(positions, cell, inverse, volume, a, a_by_strain, reciprocal_cutoff, wave, full)

    for i in range(n):
        for j in range(i + 1):
            product = charges[i] * charges[j] * (0.5 if i == j else 1.0)
            full.value[i, j] *= product
            if full.by_position.shape[0] > 0:
                for k in range(3):
                    full.by_position[i, k, j] *= product
            if full.by_strain.shape[0] > 0:
                for c in range(6):
                    full.by_strain[i, c, j] *= product


@inlined
def _split(ewald: Ewald, n_atoms: int, volume: float) -> tuple[float, float, float]:
    """Screening and cutoffs; Jackson & Catlow, Mol. Simul. 1, 207 (1988)."""
    a = ewald.screening
    if a == 0.0:
        a = math.sqrt(math.pi) * (n_atoms / (volume * volume)) ** (1.0 / 6.0)
    if ewald.real_cutoff > 0.0:
        return a, ewald.real_cutoff, ewald.reciprocal_cutoff
    reach = math.sqrt(-math.log(ewald.accuracy))
    return a, reach / a, 2.0 * a * reach


@inlined
def _add_real(
    positions: Floats,
    cell: Floats,
    inverse: Floats,
    a: float,
    a_by_strain: float,
    cutoff: float,
    full: _Matrix,
) -> None:
    """Add ``Σ erfc(a r) / r`` over the images of j around i."""
    slope_of_erf = 2.0 / math.sqrt(math.pi) * a
    # Cell vectors that the cutoff spans along each direction.
    u, v, w = _column_norms(inverse)
    u, v, w = cutoff * u, cutoff * v, cutoff * w
    for i in range(positions.shape[0]):
        for j in range(i + 1):
            f = _fractional(positions, inverse, i, j, 0)
            g = _fractional(positions, inverse, i, j, 1)
            h = _fractional(positions, inverse, i, j, 2)
            for p in range(math.ceil(-f - u), math.floor(-f + u) + 1):
                for q in range(math.ceil(-g - v), math.floor(-g + v) + 1):
                    for t in range(math.ceil(-h - w), math.floor(-h + w) + 1):
                        if i == j and p == 0 and q == 0 and t == 0:
                            continue
                        x = positions[j, 0] - positions[i, 0]
                        y = positions[j, 1] - positions[i, 1]
                        z = positions[j, 2] - positions[i, 2]
                        x += p * cell[0, 0] + q * cell[1, 0] + t * cell[2, 0]
                        y += p * cell[0, 1] + q * cell[1, 1] + t * cell[2, 1]
                        z += p * cell[0, 2] + q * cell[1, 2] + t * cell[2, 2]
                        square = x * x + y * y + z * z
                        if square > cutoff * cutoff:
                            continue
                        r = math.sqrt(square)
                        value = math.erfc(a * r) / r
                        full.value[i, j] += value
                        if full.by_position.shape[0] + full.by_strain.shape[0] == 0:
                            continue
                        gaussian = slope_of_erf * math.exp(-a * a * square)
                        slope = -(value + gaussian) / square
                        if full.by_position.shape[0] > 0 and i != j:
                            full.by_position[i, 0, j] -= slope * x
                            full.by_position[i, 1, j] -= slope * y
                            full.by_position[i, 2, j] -= slope * z
                        _add_strain(full, i, j, slope, x, y, z)
                        _add_isotropic(full, i, j, -gaussian / a * a_by_strain)


@inlined
def _add_reciprocal(
    positions: Floats,
    cell: Floats,
    inverse: Floats,
    volume: float,
    a: float,
    a_by_strain: float,
    cutoff: float,
    wave: Floats,
    full: _Matrix,
) -> None:
    """Add ``4π / V Σ exp(-G² / 4a²) / G² cos(G · r_ij)``, twice over half of the ``G``."""
    n = positions.shape[0]
    cosine, sine = wave[0], wave[1]
    turn = 2.0 * math.pi
    u = math.floor(cutoff * _row_norm(cell, 0) / turn)
    v = math.floor(cutoff * _row_norm(cell, 1) / turn)
    w = math.floor(cutoff * _row_norm(cell, 2) / turn)
    for p in range(u + 1):
        for q in range(-v if p > 0 else 0, v + 1):
            for t in range(-w if p > 0 or q > 0 else 1, w + 1):
                x = turn * (p * inverse[0, 0] + q * inverse[0, 1] + t * inverse[0, 2])
                y = turn * (p * inverse[1, 0] + q * inverse[1, 1] + t * inverse[1, 2])
                z = turn * (p * inverse[2, 0] + q * inverse[2, 1] + t * inverse[2, 2])
                square = x * x + y * y + z * z
                if square > cutoff * cutoff:
                    continue
                weight = 8.0 * math.pi / volume * math.exp(-square / (4.0 * a * a)) / square
                for i in range(n):
                    # Relative to the first atom: the same numbers wherever the origin is.
                    phase = (
                        p * _fractional(positions, inverse, 0, i, 0)
                        + q * _fractional(positions, inverse, 0, i, 1)
                        + t * _fractional(positions, inverse, 0, i, 2)
                    )
                    phase = turn * (phase - math.floor(phase))
                    cosine[i] = math.cos(phase)
                    sine[i] = math.sin(phase)
                for i in range(n):
                    c, s = weight * cosine[i], weight * sine[i]
                    for j in range(i + 1):
                        full.value[i, j] += c * cosine[j] + s * sine[j]
                if full.by_position.shape[0] > 0:
                    for i in range(n):
                        c, s = weight * cosine[i], weight * sine[i]
                        for j in range(i):
                            # d cos(G · (r_j - r_i)) / d r_i
                            slope = c * sine[j] - s * cosine[j]
                            full.by_position[i, 0, j] += slope * x
                            full.by_position[i, 1, j] += slope * y
                            full.by_position[i, 2, j] += slope * z
                if full.by_strain.shape[0] > 0:
                    # G · r is untouched by strain; G² changes by -2 G G, the volume by itself.
                    outer = 2.0 * (1.0 / (4.0 * a * a) + 1.0 / square)
                    same = -1.0 + square / (2.0 * a * a * a) * a_by_strain
                    for i in range(n):
                        c, s = weight * cosine[i], weight * sine[i]
                        for j in range(i + 1):
                            value = c * cosine[j] + s * sine[j]
                            full.by_strain[i, 0, j] += value * (outer * x * x + same)
                            full.by_strain[i, 1, j] += value * (outer * y * y + same)
                            full.by_strain[i, 2, j] += value * (outer * z * z + same)
                            full.by_strain[i, 3, j] += value * outer * y * z
                            full.by_strain[i, 4, j] += value * outer * x * z
                            full.by_strain[i, 5, j] += value * outer * x * y


@inlined
def _fractional(positions: Floats, inverse: Floats, i: int, j: int, a: int) -> float:
    """Component ``a`` of the fractional coordinates of ``r_j - r_i``."""
    x = (positions[j, 0] - positions[i, 0]) * inverse[0, a]
    y = (positions[j, 1] - positions[i, 1]) * inverse[1, a]
    z = (positions[j, 2] - positions[i, 2]) * inverse[2, a]
    return x + y + z  # type: ignore[no-any-return]


@inlined
def _column_norms(matrix: Floats) -> tuple[float, float, float]:
    return (_row_norm(matrix.T, 0), _row_norm(matrix.T, 1), _row_norm(matrix.T, 2))


@inlined
def _row_norm(matrix: Floats, a: int) -> float:
    return math.sqrt(matrix[a, 0] ** 2 + matrix[a, 1] ** 2 + matrix[a, 2] ** 2)


@inlined
def _clear_derivatives(full: _Matrix, i: int) -> None:
    if full.by_position.shape[0] > 0:
        full.by_position[i] = 0.0
    if full.by_strain.shape[0] > 0:
        full.by_strain[i] = 0.0


@inlined
def _add_strain(full: _Matrix, i: int, j: int, factor: float, x: float, y: float, z: float) -> None:
    """Add ``factor`` times the outer product of a vector with itself."""
    if full.by_strain.shape[0] > 0:
        full.by_strain[i, 0, j] += factor * x * x
        full.by_strain[i, 1, j] += factor * y * y
        full.by_strain[i, 2, j] += factor * z * z
        full.by_strain[i, 3, j] += factor * y * z
        full.by_strain[i, 4, j] += factor * x * z
        full.by_strain[i, 5, j] += factor * x * y


@inlined
def _add_isotropic(full: _Matrix, i: int, j: int, value: float) -> None:
    if full.by_strain.shape[0] > 0:
        for c in range(3):
            full.by_strain[i, c, j] += value


@inlined
def _mirror(full: _Matrix) -> None:
    """Fill the upper triangle from the lower one."""
    for i in range(full.value.shape[0]):
        for j in range(i):
            full.value[j, i] = full.value[i, j]
    for i in range(full.by_position.shape[0]):
        for k in range(3):
            for j in range(i):
                full.by_position[j, k, i] = -full.by_position[i, k, j]
    for i in range(full.by_strain.shape[0]):
        for c in range(6):
            for j in range(i):
                full.by_strain[j, c, i] = full.by_strain[i, c, j]


# ----- What is written of them


@inlined
def _sort_descending(keys: Floats, order: Integers) -> None:
    """Sort ``order`` by descending key; keys that tie stay in order."""
    for place in range(1, order.shape[0]):
        moved = order[place]
        to = place
        while to > 0 and keys[moved] > keys[order[to - 1]] * (1.0 + TIE):
            order[to] = order[to - 1]
            to -= 1
        order[to] = moved


@inlined
def _write_rows(
    full: _Matrix,
    order: Integers,
    n_atoms_max: int,
    values: NDArray[Any],
    by_position: NDArray[Any],
    by_strain: NDArray[Any],
) -> None:
    n = full.value.shape[0]
    for p in range(n):
        for q in range(n):
            i, j = order[p], order[q]
            column = p * n_atoms_max + q
            mirrored = q * n_atoms_max + p
            values[column] = full.value[i, j]
            if by_position.shape[0] > 0:
                for k in range(3):
                    by_position[i, k, column] = full.by_position[i, k, j]
                    by_position[i, k, mirrored] = full.by_position[i, k, j]
            if by_strain.shape[0] > 0:
                for a in range(3):
                    for b in range(3):
                        by_strain[0, a, b, column] = full.by_strain[i, _component(a, b), j]


@inlined
def _write_eigenvalues(
    full: _Matrix,
    order: Integers,
    row: Floats,
    values: NDArray[Any],
    by_position: NDArray[Any],
    by_strain: NDArray[Any],
) -> None:
    """Write eigenvalues and their derivatives ``v · (dM) v`` (Hellmann–Feynman)."""
    n = full.value.shape[0]
    if by_position.shape[0] + by_strain.shape[0] == 0:
        eigenvalues = np.linalg.eigvalsh(full.value)
        vectors = full.value
    else:
        eigenvalues, columns = np.linalg.eigh(full.value)
        vectors = np.ascontiguousarray(columns)
    # Descending, so that the positive one of two equal magnitudes comes first.
    for k in range(n):
        order[k] = n - 1 - k
        row[k] = abs(eigenvalues[k])
    _sort_descending(row, order[:n])
    for k in range(n):
        values[k] = eigenvalues[order[k]]

    for i in range(by_position.shape[0]):
        for x in range(3):
            row[:n] = 0.0
            for j in range(n):
                factor = full.by_position[i, x, j]
                for k in range(n):
                    row[k] += factor * vectors[j, k]
            for k in range(n):
                row[k] *= 2.0 * vectors[i, k]
            _share_among_degenerate(eigenvalues, row)
            for k in range(n):
                by_position[i, x, k] = row[order[k]]
    if by_strain.shape[0] > 0:
        for a in range(3):
            for b in range(a + 1):
                row[:n] = 0.0
                for i in range(n):
                    for j in range(i + 1):
                        factor = full.by_strain[i, _component(a, b), j]
                        factor *= 1.0 if i == j else 2.0
                        for k in range(n):
                            row[k] += factor * vectors[i, k] * vectors[j, k]
                _share_among_degenerate(eigenvalues, row)
                for k in range(n):
                    by_strain[0, a, b, k] = row[order[k]]
                    by_strain[0, b, a, k] = row[order[k]]


@inlined
def _share_among_degenerate(eigenvalues: Floats, row: Floats) -> None:
    """Replace the derivatives of equal eigenvalues, which ascend, by their mean."""
    n = eigenvalues.shape[0]
    tolerance = DEGENERATE * max(abs(eigenvalues[0]), abs(eigenvalues[n - 1]))
    start = 0
    for stop in range(1, n + 1):
        if stop < n and eigenvalues[stop] - eigenvalues[stop - 1] <= tolerance:
            continue
        mean = 0.0
        for k in range(start, stop):
            mean += row[k]
        for k in range(start, stop):
            row[k] = mean / (stop - start)
        start = stop


@inlined
def _component(a: int, b: int) -> int:
    """Place of ``(a, b)`` among xx yy zz yz xz xy."""
    return a if a == b else 6 - a - b
