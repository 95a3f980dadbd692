# SPDX-License-Identifier: BSD-2-Clause
"""
NBD bytes of our own making: malformed handshakes and requests. After each a control client that was connected all the
time, and a new one, find everything unharmed. Section names are those of the NBD specification (doc/proto.md).
"""

import random
import socket
import struct
import time

import pytest

from support import images
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

SIZE = 16 * MIB
DATA = images.pattern(64 * KIB, 21)


class Target:
    """An export "disk" with DATA at its start, and a control client that must never notice anything."""

    def __init__(self, server, path):
        self.server = server
        self.image = path
        self.path = server.nbd_path
        self.control = NbdRaw.opened(self.path, "disk")

    def raw(self):
        return NbdRaw.unix(self.path)

    def hello(self, flags=FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
        client = self.raw()
        client.hello(flags)
        return client

    def opened(self, **kwargs):
        return NbdRaw.opened(self.path, "disk", **kwargs)

    def check(self):
        assert self.control.read(0, len(DATA)) == DATA
        with self.opened() as fresh:
            assert fresh.read(0, len(DATA)) == DATA
            fresh.disconnect()
        self.server.qmp.cmd("query-version")
        assert images.read(self.image, 0, len(DATA)) == DATA


@pytest.fixture
def target(nbd, image):
    path = image(data=[(0, DATA)])
    nbd.add_file("disk", path)
    nbd.export("disk", description="a test disk")
    target = Target(nbd, path)
    yield target
    target.check()
    target.control.close()


# ---- Handshake ----

@pytest.mark.contract
def test_the_server_offers_fixed_newstyle_and_no_zeroes(target):
    with target.raw() as client:
        assert client.hello() == FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES


@pytest.mark.contract
@pytest.mark.parametrize("flags", [4, 0x80000000, 0xffffffff, 3 | 1 << 8])
def test_unknown_client_flags_end_the_connection(target, flags):
    """"Client flags": the server MUST close on flags it does not know."""
    with target.raw() as client:
        client.hello(flags)
        try:
            client.option(OPT_LIST)  # nobody has to look at less than a whole first message before its time is over
        except OSError:
            pass
        assert client.expect_closed() == b""


@pytest.mark.contract
def test_wrong_option_magic_ends_the_connection(target):
    with target.hello() as client:
        client.option(OPT_LIST, magic=IHAVEOPT + 1)
        assert client.expect_closed() == b""


@pytest.mark.contract
@pytest.mark.parametrize("data", [b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", bytes(64), b"\xff" * 64, b"NBDMAGICIHAVEOPT" * 4],
                         ids=repr)
def test_garbage_instead_of_a_handshake(target, data):
    with target.raw() as client:
        client.send(data)
        client.sock.shutdown(socket.SHUT_WR)
        client.expect_closed()


@pytest.mark.contract
@pytest.mark.parametrize("option", [0, 4, 12, 99, 0xffffffff])
def test_an_unknown_option_is_refused_and_haggling_goes_on(target, option):
    with target.hello() as client:
        for data in (b"", b"x" * 1000):
            assert client.ask(option, data)[0][0] == REP_ERR_UNSUP
        assert client.go("disk")
        assert client.read(0, 512) == DATA[:512]


@pytest.mark.contract
@pytest.mark.parametrize("option", [OPT_LIST, OPT_STRUCTURED_REPLY])
def test_an_option_without_data_refuses_data(target, option):
    with target.hello() as client:
        assert client.ask(option, b"x")[-1][0] == REP_ERR_INVALID
        client.go("disk")


@pytest.mark.contract
@pytest.mark.parametrize("option", [OPT_INFO, OPT_GO])
@pytest.mark.parametrize("data", [
    b"", b"\0\0\0", struct.pack(">I", 4) + b"disk", struct.pack(">I", 5) + b"disk\0",
    struct.pack(">I", 0xffffffff) + b"disk\0\0", struct.pack(">I", 4) + b"disk" + struct.pack(">H", 1),
    struct.pack(">I", 4) + b"disk" + struct.pack(">HH", 0, 3), struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0xffff),
    struct.pack(">I", 4) + b"disk\0\0\0",
], ids=["empty", "short length", "no count", "count missing", "length too big", "info missing", "info too many",
        "65535 infos missing", "one byte too many"])
def test_a_malformed_info_or_go_is_invalid_and_haggling_goes_on(target, option, data):
    with target.hello() as client:
        assert client.ask(option, data)[-1][0] == REP_ERR_INVALID
        client.go("disk")
        assert client.read(0, 512) == DATA[:512]


@pytest.mark.contract
@pytest.mark.parametrize("name", ["other", "", "disk\0", "DISK", "disk ", "x" * 4096])
def test_an_unknown_name_is_refused_and_haggling_goes_on(target, name):
    with target.hello() as client:
        for option in (OPT_INFO, OPT_GO):
            assert client.ask(option, client.name_data(name))[-1][0] in (REP_ERR_UNKNOWN, REP_ERR_INVALID)
        client.go("disk")


@pytest.mark.contract
def test_a_name_that_is_too_long(target):
    with target.hello() as client:
        assert client.ask(OPT_GO, client.name_data("x" * 4097))[-1][0] in (
            REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN)
        client.go("disk")


@pytest.mark.contract
@pytest.mark.parametrize("length", [1 << 20, 0x7fffffff, 0xffffffff])
@pytest.mark.parametrize("option", [OPT_LIST, OPT_GO, OPT_SET_META_CONTEXT, 99])
def test_an_endless_option_is_refused_or_ends_the_connection(target, option, length):
    """The server may skip it or hang up; it may not believe the length."""
    with target.hello() as client:
        client.option(option, b"x" * 100, length=length)
        client.sock.shutdown(socket.SHUT_WR)
        client.expect_closed()


@pytest.mark.contract
@pytest.mark.parametrize("cut", range(0, 16 + 4 + 4 + 2, 3))
def test_a_client_that_leaves_within_an_option(target, cut):
    with target.hello() as client:
        whole = struct.pack(">QII", IHAVEOPT, OPT_GO, 10) + client.name_data("disk")
        client.send(whole[:cut])


@pytest.mark.contract
def test_the_handshake_may_come_byte_by_byte(target):
    with target.raw() as client:
        client.recv(18)
        whole = struct.pack(">I", 3) + struct.pack(">QII", IHAVEOPT, OPT_STRUCTURED_REPLY, 0) + \
            struct.pack(">QII", IHAVEOPT, OPT_GO, 10) + client.name_data("disk")
        for byte in whole:
            client.send(bytes([byte]))
        assert client.option_replies(OPT_STRUCTURED_REPLY) == [(REP_ACK, b"")]
        assert client.option_replies(OPT_GO)[-1][0] == REP_ACK


@pytest.mark.contract
def test_requests_sent_with_the_handshake_are_not_lost(target):
    """A client that sends its first requests before it saw the ACK: no byte may stay behind with the negotiator."""
    with target.raw() as client:
        client.recv(18)
        requests = b"".join(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_READ, n, n * 512, 512) for n in range(32))
        client.send(struct.pack(">I", 3) + struct.pack(">QII", IHAVEOPT, OPT_GO, 10) + client.name_data("disk") + requests)
        assert client.option_replies(OPT_GO)[-1][0] == REP_ACK
        replies = {}
        for _ in range(32):
            error, cookie, data = client.simple_reply(512)
            assert error == 0
            replies[cookie] = data
        assert b"".join(replies[n] for n in range(32)) == DATA[:32 * 512]


@pytest.mark.contract
def test_export_name_has_124_zeroes_unless_negotiated_away(target):
    for flags, zeroes in ((FLAG_FIXED_NEWSTYLE, 124), (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 0)):
        with target.hello(flags) as client:
            client.option(OPT_EXPORT_NAME, b"disk")
            size, transmission = struct.unpack(">QH", client.recv(10))
            assert size == SIZE and transmission & FLAG_HAS_FLAGS
            assert client.recv(zeroes) == bytes(zeroes)
            assert client.read(0, 512) == DATA[:512]


@pytest.mark.contract
@pytest.mark.parametrize("name", [
    b"other", b"x" * 4097, b"\xff\xfe", pytest.param(b"disk\0", marks=pytest.mark.own("a NUL ends no name"))], ids=lambda n: repr(n)[:12])
def test_export_name_of_an_unknown_export_closes(target, name):
    with target.hello() as client:
        client.option(OPT_EXPORT_NAME, name)
        assert client.expect_closed() == b""


@pytest.mark.contract
def test_abort_is_acknowledged_and_closes(target):
    with target.hello() as client:
        assert client.ask(OPT_ABORT) == [(REP_ACK, b"")]
        assert client.expect_closed() == b""


@pytest.mark.contract
def test_starttls_without_credentials_is_refused_and_haggling_goes_on(target):
    with target.hello() as client:
        assert client.ask(OPT_STARTTLS)[-1][0] in (REP_ERR_POLICY, REP_ERR_UNSUP)
        client.go("disk")


@pytest.mark.contract
def test_infos_that_nobody_asked_for_and_unknown_ones(target):
    with target.hello() as client:
        infos = client.go("disk", infos=[INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 77, 0xffff], option=OPT_INFO)
        assert infos[INFO_NAME] == b"disk" and infos[INFO_DESCRIPTION] == b"a test disk"
        minimum, preferred, maximum = struct.unpack(">III", infos[INFO_BLOCK_SIZE])
        assert 1 <= minimum <= preferred <= maximum and maximum >= 32 * MIB
        client.go("disk")


@pytest.mark.contract
@pytest.mark.parametrize("data", [
    b"", struct.pack(">I", 4) + b"disk", struct.pack(">I", 4) + b"disk" + struct.pack(">I", 1),
    struct.pack(">I", 4) + b"disk" + struct.pack(">II", 1, 15) + b"base:alloca",
    struct.pack(">I", 4) + b"disk" + struct.pack(">I", 0xffffffff),
    struct.pack(">I", 0xffffffff) + b"disk",
    pytest.param(struct.pack(">I", 4) + b"disk" + struct.pack(">II", 1, 4) + b"base:",
                 marks=pytest.mark.own("qemu-storage-daemon ignores what is left over")),
], ids=["empty", "no count", "query missing", "query short", "2^32-1 queries", "name too long", "one byte too many"])
def test_a_malformed_meta_context_option(target, data):
    with target.hello() as client:
        client.structured_reply()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            assert client.ask(option, data)[-1][0] == REP_ERR_INVALID
        client.go("disk")


@pytest.mark.contract
def test_meta_contexts_need_structured_replies(target):
    with target.hello() as client:
        data = client.context_data("disk", ["base:allocation"])
        assert client.ask(OPT_SET_META_CONTEXT, data)[-1][0] == REP_ERR_INVALID
        client.go("disk")


@pytest.mark.contract
def test_contexts_set_for_another_export_do_not_count(target):
    """OPT_SET_META_CONTEXT names its export; GO for another one starts without contexts."""
    target.server.add_file("other", images.make(target.image.parent / "other.img", MIB))
    target.server.export("other")
    with target.hello() as client:
        client.structured_reply()
        assert client.set_meta_context("other", ["base:allocation"])[-1][0] == REP_ACK
        client.go("disk")
        client.request(CMD_BLOCK_STATUS, 0, 4096)
        assert client.reply_error() == EINVAL


@pytest.mark.contract
def test_a_later_set_meta_context_replaces_the_earlier(target):
    with target.hello() as client:
        client.structured_reply()
        assert len(client.set_meta_context("disk", ["base:allocation"])) == 2
        assert client.set_meta_context("disk", ["nonsense:x"]) == [(REP_ACK, b"")]
        client.go("disk")
        client.request(CMD_BLOCK_STATUS, 0, 4096)
        assert client.reply_error() == EINVAL


def test_a_client_that_asks_without_end_is_cut_off(target):
    """Options that are refused cost the server something each: a limit, or at least the handshake time, ends it."""
    with target.hello() as client:
        with pytest.raises((Closed, BrokenPipeError, ConnectionResetError, TimeoutError, AssertionError)):
            for _ in range(200000):
                client.ask(99)


@pytest.mark.contract
def test_random_bytes_instead_of_options(target):
    rng = random.Random(42)
    for _ in range(100):
        with target.hello() as client:
            try:
                client.send(rng.randbytes(rng.randrange(200)))
                client.sock.shutdown(socket.SHUT_WR)
                client.expect_closed()
            except BrokenPipeError:
                pass


@pytest.mark.contract
def test_options_with_random_data(target):
    rng = random.Random(43)
    for _ in range(300):
        with target.hello() as client:
            try:
                for _ in range(rng.randrange(5)):
                    client.option(rng.randrange(2, 13), rng.randbytes(rng.choice([0, 1, 4, 10, 200])))
                client.sock.shutdown(socket.SHUT_WR)
                client.expect_closed()
            except BrokenPipeError:
                pass


# ---- Transmission ----

@pytest.mark.contract
@pytest.mark.parametrize("magic", [0, 0xffffffff, REQUEST_MAGIC + 1, SIMPLE_REPLY_MAGIC])
def test_wrong_request_magic_ends_the_connection(target, magic):
    with target.opened() as client:
        client.request(CMD_READ, 0, 512, magic=magic)
        assert DATA[:16] not in client.expect_closed()


@pytest.mark.contract
@pytest.mark.parametrize("command", [8, 9, 100, 0xffff])
def test_an_unknown_command_is_invalid_and_the_client_goes_on(target, command):
    with target.opened() as client:
        client.request(command, 0, 512)
        assert client.reply_error() == EINVAL
        assert client.read(0, 512) == DATA[:512]


@pytest.mark.contract
@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("offset,length", [
    (SIZE, 1), (SIZE - 1, 2), (SIZE + 1, 1), (2**63, 512), (2**64 - 1, 1), (2**64 - 512, 512), (2**64 - 1, 0xffffffff),
    (0, 0xffffffff), (0, 32 * MIB + 1), (SIZE - 512, SIZE)], ids=str)
def test_a_read_beyond_the_end_or_too_long(target, offset, length, structured):
    with target.opened(structured=structured) as client:
        client.request(CMD_READ, offset, length)
        assert client.reply_error() in (EINVAL, EOVERFLOW)
        client.request(CMD_READ, 0, 512)
        assert client.reply_error(512) == 0


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("offset,length", [(SIZE, 1), (SIZE - 1, 2), (2**64 - 1, 1), (2**63, 512)], ids=str)
def test_a_write_beyond_the_end_is_consumed_and_refused(target, offset, length, structured):
    with target.opened(structured=structured) as client:
        assert client.write(offset, b"w" * length) == ENOSPC
        client.request(CMD_READ, 0, 512)
        assert client.reply_error(512) == 0


@pytest.mark.contract
@pytest.mark.parametrize("length", [32 * MIB + 1, 1 << 30, 0xffffffff])
def test_a_write_longer_than_the_limit_is_refused(target, length):
    """The payload cannot be waited for: an error or the end of the connection."""
    with target.opened() as client:
        client.request(CMD_WRITE, 0, length, data=b"w" * 4096)
        client.sock.shutdown(socket.SHUT_WR)
        client.expect_closed()


@pytest.mark.parametrize("command", [CMD_TRIM, CMD_WRITE_ZEROES, CMD_CACHE, CMD_BLOCK_STATUS])
@pytest.mark.parametrize("offset,length", [(SIZE, 1), (SIZE - 1, 2), (2**64 - 1, 0xffffffff), (2**63, 1)], ids=str)
def test_other_commands_beyond_the_end(target, command, offset, length):
    with target.opened(structured=True, contexts=["base:allocation"]) as client:
        client.request(command, offset, length)
        assert client.reply_error() == (ENOSPC if command == CMD_WRITE_ZEROES else EINVAL)
        client.request(CMD_READ, 0, 512)
        assert client.reply_error(512) == 0


@pytest.mark.parametrize("command,flags", [
    (CMD_READ, CMD_FLAG_NO_HOLE), (CMD_READ, 1 << 15), (CMD_READ, CMD_FLAG_REQ_ONE), (CMD_WRITE, CMD_FLAG_DF),
    (CMD_WRITE, CMD_FLAG_FAST_ZERO), (CMD_FLUSH, CMD_FLAG_NO_HOLE), (CMD_TRIM, CMD_FLAG_FAST_ZERO), (CMD_CACHE, CMD_FLAG_DF),
    (CMD_BLOCK_STATUS, CMD_FLAG_NO_HOLE), (CMD_WRITE_ZEROES, CMD_FLAG_REQ_ONE)])
def test_flags_that_the_command_does_not_have(target, command, flags):
    with target.opened(structured=True, contexts=["base:allocation"]) as client:
        client.request(command, 0, 512, flags, b"w" * 512 if command == CMD_WRITE else b"")
        assert client.reply_error(512) == EINVAL
        client.request(CMD_READ, 0, 512)
        assert client.reply_error(512) == 0


@pytest.mark.contract
def test_df_without_structured_replies_is_invalid(target):
    with target.opened() as client:
        client.request(CMD_READ, 0, 512, CMD_FLAG_DF)
        assert client.reply_error() == EINVAL
        assert client.read(0, 512) == DATA[:512]


@pytest.mark.parametrize("command", [CMD_READ, CMD_WRITE, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS])
@pytest.mark.parametrize("offset", [0, SIZE, SIZE - 1])
def test_a_request_of_length_zero_harms_nothing(target, command, offset):
    """"Request message": its behaviour is unspecified, but the server SHOULD NOT disconnect."""
    with target.opened(structured=True, contexts=["base:allocation"]) as client:
        client.request(command, offset, 0)
        assert client.reply_error() in (0, EINVAL)
        client.request(CMD_READ, 0, 512)
        assert client.reply_error(512) == 0


@pytest.mark.contract
@pytest.mark.parametrize("cut", [1, 4, 15, 27])
def test_a_client_that_leaves_within_a_request(target, cut):
    with target.opened() as client:
        client.send(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_READ, 1, 0, 512)[:cut])


@pytest.mark.contract
def test_a_client_that_leaves_within_a_payload_wrote_nothing(target):
    with target.opened() as client:
        client.request(CMD_WRITE, 0, len(DATA), data=b"w" * 1000)
        client.sock.shutdown(socket.SHUT_WR)
        client.expect_closed()
    time.sleep(0.05)


@pytest.mark.contract
def test_a_client_that_leaves_with_requests_in_flight(target):
    for _ in range(20):
        with target.opened() as client:
            for n in range(64):
                client.request(CMD_READ, n * 4096 % SIZE, 64 * KIB)


@pytest.mark.contract
def test_a_client_that_reads_no_replies(target):
    """Its requests wait; nobody else's do, and the server does not collect replies without limit."""
    with target.opened() as client:
        client.sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100000:
                client.request(CMD_READ, 0, 1 * MIB)
                sent += 1
        started = time.monotonic()
        target.check()
        assert time.monotonic() - started < 20


@pytest.mark.contract
def test_the_same_cookie_for_every_request(target):
    with target.opened() as client:
        for n in range(16):
            client.request(CMD_READ, 0, 512, cookie=7)
        for n in range(16):
            assert client.simple_reply(512) == (0, 7, DATA[:512])


@pytest.mark.contract
@pytest.mark.own("qemu-storage-daemon loses some of the replies")
def test_disc_closes_after_what_was_asked_before(target):
    with target.opened() as client:
        for n in range(32):
            client.request(CMD_WRITE, SIZE - MIB + n * 512, 512, data=bytes([n]) * 512)
        client.request(CMD_DISC)
        left = client.expect_closed()
        assert len(left) == 32 * 16
    for n in range(32):
        assert images.read(target.image, SIZE - MIB + n * 512, 512) == bytes([n]) * 512


@pytest.mark.contract
def test_random_requests(target):
    """Whatever comes, the server answers, errs or hangs up; the control client's data is in front of all of it."""
    rng = random.Random(44)
    for _ in range(60):
        with target.opened(structured=rng.random() < 0.5) as client:
            try:
                for _ in range(rng.randrange(1, 20)):
                    command = rng.choice([CMD_READ, CMD_FLUSH, CMD_CACHE, CMD_BLOCK_STATUS, 8, rng.randrange(65536)])
                    if command in (CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES):
                        continue
                    client.request(command, rng.randrange(2 * SIZE), rng.choice([0, 1, 512, 4096, rng.randrange(2**32)]),
                                   rng.choice([0, 0, 0, rng.randrange(65536)]))
                client.send(rng.randbytes(rng.randrange(40)))
                client.sock.shutdown(socket.SHUT_WR)
                client.expect_closed()
            except BrokenPipeError:
                pass


# ---- Structured replies, looked at closely ----

@pytest.mark.contract
def test_block_status_covers_the_range_from_its_start(target):
    with target.opened(structured=True, contexts=["base:allocation"]) as client:
        client.request(CMD_BLOCK_STATUS, 0, SIZE)
        chunks = client.chunks()
        assert [kind for kind, _ in chunks if kind != TYPE_NONE] == [TYPE_BLOCK_STATUS]
        payload = next(p for kind, p in chunks if kind == TYPE_BLOCK_STATUS)
        numbers = struct.unpack(f">{len(payload) // 4}I", payload)
        extents = list(zip(numbers[1::2], numbers[2::2]))
        assert extents == [(64 * KIB, 0), (SIZE - 64 * KIB, 3)]


@pytest.mark.contract
def test_req_one_is_one_extent_within_the_range(target):
    with target.opened(structured=True, contexts=["base:allocation"]) as client:
        client.request(CMD_BLOCK_STATUS, 4096, 8192, CMD_FLAG_REQ_ONE)
        payload = next(p for kind, p in client.chunks() if kind == TYPE_BLOCK_STATUS)
        assert struct.unpack(">3I", payload)[1:] == (8192, 0)


@pytest.mark.contract
def test_structured_read_chunks_cover_the_range_once(target):
    with target.opened(structured=True) as client:
        client.request(CMD_READ, 0, 1 * MIB)
        covered = bytearray(MIB)
        result = bytearray(MIB)
        for kind, payload in client.chunks():
            if kind == TYPE_OFFSET_DATA:
                offset, = struct.unpack(">Q", payload[:8])
                data = payload[8:]
            elif kind == TYPE_OFFSET_HOLE:
                offset, length = struct.unpack(">QI", payload)
                data = bytes(length)
            else:
                assert kind == TYPE_NONE and payload == b""
                continue
            assert data and not any(covered[offset:offset + len(data)])
            covered[offset:offset + len(data)] = b"\1" * len(data)
            result[offset:offset + len(data)] = data
        assert all(covered)
        assert result == DATA + bytes(MIB - len(DATA))
