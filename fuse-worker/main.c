/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-fuse: the worker of one FUSE export. It holds the image's descriptors and the mounted /dev/fuse, which it
 * gets only after it has opened the image in the sandbox. It can mount and unmount nothing: that is the mounter's. When
 * the worker ends, for whatever reason, the kernel ends the connection, and clients get errors at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/log.h"
#include "fuse-worker/op.h"
#include "fuse-worker/ops.h"

#define DRAIN_LOOK_NS 2000000u

/* ---- The end ---- */

/* Requests that are under way write to the image; what clients asked for is done before we go. */
static void look_whether_drained(struct io_timer *timer)
{
    struct fx_export *export = container_of(timer, struct fx_export, drain_timer);
    unsigned pending = 0;

    for (unsigned i = 0; i < export->thread_count; i++)
        pending += atomic_load(&export->threads[i].pending);
    /* An operation that waits for the monitor would wait for ever. */
    pthread_mutex_lock(&export->asked_lock);
    for (const struct fx_op *op = export->asked; op != NULL; op = op->next)
        pending--;
    pthread_mutex_unlock(&export->asked_lock);
    if (pending == 0)
        worker_exit(export->worker);
    else
        io_loop_timer_set(export->worker->control_loop, timer, now_ns() + DRAIN_LOOK_NS);
}

static void drain(struct worker *worker)
{
    struct fx_export *export = worker->role_state;

    look_whether_drained(&export->drain_timer);
}

/* Nothing will come any more. The monitor knows whether that is as it should be, and says when to go. */
static void gone(struct io_task *task)
{
    struct fx_export *export = container_of(task, struct fx_export, gone_task);
    struct ipc_status status = { .type = IPC_STATUS_FUSE_GONE, .fuse_gone.code = export->gone_code };

    worker_report(export->worker, &status);
}

/* ---- Set-up ---- */

static int setup(struct worker *worker, struct error *err)
{
    struct fx_export *export = calloc(1, sizeof(*export));

    if (export == NULL)
        return error_set(err, -ENOMEM, "no memory for a FUSE export");
    worker->role_state = export;
    export->worker = worker;
    export->writable = (worker->boot.export_flags & IPC_EXPORT_WRITABLE) != 0;
    export->writethrough = (worker->boot.export_flags & IPC_EXPORT_WRITETHROUGH) != 0;
    export->mode = S_IRUSR | (export->writable ? S_IWUSR : 0);
    export->gone_task.run = gone;
    export->report_task.run = fx_size_report_later;
    export->report_timer.expired = fx_size_report;
    export->drain_timer.expired = look_whether_drained;
    pthread_mutex_init(&export->attr_lock, NULL);
    pthread_mutex_init(&export->size_lock, NULL);
    pthread_mutex_init(&export->asked_lock, NULL);
    export->thread_count = worker->boot.io_threads;
    export->threads = calloc(export->thread_count, sizeof(*export->threads));
    if (export->threads == NULL)
        return error_set(err, -ENOMEM, "no memory for %u I/O threads", export->thread_count);
    for (unsigned i = 0; i < export->thread_count; i++) {
        int r = fx_thread_init(export, &export->threads[i]);

        if (r < 0)
            return error_set(err, r, "cannot set up %u I/O threads: %s", export->thread_count, strerror(-r));
    }
    return fx_ops_new(export, err);
}

static int start(struct worker *worker, struct error *err)
{
    struct fx_export *export = worker->role_state;

    if (export->writable && worker->info.read_only)
        return error_set(err, -EROFS, "the export is writable, but its node is read-only");
    export->root = worker->root;
    atomic_store(&export->size_bytes, worker->info.size_bytes);
    for (unsigned i = 0; i < export->thread_count; i++) {
        export->threads[i].loop = worker->io_threads[i].loop;
        export->threads[i].queue = worker->io_threads[i].queue;
    }
    return 0;
}

/* ---- Control messages ---- */

/* What blocks and what does not must be in its place: who blocks with I/O under way would never hear of its end. */
static bool devices_fit(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int flags = fcntl(fds[i], F_GETFL);

        if (flags < 0 || ((flags & O_NONBLOCK) != 0) != (i % 2 == 1))
            return false;
    }
    return true;
}

/* Thread i gets pair i; threads without one of their own share, which the kernel allows. */
static void start_threads(struct fx_export *export, const int *fds, unsigned count)
{
    for (unsigned i = 0; i < export->thread_count; i++) {
        unsigned pair = i % (count / 2) * 2;

        fx_thread_start(&export->threads[i], fds[pair + 1], fds[pair]);
    }
}

static int handle_serve(struct worker *worker, const void *message, int *fds)
{
    const struct ipc_fuse_serve *serve = message;
    struct fx_export *export = worker->role_state;
    unsigned count = serve->header.fd_count;

    if (export->serving || !devices_fit(fds, count))
        return -EPROTO;
    export->serving = true;
    export->growable = (serve->flags & IPC_FUSE_GROWABLE) != 0 && export->writable;
    export->may_resize = (serve->flags & IPC_FUSE_MAY_RESIZE) != 0;
    export->allow_other = (serve->flags & IPC_FUSE_ALLOW_OTHER) != 0;
    export->uid = serve->uid;
    export->gid = serve->gid;
    export->device_pairs = count / 2;
    if (fx_ops_set_device(export, fds[0]) < 0)
        return -ENOMEM;
    atomic_fetch_add(&worker->page->fds_clients, count);
    start_threads(export, fds, count);
    for (unsigned i = 0; i < count; i++)
        fds[i] = -1; /* ours until the end */
    return 0;
}

static int handle_resize(struct worker *worker, const void *message, int *fds)
{
    const struct ipc_fuse_resize *resize = message;

    return fx_op_resize_answer(worker->role_state, resize->serial, resize->code);
}

static void resized(struct worker *worker)
{
    fx_size_refresh(worker->role_state);
}

static const struct worker_message messages[] = {
    { IPC_FUSE_SERVE, handle_serve },
    { IPC_FUSE_RESIZE, handle_resize },
};

static const struct worker_class fuse_class = {
    .ipc_role = IPC_ROLE_FUSE,
    .setup = setup,
    .start = start,
    .resized = resized,
    .drain = drain,
    .messages = messages,
    .message_count = ARRAY_SIZE(messages),
};

int main(int argc, char **argv)
{
    return worker_main(argc, argv, &fuse_class);
}
