/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A whole session: the input is what a front-end does, message after message over a real socket with real descriptors,
 * writes to guest memory and kicks in between. The session code, its queues and the block layer (null-co) run as in the
 * worker, all on one loop. After each input the front-end leaves, and nothing may be left of it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/io/guard.h"
#include "vhost-worker/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_BYTES   0x10000u
#define TURNS       6u /* of the loop, after each step: enough to stop queues, handle, start them */
#define ACTIONS_MAX 64u

static struct {
    struct worker worker;
    struct worker_io_thread io;
    struct worker_page page;
    struct vhost_session *session;
    struct block_node *roots[2]; /* requests are done at once, or a little later */
    int link;                    /* our end: we are the door */
    int ram_fd, file_fd;
    uint8_t *ram;
    unsigned turns_left;
    struct io_task turn;
} all;

/* ---- What the harness of workers does ---- */

void worker_report(struct worker *worker, const struct ipc_status *status)
{
}

void worker_report_io_error(struct worker *worker, const struct block_request *req, uint64_t offset, uint64_t len_bytes,
                            int code)
{
}

void worker_exit(struct worker *worker)
{
}

static void drop_log(enum log_level level, const char *text)
{
}

static void run_turn(struct io_task *task)
{
    if (--all.turns_left > 0)
        io_loop_post(all.worker.control_loop, task);
    else
        io_loop_stop(all.worker.control_loop);
}

static void run_loop(unsigned turns)
{
    all.turns_left = turns;
    io_loop_post(all.worker.control_loop, &all.turn);
    io_loop_run(all.worker.control_loop);
}

static unsigned count_fds(void)
{
    struct pollfd pfds[256];
    unsigned count = 0;

    for (int i = 0; i < 256; i++)
        pfds[i] = (struct pollfd){ .fd = i };
    poll(pfds, 256, 0);
    for (unsigned i = 0; i < 256; i++)
        count += !(pfds[i].revents & POLLNVAL);
    return count;
}

/* ---- Set-up, once ---- */

static struct block_node *open_node(uint64_t latency_ns)
{
    struct ipc_node node = { .driver = IPC_DRIVER_NULL_CO,
                             .flags = IPC_NODE_HAS_SIZE | IPC_NODE_READ_ZEROES,
                             .fd_index = -1,
                             .child_index = -1,
                             .size_bytes = 1 << 20,
                             .latency_ns = latency_ns,
                             .name = "null" };
    struct block_tree *tree;

    assert(block_tree_open(&node, 1, NULL, 0, &tree, NULL) == 0);
    return block_tree_root(tree);
}

static void make_link(void)
{
    int end;

    assert(channel_new(&all.link, &end, NULL) == 0);
    assert(vhost_session_listen(all.session, end, 3, 512) == 0);
}

/* Introduce a front-end, as the door does: here messages and answers go over one socket. Returns the front-end's end.
 */
static int connect_frontend(void)
{
    struct {
        struct ipc_header header;
    } message;
    int pair[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    channel_fill_header(&message.header, IPC_VHOST_FRONTEND, sizeof(message), 2);
    assert(channel_send(all.link, &message, sizeof(message), (const int[]){ pair[1], pair[1] }, 2) == 0);
    close(pair[1]);
    return pair[0];
}

static void set_up(void)
{
    struct io_engine_config config = {
        .kind = IO_ENGINE_THREADS, .loops = &all.io.loop, .loop_count = 1, .pool_threads = 1
    };

    log_set_sink(drop_log);
    signal(SIGPIPE, SIG_IGN); /* as the worker does: a call descriptor may be a pipe that nobody reads */
    all.turn.run = run_turn;
    all.worker.control_loop = all.io.loop = io_loop_new(NULL);
    all.worker.io_threads = &all.io;
    all.worker.boot.io_threads = 1;
    all.worker.boot.export_flags = IPC_EXPORT_WRITABLE;
    all.worker.page = &all.page;
    assert(all.io.loop != NULL && io_engine_new(&config, &all.worker.engine, NULL) == 0);
    all.io.queue = io_engine_queue(all.worker.engine, 0);
    all.roots[0] = open_node(0);
    all.roots[1] = open_node(1);
    block_node_info(all.roots[0], &all.worker.info);
    assert(vhost_session_new(&all.worker, &all.session, NULL) == 0);
    all.worker.role_state = all.session;
    vhost_session_set_device(all.session);
    make_link();
    assert(io_guard_init(NULL) == 0);
    all.ram_fd = memfd_create("ram", MFD_CLOEXEC);
    all.file_fd = memfd_create("file", MFD_CLOEXEC);
    assert(ftruncate(all.ram_fd, RAM_BYTES) == 0 && ftruncate(all.file_fd, RAM_BYTES) == 0);
    all.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, all.ram_fd, 0);
    assert(all.ram != MAP_FAILED);
}

/* ---- The front-end ---- */

struct frontend {
    const uint8_t *next;
    size_t left;
    int sock;
    int events[4]; /* eventfds to kick and be called with */
    int pair[2];   /* a socket that is not the connection: with its own end in our hands no connection would end */
};

static bool take(struct frontend *fe, void *to, size_t len)
{
    if (fe->left < len)
        return false;
    memcpy(to, fe->next, len);
    fe->next += len;
    fe->left -= len;
    return true;
}

/* Descriptors of a message: 2 bits for the kind of each. */
static unsigned choose_fds(const struct frontend *fe, uint16_t kinds, unsigned count, int *fds)
{
    for (unsigned i = 0; i < count; i++) {
        const int choice[4] = { all.ram_fd, fe->events[i % 4], all.file_fd, fe->pair[1] };

        fds[i] = choice[kinds >> 2 * (i % 8) & 3];
    }
    return count;
}

static void send_message(struct frontend *fe)
{
    struct {
        uint8_t request, flags, size, fd_count;
        uint16_t fd_kinds;
    } __attribute__((packed)) spec;
    struct vhost_user_header header;
    uint8_t payload[256] = { 0 };
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(16 * sizeof(int))];
    } control = { 0 };
    struct iovec iov[2];
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    int fds[16];
    unsigned count;

    if (!take(fe, &spec, sizeof(spec)))
        return;
    /* Flags 0: what a message should have; the size that was said, or that of the bytes that are left. */
    header = (struct vhost_user_header){ spec.request, spec.flags == 0 ? VHOST_USER_VERSION : spec.flags, spec.size };
    take(fe, payload, MIN(spec.size, fe->left));
    count = choose_fds(fe, spec.fd_kinds, spec.fd_count % 10, fds);
    if (count > 0) {
        control.header = (struct cmsghdr){ CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    iov[0] = (struct iovec){ &header, sizeof(header) };
    iov[1] = (struct iovec){ payload, spec.size };
    sendmsg(fe->sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void write_ram(struct frontend *fe)
{
    struct {
        uint16_t offset;
        uint8_t len;
    } __attribute__((packed)) spec;

    if (take(fe, &spec, sizeof(spec)))
        take(fe, all.ram + spec.offset, MIN(MIN(spec.len, fe->left), RAM_BYTES - spec.offset));
}

static void kick(struct frontend *fe)
{
    uint8_t which = 0;
    uint64_t one = 1;

    take(fe, &which, 1);
    assert(write(fe->events[which % 4], &one, sizeof(one)) == sizeof(one));
}

/* The dull beginning of every real session, so that inputs need not find it: negotiated, memory shared. */
static void begin_well(struct frontend *fe)
{
    static const uint8_t script[] = {
        3,  0, 0,    0, 0, 0,                                     /* SET_OWNER */
        16, 0, 8,    0, 0, 0, 0x2b, 0xb2, 1, 0, 0, 0, 0, 0,       /* SET_PROTOCOL_FEATURES: all */
        37, 0, 40,   1, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0,       /* ADD_MEM_REG: guest 0, */
        0,  0, 0,    0, 0, 0, 0,    0,    0, 0, 1, 0, 0, 0, 0, 0, /* 64 KiB, */
        0,  0, 0x10, 0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0, /* user address 0x100000 */
    };
    struct frontend begin = *fe;

    begin.next = script;
    begin.left = sizeof(script);
    while (begin.left > 0)
        send_message(&begin);
}

/* block_resize */
static void resize(void)
{
    static unsigned times;

    vhost_session_resize(all.session, times++ % 2 ? 1 << 20 : 1 << 19);
}

/* The next front-end, which the door would not introduce before this one has left. */
static void come_as_a_stranger(void)
{
    int sock = connect_frontend();

    run_loop(TURNS);
    close(sock);
    run_loop(TURNS);
}

static bool is_idle(void)
{
    struct pollfd pfd = { .fd = all.session->link.fd, .events = POLLIN };

    return all.session->watch.fd < 0 && all.session->link.events != 0 && poll(&pfd, 1, 0) == 0;
}

/* A session whose front-end has left ends, all is given back, and the next front-end is waited for. */
static void check_the_end(unsigned fds_before)
{
    for (unsigned i = 0; !is_idle(); i++) {
        assert(i < 1000);
        run_loop(TURNS);
    }
    assert(count_fds() == fds_before);
    assert(all.session->shared.memory.count == 0 && all.session->inflight.map == NULL);
}

/* By the two lowest bits of an action; its others: 0x20 resize, 0x40 a stranger, 0x80 the next action comes soon. */
static void (*const actions[])(struct frontend *fe) = { send_message, send_message, write_ram, kick };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frontend fe = { data, size };
    uint8_t how = 0;
    unsigned fds_before;

    if (all.session == NULL)
        set_up();
    fds_before = count_fds();
    memset(all.ram, 0, RAM_BYTES);
    fe.sock = connect_frontend();
    for (unsigned i = 0; i < 4; i++)
        fe.events[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fe.pair) == 0);
    take(&fe, &how, 1);
    all.worker.root = all.roots[how >> 1 & 1];
    if (how & 1)
        begin_well(&fe);
    run_loop(TURNS);
    for (unsigned i = 0; i < ACTIONS_MAX && fe.left > 0; i++) {
        uint8_t action = 0;

        take(&fe, &action, 1);
        actions[action % ARRAY_SIZE(actions)](&fe);
        if (action & 0x20)
            resize();
        if (action & 0x40)
            come_as_a_stranger();
        run_loop(action & 0x80 ? 1 : TURNS); /* many at once, or one after the other */
    }
    close(fe.sock);
    close(fe.pair[0]);
    close(fe.pair[1]);
    for (unsigned i = 0; i < 4; i++)
        close(fe.events[i]);
    check_the_end(fds_before);
    return 0;
}
