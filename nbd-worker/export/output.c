/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What goes to a client: slots with finished replies, in a list, and after them whatever the current turn has collected
 * in the thread's send buffer. A full socket is never waited for: the rest becomes a slot of its own, and the
 * client goes on when the socket has room.
 */
#include <errno.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "nbd-worker/export/export.h"

#define GATHER_MAX   96           /* iovecs of one writev */
#define ZEROES_BYTES (64u << 10)

static const uint8_t zeroes[ZEROES_BYTES];

/* ---- One slot's reply ---- */

static size_t reply_bytes(const struct nbd_slot *slot)
{
    return slot->head_bytes + slot->body_bytes + slot->tail_bytes;
}

static bool body_is_file(const struct nbd_slot *slot)
{
    return slot->body == NULL && slot->body_bytes > 0;
}

/* Whether what is to be sent next of this slot comes from a file. */
static bool at_file(const struct nbd_slot *slot)
{
    return body_is_file(slot) && slot->sent_bytes >= slot->head_bytes &&
           slot->sent_bytes < slot->head_bytes + slot->body_bytes;
}

static unsigned add_part(struct iovec *iov, const uint8_t *data, size_t len_bytes, size_t *skip_bytes)
{
    size_t skip = MIN(*skip_bytes, len_bytes);

    *skip_bytes -= skip;
    if (skip == len_bytes)
        return 0;
    *iov = (struct iovec){ .iov_base = (void *)(uintptr_t)(data + skip), .iov_len = len_bytes - skip };
    return 1;
}

/* Up to three iovecs for what remains of a slot, as far as it is in memory. */
static unsigned slot_parts(const struct nbd_slot *slot, struct iovec *iov)
{
    size_t skip_bytes = slot->sent_bytes;
    unsigned n = add_part(&iov[0], slot->head, slot->head_bytes, &skip_bytes);

    if (body_is_file(slot)) {
        if (slot->sent_bytes < slot->head_bytes)
            return n;
        skip_bytes -= slot->body_bytes;
    } else if (slot->body_bytes > 0) {
        n += add_part(&iov[n], slot->body, slot->body_bytes, &skip_bytes);
    }
    return n + add_part(&iov[n], slot->tail, slot->tail_bytes, &skip_bytes);
}

static void pop_slot(struct nbd_client *client)
{
    struct nbd_slot *slot = client->out_head;

    client->out_head = slot->next;
    if (client->out_head == NULL)
        client->out_tail = NULL;
    nbd_slot_free(slot);
}

/* ---- Sending ---- */

void nbd_output_linger(struct nbd_client *client)
{
    io_loop_timer_set(client->thread->loop, &client->linger,
                      now_ns() + (client->thread->draining ? NBD_DRAIN_LINGER_NS : NBD_LINGER_NS));
}

static void made_progress(struct nbd_client *client)
{
    if (client->linger.when_ns != 0)
        nbd_output_linger(client);
}

static void send_failed(struct nbd_client *client)
{
    if (errno == EAGAIN)
        client->blocked = true;
    else if (errno != EINTR)
        nbd_output_break(client);
}

/* len_bytes of the gathered parts have gone out; total_bytes had been offered. */
static void account_sent(struct nbd_client *client, size_t len_bytes, size_t total_bytes)
{
    struct nbd_thread *thread = client->thread;

    if (len_bytes < total_bytes)
        client->blocked = true;
    while (client->out_head != NULL && len_bytes > 0) {
        struct nbd_slot *slot = client->out_head;
        size_t left = (body_is_file(slot) && slot->sent_bytes < slot->head_bytes ? slot->head_bytes
                                                                                 : reply_bytes(slot)) -
                      slot->sent_bytes;
        size_t n = MIN(left, len_bytes);

        slot->sent_bytes += n;
        len_bytes -= n;
        if (slot->sent_bytes < reply_bytes(slot))
            break;
        pop_slot(client);
    }
    /* What remains is of the send buffer. If it is not all, the socket is full, and keep_rest() moves the rest away. */
    thread->send_next += len_bytes;
    if (thread->send_next == thread->send_end)
        thread->send_next = thread->send_end = 0;
    made_progress(client);
}

/* The sandbox knows no sendmsg, which could pass descriptors; SIGPIPE is ignored for the sake of writev. */
static ssize_t send_parts(int fd, const struct iovec *iov, unsigned count, bool more)
{
    if (count == 1)
        return send(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    return writev(fd, iov, (int)count);
}

static void send_memory(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    struct iovec iov[GATHER_MAX];
    size_t total_bytes = 0;
    bool to_file = false;
    struct nbd_slot *slot;
    unsigned n = 0;
    ssize_t sent;

    for (slot = client->out_head; slot != NULL && n + 4 <= GATHER_MAX && !to_file; slot = slot->next) {
        n += slot_parts(slot, &iov[n]);
        to_file = body_is_file(slot) && slot->sent_bytes < slot->head_bytes + slot->body_bytes;
    }
    if (slot == NULL && !to_file && thread->send_end > 0)
        iov[n++] = (struct iovec){ .iov_base = thread->send->data, .iov_len = thread->send_end };
    for (unsigned i = 0; i < n; i++)
        total_bytes += iov[i].iov_len;
    sent = send_parts(client->watch.fd, iov, n, to_file);
    if (sent < 0)
        send_failed(client);
    else
        account_sent(client, (size_t)sent, total_bytes);
}

/*
 * Reading the image failed after the header went out. A structured reply completes its chunk with zeroes and says so in
 * an error chunk; a simple one leaves only the hard disconnect (proto.md, NBD_CMD_READ).
 */
static void file_failed(struct nbd_client *client, struct nbd_slot *slot, int code)
{
    struct nbd_export *export = client->thread->export;

    export->io_error(export, &slot->req, &slot->request, code);
    if (client->limits.form == NBD_FORM_SIMPLE) {
        nbd_client_close(client, false, "reading the image failed after the reply had begun");
        nbd_output_break(client);
        return;
    }
    slot->file_error = code;
}

/* What is sent in place of the rest of a file. Returns how much went out. */
static size_t send_zeroes(struct nbd_client *client, struct nbd_slot *slot, size_t left_bytes)
{
    ssize_t n = send(client->watch.fd, zeroes, MIN(left_bytes, sizeof(zeroes)), MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0) {
        send_failed(client);
        return 0;
    }
    slot->sent_bytes += (size_t)n;
    if ((size_t)n == left_bytes && slot->file_error != 0) {
        /* The error chunk takes the place of the tail, which is too short for its text. */
        slot->head_bytes = slot->body_bytes = slot->tail_bytes = slot->sent_bytes = 0;
        slot->head_bytes = nbd_put_error(slot->head, client->limits.form, &slot->request, nbd_error_of(slot->file_error),
                                         nbd_error_text(slot->file_error));
    }
    made_progress(client);
    if (slot->sent_bytes == reply_bytes(slot))
        pop_slot(client);
    return (size_t)n;
}

/* Returns how much of the file went out. */
static size_t send_file(struct nbd_client *client)
{
    struct nbd_slot *slot = client->out_head;
    size_t done_bytes = slot->sent_bytes - slot->head_bytes;
    off_t offset = (off_t)(slot->file_offset + done_bytes);
    ssize_t n;

    if (slot->file_error != 0 || slot->file_ended)
        return send_zeroes(client, slot, slot->body_bytes - done_bytes);
    n = sendfile(client->watch.fd, slot->file_fd, &offset, slot->body_bytes - done_bytes);
    if (n > 0) {
        /* Short mostly means full; if not, the socket says so at once. */
        client->blocked = (size_t)n < slot->body_bytes - done_bytes;
        slot->sent_bytes += (size_t)n;
        made_progress(client);
        if (slot->sent_bytes == reply_bytes(slot))
            pop_slot(client);
    } else if (n == 0) {
        slot->file_ended = true; /* what lies behind the end reads as zeros, whoever cut the image */
    } else if (errno == EAGAIN) {
        client->blocked = true;
    } else if (errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT || errno == ENOTCONN) {
        nbd_output_break(client);
    } else if (errno != EINTR) {
        file_failed(client, slot, -errno);
    }
    return n > 0 ? (size_t)n : 0;
}

/* The socket is full: the rest of the send buffer waits in a slot, so that the next client finds the buffer empty. */
static void keep_rest(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    size_t rest_bytes = thread->send_end - thread->send_next;
    bool swap = rest_bytes > NBD_SEND_BYTES / 4;
    struct nbd_slot *slot = nbd_slot_new(client, NULL, swap ? NBD_SEND_BYTES : rest_bytes);

    if (slot == NULL) {
        nbd_client_close(client, false, "no memory for replies");
        nbd_output_break(client);
        return;
    }
    if (swap) {
        struct nbd_buffer *empty = slot->buffer;

        slot->buffer = thread->send;
        slot->body = slot->buffer->data + thread->send_next;
        thread->send = empty;
    } else {
        memcpy(slot->buffer->data, thread->send->data + thread->send_next, rest_bytes);
        slot->body = slot->buffer->data;
    }
    slot->body_bytes = rest_bytes;
    thread->send_next = thread->send_end = 0;
    nbd_output_queue(slot);
}

void nbd_output_flush(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    size_t file_bytes = 0;

    thread->untold_bytes = 0;
    while (!client->blocked && !client->broken && (client->out_head != NULL || thread->send_end > 0)) {
        if (client->out_head != NULL && at_file(client->out_head))
            file_bytes += send_file(client);
        else
            send_memory(client);
        /* A fast reader must not have the thread for itself: as if the socket were full, it waits for its next turn. */
        if (file_bytes >= NBD_TURN_FILE_BYTES)
            client->blocked = true;
    }
    if (client->broken)
        nbd_output_break(client);
    else if (thread->send_end > 0)
        keep_rest(client);
}

void nbd_output_break(struct nbd_client *client)
{
    client->broken = true;
    client->blocked = false;
    client->thread->send_next = client->thread->send_end = 0;
    while (client->out_head != NULL)
        pop_slot(client);
}

/* ---- Collecting ---- */

uint8_t *nbd_output_reserve(struct nbd_client *client, size_t len_bytes)
{
    struct nbd_thread *thread = client->thread;

    if (!client->blocked && thread->send_end + len_bytes > NBD_SEND_BYTES)
        nbd_output_flush(client);
    return client->blocked ? NULL : thread->send->data + thread->send_end;
}

void nbd_output_commit(struct nbd_client *client, size_t len_bytes)
{
    client->thread->send_end += len_bytes;
    if (client->thread->send_end >= NBD_SEND_NOW_BYTES)
        nbd_output_flush(client);
}

void nbd_output_wrote(struct nbd_client *client, size_t len_bytes)
{
    client->thread->untold_bytes += len_bytes;
    if (client->thread->untold_bytes >= NBD_SEND_NOW_BYTES)
        nbd_output_flush(client);
}

void nbd_output_queue(struct nbd_slot *slot)
{
    struct nbd_client *client = slot->client;

    slot->next = NULL;
    if (client->broken) {
        nbd_slot_free(slot);
        return;
    }
    if (client->out_tail != NULL)
        client->out_tail->next = slot;
    else
        client->out_head = slot;
    client->out_tail = slot;
}

size_t nbd_output_encode(const struct nbd_client *client, const struct nbd_request *request, uint32_t error,
                         const char *text, uint8_t *to)
{
    enum nbd_form form = client->limits.form;

    if (form == NBD_FORM_SIMPLE)
        return nbd_put_simple(to, request->cookie, error);
    if (error != 0)
        return nbd_put_error(to, form, request, error, text);
    /* "Structured reply chunk message": a read MUST NOT be answered by a simple reply; extended: nothing may be. */
    if (form == NBD_FORM_EXTENDED || request->type == NBD_CMD_READ)
        return nbd_put_none(to, form, request);
    return nbd_put_simple(to, request->cookie, 0);
}

void nbd_output_reply(struct nbd_client *client, const struct nbd_request *request, uint32_t error, const char *text)
{
    uint8_t *to = nbd_output_reserve(client, NBD_REPLY_HEAD_MAX);
    struct nbd_slot *slot;

    if (to != NULL) {
        nbd_output_commit(client, nbd_output_encode(client, request, error, text, to));
        return;
    }
    slot = nbd_slot_new(client, request, 0);
    if (slot == NULL) {
        nbd_client_close(client, false, "no memory for replies");
        return;
    }
    slot->head_bytes = nbd_output_encode(client, request, error, text, slot->head);
    nbd_output_queue(slot);
}
