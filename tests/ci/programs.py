"""Stand-ins for the programs that CI calls: they note what they were given, and end as they are told to."""

from __future__ import annotations

import sys
from pathlib import Path

_LLMBENCH = r"""
import json, os, sys
with open(os.environ["SEEN"], "a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], "folder": os.getcwd()}) + "\n")
if sys.argv[1:2] == ["ab"] and "--plan" in sys.argv:
    sys.exit(int(os.environ.get("PLAN", "0")))
if sys.argv[1:2] == ["ab"]:
    for option in ("--junit", "--markdown", "--html"):
        with open(sys.argv[sys.argv.index(option) + 1], "w") as file:
            file.write(os.environ.get("COMMENT", "## what was found\n"))
    code = int(os.environ.get("CODE", "0"))
    if "--out" in sys.argv and code < 2:
        out = sys.argv[sys.argv.index("--out") + 1]
        os.makedirs(out)
        with open(os.path.join(out, "ab.json"), "w") as file:
            file.write("{}")
    sys.exit(code)
"""

# An interpreter: asked for its version it says yes, asked for an environment it makes one with stand-ins in it.
_PYTHON = r"""
import json, os, shutil, sys
with open(os.environ["SEEN"], "a") as file:
    file.write(json.dumps({"python": sys.argv[1:], "PYTHONPATH": os.environ.get("PYTHONPATH")}) + "\n")
if sys.argv[1:2] == ["-c"]:
    sys.exit(int(os.environ.get("TOO_OLD", "0")))
if sys.argv[1:3] == ["-m", "venv"]:
    here, bin_ = os.path.dirname(os.path.abspath(__file__)), os.path.join(sys.argv[-1], "bin")
    os.makedirs(bin_, exist_ok=True)
    shutil.copy(os.path.join(here, "llmbench"), bin_)
    shutil.copy(__file__, os.path.join(bin_, "python"))
if sys.argv[1:3] == ["-m", "llmbench.ci.gitlab_note"]:
    sys.exit(int(os.environ.get("NOTE", "0")))
"""

_GH = r"""
import json, os, sys
state = os.environ["COMMENTS"]
with open(os.environ["SEEN"], "a") as file:
    file.write(json.dumps({"gh": sys.argv[1:]}) + "\n")
arguments = sys.argv[1:]
if arguments[:2] == ["api", "graphql"]:
    print("github-actions[bot]")
    sys.exit()
comments = json.load(open(state))
if "--method" not in arguments:
    assert arguments[arguments.index("--jq") + 1] == '.[] | [.id, .user.login, (.body | split("\\n")[0])] | @tsv'
    for comment in comments:
        print(comment["id"], comment["user"], comment["body"].split("\n")[0].replace("\t", "\\t"), sep="\t")
    sys.exit()
if os.environ.get("FORK"):
    print("gh: Resource not accessible by integration (HTTP 403)", file=sys.stderr)
    sys.exit(1)
name, _, file = arguments[arguments.index("-F") + 1].partition("=@")
assert name == "body"
body = open(file).read()
method, place = arguments[arguments.index("--method") + 1], arguments[arguments.index("--method") + 2]
if method == "POST":
    comments.append({"id": 100 + len(comments), "user": "github-actions[bot]", "body": body, "at": place})
else:
    [changed] = [comment for comment in comments if place.endswith("/" + str(comment["id"]))]
    changed["body"] = body
json.dump(comments, open(state, "w"))
"""


def install(folder: Path, *, gh: bool = True) -> Path:
    """Writes them; the folder belongs in front of PATH."""
    folder.mkdir(parents=True)
    programs = {"llmbench": _LLMBENCH, "python3.13": _PYTHON, "python3.12": _PYTHON, "python3.11": _PYTHON}
    programs |= {"python3": _PYTHON, "python": _PYTHON} | ({"gh": _GH} if gh else {})
    for name, text in programs.items():
        file = folder / name
        file.write_text(f"#!{sys.executable} -S\n{text}", encoding="utf-8")
        file.chmod(0o755)
    return folder
