# SPDX-License-Identifier: BSD-2-Clause
"""
Where the keys are: in the signer, and in no process that parses what a client sends. The memory and the descriptors of
every process are read, as root, before, during and after handshakes.
"""

import os
import re
import subprocess

import pytest

from support import nbdraw, sandbox, tls
from support.process import children_of, command, descriptors, need, output, popen, run, wait_for

pytestmark = pytest.mark.control

NEGOTIATOR = "nbd-negotiator-tls"


def key_bytes(folder):
    """What only who has the private key can know, in the forms that it takes in memory: name -> bytes."""
    need("openssl")
    text = output("openssl", "pkey", "-in", folder / "server-key.pem", "-noout", "-text")
    found = {}
    for name in ("prime1", "prime2", "privateExponent", "priv"):
        match = re.search(rf"^{name}:\n((?:    [0-9a-f:]+\n)+)", text, re.MULTILINE)
        if match:
            raw = bytes.fromhex(re.sub(r"[^0-9a-f]", "", match.group(1))).lstrip(b"\0")
            found[name] = raw  # as in the file
            found[name + ", as limbs"] = raw[::-1]  # as GMP has it on this machine
    assert found
    pem = (folder / "server-key.pem").read_bytes().split(b"\n")
    found["a line of the file"] = pem[len(pem) // 2]
    return found


def which(pid, secrets):
    data = b"\0".join(sandbox.memory(pid))
    assert len(data) > 100000
    return {name for name, raw in secrets.items() if raw in data}


@pytest.fixture
def readable_memory(build):
    if sandbox.is_sanitized(build / "bulkhead"):
        pytest.skip("in a build with sanitizers a process has terabytes of shadow memory, too much to read")


@pytest.fixture
def root():
    sandbox.need_root()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_private_key_is_in_the_signer_only(readable_memory, root, tls_server, pki, kind):
    server = tls_server.server
    secrets = key_bytes(pki[f"server-{kind}"])
    tls_server.creds("x509", pki[f"server-{kind}"])
    tls_server.serve()
    established = tls.TlsRaw.opened(tls_server.port, pki["client"], "disk")
    waiting = tls.TlsRaw.connect(tls_server.port)  # in the middle: TLS has begun, and the client is silent
    assert waiting.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
    assert established.read(0, 4096)
    signer = server.workers(role="tls-signer")[0]["pid"]
    found = which(signer, secrets)
    assert any("limbs" in name for name in found), f"the search finds nothing where the key is: {found}"
    busy = [w["pid"] for w in server.workers(role=NEGOTIATOR) if w["clients"] == 1]
    assert len(busy) == 2
    everybody = [server.pid, *children_of(server.pid)]
    assert set(busy) <= set(everybody)
    for pid in everybody:
        if pid != signer:
            assert which(pid, secrets) == set(), command(pid)
    waiting.close()


def test_the_monitor_has_no_descriptor_of_a_file_with_keys(root, tls_server, pki):
    """To close one could take as long as its file system likes."""
    tls_server.creds("x509", pki["server"])
    held = descriptors(tls_server.server.pid).values()
    assert any("memfd" in name for name in held)
    assert not [name for name in held if "key" in name or str(pki["server"]) in name]


def test_descriptors_of_a_tls_negotiator(root, tls_server, pki):
    """During the handshake: the client's socket and one to the signer; after it the signer's is closed."""
    server = tls_server.server
    tls_server.creds("x509", pki["server"])
    tls_server.serve()

    def kinds(pid):
        return sorted(re.sub(r":.*|\d+", "", name) for number, name in descriptors(pid).items() if number > 4)

    idle = kinds(wait_for(lambda: next((w for w in server.workers(role=NEGOTIATOR, state="running")), None), "one")["pid"])
    waiting = tls.TlsRaw.connect(tls_server.port)
    assert waiting.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
    busy = next(w["pid"] for w in server.workers(role=NEGOTIATOR) if w["clients"] == 1)
    assert sorted(kinds(busy)) == sorted(idle + ["socket", "socket"])
    waiting.sock = tls.context(pki["client"]).wrap_socket(waiting.sock, server_hostname="localhost")
    waiting.go("disk")
    assert waiting.read(0, 512)
    assert sorted(kinds(busy)) == sorted(idle + ["socket", "socket"])  # the client, and the export's worker
    for pid in (w["pid"] for w in server.workers(role=NEGOTIATOR)):
        assert not [name for name in descriptors(pid).values() if "key" in name or str(tls_server.image) in name]
    waiting.close()


def test_an_export_worker_has_no_tls_code(root, tls_server, pki):
    tls_server.creds("x509", pki["server"])
    tls_server.serve()
    worker = tls_server.server.export_worker("exp-disk")["pid"]
    signer = tls_server.server.workers(role="tls-signer")[0]["pid"]
    for pid, there in ((worker, False), (tls_server.server.pid, False), (signer, True)):
        with open(f"/proc/{pid}/maps") as maps:
            assert ("libgnutls" in maps.read()) == there, command(pid)


@pytest.mark.qemu
def test_a_shared_key_of_another_user_is_not_in_a_negotiator(readable_memory, root, tls_server, pki):
    need("qemu-io")
    server = tls_server.server
    tls_server.creds("psk", pki["psk"])
    tls_server.serve()
    secrets = {user: bytes.fromhex(key) for user, key in tls.PSK_USERS.items()}
    secrets |= {user + " in hex": key.encode() for user, key in tls.PSK_USERS.items()}
    client = popen(["qemu-io", *tls.qemu_creds("psk", pki["psk"], username="alice"), "--image-opts",
                    tls.image_opts(tls_server.port, "disk")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        busy = wait_for(lambda: next((w for w in server.workers(role=NEGOTIATOR) if w["clients"] == 1), None), "the relay")
        wait_for(lambda: server.export_worker("exp-disk")["clients"] == 1, "the client to be served")
        signer = server.workers(role="tls-signer")[0]["pid"]
        assert {"alice", "bob"} <= which(signer, secrets)
        assert not {"bob", "bob in hex"} & which(busy["pid"], secrets)
        for pid in [server.pid, *children_of(server.pid)]:
            if pid not in (signer, busy["pid"]):
                assert which(pid, secrets) == set(), command(pid)
    finally:
        client.communicate(b"quit\n", timeout=30)


def test_layers_of_signer_and_negotiator(root, tls_server, pki):
    tls_server.creds("x509", pki["server"])
    tls_server.serve()
    for role in ("tls-signer", NEGOTIATOR):
        worker = wait_for(lambda r=role: next(iter(tls_server.server.workers(role=r, state="running")), None), role)
        assert sandbox.REQUIRED_LAYERS <= set(worker["sandbox"])
        status = sandbox.status(worker["pid"])
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        if "empty-root" in worker["sandbox"]:
            assert os.listdir(f"/proc/{worker['pid']}/root") == []
