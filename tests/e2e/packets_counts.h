/* SPDX-License-Identifier: MIT
 * What packet programs counted, against what clients sent: `berth bpf stats` is as good as its figures. Pure but for the
 * reading. A request that no change of its partition overlaps was seen in one phase on one cluster, and counts there
 * exactly; of the others it is known that they count once, at one of the places that were true meanwhile. */
#ifndef BERTH_E2E_PACKETS_COUNTS_H
#define BERTH_E2E_PACKETS_COUNTS_H

#include <stdbool.h>

#include "history.h"
#include "net.h"
#include "place.h"

#define COUNT_PHASES 3u

struct counts { /* as the program has them, sums over processors */
	struct {
		uint64_t packets, requests, writes, held;
	} at[PLACE_CLUSTERS + 1][COUNT_PHASES];
	uint64_t seen;        /* packets, of whatever kind */
	uint64_t passed_over; /* those that carried no request which it understood */
	uint64_t passed_up;   /* requests that met a change: the mirror said pass */
};

struct counts counts_read(const struct place *);
uint64_t counts_held(const struct counts *);
/* The clients have ended. Prints what differs behind `prefix`. net: since the program was attached, as the counts. away: a
 * time in which the mirror may have said pass for all, because berthd started; NULL: there was none. True: they agree. */
bool counts_agree(const struct counts *, const struct history *, const struct net_counts *,
		  const struct hist_kill *away, const char *prefix);

#endif
