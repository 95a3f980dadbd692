/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hung-fuse MOUNTPOINT: a file system with one file, `file`, that can be opened, and whose server never answers
 * anything else about it: neither its attributes nor, at close(), FLUSH. Prints "ready"; the end of it frees who waits.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_INODE 2

static struct stat attributes(fuse_ino_t ino)
{
    return (struct stat){
        .st_ino = ino,
        .st_mode = ino == FILE_INODE ? S_IFREG | 0666 : S_IFDIR | 0755,
        .st_nlink = 1,
        .st_size = 1 << 20,
    };
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = { .ino = FILE_INODE, .attr = attributes(FILE_INODE) };

    if (strcmp(name, "file") == 0)
        fuse_reply_entry(req, &entry);
    else
        fuse_reply_err(req, ENOENT);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat st = attributes(ino);

    if (ino != FILE_INODE)
        fuse_reply_attr(req, &st, 0);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    fuse_reply_open(req, info);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .flush = on_flush,
};

int main(int argc, char **argv)
{
    static char option[] = "-o", value[] = "allow_other,fsname=hung";
    char *words[] = { argv[0], option, value };
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), NULL);

    if (argc != 2 || session == NULL || fuse_session_mount(session, argv[1]) != 0)
        return 1;
    puts("ready");
    fflush(stdout);
    fuse_session_loop(session);
    fuse_session_unmount(session);
    return 0;
}
