/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One client: what it sends, turn by turn, and how it leaves. Its bytes are hostile; an error of its own closes it and
 * nobody else.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "nbd-worker/export/export.h"

static size_t header_bytes(const struct nbd_client *client)
{
    return nbd_header_bytes(client->limits.form);
}

static bool takes_input(const struct nbd_client *client)
{
    return !client->closing && !client->stalled;
}

/* ---- Executing what has been received ---- */

static void skip_payload(struct nbd_client *client, struct cursor *in)
{
    size_t n = (size_t)MIN(client->skip_bytes, in->left_bytes);

    cursor_bytes(in, n);
    client->skip_bytes -= n;
    if (client->skip_bytes == 0)
        nbd_output_reply(client, &client->skip_request, client->skip_error, client->skip_text);
}

void nbd_client_refuse(struct nbd_client *client, const struct nbd_request *request, uint64_t taken_bytes,
                       uint32_t error, const char *text)
{
    if (request->payload_bytes == taken_bytes) {
        nbd_output_reply(client, request, error, text);
        return;
    }
    client->skip_bytes = request->payload_bytes - taken_bytes;
    client->skip_request = *request;
    client->skip_error = error;
    client->skip_text = text;
}

/* False: the request stays where it is, for now or for good. */
static bool take_request(struct nbd_client *client, struct cursor *in)
{
    struct cursor rest = *in;
    struct nbd_request request;
    const char *text = NULL;
    uint32_t error;

    if (!nbd_request_parse(cursor_bytes(&rest, header_bytes(client)), &client->limits, &request)) {
        nbd_client_close(client, false, "the client sent a request with the wrong magic");
        return false;
    }
    /* extension-ext-header, "Request message": the server SHOULD initiate hard disconnect. */
    if (client->limits.form == NBD_FORM_EXTENDED && request.payload_bytes > NBD_MAX_PAYLOAD) {
        nbd_client_close(client, false, "the client sent a request with a payload of more than 32 MiB");
        return false;
    }
    error = nbd_request_check(&request, &client->limits, block_node_size(client->thread->export->root), &text);
    /* "Terminating the transmission phase": what comes after a shutdown SHOULD be answered so. */
    if (error == 0 && !request.command->unchecked &&
        atomic_load_explicit(&client->thread->export->shut_down, memory_order_relaxed)) {
        error = NBD_ESHUTDOWN;
        text = "the export is being shut down";
    }
    if (!nbd_slot_admits(client, 0)) {
        client->stalled = true;
        return false;
    }
    if (error != 0) {
        nbd_client_refuse(client, &request, 0, error, text);
    } else if (request.command->handle(client, &request, &rest) == NBD_STALLED) {
        client->stalled = true;
        return false;
    }
    nbd_budget_leave(client); /* it may have got by without what it stood in line for */
    *in = rest;
    return true;
}

static void execute(struct nbd_client *client, struct cursor *in)
{
    unsigned budget = NBD_TURN_REQUESTS_MAX;

    while (in->left_bytes > 0 && takes_input(client)) {
        if (client->skip_bytes > 0) {
            skip_payload(client, in);
            continue;
        }
        if (in->left_bytes < header_bytes(client))
            return;
        if (budget-- == 0) {
            nbd_thread_mark_dirty(client);
            return;
        }
        if (!take_request(client, in))
            return;
    }
}

/* ---- Receiving ---- */

static void drop_backlog(struct nbd_client *client)
{
    nbd_buffer_put(&client->thread->buffers, client->backlog);
    client->backlog = NULL;
}

/* Received but not executed: goes to the client, because the next client needs the thread's buffer. */
static void keep_backlog(struct nbd_client *client, const struct cursor *in)
{
    struct nbd_thread *thread = client->thread;
    bool swap = in->left_bytes > NBD_RECEIVE_BYTES / 4;
    struct nbd_buffer *buffer = nbd_buffer_get(&thread->buffers, swap ? NBD_RECEIVE_BYTES : in->left_bytes);

    if (buffer == NULL) {
        nbd_client_close(client, false, "no memory for requests");
        return;
    }
    if (swap) {
        client->backlog = thread->receive;
        client->backlog_next = (size_t)(in->next - thread->receive->data);
        thread->receive = buffer;
    } else {
        memcpy(buffer->data, in->next, in->left_bytes);
        client->backlog = buffer;
        client->backlog_next = 0;
    }
    client->backlog_end = client->backlog_next + in->left_bytes;
}

static void keep_stash(struct nbd_client *client, const struct cursor *in)
{
    memcpy(client->stash, in->next, in->left_bytes);
    client->stash_bytes = in->left_bytes;
}

static void execute_backlog(struct nbd_client *client)
{
    struct cursor in =
        cursor_init(client->backlog->data + client->backlog_next, client->backlog_end - client->backlog_next);

    execute(client, &in);
    if (client->closing)
        return; /* and the backlog is gone */
    client->backlog_next = client->backlog_end - in.left_bytes;
    if (in.left_bytes >= header_bytes(client))
        return;
    keep_stash(client, &in);
    drop_backlog(client);
}

static void receive_failed(struct nbd_client *client, ssize_t result)
{
    bool amid = client->receiving != NULL || client->skip_bytes > 0 || client->stash_bytes > 0;

    if (result < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (result < 0)
        nbd_output_break(client);
    if (result < 0)
        nbd_client_close(client, false, "the connection to the client broke");
    else if (amid)
        nbd_client_close(client, false, "the client closed the connection in the middle of a request");
    else
        nbd_client_close(client, false, "the client closed the connection without NBD_CMD_DISC");
}

/* Where the payload of a slot goes on, and how much of it has room there. */
static struct iovec payload_room(const struct nbd_slot *slot)
{
    size_t used = (size_t)(slot->received_bytes - slot->executed_bytes);
    uint64_t wanted = slot->request.payload_bytes - slot->received_bytes;

    return (struct iovec){ slot->buffer->data + used, (size_t)MIN(wanted, slot->buffer->size_bytes - used) };
}

static void payload_came(struct nbd_client *client, struct nbd_slot *slot)
{
    if (slot->received_bytes == slot->request.payload_bytes) {
        client->receiving = NULL;
        slot->request.command->received(slot);
    } else if (slot->in_pieces) {
        nbd_write_piece(slot);
    }
}

/* len_bytes have been received; those that belong to a payload in a slot come first. Returns how many they are. */
static size_t account_payload(struct nbd_client *client, size_t len_bytes)
{
    struct nbd_slot *slot = client->receiving;
    size_t n;

    if (slot == NULL)
        return 0;
    n = MIN(len_bytes, payload_room(slot).iov_len);
    slot->received_bytes += n;
    payload_came(client, slot);
    return n;
}

/*
 * While large payloads come, little is received beyond the slot at hand, so that the next payload lands in its own slot
 * and is not copied; nothing but a header if it is not even received. A recv that fills that little with something else
 * ends it.
 */
static void adapt(struct nbd_client *client, size_t offered_bytes, size_t len_bytes)
{
    if (client->receiving != NULL && client->receiving->request.payload_bytes > NBD_RECEIVE_LARGE_BYTES)
        client->receive_bytes = client->receiving->spliced ? header_bytes(client) : NBD_RECEIVE_LARGE_BYTES;
    else if (len_bytes == offered_bytes)
        client->receive_bytes = NBD_RECEIVE_BYTES;
}

static bool receive_spliced(struct nbd_client *client)
{
    struct nbd_slot *slot = client->receiving;
    ssize_t n = nbd_splice_receive(slot);

    if (n <= 0)
        receive_failed(client, n);
    else
        payload_came(client, slot);
    return n > 0;
}

/* Whether something came. */
static bool receive(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    uint8_t *buffer = thread->receive->data;
    struct nbd_slot *slot = client->receiving;
    struct iovec iov[2];
    size_t offered_bytes = client->receive_bytes - client->stash_bytes, payload_bytes;
    struct cursor in;
    ssize_t n;

    if (slot != NULL && slot->spliced)
        return receive_spliced(client);
    memcpy(buffer, client->stash, client->stash_bytes);
    iov[1] = (struct iovec){ buffer + client->stash_bytes, offered_bytes };
    if (slot != NULL) {
        iov[0] = payload_room(slot);
        /* What follows the payload, only if the payload has room up to its end. */
        n = readv(client->watch.fd, iov, iov[0].iov_len == slot->request.payload_bytes - slot->received_bytes ? 2 : 1);
    } else {
        n = recv(client->watch.fd, iov[1].iov_base, iov[1].iov_len, MSG_DONTWAIT);
    }
    if (n <= 0) {
        receive_failed(client, n);
        return false;
    }
    payload_bytes = account_payload(client, (size_t)n);
    in = cursor_init(buffer, client->stash_bytes + (size_t)n - payload_bytes);
    client->stash_bytes = 0;
    execute(client, &in);
    adapt(client, offered_bytes, (size_t)n - payload_bytes);
    if (client->closing)
        return true;
    if (in.left_bytes < header_bytes(client))
        keep_stash(client, &in);
    else
        keep_backlog(client, &in);
    return true;
}

/* While a piece of a large write is executed the next one arrives: no need to wait for word of it. */
static void receive_all(struct nbd_client *client)
{
    unsigned budget = NBD_TURN_PIECES_MAX;

    while (receive(client) && client->receiving != NULL && client->receiving->in_pieces && budget-- > 0)
        ;
}

/* ---- Turns ---- */

/* What storage does with its requests may take for ever: nobody should have to wait for its place. */
static void tell_if_left(struct nbd_client *client)
{
    struct nbd_export *export = client->thread->export;

    if (!client->closing || client->pending == 0 || client->told_left)
        return;
    client->told_left = true;
    if (export->client_left != NULL)
        export->client_left(export, client->client_id);
}

/* Wait for what can happen next; or, if nothing can, the client is gone. */
static void settle(struct nbd_client *client)
{
    struct io_loop *loop = client->thread->loop;
    uint32_t events = (takes_input(client) ? EPOLLIN : 0) | (client->blocked ? EPOLLOUT : 0);

    /* What made it stall has gone out at the end of this very turn: no event will tell. */
    if (client->backlog != NULL && takes_input(client))
        nbd_thread_mark_dirty(client);
    if (client->closing && client->slots_in_use == 0 && !client->dirty) {
        nbd_thread_remove(client);
        return;
    }
    tell_if_left(client);
    /* Only the client's own slowness counts: a slow disk has all the time it needs. */
    if (client->closing && client->blocked && client->linger.when_ns == 0)
        nbd_output_linger(client);
    else if (!client->blocked)
        io_loop_timer_cancel(loop, &client->linger);
    if (io_loop_watch(loop, &client->watch, events) < 0) {
        nbd_output_break(client);
        nbd_client_close(client, false, "the client's socket cannot be watched");
        nbd_thread_mark_dirty(client);
    }
}

void nbd_client_turn(struct nbd_client *client, bool readable)
{
    struct nbd_thread *thread = client->thread;

    thread->turn_of = client;
    nbd_output_flush(client);
    if (client->backlog != NULL && takes_input(client))
        execute_backlog(client);
    if (readable && client->backlog == NULL && takes_input(client))
        receive_all(client);
    nbd_output_flush(client);
    thread->turn_of = NULL;
    if (thread->counts.any)
        nbd_thread_flush_counts(thread);
    settle(client);
}

static void client_ready(struct io_watch *watch, uint32_t events)
{
    struct nbd_client *client = container_of(watch, struct nbd_client, watch);

    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0)
        client->blocked = false;
    nbd_client_turn(client, (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0);
}

/* It is leaving, but does not read what it asked for. Slots that are below the export come back by themselves. */
static void linger_expired(struct io_timer *timer)
{
    struct nbd_client *client = container_of(timer, struct nbd_client, linger);

    nbd_output_break(client);
    nbd_client_turn(client, false);
}

void nbd_client_close(struct nbd_client *client, bool in_order, const char *reason)
{
    if (client->closing)
        return;
    client->closing = true;
    client->left_in_order = in_order;
    client->reason = reason;
    nbd_budget_leave(client);
    drop_backlog(client);
    if (client->receiving != NULL)
        nbd_slot_free(TAKE_PTR(client->receiving));
}

static enum nbd_form form_of(uint32_t flags)
{
    if ((flags & IPC_NBD_EXTENDED_HEADERS) != 0)
        return NBD_FORM_EXTENDED;
    return (flags & IPC_NBD_STRUCTURED_REPLY) != 0 ? NBD_FORM_STRUCTURED : NBD_FORM_SIMPLE;
}

struct nbd_client *nbd_client_new(struct nbd_thread *thread, const struct ipc_nbd_negotiated *negotiated)
{
    struct nbd_client *client = calloc(1, sizeof(*client));

    if (client == NULL)
        return NULL;
    client->watch = (struct io_watch){ .fd = -1, .ready = client_ready };
    client->linger = (struct io_timer){ .expired = linger_expired };
    client->thread = thread;
    client->client_id = negotiated->client_id;
    client->receive_bytes = NBD_RECEIVE_BYTES;
    client->given_back_before = NBD_HELD_NOTHING;
    client->limits = (struct nbd_limits){
        .read_only = thread->export->read_only,
        .fast_zero = thread->export->fast_zero,
        .form = form_of(negotiated->flags),
        .contexts = negotiated->contexts,
    };
    return client;
}

void nbd_client_start(struct nbd_client *client)
{
    if (client->thread->draining)
        nbd_client_close(client, true, "the export is being closed");
    /* What it sent along with the last option is there already. */
    nbd_client_turn(client, true);
}
