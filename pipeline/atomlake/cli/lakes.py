"""What is in a lake, and whether it is whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from atomlake.cli.program import counted, json_option, main, print_json, reports_errors
from atomlake.errors import ExitCode
from atomlake.quantities import size

#: Structures of a damaged part that `verify` names without --json.
_N_NAMED = 5


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--reasons", default=10, show_default=True, help="Set-aside structures to list.")
@click.option("--web", type=click.Path(path_type=Path), help="Write a page for browsers here.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Write Prometheus metrics here.")
@click.option("--every", type=click.IntRange(min=1), help="Write them again after so many seconds.")
@json_option
@reports_errors
def status(
    lake: str,
    reasons: int,
    web: Path | None,
    metrics: Path | None,
    every: int | None,
    as_json: bool,
) -> None:
    """Say what is in LAKE, what is missing, what was set aside and why.

    With --web or --metrics it is written to a file instead, once, or again and again with
    --every until stopped.
    """
    from atomlake import lake as lakes
    from atomlake.lake.summary import summarise

    opened = lakes.open(lake)
    if web is not None or metrics is not None:
        _write_status(opened, web, metrics, every)
        return
    if every is not None:
        raise click.UsageError("--every goes with --web or --metrics")
    summary = summarise(opened)
    if as_json:
        print_json(summary)
        return
    click.echo(
        f"{lake}: {summary['n_structures']:,} structures, {summary['n_atoms']:,} atoms, "
        f"{summary['n_parts']:,} parts, {size(summary['nbytes'])} (version {opened.version})"
    )
    for source in summary["sources"]:
        click.echo(
            f"  source      {source['source']}: {source['n_structures']:,} structures, "
            f"{source['n_set_aside']:,} set aside"
        )
    for entry in summary["descriptors"]:
        click.echo(
            f"  descriptor  {entry['descriptor_id']}: {entry['n_structures']:,} of "
            f"{summary['n_structures']:,} structures, {entry['n_features']:,} features, "
            f"gradients {entry['gradients']}, {size(entry['nbytes'])}"
        )
    for entry in summary["runs"][-3:]:
        click.echo(
            f"  run         {entry['run_id']}: {entry['status']}, {entry['started']}, "
            f"{entry['n_structures']:,} structures"
        )
    rejected = opened.rejected()
    if len(rejected):
        click.echo(f"  set aside   {counted(summary['set_aside'])}")
        for row in rejected.head(reasons).iter_rows(named=True):
            what = f" for {row['descriptor_id']}" if row["descriptor_id"] else ""
            click.echo(f"    {row['location']} # {row['key']}{what}: {row['reason']}")
        if len(rejected) > reasons:
            click.echo(f"    and {len(rejected) - reasons:,} more (--reasons)")


def _write_status(lake: Any, web: Path | None, metrics: Path | None, every: int | None) -> None:
    from atomlake.engine import status_page
    from atomlake.lake import layout

    while True:
        if web is not None:
            layout.write_whole(web, status_page.page(lake, every).encode())
        if metrics is not None:
            layout.write_whole(metrics, status_page.metrics(lake).encode())
        if every is None:
            break
        time.sleep(every)
        lake = lake.refresh()
    for path in (web, metrics):
        if path is not None:
            click.echo(path)


@main.command()
@click.argument("lake", type=click.Path())
@click.argument("descriptor")
@json_option
@reports_errors
def show(lake: str, descriptor: str, as_json: bool) -> None:
    """Show labels, sizes and provenance of a DESCRIPTOR (its kind or its id) in LAKE."""
    from atomlake import lake as lakes

    opened = lakes.open(lake)
    labels = opened.descriptor(descriptor)
    features = opened.features(descriptor)
    if as_json:
        print_json(
            {
                "attributes": {k: _plain(v) for k, v in labels.attrs.items()},
                "sizes": {str(k): v for k, v in features.sizes.items()},
                "labels": {str(k): v.values.tolist() for k, v in labels.coords.items()},
            }
        )
        return
    for name, value in labels.attrs.items():
        for line in value if isinstance(value, list | tuple) else [value]:
            click.echo(f"{name:14} {line}")
    click.echo("sizes          " + ", ".join(f"{k} {v:,}" for k, v in features.sizes.items()))
    table = labels.reset_coords().to_dataframe()
    click.echo(table.to_string(max_rows=12))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--deep", is_flag=True, help="Also decode every array and hash every structure.")
@json_option
@reports_errors
def verify(lake: str, deep: bool, as_json: bool) -> None:
    """Check every file of LAKE against its catalogue."""
    from atomlake import lake as lakes
    from atomlake.lake.verify import verify as verify_lake

    report = verify_lake(lakes.open(lake), deep=deep)
    if as_json:
        print_json(report.as_dict())
    else:
        for problem in report.problems:
            click.echo(str(problem), err=True)
        for damage in report.damaged:
            click.echo(str(damage), err=True)
            for row in damage.structures[:_N_NAMED]:
                name = f"{row['source']}: {row['location']} # {row['key']}"
                click.echo(f"  {name}", err=True)
            if len(damage.structures) > _N_NAMED:
                n_more = len(damage.structures) - _N_NAMED
                click.echo(f"  and {n_more:,} more (--json names all)", err=True)
        click.echo(
            f"{report.n_files:,} files, {size(report.nbytes)}: "
            f"{len(report.problems)} problems; {report.n_orphans} unpublished files, "
            f"{size(report.orphan_nbytes)}"
        )
    if report.problems:
        sys.exit(ExitCode.DAMAGED)
