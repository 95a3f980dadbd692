/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The export and its I/O threads: which client goes where, turns after completions, counters, draining. The control
 * thread and the I/O threads talk through the loops' mailboxes only.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "nbd-worker/export/export.h"

/* ---- On the thread ---- */

static bool thread_hook(struct io_hook *hook)
{
    struct nbd_thread *thread = container_of(hook, struct nbd_thread, hook);
    struct nbd_client *dirty = TAKE_PTR(thread->dirty);
    bool any = dirty != NULL;

    while (dirty != NULL) {
        struct nbd_client *client = dirty;

        dirty = client->dirty_next;
        client->dirty = false;
        nbd_client_turn(client, false);
    }
    return any;
}

static void thread_begin(struct io_task *task)
{
    struct nbd_thread *thread = container_of(task, struct nbd_thread, begin_task);

    io_loop_add_hook(thread->loop, &thread->hook);
}

void nbd_thread_mark_dirty(struct nbd_client *client)
{
    if (client->dirty)
        return;
    client->dirty = true;
    client->dirty_next = client->thread->dirty;
    client->thread->dirty = client;
}

void nbd_thread_count(struct nbd_thread *thread, enum block_op op, uint64_t len_bytes, bool error)
{
    thread->counts.ops[op]++;
    thread->counts.bytes[op] += len_bytes;
    thread->counts.errors[op] += error;
    thread->counts.any = true;
}

void nbd_thread_flush_counts(struct nbd_thread *thread)
{
    struct worker_page *page = thread->export->page;

    for (unsigned op = 0; op < WORKER_PAGE_OPS; op++) {
        if (thread->counts.ops[op] == 0)
            continue;
        worker_page_add(&page->ops[op], thread->counts.ops[op]);
        worker_page_add(&page->bytes[op], thread->counts.bytes[op]);
        if (thread->counts.errors[op] > 0)
            worker_page_add(&page->errors[op], thread->counts.errors[op]);
    }
    thread->counts = (struct nbd_counts){ 0 };
}

static void free_slots(struct nbd_thread *thread)
{
    while (thread->free_slots != NULL) {
        struct nbd_slot *slot = thread->free_slots;

        thread->free_slots = slot->next;
        free(slot);
    }
}

static void thread_drained(struct io_task *task)
{
    struct nbd_thread *thread = container_of(task, struct nbd_thread, drained_task);
    struct nbd_export *export = thread->export;

    if (++export->threads_drained == export->thread_count)
        export->drained(export);
}

static void tell_if_drained(struct nbd_thread *thread)
{
    if (!thread->draining || thread->drained || thread->clients != NULL)
        return;
    thread->drained = true;
    io_loop_post(thread->export->control_loop, &thread->drained_task);
}

/* Nothing of the client is in use any more. */
void nbd_thread_remove(struct nbd_client *client)
{
    struct nbd_thread *thread = client->thread;
    struct nbd_export *export = thread->export;

    io_loop_timer_cancel(thread->loop, &client->linger);
    io_loop_unwatch(thread->loop, &client->watch);
    /* The monitor or a negotiator may not have closed its descriptor of this socket yet. */
    shutdown(client->watch.fd, SHUT_RDWR);
    close_fd(&client->watch.fd);
    if (client->prev != NULL)
        client->prev->next = client->next;
    else
        thread->clients = client->next;
    if (client->next != NULL)
        client->next->prev = client->prev;
    atomic_fetch_sub(&thread->client_count, 1);
    atomic_fetch_sub(&export->page->clients, 1);
    atomic_fetch_sub(&export->page->fds_clients, 1);
    export->client_gone(export, client->client_id, client->left_in_order, client->reason);
    free(client);
    if (thread->clients == NULL) {
        free_slots(thread);
        nbd_buffer_cache_trim(&thread->buffers);
        io_pipe_shrink(&thread->pipe);
    }
    tell_if_drained(thread);
}

static void thread_drain(struct io_task *task)
{
    struct nbd_thread *thread = container_of(task, struct nbd_thread, drain_task);
    struct nbd_client *next;

    thread->draining = true;
    for (struct nbd_client *client = thread->clients; client != NULL; client = next) {
        next = client->next;
        nbd_client_close(client, true, "the export is being closed");
        nbd_client_turn(client, false);
    }
    tell_if_drained(thread);
}

/*
 * Once round: whoever has a request that blocks its thread does not come by, and all that sockets had to tell when the
 * probe was sent has been heard, the end of a client for one.
 */
static void thread_probe(struct io_task *task)
{
    struct nbd_thread *thread = container_of(task, struct nbd_thread, probe_task);

    thread->probe_seen = !thread->probe_seen;
    if (thread->probe_seen) {
        io_loop_post(thread->loop, task);
        return;
    }
    io_loop_post(thread->export->control_loop, &thread->probed_task);
}

static void thread_probed(struct io_task *task)
{
    struct nbd_thread *thread = container_of(task, struct nbd_thread, probed_task);
    struct nbd_export *export = thread->export;

    if (--export->threads_to_probe == 0)
        export->probed(export, export->probe_serial);
}

static void add_client(struct io_task *task)
{
    struct nbd_client *client = container_of(task, struct nbd_client, task);
    struct nbd_thread *thread = client->thread;

    client->next = thread->clients;
    if (client->next != NULL)
        client->next->prev = client;
    thread->clients = client;
    nbd_client_start(client);
}

/* ---- On the control thread ---- */

static int thread_init(struct nbd_export *export, struct nbd_thread *thread)
{
    thread->export = export;
    if (!export->read_only)
        io_pipe_init(&thread->pipe); /* without one large writes are copied once more */
    nbd_budget_init(thread);
    thread->hook.run = thread_hook;
    thread->begin_task.run = thread_begin;
    thread->drain_task.run = thread_drain;
    thread->drained_task.run = thread_drained;
    thread->probe_task.run = thread_probe;
    thread->probed_task.run = thread_probed;
    thread->receive = nbd_buffer_get(&thread->buffers, NBD_RECEIVE_BYTES);
    thread->send = nbd_buffer_get(&thread->buffers, NBD_SEND_BYTES);
    return thread->receive != NULL && thread->send != NULL ? 0 : -ENOMEM;
}

int nbd_export_init(struct nbd_export *export, unsigned thread_count)
{
    export->threads = calloc(thread_count, sizeof(*export->threads));
    if (export->threads == NULL)
        return -ENOMEM;
    export->thread_count = thread_count;
    for (unsigned i = 0; i < thread_count; i++)
        export->threads[i].pipe = IO_PIPE_NONE;
    for (unsigned i = 0; i < thread_count; i++) {
        int rc = thread_init(export, &export->threads[i]);

        if (rc < 0) {
            nbd_export_done(export);
            return rc;
        }
    }
    return 0;
}

void nbd_export_done(struct nbd_export *export)
{
    for (unsigned i = 0; i < export->thread_count; i++) {
        struct nbd_thread *thread = &export->threads[i];

        nbd_buffer_put(&thread->buffers, thread->receive);
        nbd_buffer_put(&thread->buffers, thread->send);
        nbd_buffer_cache_trim(&thread->buffers);
        io_pipe_done(&thread->pipe);
        free_slots(thread);
    }
    free(TAKE_PTR(export->threads));
    export->thread_count = 0;
}

void nbd_export_set_thread(struct nbd_export *export, unsigned index, struct io_loop *loop, struct io_queue *queue)
{
    struct nbd_thread *thread = &export->threads[index];

    thread->loop = loop;
    thread->queue = queue;
    io_loop_post(loop, &thread->begin_task);
}

static struct nbd_thread *least_used_thread(struct nbd_export *export)
{
    struct nbd_thread *best = &export->threads[0];

    for (unsigned i = 1; i < export->thread_count; i++)
        if (atomic_load(&export->threads[i].client_count) < atomic_load(&best->client_count))
            best = &export->threads[i];
    return best;
}

static int check_negotiated(const struct ipc_nbd_negotiated *negotiated, struct error *err)
{
    if ((negotiated->flags & ~IPC_NBD_FLAGS_ALL) != 0)
        return error_set(err, -EINVAL, "a client was negotiated with unknown flags 0x%x", negotiated->flags);
    if ((negotiated->contexts & ~IPC_NBD_CONTEXTS_ALL) != 0)
        return error_set(err, -EINVAL, "a client was negotiated with unknown contexts 0x%x", negotiated->contexts);
    if (negotiated->contexts != 0 && negotiated->flags == 0)
        return error_set(err, -EINVAL, "a client was negotiated with contexts, but without structured replies");
    return 0;
}

static int prepare_socket(int fd, struct error *err)
{
    int flags = fcntl(fd, F_GETFL), one = 1;

    /* One that blocks would stop all clients of its thread: sendfile, readv and writev know no flag against it. */
    if (flags < 0 || (flags & O_NONBLOCK) == 0)
        return error_set(err, -EINVAL, "a client's socket is not non-blocking");
    /* "Protocol phases": both sides SHOULD disable Nagle's algorithm. Sockets that are not TCP refuse. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return 0;
}

int nbd_export_add_client(struct nbd_export *export, int *fd, const struct ipc_nbd_negotiated *negotiated,
                          struct error *err)
{
    struct nbd_thread *thread = least_used_thread(export);
    struct nbd_client *client;
    int rc = check_negotiated(negotiated, err);

    if (rc < 0)
        return rc;
    if (export->draining)
        return error_set(err, -ESHUTDOWN, "the export is being closed");
    rc = prepare_socket(*fd, err);
    if (rc < 0)
        return rc;
    client = nbd_client_new(thread, negotiated);
    if (client == NULL)
        return error_set(err, -ENOMEM, "no memory for a client");
    client->watch.fd = TAKE_FD(*fd);
    client->task.run = add_client;
    atomic_fetch_add(&thread->client_count, 1);
    atomic_fetch_add(&export->page->clients, 1);
    atomic_fetch_add(&export->page->fds_clients, 1);
    worker_page_add(&export->page->clients_total, 1);
    io_loop_post(thread->loop, &client->task);
    return 0;
}

int nbd_export_probe(struct nbd_export *export, uint64_t serial)
{
    if (export->threads_to_probe > 0)
        return -EBUSY;
    export->probe_serial = serial;
    export->threads_to_probe = export->thread_count;
    for (unsigned i = 0; i < export->thread_count; i++)
        io_loop_post(export->threads[i].loop, &export->threads[i].probe_task);
    return 0;
}

void nbd_export_shut_down(struct nbd_export *export)
{
    atomic_store(&export->shut_down, true);
}

void nbd_export_drain(struct nbd_export *export)
{
    if (export->draining)
        return;
    export->draining = true;
    for (unsigned i = 0; i < export->thread_count; i++)
        io_loop_post(export->threads[i].loop, &export->threads[i].drain_task);
}
