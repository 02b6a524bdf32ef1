/* SPDX-License-Identifier: MIT
 * What holds after a failure, whatever has failed. What does not hold ends the test. */
#ifndef BERTH_TESTS_FAULT_JUDGE_H
#define BERTH_TESTS_FAULT_JUDGE_H

#include "fault_place.h"

/* The view is this one but for some rows, as fault_view_changes leaves them out. */
void fault_expect_view(struct fault_place *, const char *before, const char *but);
/* berth_maintain succeeds, in time: this process's registration is the daemon's. */
void fault_maintained(struct fault_place *);
/* A change (of c2's endpoint) is taken, at last: what the daemon tries again by itself takes it some time. */
void fault_goes_on(struct fault_place *);
/* The daemon has no more descriptors than so many, at last. */
void fault_nothing_leaked(struct fault_place *, unsigned descriptors);
/* The daemon ends, by a kill or by a stop, and the next one has the same view and this process's registration. At a stop,
 * AddressSanitizer looks for what failures have made the daemon lose. */
void fault_restart(struct fault_place *, bool kill);
void fault_restart_in_turn(struct fault_place *); /* by a stop, by a kill, by a stop */

#endif
