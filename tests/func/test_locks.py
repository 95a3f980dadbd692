# SPDX-License-Identifier: BSD-2-Clause
"""
Image locks, as QEMU takes them: two writers on one image are refused in both directions between bulkhead and
qemu-storage-daemon or qemu-io. The bytes are those of the design: 100+i "I use permission i", 200+i "I do not share it".
"""

import fcntl
import os
import signal
import struct
import subprocess

import pytest

from support import process
from support.locks import CONSISTENT_READ, F_OFD_SETLK, RESIZE, WRITE, flock_bytes, locked_bytes
from support.nbdraw import NbdRaw
from support.process import need, run, wait_for
from support.qmp import QmpError


@pytest.fixture
def path(image):
    return image(data=[(0, b"content")])


@pytest.fixture
def other(new_server):
    """A qemu-storage-daemon beside."""
    need("qemu-storage-daemon")
    return new_server(kind="qsd").start().nbd_start()


def test_a_writable_export_holds_the_bytes_of_a_writer(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk")
    held = locked_bytes(path)
    assert {100 + CONSISTENT_READ, 100 + WRITE, 200 + WRITE} <= held
    nbd.qmp.cmd("block-export-del", {"id": "exp-disk"})
    nbd.qmp.wait_event("BLOCK_EXPORT_DELETED")
    nbd.qmp.cmd("blockdev-del", {"node-name": "disk"})
    assert locked_bytes(path) == set()


@pytest.mark.qemu
def test_a_read_only_export_shares_with_readers(nbd, path, new_server):
    """Any number of readers, in several processes."""
    nbd.add_file("disk", path, **{"read-only": True})
    nbd.export("disk", writable=False)
    assert 100 + WRITE not in locked_bytes(path)
    second = new_server().start().nbd_start()
    second.add_file("disk", path, **{"read-only": True})
    second.export("disk", writable=False)
    run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", path)


def add_and_export(server, path):
    """Whether server gets the image for writing: None, or the error."""
    try:
        server.add_file("disk", path)
    except QmpError as error:
        return error
    try:
        server.export("disk")
    except QmpError as error:
        server.qmp.cmd("blockdev-del", {"node-name": "disk"})
        return error
    return None


@pytest.mark.qemu
def test_we_are_refused_while_qemu_storage_daemon_writes(nbd, other, path):
    assert add_and_export(other, path) is None
    error = add_and_export(nbd, path)
    assert error is not None and error.cls == "GenericError"
    assert "lock" in error.desc and str(path) in error.desc
    assert nbd.nodes() == {} and nbd.exports() == {}
    with NbdRaw.opened(other.nbd_path, "disk") as client:
        assert client.write(0, b"theirs") == 0
    other.stop()
    assert add_and_export(nbd, path) is None


@pytest.mark.qemu
def test_qemu_storage_daemon_is_refused_while_we_write(nbd, other, path):
    assert add_and_export(nbd, path) is None
    error = add_and_export(other, path)
    assert error is not None and "lock" in error.desc
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        assert client.write(0, b"ours") == 0
    nbd.stop()
    assert add_and_export(other, path) is None


@pytest.mark.qemu
def test_qemu_io_is_refused_while_we_write(nbd, path):
    need("qemu-io")
    assert add_and_export(nbd, path) is None
    done = run("qemu-io", "-f", "raw", "-c", "write 0 512", path, status=1)
    assert "lock" in done.stdout_text + done.stderr_text


@pytest.mark.qemu
def test_we_are_refused_while_qemu_io_writes(nbd, path):
    need("qemu-io")
    holder = process.popen(["qemu-io", "-f", "raw", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdin.write(b"write 0 512\n")
        holder.stdin.flush()
        wait_for(lambda: 100 + WRITE in locked_bytes(path), "qemu-io to hold the image")
        error = add_and_export(nbd, path)
        assert error is not None and "lock" in error.desc
    finally:
        holder.communicate(b"quit\n", timeout=30)
    assert add_and_export(nbd, path) is None


def test_two_bulkheads_exclude_each_other(nbd, new_server, path):
    second = new_server().start().nbd_start()
    assert add_and_export(nbd, path) is None
    error = add_and_export(second, path)
    assert error is not None and "lock" in error.desc
    nbd.stop()
    assert add_and_export(second, path) is None


def test_a_second_writer_in_the_same_monitor_is_refused_too(nbd, path):
    assert add_and_export(nbd, path) is None
    with pytest.raises(QmpError) as error:
        nbd.add_file("again", path)
        nbd.export("again")
    assert "lock" in error.value.desc


def test_locking_off_takes_no_lock(nbd, path):
    nbd.add_file("disk", path, locking="off")
    nbd.export("disk")
    assert locked_bytes(path) == set()


def test_a_refused_lock_leaves_nothing_behind(nbd, path):
    """After a conflict all bytes are given back."""
    holder = open(path, "r+b")
    fcntl.fcntl(holder, F_OFD_SETLK, flock_bytes(fcntl.F_RDLCK, 200 + WRITE))  # "I do not share writing"
    assert add_and_export(nbd, path) is not None
    holder.close()
    assert locked_bytes(path) == set()
    assert add_and_export(nbd, path) is None


def test_the_monitor_not_the_worker_holds_the_lock(nbd, path):
    """A worker that dies releases nothing: the image stays locked until the monitor has taken note and lets go."""
    nbd.deaths_expected = True
    assert add_and_export(nbd, path) is None
    worker = nbd.export_worker("exp-disk")
    held = locked_bytes(path)
    os.kill(nbd.pid, signal.SIGSTOP)
    try:
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: not process.alive(worker["pid"]), "the worker to die")
        assert locked_bytes(path) == held
    finally:
        os.kill(nbd.pid, signal.SIGCONT)
    nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert locked_bytes(path) == set()


def test_a_node_that_nobody_uses_is_not_locked(nbd, path):
    """As in qemu-storage-daemon: locks come with the first export of a node and go with its last."""
    nbd.add_file("disk", path)
    assert locked_bytes(path) == set()
    nbd.export("disk", id="one", name="one")
    nbd.export("disk", id="two", name="two", writable=False)
    writer = locked_bytes(path)
    nbd.qmp.cmd("block-export-del", {"id": "one"})
    assert locked_bytes(path) == writer - {100 + WRITE, 200 + WRITE}
    nbd.qmp.cmd("block-export-del", {"id": "two"})
    assert locked_bytes(path) == set()
