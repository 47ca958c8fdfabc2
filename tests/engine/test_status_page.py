"""The page and the metrics say what the catalogue says, and show nothing unescaped."""

import re
import subprocess
import sys

from ase import Atoms

from atomlake.engine.status_page import metrics, page


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.partition("</style>")[2]))


def test_the_page_counts_what_is_there(database):
    database.run()
    text = text_of(page(database.open()))
    assert " 5 structures 19 atoms " in text
    assert "symmetry_functions-" in text
    assert "finished" in text
    assert "Set aside nothing" in text


def test_the_page_says_what_was_set_aside_and_why(database):
    database.structures.append(Atoms("H2", positions=[[0, 0, 0], [0, 0, float("nan")]]))
    database.save()
    database.run()
    text = text_of(page(database.open()))
    assert "non_finite_position 1" in text
    assert "atom 1" in text or "position" in text


def test_names_of_others_are_escaped(database):
    recipe = database.recipe
    evil = recipe.sources[0].model_copy(update={"name": "<script>alert(1)</script>"})
    from atomlake.engine.run import run

    run(recipe.model_copy(update={"sources": (evil,)}), executor="synchronous")
    html = page(database.open())
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_page_that_is_written_again_reloads_itself(database):
    database.run()
    assert '<meta http-equiv="refresh" content="7">' in page(database.open(), every=7)
    assert "http-equiv" not in page(database.open())


def test_an_empty_lake_has_a_page(database):
    from atomlake.lake import Lake

    assert "none yet" in page(Lake.create(database.lake))


def test_metrics_are_prometheus_text(database):
    from prometheus_client.parser import text_string_to_metric_families

    database.run()
    families = {f.name: f for f in text_string_to_metric_families(metrics(database.open()))}
    assert families["atomlake_structures"].samples[0].value == 5
    assert families["atomlake_last_run_ok"].samples[0].value == 1


def test_the_command_writes_both(database, tmp_path):
    database.run()
    web, prom = tmp_path / "status.html", tmp_path / "atomlake.prom"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "atomlake",
            "status",
            database.lake,
            "--web",
            web,
            "--metrics",
            prom,
        ],
        check=True,
        capture_output=True,
    )
    assert web.read_text().startswith("<!DOCTYPE html>")
    assert "atomlake_structures 5.0" in prom.read_text()
