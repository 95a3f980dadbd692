/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Objects of type tls-creds-*, each with its signer process. The monitor has files read and hands them on; what is in
 * them it learns from the signer's word alone, which is no more than "they can be used" or a text. The monitor never
 * reads the key: it holds sealed memory with a copy of the file, so that a signer that died can be replaced. It has no
 * descriptor of the file itself, whose closing could take as long as its file system likes.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "monitor/export/export.h"
#include "monitor/graph/objects-private.h"
#include "monitor/monitor.h"
#include "monitor/worker/worker.h"

#define RETRY_MS       1000 /* before a signer that died is replaced */
#define ASK_TIMEOUT_MS 5000 /* for a negotiator to wait for its signer */

/* One process. It outlives its object until it has ended. */
struct tls_signer {
    LIST_ENTRY(tls_signer) link;
    struct worker_handle *worker;
    struct object *object; /* NULL: gone, or it has another signer by now */
    bool loaded;
};

struct tls_creds {
    struct object *object;
    struct tls_files *files; /* while they are opened */
    int credentials_fd;
    int key_fd; /* -1: this kind has none */
    uint8_t password[TLS_PASSWORD_MAX];
    size_t password_len_bytes;
    struct tls_signer *signer; /* NULL: it died, another one is about to be made */
    struct event *retry_timer;
    bool made;
};

static void creds_done(struct tls_creds *creds)
{
    tls_files_free(creds->files);
    close_fd(&creds->credentials_fd);
    close_fd(&creds->key_fd);
    explicit_bzero(creds->password, sizeof(creds->password));
    if (creds->retry_timer != NULL)
        event_free(creds->retry_timer);
    free(creds);
}

/* ---- The signer ---- */

static void signer_free(struct tls_signer *signer)
{
    LIST_REMOVE(signer, link);
    free(signer);
}

void tls_signers_free(struct object_set *set)
{
    while (!LIST_EMPTY(&set->signers))
        signer_free(LIST_FIRST(&set->signers));
}

static int spawn_signer(struct tls_creds *creds, struct error *err);

static void retry_later(struct tls_creds *creds)
{
    const struct timeval tv = { .tv_sec = RETRY_MS / 1000 };

    evtimer_add(creds->retry_timer, &tv);
}

static void retry(evutil_socket_t fd, short what, void *arg)
{
    struct tls_creds *creds = arg;
    struct error err = { 0 };

    if (creds->signer == NULL && spawn_signer(creds, &err) < 0) {
        log_error("TLS credentials '%s': %s", creds->object->id, err.text);
        retry_later(creds);
    }
}

/* The object cannot be made after all, or has to wait for another signer. */
static void signer_failed(struct tls_creds *creds, const struct error *err)
{
    struct error why = *err;

    if (creds->made) {
        log_error("TLS credentials '%s': their signer cannot be replaced: %s; new clients are refused meanwhile",
                  creds->object->id, err->text);
        return;
    }
    error_prepend(&why, "TLS credentials '%s'", creds->object->id);
    object_made(creds->object, &why);
}

static void signer_ready(struct worker_handle *worker, const struct ipc_status_ready *ready, void *opaque)
{
    struct tls_signer *signer = opaque;
    struct ipc_signer_load message = { 0 };
    struct tls_creds *creds;
    int fds[2];

    if (signer->object == NULL)
        return;
    creds = signer->object->priv;
    fds[0] = creds->credentials_fd;
    fds[1] = creds->key_fd;
    message.password_len_bytes = (uint32_t)creds->password_len_bytes;
    memcpy(message.password, creds->password, creds->password_len_bytes);
    if (worker_send(worker, IPC_SIGNER_LOAD, &message, sizeof(message), fds, creds->key_fd >= 0 ? 2 : 1) < 0)
        worker_kill(worker, "it did not take its credentials");
    explicit_bzero(&message, sizeof(message));
}

static void signer_could_not_start(struct worker_handle *worker, const struct error *err, void *opaque)
{
    struct tls_signer *signer = opaque;
    struct tls_creds *creds = signer->object != NULL ? signer->object->priv : NULL;

    if (creds == NULL)
        return;
    if (creds->made) {
        creds->signer = NULL;
        signer->object = NULL;
        retry_later(creds);
    }
    signer_failed(creds, err);
}

static int signer_status(struct worker_handle *worker, const struct ipc_status *status, void *opaque)
{
    const struct ipc_status_signer_loaded *loaded = &status->signer_loaded;
    struct tls_signer *signer = opaque;
    struct tls_creds *creds = signer->object != NULL ? signer->object->priv : NULL;
    struct error err = { 0 };

    if (status->type != IPC_STATUS_SIGNER_LOADED)
        return -EPROTO;
    if (creds == NULL)
        return 0;
    if (loaded->code < 0) {
        error_set(&err, loaded->code, "%s", loaded->text);
        worker_kill(worker, "it could not use its credentials");
        if (creds->made) { /* the file with the keys was written over; it may be mended */
            creds->signer = NULL;
            signer->object = NULL;
            retry_later(creds);
        }
        signer_failed(creds, &err);
        return 0;
    }
    signer->loaded = true;
    if (!creds->made) {
        creds->made = true;
        object_made(creds->object, NULL);
    }
    return 0;
}

static void signer_gone(struct worker_handle *worker, const struct worker_exit *why, void *opaque)
{
    struct tls_signer *signer = opaque;
    struct tls_creds *creds = signer->object != NULL ? signer->object->priv : NULL;
    struct error err = { 0 };

    if (creds != NULL)
        creds->signer = NULL;
    if (creds != NULL && !creds->made) {
        error_set(&err, -EIO, "their signer ended: %s", why->text);
        signer_failed(creds, &err); /* frees creds */
    } else if (creds != NULL) {
        log_error("TLS credentials '%s': their signer, process %d, is gone: %s; it is replaced", creds->object->id,
                  (int)worker_get_pid(worker), why->text);
        export_send_worker_gone(creds->object->set->monitor, worker, NULL, why);
        retry_later(creds);
    }
    signer_free(signer);
}

static int spawn_signer(struct tls_creds *creds, struct error *err)
{
    static const struct worker_ops signer_ops = {
        .ready = signer_ready,
        .failed = signer_could_not_start,
        .status = signer_status,
        .gone = signer_gone,
    };
    struct ipc_boot boot = { .role = IPC_ROLE_TLS_SIGNER };
    struct object_set *set = creds->object->set;
    struct tls_signer *signer = calloc(1, sizeof(*signer));
    int r;

    if (signer == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    signer->object = creds->object;
    memcpy(boot.export_id, creds->object->id, sizeof(boot.export_id)); /* for messages, and for ps */
    r = worker_spawn(set->monitor->workers, &boot, NULL, &signer_ops, signer, &signer->worker, err);
    if (r < 0) {
        free(signer);
        return r;
    }
    LIST_INSERT_HEAD(&set->signers, signer, link);
    creds->signer = signer;
    return 0;
}

/* ---- The object ---- */

static int take_password(struct tls_creds *creds, const char *passwordid, struct error *err)
{
    const uint8_t *data;
    size_t len;
    int r;

    if (passwordid == NULL)
        return 0;
    r = secret_get(creds->object->set, passwordid, &data, &len, err);
    if (r == 0 && (len == 0 || len >= sizeof(creds->password) || memchr(data, '\0', len) != NULL))
        r = error_set(err, -EINVAL, "secret '%.100s' must be a text of 1 to %zu bytes to be a password", passwordid,
                      sizeof(creds->password) - 1);
    if (r < 0)
        return error_prepend(err, "member 'passwordid'");
    memcpy(creds->password, data, len);
    creds->password_len_bytes = len;
    return 0;
}

static void files_came(void *opaque, int credentials_fd, int key_fd, const struct error *err)
{
    struct tls_creds *creds = opaque;
    struct error failure = { 0 };

    tls_files_free(TAKE_PTR(creds->files));
    creds->credentials_fd = credentials_fd;
    creds->key_fd = key_fd;
    if (err != NULL)
        failure = *err;
    else
        spawn_signer(creds, &failure);
    if (failure.code < 0)
        object_made(creds->object, &failure);
}

static int creds_make(struct object *object, const struct object_options *options, struct error *err)
{
    struct tls_creds *creds = calloc(1, sizeof(*creds));
    int r;

    if (creds == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    creds->object = object;
    creds->credentials_fd = creds->key_fd = -1;
    object->priv = creds;
    creds->retry_timer = evtimer_new(object->set->monitor->base, retry, creds);
    r = creds->retry_timer == NULL ? error_set(err, -ENOMEM, "out of memory")
                                   : take_password(creds, options->tls_creds.passwordid, err);
    if (r == 0)
        r = tls_files_start(object->set->monitor, options, files_came, creds, &creds->files, err);
    if (r < 0) {
        creds_done(creds);
        return r;
    }
    return OBJECT_PENDING;
}

static void creds_free(struct object *object)
{
    struct tls_creds *creds = object->priv;

    if (creds->signer != NULL && object->set->closing) {
        signer_free(creds->signer);
    } else if (creds->signer != NULL) {
        creds->signer->object = NULL;
        worker_kill(creds->signer->worker, "its credentials were removed");
    }
    creds_done(creds);
}

const struct object_type object_type_tls_creds_x509 = {
    .id = OBJECT_TYPE_TLS_CREDS_X509,
    .make = creds_make,
    .free = creds_free,
};

const struct object_type object_type_tls_creds_psk = {
    .id = OBJECT_TYPE_TLS_CREDS_PSK,
    .make = creds_make,
    .free = creds_free,
};

const struct object_type object_type_tls_creds_anon = {
    .id = OBJECT_TYPE_TLS_CREDS_ANON,
    .make = creds_make,
    .free = creds_free,
};

/* ---- For the NBD server ---- */

int tls_creds_get(struct object_set *set, const char *id, struct object **ret_creds, struct error *err)
{
    struct object *object = object_find(set, id);

    if (object == NULL)
        return error_set(err, -ENOENT, "No TLS credentials with id '%.100s' (object-add or --object makes them)", id);
    if (object->type->make != creds_make)
        return error_set(err, -EINVAL, "object '%.100s' is %s, not TLS credentials", id, object_type_name(object));
    object->refs++;
    *ret_creds = object;
    return 0;
}

/* The negotiator's end waits, with a limit; the signer's does not. */
static int make_pair(int ret_ends[2], struct error *err)
{
    const struct timeval limit = { .tv_sec = ASK_TIMEOUT_MS / 1000 };

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_ends) < 0)
        return error_set(err, -errno, "cannot make a socket to the signer: %s", strerror(errno));
    if (setsockopt(ret_ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 &&
        setsockopt(ret_ends[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0)
        return 0;
    error_set(err, -errno, "cannot limit the time that a signer may take: %s", strerror(errno));
    close_fd(&ret_ends[0]);
    close_fd(&ret_ends[1]);
    return err->code;
}

int tls_creds_grant(struct object *object, struct tls_grant *ret_grant, struct error *err)
{
    struct tls_creds *creds = object->priv;
    struct ipc_signer_client message = { 0 };
    int ends[2];
    int r;

    if (creds->signer == NULL || !creds->signer->loaded)
        return error_set(err, -EAGAIN, "the signer of TLS credentials '%s' is being replaced", object->id);
    r = make_pair(ends, err);
    if (r < 0)
        return r;
    r = worker_send(creds->signer->worker, IPC_SIGNER_CLIENT, &message, sizeof(message), &ends[1], 1);
    close_fd(&ends[1]);
    if (r < 0) {
        close_fd(&ends[0]);
        return error_set(err, -EAGAIN, "the signer of TLS credentials '%s' did not answer: %s", object->id,
                         strerror(-r));
    }
    *ret_grant = (struct tls_grant){ .credentials_fd = creds->credentials_fd, .signer_fd = ends[0] };
    return 0;
}
