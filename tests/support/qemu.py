# SPDX-License-Identifier: BSD-2-Clause
"""
Which QEMU the tests use: the one that is installed, or one in a folder (tests/fetch-qemu10.sh makes it). Tests that use
one of its programs are marked 'qemu', so that they can be run with another QEMU and no other test is; one that is not
marked fails as soon as it starts such a program.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile

import pytest

ACCOUNT = os.environ.get("BULKHEAD_TEST_ACCOUNT", "bulkhead")
KNOWN = [(7, 2), (10, 0)]  # versions whose every difference the tests have in a table
PROGRAM = re.compile(r"\bqemu-(img|io|nbd|storage-daemon|system-\w+)\b")

marked = True  # whether the test that runs is


def check_marked(words):
    """Fails a test that uses QEMU and does not say so. Words of a command line; scripts in them are looked at, too."""
    if not marked:
        found = next((match for word in words if (match := PROGRAM.search(str(word)))), None)
        if found:
            pytest.fail(f"{found[0]} is used: mark the test with @pytest.mark.qemu")


def use(folder, add_cleanup):
    """Let all tests find the programs in folder/bin first, the service account's too."""
    if not (folder / "bin/qemu-img").exists():
        pytest.exit(f"there is no QEMU in {folder}: tests/fetch-qemu10.sh {folder} gets one", 4)
    if not _reachable(folder):
        copy = tempfile.mkdtemp(prefix="bh-qemu-", dir="/tmp")
        add_cleanup(lambda: shutil.rmtree(copy, ignore_errors=True))
        os.chmod(copy, 0o755)
        folder = shutil.copytree(folder, f"{copy}/qemu", symlinks=True)
    os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"


def _reachable(folder):
    """Whether the service account may look into the folder and all above it."""
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return True
    for path in (folder, *folder.parents):
        info = path.stat()
        bit = stat.S_IXUSR if info.st_uid == account.pw_uid else stat.S_IXGRP if info.st_gid == account.pw_gid else stat.S_IXOTH
        if not info.st_mode & bit:
            return False
    return True


def version(program="qemu-img"):
    """(major, minor), or None."""
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return None
    numbers = re.search(r"version (\d+)\.(\d+)", text)
    return numbers and (int(numbers[1]), int(numbers[2]))
