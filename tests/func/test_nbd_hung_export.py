# SPDX-License-Identifier: BSD-2-Clause
"""An export whose worker or storage hangs: its clients do not keep others from other exports."""

import os
import signal
import time

import pytest

from support import process
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw
from support.process import wait_for

LIMIT = 4


def serve(server, image, **members):
    for name in "hung", "other":
        server.add_file(name, image(f"{name}.img", data=[(0, b"content")]))
    server.nbd_start(**{"max-connections": LIMIT, **members})
    for name in "hung", "other":
        server.export(name)


def greeted(server, name):
    """A client that has got through its handshake, as far as it knows; None: turned away before."""
    client = NbdRaw.unix(server.nbd_path)
    try:
        client.hello()
        client.go(name)
        return client
    except (Closed, OSError):
        client.close()
        return None


def served_at_once(server, name):
    started = time.monotonic()
    with NbdRaw.opened(server.nbd_path, name) as client:
        assert client.read(0, 7) == b"content"
        client.disconnect()
    return time.monotonic() - started < 2


def connections(server):
    return server.qmp.cmd("__org.bulkhead_query-nbd-server")["connections"]


def test_clients_of_a_stopped_worker_keep_nobody_out(server, image):
    """As many as there may be, and some that come when it hangs already."""
    serve(server, image)
    worker = server.export_worker("exp-hung")["pid"]
    clients = [greeted(server, "hung") for _ in range(LIMIT)]
    assert all(clients) and all(client.read(0, 7) == b"content" for client in clients)
    os.kill(worker, signal.SIGSTOP)
    try:
        assert all(served_at_once(server, "other") for _ in range(5))
        clients += [greeted(server, "hung") for _ in range(30)]
        assert all(served_at_once(server, "other") for _ in range(5))
        assert "export 'exp-hung': its worker does not answer" in server.log_text()
    finally:
        os.kill(worker, signal.SIGCONT)
    assert clients[0].read(0, 7) == b"content"
    assert clients[LIMIT].read(0, 7) == b"content"  # it was only late
    wait_for(lambda: "its worker answers again" in server.log_text(), "the export to be back")
    for client in clients:
        if client is not None:
            client.close()
    wait_for(lambda: connections(server) == 0, "the slots to be given back")
    with NbdRaw.opened(server.nbd_path, "hung") as client:
        assert client.read(0, 7) == b"content"


@pytest.fixture
def frozen(tmp):
    """A file system of its own; call it with True or False to freeze or thaw it."""
    if os.getuid() != 0:
        pytest.skip("to mount needs root")
    process.need("mkfs.ext4", "fsfreeze")
    disk, point = tmp / "disk", tmp / "point"
    with open(disk, "wb") as file:
        file.truncate(32 << 20)
    point.mkdir()
    process.run("mkfs.ext4", "-q", "-F", disk)
    if process.run("mount", "-o", "loop", disk, point, status=None).returncode != 0:
        pytest.skip("cannot mount a loop device")
    point.chmod(0o777)
    yield point, lambda on: process.run("fsfreeze", "--freeze" if on else "--unfreeze", point)
    process.run("fsfreeze", "--unfreeze", point, status=None)
    wait_for(lambda: process.run("umount", point, status=None).returncode == 0, "the file system to be free")


def test_clients_that_left_storage_that_hangs_keep_nobody_out(frozen, server, image):
    """They come, write, wait in vain, and leave, more of them than there may be at a time."""
    point, freeze = frozen
    path = point / "hung.img"
    path.write_bytes(b"content".ljust(1 << 20, b"\0"))
    path.chmod(0o666)
    server.add_file("hung", path)
    server.add_file("other", image("other.img", data=[(0, b"content")]))
    server.nbd_start(**{"max-connections": LIMIT})
    for name in "hung", "other":
        server.export(name)
    freeze(True)
    try:
        for number in range(3 * LIMIT):
            client = wait_for(lambda: greeted(server, "hung"), "a place")
            client.request(CMD_WRITE, 4096 * number, 4096)
            client.send(bytes(4096))
            time.sleep(0.05)
            client.close()
            assert served_at_once(server, "other")
    finally:
        freeze(False)
    wait_for(lambda: connections(server) == 0, "what was under way to end")


def test_an_export_and_a_peer_have_limits_of_their_own(server, image):
    server.add_file("few", image("few.img", data=[(0, b"content")]))
    server.add_file("other", image("other.img", data=[(0, b"content")]))
    server.nbd_start(**{"max-connections": 100, "__org.bulkhead_max-connections-per-peer": 5})
    server.export("few", **{"__org.bulkhead_max-connections": 2})
    server.export("other")

    def served(name):
        client = greeted(server, name)
        try:
            assert client.read(0, 7) == b"content"
            return client
        except (Closed, ConnectionError):
            client.close()
            return None

    clients = [served("few"), served("few")]
    assert all(clients) and served("few") is None
    clients += [served("other") for _ in range(3)]
    assert all(clients) and served("other") is None
    assert "its export has as many clients as it may have" in server.log_text()
    assert "its account or address has as many connections as it may have" in server.log_text()
    for client in clients:
        client.disconnect()
    client = wait_for(lambda: served("few"), "a place")
    client.disconnect()


@pytest.mark.parametrize("value", [-1, 2**32, "5", None])
def test_wrong_limits_are_refused(server, image, value):
    server.add_file("disk", image())
    name = "__org.bulkhead_max-connections-per-peer"
    address = {"type": "unix", "data": {"path": str(server.nbd_path)}}
    assert name in server.qmp.error("nbd-server-start", {"addr": address, name: value}).desc
    server.nbd_start()
    name = "__org.bulkhead_max-connections"
    assert name in server.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", name: value}).desc
    assert not server.exports()
