"""The command line: parse, call, print."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click

from atomlake.errors import AtomlakeError, ExitCode, RecipeError
from atomlake.quantities import duration, size

if TYPE_CHECKING:
    from atomlake.engine.run import Outcome

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def _reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except AtomlakeError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; what was finished is in the lake", err=True)
            sys.exit(ExitCode.INTERRUPTED)

    return wrapped


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected error, 2 bad recipe or command line, 3 a source "
    "cannot be read, 4 the lake cannot be used, 5 the plan is refused, 6 some structures stay "
    "undone, 7 damage found, 8 the cluster cannot be used, 9 another run is at work in the lake, "
    "10 a check of the lake failed, 130 interrupted.",
)
@click.version_option(package_name="atomlake")
def main() -> None:
    """Turn databases of atomic structures into one lake of descriptors."""


# ----- Doing


@main.command()
@click.argument("recipe", type=click.Path())
@click.option(
    "--executor",
    type=click.Choice(["cluster", "synchronous"]),
    default="cluster",
    help="synchronous computes in this process, for debugging.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Instead of cluster.workers.")
@click.option("--lake", help="Instead of the recipe's lake.")
@click.option("--quiet", is_flag=True, help="No progress; the summary and errors only.")
@click.option(
    "--part-of",
    "share",
    metavar="I/N",
    help="Do the I-th of N shares in this process, and publish nothing: for job arrays.",
)
@_as_json
@_reports_errors
def run(
    recipe: str,
    executor: str,
    workers: int | None,
    lake: str | None,
    quiet: bool,
    share: str | None,
    as_json: bool,
) -> None:
    """Bring the lake up to date with RECIPE: compute what is missing, and only that."""
    if share is not None:
        _do_share(_load(recipe, None, lake), share, quiet)
        return
    if executor == "cluster":
        _prepare(recipe)
    from atomlake.engine import events
    from atomlake.engine.run import run as run_recipe

    asked = _load(recipe, workers, lake)
    signal.signal(signal.SIGTERM, _interrupt)
    _log(logging.WARNING if quiet else logging.INFO)
    with ExitStack() as stack:
        listener: events.Listener = events.LogLines()
        if sys.stderr.isatty() and not quiet:
            listener = stack.enter_context(events.ProgressBar())
        outcome = run_recipe(asked, executor=executor, listeners=[listener])  # type: ignore[arg-type]
    _report(outcome, asked.lake, as_json)


def _report(outcome: Outcome, lake: str, as_json: bool) -> None:
    """Print what a run did, and end with a code of its own if something stays undone."""
    totals, plan = outcome.totals, outcome.plan
    if as_json:
        _print_json(
            {
                "run_id": outcome.run_id,
                "n_unchanged": plan.n_unchanged,
                "n_retired": plan.n_retired,
                "seconds": {k: round(v, 3) for k, v in outcome.seconds.items()},
                **totals.as_dict(),
            }
        )
    else:
        click.echo(f"lake       {lake}")
        click.echo(f"run        {outcome.run_id}, {outcome.seconds['total']:.1f} s")
        click.echo(
            f"computed   {totals.n_structures:,} structures, {totals.n_atoms:,} atoms, "
            f"{totals.n_parts} parts, {size(totals.nbytes)}"
        )
        click.echo(f"unchanged  {plan.n_unchanged:,} structures")
        if plan.n_retired:
            click.echo(f"retired    {plan.n_retired:,} structures")
        if totals.peak_nbytes:
            click.echo(
                f"memory     up to {size(totals.peak_nbytes)} per worker "
                f"({size(totals.projected_nbytes)} projected"
                + (
                    f"; {totals.n_above_projection} units took more than theirs)"
                    if totals.n_above_projection
                    else ")"
                )
            )
        click.echo(f"set aside  {_counts(totals.set_aside)}")
        if totals.set_aside:
            click.echo(f"           atomlake status {lake} says which and why")
        for failure in totals.failures:
            click.echo(f"failed     {failure}", err=True)
    if not outcome.is_complete:
        sys.exit(ExitCode.INCOMPLETE)


@main.command()
@click.argument("recipe", type=click.Path())
@_reports_errors
def init(recipe: str) -> None:
    """Make the lake of RECIPE and plan, before a job array: run --part-of 1/N to N/N, publish."""
    from atomlake.engine import shares

    plan = shares.prepare(_load(recipe, None, None))
    click.echo(
        f"{len(plan.units):,} units, {plan.estimate.n_structures:,} structures, about "
        f"{duration(plan.estimate.seconds)} on one core: at most {len(plan.units):,} jobs"
    )


def _do_share(asked: Any, share: str, quiet: bool) -> None:
    from atomlake.engine import events, shares

    i, separator, n = share.partition("/")
    if not (separator and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise click.UsageError(f"--part-of {share!r} is not I/N with I from 1 to N, such as 3/8")
    _log(logging.WARNING if quiet else logging.INFO)
    n_done = shares.do_share(asked, int(i), int(n), [events.LogLines()])
    click.echo(f"{n_done:,} units done; atomlake publish makes them visible")


@main.command()
@click.argument("recipe", type=click.Path())
@_as_json
@_reports_errors
def publish(recipe: str, as_json: bool) -> None:
    """Make visible what the jobs of an array have computed for RECIPE.

    What a job left undone is told, with exit code 6; run the recipe, or the array once more.
    """
    from atomlake.engine.run import run as run_recipe

    asked = _load(recipe, None, None)
    _log(logging.INFO)
    _report(run_recipe(asked, executor="shares"), asked.lake, as_json)


def _prepare(recipe: str) -> None:
    """Let the process that local workers are forked from import while this one does.

    Whatever is wrong with the recipe is told once it is read with care.
    """
    import yaml

    from atomlake.clusters import forking

    with suppress(OSError, ValueError, AttributeError, yaml.YAMLError):
        content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        if content.get("cluster", {}).get("kind", "local") == "local":
            forking.start()


def _log(level: int) -> None:
    """Send our own log to standard error, and of what dask says only the errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("atomlake").addHandler(handler)
    logging.getLogger("atomlake").setLevel(level)
    logging.getLogger("distributed").setLevel(logging.ERROR)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@main.command()
@click.argument("recipe", type=click.Path())
@click.option("--workers", type=click.IntRange(min=1), help="Instead of cluster.workers.")
@click.option("--lake", help="Instead of the recipe's lake.")
@_as_json
@_reports_errors
def plan(recipe: str, workers: int | None, lake: str | None, as_json: bool) -> None:
    """Say what a run of RECIPE would do, and what it would take; change nothing."""
    from atomlake.engine.run import preview

    asked = _load(recipe, workers, lake)
    planned = preview(asked)
    n_workers = asked.cluster.n_workers
    estimate = planned.estimate
    seconds = estimate.seconds / n_workers
    if as_json:
        _print_json(
            {
                "n_structures": estimate.n_structures,
                "n_new": planned.n_new,
                "n_unchanged": planned.n_unchanged,
                "n_retired": planned.n_retired,
                "n_atoms": estimate.n_atoms,
                "n_pairs": estimate.n_pairs,
                "n_parts": len(planned.units),
                "n_workers": n_workers,
                "seconds": seconds,
                "memory_per_worker_nbytes": planned.memory_nbytes,
                "nbytes": estimate.nbytes,
                "descriptors": [
                    {
                        "kind": d.kind,
                        "descriptor_id": d.descriptor_id,
                        "n_features": d.n_features,
                        "per": d.per,
                        "gradients": e.wanted.positions,
                        "strain": e.wanted.strain,
                        "species": d.species,
                    }
                    for e, d in planned.descriptors
                ],
                "notes": planned.notes,
                "refusals": planned.refusals,
            }
        )
    else:
        click.echo(f"lake        {asked.lake}")
        for entry, descriptor in planned.descriptors:
            wanted = entry.wanted
            click.echo(
                f"descriptor  {descriptor.descriptor_id}: {descriptor.n_features:,} features "
                f"per {descriptor.per}, {descriptor.dtype}, gradients {wanted.positions}"
                f"{' and strain' if wanted.strain else ''}"
            )
        click.echo(
            f"structures  {estimate.n_structures:,} to do ({planned.n_new:,} new), "
            f"{planned.n_unchanged:,} unchanged, {planned.n_retired:,} to retire"
        )
        click.echo(f"atoms       {estimate.n_atoms:,}, about {estimate.n_pairs:,} pairs")
        click.echo(f"parts       {len(planned.units):,}")
        click.echo(f"time        about {duration(seconds)} with {n_workers} workers")
        click.echo(
            f"memory      up to {size(planned.memory_nbytes)} per worker, of "
            f"{size(asked.cluster.memory_per_worker)}"
        )
        click.echo(f"disk        up to {size(estimate.nbytes)} before compression")
        for note in planned.notes:
            click.echo(f"note        {note}")
        for refusal in planned.refusals:
            click.echo(f"refused     {refusal}", err=True)
    if planned.refusals:
        sys.exit(ExitCode.REFUSED)


@main.command()
@click.argument("recipe", type=click.Path())
@_as_json
@_reports_errors
def check(recipe: str, as_json: bool) -> None:
    """Compare the lake of RECIPE with its sources: counts, files, a sample, drift."""
    from atomlake.engine import checks

    findings = checks.check(_load(recipe, None, None))
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding), err=True)
        click.echo(f"{len(findings)} findings")
    if findings:
        sys.exit(ExitCode.CHECKS)


@main.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@_reports_errors
def schedule(recipes: tuple[Path, ...]) -> None:
    """Run RECIPES at the times of their schedule, until stopped."""
    from atomlake.engine.schedule import keep

    _log(logging.INFO)
    keep(recipes)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--every", default=60.0, show_default=True, help="Seconds between looks.")
@_reports_errors
def watch(recipe: Path, every: float) -> None:
    """Run RECIPE whenever its sources change, until stopped."""
    from atomlake.engine.schedule import watch as keep_watching

    _log(logging.INFO)
    keep_watching(recipe, every)


@main.group()
def cluster() -> None:
    """Try the cluster of a recipe before a run needs it."""


@cluster.command("check")
@click.argument("recipe", type=click.Path())
@click.option("--patience", default=300.0, help="Seconds to wait for the workers.")
@_as_json
@_reports_errors
def check_cluster(recipe: str, patience: float, as_json: bool) -> None:
    """Start the cluster of RECIPE, run one small task on each worker, and stop it.

    Says of every worker its versions, whether it sees the lake and the sources, its clock,
    its memory and its speed.
    """
    from atomlake.engine import cluster_check

    asked = _load(recipe, None, None)
    report = cluster_check.check_cluster(asked, patience=patience)
    if as_json:
        _print_json(asdict(report))
    else:
        click.echo(f"{len(report.workers)} workers after {report.start_seconds:.1f} s")
        for address, worker in sorted(report.workers.items()):
            click.echo(
                f"{worker.host} {address}: {worker.microseconds_per_atom:.1f} µs an atom, "
                f"{size(worker.memory_nbytes)}, {worker.n_threads} threads, clock "
                f"{report.clocks[address]:+.2f} s, kernels after {worker.compile_seconds:.1f} s"
            )
        same = next(iter(report.workers.values())).versions
        click.echo("versions   " + ", ".join(f"{name} {v}" for name, v in same.items()))
        for remark in report.remarks:
            click.echo(f"remark     {remark}")
        for problem in report.problems:
            click.echo(f"problem    {problem}", err=True)
        if not report.problems:
            click.echo("the cluster would work")
    if report.problems:
        sys.exit(ExitCode.CLUSTER)


@cluster.command("script")
@click.argument("recipe", type=click.Path())
@_reports_errors
def cluster_script(recipe: str) -> None:
    """Print what the batch system or the operator would be given; start nothing."""
    click.echo(_load(recipe, None, None).cluster.script(), nl=False)


# ----- Looking


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--reasons", default=10, show_default=True, help="Set-aside structures to list.")
@click.option("--web", type=click.Path(path_type=Path), help="Write a page for browsers here.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Write Prometheus metrics here.")
@click.option("--every", type=click.IntRange(min=1), help="Write them again after so many seconds.")
@_as_json
@_reports_errors
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
        _print_json(summary)
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
        click.echo(f"  set aside   {_counts(summary['set_aside'])}")
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
@_as_json
@_reports_errors
def show(lake: str, descriptor: str, as_json: bool) -> None:
    """Show labels, sizes and provenance of a DESCRIPTOR (its kind or its id) in LAKE."""
    from atomlake import lake as lakes

    opened = lakes.open(lake)
    labels = opened.descriptor(descriptor)
    features = opened.features(descriptor)
    if as_json:
        _print_json(
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


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--deep", is_flag=True, help="Also decode every array and hash every structure.")
@_as_json
@_reports_errors
def verify(lake: str, deep: bool, as_json: bool) -> None:
    """Check every file of LAKE against its catalogue."""
    from atomlake import lake as lakes
    from atomlake.lake.verify import verify as verify_lake

    report = verify_lake(lakes.open(lake), deep=deep)
    if as_json:
        _print_json(report.as_dict())
    else:
        for problem in report.problems:
            click.echo(str(problem), err=True)
        click.echo(
            f"{report.n_files:,} files, {size(report.nbytes)}: "
            f"{len(report.problems)} problems; {report.n_orphans} unpublished files, "
            f"{size(report.orphan_nbytes)}"
        )
    if report.problems:
        sys.exit(ExitCode.DAMAGED)


# ----- Maintenance


@main.command()
@click.argument("lake", type=click.Path())
@click.argument("recipe", type=click.Path(), required=False)
@_as_json
@_reports_errors
def repair(lake: str, recipe: str | None, as_json: bool) -> None:
    """Compute again what is damaged in LAKE; RECIPE says where damaged structures come from."""
    from atomlake.engine.repair import repair as repair_lake

    result = repair_lake(lake, None if recipe is None else _load(recipe, None, lake))
    if as_json:
        _print_json(asdict(result))
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
@_as_json
@_reports_errors
def upgrade(lake: str, as_json: bool) -> None:
    """Take LAKE, written by an older atomlake, to the format of this one."""
    from atomlake.lake import layout
    from atomlake.lake.lock import alone

    layout.check_marker(lake)
    with alone(lake, "upgrade"):
        found = layout.upgrade(lake)
    if as_json:
        _print_json({"format_version_before": found, "format_version": layout.FORMAT_VERSION})
    else:
        click.echo(f"{lake}: format version {found} before, {layout.FORMAT_VERSION} after")


@main.command()
@click.argument("lake", type=click.Path())
@click.option("--part-size", default="192MB", show_default=True, help="Bytes on disk of a part.")
@_as_json
@_reports_errors
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
        _print_json(asdict(done))
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
@_as_json
@_reports_errors
def collect(lake: str, older_than: timedelta, as_json: bool) -> None:
    """Remove from LAKE what was never published: files of tasks that died."""
    from atomlake.lake import garbage

    _tell_removed(lake, garbage.collect(lake, older_than), as_json)


@main.command()
@click.argument("lake", type=click.Path())
@click.option(
    "--older-than", type=_Age(), default="7d", show_default=True, help="Since nothing shows it."
)
@_as_json
@_reports_errors
def purge(lake: str, older_than: timedelta, as_json: bool) -> None:
    """Remove from LAKE what was retired, replaced or joined, and its states of that time."""
    from atomlake.lake import garbage

    _tell_removed(lake, garbage.purge(lake, older_than), as_json)


def _tell_removed(lake: str, removed: list[Any], as_json: bool) -> None:
    nbytes = sum(group.nbytes for group in removed)
    if as_json:
        _print_json({"groups": [group.path for group in removed], "nbytes": nbytes})
    else:
        click.echo(f"{lake}: {len(removed):,} groups removed, {size(nbytes)}")


# ----- What there is


@main.command()
@click.option("--species", default="H,C,O", show_default=True, help="To count features for.")
@_as_json
@_reports_errors
def descriptors(species: str, as_json: bool) -> None:
    """List the descriptors: what they are, their gradients, how many features."""
    from atomlake import descriptors as registry
    from atomlake.structures import species_numbers

    elements = tuple(species.split(","))
    try:
        species_numbers(elements)
    except ValueError as problem:
        raise RecipeError(f"--species {species}: {problem}") from None
    rows: list[dict[str, Any]] = []
    for name in registry.names():
        kind = registry.get(name)
        example = kind.examples(elements)[0]
        rows.append(
            {
                "family": kind.family,
                "kind": name,
                "title": kind.title,
                "body_order": kind.body_order,
                "basis": kind.basis,
                "per": kind.native_rows,
                "averages": kind.averages,
                "gradients": kind.gradients,
                "not_differentiable": kind.not_differentiable,
                "differentiable_except": kind.differentiable_except,
                "presets": sorted(kind.presets),
                "n_features": example.n_features,
                "citations": [f"{c.text} doi:{c.doi}" for c in kind.citations],
                "parameters": {key: field.description for key, field in kind.model_fields.items()},
            }
        )
    rows.sort(key=lambda row: row["family"])
    if as_json:
        _print_json(rows)
        return
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        click.echo(family)
        for row in members:
            is_last = row is members[-1]
            click.echo(f"{'└──' if is_last else '├──'} {row['kind']}: {row['title']}")
            for line in _facts(row, species):
                click.echo(f"{' ' if is_last else '│'}      {line}")


def _facts(row: dict[str, Any], species: str) -> list[str]:
    """What the family tree says below the name of a descriptor."""
    return [
        f"body order {row['body_order'] or 'whole structure'}; basis: {row['basis']}",
        f"rows per {row['per']}, averages: {', '.join(row['averages'])}; "
        f"gradients: {', '.join(row['gradients']) or 'none: ' + row['not_differentiable']}",
        f"{row['n_features']:,} features for {species} in the first example; "
        f"presets: {', '.join(row['presets']) or 'none'}",
        *(f"cite {citation}" for citation in row["citations"]),
    ]


@main.command()
@click.argument("path", required=False)
@_as_json
@_reports_errors
def sources(path: str | None, as_json: bool) -> None:
    """List the formats that can be read; with a PATH (or glob), what is in it."""
    from atomlake import sources as registry

    if path is None:
        rows: list[dict[str, Any]] = [
            {
                "format": name,
                "title": registry.get(name).title,
                "patterns": list(registry.get(name).patterns),
            }
            for name in registry.names()
        ]
        if as_json:
            _print_json(rows)
            return
        for row in rows:
            click.echo(f"{row['format']:14} {row['title']} {' '.join(row['patterns'])}")
        return
    from atomlake.engine.scan import survey

    found = survey(path)
    if as_json:
        _print_json(found)
        return
    for row in found:
        click.echo(
            f"{row['location']}: {row['n_records']:,} records, {row['n_atoms']:,} atoms, "
            f"{len(row['species'])} species ({' '.join(row['species'])}), "
            f"{row['n_set_aside']} unreadable"
        )
        for reason in row["reasons"]:
            click.echo(f"  {reason}")


# ----- Printing


def _load(path: str, workers: int | None, lake: str | None) -> Any:
    from atomlake import recipe

    asked = recipe.load(path)
    changes: dict[str, Any] = {}
    if workers is not None:
        changes["cluster"] = asked.cluster.model_copy(update={"workers": workers})
    if lake is not None:
        changes["lake"] = lake
    return asked.model_copy(update=changes)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _counts(counts: Any) -> str:
    return ", ".join(f"{n:,} {code}" for code, n in sorted(counts.items())) or "nothing"
