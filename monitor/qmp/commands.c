/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of all commands with their handlers. */
#include "monitor/qmp/commands.h"

#define COMMAND_ROW(command_name, c_name, args_type, ret_type, command_flags, text)                                    \
    { .name = command_name,                                                                                            \
      .args = args_type,                                                                                               \
      .ret = ret_type,                                                                                                 \
      .run = qmp_run_##c_name,                                                                                         \
      .flags = command_flags,                                                                                          \
      .doc = text },

const struct qmp_command qmp_commands[] = { QMP_COMMANDS(COMMAND_ROW) };
const unsigned qmp_command_count = ARRAY_SIZE(qmp_commands);
