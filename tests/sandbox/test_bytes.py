# SPDX-License-Identifier: BSD-2-Clause
"""
Whose bytes a process has in its memory: those of an image and of its clients are in the worker of its export, those of a
handshake in that client's negotiator, and in no other process; least of all in the monitor, which can open files.
"""

import struct

import pytest

from support import fuse, images, sandbox
from support.images import MIB
from support.nbdraw import OPT_LIST_META_CONTEXT, NbdRaw
from support.process import children_of, command, wait_for

CONTENT = b"in-the-image-4cD1-of-one-tenant-88eB"
PAYLOAD = b"in-a-request-b7A2-of-one-client-03fE"
QUERY = b"in-a-handshake-e95F-of-one-client-61cA"


def everybody(pid):
    """A process and all below it."""
    return [pid] + [other for child in children_of(pid) for other in everybody(child)]


def holders(server, needle):
    return {pid: command(pid) for pid in everybody(server.pid) if sandbox.memory_has(pid, needle)}


@pytest.fixture
def tenant(server, image):
    """An export with a writable image of its own, and a neighbour's beside it."""
    sandbox.need_root()
    if sandbox.is_sanitized(server.build / "bulkhead"):
        pytest.skip("in a build with sanitizers a process has terabytes of shadow memory, too much to read")
    server.nbd_start()
    for name in ("mine", "other"):
        content = CONTENT if name == "mine" else b"neighbour"
        server.add_file(name, image(f"{name}.img", size=MIB, data=[(at, content) for at in range(0, MIB, 4096)]))
        server.export(name)
    return server


def test_bytes_of_an_image_and_of_its_clients_are_in_its_worker_only(tenant):
    worker, other = (tenant.export_worker(f"exp-{name}")["pid"] for name in ("mine", "other"))
    with NbdRaw.opened(tenant.nbd_path, "mine") as client, NbdRaw.opened(tenant.nbd_path, "other") as neighbour:
        assert client.read(0, 65536).startswith(CONTENT) and neighbour.read(0, 65536).startswith(b"neighbour")
        assert client.write(8192, PAYLOAD * 1000) == 0
        assert set(holders(tenant, CONTENT)) == {worker} == set(holders(tenant, PAYLOAD))
        assert {other} <= set(everybody(tenant.pid))


def test_bytes_of_a_mounted_file_are_in_its_worker_only(tenant, tmp):
    fuse.need()
    point = fuse.mount_point(tmp / "mnt.img")
    fuse.export(tenant, "mine", point, ident="mount")
    worker, mount = (tenant.export_worker(export)["pid"] for export in ("exp-mine", "mount"))
    fuse.python("fd = os.open(sys.argv[1], os.O_RDWR)\nos.pread(fd, 65536, 0)\n"
                f"os.pwrite(fd, {PAYLOAD * 1000!r}, 8192)\nos.fsync(fd)", point)
    assert mount in set(holders(tenant, CONTENT)) | set(holders(tenant, PAYLOAD))
    assert set(holders(tenant, CONTENT)) | set(holders(tenant, PAYLOAD)) <= {worker, mount}


def test_bytes_of_a_handshake_are_in_its_negotiator_only(tenant):
    with NbdRaw.unix(tenant.nbd_path) as client:
        client.hello()
        client.structured_reply()
        client.ask(OPT_LIST_META_CONTEXT, struct.pack(">I", 4) + b"mine" + struct.pack(">II", 1, len(QUERY) + 2) + b"x:" + QUERY)
        busy = wait_for(lambda: [w["pid"] for w in tenant.workers(role="nbd-negotiator") if w["clients"] == 1], "its negotiator")
        assert set(holders(tenant, QUERY)) == set(busy)
        assert not set(busy) & set(holders(tenant, CONTENT))
