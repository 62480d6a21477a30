"""Any JSON is a manifest, or ends in an error of ours that says where it lies."""

from __future__ import annotations

import json
import re
import string

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from layerscope.core.checkpoints import open_series
from layerscope.errors import CheckpointError, ResultError
from layerscope.paper import gallery

MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(
        st.sampled_from(["format", "version", "epochs", "0", "1", "file", "sha256", "unit", "x"]),
        inside, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
SERIES = {"format": "layerscope-series", "version": 1}


@MANY
@given(
    found=JSON
    | JSON.map(lambda found: {**SERIES, "epochs": {"0": found}})
    | JSON.map(lambda found: {**SERIES, "epochs": found})
    | JSON.map(lambda found: {**SERIES, "epochs": {"0": {"file": "a.safetensors"}}, "unit": found})
)
def test_any_json_is_the_manifest_of_a_series_or_an_error_of_ours(found, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):  # there are no files
        open_series(tmp_path)


RUN = {"experiment": "fcn-mnist", "parameters": {}, "files": {}, "seconds": 1.0}


@MANY
@given(
    found=JSON
    | st.tuples(
        st.sampled_from([*RUN, "summary", "data", "machine", "training_seconds"]), JSON
    ).map(lambda pair: {**RUN, pair[0]: pair[1]})
)
def test_any_json_is_the_manifest_of_a_run_or_an_error_of_ours(found, tmp_path):
    place = tmp_path / "a" / "small"
    place.mkdir(parents=True, exist_ok=True)
    (place / "manifest.json").write_text(json.dumps(found))
    try:
        (run,) = gallery.read(tmp_path)
    except ResultError as error:
        told = str(error)
    else:
        told = str(run.folder)
    assert str(tmp_path) in told
