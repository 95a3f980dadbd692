/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images by way of the opener; see image.h. Which locks are needed follows from who uses the image, and is worked out
 * when a request is sent, since those before it may have failed. What gives back counts at once, and is said again when
 * a child that hung goes on.
 */
#include "monitor/graph/image.h"

#include <errno.h>
#include <string.h>

#include "monitor/export/export.h"
#include "monitor/graph/locks.h"
#include "monitor/graph/node.h"
#include "monitor/monitor.h"

/* What a request adds to the users of the image: while it is carried out, and for good if it succeeds. */
struct users {
    unsigned users;
    unsigned writers;
    unsigned resizers;
};

struct image_operation {
    LIST_ENTRY(image_operation) link;
    struct image *image;
    struct users meanwhile;
    struct users afterwards;
    image_done_fn *done;
    void *opaque;
    bool opens;
    bool forgotten;
};

/* ---- Locks ---- */

static void locks_for(const struct image *image, const struct users *more, uint32_t *ret_uses, uint32_t *ret_unshared)
{
    unsigned users = image->users + more->users;

    *ret_uses = 0;
    *ret_unshared = 0;
    if (!image->locked)
        return;
    if (users > 0) {
        *ret_uses |= IMAGE_LOCK_CONSISTENT_READ;
        *ret_unshared |= image->force_share ? 0 : IMAGE_LOCK_RESIZE;
    }
    if (image->writers + more->writers > 0) {
        *ret_uses |= IMAGE_LOCK_WRITE;
        *ret_unshared |= IMAGE_LOCK_WRITE;
    }
    if (image->resizers + more->resizers > 0)
        *ret_uses |= IMAGE_LOCK_RESIZE;
}

static void fill_in_locks(void *opaque, union opener_message *message)
{
    const struct image_operation *operation = opaque;
    uint32_t *uses, *unshared;

    switch (message->header.type) {
    case OPENER_SERVE:
        uses = &message->serve.uses;
        unshared = &message->serve.unshared;
        break;
    case OPENER_RESIZE:
        uses = &message->resize.uses;
        unshared = &message->resize.unshared;
        break;
    default:
        uses = &message->lock.uses;
        unshared = &message->lock.unshared;
    }
    locks_for(operation->image, &operation->meanwhile, uses, unshared);
}

/* ---- Operations ---- */

static void take_facts(struct image *image, const struct opener_reply *reply)
{
    if ((reply->flags & OPENER_HAS_SIZE) == 0)
        return;
    image->size_bytes = reply->size_bytes;
    image->allocated_bytes = reply->allocated_bytes;
    image->has_allocated = (reply->flags & OPENER_HAS_ALLOCATED) != 0;
}

static void count(struct image *image, const struct users *more)
{
    image->users += more->users;
    image->writers += more->writers;
    image->resizers += more->resizers;
}

static void update_locks(struct image *image, image_done_fn *done, void *opaque);

/* Nobody waits for what it has acquired any more. */
static void give_back(struct image *image, const struct users *acquired)
{
    if (acquired->users + acquired->resizers > 0)
        update_locks(image, NULL, NULL);
}

static void take_reply(struct image_operation *operation, const struct opener_reply *reply)
{
    struct image *image = operation->image;

    take_facts(image, reply);
    if (operation->opens) {
        image->open = true;
        image->read_only = (reply->flags & OPENER_IS_READ_ONLY) != 0;
        image->locked = image->locking != ON_OFF_AUTO_OFF && (reply->flags & OPENER_HAS_LOCKS) != 0;
    }
    if (operation->forgotten)
        give_back(image, &operation->afterwards);
    else
        count(image, &operation->afterwards);
}

/* That it is one of our own nodes which is in the way the opener's child cannot know. */
static void name_our_user(const struct image *image, struct error *err)
{
    const struct graph_node *node = graph_first(image->monitor->graph);

    for (; node != NULL; node = graph_next(node)) {
        if (node->image != NULL && node->image != image && node->image->users > 0 &&
            strcmp(node->image->filename, image->filename) == 0) {
            error_append(err, "; node '%s' of this program uses it", node->name);
            return;
        }
    }
}

/* Texts of the opener's children name the file, others do not. */
static struct error failure(const struct image_operation *operation, const struct opener_reply *reply)
{
    const char *filename = operation->image->filename;
    struct error err = { .code = reply->code };

    memcpy(err.text, reply->text, sizeof(err.text));
    if (err.code == -EAGAIN)
        name_our_user(operation->image, &err);
    if (strstr(err.text, filename) == NULL)
        error_prepend(&err, operation->opens ? "Could not open '%s'" : "'%s'", filename);
    return err;
}

static void operation_done(void *opaque, const struct opener_reply *reply, int fd)
{
    struct image_operation *operation = opaque;
    struct image_operation own = *operation;
    struct error err = { 0 };

    LIST_REMOVE(operation, link);
    free(operation);
    close_fd(&fd);
    if (reply->code < 0)
        err = failure(&own, reply);
    else
        take_reply(&own, reply);
    if (own.done != NULL)
        own.done(own.opaque, reply->code < 0 ? &err : NULL);
}

static int start(struct image *image, const struct image_operation *wanted, struct opener_ask *ask,
                 enum opener_type type, struct error *err)
{
    struct image_operation *operation = calloc(1, sizeof(*operation));
    int r;

    if (operation == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    *operation = *wanted;
    operation->image = image;
    ((struct opener_header *)(uintptr_t)ask->message)->type = type;
    ask->done = operation_done;
    ask->opaque = operation;
    r = opener_task_ask(image->task, ask, err);
    if (r < 0) {
        free(operation);
        return error_prepend(err, "'%s'", image->filename);
    }
    LIST_INSERT_HEAD(&image->operations, operation, link);
    return 0;
}

void image_forget(struct image *image, const void *opaque)
{
    struct image_operation *operation;

    LIST_FOREACH (operation, &image->operations, link) {
        if (operation->opaque != opaque || operation->done == NULL)
            continue;
        operation->done = NULL;
        operation->forgotten = true;
    }
}

int image_refresh(struct image *image, unsigned timeout_ms, image_done_fn *done, void *opaque, struct error *err)
{
    const struct image_operation operation = { .done = done, .opaque = opaque };
    struct opener_look look = { 0 };
    struct opener_ask ask = { .message = &look, .len_bytes = sizeof(look), .timeout_ms = timeout_ms };

    return start(image, &operation, &ask, OPENER_LOOK, err);
}

int image_resize(struct image *image, uint64_t size_bytes, image_done_fn *done, void *opaque, struct error *err)
{
    const struct image_operation operation = { .meanwhile = { 1, 1, 1 }, .done = done, .opaque = opaque };
    struct opener_resize resize = { .size_bytes = size_bytes };
    struct opener_ask ask = {
        .message = &resize, .len_bytes = sizeof(resize), .timeout_ms = OPENER_DEADLINE_MS, .prepare = fill_in_locks
    };

    return start(image, &operation, &ask, OPENER_RESIZE, err);
}

int image_serve(struct image *image, bool writable, const struct ipc_boot *boot, int control_fd, int page_fd,
                image_done_fn *done, void *opaque, struct error *err)
{
    const struct users more = { 1, writable, 0 };
    const struct image_operation operation = { .meanwhile = more, .afterwards = more, .done = done, .opaque = opaque };
    struct opener_serve serve = { .writable = writable, .boot = *boot };
    struct opener_ask ask = {
        .message = &serve,
        .len_bytes = sizeof(serve),
        .fds = { control_fd, page_fd },
        .fd_count = 2,
        .timeout_ms = OPENER_DEADLINE_MS,
        .prepare = fill_in_locks,
    };

    return start(image, &operation, &ask, OPENER_SERVE, err);
}

static int change_locks(struct image *image, const struct users *more, unsigned timeout_ms, image_done_fn *done,
                        void *opaque, struct error *err)
{
    const struct image_operation operation = {
        .meanwhile = *more, .afterwards = *more, .done = done, .opaque = opaque
    };
    struct opener_lock lock = { 0 };
    struct opener_ask ask = {
        .message = &lock, .len_bytes = sizeof(lock), .timeout_ms = timeout_ms, .prepare = fill_in_locks
    };

    return start(image, &operation, &ask, OPENER_LOCK, err);
}

/* To what is needed now, which is less than before and so cannot fail. done may be NULL. */
static void update_locks(struct image *image, image_done_fn *done, void *opaque)
{
    static const struct users none;
    struct error err = { 0 };

    if ((image->locked ? change_locks(image, &none, OPENER_RELEASE_MS, done, opaque, &err) : -1) < 0 && done != NULL)
        done(opaque, image->locked ? &err : NULL);
}

void image_unuse(struct image *image, bool writable, image_done_fn *done, void *opaque)
{
    image->users--;
    image->writers -= writable;
    update_locks(image, done, opaque);
}

int image_begin_resize(struct image *image, image_done_fn *done, void *opaque, struct error *err)
{
    static const struct users resizer = { 0, 0, 1 };

    return change_locks(image, &resizer, OPENER_DEADLINE_MS, done, opaque, err);
}

void image_end_resize(struct image *image)
{
    image->resizers--;
    update_locks(image, NULL, NULL);
}

/* ---- Opening and closing ---- */

/* A path that leads through our own exports would have us wait for ourselves. */
static int may_open(void *opaque, uint64_t device, struct error *err)
{
    const struct image *image = opaque;
    const char *id = export_set_find_mount(image->monitor->exports, device);

    if (id == NULL)
        return 0;
    return error_set(err, -ELOOP,
                     "Could not open '%s': it is the FUSE export '%s' of this program; use that export's node",
                     image->filename, id);
}

/* Whoever wanted another size has had an error; workers are told of it all the same. */
static void looked_again(void *opaque, const struct error *err)
{
    struct image *image = opaque;
    struct graph_node *node;

    if (err != NULL || image->size_bytes == image->size_before_bytes)
        return;
    node = graph_first(image->monitor->graph);
    while (node != NULL && node->image != image)
        node = graph_next(node);
    if (node != NULL)
        export_set_node_resized(image->monitor->exports, node, NULL);
}

/* The child that hung goes on: what was wanted meanwhile is said again. */
static void goes_on(void *opaque)
{
    struct image *image = opaque;

    image->size_before_bytes = image->size_bytes;
    update_locks(image, NULL, NULL);
    image_refresh(image, OPENER_DEADLINE_MS, looked_again, image, NULL);
}

int image_new(struct monitor *monitor, const struct image_options *options, struct image **ret_image, struct error *err)
{
    struct image *image = calloc(1, sizeof(*image));

    if (image == NULL || (image->filename = strdup(options->filename)) == NULL) {
        free(image);
        return error_set(err, -ENOMEM, "out of memory");
    }
    image->monitor = monitor;
    image->device = options->device;
    image->read_only = options->read_only;
    image->direct = options->direct;
    image->force_share = options->force_share;
    image->locking = options->locking;
    image->open_flags = (options->device ? OPENER_DEVICE : 0) | (options->read_only ? OPENER_READ_ONLY : 0) |
                        (options->auto_read_only ? OPENER_AUTO_READ_ONLY : 0) | (options->direct ? OPENER_DIRECT : 0) |
                        (options->locking == ON_OFF_AUTO_ON ? OPENER_MUST_LOCK : 0);
    *ret_image = image;
    return 0;
}

int image_open(struct image *image, image_done_fn *done, void *opaque, struct error *err)
{
    static const struct opener_task_ops ops = { .found = may_open, .recovered = goes_on };
    const struct image_operation operation = { .opens = true, .done = done, .opaque = opaque };
    struct opener_open open = { .flags = image->open_flags };
    struct opener_ask ask = { .message = &open, .len_bytes = sizeof(open), .timeout_ms = OPENER_DEADLINE_MS };
    int r;

    if (strlen(image->filename) >= sizeof(open.path))
        return error_set(err, -ENAMETOOLONG, "Could not open '%.100s...': %s", image->filename, strerror(ENAMETOOLONG));
    r = opener_task_new(image->monitor->opener, &ops, image, &image->task, err);
    if (r < 0)
        return error_prepend(err, "Could not open '%s'", image->filename);
    memcpy(open.path, image->filename, strlen(image->filename));
    return start(image, &operation, &ask, OPENER_OPEN, err);
}

void image_notify_closed(struct image *image, void (*done)(void *opaque, bool closed), void *opaque)
{
    image->closed = done;
    image->closed_opaque = opaque;
}

void image_close(struct image *image)
{
    if (image == NULL)
        return;
    if (image->task != NULL)
        opener_task_end(image->task, image->closed, image->closed_opaque);
    else if (image->closed != NULL)
        image->closed(image->closed_opaque, true);
    free(image->filename);
    free(image);
}

bool image_is_late(const struct image *image)
{
    return image->task != NULL && opener_task_is_late(image->task);
}
