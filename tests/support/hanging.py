# SPDX-License-Identifier: BSD-2-Clause
"""
Storage that hangs when it is told to, and goes on later: a small ext4 on a loop device, frozen with fsfreeze. A write to a
file of it waits in the kernel, where no signal reaches the thread; a write to a loop device on such a file is on its way to
the disk while the process that sent it may be gone. Always thawed and unmounted at the end.
"""

import contextlib
import os
import pathlib

import pytest

from . import images
from .process import need, run
from .server import give_to_account

MIB = 1 << 20
SIZE = 8 * MIB


class Hanging:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.mount = self.folder / "fs"
        self.loops = []
        self.frozen = False

    def attach(self, path):
        made = run("losetup", "-f", "--show", path, status=None)
        if made.returncode != 0:
            pytest.skip(f"no loop device: {made.stderr_text.strip()}")
        self.loops.append(made.stdout_text.strip())
        return self.loops[-1]

    def begin(self):
        back = self.folder / "back"
        with open(back, "wb") as image:
            image.truncate(64 * MIB)
        run("mkfs.ext4", "-q", "-F", back)
        self.mount.mkdir()
        made = run("mount", self.attach(back), self.mount, status=None)
        if made.returncode != 0:
            pytest.skip(f"cannot mount: {made.stderr_text.strip()}")
        give_to_account(self.mount)

    def file(self, name="disk.img"):
        """An image that is allocated and on the disk, so that nothing but a freeze holds a write up."""
        path = images.make(self.mount / name, SIZE, seed=1)
        os.sync()
        return path

    def device(self):
        """A block device of the account's whose writes hang in the driver, with nobody waiting in a system call."""
        device = pathlib.Path(self.attach(self.file("back.img")))
        give_to_account(device)
        return device

    def freeze(self):
        self.frozen = True
        run("fsfreeze", "-f", self.mount)

    def thaw(self):
        if self.frozen:
            self.frozen = False
            run("fsfreeze", "-u", self.mount)

    def unmount(self):
        """At once, if nobody uses it."""
        return run("umount", self.mount, status=None).returncode == 0

    def mount_again(self):
        run("mount", self.loops[0], self.mount)

    def end(self):
        """Whatever has become of the test, nothing stays frozen, mounted or attached."""
        self.thaw()
        for loop in self.loops[:0:-1]:
            os.chown(loop, 0, 0)
            run("losetup", "-d", loop)
        if os.path.ismount(self.mount) and not self.unmount():
            run("umount", "-l", self.mount)
        for loop in self.loops[:1]:
            run("losetup", "-d", loop)


@contextlib.contextmanager
def hanging_storage(folder):
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    need("losetup", "mkfs.ext4", "fsfreeze", "mount", "umount")
    storage = Hanging(folder)
    try:
        storage.begin()
        yield storage
    finally:
        storage.end()


def threads_stuck(pid):
    """How many threads of a process wait in the kernel for what no signal ends."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return sum(" D " in pathlib.Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2][:3]
                   for thread in threads)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def in_flight(device):
    """How many requests a block device has not answered."""
    return sum(map(int, pathlib.Path(f"/sys/block/{device.name}/inflight").read_text().split()))
