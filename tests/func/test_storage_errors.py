# SPDX-License-Identifier: BSD-2-Clause
"""
What goes wrong below the image reaches the client as the right error, never as success or a dropped connection; and when
the trouble is over the same client goes on.
"""

import os
import struct

import pytest

from support import images, process
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.process import need, run

pytestmark = pytest.mark.contract


@pytest.fixture
def small_fs(tmp):
    """A tmpfs of 4 MiB that the service account may write to."""
    if os.getuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp / "small"
    folder.mkdir()
    made = run("mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", folder, status=None)
    if made.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr_text.strip()}")
    images.give_to_account(folder)
    yield folder
    run("umount", "-l", folder)


@pytest.fixture
def full_disk(nbd, small_fs):
    """A sparse image of 8 MiB on a file system of 4 MiB, half of which a ballast takes."""
    ballast = images.make(small_fs / "ballast", 2 * MIB, seed=1)
    path = images.make(small_fs / "disk.img", 8 * MIB)
    nbd.add_file("disk", path, discard="unmap")
    nbd.export("disk")
    return path, ballast


DROPS = pytest.mark.own("qemu-storage-daemon drops the client on an error of a structured read")


def client_of(server, **kwargs):
    return NbdRaw.opened(server.nbd_path, "disk", **kwargs)


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
def test_a_full_disk_is_enospc_and_the_client_goes_on(nbd, full_disk, structured):
    path, ballast = full_disk
    block = images.pattern(256 * KIB, 5)
    with client_of(nbd, structured=structured) as client:
        written = []
        error = 0
        for offset in range(0, 8 * MIB, len(block)):
            error = client.write(offset, block)
            if error:
                break
            written.append(offset)
        assert error == ENOSPC and written
        assert client.write(offset, block) == ENOSPC
        client.request(CMD_READ, 0, len(block))
        if not structured:
            assert client.simple_reply(len(block))[2] == block
        else:
            client.chunks()
        os.unlink(ballast)
        assert client.write(offset, block) == 0
        client.request(CMD_FLUSH)
        assert client.reply_error() == 0
    for offset in written + [offset]:
        assert images.read(path, offset, len(block)) == block


@pytest.mark.own("qemu-storage-daemon does and answers requests in any order")
@pytest.mark.parametrize("length", [8 * MIB, 1 * MIB])
def test_a_disk_that_is_full_in_the_middle_of_a_write(nbd, full_disk, length):
    """The rest of the payload is passed over, the next requests are understood, what went before them is there."""
    path, ballast = full_disk
    data = images.pattern(8 * MIB, 11)
    with client_of(nbd) as client:
        for offset in range(0, 8 * MIB, length):
            client.request(CMD_WRITE, offset, length, data=data[offset:offset + length])
        client.request(CMD_FLUSH)
        client.request(CMD_READ, 0, MIB)
        errors = [client.simple_reply()[0] for _ in range(8 * MIB // length)]
        assert ENOSPC in errors and set(errors) <= {0, ENOSPC}
        assert client.simple_reply()[0] == 0
        assert client.simple_reply(MIB)[2] == data[:MIB]
        os.unlink(ballast)
        assert client.write(6 * MIB, data[:MIB]) == 0
    done = [at for at, error in zip(range(0, 8 * MIB, length), errors) if error == 0]
    assert all(images.read(path, at, length) == data[at:at + length] for at in done if at != 6 * MIB)
    assert images.read(path, 6 * MIB, MIB) == data[:MIB]


def test_the_client_itself_frees_space_by_trim(nbd, full_disk):
    path, _ = full_disk
    block = images.pattern(MIB, 6)
    with client_of(nbd) as client:
        for offset in range(0, 8 * MIB, MIB):
            if client.write(offset, block) == ENOSPC:
                break
        else:
            pytest.fail("the disk was never full")
        client.request(CMD_TRIM, 0, MIB)
        assert client.reply_error() == 0
        assert client.write(offset, block) == 0
        assert client.read(0, MIB) == bytes(MIB)
        assert client.read(offset, MIB) == block


def test_what_is_no_hole_can_be_written_on_a_full_disk(nbd, full_disk):
    """"base:allocation": without NBD_STATE_HOLE there is space already."""
    with client_of(nbd, structured=True, contexts=["base:allocation"]) as client:
        offset = 0
        while client.write(offset, images.pattern(256 * KIB, 9)) == 0:
            offset += 512 * KIB
        client.request(CMD_BLOCK_STATUS, 0, 8 * MIB)
        [payload] = [payload for kind, payload in client.chunks() if kind == TYPE_BLOCK_STATUS]
        at = 0
        for length, state in struct.iter_unpack(">II", payload[4:]):
            assert state & 1 or client.write(at, b"w" * length) == 0
            at += length
        assert client.write(offset, b"w" * 256 * KIB) == ENOSPC


def test_write_zeroes_on_a_full_disk(nbd, full_disk):
    """NO_HOLE wants the space; it is not there. Without NO_HOLE zeros cost nothing."""
    with client_of(nbd) as client:
        client.request(CMD_WRITE_ZEROES, 0, 8 * MIB, CMD_FLAG_NO_HOLE)
        assert client.reply_error() == ENOSPC
        client.request(CMD_WRITE_ZEROES, 0, 8 * MIB)
        assert client.reply_error() == 0
        assert client.read(0, MIB) == bytes(MIB)


def test_the_other_exports_do_not_notice_a_full_disk(nbd, full_disk, image):
    nbd.add_file("other", image(size=8 * MIB))
    nbd.export("other")
    with client_of(nbd) as client, NbdRaw.opened(nbd.nbd_path, "other") as other:
        while client.write(0, images.pattern(8 * MIB, 7)) == 0:
            pass
        for offset in range(0, 8 * MIB, MIB):
            assert other.write(offset, b"o" * MIB) == 0


@pytest.mark.qemu
def test_qemu_io_sees_enospc(nbd, full_disk):
    need("qemu-io")
    done = run("qemu-io", "-f", "raw", "-c", "write 0 8M", nbd.uri("disk"), status=1)
    assert "No space left on device" in done.stdout_text + done.stderr_text


def test_nbdcopy_onto_a_full_disk_fails(nbd, full_disk, tmp):
    need("nbdcopy")
    source = images.make(tmp / "source.img", 8 * MIB, seed=9, mode=0o644)
    done = run("nbdcopy", source, nbd.uri("disk"), status=None)
    assert done.returncode != 0 and "No space left on device" in done.stderr_text


# ---- Injected errors ----

def inject(server, path, **rule):
    """A blkdebug node over the image, exported as "disk"."""
    below = server.file_node("below", path)
    server.qmp.cmd("blockdev-add", below)
    server.qmp.cmd("blockdev-add", {"driver": "blkdebug", "node-name": "disk", "image": "below", "discard": "unmap",
                                    "inject-error": [{"event": "none", "iotype": rule.pop("iotype"),
                                                      "errno": rule.pop("errno", 5), **rule}]})
    server.export("disk")


REQUESTS = {
    "read": lambda client: (client.request(CMD_READ, 4096, 4096), client.reply_error(4096))[1],
    "write": lambda client: client.write(4096, b"w" * 4096),
    "write-zeroes": lambda client: (client.request(CMD_WRITE_ZEROES, 4096, 4096), client.reply_error())[1],
    "discard": lambda client: (client.request(CMD_TRIM, 4096, 4096), client.reply_error())[1],
    "flush": lambda client: (client.write(0, b"w"), client.request(CMD_FLUSH), client.reply_error())[2],
    "block-status": lambda client: (client.request(CMD_BLOCK_STATUS, 4096, 4096), client.reply_error())[1],
}


@pytest.mark.parametrize("iotype,structured", [(iotype, False) for iotype in REQUESTS if iotype != "block-status"] + [
    pytest.param(iotype, True, marks=[DROPS] if iotype == "read" else []) for iotype in REQUESTS])
def test_an_io_error_is_eio_and_the_client_goes_on(nbd, image, iotype, structured):
    inject(nbd, image(seed=2), iotype=iotype, once=True)
    with client_of(nbd, structured=structured, contexts=["base:allocation"] if structured else ()) as client:
        assert REQUESTS[iotype](client) == EIO
        assert REQUESTS[iotype](client) == 0
        for other in REQUESTS:
            if structured or other != "block-status":
                assert REQUESTS[other](client) == 0


OTHERS = pytest.mark.own("qemu-storage-daemon says EINVAL, which blames the client's request for a fault of the storage")


@pytest.mark.parametrize("code,wire", [(5, EIO), (28, ENOSPC), (12, ENOMEM), (1, EPERM), (30, EPERM),
                                       pytest.param(116, EIO, marks=OTHERS), pytest.param(61, EIO, marks=OTHERS)])
def test_errors_are_translated_to_those_of_the_protocol(nbd, image, code, wire):
    inject(nbd, image(), iotype="write", errno=code)
    with client_of(nbd) as client:
        for _ in range(3):
            assert client.write(0, b"w" * 512) == wire
        assert client.read(0, 512) == bytes(512)


def test_an_error_at_one_sector_hits_only_requests_that_touch_it(nbd, image):
    path = image(data=[(0, b"r" * MIB)])
    inject(nbd, path, iotype="read", sector=8)
    with client_of(nbd) as client:
        for offset, length, error in ((0, 4096, 0), (4096, 512, EIO), (0, 8192, EIO), (4608, 4096, 0), (4096, 4096, EIO)):
            client.request(CMD_READ, offset, length)
            assert client.reply_error(length) == error, (offset, length)


def test_errors_of_one_request_leave_those_in_flight_alone(nbd, image):
    path = image(data=[(0, b"r" * MIB)])
    inject(nbd, path, iotype="read", sector=8)
    with client_of(nbd) as client:
        cookies = {client.request(CMD_READ, n * 512, 512): n for n in range(64)}
        for _ in range(64):
            error, cookie, data = client.simple_reply(512)
            assert error == (EIO if cookies.pop(cookie) == 8 else 0)


@pytest.mark.qemu
def test_qemu_io_sees_eio(nbd, image):
    need("qemu-io")
    inject(nbd, image(seed=2), iotype="read", sector=0)
    done = run("qemu-io", "-f", "raw", "-c", "read 0 512", nbd.uri("disk"), status=1)
    assert "Input/output error" in done.stdout_text + done.stderr_text


# ---- An image that changes under us ----

@pytest.mark.own("qemu-storage-daemon asks the file's size again")
@pytest.mark.parametrize("kind", ["tmpfs", "cached", "direct"])
@pytest.mark.parametrize("end", [MIB + 1000, MIB + 512, MIB, 0])
def test_an_image_that_shrank_reads_as_zeros_and_harms_nobody(nbd, image, disk_image, kind, end):
    """Small reads and large ones, across the end and wholly behind it, go different ways."""
    path = (image if kind == "tmpfs" else disk_image)(size=4 * MIB, seed=3)
    nbd.add_file("disk", path, cache={"direct": kind == "direct"})
    nbd.export("disk")
    with client_of(nbd) as client:
        os.truncate(path, end)
        left = images.read(path)
        for offset in (0, MIB - 4096, MIB, MIB + 513, 2 * MIB, 3 * MIB - 1):
            for length in (512, 4096, 64 * KIB, MIB):
                assert client.read(offset, length) == left[offset:offset + length].ljust(length, b"\0"), (offset, length)
        assert client.write(3 * MIB, b"w" * 4096) == 0
        assert client.read(3 * MIB, 4096) == b"w" * 4096


def test_a_deleted_image_goes_on_being_served(nbd, image):
    path = image(data=[(0, b"content")])
    nbd.add_file("disk", path)
    nbd.export("disk")
    with client_of(nbd) as client:
        os.unlink(path)
        assert client.read(0, 7) == b"content"
        assert client.write(0, b"changed") == 0
        assert client.read(0, 7) == b"changed"


def allocated(path):
    return os.stat(path).st_blocks * 512


def read_all(client, size, step):
    return b"".join(client.read(offset, step) for offset in range(0, size, step))


@pytest.mark.own("qemu-storage-daemon does not map images")
def test_an_image_in_memory_that_is_cut_while_it_is_used(nbd, image):
    """What was read often in small pieces comes from a mapping of the image: it breaks, and the client does not notice."""
    path = image(size=2 * MIB, seed=3)
    whole = images.read(path, 0, 2 * MIB)
    nbd.add_file("disk", path)
    nbd.export("disk")
    with client_of(nbd) as client:
        for _ in range(4):
            assert read_all(client, 2 * MIB, 4 * KIB) == whole
        os.truncate(path, MIB)
        assert read_all(client, 2 * MIB, 4 * KIB) == whole[:MIB] + bytes(MIB)
        block = images.pattern(4 * KIB, 9)
        assert client.write(2 * MIB - len(block), block) == 0
        assert images.read(path, 2 * MIB - len(block), len(block)) == block
        assert allocated(path) == MIB + len(block)
        for _ in range(4):
            assert client.read(0, 4 * KIB) == whole[:4 * KIB]
    process.wait_for(lambda: "an image was made smaller, or its memory failed" in nbd.log_text(), "a warning in the log")


def test_reading_a_sparse_image_in_memory_again_and_again_allocates_nothing(nbd, image):
    path = image(size=2 * MIB)
    nbd.add_file("disk", path, discard="unmap")
    nbd.export("disk")
    block = images.pattern(64 * KIB, 4)
    with client_of(nbd) as client:
        assert client.write(MIB - len(block), block) == 0
        for _ in range(4):
            assert read_all(client, 2 * MIB, 4 * KIB) == bytes(MIB - len(block)) + block + bytes(MIB)
        assert allocated(path) == len(block)
