/* SPDX-License-Identifier: MIT
 * wrk as a client of the runs with packet programs: a load that is not ours, with partitions of its own, a connection each,
 * which remembers each request and its answer (packets_wrk.lua). Main thread. */
#ifndef BERTH_E2E_PACKETS_WRK_H
#define BERTH_E2E_PACKETS_WRK_H

#include "history.h"

struct wrk_options {
	const char *address;
	uint16_t port;
	unsigned first, n_partitions;
};

struct wrk;

/* What it needs and is not there; NULL: nothing. */
const char *wrk_missing(void);
/* Starts it, in the caller's network namespace; fails as place_fail. */
struct wrk *wrk_start(const struct wrk_options *);
/* No new requests; ends when each has its answer, or fails. Adds all calls to the history, frees. How many were answered
 * is returned. */
uint64_t wrk_stop(struct wrk **, struct history *);

#endif
