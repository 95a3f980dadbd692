/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a worker ended, as a sentence for an operator.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/sandbox/filter.h"
#include "monitor/worker/worker-private.h"

static void tell_exit(int status, char *text, size_t size_bytes)
{
    if (status == 0)
        snprintf(text, size_bytes, "it exited in order");
    else if (status == 128 + SIGABRT)
        snprintf(text, size_bytes, "it called abort()");
    else
        snprintf(text, size_bytes, "it exited with status %d", status);
}

static void tell_signal(const struct worker_handle *worker, int number, char *text, size_t size_bytes)
{
    char name[64];

    if (number != SIGSYS) {
        snprintf(text, size_bytes, "it was killed by signal %d (%s)", number, strsignal(number));
    } else if (worker->blocked_nr >= 0) {
        sandbox_call_name(worker->blocked_arch, worker->blocked_nr, name, sizeof(name));
        snprintf(text, size_bytes, "its sandbox killed it: it made the system call %s, which its role does not have",
                 name);
    } else {
        snprintf(text, size_bytes,
                 "its sandbox killed it: it made a system call that its role does not have (the "
                 "kernel's audit log tells which)");
    }
}

void reason_fill(const struct worker_handle *worker, struct worker_exit *ret)
{
    int code = worker->exit_code;

    *ret = (struct worker_exit){
        .expected = worker->asked_to_go,
        .exit_status = worker->exited ? code : -1,
        .signal = worker->exited ? 0 : code,
        .blocked_nr = worker->blocked_nr,
    };
    if (worker->blocked_nr >= 0)
        sandbox_call_name(worker->blocked_arch, worker->blocked_nr, ret->blocked_call, sizeof(ret->blocked_call));
    if (worker->reason[0] != '\0') {
        snprintf(ret->text, sizeof(ret->text), "the monitor ended it: %s", worker->reason);
        return;
    }
    if (worker->exited)
        tell_exit(code, ret->text, sizeof(ret->text));
    else
        tell_signal(worker, code, ret->text, sizeof(ret->text));
}
