/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where clients come from, for being fair and for limits: an account of this host, an address of the network (of IPv6
 * the first 64 bits, of which anybody has as many as he likes behind them), a virtual machine. What the kernel says of
 * a socket is relied on; a client says nothing here.
 */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "monitor/export/nbd-private.h"

#define IPV6_PREFIX_BYTES 8

static void key_unix(int fd, struct nbd_peer_key *key)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
        memcpy(key->id, &cred.uid, sizeof(cred.uid));
}

static void key_inet(const struct sockaddr_in *addr, struct nbd_peer_key *key)
{
    memcpy(key->id, &addr->sin_addr, sizeof(addr->sin_addr));
}

static void key_inet6(const struct sockaddr_in6 *addr, struct nbd_peer_key *key)
{
    memcpy(key->id, &addr->sin6_addr, IPV6_PREFIX_BYTES);
}

static struct nbd_peer_key key_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in inet;
        struct sockaddr_in6 inet6;
        struct sockaddr_vm vsock;
        struct sockaddr_storage storage;
    } addr = { .any = { .sa_family = AF_UNSPEC } };
    socklen_t len = sizeof(addr);
    struct nbd_peer_key key = { .family = AF_UNSPEC };

    if (getpeername(fd, &addr.any, &len) < 0)
        return key;
    key.family = addr.any.sa_family;
    if (key.family == AF_UNIX)
        key_unix(fd, &key);
    else if (key.family == AF_INET)
        key_inet(&addr.inet, &key);
    else if (key.family == AF_INET6)
        key_inet6(&addr.inet6, &key);
    else if (key.family == AF_VSOCK)
        memcpy(key.id, &addr.vsock.svm_cid, sizeof(addr.vsock.svm_cid));
    return key;
}

/* Whoever chooses addresses so that they meet in one bucket gains a walk of its few thousand clients at most. */
static struct nbd_peer_list *bucket_of(struct nbd_peers *peers, const struct nbd_peer_key *key)
{
    unsigned sum = key->family;

    for (unsigned i = 0; i < sizeof(key->id); i++)
        sum = sum * 31 + key->id[i];
    return &peers->buckets[sum % ARRAY_SIZE(peers->buckets)];
}

void nbd_peers_init(struct nbd_peers *peers)
{
    for (unsigned i = 0; i < ARRAY_SIZE(peers->buckets); i++)
        TAILQ_INIT(&peers->buckets[i]);
}

struct nbd_peer *nbd_peer_ref(struct nbd_peers *peers, int fd)
{
    struct nbd_peer_key key = key_of(fd);
    struct nbd_peer_list *bucket = bucket_of(peers, &key);
    struct nbd_peer *peer;

    TAILQ_FOREACH (peer, bucket, link) {
        if (memcmp(&peer->key, &key, sizeof(key)) == 0)
            break;
    }
    if (peer == NULL) {
        peer = calloc(1, sizeof(*peer));
        if (peer == NULL)
            return NULL;
        peer->key = key;
        peer->bucket = bucket;
        TAILQ_INSERT_HEAD(bucket, peer, link);
    }
    peer->clients++;
    return peer;
}

void nbd_peer_unref(struct nbd_peer *peer)
{
    if (--peer->clients > 0)
        return;
    TAILQ_REMOVE(peer->bucket, peer, link);
    free(peer);
}
