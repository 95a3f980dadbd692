# SPDX-License-Identifier: BSD-2-Clause
"""Pages of docs/ that name tests: "layers::not_dumpable" is test_not_dumpable() of tests/*/test_layers.py."""

import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("func", "interop", "crash", "sandbox")


def named_tests(text):
    return set(re.findall(r"([a-z][a-z/-]*)::([a-z0-9_]+)", text))


def exists(file, name):
    """file: "unit/role" for tests/unit/test_role.c, "vhost/rings" for tests/vhost/cases-rings.c, "layers" for pytest's."""
    folder, _, stem = file.rpartition("/")
    stem = stem.replace("-", "_")
    if folder == "unit":
        paths, pattern = [TOP / "tests/unit" / f"test_{stem}.c"], rf"^static void test_{name}\("
    elif folder == "vhost":
        paths, pattern = [TOP / "tests/vhost" / f"cases-{stem}.c"], rf'\{{ "{name}"'
    else:
        paths, pattern = [TOP / "tests" / one / f"test_{stem}.py" for one in FOLDERS], rf"^def test_{name}\("
    return any(path.exists() and re.search(pattern, path.read_text(), re.MULTILINE) for path in paths)


def missing_tests(text):
    """Tests that a page names and that do not exist."""
    return sorted(f"{file}::{name}" for file, name in named_tests(text) if not exists(file, name))


def table(text, section):
    """The cells of the rows of a section's table, without its head."""
    lines = text.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
