/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both catalogues: a lint of the tables, and for each rule of a row the message that keeps it and the one that breaks
 * it.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "common/ipc/catalogue.h"
#include "common/ipc/channel.h"
#include "common/ipc/worker-page.h"

#define ALL_STATES (IPC_STATE_BIT(WORKER_CREATING) | IPC_STATE_BIT(WORKER_RUNNING) | IPC_STATE_BIT(WORKER_DRAINING))

/* ---- Lint ---- */

static void assert_text(const char *text)
{
    assert_non_null(text);
    assert_true(strlen(text) > 0);
}

static void test_lint_of_the_message_table(void **state)
{
    for (unsigned i = 0; i < ipc_message_rule_count; i++) {
        const struct ipc_message_rule *rule = &ipc_message_rules[i];

        assert_text(rule->name);
        assert_text(rule->doc);
        assert_true(rule->type > 0);
        assert_in_range(rule->len_bytes, sizeof(struct ipc_header), IPC_MESSAGE_MAX);
        assert_true(rule->fd_min <= rule->fd_max && rule->fd_max <= IPC_MAX_FDS);
        assert_true(rule->states != 0 && (rule->states & ~ALL_STATES) == 0);
        assert_true(rule->roles != 0);
        assert_ptr_equal(ipc_message_rule_find(rule->type), rule); /* no duplicate before it */
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(ipc_message_rules[k].name, rule->name);
        /* A row with more than a header has fields to check. */
        assert_true((rule->len_bytes > sizeof(struct ipc_header)) == (rule->check != NULL));
    }
    assert_null(ipc_message_rule_find(0));
}

static void test_lint_of_the_status_table(void **state)
{
    for (unsigned i = 0; i < ipc_status_rule_count; i++) {
        const struct ipc_status_rule *rule = &ipc_status_rules[i];

        assert_text(rule->name);
        assert_text(rule->doc);
        assert_in_range(rule->type, 1, 31); /* a bit of seen_types */
        assert_in_range(rule->len_bytes, 1, sizeof(((struct ipc_status *)NULL)->bytes));
        assert_true(rule->states != 0 && (rule->states & ~ALL_STATES) == 0);
        assert_true(rule->roles != 0);
        assert_ptr_equal(ipc_status_rule_find(rule->type), rule);
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(ipc_status_rules[k].name, rule->name);
    }
    assert_null(ipc_status_rule_find(0));
}

/* ---- Documentation ---- */

static void test_docs_have_every_row(void **state)
{
    char page[65536] = "";
    char path[512];
    char name[64];
    FILE *file;

    if (getenv("srcdir") == NULL) /* set by `make check` */
        SKIP("srcdir is not set: run it by `make check`");
    snprintf(path, sizeof(path), "%s/docs/ipc.md", getenv("srcdir"));
    file = fopen(path, "re");
    assert_non_null(file);
    assert_in_range(fread(page, 1, sizeof(page) - 1, file), 1, sizeof(page) - 2);
    fclose(file);
    for (unsigned i = 0; i < ipc_message_rule_count; i++) {
        snprintf(name, sizeof(name), "\n| `%s` |", ipc_message_rules[i].name);
        if (strstr(page, name) == NULL)
            fail_msg("%s has no row for %s", path, ipc_message_rules[i].name);
    }
    for (unsigned i = 0; i < ipc_status_rule_count; i++) {
        snprintf(name, sizeof(name), "\n| `%s` |", ipc_status_rules[i].name);
        if (strstr(page, name) == NULL)
            fail_msg("%s has no row for %s", path, ipc_status_rules[i].name);
    }
}

/* ---- Control messages ---- */

static struct ipc_client good_client(void)
{
    struct ipc_client client = {
        .negotiated = { .client_id = 1,
                        .export_serial = 2,
                        .flags = IPC_NBD_STRUCTURED_REPLY,
                        .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION },
    };

    channel_fill_header(&client.header, IPC_CLIENT, sizeof(client), 1);
    return client;
}

static int check_client_message(const struct ipc_client *client, struct error *err)
{
    return ipc_message_check(client, sizeof(*client), 1, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, err);
}

static void test_message_that_fits_its_row(void **state)
{
    struct ipc_client client = good_client();
    const struct ipc_message_rule *rule = NULL;

    assert_int_equal(ipc_message_check(&client, sizeof(client), 1, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, &rule, NULL),
                     0);
    assert_string_equal(rule->name, "CLIENT");
}

static void test_errors_message_length(void **state)
{
    struct ipc_client client = good_client();
    struct error err;

    client.header.len_bytes = sizeof(client) - 8;
    assert_int_equal(ipc_message_check(&client, sizeof(client) - 8, 1, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, &err),
                     -EPROTO);
    assert_string_equal(err.text, "message CLIENT: 32 bytes instead of 40");
    assert_int_equal(ipc_message_check(&client, 3, 1, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, &err), -EPROTO);
}

static void test_errors_message_header(void **state)
{
    struct ipc_client client = good_client();
    struct error err;

    client.header.magic = 0;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.header.fd_count = 2;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.header.reserved = 1;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.header.len_bytes++;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
}

static void test_errors_message_type(void **state)
{
    struct ipc_client client = good_client();
    struct error err;

    client.header.type = UINT16_MAX;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    assert_string_equal(err.text, "unknown message type 65535");
}

static void test_errors_message_descriptors(void **state)
{
    struct ipc_client client = good_client();

    for (unsigned count = 0; count < 4; count++) {
        client.header.fd_count = (uint16_t)count;
        assert_int_equal(
            ipc_message_check(&client, sizeof(client), count, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, NULL),
            count == 1 ? 0 : -EPROTO);
    }
}

static void test_errors_message_role(void **state)
{
    struct ipc_client client = good_client();
    static const uint32_t roles[] = { IPC_ROLE_NBD_NEGOTIATOR, 0, 32, UINT32_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(roles); i++)
        assert_int_equal(ipc_message_check(&client, sizeof(client), 1, WORKER_RUNNING, roles[i], NULL, NULL), -EPROTO);
}

static void test_errors_message_state(void **state)
{
    struct ipc_client client = good_client();

    assert_int_equal(ipc_message_check(&client, sizeof(client), 1, WORKER_CREATING, IPC_ROLE_NBD_EXPORT, NULL, NULL),
                     -EPROTO);
    assert_int_equal(ipc_message_check(&client, sizeof(client), 1, WORKER_DRAINING, IPC_ROLE_NBD_EXPORT, NULL, NULL),
                     -EPROTO);
}

static void test_errors_client_fields(void **state)
{
    struct ipc_client client = good_client();
    struct error err;

    client.negotiated.export_serial = 0;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.negotiated.flags |= 1u << 31;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.negotiated.contexts |= 1u << 31;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    client = good_client();
    client.negotiated.flags = 0;
    assert_int_equal(check_client_message(&client, &err), -EPROTO);
    assert_string_equal(err.text, "message CLIENT: meta contexts without structured replies");
}

static void test_drain_is_taken_while_creating_and_running_only(void **state)
{
    struct ipc_drain drain;

    channel_fill_header(&drain.header, IPC_DRAIN, sizeof(drain), 0);
    for (enum worker_state s = WORKER_CREATING; s <= WORKER_GONE; s++)
        assert_int_equal(ipc_message_check(&drain, sizeof(drain), 0, s, IPC_ROLE_NBD_NEGOTIATOR, NULL, NULL),
                         s == WORKER_CREATING || s == WORKER_RUNNING ? 0 : -EPROTO);
}

static void test_errors_negotiate_reserved_field(void **state)
{
    struct ipc_negotiate negotiate = { .reserved = 1 };

    channel_fill_header(&negotiate.header, IPC_NEGOTIATE, sizeof(negotiate), 2);
    assert_int_equal(
        ipc_message_check(&negotiate, sizeof(negotiate), 2, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, NULL, NULL),
        -EPROTO);
    negotiate.reserved = 0;
    assert_int_equal(
        ipc_message_check(&negotiate, sizeof(negotiate), 2, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, NULL, NULL), 0);
}

static void test_errors_probe_without_serial(void **state)
{
    struct ipc_nbd_probe probe = { .serial = 1 };

    channel_fill_header(&probe.header, IPC_NBD_PROBE, sizeof(probe), 0);
    assert_int_equal(ipc_message_check(&probe, sizeof(probe), 0, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, NULL), 0);
    assert_int_equal(ipc_message_check(&probe, sizeof(probe), 0, WORKER_RUNNING, IPC_ROLE_VHOST, NULL, NULL), -EPROTO);
    probe.serial = 0;
    assert_int_equal(ipc_message_check(&probe, sizeof(probe), 0, WORKER_RUNNING, IPC_ROLE_NBD_EXPORT, NULL, NULL),
                     -EPROTO);
}

static void test_errors_messages_of_tls(void **state)
{
    struct ipc_tls_permit permit = { .client_id = 1 };
    struct ipc_tls_relay relay = { .client_id = 1 };
    struct ipc_signer_load load = { .password_len_bytes = TLS_PASSWORD_MAX - 1 };

    channel_fill_header(&permit.header, IPC_TLS_PERMIT, sizeof(permit), 0);
    channel_fill_header(&relay.header, IPC_TLS_RELAY, sizeof(relay), 1);
    channel_fill_header(&load.header, IPC_SIGNER_LOAD, sizeof(load), 2);
    assert_int_equal(
        ipc_message_check(&permit, sizeof(permit), 0, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR_TLS, NULL, NULL), 0);
    assert_int_equal(ipc_message_check(&permit, sizeof(permit), 0, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, NULL, NULL),
                     -EPROTO);
    assert_int_equal(
        ipc_message_check(&relay, sizeof(relay), 1, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR_TLS, NULL, NULL), 0);
    assert_int_equal(ipc_message_check(&load, sizeof(load), 2, WORKER_RUNNING, IPC_ROLE_TLS_SIGNER, NULL, NULL), 0);
    assert_int_equal(ipc_message_check(&load, sizeof(load), 2, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR_TLS, NULL, NULL),
                     -EPROTO); /* no key ever goes there */
    permit.client_id = 0;
    assert_int_equal(
        ipc_message_check(&permit, sizeof(permit), 0, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR_TLS, NULL, NULL),
        -EPROTO);
    load.password_len_bytes++;
    assert_int_equal(ipc_message_check(&load, sizeof(load), 2, WORKER_RUNNING, IPC_ROLE_TLS_SIGNER, NULL, NULL),
                     -EPROTO);
}

/* ---- Status records ---- */

static struct ipc_status status_of(enum ipc_status_type type)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = type;
    return status;
}

/* Check a record of an export in state, from which nothing came before. */
static int check_in(const struct ipc_status *status, enum worker_state state)
{
    uint32_t seen = 0;

    return ipc_status_check(status, state, IPC_ROLE_NBD_EXPORT, &seen, NULL);
}

static struct ipc_status good_ready(void)
{
    struct ipc_status status = status_of(IPC_STATUS_READY);

    status.ready.layers = IPC_LAYERS_ALL;
    status.ready.engine = IPC_ENGINE_URING;
    status.ready.min_block_bytes = 1;
    status.ready.preferred_block_bytes = 4096;
    status.ready.size_bytes = INT64_MAX;
    return status;
}

static void test_ready_is_accepted_once(void **state)
{
    struct ipc_status status = good_ready();
    uint32_t seen = 0;
    struct error err;

    assert_int_equal(ipc_status_check(&status, WORKER_CREATING, IPC_ROLE_NBD_EXPORT, &seen, NULL), 0);
    assert_int_equal(ipc_status_check(&status, WORKER_CREATING, IPC_ROLE_NBD_EXPORT, &seen, &err), -EPROTO);
    assert_string_equal(err.text, "status record READY: sent twice");
}

static void test_ready_after_an_early_drain_is_accepted(void **state)
{
    struct ipc_status status = good_ready();

    assert_int_equal(check_in(&status, WORKER_DRAINING), 0);
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
}

static void test_errors_status_header(void **state)
{
    struct ipc_status status = good_ready();

    status.magic = 0;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status = good_ready();
    status.type = 0;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status.type = UINT32_MAX;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
}

static void test_errors_bytes_after_the_payload(void **state)
{
    struct ipc_status status = good_ready();

    status.bytes[sizeof(status.ready)] = 1;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status.bytes[sizeof(status.ready)] = 0;
    status.bytes[sizeof(status.bytes) - 1] = 1;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
}

static void test_errors_ready_fields(void **state)
{
    struct ipc_status good = good_ready();
    struct ipc_status bad;

    bad = good, bad.ready.layers = IPC_LAYERS_ALL + 1;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.engine = IPC_ENGINE_THREADS + 1;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.export_flags = IPC_EXPORT_FLAGS_ALL + 1;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.size_bytes = (uint64_t)INT64_MAX + 1;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.min_block_bytes = 3;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.preferred_block_bytes = 4097;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.can_fast_zero = 2;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
    bad = good, bad.ready.reserved = 1;
    assert_int_equal(check_in(&bad, WORKER_CREATING), -EPROTO);
}

static void test_errors_failed_fields(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_FAILED);

    status.failed.code = -EIO;
    assert_int_equal(check_in(&status, WORKER_CREATING), 0);
    status.failed.code = 0;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status.failed.code = INT_MIN;
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status.failed.code = -EIO;
    memset(status.failed.text, 'x', sizeof(status.failed.text));
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
}

static void test_errors_log_fields(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_LOG);

    memset(status.log.text, 'x', sizeof(status.log.text) - 1);
    assert_int_equal(check_in(&status, WORKER_RUNNING), 0);
    status.log.text[sizeof(status.log.text) - 1] = 'x';
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
    status = status_of(IPC_STATUS_LOG);
    status.log.level = LOG_LEVEL_DEBUG + 1;
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
}

static void test_errors_client_gone_fields(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_CLIENT_GONE);

    assert_int_equal(check_in(&status, WORKER_RUNNING), 0);
    assert_int_equal(check_in(&status, WORKER_CREATING), -EPROTO);
    status.client_gone.error = 2;
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
    status.client_gone.error = 1;
    memset(status.client_gone.text, 'x', sizeof(status.client_gone.text));
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
}

static void test_errors_io_error_fields(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_IO_ERROR);

    status.io_error.code = -EIO;
    assert_int_equal(check_in(&status, WORKER_RUNNING), 0);
    status.io_error.op = WORKER_PAGE_OPS;
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
    status.io_error.op = 0;
    status.io_error.code = EIO;
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO);
}

static void test_negotiated_comes_from_a_negotiator_once(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_NEGOTIATED);
    uint32_t seen = 0;

    status.negotiated.export_serial = 1;
    assert_int_equal(check_in(&status, WORKER_RUNNING), -EPROTO); /* an export has no say in it */
    assert_int_equal(ipc_status_check(&status, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, &seen, NULL), 0);
    assert_int_equal(ipc_status_check(&status, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, &seen, NULL), -EPROTO);
    seen = 0;
    status.negotiated.flags = 1u << 9;
    assert_int_equal(ipc_status_check(&status, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR, &seen, NULL), -EPROTO);
    assert_int_equal(seen, 0);
}

static void test_nothing_is_accepted_from_one_that_is_gone(void **state)
{
    for (unsigned i = 0; i < ipc_status_rule_count; i++) {
        struct ipc_status status = status_of(ipc_status_rules[i].type);

        assert_int_equal(check_in(&status, WORKER_GONE), -EPROTO);
    }
}

static void test_texts_are_made_printable(void **state)
{
    char text[] = "a\x1b[31mb\n\xc3\xa4\x7f~ ";

    ipc_text_sanitize(text);
    assert_string_equal(text, "a?[31mb????~ ");
}

static int check_peer(const struct ipc_status *status)
{
    uint32_t seen = 0;

    return ipc_status_check(status, WORKER_RUNNING, IPC_ROLE_NBD_NEGOTIATOR_TLS, &seen, NULL);
}

static void test_errors_identity(void **state)
{
    struct ipc_status status = status_of(IPC_STATUS_TLS_PEER);

    assert_int_equal(check_peer(&status), 0); /* nobody in particular */
    status.tls_peer.has_identity = 1;
    assert_int_equal(check_peer(&status), -EPROTO); /* a name that is empty */
    strcpy(status.tls_peer.identity, "CN=\xc3\xa4");
    assert_int_equal(check_peer(&status), 0);
    status.tls_peer.has_identity = 0;
    assert_int_equal(check_peer(&status), -EPROTO);
    status.tls_peer.has_identity = 2;
    assert_int_equal(check_peer(&status), -EPROTO);
    status.tls_peer.has_identity = 1;
    strcpy(status.tls_peer.identity, "CN=\x1b[2J");
    assert_int_equal(check_peer(&status), -EPROTO);
    memset(status.tls_peer.identity, 'x', sizeof(status.tls_peer.identity));
    assert_int_equal(check_peer(&status), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lint_of_the_message_table),
        cmocka_unit_test(test_lint_of_the_status_table),
        cmocka_unit_test(test_docs_have_every_row),
        cmocka_unit_test(test_message_that_fits_its_row),
        cmocka_unit_test(test_errors_message_length),
        cmocka_unit_test(test_errors_message_header),
        cmocka_unit_test(test_errors_message_type),
        cmocka_unit_test(test_errors_message_descriptors),
        cmocka_unit_test(test_errors_message_role),
        cmocka_unit_test(test_errors_message_state),
        cmocka_unit_test(test_errors_client_fields),
        cmocka_unit_test(test_drain_is_taken_while_creating_and_running_only),
        cmocka_unit_test(test_errors_negotiate_reserved_field),
        cmocka_unit_test(test_ready_is_accepted_once),
        cmocka_unit_test(test_ready_after_an_early_drain_is_accepted),
        cmocka_unit_test(test_errors_probe_without_serial),
        cmocka_unit_test(test_errors_messages_of_tls),
        cmocka_unit_test(test_errors_identity),
        cmocka_unit_test(test_errors_status_header),
        cmocka_unit_test(test_errors_bytes_after_the_payload),
        cmocka_unit_test(test_errors_ready_fields),
        cmocka_unit_test(test_errors_failed_fields),
        cmocka_unit_test(test_errors_log_fields),
        cmocka_unit_test(test_errors_client_gone_fields),
        cmocka_unit_test(test_errors_io_error_fields),
        cmocka_unit_test(test_negotiated_comes_from_a_negotiator_once),
        cmocka_unit_test(test_nothing_is_accepted_from_one_that_is_gone),
        cmocka_unit_test(test_texts_are_made_printable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
