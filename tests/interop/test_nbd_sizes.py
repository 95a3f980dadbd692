# SPDX-License-Identifier: BSD-2-Clause
"""Images whose size is no multiple of what their storage likes best, as clients see them that take block sizes seriously."""

import json
import os

import pytest

from support import images, process
from support.images import KIB, MIB
from support.process import need, output, run


def qemu_map(uri):
    """(start, length, zero, data) of each extent that a client sees."""
    rows = json.loads(output("qemu-img", "map", "--output=json", "-f", "raw", uri))
    return [(row["start"], row["length"], row["zero"], row["data"]) for row in rows]


def block_sizes(uri):
    info = json.loads(output("nbdinfo", "--json", uri))["exports"][0]
    return info["export-size"], info["block_size_minimum"], info["block_size_preferred"]


@pytest.fixture
def large_blocks(tmp):
    """A folder on a file system whose device has blocks of 4096 bytes. To be named before a server, which has to go first."""
    if os.getuid() != 0:
        pytest.skip("a loop device needs root")
    need("losetup", "mkfs.ext4", "mount")
    made = run("losetup", "--find", "--show", "--sector-size", "4096", images.make(tmp / "back", 64 * MIB), status=None)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr_text.strip()}")
    device, folder = made.stdout_text.strip(), tmp / "large"
    try:
        run("mkfs.ext4", "-q", device)
        folder.mkdir()
        if (mounted := run("mount", device, folder, status=None)).returncode != 0:
            pytest.skip(f"cannot mount: {mounted.stderr_text.strip()}")
        os.chmod(folder, 0o755)
        yield folder
        process.wait_for(lambda: run("umount", folder, status=None).returncode == 0, "the file system to be free")
    finally:
        run("losetup", "--detach", device)


def check_with_clients(uri, content, tmp):
    """Copy all of it with each client, write its last sector, and look again. Returns what it is then."""
    for program in (("qemu-img", "convert", "-f", "raw", "-O", "raw"), ("nbdcopy",)):
        copy = tmp / "copy"
        run(*program, uri, copy)
        assert images.read(copy) == content
        copy.unlink()
    extents = qemu_map(uri)
    assert [start for start, _, _, _ in extents] == [0] + [start + length for start, length, _, _ in extents][:-1]
    assert sum(length for _, length, _, _ in extents) == len(content)
    last = len(content) - 512
    run("qemu-io", "-f", "raw", "-c", f"write -P 7 {last} 512", "-c", f"read -P 7 {last} 512", "-c", f"write -z {last - 512} 512",
        "-c", f"read 0 {len(content)}", uri)
    content = content[:-1024] + bytes(512) + b"\x07" * 512
    source = tmp / "source"
    source.write_bytes(content)
    assert output("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, source).strip() == "Images are identical."
    return content


@pytest.mark.qemu
@pytest.mark.parametrize("size,minimum", [(MIB, 4096), (MIB + 512, 512), (MIB + 1000, 1024), (MIB + 2048, 2048), (MIB + 4000, 4096)])
def test_the_minimum_block_divides_the_size(large_blocks, nbd, tmp, size, minimum):
    """Of cache.direct on blocks of 4096 bytes; where it does not, QEMU's client aborts."""
    need("nbdinfo", "nbdcopy")
    path = images.make(large_blocks / "disk.img", size, data=[(0, images.pattern(size, 3))])
    nbd.add_file("disk", path, cache={"direct": True}, discard="unmap")
    nbd.export("disk")
    uri = nbd.uri("disk")
    rounded = -(-size // 512) * 512
    assert block_sizes(uri) == (rounded, minimum, 4096)
    content = check_with_clients(uri, images.read(path).ljust(rounded, b"\0"), tmp)
    assert images.read(path, 0, rounded) == content


@pytest.mark.qemu
@pytest.mark.parametrize("offset,size,minimum", [(512, MIB, 512), (4096, MIB, 4096), (4096, MIB + 512, 512), (8192, MIB + 1024, 1024),
                                                 (1536, MIB + 1024, 512), (0, 512, 512)])
def test_the_minimum_block_of_a_window(large_blocks, nbd, tmp, offset, size, minimum):
    need("nbdinfo", "nbdcopy")
    path = images.make(large_blocks / "disk.img", 2 * MIB, seed=4)
    whole = images.read(path)
    nbd.add_file("below", path, cache={"direct": True})
    nbd.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "file": "below", "offset": offset, "size": size})
    nbd.export("disk")
    uri = nbd.uri("disk")
    assert block_sizes(uri) == (size, minimum, 4096)
    if size == 512:
        assert output("nbdinfo", "--map", uri).split()[:4] == ["0", "512", "0", "data"]
        return
    content = check_with_clients(uri, whole[offset:offset + size], tmp)
    assert images.read(path) == whole[:offset] + content + whole[offset + size:]


def test_the_minimum_block_follows_a_new_size(large_blocks, nbd):
    need("nbdinfo")
    nbd.add_file("disk", images.make(large_blocks / "disk.img", MIB), cache={"direct": True})
    nbd.export("disk")
    for size, minimum in ((MIB, 4096), (MIB + 512, 512), (2 * MIB, 4096), (2 * MIB + 1024, 1024)):
        nbd.qmp.cmd("block_resize", {"node-name": "disk", "size": size})
        assert block_sizes(nbd.uri("disk"))[:2] == (size, minimum)


@pytest.mark.contract
@pytest.mark.qemu
@pytest.mark.parametrize("where", ["tmpfs", "disk"])
def test_behind_the_last_byte_of_a_file_are_zeroes(nbd, image, disk_image, tmp, where):
    make = image if where == "tmpfs" else disk_image
    for name, size, data, extents in (
            ("a", 1000, [(0, b"1" * 1000)], [(0, 1000, False, True), (1000, 24, True, False)]),
            ("b", 4196, [(4096, b"1" * 100)], [(0, 4096, True, False), (4096, 100, False, True), (4196, 412, True, False)]),
            ("c", 1000, [], [(0, 1024, True, False)]),
            ("d", 64 * KIB, [(0, b"1" * 64 * KIB)], [(0, 64 * KIB, False, True)])):
        path = make(f"{name}.img", size=size, data=data)
        nbd.add_file(name, path)
        nbd.export(name)
        assert qemu_map(nbd.uri(name)) == extents
        copy = tmp / f"{name}.copy"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", nbd.uri(name), copy)
        assert images.read(copy) == images.read(path).ljust(extents[-1][0] + extents[-1][1], b"\0")
