# SPDX-License-Identifier: BSD-2-Clause
"""What /proc tells of a process's sandbox, and system calls in its name (tests/sandbox/inject.c)."""

import os
import pathlib
import platform

import pytest

from . import process

LAYER_NAMESPACES = {"user-namespace": "user", "mount-namespace": "mnt", "pid-namespace": "pid", "net-namespace": "net",
                    "ipc-namespace": "ipc", "uts-namespace": "uts", "cgroup-namespace": "cgroup"}
REQUIRED_LAYERS = {"seccomp", "no-new-privs"}


def need_root():
    if os.getuid() != 0:
        pytest.skip("needs root, to look into processes that are not dumpable")


def need_inject(build):
    need_root()
    if platform.machine() != "x86_64":
        pytest.skip(f"injects system calls on x86-64 only, this is {platform.machine()}")
    path = pathlib.Path(build) / "tests" / "sandbox" / "inject"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


def inject(program, tid, call, *arguments):
    """Have a thread make a system call: 'executed N', 'refused ERRNO', 'trapped', or 'killed SIGNAL'."""
    return process.output(program, tid, call, *arguments, timeout=20).strip()


def status(pid, tid=None):
    """/proc/PID/status (of one of its threads) as a dict."""
    path = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    lines = pathlib.Path(path).read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines if ":" in line)}


def threads(pid):
    return sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))


def namespace(pid, name):
    return os.readlink(f"/proc/{pid}/ns/{name}")


def limits(pid):
    """/proc/PID/limits: name -> (soft, hard), as text."""
    result = {}
    for line in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]:
        result[line[:26].strip()] = tuple(line[26:].split()[:2])
    return result


def kinds_of_descriptors(pid):
    """How many descriptors of each kind: {'/dev/null': 3, 'socket': 1, 'pipe': 1, '[eventpoll]': 2, '/x.img': 1, ...}."""
    count = {}
    for target in process.descriptors(pid).values():
        kind = target.removeprefix("anon_inode:")
        if kind.startswith(("socket:", "pipe:")):
            kind = kind.split(":")[0]
        count[kind] = count.get(kind, 0) + 1
    return count


def memory(pid):
    """All that can be read of a process's memory, a mapping at a time."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            span, rights = line.split()[:2]
            if "r" not in rights or "[vvar" in line or "[vsyscall]" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                mem.seek(start)
                yield mem.read(end - start)
            except (OSError, ValueError):
                pass  # a page that cannot be read, such as a guard page


def memory_has(pid, needle):
    return any(needle in part for part in memory(pid))


def open_flags(pid, fd):
    for line in pathlib.Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    raise AssertionError(f"no flags of descriptor {fd}")


def is_sanitized(program):
    """Whether a binary was built with AddressSanitizer."""
    return b"__asan_init" in pathlib.Path(program).read_bytes()


def export_of_role(server, role, node, directory, **members):
    """Export a node by the worker role that serves it; the arguments of block-export-add without its id."""
    kinds = {
        "nbd-export": {"type": "nbd", "name": node},
        "vhost": {"type": "vhost-user-blk", "addr": {"type": "unix", "path": str(directory / f"{node}.vhost")}},
        "fuse": {"type": "fuse", "mountpoint": str(directory / f"{node}.fuse")},
    }
    if role == "fuse":
        process.need("fusermount3")
        if not os.path.exists("/dev/fuse"):
            pytest.skip("this host has no /dev/fuse")
        (directory / f"{node}.fuse").touch()
        os.chmod(directory / f"{node}.fuse", 0o666)
    return {**kinds["vhost" if role == "vhost-door" else role], "node-name": node, "writable": True, **members}


def add_shared_keys(server, object_id):
    """A tls-creds object, and with it a signer process."""
    (server.dir / "keys.psk").write_text("alice:" + "ab" * 32 + "\n")
    server.qmp.cmd("object-add", {"qom-type": "tls-creds-psk", "id": object_id, "endpoint": "server",
                                  "dir": str(server.dir)})


def role_of_test(request):
    """The parameter `role` of a test, None without one."""
    return request.node.callspec.params.get("role") if hasattr(request.node, "callspec") else None
