/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What kind of thing a front-end has passed, found out without asking it: a descriptor may lead to a file system whose
 * server is the front-end itself (FUSE), and nearly every call on such a file, its close() too, waits for that server
 * where no signal reaches (docs/decisions/vhost-door.md). The calls made here are answered by the kernel alone.
 */
#ifndef BULKHEAD_VHOST_DESCRIPTOR_H
#define BULKHEAD_VHOST_DESCRIPTOR_H

enum vhost_descriptor {
    VHOST_DESCRIPTOR_OTHER,  /* nothing that vhost-user has a use for: not to be touched, nor closed */
    VHOST_DESCRIPTOR_EVENT,  /* an eventfd, or another object of the kernel that is read and written */
    VHOST_DESCRIPTOR_STREAM, /* a pipe or a socket */
    VHOST_DESCRIPTOR_MEMORY, /* a file of memory (memfd, tmpfs, huge pages), or a regular one on a block device */
};

enum vhost_descriptor vhost_descriptor_kind(int fd);

#endif
