# SPDX-License-Identifier: BSD-2-Clause
"""Processes: run clients with a time limit, look into /proc, and find what a server left behind."""

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from . import qemu

PR_SET_CHILD_SUBREAPER = 36

_ours = {}  # pid -> Popen of everything that tests started themselves


def become_subreaper():
    """Orphans below us become our children instead of init's, so that a leftover cannot hide."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def need(*tools):
    """Skip the test, visibly, unless all these programs are there."""
    qemu.check_marked(tools)
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def popen(argv, **kwargs):
    qemu.check_marked(argv)
    process = subprocess.Popen([str(word) for word in argv], **kwargs)
    _ours[process.pid] = process
    return process


def run(*argv, timeout=120, status=0, stdin=None, env=None):
    """Run a client to its end; a wrong exit status fails the test with its output. status=None accepts any."""
    process = popen(argv, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        process.stdout_text, process.stderr_text = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{argv} hung for {timeout} s\n{out}\n{err}")
    if status is not None:
        assert process.returncode == status, \
            f"{' '.join(map(str, argv))}\nexited with {process.returncode}, not {status}\n" \
            f"{process.stdout_text}\n{process.stderr_text}"
    return process


def output(*argv, **kwargs):
    return run(*argv, **kwargs).stdout_text


def wait_for(condition, what, timeout=30):
    """Poll until condition() is true; its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for: {what}"
        time.sleep(0.01)


def stat_fields(pid):
    """(state, ppid, session) of a process, or None."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return fields[0], int(fields[1]), int(fields[3])


def alive(pid):
    """Whether the process runs; a zombie does not."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of(pid):
    return [p for p in all_pids() if (f := stat_fields(p)) is not None and f[1] == pid and f[0] not in "ZX"]


def command(pid):
    try:
        raw = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def descriptors(pid):
    """fd number -> what it is, as /proc shows it."""
    result = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            result[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass
    return result


def orphans():
    """Running processes that were reparented to us: [(pid, command)]. Dead ones are reaped on the way."""
    found = []
    me = os.getpid()
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields is None or fields[1] != me or pid in _ours:
            continue
        if fields[0] in "ZX":
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        else:
            found.append((pid, command(pid)))
    return found


def end_strays():
    """Kill what a failed test left running, so that the next one starts clean."""
    for pid, process in list(_ours.items()):
        if process.poll() is None:
            process.kill()
            process.wait()
        del _ours[pid]
    for pid, _ in orphans():
        os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def running_clients():
    """Programs that the test started and that still run."""
    return [(pid, command(pid)) for pid, process in _ours.items() if process.poll() is None]
