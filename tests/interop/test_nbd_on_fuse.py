# SPDX-License-Identifier: BSD-2-Clause
"""NBD exports of files that another daemon shows by FUSE: such a file system can what it says when it is asked."""

import pytest

from support import fuse, images
from support.images import MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

SIZE = 16 * MIB

pytestmark = pytest.mark.qemu


@pytest.fixture(params=["qsd", "bulkhead"])
def below(request, new_server, image, tmp):
    """(a server, a file that another daemon shows, the image that it is in truth)"""
    fuse.need()
    server = new_server().start().nbd_start()  # the first to go
    path = image(size=SIZE, data=[(0, images.pattern(SIZE, 5))])
    point = fuse.mount_point(tmp / "shown.img")
    other = new_server(kind=request.param).start()
    other.add_file("disk", path, discard="unmap")
    fuse.export(other, "disk", point)
    return server, point, path


def error_of(client, command, offset, length, flags=0):
    client.request(command, offset, length, flags)
    return client.reply_error()


def test_discards_and_zeroes_give_space_back(below):
    """Also where a hole behind the end of the file is refused, as by qemu-storage-daemon."""
    server, point, path = below
    server.add_file("disk", point, discard="unmap")
    server.export("disk")
    content = images.read(path)
    before = images.allocated(path)
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert error_of(client, CMD_TRIM, 0, 4 * MIB) == 0
        assert images.allocated(path) <= before - 4 * MIB
        assert error_of(client, CMD_WRITE_ZEROES, 4 * MIB, 4 * MIB) == 0
        assert images.allocated(path) <= before - 8 * MIB
        assert error_of(client, CMD_WRITE_ZEROES, 8 * MIB, MIB, CMD_FLAG_NO_HOLE) == 0
        client.disconnect()
    assert images.read(path) == bytes(9 * MIB) + content[9 * MIB:]


def test_without_unmap_nothing_is_given_back(below):
    server, point, path = below
    server.add_file("disk", point)
    server.export("disk")
    content = images.read(path)
    before = images.allocated(path)
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert error_of(client, CMD_TRIM, 0, 4 * MIB) == 0
        assert images.read(path) == content
        client.disconnect()
    assert images.allocated(path) == before
