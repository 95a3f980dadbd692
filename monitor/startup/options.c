/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line as tables; see options.h. Pure: no file is opened, nothing is started. */
#include "monitor/startup/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "monitor/qmp/keyval.h"
#include "monitor/qmp/socket.h"

/* ---- Options that make something ---- */

static const struct {
    const char *option;
    const struct keyval_syntax *syntax;
    const struct schema_type *type;
} item_kinds[STARTUP_ITEM_MAX] = {
    [STARTUP_BLOCKDEV] = { "--blockdev", &keyval_blockdev, &schema_blockdev_options },
    [STARTUP_NBD_SERVER] = { "--nbd-server", &keyval_nbd_server, &schema_nbd_server_options },
    [STARTUP_EXPORT] = { "--export", &keyval_export, &schema_block_export_options },
    [STARTUP_CHARDEV] = { "--chardev", &keyval_chardev, &schema_chardev_options },
    [STARTUP_MONITOR] = { "--monitor", &keyval_monitor, &schema_monitor_options },
    [STARTUP_OBJECT] = { "--object", &keyval_object, &schema_object_options },
};

int startup_item_blame(const struct startup_item *item, struct error *err)
{
    const char *option = item_kinds[item->id].option;

    if (item->id != STARTUP_OBJECT)
        return error_prepend(err, "%s '%.200s'", option, item->text);
    return item->object.id != NULL ? error_prepend(err, "%s '%.200s'", option, item->object.id)
                                   : error_prepend(err, "%s", option);
}

static int add_item(struct startup_options *options, enum startup_item_id id, const char *text, struct error *err)
{
    struct startup_item *items;
    struct startup_item *item;
    int r;

    if (options->item_count == STARTUP_ITEMS_MAX)
        return error_set(err, -E2BIG, "more than %d options", STARTUP_ITEMS_MAX);
    items = realloc(options->items, (options->item_count + 1) * sizeof(*items));
    if (items == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    options->items = items;
    item = &items[options->item_count];
    memset(item, 0, sizeof(*item));
    item->id = id;
    item->text = text;
    r = keyval_decode(item_kinds[id].syntax, text, item_kinds[id].type, &item->blockdev, err);
    if (r < 0)
        return startup_item_blame(item, err);
    options->item_count++;
    return 0;
}

static int take_blockdev(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_BLOCKDEV, value, err);
}

static int take_nbd_server(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_NBD_SERVER, value, err);
}

static int take_export(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_EXPORT, value, err);
}

static int take_chardev(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_CHARDEV, value, err);
}

static int take_monitor(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_MONITOR, value, err);
}

static int take_object(struct startup_options *options, const char *value, struct error *err)
{
    return add_item(options, STARTUP_OBJECT, value, err);
}

/* ---- Options about the process ---- */

static int take_user(struct startup_options *options, const char *value, struct error *err)
{
    options->user = value;
    return 0;
}

static int take_pidfile(struct startup_options *options, const char *value, struct error *err)
{
    if (value[0] == '\0')
        return error_set(err, -EINVAL, "--pidfile needs a path");
    options->pidfile = value;
    return 0;
}

static int take_daemonize(struct startup_options *options, const char *value, struct error *err)
{
    options->daemonize = true;
    return 0;
}

static int take_log_level(struct startup_options *options, const char *value, struct error *err)
{
    static const char *const levels[] = { "error", "warning", "info", "debug" };

    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
        if (strcmp(levels[i], value) == 0) {
            options->log_level = (enum log_level)i;
            options->has_log_level = true;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "--log-level must be error, warning, info or debug, not '%.64s'", value);
}

static int take_log_to(struct startup_options *options, const char *value, struct error *err)
{
    if (strcmp(value, "stderr") != 0 && strcmp(value, "syslog") != 0 && strchr(value, '/') == NULL)
        return error_set(err, -EINVAL, "--log-to must be stderr, syslog or a path with a '/', not '%.64s'", value);
    options->log_to = value;
    return 0;
}

static int take_help(struct startup_options *options, const char *value, struct error *err)
{
    options->help = true;
    return 0;
}

static int take_version(struct startup_options *options, const char *value, struct error *err)
{
    options->version = true;
    return 0;
}

static int refuse_trace(struct startup_options *options, const char *value, struct error *err)
{
    return error_set(err, -EINVAL, "--trace is not supported: there are no trace events");
}

/* ---- The table ---- */

struct startup_option {
    const char *name;
    char letter;
    const char *value; /* what it is called in the help; NULL: takes none */
    int (*take)(struct startup_options *options, const char *value, struct error *err);
    const char *help; /* NULL: not shown */
};

static const struct startup_option option_table[] = {
    { "blockdev", 0, "[driver=]DRIVER,node-name=NODE,...", take_blockdev,
      "make a block node (file, host_device, raw, null-co, blkdebug), as blockdev-add" },
    { "nbd-server", 0,
      "addr.type=inet|unix|vsock|fd,addr....,tls-creds=ID,tls-authz=ID,max-connections=N,handshake-max-seconds=N,"
      "__org.bulkhead_max-connections-per-peer=N",
      take_nbd_server, "listen for NBD clients, as nbd-server-start" },
    { "export", 0, "[type=]nbd|vhost-user-blk|fuse,id=ID,node-name=NODE,writable=on|off,...", take_export,
      "export a block node, as block-export-add" },
    { "chardev", 0, "[backend=]socket|stdio|null,id=ID,...", take_chardev,
      "where QMP clients come from: socket,path=PATH,server=on,wait=off listens; without server=on it connects" },
    { "monitor", 0, "[chardev=]ID[,pretty=on]", take_monitor, "serve QMP on a chardev" },
    { "object", 0, "[qom-type=]TYPE,id=ID,...", take_object,
      "make an object (secret, tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple, authz-list,\n"
      "            authz-list-file), as object-add" },
    { "user", 0, "NAME", take_user, "become this account before anything is done; needed when started as root" },
    { "pidfile", 0, "PATH", take_pidfile, "write the process id there when everything serves, remove it at the end" },
    { "daemonize", 0, NULL, take_daemonize, "go to the background when everything serves" },
    { "log-level", 0, "error|warning|info|debug", take_log_level,
      "what is logged (default: warning; info in the background and to the journal)" },
    { "log-to", 0, "stderr|syslog|PATH", take_log_to, "where to (default: standard error; syslog in the background)" },
    { "help", 'h', NULL, take_help, "show this text" },
    { "version", 'V', NULL, take_version, "show the version" },
    { "trace", 'T', "PATTERN", refuse_trace, NULL },
};

/* Finds the row and, for --name=value, the value. */
static const struct startup_option *find_option(const char *arg, const char **ret_value)
{
    *ret_value = NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        const struct startup_option *option = &option_table[i];
        size_t len = strlen(option->name);

        if (option->letter != 0 && arg[0] == '-' && arg[1] == option->letter && arg[2] == '\0')
            return option;
        if (strncmp(arg, "--", 2) != 0 || strncmp(arg + 2, option->name, len) != 0)
            continue;
        if (arg[2 + len] == '=')
            *ret_value = arg + 2 + len + 1;
        if (arg[2 + len] == '=' || arg[2 + len] == '\0')
            return option;
    }
    return NULL;
}

/* Takes the option at argv[*index] and moves *index past it. */
static int take_option(int argc, char **argv, int *index, struct startup_options *options, struct error *err)
{
    const char *arg = argv[(*index)++];
    const char *value;
    const struct startup_option *option = find_option(arg, &value);

    if (option == NULL && arg[0] != '-')
        return error_set(err, -EINVAL, "%.200s: Unexpected argument (try --help)", arg);
    if (option == NULL)
        return error_set(err, -EINVAL, "unrecognized option '%.200s' (try --help)", arg);
    if (option->value == NULL && value != NULL)
        return error_set(err, -EINVAL, "option '--%s' takes no value", option->name);
    if (option->value != NULL && value == NULL) {
        if (*index >= argc)
            return error_set(err, -EINVAL, "option '--%s' requires an argument: %s", option->name, option->value);
        value = argv[(*index)++];
    }
    return option->take(options, value, err);
}

int startup_options_parse(int argc, char **argv, struct startup_options *ret, struct error *err)
{
    int index = 1;

    memset(ret, 0, sizeof(*ret));
    while (index < argc && !ret->help && !ret->version) {
        int r = take_option(argc, argv, &index, ret, err);

        if (r < 0)
            return r;
    }
    for (unsigned i = 0; ret->daemonize && i < ret->item_count; i++) {
        if (ret->items[i].id == STARTUP_CHARDEV && ret->items[i].chardev.backend == CHARDEV_STDIO)
            return error_set(err, -EINVAL, "--chardev stdio does not go with --daemonize, which leaves the terminal");
    }
    return 0;
}

void startup_options_done(struct startup_options *options)
{
    for (unsigned i = 0; i < options->item_count; i++)
        schema_clear(item_kinds[options->items[i].id].type, &options->items[i].blockdev);
    free(options->items);
    memset(options, 0, sizeof(*options));
}

void startup_options_help(const char *program)
{
    printf("Usage: %s OPTION...\n"
           "Exports block images over NBD, vhost-user-blk and FUSE, each from a sandboxed worker process.\n\n"
           "Options are carried out in their order. Values are key=value pairs with commas between\n"
           "them (dots for members of members, two commas for one), or one JSON object.\n\n",
           program);
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        const struct startup_option *option = &option_table[i];

        if (option->help == NULL)
            continue;
        if (option->letter != 0)
            printf("  -%c, ", option->letter);
        else
            printf("      ");
        printf("--%s%s%s\n            %s\n", option->name, option->value != NULL ? " " : "",
               option->value != NULL ? option->value : "", option->help);
    }
}

/* ---- Inherited descriptors ---- */

const char **startup_item_fd_text(struct startup_item *item)
{
    if (item->id == STARTUP_CHARDEV && item->chardev.backend == CHARDEV_SOCKET && item->chardev.socket.fd != NULL)
        return &item->chardev.socket.fd;
    if (item->id == STARTUP_NBD_SERVER && item->nbd_server.addr.type == SOCKET_ADDRESS_FD)
        return &item->nbd_server.addr.fd.str;
    if (item->id == STARTUP_EXPORT && item->export.type == BLOCK_EXPORT_TYPE_VHOST_USER_BLK &&
        item->export.vhost_user_blk.addr.type == SOCKET_ADDRESS_FD)
        return &item->export.vhost_user_blk.addr.fd.str;
    return NULL;
}

bool startup_item_fd(const struct startup_item *item, int *ret_fd)
{
    const char **text = startup_item_fd_text((struct startup_item *)item); /* which only looks */

    return text != NULL && socket_fd_number(*text, ret_fd);
}
