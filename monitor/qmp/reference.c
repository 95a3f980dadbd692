/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Prints docs/qmp-reference.md from the tables of commands, events, options and types. A program of its own, for the
 * build only; `make check` compares its output with the page.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/qmp/commands.h"
#include "monitor/qmp/introspect.h"

#define COMMAND_ROW(command_name, c_name, args_type, ret_type, command_flags, text)                                    \
    { .name = command_name, .args = args_type, .ret = ret_type, .flags = command_flags, .doc = text },

static const struct qmp_command commands[] = { QMP_COMMANDS(COMMAND_ROW) };

/* Options of the command line that are decoded by the same types. */
static const struct qmp_event options[] = {
    { "--blockdev", &schema_blockdev_options, "Makes a block node; `driver=` may be left out before a first value." },
    { "--nbd-server", &schema_nbd_server_options, "Starts the NBD server." },
    { "--export", &schema_block_export_options, "Exports a node; `type=` may be left out before a first value." },
    { "--object", &schema_object_options, "Makes an object; `qom-type=` may be left out before a first value." },
    { "--chardev", &schema_chardev_options, "Makes a way in for QMP clients; `backend=` may be left out." },
    { "--monitor", &schema_monitor_options, "Serves QMP on a chardev; `chardev=` may be left out." },
};

/* ---- Types by name ---- */

/* Types that have a section of their own. */
static bool has_section(const struct schema_type *type)
{
    return type->kind == SCHEMA_ENUM || type->kind == SCHEMA_STRUCT || type->kind == SCHEMA_UNION ||
           type->kind == SCHEMA_ALTERNATE;
}

/* GitHub's anchor of a heading: lower case, and letters, digits, '-' and '_' only. */
static void print_anchor(const char *name)
{
    for (; *name != '\0'; name++) {
        if (*name >= 'A' && *name <= 'Z')
            putchar(*name - 'A' + 'a');
        else if (strchr(".[]`", *name) == NULL)
            putchar(*name);
    }
}

static void print_type_name(const struct schema_type *type)
{
    if (type->kind == SCHEMA_ARRAY) {
        printf("array of ");
        print_type_name(type->element);
    } else if (has_section(type)) {
        printf("[%s](#", type->name);
        print_anchor(type->name);
        printf(")");
    } else {
        printf("%s", type->name);
    }
}

/* ---- Tables ---- */

static void print_default(const struct schema_member *member)
{
    if (!(member->flags & SCHEMA_OPTIONAL))
        printf("required");
    else if (member->default_value != NULL && strcmp(member->default_value, "{}") != 0)
        printf("`%s`", member->default_value);
    else
        printf("optional");
}

static void print_members(const struct schema_type *type)
{
    if (type->count == 0)
        return;
    printf("\n| member | type | default | meaning |\n|---|---|---|---|\n");
    for (unsigned i = 0; i < type->count; i++) {
        const struct schema_member *member = &type->members[i];

        printf("| `%s` | ", member->name);
        print_type_name(member->type);
        printf(" | ");
        print_default(member);
        printf(" | %s%s |\n", member->doc, member->flags & SCHEMA_DEPRECATED ? " Deprecated." : "");
    }
}

static const struct schema_member *tag_of(const struct schema_type *type)
{
    for (unsigned i = 0; i < type->count; i++) {
        if (type->members[i].offset == type->tag_offset)
            return &type->members[i];
    }
    return NULL;
}

static void print_variants(const struct schema_type *type)
{
    const struct schema_member *tag = tag_of(type);

    for (unsigned i = 0; tag != NULL && i < type->variant_count; i++) {
        printf("\nWith `%s` = `%s`: ", tag->name, schema_enum_name(tag->type, i));
        if (type->variants[i].type != NULL) {
            printf("also the members of ");
            print_type_name(type->variants[i].type);
            printf(".\n");
        } else {
            printf("nothing more.\n");
        }
    }
}

static void print_values(const struct schema_type *type)
{
    printf("\n| value | meaning |\n|---|---|\n");
    for (unsigned i = 0; i < type->count; i++)
        printf("| `%s` | %s |\n", type->values[i].name, type->values[i].doc);
}

static void print_branches(const struct schema_type *type)
{
    printf("\nOne of: ");
    for (unsigned i = 0; i < type->variant_count; i++) {
        printf("%s", i > 0 ? ", " : "");
        print_type_name(type->variants[i].type);
    }
    printf(".\n");
}

static void print_type(const struct schema_type *type)
{
    printf("\n### %s\n\n%s\n", type->name, type->doc);
    if (type->kind == SCHEMA_ENUM)
        print_values(type);
    else if (type->kind == SCHEMA_ALTERNATE)
        print_branches(type);
    else
        print_members(type);
    if (type->kind == SCHEMA_UNION)
        print_variants(type);
}

/* ---- Sections ---- */

static void print_command(const struct qmp_command *command)
{
    printf("\n### %s\n\n%s%s\n", command->name, command->doc,
           command->flags & QMP_COMMAND_DEPRECATED ? " Deprecated." : "");
    if (command->args != NULL) {
        printf("\nArguments: ");
        print_type_name(command->args);
        printf(".\n");
        print_members(command->args);
        if (command->args->kind == SCHEMA_UNION)
            print_variants(command->args);
    }
    printf("\nReturns: ");
    if (command->ret != NULL)
        print_type_name(command->ret);
    else
        printf("nothing");
    printf(".\n");
}

static void print_event(const struct qmp_event *event)
{
    printf("\n### %s\n\n%s\n", event->name, event->doc);
    if (event->type != NULL)
        print_members(event->type);
}

static void print_option(const struct qmp_event *option)
{
    printf("| `%s` | ", option->name);
    print_type_name(option->type);
    printf(" | %s |\n", option->doc);
}

struct types {
    const struct schema_type *items[1000];
    unsigned count;
};

static bool collect(const struct schema_type *type, void *arg)
{
    struct types *types = arg;

    for (unsigned i = 0; i < types->count; i++) {
        if (types->items[i] == type)
            return true;
    }
    if (has_section(type) && types->count < ARRAY_SIZE(types->items))
        types->items[types->count++] = type;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct schema_type *const *)a)->name, (*(const struct schema_type *const *)b)->name);
}

static void print_types(void)
{
    static struct types types;

    schema_visit_types(commands, ARRAY_SIZE(commands), qmp_events, qmp_event_count, collect, &types);
    schema_visit_types(NULL, 0, options, ARRAY_SIZE(options), collect, &types);
    qsort(types.items, types.count, sizeof(types.items[0]), by_name);
    for (unsigned i = 0; i < types.count; i++)
        print_type(types.items[i]);
}

static const char intro[] =
    "<!-- Made by `./qmp-reference` in the build tree from the tables in monitor/qmp/. Do not edit. -->\n"
    "\n"
    "# QMP reference\n"
    "\n"
    "bulkhead speaks QMP, the protocol of qemu-storage-daemon. The greeting says QEMU 10.0.0: commands, options and\n"
    "events that are listed here have the names, types and defaults of that version's storage daemon; those with the\n"
    "prefix `__org.bulkhead_` are bulkhead's own. `query-qmp-schema` tells the same to programs.\n"
    "\n"
    "Unknown, missing, duplicate, ill-typed and out-of-range members are refused before anything is done; the error\n"
    "names the member with its path, for example `Parameter 'file.filename' is missing`. Errors contain the phrases of\n"
    "QEMU's that programs match; the words around them are bulkhead's. Members that are known but not supported are\n"
    "refused by name. Integers are exact up to 64 bits and are never written with a fraction or an\n"
    "exponent. `size` is a number of bytes; on the command line it may have a suffix `k`, `M`, `G`, `T`, `P` or `E`\n"
    "(powers of 1024) and a fraction before it, booleans are `on` or `off`, and of a key that comes twice the last value\n"
    "counts.\n"
    "\n"
    "One message may have 256 KiB, 1024 levels (arguments: 64) and 16384 values. After malformed input reading goes on\n"
    "where QEMU's does; a control character or a byte 0xFF always leads to a known-good state. The capability `oob` is not\n"
    "offered. A client that does not read its replies is not served further, one that does not read its events is\n"
    "disconnected once 1 MiB waits for it.\n";

int main(void)
{
    printf("%s\n## Options of the command line\n\n| option | type | meaning |\n|---|---|---|\n", intro);
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        print_option(&options[i]);
    printf("\n## Commands\n");
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        print_command(&commands[i]);
    printf("\n## Events\n");
    for (unsigned i = 0; i < qmp_event_count; i++)
        print_event(&qmp_events[i]);
    printf("\n## Types\n");
    print_types();
    return ferror(stdout) || fflush(stdout) != 0;
}
