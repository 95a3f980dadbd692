/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/startup/account.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static int look_up(const char *user, struct passwd **ret_entry, struct error *err)
{
    struct passwd *entry;

    errno = 0;
    entry = user[0] != '\0' ? getpwnam(user) : NULL;
    if (entry == NULL && errno != 0 && errno != ENOENT && errno != ESRCH)
        return error_set(err, -errno, "--user '%.100s': cannot look up the account: %s", user, strerror(errno));
    if (entry == NULL)
        return error_set(err, -ENOENT, "--user '%.100s': there is no such account", user);
    if (entry->pw_uid == 0 || entry->pw_gid == 0)
        return error_set(err, -EPERM, "--user '%.100s': this account is, or belongs to, root; make one that owns nothing "
                                      "else, for instance: useradd --system bulkhead",
                         user);
    *ret_entry = entry;
    return 0;
}

/* Permitted, effective and inheritable capabilities; the ambient ones go with them. */
static int drop_capabilities(struct error *err)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

    if (syscall(SYS_capset, &header, data) < 0)
        return error_set(err, -errno, "cannot give up capabilities: %s", strerror(errno));
    return 0;
}

static int change_ids(const struct passwd *entry, struct error *err)
{
    if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
        return error_set(err, -errno, "cannot switch off PR_SET_KEEPCAPS: %s", strerror(errno));
    if (initgroups(entry->pw_name, entry->pw_gid) < 0)
        return error_set(err, -errno, "cannot take the groups of account '%s': %s", entry->pw_name, strerror(errno));
    if (setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) < 0 ||
        setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid) < 0)
        return error_set(err, -errno, "cannot become account '%s': %s", entry->pw_name, strerror(errno));
    return 0;
}

/* All six ids are the account's, and root cannot be had back. */
static int check_no_way_back(uid_t uid, gid_t gid, struct error *err)
{
    uid_t uids[3];
    gid_t gids[3];

    if (getresuid(&uids[0], &uids[1], &uids[2]) < 0 || getresgid(&gids[0], &gids[1], &gids[2]) < 0)
        return error_set(err, -errno, "cannot tell who we are: %s", strerror(errno));
    for (unsigned i = 0; i < 3; i++) {
        if (uids[i] != uid || gids[i] != gid)
            return error_set(err, -EPERM, "the account was not changed as a whole");
    }
    if (setresuid(0, 0, 0) == 0 || setresgid(0, 0, 0) == 0)
        return error_set(err, -EPERM, "root could be had back, refusing to go on");
    return 0;
}

static int stay(const char *user, struct error *err)
{
    struct passwd *entry;
    int r;

    if (user == NULL)
        return 0;
    r = look_up(user, &entry, err);
    if (r == 0 && entry->pw_uid != getuid())
        r = error_set(err, -EPERM, "--user '%.100s': only root can become another account", user);
    return r;
}

int account_become(const char *user, struct error *err)
{
    struct passwd *entry;
    uid_t uids[3];
    int r;

    if (getresuid(&uids[0], &uids[1], &uids[2]) < 0)
        return error_set(err, -errno, "cannot tell who we are: %s", strerror(errno));
    if (uids[0] != 0 && uids[1] != 0 && uids[2] != 0) {
        r = stay(user, err);
        return r < 0 ? r : drop_capabilities(err);
    }
    if (user == NULL)
        return error_set(err, -EPERM, "refusing to run as root: start it as an account without privileges, or give one "
                                      "with --user NAME");
    r = look_up(user, &entry, err);
    if (r == 0)
        r = change_ids(entry, err);
    if (r == 0)
        r = drop_capabilities(err);
    if (r == 0)
        r = check_no_way_back(entry->pw_uid, entry->pw_gid, err);
    return r;
}
