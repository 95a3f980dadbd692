/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A lean vhost-user-blk load: keeps --depth requests in flight on each of --queues split rings, a thread for each, and
 * prints one line of JSON: requests per second and the server's CPU time per request.
 *
 *     vhost-load --socket PATH --op randread|randwrite|read|write [--bytes 4096] [--depth 32] [--queues 1]
 *                [--seconds 2] [--poll] [--pid SERVER]
 *
 * What a good guest driver does: descriptors are built once, all completions are taken before anything is made
 * available, one index store per batch, a kick only if the device wants one (event index). With --poll it looks at the
 * used ring all the time, else it sleeps on the call descriptor.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/frontend.h"

#define DEPTH_MAX         64u
#define NO_ANSWER_S       20u
#define SLOT_HEADER_BYTES 64u /* header at 0, status at 32 */

struct load {
    const char *socket;
    bool write, random, poll;
    uint32_t bytes;
    unsigned depth, queues;
    double seconds;
    long pid;
    uint64_t capacity_bytes;
};

struct runner {
    const struct load *load;
    struct fe *fe;
    unsigned queue;
    uint8_t *headers, *data;
    uint64_t seed, next_offset;
    uint64_t end_ns;
    uint64_t done, kicks, calls, errors;
};

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- One queue ---- */

static void build_slot(struct runner *r, unsigned slot)
{
    struct fe_queue *q = &r->fe->queues[r->queue];
    uint8_t *header = r->headers + slot * SLOT_HEADER_BYTES;
    struct fe_desc *d = &q->desc[slot * 3];

    d[0] = (struct fe_desc){ fe_guest(r->fe, header), 16, DESC_NEXT, (uint16_t)(slot * 3 + 1) };
    d[1] = (struct fe_desc){ fe_guest(r->fe, r->data + (uint64_t)slot * r->load->bytes), r->load->bytes,
                             (uint16_t)(DESC_NEXT | (r->load->write ? 0 : DESC_WRITE)), (uint16_t)(slot * 3 + 2) };
    d[2] = (struct fe_desc){ fe_guest(r->fe, header + 32), 1, DESC_WRITE, 0 };
}

static uint64_t next_offset(struct runner *r)
{
    uint64_t blocks = r->load->capacity_bytes / r->load->bytes, block;

    if (!r->load->random) {
        block = r->next_offset++ % blocks;
    } else {
        r->seed ^= r->seed << 13;
        r->seed ^= r->seed >> 7;
        r->seed ^= r->seed << 17;
        block = r->seed % blocks;
    }
    return block * r->load->bytes;
}

/* Write the request of slot and its place in the available ring; visible with the next index store. */
static void prepare(struct runner *r, struct fe_queue *q, uint16_t *avail_idx, unsigned slot)
{
    struct fe_header *header = (struct fe_header *)(r->headers + slot * SLOT_HEADER_BYTES);

    header->type = r->load->write ? T_OUT : T_IN;
    header->sector = next_offset(r) / 512;
    q->avail[2 + *avail_idx % q->size] = (uint16_t)(slot * 3);
    (*avail_idx)++;
}

/* VIRTIO 1.2, 2.7.10: kick if the device's event index was crossed. */
static void publish(struct runner *r, struct fe_queue *q, uint16_t old_idx, uint16_t new_idx)
{
    uint16_t event;

    __atomic_store_n(&q->avail[1], new_idx, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    event = __atomic_load_n(&q->used[2 + q->size * 4], __ATOMIC_RELAXED);
    if ((uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx)) {
        r->kicks++;
        fe_kick(r->fe, r->queue);
    }
}

/* Wait until the used index moves. */
static void wait_used(struct runner *r, struct fe_queue *q, uint16_t seen)
{
    uint64_t count;

    for (;;) {
        if (r->load->poll) {
            if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) != seen)
                return;
            __builtin_ia32_pause();
            continue;
        }
        __atomic_store_n(&q->avail[2 + q->size], seen, __ATOMIC_RELAXED); /* used_event */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) != seen)
            return;
        if (read(q->call_fd, &count, sizeof(count)) > 0)
            r->calls++;
    }
}

static void *run_queue(void *arg)
{
    struct runner *r = arg;
    struct fe_queue *q = &r->fe->queues[r->queue];
    const uint32_t *elems = (const uint32_t *)(q->used + 2);
    uint16_t avail_idx = 0, used_seen = 0;

    for (unsigned slot = 0; slot < r->load->depth; slot++) {
        build_slot(r, slot);
        prepare(r, q, &avail_idx, slot);
    }
    if (r->load->poll) /* half the ring away: the device never crosses it */
        __atomic_store_n(&q->avail[2 + q->size], (uint16_t)0x8000, __ATOMIC_RELAXED);
    publish(r, q, 0, avail_idx);
    for (bool more = true; used_seen != avail_idx;) {
        uint16_t old_idx = avail_idx, used_idx;

        wait_used(r, q, used_seen);
        used_idx = __atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE);
        for (; used_seen != used_idx; used_seen++) {
            unsigned slot = elems[used_seen % q->size * 2] / 3;

            r->errors += r->headers[slot * SLOT_HEADER_BYTES + 32] != S_OK;
            if (++r->done % 16 == 0 || r->load->bytes > 65536)
                more = now() < r->end_ns;
            if (more)
                prepare(r, q, &avail_idx, slot);
        }
        if (r->load->poll)
            __atomic_store_n(&q->avail[2 + q->size], (uint16_t)(used_seen + 0x8000), __ATOMIC_RELAXED);
        if (avail_idx != old_idx)
            publish(r, q, old_idx, avail_idx);
    }
    return NULL;
}

/* ---- The server's CPU time ---- */

static double process_seconds(long pid, long *ret_parent)
{
    char path[64], line[1024], *at;
    unsigned long user, system;
    FILE *file;
    bool ok;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    file = fopen(path, "r");
    if (file == NULL)
        return 0;
    ok = fgets(line, sizeof(line), file) != NULL;
    fclose(file);
    at = ok ? strrchr(line, ')') : NULL;
    if (at == NULL ||
        sscanf(at, ") %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", ret_parent, &user, &system) != 3)
        return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static bool is_below(long pid, long root)
{
    long parent = 0;

    for (unsigned i = 0; i < 16 && pid > 1; i++) {
        if (pid == root)
            return true;
        process_seconds(pid, &parent);
        pid = parent;
    }
    return false;
}

/* Of the process and all below it. */
static double tree_seconds(long root)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    double sum = 0;
    long parent;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        long pid = strtol(entry->d_name, NULL, 10);

        if (pid > 0 && is_below(pid, root))
            sum += process_seconds(pid, &parent);
    }
    if (dir != NULL)
        closedir(dir);
    return sum;
}

/* ---- All ---- */

static void set_up(struct load *load, struct fe *fe)
{
    uint64_t data_bytes = (uint64_t)load->depth * load->bytes, capacity;
    uint64_t need = load->queues * (FE_RING_BYTES + DEPTH_MAX * SLOT_HEADER_BYTES + data_bytes) + (4u << 20);

    fe_make_memory(fe, (2 * need + 0x1fffff) & ~0x1fffffull);
    memset(fe->ram, 0x11, fe->ram_bytes);
    if (!fe_start(fe, load->socket,
                  FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_EVENT_IDX | FE_F_INDIRECT | FE_F_MQ | FE_F_FLUSH, load->queues,
                  256))
        fe_die("%s: %s", load->socket, fe->error);
    if (!fe_get_config(fe, 0, &capacity, sizeof(capacity)))
        fe_die("%s: %s", load->socket, fe->error);
    load->capacity_bytes = capacity * 512;
    /* Sleeping is one system call; who is never called is ended by the alarm. */
    for (unsigned i = 0; i < load->queues; i++)
        fcntl(fe->queues[i].call_fd, F_SETFL, 0);
    alarm((unsigned)load->seconds + NO_ANSWER_S);
}

static void run(const struct load *load, struct fe *fe)
{
    struct runner *runners = calloc(load->queues, sizeof(*runners));
    pthread_t *threads = calloc(load->queues, sizeof(*threads));
    uint8_t *area = FE_DATA(fe, load->queues);
    uint64_t start = now(), done = 0, kicks = 0, calls = 0, errors = 0;
    double cpu = load->pid > 0 ? tree_seconds(load->pid) : 0, seconds;

    for (unsigned i = 0; i < load->queues; i++) {
        struct runner *r = &runners[i];

        *r = (struct runner){ .load = load,
                              .fe = fe,
                              .queue = i,
                              .seed = 88172645463325252ull + i * 7919,
                              .end_ns = start + (uint64_t)(load->seconds * 1e9) };
        r->headers = area;
        area += DEPTH_MAX * SLOT_HEADER_BYTES;
        area += -(uintptr_t)area % 4096;
        r->data = area;
        area += (uint64_t)load->depth * load->bytes;
        r->next_offset = i * (load->capacity_bytes / load->bytes / load->queues);
        pthread_create(&threads[i], NULL, run_queue, r);
    }
    for (unsigned i = 0; i < load->queues; i++) {
        pthread_join(threads[i], NULL);
        done += runners[i].done;
        kicks += runners[i].kicks;
        calls += runners[i].calls;
        errors += runners[i].errors;
    }
    seconds = (double)(now() - start) / 1e9;
    cpu = load->pid > 0 ? tree_seconds(load->pid) - cpu : 0;
    printf("{\"iops\": %.1f, \"mib_per_s\": %.1f, \"server_us\": %.3f, \"requests\": %llu, \"kicks\": %llu, "
           "\"calls\": %llu, \"errors\": %llu}\n",
           (double)done / seconds, (double)done * load->bytes / seconds / (1 << 20),
           done ? cpu * 1e6 / (double)done : 0, (unsigned long long)done, (unsigned long long)kicks,
           (unsigned long long)calls, (unsigned long long)errors);
    free(runners);
    free(threads);
    if (errors > 0)
        exit(1);
}

int main(int argc, char **argv)
{
    struct load load = { .bytes = 4096, .depth = 32, .queues = 1, .seconds = 2, .random = true };
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },
        { "op", required_argument, NULL, 'o' },
        { "bytes", required_argument, NULL, 'b' },
        { "depth", required_argument, NULL, 'd' },
        { "queues", required_argument, NULL, 'q' },
        { "seconds", required_argument, NULL, 't' },
        { "poll", no_argument, NULL, 'p' },
        { "pid", required_argument, NULL, 'i' },
        { 0 },
    };
    static struct fe fe;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            load.socket = optarg;
            break;
        case 'o':
            load.random = strncmp(optarg, "rand", 4) == 0;
            load.write = strstr(optarg, "write") != NULL;
            break;
        case 'b':
            load.bytes = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 'd':
            load.depth = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'q':
            load.queues = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            load.seconds = strtod(optarg, NULL);
            break;
        case 'p':
            load.poll = true;
            break;
        case 'i':
            load.pid = strtol(optarg, NULL, 0);
            break;
        default:
            return 2;
        }
    }
    if (load.socket == NULL || load.depth == 0 || load.depth > DEPTH_MAX || load.queues == 0 ||
        load.queues > FE_QUEUES_MAX || load.bytes < 512)
        fe_die("usage: vhost-load --socket PATH --op OP [--bytes N] [--depth N (64)] [--queues N (8)] [--seconds N] "
               "[--poll] [--pid N]");
    set_up(&load, &fe);
    run(&load, &fe);
    fe_close(&fe);
    return 0;
}
