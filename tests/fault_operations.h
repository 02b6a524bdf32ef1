/* SPDX-License-Identifier: MIT
 * What is asked of a daemon whose calls fail, and what each request changes when it is done: a row for each kind. */
#ifndef BERTH_TESTS_FAULT_OPERATIONS_H
#define BERTH_TESTS_FAULT_OPERATIONS_H

#include "fault_place.h"

struct fault_operation {
	const char *name;
	void (*prepare)(struct fault_place *);    /* without a fault */
	json_t *(*perform)(struct fault_place *); /* its answer; NULL: the connection was closed */
	bool (*is_done)(struct fault_place *);    /* readers see what it asked for in this turn */
	const char *changes; /* all of the view that it may change, as fault_view_changes leaves it out */
	unsigned most;       /* passages of one class that the short form tries */
};

extern const struct fault_operation fault_operations[]; /* one without a name ends them */

#endif
