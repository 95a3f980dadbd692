# SPDX-License-Identifier: BSD-2-Clause
"""No byte of an image is read before the sandbox is whole: the kernel asks us (fanotify) before each read of it."""

import contextlib
import ctypes
import os
import select
import struct
import threading

import pytest

from support import fuse, images, sandbox
from support.images import MIB
from support.nbdraw import NbdRaw
from support.process import command

FAN_CLASS_CONTENT, FAN_CLOEXEC = 4, 1
FAN_MARK_ADD, FAN_ACCESS_PERM = 1, 0x20000
FAN_ALLOW = 1
METADATA = struct.Struct("IBBHQii")


class Reads:
    """Who reads a file: (pid, seccomp mode, no_new_privs) of each read, as it was when the read was asked for."""

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
        if self.fd < 0:
            pytest.skip(f"fanotify: {os.strerror(ctypes.get_errno())}")
        if libc.fanotify_mark(self.fd, FAN_MARK_ADD, ctypes.c_uint64(FAN_ACCESS_PERM), -100, os.fsencode(path)) < 0:
            error = os.strerror(ctypes.get_errno())
            os.close(self.fd)
            pytest.skip(f"this kernel does not ask before reads (fanotify: {error})")
        self.seen = []
        self.end, self.wake = os.pipe()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self):
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self.end, select.POLLIN)
        while all(fd != self.end for fd, _ in poll.poll()):
            data = os.read(self.fd, 65536)
            while len(data) >= METADATA.size:
                length, _, _, _, _, fd, pid = METADATA.unpack_from(data)
                data = data[length:]
                self._note(pid)
                os.write(self.fd, struct.pack("iI", fd, FAN_ALLOW))
                os.close(fd)

    def _note(self, pid):
        try:
            status = sandbox.status(pid)
            self.seen.append((pid, status["Seccomp"], status["NoNewPrivs"], command(pid)))
        except (OSError, KeyError) as error:  # told by the test
            self.seen.append((pid, repr(error)))

    def close(self):
        os.write(self.wake, b"x")
        self.thread.join()
        for fd in (self.fd, self.end, self.wake):
            os.close(fd)


@pytest.fixture
def reads():
    with contextlib.ExitStack() as stack:
        def watch(path):
            sandbox.need_root()
            result = Reads(path)
            stack.callback(result.close)
            return result

        yield watch


@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
@pytest.mark.parametrize("role", ["nbd-export", "fuse"])
def test_every_read_of_an_image_is_behind_the_filter(server, disk_image, tmp, reads, role, direct):
    path = disk_image("disk.img", size=MIB, data=[(0, b"content")])
    seen = reads(path)
    server.add_file("disk", path, cache={"direct": direct})
    if role == "fuse":
        fuse.need()
        point = fuse.mount_point(tmp / "mnt.img")
        fuse.export(server, "disk", point)
        assert fuse.python("print(os.pread(os.open(sys.argv[1], os.O_RDONLY), 7, 0).decode())", point) == "content\n"
    else:
        server.nbd_start()
        server.export("disk")
        with NbdRaw.opened(server.nbd_path, "disk") as client:
            assert client.read(0, 7) == b"content"
    worker = server.export_worker("exp-disk")["pid"]
    assert seen.seen, "nobody was seen reading"
    assert {row[:3] for row in seen.seen} == {(worker, "2", "1")}, seen.seen
