"""Neighbour lists over batches of structures: place the atoms, find the pairs, and say where.

One structure is searched as follows.

1. Its periodic cell vectors are replaced by the shortest that span the same lattice, so
   that a skewed choice of cell costs nothing, and its free ones by unit vectors normal to
   them. Atoms are wrapped into that cell. (:func:`place_structures`)
2. Every periodic image within reach of the box of the atoms is written down in the order of
   bins of about one atom. From there on periodicity is forgotten. (:func:`_list_images`)
3. The images near an atom are a few contiguous runs of that list, one from each column of
   bins. A run is searched eight images at a time: eight distances, two comparisons, and the
   images within reach are moved to the front of a register and stored. (:func:`_search`)
4. A pair is its image, its distance and its atom, 20 bytes. Its vector and its cell shift, 36
   more, are looked up when somebody asks. (:func:`write_vectors`, :func:`write_cell_shifts`)

What makes it fast. Runs are contiguous and long: bins are four times finer along columns
than across, and a small structure is one run. The inner loop has no branch that depends
on a distance, and what it finds is the list: nothing is counted before or copied after. All
that happens once per structure happens here, since a structure of ten atoms leaves no time
for Python.

What does not depend on the cutoff: wrapping, bins, and so the order of a centre's pairs
and every bit of their vectors; the list for a larger cutoff holds the same numbers in the
same order. A pair and its reverse have exactly opposite vectors, and are both listed or
both not, because ``(x_j - x_i) + translation`` rounds the same in either direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel, uncontracted
from atomlake.kernels.lanes import (
    LANES,
    append_between,
    count_below,
    load,
    n_padded,
    pointer,
    square_root,
    store,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shifts = NDArray[np.int32]
Flags = NDArray[np.bool_]
States = NDArray[np.int8]

#: States of a structure; all but the first have no pairs.
FINE, COINCIDENT, TOO_MANY, TOO_DENSE = 0, 1, 2, 3

#: Atoms in a column of bins as long as it is wide, where they are evenly spread.
_ATOMS_PER_COLUMN = 4
#: Bins in a column as long as it is wide.
_BINS_PER_WIDTH = 4
#: Greatest width of a column in Å. Solids and liquids need less, so where the box asks for
#: more, atoms crowd in parts of it.
_MAX_WIDTH = 6.0
#: A structure with fewer atoms is one bin: to search all its images is faster.
_BINNED_FROM = 64
#: Added to the reach (Å) where bins and images are chosen, against the rounding of
#: fractional coordinates of atoms as far as 1e7 Å from the origin.
_SLACK = 1e-6
#: Bytes of a huge page.
_HUGE_PAGE = 2**21
#: Images of all structures together that are kept.
_MOST_IMAGES = 2**17


class Placed(NamedTuple):
    """A batch after wrapping; axes are those of the reduced cell."""

    wrapped: Floats
    """Positions in the reduced cell, shape (n_atoms, 3)."""
    fractions: Floats
    """The same along the axes: fractional if periodic, in Å if free, shape (n_atoms, 3)."""
    wraps: Shifts
    """Given cell vectors that wrapping subtracted, shape (n_atoms, 3)."""
    lattices: Floats
    """Vectors of the reduced cell as rows, shape (n_structures, 3, 3)."""
    transforms: Integers
    """The same in given cell vectors; zero rows if free, shape (n_structures, 3, 3)."""
    bounds: Floats
    """Least and greatest of ``fractions``, shape (n_structures, 2, 3)."""
    reaches: Floats
    """The reach along the axes, shape (n_structures, 3)."""
    n_images: Integers
    """Images within reach of the box of the atoms, atoms included, shape (n_structures,)."""
    column_axes: Integers
    """Axis along the columns of bins, shape (n_structures,)."""
    bin_scales: Floats
    """Bins per unit of ``fractions``; 0 for a single bin, shape (n_structures, 3)."""
    bin_bounds: Integers
    """First and last bin, counted from the least fraction, shape (n_structures, 2, 3)."""
    n_bins: Integers
    """Bins that are kept apart; others share them in turn, shape (n_structures, 3)."""


class Images(NamedTuple):
    """The images of a structure, or of all, in the order of their bins."""

    sites: Floats
    """Rows x, y, z of the wrapped atom and of its translation, shape (6, capacity)."""
    atoms: Integers
    """The atom, as an atom of the batch, shape (capacity,)."""
    shifts: Shifts
    """Cell shift of the image for a centre that was not wrapped, shape (capacity, 3)."""
    most_of_structure: int
    """Images of the structure that has most."""
    are_kept: bool
    """Whether every structure has a place of its own for its images."""
    first_image: Integers
    """Where the images of each structure begin, shape (n_structures,)."""
    bins: Shifts
    """Bin of every image of one structure in the order of atoms and shifts."""
    bin_offsets: Integers
    """Images of bin ``b`` are ``bin_offsets[b]:bin_offsets[b + 1]``."""


class Batch(NamedTuple):
    """A batch of structures that is searched."""

    placed: Placed
    """Where the atoms are."""
    pbc: Flags
    """Periodic directions, shape (n_structures, 3)."""
    structure_offsets: Integers
    """Atoms of structure ``s`` are ``structure_offsets[s]:structure_offsets[s + 1]``."""
    images: Images
    """Where the images are."""
    states: States
    """``FINE``, or why a structure has no pairs, shape (n_structures,)."""


class Pairs(NamedTuple):
    """The pairs of all atoms in the order of their centres, and room for more."""

    offsets: Integers
    """Pairs of atom ``i`` are ``offsets[i]:offsets[i + 1]``, shape (n_atoms + 1,)."""
    distances: Floats
    """Shape (capacity,)."""
    atoms: Integers
    """The neighbour, as an atom of the batch, shape (capacity,)."""
    images: Shifts
    """The neighbour, as an image, shape (capacity,)."""
    n_room: int
    """No atom is searched when there are more pairs than this."""


def empty_placed(n_atoms: int, n_structures: int) -> Placed:
    """Allocate what :func:`place_structures` writes."""
    n = n_structures
    return Placed(
        wrapped=np.empty((n_atoms, 3)),
        fractions=np.empty((n_atoms, 3)),
        wraps=np.empty((n_atoms, 3), np.int32),
        lattices=np.empty((n, 3, 3)),
        transforms=np.empty((n, 3, 3), np.int64),
        bounds=np.empty((n, 2, 3)),
        reaches=np.empty((n, 3)),
        n_images=np.empty(n, np.int64),
        column_axes=np.empty(n, np.int64),
        bin_scales=np.empty((n, 3)),
        bin_bounds=np.empty((n, 2, 3), np.int64),
        n_bins=np.empty((n, 3), np.int64),
    )


def empty_images(placed: Placed, states: States) -> Images:
    """Allocate room for the images of all structures that are ``FINE``, or of the largest."""
    fine = states == FINE
    n_images = np.where(fine, placed.n_images, 0)
    largest, total = int(n_images.max(initial=0)), int(n_images.sum())
    are_kept = total <= max(largest, _MOST_IMAGES)
    capacity = n_padded(total if are_kept else largest) + LANES
    n_bins = int(placed.n_bins[fine].prod(axis=1).max(initial=0))
    return Images(
        sites=np.empty((6, capacity)),
        atoms=np.empty(capacity, np.int64),
        shifts=np.empty((capacity, 3), np.int32),
        most_of_structure=largest,
        are_kept=are_kept,
        first_image=(np.cumsum(n_images) - n_images) * are_kept,
        bins=np.empty(largest, np.int32),
        bin_offsets=np.empty(n_bins + 2, np.int64),
    )


def empty_doubles(n: int) -> Floats:
    """Allocate ``n`` doubles; from 4 MiB on, where numpy asks for huge pages, all of them in such.

    To be given a page of 4 KiB for the first time takes longer than to write the 200 pairs that
    it holds, and a large array that begins and ends anywhere has hundreds of them.
    """
    if 8 * n < 2 * _HUGE_PAGE:
        return np.empty(n)
    doubles = np.empty(n + 2 * _HUGE_PAGE // 8)
    start = -doubles.ctypes.data % _HUGE_PAGE // 8
    return doubles[start : start + n]


def empty_pairs(n_atoms: int, n_pairs: int, n_more: int = 0) -> Pairs:
    """Allocate room for ``n_pairs`` pairs, and beyond it for ``n_more`` of one more atom."""
    capacity = n_padded(n_pairs + n_more) + LANES
    # One block, which is sooner large enough for huge pages than three.
    doubles = empty_doubles(5 * capacity // 2)
    return Pairs(
        offsets=np.zeros(n_atoms + 1, np.int64),
        distances=doubles[:capacity],
        atoms=doubles[capacity : 2 * capacity].view(np.int64),
        images=doubles[2 * capacity :].view(np.int32),
        n_room=n_pairs,
    )


def moved(pairs: Pairs, n_atoms: int, room: Pairs) -> Pairs:
    """Copy the pairs of the first ``n_atoms`` atoms to where there is more room."""
    n = pairs.offsets[n_atoms]
    room.offsets[: n_atoms + 1] = pairs.offsets[: n_atoms + 1]
    for name in ("distances", "atoms", "images"):
        getattr(room, name)[:n] = getattr(pairs, name)[:n]
    return room


# ----- The lattice


@inlined
def _dot(m: Floats, a: int, u: Floats, i: int) -> float:
    """Product of rows. Rows are not sliced: a view of an array costs more than its use."""
    return m[a, 0] * u[i, 0] + m[a, 1] * u[i, 1] + m[a, 2] * u[i, 2]  # type: ignore[no-any-return]


@inlined
def _cross(m: Floats, a: int, b: int, product: Floats, c: int) -> None:
    product[c, 0] = m[a, 1] * m[b, 2] - m[a, 2] * m[b, 1]
    product[c, 1] = m[a, 2] * m[b, 0] - m[a, 0] * m[b, 2]
    product[c, 2] = m[a, 0] * m[b, 1] - m[a, 1] * m[b, 0]


@inlined
def _normalise(m: Floats, a: int) -> None:
    length = math.sqrt(_dot(m, a, m, a))
    for x in range(3):
        m[a, x] /= length


@inlined
def _shorten(
    lattice: Floats, transform: Integers, a: int, b: int, n_b: float, c: int, n_c: float
) -> bool:
    """Add ``n_b`` times vector b and ``n_c`` times vector c to vector a if that is shorter."""
    old = 0.0
    new = 0.0
    for x in range(3):
        old += lattice[a, x] ** 2
        new += (lattice[a, x] + n_b * lattice[b, x] + n_c * lattice[c, x]) ** 2
    if not new < old * (1 - 1e-9):
        return False
    for x in range(3):
        lattice[a, x] += n_b * lattice[b, x] + n_c * lattice[c, x]
        transform[a, x] += int(n_b) * transform[b, x] + int(n_c) * transform[c, x]
    return True


@inlined
def _reduce_cell(lattice: Floats, transform: Integers, periodic: Flags) -> None:
    """Replace the periodic vectors by the shortest that span the same lattice.

    Vectors are shortened by each other, and by the sum or difference of both others, until
    none can be, which in three dimensions is Minkowski's condition. A reduced cell stays as
    it is.
    """
    shortened = True
    while shortened:
        shortened = False
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            for other in (b, c):
                if periodic[a] and periodic[other]:
                    n = _dot(lattice, a, lattice, other) / _dot(lattice, other, lattice, other)
                    shortened |= _shorten(lattice, transform, a, other, -np.rint(n), other, 0.0)
            if periodic[a] and periodic[b] and periodic[c]:
                for n_b in (-1.0, 1.0):
                    for n_c in (-1.0, 1.0):
                        shortened |= _shorten(lattice, transform, a, b, n_b, c, n_c)


@inlined
def _complete_cell(lattice: Floats, transform: Integers, periodic: Flags) -> None:
    """Replace the free vectors by unit vectors normal to each other and to the rest."""
    n_periodic = periodic[0] + periodic[1] + periodic[2]
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        for x in range(3):
            if not periodic[a]:
                transform[a, x] = 0
            if n_periodic == 0:
                lattice[a, x] = a == x
        if n_periodic == 1 and periodic[a]:
            flattest = 0
            for x in range(1, 3):
                if abs(lattice[a, x]) < abs(lattice[a, flattest]):
                    flattest = x
            for x in range(3):
                lattice[c, x] = x == flattest
            _cross(lattice, c, a, lattice, b)
            _cross(lattice, a, b, lattice, c)
            _normalise(lattice, b)
            _normalise(lattice, c)
        elif n_periodic == 2 and not periodic[a]:
            _cross(lattice, b, c, lattice, a)
            _normalise(lattice, a)


# ----- Placing


@kernel
def place_structures(
    positions: Floats,
    cells: Floats,
    pbc: Flags,
    structure_offsets: Integers,
    reach: float,
    max_neighbours: int,
    placed: Placed,
    states: States,
) -> None:
    """Reduce the cells, wrap the atoms, count the images and choose the bins.

    Parameters
    ----------
    positions, cells, pbc, structure_offsets : arrays
        As in :class:`atomlake.structures.Structures`.
    reach : float
        Distance in Å within which images are needed.
    max_neighbours : int
        Number of neighbours that is accepted. A solid of n atoms has at most 8 n images if it
        is thicker than twice the reach in all directions, and 16 for each neighbour if it is
        thinner. Flat and long cells are allowed more; beyond 8 n + 500 ``max_neighbours`` a
        structure is ``TOO_DENSE``, before anything loops over the images.
    placed : Placed
        What is written.
    states : int8 array, shape (n_structures,)
        Becomes ``FINE`` or ``TOO_DENSE``.
    """
    wrapped, wraps, bounds = placed.wrapped, placed.wraps, placed.bounds
    reciprocal = np.empty((3, 3))
    extents = np.empty(3)
    for s in range(len(states)):
        first, last = structure_offsets[s], structure_offsets[s + 1]
        lattice, transform, periodic = placed.lattices[s], placed.transforms[s], pbc[s]
        for a in range(3):
            for x in range(3):
                lattice[a, x] = cells[s, a, x]
                transform[a, x] = a == x
        _reduce_cell(lattice, transform, periodic)
        _complete_cell(lattice, transform, periodic)
        for a in range(3):
            _cross(lattice, (a + 1) % 3, (a + 2) % 3, reciprocal, a)
        volume = _dot(lattice, 0, reciprocal, 0)
        for a in range(3):
            for x in range(3):
                reciprocal[a, x] /= volume
            bounds[s, 0, a], bounds[s, 1, a] = np.inf, -np.inf
        for i in range(first, last):
            for x in range(3):
                wrapped[i, x] = positions[i, x]
                wraps[i, x] = 0
            for a in range(3):
                n = math.floor(_dot(reciprocal, a, positions, i))
                if periodic[a] and n != 0:
                    for x in range(3):
                        wrapped[i, x] -= n * lattice[a, x]
                        wraps[i, x] += n * transform[a, x]
            for a in range(3):
                fraction = _dot(reciprocal, a, wrapped, i)
                placed.fractions[i, a] = fraction
                bounds[s, 0, a] = min(bounds[s, 0, a], fraction)
                bounds[s, 1, a] = max(bounds[s, 1, a], fraction)
        for a in range(3):
            per_angstrom = math.sqrt(_dot(reciprocal, a, reciprocal, a))
            placed.reaches[s, a] = (reach + _SLACK) * per_angstrom
            extents[a] = (bounds[s, 1, a] - bounds[s, 0, a]) / per_angstrom
        n_images = 0.0
        for i in range(first, last):
            n_images_of_atom = 1.0
            for a in range(3):
                least, greatest = _image_range(placed, s, a, placed.fractions[i, a], periodic[a])
                n_images_of_atom *= greatest - least + 1
            n_images += n_images_of_atom
        is_searchable = n_images <= 8 * (last - first) + 500 * max_neighbours
        states[s] = FINE if is_searchable else TOO_DENSE
        placed.n_images[s] = int(min(n_images, 1e18))
        if is_searchable:
            _choose_bins(placed, s, last - first, extents, periodic)


@inlined
def _image_range(
    placed: Placed, s: int, a: int, fraction: float, is_periodic: bool
) -> tuple[float, float]:
    """First and last multiple of vector a that leaves an atom within reach of the box."""
    if not is_periodic:
        return 0.0, 0.0
    reach = placed.reaches[s, a]
    return (
        np.ceil(placed.bounds[s, 0, a] - reach - fraction),
        np.floor(placed.bounds[s, 1, a] + reach - fraction),
    )


@inlined
def _choose_bins(placed: Placed, s: int, n_atoms: int, extents: Floats, periodic: Flags) -> None:
    """Cut the box of the atoms into columns, and the columns into bins of about one atom.

    An axis along which the box is thinner than a column has one bin. Where atoms fill only
    a small part of their box, distant columns share bins and bins are longer, so that there
    are never more than a few bins per atom; distances tell apart what shares a bin.
    """
    c = np.argmax(extents)
    width = 0.0
    for _ in range(3):
        measure = 1.0
        n_axes = 0
        for extent in extents:
            if extent > width:
                measure *= extent
                n_axes += 1
        if n_axes > 0:
            width = (measure * _ATOMS_PER_COLUMN / n_atoms) ** (1 / n_axes)
    width = min(width, _MAX_WIDTH)
    n = np.ones(3)
    kept = np.ones(3)
    if n_atoms >= _BINNED_FROM and width > 0:
        a, b = (c + 1) % 3, (c + 2) % 3
        for axis in range(3):
            n[axis] = max(1, math.floor(extents[axis] / width))
            kept[axis] = n[axis]
        while kept[a] * kept[b] > n_atoms:
            longer = a if kept[a] > kept[b] else b
            kept[longer] = math.ceil(kept[longer] / 2)
        n[c] = math.floor(min(n[c], n_atoms / (kept[a] * kept[b])) * _BINS_PER_WIDTH)
        kept[c] = n[c]
    placed.column_axes[s] = c
    for axis in range(3):
        scale, first, last = 0.0, 0.0, 0.0
        if n[axis] > 1:
            length = placed.bounds[s, 1, axis] - placed.bounds[s, 0, axis]
            beyond = placed.reaches[s, axis] if periodic[axis] else 0.0
            scale = n[axis] / length
            # One length of the box to either side at most, whatever the reach.
            first = max(np.floor(-beyond * scale), -n[axis])
            last = min(np.floor((length + beyond) * scale), 2 * n[axis])
        placed.bin_scales[s, axis] = scale
        placed.bin_bounds[s, 0, axis] = first
        placed.bin_bounds[s, 1, axis] = last
        placed.n_bins[s, axis] = kept[axis] if kept[axis] < n[axis] else last - first + 1


# ----- Searching


@inlined
def _slab(placed: Placed, s: int, a: int, fraction: float) -> int:
    """Bin along axis a, counted from the box; the first or last if it is outside of them."""
    slab = math.floor((fraction - placed.bounds[s, 0, a]) * placed.bin_scales[s, a])
    first, last = placed.bin_bounds[s, 0, a], placed.bin_bounds[s, 1, a]
    return min(max(int(slab), first), last)  # type: ignore[no-any-return]


@inlined
def _kept(slab: int, n: int) -> int:
    """The bin that holds a slab where n are kept apart."""
    return slab if 0 <= slab < n else slab % n


@inlined
def _list_images(batch: Batch, s: int) -> None:
    """Write the images of the atoms of structure s in the order of their bins.

    Within a bin they are ordered by atom and then by shift.
    """
    placed, pbc, images = batch.placed, batch.pbc, batch.images
    first, last = batch.structure_offsets[s], batch.structure_offsets[s + 1]
    sites, shifts, offsets = images.sites, images.shifts, images.bin_offsets
    c = placed.column_axes[s]
    a, b = (c + 1) % 3, (c + 2) % 3
    n_bins = placed.n_bins[s, a] * placed.n_bins[s, b] * placed.n_bins[s, c]
    # Bin k is counted in offsets[k + 2], so that after summing offsets[k + 1] is where it
    # starts, and after writing where it ends.
    for k in range(n_bins + 2):
        offsets[k] = 0
    offsets[0] = offsets[1] = images.first_image[s]
    if n_bins > 1:
        _count_images(placed, pbc, s, first, last, images)
    lattices, transforms = placed.lattices, placed.transforms
    ax, ay, az = lattices[s, a, 0], lattices[s, a, 1], lattices[s, a, 2]
    bx, by, bz = lattices[s, b, 0], lattices[s, b, 1], lattices[s, b, 2]
    cx, cy, cz = lattices[s, c, 0], lattices[s, c, 1], lattices[s, c, 2]
    a0, a1, a2 = transforms[s, a, 0], transforms[s, a, 1], transforms[s, a, 2]
    b0, b1, b2 = transforms[s, b, 0], transforms[s, b, 1], transforms[s, b, 2]
    c0, c1, c2 = transforms[s, c, 0], transforms[s, c, 1], transforms[s, c, 2]
    n = 0
    for i in range(first, last):
        x, y, z = placed.wrapped[i, 0], placed.wrapped[i, 1], placed.wrapped[i, 2]
        w0, w1, w2 = placed.wraps[i, 0], placed.wraps[i, 1], placed.wraps[i, 2]
        from_a, to_a = _image_range(placed, s, a, placed.fractions[i, a], pbc[s, a])
        from_b, to_b = _image_range(placed, s, b, placed.fractions[i, b], pbc[s, b])
        from_c, to_c = _image_range(placed, s, c, placed.fractions[i, c], pbc[s, c])
        for m_a in range(int(from_a), int(to_a) + 1):
            for m_b in range(int(from_b), int(to_b) + 1):
                for m_c in range(int(from_c), int(to_c) + 1):
                    k = images.bins[n] + 1 if n_bins > 1 else 1
                    g = np.uintp(offsets[k])
                    offsets[k] += 1
                    n += 1
                    images.atoms[g] = i
                    sites[0, g], sites[1, g], sites[2, g] = x, y, z
                    sites[3, g] = _combined(m_a, ax, m_b, bx, m_c, cx)
                    sites[4, g] = _combined(m_a, ay, m_b, by, m_c, cy)
                    sites[5, g] = _combined(m_a, az, m_b, bz, m_c, cz)
                    shifts[g, 0] = _combined(m_a, a0, m_b, b0, m_c, c0) - w0
                    shifts[g, 1] = _combined(m_a, a1, m_b, b1, m_c, c1) - w1
                    shifts[g, 2] = _combined(m_a, a2, m_b, b2, m_c, c2) - w2


@uncontracted
def _combined(m_a: int, a: float, m_b: int, b: float, m_c: int, c: float) -> float:
    return m_a * a + m_b * b + m_c * c


@inlined
def _count_images(
    placed: Placed, pbc: Flags, s: int, first: int, last: int, images: Images
) -> None:
    """Write the bin of each image, and where each bin starts to ``bin_offsets[1:]``."""
    c = placed.column_axes[s]
    a, b = (c + 1) % 3, (c + 2) % 3
    n_a, n_b, n_c = placed.n_bins[s, a], placed.n_bins[s, b], placed.n_bins[s, c]
    n = 0
    for i in range(first, last):
        at_a, at_b, at_c = placed.fractions[i, a], placed.fractions[i, b], placed.fractions[i, c]
        from_a, to_a = _image_range(placed, s, a, at_a, pbc[s, a])
        from_b, to_b = _image_range(placed, s, b, at_b, pbc[s, b])
        from_c, to_c = _image_range(placed, s, c, at_c, pbc[s, c])
        for m_a in range(int(from_a), int(to_a) + 1):
            bin_a = _kept(_slab(placed, s, a, at_a + m_a), n_a)
            for m_b in range(int(from_b), int(to_b) + 1):
                bin_b = _kept(_slab(placed, s, b, at_b + m_b), n_b)
                start = (bin_a * n_b + bin_b) * n_c - placed.bin_bounds[s, 0, c]
                for m_c in range(int(from_c), int(to_c) + 1):
                    k = start + _slab(placed, s, c, at_c + m_c)
                    images.bins[n] = k
                    images.bin_offsets[k + 2] += 1
                    n += 1
    for k in range(2, n_a * n_b * n_c + 2):
        images.bin_offsets[k] += images.bin_offsets[k - 1]


@inlined
def _columns_near(placed: Placed, s: int, a: int, fraction: float) -> tuple[int, int, int]:
    """Columns within reach along axis a: how many, how many of them from 0 on, where the rest."""
    n = placed.n_bins[s, a]
    first = _slab(placed, s, a, fraction - placed.reaches[s, a])
    last = _slab(placed, s, a, fraction + placed.reaches[s, a])
    n_near = min(last - first + 1, n)
    first = _kept(first, n)
    return n_near, max(first + n_near - n, 0), first


@inlined
def _search(
    placed: Placed,
    s: int,
    i: int,
    limit: float,
    coincident: float,
    images: Images,
    begin: int,
    pairs: Pairs,
) -> tuple[int, int]:
    """Write the images whose squared distance from atom i is below ``limit`` from ``begin`` on.

    Returns where they end, and how many images are nearer than ``coincident``: these, of which
    the atom itself is one, are not written. Pairs are in the order of the bins, whichever columns
    are near.
    """
    c = placed.column_axes[s]
    a, b = (c + 1) % 3, (c + 2) % 3
    n_near_a, n_low_a, start_a = _columns_near(placed, s, a, placed.fractions[i, a])
    n_near_b, n_low_b, start_b = _columns_near(placed, s, b, placed.fractions[i, b])
    n_b, n_c = placed.n_bins[s, b], placed.n_bins[s, c]
    at_c, reach_c, first_c = (
        placed.fractions[i, c],
        placed.reaches[s, c],
        placed.bin_bounds[s, 0, c],
    )
    first = _slab(placed, s, c, at_c - reach_c) - first_c
    last = _slab(placed, s, c, at_c + reach_c) - first_c
    sites, stride = pointer(images.sites), images.sites.shape[1]
    distances, found = pointer(pairs.distances), pointer(pairs.images)
    atoms, atom_of_image = pointer(pairs.atoms), pointer(images.atoms)
    x, y, z = placed.wrapped[i, 0], placed.wrapped[i, 1], placed.wrapped[i, 2]
    n, n_coincident = begin, 0
    for near_a in range(n_near_a):
        bin_a = near_a if near_a < n_low_a else near_a - n_low_a + start_a
        for near_b in range(n_near_b):
            bin_b = near_b if near_b < n_low_b else near_b - n_low_b + start_b
            column = (bin_a * n_b + bin_b) * n_c
            end = images.bin_offsets[column + last + 1]
            for g in range(images.bin_offsets[column + first], end, LANES):
                dx = (load(sites, g) - x) + load(sites, g + 3 * stride)
                dy = (load(sites, g + stride) - y) + load(sites, g + 4 * stride)
                dz = (load(sites, g + 2 * stride) - z) + load(sites, g + 5 * stride)
                square = dx * dx + dy * dy + dz * dz
                n_coincident += count_below(square, coincident, end - g)
                n = append_between(distances, found, n, square, coincident, limit, g, end)
    for k in range(begin, n, LANES):
        store(distances, k, square_root(load(distances, k)))
    for k in range(begin, n):
        atoms[k] = atom_of_image[found[k]]
    return n, n_coincident


@kernel
def find_pairs(
    batch: Batch,
    limit: float,
    coincident: float,
    max_neighbours: int,
    first_atom: int,
    witnesses: Integers,
    pairs: Pairs,
) -> int:
    """Find the neighbours of every atom; leave a structure at the first that cannot be used.

    Parameters
    ----------
    batch : Batch
        Only structures that are ``FINE`` are searched; they may become ``COINCIDENT`` or
        ``TOO_MANY``. Their images are written, of all or of the last.
    limit, coincident : float
        Squared distances below which an image is a neighbour, or the same site; the second is
        not the greater.
    max_neighbours : int
        Number of neighbours that is accepted.
    first_atom : int
        Where to begin: 0, or what the last call returned.
    witnesses : int64 array, shape (n_structures, 5)
        For ``COINCIDENT`` the two atoms, counted within the structure, and the cell shift of
        the second; for ``TOO_MANY`` the atom and the number of its neighbours.
    pairs : Pairs
        What is written: no pairs throughout a structure that is not ``FINE``.

    Returns
    -------
    int
        The first atom whose neighbours there is no room for, or the number of atoms.
    """
    states, images = batch.states, batch.images
    end = pairs.offsets[first_atom]
    for s in range(len(states)):
        first, last = batch.structure_offsets[s], batch.structure_offsets[s + 1]
        if states[s] == FINE and first >= first_atom:
            _list_images(batch, s)
        for i in range(max(first, first_atom), last):
            if states[s] != FINE:
                break
            if end > pairs.n_room:
                return i
            begin = end
            end, n_coincident = _search(batch.placed, s, i, limit, coincident, images, begin, pairs)
            pairs.offsets[i + 1] = end
            if n_coincident > 1:
                states[s] = COINCIDENT
                _witness(batch, s, i, witnesses)
            elif end - begin > max_neighbours:
                states[s] = TOO_MANY
                witnesses[s, 0] = i - first
                witnesses[s, 1] = end - begin
        if states[s] != FINE and last > first_atom:
            end = pairs.offsets[first]
            for i in range(first, last):
                pairs.offsets[i + 1] = end
    return len(pairs.offsets) - 1


@inlined
def _witness(batch: Batch, s: int, i: int, witnesses: Integers) -> None:
    """Say which other image is nearest to atom i of structure s."""
    placed, images = batch.placed, batch.images
    sites, first = images.sites, batch.structure_offsets[s]
    witnesses[s, 0] = i - first
    nearest = np.inf
    begin = images.first_image[s]
    for g in range(begin, begin + placed.n_images[s]):
        square = 0.0
        for x in range(3):
            square += ((sites[x, g] - placed.wrapped[i, x]) + sites[3 + x, g]) ** 2
        shift_a = images.shifts[g, 0] + placed.wraps[i, 0]
        shift_b = images.shifts[g, 1] + placed.wraps[i, 1]
        shift_c = images.shifts[g, 2] + placed.wraps[i, 2]
        is_another = images.atoms[g] != i or shift_a != 0 or shift_b != 0 or shift_c != 0
        if is_another and square < nearest:
            nearest = square
            witnesses[s, 1] = images.atoms[g] - first
            witnesses[s, 2] = shift_a
            witnesses[s, 3] = shift_b
            witnesses[s, 4] = shift_c


# ----- Where the neighbours are


@kernel
def write_vectors(
    batch: Batch, pair_offsets: Integers, pair_images: Shifts, vectors: Floats
) -> None:
    """Write the vector of every pair.

    Parameters
    ----------
    batch : Batch
        As :func:`find_pairs` left it.
    pair_offsets : int64 array, shape (n_atoms + 1,)
    pair_images : int32 array, shape (n_pairs,)
        What it found, or some of it.
    vectors : float64 array, shape (n_pairs, 3)
        What is written.
    """
    wrapped, sites = batch.placed.wrapped, batch.images.sites
    for s in range(len(batch.states)):
        if batch.states[s] == FINE and not batch.images.are_kept:
            _list_images(batch, s)
        for i in range(batch.structure_offsets[s], batch.structure_offsets[s + 1]):
            x, y, z = wrapped[i, 0], wrapped[i, 1], wrapped[i, 2]
            # Unsigned indices need no check for counting from the end.
            for pair in range(np.uintp(pair_offsets[i]), np.uintp(pair_offsets[i + 1])):
                g = np.uintp(pair_images[pair])
                vectors[pair, 0] = (sites[0, g] - x) + sites[3, g]
                vectors[pair, 1] = (sites[1, g] - y) + sites[4, g]
                vectors[pair, 2] = (sites[2, g] - z) + sites[5, g]


@kernel
def write_cell_shifts(
    batch: Batch, pair_offsets: Integers, pair_images: Shifts, cell_shifts: Shifts
) -> None:
    """Write the cell shift of every pair, shape (n_pairs, 3), as :func:`write_vectors` does."""
    wraps, shifts = batch.placed.wraps, batch.images.shifts
    for s in range(len(batch.states)):
        if batch.states[s] == FINE and not batch.images.are_kept:
            _list_images(batch, s)
        for i in range(batch.structure_offsets[s], batch.structure_offsets[s + 1]):
            wrap_a, wrap_b, wrap_c = wraps[i, 0], wraps[i, 1], wraps[i, 2]
            for pair in range(np.uintp(pair_offsets[i]), np.uintp(pair_offsets[i + 1])):
                g = np.uintp(pair_images[pair])
                cell_shifts[pair, 0] = shifts[g, 0] + wrap_a
                cell_shifts[pair, 1] = shifts[g, 1] + wrap_b
                cell_shifts[pair, 2] = shifts[g, 2] + wrap_c


# ----- A smaller cutoff


@kernel
def count_within(
    distances: Floats, pair_offsets: Integers, cutoff: float, counts: Integers
) -> None:
    """Count the pairs of each centre that are closer than ``cutoff``."""
    for i in range(len(counts)):
        n = 0
        for pair in range(pair_offsets[i], pair_offsets[i + 1]):
            n += distances[pair] < cutoff
        counts[i] = n


@kernel
def list_within(
    distances: Floats, neighbour_index: Integers, pair_images: Shifts, cutoff: float, pairs: Pairs
) -> None:
    """Copy the pairs that are closer than ``cutoff``."""
    new = 0
    for pair in range(len(distances)):
        if distances[pair] < cutoff:
            pairs.distances[new] = distances[pair]
            pairs.atoms[new] = neighbour_index[pair]
            pairs.images[new] = pair_images[pair]
            new += 1
