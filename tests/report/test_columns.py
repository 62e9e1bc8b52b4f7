"""Lists of records, column by column: lossless, and light."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report.columns import compact, pack
from tests import factory
from tests.report.html_reader import read_column

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "same", "keys", "__proto__", "1"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def unpacked(packed):
    return read_column(packed["columns"], packed["n"])


@given(st.lists(JSON, max_size=12))
def test_loses_nothing(values):
    packed = json.loads(compact(pack(values)))
    # As text, for in Python 1 == 1.0 == True.
    assert json.dumps(unpacked(packed), sort_keys=True) == json.dumps(values, sort_keys=True)


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ([1, 1], {"same": 1}),
        ([1, True], {"each": [1, True]}),
        ([1, 2, 3], {"each": [1, 2, 3]}),
        (["a", "b", "a", "b"], {"kinds": ["a", "b"], "of": "0101"}),
        ([{"a": 1}, {"a": 2}], {"keys": {"a": {"each": [1, 2]}}}),
        ([{"a": 1}, {"a": None}, {}], {"keys": {"a": {"there": "+n-", "of": {"same": 1}}}}),
        ([[1], [2, 3]], {"lengths": {"each": [1, 2]}, "items": {"each": [1, 2, 3]}}),
    ],
)
def test_forms(values, columns):
    assert pack(values) == {"n": len(values), "columns": columns}
    assert unpacked(pack(values)) == values


def test_records_of_a_run_weigh_a_third_or_less(tmp_path):
    records = [json.loads(record.model_dump_json()) for record in factory.modes_run(tmp_path / "run").records()]
    assert unpacked(pack(records)) == records
    assert len(compact(pack(records))) < len(compact(records)) / 3
