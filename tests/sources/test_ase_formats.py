"""Formats that go through ase: what it reads is taken over, what could run code is refused."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2, s22
from ase.io.formats import ioformats

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources import ase_formats
from atomlake.sources.ase_formats import READABLE, REFUSED
from atomlake.sources.base import Source


def trajectory():
    for k in range(6):
        atoms = bulk("NaCl", "rocksalt", a=5.6) * (1, 1, k % 2 + 1)
        atoms.rattle(0.05, seed=k)
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=-float(k),
            forces=np.random.default_rng(k).normal(size=(len(atoms), 3)),
            stress=np.arange(6.0) * k,
        )
        yield atoms


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.traj", "traj"),
        ("a.cif", "cif"),
        ("a.xsf", "xsf"),
        ("a.pdb", "proteindatabank"),
        ("a.pdb.gz", "proteindatabank"),
        ("XDATCAR", "vasp-xdatcar"),
    ],
)
def test_equal_to_ase(look_at, tmp_path, name, format):
    images = list(trajectory())[::2]  # XDATCAR holds one composition.
    ase.io.write(tmp_path / name, images, format=format)
    found = look_at(tmp_path / name)
    expected = ase.io.read(tmp_path / name, ":")
    assert len(expected) == len(found.structures) == len(images)
    for s, atoms in enumerate(expected):
        one = found.structures.take([s])
        assert np.array_equal(one.numbers, atoms.numbers)
        assert np.array_equal(one.positions, atoms.positions)
        assert np.array_equal(one.cells[0], atoms.cell.array)
        assert np.array_equal(one.pbc[0], atoms.pbc)
        assert found.index.volumes[s] == pytest.approx(atoms.cell.volume, rel=1e-6)
    some = found.reader.read(found.index.locations[[2, 1, 1]])
    assert np.array_equal(some.structures.positions[:2], found.structures.take([2]).positions)
    assert some.structures.n_structures == 3


def test_labels_of_a_trajectory(look_at, tmp_path):
    images = list(trajectory())
    for k, atoms in enumerate(images):
        results = atoms.calc.results
        atoms.info["gap"] = 0.5
        atoms.set_initial_charges(np.full(len(atoms), 0.25))
        atoms.calc = SinglePointCalculator(atoms, **results) if k != 3 else None
    ase.io.write(tmp_path / "a.traj", images)
    found = look_at(tmp_path / "a.traj", structure=("gap",), atom=("initial_charges",)).structures
    energies = found.structure_labels["energy"]
    assert np.array_equal(energies, [0, -1, -2, np.nan, -4, -5], equal_nan=True)
    assert (found.structure_labels["gap"] == 0.5).all()
    assert (found.atom_labels["initial_charges"] == 0.25).all()
    for s, atoms in enumerate(images):
        one = found.take([s])
        if atoms.calc is None:
            assert np.isnan(one.atom_labels["forces"]).all()
        else:
            assert np.array_equal(one.atom_labels["forces"], atoms.get_forces())
            expected = atoms.get_stress(voigt=False)
            assert np.array_equal(one.structure_labels["stress"][0], expected)


def test_hashes_are_those_of_the_content(look_at, tmp_path):
    images = list(trajectory())
    ase.io.write(tmp_path / "a.traj", images[:4])
    ase.io.write(tmp_path / "b.traj", [images[1], *images])
    a, b = (look_at(tmp_path / name).index.record_hashes for name in ("a.traj", "b.traj"))
    assert np.array_equal(a, b[1:5])
    assert np.array_equal(a[1], b[0])
    assert len(np.unique(a, axis=0)) == 4


def test_a_named_format(look_at, tmp_path):
    ase.io.write(tmp_path / "relaxed", bulk("Cu"), format="vasp")
    with pytest.raises(SourceError, match="of no format that ase recognises"):
        look_at(tmp_path / "relaxed")
    assert look_at(tmp_path / "relaxed", format="vasp").structures.numbers.tolist() == [29]
    with pytest.raises(SourceError, match="ase cannot read it as cif"):
        look_at(tmp_path / "relaxed", format="cif")


@pytest.mark.parametrize("format", ["vasp-xml", "cif", "traj", "cube", "lammps-data", "xsd"])
@pytest.mark.parametrize("content", [b"", b"\0\xff" * 100, b"3\nwater\nO 0 0 0\n", b"<a><b>"])
def test_what_is_mislabelled_is_refused_as_a_whole(look_at, write, format, content):
    with pytest.raises(SourceError, match=r"ase cannot read it as|ase finds no structure"):
        look_at(write(content, "mislabelled"), format=format)


def test_a_damaged_image_takes_no_other_with_it(look_at, tmp_path):
    ase.io.write(tmp_path / "a.traj", list(trajectory()))
    first, *others = (tmp_path / "a.traj").read_bytes().split(b'"positions.":')
    content = first + b'"positions.":'.join([b"", *others[:2]]) + b'"positionX.":'
    (tmp_path / "a.traj").write_bytes(content + b'"positions.":'.join(others[2:]))
    found = look_at(tmp_path / "a.traj")
    assert found.rows == [0, 1, 3, 4, 5]
    assert found.codes == {2: "malformed"}
    assert found.reasons[2].startswith("ase cannot read it as traj (")


def test_where_ase_stops_what_precedes_is_kept(look_at, write, monkeypatch, unguarded):
    def stops(path, index, **options):
        for k, atoms in enumerate([bulk("Cu"), bulk("Au"), None, bulk("Ag")][index]):
            if atoms is None:
                raise EOFError(f"nothing\n  after image {k}")
            yield atoms

    monkeypatch.setattr(ase_formats, "iread", stops)
    found = look_at(write("", "OUTCAR"))
    assert found.structures.numbers.tolist() == [29, 79]
    assert found.codes == {2: "malformed"}
    assert found.reasons[2] == ("ase cannot read it as vasp-out (EOFError: nothing after image 2)")


def test_a_file_that_is_cut_never_raises_anything_else(look_at, tmp_path):
    ase.io.write(tmp_path / "a.traj", list(trajectory()))
    content = (tmp_path / "a.traj").read_bytes()
    for stop in range(0, len(content), 97):
        (tmp_path / "a.traj").write_bytes(content[:stop])
        try:
            assert len(look_at(tmp_path / "a.traj").structures) <= 6
        except SourceError:
            continue


def test_an_image_that_is_gone(look_at, tmp_path):
    ase.io.write(tmp_path / "a.traj", list(trajectory()))
    found = look_at(tmp_path / "a.traj")
    ase.io.write(tmp_path / "a.traj", list(trajectory())[:2])
    result = found.reader.read(found.index.locations)
    assert result.rows.tolist() == [0, 1]
    assert {problem.reason for problem in result.set_aside.values()} == {
        "there is no such image any more"
    }


CIF = """data_alloy
_cell_length_a 3
_cell_length_b 3
_cell_length_c 3
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
A1 Cu 0 0 0 1.0
B1 Au 0.5 0.5 0.5 {first}
{second}
"""


@pytest.mark.parametrize(
    ("first", "second", "codes"),
    [
        (1.0, "", {}),
        ("?", "", {}),
        (0.8, "", {0: "partial_occupancy"}),
        ("x", "", {0: "partial_occupancy"}),
        (0.6, "B2 Ag 0.5 0.5 0.5 0.4", {0: "partial_occupancy"}),
    ],
)
def test_partial_occupancy(look_at, write, first, second, codes):
    found = look_at(write(CIF.format(first=first, second=second), "alloy.cif"))
    assert found.codes == codes
    assert "full occupancy" in found.reasons.get(0, "full occupancy")


# ----- What is not read


def test_every_format_of_the_installed_ase_was_looked_at():
    """A format that a new ase brings has to be put into one of the two lists."""
    assert not READABLE & REFUSED.keys()
    own = {name for name, form in ioformats.items() if form.module_name.startswith("ase.")}
    readable = {name for name in own if ioformats[name].can_read}
    assert readable <= READABLE | REFUSED.keys()


def test_readers_of_readable_formats_import_nothing_that_runs_code():
    """Looks for the words; it cannot prove their absence, but it notices a new one."""
    import inspect
    import re

    danger = re.compile(r"\b(eval|exec|pickle|marshal|subprocess|os\.system|popen|__import__)\b")
    # Neither reaches it when it reads: what calls subprocess there runs GAMESS.
    known = {"ase.io.gamess_us"}
    for name in READABLE:
        module = ioformats[name].module
        found = danger.search(inspect.getsource(module))
        assert found is None or module.__name__ in known, (name, found)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("old.gpw", b"- of UlmGPAW" + bytes(100), "GPAW"),
        ("a.cell", b"%BLOCK LATTICE_CART\n", "CASTEP"),
        ("a.com", b"# HF\n\ntitle\n\n0 1\nH 0 0 0\n", "another file"),
        ("a.db.gz", b"", "."),
        ("a.pckl", b"\x80\x04N.", "recognise"),
        ("a.py", b"raise SystemExit\n", "recognise|executes nothing"),
    ],
)
def test_refused_files_say_why(look_at, write, name, content, reason):
    with pytest.raises(SourceError, match=reason):
        look_at(write(content, name))


@pytest.mark.parametrize("name", ["bundletrajectory", "gpw", "nonsense", "py"])
def test_refused_formats_say_why(tmp_path, name):
    with pytest.raises(SourceError, match=f"no format is called {name!r}"):
        sources.reader("a", Source(path="a", format=name), tmp_path)


# ----- What ships inside ase


def test_collections(look_at):
    for name, collection in {"g2": g2, "s22": s22}.items():
        found = look_at(f"ase:{name}")
        assert found.index.keys.to_list() == list(collection.names)
        assert len(found.structures) == len(collection)
        for s, atoms in enumerate(collection):
            assert np.array_equal(found.structures.take([s]).positions, atoms.positions)
    assert look_at("ase:g2").structures.n_structures == 162
    assert look_at("ase:dcdft").structures.n_structures == 71


def test_elements(look_at):
    found = look_at("ase:elements")
    crystals = dict(zip(found.index.keys, found.structures.to_ase(), strict=True))
    assert len(crystals) >= 70
    for symbol in ("Li", "Cu", "Si", "Mg", "Bi", "Hg", "In", "U"):
        assert np.array_equal(crystals[symbol].positions, bulk(symbol).positions)
        assert np.array_equal(crystals[symbol].cell.array, bulk(symbol).cell.array)
    assert found.structures.pbc.all()
    reader = found.reader
    assert reader.fingerprint() == reader.fingerprint(reader.fingerprint())


def test_an_unknown_collection(look_at):
    with pytest.raises(SourceError, match="no collection 'g3'; there are elements, dcdft"):
        look_at("ase:g3")


def test_molecules_come_back_through_every_reader(look_at, tmp_path):
    """The same structure, whatever file it comes from."""
    atoms = molecule("CH3CH2OH", vacuum=3.0, pbc=True)
    for name in ("a.xyz", "a.traj", "a.json", "a.db", "a.xyz.gz"):
        ase.io.write(tmp_path / name, atoms)
        found = look_at(tmp_path / name).structures
        assert np.array_equal(found.numbers, atoms.numbers)
        # Extended XYZ as ase writes it has eight decimals.
        assert found.positions == pytest.approx(atoms.positions, abs=1e-8)
        assert found.cells[0] == pytest.approx(atoms.cell.array, abs=1e-8)
        assert found.pbc.all()
