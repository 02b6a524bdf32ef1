/* SPDX-License-Identifier: MIT
 * A reader process owns its registration and can cut it off while we look at it. Guarded mappings read as zeros there
 * instead of ending the daemon. */
#ifndef BERTH_WRITER_SIGBUS_H
#define BERTH_WRITER_SIGBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void sigbus_install(void);
/* slot < SHM_LEDGER_ROWS: one guarded mapping each. */
void sigbus_guard(uint32_t slot, const void *base, size_t size);
void sigbus_forget(uint32_t slot);
/* Has this slot's mapping lost some of its file since it is guarded? */
bool sigbus_hit(uint32_t slot);

#endif
