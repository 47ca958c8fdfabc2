"""What every descriptor promises. A descriptor is tested by being registered.

Each test runs for every example that a registered descriptor gives of itself
(:meth:`Descriptor.examples`), in double precision, over all small structures that the
example accepts.
"""

import json
import pickle
from dataclasses import replace
from itertools import pairwise

import finite_differences
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from finite_differences import transformed, with_geometry
from pydantic import ValidationError
from scipy.special import sph_harm_y

from atomlake import descriptors
from atomlake.descriptors.base import SYMMETRIES, Gradients, RowMemory, Rows, empty_rows
from atomlake.errors import StructureError
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

SPECIES = ("H", "C", "Si")

#: Rounding in sums of a few hundred terms, relative to the largest feature.
ROUNDING = 1e-11
#: The same after positions are rotated or moved, which rounds them by 1e-16 of their size: the
#: steepest functions turn this into 1e-13, relative.
MOVED = 1e-10
#: Finite differences are right to 1e-8; wrong gradients are wrong by far more than 1e-6.
DIFFERENCES = 1e-6

NOTHING = Gradients()
EVERYTHING = [Gradients("pairs", True), Gradients("summed", True)]


def small_structures():
    """One of each kind, shaken so that nothing is symmetric by chance."""
    slab = bulk("SiC", "zincblende", 4.36).repeat((2, 1, 2))
    slab.pbc = (True, True, False)
    skewed = Atoms(
        "SiC",
        positions=[[0, 0, 0], [1.3, 1.1, 1.2]],
        cell=[[2.6, 0.1, 0.0], [5.3, 2.9, 0.2], [-2.5, 3.1, 2.8]],
        pbc=True,
    )
    structures = {
        "molecule": molecule("CH3SiH3"),
        # The cutoffs of all examples reach over several cells of this crystal.
        "crystal": bulk("SiC", "zincblende", 4.36),
        "slab": slab,
        "skewed": skewed,
        "isolated": Atoms("H", positions=[[0.1, 0.2, 0.3]]),
    }
    for seed, atoms in enumerate(structures.values()):
        atoms.rattle(0.08, seed=seed)
    return {name: Structures.from_ase(atoms) for name, atoms in structures.items()}


STRUCTURES = small_structures()


def examples():
    for name in descriptors.names():
        for i, example in enumerate(descriptors.get(name).examples(SPECIES)):
            yield pytest.param(example, id=f"{name}-{i}")


def changed(descriptor, **parameters):
    return type(descriptor).model_validate({**descriptor.parameters, **parameters})


@pytest.fixture(params=examples(), scope="module")
def descriptor(request):
    """An example in double precision."""
    return changed(request.param, dtype="float64")


@pytest.fixture(scope="module")
def accepted(descriptor):
    """The small structures that the example can describe, by name."""
    return {name: s for name, s in STRUCTURES.items() if descriptor.check(s) == [None]}


@pytest.fixture(scope="module")
def batch(accepted):
    return Structures.concatenate(list(accepted.values()))


@pytest.fixture(scope="module")
def dataset(descriptor, batch):
    """Features and all gradients of the batch, in rows per pair."""
    return descriptor.compute(batch, descriptor.gradients)


@pytest.fixture(scope="module")
def summed(descriptor, batch):
    """Features and all gradients of the batch, summed over centres."""
    return descriptor.compute(batch, descriptor.gradients, rows="summed")


def features(descriptor, structures):
    return descriptor.compute(structures).features.values


def assert_close(actual, expected, tolerance):
    """Compare relative to the largest number in either."""
    assert actual.shape == expected.shape
    scale = max(np.abs(actual).max(initial=0), np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_gradient(actual, expected, values):
    """Compare a gradient with finite differences of ``values``.

    Relative to the largest gradient, or to a thousandth of the largest value where there is
    next to none: finite differences of an isolated atom are rounding errors of its values.
    """
    assert actual.shape == expected.shape
    scale = max(np.abs(actual).max(initial=0), 1e-3 * np.abs(values).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=DIFFERENCES * scale)


def needs(descriptor, symmetry):
    if symmetry not in descriptor.symmetries:
        pytest.skip(f"states that it does not have the symmetry {symmetry!r}")


# ----- Features


def test_accepts_a_molecule_or_a_crystal_and_gives_finite_numbers(accepted, dataset):
    assert accepted.keys() & {"molecule", "crystal"}
    for name, array in dataset.data_vars.items():
        assert np.isfinite(array.values).all(), name
    assert np.abs(dataset.features.values).max() > 0


def test_translation(descriptor, batch):
    needs(descriptor, "translation")
    moved = with_geometry(batch, batch.positions + np.array([0.7, -11.3, 2.9]), batch.cells)
    assert_close(features(descriptor, moved), features(descriptor, batch), MOVED)


@pytest.mark.parametrize("symmetry", ["rotation", "reflection"])
def test_rotation_and_reflection(descriptor, batch, rng, symmetry):
    """Components turn like harmonics; a reflection changes the sign of pseudotensors beside."""
    needs(descriptor, symmetry)
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix *= np.linalg.det(matrix) * (1 if symmetry == "rotation" else -1)
    expected = features(descriptor, batch)
    if descriptor.n_components > 1:
        expected = np.einsum("ab,rbf->raf", representation(descriptor, matrix), expected)
    labels = descriptor.labels()
    if symmetry == "reflection" and "parity" in labels:
        expected = expected * labels.parity.values
    assert_close(features(descriptor, transformed(batch, matrix)), expected, MOVED)


def representation(descriptor, matrix):
    """What a rotation or reflection of space does to the harmonics of the components' degree."""
    degree = (descriptor.n_components - 1) // 2
    points = np.random.default_rng(0).normal(size=(50, 3))
    before, after = real_harmonics(degree, points), real_harmonics(degree, points @ matrix.T)
    transposed, *_ = np.linalg.lstsq(before, after)
    return transposed.T


def real_harmonics(degree, points):
    """Harmonics with sines first, without Condon–Shortley phase, shape (n_points, 2 l + 1)."""
    x, y, z = (points / np.linalg.norm(points, axis=1, keepdims=True)).T
    m = np.arange(-degree, degree + 1)
    polar, azimuth = np.arccos(z)[:, None], np.arctan2(y, x)[:, None]
    values = (-1.0) ** m * sph_harm_y(degree, np.abs(m), polar, azimuth)
    factor = np.where(m == 0, 1, np.sqrt(2))
    return factor * np.where(m < 0, values.imag, values.real)


def test_permutation_of_atoms(descriptor, accepted, rng):
    needs(descriptor, "permutation")
    for structure in accepted.values():
        order = rng.permutation(structure.n_atoms)
        permuted = Structures.single(
            structure.numbers[order],
            structure.positions[order],
            structure.cells[0],
            structure.pbc[0],
        )
        expected = features(descriptor, structure)
        if descriptor.per == "atom":
            expected = expected[order]
        assert_close(features(descriptor, permuted), expected, ROUNDING)


def test_any_cell_of_the_same_lattice(descriptor, accepted, rng):
    """Other cell vectors, left-handed ones too, and atoms outside of the cell."""
    needs(descriptor, "cell")
    for structure in accepted.values():
        # Row operations within the periodic directions: determinant -1, the same lattice.
        periodic = np.flatnonzero(structure.pbc[0])
        change = np.eye(3)
        if len(periodic) >= 2:
            change[np.ix_(periodic[:2], periodic[:2])] = [[1, 2], [1, 1]]
        shifts = rng.integers(-2, 3, (structure.n_atoms, 3)) * structure.pbc
        moved = with_geometry(
            structure,
            structure.positions + shifts @ structure.cells[0],
            change @ structure.cells,
        )
        assert_close(features(descriptor, moved), features(descriptor, structure), MOVED)


def test_supercell_has_the_same_environments(descriptor, accepted):
    if descriptor.native_rows == "structure":
        pytest.skip("describes whole structures, which a supercell changes")
    for structure in accepted.values():
        if not structure.pbc[0, 0]:
            continue
        supercell = with_geometry(
            Structures.concatenate([structure, structure]),
            np.concatenate([structure.positions, structure.positions + structure.cells[0, 0]]),
            np.repeat(structure.cells * [[[2.0], [1.0], [1.0]]], 2, axis=0),
        )
        supercell = Structures.single(
            supercell.numbers, supercell.positions, supercell.cells[0], structure.pbc[0]
        )
        expected = features(descriptor, structure)
        if descriptor.per == "atom":
            expected = np.concatenate([expected, expected])
        assert_close(features(descriptor, supercell), expected, MOVED)


def test_continuous_while_an_atom_leaves_through_the_cutoffs_of_two_others(descriptor, accepted):
    """Walk towards the largest change, in ever smaller steps: a jump would stay as it is."""
    if descriptor.cutoff == 0 or not descriptor.is_continuous:
        pytest.skip("has no cutoff, or states that it is not continuous there")
    fixed = [[0.0, 0, 0], [1.1, 0.4, 0.3]]
    cell, is_periodic = 100 * np.eye(3), "molecule" not in accepted
    near, far = 0.5 * descriptor.cutoff, 1.5 * descriptor.cutoff
    for _ in range(4):
        distances = np.linspace(near, far, 101)
        positions = [[*fixed, r * np.array([0.36, 0.48, 0.8])] for r in distances]
        values = features(
            descriptor,
            Structures.concatenate(
                [Structures.single([14, 6, 1], p, cell, is_periodic) for p in positions]
            ),
        ).reshape(len(distances), -1)
        changes = np.abs(np.diff(values, axis=0)).max(axis=1)
        near, far = distances[changes.argmax() :][:2]
    # The last step is 1e-8 of the cutoff.
    assert changes.max() <= 1e-6 * np.abs(values).max()


def test_average_is_the_mean_over_atoms(descriptor, batch, summed):
    """The features', and that of the gradients, summed over all centres."""
    if descriptor.average != "none" or "outer" not in descriptor.averages:
        pytest.skip("is averaged itself, or has no outer average")
    average = changed(descriptor, average="outer").compute(batch, descriptor.gradients)
    n = batch.n_atoms_per_structure
    sums = np.add.reduceat(summed.features.values, batch.structure_offsets[:-1])
    assert_close(average.features.values, np.einsum("s...,s->s...", sums, 1 / n), ROUNDING)
    if "positions" in descriptor.gradients:
        total = summed.gradient_positions.sum("centre_species").values
        per_atom = 1 / n[batch.structure_index]
        expected = np.einsum("a...,a->a...", total, per_atom)
        assert_close(average.gradient_positions.values, expected, ROUNDING)
    if "strain" in descriptor.gradients:
        total = summed.gradient_strain.sum("centre_species").values
        assert_close(
            average.gradient_strain.values, np.einsum("s...,s->s...", total, 1 / n), ROUNDING
        )


def test_any_average_over_one_atom_is_that_atom(descriptor, accepted):
    if descriptor.native_rows == "structure":
        pytest.skip("describes whole structures")
    crystal = Structures.from_ase(bulk("C", "fcc", 2.9))
    atom = crystal if "crystal" in accepted else STRUCTURES["isolated"]
    expected = features(changed(descriptor, average="none"), atom)
    for average in descriptor.averages:
        assert_close(features(changed(descriptor, average=average), atom), expected, ROUNDING)


# ----- Gradients


def _needs_gradient(descriptor, name):
    if name not in descriptor.gradients:
        assert descriptor.not_differentiable, "says neither how nor why not"
        pytest.skip(descriptor.not_differentiable)


def test_position_gradients_against_finite_differences(descriptor, accepted):
    _needs_gradient(descriptor, "positions")
    for structure in accepted.values():
        expected = finite_differences.by_positions(descriptor, structure)
        result = descriptor.compute(structure, ["positions"])
        values = result.features.values
        if descriptor.per == "structure":
            assert_gradient(result.gradient_positions.values, expected[:, :, 0], values)
            continue
        assert_gradient(_by_atoms(result), expected, values)
        result = descriptor.compute(structure, ["positions"], rows="summed")
        for s, centres in enumerate(_centres(result, structure)):
            of_species = result.gradient_positions.values[:, s]
            assert_gradient(of_species, expected[:, :, centres].sum(axis=2), values)


def test_strain_gradients_against_finite_differences(descriptor, accepted):
    _needs_gradient(descriptor, "strain")
    for structure in accepted.values():
        expected = np.moveaxis(finite_differences.by_strain(descriptor, structure), 2, 0)
        result = descriptor.compute(structure, ["strain"])
        values = result.features.values
        assert_gradient(result.gradient_strain.values, expected, values)
        if descriptor.per == "structure":
            continue
        result = descriptor.compute(structure, ["positions", "strain"], rows="summed")
        for s, centres in enumerate(_centres(result, structure)):
            of_species = result.gradient_strain.values[0, s]
            assert_gradient(of_species, expected[centres].sum(axis=0), values)


def _centres(result, structure):
    """Atoms of each centre species."""
    for symbol in result.centre_species.values:
        yield [symbol in ("any", own) for own in structure.to_ase()[0].symbols]


def _by_atoms(by_pairs):
    """Gradients of every centre by every atom, (n_atoms, 3, n_centres, ...), from rows per pair."""
    rows = by_pairs.gradient_positions.values
    n = by_pairs.sizes["atom"]
    centre = np.repeat(np.arange(n), np.diff(by_pairs.pair_offsets.values))
    result = np.zeros((n, n, *rows.shape[1:]))
    np.add.at(result, (by_pairs.neighbour_index.values, centre), rows)
    np.subtract.at(result, (centre, centre), rows)
    return np.moveaxis(result, 1, 2)


def test_moving_all_atoms_together_changes_nothing(descriptor, batch, summed):
    _needs_gradient(descriptor, "positions")
    gradients = summed.gradient_positions.values
    totals = np.add.reduceat(gradients, batch.structure_offsets[:-1])
    assert np.abs(totals).max() <= ROUNDING * np.abs(gradients).max()


def test_features_are_the_same_with_and_without_gradients(descriptor, batch, dataset, summed):
    alone = features(descriptor, batch)
    # Triples are summed in another order where gradients are wanted.
    assert_close(dataset.features.values, alone, ROUNDING)
    assert_close(summed.features.values, alone, ROUNDING)


# ----- How a batch is cut


def test_the_same_numbers_alone_and_in_a_batch(descriptor, accepted, batch, dataset):
    for s, structure in enumerate(accepted.values()):
        alone = descriptor.compute(structure, descriptor.gradients)
        atoms = slice(*batch.structure_offsets[s : s + 2])
        rows = {"atom": atoms, "structure": slice(s, s + 1)}
        if "pair_offsets" in dataset:
            rows["pair"] = slice(*dataset.pair_offsets.values[[atoms.start, atoms.stop]])
        for name, array in alone.data_vars.items():
            if name in ("features", "gradient_positions", "gradient_strain"):
                in_batch = dataset[name].values[rows[array.dims[0]]]
                np.testing.assert_array_equal(array.values, in_batch, err_msg=name)


@pytest.mark.parametrize("gradients", [NOTHING, *EVERYTHING], ids=["none", "pairs", "summed"])
def test_any_range_of_rows_is_that_slice_of_all_rows(descriptor, batch, rng, gradients):
    if gradients.any and set(descriptor.gradients) != {"positions", "strain"}:
        pytest.skip(descriptor.not_differentiable)
    neighbours, _ = find_neighbours(batch, descriptor.cutoff)
    n = batch.n_structures if descriptor.counts_structures(gradients) else batch.n_atoms

    def rows(first, last):
        result = empty_rows(descriptor, batch, neighbours, first, last, gradients)
        for array in result:
            # What is not written shows.
            array[...] = np.nan
        descriptor.compute_rows(batch, neighbours, first, last, gradients, result)
        return result

    everything = rows(0, n)
    for array in everything:
        assert not np.isnan(array).any()
    cuts = np.sort(rng.choice(np.arange(1, n), size=min(3, n - 1), replace=False))
    bounds = [0, *cuts.tolist(), n]
    pieces = [rows(first, last) for first, last in pairwise(bounds)]
    for name, whole, *parts in zip(Rows._fields, everything, *pieces, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=name)


@pytest.mark.parametrize("gradients", EVERYTHING, ids=["pairs", "summed"])
@pytest.mark.parametrize("max_nbytes", [1, 100_000])
def test_memory_that_other_rows_were_in_makes_no_difference(
    descriptor, batch, rng, gradients, max_nbytes
):
    if not descriptor.gradients:
        pytest.skip(descriptor.not_differentiable)
    neighbours, _ = find_neighbours(batch, descriptor.cutoff)
    blocks = list(descriptor.blocks(batch, neighbours, gradients, max_nbytes))
    memory = RowMemory(descriptor, gradients)
    for number in rng.permutation(2 * len(blocks)) % len(blocks):
        first, last = blocks[number]
        found = memory.compute(batch, neighbours, first, last)
        expected = empty_rows(descriptor, batch, neighbours, first, last, gradients)
        descriptor.compute_rows(batch, neighbours, first, last, gradients, expected)
        for name, actual, array in zip(Rows._fields, found, expected, strict=True):
            np.testing.assert_array_equal(actual, array, err_msg=name)


@pytest.mark.parametrize("gradients", [NOTHING, *EVERYTHING], ids=["none", "pairs", "summed"])
@pytest.mark.parametrize("max_nbytes", [1, 20_000, 2**40])
def test_blocks_cover_all_rows_once_and_stay_below_their_size(
    descriptor, batch, gradients, max_nbytes
):
    neighbours, _ = find_neighbours(batch, descriptor.cutoff)
    blocks = list(descriptor.blocks(batch, neighbours, gradients, max_nbytes))
    n = batch.n_structures if descriptor.counts_structures(gradients) else batch.n_atoms
    assert [row for block in blocks for row in range(*block)] == list(range(n))
    for first, last in blocks:
        rows = empty_rows(descriptor, batch, neighbours, first, last, gradients)
        assert sum(array.nbytes for array in rows) <= max_nbytes or last == first + 1


def test_no_structures_give_no_rows(descriptor):
    dataset = descriptor.compute(Structures.empty(), descriptor.gradients)
    assert dataset.sizes[descriptor.per] == 0
    assert dataset.sizes["feature"] == descriptor.n_features


def test_input_is_not_modified(descriptor, batch):
    before = pickle.dumps(batch)
    descriptor.compute(batch, descriptor.gradients)
    assert pickle.dumps(batch) == before


def test_single_precision_is_double_precision_rounded_once(descriptor, batch, dataset):
    single = changed(descriptor, dtype="float32").compute(batch, descriptor.gradients)
    for name in ("features", "gradient_positions", "gradient_strain"):
        if name in dataset:
            assert single[name].dtype == np.float32
            # Half a unit in the last place. What cancels keeps the rounding of double precision,
            # which the two compilations of a kernel may do differently (a product and a sum fused
            # or not), and numbers below the smallest normal float32 lose more.
            expected = dataset[name].values
            np.testing.assert_allclose(
                single[name].values.astype(np.float64),
                expected,
                rtol=2.0**-24,
                atol=max(1e-37, 1e-14 * np.abs(expected).max(initial=0)),
                err_msg=name,
            )


# ----- What it says about itself


def test_labels_tell_all_features_apart(descriptor):
    labels = descriptor.labels()
    assert labels.sizes["feature"] == descriptor.n_features
    columns = [labels[name] for name in sorted(labels.variables)]
    assert all(column.dims == ("feature",) for column in columns)
    rows = set(zip(*(column.values.tolist() for column in columns), strict=True))
    # NaN (no such parameter) differs from itself, so compare as text.
    assert len({repr(row) for row in rows}) == descriptor.n_features


def test_arrays_carry_units_names_and_provenance(descriptor, dataset, summed):
    for result in (dataset, summed):
        for name, array in result.data_vars.items():
            assert {"units", "long_name"} <= array.attrs.keys(), name
        assert result.attrs["descriptor_id"] == descriptor.descriptor_id
        assert json.loads(result.attrs["parameters"]) == descriptor.parameters
    expected = (descriptor.n_components,) if descriptor.n_components > 1 else ()
    assert dataset.features.shape[1:] == (*expected, descriptor.n_features)


def test_states_its_title_its_papers_and_its_options(descriptor):
    assert descriptor.title
    assert descriptor.body_order
    assert descriptor.citations
    for citation in descriptor.citations:
        assert citation.doi.startswith("10."), citation
    for name, field in type(descriptor).model_fields.items():
        assert field.description, name
    assert descriptor.symmetries <= SYMMETRIES
    assert "none" in descriptor.averages


def test_parameters_survive_json_and_pickle(descriptor):
    parameters = json.loads(json.dumps(descriptor.parameters))
    for copy in (
        type(descriptor).model_validate(parameters),
        pickle.loads(pickle.dumps(descriptor)),
    ):
        assert copy == descriptor
        assert copy.descriptor_id == descriptor.descriptor_id


def test_identity_does_not_depend_on_the_order_of_species(descriptor):
    if descriptor.species is None:
        pytest.skip("takes any species")
    reordered = changed(descriptor, species=tuple(reversed(descriptor.species)))
    assert reordered.descriptor_id == descriptor.descriptor_id


def test_identity_changes_with_every_parameter(descriptor):
    tried = set()
    for name, value in descriptor.parameters.items():
        for other in _other_values(descriptor, name, value):
            try:
                different = changed(descriptor, **{name: other})
            except ValidationError:
                continue
            if different != descriptor:
                tried.add(name)
                assert different.descriptor_id != descriptor.descriptor_id, (name, other)
    assert "dtype" in tried


def _other_values(descriptor, name, value):
    """Values near one that may be valid in its place."""
    schema = type(descriptor).model_json_schema()["properties"][name]
    yield from schema.get("enum", ())
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 0.99, value - 1)
    elif isinstance(value, list):
        yield value[:-1]


def test_unknown_parameter_is_refused(descriptor):
    with pytest.raises(ValidationError, match="no_such_parameter"):
        changed(descriptor, no_such_parameter=1)


def test_unknown_species_is_set_aside_by_name(descriptor, accepted):
    if descriptor.species is None:
        pytest.skip("takes any species")
    structure = next(iter(accepted.values()))
    with_xenon = replace(structure, numbers=np.full_like(structure.numbers, 54))
    structures = Structures.concatenate([structure, with_xenon])
    good, bad = descriptor.check(structures)
    assert good is None
    assert bad.code == "unknown_species"
    assert "Xe" in bad.reason
    with pytest.raises(StructureError, match=r"structure 1 .*Xe"):
        descriptor.compute(structures)


def test_what_is_not_accepted_has_a_reason(descriptor, accepted):
    for name, structure in STRUCTURES.items():
        if name not in accepted:
            (problem,) = descriptor.check(structure)
            assert problem.code
            assert len(problem.reason) > len(problem.code)


def test_gradients_that_do_not_exist_are_refused(descriptor, batch):
    with pytest.raises(ValueError, match="no gradient"):
        descriptor.compute(batch, ["temperature"])


@pytest.mark.parametrize("gradients", [NOTHING, Gradients("summed"), *EVERYTHING])
def test_cost_is_positive_and_grows_with_what_is_asked(descriptor, gradients):
    cost = descriptor.cost(30.0, gradients)
    assert 0 < descriptor.cost(0.0, NOTHING) <= descriptor.cost(30.0, NOTHING) <= cost
    assert cost < 1.0


@pytest.mark.parametrize("name", descriptors.names())
@pytest.mark.parametrize("species", [("Si",), ("H", "C"), ("H", "C", "N", "O", "S", "Cl")])
def test_every_kind_gives_examples_for_any_species(name, species):
    for example in descriptors.get(name).examples(species):
        assert example.n_features > 0
