"""Entry of the target side: makes ``llmbench.worker`` importable in an environment that has no llmbench.

Only this package gets a name; the folders beside it stay unknown, and ``sys.path`` is left as the user has it.
Arguments: modules to preload, for the server of ``server.py``; ``--rank FILE`` for one rank of a step of SLURM; or
``--pytest``, and what ``pytest_side.py`` takes.
"""

import sys
import types
from pathlib import Path


def main() -> None:
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        del sys.path[0]  # a script's folder comes first: its modules would shadow others of the same name
    package = types.ModuleType("llmbench")
    package.__path__ = [str(here.parent)]
    sys.modules["llmbench"] = package

    from llmbench.worker.layout import lay_out

    lay_out()
    if sys.argv[1:2] == ["--pytest"]:
        sys.path.insert(0, "")  # as `python -m pytest` has it
        from llmbench.worker.pytest_side import run

        sys.exit(run(sys.argv[2], sys.argv[3:]))
    if sys.argv[1:2] == ["--rank"]:
        from llmbench.worker.step import run_rank

        run_rank(sys.argv[2])
    from llmbench.worker.server import serve

    serve()


if __name__ == "__main__":
    main()
