"""Takes secrets out of everything that is shown or stored: text, environment variables, command lines."""

from __future__ import annotations

import html
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

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
    "PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "CONDA_PREFIX",
    "VIRTUAL_ENV",
    "TOKENIZERS_PARALLELISM",
})  # fmt: skip

# TOKEN, KEY and the like count only where a word ends: not in TOKENIZERS, KEYBOARD, KeyError.
_SMELL = (
    r"(?:SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|PRIVATE_?KEY|AUTHORIZATION|COOKIE|WEBHOOK"
    r"|(?:TOKEN|(?<![A-Za-z])(?:KEY|AUTH)|(?-i:(?<=[a-z])(?:Key|Auth))|[_-](?:PASS|PAT|PWD))(?![A-Za-z]))"
)
_SECRET_NAME = re.compile(rf"{_SMELL}|(?:TOKEN|KEY)S?(?![A-Za-z])", re.IGNORECASE)
_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        gh[pousr]_[A-Za-z0-9]{8,} | github_pat_\w{8,} | gl[a-z]{2,5}-[\w-]{16,}    # GitHub, GitLab
      | hf_(?:[A-Za-z0-9]{16,} | (?=[A-Za-z]*[0-9])[A-Za-z0-9]{8,}) | api_org_[A-Za-z0-9]{16,}   # Hugging Face
      | [sr]k-[\w-]{8,} | [spr]k_(?:live|test)_\w{8,} | gsk_\w{16,} | nvapi-[\w-]{16,} | r8_[A-Za-z0-9]{20,}
      | (?:AKIA|ASIA)[A-Z0-9]{12,} | AIza[\w-]{20,} | ya29\.[\w-]{16,}              # AWS, Google
      | xox[abprs]-[\w-]{8,} | hooks\.slack\.com/services/[\w/]+ | discord(?:app)?\.com/api/webhooks/[\w/-]+
      | pypi-[\w-]{8,} | npm_[A-Za-z0-9]{16,} | dckr_pat_[\w-]{8,} | SG\.[\w-]{16,}\.[\w-]{16,}
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                                             # JSON web token
    )""",
    re.VERBOSE,
)
# Up to the last @ of the word: a password may hold an @ of its own, and even a /, but host:8080/a@b has none.
_URL_PASSWORD = re.compile(r"://[^\s\"'/@:]*:(?!\d{1,5}(?:/|\s|$))[^\s\"'<>]*@")
_URL_CREDENTIALS = re.compile(r"://[^/\s\"'<>]*@")
_HOST_CREDENTIALS = re.compile(r"(?<![\w/.:@%+-])[\w.%+-]{1,64}:[^\s/@\"']{1,128}@(?=[\w.-]{1,255}:\d)")
_ENCODED_CREDENTIALS = re.compile(r"(?P<scheme>%3A%2F%2F)(?:(?!%2F)[^\s\"'&])*?%40", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<name>(?:[?&;]|%3F|%26)[\w-]*(?:token|key|secret|signature|password|credential|sig|auth|pwd)(?:=|%3D))"
    r"(?:(?!%26)[^&\s\"'#])+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>\b(?:Bearer\s+|Basic\s+(?=(?-i:[a-z]*[A-Z0-9+/=]))))[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE
)
_WHOLE_HEADER = re.compile(
    r"(?P<name>\b(?:Proxy-Authorization|Authorization|Set-Cookie|Cookie)\s*:\s*)[^\r\n\"']+", re.I
)
# A name has an end: without one, a long word would be searched again from each of its letters.
_NAMED = rf"(?P<name>[\w-]{{0,60}}?{_SMELL}[\w-]{{0,60}})"
# In quotes, which may be escaped as in a string of JSON or of the shell; else up to a blank.
_VALUE = (
    r"(?:(?P<quote>'\"'\"'|\\*[\"'])(?:(?!(?P=quote))(?:\\.|[^\\]))*?(?P=quote)"
    r"|[^\s\"']*[^\s\"',;)\]}]|[^\s,;]+)"
)
_ASSIGNMENT = re.compile(
    rf"(?<![\w-]){_NAMED}(?P<between>(?:'\"'\"'|\\{{0,9}}[\"'])?\s{{0,9}}[=:]\s{{0,9}}){_VALUE}",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(
    rf"(?<![\w-])(?=-){_NAMED}(?P<between>\s{{1,9}}|(?:'\"'\"'|\\{{0,9}}[\"'])\s{{0,9}},\s{{0,9}})(?!-){_VALUE}",
    re.IGNORECASE | re.DOTALL,
)
_USER_OPTION = re.compile(
    r"(?P<name>(?<![\w-])(?:-u|-U|--user|--proxy-user)\s+[\"']?[^\s:\"']+:|\bsshpass\s+-p\s*)[^\s\"']+"
)
_TELLTALES = (
    *("secret", "passw", "passphrase", "credential", "key", "token", "auth", "cookie", "webhook", "signature", "sig="),
    *(
        "sig%3d",
        "pwd",
        "bearer",
        "basic",
        "-u",
        "--proxy-user",
        "sshpass",
        *(f"{c}{w}" for c in "_-" for w in ("pass", "pat")),
    ),
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_OPAQUE = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[A-Za-z])[A-Za-z0-9_+=]{32,}")

# user:password@ in a URL, a token of eight or more characters alone there, or user:password@host:port.
_PASSWORDS_IN = re.compile(
    r"(?:://[^\s\"'/@:]*:(?!\d{1,5}(?:/|\s|$))|://(?=[^\s\"'/@:]{8})|(?:^|(?<=[\s,;]))[\w.%+-]+:(?=[^\s\"'/@]*@[\w.-]+:\d))([^\s\"'/@][^\s\"']*)@"
)
_PLACES = ("_FILE", "_PATH", "_DIR", "_SOCK", "_HOME")
# Values of variables that sound secret, but words that are needed to say anything.
_WORDS = frozenset({
    "true", "false", "none", "null", "yes", "no", "on", "off", "auto", "default", "enabled", "disabled", "enable",
    "disable", "basic", "bearer", "token", "oauth", "oidc", "key", "cpu", "gpu", "cuda", "torch", "python", "pip",
    "conda", "all", "any", "linux", "docker", "local", "localhost", "root", "vault", "keyring", "env", "file",
})  # fmt: skip
_LONG = 8


def is_secret_name(name: str) -> bool:
    """Whether a variable or option of this name is likely to hold a secret (``HF_TOKEN``, ``--api-key`` …)."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """The text with every secret that can be recognised shown as ``***``.

    Recognised are: values of this process's own variables with a secret's name, and passwords in its URLs, also escaped
    or encoded; credentials in URLs, tokens by their well-known prefixes, ``NAME=value`` and ``--option value`` with a
    secret's name, headers, private keys.
    """
    own = _own_secrets(tuple(os.environ.items()))
    if own is not None:
        text = own.sub(MASK, text)
    text = _PRIVATE_KEY.sub(MASK, text)
    if "@" in text:
        text = _URL_PASSWORD.sub(f"://{MASK}@", text)
        text = _URL_CREDENTIALS.sub(f"://{MASK}@", text)
        text = _HOST_CREDENTIALS.sub(f"{MASK}@", text)
    if "%40" in text:
        text = _ENCODED_CREDENTIALS.sub(rf"\g<scheme>{MASK}%40", text)
    text = _TOKENS.sub(MASK, text)
    lower = text.lower()
    if any(word in lower for word in _TELLTALES):  # most texts hold none of them, and searching for names takes long
        for pattern in (_QUERY, _WHOLE_HEADER, _HEADER, _USER_OPTION):
            text = pattern.sub(rf"\g<name>{MASK}", text)
        for pattern in (_ASSIGNMENT, _OPTION):
            text = pattern.sub(rf"\g<name>\g<between>{MASK}", text)
    return text


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that change how training runs, sorted by name; without those that are secrets by their name."""
    return {
        name: redact(value)
        for name, value in sorted(variables.items())
        if (name in _NAMES or name.startswith(_PREFIXES)) and not is_secret_name(name)
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


@lru_cache(maxsize=4)
def _own_secrets(variables: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """What matches the secrets in these variables; None if there is none."""
    secrets: set[str] = set()
    for name, value in variables:
        if is_secret_name(name) and not _is_place(name, value):
            secrets.update(_parts(value))
        elif "@" in value:
            secrets.update(_PASSWORDS_IN.findall(value))
    long = {form for secret in secrets if len(secret) >= _LONG for form in _forms(secret)}
    short = {secret for secret in secrets if len(secret) < _LONG and _is_telling(secret)}
    patterns = [re.escape(form) for form in sorted(long, key=len, reverse=True)]
    # Of one that was cut short, as in "bad key abcdefghij…", the beginning tells enough.
    patterns += [re.escape(secret[:12]) + r"[\w+/=-]*" for secret in sorted(secrets) if _is_cut_recognised(secret)]
    patterns += [
        rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])" for secret in sorted(short, key=len, reverse=True)
    ]
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def _is_place(name: str, value: str) -> bool:
    """A path is where a secret lies, not the secret itself."""
    if not value.startswith(("/", "~", "./")):
        return False
    folder = os.path.dirname(value)
    return name.upper().endswith(_PLACES) or os.path.exists(value) or (folder != "/" and os.path.isdir(folder))


def _is_telling(secret: str) -> bool:
    """Whether a short text can be taken for the secret wherever it stands alone."""
    return len(secret) >= (6 if secret.isdigit() else 3) and secret.lower() not in _WORDS


def _is_cut_recognised(secret: str) -> bool:
    return len(secret) >= 20 and "://" not in secret and not re.search(r"\s", secret[:12])


def _parts(secret: str) -> Iterator[str]:
    """A secret, its lines, and what is secret in it if it is JSON."""
    yield secret
    for line in secret.splitlines():
        if len(line.strip()) >= _LONG:
            yield line.strip()
    yield from _PASSWORDS_IN.findall(secret)
    if secret.lstrip().startswith(("{", "[")):
        try:
            yield from _leaves(json.loads(secret))
        except (ValueError, RecursionError):
            return


def _leaves(value: Any, secret: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, secret or is_secret_name(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, secret)
    elif isinstance(value, str) and secret and value:
        yield from _parts(value)


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may be written: in JSON, twice in JSON, in a URL, in Python, in HTML, in base64."""
    data = secret.encode("utf-8", "surrogateescape")
    escaped = json.dumps(secret)[1:-1]
    yield from (secret, escaped, json.dumps(escaped)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (quote(data, safe=""), quote(data), quote_plus(data))
    yield from (repr(secret)[1:-1], repr(data)[2:-1], html.escape(secret), b64encode(data).decode().rstrip("="))
    yield data.decode("utf-8", "replace")
    yield data.decode("utf-8", "backslashreplace")
    yield secret.encode("utf-8", "backslashreplace").decode()
    yield secret.replace("'", "'\"'\"'")  # as shlex.quote does


def _mask_opaque(argument: str) -> str:
    """Masks what looks like a token; a path is kept, and a commit id, which cannot be told from one, is not."""
    return argument if "/" in argument else _OPAQUE.sub(MASK, argument)
