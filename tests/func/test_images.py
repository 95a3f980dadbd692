# SPDX-License-Identifier: BSD-2-Clause
"""Opening images: what may be opened how, and what the error says when it may not."""

import fcntl
import os
import subprocess

import pytest

from support import images
from support.images import MIB
from support.locks import F_OFD_SETLK, WRITE, flock_bytes
from support.process import need, run
from support.server import ACCOUNT


@pytest.fixture
def read_only_loop(tmp):
    """A loop device that is set read-only, though its node's mode allows the service account to write."""
    if os.getuid() != 0:
        pytest.skip("a loop device needs root")
    need("losetup")
    path = images.make(tmp / "loop.img", 4 * MIB)
    made = run("losetup", "--find", "--show", "--read-only", path, status=None)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr_text.strip()}")
    device = made.stdout_text.strip()
    images.give_to_account(device)
    yield device
    run("losetup", "--detach", device)
    os.chown(device, 0, 0)


# ---- Block devices that are set read-only ----

@pytest.mark.contract
def test_a_read_only_device_is_not_opened_for_writing(server, read_only_loop):
    error = server.qmp.error("blockdev-add", server.file_node("disk", read_only_loop, "host_device"))
    if server.kind == "bulkhead":
        assert "is set read-only" in error.desc
    assert "disk" not in server.nodes()


def test_a_read_only_device_becomes_a_read_only_node_where_that_is_allowed(nbd, read_only_loop):
    nbd.add_file("disk", read_only_loop, "host_device", **{"auto-read-only": True})
    assert nbd.nodes()["disk"]["ro"]
    assert "read-only" in nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk",
                                                             "writable": True}).desc
    nbd.export("disk", writable=False)


# ---- Words that lead to the cause ----

@pytest.fixture
def as_root(server):
    if os.getuid() != 0:
        pytest.skip("files of somebody else need root")


def test_a_file_of_somebody_else_names_account_and_owner(server, as_root, image):
    path = image()
    os.chown(path, 0, 0)
    os.chmod(path, 0o600)
    for members in ({}, {"read-only": True}, {"auto-read-only": True}):
        text = server.qmp.error("blockdev-add", server.file_node("disk", path, **members)).desc
        assert f"'{ACCOUNT}'" in text and "'root'" in text and "0600" in text, text
        assert "set read-only" not in text, "that would not help"


def test_a_file_that_can_be_read_is_told_to_be_read_only(server, as_root, image):
    path = image()
    os.chown(path, 0, 0)
    os.chmod(path, 0o644)
    assert "set read-only or auto-read-only" in server.qmp.error("blockdev-add", server.file_node("disk", path)).desc
    server.add_file("disk", path, **{"auto-read-only": True})


def test_the_folder_that_bars_the_way_is_named(server, as_root, tmp):
    folder = tmp / "closed"
    (folder / "below").mkdir(parents=True)
    path = images.make(folder / "below" / "disk.img", MIB)
    os.chmod(folder, 0o700)
    os.chown(folder, 0, 0)
    text = server.qmp.error("blockdev-add", server.file_node("disk", path)).desc
    assert f"the folder '{folder}' does not let the account '{ACCOUNT}'" in text


def test_the_holder_of_a_lock_is_named(nbd, image):
    """As far as the account may look at other processes: here it is one of its own."""
    path = image()
    nbd.add_file("disk", path)
    script = (f"import fcntl, os, sys\nfd = os.open({str(path)!r}, os.O_RDWR)\n"
              f"fcntl.fcntl(fd, {F_OFD_SETLK}, bytes.fromhex({flock_bytes(fcntl.F_RDLCK, 200 + WRITE).hex()!r}))\n"
              "print('locked', flush=True)\nsys.stdin.read()")
    words = ["/usr/bin/python3", "-c", script]
    if os.getuid() == 0:
        words = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"] + words
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        text = nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "writable": True}).desc
        holder.stdin.close()
    assert f"process {holder.pid} (python3" in text, text
    nbd.export("disk")


def test_a_lock_of_our_own_names_the_node(nbd, image):
    path = image()
    nbd.add_file("one", path)
    nbd.add_file("two", path)
    nbd.export("one")
    text = nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "two", "writable": True}).desc
    assert "node 'one' of this program uses it" in text
