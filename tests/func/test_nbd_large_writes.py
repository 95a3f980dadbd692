# SPDX-License-Identifier: BSD-2-Clause
"""
Large writes are executed while they arrive, and into a file in memory by way of a pipe. Whatever the image is and
however the bytes come, what is in the image afterwards is what the client sent, and who breaks off harms nobody else.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import random

import pytest

from support import images, sandbox
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.process import wait_for

SIZE = 24 * MIB
PIPE_BYTES = 256 * KIB
F_GETPIPE_SZ = 1032


def memory(server, image, disk_image):
    path = image(size=SIZE, seed=1)
    server.add_file("disk", path)
    return path, 0


def window(server, image, disk_image):
    path = image(size=SIZE + MIB, seed=1)
    server.add_file("below", path)
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "file": "below", "offset": 1000 * 512,
                                    "size": SIZE})
    return path, 1000 * 512


def blkdebug(server, image, disk_image):
    path = image(size=SIZE, seed=1)
    server.add_file("below", path)
    server.qmp.cmd("blockdev-add", {"driver": "blkdebug", "node-name": "disk", "image": "below"})
    return path, 0


def on_disk(server, image, disk_image):
    path = disk_image(size=SIZE, seed=1)
    server.add_file("disk", path)
    return path, 0


def direct(server, image, disk_image):
    path = disk_image(size=SIZE, seed=1)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as e:
        if e.errno == errno.EINVAL:
            pytest.skip("this file system has no O_DIRECT")
        raise
    server.add_file("disk", path, cache={"direct": True})
    return path, 0


SPLICED = (memory, window)


class Target:
    def __init__(self, server, path, offset):
        self.server, self.path, self.offset = server, path, offset
        self.content = bytearray(images.read(path, offset, SIZE))

    def client(self, **kwargs):
        return NbdRaw.opened(self.server.nbd_path, "disk", **kwargs)

    def wrote(self, offset, data):
        self.content[offset:offset + len(data)] = data

    def check(self):
        assert images.read(self.path, self.offset, SIZE) == self.content

    def pipe_sizes(self):
        """Of the worker's threads; its status pipe is none of them."""
        pid = self.server.export_worker("exp-disk")["pid"]
        sizes = []
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            if int(fd.name) > 4 and os.readlink(fd).startswith("pipe:"):
                opened = os.open(fd, os.O_WRONLY | os.O_NONBLOCK)
                sizes.append(fcntl.fcntl(opened, F_GETPIPE_SZ))
                os.close(opened)
        return sizes


@pytest.fixture(params=[memory, window, blkdebug, on_disk, direct], ids=lambda make: make.__name__)
def target(request, nbd, image, disk_image):
    made = Target(nbd, *request.param(nbd, image, disk_image))
    nbd.export("disk")
    made.spliced = request.param in SPLICED
    return made


@pytest.fixture
def in_memory(nbd, image, disk_image):
    made = Target(nbd, *memory(nbd, image, disk_image))
    nbd.export("disk")
    return made


@pytest.mark.parametrize("form", [{}, {"structured": True}, {"extended": True}],
                         ids=["simple", "structured", "extended"])
def test_what_is_sent_is_what_is_stored(target, form):
    """Sizes and offsets at and beside those where the way changes, several at once, small requests in between."""
    lengths = [128 * KIB, 128 * KIB + 1, 256 * KIB, 256 * KIB + 4097, MIB, MIB - 1, 3 * MIB + 511]
    with target.client(**form) as client:
        flags = CMD_FLAG_PAYLOAD_LEN if client.extended else 0
        for round, base in enumerate((0, 4095)):
            offset = base
            for i, length in enumerate(lengths):
                data = images.pattern(length, 100 * round + i)
                client.request(CMD_WRITE, offset, length, flags, data)
                target.wrote(offset, data)
                client.request(CMD_WRITE, offset + length, 7, flags, b"between")
                target.wrote(offset + length, b"between")
                offset += length + 7
            for _ in range(2 * len(lengths)):
                assert client.reply_error() == 0
    target.check()


def test_however_the_bytes_come(target):
    """In pieces of any size, with pauses that the server sees."""
    source = random.Random(7)
    with target.client() as client:
        for size in (1000, 20 * KIB, 70 * KIB, 300 * KIB):
            offset, data = source.randrange(SIZE - 2 * MIB), images.pattern(MIB + size, size)
            client.request(CMD_WRITE, offset, len(data))
            for at in range(0, len(data), size):
                client.send(data[at:at + size])
                if size >= 20 * KIB:
                    # By the time that the other client has an answer, the server has taken what was there.
                    target.client().close()
            assert client.reply_error() == 0
            target.wrote(offset, data)
    target.check()


def test_only_files_in_memory_are_spliced_to(target):
    """And the pipe is small again when nobody is there: the memory of pipes is counted by account."""
    sandbox.need_root()
    with target.client() as client:
        assert set(target.pipe_sizes()) == {4096}
        for i in range(4):
            assert client.write(i * MIB, bytes(MIB)) == 0
        assert (PIPE_BYTES in target.pipe_sizes()) == target.spliced
    wait_for(lambda: set(target.pipe_sizes()) == {4096}, "the pipe to be small again")


def test_read_only_export_has_no_pipe(nbd, image):
    sandbox.need_root()
    target = Target(nbd, *memory(nbd, image, None))
    nbd.export("disk", writable=False)
    with target.client() as client:
        assert client.write(0, bytes(MIB)) == EPERM
        assert client.read(0, 4096) == target.content[:4096]
        assert target.pipe_sizes() == []
    target.check()


def test_client_that_goes_away_in_the_middle(target):
    """Of its write a part may be there, in its place; of others' everything, and nothing of it in theirs."""
    data = images.pattern(8 * MIB, 3)
    with target.client() as other:
        for round in range(4):
            with target.client() as client:
                client.request(CMD_WRITE, 100, len(data))
                client.send(data[:3 * MIB + round * 100 * KIB + 1])
            theirs = images.pattern(2 * MIB, 50 + round)
            assert other.write(12 * MIB + 1, theirs) == 0
            target.wrote(12 * MIB + 1, theirs)
    wait_for(lambda: not target.server.export_worker("exp-disk")["clients"], "the clients to be gone")
    there = images.read(target.path, target.offset, SIZE)
    assert there[12 * MIB:] == target.content[12 * MIB:] and there[:100] == target.content[:100]
    assert all(there[at] in (target.content[at], data[at - 100]) for at in range(100, 8 * MIB, 997))


def test_export_that_goes_away_in_the_middle(in_memory):
    data = images.pattern(MIB, 3)
    with in_memory.client() as client:
        client.request(CMD_WRITE, 0, 2 * MIB)
        client.send(data)
        in_memory.server.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "hard"})
        in_memory.server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        assert client.expect_closed() == b""


def test_many_clients_at_once(in_memory):
    """Their payloads go through the same pipe, a step of one after a step of another."""
    data = [images.pattern(2 * MIB, 60 + i) for i in range(6)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(in_memory.client()) for _ in data]
        for client, i in zip(clients, range(len(data))):
            client.request(CMD_WRITE, i * 3 * MIB + i, len(data[i]))
        for at in range(0, 2 * MIB, 64 * KIB):
            for client, payload in zip(clients, data):
                client.send(payload[at:at + 64 * KIB])
        for i, client in enumerate(clients):
            assert client.reply_error() == 0
            in_memory.wrote(i * 3 * MIB + i, data[i])
    in_memory.check()
