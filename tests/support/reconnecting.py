#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
Many NBD clients in one process, each of which connects again at once whenever it is dropped:

    reconnecting.py ADDRESS COUNT KIND...

ADDRESS is the path of a unix socket, or a port of 127.0.0.1. The clients take turns in the given kinds, see SAYS. Writes
"all" when each of them has been greeted once, then goes on until it is killed; on SIGTERM it writes how often it connected.
"""

import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time

FLAGS = struct.pack(">I", 3)
IHAVEOPT = b"IHAVEOPT"


def option(number, data=b"", length=None):
    return IHAVEOPT + struct.pack(">II", number, len(data) if length is None else length) + data


# What a client of each kind says after the greeting; then it waits, unless it is one that leaves.
SAYS = {
    "silent": b"",                                     # nothing
    "flags": FLAGS,                                    # its flags, and no option
    "drip": None,                                      # flags and an option, byte by byte, and never the last one
    "option": FLAGS + option(8),                       # one option that is answered
    "half": FLAGS + option(7, length=100),             # an option whose data never come
    "garbage": b"GET / HTTP/1.1\r\nHost: there\r\n\r\n",  # no NBD
    "tls": FLAGS + option(5),                          # wants TLS, and never begins it
    "tls-churn": FLAGS + option(5),                    # closes as soon as it is answered
    "leave": FLAGS,                                    # closes at once
    "go": FLAGS + option(7, struct.pack(">I4sH", 4, b"disk", 0)),  # gets through its handshake, and asks for nothing
    "churn": FLAGS + option(8),                        # closes as soon as it is answered
}
DRIP = FLAGS + option(8)[:-1]
DRIP_S = 0.1
RETRY_S = 0.01


class Reconnecting:
    """One of these as the test sees it."""

    def __init__(self, popen, address, count, *kinds):
        self.process = popen([sys.executable, "-B", __file__, address, count, *kinds], stdout=subprocess.PIPE)

    def __enter__(self):
        for line in self.process.stdout:
            if line.decode().strip() == "all":
                return self
        raise AssertionError("a crowd of clients ended before all of it was there")

    def __exit__(self, *unused):
        self.process.terminate()
        self.connections = int(self.process.stdout.read())
        self.process.wait()
        self.process.stdout.close()


class Client:
    def __init__(self, crowd, kind):
        self.crowd = crowd
        self.kind = kind
        self.sock = None
        self.greeted = False
        self.spoken = False
        self.dripped = 0

    def connect(self):
        unix = not self.crowd.address.isdigit()
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        result = self.sock.connect_ex(self.crowd.address if unix else ("127.0.0.1", int(self.crowd.address)))
        if result not in (0, errno.EINPROGRESS):
            self.sock.close()
            self.crowd.later(RETRY_S, self.connect)
            return
        self.crowd.connections += 1
        self.spoken = False
        self.dripped = 0
        self.crowd.clients[self.sock.fileno()] = self
        self.crowd.epoll.register(self.sock.fileno(), select.EPOLLIN)

    def again(self):
        del self.crowd.clients[self.sock.fileno()]
        self.sock.close()
        self.connect()

    def speak(self):
        self.spoken = True
        if self.kind == "drip":
            self.crowd.later(DRIP_S, lambda sock=self.sock: self.drip(sock))
        else:
            self.sock.send(SAYS[self.kind])

    def drip(self, sock):
        if sock is not self.sock or self.dripped == len(DRIP):
            return
        try:
            sock.send(DRIP[self.dripped:self.dripped + 1])
        except OSError:
            return  # its end is an event of its own
        self.dripped += 1
        self.crowd.later(DRIP_S, lambda: self.drip(sock))

    def readable(self):
        try:
            data = self.sock.recv(65536)
            if data and not self.spoken:
                if not self.greeted:
                    self.greeted = True
                    self.crowd.greeted += 1
                self.speak()
                if self.kind == "leave":
                    data = b""
            elif self.kind.endswith("churn"):
                data = b""
        except OSError:
            data = b""
        if not data:
            self.again()


class Crowd:
    def __init__(self, address, kinds, count):
        self.address = address
        self.epoll = select.epoll()
        self.clients = {}  # by descriptor
        self.tasks = []    # (time, what), in no order
        self.connections = 0
        self.greeted = 0
        self.count = count
        self.over = False
        self.all = [Client(self, kinds[number % len(kinds)]) for number in range(count)]

    def later(self, seconds, what):
        self.tasks.append((time.monotonic() + seconds, what))

    def run_tasks(self):
        now = time.monotonic()
        due = [what for when, what in self.tasks if when <= now]
        self.tasks = [task for task in self.tasks if task[0] > now]
        for what in due:
            what()

    def run(self):
        for client in self.all:
            client.connect()
        told = False
        while not self.over:
            for fd, _ in self.epoll.poll(0.01 if self.tasks else 0.2):
                self.clients[fd].readable()
            self.run_tasks()
            if not told and self.greeted == self.count:
                told = True
                print("all", flush=True)

    def end(self, *unused):
        self.over = True


def main():
    address, count, *kinds = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(address, kinds, int(count))
    signal.signal(signal.SIGTERM, crowd.end)
    crowd.run()
    print(crowd.connections, flush=True)


if __name__ == "__main__":
    main()
