"""The suite that compares with other codes: times, agreement, what it writes and draws."""

import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

pytest.importorskip("dscribe")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers import matrices, structures
from benchmarks.peers.codes import Family
from benchmarks.peers.measure import DISAGREES, Budget, measure
from benchmarks.peers.page import Results, draw
from benchmarks.peers.structures import Group

QUICK = Budget(seconds=0.0, longest=60.0)
COULOMB = next(family for family in matrices.FAMILIES if family.name == "Coulomb matrix")


def molecules(*names):
    return Group("molecules", "two molecules", [molecule(name) for name in names])


class Wrong(matrices.Coulomb):
    """A peer whose numbers are too large."""

    def numbers(self, quantity):
        return 1.01 * super().numbers(quantity)


class Slow(matrices.Coulomb):
    """A peer that takes ever longer."""

    def growth(self, quantity):
        return 50.0


def with_peer(peer):
    return Family(COULOMB.name, "", {"features": 2.0}, COULOMB.ours, (peer,))


def test_every_quantity_of_both_codes_is_timed_and_compared():
    records = list(measure(COULOMB, [molecules("H2O", "CH3OH")], QUICK))
    measured = {(r.quantity, r.code) for r in records if r.microseconds > 0}
    quantities = ("features", "positions", "strain")
    assert measured == {(q, "atomlake") for q in quantities} | {
        ("features", "DScribe"),
        ("positions", "DScribe"),
    }
    assert all(r.n_atoms == 9 for r in records)
    assert all(r.difference < 1e-6 for r in records if r.code == "DScribe")


def test_a_peer_with_other_numbers_is_not_timed():
    *_, record = measure(with_peer(Wrong), [molecules("H2O")], QUICK)
    assert record.reason.startswith(DISAGREES)
    assert record.microseconds is None


def test_a_slow_peer_is_measured_on_fewer_atoms_and_so_is_atomlake():
    groups = [molecules("H2O"), molecules("CH3OH", "C6H6")]
    found = [(r.code, r.n_atoms) for r in measure(with_peer(Slow), groups, QUICK)]
    assert found == [("atomlake", 18), ("atomlake", 3), ("DScribe", 3)]


def test_page_and_plot_say_what_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    group = molecules("H2O", "CH3OH")
    results = Results.read(tmp_path / "page.json")
    assert not results.has(COULOMB, "molecules")
    records = list(measure(COULOMB, [group], QUICK))
    results.replace(COULOMB, group, records)
    results.write()
    read = Results.read(tmp_path / "page.json")
    assert read.has(COULOMB, "molecules")
    draw(read, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text("utf-8")
    ours, theirs = (r.microseconds for r in records[:2])
    (row,) = (line for line in text.splitlines() if line.startswith("| molecules | features |"))
    written = [float(cell.replace(",", "")) for cell in row.split("|")[3:6]]
    # The page rounds to three digits.
    np.testing.assert_allclose(written, [ours, theirs, theirs / ours], rtol=5e-3)
    plot = xml.etree.ElementTree.parse(tmp_path / "page.svg")
    assert plot.getroot().tag.endswith("svg")


@pytest.mark.parametrize("is_real", [True, False], ids=["real data", "generated"])
def test_every_kind_of_structures_grows(is_real, monkeypatch, tmp_path):
    if not is_real:
        monkeypatch.setattr(structures, "DATA", tmp_path)
    elif not structures.DATA.is_dir():
        pytest.skip("real data is not beside this checkout (../shared/data)")
    for kind in structures.KINDS:
        groups = structures.sizes(kind)
        n_atoms = [group.n_atoms for group in groups]
        assert n_atoms == sorted(set(n_atoms))
        periodic = {tuple(a.pbc.tolist()) for group in groups for a in group.structures}
        assert len(periodic) == 1
        elements = structures.species_of(groups[-1].structures)
        assert set(structures.species_of(groups[0].structures)) <= set(elements)
        expected = {"metal": 1, "five-element alloy": 5}
        assert len(elements) == expected.get(kind, len(elements))


def test_structures_keep_their_geometry_in_a_lower_triangular_cell():
    atoms = bulk("Cu") * 2
    atoms.rattle(0.1, seed=0)
    plain = structures._plain(atoms)
    assert not np.triu(plain.cell.array, 1).any()
    np.testing.assert_allclose(
        plain.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-12
    )
