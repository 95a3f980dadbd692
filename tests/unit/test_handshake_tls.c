/* SPDX-License-Identifier: BSD-2-Clause */
/* Option haggling of a server that requires TLS ("TLS support", FORCEDTLS): what is said in clear, and what is forgotten. */
#include "tests/unit/unit.h"

#include <endian.h>
#include <stdlib.h>

#include "nbd-worker/negotiate/options.h"
#include "tests/unit/nbd_directory.h"

struct fixture {
    struct nbd_directory *directory;
    struct nbd_directory_view view;
    struct handshake hs;
};

static void send_bytes(struct fixture *f, const void *data, size_t len_bytes)
{
    const uint8_t *p = data;
    const uint8_t *out;
    uint8_t *buffer;
    size_t n;

    while (len_bytes > 0) {
        while ((n = handshake_output(&f->hs, &out)) > 0)
            handshake_sent(&f->hs, n);
        n = MIN(handshake_wanted(&f->hs, &buffer), len_bytes);
        if (n == 0)
            return;
        memcpy(buffer, p, n);
        handshake_received(&f->hs, n);
        p += n;
        len_bytes -= n;
    }
}

static int setup(void **state)
{
    static const struct test_export exports[] = {
        { "disk", "", { .serial = 7, .size_bytes = 4096, .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION } },
    };
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    struct fixture *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return -1;
    f->directory = test_directory_new(exports, 1);
    f->view.directory = f->directory;
    handshake_init(&f->hs, &f->view);
    handshake_require_tls(&f->hs);
    send_bytes(f, &flags, sizeof(flags));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    free(f->directory);
    free(f);
    return 0;
}

/* Send an option; the type of the (first) reply, 0: none. */
static uint32_t option(struct fixture *f, uint32_t number, const void *data, size_t len_bytes)
{
    struct nbd_option_header header = {
        .magic = htobe64(NBD_NEW_VERSION), .option = htobe32(number), .len_bytes = htobe32((uint32_t)len_bytes),
    };
    struct nbd_option_reply reply;
    const uint8_t *out;

    send_bytes(f, &header, sizeof(header));
    send_bytes(f, data, len_bytes);
    if (handshake_output(&f->hs, &out) < sizeof(reply))
        return 0;
    memcpy(&reply, out, sizeof(reply));
    return be32toh(reply.type);
}

static void drain(struct fixture *f)
{
    const uint8_t *out;
    size_t n;

    while ((n = handshake_output(&f->hs, &out)) > 0)
        handshake_sent(&f->hs, n);
}

static void test_every_other_option_needs_tls(void **state)
{
    struct fixture *f = *state;
    static const char data[20] = "";

    for (uint32_t number = 2; number < 300; number++) {
        if (number == NBD_OPT_STARTTLS || number == NBD_OPT_ABORT)
            continue;
        assert_int_equal(option(f, number, data, number % sizeof(data)), NBD_REP_ERR_TLS_REQD);
        assert_int_equal(f->hs.state, HANDSHAKE_OPTION_HEADER);
    }
}

static void test_data_of_refused_options_pass_by(void **state)
{
    struct fixture *f = *state;
    char *data = calloc(1, 1 << 20);

    assert_int_equal(option(f, NBD_OPT_GO, data, 1 << 20), NBD_REP_ERR_TLS_REQD);
    assert_int_equal(option(f, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ACK);
    free(data);
}

static void test_export_name_ends_the_connection(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(option(f, NBD_OPT_EXPORT_NAME, "disk", 4), 0);
    assert_int_equal(f->hs.state, HANDSHAKE_ENDED);
    assert_false(f->hs.left_in_order);
}

static void test_abort_is_answered(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(option(f, NBD_OPT_ABORT, NULL, 0), NBD_REP_ACK);
    assert_int_equal(f->hs.state, HANDSHAKE_ENDED);
    assert_true(f->hs.left_in_order);
}

static void test_who_gives_up_without_tls_is_told_of(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(option(f, NBD_OPT_LIST, NULL, 0), NBD_REP_ERR_TLS_REQD);
    assert_int_equal(option(f, NBD_OPT_ABORT, NULL, 0), NBD_REP_ACK);
    assert_int_equal(f->hs.state, HANDSHAKE_ENDED);
    assert_false(f->hs.left_in_order);
    assert_non_null(strstr(f->hs.reason, "without TLS"));
}

static void test_starttls_wants_no_byte_more(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer;

    assert_int_equal(option(f, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ACK);
    assert_int_equal(f->hs.state, HANDSHAKE_STARTTLS);
    assert_int_equal(handshake_wanted(&f->hs, &buffer), 0);
    drain(f);
    assert_int_equal(handshake_wanted(&f->hs, &buffer), 0);
}

static void test_errors_starttls_with_data(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(option(f, NBD_OPT_STARTTLS, "x", 1), NBD_REP_ERR_INVALID);
    assert_int_equal(f->hs.state, HANDSHAKE_OPTION_HEADER);
}

static void test_what_was_agreed_on_before_is_forgotten(void **state)
{
    struct fixture *f = *state;

    /* Nothing of this can be agreed on in clear; it must be gone even if it could. */
    f->hs.structured_reply = f->hs.extended_headers = true;
    f->hs.contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION;
    f->hs.contexts_serial = f->hs.chosen_serial = 7;
    assert_int_equal(option(f, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ACK);
    drain(f);
    handshake_tls_started(&f->hs);
    assert_false(f->hs.structured_reply);
    assert_false(f->hs.extended_headers);
    assert_int_equal(f->hs.contexts, 0);
    assert_int_equal(f->hs.contexts_serial, 0);
    assert_int_equal(f->hs.chosen_serial, 0);
    assert_true(f->hs.fixed_newstyle); /* the client's flags are sent once, before */
    assert_int_equal(option(f, NBD_OPT_STRUCTURED_REPLY, NULL, 0), NBD_REP_ACK);
    drain(f);
    assert_int_equal(option(f, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ERR_INVALID);
}

static void test_errors_tls_is_not_configured(void **state)
{
    struct fixture *f = *state;

    f->hs.tls = HANDSHAKE_TLS_NONE;
    assert_int_equal(option(f, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ERR_POLICY);
    assert_int_equal(f->hs.state, HANDSHAKE_OPTION_HEADER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_other_option_needs_tls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_data_of_refused_options_pass_by, setup, teardown),
        cmocka_unit_test_setup_teardown(test_export_name_ends_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_is_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_gives_up_without_tls_is_told_of, setup, teardown),
        cmocka_unit_test_setup_teardown(test_starttls_wants_no_byte_more, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_starttls_with_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_agreed_on_before_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_tls_is_not_configured, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
