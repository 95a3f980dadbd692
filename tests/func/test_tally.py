# SPDX-License-Identifier: BSD-2-Clause
"""The closing line of ./dev test: it must never look better than the run was."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.control

TALLY = pathlib.Path(__file__).resolve().parents[1] / "tally.py"


def tally(*arguments):
    done = subprocess.run([sys.executable, "-B", TALLY, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    return done.returncode, lines[-1], lines


@pytest.fixture
def unit(tmp):
    def program(name, result, log):
        (tmp / f"{name}.trs").write_text(f":test-result: {result}\n")
        (tmp / f"{name}.log").write_text(log)
        return f"stage=unit:{tmp}:{0 if result in ('PASS', 'SKIP') else 2}"

    return program


RUN_A = "[ RUN      ] test_a\n[       OK ] test_a\n"
RUN_B = "[ RUN      ] test_b\n"
GOOD = f"[==========] Running 2 test(s).\n{RUN_A}{RUN_B}[       OK ] test_b\n[  PASSED  ] 2 test(s).\n"
BAD = f"[==========] Running 2 test(s).\n{RUN_A}{RUN_B}[  FAILED  ] test_b\n[  FAILED  ] 1 test(s):\n[  FAILED  ] test_b\n"
SKIPPED = (f"[==========] Running 2 test(s).\n{RUN_A}{RUN_B}[  REASON  ] no such thing\n[  SKIPPED ] test_b\n"
           "[  SKIPPED ] 1 test(s), listed below:\n[  SKIPPED ] test_b\n")


def test_tests_of_a_program_are_counted(unit):
    assert tally(unit("one", "PASS", GOOD))[:2] == (0, "2 passed, 0 failed, 0 skipped")


def test_a_failed_test_is_counted_once(unit):
    assert tally(unit("one", "FAIL", BAD))[:2] == (1, "1 passed, 1 failed, 0 skipped")


def test_a_program_that_crashes_after_its_last_success_is_a_failure(unit):
    assert tally(unit("one", "FAIL", f"[==========] Running 2 test(s).\n{RUN_A}{RUN_B}"))[:2] == (
        1, "1 passed, 1 failed, 0 skipped")


def test_skips_are_listed_with_their_reason(unit):
    unit("one", "PASS", GOOD)
    status, last, lines = tally(unit("two", "SKIP", "no such thing here\n"))
    assert (status, last) == (0, "2 passed, 0 failed, 1 skipped")
    assert any("no such thing here" in line for line in lines)


def test_a_skipped_test_is_told_with_its_reason(unit):
    status, last, lines = tally(unit("one", "PASS", SKIPPED))
    assert (status, last) == (0, "1 passed, 0 failed, 1 skipped")
    assert any("test_b: no such thing" in line for line in lines)


def test_variants_of_a_program_are_all_counted(unit):
    assert tally(unit("one", "PASS", GOOD + GOOD + SKIPPED))[:2] == (0, "5 passed, 0 failed, 1 skipped")


def test_nothing_executed_is_a_failure(unit, tmp):
    assert tally()[0] == 1
    assert tally(f"stage=unit:{tmp}:0")[:2] == (1, "0 passed, 1 failed, 0 skipped")
    assert tally(unit("only", "SKIP", "no reason\n"))[0] == 1


def test_a_bad_exit_status_is_a_failure_even_if_all_tests_passed(unit):
    assert tally(unit("one", "PASS", GOOD)[:-1] + "2")[0] == 1


@pytest.mark.parametrize("body,expected", [
    ('<testcase classname="c" name="a"/>', (0, "1 passed, 0 failed, 0 skipped")),
    ('<testcase classname="c" name="a"><failure message="wrong"/></testcase>', (1, "0 passed, 1 failed, 0 skipped")),
    ('<testcase classname="c" name="a"><error message="teardown"/></testcase>', (1, "0 passed, 1 failed, 0 skipped")),
    ('<testcase classname="c" name="a"/><testcase classname="c" name="b"><skipped message="why"/></testcase>',
     (0, "1 passed, 0 failed, 1 skipped")),
])
def test_reports_of_pytest(tmp, body, expected):
    report = tmp / "report.xml"
    report.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    assert tally(f"stage=pytest:{report}:{expected[0]}")[:2] == expected


def test_a_stage_that_is_skipped_is_told_and_no_failure(unit):
    status, last, lines = tally(unit("one", "PASS", GOOD), "qemu10=skipped:no mirror: http://here")
    assert (status, last) == (0, "2 passed, 0 failed, 1 skipped")
    assert any("[qemu10]" in line and "no mirror: http://here" in line for line in lines)


def test_stages_that_are_all_skipped_are_a_failure():
    assert tally("qemu10=skipped:no mirror")[0] == 1


def test_a_missing_report_is_a_failure(tmp):
    assert tally(f"stage=pytest:{tmp}/none.xml:0")[0] == 1
