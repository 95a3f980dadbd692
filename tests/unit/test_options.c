/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/startup/daemon.h"
#include "monitor/startup/descriptors.h"
#include "monitor/startup/options.h"

#define ARGS(...) ((const char *[]){ "bulkhead", __VA_ARGS__, NULL })

static struct startup_options options;
static struct error err;

static int parse(const char **args)
{
    int argc = 0;

    while (args[argc] != NULL)
        argc++;
    startup_options_done(&options);
    memset(&err, 0, sizeof(err));
    return startup_options_parse(argc, (char **)(uintptr_t)args, &options, &err);
}

static int teardown(void **state)
{
    startup_options_done(&options);
    return 0;
}

static void test_items_keep_their_order(void **state)
{
    assert_int_equal(parse(ARGS("--blockdev", "null-co,node-name=a", "--nbd-server=addr.type=unix,addr.path=/s",
                                "--export", "nbd,id=e,node-name=a,writable=on", "--chardev", "stdio,id=c", "--monitor",
                                "c", "--blockdev", "{\"driver\":\"null-co\",\"node-name\":\"b\"}")),
                     0);
    assert_int_equal(options.item_count, 6);
    assert_int_equal(options.items[0].id, STARTUP_BLOCKDEV);
    assert_string_equal(options.items[0].blockdev.node_name, "a");
    assert_int_equal(options.items[1].id, STARTUP_NBD_SERVER);
    assert_string_equal(options.items[1].nbd_server.addr.unix_.path, "/s");
    assert_int_equal(options.items[1].nbd_server.max_connections, 100);
    assert_true(options.items[2].export.writable);
    assert_int_equal(options.items[3].chardev.backend, CHARDEV_STDIO);
    assert_string_equal(options.items[4].monitor.chardev, "c");
    assert_string_equal(options.items[5].blockdev.node_name, "b");
}

static void test_options_about_the_process(void **state)
{
    assert_int_equal(parse(ARGS("--user", "bulkhead", "--pidfile=/p=q", "--daemonize")), 0);
    assert_string_equal(options.user, "bulkhead");
    assert_string_equal(options.pidfile, "/p=q");
    assert_true(options.daemonize);
    assert_int_equal(parse((const char *[]){ "bulkhead", NULL }), 0);
    assert_null(options.user);
    assert_false(options.daemonize);
}

static void test_help_and_version_stop_the_reading(void **state)
{
    static const char *const words[] = { "-h", "--help", "-V", "--version" };

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        assert_int_equal(parse(ARGS(words[i], "--nonsense")), 0);
        assert_int_equal(options.help, i < 2);
        assert_int_equal(options.version, i >= 2);
    }
}

static void test_of_options_about_the_process_the_last_counts(void **state)
{
    assert_int_equal(parse(ARGS("--user=a", "--pidfile=/a", "--user=b", "--pidfile", "/b")), 0);
    assert_string_equal(options.user, "b");
    assert_string_equal(options.pidfile, "/b");
}

static void test_wrong_options_are_named(void **state)
{
    static const struct {
        const char *args[4];
        const char *text;
    } cases[] = {
        { { "bulkhead", "--nonsense" }, "'--nonsense'" },
        { { "bulkhead", "--block", "x" }, "'--block'" }, /* no abbreviations */
        { { "bulkhead", "leftover" }, "leftover" },
        { { "bulkhead", "-x" }, "'-x'" },
        { { "bulkhead", "--" }, "'--'" },
        { { "bulkhead", "" }, ": Unexpected argument" },
        { { "bulkhead", "--blockdev" }, "option '--blockdev' requires an argument" },
        { { "bulkhead", "--user" }, "option '--user' requires an argument" },
        { { "bulkhead", "--help=x" }, "option '--help' takes no value" },
        { { "bulkhead", "--daemonize=on" }, "option '--daemonize' takes no value" },
        { { "bulkhead", "--pidfile=" }, "--pidfile needs a path" },
        { { "bulkhead", "--object", "iothread,id=i" }, "qom-type" },
        { { "bulkhead", "-T", "*" }, "--trace is not supported" },
        { { "bulkhead", "--trace=x" }, "--trace is not supported" },
        { { "bulkhead", "--blockdev", "file,node-name=d" }, "--blockdev 'file,node-name=d': " },
        { { "bulkhead", "--export", "nbd,id=e,node-name=n,surprise=1" }, "surprise" },
        { { "bulkhead", "--chardev=stdio,id=c", "--daemonize" }, "does not go with --daemonize" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse((const char **)(uintptr_t)cases[i].args), -EINVAL);
        if (strstr(err.text, cases[i].text) == NULL)
            fail_msg("'%s' does not tell of '%s'", err.text, cases[i].text);
    }
}

/* Errors go to logs, and from there to whoever looks for help. */
static void test_what_is_wrong_with_an_object_is_told_without_its_text(void **state)
{
    static const char *const texts[] = {
        "secret,id=s,data=x,hunter2",
        "secret,id=s,data=x,hunter2!=y",
        "secret,id=s,data=x,hunter2.=y",
        "secret,id=s,data=hunter2,nonsense=x",
        "secret,data=hunter2",
        "{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"hunter2\",\"nonsense\":1}",
        "{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"hunter2\"",
    };

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
        assert_int_equal(parse(ARGS("--object", texts[i])), -EINVAL);
        if (strncmp(err.text, "--object: ", 10) != 0 || strstr(err.text, "hunter2") != NULL)
            fail_msg("%s: '%s'", texts[i], err.text);
    }
}

static void test_named_descriptors_are_found(void **state)
{
    static const struct {
        const char *option;
        const char *value;
        int fd; /* -1: none */
    } cases[] = {
        { "--chardev", "socket,id=c,fd=7", 7 },
        { "--nbd-server", "addr.type=fd,addr.str=12", 12 },
        { "--nbd-server", "addr.type=fd,addr.str=name", -1 },
        { "--nbd-server", "addr.type=fd,addr.str=-1", -1 },
        { "--nbd-server", "addr.type=fd,addr.str=99999999999", -1 },
        { "--nbd-server", "addr.type=fd,addr.str=7x", -1 },
        { "--nbd-server", "addr.type=unix,addr.path=7", -1 },
        { "--chardev", "socket,id=c,path=7", -1 },
        { "--chardev", "stdio,id=c", -1 },
    };
    int fd;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse(ARGS(cases[i].option, cases[i].value)), 0);
        assert_int_equal(startup_item_fd(&options.items[0], &fd), cases[i].fd >= 0);
        if (cases[i].fd >= 0)
            assert_int_equal(fd, cases[i].fd);
    }
}

/* In a child, since it closes what it finds: bit n of the status is set if 100 + n is still open. */
static int kept_of_five(const char **args)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        int open_fds = 0;

        if (parse(args) < 0)
            _exit(100);
        for (int i = 0; i < 5; i++)
            dup2(0, 100 + i);
        if (descriptors_keep_named(&options, &err) < 0)
            _exit(101);
        for (int i = 0; i < 5; i++)
            open_fds |= fcntl(100 + i, F_GETFD) >= 0 ? 1 << i : 0;
        _exit(open_fds);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_only_named_descriptors_are_kept(void **state)
{
    assert_int_equal(kept_of_five((const char *[]){ "bulkhead", NULL }), 0);
    assert_int_equal(kept_of_five(ARGS("--chardev", "socket,id=c,fd=102")), 1 << 2);
    assert_int_equal(kept_of_five(ARGS("--chardev", "socket,id=c,fd=104", "--nbd-server", "addr.type=fd,addr.str=100")),
                     1 << 4 | 1);
    assert_int_equal(kept_of_five(ARGS("--chardev", "socket,id=c,fd=103", "--chardev", "socket,id=d,fd=102")),
                     1 << 3 | 1 << 2);
    /* Twice the same, and one that nobody passed. */
    assert_int_equal(kept_of_five(ARGS("--chardev", "socket,id=c,fd=103", "--chardev", "socket,id=d,fd=103")), 101);
    assert_int_equal(kept_of_five(ARGS("--chardev", "socket,id=c,fd=77")), 101);
}

static void test_a_descriptor_of_our_own_is_none_that_was_passed(void **state)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    char value[64];

    snprintf(value, sizeof(value), "socket,id=c,fd=%d", fd);
    assert_int_equal(parse(ARGS("--chardev", value)), 0);
    assert_int_equal(descriptors_keep_named(&options, &err), -EBADF);
    close(fd);
}

/* ---- The pid file ---- */

static void read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, size - 1);

    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
}

static void test_a_pid_file_is_rewritten_locked_and_removed(void **state)
{
    char path[] = "/tmp/bulkhead-pid-XXXXXX";
    struct pidfile first = { .fd = -1 };
    struct pidfile second = { .fd = -1 };
    char expected[32];
    char text[64];
    int fd = mkstemp(path);

    assert_int_equal(write(fd, "999999999 rubbish", 17), 17);
    close(fd);
    assert_int_equal(pidfile_write(path, &first, &err), 0);
    snprintf(expected, sizeof(expected), "%d\n", (int)getpid());
    read_file(path, text, sizeof(text));
    assert_string_equal(text, expected);
    assert_int_equal(pidfile_write(path, &second, &err), -EBUSY);
    pidfile_remove(&second);
    assert_int_equal(access(path, F_OK), 0);
    pidfile_remove(&first);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_a_pid_file_that_is_no_longer_ours_stays(void **state)
{
    char path[] = "/tmp/bulkhead-pid-XXXXXX";
    struct pidfile pidfile = { .fd = -1 };
    int fd = mkstemp(path);

    close(fd);
    assert_int_equal(pidfile_write(path, &pidfile, &err), 0);
    unlink(path);
    fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    pidfile_remove(&pidfile);
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
}

static void test_a_pid_file_is_a_regular_file(void **state)
{
    struct pidfile pidfile = { .fd = -1 };
    char path[] = "/tmp/bulkhead-pid-XXXXXX";

    assert_true(pidfile_write("/nonexistent/pid", &pidfile, &err) < 0);
    assert_non_null(strstr(err.text, "/nonexistent/pid"));
    close(mkstemp(path));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_true(pidfile_write(path, &pidfile, &err) < 0);
    unlink(path);
    assert_int_equal(symlink("/tmp/bulkhead-elsewhere", path), 0);
    assert_true(pidfile_write(path, &pidfile, &err) < 0);
    assert_int_equal(access("/tmp/bulkhead-elsewhere", F_OK), -1);
    unlink(path);
}

int main(void)
{
#define OPTION_TEST(name) cmocka_unit_test_teardown(name, teardown)
    const struct CMUnitTest tests[] = {
        OPTION_TEST(test_items_keep_their_order),
        OPTION_TEST(test_options_about_the_process),
        OPTION_TEST(test_help_and_version_stop_the_reading),
        OPTION_TEST(test_of_options_about_the_process_the_last_counts),
        OPTION_TEST(test_wrong_options_are_named),
        OPTION_TEST(test_what_is_wrong_with_an_object_is_told_without_its_text),
        OPTION_TEST(test_named_descriptors_are_found),
        OPTION_TEST(test_only_named_descriptors_are_kept),
        OPTION_TEST(test_a_descriptor_of_our_own_is_none_that_was_passed),
        OPTION_TEST(test_a_pid_file_is_rewritten_locked_and_removed),
        OPTION_TEST(test_a_pid_file_that_is_no_longer_ours_stays),
        OPTION_TEST(test_a_pid_file_is_a_regular_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
