/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An image in a child of the opener; see image.h. Its path has been resolved to an O_PATH descriptor, which opens
 * nothing; only when that turns out to be what the driver takes is it opened, by way of /proc/self/fd, so that it
 * cannot be exchanged in between. What it names may be anything: nothing here waits at a FIFO or wakes a device of the
 * wrong type.
 */
#include "monitor/opener/image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "monitor/opener/reason.h"

static bool is_device(const struct held_image *image)
{
    return (image->flags & OPENER_DEVICE) != 0;
}

static bool is_direct(const struct held_image *image)
{
    return (image->flags & OPENER_DIRECT) != 0;
}

/* Open what fd stands for anew. The descriptor or -errno. */
static int reopen(int fd, int flags)
{
    char path[64];
    int new_fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    new_fd = open(path, flags | O_CLOEXEC | O_NOCTTY);
    return new_fd < 0 ? -errno : new_fd;
}

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "a regular file";
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFBLK:
        return "a block device";
    case S_IFCHR:
        return "a character device";
    default:
        return "something else";
    }
}

static int check_type(const struct held_image *image, mode_t mode, struct error *err)
{
    if (is_device(image) ? S_ISBLK(mode) || S_ISCHR(mode) : S_ISREG(mode))
        return 0;
    return error_set(err, -EINVAL, "'%s' is %s, but the driver '%s' takes %s%s", image->path, type_name(mode),
                     is_device(image) ? "host_device" : "file",
                     is_device(image) ? "a block or character device" : "a regular file",
                     is_device(image) || !(S_ISBLK(mode) || S_ISCHR(mode)) ? "" : " (use host_device)");
}

static int open_failed(const struct held_image *image, int path_fd, int r, bool read_only, struct error *err)
{
    if (r == -EROFS && is_device(image))
        return error_set(err, r, "Could not open '%s': the device is set read-only (set read-only or auto-read-only)",
                         image->path);
    error_set(err, r, "Could not open '%s': %s", image->path, strerror(-r));
    if (r == -EINVAL && is_direct(image))
        return error_append(err, " (its file system has no O_DIRECT: leave out cache.direct)");
    if (r == -EACCES)
        return reason_add_file(path_fd, !read_only, err);
    if (!read_only && (r == -EPERM || r == -EROFS))
        return error_append(err, " (it may not be written: set read-only or auto-read-only)");
    return r;
}

/* Non-blocking, since opening some character devices waits for a peer; for files and block devices it means nothing. */
static int access_flags(bool read_only, bool direct, bool device)
{
    return (read_only ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0) | (device ? O_NONBLOCK : 0);
}

/*
 * open() gives a descriptor for writing to a block device that is set read-only (losetup -r, blockdev --setro), and
 * then each write fails. As if open() had said so. A descriptor or -errno.
 */
static int refuse_read_only_device(int fd, bool read_only)
{
    int set_read_only = 0;

    if (fd < 0 || read_only || ioctl(fd, BLKROGET, &set_read_only) < 0 || set_read_only == 0)
        return fd;
    close(fd);
    return -EROFS;
}

static int open_for(const struct held_image *image, int path_fd, bool read_only)
{
    int fd = reopen(path_fd, access_flags(read_only, is_direct(image), is_device(image)));

    return is_device(image) ? refuse_read_only_device(fd, read_only) : fd;
}

static int open_checked(const struct held_image *image, int path_fd, bool *ret_read_only, struct error *err)
{
    bool read_only = (image->flags & OPENER_READ_ONLY) != 0;
    int fd = open_for(image, path_fd, read_only);

    if (!read_only && (image->flags & OPENER_AUTO_READ_ONLY) != 0 && (fd == -EACCES || fd == -EPERM || fd == -EROFS)) {
        read_only = true;
        fd = open_for(image, path_fd, read_only);
    }
    if (fd < 0)
        return open_failed(image, path_fd, fd, read_only, err);
    *ret_read_only = read_only;
    return fd;
}

/* What it is, is known without asking its file system. */
static int check_found(const struct held_image *image, int path_fd, struct error *err)
{
    struct statx stx;

    if (statx(path_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
        return error_set(err, -errno, "could not look at '%s': %s", image->path, strerror(errno));
    return check_type(image, stx.stx_mode, err);
}

static int decide_locking(struct held_image *image, struct opener_reply *reply, struct error *err)
{
    bool supported = image_lock_supported(image->fd);

    if ((image->flags & OPENER_MUST_LOCK) != 0 && !supported)
        return error_set(err, -ENOLCK,
                         "'%s' cannot be locked: its file system has no locks; set locking to off or auto",
                         image->path);
    reply->flags |= supported ? OPENER_HAS_LOCKS : 0;
    return 0;
}

int held_image_open(struct held_image *image, const struct opener_open *request, int path_fd,
                    struct opener_reply *reply, struct error *err)
{
    bool read_only = false;
    int r;

    image->flags = request->flags;
    memcpy(image->path, request->path, sizeof(image->path));
    r = check_found(image, path_fd, err);
    if (r == 0)
        r = image->fd = open_checked(image, path_fd, &read_only, err);
    if (r < 0)
        return r;
    reply->flags |= read_only ? OPENER_IS_READ_ONLY : 0;
    r = decide_locking(image, reply, err);
    return r == 0 ? held_image_look(image, reply, err) : r;
}

/* ---- Its size ---- */

static int size_of(const struct held_image *image, const struct stat *st, uint64_t *ret_size_bytes)
{
    off_t end;

    if (S_ISREG(st->st_mode)) {
        *ret_size_bytes = (uint64_t)st->st_size;
        return 0;
    }
    if (S_ISBLK(st->st_mode))
        return ioctl(image->fd, BLKGETSIZE64, ret_size_bytes) < 0 ? -errno : 0;
    end = lseek(image->fd, 0, SEEK_END);
    *ret_size_bytes = end < 0 ? 0 : (uint64_t)end;
    return end < 0 ? -errno : 0;
}

int held_image_look(const struct held_image *image, struct opener_reply *reply, struct error *err)
{
    struct stat st;
    uint64_t size = 0;
    int r = fstat(image->fd, &st) < 0 ? -errno : size_of(image, &st, &size);

    if (r < 0)
        return error_set(err, r, "could not get the size of '%s': %s", image->path, strerror(-r));
    if (size > INT64_MAX - 511)
        return error_set(err, -EFBIG, "'%s' is larger than any image can be", image->path);
    reply->size_bytes = size;
    reply->flags |= OPENER_HAS_SIZE;
    if (S_ISREG(st.st_mode)) {
        reply->allocated_bytes = (uint64_t)st.st_blocks * 512;
        reply->flags |= OPENER_HAS_ALLOCATED;
    }
    return 0;
}

/* ---- Locks ---- */

int held_image_lock(struct held_image *image, uint32_t uses, uint32_t unshared, struct error *err)
{
    int r = image_lock_set(&image->lock, image->fd, uses, unshared, err);

    if (r == 0 || err == NULL)
        return r;
    if (r == -EAGAIN)
        reason_add_lock_holder(image->fd, err);
    return error_prepend(err, "'%s'", image->path);
}

/* ---- Resizing ---- */

static int resize_device(const struct held_image *image, uint64_t size_bytes, struct opener_reply *reply,
                         struct error *err)
{
    int r = held_image_look(image, reply, err);

    if (r < 0)
        return r;
    if (size_bytes > reply->size_bytes)
        return error_set(err, -EINVAL, "'%s' is a device of %llu bytes and cannot be made larger from here",
                         image->path, (unsigned long long)reply->size_bytes);
    if (size_bytes < reply->size_bytes)
        return error_set(err, -EINVAL, "'%s' is a device of %llu bytes and cannot be made smaller", image->path,
                         (unsigned long long)reply->size_bytes);
    return 0;
}

int held_image_resize(struct held_image *image, const struct opener_resize *request, struct opener_reply *reply,
                      struct error *err)
{
    struct image_lock before = image->lock;
    int r;

    if (is_device(image))
        return resize_device(image, request->size_bytes, reply, err);
    r = held_image_lock(image, request->uses, request->unshared, err);
    if (r < 0)
        return r;
    if (ftruncate(image->fd, (off_t)request->size_bytes) < 0)
        r = error_set(err, -errno, "cannot resize '%s': %s", image->path, strerror(errno));
    else
        r = held_image_look(image, reply, err);
    held_image_lock(image, before.uses, before.unshared, NULL); /* giving back cannot fail */
    return r;
}

/* ---- For a worker ---- */

/*
 * What a worker may do to the image once nobody is left to ask it not to; nothing if the image is not to be locked. That
 * resizing is not shared is on our own description alone: RESIZE asks about that byte, and would find our own worker.
 */
static int pin(const struct held_image *image, bool writable, int fd, struct error *err)
{
    uint32_t uses = IMAGE_LOCK_CONSISTENT_READ | (writable ? IMAGE_LOCK_WRITE : 0);

    return image_lock_pin(fd, uses & image->lock.uses, (writable ? IMAGE_LOCK_WRITE : 0) & image->lock.unshared, err);
}

int held_image_open_for_worker(const struct held_image *image, bool writable, int *ret_fd, struct error *err)
{
    int flags = access_flags(!writable, is_direct(image), is_device(image));
    _cleanup_close_ int fd = reopen(image->fd, flags | O_NOATIME);
    int r;

    /* The owner's right. Nobody reads an image's time of access, and to look after it costs small reads 3 %. */
    if (fd == -EPERM)
        fd = reopen(image->fd, flags);
    if (fd < 0)
        return error_set(err, fd, "Could not open '%s' again for the export: %s", image->path, strerror(-fd));
    r = pin(image, writable, fd, err);
    if (r < 0)
        return error_prepend(err, "'%s'", image->path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}
