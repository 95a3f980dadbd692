# SPDX-License-Identifier: BSD-2-Clause
"""Opening images: what may be opened how, and what the error says when it may not."""

import os

import pytest

from support import images
from support.images import MIB
from support.process import need, run


@pytest.fixture
def read_only_loop(tmp):
    """A loop device that is set read-only, though its node's mode allows the service account to write."""
    if os.getuid() != 0:
        pytest.skip("a loop device needs root")
    need("losetup")
    path = images.make(tmp / "loop.img", 4 * MIB)
    made = run("losetup", "--find", "--show", "--read-only", path, status=None)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr_text.strip()}")
    device = made.stdout_text.strip()
    images.give_to_account(device)
    yield device
    run("losetup", "--detach", device)
    os.chown(device, 0, 0)


# ---- Block devices that are set read-only ----

@pytest.mark.contract
def test_a_read_only_device_is_not_opened_for_writing(server, read_only_loop):
    error = server.qmp.error("blockdev-add", server.file_node("disk", read_only_loop, "host_device"))
    if server.kind == "bulkhead":
        assert "is set read-only" in error.desc
    assert "disk" not in server.nodes()


def test_a_read_only_device_becomes_a_read_only_node_where_that_is_allowed(nbd, read_only_loop):
    nbd.add_file("disk", read_only_loop, "host_device", **{"auto-read-only": True})
    assert nbd.nodes()["disk"]["ro"]
    assert "read-only" in nbd.qmp.error("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk",
                                                             "writable": True}).desc
    nbd.export("disk", writable=False)
