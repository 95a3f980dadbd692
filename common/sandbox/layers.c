/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How each layer is put in force and how it is measured. Raw system calls where the C library has no wrapper; libcap is
 * not worth a library in every worker.
 */
#include "common/sandbox/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/sandbox/landlock.h"

/* ---- Ids ---- */

static int write_file(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

static int write_map(const char *path, uint32_t id)
{
    char line[32];

    snprintf(line, sizeof(line), "0 %u 1\n", id);
    return write_file(path, line);
}

/* A process may map its own ids without privilege once it has given up setgroups(2). */
int sandbox_map_ids(const struct sandbox_ids *ids)
{
    int r = write_file("/proc/self/setgroups", "deny");

    if (r == 0)
        r = write_map("/proc/self/uid_map", ids->uid);
    if (r == 0)
        r = write_map("/proc/self/gid_map", ids->gid);
    return r;
}

/* ---- Empty root ---- */

/*
 * Where a temporary file system can be mounted for a moment; the first one that exists will do, it is in our own mount
 * namespace. Both are there on every system that runs the monitor: it reads /proc.
 */
static const char *const mount_points[] = { "/proc", "/tmp" };

static int mount_empty(const char **ret_path)
{
    int code = -ENOENT;

    for (unsigned i = 0; i < ARRAY_SIZE(mount_points); i++) {
        if (mount("bulkhead-empty", mount_points[i], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
                  "size=4k,nr_inodes=2,mode=0555") == 0) {
            *ret_path = mount_points[i];
            return 0;
        }
        code = -errno;
    }
    return code;
}

int layer_enforce_empty_root(struct sandbox *sandbox, struct error *err)
{
    const char *path = NULL;
    int r;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return error_set(err, -errno, "cannot make mounts private: %s", strerror(errno));
    r = mount_empty(&path);
    if (r < 0)
        return error_set(err, r, "cannot mount an empty file system: %s", strerror(-r));
    if (chdir(path) < 0)
        return error_set(err, -errno, "cannot enter the empty file system: %s", strerror(errno));
    /* pivot_root(2), "pivot_root(\".\", \".\")": the old root ends up on top of the new one and is then let go. */
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return error_set(err, -errno, "cannot change the root: %s", strerror(errno));
    if (umount2(".", MNT_DETACH) < 0)
        return error_set(err, -errno, "cannot let go of the old root: %s", strerror(errno));
    if (chdir("/") < 0)
        return error_set(err, -errno, "cannot enter the new root: %s", strerror(errno));
    return 0;
}

static void close_dir(DIR **dir)
{
    if (*dir != NULL)
        closedir(*dir);
}

bool layer_observe_empty_root(const struct sandbox *sandbox)
{
    _cleanup_(close_dir) DIR *dir = opendir("/");
    struct dirent *entry;
    struct statvfs fs;

    if (dir == NULL || statvfs("/", &fs) < 0 || (fs.f_flag & ST_RDONLY) == 0)
        return false;
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return false;
    return true;
}

/* ---- Capabilities ---- */

struct capabilities {
    struct __user_cap_data_struct words[_LINUX_CAPABILITY_U32S_3];
};

static int capabilities_set(const struct capabilities *caps)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

    return syscall(SYS_capset, &header, caps->words) < 0 ? -errno : 0;
}

static int capabilities_get(struct capabilities *ret)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

    return syscall(SYS_capget, &header, ret->words) < 0 ? -errno : 0;
}

static bool has_capability(const struct capabilities *caps, unsigned cap)
{
    return (caps->words[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap)) != 0;
}

bool sandbox_keep_capabilities(void)
{
    struct capabilities caps;

    if (capabilities_get(&caps) < 0)
        return false;
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        caps.words[i].inheritable = caps.words[i].permitted;
    if (capabilities_set(&caps) < 0)
        return false;
    for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
            return false;
    return true;
}

int layer_enforce_no_capabilities(struct sandbox *sandbox, struct error *err)
{
    const struct capabilities none = { 0 };
    struct capabilities now;
    int r = capabilities_get(&now);

    if (r < 0)
        return error_set(err, r, "cannot read capabilities: %s", strerror(-r));
    if (has_capability(&now, CAP_SETPCAP)) {
        /* capabilities(7): uid 0 means nothing, ambient ones cannot come, and none of it can be undone. */
        if (prctl(PR_SET_SECUREBITS,
                  SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
                      SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
                  0, 0, 0) < 0)
            return error_set(err, -errno, "cannot set the secure bits: %s", strerror(errno));
        for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
            if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                return error_set(err, -errno, "cannot drop capability %u from the bounding set: %s", cap,
                                 strerror(errno));
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    r = capabilities_set(&none);
    if (r < 0)
        return error_set(err, r, "cannot drop capabilities: %s", strerror(-r));
    return 0;
}

/*
 * Nothing is held, and nothing can be gained: the bounding set is empty too, or (without a user namespace of its own a
 * process may not empty it) no_new_privs, required of every role, stands in its way.
 */
bool layer_observe_no_capabilities(const struct sandbox *sandbox)
{
    struct capabilities now;

    if (capabilities_get(&now) < 0)
        return false;
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        if ((now.words[i].effective | now.words[i].permitted | now.words[i].inheritable) != 0)
            return false;
    if ((sandbox->observed & IPC_LAYER_USER_NS) == 0)
        return true;
    for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != 0)
            return false;
    return true;
}

/* ---- no_new_privs, dumpable ---- */

int layer_enforce_no_new_privs(struct sandbox *sandbox, struct error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_set(err, -errno, "cannot set no_new_privs: %s", strerror(errno));
    return 0;
}

bool layer_observe_no_new_privs(const struct sandbox *sandbox)
{
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

int layer_enforce_non_dumpable(struct sandbox *sandbox, struct error *err)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return error_set(err, -errno, "cannot make the process non-dumpable: %s", strerror(errno));
    return 0;
}

bool layer_observe_non_dumpable(const struct sandbox *sandbox)
{
    return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0;
}

/* ---- Resource limits ---- */

static bool limit_applies(const struct sandbox *sandbox, const struct sandbox_rlimit *row)
{
    return !row->needs_user_ns || (sandbox->observed & IPC_LAYER_USER_NS) != 0;
}

static int enforce_rlimits(struct sandbox *sandbox, bool late, struct error *err)
{
    for (unsigned i = 0; i < sandbox->role->rlimit_count; i++) {
        const struct sandbox_rlimit *row = &sandbox->role->rlimits[i];
        struct rlimit limit;

        if (row->late != late || !limit_applies(sandbox, row))
            continue;
        if (getrlimit(row->resource, &limit) < 0)
            return error_set(err, -errno, "cannot read resource limit %d: %s", row->resource, strerror(errno));
        if (row->part != 0)
            limit.rlim_max /= row->part;
        limit.rlim_max = MIN(limit.rlim_max, row->value);
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(row->resource, &limit) < 0)
            return error_set(err, -errno, "cannot set resource limit %d: %s", row->resource, strerror(errno));
    }
    return 0;
}

int layer_enforce_rlimits_early(struct sandbox *sandbox, struct error *err)
{
    return enforce_rlimits(sandbox, false, err);
}

int layer_enforce_rlimits_late(struct sandbox *sandbox, struct error *err)
{
    return enforce_rlimits(sandbox, true, err);
}

bool layer_observe_rlimits(const struct sandbox *sandbox)
{
    for (unsigned i = 0; i < sandbox->role->rlimit_count; i++) {
        const struct sandbox_rlimit *row = &sandbox->role->rlimits[i];
        struct rlimit limit;

        if (!limit_applies(sandbox, row))
            continue;
        if (getrlimit(row->resource, &limit) < 0 || limit.rlim_cur > row->value || limit.rlim_max > row->value)
            return false;
    }
    return true;
}

/* ---- Landlock ---- */

int layer_enforce_landlock(struct sandbox *sandbox, struct error *err)
{
    return landlock_restrict_all(&sandbox->landlock_abi, err);
}

/* The root directory is there, as chdir() to it shows, and yet it cannot be opened. */
bool layer_observe_landlock(const struct sandbox *sandbox)
{
    _cleanup_close_ int fd = -1;

    if (chdir("/") < 0)
        return false;
    fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 && errno == EACCES;
}
