# SPDX-License-Identifier: BSD-2-Clause
"""
FUSE exports whose worker, monitor or mounter is killed: no stale mount, no client that hangs, nothing that concerns
others, and a mount point that can be used again at once.
"""

import os
import signal
import subprocess
import time

import pytest

from support import fuse, locks, process
from support.fuse import as_account, mount_point, mounts_on
from support.images import MIB
from support.process import wait_for
from support.qmp import Qmp, QmpError

SIZE = 32 * MIB


@pytest.fixture(autouse=True)
def needs_fuse():
    fuse.need()
    process.need("fio")


@pytest.fixture
def exports(server, image, tmp):
    """Exports a and b."""
    server.deaths_expected = True
    server.points, server.images = {}, {}
    for name in "ab":
        server.images[name] = image(f"{name}.img", size=SIZE)
        server.add_file(name, server.images[name])
        server.points[name] = mount_point(tmp / f"{name}.mnt")
        fuse.export(server, name, server.points[name], ident=name)
    return server


def has_open(pid, path):
    """Without asking whoever serves the path."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(path) for fd in os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:  # it is just closing one, or ending
        return False


def load(server, name, seconds):
    """
    fio on an export, verifying what it writes. Both jobs have the file open when this returns: one that came later, after
    the mount, would write to the file below.
    """
    path = server.points[name]
    popen = fuse.popen_as_account(
        "fio", "--name=load", f"--filename={path}", "--rw=randrw", "--bs=4k", "--ioengine=libaio",
        "--iodepth=16", "--direct=1", "--numjobs=2", "--size=8M", "--offset_increment=8M", "--time_based",
        f"--runtime={seconds}", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512", "--allow_file_create=0",
        "--exitall_on_error=1", f"--aux-path={path.parent}", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: [has_open(pid, path) for pid in process.children_of(popen.pid)] == [True, True], "the load to run")
    time.sleep(0.5)
    return popen


def ended_with_errors(popen):
    text = popen.communicate(timeout=30)[0]
    assert popen.returncode != 0, f"fio noticed nothing:\n{text}"
    assert "error" in text


def children_named(pid, word):
    return [p for p in process.children_of(pid) if word in process.command(p)]


def mounter_pid(server):
    found = children_named(server.popen.pid, "bulkhead-mounter")
    assert len(found) == 1
    return found[0]


def free_again(path):
    """The file below is there. Not its content: a load that opens the path once more now writes to it."""
    assert mounts_on(path) == []
    assert path.stat().st_dev == path.parent.stat().st_dev


def test_killed_worker_under_load(exports):
    victim = load(exports, "a", 30)
    bystander = load(exports, "b", 4)
    pid = exports.export_worker("a")["pid"]
    os.kill(pid, signal.SIGKILL)
    gone = exports.qmp.wait_event("__org.bulkhead_WORKER_GONE", pid=pid)["data"]
    assert gone["export"] == "a" and gone["signal"] == 9
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
    free_again(exports.points["a"])
    ended_with_errors(victim)
    text = bystander.communicate(timeout=60)[0]
    assert bystander.returncode == 0, text
    fuse.export(exports, "a", exports.points["a"], ident="a")
    as_account("cmp", exports.points["a"], exports.images["a"])


def test_killed_worker_again_and_again(exports):
    for _ in range(15):
        pid = exports.export_worker("a")["pid"]
        os.kill(pid, signal.SIGKILL)
        exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
        free_again(exports.points["a"])
        fuse.export(exports, "a", exports.points["a"], ident="a")


@pytest.mark.control
def test_stopped_worker_is_removed_by_force(exports):
    """A worker that answers nothing keeps neither the monitor nor the mounter from removing it."""
    pid = exports.export_worker("a")["pid"]
    os.kill(pid, signal.SIGSTOP)
    client = fuse.popen_as_account("dd", f"if={exports.points['a']}", "of=/dev/null", "count=1",
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    exports.qmp.cmd("query-version")
    with pytest.raises(QmpError, match="already used by export 'a'"):
        exports.qmp.cmd("block-export-add", {"type": "fuse", "id": "c", "node-name": "b",
                                             "mountpoint": str(exports.points["a"])})
    assert time.monotonic() - started < 5
    exports.qmp.cmd("block-export-del", {"id": "a", "mode": "hard"})
    wait_for(lambda: mounts_on(exports.points["a"]) == [], "the mount to go")
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a", timeout=30)
    client.wait(30)
    free_again(exports.points["a"])


def test_mount_point_below_a_stopped_export_is_refused_at_once(exports):
    os.kill(exports.export_worker("a")["pid"], signal.SIGSTOP)
    started = time.monotonic()
    for path in (exports.points["a"] / "file", exports.points["a"] / ".." / exports.points["a"].name):
        with pytest.raises(QmpError, match="'a.mnt' in it is a file|already used by export 'a'"):
            exports.qmp.cmd("block-export-add", {"type": "fuse", "id": "c", "node-name": "b", "mountpoint": str(path)})
    assert time.monotonic() - started < 5
    os.kill(exports.export_worker("a")["pid"], signal.SIGCONT)


def add_hanging(server, folder, image, ident):
    """A second session that adds an export whose mount point hangs; the reply is not waited for."""
    server.add_file(ident, image(f"{ident}.img", size=SIZE))
    session = Qmp.connect(server.qmp_path)
    session.send({"execute": "block-export-add", "arguments": {
        "type": "fuse", "id": ident, "node-name": ident, "mountpoint": str(folder / "folder" / "file")}})
    return session


def test_mount_point_that_hangs_holds_up_no_other_export(exports, image, tmp):
    with fuse.hanging_file_system(tmp / "hanging") as hanging:
        with add_hanging(exports, hanging.folder, image, "c") as session:
            assert hanging.asked.wait(10)
            for _ in range(5):
                started = time.monotonic()
                exports.qmp.cmd("block-export-del", {"id": "a"})
                fuse.export(exports, "a", exports.points["a"], ident="a")
                assert time.monotonic() - started < 3
            answer = session.reply()
            assert "does its file system hang?" in answer["error"]["desc"]
            assert "c" not in exports.exports()


def test_end_does_not_wait_for_a_mount_point_that_hangs(exports, image, tmp):
    with fuse.hanging_file_system(tmp / "hanging") as hanging:
        with add_hanging(exports, hanging.folder, image, "c"):
            assert hanging.asked.wait(10)
            started = time.monotonic()
            exports.popen.terminate()
            exports.popen.wait(20)
            assert time.monotonic() - started < 10
    for path in exports.points.values():
        free_again(path)
    monitor_is_dead_quietly(exports)


def monitor_is_dead(server):
    server.popen.wait(20)
    wait_for(lambda: not process.orphans(), "workers and mounter to end")
    server.gone(killed=True)


def images_are_free(exports):
    """What the workers had under way may still land, and keeps the images locked until it has."""
    wait_for(lambda: not any(locks.locked_bytes(p) for p in exports.images.values()), "the images to be free", 10)


def test_killed_monitor_under_load(exports, new_server):
    loads = [load(exports, name, 30) for name in "ab"]
    exports.note_children()
    exports.popen.kill()
    wait_for(lambda: not any(mounts_on(p) for p in exports.points.values()), "the mounts to go", timeout=10)
    for popen in loads:
        ended_with_errors(popen)
    monitor_is_dead(exports)
    for path in exports.points.values():
        free_again(path)
    images_are_free(exports)
    again = new_server().start()
    for name in "ab":
        again.add_file(name, exports.images[name])
        fuse.export(again, name, exports.points[name], ident=name)


def test_killed_monitor_and_worker_under_load(exports):
    loads = [load(exports, name, 30) for name in "ab"]
    worker = exports.export_worker("a")["pid"]
    exports.note_children()
    os.kill(worker, signal.SIGKILL)
    exports.popen.kill()
    wait_for(lambda: not any(mounts_on(p) for p in exports.points.values()), "the mounts to go", timeout=10)
    for popen in loads:
        ended_with_errors(popen)
    monitor_is_dead(exports)


def test_everything_killed_at_once_is_cleaned_up_by_the_next_run(exports, new_server):
    """With the mounter too: dead mounts are left, and the next export on the same path takes their place."""
    victims = [mounter_pid(exports), exports.popen.pid, *(exports.export_worker(name)["pid"] for name in "ab")]
    exports.note_children()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    monitor_is_dead_quietly(exports)
    assert all(len(mounts_on(p)) == 1 for p in exports.points.values())
    images_are_free(exports)
    again = new_server().start()
    for name in "ab":
        again.add_file(name, exports.images[name])
        fuse.export(again, name, exports.points[name], ident=name)
        as_account("cmp", exports.points[name], exports.images[name])
    assert "cleaned up 1 stale mount" in again.log_text()


def monitor_is_dead_quietly(server):
    """Mounts may be left."""
    server.popen.wait(20)
    wait_for(lambda: not process.orphans(), "all processes to end")
    server.stopped = True
    server.qmp.close()


def test_killed_mounter(exports, tmp, image):
    """Exports go on; further ones are refused with a reason; the end is in order but for what only it could do."""
    os.kill(mounter_pid(exports), signal.SIGKILL)
    wait_for(lambda: "the mounter is gone" in exports.log_text(), "the monitor to notice")
    as_account("cmp", exports.points["a"], exports.images["a"])
    exports.add_file("c", image("c.img", size=SIZE))
    with pytest.raises(QmpError, match="restart bulkhead"):
        exports.qmp.cmd("block-export-add", {"type": "fuse", "id": "c", "node-name": "c",
                                             "mountpoint": str(mount_point(tmp / "c.mnt"))})
    exports.qmp.cmd("block-export-del", {"id": "a", "mode": "hard"})
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
    assert "stays mounted" in exports.log_text()
    for path in exports.points.values():
        as_account("fusermount3", "-u", "-z", path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_under_load_ends_in_order(exports, number):
    popen = load(exports, "a", 30)
    exports.stop(number)
    ended_with_errors(popen)
    free_again(exports.points["a"])


def test_worker_killed_while_it_starts(exports, image, tmp):
    """Whenever it dies, the client gets an error, and the mount point is free."""
    for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.03):
        exports.add_file("c", image("c.img", size=SIZE))
        path = mount_point(tmp / "c.mnt")
        exports.qmp.send({"execute": "block-export-add", "id": "add", "arguments": {
            "type": "fuse", "id": "c", "node-name": "c", "mountpoint": str(path), "writable": True}})
        deadline = time.monotonic() + 5
        while not (pids := children_named(exports.popen.pid, "bulkhead-fuse c")) and time.monotonic() < deadline:
            pass
        time.sleep(delay)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        answer = exports.qmp.reply()
        if "return" in answer:
            exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="c")
        wait_for(lambda: "c" not in exports.exports(), "the export to go")
        free_again(path)
        exports.qmp.cmd("blockdev-del", {"node-name": "c"})
