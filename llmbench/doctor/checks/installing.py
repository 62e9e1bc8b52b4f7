"""Commands that install packages into the interpreter under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.doctor.runner import Context


def install(context: Context, package: str, *options: str) -> str:
    """The command that installs a package into the interpreter under test."""
    command = " ".join([context.python, "-m", "pip", "install", *options, package])
    if context.facts.get("python", {}).get("pip", True):
        return command
    return f"{context.python} -m ensurepip && {command}"


def reinstall(context: Context) -> str:
    """The command that installs the same torch again, without what it needs."""
    versions = (context.facts.get("torch_files") or {}).get("versions", [])
    version, _, build = versions[0].partition("+") if versions else ("", "", "")
    command = install(
        context, f"torch=={version}" if version else "torch", "--force-reinstall", "--no-deps", "--no-cache-dir"
    )
    return (
        f"{command}  (with the index URL that https://pytorch.org/get-started gives for {build})" if build else command
    )
