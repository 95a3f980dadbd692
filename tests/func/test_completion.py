# SPDX-License-Identifier: BSD-2-Clause
"""Shell completion, as readline would call it; and that it knows exactly the options that the program has."""

import pathlib
import re

import pytest

from support.process import output

pytestmark = pytest.mark.control

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "docs/completion/bulkhead.bash"


def complete(*words):
    quoted = " ".join(f"'{word}'" for word in words)
    return output("bash", "-c", f"""
        source {SCRIPT}
        compopt() {{ :; }}
        COMP_WORDS=({quoted})
        COMP_CWORD=$(({len(words)} - 1))
        _bulkhead
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """).split()


@pytest.mark.parametrize("words,expected", [
    (["bulkhead", "--ex"], ["--export"]),
    (["bulkhead", "--blockdev", "fi"], ["file,", "filename=", "file="]),
    (["bulkhead", "--blockdev", "file,node-name", "=", "a,cache"], ["a,cache.direct=", "a,cache.no-flush="]),
    (["bulkhead", "--blockdev", "file,node-name", "=", "a"], []),
    (["bulkhead", "--export", "nbd,wr"], ["nbd,writable=", "nbd,writethrough="]),
    (["bulkhead", "--user", "bulkh"], ["bulkhead"]),
    (["bulkhead", "--pidfile", "x"], []),
])
def test_completion(words, expected):
    assert sorted(complete(*words)) == sorted(expected)


# Accepted for QEMU's sake without any effect, or refused with a reason.
NOT_OFFERED = {
    "aio-max-batch", "detect-zeroes", "drop-cache", "pr-manager", "x-check-cache-dropped", "align", "config",
    "max-discard", "max-transfer", "max-write-zero", "opt-discard", "opt-write-zero", "bitmaps", "fixed-iothread",
    "iothread", "iv", "keyid", "loaded", "username", "addr.mptcp",
}
VHOST_HAS_NO_TCP = {"addr.cid", "addr.host", "addr.ipv4", "addr.ipv6", "addr.keep-alive", "addr.numeric", "addr.port",
                    "addr.to"}


def members(infos, name, prefix=""):
    """Of a type and all its variants, with dots for members of members."""
    found = set()
    rows = infos[name]["members"] + [row for variant in infos[name].get("variants", [])
                                     for row in infos[variant["type"]]["members"]]
    for row in rows:
        kind = infos[row["type"]]["meta-type"]
        end = "." if kind == "array" else "="
        below = members(infos, row["type"], f"{prefix}{row['name']}.") if kind == "object" else None
        found |= below or {prefix + row["name"] + end}
    return {word.replace(".data.", ".") for word in found}


@pytest.mark.parametrize("option,command,left_out", [
    ("--blockdev", "blockdev-add", set()), ("--nbd-server", "nbd-server-start", set()), ("--object", "object-add", set()),
    ("--export", "block-export-add", VHOST_HAS_NO_TCP),
])
def test_it_knows_the_members_of_the_commands(server, option, command, left_out):
    """And the manual does."""
    infos = {info["name"]: info for info in server.qmp.cmd("query-qmp-schema")}
    wanted = {word for word in members(infos, infos[command]["arg-type"]) if word[:-1] not in NOT_OFFERED | left_out}
    assert wanted == {word for word in complete("bulkhead", option, "") if word[-1] != ","}
    manual = (SCRIPT.parents[1] / "bulkhead.8").read_text().replace("\\-", "-")
    assert [word for word in wanted if word[:-1].rpartition(".")[2] not in manual] == []


def test_it_knows_the_options_of_the_program(build):
    """And the manual does."""
    options = set(re.findall(r"--[a-z-]+", output(build / "bulkhead", "--help")))
    assert set(complete("bulkhead", "--")) == options
    manual = (SCRIPT.parents[1] / "bulkhead.8").read_text().replace("\\-", "-")
    assert all(option in manual for option in options)
