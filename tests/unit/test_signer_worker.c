/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A signer as a real process in its sandbox, and a negotiator that somebody has taken over: what it may ask, how often,
 * and what becomes of it when it asks for something else.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/ipc/tls-signer.h"
#include "monitor/worker/worker-private.h"

#define WAIT_MAX_S 20
#define KEYS       "alice:aa01\nbob:bb02\n"

struct fixture {
    struct event_base *base;
    struct worker_set *set;
    struct worker_handle *worker;
    bool ready, loaded, gone;
    struct ipc_status_signer_loaded answer;
};

static void on_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    ((struct fixture *)opaque)->ready = true;
}

static void on_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    fail_msg("the signer could not start: %s", err->text);
}

static int on_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    struct fixture *f = opaque;

    f->answer = status->signer_loaded;
    f->loaded = true;
    return 0;
}

static void on_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    ((struct fixture *)opaque)->gone = true;
}

static void wait_for(struct fixture *f, const bool *what)
{
    uint64_t end = now_ns() + UINT64_C(1000000000) * WAIT_MAX_S;
    struct timeval tick = { .tv_usec = 10000 };

    while (!*what && now_ns() < end) {
        event_base_loopexit(f->base, &tick);
        event_base_loop(f->base, EVLOOP_ONCE);
    }
    assert_true(*what);
}

static int memfd_with(const void *data, size_t len_bytes, unsigned seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_int_equal(write(fd, data, len_bytes), len_bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void load(struct fixture *f, const char *keys, unsigned seals)
{
    struct tls_credentials c = { .magic = TLS_CREDENTIALS_MAGIC, .kind = TLS_KIND_PSK, .len_bytes = sizeof(c) };
    struct ipc_signer_load message = { 0 };
    int fds[2];

    for (unsigned i = 0; i < TLS_SECTION_MAX; i++)
        c.sections[i].offset = sizeof(c);
    fds[0] = memfd_with(&c, sizeof(c), seals);
    fds[1] = memfd_with(keys, strlen(keys), 0);
    assert_int_equal(worker_send(f->worker, IPC_SIGNER_LOAD, &message, sizeof(message), fds, 2), 0);
    close(fds[0]);
    close(fds[1]);
    wait_for(f, &f->loaded);
}

static int setup(void **state)
{
    static const struct worker_ops ops = { on_ready, on_failed, on_status, on_gone };
    static const struct sandbox_role *roles[2];
    struct ipc_boot boot = { .role = IPC_ROLE_TLS_SIGNER };
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = { 0 };
    char dir[512];

    if (f == NULL || getcwd(dir, sizeof(dir)) == NULL)
        return -1;
    roles[0] = sandbox_role_find(IPC_ROLE_TLS_SIGNER);
    f->base = event_base_new();
    if (worker_set_new_from(f->base, roles, dir, &f->set, &err) < 0 ||
        worker_spawn(f->set, &boot, NULL, &ops, f, &f->worker, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    *state = f;
    wait_for(f, &f->ready);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    worker_set_free(f->set);
    event_base_free(f->base);
    free(f);
    return 0;
}

#define SEALED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* A negotiator's end of a new socket. */
static int new_client(struct fixture *f)
{
    const struct timeval limit = { .tv_sec = WAIT_MAX_S };
    struct ipc_signer_client message = { 0 };
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    assert_int_equal(worker_send(f->worker, IPC_SIGNER_CLIENT, &message, sizeof(message), &ends[1], 1), 0);
    close(ends[1]);
    return ends[0];
}

/* 1 with the reply, 0: the signer closed the socket. */
static int ask(int fd, const struct tls_signer_request *request, size_t len_bytes, struct tls_signer_reply *reply)
{
    ssize_t n;

    if (send(fd, request, len_bytes, MSG_NOSIGNAL) < 0)
        return 0;
    n = recv(fd, reply, sizeof(*reply), 0);
    if (n < 0)
        assert_int_equal(errno, ECONNRESET);
    return n == (ssize_t)sizeof(*reply);
}

static struct tls_signer_request psk_of(const char *name)
{
    struct tls_signer_request request = { .magic = TLS_SIGNER_MAGIC, .op = TLS_SIGNER_PSK };

    request.len_bytes = (uint32_t)strlen(name);
    memcpy(request.data, name, strlen(name));
    return request;
}

static void test_two_answers_and_no_third(void **state)
{
    struct fixture *f = *state;
    struct tls_signer_request alice = psk_of("alice");
    struct tls_signer_request mallory = psk_of("mallory");
    struct tls_signer_reply reply;
    int fd;

    load(f, KEYS, SEALED);
    assert_int_equal(f->answer.code, 0);
    fd = new_client(f);
    assert_int_equal(ask(fd, &mallory, sizeof(mallory), &reply), 1);
    assert_int_equal(reply.code, -ENOENT);
    assert_int_equal(ask(fd, &alice, sizeof(alice), &reply), 1);
    assert_int_equal(reply.code, 0);
    assert_int_equal(reply.len_bytes, 2);
    assert_memory_equal(reply.data, "\xaa\x01", 2);
    assert_int_equal(ask(fd, &alice, sizeof(alice), &reply), 0);
    close(fd);
    fd = new_client(f); /* the next one is served */
    assert_int_equal(ask(fd, &alice, sizeof(alice), &reply), 1);
    close(fd);
}

static void test_errors_requests_end_their_socket_only(void **state)
{
    struct fixture *f = *state;
    struct tls_signer_request alice = psk_of("alice");
    struct tls_signer_request bad = alice;
    struct tls_signer_reply reply;
    uint8_t large[sizeof(alice) + 1] = { 0 };
    int bystander;
    int fd;

    load(f, KEYS, SEALED);
    bystander = new_client(f);
    bad.op = TLS_SIGNER_HASH;
    fd = new_client(f);
    assert_int_equal(ask(fd, &bad, sizeof(bad), &reply), 0);
    close(fd);
    fd = new_client(f);
    assert_int_equal(ask(fd, &alice, sizeof(alice) - 1, &reply), 0);
    close(fd);
    memcpy(large, &alice, sizeof(alice));
    fd = new_client(f);
    assert_int_equal(ask(fd, (const struct tls_signer_request *)large, sizeof(large), &reply), 0);
    close(fd);
    assert_int_equal(ask(bystander, &alice, sizeof(alice), &reply), 1);
    assert_int_equal(reply.code, 0);
    close(bystander);
    assert_false(f->gone);
}

static void test_errors_credentials_are_told(void **state)
{
    struct fixture *f = *state;

    load(f, "nonsense", SEALED);
    assert_int_equal(f->answer.code, -EINVAL);
    assert_non_null(strstr(f->answer.text, "keys.psk, line 1"));
}

static void test_errors_unsealed_credentials(void **state)
{
    struct fixture *f = *state;

    load(f, KEYS, F_SEAL_SHRINK | F_SEAL_GROW);
    assert_int_equal(f->answer.code, -EPERM);
}

static void test_errors_client_before_the_keys(void **state)
{
    struct fixture *f = *state;

    close(new_client(f));
    wait_for(f, &f->gone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_answers_and_no_third, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_requests_end_their_socket_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_credentials_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_unsealed_credentials, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_client_before_the_keys, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
