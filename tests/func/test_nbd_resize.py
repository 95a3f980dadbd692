# SPDX-License-Identifier: BSD-2-Clause
"""An export whose image gets another size: what clients see that come later, and those that are connected meanwhile."""

import os
import struct
import threading
import time

import pytest

from support import images
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

SIZE = 16 * MIB
FORMS = {"simple": {}, "structured": {"structured": True, "contexts": ["base:allocation"]},
         "extended": {"extended": True, "contexts": ["base:allocation"]}}


@pytest.fixture(params=["tmpfs", "disk", "direct", "window"])
def disk(request, nbd, image, disk_image):
    """A server with the export "disk" of SIZE bytes, of which the first are never written, and its resize()."""
    make = image if request.param == "tmpfs" else disk_image
    cache = {"cache": {"direct": True}} if request.param == "direct" else {}
    start = MIB if request.param == "window" else 0
    nbd.image = make(size=start + SIZE)
    nbd.start_of_disk = start
    nbd.add_file("disk" if not start else "file", nbd.image, discard="unmap", **cache)
    if start:
        nbd.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "file": "file", "offset": start})
    nbd.export("disk")
    nbd.resize = lambda size: resize(nbd, size)
    return nbd


def resize(server, size):
    """Also until the worker knows of it: it is told before it gets a new client."""
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": size})
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.size == size
        assert client.read(0, size and 512) == bytes(size and 512)
        client.disconnect()


def opened(server, form):
    return NbdRaw.opened(server.nbd_path, "disk", **FORMS[form])


def error_of(client, command, offset, length, flags=0):
    data = b"r" * length if command == CMD_WRITE else b""
    client.request(command, offset, length, flags, data)
    return client.reply_error(length if command == CMD_READ else 0)


COMMANDS = [CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, CMD_TRIM, CMD_CACHE, CMD_BLOCK_STATUS]


def errors_at(client, offset, length):
    """{command: error}, of all that the client can ask for there."""
    commands = COMMANDS if client.structured or client.extended else COMMANDS[:-1]
    return {command: error for command in commands if (error := error_of(client, command, offset, length))}


def all_refused(errors):
    return errors and all(error in (EINVAL, ENOSPC) for error in errors.values()) and len(errors) >= len(COMMANDS) - 1


@pytest.mark.parametrize("form", FORMS)
def test_what_has_grown_can_be_used(disk, form):
    """By clients that come later, and by those that are connected, whom the protocol has no way to tell."""
    with opened(disk, form) as before:
        assert all_refused(errors_at(before, SIZE, 4 * KIB))
        disk.resize(2 * SIZE)
        with opened(disk, form) as after:
            assert after.size == 2 * SIZE
            for client in (after, before):
                for offset, length in ((2 * SIZE - 4 * KIB, 4 * KIB), (2 * SIZE - 512, 512), (SIZE - 4 * KIB, 8 * KIB),
                                       (2 * SIZE - MIB, MIB)):
                    assert errors_at(client, offset, length) == {}
                assert all_refused(errors_at(client, 2 * SIZE - 512, 1024))
                assert all_refused(errors_at(client, 2 * SIZE, 4 * KIB))
                assert client.write(2 * SIZE - 512, b"e" * 512, CMD_FLAG_FUA) == 0
            after.disconnect()
        before.disconnect()
    assert images.read(disk.image, disk.start_of_disk + 2 * SIZE - 512) == b"e" * 512


@pytest.mark.parametrize("form", FORMS)
def test_what_was_cut_is_refused_and_does_not_come_back(disk, form):
    with opened(disk, form) as before:
        assert before.write(SIZE - MIB, b"x" * MIB) == 0
        disk.resize(SIZE // 2)
        with opened(disk, form) as after:
            assert after.size == SIZE // 2
            for client in (after, before):
                assert errors_at(client, SIZE // 2 - 4 * KIB, 4 * KIB) == {}
                assert all_refused(errors_at(client, SIZE // 2, 4 * KIB))
                assert all_refused(errors_at(client, SIZE // 2 - 512, 1024))
                assert all_refused(errors_at(client, SIZE - MIB, MIB))
            assert os.stat(disk.image).st_size == disk.start_of_disk + SIZE // 2
            disk.resize(SIZE)
            for client in (after, before):
                client.request(CMD_READ, SIZE - MIB, MIB, CMD_FLAG_DF if form != "simple" else 0)
                data = client.simple_reply(MIB)[2] if form == "simple" else client.chunks()[0][1][8:]
                assert data == bytes(MIB)
            after.disconnect()
        before.disconnect()


def test_an_export_without_a_byte(disk):
    disk.resize(0)
    with opened(disk, "structured") as client:
        assert client.size == 0
        assert all_refused(errors_at(client, 0, 512))
        disk.resize(SIZE)
        assert errors_at(client, SIZE - 512, 512) == {}
        client.disconnect()
    with opened(disk, "structured") as client:
        assert client.size == SIZE
        client.disconnect()


def test_block_status_is_of_the_new_size(disk):
    """By payload too, which is parsed after the header."""
    def extents(client, offset, length):
        data = struct.pack(">QI", length, 1)
        client.request(CMD_BLOCK_STATUS, offset, len(data), CMD_FLAG_PAYLOAD_LEN, data)
        (kind, payload), = client.chunks()
        assert kind == TYPE_BLOCK_STATUS_EXT
        return list(struct.iter_unpack(">QQ", payload[8:]))

    with opened(disk, "extended") as client:
        assert client.write(SIZE - MIB, b"x" * MIB) == 0
        disk.resize(2 * SIZE)
        assert extents(client, SIZE - MIB, SIZE + MIB) == [(MIB, 0), (SIZE, 3)]
        disk.resize(SIZE)
        data = struct.pack(">QI", SIZE, 1)
        client.request(CMD_BLOCK_STATUS, 512, len(data), CMD_FLAG_PAYLOAD_LEN, data)
        assert client.reply_error() == EINVAL
        client.disconnect()


def test_requests_are_under_way_meanwhile(disk):
    """
    Each is answered, with an error or without; what lies below the smallest size is not touched by it. A write that has
    passed the old end makes a file that is cut longer again, so there are none.
    """
    stop = threading.Event()
    problems = []

    def work(form, seed):
        base, data = MIB + seed * MIB, images.pattern(MIB, seed)
        with opened(disk, form) as client:
            while not stop.is_set():
                for length in (512, 64 * KIB, MIB):
                    if client.write(base, data[:length]) != 0 or error_of(client, CMD_READ, base, length) != 0:
                        problems.append("an error below all sizes")
                    for command in (CMD_READ, CMD_TRIM, CMD_CACHE):
                        if error_of(client, command, SIZE // 2 + base - length // 2, length) not in (0, EINVAL):
                            problems.append(f"command {command} failed")
            client.disconnect()

    threads = [threading.Thread(target=work, args=(form, seed)) for seed, form in enumerate(list(FORMS) * 2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(60):
            disk.resize((SIZE, SIZE // 2, SIZE // 2 + 3 * MIB, SIZE // 2 + MIB + 512)[n % 4])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    for seed in range(len(threads)):
        assert images.read(disk.image, disk.start_of_disk + MIB + seed * MIB, MIB) == images.pattern(MIB, seed)


def test_an_export_that_is_made_meanwhile(nbd, image):
    """Its worker may have looked at the image before."""
    nbd.add_file("disk", image(size=SIZE))
    other = nbd.connect()
    for n in range(1, 25):
        nbd.qmp.send({"execute": "block-export-add", "id": n,
                      "arguments": {"type": "nbd", "node-name": "disk", "id": "e", "writable": True}})
        time.sleep(n / 2000)
        other.cmd("block_resize", {"node-name": "disk", "size": SIZE + n * MIB})
        assert "return" in nbd.qmp.reply()
        with opened(nbd, "structured") as client:
            assert client.size == SIZE + n * MIB
            assert errors_at(client, client.size - 512, 512) == {}
            client.disconnect()
        nbd.qmp.cmd("block-export-del", {"id": "e", "mode": "hard"})
        nbd.qmp.wait_event("BLOCK_EXPORT_DELETED")
    other.close()
