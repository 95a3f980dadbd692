# SPDX-License-Identifier: BSD-2-Clause
"""What a secret leaves behind in the monitor's memory when the object is gone: nothing."""

import re
import socket

import pytest

from support import process, sandbox

SECRET = "nobody-0fC5-may-77aE-find-19bD-this"


def copies(pid, marker):
    """How many copies of some bytes the writable memory of a process has."""
    found = 0
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            start, end, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            if not rights.startswith("rw") or "[vvar" in line:
                continue
            try:
                memory.seek(int(start, 16))
                found += memory.read(int(end, 16) - int(start, 16)).count(marker)
            except (OSError, ValueError):
                pass  # a page that cannot be read, such as a guard page
    return found


@pytest.fixture
def plain_server(server):
    sandbox.need_root()
    if sandbox.is_sanitized(server.build / "bulkhead"):
        pytest.skip("the run-time of sanitizers keeps what is freed")
    server.objects_at_start = server.qmp.cmd("qom-list", {"path": "/objects"})
    return server


def add_and_delete(server, **members):
    server.qmp.cmd("object-add", {"qom-type": "secret", "id": "s", **members})
    assert copies(server.pid, SECRET.encode()) == 1, "the object itself, and nothing of the command that made it"
    server.qmp.cmd("object-del", {"id": "s"})


def test_a_secret_of_a_command_is_gone_with_its_object(plain_server):
    add_and_delete(plain_server, data=SECRET)
    assert copies(plain_server.pid, SECRET.encode()) == 0


def test_a_secret_in_base64_is_gone_in_both_forms(plain_server):
    text = "bm9ib2R5LTBmQzUtbWF5LTc3YUUtZmluZC0xOWJELXRoaXM="
    add_and_delete(plain_server, data=text, format="base64")
    assert copies(plain_server.pid, SECRET.encode()) == 0
    assert copies(plain_server.pid, text.encode()[4:]) == 0


def test_a_secret_of_a_file_is_gone_with_its_object(plain_server, tmp):
    path = tmp / "secret"
    path.write_text(SECRET)
    path.chmod(0o644)
    add_and_delete(plain_server, file=str(path))
    assert copies(plain_server.pid, SECRET.encode()) == 0


@pytest.mark.parametrize("end", ['", "unknown": 1}}', '"]', '"}', ""])
def test_a_secret_of_a_command_that_failed_is_gone(plain_server, end):
    """With an error in the arguments, in the JSON, or with a client that leaves in the middle."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(plain_server.qmp_path))
        client.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "object-add", "arguments": {"qom-type": "secret", '
                       b'"id": "s", "data": "' + SECRET.encode() + end.encode())
    client.close()
    process.wait_for(lambda: copies(plain_server.pid, SECRET.encode()) == 0, "the secret to be gone", 5)
    assert plain_server.qmp.cmd("qom-list", {"path": "/objects"}) == plain_server.objects_at_start
