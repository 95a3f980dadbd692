# SPDX-License-Identifier: BSD-2-Clause
"""Who may connect to unix sockets that are made here: their mode and group."""

import contextlib
import grp
import os
import pwd
import stat

import pytest

from support import process
from support.images import MIB
from support.qmp import Qmp
from support.server import ACCOUNT

pytestmark = pytest.mark.own

GROUP = "bulkhead-test"


@pytest.fixture
def group():
    """A group that the account is a member of, for a while."""
    if os.getuid() != 0:
        pytest.skip("only root may make a group")
    process.need("groupadd", "usermod", "groupdel")
    with contextlib.suppress(KeyError):
        grp.getgrnam(GROUP)
        process.run("groupdel", GROUP)
    process.run("groupadd", "--system", GROUP)
    process.run("usermod", "--append", "--groups", GROUP, ACCOUNT)
    yield grp.getgrnam(GROUP).gr_gid
    process.run("groupdel", GROUP)


def access(path):
    found = os.stat(path)
    return stat.S_IMODE(found.st_mode), found.st_gid


def account_group():
    return pwd.getpwnam(ACCOUNT).pw_gid if os.getuid() == 0 else os.getgid()


def test_modes_and_groups_of_all_kinds_of_sockets(new_server, image, group):
    server = new_server()
    ours = "__org.bulkhead_mode=0660,__org.bulkhead_group=" + GROUP
    theirs = f"addr.__org.bulkhead_mode=660,addr.__org.bulkhead_group={group}"
    server.start("--chardev", f"socket,id=c,path={server.dir}/c,server=on,wait=off,{ours}", "--monitor", "c",
                 "--blockdev", f"file,node-name=disk,filename={image(size=MIB)}",
                 "--nbd-server", f"addr.type=unix,addr.path={server.dir}/n,{theirs}",
                 "--export", f"vhost-user-blk,id=v,node-name=disk,addr.type=unix,addr.path={server.dir}/v,{theirs}",
                 umask=0o077)
    assert {access(server.dir / name) for name in "cnv"} == {(0o660, group)}
    assert access(server.qmp_path) == (0o700, account_group())  # what the umask left
    with contextlib.closing(Qmp.connect(server.dir / "c")):
        pass


def test_over_qmp(server):
    address = {"path": str(server.nbd_path), "__org.bulkhead_mode": "0606"}
    server.qmp.cmd("nbd-server-start", {"addr": {"type": "unix", "data": address}})
    assert access(server.nbd_path)[0] == 0o606


@pytest.mark.parametrize("members,text", [
    ({"__org.bulkhead_mode": "rw"}, "expects an octal mode"), ({"__org.bulkhead_mode": "4777"}, "expects an octal mode"),
    ({"__org.bulkhead_mode": ""}, "expects an octal mode"), ({"__org.bulkhead_group": "no-such-group"}, "no group 'no-such-group'"),
    ({"__org.bulkhead_mode": "0600", "abstract": True}, "neither mode nor group"),
])
def test_what_cannot_be_is_refused(server, members, text):
    address = {"path": str(server.nbd_path), **members}
    error = server.qmp.error("nbd-server-start", {"addr": {"type": "unix", "data": address}})
    assert text in error.desc and not server.nbd_path.exists()


def test_a_group_of_others_is_refused(server):
    address = {"path": str(server.nbd_path), "__org.bulkhead_group": "0"}
    error = server.qmp.error("nbd-server-start", {"addr": {"type": "unix", "data": address}})
    assert "the account is no member of it" in error.desc and not server.nbd_path.exists()


def test_a_client_socket_has_no_mode(new_server):
    server = new_server()
    done = process.run(*server.argv("--chardev", "socket,id=c,path=/x,__org.bulkhead_mode=0600"), status=1)
    server.stopped = True
    assert "server=on" in done.stderr_text
