/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the schema share: access to C values by a type's layout. */
#ifndef BULKHEAD_MONITOR_QMP_SCHEMA_INTERNAL_H
#define BULKHEAD_MONITOR_QMP_SCHEMA_INTERNAL_H

#include <string.h>

#include "monitor/qmp/schema.h"

/* Any SCHEMA_LIST(T), seen without its T: pointers to objects all look the same on the machines that we run on. */
struct schema_list {
    void *items;
    size_t count;
};

unsigned schema_load_enum(const void *slot);
void *schema_load_pointer(const void *slot);

/* The variant of a union, or branch of an alternate, that value's tag selects; NULL: none, or one without members. */
const struct schema_variant *schema_active_variant(const struct schema_type *type, const void *value);

static inline uint64_t schema_load_unsigned(const struct schema_type *type, const void *slot)
{
    uint64_t value = 0;

    /* Little-endian: the low bytes come first. */
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are loaded by their low bytes");
    memcpy(&value, slot, type->size_bytes);
    return value;
}

static inline int64_t schema_load_signed(const struct schema_type *type, const void *slot)
{
    unsigned unused_bits = 64 - 8 * (unsigned)type->size_bytes;

    return (int64_t)(schema_load_unsigned(type, slot) << unused_bits) >> unused_bits;
}

static inline void schema_store_int(const struct schema_type *type, void *slot, uint64_t value)
{
    memcpy(slot, &value, type->size_bytes);
}

#endif
