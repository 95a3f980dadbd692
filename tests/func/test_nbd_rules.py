# SPDX-License-Identifier: BSD-2-Clause
"""
Rules of the NBD specification that hold for every answer, whatever was asked: forms, flags, lengths, cookies. The page
docs/nbd-conformance.md has all rules, and where the others are tested.
"""

import struct

import pytest

from support import images
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

SIZE = 8 * MIB
DATA = images.pattern(64 * KIB, 3)
BASE = "base:allocation"
OPTIONS = [0, OPT_LIST, 4, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, 12, 1 << 31]
EVERY = [CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS]
FORMS = [{}, {"structured": True}, pytest.param({"extended": True}, marks=pytest.mark.own("QEMU 7.2 has no extended headers"))]
GOOD, BAD = [(0, 4 * KIB), (0, 512 * KIB), (MIB, MIB)], [(SIZE, 512), (0, 64 * MIB), (1 << 63, 1)]


@pytest.fixture
def disk(nbd, image):
    nbd.add_file("disk", image(size=SIZE, data=[(0, DATA), (2 * MIB, DATA)]), discard="unmap")
    nbd.export("disk", description="a test disk")
    return nbd


def hello(server, flags=FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
    client = NbdRaw.unix(server.nbd_path)
    client.hello(flags)
    return client


def opened(server, form=None, name="disk"):
    form = form or {}
    return NbdRaw.opened(server.nbd_path, name, contexts=[BASE] if form else (), **form)


def send(client, command, offset=0, length=512, flags=0, **kwargs):
    """Any command, with the payload that it needs."""
    if command == CMD_FLUSH:
        offset = length = 0
    if command == CMD_WRITE and client.extended:
        flags |= CMD_FLAG_PAYLOAD_LEN
    data = bytes(length) if command == CMD_WRITE else b""
    return client.request(command, offset, length, flags, data, **kwargs)


# ---- Handshake ----

@pytest.mark.contract
def test_option_replies_are_well_formed(disk):
    """The option repeated, ACK without data, each information of its length, texts that are texts."""
    with hello(disk) as client:
        for option in OPTIONS:
            for data in (b"", b"x", client.name_data("disk", range(8)), client.context_data("disk", ["base:"])):
                if option == OPT_GO and len(data) > 1:
                    continue
                for kind, payload in client.ask(option, data):  # which checks magic and option
                    if kind == REP_ACK:
                        assert payload == b""
                    elif kind & 0x80000000:
                        assert "\0" not in payload.decode() and len(payload) <= 4096
                    elif kind == REP_SERVER:
                        assert 4 + struct.unpack(">I", payload[:4])[0] <= len(payload)
                    elif kind == REP_INFO:
                        info = struct.unpack(">H", payload[:2])[0]
                        assert len(payload) == {INFO_EXPORT: 12, INFO_BLOCK_SIZE: 14}.get(info, len(payload)) >= 2
                    else:
                        assert kind == REP_META_CONTEXT and payload[4:].decode().count(":") >= 1


@pytest.mark.contract
def test_without_tls_no_option_asks_for_it(disk):
    with hello(disk) as client:
        for option in OPTIONS:
            for data in (b"", client.name_data("other")):
                assert client.ask(option, data)[-1][0] != REP_ERR_TLS_REQD
        client.go("disk")


@pytest.mark.contract
def test_info_and_go_tell_the_same(disk):
    with hello(disk) as client:
        client.structured_reply()
        for infos in ([], [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE]):
            told = client.go("disk", infos, option=OPT_INFO)
        assert client.go("disk", infos) == told


@pytest.mark.contract
@pytest.mark.parametrize("flags", [FLAG_FIXED_NEWSTYLE, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES], ids=str)
def test_nothing_follows_the_answer_to_go(disk, flags):
    """No padding, also for a client that has not agreed to leave it out."""
    with hello(disk, flags) as client:
        client.go("disk")
        assert client.read(0, 512) == DATA[:512]


@pytest.mark.contract
def test_transmission_flags(nbd, image):
    """What is on offer, before and after what makes more possible."""
    common = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_SEND_CACHE | FLAG_CAN_MULTI_CONN
    changes = FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO
    nbd.add_file("disk", image(size=SIZE))
    nbd.export("disk")
    nbd.export("disk", id="rom", name="rom", writable=False)
    for name, expected in (("disk", common | changes), ("rom", common | FLAG_READ_ONLY)):
        with hello(nbd) as client:
            client.go(name, option=OPT_INFO)
            assert client.flags == expected
            client.structured_reply()
            client.go(name)
            assert client.flags == expected | FLAG_SEND_DF


def kinds_of_nodes(server, image, disk_image):
    server.add_file("file", image(size=SIZE))
    server.add_file("direct", disk_image("direct.img", size=SIZE), cache={"direct": True})
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "window", "file": "direct", "offset": 512, "size": MIB})
    server.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "null", "size": MIB, "read-zeroes": True})
    return ["file", "direct", "window", "null"]


@pytest.mark.contract
def test_block_sizes_keep_their_rules(nbd, image, disk_image):
    """Powers of two in their limits; and no client needs to know them: odd requests work."""
    for node in kinds_of_nodes(nbd, image, disk_image):
        nbd.export(node)
        with hello(nbd) as client:
            info = client.go(node, [INFO_BLOCK_SIZE])
            least, preferred, most = struct.unpack(">III", info[INFO_BLOCK_SIZE])
            assert least & (least - 1) == 0 and 1 <= least <= 64 * KIB
            assert preferred & (preferred - 1) == 0 and preferred >= max(least, 512)
            assert most >= max(preferred, MIB) and client.size % least == 0
        with NbdRaw.opened(nbd.nbd_path, node) as client:
            assert client.write(1, b"odd") == 0
            assert len(client.read(1, 3)) == 3


def test_a_name_with_a_nul_is_refused(disk):
    """Strings of the protocol have none."""
    for member in ("name", "description"):
        arguments = {"type": "nbd", "id": "e", "node-name": "disk", member: "a\0b"}
        disk.qmp.send({"execute": "block-export-add", "arguments": arguments})
        assert disk.qmp.reply()["error"]["class"] == "GenericError"
    assert list(disk.exports()) == ["exp-disk"]


# ---- Transmission ----

@pytest.mark.contract
def test_without_more_agreed_on_all_replies_are_simple(disk):
    with opened(disk) as client:
        for command in EVERY + [8, 999]:
            for offset, length in GOOD + BAD[:1]:
                cookie = send(client, command, offset, length)
                error, got, _ = client.simple_reply(length if command == CMD_READ else 0)  # which checks the magic
                assert got == cookie
                assert command < 7 or error == EINVAL


@pytest.mark.contract
def test_with_structured_replies_no_read_is_answered_otherwise(disk):
    """Not even one that fails for its flags."""
    with opened(disk, {"structured": True}) as client:
        for flags in (0, CMD_FLAG_FUA, CMD_FLAG_DF, CMD_FLAG_NO_HOLE, 1 << 15):
            for offset, length in GOOD + BAD:
                client.request(CMD_READ, offset, length, flags)
                client.chunks()  # which checks the magic


@pytest.mark.parametrize("command", EVERY + [8, 999])
def test_with_extended_headers_every_reply_is_extended(disk, command):
    """And repeats cookie and offset of the request."""
    with opened(disk, {"extended": True}) as client:
        for offset, length in GOOD + ([] if command == CMD_WRITE else BAD):
            cookie = send(client, command, offset, length)
            done = False
            while not done:
                flags, _, got, at, _ = client.extended_chunk()
                assert (got, at) == (cookie, 0 if command == CMD_FLUSH else offset)
                done = flags & CHUNK_DONE


@pytest.mark.contract
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_cookies_are_opaque(disk, form):
    with opened(disk, form) as client:
        for cookie in (0, 1, 1 << 32, 1 << 63, (1 << 64) - 1, 0x4e42444d41474943):
            for command in (CMD_FLUSH, CMD_CACHE, 999):
                send(client, command, cookie=cookie)
                head = client.recv(4)
                if head == struct.pack(">I", SIMPLE_REPLY_MAGIC):
                    assert struct.unpack(">IQ", client.recv(12))[1] == cookie
                else:
                    fields = struct.unpack(">HHQQQ" if client.extended else ">HHQI", client.recv(28 if client.extended else 16))
                    assert fields[2] == cookie
                    client.recv(fields[-1])


def check_error(kind, payload):
    error, length = struct.unpack(">IH", payload[:6])
    assert error in (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN)
    assert 0 < length <= min(4096, len(payload) - 6)
    assert "\0" not in payload[6:6 + length].decode()
    assert kind == TYPE_ERROR and len(payload) == 6 + length


def check_status(kind, payload, length, flags, form):
    assert kind == (TYPE_BLOCK_STATUS_EXT if form == "extended" else TYPE_BLOCK_STATUS)
    extents = list(struct.iter_unpack(">QQ", payload[8:]) if form == "extended" else struct.iter_unpack(">II", payload[4:]))
    if form == "extended":
        assert struct.unpack(">II", payload[:8])[1] == len(extents)
    assert extents and all(size > 0 and size % 512 == 0 and state in (0, 1, 2, 3) for size, state in extents)
    assert sum(size for size, _ in extents[:-1]) < length
    assert not flags & CMD_FLAG_REQ_ONE or len(extents) == 1 and extents[0][0] <= length


@pytest.mark.contract
@pytest.mark.parametrize("form", [pytest.param(p, id=i, marks=m) for p, i, m in (
    ({"structured": True}, "structured", ()), ({"extended": True}, "extended", FORMS[2].marks))])
def test_chunks_are_well_formed(disk, form):
    """DONE on the last and no other flag; each type of its length; errors with a number that the protocol has."""
    name = "extended" if "extended" in form else "structured"
    with opened(disk, form) as client:
        for command, flags in ((CMD_READ, 0), (CMD_READ, CMD_FLAG_DF), (CMD_BLOCK_STATUS, 0), (CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE),
                               (CMD_READ, 1 << 14)):
            for offset, length in GOOD + BAD:
                send(client, command, offset, length, flags)
                done, count = 0, 0
                while not done:
                    done, kind, _, payload = client.chunk()
                    assert done in (0, CHUNK_DONE)
                    if kind == TYPE_NONE:
                        assert done and payload == b""
                    elif kind & 0x8000:
                        check_error(kind, payload)
                    elif command == CMD_BLOCK_STATUS:
                        check_status(kind, payload, length, flags, name)
                        count += 1
                    else:
                        assert kind in (TYPE_OFFSET_DATA, TYPE_OFFSET_HOLE)
                        assert len(payload) == 12 if kind == TYPE_OFFSET_HOLE else 9 <= len(payload) <= 8 + 32 * MIB
                        count += 1
                assert not flags or count <= 1


@pytest.mark.contract
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_fua_is_accepted_with_every_command(disk, form):
    with opened(disk, form) as client:
        for command in EVERY[:-1] + (EVERY[-1:] if form else []):
            send(client, command, 0, 512, CMD_FLAG_FUA)
            assert client.reply_error(512 if command == CMD_READ else 0) == 0, command


@pytest.mark.contract
@pytest.mark.parametrize("flags", range(8))
def test_zeroes_read_as_zeroes_and_need_not_be_fast(nbd, image, disk_image, flags):
    """With FAST_ZERO ENOTSUP is an answer, and then nothing has changed; without it is none."""
    flags = (flags & 1) * CMD_FLAG_FUA | (flags >> 1 & 1) * CMD_FLAG_NO_HOLE | (flags >> 2) * CMD_FLAG_FAST_ZERO
    nodes = kinds_of_nodes(nbd, image, disk_image)
    for node in nodes[:-1]:
        nbd.export(node)
        with NbdRaw.opened(nbd.nbd_path, node) as client:
            for offset, length in ((0, 64 * KIB), (4096, 4096), (1, 3)):
                assert client.write(offset, b"x" * length) == 0
                client.request(CMD_WRITE_ZEROES, offset, length, flags)
                error = client.reply_error()
                assert error == 0 or error == ENOTSUP and flags & CMD_FLAG_FAST_ZERO
                assert client.read(offset, length) == (bytes(length) if error == 0 else b"x" * length)
