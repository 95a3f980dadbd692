/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image files; see image.h. A path is first resolved to an O_PATH descriptor, which opens nothing; only when that turns
 * out to be what the driver takes is it opened, by way of /proc/self/fd, so that it cannot be exchanged in between.
 */
#include "monitor/graph/image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

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

static int check_type(const struct image_options *options, mode_t mode, struct error *err)
{
    if (options->device ? S_ISBLK(mode) || S_ISCHR(mode) : S_ISREG(mode))
        return 0;
    return error_set(err, -EINVAL, "'%s' is %s, but the driver '%s' takes %s%s", options->filename, type_name(mode),
                     options->device ? "host_device" : "file",
                     options->device ? "a block or character device" : "a regular file",
                     options->device || !(S_ISBLK(mode) || S_ISCHR(mode)) ? "" : " (use host_device)");
}

static int open_failed(const struct image_options *options, int r, bool read_only, struct error *err)
{
    const char *hint = "";

    if (r == -EINVAL && options->direct)
        hint = " (its file system has no O_DIRECT: leave out cache.direct)";
    else if (r == -EROFS && options->device)
        return error_set(err, r, "could not open '%s': the device is set read-only (set read-only or auto-read-only)",
                         options->filename);
    else if (!read_only && (r == -EACCES || r == -EPERM || r == -EROFS))
        hint = " (it may not be written: set read-only or auto-read-only)";
    return error_set(err, r, "could not open '%s': %s%s", options->filename, strerror(-r), hint);
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

static int open_for(const struct image_options *options, int path_fd, bool read_only)
{
    int fd = reopen(path_fd, access_flags(read_only, options->direct, options->device));

    return options->device ? refuse_read_only_device(fd, read_only) : fd;
}

static int open_checked(const struct image_options *options, int path_fd, bool *ret_read_only, struct error *err)
{
    bool read_only = options->read_only;
    int fd = open_for(options, path_fd, read_only);

    if (!read_only && options->auto_read_only && (fd == -EACCES || fd == -EPERM || fd == -EROFS)) {
        read_only = true;
        fd = open_for(options, path_fd, read_only);
    }
    if (fd < 0)
        return open_failed(options, fd, read_only, err);
    *ret_read_only = read_only;
    return fd;
}

static int open_path(const struct image_options *options, bool *ret_read_only, struct error *err)
{
    _cleanup_close_ int path_fd = open(options->filename, O_PATH | O_CLOEXEC);
    struct stat st;
    int r;

    if (path_fd < 0)
        return error_set(err, -errno, "could not open '%s': %s", options->filename, strerror(errno));
    if (fstat(path_fd, &st) < 0)
        return error_set(err, -errno, "could not look at '%s': %s", options->filename, strerror(errno));
    r = check_type(options, st.st_mode, err);
    if (r < 0)
        return r;
    return open_checked(options, path_fd, ret_read_only, err);
}

static int decide_locking(struct image *image, const struct image_options *options, struct error *err)
{
    bool supported = image_lock_supported(image->fd);

    if (options->locking == ON_OFF_AUTO_ON && !supported)
        return error_set(err, -ENOLCK,
                         "'%s' cannot be locked: its file system has no locks; set locking to off or auto",
                         image->filename);
    image->locked = options->locking != ON_OFF_AUTO_OFF && supported;
    return 0;
}

int image_open(const struct image_options *options, struct image **ret_image, struct error *err)
{
    struct image *image = calloc(1, sizeof(*image));
    uint64_t size;
    int r;

    if (image == NULL || (image->fd = -1, image->filename = strdup(options->filename)) == NULL) {
        free(image);
        return error_set(err, -ENOMEM, "out of memory");
    }
    image->device = options->device;
    image->direct = options->direct;
    image->force_share = options->force_share;
    r = image->fd = open_path(options, &image->read_only, err);
    if (r >= 0)
        r = decide_locking(image, options, err);
    if (r >= 0)
        r = image_size(image, &size, err);
    if (r < 0) {
        image_close(image);
        return r;
    }
    *ret_image = image;
    return 0;
}

void image_close(struct image *image)
{
    if (image == NULL)
        return;
    close_fd(&image->fd);
    free(image->filename);
    free(image);
}

int image_size(const struct image *image, uint64_t *ret_size_bytes, struct error *err)
{
    struct stat st;
    uint64_t size = 0;
    off_t end;

    if (fstat(image->fd, &st) < 0)
        return error_set(err, -errno, "could not look at '%s': %s", image->filename, strerror(errno));
    if (S_ISREG(st.st_mode)) {
        size = (uint64_t)st.st_size;
    } else if (S_ISBLK(st.st_mode)) {
        if (ioctl(image->fd, BLKGETSIZE64, &size) < 0)
            return error_set(err, -errno, "could not get the size of '%s': %s", image->filename, strerror(errno));
    } else {
        end = lseek(image->fd, 0, SEEK_END);
        if (end < 0)
            return error_set(err, -errno, "could not get the size of '%s': %s", image->filename, strerror(errno));
        size = (uint64_t)end;
    }
    if (size > INT64_MAX - 511)
        return error_set(err, -EFBIG, "'%s' is larger than any image can be", image->filename);
    *ret_size_bytes = size;
    return 0;
}

static int resize_device(const struct image *image, uint64_t size_bytes, struct error *err)
{
    uint64_t now_bytes;
    int r = image_size(image, &now_bytes, err);

    if (r < 0)
        return r;
    if (size_bytes > now_bytes)
        return error_set(err, -EINVAL, "'%s' is a device of %llu bytes and cannot be made larger from here",
                         image->filename, (unsigned long long)now_bytes);
    if (size_bytes < now_bytes)
        return error_set(err, -EINVAL, "'%s' is a device of %llu bytes and cannot be made smaller", image->filename,
                         (unsigned long long)now_bytes);
    return 0;
}

int image_resize(struct image *image, uint64_t size_bytes, struct error *err)
{
    int r;

    if (image->device)
        return resize_device(image, size_bytes, err);
    r = image_use(image, true, err);
    if (r < 0)
        return r;
    r = image_begin_resize(image, err);
    if (r == 0) {
        if (ftruncate(image->fd, (off_t)size_bytes) < 0)
            r = error_set(err, -errno, "cannot resize '%s': %s", image->filename, strerror(errno));
        image_end_resize(image);
    }
    image_unuse(image, true);
    return r;
}

bool image_allocated(const struct image *image, uint64_t *ret_bytes)
{
    struct stat st;

    if (fstat(image->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    *ret_bytes = (uint64_t)st.st_blocks * 512;
    return true;
}

/* Have the locks that this many users need. */
static int set_locks(struct image *image, unsigned users, unsigned writers, struct error *err)
{
    uint32_t uses = 0;
    uint32_t unshared = 0;

    if (!image->locked)
        return 0;
    if (users > 0) {
        uses |= IMAGE_LOCK_CONSISTENT_READ;
        unshared |= image->force_share ? 0 : IMAGE_LOCK_RESIZE;
    }
    if (writers > 0) {
        uses |= IMAGE_LOCK_WRITE;
        unshared |= IMAGE_LOCK_WRITE;
    }
    if (image->resizers > 0)
        uses |= IMAGE_LOCK_RESIZE;
    return image_lock_set(&image->lock, image->fd, uses, unshared, err);
}

int image_use(struct image *image, bool writable, struct error *err)
{
    int r;

    r = set_locks(image, image->users + 1, image->writers + writable, err);
    if (r < 0) {
        error_prepend(err, "'%s'", image->filename);
        return r;
    }
    image->users++;
    image->writers += writable;
    return 0;
}

void image_unuse(struct image *image, bool writable)
{
    image->users--;
    image->writers -= writable;
    set_locks(image, image->users, image->writers, NULL);
}

int image_begin_resize(struct image *image, struct error *err)
{
    int r;

    image->resizers++;
    r = set_locks(image, image->users, image->writers, err);
    if (r < 0) {
        image->resizers--;
        error_prepend(err, "'%s'", image->filename);
    }
    return r;
}

void image_end_resize(struct image *image)
{
    image->resizers--;
    set_locks(image, image->users, image->writers, NULL);
}

int image_open_for_worker(const struct image *image, bool writable, int *ret_fd, struct error *err)
{
    int flags = access_flags(!writable, image->direct, image->device);
    int fd = reopen(image->fd, flags | O_NOATIME);

    /* The owner's right. Nobody reads an image's time of access, and to look after it costs small reads 3 %. */
    if (fd == -EPERM)
        fd = reopen(image->fd, flags);
    if (fd < 0)
        return error_set(err, fd, "could not open '%s' again for the export: %s", image->filename, strerror(-fd));
    *ret_fd = fd;
    return 0;
}
