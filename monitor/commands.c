/* SPDX-License-Identifier: BSD-2-Clause */
/* QMP commands about the process as a whole: its end, and the workers. What workers say of themselves is only shown. */
#include <errno.h>

#include "common/sandbox/role.h"
#include "monitor/monitor.h"
#include "monitor/qmp/commands.h"
#include "monitor/worker/worker.h"

#define LAYERS_MAX 32

void qmp_run_quit(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    monitor_shut_down(monitor, reply);
}

/* ---- __org.bulkhead_query-workers ---- */

struct worker_query {
    struct worker_info_list list;
    const char *(*layers)[LAYERS_MAX]; /* of each item */
    size_t max;
};

/* The one worker that serves an export has it as its own; its door only leads there. */
static const char *export_of(const struct worker_handle *worker)
{
    return worker_get_role(worker) != IPC_ROLE_VHOST_DOOR ? worker_get_export_id(worker) : NULL;
}

static enum qmp_worker_state state_of(const struct worker_handle *worker)
{
    if (worker_is_lost(worker))
        return QMP_WORKER_LOST;
    switch (worker_get_state(worker)) {
    case WORKER_CREATING:
        return QMP_WORKER_CREATING;
    case WORKER_RUNNING:
        return QMP_WORKER_RUNNING;
    default:
        return QMP_WORKER_DRAINING;
    }
}

static const char *engine_name(uint32_t engine)
{
    static const char *const names[] = { [IPC_ENGINE_URING] = "io_uring", [IPC_ENGINE_THREADS] = "threads" };

    return engine < ARRAY_SIZE(names) ? names[engine] : NULL;
}

static void fill_ready(struct worker_info *info, const struct ipc_status_ready *ready, const char **layers)
{
    info->landlock_abi = ready->landlock_abi;
    info->engine = engine_name(ready->engine);
    info->sandbox.items = layers;
    for (unsigned bit = 0; bit < LAYERS_MAX; bit++) {
        const char *name = (ready->layers & (1u << bit)) != 0 ? sandbox_layer_name(1u << bit) : NULL;

        if (name != NULL)
            layers[info->sandbox.count++] = name;
    }
}

static bool add_worker(struct worker_handle *worker, void *arg)
{
    struct worker_query *query = arg;
    const struct worker_page *page = worker_get_page(worker);
    const struct ipc_status_ready *ready = worker_get_ready(worker);
    struct worker_info *info = &query->list.items[query->list.count];

    if (query->list.count == query->max)
        return false;
    *info = (struct worker_info){
        .role = worker_get_role_name(worker),
        .pid = worker_get_pid(worker),
        .export_id = export_of(worker),
        .state = state_of(worker),
        .descriptors = { .images = page->fds_images, .clients = page->fds_clients, .internal = page->fds_internal },
        .clients = page->clients,
        .clients_total = page->clients_total,
    };
    if (ready != NULL)
        fill_ready(info, ready, query->layers[query->list.count]);
    query->list.count++;
    return true;
}

void qmp_run_query_workers(struct monitor *monitor, const void *args, struct qmp_reply *reply)
{
    size_t max = worker_set_count(monitor->workers);
    struct worker_query query = {
        .list.items = calloc(max + 1, sizeof(struct worker_info)),
        .layers = calloc(max + 1, sizeof(const char *[LAYERS_MAX])),
        .max = max,
    };

    if (query.list.items == NULL || query.layers == NULL) {
        qmp_reply_error(reply, &(struct error){ .code = -ENOMEM, .text = "out of memory" });
    } else {
        worker_set_foreach(monitor->workers, add_worker, &query);
        qmp_reply_ok(reply, &query.list);
    }
    free(query.list.items);
    free(query.layers);
}
