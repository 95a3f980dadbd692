/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All workers of the monitor: what is opened and found out once at start, and the making of one worker.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "common/ipc/status.h"
#include "common/sandbox/landlock.h"
#include "common/sandbox/sandbox.h"
#include "monitor/worker/worker-private.h"

#define START_MAX_MS 60000 /* from spawn to READY; slow storage is opened meanwhile */
#define END_MAX_MS    2000  /* from SIGKILL for all to the end of the last one that is waited for */

/* ---- The set ---- */

/* The directory of the running binary: in a build tree the workers are beside it. */
static int own_directory(char *ret, size_t size_bytes, struct error *err)
{
    ssize_t n = readlink("/proc/self/exe", ret, size_bytes - 1);
    char *slash;

    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe: %s", strerror(errno));
    ret[n] = '\0';
    slash = strrchr(ret, '/');
    if (slash == NULL)
        return error_set(err, -ENOENT, "/proc/self/exe names no directory");
    *slash = '\0';
    return 0;
}

static int open_binaries(struct worker_set *set, const char *dir, struct error *err)
{
    int r = 0;

    for (unsigned i = 0; set->roles[i] != NULL && r == 0; i++) {
        if (i >= WORKER_ROLES_MAX)
            return error_set(err, -EINVAL, "more than %u roles", WORKER_ROLES_MAX);
        if (set->roles[i]->program != NULL)
            r = spawn_binary_open(set->roles[i], dir, &set->binaries[i], err);
    }
    return r;
}

/* Tell once what every worker will have to do without. */
static void warn_of_missing_layers(const struct worker_set *set)
{
    char list[256] = "";
    size_t used = 0;

    for (unsigned bit = 0; bit < 32; bit++) {
        uint32_t layer = 1u << bit;

        if ((IPC_LAYERS_ALL & layer & ~set->host_layers) != 0 && used < sizeof(list))
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "",
                                     sandbox_layer_name(layer));
    }
    if (used > 0)
        log_warning("this host does not offer sandbox layers that workers would use: %s", list);
}

/* Any will do. */
static const struct spawn_binary *first_binary(const struct worker_set *set)
{
    unsigned i = 0;

    while (i < WORKER_ROLES_MAX - 1 && set->binaries[i].fd < 0)
        i++;
    return &set->binaries[i];
}

int worker_set_probe(struct worker_set *set, struct error *err)
{
    uint32_t namespaces = 0;
    int r = spawn_probe_namespaces(first_binary(set), &namespaces, err);

    if (r < 0)
        return r;
    sandbox_read_namespaces(set->spawner_ns);
    set->host_layers = IPC_LAYERS_ALL & ~SANDBOX_LAYERS_NAMESPACES;
    set->host_layers |= namespaces;
    if ((namespaces & IPC_LAYER_MOUNT_NS) == 0)
        set->host_layers &= ~IPC_LAYER_EMPTY_ROOT;
    if (landlock_abi() == 0)
        set->host_layers &= ~IPC_LAYER_LANDLOCK;
#ifdef WITH_DEVELOPER_AIDS
    if (getenv("BULKHEAD_SANDBOX") != NULL && strcmp(getenv("BULKHEAD_SANDBOX"), "off") == 0)
        set->host_layers = 0;
#endif
    warn_of_missing_layers(set);
    return 0;
}

static int set_open(struct event_base *base, const struct sandbox_role *const *roles, const char *dir,
                    struct worker_set **ret_set, struct error *err)
{
    struct worker_set *set = calloc(1, sizeof(*set));
    int r;

    if (set == NULL)
        return error_set(err, -ENOMEM, "no memory for the workers");
    set->base = base;
    set->roles = roles;
    for (unsigned i = 0; i < WORKER_ROLES_MAX; i++)
        set->binaries[i].fd = -1;
    /* An ignored SIGCHLD may have been inherited; with it nobody could learn how a worker ended. */
    signal(SIGCHLD, SIG_DFL);
    set->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    r = set->null_fd < 0 ? error_set(err, -errno, "cannot open /dev/null: %s", strerror(errno))
                         : open_binaries(set, dir, err);
    if (r < 0) {
        worker_set_free(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

int worker_set_new_from(struct event_base *base, const struct sandbox_role *const *roles, const char *dir,
                        struct worker_set **ret_set, struct error *err)
{
    struct worker_set *set = NULL;
    int r = set_open(base, roles, dir, &set, err);

    if (r == 0)
        r = worker_set_probe(set, err);
    if (r < 0) {
        worker_set_free(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

int worker_set_new(struct event_base *base, struct worker_set **ret_set, struct error *err)
{
    char dir[PATH_MAX];
    int r = own_directory(dir, sizeof(dir), err);

    if (r == 0)
        r = set_open(base, sandbox_roles, dir, ret_set, err);
    return r;
}

static void send_kill(const struct worker_handle *worker)
{
    syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0);
}

static bool happens_until(int fd, short event, uint64_t end_ns)
{
    struct pollfd pfd = { .fd = fd, .events = event };
    uint64_t now = now_ns();

    return poll(&pfd, 1, now < end_ns ? (int)((end_ns - now) / 1000000) : 0) == 1;
}

/* Whether it has ended, and all that it had is closed, by then. One that is lost has had its time. */
static bool wait_for_end(struct worker_handle *worker, uint64_t end_ns)
{
    if (worker->lost)
        end_ns = 0;
    if (!worker->reaped && (!happens_until(worker->pidfd, POLLIN, end_ns) || !supervise_reap(worker)))
        return false;
    return happens_until(worker->status_fd, POLLHUP, end_ns);
}

static unsigned end_all(struct worker_set *set)
{
    uint64_t end_ns = now_ns() + END_MAX_MS * UINT64_C(1000000);
    unsigned left = 0;

    for (struct worker_handle *worker = set->workers; worker != NULL; worker = worker->next)
        send_kill(worker);
    for (; set->workers != NULL; supervise_free(set->workers)) {
        struct worker_handle *worker = set->workers;

        if (wait_for_end(worker, end_ns))
            continue;
        log_error("worker %s %d%s%s cannot be ended and is left behind; an image that it has stays locked until then",
                  worker->role->name, (int)worker->pid, worker->export_id[0] != '\0' ? " of " : "", worker->export_id);
        left++;
    }
    return left;
}

unsigned worker_set_free(struct worker_set *set)
{
    unsigned left;

    if (set == NULL)
        return 0;
    left = end_all(set);
    for (unsigned i = 0; i < WORKER_ROLES_MAX; i++)
        spawn_binary_close(&set->binaries[i]);
    if (set->look_timer != NULL)
        event_free(set->look_timer);
    close_fd(&set->null_fd);
    free(set);
    return left;
}

void worker_set_foreach(struct worker_set *set, bool (*visit)(struct worker_handle *worker, void *arg), void *arg)
{
    struct worker_handle *next;

    for (struct worker_handle *worker = set->workers; worker != NULL; worker = next) {
        next = worker->next;
        if (!visit(worker, arg))
            return;
    }
}

unsigned worker_set_count(const struct worker_set *set)
{
    return set->count;
}

/* ---- One worker ---- */

/* What only lives until the worker has it. */
struct worker_ends {
    int control_fd;
    int status_fd;
    int page_fd;
};

static void close_ends(struct worker_ends *ends)
{
    close_fd(&ends->control_fd);
    close_fd(&ends->status_fd);
    close_fd(&ends->page_fd);
}

/* Sealed, so that neither side can make the other fault; read-only here, since the worker is not trusted. */
static int make_page(struct worker_handle *worker, int *ret_fd, struct error *err)
{
    _cleanup_close_ int fd = memfd_create("bulkhead-worker-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *page;

    if (fd < 0 || ftruncate(fd, WORKER_PAGE_BYTES) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return error_set(err, -errno, "cannot create a worker's page: %s", strerror(errno));
    page = mmap(NULL, WORKER_PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return error_set(err, -errno, "cannot map a worker's page: %s", strerror(errno));
    worker->page = page;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* Complete what BOOT says; it goes with the page and image_fd_count images. */
static int fill_boot(const struct worker_handle *worker, const struct ipc_boot *given, struct ipc_boot *boot,
                     struct error *err)
{
    unsigned fd_count = 1 + MIN(given->image_fd_count, IPC_IMAGE_FDS_MAX);

    *boot = *given;
    channel_fill_header(&boot->header, IPC_BOOT, sizeof(*boot), fd_count);
    boot->layers = worker->role->layers & worker->set->host_layers;
    boot->log_level = log_get_level();
    boot->uid = geteuid();
    boot->gid = getegid();
    memcpy(boot->spawner_ns, worker->set->spawner_ns, sizeof(boot->spawner_ns));
    return ipc_message_check(boot, sizeof(*boot), fd_count, worker->state, worker->role->ipc_role, NULL, err);
}

static int send_boot(struct worker_handle *worker, const struct ipc_boot *boot, int page_fd, const int *image_fds,
                     struct error *err)
{
    int fds[1 + IPC_IMAGE_FDS_MAX] = { page_fd };
    int r;

    for (unsigned i = 0; i < boot->image_fd_count; i++)
        fds[1 + i] = image_fds[i];
    r = channel_send(worker->control_fd, boot, sizeof(*boot), fds, 1 + boot->image_fd_count);
    return r < 0 ? error_set(err, r, "cannot send BOOT to a worker: %s", strerror(-r)) : 0;
}

static int start_process(struct worker_handle *worker, const struct spawn_binary *binary,
                         const struct worker_ends *ends, struct error *err)
{
    struct spawn_request request = {
        .role = worker->role,
        .binary = binary,
        .namespaces = worker->role->layers & worker->set->host_layers & SANDBOX_LAYERS_NAMESPACES,
        .null_fd = worker->set->null_fd,
        .control_fd = ends->control_fd,
        .status_fd = ends->status_fd,
        .title = worker->export_id[0] != '\0' ? worker->export_id : NULL,
    };

    return spawn_process(&request, &worker->pid, &worker->pidfd, err);
}

/* ret_boot: BOOT is not sent; NULL: it is. */
static int make_worker(struct worker_handle *worker, const struct spawn_binary *binary, const struct ipc_boot *given,
                       const int *image_fds, struct worker_boot *ret_boot, struct error *err)
{
    _cleanup_(close_ends) struct worker_ends ends = { -1, -1, -1 };
    struct ipc_boot boot;
    int r = channel_new(&worker->control_fd, &ends.control_fd, err);

    if (r == 0)
        r = status_pipe_new(&worker->status_fd, &ends.status_fd, err);
    if (r == 0)
        r = make_page(worker, &ends.page_fd, err);
    if (r == 0)
        r = fill_boot(worker, given, &boot, err);
    if (r == 0 && ret_boot == NULL)
        r = send_boot(worker, &boot, ends.page_fd, image_fds, err);
    if (r == 0)
        r = start_process(worker, binary, &ends, err);
    if (r == 0)
        r = supervise_start(worker, err);
    if (r == 0 && ret_boot != NULL)
        *ret_boot =
            (struct worker_boot){ .message = boot, .control_fd = worker->control_fd, .page_fd = TAKE_FD(ends.page_fd) };
    return r;
}

static int find_role(const struct worker_set *set, uint32_t ipc_role)
{
    for (unsigned i = 0; set->roles[i] != NULL; i++)
        if (ipc_role != 0 && set->roles[i]->ipc_role == ipc_role)
            return (int)i;
    return -1;
}

static int spawn(struct worker_set *set, const struct ipc_boot *boot, const int *image_fds,
                 const struct worker_ops *ops, void *opaque, struct worker_boot *ret_boot,
                 struct worker_handle **ret_worker, struct error *err)
{
    int index = find_role(set, boot->role);
    struct worker_handle *worker;
    int r;

    if (index < 0)
        return error_set(err, -EINVAL, "there is no role %u", boot->role);
    worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return error_set(err, -ENOMEM, "no memory for a worker");
    worker->set = set;
    worker->role = set->roles[index];
    worker->ops = ops;
    worker->opaque = opaque;
    worker->pidfd = worker->control_fd = worker->status_fd = -1;
    worker->blocked_nr = -1;
    worker->has_images = boot->image_fd_count > 0;
    memcpy(worker->export_id, boot->export_id, sizeof(worker->export_id));
    worker->export_id[sizeof(worker->export_id) - 1] = '\0';
    worker->next = set->workers;
    worker->link = &set->workers;
    if (worker->next != NULL)
        worker->next->link = &worker->next;
    set->workers = worker;
    set->count++;
    r = make_worker(worker, &set->binaries[index], boot, image_fds, ret_boot, err);
    if (r < 0) {
        if (worker->pidfd >= 0) { /* memory ran out; it has just begun and hangs on nothing */
            send_kill(worker);
            wait_for_end(worker, now_ns() + END_MAX_MS * UINT64_C(1000000));
        }
        supervise_free(worker);
        return r;
    }
    supervise_set_timer(worker, START_MAX_MS);
    *ret_worker = worker;
    return 0;
}

int worker_spawn(struct worker_set *set, const struct ipc_boot *boot, const int *image_fds,
                 const struct worker_ops *ops, void *opaque, struct worker_handle **ret_worker, struct error *err)
{
    return spawn(set, boot, image_fds, ops, opaque, NULL, ret_worker, err);
}

int worker_spawn_unbooted(struct worker_set *set, const struct ipc_boot *boot, const struct worker_ops *ops,
                          void *opaque, struct worker_boot *ret_boot, struct worker_handle **ret_worker,
                          struct error *err)
{
    return spawn(set, boot, NULL, ops, opaque, ret_boot, ret_worker, err);
}
