# SPDX-License-Identifier: BSD-2-Clause
"""
Objects: what makes them, what is refused and how the operator is told, and what is left when that happens. What the
credentials then do is in tests/interop/test_tls*.py.
"""

import base64
import os
import pathlib
import shutil
import tempfile

import pytest

from support import tls
from support.process import need, run, wait_for
from support.qmp import QmpError

pytestmark = pytest.mark.control


@pytest.fixture(scope="module")
def pki():
    need("certtool")
    path = pathlib.Path(tempfile.mkdtemp(prefix="bh-pki-", dir="/tmp"))
    os.chmod(path, 0o755)
    yield tls.Pki(path)
    shutil.rmtree(path, ignore_errors=True)


def add(server, kind, id="obj", **members):
    members = {key.replace("_", "-"): value for key, value in members.items()}
    return server.qmp.cmd("object-add", {"qom-type": kind, "id": id, **members})


def add_x509(server, folder, **members):
    return add(server, "tls-creds-x509", dir=str(folder), endpoint="server", **members)


def refused(server, text, kind, **members):
    with pytest.raises(QmpError, match=text):
        add(server, kind, **members)
    assert objects(server) == {}
    wait_for(lambda: not server.workers(role="tls-signer"), "no signer to be left")


def objects(server):
    rows = server.qmp.cmd("qom-list", {"path": "/objects"})
    return {row["name"]: row["type"] for row in rows if row["name"] != "type"}


# ---- All kinds ----

def test_list_and_remove(server, pki, tmp):
    (tmp / "rules").write_text("{}")
    add(server, "secret", id="a", data="x")
    add(server, "authz-simple", id="b", identity="me")
    add(server, "authz-list", id="c", policy="allow", rules=[{"match": "x", "policy": "deny", "format": "glob"}])
    add(server, "authz-list-file", id="d", filename=str(tmp / "rules"))
    add(server, "tls-creds-psk", id="e", dir=str(pki["psk"]), endpoint="server")
    add(server, "tls-creds-anon", id="f", endpoint="server")
    add(server, "tls-creds-x509", id="g", dir=str(pki["server"]), endpoint="server")
    assert objects(server) == {"a": "child<secret>", "b": "child<authz-simple>", "c": "child<authz-list>",
                               "d": "child<authz-list-file>", "e": "child<tls-creds-psk>",
                               "f": "child<tls-creds-anon>", "g": "child<tls-creds-x509>"}
    assert server.qmp.cmd("qom-list", {"path": "/"})[1]["name"] == "objects"
    assert server.qmp.cmd("qom-list", {"path": "/objects/a"}) == [{"name": "type", "type": "string"}]
    assert len(server.workers(role="tls-signer")) == 3
    for name in "abcdefg":
        server.qmp.cmd("object-del", {"id": name})
    assert objects(server) == {}
    wait_for(lambda: not server.workers(role="tls-signer"), "the signers to end")


@pytest.mark.parametrize("path", ["", "/nothing", "/objects/nothing", "objects"])
def test_qom_list_of_nothing(server, path):
    with pytest.raises(QmpError):
        server.qmp.cmd("qom-list", {"path": path})


@pytest.mark.contract
def test_ids(server):
    add(server, "secret", id="one", data="x")
    for id in ("one", "1", "", "a b"):
        with pytest.raises(QmpError):
            add(server, "secret", id=id, data="x")
    with pytest.raises(QmpError):
        server.qmp.cmd("object-del", {"id": "two"})
    server.qmp.cmd("object-del", {"id": "one"})
    add(server, "secret", id="one", data="x")


def test_an_id_has_a_limit(server):
    with pytest.raises(QmpError):
        add(server, "secret", id="x" * 200, data="x")


def test_removed_while_it_is_made(server, pki):
    """object-add answers later; a second client cannot take the half-made object away, nor its id."""
    with server.connect() as other:
        server.qmp.send({"execute": "object-add", "arguments": {
            "qom-type": "tls-creds-x509", "id": "obj", "dir": str(pki["server"]), "endpoint": "server"}})
        wait_for(lambda: [row for row in other.cmd("__org.bulkhead_query-workers") if row["role"] == "tls-signer"],
                 "the monitor to have begun")
        with pytest.raises(QmpError, match="duplicate property 'obj'"):
            other.cmd("object-add", {"qom-type": "secret", "id": "obj", "data": "x"})
        assert "return" in server.qmp.reply(10)
        assert objects(server) == {"obj": "child<tls-creds-x509>"}


def test_quit_while_an_object_is_made(server, pki):
    server.qmp.send({"execute": "object-add", "arguments": {
        "qom-type": "tls-creds-x509", "id": "obj", "dir": str(pki["server"]), "endpoint": "server"}})
    with server.connect() as other:
        other.cmd("quit")
    server.popen.wait(30)
    assert server.popen.returncode == 0


# ---- Secrets ----

@pytest.mark.contract
@pytest.mark.parametrize("members", [
    {}, {"data": "x", "file": "/x"}, {"file": "/does/not/exist"}, {"data": "*", "format": "base64"},
    pytest.param({"data": "QQ", "format": "base64"}, marks=pytest.mark.own("qemu-storage-daemon ignores what is cut off")),
    {"data": "x", "keyid": "other"}, {"data": "x", "format": "hex"},
])
def test_secrets_that_are_none(server, members):
    with pytest.raises(QmpError):
        add(server, "secret", **members)


def test_a_secret_is_never_shown(server):
    add(server, "secret", data="hunter2-hunter2")
    for command, arguments in (("qom-list", {"path": "/objects/obj"}), ("qom-list", {"path": "/objects"})):
        assert "hunter2" not in str(server.qmp.cmd(command, arguments))
    assert "hunter2" not in server.log_text()


# ---- Credentials ----

@pytest.fixture
def encrypted(pki, tmp):
    need("openssl")
    folder = pki.copy("server", tmp / "encrypted")
    run("openssl", "pkcs8", "-topk8", "-in", pki["server"] / "server-key.pem", "-out", folder / "server-key.pem",
        "-passout", f"pass:{tls.PASSWORD}")
    os.chmod(folder / "server-key.pem", 0o644)
    return folder


def test_password_of_a_key(server, encrypted, tmp):
    (tmp / "password").write_bytes(base64.b64encode(tls.PASSWORD.encode()))
    os.chmod(tmp / "password", 0o644)
    add(server, "secret", id="good", file=str(tmp / "password"), format="base64")
    add(server, "secret", id="bad", data="wrong")
    add(server, "authz-simple", id="none", identity="x")
    add_x509(server, encrypted, passwordid="good")
    server.qmp.cmd("object-del", {"id": "obj"})
    for passwordid, text in ((None, "passwordid"), ("bad", "password is wrong"), ("nobody", "No secret with id 'nobody'"),
                             ("none", "is no secret")):
        with pytest.raises(QmpError, match=text):
            add_x509(server, encrypted, **({"passwordid": passwordid} if passwordid else {}))
    assert tls.PASSWORD not in server.log_text()


@pytest.mark.parametrize("spoil,text", [
    (lambda d, pki: shutil.rmtree(d), "cannot open folder"),
    (lambda d, pki: (d / "ca-cert.pem").unlink(), "ca-cert.pem"),
    (lambda d, pki: (d / "server-cert.pem").unlink(), "server-cert.pem"),
    (lambda d, pki: (d / "server-key.pem").unlink(), "server-key.pem"),
    (lambda d, pki: (d / "server-key.pem").chmod(0), "server-key.pem.*Permission denied"),
    (lambda d, pki: (d / "server-key.pem").write_text("nonsense"), "server-key.pem"),
    (lambda d, pki: (d / "server-cert.pem").write_text("nonsense"), "server-cert.pem"),
    (lambda d, pki: (d / "server-cert.pem").write_text(""), "server-cert.pem.*empty"),
    (lambda d, pki: (d / "ca-cert.pem").write_bytes(b"\0" * (2 << 20)), "more than 1048576 bytes"),
    (lambda d, pki: ((d / "ca-cert.pem").unlink(), os.mkfifo(d / "ca-cert.pem")), "not a regular file"),
    (lambda d, pki: (d / "ca-crl.pem").write_text("nonsense"), "ca-crl.pem"),
    (lambda d, pki: (d / "dh-params.pem").write_text("nonsense"), "dh-params.pem"),
    (lambda d, pki: shutil.copy(pki["server-ecdsa"] / "server-key.pem", d / "server-key.pem"), "not the key of"),
    (lambda d, pki: shutil.copy(pki.other_ca / "cert.pem", d / "ca-cert.pem"), "does not go with ca-cert.pem"),
    (lambda d, pki: pki.sign(d, "server", tls.LEAF + "cn = x\ntls_www_server\n" + tls.EXPIRED), "has expired"),
    (lambda d, pki: pki.sign(d, "server", tls.LEAF + "cn = x\ntls_www_server\n" + tls.FUTURE), "the certificate is not yet valid"),
    (lambda d, pki: pki.sign(d, "server", tls.CLIENT.format(cn="x")), "not for a TLS server"),
    (lambda d, pki: pki.sign(d, "server", tls.CA), "is that of a CA"),
    (lambda d, pki: shutil.copy(pki["server"] / "server-cert.pem", d / "ca-cert.pem"), "not that of a CA"),
])
def test_folders_that_are_refused(server, pki, tmp, spoil, text):
    folder = pki.copy("server", tmp / "spoilt")
    spoil(folder, pki)
    refused(server, text, "tls-creds-x509", dir=str(folder), endpoint="server")


def test_sanity_check_can_be_left_out(server, pki, tmp):
    folder = pki.copy("server", tmp / "late")
    pki.sign(folder, "server", tls.LEAF + "cn = x\ntls_www_server\n" + tls.EXPIRED)
    add_x509(server, folder, sanity_check=False)


@pytest.mark.parametrize("text,expected", [
    ("", "has no user"), ("alice\n", "line 1"), ("alice:xyz\n", "line 1"), ("\nalice:1\n", "line 2"),
    (":11\n", "line 1"), ("alice:" + "11" * 65 + "\n", "line 1"), ("a" * 200 + ":11\n", "line 1"),
    ("a\tb:11\n", "control characters"),
])
def test_key_files_that_are_refused(server, tmp, text, expected):
    (tmp / "keys.psk").write_text(text)
    refused(server, expected, "tls-creds-psk", dir=str(tmp), endpoint="server")


@pytest.mark.parametrize("members,text", [
    ({"endpoint": "client"}, "endpoint"), ({}, "endpoint"), ({"endpoint": "server", "dir": None}, "dir"),
    ({"endpoint": "server", "priority": "NONSENSE"}, "priority string"),
    ({"endpoint": "server", "priority": "N" * 600}, "priority"), ({"endpoint": "server", "loaded": False}, "loaded"),
])
def test_options_that_are_refused(server, pki, members, text):
    members = {"dir": str(pki["server"]), **members}
    if members["dir"] is None:
        del members["dir"]
    refused(server, text, "tls-creds-x509", **members)


@pytest.mark.contract
def test_a_server_has_no_user_name(server, pki):
    server.qmp.error("object-add", {"qom-type": "tls-creds-psk", "id": "psk", "dir": str(pki["psk"]),
                                    "endpoint": "server", "username": "alice"})
    add(server, "tls-creds-psk", id="psk", dir=str(pki["psk"]), endpoint="server")


# ---- The NBD server ----

@pytest.mark.parametrize("members,text", [
    ({"tls-creds": "nobody"}, "No TLS credentials with id 'nobody'"), ({"tls-creds": "plain"}, "not TLS credentials"),
    ({"tls-authz": "plain"}, "tls-authz"),
])
def test_server_with_wrong_credentials(server, members, text):
    add(server, "secret", id="plain", data="x")
    with pytest.raises(QmpError, match=text):
        server.nbd_start(**members)
    server.nbd_start()


# ---- The command line ----

def test_command_line(new_server, pki):
    server = new_server()
    server.start("--object", "secret,id=s,data=a,,b", "--object", f"tls-creds-x509,id=t,dir={pki['server']},endpoint=server",
                 "--object", {"qom-type": "authz-list", "id": "who", "rules": [{"match": "*", "policy": "allow",
                                                                                "format": "glob"}]},
                 "--object", "authz-list,id=dotted,policy=deny,rules.0.match=x,rules.0.policy=allow",
                 "--nbd-server", f"addr.type=unix,addr.path={server.nbd_path},tls-creds=t,tls-authz=who")
    assert set(objects(server)) == {"s", "t", "who", "dotted"}


@pytest.mark.parametrize("text", ["tls-creds-x509,id=t,dir=/does/not/exist,endpoint=server", "secret,id=s", "iothread,id=i",
                                  "secret,id=s,data=x,data2=y"])
def test_command_line_that_is_refused(build, text):
    argv = [build / "bulkhead", "--user", "bulkhead", "--object", text]
    result = run(*argv, status=1)
    assert "--object" in result.stderr_text


@pytest.mark.parametrize("more", ["", ",format=base64"])
def test_a_secret_that_cannot_be_made_is_named_and_not_shown(build, more):
    secret = f"secret,id=sec0,data=hunter2-hunter2{more}"
    said = run(build / "bulkhead", "--user", "bulkhead", "--object", secret, "--object", secret, status=1).stderr_text
    assert "--object 'sec0': " in said and "hunter2" not in said


def test_what_uses_an_object_comes_after_it(build, tmp, pki):
    result = run(build / "bulkhead", "--user", "bulkhead", "--nbd-server", f"addr.type=unix,addr.path={tmp}/s,tls-creds=t",
                 "--object", f"tls-creds-psk,id=t,dir={pki['psk']},endpoint=server", status=1)
    assert "No TLS credentials with id 't'" in result.stderr_text
