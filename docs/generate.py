"""Write the reference pages of descriptors and clusters: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from atomlake import clusters, descriptors
from atomlake.clusters.base import Cluster
from atomlake.descriptors.base import Descriptor

REFERENCE = Path(__file__).parent / "reference"
SPECIES = ("H", "C", "O")
COMMON = tuple(Descriptor.model_fields)


def pages() -> dict[str, str]:
    """Text of every page, by file name."""
    kinds = [descriptors.get(name) for name in descriptors.names()]
    texts = {"descriptors/README.md": overview(kinds)}
    texts |= {f"descriptors/{kind.kind}.md": page(kind) for kind in kinds}
    return texts | {"clusters.md": clusters_page([clusters.get(n) for n in clusters.names()])}


def overview(kinds: list[type[Descriptor]]) -> str:
    """One row for each descriptor."""
    rows = [
        f"| {kind.family} | [{kind.kind}]({kind.kind}.md) | {kind.title} "
        f"| {kind.body_order or 'whole structure'} | {kind.native_rows} "
        f"| {', '.join(kind.gradients) or 'none'} |"
        for kind in sorted(kinds, key=lambda kind: kind.family)
    ]
    return "\n".join(
        [
            "# Descriptors",
            "",
            "Generated from the code by `python docs/generate.py`.",
            "",
            "| family | kind | | body order | rows | gradients |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def page(kind: type[Descriptor]) -> str:
    """Everything that a descriptor states about itself."""
    example = kind.examples(SPECIES)[0]
    lines = [
        f"# {kind.kind}",
        "",
        kind.title + ".",
        "",
        "```text",
        inspect.getdoc(kind) or "",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| family | {kind.family} |",
        f"| body order | {kind.body_order or 'whole structure'} |",
        f"| basis | {kind.basis} |",
        f"| rows | per {kind.native_rows}; averages: {', '.join(kind.averages)} |",
        f"| gradients | {', '.join(kind.gradients) or 'none: ' + kind.not_differentiable} |",
        f"| presets | {', '.join(sorted(kind.presets)) or 'none'} |",
        f"| features of the first example | {example.n_features} for {' '.join(SPECIES)} |",
        "",
        "## Parameters",
        "",
        "| name | type | default | |",
        "|---|---|---|---|",
        *(parameter(kind, name) for name in kind.model_fields if name not in COMMON),
        *(parameter(kind, name) for name in COMMON),
        "",
        "## Cite",
        "",
        *(f"- {c.text}, [doi:{c.doi}](https://doi.org/{c.doi})" for c in kind.citations),
        "",
    ]
    return "\n".join(lines)


def clusters_page(kinds: list[type[Cluster]]) -> str:
    """Every kind of cluster with an example and its settings."""
    lines = [
        "# Clusters",
        "",
        "Generated from the code by `python docs/generate.py`. A recipe's `cluster` section has "
        "one of these kinds and its settings; nothing in it decides a number in the lake. "
        "`atomlake cluster check RECIPE` tries it.",
        "",
        "| kind | |",
        "|---|---|",
        *(f"| [{kind.kind}](#{kind.kind}) | {kind.title} |" for kind in kinds),
    ]
    for kind in kinds:
        section = {"cluster": {"kind": kind.kind} | kind.example}
        lines += [
            "",
            f"## {kind.kind}",
            "",
            (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("``", "`"),
            "",
            "```yaml",
            yaml.safe_dump(section, sort_keys=False).rstrip(),
            "```",
            "",
            "| setting | type | default | |",
            "|---|---|---|---|",
            *(parameter(kind, name) for name in kind.model_fields),
        ]
    return "\n".join([*lines, ""])


def parameter(kind: type[BaseModel], name: str) -> str:
    """One row of the table of parameters."""
    field = kind.model_fields[name]
    declared = (inspect.get_annotations(base) for base in kind.__mro__)
    annotation = next(str(found[name]) for found in declared if name in found)
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    default = "required" if field.is_required() else repr(_readable(value))
    cells = (f"`{name}`", f"`{annotation}`", f"`{default}`", field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _readable(value: Any) -> Any:
    return str(value) if isinstance(value, Path | timedelta) else value


def main() -> int:
    """Write the pages; with ``--check`` only say which are out of date."""
    texts = pages()
    generated = [p.relative_to(REFERENCE).as_posix() for p in REFERENCE.glob("descriptors/*.md")]
    stale = [n for n, t in texts.items() if not _same(REFERENCE / n, t)]
    stale += [name for name in generated if name not in texts]
    if "--check" in sys.argv:
        for name in stale:
            print(f"{name} is out of date: run python docs/generate.py", file=sys.stderr)
        return bool(stale)
    (REFERENCE / "descriptors").mkdir(parents=True, exist_ok=True)
    for name in generated:
        (REFERENCE / name).unlink()
    for name, text in texts.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
