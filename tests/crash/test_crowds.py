# SPDX-License-Identifier: BSD-2-Clause
"""
Crowds of clients that stop in the handshake and connect again at once when they are dropped: honest clients get in all the
same. (tests/interop/test_tls.py has the one with TLS.)
"""

import time
import warnings

import pytest

from support import process, sandbox, tls
from support.nbdraw import Closed, NbdRaw
from support.reconnecting import Reconnecting

COUNT = 1000
HONEST = 20
ENOUGH = 19
MOST = 17  # where each connection of the crowd costs a process, and is as good as an honest one until it leaves
WITHIN_S = 2
PAUSE_S = 0.15
HANDSHAKE_S = 2  # the whole crowd is dropped and back again while honest clients come


def how_many(build, engine, descriptors):
    """All of them where nothing speaks against it, else fewer, which is told of."""
    slow = engine != "auto" or sandbox.is_sanitized(build / "bulkhead")
    count = min(COUNT // 10 if slow else COUNT, descriptors // 5)
    if count < COUNT:
        warnings.warn(f"a crowd of {count}, not of {COUNT}")
    return count


def honest(open_client):
    """How long it took until a client was served; None: it was not."""
    started = time.monotonic()
    try:
        with open_client() as client:
            client.sock.settimeout(10)
            client.hello()
            client.go("disk")
            assert client.read(0, 7) == b"content"
            client.disconnect()
    except (Closed, OSError):
        return None
    return time.monotonic() - started


def served(open_client):
    waits = []
    for _ in range(HONEST):
        waits.append(honest(open_client))
        time.sleep(PAUSE_S)
    print("honest clients were served after", *("-" if wait is None else f"{wait:.2f}" for wait in waits), "s")
    return sum(wait is not None and wait < WITHIN_S for wait in waits)


@pytest.mark.parametrize("family, kinds, enough", [
    ("unix", "flags", ENOUGH), ("unix", "option half", ENOUGH), ("unix", "garbage", ENOUGH), ("unix", "churn", MOST),
    ("tcp", "flags", ENOUGH), ("tcp", "silent drip leave option", ENOUGH), ("tcp", "churn", MOST)], ids=str)
def test_a_crowd_that_reconnects_keeps_nobody_out(server, image, build, engine, descriptors, family, kinds, enough):
    server.add_file("disk", image(data=[(0, b"content")]))
    members = {"handshake-max-seconds": HANDSHAKE_S}
    if family == "unix":
        server.nbd_start(**members)
        address, open_client = server.nbd_path, lambda: NbdRaw.unix(server.nbd_path)
    else:
        port = tls.free_port()
        server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}, **members)
        address, open_client = port, lambda: NbdRaw.inet(port)
    server.export("disk")
    with Reconnecting(process.popen, address, how_many(build, engine, descriptors), *kinds.split()) as crowd:
        time.sleep(1)
        count = served(open_client)
    print(f"the crowd connected {crowd.connections} times")
    assert count >= enough
