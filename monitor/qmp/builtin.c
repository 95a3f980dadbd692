/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands about the protocol itself: negotiation, version, lists of commands and types. */
#include "monitor/qmp/builtin.h"

#include <errno.h>

#include <cjson/cJSON.h>

#include "monitor/qmp/commands.h"
#include "monitor/qmp/introspect.h"
#include "monitor/qmp/session-internal.h"

static const struct version_info version = {
    .qemu = { QMP_VERSION_MAJOR, QMP_VERSION_MINOR, QMP_VERSION_MICRO },
    .package = "bulkhead " VERSION,
};

struct cJSON *qmp_build_greeting(void)
{
    struct cJSON *greeting = cJSON_CreateObject();
    struct cJSON *body = cJSON_AddObjectToObject(greeting, "QMP");
    struct cJSON *info = schema_encode(&schema_version_info, &version);

    if (!cJSON_AddItemToObject(body, "version", info)) {
        cJSON_Delete(info);
        cJSON_Delete(greeting);
        return NULL;
    }
    if (cJSON_AddArrayToObject(body, "capabilities") == NULL) {
        cJSON_Delete(greeting);
        return NULL;
    }
    return greeting;
}

void qmp_run_qmp_capabilities(struct monitor *monitor, const void *args_value, struct qmp_reply *reply)
{
    const struct qmp_capabilities_args *args = args_value;
    struct error err;

    if (args->enable.count > 0) {
        error_set(&err, -EINVAL, "member 'enable': the capability 'oob' is not offered");
        qmp_reply_error(reply, &err);
        return;
    }
    if (reply->session != NULL)
        reply->session->negotiated = true;
    qmp_reply_ok(reply, NULL);
}

void qmp_run_query_version(struct monitor *monitor, const void *args_value, struct qmp_reply *reply)
{
    qmp_reply_ok(reply, &version);
}

static void reply_memory(struct qmp_reply *reply)
{
    struct error err;

    error_set(&err, -ENOMEM, "out of memory");
    qmp_reply_error(reply, &err);
}

void qmp_run_query_commands(struct monitor *monitor, const void *args_value, struct qmp_reply *reply)
{
    const struct qmp *qmp = monitor_qmp(monitor);
    struct command_info_list list = { calloc(qmp->command_count, sizeof(*list.items)), qmp->command_count };

    if (list.items == NULL) {
        reply_memory(reply);
        return;
    }
    for (unsigned i = 0; i < qmp->command_count; i++)
        list.items[i].name = qmp->commands[i].name;
    qmp_reply_ok(reply, &list);
    free(list.items);
}

void qmp_run_query_qmp_schema(struct monitor *monitor, const void *args_value, struct qmp_reply *reply)
{
    const struct qmp *qmp = monitor_qmp(monitor);
    struct introspection *introspection =
        introspection_new(qmp->commands, qmp->command_count, qmp_events, qmp_event_count);

    if (introspection == NULL) {
        reply_memory(reply);
        return;
    }
    qmp_reply_ok(reply, introspection_list(introspection));
    introspection_free(introspection);
}
