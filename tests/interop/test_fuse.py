# SPDX-License-Identifier: BSD-2-Clause
"""FUSE exports as clients see them: a regular file that programs of others read, write, resize and mount."""

import errno
import json
import os
import pathlib
import re
import stat

import pytest

from support import fuse, guest, images, locks, process, sandbox
from support.fuse import as_account, mount_point, mounts_on, output, python
from support.images import KIB, MIB, pattern
from support.nbdraw import NbdRaw
from support.process import wait_for
from support.qmp import QmpError
from support.server import ACCOUNT, give_to_account

SIZE = 64 * MIB


@pytest.fixture(autouse=True)
def needs_fuse():
    fuse.need()


@pytest.fixture
def point(tmp):
    return mount_point(tmp / "mnt.img")


@pytest.fixture(params=["memory", "disk", "direct"])
def anywhere(request, server, image, disk_image):
    """A node over an image in memory, in a disk's page cache, or on a disk with O_DIRECT."""
    make = image if request.param == "memory" else disk_image
    path = make("disk.img", size=SIZE)
    members = {"cache": {"direct": True}} if request.param == "direct" else {}
    try:
        server.add_file("disk", path, discard="unmap", **members)
    except QmpError as error:
        if request.param == "direct" and "O_DIRECT" in str(error):
            pytest.skip("this disk's file system has no O_DIRECT")
        raise
    return path


@pytest.fixture
def disk(server, image):
    path = image("disk.img", size=SIZE)
    server.add_file("disk", path, discard="unmap")
    return path


# ---- Programs of others ----

@pytest.mark.qemu
def test_qemu_img_takes_it_for_a_raw_image(server, anywhere, point, tmp):
    process.need("qemu-img")
    fuse.export(server, "disk", point)
    info = json.loads(output("qemu-img", "info", "--output=json", "-f", "raw", point))
    assert info["virtual-size"] == SIZE
    source = images.make(tmp / "source.img", SIZE, seed=7)
    os.truncate(source, SIZE)
    as_account("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, point)
    as_account("qemu-img", "compare", "-f", "raw", "-F", "raw", source, point)
    as_account("qemu-img", "convert", "-f", "raw", "-O", "qcow2", point, tmp / "copy.qcow2")
    as_account("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, tmp / "copy.qcow2")
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    as_account("cmp", source, anywhere)


@pytest.mark.parametrize("flags", [(), ("oflag=direct", "iflag=direct")])
@pytest.mark.parametrize("block", ["4k", "1M", "4M", "512"])
def test_dd_in_and_out(server, anywhere, point, tmp, flags, block):
    fuse.export(server, "disk", point)
    source = images.make(tmp / "source.img", 4 * MIB, seed=3)
    count = min(4 * MIB // {"4k": 4096, "1M": MIB, "4M": 4 * MIB, "512": 512}[block], 512)
    out = [f for f in flags if f[0] == "o"]
    into = [f for f in flags if f[0] == "i"]
    as_account("dd", f"if={source}", f"of={point}", f"bs={block}", f"count={count}", "conv=notrunc,fsync", *out)
    as_account("dd", f"if={point}", f"of={tmp}/back.img", f"bs={block}", f"count={count}", *into)
    size = os.path.getsize(tmp / "back.img")
    assert images.read(tmp / "back.img") == images.read(source, 0, size)
    assert images.read(anywhere, 0, size) == images.read(source, 0, size)


def test_cp_keeps_what_is_sparse(server, anywhere, point, tmp):
    with open(anywhere, "r+b") as image:
        for offset in (0, 8 * MIB, SIZE - 64 * KIB):
            image.seek(offset)
            image.write(pattern(64 * KIB))
    fuse.export(server, "disk", point)
    as_account("cp", "--sparse=auto", point, tmp / "copy.img")
    assert os.path.getsize(tmp / "copy.img") == SIZE
    assert images.allocated(tmp / "copy.img") < MIB
    as_account("cmp", point, tmp / "copy.img")


@pytest.mark.parametrize("engine_args", [
    ["--ioengine=psync"], ["--ioengine=libaio", "--iodepth=16"], ["--ioengine=io_uring", "--iodepth=16"],
    ["--ioengine=psync", "--numjobs=4", "--size=8M", "--offset_increment=8M"]],
    ids=["psync", "libaio", "io_uring", "jobs"])
@pytest.mark.parametrize("direct", [0, 1])
def test_fio_verifies(server, anywhere, point, tmp, engine_args, direct):
    process.need("fio")
    fuse.export(server, "disk", point)
    as_account("fio", "--name=verify", f"--filename={point}", "--rw=randrw", "--bs=4k-256k", "--bs_unaligned=0",
               f"--direct={direct}", "--verify=crc32c", "--verify_fatal=1", "--size=32M", f"--aux-path={tmp}",
               "--allow_file_create=0", "--fsync=64", *engine_args)


@pytest.mark.parametrize("kind", ["cached", "direct", "in-memory"])
def test_fsx_for_100000_operations(server, disk_image, image, point, tmp, kind):
    """
    The file system exerciser of xfstests: reads, writes, truncates, fallocates of any size and alignment. No
    distribution has a package of it; BULKHEAD_FSX says where it is, if it is not among the usual programs.
    """
    program = os.environ.get("BULKHEAD_FSX") or "fsx"
    process.need(program)
    members = {"cache": {"direct": True}} if kind == "direct" else {}
    path = (image if kind == "in-memory" else disk_image)("disk.img", size=MIB)
    server.add_file("disk", path, discard="unmap", **members)
    fuse.export(server, "disk", point, growable=True)
    logs = tmp / "logs"
    logs.mkdir(mode=0o777)
    os.chmod(logs, 0o777)
    count = 30000 if kind == "direct" else 100000
    text = output(program, "-P", logs, "-R", "-W", "-q", "-l", "3000000", "-N", str(count), point, timeout=170)
    assert f"All {count} operations completed A-OK" in text
    as_account("cmp", point, path)


def test_file_system_in_it_is_mounted_through_a_loop_device(server, disk, point, tmp):
    process.need("mkfs.ext4", "losetup", "fsck.ext4", "mount")
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    where = tmp / "mounted"
    where.mkdir()
    with fuse.fuse_conf("user_allow_other\n"):
        fuse.export(server, "disk", point, **{"allow-other": "on"})
    process.run("mkfs.ext4", "-q", "-F", point)
    loop = process.output("losetup", "--find", "--show", point).strip()
    try:
        process.run("mount", loop, where)
        try:
            for i in range(50):
                (where / f"file{i}").write_bytes(pattern(100 * KIB, i))
            process.run("sync", "-f", where)
            with pytest.raises(QmpError, match="still in use"):
                server.qmp.cmd("block-export-del", {"id": "exp-disk"})
        finally:
            process.run("umount", where)
        process.run("fsck.ext4", "-f", "-n", loop)
        # A process that is just being put into a mount namespace of its own may still have the mount in there.
        wait_for(lambda: process.run("mount", "-o", "ro", loop, where, status=None).returncode == 0, "a second mount")
        try:
            for i in range(50):
                assert (where / f"file{i}").read_bytes() == pattern(100 * KIB, i)
        finally:
            process.run("umount", where)
    finally:
        process.run("losetup", "-d", loop)
    wait_for(lambda: loop not in process.output("losetup", "-a"), "the loop device to let go")
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    process.run("fsck.ext4", "-f", "-n", disk)


@pytest.mark.parametrize("options", [[], ["--direct-io=on"], ["--direct-io=on", "--sector-size=4096"]], ids=" ".join)
def test_loop_device_over_it_trims_and_zeroes(server, image, point, tmp, options):
    """Through the page cache and past it, with large sectors; the image is in memory, where no range can be zeroed in place."""
    process.need("mkfs.ext4", "e2fsck", "losetup", "fstrim", "blkdiscard")
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    path = image("disk.img", size=96 * MIB)
    server.add_file("disk", path, discard="unmap")
    with fuse.fuse_conf("user_allow_other\n"):
        fuse.export(server, "disk", point, **{"allow-other": "on"})
    where = tmp / "mounted"
    where.mkdir()
    data = pattern(20 * MIB, 3)
    loop = process.output("losetup", "--find", "--show", *options, point).strip()
    try:
        process.run("mkfs.ext4", "-q", "-F", loop)
        process.run("mount", "-o", "discard", loop, where)
        try:
            (where / "data").write_bytes(data)
            process.run("sync", "-f", where)
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
            assert (where / "data").read_bytes() == data
            full = images.allocated(path)
            (where / "data").unlink()
            process.run("sync", "-f", where)
            process.run("fstrim", where)
        finally:
            process.run("umount", where)
        assert images.allocated(path) <= full - 18 * MIB
        process.run("e2fsck", "-f", "-n", loop)
        # A process that is just being put into a mount namespace of its own may still have the mount in there.
        wait_for(lambda: process.run("blkdiscard", "-f", "-z", "-l", str(MIB), loop, status=None).returncode == 0,
                 "the loop device to be free")
    finally:
        process.run("losetup", "-d", loop)
    assert images.read(path, 0, MIB) == bytes(MIB)
    wait_for(lambda: loop not in process.output("losetup", "-a"), "the loop device to let go")


@pytest.mark.guest
@pytest.mark.qemu
def test_guest_boots_from_it(server, image, point, tmp):
    """
    Everything that a virtual machine needs is on the exported disk, made there by programs of others: its firmware finds
    the boot loader, that one kernel and initramfs, and these the root file system, which the guest then writes to. The
    image by itself is in order afterwards, and holds what the guest has written.
    """
    path = image("disk.img", size=80 * MIB)
    server.add_file("disk", path, discard="unmap")
    with fuse.fuse_conf("user_allow_other\n"):
        fuse.export(server, "disk", point, **{"allow-other": "on"})
    guest.boot_disk(point, tmp, guest.WRITE_A_FILE, as_account)
    said = guest.Guest(tmp, None, ["-drive", f"file={point},format=raw,if=none,id=d,cache=none", "-device",
                                   "virtio-blk-pci,drive=d,bootindex=1"]).finish()
    as_account("cmp", point, path)
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    guest.check_file(path, tmp, said)


# ---- Attributes ----

def test_stat_and_du_show_size_and_allocation(server, anywhere, point):
    fuse.export(server, "disk", point)
    assert output("stat", "-c", "%s %b %a %U %h %F", point).split()[:4] == [str(SIZE), "0", "600", ACCOUNT]
    as_account("dd", "if=/dev/urandom", f"of={point}", "bs=1M", "count=3", "seek=5", "conv=notrunc,fsync")
    assert int(output("du", "-k", point).split()[0]) == 3072
    assert int(output("du", "-k", "--apparent-size", point).split()[0]) == SIZE // KIB
    assert int(output("stat", "-c", "%b", point)) * 512 == images.allocated(anywhere)


def test_times_follow_the_image(server, disk, point):
    fuse.export(server, "disk", point)
    os.utime(disk, (1000000000, 1000000000))
    assert output("stat", "-c", "%Y", point).strip() == "1000000000"
    as_account("dd", "if=/dev/zero", f"of={point}", "bs=4k", "count=1", "conv=notrunc")
    assert output("stat", "-c", "%Y", point).strip() != "1000000000"


def test_mode_may_be_what_the_mount_holds(server, disk, point):
    fuse.export(server, "disk", point)
    as_account("chmod", "400", point)
    assert output("stat", "-c", "%a", point).strip() == "400"
    assert "Operation not permitted" in as_account("chmod", "644", point, status=1).stderr_text
    assert "not supported" in python("""
try:
    os.chown(sys.argv[1], -1, os.getgid())
except OSError as e:
    print(e)""", point)


def test_read_only_file_cannot_be_made_writable(server, disk, point):
    fuse.export(server, "disk", point, writable=False)
    assert output("stat", "-c", "%a", point).strip() == "400"
    assert "Read-only file system" in as_account("chmod", "600", point, status=1).stderr_text


def test_allow_other_lets_others_in_as_far_as_owner_and_mode_say(server, disk, point):
    if os.getuid() != 0:
        pytest.skip("needs two accounts")
    with fuse.fuse_conf("user_allow_other\n"):
        fuse.export(server, "disk", point, **{"allow-other": "auto"})
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert "Permission denied" in process.run(*nobody, "dd", f"if={point}", "count=1", status=1).stderr_text
    as_account("chmod", "644", point)
    process.run(*nobody, "dd", f"if={point}", "of=/dev/null", "count=1")
    os.chown(point, 65534, 65534)
    assert os.stat(point).st_uid == 65534
    process.run(*nobody, "dd", "if=/dev/zero", f"of={point}", "count=1", "conv=notrunc")


def test_without_allow_other_not_even_root_gets_in(server, disk, point):
    if os.getuid() != 0:
        pytest.skip("needs root")
    with fuse.fuse_conf("# nothing\n"):
        fuse.export(server, "disk", point, **{"allow-other": "auto"})
    with pytest.raises(PermissionError):
        os.stat(point)


def test_file_system_statistics_show_how_full_the_image_is(server, anywhere, point):
    fuse.export(server, "disk", point)
    as_account("dd", "if=/dev/urandom", f"of={point}", "bs=1M", "count=16", "conv=notrunc,fsync")
    blocks, free, block_size = map(int, output("stat", "-f", "-c", "%b %f %S", point).split())
    assert blocks * block_size == SIZE
    assert abs((blocks - free) * block_size - 16 * MIB) < 256 * KIB


# ---- Reading and writing ----

def test_end_of_the_file(server, anywhere, point):
    """Reads and writes stop at the end; behind it the disk is full."""
    fuse.export(server, "disk", point)
    text = python("""
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(fd).st_size
print(len(os.pread(fd, 1000, size - 100)), len(os.pread(fd, 10, size)), len(os.pread(fd, 10, size + 5)))
print(os.pwrite(fd, b'x' * 1000, size - 100))
for offset in (size, size + 100):
    try:
        os.pwrite(fd, b'x', offset)
    except OSError as e:
        print(errno.errorcode[e.errno])
""", point)
    assert text.split() == ["100", "0", "0", "100", "ENOSPC", "ENOSPC"]
    assert os.path.getsize(anywhere) == SIZE


def test_any_alignment(server, anywhere, point):
    """Also where the image is O_DIRECT: parts of blocks are read, modified and written."""
    fuse.export(server, "disk", point)
    text = python("""
import random
rnd = random.Random(1)
size = 300000
model = bytearray(size)
fd = os.open(sys.argv[1], os.O_RDWR)
for i in range(300):
    at = rnd.randrange(size - 1)
    data = rnd.randbytes(rnd.randrange(1, min(70000, size - at)))  if size - at > 1 else b'x'
    assert os.pwrite(fd, data, at) == len(data)
    model[at:at + len(data)] = data
    at = rnd.randrange(size)
    n = rnd.randrange(1, size - at + 1)
    assert os.pread(fd, n, at) == model[at:at + n]
print('same', os.pread(fd, size, 0) == model)
""", point)
    assert text == "same True\n"


def length_is(path, size):
    """With O_DIRECT whole blocks are written, so that the last one may be longer than the file that clients see."""
    return 0 <= os.path.getsize(path) - size < 4096


@pytest.mark.parametrize("bytes_at_once", [100, 4096, 300000, 3 * MIB])
def test_growable_file_grows(server, anywhere, point, bytes_at_once):
    fuse.export(server, "disk", point, growable=True)
    text = python("""
n = int(sys.argv[2])
with open(sys.argv[1], 'ab', buffering=0) as f:
    size = os.fstat(f.fileno()).st_size
    for i in range(5):
        assert f.write(bytes([i + 1]) * n) == n
    assert os.fstat(f.fileno()).st_size == size + 5 * n
with open(sys.argv[1], 'rb') as f:
    f.seek(size)
    print(f.read() == b''.join(bytes([i + 1]) * n for i in range(5)))
""", point, bytes_at_once)
    assert text == "True\n"
    assert length_is(anywhere, SIZE + 5 * bytes_at_once)


def test_file_of_any_length_is_copied_into_a_growable_one(server, anywhere, point, tmp):
    source = images.make(tmp / "source", 1234567, seed=1)
    os.truncate(source, 1234567)
    fuse.export(server, "disk", point, growable=True)
    as_account("cp", source, point)
    as_account("cmp", source, point)
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    assert length_is(anywhere, 1234567)
    as_account("cmp", "-n", "1234567", source, anywhere)


def test_what_is_written_beyond_a_gap_leaves_zeros(server, disk, point):
    fuse.export(server, "disk", point, growable=True)
    as_account("dd", "if=/dev/zero", f"of={point}", "bs=1", "count=1", f"seek={SIZE + 9999}", "conv=notrunc")
    assert os.path.getsize(disk) == SIZE + 10000
    assert images.read(disk, SIZE) == bytes(10000)


@pytest.mark.parametrize("growable", [False, True])
def test_truncating(server, anywhere, point, growable):
    """The size may be set where nobody else relies on it, also without growable: as by block_resize."""
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point, growable=growable)
    for size in (SIZE + 12345, 1000, 0, 99999):
        as_account("truncate", f"--size={size}", point)
        assert output("stat", "-c", "%s", point).strip() == str(size)
        assert os.path.getsize(anywhere) == size
    assert images.read(anywhere) == bytes(99999)


# ---- Opened to be emptied, and other ways to another size ----

@pytest.fixture(params=["file", "window", "device", "nothing"])
def fixed(request, server, image):
    """A node that has a size of its own, 8 MiB; the image below, if there is one, and where in it the node begins."""
    if request.param == "nothing":
        server.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 8 * MIB, "read-zeroes": True})
        yield None, 0
        return
    path = images.make(image("disk.img", size=16 * MIB), 16 * MIB, seed=5)
    if request.param == "window":
        server.add_file("disk", path, discard="unmap")
        server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "n", "file": "disk", "offset": MIB,
                                        "size": 8 * MIB})
        yield path, MIB
        return
    os.truncate(path, 8 * MIB)
    if request.param == "file":
        server.add_file("n", path, discard="unmap")
        yield path, 0
        return
    with images.loop_device(path) as device:
        server.qmp.cmd("blockdev-add", {"driver": "host_device", "node-name": "n", "filename": str(device),
                                        "discard": "unmap"})
        yield device, 0


of_fixed_size = pytest.mark.parametrize("fixed", ["window", "device", "nothing"], indirect=True)

OPEN_TO_EMPTY = """
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_WRONLY | os.O_CREAT):
    fd = os.open(sys.argv[1], flags | os.O_TRUNC)
    print(os.fstat(fd).st_size, os.stat(sys.argv[1]).st_size)
    os.close(fd)"""


def test_file_that_cannot_grow_is_not_emptied_by_who_opens_it_to_write(server, fixed, point):
    """dd, cp and a shell's ">" open with O_TRUNC. As with qemu-storage-daemon nothing is lost by that."""
    path, offset = fixed
    before = path and images.read(path)
    fuse.export(server, "n", point)
    assert python(OPEN_TO_EMPTY, point).split() == [str(8 * MIB)] * 8
    as_account("sh", "-c", f": >{point}")
    assert output("stat", "-c", "%s", point).strip() == str(8 * MIB)
    assert path is None or images.read(path) == before


def test_file_of_the_same_size_is_copied_into_one_that_cannot_grow(server, fixed, point, tmp):
    path, offset = fixed
    source = images.make(tmp / "source", 8 * MIB, seed=9)
    fuse.export(server, "n", point)
    for program in (["dd", f"if={source}", f"of={point}", "bs=64k", "conv=fsync"], ["cp", source, point]):
        as_account(*program)
        assert output("stat", "-c", "%s", point).strip() == str(8 * MIB)
        assert path is None or images.read(path, offset, 8 * MIB) == images.read(source)


def test_growable_file_is_emptied_by_who_opens_it_so(server, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point, growable=True)
    as_account("sh", "-c", f"printf words >{point}")
    assert output("stat", "-c", "%s", point).strip() == "5"
    assert as_account("cat", point).stdout_text == "words" and length_is(anywhere, 5)


@of_fixed_size
def test_what_has_a_fixed_size_keeps_it_though_its_export_is_growable(server, fixed, point):
    fuse.export(server, "n", point, growable=True)
    assert python(OPEN_TO_EMPTY, point).split() == [str(8 * MIB)] * 8


RESIZE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
path, size = sys.argv[1], os.stat(sys.argv[1]).st_size
fd = os.open(path, os.O_RDWR)


def fallocate(mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), 'fallocate')


def attempt(name, call, *args):
    try:
        call(*args)
        result = 'ok'
    except OSError as error:
        result = errno.errorcode[error.errno]
    changed = os.stat(path).st_size - size
    print(name, result, changed)
    if changed != 0:
        os.truncate(path, size)


attempt('truncate-0', os.truncate, path, 0)
attempt('truncate-less', os.truncate, path, 65536)
attempt('ftruncate-0', os.ftruncate, fd, 0)
attempt('ftruncate-less', os.ftruncate, fd, 65536)
attempt('ftruncate-more', os.ftruncate, fd, size + 100)
for name, mode in dict(allocate=0, keep=1, zero=0x10, zero_keep=0x11, punch=3, collapse=8, insert=0x20).items():
    attempt(name + '-within', fallocate, mode, 65536, 65536)
    attempt(name + '-across', fallocate, mode, size - 4096, 8192)
    attempt(name + '-beyond', fallocate, mode, size + 4096, 4096)
attempt('write-across', os.pwrite, fd, bytes(8192), size - 4096)
attempt('write-beyond', os.pwrite, fd, bytes(4096), size + 4096)
"""


def resized_by(point, **members):
    lines = [line.split() for line in python(RESIZE, point).splitlines()]
    return {name: (result, int(changed)) for name, result, changed in lines}


def test_size_of_a_file_follows_who_sets_it(server, disk, point):
    """What sets a size by its nature does, and what writes or keeps the size does not."""
    fuse.export(server, "disk", point)
    got = resized_by(point)
    assert {name: change for name, (result, change) in got.items() if change != 0} == {
        "truncate-0": -SIZE, "truncate-less": 65536 - SIZE, "ftruncate-0": -SIZE, "ftruncate-less": 65536 - SIZE,
        "ftruncate-more": 100, "allocate-across": 4096, "allocate-beyond": 8192, "zero-across": 4096,
        "zero-beyond": 8192}
    assert {name: result for name, (result, change) in got.items() if result != "ok"} == {
        **{f"{mode}-{where}": "ENOTSUP" for mode in ("collapse", "insert") for where in ("within", "across", "beyond")},
        "write-beyond": "ENOSPC"}


@of_fixed_size
def test_fixed_size_is_changed_by_nothing(server, fixed, point):
    fuse.export(server, "n", point)
    got = resized_by(point)
    assert {change for result, change in got.values()} == {0}
    for name in ("truncate-0", "ftruncate-0", "ftruncate-less", "ftruncate-more", "allocate-across", "zero-across",
                 "zero-beyond", "collapse-within", "insert-within"):
        assert got[name][0] == "ENOTSUP", name
    for name in ("zero-within", "zero_keep-across", "write-across"):
        assert got[name][0] == "ok", name
    assert got["write-beyond"][0] == "ENOSPC"


TRUNCATE = """
try:
    os.truncate(sys.argv[1], 1 << 20)
except OSError as error:
    print(error.strerror)"""


def test_other_programs_that_rely_on_the_size_keep_it(server, disk, point):
    """As NBD exports of qemu-storage-daemon do, which share all of an image but its size."""
    fuse.export(server, "disk", point)
    with locks.held(disk, 200 + locks.RESIZE):
        assert python(TRUNCATE, point) != ""
        assert os.stat(disk).st_size == SIZE
        wait_for(lambda: "wanted to change the size" in server.log_text(), "the reason in the log")
    assert python(TRUNCATE, point) == ""
    assert os.stat(disk).st_size == MIB
    assert 100 + locks.RESIZE not in locks.locked_bytes(disk)


def test_growable_export_has_the_right_to_resize_as_long_as_it_lives(server, disk, point):
    ident = fuse.export(server, "disk", point, growable=True)
    assert 100 + locks.RESIZE in locks.locked_bytes(disk)
    server.qmp.cmd("block-export-del", {"id": ident})
    assert 100 + locks.RESIZE not in locks.locked_bytes(disk)
    with locks.held(disk, 200 + locks.RESIZE):
        refused(server, point, "resize", growable=True, writable=True)


# Lines "offset flags"; files stay open, since closing one makes its data stable.
WRITER = """
import os, sys
files = []
for line in sys.stdin:
    offset, flags = map(int, line.split())
    files.append(os.open(sys.argv[1], os.O_RDWR | flags))
    os.pwrite(files[-1], b'w' * 4096, offset)
    print('ok', flush=True)
"""


def test_synchronous_writes_are_durable(server, disk_image, point):
    disk = disk_image(size=SIZE)
    server.add_file("disk", disk)
    fuse.export(server, "disk", point)
    writer = fuse.popen_as_account("/usr/bin/python3", "-c", WRITER, point, text=True, stdin=process.subprocess.PIPE,
                                   stdout=process.subprocess.PIPE)

    def write(offset, flags):
        print(offset, flags, file=writer.stdin, flush=True)
        assert writer.stdout.readline() == "ok\n"

    try:
        for number, flag in enumerate((os.O_SYNC, os.O_DSYNC)):
            write(4 * number * MIB, 0)
            images.need_late_allocation(disk, 4 * number * MIB)
            write((4 * number + 2) * MIB, flag)
            assert images.is_on_disk(disk, (4 * number + 2) * MIB)
        write(16 * MIB, 0)
        images.need_late_allocation(disk, 16 * MIB)
        python("os.fsync(os.open(sys.argv[1], os.O_RDONLY))", point)
        assert images.is_on_disk(disk, 16 * MIB)
    finally:
        writer.communicate()


def test_sync_flags_and_fsync(server, anywhere, point):
    fuse.export(server, "disk", point)
    assert python("""
for flag in (os.O_SYNC, os.O_DSYNC, 0):
    fd = os.open(sys.argv[1], os.O_RDWR | flag)
    os.pwrite(fd, b'synced', 4096)
    os.fdatasync(fd)
    os.fsync(fd)
    os.close(fd)
print('done')""", point) == "done\n"
    assert images.read(anywhere, 4096, 6) == b"synced"


def test_private_mapping_reads_the_image(server, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point)
    assert python("""
import mmap
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 1 << 20, flags=mmap.MAP_PRIVATE)
print(m[:] == os.pread(fd, 1 << 20, 0))""", point).split() == ["True"]


# ---- Shared mappings ----

@pytest.fixture
def needs_shared_mappings():
    if tuple(map(int, re.match(r"(\d+)\.(\d+)", os.uname().release).groups())) < (6, 6):
        pytest.skip("this kernel has no shared mappings of files on FUSE without a cache (Linux 6.6)")


MAPPING = """
import mmap
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, int(sys.argv[2]), flags=mmap.MAP_SHARED)
"""


def test_shared_mapping_reads_and_writes_the_image(server, needs_shared_mappings, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    before = images.read(anywhere)
    fuse.export(server, "disk", point)
    assert python(MAPPING + """
print(m[:] == os.pread(fd, len(m), 0))
m[100:105] = b'first'
m[len(m) - 5:] = b'final'
m.flush()""", point, SIZE) == "True\n"
    assert images.read(anywhere) == before[:100] + b"first" + before[105:-5] + b"final"


def test_shared_mapping_is_written_when_it_is_given_up(server, needs_shared_mappings, anywhere, point):
    fuse.export(server, "disk", point)
    python(MAPPING + """
m[100:105] = b'first'
m.close()""", point, MIB)
    assert images.read(anywhere, 100, 5) == b"first"


def test_mapping_and_other_clients_of_the_file_agree(server, needs_shared_mappings, anywhere, point):
    fuse.export(server, "disk", point)
    assert python(MAPPING + """
import subprocess
other = os.open(sys.argv[1], os.O_RDWR)
wrong = 0
for i in range(200):
    at = i * 1237 % (len(m) - 9000)
    m[at:at + 9000] = bytes([i % 251]) * 9000
    wrong += os.pread(other, 9000, at) != m[at:at + 9000]
    os.pwrite(other, bytes([i % 13]) * 5000, at + 1000)
    wrong += m[at + 1000:at + 6000] != bytes([i % 13]) * 5000
    wrong += m[at:at + 1000] != bytes([i % 251]) * 1000
data = subprocess.run(['cat', sys.argv[1]], stdout=subprocess.PIPE, check=True).stdout
print(wrong, data[:len(m)] == m[:])
""", point, MIB) == "0 True\n"


def test_mapping_of_the_last_page_keeps_the_length(server, needs_shared_mappings, image, point):
    path = image("odd.img", size=8192)
    server.add_file("odd", path)
    fuse.export(server, "odd", point, growable=True)
    as_account("truncate", f"--size={4096 + 1000}", point)
    python(MAPPING + """
m[4096 + 990:] = b'w' * 10
m.flush()""", point, 4096 + 1000)
    assert os.path.getsize(path) == 4096 + 1000 and images.read(path, 4096 + 990) == b"w" * 10


@pytest.mark.qemu
def test_mapping_and_nbd(server, needs_shared_mappings, anywhere, point):
    """What is flushed is read through NBD; what NBD has written is read through the file, and by a mapping made then."""
    process.need("qemu-io")
    server.nbd_start()
    server.export("disk", id="nbd")
    fuse.export(server, "disk", point, ident="fuse")
    assert python(MAPPING + """
import subprocess


def nbd(command):
    out = subprocess.run(['qemu-io', '-f', 'raw', '-c', command, sys.argv[3]], check=True, stdout=subprocess.PIPE)
    return b'failed' not in out.stdout


good = 0
for i in range(1, 6):
    m[0:65536] = bytes([i]) * 65536
    m.flush()
    good += nbd(f'read -P {i} 0 64k')
    nbd(f'write -P {100 + i} 4k 8k')
    good += os.pread(fd, 8192, 4096) == bytes([100 + i]) * 8192
    with mmap.mmap(fd, 65536, flags=mmap.MAP_SHARED) as new:
        good += new[4096:12288] == bytes([100 + i]) * 8192 and new[:4096] == bytes([i]) * 4096
        good += m[:65536] == new[:]
print(good)
""", point, MIB, server.uri("disk")) == "20\n"


def test_mapping_of_a_read_only_export(server, needs_shared_mappings, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point, writable=False)
    assert python("""
import mmap
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 1 << 20, mmap.MAP_SHARED, mmap.PROT_READ)
print(m[:] == os.pread(fd, 1 << 20, 0))
try:
    mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
except OSError as e:
    print(errno.errorcode[e.errno])""", point).split() == ["True", "EACCES"]


def test_tpm_keeps_its_state_in_it(server, needs_shared_mappings, image, point, tmp):
    """As some managers of virtual machines keep it: swtpm's file backend maps the file."""
    process.need("swtpm", "swtpm_ioctl")
    path = image("tpm.img", size=4 * MIB)
    server.add_file("tpm", path)
    fuse.export(server, "tpm", point)
    folder = tmp / "tpm"
    folder.mkdir()
    give_to_account(folder)

    def run_tpm():
        tpm = fuse.popen_as_account(
            "swtpm", "socket", "--tpm2", "--tpmstate", f"backend-uri=file://{point},mode=0600", "--ctrl",
            f"type=unixio,path={folder}/ctrl", "--server", f"type=unixio,path={folder}/server", "--flags",
            "not-need-init,startup-clear", stdout=process.subprocess.DEVNULL, stderr=process.subprocess.DEVNULL)
        wait_for(lambda: tpm.poll() is not None or as_account("swtpm_ioctl", "--unix", folder / "ctrl", "-g",
                                                              status=None).returncode == 0, "the TPM to answer")
        as_account("swtpm_ioctl", "--unix", folder / "ctrl", "-s")
        assert tpm.wait(20) == 0
        return images.read(path)

    first = run_tpm()
    assert first.strip(b"\0") and images.read(path) == first
    assert run_tpm()[:16] == first[:16]  # it was found, and not made anew


# ---- fallocate and lseek ----

def fallocate(point, mode, offset, length):
    return python("""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDWR)
r = libc.fallocate(fd, int(sys.argv[2]), ctypes.c_long(int(sys.argv[3])), ctypes.c_long(int(sys.argv[4])))
print(r == 0 and 'ok' or errno.errorcode[ctypes.get_errno()])
print(os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512)
""", point, mode, offset, length).split()


KEEP, PUNCH, ZERO, COLLAPSE = 1, 2, 0x10, 8


def test_punch_hole(server, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point)
    before = images.read(anywhere)
    assert fallocate(point, PUNCH | KEEP, MIB, 4 * MIB)[:2] == ["ok", str(SIZE)]
    assert images.allocated(anywhere) <= SIZE - 4 * MIB
    assert images.read(anywhere) == before[:MIB] + bytes(4 * MIB) + before[5 * MIB:]
    assert fallocate(point, PUNCH | KEEP, SIZE - 100, 5000)[0] == "ok"
    assert fallocate(point, PUNCH | KEEP, SIZE + 100, 5000)[:2] == ["ok", str(SIZE)]
    assert images.read(anywhere, SIZE - 100) == bytes(100)


def test_zero_range(server, anywhere, point):
    images.make(anywhere, SIZE, seed=5)
    fuse.export(server, "disk", point, growable=True)
    before = images.read(anywhere)
    assert fallocate(point, ZERO, 12345, 54321)[:2] == ["ok", str(SIZE)]
    assert images.read(anywhere) == before[:12345] + bytes(54321) + before[12345 + 54321:]
    assert fallocate(point, ZERO | KEEP, SIZE - 1000, 5000)[:2] == ["ok", str(SIZE)]
    assert fallocate(point, ZERO, SIZE - 1000, 5000)[:2] == ["ok", str(SIZE + 4000)]
    assert images.read(anywhere, SIZE - 1000) == bytes(5000)


def test_allocate(server, anywhere, point):
    fuse.export(server, "disk", point, growable=True)
    ok, size, allocated = fallocate(point, 0, 0, 8 * MIB)
    assert (ok, size) == ("ok", str(SIZE)) and int(allocated) >= 8 * MIB
    ok, size, allocated = fallocate(point, KEEP, SIZE - MIB, 2 * MIB)
    assert (ok, size) == ("ok", str(SIZE)) and int(allocated) >= 9 * MIB
    assert fallocate(point, 0, SIZE, 3 * MIB + 7)[:2] == ["ok", str(SIZE + 3 * MIB + 7)]
    assert os.path.getsize(anywhere) == SIZE + 3 * MIB + 7


def test_other_modes_are_not_supported(server, disk, point):
    fuse.export(server, "disk", point)
    assert fallocate(point, COLLAPSE, 0, MIB)[0] == "ENOTSUP"  # on Linux the same number as EOPNOTSUPP


def test_data_and_holes_are_found(server, anywhere, point):
    with open(anywhere, "r+b") as image:
        for offset in (MIB, 8 * MIB, 60 * MIB):
            image.seek(offset)
            image.write(pattern(MIB))
    fuse.export(server, "disk", point)
    text = python("""
fd = os.open(sys.argv[1], os.O_RDONLY)
at = 0
try:
    while True:
        data = os.lseek(fd, at, os.SEEK_DATA)
        at = os.lseek(fd, data, os.SEEK_HOLE)
        print(data >> 20, at >> 20)
except OSError as e:
    print(errno.errorcode[e.errno])
print(os.lseek(fd, os.fstat(fd).st_size - 1, os.SEEK_HOLE) == os.fstat(fd).st_size - 1)
for whence in (os.SEEK_DATA, os.SEEK_HOLE):
    try:
        os.lseek(fd, os.fstat(fd).st_size, whence)
    except OSError as e:
        print(errno.errorcode[e.errno])
""", point)
    assert text.split("\n")[:-1] == ["1 2", "8 9", "60 61", "ENXIO", "True", "ENXIO", "ENXIO"]


# ---- Read-only ----

def test_read_only_export_refuses_what_writes(server, disk, point):
    images.make(disk, SIZE, seed=5)
    with fuse.fuse_conf("user_allow_other\n"):
        fuse.export(server, "disk", point, writable=False, **{"allow-other": "on"})
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(OSError) as error:
            os.close(os.open(point, flags))  # root, whom the mode does not stop
        assert error.value.errno == errno.EROFS
    with pytest.raises(OSError) as error:
        os.truncate(point, 0)
    assert error.value.errno == errno.EROFS
    assert "Permission denied" in as_account("dd", "if=/dev/zero", f"of={point}", "count=1", status=1).stderr_text
    assert images.read(point) == images.read(disk)


def test_two_read_only_exports_of_one_node(server, disk, tmp):
    images.make(disk, SIZE, seed=5)
    points = [mount_point(tmp / f"m{i}") for i in range(2)]
    for i, path in enumerate(points):
        fuse.export(server, "disk", path, writable=False, ident=f"e{i}")
    as_account("cmp", *points)


# ---- Together with others ----

@pytest.mark.qemu
def test_nbd_and_fuse_see_each_other_at_once(server, anywhere, point, tmp):
    process.need("qemu-io")
    server.nbd_start()
    server.export("disk", id="nbd")
    fuse.export(server, "disk", point, ident="fuse")
    for i in range(20):
        offset = i * 100000
        process.run("qemu-io", "-f", "raw", "-c", f"write -P {i + 1} {offset} 70000", server.uri("disk"))
        assert python("print(set(os.pread(os.open(sys.argv[1], os.O_RDONLY), 70000, int(sys.argv[2]))))", point,
                      offset) == f"{{{i + 1}}}\n"
        python("os.pwrite(os.open(sys.argv[1], os.O_WRONLY), bytes([int(sys.argv[3])]) * 50000, int(sys.argv[2]))",
               point, offset, 200 - i)
        text = process.output("qemu-io", "-f", "raw", "-c", f"read -P {200 - i} {offset} 50000", server.uri("disk"))
        assert "Pattern verification failed" not in text


@pytest.mark.qemu
def test_one_open_file_sees_what_nbd_writes(server, anywhere, point):
    """The kernel keeps no copy of what a client has read."""
    process.need("qemu-io")
    server.nbd_start()
    server.export("disk", id="nbd")
    fuse.export(server, "disk", point, ident="fuse")
    text = python("""
import subprocess
fd = os.open(sys.argv[1], os.O_RDONLY)
for i in range(1, 6):
    os.pread(fd, 65536, 0)
    subprocess.run(['qemu-io', '-f', 'raw', '-c', f'write -P {i} 0 64k', sys.argv[2]], check=True,
                   stdout=subprocess.DEVNULL)
    print(set(os.pread(fd, 65536, 0)))
""", point, server.uri("disk"))
    assert text == "".join(f"{{{i}}}\n" for i in range(1, 6))


def test_growth_is_seen_by_nbd(server, disk, point):
    process.need("nbdinfo")
    server.nbd_start()
    server.export("disk", id="nbd")
    fuse.export(server, "disk", point, ident="fuse", growable=True)
    as_account("truncate", f"--size={SIZE + MIB}", point)
    wait_for(lambda: int(process.output("nbdinfo", "--size", server.uri("disk"))) == SIZE + MIB,
             "NBD to see the new size")
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.write(SIZE + MIB - 512, b"x" * 512) == 0
        assert client.read(SIZE + MIB - 1024, 1024) == bytes(512) + b"x" * 512
        client.disconnect()


def test_block_resize_is_seen_at_once(server, disk, point):
    fuse.export(server, "disk", point)
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": SIZE + MIB})
    wait_for(lambda: output("stat", "-c", "%s", point).strip() == str(SIZE + MIB), "the file to have the new size")
    as_account("dd", "if=/dev/urandom", f"of={point}", "bs=1M", "count=1", f"seek={SIZE // MIB}", "conv=notrunc")


def test_export_over_the_image_itself(server, disk):
    """The image is open already; the mount hides it from those who come later, and shows it again at the end."""
    content = pattern(MIB, 1)
    with open(disk, "r+b") as image:
        image.write(content)
    fuse.export(server, "disk", disk)
    assert python("print(os.stat(sys.argv[1]).st_dev)", disk) != f"{os.stat(disk.parent).st_dev}\n"
    as_account("dd", "if=/dev/zero", f"of={disk}", "bs=4k", "count=1", "conv=notrunc")
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    assert images.read(disk, 0, MIB) == bytes(4096) + content[4096:]


def test_window_of_an_image(server, disk, point):
    images.make(disk, SIZE, seed=5)
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "window", "file": "disk", "offset": MIB,
                                    "size": 2 * MIB})
    fuse.export(server, "window", point)
    assert output("stat", "-c", "%s", point).strip() == str(2 * MIB)
    assert "Operation not supported" in as_account("truncate", "--size=1M", point, status=1).stderr_text
    as_account("dd", "if=/dev/zero", f"of={point}", "bs=1M", "count=1", "conv=notrunc")
    assert images.read(disk, MIB, MIB) == bytes(MIB)


def test_node_without_storage(server, point):
    server.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "null", "size": 10 * MIB, "read-zeroes": True})
    fuse.export(server, "null", point)
    assert output("stat", "-c", "%s %b", point).split() == [str(10 * MIB), str(10 * MIB // 512)]
    as_account("dd", f"if={point}", "of=/dev/null", "bs=1M")


def test_errors_of_the_storage_reach_the_client(server, disk, point):
    server.qmp.cmd("blockdev-add", {
        "driver": "blkdebug", "node-name": "bad", "image": "disk",
        "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": 8},
                         {"event": "none", "iotype": "write", "errno": 28, "sector": 16}]})
    fuse.export(server, "bad", point)
    assert python("""
fd = os.open(sys.argv[1], os.O_RDWR)
for call in (lambda: os.pread(fd, 512, 4096), lambda: os.pwrite(fd, b'x', 8192), lambda: os.pread(fd, 512, 0)):
    try:
        call()
        print('ok')
    except OSError as e:
        print(errno.errorcode[e.errno])""", point).split() == ["EIO", "ENOSPC", "ok"]


# ---- The end of an export ----

def test_safe_removal_waits_for_nobody(server, disk, point):
    fuse.export(server, "disk", point)
    client = fuse.popen_as_account("sh", "-c", f"exec 3<{point}; echo open; read line", stdin=process.subprocess.PIPE,
                                   stdout=process.subprocess.PIPE)
    assert client.stdout.readline() == b"open\n"
    with pytest.raises(QmpError, match="still in use"):
        server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    as_account("cat", point, timeout=60)
    client.communicate(b"\n")
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    assert mounts_on(point) == [] and point.read_bytes() == b"below"


def test_hard_removal_ends_clients(server, disk, point):
    fuse.export(server, "disk", point)
    client = fuse.popen_as_account(
        "/usr/bin/python3", "-c", "import os, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\nprint('open', flush=True)\n"
        "sys.stdin.readline()\ntry:\n    os.pread(fd, 1, 0)\nexcept OSError as e:\n    print(e.strerror)", str(point),
        stdin=process.subprocess.PIPE, stdout=process.subprocess.PIPE)
    assert client.stdout.readline() == b"open\n"
    server.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "hard"})
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert mounts_on(point) == [] and point.read_bytes() == b"below"
    assert client.communicate(b"\n", timeout=20)[0].strip() in (b"Transport endpoint is not connected",
                                                                b"Software caused connection abort")


def test_mount_point_is_free_again_at_once(server, disk, point):
    for i in range(20):
        fuse.export(server, "disk", point, ident=f"e{i}")
        server.qmp.cmd("block-export-del", {"id": f"e{i}", "mode": "hard" if i % 2 else "safe"})
        assert mounts_on(point) == []


def test_quit_unmounts_everything(server, image, tmp):
    points = []
    for i in range(8):
        server.add_file(f"n{i}", image(f"d{i}.img"))
        points.append(mount_point(tmp / f"m {i}"))
        fuse.export(server, f"n{i}", points[-1])
    client = fuse.popen_as_account("sh", "-c", f"exec 3<'{points[0]}'; echo open; read line",
                                   stdin=process.subprocess.PIPE, stdout=process.subprocess.PIPE)
    assert client.stdout.readline() == b"open\n"
    server.stop()
    for path in points:
        assert mounts_on(path) == [] and path.read_bytes() == b"below"
    client.communicate(b"\n")


@pytest.mark.parametrize("how", ["umount", "abort"])
def test_mount_that_somebody_else_ends_ends_the_export(server, disk, point, tmp, how):
    if os.getuid() != 0:
        pytest.skip("needs root")
    fuse.export(server, "disk", point)
    if how == "umount":
        process.run("umount", "-l", point)
    else:
        minor = mounts_on(point)[0].split(" ")[2].split(":")[1]
        connections = tmp / "connections"
        connections.mkdir()
        process.run("mount", "-t", "fusectl", "none", connections)
        (connections / minor / "abort").write_text("1")
        process.run("umount", connections)
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert mounts_on(point) == [] and point.read_bytes() == b"below"
    fuse.export(server, "disk", point)


# ---- What is refused ----

def refused(server, point, words, node="disk", **members):
    with pytest.raises(QmpError) as error:
        server.qmp.cmd("block-export-add", {"type": "fuse", "id": "bad", "node-name": node, "mountpoint": str(point),
                                            **members})
    assert re.search(words, str(error.value)), str(error.value)
    assert "bad" not in server.exports() and not server.workers(export="bad")


@pytest.mark.parametrize("make, words", [
    (lambda p: None, "does not exist: create it"),
    (lambda p: p.mkdir(), "is a directory"),
    (lambda p: p.symlink_to("/etc/hostname"), "is a symbolic link"),
    (lambda p: os.mkfifo(p), "is not a regular file"),
])
def test_unsuitable_mount_point(server, disk, tmp, make, words):
    make(tmp / "bad")
    refused(server, tmp / "bad", words)


def test_mount_point_of_somebody_else(server, disk, tmp):
    if os.getuid() != 0:
        pytest.skip("needs a file of another account")
    (tmp / "bad").write_bytes(b"")
    refused(server, tmp / "bad", "must be writable for user id")


def test_mount_point_in_use(server, disk, point, tmp):
    fuse.export(server, "disk", point, writable=False, ident="first")
    refused(server, point, "already used by export 'first'")
    (tmp / "link").symlink_to(tmp)
    refused(server, tmp / "link" / point.name, "already used by export 'first'")


def test_hard_link_of_a_mount_point_in_use(server, disk, point, tmp):
    os.link(point, tmp / "other")
    fuse.export(server, "disk", point, writable=False, ident="first")
    refused(server, tmp / "other", "already used by export 'first'")


def test_allow_other_that_the_host_does_not_allow(server, disk, point):
    with fuse.fuse_conf("# nothing\n"):
        refused(server, point, "add the line user_allow_other to /etc/fuse.conf", **{"allow-other": "on"})


@pytest.mark.parametrize("members, words", [
    ({"mountpoint": ""}, "mountpoint"), ({"mountpoint": "/" + "x" * 5000}, "mountpoint"),
    ({"mountpoint": 1}, "mountpoint"),
    ({"growable": "yes"}, "growable"), ({"allow-other": "maybe"}, "allow-other"), ({"name": "x"}, "name"),
])
def test_unsuitable_member(server, disk, point, members, words):
    with pytest.raises(QmpError, match=words):
        server.qmp.cmd("block-export-add", {"type": "fuse", "id": "bad", "node-name": "disk", "mountpoint": str(point),
                                            **members})
    assert mounts_on(point) == []


def test_writable_export_of_a_read_only_node(server, image, point):
    server.add_file("ro", image("ro.img"), **{"read-only": True})
    refused(server, point, "read-only", node="ro", writable=True)
    assert mounts_on(point) == []


def test_broken_image_never_reaches_the_mount_point(server, disk, point):
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "w", "file": "disk", "offset": MIB})
    os.truncate(disk, 0)
    refused(server, point, "w|offset", node="w")
    assert mounts_on(point) == [] and point.read_bytes() == b"below"


# ---- Start-up ----

def test_export_from_the_command_line(new_server, image, point):
    path = image("disk.img", size=SIZE)
    server = new_server()
    server.start("--blockdev", {"driver": "file", "node-name": "disk", "filename": str(path)}, "--export",
                 f"fuse,id=exp,node-name=disk,mountpoint={point},writable=on,growable=on,allow-other=off")
    assert output("stat", "-c", "%s", point).strip() == str(SIZE)
    assert server.exports()["exp"]["type"] == "fuse"
    worker = server.export_worker("exp")
    assert worker["role"] == "fuse" and "seccomp" in worker["sandbox"]


def test_failed_start_leaves_no_mount(new_server, image, point):
    server = new_server()
    popen = server.spawn("--blockdev", {"driver": "file", "node-name": "disk", "filename": str(image("disk.img"))},
                         "--export", f"fuse,id=exp,node-name=disk,mountpoint={point}", "--export", "fuse,id=bad")
    assert popen.wait(30) == 1
    server.gone()
    assert mounts_on(point) == [] and point.read_bytes() == b"below"
