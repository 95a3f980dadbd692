# SPDX-License-Identifier: BSD-2-Clause
"""
The monitor never waits for a path. Images on a file system that does not answer, here the FUSE export of another bulkhead
whose worker is stopped: commands that need it fail when their time is over, all others are answered at once, and all is
well when it answers again. And the opener itself, which does what may take long.
"""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from support import fuse, images, process
from support.fuse import mount_point
from support.images import MIB
from support.nbdraw import NbdRaw
from support.process import wait_for

DEADLINE = 10  # OPENER_DEADLINE_MS


@pytest.fixture
def mounted(new_server, image, tmp):
    """An image behind a FUSE export of another server, whose worker can be stopped."""
    fuse.need()
    other = new_server().start()
    other.add_file("disk", image("below.img"))
    other.point = mount_point(tmp / "mnt")
    fuse.export(other, "disk", other.point)
    other.worker = other.export_worker("exp-disk")["pid"]
    yield other
    os.kill(other.worker, signal.SIGCONT)


@contextlib.contextmanager
def stopped(mounted):
    os.kill(mounted.worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mounted.worker, signal.SIGCONT)


class Command(threading.Thread):
    """A command on a connection of its own, whose reply takes long."""

    def __init__(self, server, name, arguments):
        super().__init__()
        self.qmp = server.connect()
        self.name, self.arguments = name, arguments
        self.start()

    def run(self):
        begin = time.monotonic()
        self.result = self.error = None
        try:
            self.result = self.qmp.cmd(self.name, self.arguments)
        except Exception as error:  # what it was is looked at by the test
            self.error = error
        self.seconds = time.monotonic() - begin

    def end(self):
        self.join()
        self.qmp.close()
        return self


def assert_timed_out(command):
    command.end()
    assert command.error is not None and "did not answer in time" in str(command.error), command.error
    assert DEADLINE - 1 < command.seconds < DEADLINE + 8, command.seconds


def assert_prompt(server, rounds=10):
    """Commands that have nothing to do with it are answered at once."""
    times = []
    for _ in range(rounds):
        begin = time.monotonic()
        server.qmp.cmd("query-block-exports")
        server.qmp.cmd("__org.bulkhead_query-workers")
        times.append(time.monotonic() - begin)
    assert sorted(times)[rounds // 2] < 0.1, times


def size_for_clients(server, name):
    with NbdRaw.opened(server.nbd_path, name) as client:
        client.disconnect()
        return client.size


def opener_of(server):
    return server.workers(role="opener")[0]["pid"]


# ---- Our own mounts ----

@pytest.fixture
def own_mount(server, image, tmp):
    fuse.need()
    server.add_file("disk", image("below.img"))
    server.point = mount_point(tmp / "mnt")
    fuse.export(server, "disk", server.point)
    return server


@pytest.mark.parametrize("by", ["name", "link"])
def test_an_image_on_our_own_mount_is_refused(own_mount, tmp, by):
    path = own_mount.point
    if by == "link":
        path = tmp / "link"
        path.symlink_to(own_mount.point)
    error = own_mount.qmp.error("blockdev-add", own_mount.file_node("again", path))
    assert "it is the FUSE export 'exp-disk' of this program" in error.desc
    assert "again" not in own_mount.nodes()


def test_an_image_below_our_own_mount_is_no_folder(own_mount):
    error = own_mount.qmp.error("blockdev-add", own_mount.file_node("again", own_mount.point / "file"))
    assert "Not a directory" in error.desc


def test_our_own_mount_is_refused_though_its_worker_hangs(own_mount):
    worker = own_mount.export_worker("exp-disk")["pid"]
    os.kill(worker, signal.SIGSTOP)
    begin = time.monotonic()
    error = own_mount.qmp.error("blockdev-add", own_mount.file_node("again", own_mount.point))
    assert time.monotonic() - begin < DEADLINE / 2
    os.kill(worker, signal.SIGCONT)
    assert "of this program" in error.desc


# ---- A file system that does not answer ----

def test_an_image_that_cannot_be_opened_in_time_is_an_error_and_nobody_else_waits(server, mounted, image):
    server.nbd_start()
    with stopped(mounted):
        adding = Command(server, "blockdev-add", server.file_node("hangs", mounted.point))
        time.sleep(0.2)
        assert_prompt(server)
        server.add_file("good", image("good.img"))
        server.export("good")
        assert "hangs" not in server.nodes()
        # The name is taken meanwhile.
        assert "still being opened" in server.qmp.error("blockdev-del", {"node-name": "hangs"}).desc
        assert "hangs" in server.qmp.error("blockdev-add", server.file_node("hangs", image("other.img"))).desc
        gone = server.connect()
        gone.send({"execute": "blockdev-add", "arguments": server.file_node("gone", mounted.point)})
        gone.close()
        assert_timed_out(adding)
        assert_prompt(server)
    assert str(mounted.point) in str(adding.error)
    wait_for(lambda: server.qmp.cmd("blockdev-add", server.file_node("gone2", mounted.point)) == {}, "it to answer")
    server.add_file("hangs", mounted.point)
    server.export("hangs")


def test_operations_on_an_image_that_hangs_fail_in_time_and_work_again_later(server, mounted):
    server.nbd_start()
    server.add_file("disk", mounted.point)
    server.export("disk", writable=False, id="before", name="before")
    size = server.nodes()["disk"]["image"]["virtual-size"]
    with stopped(mounted):
        resizing = Command(server, "block_resize", {"node-name": "disk", "size": size // 2})
        exporting = Command(server, "block-export-add", {"type": "nbd", "id": "e", "node-name": "disk",
                                                         "writable": True})
        time.sleep(0.2)
        assert_prompt(server)
        begin = time.monotonic()
        assert server.nodes()["disk"]["image"]["virtual-size"] == size
        assert time.monotonic() - begin < 1
        assert_timed_out(resizing)
        assert_timed_out(exporting)
    wait_for(lambda: size_for_clients(server, "before") == size // 2, "what was late to be known to the worker")
    wait_for(lambda: server.nodes()["disk"]["image"]["virtual-size"] == size // 2, "what was late to be known")
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": size})
    server.export("disk")
    assert server.nodes()["disk"]["image"]["virtual-size"] == size


def test_a_node_whose_image_hangs_can_be_removed_and_the_program_ends(server, mounted):
    server.add_file("disk", mounted.point)
    with stopped(mounted):
        begin = time.monotonic()
        removing = Command(server, "blockdev-del", {"node-name": "disk"})
        assert_prompt(server)
        removing.end()
        assert removing.error is None and time.monotonic() - begin < DEADLINE
        server.add_file("another", "/dev/zero", "host_device", **{"read-only": True})
        server.qmp.cmd("quit")
        assert server.popen.wait(DEADLINE) == 3  # something was left behind
    server.gone()


def test_objects_whose_file_hangs_fail_in_time(server, mounted):
    """And their ids are free again."""
    objects = [{"qom-type": "secret", "id": "s", "file": str(mounted.point)},
               {"qom-type": "authz-list-file", "id": "l", "filename": str(mounted.point), "refresh": True},
               {"qom-type": "tls-creds-x509", "id": "t", "dir": f"/proc/{mounted.pid}/cwd/nowhere", "endpoint": "server"}]
    with stopped(mounted):
        adding = [Command(server, "object-add", members) for members in objects[:2]]
        server.qmp.error("object-add", objects[2])
        assert_prompt(server)
        assert "still being made" in server.qmp.error("object-del", {"id": "s"}).desc
        for command in adding:
            assert_timed_out(command)
    server.qmp.cmd("object-add", {"qom-type": "secret", "id": "s", "data": "x"})
    assert "more than" in server.qmp.error("object-add", {**objects[0], "id": "s2"}).desc


# ---- Host names ----

NAMES = f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"  # of this run; another one may go on beside it

@pytest.fixture
def silent_names(new_server, tmp):
    """A server that asks a name server which never answers."""
    if os.getuid() != 0:
        pytest.skip("a name server of our own needs root")
    process.need("unshare", "mount")
    (tmp / "resolv.conf").write_text(f"nameserver {NAMES}\noptions timeout:30\n")
    made = process.run("unshare", "-m", "mount", "--bind", tmp / "resolv.conf", "/etc/resolv.conf", status=None)
    if made.returncode != 0:
        pytest.skip(f"/etc/resolv.conf cannot be another one: {made.stderr_text.strip()}")
    server = new_server()
    server.prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {tmp}/resolv.conf /etc/resolv.conf && exec "$@"', "sh"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.bind((NAMES, 53))
        server.names = names
        yield server.start()


def listen(host, port="0"):
    return {"addr": {"type": "inet", "data": {"host": host, "port": port}}}


def test_a_host_name_that_nobody_resolves_in_time_is_an_error_and_nobody_else_waits(silent_names):
    server = silent_names
    starting = Command(server, "nbd-server-start", listen("slow.example"))
    server.names.settimeout(5)
    assert b"slow" in server.names.recv(512)
    assert_prompt(server)
    assert [w["role"] for w in server.workers(role="resolver")] == ["resolver"]
    assert "already running" in server.qmp.error("nbd-server-start", listen("127.0.0.1")).desc
    starting.end()
    assert "address resolution failed for slow.example:0: no name server answered in time" in str(starting.error)
    wait_for(lambda: not server.workers(role="resolver"), "the resolver to be ended")
    server.qmp.cmd("nbd-server-start", listen("127.0.0.1"))


def test_the_program_ends_while_a_name_is_resolved(silent_names):
    starting = Command(silent_names, "nbd-server-start", listen("slow.example"))
    silent_names.names.settimeout(5)
    silent_names.names.recv(512)
    begin = time.monotonic()
    silent_names.stop()
    assert time.monotonic() - begin < DEADLINE / 2
    starting.end()


def test_a_name_of_the_hosts_file_needs_no_name_server(silent_names):
    silent_names.qmp.cmd("nbd-server-start", listen("localhost"))


# ---- The opener ----

def test_an_opener_that_is_killed_is_replaced(nbd, image):
    nbd.deaths_expected = True
    nbd.add_file("disk", image("disk.img"))
    nbd.export("disk")
    killed = opener_of(nbd)
    os.kill(killed, signal.SIGKILL)
    event = nbd.qmp.wait_event("__org.bulkhead_WORKER_GONE", role="opener")
    assert event["data"]["pid"] == killed
    # Images that are open are not affected: each is held by a process of its own.
    nbd.qmp.cmd("block_resize", {"node-name": "disk", "size": 8 * MIB})
    nbd.add_file("new", image("new.img"))
    nbd.export("new")
    wait_for(lambda: nbd.workers(role="opener", state="running"), "the opener to be replaced")
    assert opener_of(nbd) != killed


def test_the_death_of_the_process_that_holds_an_image_is_told(server, image):
    server.deaths_expected = True
    server.add_file("disk", image("disk.img"))
    [holder] = process.children_of(opener_of(server))
    os.kill(holder, signal.SIGKILL)
    wait_for(lambda: "is gone" in server.log_text(), "the log to tell")
    assert "gone" in server.qmp.error("block_resize", {"node-name": "disk", "size": MIB}).desc
    server.qmp.cmd("blockdev-del", {"node-name": "disk"})
    server.add_file("disk", image("disk.img"))


def test_no_process_holds_an_image_that_is_closed(server, image):
    server.add_file("disk", image("disk.img"))
    assert len(process.children_of(opener_of(server))) == 1
    server.qmp.cmd("blockdev-del", {"node-name": "disk"})
    server.qmp.error("blockdev-add", server.file_node("disk", "/nowhere/at/all"))
    wait_for(lambda: process.children_of(opener_of(server)) == [], "its process to end")


def test_the_monitor_has_no_descriptor_of_an_image(nbd, image):
    path = image("disk.img")
    nbd.add_file("disk", path)
    nbd.export("disk")
    held = [os.readlink(f"/proc/{nbd.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{nbd.pid}/fd")]
    assert str(path) not in held
