# SPDX-License-Identifier: BSD-2-Clause
"""vhost-user-blk exports, and our own front-end (tests/vhost/) as a client of them."""

import pathlib
import struct
import subprocess

import pytest

from . import process


def program(build, name="vhost-test"):
    path = build / "tests/vhost" / name
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


def export(server, node, export_id=None, writable=True, **members):
    """Export a node at a socket in the server's folder; its path."""
    export_id = export_id or f"exp-{node}"
    path = server.dir / f"{export_id}.sock"
    server.qmp.cmd("block-export-add", {"type": "vhost-user-blk", "id": export_id, "node-name": node,
                                        "writable": writable, "addr": {"type": "unix", "path": str(path)}, **members})
    return path


def remove(server, export_id):
    """Remove an export whose front-end has left, which its worker may not have noticed yet."""
    process.wait_for(lambda: server.export_worker(export_id)["clients"] == 0, "the session to end")
    server.qmp.cmd("block-export-del", {"id": export_id})


OPERATIONS = ["read", "write", "flush", "discard", "write-zeroes"]  # the first of enum block_op


def counters(pid):
    """What a worker has counted, as its page has it (common/ipc/worker-page.h): {kind: {operation: number}}."""
    line = next(line for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
                if "bulkhead-worker-page" in line)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(int(line.split("-")[0], 16) + 16)
        numbers = struct.unpack("<21Q", memory.read(21 * 8))
    return {kind: dict(zip(OPERATIONS, numbers[7 * i:])) for i, kind in enumerate(["ops", "errors", "bytes"])}


class Frontend:
    """One that stays connected and takes commands; see tests/vhost/stay.c."""

    def __init__(self, build, path):
        self.popen = process.popen([program(build), "--serve", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   text=True)
        assert self.line() == "ready"

    def line(self):
        return self.popen.stdout.readline().strip()

    def send(self, *words):
        self.popen.stdin.write(" ".join(map(str, words)) + "\n")
        self.popen.stdin.flush()

    def cmd(self, *words):
        self.send(*words)
        return self.line()

    def close(self):
        self.popen.stdin.close()
        assert self.popen.wait(10) == 0

    def kill(self):
        self.popen.kill()
        self.popen.wait()
