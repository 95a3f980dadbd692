# SPDX-License-Identifier: BSD-2-Clause
"""FUSE exports: mount points, and clients that may use them. Without allow-other only the service account may."""

import contextlib
import ctypes
import os
import pathlib
import select
import struct
import threading

import pytest

from . import process
from .server import ACCOUNT, give_to_account

CONF = pathlib.Path("/etc/fuse.conf")


def need():
    """Skip the test, visibly, unless FUSE exports can be had here."""
    process.need("fusermount3")
    if as_account("test", "-w", "/dev/fuse", status=None).returncode != 0:
        pytest.skip("the service account may not open /dev/fuse here (chmod 0666 /dev/fuse)")


def words_as_account(*argv):
    if os.getuid() != 0:
        return list(argv)
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", *argv]


def as_account(*argv, **kwargs):
    """Run a program as the service account, from its own folder where it may look around."""
    return process.run(*words_as_account(*argv), **kwargs)


def output(*argv, **kwargs):
    return as_account(*argv, **kwargs).stdout_text


def popen_as_account(*argv, **kwargs):
    return process.popen(words_as_account(*argv), **kwargs)


def python(text, *args, **kwargs):
    """Run a piece of Python as the service account; its output."""
    return output("/usr/bin/python3", "-c", "import errno, fcntl, os, sys\n" + text, *map(str, args), **kwargs)


def mounts_on(path):
    """Rows of the mount table for a path, without asking whoever serves it."""
    with open("/proc/self/mountinfo") as table:
        return [line for line in table if line.split(" ")[4] == str(path).replace(" ", "\\040")]


def mount_point(path, content=b"below"):
    """An ordinary file of the service account."""
    path.write_bytes(content)
    give_to_account(path)
    return path


def export(server, node, path, writable=True, ident=None, **members):
    """Export a node on a path that is a mount point already; the id."""
    members.setdefault("allow-other", "off")
    ident = ident or f"exp-{node}"
    server.qmp.cmd("block-export-add", {"type": "fuse", "id": ident, "node-name": node, "mountpoint": str(path),
                                        "writable": writable, **members})
    assert len(mounts_on(path)) == 1
    return ident


@contextlib.contextmanager
def fuse_conf(text):
    """Another /etc/fuse.conf for a while."""
    if os.getuid() != 0:
        pytest.skip("only root may change /etc/fuse.conf")
    old = CONF.read_text() if CONF.exists() else None
    CONF.write_text(text)
    try:
        yield
    finally:
        if old is None:
            CONF.unlink()
        else:
            CONF.write_text(old)


FUSE_INIT = 26


class HangingFileSystem:
    """A file system on FUSE whose server agreed to serve it and then answers nothing, until it is let go."""

    def __init__(self, folder):
        if os.getuid() != 0:
            pytest.skip("only root may mount this way")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fd},rootmode=40755,user_id=0,group_id=0,allow_other"
        if libc.mount(b"hanging", os.fsencode(folder), b"fuse.hanging", 0, options.encode()) != 0:
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
        request = os.read(self.fd, 1 << 17)
        length, opcode, unique = struct.unpack_from("<IIQ", request)
        assert opcode == FUSE_INIT
        body = struct.pack("<IIIIHHII", 7, 31, 1 << 16, 0, 12, 9, 1 << 16, 1) + bytes(64 - 32)
        os.write(self.fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
        self.asked = threading.Event()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._take)
        self.thread.start()

    def _take(self):
        """Take requests: whoever waits for one that has been taken cannot even be killed."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self.stop.is_set():
            if poll.poll(50):
                try:
                    os.read(self.fd, 1 << 17)
                    self.asked.set()
                except OSError:
                    return

    def let_go(self):
        """Whoever waits gets an error."""
        if self.fd >= 0:
            self.stop.set()
            self.thread.join()
            os.close(self.fd)
            self.fd = -1
            process.run("umount", "-l", self.folder)


@contextlib.contextmanager
def hanging_file_system(folder):
    hanging = HangingFileSystem(folder)
    try:
        yield hanging
    finally:
        hanging.let_go()
