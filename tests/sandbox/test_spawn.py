# SPDX-License-Identifier: BSD-2-Clause
"""A worker before its exec has a copy of the monitor's memory: nobody of the same account may read it meanwhile."""

import pathlib
import signal
import sys

import pytest

from support import images, process, sandbox
from support.nbdraw import NbdRaw
from support.server import ACCOUNT

# Looks at each new child of a process as soon as it is there, until it is told to end; prints what it could read.
WATCHER = r"""
import os, signal, sys
monitor, binary = sys.argv[1], sys.argv[2]
ended = []
signal.signal(signal.SIGTERM, lambda *unused: ended.append(1))
children = os.open(f"/proc/{monitor}/task/{monitor}/children", os.O_RDONLY)
seen, readable, looks = set(os.pread(children, 65536, 0).split()), set(), 0
print("watching", flush=True)
while not ended:
    for pid in os.pread(children, 65536, 0).split():
        pid = pid.decode()
        if pid in seen:
            continue
        looks += 1
        try:
            with open(f"/proc/{pid}/maps") as maps:
                if binary + "\n" in maps.read():
                    readable.add(pid)
        except OSError as error:
            if error.errno != 13:  # permission
                seen.add(pid)
        if len(seen) > 100000:
            break
print(looks, len(readable), flush=True)
"""


def as_account(*argv, **kwargs):
    return process.popen(["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", *argv], **kwargs)


def test_no_process_of_the_account_can_read_the_monitors_memory_in_a_child(server, image):
    sandbox.need_root()
    if not pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").exists():
        pytest.skip("this kernel does not list children (CONFIG_PROC_CHILDREN)")
    server.nbd_start()
    server.add_file("disk", image(size=images.MIB))
    binary = str((server.build / "bulkhead").resolve())
    watcher = as_account(sys.executable, "-c", WATCHER, server.pid, binary, stdout=-1, text=True)
    assert watcher.stdout.readline() == "watching\n"
    for i in range(60):
        server.export("disk", id=f"e{i}", name=f"e{i}", writable=False)
        with NbdRaw.unix(server.nbd_path) as client:
            client.hello()
    watcher.send_signal(signal.SIGTERM)
    looks, readable = map(int, watcher.communicate(timeout=20)[0].split())
    assert looks > 60, "the watcher saw nothing"
    assert readable == 0, f"the memory of the monitor could be read in {readable} children"
