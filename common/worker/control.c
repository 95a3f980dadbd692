/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control messages: received, checked against the catalogue, handed to the role. The monitor is trusted more than a
 * client, and still not believed: a message that fits no row ends the worker. So does the end of the socket, for a
 * worker without a monitor must not live on.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/worker/worker-private.h"

#define MESSAGES_PER_TURN 16

/* What ends a worker from its own side: say why, as far as the pipe takes it, and go. */
static void end(struct worker *worker, const char *why)
{
    log_error("%s", why);
    _exit(1);
}

static int run_drain(struct worker *worker)
{
    worker->private->state = WORKER_DRAINING;
    worker->class->drain(worker);
    return 0;
}

/* A size that cannot be found out stays what it was; requests beyond the end fail by themselves. */
static int run_resized(struct worker *worker)
{
    int r = block_node_refresh(worker->root);

    if (r < 0) {
        log_warning("the new size of the image cannot be found out: %s", strerror(-r));
        return 0;
    }
    block_node_info(worker->root, &worker->info);
    if (worker->class->resized != NULL)
        worker->class->resized(worker);
    return 0;
}

static int run_handler(struct worker *worker, const struct ipc_message_rule *rule, struct channel_message *message)
{
    if (rule->type == IPC_DRAIN)
        return run_drain(worker);
    if (rule->type == IPC_NODE_RESIZED)
        return run_resized(worker);
    for (unsigned i = 0; i < worker->class->message_count; i++)
        if (worker->class->messages[i].type == rule->type)
            return worker->class->messages[i].handle(worker, message->bytes, message->fds);
    return -EPROTO;
}

static int dispatch(struct worker *worker, struct channel_message *message, struct error *err)
{
    const struct ipc_message_rule *rule = NULL;
    int r = ipc_message_check(message->bytes, message->len_bytes, message->fd_count, worker->private->state,
                              worker->class->ipc_role, &rule, err);

    if (r < 0)
        return r;
    r = run_handler(worker, rule, message);
    if (r < 0)
        return error_set(err, r, "message %s could not be handled: %s", rule->name, strerror(-r));
    return 0;
}

static void control_ready(struct io_watch *watch, uint32_t events)
{
    struct worker *worker = container_of(watch, struct worker_private, control_watch)->reports.worker;
    struct channel_message *message = &worker->private->message;
    struct error err = { 0 };

    for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
        int r = channel_receive(WORKER_CONTROL_FD, message, &err);

        if (r == -EAGAIN)
            return;
        if (r == 0)
            _exit(0); /* the monitor is gone: nobody is left to tell */
        if (r > 0) {
            r = dispatch(worker, message, &err);
            channel_message_done(message);
        }
        if (r < 0)
            end(worker, err.text);
    }
}

int control_attach(struct worker *worker, struct error *err)
{
    struct io_watch *watch = &worker->private->control_watch;
    int r;

    *watch = (struct io_watch){ .fd = WORKER_CONTROL_FD, .ready = control_ready };
    r = io_loop_watch(worker->control_loop, watch, EPOLLIN);
    if (r < 0)
        return error_set(err, r, "cannot watch the control socket: %s", strerror(-r));
    return 0;
}
