# SPDX-License-Identifier: BSD-2-Clause
"""Reads of sparse images with structured replies ("NBD_CMD_READ" in the NBD specification)."""

import struct

import pytest

from support import images
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

DATA = images.pattern(MIB, 3)


def read(client, offset, length, flags=0):
    """The chunks of a read, checked: within the request, without overlap, complete; and the data."""
    client.request(CMD_READ, offset, length, flags)
    chunks = client.chunks()
    got, seen = bytearray(length), 0
    for kind, payload in chunks:
        if kind == TYPE_NONE:
            continue
        at = struct.unpack(">Q", payload[:8])[0] - offset
        size = struct.unpack(">I", payload[8:])[0] if kind == TYPE_OFFSET_HOLE else len(payload) - 8
        assert kind in (TYPE_OFFSET_HOLE, TYPE_OFFSET_DATA)
        assert at >= 0 and size > 0 and at + size <= length
        if kind == TYPE_OFFSET_DATA:
            got[at:at + size] = payload[8:]
        seen += size
    assert seen == length
    return [kind for kind, _ in chunks if kind != TYPE_NONE], bytes(got)


@pytest.fixture(params=["tmpfs", "disk", "direct"])
def sparse(request, nbd, image, disk_image):
    make = image if request.param == "tmpfs" else disk_image
    cache = {"cache": {"direct": True}} if request.param == "direct" else {}
    nbd.add_file("disk", make(size=16 * MIB, data=[(4 * MIB, DATA)]), discard="unmap", **cache)
    nbd.export("disk")
    return nbd


@pytest.mark.contract
@pytest.mark.parametrize("mode", [{"structured": True}, pytest.param({"extended": True}, marks=pytest.mark.own)], ids=str)
def test_a_hole_is_not_sent(sparse, mode):
    with NbdRaw.opened(sparse.nbd_path, "disk", **mode) as client:
        assert read(client, 0, 4 * MIB) == ([TYPE_OFFSET_HOLE], bytes(4 * MIB))
        assert read(client, 8 * MIB + 512, MIB) == ([TYPE_OFFSET_HOLE], bytes(MIB))
        assert read(client, 4 * MIB, MIB) == ([TYPE_OFFSET_DATA], DATA)
        client.disconnect()


@pytest.mark.contract
def test_do_not_fragment(sparse):
    with NbdRaw.opened(sparse.nbd_path, "disk", structured=True) as client:
        assert read(client, 3 * MIB, 3 * MIB, CMD_FLAG_DF) == ([TYPE_OFFSET_DATA], bytes(MIB) + DATA + bytes(MIB))
        assert len(read(client, 0, MIB, CMD_FLAG_DF)[0]) == 1
        client.disconnect()


@pytest.mark.contract
def test_a_hole_that_is_written_and_made_again(sparse):
    """No look may be older than the request: what one client wrote, all see."""
    with NbdRaw.opened(sparse.nbd_path, "disk", structured=True) as reader, \
            NbdRaw.opened(sparse.nbd_path, "disk") as writer:
        for _ in range(5):
            assert read(reader, 8 * MIB, MIB) == ([TYPE_OFFSET_HOLE], bytes(MIB))
            assert writer.write(8 * MIB + 300 * KIB, DATA[:4 * KIB]) == 0
            assert read(reader, 8 * MIB, MIB)[1] == bytes(300 * KIB) + DATA[:4 * KIB] + bytes(MIB - 304 * KIB)
            writer.request(CMD_TRIM, 8 * MIB, MIB)
            assert writer.reply_error() == 0
        reader.disconnect()
        writer.disconnect()
