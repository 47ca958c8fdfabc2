"""A run cut into shares for job arrays: no driver waits, no dask, one publication at the end.

Every job of the array plans for itself, from the same sources and the same lake, and so comes to
the same units; job ``i`` of ``n`` does every ``n``-th of them and leaves a record of each in the
lake. Nothing is visible until the records are published, in one run of the catalogue. What a
job that died has not done is left for the next run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

from atomlake.engine.events import Listener
from atomlake.engine.plan import Plan, make_plan
from atomlake.engine.tasks import Undone, UnitRecord, run_unit
from atomlake.engine.units import Unit
from atomlake.errors import RefusedError
from atomlake.lake import Lake, layout, parts
from atomlake.recipe import Recipe

#: How often jobs try a unit. One that ends its jobs again and again is left to a run with a
#: driver, which finds the structures that do it.
ATTEMPTS = 2

#: What ends the name of a record, and begins the end of a name that says that a unit was begun.
DONE, TRY = ".json", ".try-"

_PART: TypeAdapter[parts.PartRecord | None] = TypeAdapter(parts.PartRecord | None)
_FEATURES: TypeAdapter[list[parts.FeaturesRecord]] = TypeAdapter(list[parts.FeaturesRecord])


def prepare(recipe: Recipe) -> Plan:
    """Make the lake if there is none, and say what there is to do.

    Raises
    ------
    RefusedError
        If the plan is refused.
    LakeError, SourceError, RecipeError
        As :func:`atomlake.engine.run.run`.
    """
    return _plan(recipe, Lake.create(recipe.lake))


def do_share(recipe: Recipe, i: int, n: int, listeners: Sequence[Listener] = ()) -> int:
    """Do the ``i``-th of ``n`` shares in this process; return the number of units done.

    Units that have a record are left alone, so that a job may be started again.

    Raises
    ------
    LakeError
        If there is no lake: prepare it first, once, before the array.
    RefusedError, SourceError, RecipeError
        As :func:`prepare`.
    """
    lake = Lake.open(recipe.lake)
    folder = lake.path / layout.SHARES
    folder.mkdir(parents=True, exist_ok=True)
    found = [PurePosixPath(path) for path, _ in layout.files(lake.path, layout.SHARES)]
    is_done = {path.stem for path in found if path.suffix == DONE}
    n_tries = Counter(path.stem for path in found if path.suffix.startswith(TRY))
    plan = _plan(recipe, lake)
    longest_first = sorted(plan.units, key=lambda unit: -unit.estimate.seconds)
    n_done = 0
    for unit in longest_first[i - 1 :: n]:
        name = digest(unit)
        if name in is_done or n_tries[name] >= ATTEMPTS:
            continue
        layout.write_whole(folder / f"{name}{TRY}{uuid.uuid4().hex[:8]}", b"")
        record = run_unit(str(lake.path.absolute()), unit, recipe.limits)
        layout.write_whole(folder / f"{name}{DONE}", dump(record))
        n_done += 1
        for listener in listeners:
            listener(record.event)
    return n_done


def records(units: Sequence[Unit], lake: Lake) -> Iterator[tuple[Unit, UnitRecord | Exception]]:
    """Yield what the jobs of an array left of each unit, for :func:`atomlake.engine.run.run`."""
    for unit in units:
        path = lake.path / layout.SHARES / f"{digest(unit)}{DONE}"
        try:
            yield unit, load(path.read_bytes())
        except FileNotFoundError:
            yield unit, RuntimeError("no job of the array left a record of it; run the recipe")
        except (ValueError, ValidationError) as problem:
            yield unit, RuntimeError(f"its record {path} cannot be read ({problem})")


def forget(lake: Lake) -> None:
    """Remove the records, which say nothing any more once a run has published."""
    if any(layout.files(lake.path, layout.SHARES)):
        layout.remove(lake.path / layout.SHARES)


def digest(unit: Unit) -> str:
    """Name of a unit: the same in every process that plans it, and of no other unit."""
    content = hashlib.blake2b(digest_size=16)
    tasks = [(task.descriptor.descriptor_id, list(task.gradients)) for task in unit.tasks]
    fatal = sorted(unit.fatal.items())
    content.update(json.dumps([unit.source, unit.part_id, unit.rows, tasks, fatal]).encode())
    for piece in unit.pieces:
        content.update(piece.location.encode() + b"\0")
        content.update(piece.record_hashes.tobytes() + piece.nth.tobytes())
    return content.hexdigest()


# ----- Records as files; nothing of them is evaluated


def dump(record: UnitRecord) -> bytes:
    """Write a record as JSON, its rows of the catalogue as an Arrow table inside."""
    table = io.BytesIO()
    record.structures.write_ipc(table)
    content = {
        "structures": base64.b64encode(table.getvalue()).decode(),
        "part": _PART.dump_python(record.part, mode="json"),
        "features": _FEATURES.dump_python(record.features, mode="json"),
        "set_aside": record.set_aside,
        "undone": record.undone,
        "n_structures": record.n_structures,
        "n_atoms": record.n_atoms,
        "nbytes": record.nbytes,
        "projected_nbytes": record.projected_nbytes,
        "peak_nbytes": record.peak_nbytes,
        "seconds": record.seconds,
        "worker": record.worker,
    }
    return json.dumps(content).encode()


def load(text: bytes) -> UnitRecord:
    """Read what :func:`dump` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    content: dict[str, Any] = json.loads(text)
    table = io.BytesIO(base64.b64decode(content.pop("structures")))
    return UnitRecord(
        structures=pl.read_ipc(table),
        part=_PART.validate_python(content.pop("part")),
        features=_FEATURES.validate_python(content.pop("features")),
        set_aside=Counter(content.pop("set_aside")),
        undone=[Undone(*entry) for entry in content.pop("undone")],
        **content,
    )


# ----- What the functions above share


def _plan(recipe: Recipe, lake: Lake) -> Plan:
    plan = make_plan(recipe, lake, layout.scratch_path(lake.path))
    if plan.refusals:
        raise RefusedError("\n".join(plan.refusals))
    return plan
