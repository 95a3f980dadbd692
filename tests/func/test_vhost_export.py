# SPDX-License-Identifier: BSD-2-Clause
"""vhost-user-blk exports: options, sessions, removal, crashes, resizing; and all cases of our own front-end."""

import os
import pathlib
import re
import signal
import socket

import pytest

from support import images, process, vhost
from support.images import MIB


@pytest.fixture
def disk(server, image):
    """A server with a writable node `disk` of 64 MiB; the image's path."""
    path = image(size=64 * MIB)
    server.add_file("disk", path, discard="unmap")
    return path


def run_cases(server, build, path, *cases, timeout=150):
    """Run vhost-test; each line that is not ok fails the test."""
    worker = [row for row in server.workers(role="vhost")][0]
    env = dict(os.environ, BULKHEAD_VHOST_PID=str(worker["pid"]))
    done = process.run(vhost.program(build), path, *cases, status=None, timeout=timeout, env=env)
    lines = done.stdout_text.splitlines()
    bad = [line for line in lines if not line.startswith(("ok ", "skip "))]
    assert lines and not bad and done.returncode == 0, "\n".join(bad) + done.stderr_text
    assert server.workers(role="vhost")[0]["pid"] == worker["pid"], "the worker is another one"
    return [line.split(" ", 1)[1] for line in lines if line.startswith("ok ")]


def test_the_conformance_page_names_every_case_and_nothing_else(build):
    top = pathlib.Path(__file__).resolve().parents[2]
    named = set(re.findall(r"`([a-z0-9_]+)(?:\[\w+\])?`", (top / "docs/vhost-user-conformance.md").read_text()))
    cases = set(process.output(vhost.program(build), "--list").split())
    tests = {name for path in (pathlib.Path(__file__), top / "tests/interop/test_vhost_guest.py")
             for name in re.findall(r"^def test_(\w+)", path.read_text(), re.MULTILINE)}
    units = {path.stem for path in (top / "tests/unit").glob("test_*.c")}
    assert cases <= named
    assert named <= cases | tests | units | {"writeback"}  # a member of the configuration space


# ---- Our own front-end, whole ----

def test_all_cases_on_a_writable_disk(server, disk, build):
    path = vhost.export(server, "disk", **{"num-queues": 4})
    done = run_cases(server, build, path)
    assert len(done) > 70


def test_all_cases_with_polling(server, disk, build):
    path = vhost.export(server, "disk", **{"num-queues": 4, "__org.bulkhead_poll-max-ns": 50000})
    assert len(run_cases(server, build, path)) > 70


def test_all_cases_on_disk_with_o_direct(server, disk_image, build):
    server.add_file("disk", disk_image(size=64 * MIB), cache={"direct": True}, discard="unmap")
    path = vhost.export(server, "disk", **{"num-queues": 4})
    assert len(run_cases(server, build, path)) > 70


def test_all_cases_on_a_read_only_disk(server, disk, build):
    path = vhost.export(server, "disk", writable=False, **{"num-queues": 4})
    done = run_cases(server, build, path)
    assert "a_read_only_disk_refuses_changes" in done and "split_round_trip" not in done


REASONS = [
    ("payloads_too_short", "SET_MEM_TABLE: a payload of 7 bytes"),
    ("descriptors_too_many", "more than 8 descriptors"),
    ("before_its_time", "SET_MEM_TABLE before SET_OWNER"),
    ("rings_outside_memory", "a used ring at 0x0, which is not in guest memory"),
    ("bad_split_chains", "queue 0: a request without room for its status"),
    ("bad_packed_chains", "a descriptor of 0 bytes"),
    ("memory_is_cut_under_the_data", "memory of the guest has gone"),
    ("a_log_that_is_too_small", "beyond the end of the dirty log"),
    ("lying_split_buffers", "inflight buffer of version 2"),
]


@pytest.mark.parametrize("case, reason", REASONS, ids=[case for case, _ in REASONS])
def test_sessions_end_with_a_reason_in_the_log(server, disk, build, case, reason):
    run_cases(server, build, vhost.export(server, "disk"), case)
    dropped = [line for line in server.log_text().splitlines() if "export 'exp-disk': front-end" in line]
    assert any(reason in line and "was dropped" in line for line in dropped), "\n".join(dropped)


# ---- Options ----

BAD_OPTIONS = [
    ({"num-queues": 0}, "num-queues"), ({"num-queues": 257}, "num-queues"), ({"num-queues": 65536}, "num-queues"),
    ({"logical-block-size": 0}, "logical-block-size"), ({"logical-block-size": 256}, "logical-block-size"),
    ({"logical-block-size": 513}, "logical-block-size"), ({"logical-block-size": 4 * MIB}, "logical-block-size"),
    ({"addr": {"type": "inet", "host": "localhost", "port": "0"}}, "addr"),
    ({"addr": {"type": "vsock", "cid": "2", "port": "1"}}, "addr"),
    ({"addr": {"type": "fd", "str": "3"}}, "3"),
    ({"addr": {"type": "unix", "path": "/nonexistent/socket"}}, "/nonexistent/socket"),
    ({"addr": {"type": "unix", "path": "/tmp/" + "x" * 120}}, "path"),
    ({"__org.bulkhead_poll-max-ns": 10**10}, "poll-max-ns"),
    ({"name": "disk"}, "name"), ({"addr": None}, "addr"),
]


@pytest.mark.parametrize("members, named", BAD_OPTIONS, ids=[f"{i}-{case[1][:12].strip('/')}" for i, case in
                                                             enumerate(BAD_OPTIONS)])
def test_bad_options_are_refused_by_name(server, disk, members, named):
    arguments = {"type": "vhost-user-blk", "id": "exp", "node-name": "disk",
                 "addr": {"type": "unix", "path": str(server.dir / "vhost.sock")}, **members}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    assert named in server.qmp.error("block-export-add", arguments).desc
    assert server.exports() == {}
    assert not (server.dir / "vhost.sock").exists()
    # The id and the node are as free as before.
    vhost.export(server, "disk", "exp")


def test_a_path_that_is_in_use_is_refused(server, disk, image):
    path = vhost.export(server, "disk")
    server.add_file("other", image("other.img"))
    error = server.qmp.error("block-export-add", {"type": "vhost-user-blk", "id": "second", "node-name": "other",
                                                  "addr": {"type": "unix", "path": str(path)}})
    assert str(path) in error.desc
    assert list(server.exports()) == ["exp-disk"]


@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_the_logical_block_size_reaches_the_driver(server, disk, build, size):
    path = vhost.export(server, "disk", **{"logical-block-size": size})
    frontend = vhost.Frontend(build, path)
    assert frontend.cmd("blocks").split()[1] == str(size)
    sectors = size // 512
    assert frontend.cmd("write", sectors, sectors, 7) == "ok"
    if sectors > 1:
        assert frontend.cmd("write", 1, 1, 7) == "status 1"
        assert frontend.cmd("read", 1, sectors) == "status 1"
    frontend.close()


def test_each_disk_has_its_own_serial(server, disk, image, build):
    seen = set()
    for export_id in ["a", "vm1-disk0", "x" * 20, "a-name-that-is-too-long-for-it-1", "a-name-that-is-too-long-for-it-2"]:
        frontend = vhost.Frontend(build, vhost.export(server, "disk", export_id, writable=False))
        serial = frontend.cmd("id").removeprefix("ok ")
        frontend.close()
        if len(export_id) <= 20:
            assert serial == export_id
        seen.add(serial)
    assert len(seen) == 5


def test_a_listening_descriptor_on_the_command_line(new_server, image, build):
    server = new_server()
    path = server.dir / "passed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        server.start("--blockdev", server.file_node("disk", image(size=64 * MIB)), "--export",
                     f"vhost-user-blk,id=exp,node-name=disk,writable=on,addr.type=fd,addr.str={fd}",
                     pass_fds=[fd])
        frontend = vhost.Frontend(build, path)
        assert frontend.cmd("write", 0, 8, 1) == "ok"
        frontend.close()
    vhost.remove(server, "exp")
    os.unlink(path)  # ours: whoever made the socket removes it


@pytest.mark.parametrize("option", ["addr.type=unix,addr.path={dir}/vhost.sock", ])
def test_the_command_line_as_of_qemu_storage_daemon(new_server, image, build, option):
    server = new_server()
    server.start("--blockdev", server.file_node("disk", image(size=64 * MIB)), "--export",
                 "vhost-user-blk,id=exp,node-name=disk,writable=on,num-queues=2," + option.format(dir=server.dir))
    frontend = vhost.Frontend(build, server.dir / "vhost.sock")
    assert frontend.cmd("capacity") == f"ok {64 * MIB // 512}"
    frontend.close()


# ---- What reaches the image ----

def test_what_is_written_is_in_the_image(server, disk, build):
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    assert frontend.cmd("write", 16, 8, 0xab) == "ok"
    assert frontend.cmd("flush") == "ok"
    assert images.read(disk, 16 * 512, 8 * 512) == b"\xab" * 8 * 512
    assert images.read(disk, 0, 16 * 512) == bytes(16 * 512)
    frontend.close()


def test_a_read_only_export_has_a_read_only_descriptor(server, disk, build):
    vhost.export(server, "disk", writable=False)
    pid = server.export_worker("exp-disk")["pid"]
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    image_fds = [fd for fd, link in links.items() if link == str(disk)]
    assert len(image_fds) == 1
    flags = [line for line in pathlib.Path(f"/proc/{pid}/fdinfo/{image_fds[0]}").read_text().splitlines()
             if line.startswith("flags")]
    assert int(flags[0].split()[1], 8) & os.O_ACCMODE == os.O_RDONLY


def test_the_worker_holds_what_the_design_allows(server, disk, build):
    path = vhost.export(server, "disk", **{"num-queues": 2})
    pid = server.export_worker("exp-disk")["pid"]

    def kinds():
        found = {}
        for fd in os.listdir(f"/proc/{pid}/fd"):
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0]
            if kind != str(server.log_path):  # builds with sanitizers keep standard error
                found[kind] = found.get(kind, 0) + 1
        return found

    # The link comes with the first message, a moment after the worker is ready.
    process.wait_for(lambda: kinds().get("socket", 0) >= 2, "the worker to have its link to the door")
    idle = kinds()
    # Control socket and link; the status pipe; the image; the null device; loops, ring.
    assert idle.pop("socket") == 2 and idle.pop("pipe") == 1 and idle.pop(str(disk)) == 1, idle
    assert set(idle) <= {"/dev/null", "anon_inode", "/memfd"}, idle
    frontend = vhost.Frontend(build, path)
    busy = kinds()
    # The connection, its messages, its way back; three eventfds of the one queue that is set up. No memory of the guest.
    assert busy["socket"] == 5 and busy["anon_inode"] == idle["anon_inode"] + 3, (idle, busy)
    assert not any("guest" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    worker = server.export_worker("exp-disk")
    assert worker["clients"] == 1 and worker["descriptors"]["clients"] == 6
    assert worker["descriptors"]["images"] == 1
    frontend.close()
    process.wait_for(lambda: server.export_worker("exp-disk")["descriptors"]["clients"] == 0, "the session to end")
    assert kinds() == {**idle, "socket": 2, "pipe": 1, str(disk): 1}


def test_errors_of_the_storage_reach_the_guest(server, image, build):
    server.qmp.cmd("blockdev-add", {"driver": "blkdebug", "node-name": "disk",
                                    "image": server.file_node("file", image(size=MIB)),
                                    "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": 100},
                                                     {"event": "none", "iotype": "write", "errno": 28, "sector": 200}]})
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    assert frontend.cmd("read", 100, 1) == "status 1"
    assert frontend.cmd("write", 200, 1, 1) == "status 1"
    assert frontend.cmd("read", 101, 1).startswith("ok")
    assert frontend.cmd("write", 201, 1, 1) == "ok"
    frontend.close()
    assert "read of 512 bytes at 51200 failed: Input/output error" in server.log_text()


def test_every_operation_is_counted_with_all_its_bytes(server, disk, build):
    """Also a DISCARD of several ranges, and what was refused."""
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    beyond = 64 * MIB // 512
    for command in ("write 0 8 1", "write 8 16 2", "read 0 24", "discard 0 8 16 32 64 128", "zero 0 16 100 3", "flush",
                    "discard 0 0"):
        assert frontend.cmd(command).startswith("ok"), command
    for command in (f"read {beyond} 1", f"write {beyond} 1 1", f"zero 0 8 {beyond} 8", f"discard {beyond} 1"):
        assert frontend.cmd(command) == "status 1", command
    assert frontend.cmd("id").startswith("ok")  # counts nowhere
    counters = vhost.counters(server.export_worker("exp-disk")["pid"])
    frontend.close()
    assert counters["ops"] == {"read": 2, "write": 3, "flush": 1, "discard": 3, "write-zeroes": 2}
    assert counters["bytes"] == {"read": 24 * 512, "write": 24 * 512, "flush": 0, "discard": 168 * 512,
                                 "write-zeroes": 19 * 512}
    assert counters["errors"] == {"read": 1, "write": 1, "flush": 0, "discard": 1, "write-zeroes": 1}


# ---- Sessions and removal ----

def test_the_front_end_is_killed_and_comes_back(server, disk, build):
    path = vhost.export(server, "disk")
    for round_ in range(20):
        frontend = vhost.Frontend(build, path)
        assert frontend.cmd("write", round_ * 8, 8, round_) == "ok"
        frontend.send("flood", 20)
        frontend.kill()
    frontend = vhost.Frontend(build, path)
    assert frontend.cmd("read", 19 * 8, 1) == "ok " + "13" * 16
    frontend.close()
    assert server.export_worker("exp-disk")["clients-total"] == 21


def test_safe_removal_needs_that_nobody_is_connected(server, disk, build):
    path = vhost.export(server, "disk")
    frontend = vhost.Frontend(build, path)
    error = server.qmp.error("block-export-del", {"id": "exp-disk"})
    assert "in use" in error.desc
    assert frontend.cmd("read", 0, 1).startswith("ok")
    frontend.close()
    server.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "safe"}) # at once: who has left does not count
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert not path.exists()


def test_hard_removal_drops_the_front_end(server, disk, build):
    path = vhost.export(server, "disk")
    frontend = vhost.Frontend(build, path)
    frontend.send("flood", 30)
    server.qmp.cmd("block-export-del", {"id": "exp-disk", "mode": "hard"})
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert not path.exists() and server.exports() == {}
    frontend.kill()
    # The node and the id are free.
    vhost.export(server, "disk")


def test_quit_with_a_busy_front_end(server, disk, build):
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    frontend.send("flood", 30)
    server.stop()
    frontend.kill()


def test_a_killed_worker_takes_its_export_and_nothing_else(server, disk, image, build):
    server.deaths_expected = True
    server.add_file("other", image("other.img", size=64 * MIB))
    first = vhost.Frontend(build, vhost.export(server, "disk"))
    second = vhost.Frontend(build, vhost.export(server, "other"))
    os.kill(server.export_worker("exp-disk")["pid"], signal.SIGKILL)
    gone = server.qmp.wait_event("__org.bulkhead_WORKER_GONE", export="exp-disk")
    assert gone["data"]["signal"] == signal.SIGKILL
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    assert first.cmd("closed") == "ok"
    assert second.cmd("read", 0, 1).startswith("ok")
    first.kill()
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    assert frontend.cmd("write", 0, 1, 1) == "ok"
    frontend.close()
    second.close()


# ---- Resizing ----

def test_a_new_size_reaches_the_front_end(server, disk, build):
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    sectors = 64 * MIB // 512
    assert frontend.cmd("read", sectors, 1) == "status 1"
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": 96 * MIB})
    assert frontend.cmd("notice") == "ok"
    assert frontend.cmd("capacity") == f"ok {96 * MIB // 512}"
    assert frontend.cmd("write", 96 * MIB // 512 - 1, 1, 5) == "ok"
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": 32 * MIB})
    assert frontend.cmd("notice") == "ok"
    assert frontend.cmd("capacity") == f"ok {32 * MIB // 512}"
    assert frontend.cmd("read", 32 * MIB // 512, 1) == "status 1"
    assert os.stat(disk).st_size == 32 * MIB
    frontend.close()


def test_resizing_without_a_front_end(server, disk, build):
    path = vhost.export(server, "disk")
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": 128 * MIB})
    frontend = vhost.Frontend(build, path)
    process.wait_for(lambda: frontend.cmd("capacity") == f"ok {128 * MIB // 512}", "the new size")
    frontend.close()


def test_resizing_under_a_raw_node(server, image, build):
    path = image(size=64 * MIB)
    server.add_file("file", path)
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "file": "file", "offset": MIB})
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "window", "file": "file", "offset": 0, "size": MIB})
    frontend = vhost.Frontend(build, vhost.export(server, "disk"))
    assert frontend.cmd("capacity") == f"ok {63 * MIB // 512}"
    server.qmp.cmd("block_resize", {"node-name": "disk", "size": 99 * MIB})
    assert frontend.cmd("notice") == "ok"
    assert frontend.cmd("capacity") == f"ok {99 * MIB // 512}"
    assert os.stat(path).st_size == 100 * MIB
    assert "fixed size" in server.qmp.error("block_resize", {"node-name": "window", "size": 2 * MIB}).desc
    frontend.close()


BAD_RESIZES = [
    ({"node-name": "nonexistent", "size": MIB}, "nonexistent"), ({"device": "disk", "size": MIB}, "disk"),
    ({"size": MIB}, "node-name"), ({"node-name": "disk"}, "size"), ({"node-name": "disk", "size": -1}, "size"),
    ({"node-name": "disk", "size": 2**63 - 1}, "large"), ({"node-name": "null", "size": MIB}, "null"),
    ({"node-name": "ro", "size": MIB}, "read-only"),
]


@pytest.mark.parametrize("arguments, named", BAD_RESIZES, ids=[str(i) for i in range(len(BAD_RESIZES))])
def test_bad_resizes_are_refused(server, disk, image, arguments, named):
    server.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "null", "size": MIB})
    server.add_file("ro", image("ro.img"), **{"read-only": True})
    error = server.qmp.error("block_resize", arguments)
    assert named in error.desc and error.cls == "GenericError"
    assert os.stat(disk).st_size == 64 * MIB


def test_new_nbd_clients_see_the_new_size(nbd, image, build):
    process.need("nbdinfo")
    nbd.add_file("disk", image(size=64 * MIB))
    nbd.export("disk")
    assert process.output("nbdinfo", "--size", nbd.uri("disk")).strip() == str(64 * MIB)
    nbd.qmp.cmd("block_resize", {"node-name": "disk", "size": 96 * MIB})
    assert process.output("nbdinfo", "--size", nbd.uri("disk")).strip() == str(96 * MIB)
