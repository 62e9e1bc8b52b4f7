"""No planted secret leaves, in whatever form and by whatever output. All are planted where real ones lie."""

from __future__ import annotations

import base64
import html
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from llmbench.doctor.fix import fix_script
from llmbench.doctor.github import workflow_commands
from llmbench.doctor.markdown import markdown
from llmbench.doctor.render import text
from llmbench.report import doctor_page
from tests.conftest import Command

from .conftest import inside, needs_root
from .made import diagnosis, failed, warned

OUTPUTS: dict[str, Callable[[dict[str, object]], str]] = {
    "json": json.dumps,
    "text": lambda document: text(document, verbose=True),
    "markdown": markdown,
    "github": workflow_commands,
    "fix": fix_script,
    "html": doctor_page,
}

VARIABLES = {
    "HF_TOKEN": "hf_SECRETabcdefghijklmnopqrstuvwxyz",
    "WANDB_API_KEY": "5ecre70123456789abcdef0123456789abcdef01",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYSECRETKEY",
    "AWS_SESSION_TOKEN": "/slash+at/the=start==SECRET",
    "OPENAI_API_KEY": "sk-SECRET1234567890abcdef",
    "GITHUB_TOKEN": "ghp_SECRETabcdefghijklmnopqrstuvwxyz01",
    "MY_PASSWORD": "S3cr\"t\\ $x'& <é>",
    "DB_PASS": "hunt3r",
    "apiToken": "camelSECRET",
    "CORP_PASSPHRASE": "correct horse SECRET battery",
    "SIGNING_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\nMIISECRETline1\nMIISECRETline2\n-----END PRIVATE KEY-----",
    "GCP_CREDENTIALS": json.dumps({"type": "service_account", "private_key_id": "SECRETid", "n": ["x"]}),
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T0SECRET/B0SECRET/xyz",
    "LATIN_SECRET": os.fsdecode(b"caf\xe9SECRET"),
    "https_proxy": "http://alice:pr0xySECRET@proxy.corp:3128",
    "no_scheme_proxy": "alice:pr0xyTWO@proxy.corp:3128",
    "PIP_INDEX_URL": "https://__token__:pypi-SECRETtoken@pypi.corp/simple",
    "DATABASE_URL": "postgres://bob:hun/ter2@SECRET@db/x",
}
SECRETS = {name: value for name, value in VARIABLES.items() if "://" not in value and "proxy" not in name}
PARTS = {
    "https_proxy": "pr0xySECRET",
    "no_scheme_proxy": "pr0xyTWO",
    "PIP_INDEX_URL": "pypi-SECRETtoken",
    "DATABASE_URL": "hun/ter2@SECRET",
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T0SECRET/B0SECRET/xyz",
    "SIGNING_PRIVATE_KEY": "MIISECRETline2",
    "GCP_CREDENTIALS": "SECRETid",
}
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda secret: secret,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json in json": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "percent": lambda secret: quote(secret, safe="", errors="surrogateescape"),
    "lower percent": lambda secret: quote(secret, safe="", errors="surrogateescape").lower(),
    "plus": lambda secret: quote_plus(secret, errors="surrogateescape"),
    "repr": lambda secret: repr(secret)[1:-1],
    "shell": lambda secret: shlex.quote(secret),
    "html": html.escape,
    "base64": lambda secret: base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode(),
    "upper": str.upper,
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def everywhere(leak: str) -> dict[str, object]:
    """A document whose every text holds something that must not be told."""
    around = f"in a path /srv/{leak}/x, as host {leak}.corp, RuntimeError: bad key '{leak}'"
    return diagnosis(
        ("a.one", failed(around, around, f"export A={leak}", script=f"export A={shlex.quote(leak)}")),
        ("b.two", warned(around)),
        facts={"torch": {"version": around}, leak: [leak]},
        environment={"HF_HOME": leak},
    ).to_json()


@pytest.mark.parametrize("form", FORMS)
def test_a_value_in_any_form(form: str, planted: None) -> None:
    for name in SECRETS | PARTS:
        secret = PARTS.get(name) or SECRETS[name]
        if len(secret) < 8 and form in ("base64", "upper"):
            continue  # short ones are only known as they are
        leak = FORMS[form](secret)
        shown = json.dumps(everywhere(leak), ensure_ascii=False)
        for written in (leak, json.dumps(leak)[1:-1], json.dumps(leak, ensure_ascii=False)[1:-1]):
            assert written not in shown, name


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output(output: str, planted: None) -> None:
    for name in (*SECRETS, *PARTS):
        secret = PARTS.get(name) or SECRETS[name]
        shown = OUTPUTS[output](everywhere(secret))
        assert secret not in shown, name
        assert "***" in shown or output == "fix"


@pytest.mark.parametrize("short", ["abc", "p4ss", "123456", "s3cr3t!"])
def test_short_ones_where_they_stand_alone(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", short)
    shown = json.dumps(everywhere(short)["checks"])
    assert short not in shown


@pytest.mark.parametrize("value", ["", "1", "on", "true", "cuda", "python", "42", "4096"])
def test_words_that_are_needed_stay(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    (check,) = diagnosis(("a.one", warned("python on cuda: 1, 42, 4096 is true"))).to_json()["checks"]
    assert check["findings"][0]["evidence"] == "python on cuda: 1, 42, 4096 is true"


def test_where_a_secret_lies_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", "/no/such/place/token")
    monkeypatch.setenv("SOME_SECRET", str(tmp_path))
    (check,) = diagnosis(("a.one", warned(f"{tmp_path} /no/such/place/token"))).to_json()["checks"]
    assert check["findings"][0]["evidence"] == f"{tmp_path} /no/such/place/token"


def test_one_that_was_cut(planted: None) -> None:
    shown = json.dumps(everywhere(VARIABLES["WANDB_API_KEY"][:24] + "..."))
    assert VARIABLES["WANDB_API_KEY"][:13] not in shown


# --- Secrets that are no variable of this process

OTHERS = [
    "python train.py --hf-token SECRETx --lr 0.1",
    "python train.py --hf-token=SECRETx",
    "python train.py --password 'SECRET x'",
    "['python', 'train.py', '--api-key', 'SECRETx']",
    "train\0--wandb-key\0SECRETx\0--lr\x000.1",
    "env WANDB_API_KEY=SECRETx PGPASSWORD=SECRETy python train.py",
    "mysql --user=bob --password=SECRETx",
    "sshpass -p SECRETx ssh host",
    "curl -u bob:SECRETx https://host",
    "curl -H 'Authorization: Bearer SECRETx' https://host",
    "curl -H 'Authorization: token SECRETx'",
    "curl -H 'X-Api-Key: SECRETx'",
    "Cookie: session=SECRETx; a=SECRETy",
    "pip install git+https://bob:SECRETx@host/repo.git",
    "pip install git+https://SECRETx@host/repo.git",
    "index-url = https://__token__:SECRETx@pypi.corp/simple",
    "index-url = https://bob:SEC/RETx@pypi.corp/simple",
    "proxy bob:SECRETx@proxy.corp:3128 refused",
    "https://host/a?x=1&access_token=SECRETx&y=2",
    "https://host/login?next=https%3A%2F%2Fbob%3ASECRETx%40corp%2Fy",
    "https://host/login?next=%2Fa%3Ftoken%3DSECRETx%26b%3D1",
    '{"token": "SECRETx"}',
    '{\\"auth\\": {\\"password\\": \\"SECRETx\\"}}',
    '{"password": "SEC\\"RETx"}',
    "{'accessToken': 'SECRETx'}",
    "password: SECRETx,y",
    "password = SECRETx;y",
    "secret SASL_PASSWORD='SECRET x'",
    "AccountKey=SECRETx==;EndpointSuffix=core",
    "hf_SECRETabcdefghijklmnop in a log",
    "nvapi-SECRETabcdefghijklmnop",
    "glpat-SECRETabcdefghijklmnop",
    "xoxb-SECRETabcdefghijklmnop",
    "-----BEGIN OPENSSH PRIVATE KEY-----\\nSECRETx\\n-----END OPENSSH PRIVATE KEY-----",
]


# pytest tells the id of a test in a variable, where redaction would find what it shall find in the text.
@pytest.mark.parametrize("leak", OTHERS, ids=range(len(OTHERS)))
def test_what_is_seen_of_others(leak: str) -> None:
    shown = json.dumps(everywhere(leak))
    assert "SEC" not in shown
    assert "RET" not in shown
    assert "***" in shown


HARMLESS = [
    "KeyError: 'embedding'",
    "pass: 3, tokens: 5, keys: 4",
    "TOKENIZERS_PARALLELISM=false",
    "hf_transfer is not installed",
    "https://download.pytorch.org/whl/cu130",
    "tcp://127.0.0.1:29500/a@b",
    "basic block and basic training",
    "bearer of news",
    "nvidia@580, torch@2.13",
    "git@github.com:owner/name",
    "commit cf30153c4c131c8164ee7798e5022d810682e2cb",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "GPU-5fd4b5cc-1b2e-8c1a-9f2d-3a2b1c0d9e8f",
    "python -u train.py",
]


@pytest.mark.parametrize("text", HARMLESS, ids=range(len(HARMLESS)))
def test_what_is_no_secret_is_told(text: str) -> None:
    (check,) = diagnosis(("a.one", warned(text))).to_json()["checks"]
    assert check["findings"][0]["evidence"] == text


# --- The command, from outside

ARGUMENTS = ("--only", "python,environment,compile.compiler,network.master")


def leaks(shown: str) -> list[str]:
    secrets = [PARTS.get(name) or SECRETS[name] for name in (*SECRETS, *PARTS)]
    # Quotes that JSON and HTML add do not make it less of a secret.
    return [secret for secret in secrets if len(secret) >= 6 and secret in shown]


@pytest.mark.parametrize("option", ["--json", "-v", "--markdown", "--github", "--fix"])
def test_the_command(option: str, planted: None, llmbench: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    more = {
        "NCCL_CONF_SECRET": "topSECRET",
        "TORCH_MIRROR": "https://bob:PLANTED@host/x",
        "CXX": f"/bin/false?token={VARIABLES['HF_TOKEN']}",
        "MASTER_ADDR": f"http://me:PLANTED@{VARIABLES['DB_PASS']}.invalid",
        "WORLD_SIZE": "2",
        "RANK": "0",
    }
    done = llmbench("doctor", *ARGUMENTS, option, "--html", page, **VARIABLES, **more)
    assert done.returncode == 1
    shown = done.stdout + done.stderr + page.read_text(encoding="utf-8")
    assert leaks(shown) == []
    for secret in ("PLANTED", "SECRET", "hunt3r"):
        assert secret not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--python", "/srv/hf_SECRETabcdefghijklmnopqrstuvwxyz/python"),
        ("--only", "hunt3r"),
        ("--baseline", "/srv/hunt3r/golden.json"),
        ("--explain", "hunt3r.x"),
        ("--html", "/no/such/hunt3r/x.html", "--only", "environment"),
    ],
)
def test_errors(arguments: tuple[str, ...], planted: None, llmbench: Command) -> None:
    done = llmbench("doctor", *arguments, **VARIABLES)
    assert done.returncode == 2
    assert "***" in done.stderr
    assert leaks(done.stdout + done.stderr) == []


@needs_root
def test_a_host_name(planted: None) -> None:
    shown = json.dumps(
        inside(
            "ip link set lo up\nhostname hf-secret0123456789\nexport HOST_TOKEN=hf-secret0123456789",
            "--only",
            "network.host",
        )
    )
    assert "secret0123456789" not in shown
    assert "***" in shown


@pytest.mark.parametrize("kind", ["ImportError", "OSError", "RuntimeError"])
def test_an_exception_of_torch(kind: str, stub_torch: Callable[[str], None], llmbench: Command) -> None:
    stub_torch(
        f"import os\nraise {kind}('cannot log in with ' + os.environ['LOGIN_TOKEN'] + ' at https://a:hunter2@h')"
    )
    variables = {"LOGIN_TOKEN": "tok-5ecret", "PYTHONPATH": os.environ["PYTHONPATH"] + os.pathsep + str(ROOT)}
    done = llmbench("doctor", "--only", "torch.import", "--json", **variables)
    assert "cannot log in with ***" in done.stdout
    assert "5ecret" not in done.stdout
    assert "hunter2" not in done.stdout


ROOT = Path(__file__).resolve().parents[2]


def test_what_a_crashing_torch_prints(stub_torch: Callable[[str], None], llmbench: Command) -> None:
    stub_torch("import os, sys\nprint('password=hunter2', file=sys.stderr, flush=True)\nos.abort()")
    variables = {"PYTHONPATH": os.environ["PYTHONPATH"] + os.pathsep + str(ROOT)}
    done = llmbench("doctor", "--only", "torch.import", "--json", **variables)
    assert "SIGABRT" in done.stdout
    assert "hunter2" not in done.stdout


def test_planted_in_the_environment_of_a_user(tmp_path: Path) -> None:
    """The whole of it, as somebody would start it, with files of theirs in the home folder."""
    home = tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text("[global]\nindex-url = https://u:PLANTEDpip@pypi.corp/simple\n")
    (home / ".netrc").write_text("machine pypi.corp login u password PLANTEDnetrc\n")
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_PLANTEDtokenabcdefghij")
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmbench", "doctor", "--json", "--skip", "torch,numerics,compile"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "PLANTED" not in done.stdout + done.stderr
