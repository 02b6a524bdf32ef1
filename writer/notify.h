/* SPDX-License-Identifier: MIT
 * What systemd is told (sd_notify): ready, stopping, alive. Nothing happens when it does not ask. Control thread. */
#ifndef BERTH_WRITER_NOTIFY_H
#define BERTH_WRITER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* False: nothing went out, to be tried again. */
bool notify_ready(const char *status);
void notify_stopping(void);
void notify_alive(void);
/* How often notify_alive is expected, in ms; 0: never. */
uint64_t notify_interval_ms(void);

#endif
