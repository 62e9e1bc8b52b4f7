"""How nodes differ, in few words."""

from __future__ import annotations

import pytest

from llmbench.results.nodes import difference_lines, name_list, node_differences, node_names, place_of
from llmbench.results.schema import Error
from tests.factory import nodes


def test_alike_nodes_have_no_differences():
    assert node_differences(nodes(4)) == []
    assert difference_lines(nodes(4)) == ([], 0)
    assert difference_lines([]) == ([], 0)


def test_what_most_have_is_usual_whichever_node_leads():
    lines, more = difference_lines(nodes(4, {0: {"torch.version": "2.12.0"}, 2: {"driver": "570.10"}}))
    assert lines == ["torch 2.12.0 on h0; 2.13.0+cu130 on the other 3", "driver 570.10 on h2; 580.65.06 on the other 3"]
    assert more == 0


def test_of_two_that_differ_both_are_named():
    assert difference_lines(nodes(2, {1: {"torch.version": "2.12.0"}}))[0] == ["torch 2.12.0 on h1; 2.13.0+cu130 on h0"]


def test_a_third_value_is_not_counted_among_the_others():
    changed = {1: {"driver": "570.10"}, 2: {"driver": "560.35"}}
    assert difference_lines(nodes(5, changed))[0] == [
        "driver 570.10 on h1; 580.65.06 on 3 nodes",
        "driver 560.35 on h2; 580.65.06 on 3 nodes",
    ]


def test_a_fact_that_a_node_lacks_is_a_difference():
    several = nodes(3)
    del several[1].facts["driver"]
    assert difference_lines(several)[0] == ["driver none on h1; 580.65.06 on the other 2"]


def test_many_differences_are_counted():
    lines, more = difference_lines(nodes(30, {rank: {"host.kernel": f"6.{rank}"} for rank in range(1, 15)}), most=3)
    assert (len(lines), more) == (3, 11)


def test_nodes_of_one_host_are_told_apart():
    several = nodes(3)
    several[2].host = "h1"
    assert node_names(several) == {0: "h0", 1: "h1 (node 1)", 2: "h1 (node 2)"}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["h0"], "h0"),
        (["h0", "h1"], "h0, h1"),
        (["h0", "h1", "h2", "h4"], "h0–h2, h4"),
        (["gpu-08.site", "gpu-09.site", "gpu-10.site", "login"], "gpu-08.site–gpu-10.site, login"),
        (["a1", "b2", "c3"], "a1, b2, c3"),
        ([f"h{2 * rank}" for rank in range(9)], "h0, h2, h4, h6, h8, h10 and 3 more"),
        ([f"h{rank}" for rank in range(1024)], "h0–h1023"),
        ([], ""),
    ],
)
def test_names_are_folded(names, text):
    assert name_list(names) == text


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("it broke", "rank 3 on h1"),
        ("rank 3 broke", "on h1"),
        ("rank 31 broke", "rank 3 on h1"),
        ("rank 3 on h1: killed by SIGKILL", None),
    ],
)
def test_where_an_error_was_as_far_as_it_does_not_say_it(message, place):
    assert place_of(Error(type="RuntimeError", message=message, rank=3, host="h1")) == place


def test_an_error_of_one_process_has_no_place():
    assert place_of(None) is None
    assert place_of(Error(type="RuntimeError", message="it broke", host="h1")) is None
