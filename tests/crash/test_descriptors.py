# SPDX-License-Identifier: BSD-2-Clause
"""
Descriptors run out at every point of an export's start: one after the other of them is the one that is missing. The
command fails with a reason or succeeds; nothing is leaked, and nothing else is harmed.
"""

import os
import pathlib
import signal

import pytest

from support import process, sandbox
from support.images import MIB
from support.process import wait_for
from support.qmp import QmpError
from support.server import ACCOUNT

ROLES = ["nbd-export", "vhost", "fuse"]
STEPS = 24  # more than any export needs at a time


def limit_descriptors(server, count):
    """As the monitor's account, which may do that where a root without CAP_SYS_RESOURCE may not."""
    process.output("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "prlimit",
                   f"--pid={server.popen.pid}", f"--nofile={count}:")


@pytest.mark.parametrize("role", ROLES)
def test_descriptors_run_out_while_an_export_starts(nbd, image, role):
    sandbox.need_root()
    nbd.deaths_expected = True
    old = sandbox.limits(nbd.popen.pid)["Max open files"][0]
    for name in ("disk", "other"):
        nbd.add_file(name, image(f"{name}.img", size=MIB))
    bystander = sandbox.export_of_role(nbd, role, "other", nbd.dir)
    nbd.qmp.cmd("block-export-add", {**bystander, "id": "other"})
    bystander_pid = nbd.export_worker("other")["pid"]
    before = sandbox.kinds_of_descriptors(nbd.popen.pid)
    options = {**sandbox.export_of_role(nbd, role, "disk", nbd.dir), "id": "disk"}
    outcomes = []

    for step in range(STEPS):
        limit_descriptors(nbd, sum(before.values()) + step)
        try:
            nbd.qmp.cmd("block-export-add", options)
            outcomes.append("served")
        except QmpError as error:
            outcomes.append(error.desc)
        limit_descriptors(nbd, old)
        if outcomes[-1] == "served":
            nbd.qmp.cmd("block-export-del", {"id": "disk"})
            nbd.qmp.wait_event("BLOCK_EXPORT_DELETED", id="disk")
        wait_for(lambda: sandbox.kinds_of_descriptors(nbd.popen.pid) == before, f"no leak after: {outcomes[-1]}")
    assert outcomes[0] != "served" and outcomes[-1] == "served", outcomes
    nbd.qmp.cmd("block-export-add", options)
    assert set(nbd.exports()) == {"disk", "other"} and nbd.export_worker("other")["pid"] == bystander_pid


def mounter_of(server):
    return next(pid for pid in process.children_of(server.popen.pid) if "mounter" in process.command(pid))


def is_mounted(path):
    return f" {path} fuse" in pathlib.Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("room", [0, 1, 2, 8])
def test_descriptors_run_out_while_a_mount_is_on_its_way(nbd, image, room):
    """They come from the mounter all at once. It and other mounts outlive that there is no room for (all of) them."""
    sandbox.need_root()
    nbd.deaths_expected = True
    old = sandbox.limits(nbd.popen.pid)["Max open files"][0]
    for name in ("disk", "other"):
        nbd.add_file(name, image(f"{name}.img", size=MIB))
    nbd.qmp.cmd("block-export-add", {**sandbox.export_of_role(nbd, "fuse", "other", nbd.dir), "id": "other"})
    before = sandbox.kinds_of_descriptors(nbd.popen.pid)
    options = {**sandbox.export_of_role(nbd, "fuse", "disk", nbd.dir), "id": "disk"}

    os.kill(mounter_of(nbd), signal.SIGSTOP)
    with nbd.connect() as other:
        other.send({"execute": "block-export-add", "arguments": options})
        wait_for(lambda: nbd.workers(export="disk", state="running"), "the worker to be ready")
        limit_descriptors(nbd, sum(sandbox.kinds_of_descriptors(nbd.popen.pid).values()) + room)
        os.kill(mounter_of(nbd), signal.SIGCONT)
        reply = other.reply()
    limit_descriptors(nbd, old)
    if room < 2 * min(2, os.cpu_count()):  # a pair for each I/O thread
        assert "no descriptors left" in reply["error"]["desc"]
    else:
        assert reply["return"] == {}
        nbd.qmp.cmd("block-export-del", {"id": "disk"})
    wait_for(lambda: sandbox.kinds_of_descriptors(nbd.popen.pid) == before, "the monitor to have given all back")
    assert is_mounted(nbd.dir / "other.fuse")
    nbd.qmp.cmd("block-export-add", options)
    assert is_mounted(nbd.dir / "disk.fuse")
