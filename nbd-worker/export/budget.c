/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How much memory the clients of an export have in buffers of slots, all together. Each I/O thread has a part of it for
 * itself, so nobody needs a lock. A client that finds nothing left stands in line, and is not read until its turn has
 * come; nobody overtakes it, but for what fits a small share that every client has in any case.
 *
 * Clients decide how long they keep what they have: they send a payload slowly, or take no replies. While somebody
 * stands in line, one that holds something at a tick, and at the next one has given nothing back, is closed.
 */
#include "nbd-worker/export/export.h"

static bool has_room(const struct nbd_thread *thread, size_t size_bytes)
{
    return thread->bytes_in_use <= thread->bytes_max && size_bytes <= thread->bytes_max - thread->bytes_in_use;
}

/* The client has memory that others could use, and it is up to the client to let it go; storage may take its time. */
static bool holds(const struct nbd_client *client)
{
    return (client->blocked || client->receiving != NULL) && client->bytes_in_use > NBD_CLIENT_SHARE_BYTES;
}

/* ---- The line ---- */

static void wake_first(struct nbd_thread *thread)
{
    struct nbd_client *first = thread->wait_head;

    if (first == NULL || !has_room(thread, first->wait_bytes))
        return;
    first->stalled = false;
    nbd_thread_mark_dirty(first);
}

static void start_ticking(struct nbd_thread *thread)
{
    for (struct nbd_client *client = thread->clients; client != NULL; client = client->next)
        client->given_back_before = holds(client) ? client->given_back : NBD_HELD_NOTHING;
    io_loop_timer_set(thread->loop, &thread->budget_timer, now_ns() + NBD_BUDGET_TICK_NS);
}

static void stand_in_line(struct nbd_client *client, size_t size_bytes)
{
    struct nbd_thread *thread = client->thread;

    client->wait_bytes = size_bytes;
    if (client->waits)
        return;
    client->waits = true;
    client->wait_next = NULL;
    if (thread->wait_head == NULL) {
        thread->wait_head = client;
        start_ticking(thread);
    } else {
        thread->wait_tail->wait_next = client;
    }
    thread->wait_tail = client;
}

void nbd_budget_leave(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    struct nbd_client *before = NULL;

    if (!client->waits)
        return;
    for (struct nbd_client *c = thread->wait_head; c != client; c = c->wait_next)
        before = c;
    if (before == NULL)
        thread->wait_head = client->wait_next;
    else
        before->wait_next = client->wait_next;
    if (thread->wait_tail == client)
        thread->wait_tail = before;
    client->waits = false;
    if (thread->wait_head == NULL)
        io_loop_timer_cancel(thread->loop, &thread->budget_timer);
    else
        wake_first(thread);
}

/* ---- What is in use ---- */

bool nbd_budget_admits(struct nbd_client *client, size_t size_bytes)
{
    struct nbd_thread *thread = client->thread;
    bool first = thread->wait_head == NULL || thread->wait_head == client;

    if (client->bytes_in_use + size_bytes > NBD_CLIENT_SHARE_BYTES && !(first && has_room(thread, size_bytes))) {
        stand_in_line(client, size_bytes);
        return false;
    }
    nbd_budget_leave(client);
    return true;
}

void nbd_budget_charge(struct nbd_slot *slot, size_t size_bytes)
{
    if (size_bytes <= slot->charged_bytes)
        return;
    slot->client->thread->bytes_in_use += size_bytes - slot->charged_bytes;
    slot->charged_bytes = size_bytes;
}

void nbd_budget_give_back(struct nbd_slot *slot)
{
    struct nbd_thread *thread = slot->client->thread;

    thread->bytes_in_use -= slot->charged_bytes;
    slot->charged_bytes = 0;
    slot->client->given_back++;
    wake_first(thread);
}

/* ---- Those that keep it ---- */

/* It did not take its replies, or did not send what it had announced, for the whole time since the last tick. */
static bool keeps_others_waiting(const struct nbd_client *client)
{
    return holds(client) && client->given_back == client->given_back_before;
}

static void tick(struct io_timer *timer)
{
    struct nbd_thread *thread = container_of(timer, struct nbd_thread, budget_timer);

    for (struct nbd_client *client = thread->clients; client != NULL; client = client->next) {
        if (!keeps_others_waiting(client))
            continue;
        nbd_client_close(client, false,
                         "it kept memory that others waited for, and neither took replies nor sent payload");
        nbd_output_break(client);
        nbd_thread_mark_dirty(client);
    }
    if (thread->wait_head != NULL)
        start_ticking(thread);
}

void nbd_budget_init(struct nbd_thread *thread)
{
    thread->bytes_max = MAX(NBD_EXPORT_BYTES_MAX / thread->export->thread_count, NBD_CLIENT_BYTES_MAX);
    thread->budget_timer.expired = tick;
}
