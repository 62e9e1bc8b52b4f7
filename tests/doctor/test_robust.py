"""Nothing that is done to the command ends it in a traceback, a hang, or a wrong exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .conftest import needs_root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--only", "environment,storage.temporary,python.starts")
BAD = {"CXX": "/bin/false"}  # makes compile.compiler fail
FAILING = ("--only", "compile.compiler")


def environ(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def doctor(*arguments: str, shell: str = '"$@"', **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "llmbench", "doctor", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=environ(**variables),
        timeout=90,
    )


def calm(done: subprocess.CompletedProcess[str]) -> None:
    """Nothing but words for people."""
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception" not in done.stderr


# --- Standard streams


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_keep_the_exit_code(closed: str) -> None:
    fine = doctor(*QUICK, shell=f'"$@" {closed}')
    bad = doctor(*FAILING, "--json", shell=f'"$@" {closed}', **BAD)
    calm(fine)
    calm(bad)
    assert (fine.returncode, bad.returncode) == (0, 1)


def test_usage_errors_with_a_closed_stderr_do_not_go_to_stdout() -> None:
    done = doctor("--only", "nonsense", shell='"$@" 2>&-')
    assert (done.returncode, done.stdout) == (2, "")


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@needs_full
@pytest.mark.parametrize("option", ["--json", "--markdown", "--fix", "-v"])
def test_full_stdout_says_so_in_one_line(option: str) -> None:
    done = doctor(*QUICK, option, shell='"$@" > /dev/full')
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["llmbench: cannot write to standard output: No space left on device"]


@needs_full
def test_everything_full() -> None:
    assert doctor(*QUICK, shell='"$@" > /dev/full 2> /dev/full').returncode == 2
    assert doctor("--explain", "nonsense", shell='"$@" 2> /dev/full').returncode == 2


@pytest.mark.parametrize("reader", ["true", "head -1", "head -c 1"])
def test_a_reader_that_goes_away(reader: str) -> None:
    done = doctor(*QUICK, "--json", shell=f'"$@" | {reader}')
    calm(done)
    assert done.stderr == ""


# --- Text


@pytest.mark.parametrize("option", ["-v", "--json", "--markdown", "--github", "--fix"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1", "cp037"])
def test_any_encoding(option: str, encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "Größe-✓"
    folder.mkdir()
    command = [sys.executable, "-m", "llmbench", "doctor", "--only", "environment", option]
    variables = environ(PYTHONIOENCODING=encoding, CUDA_LAUNCH_BLOCKING="1")
    done = subprocess.run(command, capture_output=True, env=variables, cwd=folder)
    shown = done.stdout.decode(encoding.partition(":")[0])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr.decode()
    assert "environment" in shown


def test_the_plain_locale() -> None:
    done = doctor(*QUICK, LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    calm(done)
    assert done.returncode == 0


def test_bytes_that_are_no_text() -> None:
    command = [sys.executable, "-m", "llmbench", "doctor", *QUICK, "--json"]
    variables = {
        os.fsencode(name): os.fsencode(value) for name, value in environ(PYTHONIOENCODING="utf-8:strict").items()
    }
    variables |= {b"NCCL_SOCKET_IFNAME": b"eth\xe9", b"OMP_\xff": b"\xfe"}
    done = subprocess.run(command, capture_output=True, env=variables)
    document = json.loads(done.stdout.decode("utf-8"))
    assert document["environment"]["NCCL_SOCKET_IFNAME"] == "eth\\udce9"
    assert done.stderr == b""


@pytest.mark.parametrize("columns", ["1", "20", "10000", "0", "x"])
def test_any_terminal(columns: str) -> None:
    done = doctor(*FAILING, COLUMNS=columns, **BAD)
    calm(done)
    assert done.returncode == 1
    assert "compile.compiler" in done.stdout


def test_a_real_terminal_sees_progress_and_colours() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llmbench", "doctor", *QUICK]
    variables = environ(TERM="xterm-256color", COLUMNS="20")
    variables.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 4096):
            shown += part
    assert process.wait() == 0
    assert b"\r\x1b[K0/" in shown or b"\r\x1b[K1/" in shown
    assert b"\x1b[1m" in shown


# --- The machine


def namespace(setup: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "llmbench", "doctor", *arguments]
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    command = [*unshare, "sh", "-c", f'set -e\n{setup}\nexec "$@"', "sh", *program]
    return subprocess.run(command, capture_output=True, text=True, env=environ(**variables), timeout=120)


NO_PROC = "mkdir -p /tmp/none; mount -t tmpfs none /tmp/none; mount --bind /tmp/none /proc"
NO_SYS = "umount -R -l /sys"
READ_ONLY = (
    "mount -o remount,bind,ro /\n"
    "for d in /tmp /var /root /dev/shm; do mount --rbind $d $d; mount -o remount,bind,ro $d; done"
)
BROKEN_MACHINES = {
    "no /proc": NO_PROC,
    "no /sys": NO_SYS,
    "read-only": READ_ONLY,
    "all three": f"{READ_ONLY}; {NO_SYS}",
}


@needs_root
@pytest.mark.parametrize("machine", BROKEN_MACHINES)
def test_a_machine_without(machine: str) -> None:
    done = namespace(BROKEN_MACHINES[machine], "--json", "--skip", "torch", OMP_NUM_THREADS="1")
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["counts"]["incomplete"] == 0, [
        finding for check in document["checks"] for finding in check["findings"] if finding["verdict"] == "incomplete"
    ]


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("machine", BROKEN_MACHINES)
def test_all_checks_on_a_machine_without(machine: str) -> None:
    done = namespace(BROKEN_MACHINES[machine], "--json", OMP_NUM_THREADS="1")
    assert json.loads(done.stdout)["counts"]["incomplete"] == 0


def test_a_folder_that_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = doctor(*QUICK, shell=f'cd "{folder}"; rmdir "{folder}"; "$@"')
    calm(done)
    assert done.returncode == 1
    assert "no longer exists" in " ".join(done.stdout.split())


def test_an_empty_environment() -> None:
    command = ["env", "-i", f"PYTHONPATH={ROOT}", sys.executable, "-m", "llmbench", "doctor", *QUICK, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    calm(done)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "warn"  # there is no PATH


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_user_without_rights(tmp_path: Path) -> None:
    """Nobody cannot write, nor see what belongs to others; llmbench and its interpreter lie where they can be read."""

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    python = "/usr/bin/python3"
    code = "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
    if subprocess.run([python, "-c", code], preexec_fn=become_nobody).returncode:
        pytest.skip("the system's Python cannot run llmbench")
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    if subprocess.run(["ls", str(site)], preexec_fn=become_nobody, capture_output=True).returncode:
        pytest.skip("others may not read these packages")
    variables = {"PYTHONPATH": f"{ROOT}:{site}", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    command = [python, "-m", "llmbench", "doctor", *QUICK, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd="/", preexec_fn=become_nobody)
    assert json.loads(done.stdout)["counts"]["incomplete"] == 0, done.stderr


@pytest.mark.parametrize(
    ("limit", "value"), [(resource.RLIMIT_NOFILE, 40), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)]
)
def test_tight_limits(limit: int, value: int) -> None:
    command = [sys.executable, "-m", "llmbench", "doctor", *QUICK, "--json"]
    tighten: Callable[[], None] = lambda: resource.setrlimit(limit, (value, value))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), preexec_fn=tighten)
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["counts"]["incomplete"] == 0


# --- Signals

HANGING = "import time\ntime.sleep(600)\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_ends_doctor_and_all_that_it_started(
    number: int, code: int, stub_torch: Callable[[str], None]
) -> None:
    stub_torch(HANGING)
    variables = environ(PYTHONPATH=f"{os.environ['PYTHONPATH']}:{ROOT}")
    command = [sys.executable, "-m", "llmbench", "doctor", "--only", "torch.import"]
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a test run in the background may ignore it
    )
    doctor_itself = psutil.Process(process.pid)
    children: list[psutil.Process] = []
    end = time.monotonic() + 30
    while time.monotonic() < end and not any(map(_imports_torch, children)):
        time.sleep(0.05)
        children = doctor_itself.children(recursive=True)
    assert children
    process.send_signal(number)
    shown, said = process.communicate(timeout=30)
    assert (process.returncode, shown) == (code, "")
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def _imports_torch(process: psutil.Process) -> bool:
    try:
        return any("torch_import" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


# --- Cost


def test_memory_and_start_of_the_command_itself() -> None:
    code = (
        "import sys; sys.argv = ['llmbench', 'doctor', '--only', 'environment', '--json']\n"
        "from llmbench.start import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich.console', 'jinja2', 'pandas', 'numpy', 'psutil', 'tokenizers'} & set(sys.modules)\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024, *heavy, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True)
    mebibytes, *heavy = done.stderr.split()
    assert int(mebibytes) <= 120
    assert heavy == []
