# SPDX-License-Identifier: BSD-2-Clause
"""
NBD clients that nobody here wrote, against real exports: over a unix and a TCP socket, and on each kind of node. What
they print is compared with what they must find, not just looked at.
"""

import json
import os
import pathlib
import random
import socket

import pytest

from support import images, process
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.process import need, output, run

pytestmark = pytest.mark.contract

SIZE = 16 * MIB


def qemu_map(uri, fmt="raw"):
    """(start, length, zero, data) of each extent that a client sees."""
    rows = json.loads(output("qemu-img", "map", "--output=json", "-f", fmt, uri))
    return [(row["start"], row["length"], row["zero"], row["data"]) for row in rows]


# ---- What kind of node and socket each client test runs on ----

class Disk:
    """An export named "disk" of SIZE bytes, the URI of it, and where its bytes lie in the image file."""

    def __init__(self, server, path, uri, offset=0, direct=False):
        self.server = server
        self.path = path
        self.uri = uri
        self.offset = offset
        self.direct = direct

    def content(self):
        return images.read(self.path, self.offset, SIZE)

    def compare(self, other):
        """qemu-img compare with another raw image, byte for byte."""
        text = output("qemu-img", "compare", "-f", "raw", "-F", "raw", self.uri, str(other))
        assert text.strip() == "Images are identical."


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def plain(server, tmp, shm):
    path = images.make(shm / "disk.img", SIZE)
    server.add_file("disk", path)
    return path, 0


def direct(server, tmp, shm):
    path = images.make(tmp / "disk.img", SIZE)
    server.add_file("disk", path, cache={"direct": True})
    return path, 0


def no_flush(server, tmp, shm):
    path = images.make(shm / "disk.img", SIZE)
    server.add_file("disk", path, cache={"no-flush": True}, discard="unmap")
    return path, 0


def raw_window(server, tmp, shm):
    """A raw node that shows SIZE bytes from an odd place of a bigger file."""
    path = images.make(shm / "disk.img", SIZE + 4 * MIB, seed=3)
    spec = server.file_node("file", path)
    spec.pop("node-name")
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "offset": 1 * MIB + 512, "size": SIZE,
                                    "file": spec})
    return path, 1 * MIB + 512


def raw_over_direct(server, tmp, shm):
    """The same on O_DIRECT: requests must be bounced, since they start at no multiple of a page."""
    path = images.make(tmp / "disk.img", SIZE + 4 * MIB, seed=4)
    server.add_file("below", path, cache={"direct": True})
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "offset": 512, "size": SIZE,
                                    "file": "below"})
    return path, 512


KINDS = {"file": plain, "direct": direct, "no-flush": no_flush, "raw": raw_window, "raw-direct": raw_over_direct}


@pytest.fixture(params=[(kind, "unix") for kind in KINDS] + [("file", "inet")], ids="-".join)
def disk(request, server, tmp, shm):
    kind, transport = request.param
    path, offset = KINDS[kind](server, tmp, shm)
    if transport == "unix":
        server.nbd_start()
        uri = server.uri("disk")
    else:
        port = free_port()
        server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}})
        uri = f"nbd://127.0.0.1:{port}/disk"
    server.export("disk", description="a test disk")
    return Disk(server, path, uri, offset, "direct" in kind)


@pytest.fixture
def source(tmp):
    """A local image to copy: data, a hole, zeros that are written out, data at the very end."""
    return images.make(tmp / "source.img", SIZE, mode=0o644, data=[
        (0, images.pattern(1 * MIB, 11)), (5 * MIB + 4096, images.pattern(300 * KIB, 12)), (8 * MIB, bytes(1 * MIB)),
        (SIZE - 70000, images.pattern(70000, 13))])


# ---- nbdinfo ----

def test_nbdinfo_shows_size_and_flags(disk):
    need("nbdinfo")
    info = json.loads(output("nbdinfo", "--json", disk.uri))
    export = info["exports"][0]
    assert info["protocol"] == "newstyle-fixed" and info["TLS"] is False and info["structured"] is True
    assert export["export-name"] == "disk"
    assert export["description"] == "a test disk"
    assert export["export-size"] == SIZE
    assert export["is_read_only"] is False
    assert "base:allocation" in export["contexts"]
    for flag in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
        assert export[flag] is True, flag
    assert export["block_size_maximum"] == 32 * MIB
    assert export["block_size_preferred"] >= 4096
    assert export["block_size_minimum"] in (1, 512, 4096)


@pytest.mark.parametrize("question", ["read", "write", "cache", "df", "fast-zero", "flush", "fua", "multi-conn", "trim",
                                      "zero", "structured-reply"])
def test_nbdinfo_can(nbd, image, question):
    need("nbdinfo")
    nbd.add_file("disk", image())
    nbd.export("disk")
    if question == "write":
        run("nbdinfo", "--is", "read-only", nbd.uri("disk"), status=2)
    elif question != "read":
        run("nbdinfo", "--can", question, nbd.uri("disk"))


def test_nbdinfo_map_shows_data_and_holes(nbd, image):
    need("nbdinfo")
    nbd.add_file("disk", image(data=[(1 * MIB, images.pattern(64 * KIB)), (15 * MIB, images.pattern(1 * MIB))]))
    nbd.export("disk")
    rows = json.loads(output("nbdinfo", "--map", "--json", nbd.uri("disk")))
    assert [(row["offset"], row["length"], row["type"]) for row in rows] == [
        (0, 1 * MIB, 3), (1 * MIB, 64 * KIB, 0), (1 * MIB + 64 * KIB, 14 * MIB - 64 * KIB, 3), (15 * MIB, 1 * MIB, 0)]


def test_nbdinfo_list_names_every_export(nbd, image):
    need("nbdinfo")
    for name, description in (("one", "the first"), ("two", None), ("drei", "über alles")):
        nbd.add_file(name, image(f"{name}.img", size=MIB))
        nbd.export(name, **({"description": description} if description else {}))
    info = json.loads(output("nbdinfo", "--list", "--json", nbd.uri("")))
    assert {(e["export-name"], e.get("description")) for e in info["exports"]} == {
        ("one", "the first"), ("two", None), ("drei", "über alles")}
    assert all(e["export-size"] == MIB for e in info["exports"])


def test_nbdinfo_is_refused_an_unknown_export(nbd, image):
    need("nbdinfo")
    nbd.add_file("disk", image())
    nbd.export("disk")
    assert "No such file or directory for export: other" in run("nbdinfo", nbd.uri("other"), status=1).stderr_text


# ---- nbd-client, as far as it goes without the kernel's driver ----

def test_nbd_client_lists_and_negotiates(server, image):
    """It also tells what a server says of an export that is not there."""
    need("nbd-client")
    server.add_file("disk", image(size=SIZE))
    port = free_port()
    server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}})
    server.export("disk", description="a test disk")
    server.export("disk", id="second", name="second")
    assert set(output("nbd-client", "-l", "127.0.0.1", port).splitlines()) >= {"disk: a test disk", "second"}
    found = run("nbd-client", "-N", "disk", "127.0.0.1", port, "/dev/null", status=1)  # which is no nbd device
    assert f"size = {SIZE // MIB}MB" in found.stdout_text
    missing = run("nbd-client", "-N", "other", "127.0.0.1", port, "/dev/null", status=1)
    assert "size" not in missing.stdout_text and "returned by server" in missing.stderr_text


# ---- Copies ----

@pytest.mark.qemu
@pytest.mark.parametrize("connections", [1, 2, 8])
def test_nbdcopy_in_both_directions(disk, source, tmp, connections):
    need("nbdcopy")
    copy = tmp / "copy.img"
    run("nbdcopy", f"--connections={connections}", "--flush", source, disk.uri)
    assert disk.content() == images.read(source)
    disk.compare(source)
    run("nbdcopy", f"--connections={connections}", disk.uri, copy)
    assert images.read(copy) == images.read(source)


def test_nbdcopy_destination_is_zero_copies_only_data(nbd, image, source):
    need("nbdcopy")
    path = image()
    nbd.add_file("disk", path)
    nbd.export("disk")
    run("nbdcopy", "--destination-is-zero", source, nbd.uri("disk"))
    assert images.read(path) == images.read(source)
    assert images.allocated(path) < 4 * MIB


@pytest.mark.qemu
def test_qemu_img_converts_in_both_directions_and_compares(disk, source, tmp):
    need("qemu-img")
    copy = tmp / "copy.img"
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, disk.uri)
    assert disk.content() == images.read(source)
    disk.compare(source)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", disk.uri, copy)
    assert images.read(copy) == images.read(source)
    assert "identical" in output("qemu-img", "compare", "-f", "raw", "-F", "raw", disk.uri, copy)


@pytest.mark.qemu
def test_qemu_img_converts_between_two_exports(nbd, image, source):
    need("qemu-img")
    paths = {}
    for name in ("from", "to"):
        paths[name] = image(f"{name}.img")
        nbd.add_file(name, paths[name])
        nbd.export(name)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, nbd.uri("from"))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", nbd.uri("from"), nbd.uri("to"))
    assert images.read(paths["to"]) == images.read(source)


@pytest.mark.qemu
def test_qemu_img_compare_finds_one_wrong_byte(nbd, image, source):
    need("qemu-img")
    path = image()
    nbd.add_file("disk", path)
    nbd.export("disk")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, nbd.uri("disk"))
    run("qemu-io", "-f", "raw", "-c", "write -P 1 12345678 1", nbd.uri("disk"))
    text = run("qemu-img", "compare", "-f", "raw", "-F", "raw", nbd.uri("disk"), source, status=1).stdout_text
    assert "mismatch at offset" in text


@pytest.mark.qemu
def test_qemu_img_info(disk):
    need("qemu-img")
    info = json.loads(output("qemu-img", "info", "--output=json", "-f", "raw", disk.uri))
    assert info["virtual-size"] == SIZE


@pytest.mark.qemu
def test_qemu_img_map_shows_what_is_allocated(nbd, image):
    need("qemu-img")
    nbd.add_file("disk", image(data=[(1 * MIB, images.pattern(64 * KIB))]))
    nbd.export("disk")
    assert qemu_map(nbd.uri("disk")) == [(0, MIB, True, False), (MIB, 64 * KIB, False, True),
                                         (MIB + 64 * KIB, 15 * MIB - 64 * KIB, True, False)]


@pytest.mark.qemu
def test_qemu_img_holds_another_format_inside(nbd, image, source, tmp):
    """A qcow2 image inside an export: many small unaligned-looking writes, in an order of the client's own."""
    need("qemu-img")
    nbd.add_file("disk", image(size=32 * MIB))
    nbd.export("disk")
    run("qemu-img", "create", "-f", "qcow2", nbd.uri("disk"), str(SIZE))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", source, nbd.uri("disk"))
    run("qemu-img", "check", "-f", "qcow2", nbd.uri("disk"))
    assert "identical" in output("qemu-img", "compare", "-f", "qcow2", "-F", "raw", nbd.uri("disk"), source)


# ---- qemu-io ----

@pytest.mark.qemu
def test_qemu_io_reads_what_it_wrote_at_odd_places(disk):
    """Unaligned offsets and lengths, also where O_DIRECT below wants alignment; checked from outside as well."""
    need("qemu-io")
    rng = random.Random(5)
    expected = bytearray(SIZE)
    commands = []
    run("qemu-io", "-f", "raw", "-c", f"write -z 0 {SIZE}", disk.uri)
    for _ in range(60):
        length = rng.choice([1, 511, 512, 513, 4096, 5000, 65537])
        offset = rng.randrange(SIZE - length)
        byte = rng.randrange(1, 256)
        commands += ["-c", f"write -P {byte} {offset} {length}"]
        expected[offset:offset + length] = bytes([byte]) * length
    for _ in range(10):
        offset = rng.randrange(SIZE - 70000)
        commands += ["-c", f"write -z {'-u ' if rng.random() < .5 else ''}{offset} 70000"]
        expected[offset:offset + 70000] = bytes(70000)
    run("qemu-io", "-f", "raw", *commands, "-c", "flush", disk.uri)
    assert disk.content() == bytes(expected)
    commands = []
    for _ in range(60):
        offset = rng.randrange(SIZE)
        run_length = 1
        while run_length < 9000 and offset + run_length < SIZE and expected[offset + run_length] == expected[offset]:
            run_length += 1
        commands += ["-c", f"read -P {expected[offset]} {offset} {run_length}"]
    text = output("qemu-io", "-f", "raw", *commands, disk.uri)
    assert "verification failed" not in text and text.count("ops;") == 60


@pytest.mark.qemu
def test_qemu_io_discards(nbd, shm):
    need("qemu-io")
    path = images.make(shm / "disk.img", SIZE, seed=1)
    nbd.add_file("disk", path, discard="unmap")
    nbd.export("disk")
    run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 4M 8M", nbd.uri("disk"))
    assert images.allocated(path) == SIZE - 8 * MIB
    assert images.read(path, 4 * MIB, 8 * MIB) == bytes(8 * MIB)


@pytest.mark.qemu
def test_discard_is_ignored_unless_the_node_unmaps(nbd, shm):
    need("qemu-io")
    path = images.make(shm / "disk.img", SIZE, seed=1)
    nbd.add_file("disk", path)
    nbd.export("disk")
    run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 4M 8M", nbd.uri("disk"))
    assert images.allocated(path) == SIZE


# ---- Read-only ----

@pytest.mark.qemu
@pytest.mark.parametrize("how", ["export", "node", "auto"])
def test_read_only(nbd, image, how):
    """Read-only by the export, by the node, or because the file cannot be opened for writing."""
    need("nbdinfo", "qemu-io")
    content = images.pattern(MIB)
    path = image(data=[(0, content)], mode=0o400 if how == "auto" else 0o600)
    members = {"export": {}, "node": {"read-only": True}, "auto": {"auto-read-only": True, "read-only": True}}[how]
    nbd.add_file("disk", path, **members)
    nbd.export("disk", writable=False)
    export = json.loads(output("nbdinfo", "--json", nbd.uri("disk")))["exports"][0]
    assert export["is_read_only"] is True
    run("nbdinfo", "--is", "read-only", nbd.uri("disk"))
    run("qemu-io", "-f", "raw", "-r", "-c", "read -P 0 1M 1M", nbd.uri("disk"))
    run("qemu-io", "-f", "raw", "-c", "write 0 512", nbd.uri("disk"), status=1)
    assert images.read(path, 0, MIB) == content


# ---- fio ----

def fio_nbd_engine():
    need("fio")
    if "nbd" not in output("fio", "--enghelp").split():
        pytest.skip("this fio has no nbd engine")


@pytest.mark.parametrize("block", ["--bs=4k", "--bsrange=4k-300k"])
def test_fio_random_reads_and_writes_verify(disk, block, tmp):
    fio_nbd_engine()
    run("fio", "--name=verify", "--ioengine=nbd", f"--uri={disk.uri}", "--rw=randrw", block, "--iodepth=32",
        f"--size={SIZE}", "--serialize_overlap=1", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7",
        "--fsync=64", f"--aux-path={tmp}")


def test_fio_with_four_jobs_on_their_own_parts(disk, tmp):
    """Four connections at once, each with its own part of the disk."""
    fio_nbd_engine()
    run("fio", "--name=verify", "--ioengine=nbd", f"--uri={disk.uri}", "--rw=randrw", "--bs=8k", "--iodepth=16",
        "--numjobs=4", f"--size={SIZE // 4}", f"--offset_increment={SIZE // 4}", "--io_size=8M", "--verify=crc32c",
        "--verify_fatal=1", "--do_verify=1", "--group_reporting", f"--aux-path={tmp}")


# ---- A block device below ----

@pytest.fixture
def loop_device(tmp):
    with images.loop_device(images.make(tmp / "loop.img", SIZE)) as device:
        yield device


def used_after_sync(path):
    with open(path) as file:
        os.fsync(file)
    return images.allocated(path)


def test_a_block_device_gets_its_space_back(server, tmp):
    """Zeros that may be a hole, and trims; zeros that must not be one keep their space."""
    path = images.make(tmp / "loop.img", SIZE)
    with images.loop_device(path) as device:
        if int(pathlib.Path(f"/sys/block/{device.name}/queue/discard_max_bytes").read_text()) == 0:
            pytest.skip("this loop device does not discard")
        server.add_file("disk", device, driver="host_device", discard="unmap")
        server.nbd_start().export("disk")
        with NbdRaw.opened(server.nbd_path, "disk") as client:
            assert client.write(0, images.pattern(SIZE)) == 0
            used = []
            for command, offset, flags in ((CMD_FLUSH, 0, 0), (CMD_WRITE_ZEROES, 0, 0), (CMD_TRIM, 4 * MIB, 0),
                                           (CMD_WRITE_ZEROES, 8 * MIB, CMD_FLAG_NO_HOLE)):
                for step in ((command, offset, 4 * MIB if offset or command != CMD_FLUSH else 0, flags), (CMD_FLUSH, 0, 0, 0)):
                    client.request(*step)
                    assert client.reply_error() == 0, step
                used.append(used_after_sync(path))
            assert client.read(0, 4 * MIB) == client.read(8 * MIB, 4 * MIB) == bytes(4 * MIB)
            client.disconnect()
    full, zeroed, trimmed, kept = used
    assert full >= SIZE and zeroed <= full - 4 * MIB and trimmed <= zeroed - 4 * MIB and kept >= trimmed


@pytest.mark.qemu
def test_host_device(server, loop_device, source):
    need("nbdcopy", "qemu-img")
    server.add_file("disk", loop_device, driver="host_device", cache={"direct": True}, discard="unmap")
    server.nbd_start().export("disk")
    uri = server.uri("disk")
    assert json.loads(output("nbdinfo", "--json", uri))["exports"][0]["export-size"] == SIZE
    run("nbdcopy", "--flush", source, uri)
    assert images.read(loop_device) == images.read(source)
    assert "identical" in output("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, source)
    run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -z -u 0 4M", "-c", "discard 4M 4M", "-c", "read -P 0 0 4M", uri)
