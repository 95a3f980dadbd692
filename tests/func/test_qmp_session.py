# SPDX-License-Identifier: BSD-2-Clause
"""QMP sessions: greeting, negotiation, ids, order, events, framing, bad JSON, slow and vanishing clients."""

import json
import socket
import time

import pytest

from support import sandbox
from support.images import MIB
from support.process import stat_fields, wait_for
from support.qmp import QmpClosed

pytestmark = pytest.mark.control


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmRSS:")))


@pytest.fixture
def raw(server):
    """A connection that has sent nothing yet. (qemu-storage-daemon serves one client at a time.)"""
    server.qmp.close()
    client = server.connect(negotiate=False)
    yield client
    client.close()
    if server.popen.poll() is None:
        server.qmp = server.connect()


@pytest.fixture
def session(raw):
    raw.cmd("qmp_capabilities")
    return raw


# ---- Greeting and negotiation ----

@pytest.mark.contract
def test_greeting(raw):
    version = raw.greeting["QMP"]["version"]
    assert all(isinstance(version["qemu"][part], int) for part in ("major", "minor", "micro"))
    assert isinstance(version["package"], str)
    assert set(raw.greeting["QMP"]["capabilities"]) <= {"oob"}


@pytest.mark.contract
@pytest.mark.parametrize("command", ["query-version", "quit", "nonsense"])
def test_nothing_but_qmp_capabilities_runs_before_negotiation(raw, command):
    error = raw.error(command)
    assert error.cls == "CommandNotFound" and "qmp_capabilities" in error.desc
    raw.cmd("qmp_capabilities")
    raw.cmd("query-version")


@pytest.mark.contract
def test_what_is_sent_before_the_greeting_is_answered_in_order(server):
    server.qmp.close()  # qemu-storage-daemon serves one client at a time
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(server.qmp_path))
        client.sendall(b'{"execute":"qmp_capabilities","id":1}{"execute":"query-version","id":[2]}\r\n '
                       b'{"execute":"query-block-exports","id":{"a":3}}\n{"execute":"nonsense","id":null}')
        with client.makefile() as lines:
            greeting, *replies = (json.loads(lines.readline()) for _ in range(5))
    server.qmp = server.connect()
    assert "QMP" in greeting
    assert [reply["id"] for reply in replies] == [1, [2], {"a": 3}, None]
    assert ["error" in reply for reply in replies] == [False, False, False, True]


@pytest.mark.contract
def test_negotiation_happens_once(session):
    assert session.error("qmp_capabilities").cls == "CommandNotFound"
    session.cmd("query-version")


@pytest.mark.contract
@pytest.mark.parametrize("enable", [["unknown"], "oob", [1], {}])
def test_an_unknown_capability_is_refused(raw, enable):
    assert raw.error("qmp_capabilities", {"enable": enable}).cls == "GenericError"
    assert raw.error("query-version").cls == "CommandNotFound"
    raw.cmd("qmp_capabilities", {"enable": []})
    raw.cmd("query-version")


# ---- Requests ----

@pytest.mark.contract
@pytest.mark.parametrize("ident", ["text", 7, -1, 1.5, True, None, [1, "a"], {"deep": {"er": []}}, "ünï\U0001F600"], ids=repr)
def test_any_id_comes_back(session, ident):
    session.send({"execute": "query-version", "id": ident})
    reply = session.reply()
    assert "return" in reply and reply["id"] == ident
    session.send({"execute": "nonsense", "id": ident})
    reply = session.reply()
    assert reply["error"]["class"] == "CommandNotFound" and reply["id"] == ident


@pytest.mark.contract
def test_no_id_no_id(session):
    session.send({"execute": "query-version"})
    assert "id" not in session.reply()


@pytest.mark.contract
@pytest.mark.parametrize("text,cls", [
    ('{}', "GenericError"),
    ('{"id": 1}', "GenericError"),
    ('{"execute": 1}', "GenericError"),
    ('{"execute": null}', "GenericError"),
    ('{"execute": ["quit"]}', "GenericError"),
    ('{"execute": ""}', "CommandNotFound"),
    ('{"execute": "Quit"}', "CommandNotFound"),
    ('{"execute": "quit "}', "CommandNotFound"),
    ('{"Execute": "quit"}', "GenericError"),
    ('{"execute": "quit", "arguments": []}', "GenericError"),
    ('{"execute": "quit", "arguments": null}', "GenericError"),
    ('{"execute": "quit", "arguments": {"now": true}}', "GenericError"),
    ('{"execute": "quit", "extra": 1}', "GenericError"),
    ('{"execute": "quit", "execute": "quit"}', "GenericError"),
    ('{"exec-oob": "quit"}', "GenericError"),
    ('{"execute": "quit", "exec-oob": "quit"}', "GenericError"),
    ('[]', "GenericError"), ('"quit"', "GenericError"), ('5', "GenericError"), ('null', "GenericError"),
    ('true', "GenericError"), ('[{"execute": "quit"}]', "GenericError"),
])
def test_a_request_of_the_wrong_shape(session, text, cls):
    session.send_raw(text.encode() + b"\n")
    error = session.reply()["error"]
    assert error["class"] == cls and error["desc"]
    session.cmd("query-version")


@pytest.mark.contract
def test_an_error_of_a_parsed_request_has_its_id(session):
    session.send({"execute": "quit", "arguments": {"now": 1}, "id": "mine"})
    assert session.reply()["id"] == "mine"


@pytest.mark.contract
def test_commands_are_answered_in_order(session):
    session.send_raw(b"".join(json.dumps({"execute": "query-version" if n % 3 else "nonsense", "id": n}).encode()
                              for n in range(500)))
    for n in range(500):
        reply = session.reply()
        assert reply["id"] == n and ("error" in reply) == (n % 3 == 0)


def test_order_holds_while_a_reply_is_deferred(server, image):
    """block-export-add is answered when its worker runs; commands sent behind it wait."""
    server.add_file("disk", image())
    server.nbd_start()
    qmp = server.qmp
    qmp.send({"execute": "block-export-add", "id": 1,
              "arguments": {"type": "nbd", "id": "e", "node-name": "disk", "writable": True}})
    qmp.send({"execute": "query-block-exports", "id": 2})
    qmp.send({"execute": "block-export-del", "id": 3, "arguments": {"id": "e"}})
    qmp.send({"execute": "query-version", "id": 4})
    replies = [qmp.reply() for _ in range(4)]
    assert [reply["id"] for reply in replies] == [1, 2, 3, 4]
    assert all("return" in reply for reply in replies), replies
    assert replies[1]["return"][0]["id"] == "e"
    qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")


# ---- Framing ----

@pytest.mark.contract
@pytest.mark.parametrize("text", [
    b'{"execute":"query-version","id":1}',
    b' \t\r\n{ "execute" : "query-version" ,\n\n "id" : 1 }\r\n',
    b'{"id":1,"execute":"query-version"}\n\n\n',
    b'{"execute":"query-vers\\u0069on","id":1}',
    b'{"arguments":{},"execute":"query-version","id":1}',
    b"{'execute': 'query-version', 'id': 1}",  # the QMP specification's convenience
], ids=range(6))
def test_whitespace_and_order_do_not_matter(session, text):
    session.send_raw(text)
    assert session.reply()["id"] == 1


@pytest.mark.contract
def test_a_request_may_come_byte_by_byte(session):
    for byte in b'{"execute":"query-version","id":"slow \\u00e9"}':
        session.send_raw(bytes([byte]))
        time.sleep(0.001)
    assert session.reply()["id"] == "slow é"


BAD_JSON = [
    b'}', b']', b'{]', b'[}', b'{"execute" "quit"}', b'{"execute": "quit",}', b'{,}', b'{"execute"}', b'[1,]', b'[1 2]',
    b'{"execute": quit}', b'nul', b'True', b'{"a": 01}', b'{"a": 1.}', b'{"a": .5}', b'{"a": +1}', b'{"a": 1e}', b'{"a": 0x10}',
    b'{"a": NaN}', b'{"a": -}', b'{"execute": "\x01"}', b'{"execute": "a\nb"}', b'{"execute": "\\x"}',
    b'{"execute": "\\u12"}', b'{"execute": "\\ud800"}', b'{"execute": "\\ud800\\u0041"}',
    b'{"execute": "\xff"}', b'{"execute": "\xc3"}', b'{"execute": "\xed\xa0\x80"}', b'{"a": 1, "a": 2}',
    b'{"execute": "query-version", "arguments": {"a": {"b": 1, "b": 1}}}', b'// quit', b'/* quit */', b'@', b'=', b'\x00',
    b'[' * 2000, b'{"a":' * 2000,
]


@pytest.mark.contract
@pytest.mark.parametrize("text", BAD_JSON, ids=[repr(text)[2:40] for text in BAD_JSON])
def test_bad_json_is_an_error_and_the_session_resynchronises(session, text):
    session.send_raw(text + b"\n")
    error = session.reply()["error"]
    assert error["class"] == "GenericError" and error["desc"]
    session.send_raw(b"\xff\n")  # the QMP specification's way back to a known state
    session.send({"execute": "query-version", "id": "after"})
    for _ in range(20):
        reply = session.reply()
        if reply.get("id") == "after":
            break
        assert "error" in reply
    assert "return" in reply


# Bytes, and the classes of what comes before the answer to the command that follows them on the next line.
E = "GenericError"
RESYNCS = [
    (b'{"execute": "a\x01b"}', [E, E]), (b'{"execute": "a\x00b"}', [E, E]), (b'{"execute": "a\tb"}', [E, E]),
    (b'{"execute": "a\nb"}', [E, E]), (b'{"execute": "a\rb"}', [E, E]), (b'{"execute": "a\xffb"}', [E, E]),
    (b'{"execute": "a\xfeb"}', [E, E]), (b'{"execute": "', [E]), (b"{'execute': 'a", [E]), (b'"abc', [E]),
    (b'{"execute": \x01"query-version"}', [E, E]), (b'{"execute": \x1e"a"}\xff', [E, E, E]), (b'{"execute": \x7f"a"}', [E, E]),
    (b'{"execute": \xc3"a"}\xff', [E, E, E]), (b'\x04\x04', [E, E]), (b'nul\xff', [E, E]), (b'}\xff', [E, E]), (b'@ "x" 1 y', [E]),
    (b'{"a": 01}', [E, E]), (b'{"a": .5}', [E, E]), (b'{"a": NaN}', [E, E]), (b'{"a": 1.}', [E]), (b'{"a": -}', [E]),
    (b'{"execute": quit}', [E]), (b'{]', [E]), (b'{[}]', [E]), (b'"x" 5 true', [E, E, E]), (b'{"execute": "\\ud800"}', [E]),
    (b'{"execute": "\xc3"}', [E]), (b'{"execute": "nonsense"}, ]', ["CommandNotFound", E, E]), (b'[' * 1025, [E]),
    (b'[' * 1024 + b'\x01', [E]), (b'{"execute": "query-version", "execute": "quit"}', [E]),
]


@pytest.mark.contract
@pytest.mark.parametrize("text,classes", RESYNCS, ids=[repr(text)[2:40] for text, _ in RESYNCS])
def test_reading_goes_on_where_qemu_goes_on(session, text, classes):
    """As many errors, and then the next command is heard, without a resynchronising byte."""
    session.send_raw(text + b"\n")
    session.send({"execute": "query-version", "id": "after"})
    replies = [session.reply() for _ in range(len(classes) + 1)]
    assert [reply["error"]["class"] for reply in replies[:-1]] == classes
    assert replies[-1]["id"] == "after" and "return" in replies[-1]


@pytest.mark.contract
@pytest.mark.parametrize("text,value", [
    (b"[" * 500 + b"]" * 500, None), (b"1" * 300, None), (b"0." + b"1" * 300, None), (b"1.5e3", 1500), (b"-0.0", 0),
    (b"1e-400", 0), (b"18446744073709551615", 2**64 - 1), (b"-9223372036854775808", -2**63), (b'"\x7f"', "\x7f"),
    (b'"\xf0\x9f\x98\x80"', "\U0001F600"), (b"'it\\'s'", "it's"), (b"'\"'", '"'), (b'"\'"', "'"), (b'"\\/"', "/"),
], ids=lambda arg: repr(arg)[2:22])
def test_an_unusual_id_comes_back(session, text, value):
    session.send_raw(b'{"execute": "query-version", "id": ' + text + b"}\n")
    reply = session.reply()
    assert "return" in reply and "id" in reply
    assert value is None or reply["id"] == value


# Where bulkhead is stricter: qemu-storage-daemon takes these (and answers 1e999 with what is no JSON).
STRICTER = [
    b'{"execute": "query-version", "id": 1e999}',
    b'{"execute": "query-version\\u0000x"}',
    b'{"execute": "\xc0\x80"}',
]


@pytest.mark.parametrize("text", STRICTER, ids=[repr(text)[2:60] for text in STRICTER])
def test_stricter_json(session, text):
    session.send_raw(text + b"\n")
    error = session.reply()["error"]
    assert error["class"] == "GenericError" and error["desc"]
    session.send_raw(b"\xff\n")
    session.send({"execute": "query-version", "id": "after"})
    while (reply := session.reply()).get("id") != "after":
        assert "error" in reply


def test_integers_beyond_2_to_53_are_not_rounded(session):
    for number in (2**53 + 1, 2**63 - 1, -2**63, 2**64 - 1, 2**64 + 1):
        session.send({"execute": "query-version", "id": number})
        assert session.reply()["id"] == number


def test_an_endless_request_is_cut_off_in_bounded_memory(server):
    """A client that never ends its string gets an error or loses its connection; memory stays bounded."""
    before = rss_kib(server.pid)
    with server.connect() as client:
        try:
            client.send_raw(b'{"execute": "')
            for _ in range(256):
                client.send_raw(b"x" * MIB)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        assert rss_kib(server.pid) < before + 100 * 1024
    server.qmp.cmd("query-version")


# ---- Several clients, events ----

@pytest.mark.contract
def test_event_has_a_timestamp_of_now(server, image):
    server.add_file("disk", image())
    server.nbd_start().export("disk")
    before = time.time()
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    event = server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
    stamp = event["timestamp"]
    assert set(event) == {"event", "data", "timestamp"} and set(stamp) == {"seconds", "microseconds"}
    assert 0 <= stamp["microseconds"] < 1000000
    assert before - 1 <= stamp["seconds"] + stamp["microseconds"] / 1e6 <= time.time() + 1


def test_every_negotiated_client_gets_events(server, image):
    server.add_file("disk", image())
    server.nbd_start().export("disk")
    with server.connect() as other, server.connect(negotiate=False) as silent:
        server.qmp.cmd("block-export-del", {"id": "exp-disk"})
        server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        other.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk")
        silent.send({"execute": "qmp_capabilities"})
        assert silent.receive() == {"return": {}}


def test_many_clients_at_once(server):
    clients = [server.connect() for _ in range(20)]
    for round_number in range(5):
        for number, client in enumerate(clients):
            client.send({"execute": "query-version", "id": [round_number, number]})
        for number, client in enumerate(clients):
            assert client.reply()["id"] == [round_number, number]
    for client in clients:
        client.close()
    server.qmp.cmd("query-version")


@pytest.mark.contract
@pytest.mark.parametrize("text", [b"", b'{"execute": "query-ver', b'{"execute": "query-version"}' * 100])
def test_a_client_that_vanishes_disturbs_nobody(session, server, text):
    session.send_raw(text)
    session.close()
    with server.connect() as again:
        again.cmd("query-version")


def test_a_client_that_reads_nothing_is_bounded_and_disturbs_nobody(server):
    """Its requests are no longer read once enough answers wait for it, or it loses its connection."""
    before = rss_kib(server.pid)
    with server.connect() as slow:
        slow.sock.settimeout(2)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += slow.sock.send(b'{"execute":"query-commands"}' * 1000)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        for _ in range(20):
            started = time.monotonic()
            server.qmp.cmd("query-version")
            assert time.monotonic() - started < 5
        assert rss_kib(server.pid) < before + 64 * 1024
    server.qmp.cmd("query-version")


def test_events_for_a_client_that_does_not_read_are_bounded(server, image):
    """Events cannot be held back like answers: the queue has a limit, and the monitor does not grow without one."""
    server.add_file("disk", image(size=MIB))
    server.nbd_start()
    with server.connect() as slow:
        before = rss_kib(server.pid)
        for _ in range(300):
            server.export("disk", id="x" * 100)
            server.qmp.cmd("block-export-del", {"id": "x" * 100, "mode": "hard"})
            server.qmp.wait_event("BLOCK_EXPORT_DELETED")
        # A build with sanitizers keeps for a while what is freed.
        assert rss_kib(server.pid) < before + (64 if sandbox.is_sanitized(server.build / "bulkhead") else 16) * 1024
        slow.sock.close()
    server.qmp.cmd("query-version")


# ---- quit ----

@pytest.mark.contract
def test_quit_deletes_exports_before_it_answers(server, image):
    server.add_file("disk", image())
    server.nbd_start().export("disk")
    server.qmp.send({"execute": "quit", "id": "bye"})
    event = server.qmp.receive()
    assert event["event"] == "BLOCK_EXPORT_DELETED" and event["data"] == {"id": "exp-disk"}
    assert server.qmp.receive() == {"return": {}, "id": "bye"}
    with pytest.raises(QmpClosed):
        server.qmp.receive()
    assert server.popen.wait(30) == 0
    server.stop()


def test_the_monitor_does_not_spin_when_idle(server):
    def ticks():
        with open(f"/proc/{server.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    with server.connect() as half:
        half.send_raw(b'{"execute"')
        before = ticks()
        time.sleep(1)
        assert ticks() - before <= 10
    assert wait_for(lambda: stat_fields(server.pid)[0] == "S", "the monitor to sleep")
