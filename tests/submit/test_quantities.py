"""Values of options that Kubernetes would refuse are told by the name of the option."""

from __future__ import annotations

import pytest

from llmbench.errors import UserError
from llmbench.submit import quantities


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "llmbench:1",
        "ghcr.io/me/llmbench:1.2-cu126",
        "localhost:5000/a/b_c__d/e-f:latest",
        "host/a@sha256:" + "0" * 64,
        "[::1]:5000/x:y",
    ],
)
def test_images(value: str) -> None:
    assert quantities.image("--image", value) == value


@pytest.mark.parametrize(
    "value",
    ["", " ", "A/B", "ghcr.io/Me/x", "x:", "x:y:z:", "x y", "x\n", "-x", "x@sha256:12", "http://x/y", "$(id)", "x;y"],
)
def test_images_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--image"):
        quantities.image("--image", value)


@pytest.mark.parametrize("value", ["1", "0.5", "500m", "64Gi", "1e3", "100k", ".5", "2."])
def test_amounts(value: str) -> None:
    assert quantities.quantity("--memory", value) == value


@pytest.mark.parametrize("value", ["", "0", "0Gi", "-1", "64GB", "64 Gi", "Gi", "1e", "0e5", "1" * 50, "٣", "1\n"])
def test_amounts_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--memory"):
        quantities.quantity("--memory", value)


@pytest.mark.parametrize(("value", "seconds"), [("30", 1800), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1d", 86400)])
def test_times(value: str, seconds: int) -> None:
    assert quantities.seconds("--time", value) == seconds


@pytest.mark.parametrize("value", ["", "0", "-5", "1w", "1:00:00", "9" * 9 + "d", "1h30m"])
def test_times_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--time"):
        quantities.seconds("--time", value)


@pytest.mark.parametrize("value", ["", "A", "a_b", "-a", "a-", "a..b", "a" * 254, "a\n", "ä"])
def test_names_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--volume"):
        quantities.name("--volume", value)


def test_a_namespace_is_one_label() -> None:
    assert quantities.name("--volume", "a.b") == "a.b"
    with pytest.raises(UserError, match="--namespace"):
        quantities.name("--namespace", "a.b", label=True)


@pytest.mark.parametrize("value", ["x", "=1", "1A=x", "A-B=x", "PET_NNODES=2", "A=\0"])
def test_variables_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--env"):
        quantities.variables("--env", [value])


def test_variables_keep_their_values() -> None:
    assert quantities.variables("--env", ["A=", "B=x=y", "C= \n$(A)"]) == {"A": "", "B": "x=y", "C": " \n$(A)"}
    with pytest.raises(UserError, match="--env A: given twice"):
        quantities.variables("--env", ["A=1", "A=2"])


@pytest.mark.parametrize("value", ["x", "a b=c", "/a=b", "A.b/c=d e", "a=-", "a=" + "x" * 64, "_/a=b", "a/b/c=d"])
def test_labels_that_cannot_be(value: str) -> None:
    with pytest.raises(UserError, match="--label"):
        quantities.labels("--label", [value])


def test_labels() -> None:
    assert quantities.labels("--label", ["kueue.x-k8s.io/queue-name=gpu", "a="]) == {
        "kueue.x-k8s.io/queue-name": "gpu", "a": ""
    }  # fmt: skip
