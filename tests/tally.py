#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Sum up what all stages of a test run left behind, in one closing line.

Each argument is NAME=KIND:PATH:EXIT_STATUS, or NAME=skipped:REASON for a stage that cannot be had here. KIND unit: PATH
is a folder with automake's .trs and .log files; cmocka's own counts are taken from the logs. KIND pytest: PATH is a JUnit
XML report. Skips and failures are listed with their reasons. The exit status is 1 if anything failed, if a stage ended
badly, or if a stage that was not skipped executed no test at all.
"""

import collections
import pathlib
import re
import sys
import xml.etree.ElementTree


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = []  # (name, reason)
        self.skipped = []

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def executed(self):
        return self.passed + len(self.failed)


def tally_cmocka(name, result, log):
    """
    One test program. cmocka prints a line when a test begins and one when it ends (and lists the bad ones again at the
    end); ours print "[  REASON  ] text" before they skip. A program that ended badly counts as one more failure.
    """
    tally = Tally()
    running, reason = None, "no reason given"
    for tag, text in re.findall(r"^\[ *(RUN|OK|FAILED|SKIPPED|REASON) *\] (.*)$", log, re.M):
        if tag == "RUN":
            running, reason = text, "no reason given"
        elif tag == "REASON":
            reason = text
        elif text == running:
            running = None
            if tag == "OK":
                tally.passed += 1
            elif tag == "FAILED":
                tally.failed.append((f"{name}: {text}", "see the program's .log file"))
            else:
                tally.skipped.append((f"{name}: {text}", reason))
    if "[==========]" not in log:  # not a cmocka program: it counts as one test
        if result == "PASS":
            tally.passed = 1
        elif result == "SKIP":
            tally.skipped = [(name, log.strip().splitlines()[0] if log.strip() else reason)]
    if result not in ("PASS", "SKIP") and not tally.failed:
        tally.failed = [(name, f"{result}: the program did not end in order, see its .log file")]
    return tally


def tally_unit(folder):
    tally = Tally()
    for trs in sorted(pathlib.Path(folder).rglob("*.trs")):
        result = re.search(r":test-result: (\w+)", trs.read_text())
        log = trs.with_suffix(".log")
        tally.add(tally_cmocka(trs.stem, result[1] if result else "ERROR",
                               log.read_text(errors="replace") if log.exists() else ""))
    return tally


def tally_pytest(report):
    tally = Tally()
    try:
        root = xml.etree.ElementTree.parse(report).getroot()
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        tally.failed = [("pytest", f"left no report: {error}")]
        return tally
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}: {case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        skip = case.find("skipped")
        if bad:
            tally.failed.append((name, (bad[0].get("message") or "failed").splitlines()[0][:200]))
        elif skip is not None:
            tally.skipped.append((name, skip.get("message") or "no reason given"))
        else:
            tally.passed += 1
    return tally


def print_list(title, stage, rows):
    """Rows with the same reason are told once, with their number."""
    by_reason = collections.defaultdict(list)
    for name, reason in rows:
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{title} [{stage}] {names[0]}{more}: {reason}")


def tally_stage(argument):
    name, rest = argument.split("=", 1)
    if rest.startswith("skipped:"):
        tally = Tally()
        tally.skipped = [("the whole stage", rest.split(":", 1)[1])]
        return name, tally
    kind, path, status = rest.split(":")
    tally = tally_unit(path) if kind == "unit" else tally_pytest(path)
    if tally.executed() == 0:
        tally.failed.append((f"{kind} tests", "no test was executed"))
    elif status != "0" and not tally.failed:
        tally.failed.append((f"{kind} tests", f"ended with status {status}"))
    return f"{name}, {kind}", tally


def main():
    total = Tally()
    for argument in sys.argv[1:]:
        stage, tally = tally_stage(argument)
        print(f"{stage}: {tally.passed} passed, {len(tally.failed)} failed, {len(tally.skipped)} skipped")
        print_list("  skipped", stage, tally.skipped)
        print_list("  FAILED", stage, tally.failed)
        total.add(tally)
    if total.executed() == 0:
        total.failed.append(("run", "no stage was executed"))
    print(f"{total.passed} passed, {len(total.failed)} failed, {len(total.skipped)} skipped")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
