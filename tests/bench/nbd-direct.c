/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two halves of the NBD server in one process without a sandbox, for profilers: perf, strace and valgrind see the
 * data path and nothing else. Not a server to use: it serves one file to whoever connects.
 *
 *     nbd-direct SOCKET IMAGE [THREADS [threads|io_uring]]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "nbd-worker/export/export.h"
#include "nbd-worker/negotiate/session.h"

#define THREADS_MAX 16

struct direct {
    struct io_loop *control;
    struct io_loop *loops[THREADS_MAX];
    unsigned thread_count;
    struct io_engine *engine;
    struct io_watch listener;
    int image_fd;
    int directory_fd;
    struct nbd_export export;
    struct worker_page page;
};

struct handshaker {
    struct session session;
    struct direct *direct;
    int client_fd;
};

static void die(const char *what)
{
    fprintf(stderr, "nbd-direct: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void on_gone(struct nbd_export *export, uint64_t client_id, bool in_order, const char *text)
{
    fprintf(stderr, "client %llu: %s\n", (unsigned long long)client_id, text);
}

static void on_io_error(struct nbd_export *export, const struct block_request *req, const struct nbd_request *request,
                        int code)
{
    fprintf(stderr, "%s failed: %s\n", request->command->name, strerror(-code));
}

static void on_drained(struct nbd_export *export)
{
    exit(0);
}

static void on_over(struct session *session, const struct ipc_status *status)
{
    struct handshaker *shaker = container_of(session, struct handshaker, session);
    struct error err = { 0 };

    if (status->type != IPC_STATUS_NEGOTIATED)
        fprintf(stderr, "handshake: %s\n", status->client_gone.text);
    else if (nbd_export_add_client(&shaker->direct->export, &shaker->client_fd, &status->negotiated, &err) < 0)
        fprintf(stderr, "%s\n", err.text);
    close_fd(&shaker->client_fd);
    free(shaker);
}

static void on_connection(struct io_watch *watch, uint32_t events)
{
    struct direct *direct = container_of(watch, struct direct, listener);
    struct handshaker *shaker = calloc(1, sizeof(*shaker));
    struct nbd_greeting greeting = nbd_greeting_make();
    struct nbd_directory_view view;
    static uint64_t next_id;
    int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0 || shaker == NULL || send(fd, &greeting, sizeof(greeting), MSG_NOSIGNAL) != sizeof(greeting) ||
        nbd_directory_map(direct->directory_fd, &view, NULL) < 0)
        die("accept");
    shaker->direct = direct;
    shaker->client_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (session_start(&shaker->session, direct->control, &fd, &view, ++next_id, 0, on_over) < 0)
        die("session");
}

static void make_directory(struct direct *direct)
{
    const uint32_t len_bytes = sizeof(struct nbd_directory) + sizeof(struct nbd_directory_entry);
    struct nbd_directory directory = { .magic = NBD_DIRECTORY_MAGIC, .count = 1, .len_bytes = len_bytes };
    struct nbd_directory_entry entry = {
        .serial = 1,
        .size_bytes = block_node_size(direct->export.root),
        .flags = NBD_DIRECTORY_WRITABLE | NBD_DIRECTORY_MULTI_CONN,
        .min_block_bytes = 1,
        .preferred_block_bytes = 4096,
        .max_payload_bytes = NBD_MAX_PAYLOAD,
        .contexts = IPC_NBD_CONTEXT_BASE_ALLOCATION,
        .strings_offset = len_bytes,
    };
    struct iovec iov[] = { { &directory, sizeof(directory) }, { &entry, sizeof(entry) } };

    direct->directory_fd = memfd_create("directory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (writev(direct->directory_fd, iov, 2) != (ssize_t)len_bytes ||
        fcntl(direct->directory_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
        die("directory");
}

static void open_image(struct direct *direct, enum io_engine_kind kind)
{
    struct io_engine_config config = { .kind = kind, .image_fds = &direct->image_fd, .image_fd_count = 1,
                                       .loops = direct->loops, .loop_count = direct->thread_count };
    struct ipc_node node = { .driver = IPC_DRIVER_FILE, .child_index = -1, .name = "image" };
    struct block_tree *tree;
    struct error err = { 0 };

    if ((fcntl(direct->image_fd, F_GETFL) & O_DIRECT) != 0)
        node.flags |= IPC_NODE_CACHE_DIRECT;
    if (io_engine_new(&config, &direct->engine, &err) < 0 ||
        block_tree_open(&node, 1, &direct->image_fd, 1, &tree, &err) < 0) {
        fprintf(stderr, "nbd-direct: %s\n", err.text);
        exit(1);
    }
    fprintf(stderr, "engine %s\n", io_engine_name(direct->engine));
    direct->export.root = block_tree_root(tree);
}

static void *run_loop(void *loop)
{
    for (;;)
        io_loop_run(loop);
    return NULL;
}

static void listen_on(struct direct *direct, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    unlink(path);
    direct->listener = (struct io_watch){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                                          .ready = on_connection };
    if (bind(direct->listener.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(direct->listener.fd, 100) < 0)
        die(path);
    io_loop_watch(direct->control, &direct->listener, EPOLLIN);
}

int main(int argc, char **argv)
{
    static struct direct direct;
    enum io_engine_kind kind = IO_ENGINE_AUTO;
    pthread_t thread;

    if (argc < 3) {
        fprintf(stderr, "usage: nbd-direct SOCKET IMAGE [THREADS [threads|io_uring]]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    direct.thread_count = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    if (direct.thread_count == 0 || direct.thread_count > THREADS_MAX)
        return 2;
    if (argc > 4)
        kind = strcmp(argv[4], "threads") == 0 ? IO_ENGINE_THREADS : IO_ENGINE_URING;
    direct.image_fd = open(argv[2], O_RDWR | O_CLOEXEC | (getenv("DIRECT") != NULL ? O_DIRECT : 0));
    if (direct.image_fd < 0)
        die(argv[2]);
    direct.control = io_loop_new(NULL);
    for (unsigned i = 0; i < direct.thread_count; i++)
        direct.loops[i] = io_loop_new(NULL);
    open_image(&direct, kind);
    make_directory(&direct);
    direct.export.page = &direct.page;
    direct.export.control_loop = direct.control;
    direct.export.client_gone = on_gone;
    direct.export.io_error = on_io_error;
    direct.export.drained = on_drained;
    if (nbd_export_init(&direct.export, direct.thread_count) < 0)
        die("export");
    for (unsigned i = 0; i < direct.thread_count; i++) {
        nbd_export_set_thread(&direct.export, i, direct.loops[i], io_engine_queue(direct.engine, i));
        pthread_create(&thread, NULL, run_loop, direct.loops[i]);
    }
    listen_on(&direct, argv[1]);
    io_loop_run(direct.control);
    return 0;
}
