/* SPDX-License-Identifier: BSD-2-Clause */
/* The environment, see environment.h. Its values are whoever's who started us: they are parsed strictly. */
#include "monitor/startup/environment.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/log.h"
#include "monitor/qmp/schema-scalar.h"
#include "monitor/qmp/socket.h"

extern char **environ;

#define LISTEN_FDS_START 3
#define NOTIFY_TRY_MS    100

/* ---- Reading and clearing ---- */

/* Sanitizers of builds for tests read their options later. */
static bool keeps(const char *entry)
{
#ifdef WITH_SANITIZERS
    return strncmp(entry, "ASAN_OPTIONS=", 13) == 0 || strncmp(entry, "UBSAN_OPTIONS=", 14) == 0 ||
           strncmp(entry, "LSAN_OPTIONS=", 13) == 0;
#else
    return false;
#endif
}

static void clear(void)
{
#ifdef WITH_DEVELOPER_AIDS
    return;
#endif
    for (char **entry = environ; entry != NULL && *entry != NULL;) {
        if (keeps(*entry)) {
            entry++;
            continue;
        }
        for (char **move = entry; *move != NULL; move++)
            *move = move[1];
    }
}

static bool parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
    bool negative;

    return text != NULL && text[0] != '+' && scalar_parse_int(text, &negative, ret_number) && !negative &&
           *ret_number <= max;
}

static unsigned count_names(const char *names)
{
    unsigned count = 1;

    for (; *names != '\0'; names++)
        count += *names == ':';
    return count;
}

/* Variables that are meant for another process, which has let us inherit them, say nothing. */
static int take_listen(struct environment *environment, struct error *err)
{
    uint64_t number;

    if (!parse_number(getenv("LISTEN_PID"), INT32_MAX, &number) || (pid_t)number != getpid())
        return 0;
    if (!parse_number(getenv("LISTEN_FDS"), ENVIRONMENT_LISTEN_MAX, &number) || number == 0)
        return error_set(err, -EINVAL, "LISTEN_FDS is not a number from 1 to %d", ENVIRONMENT_LISTEN_MAX);
    environment->listen_count = (unsigned)number;
    environment->listen_names = getenv("LISTEN_FDNAMES");
    if (environment->listen_names != NULL && count_names(environment->listen_names) != number)
        return error_set(err, -EINVAL, "LISTEN_FDNAMES has %u names for %u descriptors",
                         count_names(environment->listen_names), (unsigned)number);
    return 0;
}

/* The texts stay where they are when the variables are gone. */
int environment_take(struct environment *ret, struct error *err)
{
    struct environment environment = { .notify_path = getenv("NOTIFY_SOCKET"), .journal = getenv("JOURNAL_STREAM") };
    int r = take_listen(&environment, err);

    clear();
    *ret = environment;
    return r;
}

/* ---- Descriptors ---- */

/* The number of the one descriptor with that name, or 0: none, -1: several. */
static int find_name(const struct environment *environment, const char *name)
{
    size_t len = strlen(name);
    const char *p = environment->listen_names;
    int found = 0;

    for (unsigned i = 0; p != NULL && i < environment->listen_count; i++) {
        size_t this_len = strcspn(p, ":");

        if (this_len == len && memcmp(p, name, len) == 0)
            found = found == 0 ? LISTEN_FDS_START + (int)i : -1;
        p += this_len + 1;
    }
    return found;
}

static int name_descriptor(const struct environment *environment, const char **text, struct error *err)
{
    int fd;
    char number[16];

    if (socket_fd_number(*text, &fd))
        return 0;
    fd = find_name(environment, *text);
    if (fd <= 0)
        return error_set(err, -EBADF,
                         fd == 0 ? "'%.64s' is not the number of a descriptor, nor a name in LISTEN_FDNAMES (%.64s)"
                                 : "several descriptors are named '%.64s' in LISTEN_FDNAMES (%.64s)",
                         *text, environment->listen_names != NULL ? environment->listen_names : "none were passed in");
    snprintf(number, sizeof(number), "%d", fd);
    free((char *)*text);
    *text = strdup(number);
    return *text != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

int environment_name_descriptors(const struct environment *environment, struct startup_options *options,
                                 struct error *err)
{
    bool used[ENVIRONMENT_LISTEN_MAX] = { false };
    int fd;

    for (unsigned i = 0; i < options->item_count; i++) {
        struct startup_item *item = &options->items[i];
        const char **text = startup_item_fd_text(item);
        int r = text != NULL ? name_descriptor(environment, text, err) : 0;

        if (r < 0)
            return startup_item_blame(item, err);
        if (startup_item_fd(item, &fd) && fd >= LISTEN_FDS_START &&
            (unsigned)(fd - LISTEN_FDS_START) < environment->listen_count)
            used[fd - LISTEN_FDS_START] = true;
    }
    for (unsigned i = 0; i < environment->listen_count; i++) {
        if (!used[i])
            log_warning("descriptor %u was passed in to listen on (LISTEN_FDS), and no option uses it",
                        LISTEN_FDS_START + i);
    }
    return 0;
}

/* ---- The service manager ---- */

/* What does not fit into its queue is tried again when there is room, or it is time. */
static int send_state(int fd, const char *state, unsigned tries)
{
    struct pollfd pfd = { .fd = fd, .events = POLLOUT };

    while (send(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno != EAGAIN || --tries == 0)
            return -errno;
        poll(&pfd, 1, NOTIFY_TRY_MS);
    }
    return 0;
}

void environment_notify(const struct environment *environment, const char *state, unsigned tries)
{
    const char *path = environment->notify_path;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    _cleanup_close_ int fd = -1;
    size_t len = path != NULL ? strlen(path) : 0;
    int r;

    if (len < 2 || (path[0] != '/' && path[0] != '@') || len >= sizeof(addr.sun_path))
        return;
    memcpy(addr.sun_path, path, len);
    if (path[0] == '@')
        addr.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = fd < 0 || connect(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0
            ? -errno
            : send_state(fd, state, tries);
    if (r < 0)
        log_warning("cannot notify the service manager: %s", strerror(-r));
}

bool environment_is_journal(const struct environment *environment, int fd)
{
    uint64_t dev;
    uint64_t ino;
    struct stat st;

    return environment->journal != NULL && sscanf(environment->journal, "%" SCNu64 ":%" SCNu64, &dev, &ino) == 2 &&
           fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}
