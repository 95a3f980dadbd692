/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A front-end that connects, sets up one queue, says "ready" and then takes a command a line:
 *
 *     read SECTOR COUNT     "ok HEX..." with the first 16 bytes, or "status N"
 *     write SECTOR COUNT BYTE
 *     discard SECTOR COUNT [SECTOR COUNT]...
 *     zero SECTOR COUNT [SECTOR COUNT]...
 *     flush
 *     id                    "ok TEXT"
 *     capacity              "ok SECTORS"
 *     blocks                "ok LOGICAL PHYSICAL"
 *     notice                wait for a configuration change: "ok", or "none"
 *     closed                wait for the back-end to close the connection: "ok", or "open"
 *     flood SECONDS         read and write at depth 16 until then, or until the connection ends: "ok COUNT"
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/vhost/test.h"

static uint8_t *scratch, *data;
static int backend_fds[2];

static void answer(struct fe *fe, unsigned status, const char *text)
{
    if (status == S_OK)
        printf("ok%s%s\n", *text != '\0' ? " " : "", text);
    else if (status == S_NONE)
        printf("no answer: %s\n", fe->error);
    else
        printf("status %u\n", status);
    fflush(stdout);
}

static void run_read(struct fe *fe, const char *args)
{
    unsigned long long sector = 0;
    unsigned count = 0, status;
    char hex[33] = "";

    sscanf(args, "%llu %u", &sector, &count);
    status = fe_request(fe, 0, scratch, T_IN, sector, data, count * 512, NULL);
    for (unsigned i = 0; i < 16; i++)
        sprintf(hex + 2 * i, "%02x", data[i]);
    answer(fe, status, hex);
}

static void run_write(struct fe *fe, const char *args)
{
    unsigned long long sector = 0;
    unsigned count = 0, byte = 0;

    sscanf(args, "%llu %u %u", &sector, &count, &byte);
    memset(data, (int)byte, count * 512);
    answer(fe, fe_request(fe, 0, scratch, T_OUT, sector, data, count * 512, NULL), "");
}

/* One request of as many ranges as there are pairs of numbers. */
static void run_ranges(struct fe *fe, uint32_t type, const char *args)
{
    struct range {
        uint64_t sector;
        uint32_t num_sectors, flags;
    } range = { 0 };
    unsigned long long sector;
    uint32_t len_bytes = 0;
    int n = 0;

    for (; sscanf(args, "%llu %u%n", &sector, &range.num_sectors, &n) == 2; args += n) {
        range.sector = sector;
        memcpy(data + len_bytes, &range, sizeof(range));
        len_bytes += sizeof(range);
    }
    answer(fe, fe_request(fe, 0, scratch, type, 0, data, len_bytes, NULL), "");
}

static void run_discard(struct fe *fe, const char *args)
{
    run_ranges(fe, T_DISCARD, args);
}

static void run_zero(struct fe *fe, const char *args)
{
    run_ranges(fe, T_WRITE_ZEROES, args);
}

static void run_flush(struct fe *fe, const char *args)
{
    answer(fe, fe_request(fe, 0, scratch, T_FLUSH, 0, NULL, 0, NULL), "");
}

static void run_id(struct fe *fe, const char *args)
{
    unsigned status = fe_request(fe, 0, scratch, T_GET_ID, 0, data, 20, NULL);

    data[20] = 0;
    answer(fe, status, (const char *)data);
}

static void run_capacity(struct fe *fe, const char *args)
{
    uint64_t capacity = 0;
    bool ok = fe_get_config(fe, 0, &capacity, 8);

    snprintf((char *)data, 64, "%llu", (unsigned long long)capacity);
    answer(fe, ok ? S_OK : S_NONE, (const char *)data);
}

static void run_blocks(struct fe *fe, const char *args)
{
    uint8_t config[60];
    uint32_t logical = 0;
    bool ok = fe_get_config(fe, 0, config, sizeof(config));

    memcpy(&logical, config + 20, 4);
    snprintf((char *)data, 64, "%u %u", logical, logical << config[24]);
    answer(fe, ok ? S_OK : S_NONE, (const char *)data);
}

static void run_notice(struct fe *fe, const char *args)
{
    struct pollfd pfd = { .fd = backend_fds[0], .events = POLLIN };
    uint32_t header[3];

    if (poll(&pfd, 1, 10000) == 1 && read(backend_fds[0], header, 12) == 12 && header[0] == 2 && header[2] == 0)
        puts("ok");
    else
        puts("none");
    fflush(stdout);
}

static void run_closed(struct fe *fe, const char *args)
{
    puts(fe_is_closed(fe) ? "ok" : "open");
    fflush(stdout);
}

#define FLOOD_DEPTH 16u

static void offer_one(struct fe *fe, unsigned i, unsigned long count)
{
    uint8_t *slot = data + i * 8192;
    struct fe_buffer buffers[3] = { { slot, 16, false },
                                    { slot + 4096, 4096, count % 2 == 0 },
                                    { slot + 32, 1, true } };

    memcpy(slot, &(struct fe_header){ count % 2 ? T_OUT : T_IN, 0, count * 8 % 8192 }, 16);
    fe_offer(fe, 0, i * 3, buffers, 3);
}

static void run_flood(struct fe *fe, const char *args)
{
    time_t end = time(NULL) + atoi(args);
    unsigned long count = 0;
    uint32_t id, len;

    for (unsigned i = 0; i < FLOOD_DEPTH; i++)
        offer_one(fe, i, i);
    fe_kick(fe, 0);
    while (time(NULL) < end && fe_wait(fe, 0, &id, &len)) {
        do {
            count++;
            offer_one(fe, id / 3, count);
        } while (fe_take(fe, 0, &id, &len));
        fe_kick(fe, 0);
    }
    printf("ok %lu\n", count);
    fflush(stdout);
}

static const struct {
    const char *name;
    void (*run)(struct fe *fe, const char *args);
} commands[] = {
    { "read", run_read },         { "write", run_write },     { "flush", run_flush },   { "id", run_id },
    { "capacity", run_capacity }, { "blocks", run_blocks },   { "notice", run_notice }, { "closed", run_closed },
    { "flood", run_flood },       { "discard", run_discard }, { "zero", run_zero },
};

int stay(const char *path)
{
    struct fe fe = { 0 };
    char line[128];

    if (!fe_start(&fe, path, USUAL, 1, 64)) {
        printf("cannot start: %s\n", fe.error);
        return 1;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, backend_fds) < 0 ||
        fe_acked(&fe, R_SET_BACKEND_REQ_FD, NULL, 0, &backend_fds[1], 1) != 0)
        fe_die("SET_BACKEND_REQ_FD: %s", fe.error);
    scratch = FE_DATA(&fe, 1);
    data = scratch + 4096;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        size_t name_len = strcspn(line, " \n");

        for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
            if (strlen(commands[i].name) == name_len && strncmp(commands[i].name, line, name_len) == 0)
                commands[i].run(&fe, line + name_len);
        }
    }
    fe_close(&fe);
    return 0;
}
