/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See socket-access.h. The folder may be one where others may write: what is given away is the file that bind() has
 * made, held by a descriptor, and never what a path leads to.
 */
#include "monitor/qmp/socket-access.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor/qmp/schema-scalar.h"

static int parse_mode(const char *text, mode_t *ret_mode, struct error *err)
{
    size_t digits = strspn(text, "01234567");
    unsigned long mode = strtoul(text, NULL, 8);

    if (digits < 3 || digits > 4 || text[digits] != '\0' || mode > 0777)
        return error_set(err, -EINVAL,
                         "Parameter '__org.bulkhead_mode' expects an octal mode such as 0660, not '%.32s'", text);
    *ret_mode = (mode_t)mode;
    return 0;
}

/* By the file alone: other sources of groups may be far away and keep us waiting. */
static bool find_group(const char *name, gid_t *ret_group)
{
    FILE *file = fopen("/etc/group", "re");
    struct group *entry = NULL;

    while (file != NULL && (entry = fgetgrent(file)) != NULL && strcmp(entry->gr_name, name) != 0)
        ;
    if (entry != NULL)
        *ret_group = entry->gr_gid;
    if (file != NULL)
        fclose(file);
    return entry != NULL;
}

static int parse_group(const char *text, gid_t *ret_group, struct error *err)
{
    bool negative = false;
    uint64_t number;

    if (scalar_parse_int(text, &negative, &number) && !negative && number < UINT32_MAX) {
        *ret_group = (gid_t)number;
        return 0;
    }
    if (find_group(text, ret_group))
        return 0;
    return error_set(err, -ENOENT, "Parameter '__org.bulkhead_group': there is no group '%.64s' in /etc/group", text);
}

int socket_access_parse(const struct unix_socket_address *addr, struct socket_access *ret, struct error *err)
{
    struct socket_access access = { .has_mode = addr->mode != NULL, .has_group = addr->group != NULL };
    int r = 0;

    if (addr->abstract && (access.has_mode || access.has_group))
        return error_set(err, -EINVAL, "a name in the abstract namespace has neither mode nor group");
    if (access.has_mode)
        r = parse_mode(addr->mode, &access.mode, err);
    if (r == 0 && access.has_group)
        r = parse_group(addr->group, &access.group, err);
    *ret = access;
    return r;
}

mode_t socket_access_begin(const struct socket_access *access)
{
    return access->has_mode ? umask(0777 & ~access->mode) : 0;
}

void socket_access_end(const struct socket_access *access, mode_t before)
{
    if (access->has_mode)
        umask(before);
}

int socket_access_give(const struct socket_access *access, const char *path, struct error *err)
{
    _cleanup_close_ int fd = access->has_group ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
    struct stat st;

    if (!access->has_group)
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, -errno, "cannot look at the socket %s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
        return error_set(err, -EEXIST, "%s has been replaced by something else", path);
    if (fchownat(fd, "", (uid_t)-1, access->group, AT_EMPTY_PATH) < 0)
        return error_set(err, -errno, "cannot give the socket %s to group %u: %s%s", path, (unsigned)access->group,
                         strerror(errno), errno == EPERM ? ": the account is no member of it" : "");
    return 0;
}
