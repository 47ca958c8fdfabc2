"""The stored references are what their oracles compute."""

import json

import environments
import numpy as np
import pytest


def leaves(value, path=""):
    """Yield every number and text with its place."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{path}/{key}")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{path}/{i}")
    else:
        yield path, value


@pytest.mark.slow
@pytest.mark.parametrize("name", environments.REFERENCES)
def test_the_script_writes_the_stored_file(name, tmp_path):
    environments.write_reference(name, tmp_path / "reference.json")
    written = dict(leaves(json.loads((tmp_path / "reference.json").read_text())))
    stored = dict(leaves(json.loads((environments.HERE / f"{name}.json").read_text())))
    assert written.keys() == stored.keys()
    for path, value in stored.items():
        # The last bits depend on the linear algebra library that numpy was built with.
        is_number = isinstance(value, float)
        expected = pytest.approx(value, rel=1e-10, abs=1e-10) if is_number else value
        assert written[path] == expected, path
    assert all(np.isfinite(v) for v in stored.values() if isinstance(v, float))
