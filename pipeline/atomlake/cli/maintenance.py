"""What keeps a lake well: repair, upgrade, compact, collect, purge."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Any, ClassVar

import click

from atomlake.cli.program import json_option, load, main, print_json, reports_errors
from atomlake.errors import ExitCode
from atomlake.quantities import size


@main.command()
@click.argument("lake", type=click.Path())
@click.argument("recipe", type=click.Path(), required=False)
@json_option
@reports_errors
def repair(lake: str, recipe: str | None, as_json: bool) -> None:
    """Compute again what is damaged in LAKE; RECIPE says where damaged structures come from."""
    from atomlake.engine.repair import repair as repair_lake

    result = repair_lake(lake, None if recipe is None else load(recipe, lake=lake))
    if as_json:
        print_json(asdict(result))
    else:
        for problem in result.problems:
            click.echo(str(problem), err=True)
        click.echo(
            f"wrote {len(result.labels)} labels, computed {len(result.features)} groups of "
            f"features, read {result.n_structures:,} structures again; "
            f"{len(result.problems)} problems are left"
        )
        if result.problems and recipe is None:
            click.echo("structures are read again only with a RECIPE", err=True)
    if result.problems:
        sys.exit(ExitCode.DAMAGED)


class _Age(click.ParamType[timedelta]):
    """A time span such as 30min, 12h or 7d."""

    name = "age"
    units: ClassVar[dict[str, timedelta]] = {
        "s": timedelta(seconds=1),
        "min": timedelta(minutes=1),
        "h": timedelta(hours=1),
        "d": timedelta(days=1),
    }

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """Return the time span."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", value)
        if not found:
            self.fail(f"{value!r} is no time span such as 30min, 12h or 7d", param, ctx)
        return float(found[1]) * self.units[found[2]]


@main.command()
@click.argument("lake", type=click.Path())
@json_option
@reports_errors
def upgrade(lake: str, as_json: bool) -> None:
    """Take LAKE, written by an older atomlake, to the format of this one."""
    from atomlake.lake import layout
    from atomlake.lake.lock import alone

    layout.check_marker(lake)
    with alone(lake, "upgrade"):
        found = layout.upgrade(lake)
    if as_json:
        print_json({"format_version_before": found, "format_version": layout.FORMAT_VERSION})
    else:
        click.echo(f"{lake}: format version {found} before, {layout.FORMAT_VERSION} after")


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--part-size", default="192MB", show_default=True, help="Bytes on disk of a part.")
@json_option
@reports_errors
def compact(lake: str, part_size: str, as_json: bool) -> None:
    """Join the small parts of LAKE; its old ones stay for readers until they are purged."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from atomlake.lake import compaction

    try:
        nbytes = TypeAdapter(ByteSize).validate_python(part_size)
    except ValidationError:
        raise click.BadParameter(f"{part_size!r} is no size such as 192MB") from None
    done = compaction.compact(lake, nbytes)
    if as_json:
        print_json(asdict(done))
    else:
        click.echo(
            f"{lake}: {done.n_parts_before:,} parts became {done.n_parts_after:,}; "
            f"{done.n_moved:,} structures moved, {size(done.nbytes)} written"
        )


@main.command()
@click.argument("lake", type=click.Path())
@click.option(
    "--older-than", type=_Age(), default="1d", show_default=True, help="Since the last writing."
)
@json_option
@reports_errors
def collect(lake: str, older_than: timedelta, as_json: bool) -> None:
    """Remove from LAKE what was never published: files of tasks that died."""
    from atomlake.lake import garbage

    _tell_removed(lake, garbage.collect(lake, older_than), as_json)


@main.command()
@click.argument("lake", type=click.Path())
@click.option(
    "--older-than", type=_Age(), default="7d", show_default=True, help="Since nothing shows it."
)
@json_option
@reports_errors
def purge(lake: str, older_than: timedelta, as_json: bool) -> None:
    """Remove from LAKE what was retired, replaced or joined, and its states of that time."""
    from atomlake.lake import garbage

    _tell_removed(lake, garbage.purge(lake, older_than), as_json)


def _tell_removed(lake: str, removed: list[Any], as_json: bool) -> None:
    nbytes = sum(group.nbytes for group in removed)
    if as_json:
        print_json({"groups": [group.path for group in removed], "nbytes": nbytes})
    else:
        click.echo(f"{lake}: {len(removed):,} groups removed, {size(nbytes)}")
