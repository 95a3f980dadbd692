# SPDX-License-Identifier: BSD-2-Clause
"""The life of nodes, the NBD server and exports over QMP: what is refused in which state, and what comes back."""

import json
import os
import socket

import pytest

from support import images, process
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw
from support.process import need, output, run, wait_for
from support.qmp import QmpError


@pytest.fixture
def path(image):
    return image(data=[(0, b"content")])


# ---- Nodes ----

@pytest.mark.contract
def test_query_named_block_nodes_describes_a_file(server, path):
    server.add_file("disk", path, cache={"direct": False, "no-flush": True})
    node = server.nodes()["disk"]
    assert node["drv"] == "file" and node["file"] == str(path) and node["ro"] is False
    assert node["image"]["filename"] == str(path) and node["image"]["format"] == "file"
    assert node["image"]["virtual-size"] == 16 * MIB
    assert node["cache"] == {"writeback": True, "direct": False, "no-flush": True}
    assert node["detect_zeroes"] == "off" and node["encrypted"] is False and node["backing_file_depth"] == 0
    assert node.get("active", True) is True
    assert server.kind == "qsd" or "active" in node  # QSD has it since 10.0
    for member in ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr", "write_threshold"):
        assert node[member] == 0


@pytest.mark.contract
def test_an_inline_child_is_a_node_with_a_name_of_its_own(server, path):
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "top", "file": {"driver": "file", "filename": str(path)}})
    nodes = server.nodes()
    assert len(nodes) == 2 and nodes["top"]["drv"] == "raw"
    inner = next(node for name, node in nodes.items() if name != "top")
    assert inner["drv"] == "file" and inner["node-name"].startswith("#")
    assert server.qmp.error("blockdev-del", {"node-name": inner["node-name"]}).cls == "GenericError"
    server.qmp.cmd("blockdev-del", {"node-name": "top"})
    assert server.nodes() == {}


@pytest.mark.contract
def test_a_node_in_use_is_not_deleted(nbd, path):
    nbd.add_file("disk", path)
    nbd.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "top", "file": "disk"})
    nbd.export("top")
    for name in ("disk", "top"):
        error = nbd.qmp.error("blockdev-del", {"node-name": name})
        assert error.cls == "GenericError" and name in error.desc
    nbd.qmp.cmd("block-export-del", {"id": "exp-top"})
    nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-top")
    nbd.qmp.cmd("blockdev-del", {"node-name": "top"})
    nbd.qmp.cmd("blockdev-del", {"node-name": "disk"})
    assert nbd.nodes() == {}


@pytest.mark.contract
def test_a_raw_node_shows_its_window(server, path):
    server.add_file("disk", path)
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "window", "file": "disk", "offset": 1 * MIB,
                                    "size": 2 * MIB})
    assert server.nodes()["window"]["image"]["virtual-size"] == 2 * MIB
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "rest", "file": {
        "driver": "file", "filename": str(path), "read-only": True}, "offset": 1 * MIB, "read-only": True})
    assert server.nodes()["rest"]["image"]["virtual-size"] == 15 * MIB


@pytest.mark.contract
def test_a_read_only_node_is_not_exported_for_writing(nbd, path):
    nbd.add_file("disk", path, **{"read-only": True})
    assert nbd.nodes()["disk"]["ro"] is True
    error = nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "writable": True})
    assert error.cls == "GenericError" and "read-only" in error.desc
    nbd.export("disk", writable=False)


def test_a_file_that_may_not_be_written_is_refused_or_opened_read_only(nbd, image):
    path = image(mode=0o400)
    if os.getuid() != 0:
        pytest.skip("needs root to make a file that the account may only read")
    error = nbd.qmp.error("blockdev-add", nbd.file_node("disk", path))
    assert error.cls == "GenericError" and str(path) in error.desc and "ermission" in error.desc
    nbd.add_file("disk", path, **{"auto-read-only": True, "read-only": True})
    nbd.export("disk", writable=False)


@pytest.mark.qemu
@pytest.mark.contract
def test_null_co(nbd):
    need("qemu-io")
    nbd.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "zero", "size": 8 * MIB, "read-zeroes": True})
    nbd.export("zero")
    with NbdRaw.opened(nbd.nbd_path, "zero") as client:
        assert client.size == 8 * MIB
        assert client.write(0, b"w" * 4096) == 0
        assert client.read(0, 4096) == bytes(4096)
    nbd.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "one"})
    assert nbd.nodes()["one"]["image"]["virtual-size"] == 1 << 30


@pytest.mark.contract
def test_the_largest_size(nbd):
    """The most that QEMU allows: sizes and offsets have 64 bits everywhere."""
    size = (1 << 63) - (1 << 30)
    nbd.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "zero", "size": size, "read-zeroes": True})
    nbd.export("zero")
    with NbdRaw.opened(nbd.nbd_path, "zero") as client:
        assert client.size == size
        assert client.read(size - 512, 512) == bytes(512)
        assert client.write(size - 512, b"x" * 512) == 0
        for command, offset, length, error in (
                (CMD_TRIM, size - (1 << 30), 1 << 30, 0), (CMD_WRITE_ZEROES, size - (1 << 30), 1 << 30, 0),
                (CMD_READ, size, 512, EINVAL), (CMD_READ, size - 512, 1024, EINVAL), (CMD_TRIM, size - 512, 1024, EINVAL),
                (CMD_READ, (1 << 63) - 512, 1024, EINVAL), (CMD_READ, (1 << 64) - 512, 512, EINVAL)):
            client.request(command, offset, length)
            assert client.simple_reply()[0] == error, (command, offset, length)


@pytest.mark.contract
def test_an_image_that_is_a_directory_fifo_or_socket_is_refused(server, tmp):
    os.mkfifo(tmp / "fifo")
    images.give_to_account(tmp / "fifo")
    for what in (tmp, tmp / "fifo", server.qmp_path):
        error = server.qmp.error("blockdev-add", server.file_node("disk", what))
        assert error.cls == "GenericError" and str(what) in error.desc
    assert server.nodes() == {}


@pytest.mark.contract
def test_an_empty_image(nbd, image):
    path = image(size=0)
    nbd.add_file("disk", path)
    nbd.export("disk")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        assert client.size == 0
        client.request(CMD_READ, 0, 1)
        assert client.reply_error() == EINVAL
        client.request(CMD_FLUSH)
        assert client.reply_error() == 0


def test_a_huge_sparse_image(nbd, tmp):
    """Offsets beyond 32 bits, and lengths of holes beyond what one extent can tell."""
    path = images.make(tmp / "huge.img", 6 << 40)
    with open(path, "r+b") as image:
        image.seek((5 << 40) + 12345)
        image.write(b"deep")
    nbd.add_file("disk", path)
    nbd.export("disk")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        assert client.size == 6 << 40
        assert client.read((5 << 40) + 12345, 4) == b"deep"
        assert client.write((6 << 40) - 4, b"last") == 0
    assert images.read(path, (6 << 40) - 4) == b"last"
    need("nbdinfo")
    extents = json.loads(output("nbdinfo", "--map", "--json", nbd.uri("disk")))
    assert sum(e["length"] for e in extents) == 6 << 40 and extents[-1]["type"] == 0


# ---- The server ----

@pytest.mark.contract
def test_without_a_server_there_are_no_exports(server, path):
    server.add_file("disk", path)
    error = server.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk"})
    assert error.cls == "GenericError" and "server" in error.desc
    assert server.qmp.error("nbd-server-stop").cls == "GenericError"


@pytest.mark.contract
def test_the_server_starts_once(nbd, path):
    before = nbd.nbd_path.stat().st_ino
    error = nbd.qmp.error("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(nbd.dir / "second")}}})
    assert error.cls == "GenericError" and "already" in error.desc
    assert not (nbd.dir / "second").exists() and nbd.nbd_path.stat().st_ino == before


@pytest.mark.contract
def test_stopping_the_server_deletes_its_exports_and_it_can_start_again(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        nbd.qmp.cmd("nbd-server-stop")
        nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        client.expect_closed()
    assert nbd.exports() == {}
    assert not nbd.nbd_path.exists()
    nbd.nbd_start().export("disk")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        assert client.read(0, 7) == b"content"


@pytest.mark.contract
def test_inet_with_port_0_is_given_one(server, path):
    """The port is found in /proc, as an operator would with ss."""
    server.add_file("disk", path)
    before = listening_ports()
    server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
    server.export("disk")
    new = listening_ports() - before
    for port in new:
        client = NbdRaw.inet(port)
        client.hello()
        client.go("disk")
        assert client.read(0, 7) == b"content"
        client.close()
    assert len(new) >= 1


def listening_ports():
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in list(table)[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[1].startswith("0100007F")}


@pytest.mark.contract
def test_ipv6(server, path):
    if not os.path.exists("/proc/net/if_inet6") or "00000000000000000000000000000001" not in \
            open("/proc/net/if_inet6").read():
        pytest.skip("no IPv6 loopback")
    import socket
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
    server.add_file("disk", path)
    server.nbd_start({"type": "inet", "data": {"host": "::1", "port": str(port)}})
    server.export("disk")
    with NbdRaw.inet(port, "::1") as client:
        client.hello()
        client.go("disk")
        assert client.read(0, 7) == b"content"


# ---- Exports ----

@pytest.mark.contract
def test_vsock(server, path):
    """The monitor's own filter lets it listen there; a client of this host reaches it where there is a loopback."""
    try:
        client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError:
        pytest.skip("this host has no vsock")
    with client:
        port = 20000 + os.getpid() % 40000
        try:
            server.nbd_start({"type": "vsock", "data": {"cid": "4294967295", "port": str(port)}})
        except QmpError as error:
            assert "Cannot assign requested address" in error.desc
            pytest.skip("this host has the family, but no transport")
        server.add_file("disk", path)
        server.export("disk")
        try:
            client.connect((1, port))
        except OSError as error:
            pytest.skip(f"no loopback of vsock: {error}")
        raw = NbdRaw(client)
        raw.hello()
        raw.go("disk")
        assert raw.read(0, 512) == images.read(path, 0, 512)


def test_query_block_exports(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk", name="shown")
    assert nbd.qmp.cmd("query-block-exports") == [
        {"id": "exp-disk", "type": "nbd", "node-name": "disk", "shutting-down": False}]


@pytest.mark.contract
def test_ids_and_names_are_used_once(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk", id="e", name="n")
    error = nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "name": "n2"})
    assert error.cls == "GenericError" and "'e'" in error.desc
    error = nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e2", "node-name": "disk", "name": "n"})
    assert error.cls == "GenericError" and "'n'" in error.desc
    assert set(nbd.exports()) == {"e"}


@pytest.mark.contract
def test_the_id_is_free_after_the_event(nbd, path):
    nbd.add_file("disk", path)
    for _ in range(5):
        nbd.export("disk", id="again")
        with NbdRaw.opened(nbd.nbd_path, "disk") as client:
            assert client.read(0, 7) == b"content"
            client.disconnect()
        nbd.qmp.cmd("block-export-del", {"id": "again", "mode": "hard"})
        nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="again")


@pytest.mark.contract
def test_two_exports_of_one_node_see_each_other(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk", id="rw", name="rw")
    nbd.export("disk", id="ro", name="ro", writable=False)
    with NbdRaw.opened(nbd.nbd_path, "rw") as writer, NbdRaw.opened(nbd.nbd_path, "ro") as reader:
        assert writer.flags & FLAG_READ_ONLY == 0 and reader.flags & FLAG_READ_ONLY
        for n in range(20):
            assert writer.write(n * 1000, bytes([n]) * 1000) == 0
            assert reader.read(n * 1000, 1000) == bytes([n]) * 1000
        assert reader.write(0, b"x") != 0


def test_two_writers_of_one_node_with_cache_direct_are_warned_of(nbd, disk_image):
    """Each is alone on the blocks that it writes parts of, among its own clients only."""
    nbd.add_file("disk", disk_image(), cache={"direct": True})
    nbd.export("disk", id="one", name="one")
    nbd.export("disk", id="reader", name="reader", writable=False)
    assert "undo each other" not in nbd.log_text()
    nbd.export("disk", id="two", name="two")
    assert "export 'two'" in nbd.log_text() and "undo each other" in nbd.log_text()


@pytest.mark.contract
def test_mode_safe_refuses_while_clients_are_connected(nbd, path):
    nbd.add_file("disk", path)
    nbd.export("disk")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        for arguments in ({"id": "exp-disk"}, {"id": "exp-disk", "mode": "safe"}):
            error = nbd.qmp.error("block-export-del", arguments)
            assert error.cls == "GenericError" and "exp-disk" in error.desc
        assert client.read(0, 7) == b"content"
        client.disconnect()

    def deleted():
        try:
            nbd.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "safe"})
            return True
        except Exception:
            return False

    wait_for(deleted, "the export to be without clients")
    nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert nbd.exports() == {}


@pytest.mark.contract
def test_mode_hard_drops_the_clients(nbd, path):
    nbd.add_file("disk", path)
    nbd.add_file("other", images.make(path.parent / "other.img", MIB))
    nbd.export("disk")
    nbd.export("other")
    with NbdRaw.opened(nbd.nbd_path, "disk") as client, NbdRaw.opened(nbd.nbd_path, "other") as bystander:
        nbd.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "hard"})
        client.expect_closed()
        nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        assert bystander.read(0, 512) == bytes(512)
    with NbdRaw.unix(nbd.nbd_path) as late:
        late.hello()
        assert late.ask(OPT_GO, late.name_data("disk"))[-1][0] == REP_ERR_UNKNOWN


@pytest.mark.contract
@pytest.mark.parametrize("name", ["", "with space", "slash/es", "ünï", "-dash", "a" * 255])
def test_unusual_export_names(nbd, path, name):
    nbd.add_file("disk", path)
    nbd.export("disk", name=name)
    with NbdRaw.opened(nbd.nbd_path, name) as client:
        assert client.read(0, 7) == b"content"


def test_fua_and_writethrough_make_writes_durable(nbd, disk_image):
    path = disk_image()
    nbd.add_file("disk", path)
    nbd.export("disk", id="cached", name="cached")
    nbd.export("disk", id="through", name="through", writethrough=True)
    with NbdRaw.opened(nbd.nbd_path, "cached") as client:
        assert client.write(MIB, b"w" * 4096) == 0
        images.need_late_allocation(path, MIB)
        assert client.flags & FLAG_SEND_FUA
        assert client.write(4 * MIB, b"w" * 4096, CMD_FLAG_FUA) == 0
        assert images.is_on_disk(path, 4 * MIB)
        assert client.write(6 * MIB, b"w" * 4096) == 0
        images.need_late_allocation(path, 6 * MIB)
    with NbdRaw.opened(nbd.nbd_path, "through") as client:
        assert client.write(8 * MIB, b"w" * 4096) == 0
        assert images.is_on_disk(path, 8 * MIB)
    for offset in (MIB, 4 * MIB, 6 * MIB, 8 * MIB):
        assert images.read(path, offset, 4096) == b"w" * 4096


def test_a_read_only_export_has_a_read_only_descriptor(nbd, path):
    """Even though the node is writable."""
    nbd.add_file("disk", path)
    nbd.export("disk", writable=False)
    worker = nbd.export_worker("exp-disk")
    flags = [int(line.split()[1], 8)
             for number, what in process.descriptors(worker["pid"]).items() if what == str(path)
             for line in open(f"/proc/{worker['pid']}/fdinfo/{number}") if line.startswith("flags:")]
    assert flags and all(f & os.O_ACCMODE == os.O_RDONLY for f in flags)


def test_each_worker_has_just_its_own_image(nbd, image):
    paths = [image(f"{n}.img", size=MIB) for n in range(4)]
    for number, path in enumerate(paths):
        nbd.add_file(f"disk{number}", path)
        nbd.export(f"disk{number}")
    for number, path in enumerate(paths):
        worker = nbd.export_worker(f"exp-disk{number}")
        files = {what for what in process.descriptors(worker["pid"]).values() if what.endswith(".img")}
        assert files == {str(path)}


def test_the_forced_engine_runs(nbd, path, engine):
    nbd.add_file("disk", path)
    nbd.export("disk")
    shown = nbd.export_worker("exp-disk")["engine"]
    assert shown in ("io_uring", "threads")
    if engine != "auto":
        assert shown == engine


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
def test_the_operator_chooses_the_engine(nbd, path, aio):
    nbd.add_file("disk", path, aio=aio)
    nbd.export("disk")
    assert nbd.export_worker("exp-disk")["engine"] == aio
    with NbdRaw.opened(nbd.nbd_path, "disk") as client:
        assert client.read(0, 7) == b"content"


def test_many_exports(nbd, image):
    """A hundred exports: each serves, and all are gone after the server stopped."""
    for number in range(100):
        nbd.add_file(f"disk{number}", image(f"{number}.img", size=64 * KIB, data=[(0, b"%03d" % number)]))
        nbd.export(f"disk{number}")
    for number in range(100):
        with NbdRaw.opened(nbd.nbd_path, f"disk{number}") as client:
            assert client.read(0, 3) == b"%03d" % number
    pids = [worker["pid"] for worker in nbd.workers(role="nbd-export")]
    assert len(pids) == 100
    nbd.qmp.cmd("nbd-server-stop", timeout=60)
    assert nbd.exports() == {}
    wait_for(lambda: not any(map(process.alive, pids)), "the workers to end")
