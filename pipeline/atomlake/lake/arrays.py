"""Arrays over many parts that read what is asked for, when it is asked for.

An array of a view is the concatenation of the rows that are visible in each part. What is
where follows from the catalogue alone: making a view opens no part, and reading from it opens
the parts that the selection touches.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from atomlake.errors import LakeError
from atomlake.lake import groups
from atomlake.lake.catalogue import Catalogue, reporting
from atomlake.lake.chunks import Array, Files, Integers, StoredArray

#: Rows that are located at a time; bounds the memory of reading arrays with short rows.
_WINDOW = 2**22


class Axis:
    """Where the rows of an axis of a view are: runs of rows of parts.

    Parameters
    ----------
    part, first, count : integer arrays, one element per structure
        Structure ``s`` has the rows ``first[s]:first[s] + count[s]`` of part ``part[s]``.
    """

    def __init__(self, part: Integers, first: Integers, count: Integers) -> None:
        goes_on = np.zeros(len(part), dtype=bool)
        goes_on[1:] = (part[1:] == part[:-1]) & (first[1:] == first[:-1] + count[:-1])
        starts = np.flatnonzero(~goes_on)
        self.part = part[starts]
        self.first = first[starts]
        counts = np.add.reduceat(count, starts) if len(starts) else count
        self.bounds = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def locate(self, index: Integers) -> tuple[Integers, Integers]:
        """Return part and row in it of rows of the view."""
        run = np.searchsorted(self.bounds, index, side="right") - 1
        return self.part[run], self.first[run] + index - self.bounds[run]

    def chunks(self, shard_rows: Integers, row_nbytes: int) -> tuple[int, ...]:
        """Cut the axis where parts and shards end, in pieces of about a shard or more.

        Parameters
        ----------
        shard_rows : integer array
            Rows of a shard of each part.
        row_nbytes : int
            Raw size of a row.
        """
        counts = np.diff(self.bounds)
        shard = shard_rows[self.part]
        last = np.maximum(self.first + counts - 1, self.first)
        n_cuts = last // shard - self.first // shard
        run = np.repeat(np.arange(len(counts)), n_cuts)
        nth = np.arange(len(run)) - np.repeat(np.cumsum(n_cuts) - n_cuts, n_cuts) + 1
        inner = self.bounds[run] + (self.first[run] // shard[run] + nth) * shard[run]
        edges = np.unique(np.concatenate([self.bounds[1:], inner - self.first[run]]))
        piece = edges * row_nbytes // groups.SHARD_NBYTES
        is_end = np.append(piece[1:] != piece[:-1], True)[: len(edges)]
        return tuple(int(n) for n in np.diff(edges[is_end], prepend=0))


class _LazyArray(BackendArray):
    """An array that reads rows when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    def _outer(self, key: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class PartsArray(_LazyArray):
    """Rows of the array ``name`` of many groups, one below the other.

    Parameters
    ----------
    files : Files
        The files of the lake.
    paths : sequence of str or None
        The group of each part; None for a part that lacks the array and reads as NaN.
    name : str
        The array.
    axis : Axis
        Which rows of which part.
    tail : tuple of int
        Shape of a row.
    dtype : dtype
        Of the array, in every part.
    bounds, shift : integer arrays, optional
        ``shift[s]`` is added to the rows ``bounds[s]:bounds[s + 1]``: indices into a part
        become indices into the view.
    """

    def __init__(
        self,
        files: Files,
        paths: Sequence[str | None],
        name: str,
        axis: Axis,
        tail: tuple[int, ...],
        dtype: Any,
        bounds: Integers | None = None,
        shift: Integers | None = None,
    ) -> None:
        self.files = files
        self.paths = paths
        self.name = name
        self.axis = axis
        self.shape = (len(axis), *tail)
        self.dtype = np.dtype(dtype)
        self.bounds = bounds
        self.shift = shift

    def _outer(self, key: tuple[Any, ...]) -> Any:
        rows, *rest = key
        tail = [
            np.arange(n)[k]
            if isinstance(k, slice) and (k.step or 1) < 0
            else int(k)
            if isinstance(k, np.integer)
            else k
            for k, n in zip(rest, self.shape[1:], strict=True)
        ]
        lengths = [
            len(range(*k.indices(n))) if isinstance(k, slice) else len(k)
            for k, n in zip(tail, self.shape[1:], strict=True)
            if not isinstance(k, int)
        ]
        if isinstance(rows, slice):
            positions: range | Integers = range(*rows.indices(len(self.axis)))
        else:
            positions = np.atleast_1d(np.asarray(rows))
            positions = np.where(positions < 0, positions + len(self.axis), positions)
        result = np.empty((len(positions), *lengths), self.dtype)
        for start in range(0, len(positions), _WINDOW):
            window = np.asarray(positions[start : start + _WINDOW], dtype=np.int64)
            self._fill(result[start : start + _WINDOW], window, tail)
        return result[0] if isinstance(rows, int | np.integer) else result

    def values(self) -> Array:
        """Read all rows."""
        return np.asarray(self._outer((slice(None),) * len(self.shape)))

    def _fill(self, result: Array, positions: Integers, tail: list[Any]) -> None:
        part, rows = self.axis.locate(positions)
        for p, here in _by_value(part):
            array = self.stored(p, int(rows[here].max()) + 1)
            if array is None:
                result[here] = np.nan
                continue
            run = _as_slice(rows[here])
            if isinstance(here, slice) and isinstance(run, slice):
                array.fill(result[here], run.start, tail)
            else:
                result[here] = array.read(run, tail)
        if self.bounds is not None and self.shift is not None:
            result += self.shift[np.searchsorted(self.bounds, positions, side="right") - 1]

    def stored(self, part: int, n_rows: int) -> StoredArray | None:
        """Return the array of a part, or None if that part lacks it.

        Raises
        ------
        LakeError
            If it has fewer rows than ``n_rows``, or rows of another kind than this array.
        """
        path = self.paths[part]
        if path is None:
            return None
        array = self.files.array(path, self.name)
        if array.shape[1:] != self.shape[1:] or array.dtype != self.dtype:
            raise LakeError(
                f"{array.path} of {self.files.lake} must hold rows of {self.shape[1:]} "
                f"{self.dtype} and holds {array.shape[1:]} {array.dtype}; 'atomlake verify' "
                "says what else is wrong"
            )
        if array.shape[0] < n_rows:
            raise LakeError(
                f"{array.path} of {self.files.lake} has {len(array)} rows and the catalogue "
                f"knows of {n_rows}; 'atomlake verify' says what else is wrong"
            )
        return array


class StructureIndex(_LazyArray):
    """The structure of each atom, found from the offsets."""

    def __init__(self, offsets: Integers) -> None:
        self.offsets = offsets
        self.shape = (int(offsets[-1]),)
        self.dtype = np.dtype(np.int64)

    def _outer(self, key: tuple[Any, ...]) -> Any:
        (rows,) = key
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        return np.searchsorted(self.offsets, rows, side="right") - 1


class CatalogueColumn(_LazyArray):
    """A column of the structures table, in the order of the view.

    Parameters
    ----------
    catalogue : Catalogue
        Where it is read from.
    name : str
        The column.
    sequence : integer array
        The rows of the view.
    """

    def __init__(self, catalogue: Catalogue, name: str, sequence: Integers) -> None:
        self.catalogue = catalogue
        self.name = name
        self.sequence = sequence
        self.shape = (len(sequence),)
        self.dtype = np.dtype(object)

    def _outer(self, key: tuple[Any, ...]) -> Any:
        wanted = np.atleast_1d(self.sequence[key[0]])
        if not len(wanted):
            return np.empty(0, dtype=object)
        log = self.catalogue.log("structures").select("sequence", self.name)
        nearby = log.filter(pl.col("sequence").is_between(int(wanted.min()), int(wanted.max())))
        order = pl.LazyFrame({"sequence": wanted})
        with reporting(self.catalogue.lake):
            found = order.join(nearby, on="sequence", maintain_order="left").collect()
        values = found[self.name].to_numpy()
        return values[0] if isinstance(key[0], int | np.integer) else values


def lazy(
    array: _LazyArray, dims: Sequence[Hashable], attributes: Mapping[str, Any] | None = None
) -> xr.Variable:
    """Return a variable that reads when its values are asked for."""
    return xr.Variable(tuple(dims), indexing.LazilyIndexedArray(array), dict(attributes or {}))


def _by_value(values: Integers) -> Iterator[tuple[int, slice | Integers]]:
    """Where each distinct value is."""
    if len(values) and (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order])) + 1
    for here in np.split(order, edges) if len(values) else ():
        yield int(values[here[0]]), _as_slice(here)


def _as_slice(index: Integers) -> slice | Integers:
    """Turn consecutive indices into a slice, which is read and written without a detour."""
    first, n = int(index[0]), len(index)
    is_run = index[-1] - first == n - 1 and (np.diff(index) == 1).all()
    return slice(first, first + n) if is_run else index
