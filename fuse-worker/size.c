/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse-worker/export.h"

#define REPORT_INTERVAL_NS 20000000u

/*
 * The kernel lets nobody write beyond the end while somebody else does, or truncates the file; but who opens it to
 * empty it does so at any time.
 */
int fx_size_set(struct fx_export *export, uint64_t size_bytes, bool only_grow)
{
    int ret = 0;
    bool changed = false;

    pthread_mutex_lock(&export->size_lock);
    if (!only_grow || size_bytes > atomic_load(&export->size_bytes)) {
        ret = block_node_resize(export->root, size_bytes);
        changed = ret == 0;
    }
    if (changed)
        atomic_store(&export->size_bytes, size_bytes);
    pthread_mutex_unlock(&export->size_lock);
    if (changed && export->growable && !atomic_exchange(&export->report_posted, true))
        io_loop_post(export->worker->control_loop, &export->report_task);
    return ret;
}

void fx_size_refresh(struct fx_export *export)
{
    struct block_info info;

    pthread_mutex_lock(&export->size_lock);
    block_node_info(export->root, &info);
    atomic_store(&export->size_bytes, info.size_bytes);
    pthread_mutex_unlock(&export->size_lock);
}

/* On the control thread. */
void fx_size_report_later(struct io_task *task)
{
    struct fx_export *export = container_of(task, struct fx_export, report_task);

    io_loop_timer_set(export->worker->control_loop, &export->report_timer, now_ns() + REPORT_INTERVAL_NS);
}

void fx_size_report(struct io_timer *timer)
{
    struct fx_export *export = container_of(timer, struct fx_export, report_timer);
    struct ipc_status status = { .type = IPC_STATUS_FUSE_RESIZED };

    atomic_store(&export->report_posted, false);
    status.fuse_resize.size_bytes = atomic_load(&export->size_bytes);
    worker_report(export->worker, &status);
}
