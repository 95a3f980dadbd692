# SPDX-License-Identifier: BSD-2-Clause
"""
Storage that hangs for a while, and programs that are ended meanwhile. The image stays locked against other programs as
long as an old write can still land, whoever has died; and it is free soon after that.
"""

import os
import signal
import time

import pytest

from support import fuse, images
from support.hanging import SIZE, hanging_storage, in_flight, threads_stuck
from support.locks import WRITE, locked_bytes
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.process import run, wait_for
from support.qmp import QmpError

WRITER = {100 + WRITE, 200 + WRITE}
DATA = b"landed late".ljust(4096, b".")
LEFT_BEHIND = 3  # exit status
ENGINES = ["io_uring", "threads"]


@pytest.fixture
def storage(tmp):
    with hanging_storage(tmp) as storage:
        yield storage


class Stuck:
    """An export whose worker has a write of DATA at 0 under way, which the storage does not answer."""

    def __init__(self, server, storage, kind, aio):
        self.server = server
        self.storage = storage
        server.deaths_expected = True
        self.path = storage.file() if kind == "file" else storage.device()
        driver = "file" if kind == "file" else "host_device"
        server.add_file("disk", self.path, driver, aio=aio, cache={"direct": True})
        server.export("disk")
        self.worker = server.export_worker("exp-disk")
        if self.worker["engine"] != aio:
            pytest.skip(f"no {aio} here")
        self.client = NbdRaw.opened(server.nbd_path, "disk")
        storage.freeze()
        self.client.request(CMD_WRITE, 0, len(DATA), data=DATA)
        if kind == "file":
            wait_for(lambda: threads_stuck(self.worker["pid"]), "the write to hang")
        else:
            wait_for(lambda: in_flight(self.path), "the write to be on its way to the disk")

    def assert_locked(self):
        assert WRITER <= locked_bytes(self.path)

    def assert_free_once_landed(self):
        """Thaw: soon another program can write, and what it writes stays there."""
        theirs = b"\x55" * len(DATA)
        self.storage.thaw()
        wait_for(lambda: not locked_bytes(self.path), "the image to be free", 10)
        with open(self.path, "r+b", buffering=0) as image:
            image.write(theirs)
            os.fsync(image.fileno())
        time.sleep(0.2)
        assert images.read(self.path, 0, len(DATA)) == theirs


@pytest.fixture(params=[(kind, aio) for kind in ("file", "device") for aio in ENGINES], ids="-".join)
def stuck(request, storage, nbd):
    stuck = Stuck(nbd, storage, *request.param)
    yield stuck
    stuck.client.close()
    storage.thaw()


def test_the_image_stays_locked_when_the_monitor_is_killed(stuck):
    stuck.server.workers()
    stuck.server.note_children()
    stuck.server.popen.kill()
    stuck.server.popen.wait()
    stuck.assert_locked()
    stuck.assert_free_once_landed()
    stuck.server.gone(killed=True)


@pytest.mark.qemu
def test_qemu_is_refused_until_the_write_has_landed(storage, nbd):
    stuck = Stuck(nbd, storage, "file", "threads")
    nbd.workers()
    nbd.note_children()
    nbd.popen.kill()
    nbd.popen.wait()
    write = ("qemu-io", "-f", "raw", "-c", "write -P 0x55 0 4k", stuck.path)
    done = run(*write, status=1)
    assert "lock" in done.stdout_text + done.stderr_text
    storage.thaw()
    stuck.client.close()
    wait_for(lambda: run(*write, status=None).returncode == 0, "qemu-io to get the image")
    nbd.gone(killed=True)


def test_the_image_stays_locked_when_the_program_ends(stuck):
    """`quit` waits for the write as long as it waits for anything, then ends, and its exit status tells what it left."""
    server = stuck.server
    server.workers()
    server.note_children()
    os.kill(stuck.worker["pid"], signal.SIGKILL)  # so that only the time for what was killed has to pass
    started = time.monotonic()
    server.qmp.cmd("quit")
    assert server.popen.wait(20) == LEFT_BEHIND
    assert time.monotonic() - started < 6
    assert "is left behind" in server.log_text()
    stuck.assert_locked()
    stuck.assert_free_once_landed()
    server.gone()


def test_a_worker_that_cannot_be_ended_is_lost(stuck):
    """Its export ends, the image stays locked, and all is given back when the storage goes on."""
    server, qmp, pid = stuck.server, stuck.server.qmp, stuck.worker["pid"]
    os.kill(pid, signal.SIGKILL)
    event = qmp.wait_event("__org.bulkhead_WORKER_LOST", timeout=6)
    assert event["data"] == {"role": "nbd-export", "pid": pid, "export": "exp-disk"}
    qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk", timeout=1)
    assert server.exports() == {}
    lost, = server.workers(state="lost")
    assert lost["pid"] == pid and lost["export"] == "exp-disk"
    for name, arguments in (("blockdev-del", {"node-name": "disk"}),
                            ("block_resize", {"node-name": "disk", "size": SIZE}),
                            ("block-export-add", {"type": "nbd", "id": "exp-disk", "node-name": "disk", "writable": True})):
        with pytest.raises(QmpError) as error:
            qmp.cmd(name, arguments)
        assert name == "blockdev-del" or f"process {pid}" in error.value.desc
    stuck.assert_locked()
    stuck.storage.thaw()
    qmp.wait_event("__org.bulkhead_WORKER_GONE", pid=pid)
    assert not locked_bytes(stuck.path) and not server.workers(state="lost")
    server.export("disk")
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.write(0, b"new") == 0
    server.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "hard"})
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    server.qmp.cmd("blockdev-del", {"node-name": "disk"})
    assert not locked_bytes(stuck.path)


@pytest.mark.parametrize("how", ["del", "stop"])
def test_a_drain_that_hangs_ends_in_time(storage, nbd, how):
    """block-export-del and nbd-server-stop wait for what is in flight, kill, and go on; QMP answers meanwhile."""
    stuck = Stuck(nbd, storage, "file", "threads")
    started = time.monotonic()
    with nbd.connect() as other:
        if how == "del":
            other.send({"execute": "block-export-del", "arguments": {"id": "exp-disk", "mode": "hard"}})
        else:
            other.send({"execute": "nbd-server-stop"})
        nbd.qmp.cmd("query-block-exports", timeout=1)
        nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        assert "return" in other.reply(1)
    assert 9 < time.monotonic() - started < 16
    assert len(nbd.workers(state="lost")) == 1
    if how == "stop":
        nbd.nbd_start()
    stuck.client.close()
    storage.thaw()
    nbd.qmp.wait_event("__org.bulkhead_WORKER_GONE")


def test_many_that_hang_end_together(storage, nbd):
    """SIGTERM with five workers that nothing ends: one time limit for all, an exit status that says so."""
    nbd.deaths_expected = True
    paths = [storage.file(f"{n}.img") for n in range(5)]
    for n, path in enumerate(paths):
        nbd.add_file(f"n{n}", path)
        nbd.export(f"n{n}")
    clients = [NbdRaw.opened(nbd.nbd_path, f"n{n}") for n in range(5)]
    pids = [worker["pid"] for worker in nbd.workers(role="nbd-export")]
    storage.freeze()
    for client in clients:
        client.request(CMD_WRITE, 0, 4096, data=DATA)
    wait_for(lambda: all(map(threads_stuck, pids)), "all writes to hang")
    nbd.note_children()
    started = time.monotonic()
    nbd.popen.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    nbd.popen.send_signal(signal.SIGTERM)
    assert nbd.popen.wait(30) == LEFT_BEHIND
    assert time.monotonic() - started < 17
    assert all(WRITER <= locked_bytes(path) for path in paths)
    for client in clients:
        client.close()
    storage.thaw()
    nbd.gone()


# ---- What was said is true at once ----

def make_export(server, storage, kind, path):
    """Export path, with something written; what has to be closed before the export can be removed."""
    server.add_file("disk", path)
    if kind == "nbd":
        server.export("disk", id="e")
        client = NbdRaw.opened(server.nbd_path, "disk")
        assert client.write(0, bytes(65536)) == 0
        return client
    elif kind == "fuse":
        point = fuse.mount_point(server.dir / "mnt")
        fuse.export(server, "disk", point, ident="e")
        fuse.python("open(sys.argv[1], 'r+b').write(bytes(65536))", point)
    else:
        server.qmp.cmd("block-export-add", {"type": kind, "id": "e", "node-name": "disk", "writable": True,
                                            "addr": {"type": "unix", "path": str(server.dir / "vhost")}})
    return None


def end_export(server, how):
    if how == "killed":
        os.kill(server.export_worker("e")["pid"], signal.SIGKILL)
    elif how == "server-stop":
        server.qmp.cmd("nbd-server-stop")
    else:
        server.qmp.cmd("block-export-del", {"id": "e", "mode": "hard"})
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
    server.qmp.cmd("blockdev-del", {"node-name": "disk"})
    if how == "server-stop":
        server.nbd_start()


@pytest.mark.parametrize("kind, how", [("nbd", "del"), ("nbd", "killed"), ("nbd", "server-stop"), ("fuse", "del"),
                                       ("fuse", "killed"), ("vhost-user-blk", "del"), ("vhost-user-blk", "killed")])
def test_an_export_that_is_deleted_has_closed_its_image(storage, nbd, kind, how):
    """Not a little later: the locks are free and its file system can be unmounted."""
    if kind == "fuse":
        fuse.need()
    nbd.deaths_expected = True
    for _ in range(8):
        path = storage.file()
        client = make_export(nbd, storage, kind, path)
        end_export(nbd, how)
        assert not locked_bytes(path)
        assert storage.unmount()
        storage.mount_again()
        if client is not None:
            client.close()


def test_a_program_that_has_ended_has_closed_its_images(storage, new_server):
    for _ in range(8):
        server = new_server().start().nbd_start()
        path = storage.file()
        server.add_file("disk", path)
        server.export("disk")
        with NbdRaw.opened(server.nbd_path, "disk") as client:
            assert client.write(0, bytes(65536)) == 0
            server.qmp.cmd("quit")
            assert server.popen.wait(20) == 0
            assert not locked_bytes(path)
            assert storage.unmount()
        storage.mount_again()
        server.stop()
