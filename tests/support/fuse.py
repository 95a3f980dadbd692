# SPDX-License-Identifier: BSD-2-Clause
"""FUSE exports: mount points, and clients that may use them. Without allow-other only the service account may."""

import contextlib
import os
import pathlib

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
