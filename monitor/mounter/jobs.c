/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "monitor/mounter/fusermount.h"

#define TIMEOUT_NS (MOUNTER_TIMEOUT_MS * 1000000ull)
#define CANCEL_NS  (MOUNTER_CANCEL_MS * 1000000ull)
#define LOOK_NS    100000000ull  /* how often to look whether what was given up is gone */
#define RETRY_NS   2000000000ull /* how often to try to detach an unwanted mount */

/* Where a child finds its socket. */
enum { CHILD_FD = 3 };

enum job_type {
    JOB_MOUNT,
    JOB_UNMOUNT,
    JOB_SWEEP,
};

struct job {
    struct job *next;
    enum job_type type;
    pid_t pid; /* and its process group */
    int fd;
    uint64_t deadline_ns; /* of a lost one: when to look again */
    uint64_t cookie;
    uint64_t serial;     /* of the mount that goes */
    bool answers_nobody; /* an unmount of our own */
    bool has_claim;
    dev_t claim_dev;
    ino_t claim_ino;
    char id[MOUNTER_ID_MAX]; /* of the export that a mount is for */
    char path[MOUNTER_PATH_MAX];
    struct operation_known known;
};

static unsigned count_jobs(const struct job *jobs, enum job_type type)
{
    unsigned count = 0;

    for (; jobs != NULL; jobs = jobs->next)
        count += jobs->type == type;
    return count;
}

static unsigned count_all(const struct job *jobs)
{
    return count_jobs(jobs, JOB_MOUNT) + count_jobs(jobs, JOB_UNMOUNT) + count_jobs(jobs, JOB_SWEEP);
}

/* Whether there is room for another unmount or sweep; mounts have their own. */
static bool has_room(const struct mounter *mounter)
{
    return count_jobs(mounter->jobs, JOB_UNMOUNT) + count_jobs(mounter->jobs, JOB_SWEEP) < JOBS_OTHERS_MAX;
}

bool jobs_are_done(const struct mounter *mounter)
{
    return mounter->jobs == NULL && (mounter->lost == NULL || now_ns() >= mounter->ended_ns + 2 * CANCEL_NS);
}

/* ---- Start ---- */

/* In the child: nothing of the mounter's but what it needs, so that the ends of sockets are noticed. */
static void enter_child(int fd)
{
    setpgid(0, 0);
    signal(SIGCHLD, SIG_DFL); /* it waits for its own children */
    fd = fcntl(fd, F_DUPFD_CLOEXEC, CHILD_FD + 1);
    if (fd < 0 || dup3(fd, CHILD_FD, O_CLOEXEC) < 0)
        _exit(1);
    syscall(SYS_close_range, CHILD_FD + 1, ~0u, 0);
}

/* What a child works on. Its memory is a copy of ours. */
struct work {
    const struct mounter_mount *request; /* JOB_MOUNT */
    const struct mount *mount;           /* JOB_UNMOUNT */
    bool lazy;
};

static _Noreturn void run_child(const struct mounter *mounter, const struct job *job, const struct work *work, int fd)
{
    enter_child(fd);
    if (job->type == JOB_MOUNT)
        operation_mount(mounter->mounts, work->request, CHILD_FD);
    else if (job->type == JOB_UNMOUNT)
        operation_unmount(work->mount, work->lazy, CHILD_FD);
    else
        operation_sweep(mounter->mounts, job->id, &job->known, CHILD_FD);
    _exit(0);
}

/* Start job, which becomes the mounter's. 0, or -errno and it is freed. */
static int start(struct mounter *mounter, struct job *job, const struct work *work, struct error *err)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
        free(job);
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    }
    job->pid = fork();
    if (job->pid == 0)
        run_child(mounter, job, work, fds[1]);
    close(fds[1]);
    if (job->pid < 0) {
        error_set(err, -errno, "the mounter cannot fork: %s", strerror(errno));
        close(fds[0]);
        free(job);
        return -EAGAIN;
    }
    setpgid(job->pid, job->pid);
    job->fd = fds[0];
    job->deadline_ns = now_ns() + TIMEOUT_NS;
    job->next = mounter->jobs;
    mounter->jobs = job;
    return 0;
}

static struct job *new_job(enum job_type type)
{
    struct job *job = calloc(1, sizeof(*job));

    if (job != NULL)
        job->type = type;
    return job;
}

int jobs_mount(struct mounter *mounter, const struct mounter_mount *request, struct error *err)
{
    struct work work = { .request = request };
    struct job *job;

    if (count_jobs(mounter->jobs, JOB_MOUNT) >= JOBS_MOUNTS_MAX || count_all(mounter->lost) >= JOBS_LOST_MAX)
        return error_set(err, -EBUSY, "there are too many mounts under way: %u at work, %u hang",
                         count_jobs(mounter->jobs, JOB_MOUNT), count_all(mounter->lost));
    job = new_job(JOB_MOUNT);
    if (job == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    job->cookie = request->header.cookie;
    memcpy(job->id, request->id, sizeof(job->id));
    memcpy(job->path, request->path, sizeof(job->path));
    return start(mounter, job, &work, err);
}

/* ---- The end of a job ---- */

static void something_came(struct mounter *mounter)
{
    mounter->stuck_ns = now_ns() + MOUNTER_STUCK_MS * 1000000ull;
}

static void answer_failure(struct mounter *mounter, const struct job *job, int code, const char *text)
{
    struct mounter_reply reply = { .code = code };

    snprintf(reply.text, sizeof(reply.text), "%s", text);
    mounter_answer(mounter, job->cookie, &reply, NULL);
}

static void take_out(struct job **list, struct job *job)
{
    while (*list != job)
        list = &(*list)->next;
    *list = job->next;
}

static void unmount_failed(struct mounter *mounter, const struct job *job, int code, const char *text)
{
    struct mount *mount = mounts_find(mounter->mounts, job->serial);

    mount->at_work = false;
    mount->retry_ns = now_ns() + RETRY_NS;
    if (job->answers_nobody)
        return;
    mount->asked = false;
    /* Who has it detached has no use for it, whatever comes of that. */
    mount->unwanted |= mount->lazy;
    answer_failure(mounter, job, code, text);
}

static void fail(struct mounter *mounter, const struct job *job, int code, const char *text)
{
    if (job->type == JOB_MOUNT)
        answer_failure(mounter, job, code, text);
    else if (job->type == JOB_UNMOUNT)
        unmount_failed(mounter, job, code, text);
}

/* Nothing more is heard of it; it stays among the lost until its group is gone. */
static void lose(struct mounter *mounter, struct job *job)
{
    kill(-job->pid, SIGKILL);
    close_fd(&job->fd);
    take_out(&mounter->jobs, job);
    job->next = mounter->lost;
    job->deadline_ns = 0;
    mounter->lost = job;
}

static void finish(struct mounter *mounter, struct job *job)
{
    close_fd(&job->fd);
    take_out(&mounter->jobs, job);
    free(job);
}

/* ---- What a child says ---- */

union heard {
    uint32_t type;
    struct operation_claim claim;
    struct operation_result result;
};

/* Who else is at this file, or has mounted on it; NULL. */
static const char *find_other(const struct mounter *mounter, const struct job *job)
{
    struct mount_point point = { .dev = job->claim_dev, .ino = job->claim_ino };
    const struct mount *user = mounts_find_user(mounter->mounts, &point);

    for (const struct job *j = mounter->jobs; user == NULL && j != NULL; j = j->next) {
        if (j != job && j->has_claim &&
            ((j->claim_dev == job->claim_dev && j->claim_ino == job->claim_ino) || strcmp(j->path, job->path) == 0))
            return j->id;
    }
    return user == NULL ? NULL : user->id;
}

static void judge_claim(struct mounter *mounter, struct job *job, struct operation_claim *claim)
{
    struct operation_verdict verdict = { .type = OPERATION_VERDICT };
    const char *other;

    job->claim_dev = claim->dev;
    job->claim_ino = claim->ino;
    claim->path[sizeof(claim->path) - 1] = '\0';
    memcpy(job->path, claim->path, sizeof(job->path));
    other = find_other(mounter, job);
    job->has_claim = other == NULL;
    operation_look(mounter->mounts, job->id, &job->known); /* in case that it is given up */
    if (other != NULL) {
        verdict.code = -EEXIST;
        snprintf(verdict.text, sizeof(verdict.text), "mount point '%.300s' is already used by export '%s'", job->path,
                 other);
    }
    operation_send(job->fd, &verdict, sizeof(verdict), NULL, 0);
}

static void mounted(struct mounter *mounter, struct job *job, struct operation_result *result, int *fds)
{
    static const struct operation_verdict taken = { .type = OPERATION_VERDICT };
    struct mount *mount = calloc(1, sizeof(*mount));

    if (mount == NULL) { /* whoever is told so will not come back; the child undoes what nobody takes */
        answer_failure(mounter, job, -ENOMEM, "out of memory");
        lose(mounter, job);
        return;
    }
    mount->serial = result->reply.mount = ++mounter->last_serial;
    mount->mount_id = result->mount_id;
    mount->dev = result->dev;
    mount->below_dev = job->claim_dev;
    mount->below_ino = job->claim_ino;
    memcpy(mount->id, job->id, sizeof(mount->id));
    mount->unwanted = mounter->ended;
    mount->next = mounter->mounts;
    mounter->mounts = mount;
    mounter->mount_count++;
    mounter_answer(mounter, job->cookie, &result->reply, fds);
    operation_send(job->fd, &taken, sizeof(taken), NULL, 0); /* last: what we cannot tell of any more, the child undoes */
    finish(mounter, job);
}

static void unmounted(struct mounter *mounter, struct job *job, struct operation_result *result)
{
    struct mount *mount = mounts_find(mounter->mounts, job->serial);

    if (result->reply.code < 0) {
        fail(mounter, job, result->reply.code, result->reply.text);
    } else {
        if (mount->asked)
            mounter_answer(mounter, mount->cookie, &result->reply, NULL);
        mounts_remove(&mounter->mounts, mount);
        mounter->mount_count--;
        something_came(mounter);
    }
    finish(mounter, job);
}

static void hear_result(struct mounter *mounter, struct job *job, struct operation_result *result, int *fds,
                        unsigned fd_count)
{
    if (job->type == JOB_MOUNT && result->reply.code == 0 && fd_count == result->reply.devices) {
        mounted(mounter, job, result, fds);
    } else if (job->type == JOB_MOUNT && result->reply.code == 0) {
        /* Some are lost, for want of descriptors here: so is the mount. */
        answer_failure(mounter, job, -EMFILE, "the mounter has no descriptors left");
        lose(mounter, job);
    } else if (job->type == JOB_UNMOUNT) {
        unmounted(mounter, job, result);
    } else {
        fail(mounter, job, result->reply.code, result->reply.text);
        finish(mounter, job);
    }
}

static unsigned take_fds(struct msghdr *msg, int fds[MOUNTER_DEVICES_MAX])
{
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
    unsigned count = 0;

    if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
        count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(cmsg), count * sizeof(int));
    }
    return count;
}

static void hear(struct mounter *mounter, struct job *job)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MOUNTER_DEVICES_MAX)];
    } control;
    union heard heard;
    struct iovec iov = { &heard, sizeof(heard) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    int fds[MOUNTER_DEVICES_MAX];
    ssize_t n = recvmsg(job->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    unsigned fd_count = n > 0 ? take_fds(&msg, fds) : 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == sizeof(heard.claim) && heard.type == OPERATION_CLAIM && job->type == JOB_MOUNT) {
        judge_claim(mounter, job, &heard.claim);
    } else if (n == sizeof(heard.result) && heard.type == OPERATION_RESULT) {
        hear_result(mounter, job, &heard.result, fds, fd_count);
    } else {
        fail(mounter, job, -EIO, "a child of the mounter ended before it was done");
        lose(mounter, job);
    }
    for (unsigned i = 0; i < fd_count; i++)
        close_fd(&fds[i]);
}

unsigned jobs_watch(const struct mounter *mounter, struct pollfd fds[JOBS_MAX])
{
    unsigned count = 0;

    for (const struct job *job = mounter->jobs; job != NULL && count < JOBS_MAX; job = job->next)
        fds[count++] = (struct pollfd){ .fd = job->fd, .events = POLLIN };
    return count;
}

void jobs_hear(struct mounter *mounter, const struct pollfd *fds, unsigned count)
{
    struct job *job = mounter->jobs, *next;

    for (unsigned i = 0; i < count; i++, job = next) {
        next = job->next;
        if (fds[i].revents != 0)
            hear(mounter, job);
    }
}

/* ---- Time ---- */

static void hurry(struct job *job)
{
    job->deadline_ns = MIN(job->deadline_ns, now_ns() + CANCEL_NS);
}

void jobs_cancel(struct mounter *mounter, uint64_t cookie)
{
    for (struct job *job = mounter->jobs; job != NULL; job = job->next) {
        if (job->type == JOB_MOUNT && job->cookie == cookie)
            hurry(job);
    }
}

void jobs_begin_end(struct mounter *mounter)
{
    mounter->ended_ns = now_ns();
    something_came(mounter);
    for (struct job *job = mounter->jobs; job != NULL; job = job->next) {
        if (job->type == JOB_MOUNT)
            hurry(job);
    }
}

/* Whether an unmount of it that was given up has not ended yet. */
static bool hangs(const struct mounter *mounter, const struct mount *mount)
{
    for (const struct job *job = mounter->lost; job != NULL; job = job->next) {
        if (job->type == JOB_UNMOUNT && job->serial == mount->serial)
            return true;
    }
    return false;
}

/*
 * Whether an unmount of it is to be started, when its time has come and there is room. Unless somebody asks, one child
 * that hangs is enough; at the end, which is short, another try does no harm.
 */
static bool has_to_go(const struct mounter *mounter, const struct mount *mount)
{
    if (mount->at_work)
        return false;
    return mount->asked || (mount->unwanted && (mounter->ended || !hangs(mounter, mount)));
}

int jobs_timeout_ms(const struct mounter *mounter)
{
    uint64_t now = now_ns(), due = UINT64_MAX;
    bool room = has_room(mounter);

    for (const struct job *job = mounter->jobs; job != NULL; job = job->next)
        due = MIN(due, job->deadline_ns);
    for (const struct job *job = mounter->lost; job != NULL; job = job->next)
        due = MIN(due, job->deadline_ns);
    for (const struct mount *m = mounter->mounts; m != NULL; m = m->next) {
        if (room && has_to_go(mounter, m))
            due = MIN(due, m->retry_ns);
    }
    if (mounter->ended)
        due = MIN(due, mounter->stuck_ns);
    if (due == UINT64_MAX)
        return -1;
    return due <= now ? 0 : (int)((due - now) / 1000000u) + 1;
}

static void give_up_overdue(struct mounter *mounter, uint64_t now)
{
    char text[MOUNTER_TEXT_MAX];
    struct job *next;

    for (struct job *job = mounter->jobs; job != NULL; job = next) {
        next = job->next;
        if (job->deadline_ns > now)
            continue;
        snprintf(text, sizeof(text), "cannot %s '%.300s' within %d seconds: does its file system hang?",
                 job->type == JOB_MOUNT ? "mount on" : "unmount", job->type == JOB_MOUNT ? job->path : job->id,
                 MOUNTER_TIMEOUT_MS / 1000);
        fail(mounter, job, -ETIMEDOUT, text);
        lose(mounter, job);
    }
}

/* Whether a mount is being made that a sweep for this job could take for what the job has left behind. */
static bool is_remade(const struct mounter *mounter, const struct job *lost)
{
    char source[MOUNTER_ID_MAX], other[MOUNTER_ID_MAX];

    fusermount_source(lost->id, source, sizeof(source));
    for (const struct job *job = mounter->jobs; job != NULL; job = job->next) {
        fusermount_source(job->id, other, sizeof(other));
        if (job->type == JOB_MOUNT && strcmp(source, other) == 0)
            return true;
    }
    return false;
}

/* Sweep where a mount was given up, as soon as there is room for that and the sweep can meet nothing else. */
static void bury(struct mounter *mounter, struct job *job)
{
    struct work work = { .request = NULL };
    bool sweeps = job->type != JOB_UNMOUNT && job->has_claim;

    if (sweeps && (!has_room(mounter) || is_remade(mounter, job)))
        return;
    take_out(&mounter->lost, job);
    if (!sweeps) {
        free(job);
        return;
    }
    job->type = JOB_SWEEP;
    job->has_claim = false;
    start(mounter, job, &work, NULL);
}

static void look_for_lost(struct mounter *mounter, uint64_t now)
{
    struct job *next;

    for (struct job *job = mounter->lost; job != NULL; job = next) {
        next = job->next;
        if (job->deadline_ns > now)
            continue;
        job->deadline_ns = now + LOOK_NS;
        if (kill(-job->pid, 0) < 0 && errno == ESRCH)
            bury(mounter, job);
    }
}

static void start_unmount(struct mounter *mounter, struct mount *mount)
{
    struct work work = { .mount = mount, .lazy = mount->lazy || mount->unwanted };
    struct job *job = new_job(JOB_UNMOUNT);

    mount->retry_ns = now_ns() + RETRY_NS; /* in case that there are no processes to be had */
    if (job == NULL)
        return;
    job->serial = mount->serial;
    job->cookie = mount->cookie;
    job->answers_nobody = !mount->asked;
    if (start(mounter, job, &work, NULL) == 0)
        mount->at_work = true;
}

static void start_unmounts(struct mounter *mounter, uint64_t now)
{
    for (struct mount *m = mounter->mounts; m != NULL && has_room(mounter); m = m->next) {
        if (has_to_go(mounter, m) && m->retry_ns <= now)
            start_unmount(mounter, m);
    }
}

void jobs_turn(struct mounter *mounter)
{
    uint64_t now = now_ns();

    give_up_overdue(mounter, now);
    look_for_lost(mounter, now);
    start_unmounts(mounter, now);
}

void jobs_forget(struct mounter *mounter)
{
    struct job *job;

    while (mounter->jobs != NULL)
        lose(mounter, mounter->jobs);
    while ((job = mounter->lost) != NULL) {
        mounter->lost = job->next;
        free(job);
    }
}
