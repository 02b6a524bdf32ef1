/* SPDX-License-Identifier: MIT
 * The workload `cursor`: its parts in order. Each has a file, an instance or more of its own, and removes them. */
#include "cursor.h"

void workload_cursor(const struct bench *b)
{
	report_note(b, "\ncursor: resolving, a pin");
	cursor_resolve(b);
	report_note(b, "\ncursor: a pin that waits, the daemon on CPU 0, the caller on CPU 1; 500 of each in each run");
	cursor_wait(b);
	report_note(b,
		    "\ncursor: from the call of pin until another process resolves it (its clock, after its resolve)");
	cursor_seen(b);
	report_note(b, "\ncursor: floods of pins that do not wait");
	cursor_flood(b);
	cursor_control(b);
	cursor_share(b);
	report_note(b, "\ncursor: a pin by the number of pins there are; time until the daemon has done all");
	cursor_size(b);
}
