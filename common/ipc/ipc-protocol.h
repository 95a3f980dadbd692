/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The catalogue of everything that the monitor and its workers say to each other (docs/ipc.md is its text). Both sides
 * are always built together, so structs travel as they are; each side still treats what it gets as hostile.
 *
 * Control, monitor to worker: one SOCK_SEQPACKET datagram is one message: struct ipc_header, then the payload of its
 * type, with a fixed number of descriptors (SCM_RIGHTS). Status, worker to monitor: fixed-size records on a packet pipe.
 *
 * Strings are NUL-terminated within their arrays; a receiver checks that.
 */
#ifndef BULKHEAD_IPC_IPC_PROTOCOL_H
#define BULKHEAD_IPC_IPC_PROTOCOL_H

#include <stdint.h>

#include "common/ipc/tls-credentials.h"

#define IPC_MAGIC 0x62756c6bu /* "bulk" */

#define IPC_NODES_MAX       16
#define IPC_IMAGE_FDS_MAX   16
#define IPC_RULES_MAX       8
#define IPC_NODE_NAME_MAX   32   /* with NUL; the limit of QEMU's node names */
#define IPC_NAME_MAX        4097 /* with NUL; NBD proto.md, "Terminology": strings of at most 4096 bytes */
#define IPC_EXPORT_ID_MAX   128  /* with NUL */
#define IPC_BLOCK_SIZE_MIN  1
#define IPC_MAX_FDS         24 /* of one message */
#define IPC_MESSAGE_MAX     32768
#define IPC_VHOST_QUEUES_MAX 256 /* a vring index has 8 bits */
#define IPC_VHOST_BLOCK_MIN  512
#define IPC_VHOST_BLOCK_MAX  (2u << 20)
#define IPC_FUSE_DEVICES_MAX 16 /* two for each I/O thread */
#define IPC_STATUS_BYTES    512 /* every status record; below PIPE_BUF */
#define IPC_STATUS_TEXT_MAX 384
#define IPC_IO_THREADS_MAX  64
#define IPC_TLS_IDENTITY_MAX 384 /* with NUL; whoever has a longer name is refused */
#define IPC_TLS_SESSION_MAX  96  /* with NUL */
#define IPC_HOST_MAX        256 /* with NUL */
#define IPC_PORT_MAX        32  /* with NUL */
#define IPC_ADDRESSES_MAX   16  /* that a host name may have */
#define IPC_NAMESPACES      7 /* user, mnt, pid, net, ipc, uts, cgroup: in the order of their layer bits */

/* The roles that a worker process can have. */
enum ipc_role {
    IPC_ROLE_NBD_NEGOTIATOR = 1,
    IPC_ROLE_NBD_EXPORT = 2,
    IPC_ROLE_VHOST = 3,
    IPC_ROLE_FUSE = 4,
    IPC_ROLE_NBD_NEGOTIATOR_TLS = 5,
    IPC_ROLE_TLS_SIGNER = 6,
    IPC_ROLE_OPENER = 7,
    IPC_ROLE_VHOST_DOOR = 8,
    IPC_ROLE_RESOLVER = 9,
};

/* ---- Control messages ---- */

enum ipc_type {
    IPC_BOOT = 1,  /* any role, first message, once */
    IPC_NEGOTIATE, /* nbd negotiator: one client. Descriptors: client socket, export directory */
    IPC_CLIENT,    /* nbd export: a client whose handshake is over. Descriptors: client socket */
    IPC_DRAIN,     /* finish what is in flight, close clients, exit */
    IPC_VHOST_LISTEN, /* vhost: begin to serve. Descriptors: link to its door */
    IPC_FUSE_SERVE, /* fuse: begin to serve. Descriptors: the mounted /dev/fuse and clones of it */
    IPC_FUSE_RESIZE, /* fuse: the answer to the status record FUSE_RESIZE */
    IPC_NODE_RESIZED, /* exports: the image has another size, look again */
    IPC_NEGOTIATE_TLS, /* tls negotiator: one client. Descriptors: client, export directory, credentials, signer */
    IPC_TLS_PERMIT,    /* tls negotiator: the client that TLS_PEER told of is let in */
    IPC_TLS_RELAY,     /* tls negotiator: NEGOTIATED was accepted. Descriptors: a stream to the export's worker */
    IPC_SIGNER_LOAD,   /* signer: what it signs with. Descriptors: credentials, then the file with the keys, if any */
    IPC_NBD_SHUT_DOWN, /* nbd export: answer what clients ask from now on with NBD_ESHUTDOWN */
    IPC_SIGNER_CLIENT, /* signer: one handshake. Descriptors: the signer's end of a SOCK_SEQPACKET pair */
    IPC_OPENER_TASK,   /* opener: fork a child for it. Descriptors: the child's end of a SOCK_SEQPACKET pair */
    IPC_RESOLVE,       /* resolver: find the addresses of a host name */
    IPC_NBD_PROBE,     /* nbd export: answer when all threads have come by */
    IPC_VHOST_DOOR,    /* vhost door: accept front-ends. Descriptors: listening socket, link to the export's worker */
    IPC_VHOST_FRONTEND,  /* on the link, by the door: one front-end. Descriptors: its connection, a stream of its messages */
};

struct ipc_header {
    uint32_t magic;
    uint16_t type;     /* enum ipc_type */
    uint16_t fd_count; /* descriptors that came along */
    uint32_t len_bytes; /* of the whole datagram */
    uint32_t reserved;
};

/* Sandbox layers, as bits of one mask: configured (BOOT) and observed (READY). */
enum ipc_layer {
    IPC_LAYER_NO_NEW_PRIVS = 1u << 0,
    IPC_LAYER_NON_DUMPABLE = 1u << 1,
    IPC_LAYER_USER_NS = 1u << 2,
    IPC_LAYER_MOUNT_NS = 1u << 3,
    IPC_LAYER_PID_NS = 1u << 4,
    IPC_LAYER_NET_NS = 1u << 5,
    IPC_LAYER_IPC_NS = 1u << 6,
    IPC_LAYER_UTS_NS = 1u << 7,
    IPC_LAYER_CGROUP_NS = 1u << 8,
    IPC_LAYER_EMPTY_ROOT = 1u << 9,
    IPC_LAYER_NO_CAPABILITIES = 1u << 10,
    IPC_LAYER_RLIMITS = 1u << 11,
    IPC_LAYER_LANDLOCK = 1u << 12,
    IPC_LAYER_SECCOMP = 1u << 13,
};
#define IPC_LAYERS_ALL ((1u << 14) - 1)

/* How requests that may block are executed; the numbers of enum io_engine_kind. */
enum ipc_engine { IPC_ENGINE_AUTO, IPC_ENGINE_URING, IPC_ENGINE_THREADS };

enum ipc_driver {
    IPC_DRIVER_FILE = 1,
    IPC_DRIVER_HOST_DEVICE,
    IPC_DRIVER_RAW,
    IPC_DRIVER_NULL_CO,
    IPC_DRIVER_BLKDEBUG,
};

/* Flags of struct ipc_node. */
#define IPC_NODE_READ_ONLY     (1u << 0)
#define IPC_NODE_DISCARD_UNMAP (1u << 1)
#define IPC_NODE_CACHE_DIRECT  (1u << 2) /* the descriptor was opened with O_DIRECT */
#define IPC_NODE_NO_FLUSH      (1u << 3)
#define IPC_NODE_READ_ZEROES   (1u << 4) /* null-co */
#define IPC_NODE_HAS_SIZE      (1u << 5) /* raw, null-co */

/* An error to inject (blkdebug). */
struct ipc_inject_rule {
    uint32_t op_mask;   /* bits 1 << enum block_op */
    int32_t errno_code; /* positive errno */
    uint32_t once;
    uint32_t reserved;
    int64_t sector; /* 512-byte sector that the request must touch; -1: any */
};

/* One node of the tree, children before parents; the last one is the root. */
struct ipc_node {
    uint32_t driver; /* enum ipc_driver */
    uint32_t flags;
    int32_t fd_index;    /* into the image descriptors of BOOT; -1: none */
    int32_t child_index; /* into the node table, lower than its own; -1: none */
    uint64_t offset_bytes; /* raw */
    uint64_t size_bytes;   /* raw, null-co, with IPC_NODE_HAS_SIZE */
    uint64_t latency_ns;   /* null-co */
    uint32_t rule_count;   /* blkdebug */
    uint32_t reserved;
    struct ipc_inject_rule rules[IPC_RULES_MAX];
    char name[IPC_NODE_NAME_MAX]; /* for messages only */
};

/* Flags of an export. */
#define IPC_EXPORT_WRITABLE     (1u << 0)
#define IPC_EXPORT_WRITETHROUGH (1u << 1)
#define IPC_EXPORT_FLAGS_ALL    (IPC_EXPORT_WRITABLE | IPC_EXPORT_WRITETHROUGH)

/* BOOT, descriptors: the worker page (memfd, see worker-page.h), then image_fd_count images. */
struct ipc_boot {
    struct ipc_header header;
    uint32_t role;           /* enum ipc_role */
    uint32_t layers;         /* layers that the spawner put in force or asks for: enum ipc_layer */
    uint32_t engine;         /* enum ipc_engine */
    uint32_t io_threads;     /* 1 to IPC_IO_THREADS_MAX for export roles, 0 for others */
    uint32_t export_flags;   /* IPC_EXPORT_* */
    uint32_t node_count;     /* 0 for roles without images */
    uint32_t image_fd_count; /* 0 for roles without images */
    uint32_t log_level;      /* enum log_level */
    uint64_t poll_max_ns;
    uint32_t uid;            /* of the account, as the monitor has it */
    uint32_t gid;
    uint64_t spawner_ns[IPC_NAMESPACES]; /* inode numbers of the monitor's namespaces; 0: it could not tell */
    char export_id[IPC_EXPORT_ID_MAX]; /* for messages; "" for roles without export */
    struct ipc_node nodes[IPC_NODES_MAX];
};

/*
 * NEGOTIATE, descriptors: client socket, export directory (sealed memfd, see nbd-directory.h). The monitor has made the
 * socket O_NONBLOCK, workers cannot and refuse one that is not; the export worker sets TCP_NODELAY.
 */
struct ipc_negotiate {
    struct ipc_header header;
    uint64_t client_id;
    uint32_t handshake_max_ms; /* 0: no limit */
    uint32_t reserved;
};

/* What an NBD handshake ended with. Flags and contexts as numbered here, not as on the wire. */
#define IPC_NBD_STRUCTURED_REPLY (1u << 0)
#define IPC_NBD_EXTENDED_HEADERS (1u << 1)
#define IPC_NBD_FLAGS_ALL        (IPC_NBD_STRUCTURED_REPLY | IPC_NBD_EXTENDED_HEADERS)

#define IPC_NBD_CONTEXT_BASE_ALLOCATION  (1u << 0)
#define IPC_NBD_CONTEXT_ALLOCATION_DEPTH (1u << 1)
#define IPC_NBD_CONTEXTS_ALL             (IPC_NBD_CONTEXT_BASE_ALLOCATION | IPC_NBD_CONTEXT_ALLOCATION_DEPTH)

struct ipc_nbd_negotiated {
    uint64_t client_id;     /* of NEGOTIATE */
    uint64_t export_serial; /* of the directory entry that the client chose */
    uint32_t flags;         /* IPC_NBD_* */
    uint32_t contexts;      /* IPC_NBD_CONTEXT_*; bit i has the wire id i + 1 */
};

/* CLIENT, descriptors: client socket. */
struct ipc_client {
    struct ipc_header header;
    struct ipc_nbd_negotiated negotiated;
};

struct ipc_drain {
    struct ipc_header header;
};

/*
 * VHOST_LISTEN, descriptors: one end of the link, a channel on which the export's door introduces front-ends, by messages
 * that are a header of type VHOST_FRONTEND. After READY: a worker that has not yet opened its image in the sandbox is not
 * to be reached by anybody. Again, with the same numbers, when there is another door.
 */
struct ipc_vhost_listen {
    struct ipc_header header;
    uint32_t queues;              /* 1 to IPC_VHOST_QUEUES_MAX */
    uint32_t logical_block_bytes; /* a power of 2, IPC_VHOST_BLOCK_MIN to IPC_VHOST_BLOCK_MAX */
};

/* VHOST_DOOR, descriptors: a listening unix socket, O_NONBLOCK, and the other end of the link. Once. */
struct ipc_vhost_door {
    struct ipc_header header;
};

/* Flags of FUSE_SERVE. */
#define IPC_FUSE_GROWABLE    (1u << 0) /* writes beyond the end make the image larger */
#define IPC_FUSE_MAY_RESIZE  (1u << 1) /* the export holds the permission to resize; else it asks by FUSE_RESIZE */
#define IPC_FUSE_ALLOW_OTHER (1u << 2) /* the mount has allow_other: owner and mode mean something */
#define IPC_FUSE_FLAGS_ALL   (IPC_FUSE_GROWABLE | IPC_FUSE_MAY_RESIZE | IPC_FUSE_ALLOW_OTHER)

/*
 * FUSE_SERVE, descriptors of one connection to /dev/fuse, in pairs: one that blocks, then its twin with O_NONBLOCK. Thread
 * i serves pair i; more threads than pairs share. Once, after READY.
 */
struct ipc_fuse_serve {
    struct ipc_header header;
    uint32_t flags; /* IPC_FUSE_* */
    uint32_t uid;   /* who the file belongs to at first */
    uint32_t gid;
    uint32_t reserved;
};

struct ipc_fuse_resize {
    struct ipc_header header;
    uint64_t serial; /* of the record that asked */
    int32_t code;    /* 0: resize now, then tell by FUSE_RESIZED; -errno: it may not be */
    uint32_t reserved;
};

/* NBD_SHUT_DOWN: until the last client has left, or DRAIN comes. */
struct ipc_nbd_shut_down {
    struct ipc_header header;
};

/* NBD_PROBE: the answer acknowledges all clients that were sent before. One at a time. */
struct ipc_nbd_probe {
    struct ipc_header header;
    uint64_t serial; /* from 1 */
};

/* NODE_RESIZED: somebody resized the image of the node, which the worker then looks at itself. */
struct ipc_node_resized {
    struct ipc_header header;
};

/*
 * NEGOTIATE_TLS, descriptors: client socket, export directory, credentials (sealed memfd, see tls-credentials.h), a
 * blocking SOCK_SEQPACKET socket to the signer (see tls-signer.h) that times out. The fields are those of NEGOTIATE.
 */

/* TLS_PERMIT. Who is not let in is not answered: the monitor ends the negotiator. */
struct ipc_tls_permit {
    struct ipc_header header;
    uint64_t client_id;
};

/* TLS_RELAY, descriptors: a connected stream socket, O_NONBLOCK, whose other end is the client of an export's worker. */
struct ipc_tls_relay {
    struct ipc_header header;
    uint64_t client_id;
};

/* SIGNER_LOAD, once, answered by SIGNER_LOADED. */
struct ipc_signer_load {
    struct ipc_header header;
    uint32_t password_len_bytes;
    uint32_t reserved;
    uint8_t password[TLS_PASSWORD_MAX]; /* of the private key */
};

struct ipc_signer_client {
    struct ipc_header header;
};

/* OPENER_TASK: what is to be done comes on the socket (monitor/opener/opener-protocol.h). */
struct ipc_opener_task {
    struct ipc_header header;
};

/* RESOLVE, once, answered by RESOLVED. */
struct ipc_resolve {
    struct ipc_header header;
    uint32_t family; /* 0: any, 1: IPv4, 2: IPv6 */
    uint32_t reserved;
    char host[IPC_HOST_MAX];
    char port[IPC_PORT_MAX]; /* a number or the name of a service */
};

/* ---- Status records ---- */

enum ipc_status_type {
    IPC_STATUS_READY = 1,   /* locked down, node tree open */
    IPC_STATUS_FAILED,      /* could not start; the worker exits */
    IPC_STATUS_LOG,         /* a line for the log */
    IPC_STATUS_BLOCKED,     /* a blocked system call; the worker dies */
    IPC_STATUS_NEGOTIATED,  /* nbd negotiator: handshake done */
    IPC_STATUS_CLIENT_GONE, /* nbd export, and a negotiator whose client left: client_id and why */
    IPC_STATUS_IO_ERROR,    /* an export's request failed below it */
    IPC_STATUS_FUSE_SERVING, /* fuse: the kernel and the worker have agreed; the mount can be used */
    IPC_STATUS_FUSE_RESIZE,  /* fuse: a client wants another size, and the export has no permission for that */
    IPC_STATUS_FUSE_RESIZED, /* fuse: the size has been changed */
    IPC_STATUS_FUSE_GONE,    /* fuse: the mount is gone; nobody will ask for anything any more */
    IPC_STATUS_TLS_PEER,      /* tls negotiator: the TLS handshake is over, this is who the client proved to be */
    IPC_STATUS_SIGNER_LOADED, /* signer: the credentials can be used, or why not */
    IPC_STATUS_RESOLVED,      /* resolver: the addresses, or why there are none */
    IPC_STATUS_NBD_PROBED,    /* nbd export: all its threads run, and have taken the clients that they were given */
    IPC_STATUS_CLIENT_LEFT,   /* nbd export: its connection is over; requests of it are still under way */
};

struct ipc_status_ready {
    uint32_t layers;   /* as observed by the worker itself: enum ipc_layer */
    uint32_t engine;   /* enum ipc_engine, never AUTO; 0 for roles without */
    uint32_t fd_count; /* descriptors open at lock-down */
    uint32_t min_block_bytes;
    uint64_t size_bytes;
    uint32_t preferred_block_bytes;
    uint32_t max_transfer_bytes;
    uint32_t export_flags; /* IPC_EXPORT_WRITABLE if it is */
    uint32_t landlock_abi; /* 0: none */
    uint32_t can_fast_zero;
    uint32_t reserved;
};

struct ipc_status_failed {
    int32_t code; /* -errno */
    char text[IPC_STATUS_TEXT_MAX];
};

struct ipc_status_log {
    uint32_t level; /* enum log_level */
    char text[IPC_STATUS_TEXT_MAX];
};

struct ipc_status_blocked {
    uint32_t arch; /* AUDIT_ARCH_* */
    int32_t nr;    /* system call number */
};

struct ipc_status_client_gone {
    uint64_t client_id;
    uint32_t error; /* 0: the client left in order; 1: it erred or vanished */
    char text[IPC_STATUS_TEXT_MAX]; /* why, for the log */
};

struct ipc_status_io_error {
    uint32_t op;     /* enum block_op */
    int32_t code;    /* -errno */
    uint64_t offset;
    uint64_t len_bytes;
    uint64_t suppressed; /* similar errors that were not reported since the last one */
};

struct ipc_status_fuse_serving {
    uint32_t protocol_minor; /* of FUSE 7.x that kernel and worker agreed on */
    uint32_t max_write_bytes;
    uint32_t device_pairs;
    uint32_t reserved;
};

struct ipc_status_fuse_resize {
    uint64_t serial; /* counts from 1. RESIZED: of what was asked for and is now over; 0: it did not have to ask */
    uint64_t size_bytes;
};

struct ipc_status_fuse_gone {
    int32_t code; /* -ENODEV: unmounted; -ECONNABORTED: the connection was aborted; other -errno */
};

/* The identity is what a client chose to be called and a CA or a shared key vouches for: hostile text, no control characters. */
struct ipc_status_tls_peer {
    uint64_t client_id;
    uint32_t has_identity; /* 0: it did not have to say who it is */
    uint32_t reserved;
    char identity[IPC_TLS_IDENTITY_MAX]; /* distinguished name, or PSK user */
    char session[IPC_TLS_SESSION_MAX];   /* protocol and ciphers, for the log */
};

struct ipc_address {
    uint16_t is_ipv6;
    uint16_t port;
    uint32_t scope;    /* IPv6 */
    uint8_t bytes[16]; /* in network order; 4 of them for IPv4 */
};

struct ipc_status_resolved {
    uint32_t failed; /* 1: text says why */
    uint32_t count;
    struct ipc_address addresses[IPC_ADDRESSES_MAX];
    char text[64];
};

struct ipc_status_signer_loaded {
    int32_t code; /* 0 or -errno */
    char text[IPC_STATUS_TEXT_MAX]; /* why not */
};

struct ipc_status_nbd_probed {
    uint64_t serial; /* of the probe */
};

struct ipc_status_client_left {
    uint64_t client_id;
};

struct ipc_status {
    uint32_t magic;
    uint32_t type; /* enum ipc_status_type */
    union {
        struct ipc_status_ready ready;
        struct ipc_status_failed failed;
        struct ipc_status_log log;
        struct ipc_status_blocked blocked;
        struct ipc_nbd_negotiated negotiated;
        struct ipc_status_client_gone client_gone;
        struct ipc_status_io_error io_error;
        struct ipc_status_fuse_serving fuse_serving;
        struct ipc_status_fuse_gone fuse_gone;
        struct ipc_status_fuse_resize fuse_resize; /* FUSE_RESIZE, FUSE_RESIZED */
        struct ipc_status_tls_peer tls_peer;
        struct ipc_status_signer_loaded signer_loaded;
        struct ipc_status_resolved resolved;
        struct ipc_status_nbd_probed nbd_probed;
        struct ipc_status_client_left client_left;
        uint8_t bytes[IPC_STATUS_BYTES - 8];
    };
};

_Static_assert(sizeof(struct ipc_status) == IPC_STATUS_BYTES, "a status record has one size");
_Static_assert(sizeof(struct ipc_boot) <= IPC_MESSAGE_MAX, "BOOT fits a message");

#endif
