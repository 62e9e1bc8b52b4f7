"""Environments that differ in one dependency, in which something is planted: a slowdown, memory, or a wrong update."""

from __future__ import annotations

import site
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Planted:
    """What the dependency does to every training step.

    Attributes:
        slowdown: CPU time that it adds, as a share of the step's own; by the CPU clock, so it is exact under any load.
        memory: that it keeps, as a share of what the process has needed by its first step.
        loss: share by which it moves every weight at every step.
    """

    slowdown: float = 0.0
    memory: float = 0.0
    loss: float = 0.0


_DEPENDENCY = """
    import importlib.abc
    import importlib.util
    import resource
    import sys
    import time

    SLOWDOWN, MEMORY, LOSS = {slowdown!r}, {memory!r}, {loss!r}


    class AfterImport(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "torch.optim.adamw":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            load = spec.loader.exec_module

            def load_and_plant(module):
                load(module)
                plant(module.AdamW)

            spec.loader.exec_module = load_and_plant
            return spec


    def plant(optimizer):
        step, state = optimizer.step, {{}}

        def planted(self, *arguments, **named):
            found = step(self, *arguments, **named)
            now = time.thread_time()
            while SLOWDOWN and "ended" in state and time.thread_time() < now + SLOWDOWN * (now - state["ended"]):
                pass
            if MEMORY and "kept" not in state:
                bytes_ = int(MEMORY * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
                state["kept"] = b"x" * bytes_
            for group in self.param_groups:  # of those that plant no loss, too: it would be a slowdown as well
                for parameter in group["params"]:
                    parameter.data.mul_(1 + LOSS)
            state["ended"] = time.thread_time()
            return found

        optimizer.step = planted


    sys.meta_path.insert(0, AfterImport())
"""


def environment(folder: Path, version: str, planted: Planted = Planted()) -> Path:
    """Makes a virtual environment that has all packages of this one, and ``dependency`` in this version.

    Returns:
        its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    below = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]
    (packages / "all_of_this_one.pth").write_text("\n".join(lines) + "\n")
    (packages / "dependency.py").write_text(textwrap.dedent(_DEPENDENCY.format(**vars(planted))))
    (packages / "dependency.pth").write_text("import dependency\n")
    facts = packages / f"dependency-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dependency\nVersion: {version}\n")
    return folder / "bin" / "python"
