"""The environment that an interpreter belongs to, and its certificates."""

from __future__ import annotations

import glob
import os
import re
import shlex
import sys
from collections.abc import Iterator

from llmbench.doctor import system
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context

# --- python.environment

UPGRADED = fault(
    "python.environment.upgraded",
    "fail",
    "The environment's packages are those of another Python version",
    cause="its Python was upgraded (or python3 now means another version): packages that were installed for <old> "
    "are not seen by <new>",
    fix="<python> -m venv --clear <prefix>, and install the packages again; or run python<old>",
    link="https://docs.python.org/3/library/venv.html",
)
ACTIVE = fault(
    "python.environment.active",
    "fail",
    "torch is in the activated environment, not in this one",
    cause="llmbench runs in an environment of its own, and looked at that one",
    fix="llmbench doctor --python <active>/bin/python",
)
MOVED = fault(
    "python.environment.moved",
    "warn",
    "The environment was moved or copied",
    cause="its scripts (pip, torchrun, accelerate) still start the Python of the old place: they fail with "
    "'bad interpreter', or work on another environment",
    fix="make it anew in its place; until then start them through Python: <python> -m pip, <python> "
    "-m torch.distributed.run",
    link="https://docs.python.org/3/library/venv.html#how-venvs-work",
)
_SCRIPTS = ("pip", "torchrun", "accelerate")


@check("python.environment", "The environment belongs to this interpreter", needs=("python.starts",))
def environment(context: Context) -> Iterator[Finding]:
    python = context.facts["python"]
    prefix, current = python["prefix"], ".".join(python["version"].split(".")[:2])
    faults = [] if python["torch"] else [*_torch_elsewhere(context, prefix, current)]
    isolated = python["virtual_environment"] or os.path.isdir(os.path.join(prefix, "conda-meta"))
    for name in _SCRIPTS if isolated else ():
        starts = _interpreter_of(os.path.join(prefix, "bin", name))
        if starts and os.path.realpath(os.path.dirname(starts)) != os.path.realpath(os.path.join(prefix, "bin")):
            state = "of another environment" if os.path.exists(starts) else "which does not exist"
            faults.append(MOVED.found(f"{prefix}/bin/{name} starts {starts}, {state}"))
            break
    yield from faults
    if not faults:
        yield passed(prefix)


def _torch_elsewhere(context: Context, prefix: str, current: str) -> Iterator[Finding]:
    for path in _torches(prefix):
        other = re.search(r"/python(\d+\.\d+)/", path)
        if other and other[1] != current:
            evidence = f"torch is installed for Python {other[1]} ({path}), but this is Python {current}"
            yield UPGRADED.found(evidence, old=other[1], new=current, prefix=shlex.quote(prefix))
            return
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = context.environ.get(name)
        if active and context.python == sys.executable and os.path.realpath(active) != os.path.realpath(prefix):
            for path in _torches(active):
                evidence = (
                    f"no torch in {prefix}, but in {path}, of the environment that is activated ({name}={active})"
                )
                yield ACTIVE.found(evidence, active=shlex.quote(active))
                return


def _torches(prefix: str) -> list[str]:
    return sorted(glob.glob(f"{glob.escape(prefix)}/lib/python3*/*-packages/torch"))


def _interpreter_of(script: str) -> str | None:
    """What a script's first lines start; None if there is no such script, or it looks for its Python elsewhere."""
    try:
        with open(script, encoding="utf-8", errors="replace") as file:
            lines = [file.readline(), file.readline()]
    except OSError:
        return None
    # A path that is too long for the system is started by way of the shell.
    match = re.match(r"#!\s*(/\S*python\S*)\s*$", lines[0]) or re.match(
        r"'''exec'\s+\"?(/[^\"\n]*?python[^\"\s]*)", lines[1]
    )
    return match[1] if match else None


# --- python.certificates

CERTIFICATES_GONE = fault(
    "python.certificates.gone",
    "warn",
    "A variable names a certificate bundle that does not exist",
    cause="every download over HTTPS fails (pip, model hubs, data sets): 'Could not find a suitable TLS CA certificate "
    "bundle', or CERTIFICATE_VERIFY_FAILED",
    fix="unset <name>",
    link="https://requests.readthedocs.io/en/latest/user/advanced/#ssl-cert-verification",
    script="unset <name>",
)
CERTIFICATES_EMPTY = fault(
    "python.certificates.empty",
    "warn",
    "A variable names a file that holds no certificates",
    cause="every download over HTTPS fails: no certificate can be verified",
    fix="unset <name>, or give it the path of a bundle such as /etc/ssl/certs/ca-certificates.crt",
    link="https://requests.readthedocs.io/en/latest/user/advanced/#ssl-cert-verification",
)
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "SSL_CERT_DIR", "AWS_CA_BUNDLE")


@check("python.certificates", "Variables for certificates lead to some", deadline=5)
def certificates(context: Context) -> Iterator[Finding]:
    named = {name: context.environ[name] for name in _BUNDLES if context.environ.get(name)}
    faults = []
    for name, value in named.items():
        if not os.path.exists(value):
            faults.append(CERTIFICATES_GONE.found(f"{name}={value} does not exist", name=name))
        elif os.path.isfile(value) and "-----BEGIN" not in (system.read(value) or "-----BEGIN"):
            faults.append(CERTIFICATES_EMPTY.found(f"{name}={value} holds no certificate", name=name))
    yield from faults
    if not faults:
        yield passed(f"{', '.join(named)} name what is there" if named else "the system's certificates are used")
