"""Every command and every program that the documentation shows is run, in order, page by page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_a_page_shows_runs(page, tmp_path):
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in blocks(page):
        if language == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            shown = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            assert shown, f"no '$ command' in {text!r}"
            commands = [["sh", "-c", command] for command in shown]
        for command in commands:
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_recipe_of_the_reference_is_valid():
    from atomlake.recipe import parse

    text = (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8")
    parse(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "workflows").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_recipe_is_valid(recipe):
    from atomlake.recipe import load

    load(recipe)


def test_the_pages_of_the_descriptors_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
