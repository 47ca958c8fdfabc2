"""The datasets that readers of a lake get, put together from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import xarray as xr

from atomlake.errors import LakeError
from atomlake.lake import groups
from atomlake.lake.arrays import Axis, CatalogueColumn, PartsArray, StructureIndex, lazy
from atomlake.lake.batches import BatchArrays
from atomlake.lake.catalogue import Catalogue, reporting
from atomlake.lake.chunks import Files, Integers
from atomlake.lake.groups import Chunking
from atomlake.lake.parts import Label, label_variable
from atomlake.variables import PAIR_VARIABLES, STRUCTURE_VARIABLES, Variable, feature_variables

#: Columns of the structures table that name a structure.
_NAMES = {
    "structure_id": "identity of the structure in the lake",
    "source": "source of the structure",
    "location": "file or database that it was read from",
    "key": "name within its location",
    "formula": "chemical formula",
}
#: Arrays that every part has, and the shapes of their rows.
_TAILS: Mapping[str, tuple[int, ...]] = {
    "positions": (3,),
    "cells": (3, 3),
    "pbc": (3,),
    "numbers": (),
}


def live_structures(
    catalogue: Catalogue, source: str | None, location: str | None, key: str | None
) -> pl.DataFrame:
    """Return where each visible structure is, in the order in which they were published.

    Columns ``sequence``, ``part_id``, ``row``, ``first_atom``, ``n_atoms``.
    """
    table = catalogue.structures(source=source).filter(pl.col("status") == "ok")
    if location is not None:
        table = table.filter(pl.col("location") == location)
    if key is not None:
        table = table.filter(pl.col("key") == key)
    columns = ["sequence", "part_id", "row", "first_atom", "n_atoms"]
    return table.select(columns).sort("sequence").collect()


def structures_view(catalogue: Catalogue, files: Files, live: pl.DataFrame) -> xr.Dataset:
    """Return structures and their labels."""
    arrays = _StructureArrays(catalogue, files, live)
    coordinates = _structure_coordinates(catalogue, arrays.placed)
    coordinates |= _atom_coordinates(arrays.variable("numbers"), arrays.n_atoms)
    attributes: dict[str, Any] = {"title": "structures"} | _provenance(catalogue)
    if arrays.left_out:
        attributes["labels_left_out"] = arrays.left_out
    return _dataset(
        {name: arrays.variable(name) for name in arrays.variables if name != "numbers"},
        coordinates | {"xyz": list("xyz")},
        attributes,
        arrays.chunks(),
    )


class _StructureArrays:
    """Arrays of structures and labels, over some structures."""

    def __init__(self, catalogue: Catalogue, files: Files, rows: pl.DataFrame) -> None:
        self.files = files
        self.placed, self.parts = _placed(catalogue, rows)
        part, row, first_atom, n_atoms = _columns(
            self.placed, "part", "row", "first_atom", "n_atoms"
        )
        self.n_atoms = n_atoms
        self.axes = {
            "structure": Axis(part, row, np.ones_like(row)),
            "atom": Axis(part, first_atom, n_atoms),
        }
        self.labels, self.left_out = _labels(self.parts)
        self.variables = {name: STRUCTURE_VARIABLES[name] for name in _TAILS}
        self.variables |= {label.name: label_variable(label) for label in self.labels}

    def array(self, name: str) -> PartsArray:
        """One of the ``variables``."""
        paths: list[str | None] = self.parts["path"].to_list()
        tail = _TAILS.get(name, ())
        for label, has in self.labels.items():
            if label.name == name:
                paths = [path if h else None for path, h in zip(paths, has, strict=True)]
                tail = label.shape
        variable = self.variables[name]
        axis = self.axes[variable.dims[0]]
        return PartsArray(self.files, paths, name, axis, tail, variable.dtype)

    def variable(self, name: str) -> xr.Variable:
        """One of the ``variables``, lazily."""
        variable = self.variables[name]
        return lazy(self.array(name), variable.dims, variable.attributes)

    def chunks(self) -> dict[str, tuple[int, ...]]:
        """Where the files are cut."""
        lengths = {"structure": self.parts["n_structures"], "atom": self.parts["n_atoms"]}
        return {
            dim: _chunks(self.axes[dim], lengths[dim].to_numpy(), (3, 3), 8, groups.PLAIN_CHUNKS)
            for dim in self.axes
        }


def features_view(
    catalogue: Catalogue,
    files: Files,
    live: pl.DataFrame,
    records: pl.DataFrame,
    labels: xr.Dataset,
) -> xr.Dataset:
    """Return the features of a descriptor.

    Parameters
    ----------
    catalogue : Catalogue
        The catalogue.
    files : Files
        The files of the lake.
    live : DataFrame
        What :func:`live_structures` returned.
    records : DataFrame
        Rows of the features table, one per part.
    labels : Dataset
        What :func:`atomlake.lake.parts.read_descriptor` returned.
    """
    view = _View(catalogue, files, live, records, labels, "none")
    name = "features"
    return view.dataset({name: view.variables[name]})


def gradients_view(
    catalogue: Catalogue,
    files: Files,
    live: pl.DataFrame,
    records: pl.DataFrame,
    labels: xr.Dataset,
) -> xr.Dataset:
    """Return the gradients of a descriptor; parameters as :func:`features_view`.

    All ``records`` hold the same form of gradients.
    """
    view, wanted = _gradients(catalogue, files, live, records, labels)
    dataset = view.dataset(wanted, has_pairs="pair" in view.axes)
    strain = "gradient_strain" in wanted
    return dataset.assign_attrs(gradients=view.form, strain=strain)


def batch_arrays(
    catalogue: Catalogue,
    files: Files,
    live: pl.DataFrame,
    records: pl.DataFrame,
    labels: xr.Dataset,
    *,
    gradients: bool,
    names: Sequence[str] | None,
) -> BatchArrays:
    """Return what batches are made of; parameters as :func:`features_view`.

    Parameters
    ----------
    gradients : bool
        Also the gradients.
    names : sequence of str or None
        Arrays of the structures to go with them; atomic numbers and all labels if not given.
    """
    if gradients:
        view, wanted = _gradients(catalogue, files, live, records, labels)
    else:
        view, wanted = _View(catalogue, files, live, records, labels, "none"), {}
    wanted = {"features": view.variables["features"]} | wanted
    arrays = {name: view.array(name, variable) for name, variable in wanted.items()}
    dims = {name: variable.dims[0] for name, variable in wanted.items()}
    if "pair" in view.axes:
        paths = view.records["path"].to_list()
        arrays["neighbour_index"] = PartsArray(
            files, paths, "neighbour_index", view.axes["pair"], (), np.int64
        )
        arrays["cell_shift"] = PartsArray(
            files, paths, "cell_shift", view.axes["pair"], (3,), np.int32
        )
        arrays["pair_offsets"] = PartsArray(
            files, paths, "pair_offsets", view.axes["atom"], (), np.int64
        )
        dims |= {"neighbour_index": "pair", "cell_shift": "pair", "pair_offsets": "atom"}
    structures = _StructureArrays(catalogue, files, view.covered)
    if names is None:
        names = ["numbers", *(label.name for label in structures.labels)]
    for name in names:
        if name not in structures.variables:
            raise LakeError(
                f"the structures of {catalogue.lake} have no {name!r}; they have "
                f"{sorted(structures.variables)}"
            )
        arrays[name] = structures.array(name)
        dims[name] = structures.variables[name].dims[0]
    bounds = {
        "structure": np.arange(len(view.covered) + 1),
        "atom": _bounds(structures.n_atoms),
    }
    if "pair" in view.axes:
        bounds["pair"] = _bounds(*_columns(view.covered, "n_pairs"))
    return BatchArrays(arrays, dims, bounds, view.axes["atom"])


def _gradients(
    catalogue: Catalogue,
    files: Files,
    live: pl.DataFrame,
    records: pl.DataFrame,
    labels: xr.Dataset,
) -> tuple[_View, dict[str, Variable]]:
    """View of the structures that have gradients, and which gradients."""
    form, strain = records.row(0, named=True)["gradients"], records.row(0, named=True)["strain"]
    view = _View(catalogue, files, live, records, labels, form)
    wanted = {}
    if form != "none":
        wanted["gradient_positions"] = view.variables["gradient_positions"]
    if strain:
        wanted["gradient_strain"] = view.variables["gradient_strain"]
    return view, wanted


class _View:
    """Features and gradients of one descriptor over the structures that have them."""

    def __init__(
        self,
        catalogue: Catalogue,
        files: Files,
        live: pl.DataFrame,
        records: pl.DataFrame,
        labels: xr.Dataset,
        form: str,
    ) -> None:
        self.catalogue = catalogue
        self.files = files
        self.labels = labels
        self.per = str(labels.attrs["per"])
        self.form = form
        self.records = records.with_row_index("file")
        is_equivariant = labels.attrs["n_components"] > 1
        self.tail = (labels.attrs["n_components"],) * is_equivariant + (labels.attrs["n_features"],)
        self.variables = feature_variables(self.per, form, is_equivariant)
        has_pairs = self.per == "atom" and form == "pairs"
        # A damaged table may have lists that do not fit each other.
        with reporting(catalogue.lake):
            self.covered = _covered(live, self.records, has_pairs)
        self.live = live
        file, at_structure, at_atom, n_atoms = _columns(
            self.covered, "file", "at_structure", "at_atom", "n_atoms"
        )
        self.axes = {
            "structure": Axis(file, at_structure, np.ones_like(file)),
            "atom": Axis(file, at_atom, n_atoms),
        }
        if has_pairs:
            at_pair, n_pairs = _columns(self.covered, "at_pair", "n_pairs")
            self.axes["pair"] = Axis(file, at_pair, n_pairs)

    def dataset(self, wanted: Mapping[str, Variable], has_pairs: bool = False) -> xr.Dataset:
        """Put the dataset together."""
        values = {name: self.array(name, variable) for name, variable in wanted.items()}
        chunks: dict[str, tuple[int, ...]] = {}
        for name, array in values.items():
            dim = wanted[name].dims[0]
            chunking = groups.FEATURE_CHUNKS if name == "features" else groups.GRADIENT_CHUNKS
            chunks[dim] = _chunks(
                array.axis, self._lengths(dim), array.shape[1:], array.dtype.itemsize, chunking
            )
        paths = self.records["path"].to_list()
        arrays = {
            name: lazy(values[name], variable.dims, variable.attributes)
            for name, variable in wanted.items()
        }
        if has_pairs:
            arrays |= self._pair_arrays(paths)
        coordinates: dict[str, Any] = {}
        coordinates |= _structure_coordinates(self.catalogue, self.covered)
        dims = {dim for variable in arrays.values() for dim in variable.dims}
        if "atom" in dims or has_pairs:
            coordinates |= self._atoms()
        coordinates |= {dim: list("xyz") for dim in ("xyz", "xyz2") if dim in dims}
        if "centre_species" in dims:
            coordinates["centre_species"] = self.labels.attrs["species"] or ["any"]
        coordinates |= {str(name): label for name, label in self.labels.variables.items()}
        return _dataset(arrays, coordinates, self._attributes(), chunks)

    def array(self, name: str, variable: Variable) -> PartsArray:
        """Features or gradients."""
        sizes = {"xyz": 3, "xyz2": 3, "centre_species": len(self.labels.attrs["species"]) or 1}
        dim, *inner = variable.dims
        inner = inner[: len(inner) - len(self.tail)]
        return PartsArray(
            self.files,
            self.records["path"].to_list(),
            name,
            self.axes[dim],
            (*(sizes[d] for d in inner), *self.tail),
            self.labels.attrs["dtype"],
        )

    def _lengths(self, dim: str) -> Integers:
        """Rows that each part stores along a dimension; of atoms at least that many."""
        if dim == "structure":
            return self.records["n_structures"].to_numpy()
        if dim == "pair":
            return self.records["n_pairs"].to_numpy()
        if self.per == "atom":
            return self.records["n_rows"].to_numpy()
        ends = np.zeros(len(self.records), dtype=np.int64)
        file, at_atom, n_atoms = _columns(self.covered, "file", "at_atom", "n_atoms")
        np.maximum.at(ends, file, at_atom + n_atoms)
        return ends

    def _atoms(self) -> dict[str, Any]:
        arrays = _StructureArrays(self.catalogue, self.files, self.covered)
        return _atom_coordinates(arrays.variable("numbers"), arrays.n_atoms)

    def _pair_arrays(self, paths: Sequence[str]) -> dict[str, xr.Variable]:
        """Pair arrays, with atoms and pairs counted over the view instead of the part."""
        files = self.files
        file, at_atom, n_atoms, at_pair, n_pairs = _columns(
            self.covered, "file", "at_atom", "n_atoms", "at_pair", "n_pairs"
        )
        atom_bounds, pair_bounds = _bounds(n_atoms), _bounds(n_pairs)
        n_offsets = n_atoms.copy()
        n_offsets[-1:] += 1
        values = {
            "pair_offsets": PartsArray(
                files,
                paths,
                "pair_offsets",
                Axis(file, at_atom, n_offsets),
                (),
                np.int64,
                _bounds(n_offsets),
                pair_bounds[:-1] - at_pair,
            ),
            "neighbour_index": PartsArray(
                files,
                paths,
                "neighbour_index",
                self.axes["pair"],
                (),
                np.int64,
                pair_bounds,
                atom_bounds[:-1] - at_atom,
            ),
            "cell_shift": PartsArray(files, paths, "cell_shift", self.axes["pair"], (3,), np.int32),
        }
        arrays = {
            name: lazy(values[name], variable.dims, variable.attributes)
            for name, variable in PAIR_VARIABLES.items()
        }
        if not len(n_atoms):
            variable = PAIR_VARIABLES["pair_offsets"]
            zero = np.zeros(1, np.int64)
            arrays["pair_offsets"] = xr.Variable(variable.dims, zero, variable.attributes)
        return arrays

    def _attributes(self) -> dict[str, Any]:
        set_aside = (
            self.records.select(
                "part_id", row=pl.col("set_aside").list.eval(pl.element().struct.field("row"))
            )
            .explode("row")
            .drop_nulls()
            .join(self.live, on=["part_id", "row"], how="semi")
        )
        n_missing = len(self.live) - len(self.covered) - len(set_aside)
        return (
            self.labels.attrs
            | _provenance(self.catalogue)
            | {"n_structures_set_aside": len(set_aside), "n_structures_missing": n_missing}
        )


# ----- From tables to positions


def _covered(live: pl.DataFrame, records: pl.DataFrame, has_pairs: bool) -> pl.DataFrame:
    """Find live structures in the groups that ``records`` name.

    Adds to ``live``: ``file`` (row of ``records``), ``at_structure``, ``at_atom`` and, with
    pairs, ``at_pair`` and ``n_pairs``: where the structure starts in the group.
    """
    records = records.filter(pl.col("n_structures") > 0).with_columns(
        at_structure=pl.int_ranges("n_structures")
    )
    pairs = {"n_pairs": "structure_n_pairs"} if has_pairs else {}
    partial = (
        records.filter(pl.col("rows").is_not_null())
        .select("file", "part_id", "at_structure", row="rows", n="structure_n_atoms", **pairs)
        .explode("at_structure", "row", "n", *pairs)
        .with_columns(at_atom=_start("n"))
        .drop("n")
    )
    whole = records.filter(pl.col("rows").is_null())
    if has_pairs:
        whole = whole.select("file", "part_id", row="at_structure", **pairs).explode("row", *pairs)
        partial, whole = (t.with_columns(at_pair=_start("n_pairs")) for t in (partial, whole))
    else:
        whole = whole.select("file", "part_id")
    found = [
        live.join(partial, on=["part_id", "row"]),
        live.join(whole, on=["part_id", "row"] if has_pairs else "part_id").with_columns(
            at_structure="row", at_atom="first_atom"
        ),
    ]
    return pl.concat(found, how="diagonal").sort("sequence")


def _start(count: str) -> pl.Expr:
    """Where each structure of a group starts, from the counts of all of them in order."""
    return (pl.col(count).cum_sum() - pl.col(count)).over("file")


def _placed(catalogue: Catalogue, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add ``part``, a row of the second frame: the parts that ``rows`` lie in."""
    parts = catalogue.parts(["part_id", "path", "n_structures", "n_atoms", "labels"])
    wanted = rows.lazy().select("part_id").unique()
    with reporting(catalogue.lake):
        found = parts.join(wanted, on="part_id", how="semi").collect().with_row_index("part")
    placed = rows.join(
        found.select("part_id", "part"), on="part_id", how="left", maintain_order="left"
    )
    unknown = placed.filter(pl.col("part").is_null())
    if len(unknown):
        raise LakeError(
            f"{len(unknown)} structures of {catalogue.lake} lie in parts that the catalogue does "
            f"not list, the first of them {unknown['part_id'][0]}; 'atomlake verify' says more"
        )
    return placed, found


def _labels(parts: pl.DataFrame) -> tuple[dict[Label, list[bool]], list[str]]:
    """Labels and which parts have them; names that do not have one shape in all parts."""
    of_part = [
        {Label(row["name"], row["per"], tuple(row["shape"])) for row in labels}
        for labels in parts["labels"].to_list()
    ]
    every = sorted(set().union(*of_part))
    names = [label.name for label in every]
    left_out = sorted({name for name in names if names.count(name) > 1})
    has = {
        label: [label in labels for labels in of_part]
        for label in every
        if label.name not in left_out
    }
    return has, left_out


# ----- Datasets


def _dataset(
    variables: Mapping[str, Any],
    coordinates: Mapping[str, Any],
    attributes: Mapping[str, Any],
    chunks: Mapping[str, tuple[int, ...]],
) -> xr.Dataset:
    dataset = xr.Dataset(variables, coordinates, attributes)
    dataset.encoding["preferred_chunks"] = dict(chunks)
    return dataset


def _structure_coordinates(catalogue: Catalogue, rows: pl.DataFrame) -> dict[str, xr.Variable]:
    sequence = rows["sequence"].to_numpy()
    return {
        name: lazy(
            CatalogueColumn(catalogue, name, sequence), ("structure",), {"long_name": long_name}
        )
        for name, long_name in _NAMES.items()
    }


def _atom_coordinates(numbers: xr.Variable, n_atoms: Integers) -> dict[str, xr.Variable]:
    offsets = _bounds(n_atoms)
    variable = STRUCTURE_VARIABLES["structure_offsets"]
    return {
        "numbers": numbers,
        "structure_offsets": xr.Variable(variable.dims, offsets, variable.attributes),
        "structure_index": lazy(
            StructureIndex(offsets), ("atom",), {"long_name": "structure of the atom"}
        ),
    }


def _provenance(catalogue: Catalogue) -> dict[str, str]:
    return {"lake": str(catalogue.lake), "version": catalogue.version}


def _chunks(
    axis: Axis, lengths: Integers, tail: tuple[int, ...], itemsize: int, chunking: Chunking
) -> tuple[int, ...]:
    """Cut an axis as the parts, of which each stores ``lengths`` rows, are cut into shards."""
    shards = [groups.chunk_and_shard((int(n), *tail), itemsize, chunking)[1] for n in lengths]
    return axis.chunks(np.array(shards, dtype=np.int64), itemsize * int(np.prod(tail)))


def _bounds(counts: Integers) -> Integers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _columns(table: pl.DataFrame, *names: str) -> tuple[Integers, ...]:
    return tuple(table[name].to_numpy().astype(np.int64) for name in names)
