# SPDX-License-Identifier: BSD-2-Clause
"""
The mounter by itself: tests speak its protocol over its socket and play the worker, or let nobody play it. What it says
about a mount point may never depend on an answer of the file system that is mounted there, so most tests answer nothing.
"""

import array
import contextlib
import os
import pathlib
import pwd
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from support import fuse, process
from support.server import ACCOUNT, give_to_account

pytestmark = pytest.mark.control

MAGIC = 0x6d6e7472
MOUNT, UNMOUNT, REPLY = 1, 2, 3
OFF, ON, AUTO = 0, 1, 2
REPLY_BYTES = 16 + 8 + 8 + 4 + 4 + 4 + 4 + 512
CONF = pathlib.Path("/etc/fuse.conf")


def mounts_on(path):
    """Rows of the mount table for a path, without asking the path."""
    with open("/proc/self/mountinfo") as table:
        return [line for line in table if line.split(" ")[4] == str(path)]


def as_account(*argv, **kwargs):
    """Run a program as the service account: nobody else may look into its mounts without allow_other."""
    drop = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"] if os.getuid() == 0 else []
    return process.run(*drop, *argv, **kwargs)


class Reply:
    def __init__(self, data, fds):
        assert len(data) == REPLY_BYTES
        magic, kind, self.cookie, self.mount, self.device, self.code, self.allow_other, self.devices, _ = struct.unpack_from(
            "<IIQQQiIII", data)
        assert (magic, kind) == (MAGIC, REPLY)
        self.text = data[48:].split(b"\0")[0].decode()
        self.fds = fds
        assert len(fds) == self.devices

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Mounter:
    """A running bulkhead-mounter and the monitor's end of its socket."""

    def __init__(self, program, wrapper=()):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        entry = pwd.getpwnam(ACCOUNT)

        def child():
            os.dup2(theirs.fileno(), 3)
            if os.getuid() == 0 and not wrapper:
                os.setgroups([])
                os.setresgid(*[entry.pw_gid] * 3)
                os.setresuid(*[entry.pw_uid] * 3)

        self.popen = subprocess.Popen([*wrapper, program], pass_fds=[3], preexec_fn=child,
                                      cwd="/", stderr=subprocess.PIPE)
        theirs.close()
        self.cookie = 0

    def request(self, message):
        self.sock.send(message)
        return self.reply()

    def reply(self):
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self.sock, select.POLLIN)
        ready = poll.poll(30000)
        assert ready, "the mounter does not answer"
        data, ancillary, flags, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(4 * 24), socket.MSG_CMSG_CLOEXEC)
        assert flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0
        fds = array.array("i")
        for level, kind, value in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(value)
        return Reply(data, list(fds))

    def ask_mount(self, path, allow_other=OFF, pairs=1, ident="exp0", max_read=1 << 20):
        """Without waiting for the reply; its cookie."""
        self.cookie += 1
        self.sock.send(struct.pack("<IIQIIII128s4096s", MAGIC, MOUNT, self.cookie, allow_other, pairs, max_read, 0,
                                   ident.encode(), os.fsencode(str(path))))
        return self.cookie

    def mount(self, path, **members):
        cookie = self.ask_mount(path, **members)
        reply = self.reply()
        assert reply.cookie == cookie
        return reply

    def ask_unmount(self, mount, lazy=False):
        self.cookie += 1
        self.sock.send(struct.pack("<IIQQII", MAGIC, UNMOUNT, self.cookie, mount, lazy, 0))

    def unmount(self, mount, lazy=False):
        self.ask_unmount(mount, lazy)
        return self.reply()

    def end(self):
        self.sock.close()
        assert self.popen.wait(20) == 0
        return self.popen.stderr.read().decode()


@pytest.fixture
def program(build, tmp):
    """A copy that the service account can reach wherever the build tree is."""
    path = tmp / "bulkhead-mounter"
    shutil.copy(build / "bulkhead-mounter", path)
    os.chmod(path, 0o755)
    return str(path)


@pytest.fixture
def mounter(program):
    process.need("fusermount3")
    if as_account("test", "-w", "/dev/fuse", status=None).returncode != 0:
        pytest.skip("the service account may not open /dev/fuse here (chmod 0666 /dev/fuse)")
    m = Mounter(program)
    yield m
    if m.popen.poll() is None:
        m.end()


@pytest.fixture
def point(tmp):
    path = tmp / "mnt.img"
    path.write_bytes(b"below")
    give_to_account(path)
    return path


@pytest.fixture
def fuse_conf():
    """Sets the text of /etc/fuse.conf and puts back what was there."""
    if os.getuid() != 0:
        pytest.skip("only root may change /etc/fuse.conf")
    old = CONF.read_text() if CONF.exists() else None
    yield CONF.write_text
    if old is None:
        CONF.unlink()
    else:
        CONF.write_text(old)


def test_mounts_without_anyone_answering(mounter, point):
    reply = mounter.mount(point)
    assert reply.code == 0, reply.text
    row = mounts_on(point)
    assert len(row) == 1
    assert "nosuid,nodev" in row[0] and " fuse.bulkhead bulkhead:exp0 " in row[0]
    assert "default_permissions" in row[0] and "allow_other" not in row[0]
    assert "max_read=1048576" in row[0]
    assert os.fstat(reply.fds[0]).st_rdev == os.makedev(10, 229)
    reply.close()
    assert mounter.unmount(reply.mount).code == 0
    assert mounts_on(point) == []
    assert point.read_bytes() == b"below"


@pytest.mark.parametrize("pairs", [1, 4, 8])
def test_devices_come_in_pairs(mounter, point, pairs):
    reply = mounter.mount(point, pairs=pairs)
    assert reply.devices == 2 * pairs
    assert [os.get_blocking(fd) for fd in reply.fds] == [True, False] * pairs
    reply.close()


def test_the_same_path_twice_is_refused(mounter, point):
    first = mounter.mount(point, ident="first")
    second = mounter.mount(point)
    assert second.code == -17 and "already used by export 'first'" in second.text
    first.close()


def test_hard_link_to_the_same_file_is_refused(mounter, point):
    other = point.with_name("link.img")
    os.link(point, other)
    first = mounter.mount(point, ident="first")
    second = mounter.mount(other)
    assert second.code == -17 and "already used by export 'first'" in second.text
    first.close()


def test_the_same_file_through_a_linked_folder_is_refused(mounter, point):
    folder = point.parent / "folder"
    folder.symlink_to(point.parent)
    first = mounter.mount(folder / point.name, ident="first")
    assert first.code == 0 and len(mounts_on(point)) == 1
    second = mounter.mount(point)
    assert second.code == -17 and "already used by export 'first'" in second.text
    first.close()


@pytest.mark.parametrize("make, code, text", [
    (lambda p: None, -2, "does not exist: create it"),
    (lambda p: p.mkdir(), -21, "is a directory"),
    (lambda p: p.symlink_to("/etc/passwd"), -40, "is a symbolic link"),
    (lambda p: os.mkfifo(p), -22, "is not a regular file"),
    (lambda p: p.write_text(""), -13, "must be writable for user id"),
])
def test_unsuitable_mount_point_is_refused(mounter, tmp, make, code, text):
    if os.getuid() != 0 and code == -13:
        pytest.skip("needs a file of another account")
    path = tmp / "bad"
    make(path)
    reply = mounter.mount(path)
    assert reply.code == code and text in reply.text, reply.text


@pytest.mark.parametrize("path, text", [
    ("/", "is a directory"), ("", "is a directory"), ("/tmp/", "is a directory"), ("/tmp/..", "is a directory"),
    ("/nonexistent/folder/file", "cannot open the directory"), ("/etc/passwd/file", "cannot open the directory"),
    ("/tmp/" + "x" * 256, "is too long"), ("/tmp" + "/x" * 2040, "cannot open the directory"),
    ("/proc/version", "must be writable"),
])
def test_unsuitable_path_is_refused(mounter, path, text):
    reply = mounter.mount(path)
    assert reply.code < 0 and text in reply.text, reply.text


def test_busy_mount_is_only_unmounted_lazily(mounter, point):
    reply = mounter.mount(point)
    fd = os.open(point, os.O_PATH)
    busy = mounter.unmount(reply.mount)
    assert busy.code == -16 and "busy" in busy.text
    assert len(mounts_on(point)) == 1
    assert mounter.unmount(reply.mount, lazy=True).code == 0
    assert mounts_on(point) == []
    os.close(fd)
    reply.close()


def test_a_mount_that_somebody_else_unmounted_is_no_error(mounter, point):
    reply = mounter.mount(point)
    reply.close()
    subprocess.run(["umount", str(point)], check=True)
    assert mounter.unmount(reply.mount).code == 0
    again = mounter.unmount(reply.mount)
    assert again.code == -2


def test_everything_is_unmounted_when_the_monitor_goes_away(mounter, tmp):
    replies = []
    for i in range(5):
        path = tmp / f"m{i} with space"
        path.write_bytes(b"below")
        give_to_account(path)
        replies.append(mounter.mount(path))
        assert replies[-1].code == 0
    assert mounter.end() == ""
    for i in range(5):
        assert (tmp / f"m{i} with space").read_bytes() == b"below"
    for reply in replies:
        reply.close()


def test_signals_that_end_the_monitor_leave_the_mounter_alone(mounter, point):
    reply = mounter.mount(point)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        mounter.popen.send_signal(number)
    reply.close()
    assert mounter.unmount(reply.mount).code == 0


def test_stale_mount_of_a_killed_mounter_is_cleaned_up(mounter, program, point):
    reply = mounter.mount(point)
    mounter.popen.kill()
    mounter.popen.wait()
    reply.close()
    assert "not connected" in as_account("cat", point, status=1).stderr_text
    second = Mounter(program)
    reply = second.mount(point)
    assert reply.code == 0 and "cleaned up 1 stale mount" in reply.text
    assert len(mounts_on(point)) == 1
    reply.close()
    second.end()
    assert point.read_bytes() == b"below"


def test_mount_of_another_live_run_is_left_alone(mounter, program, point):
    reply = mounter.mount(point)
    second = Mounter(program)
    started = time.monotonic()
    other = second.mount(point)
    assert other.code == -16 and "already has a file system mounted on it (fuse.bulkhead" in other.text
    assert time.monotonic() - started < 5
    assert len(mounts_on(point)) == 1
    second.end()
    assert len(mounts_on(point)) == 1
    reply.close()


def test_allow_other_is_refused_with_advice_or_falls_back(mounter, point, fuse_conf):
    fuse_conf("# nothing\n")
    reply = mounter.mount(point, allow_other=ON)
    assert reply.code == -1 and "add the line user_allow_other to /etc/fuse.conf" in reply.text
    reply = mounter.mount(point, allow_other=AUTO)
    assert reply.code == 0 and reply.allow_other == 0
    reply.close()
    mounter.unmount(reply.mount)


@pytest.mark.parametrize("allow_other", [ON, AUTO])
def test_allow_other_is_used_where_the_host_allows_it(mounter, point, fuse_conf, allow_other):
    fuse_conf("user_allow_other\n")
    reply = mounter.mount(point, allow_other=allow_other)
    assert reply.code == 0 and reply.allow_other == 1
    assert "allow_other" in mounts_on(point)[0]
    reply.close()


def test_mount_limit_of_the_host_is_explained(mounter, point, fuse_conf):
    fuse_conf("mount_max = 0\n")
    reply = mounter.mount(point)
    assert reply.code == -24 and "raise mount_max in /etc/fuse.conf" in reply.text


def test_mounting_over_an_image_does_not_hide_it_from_who_has_it_open(mounter, point):
    fd = os.open(point, os.O_RDONLY)
    reply = mounter.mount(point)
    assert os.pread(fd, 5, 0) == b"below"
    os.close(fd)
    reply.close()


@pytest.mark.parametrize("message", [
    b"", b"x" * 15, struct.pack("<IIQ", 1, MOUNT, 1), struct.pack("<IIQ", MAGIC, 99, 1),
    struct.pack("<IIQ", MAGIC, MOUNT, 1), struct.pack("<IIQQI", MAGIC, UNMOUNT, 1, 1, 0), b"x" * 8000,
])
def test_a_message_that_is_none_ends_the_mounter(mounter, point, message):
    reply = mounter.mount(point)
    reply.close()
    mounter.sock.send(message)
    assert mounter.popen.wait(10) == 0
    assert mounts_on(point) == []


@pytest.mark.parametrize("fields", [{"allow_other": 3}, {"pairs": 0}, {"pairs": 9}, {"max_read": 0}, {"max_read": 1000},
                                    {"max_read": (1 << 20) + 4096}])
def test_field_out_of_range_is_refused(mounter, point, fields):
    reply = mounter.mount(point, **fields)
    assert reply.code == -71 and mounts_on(point) == []


def test_path_without_end_is_refused(mounter):
    assert mounter.mount("/" + "x" * 4095).code == -71


def test_refuses_to_run_as_root(build):
    if os.getuid() != 0:
        pytest.skip("only root can try")
    done = subprocess.run([build / "bulkhead-mounter"], capture_output=True, text=True)
    assert done.returncode == 1 and "refusing to run as root" in done.stderr


def test_holds_nothing_but_its_socket(mounter, point):
    reply = mounter.mount(point)
    # It closes the descriptors right after it has sent them.
    process.wait_for(lambda: {int(fd) for fd in os.listdir(f"/proc/{mounter.popen.pid}/fd")} == {0, 1, 2, 3},
                     "the mounter to hold its socket and /dev/null only")
    reply.close()


def test_leaves_no_process_behind(mounter, point, tmp):
    reply = mounter.mount(point)
    mounter.mount(tmp / "missing")
    mounter.unmount(reply.mount)
    reply.close()
    process.wait_for(lambda: process.children_of(mounter.popen.pid) == [], "its children to be reaped")


def in_namespace(program, script):
    """A mounter in a mount namespace of its own that script has prepared."""
    process.need("unshare", "setpriv")
    if os.getuid() != 0:
        pytest.skip("needs root to prepare a mount namespace")
    return Mounter(program, ["unshare", "-m", "sh", "-c", script + '; exec setpriv --reuid=' + ACCOUNT +
                             ' --regid=' + ACCOUNT + ' --clear-groups "$@"', "sh"])


def test_runs_one_program_with_words_and_environment_of_its_own(program, point, tmp):
    """What fusermount3 is told, whoever the caller is and whatever his environment: never suid or dev."""
    told = tmp / "told"
    told.mkdir()
    give_to_account(told)
    helper = tmp / "helper"
    helper.write_text(f"#!/bin/sh\ncat /proc/$$/environ >{told}/environment\ncat /proc/$$/cmdline >{told}/words\nexit 1\n")
    helper.chmod(0o4755)
    m = in_namespace(program, f"mount --bind {helper} /usr/bin/fusermount3; export LD_PRELOAD_X=1 PATH=/nowhere:$PATH")
    assert m.mount(point).code < 0
    m.end()
    environment = (told / "environment").read_bytes().split(b"\0")[:-1]
    assert sorted(environment) == [b"LC_ALL=C", b"_FUSE_COMMFD=3"]
    words = (told / "words").read_bytes().split(b"\0")[:-1]
    assert b"/usr/bin/fusermount3" in words[:2]
    options = words[words.index(b"-o") + 1].split(b",")
    assert {b"nosuid", b"nodev"} <= set(options) and not {b"suid", b"dev"} & set(options)
    assert "LD_PRELOAD_X" not in str(environment)


@pytest.mark.parametrize("script, code, text", [
    ("mount --bind /dev/null /usr/bin/fusermount3", -2, "install the package fuse3"),
    ("mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3", -19, "load the fuse module"),
    ("mount -t tmpfs none /dev; mknod -m 600 /dev/fuse c 10 229; mknod -m 666 /dev/null c 1 3", -13,
     "make /dev/fuse accessible to this account"),
    ("mount --bind -o nosuid /usr/bin /usr/bin; mount -o remount,bind,nosuid /usr/bin", -1, "setuid root"),
])
def test_host_that_cannot_mount_is_explained(program, point, script, code, text):
    m = in_namespace(program, script)
    reply = m.mount(point)
    assert text in reply.text and reply.code == code, (reply.code, reply.text)
    m.end()


def test_no_new_privs_is_explained(program, point):
    process.need("setpriv")
    if os.getuid() != 0:
        pytest.skip("needs root to become the service account")
    m = Mounter(program, ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "--no-new-privs"])
    reply = m.mount(point)
    assert reply.code == -1 and "NoNewPrivileges=no" in reply.text
    m.end()


def test_read_only_file_system_is_explained(program, point):
    m = in_namespace(program, f"mount --bind {point.parent} {point.parent}; mount -o remount,bind,ro {point.parent}")
    reply = m.mount(point)
    assert reply.code == -30 and "on a read-only file system" in reply.text
    m.end()


# ---- Who hangs, and who dies ----

def new_point(path):
    path.write_bytes(b"below")
    give_to_account(path)
    return path


def test_mount_point_that_hangs_holds_up_nobody(mounter, point, tmp):
    with fuse.hanging_file_system(tmp / "hanging") as hanging:
        cookies = {mounter.ask_mount(hanging.folder / f"folder{i}" / "file", ident=f"bad{i}") for i in range(3)}
        assert hanging.asked.wait(10)
        for i in range(5):
            started = time.monotonic()
            reply = mounter.mount(point, ident=f"good{i}")
            assert reply.code == 0, reply.text
            reply.close()
            assert mounter.unmount(reply.mount).code == 0
            assert time.monotonic() - started < 3
        for _ in range(3):
            reply = mounter.reply()
            cookies.remove(reply.cookie)
            assert reply.code == -110 and "does its file system hang?" in reply.text, reply.text
        assert mounter.mount(point).code == 0


def test_unmount_that_hangs_is_tried_by_one_child(mounter, tmp):
    (tmp / "folder").mkdir()
    reply = mounter.mount(new_point(tmp / "folder" / "file"))
    reply.close()
    with fuse.hanging_file_system(tmp / "folder") as hanging:
        done = mounter.unmount(reply.mount, lazy=True)
        assert hanging.asked.is_set()
        assert done.code == -110 and "does its file system hang?" in done.text, done.text
        child, = process.children_of(mounter.popen.pid)
        time.sleep(3)  # the time of the next try has come
        assert process.children_of(mounter.popen.pid) == [child]
    process.wait_for(lambda: mounter.unmount(reply.mount).code == -2, "the mount to go")


def test_end_does_not_wait_for_a_mount_point_that_hangs(mounter, point, tmp):
    with fuse.hanging_file_system(tmp / "hanging") as hanging:
        reply = mounter.mount(point)
        reply.close()
        mounter.ask_mount(hanging.folder / "file")
        assert hanging.asked.wait(10)
        started = time.monotonic()
        mounter.end()
        assert time.monotonic() - started < 8
        assert mounts_on(point) == []


def test_mount_that_is_given_up_leaves_nothing(mounter, tmp):
    with fuse.hanging_file_system(tmp / "hanging") as hanging:
        mounter.ask_mount(hanging.folder / "file")
        assert hanging.asked.wait(10)
        assert mounter.reply().code == -110
        assert process.children_of(mounter.popen.pid) != []
    process.wait_for(lambda: process.children_of(mounter.popen.pid) == [], "what was given up to end")


def test_many_mounts_at_once(mounter, tmp):
    points = [new_point(tmp / f"m{i}") for i in range(32)]
    for _ in range(2):
        cookies = {mounter.ask_mount(path, ident=f"e{i}"): path for i, path in enumerate(points)}
        replies = [mounter.reply() for _ in points]
        assert {reply.cookie for reply in replies} == set(cookies)
        assert [reply.text for reply in replies if reply.code != 0] == []
        assert all(len(mounts_on(path)) == 1 for path in points)
        for reply in replies:
            reply.close()
            mounter.ask_unmount(reply.mount)
        assert [mounter.reply().code for _ in points] == [0] * len(points)
        assert not any(mounts_on(path) for path in points)


def test_unmount_without_a_process_to_be_had_is_tried_again(mounter, point):
    reply = mounter.mount(point)
    reply.close()
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)  # it has inherited that
    as_account("prlimit", f"--pid={mounter.popen.pid}", "--nproc=0:")
    mounter.ask_unmount(reply.mount)
    time.sleep(0.2)
    assert len(mounts_on(point)) == 1
    as_account("prlimit", f"--pid={mounter.popen.pid}", f"--nproc={'unlimited' if limit < 0 else limit}:")
    done = mounter.reply()
    assert done.code == 0, done.text
    assert mounts_on(point) == []


def test_of_two_mounts_on_one_file_at_once_one_is_made(mounter, point):
    for _ in range(5):
        for ident in ("one", "two"):
            mounter.ask_mount(point, ident=ident)
        replies = sorted((mounter.reply() for _ in range(2)), key=lambda reply: reply.code)
        assert [reply.code for reply in replies] == [-17, 0] and "already used by export" in replies[0].text
        assert len(mounts_on(point)) == 1
        replies[1].close()
        assert mounter.unmount(replies[1].mount).code == 0


def take_replies(mounter):
    """All that it has sent before it died; how many mounts it has told of."""
    told = 0
    while True:
        try:
            reply = mounter.reply()
        except (AssertionError, OSError):
            return told
        told += reply.code == 0
        reply.close()


@pytest.mark.parametrize("delay", [0, 0.002, 0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("who", ["monitor", "mounter"])
def test_nothing_is_left_when_it_or_the_monitor_dies_while_mounting(mounter, tmp, who, delay):
    points = [new_point(tmp / f"m{i}") for i in range(4)]
    for i, path in enumerate(points):
        mounter.ask_mount(path, ident=f"e{i}")
    time.sleep(delay)
    if who == "monitor":
        mounter.sock.close()
        mounter.popen.wait(20)
    else:
        # What it has told of is the monitor's to know, and a later run's to clean up; what it has not, its children undo.
        mounter.popen.kill()
        mounter.popen.wait(20)
        told = take_replies(mounter)
        process.wait_for(lambda: sum(len(mounts_on(path)) for path in points) <= told, "what nobody knows of to be undone")
        for path in points:
            if mounts_on(path):
                process.run("umount", path)
    assert not any(mounts_on(path) for path in points)


# ---- Mount points that somebody tampers with ----

def test_symbolic_link_of_somebody_else_is_not_followed(mounter, point, tmp):
    if os.getuid() != 0:
        pytest.skip("needs a link of another account")
    link = tmp / "link"
    link.symlink_to(point.parent)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    for path in (link / point.name, link / "." / ".." / point.parent.name / point.name):
        reply = mounter.mount(path)
        assert reply.code == -1 and "symbolic link of user id 65534, 'link'" in reply.text, reply.text
    assert mounts_on(point) == []
    for owner in (0, pwd.getpwnam(ACCOUNT).pw_uid):
        os.chown(link, owner, owner, follow_symlinks=False)
        reply = mounter.mount(link / point.name)
        assert reply.code == 0 and len(mounts_on(point)) == 1
        reply.close()
        mounter.unmount(reply.mount)


def test_symbolic_links_without_end_are_refused(mounter, tmp):
    (tmp / "a").symlink_to("b/x")
    (tmp / "b").symlink_to(tmp / "a")
    reply = mounter.mount(tmp / "a" / "file")
    assert reply.code == -40 and "Too many levels of symbolic links" in reply.text


@pytest.mark.parametrize("lazy", [False, True])
def test_folder_that_was_moved(mounter, tmp, lazy):
    """The mount is found where it is, whatever is in its old place: here a link to a folder with another mount."""
    for name in ("folder", "other", "new"):
        (tmp / name).mkdir()
    reply = mounter.mount(new_point(tmp / "folder" / "file"))
    other = mounter.mount(new_point(tmp / "other" / "file"), ident="other")
    os.rename(tmp / "folder", tmp / "new" / "moved")
    (tmp / "folder").symlink_to(tmp / "other")
    done = mounter.unmount(reply.mount, lazy)
    assert done.code == 0, done.text
    assert mounts_on(tmp / "new" / "moved" / "file") == [] and len(mounts_on(tmp / "other" / "file")) == 1
    assert (tmp / "new" / "moved" / "file").read_bytes() == b"below"
    reply.close()
    other.close()


def test_end_unmounts_in_a_folder_that_was_moved(mounter, tmp):
    for name in ("folder", "new"):
        (tmp / name).mkdir()
    mounter.mount(new_point(tmp / "folder" / "file")).close()
    os.rename(tmp / "folder", tmp / "new" / "moved")
    mounter.end()
    assert mounts_on(tmp / "new" / "moved" / "file") == []


def test_folder_that_was_moved_where_the_account_may_not_go(mounter, tmp):
    """fusermount3 cannot unmount there; but it is tried until it can be done."""
    if os.getuid() != 0:
        pytest.skip("needs a folder of another account")
    (tmp / "folder").mkdir()
    (tmp / "closed").mkdir(mode=0o700)
    reply = mounter.mount(new_point(tmp / "folder" / "file"))
    reply.close()
    os.rename(tmp / "folder", tmp / "closed" / "moved")
    done = mounter.unmount(reply.mount, lazy=True)
    assert done.code == -13 and "closed/moved/file' as user id" in done.text, done.text
    os.chmod(tmp / "closed", 0o755)
    process.wait_for(lambda: mounts_on(tmp / "closed" / "moved" / "file") == [], "the mount to go")
    process.wait_for(lambda: mounter.unmount(reply.mount).code == -2, "the mounter to forget it")


@pytest.fixture
def helper(program, tmp):
    """Has a mounter whose fusermount3 is a script; the real one is $REAL in it."""
    process.need("fusermount3")

    def make(script):
        real = tmp / "fusermount3"
        shutil.copy("/usr/bin/fusermount3", real)
        os.chmod(real, 0o4755)
        (tmp / "script").write_text(f"#!/bin/sh\nREAL={real} TMP={tmp}\n{script}\n")
        os.chmod(tmp / "script", 0o755)
        return in_namespace(program, f"mount --bind {tmp}/script /usr/bin/fusermount3")

    return make


def test_mount_that_came_to_be_elsewhere_is_undone(helper, point, tmp):
    """fusermount3 goes by path, and whoever may rename a folder of it may have exchanged that in the meantime."""
    victim = new_point(tmp / "victim")
    m = helper(f'[ "$1" = -o ] && exec "$REAL" -o "$2" -- {victim}\nexec "$REAL" "$@"')
    reply = m.mount(point)
    assert reply.code == -11 and "was changed while it was mounted on; the mount has been undone" in reply.text, reply.text
    with open(f"/proc/{m.popen.pid}/mountinfo") as table:
        assert not [line for line in table if line.split(" ")[4] in (str(victim), str(point))]
    m.end()


@pytest.mark.parametrize("script, words", [
    ("exit 3", "failed with status 3 and without a word; is /usr/bin/fusermount3 setuid root, may this account open "
               "/dev/fuse, does /etc/fuse.conf allow what was asked for (user_allow_other, mount_max)"),
    ("kill -9 $$", "was killed by signal 9 (Killed)"),
    ("echo fusermount3: mount failed: Permission denied >&2; exit 1", "mount failed: Permission denied; AppArmor, SELinux"),
    ("printf 'a\\033[31mb\\nc\\377' >&2; exit 1", "a?[31mb;c?"),
    ("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", "x" * 200),
    ("exit 0", "fusermount3 sent no descriptor"),
])
def test_failure_of_fusermount3_is_explained(helper, point, script, words):
    m = helper(script)
    reply = m.mount(point)
    assert reply.code < 0 and f"cannot mount on '{point}': " in reply.text and words in reply.text, reply.text
    assert len(reply.text) < 511
    m.end()


# Until hold() is over, each fusermount3 waits, or each that mounts.
HOLD = '[ -e "$TMP/hold" ] && read word <"$TMP/hold"\nexec "$REAL" "$@"'
HOLD_MOUNTS = '[ "$1" = -o ] || exec "$REAL" "$@"\n' + HOLD


@contextlib.contextmanager
def hold(tmp):
    os.mkfifo(tmp / "hold")
    os.chmod(tmp / "hold", 0o644)
    yield
    writer = os.open(tmp / "hold", os.O_RDWR)
    os.unlink(tmp / "hold")
    os.close(writer)


def mount_all(mounter, points):
    """Their replies, all of them good."""
    for path in points:
        mounter.ask_mount(path, ident=path.name)
    replies = [mounter.reply() for _ in points]
    assert [reply.text for reply in replies if reply.code != 0] == []
    return replies


def test_device_numbers_of_mounts_that_have_gone_meanwhile(helper, tmp):
    """The kernel gives them to the next mounts, whose children still know the others by them."""
    m = helper(HOLD_MOUNTS)
    points = [new_point(tmp / f"m{i}") for i in range(40)]
    old = mount_all(m, points[:20])
    with hold(tmp):
        for path in points[20:]:
            m.ask_mount(path, ident=path.name)
        process.wait_for(lambda: len(process.children_of(m.popen.pid)) == 20, "the mounts to be at work")
        for reply in old:
            assert m.unmount(reply.mount).code == 0
    new = [m.reply() for _ in old]
    assert [reply.text for reply in new if reply.code != 0] == []
    assert {reply.device for reply in old} & {reply.device for reply in new}, "none was used again: nothing was seen"
    for reply in old + new:
        reply.close()
    m.end()


def test_unmounts_and_mounts_at_work_are_bounded_apart(helper, tmp):
    """More of each than there may be at once: neither takes the room of the other, and all are done in the end."""
    m = helper(HOLD)
    points = [new_point(tmp / f"m{i}") for i in range(108)]
    replies = mount_all(m, points[:30]) + mount_all(m, points[30:60])
    with hold(tmp):
        for reply in replies:
            m.ask_unmount(reply.mount)
        process.wait_for(lambda: len(process.children_of(m.popen.pid)) >= 48, "the unmounts to be at work")
        for path in points[60:]:
            m.ask_mount(path, ident=path.name)
        process.wait_for(lambda: m.popen.poll() is not None or len(process.children_of(m.popen.pid)) >= 96,
                         "the mounts to be at work")
        assert m.popen.poll() is None, m.popen.stderr.read()
        time.sleep(0.1)
        assert len(process.children_of(m.popen.pid)) == 96
    replies += [m.reply() for _ in points]
    assert [reply.text for reply in replies if reply.code != 0] == []
    assert len([reply for reply in replies if reply.fds]) == len(points)
    for reply in replies:
        reply.close()
    m.end()


def test_sweep_leaves_the_mount_alone_that_is_made_again(helper, tmp):
    """One of an export was given up, and the next one is there but not known yet."""
    m = helper("""case "$*" in
        -o*first) exec sleep 60 ;;
        -o*) "$REAL" "$@"; status=$?; sleep 4; exit $status ;;
        *) exec "$REAL" "$@" ;;
        esac""")
    first = m.ask_mount(new_point(tmp / "first"))
    time.sleep(8)
    second = m.ask_mount(new_point(tmp / "second"))
    replies = {reply.cookie: reply for reply in (m.reply(), m.reply())}
    assert replies[first].code == -110, replies[first].text
    assert replies[second].code == 0, replies[second].text
    replies[second].close()
    m.end()
