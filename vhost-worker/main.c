/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-vhost: the worker of one vhost-user-blk export. Holds the export's image, the link to its door and the
 * memory of the guest that is connected; parses the messages of the front-end and the rings of the guest, inside the
 * sandbox.
 */
#include <errno.h>

#include "vhost-worker/session.h"

static int setup(struct worker *worker, struct error *err)
{
    struct vhost_session *session = NULL;
    int ret = vhost_session_new(worker, &session, err);

    worker->role_state = session;
    return ret;
}

static int start(struct worker *worker, struct error *err)
{
    vhost_session_set_device(worker->role_state);
    return 0;
}

static void resized(struct worker *worker)
{
    vhost_session_resize(worker->role_state, worker->info.size_bytes);
}

static void drain(struct worker *worker)
{
    vhost_session_drain(worker->role_state);
}

static int handle_listen(struct worker *worker, const void *message, int *fds)
{
    const struct ipc_vhost_listen *listen = message;

    return vhost_session_listen(worker->role_state, TAKE_FD(fds[0]), listen->queues, listen->logical_block_bytes);
}

static const struct worker_message messages[] = {
    { IPC_VHOST_LISTEN, handle_listen },
};

static const struct worker_class vhost_class = {
    .ipc_role = IPC_ROLE_VHOST,
    .setup = setup,
    .start = start,
    .resized = resized,
    .drain = drain,
    .messages = messages,
    .message_count = ARRAY_SIZE(messages),
};

int main(int argc, char **argv)
{
    return worker_main(argc, argv, &vhost_class);
}
