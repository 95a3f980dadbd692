/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The single layers: enforce() puts one in force (0 or -errno), observe() asks the kernel whether it is.
 */
#ifndef BULKHEAD_SANDBOX_LAYERS_H
#define BULKHEAD_SANDBOX_LAYERS_H

#include "common/sandbox/sandbox.h"

/* Needs capabilities over its own mount namespace. */
int layer_enforce_empty_root(struct sandbox *sandbox, struct error *err);
bool layer_observe_empty_root(const struct sandbox *sandbox);

int layer_enforce_no_capabilities(struct sandbox *sandbox, struct error *err);
bool layer_observe_no_capabilities(const struct sandbox *sandbox);

int layer_enforce_no_new_privs(struct sandbox *sandbox, struct error *err);
bool layer_observe_no_new_privs(const struct sandbox *sandbox);

int layer_enforce_non_dumpable(struct sandbox *sandbox, struct error *err);
bool layer_observe_non_dumpable(const struct sandbox *sandbox);

/* The rows of the role's table without and with `late`. */
int layer_enforce_rlimits_early(struct sandbox *sandbox, struct error *err);
int layer_enforce_rlimits_late(struct sandbox *sandbox, struct error *err);
bool layer_observe_rlimits(const struct sandbox *sandbox);

int layer_enforce_landlock(struct sandbox *sandbox, struct error *err);
bool layer_observe_landlock(const struct sandbox *sandbox);

#endif
