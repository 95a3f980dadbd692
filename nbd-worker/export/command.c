/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The commands of the transmission phase (NBD proto.md, "Request types"), one row each. A handler gets a request that
 * has passed nbd_request_check(), for a client that may take one more slot.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "nbd-worker/export/export.h"

static void refuse_no_memory(struct nbd_client *client, const struct nbd_request *request)
{
    nbd_output_reply(client, request, NBD_ENOMEM, "the server is out of memory");
}

/* A slot with a buffer of len_bytes, submitted at once. */
static enum nbd_outcome submit(struct nbd_client *client, const struct nbd_request *request, size_t len_bytes,
                               unsigned flags)
{
    struct nbd_slot *slot;

    if (!nbd_slot_admits(client, len_bytes))
        return NBD_STALLED;
    slot = nbd_slot_new(client, request, len_bytes);
    if (slot == NULL)
        refuse_no_memory(client, request);
    else
        nbd_slot_submit(slot, flags);
    return NBD_TAKEN;
}

/* As block_submit() of len_bytes from offset, at once or not at all. */
static int transfer_inline(struct nbd_thread *thread, enum block_op op, uint64_t offset, const void *data,
                           size_t len_bytes)
{
    struct block_request *req = &thread->inline_request;
    int rc;

    thread->inline_iov = (struct iovec){ (void *)(uintptr_t)data, len_bytes };
    req->op = op;
    req->flags = BLOCK_REQ_INLINE_ONLY;
    req->offset = offset;
    req->len_bytes = len_bytes;
    req->iov = &thread->inline_iov;
    req->iov_count = 1;
    rc = block_submit(thread->export->root, thread->queue, req);
    assert(rc != BLOCK_PENDING);
    return rc;
}

/* Try a read or write on memory that is only there now. 0, -errno, or -EAGAIN: it needs a slot. */
static int submit_inline(struct nbd_client *client, const struct nbd_request *request, const void *data)
{
    struct nbd_thread *thread = client->thread;
    int rc = transfer_inline(thread, request->command->op, request->offset, data, (size_t)request->len_bytes);

    if (rc == -EAGAIN)
        return rc;
    nbd_thread_count(thread, request->command->op, rc < 0 ? 0 : request->len_bytes, rc < 0);
    if (rc < 0)
        thread->export->io_error(thread->export, &thread->inline_request, request, rc);
    return rc;
}

/* ---- READ ---- */

static size_t put_read_head(const struct nbd_client *client, const struct nbd_request *request, uint16_t flags,
                            uint8_t *to)
{
    if (client->limits.form == NBD_FORM_SIMPLE)
        return nbd_put_simple(to, request->cookie, 0);
    return nbd_put_data_head(to, client->limits.form, request, flags);
}

static size_t read_head_bytes(const struct nbd_client *client)
{
    if (client->limits.form == NBD_FORM_SIMPLE)
        return sizeof(struct nbd_simple_reply);
    return nbd_chunk_bytes(client->limits.form) + sizeof(struct nbd_payload_data);
}

/* From the page cache to the socket. False: not possible or not wise, nothing has happened. */
static bool read_by_sendfile(struct nbd_client *client, const struct nbd_request *request)
{
    struct nbd_thread *thread = client->thread;
    uint64_t file_offset;
    struct nbd_slot *slot;
    int fd;

    if (request->len_bytes < NBD_SENDFILE_MIN_BYTES ||
        !block_node_map(thread->export->root, request->offset, request->len_bytes, &fd, &file_offset))
        return false;
    slot = nbd_slot_new(client, request, 0);
    if (slot == NULL)
        return false;
    slot->req.op = BLOCK_OP_READ;
    slot->head_bytes = put_read_head(client, request, 0, slot->head);
    slot->body_bytes = (size_t)request->len_bytes;
    slot->file_fd = fd;
    slot->file_offset = file_offset;
    /* A content chunk that may still fail must not be the last one. */
    if (client->limits.form != NBD_FORM_SIMPLE)
        slot->tail_bytes = nbd_put_none(slot->tail, client->limits.form, request);
    nbd_thread_count(thread, BLOCK_OP_READ, request->len_bytes, false);
    nbd_output_flush(client);
    nbd_output_queue(slot);
    nbd_output_flush(client);
    return true;
}

/*
 * Whether a large read is one hole, which then costs neither I/O nor the network anything. What is known to be data
 * is read at once; what is not known is looked for in a slot. *ret_taken: the request needs nothing more than the outcome
 * that is returned.
 */
static enum nbd_outcome read_hole(struct nbd_client *client, const struct nbd_request *request, bool *ret_taken)
{
    struct nbd_thread *thread = client->thread;
    struct block_request *req = &thread->inline_request;
    struct nbd_slot *slot;
    int rc;

    *ret_taken = false;
    if (client->limits.form == NBD_FORM_SIMPLE || (request->flags & NBD_CMD_FLAG_DF) != 0 ||
        request->len_bytes < NBD_HOLE_MIN_BYTES)
        return NBD_TAKEN;
    req->op = BLOCK_OP_STATUS;
    req->flags = BLOCK_REQ_INLINE_ONLY;
    req->offset = request->offset;
    req->len_bytes = request->len_bytes;
    req->extents = &thread->inline_extent;
    req->extents_max = 1;
    req->extents_count = 0;
    rc = block_submit(thread->export->root, thread->queue, req);
    assert(rc != BLOCK_PENDING);
    if (rc != -EAGAIN && (rc < 0 || !nbd_is_hole(req, request)))
        return NBD_TAKEN;
    *ret_taken = true;
    if (!nbd_slot_admits(client, rc == 0 ? 0 : (size_t)request->len_bytes))
        return NBD_STALLED;
    slot = nbd_slot_new(client, request, rc == 0 ? 0 : (size_t)request->len_bytes);
    if (slot == NULL)
        refuse_no_memory(client, request);
    else if (rc == 0)
        nbd_slot_hole(slot);
    else
        nbd_slot_look(slot);
    return NBD_TAKEN;
}

static enum nbd_outcome handle_read(struct nbd_client *client, const struct nbd_request *request,
                                    struct cursor *payload)
{
    size_t head_bytes = read_head_bytes(client);
    size_t len_bytes = (size_t)request->len_bytes;
    enum nbd_outcome outcome;
    uint8_t *to = NULL;
    bool taken;
    int rc;

    if (len_bytes == 0) {
        nbd_output_reply(client, request, 0, NULL);
        return NBD_TAKEN;
    }
    outcome = read_hole(client, request, &taken);
    if (taken)
        return outcome;
    if (read_by_sendfile(client, request))
        return NBD_TAKEN;
    if (head_bytes + len_bytes <= NBD_SEND_BYTES - NBD_SEND_NOW_BYTES)
        to = nbd_output_reserve(client, head_bytes + len_bytes);
    if (to == NULL)
        return submit(client, request, len_bytes, 0);
    rc = submit_inline(client, request, to + head_bytes);
    if (rc == 0) {
        put_read_head(client, request, NBD_REPLY_FLAG_DONE, to);
        nbd_output_commit(client, head_bytes + len_bytes);
    } else if (rc == -EAGAIN) {
        return submit(client, request, len_bytes, BLOCK_REQ_NO_INLINE);
    } else {
        nbd_output_reply(client, request, nbd_error_of(rc), nbd_error_text(rc));
    }
    return NBD_TAKEN;
}

/* ---- Payloads in slots ---- */

/* A slot with a buffer of len_bytes, which begins with what has arrived of the payload. NULL: it has been refused. */
static struct nbd_slot *slot_for_payload(struct nbd_client *client, const struct nbd_request *request,
                                         struct cursor *payload, size_t len_bytes)
{
    size_t have_bytes = MIN((size_t)request->payload_bytes, payload->left_bytes);
    struct nbd_slot *slot = nbd_slot_new(client, request, len_bytes);

    if (slot == NULL) {
        nbd_client_refuse(client, request, 0, NBD_ENOMEM, "the server is out of memory");
        return NULL;
    }
    memcpy(slot->buffer->data, cursor_bytes(payload, have_bytes), have_bytes);
    slot->received_bytes = have_bytes;
    return slot;
}

/*
 * A slot with a buffer of len_bytes, into which the payload moves. NBD_TAKEN with *ret_slot: it has arrived in full;
 * with NULL: the client goes on receiving into the slot, or has been refused.
 */
static enum nbd_outcome receive_into_slot(struct nbd_client *client, const struct nbd_request *request,
                                          struct cursor *payload, size_t len_bytes, struct nbd_slot **ret_slot)
{
    struct nbd_slot *slot;

    *ret_slot = NULL;
    if (!nbd_slot_admits(client, len_bytes))
        return NBD_STALLED;
    slot = slot_for_payload(client, request, payload, len_bytes);
    if (slot == NULL)
        return NBD_TAKEN;
    if (slot->received_bytes < request->payload_bytes)
        client->receiving = slot;
    else
        *ret_slot = slot;
    return NBD_TAKEN;
}

/* ---- WRITE ---- */

static enum nbd_outcome write_from_slot(struct nbd_client *client, const struct nbd_request *request,
                                        struct cursor *payload, unsigned flags)
{
    struct nbd_slot *slot;
    enum nbd_outcome outcome = receive_into_slot(client, request, payload, (size_t)request->payload_bytes, &slot);

    if (slot != NULL)
        nbd_slot_submit(slot, nbd_request_fua(client, request) | flags);
    return outcome;
}

/*
 * Large writes are executed while they arrive, piece by piece, from a buffer that stays in the processor's cache: half as
 * much memory traffic, and the client sends the next piece meanwhile. The reply follows when the last piece is in place. A
 * client that goes away in the middle leaves a part of its write, as it may with any write that it has no reply to. Where
 * a piece would block, the rest of the payload gets a buffer of its own and is written as one.
 *
 * Where the image is a file in memory, only what came along with the header goes through that buffer, the rest does not
 * come up here at all (splice.c).
 */
static void refuse_rest(struct nbd_slot *slot, uint32_t error, const char *text)
{
    struct nbd_client *client = slot->client;
    struct nbd_request request = slot->request;
    uint64_t received_bytes = slot->received_bytes;

    client->receiving = NULL;
    nbd_slot_free(slot);
    nbd_client_refuse(client, &request, received_bytes, error, text);
}

static void gather_rest(struct nbd_slot *slot)
{
    uint64_t rest_bytes = slot->request.payload_bytes - slot->executed_bytes;
    size_t have_bytes = (size_t)(slot->received_bytes - slot->executed_bytes);

    slot->in_pieces = slot->spliced = false;
    if (slot->executed_bytes == 0)
        slot->client->window_rest = NBD_WINDOW_REST;
    if (rest_bytes > slot->buffer->size_bytes && nbd_slot_replace_buffer(slot, (size_t)rest_bytes, have_bytes) < 0)
        refuse_rest(slot, NBD_ENOMEM, "the server is out of memory");
}

static void piece_failed(struct nbd_slot *slot, int rc)
{
    struct nbd_thread *thread = slot->client->thread;

    nbd_thread_count(thread, BLOCK_OP_WRITE, 0, true);
    thread->export->io_error(thread->export, &thread->inline_request, &slot->request, rc);
    refuse_rest(slot, nbd_error_of(rc), nbd_error_text(rc));
}

void nbd_write_piece(struct nbd_slot *slot)
{
    uint64_t offset = slot->request.offset + slot->executed_bytes;
    size_t have_bytes = (size_t)(slot->received_bytes - slot->executed_bytes);
    size_t piece_bytes = have_bytes;
    int rc;

    if (have_bytes < (slot->spliced ? 1 : NBD_PIECE_MIN_BYTES))
        return;
    if (!slot->spliced)
        piece_bytes = (size_t)(round_down(offset + have_bytes, NBD_PIECE_ALIGN) - offset);
    rc = transfer_inline(slot->client->thread, BLOCK_OP_WRITE, offset, slot->buffer->data, piece_bytes);
    if (rc == -EAGAIN) {
        gather_rest(slot);
    } else if (rc < 0) {
        piece_failed(slot, rc);
    } else {
        slot->executed_bytes += piece_bytes;
        memmove(slot->buffer->data, slot->buffer->data + piece_bytes, have_bytes - piece_bytes);
    }
}

/* The last piece, or all of it. */
static void write_received(struct nbd_slot *slot)
{
    nbd_slot_submit(slot, nbd_request_fua(slot->client, &slot->request));
}

static bool goes_in_pieces(struct nbd_client *client, const struct nbd_request *request)
{
    if (request->payload_bytes <= NBD_PIECES_FROM_BYTES || nbd_request_fua(client, request) != 0)
        return false;
    if (client->window_rest == 0)
        return true;
    client->window_rest--;
    return false;
}

static enum nbd_outcome write_in_pieces(struct nbd_client *client, const struct nbd_request *request,
                                        struct cursor *payload)
{
    struct nbd_slot *slot;

    /* For all of it: it may have to be gathered after all. */
    if (!nbd_slot_admits(client, (size_t)request->payload_bytes))
        return NBD_STALLED;
    _Static_assert(NBD_RECEIVE_BYTES <= NBD_WINDOW_BYTES, "what came with the header has room");
    slot = slot_for_payload(client, request, payload, NBD_WINDOW_BYTES);
    if (slot == NULL)
        return NBD_TAKEN;
    nbd_budget_charge(slot, nbd_buffer_size((size_t)request->payload_bytes));
    slot->in_pieces = true;
    slot->spliced = nbd_splice_possible(client, request);
    client->receiving = slot;
    nbd_write_piece(slot);
    return NBD_TAKEN;
}

static enum nbd_outcome handle_write(struct nbd_client *client, const struct nbd_request *request,
                                     struct cursor *payload)
{
    size_t len_bytes = (size_t)request->len_bytes;
    int rc;

    if (len_bytes == 0) {
        nbd_output_reply(client, request, 0, NULL);
        return NBD_TAKEN;
    }
    if (payload->left_bytes < len_bytes && goes_in_pieces(client, request))
        return write_in_pieces(client, request, payload);
    if (payload->left_bytes < len_bytes || nbd_request_fua(client, request) != 0)
        return write_from_slot(client, request, payload, 0);
    rc = submit_inline(client, request, payload->next);
    if (rc == -EAGAIN)
        return write_from_slot(client, request, payload, BLOCK_REQ_NO_INLINE);
    cursor_bytes(payload, len_bytes);
    nbd_output_reply(client, request, rc < 0 ? nbd_error_of(rc) : 0, rc < 0 ? nbd_error_text(rc) : NULL);
    nbd_output_wrote(client, len_bytes);
    return NBD_TAKEN;
}

/* ---- The others ---- */

static enum nbd_outcome handle_flush(struct nbd_client *client, const struct nbd_request *request,
                                     struct cursor *payload)
{
    return submit(client, request, 0, 0);
}

static bool is_empty(struct nbd_client *client, const struct nbd_request *request)
{
    if (request->len_bytes == 0)
        nbd_output_reply(client, request, 0, NULL);
    return request->len_bytes == 0;
}

static enum nbd_outcome handle_trim(struct nbd_client *client, const struct nbd_request *request,
                                    struct cursor *payload)
{
    return is_empty(client, request) ? NBD_TAKEN : submit(client, request, 0, nbd_request_fua(client, request));
}

static enum nbd_outcome handle_cache(struct nbd_client *client, const struct nbd_request *request,
                                     struct cursor *payload)
{
    return is_empty(client, request) ? NBD_TAKEN : submit(client, request, 0, 0);
}

static enum nbd_outcome handle_write_zeroes(struct nbd_client *client, const struct nbd_request *request,
                                            struct cursor *payload)
{
    unsigned flags = nbd_request_fua(client, request);

    if ((request->flags & NBD_CMD_FLAG_NO_HOLE) == 0)
        flags |= BLOCK_REQ_MAY_UNMAP;
    if ((request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0)
        flags |= BLOCK_REQ_NO_FALLBACK;
    return is_empty(client, request) ? NBD_TAKEN : submit(client, request, 0, flags);
}

/* ---- BLOCK_STATUS ---- */

static void block_status_received(struct nbd_slot *slot)
{
    struct nbd_client *client = slot->client;
    const char *text = NULL;
    uint32_t error = nbd_request_take_payload(&slot->request, slot->buffer->data, &client->limits,
                                              block_node_size(client->thread->export->root), &text);

    if (error == 0) {
        nbd_slot_submit(slot, 0);
        return;
    }
    nbd_output_reply(client, &slot->request, error, text);
    nbd_slot_free(slot);
}

static enum nbd_outcome handle_block_status(struct nbd_client *client, const struct nbd_request *request,
                                            struct cursor *payload)
{
    /* Enough for the payload, too: there are fewer contexts than extents. */
    size_t len_bytes = nbd_slot_status_bytes(&client->limits);
    enum nbd_outcome outcome;
    struct nbd_slot *slot;

    if (request->payload_bytes == 0)
        return submit(client, request, len_bytes, 0);
    outcome = receive_into_slot(client, request, payload, len_bytes, &slot);
    if (slot != NULL)
        block_status_received(slot);
    return outcome;
}

/* ---- DISC ---- */

static enum nbd_outcome handle_disc(struct nbd_client *client, const struct nbd_request *request,
                                    struct cursor *payload)
{
    nbd_client_close(client, true, "the client sent NBD_CMD_DISC");
    return NBD_TAKEN;
}

const struct nbd_command nbd_commands[NBD_CMD_MAX] = {
    [NBD_CMD_READ] = { "NBD_CMD_READ", BLOCK_OP_READ, .flags = NBD_CMD_FLAG_DF, .carries_payload = true,
                       .beyond_end = NBD_EINVAL, .handle = handle_read },
    [NBD_CMD_WRITE] = { "NBD_CMD_WRITE", BLOCK_OP_WRITE, .has_payload = true, .carries_payload = true, .writes = true,
                        .beyond_end = NBD_ENOSPC, .handle = handle_write, .received = write_received },
    [NBD_CMD_DISC] = { "NBD_CMD_DISC", BLOCK_OP_MAX, .unchecked = true, .handle = handle_disc },
    [NBD_CMD_FLUSH] = { "NBD_CMD_FLUSH", BLOCK_OP_FLUSH, .no_range = true, .handle = handle_flush },
    [NBD_CMD_TRIM] = { "NBD_CMD_TRIM", BLOCK_OP_DISCARD, .writes = true, .beyond_end = NBD_EINVAL,
                       .handle = handle_trim },
    [NBD_CMD_CACHE] = { "NBD_CMD_CACHE", BLOCK_OP_CACHE, .beyond_end = NBD_EINVAL, .handle = handle_cache },
    [NBD_CMD_WRITE_ZEROES] = { "NBD_CMD_WRITE_ZEROES", BLOCK_OP_WRITE_ZEROES,
                               .flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, .writes = true,
                               .beyond_end = NBD_ENOSPC, .handle = handle_write_zeroes },
    [NBD_CMD_BLOCK_STATUS] = { "NBD_CMD_BLOCK_STATUS", BLOCK_OP_STATUS, .flags = NBD_CMD_FLAG_REQ_ONE,
                               .may_have_payload = true, .beyond_end = NBD_EINVAL, .handle = handle_block_status,
                               .received = block_status_received },
};
