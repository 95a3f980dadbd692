/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A whole TLS negotiator's client on a socket: the part in clear, what is injected around STARTTLS, and whatever is not
 * TLS given to GnuTLS as a ClientHello and what follows it. The first byte says how finely it arrives. Whatever comes: once
 * the client has ended its side it is over, with a reason, and nobody was let in.
 */
#include <assert.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "nbd-worker/tls/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TURNS_MAX 1000 /* after the end of its input, or while it takes none of it */

static unsigned reports, ends;

static void report(struct tls_client *client, const struct ipc_status *status)
{
    assert(status->type == IPC_STATUS_CLIENT_GONE && status->client_gone.text[0] != '\0');
    reports++;
}

static void over(struct tls_client *client)
{
    ends++;
}

/* tls-creds-anon: of all kinds the one that has no key. */
static struct tls_view credentials(void)
{
    static struct tls_credentials anon = { .magic = TLS_CREDENTIALS_MAGIC, .kind = TLS_KIND_ANON };

    anon.len_bytes = sizeof(anon);
    for (unsigned i = 0; i < TLS_SECTION_MAX; i++)
        anon.sections[i].offset = sizeof(anon);
    return (struct tls_view){ .credentials = &anon, .len_bytes = sizeof(anon) };
}

/* What the negotiator sent is of no interest, but has to make room. */
static void drain(int fd)
{
    uint8_t buffer[65536];

    while (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
        ;
}

static void turn(struct io_loop *loop, int fd)
{
    io_loop_stop(loop); /* one turn */
    io_loop_run(loop);
    drain(fd);
}

static void feed(struct io_loop *loop, int fd, const uint8_t *data, size_t size)
{
    size_t piece = data[0] > 0 ? data[0] : 65536, at = 1;
    unsigned idle = 0;

    while (at < size && ends == 0) {
        ssize_t n = send(fd, data + at, MIN(piece, size - at), MSG_DONTWAIT | MSG_NOSIGNAL);

        at += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        assert(idle < TURNS_MAX);
        turn(loop, fd);
    }
    shutdown(fd, SHUT_WR);
    for (idle = 0; ends == 0; idle++) {
        assert(idle < TURNS_MAX);
        turn(loop, fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tls_client client;
    static struct io_loop *loop;
    struct nbd_directory_view directory = { 0 }; /* none: whoever looks at it before TLS crashes */
    struct tls_view view = credentials();
    int fds[4] = { -1, -1, -1, -1 }, pair[2];

    if (size == 0)
        return 0;
    if (loop == NULL) {
        log_set_level(LOG_LEVEL_ERROR);
        loop = io_loop_new(NULL);
    }
    if (loop == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return 0;
    reports = ends = 0;
    memset(&client, 0, sizeof(client));
    client.report = report;
    client.over = over;
    fds[0] = pair[1];
    if (tls_client_start(&client, loop, fds, &view, &directory, 1, 0, NULL) == 0) {
        feed(loop, pair[0], data, size);
        assert(reports == 1 && ends == 1);
    } else {
        tls_client_stop(&client);
    }
    close(pair[0]);
    return 0;
}
