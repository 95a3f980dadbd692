/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The folder of a tls-creds object: the opener reads its files one after the other; they are copied as they are.
 * Nothing in them is parsed here, and the one with the keys is not even read: the signer gets the memory that it is in.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "common/ipc/tls-credentials.h"
#include "monitor/graph/files.h"
#include "monitor/graph/objects-private.h"
#include "monitor/monitor.h"

#define KEY_FILE TLS_SECTION_MAX /* in place of a section */

struct tls_file {
    unsigned types; /* bits 1 << enum object_type_id */
    const char *name;
    unsigned section; /* enum tls_section or KEY_FILE */
    bool required;
};

#define X509 (1u << OBJECT_TYPE_TLS_CREDS_X509)
#define PSK  (1u << OBJECT_TYPE_TLS_CREDS_PSK)
#define ANON (1u << OBJECT_TYPE_TLS_CREDS_ANON)

static const struct tls_file tls_files[] = {
    { X509, "ca-cert.pem", TLS_SECTION_CA, true },
    { X509, "ca-crl.pem", TLS_SECTION_CRL, false },
    { X509, "server-cert.pem", TLS_SECTION_CERT, true },
    { X509, "server-key.pem", KEY_FILE, true },
    { PSK, "keys.psk", KEY_FILE, true },
    { X509 | PSK | ANON, "dh-params.pem", TLS_SECTION_DH, false },
};

/* ---- The memfd ---- */

struct blob {
    struct tls_credentials header;
    char *sections[TLS_SECTION_MAX];
    int fd;
};

static void blob_done(struct blob *blob)
{
    for (unsigned i = 0; i < TLS_SECTION_MAX; i++)
        free_wiped(blob->sections[i]);
    close_fd(&blob->fd);
}

static int write_all(int fd, const void *data, size_t len_bytes)
{
    while (len_bytes > 0) {
        ssize_t n = write(fd, data, len_bytes);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data = (const char *)data + n;
            len_bytes -= (size_t)n;
        }
    }
    return 0;
}

static int write_blob(struct blob *blob, struct error *err)
{
    struct tls_credentials *header = &blob->header;
    int r;

    header->magic = TLS_CREDENTIALS_MAGIC;
    header->len_bytes = sizeof(*header);
    for (unsigned i = 0; i < TLS_SECTION_MAX; i++) {
        header->sections[i].offset = (uint32_t)header->len_bytes;
        header->len_bytes += header->sections[i].len_bytes;
    }
    blob->fd = memfd_create("bulkhead-tls-credentials", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    r = blob->fd < 0 ? -errno : write_all(blob->fd, header, sizeof(*header));
    for (unsigned i = 0; r == 0 && i < TLS_SECTION_MAX; i++)
        r = write_all(blob->fd, blob->sections[i], header->sections[i].len_bytes);
    if (r == 0 && fcntl(blob->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        r = -errno;
    return r < 0 ? error_set(err, r, "cannot make a memfd for credentials: %s", strerror(-r)) : 0;
}

/* ---- The folder ---- */

struct tls_files {
    struct opener_task *task;
    struct event *no_folder_timer; /* where there is nothing to read: the outcome comes from the loop all the same */
    char *folder;                  /* NULL: none */
    enum object_type_id type;
    unsigned next; /* of tls_files[] */
    struct blob blob;
    int key_fd;
    tls_files_done_fn *done;
    void *opaque;
};

void tls_files_free(struct tls_files *files)
{
    if (files == NULL)
        return;
    if (files->task != NULL) {
        opener_task_forget(files->task, files);
        opener_task_end(files->task, NULL, NULL);
    }
    if (files->no_folder_timer != NULL)
        event_free(files->no_folder_timer);
    blob_done(&files->blob);
    close_fd(&files->key_fd);
    free(files->folder);
    free(files);
}

/* The owner frees files. */
static void finish(struct tls_files *files, struct error *err)
{
    if (err->code == 0)
        write_blob(&files->blob, err);
    else if (files->folder != NULL)
        error_prepend(err, "folder '%.200s'", files->folder);
    if (err->code < 0)
        files->done(files->opaque, -1, -1, err);
    else
        files->done(files->opaque, TAKE_FD(files->blob.fd), TAKE_FD(files->key_fd), NULL);
}

static void no_folder(evutil_socket_t fd, short what, void *arg)
{
    finish(arg, &(struct error){ 0 });
}

static void read_next(struct tls_files *files);

static int take_section(struct tls_files *files, const struct tls_file *file, int fd, struct error *err)
{
    size_t len = 0;
    int r = files_take(fd, TLS_FILE_BYTES_MAX, &files->blob.sections[file->section], &len, err);

    if (r == 0 && len == 0)
        r = error_set(err, -EINVAL, "'%s' is empty", file->name);
    files->blob.header.sections[file->section].len_bytes = (uint32_t)len;
    return r;
}

/* Nothing of it is read. */
static int take_key(struct tls_files *files, int fd, struct error *err)
{
    size_t len = 0;

    files->key_fd = fd;
    return files_check(fd, TLS_FILE_BYTES_MAX, &len, err);
}

static void file_came(void *opaque, const struct opener_reply *reply, int fd)
{
    struct tls_files *files = opaque;
    const struct tls_file *file = &tls_files[files->next++];
    struct error err = { 0 };

    if (reply->code == 0 && file->section == KEY_FILE)
        take_key(files, fd, &err);
    else if (reply->code == 0)
        take_section(files, file, fd, &err);
    else if (reply->code != -ENOENT || file->required)
        files_error(reply, file->name, &err);
    if (err.code < 0)
        finish(files, &err);
    else
        read_next(files);
}

static void read_next(struct tls_files *files)
{
    struct error err = { 0 };

    while (files->next < ARRAY_SIZE(tls_files) && (tls_files[files->next].types & 1u << files->type) == 0)
        files->next++;
    if (files->next < ARRAY_SIZE(tls_files)) {
        const struct tls_file *file = &tls_files[files->next];

        if (files_read(files->task, file->name, TLS_FILE_BYTES_MAX, file_came, files, &err) == 0)
            return;
    }
    finish(files, &err);
}

static void folder_came(void *opaque, const struct opener_reply *reply, int fd)
{
    struct tls_files *files = opaque;
    struct error err = { 0 };

    close_fd(&fd);
    if (reply->code == 0) {
        read_next(files);
        return;
    }
    files_error(reply, files->folder, &err);
    finish(files, &err);
}

static int take_priority(struct blob *blob, const char *priority, struct error *err)
{
    if (priority == NULL)
        return 0;
    if (strlen(priority) >= TLS_PRIORITY_MAX)
        return error_set(err, -EINVAL, "member 'priority' must have less than %d bytes", TLS_PRIORITY_MAX);
    blob->sections[TLS_SECTION_PRIORITY] = strdup(priority);
    if (blob->sections[TLS_SECTION_PRIORITY] == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    blob->header.sections[TLS_SECTION_PRIORITY].len_bytes = (uint32_t)strlen(priority);
    return 0;
}

static int start_without_folder(struct tls_files *files, struct monitor *monitor, struct error *err)
{
    const struct timeval now = { 0 };

    files->no_folder_timer = evtimer_new(monitor->base, no_folder, files);
    if (files->no_folder_timer == NULL || evtimer_add(files->no_folder_timer, &now) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    return 0;
}

static int start_with_folder(struct tls_files *files, struct monitor *monitor, const char *folder, struct error *err)
{
    int r;

    files->folder = strdup(folder);
    if (files->folder == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = opener_task_new(monitor->opener, NULL, NULL, &files->task, err);
    return r < 0 ? r : files_set_folder(files->task, folder, folder_came, files, err);
}

int tls_files_start(struct monitor *monitor, const struct object_options *options, tls_files_done_fn *done,
                    void *opaque, struct tls_files **ret_files, struct error *err)
{
    static const uint32_t kinds[OBJECT_TYPE_MAX] = {
        [OBJECT_TYPE_TLS_CREDS_X509] = TLS_KIND_X509,
        [OBJECT_TYPE_TLS_CREDS_PSK] = TLS_KIND_PSK,
        [OBJECT_TYPE_TLS_CREDS_ANON] = TLS_KIND_ANON,
    };
    const struct tls_creds_options *creds = &options->tls_creds;
    struct tls_files *files = calloc(1, sizeof(*files));
    int r;

    if (files == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    files->type = options->type;
    files->blob.fd = files->key_fd = -1;
    files->done = done;
    files->opaque = opaque;
    files->blob.header.kind = kinds[options->type];
    files->blob.header.flags =
        (creds->verify_peer ? TLS_VERIFY_PEER : 0) |
        (options->type == OBJECT_TYPE_TLS_CREDS_X509 && creds->sanity_check ? TLS_SANITY_CHECK : 0);
    r = take_priority(&files->blob, creds->priority, err);
    if (r == 0 && creds->dir != NULL)
        r = start_with_folder(files, monitor, creds->dir, err);
    else if (r == 0)
        r = start_without_folder(files, monitor, err);
    if (r < 0) {
        tls_files_free(files);
        return r;
    }
    *ret_files = files;
    return 0;
}
