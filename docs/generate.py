"""Write the reference pages of the descriptors from the code: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from atomlake import descriptors
from atomlake.descriptors.base import Descriptor

FOLDER = Path(__file__).parent / "reference" / "descriptors"
SPECIES = ("H", "C", "O")
COMMON = tuple(Descriptor.model_fields)


def pages() -> dict[str, str]:
    """Text of every page, by file name."""
    kinds = [descriptors.get(name) for name in descriptors.names()]
    return {"README.md": overview(kinds)} | {f"{kind.kind}.md": page(kind) for kind in kinds}


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


def parameter(kind: type[Descriptor], name: str) -> str:
    """One row of the table of parameters."""
    field = kind.model_fields[name]
    declared = (inspect.get_annotations(base) for base in kind.__mro__)
    annotation = next(str(found[name]) for found in declared if name in found)
    default = "required" if field.is_required() else repr(field.get_default())
    cells = (f"`{name}`", f"`{annotation}`", f"`{default}`", field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Write the pages; with ``--check`` only say which are out of date."""
    texts = pages()
    stale = [n for n, t in texts.items() if not _same(FOLDER / n, t)]
    stale += [p.name for p in FOLDER.glob("*.md") if p.name not in texts]
    if "--check" in sys.argv:
        for name in stale:
            print(f"{name} is out of date: run python docs/generate.py", file=sys.stderr)
        return bool(stale)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
