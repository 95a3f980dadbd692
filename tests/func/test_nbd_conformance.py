# SPDX-License-Identifier: BSD-2-Clause
"""docs/nbd-conformance.md against what there is: the header of the protocol, the tests, and a running server."""

import re
import struct

import pytest

from support import pages
from support.images import MIB
from support.nbdraw import *
from support.nbdraw import NbdRaw

pytestmark = pytest.mark.control

PAGE = (pages.TOP / "docs" / "nbd-conformance.md").read_text()
HEADER = (pages.TOP / "common" / "net" / "nbd-protocol.h").read_text()


def rows(section=None):
    """The cells of every row about the specification, or of one section of it, without the heads of the tables."""
    page = PAGE.split("\n## Differences")[0]
    if section is not None:
        page = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in page.splitlines() if line.startswith("|")]
    heads = {i for i, line in enumerate(lines[1:]) if line.startswith("|---")}
    return [[cell.strip() for cell in line.strip("|").split("|")] for i, line in enumerate(lines)
            if i not in heads and not line.startswith("|---")]


def number(text):
    """"5", "0x21", "2^31 + 5", "bit 0" (of a type of its own)."""
    power = re.fullmatch(r"2\^(\d+) \+ (\d+)", text)
    return (1 << int(power[1])) + int(power[2]) if power else int(text.split()[-1], 0)


def constants(section, prefix):
    """{number: done?} of those rows of a section that describe a constant with this prefix."""
    found = {number(row[1]): row[2].startswith("done") for row in rows(section) if row[0].startswith(f"`{prefix}")}
    assert found
    return found


# ---- The page and the sources ----

def test_every_test_that_the_page_names_exists():
    assert len(pages.named_tests(PAGE)) > 100
    assert not pages.missing_tests(PAGE)


def test_what_is_done_names_a_test():
    for row in rows():
        if row[-2].startswith(("done", "MUST")) or len(row) > 2 and row[2].startswith("done"):
            assert "::" in row[-1] or row[-2].endswith(("it is not sent", "there is none")), row


VALUE = r"\(?(?:1u << (\d+)|0x([0-9a-f]+)u|(\d+)u|\(1u << (\d+)\) \+ (\d+)|NBD_REP_FLAG_ERROR \+ (\d+))\)?"


def header_constants():
    """{name: number, or number of the bit}"""
    found = {}
    for name, value in re.findall(r"^#define (NBD_\w+)\s+(.*?)(?: */\*.*)?$", HEADER, re.MULTILINE):
        match = re.fullmatch(VALUE, value.replace("((", "(").replace("))", ")").strip()) or re.fullmatch(VALUE, value.strip("()"))
        if match:
            bit, hexadecimal, decimal, high, low, error = match.groups()
            found[name] = int(bit) if bit else int(hexadecimal, 16) if hexadecimal else int(decimal) if decimal else \
                (1 << int(high)) + int(low) if high else (1 << 31) + int(error)
    return found


NO_CONSTANTS_OF_THE_SPECIFICATION = {"NBD_DEFAULT_BLOCK_PREFERRED", "NBD_MAX_BLOCK_MINIMUM", "NBD_EXPORT_NAME_PAD", "NBD_CMD_MAX",
                                     "NBD_REP_FLAG_ERROR", "NBD_MAX_STRING", "NBD_MAX_PAYLOAD"}


def test_the_header_and_the_page_have_the_same_numbers():
    """What is refused may be on the page alone."""
    header = {name: value for name, value in header_constants().items() if name not in NO_CONSTANTS_OF_THE_SPECIFICATION}
    page = {row[0].strip("`"): row for row in rows() if re.fullmatch(r"`NBD_[A-Z_]+`", row[0]) and len(row) == 4}
    states = {row[0].strip("`"): row for row in rows("Meta contexts") if row[0].startswith("`NBD_STATE")}
    assert {name: number(page[name][1]) for name in header if name in page} == \
        {name: value for name, value in header.items() if name not in states}
    assert {name: number(row[1].split(",")[0]) for name, row in states.items()} == {name: header[name] for name in states}
    for name, row in page.items():
        assert name in header or row[2].startswith("refused"), row


# ---- The page and the server ----

@pytest.fixture
def disk(nbd, image):
    nbd.add_file("disk", image(size=MIB))
    nbd.export("disk", description="text")
    return nbd


def test_options_are_those_of_the_page(disk):
    page = constants("Options", "NBD_OPT_")
    for option in [*range(64), 99, 1 << 16, 1 << 31, 0xffffffff]:
        with NbdRaw.unix(disk.nbd_path) as client:
            client.hello()
            if option == OPT_EXPORT_NAME:
                client.option(option, b"disk")
                assert page[option] and struct.unpack(">Q", client.recv(10)[:8])[0] == MIB
            else:
                assert (client.ask(option, b"\0")[-1][0] != REP_ERR_UNSUP) == page.get(option, False), option


def test_information_is_that_of_the_page(disk):
    page = constants("Information", "NBD_INFO_")
    with NbdRaw.unix(disk.nbd_path) as client:
        client.hello()
        for info in [*range(64), 0x8000, 0xffff]:
            told = client.go("disk", [info], option=OPT_INFO)
            assert set(told) - {INFO_EXPORT, info} == set() and (info in told) == page.get(info, False), info


def test_transmission_flags_are_those_of_the_page(disk):
    """All that can be set, by a client that asks for all of it."""
    flags = 0
    disk.export("disk", id="rom", name="rom", writable=False)
    for form in ({}, {"structured": True}, {"extended": True, "contexts": ["base:allocation"]}):
        for name in ("disk", "rom"):
            with NbdRaw.opened(disk.nbd_path, name, **form) as client:
                flags |= client.flags
                client.disconnect()
    page = constants("Transmission flags", "NBD_FLAG_")
    assert {bit for bit in range(16) if flags & 1 << bit} == {bit for bit, done in page.items() if done}


def allowed(client, command, flags):
    """Whether a request that is right in all else is carried out."""
    if command == CMD_WRITE:
        flags |= CMD_FLAG_PAYLOAD_LEN
    payload = b"" if not flags & CMD_FLAG_PAYLOAD_LEN else struct.pack(">QI", 512, 1) if command == CMD_BLOCK_STATUS else bytes(512)
    client.request(command, 0, len(payload) or (0 if command == CMD_FLUSH else 512), flags, payload)
    return client.reply_error() == 0


def test_commands_and_their_flags_are_those_of_the_page(disk):
    commands = constants("Commands", "NBD_CMD_")
    flags = constants("Command flags", "NBD_CMD_FLAG_")
    seen = set()
    with NbdRaw.opened(disk.nbd_path, "disk", extended=True, contexts=["base:allocation"]) as client:
        for command in [*range(64), 0x7fff, 0xffff]:
            if command == CMD_DISC:
                continue
            assert allowed(client, command, 0) == commands.get(command, False), command
            seen.update(bit for bit in range(16) if allowed(client, command, 1 << bit))
        assert commands[CMD_DISC]
        client.disconnect()
    assert seen == {bit for bit, done in flags.items() if done}


def test_contexts_are_those_of_the_page(disk):
    disk.export("disk", id="deep", name="deep", **{"allocation-depth": True})
    with NbdRaw.unix(disk.nbd_path) as client:
        client.hello()
        client.structured_reply()
        listed = {payload[4:].decode() for kind, payload in client.ask(OPT_LIST_META_CONTEXT, client.context_data("deep", []))[:-1]}
    assert listed == {row[0].strip("`") for row in rows("Meta contexts") if ":" in row[0] and row[1].startswith("done")}
