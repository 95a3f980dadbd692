/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The transmission phase with whatever a client may send, over a socketpair, on a block layer that pends requests or
 * fails them as the first bytes of the input say. Whatever comes: the client is gone in the end, with all that it held,
 * and what came back is a sequence of whole replies (unless the connection was cut).
 */
#include <assert.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "nbd-worker/export/export.h"
#include "tests/unit/fake_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE       (4ull << 20)
#define PIECES_MAX 64

enum { PEND = 1, FAIL = 2, STRUCTURED = 4, READ_ONLY = 8, WRITETHROUGH = 16, MAPPED = 32, NO_READER = 64, EXTENDED = 128 };

static struct io_loop *loop;
static unsigned gone;
static int image_fd;

static void on_gone(struct nbd_export *export, uint64_t client_id, bool in_order, const char *text)
{
    assert(text != NULL);
    gone++;
}

static void on_io_error(struct nbd_export *export, const struct block_request *req, const struct nbd_request *request,
                        int code)
{
    assert(code < 0);
}

static void on_drained(struct nbd_export *export)
{
}

static void turns(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        io_loop_stop(loop);
        io_loop_run(loop);
    }
}

static void set_up(void)
{
    if (loop != NULL)
        return;
    signal(SIGPIPE, SIG_IGN);
    loop = io_loop_new(NULL);
    fake.data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    image_fd = memfd_create("image", MFD_CLOEXEC);
    if (ftruncate(image_fd, SIZE) < 0)
        abort();
}

static void read_replies(int fd)
{
    static uint8_t buffer[1 << 20];

    while (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
        ;
}

static void complete_some(unsigned count)
{
    while (count-- > 0 && fake.pending_count > 0)
        fake_complete(fake.pending_count / 2);
}

static void play(int fd, unsigned how, const uint8_t *data, size_t size)
{
    size_t piece = size / PIECES_MAX + 1;

    for (size_t at = 0; at < size; at += piece) {
        if (send(fd, data + at, MIN(piece, size - at), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            break;
        turns(1);
        if ((how & NO_READER) == 0)
            read_replies(fd);
        complete_some(1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct block_extent extents[] = { { 4096, 0 }, { 4096, BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO } };
    static struct worker_page page;
    struct nbd_export export = { .page = &page, .client_gone = on_gone, .io_error = on_io_error,
                                 .drained = on_drained };
    struct ipc_nbd_negotiated negotiated = { .client_id = 1 };
    uint8_t *memory = fake.data;
    unsigned how;
    int pair[2];

    if (size < 2)
        return 0;
    set_up();
    memory = fake.data;
    how = data[0];
    fake = (struct fake_block){ .data = memory, .size_bytes = SIZE, .extents = extents, .extent_count = 2 };
    fake.pend = (how & PEND) != 0;
    fake.error = (how & FAIL) != 0 ? -(int)data[1] : 0;
    fake.map_fd = (how & MAPPED) != 0 ? image_fd : -1;
    fake.map_writes = true;
    export.fast_zero = true;
    export.read_only = (how & READ_ONLY) != 0;
    export.writethrough = (how & WRITETHROUGH) != 0;
    export.control_loop = loop;
    if ((how & STRUCTURED) != 0) {
        negotiated.flags = IPC_NBD_STRUCTURED_REPLY;
        negotiated.contexts = IPC_NBD_CONTEXTS_ALL;
    }
    if ((how & EXTENDED) != 0) {
        negotiated.flags |= IPC_NBD_EXTENDED_HEADERS;
        negotiated.contexts = IPC_NBD_CONTEXTS_ALL;
    }
    if (nbd_export_init(&export, 1) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        abort();
    export.threads[0].loop = loop; /* no hook: it could not be taken off the loop again */
    gone = 0;
    if (nbd_export_add_client(&export, &pair[1], &negotiated, NULL) < 0)
        abort();
    play(pair[0], how, data + 2, size - 2);
    close(pair[0]);
    while (gone == 0) {
        complete_some(UINT32_MAX);
        turns(1);
        export.threads[0].hook.run(&export.threads[0].hook);
    }
    assert(fake.pending_count == 0 && page.clients == 0 && page.fds_clients == 0);
    nbd_export_done(&export);
    return 0;
}
