# SPDX-License-Identifier: BSD-2-Clause
"""
Everything at once, at random: exports of all types come and go through several QMP sessions that do not wait for each
other, clients connect and vanish in every phase, workers are killed and stopped, descriptors and processes run out. What
may fail may fail; but the monitor lives, answers, and when it is over nothing is left and all of it works again.

    BULKHEAD_STRESS_SECONDS=300 BULKHEAD_STRESS_SEED=7 pytest tests/crash/test_stress.py
"""

import os
import random
import signal
import time

import pytest

from support import sandbox
from support.chaos import Chaos, kinds_of_descriptors, remove_everything
from support.nbdraw import NbdRaw
from support.process import wait_for

SECONDS = float(os.environ.get("BULKHEAD_STRESS_SECONDS", "8"))
SEED = int(os.environ.get("BULKHEAD_STRESS_SEED", "1"))


def run(chaos, seconds):
    server = chaos.server
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        chaos.step()
        assert server.popen.poll() is None, f"the monitor has died\n{server.log_text()[-4000:]}"
        if chaos.rng.random() < 0.02:
            server.qmp.cmd("query-version", timeout=10)
    print(chaos.counts)


@pytest.fixture
def chaos(server, image):
    sandbox.need_root()
    server.deaths_expected = True
    return Chaos(server, image, random.Random(SEED))


def test_everything_at_once(server, chaos):
    before = kinds_of_descriptors(server)
    try:
        run(chaos, SECONDS)
    finally:
        chaos.end()
    server.qmp.cmd("query-version")
    try:
        wait_for(lambda: remove_everything(server) or kinds_of_descriptors(server) == before, "everything to be gone", 90)
    except AssertionError:
        assert kinds_of_descriptors(server) == before
    assert not server.qmp.cmd("query-named-block-nodes") and [w["role"] for w in server.workers()] == ["opener"]

    server.nbd_start()
    server.add_file("n0", chaos.paths["n0"])
    server.export("n0")
    with NbdRaw.opened(server.nbd_path, "n0") as client:
        assert client.write(0, b"all is well") == 0
        client.disconnect()


@pytest.mark.parametrize("how", ["quit", signal.SIGTERM])
def test_the_end_in_the_middle_of_everything(server, chaos, how):
    """Workers that start, drain, hang and die, replies that are owed, and no descriptors: it still ends in order."""
    run(chaos, SECONDS / 2)
    assert server.stop(how, timeout=60) == 0
    for thing in chaos.sessions + chaos.clients:
        thing.close()
