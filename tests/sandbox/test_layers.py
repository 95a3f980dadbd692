# SPDX-License-Identifier: BSD-2-Clause
"""
The layers of every process's sandbox as the kernel shows them, held against what query-workers says, and the exact
list of descriptors that each may hold (docs/sandbox.md).
"""

import os
import pathlib
import pwd

import pytest

from support import images, sandbox
from support.nbdraw import OPT_GO, NbdRaw
from support.process import children_of, command, descriptors, wait_for
from support.server import ACCOUNT

TLS_ROLES = ["nbd-negotiator-tls", "tls-signer"]
ROLES = ["nbd-export", "nbd-negotiator", "vhost", "vhost-door", "fuse", *TLS_ROLES]


def start(server, image, **members):
    """A server with one export, its worker, and a negotiator in the pool."""
    sandbox.need_root()
    server.nbd_start(**members)
    server.image = image("disk.img", size=images.MIB)
    server.add_file("disk", server.image)
    server.export("disk", id="exp")
    return server


def start_tls(server, image):
    sandbox.add_shared_keys(server, "creds")
    return start(server, image, **{"tls-creds": "creds"})


@pytest.fixture
def running(request, server, image):
    return start_tls(server, image) if sandbox.role_of_test(request) in TLS_ROLES else start(server, image)


def worker_of(server, role):
    """A worker of the role that has come to rest."""
    if role in ("vhost", "vhost-door", "fuse"):
        server.qmp.cmd("block-export-add", {**sandbox.export_of_role(server, role, "disk", server.dir), "id": role,
                                            "writable": False})
    return wait_for(lambda: next(iter(server.workers(role=role, state="running")), None), f"a running {role}")


@pytest.mark.parametrize("role", ROLES)
def test_namespaces_are_as_reported(running, role):
    worker = worker_of(running, role)
    for layer, name in sandbox.LAYER_NAMESPACES.items():
        other = sandbox.namespace(worker["pid"], name) != sandbox.namespace(running.pid, name)
        assert other == (layer in worker["sandbox"]), f"{layer}: reported {worker['sandbox']}"


@pytest.mark.parametrize("role", ROLES)
def test_required_layers_are_in_force(running, role):
    worker = worker_of(running, role)
    assert sandbox.REQUIRED_LAYERS <= set(worker["sandbox"])
    for tid in sandbox.threads(worker["pid"]):
        status = sandbox.status(worker["pid"], tid)
        assert status["Seccomp"] == "2", f"thread {tid}: {status}"
        assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("role", ROLES)
def test_no_capability_is_left(running, role):
    worker = worker_of(running, role)
    assert "no-capabilities" in worker["sandbox"]
    status = sandbox.status(worker["pid"])
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    if "user-namespace" in worker["sandbox"]:
        sets.append("CapBnd")
    assert {name: int(status[name], 16) for name in sets} == {name: 0 for name in sets}


@pytest.mark.parametrize("role", ROLES)
def test_account_is_the_service_account(running, role):
    account = pwd.getpwnam(ACCOUNT)
    for pid in (running.pid, worker_of(running, role)["pid"]):
        status = sandbox.status(pid)
        assert status["Uid"].split() == [str(account.pw_uid)] * 4
        assert status["Gid"].split() == [str(account.pw_gid)] * 4


@pytest.mark.parametrize("role", ROLES)
def test_root_is_empty_and_read_only(running, role):
    worker = worker_of(running, role)
    if "empty-root" not in worker["sandbox"]:
        pytest.skip("this host does not let an account make mount namespaces")
    assert os.listdir(f"/proc/{worker['pid']}/root") == []
    mounts = pathlib.Path(f"/proc/{worker['pid']}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1, mounts
    assert "ro" in mounts[0].split()[5].split(",") or " - tmpfs bulkhead-empty ro" in mounts[0]


@pytest.mark.parametrize("role", ROLES)
def test_not_dumpable(running, role):
    """Of one without a user namespace /proc tells it too: its files belong to root."""
    worker = worker_of(running, role)
    assert "non-dumpable" in worker["sandbox"]
    if "user-namespace" not in worker["sandbox"]:
        assert os.stat(f"/proc/{worker['pid']}/mem").st_uid == 0


@pytest.mark.parametrize("role,limit,value", [
    ("nbd-export", "Max core file size", "0"),
    ("nbd-export", "Max locked memory", "0"),
    ("nbd-export", "Max open files", "8192"),
    ("nbd-export", "Max processes", "512"),
    ("nbd-export", "Max msgqueue size", "0"),
    ("vhost", "Max core file size", "0"),
    ("vhost-door", "Max core file size", "0"),
    ("vhost-door", "Max open files", "2048"),
    ("vhost-door", "Max file size", "0"),
    ("vhost-door", "Max processes", "0"),
    ("vhost", "Max open files", "1024"),
    ("fuse", "Max open files", "8192"),
    ("fuse", "Max core file size", "0"),
    ("nbd-negotiator", "Max core file size", "0"),
    ("nbd-negotiator", "Max open files", "32"),
    ("nbd-negotiator", "Max file size", "0"),
    ("nbd-negotiator", "Max processes", "0"),
    ("nbd-negotiator", "Max msgqueue size", "0"),
    ("nbd-negotiator", "Max locked memory", "0"),
    ("nbd-negotiator-tls", "Max core file size", "0"),
    ("nbd-negotiator-tls", "Max open files", "32"),
    ("nbd-negotiator-tls", "Max file size", "0"),
    ("nbd-negotiator-tls", "Max processes", "0"),
    ("tls-signer", "Max core file size", "0"),
    ("tls-signer", "Max open files", "600"),
    ("tls-signer", "Max file size", "0"),
    ("tls-signer", "Max processes", "0"),
])
def test_limits(running, role, limit, value):
    worker = worker_of(running, role)
    assert "rlimits" in worker["sandbox"]
    soft, hard = sandbox.limits(worker["pid"])[limit]
    assert soft == hard and int(hard) <= int(value)


@pytest.mark.parametrize("role", ROLES)
def test_environment_is_empty(running, build, role):
    if sandbox.is_sanitized(build / "bulkhead"):
        pytest.skip("in a build with sanitizers the environment holds their options")
    assert pathlib.Path(f"/proc/{worker_of(running, role)['pid']}/environ").read_bytes() == b""


def test_landlock_is_reported_where_the_kernel_has_it(running):
    for worker in running.workers(state="running"):
        assert ("landlock" in worker["sandbox"]) == (worker["landlock-abi"] > 0)


def test_monitor_is_locked_down(running):
    status = sandbox.status(running.pid)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
    assert os.stat(f"/proc/{running.pid}/mem").st_uid == 0
    assert sandbox.limits(running.pid)["Max core file size"] == ("0", "0")


def test_opener_is_confined(running):
    """It opens paths for the monitor; it and each child that keeps an image have a filter, and nobody may look into them."""
    opener = running.workers(role="opener")[0]["pid"]
    children = children_of(opener)
    assert children, "the image is held by a child"
    account = pwd.getpwnam(ACCOUNT)
    for pid in (opener, *children):
        status = sandbox.status(pid)
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == [str(account.pw_uid)] * 4
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        limits = sandbox.limits(pid)
        assert limits["Max core file size"] == limits["Max msgqueue size"] == ("0", "0")
        assert limits["Max open files"] == ("8192", "8192")
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0


def test_mounter_is_bounded(running):
    """It can have no filter, and so it has as little as possible; nobody of its account may look into it."""
    mounter, = (pid for pid in children_of(running.pid) if "bulkhead-mounter" in command(pid))
    status, limits = sandbox.status(mounter), sandbox.limits(mounter)
    account = pwd.getpwnam(ACCOUNT)
    assert status["Uid"].split() == [str(account.pw_uid)] * 4 and status["Gid"].split() == [str(account.pw_gid)] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert limits["Max core file size"] == ("0", "0") and limits["Max open files"] == ("8192", "8192")
    assert os.stat(f"/proc/{mounter}/mem").st_uid == 0


# ---- Descriptors ----

def always(build):
    """0 to 4: /dev/null (in a build with sanitizers standard error is the log), control socket, status pipe."""
    if sandbox.is_sanitized(build / "bulkhead"):
        return {"/dev/null": 2, "socket": 1, "pipe": 1}
    return {"/dev/null": 3, "socket": 1, "pipe": 1}


def expected(build, server, loops, **more):
    result = {**always(build), "[eventpoll]": loops, "[eventfd]": loops}
    if sandbox.is_sanitized(build / "bulkhead"):
        result[str(server.log_path)] = 1
    for kind, count in more.items():
        result[kind] = result.get(kind, 0) + count
    return {kind: count for kind, count in result.items() if count}


def io_threads(pid):
    return sum(pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text() == "io\n" for tid in sandbox.threads(pid))


def settle(pid, want):
    """
    A worker that has just started still names its threads and takes its first message: once it has settled, it holds
    exactly what want() says.
    """
    try:
        wait_for(lambda: sandbox.kinds_of_descriptors(pid) == want(), "the worker to settle", 5)
    except AssertionError:
        assert sandbox.kinds_of_descriptors(pid) == want()
    return want()


def pipes_of_nbd(worker):
    """One for each thread, through which large writes come."""
    return {"pipe": 2 * io_threads(worker["pid"])}


def expected_of_export(build, server, worker, **more):
    count = io_threads(worker["pid"])
    rings = count if worker["engine"] == "io_uring" else 0
    return expected(build, server, 1 + count, **{"[io_uring]": rings, str(server.image): 1, **more})


def test_descriptors_of_an_export(running, build):
    worker = worker_of(running, "nbd-export")
    want = settle(worker["pid"], lambda: expected_of_export(build, running, worker, **pipes_of_nbd(worker)))
    assert worker["descriptors"] == {"images": 1, "clients": 0, "internal": sum(want.values()) - 1}


def test_descriptors_of_an_export_with_clients(running, build):
    worker = worker_of(running, "nbd-export")
    before = sandbox.kinds_of_descriptors(worker["pid"])
    with NbdRaw.opened(running.nbd_path, "disk"), NbdRaw.opened(running.nbd_path, "disk"):
        wait_for(lambda: running.export_worker("exp")["clients"] == 2, "both clients to be with the export")
        assert sandbox.kinds_of_descriptors(worker["pid"]) == {**before, "socket": before["socket"] + 2}
        assert running.export_worker("exp")["descriptors"]["clients"] == 2
    wait_for(lambda: sandbox.kinds_of_descriptors(worker["pid"]) == before, "their sockets to be closed")


def test_descriptors_of_a_negotiator(running, build):
    worker = worker_of(running, "nbd-negotiator")
    want = settle(worker["pid"], lambda: expected(build, running, 1))
    assert worker["descriptors"] == {"images": 0, "clients": 0, "internal": sum(want.values())}


def test_descriptors_of_tls_roles(server, image, build):
    """No key file, which the signer has read, and no socket to a client or to each other before there is a handshake."""
    start_tls(server, image)
    for role in TLS_ROLES:
        worker = worker_of(server, role)
        want = settle(worker["pid"], lambda: expected(build, server, 1))
        assert worker["descriptors"] == {"images": 0, "clients": 0, "internal": sum(want.values())}, role


def test_descriptors_of_a_vhost_worker(running, build):
    """A front-end is still to come: the link to the door, and no memory of a guest."""
    worker = worker_of(running, "vhost")
    settle(worker["pid"], lambda: expected_of_export(build, running, worker, socket=1))


def test_descriptors_of_a_vhost_door(running, build):
    """Its listening socket and the link to the worker, and no image."""
    worker = worker_of(running, "vhost-door")
    want = settle(worker["pid"], lambda: expected(build, running, 1, socket=2))
    assert worker["descriptors"] == {"images": 0, "clients": 0, "internal": sum(want.values()) - 2}


def test_descriptors_of_a_fuse_worker(running, build):
    """Pairs of one connection to /dev/fuse, a pipe for each thread, and no directory, mount point or other mount."""
    worker = worker_of(running, "fuse")
    pairs = sandbox.kinds_of_descriptors(worker["pid"])["/dev/fuse"]
    assert pairs > 0 and pairs % 2 == 0
    settle(worker["pid"], lambda: expected_of_export(build, running, worker,
                                                     **{"/dev/fuse": pairs, "pipe": 2 * io_threads(worker["pid"])}))


def test_negotiator_with_a_client_holds_that_client_only(running):
    idle = {w["pid"]: sandbox.kinds_of_descriptors(w["pid"]) for w in running.workers(role="nbd-negotiator")}
    with NbdRaw.unix(running.nbd_path) as client:
        client.hello()
        client.option(OPT_GO, length=100)
        busy = wait_for(lambda: next((w for w in running.workers(role="nbd-negotiator")
                                      if w["descriptors"]["clients"]), None), "a negotiator to have the client")
        have = sandbox.kinds_of_descriptors(busy["pid"])
        base = idle.get(busy["pid"])
        if base is not None:
            have = {kind: count - base.get(kind, 0) for kind, count in have.items() if count != base.get(kind, 0)}
            assert have == {"socket": 1}


def test_read_only_export_holds_a_read_only_descriptor(running, image):
    """Even where the node is writable."""
    running.export("disk", writable=False, id="ro", name="ro")
    for export_id, access in (("exp", os.O_RDWR), ("ro", os.O_RDONLY)):
        pid = running.export_worker(export_id)["pid"]
        fds = [fd for fd, target in descriptors(pid).items() if target == str(running.image)]
        assert len(fds) == 1
        assert sandbox.open_flags(pid, fds[0]) & os.O_ACCMODE == access, export_id


@pytest.mark.parametrize("role", ["vhost", "fuse"])
def test_read_only_export_of_another_kind_holds_a_read_only_descriptor(running, role):
    running.qmp.cmd("block-export-del", {"id": "exp"})
    running.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp")
    pid = worker_of(running, role)["pid"]
    fds = [fd for fd, target in descriptors(pid).items() if target == str(running.image)]
    assert [sandbox.open_flags(pid, fd) & os.O_ACCMODE for fd in fds] == [os.O_RDONLY]


def test_monitor_holds_no_client(running):
    """A client is handed on unread, and no copy of its socket stays behind."""
    before = sandbox.kinds_of_descriptors(running.pid)
    with NbdRaw.opened(running.nbd_path, "disk"):
        wait_for(lambda: running.export_worker("exp")["clients"] == 1, "the client to be with the export")
        wait_for(lambda: sandbox.kinds_of_descriptors(running.pid).get("socket") == before["socket"],
                 "the pool to be full again, and no socket more than before")
