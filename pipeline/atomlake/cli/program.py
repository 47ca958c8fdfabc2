"""The command ``atomlake``, and what its subcommands share."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from atomlake.errors import AtomlakeError, ExitCode

if TYPE_CHECKING:
    from atomlake.recipe import Recipe

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command end with the message and the exit code of an error, without a traceback."""

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


def load(path: str, workers: int | None = None, lake: str | None = None) -> Recipe:
    """Read a recipe, with some of it replaced by what the command line says."""
    from atomlake import recipe

    asked = recipe.load(path)
    changes: dict[str, Any] = {}
    if workers is not None:
        changes["cluster"] = asked.cluster.model_copy(update={"workers": workers})
    if lake is not None:
        changes["lake"] = lake
    return asked.model_copy(update=changes)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2, default=str))


def counted(counts: Mapping[str, int]) -> str:
    """Codes with how often each occurred."""
    return ", ".join(f"{n:,} {code}" for code, n in sorted(counts.items())) or "nothing"


def log_to_stderr(level: int) -> None:
    """Send our own log to standard error, and of what dask says only the errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("atomlake").addHandler(handler)
    logging.getLogger("atomlake").setLevel(level)
    logging.getLogger("distributed").setLevel(logging.ERROR)
