"""From the folder of a job to the scheduler that has it."""

from __future__ import annotations

from llmbench.errors import UserError
from llmbench.submit.jobs import JobFolder, Submitted


def opened(folder: JobFolder) -> Submitted:
    """The job of a folder, to ask its scheduler about.

    Raises:
        UserError: the folder is damaged.
    """
    kind = folder.read().kind
    if kind == "kubernetes":
        from llmbench.submit.kubernetes import KubernetesJob

        return KubernetesJob(folder)
    raise UserError(f"{folder.path}: this version of llmbench cannot follow a job of {kind}")
