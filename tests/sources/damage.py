"""Small files of every format, and the ways in which files get damaged."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import ioformats

from atomlake import sources
from atomlake.sources.ase_formats import READABLE

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
#: What stands where a number was: absurd, not finite, of another type, or nothing.
ABSURD = [
    b"1000000000000", b"-1", b"0", b"1e308", b"-1e308", b"nan", b"inf", b"1e-320", b"99999999",
    b"2147483648", b"", b"x", b"0x10", b"1D5", b"18446744073709551616", b"1" * 5000,
]  # fmt: skip


def examples(folder: Path) -> dict[str, list[Path]]:
    """Write small files for every reader of the registry, by the name of the reader."""
    structures = [bulk("NaCl", "rocksalt", a=5.6), bulk("NaCl", "rocksalt", a=5.7)]
    for k, atoms in enumerate(structures):
        forces = np.full((len(atoms), 3), 0.1 * k)
        atoms.calc = SinglePointCalculator(atoms, energy=-k, forces=forces, stress=np.arange(6.0))
    made: dict[str, list[Path]] = {name: [] for name in sources.names()}
    molecules = [molecule("CH3CH2OH"), molecule("H2O")]
    for name, content in {"a.xyz": structures, "b.extxyz": [*structures, *molecules]}.items():
        ase.io.write(folder / name, content, format="extxyz")
        made["extxyz"].append(folder / name)
    (folder / "c.xyz.gz").write_bytes(gzip.compress((folder / "b.extxyz").read_bytes()))
    made["extxyz"].append(folder / "c.xyz.gz")
    for kind, name in {"ase_sqlite": "a.db", "ase_database": "a.json"}.items():
        with ase.db.connect(folder / name) as rows:
            for atoms in structures:
                rows.write(atoms, gap=1.5, data={"charges": [0.5, 0.5]})
        made[kind].append(folder / name)
    for format in sorted(READABLE):
        if ioformats[format].can_write:
            path = folder / f"example.{format}"
            for content in (structures, structures[0], molecules[0]):
                try:
                    ase.io.write(path, content, format=format)
                except Exception:  # a format that this structure, or a list, does not suit
                    continue
                made["ase"].append(path)
                break
    return made


def flips(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 9)):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def hole(content: bytes, rng: np.random.Generator) -> bytes:
    first, last = np.sort(rng.integers(len(content), size=2))
    return content[:first] + content[last:]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    first, last = np.sort(rng.integers(len(content), size=2))
    return content[:last] + content[first:]


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(content)))
    return content[:first] + rng.bytes(int(rng.integers(1, 200))) + content[first + 20 :]


def header(content: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(8) + content[8:] if rng.random() < 0.5 else content[int(rng.integers(1, 40)) :]


def lines(content: bytes, rng: np.random.Generator) -> bytes:
    rows = content.split(b"\n")
    a, b = rng.integers(len(rows), size=2)
    match rng.integers(3):
        case 0:
            del rows[a]
        case 1:
            rows[a], rows[b] = rows[b], rows[a]
        case 2:
            rows.insert(a, rows[b])
    return b"\n".join(rows)


def numbers(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace one number, more often one near the beginning, where counts stand."""
    found = list(NUMBER.finditer(content))
    if not found:
        return flips(content, rng)
    match = found[int(len(found) * rng.random() ** 2)]
    return content[: match.start()] + ABSURD[rng.integers(len(ABSURD))] + content[match.end() :]


def words(content: bytes, rng: np.random.Generator) -> bytes:
    """Move one field to the place of another, quotes and brackets included."""
    fields = re.split(rb"([\s,:={}\[\]\"]+)", content)
    a, b = rng.integers(len(fields), size=2)
    fields[a] = fields[b]
    return b"".join(fields)


def pages(content: bytes, rng: np.random.Generator) -> bytes:
    """Put one page of a database, or what is as long, in the place of another."""
    size = 4096 if len(content) > 8192 else 64
    n_pages = max(len(content) // size, 1)
    a, b = (rng.integers(n_pages, size=2) * size).tolist()
    return content[:a] + content[b : b + size] + content[a + size :]


DAMAGES: list[Callable[[bytes, np.random.Generator], bytes]] = [
    flips, cut, hole, doubled, noise, header, lines, numbers, numbers, words, pages,
]  # fmt: skip
