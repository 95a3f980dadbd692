# SPDX-License-Identifier: BSD-2-Clause
"""
Nobody is answered before all is served, however early he connects; and what a service manager does for that: sockets that it
passes in (sd_listen_fds(3)), and being told (sd_notify(3)).
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time

import pytest

from support import process
from support.nbdraw import NbdRaw
from support.process import wait_for
from support.qmp import Qmp


@pytest.fixture
def held(new_server, image):
    """
    A server in the middle of its command line, which waits for a client of one chardev before it makes the export: the server
    and what lets it go on.
    """
    server = new_server()
    server.gate = server.dir / "gate"
    server.spawn(*server.qmp_args(), "--nbd-server", f"addr.type=unix,addr.path={server.nbd_path}",
                 "--blockdev", f"file,node-name=disk,filename={image(data=[(0, b'content')])}",
                 "--chardev", f"socket,id=gate,path={server.gate},server=on,wait=on",
                 "--export", "nbd,id=e,node-name=disk", "--pidfile", server.pid_path)
    wait_for(server.gate.exists, "the server to wait")
    with socket.socket(socket.AF_UNIX) as opener:
        server.let_go = lambda: opener.connect(str(server.gate))
        yield server
        if server.qmp is None:
            server.qmp = Qmp.connect(server.qmp_path)
        server.qmp.cmd("quit")
        server.popen.wait(30)
    if server.kind == "qsd":
        server.gate.unlink(missing_ok=True)


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(path))
    return sock


def hears_something(sock, seconds=0.3):
    return bool(select.select([sock], [], [], seconds)[0])


@pytest.mark.contract
def test_a_qmp_client_waits_until_the_command_line_is_done(held):
    sock = connect(held.qmp_path)
    sock.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-block-exports","id":1}')
    held.qmp = Qmp(sock, negotiate=False)  # the greeting comes at once
    assert not hears_something(sock) and held.qmp.buffer == b""
    held.let_go()
    assert held.qmp.reply() == {"return": {}}
    assert [export["id"] for export in held.qmp.reply()["return"]] == ["e"]


@pytest.mark.contract
def test_an_nbd_client_waits_until_its_export_is_there(held):
    sock = connect(held.nbd_path)
    assert not hears_something(sock)
    held.let_go()
    with NbdRaw(sock) as client:
        client.hello()
        client.go("disk")
        assert client.read(0, 7) == b"content"


def test_a_start_that_fails_answers_nobody(new_server):
    server = new_server()
    gate = server.dir / "gate"
    server.spawn(*server.qmp_args(), "--chardev", f"socket,id=gate,path={gate},server=on,wait=on",
                 "--export", "nbd,id=e,node-name=nonexistent")
    wait_for(gate.exists, "the server to wait")
    with connect(server.qmp_path) as client:
        client.sendall(b'{"execute":"qmp_capabilities"}')
        with connect(gate):
            assert server.popen.wait(30) == 1
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(4096):
                said += data
        assert said.count(b"\n") <= 1 and b"return" not in said
    server.stopped = True


def test_a_signal_ends_a_server_that_is_still_waiting(new_server):
    server = new_server()
    gate = server.dir / "gate"
    server.spawn("--chardev", f"socket,id=gate,path={gate},server=on,wait=on")
    wait_for(gate.exists, "the server to wait")
    assert server.stop(signal.SIGTERM) == 0


# ---- Sockets that are passed in ----

PASS_ON = """
import os, sys
count, names, *argv = sys.argv[1:]
os.environ.update(LISTEN_FDS=count, LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
for fd in range(3, 3 + int(count)):
    os.set_inheritable(fd, True)
os.execv(argv[0], argv)
"""


@contextlib.contextmanager
def listeners(folder, *names):
    socks = [socket.socket(socket.AF_UNIX) for _ in names]
    for sock, name in zip(socks, names):
        sock.bind(str(folder / name))
        os.chmod(folder / name, 0o666)
        sock.listen()
    yield socks
    for sock, name in zip(socks, names):
        sock.close()
        (folder / name).unlink()


def start_with(server, socks, names, *args):
    """Start it as systemd does: the sockets are descriptors 3, 4, ..."""
    def place():
        for fd, sock in enumerate([os.dup2(sock.fileno(), 50 + n, inheritable=False) for n, sock in enumerate(socks)], 3):
            os.dup2(sock, fd)

    server.prefix = [sys.executable, "-c", PASS_ON, str(len(socks)), ":".join(names)]
    server.program = str(server.build / "bulkhead") if server.kind == "bulkhead" else server.program
    return server.spawn(*args, close_fds=False, preexec_fn=place)


@pytest.mark.own
def test_sockets_of_systemd_are_known_by_name(new_server, image):
    server = new_server()
    with listeners(server.dir, "a", "b", "c") as socks:
        start_with(server, socks, ["nbd", "vhost", "control"], "--pidfile", server.pid_path,
                   "--blockdev", f"file,node-name=disk,filename={image(data=[(0, b'content')])}",
                   "--chardev", "socket,id=q,fd=control,server=on,wait=off", "--monitor", "q",
                   "--nbd-server", "addr.type=fd,addr.str=nbd", "--export", "nbd,id=e,node-name=disk",
                   "--export", "vhost-user-blk,id=v,node-name=disk,addr.type=fd,addr.str=vhost")
        with NbdRaw.opened(server.dir / "a", "disk") as client:
            assert client.read(0, 7) == b"content"
        connect(server.dir / "b").close()
        server.qmp = Qmp.connect(server.dir / "c")
        assert set(server.exports()) == {"e", "v"}
    server.stop()


@pytest.mark.own
@pytest.mark.parametrize("names,option,text", [
    (["a", "b"], "c", "'c' is not the number of a descriptor, nor a name in LISTEN_FDNAMES (a:b)"),
    (["a", "a"], "a", "several descriptors are named 'a'"), (["a"], "a", "LISTEN_FDNAMES has 1 names for 2 descriptors"),
])
def test_a_wrong_name_of_a_socket_is_refused(new_server, names, option, text):
    server = new_server()
    with listeners(server.dir, "a", "b") as socks:
        start_with(server, socks, names, "--nbd-server", f"addr.type=fd,addr.str={option}")
        assert server.popen.wait(30) == 1
    server.stopped = True
    assert text in server.log_text()


@pytest.mark.own
def test_a_socket_that_no_option_uses_is_told_of(new_server):
    server = new_server()
    with listeners(server.dir, "a", "b") as socks:
        start_with(server, socks, ["x", "y"], *server.qmp_args(), "--nbd-server", "addr.type=fd,addr.str=3",
                   "--pidfile", server.pid_path)
        server.qmp = Qmp.connect(server.qmp_path)
        assert "descriptor 4 was passed in to listen on (LISTEN_FDS), and no option uses it" in server.log_text()
    server.stop()


@pytest.mark.own
def test_variables_for_another_process_are_ignored(new_server):
    server = new_server()
    server.start(env={"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x:y:z", "NOTIFY_SOCKET": "nonsense"})
    assert server.log_text() == ""


@pytest.mark.contract
def test_libnbds_socket_activation(new_server, image):
    """libnbd starts the server with a listening socket as descriptor 3 and connects at once."""
    process.need("nbdsh")
    server = new_server()
    argv = server.argv("--blockdev", f"file,node-name=disk,filename={image(data=[(0, b'content')])}",
                       "--nbd-server", "addr.type=fd,addr.str=3", "--export", "nbd,id=e,node-name=disk,name=")
    for _ in range(5):
        out = process.output("nbdsh", "-c", f"h.connect_systemd_socket_activation({[str(word) for word in argv]!r})",
                             "-c", "print(h.pread(7, 0).decode())", "-c", "h.shutdown()")
        assert out == "content\n"
    wait_for(lambda: not process.orphans(), "the servers to end")
    server.stopped = True


# ---- Telling the service manager ----

@pytest.mark.own
@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told_when_all_is_served_and_when_it_ends(new_server, image, abstract):
    server = new_server()
    name = f"\0bulkhead-test-{os.getpid()}" if abstract else str(server.dir / "notify")
    gate = server.dir / "gate"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(30)
        if not abstract:
            os.chmod(name, 0o666)
        server.spawn(*server.qmp_args(), "--chardev", f"socket,id=gate,path={gate},server=on,wait=on", "--pidfile",
                     server.pid_path, env={"NOTIFY_SOCKET": name.replace("\0", "@")})
        wait_for(gate.exists, "the server to wait")
        assert not hears_something(manager)
        with connect(gate):
            assert manager.recv(100).split(b"\n")[0] == b"READY=1"
            server.qmp = Qmp.connect(server.qmp_path)
            assert not hears_something(manager, 0.1)
            server.qmp.cmd("quit")
            assert manager.recv(100) == b"STOPPING=1"
        if not abstract:
            os.unlink(name)
    server.stop()


@contextlib.contextmanager
def full_queue():
    """A service manager that has not read what is in its queue, and what names it."""
    name = f"\0bulkhead-test-queue-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        manager.bind(name)
        manager.settimeout(30)
        filler.connect(name)
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.send(b"x")
        yield manager, {"NOTIFY_SOCKET": name.replace("\0", "@")}


@pytest.mark.own
def test_a_service_manager_that_does_not_listen_holds_the_start_up_for_a_moment_and_nothing_else(new_server):
    server = new_server()
    with full_queue() as (_, env):
        server.start(env=env)
        assert server.log_text().count("cannot notify the service manager: Resource temporarily unavailable") == 1
        server.stop()
        assert server.log_text().count("cannot notify the service manager: Resource temporarily unavailable") == 2


@pytest.mark.own
def test_a_service_manager_that_is_busy_hears_of_the_start_all_the_same(new_server):
    server = new_server()
    with full_queue() as (manager, env):
        server.spawn(*server.qmp_args(), "--pidfile", server.pid_path, env=env)
        wait_for(server.pid_path.exists, "the server to be about to serve")
        time.sleep(0.3)
        said = manager.recv(100)
        while said == b"x":
            said = manager.recv(100)
        assert said.startswith(b"READY=1\n")
        server.qmp = Qmp.connect(server.qmp_path)
    server.stop()
