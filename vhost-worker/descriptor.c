/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See descriptor.h. F_GET_SEALS is answered for shmem and hugetlbfs only; statx() without a sync takes what the inode
 * in memory has. A file system with a server (FUSE, NFS, 9p) has no block device, so its device number has no major;
 * nor have tmpfs, which is known by then, overlayfs, through which one gets at a FUSE file as well, and btrfs, which
 * tells itself by the type of its file handles.
 *
 * Objects of the kernel have no type of file. Some ask others when they are waited for: an epoll all that is in it, a
 * file of FUSE too. So they must read and write, as an eventfd does, and neither epoll, io_uring, pidfd, timerfd,
 * signalfd nor userfaultfd does. They are told to move nothing, which the kernel answers before it calls the object.
 */
#include "vhost-worker/descriptor.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define BTRFS_HANDLE_FIRST 0x4d /* FILEID_BTRFS_WITHOUT_PARENT, _WITH_PARENT, _WITH_PARENT_ROOT */
#define BTRFS_HANDLE_LAST  0x4f
#define HANDLE_BYTES       128u /* MAX_HANDLE_SZ */

static bool is_on_btrfs(int fd)
{
    union {
        struct file_handle handle;
        char bytes[sizeof(struct file_handle) + HANDLE_BYTES];
    } buffer = { .handle = { .handle_bytes = HANDLE_BYTES } };
    int mount_id;

    return name_to_handle_at(fd, "", &buffer.handle, &mount_id, AT_EMPTY_PATH) == 0 &&
           buffer.handle.handle_type >= BTRFS_HANDLE_FIRST && buffer.handle.handle_type <= BTRFS_HANDLE_LAST;
}

static bool reads_and_writes(int fd)
{
    return readv(fd, NULL, 0) == 0 && writev(fd, NULL, 0) == 0;
}

enum vhost_descriptor vhost_descriptor_kind(int fd)
{
    struct statx stx;

    if (fcntl(fd, F_GET_SEALS) >= 0)
        return VHOST_DESCRIPTOR_MEMORY;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &stx) < 0)
        return VHOST_DESCRIPTOR_OTHER;
    if ((stx.stx_mode & S_IFMT) == 0)
        return reads_and_writes(fd) ? VHOST_DESCRIPTOR_EVENT : VHOST_DESCRIPTOR_OTHER;
    if (S_ISFIFO(stx.stx_mode) || S_ISSOCK(stx.stx_mode))
        return VHOST_DESCRIPTOR_STREAM;
    if (S_ISREG(stx.stx_mode) && (stx.stx_dev_major != 0 || is_on_btrfs(fd)))
        return VHOST_DESCRIPTOR_MEMORY;
    return VHOST_DESCRIPTOR_OTHER;
}
