# SPDX-License-Identifier: BSD-2-Clause
"""
Everything at once, as in test_stress.py, on storage that hangs now and then. Throughout, QMP answers at once; an image is
locked for as long as a write to it can still land; and when it is over the storage is free the moment the server says so.

    ./dev soak 600      ten minutes of it, on a quiet machine
"""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from support import images, locks, process, sandbox
from support.chaos import Chaos
from support.hanging import hanging_storage
from support.images import MIB
from support.nbdraw import CMD_FLAG_FUA, CMD_WRITE, Closed, NbdRaw
from support.qmp import QmpError

SECONDS = float(os.environ.get("BULKHEAD_STRESS_SECONDS", "8"))
SEED = int(os.environ.get("BULKHEAD_STRESS_SEED", "1"))
STRICT = os.environ.get("BULKHEAD_STRICT_TIMES") == "1"  # on a quiet machine
ANSWER_MS = 100
BLOCK = 4096
UNSHARED_WRITE = 200 + locks.WRITE

# A process of its own, so that what this one does is not measured.
PINGER = """
import json, socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
stream = sock.makefile("rw")
stream.readline()
def ask(command):
    begin = time.monotonic()
    stream.write(json.dumps({"execute": command}) + "\\n")
    stream.flush()
    while "event" in json.loads(stream.readline()):
        pass
    return (time.monotonic() - begin) * 1000
ask("qmp_capabilities")
times = []
print("ready", flush=True)
try:
    while True:
        times.append(ask(("query-version", "query-block-exports", "query-named-block-nodes")[len(times) % 3]))
        time.sleep(0.02)
except (ValueError, OSError):
    pass
times.sort()
print(json.dumps([len(times), times[len(times) // 2], times[len(times) * 99 // 100], times[-1]]), flush=True)
"""


class Pinger:
    def __init__(self, server):
        self.popen = process.popen([sys.executable, "-c", PINGER, server.qmp_path], stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout.readline() == "ready\n"

    def times(self):
        """When the server is gone: (answers, median, 99th percentile, slowest), in ms."""
        return json.loads(self.popen.communicate(timeout=30)[0])


class Write:
    """One that is sent while its image's storage hangs, of a block that nothing else writes to with this content."""

    def __init__(self, client, path, offset, content):
        self.client, self.path, self.offset, self.content = client, path, offset, content
        self.image_was_free = False

    def has_landed(self):
        return images.read(self.path, self.offset, len(self.content)) == self.content


class Storm(Chaos):
    """Nodes n0 and n1 lie on storage that hangs when it is frozen."""

    def __init__(self, server, image, rng, storage):
        super().__init__(server, image, rng)
        self.storage = storage
        for node in ("n0", "n1"):
            self.paths[node] = images.make(storage.mount / f"{node}.img", MIB, seed=1)
        os.sync()
        self.nodes_of = {}
        self.writes = []
        self.written = 0
        self.landed_late = 0
        self.free_while_frozen = 0
        self.thaw_at = 0

    def ask(self, command, **arguments):
        try:
            self.server.qmp.cmd(command, arguments)
        except QmpError:
            pass

    def freeze(self):
        """With an export on it, unless something stands in the way."""
        if self.storage.frozen:
            return
        self.ask("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.server.nbd_path)}})
        self.ask("blockdev-add", **self.server.file_node("n0", self.paths["n0"]))
        self.ask("block-export-add", id="e0", name="e0", type="nbd", **{"node-name": "n0", "writable": True})
        self.storage.freeze()
        self.thaw_at = time.monotonic() + self.rng.uniform(0.2, 2)
        self.write_while_frozen()

    def write_while_frozen(self):
        """To an export, if there is one that stands on the storage. Whose it is is asked, since all is at random here."""
        if not self.storage.frozen:
            return
        exports = [e for e in self.server.qmp.cmd("query-block-exports")
                   if e["type"] == "nbd" and e["node-name"] in ("n0", "n1") and not e["shutting-down"]]
        if not exports:
            return
        export = self.rng.choice(exports)
        self.written += 1
        offset, content = self.written % (MIB // 2 // BLOCK) * BLOCK, images.pattern(BLOCK, 1000 + self.written)
        try:
            client = NbdRaw.unix(self.server.nbd_path)
            client.sock.settimeout(0.5)
            client.hello()
            client.go(export["id"])
            client.request(CMD_WRITE, offset, BLOCK, CMD_FLAG_FUA, content)
        except (OSError, Closed, AssertionError):
            return
        self.writes.append(Write(client, self.paths[export["node-name"]], offset, content))

    def look(self):
        """While the storage hangs: which images are free? What has been sent to them must never arrive."""
        if not self.storage.frozen:
            return
        for path in {write.path for write in self.writes}:
            if UNSHARED_WRITE not in locks.locked_bytes(path):
                for write in self.writes:
                    if write.path == path and not write.image_was_free:
                        write.image_was_free = True
                        self.free_while_frozen += 1
        if time.monotonic() > self.thaw_at:
            self.thaw()

    def thaw(self):
        self.storage.thaw()
        time.sleep(0.3)
        for write in self.writes:
            if write.has_landed():
                self.landed_late += 1
                assert not write.image_was_free, f"a write to {write.path} at {write.offset} landed after others could have it"
            write.client.close()
        self.writes = []

    def everything_again(self):
        """What was removed while a write was on its way is wanted again at once."""
        node = self.rng.choice(["n0", "n1"])
        self.qmp("block-export-del", id=self.rng.choice(["e0", "e1", "e2"]), mode="hard")
        self.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.server.nbd_path)}})
        self.qmp("blockdev-del", **{"node-name": node})
        self.qmp("blockdev-add", **self.server.file_node(node, self.paths[node]))
        self.qmp("block-export-add", **{"id": "e0", "name": "e0", "node-name": node, "type": "nbd", "writable": True})

    def end(self):
        if self.storage.frozen:
            self.thaw()
        super().end()

    ACTS = Chaos.ACTS + [(freeze, 2), (write_while_frozen, 12), (everything_again, 6)]

    def step(self):
        super().step()
        self.look()


@pytest.fixture
def storm(server, image, tmp):
    sandbox.need_root()
    server.deaths_expected = True
    with hanging_storage(tmp) as storage:
        yield Storm(server.nbd_start(), image, random.Random(SEED), storage)


def test_storage_that_hangs_stops_nobody_and_keeps_its_locks(server, storm):
    pinger = Pinger(server)
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            storm.step()
            assert server.popen.poll() is None, f"the monitor has died\n{server.log_text()[-4000:]}"
    finally:
        storm.end()
    assert server.stop("quit", timeout=60) == 0
    assert storm.storage.unmount(), "the storage is still in use, though the server has ended"
    storm.storage.mount_again()
    answers, median, most, slowest = pinger.times()
    print(f"{answers} answers: median {median:.1f} ms, 99 % {most:.1f} ms, slowest {slowest:.1f} ms; "
          f"{storm.written} writes while frozen, {storm.landed_late} landed, {storm.free_while_frozen} never had to; "
          f"{storm.counts}")
    assert storm.landed_late > 0 or SECONDS < 60, "nothing was on its way while the storage hung"
    assert most < ANSWER_MS if STRICT else median < ANSWER_MS
    assert not STRICT or slowest < ANSWER_MS
