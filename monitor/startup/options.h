/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line: what it may say is a table, and reading it has no effect on anything. Options that make something
 * (nodes, exports, ...) become items that are carried out later, in the order of the command line. The operator is
 * trusted, but makes mistakes: everything is decoded and checked before anything is done.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_OPTIONS_H
#define BULKHEAD_MONITOR_STARTUP_OPTIONS_H

#include "common/base/log.h"
#include "monitor/qmp/types.h"

#define STARTUP_ITEMS_MAX 4096

struct startup_item;

enum startup_item_id {
    STARTUP_BLOCKDEV,
    STARTUP_NBD_SERVER,
    STARTUP_EXPORT,
    STARTUP_CHARDEV,
    STARTUP_MONITOR,
    STARTUP_OBJECT,
    STARTUP_ITEM_MAX,
};

/* Something to be made, decoded. */
struct startup_item {
    enum startup_item_id id;
    const char *text; /* as it was given; in argv */
    union {
        struct blockdev_options blockdev;
        struct nbd_server_options nbd_server;
        struct block_export_options export;
        struct chardev_options chardev;
        struct monitor_options monitor;
        struct object_options object;
    };
};

struct startup_options {
    bool help;
    bool version;
    bool daemonize;
    bool has_log_level;
    enum log_level log_level;
    const char *log_to;  /* NULL: standard error, or syslog in the background */
    const char *user;    /* NULL: stay who we are */
    const char *pidfile; /* NULL: none */
    struct startup_item *items;
    unsigned item_count;
};

/*
 * Read the command line. 0 or -EINVAL (-ENOMEM) with an error that names the option. *ret is to be given to
 * startup_options_done() in any case. After --help or --version nothing else is looked at.
 */
int startup_options_parse(int argc, char **argv, struct startup_options *ret, struct error *err);
void startup_options_done(struct startup_options *options);

/* Put the item in front of an error: its option and text; of an object, which may be a secret, only the id. */
int startup_item_blame(const struct startup_item *item, struct error *err);

/* A text for --help, as long as stdout takes it. */
void startup_options_help(const char *program);

/* Where an item says which inherited descriptor it is to use: fd=... of a chardev, addr.str of others. NULL: it does not. */
const char **startup_item_fd_text(struct startup_item *item);

/*
 * Which inherited descriptor an item is to use: fd=N of a chardev, addr.str of an NBD server. False: none, or no
 * number, which whoever opens it will say.
 */
bool startup_item_fd(const struct startup_item *item, int *ret_fd);

#endif
