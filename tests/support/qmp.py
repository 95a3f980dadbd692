# SPDX-License-Identifier: BSD-2-Clause
"""A QMP client for tests: every wait has a limit, events are kept, and raw bytes can be sent."""

import json
import socket
import time

TIMEOUT = 30  # seconds; the machines that run tests are small and busy


class QmpError(Exception):
    """The server answered a command with an error."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.cls = error["class"]
        self.desc = error["desc"]


class QmpClosed(Exception):
    """The server closed the connection."""


class Qmp:
    """One QMP connection. `events` holds every event that has arrived and was not yet waited for."""

    def __init__(self, sock, negotiate=True):
        self.sock = sock
        self.buffer = b""
        self.events = []
        self.greeting = self.receive()
        self.next_id = 1
        if negotiate:
            self.cmd("qmp_capabilities")

    @classmethod
    def connect(cls, path, negotiate=True, timeout=TIMEOUT):
        sock = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + timeout
        while True:
            try:
                sock.connect(str(path))
                return cls(sock, negotiate)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def send_raw(self, data):
        self.sock.settimeout(TIMEOUT)
        self.sock.sendall(data)

    def send(self, message):
        self.send_raw(json.dumps(message).encode() + b"\n")

    def receive(self, timeout=TIMEOUT):
        """The next message of any kind."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise TimeoutError(f"no QMP message within {timeout} s; begun: {self.buffer[:200]!r}") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise QmpClosed(f"left over: {self.buffer[:200]!r}")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def reply(self, timeout=TIMEOUT):
        """The next message that is no event; events on the way are kept."""
        while True:
            message = self.receive(timeout)
            if "event" not in message:
                return message
            self.events.append(message)

    def cmd(self, name, arguments=None, timeout=TIMEOUT):
        """Run a command: its return value, or QmpError."""
        request = {"execute": name, "id": f"t{self.next_id}"}
        self.next_id += 1
        if arguments is not None:
            request["arguments"] = arguments
        self.send(request)
        reply = self.reply(timeout)
        assert reply.get("id") == request["id"], f"reply {reply} to {request}"
        if "error" in reply:
            raise QmpError(reply["error"])
        return reply["return"]

    def error(self, name, arguments=None):
        """Run a command that must fail: the error."""
        try:
            result = self.cmd(name, arguments)
        except QmpError as error:
            return error
        raise AssertionError(f"{name} {arguments} succeeded: {result}")

    def wait_event(self, name, timeout=TIMEOUT, **data):
        """The next event of that name with those data members ('-' is written '_'); earlier others are kept."""
        def matches(event):
            have = event.get("data", {})
            return event["event"] == name and all(have.get(k.replace("_", "-")) == v for k, v in data.items())

        for index, event in enumerate(self.events):
            if matches(event):
                return self.events.pop(index)
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(max(0.001, deadline - time.monotonic()))
            assert "event" in message, f"a reply nobody asked for: {message}"
            if matches(message):
                return message
            self.events.append(message)

    def drain_events(self, name=None):
        """Forget the events that have arrived so far and return those of that name (or all)."""
        self.cmd("query-version")  # what was sent before its reply has arrived with it
        events, self.events = self.events, []
        return [event for event in events if name in (None, event["event"])]
