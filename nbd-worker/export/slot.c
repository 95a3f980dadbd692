/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slots: requests that outlive their turn. Taken from the thread's free list; the list grows up to what its clients had
 * in flight at most and is given back when the last client leaves.
 */
#include <errno.h>

#include "nbd-worker/export/export.h"

bool nbd_slot_admits(struct nbd_client *client, size_t len_bytes)
{
    size_t size_bytes;

    if (client->slots_in_use >= NBD_CLIENT_SLOTS_MAX)
        return false;
    if (len_bytes == 0)
        return true;
    size_bytes = nbd_buffer_size(len_bytes);
    if (client->bytes_in_use != 0 && client->bytes_in_use + size_bytes > NBD_CLIENT_BYTES_MAX)
        return false;
    return nbd_budget_admits(client, size_bytes);
}

static struct nbd_slot *take_free_slot(struct nbd_thread *thread)
{
    struct nbd_slot *slot = thread->free_slots;

    if (slot == NULL)
        return calloc(1, sizeof(*slot));
    thread->free_slots = slot->next;
    return slot;
}

static void give_back(struct nbd_thread *thread, struct nbd_slot *slot)
{
    slot->next = thread->free_slots;
    thread->free_slots = slot;
}

struct nbd_slot *nbd_slot_new(struct nbd_client *client, const struct nbd_request *request, size_t len_bytes)
{
    struct nbd_thread *thread = client->thread;
    struct nbd_slot *slot = take_free_slot(thread);

    if (slot == NULL)
        return NULL;
    slot->buffer = NULL;
    slot->charged_bytes = 0;
    slot->client = client;
    if (len_bytes > 0) {
        slot->buffer = nbd_buffer_get(&thread->buffers, len_bytes);
        if (slot->buffer == NULL) {
            give_back(thread, slot);
            return NULL;
        }
        client->bytes_in_use += slot->buffer->size_bytes;
        nbd_budget_charge(slot, slot->buffer->size_bytes);
    }
    if (request != NULL)
        slot->request = *request;
    slot->next = NULL;
    slot->received_bytes = slot->executed_bytes = 0;
    slot->in_pieces = slot->spliced = false;
    slot->looking = false;
    slot->head_bytes = slot->body_bytes = slot->tail_bytes = slot->sent_bytes = 0;
    slot->body = NULL;
    slot->file_fd = -1;
    slot->file_error = 0;
    slot->file_ended = false;
    client->slots_in_use++;
    return slot;
}

static void put_buffer(struct nbd_slot *slot)
{
    slot->client->bytes_in_use -= slot->buffer->size_bytes;
    nbd_buffer_put(&slot->client->thread->buffers, slot->buffer);
    slot->buffer = NULL;
}

void nbd_slot_drop_buffer(struct nbd_slot *slot)
{
    if (slot->buffer == NULL)
        return;
    put_buffer(slot);
    slot->client->stalled = false;
    nbd_budget_give_back(slot);
}

int nbd_slot_replace_buffer(struct nbd_slot *slot, size_t len_bytes, size_t keep_bytes)
{
    struct nbd_buffer *buffer = nbd_buffer_get(&slot->client->thread->buffers, len_bytes);

    if (buffer == NULL)
        return -ENOMEM;
    memcpy(buffer->data, slot->buffer->data, keep_bytes);
    put_buffer(slot);
    slot->buffer = buffer;
    slot->client->bytes_in_use += buffer->size_bytes;
    nbd_budget_charge(slot, buffer->size_bytes);
    return 0;
}

void nbd_slot_free(struct nbd_slot *slot)
{
    struct nbd_client *client = slot->client;

    nbd_slot_drop_buffer(slot);
    client->slots_in_use--;
    client->stalled = false;
    give_back(client->thread, slot);
}

/* ---- Completion ---- */

static void finish_read(struct nbd_slot *slot)
{
    const struct nbd_request *request = &slot->request;

    if (slot->client->limits.form != NBD_FORM_SIMPLE)
        slot->head_bytes = nbd_put_data_head(slot->head, slot->client->limits.form, request, NBD_REPLY_FLAG_DONE);
    else
        slot->head_bytes = nbd_put_simple(slot->head, request->cookie, 0);
    slot->body = slot->buffer->data;
    slot->body_bytes = (size_t)request->len_bytes;
}

#define EXTENTS_BYTES (NBD_EXTENTS_MAX * sizeof(struct block_extent))

/* The extents; and behind them the chunks, if there may be more than the one that fits in the extents' place. */
size_t nbd_slot_status_bytes(const struct nbd_limits *limits)
{
    unsigned count = (unsigned)__builtin_popcount(limits->contexts);

    return EXTENTS_BYTES + (count > 1 ? count * NBD_STATUS_MAX(NBD_EXTENTS_MAX) : 0);
}

/* The descriptors of one context, in the place of the extents. */
static void finish_status_one(struct nbd_slot *slot, const struct nbd_context *context)
{
    enum nbd_form form = slot->client->limits.form;

    slot->body = slot->buffer->data;
    slot->body_bytes = nbd_put_descriptors(slot->buffer->data, form, context, slot->req.extents,
                                           slot->req.extents_count);
    slot->head_bytes = nbd_put_status_head(slot->head, form, &slot->request, NBD_REPLY_FLAG_DONE, context,
                                           slot->body_bytes);
}

/* "NBD_CMD_BLOCK_STATUS": exactly one chunk per context. */
static void finish_status(struct nbd_slot *slot)
{
    enum nbd_form form = slot->client->limits.form;
    uint8_t *to = slot->buffer->data + EXTENTS_BYTES, *start = to;
    uint32_t left = slot->request.contexts;

    for (unsigned i = 0; i < nbd_contexts_count; i++) {
        const struct nbd_context *context = &nbd_contexts[i];
        size_t len_bytes;

        if ((left & context->bit) == 0)
            continue;
        left &= ~context->bit;
        if (left == 0 && to == start) {
            finish_status_one(slot, context);
            return;
        }
        len_bytes = nbd_put_descriptors(to + nbd_status_head_bytes(form), form, context, slot->req.extents,
                                        slot->req.extents_count);
        to += len_bytes + nbd_put_status_head(to, form, &slot->request, left == 0 ? NBD_REPLY_FLAG_DONE : 0, context,
                                              len_bytes);
    }
    slot->body = start;
    slot->body_bytes = (size_t)(to - start);
}

static void finish_plain(struct nbd_slot *slot)
{
    nbd_slot_drop_buffer(slot);
    slot->head_bytes = nbd_output_encode(slot->client, &slot->request, 0, NULL, slot->head);
}

static void finish_error(struct nbd_slot *slot, int code)
{
    struct nbd_export *export = slot->client->thread->export;
    /* "Error values": ENOTSUP is an answer to NBD_CMD_FLAG_FAST_ZERO only. */
    bool wanted = code == -ENOTSUP && (slot->request.flags & NBD_CMD_FLAG_FAST_ZERO) != 0;
    uint32_t error = code == -ENOTSUP && !wanted ? NBD_EINVAL : nbd_error_of(code);

    nbd_slot_drop_buffer(slot);
    slot->head_bytes = nbd_output_encode(slot->client, &slot->request, error, nbd_error_text(code), slot->head);
    if (!wanted)
        export->io_error(export, &slot->req, &slot->request, code);
}

/* In the client's own turn a reply without data goes with the others in the send buffer. */
static bool reply_in_turn(struct nbd_slot *slot)
{
    struct nbd_client *client = slot->client;
    size_t head_bytes = slot->head_bytes;
    uint8_t *to;

    if (client->thread->turn_of != client || slot->body_bytes > 0)
        return false;
    to = nbd_output_reserve(client, head_bytes);
    if (to == NULL)
        return false;
    memcpy(to, slot->head, head_bytes);
    nbd_slot_free(slot);
    nbd_output_commit(client, head_bytes);
    return true;
}

static void slot_done(struct nbd_slot *slot, int result)
{
    static void (*const finish[BLOCK_OP_MAX])(struct nbd_slot *slot) = {
        [BLOCK_OP_READ] = finish_read,          [BLOCK_OP_WRITE] = finish_plain, [BLOCK_OP_FLUSH] = finish_plain,
        [BLOCK_OP_DISCARD] = finish_plain,      [BLOCK_OP_CACHE] = finish_plain, [BLOCK_OP_STATUS] = finish_status,
        [BLOCK_OP_WRITE_ZEROES] = finish_plain,
    };
    enum block_op op = slot->request.command->op;

    nbd_thread_count(slot->client->thread, op, result < 0 ? 0 : slot->request.len_bytes, result < 0);
    if (result < 0)
        finish_error(slot, result);
    else
        finish[op](slot);
    if (!reply_in_turn(slot))
        nbd_output_queue(slot);
}

bool nbd_is_hole(const struct block_request *req, const struct nbd_request *request)
{
    return req->extents_count > 0 && req->extents[0].len_bytes >= request->len_bytes &&
           (req->extents[0].flags & BLOCK_EXTENT_ZERO) != 0;
}

void nbd_slot_hole(struct nbd_slot *slot)
{
    const struct nbd_request *request = &slot->request;

    nbd_thread_count(slot->client->thread, BLOCK_OP_READ, request->len_bytes, false);
    nbd_slot_drop_buffer(slot);
    slot->head_bytes = nbd_put_hole(slot->head, slot->client->limits.form, request);
    if (!reply_in_turn(slot))
        nbd_output_queue(slot);
}

/* Whoever could not be asked is read. */
static void looked(struct nbd_slot *slot, int result)
{
    slot->looking = false;
    if (result == 0 && nbd_is_hole(&slot->req, &slot->request))
        nbd_slot_hole(slot);
    else
        nbd_slot_submit(slot, 0);
}

static void slot_complete(struct block_request *req, int result)
{
    struct nbd_slot *slot = container_of(req, struct nbd_slot, req);
    struct nbd_client *client = slot->client;

    client->pending--;
    if (slot->looking)
        looked(slot, result);
    else
        slot_done(slot, result);
    nbd_thread_mark_dirty(client);
}

static void set_buffers(struct nbd_slot *slot)
{
    struct block_request *req = &slot->req;

    req->iov = NULL;
    req->iov_count = 0;
    req->extents = NULL;
    if (slot->buffer == NULL)
        return;
    if (req->op == BLOCK_OP_STATUS) {
        req->extents = (struct block_extent *)(void *)slot->buffer->data;
        req->extents_max =
            slot->looking || (slot->request.flags & NBD_CMD_FLAG_REQ_ONE) != 0 ? 1 : NBD_EXTENTS_MAX;
        req->extents_count = 0;
        return;
    }
    slot->iov = (struct iovec){ .iov_base = slot->buffer->data, .iov_len = (size_t)req->len_bytes };
    req->iov = &slot->iov;
    req->iov_count = 1;
}

unsigned nbd_request_fua(const struct nbd_client *client, const struct nbd_request *request)
{
    bool wanted = (request->flags & NBD_CMD_FLAG_FUA) != 0 || client->thread->export->writethrough;

    return wanted ? BLOCK_REQ_FUA : 0;
}

/* As block_submit(). */
static int submit_op(struct nbd_slot *slot, enum block_op op, unsigned flags)
{
    struct nbd_thread *thread = slot->client->thread;
    struct block_request *req = &slot->req;
    int rc;

    req->op = op;
    req->flags = flags;
    req->offset = slot->request.offset + slot->executed_bytes;
    req->len_bytes = slot->request.len_bytes - slot->executed_bytes;
    req->complete = slot_complete;
    set_buffers(slot);
    rc = block_submit(thread->export->root, thread->queue, req);
    if (rc == BLOCK_PENDING)
        slot->client->pending++;
    return rc;
}

void nbd_slot_submit(struct nbd_slot *slot, unsigned flags)
{
    int rc = submit_op(slot, slot->request.command->op, flags);

    if (rc != BLOCK_PENDING)
        slot_done(slot, rc);
}

void nbd_slot_look(struct nbd_slot *slot)
{
    int rc;

    slot->looking = true;
    rc = submit_op(slot, BLOCK_OP_STATUS, 0);
    if (rc != BLOCK_PENDING)
        looked(slot, rc);
}
