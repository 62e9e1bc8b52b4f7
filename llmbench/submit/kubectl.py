"""Kubernetes asked through ``kubectl``, with the rights and the configuration of whoever starts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.errors import UserError
from llmbench.submit.commands import ask, last_words

NO_KUBECTL = "install it, and see that `kubectl get pods` works; `llmbench submit kubernetes … --plan` needs neither"
ANSWER_SECONDS = 30


@dataclass(frozen=True)
class Kubectl:
    """``kubectl`` for one context and namespace; None is what kubectl takes by itself."""

    context: str | None = None
    namespace: str | None = None

    def command(self, *arguments: str, limited: bool = True) -> list[str]:
        where = [f"--context={self.context}"] if self.context else []
        where += [f"--namespace={self.namespace}"] if self.namespace else []
        limit = [f"--request-timeout={ANSWER_SECONDS}s"] if limited else []
        return ["kubectl", *where, *limit, *arguments]

    def __call__(self, *arguments: str) -> str:
        """What it answers.

        Raises:
            UserError: there is no kubectl, or it failed; in its words.
        """
        done = ask(self.command(*arguments), NO_KUBECTL)
        if done.returncode != 0:
            raise UserError(f"kubectl {arguments[0]}: {last_words(done)}", _hint(done.stderr))
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """As ``__call__``, for a command that prints JSON."""
        text = self(*arguments, "-o", "json")
        try:
            return json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise UserError(f"kubectl {arguments[0]}: no JSON: {error}", None) from None

    def current(self) -> Kubectl:
        """The same with the context by its name, so that it stays the same when the user goes on to another."""
        if self.context:
            return self
        done = ask(["kubectl", "config", "current-context"], NO_KUBECTL)
        name = done.stdout.strip()
        return Kubectl(name, self.namespace) if done.returncode == 0 and name else self

    def check(self, manifest: Path) -> None:
        """Lets the server judge objects without making them: its schemas, its admission, the user's rights.

        Raises:
            UserError: it would refuse them.
        """
        self("apply", "--dry-run=server", "--validate=true", "-f", str(manifest), "-o", "name")

    def apply(self, manifest: Path) -> list[dict[str, Any]]:
        """Makes the objects; returns them as the server has them."""
        return items(self.json("apply", "--validate=true", "-f", str(manifest)))

    def logs(self, pod: str, *more: str) -> str:
        return self("logs", pod, *more)

    def following_logs(self, pod: str, file: Path) -> subprocess.Popen[bytes]:
        """Writes what a pod says from now on into a file, until the pod has ended."""
        with file.open("wb") as out:
            return subprocess.Popen(
                self.command("logs", pod, "--follow", limited=False),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def delete(self, resources: Sequence[str], selector: str) -> None:
        """Deletes all of these kinds that have the label, and does not wait for it."""
        self("delete", ",".join(resources), f"--selector={selector}", "--wait=false", "--ignore-not-found")


def items(answer: Any) -> list[dict[str, Any]]:
    """One object or a list of them as a list."""
    if not isinstance(answer, dict) or not answer:
        return []
    return list(answer.get("items") or []) if str(answer.get("kind", "")).endswith("List") else [answer]


def _hint(stderr: str) -> str | None:
    lower = stderr.lower()
    if "no matches for kind" in lower or "doesn't have a resource type" in lower:
        return "the operator of this --kind is not installed in the cluster; --kind job needs none"
    if "forbidden" in lower:
        return "ask for rights in this namespace, or name another with --namespace"
    if any(sign in lower for sign in ("refused", "no such host", "unable to connect", "timeout", "timed out", "eof")):
        return "can the cluster be reached? `kubectl cluster-info`; --plan needs no cluster"
    return None
