"""Whether the cluster of a recipe would work, and what it is asked for."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from atomlake.cli.program import json_option, load, main, print_json, reports_errors
from atomlake.errors import ExitCode
from atomlake.quantities import size


@main.group()
def cluster() -> None:
    """Try the cluster of a recipe before a run needs it."""


@cluster.command("check")
@click.argument("recipe", type=click.Path())
@click.option("--patience", default=300.0, help="Seconds to wait for the workers.")
@json_option
@reports_errors
def check_cluster(recipe: str, patience: float, as_json: bool) -> None:
    """Start the cluster of RECIPE, run one small task on each worker, and stop it.

    Says of every worker its versions, whether it sees the lake and the sources, its clock,
    its memory and its speed.
    """
    from atomlake.engine import cluster_check

    asked = load(recipe)
    report = cluster_check.check_cluster(asked, patience=patience)
    if as_json:
        print_json(asdict(report))
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
@reports_errors
def cluster_script(recipe: str) -> None:
    """Print what the batch system or the operator would be given; start nothing."""
    click.echo(load(recipe).cluster.script(), nl=False)
