/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse-worker/ops.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "common/base/log.h"
#include "fuse-worker/op.h"

/*
 * How long the kernel may keep what getattr says: not at all, since others change what is allocated, and to ask costs
 * no more than any request.
 */
#define ATTR_TIMEOUT 0.0

/* ---- INIT ---- */

/*
 * Shared mappings of files whose data the kernel does not keep otherwise (Linux 6.6; FUSE_DIRECT_IO_ALLOW_MMAP, bit
 * 36). libfuse before 3.15 does not know it, so it is asked for in the answer that libfuse has made. Both are of
 * protocol 7.39; an older kernel does not offer the bit.
 */
#define FLAGS2_DIRECT_IO_ALLOW_MMAP (1u << (36 - 32))

bool fx_ops_offers_shared_mappings(const struct fuse_in_header *in, size_t bytes)
{
    const struct fuse_init_in *arg = (const void *)(in + 1);

    return bytes >= sizeof(*in) + sizeof(*arg) && (arg->flags & FUSE_INIT_EXT) != 0 &&
           (arg->flags2 & FLAGS2_DIRECT_IO_ALLOW_MMAP) != 0;
}

/* Of the answer to INIT, header and body in one vector each. What does not look like it is left as it is. */
static void add_shared_mappings(struct iovec *iov, int count, struct fuse_init_out *out)
{
    const struct fuse_out_header *header = iov[0].iov_base;

    if (count != 2 || iov[0].iov_len != sizeof(*header) || header->error != 0 || iov[1].iov_len != sizeof(*out))
        return;
    memcpy(out, iov[1].iov_base, sizeof(*out));
    out->flags |= FUSE_INIT_EXT;
    out->flags2 |= FLAGS2_DIRECT_IO_ALLOW_MMAP;
    iov[1].iov_base = out;
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    static const unsigned wanted =
        FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_ATOMIC_O_TRUNC;
    struct fx_export *export = userdata;
    struct ipc_status_fuse_serving *serving = &export->serving_facts;

    conn->want = conn->capable & wanted;
    conn->max_write = FX_IO_BYTES_MAX;
    /* Asynchronous requests in flight that the kernel allows; more wait in the kernel. */
    conn->max_background = export->thread_count * FX_SLOTS;
    conn->congestion_threshold = conn->max_background / 4 * 3;
    conn->time_gran = 1;
    *serving = (struct ipc_status_fuse_serving){
        .protocol_minor = conn->proto_minor,
        .max_write_bytes = conn->max_write,
        .device_pairs = export->device_pairs,
    };
}

void fx_ops_init_done(struct fx_export *export)
{
    struct ipc_status status = { .type = IPC_STATUS_FUSE_SERVING, .fuse_serving = export->serving_facts };

    if (!fuse_session_exited(export->session))
        worker_report(export->worker, &status);
}

/* ---- Attributes ---- */

static void fill_attributes(struct fx_export *export, struct stat *st)
{
    uint64_t size = atomic_load(&export->size_bytes);
    struct block_usage usage = { .allocated_bytes = size };

    /* What stores nothing is shown as full, as QEMU does. */
    if (block_node_usage(export->root, &usage) < 0)
        usage.allocated_bytes = size;
    pthread_mutex_lock(&export->attr_lock);
    *st = (struct stat){
        .st_ino = FUSE_ROOT_ID,
        .st_mode = S_IFREG | export->mode,
        .st_nlink = 1,
        .st_uid = export->uid,
        .st_gid = export->gid,
        .st_size = (off_t)size,
        .st_blksize = (blksize_t) export->worker->info.preferred_block_bytes,
        .st_blocks = (blkcnt_t)((usage.allocated_bytes + 511) / 512),
        .st_atim = usage.changed,
        .st_mtim = usage.changed,
        .st_ctim = usage.changed,
    };
    pthread_mutex_unlock(&export->attr_lock);
}

static void reply_attributes(fuse_req_t fuse_req, struct fx_export *export)
{
    struct stat st;

    fill_attributes(export, &st);
    fuse_reply_attr(fuse_req, &st, ATTR_TIMEOUT);
}

static void op_getattr(fuse_req_t fuse_req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    reply_attributes(fuse_req, fuse_req_userdata(fuse_req));
}

#define SET_TIMES   (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW)
#define SET_IGNORED (FUSE_SET_ATTR_CTIME | FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID)

/*
 * What may be set: as in QEMU, the size, the mode, and with allow-other the owner. Times come along with the size
 * (truncate(2)) and follow the image's anyway; by themselves they cannot be set. 0 or -errno.
 */
static int setattr_check(const struct fx_export *export, const struct stat *st, int to_set)
{
    int supported = FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MODE | SET_IGNORED;

    if (export->allow_other)
        supported |= FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
    if ((to_set & FUSE_SET_ATTR_SIZE) != 0)
        supported |= SET_TIMES;
    if ((to_set & ~supported) != 0)
        return -ENOTSUP;
    if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && !export->writable)
        return -EROFS;
    if ((to_set & FUSE_SET_ATTR_MODE) == 0)
        return 0;
    /* Bits that would promise what the mount does not hold. */
    if (!export->allow_other && (st->st_mode & (S_IRWXG | S_IRWXO)) != 0)
        return -EPERM;
    if (!export->writable && (st->st_mode & (S_IWUSR | S_IWGRP | S_IWOTH)) != 0)
        return -EROFS;
    return 0;
}

static void setattr_finish(struct fx_op *op, int result)
{
    struct fx_export *export = op->thread->export;

    if (result < 0) {
        fx_op_reply(op, result);
        return;
    }
    pthread_mutex_lock(&export->attr_lock);
    if ((op->setattr.to_set & FUSE_SET_ATTR_MODE) != 0)
        export->mode = op->setattr.mode & 07777;
    if ((op->setattr.to_set & FUSE_SET_ATTR_UID) != 0)
        export->uid = op->setattr.uid;
    if ((op->setattr.to_set & FUSE_SET_ATTR_GID) != 0)
        export->gid = op->setattr.gid;
    pthread_mutex_unlock(&export->attr_lock);
    reply_attributes(fx_op_end(op), export);
}

static void op_setattr(fuse_req_t fuse_req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
    struct fx_export *export = fuse_req_userdata(fuse_req);
    int r = setattr_check(export, st, to_set);
    struct fx_op *op;

    if (r < 0) {
        fuse_reply_err(fuse_req, -r);
        return;
    }
    op = fx_op_new(fuse_req);
    if (op == NULL)
        return;
    op->setattr.to_set = to_set;
    op->setattr.mode = st->st_mode;
    op->setattr.uid = st->st_uid;
    op->setattr.gid = st->st_gid;
    op->new_size = (uint64_t)st->st_size;
    if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && op->new_size != atomic_load(&export->size_bytes))
        fx_op_resize(op, setattr_finish);
    else
        setattr_finish(op, 0);
}

/* Used is what is allocated, so that df shows how full the image is. */
static void op_statfs(fuse_req_t fuse_req, fuse_ino_t ino)
{
    struct fx_export *export = fuse_req_userdata(fuse_req);
    struct statvfs fs = { .f_bsize = 512, .f_frsize = 512, .f_files = 1, .f_namemax = 255 };
    struct stat st;

    fill_attributes(export, &st);
    fs.f_blocks = ((uint64_t)st.st_size + 511) / 512;
    fs.f_bfree = fs.f_bavail = fs.f_blocks - MIN(fs.f_blocks, (fsblkcnt_t)st.st_blocks);
    fuse_reply_statfs(fuse_req, &fs);
}

/* ---- Flushing ---- */

static void flush_finish(struct fx_op *op, int result)
{
    fx_count(op->thread, &op->req, 0, 0, result);
    fx_op_reply(op, result);
}

static void op_fsync(fuse_req_t fuse_req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct fx_op *op = fx_op_new(fuse_req);

    if (op == NULL)
        return;
    op->req.op = BLOCK_OP_FLUSH;
    fx_op_submit(op, flush_finish);
}

/* When a file is closed: the last chance to tell its writer of an error. */
static void op_flush(fuse_req_t fuse_req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (fi->fh == 0) /* opened for reading: see FH_WRITES */
        fuse_reply_err(fuse_req, 0);
    else
        op_fsync(fuse_req, ino, 1, fi);
}

/* ---- fallocate ---- */

static const struct {
    int mode;
    int action;
    bool grows;
} fallocate_modes[] = {
    { 0, FX_ALLOCATE, true },
    { FALLOC_FL_KEEP_SIZE, FX_ALLOCATE, false },
    { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FX_PUNCH, false },
    { FALLOC_FL_ZERO_RANGE, FX_ZERO, true },
    { FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FX_ZERO, false },
};

static void fallocate_act(struct fx_op *op, int result);

/* What lies behind the end is there again, or is nobody's business, by what was asked for. */
static void fallocate_again(struct fx_op *op)
{
    uint64_t size = block_node_size(op->thread->export->root);

    op->retries++;
    if (op->fallocate.grows)
        fx_op_resize(op, fallocate_act);
    else if (op->fallocate.offset >= size)
        fx_op_reply(op, 0);
    else {
        op->fallocate.len_bytes = MIN(op->fallocate.len_bytes, size - op->fallocate.offset);
        fallocate_act(op, 0);
    }
}

static void zero_finish(struct fx_op *op, int result)
{
    if (result == -ENOSPC && op->retries < FX_CUTS_MAX) { /* or the disk is full, and says so again */
        fallocate_again(op);
        return;
    }
    /* A punch that is not supported is an answer, not an error below. */
    if (op->fallocate.action != FX_PUNCH || result != -ENOTSUP)
        fx_count(op->thread, &op->req, op->fallocate.offset, op->fallocate.len_bytes, result);
    fx_op_reply(op, result == -ENOTSUP ? -EOPNOTSUPP : result);
}

static int allocate_work(struct block_request *req, uint8_t *scratch)
{
    struct fx_op *op = container_of(req, struct fx_op, req);

    return block_node_allocate(op->thread->export->root, op->fallocate.offset, op->fallocate.len_bytes);
}

/* After the file has grown, if it had to. */
static void fallocate_act(struct fx_op *op, int result)
{
    if (result < 0) {
        fx_op_reply(op, result);
        return;
    }
    if (op->fallocate.action == FX_ALLOCATE) {
        fx_op_call(op, allocate_work, fx_op_reply);
        return;
    }
    op->req.op = BLOCK_OP_WRITE_ZEROES;
    op->req.flags = op->fallocate.action == FX_PUNCH ? BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK : 0;
    if (op->thread->export->writethrough)
        op->req.flags |= BLOCK_REQ_FUA;
    op->req.offset = op->fallocate.offset;
    op->req.len_bytes = op->fallocate.len_bytes;
    fx_op_submit(op, zero_finish);
}

static void fallocate_start(fuse_req_t fuse_req, unsigned row, uint64_t offset, uint64_t len_bytes)
{
    struct fx_export *export = fuse_req_userdata(fuse_req);
    uint64_t size = atomic_load(&export->size_bytes);
    uint64_t end = offset + len_bytes;
    struct fx_op *op;

    if (!fallocate_modes[row].grows) {
        end = MIN(end, size);
        if (offset >= end) {
            fuse_reply_err(fuse_req, 0);
            return;
        }
    }
    op = fx_op_new(fuse_req);
    if (op == NULL)
        return;
    op->fallocate.action = fallocate_modes[row].action;
    op->fallocate.grows = fallocate_modes[row].grows;
    op->fallocate.offset = offset;
    op->fallocate.len_bytes = end - offset;
    op->new_size = end;
    op->only_grow = true;
    if (end > size)
        fx_op_resize(op, fallocate_act);
    else
        fallocate_act(op, 0);
}

static void op_fallocate(fuse_req_t fuse_req, fuse_ino_t ino, int mode, off_t offset, off_t len_bytes,
                         struct fuse_file_info *fi)
{
    struct fx_export *export = fuse_req_userdata(fuse_req);

    if (!export->writable) {
        fuse_reply_err(fuse_req, EROFS);
        return;
    }
    if (offset < 0 || len_bytes <= 0 || offset > INT64_MAX - len_bytes) {
        fuse_reply_err(fuse_req, EINVAL);
        return;
    }
    for (unsigned row = 0; row < ARRAY_SIZE(fallocate_modes); row++) {
        if (fallocate_modes[row].mode != mode)
            continue;
        fallocate_start(fuse_req, row, (uint64_t)offset, (uint64_t)len_bytes);
        return;
    }
    fuse_reply_err(fuse_req, EOPNOTSUPP);
}

/* ---- lseek ---- */

static void lseek_look(struct fx_op *op);

static void lseek_found(struct fx_op *op, uint64_t offset)
{
    fuse_reply_lseek(fx_op_end(op), (off_t)offset);
}

/* Behind the last extent is the hole that every file ends with. */
static void lseek_at_end(struct fx_op *op)
{
    if (op->lseek.data)
        fx_op_reply(op, -ENXIO);
    else
        lseek_found(op, atomic_load(&op->thread->export->size_bytes));
}

static void lseek_next(struct fx_op *op, int result)
{
    if (result == -EINVAL && op->retries < FX_CUTS_MAX) {
        op->retries++;
        lseek_look(op);
        return;
    }
    if (result < 0) {
        fx_count(op->thread, &op->req, op->lseek.offset, 0, result);
        fx_op_reply(op, result);
        return;
    }
    for (unsigned i = 0; i < op->req.extents_count; i++) {
        bool is_data = (op->lseek.extents[i].flags & BLOCK_EXTENT_HOLE) == 0;

        if (is_data == op->lseek.data) {
            lseek_found(op, op->lseek.offset);
            return;
        }
        op->lseek.offset += op->lseek.extents[i].len_bytes;
    }
    lseek_look(op);
}

static void lseek_look(struct fx_op *op)
{
    const struct fx_export *export = op->thread->export;
    uint64_t size = MIN(atomic_load(&export->size_bytes), block_node_size(export->root));

    if (op->lseek.offset >= size) {
        lseek_at_end(op);
        return;
    }
    op->req.op = BLOCK_OP_STATUS;
    op->req.flags = 0;
    op->req.offset = op->lseek.offset;
    op->req.len_bytes = size - op->lseek.offset;
    op->req.extents = op->lseek.extents;
    op->req.extents_max = FX_EXTENTS_MAX;
    fx_op_submit(op, lseek_next);
}

static void op_lseek(fuse_req_t fuse_req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    struct fx_export *export = fuse_req_userdata(fuse_req);
    struct fx_op *op;

    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fuse_reply_err(fuse_req, EINVAL);
        return;
    }
    if (offset < 0 || (uint64_t)offset >= atomic_load(&export->size_bytes)) {
        fuse_reply_err(fuse_req, ENXIO);
        return;
    }
    op = fx_op_new(fuse_req);
    if (op == NULL)
        return;
    op->lseek.offset = (uint64_t)offset;
    op->lseek.data = whence == SEEK_DATA;
    lseek_look(op);
}

/* ---- The session ---- */

static const struct fuse_lowlevel_ops ops = {
    .init = op_init,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .statfs = op_statfs,
    .fsync = op_fsync,
    .flush = op_flush,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
};

/* Replies of libfuse go to where the request came from, which is not the session's one descriptor. */
static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    struct fx_thread *thread = fx_thread_current();
    struct fuse_init_out out;

    if (thread->answers_init_with_mappings)
        add_shared_mappings(iov, count, &out);
    return writev(thread->reply_fd, iov, count);
}

/* Requests are read by the threads themselves. */
static ssize_t read_nothing(int fd, void *buf, size_t bytes, void *userdata)
{
    errno = ENODEV;
    return -1;
}

static void log_of_libfuse(enum fuse_log_level level, const char *fmt, va_list args)
{
    char text[LOG_TEXT_MAX];

    vsnprintf(text, sizeof(text), fmt, args);
    text[strcspn(text, "\n")] = '\0';
    log_message(level <= FUSE_LOG_ERR      ? LOG_LEVEL_ERROR
                : level <= FUSE_LOG_NOTICE ? LOG_LEVEL_WARNING
                                           : LOG_LEVEL_DEBUG,
                "libfuse: %s", text);
}

int fx_ops_new(struct fx_export *export, struct error *err)
{
    char *argv[] = { (char[]){ "bulkhead-fuse" }, NULL };
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);

    fuse_set_log_func(log_of_libfuse);
    export->session = fuse_session_new(&args, &ops, sizeof(ops), export);
    fuse_opt_free_args(&args);
    if (export->session == NULL)
        return error_set(err, -ENOMEM, "libfuse cannot make a session");
    return 0;
}

int fx_ops_set_device(struct fx_export *export, int fd)
{
    static const struct fuse_custom_io io = { .writev = write_reply, .read = read_nothing };

    return fuse_session_custom_io(export->session, &io, fd);
}
