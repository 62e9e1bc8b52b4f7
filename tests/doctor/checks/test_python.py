"""Broken interpreters and environments: real processes of Python, with real files and variables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.doctor.model import Finding
from llmbench.doctor.runner import diagnose
from tests.doctor.conftest import ask, findings, one, verdicts

from .made import package

TORCH = [
    "sympy>=1.13.3",
    "typing-extensions>=4.10.0",
    "setuptools>=77",
    "nvidia-nccl-cu13==2.28",
    'optree; extra == "o"',
]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages on the import path."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment of its own, without pip."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def own_site(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


def named(found: tuple[Finding, ...], fault: str) -> Finding:
    """The one finding of this fault."""
    (finding,) = [finding for finding in found if finding.fault == fault]
    assert finding.cause
    assert "<" not in finding.cause.replace("<=", "")
    return finding


# --- python.starts


@pytest.mark.parametrize(
    ("script", "fault", "expected"),
    [
        ("echo 'Fatal: no encodings' >&2; exit 1", "python.starts.broken", "Fatal: no encodings"),
        (
            "echo 'error while loading shared libraries: libpython3.9.so.1.0: cannot open' >&2; exit 127",
            "python.starts.library",
            "libpython3.9.so.1.0",
        ),
        ("echo \"ModuleNotFoundError: No module named 'encodings'\" >&2; exit 1", "python.starts.base", "encodings"),
        (
            '[ "$1" = -c ] && echo "2.7.18" || { echo SyntaxError; exit 1; }',
            "python.starts.ancient",
            "2.7.18",
        ),
        ('[ "$1" = -I ] && exit 0; echo "a .pth file says no"; exit 3', "python.starts.site", "a .pth file says no"),
        (
            '[ -z "$PYTHONMALLOC" ] || { echo "unknown allocator"; exit 1; }; exec PYTHON "$@"',
            "python.starts.variable",
            "PYTHONMALLOC=lots",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("python.") else "",
)
def test_an_interpreter_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, fault: str, expected: str
) -> None:
    if fault == "python.starts.variable":
        monkeypatch.setenv("PYTHONMALLOC", "lots")
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\n" + script.replace("PYTHON ", f"{sys.executable} ") + "\n")
    broken.chmod(0o755)
    diagnosis = diagnose(str(broken), only=["python"])
    assert [check.id for check, _ in diagnosis.of("fail")] == ["python.starts"]
    assert expected in named(findings(diagnosis, "python.starts"), fault).evidence


def test_an_interpreter_for_another_machine(tmp_path: Path) -> None:
    program = tmp_path / "python"
    header = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
    header[18:20] = (0x1234).to_bytes(2, "little")  # e_machine of the ELF header
    program.write_bytes(header)
    program.chmod(0o755)
    assert "Exec format error" in named(ask("python.starts", python=str(program)), "python.starts.machine").evidence


def test_an_interpreter_that_hangs(tmp_path: Path, patience: Callable[[float], None]) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    patience(0.3)
    assert "gave no answer" in named(ask("python.starts", python=str(program)), "python.starts.hangs").evidence


def test_pythonhome_of_another_python(monkeypatch: pytest.MonkeyPatch, bare_python: str, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    finding = named(ask("python.starts", python=bare_python), "python.starts.home")
    assert f"PYTHONHOME={tmp_path}" in finding.evidence
    assert finding.script == "unset PYTHONHOME"


def test_a_file_on_pythonpath_that_breaks_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("x = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = named(ask("python.starts"), "python.starts.variable")
    assert f"{tmp_path}/json.py is imported instead of the standard library's" in str(finding.cause)
    assert "mv " in str(finding.fix)


def test_broken_pth_files(environment: Path) -> None:
    (own_site(environment) / "left.pth").write_text("import not_there_any_more\n")
    (own_site(environment) / "other.pth").write_text("import sys; sys.no_such()\n")
    found = [f for f in ask("python.starts", python=f"{environment}/bin/python") if f.fault == "python.starts.pth"]
    assert len(found) == 2
    file = own_site(environment) / "left.pth"
    assert f"{file} fails at interpreter start, line 1: ModuleNotFoundError" in found[0].evidence
    assert "AttributeError" in found[1].evidence
    assert found[0].script == f"[ ! -e {file} ] || mv {file} {file}.off"


def test_sitecustomize_that_raises(site: Path) -> None:
    (site / "sitecustomize.py").write_text("raise RuntimeError('no tracer')\n")
    finding = named(ask("python.starts"), "python.starts.customize")
    assert finding.evidence == "sitecustomize raises at every start: RuntimeError: no tracer"


# --- python.version and python.modules: an interpreter that says other things of itself


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sys.version_info = (3, 8, 18, 'final', 0)", {"python.version.old"}),
        ("sys.version_info = (3, 99, 0, 'final', 0)", {"python.version.new"}),
        ("sys.implementation.name = 'pypy'", {"python.version.implementation"}),
        ("sys.maxsize = 2**31 - 1", {"python.version.bits"}),
        (
            "os.confstr = int; sys.implementation._multiarch = 'x86_64-linux-musl'",
            {"python.version.musl"},
        ),
        ("os.confstr = lambda name: 'glibc 2.17'", {"python.version.glibc"}),
        ("sys.gettotalrefcount = int", {"python.version.debug"}),
        ("sys.version = '3.13.1 experimental free-threading build'", {"python.version.free-threaded"}),
        ("", {None}),
    ],
)
def test_version(site: Path, bare_python: str, change: str, expected: set[str | None]) -> None:
    (site / "sitecustomize.py").write_text(f"import os, sys\n{change}\n")
    assert {finding.fault for finding in ask("python.version", python=bare_python)} == expected


def test_a_new_python_with_a_torch_is_fine(site: Path, bare_python: str) -> None:
    (site / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 99, 0, 'final', 0)\n")
    package(site, "torch", "9.9")
    assert one("python.version", python=bare_python).verdict == "pass"


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        ("_ctypes", "python.modules.essential"),
        ("_ssl", "python.modules.ssl"),
        ("_sqlite3", "python.modules.optional"),
        ("_lzma", "python.modules.optional"),
    ],
)
def test_standard_library_without_a_part(site: Path, missing: str, fault: str) -> None:
    (site / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    finding = named(ask("python.modules"), fault)
    assert missing.strip("_") in finding.evidence
    assert "-dev" in str(finding.fix)


def test_a_part_of_the_standard_library_that_crashes(site: Path) -> None:
    source = "import sys, os\nclass Crash:\n  def find_spec(self, name, *_):\n    name == '_sqlite3' and os.abort()\n"
    (site / "sitecustomize.py").write_text(source + "sys.meta_path.insert(0, Crash())\n")
    assert "the process died" in named(ask("python.modules"), "python.modules.optional").evidence


# --- python.encoding


@pytest.mark.parametrize(
    ("variables", "fault", "expected"),
    [
        ({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, "python.encoding.files", "LC_ALL=C"),
        ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}, "python.encoding.output", "PYTHONIOENCODING=ascii"),
        ({"LC_ALL": "C"}, None, "UTF-8"),  # Python mends that itself
    ],
)
def test_encoding(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str | None, expected: str) -> None:
    for name in ("PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finding = one("python.encoding")
    assert finding.fault == fault
    assert expected.lower() in finding.evidence.lower()


# --- python.shadow


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("torch.py", "python.shadow.torch"),
        ("numpy.py", "python.shadow.torch"),
        ("torch.pyc", "python.shadow.torch"),
        ("torch/__init__.py", "python.shadow.checkout"),
        ("numpy/__init__.py", "python.shadow.checkout"),
        ("random.py", "python.shadow.standard"),
        ("types.py", "python.shadow.standard"),
        ("logging/__init__.py", "python.shadow.standard"),
        ("code.py", "python.shadow.other"),
        ("test.py", None),
        ("train.py", None),
        ("os.py", None),  # imported before the folder counts
        ("random/notes.txt", None),  # no package
    ],
)
@pytest.mark.parametrize("place", ["the working folder", "PYTHONPATH"])
def test_shadow(quiet_environment: Path, site: Path, entry: str, fault: str | None, place: str) -> None:
    module, *inside = entry.split("/")
    path = (quiet_environment if place == "the working folder" else site) / module
    if place == "PYTHONPATH":
        (site / "setup.py").write_text("")
        if fault == "python.shadow.standard":
            module = path.name.replace("types", "gzip").replace("logging", "unittest")  # so that Python itself starts
            path = site / module
    if inside:
        path.mkdir()
    path.joinpath(*inside).write_text("")
    finding = one("python.shadow")
    assert finding.fault == fault
    if fault:
        assert f"{path}" in finding.evidence
        assert f"mv {path}" in str(finding.fix) or "source checkout" in str(finding.cause)


def test_what_a_hidden_torch_leads_to_is_told_under_it(quiet_environment: Path) -> None:
    (quiet_environment / "torch.py").write_text("x = 1\n")
    diagnosis = diagnose(only=["python", "torch.files", "torch.import", "companions"])
    assert [check.id for check, _ in diagnosis.of("fail", "incomplete")] == ["python.shadow"]
    assert "follows from python.shadow" in findings(diagnosis, "torch.import")[0].evidence
    assert [f.evidence for f in findings(diagnosis, "companions.versions")] == ["needs python.shadow"]


def test_a_built_torch_in_the_working_folder_is_fine(quiet_environment: Path) -> None:
    (quiet_environment / "torch").mkdir()
    (quiet_environment / "torch" / "__init__.py").write_text("")
    (quiet_environment / "torch" / "_C.cpython-311-x86_64-linux-gnu.so").write_text("")
    assert one("python.shadow").verdict == "pass"


def test_nothing_is_hidden_where_the_folder_is_not_on_the_path(
    quiet_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (quiet_environment / "torch.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert verdicts(diagnose(only=["python.shadow"]))["python.shadow"] == "pass"


# --- python.packages


def test_whole_packages(site: Path, bare_python: str) -> None:
    package(site, "sympy", "1.14")
    assert one("python.packages", python=bare_python).verdict == "pass"


def test_packages_seen_from_a_folder_that_was_deleted(quiet_environment: Path, bare_python: str) -> None:
    quiet_environment.rmdir()
    assert one("python.packages", python=bare_python).verdict == "pass"


def test_packages_that_cannot_be_listed(site: Path, bare_python: str) -> None:
    (site / "sitecustomize.py").write_text("import sysconfig\nsysconfig.get_path = None\n")
    assert "TypeError" in named(ask("python.packages", python=bare_python), "python.packages.unreadable").evidence


def test_leftovers_of_pip(site: Path, bare_python: str) -> None:
    (site / "~orch").mkdir()
    assert f"{site}/~orch" in named(ask("python.packages", python=bare_python), "python.packages.leftovers").evidence


def test_two_records_of_the_same_version_are_fine(site: Path, bare_python: str) -> None:
    """So distributions of Linux do: one of their own, one of the build."""
    package(site, "cryptography", "38.0.4")
    (site / "cryptography-38.0.4.egg-info").mkdir()
    (site / "cryptography-38.0.4.egg-info" / "PKG-INFO").write_text("Name: cryptography\nVersion: 38.0.4\n\n")
    assert one("python.packages", python=bare_python).verdict == "pass"


@pytest.mark.parametrize("last", ["3.7.4", "4.16.0"])
def test_two_records_of_a_package(site: Path, bare_python: str, last: str) -> None:
    for version in sorted(["3.7.4", "4.16.0"], key=last.__eq__):
        content = f"# {version}\n" * len(version)
        package(site, "typing-extensions", version, files={"typing_extensions.py": content})
    diagnosis = diagnose(bare_python, only=["python.packages"])
    finding = named(findings(diagnosis, "python.packages"), "python.packages.twice")
    assert finding.evidence == f"{site} records typing-extensions 3.7.4, 4.16.0; the files are those of {last}"
    assert diagnosis.facts["packages"]["versions"]["typing-extensions"] == last


@pytest.mark.parametrize(
    ("info", "remove", "fault", "expected"),
    [
        ({"METADATA": ""}, False, "python.packages.metadata", "no METADATA"),
        ({}, True, "python.packages.damaged", "100% of the files"),
        (
            {"direct_url.json": '{"url": "file:///no/such%20folder", "dir_info": {"editable": true}}'},
            False,
            "python.packages.editable",
            "/no/such folder, which does not exist",
        ),
    ],
)
def test_broken_package(
    site: Path, bare_python: str, info: dict[str, str], remove: bool, fault: str, expected: str
) -> None:
    package(site, "peft", "0.21", info=info)
    if remove:
        shutil.rmtree(site / "peft")
    assert expected in named(ask("python.packages", python=bare_python), fault).evidence


def test_pip_over_conda(environment: Path) -> None:
    (environment / "conda-meta").mkdir()
    for record in ("numpy-1.26.4-py311h64a7726_0", "pytorch-2.5.1-py3.11_cpu_0", "python-3.11.7-h_0"):
        (environment / "conda-meta" / f"{record}.json").write_text("{}")
    package(own_site(environment), "numpy", "2.2.0")
    package(own_site(environment), "torch", "2.5.1", info={"INSTALLER": "conda\n"})
    finding = named(ask("python.packages", python=f"{environment}/bin/python"), "python.packages.conda")
    assert "conda installed numpy 1.26.4, pip numpy 2.2.0 over it" in finding.evidence


# --- python.requirements


@pytest.mark.parametrize(
    ("installed", "fault", "expected"),
    [
        (
            {"typing-extensions": "4.16"},
            "python.requirements.missing",
            "torch 2.13.0 requires sympy>=1.13.3, which is not",
        ),
        (
            {"sympy": "1.14", "typing-extensions": "3.7.4.3"},
            "python.requirements.version",
            "requires typing-extensions>=4.10.0, but typing-extensions 3.7.4.3 is installed",
        ),
        ({"sympy": "1.14", "typing-extensions": "4.16"}, None, "are met"),
    ],
)
def test_requirements_of_torch(
    site: Path, bare_python: str, installed: dict[str, str], fault: str | None, expected: str
) -> None:
    package(site, "torch", "2.13.0", TORCH)
    for name, version in {**installed, "setuptools": "80"}.items():
        package(site, name, version)
    finding = one("python.requirements", python=bare_python)
    assert finding.fault == fault
    assert expected in finding.evidence


def test_requirement_whose_files_are_gone(site: Path, bare_python: str) -> None:
    package(site, "torch", "2.13.0", ["sympy"])
    package(site, "sympy", "1.14")
    shutil.rmtree(site / "sympy")
    finding = named(ask("python.requirements", python=bare_python), "python.requirements.missing")
    assert "the files of sympy 1.14 are missing" in finding.evidence


def test_what_torch_only_builds_with_is_a_warning(site: Path, bare_python: str) -> None:
    package(site, "torch", "2.13.0", ["setuptools>=77"])
    package(site, "setuptools", "65.5.0")
    assert one("python.requirements", python=bare_python).verdict == "warn"


# --- python.path


@pytest.mark.parametrize(
    ("folder", "fault"),
    [
        ("lib/python3.7/site-packages", "python.path.foreign"),
        ("home/.local/lib/python/site-packages", "python.path.user"),
        ("work/site-packages", "python.path.copy"),
    ],
)
def test_packages_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Path, folder: str, fault: str
) -> None:
    package(own_site(environment), "torch", "2.13.0")
    package(tmp_path / folder, "torch", "2.1.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = ask("python.path", python=f"{environment}/bin/python")
    finding = named(found, fault)
    assert str(tmp_path / folder) in finding.evidence
    if fault != "python.path.foreign":
        assert finding.verdict == ("fail" if fault == "python.path.user" else "warn")
        assert "torch 2.1.0" in finding.evidence
        assert f"shadows torch 2.13.0 of {own_site(environment)}" in finding.evidence


def test_the_real_user_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Path) -> None:
    """An environment that sees the system's packages sees the user's too, behind its own: nothing is hidden."""
    configuration = environment / "pyvenv.cfg"
    configuration.write_text(configuration.read_text().replace("= false", "= true"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    package(tmp_path / "home" / ".local" / "lib" / version / "site-packages", "torch", "2.1.0")
    package(own_site(environment), "torch", "2.13.0")
    diagnosis = diagnose(f"{environment}/bin/python", only=["python.path"])
    assert verdicts(diagnosis)["python.path"] == "pass"
    assert len(diagnosis.facts["packages"]["copies"]["torch"]) >= 2


# --- python.environment


def test_environment_whose_python_was_upgraded(environment: Path) -> None:
    (environment / "lib" / "python3.8" / "site-packages" / "torch").mkdir(parents=True)
    finding = named(ask("python.environment", python=f"{environment}/bin/python"), "python.environment.upgraded")
    assert "torch is installed for Python 3.8" in finding.evidence


@pytest.mark.parametrize("shebang", ["#!{}/bin/python\n", "#!/bin/sh\n'''exec' {}/bin/python \"$0\" \"$@\"\n"])
def test_environment_that_was_moved(environment: Path, shebang: str) -> None:
    (environment / "bin" / "torchrun").write_text(shebang.format("/old/place"))
    finding = named(ask("python.environment", python=f"{environment}/bin/python"), "python.environment.moved")
    assert finding.evidence == f"{environment}/bin/torchrun starts /old/place/bin/python, which does not exist"
    (environment / "bin" / "torchrun").write_text(shebang.format(environment))
    assert one("python.environment", python=f"{environment}/bin/python").verdict == "pass"


def test_torch_is_in_the_activated_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Path
) -> None:
    torch = tmp_path / "active" / "lib" / "python3.12" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
    monkeypatch.setattr(sys, "executable", f"{environment}/bin/python")
    finding = named(ask("python.environment"), "python.environment.active")
    assert str(torch) in finding.evidence
    assert f"--python {tmp_path}/active/bin/python" in str(finding.fix)


# --- python.pip


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Writes the user's configuration of pip; no other of his is read."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)

    def write(text: str) -> Path:
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("text", "fault", "expected"),
    [
        ("index-url = nothing before a section\n", "python.pip.config", "MissingSectionHeaderError"),
        ("[global]\ntarget = /opt/packages\n", "python.pip.elsewhere", "--target to /opt/packages"),
        ("[install]\nuser = true\n", "python.pip.elsewhere", "--user"),
        ("[global]\nno-index = yes\n", "python.pip.index", "there is no find-links"),
        ("[global]\nno-index = yes\nfind-links = /no/such/wheels\n", "python.pip.index", "/no/such/wheels"),
        ("[global]\nindex-url = file:///no/such/index\n", "python.pip.index", "/no/such/index"),
        ("[install]\nconstraint = /no/such/constraints.txt\n", "python.pip.constraint", "/no/such/constraints.txt"),
        ("[global]\nindex-url = https://user:hunter2@example.org/simple\n", None, ""),
        ("[global]\nno-index = yes\nfind-links = /\n", None, ""),
    ],
)
def test_configuration_of_pip(configure: Callable[[str], Path], text: str, fault: str | None, expected: str) -> None:
    file = configure(text)
    finding = one("python.pip")
    assert finding.fault == fault
    assert expected in finding.evidence
    assert "hunter2" not in str(finding)
    if fault:
        assert str(file) in f"{finding.evidence} {finding.fix}"


def test_variables_of_pip_count_more_than_files(
    configure: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("[global]\ntarget = /opt/packages\n")
    monkeypatch.setenv("PIP_TARGET", "/other")
    finding = named(ask("python.pip"), "python.pip.elsewhere")
    assert "PIP_TARGET sets pip's --target to /other" in finding.evidence
    assert finding.fix == "unset PIP_TARGET"


def test_cpu_builds_on_a_machine_with_a_gpu(configure: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    configure("[global]\nextra-index-url = https://me:hunter2@download.pytorch.org/whl/cpu\n")
    assert one("python.pip").verdict in ("pass", "skip")
    monkeypatch.setattr("llmbench.doctor.checks.pip.nvidia_devices", lambda: ["/dev/nvidia0"])
    finding = named(ask("python.pip"), "python.pip.cpu")
    assert "https://download.pytorch.org/whl/cpu, and there is /dev/nvidia0" in finding.evidence


def test_python_of_the_system(configure: Callable[[str], Path], site: Path, bare_python: str, tmp_path: Path) -> None:
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "stdlib" / "EXTERNALLY-MANAGED").write_text("")
    source = f"import os, sys\nos.__file__ = '{tmp_path}/stdlib/os.py'\nsys.base_prefix = sys.prefix\n"
    (site / "sitecustomize.py").write_text(source)
    assert "EXTERNALLY-MANAGED" in named(ask("python.pip", python=bare_python), "python.pip.managed").evidence
    package(site, "torch", "2.13.0")  # where torch is already, it is how the machine is meant
    assert one("python.pip", python=bare_python).fault is None


# --- python.certificates and python.bytecode


def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    bundle = tmp_path / "bundle.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    finding = named(ask("python.certificates"), "python.certificates.gone")
    assert (finding.evidence, finding.script) == (
        f"REQUESTS_CA_BUNDLE={bundle} does not exist",
        "unset REQUESTS_CA_BUNDLE",
    )
    bundle.write_text("<html>log in</html>")
    assert str(bundle) in named(ask("python.certificates"), "python.certificates.empty").evidence
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    assert one("python.certificates").verdict == "pass"


def test_bytecode(monkeypatch: pytest.MonkeyPatch, site: Path, bare_python: str) -> None:
    package(site, "torch", "2.13.0", files={"torch/__init__.py": "", "torch/nn/modules/module.py": "x = 1\n"})
    source = site / "torch" / "nn" / "modules" / "module.py"
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert "does not exist" in named(ask("python.bytecode", python=bare_python), "python.bytecode.missing").evidence
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([bare_python, "-m", "compileall", "-q", str(source)], check=True, env=environ)
    assert one("python.bytecode", python=bare_python).verdict == "pass"
    os.utime(source, (1, 1))  # copied without its time
    assert "another time" in named(ask("python.bytecode", python=bare_python), "python.bytecode.missing").evidence
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    if os.geteuid() == 0:  # it will be written
        assert one("python.bytecode", python=bare_python).verdict == "pass"
