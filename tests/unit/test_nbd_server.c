/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of exports and the way of a client through the NBD server, with workers that the test plays: what the
 * monitor sends is looked at, what workers report may be any lie. Sockets, memfds, locks and the event loop are real.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/ipc/channel.h"
#include "common/net/nbd-protocol.h"
#include "monitor/export/export.h"
#include "monitor/export/nbd-private.h"
#include "monitor/export/nbd-server.h"
#include "monitor/graph/node.h"
#include "monitor/graph/objects.h"
#include "monitor/monitor.h"
#include "monitor/qmp/session.h"
#include "nbd-worker/negotiate/directory.h"
#include "tests/unit/opener_children.h"

/* Until locks have been given back, and images closed. */
static void let_locks_go(void);

/* ---- Workers that the test plays ---- */

#define WORKERS_MAX 128
#define SENT_MAX    16

struct sent {
    enum ipc_type type;
    union {
        struct ipc_negotiate negotiate;
        struct ipc_client client;
        uint8_t bytes[256];
    };
    int fds[2];
};

struct worker_handle {
    uint32_t role;
    enum worker_state state;
    const struct worker_ops *ops;
    void *opaque;
    struct ipc_boot boot;
    struct ipc_status_ready ready;
    struct worker_page page;
    bool asked_to_go;
    bool killed;
    uint64_t probe; /* serial of the one that is to be answered; 0: none */
    bool hung;
    struct sent sent[SENT_MAX];
    unsigned sent_count;
};

static struct worker_handle *workers[WORKERS_MAX];
static unsigned worker_count; /* ever spawned */
static int spawn_result;
static int send_result;

int worker_spawn(struct worker_set *set, const struct ipc_boot *boot, const int *image_fds,
                 const struct worker_ops *ops, void *opaque, struct worker_handle **ret_worker, struct error *err)
{
    struct worker_handle *worker;

    if (spawn_result < 0)
        return error_set(err, spawn_result, "no process for you");
    assert_true(worker_count < WORKERS_MAX);
    worker = calloc(1, sizeof(*worker));
    assert_non_null(worker);
    worker->role = boot->role;
    worker->ops = ops;
    worker->opaque = opaque;
    worker->boot = *boot;
    workers[worker_count++] = worker;
    *ret_worker = worker;
    return 0;
}

/* Who hands it its image and its BOOT is not looked at: a channel takes them. */
int worker_spawn_unbooted(struct worker_set *set, const struct ipc_boot *boot, const struct worker_ops *ops,
                          void *opaque, struct worker_boot *ret_boot, struct worker_handle **ret_worker,
                          struct error *err)
{
    static int ends[2] = { -1, -1 };
    int r = worker_spawn(set, boot, NULL, ops, opaque, ret_worker, err);

    if (r < 0)
        return r;
    close_fd(&ends[0]);
    close_fd(&ends[1]);
    assert_int_equal(channel_new(&ends[0], &ends[1], NULL), 0);
    *ret_boot =
        (struct worker_boot){ .message = *boot, .control_fd = ends[0], .page_fd = open("/dev/null", O_CLOEXEC) };
    return 0;
}

int worker_send(struct worker_handle *worker, enum ipc_type type, void *message, size_t len_bytes, const int *fds,
                unsigned fd_count)
{
    struct sent *sent = &worker->sent[worker->sent_count];
    struct error err;

    if (send_result < 0)
        return send_result;
    channel_fill_header(message, type, len_bytes, fd_count);
    if (ipc_message_check(message, len_bytes, fd_count, worker->state, worker->role, NULL, &err) < 0)
        fail_msg("the monitor sends what the catalogue refuses: %s", err.text);
    if (type == IPC_NBD_PROBE) {
        worker->probe = ((const struct ipc_nbd_probe *)message)->serial;
        return 0;
    }
    assert_true(worker->sent_count < SENT_MAX && len_bytes <= sizeof(sent->bytes) && fd_count <= 2);
    worker->sent_count++;
    sent->type = type;
    memcpy(sent->bytes, message, len_bytes);
    for (unsigned i = 0; i < 2; i++)
        sent->fds[i] = i < fd_count ? fcntl(fds[i], F_DUPFD_CLOEXEC, 0) : -1;
    return 0;
}

void worker_drain(struct worker_handle *worker, unsigned timeout_ms)
{
    worker->asked_to_go = true;
    if (worker->state < WORKER_DRAINING)
        worker->state = WORKER_DRAINING;
}

void worker_kill(struct worker_handle *worker, const char *why)
{
    worker->asked_to_go = true;
    worker->killed = true;
}

enum worker_state worker_get_state(const struct worker_handle *worker)
{
    return worker->state;
}

pid_t worker_get_pid(const struct worker_handle *worker)
{
    return 4711;
}

uint32_t worker_get_role(const struct worker_handle *worker)
{
    return worker->role;
}

const char *worker_get_role_name(const struct worker_handle *worker)
{
    return "played";
}

const struct ipc_status_ready *worker_get_ready(const struct worker_handle *worker)
{
    return &worker->ready;
}

const struct worker_page *worker_get_page(const struct worker_handle *worker)
{
    return &worker->page;
}

bool worker_may_log(struct worker_handle *worker)
{
    return true;
}

static void report_ready_with(struct worker_handle *worker, uint64_t size_bytes, uint32_t min_block_bytes)
{
    worker->state = WORKER_RUNNING;
    worker->ready.size_bytes = size_bytes;
    worker->ready.min_block_bytes = min_block_bytes;
    worker->ops->ready(worker, &worker->ready, worker->opaque);
}

static void report_ready(struct worker_handle *worker)
{
    report_ready_with(worker, 1 << 20, 1);
}

/* What the monitor says to it; one that is refused would be killed. */
static int report(struct worker_handle *worker, struct ipc_status status)
{
    uint32_t seen = 0;
    struct error err;

    status.magic = IPC_MAGIC;
    if (ipc_status_check(&status, worker->state, worker->role, &seen, &err) < 0)
        fail_msg("the catalogue refuses it first: %s", err.text);
    return worker->ops->status(worker, &status, worker->opaque);
}

static int report_negotiated(struct worker_handle *worker, uint64_t client, uint64_t serial, uint32_t flags,
                             uint32_t contexts)
{
    return report(worker, (struct ipc_status){ .type = IPC_STATUS_NEGOTIATED,
                                               .negotiated = { client, serial, flags, contexts } });
}

static int report_client_gone(struct worker_handle *worker, uint64_t client)
{
    return report(worker,
                  (struct ipc_status){ .type = IPC_STATUS_CLIENT_GONE, .client_gone = { .client_id = client } });
}

static int report_client_left(struct worker_handle *worker, uint64_t client)
{
    return report(worker,
                  (struct ipc_status){ .type = IPC_STATUS_CLIENT_LEFT, .client_left = { .client_id = client } });
}

static int report_probed(struct worker_handle *worker)
{
    uint64_t serial = worker->probe;

    worker->probe = 0;
    return report(worker, (struct ipc_status){ .type = IPC_STATUS_NBD_PROBED, .nbd_probed = { .serial = serial } });
}

static void answer_probes(void)
{
    for (unsigned i = 0; i < worker_count; i++) {
        if (workers[i] != NULL && workers[i]->probe != 0 && !workers[i]->hung)
            assert_int_equal(report_probed(workers[i]), 0);
    }
}

static void forget(struct worker_handle *worker)
{
    for (unsigned i = 0; i < worker->sent_count; i++) {
        close_fd(&worker->sent[i].fds[0]);
        close_fd(&worker->sent[i].fds[1]);
    }
    for (unsigned i = 0; i < worker_count; i++) {
        if (workers[i] == worker)
            workers[i] = NULL;
    }
    free(worker);
}

static void report_gone(struct worker_handle *worker, int signal_number)
{
    struct worker_exit why = { .expected = worker->asked_to_go,
                               .exit_status = signal_number != 0 ? -1 : 0,
                               .signal = signal_number };

    worker->state = WORKER_GONE;
    snprintf(why.text, sizeof(why.text), "it was killed by signal %d", signal_number);
    worker->ops->gone(worker, &why, worker->opaque);
    forget(worker);
    let_locks_go();
}

/* The newest worker of a role in a state, or NULL. */
static struct worker_handle *find_worker(uint32_t role, enum worker_state state)
{
    for (unsigned i = worker_count; i-- > 0;) {
        if (workers[i] != NULL && workers[i]->role == role && workers[i]->state == state)
            return workers[i];
    }
    return NULL;
}

static unsigned count_workers(uint32_t role)
{
    unsigned count = 0;

    for (unsigned i = 0; i < worker_count; i++)
        count += workers[i] != NULL && workers[i]->role == role;
    return count;
}

/* The negotiator that has this client, or NULL. */
static struct worker_handle *negotiator_of(uint64_t client)
{
    for (unsigned i = 0; i < worker_count; i++) {
        if (workers[i] != NULL && workers[i]->role == IPC_ROLE_NBD_NEGOTIATOR && workers[i]->sent_count > 0 &&
            workers[i]->sent[0].negotiate.client_id == client)
            return workers[i];
    }
    return NULL;
}

/* ---- The list of those that are let in: the test says when it has been read ---- */

static authz_refreshed_fn *list_done;
static void *list_opaque;

void __wrap_authz_refresh(struct object_set *set, const char *authz_id, authz_refreshed_fn *done, void *opaque);
void __wrap_authz_refresh(struct object_set *set, const char *authz_id, authz_refreshed_fn *done, void *opaque)
{
    assert_null(list_done);
    list_done = done;
    list_opaque = opaque;
}

static void tell_list(bool cancelled)
{
    authz_refreshed_fn *done = TAKE_PTR(list_done);

    assert_non_null(done);
    done(list_opaque, cancelled);
}

/* ---- Events and replies ---- */

static char events[512]; /* names of those that were sent, with what they are about */

void __wrap_qmp_send_event(struct monitor *monitor, const char *name, const struct schema_type *type, const void *data);
void __wrap_qmp_send_event(struct monitor *monitor, const char *name, const struct schema_type *type, const void *data)
{
    const char *id = strcmp(name, "BLOCK_EXPORT_DELETED") == 0 ? ((const struct block_export_deleted *)data)->id
                                                               : ((const struct worker_gone *)data)->export_id;
    size_t len = strlen(events);

    snprintf(events + len, sizeof(events) - len, "%s(%s) ", name, id != NULL ? id : "-");
}

struct answer {
    unsigned count;
    bool failed;
    char text[ERROR_TEXT_MAX];
};

static void answered(const struct error *err, void *opaque)
{
    struct answer *answer = opaque;

    answer->count++;
    answer->failed = err != NULL;
    snprintf(answer->text, sizeof(answer->text), "%s", err != NULL ? err->text : "");
}

static struct qmp_reply *reply_to(struct answer *answer)
{
    memset(answer, 0, sizeof(*answer));
    return qmp_reply_new(answered, answer);
}

/* ---- The monitor ---- */

static char folder[] = "/tmp/bulkhead-nbd-server-XXXXXX";
static char socket_path[64];
static char image_path[64];
static struct monitor monitor;

struct qmp *monitor_qmp(struct monitor *m)
{
    return NULL;
}

int monitor_check_running(const struct monitor *m, struct error *err)
{
    return 0;
}

static void let_locks_go(void)
{
    let_opener_finish(&monitor);
}

static void turn(void)
{
    for (unsigned i = 0; i < 8; i++) {
        event_base_loop(monitor.base, EVLOOP_NONBLOCK);
        answer_probes();
    }
    let_locks_go();
}

static void turn_until(bool (*condition)(void))
{
    for (unsigned i = 0; i < 2000 && !condition(); i++) {
        struct timeval tv = { .tv_usec = 1000 };

        event_base_loopexit(monitor.base, &tv);
        event_base_dispatch(monitor.base);
        answer_probes();
    }
    assert_true(condition());
}

static void start_server_with(uint32_t max_connections, uint32_t max_seconds, struct answer *answer)
{
    struct nbd_server_options options = { .addr = { .type = SOCKET_ADDRESS_UNIX, .unix_ = { .path = socket_path } },
                                          .handshake_max_seconds = max_seconds,
                                          .max_connections = max_connections };

    nbd_server_start(monitor.nbd_server, &options, SOCKET_FD_NAMED, reply_to(answer));
}

static void start_server(uint32_t max_connections, struct answer *answer)
{
    start_server_with(max_connections, 10, answer);
}

static void make_all_negotiators_ready(void)
{
    struct worker_handle *worker;

    while ((worker = find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING)) != NULL)
        report_ready(worker);
}

static void start_server_ready(uint32_t max_connections)
{
    struct answer answer;

    start_server(max_connections, &answer);
    make_all_negotiators_ready();
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
}

static void node_added(void *opaque, const struct error *err)
{
    assert_null(err);
}

static void add_node(const char *name)
{
    struct blockdev_options options = { .driver = BLOCKDEV_DRIVER_FILE, .node_name = name };

    options.file.filename = image_path;
    graph_add(monitor.graph, &options, node_added, NULL);
    turn();
    assert_non_null(graph_find(monitor.graph, name));
}

static void add_export(const char *id, const char *node, const char *name, bool writable, struct answer *answer)
{
    struct block_export_options options = { .type = BLOCK_EXPORT_TYPE_NBD, .id = id, .node_name = node };

    options.writable = writable;
    options.nbd.name = name;
    export_add(monitor.exports, &options, SOCKET_FD_NAMED, reply_to(answer));
    turn();
}

/* An export that runs; its worker. */
static struct worker_handle *add_running(const char *id, const char *node, const char *name)
{
    struct worker_handle *worker;
    struct answer answer;

    add_export(id, node, name, true, &answer);
    worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
    assert_non_null(worker);
    assert_string_equal(worker->boot.export_id, id);
    report_ready(worker);
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    return worker;
}

static struct export *find_export(const char *id)
{
    for (struct export *e = export_set_first(monitor.exports); e != NULL; e = export_next(e)) {
        if (strcmp(e->id, id) == 0)
            return e;
    }
    return NULL;
}

/* A client that has not said anything yet, or was not accepted. */
static int connect_silent(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    turn();
    return fd;
}

static void take_greeting(int fd)
{
    struct nbd_greeting greeting;

    assert_int_equal(recv(fd, &greeting, sizeof(greeting), MSG_DONTWAIT), sizeof(greeting));
}

/* Few descriptors, so that there are few negotiators: a sixteenth. */
#define DESCRIPTORS 320
#define NEGOTIATORS (DESCRIPTORS / 16)

/* As many bytes as flags and the header of an option have: the monitor counts them, and looks at none. */
#define FIRST_MESSAGE "flags, and an option"

static void say(int fd, const char *text, size_t len)
{
    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
    turn();
}

/* After that a client goes to a negotiator, which finds it all. */
static void speak(int fd)
{
    take_greeting(fd);
    say(fd, FIRST_MESSAGE, strlen(FIRST_MESSAGE));
}

static int connect_client(void)
{
    int fd = connect_silent();

    speak(fd);
    return fd;
}

static bool is_closed(int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    char c;

    return poll(&pfd, 1, 0) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) <= 0;
}

static int setup(void **state)
{
    int fd = open(image_path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
        return -1;
    close(fd);
    memset(&monitor, 0, sizeof(monitor));
    events[0] = '\0';
    worker_count = 0;
    spawn_result = 0;
    send_result = 0;
    monitor.base = event_base_new();
    monitor.serving = true;
    if (start_opener(&monitor) < 0 || graph_new(&monitor, &monitor.graph, NULL) < 0 ||
        export_set_new(&monitor, &monitor.exports, NULL) < 0 || nbd_server_new(&monitor, &monitor.nbd_server, NULL) < 0)
        return -1;
    return 0;
}

static int teardown(void **state)
{
    nbd_server_close(monitor.nbd_server);
    for (unsigned i = 0; i < worker_count; i++) {
        if (workers[i] != NULL) {
            workers[i]->asked_to_go = true;
            report_gone(workers[i], 9);
        }
    }
    nbd_server_free(monitor.nbd_server);
    export_set_free(monitor.exports);
    graph_free(monitor.graph);
    opener_free(monitor.opener);
    event_base_free(monitor.base);
    unlink(socket_path);
    return unlink(image_path);
}

/* ---- The server ---- */

static void test_start_answers_when_a_negotiator_is_ready(void **state)
{
    struct answer answer;
    struct answer again;

    start_server(100, &answer);
    assert_int_equal(answer.count, 0);
    assert_int_equal(count_workers(IPC_ROLE_NBD_NEGOTIATOR), 4);
    start_server(100, &again);
    assert_true(again.failed);
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
}

static void test_start_fails_when_no_negotiator_can_be(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    struct error err;

    start_server(100, &answer);
    error_set(&err, -EPERM, "no seccomp here");
    worker = find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING);
    worker->ops->failed(worker, &err, worker->opaque);
    assert_true(answer.failed);
    assert_non_null(strstr(answer.text, "no seccomp here"));
    assert_int_equal(access(socket_path, F_OK), -1);

    spawn_result = -EAGAIN;
    start_server(100, &answer);
    assert_true(answer.failed);
    assert_int_equal(access(socket_path, F_OK), -1);
}

static void test_negotiators_that_die_unused_come_back_slowly(void **state)
{
    unsigned spawned;

    start_server_ready(100);
    for (unsigned i = 0; i < 4; i++)
        report_gone(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_RUNNING), 11);
    spawned = worker_count;
    turn();
    assert_int_equal(worker_count, spawned);
    assert_non_null(strstr(events, "WORKER_GONE(-)"));
}

static bool a_negotiator_starts(void)
{
    return find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING) != NULL;
}

static void test_a_pool_that_died_is_filled_up_again(void **state)
{
    int client;

    start_server_ready(100);
    report_gone(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_RUNNING), 11);
    for (unsigned i = 0; i < 3; i++)
        report_gone(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_RUNNING), 11);
    turn_until(a_negotiator_starts);
    assert_int_equal(count_workers(IPC_ROLE_NBD_NEGOTIATOR), 1);
    make_all_negotiators_ready();
    client = connect_client();
    assert_int_equal(report_client_gone(negotiator_of(1), 1), 0);
    report_gone(negotiator_of(1), 0);
    assert_int_equal(count_workers(IPC_ROLE_NBD_NEGOTIATOR), 4);
    close(client);
}

/* ---- Clients ---- */

static void test_a_client_goes_unread_to_a_negotiator_with_the_directory(void **state)
{
    const struct nbd_directory_entry *entry;
    struct nbd_directory_view view;
    struct worker_handle *negotiator;
    struct error err;
    char byte;
    int client;

    start_server_ready(100);
    add_node("n");
    add_running("e", "n", "the name");
    client = connect_client();
    negotiator = negotiator_of(1);
    assert_non_null(negotiator);
    assert_int_equal(negotiator->sent[0].type, IPC_NEGOTIATE);
    assert_in_range(negotiator->sent[0].negotiate.handshake_max_ms, 1, 10000);
    assert_int_equal(recv(negotiator->sent[0].fds[0], &byte, 1, 0), 1);
    assert_int_equal(nbd_directory_map(negotiator->sent[0].fds[1], &view, &err), 0);
    assert_int_equal(view.directory->count, 1);
    entry = nbd_directory_find(&view, "the name", 8);
    assert_non_null(entry);
    assert_int_equal(entry->size_bytes, 1 << 20);
    assert_int_equal(entry->flags, NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_MULTI_CONN);
    assert_int_equal(entry->contexts, IPC_NBD_CONTEXT_BASE_ALLOCATION);
    nbd_directory_unmap(&view);
    close(client);
}

static void test_numbers_of_a_worker_are_brought_into_range(void **state)
{
    const struct nbd_directory_entry *entry;
    struct nbd_directory_view view;
    struct worker_handle *worker;
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    add_export("e", "n", "e", true, &answer);
    worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
    worker->ready.preferred_block_bytes = 1u << 31;
    report_ready(worker);
    worker->ready.min_block_bytes = 1u << 30;
    client = connect_client();
    assert_int_equal(nbd_directory_map(negotiator_of(1)->sent[0].fds[1], &view, NULL), 0);
    entry = nbd_directory_find(&view, "e", 1);
    assert_int_equal(entry->min_block_bytes, 65536);
    assert_int_equal(entry->preferred_block_bytes, 32 << 20);
    nbd_directory_unmap(&view);
    close(client);
}

/* "Block size constraints": the size SHOULD be a multiple of the minimum; QEMU's client aborts where it is not. */
static void test_the_minimum_block_divides_the_size(void **state)
{
    static const struct {
        uint64_t size;
        uint32_t natural;
        uint32_t told;
    } cases[] = {
        { 1 << 20, 4096, 4096 },
        { (1 << 20) + 512, 4096, 512 },
        { (1 << 20) + 2048, 4096, 2048 },
        { 512, 4096, 512 },
        { 4096, 512, 512 },
        { (1 << 20) + 512, 1, 1 },
        { 0, 4096, 4096 },
        { INT64_MAX - 511, 4096, 512 },
        { 65536 * 3, 1u << 30, 65536 },
        { 65536 + 1024, 65536, 1024 },
    };
    const struct nbd_directory_entry *entry;
    struct nbd_directory_view view;
    struct worker_handle *worker;
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        char id[16];

        snprintf(id, sizeof(id), "e%u", i);
        add_export(id, "n", id, true, &answer);
        worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
        report_ready_with(worker, cases[i].size, cases[i].natural);
    }
    client = connect_client();
    assert_int_equal(nbd_directory_map(negotiator_of(1)->sent[0].fds[1], &view, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        char id[16];

        snprintf(id, sizeof(id), "e%u", i);
        entry = nbd_directory_find(&view, id, strlen(id));
        assert_true(entry->size_bytes == cases[i].size);
        assert_int_equal(entry->min_block_bytes, cases[i].told);
        assert_true(entry->preferred_block_bytes >= MAX(cases[i].told, 512));
    }
    nbd_directory_unmap(&view);
    close(client);
}

static void test_a_negotiated_client_goes_to_its_exports_worker(void **state)
{
    struct worker_handle *worker;
    struct worker_handle *negotiator;
    int client;
    char byte;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    negotiator = negotiator_of(1);
    assert_int_equal(report_negotiated(negotiator, 1, 1, IPC_NBD_STRUCTURED_REPLY, IPC_NBD_CONTEXT_BASE_ALLOCATION), 0);
    assert_int_equal(worker->sent_count, 1);
    assert_int_equal(worker->sent[0].type, IPC_CLIENT);
    assert_int_equal(worker->sent[0].client.negotiated.client_id, 1);
    assert_int_equal(worker->sent[0].client.negotiated.contexts, IPC_NBD_CONTEXT_BASE_ALLOCATION);
    assert_int_equal(send(client, "r", 1, 0), 1);
    assert_int_equal(recv(worker->sent[0].fds[0], &byte, 1, 0), 1);
    assert_true(negotiator->asked_to_go);
    report_gone(negotiator, 0);
    assert_int_equal(count_workers(IPC_ROLE_NBD_NEGOTIATOR), 4);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 1);
    assert_int_equal(report_client_gone(worker, 1), 0);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 0);
    assert_string_equal(events, "");
    close(client);
}

static void test_every_client_gets_the_greeting(void **state)
{
    struct nbd_greeting greeting;
    int client;

    start_server_ready(100);
    client = connect_silent();
    assert_int_equal(recv(client, &greeting, sizeof(greeting), MSG_DONTWAIT), sizeof(greeting));
    assert_true(be64toh(greeting.magic) == NBD_MAGIC);
    assert_true(be64toh(greeting.version) == NBD_NEW_VERSION);
    assert_int_equal(be16toh(greeting.flags), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    close(client);
}

static void test_silent_clients_have_no_negotiator(void **state)
{
    int silent[20];
    int client;

    start_server_ready(100);
    for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
        silent[i] = connect_silent();
    assert_int_equal(count_workers(IPC_ROLE_NBD_NEGOTIATOR), 4);
    assert_null(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    client = connect_client();
    assert_non_null(negotiator_of(21));
    close(client);
    for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
        close(silent[i]);
}

static void test_a_client_that_leaves_without_a_word_costs_no_process(void **state)
{
    int client;

    start_server_ready(1);
    close(connect_silent());
    turn();
    assert_int_equal(worker_count, 4);
    client = connect_client(); /* the place is free */
    assert_non_null(negotiator_of(2));
    close(client);
}

static void test_clients_that_have_spoken_wait_for_a_negotiator_in_order(void **state)
{
    int clients[6];

    start_server_ready(100);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        clients[i] = connect_silent();
    for (unsigned i = 0; i < 4; i++)
        speak(clients[i]);
    speak(clients[5]);
    speak(clients[4]);
    assert_null(negotiator_of(6));
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    assert_non_null(negotiator_of(6));
    assert_null(negotiator_of(5));
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    assert_non_null(negotiator_of(5));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

static void test_a_client_that_hangs_up_while_it_waits_gives_its_place_back(void **state)
{
    int clients[6];

    start_server_ready(ARRAY_SIZE(clients));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = connect_silent();
        speak(clients[i]);
    }
    assert_null(negotiator_of(5));
    close(clients[4]);
    turn();
    clients[4] = connect_silent();
    take_greeting(clients[4]);
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    assert_null(negotiator_of(5));
    assert_non_null(negotiator_of(6));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

/* It has sent all that it has to say, and still wants the answers. */
static void test_a_client_that_only_sends_no_more_is_waited_for(void **state)
{
    int clients[5];

    start_server_ready(ARRAY_SIZE(clients));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = connect_silent();
        speak(clients[i]);
    }
    assert_int_equal(shutdown(clients[4], SHUT_WR), 0);
    turn();
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    assert_non_null(negotiator_of(5));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

static int watched_clients[2];
static bool both_are_closed(void)
{
    return is_closed(watched_clients[0]) && is_closed(watched_clients[1]);
}

/* Whether it says nothing, or waits for a negotiator that never comes. */
static void test_the_time_limit_counts_from_the_start(void **state)
{
    struct answer answer;
    int busy;

    start_server_with(100, 1, &answer);
    report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
    busy = connect_client();
    watched_clients[0] = connect_silent();
    watched_clients[1] = connect_client();
    assert_null(negotiator_of(3));
    take_greeting(watched_clients[0]);
    turn_until(both_are_closed);
    close(busy);
    close(watched_clients[0]);
    close(watched_clients[1]);
}

static int third;
static bool third_was_turned_away(void)
{
    return is_closed(third);
}

/* Those that have not finished it take no place from those that have, or will have. */
static void test_handshakes_do_not_count_against_max_connections(void **state)
{
    struct worker_handle *worker;
    int clients[5];

    start_server_ready(1);
    add_node("n");
    worker = add_running("e", "n", "e");
    clients[0] = connect_silent();
    for (unsigned i = 1; i < ARRAY_SIZE(clients); i++) {
        clients[i] = connect_client();
        make_all_negotiators_ready();
        assert_non_null(negotiator_of(i + 1));
    }
    assert_int_equal(report_negotiated(negotiator_of(2), 2, 1, 0, 0), 0);
    assert_int_equal(worker->sent_count, 1);
    assert_int_equal(report_negotiated(negotiator_of(3), 3, 1, 0, 0), 0); /* too late */
    report_gone(negotiator_of(3), 0);
    third = clients[2];
    turn_until(third_was_turned_away);
    assert_false(is_closed(clients[1]));
    assert_int_equal(report_negotiated(negotiator_of(4), 4, 1, 0, 0), 0);
    assert_int_equal(worker->sent_count, 1);
    assert_int_equal(report_client_gone(worker, 2), 0); /* soon enough */
    turn();
    assert_int_equal(worker->sent_count, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

/* A client that is with an export; the id of the next one. */
static int establish(uint64_t id, uint64_t serial)
{
    int client = connect_client();

    assert_int_equal(report_negotiated(negotiator_of(id), id, serial, 0, 0), 0);
    report_gone(negotiator_of(id), 0);
    make_all_negotiators_ready();
    return client;
}

static struct worker_handle *takes_clients;
static unsigned clients_taken;
static bool it_takes_one_more(void)
{
    return takes_clients->sent_count > clients_taken;
}

static void test_clients_of_a_worker_that_does_not_answer_do_not_count(void **state)
{
    struct worker_handle *hung;
    int clients[4];

    start_server_ready(2);
    add_node("n");
    hung = add_running("e0", "n", "e0");
    hung->hung = true;
    takes_clients = add_running("e1", "n", "e1");
    clients[0] = establish(1, 1);
    clients[1] = establish(2, 1);
    assert_int_equal(hung->sent_count, 2);
    assert_int_equal(takes_clients->sent_count, 0);
    clients[2] = connect_silent();
    usleep(450000);
    turn();
    speak(clients[2]);
    assert_int_equal(report_negotiated(negotiator_of(3), 3, 2, 0, 0), 0);
    assert_int_equal(takes_clients->sent_count, 1);
    /* It answers what it was asked, once. */
    assert_int_equal(report_probed(hung), 0);
    assert_int_equal(report_probed(hung),
                     0); /* once more, because the second client came when the first probe was out */
    assert_int_equal(report_probed(hung), -EPROTO);
    hung->hung = false;
    clients[3] = third = connect_silent();
    turn_until(third_was_turned_away);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

static void test_a_worker_that_does_not_answer_gets_few_clients_more(void **state)
{
    int clients[SENT_MAX + 2];

    start_server_ready(0);
    add_node("n");
    takes_clients = add_running("e", "n", "e");
    takes_clients->hung = true;
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = establish(i + 1, 1);
        if (i == 0) {
            usleep(450000);
            turn();
        }
    }
    assert_int_equal(takes_clients->sent_count, SENT_MAX); /* 16 */
    third = clients[SENT_MAX + 1];
    turn_until(third_was_turned_away);
    assert_true(is_closed(clients[SENT_MAX]));
    assert_false(takes_clients->asked_to_go);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

/* Storage that hangs keeps what is under way, not the place of a client that is no longer there. */
static void test_a_client_that_left_takes_no_place(void **state)
{
    struct worker_handle *worker;
    int clients[2];

    start_server_ready(1);
    add_node("n");
    worker = add_running("e", "n", "e");
    clients[0] = establish(1, 1);
    assert_int_equal(report_client_left(worker, 2), -EPROTO);
    assert_int_equal(report_client_left(worker, 1), 0);
    assert_int_equal(report_client_left(worker, 1), -EPROTO);
    clients[1] = establish(2, 1);
    assert_int_equal(worker->sent_count, 2);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 2);
    assert_int_equal(report_client_gone(worker, 1), 0);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 1);
    close(clients[0]);
    close(clients[1]);
}

static void test_an_export_has_a_limit_of_its_own(void **state)
{
    struct block_export_options options = { .type = BLOCK_EXPORT_TYPE_NBD, .id = "e0", .node_name = "n" };
    struct answer answer;
    int clients[3];

    start_server_ready(100);
    add_node("n");
    options.nbd.max_connections = 1;
    export_add(monitor.exports, &options, SOCKET_FD_NAMED, reply_to(&answer));
    turn();
    report_ready(find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING));
    turn();
    assert_int_equal(answer.count, 1);
    takes_clients = add_running("e1", "n", "e1");
    clients[0] = establish(1, 1);
    clients[1] = third = establish(2, 1);
    clients[2] = establish(3, 2);
    assert_int_equal(takes_clients->sent_count, 1);
    turn_until(third_was_turned_away);
    assert_false(is_closed(clients[0]) || is_closed(clients[2]));
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

static void test_a_peer_has_a_limit_of_its_own(void **state)
{
    struct nbd_server_options options = { .addr = { .type = SOCKET_ADDRESS_UNIX, .unix_ = { .path = socket_path } },
                                          .handshake_max_seconds = 10,
                                          .max_connections_per_peer = 1 };
    struct answer answer;
    int clients[3];

    nbd_server_start(monitor.nbd_server, &options, SOCKET_FD_NAMED, reply_to(&answer));
    make_all_negotiators_ready();
    add_node("n");
    takes_clients = add_running("e", "n", "e");
    clients[0] = establish(1, 1);
    clients[1] = third = establish(2, 1);
    assert_int_equal(takes_clients->sent_count, 1);
    turn_until(third_was_turned_away);
    clients[2] = establish(3, 1);
    clients_taken = 1;
    assert_int_equal(report_client_gone(takes_clients, 1), 0);
    turn_until(it_takes_one_more);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

/* All that may be are busy: 256, or what RLIMIT_NOFILE allows. */
static void fill_the_pool(int *clients, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        clients[i] = connect_client();
        make_all_negotiators_ready();
    }
}

static bool the_newcomer_has_a_negotiator(void)
{
    make_all_negotiators_ready();
    return negotiator_of(NEGOTIATORS + 1) != NULL;
}

/* Its connection stays: whoever is dropped comes back at once. */
static void test_who_has_had_its_share_gives_its_negotiator_away(void **state)
{
    uint64_t started = now_ns();
    struct worker_handle *oldest;
    int clients[NEGOTIATORS];
    int newcomer;

    start_server_ready(100);
    fill_the_pool(clients, NEGOTIATORS);
    oldest = negotiator_of(1);
    newcomer = connect_client();
    if (now_ns() - started < UINT64_C(400000000)) {
        assert_null(negotiator_of(NEGOTIATORS + 1));
        assert_false(oldest->asked_to_go);
    }
    turn_until(the_newcomer_has_a_negotiator);
    assert_true(oldest->asked_to_go);
    assert_false(is_closed(clients[0]));
    assert_false(negotiator_of(NEGOTIATORS)->asked_to_go);
    for (unsigned i = 0; i < NEGOTIATORS; i++)
        close(clients[i]);
    close(newcomer);
}

/* In order, but those that have waited for longer than a moment come last, the newest of them first. */
static void test_those_that_have_waited_in_vain_come_last(void **state)
{
    static const unsigned order[] = { 7, 8, 6, 5 };
    int clients[8];

    start_server_ready(100);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
        if (i == 6)
            usleep(750000);
        clients[i] = connect_client();
    }
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        report_ready(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_CREATING));
        for (unsigned j = 0; j < ARRAY_SIZE(order); j++)
            assert_int_equal(negotiator_of(order[j]) != NULL, j <= i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
}

static int report_failure(struct worker_handle *worker, uint64_t client)
{
    struct ipc_status status = { .type = IPC_STATUS_CLIENT_GONE, .client_gone = { .client_id = client, .error = 1 } };

    snprintf(status.client_gone.text, sizeof(status.client_gone.text), "it talks nonsense");
    return report(worker, status);
}

/* One that fails is closed at once, and so are the first few; a crowd of them is not, for it would be back at once. */
static void test_a_crowd_that_fails_is_kept_connected(void **state)
{
    unsigned open = 0;

    start_server_ready(100);
    for (unsigned i = 1; i <= 70; i++) {
        int client = connect_client();

        assert_int_equal(report_failure(negotiator_of(i), i), 0);
        report_gone(negotiator_of(i), 0);
        make_all_negotiators_ready();
        open += !is_closed(client);
        assert_true(i > 64 || is_closed(client));
        close(client);
        turn();
    }
    assert_true(open >= 3);                                                   /* all six, unless this takes seconds */
    assert_int_equal(nbd_server_get_info(monitor.nbd_server).connections, 0); /* those that left themselves */
}

/* With tls-authz; the negotiators are those without TLS, which the catalogue would not let say it. */
static void prove(struct worker_handle *worker, uint64_t client)
{
    struct ipc_status status = { .magic = IPC_MAGIC,
                                 .type = IPC_STATUS_TLS_PEER,
                                 .tls_peer = { .client_id = client, .has_identity = 1 } };

    if (monitor.nbd_server->tls_authz == NULL)
        monitor.nbd_server->tls_authz = strdup("list");
    assert_int_equal(worker->ops->status(worker, &status, worker->opaque), 0);
    assert_non_null(list_done);
}

/* The answer is for nobody then, whatever it is. */
static void test_who_fails_while_the_list_is_read_is_not_let_in(void **state)
{
    start_server_ready(100);
    for (unsigned i = 1; i <= 2; i++) {
        int client = connect_client();
        struct worker_handle *worker = negotiator_of(i);

        prove(worker, i);
        monitor.nbd_server->lobby.close_ns = now_ns() + UINT64_C(60000000000); /* it is one of a crowd */
        assert_int_equal(report_failure(worker, i), 0);
        assert_true(worker->asked_to_go);
        tell_list(i == 2);
        assert_int_equal(worker->sent_count, 1);
        assert_false(is_closed(client));
        close(client);
        turn();
    }
}

static void test_who_gives_its_negotiator_away_while_the_list_is_read_is_not_let_in(void **state)
{
    struct worker_handle *oldest;
    int clients[NEGOTIATORS];
    int newcomer;

    start_server_ready(100);
    fill_the_pool(clients, NEGOTIATORS);
    oldest = negotiator_of(1);
    prove(oldest, 1);
    newcomer = connect_client();
    turn_until(the_newcomer_has_a_negotiator);
    assert_true(oldest->asked_to_go);
    tell_list(false);
    assert_int_equal(oldest->sent_count, 1);
    assert_false(is_closed(clients[0]));
    for (unsigned i = 0; i < NEGOTIATORS; i++)
        close(clients[i]);
    close(newcomer);
}

static void test_no_process_before_a_whole_first_message(void **state)
{
    int client;

    start_server_ready(100);
    client = connect_silent();
    take_greeting(client);
    for (unsigned i = 0; i < strlen(FIRST_MESSAGE); i++) {
        assert_null(negotiator_of(1));
        say(client, &FIRST_MESSAGE[i], 1);
    }
    assert_non_null(negotiator_of(1));
    close(client);
}

static void test_who_will_not_finish_its_first_message_is_closed(void **state)
{
    int client;

    start_server_ready(100);
    client = connect_silent();
    take_greeting(client);
    say(client, "flag", 4);
    assert_false(is_closed(client));
    assert_int_equal(shutdown(client, SHUT_WR), 0);
    turn();
    assert_true(is_closed(client));
    assert_int_equal(worker_count, 4);
    close(client);
}

/* What a negotiator under somebody's control might say. */
static void test_a_negotiator_that_lies_is_told_off(void **state)
{
    static const struct {
        uint64_t client;
        uint64_t serial;
        uint32_t flags;
        uint32_t contexts;
    } lies[] = {
        { 2, 1, 0, 0 },          /* somebody else's client */
        { 1, 99, 0, 0 },         /* an export that never was */
        { 1, UINT64_MAX, 0, 0 }, /* the same */
    };
    struct worker_handle *worker;
    int clients[2];

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    clients[0] = connect_client();
    clients[1] = connect_client();
    for (unsigned i = 0; i < ARRAY_SIZE(lies); i++)
        assert_int_equal(
            report_negotiated(negotiator_of(1), lies[i].client, lies[i].serial, lies[i].flags, lies[i].contexts),
            -EPROTO);
    assert_int_equal(report_client_gone(negotiator_of(1), 2), -EPROTO);
    assert_int_equal(worker->sent_count, 0);
    /* Killed for it: its own client is disconnected, the other goes on. */
    report_gone(negotiator_of(1), 9);
    assert_true(is_closed(clients[0]));
    assert_int_equal(report_negotiated(negotiator_of(2), 2, 1, 0, 0), 0);
    assert_int_equal(worker->sent_count, 1);
    assert_false(is_closed(clients[1]));
    close(clients[0]);
    close(clients[1]);
}

static void test_a_negotiator_without_a_client_has_nothing_to_say(void **state)
{
    start_server_ready(100);
    assert_int_equal(report_client_gone(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_RUNNING), 1), -EPROTO);
    assert_int_equal(report_negotiated(find_worker(IPC_ROLE_NBD_NEGOTIATOR, WORKER_RUNNING), 1, 1, 0, 0), -EPROTO);
}

static void test_what_comes_after_the_report_is_ignored(void **state)
{
    struct worker_handle *worker;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    assert_int_equal(report_client_gone(negotiator_of(1), 1), 0);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 1);
    assert_int_equal(worker->sent_count, 1);
    close(client);
}

static void test_a_client_of_an_export_that_was_removed_meanwhile_is_dropped(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HARD, reply_to(&answer));
    report_gone(worker, 0);
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    report_gone(negotiator_of(1), 0);
    assert_true(is_closed(client));
    close(client);
}

static void test_a_worker_cannot_dismiss_the_clients_of_another(void **state)
{
    struct worker_handle *workers_of[2];
    int client;

    start_server_ready(100);
    add_node("n");
    workers_of[0] = add_running("e0", "n", "e0");
    workers_of[1] = add_running("e1", "n", "e1");
    client = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    assert_int_equal(report_client_gone(workers_of[1], 1), -EPROTO);
    assert_int_equal(report_client_gone(workers_of[0], 7), -EPROTO);
    assert_int_equal(export_type_nbd.clients(find_export("e0")), 1);
    assert_int_equal(report_client_gone(workers_of[0], 1), 0);
    assert_int_equal(report_client_gone(workers_of[0], 1), -EPROTO);
    close(client);
}

static void test_a_client_that_the_worker_does_not_take_is_dropped(void **state)
{
    int client;

    start_server_ready(100);
    add_node("n");
    add_running("e", "n", "e");
    client = connect_client();
    send_result = -EAGAIN;
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    send_result = 0;
    report_gone(negotiator_of(1), 0);
    assert_true(is_closed(client));
    assert_int_equal(export_type_nbd.clients(find_export("e")), 0);
    close(client);
}

static void test_clients_over_the_limit_are_turned_away(void **state)
{
    struct worker_handle *worker;
    int clients[2];

    start_server_ready(2);
    add_node("n");
    worker = add_running("e", "n", "e");
    clients[0] = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    make_all_negotiators_ready();
    clients[1] = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(2), 2, 1, 0, 0), 0);
    make_all_negotiators_ready();
    third = connect_silent();
    assert_null(negotiator_of(3));
    turn_until(third_was_turned_away);
    close(third);
    /* A place that becomes free is given to the next. */
    third = connect_silent();
    assert_int_equal(report_client_gone(worker, 1), 0);
    turn();
    speak(third);
    assert_non_null(negotiator_of(3));
    assert_false(is_closed(third));
    close(third);
    close(clients[0]);
    close(clients[1]);
}

static void test_stop_drops_all_clients_and_answers_when_the_exports_are_gone(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    int handshaking;
    int established;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    established = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    handshaking = connect_client();
    nbd_server_stop(monitor.nbd_server, reply_to(&answer));
    assert_int_equal(access(socket_path, F_OK), -1);
    assert_int_equal(answer.count, 0);
    assert_true(worker->asked_to_go);
    report_gone(worker, 0);
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    assert_string_equal(events, "BLOCK_EXPORT_DELETED(e) ");
    report_gone(negotiator_of(1), 0);
    report_gone(negotiator_of(2), 9);
    assert_true(is_closed(established));
    assert_true(is_closed(handshaking));
    assert_string_equal(events, "BLOCK_EXPORT_DELETED(e) ");
    nbd_server_stop(monitor.nbd_server, reply_to(&answer));
    assert_true(answer.failed);
    close(established);
    close(handshaking);
}

/* ---- Exports ---- */

static void test_add_is_refused_without_side_effects(void **state)
{
    struct answer answer;

    add_node("n");
    add_export("e", "n", NULL, true, &answer);
    assert_non_null(strstr(answer.text, "NBD server"));
    start_server_ready(100);
    add_export("e", "nonexistent", NULL, true, &answer);
    assert_non_null(strstr(answer.text, "'nonexistent'"));
    add_export("1e", "n", NULL, true, &answer);
    assert_true(answer.failed);
    add_running("e", "n", NULL);
    add_export("e", "n", "other", true, &answer);
    assert_non_null(strstr(answer.text, "'e'"));
    add_export("e2", "n", "n", true, &answer); /* the name of the first is its node's */
    assert_non_null(strstr(answer.text, "'n'"));
    assert_int_equal(count_workers(IPC_ROLE_NBD_EXPORT), 1);
    assert_null(find_export("e2"));
    assert_string_equal(events, "");
}

static void test_a_worker_that_cannot_start_is_the_reply_and_no_event(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    struct error err;

    start_server_ready(100);
    add_node("n");
    add_export("e", "n", NULL, true, &answer);
    worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
    error_set(&err, -EINVAL, "the image is odd");
    worker->ops->failed(worker, &err, worker->opaque);
    assert_int_equal(answer.count, 0);
    report_gone(worker, 0);
    assert_int_equal(answer.count, 1);
    assert_non_null(strstr(answer.text, "the image is odd"));
    assert_string_equal(events, "");
    assert_int_equal(graph_find(monitor.graph, "n")->refs, 1);
    add_running("e", "n", NULL); /* the id is free */
}

static void test_a_read_only_export_whose_worker_claims_to_write_is_ended(void **state)
{
    struct worker_handle *worker;
    struct answer answer;

    start_server_ready(100);
    add_node("n");
    add_export("e", "n", NULL, false, &answer);
    worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
    worker->ready.export_flags = IPC_EXPORT_WRITABLE;
    report_ready(worker);
    assert_true(worker->killed);
    report_gone(worker, 9);
    assert_true(answer.failed);
}

static void test_a_worker_that_dies_takes_its_own_export_down(void **state)
{
    struct worker_handle *victim;
    struct worker_handle *other;
    struct image *image;
    int clients[2];

    start_server_ready(100);
    add_node("n");
    victim = add_running("e0", "n", "e0");
    other = add_running("e1", "n", "e1");
    clients[0] = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    clients[1] = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(2), 2, 2, 0, 0), 0);
    image = graph_find(monitor.graph, "n")->image;
    assert_int_equal(image->users, 2);
    report_gone(victim, 11);
    assert_string_equal(events, "__org.bulkhead_WORKER_GONE(e0) BLOCK_EXPORT_DELETED(e0) ");
    assert_null(find_export("e0"));
    assert_int_equal(image->users, 1);
    assert_false(other->asked_to_go);
    assert_int_equal(export_type_nbd.clients(find_export("e1")), 1);
    add_running("e0", "n", "e0");
    close(clients[0]);
    close(clients[1]);
}

static void test_safe_refuses_and_hard_drops(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&answer));
    assert_int_equal(answer.count, 0); /* the worker is asked whether it is still there */
    answer_probes();                   /* the one that was out when it came */
    answer_probes();
    assert_true(answer.failed);
    assert_false(worker->asked_to_go);
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HARD, reply_to(&answer));
    assert_int_equal(answer.count, 1); /* the event comes later */
    assert_false(answer.failed);
    assert_string_equal(events, "");
    assert_true(worker->asked_to_go);
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HARD, reply_to(&answer));
    assert_true(answer.failed);
    report_gone(worker, 0);
    assert_string_equal(events, "BLOCK_EXPORT_DELETED(e) ");
    close(client);
}

static struct answer safe_answer;
static bool safe_was_answered(void)
{
    return safe_answer.count > 0;
}

static void test_safe_removes_when_the_last_client_has_just_left(void **state)
{
    struct worker_handle *worker;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = establish(1, 1);
    worker->hung = true; /* a worker that does not answer is as good as one whose clients are there */
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&safe_answer));
    turn_until(safe_was_answered);
    assert_true(safe_answer.failed);
    worker->hung = false;
    answer_probes();
    answer_probes();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&safe_answer));
    assert_int_equal(safe_answer.count, 0);
    assert_int_equal(report_client_gone(worker, 1), 0);
    answer_probes();
    assert_true(worker->asked_to_go);
    report_gone(worker, 0);
    assert_true(safe_answer.count == 1 && !safe_answer.failed);
    close(client);
}

static void test_an_idle_export_is_gone_before_the_reply(void **state)
{
    struct worker_handle *worker;
    struct answer answer;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&answer));
    assert_int_equal(answer.count, 0);
    report_gone(worker, 0);
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    assert_string_equal(events, "BLOCK_EXPORT_DELETED(e) ");
    assert_int_equal(graph_find(monitor.graph, "n")->refs, 1);
}

static void test_safe_waits_for_a_handshake_that_may_be_over(void **state)
{
    struct worker_handle *worker;
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&answer));
    assert_int_equal(answer.count, 0);
    assert_false(worker->asked_to_go);
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    usleep(5000);
    turn();
    assert_int_equal(answer.count, 1);
    assert_true(answer.failed);
    assert_false(worker->asked_to_go);
    close(client);
}

static struct worker_handle *watched;
static bool watched_is_asked_to_go(void)
{
    return watched->asked_to_go;
}

static void test_safe_does_not_wait_long_for_a_silent_client(void **state)
{
    struct answer answer;
    uint64_t started = now_ns();
    int client;

    start_server_ready(100);
    add_node("n");
    watched = add_running("e", "n", "e");
    client = connect_client();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_SAFE, reply_to(&answer));
    turn_until(watched_is_asked_to_go);
    assert_true(now_ns() - started < UINT64_C(1500000000));
    report_gone(watched, 0);
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    close(client);
}

/* With a client that is in already: one that may be in counts all the same. */
static void hide_with_a_handshake_that_may_be_over(enum block_export_remove_mode mode)
{
    struct worker_handle *worker;
    struct answer answer, again;
    int clients[2];

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    clients[0] = connect_client();
    assert_int_equal(report_negotiated(negotiator_of(1), 1, 1, 0, 0), 0);
    clients[1] = connect_client();
    export_del(monitor.exports, "e", mode, reply_to(&answer));
    assert_int_equal(answer.count, 0);
    export_del(monitor.exports, "e", mode, reply_to(&again));
    assert_true(again.failed); /* is on its way */
    assert_int_equal(report_negotiated(negotiator_of(2), 2, 1, 0, 0), 0);
    assert_int_equal(export_type_nbd.clients(find_export("e")), 2);
    usleep(5000);
    turn();
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    assert_false(worker->asked_to_go);
    assert_true(find_export("e")->hidden);
    close(clients[0]);
    close(clients[1]);
}

static void test_hide_waits_for_a_handshake_that_may_be_over(void **state)
{
    hide_with_a_handshake_that_may_be_over(BLOCK_EXPORT_REMOVE_HIDE);
}

static void test_soft_waits_for_a_handshake_that_may_be_over(void **state)
{
    hide_with_a_handshake_that_may_be_over(BLOCK_EXPORT_REMOVE_SOFT);
}

static void test_hide_does_not_wait_long_for_a_silent_client(void **state)
{
    struct answer answer;
    int client;

    start_server_ready(100);
    add_node("n");
    watched = add_running("e", "n", "e");
    client = connect_client();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HIDE, reply_to(&answer));
    assert_false(watched->asked_to_go);
    turn_until(watched_is_asked_to_go);
    report_gone(watched, 0);
    assert_int_equal(answer.count, 1);
    assert_false(answer.failed);
    close(client);
}

static void test_hard_does_not_wait_for_hide(void **state)
{
    struct worker_handle *worker;
    struct answer hide, hard;
    int client;

    start_server_ready(100);
    add_node("n");
    worker = add_running("e", "n", "e");
    client = connect_client();
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HIDE, reply_to(&hide));
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HARD, reply_to(&hard));
    assert_true(worker->asked_to_go);
    report_gone(worker, 0);
    assert_int_equal(hide.count, 1);
    assert_false(hide.failed);
    assert_int_equal(hard.count, 1);
    assert_false(hard.failed);
    close(client);
}

static void test_an_export_can_be_removed_while_it_starts(void **state)
{
    struct worker_handle *worker;
    struct answer added;
    struct answer deleted;

    start_server_ready(100);
    add_node("n");
    add_export("e", "n", NULL, true, &added);
    worker = find_worker(IPC_ROLE_NBD_EXPORT, WORKER_CREATING);
    export_del(monitor.exports, "e", BLOCK_EXPORT_REMOVE_HARD, reply_to(&deleted));
    assert_true(worker->asked_to_go);
    report_gone(worker, 0);
    assert_true(added.failed);
    assert_false(deleted.failed);
    assert_int_equal(deleted.count, 1);
    assert_string_equal(events, ""); /* nobody was told that it was there */
}

int main(void)
{
#define SERVER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        SERVER_TEST(test_start_answers_when_a_negotiator_is_ready),
        SERVER_TEST(test_start_fails_when_no_negotiator_can_be),
        SERVER_TEST(test_negotiators_that_die_unused_come_back_slowly),
        SERVER_TEST(test_a_pool_that_died_is_filled_up_again),
        SERVER_TEST(test_a_client_goes_unread_to_a_negotiator_with_the_directory),
        SERVER_TEST(test_numbers_of_a_worker_are_brought_into_range),
        SERVER_TEST(test_the_minimum_block_divides_the_size),
        SERVER_TEST(test_a_negotiated_client_goes_to_its_exports_worker),
        SERVER_TEST(test_every_client_gets_the_greeting),
        SERVER_TEST(test_silent_clients_have_no_negotiator),
        SERVER_TEST(test_a_client_that_leaves_without_a_word_costs_no_process),
        SERVER_TEST(test_clients_that_have_spoken_wait_for_a_negotiator_in_order),
        SERVER_TEST(test_a_client_that_hangs_up_while_it_waits_gives_its_place_back),
        SERVER_TEST(test_a_client_that_only_sends_no_more_is_waited_for),
        SERVER_TEST(test_the_time_limit_counts_from_the_start),
        SERVER_TEST(test_handshakes_do_not_count_against_max_connections),
        SERVER_TEST(test_clients_of_a_worker_that_does_not_answer_do_not_count),
        SERVER_TEST(test_a_worker_that_does_not_answer_gets_few_clients_more),
        SERVER_TEST(test_a_client_that_left_takes_no_place),
        SERVER_TEST(test_an_export_has_a_limit_of_its_own),
        SERVER_TEST(test_a_peer_has_a_limit_of_its_own),
        SERVER_TEST(test_who_has_had_its_share_gives_its_negotiator_away),
        SERVER_TEST(test_those_that_have_waited_in_vain_come_last),
        SERVER_TEST(test_a_crowd_that_fails_is_kept_connected),
        SERVER_TEST(test_who_fails_while_the_list_is_read_is_not_let_in),
        SERVER_TEST(test_who_gives_its_negotiator_away_while_the_list_is_read_is_not_let_in),
        SERVER_TEST(test_no_process_before_a_whole_first_message),
        SERVER_TEST(test_who_will_not_finish_its_first_message_is_closed),
        SERVER_TEST(test_a_negotiator_that_lies_is_told_off),
        SERVER_TEST(test_a_negotiator_without_a_client_has_nothing_to_say),
        SERVER_TEST(test_what_comes_after_the_report_is_ignored),
        SERVER_TEST(test_a_client_of_an_export_that_was_removed_meanwhile_is_dropped),
        SERVER_TEST(test_a_worker_cannot_dismiss_the_clients_of_another),
        SERVER_TEST(test_a_client_that_the_worker_does_not_take_is_dropped),
        SERVER_TEST(test_clients_over_the_limit_are_turned_away),
        SERVER_TEST(test_stop_drops_all_clients_and_answers_when_the_exports_are_gone),
        SERVER_TEST(test_add_is_refused_without_side_effects),
        SERVER_TEST(test_a_worker_that_cannot_start_is_the_reply_and_no_event),
        SERVER_TEST(test_a_read_only_export_whose_worker_claims_to_write_is_ended),
        SERVER_TEST(test_a_worker_that_dies_takes_its_own_export_down),
        SERVER_TEST(test_safe_refuses_and_hard_drops),
        SERVER_TEST(test_safe_removes_when_the_last_client_has_just_left),
        SERVER_TEST(test_an_idle_export_is_gone_before_the_reply),
        SERVER_TEST(test_safe_waits_for_a_handshake_that_may_be_over),
        SERVER_TEST(test_safe_does_not_wait_long_for_a_silent_client),
        SERVER_TEST(test_hide_waits_for_a_handshake_that_may_be_over),
        SERVER_TEST(test_soft_waits_for_a_handshake_that_may_be_over),
        SERVER_TEST(test_hide_does_not_wait_long_for_a_silent_client),
        SERVER_TEST(test_hard_does_not_wait_for_hide),
        SERVER_TEST(test_an_export_can_be_removed_while_it_starts),
    };
    const struct rlimit descriptors = { DESCRIPTORS, DESCRIPTORS };
    int failed;

    if (mkdtemp(folder) == NULL || setrlimit(RLIMIT_NOFILE, &descriptors) < 0)
        return 1;
    snprintf(socket_path, sizeof(socket_path), "%s/nbd", folder);
    snprintf(image_path, sizeof(image_path), "%s/image", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
