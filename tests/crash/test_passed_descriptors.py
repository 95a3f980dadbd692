# SPDX-License-Identifier: BSD-2-Clause
"""
Clients of unix sockets that pass descriptors along, which nobody wants. Whoever takes the bytes, or closes the socket, closes
the descriptor too, and waits if that lingers: a TCP socket does, for as long as its owner has set.
"""

import array
import socket
import struct
import time

import pytest

from support.images import MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

LINGER = 40  # seconds
SOON = 10
SO_PASSRIGHTS = 83  # Linux 6.16


@pytest.fixture
def lingering():
    """A factory of TCP sockets that have something to send to somebody who does not read."""
    peers = []

    def factory():
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            sock = socket.create_connection(listener.getsockname())
            peers.append(listener.accept()[0])
        sock.setblocking(False)
        try:
            while True:
                sock.send(bytes(65536))
        except BlockingIOError:
            pass
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
        return sock

    yield factory
    for peer in peers:
        peer.close()


@pytest.fixture
def disk(nbd, image):
    nbd.add_file("disk", image(size=MIB))
    nbd.export("disk")
    return nbd


def kernel_can_refuse():
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            return sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 1
        except OSError:
            return False


def pass_along(sock, data, passed):
    """Send data with a descriptor, of which there is no other copy then. Whether the kernel lets it through."""
    with passed:
        try:
            sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))])
            return True
        except PermissionError:
            passed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # we would wait ourselves
            return False


def check_served(server):
    start = time.monotonic()
    server.qmp.cmd("query-version")
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.read(0, 512) == bytes(512)
        client.disconnect()
    server.qmp.cmd("query-block-exports")
    assert time.monotonic() - start < SOON


def test_a_client_that_leaves_a_descriptor_behind(disk, lingering):
    """Before its first byte is looked at, in the handshake, and where it is turned away."""
    for flags in (b"", struct.pack(">I", 3), b"not NBD at all"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(disk.nbd_path))
            pass_along(sock, b"\0" + flags, lingering())
        check_served(disk)


def test_a_client_that_passes_a_descriptor_in_transmission(disk, lingering):
    if not kernel_can_refuse():
        pytest.skip("this kernel cannot refuse descriptors (Linux 6.16 can)")
    request = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_READ, 1, 0, 512)
    with NbdRaw.opened(disk.nbd_path, "disk") as other, NbdRaw.opened(disk.nbd_path, "disk") as client:
        assert not pass_along(client.sock, request, lingering())
        check_served(disk)
        for one in (other, client):
            assert one.read(0, 512) == bytes(512)
            one.disconnect()
