/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The numbers are the kernel's ABI, written here because the headers of Debian 12 end at an early one.
 */
#include "common/sandbox/landlock.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RULESET_VERSION_FLAG (1u << 0) /* LANDLOCK_CREATE_RULESET_VERSION */

/* Bits 0 to n - 1. */
#define BITS(n) ((UINT64_C(1) << (n)) - 1)

/*
 * fs: 13 rights from EXECUTE to MAKE_SYM; ABI 2 adds REFER, 3 TRUNCATE, 5 IOCTL_DEV.
 * net: ABI 4 adds BIND_TCP and CONNECT_TCP. scoped: ABI 6 adds abstract unix sockets and signals.
 */
static const struct {
    unsigned abi;
    struct landlock_rights rights;
    size_t size_bytes;
} abis[] = {
    { 6, { BITS(16), BITS(2), BITS(2) }, sizeof(struct landlock_rights) },
    { 5, { BITS(16), BITS(2), 0 }, offsetof(struct landlock_rights, scoped) },
    { 4, { BITS(15), BITS(2), 0 }, offsetof(struct landlock_rights, scoped) },
    { 3, { BITS(15), 0, 0 }, offsetof(struct landlock_rights, net) },
    { 2, { BITS(14), 0, 0 }, offsetof(struct landlock_rights, net) },
    { 1, { BITS(13), 0, 0 }, offsetof(struct landlock_rights, net) },
};

unsigned landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, RULESET_VERSION_FLAG);

    return abi > 0 ? (unsigned)abi : 0;
}

struct landlock_rights landlock_rights_of(unsigned abi, size_t *ret_size_bytes)
{
    for (unsigned i = 0; i < ARRAY_SIZE(abis); i++) {
        if (abi >= abis[i].abi) {
            *ret_size_bytes = abis[i].size_bytes;
            return abis[i].rights;
        }
    }
    *ret_size_bytes = 0;
    return (struct landlock_rights){ 0 };
}

int landlock_restrict_all(unsigned *ret_abi, struct error *err)
{
    _cleanup_close_ int ruleset_fd = -1;
    unsigned abi = landlock_abi();
    struct landlock_rights rights;
    size_t size_bytes;

    if (abi == 0)
        return error_set(err, -EOPNOTSUPP, "this kernel has no Landlock");
    rights = landlock_rights_of(abi, &size_bytes);
    ruleset_fd = (int)syscall(SYS_landlock_create_ruleset, &rights, size_bytes, 0);
    if (ruleset_fd < 0)
        return error_set(err, -errno, "cannot create a Landlock ruleset: %s", strerror(errno));
    if (syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
        return error_set(err, -errno, "cannot enforce the Landlock ruleset: %s", strerror(errno));
    *ret_abi = abi;
    return 0;
}
