# SPDX-License-Identifier: BSD-2-Clause
"""Images for tests, with contents that a reader can check."""

import os
import random

from .server import give_to_account

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


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


def allocated(path):
    return os.stat(path).st_blocks * 512
