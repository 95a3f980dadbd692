/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a message to its command, and from the command's result to its reply. A message has passed the lexer and is
 * otherwise what a client likes; all its members are checked here and by the schema before a handler sees anything.
 * Source: QEMU's docs/interop/qmp-spec.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/time.h>

#include <cjson/cJSON.h>

#include "common/base/log.h"
#include "monitor/qmp/commands.h"
#include "monitor/qmp/elsewhere.h"
#include "monitor/qmp/session-internal.h"

/* ---- Replies ---- */

static struct cJSON *build_error(const struct error *err)
{
    struct cJSON *body = cJSON_CreateObject();

    if (body != NULL && cJSON_AddStringToObject(body, "class", error_class_name(err->class)) != NULL &&
        cJSON_AddStringToObject(body, "desc", err->text) != NULL)
        return body;
    cJSON_Delete(body);
    return NULL;
}

/* Add item, which is taken over; NULL: there is none of it, for want of memory. */
static bool add_member(struct cJSON *message, const char *key, struct cJSON *item)
{
    if (message != NULL && item != NULL && cJSON_AddItemToObject(message, key, item))
        return true;
    cJSON_Delete(item);
    return false;
}

static struct cJSON *delete_unless(bool ok, struct cJSON *message)
{
    if (ok)
        return message;
    cJSON_Delete(message);
    return NULL;
}

/* {key: body, "id": id}, of an error with the id first; body is taken over, id is not. NULL: out of memory. */
static struct cJSON *build_reply(const char *key, struct cJSON *body, const struct cJSON *id, bool id_first)
{
    struct cJSON *message = cJSON_CreateObject();
    bool ok = message != NULL;

    if (id != NULL && id_first)
        ok = add_member(message, "id", cJSON_Duplicate(id, true));
    ok = add_member(message, key, body) && ok;
    if (id != NULL && !id_first)
        ok = add_member(message, "id", cJSON_Duplicate(id, true)) && ok;
    return delete_unless(ok, message);
}

void qmp_send_error(struct qmp_session *session, const struct cJSON *id, const struct error *err)
{
    qmp_session_send(session, build_reply("error", build_error(err), id, true));
}

struct qmp_reply *qmp_reply_new(void (*done)(const struct error *err, void *opaque), void *opaque)
{
    struct qmp_reply *reply = calloc(1, sizeof(*reply));

    if (reply != NULL) {
        reply->done = done;
        reply->opaque = opaque;
    }
    return reply;
}

/* The answer is on its way, or nobody wants it. */
static void finish_reply(struct qmp_reply *reply)
{
    struct qmp_session *session = reply->session;

    if (session != NULL)
        session->owed = NULL;
    cJSON_Delete(reply->id);
    free(reply);
    if (session != NULL)
        qmp_session_resume(session);
}

void qmp_reply_ok(struct qmp_reply *reply, const void *value)
{
    struct cJSON *body;

    if (reply->done != NULL)
        reply->done(NULL, reply->opaque);
    if (reply->session != NULL) {
        assert((value == NULL) == (reply->command->ret == NULL));
        body = value != NULL ? schema_encode(reply->command->ret, value) : cJSON_CreateObject();
        qmp_session_send(reply->session, build_reply("return", body, reply->id, false));
    }
    finish_reply(reply);
}

void qmp_reply_error(struct qmp_reply *reply, const struct error *err)
{
    if (reply->done != NULL)
        reply->done(err, reply->opaque);
    if (reply->session != NULL)
        qmp_send_error(reply->session, reply->id, err);
    finish_reply(reply);
}

/* ---- Commands ---- */

/* The members of a request: qmp-spec, "Issuing Commands". */
struct request {
    const char *execute;
    const struct cJSON *arguments; /* NULL: none */
    const struct cJSON *id;        /* NULL: none */
};

static int parse_member(struct request *request, const struct cJSON *member, struct error *err)
{
    if (strcmp(member->string, "id") == 0) {
        request->id = member;
    } else if (strcmp(member->string, "execute") == 0) {
        if (!cJSON_IsString(member))
            return error_set(err, -EINVAL, "QMP input member 'execute' must be a string");
        request->execute = member->valuestring;
    } else if (strcmp(member->string, "arguments") == 0) {
        if (!cJSON_IsObject(member))
            return error_set(err, -EINVAL, "QMP input member 'arguments' must be an object");
        request->arguments = member;
    } else if (strcmp(member->string, "exec-oob") == 0) {
        return error_set(err, -EINVAL,
                         "QMP input member 'exec-oob' is unexpected: the capability 'oob' is not offered");
    } else {
        return error_set(err, -EINVAL, "QMP input member '%.64s' is unexpected", member->string);
    }
    return 0;
}

/* All members are looked at, so that the id is found also when another member is wrong. */
static int parse_request(const struct cJSON *message, struct request *ret_request, struct error *err)
{
    const struct cJSON *member;
    struct error first = { 0 };
    int r = 0;

    memset(ret_request, 0, sizeof(*ret_request));
    if (!cJSON_IsObject(message))
        return error_set(err, -EINVAL, "QMP input must be a JSON object");
    cJSON_ArrayForEach(member, message)
    {
        int code = parse_member(ret_request, member, r == 0 ? &first : NULL);

        if (r == 0)
            r = code;
    }
    if (r == 0 && ret_request->execute == NULL)
        r = error_set(&first, -EINVAL, "QMP input lacks member 'execute'");
    *err = first;
    return r;
}

static const struct qmp_command *find_command(const struct qmp *qmp, const char *name)
{
    for (unsigned i = 0; i < qmp->command_count; i++) {
        if (strcmp(qmp->commands[i].name, name) == 0)
            return &qmp->commands[i];
    }
    return NULL;
}

static int check_command(const struct qmp_session *session, const struct qmp_command *command, const char *name,
                         struct error *err)
{
    bool negotiates = command != NULL && (command->flags & QMP_COMMAND_PRECONFIG);

    if (!session->negotiated && !negotiates)
        return error_set_class(err, -ENOENT, ERROR_CLASS_COMMAND_NOT_FOUND,
                               "Expecting capabilities negotiation with 'qmp_capabilities' before '%.64s'", name);
    if (session->negotiated && negotiates)
        return error_set_class(err, -ENOENT, ERROR_CLASS_COMMAND_NOT_FOUND,
                               "Capabilities negotiation is already complete, '%.64s' comes too late", name);
    if (command == NULL)
        return error_set_class(
            err, -ENOENT, ERROR_CLASS_COMMAND_NOT_FOUND, "The command %.64s has not been found%s", name,
            schema_name_in(elsewhere_commands, name) ? ": qemu-storage-daemon has it, bulkhead does not" : "");
    return 0;
}

static const struct schema_type schema_no_arguments = { .kind = SCHEMA_STRUCT, .name = "no arguments" };

/* Decode the arguments. *ret_args is for the caller to clear and free; NULL when the command takes none. */
static int decode_arguments(const struct qmp_command *command, const struct cJSON *arguments, void **ret_args,
                            struct error *err)
{
    const struct schema_type *type = command->args != NULL ? command->args : &schema_no_arguments;
    struct cJSON none = { .type = cJSON_Object };
    void *args = calloc(1, MAX(type->size_bytes, (size_t)1));
    int r;

    if (args == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = schema_decode(type, arguments != NULL ? arguments : &none, SCHEMA_FORM_JSON, args, err);
    if (r < 0 || command->args == NULL)
        free(args);
    else
        *ret_args = args;
    return r;
}

static void run_command(struct qmp_session *session, const struct qmp_command *command, struct qmp_reply *reply,
                        void *args)
{
    log_debug("%s: %s", session->label, command->name);
    reply->session = session;
    reply->command = command;
    session->owed = reply;
    command->run(session->qmp->monitor, args, reply);
    if (args != NULL)
        schema_clear(command->args, args);
    free(args);
}

static int dispatch_request(struct qmp_session *session, const struct request *request, struct error *err)
{
    const struct qmp_command *command = find_command(session->qmp, request->execute);
    struct qmp_reply *reply;
    void *args = NULL;
    int r = check_command(session, command, request->execute, err);

    if (r == 0)
        r = decode_arguments(command, request->arguments, &args, err);
    if (r < 0)
        return r;
    reply = qmp_reply_new(NULL, NULL);
    if (reply != NULL && request->id != NULL)
        reply->id = cJSON_Duplicate(request->id, true);
    if (reply == NULL || (request->id != NULL && reply->id == NULL)) {
        if (args != NULL)
            schema_clear(command->args, args);
        free(args);
        free(reply);
        return error_set(err, -ENOMEM, "out of memory");
    }
    run_command(session, command, reply, args);
    return 0;
}

void qmp_dispatch(struct qmp_session *session, struct cJSON *message)
{
    struct request request;
    struct error err;
    int r = parse_request(message, &request, &err);

    if (r == 0)
        r = dispatch_request(session, &request, &err);
    if (r < 0)
        qmp_send_error(session, request.id, &err);
    cJSON_Delete(message);
}

/* ---- Events ---- */

static bool add_timestamp(struct cJSON *message)
{
    struct cJSON *stamp = cJSON_AddObjectToObject(message, "timestamp");
    struct timeval now = { -1, -1 }; /* what the specification wants if the time is not known */

    gettimeofday(&now, NULL);
    return stamp != NULL && cJSON_AddNumberToObject(stamp, "seconds", (double)now.tv_sec) != NULL &&
           cJSON_AddNumberToObject(stamp, "microseconds", (double)now.tv_usec) != NULL;
}

static struct cJSON *build_event(const char *name, const struct schema_type *type, const void *data)
{
    struct cJSON *message = cJSON_CreateObject();
    bool ok = message != NULL && add_timestamp(message) && cJSON_AddStringToObject(message, "event", name) != NULL;

    if (ok && data != NULL)
        ok = add_member(message, "data", schema_encode(type, data));
    return delete_unless(ok, message);
}

void qmp_send_event(struct monitor *monitor, const char *name, const struct schema_type *type, const void *data)
{
    struct qmp *qmp = monitor_qmp(monitor);

    log_debug("event %s", name);
    for (struct qmp_session *session = qmp->sessions; session != NULL; session = session->next) {
        if (session->negotiated && !session->doomed)
            qmp_session_send_event(session, build_event(name, type, data));
    }
}
