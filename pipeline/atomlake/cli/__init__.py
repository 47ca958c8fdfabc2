"""The command line: parse, call, print. Each module adds its commands to one program."""

from atomlake.cli import clusters, lakes, maintenance, recipes, registries
from atomlake.cli.program import main

__all__ = ["clusters", "lakes", "main", "maintenance", "recipes", "registries"]
