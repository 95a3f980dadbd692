/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a worker process, in stages with names:
 *
 *   begin    close what was not meant for us, die with the monitor, ignore the terminal's signals
 *   boot     receive BOOT and check it
 *   enter    first lock-down: nothing can be opened from here on (common/sandbox/sandbox.h)
 *   build    loops, engine, the role's own descriptors, threads
 *   lock     second lock-down: nothing can be made from here on
 *   open     the node tree: the first byte of an image is read here
 *   start    the role begins; READY
 *   run      the control loop, until the end; then the rings let go of the images
 *
 * Up to and including `lock` a worker reads nothing but what the monitor wrote.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/io/guard.h"
#include "common/worker/worker-private.h"

_Static_assert((int)IPC_ENGINE_AUTO == (int)IO_ENGINE_AUTO && (int)IPC_ENGINE_URING == (int)IO_ENGINE_URING &&
                   (int)IPC_ENGINE_THREADS == (int)IO_ENGINE_THREADS,
               "one numbering of engines");
_Static_assert((int)WORKER_PAGE_OPS == (int)BLOCK_OP_MAX, "the worker page counts every operation");

#define FDS_COUNTED_MAX 1024 /* more than any worker has at lock-down */

#ifdef WITH_SANITIZERS
#define IO_THREAD_STACK_BYTES (8 * 1024 * 1024)

/* Looking for leaks means tracing oneself, which no worker may do. Read by the run-time before main(). */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:allocator_may_return_null=1:symbolize=0";
}
#else
#define IO_THREAD_STACK_BYTES (512 * 1024)
#endif

/* ---- begin ---- */

/* Whether a worker of this host can have a user namespace of its own is tried by one that does nothing else. */
static void try_ids(const char *uid, const char *gid)
{
    const struct sandbox_ids ids = { (uint32_t)strtoul(uid, NULL, 10), (uint32_t)strtoul(gid, NULL, 10) };

    _exit(sandbox_map_ids(&ids) == 0 ? 0 : 1);
}

static void refuse_to_be_run_by_hand(const char *name)
{
    int type = 0;
    socklen_t len = sizeof(type);

    if (getsockopt(WORKER_CONTROL_FD, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET)
        return;
    fprintf(stderr, "%s: this is a worker of bulkhead, which starts it; it does nothing on its own\n", name);
    exit(2);
}

/*
 * The monitor's death is ours. It may have died before the request, hence the look at the socket: getppid() tells
 * nothing in a pid namespace of its own.
 */
static int die_with_the_monitor(struct error *err)
{
    struct pollfd pfd = { .fd = WORKER_CONTROL_FD };

    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return error_set(err, -errno, "cannot ask to die with the monitor: %s", strerror(errno));
    if (poll(&pfd, 1, 0) > 0 && (pfd.revents & (POLLHUP | POLLERR)) != 0)
        _exit(0);
    return 0;
}

/* A signal for the terminal's foreground group is for the monitor, which ends its workers in order. */
static void ignore_signals(void)
{
    static const int ignored[] = { SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM };

    for (unsigned i = 0; i < ARRAY_SIZE(ignored); i++)
        signal(ignored[i], SIG_IGN);
}

static int begin(struct worker *worker, struct error *err)
{
    const struct sandbox_role *role = sandbox_role_find(worker->class->ipc_role);

    if (role == NULL)
        return error_set(err, -EINVAL, "role %u has no row in the table of roles", worker->class->ipc_role);
    worker->private->sandbox.role = role;
    ignore_signals();
    prctl(PR_SET_NAME, role->name, 0, 0, 0);
    if (syscall(SYS_close_range, WORKER_FIRST_FREE_FD, ~0u, 0) < 0)
        return error_set(err, -errno, "cannot close descriptors: %s", strerror(errno));
    /*
     * One arena: with more the C library would look for the number of processors, and for the overcommit policy, in
     * files, at some later malloc() or free(), when no file can be opened.
     */
    mallopt(M_ARENA_MAX, 1);
    return die_with_the_monitor(err);
}

/* ---- enter ---- */

static int enter(struct worker *worker, struct error *err)
{
    struct sandbox *sandbox = &worker->private->sandbox;

    sandbox->asked = worker->boot.layers | sandbox->role->required;
    sandbox->ids = (struct sandbox_ids){ worker->boot.uid, worker->boot.gid };
    sandbox_apply_developer_aids(sandbox);
    return sandbox_enter(sandbox, worker->boot.spawner_ns, err);
}

/* ---- build ---- */

static int build_loops(struct worker *worker, struct error *err)
{
    unsigned count = worker->boot.io_threads;

    worker->control_loop = io_loop_new(err);
    if (worker->control_loop == NULL)
        return err->code;
    worker->io_threads = calloc(count + 1, sizeof(*worker->io_threads));
    worker->private->io_loops = calloc(count + 1, sizeof(*worker->private->io_loops));
    if (worker->io_threads == NULL || worker->private->io_loops == NULL)
        return error_set(err, -ENOMEM, "no memory for %u I/O threads", count);
    for (unsigned i = 0; i < count; i++) {
        worker->io_threads[i].loop = worker->private->io_loops[i] = io_loop_new(err);
        if (worker->io_threads[i].loop == NULL)
            return err->code;
        io_loop_set_polling(worker->io_threads[i].loop, worker->boot.poll_max_ns);
    }
    return 0;
}

/*
 * The status pipe is one more file of the rings, and no request is ever made for it. So it ends, for the monitor, no
 * sooner than the last request that a killed worker leaves behind, and not before its images are closed.
 */
static int build_engine(struct worker *worker, int *image_fds, struct error *err)
{
    struct io_engine_config config = {
        .kind = (enum io_engine_kind)worker->boot.engine,
        .image_fds = image_fds,
        .image_fd_count = worker->boot.image_fd_count + 1,
        .loops = worker->private->io_loops,
        .loop_count = worker->boot.io_threads,
    };
    int r;

    if (worker->boot.io_threads == 0)
        return 0;
    image_fds[worker->boot.image_fd_count] = WORKER_STATUS_FD;
    r = io_engine_new(&config, &worker->engine, err);
    for (unsigned i = 0; r == 0 && i < worker->boot.io_threads; i++)
        worker->io_threads[i].queue = io_engine_queue(worker->engine, i);
    return r;
}

static void *run_io_thread(void *arg)
{
    struct worker_io_thread *thread = arg;

    prctl(PR_SET_NAME, "io", 0, 0, 0);
    io_loop_run(thread->loop);
    return NULL;
}

/* Only what a fault, abort() or the sandbox raises reaches the thread. */
static void block_signals(sigset_t *ret_before)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS };
    sigset_t set;

    sigfillset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_SETMASK, &set, ret_before);
}

static int start_io_threads(struct worker *worker, struct error *err)
{
    pthread_attr_t attr;
    sigset_t before;
    int r = 0;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, IO_THREAD_STACK_BYTES);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    block_signals(&before);
    for (unsigned i = 0; i < worker->boot.io_threads && r == 0; i++) {
        pthread_t thread;

        r = pthread_create(&thread, &attr, run_io_thread, &worker->io_threads[i]);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r == 0 ? 0 : error_set(err, -r, "cannot start an I/O thread: %s", strerror(r));
}

static int build(struct worker *worker, int *image_fds, struct error *err)
{
    int r = build_loops(worker, err);

    if (r == 0)
        r = report_queue_attach(worker, err);
    if (r == 0)
        r = build_engine(worker, image_fds, err);
    if (r == 0)
        r = worker->class->setup(worker, err);
    if (r == 0)
        r = control_attach(worker, err);
    if (r == 0)
        r = start_io_threads(worker, err);
    return r;
}

/* ---- lock, open, start ---- */

static unsigned count_fds(void)
{
    struct pollfd pfds[FDS_COUNTED_MAX];
    struct rlimit limit;
    unsigned asked = FDS_COUNTED_MAX;
    unsigned count = 0;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) /* poll() takes no more than the limit */
        asked = (unsigned)MIN(limit.rlim_cur, FDS_COUNTED_MAX);
    for (unsigned i = 0; i < asked; i++)
        pfds[i] = (struct pollfd){ .fd = (int)i };
    if (poll(pfds, asked, 0) < 0)
        return 0;
    for (unsigned i = 0; i < asked; i++)
        count += (pfds[i].revents & POLLNVAL) == 0;
    return count;
}

static int open_tree(struct worker *worker, const int *image_fds, struct error *err)
{
    int r;

    if (worker->boot.node_count == 0)
        return 0;
    r = block_tree_open(worker->boot.nodes, worker->boot.node_count, image_fds, worker->boot.image_fd_count,
                        &worker->tree, err);
    if (r < 0)
        return r;
    worker->root = block_tree_root(worker->tree);
    block_node_info(worker->root, &worker->info);
    return 0;
}

static uint32_t engine_of(const struct worker *worker)
{
    if (worker->engine == NULL)
        return 0;
    return strcmp(io_engine_name(worker->engine), "io_uring") == 0 ? IPC_ENGINE_URING : IPC_ENGINE_THREADS;
}

static void report_ready(struct worker *worker, unsigned fd_count)
{
    bool writable = (worker->boot.export_flags & IPC_EXPORT_WRITABLE) != 0 && !worker->info.read_only;
    struct ipc_status status = { .type = IPC_STATUS_READY };

    status.ready = (struct ipc_status_ready){
        .layers = worker->private->sandbox.observed,
        .engine = engine_of(worker),
        .fd_count = fd_count,
        .min_block_bytes = worker->info.min_block_bytes,
        .size_bytes = worker->info.size_bytes,
        .preferred_block_bytes = worker->info.preferred_block_bytes,
        .max_transfer_bytes = worker->info.max_transfer_bytes,
        .export_flags = (worker->boot.export_flags & ~IPC_EXPORT_WRITABLE) | (writable ? IPC_EXPORT_WRITABLE : 0),
        .landlock_abi = worker->private->sandbox.landlock_abi,
        .can_fast_zero = worker->info.fast_zero,
    };
    worker_report(worker, &status);
}

static int live(struct worker *worker, struct error *err)
{
    static int image_fds[IPC_IMAGE_FDS_MAX + 1]; /* the engine borrows them for as long as the process lives */
    unsigned fd_count;
    int r = begin(worker, err);

    if (r == 0)
        r = boot_receive(worker, image_fds, err);
    if (r < 0)
        return r;
    log_set_level((enum log_level)worker->boot.log_level);
    r = enter(worker, err);
    if (r == 0)
        r = sandbox_report_traps(WORKER_STATUS_FD, err);
    if (r == 0)
        r = io_guard_init(err);
    if (r == 0)
        r = build(worker, image_fds, err);
    if (r < 0)
        return r;
    fd_count = count_fds();
    atomic_store(&worker->page->fds_images, worker->boot.image_fd_count);
    atomic_store(&worker->page->fds_internal, fd_count - worker->boot.image_fd_count);
    r = sandbox_lock(&worker->private->sandbox, err);
    if (r == 0)
        r = open_tree(worker, image_fds, err);
    if (r == 0 && worker->class->start != NULL)
        r = worker->class->start(worker, err);
    if (r < 0)
        return r;
    worker->private->state = WORKER_RUNNING;
    report_ready(worker, fd_count);
    io_loop_run(worker->control_loop);
    if (worker->engine != NULL)
        io_engine_release_files(worker->engine);
    return 0;
}

int worker_main(int argc, char **argv, const struct worker_class *class)
{
    static struct worker_private private; /* of the one worker of this process */
    static struct worker worker;
    struct error err = { 0 };

    if (argc == 4 && strcmp(argv[1], SANDBOX_TRY_IDS) == 0)
        try_ids(argv[2], argv[3]);
    refuse_to_be_run_by_hand(argc > 0 ? argv[0] : "bulkhead worker");
    worker.class = class;
    worker.private = &private;
    report_queue_init(&worker);
    report_take_log(&worker);
    if (live(&worker, &err) < 0)
        report_failed_and_exit(&worker, &err);
    _exit(0); /* threads may be in the middle of something: no handlers, no destructors */
}
