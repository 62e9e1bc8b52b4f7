"""No planted secret survives; what is no secret does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.results.redact import MASK, command, environment, is_secret_name, redact

GITHUB = "ghp_" + "SECRETabcdefghijklmnopqrstuvwxyz0123"
HUGGING_FACE = "hf_" + "SECRETabcdefghijklmnopqrstuvwxyz0123"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"cloning with {GITHUB} now", GITHUB),
        (f"'{HUGGING_FACE}'", HUGGING_FACE),
        ("sk-SECRET1234567890abcdef", "SECRET"),
        ("AKIA" + "SECRETSECRET1234", "SECRET"),
        ("postgres://bob:hunter2SECRET@db/x", "hunter2SECRET"),
        ("http://alice:p@SECRET@proxy:3128", "SECRET"),
        ("https://SECRET@host/path", "SECRET"),
        ("https://host/file?token=SECRET&x=1", "SECRET"),
        ("https://host/file?X-Amz-Signature=SECRET", "SECRET"),
        ("Authorization: Bearer SECRETabcdef", "SECRET"),
        ("env: WANDB_API_KEY=SECRET more", "SECRET"),
        ('{"password": "my SECRET words"}', "SECRET"),
        ("run --data x --api-key SECRET", "SECRET"),
        ("NCCL_CONF_SECRET='topSECRETvalue'", "topSECRETvalue"),
        ("-----BEGIN RSA PRIVATE KEY-----\nSECRET\n-----END RSA PRIVATE KEY-----", "SECRET\n"),
        ("eyJSECRETSECRET.eyJSECRETSECRET.SECRET", "SECRETSECRET"),
    ],
)
def test_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "PATH=/usr/bin:/bin",
        "pass: 3, tokens: 5, keys: 4",
        "TOKENIZERS_PARALLELISM=false",
        "KeyError: 'embedding'",
        "https://download.pytorch.org/whl/cu130",
        "https://host/@scope/package",
        "needs torch.import",
        "/srv/a/.venv/bin/python -m pip install torch==2.13.0",
        "libstdc++.so.6: version `GLIBCXX_3.4.30' not found",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_own_secret_variables_are_masked_wherever_they_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIKplanted")
    assert redact("the library said: bad key wJalrXUtnFEMIKplanted!") == f"the library said: bad key {MASK}!"


def test_environment_shows_what_matters_and_no_secret() -> None:
    shown = environment(
        {
            "OMP_NUM_THREADS": "2",
            "HF_HOME": "/cache",
            "HF_TOKEN": "planted",
            "NCCL_CONF_SECRET": "planted",
            "TORCH_URL": "https://me:planted@host/",
            "OPENAI_API_KEY": "planted",
            "USER": "someone",
            "LD_PRELOAD": "",
        }
    )
    assert shown == {
        "HF_HOME": "/cache",
        "LD_PRELOAD": "",
        "OMP_NUM_THREADS": "2",
        "TORCH_URL": f"https://{MASK}@host/",
    }


def test_command_line() -> None:
    argv = [
        "llmbench",
        "run",
        "smoke",
        "--token",
        "planted",
        "--api-key=planted",
        "--data",
        "/a/b",
        GITHUB,
        "a" * 31 + "1",
    ]
    assert command(argv) == [
        "llmbench", "run", "smoke", "--token", MASK, f"--api-key={MASK}", "--data", "/a/b", MASK, MASK
    ]  # fmt: skip


def test_an_option_after_a_flag_of_a_secret_name_is_kept() -> None:
    assert command(["x", "--use-auth", "--out", "runs"]) == ["x", "--use-auth", "--out", "runs"]


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GOOGLE_CREDENTIALS", "X_AUTH", "API_KEY"]
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"])
def test_harmless_names(name: str) -> None:
    assert not is_secret_name(name)


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
