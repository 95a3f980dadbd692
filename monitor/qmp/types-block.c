/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of the types of QEMU's qapi/block-core.json: nodes, and what is told of them. */
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/types.h"

static const struct schema_value driver_values[] = {
    [BLOCKDEV_DRIVER_FILE] = { "file", "A regular file." },
    [BLOCKDEV_DRIVER_HOST_DEVICE] = { "host_device", "A block device of the host." },
    [BLOCKDEV_DRIVER_RAW] = { "raw", "Another node as it is, or a range of it." },
    [BLOCKDEV_DRIVER_NULL_CO] = { "null-co", "Nothing: writes vanish, reads give what memory held or zeroes." },
    [BLOCKDEV_DRIVER_BLKDEBUG] = { "blkdebug", "Another node, with errors injected." },
};
const struct schema_type schema_blockdev_driver =
    SCHEMA_TYPE_ENUM_OF_MORE("BlockdevDriver", driver_values, elsewhere_drivers, "Drivers of block nodes.");

static const struct schema_value discard_values[] = {
    [BLOCKDEV_DISCARD_IGNORE] = { "ignore", "Discard requests do nothing." },
    [BLOCKDEV_DISCARD_UNMAP] = { "unmap", "Discard requests give the space back." },
};
static const struct schema_type schema_discard =
    SCHEMA_TYPE_ENUM("BlockdevDiscardOptions", discard_values, "What discard requests do.");

static const struct schema_value detect_zeroes_values[] = {
    [BLOCKDEV_DETECT_ZEROES_OFF] = { "off", "Zeroes are written as they come." },
    [BLOCKDEV_DETECT_ZEROES_ON] = { "on", "Not supported." },
    [BLOCKDEV_DETECT_ZEROES_UNMAP] = { "unmap", "Not supported." },
};
static const struct schema_type schema_detect_zeroes =
    SCHEMA_TYPE_ENUM("BlockdevDetectZeroesOptions", detect_zeroes_values, "Whether writes are searched for zeroes.");

static const struct schema_value aio_values[] = {
    [BLOCKDEV_AIO_THREADS] = { "threads", "A pool of threads." },
    [BLOCKDEV_AIO_NATIVE] = { "native", "Linux AIO in QEMU, here served by io_uring; needs cache.direct=on." },
    [BLOCKDEV_AIO_IO_URING] = { "io_uring", "io_uring." },
};
static const struct schema_type schema_aio = SCHEMA_TYPE_ENUM("BlockdevAioOptions", aio_values, "Engines of I/O.");

static const struct schema_value on_off_auto_values[] = {
    [ON_OFF_AUTO_AUTO] = { "auto", "As the host allows." },
    [ON_OFF_AUTO_ON] = { "on", "Yes, or fail." },
    [ON_OFF_AUTO_OFF] = { "off", "No." },
};
static const struct schema_type schema_on_off_auto =
    SCHEMA_TYPE_ENUM("OnOffAuto", on_off_auto_values, "Yes, no, or as it fits.");

static const struct schema_member cache_members[] = {
    SCHEMA_MEMBER_HAS(struct blockdev_cache_options, direct, "direct", schema_bool,
                      "Whether the host's page cache is bypassed (O_DIRECT); default off, or as the node above."),
    SCHEMA_MEMBER_HAS(struct blockdev_cache_options, no_flush, "no-flush", schema_bool,
                      "Whether flush requests are ignored and data is lost if the host crashes; default off, or as the "
                      "node above."),
};
static const struct schema_type schema_cache_options =
    SCHEMA_TYPE_STRUCT(struct blockdev_cache_options, "BlockdevCacheOptions", cache_members, "Caching of a node.");

/* ---- BlockdevRef ---- */

static const struct schema_variant ref_branches[] = {
    [BLOCKDEV_REF_DEFINITION] = { &schema_blockdev_options, offsetof(struct blockdev_ref, definition), SCHEMA_BOXED },
    [BLOCKDEV_REF_REFERENCE] = { &schema_str, offsetof(struct blockdev_ref, reference) },
};
static const struct schema_type schema_blockdev_ref =
    SCHEMA_TYPE_ALTERNATE(struct blockdev_ref, "BlockdevRef", branch, ref_branches,
                          "A node: the name of one that exists, or the options of a new one.");

/* ---- Drivers ---- */

static const struct schema_member file_members[] = {
    SCHEMA_MEMBER(struct blockdev_options_file, filename, "filename", schema_str, "Path of the file or device."),
    SCHEMA_MEMBER_OPT(struct blockdev_options_file, pr_manager, "pr-manager", schema_str, "Not supported."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_file, locking, "locking", schema_on_off_auto, "auto",
                      "Whether the image is locked against other programs, as QEMU locks it."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_file, aio, "aio", schema_aio,
                      "The engine; default: io_uring where the host has it, else threads."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_file, aio_max_batch, "aio-max-batch", schema_int, "0",
                      "Accepted for QEMU's sake; batches have the size of what has arrived."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_file, drop_cache, "drop-cache", schema_bool, "on",
                      "Accepted for QEMU's sake; it matters to live migration only."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_file, x_check_cache_dropped, "x-check-cache-dropped", schema_bool, "off",
                      "Not supported, must be off."),
};
static const struct schema_type schema_options_file = SCHEMA_TYPE_STRUCT(
    struct blockdev_options_file, "BlockdevOptionsFile", file_members, "Options of the drivers file and host_device.");

static const struct schema_member raw_members[] = {
    SCHEMA_MEMBER(struct blockdev_options_raw, file, "file", schema_blockdev_ref, "The node below."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_raw, offset, "offset", schema_size, "0",
                      "Where in the node below this one begins."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_raw, size, "size", schema_size,
                      "The size; default: up to the end of the node below."),
};
static const struct schema_type schema_options_raw =
    SCHEMA_TYPE_STRUCT(struct blockdev_options_raw, "BlockdevOptionsRaw", raw_members, "Options of the driver raw.");

static const struct schema_type schema_null_size = {
    .kind = SCHEMA_INT, .flags = SCHEMA_SIZE, .name = "int", .size_bytes = sizeof(int64_t), .max = INT64_MAX
};

static const struct schema_member null_members[] = {
    SCHEMA_MEMBER_DEF(struct blockdev_options_null, size, "size", schema_null_size, "1G", "The size."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_null, latency_ns, "latency-ns", schema_uint64, "0",
                      "How long each request takes, in nanoseconds."),
    SCHEMA_MEMBER_DEF(struct blockdev_options_null, read_zeroes, "read-zeroes", schema_bool, "off",
                      "Whether reads give zeroes; otherwise they give whatever memory held."),
};
static const struct schema_type schema_options_null = SCHEMA_TYPE_STRUCT(
    struct blockdev_options_null, "BlockdevOptionsNull", null_members, "Options of the driver null-co.");

static const struct schema_value iotype_values[] = {
    [BLKDEBUG_IO_TYPE_READ] = { "read", "Reads." },
    [BLKDEBUG_IO_TYPE_WRITE] = { "write", "Writes." },
    [BLKDEBUG_IO_TYPE_WRITE_ZEROES] = { "write-zeroes", "Writes of zeroes." },
    [BLKDEBUG_IO_TYPE_DISCARD] = { "discard", "Discards." },
    [BLKDEBUG_IO_TYPE_FLUSH] = { "flush", "Flushes." },
    [BLKDEBUG_IO_TYPE_BLOCK_STATUS] = { "block-status", "Queries of the allocation." },
};
static const struct schema_type schema_iotype =
    SCHEMA_TYPE_ENUM("BlkdebugIOType", iotype_values, "Kinds of requests that errors are injected into.");

static const struct schema_value blkdebug_event_values[] = {
    [BLKDEBUG_EVENT_NONE] = { "none", "At each request." },
};
static const struct schema_type schema_blkdebug_event =
    SCHEMA_TYPE_ENUM("BlkdebugEvent", blkdebug_event_values, "When errors are injected.");

static const struct schema_type schema_errno = {
    .kind = SCHEMA_INT, .name = "int", .size_bytes = sizeof(int64_t), .min = 1, .max = 4095
};
static const struct schema_type schema_sector = {
    .kind = SCHEMA_INT, .name = "int", .size_bytes = sizeof(int64_t), .min = -1, .max = INT64_MAX / 512
};

static const struct schema_member inject_error_members[] = {
    SCHEMA_MEMBER(struct blkdebug_inject_error, event, "event", schema_blkdebug_event, "When to inject."),
    SCHEMA_MEMBER_HAS(struct blkdebug_inject_error, state, "state", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blkdebug_inject_error, iotype, "iotype", schema_iotype,
                      "The requests to fail; default: all but block-status."),
    SCHEMA_MEMBER_DEF(struct blkdebug_inject_error, errno_code, "errno", schema_errno, "5",
                      "The error, as Linux numbers them; default: EIO."),
    SCHEMA_MEMBER_HAS(struct blkdebug_inject_error, sector, "sector", schema_sector,
                      "The 512-byte sector that a request must touch; default: any."),
    SCHEMA_MEMBER_DEF(struct blkdebug_inject_error, once, "once", schema_bool, "off",
                      "Whether only the first such request fails."),
    SCHEMA_MEMBER_DEF(struct blkdebug_inject_error, immediately, "immediately", schema_bool, "off",
                      "Accepted for QEMU's sake; errors always come without delay."),
};
static const struct schema_type schema_inject_error = SCHEMA_TYPE_STRUCT(
    struct blkdebug_inject_error, "BlkdebugInjectErrorOptions", inject_error_members, "An error to inject.");
static const struct schema_type schema_inject_error_list =
    SCHEMA_TYPE_ARRAY("[BlkdebugInjectErrorOptions]", schema_inject_error);

static const struct schema_member blkdebug_members[] = {
    SCHEMA_MEMBER(struct blockdev_options_blkdebug, image, "image", schema_blockdev_ref, "The node below."),
    SCHEMA_MEMBER_OPT(struct blockdev_options_blkdebug, config, "config", schema_str, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, align, "align", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, max_transfer, "max-transfer", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, opt_write_zero, "opt-write-zero", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, max_write_zero, "max-write-zero", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, opt_discard, "opt-discard", schema_int, "Not supported."),
    SCHEMA_MEMBER_HAS(struct blockdev_options_blkdebug, max_discard, "max-discard", schema_int, "Not supported."),
    SCHEMA_MEMBER_OPT(struct blockdev_options_blkdebug, inject_error, "inject-error", schema_inject_error_list,
                      "Errors to inject; the first that fits a request wins."),
};
static const struct schema_type schema_options_blkdebug = SCHEMA_TYPE_STRUCT(
    struct blockdev_options_blkdebug, "BlockdevOptionsBlkdebug", blkdebug_members, "Options of the driver blkdebug.");

/* ---- BlockdevOptions ---- */

static const struct schema_member options_members[] = {
    SCHEMA_MEMBER(struct blockdev_options, driver, "driver", schema_blockdev_driver, "The driver."),
    SCHEMA_MEMBER_OPT(struct blockdev_options, node_name, "node-name", schema_str,
                      "The node's name; only a node that is made on the way may go without."),
    SCHEMA_MEMBER_HAS(struct blockdev_options, discard, "discard", schema_discard,
                      "What discard requests do; default ignore, and unmap for a node that is made on the way."),
    SCHEMA_MEMBER_DEF(struct blockdev_options, cache, "cache", schema_cache_options, "{}", "Caching."),
    SCHEMA_MEMBER_HAS(struct blockdev_options, read_only, "read-only", schema_bool,
                      "Whether the node can only be read; default off, or as the node above."),
    SCHEMA_MEMBER_HAS(struct blockdev_options, auto_read_only, "auto-read-only", schema_bool,
                      "Whether an image that cannot be opened for writing is opened read-only; default off, or as the "
                      "node above."),
    SCHEMA_MEMBER_HAS(struct blockdev_options, force_share, "force-share", schema_bool,
                      "Whether the image is opened though others write to it; needs read-only; default off, or as the "
                      "node above."),
    SCHEMA_MEMBER_DEF(struct blockdev_options, detect_zeroes, "detect-zeroes", schema_detect_zeroes, "off",
                      "Must be off."),
};
static const struct schema_variant options_variants[] = {
    [BLOCKDEV_DRIVER_FILE] = { &schema_options_file, offsetof(struct blockdev_options, file) },
    [BLOCKDEV_DRIVER_HOST_DEVICE] = { &schema_options_file, offsetof(struct blockdev_options, file) },
    [BLOCKDEV_DRIVER_RAW] = { &schema_options_raw, offsetof(struct blockdev_options, raw) },
    [BLOCKDEV_DRIVER_NULL_CO] = { &schema_options_null, offsetof(struct blockdev_options, null_co) },
    [BLOCKDEV_DRIVER_BLKDEBUG] = { &schema_options_blkdebug, offsetof(struct blockdev_options, blkdebug) },
};
const struct schema_type schema_blockdev_options = SCHEMA_TYPE_UNION(
    struct blockdev_options, "BlockdevOptions", driver, options_members, options_variants, "A block node.");

static const struct schema_member blockdev_del_members[] = {
    SCHEMA_MEMBER(struct blockdev_del_args, node_name, "node-name", schema_str, "The node's name."),
};
const struct schema_type schema_blockdev_del_args = SCHEMA_TYPE_STRUCT(
    struct blockdev_del_args, "blockdev-del-arg", blockdev_del_members, "Arguments of blockdev-del.");

static const struct schema_member block_resize_members[] = {
    SCHEMA_MEMBER_OPT(struct block_resize_args, device, "device", schema_str,
                      "Name of a block backend; there are none, use node-name."),
    SCHEMA_MEMBER_OPT(struct block_resize_args, node_name, "node-name", schema_str, "The node's name."),
    SCHEMA_MEMBER(struct block_resize_args, size, "size", schema_size, "The new size in bytes."),
};
const struct schema_type schema_block_resize_args = SCHEMA_TYPE_STRUCT(
    struct block_resize_args, "block_resize-arg", block_resize_members, "Arguments of block_resize.");

/* ---- query-named-block-nodes ---- */

static const struct schema_member query_named_block_nodes_members[] = {
    SCHEMA_MEMBER_DEF(struct query_named_block_nodes_args, flat, "flat", schema_bool, "off",
                      "Whether backing images are left out; there are none yet."),
};
const struct schema_type schema_query_named_block_nodes_args =
    SCHEMA_TYPE_STRUCT(struct query_named_block_nodes_args, "query-named-block-nodes-arg",
                       query_named_block_nodes_members, "Arguments of query-named-block-nodes.");

static const struct schema_member image_info_members[] = {
    SCHEMA_MEMBER(struct image_info, filename, "filename", schema_str, "The image's file name."),
    SCHEMA_MEMBER(struct image_info, format, "format", schema_str, "The image's format."),
    SCHEMA_MEMBER_HAS(struct image_info, actual_size, "actual-size", schema_int, "Bytes that the image takes up."),
    SCHEMA_MEMBER(struct image_info, virtual_size, "virtual-size", schema_int, "Bytes that a client sees."),
};
static const struct schema_type schema_image_info =
    SCHEMA_TYPE_STRUCT(struct image_info, "ImageInfo", image_info_members, "An image.");

static const struct schema_member cache_info_members[] = {
    SCHEMA_MEMBER(struct blockdev_cache_info, writeback, "writeback", schema_bool, "Whether writes may be cached."),
    SCHEMA_MEMBER(struct blockdev_cache_info, direct, "direct", schema_bool, "Whether the page cache is bypassed."),
    SCHEMA_MEMBER(struct blockdev_cache_info, no_flush, "no-flush", schema_bool, "Whether flushes are ignored."),
};
static const struct schema_type schema_cache_info =
    SCHEMA_TYPE_STRUCT(struct blockdev_cache_info, "BlockdevCacheInfo", cache_info_members, "Caching of a node.");

#define LIMIT_DOC "A limit of throughput; 0, there is none."
static const struct schema_member block_device_info_members[] = {
    SCHEMA_MEMBER(struct block_device_info, file, "file", schema_str, "The image's file name."),
    SCHEMA_MEMBER(struct block_device_info, node_name, "node-name", schema_str, "The node's name."),
    SCHEMA_MEMBER(struct block_device_info, ro, "ro", schema_bool, "Whether it is read-only."),
    SCHEMA_MEMBER(struct block_device_info, drv, "drv", schema_str, "The driver."),
    SCHEMA_MEMBER(struct block_device_info, backing_file_depth, "backing_file_depth", schema_int, "Backing images."),
    SCHEMA_MEMBER(struct block_device_info, active, "active", schema_bool,
                  "Whether it may be used here, and not by another host that takes it over; always true."),
    SCHEMA_MEMBER(struct block_device_info, encrypted, "encrypted", schema_bool, "Whether the image is encrypted."),
    SCHEMA_MEMBER(struct block_device_info, detect_zeroes, "detect_zeroes", schema_detect_zeroes,
                  "Whether writes are searched for zeroes."),
    SCHEMA_MEMBER(struct block_device_info, bps, "bps", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, bps_rd, "bps_rd", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, bps_wr, "bps_wr", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, iops, "iops", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, iops_rd, "iops_rd", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, iops_wr, "iops_wr", schema_int, LIMIT_DOC),
    SCHEMA_MEMBER(struct block_device_info, image, "image", schema_image_info, "The image."),
    SCHEMA_MEMBER(struct block_device_info, cache, "cache", schema_cache_info, "Caching."),
    SCHEMA_MEMBER(struct block_device_info, write_threshold, "write_threshold", schema_int,
                  "The threshold of an event on writes; 0, there is none."),
};
static const struct schema_type schema_block_device_info =
    SCHEMA_TYPE_STRUCT(struct block_device_info, "BlockDeviceInfo", block_device_info_members, "A node and its image.");
const struct schema_type schema_block_device_info_list =
    SCHEMA_TYPE_ARRAY("[BlockDeviceInfo]", schema_block_device_info);
