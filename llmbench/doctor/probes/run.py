"""Runs one probe: ``python run.py PROBE.py CHANNEL ARGUMENTS [REQUESTS]``. With REQUESTS, it then serves more.

A probe is a file with a function ``probe(arguments)`` that yields dictionaries. Each is written to the file descriptor
CHANNEL as one line of JSON as soon as it is there, so that what was found before a crash is not lost. What a probe or a
library prints goes elsewhere and cannot disturb this.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import signal
import socket
import sys
import traceback


def main() -> int:
    path, channel, arguments = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    _see_what_a_script_here_sees()
    faulthandler.enable()
    code = carry_out(path, channel, arguments)
    if code == 0 and len(sys.argv) > 4:
        os.close(channel)
        serve(int(sys.argv[4]))
    return code


def carry_out(path: str, channel: int, arguments: dict) -> int:
    """Runs the probe in this file. Returns the exit code."""
    # The pipe is this process's own: children would keep it open.
    os.set_inheritable(channel, False)

    def report(part: dict) -> None:
        os.write(channel, json.dumps(part).encode() + b"\n")

    try:
        spec = importlib.util.spec_from_file_location("llmbench_probe", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for part in module.probe(arguments):
            report({"answer": part})
    except BaseException as error:
        traceback.print_exc()
        report({"error": describe(error)})
        return 1
    report({"done": True})
    return 0


def serve(number: int) -> None:
    """Forks a child for each request, until nobody is left who could ask. The child has imported what is here.

    Args:
        number: file descriptor of a socket that keeps messages apart. A request is JSON with ``path``, ``arguments``
            and ``environ`` (None removes a variable), and brings three descriptors: where to tell the child's process
            group and status, where it may print, and its channel.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guardians
    with socket.socket(fileno=number) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, 65536, 3)
            if not message:
                return
            if os.fork() == 0:
                requests.close()
                os._exit(guard(json.loads(message), *descriptors))
            for descriptor in descriptors:
                os.close(descriptor)


def guard(request: dict, status: int, noise: int, channel: int) -> int:
    """Forks the child that carries a request out, and tells how it ends."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.write(status, b"%d\n" % os.getpid())
    child = os.fork()
    if child == 0:
        os.close(status)
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        for name, value in request["environ"].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        code = carry_out(request["path"], channel, request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        return code
    os.close(noise)
    os.close(channel)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(status, b"%d\n" % ended)
    return 0


def _see_what_a_script_here_sees() -> None:
    """Puts the working folder first on the path, not this file's: what hides torch from users must hide it here."""
    if getattr(sys.flags, "safe_path", False):
        return
    sys.path[0] = ""


def describe(error: BaseException) -> dict:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    details = {"type": type(error).__name__, "message": str(error), "where": place}
    if isinstance(error, ImportError):
        details["module"] = error.name or ""
    return details


if __name__ == "__main__":
    sys.exit(main())
