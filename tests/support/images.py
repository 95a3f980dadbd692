# SPDX-License-Identifier: BSD-2-Clause
"""Images for tests, with contents that a reader can check."""

import contextlib
import fcntl
import os
import pathlib
import random
import struct

import pytest

from . import process
from .server import give_to_account

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_EXTENT_UNKNOWN = 2
FIEMAP_EXTENT_DELALLOC = 4


def pattern(length, seed=1):
    """Bytes that look random and are the same every time."""
    return random.Random(seed).randbytes(length)


def make(path, size, data=(), seed=None, mode=0o600):
    """A raw image of the service account. data: (offset, bytes) pairs; seed: fill all of it with pattern(seed)."""
    with open(path, "wb") as image:
        image.truncate(size)
        if seed is not None:
            for offset in range(0, size, MIB):
                image.write(pattern(min(MIB, size - offset), seed + offset // MIB))
        for offset, content in data:
            image.seek(offset)
            image.write(content)
    os.chmod(path, mode)
    give_to_account(path)
    return path


def read(path, offset=0, length=-1):
    with open(path, "rb") as image:
        image.seek(offset)
        return image.read(length)


@contextlib.contextmanager
def loop_device(path):
    """A loop device over a file, which the service account may use."""
    if os.getuid() != 0:
        pytest.skip("a loop device needs root")
    process.need("losetup")
    made = process.run("losetup", "--find", "--show", path, status=None)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr_text.strip()}")
    device = pathlib.Path(made.stdout_text.strip())
    give_to_account(device)
    try:
        yield device
    finally:
        process.run("losetup", "--detach", device)
        os.chown(device, 0, 0)


def allocated(path):
    return os.stat(path).st_blocks * 512


def is_on_disk(path, offset):
    """
    Whether the byte has its place on the disk, by FIEMAP. A file system that allocates late gives a hole that was written
    to none before somebody asks for the data to be stable (or half a minute has gone by).
    """
    request = bytearray(struct.pack("QQIIII", offset, 1, 0, 0, 1, 0) + bytes(56))
    with open(path, "rb") as image:
        fcntl.ioctl(image, FS_IOC_FIEMAP, request)
    mapped, flags = struct.unpack_from("I", request, 20)[0], struct.unpack_from("I", request, 32 + 40)[0]
    return mapped == 1 and flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC) == 0


def need_late_allocation(path, offset):
    """Skip the test, visibly, if the file system does not tell what it has still to write, as here."""
    try:
        late = not is_on_disk(path, offset)
    except OSError as error:
        pytest.skip(f"FIEMAP: {error.strerror}")
    if not late:
        pytest.skip("this file system does not tell what it has still to write")
