"""Extended XYZ: what a file says is what comes out, and damage stays where it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atomlake.errors import SourceError
from atomlake.sources import extxyz
from atomlake.sources.base import LabelKeys, Source
from atomlake.sources.extxyz import ExtendedXyz

WATER = "3\nwater\nO 0.0 0.0 0.1\nH 0.0 0.7 -0.4\nH 0.0 -0.7 -0.4\n"
CELL = 'Lattice="4.0 0.0 0.0 0.0 4.0 0.0 0.0 0.0 5.0"'


def frame(comment, *lines):
    return "\n".join([str(len(lines)), comment, *lines]) + "\n"


def helium(k):
    return frame(f"number {k}", f"He {k}.0 0.0 0.0", f"He {k}.0 0.0 2.0")


# ----- Geometry


def test_plain_xyz(look_at, write):
    found = look_at(write(WATER))
    assert found.structures.numbers.tolist() == [8, 1, 1]
    assert found.structures.positions.tolist() == [[0, 0, 0.1], [0, 0.7, -0.4], [0, -0.7, -0.4]]
    assert not found.structures.cells.any()
    assert not found.structures.pbc.any()
    assert found.index.keys.to_list() == ["0"]
    assert found.index.n_atoms.tolist() == [3]
    assert np.isnan(found.index.volumes[0])


def test_rows_of_lattice_are_cell_vectors(look_at, write):
    comment = 'Lattice="1 2 3 0 4 5 0 0 6" Properties=species:S:1:pos:R:3'
    found = look_at(write(frame(comment, "Si 0 0 0")))
    assert found.structures.cells[0].tolist() == [[1, 2, 3], [0, 4, 5], [0, 0, 6]]
    assert found.index.volumes.tolist() == [24]


@pytest.mark.parametrize(
    ("comment", "pbc"),
    [
        ("nothing", [False] * 3),
        (CELL, [True] * 3),
        (f'{CELL} pbc="T T F"', [True, True, False]),
        (f'{CELL} pbc="F F F"', [False] * 3),
        (f"{CELL} pbc=[True, False, True]", [True, False, True]),
        (f'pbc = "1 0 0" {CELL}', [True, False, False]),
        (f"{CELL} pbc=F", [False] * 3),
        (f'{CELL} pbc="true false TRUE"', [True, False, True]),
    ],
)
def test_periodicity_follows_ase(look_at, write, comment, pbc):
    text = frame(comment, "Si 0 0 0")
    assert look_at(write(text)).structures.pbc[0].tolist() == pbc
    assert ase.io.read(io.StringIO(text), format="extxyz").pbc.tolist() == pbc


@pytest.mark.parametrize(
    "comment",
    [
        'a="b c" Lattice="1 0 0 0 2 0 0 0 3" Properties=species:S:1:pos:R:3 d=\'e f\'',
        "Lattice={1 0 0 0 2 0 0 0 3} Properties={species:S:1:pos:R:3}",
        "Lattice=[[1, 0, 0], [0, 2, 0], [0, 0, 3]] flag",
        'text="Lattice=\\"9 9 9\\" energy=3" Lattice = "1,0,0,0,2,0,0,0,3"',
    ],
)
def test_ways_to_quote(look_at, write, comment):
    found = look_at(write(frame(comment, "Si 0 0 0")))
    assert np.diag(found.structures.cells[0]).tolist() == [1, 2, 3]
    assert "energy" not in found.structures.structure_labels


@pytest.mark.parametrize(
    ("properties", "line", "number"),
    [
        ("species:S:1:pos:R:3", "Fe 1 2 3", 26),
        ("species:S:1:pos:R:3", "fe 1 2 3", 26),
        ("species:S:1:pos:R:3", "FE 1 2 3", 26),
        ("species:S:1:pos:R:3", "26 1 2 3", 26),
        ("species:S:1:pos:R:3", "X 1 2 3", 0),
        ("pos:R:3:Z:I:1", "1 2 3 26", 26),
        ("species:S:1:pos:R:3:Z:I:1", "Au 1 2 3 26", 26),
        ("id:I:1:species:S:1:tag:S:1:pos:R:3:fixed:L:1", "7 Fe a 1 2 3 T", 26),
    ],
)
def test_columns(look_at, write, properties, line, number):
    found = look_at(write(frame(f"Properties={properties}", line)))
    assert found.structures.numbers.tolist() == [number]
    assert found.structures.positions.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("species", ["D", "C1", "Fe2+", "Xx", "119", "-1", "²", "Unobtainium"])
def test_what_is_no_species_is_named(look_at, write, species):
    found = look_at(write(helium(0) + frame("", f"{species} 0 0 0") + helium(1)))
    assert found.codes == {1: "unknown_species"}
    assert species[:8] in found.reasons[1]
    assert found.rows == [0, 2]


def test_numbers_keep_every_digit(look_at, write, rng):
    positions = rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-12, 6, size=(50, 1))
    lines = ["C " + " ".join(map(repr, row)) for row in positions.tolist()]
    assert np.array_equal(look_at(write(frame("", *lines))).structures.positions, positions)


def test_what_is_not_finite_is_read_and_left_to_the_checks(look_at, write):
    found = look_at(write(frame("", "C nan 0 inf", "C 0 -Infinity 0")))
    assert np.isfinite(found.structures.positions).sum() == 3


def test_exponents_of_fortran(look_at, write):
    found = look_at(write(helium(0) + frame("", "D 1.5D-1 0 0", "C 1.5D-1 -2d+2 3.D0")))
    assert found.codes == {1: "unknown_species"}
    found = look_at(write(helium(0) + frame("", "C 1.5D-1 -2d+2 3.D0")))
    assert found.structures.positions[2].tolist() == [0.15, -200, 3]
    assert look_at(write(helium(0) + frame("", "C 0.D0315431 0 0"))).codes == {1: "malformed"}


def test_cell_vectors_after_the_atoms(look_at, write):
    text = "1\n\nC 0 0 0\nVEC1 3.0 0.0 0.0\nVEC2 0.0 4.0 0.0\n" + WATER
    found = look_at(write(text))
    assert found.structures.cells[0].tolist() == [[3, 0, 0], [0, 4, 0], [0, 0, 0]]
    assert found.structures.pbc.tolist() == [[True, True, False], [False] * 3]


def test_more_columns_than_announced_are_ignored(look_at, write):
    found = look_at(write(frame("", "C 0 0 0 0.3 label", "H 1 0 0 0.1")))
    assert found.structures.numbers.tolist() == [6, 1]


def test_an_empty_structure_is_a_structure(look_at, write):
    found = look_at(write(helium(0) + "0\nnobody\n" + helium(1)))
    assert found.structures.n_atoms_per_structure.tolist() == [2, 0, 2]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_blank_lines_and_line_ends(look_at, write, end):
    text = f"\n\n  2\n\nHe\t0 0 0 \n He 0 0 1\n\n \n{helium(1)}\n\n\n".replace("\n", end)
    found = look_at(write(text))
    assert found.structures.n_atoms_per_structure.tolist() == [2, 2]
    assert not found.codes


def test_last_line_needs_no_end(look_at, write):
    assert len(look_at(write((helium(0) + helium(1)).rstrip("\n"))).structures) == 2


# ----- Labels


def test_labels_that_ase_knows_are_found_by_themselves(look_at, write):
    comment = (
        "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 free_energy=-9 "
        'stress="1 2 3 4 5 6" dipole="1 2 3"'
    )
    found = look_at(write(frame(comment, "C 0 0 0 1 2 3", "C 0 0 1 4 5 6"))).structures
    assert found.structure_labels["energy"].tolist() == [-1.5]
    assert found.structure_labels["stress"].tolist() == [[[1, 6, 5], [6, 2, 4], [5, 4, 3]]]
    assert found.atom_labels["forces"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert set(found.structure_labels) | set(found.atom_labels) == {"energy", "stress", "forces"}


def test_labels_that_the_recipe_names(look_at, write):
    comment = (
        "Properties=species:S:1:pos:R:3:force:R:3:charge:R:1:dipoles:R:3 energy=1 dft_energy=2 "
        'sigma="1 2 3 2 4 5 3 5 6" gap=0.5 moment="1 2"'
    )
    found = look_at(
        write(frame(comment, "C 0 0 0 1 2 3 0.1 7 8 9") + WATER),
        energy="dft_energy",
        forces="force",
        stress="sigma",
        structure=("gap", "moment"),
        atom=("charge", "dipoles"),
    ).structures
    assert found.structure_labels["energy"][0] == 2
    assert found.structure_labels["stress"][0].tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
    assert found.structure_labels["gap"][0] == 0.5
    assert found.structure_labels["moment"][0].tolist() == [1, 2]
    assert found.atom_labels["forces"][0].tolist() == [1, 2, 3]
    assert found.atom_labels["charge"][0] == 0.1
    assert found.atom_labels["dipoles"][0].tolist() == [7, 8, 9]
    for label in found.structure_labels.values():
        assert np.isnan(label[1]).all()
    for label in found.atom_labels.values():
        assert np.isnan(label[1:]).all()


def test_a_label_of_the_wrong_kind(look_at, write):
    path = write(frame("energy=low", "C 0 0 0") + frame("energy=1 note=high", "C 0 0 0"))
    found = look_at(path)
    assert not found.codes
    assert np.isnan(found.structures.structure_labels["energy"][0])
    found = look_at(path, energy="energy")
    assert found.codes == {0: "malformed_label"}
    assert "'low'" in found.reasons[0]
    assert look_at(path, structure=("note",)).codes == {1: "malformed_label"}
    path = write(frame("Properties=species:S:1:pos:R:3:name:S:1", "C 0 0 0 x"))
    assert look_at(path, atom=("name",)).codes == {0: "malformed_label"}
    assert look_at(path, forces="pos").codes == {}


@pytest.mark.parametrize(
    "keys", [{"structure": ("energy",)}, {"atom": ("q", "forces")}, {"structure": "a", "atom": "a"}]
)
def test_a_label_has_one_meaning(keys):
    with pytest.raises(ValueError, match="would be stored twice"):
        LabelKeys(**{name: tuple(value) for name, value in keys.items()})


def test_a_label_has_one_shape(look_at, write):
    text = frame('q="1 2"', "C 0 0 0") + frame("q=3", "C 0 0 0") + frame('q="4 5"', "C 0 0 0")
    found = look_at(write(text), structure=("q",))
    assert found.codes == {1: "label_shape"}
    assert found.structures.structure_labels["q"].tolist() == [[1, 2], [4, 5]]


# ----- Hashes and fingerprints


def test_equal_records_have_equal_hashes(look_at, write):
    found = look_at(write(helium(0) + helium(1) + helium(0)))
    hashes = [bytes(row) for row in found.index.record_hashes]
    assert hashes[0] == hashes[2] != hashes[1]
    again = look_at(write("\n" + helium(1) + WATER, "other.xyz"))
    assert bytes(again.index.record_hashes[0]) == hashes[1]
    named = look_at(write(helium(1), "named.xyz"), energy="e")
    assert bytes(named.index.record_hashes[0]) != hashes[1]


def test_a_fingerprint_that_is_known_is_not_computed_again(look_at, write, monkeypatch):
    path = write(helium(0))
    reader = look_at(path).reader
    first = reader.fingerprint()
    assert first.nbytes == path.stat().st_size
    monkeypatch.setattr(Path, "open", None)
    assert reader.fingerprint(first) == first
    monkeypatch.undo()
    os.utime(path, ns=(1, 1))
    assert reader.fingerprint(first) == first._replace(mtime_ns=1)
    path.write_text(helium(1))
    assert reader.fingerprint(first).digest != first.digest


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz"])
def test_a_missing_file(tmp_path, name):
    reader = ExtendedXyz(str(tmp_path / name), Source(path=name), tmp_path)
    for method in (reader.fingerprint, reader.index, lambda: reader.read(np.zeros((1, 2), int))):
        with pytest.raises(SourceError, match=f"{name} cannot be read: No such file"):
            method()


def test_a_full_scratch_folder_is_no_fault_of_the_file(look_at, write, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = write(gzip.compress(WATER.encode(), mtime=0), "a.xyz.gz")
    with pytest.raises(OSError, match="No space left"):
        look_at(path)
    assert not list((path.parent / "scratch").iterdir())


# ----- Damage


@pytest.mark.parametrize(
    ("damaged", "code"),
    [
        ("3\nfewer\nHe 0 0 0\nHe 0 0 1\n", "malformed"),
        ("2\nmore\nHe 0 0 0\nHe 0 0 1\nHe 0 0 2\n", "malformed"),
        ("two\nno count\nHe 0 0 0\nHe 0 0 1\n", "malformed"),
        ("2\nHe 0 0 0\nHe 0 0 1\n", "malformed"),
        ("99999999\ntoo many\nHe 0 0 0\nHe 0 0 1\n", "malformed"),
        ("2\ncut\nHe 0 0 0\nHe 0.", "malformed"),
        ("random words\n", "malformed"),
        ("\0\0\0\0\xff\xfe\n\0\n", "malformed"),
        ("2\nno number\nHe 0 0 0\nHe 0 0 zero\n", "malformed"),
        ("2\nfew columns\nHe 0 0 0\nHe 0 0\n", "malformed"),
        ("2\nblank\nHe 0 0 0\n\n", "malformed"),
        ('1\nLattice="1 0 0"\nHe 0 0 0\n', "malformed"),
        ('1\nLattice="a b c d e f g h i"\nHe 0 0 0\n', "malformed"),
        ('1\npbc="T T"\nHe 0 0 0\n', "malformed"),
        ("1\npbc=perhaps\nHe 0 0 0\n", "malformed"),
        ('1\nLattice="1 0 0 0 1 0 0 0 1\nHe 0 0 0\n', "malformed"),
        ("1\nLattice={1 0 0 0 1 0 0 0 1\nHe 0 0 0\n", "malformed"),
        ('1\nenergy=1 pbc="T T F\nHe 0 0 0\n', "malformed"),
        ('1\nProperties="\nHe 0 0 0\n', "malformed"),
        ("1\nProperties=species:S:1\nHe 0 0 0\n", "malformed"),
        ("1\nProperties=pos:R:3\n0 0 0\n", "malformed"),
        ("1\nProperties=species:S:1:pos:S:3\nHe 0 0 0\n", "malformed"),
        ("1\nProperties=5\nHe 0 0 0\n", "malformed"),
        ("1\nProperties=species:S:1:pos:R:999999999\nHe 0 0 0\n", "malformed"),
        ("1\nProperties=species:S:1:pos:R:3:on:L:1\nHe 0 0 0 maybe\n", "malformed"),
        ("1\nlong\nHe " + 5000 * "9x" + " 0 0\n", "malformed"),
    ],
)
@pytest.mark.parametrize("block_nbytes", [1, 100, 2**23])
def test_damage_takes_nothing_else_with_it(
    look_at, write, monkeypatch, damaged, code, block_nbytes
):
    monkeypatch.setattr(extxyz, "BLOCK_NBYTES", block_nbytes)
    text = helium(0) + helium(1) + damaged
    text += "\n" * (not damaged.endswith("\n")) + helium(2) + helium(3)
    found = look_at(write(text))
    assert found.structures.positions[::2, 0].tolist() == [0, 1, 2, 3]
    assert list(found.codes) == [2]
    assert found.codes[2] == code
    assert len(found.reasons[2]) < 300


def test_reasons_name_line_and_content(look_at, write):
    found = look_at(write(helium(0) + "He 1 2\n" + helium(1)))
    assert found.reasons[1] == (
        "line 5: expected the number of atoms, found 'He 1 2'; lines 5 to 5 are left out"
    )
    found = look_at(write(frame("", "He 0 0 0", "He 0 zero 0") + helium(1)))
    assert found.reasons[0] == "atom 1: expected a number in column 3, found 'zero'"


def test_a_file_that_ends_too_early(look_at, write):
    text = helium(0) + WATER
    for stop in range(len(helium(0)) + 2, len(text) - len("H 0.0 -0.7 -0.4\n") + 1):
        found = look_at(write(text[:stop]))
        assert len(found.structures) == 1
        is_last_line = stop > len(text) - len("H 0.0 -0.7 -0.4\n")
        assert found.codes == {1: "malformed" if is_last_line else "truncated"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n  \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 50, "expected the number of atoms"),
        (gzip.compress(WATER.encode(), mtime=0), "expected the number of atoms"),
        (b"H 0 0 0\nH 0 0 1\n", "found 'H 0 0 0'"),
        (b'{"a": 1}', "expected the number of atoms"),
    ],
)
def test_what_holds_no_structure_is_refused_as_a_whole(look_at, write, content, reason):
    with pytest.raises(SourceError, match=reason):
        look_at(write(content))


def test_a_line_without_end_does_not_fill_the_memory(look_at, write, monkeypatch):
    monkeypatch.setattr(extxyz, "MAX_LINE_NBYTES", 2**12)
    monkeypatch.setattr(extxyz, "BLOCK_NBYTES", 2**10)
    with pytest.raises(SourceError, match="line 3 is longer than"):
        look_at(write("1\ncomment\n" + "x" * 2**14))


# ----- Compression

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": partial(lzma.compress, preset=0)}


@pytest.fixture(params=COMPRESS)
def suffix(request):
    return request.param


def test_compressed_files(look_at, write, suffix):
    text = helium(0) + WATER
    found = look_at(write(COMPRESS[suffix](text.encode()), f"a.extxyz.{suffix}"))
    plain = look_at(write(text, "a.extxyz"))
    assert np.array_equal(found.structures.positions, plain.structures.positions)
    assert np.array_equal(found.index.record_hashes, plain.index.record_hashes)


def test_a_file_made_of_several_compressed_streams(look_at, write, suffix):
    parts = [helium(0)[:20], helium(0)[20:] + helium(1), WATER]
    content = b"".join(COMPRESS[suffix](part.encode()) for part in parts)
    assert len(look_at(write(content, f"a.xyz.{suffix}")).structures) == 3


def test_a_copy_is_made_once_and_again_where_it_is_missing(look_at, write, suffix, tmp_path):
    path = write(COMPRESS[suffix](helium(0).encode()), f"a.xyz.{suffix}")
    found = look_at(path)
    (copy,) = (tmp_path / "scratch").iterdir()
    assert copy.read_text() == helium(0)
    copy.unlink()
    worker = ExtendedXyz(str(path), Source(path=str(path)), tmp_path / "scratch")
    assert len(worker.read(found.index.locations).structures) == 1
    state = copy.stat().st_mtime_ns
    assert len(worker.read(found.index.locations).structures) == 1
    assert copy.stat().st_mtime_ns == state
    path.write_bytes(COMPRESS[suffix]((helium(5) + WATER).encode()))
    assert len(worker.read(worker.index().locations).structures) == 2


def test_a_compressed_file_that_ends_too_early(look_at, write, suffix, rng):
    # More than the 900 kB that bzip2 compresses at once.
    frames = [
        frame(
            f"{k}",
            *(
                "C " + " ".join(map(repr, row))
                for row in rng.normal(size=(60, 3)).round(5).tolist()
            ),
        )
        for k in range(900)
    ]
    content = COMPRESS[suffix]("".join(frames).encode())
    found = look_at(write(content[: int(0.85 * len(content))], f"a.xyz.{suffix}"))
    n = len(found.structures)
    assert n > 100
    assert found.codes == {n: "truncated"}
    whole = look_at(write("".join(frames[:n]), "whole.xyz"))
    assert np.array_equal(found.structures.positions, whole.structures.positions)


def test_a_compressed_file_that_ends_between_structures(look_at, write):
    content = gzip.compress(helium(0).encode()) + gzip.compress(helium(1).encode())[:5]
    found = look_at(write(content, "a.xyz.gz"))
    assert len(found.structures) == 1
    assert found.codes == {1: "truncated"}


def test_a_damaged_or_mislabelled_compressed_file_is_refused(look_at, write, suffix):
    path = write(WATER, f"a.xyz.{suffix}")
    with pytest.raises(SourceError, match="cannot be decompressed"):
        look_at(path)
    content = bytearray(COMPRESS[suffix]((helium(0) * 100).encode()))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SourceError, match="not to be trusted"):
        look_at(path)
    assert not list((path.parent / "scratch").glob("*.part"))


# ----- Against ase, and against chance


def test_equal_to_ase_on_real_files(look_at, shared_data):
    names = [
        "flare_sic/sic_dft",
        "fairchem_samples/toy_c3h8_relax",
        "mace_tutorial_solvents/solvent_xtb_train_50",
        "large_systems/pet_bulk_small_cell",
        "cookbook_misc/C2",
    ]
    for name in names:
        path = shared_data / f"{name}.extxyz.xz"
        found = look_at(path)
        expected = ase.io.read(path, ":", format="extxyz")
        assert len(expected) == len(found.structures)
        energies = found.structures.structure_labels.get("energy", np.full(len(expected), np.nan))
        for s, atoms in enumerate(expected):
            one = found.structures.take([s])
            results = atoms.calc.results if atoms.calc else {}
            assert np.array_equal(one.numbers, atoms.numbers)
            assert np.array_equal(one.positions, atoms.positions)
            assert np.array_equal(one.cells[0], atoms.cell.array)
            assert np.array_equal(one.pbc[0], atoms.pbc)
            assert found.index.n_atoms[s] == len(atoms)
            assert np.array_equal(energies[s], results.get("energy", np.nan), equal_nan=True)
            if "forces" in results:
                assert np.array_equal(one.atom_labels["forces"], results["forces"])
            if "stress" in results:
                voigt = one.structure_labels["stress"][0][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
                assert np.array_equal(voigt, results["stress"])
            if atoms.pbc.all():
                # The index holds volumes in single precision.
                assert found.index.volumes[s] == pytest.approx(atoms.cell.volume, rel=1e-6)


REAL = (
    frame(
        f'{CELL} Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="T T F" note="a b"',
        "Ta 0.0 0.0 0.0 -0.44868771 -0.48518525 -0.00869809",
        "Mo 0.0 0.0 3.322287 -0.49830617 -0.49574657 -0.00165331",
    )
    + WATER
    + helium(7)
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(REAL)),
            st.integers(0, 40),
            st.binary(max_size=12)
            | st.sampled_from([b"\n", b"3\n", b'"', b"=", b"[[", b"{", b"nan", b" ", b"9" * 30]),
        ),
        max_size=4,
    )
)
@example(edits=[])
def test_no_edit_of_a_file_raises_anything_but_source_errors(look_at, write, edits):
    content = bytearray(REAL.encode())
    for position, n_removed, inserted in edits:
        content[position : position + n_removed] = inserted
    path = write(bytes(content), "edited.xyz")
    try:
        found = look_at(path, atom=("charge",), structure=("note",))
    except SourceError:
        return
    offsets, nbytes = found.index.locations.T
    assert (offsets[1:] >= (offsets + nbytes)[:-1]).all()
    assert offsets[-1] + nbytes[-1] <= len(content)
    assert np.array_equal(found.index.n_atoms[found.rows], found.structures.n_atoms_per_structure)
    if not edits:
        assert found.codes == {0: "malformed_label"}


@settings(max_examples=300, deadline=5000)
@given(st.text(alphabet="ab=\"'{}[] \\\n,:", max_size=300), st.integers(1, 2000))
def test_time_to_take_a_comment_apart_is_linear(text, repeats):
    extxyz._pairs(text * repeats if len(text) * repeats < 10**5 else text)


#: What stands around the values of comments, and a place for a value.
AROUND = [
    " ",
    "a=",
    'b="',
    '" ',
    "c=[",
    "] ",
    '"a b"=',
    "d",
    " = ",
    "=",
    '"',
    "'",
    "{",
    "\\",
    "\u00a0",
]
VALUE = st.text(alphabet="ab1=\"'{}[] \\,", max_size=4)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(st.sampled_from(AROUND) | st.none(), max_size=12),
    st.lists(st.lists(VALUE, min_size=12, max_size=12), min_size=3, max_size=3),
)
@example(["a=", None, " ", 'b="', None, '"'], [["1"] * 12, ["2"] * 12, ["3"] * 12])
@example(["a=", None], [["1"] * 12, ["2"] * 12, ['"3"'] * 12])
@example(["a=", None, ' " b=', None], [["1"] * 12, ["2"] * 12, ['3"x'] * 12])
def test_comments_that_look_alike_are_taken_apart_as_each_alone(around, values):
    comments = extxyz._Comments()
    for of_one in values:
        pieces = zip(around, of_one, strict=False)
        comment = "".join(value if piece is None else piece for piece, value in pieces)
        for _ in range(2):  # a pattern is made of the second
            assert comments.pairs(comment) == extxyz._pairs(comment)


def test_of_comments_that_look_alike_the_third_is_not_parsed(monkeypatch):
    comments = extxyz._Comments()
    form = 'Lattice="{0} 0 0" Properties=species:S:1:pos:R:3 energy={0} pbc="T T T"'
    comments.pairs(form.format(1))
    comments.pairs(form.format(2))
    monkeypatch.setattr(extxyz, "_pairs", None)
    found = comments.pairs(form.format(-3.5))
    assert (found["Lattice"], found["energy"], found["pbc"]) == ("-3.5 0 0", "-3.5", "T T T")


@pytest.mark.parametrize(
    "piece", ['a="', "a=[", "a={", "a='", "[", '"', "a", "=", "a= ", '\\"', 'a="\\']
)
def test_a_long_comment_takes_no_long_time(piece):
    comments = extxyz._Comments()
    for tail in ("", "", " x", '"'):
        comments.pairs(piece * 100_000 + tail)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.floats(), max_size=6))
def test_numbers_in_a_comment_come_back(values):
    comment = " ".join(f"{key}={value!r}" for key, value in values.items())
    found = {key: extxyz._value(text) for key, text in extxyz._pairs(comment).items()}
    assert repr(found) == repr(values)


def test_every_block_size_gives_the_same(look_at, write, monkeypatch):
    path = write((REAL + "\n\n" + "garbage here\n" + REAL) * 5)
    first = look_at(path)
    for nbytes, n_atoms in [(1, 1), (7, 3), (64, 5), (1000, 10)]:
        monkeypatch.setattr(extxyz, "BLOCK_NBYTES", nbytes)
        monkeypatch.setattr(extxyz, "BLOCK_ATOMS", n_atoms)
        again = look_at(path)
        assert np.array_equal(again.index.record_hashes, first.index.record_hashes)
        assert again.reasons == first.reasons
        assert np.array_equal(again.structures.positions, first.structures.positions)


TEXTS = [helium(1), helium(2), "\n", "garbage here\n", "VEC1 1 0 0\n", "3\n", "He 0 0 0\n", "2"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TEXTS), min_size=1), st.lists(st.sampled_from(TEXTS), min_size=1))
@example([helium(1)], [helium(2), "\n", helium(1)])
def test_what_is_appended_is_what_follows_in_the_whole(write, head, tail):
    path = write("".join(head))
    reader = ExtendedXyz(str(path), Source(path=str(path)), path.parent)
    try:
        before, n_before = reader.fingerprint(), len(reader.index())
    except SourceError:
        return
    if reader.index().set_aside:
        return
    write("".join([*head, *tail]))
    found = reader.appended(before, n_before)
    if {*head, *tail} <= {helium(1), helium(2), "\n"} and tail[0] != "\n":
        assert found is not None, "it can be told here"
    if found is not None:
        whole = reader.index()
        assert found.keys.to_list() == whole.keys.to_list()[n_before:]
        assert np.array_equal(found.record_hashes, whole.record_hashes[n_before:])
        assert np.array_equal(found.locations, whole.locations[n_before:])
        assert np.array_equal(found.n_atoms, whole.n_atoms[n_before:])
        assert not found.set_aside
        assert not whole.set_aside


def test_an_edit_before_the_end_is_not_taken_for_growth(write):
    path = write(helium(1) + helium(2))
    reader = ExtendedXyz(str(path), Source(path=str(path)), path.parent)
    before = reader.fingerprint()
    write(helium(1) + helium(3) + helium(2))
    assert reader.appended(before, 2) is None
    write(helium(1))
    assert reader.appended(before, 2) is None


def test_any_rows_in_any_order(look_at, write):
    found = look_at(write("".join(map(helium, range(20)))))
    rows = [17, 3, 3, 0]
    result = found.reader.read(found.index.locations[rows])
    assert result.structures.positions[::2, 0].tolist() == rows
    assert found.reader.read(found.index.locations[:0]).structures.n_structures == 0


def test_species_of_a_file(look_at, write):
    found = look_at(write(REAL))
    assert found.reader.species(found.index) == [1, 2, 8, 42, 73]


def test_label_keys_are_part_of_how_a_file_is_read(tmp_path):
    salts = {
        ExtendedXyz("a.xyz", Source(path="a.xyz", labels=keys), tmp_path).record_salt
        for keys in (LabelKeys(), LabelKeys(energy="e"), LabelKeys(structure=("e",)))
    }
    assert len(salts) == 3
