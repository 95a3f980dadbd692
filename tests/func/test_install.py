# SPDX-License-Identifier: BSD-2-Clause
"""What make install puts where, and that it runs from there, without the build tree."""

import os
import stat

import pytest

from support.nbdraw import NbdRaw
from support.process import need, output, run

pytestmark = pytest.mark.control


@pytest.fixture
def installed(build, tmp):
    """The folder that make install made for /usr/local."""
    need("make")
    if not (build / "Makefile").exists():
        pytest.skip(f"{build} is no build tree")
    prefix = output("make", "-s", "-C", build, "--eval", "print-prefix: ; @echo $(prefix)", "print-prefix").split()[-1]
    if prefix != "/usr/local":
        pytest.skip(f"the build tree was configured for {prefix}")
    run("make", "-s", "-C", build, "install", f"DESTDIR={tmp}/dest")
    return tmp / "dest/usr/local"


def test_everything_is_in_its_place(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"sbin/bulkhead", "libexec/bulkhead/bulkhead-nbd-export", "libexec/bulkhead/bulkhead-nbd-negotiate",
            "share/man/man8/bulkhead.8", "share/bash-completion/completions/bulkhead",
            "share/doc/bulkhead/bulkhead.service", "share/doc/bulkhead/bulkhead-fuse.conf",
            "share/doc/bulkhead/bulkhead.socket"} <= files
    for path in installed.rglob("*"):
        assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH) == 0 or path.is_symlink(), path


def test_it_runs_from_there(installed, new_server, image):
    """In a mount namespace where that folder is /usr/local."""
    if os.getuid() != 0:
        pytest.skip("bind mounts need root")
    server = new_server()
    server.program = "/usr/local/sbin/bulkhead"
    server.prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                     'mount --bind "$0" /usr/local && exec "$@"', str(installed)]
    server.start().nbd_start()
    server.add_file("disk", image(data=[(0, b"content")]))
    server.export("disk")
    with NbdRaw.opened(server.nbd_path, "disk") as client:
        assert client.read(0, 7) == b"content"


def test_the_example_units_are_well_formed(installed):
    """In a mount namespace where the program is where the unit says that it is."""
    need("systemd-analyze")
    if os.getuid() != 0:
        pytest.skip("bind mounts need root")
    unit = (installed / "share/doc/bulkhead/bulkhead.service").read_text()
    assert "\nExecStart=/usr/local/sbin/bulkhead \\\n" in unit and "@" not in unit
    done = run("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /usr/local && exec "$@"',
               installed, "systemd-analyze", "verify", "--man=no", "/usr/local/share/doc/bulkhead/bulkhead.service",
               "/usr/local/share/doc/bulkhead/bulkhead.socket")
    assert done.stdout_text + done.stderr_text == ""


def test_the_manual_page_is_well_formed(installed):
    need("man")
    done = run("man", "--warnings", "-l", installed / "share/man/man8/bulkhead.8")
    assert done.stderr_text == "" and "SYNOPSIS" in done.stdout_text
