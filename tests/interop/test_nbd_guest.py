# SPDX-License-Identifier: BSD-2-Clause
"""
A Linux guest in QEMU whose disk is an NBD export, in clear and with TLS: the image gets into the export by qemu-img, the
guest boots from it and writes to it, and the image by itself has what the guest wrote.
"""

import pytest

from support import guest, images, tls
from support.images import MIB
from support.process import need, output, run

pytestmark = pytest.mark.qemu

SIZE = 80 * MIB


class Disk:
    """An export "disk" and how QEMU's programs reach it."""

    def __init__(self, server, kind, tmp, pki):
        self.objects = []  # words of a command line
        if kind == "clear":
            server.nbd_start()
            self.where = f"server.type=unix,server.path={server.nbd_path}"
            return
        port = tls.free_port()
        server.qmp.cmd("object-add", {"qom-type": f"tls-creds-{kind}", "id": "creds", "endpoint": "server",
                                      "dir": str(pki["server" if kind == "x509" else "psk"])})
        server.nbd_start({"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}, **{"tls-creds": "creds"})
        user = {"username": "alice"} if kind == "psk" else {}
        self.objects = tls.qemu_creds(kind, pki["client" if kind == "x509" else "psk"], **user)
        self.where = f"server.type=inet,server.host=localhost,server.port={port},tls-creds=tls"

    def options(self):
        return f"driver=nbd,export=disk,{self.where}"

    def devices(self):
        objects = [word.replace("--object", "-object") for word in self.objects]
        return [*objects, "-blockdev", f"node-name=d,discard=unmap,{self.options()}", "-device",
                "virtio-blk-pci,drive=d,bootindex=1"]

    def take(self, source):
        run("qemu-img", "convert", "-n", *self.objects, "-f", "raw", "--target-image-opts", source, self.options())

    def give(self, path):
        run("qemu-img", "convert", *self.objects, "--image-opts", "-O", "raw", self.options(), path)

    def compare(self, path):
        text = output("qemu-img", "compare", *self.objects, "--image-opts", self.options(), f"driver=raw,file.filename={path}")
        assert "identical" in text


@pytest.fixture(params=["clear", "x509", "psk"])
def disk(server, image, tmp, pki, request):
    need("qemu-img", "qemu-io")
    server.add_file("disk", image("disk.img", size=SIZE), discard="unmap")
    result = Disk(server, request.param, tmp, pki)
    server.export("disk")
    return result


@pytest.mark.guest
@pytest.mark.parametrize("disk", ["clear", "x509"], indirect=True)
def test_a_guest_boots_from_it_and_writes(server, disk, shm, tmp):
    source = images.make(tmp / "source.img", SIZE)
    guest.boot_disk(source, tmp, guest.WRITE_A_FILE + """
check mount -o remount,rw /
check dd if=/dev/zero of=/junk bs=64k count=64
sync
rm /junk
check fstrim /
check mount -o remount,ro /
""", run)
    disk.take(source)
    disk.compare(source)
    said = guest.Guest(tmp, None, disk.devices()).finish()
    disk.give(tmp / "copy.img")
    run("cmp", tmp / "copy.img", shm / "disk.img")
    server.qmp.cmd("block-export-del", {"id": "exp-disk"})
    guest.check_file(shm / "disk.img", tmp, said)


def test_qemu_img_converts_into_it_and_back(server, disk, shm, tmp):
    """Data, zeros and holes; the image by itself is the same, and so is what comes back."""
    source = images.make(tmp / "source.img", SIZE, data=[(at, images.pattern(3 * MIB + 512, at)) for at in range(0, SIZE, 16 * MIB)])
    with open(source, "r+b") as file:
        file.seek(5 * MIB)
        file.write(bytes(2 * MIB))
    disk.take(source)
    disk.compare(source)
    run("cmp", source, shm / "disk.img")
    disk.give(tmp / "copy.img")
    run("cmp", source, tmp / "copy.img")


def test_qemu_io_verifies_what_it_wrote(server, disk, shm):
    """Writes, zeros, discards and flushes, each read back, then looked at in the image."""
    commands = ["write -P 0x11 0 1M", "write -P 0x22 4097 65537", "write -f -P 0x33 8M 512", "write -z 16M 1M", "write -z -u 20M 1M",
                "write -P 0x44 33554432 33554432", "discard 40M 4M", "flush", "aio_write -P 0x55 70M 3M",
                "aio_write -P 0x66 73M 3M", "aio_flush", "read -P 0x11 0 4097", "read -P 0x22 4097 65537", "read -P 0x11 69634 900k",
                "read -P 0x33 8M 512", "read -P 0 16M 1M", "read -P 0 20M 1M", "read -P 0x44 32M 8M", "read -P 0 40M 4M",
                "read -P 0x44 44M 20M", "read -P 0x55 70M 3M", "read -P 0x66 73M 3M"]
    text = output("qemu-io", *disk.objects, "-d", "unmap", *[word for command in commands for word in ("-c", command)], "--image-opts",
                  disk.options())
    assert "verification failed" not in text and "failed" not in text
    content = images.read(shm / "disk.img")
    assert content[4097:4097 + 65537] == b"\x22" * 65537 and content[:4097] == b"\x11" * 4097
    assert content[8 * MIB:8 * MIB + 512] == b"\x33" * 512
    assert content[40 * MIB:44 * MIB] == bytes(4 * MIB) and content[63 * MIB:64 * MIB] == b"\x44" * MIB
    assert content[70 * MIB:76 * MIB] == b"\x55" * (3 * MIB) + b"\x66" * (3 * MIB)
