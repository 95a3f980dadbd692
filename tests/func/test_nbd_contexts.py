# SPDX-License-Identifier: BSD-2-Clause
"""Meta contexts ("Metadata querying" in the NBD specification): which there are, queries and wildcards, several at once."""

import struct

import pytest

from support import images
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

SIZE = 16 * MIB
BASE = "base:allocation"
DEPTH = "qemu:allocation-depth"


@pytest.fixture
def export(nbd, image):
    path = image(size=SIZE, data=[(MIB, images.pattern(64 * KIB, 5))])
    nbd.add_file("disk", path)
    nbd.export("disk", **{"allocation-depth": True})
    nbd.add_file("plain", image("plain.img"))
    nbd.export("plain")
    return nbd


def structured(server):
    client = NbdRaw.unix(server.nbd_path)
    client.hello()
    client.structured_reply()
    return client


def names(replies):
    assert replies[-1] == (REP_ACK, b""), replies
    assert all(kind == REP_META_CONTEXT for kind, _ in replies[:-1])
    return [data[4:].decode() for _, data in replies[:-1]]


def ids(replies):
    return {data[4:].decode(): struct.unpack(">I", data[:4])[0] for _, data in replies[:-1]}


QUERIES = [
    ([], [BASE, DEPTH], []),
    ([BASE], [BASE], [BASE]),
    ([DEPTH], [DEPTH], [DEPTH]),
    ([DEPTH, BASE], [BASE, DEPTH], [BASE, DEPTH]),
    ([BASE, BASE, BASE], [BASE], [BASE]),
    (["base:"], [BASE], []),
    (["qemu:"], [DEPTH], []),
    (["base:", "qemu:", DEPTH], [BASE, DEPTH], [DEPTH]),
    (["base:alloc", "base:allocation:", "base:allocation-depth", "qemu:allocation-dept", "qemu:allocation-depth2"], [], []),
    (["x-unknown:", "x-unknown:thing", "nbd-server:", "QEMU:", "Base:allocation"], [], []),
    (["qemu:dirty-bitmap:", "qemu:dirty-bitmap:none"], [], []),
    (["x:" + "y" * 4094, BASE], [BASE], [BASE]),
]


@pytest.mark.contract
@pytest.mark.parametrize("queries, listed, selected", QUERIES, ids=lambda value: ",".join(value)[:40])
def test_queries(export, queries, listed, selected):
    with structured(export) as client:
        replies = client.ask(OPT_LIST_META_CONTEXT, client.context_data("disk", queries))
        assert sorted(names(replies)) == sorted(listed)
        assert set(ids(replies).values()) <= {0}, "LIST: the id is reserved"
        replies = client.set_meta_context("disk", queries)
        assert sorted(names(replies)) == sorted(selected)
        assert len(set(ids(replies).values())) == len(selected), "SET: each has an id of its own"


@pytest.mark.contract
def test_what_an_export_does_not_offer(export):
    with structured(export) as client:
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            assert names(client.ask(option, client.context_data("plain", [DEPTH]))) == []
        assert names(client.ask(OPT_LIST_META_CONTEXT, client.context_data("plain", []))) == [BASE]


@pytest.mark.contract
def test_block_status_has_one_chunk_for_each(export):
    with structured(export) as client:
        context = ids(client.set_meta_context("disk", [BASE, DEPTH]))
        client.go("disk")
        for flags in (0, CMD_FLAG_REQ_ONE):
            client.request(CMD_BLOCK_STATUS, 0, 4 * MIB, flags)
            chunks = client.chunks()
            assert [kind for kind, _ in chunks] == [TYPE_BLOCK_STATUS] * 2
            got = {struct.unpack(">I", data[:4])[0]: [pair for pair in struct.iter_unpack(">II", data[4:])]
                   for _, data in chunks}
            assert set(got) == set(context.values())
            base = got[context[BASE]]
            assert base == ([(MIB, 3)] if flags else [(MIB, 3), (64 * KIB, 0), (3 * MIB - 64 * KIB, 3)])
            assert all(depth == 1 for _, depth in got[context[DEPTH]])
            assert len(got[context[DEPTH]]) == 1
        client.disconnect()


@pytest.mark.contract
def test_the_last_selection_counts(export):
    """It replaces all earlier ones, also by none."""
    with structured(export) as client:
        client.set_meta_context("disk", [BASE, DEPTH])
        assert names(client.set_meta_context("disk", [DEPTH])) == [DEPTH]
        client.go("disk")
        client.request(CMD_BLOCK_STATUS, 0, MIB)
        assert len(client.chunks()) == 1
        client.disconnect()
    with structured(export) as client:
        client.set_meta_context("disk", [BASE])
        client.set_meta_context("disk", [])
        client.go("disk")
        client.request(CMD_BLOCK_STATUS, 0, MIB)
        assert client.reply_error() == EINVAL
        client.disconnect()


def test_a_payload_chooses_among_several(export):
    """Extended headers: see test_nbd_extended.py."""
    with NbdRaw.unix(export.nbd_path) as client:
        client.hello()
        client.extended_headers()
        context = ids(client.set_meta_context("disk", [BASE, DEPTH]))
        client.go("disk")
        for chosen in ([BASE], [DEPTH], [DEPTH, BASE]):
            data = struct.pack(f">Q{len(chosen)}I", MIB, *(context[name] for name in chosen))
            client.request(CMD_BLOCK_STATUS, 0, len(data), CMD_FLAG_PAYLOAD_LEN, data)
            got = {struct.unpack(">I", payload[:4])[0]: payload[8:] for _, payload in client.chunks()}
            assert set(got) == {context[name] for name in chosen}
            if DEPTH in chosen:
                assert got[context[DEPTH]] == struct.pack(">QQ", MIB, 1)
        client.disconnect()
