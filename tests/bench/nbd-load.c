/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A lean NBD load generator: one thread per connection, many requests per send, many replies per recv, nothing copied
 * or checked beyond what tells one reply from the next. Reports requests per second and, given the pid of a server, the
 * CPU time that its process tree spent per request (utime + stime of /proc/PID/stat, before and after).
 *
 *     nbd-load --unix /run/nbd --export disk --op randread --bytes 4096 --depth 32 --connections 1 --seconds 3 --pid
 * 123
 *
 * Prints one line of JSON.
 */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/base/util.h"
#include "common/net/nbd-protocol.h"

#define RECEIVE_BYTES (256u << 10) /* stays in the cache, so that servers are measured and not this */
#define DEPTH_MAX     1024u

struct config {
    const char *unix_path;
    const char *host;
    const char *port;
    const char *export_name;
    bool write;
    bool random;
    bool structured;
    uint32_t bytes;
    unsigned depth;
    unsigned connections;
    double seconds;
    uint64_t size_bytes; /* limit of the range in use; 0: all of the export */
    int pid;             /* 0: none */
};

struct connection {
    const struct config *config;
    int fd;
    uint64_t blocks; /* how many there are to choose from */
    uint64_t next;   /* sequential: the next one */
    uint64_t random;
    uint64_t done;
    pthread_t thread;
    uint8_t *out;
    uint8_t *in;
};

static atomic_bool stop;

static void die(const char *what)
{
    fprintf(stderr, "nbd-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fail(const char *what)
{
    fprintf(stderr, "nbd-load: %s\n", what);
    exit(1);
}

/* ---- Connecting ---- */

static void send_all(int fd, const void *data, size_t len_bytes)
{
    const uint8_t *p = data;

    while (len_bytes > 0) {
        ssize_t n = send(fd, p, len_bytes, MSG_NOSIGNAL);

        if (n < 0)
            die("send");
        p += n;
        len_bytes -= (size_t)n;
    }
}

static void recv_all(int fd, void *data, size_t len_bytes)
{
    uint8_t *p = data;

    while (len_bytes > 0) {
        ssize_t n = recv(fd, p, len_bytes, 0);

        if (n <= 0)
            die("recv");
        p += n;
        len_bytes -= (size_t)n;
    }
}

static int connect_unix(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die(path);
    return fd;
}

static int connect_tcp(const char *host, const char *port)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int fd, one = 1;

    if (getaddrinfo(host, port, &hints, &found) != 0)
        fail("the host or port is unknown");
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0)
        die(host);
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void send_option(int fd, uint32_t option, const void *data, uint32_t len_bytes)
{
    struct nbd_option_header header = { htobe64(NBD_NEW_VERSION), htobe32(option), htobe32(len_bytes) };

    send_all(fd, &header, sizeof(header));
    send_all(fd, data, len_bytes);
}

/* The reply's type; up to max_bytes of its data are kept. */
static uint32_t recv_reply(int fd, uint8_t *data, size_t max_bytes)
{
    struct nbd_option_reply reply;

    recv_all(fd, &reply, sizeof(reply));
    if (be32toh(reply.len_bytes) > max_bytes)
        fail("the server sent an option reply that is too long");
    recv_all(fd, data, be32toh(reply.len_bytes));
    return be32toh(reply.type);
}

/* Returns the size of the export. */
static uint64_t handshake(int fd, const struct config *config)
{
    uint32_t flags = htobe32(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    uint32_t name_len = (uint32_t)strlen(config->export_name), type;
    struct nbd_greeting greeting;
    struct nbd_info_export info = { 0 };
    uint8_t data[8192] = { 0 };

    recv_all(fd, &greeting, sizeof(greeting));
    send_all(fd, &flags, sizeof(flags));
    if (config->structured) {
        send_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        if (recv_reply(fd, data, sizeof(data)) != NBD_REP_ACK)
            fail("the server refuses structured replies");
    }
    *(uint32_t *)(void *)data = htobe32(name_len);
    memcpy(data + 4, config->export_name, name_len);
    memset(data + 4 + name_len, 0, 2);
    send_option(fd, NBD_OPT_GO, data, 4 + name_len + 2);
    while ((type = recv_reply(fd, data, sizeof(data))) == NBD_REP_INFO) {
        if (data[0] == 0 && data[1] == NBD_INFO_EXPORT)
            memcpy(&info, data, sizeof(info));
    }
    if (type != NBD_REP_ACK)
        fail("the server refuses the export");
    return be64toh(info.size_bytes);
}

/* ---- Load ---- */

static uint64_t next_offset(struct connection *c)
{
    uint64_t block;

    if (c->config->random) {
        c->random ^= c->random << 13;
        c->random ^= c->random >> 7;
        c->random ^= c->random << 17;
        block = c->random % c->blocks;
    } else {
        block = c->next++ % c->blocks;
    }
    return block * c->config->bytes;
}

static void issue(struct connection *c, unsigned count)
{
    const struct config *config = c->config;
    size_t each = sizeof(struct nbd_request_header) + (config->write ? config->bytes : 0);

    for (unsigned i = 0; i < count; i++) {
        struct nbd_request_header header = {
            .magic = htobe32(NBD_REQUEST_MAGIC),
            .type = htobe16(config->write ? NBD_CMD_WRITE : NBD_CMD_READ),
            .offset = htobe64(next_offset(c)),
            .len_bytes = htobe32(config->bytes),
        };

        memcpy(c->out + i * each, &header, sizeof(header));
    }
    send_all(c->fd, c->out, count * each);
}

/*
 * Walk over what has arrived. *skip_bytes: of a reply whose head has been seen. Returns the number of replies that
 * ended; what remains (the start of a head) is moved to the start of the buffer.
 */
static unsigned take_replies(struct connection *c, size_t *have_bytes, uint64_t *skip_bytes, bool *in_last)
{
    const struct config *config = c->config;
    size_t at = 0;
    unsigned ended = 0;

    for (;;) {
        size_t n = (size_t)MIN(*skip_bytes, *have_bytes - at);
        uint32_t magic;

        at += n;
        *skip_bytes -= n;
        if (*skip_bytes > 0)
            break;
        if (*in_last) {
            ended++;
            *in_last = false;
        }
        if (*have_bytes - at < (config->structured ? sizeof(struct nbd_chunk) : sizeof(struct nbd_simple_reply)))
            break;
        memcpy(&magic, c->in + at, sizeof(magic));
        if (be32toh(magic) == NBD_SIMPLE_REPLY_MAGIC) {
            struct nbd_simple_reply reply;

            memcpy(&reply, c->in + at, sizeof(reply));
            if (reply.error != 0)
                fail("the server reports an error");
            at += sizeof(reply);
            *skip_bytes = config->write ? 0 : config->bytes;
            *in_last = true;
        } else if (be32toh(magic) == NBD_STRUCTURED_REPLY_MAGIC) {
            struct nbd_chunk chunk;

            memcpy(&chunk, c->in + at, sizeof(chunk));
            if ((be16toh(chunk.type) & 1u << 15) != 0)
                fail("the server reports an error");
            at += sizeof(chunk);
            *skip_bytes = be32toh(chunk.len_bytes);
            *in_last = (be16toh(chunk.flags) & NBD_REPLY_FLAG_DONE) != 0;
        } else {
            fail("the server sent something that is no reply");
        }
    }
    memmove(c->in, c->in + at, *have_bytes - at);
    *have_bytes -= at;
    return ended;
}

/*
 * Wait in poll(), as libnbd and QEMU do. A client that sleeps in recv() on a unix socket is also woken when the server
 * takes its request, and the server pays for that.
 */
static ssize_t receive(struct connection *c, size_t have_bytes)
{
    struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
    ssize_t n;

    while ((n = recv(c->fd, c->in + have_bytes, RECEIVE_BYTES - have_bytes, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
        poll(&pfd, 1, -1);
    return n;
}

static void *run(void *arg)
{
    struct connection *c = arg;
    size_t have_bytes = 0;
    uint64_t skip_bytes = 0;
    unsigned in_flight = c->config->depth;
    bool in_last = false;

    issue(c, in_flight);
    while (in_flight > 0) {
        ssize_t n = receive(c, have_bytes);
        unsigned ended;

        if (n <= 0)
            die("the server is gone");
        have_bytes += (size_t)n;
        ended = take_replies(c, &have_bytes, &skip_bytes, &in_last);
        if (atomic_load_explicit(&stop, memory_order_relaxed)) {
            in_flight -= ended;
        } else {
            c->done += ended;
            if (ended > 0)
                issue(c, ended);
        }
    }
    return NULL;
}

/* ---- The server's CPU time ---- */

struct process {
    int pid;
    int parent;
    uint64_t ticks;
};

static bool read_process(const char *pid, struct process *ret)
{
    unsigned long utime, stime;
    char path[300], line[1024] = "", *after_name;
    FILE *file;
    bool ok = false;

    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    if (fgets(line, sizeof(line), file) != NULL && (after_name = strrchr(line, ')')) != NULL)
        ok = sscanf(after_name + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &ret->parent, &utime,
                    &stime) == 3;
    fclose(file);
    if (ok) {
        ret->pid = atoi(pid);
        ret->ticks = utime + stime;
    }
    return ok;
}

/* Of pid and all its descendants, in microseconds. */
static double tree_cpu_us(int root)
{
    static struct process all[65536];
    static bool in_tree[65536];
    unsigned count = 0;
    uint64_t ticks = 0;
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    bool grew = true;

    while (dir != NULL && (entry = readdir(dir)) != NULL && count < ARRAY_SIZE(all)) {
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && read_process(entry->d_name, &all[count])) {
            in_tree[count] = all[count].pid == root;
            count++;
        }
    }
    closedir(dir);
    while (grew) {
        grew = false;
        for (unsigned i = 0; i < count; i++) {
            for (unsigned j = 0; j < count && !in_tree[i]; j++) {
                if (in_tree[j] && all[i].parent == all[j].pid)
                    in_tree[i] = grew = true;
            }
        }
    }
    for (unsigned i = 0; i < count; i++)
        ticks += in_tree[i] ? all[i].ticks : 0;
    return (double)ticks * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

/* ---- Main ---- */

static void open_connection(struct connection *c, const struct config *config, unsigned index)
{
    size_t each = sizeof(struct nbd_request_header) + (config->write ? config->bytes : 0);
    uint64_t size_bytes;

    c->config = config;
    c->fd = config->unix_path != NULL ? connect_unix(config->unix_path) : connect_tcp(config->host, config->port);
    size_bytes = handshake(c->fd, config);
    if (config->size_bytes != 0)
        size_bytes = MIN(size_bytes, config->size_bytes);
    c->blocks = size_bytes / config->bytes;
    if (c->blocks == 0)
        fail("the export is smaller than one request");
    c->next = c->blocks / config->connections * index;
    c->random = 0x9e3779b97f4a7c15u + index;
    c->out = malloc(each * config->depth);
    c->in = malloc(RECEIVE_BYTES);
    if (c->out == NULL || c->in == NULL)
        fail("no memory");
    memset(c->out, 0xa5, each * config->depth);
    memset(c->in, 0, RECEIVE_BYTES);
}

static void measure(const struct config *config)
{
    struct connection *connections = calloc(config->connections, sizeof(*connections));
    struct timespec ts = { .tv_sec = (time_t)config->seconds,
                           .tv_nsec = (long)((config->seconds - (double)(time_t)config->seconds) * 1e9) };
    double cpu_us = 0, seconds, rate;
    uint64_t done = 0, start_ns;

    if (connections == NULL)
        fail("no memory");
    for (unsigned i = 0; i < config->connections; i++)
        open_connection(&connections[i], config, i);
    if (config->pid != 0)
        cpu_us = tree_cpu_us(config->pid);
    start_ns = now_ns();
    for (unsigned i = 0; i < config->connections; i++)
        if (pthread_create(&connections[i].thread, NULL, run, &connections[i]) != 0)
            fail("cannot start a thread");
    nanosleep(&ts, NULL);
    for (unsigned i = 0; i < config->connections; i++)
        done += connections[i].done; /* read while it counts: off by a batch at most */
    seconds = (double)(now_ns() - start_ns) / 1e9;
    if (config->pid != 0)
        cpu_us = tree_cpu_us(config->pid) - cpu_us;
    atomic_store(&stop, true);
    for (unsigned i = 0; i < config->connections; i++)
        pthread_join(connections[i].thread, NULL);
    rate = (double)done / seconds;
    printf("{\"requests\": %llu, \"seconds\": %.3f, \"iops\": %.0f, \"mib_per_s\": %.1f, \"server_us\": %.3f}\n",
           (unsigned long long)done, seconds, rate, rate * config->bytes / 1048576,
           config->pid != 0 && done > 0 ? cpu_us / (double)done : -1);
    free(connections);
}

static void set_op(struct config *config, const char *op)
{
    config->random = strncmp(op, "rand", 4) == 0;
    if (config->random)
        op += 4;
    config->write = strcmp(op, "write") == 0;
    if (!config->write && strcmp(op, "read") != 0)
        fail("--op takes read, write, randread or randwrite");
}

static void set_tcp(struct config *config, char *address)
{
    char *colon = strrchr(address, ':');

    if (colon == NULL)
        fail("--tcp takes HOST:PORT");
    *colon = '\0';
    config->host = address;
    config->port = colon + 1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "unix", required_argument, NULL, 'u' },    { "tcp", required_argument, NULL, 't' },
        { "export", required_argument, NULL, 'e' },  { "op", required_argument, NULL, 'o' },
        { "bytes", required_argument, NULL, 'b' },   { "depth", required_argument, NULL, 'd' },
        { "connections", required_argument, NULL, 'c' }, { "seconds", required_argument, NULL, 's' },
        { "size", required_argument, NULL, 'z' },    { "pid", required_argument, NULL, 'p' },
        { "structured", no_argument, NULL, 'S' },    { NULL, 0, NULL, 0 },
    };
    struct config config = { .export_name = "", .bytes = 4096, .depth = 1, .connections = 1, .seconds = 3 };
    int c;

    set_op(&config, "randread");
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'u': config.unix_path = optarg; break;
        case 't': set_tcp(&config, optarg); break;
        case 'e': config.export_name = optarg; break;
        case 'o': set_op(&config, optarg); break;
        case 'b': config.bytes = (uint32_t)strtoul(optarg, NULL, 0); break;
        case 'd': config.depth = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'c': config.connections = (unsigned)strtoul(optarg, NULL, 0); break;
        case 's': config.seconds = strtod(optarg, NULL); break;
        case 'z': config.size_bytes = strtoull(optarg, NULL, 0); break;
        case 'p': config.pid = atoi(optarg); break;
        case 'S': config.structured = true; break;
        default: return 2;
        }
    }
    if ((config.unix_path == NULL) == (config.host == NULL))
        fail("give either --unix PATH or --tcp HOST:PORT");
    if (config.bytes == 0 || config.depth == 0 || config.depth > DEPTH_MAX || config.connections == 0)
        fail("--bytes, --depth (up to 1024) and --connections must be at least 1");
    measure(&config);
    return 0;
}
