# SPDX-License-Identifier: BSD-2-Clause
"""
Arguments of commands: each member of each command missing, ill-typed, duplicate, unknown, and out of range. Each is
refused with an error that names the member, before any side effect.
"""

import copy
import json

import pytest

from support import images
from support.images import MIB

pytestmark = [pytest.mark.contract, pytest.mark.control]

# What is no value of each kind of member.
WRONG = {
    "str": [5, True, None, [], {}, 1.5],
    "bool": ["on", 1, None, [], {}],
    "int": ["5", True, None, [], {}, 1.5, 2**64],
    "enum": ["nonsense", "", 5, True, None, [], {}],
    "object": ["x", 5, True, None, []],
    "array": ["x", 5, True, None, {}],
    "ref": [5, True, None, []],  # a node by name or by definition
}


class Command:
    """
    A command with arguments that work. kinds: dotted member -> kind, for every member; those in `optional` may be left
    out. "@image" stands for the path of an image, "@socket" for that of a socket.
    """

    def __init__(self, name, arguments, kinds, optional=()):
        self.name = name
        self.arguments = arguments
        self.kinds = kinds
        self.optional = set(optional)


FILE_MEMBERS = {"driver": "file", "node-name": "new", "filename": "@image", "read-only": False, "auto-read-only": False,
                "discard": "unmap", "cache": {"direct": False, "no-flush": True}, "locking": "auto", "aio": "threads",
                "detect-zeroes": "off", "force-share": False}
FILE_KINDS = {"driver": "enum", "node-name": "str", "filename": "str", "read-only": "bool", "auto-read-only": "bool",
              "discard": "enum", "cache": "object", "cache.direct": "bool", "cache.no-flush": "bool", "locking": "enum",
              "aio": "enum", "detect-zeroes": "enum", "force-share": "bool"}
FILE_OPTIONAL = set(FILE_KINDS) - {"driver", "node-name", "filename"}

COMMANDS = {
    "file": Command("blockdev-add", FILE_MEMBERS, FILE_KINDS, FILE_OPTIONAL),
    "raw": Command("blockdev-add", {"driver": "raw", "node-name": "new", "offset": 512, "size": 1024, "file": "disk"},
                   {"driver": "enum", "node-name": "str", "offset": "int", "size": "int", "file": "ref"},
                   {"offset", "size"}),
    "raw-inline": Command("blockdev-add", {"driver": "raw", "node-name": "new",
                                           "file": {"driver": "file", "filename": "@image"}},
                          {"file.driver": "enum", "file.filename": "str"}),
    "null-co": Command("blockdev-add", {"driver": "null-co", "node-name": "new", "size": MIB, "latency-ns": 0,
                                        "read-zeroes": True},
                       {"driver": "enum", "node-name": "str", "size": "int", "latency-ns": "int", "read-zeroes": "bool"},
                       {"size", "latency-ns", "read-zeroes"}),
    "blkdebug": Command("blockdev-add", {"driver": "blkdebug", "node-name": "new", "image": "disk",
                                         "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": 7,
                                                           "once": False, "immediately": False}]},
                        {"driver": "enum", "node-name": "str", "image": "ref", "inject-error": "array",
                         "inject-error.0": "object", "inject-error.0.event": "enum", "inject-error.0.iotype": "enum",
                         "inject-error.0.errno": "int", "inject-error.0.sector": "int", "inject-error.0.once": "bool",
                         "inject-error.0.immediately": "bool"},
                        {"inject-error", "inject-error.0.iotype", "inject-error.0.errno", "inject-error.0.sector",
                         "inject-error.0.once", "inject-error.0.immediately"}),
    "blockdev-del": Command("blockdev-del", {"node-name": "spare"}, {"node-name": "str"}),
    "query-named-block-nodes": Command("query-named-block-nodes", {"flat": True}, {"flat": "bool"}, {"flat"}),
    "nbd-unix": Command("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "@socket"}},
                                             "max-connections": 10},
                        {"addr": "object", "addr.type": "enum", "addr.data": "object", "addr.data.path": "str",
                         "max-connections": "int"}, {"max-connections"}),
    "nbd-inet": Command("nbd-server-start", {"addr": {"type": "inet", "data": {
        "host": "127.0.0.1", "port": "0", "numeric": False, "ipv4": True, "ipv6": False, "keep-alive": True}}},
                        {"addr.data.host": "str", "addr.data.port": "str", "addr.data.numeric": "bool",
                         "addr.data.ipv4": "bool", "addr.data.ipv6": "bool", "addr.data.keep-alive": "bool"},
                        {"addr.data.numeric", "addr.data.ipv4", "addr.data.ipv6", "addr.data.keep-alive"}),
    "export-add": Command("block-export-add", {"type": "nbd", "id": "new", "node-name": "disk", "name": "new",
                                               "description": "text", "writable": True, "writethrough": False},
                          {"type": "enum", "id": "str", "node-name": "str", "name": "str", "description": "str",
                           "writable": "bool", "writethrough": "bool"},
                          {"name", "description", "writable", "writethrough"}),
    "export-del": Command("block-export-del", {"id": "exp-disk", "mode": "safe"}, {"id": "str", "mode": "enum"}, {"mode"}),
    "secret": Command("object-add", {"qom-type": "secret", "id": "new", "data": "QQ==", "format": "base64"},
                      {"qom-type": "enum", "id": "str", "data": "str", "format": "enum"}, {"format"}),
    "authz-simple": Command("object-add", {"qom-type": "authz-simple", "id": "new", "identity": "me"},
                            {"identity": "str"}),
    "authz-list": Command("object-add", {"qom-type": "authz-list", "id": "new", "policy": "deny", "rules": [
        {"match": "me", "policy": "allow", "format": "exact"}]},
                          {"policy": "enum", "rules": "array", "rules.0": "object", "rules.0.match": "str",
                           "rules.0.policy": "enum", "rules.0.format": "enum"}, {"policy", "rules", "rules.0.format"}),
    "object-del": Command("object-del", {"id": "one"}, {"id": "str"}),
    "qom-list": Command("qom-list", {"path": "/objects"}, {"path": "str"}),
}
NEEDS_SERVER = {"export-add", "export-del"}


def steps(member):
    return [int(step) if step.isdigit() else step for step in member.split(".")]


def edited(arguments, member, edit):
    """A copy of arguments in which edit(container, key) was done to the member."""
    result = copy.deepcopy(arguments)
    where = result
    *path, last = steps(member)
    for step in path:
        where = where[step]
    edit(where, last)
    return result


def last_name(member):
    return next(step for step in reversed(member.split(".")) if not step.isdigit())


MEMBERS = [(name, member) for name, command in COMMANDS.items() for member in command.kinds]


@pytest.fixture
def bench(server, image):
    """A server with a node "disk", a spare node, and helpers that fill in paths and compare states."""
    path = image()
    spare = image("spare.img", size=MIB)
    server.add_file("disk", path)
    server.add_file("spare", spare)

    class Bench:
        qmp = server.qmp

        @staticmethod
        def prepare(name):
            if name in NEEDS_SERVER:
                server.nbd_start()
            if name == "export-del":
                server.export("disk")
            if name == "object-del":
                server.qmp.cmd("object-add", {"qom-type": "secret", "id": "one", "data": "x"})

        @staticmethod
        def fill(arguments):
            text = json.dumps(arguments).replace("@image", str(spare)).replace("@socket", str(server.nbd_path))
            return json.loads(text)

        @staticmethod
        def state():
            return (sorted(server.nodes()), sorted(server.exports()), server.nbd_path.exists(),
                    sorted(row["name"] for row in server.qmp.cmd("qom-list", {"path": "/objects"})),
                    json.dumps(server.qmp.cmd("query-version")))

        def refused(self, name, arguments, member):
            before = self.state()
            error = self.qmp.error(COMMANDS[name].name, arguments)
            assert error.cls == "GenericError"
            assert member in error.desc, f"'{error.desc}' does not name '{member}'"
            assert self.state() == before

    if server.kind == "qsd":  # 7.2 has no /objects before the first
        server.qmp.cmd("object-add", {"qom-type": "secret", "id": "first", "data": "x"})
    return Bench()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_holds_what_works(bench, name):
    bench.prepare(name)
    bench.qmp.cmd(COMMANDS[name].name, bench.fill(COMMANDS[name].arguments))


@pytest.mark.parametrize("name,member", [m for m in MEMBERS if not m[1][-1].isdigit()])
def test_missing_member(bench, name, member):
    command = COMMANDS[name]
    bench.prepare(name)
    arguments = bench.fill(edited(command.arguments, member, lambda where, key: where.pop(key)))
    if member in command.optional:
        bench.qmp.cmd(command.name, arguments)
    else:
        bench.refused(name, arguments, last_name(member))


@pytest.mark.parametrize("name,member", MEMBERS)
def test_ill_typed_member(bench, name, member):
    command = COMMANDS[name]
    bench.prepare(name)
    for value in WRONG[command.kinds[member]]:
        arguments = bench.fill(edited(command.arguments, member, lambda where, key: where.__setitem__(key, value)))
        bench.refused(name, arguments, last_name(member))


@pytest.mark.parametrize("name,member", [m for m in MEMBERS if not m[1][-1].isdigit()])
def test_unknown_member_beside_it(bench, name, member):
    command = COMMANDS[name]
    bench.prepare(name)
    for unknown in ("surprise", last_name(member).upper()):  # names are case-sensitive
        arguments = bench.fill(edited(command.arguments, member, lambda where, key: where.__setitem__(unknown, 1)))
        bench.refused(name, arguments, unknown)


@pytest.mark.parametrize("name,member", [m for m in MEMBERS if "." not in m[1]])
def test_duplicate_member(bench, name, member):
    command = COMMANDS[name]
    bench.prepare(name)
    arguments = bench.fill(command.arguments)
    before = bench.state()
    body = json.dumps(arguments)[1:-1]
    twice = f'{{"execute": "{command.name}", "arguments": {{{body}, "{member}": {json.dumps(arguments[member])}}}}}'
    bench.qmp.send_raw(twice.encode() + b"\n")
    error = bench.qmp.reply()["error"]
    assert error["class"] == "GenericError" and "duplicate" in error["desc"].lower()
    assert bench.state() == before


@pytest.mark.parametrize("name", ["file", "blockdev-del", "nbd-unix", "export-add", "export-del"])
def test_no_arguments_at_all(bench, name):
    bench.prepare(name)
    before = bench.state()
    for arguments in (None, {}):
        assert bench.qmp.error(COMMANDS[name].name, arguments).cls == "GenericError"
    assert bench.state() == before


LONG = "x" * 5000

# (row, member, value, word of the error besides the member's name or None)
OUT_OF_RANGE = [
    ("file", "node-name", "", None),
    ("file", "node-name", "1digit-first", None),
    ("file", "node-name", "with space", None),
    ("file", "node-name", "sl/ash", None),
    ("file", "node-name", "ümlaut", None),
    ("file", "node-name", "n" * 32, None),
    ("file", "node-name", LONG, None),
    ("file", "node-name", "disk", None),
    ("file", "filename", "", None),
    ("file", "filename", "/nonexistent/image", "/nonexistent/image"),
    ("file", "filename", "/", None),
    ("file", "filename", "/dev/null", "/dev/null"),
    ("file", "filename", "/" + LONG, None),
    ("raw", "offset", -1, "offset"),
    ("raw", "offset", 2**63, "offset"),
    ("raw", "offset", 2**64, "offset"),
    ("raw", "size", -1, "size"),
    ("raw", "size", 2**63, "size"),
    ("raw", "size", 17 * MIB, None),
    ("raw", "offset", 16 * MIB - 512, None),
    ("raw", "offset", 2**62, None),
    ("raw", "file", "nonexistent", "nonexistent"),
    ("raw", "file", "new", "new"),
    pytest.param("null-co", "size", -1, "size", marks=pytest.mark.own("qemu-storage-daemon 7.2 aborts")),
    ("null-co", "size", 2**63, "size"),
    ("null-co", "latency-ns", -1, "latency-ns"),
    ("null-co", "latency-ns", 2**64, "latency-ns"),
    ("blkdebug", "inject-error.0.errno", 2**63, "errno"),
    ("blockdev-del", "node-name", "", None),
    ("blockdev-del", "node-name", "nonexistent", "nonexistent"),
    ("blockdev-del", "node-name", LONG, None),
    ("nbd-unix", "addr.data.path", "/tmp/" + "p" * 104, "path"),
    ("nbd-unix", "addr.data.path", "/nonexistent/socket", "/nonexistent/socket"),
    ("nbd-unix", "max-connections", -1, "max-connections"),
    ("nbd-unix", "max-connections", 2**32, "max-connections"),
    pytest.param("nbd-inet", "addr.data.port", "65536", None, marks=pytest.mark.own("glibc takes it as port 0")),
    ("nbd-inet", "addr.data.port", "http-ish", None),
    ("nbd-inet", "addr.data.host", "nonexistent.invalid", None),
    ("nbd-inet", "addr.data.host", "192.0.2.77", None),  # not an address of this host
    ("export-add", "id", "", "id"),
    ("export-add", "id", "1digit-first", "id"),
    ("export-add", "id", "with space", "id"),
    ("export-add", "name", "n" * 4097, None),
    ("export-add", "description", "d" * 4097, None),
    ("export-add", "node-name", "", None),
    ("export-add", "node-name", "nonexistent", "nonexistent"),
    ("export-del", "id", "", None),
    ("export-del", "id", "nonexistent", "nonexistent"),
]


@pytest.mark.parametrize("name,member,value,word", OUT_OF_RANGE, ids=lambda value: str(value)[:24])
def test_out_of_range(bench, name, member, value, word):
    command = COMMANDS[name]
    bench.prepare(name)
    before = bench.state()
    arguments = bench.fill(edited(command.arguments, member, lambda where, key: where.__setitem__(key, value)))
    if name == "nbd-inet":
        del arguments["addr"]["data"]["ipv6"], arguments["addr"]["data"]["ipv4"]
    error = bench.qmp.error(command.name, arguments)
    assert error.cls == "GenericError" and len(error.desc) > 5
    assert word is None or word in error.desc, error.desc
    assert bench.state() == before
