/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A worker of the nbd-export role for tests/unit/test_worker.c: the real harness and the real sandbox, and what it does
 * in them is said by its export id.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/ipc/status.h"
#include "common/worker/worker.h"

struct stub {
    struct worker *worker;
    struct io_task task;
};

/* ---- What it may be told to do after lock-down, before READY ---- */

static void do_fail(struct worker *worker, struct error *err)
{
    error_set(err, -ENOMEDIUM, "there is \x1b[31mnothing\n to serve");
}

static void do_crash(struct worker *worker, struct error *err)
{
    static int *volatile nowhere;

    *nowhere = 1;
}

static void do_hang(struct worker *worker, struct error *err)
{
    for (;;) {
        struct timespec hour = { .tv_sec = 3600 };

        nanosleep(&hour, NULL);
    }
}

static void do_exit(struct worker *worker, struct error *err)
{
    _exit(7);
}

static void do_abort(struct worker *worker, struct error *err)
{
    abort();
}

static void do_attack(struct worker *worker, struct error *err)
{
    socket(AF_UNIX, SOCK_STREAM, 0);
}

static void do_sysinfo(struct worker *worker, struct error *err)
{
    syscall(SYS_sysinfo, NULL);
}

static void do_short_record(struct worker *worker, struct error *err)
{
    if (write(4, "short", 5) != 5)
        _exit(9);
    do_hang(worker, err);
}

static void write_record(uint32_t type)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = type;
    status_write(4, &status);
}

static void do_wrong_type(struct worker *worker, struct error *err)
{
    write_record(77);
    do_hang(worker, err);
}

static void do_wrong_state(struct worker *worker, struct error *err)
{
    write_record(IPC_STATUS_CLIENT_GONE);
    do_hang(worker, err);
}

static void do_ready_without_layers(struct worker *worker, struct error *err)
{
    write_record(IPC_STATUS_READY);
    do_hang(worker, err);
}

/* The rings have it as well. */
static void do_close_pipe(struct worker *worker, struct error *err)
{
    io_engine_release_files(worker->engine);
    close(4);
    do_hang(worker, err);
}

static void do_shut_control(struct worker *worker, struct error *err)
{
    shutdown(3, SHUT_RDWR);
    do_hang(worker, err);
}

static void do_stop_reading_control(struct worker *worker, struct error *err)
{
    shutdown(3, SHUT_RD);
    do_hang(worker, err);
}

static void do_stop_writing_control(struct worker *worker, struct error *err)
{
    shutdown(3, SHUT_WR);
    do_hang(worker, err);
}

static void do_write_control(struct worker *worker, struct error *err)
{
    if (send(3, "hello", 5, 0) != 5)
        _exit(9);
    do_hang(worker, err);
}

static void do_flood(struct worker *worker, struct error *err)
{
    for (unsigned i = 0; i < 2000; i++)
        log_info("line %u", i);
}

static void report_io_errors(struct worker *worker)
{
    struct block_request req = { .op = BLOCK_OP_WRITE };

    for (unsigned i = 0; i < 1000; i++)
        worker_report_io_error(worker, &req, 4096, 512, -ENOSPC);
}

/* As a worker that has been taken over: without the limit that worker_report_io_error() keeps. */
static void flood_with_io_errors(void)
{
    struct ipc_status status;

    memset(&status, 0, sizeof(status));
    status.magic = IPC_MAGIC;
    status.type = IPC_STATUS_IO_ERROR;
    status.io_error.code = -EIO;
    for (unsigned i = 0; i < 2000; i++)
        while (status_write(4, &status) == -EAGAIN)
            sched_yield();
}

/* Everything of the C library that is used after lock-down, from an I/O thread, in sizes that make it ask the kernel.
 */
static void use_libc(struct io_task *task)
{
    struct stub *stub = container_of(task, struct stub, task);
    struct timespec ts = { .tv_nsec = 1000 };
    void *blocks[256];
    char text[128];

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++) {
            blocks[i] = malloc((size_t)1 << (4 + i % 20));
            memset(blocks[i], 1, (size_t)1 << (4 + i % 20));
        }
        for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
            blocks[i] = realloc(blocks[i], (size_t)3 << (4 + i % 20));
        for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
            free(blocks[i]);
    }
    clock_gettime(CLOCK_REALTIME, &ts);
    ts = (struct timespec){ .tv_nsec = 1000 };
    nanosleep(&ts, NULL);
    snprintf(text, sizeof(text), "%s %m %.3f", strerror(EIO), 1.5);
    log_info("libc worked");
    worker_exit(stub->worker);
}

static void do_libc(struct worker *worker, struct error *err)
{
    struct stub *stub = worker->role_state;

    stub->task.run = use_libc;
    io_loop_post(worker->io_threads[0].loop, &stub->task);
}

static const struct {
    const char *id;
    void (*run)(struct worker *worker, struct error *err);
} acts[] = {
    { "fail", do_fail },
    { "crash", do_crash },
    { "hang", do_hang },
    { "exit", do_exit },
    { "abort", do_abort },
    { "attack", do_attack },
    { "sysinfo", do_sysinfo },
    { "short-record", do_short_record },
    { "wrong-type", do_wrong_type },
    { "wrong-state", do_wrong_state },
    { "ready-without-layers", do_ready_without_layers },
    { "close-pipe", do_close_pipe },
    { "shut-control", do_shut_control },
    { "stop-reading-control", do_stop_reading_control },
    { "stop-writing-control", do_stop_writing_control },
    { "write-control", do_write_control },
    { "flood", do_flood },
    { "libc", do_libc },
};

static int stub_start(struct worker *worker, struct error *err)
{
    err->code = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(acts); i++)
        if (strcmp(worker->boot.export_id, acts[i].id) == 0)
            acts[i].run(worker, err);
    return err->code;
}

/* ---- While running ---- */

static int stub_setup(struct worker *worker, struct error *err)
{
    static struct stub stub;

    stub.worker = worker;
    worker->role_state = &stub;
    return 0;
}

static void stub_drain(struct worker *worker)
{
    if (strcmp(worker->boot.export_id, "ignore-drain") != 0)
        worker_exit(worker);
}

/* Answers each client with what it got; some serials are its undoing. */
static int stub_client(struct worker *worker, const void *message, int *fds)
{
    const struct ipc_client *client = message;
    struct ipc_status status = { .type = IPC_STATUS_CLIENT_GONE };

    if (client->negotiated.export_serial == 13)
        do_crash(worker, NULL);
    if (client->negotiated.export_serial == 14)
        return -EPROTO;
    if (client->negotiated.export_serial == 15)
        report_io_errors(worker);
    if (client->negotiated.export_serial == 16)
        flood_with_io_errors();
    status.client_gone.client_id = client->negotiated.client_id;
    snprintf(status.client_gone.text, sizeof(status.client_gone.text), "%s\x1b",
             write(fds[0], "hello", 5) == 5 ? "served" : "lost");
    worker_report(worker, &status);
    return 0;
}

static const struct worker_message messages[] = {
    { IPC_CLIENT, stub_client },
};

int main(int argc, char **argv)
{
    static const struct worker_class class = {
        .ipc_role = IPC_ROLE_NBD_EXPORT,
        .setup = stub_setup,
        .start = stub_start,
        .drain = stub_drain,
        .messages = messages,
        .message_count = ARRAY_SIZE(messages),
    };

    return worker_main(argc, argv, &class);
}
