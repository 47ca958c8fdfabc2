"""Every other format that ase reads, as far as its reader is known to execute nothing."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import ase
import numpy as np
from ase.io.formats import filetype, get_compression, ioformats, iread
from ase.io.trajectory import TrajectoryReader
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources import labels
from atomlake.sources.base import (
    Batch,
    FileIndex,
    LabelKeys,
    Reader,
    ReadResult,
    Record,
    Unreadable,
    content_hashes,
    parsed_index,
)
from atomlake.sources.guarded import guarded

_READABLE = """
    abinit-gsr abinit-in abinit-out aims aims-output castep-castep castep-geom castep-md
    castep-phonon cfg cif cjson cmdft cp2k-dcd cp2k-restart crystal cube dacapo-text dftb dlp4
    dlp-history dmol-arc dmol-car dmol-incoor elk eon espresso-in espresso-out gamess-us-out
    gamess-us-punch gaussian-out gen gpaw-out gpumd gromacs gromos jsv lammps-data
    lammps-dump-binary lammps-dump-text magres mol mustem netcdftrajectory nomad-json nwchem-in
    nwchem-out onetep-out orca-output prismatic proteindatabank qbox res rmc6f runnerdata sdf
    siesta-xv struct struct_out sys traj turbomole turbomole-gradient v-sim vasp vasp-out
    vasp-xdatcar vasp-xml wout xsd xsf xtd
"""
#: Formats whose readers in ase were looked through: they parse the file and execute, unpickle
#: or open nothing that it names. A format that ase gains has to be looked through first.
READABLE = frozenset(_READABLE.split())

#: Formats that are not handed to ase, and why.
REFUSED = {
    "acemolecule-input": "it names another file, which ase would open",
    "acemolecule-out": "it names another file, which ase would open",
    "bundletrajectory": "old ones hold pickles; convert it with ase to .traj",
    "castep-cell": "ase may run CASTEP to validate it; convert it with ase",
    "db": "it is read by the format ase_sqlite, whose files end in .db",
    "extxyz": "it is read by the format extxyz of atomlake, whose files end in .xyz or .extxyz",
    "gaussian-in": "it names another file, which ase would open",
    "gpw": "old ones are handed to GPAW; convert it with ase to .traj",
    "json": "it is read by the format ase_database, whose files end in .json",
    "mysql": "it is read by the format ase_server",
    "octopus-in": "it names another file, which ase would open",
    "onetep-in": "it names other files, which ase would open",
    "postgresql": "it is read by the format ase_server",
    "xyz": "it is read by the format extxyz, whose files end in .xyz or .extxyz",
}


class AseFormat(Reader):
    """Files that ase reads, in a format that the recipe names or that ase guesses.

    A record is one image; labels are the results of the calculator that ase attaches, then
    ``info``, then arrays. A structure with sites that are partly occupied, or shared by
    several species, is set aside: atoms of one species at full occupancy are another
    structure.
    """

    format: ClassVar[str] = "ase"
    title: ClassVar[str] = "any other file that ase reads (traj, CIF, POSCAR, ...)"

    def index(self) -> FileIndex:
        """List the images; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        n_records = 0
        try:
            for record in self._records(0, None):
                batch.add(n_records, record)
                n_records += 1
        except Unreadable as error:
            if not n_records:
                raise SourceError(f"{self.location} cannot be read: {error}") from error
            batch.set_aside(n_records, error.problem)
            n_records += 1
        if not n_records:
            raise SourceError(f"ase finds no structure in {self.location}")
        keys = [str(position) for position in range(n_records)]
        locations = np.stack([np.arange(n_records), np.zeros(n_records, int)], axis=1)
        return parsed_index(
            batch.result(content_hashes(self.record_salt)), keys, locations, self.record_salt
        )

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read images; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        rows: dict[int, list[int]] = {}
        for row, position in enumerate(locations[:, 0].tolist()):
            rows.setdefault(position, []).append(row)
        first, last = min(rows, default=0), max(rows, default=-1) + 1
        problem = SetAside("malformed", "there is no such image any more")
        try:
            for position, record in enumerate(self._records(first, last), start=first):
                for row in rows.pop(position, ()):
                    batch.add(row, record)
        except Unreadable as error:
            problem = error.problem
        for row in itertools.chain.from_iterable(rows.values()):
            batch.set_aside(row, problem)
        return batch.result(content_hashes(self.record_salt))

    def _records(self, first: int, last: int | None) -> Iterator[Record | SetAside]:
        """Read images ``first:last`` in a guarded process.

        Raises
        ------
        SourceError
            If the file is of no format that may be read.
        Unreadable
            If ase fails for good, whatever it does.
        """
        return guarded(
            self.guard,
            self.location,
            read_images,
            self.location,
            self.source.format,
            self.source.labels,
            first,
            last,
        )


def read_images(
    path: str, format: str, keys: LabelKeys, first: int, last: int | None
) -> Iterator[Record | SetAside]:
    """Yield images ``first:last`` of a file, or why one of them cannot be read.

    Parameters
    ----------
    path : str
        The file.
    format : str
        Name of a format of ase; anything else leaves it to ase to recognise it.
    keys : LabelKeys
        Labels that are wanted.
    first, last : int
        Range of images; all that follow if ``last`` is None.

    Raises
    ------
    SourceError
        If the file is of no format that may be read.
    Unreadable
        If ase fails for good.
    """
    name = _format_name(path, format)
    is_compressed = get_compression(path)[1] is not None
    images = (_trajectory if name == "traj" and not is_compressed else _any_images)(
        path, name, first, last
    )
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = next(images, None)
        except MemoryError:
            raise
        except Exception as error:
            raise Unreadable("malformed", _problem(name, error)) from error
        if atoms is None:
            return
        yield atoms if isinstance(atoms, SetAside) else record_of(atoms, keys)


def _format_name(path: str, name: str) -> str:
    unrecognised = SourceError(
        f"{path} is of no format that ase recognises by name or content; "
        "say which one it is (format: ...)"
    )
    if name not in ioformats:
        try:
            name = filetype(path)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        except Exception as error:
            raise unrecognised from error
    if name not in ioformats:
        raise unrecognised
    if name not in READABLE:
        reason = REFUSED.get(name, "nobody has made sure that ase executes nothing with it")
        raise SourceError(f"{path} is not read as {name}: {reason}")
    return name


def _problem(name: str, error: Exception) -> str:
    problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"ase cannot read it as {name} ({problem})"


def _trajectory(
    path: str, name: str, first: int, last: int | None
) -> Iterator[ase.Atoms | SetAside]:
    """Images that can be looked up one by one, so that a damaged one is the only one lost."""
    with TrajectoryReader(path) as trajectory:
        for position in range(len(trajectory))[first:last]:
            try:
                yield trajectory[position]
            except MemoryError:
                raise
            except Exception as error:
                yield SetAside("malformed", _problem(name, error))


def _any_images(path: str, name: str, first: int, last: int | None) -> Iterator[ase.Atoms]:
    yield from iread(path, slice(first, last), format=name, do_not_split_by_at_sign=True)


def record_of(atoms: ase.Atoms, keys: LabelKeys) -> Record | SetAside:
    """Take from what ase has read the geometry and the labels that are wanted."""
    results = getattr(atoms.calc, "results", {})

    def lookup(key: str) -> Any:
        for place in (results, atoms.info, atoms.arrays):
            if place.get(key) is not None:
                return place[key]
        return None

    try:
        _refuse_partial_occupancy(atoms)
        return Record(
            atoms.numbers,
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            labels.structure_labels(keys, lookup),
            labels.atom_labels(keys, len(atoms), lookup),
        )
    except Unreadable as error:
        return error.problem


def _refuse_partial_occupancy(atoms: ase.Atoms) -> None:
    sites = atoms.info.get("occupancy")
    if not isinstance(sites, dict):
        return
    for species in sites.values():
        if len(species) > 1 or not all(map(_is_full, species.values())):
            raise Unreadable(
                "partial_occupancy",
                f"expected one species per site at full occupancy, found {species}; "
                "give an ordered structure",
            )


def _is_full(occupancy: float | str) -> bool:
    """Whether a site is occupied for certain; CIF takes it to be where nothing is said."""
    try:
        return occupancy in ("?", ".") or float(occupancy) > 0.999
    except ValueError:
        return False
