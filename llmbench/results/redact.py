"""Takes secrets out of everything that is shown or stored: text, environment variables, command lines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

MASK = "***"

# Which variables change how training runs. What is not here is never shown, so a new kind of secret needs no new rule.
_PREFIXES = (
    "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "DNNL_", "ONEDNN_", "ATEN_", "TORCH", "PYTORCH_", "TRITON_",
    "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "FI_", "HIP_", "ROCR_", "HSA_", "HF_",
    "SLURM_", "LLMBENCH_", "PET_",
)  # fmt: skip
_NAMES = frozenset({
    "LD_LIBRARY_PATH", "LD_PRELOAD", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK",
    "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "CC", "CXX", "TMPDIR", "XDG_CACHE_HOME", "TRANSFORMERS_CACHE",
    "PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONHASHSEED", "CONDA_PREFIX", "VIRTUAL_ENV",
    "TOKENIZERS_PARALLELISM",
})  # fmt: skip

_SMELL = (
    r"(?:SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|PRIVATE_?KEY|AUTHORIZATION"
    r"|(?:(?<![A-Za-z])(?:TOKEN|KEY)|[_-](?:AUTH|PASS|PAT))(?![A-Za-z]))"
)
_SECRET_NAME = re.compile(_SMELL, re.IGNORECASE)
_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        gh[pousr]_[A-Za-z0-9]{8,} | github_pat_\w{8,} | glpat-[\w-]{8,}      # GitHub, GitLab
      | hf_[A-Za-z0-9]{8,} | sk-[\w-]{8,} | (?:AKIA|ASIA)[A-Z0-9]{12,}        # Hugging Face, OpenAI, AWS
      | xox[abprs]-[\w-]{8,} | pypi-[\w-]{8,} | npm_[A-Za-z0-9]{16,} | AIza[\w-]{20,}
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                                       # JSON web token
    )""",
    re.VERBOSE,
)
# Up to the last @ before the path: a password may hold an @ of its own.
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)[^/\s\"']*@")
_QUERY = re.compile(r"(?P<name>[?&](?:[\w-]*(?:token|key|secret|signature|password|credential|sig))=)[^&\s\"'#]+", re.I)
_HEADER = re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED = rf"(?P<name>[\w-]*{_SMELL}[\w-]*)"
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s,;]+)"
_ASSIGNMENT = re.compile(rf"{_NAMED}(?P<between>[\"']?\s*[=:]\s*){_VALUE}", re.IGNORECASE)
_OPTION = re.compile(rf"(?<![\w-])(?=-){_NAMED}(?P<between>\s+)(?!-){_VALUE}", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_OPAQUE = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[A-Za-z])[A-Za-z0-9_+=]{32,}")
_SHORTEST_VALUE = 8


def is_secret_name(name: str) -> bool:
    """Whether a variable or option of this name is likely to hold a secret (``HF_TOKEN``, ``--api-key`` …)."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """The text with every secret that can be recognised shown as ``***``.

    Recognised are: values of this process's own variables with a secret's name, credentials in URLs, tokens by their
    well-known prefixes, ``NAME=value`` and ``--option value`` with a secret's name, headers, private keys.
    """
    for value in _own_secrets():
        text = text.replace(value, MASK)
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _URL_CREDENTIALS.sub(rf"\g<scheme>{MASK}@", text)
    text = _QUERY.sub(rf"\g<name>{MASK}", text)
    text = _HEADER.sub(rf"\g<name>{MASK}", text)
    text = _TOKENS.sub(MASK, text)
    text = _ASSIGNMENT.sub(rf"\g<name>\g<between>{MASK}", text)
    return _OPTION.sub(rf"\g<name>\g<between>{MASK}", text)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that change how training runs, sorted by name, secrets as ``***``."""
    return {
        name: MASK if is_secret_name(name) else redact(value)
        for name, value in sorted(variables.items())
        if name in _NAMES or name.startswith(_PREFIXES)
    }


def command(argv: Sequence[str]) -> list[str]:
    """The command line with secrets as ``***``: after ``--token`` or in ``--token=``, in URLs, long opaque tokens."""
    shown: list[str] = []
    hide_next = False
    for argument in argv:
        option = argument.startswith("-")
        if hide_next and not option:
            shown.append(MASK)
            hide_next = False
            continue
        name, equals, _ = argument.partition("=")
        hide_next = option and not equals and is_secret_name(name)
        if equals and is_secret_name(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(_mask_opaque(redact(argument)))
    return shown


def _own_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= _SHORTEST_VALUE}
    # A path is where a secret lies, not the secret itself.
    return sorted((value for value in values if not value.startswith("/")), key=len, reverse=True)


def _mask_opaque(argument: str) -> str:
    """Masks what looks like a token; a path is kept, and a commit id, which cannot be told from one, is not."""
    return argument if "/" in argument else _OPAQUE.sub(MASK, argument)
