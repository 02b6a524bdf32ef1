/* SPDX-License-Identifier: MIT
 * sd_notify: notify.h. Of failures, only that of `ready` is told: who waits for it would end us. */
#include "notify.h"

#include <systemd/sd-daemon.h>

bool notify_ready(const char *status)
{
	return sd_notifyf(0, "READY=1\nSTATUS=%s", status) >= 0;
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void notify_alive(void)
{
	sd_notify(0, "WATCHDOG=1");
}

uint64_t notify_interval_ms(void)
{
	uint64_t limit_us = 0;

	if (sd_watchdog_enabled(0, &limit_us) <= 0)
		return 0;
	return limit_us / 2000 > 0 ? limit_us / 2000 : 1;
}
