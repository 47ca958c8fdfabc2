"""`atomlake check` finds what a lake has not, has damaged, has wrong, or has too different."""

import numpy as np
from ase.build import molecule

from atomlake.engine.checks import check


def checks_of(database):
    return {finding.check: finding.message for finding in check(database.recipe)}


def test_a_lake_that_a_run_has_just_filled_passes(database):
    database.run()
    assert check(database.recipe) == []


def test_structures_that_are_not_in_the_lake_are_counted(database):
    database.run()
    database.structures += [molecule("C2H6"), molecule("C2H4")]
    database.save()
    assert "2 structures of the sources are not in the lake" in checks_of(database)["counts"]


def test_a_damaged_file_is_named(database):
    database.run()
    shard = next(p for p in database.lake.glob("parts/*/*/features/c/**/*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    assert checks_of(database)["files"]


def test_numbers_that_are_not_those_of_the_descriptor_are_found(database, monkeypatch):
    database.run()
    kind = type(database.recipe.descriptors[0].build())
    computed = kind.compute

    def slightly_wrong(self, *args, **kwargs):
        result = computed(self, *args, **kwargs)
        return result.assign(features=result["features"] * (1 + 1e-7))

    monkeypatch.setattr(kind, "compute", slightly_wrong)
    assert "computed again it differs by" in checks_of(database)["sample"]


def rattled_waters(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    waters = [molecule("H2O") for _ in range(20)]
    for atoms in waters:
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        atoms.positions *= scale
    return waters


def test_new_structures_that_look_like_the_old_ones_are_no_drift(database):
    database.structures = rattled_waters(seed=1)
    database.save()
    database.run()
    database.structures += rattled_waters(seed=2)
    database.save()
    database.run()
    assert check(database.recipe) == []


def test_new_structures_in_other_units_are_drift(database):
    database.structures = rattled_waters(seed=1)
    database.save()
    database.run()
    database.structures += rattled_waters(seed=2, scale=1 / 0.529177)
    database.save()
    database.run()
    assert "standard deviations from what was there" in checks_of(database)["drift"]
