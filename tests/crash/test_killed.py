# SPDX-License-Identifier: BSD-2-Clause
"""
Processes that are killed: an export's worker, a negotiator, the monitor. A hole in one worker is that export's business
only, and nothing is ever left over.
"""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from support import images, process
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw
from support.process import need, output, wait_for

SIZE = 16 * MIB


@pytest.fixture
def exports(nbd, image):
    """A server with the exports a, b and c."""
    nbd.deaths_expected = True
    nbd.images = {}
    for name in "abc":
        nbd.images[name] = image(f"{name}.img", size=SIZE)
        nbd.add_file(name, nbd.images[name])
        nbd.export(name, id=name)
    return nbd


def fio(uri, directory, seconds):
    need("fio")
    if "nbd" not in output("fio", "--enghelp").split():
        pytest.skip("this fio has no nbd engine")
    return process.popen(
        ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bs=4k", "--iodepth=16",
         f"--size={SIZE}", "--time_based", f"--runtime={seconds}", "--verify=crc32c", "--verify_fatal=1",
         "--verify_backlog=512", f"--aux-path={directory}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_worker(server, export_id, number=signal.SIGKILL):
    pid = server.export_worker(export_id)["pid"]
    os.kill(pid, number)
    return pid


def test_killed_worker_under_fio_load(exports, tmp):
    """a's worker is killed while fio verifies what it writes on a and b: b's fio ends without any error."""
    victim = fio(exports.uri("a"), tmp, 20)
    bystander = fio(exports.uri("b"), tmp, 4)
    wait_for(lambda: exports.export_worker("a")["descriptors"]["clients"] and
             exports.export_worker("b")["descriptors"]["clients"], "both loads to run")
    time.sleep(1)
    pid = kill_worker(exports, "a")
    started = time.monotonic()
    exports.qmp.cmd("query-version")
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
    assert time.monotonic() - started < 5
    assert set(exports.exports()) == {"b", "c"}

    text = victim.communicate(timeout=60)[0]
    assert victim.returncode != 0, f"fio noticed nothing:\n{text}"
    text = bystander.communicate(timeout=60)[0]
    assert bystander.returncode == 0, text
    wait_for(lambda: not process.alive(pid), "the worker to be gone")


@pytest.mark.parametrize("number,words", [(signal.SIGKILL, "signal 9"), (signal.SIGABRT, "abort()")])
def test_events_and_log_say_why(exports, number, words):
    """
    One event tells of the process, the standard one of the export. (The first process of a pid namespace dies of no
    other signals from outside; a trapped abort() tells of itself.)
    """
    pid = kill_worker(exports, "a", number)
    gone = exports.qmp.wait_event("__org.bulkhead_WORKER_GONE", pid=pid)["data"]
    assert gone["role"] == "nbd-export" and gone["export"] == "a"
    assert words in gone["reason"] and "system-call" not in gone
    assert gone.get("signal") == (number if number == signal.SIGKILL else None)
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
    assert any("'a'" in line and words in line for line in exports.log_text().splitlines())


def test_the_id_the_name_and_the_image_can_be_used_again(exports):
    for _ in range(5):
        with NbdRaw.opened(exports.nbd_path, "a") as client:
            assert client.write(0, b"before") == 0
            kill_worker(exports, "a")
            client.expect_closed()
        exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
        exports.export("a", id="a")
        with NbdRaw.opened(exports.nbd_path, "a") as client:
            assert client.read(0, 6) == b"before"
            client.disconnect()
    exports.qmp.cmd("block-export-del", {"id": "a", "mode": "hard"})
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
    exports.qmp.cmd("blockdev-del", {"node-name": "a"})
    exports.add_file("a", exports.images["a"])


def test_other_clients_see_no_error_while_workers_die_one_after_the_other(exports):
    with NbdRaw.opened(exports.nbd_path, "c") as client:
        for n in range(10):
            kill_worker(exports, "ab"[n % 2])
            for offset in range(0, MIB, 64 * KIB):
                assert client.write(offset, bytes([n]) * 4096) == 0
                assert client.read(offset, 4096) == bytes([n]) * 4096
            exports.qmp.wait_event("BLOCK_EXPORT_DELETED")
            exports.export("ab"[n % 2], id="ab"[n % 2])


def test_a_client_in_the_handshake_while_the_worker_dies(exports):
    """Its negotiator is not harmed: it hears that the export is unknown, and may take another one."""
    with NbdRaw.unix(exports.nbd_path) as client:
        client.hello()
        kill_worker(exports, "a")
        exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
        assert client.ask(OPT_LIST)[-1][0] == REP_ACK
        replies = client.ask(OPT_GO, client.name_data("b"))
        assert replies[-1][0] == REP_ACK
    with NbdRaw.unix(exports.nbd_path) as client:
        client.hello()
        assert client.ask(OPT_GO, client.name_data("a"))[-1][0] == REP_ERR_UNKNOWN


def test_the_worker_is_killed_while_it_starts(exports):
    """block-export-add answers with an error, not never."""
    from support.qmp import QmpError
    for _ in range(10):
        exports.qmp.cmd("block-export-del", {"id": "a", "mode": "hard"})
        exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
        with exports.connect() as other:
            other.send({"execute": "block-export-add", "id": 1, "arguments": {"type": "nbd", "id": "a", "node-name": "a"}})
            killed = False
            for worker in exports.workers(export="a"):
                try:
                    os.kill(worker["pid"], signal.SIGKILL)
                    killed = True
                except ProcessLookupError:
                    pass
            if "return" in other.reply() and killed: # it had started before
                exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a")
        if "a" not in exports.exports():
            try:
                exports.export("a", id="a")
            except QmpError:
                pytest.fail("the id is not free")


@pytest.mark.control
def test_a_worker_that_is_stopped_does_not_stop_the_monitor(exports):
    """SIGSTOP is what an endless loop looks like from outside. Deleting its export ends it by force."""
    pid = kill_worker(exports, "a", signal.SIGSTOP)
    exports.qmp.cmd("query-version")
    with NbdRaw.opened(exports.nbd_path, "b") as client:
        assert client.read(0, 512) == bytes(512)
    exports.qmp.cmd("block-export-del", {"id": "a", "mode": "hard"})
    exports.qmp.wait_event("BLOCK_EXPORT_DELETED", id="a", timeout=60)
    wait_for(lambda: not process.alive(pid), "the stopped worker to be killed")


def test_killed_negotiator(exports):
    """Only the client that it spoke with loses its connection; the pool is filled up again."""
    with NbdRaw.opened(exports.nbd_path, "b") as bystander, NbdRaw.unix(exports.nbd_path) as client:
        client.hello()
        client.ask(OPT_LIST)  # now a negotiator has it
        pids = [worker["pid"] for worker in exports.workers(role="nbd-negotiator")]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the bystander's has done its work and may be gone
                os.kill(pid, signal.SIGKILL)
        client.expect_closed()
        wait_for(lambda: not any(map(process.alive, pids)), "the negotiators to be dead")
        assert bystander.read(0, 512) == bytes(512)
        for _ in range(10):
            with NbdRaw.opened(exports.nbd_path, "a") as fresh:
                assert fresh.read(0, 512) == bytes(512)
    assert set(exports.exports()) == {"a", "b", "c"}


@pytest.mark.control
def test_negotiators_that_die_at_once_do_not_make_the_monitor_spin(exports):
    """The pool is refilled, but not faster than a machine can bear."""
    end = time.monotonic() + 3
    killed = 0
    while time.monotonic() < end:
        for worker in exports.workers(role="nbd-negotiator"):
            try:
                os.kill(worker["pid"], signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    assert killed > 0
    exports.qmp.cmd("query-version")
    wait_for(lambda: admitted(exports), "an honest client to be served again", 60)


def admitted(server):
    try:
        with NbdRaw.opened(server.nbd_path, "c") as client:
            return client.read(0, 512) == bytes(512)
    except (Closed, ConnectionError, OSError):
        return False


# ---- The monitor ----

def test_killed_monitor_leaves_no_process(exports):
    clients = [NbdRaw.opened(exports.nbd_path, name) for name in "abc"]
    silent = NbdRaw.unix(exports.nbd_path)
    silent.recv(18)
    exports.workers()
    exports.note_children()
    exports.popen.kill()
    exports.popen.wait()
    for client in clients + [silent]:
        client.expect_closed()
        client.close()
    exports.gone(killed=True)


def test_killed_monitor_under_load_leaves_no_process(exports, tmp):
    loads = [fio(exports.uri(name), tmp, 20) for name in "ab"]
    wait_for(lambda: exports.export_worker("a")["descriptors"]["clients"] and
             exports.export_worker("b")["descriptors"]["clients"], "both loads to run")
    exports.note_children()
    exports.popen.kill()
    exports.popen.wait()
    for load in loads:
        load.communicate(timeout=60)
        assert load.returncode != 0
    exports.gone(killed=True)


def test_killed_monitor_frees_the_image_and_the_socket(exports, new_server):
    """After it another bulkhead takes over the image; the stale socket file does not stop it."""
    exports.workers()
    exports.note_children()
    exports.popen.kill()
    exports.popen.wait()
    exports.gone(killed=True)
    heir = new_server()
    heir.nbd_path = exports.nbd_path
    heir.start().nbd_start()
    heir.add_file("a", exports.images["a"])
    heir.export("a")
    with NbdRaw.opened(heir.nbd_path, "a") as client:
        assert client.write(0, b"again") == 0
    heir.stop()
    assert not exports.nbd_path.exists()


def test_sigterm_under_load_writes_what_was_acknowledged(exports):
    """Everything that a client got an answer for is in the image, 16 deep, and the exit status is 0."""
    def block(n):
        return bytes([n % 256]) * 4096

    done = 0
    with NbdRaw.opened(exports.nbd_path, "a") as client:
        try:
            for n in range(4000):
                client.request(CMD_WRITE, n * 4096, 4096, data=block(n), cookie=n)
                if n >= 16:
                    error, cookie, _ = client.simple_reply()
                    assert error == 0 and images.read(exports.images["a"], cookie * 4096, 4096) == block(cookie)
                    done += 1
                if n == 100:
                    exports.popen.send_signal(signal.SIGTERM)
        except (Closed, BrokenPipeError):
            pass
    assert 80 < done < 4000 - 16
    assert exports.popen.wait(30) == 0
    assert exports.stop() == 0


@pytest.mark.control
def test_sigterm_ends_also_a_worker_that_does_not_listen(exports):
    kill_worker(exports, "a", signal.SIGSTOP)
    for worker in exports.workers(role="nbd-negotiator"):
        os.kill(worker["pid"], signal.SIGSTOP)
    started = time.monotonic()
    assert exports.stop(signal.SIGTERM, timeout=60) == 0
    assert time.monotonic() - started < 40
