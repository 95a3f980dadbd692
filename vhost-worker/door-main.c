/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bulkhead-vhost-door: what front-ends of one vhost-user-blk export connect to; see door.h. Holds the listening socket,
 * a link to the export's worker, and one connection; it must never hold an image.
 */
#include "vhost-worker/door.h"

static int setup(struct worker *worker, struct error *err)
{
    struct door *door = NULL;
    int ret = door_new(worker, &door, err);

    worker->role_state = door;
    return ret;
}

static int handle_door(struct worker *worker, const void *message, int *fds)
{
    return door_serve(worker->role_state, TAKE_FD(fds[0]), TAKE_FD(fds[1]));
}

static void drain(struct worker *worker)
{
    door_close(worker->role_state);
    worker_exit(worker);
}

static const struct worker_message messages[] = {
    { IPC_VHOST_DOOR, handle_door },
};

static const struct worker_class door_class = {
    .ipc_role = IPC_ROLE_VHOST_DOOR,
    .setup = setup,
    .drain = drain,
    .messages = messages,
    .message_count = ARRAY_SIZE(messages),
};

int main(int argc, char **argv)
{
    return worker_main(argc, argv, &door_class);
}
