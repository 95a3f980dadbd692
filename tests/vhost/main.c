/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-test: what no guest does, and what every guest does, by a front-end of our own.
 *
 *     vhost-test --list
 *     vhost-test SOCKET [CASE...]
 *     vhost-test --serve SOCKET    be a front-end that stays, and does what standard input says (see stay.c)
 *
 * Prints a line for each case, "ok", "not ok" or "skip" (the disk is not what the case needs), and exits with 1 if one
 * failed. With BULKHEAD_VHOST_PID set, it also counts the descriptors of that process before and after each case.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/test.h"

static const struct test_case *const groups[] = { device_cases, message_cases, memory_cases, ring_cases,
                                                  migration_cases };

bool test_failed(struct test *test, int line, const char *fmt, ...)
{
    va_list args;
    int n = snprintf(test->why, sizeof(test->why), "line %d: ", line);

    va_start(args, fmt);
    vsnprintf(test->why + n, sizeof(test->why) - (size_t)n, fmt, args);
    va_end(args);
    return false;
}

bool test_healthy(struct test *test)
{
    struct fe fe = { 0 };
    uint8_t *scratch;

    CHECK(fe_start(&fe, test->path, USUAL, 1, 64), "the next front-end: %s", fe.error);
    scratch = FE_DATA(&fe, 1);
    CHECK(fe_request(&fe, 0, scratch, T_IN, 0, scratch + 4096, 4096, NULL) == S_OK, "the next front-end's read: %s",
          fe.error);
    fe_close(&fe);
    return true;
}

bool test_ended(struct test *test, struct fe *fe)
{
    CHECK(fe_is_closed(fe), "%s", fe->error);
    CHECK(fe->file == NULL || fe_guards_intact(fe), "memory outside the regions was written to");
    fe_close(fe);
    return test_healthy(test);
}

bool test_capacity(struct test *test, struct fe *fe, uint64_t *ret)
{
    CHECK(fe_get_config(fe, 0, ret, sizeof(*ret)), "GET_CONFIG: %s", fe->error);
    return true;
}

/* What the disk is, as NEEDS_* bits. */
static unsigned look(const char *path)
{
    struct fe fe = { 0 };
    uint64_t features = 0, queues = 1;
    unsigned found = 0;

    if (!fe_connect(&fe, path) || !fe_negotiate(&fe, USUAL) || !fe_get_u64(&fe, R_GET_FEATURES, &features) ||
        !fe_get_u64(&fe, R_GET_QUEUE_NUM, &queues))
        fe_die("%s: %s", path, fe.error);
    found |= features & FE_F_RO ? NEEDS_READONLY : NEEDS_WRITABLE;
    found |= queues >= 4 ? NEEDS_QUEUES : 0;
    fe_close(&fe);
    return found;
}

/* Descriptors of the worker, -1 if nobody asked. */
static int count_fds(void)
{
    const char *pid = getenv("BULKHEAD_VHOST_PID");
    char path[64];
    DIR *dir;
    int count = 0;

    if (pid == NULL)
        return -1;
    snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    dir = opendir(path);
    if (dir == NULL)
        fe_die("%s cannot be read", path);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

/* The worker notices a closed connection a little later than we close it. */
static bool fds_are_back(int before)
{
    for (unsigned i = 0; i < 200; i++) {
        struct timespec pause = { .tv_nsec = 10000000 };

        if (count_fds() <= before)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

static bool is_wanted(const char *name, int count, char **names)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return count == 0;
}

/* A case that fails leaves its connection and its threads behind: they go with its process. */
static bool run_in_child(const struct test_case *c, struct test *test)
{
    int ends[2], status;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0)
        fe_die("cannot start a process for a case");
    if (pid == 0) {
        bool ok = c->run(test);

        if (!ok && write(ends[1], test->why, sizeof(test->why)) < 0)
            _exit(3);
        _exit(!ok);
    }
    close(ends[1]);
    if (read(ends[0], test->why, sizeof(test->why)) < 0)
        test->why[0] = '\0';
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        return test_failed(test, __LINE__, "the case itself died of signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) == 0;
}

static bool run_case(const struct test_case *c, const char *path, unsigned found)
{
    struct test test = { .path = path };
    int before = count_fds();
    bool ok;

    if (c->needs & ~found) {
        printf("skip %s\n", c->name);
        return true;
    }
    ok = run_in_child(c, &test);
    if (ok && !fds_are_back(before))
        ok = test_failed(&test, __LINE__, "descriptors: %d before, %d after", before, count_fds());
    printf(ok ? "ok %s\n" : "not ok %s: %s\n", c->name, test.why);
    fflush(stdout);
    return ok;
}

int main(int argc, char **argv)
{
    bool list = argc == 2 && strcmp(argv[1], "--list") == 0;
    unsigned found = 0, failed = 0;

    if (argc < 2)
        fe_die("usage: vhost-test --list | vhost-test SOCKET [CASE...] | vhost-test --serve SOCKET");
    if (argc == 3 && strcmp(argv[1], "--serve") == 0)
        return stay(argv[2]);
    if (!list)
        found = look(argv[1]);
    for (unsigned g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        for (const struct test_case *c = groups[g]; c->name != NULL; c++) {
            if (list)
                puts(c->name);
            else if (is_wanted(c->name, argc - 2, argv + 2))
                failed += !run_case(c, argv[1], found);
        }
    }
    return failed > 0;
}
