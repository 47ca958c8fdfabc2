"""Which descriptors there are, and what can be read."""

from __future__ import annotations

from typing import Any

import click

from atomlake.cli.program import json_option, main, print_json, reports_errors
from atomlake.errors import RecipeError


@main.command()
@click.option("--species", default="H,C,O", show_default=True, help="To count features for.")
@json_option
@reports_errors
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
        print_json(rows)
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
@json_option
@reports_errors
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
            print_json(rows)
            return
        for row in rows:
            click.echo(f"{row['format']:14} {row['title']} {' '.join(row['patterns'])}")
        return
    from atomlake.engine.scan import survey

    found = survey(path)
    if as_json:
        print_json(found)
        return
    for row in found:
        click.echo(
            f"{row['location']}: {row['n_records']:,} records, {row['n_atoms']:,} atoms, "
            f"{len(row['species'])} species ({' '.join(row['species'])}), "
            f"{row['n_set_aside']} unreadable"
        )
        for reason in row["reasons"]:
            click.echo(f"  {reason}")
