# SPDX-License-Identifier: BSD-2-Clause
"""
Certificates and keys for tests, made by certtool and psktool; and a bare NBD client that begins TLS by itself.
"""

import hashlib
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading

from . import nbdraw
from .nbdraw import NbdRaw
from .process import popen, run, wait_for

PASSWORD = "open sesame"
PSK_USERS = {user: hashlib.sha256(user.encode()).hexdigest() for user in ("alice", "bob")}

CA = "cn = Test CA\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 30\n"
LEAF = "organization = bulkhead tests\nsigning_key\nencryption_key\n"
SERVER = LEAF + "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nexpiration_days = 30\n"
CLIENT = LEAF + "cn = {cn}\ntls_www_client\nexpiration_days = 30\n"
EXPIRED = 'activation_date = "2020-01-01 00:00:00"\nexpiration_date = "2020-02-01 00:00:00"\n'
FUTURE = 'activation_date = "2090-01-01 00:00:00"\nexpiration_date = "2090-02-01 00:00:00"\n'

# QEMU 10.0 refuses a certificate of its own that does not allow key encipherment, and certtool gives that to RSA keys only.
KEYS = {"rsa": ["--key-type=rsa", "--bits=2048"], "ecdsa": ["--key-type=ecdsa", "--curve=secp256r1"],
        "ed25519": ["--key-type=ed25519"]}


class Pki:
    """
    Folders as tls-creds objects want them: `server` (and one for each kind of key), `psk`, and one for each client:
    `client` (and one for each kind of key), `other-ca`, `expired`, `wrong-purpose`, `revoked`, `nobody` (no certificate).
    """

    def __init__(self, top):
        self.top = pathlib.Path(top)
        self.ca = self._authority("ca")
        self.other_ca = self._authority("other")
        for kind, key in KEYS.items():
            self._folder(f"server-{kind}", "server", SERVER, key)
            self._folder(f"client-{kind}", "client", CLIENT.format(cn="client"), key)
        for role in ("server", "client"):
            shutil.copytree(self.top / f"{role}-rsa", self.top / role)
        self._folder("other-ca", "client", CLIENT.format(cn="client"), ca=self.other_ca)
        self._folder("expired", "client", (LEAF + "cn = late\ntls_www_client\n") + EXPIRED)
        self._folder("wrong-purpose", "client", CLIENT.format(cn="server").replace("tls_www_client", "tls_www_server"))
        self._folder("revoked", "client", CLIENT.format(cn="gone"))
        self._folder("nobody", None, None)
        self._revoke()
        self._psk()
        for path in [self.top, *self.top.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def __getitem__(self, name):
        return self.top / name

    def _certtool(self, *args):
        run("certtool", *args)

    def _key(self, path, kind=("--key-type=ecdsa", "--curve=secp256r1")):
        self._certtool("--generate-privkey", *kind, "--outfile", path)

    def _authority(self, name):
        folder = self.top / f"authority-{name}"
        folder.mkdir()
        (folder / "info").write_text(CA)
        self._key(folder / "key.pem")
        self._certtool("--generate-self-signed", "--load-privkey", folder / "key.pem", "--template", folder / "info",
                       "--outfile", folder / "cert.pem")
        return folder

    def sign(self, folder, role, info, ca=None):
        """A certificate for ROLE-key.pem in a folder."""
        ca = ca or self.ca
        (folder / "info").write_text(info)
        self._certtool("--generate-certificate", "--load-ca-certificate", ca / "cert.pem", "--load-ca-privkey",
                       ca / "key.pem", "--load-privkey", folder / f"{role}-key.pem", "--template", folder / "info",
                       "--outfile", folder / f"{role}-cert.pem")

    def _folder(self, name, role, info, key=KEYS["ecdsa"], ca=None):
        folder = self.top / name
        folder.mkdir()
        shutil.copy(self.ca / "cert.pem", folder / "ca-cert.pem")
        if role is not None:
            self._key(folder / f"{role}-key.pem", key)
            self.sign(folder, role, info, ca)

    def copy(self, name, to):
        """A folder of one's own to spoil."""
        shutil.copytree(self.top / name, to)
        for path in [to, *to.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return to

    def _revoke(self):
        info = self.top / "crl.info"
        info.write_text("crl_next_update = 30\ncrl_number = 1\n")
        shutil.copytree(self.top / "server", self.top / "server-crl")
        self._certtool("--generate-crl", "--load-ca-certificate", self.ca / "cert.pem", "--load-ca-privkey",
                       self.ca / "key.pem", "--load-certificate", self.top / "revoked" / "client-cert.pem",
                       "--template", info, "--outfile", self.top / "server-crl" / "ca-crl.pem")

    def _psk(self):
        (self.top / "psk").mkdir()
        lines = [f"{user}:{key}\n" for user, key in PSK_USERS.items()]
        (self.top / "psk" / "keys.psk").write_text("".join(lines))
        for name, line in {"psk-wrong": "alice:" + "33" * 32, "psk-unknown": "mallory:" + "11" * 32}.items():
            (self.top / name).mkdir()
            (self.top / name / "keys.psk").write_text(line + "\n")


# ---- Clients ----

def context(folder, maximum=ssl.TLSVersion.TLSv1_3):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.maximum_version = maximum
    ctx.load_verify_locations(folder / "ca-cert.pem")
    if (folder / "client-cert.pem").exists():
        ctx.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    return ctx


class TlsRaw(NbdRaw):
    """Begins in clear; starttls() makes what follows go through TLS."""

    @classmethod
    def connect(cls, port):
        client = cls(socket.create_connection(("127.0.0.1", port), nbdraw.TIMEOUT))
        client.hello()
        return client

    def starttls(self, folder, **kwargs):
        assert self.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
        self.sock = context(folder, **kwargs).wrap_socket(self.sock, server_hostname="localhost")
        return self

    @classmethod
    def opened(cls, port, folder, name, **kwargs):
        client = cls.connect(port).starttls(folder, **kwargs)
        client.go(name)
        return client


class Bystander:
    """
    A client that writes and reads back, one after the other, until finish() says so: whatever others do meanwhile, all of
    it has to come back right. By certificate a thread of the test; with a shared key, which Python's ssl does not have, an
    nbdsh of its own.
    """

    OFFSET = 4 << 20
    SCRIPT = """
import sys, select
h.set_uri_allow_local_file(True)
h.connect_uri("{uri}")
count = 0
print("ready", flush=True)
while count == 0 or not select.select([sys.stdin], [], [], 0)[0]:
    count += 1
    data = bytes([count % 251]) * 4096
    h.pwrite(data, {offset})
    assert h.pread(4096, {offset}) == data
h.shutdown()
print(count)
"""

    def __init__(self):
        self.count = 0
        self.error = None
        self.over = threading.Event()
        self.client = self.thread = self.process = None

    @classmethod
    def by_certificate(cls, port, folder, name):
        self = cls()
        self.client = TlsRaw.opened(port, folder, name)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        wait_for(lambda: self.count or self.error, "the bystander to be served")
        return self

    @classmethod
    def by_key(cls, port, folder, name, user="bob"):
        self = cls()
        script = cls.SCRIPT.format(offset=cls.OFFSET, uri=uri_psk(port, name, folder, user))
        self.process = popen(["nbdsh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def _run(self):
        try:
            while not self.over.wait(0.001):
                self._step()
            self._step()
            self.client.disconnect()
        except Exception as error:  # told by finish()
            self.error = error

    def _step(self):
        data = bytes([self.count % 251]) * 4096
        assert self.client.write(self.OFFSET, data) == 0
        assert self.client.read(self.OFFSET, 4096) == data
        self.count += 1

    def finish(self):
        """It was served all along, and once more after all that happened."""
        if self.process is not None:
            out, _ = self.process.communicate("\n", timeout=nbdraw.TIMEOUT)
            assert self.process.returncode == 0, "the bystander was disturbed"
            self.count = int(out)
        else:
            self.over.set()
            self.thread.join(nbdraw.TIMEOUT)
            assert not self.thread.is_alive(), "the bystander waits for an answer"
            assert self.error is None, f"the bystander was disturbed: {self.error!r}"
        assert self.count > 0


def qemu_creds(kind, folder, **members):
    """--object of a client, for qemu-img and qemu-io."""
    text = "".join(f",{key}={value}" for key, value in members.items())
    return ["--object", f"tls-creds-{kind},id=tls,endpoint=client,dir={folder}{text}"]


def image_opts(port, name):
    return f"driver=nbd,host=localhost,port={port},export={name},tls-creds=tls"


def uri_x509(port, name, folder):
    return f"nbds://localhost:{port}/{name}?tls-certificates={folder}"


def uri_psk(port, name, folder, user="alice"):
    return f"nbds://{user}@localhost:{port}/{name}?tls-psk-file={folder}/keys.psk"


def gnutls_cli(port, folder, priority, *options, commands=""):
    """
    gnutls-cli behind a helper that has the part in clear with the server: NBD's STARTTLS is none that it knows. Its words
    and its exit status.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_after_starttls, args=(listener, port))
        thread.start()
        process = run("gnutls-cli", f"--port={listener.getsockname()[1]}", f"--x509cafile={folder}/ca-cert.pem",
                      f"--x509certfile={folder}/client-cert.pem", f"--x509keyfile={folder}/client-key.pem",
                      f"--priority={priority}", *options, "localhost", stdin=commands, status=None)
        thread.join(nbdraw.TIMEOUT)
    return process.stdout_text + process.stderr_text, process.returncode


def _after_starttls(listener, port):
    """Take one connection, and pass on what goes either way once the server has agreed to STARTTLS."""
    listener.settimeout(nbdraw.TIMEOUT)
    client, _ = listener.accept()
    server = TlsRaw.connect(port)
    assert server.ask(nbdraw.OPT_STARTTLS) == [(nbdraw.REP_ACK, b"")]
    back = threading.Thread(target=_pass_on, args=(server.sock, client))
    back.start()
    _pass_on(client, server.sock)
    back.join(nbdraw.TIMEOUT)
    client.close()
    server.sock.close()


def _pass_on(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
