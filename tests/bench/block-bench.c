/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block layer alone: requests per second and CPU time per request, without any export or sandbox.
 *
 *     block-bench [-e auto|io_uring|threads] [-d depth] [-b bytes] [-n requests] [-p poll_ns] [-s] [-w] [-D] null|FILE
 *
 * -w writes (never to null: it makes no difference), -s is sequential, -D opens the file with O_DIRECT. One line:
 * engine, IOPS, MiB/s, CPU per request in microseconds of all threads, how many were done inline.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/block/block.h"

#define DEPTH_MAX 1024u

struct bench {
    enum io_engine_kind engine_kind;
    unsigned depth;
    uint64_t request_bytes;
    uint64_t requests;
    uint64_t poll_ns;
    bool sequential;
    bool writes;
    bool direct;
    const char *target;

    struct io_loop *loop;
    struct io_engine *engine;
    struct io_queue *queue;
    struct block_tree *tree;
    struct block_node *root;
    uint64_t blocks; /* of request_bytes */
    uint64_t next_block;
    uint64_t random;
    uint64_t started;
    uint64_t finished;
    uint64_t inline_count;
    int fd;
    struct slot {
        struct block_request req;
        struct iovec iov;
        struct bench *bench;
        void *buf;
    } slots[DEPTH_MAX];
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "block-bench: %s: %s\n", what, why);
    exit(1);
}

static uint64_t next_offset(struct bench *b)
{
    if (b->sequential)
        return b->next_block++ % b->blocks * b->request_bytes;
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random % b->blocks * b->request_bytes;
}

static void account(struct bench *b, int result)
{
    if (result < 0)
        die("request", strerror(-result));
    if (++b->finished == b->requests)
        io_loop_stop(b->loop);
}

static void slot_complete(struct block_request *req, int result);

/* Keep the slot busy; inline completions are a loop, not a recursion. */
static void slot_run(struct slot *slot)
{
    struct bench *b = slot->bench;

    while (b->started < b->requests) {
        int ret;

        b->started++;
        slot->iov = (struct iovec){ slot->buf, b->request_bytes };
        slot->req.op = b->writes ? BLOCK_OP_WRITE : BLOCK_OP_READ;
        slot->req.flags = 0;
        slot->req.offset = next_offset(b);
        slot->req.len_bytes = b->request_bytes;
        slot->req.iov = &slot->iov;
        slot->req.iov_count = 1;
        slot->req.complete = slot_complete;
        ret = block_submit(b->root, b->queue, &slot->req);
        if (ret == BLOCK_PENDING)
            return;
        b->inline_count++;
        account(b, ret);
    }
}

static void slot_complete(struct block_request *req, int result)
{
    struct slot *slot = container_of(req, struct slot, req);

    account(slot->bench, result);
    slot_run(slot);
}

static void open_target(struct bench *b, struct ipc_node *node)
{
    *node = (struct ipc_node){ .driver = IPC_DRIVER_NULL_CO, .fd_index = -1, .child_index = -1, .name = "bench" };
    if (strcmp(b->target, "null") == 0)
        return;
    b->fd = open(b->target, (b->writes ? O_RDWR : O_RDONLY) | O_CLOEXEC | (b->direct ? O_DIRECT : 0));
    if (b->fd < 0)
        die(b->target, strerror(errno));
    struct stat st;
    if (fstat(b->fd, &st) < 0)
        die(b->target, strerror(errno));
    node->driver = S_ISBLK(st.st_mode) ? IPC_DRIVER_HOST_DEVICE : IPC_DRIVER_FILE;
    node->fd_index = 0;
    node->flags = (b->direct ? IPC_NODE_CACHE_DIRECT : 0) | (b->writes ? 0 : IPC_NODE_READ_ONLY);
}

static void set_up(struct bench *b)
{
    struct error err = { 0 };
    struct ipc_node node;
    struct io_engine_config config = {
        .kind = b->engine_kind, .image_fds = &b->fd, .loops = &b->loop, .loop_count = 1
    };
    struct block_info info;

    open_target(b, &node);
    config.image_fd_count = b->fd >= 0 ? 1 : 0;
    b->loop = io_loop_new(&err);
    if (b->loop == NULL || io_engine_new(&config, &b->engine, &err) < 0 ||
        block_tree_open(&node, 1, &b->fd, config.image_fd_count, &b->tree, &err) < 0)
        die(b->target, err.text);
    io_loop_set_polling(b->loop, b->poll_ns);
    b->queue = io_engine_queue(b->engine, 0);
    b->root = block_tree_root(b->tree);
    block_node_info(b->root, &info);
    b->blocks = info.size_bytes / b->request_bytes;
    if (b->blocks == 0)
        die(b->target, "smaller than one request");
    for (unsigned i = 0; i < b->depth; i++) {
        b->slots[i].bench = b;
        if (posix_memalign(&b->slots[i].buf, 4096, b->request_bytes) != 0)
            die("buffers", strerror(ENOMEM));
        memset(b->slots[i].buf, (int)i, b->request_bytes);
    }
}

static double cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void run(struct bench *b)
{
    uint64_t start_ns = now_ns();
    double cpu = cpu_us(), seconds;

    for (unsigned i = 0; i < b->depth; i++)
        slot_run(&b->slots[i]);
    if (b->finished < b->requests)
        io_loop_run(b->loop);
    seconds = (double)(now_ns() - start_ns) / 1e9;
    cpu = cpu_us() - cpu;
    printf("%-8s %9.0f IOPS %8.0f MiB/s %7.2f us CPU/request  inline %3.0f%%\n", io_engine_name(b->engine),
           (double)b->requests / seconds, (double)(b->requests * b->request_bytes) / seconds / 1048576,
           cpu / (double)b->requests, 100.0 * (double)b->inline_count / (double)b->requests);
}

static void tear_down(struct bench *b)
{
    block_tree_close(b->tree);
    io_engine_free(b->engine);
    io_loop_free(b->loop);
    for (unsigned i = 0; i < b->depth; i++)
        free(b->slots[i].buf);
    close_fd(&b->fd);
}

static uint64_t number(const char *text, uint64_t min, uint64_t max)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value < min || value > max)
        die(text, "not a number that makes sense here");
    return value;
}

static enum io_engine_kind engine_kind(const char *name)
{
    static const char *const names[] = {
        [IO_ENGINE_AUTO] = "auto", [IO_ENGINE_URING] = "io_uring", [IO_ENGINE_THREADS] = "threads"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum io_engine_kind)i;
    }
    die(name, "engines are auto, io_uring and threads");
    return IO_ENGINE_AUTO;
}

static void parse(struct bench *b, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "e:d:b:n:p:swD")) != -1) {
        switch (option) {
        case 'e':
            b->engine_kind = engine_kind(optarg);
            break;
        case 'd':
            b->depth = (unsigned)number(optarg, 1, DEPTH_MAX);
            break;
        case 'b':
            b->request_bytes = number(optarg, 1, 64u << 20);
            break;
        case 'n':
            b->requests = number(optarg, 1, UINT64_MAX);
            break;
        case 'p':
            b->poll_ns = number(optarg, 0, 1000000000u);
            break;
        case 's':
            b->sequential = true;
            break;
        case 'w':
            b->writes = true;
            break;
        case 'D':
            b->direct = true;
            break;
        default:
            exit(2);
        }
    }
    if (optind + 1 != argc)
        die("usage", "block-bench [options] null|FILE");
    b->target = argv[optind];
}

int main(int argc, char **argv)
{
    static struct bench bench = {
        .depth = 1, .request_bytes = 4096, .requests = 100000, .random = 88172645463325252u, .fd = -1
    };

    parse(&bench, argc, argv);
    set_up(&bench);
    run(&bench);
    tear_down(&bench);
    return 0;
}
