# SPDX-License-Identifier: BSD-2-Clause
"""Limits that clients run into: connections, the time of a handshake, and how much of the server one client may take."""

import time

import pytest

from support import images, process
from support.crowd import blocking
from support.images import MIB
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw
from support.process import wait_for


@pytest.fixture
def path(image):
    return image(data=[(0, b"content")])


def serve(server, path, **members):
    server.add_file("disk", path)
    server.nbd_start(**members)
    server.export("disk")


def admitted(server, transmission=True):
    """A client in transmission, or in the handshake, or None if the server closed the connection."""
    client = NbdRaw.unix(server.nbd_path)
    try:
        client.hello()
        if transmission:
            client.go("disk")
        else:
            client.ask(OPT_LIST)
        return client
    except (Closed, BrokenPipeError, ConnectionResetError):
        client.close()
        return None


def nbd_server(server):
    return server.qmp.cmd("__org.bulkhead_query-nbd-server")


def test_clients_and_those_turned_away_are_counted(server, path):
    nothing = {"listening": False, "max-connections": 0, "connections": 0, "handshaking": 0, "connections-total": 0,
               "turned-away-total": 0}
    assert nbd_server(server) == nothing
    serve(server, path, **{"max-connections": 2})
    assert nbd_server(server) == {**nothing, "listening": True, "max-connections": 2}
    first, greeted = admitted(server), admitted(server, transmission=False)
    wait_for(lambda: nbd_server(server)["handshaking"] == 1, "the first client to be with its export")
    full = {"listening": True, "max-connections": 2, "connections": 2, "handshaking": 1, "connections-total": 2,
            "turned-away-total": 0}
    assert nbd_server(server) == full
    greeted.close()
    wait_for(lambda: nbd_server(server)["connections"] == 1, "a slot to be given back")
    second = admitted(server)
    wait_for(lambda: nbd_server(server)["handshaking"] == 0, "the second client to be with its export")
    over = NbdRaw.unix(server.nbd_path)
    assert over.expect_closed() == b""
    assert nbd_server(server) == {**full, "handshaking": 0, "connections-total": 3, "turned-away-total": 1}
    for client in first, second:
        client.close()
    wait_for(lambda: nbd_server(server)["connections"] == 0, "the slots to be given back")
    server.qmp.cmd("nbd-server-stop")
    assert nbd_server(server) == {**nothing, "connections-total": 3, "turned-away-total": 1}


def test_max_connections(server, path):
    """A client over the limit is not left waiting: its connection is closed; a slot that becomes free is used again."""
    serve(server, path, **{"max-connections": 3})
    clients = [admitted(server) for _ in range(3)]
    assert all(clients)
    assert admitted(server) is None
    assert all(client.read(0, 7) == b"content" for client in clients)
    clients.pop().disconnect()
    newcomer = wait_for(lambda: admitted(server), "the slot to be given back")
    assert newcomer.read(0, 7) == b"content"
    for client in clients + [newcomer]:
        client.close()


@pytest.mark.parametrize("goodbye", [True, False])
def test_the_only_slot_comes_back_each_time(server, path, goodbye):
    serve(server, path, **{"max-connections": 1})
    for _ in range(5):
        client = wait_for(lambda: admitted(server), "the slot to be given back", timeout=10)
        assert client.read(0, 7) == b"content"
        if goodbye:
            client.disconnect()
        client.close()


def test_clients_in_the_handshake_take_no_slot(server, path):
    """However many sit there: the limit is for those that got through it."""
    serve(server, path, **{"max-connections": 3})
    silent = [NbdRaw.unix(server.nbd_path) for _ in range(10)]
    halfway = [admitted(server, transmission=False) for _ in range(10)]
    clients = [admitted(server) for _ in range(3)]
    assert all(clients) and all(halfway)
    assert all(client.read(0, 7) == b"content" for client in clients)
    assert admitted(server) is None  # it is not told first that it is in
    for client in silent + halfway + clients:
        client.close()
    wait_for(lambda: admitted(server), "the slots to be given back")


def test_silent_clients_give_way_to_an_honest_one_when_they_are_too_many(new_server, path):
    """A server with few descriptors has room for few of them; here 64."""
    server = new_server()
    server.prefix = ["prlimit", "--nofile=256:256"]
    server.start()
    serve(server, path)
    silent = [blocking(server.nbd_path) for _ in range(100)]
    started = time.monotonic()
    client = blocking(server.nbd_path)
    client.hello()
    client.go("disk")
    assert client.read(0, 7) == b"content"
    assert time.monotonic() - started < 5
    assert "it gives way to others: too many say nothing" in server.log_text()
    for other in silent + [client]:
        other.close()


def test_slots_come_back_when_a_worker_or_negotiator_is_killed(server, path):
    import os
    server.deaths_expected = True
    serve(server, path, **{"max-connections": 2})
    for role in ("nbd-negotiator", "nbd-export"):
        clients = [wait_for(lambda: admitted(server, transmission=role == "nbd-export"), "a slot") for _ in range(2)]
        for worker in server.workers(role=role):
            os.kill(worker["pid"], 9)
        for client in clients:
            client.expect_closed()
            client.close()
        if role == "nbd-export":
            server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
            server.export("disk")
        free = [wait_for(lambda: admitted(server), "the slots to be given back") for _ in range(2)]
        assert admitted(server) is None
        for client in free:
            client.disconnect()


def test_without_a_limit(server, path):
    serve(server, path, **{"max-connections": 0})
    clients = [admitted(server) for _ in range(150)]
    assert all(clients)
    for client in clients:
        assert client.read(0, 7) == b"content"
        client.close()


def test_the_default_limit_is_100(server, path):
    serve(server, path)
    clients = [admitted(server) for _ in range(100)]
    assert all(clients)
    assert admitted(server) is None
    for client in clients:
        client.close()


@pytest.mark.control
@pytest.mark.parametrize("sent", ["nothing", "flags", "options"])
def test_the_handshake_has_a_time_limit(server, path, sent):
    """10 seconds unless told otherwise, whether the client says nothing, half a thing, or always something."""
    seconds = 10 if sent == "nothing" else 2
    serve(server, path, **({} if sent == "nothing" else {"handshake-max-seconds": seconds}))
    started = time.monotonic()
    with NbdRaw.unix(server.nbd_path) as client:
        client.recv(18)
        if sent == "flags":
            client.send(b"\0\0\0\3IHAVE")
        if sent == "options":
            client.send(b"\0\0\0\3")
            try:
                while time.monotonic() < started + 60:
                    client.ask(OPT_LIST)
                    time.sleep(0.2)
            except (Closed, BrokenPipeError, ConnectionResetError):
                pass
        client.expect_closed()
    assert seconds - 0.5 < time.monotonic() - started < seconds + 20
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.read(0, 7) == b"content"


def test_transmission_has_none(server, path):
    """A client that finished its handshake may be silent for as long as it likes."""
    serve(server, path, **{"handshake-max-seconds": 1})
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        time.sleep(2.5)
        assert client.read(0, 7) == b"content"


@pytest.mark.control
def test_a_thousand_silent_clients_cost_no_process_and_keep_nobody_out(server, path, descriptors):
    count = min(1000, descriptors // 5)
    serve(server, path, **{"max-connections": 0})
    silent = [blocking(server.nbd_path) for _ in range(count)]
    started = time.monotonic()
    client = blocking(server.nbd_path)
    client.hello()
    client.go("disk")
    assert client.read(0, 7) == b"content"
    assert time.monotonic() - started < 5
    assert len(server.workers()) < 12
    for other in silent:
        assert other.recv(18)[:8] == b"NBDMAGIC"
    for other in silent + [client]:
        other.close()


def test_clients_that_stop_half_way_give_way_when_all_negotiators_are_busy(new_server, image, path):
    """A server with few descriptors has few negotiators; here sixteen."""
    server = new_server()
    server.prefix = ["prlimit", "--nofile=256:256"]
    server.start()
    serve(server, path)
    stuck = [blocking(server.nbd_path) for _ in range(30)]
    for client in stuck:
        client.hello()
        client.option(OPT_GO, length=100)
    started = time.monotonic()
    client = blocking(server.nbd_path)
    client.hello()
    client.go("disk")
    assert client.read(0, 7) == b"content"
    assert time.monotonic() - started < 8
    assert "it gives way to others: all negotiators are busy" in server.log_text()
    for other in stuck + [client]:
        other.close()


@pytest.mark.control
def test_connections_that_come_and_go_leave_nothing(server, path):
    """500 of them, most of which break off at some point: descriptors and processes are back to where they were."""
    serve(server, path)

    def counted():
        return len(process.descriptors(server.pid)), len(server.workers())

    admitted(server).close()
    wait_for(lambda: server.export_worker("exp-disk")["descriptors"]["clients"] == 0, "the client to be gone")
    before = counted()
    for number in range(500):
        client = NbdRaw.unix(server.nbd_path)
        try:
            if number % 5 > 0:
                client.hello()
            if number % 5 == 2:
                client.ask(OPT_ABORT)
            if number % 5 == 3:
                client.option(OPT_GO, b"", length=1000)
            if number % 5 == 4:
                client.go("disk")
        finally:
            client.close()
    wait_for(lambda: counted() <= (before[0] + 4, before[1] + 4), "descriptors and workers to go away", 60)
    wait_for(lambda: server.export_worker("exp-disk")["descriptors"]["clients"] == 0, "the last client to be gone")


def test_one_greedy_client_does_not_starve_another(server, path):
    """A client with a hundred big reads in flight, and one with a single small one."""
    serve(server, path)
    with NbdRaw.opened(server.nbd_path, "disk") as greedy, NbdRaw.opened(server.nbd_path, "disk") as modest:
        for _ in range(100):
            greedy.request(CMD_READ, 0, 4 * MIB)
        started = time.monotonic()
        for _ in range(20):
            assert modest.read(0, 7) == b"content"
        assert time.monotonic() - started < 5


def test_more_clients_than_the_worker_has_descriptors_for(new_server, image):
    """Those that have no room are turned away; the export and all that are connected live on."""
    server = new_server()
    server.prefix = ["prlimit", "--nofile=80:80"]
    server.start()
    serve(server, image(data=[(0, b"content")]), **{"max-connections": 0})
    worker = server.export_worker("exp-disk")["pid"]

    def served():
        """The negotiator cannot know: who is turned away finds the connection closed after the handshake."""
        client = admitted(server)
        try:
            assert client.read(0, 7) == b"content"
            return client
        except (Closed, ConnectionError):
            client.close()
            return None

    clients = []
    while len(clients) < 80 and (client := served()) is not None:
        clients.append(client)
    assert 10 < len(clients) < 80
    assert server.export_worker("exp-disk")["pid"] == worker
    assert all(client.read(0, 7) == b"content" for client in clients)
    clients.pop().disconnect()
    clients.append(wait_for(served, "room to be made"))
    for client in clients:
        client.close()


def test_an_export_without_room_for_rings_runs_with_threads_and_says_so(new_server, image, reachable_build, engine):
    """As on a host with more exports than the limit on locked memory has room for."""
    server = new_server()
    if engine != "auto":
        pytest.skip(f"the engine {engine} is forced, there is nothing to fall back from")
    server.program = str(reachable_build / "bulkhead")
    server.prefix = ["prlimit", "--memlock=16384:16384"]
    server.start(drop="setpriv")
    serve(server, image(data=[(0, b"content")]))
    if server.export_worker("exp-disk")["engine"] == "io_uring":
        pytest.skip("this kernel does not count the rings of io_uring as locked memory")
    assert "I/O by threads instead of io_uring: cannot create an io_uring" in server.log_text()
    client = admitted(server)
    assert client.read(0, 7) == b"content"
    client.disconnect()
