"""The six kinds of structures that everything is measured on, in several sizes.

Real data where it lies beside the project, and generated structures of the same kind
elsewhere. A code that would take too long for the largest size is measured on a smaller one.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase
import ase.io
import numpy as np
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.collections import g2

DATA = Path(__file__).parents[3] / "shared" / "data"


class Group(NamedTuple):
    """Structures that are described together.

    Attributes
    ----------
    kind : str
        A name of :data:`KINDS`.
    origin : str
        Where they come from.
    structures : list of ase.Atoms
        Cells are lower triangular, atoms lie inside of them, where there is a cell.
    """

    kind: str
    origin: str
    structures: list[ase.Atoms]

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures."""
        return sum(map(len, self.structures))


def sizes(kind: str) -> list[Group]:
    """Return structures of one kind, from few atoms to many."""
    origin, groups = KINDS[kind]()
    return [Group(kind, origin, [_plain(atoms) for atoms in group]) for group in groups]


def species_of(structures: list[ase.Atoms]) -> tuple[str, ...]:
    """Return the elements of all structures, by atomic number."""
    numbers = sorted({int(z) for atoms in structures for z in atoms.numbers})
    return tuple(ase.data.chemical_symbols[z] for z in numbers)


def _plain(atoms: ase.Atoms) -> ase.Atoms:
    """Return atoms and cell alone, the cell as LAMMPS wants it."""
    plain = ase.Atoms(atoms.numbers, atoms.positions)
    if atoms.pbc.any():
        plain.set_cell(atoms.cell)
        plain.pbc = atoms.pbc
        plain.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
        plain.wrap()
    return plain


def _read(path: str, first: int, last: int) -> list[ase.Atoms]:
    with lzma.open(DATA / path, "rt") as file:
        found = ase.io.read(file, index=slice(first, last), format="extxyz")
    assert isinstance(found, list)
    return found


def _rattled(structures: list[ase.Atoms], distance: float) -> list[ase.Atoms]:
    for seed, atoms in enumerate(structures):
        atoms.rattle(distance, seed=seed)
    return structures


Sizes = tuple[str, list[list[ase.Atoms]]]


def _molecules() -> Sizes:
    path = "bc_benchmarks/small_molecules-1000.extxyz.xz"
    if (DATA / path).exists():
        origin, found = "100 molecules of H, C, N, O, GAP benchmarks", _read(path, 0, 100)
    else:
        names = [name for name in g2.names if set(g2[name].symbols) <= set("HCNO")]
        found = _rattled([g2[name] for name in names if len(g2[name]) > 1], 0.05)
        origin = f"{len(found)} molecules of H, C, N, O, G2"
    return origin, [found[:10], found]


def _metal() -> Sizes:
    path = "mlearn_zuo2020/Cu_training_from_alignn.extxyz.xz"
    if (DATA / path).exists():
        found = [atoms for atoms in _read(path, 0, 100) if len(atoms) == 108][:8]
        origin = f"{len(found)} crystals of 108 Cu atoms, mlearn"
    else:
        found = _rattled([bulk("Cu", cubic=True) * 3 for _ in range(8)], 0.1)
        origin = f"{len(found)} crystals of 108 Cu atoms, rattled"
    return origin, [found[:1], found]


def _alloy() -> Sizes:
    rng = np.random.default_rng(0)

    def crystal(n: int) -> ase.Atoms:
        atoms = bulk("Ni", "fcc", a=3.56, cubic=True) * n
        atoms.numbers = rng.choice([24, 25, 26, 27, 28], len(atoms))
        return atoms

    small = _rattled([crystal(2)], 0.05)
    found = _rattled([crystal(3) for _ in range(8)], 0.05)
    return "8 crystals of 108 atoms of CrMnFeCoNi, rattled", [small, found[:1], found]


def _slab() -> Sizes:
    path = "fairchem_samples/toy_c3h8_relax.extxyz.xz"
    if (DATA / path).exists():
        origin, found = "20 slabs of Cu with C3H8 on them, Open Catalyst", _read(path, 0, 20)
    else:
        slab = fcc111("Cu", (3, 3, 3), vacuum=10.0)
        add_adsorbate(slab, molecule("C3H8"), 3.0, "ontop")
        slab.center(vacuum=10.0, axis=2)
        origin, found = "20 slabs of Cu with C3H8 on them", [slab.copy() for _ in range(20)]
        _rattled(found, 0.05)
    return origin, [found[:1], found]


def _framework() -> Sizes:
    path = "curated_cofs/curated_cofs_dev.extxyz.xz"
    if (DATA / path).exists():
        (cell,) = _read(path, 32, 33)
        origin = "a covalent organic framework, CURATED COFs, repeated 2 × 2 × 2"
        return origin, [[cell], [cell * 2]]
    # Cristobalite: silicon on the sites of diamond, oxygen between them.
    silicon = bulk("Si", a=7.16, cubic=True)
    i, j, shift = ase.neighborlist.neighbor_list("ijS", silicon, 3.2)
    middle = silicon.positions[i] + (silicon.positions[j] + shift @ silicon.cell.array)
    oxygen = ase.Atoms(f"O{len(i)}", middle / 2, cell=silicon.cell, pbc=True)
    oxygen = oxygen[[k for k in range(len(i)) if (i[k], j[k]) < (j[k], i[k])]]
    cell = silicon + oxygen
    groups = [[cell * 2], [cell * 5]]
    return "cristobalite, repeated 5 × 5 × 5", [_rattled(group, 0.05) for group in groups]


def _large() -> Sizes:
    path = "large_systems/pmg_ec_fec_15000.extxyz.xz"
    if (DATA / path).exists():
        (liquid,) = _read(path, 0, 1)
        origin = "15,000 atoms of ethylene carbonates, pymatgen"
    else:
        rng = np.random.default_rng(0)
        n, length = 15_000, (15_000 / 0.1) ** (1 / 3)
        n_sites = int(length / 1.5)
        sites = np.unravel_index(rng.permutation(n_sites**3)[:n], (n_sites,) * 3)
        positions = np.stack(sites, axis=1) + rng.uniform(-0.2, 0.2, (n, 3))
        numbers = rng.choice([1, 6, 8, 9], n, p=[0.4, 0.3, 0.25, 0.05])
        liquid = ase.Atoms(numbers, positions * length / n_sites)
        origin = "15,000 atoms in no order"
    distances = np.linalg.norm(liquid.positions - liquid.positions.mean(axis=0), axis=1)
    nearest = np.argsort(distances)
    return origin, [[liquid[np.sort(nearest[:n])]] for n in (150, 1_500)] + [[liquid]]


KINDS: dict[str, Callable[[], Sizes]] = {
    "molecules": _molecules,
    "metal": _metal,
    "five-element alloy": _alloy,
    "slab": _slab,
    "framework": _framework,
    "15,000 atoms": _large,
}
