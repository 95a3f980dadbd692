# SPDX-License-Identifier: BSD-2-Clause
"""
Extended headers (branch extension-ext-header of the NBD specification) by a client of our own making: neither libnbd 1.14
nor qemu 7.2, the clients of this distribution, know them. Each test is on images that are larger than 32 bits.
"""

import struct

import pytest

from support import images
from support.images import GIB, KIB, MIB
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw

SIZE = 10 * GIB
DATA = images.pattern(64 * KIB, 5)
FAR = 9 * GIB  # where DATA is once more


@pytest.fixture
def export(nbd, image):
    path = image(size=SIZE, data=[(0, DATA), (FAR, DATA)])
    nbd.add_file("disk", path, discard="unmap")
    nbd.export("disk", writable=True)
    nbd.image = path
    return nbd


def opened(server, **kwargs):
    return NbdRaw.opened(server.nbd_path, "disk", extended=True, **kwargs)


def status(client, offset, length, flags=0, data=b""):
    """The extents of the one context: [(length, flags)]"""
    client.request(CMD_BLOCK_STATUS, offset, length, flags, data)
    chunks = client.chunks()
    assert [kind for kind, _ in chunks] == [TYPE_BLOCK_STATUS_EXT], chunks
    context, count = struct.unpack(">II", chunks[0][1][:8])
    assert context == 1 and len(chunks[0][1]) == 8 + 16 * count and count > 0
    return [struct.unpack(">QQ", chunks[0][1][8 + 16 * i:24 + 16 * i]) for i in range(count)]


def test_reads_writes_and_what_has_no_data(export):
    with opened(export) as client:
        assert client.flags & FLAG_SEND_DF
        cookie = client.request(CMD_READ, FAR, len(DATA))
        flags, kind, got, offset, payload = client.extended_chunk()
        assert (kind, got, offset) == (TYPE_OFFSET_DATA, cookie, FAR)
        assert payload == struct.pack(">Q", FAR) + DATA
        if not flags & CHUNK_DONE:
            assert client.chunks() == [(TYPE_NONE, b"")]
        assert client.write(5 * GIB, DATA[:1000], CMD_FLAG_FUA) == 0
        client.request(CMD_FLUSH)
        assert client.chunks() == [(TYPE_NONE, b"")]
        client.request(CMD_READ, 5 * GIB, 1000, CMD_FLAG_DF)
        assert client.chunks()[0] == (TYPE_OFFSET_DATA, struct.pack(">Q", 5 * GIB) + DATA[:1000])
        client.disconnect()


def test_a_large_read_and_a_large_write(export):
    data = images.pattern(32 * MIB, 9)
    with opened(export) as client:
        assert client.write(6 * GIB + 1, data) == 0
        client.request(CMD_READ, 6 * GIB + 1, len(data), CMD_FLAG_DF)
        chunks = client.chunks()
        assert chunks[0] == (TYPE_OFFSET_DATA, struct.pack(">Q", 6 * GIB + 1) + data)
        client.request(CMD_READ, 0, 32 * MIB + 1)
        assert client.reply_error() == EINVAL
        client.disconnect()


def test_effects_beyond_32_bits(export):
    """What no compact request can say: one that covers the image."""
    with opened(export, contexts=["base:allocation"]) as client:
        for command in (CMD_CACHE, CMD_WRITE_ZEROES, CMD_TRIM):
            client.request(command, 64 * KIB, SIZE - 64 * KIB)
            assert client.reply_error() == 0, command
            for offset, length in ((64 * KIB, SIZE), (SIZE, 1), (0, 1 << 63), ((1 << 64) - 1, 1), (1, (1 << 64) - 1)):
                client.request(command, offset, length)
                assert client.reply_error() == (ENOSPC if command == CMD_WRITE_ZEROES else EINVAL)
        client.request(CMD_READ, FAR, len(DATA), CMD_FLAG_DF)
        assert client.chunks()[0][1][8:] == bytes(len(DATA))
        client.request(CMD_READ, 0, len(DATA), CMD_FLAG_DF)
        assert client.chunks()[0][1][8:] == DATA
        client.disconnect()


def test_block_status_beyond_32_bits(export):
    with opened(export, contexts=["base:allocation"]) as client:
        assert status(client, 0, SIZE) == [(64 * KIB, 0), (FAR - 64 * KIB, 3), (64 * KIB, 0), (GIB - 64 * KIB, 3)]
        assert status(client, 64 * KIB, SIZE - 64 * KIB, CMD_FLAG_REQ_ONE) == [(FAR - 64 * KIB, 3)]
        for offset, length in ((0, SIZE + 1), (SIZE, 1), (0, 0), (1, (1 << 64) - 1)):
            client.request(CMD_BLOCK_STATUS, offset, length)
            assert client.reply_error() == EINVAL
        client.disconnect()


def test_block_status_of_chosen_contexts(export):
    with opened(export, contexts=["base:allocation"]) as client:
        assert client.flags & FLAG_BLOCK_STATUS_PAYLOAD
        data = struct.pack(">QI", SIZE - FAR, 1)
        assert status(client, FAR, len(data), CMD_FLAG_PAYLOAD_LEN, data) == [(64 * KIB, 0), (GIB - 64 * KIB, 3)]
        for data in (b"", b"x", struct.pack(">Q", 512), struct.pack(">QI", 512, 0), struct.pack(">QI", 512, 2),
                     struct.pack(">QII", 512, 1, 1), struct.pack(">QI", SIZE + 1, 1), struct.pack(">QI", 0, 1), bytes(5000)):
            client.request(CMD_BLOCK_STATUS, 0, len(data), CMD_FLAG_PAYLOAD_LEN, data)
            assert client.reply_error() == EINVAL, data
        client.disconnect()
    with opened(export) as client:
        assert not client.flags & FLAG_BLOCK_STATUS_PAYLOAD
        client.request(CMD_BLOCK_STATUS, 0, 12, CMD_FLAG_PAYLOAD_LEN, struct.pack(">QI", 512, 1))
        assert client.reply_error() == EINVAL
        client.disconnect()


@pytest.mark.parametrize("command", [CMD_READ, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, 8, 0xffff])
def test_a_payload_that_nobody_expects_is_skipped(export, command):
    with opened(export) as client:
        client.request(command, 0, 5000, CMD_FLAG_PAYLOAD_LEN, b"x" * 5000)
        assert client.reply_error() == EINVAL
        client.request(CMD_READ, 0, 512, CMD_FLAG_DF)
        assert client.chunks()[0][1][8:] == DATA[:512]
        client.disconnect()


def test_a_write_needs_no_payload_flag(export):
    """QEMU's client does not set it."""
    data = images.pattern(MIB, 7)
    with opened(export) as client:
        for length in (512, 64 * KIB, MIB):
            assert client.write(5 * GIB, data[:length], payload_flag=False) == 0
            assert client.write(6 * GIB, data[:length], CMD_FLAG_FUA, payload_flag=False) == 0
            for offset in (5 * GIB, 6 * GIB):
                client.request(CMD_READ, offset, length, CMD_FLAG_DF)
                assert client.chunks()[0][1][8:] == data[:length]
        client.disconnect()


def zeroing(client, length):
    """Requests that would zero what they may, as a payload of that length."""
    if client.extended:
        one = struct.pack(">IHHQQQ", EXTENDED_REQUEST_MAGIC, 0, CMD_WRITE_ZEROES, 0xbad, 0, SIZE)
    else:
        one = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_WRITE_ZEROES, 0xbad, 0, GIB)
    return (one * (length // len(one) + 1))[:length]


FORMS = {"simple": {}, "structured": {"structured": True}, "extended": {"extended": True}}
REFUSALS = {  # what is wrong with the write: (name of the export, offset, flags)
    "nothing": ("disk", FAR, 0), "read-only": ("rom", FAR, 0), "beyond the end": ("disk", SIZE - 1, 0),
    "offset that wraps": ("disk", (1 << 64) - 1, 0), "flag for others": ("disk", FAR, CMD_FLAG_DF),
    "unknown flag": ("disk", FAR, 1 << 15), "all of it": ("rom", SIZE, 0xffdf)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_data_of_a_write_are_never_requests(export, form, refusal):
    """Whatever is wrong with it, with the flag of extended headers or without."""
    export.export("disk", id="rom", name="rom", writable=False)
    name, offset, flags = REFUSALS[refusal]
    with NbdRaw.opened(export.nbd_path, name, **FORMS[form]) as client:
        for flag in (0, CMD_FLAG_PAYLOAD_LEN):
            for length in (56, 64, 4096, 300 * KIB):
                client.request(CMD_WRITE, offset, length, flags | flag, zeroing(client, length))
                assert (client.reply_error() == 0) == (refusal == "nothing" and (not flag or client.extended))
                client.request(CMD_FLUSH)
                assert client.reply_error() == 0
        client.disconnect()
    assert images.read(export.image, 0, len(DATA)) == DATA


@pytest.mark.parametrize("flag", [0, CMD_FLAG_PAYLOAD_LEN], ids=["without", "with"])
def test_no_request_is_read_behind_a_payload_beyond_the_maximum(export, flag):
    with opened(export) as client:
        client.request(CMD_WRITE, 0, 32 * MIB + 1, flag, zeroing(client, 4096))
        assert client.expect_closed() == b""
    assert images.read(export.image, 0, len(DATA)) == DATA


@pytest.mark.parametrize("command", [CMD_WRITE, CMD_BLOCK_STATUS, CMD_FLUSH, 99])
@pytest.mark.parametrize("length", [32 * MIB + 1, 1 << 32, (1 << 64) - 1])
def test_a_payload_beyond_the_maximum_ends_the_client(export, command, length):
    with opened(export) as client:
        client.request(command, 0, length, CMD_FLAG_PAYLOAD_LEN)
        assert client.expect_closed() == b""


def test_compact_requests_are_the_wrong_magic(export):
    with opened(export) as client:
        client.send(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_READ, 1, 0, 512) + bytes(4))
        assert client.expect_closed() == b""


def test_extended_requests_have_to_be_negotiated(export):
    with NbdRaw.opened(export.nbd_path, "disk", structured=True) as client:
        client.request(CMD_READ, 0, 512, magic=EXTENDED_REQUEST_MAGIC)
        assert client.expect_closed() == b""


def test_the_handshake(export):
    with NbdRaw.unix(export.nbd_path) as client:
        client.hello()
        assert client.ask(OPT_EXTENDED_HEADERS, b"x")[-1][0] == REP_ERR_INVALID
        client.structured_reply()
        client.extended_headers()
        assert client.ask(OPT_STRUCTURED_REPLY)[-1][0] == REP_ERR_EXT_HEADER_REQD
        client.set_meta_context("disk", ["base:allocation"])
        assert client.go("disk", option=OPT_INFO) == client.go("disk")
        client.disconnect()
    with NbdRaw.unix(export.nbd_path) as client:
        client.hello()
        client.extended_headers()
        client.option(OPT_EXPORT_NAME, b"disk")
        with pytest.raises(Closed):
            client.recv(1)
