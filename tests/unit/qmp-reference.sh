#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# docs/qmp-reference.md is what the tables say. To renew it: ./qmp-reference >docs/qmp-reference.md
./qmp-reference | diff -u "${srcdir:-.}/docs/qmp-reference.md" -
