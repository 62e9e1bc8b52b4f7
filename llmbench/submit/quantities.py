"""What an option of a Kubernetes job may say: names, images, quantities, times; what is wrong is told by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmbench.errors import UserError

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = rf"({_QUALIFIED})?"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = r"(\d+(\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E|[eE][+-]?\d{1,2})?"
# https://github.com/distribution/reference: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
_COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(:\d+)?"
)
_IMAGE = rf"({_HOST}/)?{_COMPONENT}(/{_COMPONENT})*(:\w[\w.-]{{0,127}})?(@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{{32,}})?"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 60}
MOST_SECONDS = 2**31 - 1


def image(option: str, value: str) -> str:
    """Raises: UserError: not the name of an image."""
    if len(value) > 1024 or not re.fullmatch(_IMAGE, value, re.ASCII):
        raise UserError(f"{option} {value!r}: not the name of an image", "such as ghcr.io/me/llmbench:1.2")
    return value


def name(option: str, value: str, *, label: bool = False) -> str:
    """The name of an object; a namespace is one label of a DNS name, others may have several.

    Raises:
        UserError: no such name can be.
    """
    if len(value) > 253 or not re.fullmatch(_LABEL if label else _SUBDOMAIN, value, re.ASCII):
        raise UserError(f"{option} {value!r}: not a name in Kubernetes", "a-z, 0-9 and - inside, such as team-results")
    return value


def quantity(option: str, value: str) -> str:
    """Raises: UserError: not an amount of Kubernetes, or none at all."""
    if len(value) > 40 or not re.fullmatch(_QUANTITY, value, re.ASCII):
        raise UserError(f"{option} {value!r}: not an amount", "such as 16, 500m, 64Gi")
    if not re.search(r"[1-9]", re.split(r"[eE]", value)[0]):
        raise UserError(f"{option} {value}: nothing would be left to work with", "more than zero")
    return value


def resource(option: str, value: str) -> str:
    """The name of a device that pods can ask for, such as ``nvidia.com/gpu``."""
    domain, slash, last = value.rpartition("/")
    if not slash or not re.fullmatch(_SUBDOMAIN, domain, re.ASCII) or not re.fullmatch(_QUALIFIED, last, re.ASCII):
        raise UserError(f"{option} {value!r}: not the name of a device", "such as nvidia.com/gpu or amd.com/gpu")
    return value


def seconds(option: str, value: str) -> int:
    """``90s``, ``30m``, ``2h``, ``1d``; a number alone is minutes, as SLURM has it."""
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", value, re.ASCII)
    total = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < total <= MOST_SECONDS:
        raise UserError(f"{option} {value!r}: not a time", "minutes, or such as 90s, 45m, 2h, 1d")
    return total


def variables(option: str, given: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` each.

    Raises:
        UserError: not that, twice the same, or one that says which node a pod is.
    """
    found = _pairs(option, given)
    for key in found:
        if not re.fullmatch(_VARIABLE, key, re.ASCII):
            raise UserError(f"{option} {key!r}: not the name of a variable", f"{option} NCCL_DEBUG=INFO")
        if key.startswith("PET_"):
            raise UserError(f"{option} {key}: it says which node a pod is, and is set for each", "leave it out")
    return found


def labels(option: str, given: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` each, as labels and node selectors are.

    Raises:
        UserError: not that, or twice the same.
    """
    found = _pairs(option, given)
    for key, value in found.items():
        domain, slash, last = key.rpartition("/")
        prefix = not slash or (len(domain) <= 253 and re.fullmatch(_SUBDOMAIN, domain, re.ASCII))
        if not prefix or not re.fullmatch(_QUALIFIED, last, re.ASCII):
            raise UserError(f"{option} {key!r}: not the key of a label", f"{option} example.com/pool=gpu")
        if not re.fullmatch(_LABEL_VALUE, value, re.ASCII):
            raise UserError(f"{option} {key}={value}: not the value of a label", "at most 63 of A-Z a-z 0-9 - _ .")
    return found


def _pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"{option} {text!r}: NAME=VALUE is meant", None)
        if "\0" in value:
            raise UserError(f"{option} {key}: a zero byte cannot be in it", None)
        if key in found:
            raise UserError(f"{option} {key}: given twice", None)
        found[key] = value
    return found
