/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor's end of the mounter (monitor/mounter/): started once, before no_new_privs, asked for mounts from then
 * on. Requests wait their turn here, so that nothing ever blocks on its socket.
 */
#ifndef BULKHEAD_MONITOR_EXPORT_MOUNTER_H
#define BULKHEAD_MONITOR_EXPORT_MOUNTER_H

#include "common/base/error.h"
#include "monitor/mounter/mounter-protocol.h"

struct event_base;
struct mounter;

/*
 * How an owner hears of its request, from the loop. reply->code says whether it was carried out, reply->text why not;
 * if the mounter is gone that is said in the same way. fds, reply->devices of them, are the callee's.
 */
typedef void mounter_done_fn(void *opaque, const struct mounter_reply *reply, int *fds);

/* Open the program, which the account may not be able to reach later. 0 or -errno. */
int mounter_new(struct event_base *base, struct mounter **ret_mounter, struct error *err);

/*
 * Start it, as the account, before no_new_privs. That it cannot be started is no reason to end: mounter_mount() will
 * say why.
 */
void mounter_start(struct mounter *mounter);

/* Watch its socket, in the process that goes on. 0 or -errno. */
int mounter_attach(struct mounter *mounter, struct error *err);

/* Closes the socket, upon which it unmounts everything; waits for that a while. No callback comes. NULL is fine. */
void mounter_free(struct mounter *mounter);

/* Ask. 0, or -errno and done is not called. */
int mounter_mount(struct mounter *mounter, const char *path, const char *id, enum mounter_allow_other allow_other,
                  unsigned pairs, uint32_t max_read_bytes, mounter_done_fn *done, void *opaque, struct error *err);
int mounter_unmount(struct mounter *mounter, uint64_t mount, bool lazy, mounter_done_fn *done, void *opaque,
                    struct error *err);

/* The owner of a mount that is being made needs it no more: the answer comes soon, whatever hangs. */
void mounter_cancel(struct mounter *mounter, const void *opaque);

#endif
