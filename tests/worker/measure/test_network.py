"""How fast two nodes talk. Two processes that do are in ``tests/cluster/test_scan.py``."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from llmbench.worker.measure import network

RANK = """
import json, sys
from llmbench.worker.measure.network import measure_pair
class Events:
    def send(self, event, **values): pass
print(json.dumps(measure_pair(json.loads(sys.argv[1]), Events())))
"""


def job(rank, port, **more):
    return {
        "device": "cpu", "rank": rank, "address": "127.0.0.1", "port": port, "interface": "lo", "patience": 60,
        "seconds": 0.2, "curves": True, "shared": True, "sizes": [4096, 65536],
    } | more  # fmt: skip


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def both(**more):
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, json.dumps(job(rank, port, **more))], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        return [json.loads(process.communicate(timeout=200)[0].splitlines()[-1]) for process in ranks]
    finally:
        for process in ranks:
            process.kill()


def test_two_processes_measure_every_collective_at_every_size():
    first, second = both()
    told = {(point["collective"], point["message_bytes"]) for point in first["points"]}
    assert told == {(name, size) for name in network.FACTORS for size in (4096, 65536)}
    assert all(point["bus_bandwidth_bytes_per_s"] > 0 for point in first["points"])
    assert first["repetitions"] == second["repetitions"] >= network.LEAST_REPETITIONS
    assert 0 < first["value"] <= first["best"]
    (deciding,) = (p for p in first["points"] if (p["collective"], p["message_bytes"]) == ("sendrecv", 65536))
    assert deciding["bus_bandwidth_bytes_per_s"] == pytest.approx(first["value"])


def test_bus_bandwidth_is_as_nccl_tests_define_it():
    assert network.FACTORS == {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5, "sendrecv": 1.0}
    assert network._speeds(100.0, [1.0, 4.0, 5.0], shared=False) == {"value": 30.0, "best": 30.0}
    assert network._speeds(100.0, [1.0, 4.0, 5.0], shared=True) == {"value": 25.0, "best": 100.0}


def test_a_partner_that_cannot_be_reached_is_an_error_within_the_patience():
    class Events:
        def send(self, event, **values):
            pass

    begin = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)connect|timed? ?out"):
        network.measure_pair(job(1, free_port(), patience=1), Events())
    assert time.monotonic() - begin < 60  # torch's own patience is 5 min and more
