/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"

#define LINES 5000 /* more than a pipe holds */

struct fixture {
    int read_end;
    int old_stderr;
    char text[1 << 20];
};

static int set_up(void **state)
{
    static struct fixture fixture;
    int ends[2];

    *state = &fixture;
    if (pipe(ends) < 0)
        return -1;
    fixture.read_end = ends[0];
    fixture.old_stderr = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    log_set_level(LOG_LEVEL_INFO);
    log_set_sink(NULL);
    alarm(20); /* a test that waits for itself */
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    alarm(0);
    dup2(f->old_stderr, STDERR_FILENO);
    close(f->old_stderr);
    close(f->read_end);
    return 0;
}

/* What is in the pipe now. */
static const char *drain(struct fixture *f)
{
    size_t used = 0;
    ssize_t n;

    fcntl(f->read_end, F_SETFL, O_NONBLOCK);
    while ((n = read(f->read_end, f->text + used, sizeof(f->text) - 1 - used)) > 0)
        used += (size_t)n;
    f->text[used] = '\0';
    return f->text;
}

static void test_a_line_has_its_level(void **state)
{
    log_warning("the %s is %d", "answer", 42);
    log_debug("not at this level");
    assert_string_equal(drain(*state), "bulkhead: warning: the answer is 42\n");
}

static void test_a_reader_that_does_not_read_is_not_waited_for(void **state)
{
    struct fixture *f = *state;
    unsigned lost = 0;
    unsigned kept = 0;

    for (unsigned i = 0; i < LINES; i++)
        log_info("line %u of somebody who talks a lot", i);
    for (const char *at = drain(f); (at = strchr(at, '\n')) != NULL; at++)
        kept++;
    assert_in_range(kept, 100, LINES - 1);
    log_info("one more");
    assert_int_equal(sscanf(drain(f), "bulkhead: warning: %u lines were lost", &lost), 1);
    assert_int_equal(kept + lost, LINES);
    assert_non_null(strstr(f->text, "\nbulkhead: info: one more\n"));
    log_info("and another");
    assert_string_equal(drain(f), "bulkhead: info: and another\n");
}

static void test_a_long_line_is_cut(void **state)
{
    struct fixture *f = *state;
    char text[2 * LOG_TEXT_MAX];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_error("%s", text);
    assert_int_equal(strlen(drain(f)), strlen("bulkhead: error: \n") + LOG_TEXT_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_has_its_level, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_reader_that_does_not_read_is_not_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_long_line_is_cut, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
