# SPDX-License-Identifier: BSD-2-Clause
"""
Front-ends that pass descriptors which nobody can close: a file of FUSE whose server does not answer. Whoever closes it,
also by ending, waits where no signal reaches. It must be nobody who holds an image.
"""

import array
import contextlib
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys

import pytest

from support import process, sandbox, vhost
from support.images import MIB

# A front-end in a process of its own, which hangs as well when it ends: connect, pass the file along with a request.
FRONTEND = """
import array, os, socket, struct, sys
path, file, request, payload = sys.argv[1:]
fd = os.open(file, os.O_RDWR)
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.sendall(struct.pack("<III", 3, 1, 0))
payload = bytes.fromhex(payload)
sock.sendmsg([struct.pack("<III", int(request), 1, len(payload)) + payload],
             [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
sock.settimeout(20)
try:
    while sock.recv(4096):
        pass
except ConnectionResetError:
    pass
print("closed", flush=True)
os.read(0, 1)
"""

# Requests that carry a descriptor, and one that does not.
REQUESTS = {
    "call": (13, "0000000000000000"), "err": (14, "0000000000000000"), "log": (7, ""),
    "memory": (5, "01000000" + "00000000" + "00" * 8 + "0000100000000000" + "00" * 16),
    "inflight": (32, "0010000000000000" + "00" * 8 + "01008000"), "back-end": (21, ""), "none": (1, ""),
}


@pytest.fixture
def hung(build, tmp):
    """The path of a file that must not be closed, on a mount that ends with the test."""
    sandbox.need_root()
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this host has no /dev/fuse")
    mount = tmp / "hung"
    mount.mkdir()
    popen = process.popen([vhost.program(build, "hung-fuse"), mount], stdout=subprocess.PIPE, text=True)
    if popen.stdout.readline() != "ready\n":
        popen.wait()
        pytest.skip("this host does not let root mount a FUSE file system")
    yield mount / "file"
    popen.kill()  # frees whoever waits for it
    popen.wait()
    process.run("umount", "-l", mount, status=None)


@contextlib.contextmanager
def frontend(path, file, request):
    """One that passed the file and was thrown out."""
    words = [sys.executable, "-c", FRONTEND, path, file, *map(str, REQUESTS[request])]
    popen = process.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout.readline() == "closed\n", request
        yield popen
    finally:
        popen.kill()  # it waits for its own file system


def doors(server):
    return {row["pid"]: row for row in server.workers(role="vhost-door")}


def hangs(pid):
    """Whether a process waits for a FUSE server, by the name of the function of the kernel."""
    try:
        return any(pathlib.Path(f"/proc/{pid}/task/{task}/wchan").read_text() == "request_wait_answer"
                   for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False


def in_flight(pid):
    """How many descriptors wait to be received in each of the sockets of a process, the smallest number first."""
    texts = [fd.read_text() for fd in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    return sorted(int(line.split()[1]) for text in texts for line in text.splitlines()
                  if line.startswith("scm_fds:") and line.split()[1] != "0")


def serves(build, path):
    client = vhost.Frontend(build, path)
    assert client.cmd("write", 8, 8, 0x5a) == "ok"
    assert client.cmd("read", 8, 1) == "ok " + "5a" * 16
    client.close()


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_file_that_cannot_be_closed_does_not_stop_the_export(server, image, build, hung, request_):
    server.add_file("disk", image(size=64 * MIB))
    path = vhost.export(server, "disk")
    worker = server.export_worker("exp-disk")["pid"]
    door, = doors(server)
    with frontend(path, hung, request_):
        process.wait_for(lambda: hangs(door), "the door to hang, or there is nothing to be seen here")
        serves(build, path)
        assert server.export_worker("exp-disk")["pid"] == worker and not hangs(worker)
        vhost.remove(server, "exp-disk")
        server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        assert hangs(door) and not process.alive(worker)
        server.qmp.cmd("blockdev-del", {"node-name": "disk"})
    assert "was dropped: it passed a descriptor" in server.log_text()


@pytest.mark.parametrize("request_", [12, 13, 14], ids=["kick", "call", "err"])
def test_an_epoll_is_no_eventfd(server, image, build, request_):
    """Whoever waits for it asks every file in it, one of a FUSE server that does not answer too."""
    server.add_file("disk", image(size=64 * MIB))
    path = vhost.export(server, "disk")
    worker = server.export_worker("exp-disk")["pid"]
    with socket.socket(socket.AF_UNIX) as frontend_, select.epoll() as passed:
        frontend_.settimeout(20)
        frontend_.connect(str(path))
        frontend_.sendmsg([struct.pack("<III", request_, 1, 8) + bytes(8)],
                          [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))])
        with contextlib.suppress(ConnectionResetError):
            assert frontend_.recv(1) == b""
    process.wait_for(lambda: "was dropped: it passed a descriptor" in server.log_text(), "it to be told")
    serves(build, path)
    assert server.export_worker("exp-disk")["pid"] == worker


def test_descriptors_that_nobody_reads_keep_no_other_export_from_them(server, image, build):
    """They count for the account: a front-end that sends more and more of them while its worker is stopped fills little."""
    for name in ("disk", "other"):
        server.add_file(name, image(f"{name}.img", size=64 * MIB))
    paths = [vhost.export(server, name) for name in ("disk", "other")]
    worker = server.export_worker("exp-disk")["pid"]
    with socket.socket(socket.AF_UNIX) as greedy:
        greedy.connect(str(paths[0]))
        process.wait_for(lambda: server.export_worker("exp-disk")["clients"] == 1, "it to be connected")
        os.kill(worker, signal.SIGSTOP)
        fds = [os.memfd_create("x")] * 250
        greedy.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for byte in struct.pack("<III", 3, 1, 8) + bytes(8) + struct.pack("<III", 3, 1, 0) * 1000:
                greedy.sendmsg([bytes([byte])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        serves(build, paths[1])
        held = in_flight(worker)
        os.kill(worker, signal.SIGCONT)
    # In the stream from the door; those in the connection itself, which the worker answers on, are the front-end's.
    assert len(held) == 2 and held[0] <= 128 < held[1], held
    serves(build, paths[0])


def test_doors_that_hang_are_bounded(server, image, build, hung):
    """Eight; nobody is let in until they can end, and then somebody is."""
    server.add_file("disk", image(size=64 * MIB))
    path = vhost.export(server, "disk")
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(frontend(path, hung, "call"))
        process.wait_for(lambda: "8 of its doors have not ended" in server.log_text(), "the bound to be reached")
        assert len([pid for pid in doors(server) if hangs(pid)]) == 8
    hung_server = next(pid for pid, popen in process._ours.items() if "hung-fuse" in str(popen.args[0]))
    os.kill(hung_server, 9)
    process.wait_for(lambda: len(doors(server)) == 1, "the doors to end, and another one to come")
    serves(build, path)
