"""What one node of an allocation is: a process of the control side that srun starts once on each.

``python -m llmbench.launch.describe_node PYTHON DEVICE FOLDER`` writes ``FOLDER/node{SLURM_NODEID}.json``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from llmbench.errors import UserError
from llmbench.launch.prepare import describe
from llmbench.launch.target import Target
from llmbench.results.files import write_atomically
from llmbench.results.fingerprint import fingerprint


def main() -> None:
    python, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    node = os.environ["SLURM_NODEID"]
    found: dict[str, object] = {"host": socket.gethostname()}
    try:
        with Target(python) as target:
            target.ready()
            machine = describe(target, device, folder / f"node{node}.log")
            found["environment"] = fingerprint(machine, target.environ)
    except UserError as error:
        found["error"] = error.message
    write_atomically(folder / f"node{node}.json", json.dumps(found))


if __name__ == "__main__":
    main()
