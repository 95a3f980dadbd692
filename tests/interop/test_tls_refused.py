# SPDX-License-Identifier: BSD-2-Clause
"""
Who is not let in: each is refused, the log says why, and a client that is connected meanwhile notices nothing.
"""

import json
import re
import socket
import ssl
import struct

import pytest

from support import nbdraw, tls
from support.nbdraw import Closed
from support.process import need, run, wait_for

pytestmark = pytest.mark.control

REFUSED = (Closed, OSError, ssl.SSLError)


@pytest.fixture
def bystander(tls_server, pki):
    """serve(kind, folder, good, ...): start, and have a client read and write until the test is over."""
    bystanders = []

    def serve(kind, folder, good, **members):
        tls_server.creds(kind, pki[folder])
        tls_server.serve(**members)
        make = tls.Bystander.by_key if kind == "psk" else tls.Bystander.by_certificate
        bystanders.append(make(tls_server.port, pki[good], "disk"))
        return tls_server

    yield serve
    for one in bystanders:
        one.finish()


def expect_log(server, pattern):
    wait_for(lambda: re.search(pattern, server.log()), f"'{pattern}' in the log")


# ---- Certificates ----

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("folder,reason", [
    ("other-ca", "client's certificate was refused: .*(not trusted|issuer)"),
    ("expired", "client's certificate was refused: .*expired"),
    ("wrong-purpose", "client's certificate was refused: .*(purpose|not trusted)"),
    ("revoked", "client's certificate was refused: .*revoked"),
    ("nobody", "TLS handshake: .*[Cc]ertificate"),
])
def test_certificate(bystander, pki, folder, reason, version):
    server = bystander("x509", "server-crl", "client")
    client = tls.TlsRaw.connect(server.port)
    with pytest.raises(REFUSED):
        client.starttls(pki[folder], maximum=version)
        client.go("disk")
    expect_log(server, reason)


@pytest.mark.qemu
def test_qemu_img_with_another_ca(bystander, pki):
    need("qemu-img")
    server = bystander("x509", "server", "client")
    run("qemu-img", "info", *tls.qemu_creds("x509", pki["other-ca"], **{"sanity-check": "off"}), "--image-opts",
        tls.image_opts(server.port, "disk"), status=1)
    expect_log(server, "client's certificate was refused")


# GnuTLS tells of an alert at this point in its own ways: OpenSSL sends it in clear when keys are in use already.
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_that_does_not_trust_the_server(bystander, pki, version):
    server = bystander("x509", "server", "client")
    client = tls.TlsRaw.connect(server.port)
    strange = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strange.maximum_version = version
    strange.load_verify_locations(pki.other_ca / "cert.pem")
    assert client.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
    with pytest.raises(ssl.SSLError):
        strange.wrap_socket(client.sock, server_hostname="localhost")
    expect_log(server, "TLS handshake: ")


# ---- Shared keys ----

@pytest.mark.qemu
@pytest.mark.parametrize("folder,user,reason", [
    ("psk-wrong", "alice", "perhaps the key is wrong"),
    ("psk-unknown", "mallory", "name of an unknown user"),
])
@pytest.mark.parametrize("priority", ["NORMAL", "NORMAL:-VERS-ALL:+VERS-TLS1.2"])
def test_shared_key(bystander, pki, folder, user, reason, priority):
    need("qemu-img", "nbdsh")
    server = bystander("psk", "psk", "psk")
    run("qemu-img", "info", *tls.qemu_creds("psk", pki[folder], username=user, priority=priority), "--image-opts",
        tls.image_opts(server.port, "disk"), status=1)
    expect_log(server, reason)
    run("qemu-img", "info", *tls.qemu_creds("psk", pki["psk"], username="alice", priority=priority), "--image-opts",
        tls.image_opts(server.port, "disk"))


# ---- Authorization ----

GOOD_DN = "O=bulkhead tests,CN=client"


@pytest.mark.contract
@pytest.mark.parametrize("authz,allowed", [
    ({"qom-type": "authz-simple", "identity": GOOD_DN}, True),
    ({"qom-type": "authz-simple", "identity": "CN=client"}, False),
    ({"qom-type": "authz-list", "rules": [{"match": GOOD_DN, "policy": "allow"}]}, True),
    ({"qom-type": "authz-list", "rules": [{"match": "O=*,CN=cli*", "policy": "allow", "format": "glob"}]}, True),
    ({"qom-type": "authz-list", "rules": [{"match": "O=*,CN=cli*", "policy": "allow"}]}, False),
    ({"qom-type": "authz-list", "policy": "allow", "rules": [{"match": "*,CN=cl?ent", "policy": "deny",
                                                              "format": "glob"}]}, False),
    ({"qom-type": "authz-list"}, False),
    ({"qom-type": "authz-list", "policy": "allow"}, True),
    (None, False),  # an object that is not there lets nobody in
])
def test_authorization_by_certificate(tls_server, pki, authz, allowed):
    tls_server.creds("x509", pki["server"])
    if authz is not None:
        tls_server.qmp.cmd("object-add", {"id": "who", **authz})
    tls_server.serve(**{"tls-authz": "who"})
    if allowed:
        with tls.TlsRaw.opened(tls_server.port, pki["client"], "disk") as client:
            assert client.size == tls_server.SIZE
    else:
        with pytest.raises(REFUSED):
            tls.TlsRaw.opened(tls_server.port, pki["client"], "disk")
        if tls_server.server.kind == "bulkhead":
            expect_log(tls_server, f"tls-authz 'who' does not let in '{GOOD_DN}'")


def test_authorization_is_looked_up_each_time(tls_server, pki, tmp):
    rules = tmp / "rules.json"
    rules.write_text(json.dumps({"rules": []}))
    tls_server.creds("x509", pki["server"])
    tls_server.qmp.cmd("object-add", {"qom-type": "authz-list-file", "id": "who", "filename": str(rules)})
    tls_server.serve(**{"tls-authz": "who"})

    def is_let_in():
        try:
            with tls.TlsRaw.opened(tls_server.port, pki["client"], "disk") as client:
                return client.size == tls_server.SIZE
        except REFUSED:
            return False
    assert not is_let_in()
    rules.write_text(json.dumps({"rules": [{"match": "*CN=client", "format": "glob", "policy": "allow"}]}))
    assert is_let_in()
    rules.write_text("{ broken")
    assert not is_let_in()
    expect_log(tls_server, "rules.json")
    rules.unlink()
    assert not is_let_in()
    tls_server.qmp.cmd("object-del", {"id": "who"})
    assert not is_let_in()
    tls_server.qmp.cmd("object-add", {"qom-type": "authz-simple", "id": "who", "identity": GOOD_DN})
    assert is_let_in()


def test_authorization_by_user_name(tls_server, bystander, pki):
    need("nbdinfo", "nbdsh")
    tls_server.qmp.cmd("object-add", {"qom-type": "authz-simple", "id": "who", "identity": "bob"})
    bystander("psk", "psk", "psk", **{"tls-authz": "who"})
    run("nbdinfo", "--size", tls.uri_psk(tls_server.port, "disk", pki["psk"], user="bob"))
    run("nbdinfo", "--size", tls.uri_psk(tls_server.port, "disk", pki["psk"], user="alice"), status=1)
    expect_log(tls_server, "tls-authz 'who' does not let in 'alice'")


def test_denial_disturbs_nobody(tls_server, bystander, pki):
    """Who was let in by an earlier rule goes on while others are denied: the rule is asked when somebody comes."""
    tls_server.qmp.cmd("object-add", {"qom-type": "authz-list", "id": "who", "policy": "allow"})
    bystander("x509", "server", "client", **{"tls-authz": "who"})
    tls_server.qmp.cmd("object-del", {"id": "who"})
    tls_server.qmp.cmd("object-add", {"qom-type": "authz-simple", "id": "who", "identity": "CN=nobody"})
    for _ in range(3):
        with pytest.raises(REFUSED):
            tls.TlsRaw.opened(tls_server.port, pki["client"], "disk")
    expect_log(tls_server, f"tls-authz 'who' does not let in '{GOOD_DN}'")


# ---- In clear ----

@pytest.mark.contract
@pytest.mark.parametrize("option,data", [
    (nbdraw.OPT_LIST, b""),
    (nbdraw.OPT_INFO, nbdraw.NbdRaw.name_data("disk")),
    (nbdraw.OPT_GO, nbdraw.NbdRaw.name_data("disk")),
    (nbdraw.OPT_STRUCTURED_REPLY, b""),
    (nbdraw.OPT_EXTENDED_HEADERS, b""),
    (nbdraw.OPT_SET_META_CONTEXT, nbdraw.NbdRaw.context_data("disk", ["base:allocation"])),
    (0xbeef, b"x" * 100000),
], ids=["list", "info", "go", "structured", "extended", "meta", "unknown"])
def test_option_in_clear(bystander, pki, option, data):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        [(kind, _)] = client.ask(option, data)
        assert kind == nbdraw.REP_ERR_TLS_REQD
        client.starttls(pki["client"])  # and still it may begin
        client.go("disk")


def test_export_name_in_clear(bystander):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        client.option(nbdraw.OPT_EXPORT_NAME, b"disk")
        assert client.expect_closed() == b""
    expect_log(server, "asked for an export without TLS")


def test_abort_in_clear_is_answered(bystander):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        assert client.ask(nbdraw.OPT_ABORT) == [(nbdraw.REP_ACK, b"")]
        assert client.expect_closed() == b""


@pytest.mark.qemu
@pytest.mark.contract
def test_plaintext_clients(bystander, pki):
    need("nbdinfo", "qemu-img")
    server = bystander("x509", "server", "client")
    run("nbdinfo", f"nbd://127.0.0.1:{server.port}/disk", status=1)
    run("qemu-img", "info", f"nbd://127.0.0.1:{server.port}/disk", status=1)
    if server.server.kind == "bulkhead":
        expect_log(server, "the client asked without TLS, which this server requires, and gave up")


@pytest.mark.contract
def test_starttls_within_tls(bystander, pki):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port).starttls(pki["client"]) as client:
        [(kind, _)] = client.ask(nbdraw.OPT_STARTTLS)
        assert kind == nbdraw.REP_ERR_INVALID
        client.go("disk")


def test_starttls_without_credentials(nbd, image):
    """A server without TLS says so, and goes on."""
    with nbdraw.NbdRaw.unix(nbd.nbd_path) as client:
        client.hello()
        [(kind, _)] = client.ask(nbdraw.OPT_STARTTLS)
        assert kind in (nbdraw.REP_ERR_POLICY, nbdraw.REP_ERR_UNSUP)


# ---- Bytes that somebody in between puts there ----

def option(number, data=b""):
    return struct.pack(">QII", nbdraw.IHAVEOPT, number, len(data)) + data


@pytest.mark.parametrize("behind", ids=["list", "go", "hello", "byte"], argvalues=[
    option(nbdraw.OPT_LIST),
    option(nbdraw.OPT_GO, nbdraw.NbdRaw.name_data("disk")),
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",  # the beginning of a ClientHello of the attacker's own
    b"x",
])
def test_bytes_behind_starttls(bystander, behind):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        client.send(option(nbdraw.OPT_STARTTLS) + behind)
        client.expect_closed()
    expect_log(server, "bytes came behind NBD_OPT_STARTTLS")


def test_bytes_between_the_answer_and_tls(bystander):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        assert client.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
        client.send(option(nbdraw.OPT_LIST))
        client.expect_closed()
    expect_log(server, "TLS handshake: ")


def test_bytes_before_starttls_are_forgotten(bystander, pki):
    """What is asked for in clear has no effect afterwards: structured replies and contexts have to be agreed on again."""
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        client.send(option(nbdraw.OPT_STRUCTURED_REPLY)
                    + option(nbdraw.OPT_SET_META_CONTEXT, nbdraw.NbdRaw.context_data("disk", ["base:allocation"])))
        assert client.option_replies(nbdraw.OPT_STRUCTURED_REPLY)[-1][0] == nbdraw.REP_ERR_TLS_REQD
        assert client.option_replies(nbdraw.OPT_SET_META_CONTEXT)[-1][0] == nbdraw.REP_ERR_TLS_REQD
        client.starttls(pki["client"])
        [(kind, _)] = client.set_meta_context("disk", ["base:allocation"])
        assert kind == nbdraw.REP_ERR_INVALID
        client.go("disk")
        assert not client.flags & nbdraw.FLAG_SEND_DF


@pytest.mark.parametrize("garbage", ids=["http", "long", "zeros", "short"], argvalues=[
    b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\xff" * 4096, b"\0" * 65536,
    b"\x16\x03\x03\x00\x04\x01\xff\xff\xff" * 100])
def test_garbage_in_place_of_tls(bystander, garbage):
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.connect(server.port) as client:
        assert client.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
        try:
            client.send(garbage)
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        client.expect_closed()
    expect_log(server, "TLS handshake: ")


def test_silence_in_place_of_tls_ends(bystander):
    server = bystander("x509", "server", "client", **{"handshake-max-seconds": 2})
    with tls.TlsRaw.connect(server.port) as client:
        assert client.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
        client.expect_closed()
    expect_log(server, "did not finish the handshake in time")


def test_records_that_are_changed_on_the_way(bystander, pki):
    """A byte that somebody flips ends that client, and the export never sees it."""
    server = bystander("x509", "server", "client")
    with tls.TlsRaw.opened(server.port, pki["client"], "disk") as client:
        raw = socket.socket(fileno=client.sock.detach())
        raw.sendall(b"\x17\x03\x03\x00\x40" + b"\xaa" * 64)
        raw.settimeout(10)
        with pytest.raises(OSError):
            while raw.recv(4096):
                pass
            raise OSError("closed")
        raw.close()
    expect_log(server, "the client's TLS: ")


# ---- Odd handshakes of another implementation ----

@pytest.mark.parametrize("priority,reason", [
    ("NORMAL:-VERS-ALL:+VERS-TLS1.0", "TLS handshake: "),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.1", "TLS handshake: "),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA", "TLS handshake: "),  # would need the key for a decryption
    ("NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+DHE-RSA", "TLS handshake: "),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-SIGN-ALL:+SIGN-ECDSA-SECP256R1-SHA256", "TLS handshake: "),  # the key is RSA
    ("NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_EXTENSIONS:-KX-ALL:+RSA", "TLS handshake: "),
])
def test_gnutls_cli_is_refused(bystander, pki, priority, reason):
    need("gnutls-cli")
    server = bystander("x509", "server", "client")
    text, status = tls.gnutls_cli(server.port, pki["client"], priority)
    assert status != 0 and "Handshake was completed" not in text, text
    expect_log(server, reason)


@pytest.mark.parametrize("priority,options,commands", [
    ("NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM", [], ""),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-256-CBC:-MAC-ALL:+SHA1:%NO_ETM", [], ""),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305:-GROUP-ALL:+GROUP-SECP384R1", [], ""),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-CCM", ["--alpn=nbd", "--sni-hostname=elsewhere"], ""),
    ("NORMAL:-VERS-ALL:+VERS-TLS1.3", ["--inline-commands"], "^rekey^\n"),  # new keys in the middle of the session
    ("NORMAL:%COMPAT:%NO_TICKETS", ["--recordsize=512"], ""),
])
def test_gnutls_cli_is_let_in(bystander, pki, priority, options, commands):
    need("gnutls-cli")
    server = bystander("x509", "server", "client")
    text, status = tls.gnutls_cli(server.port, pki["client"], priority, *options, commands=commands)
    assert "Handshake was completed" in text and status == 0, text


def test_gnutls_cli_cannot_renegotiate(bystander, pki):
    """TLS 1.2: once is enough."""
    need("gnutls-cli")
    server = bystander("x509", "server", "client")
    text, status = tls.gnutls_cli(server.port, pki["client"], "NORMAL:-VERS-ALL:+VERS-TLS1.2", "--inline-commands",
                                  commands="^renegotiate^\n")
    assert "Handshake was completed" in text and status != 0, text
    expect_log(server, "the client's TLS: ")
