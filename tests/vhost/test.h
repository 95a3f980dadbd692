/* SPDX-License-Identifier: BSD-2-Clause */
/* Cases of vhost-test; see main.c. A case starts without a connection and leaves none. */
#ifndef BULKHEAD_TESTS_VHOST_TEST_H
#define BULKHEAD_TESTS_VHOST_TEST_H

#include "tests/vhost/frontend.h"

struct test {
    const char *path; /* of the socket */
    char why[512];    /* of the case that failed */
};

/* What a disk must be for a case to run. */
#define NEEDS_WRITABLE (1u << 0)
#define NEEDS_QUEUES   (1u << 1) /* at least 4 */
#define NEEDS_READONLY (1u << 2)

struct test_case {
    const char *name;
    bool (*run)(struct test *test);
    unsigned needs;
};

extern const struct test_case device_cases[], message_cases[], memory_cases[], ring_cases[], migration_cases[];

bool test_failed(struct test *test, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return test_failed(test, __LINE__, __VA_ARGS__);                                                           \
    } while (0)

/* What a case asks for unless it is about something else. */
#define USUAL                                                                                                          \
    (FE_F_VERSION_1 | FE_F_PROTOCOL | FE_F_INDIRECT | FE_F_EVENT_IDX | FE_F_FLUSH | FE_F_DISCARD | FE_F_WRITE_ZEROES | \
     FE_F_BLK_SIZE | FE_F_CONFIG_WCE | FE_F_RO | FE_F_MQ)

/* A well-behaved front-end reads a block: nothing of what came before has stayed. */
bool test_healthy(struct test *test);

/* The back-end must end the session now, having touched nothing outside the regions, and serve the next front-end. */
bool test_ended(struct test *test, struct fe *fe);

/* stay.c: exit status. */
int stay(const char *path);

/* Size of the disk in 512-byte sectors. */
bool test_capacity(struct test *test, struct fe *fe, uint64_t *ret);

#endif
