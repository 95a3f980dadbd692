# SPDX-License-Identifier: BSD-2-Clause
"""The command line: options, their order and spelling, start-up and its failures, daemonizing, signals, privileges."""

import json
import os
import pwd
import signal
import socket
import stat
import subprocess

import pytest

from support import fuse, images, process, sandbox
from support.images import MIB
from support.nbdraw import NbdRaw
from support.process import run, wait_for
from support.qmp import Qmp
from support.server import ACCOUNT

pytestmark = pytest.mark.control


@pytest.fixture
def fresh(new_server):
    """A server that is not started."""
    return new_server()


@pytest.fixture
def path(image):
    return image(data=[(0, b"content")])


def nbd_unix(server):
    return ("--nbd-server", f"addr.type=unix,addr.path={server.nbd_path}")


def fails(server, *args, drop="user", status=1, **kwargs):
    """Start it with options that must fail: what it said. Nothing may be left."""
    argv = server.argv(*args, drop=drop)
    done = process.popen(argv, cwd=server.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, **kwargs)
    out, err = done.communicate(timeout=60)
    assert done.returncode == status, f"{argv} exited with {done.returncode}\n{out}\n{err}"
    assert not os.path.exists(server.pid_path)
    if server.kind == "bulkhead":
        assert [p for p in server.dir.iterdir() if p.is_socket()] == []
    wait_for(lambda: not process.orphans(), "all processes to end")
    return out + err


# ---- Informative options ----

@pytest.mark.contract
def test_help_names_every_option(fresh):
    text = run(*fresh.argv("--help", drop=None)).stdout_text
    options = ["--blockdev", "--nbd-server", "--export", "--chardev", "--monitor", "--pidfile", "--daemonize", "--help",
               "--version"]
    if fresh.kind == "bulkhead":
        options.append("--user")
    for option in options:
        assert option in text


@pytest.mark.contract
def test_version(fresh):
    text = run(*fresh.argv("--version", drop=None)).stdout_text
    assert "version" in text or any(character.isdigit() for character in text)


# ---- Spelling ----

def serves(server, name="disk"):
    with NbdRaw.opened(server.nbd_path, name) as client:
        assert client.read(0, 7) == b"content"
        return client


@pytest.mark.contract
@pytest.mark.parametrize("form", ["dotted", "implied", "json", "nested"])
def test_dotted_and_json_forms_are_the_same(fresh, path, form):
    args = {
        "dotted": ("--blockdev", f"driver=file,node-name=disk,filename={path},cache.direct=off,discard=unmap",
                   *nbd_unix(fresh), "--export", "type=nbd,id=e,node-name=disk,name=disk,writable=on"),
        "implied": ("--blockdev", f"file,node-name=disk,filename={path}", *nbd_unix(fresh),
                    "--export", "nbd,id=e,node-name=disk,writable=on"),
        "json": ("--blockdev", {"driver": "file", "node-name": "disk", "filename": str(path), "cache": {"direct": False}},
                 "--nbd-server", {"addr": {"type": "unix", "path": str(fresh.nbd_path)}, "max-connections": 5},
                 "--export", {"type": "nbd", "id": "e", "node-name": "disk", "writable": True}),
        "nested": ("--blockdev", f"raw,node-name=disk,file.driver=file,file.filename={path},size=1048576", *nbd_unix(fresh),
                   "--export", "nbd,id=e,node-name=disk,writable=on"),
    }[form]
    fresh.start(*args)
    client = serves(fresh)
    assert client.size == (MIB if form == "nested" else 16 * MIB)
    assert fresh.exports()["e"]["node-name"] == "disk"


@pytest.mark.contract
def test_a_comma_in_a_value_is_written_twice(fresh, image):
    path = image("with,comma.img", data=[(0, b"content")])
    fresh.start("--blockdev", f"file,node-name=disk,filename={str(path).replace(',', ',,')}", *nbd_unix(fresh),
                "--export", "nbd,id=e,node-name=disk")
    serves(fresh)


@pytest.mark.contract
@pytest.mark.own("the members are an int in qemu-storage-daemon, which takes no suffix for it")
def test_sizes_may_have_suffixes(fresh, path):
    fresh.start("--blockdev", f"file,node-name=f,filename={path}", "--blockdev", "raw,node-name=disk,file=f,offset=0,size=64k",
                *nbd_unix(fresh), "--export", "nbd,id=e,node-name=disk")
    assert serves(fresh).size == 65536


@pytest.mark.contract
def test_options_are_carried_out_in_order(fresh, path):
    blockdev = ("--blockdev", f"file,node-name=disk,filename={path}")
    export = ("--export", "nbd,id=e,node-name=disk")
    assert "disk" in fails(fresh, *nbd_unix(fresh), *export, *blockdev)
    if fresh.kind == "qsd":
        os.unlink(fresh.nbd_path)
    assert "NBD server" in fails(fresh, *blockdev, *export, *nbd_unix(fresh))
    fresh.start(*blockdev, *nbd_unix(fresh), *export)
    serves(fresh)


BAD_OPTIONS = [
    (("--nonsense",), "nonsense"),
    (("leftover",), "leftover"),
    (("--blockdev",), "blockdev"),
    (("--blockdev", ""), None),
    (("--blockdev", "file"), "name"),
    (("--blockdev", "file,node-name=d"), "filename"),
    (("--blockdev", "nonsense,node-name=d"), "nonsense"),
    (("--blockdev", "file,node-name=d,filename=@image,surprise=1"), "surprise"),
    (("--blockdev", "file,node-name=d,filename=@image,read-only=maybe"), "read-only"),
    (("--blockdev", "file,node-name=d,filename=@image,cache=on"), "cache"),
    (("--blockdev", "file,node-name=d,filename=@image,cache.direct=on,cache=x"), "cache"),
    (("--blockdev", "file,node-name=d,filename=@image,cache..direct=on"), None),
    (("--blockdev", "null-co,node-name=d,size=1x"), "size"),
    (("--blockdev", "null-co,node-name=d,size=99999999999999999999"), "size"),
    (("--blockdev", '{"driver": "file"'), None),
    (("--blockdev", '{"driver": "file", "driver": "file", "node-name": "d", "filename": "@image"}'), None),
    (("--blockdev", '{"driver": "file", "node-name": 5, "filename": "@image"}'), "node-name"),
    (("--blockdev", '{"driver": "file", "node-name": "d", "filename": "@image"} x'), None),
    (("--blockdev", "file,node-name=d,filename=/nonexistent/image"), "/nonexistent/image"),
    (("--blockdev", "file,node-name=d,filename=@image", "--blockdev", "file,node-name=d,filename=@image"), "d"),
    (("--nbd-server", "addr.type=unix"), "path"),
    (("--nbd-server", "addr.type=unix,addr.path=/nonexistent/socket"), "/nonexistent/socket"),
    (("--nbd-server", "addr.type=nonsense"), "nonsense"),
    (("--nbd-server", "addr.type=inet,addr.host=127.0.0.1"), "port"),
    (("--nbd-server", "addr.type=unix,addr.path=@socket,max-connections=-1"), "max-connections"),
    (("--export", "nbd,id=e"), "node-name"),
    (("--export", "nonsense,id=e,node-name=d"), "nonsense"),
    (("--nbd-server", "addr.type=unix,addr.path=@socket", "--export", "nbd,id=e,node-name=nonexistent"), "nonexistent"),
    (("--chardev", "socket,id=c"), None),
    (("--chardev", "nonsense,id=c"), "nonsense"),
    (("--chardev", "socket,id=c,path=/nonexistent/socket,server=on,wait=off"), "/nonexistent/socket"),
    (("--chardev", "socket,id=c,path=/nonexistent/socket"), "/nonexistent/socket"),
    (("--monitor", "nonexistent"), "nonexistent"),
    (("--monitor", "chardev=nonexistent"), "nonexistent"),
    (("--pidfile", "/nonexistent/pid"), "/nonexistent/pid"),
]


@pytest.mark.contract
@pytest.mark.parametrize("args,word", BAD_OPTIONS, ids=[" ".join(args)[:60] for args, _ in BAD_OPTIONS])
def test_a_bad_option_ends_the_start_with_a_clear_error(fresh, path, args, word):
    args = [arg.replace("@image", str(path)).replace("@socket", str(fresh.nbd_path)) for arg in args]
    text = fails(fresh, *args)
    assert word is None or word in text, text
    assert text.strip()


@pytest.mark.contract
def test_a_failure_takes_back_what_was_started_before(fresh, path):
    """The NBD socket and the QMP socket of a start that fails are gone, and no worker is left."""
    text = fails(fresh, *fresh.qmp_args(), "--pidfile", fresh.pid_path, "--blockdev", f"file,node-name=disk,filename={path}",
                 "--nbd-server", f"addr.type=unix,addr.path={fresh.nbd_path}", "--export", "nbd,id=e,node-name=disk",
                 "--export", "nbd,id=e,node-name=disk")
    assert "e" in text


# ---- Pid file ----

@pytest.mark.contract
def test_the_pid_file_says_who_serves_and_goes_away(fresh, path):
    fresh.start("--blockdev", f"file,node-name=disk,filename={path}", *nbd_unix(fresh), "--export", "nbd,id=e,node-name=disk")
    assert int(fresh.pid_path.read_text()) == fresh.popen.pid
    fresh.stop()
    assert not fresh.pid_path.exists()


@pytest.mark.contract
def test_everything_serves_when_the_pid_file_is_there(fresh, path):
    """No wait between the pid file and the first client."""
    for _ in range(5):
        fresh.spawn("--pidfile", fresh.pid_path, "--blockdev", f"file,node-name=disk,filename={path}", *nbd_unix(fresh),
                    "--export", "nbd,id=e,node-name=disk", *fresh.qmp_args())
        while not (fresh.pid_path.exists() and fresh.pid_path.read_text().endswith("\n")):
            assert fresh.popen.poll() is None, fresh.log_text()
        serves(fresh)
        fresh.qmp = Qmp.connect(fresh.qmp_path, timeout=0)
        fresh.stop()
        fresh.stopped = False
        if fresh.kind == "qsd":
            os.unlink(fresh.nbd_path)
    fresh.stopped = True


@pytest.mark.contract
def test_a_stale_pid_file_is_replaced(fresh):
    fresh.pid_path.write_text("99999999\nrubbish\n")
    images.give_to_account(fresh.pid_path)
    fresh.spawn(*fresh.qmp_args(), "--pidfile", fresh.pid_path)
    wait_for(lambda: fresh.pid_path.read_text() == f"{fresh.popen.pid}\n", "the pid file to be rewritten")
    fresh.qmp = Qmp.connect(fresh.qmp_path)


@pytest.mark.contract
def test_two_servers_do_not_share_a_pid_file(fresh, new_server):
    fresh.start()
    second = new_server()
    argv = second.argv("--pidfile", fresh.pid_path)
    assert "pid" in run(*argv, status=1).stderr_text.lower()
    assert int(fresh.pid_path.read_text()) == fresh.popen.pid


# ---- Daemonizing ----

@pytest.fixture
def daemon(fresh):
    """Starts with --daemonize; the daemon is then known by its pid file."""
    def start(*args, status=0):
        # Not into pipes: the workers of a build with sanitizers keep standard error for its reports.
        argv = fresh.argv(*fresh.qmp_args(), "--pidfile", fresh.pid_path, "--daemonize", *args)
        with open(fresh.dir / "out", "w+") as out, open(fresh.dir / "err", "w+") as err:
            done = process.popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            assert done.wait(60) == status
            done.stdout_text, done.stderr_text = out.seek(0) or out.read(), err.seek(0) or err.read()
        if status == 0:
            fresh.daemon_pid = int(fresh.pid_path.read_text())
        return done

    fresh.start_daemon = start
    fresh.daemon_pid = None
    yield fresh
    if fresh.daemon_pid is not None and process.alive(fresh.daemon_pid):
        os.kill(fresh.daemon_pid, signal.SIGTERM)
        wait_for(lambda: not process.orphans(), "the daemon to end")


@pytest.mark.contract
def test_daemonize_returns_when_it_serves(daemon, path):
    done = daemon.start_daemon("--blockdev", f"file,node-name=disk,filename={path}", *nbd_unix(daemon),
                               "--export", "nbd,id=e,node-name=disk")
    assert done.stdout_text == "" and done.stderr_text == ""
    serves(daemon)
    assert process.alive(daemon.daemon_pid)
    assert process.stat_fields(daemon.daemon_pid)[2] != os.getsid(0)  # a session of its own
    for number in (0, 1, 2):
        assert process.descriptors(daemon.daemon_pid)[number] == "/dev/null"
    assert os.readlink(f"/proc/{daemon.daemon_pid}/cwd") == "/"
    with Qmp.connect(daemon.qmp_path) as qmp:
        qmp.cmd("quit")
    wait_for(lambda: not process.orphans(), "the daemon to end")
    assert not daemon.pid_path.exists()


def test_a_daemon_removes_sockets_that_it_was_given_by_a_relative_path(daemon):
    """Its working directory is another one by then."""
    argv = daemon.argv("--nbd-server", "addr.type=unix,addr.path=relative", "--pidfile", "pid", "--daemonize")
    assert process.popen(argv, cwd=daemon.dir, stdin=subprocess.DEVNULL).wait(30) == 0
    daemon.daemon_pid = int((daemon.dir / "pid").read_text())
    assert (daemon.dir / "relative").is_socket()
    os.kill(daemon.daemon_pid, signal.SIGTERM)
    wait_for(lambda: not process.orphans(), "the daemon to end")
    assert not (daemon.dir / "relative").exists() and not (daemon.dir / "pid").exists()


def test_a_daemon_mounts_on_a_relative_path_and_holds_no_directory(daemon, path):
    """Neither does its mounter, which is older than the way into the background."""
    fuse.need()
    point = fuse.mount_point(daemon.dir / "mnt.img")
    argv = daemon.argv("--blockdev", f"file,node-name=disk,filename={path}", "--export",
                       f"fuse,id=f,node-name=disk,mountpoint={point.name}", "--pidfile", "pid", "--daemonize")
    assert process.popen(argv, cwd=daemon.dir, stdin=subprocess.DEVNULL).wait(30) == 0
    daemon.daemon_pid = int((daemon.dir / "pid").read_text())
    assert len(fuse.mounts_on(point)) == 1
    mounters = [pid for pid in process.children_of(daemon.daemon_pid) if "bulkhead-mounter" in process.command(pid)]
    assert len(mounters) == 1
    assert {os.readlink(f"/proc/{pid}/cwd") for pid in [daemon.daemon_pid, *mounters]} == {"/"}
    os.kill(daemon.daemon_pid, signal.SIGTERM)
    wait_for(lambda: not process.orphans(), "the daemon to end")
    assert fuse.mounts_on(point) == []


@pytest.mark.contract
def test_daemonize_returns_the_failure_of_the_start(daemon):
    done = daemon.start_daemon("--blockdev", "file,node-name=disk,filename=/nonexistent/image", status=1)
    assert "/nonexistent/image" in done.stderr_text
    assert not daemon.pid_path.exists()
    wait_for(lambda: not process.orphans(), "the daemon to end")


# ---- Signals ----

@pytest.mark.contract
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(fresh, path, number):
    fresh.start("--blockdev", f"file,node-name=disk,filename={path}", *nbd_unix(fresh),
                "--export", "nbd,id=e,node-name=disk,writable=on")
    with NbdRaw.opened(fresh.nbd_path, "disk") as client:
        assert client.write(4096, b"w" * 4096) == 0
        assert fresh.stop(number) == 0
        client.expect_closed()
    assert images.read(path, 4096, 4096) == b"w" * 4096


def test_a_second_signal_does_no_harm(fresh):
    fresh.start()
    for _ in range(5):
        fresh.popen.send_signal(signal.SIGTERM)
    assert fresh.popen.wait(30) == 0
    fresh.stop()


# ---- Chardevs ----

@pytest.mark.contract
def test_a_socket_chardev_is_a_client_unless_told_otherwise(fresh):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fresh.qmp_path))
        images.give_to_account(fresh.qmp_path)
        listener.listen()
        listener.settimeout(30)
        fresh.spawn("--chardev", f"socket,id=c,path={fresh.qmp_path}", "--monitor", "chardev=c")
        sock, _ = listener.accept()
        with Qmp(sock) as qmp:
            qmp.cmd("quit")
        assert fresh.popen.wait(30) == 0
    os.unlink(fresh.qmp_path)
    fresh.stop()


@pytest.mark.contract
def test_a_socket_chardev_over_tcp(fresh):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fresh.spawn("--chardev", f"socket,id=c,host=127.0.0.1,port={port},server=on,wait=off", "--monitor", "c",
                "--pidfile", fresh.pid_path)
    fresh.wait_serving()
    with Qmp(socket.create_connection(("127.0.0.1", port))) as qmp:
        qmp.cmd("quit")
    assert fresh.popen.wait(30) == 0
    fresh.stop()


@pytest.mark.contract
def test_wait_on_serves_only_after_a_client_came(fresh):
    fresh.spawn("--chardev", f"socket,id=c,path={fresh.qmp_path},server=on", "--monitor", "c", "--pidfile", fresh.pid_path)
    wait_for(fresh.qmp_path.exists, "the socket")
    assert not fresh.pid_path.exists()
    fresh.qmp = Qmp.connect(fresh.qmp_path)
    fresh.wait_serving()


@pytest.mark.contract
@pytest.mark.parametrize("kind", ["connected", "listening"])
def test_an_inherited_chardev_socket(fresh, kind):
    if kind == "connected":
        ours, theirs = socket.socketpair()
        fresh.spawn("--chardev", f"socket,id=c,fd={theirs.fileno()}", "--monitor", "c", pass_fds=(theirs.fileno(),))
        theirs.close()
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(fresh.dir / "inherited"))
            listener.listen()
            fresh.spawn("--chardev", f"socket,id=c,fd={listener.fileno()},server=on,wait=off", "--monitor", "c",
                        pass_fds=(listener.fileno(),))
        ours = socket.socket(socket.AF_UNIX)
        ours.settimeout(30)
        ours.connect(str(fresh.dir / "inherited"))
    with Qmp(ours) as qmp:
        qmp.cmd("query-version")
        qmp.cmd("quit")
    assert fresh.popen.wait(30) == 0
    (fresh.dir / "inherited").unlink(missing_ok=True)
    fresh.stop()


@pytest.mark.contract
def test_stdio_is_a_chardev(fresh):
    fresh.spawn("--chardev", "stdio,id=c", "--monitor", "chardev=c", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lines = [{"execute": "qmp_capabilities"}, {"execute": "query-version", "id": 1}, {"execute": "quit", "id": 2}]
    out, _ = fresh.popen.communicate("\n".join(map(json.dumps, lines)).encode() + b"\n", timeout=60)
    replies = [json.loads(line) for line in out.splitlines()]
    assert "QMP" in replies[0] and replies[1] == {"return": {}} and replies[2]["id"] == 1
    assert replies[3] == {"return": {}, "id": 2}
    assert fresh.popen.returncode == 0
    fresh.stop()


# ---- An inherited NBD socket ----

@pytest.mark.contract
def test_an_inherited_listening_socket_for_nbd(fresh, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fresh.dir / "inherited"))
        os.chmod(fresh.dir / "inherited", 0o666)
        listener.listen()
        fresh.start("--blockdev", f"file,node-name=disk,filename={path}",
                    "--nbd-server", f"addr.type=fd,addr.str={listener.fileno()}",
                    "--export", "nbd,id=e,node-name=disk", pass_fds=(listener.fileno(),))
    with NbdRaw.opened(fresh.dir / "inherited", "disk") as client:
        assert client.read(0, 7) == b"content"
    fresh.qmp.cmd("quit")
    assert fresh.popen.wait(30) == 0
    (fresh.dir / "inherited").unlink(missing_ok=True)
    fresh.stop()


@pytest.mark.contract
@pytest.mark.parametrize("text", ["99", "x", "-1", "", "1", "99999999999"])
def test_a_wrong_inherited_socket_is_refused(fresh, text):
    """Not open, no number, or no socket."""
    fails(fresh, "--nbd-server", f"addr.type=fd,addr.str={text}")


# ---- Privileges ----

@pytest.fixture
def as_root():
    if os.getuid() != 0:
        pytest.skip("needs root")


def test_root_is_refused_without_user(fresh, as_root):
    text = fails(fresh, drop=None)
    assert "root" in text and "--user" in text


@pytest.mark.parametrize("name", ["root", "0", "", "no-such-user-here"])
def test_user_must_be_somebody_else(fresh, as_root, name):
    text = fails(fresh, "--user", name, drop=None)
    assert "user" in text


def status_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return {key: value.split() for key, value in (line.rstrip("\n").split(":", 1) for line in status)}


@pytest.mark.parametrize("drop", ["user", "setpriv"])
def test_it_runs_without_any_privilege(new_server, as_root, drop, reachable_build):
    server = new_server()
    server.program = str(reachable_build / "bulkhead")
    server.start(drop=drop)
    account = pwd.getpwnam(ACCOUNT)
    status = status_of(server.pid)
    assert status["Uid"] == [str(account.pw_uid)] * 4 and status["Gid"] == [str(account.pw_gid)] * 4
    assert set(status["Groups"]) <= {str(account.pw_gid)}
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["NoNewPrivs"] == ["1"] and status["Seccomp"] == ["2"]


def test_the_monitor_has_no_root_anywhere_in_its_descriptors(server):
    """Every descriptor of the monitor is one of those that the design lets it hold."""
    for number, what in process.descriptors(server.pid).items():
        assert what.startswith(("socket:", "anon_inode:", "pipe:", "/memfd:", "/dev/null", str(server.dir))) or \
            os.path.basename(what).startswith("bulkhead"), f"{number}: {what}"


def test_created_sockets_are_for_the_account_only(server):
    server.nbd_start()
    assert stat.S_IMODE(os.stat(server.qmp_path).st_mode) & 0o007 == 0 or os.stat(server.qmp_path).st_mode & 0o002 == 0


# ---- A host that gives too little ----

@pytest.mark.own
def test_too_few_descriptors_are_an_error_at_the_start(fresh):
    fresh.prefix = ["prlimit", "--nofile=63:63"]
    assert "the limit of descriptors is 63, and at least 64 are needed" in fails(fresh)


@pytest.mark.own
def test_too_few_processes_are_no_reason_to_do_without_namespaces(fresh):
    """That none can be made now says nothing about what the host offers."""
    if sandbox.is_sanitized(fresh.program):
        pytest.skip("in a build with sanitizers their run-time wants one more process at the end, to look for leaks")
    fresh.prefix = ["prlimit", "--nproc=1:1"]
    said = fails(fresh, *nbd_unix(fresh))
    assert "ulimit -u" in said and "does not offer" not in said
