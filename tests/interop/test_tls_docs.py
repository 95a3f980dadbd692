# SPDX-License-Identifier: BSD-2-Clause
"""The example of docs/tls.md runs as it is printed."""

import os
import pathlib
import re

import pytest

from support import process, sandbox
from support.process import need, run

pytestmark = pytest.mark.control

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "tls.md"


@pytest.mark.qemu
def test_example_runs_as_printed(build, tmp):
    sandbox.need_root()
    need("certtool", "nbdinfo", "nbdcopy", "qemu-img")
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    script = tmp / "example"
    script.write_text("".join(blocks))
    env = {**os.environ, "PATH": f"{build}:{os.environ['PATH']}", "TMPDIR": str(tmp)}
    try:
        result = run("sh", "-e", script, env=env)
    finally:
        process.end_strays()
    assert "virtual size: 16 MiB" in result.stdout_text
    assert "with TLS" in result.stdout_text
