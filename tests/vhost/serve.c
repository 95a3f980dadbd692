/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-serve: one image by one vhost worker and its door in their sandboxes, without QMP. For tests and benchmarks:
 *
 *     vhost-serve IMAGE SOCKET [queues=N] [threads=N] [poll=NS] [engine=io_uring|threads] [block=BYTES] [id=ID]
 *                 [ro] [writethrough] [direct] [null=BYTES]
 *
 * Prints "ready PID" when it serves, and what the worker says of its sessions; ends with the worker, or on end of file
 * on standard input, when it drains the worker.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/ipc/channel.h"
#include "monitor/worker/worker-private.h"

struct serve {
    struct event_base *base;
    struct worker_set *set;
    struct worker_handle *worker, *door;
    struct ipc_boot boot;
    struct ipc_vhost_listen listen;
    int image_fd;
    int listen_fd;
    bool image_direct;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "vhost-serve: %s: %s\n", what, why);
    exit(2);
}

static const struct worker_ops ops;

/* The worker first, then its door, and then the link between them. */
static void on_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    const struct ipc_boot door = { .role = IPC_ROLE_VHOST_DOOR };
    struct ipc_vhost_door serve_door = { 0 };
    struct serve *serve = opaque;
    struct error err;
    int fds[2], worker_end;

    if (worker == serve->worker) {
        if (worker_spawn(serve->set, &door, NULL, &ops, serve, &serve->door, &err) < 0)
            die("door", err.text);
        return;
    }
    fds[0] = serve->listen_fd;
    if (channel_new(&fds[1], &worker_end, &err) < 0)
        die("link", err.text);
    if (worker_send(serve->worker, IPC_VHOST_LISTEN, &serve->listen, sizeof(serve->listen), &worker_end, 1) < 0 ||
        worker_send(serve->door, IPC_VHOST_DOOR, &serve_door, sizeof(serve_door), fds, 2) < 0)
        die("worker", "cannot send VHOST_LISTEN or VHOST_DOOR");
    close(fds[1]);
    close(worker_end);
    printf("ready %d\n", (int)worker_get_pid(serve->worker));
    fflush(stdout);
}

static void on_failed(struct worker_handle *worker, const struct error *err, void *opaque)
{
    die("worker", err->text);
}

static int on_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    if (status->type == IPC_STATUS_CLIENT_GONE)
        printf("gone %llu %s: %s\n", (unsigned long long)status->client_gone.client_id,
               status->client_gone.error ? "error" : "left", status->client_gone.text);
    else
        printf("i/o error %d\n", status->io_error.code);
    fflush(stdout);
    return 0;
}

static void on_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    printf("exit %s: %s\n", why->expected ? "expected" : "unexpected", why->text);
    fflush(stdout);
    exit(why->expected && why->signal == 0 ? 0 : 1);
}

static const struct worker_ops ops = { on_ready, on_failed, on_status, on_gone };

static void on_stdin(evutil_socket_t fd, short events, void *opaque)
{
    struct serve *serve = opaque;
    char buffer[64];

    if (read((int)fd, buffer, sizeof(buffer)) <= 0)
        worker_drain(serve->worker, 10000);
}

static bool number(const char *arg, const char *name, uint64_t *ret)
{
    size_t len = strlen(name);

    if (strncmp(arg, name, len) != 0 || arg[len] != '=')
        return false;
    *ret = strtoull(arg + len + 1, NULL, 0);
    return true;
}

static void parse_option(struct serve *serve, const char *arg)
{
    struct ipc_node *node = &serve->boot.nodes[0];
    uint64_t n;

    if (number(arg, "queues", &n)) {
        serve->listen.queues = (uint32_t)n;
    } else if (number(arg, "threads", &n)) {
        serve->boot.io_threads = (uint32_t)n;
    } else if (number(arg, "poll", &n)) {
        serve->boot.poll_max_ns = n;
    } else if (number(arg, "block", &n)) {
        serve->listen.logical_block_bytes = (uint32_t)n;
    } else if (number(arg, "null", &n)) {
        node->driver = IPC_DRIVER_NULL_CO;
        node->flags = IPC_NODE_HAS_SIZE | IPC_NODE_READ_ZEROES;
        node->size_bytes = n;
        node->fd_index = -1;
        serve->boot.image_fd_count = 0;
    } else if (strncmp(arg, "engine=", 7) == 0) {
        serve->boot.engine = strcmp(arg + 7, "threads") == 0 ? IPC_ENGINE_THREADS : IPC_ENGINE_URING;
    } else if (strncmp(arg, "id=", 3) == 0) {
        snprintf(serve->boot.export_id, sizeof(serve->boot.export_id), "%s", arg + 3);
    } else if (strcmp(arg, "ro") == 0) {
        serve->boot.export_flags &= ~IPC_EXPORT_WRITABLE;
        node->flags |= IPC_NODE_READ_ONLY;
    } else if (strcmp(arg, "writethrough") == 0) {
        serve->boot.export_flags |= IPC_EXPORT_WRITETHROUGH;
    } else if (strcmp(arg, "direct") == 0) {
        node->flags |= IPC_NODE_CACHE_DIRECT;
        serve->image_direct = true;
    } else {
        die(arg, "unknown option");
    }
}

static int listen_on(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (strlen(path) >= sizeof(addr.sun_path))
        die(path, "too long");
    strcpy(addr.sun_path, path);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0)
        die(path, strerror(errno));
    return fd;
}

static void prepare(struct serve *serve, int argc, char **argv)
{
    struct ipc_node *node = &serve->boot.nodes[0];

    serve->boot.role = IPC_ROLE_VHOST;
    serve->boot.io_threads = 1;
    serve->boot.export_flags = IPC_EXPORT_WRITABLE;
    serve->boot.node_count = serve->boot.image_fd_count = 1;
    serve->boot.log_level = getenv("VHOST_SERVE_DEBUG") != NULL ? 3 : 2;
    strcpy(serve->boot.export_id, "disk");
    node->driver = IPC_DRIVER_FILE;
    node->flags = IPC_NODE_DISCARD_UNMAP;
    node->child_index = -1;
    strcpy(node->name, "disk");
    serve->listen.queues = 1;
    serve->listen.logical_block_bytes = 512;
    for (int i = 3; i < argc; i++)
        parse_option(serve, argv[i]);
    serve->image_fd = open(argv[1], (node->flags & IPC_NODE_READ_ONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC |
                                        (serve->image_direct ? O_DIRECT : 0));
    if (serve->image_fd < 0)
        die(argv[1], strerror(errno));
    serve->listen_fd = listen_on(argv[2]);
}

int main(int argc, char **argv)
{
    static struct serve serve;
    static const struct sandbox_role *roles[3];
    struct error err = { 0 };
    char *slash;

    if (argc < 3)
        die("usage", "vhost-serve IMAGE SOCKET [options]");
    prepare(&serve, argc, argv);
    serve.base = event_base_new();
    roles[0] = sandbox_role_find(IPC_ROLE_VHOST);
    roles[1] = sandbox_role_find(IPC_ROLE_VHOST_DOOR);
    slash = strrchr(argv[0], '/');
    if (slash == NULL)
        die(argv[0], "call it with its path: the worker is looked for in the build tree around it");
    strcpy(slash, "/../..");
    if (worker_set_new_from(serve.base, roles, argv[0], &serve.set, &err) < 0 ||
        worker_spawn(serve.set, &serve.boot, &serve.image_fd, &ops, &serve, &serve.worker, &err) < 0)
        die("worker", err.text);
    event_add(event_new(serve.base, STDIN_FILENO, EV_READ | EV_PERSIST, on_stdin, &serve), NULL);
    event_base_dispatch(serve.base);
    return 2;
}
