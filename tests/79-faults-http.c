/* SPDX-License-Identifier: MIT
 * The pages of --http cannot be served: the start ends, and says what failed. faults/interpose.c makes the failures. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault_place.h"

static const char *const with_http[] = {"--http", ":0", NULL};

/* Tries each passage of a call of a start, and how often it was the pages' own. */
static unsigned starts_refused(struct fault_place *p, enum fault_call call, int error)
{
	unsigned refused = 0;
	bool met = true;

	for (int64_t n = 1; met; n++) {
		int status = 0;

		snprintf(p->doing, sizeof p->doing, "a start with --http, passage %lld of %s fails with %s",
			 (long long)n, fault_name(call), fault_error_name(error));
		daemon_kill(&p->d);
		assert_int_equal(truncate(p->d.log, 0), 0);
		fault_arm(p->plan, call, n, error, false, NULL);
		if (!fault_place_start(p, with_http, &status)) {
			char *log = daemon_log(&p->d), *message = strstr(log, "the server did not start: ");

			if (message) {
				refused++;
				if (status != 1 || !strstr(message, strerror(error)))
					fault_fail(p, "it ended with %d", status);
			}
			free(log);
			fault_place_again(p);
		}
		met = fault_disarm(p->plan) != 0;
	}
	return refused;
}

static void a_start_that_cannot_serve_pages_says_what_failed(void **state)
{
	struct fault_place *p = fault_needed(state);

	fault_place_leave(p);
	assert_int_equal(starts_refused(p, CALL_EVENTFD, EMFILE), 1);
	assert_int_equal(starts_refused(p, CALL_THREAD, EAGAIN), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(a_start_that_cannot_serve_pages_says_what_failed, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
