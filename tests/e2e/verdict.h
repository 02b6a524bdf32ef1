/* SPDX-License-Identifier: MIT
 * The end of a run: the clusters' logs become effects of the history, the checker judges, the figures are printed. */
#ifndef BERTH_E2E_VERDICT_H
#define BERTH_E2E_VERDICT_H

#include "checker.h"
#include "moves.h"

/* Adds every line of every cluster's log; ends the run on one that is not understood. */
void verdict_read_logs(const struct place *, struct history *h);
/* Judges; prints each line behind `prefix`: what was counted, the blackouts, what was found. True: nothing was. Frees the
 * history and the moves. */
bool verdict(struct history *h, struct move **, size_t n_moves, const char *prefix, struct check_report *);

#endif
