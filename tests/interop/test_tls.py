# SPDX-License-Identifier: BSD-2-Clause
"""
TLS with clients that nobody here wrote: certificates, shared keys, anonymous; and what goes through the relay. The
contract is that of qemu-storage-daemon, with the same credentials.
"""

import os
import signal
import ssl
import time

import pytest

from support import images, nbdraw, process, tls
from support.images import MIB
from support.nbdraw import Closed
from support.process import need, output, run, wait_for
from support.reconnecting import Reconnecting

RELAY = "nbd-negotiator-tls"


@pytest.fixture
def x509(tls_server, pki):
    tls_server.creds("x509", pki["server"])
    return tls_server.serve()


@pytest.fixture
def psk(tls_server, pki):
    tls_server.creds("psk", pki["psk"])
    return tls_server.serve()


# ---- Clients ----

@pytest.mark.qemu
@pytest.mark.contract
def test_qemu_img_with_certificates(x509, pki):
    need("qemu-img")
    creds = tls.qemu_creds("x509", pki["client"])
    assert "virtual size: 8 MiB" in output("qemu-img", "info", *creds, "--image-opts",
                                           tls.image_opts(x509.port, "disk"))
    text = output("qemu-img", "compare", *creds, "--image-opts", tls.image_opts(x509.port, "disk"),
                  f"driver=raw,file.driver=file,file.locking=off,file.filename={x509.image}")
    assert text.strip() == "Images are identical."


@pytest.mark.qemu
@pytest.mark.contract
@pytest.mark.parametrize("kind", ["x509", "psk"])
def test_qemu_io(request, pki, kind):
    need("qemu-io")
    server = request.getfixturevalue(kind)
    creds = tls.qemu_creds("x509", pki["client"]) if kind == "x509" else \
        tls.qemu_creds("psk", pki["psk"], username="alice")
    text = output("qemu-io", *creds, "--image-opts", tls.image_opts(server.port, "disk"), "-c", "write -P 0x5a 1M 2M",
                  "-c", "read -P 0x5a 1M 2M", "-c", "flush")
    assert "failed" not in text
    assert server.content()[1 * MIB:3 * MIB] == b"\x5a" * (2 * MIB)


@pytest.mark.qemu
@pytest.mark.contract
def test_qemu_img_without_knowing_who(tls_server, pki, tmp):
    need("qemu-img")
    tls_server.qmp.cmd("object-add", {"qom-type": "tls-creds-anon", "id": "creds", "endpoint": "server",
                                      "dir": str(pki["nobody"])})
    tls_server.serve()
    creds = tls.qemu_creds("anon", pki["nobody"])
    assert "virtual size: 8 MiB" in output("qemu-img", "info", *creds, "--image-opts",
                                           tls.image_opts(tls_server.port, "disk"))


@pytest.mark.contract
@pytest.mark.parametrize("kind,connections", [("x509", 1), ("x509", 4), ("x509", 8), ("psk", 1), ("psk", 8)])
def test_nbdcopy_both_ways(request, pki, tmp, kind, connections):
    need("nbdcopy")
    server = request.getfixturevalue(kind)
    source = images.make(tmp / "source.img", server.SIZE, seed=connections)
    uri = tls.uri_x509(server.port, "disk", pki["client"]) if kind == "x509" else \
        tls.uri_psk(server.port, "disk", pki["psk"])
    run("nbdcopy", f"--connections={connections}", source, uri)
    assert server.content() == source.read_bytes()
    run("nbdcopy", f"--connections={connections}", uri, tmp / "out.img")
    assert (tmp / "out.img").read_bytes() == source.read_bytes()


@pytest.mark.contract
def test_nbdinfo_lists_with_a_shared_key(psk, pki):
    need("nbdinfo")
    text = output("nbdinfo", "--list", tls.uri_psk(psk.port, "", pki["psk"], user="bob"))
    assert 'export="disk"' in text
    assert "with TLS" in text


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=[pytest.mark.contract, *([] if kind == "rsa" else [
        pytest.mark.own("qemu-storage-daemon 10.0 wants key encipherment, which is for RSA keys only")])]) for kind in tls.KEYS])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_kind_of_key_with_both_versions(tls_server, pki, kind, version):
    tls_server.creds("x509", pki[f"server-{kind}"])
    tls_server.serve()
    with tls.TlsRaw.opened(tls_server.port, pki[f"client-{kind}"], "disk", maximum=version) as client:
        assert client.sock.version() == version.name.replace("v1_", "v1.")
        assert client.read(0, 65536) == tls_server.content()[:65536]


def test_a_server_that_does_not_ask_lets_everybody_in(tls_server, pki):
    tls_server.creds("x509", pki["server"], **{"verify-peer": False})
    tls_server.serve()
    with tls.TlsRaw.opened(tls_server.port, pki["nobody"], "disk") as client:
        assert client.size == tls_server.SIZE


def test_a_unix_socket_can_have_tls_too(tls_server, pki):
    need("nbdinfo")
    tls_server.creds("psk", pki["psk"])
    tls_server.server.nbd_start(**{"tls-creds": "creds"})
    tls_server.server.export("disk")
    uri = f"nbds+unix://alice@/disk?socket={tls_server.server.nbd_path}&tls-psk-file={pki['psk']}/keys.psk"
    assert output("nbdinfo", "--size", uri).strip() == str(tls_server.SIZE)


def test_old_versions_are_not_spoken(x509, pki):
    need("gnutls-cli")
    client = tls.TlsRaw.connect(x509.port)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.starttls(pki["client"], maximum=ssl.TLSVersion.TLSv1_1)


# ---- The relay ----

def test_a_client_that_does_not_read_does_not_stop_what_it_sends(x509, pki):
    """Reads are asked for until the server has to stop, then read: all of them come, and in the meantime nobody else waits."""
    content = x509.content()
    with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as slow:
        for i in range(200):
            slow.request(0, 0, 262144)
        with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as other:
            assert other.read(4096, 4096) == content[4096:8192]
        for i in range(200):
            error, _, data = slow.simple_reply(262144)
            assert error == 0 and data == content[:262144]
        assert slow.write(0, b"x" * 4096) == 0


def test_goodbye_ends_both_sides(x509, pki):
    server = x509.server
    client = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    relay = wait_for(lambda: next((w for w in server.workers(role=RELAY) if w["clients"] == 1), None), "the relay")
    client.disconnect()
    wait_for(lambda: not process.alive(relay["pid"]), "the end of the relay")
    wait_for(lambda: server.export_worker("exp-disk")["clients"] == 0, "the export to let go")


def test_a_client_that_vanishes_gives_its_place_back(tls_server, pki):
    tls_server.creds("x509", pki["server"])
    tls_server.serve(**{"max-connections": 1})
    for _ in range(5):
        client = tls.TlsRaw.opened(tls_server.port, pki["client"], "disk")
        client.sock.close()


def test_a_relay_that_is_killed_takes_its_client_only(x509, pki):
    server = x509.server
    server.deaths_expected = True
    first = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    relay = wait_for(lambda: next((w for w in server.workers(role=RELAY) if w["clients"] == 1), None), "the relay")
    with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as second:
        os.kill(relay["pid"], signal.SIGKILL)
        with pytest.raises((Closed, OSError)):
            first.read(0, 512)
        assert second.read(0, 512) == x509.content()[:512]
        wait_for(lambda: server.export_worker("exp-disk")["clients"] == 1, "the export to let go of the first")
    assert server.exports()


def test_an_export_that_dies_ends_its_relays(x509, pki):
    server = x509.server
    server.deaths_expected = True
    client = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    os.kill(server.export_worker("exp-disk")["pid"], signal.SIGKILL)
    with pytest.raises((Closed, OSError)):
        client.read(0, 512)
    wait_for(lambda: all(w["clients"] == 0 for w in server.workers(role=RELAY)), "the relays to end")


def test_stopping_the_server_ends_relays(x509, pki):
    client = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    x509.qmp.cmd("nbd-server-stop")
    with pytest.raises((Closed, OSError)):
        client.read(0, 512)
    wait_for(lambda: not x509.server.workers(role=RELAY), "the relays to end")


def test_many_clients_some_of_them_silent(tls_server, pki):
    """Half stay silent in the middle of TLS, the others are served; then all vanish. Nothing is left, and QMP never waited."""
    server = tls_server.server
    tls_server.creds("x509", pki["server-ecdsa"])
    tls_server.serve(**{"max-connections": 0})
    content = tls_server.content()[:4096]
    silent, served, slowest = [], [], 0
    for _ in range(40):
        client = tls.TlsRaw.connect(tls_server.port)
        assert client.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
        silent.append(client)
        served.append(tls.TlsRaw.opened(tls_server.port, pki["client"], "disk"))
        start = time.monotonic()
        server.qmp.cmd("query-version")
        slowest = max(slowest, time.monotonic() - start)
    assert all(client.read(0, 4096) == content for client in served)
    assert server.export_worker("exp-disk")["clients"] == 40
    for client in silent + served:
        client.sock.close()
    wait_for(lambda: server.export_worker("exp-disk")["clients"] == 0, "the export to let go")
    wait_for(lambda: not [w for w in server.workers(role=RELAY) if w["clients"]], "the negotiators to end")
    assert server.workers(role="tls-signer")[0]["descriptors"]["clients"] == 0
    assert slowest < 1, slowest  # far below on a host that is not busy


# ---- Credentials that change ----

def test_credentials_are_replaced_while_a_client_stays(x509, pki):
    old = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    x509.qmp.cmd("object-del", {"id": "creds"})
    with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as between:  # as in QEMU the server keeps what it has
        before = between.sock.getpeercert(binary_form=True)
    x509.creds("x509", pki["server-ed25519"])
    with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as new:
        assert new.sock.getpeercert(binary_form=True) != before
        assert old.read(0, 4096) == new.read(0, 4096)
    wait_for(lambda: len(x509.server.workers(role="tls-signer")) == 1, "the old signer to end")
    assert "were replaced" in x509.log()


def test_a_signer_that_dies_is_replaced(x509, pki):
    server = x509.server
    server.deaths_expected = True
    old = tls.TlsRaw.opened(x509.port, pki["client"], "disk")
    signer = server.workers(role="tls-signer")[0]
    os.kill(signer["pid"], signal.SIGKILL)
    wait_for(lambda: any(w["pid"] != signer["pid"] and w["state"] == "running"
                         for w in server.workers(role="tls-signer")), "another signer")

    def let_in():
        try:
            with tls.TlsRaw.opened(x509.port, pki["client"], "disk") as client:
                return client.size
        except (OSError, Closed):
            return None
    wait_for(let_in, "a client to get in")
    assert old.read(0, 512) == x509.content()[:512]


# ---- Beside qemu-storage-daemon ----

@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["x509", "psk"])
def test_clients_see_what_qsd_shows(build, tmp, new_server, image, pki, kind):
    """The same image and credentials; what nbdinfo says may differ only in what bulkhead offers besides."""
    need("nbdinfo", "qemu-storage-daemon", "qemu-img")
    path = image("disk.img", size=MIB)
    creds = {"qom-type": f"tls-creds-{kind}", "id": "creds", "endpoint": "server",
             "dir": str(pki["server" if kind == "x509" else "psk"])}
    ours = new_server().start("--object", creds)
    port = tls.free_port()
    ours.add_file("disk", path, **{"read-only": True})
    ours.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}, **{"tls-creds": "creds"})
    ours.export("disk", writable=False)
    theirs_port = tls.free_port()
    theirs = process.popen(["qemu-storage-daemon", "--object", f"tls-creds-{kind},id=creds,endpoint=server,dir={creds['dir']}",
                            "--blockdev", f"file,node-name=disk,filename={path},read-only=on,locking=off", "--nbd-server",
                            f"addr.type=inet,addr.host=127.0.0.1,addr.port={theirs_port},tls-creds=creds", "--export",
                            "nbd,id=e,node-name=disk"])
    try:
        for folder, user in (("client", None), ("nobody", None)) if kind == "x509" else (("psk", "alice"), ("psk-wrong", "alice"), ("psk-unknown", "mallory")):
            results = []
            for where in (port, theirs_port):
                extra = {"username": user} if user else {}
                argv = ["qemu-img", "map", *tls.qemu_creds(kind, pki[folder], **extra), "--output=json",
                        "--image-opts", tls.image_opts(where, "disk")]
                result = run(*argv, status=None)
                if result.returncode != 0 and "Connection refused" in result.stderr_text:
                    wait_for(lambda: "refused" not in run(*argv, status=None).stderr_text, "QSD to listen")
                    result = run(*argv, status=None)
                results.append((result.returncode, result.stdout_text))
            assert results[0] == results[1], folder
    finally:
        theirs.terminate()
        theirs.wait()


def test_clients_leave_descriptors_for_everything_else(tls_server_with_few_descriptors, image, pki):
    """With TLS each has a process, and the monitor descriptors for it. Here it has 128 in all."""
    tls_server = tls_server_with_few_descriptors
    server = tls_server.server
    tls_server.creds("x509", pki["server-ecdsa"])
    tls_server.serve()
    clients, kept_out = [], 0
    while kept_out < 3 and len(clients) < 60:
        try:
            client = tls.TlsRaw.connect(tls_server.port)
            client.sock.settimeout(3)
            clients.append(client)
            client.starttls(pki["client"]).go("disk")
            assert len(client.read(0, 7)) == 7
        except (Closed, OSError):
            kept_out += 1
    assert kept_out == 3 and len(clients) > 10
    with server.connect() as qmp:
        assert qmp.cmd("query-version")
    server.add_file("more", image("more.img", size=MIB))
    server.export("more")
    for client in clients:
        client.sock.close()
    wait_for(lambda: server.export_worker("exp-disk")["clients"] == 0, "the export to let go")
    with tls.TlsRaw.opened(tls_server.port, pki["client"], "more") as client:
        assert len(client.read(0, 7)) == 7


def served_with_tls(port, folder, content):
    """How long it took; None: it was kept out."""
    start = time.monotonic()
    try:
        with tls.TlsRaw.connect(port) as client:
            client.sock.settimeout(5)
            client.starttls(folder).go("disk")
            assert client.read(0, 7) == content
    except (Closed, OSError):
        return None
    return time.monotonic() - start


@pytest.mark.parametrize("kind, enough", [("flags", 19), ("tls", 19), ("tls-churn", 17)])
def test_a_crowd_that_reconnects_keeps_nobody_out(tls_server, pki, kind, enough):
    """A hundred that want TLS and go no further, or say less; tests/crash/test_crowds.py has those without TLS."""
    tls_server.creds("x509", pki["server-ecdsa"])
    tls_server.serve(**{"handshake-max-seconds": 2})
    with Reconnecting(process.popen, tls_server.port, 100, kind):
        time.sleep(1)
        waits = [served_with_tls(tls_server.port, pki["client"], tls_server.content()[:7]) for _ in range(20)]
    print("honest clients were served after", *("-" if wait is None else f"{wait:.2f}" for wait in waits), "s")
    assert sum(wait is not None and wait < 2 for wait in waits) >= enough
