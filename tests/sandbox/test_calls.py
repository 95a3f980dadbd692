# SPDX-License-Identifier: BSD-2-Clause
"""
System calls in the name of every role, made by a thread of the real process under its real filter: whatever opens,
creates, or reaches into another process must be refused or kill. A test fails if one of them is executed.
"""

import signal

import pytest

from support import images, process, sandbox
from support.nbdraw import OPT_GO, NbdRaw
from support.process import wait_for

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
AT_FDCWD = -100
SIGNALS = {"SYS", "SEGV"}

# What an attacker would try, by what it is for.
ATTACKS = {
    "open a file": [
        ("openat", AT_FDCWD, "str:/", 0), ("open", "str:/", 0), ("openat2", AT_FDCWD, "str:/", "buf:" + "00" * 24, 24),
        ("creat", "str:/x", 0o600), ("open", "str:/proc/1/mem", 2), ("openat", AT_FDCWD, "str:/proc/2/maps", 0),
        ("openat", AT_FDCWD, "str:/proc/self/mem", 2), ("openat", AT_FDCWD, "str:/dev/mem", 0),
        ("open_by_handle_at", AT_FDCWD, "buf:" + "00" * 64, 0), ("getdents64", 0, "buf:" + "00" * 64, 64),
        ("unlink", "str:/x"), ("mkdir", "str:/x", 0o700), ("symlink", "str:/x", "str:/y"), ("link", "str:/x", "str:/y"),
        ("rename", "str:/x", "str:/y"), ("mknod", "str:/x", 0o20666, 0x101), ("chmod", "str:/", 0o777),
        ("chdir", "str:/"), ("truncate", "str:/x", 0), ("inotify_init1", 0), ("fanotify_init", 0, 0),
    ],
    "reach the network": [
        ("socket", 1, 1, 0), ("socket", 2, 1, 0), ("socket", 10, 2, 0), ("socket", 16, 3, 0), ("socket", 17, 3, 0),
        ("socketpair", 1, 1, 0, "buf:" + "00" * 8), ("connect", 3, "buf:0100" + "00" * 14, 16),
        ("bind", 3, "buf:0100" + "00" * 14, 16), ("listen", 3, 1), ("accept", 3, 0, 0), ("accept4", 3, 0, 0, 0),
        ("sendto", 3, "str:x", 1, 0, "buf:0100" + "00" * 14, 16), ("sendmsg", 3, "buf:" + "00" * 56, 0),
        ("sendmmsg", 3, "buf:" + "00" * 64, 1, 0), ("setsockopt", 3, 1, 2, "buf:01000000", 4),
        ("setsockopt", 3, 6, 31, "str:tls", 4), ("setsockopt", 3, 6, 13, "str:cubic", 5),
    ],
    "run another program": [
        ("execve", "str:/bin/sh", 0, 0), ("execveat", 0, "str:", 0, 0, 0x1000), ("fork",), ("vfork",),
        ("clone", signal.SIGCHLD, 0, 0, 0, 0), ("clone3", "buf:" + "00" * 88, 88),
        ("mmap", 0, 4096, 7, 0x22, -1, 0), ("mmap", 0, 4096, 5, 0x22, -1, 0), ("mprotect", 0x10000, 4096, 4),
        ("pkey_mprotect", 0x10000, 4096, 4, -1), ("memfd_create", "str:x", 0), ("uselib", "str:/x"),
        ("personality", 0x0400000),
    ],
    "reach into another process": [
        ("ptrace", 16, 2, 0, 0), ("ptrace", 0x4206, 2, 0, 0), ("process_vm_readv", 2, 0, 0, 0, 0, 0),
        ("process_vm_writev", 2, 0, 0, 0, 0, 0), ("pidfd_open", 1, 0), ("pidfd_getfd", 0, 0, 0), ("kill", -1, 0),
        ("kill", 2, 9), ("tkill", 2, 9), ("tgkill", 2, 2, 9), ("rt_sigqueueinfo", 2, 9, 0),
        ("pidfd_send_signal", 0, 9, 0, 0), ("kcmp", 1, 2, 0, 0, 0), ("process_madvise", 0, 0, 0, 0, 0),
        ("prlimit64", 2, 7, 0, 0), ("setpriority", 0, 2, 0), ("sched_setaffinity", 2, 8, "buf:" + "ff" * 8),
        ("move_pages", 2, 0, 0, 0, 0, 0), ("shmget", 1, 4096, 0o1600), ("shmat", 0, 0, 0), ("msgget", 1, 0o1600),
        ("semget", 1, 1, 0o1600), ("mq_open", "str:/x", 0),
    ],
    "leave the sandbox": [
        ("unshare", CLONE_NEWUSER), ("unshare", CLONE_NEWNET), ("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
        ("setns", 0, 0), ("mount", "str:x", "str:/", "str:tmpfs", 0, 0), ("umount2", "str:/", 2), ("chroot", "str:/"),
        ("pivot_root", "str:/", "str:/"), ("fsopen", "str:tmpfs", 0), ("fsmount", 0, 0, 0),
        ("open_tree", AT_FDCWD, "str:/", 0), ("move_mount", 0, "str:", 0, "str:/", 0),
        ("seccomp", 1, 0, "buf:" + "00" * 16), ("prctl", 4, 1, 0, 0, 0), ("prctl", 22, 2, 0, 0, 0),
        ("prctl", 47, 2, 7, 0, 0), ("prctl", 1, 0, 0, 0, 0), ("prctl", 24, 0, 0, 0, 0), ("capset", 0, 0),
        ("setuid", 0), ("setgid", 0), ("setresuid", 0, 0, 0), ("setgroups", 0, 0), ("setfsuid", 0),
        ("landlock_create_ruleset", 0, 0, 1), ("rt_sigaction", signal.SIGSYS, 0, 0, 8),
        ("fcntl", 4, 4, 0), ("fcntl", 3, 8, 1), ("fcntl", 0, 0, 10), ("dup", 0), ("dup2", 0, 100),
    ],
    "reach into the kernel": [
        ("io_uring_setup", 8, "buf:" + "00" * 120), ("io_uring_register", 0, 0, 0, 0), ("io_uring_register", 0, 2, 0, 0),
        ("bpf", 0, 0, 0),
        ("perf_event_open", 0, 0, -1, -1, 0), ("userfaultfd", 1), ("keyctl", 0, 0), ("add_key", 0, 0, 0, 0, 0),
        ("request_key", 0, 0, 0, 0), ("init_module", 0, 0, 0), ("finit_module", 0, 0, 0), ("delete_module", 0, 0),
        ("kexec_load", 0, 0, 0, 0), ("reboot", 0, 0, 0), ("swapon", "str:/", 0), ("syslog", 3, 0, 0), ("iopl", 3),
        ("ioperm", 0, 1, 1), ("modify_ldt", 0, 0, 0), ("quotactl", 0, 0, 0, 0), ("acct", 0), ("settimeofday", 0, 0),
        ("clock_settime", 0, 0), ("sethostname", "str:x", 1), ("ioctl", 0, 0x5412, "str:x"), ("ioctl", 0, 0x5401, 0),
        ("timer_create", 0, 0, 0), ("vmsplice", 4, 0, 0, 0), ("0x40000027",), ("99999",),
    ],
    "misuse a call that it has": [
        ("futex", 0x10000, 6, 0, 0, 0, 0), ("futex", 0x10000, 12, 1, 1, 0x20000, 0), ("futex", 0x10000, 5, 1, 1, 0, 0),
        ("futex", 0x10000, 4, 1, 1, 0x20000, 0), ("madvise", 0x10000, 4096, 9), ("madvise", 0x10000, 4096, 100),
        ("mremap", 0x10000, 4096, 4096, 3, 0x20000), ("mremap", 0x10000, 4096, 4096, 5, 0),
        ("fallocate", 0, 8, 0, 4096), ("fallocate", 0, 0x20, 0, 4096), ("fallocate", 0, 0x40, 0, 4096),
    ],
    "ask what it need not know": [
        ("sysinfo", 0), ("uname", 0), ("getuid",), ("getppid",), ("getcwd", 0, 0), ("readlink", "str:/", 0, 0),
        ("stat", "str:/", 0), ("access", "str:/", 0), ("sched_getaffinity", 0, 0, 0),
    ],
}
# Calls that a role has, with arguments as above.
ALLOWED = {
    "vhost": {"sendmsg"},  # hands the inflight buffer over
    "vhost-door": {"sendmsg"},  # hands on what a front-end passed
    # It opens what is there, looks at it, and hands it over.
    "opener": {"sendmsg", "openat", "getdents64", "readlink", "access", "getuid", "dup2", "memfd_create"},
}
# What the run-time of sanitizers needs in its builds.
SANITIZERS_NEED = {"rt_sigaction", "sched_getaffinity", "getrlimit", "prlimit64", "uname", "sysinfo"}


@pytest.fixture
def running(request, server, image):
    """A server with two exports: one whose workers are attacked, one that must not notice."""
    server.inject = sandbox.need_inject(server.build)
    server.deaths_expected = True
    server.sanitized = sandbox.is_sanitized(server.build / "bulkhead")
    if sandbox.role_of_test(request) == "nbd-negotiator-tls":
        sandbox.add_shared_keys(server, "creds")
        server.nbd_start(**{"tls-creds": "creds"})
    else:
        server.nbd_start()
    for name in ("victim", "other"):
        server.add_file(name, image(f"{name}.img", size=images.MIB))
    server.held = image("held.img", size=images.MIB)
    server.export("other", id="other")
    server.other_pid = server.export_worker("other")["pid"]
    return server


def new_export(server, role="nbd-export"):
    server.qmp.cmd("block-export-add", {**sandbox.export_of_role(server, role, "victim", server.dir), "id": "victim"})
    worker = server.export_worker("victim")
    assert worker["role"] == role
    return worker["pid"]


def new_vhost(server):
    return new_export(server, "vhost")


def new_door(server):
    new_vhost(server)
    return wait_for(lambda: server.workers(role="vhost-door", state="running"), "a door")[0]["pid"]


def end_door(server, pid, is_dead):
    """Its export goes on, with another door."""
    if is_dead:
        wait_for(lambda: [w for w in server.workers(role="vhost-door", state="running") if w["pid"] != pid],
                 "another door")
    end_export(server, pid, False)


def new_fuse(server):
    return new_export(server, "fuse")


def new_negotiator(server, role="nbd-negotiator"):
    """One that has a client: the monitor is slow to replace those that die without ever having been of use."""
    server.client = NbdRaw.unix(server.nbd_path)
    server.client.hello()
    server.client.option(OPT_GO, length=100)
    return wait_for(lambda: next((w["pid"] for w in server.workers(role=role, state="running") if w["clients"]), None),
                    "a negotiator to have the client")


def new_negotiator_tls(server):
    return new_negotiator(server, "nbd-negotiator-tls")


def new_signer(server):
    sandbox.add_shared_keys(server, "victim")
    return server.workers(role="tls-signer", state="running")[0]["pid"]


def end_signer(server, pid, is_dead):
    server.qmp.cmd("object-del", {"id": "victim"})
    wait_for(lambda: not server.workers(role="tls-signer"), "the signer to be gone")


def end_export(server, pid, is_dead):
    if not is_dead:
        server.qmp.cmd("block-export-del", {"id": "victim"})
    server.qmp.wait_event("BLOCK_EXPORT_DELETED", id="victim")


def end_negotiator(server, pid, is_dead):
    server.client.close()
    wait_for(lambda: pid not in [w["pid"] for w in server.workers()], "the negotiator to be gone")


def new_opener(server):
    """A child of the opener, which has its filter, with an image."""
    opener = server.workers(role="opener")[0]["pid"]
    before = process.children_of(opener)
    server.add_file("held", server.held)
    [child] = set(process.children_of(opener)) - set(before)
    return child


def end_opener(server, pid, is_dead):
    server.qmp.cmd("blockdev-del", {"node-name": "held"})


VICTIMS = {"nbd-export": (new_export, end_export), "nbd-negotiator": (new_negotiator, end_negotiator),
           "vhost": (new_vhost, end_export), "vhost-door": (new_door, end_door), "fuse": (new_fuse, end_export),
           "nbd-negotiator-tls": (new_negotiator_tls, end_negotiator), "tls-signer": (new_signer, end_signer),
           "opener": (new_opener, end_opener)}


def attack(server, role, call):
    """Make one call in a worker of the role; what came of it."""
    new, end = VICTIMS[role]
    pid = new(server)
    outcome = sandbox.inject(server.inject, pid, *call)
    # The fatal signal of a killed process, or its own end after a trap, is on its way.
    is_dead = outcome.startswith(("killed", "trapped"))
    if is_dead:
        wait_for(lambda: not process.alive(pid), f"the {role} to die of {call}")
    end(server, pid, is_dead)
    return outcome


@pytest.mark.parametrize("aim", ATTACKS)
@pytest.mark.parametrize("role", VICTIMS)
def test_no_call_of_an_attacker_is_executed(running, role, aim):
    outcomes = {}
    for call in ATTACKS[aim]:
        if call[0] in ALLOWED.get(role, ()) or (running.sanitized and call[0] in SANITIZERS_NEED):
            continue
        outcomes[call] = attack(running, role, call)
    wrong = {call: outcome for call, outcome in outcomes.items()
             if outcome.startswith("executed") or (outcome.startswith("refused") and not running.sanitized)
             or (outcome.startswith("killed") and outcome.split()[1] not in SIGNALS)}
    assert not wrong
    assert running.export_worker("other")["pid"] == running.other_pid, "another export's worker has died"


@pytest.mark.parametrize("role", VICTIMS)
def test_the_injector_itself_works(running, role):
    """A call that the role has is executed, and the worker lives on: otherwise the tests above would prove nothing."""
    new, end = VICTIMS[role]
    pid = new(running)
    assert sandbox.inject(running.inject, pid, "getpid").startswith("executed")
    assert sandbox.inject(running.inject, pid, "close", -1) == "refused EBADF"
    assert process.alive(pid)
    end(running, pid, False)


def test_every_thread_is_under_the_filter(running):
    """A forbidden call from each thread of an export's worker kills the process."""
    count = len(sandbox.threads(new_export(running)))
    end_export(running, 0, False)
    for index in range(count):
        pid = new_export(running)
        assert sandbox.inject(running.inject, sandbox.threads(pid)[index], "socket", 1, 1, 0) == "killed SYS"
        end_export(running, pid, True)


def test_a_killed_call_is_told_as_such(running):
    pid = new_export(running)
    sandbox.inject(running.inject, pid, "socket", 1, 1, 0)
    event = running.qmp.wait_event("__org.bulkhead_WORKER_GONE", pid=pid)["data"]
    assert event["signal"] == signal.SIGSYS and event["export"] == "victim"
    assert "sandbox" in event["reason"]
    running.qmp.wait_event("BLOCK_EXPORT_DELETED", id="victim")


def test_a_trapped_call_is_named(running):
    if running.sanitized:
        pytest.skip("in a build with sanitizers these calls are their run-time's")
    pid = new_export(running)
    assert sandbox.inject(running.inject, pid, "sysinfo", 0) == "trapped"
    event = running.qmp.wait_event("__org.bulkhead_WORKER_GONE", pid=pid)["data"]
    assert event["system-call"] == "sysinfo" and event["signal"] == signal.SIGSYS
    assert "sysinfo" in event["reason"]


# ---- The monitor ----

@pytest.mark.parametrize("call,outcome", [
    (("socket", 17, 3, 0), "refused ENOSYS"),  # packet
    (("socket", 38, 5, 0), "refused ENOSYS"),  # crypto
    (("kill", 1, 0), "refused ENOSYS"),
    (("prctl", 47, 2, 7, 0, 0), "refused EPERM"),
    (("personality", 0x0400000), "refused ENOSYS"),
    (("ioctl", 0, 0x5412, "str:x"), "refused ENOSYS"),
    (("99999",), "refused ENOSYS"),
])
def test_monitor_is_refused(running, call, outcome):
    if running.sanitized and call[0] == "kill":
        pytest.skip("the run-time of sanitizers has this call")
    assert sandbox.inject(running.inject, running.pid, *call) == outcome
    running.qmp.cmd("query-version")


@pytest.mark.parametrize("call", [
    ("ptrace", 16, 1, 0, 0), ("process_vm_writev", 1, 0, 0, 0, 0, 0), ("setns", 0, 0), ("unshare", CLONE_NEWUSER),
    ("bpf", 0, 0, 0), ("execve", "str:/bin/sh", 0, 0), ("setuid", 0), ("init_module", 0, 0, 0), ("keyctl", 0, 0),
])
def test_monitor_dies_of_an_attack_and_takes_its_workers_along(running, call):
    if running.sanitized and call[0] in ("ptrace", "execve"):
        pytest.skip("the run-time of sanitizers has this call")
    pids = [w["pid"] for w in running.workers()]
    assert len(pids) >= 2
    assert sandbox.inject(running.inject, running.pid, *call) == "killed SYS"
    running.popen.wait(10)
    wait_for(lambda: not any(process.alive(pid) for pid in pids), "all workers to die with the monitor")
    running.gone(killed=True)
