/* SPDX-License-Identifier: MIT
 * A temporary instance directory under /dev/shm for tests that drive the writer's table in their own process. */
#ifndef BERTH_TESTS_SCRATCH_H
#define BERTH_TESTS_SCRATCH_H

#include "../writer/instance.h"

struct scratch {
	char path[64];
	struct instance instance;
};

/* Makes the directory and readers/ in it, and fills `instance` as instance_open would (no lock). Ends the test program
 * when it cannot. */
void scratch_open(struct scratch *);
/* Removes everything. */
void scratch_close(struct scratch *);

/* A call of the table that is given &why, the test's own: the test fails when it is refused. */
#define OK(call) scratch_done((call), #call, &why)
void scratch_done(enum refusal_code, const char *call, const struct refusal *);

#endif
