# SPDX-License-Identifier: BSD-2-Clause
"""Names of NBD exports: the longest, the empty one, very many."""

import struct

import pytest

from support.nbdraw import *
from support.nbdraw import NbdRaw

LONGEST = 4096  # "Conventions": strings


def hello(server):
    client = NbdRaw.unix(server.nbd_path)
    client.hello()
    return client


def listed(client):
    """{name: description}"""
    replies = client.ask(OPT_LIST)
    assert replies[-1] == (REP_ACK, b"")
    result = {}
    for kind, data in replies[:-1]:
        assert kind == REP_SERVER
        length = struct.unpack(">I", data[:4])[0]
        result[data[4:4 + length].decode()] = data[4 + length:].decode()
    assert len(result) == len(replies) - 1
    return result


@pytest.fixture
def disk(nbd, image):
    nbd.add_file("disk", image())
    return nbd


@pytest.mark.contract
def test_the_longest_name_and_description(disk):
    name, description = "n" * (LONGEST - 2) + "\u00e9", "d" * LONGEST
    disk.export("disk", name=name, description=description)
    with hello(disk) as client:
        assert listed(client) == {name: description}
        info = client.go(name, (INFO_NAME, INFO_DESCRIPTION), OPT_INFO)
        assert info[INFO_NAME] == name.encode() and info[INFO_DESCRIPTION] == description.encode()
        client.option(OPT_EXPORT_NAME, name.encode())
        assert struct.unpack(">Q", client.recv(10)[:8])[0] == client.size
        client.disconnect()


@pytest.mark.contract
@pytest.mark.parametrize("member", ["name", "description"])
def test_a_longer_one_is_refused(disk, member):
    disk.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", member: "x" * (LONGEST + 1)})
    disk.export("disk")


@pytest.mark.contract
@pytest.mark.parametrize("option", [OPT_INFO, OPT_GO, OPT_EXPORT_NAME])
def test_the_default_export_is_the_one_with_the_empty_name(disk, option):
    disk.export("disk", name="")
    with hello(disk) as client:
        assert listed(client) == {"": ""}
        if option == OPT_EXPORT_NAME:
            client.option(option)
            client.recv(10)
        else:
            info = client.go("", (INFO_NAME,), option)
            assert info.get(INFO_NAME, b"") == b""
        if option != OPT_INFO:
            assert client.read(0, 512) == bytes(512)
            client.disconnect()


@pytest.mark.contract
def test_without_an_empty_name_there_is_no_default_export(disk):
    """Not even if there is only one export."""
    disk.export("disk")
    with hello(disk) as client:
        for option in (OPT_INFO, OPT_GO):
            assert client.ask(option, client.name_data(""))[-1][0] == REP_ERR_UNKNOWN
        client.option(OPT_EXPORT_NAME)
        assert client.expect_closed() == b""


@pytest.mark.control
def test_a_list_of_a_thousand(disk):
    """One process each; nothing is truncated, each can be entered."""
    long = "x" * 1000
    for i in range(1000):
        disk.qmp.cmd("block-export-add", {"type": "nbd", "id": f"e{i}", "node-name": "disk", "name": f"{i}-{long}",
                                          "description": f"number {i}"})
    with hello(disk) as client:
        assert listed(client) == {f"{i}-{long}": f"number {i}" for i in range(1000)}
        client.go(f"999-{long}")
        assert client.read(0, 512) == bytes(512)
        client.disconnect()
    with hello(disk) as client:  # a client that does not want to know all of it
        client.option(OPT_LIST)
        client.recv(100)
    disk.qmp.cmd("query-version")
