# SPDX-License-Identifier: BSD-2-Clause
"""Shell completion, as readline would call it; and that it knows exactly the options that the program has."""

import pathlib
import re

import pytest

from support.process import output

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


def test_it_knows_the_options_of_the_program(build):
    """And the manual does."""
    options = set(re.findall(r"--[a-z-]+", output(build / "bulkhead", "--help")))
    assert set(complete("bulkhead", "--")) == options
    manual = (SCRIPT.parents[1] / "bulkhead.8").read_text().replace("\\-", "-")
    assert all(option in manual for option in options)
