# SPDX-License-Identifier: BSD-2-Clause
"""
Descriptors that have been sent and not received are counted by account, against the limit of whoever sends the next ones: a
vhost worker that has been taken over, which may send descriptors, must not stop the monitor and the opener from doing so.
"""

import os
import pathlib
import shutil
import socket

import pytest

from support import fuse, sandbox
from support.nbdraw import NbdRaw
from support.process import wait_for

LIMIT = 4096
PER_MESSAGE = 253


@pytest.fixture
def victim(new_server, image):
    server = new_server()
    server.prefix = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    server.deaths_expected = True
    server.start()
    server.add_file("guest", image("guest.img"))
    server.qmp.cmd("block-export-add", {"type": "vhost-user-blk", "id": "guest", "node-name": "guest", "writable": True,
                                        "addr": {"type": "unix", "path": str(server.dir / "vhost")}})
    return server


def sockets(pid):
    """Its sockets but the one to the monitor, which ends a worker that says something there."""
    fds = pathlib.Path(f"/proc/{pid}/fd")
    return [int(fd.name) for fd in fds.iterdir() if fd.name != "3" and os.readlink(fd).startswith("socket:")]


def fill(inject, pid, fd):
    """As many as it may have on their way."""
    sent = 0
    while sent < 2 * LIMIT:
        outcome = sandbox.inject(inject, pid, "sendmsg", fd, "rights:0", 0x4040)  # MSG_DONTWAIT, MSG_NOSIGNAL
        if not outcome.startswith("executed"):
            return sent, outcome
        sent += PER_MESSAGE
    return sent, outcome


@pytest.mark.parametrize("role", ["vhost", "vhost-door"])
def test_an_evil_worker_stops_nobody_from_passing_descriptors(victim, image, role):
    inject = sandbox.need_inject(victim.build)
    pid = victim.workers(role=role)[0]["pid"]
    with socket.socket(socket.AF_UNIX) as front_end:  # which never reads
        before = sockets(pid)
        front_end.connect(str(victim.dir / "vhost"))
        wait_for(lambda: len(sockets(pid)) > len(before), "the front-end to be there")
        for connection in sorted(set(sockets(pid)) - set(before)):
            sent, outcome = fill(inject, pid, connection)
            if outcome != "refused ENOTCONN":  # a socket that listens, which has come late
                break
        print(f"{role}: {sent} descriptors on their way, then: {outcome}")
        assert sent > 0 and outcome == "refused ETOOMANYREFS"
        everybody_else_goes_on(victim, image)


def can_mount():
    return shutil.which("fusermount3") is not None and fuse.as_account("test", "-w", "/dev/fuse", status=None).returncode == 0


def everybody_else_goes_on(victim, image):
    if can_mount():
        point = image("point")
        victim.qmp.cmd("block-export-add", {"type": "fuse", "id": "mounted", "node-name": "guest", "mountpoint": str(point)})
    victim.add_file("disk", image("disk.img", data=[(0, b"content")]))
    victim.nbd_start()
    victim.export("disk")
    for _ in range(5):
        with NbdRaw.opened(victim.nbd_path, "disk") as client:
            assert client.read(0, 7) == b"content"
            client.disconnect()
