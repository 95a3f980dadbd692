/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The folder of a tls-creds object: its files are opened as the service account and copied as they are. Nothing in them
 * is parsed here, and the one with the keys is not even read: the signer gets its descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/ipc/tls-credentials.h"
#include "monitor/graph/objects-private.h"

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

/* A pipe would make us wait, and a device could be anything. */
static int open_regular(int dir_fd, const char *path, size_t max_bytes, int *ret_fd, size_t *ret_len_bytes,
                        struct error *err)
{
    _cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0)
        return error_set(err, -errno, "cannot open '%.200s': %s", path, strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "'%.200s' is not a regular file", path);
    if ((uint64_t)st.st_size > max_bytes)
        return error_set(err, -EFBIG, "'%.200s' has more than %zu bytes", path, max_bytes);
    *ret_len_bytes = (size_t)st.st_size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int file_read_small(int dir_fd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_len_bytes,
                    struct error *err)
{
    _cleanup_close_ int fd = -1;
    char *data;
    size_t len = 0;
    size_t used = 0;
    ssize_t n = 0;
    int r = open_regular(dir_fd, path, max_bytes, &fd, &len, err);

    if (r < 0)
        return r;
    data = malloc(len + 1);
    if (data == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    while (used < len && (n = read(fd, data + used, len - used)) > 0)
        used += (size_t)n;
    if (n < 0) {
        free_wiped(data);
        return error_set(err, -errno, "cannot read '%.200s': %s", path, strerror(errno));
    }
    data[used] = '\0';
    *ret_data = data;
    *ret_len_bytes = used;
    return 0;
}

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

static int take_file(struct blob *blob, int dir_fd, const struct tls_file *file, int *ret_key_fd, struct error *err)
{
    size_t len = 0;
    int r;

    if (file->section == KEY_FILE)
        return open_regular(dir_fd, file->name, TLS_FILE_BYTES_MAX, ret_key_fd, &len, err);
    r = file_read_small(dir_fd, file->name, TLS_FILE_BYTES_MAX, &blob->sections[file->section], &len, err);
    if (r == -ENOENT && !file->required)
        return 0;
    blob->header.sections[file->section].len_bytes = (uint32_t)len;
    if (r == 0 && len == 0)
        r = error_set(err, -EINVAL, "'%s' is empty", file->name);
    return r;
}

static int take_folder(struct blob *blob, const char *dir, enum object_type_id type, int *ret_key_fd, struct error *err)
{
    _cleanup_close_ int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0)
        return error_set(err, -errno, "cannot open folder '%.200s': %s", dir, strerror(errno));
    for (unsigned i = 0; i < ARRAY_SIZE(tls_files); i++) {
        if ((tls_files[i].types & 1u << type) != 0) {
            int r = take_file(blob, dir_fd, &tls_files[i], ret_key_fd, err);

            if (r < 0)
                return error_prepend(err, "folder '%.200s'", dir);
        }
    }
    return 0;
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

int tls_files_open(const struct object_options *options, int *ret_credentials_fd, int *ret_key_fd, struct error *err)
{
    static const uint32_t kinds[OBJECT_TYPE_MAX] = {
        [OBJECT_TYPE_TLS_CREDS_X509] = TLS_KIND_X509,
        [OBJECT_TYPE_TLS_CREDS_PSK] = TLS_KIND_PSK,
        [OBJECT_TYPE_TLS_CREDS_ANON] = TLS_KIND_ANON,
    };
    const struct tls_creds_options *creds = &options->tls_creds;
    _cleanup_(blob_done) struct blob blob = { .fd = -1 };
    _cleanup_close_ int key_fd = -1;
    int r = take_priority(&blob, creds->priority, err);

    blob.header.kind = kinds[options->type];
    blob.header.flags = (creds->verify_peer ? TLS_VERIFY_PEER : 0) |
                        (options->type == OBJECT_TYPE_TLS_CREDS_X509 && creds->sanity_check ? TLS_SANITY_CHECK : 0);
    if (r == 0 && creds->dir != NULL)
        r = take_folder(&blob, creds->dir, options->type, &key_fd, err);
    if (r == 0)
        r = write_blob(&blob, err);
    if (r < 0)
        return r;
    *ret_credentials_fd = TAKE_FD(blob.fd);
    *ret_key_fd = TAKE_FD(key_fd);
    return 0;
}
