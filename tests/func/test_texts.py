# SPDX-License-Identifier: BSD-2-Clause
"""
Phrases of errors that programs match. Each condition's text must contain the phrase that qemu-storage-daemon's contains, in
every version that this runs against; what stands around it is each program's own.
"""

import socket

import pytest

from support import locks, process
from support.images import MIB
from support.nbdraw import NbdRaw
from support.qmp import QmpError


def add(**members):
    return "blockdev-add", {name.replace("_", "-"): value for name, value in members.items()}


def export(**members):
    return "block-export-add", {name.replace("_", "-"): value for name, value in members.items()}


def listen(kind="unix", **members):
    tls = {"tls-creds": members.pop("tls_creds")} if "tls_creds" in members else {}
    return "nbd-server-start", {"addr": {"type": kind, "data": members}, **tls}


def obj(kind, ident, **members):
    return "object-add", {"qom-type": kind, "id": ident, **members}


NODES = [
    (*add(driver="file", node_name="disk", filename="@image"), "Duplicate nodes with node-name='disk'"),
    (*add(driver="raw", node_name="r", file="nope"), "Cannot find device='nope' nor node-name='nope'"),
    (*add(driver="null-co"), "'node-name' must be specified for the root node"),
    (*add(driver="null-co", node_name="1 x"), "Invalid node-name: '1 x'"),
    (*add(driver="file", node_name="x"), "Parameter 'filename' is missing"),
    (*add(node_name="x"), "Parameter 'driver' is missing"),
    (*add(driver="nonsense", node_name="x"), "Parameter 'driver' does not accept value 'nonsense'"),
    (*add(driver="null-co", node_name="x", foo=1), "Parameter 'foo' is unexpected"),
    (*add(driver="null-co", node_name="x", discard="maybe"), "Parameter 'discard' does not accept value 'maybe'"),
    (*add(driver="file", node_name="x", filename=1), "Invalid parameter type for 'filename', expected: string"),
    (*add(driver="null-co", node_name="x", read_only="y"), "Invalid parameter type for 'read-only', expected: boolean"),
    (*add(driver="null-co", node_name="x", size="1"), "Invalid parameter type for 'size', expected: integer"),
    (*add(driver="null-co", node_name="x", cache=5), "Invalid parameter type for 'cache', expected: object"),
    (*add(driver="raw", node_name="x", file=5), "Invalid parameter type for 'file', expected: "),
    (*add(driver="raw", node_name="x", file={"driver": 5}), "Invalid parameter type for 'file.driver', expected: string"),
    (*add(driver="raw", node_name="x", file={"driver": "file"}), "Parameter 'file.filename' is missing"),
    (*add(driver="file", node_name="x", filename="/nonexistent/image"),
     "Could not open '/nonexistent/image': No such file or directory"),
    ("blockdev-del", {"node-name": "nope"}, "Failed to find node with node-name='nope'"),
    ("blockdev-del", {"node-name": "disk"}, " disk is in use"),
    ("blockdev-del", {}, "Parameter 'node-name' is missing"),
    ("block_resize", {"node-name": "nope", "size": 512}, "Cannot find device='' nor node-name='nope'"),
    ("block_resize", {"device": "nope", "size": 512}, "Cannot find device='nope' nor node-name=''"),
    ("block_resize", {"size": 512}, "Cannot find device='' nor node-name=''"),
    ("block_resize", {"node-name": "nothing", "size": 512}, "Image is read-only"),
]

OBJECTS = [
    (*obj("secret", "s", data="x"), "attempt to add duplicate property 's'"),
    (*obj("nonsense", "x"), "Parameter 'qom-type' does not accept value 'nonsense'"),
    ("object-add", {"id": "x"}, "Parameter 'qom-type' is missing"),
    ("object-add", {"qom-type": "secret"}, "Parameter 'id' is missing"),
    (*obj("secret", "1 x", data="x"), "Parameter 'id' expects an identifier"),
    (*obj("secret", "x", data="x", foo=1), "Parameter 'foo' is unexpected"),
    (*obj("secret", "x"), "Either 'file' or 'data' must be provided"),
    (*obj("secret", "x", data="x", file="y"), "'file' and 'data' are mutually exclusive"),
    ("object-del", {"id": "nope"}, "object 'nope' not found"),
    ("qom-list", {"path": "/nope"}, "Device '/nope' not found"),
]

WITHOUT_SERVER = [
    (*export(type="nbd", id="e", node_name="disk"), "NBD server not running"),
    ("nbd-server-stop", {}, "NBD server not running"),
    ("nbd-server-start", {}, "Parameter 'addr' is missing"),
    (*listen(path="/nonexistent/socket"), "Failed to bind socket to /nonexistent/socket: No such file or directory"),
    (*listen(), "Parameter 'addr.data.path' is missing"),
    (*listen(path=5), "Invalid parameter type for 'addr.data.path', expected: string"),
    (*listen(path="x", foo=5), "Parameter 'addr.data.foo' is unexpected"),
    (*listen("inet", host="192.0.2.1", port="0"), "Failed to bind socket: Cannot assign requested address"),
    (*listen("inet", host="127.0.0.1", port="@port"), "Failed to find an available port: Address already in use"),
    (*listen("inet", host="no-such-host.invalid", port="1"), "address resolution failed for no-such-host.invalid:1"),
    (*listen(path="@socket", tls_creds="nope"), "No TLS credentials with id 'nope'"),
]

EXPORTS = [
    (*export(type="nbd", id="e2", node_name="nope"), "Cannot find device='' nor node-name='nope'"),
    (*export(type="nonsense", id="e2", node_name="disk"), "Parameter 'type' does not accept value 'nonsense'"),
    (*export(type="nbd", id="e2"), "Parameter 'node-name' is missing"),
    (*export(type="nbd", node_name="disk"), "Parameter 'id' is missing"),
    (*export(type="nbd", id="1 x", node_name="disk"), "Invalid block export id"),
    (*export(type="nbd", id="e", node_name="disk"), "Block export id 'e' is already in use"),
    (*export(type="nbd", id="e2", node_name="disk", name="disk"), "NBD server already has export named 'disk'"),
    (*export(type="nbd", id="e2", node_name="disk", foo=1), "Parameter 'foo' is unexpected"),
    (*export(type="nbd", id="e2", node_name="nothing", writable=True), "Cannot export read-only node as writable"),
    (*listen(path="@socket"), "NBD server already running"),
    ("blockdev-del", {"node-name": "disk"}, "disk is in use"),
    ("block-export-del", {"id": "nope"}, "Export 'nope' is not found"),
    ("block-export-del", {"id": "e", "mode": "x"}, "Parameter 'mode' does not accept value 'x'"),
    ("block-export-del", {"id": "e"}, "export 'e' still in use"),
    ("nbd-server-add", {"device": "nope"}, "nor node-name='nope'"),
    ("nbd-server-remove", {"name": "nope"}, "Export 'nope' is not found"),
    (*export(type="vhost-user-blk", id="v", node_name="nothing", addr={"type": "unix", "path": "/nonexistent/socket"}),
     "Failed to bind socket to /nonexistent/socket: No such file or directory"),
    (*export(type="vhost-user-blk", id="v", node_name="nothing", addr={"type": "inet", "host": "h", "port": "1"}),
     "Only socket address types 'unix' and 'fd' are supported"),
    (*export(type="vhost-user-blk", id="v", node_name="nothing", addr={"type": "unix", "path": "@vhost"},
             **{"num-queues": 0}), "num-queues must be greater than 0"),
]

REQUESTS = [
    ('{"execute": "nonsense"}', "The command nonsense has not been found"),
    ('{"execute": "qmp_capabilities"}', "Capabilities negotiation is already complete"),
    ('{"id": 1}', "QMP input lacks member 'execute'"),
    ('{"execute": 5}', "QMP input member 'execute' must be a string"),
    ('{"execute": "quit", "arguments": 5}', "QMP input member 'arguments' must be an object"),
    ('{"execute": "quit", "foo": 1}', "QMP input member 'foo' is unexpected"),
    ('{"exec-oob": "query-version"}', "QMP input member 'exec-oob' is unexpected"),
    ('{"execute": "quit", "arguments": {"x": 1}}', "Parameter 'x' is unexpected"),
    ('5', "QMP input must be a JSON object"),
    ('{"execute": }', "JSON parse error"),
    ('@', "JSON parse error"),
]


def placed(value, places):
    """The same with "@name" replaced."""
    if isinstance(value, dict):
        return {name: placed(inner, places) for name, inner in value.items()}
    return places.get(value, value) if isinstance(value, str) else value


def check(server, rows, **places):
    places = {f"@{name}": str(value) for name, value in places.items()}
    wrong = []
    for command, arguments, phrase in rows:
        text = server.qmp.error(command, placed(arguments, places)).desc
        if phrase not in text:
            wrong.append(f"{command} {arguments}:\n    '{text}' does not say \"{phrase}\"")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def disk(server, image):
    path = image(size=MIB)
    server.add_file("disk", path)
    server.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "nothing", "read-only": True, "size": MIB})
    return path


@pytest.mark.contract
def test_texts_about_nodes(server, disk):
    server.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "above", "file": "disk"})
    check(server, NODES, image=disk)


@pytest.mark.contract
def test_the_text_about_a_lock_of_others(server, image):
    path = image(size=MIB)
    server.nbd_start()
    with locks.held(path, 200 + locks.WRITE):
        with pytest.raises(QmpError, match='Failed to get "write" lock'):
            server.add_file("locked", path)
            server.export("locked", writable=True)


@pytest.mark.contract
def test_texts_about_objects(server):
    server.qmp.cmd(*obj("secret", "s", data="x"))
    check(server, OBJECTS)


@pytest.mark.contract
def test_texts_without_an_nbd_server(server, disk):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        check(server, WITHOUT_SERVER, port=busy.getsockname()[1], socket=server.dir / "other")


@pytest.mark.contract
def test_texts_about_exports(server, disk):
    server.nbd_start().export("disk", id="e", writable=False)
    with NbdRaw.opened(server.nbd_path, "disk"):
        check(server, EXPORTS, socket=server.dir / "other", vhost=server.dir / "vhost")


@pytest.mark.contract
def test_texts_about_requests(server):
    wrong = []
    for text, phrase in REQUESTS:
        server.qmp.send_raw(text.encode() + b"\n")
        error = server.qmp.reply()["error"]
        if phrase not in error["desc"]:
            wrong.append(f"{text}:\n    '{error['desc']}' does not say \"{phrase}\"")
    assert not wrong, "\n".join(wrong)


@pytest.mark.contract
def test_the_text_before_negotiation(server):
    server.qmp.close()
    with server.connect(negotiate=False) as client:
        assert "Expecting capabilities negotiation with 'qmp_capabilities'" in client.error("query-version").desc
    server.qmp = server.connect()


# ---- The order of members, which readers of logs and simple parsers rely on ----

@pytest.mark.contract
def test_members_come_in_qemus_order(server, disk):
    assert list(server.qmp.greeting["QMP"]) == ["version", "capabilities"]
    server.nbd_start().export("disk", id="e", writable=False)
    server.qmp.send({"execute": "block-export-del", "arguments": {"id": "e"}, "id": 1})
    assert list(server.qmp.reply()) == ["return", "id"]
    event = server.qmp.wait_event("BLOCK_EXPORT_DELETED")
    assert list(event) == ["timestamp", "event", "data"] and list(event["timestamp"]) == ["seconds", "microseconds"]
    server.qmp.send({"execute": "nonsense", "id": 1})
    error = server.qmp.reply()
    assert list(error) == ["id", "error"] and list(error["error"]) == ["class", "desc"]


# ---- The command line ----

OPTIONS = [
    (["--blockdev", "driver=file"], "Parameter 'filename' is missing"),
    (["--blockdev", "driver=nonsense,node-name=x"], "Parameter 'driver' does not accept value 'nonsense'"),
    (["--blockdev", "null-co,node-name=x,foo=1"], "Parameter 'foo' is unexpected"),
    (["--blockdev", "null-co,node-name=x,read-only=maybe"], "Parameter 'read-only' expects 'on' or 'off'"),
    (["--blockdev", "null-co,node-name=x,size=abc"], "Parameter 'size' expects integer"),
    (["--blockdev", "null-co,node-name=x,cache=5"], "Invalid parameter type for 'cache', expected: object"),
    (["--blockdev", "null-co,node-name=x,cache.direct=5"], "Parameter 'cache.direct' expects 'on' or 'off'"),
    (["--blockdev", "null-co,node-name=x", "--blockdev", "null-co,node-name=x"], "Duplicate nodes with node-name='x'"),
    (["--blockdev", "null-co,node-name"], "Expected '=' after parameter 'node-name'"),
    (["--blockdev", "null-co,1..2=x"], "Invalid parameter '1..2'"),
    (["--blockdev", "a=1,a.b=2"], "Parameters 'a.*' used inconsistently"),
    (["--blockdev", "a.b=2,a=1"], "Parameters 'a.*' used inconsistently"),
    (["--blockdev", "a.0=2,a.2=1,driver=null-co"], "Parameter 'a.1' missing"),
    (["--blockdev", '{"driver": "null-co", "node-name": 5}'], "Invalid parameter type for 'node-name', expected: string"),
    (["--blockdev", '{"driver":'], "JSON parse error"),
    (["--blockdev", '{"driver": "null-co", "driver": "null-co"}'], "duplicate"),
    (["--nbd-server", "addr.type=inet,addr.host=x"], "Parameter 'addr.port' is missing"),
    (["--nbd-server", "addr.type=unix,addr.path=x,max-connections=-1"], "Parameter 'max-connections' expects "),
    (["--export", "nbd,id=e"], "Parameter 'node-name' is missing"),
    (["--export", "id=e,node-name=d"], "Parameter 'type' is missing"),
    (["--chardev", "socket,id=1c,path=x"], "Parameter 'id' expects an identifier"),
    (["--chardev", "socket,id=c,path=x,server=maybe"], "Parameter 'server' expects 'on' or 'off'"),
    (["--chardev", "null,id=c", "--chardev", "null,id=c"], "attempt to add duplicate property 'c'"),
    (["--chardev", "socket,id=c,path=/nonexistent/s"], "Failed to connect to '/nonexistent/s': No such file or directory"),
    (["--monitor", "nope"], 'chardev "nope" not found'),
    (["--monitor", "c,foo=1"], "Parameter 'foo' is unexpected"),
    (["--chardev", "null,id=c", "--monitor", "c", "--monitor", "c"], "Device 'c' is in use"),
    (["--object", "secret,id=s,data=x", "--object", "secret,id=s,data=x"], "attempt to add duplicate property 's'"),
    (["--object", "nonsense,id=s"], "Parameter 'qom-type' does not accept value 'nonsense'"),
    (["--nonsense"], "unrecognized option '--nonsense'"),
    (["leftover"], "leftover: Unexpected argument"),
    (["--blockdev"], "option '--blockdev' requires an argument"),
    (["--pidfile", "/nonexistent/pid"], "cannot create PID file: Could not create '/nonexistent/pid'"),
]


def ends(server, *args):
    """Start it with options that make it end: (status, output)."""
    done = process.run(*server.argv(*args), status=None)
    server.stopped = True
    return done.returncode, done.stdout_text + done.stderr_text


@pytest.mark.contract
def test_texts_about_the_command_line(new_server):
    server = new_server()
    wrong = []
    for args, phrase in OPTIONS:
        status, text = ends(server, *args)
        if status != 1 or phrase not in text:
            wrong.append(f"{args}:\n    status {status}, '{text}' does not say \"{phrase}\"")
    assert not wrong, "\n".join(wrong)


@pytest.mark.contract
def test_of_keys_that_come_twice_the_last_counts(new_server):
    server = new_server()
    server.start("--blockdev", "driver=nonsense,driver=null-co,node-name=a,node-name=b,size=1k,size=1048576",
                 "--chardev", f"socket,id=c,path=/nonexistent/s,path={server.dir}/second,server=off,server=on,wait=off",
                 "--pidfile", "/nonexistent/pid", "--pidfile", server.pid_path)
    assert [(name, node["image"]["virtual-size"]) for name, node in server.nodes().items()] == [("b", MIB)]
    assert (server.dir / "second").is_socket()


@pytest.mark.contract
def test_the_third_word_of_the_version_is_the_version(new_server):
    status, text = ends(new_server(), "--version")
    words = text.split()
    assert status == 0 and words[1] == "version" and words[2].replace(".", "").isdigit()


# ---- What qemu-storage-daemon has and bulkhead has not ----

@pytest.mark.parametrize("command,arguments,name", [
    (*add(driver="qcow2", node_name="x", file="disk"), "qcow2"), (*add(driver="nbd", node_name="x"), "nbd"),
    (*obj("iothread", "x"), "iothread"), (*obj("throttle-group", "x"), "throttle-group"),
    (*export(type="vduse-blk", id="x", node_name="disk"), "vduse-blk"), ("blockdev-backup", {}, "blockdev-backup"),
    ("block-dirty-bitmap-add", {}, "block-dirty-bitmap-add"),
], ids=lambda arg: arg if isinstance(arg, str) else "")
def test_what_only_qemu_has_is_called_so(server, command, arguments, name):
    text = server.qmp.error(command, arguments).desc
    assert name in text and "qemu-storage-daemon has it" in text


def test_a_privileged_port_is_explained(server):
    """Whoever may not bind it is told what can be done; a host that lets everybody is no place to test it."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as limit:
        if int(limit.read()) <= 999:
            pytest.skip("everybody may use port 999 here (net.ipv4.ip_unprivileged_port_start)")
    text = server.qmp.error(*listen("inet", host="127.0.0.1", port="999")).desc
    assert "Failed to bind socket: Permission denied" in text and "ip_unprivileged_port_start" in text
