/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of the types of QEMU's qapi/block-export.json, and of bulkhead's own worker queries and events. */
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/types.h"

/* ---- The NBD server ---- */

#define TLS_CREDS_DOC "Id of an object with credentials for TLS."
#define TLS_AUTHZ_DOC "Id of an object that says which clients are let in by their certificate."
#define MAX_CONNECTIONS_DOC                                                                                            \
    "How many clients may be connected at the same time, once through their handshake; 0: any number."
#define PER_PEER_DOC  "How many of them one account (unix sockets) or address may have; 0: any number."
#define HANDSHAKE_DOC "Seconds that a client has for its handshake; 0: any number."

static const struct schema_member nbd_server_options_members[] = {
    SCHEMA_MEMBER(struct nbd_server_options, addr, "addr", schema_socket_address, "Where to listen."),
    SCHEMA_MEMBER_OPT(struct nbd_server_options, tls_creds, "tls-creds", schema_str, TLS_CREDS_DOC),
    SCHEMA_MEMBER_OPT(struct nbd_server_options, tls_authz, "tls-authz", schema_str, TLS_AUTHZ_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, max_connections, "max-connections", schema_uint32, "100",
                      MAX_CONNECTIONS_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, handshake_max_seconds, "handshake-max-seconds", schema_uint32, "10",
                      HANDSHAKE_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, max_connections_per_peer, "__org.bulkhead_max-connections-per-peer",
                      schema_uint32, "0", PER_PEER_DOC),
};
const struct schema_type schema_nbd_server_options = SCHEMA_TYPE_STRUCT(
    struct nbd_server_options, "NbdServerOptions", nbd_server_options_members, "What --nbd-server takes.");

static const struct schema_member nbd_server_start_members[] = {
    SCHEMA_MEMBER(struct nbd_server_options, addr, "addr", schema_socket_address_legacy, "Where to listen."),
    SCHEMA_MEMBER_OPT(struct nbd_server_options, tls_creds, "tls-creds", schema_str, TLS_CREDS_DOC),
    SCHEMA_MEMBER_OPT(struct nbd_server_options, tls_authz, "tls-authz", schema_str, TLS_AUTHZ_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, max_connections, "max-connections", schema_uint32, "100",
                      MAX_CONNECTIONS_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, handshake_max_seconds, "handshake-max-seconds", schema_uint32, "10",
                      HANDSHAKE_DOC),
    SCHEMA_MEMBER_DEF(struct nbd_server_options, max_connections_per_peer, "__org.bulkhead_max-connections-per-peer",
                      schema_uint32, "0", PER_PEER_DOC),
};
const struct schema_type schema_nbd_server_start_args = SCHEMA_TYPE_STRUCT(
    struct nbd_server_options, "nbd-server-start-arg", nbd_server_start_members, "Arguments of nbd-server-start.");

/* ---- Exports ---- */

static const struct schema_value export_type_values[] = {
    [BLOCK_EXPORT_TYPE_NBD] = { "nbd", "Through the NBD server." },
    [BLOCK_EXPORT_TYPE_VHOST_USER_BLK] = { "vhost-user-blk", "To a virtual machine, as a vhost-user back-end." },
    [BLOCK_EXPORT_TYPE_FUSE] = { "fuse", "As a regular file, mounted on another one." },
};
const struct schema_type schema_block_export_type =
    SCHEMA_TYPE_ENUM_OF_MORE("BlockExportType", export_type_values, elsewhere_export_types, "Kinds of exports.");

static const struct schema_member dirty_bitmap_members[] = {
    SCHEMA_MEMBER(struct block_dirty_bitmap, node, "node", schema_str, "The node that has the bitmap."),
    SCHEMA_MEMBER(struct block_dirty_bitmap, name, "name", schema_str, "The bitmap's name."),
};
static const struct schema_type schema_dirty_bitmap = SCHEMA_TYPE_STRUCT(
    struct block_dirty_bitmap, "BlockDirtyBitmap", dirty_bitmap_members, "A dirty bitmap of a node.");

static const struct schema_variant dirty_bitmap_branches[] = {
    [BLOCK_DIRTY_BITMAP_LOCAL] = { &schema_str, offsetof(struct block_dirty_bitmap_ref, local) },
    [BLOCK_DIRTY_BITMAP_EXTERNAL] = { &schema_dirty_bitmap, offsetof(struct block_dirty_bitmap_ref, external) },
};
static const struct schema_type schema_dirty_bitmap_or_str =
    SCHEMA_TYPE_ALTERNATE(struct block_dirty_bitmap_ref, "BlockDirtyBitmapOrStr", branch, dirty_bitmap_branches,
                          "A dirty bitmap: its name, or node and name.");
static const struct schema_type schema_dirty_bitmap_list =
    SCHEMA_TYPE_ARRAY("[BlockDirtyBitmapOrStr]", schema_dirty_bitmap_or_str);

static const struct schema_member export_nbd_members[] = {
    SCHEMA_MEMBER_OPT(struct block_export_options_nbd, name, "name", schema_str,
                      "The name that clients ask for; default: the node's name."),
    SCHEMA_MEMBER_OPT(struct block_export_options_nbd, description, "description", schema_str,
                      "A text for clients, of up to 4096 bytes."),
    SCHEMA_MEMBER_OPT(struct block_export_options_nbd, bitmaps, "bitmaps", schema_dirty_bitmap_list,
                      "Dirty bitmaps to show to clients; not supported yet."),
    SCHEMA_MEMBER_DEF(struct block_export_options_nbd, allocation_depth, "allocation-depth", schema_bool, "off",
                      "Whether clients may ask for the context qemu:allocation-depth."),
    SCHEMA_MEMBER_DEF(struct block_export_options_nbd, max_connections, "__org.bulkhead_max-connections", schema_uint32,
                      "0", "How many clients the export may have at the same time; 0: any number."),
};
static const struct schema_type schema_export_nbd = SCHEMA_TYPE_STRUCT(
    struct block_export_options_nbd, "BlockExportOptionsNbd", export_nbd_members, "Options of NBD exports.");

static const struct schema_member export_vhost_user_blk_members[] = {
    SCHEMA_MEMBER(struct block_export_options_vhost_user_blk, addr, "addr", schema_socket_address,
                  "Where front-ends connect: types unix and fd."),
    SCHEMA_MEMBER_DEF(struct block_export_options_vhost_user_blk, logical_block_size, "logical-block-size", schema_size,
                      "512", "The disk's block size, a power of 2 from 512 to 2097152."),
    SCHEMA_MEMBER_DEF(struct block_export_options_vhost_user_blk, num_queues, "num-queues", schema_uint16, "1",
                      "Queues that a front-end may use, 1 to 256."),
    SCHEMA_MEMBER_DEF(struct block_export_options_vhost_user_blk, poll_max_ns, "__org.bulkhead_poll-max-ns",
                      schema_uint64, "0",
                      "How long I/O threads look for requests before they sleep, as an iothread's poll-max-ns."),
};
static const struct schema_type schema_export_vhost_user_blk =
    SCHEMA_TYPE_STRUCT(struct block_export_options_vhost_user_blk, "BlockExportOptionsVhostUserBlk",
                       export_vhost_user_blk_members, "Options of vhost-user-blk exports.");

static const struct schema_value fuse_allow_other_values[] = {
    [FUSE_ALLOW_OTHER_OFF] = { "off", "Only the account that bulkhead runs as." },
    [FUSE_ALLOW_OTHER_ON] = { "on", "Everybody whom the file's mode lets; /etc/fuse.conf must have user_allow_other." },
    [FUSE_ALLOW_OTHER_AUTO] = { "auto", "on where the host allows it, else off." },
};
static const struct schema_type schema_fuse_allow_other =
    SCHEMA_TYPE_ENUM("FuseExportAllowOther", fuse_allow_other_values, "Who may use the mounted file.");

static const struct schema_member export_fuse_members[] = {
    SCHEMA_MEMBER(struct block_export_options_fuse, mountpoint, "mountpoint", schema_str,
                  "Path of a regular file, which the export hides while it is there."),
    SCHEMA_MEMBER_DEF(struct block_export_options_fuse, growable, "growable", schema_bool, "off",
                      "Whether writes beyond the end make the image larger."),
    SCHEMA_MEMBER_DEF(struct block_export_options_fuse, allow_other, "allow-other", schema_fuse_allow_other, "auto",
                      "Who may use the file."),
};
static const struct schema_type schema_export_fuse = SCHEMA_TYPE_STRUCT(
    struct block_export_options_fuse, "BlockExportOptionsFuse", export_fuse_members, "Options of FUSE exports.");

static const struct schema_member export_options_members[] = {
    SCHEMA_MEMBER(struct block_export_options, type, "type", schema_block_export_type, "The kind of export."),
    SCHEMA_MEMBER(struct block_export_options, id, "id", schema_str, "The export's name for commands and events."),
    SCHEMA_MEMBER_DEF(struct block_export_options, fixed_iothread, "fixed-iothread", schema_bool, "off",
                      "Accepted for QEMU's sake; each export has its own process and threads."),
    SCHEMA_MEMBER_OPT(struct block_export_options, iothread, "iothread", schema_str,
                      "Id of an iothread object; not supported, each export has its own threads."),
    SCHEMA_MEMBER(struct block_export_options, node_name, "node-name", schema_str, "The node to export."),
    SCHEMA_MEMBER_DEF(struct block_export_options, writable, "writable", schema_bool, "off",
                      "Whether clients may write."),
    SCHEMA_MEMBER_DEF(struct block_export_options, writethrough, "writethrough", schema_bool, "off",
                      "Whether every write is flushed before it is answered."),
};
static const struct schema_variant export_options_variants[] = {
    [BLOCK_EXPORT_TYPE_NBD] = { &schema_export_nbd, offsetof(struct block_export_options, nbd) },
    [BLOCK_EXPORT_TYPE_VHOST_USER_BLK] = { &schema_export_vhost_user_blk,
                                           offsetof(struct block_export_options, vhost_user_blk) },
    [BLOCK_EXPORT_TYPE_FUSE] = { &schema_export_fuse, offsetof(struct block_export_options, fuse) },
};
const struct schema_type schema_block_export_options =
    SCHEMA_TYPE_UNION(struct block_export_options, "BlockExportOptions", type, export_options_members,
                      export_options_variants, "An export.");

static const struct schema_value remove_mode_values[] = {
    [BLOCK_EXPORT_REMOVE_SAFE] = { "safe", "Fail if clients are connected." },
    [BLOCK_EXPORT_REMOVE_HARD] = { "hard", "Drop all clients at once." },
    [BLOCK_EXPORT_REMOVE_HIDE] = { "__org.bulkhead_hide",
                                   "Hide it from new clients, and remove it when the last one has left; NBD only." },
    [BLOCK_EXPORT_REMOVE_SOFT] = { "__org.bulkhead_soft",
                                   "The same, and requests of clients that are connected fail with ESHUTDOWN." },
};
static const struct schema_type schema_remove_mode =
    SCHEMA_TYPE_ENUM("BlockExportRemoveMode", remove_mode_values, "How an export is removed.");

static const struct schema_member export_del_members[] = {
    SCHEMA_MEMBER(struct block_export_del_args, id, "id", schema_str, "The export's id."),
    SCHEMA_MEMBER_DEF(struct block_export_del_args, mode, "mode", schema_remove_mode, "safe", "What of its clients."),
};
const struct schema_type schema_block_export_del_args = SCHEMA_TYPE_STRUCT(
    struct block_export_del_args, "block-export-del-arg", export_del_members, "Arguments of block-export-del.");

static const struct schema_member nbd_server_add_members[] = {
    SCHEMA_MEMBER(struct nbd_server_add_args, device, "device", schema_str, "The node to export."),
    SCHEMA_MEMBER_OPT(struct nbd_server_add_args, name, "name", schema_str,
                      "The name that clients ask for, and the export's id; default: the node's name."),
    SCHEMA_MEMBER_OPT(struct nbd_server_add_args, description, "description", schema_str,
                      "A text for clients, of up to 4096 bytes."),
    SCHEMA_MEMBER_DEF(struct nbd_server_add_args, writable, "writable", schema_bool, "off",
                      "Whether clients may write, if the node is not read-only."),
    SCHEMA_MEMBER_OPT(struct nbd_server_add_args, bitmap, "bitmap", schema_str,
                      "A dirty bitmap to show to clients; not supported yet."),
};
const struct schema_type schema_nbd_server_add_args = SCHEMA_TYPE_STRUCT(
    struct nbd_server_add_args, "NbdServerAddOptions", nbd_server_add_members, "Arguments of nbd-server-add.");

static const struct schema_member nbd_server_remove_members[] = {
    SCHEMA_MEMBER(struct nbd_server_remove_args, name, "name", schema_str, "The export's id."),
    SCHEMA_MEMBER_DEF(struct nbd_server_remove_args, mode, "mode", schema_remove_mode, "safe", "What of its clients."),
};
const struct schema_type schema_nbd_server_remove_args =
    SCHEMA_TYPE_STRUCT(struct nbd_server_remove_args, "nbd-server-remove-arg", nbd_server_remove_members,
                       "Arguments of nbd-server-remove.");

static const struct schema_member export_info_members[] = {
    SCHEMA_MEMBER(struct block_export_info, id, "id", schema_str, "The export's id."),
    SCHEMA_MEMBER(struct block_export_info, type, "type", schema_block_export_type, "The kind of export."),
    SCHEMA_MEMBER(struct block_export_info, node_name, "node-name", schema_str, "The node that is exported."),
    SCHEMA_MEMBER(struct block_export_info, shutting_down, "shutting-down", schema_bool,
                  "Whether it is on its way out."),
};
static const struct schema_type schema_block_export_info =
    SCHEMA_TYPE_STRUCT(struct block_export_info, "BlockExportInfo", export_info_members, "An export.");
const struct schema_type schema_block_export_info_list =
    SCHEMA_TYPE_ARRAY("[BlockExportInfo]", schema_block_export_info);

static const struct schema_member export_deleted_members[] = {
    SCHEMA_MEMBER(struct block_export_deleted, id, "id", schema_str, "The export's id, free again."),
};
const struct schema_type schema_block_export_deleted = SCHEMA_TYPE_STRUCT(
    struct block_export_deleted, "BLOCK_EXPORT_DELETED-arg", export_deleted_members, "Data of BLOCK_EXPORT_DELETED.");

/* ---- bulkhead's own ---- */

static const struct schema_member nbd_server_info_members[] = {
    SCHEMA_MEMBER(struct nbd_server_info, listening, "listening", schema_bool, "Whether clients can come."),
    SCHEMA_MEMBER(struct nbd_server_info, max_connections, "max-connections", schema_uint32,
                  "So many at the same time, without those in their handshake; 0: no limit, or no server."),
    SCHEMA_MEMBER(struct nbd_server_info, connections, "connections", schema_uint32,
                  "Clients that are connected, with those in their handshake."),
    SCHEMA_MEMBER(struct nbd_server_info, handshaking, "handshaking", schema_uint32, "Those in their handshake."),
    SCHEMA_MEMBER(struct nbd_server_info, connections_total, "connections-total", schema_uint64,
                  "Clients that were taken since the program began."),
    SCHEMA_MEMBER(struct nbd_server_info, turned_away_total, "turned-away-total", schema_uint64,
                  "Clients for whom there was no place since the program began."),
};
const struct schema_type schema_nbd_server_info = SCHEMA_TYPE_STRUCT(
    struct nbd_server_info, "__org.bulkhead_NbdServerInfo", nbd_server_info_members, "The NBD server and its clients.");

static const struct schema_value worker_state_values[] = {
    [QMP_WORKER_CREATING] = { "creating", "Starting; nothing of a client has been read." },
    [QMP_WORKER_RUNNING] = { "running", "Locked down and serving." },
    [QMP_WORKER_DRAINING] = { "draining", "Finishing." },
    [QMP_WORKER_LOST] = { "lost", "Killed, and yet not at its end; its export is gone, its image still locked." },
};
static const struct schema_type schema_worker_state =
    SCHEMA_TYPE_ENUM("__org.bulkhead_WorkerState", worker_state_values, "The life of a worker process.");

static const struct schema_member worker_descriptors_members[] = {
    SCHEMA_MEMBER(struct worker_descriptors, images, "images", schema_uint32, "Images."),
    SCHEMA_MEMBER(struct worker_descriptors, clients, "clients", schema_uint32, "Sockets of clients."),
    SCHEMA_MEMBER(struct worker_descriptors, internal, "internal", schema_uint32,
                  "Its link to the monitor, and what its loops and rings need."),
};
static const struct schema_type schema_worker_descriptors =
    SCHEMA_TYPE_STRUCT(struct worker_descriptors, "__org.bulkhead_WorkerDescriptors", worker_descriptors_members,
                       "Descriptors that a worker holds.");

static const struct schema_member worker_info_members[] = {
    SCHEMA_MEMBER(struct worker_info, role, "role", schema_str, "What it does: the name of its sandbox's row."),
    SCHEMA_MEMBER(struct worker_info, pid, "pid", schema_int, "Its process id."),
    SCHEMA_MEMBER_OPT(struct worker_info, export_id, "export", schema_str, "The export that it serves."),
    SCHEMA_MEMBER(struct worker_info, state, "state", schema_worker_state, "Where in its life it is."),
    SCHEMA_MEMBER(struct worker_info, sandbox, "sandbox", schema_str_list,
                  "Layers of the sandbox that are in force, as the worker itself observed them."),
    SCHEMA_MEMBER(struct worker_info, landlock_abi, "landlock-abi", schema_uint32,
                  "Version of Landlock that confines it; 0: none."),
    SCHEMA_MEMBER_OPT(struct worker_info, engine, "engine", schema_str, "The engine of its I/O."),
    SCHEMA_MEMBER(struct worker_info, descriptors, "descriptors", schema_worker_descriptors, "What it holds."),
    SCHEMA_MEMBER(struct worker_info, clients, "clients", schema_uint32, "Clients that it serves now."),
    SCHEMA_MEMBER(struct worker_info, clients_total, "clients-total", schema_uint64, "Clients since its start."),
};
static const struct schema_type schema_worker_info =
    SCHEMA_TYPE_STRUCT(struct worker_info, "__org.bulkhead_WorkerInfo", worker_info_members, "A worker process.");
const struct schema_type schema_worker_info_list = SCHEMA_TYPE_ARRAY("[__org.bulkhead_WorkerInfo]", schema_worker_info);

static const struct schema_member worker_lost_members[] = {
    SCHEMA_MEMBER(struct worker_lost, role, "role", schema_str, "What it did."),
    SCHEMA_MEMBER(struct worker_lost, pid, "pid", schema_int, "Its process id."),
    SCHEMA_MEMBER(struct worker_lost, export_id, "export", schema_str,
                  "The export that it served, which ends without it."),
};
const struct schema_type schema_worker_lost = SCHEMA_TYPE_STRUCT(
    struct worker_lost, "__org.bulkhead_WORKER_LOST-arg", worker_lost_members, "Data of __org.bulkhead_WORKER_LOST.");

static const struct schema_member worker_gone_members[] = {
    SCHEMA_MEMBER(struct worker_gone, role, "role", schema_str, "What it did."),
    SCHEMA_MEMBER(struct worker_gone, pid, "pid", schema_int, "Its process id."),
    SCHEMA_MEMBER_OPT(struct worker_gone, export_id, "export", schema_str, "The export that it served."),
    SCHEMA_MEMBER(struct worker_gone, reason, "reason", schema_str, "Why, in a sentence."),
    SCHEMA_MEMBER_HAS(struct worker_gone, signal, "signal", schema_int, "The signal that killed it."),
    SCHEMA_MEMBER_HAS(struct worker_gone, exit_status, "exit-status", schema_int, "The status that it exited with."),
    SCHEMA_MEMBER_OPT(struct worker_gone, system_call, "system-call", schema_str,
                      "The system call that its filter blocked."),
};
const struct schema_type schema_worker_gone = SCHEMA_TYPE_STRUCT(
    struct worker_gone, "__org.bulkhead_WORKER_GONE-arg", worker_gone_members, "Data of __org.bulkhead_WORKER_GONE.");
