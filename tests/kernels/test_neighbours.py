"""The neighbour list: the pairs of ase, of brute force, and what never depends on what."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule, nanotube
from ase.neighborlist import neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from atomlake.kernels import neighbours as kernels
from atomlake.kernels.lanes import LANES
from atomlake.neighbours import Neighbours, find_neighbours
from atomlake.structures import COINCIDENT_DISTANCE, Structures, completed_cells, plane_spacings

# Positions of some 100 Å carry rounding errors of 1e-14 Å; an error of the method is a bond length.
TOLERANCE = 1e-11


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    return atoms


def primitive(name: str) -> Atoms:
    return rattled(bulk(name) * (2, 1, 1))


def left_handed() -> Atoms:
    atoms = primitive("Cu")
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    assert atoms.cell.handedness == -1
    return atoms


def outside_of_the_cell() -> Atoms:
    atoms = primitive("Si")
    shifts = np.array([[3, -7, 0], [0, 0, 0], [-20, 1, 5], [0, 0, 400]])
    atoms.positions += shifts @ atoms.cell.array
    return atoms


def free_direction(vector: list[float]) -> Atoms:
    """A slab whose third cell vector means nothing."""
    atoms = rattled(fcc111("Cu", (1, 2, 3), vacuum=None))
    cell = atoms.cell.array
    cell[2] = vector
    return Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=(True, True, False))


def cloud(n: int, density: float, pbc: bool | tuple[bool, bool, bool], seed: int = 0) -> Atoms:
    """Atoms anywhere in a cubic box, none closer than 0.5 Å."""
    rng = np.random.default_rng(seed)
    length = (n / density) ** (1 / 3)
    n_sites = int(length / 0.8)
    sites = rng.choice(n_sites**3, n, replace=False)
    grid = np.stack(np.unravel_index(sites, (n_sites,) * 3), axis=1)
    positions = (grid + rng.uniform(-0.15, 0.15, (n, 3))) * length / n_sites
    return Atoms(f"C{n}", positions=positions, cell=[length] * 3, pbc=pbc)


SYSTEMS = {
    "one atom": bulk("Cu"),
    "diamond": bulk("Si"),
    "perovskite-sized": rattled(bulk("NaCl", "rocksalt", 5.6) * (1, 1, 2)),
    "hexagonal": rattled(bulk("Mg") * (2, 2, 1)),
    "metal, binned": rattled(bulk("Cu", cubic=True) * (3, 3, 2)),
    "slab": rattled(fcc111("Cu", (2, 2, 3), vacuum=6.0)),
    "sheet": rattled(graphene(size=(5, 4, 1), vacuum=None)),
    "wire": rattled(nanotube(4, 0, length=2)),
    "molecule": molecule("CH3CH2OH"),
    "one free atom": Atoms("H", positions=[[1.0, 2.0, 3.0]]),
    "molecule in a box": Atoms(molecule("H2O"), cell=[30, 31, 32], pbc=True),
    "left-handed": left_handed(),
    "outside of the cell": outside_of_the_cell(),
    "triclinic": Atoms(
        "C3",
        positions=[[0, 0, 0], [1, 1, 1], [2, 0.5, 3]],
        cell=[[3, 0, 0], [2.5, 3, 0], [-1, 2, 4]],
        pbc=True,
    ),
    "no third vector": free_direction([0, 0, 0]),
    "absurd third vector": free_direction([1e5, -3e6, 0.1]),
    "second direction free": Atoms(cloud(40, 0.1, True), pbc=(True, False, True)),
    "cloud": cloud(150, 0.1, False),
    "periodic cloud": cloud(150, 0.1, True),
}


def neighbours_of(atoms: Atoms | list[Atoms], cutoff: float) -> Neighbours:
    neighbours, set_aside = find_neighbours(
        Structures.from_ase(atoms), cutoff, max_neighbours=100_000
    )
    assert not any(set_aside), set_aside
    return neighbours


def table(neighbours: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """Rows (i, j, S) in ascending order, and the order."""
    centres = np.repeat(np.arange(len(neighbours.counts)), neighbours.counts)
    rows = np.column_stack([centres, neighbours.neighbour_index, neighbours.cell_shift])
    order = np.lexsort(rows.T[::-1])
    return rows[order], order


def identical(one: Neighbours, other: Neighbours) -> bool:
    """Whether two lists are the same bit by bit, in the same order."""
    return one.cutoff == other.cutoff and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("pair_offsets", "neighbour_index", "cell_shift", "vectors", "distances")
    )


# ----- The right pairs


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("cutoff", [1.7, 4.1, 8.3])
def test_pairs_are_those_of_ase(name, cutoff):
    atoms = SYSTEMS[name].copy()
    neighbours = neighbours_of(atoms, cutoff)
    # ase takes minutes and gigabytes where the vector of a free direction is absurd.
    atoms.cell = completed_cells(atoms.cell.array[None], atoms.pbc[None])[0]
    i, j, shift, vectors, distances = neighbor_list("ijSDd", atoms, cutoff)
    expected = np.column_stack([i, j, shift])
    order = np.lexsort(expected.T[::-1])
    rows, own_order = table(neighbours)
    np.testing.assert_array_equal(rows, expected[order])
    np.testing.assert_allclose(neighbours.vectors[own_order], vectors[order], atol=TOLERANCE)
    np.testing.assert_allclose(neighbours.distances[own_order], distances[order], atol=TOLERANCE)


def brute_force(positions, cell, pbc, cutoff) -> np.ndarray:
    """Rows (i, j, S) by trying every shift that could matter."""
    full = completed_cells(cell[None], pbc[None])[0]
    spans = np.ptp(positions @ np.linalg.inv(full), axis=0)
    n = np.ceil(cutoff / plane_spacings(cell[None], pbc[None])[0] + spans).astype(int) * pbc
    shifts = np.array(list(itertools.product(*(range(-m, m + 1) for m in n))))
    translations = shifts @ np.where(pbc[:, None], cell, 0.0)
    rows = []
    for i in range(len(positions)):
        distances = np.linalg.norm(positions[:, None] - positions[i] + translations[None], axis=2)
        j, k = np.nonzero(distances < cutoff)
        is_other = (j != i) | shifts[k].any(axis=1)
        j, k = j[is_other], k[is_other]
        rows.append(np.column_stack([np.full(len(j), i), j, shifts[k]]))
    result = np.concatenate(rows)
    return result[np.lexsort(result.T[::-1])]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_atoms=st.sampled_from([1, 2, 5, 20, 63, 64, 120]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.2, 6.0),
    spread=st.sampled_from([1.0, 5.0, 40.0]),
    free_scale=st.sampled_from([0.0, 1.0, 1e6]),
)
def test_pairs_are_those_of_brute_force(seed, n_atoms, pbc, cutoff, spread, free_scale):
    rng = np.random.default_rng(seed)
    pbc = np.array(pbc)
    # Vectors of a sensible lattice, combined into a bad choice of cell.
    cell = rng.normal(size=(3, 3)) + np.diag(rng.choice([-1, 1], 3) * rng.uniform(2, 9, 3))
    if rng.random() < 0.5:
        cell = np.array([[1, 0, 0], [rng.integers(-4, 5), 1, 0], [2, -3, 1]]) @ cell
    cell[~pbc] *= free_scale
    full = completed_cells(cell[None], pbc[None])[0]
    if pbc.all():
        n_atoms = min(n_atoms, 1 + int(0.2 * abs(np.linalg.det(full))))
    positions = rng.normal(size=(n_atoms, 3)) * spread
    n_shifts = cutoff / plane_spacings(cell[None], pbc[None])[0]
    n_shifts += np.ptp(positions @ np.linalg.inv(full), axis=0)
    assume(n_atoms**2 * np.prod(2 * n_shifts[pbc] + 3) < 3e5)
    assume(len(brute_force(positions, cell, pbc, COINCIDENT_DISTANCE)) == 0)
    expected = brute_force(positions, cell, pbc, cutoff)
    structures = Structures.single([6] * n_atoms, positions, cell, pbc)
    neighbours, set_aside = find_neighbours(structures, cutoff, max_neighbours=100_000)
    assert set_aside == [None]
    rows, _ = table(neighbours)
    np.testing.assert_array_equal(rows, expected)
    i, j, shift = rows[:, 0], rows[:, 1], rows[:, 2:]
    vectors = positions[j] - positions[i] + shift @ np.where(pbc[:, None], cell, 0.0)
    own = neighbours.vectors[table(neighbours)[1]]
    np.testing.assert_allclose(own, vectors, atol=TOLERANCE)


def reverse(neighbours: Neighbours) -> np.ndarray:
    """Rows (j, i, -S) in ascending order."""
    rows, _ = table(neighbours)
    rows = np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_pair_has_its_exact_reverse(name):
    neighbours = neighbours_of(SYSTEMS[name], 5.0)
    rows, order = table(neighbours)
    np.testing.assert_array_equal(rows, reverse(neighbours))
    of_reverse = np.lexsort(np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]]).T[::-1])
    vectors, distances = neighbours.vectors[order], neighbours.distances[order]
    np.testing.assert_array_equal(vectors[of_reverse], -vectors)
    np.testing.assert_array_equal(distances[of_reverse], distances)


def test_a_pair_at_the_cutoff_is_no_pair():
    dimer = Structures.single([1, 1], [[0, 0, 0], [0, 0, 0.7]])
    assert find_neighbours(dimer, 0.7)[0].n_pairs == 0
    assert find_neighbours(dimer, np.nextafter(0.7, 1))[0].n_pairs == 2
    # On a lattice whole shells lie at the cutoff, and rounding must not split one.
    atoms = bulk("Cu", a=3.6, cubic=True) * (2, 2, 2)
    for cutoff in np.sqrt([0.5, 1.0, 1.5, 2.0]) * 3.6:
        neighbours = neighbours_of(atoms, cutoff)
        assert (neighbours.distances < cutoff).all()
        np.testing.assert_array_equal(table(neighbours)[0], reverse(neighbours))


def test_the_lattice_counts_whatever_cell_vectors_describe_it():
    atoms = rattled(bulk("Mg") * (2, 1, 1))
    expected = np.sort(neighbours_of(atoms, 6.0).distances)
    for change in (
        [[1, 0, 0], [5, 1, 0], [-3, 7, 1]],
        [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
        [[1, 0, 0], [40, 1, 0], [0, -60, 1]],
    ):
        other = Atoms(
            atoms.numbers, atoms.positions, cell=np.array(change) @ atoms.cell.array, pbc=True
        )
        neighbours = neighbours_of(other, 6.0)
        np.testing.assert_allclose(np.sort(neighbours.distances), expected, atol=TOLERANCE)
        centres = np.repeat(np.arange(len(atoms)), neighbours.counts)
        np.testing.assert_allclose(
            neighbours.vectors,
            atoms.positions[neighbours.neighbour_index]
            - atoms.positions[centres]
            + neighbours.cell_shift @ other.cell.array,
            atol=TOLERANCE,
        )


# ----- What the list does not depend on


@pytest.mark.parametrize("most_images", [2**17, 0])
@pytest.mark.parametrize("cutoff", [5.0, 9.0])
def test_a_structure_has_the_same_list_in_any_batch(cutoff, most_images, monkeypatch):
    """Where the batch fills the room for what was found, or for images, and where it does not."""
    monkeypatch.setattr(kernels, "_MOST_IMAGES", most_images)
    systems = list(SYSTEMS.values())
    everything = neighbours_of(systems, cutoff)
    offsets = np.cumsum([0, *map(len, systems)])
    for atoms, first in zip(systems, offsets[:-1], strict=True):
        alone = neighbours_of(atoms, cutoff)
        pairs = slice(*everything.pair_offsets[[first, first + len(atoms)]])
        np.testing.assert_array_equal(
            everything.neighbour_index[pairs] - first, alone.neighbour_index
        )
        for name in ("cell_shift", "vectors", "distances"):
            np.testing.assert_array_equal(getattr(everything, name)[pairs], getattr(alone, name))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_list_cut_down_is_the_list_of_the_smaller_cutoff(name):
    long = neighbours_of(SYSTEMS[name], 9.0)
    for cutoff in (0.0, 1.5, 3.0, 6.0):
        assert identical(long.within(cutoff), neighbours_of(SYSTEMS[name], cutoff))
    assert long.within(9.0) is long
    with pytest.raises(ValueError, match=r"within 9.0 Å does not hold those within 9.5 Å"):
        long.within(9.5)


def test_permuted_atoms_have_permuted_lists(rng):
    atoms = cloud(200, 0.1, (True, False, True))
    order = rng.permutation(len(atoms))
    rows, _ = table(neighbours_of(atoms, 4.0))
    permuted, _ = table(neighbours_of(atoms[order], 4.0))
    permuted[:, :2] = order[permuted[:, :2]]
    np.testing.assert_array_equal(permuted[np.lexsort(permuted.T[::-1])], rows)


def test_input_is_left_alone_and_may_be_read_only():
    structures = Structures.from_ase([SYSTEMS["outside of the cell"], SYSTEMS["slab"]])
    arrays = (structures.positions, structures.cells, structures.pbc, structures.structure_offsets)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    find_neighbours(structures, 4.0)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_no_structures_and_no_atoms_have_no_pairs():
    neighbours, set_aside = find_neighbours(Structures.empty(), 5.0)
    assert (neighbours.n_pairs, set_aside) == (0, [])
    nothing = Structures.single([], np.zeros((0, 3)), np.eye(3) * 5, True)
    neighbours, set_aside = find_neighbours(nothing, 5.0)
    assert (neighbours.n_pairs, set_aside) == (0, [None])


def test_a_cutoff_is_a_finite_distance():
    for cutoff in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="must be a finite distance"):
            find_neighbours(Structures.empty(), cutoff)


# ----- What is set aside


def test_structures_are_set_aside_without_touching_the_rest():
    fine = SYSTEMS["diamond"]
    crowd = cloud(100, 0.1, False)
    double = Atoms("H3", positions=[[0, 0, 0], [5, 0, 0], [5, 0, 0.001]])
    batch = Structures.from_ase([fine, crowd, fine, double, fine])
    neighbours, set_aside = find_neighbours(batch, 8.0, max_neighbours=99)
    codes = [s and s.code for s in set_aside]
    assert codes == [None, None, None, "coincident_atoms", None]
    neighbours, set_aside = find_neighbours(batch, 5.0, max_neighbours=40)
    codes = [s and s.code for s in set_aside]
    assert codes == [None, "too_many_neighbours", None, "coincident_atoms", None]
    alone = neighbours_of(fine, 5.0)
    np.testing.assert_array_equal(neighbours.distances, np.tile(alone.distances, 3))
    n = len(crowd)
    expected = [28, 28, *[0] * n, 28, 28, 0, 0, 0, 28, 28]
    np.testing.assert_array_equal(neighbours.counts, expected)


@pytest.mark.parametrize("cutoff", [0, 0.005, 5.0])
def test_coincident_atoms_are_named_whatever_the_cutoff(cutoff):
    positions = [[0, 0, 0], [1, 1, 1], [1, 1.003, 1.004]]
    _, (problem,) = find_neighbours(Structures.single([1] * 3, positions), cutoff)
    assert problem.code == "coincident_atoms"
    assert "atom 1 and atom 2 are 0.005 Å apart" in problem.reason
    periodic = Structures.single(
        [1] * 2, [[0, 0, 0.001], [1, 1, 3]], [[1, 1, 0], [9, 0, 0], [0, 0, 3]], True
    )
    _, (problem,) = find_neighbours(periodic, cutoff)
    assert problem.code == "coincident_atoms"
    assert (
        "atom 0 and the image of atom 1 shifted by [-1, 0, -1] cells are 0.001 Å" in problem.reason
    )


def test_atoms_a_little_further_apart_are_fine():
    dimer = Structures.single([1, 1], [[0, 0, 0], [0, 0, 0.0101]])
    neighbours, set_aside = find_neighbours(dimer, 0)
    assert (neighbours.n_pairs, set_aside) == (0, [None])
    assert find_neighbours(dimer, 1.0)[0].n_pairs == 2


def test_too_many_neighbours_are_counted_in_the_reason():
    structures = Structures.from_ase(bulk("Cu"))
    _, (problem,) = find_neighbours(structures, 5.0, max_neighbours=41)
    assert problem.code == "too_many_neighbours"
    assert "atom 0 has 42 neighbours within 5 Å, and at most 41 neighbours" in problem.reason
    assert find_neighbours(structures, 5.0, max_neighbours=42)[1] == [None]


def test_absurd_structures_come_back_at_once(rng):
    grain = cloud(30_000, 0.1, False).positions * 0.04
    absurd = {
        "2e9 images": Structures.single([1] * 2000, rng.random((2000, 3)), np.eye(3) * 0.1, True),
        "1e6 images": Structures.single([1], [[0, 0, 0]], np.eye(3) * 0.1, True),
        "all are neighbours": Structures.single([1] * 30_000, grain),
        "flat": Structures.single([1], [[0, 0, 0]], np.diag([0.1, 50, 50]), True),
        "skewed": Structures.single(
            [1], [[0, 0, 0]], [[5, 0, 0], [1e7, 5, 0], [-3e6, 1e7 + 1, 5]], True
        ),
        # What check refuses must come back too.
        "no cell": Structures.single([1, 1], [[0, 0, 0], [0, 0, 1]], np.zeros((3, 3)), True),
        "no number": Structures.single([1, 1], [[0, 0, np.nan], [0, 0, 1]], np.eye(3) * 5, True),
        "endless": Structures.single([1, 1], [[0, 0, 0], [0, 0, 1]], np.eye(3) * 1e200, True),
    }
    find_neighbours(Structures.empty(), 5.0)
    start = time.process_time()
    _, set_aside = find_neighbours(Structures.concatenate(list(absurd.values())), 5.0)
    seconds = time.process_time() - start
    problems = dict(zip(absurd, set_aside, strict=True))
    for name in ("2e9 images", "1e6 images", "all are neighbours"):
        assert problems[name].code == "too_many_neighbours"
        assert "at most 2000 neighbours" in problems[name].reason
    assert "about 2.1e+09 atoms" in problems["2e9 images"].reason
    assert "has 29999 neighbours" in problems["all are neighbours"].reason
    assert problems["flat"] is None
    assert problems["skewed"] is None
    # It takes a few hundredths of a second. Looping over the images would take minutes.
    assert seconds < 3


# ----- Large structures


def spread(kind: str, n: int) -> Structures:
    """Many atoms without a cell that fill their box in different ways."""
    rng = np.random.default_rng(1)
    positions = cloud(n, 0.1, False).positions
    if kind == "a stray atom":
        positions[17] = 1e6
    elif kind == "two clusters":
        positions[::2] += [3e5, -7e5, 1e6]
    elif kind == "a cluster in a gas":
        positions[::10] = rng.uniform(-1e4, 1e4, (len(positions[::10]), 3))
    elif kind == "a line":
        positions = np.arange(n)[:, None] * [0.7, 0.8, 0.9]
    elif kind == "a plane":
        side = int(np.sqrt(n)) + 1
        columns, rows = np.divmod(np.arange(n), side)
        positions = np.column_stack([columns * 1.55, np.zeros(n), rows * 1.4])
    return Structures.single([6] * n, positions)


KINDS = ["even", "a stray atom", "two clusters", "a cluster in a gas", "a line", "a plane"]


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_many_atoms_are_those_of_a_tree(kind):
    structures = spread(kind, 6000)
    half = cKDTree(structures.positions).query_pairs(3.0, output_type="ndarray")
    expected = np.concatenate([half, half[:, ::-1]])
    neighbours, set_aside = find_neighbours(structures, 3.0)
    assert set_aside == [None]
    rows, _ = table(neighbours)
    np.testing.assert_array_equal(rows[:, :2], expected[np.lexsort(expected.T[::-1])])


def seconds(structures: Structures) -> float:
    """Least processor time of a few calls."""
    times = []
    for _ in range(5):
        start = time.process_time()
        find_neighbours(structures, 3.0)
        times.append(time.process_time() - start)
    return min(times)


def test_time_is_linear_in_the_number_of_atoms():
    # 10 times the atoms: 10 times the time, or 100 if every atom met every other.
    assert seconds(spread("even", 20_000)) < 40 * seconds(spread("even", 2000))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_atoms_that_fill_their_box_unevenly_take_little_longer(kind):
    # At most three times as long; bins of the size that an even spread needs take 12 times.
    assert seconds(spread(kind, 20_000)) < 7 * seconds(spread("even", 20_000))


def test_lists_end_wherever_the_lanes_end():
    # One run of 1 to 20 images: full and partly filled registers.
    for n in range(1, 2 * LANES + 5):
        positions = np.arange(n)[:, None] * [0.9, 0, 0]
        neighbours, _ = find_neighbours(Structures.single([1] * n, positions), 1e3)
        np.testing.assert_array_equal(neighbours.counts, n - 1)
        np.testing.assert_array_equal(
            neighbours.neighbour_index, [j for i in range(n) for j in range(n) if j != i]
        )
