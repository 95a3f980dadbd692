/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Why not: what bars the way to a path, who holds a lock. Only after something has failed, in the child whom it
 * concerns; all that is looked at is what the account may look at anyway.
 */
#include "monitor/opener/reason.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOOK_MAX_NS UINT64_C(1000000000) /* at other processes, for who holds a lock */

/* ---- Accounts ---- */

/* The name of an account, from the file alone: libraries that ask elsewhere are not for a process like this one. */
static bool find_account(uid_t uid, char *name, size_t size)
{
    FILE *file = fopen("/etc/passwd", "re");
    char line[1024];
    bool found = false;

    while (!found && file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char *rest = line;
        const char *login = strsep(&rest, ":");
        const char *id = strsep(&rest, ":") != NULL ? strsep(&rest, ":") : NULL;

        found = id != NULL && strtoul(id, NULL, 10) == uid && (size_t)snprintf(name, size, "'%s', ", login) < size;
    }
    if (file != NULL)
        fclose(file);
    return found;
}

static void describe_account(uid_t uid, char *text, size_t size)
{
    char name[64];

    snprintf(text, size, "%suid %u", find_account(uid, name, sizeof(name)) ? name : "", (unsigned)uid);
}

/* ---- Paths ---- */

int reason_add_folder(const char *path, struct error *err)
{
    char folder[OPENER_PATH_MAX];
    char account[96];

    describe_account(geteuid(), account, sizeof(account));
    for (const char *at = strchr(path + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
        snprintf(folder, sizeof(folder), "%.*s", (int)(at - path), path);
        if (faccessat(AT_FDCWD, folder, X_OK, AT_EACCESS) == 0 || errno != EACCES)
            continue;
        return error_append(err, " (the folder '%.200s' does not let the account %s through)", folder, account);
    }
    return err->code;
}

int reason_add_file(int path_fd, bool write, struct error *err)
{
    char self[64];
    char account[96], owner[96];
    struct statx stx;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", path_fd);
    if (write && faccessat(AT_FDCWD, self, R_OK, AT_EACCESS) == 0)
        return error_append(err, " (it may not be written: set read-only or auto-read-only)");
    if (statx(path_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &stx) < 0)
        return err->code;
    describe_account(geteuid(), account, sizeof(account));
    describe_account(stx.stx_uid, owner, sizeof(owner));
    return error_append(err, " (the account %s may not read it: it belongs to %s, gid %u, and has mode %04o)", account,
                        owner, stx.stx_gid, stx.stx_mode & 07777u);
}

/* ---- Locks ---- */

/* Whether a line of fdinfo is a lock of ours or QEMU's kind on that inode. proc(5), /proc/pid/fdinfo and /proc/locks.
 */
static bool is_image_lock(const char *line, const struct stat *st)
{
    unsigned major, minor;
    unsigned long long inode, start;

    if (sscanf(line, "lock: %*u: OFDLCK %*s %*s %*d %x:%x:%llu %llu", &major, &minor, &inode, &start) != 4)
        return false;
    return makedev(major, minor) == st->st_dev && inode == st->st_ino &&
           ((start >= 100 && start < 100 + IMAGE_LOCK_PERMISSIONS) ||
            (start >= 200 && start < 200 + IMAGE_LOCK_PERMISSIONS));
}

static bool has_image_lock(int folder, const char *fd, const struct stat *st)
{
    int info = openat(folder, fd, O_RDONLY | O_CLOEXEC);
    FILE *file = info >= 0 ? fdopen(info, "r") : NULL;
    char line[256];
    bool found = false;

    if (file == NULL) {
        close_fd(&info);
        return false;
    }
    while (!found && fgets(line, sizeof(line), file) != NULL)
        found = is_image_lock(line, st);
    fclose(file);
    return found;
}

static bool holds_lock(const char *pid, const struct stat *st)
{
    char path[64];
    DIR *infos;
    const struct dirent *entry;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%.20s/fdinfo", pid);
    infos = opendir(path);
    if (infos == NULL)
        return false;
    while (!found && (entry = readdir(infos)) != NULL)
        found = isdigit((unsigned char)entry->d_name[0]) && has_image_lock(dirfd(infos), entry->d_name, st);
    closedir(infos);
    return found;
}

static int add_holder(const char *pid, struct error *err)
{
    char path[64];
    char command[64] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
    file = fopen(path, "re");
    if (file != NULL) {
        if (fgets(command, sizeof(command), file) != NULL)
            command[strcspn(command, "\n")] = '\0';
        fclose(file);
    }
    return error_append(err, "; it is process %.20s%s%s%s", pid, command[0] != '\0' ? " (" : "", command,
                        command[0] != '\0' ? ")" : "");
}

int reason_add_lock_holder(int fd, struct error *err)
{
    uint64_t end_ns = now_ns() + LOOK_MAX_NS;
    DIR *processes = opendir("/proc");
    const struct dirent *entry;
    struct stat st;
    int r = err->code;

    if (processes == NULL || fstat(fd, &st) < 0) {
        if (processes != NULL)
            closedir(processes);
        return r;
    }
    while ((entry = readdir(processes)) != NULL && now_ns() < end_ns) {
        if (!isdigit((unsigned char)entry->d_name[0]) || strtol(entry->d_name, NULL, 10) == getpid() ||
            !holds_lock(entry->d_name, &st))
            continue;
        r = add_holder(entry->d_name, err);
        break;
    }
    closedir(processes);
    return r;
}
