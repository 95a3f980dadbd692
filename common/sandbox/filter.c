/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Turns the call sets of a role into a libseccomp filter. It decides nothing: the table says what is allowed, and what
 * happens to the rest. Other architectures and x32 are killed.
 */
#include "common/sandbox/filter.h"

#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* KILL_PROCESS and TSYNC: libseccomp's API level 3, Linux 4.14. */
#define API_LEVEL_NEEDED 3

static uint32_t scmp_action(enum sandbox_action action)
{
    switch (action) {
    case SANDBOX_ALLOW:
        return SCMP_ACT_ALLOW;
    case SANDBOX_TRAP:
        return SCMP_ACT_TRAP;
    case SANDBOX_REFUSE:
        return SCMP_ACT_ERRNO(EACCES);
    case SANDBOX_ABSENT:
        return SCMP_ACT_ERRNO(ENOSYS);
    case SANDBOX_KILL:
        break;
    }
    return SCMP_ACT_KILL_PROCESS;
}

static void release_filter(scmp_filter_ctx *ctx)
{
    if (*ctx != NULL)
        seccomp_release(*ctx);
}

static int add_call(scmp_filter_ctx ctx, uint32_t action, const struct sandbox_call *call, struct error *err)
{
    int nr = seccomp_syscall_resolve_name(call->name);
    unsigned count = call->op == 0 ? 0 : 1 + (call->also_arg != 0);
    struct scmp_arg_cmp cmp[2] = {
        { .arg = call->arg, .op = (enum scmp_compare)call->op, .datum_a = call->value_a, .datum_b = call->value_b },
        { .arg = call->also_arg, .op = SCMP_CMP_EQ, .datum_a = call->also_value },
    };
    int r;

    if (nr == __NR_SCMP_ERROR)
        return error_set(err, -ENOSYS, "libseccomp does not know the system call '%s'", call->name);
    if (nr < 0) /* not on this architecture */
        return 0;
    if (call->op == SANDBOX_EQ_SELF) {
        cmp[0].op = SCMP_CMP_EQ;
        cmp[0].datum_a = (scmp_datum_t)getpid();
    }
    r = seccomp_rule_add_array(ctx, action, nr, count, cmp);
    if (r < 0)
        return error_set(err, r, "cannot add '%s' to the seccomp filter: %s", call->name, strerror(-r));
    return 0;
}

static int add_set(scmp_filter_ctx ctx, const struct sandbox_call_set *set, enum sandbox_action default_action,
                   struct error *err)
{
    int r = 0;

    if (set->action == default_action) /* libseccomp refuses rules that say what the default says */
        return 0;
    for (unsigned i = 0; i < set->count && r == 0; i++)
        r = add_call(ctx, scmp_action(set->action), &set->calls[i], err);
    return r;
}

static int set_attributes(scmp_filter_ctx ctx, struct error *err)
{
    static const struct {
        enum scmp_filter_attr attr;
        uint32_t value;
    } attributes[] = {
        { SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS },
        { SCMP_FLTATR_CTL_NNP, 1 },
        { SCMP_FLTATR_CTL_TSYNC, 1 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(attributes); i++) {
        int r = seccomp_attr_set(ctx, attributes[i].attr, attributes[i].value);

        if (r < 0)
            return error_set(err, r, "cannot set attribute %d of the seccomp filter: %s", attributes[i].attr,
                             strerror(-r));
    }
    /* A binary tree over the numbers instead of a list; only speed, hence not an error where it is missing. */
    seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    return 0;
}

static int build(const struct sandbox_role *role, bool log_only, scmp_filter_ctx *ret_ctx, struct error *err)
{
    enum sandbox_action default_action = role->default_action;
    _cleanup_(release_filter) scmp_filter_ctx ctx = NULL;
    int r;

    if (seccomp_api_get() < API_LEVEL_NEEDED)
        return error_set(err, -ENOSYS, "this kernel's seccomp cannot kill a process (libseccomp API level %u)",
                         seccomp_api_get());
    ctx = seccomp_init(log_only ? SCMP_ACT_LOG : scmp_action(default_action));
    if (ctx == NULL)
        return error_set(err, -ENOMEM, "cannot create a seccomp filter");
    r = set_attributes(ctx, err);
    for (unsigned i = 0; role->call_sets[i] != NULL && r == 0; i++)
        if (!log_only || role->call_sets[i]->action == SANDBOX_ALLOW)
            r = add_set(ctx, role->call_sets[i], default_action, err);
    if (r < 0)
        return r;
    *ret_ctx = TAKE_PTR(ctx);
    return 0;
}

int sandbox_filter_load(const struct sandbox_role *role, bool log_only, struct error *err)
{
    _cleanup_(release_filter) scmp_filter_ctx ctx = NULL;
    int r = build(role, log_only, &ctx, err);

    if (r < 0)
        return r;
    r = seccomp_load(ctx);
    if (r < 0)
        return error_set(err, r, "cannot install the seccomp filter: %s", strerror(-r));
    return 0;
}

int sandbox_filter_export(const struct sandbox_role *role, int fd, struct error *err)
{
    _cleanup_(release_filter) scmp_filter_ctx ctx = NULL;
    int r = build(role, false, &ctx, err);

    if (r < 0)
        return r;
    r = seccomp_export_bpf(ctx, fd);
    if (r < 0)
        return error_set(err, r, "cannot write the seccomp filter: %s", strerror(-r));
    return 0;
}

void sandbox_call_name(uint32_t arch, int nr, char *text, size_t size_bytes)
{
    _cleanup_free_ char *name = seccomp_syscall_resolve_num_arch(arch, nr);

    if (name != NULL)
        snprintf(text, size_bytes, "%s", name);
    else
        snprintf(text, size_bytes, "number %d", nr);
}
