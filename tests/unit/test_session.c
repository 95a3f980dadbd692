/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP sessions over socket pairs, with a monitor and a table of commands of the test's own. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cjson/cJSON.h>
#include <event2/event.h>

#include "monitor/qmp/commands.h"
#include "monitor/qmp/session.h"
#include "tests/unit/passed.h"

#define GREETING                                                                                                       \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 10}, \"package\": \"bulkhead " VERSION \
    "\"}, \"capabilities\": []}}"

/* ---- The monitor ---- */

struct monitor {
    struct qmp *qmp;
    struct event_base *base;
    struct qmp_reply *later[4]; /* replies that are owed */
    unsigned later_count;
    unsigned runs;
    char seen[64]; /* the last id that "del" was given */
};

struct qmp *monitor_qmp(struct monitor *monitor)
{
    return monitor->qmp;
}

static void run_now(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    monitor->runs++;
    qmp_reply_ok(reply, NULL);
}

static void run_later(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    monitor->later[monitor->later_count++] = reply;
}

static void run_del(struct monitor *monitor, const void *args_value, struct qmp_reply *reply)
{
    const struct block_export_del_args *args = args_value;
    struct error err;

    snprintf(monitor->seen, sizeof(monitor->seen), "%s/%d", args->id, (int)args->mode);
    error_set_class(&err, -ENOENT, ERROR_CLASS_DEVICE_NOT_FOUND, "export '%s' does not exist", args->id);
    qmp_reply_error(reply, &err);
}

/* A reply of about 100 kB. */
static void run_big(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    static struct command_info items[4096];

    monitor->runs++;
    for (unsigned i = 0; i < ARRAY_SIZE(items); i++)
        items[i].name = "0123456789";
    qmp_reply_ok(reply, &(struct command_info_list){ items, ARRAY_SIZE(items) });
}

static const struct qmp_command commands[] = {
    { "qmp_capabilities", &schema_qmp_capabilities_args, NULL, qmp_run_qmp_capabilities, QMP_COMMAND_PRECONFIG, "" },
    { "query-version", NULL, &schema_version_info, qmp_run_query_version, 0, "" },
    { "query-commands", NULL, &schema_command_info_list, qmp_run_query_commands, 0, "" },
    { "query-qmp-schema", NULL, &schema_schema_info_list, qmp_run_query_qmp_schema, 0, "" },
    { "now", NULL, NULL, run_now, 0, "" },
    { "later", NULL, NULL, run_later, 0, "" },
    { "del", &schema_block_export_del_args, NULL, run_del, 0, "" },
    { "big", NULL, &schema_command_info_list, run_big, 0, "" },
};

/* ---- Clients ---- */

struct client {
    int fd;
    struct qmp_session *session;
    char received[1 << 16];
    size_t len;
    bool closed; /* the server closed the connection */
};

static unsigned sessions_closed;

static void on_closed(void *opaque)
{
    sessions_closed++;
}

static struct client *client_new(struct monitor *monitor, bool pretty)
{
    struct client *client = calloc(1, sizeof(*client));
    struct qmp_session_options options = { .label = "client", .pretty = pretty, .closed = on_closed };
    int fds[2];
    struct error err;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    client->fd = fds[0];
    /* Little room, so that large replies are written in many pieces. */
    assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &(int){ 16384 }, sizeof(int)), 0);
    assert_int_equal(qmp_session_new(monitor->qmp, fds[1], fds[1], &options, &client->session, &err), 0);
    return client;
}

static void client_free(struct client *client)
{
    close_fd(&client->fd);
    free(client);
}

static void client_send(struct client *client, const char *text)
{
    assert_int_equal(send(client->fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void turn(struct monitor *monitor)
{
    event_base_loop(monitor->base, EVLOOP_NONBLOCK);
}

static void client_receive(struct client *client)
{
    ssize_t n = recv(client->fd, client->received + client->len, sizeof(client->received) - 1 - client->len, 0);

    if (n > 0)
        client->len += (size_t)n;
    client->closed |= n == 0 || (n < 0 && errno != EAGAIN);
    client->received[client->len] = '\0';
}

/* The next line that came, cut at its CRLF; fails when none comes. */
static const char *next_line(struct monitor *monitor, struct client *client)
{
    static char line[1 << 16];
    char *end = NULL;

    for (unsigned i = 0; i < 10000 && end == NULL; i++) {
        turn(monitor);
        client_receive(client);
        end = strstr(client->received, "\r\n");
    }
    if (end == NULL)
        fail_msg("no line came, only '%s'", client->received);
    memcpy(line, client->received, (size_t)(end - client->received));
    line[end - client->received] = '\0';
    client->len -= (size_t)(end + 2 - client->received);
    memmove(client->received, end + 2, client->len + 1);
    return line;
}

static void assert_line(struct monitor *monitor, struct client *client, const char *expected)
{
    assert_string_equal(next_line(monitor, client), expected);
}

static void assert_silence(struct monitor *monitor, struct client *client)
{
    for (unsigned i = 0; i < 20; i++) {
        turn(monitor);
        client_receive(client);
    }
    assert_string_equal(client->received, "");
    assert_false(client->closed);
}

static void assert_closed(struct monitor *monitor, struct client *client)
{
    for (unsigned i = 0; i < 100000 && !client->closed; i++) {
        turn(monitor);
        client->len = 0;
        client_receive(client);
    }
    assert_true(client->closed);
}

/* A client that has negotiated. */
static struct client *negotiated_client(struct monitor *monitor)
{
    struct client *client = client_new(monitor, false);

    assert_line(monitor, client, GREETING);
    client_send(client, "{\"execute\":\"qmp_capabilities\"}");
    assert_line(monitor, client, "{\"return\": {}}");
    return client;
}

static void run_for(struct monitor *monitor, struct client *client, const char *request, const char *reply)
{
    client_send(client, request);
    assert_line(monitor, client, reply);
}

static int setup(void **state)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    struct error err;

    monitor->base = event_base_new();
    sessions_closed = 0;
    *state = monitor;
    if (qmp_new(monitor, monitor->base, commands, ARRAY_SIZE(commands), &monitor->qmp, &err) < 0)
        return -1;
    qmp_serve(monitor->qmp);
    return 0;
}

static int teardown(void **state)
{
    struct monitor *monitor = *state;

    qmp_free(monitor->qmp);
    event_base_free(monitor->base);
    free(monitor);
    return 0;
}

/* ---- Negotiation ---- */

static void test_a_client_is_greeted(void **state)
{
    struct client *client = client_new(*state, false);

    assert_line(*state, client, GREETING);
    assert_silence(*state, client);
    client_free(client);
}

static void test_only_qmp_capabilities_runs_before_negotiation(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = client_new(monitor, false);

    next_line(monitor, client);
    run_for(
        monitor, client, "{\"execute\":\"now\",\"id\":1}",
        "{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation with "
        "'qmp_capabilities' before 'now'\"}}");
    run_for(monitor, client, "{\"execute\":\"nonsense\"}",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation with "
            "'qmp_capabilities' before 'nonsense'\"}}");
    assert_int_equal(monitor->runs, 0);
    run_for(monitor, client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}", "{\"return\": {}}");
    run_for(monitor, client, "{\"execute\":\"now\"}", "{\"return\": {}}");
    client_free(client);
}

static void test_negotiation_happens_once(void **state)
{
    struct client *client = negotiated_client(*state);

    run_for(*state, client, "{\"execute\":\"qmp_capabilities\"}",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities negotiation is already complete, "
            "'qmp_capabilities' comes too late\"}}");
    client_free(client);
}

static void test_a_capability_that_is_not_offered_is_refused(void **state)
{
    struct client *client = client_new(*state, false);

    next_line(*state, client);
    run_for(*state, client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"member 'enable': the capability 'oob' is not "
            "offered\"}}");
    run_for(*state, client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"x\"]}}",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'enable.0' does not accept value 'x'; "
            "there is 'oob'\"}}");
    run_for(*state, client, "{\"execute\":\"qmp_capabilities\"}", "{\"return\": {}}");
    client_free(client);
}

/* ---- Requests ---- */

static void test_any_id_comes_back(void **state)
{
    static const char *const ids[] = { "1",    "-1.50",   "18446744073709551617", "\"a\\u00e9\"", "null",
                                       "true", "[1, {}]", "{\"a\": {\"b\": []}}" };
    struct client *client = negotiated_client(*state);

    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        char request[200];
        char reply[200];

        snprintf(request, sizeof(request), "{\"id\":%s,\"execute\":\"now\"}", ids[i]);
        snprintf(reply, sizeof(reply), "{\"return\": {}, \"id\": %s}", ids[i]);
        run_for(*state, client, request, reply);
        snprintf(request, sizeof(request), "{\"execute\":\"now\",\"arguments\":1,\"id\":%s}", ids[i]);
        snprintf(reply, sizeof(reply),
                 "{\"id\": %s, \"error\": {\"class\": \"GenericError\", "
                 "\"desc\": \"QMP input member 'arguments' must be an object\"}}",
                 ids[i]);
        run_for(*state, client, request, reply);
    }
    client_free(client);
}

static void test_malformed_requests_are_refused(void **state)
{
    static const struct {
        const char *request;
        const char *desc;
    } cases[] = {
        { "{}", "QMP input lacks member 'execute'" },
        { "{\"execute\":1}", "QMP input member 'execute' must be a string" },
        { "{\"Execute\":\"now\"}", "QMP input member 'Execute' is unexpected" },
        { "{\"execute\":\"now\",\"extra\":1}", "QMP input member 'extra' is unexpected" },
        { "{\"exec-oob\":\"now\"}", "QMP input member 'exec-oob' is unexpected: the capability 'oob' is not offered" },
        { "{\"execute\":\"now\",\"arguments\":[]}", "QMP input member 'arguments' must be an object" },
        { "{\"execute\":\"now\",\"arguments\":{\"x\":1}}", "Parameter 'x' is unexpected" },
        { "{\"execute\":\"del\"}", "Parameter 'id' is missing" },
        { "{\"execute\":\"del\",\"arguments\":{\"id\":\"a\",\"mode\":true}}",
          "Invalid parameter type for 'mode', expected: string" },
        { "[]", "QMP input must be a JSON object" },
        { "1 ", "QMP input must be a JSON object" },
        { "{\"execute\":\"now\",\"execute\":\"now\"}", "JSON parse error at byte 26: duplicate member 'execute'" },
    };
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        char reply[300];

        snprintf(reply, sizeof(reply), "{\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}", cases[i].desc);
        run_for(monitor, client, cases[i].request, reply);
    }
    assert_int_equal(monitor->runs, 0);
    assert_string_equal(monitor->seen, "");
    client_free(client);
}

static void test_a_command_gets_its_arguments_and_its_error_has_a_class(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    run_for(monitor, client, "{\"execute\":\"del\",\"arguments\":{\"id\":\"x\",\"mode\":\"hard\"}}",
            "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"export 'x' does not exist\"}}");
    assert_string_equal(monitor->seen, "x/1");
    run_for(monitor, client, "{\"execute\":\"nonsense\"}",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nonsense has not been found\"}}");
    client_free(client);
}

static void test_commands_may_come_many_in_one_write_or_one_in_many(void **state)
{
    static const char request[] = "{\"execute\": \"now\", \"id\": 7}";
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    for (unsigned i = 0; i < 100; i++)
        client_send(client, request);
    for (unsigned i = 0; i < 100; i++)
        assert_line(monitor, client, "{\"return\": {}, \"id\": 7}");
    for (unsigned i = 0; i < strlen(request); i++) {
        char byte[2] = { request[i] };

        assert_silence(monitor, client);
        client_send(client, byte);
    }
    assert_line(monitor, client, "{\"return\": {}, \"id\": 7}");
    assert_int_equal(monitor->runs, 101);
    client_free(client);
}

static void test_a_session_goes_on_after_garbage(void **state)
{
    struct client *client = negotiated_client(*state);

    run_for(
        *state, client, "garbage\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error at byte 7: a value is expected\"}}");
    run_for(
        *state, client, "{\"execute\": \xff",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error at byte 13: a byte that UTF-8 never "
        "has\"}}");
    run_for(*state, client, "{\"execute\": \"now\"}", "{\"return\": {}}");
    client_free(client);
}

/* ---- Deferred replies ---- */

static void test_the_next_command_waits_for_a_deferred_reply(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);
    struct client *other = negotiated_client(monitor);
    struct error err;

    client_send(client,
                "{\"execute\":\"later\",\"id\":1}{\"execute\":\"now\",\"id\":2}{\"execute\":\"later\",\"id\":3}");
    assert_silence(monitor, client);
    assert_int_equal(monitor->later_count, 1);
    assert_int_equal(monitor->runs, 0);
    run_for(monitor, other, "{\"execute\":\"now\"}", "{\"return\": {}}");
    qmp_reply_ok(monitor->later[0], NULL);
    assert_line(monitor, client, "{\"return\": {}, \"id\": 1}");
    assert_line(monitor, client, "{\"return\": {}, \"id\": 2}");
    assert_silence(monitor, client);
    error_set(&err, -EIO, "it went wrong");
    qmp_reply_error(monitor->later[1], &err);
    assert_line(monitor, client, "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"it went wrong\"}}");
    client_free(client);
    client_free(other);
}

static void test_a_reply_to_a_client_that_is_gone_vanishes(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    client_send(client, "{\"execute\":\"later\"}{\"execute\":\"now\"}");
    assert_silence(monitor, client);
    client_free(client);
    turn(monitor);
    qmp_reply_ok(monitor->later[0], NULL);
    for (unsigned i = 0; i < 10; i++)
        turn(monitor);
    assert_int_equal(qmp_session_count(monitor->qmp), 0);
    assert_int_equal(sessions_closed, 1);
}

static void test_a_reply_after_the_session_was_closed_vanishes(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    client_send(client, "{\"execute\":\"later\"}");
    assert_silence(monitor, client);
    qmp_session_close(client->session);
    qmp_reply_ok(monitor->later[0], NULL);
    assert_int_equal(sessions_closed, 0);
    assert_closed(monitor, client);
    client_free(client);
}

static int done_code;

static void on_done(const struct error *err, void *opaque)
{
    done_code = err != NULL ? err->code : 0;
    (*(unsigned *)opaque)++;
}

static void test_the_command_line_gets_replies_too(void **state)
{
    struct error err;
    unsigned calls = 0;

    qmp_reply_ok(qmp_reply_new(on_done, &calls), "whatever");
    assert_int_equal(calls, 1);
    assert_int_equal(done_code, 0);
    error_set(&err, -EBUSY, "busy");
    qmp_reply_error(qmp_reply_new(on_done, &calls), &err);
    assert_int_equal(calls, 2);
    assert_int_equal(done_code, -EBUSY);
}

/* ---- The end of input ---- */

static void test_a_client_that_stops_sending_gets_all_replies(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);

    client_send(client, "{\"execute\":\"later\"}{\"execute\":\"now\",\"id\":2}{\"unfinished\":");
    shutdown(client->fd, SHUT_WR);
    assert_silence(monitor, client);
    qmp_reply_ok(monitor->later[0], NULL);
    assert_line(monitor, client, "{\"return\": {}}");
    assert_line(monitor, client, "{\"return\": {}, \"id\": 2}");
    assert_closed(monitor, client);
    assert_int_equal(qmp_session_count(monitor->qmp), 0);
    assert_int_equal(sessions_closed, 1);
    client_free(client);
}

/* ---- Events ---- */

static void send_deleted(struct monitor *monitor, const char *id)
{
    struct block_export_deleted data = { id };

    qmp_send_event(monitor, "BLOCK_EXPORT_DELETED", &schema_block_export_deleted, &data);
}

static void test_events_go_to_everybody_who_has_negotiated(void **state)
{
    struct monitor *monitor = *state;
    struct client *first = negotiated_client(monitor);
    struct client *second = negotiated_client(monitor);
    struct client *silent = client_new(monitor, false);

    next_line(monitor, silent);
    send_deleted(monitor, "e");
    for (struct client *client = first; client != NULL; client = client == first ? second : NULL) {
        struct cJSON *event = cJSON_Parse(next_line(monitor, client));
        struct cJSON *stamp = cJSON_GetObjectItem(event, "timestamp");

        assert_ptr_equal(event->child, stamp); /* the order is qemu-storage-daemon's */
        assert_string_equal(stamp->next->string, "event");
        assert_string_equal(stamp->next->next->string, "data");
        assert_string_equal(cJSON_GetObjectItem(event, "event")->valuestring, "BLOCK_EXPORT_DELETED");
        assert_string_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(event, "data"), "id")->valuestring, "e");
        assert_true(cJSON_GetObjectItem(stamp, "seconds")->valuedouble > 1.7e9);
        assert_in_range(cJSON_GetObjectItem(stamp, "microseconds")->valueint, 0, 999999);
        cJSON_Delete(event);
    }
    assert_silence(monitor, silent);
    qmp_send_event(monitor, "EMPTY", NULL, NULL);
    assert_null(strstr(next_line(monitor, first), "data"));
    client_free(first);
    client_free(second);
    client_free(silent);
}

/* ---- Clients that do not read ---- */

static void test_a_client_that_does_not_read_is_not_served_further(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);
    unsigned before;

    for (unsigned i = 0; i < 100; i++)
        client_send(client, "{\"execute\":\"big\"}");
    for (unsigned i = 0; i < 1000; i++)
        turn(monitor);
    before = monitor->runs;
    assert_in_range(before, 1, 20); /* what the socket holds, and one that waits */
    for (unsigned i = 0; i < 100000 && monitor->runs < 100; i++) {
        turn(monitor);
        client->len = 0;
        client_receive(client);
    }
    assert_int_equal(monitor->runs, 100); /* it read again */
    client_free(client);
}

static void test_a_client_that_does_not_read_its_events_is_disconnected(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);
    struct client *other = negotiated_client(monitor);
    char id[1001];
    unsigned i;

    memset(id, 'x', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    for (i = 0; i < 10000 && qmp_session_count(monitor->qmp) == 2; i++) {
        send_deleted(monitor, id);
        next_line(monitor, other);
    }
    assert_in_range(i, QMP_OUTPUT_MAX_BYTES / 1200, 10000 - 1);
    assert_closed(monitor, client);
    run_for(monitor, other, "{\"execute\":\"now\"}", "{\"return\": {}}");
    client_free(client);
    client_free(other);
}

/* ---- Limits, the end ---- */

static void test_the_number_of_sessions_is_limited(void **state)
{
    struct monitor *monitor = *state;
    struct client *clients[QMP_SESSIONS_MAX];
    struct qmp_session_options options = { .label = "one too many" };
    struct qmp_session *session;
    struct error err;
    int fds[2];

    for (unsigned i = 0; i < QMP_SESSIONS_MAX; i++)
        clients[i] = client_new(monitor, false);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(qmp_session_new(monitor->qmp, fds[1], fds[1], &options, &session, &err), -EMFILE);
    assert_string_equal(err.text, "one too many: refused: there are 64 QMP clients already");
    assert_int_equal(fcntl(fds[1], F_GETFD), -1); /* it is closed */
    close(fds[0]);
    for (unsigned i = 0; i < QMP_SESSIONS_MAX; i++)
        client_free(clients[i]);
}

static void test_flush_writes_what_waits_and_gives_up_in_time(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);
    struct client *slow = negotiated_client(monitor);
    uint64_t start;

    for (unsigned i = 0; i < 50; i++)
        client_send(slow, "{\"execute\":\"big\"}");
    for (unsigned i = 0; i < 100; i++)
        turn(monitor);
    client_send(client, "{\"execute\":\"later\"}");
    assert_silence(monitor, client);
    qmp_reply_ok(monitor->later[0], NULL);
    start = now_ns();
    qmp_flush(monitor->qmp, 50);
    assert_in_range((now_ns() - start) / 1000000, 40, 5000);
    client_receive(client);
    assert_string_equal(client->received, "{\"return\": {}}\r\n");
    client_free(client);
    client_free(slow);
}

/* ---- The other built-in commands ---- */

static void test_pretty_output_is_indented(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = client_new(monitor, true);

    assert_non_null(strstr(next_line(monitor, client), "{\n    \"QMP\": {\n        \"version\""));
    run_for(monitor, client, "{\"execute\":\"qmp_capabilities\",\"id\":1}", "{\n    \"return\": {},\n    \"id\": 1\n}");
    client_free(client);
}

static void test_version_and_commands_can_be_asked_for(void **state)
{
    struct client *client = negotiated_client(*state);
    const char *line;

    run_for(*state, client, "{\"execute\":\"query-version\"}",
            "{\"return\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 10}, \"package\": \"bulkhead " VERSION
            "\"}}");
    client_send(client, "{\"execute\":\"query-commands\"}");
    line = next_line(*state, client);
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        assert_non_null(strstr(line, commands[i].name));
    client_free(client);
}

static void test_the_schema_can_be_asked_for(void **state)
{
    struct client *client = negotiated_client(*state);
    const char *line;

    client_send(client, "{\"execute\":\"query-qmp-schema\"}");
    line = next_line(*state, client);
    assert_non_null(strstr(line,
                           "{\"name\": \"del\", \"meta-type\": \"command\", \"arg-type\": \"block-export-del-arg\", "
                           "\"ret-type\": \"Empty\"}"));
    assert_non_null(strstr(line, "{\"name\": \"mode\", \"type\": \"BlockExportRemoveMode\", \"default\": null}"));
    client_free(client);
}

/* A client passes a descriptor along with an 'x'. */
static int pass_lingering(const struct client *client)
{
    int peer;
    int fd = lingering(&peer);

    assert_int_equal(pass(client->fd, fd), 0);
    close_fd(&fd);
    return peer;
}

static void test_a_client_that_passes_descriptors_holds_up_nobody(void **state)
{
    struct monitor *monitor = *state;
    struct client *client = negotiated_client(monitor);
    uint64_t before = now_ns();
    int peers[2];

    peers[0] = pass_lingering(client); /* closed by reading */
    client_send(client, "\n");
    assert_non_null(strstr(next_line(monitor, client), "JSON parse error"));
    peers[1] = pass_lingering(client); /* closed with the session */
    qmp_session_close(client->session);
    assert_true(now_ns() - before < LINGER_SECONDS * 1000000000ull / 2);
    close_fd(&peers[0]);
    close_fd(&peers[1]);
    client_free(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_client_is_greeted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_passes_descriptors_holds_up_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_qmp_capabilities_runs_before_negotiation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_negotiation_happens_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_capability_that_is_not_offered_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_id_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed_requests_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_command_gets_its_arguments_and_its_error_has_a_class, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commands_may_come_many_in_one_write_or_one_in_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_session_goes_on_after_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_next_command_waits_for_a_deferred_reply, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reply_to_a_client_that_is_gone_vanishes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reply_after_the_session_was_closed_vanishes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_command_line_gets_replies_too, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_stops_sending_gets_all_replies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_events_go_to_everybody_who_has_negotiated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_does_not_read_is_not_served_further, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_does_not_read_its_events_is_disconnected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_number_of_sessions_is_limited, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_writes_what_waits_and_gives_up_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pretty_output_is_indented, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version_and_commands_can_be_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_schema_can_be_asked_for, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
