# SPDX-License-Identifier: BSD-2-Clause
"""The log: what is told and where, and that nothing waits for whoever reads it."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import time

import pytest

from support import process
from support.images import MIB
from support.process import wait_for
from support.qmp import Qmp
from support.server import give_to_account

pytestmark = pytest.mark.own


@pytest.fixture
def quiet(new_server):
    """A server that is not told how much to log."""
    server = new_server()
    server.log_level = None
    return server


def use(server, image):
    """An ordinary life: nodes, exports, clients that come and go."""
    server.nbd_start()
    server.add_file("disk", image(size=MIB))
    server.export("disk", id="e")
    process.run("nbdinfo", server.uri("disk"))
    server.qmp.cmd("block-export-del", {"id": "e"})


@pytest.mark.parametrize("how", ["quit", signal.SIGTERM, signal.SIGINT])
def test_an_orderly_life_says_nothing_on_standard_error(quiet, image, how):
    process.need("nbdinfo")
    quiet.start()
    use(quiet, image)
    quiet.stop(how)
    assert quiet.log_text() == ""


def test_levels(new_server):
    for level, expected in (("error", False), ("warning", False), ("info", True), ("debug", True)):
        server = new_server()
        server.log_level = level
        server.start()
        server.stop(signal.SIGTERM)
        assert ("info: ending, because of signal 15" in server.log_text()) == expected
        assert ("debug: " in server.log_text()) == (level == "debug")


# ---- Standard error that nobody reads ----

def fill(fd):
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 512)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def make_noise(server, count):
    """Each command is a line of level debug."""
    started = time.monotonic()
    for _ in range(count):
        server.qmp.cmd("query-version")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_standard_error_that_nobody_reads_holds_nothing_up(new_server, kind):
    if kind == "pipe":
        ours, theirs = os.pipe()
    else:
        pair = socket.socketpair()
        ours, theirs = (end.detach() for end in pair)
    server = new_server()
    server.log_level = "debug"
    server.start(stderr=theirs)
    assert not fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK  # the description is ours, too
    fill(theirs)
    make_noise(server, 20)
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(ours, 1 << 16)
    server.qmp.cmd("query-version")
    assert select.select([ours], [], [], 30)[0]
    assert b"lines were lost, nobody took them" in os.read(ours, 1 << 16)
    os.close(theirs)
    server.stop()
    os.close(ours)


def test_standard_error_that_is_for_reading_only_is_not_opened_for_writing(new_server):
    server = new_server()
    server.log_level = "debug"
    path = server.dir / "pipe"
    os.mkfifo(path, 0o600)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    server.start(stderr=end)
    server.qmp.cmd("query-version")
    assert os.read(end, 1) == b""  # the end: nobody has it open for writing
    server.stop()
    os.close(end)


def test_the_journal_gets_priorities(quiet):
    """Standard error is the journal's stream when JOURNAL_STREAM names it; lines of all levels from info on go there."""
    ours, theirs = socket.socketpair()
    stat = os.fstat(theirs.fileno())
    quiet.start(stderr=theirs, env={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
    theirs.close()
    quiet.stop(signal.SIGTERM)
    text = ours.recv(65536).decode()
    assert "<6>ending, because of signal 15" in text and "bulkhead:" not in text
    ours.close()


def test_another_stream_than_the_journal_gets_none(new_server):
    server = new_server()
    server.start(env={"JOURNAL_STREAM": "1:1"})
    server.stop(signal.SIGTERM)
    assert "bulkhead: info: ending" in server.log_text()


# ---- The log daemon ----

# A /dev of its own, with all that was there and one thing more.
DEV_LOG = """
mount -t tmpfs -o mode=755 none /mnt || exit 1
for f in null zero full random urandom tty fuse; do
    if [ -e /dev/$f ]; then touch /mnt/$f && mount --bind /dev/$f /mnt/$f; fi
done
mkdir /mnt/shm && mount --bind /dev/shm /mnt/shm
ln -s "$1" /mnt/log && ln -s /proc/self/fd /mnt/fd && mount --rbind /mnt /dev || exit 1
shift
exec "$@"
"""


@pytest.fixture
def daemon(new_server):
    """A daemon whose /dev/log is a socket of ours."""
    if os.getuid() != 0:
        pytest.skip("needs root, for a /dev/log of its own")
    server = new_server()
    server.log_level = None
    server.dev_log = server.dir / "devlog"
    server.prefix = ["unshare", "-m", "--propagation", "private", "sh", "-c", DEV_LOG, "sh", str(server.dev_log)]
    server.daemon_pid = None

    def launch(*args):
        argv = server.argv(*server.qmp_args(), "--pidfile", server.pid_path, "--daemonize", *args)
        assert process.popen(argv, stdin=subprocess.DEVNULL).wait(60) == 0
        server.daemon_pid = int(server.pid_path.read_text())
        server.qmp = Qmp.connect(server.qmp_path)

    server.launch = launch
    server.stopped = True
    yield server
    if server.daemon_pid is not None and process.alive(server.daemon_pid):
        os.kill(server.daemon_pid, signal.SIGTERM)
    wait_for(lambda: not process.orphans(), "the daemon to end")
    server.dev_log.unlink(missing_ok=True)


def log_socket(server):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(server.dev_log))
    os.chmod(server.dev_log, 0o666)
    sock.settimeout(30)
    return sock


def test_a_daemon_logs_to_the_log_daemon(daemon):
    with log_socket(daemon) as log:
        daemon.launch()
        os.kill(daemon.daemon_pid, signal.SIGTERM)
        line = log.recv(1000).decode()
    assert line.startswith("<30>") and f"bulkhead[{daemon.daemon_pid}]: ending, because of signal 15" in line


def test_a_log_daemon_that_stalls_holds_nothing_up(daemon):
    with log_socket(daemon) as log:
        daemon.launch("--log-level=debug")
        make_noise(daemon, 300)  # far more lines than its queue holds
        log.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                log.recv(1000)
        daemon.qmp.cmd("query-version")
        log.settimeout(30)
        assert b"lines were lost, nobody took them" in log.recv(1000)


def test_a_log_daemon_that_is_started_anew_is_found(daemon):
    with log_socket(daemon):
        daemon.launch("--log-level=debug")
    daemon.dev_log.unlink()
    daemon.qmp.cmd("query-version")
    with log_socket(daemon) as log:
        def heard():
            daemon.qmp.cmd("query-version")
            return select.select([log], [], [], 0.1)[0]
        wait_for(heard, "a line")


# ---- Files ----

def test_a_file_takes_the_log_of_a_daemon(new_server):
    server = new_server()
    server.log_level = None
    path = server.dir / "log.txt"
    path.write_text("before\n")
    give_to_account(path)
    server.start("--log-to", path)
    server.stop(signal.SIGTERM)
    lines = path.read_text().splitlines()
    assert lines[0] == "before" and "bulkhead: info: ending, because of signal 15" in lines[1]


@pytest.mark.parametrize("stage", ["account", "options"])
@pytest.mark.parametrize("target", ["file", "syslog"])
def test_a_start_that_fails_is_told_on_standard_error_wherever_the_log_goes(quiet, target, stage):
    path = quiet.dir / "log.txt"
    wrong = {"account": ["--user=no-such-account"], "options": ["--export", "nbd,id=e,node-name=nobody"]}[stage]
    said = process.run(*quiet.argv("--log-to", path if target == "file" else target, *wrong), status=1).stderr_text
    quiet.stopped = True
    assert said.count("bulkhead: error: ") == 1 and wrong[0].split("=")[0] in said
    if target == "file" and stage == "options":  # else the file is not open yet
        assert path.read_text() == said


@pytest.mark.parametrize("args,text", [
    (["--log-level=loud"], "--log-level must be"), (["--log-to=somewhere"], "--log-to must be"),
    (["--log-to=/nonexistent/log"], "cannot open '/nonexistent/log'"),
])
def test_a_wrong_target_is_refused(quiet, args, text):
    done = process.run(*quiet.argv(*args), status=1)
    quiet.stopped = True
    assert done.stderr_text.count(text) == 1
