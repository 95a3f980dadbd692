/* SPDX-License-Identifier: BSD-2-Clause */
/* Patterns, base64, and lists of who is let in: objects that need no worker. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/graph/objects-private.h"
#include "monitor/monitor.h"
#include "monitor/qmp/qmp.h"
#include "tests/unit/opener_children.h"

static void test_patterns_that_match(void **state)
{
    static const char *const rows[][2] = {
        { "", "" }, { "*", "" }, { "*", "anything" }, { "a*", "a" }, { "a*c", "abbbc" }, { "*c", "abcabc" },
        { "a?c", "abc" }, { "a?c", "a\xc3\xa4" "c" }, { "*,CN=cl*nt", "O=x,CN=client" }, { "**a**", "bab" },
        { "a*b*c", "aXbYbZc" }, { "?*", "x" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        if (!authz_glob_matches(rows[i][0], rows[i][1]))
            fail_msg("'%s' does not match '%s'", rows[i][0], rows[i][1]);
}

static void test_patterns_that_do_not_match(void **state)
{
    static const char *const rows[][2] = {
        { "", "a" }, { "a", "" }, { "?", "" }, { "a?c", "ac" }, { "a*c", "abcd" }, { "CN=client", "CN=client,O=evil" },
        { "CN=client*", "O=x,CN=client" }, { "[a]", "a" }, { "a?c", "abbc" }, { "A", "a" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        if (authz_glob_matches(rows[i][0], rows[i][1]))
            fail_msg("'%s' matches '%s'", rows[i][0], rows[i][1]);
}

/* A pattern of many stars against a long text must not take exponential time. */
static void test_pattern_takes_bounded_time(void **state)
{
    char pattern[101];
    char text[384];

    for (unsigned i = 0; i < 50; i++)
        memcpy(pattern + 2 * i, "*a", 2);
    pattern[100] = '\0';
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_true(authz_glob_matches(pattern, text));
    text[sizeof(text) - 2] = 'b';
    assert_false(authz_glob_matches(pattern, text));
}

static void test_base64(void **state)
{
    static const struct {
        const char *text;
        const char *bytes; /* NULL: refused */
    } rows[] = {
        { "", "" }, { "QQ==", "A" }, { "QUI=", "AB" }, { "QUJD", "ABC" }, { "QUJD\nQQ==\n", "ABCA" },
        { "Q", NULL }, { "QQ", NULL }, { "QQ=", NULL }, { "Q===", NULL }, { "=", NULL }, { "QQ==QQ==", NULL },
        { "QR==", NULL }, { "QUK=", NULL }, { "QQ= =", NULL }, { "Q*==", NULL }, { "QUJD=", NULL },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        uint8_t bytes[16];
        size_t len = 99;
        int r = secret_decode_base64(rows[i].text, strlen(rows[i].text), bytes, &len, NULL);

        if (rows[i].bytes == NULL ? r != -EINVAL : r != 0)
            fail_msg("'%s': %d", rows[i].text, r);
        if (rows[i].bytes == NULL)
            continue;
        assert_int_equal(len, strlen(rows[i].bytes));
        assert_memory_equal(bytes, rows[i].bytes, len);
    }
}

/* ---- Objects ---- */

struct fixture {
    struct monitor monitor;
    struct object_set *set;
    bool failed;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (f == NULL || object_set_new(&f->monitor, &f->set, NULL) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    object_set_free(f->set);
    free(f);
    return 0;
}

static void done(const struct error *err, void *opaque)
{
    struct fixture *f = opaque;

    f->failed = err != NULL;
}

static bool add(struct fixture *f, struct object_options options)
{
    object_add(f->set, &options, qmp_reply_new(done, f));
    return !f->failed;
}

static void test_simple_lets_in_one(void **state)
{
    struct fixture *f = *state;
    struct error why;

    assert_true(add(f, (struct object_options){ .type = OBJECT_TYPE_AUTHZ_SIMPLE, .id = "a",
                                                .authz_simple.identity = "me" }));
    assert_true(authz_allows(f->set, "a", "me", &why));
    assert_false(authz_allows(f->set, "a", "Me", &why));
    assert_false(authz_allows(f->set, "a", "", &why));
    assert_false(authz_allows(f->set, "a", NULL, &why));
    assert_string_equal(why.text, "the client has no identity");
}

static void test_first_rule_that_fits_decides(void **state)
{
    struct fixture *f = *state;
    struct authz_rule rules[] = {
        { "bob", AUTHZ_POLICY_DENY, AUTHZ_FORMAT_EXACT },
        { "b*", AUTHZ_POLICY_ALLOW, AUTHZ_FORMAT_GLOB },
        { "c*", AUTHZ_POLICY_ALLOW, AUTHZ_FORMAT_EXACT },
    };
    struct object_options options = { .type = OBJECT_TYPE_AUTHZ_LIST, .id = "l" };
    struct error why;

    options.authz_list.rules.items = rules;
    options.authz_list.rules.count = ARRAY_SIZE(rules);
    assert_true(add(f, options));
    memset(rules, 0, sizeof(rules)); /* it has its own copy */
    assert_false(authz_allows(f->set, "l", "bob", &why));
    assert_string_equal(why.text, "rule 0 denies it");
    assert_true(authz_allows(f->set, "l", "bert", &why));
    assert_false(authz_allows(f->set, "l", "carl", &why));
    assert_true(authz_allows(f->set, "l", "c*", &why));
    assert_false(authz_allows(f->set, "l", "dora", &why));
    assert_string_equal(why.text, "no rule allows it");
}

static void test_errors_what_is_not_there_lets_nobody_in(void **state)
{
    struct fixture *f = *state;
    struct error why;

    assert_false(authz_allows(f->set, "none", "me", &why));
    assert_string_equal(why.text, "there is no object 'none'");
    assert_true(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "s", .secret.data = "x" }));
    assert_false(authz_allows(f->set, "s", "me", &why));
    assert_string_equal(why.text, "object 's' is no authorization object");
}

static void test_a_removed_object_lives_for_its_user(void **state)
{
    struct fixture *f = *state;
    struct object *object;

    assert_true(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "s", .secret.data = "x" }));
    object = object_find(f->set, "s");
    object->refs++;
    assert_int_equal(object_del(f->set, "s", NULL), 0);
    assert_null(object_find(f->set, "s"));
    assert_true(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "s", .secret.data = "y" }));
    assert_ptr_not_equal(object_find(f->set, "s"), object);
    object_unref(object);
    assert_int_equal(object_del(f->set, "t", NULL), -ENOENT);
}

static void test_errors_id_in_use(void **state)
{
    struct fixture *f = *state;

    assert_true(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "s", .secret.data = "x" }));
    assert_false(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "s", .secret.data = "x" }));
    assert_false(add(f, (struct object_options){ .type = OBJECT_TYPE_SECRET, .id = "1", .secret.data = "x" }));
}

/* ---- Lists in files ---- */

struct client {
    struct fixture *fixture;
    bool told, cancelled, let_in;
    const char *then; /* the list's policy from now on */
};

static char list_path[] = "/tmp/bulkhead-authz-XXXXXX";

static void write_list(const char *policy)
{
    FILE *file = fopen(list_path, "w");

    assert_non_null(file);
    fprintf(file, "{\"policy\": \"%s\"}", policy);
    fclose(file);
}

static void list_was_read(void *opaque, bool cancelled)
{
    struct client *client = opaque;
    struct error why;

    assert_false(client->told);
    client->told = true;
    client->cancelled = cancelled;
    client->let_in = !cancelled && authz_allows(client->fixture->set, "f", "me", &why);
    if (client->then != NULL)
        write_list(client->then);
}

static void refresh(struct fixture *f, struct client *client)
{
    client->fixture = f;
    authz_refresh(f->set, "f", list_was_read, client);
}

static int setup_file(void **state)
{
    struct object_options options = { .type = OBJECT_TYPE_AUTHZ_LIST_FILE, .id = "f" };
    struct fixture *f;
    int fd = mkstemp(list_path);

    if (fd < 0 || setup(state) < 0)
        return -1;
    close(fd);
    f = *state;
    f->monitor.base = event_base_new();
    if (start_opener(&f->monitor) < 0)
        return -1;
    write_list("allow");
    options.authz_list_file.filename = list_path;
    options.authz_list_file.refresh = true;
    object_add(f->set, &options, qmp_reply_new(done, f));
    let_opener_finish(&f->monitor);
    return f->failed ? -1 : 0;
}

static int teardown_file(void **state)
{
    struct fixture *f = *state;
    struct opener *opener = f->monitor.opener;
    struct event_base *base = f->monitor.base;

    teardown(state);
    opener_free(opener);
    event_base_free(base);
    unlink(list_path);
    strcpy(list_path + strlen(list_path) - 6, "XXXXXX");
    return 0;
}

/* Those that come while the list is read do not hold up the others, and get what was there after they had come. */
static void test_each_waits_for_one_reading_that_began_after_it_came(void **state)
{
    struct fixture *f = *state;
    struct client first = { .then = "deny" };
    struct client later[2] = { 0 };

    refresh(f, &first);
    for (unsigned i = 0; i < ARRAY_SIZE(later); i++)
        refresh(f, &later[i]);
    while (!first.told && !later[0].told)
        event_base_loop(f->monitor.base, EVLOOP_ONCE);
    assert_true(first.told && first.let_in);
    assert_false(later[0].told || later[1].told);
    let_opener_finish(&f->monitor);
    for (unsigned i = 0; i < ARRAY_SIZE(later); i++) {
        assert_true(later[i].told);
        assert_false(later[i].let_in || later[i].cancelled);
    }
}

static void test_all_that_wait_hear_that_the_list_was_removed(void **state)
{
    struct fixture *f = *state;
    struct client clients[3] = { 0 };

    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        refresh(f, &clients[i]);
    assert_int_equal(object_del(f->set, "f", NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        assert_true(clients[i].told && clients[i].cancelled);
}

/* Of the test's processes, which are children of the opener. */
static void kill_children(void)
{
    char text[64];
    FILE *file;
    int pid;

    snprintf(text, sizeof(text), "/proc/self/task/%d/children", (int)getpid());
    file = fopen(text, "r");
    if (file == NULL)
        SKIP("the kernel does not tell of children (CONFIG_PROC_CHILDREN)");
    while (fscanf(file, "%d", &pid) == 1)
        kill(pid, SIGKILL);
    fclose(file);
}

static void test_a_child_that_died_since_is_replaced(void **state)
{
    struct fixture *f = *state;
    struct client first = { 0 };
    struct client client = { 0 };

    refresh(f, &first);
    let_opener_finish(&f->monitor);
    assert_true(first.told && first.let_in);
    kill_children();
    event_base_loop(f->monitor.base, EVLOOP_ONCE); /* the end of its socket */
    refresh(f, &client);
    let_opener_finish(&f->monitor);
    assert_true(client.told && client.let_in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns_that_match),
        cmocka_unit_test(test_patterns_that_do_not_match),
        cmocka_unit_test(test_pattern_takes_bounded_time),
        cmocka_unit_test(test_base64),
        cmocka_unit_test_setup_teardown(test_simple_lets_in_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_rule_that_fits_decides, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_what_is_not_there_lets_nobody_in, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_removed_object_lives_for_its_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_id_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_waits_for_one_reading_that_began_after_it_came, setup_file,
                                        teardown_file),
        cmocka_unit_test_setup_teardown(test_a_child_that_died_since_is_replaced, setup_file, teardown_file),
        cmocka_unit_test_setup_teardown(test_all_that_wait_hear_that_the_list_was_removed, setup_file, teardown_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
