"""From the folder of a job to the scheduler that has it."""

from __future__ import annotations

from llmbench.submit.jobs import JobFolder, Submitted


def opened(folder: JobFolder) -> Submitted:
    """The job of a folder, to ask its scheduler about.

    Raises:
        UserError: the folder is damaged.
    """
    kind = folder.read().kind
    if kind == "slurm":
        from llmbench.submit.slurm import SlurmJob

        return SlurmJob(folder)
    from llmbench.submit.kubernetes import KubernetesJob

    return KubernetesJob(folder)
