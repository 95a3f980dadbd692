/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The decoded arguments and results of all commands, events and command-line options. Names, types and defaults are
 * those of QEMU's QAPI (qapi/block-core.json, block-export.json, sockets.json, char.json, control.json, qom.json,
 * crypto.json, authz.json); types and
 * members that bulkhead adds carry the prefix __org.bulkhead_. The tables that describe these structs are in types-*.c;
 * see schema.h for how a QAPI type looks in C.
 */
#ifndef BULKHEAD_MONITOR_QMP_TYPES_H
#define BULKHEAD_MONITOR_QMP_TYPES_H

#include "monitor/qmp/schema.h"

/* ---- control.json ---- */

enum qmp_capability { QMP_CAPABILITY_OOB };

struct qmp_capabilities_args {
    SCHEMA_LIST(enum qmp_capability) enable;
};
extern const struct schema_type schema_qmp_capabilities_args;

struct version_triple {
    int64_t major;
    int64_t minor;
    int64_t micro;
};

struct version_info {
    struct version_triple qemu;
    const char *package;
};
extern const struct schema_type schema_version_info;

struct command_info {
    const char *name;
};
struct command_info_list {
    struct command_info *items;
    size_t count;
};
extern const struct schema_type schema_command_info_list;

enum monitor_mode { MONITOR_MODE_READLINE, MONITOR_MODE_CONTROL };

/* --monitor */
struct monitor_options {
    const char *id; /* NULL: none */
    enum monitor_mode mode;
    bool pretty;
    const char *chardev;
};
extern const struct schema_type schema_monitor_options;

/* What query-qmp-schema returns; see introspect.c. */
extern const struct schema_type schema_schema_info_list;

/* ---- sockets.json ---- */

enum socket_address_type { SOCKET_ADDRESS_INET, SOCKET_ADDRESS_UNIX, SOCKET_ADDRESS_VSOCK, SOCKET_ADDRESS_FD };

struct inet_socket_address {
    const char *host;
    const char *port;
    bool numeric;
    bool has_to;
    uint16_t to;
    bool has_ipv4;
    bool ipv4;
    bool has_ipv6;
    bool ipv6;
    bool keep_alive;
    bool mptcp;
};

struct unix_socket_address {
    const char *path;
    bool abstract;
    bool tight;        /* default true */
    const char *mode;  /* of the file; NULL: what the umask leaves */
    const char *group; /* NULL: the account's */
};

struct vsock_socket_address {
    const char *cid;
    const char *port;
};

struct fd_socket_address {
    const char *str; /* a number */
};

/*
 * SocketAddress (--nbd-server) and SocketAddressLegacy (nbd-server-start) are the same struct in C: the legacy form's
 * "data" wrapper is only on the wire.
 */
struct socket_address {
    enum socket_address_type type;
    union {
        struct inet_socket_address inet;
        struct unix_socket_address unix_;
        struct vsock_socket_address vsock;
        struct fd_socket_address fd;
    };
};
extern const struct schema_type schema_socket_address;
extern const struct schema_type schema_socket_address_legacy;

/* ---- char.json, in the flat form of --chardev ---- */

enum chardev_backend { CHARDEV_SOCKET, CHARDEV_STDIO, CHARDEV_NULL };

struct chardev_socket {
    const char *path; /* unix */
    bool abstract;
    bool tight;
    const char *mode;
    const char *group;
    const char *host; /* inet */
    const char *port;
    bool has_to;
    uint16_t to;
    bool has_ipv4;
    bool ipv4;
    bool has_ipv6;
    bool ipv6;
    bool nodelay;
    const char *fd; /* inherited */
    bool server;    /* default off: connect as a client */
    bool has_wait;
    bool wait; /* default on for servers */
    bool has_reconnect;
    int64_t reconnect; /* seconds; 0: never */
    bool telnet;
    bool tn3270;
    bool websocket;
    const char *tls_creds;
    const char *tls_authz;
};

struct chardev_stdio {
    bool signal; /* default on */
};

struct chardev_options {
    enum chardev_backend backend;
    const char *id;
    bool mux;
    const char *logfile;
    bool logappend;
    union {
        struct chardev_socket socket;
        struct chardev_stdio stdio_;
    };
};
extern const struct schema_type schema_chardev_options;

/* ---- block-core.json: nodes ---- */

enum blockdev_driver {
    BLOCKDEV_DRIVER_FILE,
    BLOCKDEV_DRIVER_HOST_DEVICE,
    BLOCKDEV_DRIVER_RAW,
    BLOCKDEV_DRIVER_NULL_CO,
    BLOCKDEV_DRIVER_BLKDEBUG,
    BLOCKDEV_DRIVER_MAX,
};
extern const struct schema_type schema_blockdev_driver;

enum blockdev_discard { BLOCKDEV_DISCARD_IGNORE, BLOCKDEV_DISCARD_UNMAP };
enum blockdev_detect_zeroes { BLOCKDEV_DETECT_ZEROES_OFF, BLOCKDEV_DETECT_ZEROES_ON, BLOCKDEV_DETECT_ZEROES_UNMAP };
enum blockdev_aio { BLOCKDEV_AIO_THREADS, BLOCKDEV_AIO_NATIVE, BLOCKDEV_AIO_IO_URING };
enum on_off_auto { ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF };

/* Members with has_ are false (ignore) when absent; a node that is made on the way then takes its parent's. */
struct blockdev_cache_options {
    bool has_direct;
    bool direct;
    bool has_no_flush;
    bool no_flush;
};

struct blockdev_options;

enum blockdev_ref_branch { BLOCKDEV_REF_DEFINITION, BLOCKDEV_REF_REFERENCE };

/* A node by name, or one that is made on the way. */
struct blockdev_ref {
    int branch; /* enum blockdev_ref_branch */
    union {
        struct blockdev_options *definition;
        const char *reference;
    };
};

struct blockdev_options_file { /* file, host_device */
    const char *filename;
    const char *pr_manager; /* NULL: none */
    enum on_off_auto locking;
    bool has_aio;
    enum blockdev_aio aio; /* without has_aio: the best that runs */
    int64_t aio_max_batch;
    bool drop_cache; /* default true */
    bool x_check_cache_dropped;
};

struct blockdev_options_raw {
    struct blockdev_ref file;
    uint64_t offset;
    bool has_size;
    uint64_t size;
};

struct blockdev_options_null {
    int64_t size; /* default 1 GiB */
    uint64_t latency_ns;
    bool read_zeroes;
};

enum blkdebug_iotype {
    BLKDEBUG_IO_TYPE_READ,
    BLKDEBUG_IO_TYPE_WRITE,
    BLKDEBUG_IO_TYPE_WRITE_ZEROES,
    BLKDEBUG_IO_TYPE_DISCARD,
    BLKDEBUG_IO_TYPE_FLUSH,
    BLKDEBUG_IO_TYPE_BLOCK_STATUS,
};

enum blkdebug_event { BLKDEBUG_EVENT_NONE };

struct blkdebug_inject_error {
    enum blkdebug_event event;
    bool has_state;
    int64_t state;
    bool has_iotype; /* without: read, write, write-zeroes, discard and flush */
    enum blkdebug_iotype iotype;
    int64_t errno_code; /* positive; default EIO */
    bool has_sector;
    int64_t sector; /* -1: any */
    bool once;
    bool immediately;
};

struct blockdev_options_blkdebug {
    struct blockdev_ref image;
    const char *config;
    bool has_align;
    int64_t align;
    bool has_max_transfer;
    int64_t max_transfer;
    bool has_opt_write_zero;
    int64_t opt_write_zero;
    bool has_max_write_zero;
    int64_t max_write_zero;
    bool has_opt_discard;
    int64_t opt_discard;
    bool has_max_discard;
    int64_t max_discard;
    SCHEMA_LIST(struct blkdebug_inject_error) inject_error;
};

struct blockdev_options {
    enum blockdev_driver driver;
    const char *node_name; /* NULL: one is made up */
    bool has_discard;
    enum blockdev_discard discard;
    struct blockdev_cache_options cache;
    bool has_read_only;
    bool read_only;
    bool has_auto_read_only;
    bool auto_read_only;
    bool has_force_share;
    bool force_share;
    enum blockdev_detect_zeroes detect_zeroes;
    union {
        struct blockdev_options_file file; /* file, host_device */
        struct blockdev_options_raw raw;
        struct blockdev_options_null null_co;
        struct blockdev_options_blkdebug blkdebug;
    };
};
extern const struct schema_type schema_blockdev_options;

struct blockdev_del_args {
    const char *node_name;
};
extern const struct schema_type schema_blockdev_del_args;

struct block_resize_args {
    const char *device;    /* NULL: none */
    const char *node_name; /* NULL: none */
    uint64_t size;
};
extern const struct schema_type schema_block_resize_args;

struct query_named_block_nodes_args {
    bool flat;
};
extern const struct schema_type schema_query_named_block_nodes_args;

struct image_info {
    const char *filename;
    const char *format;
    bool has_actual_size;
    int64_t actual_size;
    int64_t virtual_size;
};

struct blockdev_cache_info {
    bool writeback;
    bool direct;
    bool no_flush;
};

/* BlockDeviceInfo. Members that are always the same in bulkhead (encrypted, bps, ...) are set all the same. */
struct block_device_info {
    const char *file;
    const char *node_name;
    bool ro;
    const char *drv;
    int64_t backing_file_depth;
    bool active;
    bool encrypted;
    enum blockdev_detect_zeroes detect_zeroes;
    int64_t bps, bps_rd, bps_wr;
    int64_t iops, iops_rd, iops_wr;
    struct image_info image;
    struct blockdev_cache_info cache;
    int64_t write_threshold;
};
struct block_device_info_list {
    struct block_device_info *items;
    size_t count;
};
extern const struct schema_type schema_block_device_info_list;

/* ---- block-export.json ---- */

/* nbd-server-start and --nbd-server. */
struct nbd_server_options {
    struct socket_address addr;
    const char *tls_creds;    /* NULL: none */
    const char *tls_authz;    /* NULL: none */
    uint32_t max_connections; /* 0: no limit; default 100 */
    uint32_t handshake_max_seconds; /* 0: no limit; default 10 */
    uint32_t max_connections_per_peer; /* 0: no limit, the default */
};
extern const struct schema_type schema_nbd_server_options;    /* --nbd-server: addr is a SocketAddress */
extern const struct schema_type schema_nbd_server_start_args; /* nbd-server-start: a SocketAddressLegacy */

enum block_export_type {
    BLOCK_EXPORT_TYPE_NBD,
    BLOCK_EXPORT_TYPE_VHOST_USER_BLK,
    BLOCK_EXPORT_TYPE_FUSE,
    BLOCK_EXPORT_TYPE_MAX
};
extern const struct schema_type schema_block_export_type;

enum block_dirty_bitmap_ref_branch { BLOCK_DIRTY_BITMAP_LOCAL, BLOCK_DIRTY_BITMAP_EXTERNAL };

struct block_dirty_bitmap {
    const char *node;
    const char *name;
};

/* BlockDirtyBitmapOrStr */
struct block_dirty_bitmap_ref {
    int branch; /* enum block_dirty_bitmap_ref_branch */
    union {
        const char *local; /* of the exported node or one below it */
        struct block_dirty_bitmap external;
    };
};

struct block_export_options_nbd {
    const char *name;        /* NULL: the node's name */
    const char *description; /* NULL: none */
    SCHEMA_LIST(struct block_dirty_bitmap_ref) bitmaps;
    bool allocation_depth;
    uint32_t max_connections; /* 0: no limit, the default */
};

struct block_export_options_vhost_user_blk {
    struct socket_address addr;
    uint64_t logical_block_size; /* default 512 */
    uint16_t num_queues;         /* default 1 */
    uint64_t poll_max_ns;        /* default 0: no polling */
};

/* FuseExportAllowOther */
enum fuse_allow_other { FUSE_ALLOW_OTHER_OFF, FUSE_ALLOW_OTHER_ON, FUSE_ALLOW_OTHER_AUTO };

struct block_export_options_fuse {
    const char *mountpoint;
    bool growable;
    enum fuse_allow_other allow_other; /* default auto */
};

struct block_export_options {
    enum block_export_type type;
    const char *id;
    bool fixed_iothread;
    const char *iothread; /* NULL: none */
    const char *node_name;
    bool writable;
    bool writethrough;
    union {
        struct block_export_options_nbd nbd;
        struct block_export_options_vhost_user_blk vhost_user_blk;
        struct block_export_options_fuse fuse;
    };
};
extern const struct schema_type schema_block_export_options;

enum block_export_remove_mode {
    BLOCK_EXPORT_REMOVE_SAFE,
    BLOCK_EXPORT_REMOVE_HARD,
    BLOCK_EXPORT_REMOVE_HIDE, /* this and the next are bulkhead's own */
    BLOCK_EXPORT_REMOVE_SOFT,
};

struct block_export_del_args {
    const char *id;
    enum block_export_remove_mode mode; /* default safe */
};
extern const struct schema_type schema_block_export_del_args;

/* Deprecated commands of the NBD server. */
struct nbd_server_add_args {
    const char *device;
    const char *name;        /* NULL: as device */
    const char *description; /* NULL: none */
    bool writable;
    const char *bitmap; /* NULL: none */
};
extern const struct schema_type schema_nbd_server_add_args;

struct nbd_server_remove_args {
    const char *name;
    enum block_export_remove_mode mode; /* default safe */
};
extern const struct schema_type schema_nbd_server_remove_args;

struct block_export_info {
    const char *id;
    enum block_export_type type;
    const char *node_name;
    bool shutting_down;
};
struct block_export_info_list {
    struct block_export_info *items;
    size_t count;
};
extern const struct schema_type schema_block_export_info_list;

/* Data of the event BLOCK_EXPORT_DELETED. */
struct block_export_deleted {
    const char *id;
};
extern const struct schema_type schema_block_export_deleted;

/* ---- qom.json, crypto.json, authz.json: objects ---- */

enum object_type_id {
    OBJECT_TYPE_AUTHZ_LIST,
    OBJECT_TYPE_AUTHZ_LIST_FILE,
    OBJECT_TYPE_AUTHZ_SIMPLE,
    OBJECT_TYPE_SECRET,
    OBJECT_TYPE_TLS_CREDS_ANON,
    OBJECT_TYPE_TLS_CREDS_PSK,
    OBJECT_TYPE_TLS_CREDS_X509,
    OBJECT_TYPE_MAX,
};
extern const struct schema_type schema_object_type;

enum authz_policy { AUTHZ_POLICY_DENY, AUTHZ_POLICY_ALLOW };
enum authz_format { AUTHZ_FORMAT_EXACT, AUTHZ_FORMAT_GLOB };

struct authz_rule {
    const char *match;
    enum authz_policy policy;
    enum authz_format format; /* default exact */
};

struct authz_list {
    enum authz_policy policy; /* default deny */
    SCHEMA_LIST(struct authz_rule) rules;
};
extern const struct schema_type schema_authz_list; /* also what the file of an authz-list-file holds */

struct authz_list_file {
    const char *filename;
    bool refresh; /* default true */
};

struct authz_simple {
    const char *identity;
};

enum secret_format { SECRET_FORMAT_RAW, SECRET_FORMAT_BASE64 };

struct secret_options {
    bool has_loaded;
    bool loaded;
    enum secret_format format; /* default raw */
    const char *keyid;
    const char *iv;
    const char *data;
    const char *file;
};

enum tls_creds_endpoint { TLS_CREDS_ENDPOINT_CLIENT, TLS_CREDS_ENDPOINT_SERVER };

/* tls-creds-anon, tls-creds-psk, tls-creds-x509: the members that only some have are NULL or default in the others. */
struct tls_creds_options {
    bool verify_peer; /* default true */
    const char *dir;
    enum tls_creds_endpoint endpoint; /* default client */
    const char *priority;
    bool has_loaded;
    bool loaded;
    const char *username;   /* psk */
    bool sanity_check;      /* x509; default true */
    const char *passwordid; /* x509 */
};

struct object_options {
    enum object_type_id type;
    const char *id;
    union {
        struct authz_list authz_list;
        struct authz_list_file authz_list_file;
        struct authz_simple authz_simple;
        struct secret_options secret;
        struct tls_creds_options tls_creds;
    };
};
extern const struct schema_type schema_object_options;

struct object_del_args {
    const char *id;
};
extern const struct schema_type schema_object_del_args;

struct qom_list_args {
    const char *path;
};
extern const struct schema_type schema_qom_list_args;

struct object_property_info {
    const char *name;
    const char *type;
};
struct object_property_info_list {
    struct object_property_info *items;
    size_t count;
};
extern const struct schema_type schema_object_property_info_list;

/*
 * What the types cannot say and needs no state to check: names that are not well-formed, members that are known but
 * not supported, values that no driver takes. Handlers call these first. 0 or -EINVAL; err names the member.
 */
int blockdev_options_check(const struct blockdev_options *options, struct error *err);
int nbd_server_options_check(const struct nbd_server_options *options, struct error *err);
int block_export_options_check(const struct block_export_options *options, struct error *err);
int object_options_check(const struct object_options *options, struct error *err);

/* Names of nodes, exports, chardevs: a letter, then letters, digits, '-', '.', '_'; max bytes at most. */
bool qmp_id_wellformed(const char *id, size_t max);

/* ---- bulkhead's own ---- */

enum qmp_worker_state { QMP_WORKER_CREATING, QMP_WORKER_RUNNING, QMP_WORKER_DRAINING, QMP_WORKER_LOST };

struct worker_descriptors {
    uint32_t images;
    uint32_t clients;
    uint32_t internal; /* control, status, worker page, epoll, eventfd, ring */
};

/* What __org.bulkhead_query-nbd-server returns. The totals are of all servers since the program began. */
struct nbd_server_info {
    bool listening;
    uint32_t max_connections; /* 0: no limit, or not listening */
    uint32_t connections;     /* now, with those in their handshake */
    uint32_t handshaking;
    uint64_t connections_total;
    uint64_t turned_away_total;
};
extern const struct schema_type schema_nbd_server_info;

/* One element of what __org.bulkhead_query-workers returns. */
struct worker_info {
    const char *role; /* name of the sandbox role */
    int64_t pid;
    const char *export_id; /* NULL: serves no export */
    enum qmp_worker_state state;
    SCHEMA_LIST(const char *) sandbox; /* layers in force, as the worker observed them; none before it runs */
    uint32_t landlock_abi;
    const char *engine; /* NULL: none */
    struct worker_descriptors descriptors;
    uint32_t clients;
    uint64_t clients_total;
};
struct worker_info_list {
    struct worker_info *items;
    size_t count;
};
extern const struct schema_type schema_worker_info_list;

/* Data of the event __org.bulkhead_WORKER_GONE. */
struct worker_lost {
    const char *role;
    int64_t pid;
    const char *export_id;
};
extern const struct schema_type schema_worker_lost;

struct worker_gone {
    const char *role;
    int64_t pid;
    const char *export_id; /* NULL: served no export */
    const char *reason;    /* a sentence for an operator */
    bool has_signal;
    int64_t signal;
    bool has_exit_status;
    int64_t exit_status;
    const char *system_call; /* NULL: none was blocked */
};
extern const struct schema_type schema_worker_gone;

#endif
