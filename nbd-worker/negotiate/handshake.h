/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handshake of one NBD client as a state machine without I/O: it says how many bytes it wants next, takes them, and
 * offers bytes to send (NBD proto.md, "Handshake"). It never wants a byte beyond the handshake, and wants none while it
 * has something to send, so a client that does not read is not read either.
 */
#ifndef BULKHEAD_NBD_WORKER_NEGOTIATE_HANDSHAKE_H
#define BULKHEAD_NBD_WORKER_NEGOTIATE_HANDSHAKE_H

#include "common/net/nbd-protocol.h"
#include "nbd-worker/negotiate/directory.h"

/* What a client may use up before it has to be in the transmission phase. */
#define HANDSHAKE_OPTION_BYTES_MAX 32768u      /* data of one option that are parsed; longer ones are skipped */
#define HANDSHAKE_OPTIONS_MAX      16384u      /* options of one client */
#define HANDSHAKE_BYTES_MAX        (16u << 20) /* that one client sends in all */
#define HANDSHAKE_OUT_BYTES        32768u      /* LIST is produced in pieces of at most this */
#define HANDSHAKE_REASON_MAX       256

enum handshake_state {
    HANDSHAKE_CLIENT_FLAGS,
    HANDSHAKE_OPTION_HEADER,
    HANDSHAKE_OPTION_DATA,
    HANDSHAKE_OPTION_SKIP, /* data that nobody wants pass by, then the reply that was chosen for them follows */
    HANDSHAKE_STARTTLS,    /* TLS begins once the output has been sent; then handshake_tls_started() */
    HANDSHAKE_NEGOTIATED,  /* the client is in the transmission phase once the output has been sent */
    HANDSHAKE_ENDED,       /* the connection is to be closed once the output has been sent */
};

/* NBD proto.md, "TLS support": SELECTIVETLS is not served, only NOTLS and FORCEDTLS. */
enum handshake_tls {
    HANDSHAKE_TLS_NONE,     /* NOTLS: STARTTLS is refused */
    HANDSHAKE_TLS_REQUIRED, /* FORCEDTLS: nothing but STARTTLS and ABORT is answered in clear */
    HANDSHAKE_TLS_ACTIVE,   /* all bytes come and go through TLS */
};

struct nbd_option;

struct handshake {
    const struct nbd_directory_view *directory; /* borrowed */
    enum handshake_state state;
    enum handshake_tls tls;

    /* Negotiated so far. */
    bool fixed_newstyle;
    bool no_zeroes;
    bool structured_reply;
    bool extended_headers; /* takes precedence over structured replies */
    uint32_t contexts;         /* IPC_NBD_CONTEXT_* of the last SET_META_CONTEXT */
    uint64_t contexts_serial;  /* the export they were set for */
    uint64_t chosen_serial;    /* NEGOTIATED: the export that the client chose */

    /* The option being received. */
    const struct nbd_option *option; /* NULL: unknown */
    uint32_t option_number;
    uint32_t skip_reply;     /* OPTION_SKIP: NBD_REP_ERR_*; 0: handle it without data */
    uint64_t wanted_bytes;   /* of the piece being received, in all */
    uint64_t have_bytes;
    uint32_t list_next;      /* next entry of a LIST being answered, if listing */
    bool listing;

    /* Limits. */
    uint32_t options_seen;
    uint64_t bytes_seen;

    /* ENDED: why, for the log. */
    bool left_in_order;
    char reason[HANDSHAKE_REASON_MAX];

    size_t out_len_bytes;
    size_t out_sent_bytes;
    uint8_t out[HANDSHAKE_OUT_BYTES];
    uint8_t in[HANDSHAKE_OPTION_BYTES_MAX];
};

/* Start: the client has had the greeting (nbd_greeting_make()), which the monitor sends. */
void handshake_init(struct handshake *hs, const struct nbd_directory_view *directory);

/* After handshake_init(), before anything is received: the server requires TLS. */
void handshake_require_tls(struct handshake *hs);

/* HANDSHAKE_STARTTLS is over and TLS protects what follows: whatever was agreed on in clear is forgotten. */
void handshake_tls_started(struct handshake *hs);

/*
 * How many bytes may be received now, and where to put them; 0: none (something is to be sent first, or it is over).
 * After receiving some of them (or all), call handshake_received().
 */
size_t handshake_wanted(struct handshake *hs, uint8_t **ret_buffer);
void handshake_received(struct handshake *hs, size_t len_bytes);

/* What is to be sent now; 0: nothing. After sending some of it, call handshake_sent(). */
size_t handshake_output(struct handshake *hs, const uint8_t **ret_data);
void handshake_sent(struct handshake *hs, size_t len_bytes);

/* The state as it matters to whoever does the I/O: NEGOTIATED and ENDED only once all output has been sent. */
bool handshake_is_over(const struct handshake *hs);

/* The contexts that count if the client goes into transmission with the export of this serial. */
uint32_t handshake_contexts_for(const struct handshake *hs, uint64_t serial);

/* NEGOTIATED: the record for the monitor. */
void handshake_result(const struct handshake *hs, uint64_t client_id, struct ipc_nbd_negotiated *ret_negotiated);

/* ---- For the options (options.c) and for whoever does the I/O ---- */

/* End the handshake; the text is the reason. in_order: the client meant it. The first reason stays. */
void handshake_end(struct handshake *hs, bool in_order, const char *fmt, ...) _printf_(3, 4);

/* Append to the output; the callers' sums are bounded by HANDSHAKE_OUT_BYTES (see HANDSHAKE_REPLY_MAX). */
void handshake_put(struct handshake *hs, const void *data, size_t len_bytes);

/* Append the header of an option reply whose data, len_bytes of it, the caller appends next. */
void handshake_put_reply(struct handshake *hs, uint32_t type, size_t len_bytes);

/* Append an error reply with a text for people. */
void handshake_put_error(struct handshake *hs, uint32_t type, const char *text);

/* The longest that one reply gets: REP_SERVER with both strings. */
#define HANDSHAKE_REPLY_MAX (sizeof(struct nbd_option_reply) + 4 + 2 * NBD_MAX_STRING)

#endif
