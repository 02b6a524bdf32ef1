/* SPDX-License-Identifier: MIT
 * fault_judge.h. */
#include "fault_judge.h"

#include <stdlib.h>
#include <unistd.h>

#define SETTLE_MS 5000u /* for what the daemon tries again by itself */

void fault_expect_view(struct fault_place *p, const char *before, const char *but)
{
	char *now = fault_view(p), *changes = fault_view_changes(before, now, but);

	if (changes)
		fault_fail(p, "this was to stay as it was:\n%s", changes);
	free(now);
}

void fault_maintained(struct fault_place *p)
{
	int rc;

	for (uint64_t deadline = 0; (rc = berth_maintain(p->b)) != BERTH_OK;)
		if (!within(&deadline))
			fault_fail(p, "the reader does not come back: %s", berth_strerror(rc));
}

void fault_goes_on(struct fault_place *p)
{
	uint64_t end = test_now_ms() + SETTLE_MS;
	static unsigned n;
	char endpoint[40];

	snprintf(endpoint, sizeof endpoint, "http://10.1.0.1:%u", 1 + n++ % 65000);
	for (;;) {
		json_t *answer = fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c2", "endpoint", endpoint);
		bool done = fault_done(answer);

		if (!done && test_now_ms() > end)
			fault_fail(p, "after the fault, a change is refused still: %s",
				   answer ? json_dumps(answer, 0) : "(closed)");
		json_decref(answer);
		if (done)
			return;
		usleep(5000);
	}
}

void fault_nothing_leaked(struct fault_place *p, unsigned descriptors)
{
	uint64_t end = test_now_ms() + SETTLE_MS;
	unsigned now;

	while ((now = fault_descriptors(p)) > descriptors) {
		if (test_now_ms() > end)
			fault_fail(p, "%u descriptors instead of %u", now, descriptors);
		usleep(2000);
	}
}

void fault_restart(struct fault_place *p, bool kill)
{
	char *before = fault_view(p);
	int status;

	if (kill)
		daemon_kill(&p->d);
	else if ((status = daemon_stop(&p->d)) != 0)
		fault_fail(p, "it was stopped and ended with %d", status);
	fault_place_again(p);
	fault_expect_view(p, before, NULL);
	fault_maintained(p);
	free(before);
}

void fault_restart_in_turn(struct fault_place *p)
{
	fault_restart(p, p->restarts++ % 2);
}
