"""What is done with a recipe: run it, once or on a schedule, plan it, check its lake."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from atomlake.cli.program import (
    counted,
    json_option,
    load,
    log_to_stderr,
    main,
    print_json,
    reports_errors,
)
from atomlake.errors import ExitCode
from atomlake.quantities import duration, size

if TYPE_CHECKING:
    from atomlake.engine.run import Outcome
    from atomlake.recipe import Recipe


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
@json_option
@reports_errors
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
        _do_share(load(recipe, lake=lake), share, quiet)
        return
    if executor == "cluster":
        _prepare(recipe)
    from atomlake.engine import events
    from atomlake.engine.run import run as run_recipe

    asked = load(recipe, workers, lake)
    signal.signal(signal.SIGTERM, _interrupt)
    log_to_stderr(logging.WARNING if quiet else logging.INFO)
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
        print_json(
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
        click.echo(f"set aside  {counted(totals.set_aside)}")
        if totals.set_aside:
            click.echo(f"           atomlake status {lake} says which and why")
        for failure in totals.failures:
            click.echo(f"failed     {failure}", err=True)
    if not outcome.is_complete:
        sys.exit(ExitCode.INCOMPLETE)


@main.command()
@click.argument("recipe", type=click.Path())
@reports_errors
def init(recipe: str) -> None:
    """Make the lake of RECIPE and plan, before a job array: run --part-of 1/N to N/N, publish."""
    from atomlake.engine import shares

    plan = shares.prepare(load(recipe))
    click.echo(
        f"{len(plan.units):,} units, {plan.estimate.n_structures:,} structures, about "
        f"{duration(plan.estimate.seconds)} on one core: at most {len(plan.units):,} jobs"
    )


def _do_share(asked: Recipe, share: str, quiet: bool) -> None:
    from atomlake.engine import events, shares

    i, separator, n = share.partition("/")
    if not (separator and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise click.UsageError(f"--part-of {share!r} is not I/N with I from 1 to N, such as 3/8")
    log_to_stderr(logging.WARNING if quiet else logging.INFO)
    n_done = shares.do_share(asked, int(i), int(n), [events.LogLines()])
    click.echo(f"{n_done:,} units done; atomlake publish makes them visible")


@main.command()
@click.argument("recipe", type=click.Path())
@json_option
@reports_errors
def publish(recipe: str, as_json: bool) -> None:
    """Make visible what the jobs of an array have computed for RECIPE.

    What a job left undone is told, with exit code 6; run the recipe, or the array once more.
    """
    from atomlake.engine.run import run as run_recipe

    asked = load(recipe)
    log_to_stderr(logging.INFO)
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


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@main.command()
@click.argument("recipe", type=click.Path())
@click.option("--workers", type=click.IntRange(min=1), help="Instead of cluster.workers.")
@click.option("--lake", help="Instead of the recipe's lake.")
@json_option
@reports_errors
def plan(recipe: str, workers: int | None, lake: str | None, as_json: bool) -> None:
    """Say what a run of RECIPE would do, and what it would take; change nothing."""
    from atomlake.engine.run import preview

    asked = load(recipe, workers, lake)
    planned = preview(asked)
    n_workers = asked.cluster.n_workers
    estimate = planned.estimate
    seconds = estimate.seconds / n_workers
    if as_json:
        print_json(
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
@json_option
@reports_errors
def check(recipe: str, as_json: bool) -> None:
    """Compare the lake of RECIPE with its sources: counts, files, a sample, drift."""
    from atomlake.engine import checks

    findings = checks.check(load(recipe))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding), err=True)
        click.echo(f"{len(findings)} findings")
    if findings:
        sys.exit(ExitCode.CHECKS)


@main.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@reports_errors
def schedule(recipes: tuple[Path, ...]) -> None:
    """Run RECIPES at the times of their schedule, until stopped."""
    from atomlake.engine.schedule import keep

    log_to_stderr(logging.INFO)
    keep(recipes)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--every", default=60.0, show_default=True, help="Seconds between looks.")
@reports_errors
def watch(recipe: Path, every: float) -> None:
    """Run RECIPE whenever its sources change, until stopped."""
    from atomlake.engine.schedule import watch as keep_watching

    log_to_stderr(logging.INFO)
    keep_watching(recipe, every)
