"""A revision of a git checkout, its files laid out in the cache; or the working tree as it is.

The repository is only read: no worktree is registered in it, no hook runs, and its index, HEAD and stash stay.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import UserError, nearest
from llmbench.launch.sides.asked import WORKING_TREE, AskedRevision
from llmbench.launch.sides.kept import kept
from llmbench.launch.sides.project import import_paths, project_of
from llmbench.launch.sides.python import interpreter, last_line
from llmbench.results.ab import AbSide
from llmbench.results.schema import Git

_DAMAGED = "`git fsck` checks the repository"
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024
# Settings of the user with which git would run or write more than it is asked for.
_UNTOUCHED = (
    "core.hooksPath=/dev/null",
    "core.splitIndex=false",  # would write into the repository
    "core.fsmonitor=false",
)
# A hook that starts llmbench has set these for the repository that it belongs to.
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class Revision:
    """A revision that exists.

    Attributes:
        commit: None of the working tree.
        name: as asked.
        repository: folder in which git knows the repository.
        below: the user's folder, as seen from the root of the checkout.
    """

    commit: str | None
    name: str
    repository: Path
    below: Path


def find(asked: str, side: AskedRevision, checkout: Path) -> Revision:
    """Looks a revision up.

    Args:
        checkout: folder in a checkout, if the side names none.

    Raises:
        UserError: git, the repository or the revision is missing.
    """
    name, folder = _split(side.text)
    folder = checkout if folder is None else folder
    if not folder.is_dir():
        raise UserError(f"{asked}: there is no folder {folder}", "git:REVISION@FOLDER, with a folder of a checkout")
    code, out, err = _git(asked, folder, "rev-parse", "--is-bare-repository", "--git-dir")
    if code != 0:
        outside = "not a git repository" in err
        reason = "lies in no git repository" if outside else f"git refuses it: {last_line(err)}"
        raise UserError(f"{asked}: {folder.absolute()} {reason}", "git:REVISION@FOLDER names a checkout elsewhere")
    bare = out.split()[0] == "true"
    prefix = "" if bare else _git(asked, folder, "rev-parse", "--show-prefix")[1].strip("\n")
    if name in WORKING_TREE:
        if bare:
            raise UserError(f"{asked}: {folder} is a bare repository: it has no working tree", "name a revision")
        _commit(asked, "HEAD", folder)
        return Revision(None, name, folder, Path(prefix))
    return Revision(_commit(asked, name, folder), name, folder, Path(prefix))


def make(asked: str, side: AskedRevision, python: str, checkout: Path, on_progress: Callable[[str], None]) -> AbSide:
    """The files of a revision, from the cache or laid out now.

    Raises:
        UserError: see ``find``; or the project must be built before it can run.
    """
    found = find(asked, side, checkout)
    runs = interpreter(python).path
    if found.commit is None:
        folder = found.repository.absolute()
        root = Path(_git(asked, folder, "rev-parse", "--show-toplevel")[1].rstrip("\n"))
        changes = _git(asked, root, "status", "--porcelain")[1]  # a new file that git does not know counts, too
        git = Git(commit=_commit(asked, "HEAD", folder), dirty=bool(changes.strip()))
        label = "working tree"
    else:
        root = _laid_out(asked, found, on_progress)
        folder = root / found.below
        if not folder.is_dir():
            on_progress(f"{asked}: {found.below} does not exist there; its processes run in the root of the checkout")
            folder = root
        git = Git(commit=found.commit, dirty=False)
        label = found.name if found.commit.startswith(found.name) else f"{found.name} {found.commit[:7]}"
    project = project_of(folder, root)
    paths = import_paths(asked, project)
    return AbSide(asked=asked, label=label, kind="revision", python=runs, folder=str(folder), paths=paths, git=git)


def _split(text: str) -> tuple[str, Path | None]:
    """``REVISION@FOLDER``; a revision may have an ``@`` of its own (``@``, ``main@{upstream}``), as may a folder."""
    places = [match.start() for match in re.finditer(r"@(?!\{)", text) if 0 < match.start() < len(text) - 1]
    for place in reversed(places):
        folder = Path(os.path.expanduser(text[place + 1 :]))
        if folder.is_dir():
            return text[:place], folder
    if places and re.match(r"[./~]", text[places[0] + 1 :]):
        return text[: places[0]], Path(os.path.expanduser(text[places[0] + 1 :]))
    return text, None


def _commit(asked: str, name: str, folder: Path) -> str:
    """The commit of a revision."""
    if not name.startswith("-"):
        code, out, err = _git(asked, folder, "rev-parse", "--verify", f"{name}^{{commit}}")
        if code == 0:
            return out.strip()
        if "ambiguous" in err:
            raise UserError(f"{asked}: {name} is ambiguous: several objects begin with it", "name more of its digits")
        code, out, _ = _git(asked, folder, "cat-file", "-t", name)
        if code == 0:
            raise UserError(f"{asked}: {name} is a {out.strip()} and no commit", _hint(asked, name, folder))
    if _git(asked, folder, "rev-list", "-n", "1", "--all")[1].strip() == "":
        raise UserError(f"{asked}: the repository of {folder.absolute()} has no commits yet", "commit something first")
    raise UserError(
        f"{asked}: there is no revision {name} in the repository of {folder.absolute()}", _hint(asked, name, folder)
    )


def _hint(asked: str, name: str, folder: Path) -> str:
    listed = _git(asked, folder, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    names = listed[1].split()
    # A clone of CI has `origin/main` and no `main`.
    same = [known for known in names if known.endswith(f"/{name}")]
    near = f"did you mean {same[0]}?" if same else nearest(name, names[:1000])
    near = near if near.startswith("did you mean") else "`git branch --all` and `git tag` list what there is"
    shallow = _git(asked, folder, "rev-parse", "--is-shallow-repository")[1].strip() == "true"
    if shallow:
        return f"the clone is shallow: `git fetch --unshallow`, or `fetch-depth: 0` of actions/checkout; {near}"
    return near


def _laid_out(asked: str, found: Revision, on_progress: Callable[[str], None]) -> Path:
    """The root of the revision's files in the cache."""
    assert found.commit is not None
    _refuse_submodules(asked, found)
    directory = _git(asked, found.repository, "rev-parse", "--absolute-git-dir")[1].rstrip("\n")
    common = _git(asked, found.repository, "rev-parse", "--git-common-dir")[1].rstrip("\n")
    repository = os.path.realpath(found.repository / common)
    name = f"{hashlib.sha256(os.fsencode(repository)).hexdigest()[:12]}-{found.commit}"
    with kept("worktrees", name, on_progress) as (entry, lock):
        index = Path(f"{entry}.index")

        def git(root: Path, *arguments: str) -> tuple[int, str]:
            settings = [part for setting in _UNTOUCHED for part in ("-c", setting)]
            places = (f"--git-dir={directory}", f"--work-tree={root}")
            environ = {"GIT_INDEX_FILE": str(index)}
            code, _, err = _git(asked, root, *settings, *places, *arguments, environ=environ, lock=lock)
            return code, last_line(err)

        if entry.is_dir() and index.is_file():
            if git(entry, "update-index", "--refresh")[0] == 0:
                return entry
            on_progress(f"{asked}: its files in {entry} were changed; laying them out anew")
        on_progress(f"laying out the files of {found.name}")
        _clear(entry, index)
        with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", suffix=".tmp", dir=entry.parent) as temporary:
            new = Path(temporary) / "files"
            new.mkdir()
            for step in (["read-tree", found.commit], ["checkout-index", "--all", "-u"]):
                code, said = git(new, *step)
                if code != 0:
                    hint = "it needs git-lfs: `git lfs install`" if "lfs" in said else _DAMAGED
                    raise UserError(f"{asked}: git cannot lay out {found.name}: {said}", hint)
            _refuse_pointers(asked, new)
            new.rename(entry)
    return entry


def _clear(entry: Path, index: Path) -> None:
    """Removes what an entry was, and what a kill left of it."""
    for left_by_a_kill in entry.parent.glob(f"{entry.name}.*.tmp"):
        shutil.rmtree(left_by_a_kill)
    if entry.exists():
        shutil.rmtree(entry)
    for file in (index, Path(f"{index}.lock")):
        file.unlink(missing_ok=True)


def _refuse_submodules(asked: str, found: Revision) -> None:
    code, out, err = _git(asked, found.repository, "ls-tree", "-r", "-z", "--full-tree", found.commit or "")
    if code != 0:
        raise UserError(f"{asked}: git cannot read {found.name}: {last_line(err)}", _DAMAGED)
    modules = [line.split("\t", 1)[1] for line in out.split("\0") if line.startswith("160000 ")]
    if modules:
        raise UserError(
            f"{asked}: {found.name} has submodules ({', '.join(modules[:3])}), whose files are not laid out with it",
            "check it out with its submodules elsewhere and name that (git:.@FOLDER), or an environment",
        )


def _refuse_pointers(asked: str, root: Path) -> None:
    """Refuses files of git-lfs that are not there: what would be read instead is a pointer of three lines."""
    if not any(b"filter=lfs" in file.read_bytes() for file in root.rglob(".gitattributes") if file.is_file()):
        return
    for file in root.rglob("*"):
        small = file.is_file() and not file.is_symlink() and file.stat().st_size < _LFS_POINTER_BYTES
        if small and file.read_bytes().startswith(_LFS):
            raise UserError(
                f"{asked}: {file.relative_to(root)} is kept by git-lfs, which is not set up here",
                "`git lfs install`, and `git lfs fetch` of the revision",
            )


def _git(
    asked: str, folder: Path, *arguments: str, environ: dict[str, str] | None = None, lock: int | None = None
) -> tuple[int, str, str]:
    """Exit code, output and errors of a git command."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    variables |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"} | (environ or {})
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=variables,
            stdin=subprocess.DEVNULL,
            pass_fds=[] if lock is None else [lock],
        )
    except FileNotFoundError:
        raise UserError(f"{asked}: git is not installed", "install git, or name two environments") from None
    return done.returncode, done.stdout, done.stderr
