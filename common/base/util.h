/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small helpers that every folder uses: clean-up attributes, taking ownership, checked arithmetic on peer values.
 */
#ifndef BULKHEAD_BASE_UTIL_H
#define BULKHEAD_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

/* What the C library's headers may not know yet. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _unused_            __attribute__((unused))

/* For _cleanup_(free_pointer) char *p = NULL; */
static inline void free_pointer(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

/* free() for memory that may hold a secret: it is overwritten first. NULL is fine. */
void free_wiped(void *memory);

/* For _cleanup_(free_wiped_pointer) char *p = NULL; */
static inline void free_wiped_pointer(void *pointer_to_pointer)
{
    free_wiped(*(void **)pointer_to_pointer);
}

/* Closes *fd unless it is negative and makes it -1; errno is kept. */
void close_fd(int *fd);

#define _cleanup_free_  _cleanup_(free_pointer)
#define _cleanup_close_ _cleanup_(close_fd)

/* Hands a descriptor or pointer on: the value moves, the variable is left empty. */
static inline int take_fd(int *fd)
{
    int value = *fd;

    *fd = -1;
    return value;
}
#define TAKE_FD(fd) take_fd(&(fd))

#define TAKE_PTR(p)                                                                                                    \
    ({                                                                                                                 \
        __typeof__(p) _taken = (p);                                                                                    \
        (p) = NULL;                                                                                                    \
        _taken;                                                                                                        \
    })

/* Sums and products of values that a peer can choose: false on overflow, *ret is then untouched. */
static inline bool u64_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

static inline bool u64_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

/* Whether [offset, offset + len) lies within [0, size). */
static inline bool range_within(uint64_t offset, uint64_t len, uint64_t size)
{
    return offset <= size && len <= size - offset;
}

static inline bool is_power_of_2(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* The largest power of 2 that divides both; 0 is divided by all. unit is a power of 2. */
static inline uint32_t common_unit(uint32_t unit, uint64_t value)
{
    return value % unit == 0 ? unit : (uint32_t)(value & -value);
}

/* align must be a power of 2; round_up may overflow near UINT64_MAX, which callers exclude by a range check. */
static inline uint64_t round_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

static inline uint64_t round_up(uint64_t value, uint64_t align)
{
    return round_down(value + align - 1, align);
}

/* Monotonic time in nanoseconds. */
uint64_t now_ns(void);

static inline struct timeval timeval_of_ms(uint64_t ms)
{
    return (struct timeval){ .tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
}

#endif
