/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-tls-sign: holds the keys of one tls-creds object and does with them what handshakes need. It may hold keys,
 * and one socket to each negotiator in a handshake; it must never see a byte of a client, an image, or a socket to
 * anywhere else.
 */
#include <errno.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/base/log.h"
#include "common/io/loop.h"
#include "common/worker/worker.h"
#include "nbd-worker/signer/signer.h"

#define SIGNER_CLIENTS_MAX 512 /* below the limit on descriptors of the role */

struct signer_client {
    LIST_ENTRY(signer_client) link;
    struct signer *signer;
    struct io_watch watch;
    unsigned asked;
};

struct signer {
    struct worker *worker;
    struct signer_keys keys;
    bool loaded;
    LIST_HEAD(, signer_client) clients;
    unsigned client_count;
};

static int signer_setup(struct worker *worker, struct error *err)
{
    struct signer *signer = calloc(1, sizeof(*signer));

    if (signer == NULL)
        return error_set(err, -ENOMEM, "no memory for the signer");
    signer->worker = worker;
    LIST_INIT(&signer->clients);
    worker->role_state = signer;
    return 0;
}

/* ---- Load ---- */

/* The file with the keys, as it is now; *ret_data is the caller's, with a NUL after its end. */
static int read_keys(int fd, char **ret_data, size_t *ret_len_bytes, struct error *err)
{
    struct stat st;
    char *data;
    size_t used = 0;
    ssize_t n = 0;

    if (fstat(fd, &st) < 0 || st.st_size < 0 || st.st_size > (off_t)TLS_FILE_BYTES_MAX)
        return error_set(err, -EINVAL, "the file with the keys cannot be looked at, or is too large");
    data = calloc(1, (size_t)st.st_size + 1);
    if (data == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    while (used < (size_t)st.st_size && (n = pread(fd, data + used, (size_t)st.st_size - used, (off_t)used)) > 0)
        used += (size_t)n;
    if (n < 0) {
        free(data);
        return error_set(err, -errno, "cannot read the file with the keys: %s", strerror(errno));
    }
    *ret_data = data;
    *ret_len_bytes = used;
    return 0;
}

static int load(struct signer *signer, const struct ipc_signer_load *message, const int *fds, struct error *err)
{
    char password[TLS_PASSWORD_MAX] = "";
    struct tls_view view = { 0 };
    char *keys = NULL;
    size_t len = 0;
    int r = tls_view_map(fds[0], &view, err);

    memcpy(password, message->password, message->password_len_bytes);
    if (r == 0 && message->header.fd_count > 1)
        r = read_keys(fds[1], &keys, &len, err);
    if (r == 0)
        r = signer_load(&view, keys, len, message->password_len_bytes > 0 ? password : NULL, &signer->keys, err);
    explicit_bzero(password, sizeof(password));
    if (keys != NULL)
        explicit_bzero(keys, len);
    free(keys);
    tls_view_unmap(&view);
    return r;
}

static int run_load(struct worker *worker, const void *message, int *fds)
{
    struct ipc_status status = { .type = IPC_STATUS_SIGNER_LOADED };
    struct signer *signer = worker->role_state;
    struct error err = { 0 };
    int r;

    if (signer->loaded)
        return -EPROTO;
    r = load(signer, message, fds, &err);
    signer->loaded = r == 0;
    status.signer_loaded.code = r;
    if (r < 0)
        memcpy(status.signer_loaded.text, err.text, MIN(strlen(err.text), sizeof(status.signer_loaded.text) - 1));
    worker_report(worker, &status);
    return 0;
}

/* ---- Negotiators ---- */

static void client_end(struct signer_client *client)
{
    struct signer *signer = client->signer;

    LIST_REMOVE(client, link);
    signer->client_count--;
    atomic_store(&signer->worker->page->fds_clients, signer->client_count);
    io_loop_unwatch(signer->worker->control_loop, &client->watch);
    close_fd(&client->watch.fd);
    free(client);
}

/* Returns whether the negotiator may ask again. */
static bool answer(struct signer_client *client, const struct tls_signer_request *request)
{
    struct signer *signer = client->signer;
    struct tls_signer_reply reply;
    struct error err = { 0 };
    bool sent;

    if (client->asked++ >= TLS_SIGNER_ASKS_MAX) {
        log_error("a negotiator asked more than %d times: it may be under somebody's control", TLS_SIGNER_ASKS_MAX);
        return false;
    }
    if (signer_check(request, &err) < 0) {
        log_error("a negotiator asked for what no handshake needs (%s): it may be under somebody's control", err.text);
        return false;
    }
    signer_answer(&signer->keys, request, &reply);
    sent = send(client->watch.fd, &reply, sizeof(reply), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(reply);
    worker_page_add(&signer->worker->page->clients_total, 1);
    explicit_bzero(&reply, sizeof(reply));
    return sent;
}

static void client_ready(struct io_watch *watch, uint32_t events)
{
    struct signer_client *client = container_of(watch, struct signer_client, watch);
    struct tls_signer_request request;
    ssize_t n = recv(watch->fd, &request, sizeof(request), MSG_DONTWAIT | MSG_TRUNC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && n != (ssize_t)sizeof(request))
        log_error("a negotiator sent %zd bytes instead of %zu", n, sizeof(request));
    if (n != (ssize_t)sizeof(request) || !answer(client, &request))
        client_end(client);
}

static int run_client(struct worker *worker, const void *message, int *fds)
{
    struct signer *signer = worker->role_state;
    struct signer_client *client;

    if (!signer->loaded)
        return -EPROTO;
    if (signer->client_count == SIGNER_CLIENTS_MAX) {
        log_warning("more than %d handshakes at a time: one is refused", SIGNER_CLIENTS_MAX);
        return 0; /* its negotiator finds the socket closed */
    }
    client = calloc(1, sizeof(*client));
    if (client == NULL)
        return 0;
    client->signer = signer;
    client->watch = (struct io_watch){ .fd = TAKE_FD(fds[0]), .ready = client_ready };
    LIST_INSERT_HEAD(&signer->clients, client, link);
    signer->client_count++;
    atomic_store(&worker->page->fds_clients, signer->client_count);
    if (io_loop_watch(worker->control_loop, &client->watch, EPOLLIN) < 0)
        client_end(client);
    return 0;
}

static void signer_drain(struct worker *worker)
{
    worker_exit(worker);
}

static const struct worker_message messages[] = {
    { .type = IPC_SIGNER_LOAD, .handle = run_load },
    { .type = IPC_SIGNER_CLIENT, .handle = run_client },
};

int main(int argc, char **argv)
{
    static const struct worker_class signer_class = {
        .ipc_role = IPC_ROLE_TLS_SIGNER,
        .setup = signer_setup,
        .drain = signer_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &signer_class);
}
