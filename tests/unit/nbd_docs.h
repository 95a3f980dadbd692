/* SPDX-License-Identifier: BSD-2-Clause */
/* docs/nbd.md has a row for every row of the tables in the code. */
#ifndef BULKHEAD_TESTS_UNIT_NBD_DOCS_H
#define BULKHEAD_TESTS_UNIT_NBD_DOCS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void assert_documented(const char *name)
{
    static char page[65536];
    char path[512], row[64];
    FILE *file;

    if (getenv("srcdir") == NULL) /* set by `make check` */
        SKIP("srcdir is not set: run it by `make check`");
    snprintf(path, sizeof(path), "%s/docs/nbd.md", getenv("srcdir"));
    file = fopen(path, "re");
    assert_non_null(file);
    memset(page, 0, sizeof(page));
    assert_in_range(fread(page, 1, sizeof(page) - 1, file), 1, sizeof(page) - 2);
    fclose(file);
    snprintf(row, sizeof(row), "\n| `%s` |", name);
    if (strstr(page, row) == NULL)
        fail_msg("%s has no row for %s", path, name);
}

#endif
