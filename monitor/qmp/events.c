/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of all events. */
#include "monitor/qmp/commands.h"

const struct qmp_event qmp_events[] = {
    { "BLOCK_EXPORT_DELETED", &schema_block_export_deleted, "An export is gone, its id is free again." },
    { "__org.bulkhead_WORKER_GONE", &schema_worker_gone,
      "A worker process has ended without being told to, or one that was lost has ended after all." },
    { "__org.bulkhead_WORKER_LOST", &schema_worker_lost,
      "A worker process cannot be ended, or what it had under way; its image stays locked until it is gone." },
};
const unsigned qmp_event_count = ARRAY_SIZE(qmp_events);
