"""The comparison of marked tests on disk: the same files as ``llmbench ab`` leaves, with a test as a case."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmbench import __version__
from llmbench.launch.record import utc_now
from llmbench.plugin.rules import Rules
from llmbench.pytest_plugin import RUN_KEY, chosen
from llmbench.results.ab import Ab, AbCase, AbGate, AbSide
from llmbench.results.ab_folder import AbFolder
from llmbench.results.fingerprint import git_state
from llmbench.results.redact import command as redacted
from llmbench.results.schema import PlannedCase
from llmbench.stats.sequential import LOOKS

SUITE = "pytest"


def top_folder(config: pytest.Config) -> Path:
    """Where the comparison of this run of pytest lies, or, if there are several, each in a folder of its own."""
    asked = chosen(config, "out", {})
    return config.rootpath / (asked or Path("reports", "ab", f"pytest-{config.stash[RUN_KEY]}"))


def folder_of(config: pytest.Config, rules: Rules, all_rules: Sequence[Rules]) -> AbFolder:
    """Tests with the same rules are one comparison, so that there is one base and one gate in it."""
    different = list(dict.fromkeys(all_rules))
    top = top_folder(config)
    return AbFolder(top if len(different) == 1 else top / str(different.index(rules) + 1))


def joined(folder: AbFolder, ab: Ab) -> Ab:
    """Begins a comparison, or joins that which another process of this run of pytest has begun.

    Raises:
        UserError: the folder holds another one, or cannot be written.
    """
    if (folder.path / "ab.json").exists():
        found = folder.read()
        if found.id == ab.id:
            folder.claim()
            return found
    AbFolder.create(folder.path, ab).release()
    folder.claim()
    return ab


def comparison(
    config: pytest.Config, rules: Rules, tests: Sequence[str], alpha: float, base: AbSide, number: int
) -> Ab:
    """What is to be compared.

    Args:
        tests: that have these rules, by node id.
        alpha: their part of the chance of a false alarm.
        number: of this comparison among those of this run of pytest.
    """
    cases = [
        PlannedCase(case=test, workload=test, mode="eager", world_size=1, config={"warmup": rules.warmup})
        for test in tests
    ]
    looks = [look for look in LOOKS if look < rules.sessions]
    return Ab(
        id=f"{config.stash[RUN_KEY]}-{number}",
        suite=SUITE,
        description=f"tests of {config.rootpath.name}",
        cases=[AbCase(id=case.case, base=case, cand=case) for case in cases],
        base=base,
        cand=candidate(config),
        gate=AbGate(
            tolerance=rules.tolerance,
            limit=rules.limit,
            alpha=alpha,
            beta=0.05,
            looks=[*looks, rules.sessions],
            loss_margin=rules.loss_margin,
        ),
        seed=secrets.randbits(32),
        rounds=rules.rounds,
        budget_seconds=rules.budget,
        command=redacted(["pytest", *map(str, config.invocation_params.args)]),
        working_folder=str(config.invocation_params.dir),
        llmbench=__version__,
        device="cpu",
        data={},
        started_at=utc_now(),
    )


def candidate(config: pytest.Config) -> AbSide:
    """The user's checkout, in the environment that runs pytest."""
    git = git_state(config.rootpath)
    return AbSide(
        asked="git:." if git else sys.executable,
        label="working tree",
        kind="revision" if git else "python",
        python=sys.executable,
        git=git,
    )


def described(ab: Ab, device: Any, base: dict[str, Any], cand: dict[str, Any]) -> Ab:
    """With what the sides told of their environments."""
    sides = {
        "base": ab.base.model_copy(update={"environment": base}),
        "cand": ab.cand.model_copy(update={"environment": cand}),
    }
    return ab.model_copy(update=sides | ({"device": device} if device else {}))
