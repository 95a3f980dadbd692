#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
Many NBD clients in one process, which is there to be killed:

    crowd.py SOCKET EXPORT COUNT KIND...

The clients take turns in the given kinds: "silent" says nothing; "flags" stops within its flags, "option" within an
option; "go" finishes the handshake and stays. Writes "half" when half of them are there, and "all"; then waits.
"""

import pathlib
import resource
import signal
import socket
import subprocess
import sys


class Crowd:
    """One of these as the test sees it."""

    def __init__(self, popen, path, export, count, *kinds):
        """popen: as subprocess.Popen."""
        self.process = popen([sys.executable, "-B", __file__, path, export, count, *kinds], stdout=subprocess.PIPE)

    def wait_for(self, word):
        for line in self.process.stdout:
            if line.decode().strip() == word:
                return self
        raise AssertionError(f"a crowd of clients ended before it said '{word}'")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def blocking(path):
    """A client that waits when the server's backlog is full, which one with a time limit does not."""
    from support.nbdraw import NbdRaw

    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return NbdRaw(sock)


def connect(path, export, kind):
    from support.nbdraw import OPT_GO

    client = blocking(path)
    if kind == "silent":
        return client
    if kind == "flags":
        client.recv(18)
        client.send(b"\0\0")
        return client
    client.hello()
    if kind == "option":
        client.option(OPT_GO, b"\0\0\0\4di", length=10)
    if kind == "go":
        client.go(export)
    return client


def main():
    path, export, count, *kinds = sys.argv[1:]
    clients = []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in range(int(count)):
        if number == int(count) // 2:
            print("half", flush=True)
        clients.append(connect(path, export, kinds[number % len(kinds)]))
    print("all", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    main()
