# SPDX-License-Identifier: BSD-2-Clause
"""Certificates are made once for all tests that need them."""

import os
import pathlib
import shutil
import tempfile

import pytest

from support import images, tls
from support.images import MIB
from support.process import need


@pytest.fixture(scope="session")
def pki():
    need("certtool")
    path = pathlib.Path(tempfile.mkdtemp(prefix="bh-pki-", dir="/tmp"))
    os.chmod(path, 0o755)
    yield tls.Pki(path)
    shutil.rmtree(path, ignore_errors=True)


class TlsServer:
    """A server with TLS on a TCP port, and an export "disk"."""

    SIZE = 8 * MIB

    def __init__(self, server, image):
        self.server = server
        self.qmp = server.qmp
        self.image = image("disk.img", size=self.SIZE)
        self.port = tls.free_port()
        server.add_file("disk", self.image)

    def creds(self, kind, folder, id="creds", **members):
        self.qmp.cmd("object-add", {"qom-type": f"tls-creds-{kind}", "id": id, "endpoint": "server",
                                    "dir": str(folder), **members})

    def serve(self, **members):
        members.setdefault("tls-creds", "creds")
        self.server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(self.port)}}, **members)
        self.server.export("disk")
        return self

    def content(self):
        return images.read(self.image, 0, self.SIZE)

    def log(self):
        return self.server.log_text()


@pytest.fixture
def tls_server(server, image):
    return TlsServer(server, image)


@pytest.fixture
def tls_server_with_few_descriptors(new_server, image):
    server = new_server()
    server.prefix = ["prlimit", "--nofile=128:128"]
    return TlsServer(server.start(), image)
