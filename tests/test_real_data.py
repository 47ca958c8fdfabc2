"""All of the real data through the pipeline: every structure in the lake or set aside."""

import sys
from pathlib import Path

import polars as pl
import pytest

from atomlake import descriptors
from atomlake.engine.run import preview, run
from atomlake.engine.scan import survey
from atomlake.lake import Lake
from atomlake.lake.summary import summarise
from atomlake.lake.verify import verify

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import every_descriptor
import real_data

pytestmark = pytest.mark.slow


def test_every_file_is_in_the_lake_or_set_aside_with_a_reason(shared_data, tmp_path):
    recipe = real_data.make_recipe(shared_data, tmp_path / "lake")
    outcome = run(recipe)
    assert outcome.is_complete
    assert outcome.totals.peak_nbytes < 1.5e9
    lake = Lake.open(recipe.lake)
    rows = lake.catalogue.structures().collect()
    n_records = sum(found["n_records"] for s in recipe.sources for found in survey(s.path))
    assert len(rows) == n_records
    assert rows["structure_id"].n_unique() == n_records
    set_aside = rows.filter(pl.col("status") == "set_aside")
    assert set_aside["reason"].null_count() == 0
    for entry in summarise(lake)["descriptors"]:
        assert entry["n_structures"] > 0
    assert preview(recipe).is_empty
    assert not verify(lake).problems


def test_a_hundred_species_at_once_are_refused(shared_data, tmp_path):
    (refusal,) = real_data.refused_for_many_species(shared_data, tmp_path / "lake")
    assert "2,333,352 numbers" in refusal


def test_every_descriptor_goes_through_the_pipeline_with_gradients(shared_data, tmp_path):
    recipe = every_descriptor.make_recipe(shared_data, tmp_path / "lake")
    outcome = run(recipe)
    assert outcome.is_complete
    assert set(outcome.totals.set_aside) <= {"periodic", "not_periodic"}
    lake = Lake.open(recipe.lake)
    covered = {e["kind"] for e in summarise(lake)["descriptors"] if e["n_structures"] > 0}
    assert covered == set(descriptors.names())
    assert not verify(lake, deep=True).problems
