# SPDX-License-Identifier: BSD-2-Clause
"""What all benchmarks have in common: who is measured when, what is told of several samples, and where files lie."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ACCOUNT = "bulkhead"
PREFIX = "bulkhead-bench-"
NEW_S = 60


def rounds(options, kinds):
    """Each server once a round, options.repeats times; the first one of a round rotates."""
    for number in range(options.repeats):
        shift = number % len(kinds)
        yield from kinds[shift:] + kinds[:shift]


def summary(samples, key):
    """Median, least, greatest."""
    values = [sample[key] for sample in samples]
    return statistics.median(values), min(values), max(values)


def serve(server, work):
    """work() while the server runs; it is stopped in any case."""
    try:
        server.start()
        return work()
    finally:
        server.stop()


def give_to_account(path):
    if os.getuid() == 0:
        shutil.chown(path, ACCOUNT, ACCOUNT)


# ---- Folders ----

def lock(path):
    """A descriptor that locks the folder as long as this process lives, or None: somebody else has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def end_servers(path):
    """Those of a run that was killed: the name of its folder, which nobody else has, stands in their command lines."""
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(f"{path}/") in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGTERM)
        except OSError:  # it has ended
            pass


def remove(path):
    """With what is still mounted in it. Without asking whoever serves it."""
    with open("/proc/self/mountinfo") as table:
        mounted = [row.split(" ")[4] for row in table]
    for mount in mounted:
        if mount.startswith(f"{path}/"):
            subprocess.run(["fusermount3", "-u", "-z", mount], check=False)
    shutil.rmtree(path, ignore_errors=True)


def sweep(where):
    """Folders of runs that were killed."""
    for path in pathlib.Path(where).glob(PREFIX + "*"):
        try:
            fd = lock(path) if time.time() - path.stat().st_mtime > NEW_S else None
        except OSError:  # it went away, or is another account's
            continue
        if fd is not None:
            end_servers(path)
            remove(path)
            os.close(fd)


@contextlib.contextmanager
def folder(where="/dev/shm"):
    """
    A folder of the service account, that is gone at the end: signals end the program in order, so that servers are
    stopped and mounts undone.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    sweep(where)
    path = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    fd = lock(path)
    path.chmod(0o755)
    give_to_account(path)
    try:
        yield path
    finally:
        remove(path)
        os.close(fd)
