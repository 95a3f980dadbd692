/* SPDX-License-Identifier: BSD-2-Clause */
/* Names that qemu-storage-daemon, 7.2 to 10.0, has and this program has not: see elsewhere.h. */
#include "monitor/qmp/elsewhere.h"

#include <stddef.h>

/* clang-format off */
const char *const elsewhere_commands[] = {
    "block-commit", "block-dirty-bitmap-add", "block-dirty-bitmap-clear", "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable", "block-dirty-bitmap-merge", "block-dirty-bitmap-remove", "block-job-cancel",
    "block-job-change", "block-job-complete", "block-job-dismiss", "block-job-finalize", "block-job-pause",
    "block-job-resume", "block-job-set-speed", "block-set-write-threshold", "block-stream", "blockdev-backup",
    "blockdev-create", "blockdev-mirror", "blockdev-reopen", "blockdev-set-active", "blockdev-snapshot",
    "blockdev-snapshot-delete-internal-sync", "blockdev-snapshot-internal-sync", "blockdev-snapshot-sync",
    "change-backing-file", "chardev-add", "chardev-change", "chardev-remove", "chardev-send-break", "drive-backup",
    "drive-mirror", "job-cancel", "job-complete", "job-dismiss", "job-finalize", "job-pause", "job-resume",
    "qom-get", "qom-list-properties", "qom-list-types", "qom-set", "query-block", "query-block-jobs",
    "query-blockstats", "query-chardev", "query-chardev-backends", "query-jobs", "ringbuf-read", "ringbuf-write",
    "transaction", "x-blockdev-amend", "x-blockdev-change", "x-blockdev-set-iothread",
    "x-debug-block-dirty-bitmap-sha256", "x-debug-query-block-graph", NULL,
};

const char *const elsewhere_drivers[] = {
    "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress", "copy-before-write", "copy-on-read",
    "dmg", "ftp", "ftps", "gluster", "host_cdrom", "http", "https", "iscsi", "luks", "nbd", "nfs", "null-aio",
    "nvme", "parallels", "preallocate", "qcow", "qcow2", "qed", "quorum", "rbd", "replication", "snapshot-access",
    "ssh", "throttle", "vdi", "vhdx", "vmdk", "vpc", "vvfat", NULL,
};

const char *const elsewhere_object_types[] = {
    "authz-listfile", "authz-pam", "iothread", "main-loop", "pr-manager-helper", "qtest", "secret_keyring",
    "thread-context", "throttle-group", "tls-cipher-suites", NULL,
};

const char *const elsewhere_chardevs[] = {
    "file", "hub", "memory", "mux", "parallel", "pipe", "pty", "ringbuf", "serial", "udp", "vc", NULL,
};

const char *const elsewhere_export_types[] = {
    "vduse-blk", NULL,
};
/* clang-format on */
