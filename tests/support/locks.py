# SPDX-License-Identifier: BSD-2-Clause
"""Image locks as QEMU takes them: byte 100+i says "I use permission i", byte 200+i "I do not share it"."""

import contextlib
import fcntl
import os
import struct

F_OFD_GETLK = 36
F_OFD_SETLK = 37

CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE = range(4)


def flock_bytes(kind, start):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)


def locked_bytes(path):
    """Which of the bytes 100..103 and 200..203 somebody holds."""
    with open(path, "r+b") as image:
        held = set()
        for byte in [*range(100, 104), *range(200, 204)]:
            kind, *_ = struct.unpack("hhqqi4x", fcntl.fcntl(image, F_OFD_GETLK, flock_bytes(fcntl.F_WRLCK, byte)))
            if kind != fcntl.F_UNLCK:
                held.add(byte)
        return held


@contextlib.contextmanager
def held(path, byte):
    """Another program holds this byte."""
    with open(path, "rb") as image:
        fcntl.fcntl(image, F_OFD_SETLK, flock_bytes(fcntl.F_RDLCK, byte))
        yield
