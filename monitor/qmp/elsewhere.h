/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What qemu-storage-daemon has and this program has not, by name, so that an error can say so instead of taking a name for
 * a typing error. Each list is ended by NULL; a test sees to it that nothing is in a list that is here after all.
 */
#ifndef BULKHEAD_MONITOR_QMP_ELSEWHERE_H
#define BULKHEAD_MONITOR_QMP_ELSEWHERE_H

extern const char *const elsewhere_commands[];
extern const char *const elsewhere_drivers[];
extern const char *const elsewhere_object_types[];
extern const char *const elsewhere_chardevs[];
extern const char *const elsewhere_export_types[];

#endif
