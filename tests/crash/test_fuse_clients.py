# SPDX-License-Identifier: BSD-2-Clause
"""FUSE exports whose clients do anything at once, are interrupted and killed amid it: the export goes on."""

import os

import pytest

from support import fuse, images
from support.fuse import as_account, mount_point
from support.images import MIB

SIZE = 4 * MIB

# Some processes, each with children that do anything to the file under a timer's signals; some are killed amid it.
CLIENTS = """
import ctypes, mmap, os, random, signal, sys, time
path, size, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
LONG = ctypes.c_long


def mapped(rnd, fd, offset, length):
    with mmap.mmap(fd, min(length, os.fstat(fd).st_size), mmap.MAP_SHARED) as m:
        m[len(m) // 2] = 7
        if rnd.random() < 0.5:
            m.flush()


OPERATIONS = [
    lambda rnd, fd, offset, length: os.pwrite(fd, bytes([rnd.randrange(256)]) * length, offset),
    lambda rnd, fd, offset, length: os.pread(fd, length, offset),
    lambda rnd, fd, offset, length: os.ftruncate(fd, offset),
    lambda rnd, fd, offset, length: os.truncate(path, size),
    lambda rnd, fd, offset, length: libc.fallocate(fd, rnd.choice([0, 1, 3, 0x10, 0x11, 8, 0x20]), LONG(offset),
                                                   LONG(length)),
    lambda rnd, fd, offset, length: os.lseek(fd, offset, rnd.choice([os.SEEK_DATA, os.SEEK_HOLE])),
    lambda rnd, fd, offset, length: os.fsync(fd),
    lambda rnd, fd, offset, length: os.copy_file_range(fd, fd, length, offset, rnd.randrange(size)),
    mapped,
]


def client(rnd):
    signal.signal(signal.SIGALRM, lambda *unused: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.003)
    for _ in range(5):
        flags = rnd.choice([0, 0, os.O_TRUNC, os.O_DIRECT, os.O_SYNC])
        fd = os.open(path, os.O_RDWR | flags)
        for _ in range(20):
            try:
                rnd.choice(OPERATIONS)(rnd, fd, rnd.randrange(size), rnd.randrange(1, 300000))
            except (OSError, ValueError):
                pass
        os.close(fd)


def parent(number):
    while time.monotonic() < end:
        child = os.fork()
        if child == 0:
            try:
                client(random.Random(os.getpid()))
            finally:
                os._exit(0)
        if os.getpid() % 2:
            time.sleep(random.random() * 0.02)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(0)


for number in range(6):
    if os.fork() == 0:
        parent(number)
for _ in range(6):
    os.wait()
"""


@pytest.mark.parametrize("growable", [False, True])
def test_clients_that_do_anything_and_are_killed(server, image, tmp, growable):
    fuse.need()
    path, point = image("disk.img", size=SIZE), mount_point(tmp / "mnt.img")
    server.add_file("disk", path, discard="unmap")
    fuse.export(server, "disk", point, growable=growable)
    pid = server.export_worker("exp-disk")["pid"]
    fuse.python(CLIENTS, point, SIZE, 4, timeout=60)
    assert server.export_worker("exp-disk")["pid"] == pid
    as_account("truncate", f"--size={SIZE}", point)
    source = images.make(tmp / "source", SIZE, seed=3)
    as_account("dd", f"if={source}", f"of={point}", "bs=1M", "conv=notrunc,fsync")
    as_account("cmp", source, point)
    as_account("cmp", source, path)
    assert " failed: " not in server.log_text()
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    assert os.stat(path).st_size == SIZE
