# SPDX-License-Identifier: BSD-2-Clause
"""How NBD exports come and go: the deprecated commands, the modes of removal, the time limit of the handshake."""

import time

import pytest

from support import process
from support.images import MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.qmp import QmpError

HIDE, SOFT = "__org.bulkhead_hide", "__org.bulkhead_soft"


@pytest.fixture
def disk(nbd, image):
    nbd.add_file("disk", image(size=MIB))
    return nbd


def opened(server, name="disk", **kwargs):
    return NbdRaw.opened(server.nbd_path, name, **kwargs)


def refused(server, name="disk"):
    with NbdRaw.unix(server.nbd_path) as client:
        client.hello()
        return client.ask(OPT_GO, client.name_data(name))[-1][0] == REP_ERR_UNKNOWN


def failure(server, command, arguments):
    return server.qmp.error(command, arguments).cls


def remove(server, **arguments):
    """When the last client has left, of which the server hears a moment after the client."""
    def removed():
        try:
            server.qmp.cmd("nbd-server-remove", arguments)
        except QmpError as error:
            assert "still in use" in error.desc
            return False
        return True
    process.wait_for(removed, "the client to be gone")


# ---- nbd-server-add, nbd-server-remove ----

@pytest.mark.contract
def test_nbd_server_add(disk):
    disk.qmp.cmd("nbd-server-add", {"device": "disk"})
    assert disk.exports()["disk"]["type"] == "nbd"
    with opened(disk) as client:
        assert client.flags & FLAG_READ_ONLY
        # Which error it is belongs to "Differences from qemu-storage-daemon" in docs/nbd-conformance.md.
        assert client.write(0, b"x" * 512) == (EPERM if disk.kind == "bulkhead" else EINVAL)
        client.disconnect()
    assert failure(disk, "nbd-server-add", {"device": "disk"}) == "GenericError"
    assert list(disk.exports()) == ["disk"]
    remove(disk, name="disk")
    assert disk.exports() == {}
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="disk")


@pytest.mark.contract
def test_nbd_server_add_with_everything(disk):
    disk.qmp.cmd("nbd-server-add", {"device": "disk", "name": "other", "description": "text", "writable": True})
    with opened(disk, "other") as client:
        assert client.write(0, b"x" * 512) == 0
        client.disconnect()
    with NbdRaw.unix(disk.nbd_path) as client:
        client.hello()
        assert client.go("other", (INFO_DESCRIPTION,))[INFO_DESCRIPTION] == b"text"
        client.disconnect()
    assert failure(disk, "nbd-server-remove", {"name": "disk"}) == "GenericError"
    remove(disk, name="other", mode="safe")
    assert disk.exports() == {}


@pytest.mark.contract
def test_nbd_server_add_makes_a_read_only_node_read_only(nbd, image):
    """Which block-export-add refuses."""
    nbd.add_file("rom", image(size=MIB), **{"read-only": True})
    arguments = {"type": "nbd", "id": "e", "node-name": "rom", "writable": True}
    assert failure(nbd, "block-export-add", arguments) == "GenericError"
    nbd.qmp.cmd("nbd-server-add", {"device": "rom", "writable": True})
    with opened(nbd, "rom") as client:
        assert client.flags & FLAG_READ_ONLY
        client.disconnect()


@pytest.mark.contract
@pytest.mark.parametrize("arguments", [{}, {"device": "none"}, {"device": "disk", "name": "x" * 4097},
                                       {"device": "disk", "bitmap": "b"}, {"device": "disk", "more": 1}], ids=repr)
def test_nbd_server_add_refuses(disk, arguments):
    assert failure(disk, "nbd-server-add", arguments) == "GenericError"
    assert disk.exports() == {}


@pytest.mark.contract
def test_nbd_server_add_without_a_server(server, image):
    server.add_file("disk", image(size=MIB))
    assert failure(server, "nbd-server-add", {"device": "disk"}) == "GenericError"


@pytest.mark.contract
def test_nbd_server_remove_with_clients(disk):
    disk.export("disk", id="disk")
    client = opened(disk)
    assert failure(disk, "nbd-server-remove", {"name": "disk"}) == "GenericError"
    assert failure(disk, "nbd-server-remove", {"name": "disk", "mode": "gently"}) == "GenericError"
    assert client.read(0, 512) == bytes(512)
    disk.qmp.cmd("nbd-server-remove", {"name": "disk", "mode": "hard"})
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="disk")
    client.expect_closed()
    client.close()


def test_the_commands_are_deprecated(server):
    schema = {entry["name"]: entry for entry in server.qmp.cmd("query-qmp-schema")}
    for name in ("nbd-server-add", "nbd-server-remove"):
        assert "deprecated" in schema[name]["features"]


# ---- hide and soft ----

@pytest.mark.parametrize("command", ["block-export-del", "nbd-server-remove"])
def test_hide(disk, command):
    disk.export("disk", id="e")
    with opened(disk) as first, opened(disk) as second:
        disk.qmp.cmd(command, {"id" if command == "block-export-del" else "name": "e", "mode": HIDE})
        assert disk.exports()["e"]["shutting-down"]
        assert refused(disk)
        with NbdRaw.unix(disk.nbd_path) as other:
            other.hello()
            assert other.ask(OPT_LIST) == [(REP_ACK, b"")]
        assert first.write(0, b"y" * 512) == 0
        first.disconnect()
        assert second.read(0, 512) == b"y" * 512
        assert "e" in disk.exports() and not disk.qmp.drain_events("BLOCK_EXPORT_DELETED")
        second.disconnect()
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
    disk.export("disk", id="e")  # all is free again
    with opened(disk) as client:
        client.disconnect()


@pytest.mark.parametrize("mode", [HIDE, SOFT])
def test_a_client_that_was_told_that_it_is_in_stays_in(disk, mode):
    """The answer to its GO may be there before the monitor has heard of it: with the first client and with further ones."""
    for others in (0, 1):
        for _ in range(10):
            disk.export("disk", id="e")
            before = [opened(disk) for _ in range(others)]
            client = opened(disk)
            disk.qmp.cmd("block-export-del", {"id": "e", "mode": mode})
            client.request(CMD_FLUSH)
            assert client.reply_error() in ((0,) if mode == HIDE else (0, ESHUTDOWN))
            for one in before + [client]:
                one.disconnect()
                one.close()
            disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


@pytest.mark.parametrize("form", [{}, {"structured": True}, {"extended": True}], ids=str)
def test_soft(disk, form):
    disk.export("disk", id="e")
    with opened(disk, **form) as client:
        assert client.write(0, b"z" * 512) == 0
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": SOFT})
        process.wait_for(lambda: client.request(CMD_FLUSH) and client.reply_error() == ESHUTDOWN, "ESHUTDOWN")
        for command, length in ((CMD_READ, 512), (CMD_TRIM, 512), (CMD_WRITE_ZEROES, 512), (CMD_CACHE, 512)):
            client.request(command, 0, length)
            assert client.reply_error() == ESHUTDOWN
        assert client.write(0, b"x" * 512) == ESHUTDOWN
        client.request(99)
        assert client.reply_error() == EINVAL
        assert refused(disk)
        client.disconnect()
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


@pytest.mark.parametrize("mode", [HIDE, SOFT])
def test_without_clients_it_is_gone_at_once(disk, mode):
    disk.export("disk", id="e")
    disk.qmp.cmd("block-export-del", {"id": "e", "mode": mode})
    assert disk.exports() == {}
    assert disk.qmp.drain_events("BLOCK_EXPORT_DELETED")


@pytest.mark.contract
@pytest.mark.parametrize("end", ["disconnect", "close"])
def test_safe_just_after_the_last_client_has_left(disk, end):
    """A client that has gone does not count, though its worker may not have missed it yet; one that is there does."""
    for _ in range(30):
        disk.export("disk", id="e")
        clients = [opened(disk) for _ in range(3)]
        for client in clients[1:]:
            getattr(client, end)()
        assert "in use" in disk.qmp.error("block-export-del", {"id": "e"}).desc
        assert clients[0].write(0, b"still there") == 0
        getattr(clients[0], end)()
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": "safe"})
        assert disk.exports() == {}
        for client in clients:
            client.close()


def test_one_mode_after_another(disk):
    disk.export("disk", id="e")
    with opened(disk) as client:
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": HIDE})
        disk.qmp.error("block-export-del", {"id": "e"})
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": HIDE})
        assert client.read(0, 512) == bytes(512)
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": SOFT})
        process.wait_for(lambda: client.request(CMD_FLUSH) and client.reply_error() == ESHUTDOWN, "ESHUTDOWN")
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": "hard"})
        client.expect_closed()
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


def test_a_client_that_dies_ends_a_hidden_export(disk):
    disk.export("disk", id="e")
    client = opened(disk)
    disk.qmp.cmd("block-export-del", {"id": "e", "mode": HIDE})
    client.close()
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


def test_a_client_in_its_handshake_comes_too_late(disk):
    """It has seen the export, and asks for it when it is hidden."""
    disk.export("disk", id="e")
    with opened(disk) as client, NbdRaw.unix(disk.nbd_path) as late:
        late.hello()
        late.go("disk", option=OPT_INFO)
        disk.qmp.cmd("block-export-del", {"id": "e", "mode": HIDE})
        late.option(OPT_GO, late.name_data("disk"))
        late.expect_closed()
        assert client.read(0, 512) == bytes(512)
        client.disconnect()
    disk.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


def test_the_server_stops_with_a_hidden_export(disk):
    disk.export("disk", id="e")
    client = opened(disk)
    disk.qmp.cmd("block-export-del", {"id": "e", "mode": HIDE})
    disk.qmp.cmd("nbd-server-stop")
    assert disk.exports() == {}
    client.expect_closed()
    client.close()


# ---- handshake-max-seconds ----

def silent_for(server):
    start = time.monotonic()
    with NbdRaw.unix(server.nbd_path) as client:
        client.recv(18)
        client.expect_closed()
    return time.monotonic() - start


def test_the_handshake_has_a_time_limit(server, image):
    server.add_file("disk", image(size=MIB))
    server.nbd_start(**{"handshake-max-seconds": 1})
    server.export("disk")
    with opened(server) as client:
        assert 0.8 < silent_for(server) < 5
        assert client.read(0, 512) == bytes(512)  # whose handshake is over
        client.disconnect()


def test_the_handshake_may_have_none(server, image):
    server.add_file("disk", image(size=MIB))
    server.nbd_start(**{"handshake-max-seconds": 0})
    server.export("disk")
    with NbdRaw.unix(server.nbd_path) as client:
        client.hello()
        client.sock.settimeout(2)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(30)
        client.go("disk")
        client.disconnect()


@pytest.mark.parametrize("value, good", [(-1, False), (2**32, False), ("1", False), (2**32 - 1, True)])
def test_the_time_limit_is_checked(server, value, good):
    address = {"type": "unix", "data": {"path": str(server.nbd_path)}}
    call = server.qmp.cmd if good else server.qmp.error
    call("nbd-server-start", {"addr": address, "handshake-max-seconds": value})
