# SPDX-License-Identifier: BSD-2-Clause
"""
Random acts against a server: QMP sessions that do not wait for each other, NBD clients that vanish in every phase, workers
that are killed and stopped, descriptors and processes that run out.
"""

import json
import os
import signal
import socket
import struct

from . import process, sandbox
from .images import MIB
from .nbdraw import *
from .qmp import QmpError
from .server import ACCOUNT, give_to_account

NODES = ["n0", "n1", "n2", "n3"]
EXPORTS = [f"e{n}" for n in range(8)]


class Session:
    """A QMP session that sends without waiting, and may leave at any time."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.send({"execute": "qmp_capabilities"})

    def send(self, message):
        try:
            self.sock.send(json.dumps(message).encode())
        except BlockingIOError:  # it is not read: what else would a slow client do
            pass

    def read(self):
        try:
            while self.sock.recv(65536):
                pass
        except BlockingIOError:
            pass

    def close(self):
        self.sock.close()


class Chaos:
    def __init__(self, server, image, rng):
        self.server = server
        self.rng = rng
        self.paths = {node: image(f"{node}.img", size=MIB) for node in NODES}
        self.sessions = []
        self.clients = []
        self.stopped = set()
        self.counts = {}
        self.fuse = os.path.exists("/dev/fuse")
        limits = sandbox.limits(server.popen.pid)
        self.limits = {"nofile": limits["Max open files"][0], "nproc": limits["Max processes"][0]}
        self.keys = server.dir / "psk"
        self.keys.mkdir()
        (self.keys / "keys.psk").write_text("somebody:00112233445566778899aabbccddeeff\n")
        for path in (self.keys, self.keys / "keys.psk"):
            give_to_account(path)
        for name in EXPORTS:
            mount_point = server.dir / f"{name}.fuse"
            mount_point.touch()
            os.chmod(mount_point, 0o666)

    # ---- QMP ----

    def session(self):
        if len(self.sessions) < 4 or (len(self.sessions) < 12 and self.rng.random() < 0.1):
            try:
                self.sessions.append(Session(self.server.qmp_path))
            except OSError:  # the backlog is full while the monitor has no descriptors
                return None
        return self.rng.choice(self.sessions)

    def qmp(self, command, **arguments):
        session = self.session()
        if session is None:
            return
        try:
            session.send({"execute": command, "arguments": arguments})
        except OSError:
            self.sessions.remove(session)
            session.close()

    def node_add(self):
        node = self.rng.choice(NODES)
        spec = self.server.file_node(node, self.paths[node])
        if self.rng.random() < 0.2:
            spec = {"driver": "raw", "node-name": node, "offset": 4096, "file": self.server.file_node(None, self.paths[node])}
            del spec["file"]["node-name"]
        self.qmp("blockdev-add", **spec)

    def node_del(self):
        self.qmp("blockdev-del", **{"node-name": self.rng.choice(NODES)})

    def export_add(self):
        name = self.rng.choice(EXPORTS)
        options = {"id": name, "node-name": self.rng.choice(NODES), "writable": self.rng.random() < 0.7}
        kind = self.rng.random()
        if kind < 0.7:
            options.update(type="nbd", name=name)
        elif kind < 0.85 or not self.fuse:
            options.update({"type": "vhost-user-blk",
                            "addr": {"type": "unix", "path": str(self.server.dir / f"{name}.vhost")}})
        else:
            options.update(type="fuse", mountpoint=str(self.server.dir / f"{name}.fuse"))
        self.qmp("block-export-add", **options)

    def export_del(self):
        self.qmp("block-export-del", id=self.rng.choice(EXPORTS), mode=self.rng.choice(["safe", "hard"]))

    def server_restart(self):
        options = {"tls-creds": "tls0"} if self.rng.random() < 0.3 else {}
        self.qmp("nbd-server-stop")
        self.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.server.nbd_path)}}, **options)

    def object_add(self):
        self.qmp("object-add", **{"qom-type": "tls-creds-psk", "id": "tls0", "dir": str(self.keys), "endpoint": "server"})

    def object_del(self):
        self.qmp("object-del", id="tls0")

    def query(self):
        self.qmp(self.rng.choice(["query-block-exports", "__org.bulkhead_query-workers", "query-qmp-schema",
                                  "query-named-block-nodes", "no-such-command"]))

    def resize(self):
        self.qmp("block_resize", **{"node-name": self.rng.choice(NODES), "size": self.rng.choice([MIB, MIB // 2, 2 * MIB])})

    def garbage(self):
        session = self.session()
        if session is not None:
            try:
                session.sock.send(self.rng.choice([b"{", b"]\n", b'{"execute": "qu', b"\xff\xff\n", b'"' * 100]))
            except OSError:
                pass

    def session_read(self):
        for session in self.sessions:
            try:
                session.read()
            except OSError:
                pass

    def session_leave(self):
        if self.sessions:
            self.sessions.pop(self.rng.randrange(len(self.sessions))).close()

    # ---- Clients ----

    def connect(self):
        """In one of the phases of a connection, and without waiting for anything."""
        try:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            sock.connect(str(self.server.nbd_path))
        except OSError:
            return
        self.clients.append(sock)
        phase = self.rng.randrange(5)
        name = self.rng.choice(EXPORTS).encode()
        data = b""
        if phase >= 1:
            data += struct.pack(">I", FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        if phase >= 1 and self.rng.random() < 0.2:
            data += struct.pack(">QII", IHAVEOPT, OPT_STARTTLS, 0)  # what follows is no TLS
        if phase >= 2:
            body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
            data += struct.pack(">QII", IHAVEOPT, OPT_GO, len(body)) + body
        if phase >= 3:
            for n in range(self.rng.randrange(1, 40)):
                kind = self.rng.choice([CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES, 99])
                length = 0 if kind == CMD_FLUSH else self.rng.choice([512, 4096, 65536])
                data += struct.pack(">IHHQQI", REQUEST_MAGIC, self.rng.choice([0, 0, 1]), kind, n,
                                    0 if kind == CMD_FLUSH else self.rng.randrange(0, MIB, 512), length)
                if kind == CMD_WRITE:
                    data += bytes(length)
        if phase == 4 and data:
            data = data[:self.rng.randrange(len(data))]
        try:
            sock.send(data)
        except OSError:
            pass

    def client_leave(self):
        if self.clients:
            self.clients.pop(self.rng.randrange(len(self.clients))).close()

    # ---- Processes and limits ----

    def workers(self):
        return process.children_of(self.server.popen.pid)

    def signal_worker(self, pid, number):
        """By pidfd: a worker may have died meanwhile, and its number may be that of a stranger by now."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            fields = process.stat_fields(pid)
            # The mounter is left alone: the monitor makes no second one.
            if fields is not None and fields[1] == self.server.popen.pid and "mounter" not in process.command(pid):
                signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def send_signal(self, number):
        workers = self.workers()
        if workers:
            self.signal_worker(self.rng.choice(workers), number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def stop(self):
        self.send_signal(signal.SIGSTOP)

    def go_on(self):
        for pid in self.workers():
            self.signal_worker(pid, signal.SIGCONT)

    def limit(self, **limits):
        """Soft limits of the monitor; as its account, which may do that where a root without CAP_SYS_RESOURCE may not."""
        process.output("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "prlimit",
                       f"--pid={self.server.popen.pid}", *[f"--{name}={value}:" for name, value in limits.items()])

    def few_descriptors(self):
        self.limit(nofile=count_descriptors(self.server) + self.rng.randrange(12))

    def few_processes(self):
        self.limit(nproc=self.rng.choice([0, 4, 10]))

    def no_limits(self):
        self.limit(**self.limits)

    ACTS = [(export_add, 20), (export_del, 12), (node_add, 8), (node_del, 4), (connect, 20), (client_leave, 12), (kill, 4),
            (stop, 1), (go_on, 2), (query, 4), (garbage, 1), (session_read, 6), (session_leave, 1), (server_restart, 1),
            (object_add, 2), (object_del, 1), (resize, 2), (few_descriptors, 1), (few_processes, 1), (no_limits, 4)]

    def step(self):
        act = self.rng.choices([a for a, _ in self.ACTS], [w for _, w in self.ACTS])[0]
        self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        act(self)

    def end(self):
        self.no_limits()
        self.go_on()
        for thing in self.sessions + self.clients:
            thing.close()


def remove_everything(server):
    """
    Ask for the end of all there is, with the session that was there before all of it. Sessions whose client is gone
    carry out what it has sent, so it may have to be asked again.
    """
    def ask(command, arguments=None):
        try:
            return server.qmp.cmd(command, arguments)
        except QmpError:
            return None

    for export in ask("query-block-exports"):
        ask("block-export-del", {"id": export["id"], "mode": "hard"})
    ask("nbd-server-stop")
    ask("object-del", {"id": "tls0"})
    for node in ask("query-named-block-nodes"):
        ask("blockdev-del", {"node-name": node["node-name"]})


def count_descriptors(server):
    return len(os.listdir(f"/proc/{server.popen.pid}/fd"))


def kinds_of_descriptors(server):
    return sandbox.kinds_of_descriptors(server.popen.pid)
