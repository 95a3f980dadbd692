/* SPDX-License-Identifier: BSD-2-Clause */
/* Option strings: the first byte chooses the option, the rest is its text. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/qmp/keyval.h"
#include "monitor/qmp/types.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
    const struct keyval_syntax *syntax;
    const struct schema_type *type;
} options[] = {
    { &keyval_blockdev, &schema_blockdev_options },     { &keyval_export, &schema_block_export_options },
    { &keyval_nbd_server, &schema_nbd_server_options }, { &keyval_chardev, &schema_chardev_options },
    { &keyval_monitor, &schema_monitor_options },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned which = size > 0 ? data[0] % ARRAY_SIZE(options) : 0;
    char *text = size > 0 ? strndup((const char *)data + 1, size - 1) : NULL;
    void *value = calloc(1, options[which].type->size_bytes);
    struct error err = { 0 };

    if (text != NULL && keyval_decode(options[which].syntax, text, options[which].type, value, &err) == 0)
        schema_clear(options[which].type, value);
    else
        assert(text == NULL || err.text[0] != '\0');
    free(value);
    free(text);
    return 0;
}
