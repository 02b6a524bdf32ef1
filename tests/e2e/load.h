/* SPDX-License-Identifier: MIT
 * The load: many keep-alive connections of a thread of its own that read and write through the proxy, and remember every
 * call and its answer. A write has a sequence number that is its partition's alone; when it is refused with a 409 it is
 * repeated a little later, with the same number, until it is not. */
#ifndef BERTH_E2E_LOAD_H
#define BERTH_E2E_LOAD_H

#include <stdbool.h>

#include "history.h"

#define LOAD_PARTITIONS 128u
#define LOAD_NAME 24u

/* How the clusters are asked to behave: shares of the writes, of their sum. upstream.lua says what the verbs mean. */
struct load_mix {
	unsigned ok, before, after, late, cut, busy;
	unsigned leave;        /* as ok, and the client leaves before the answer */
	unsigned slow_percent; /* of the requests: take up to slow_ms; the others take none */
	unsigned slow_ms;
	unsigned late_ms;      /* a late effect comes at most so long after the drop */
	unsigned mend_percent; /* of the writes that go wrong: go well when the proxy tries again */
};
/* Of each way in which a connection breaks, some. */
extern const struct load_mix load_mix_breaking;

struct load_options {
	uint32_t address; /* network byte order; 0: 127.0.0.1 */
	uint16_t port;
	unsigned n_partitions, n_connections;
	unsigned write_percent;
	unsigned pause_us; /* of a connection between two requests: twice that at most */
	uint64_t seed;
};

struct load_counts {
	uint64_t reads, acknowledged, refused, unknown, waiting; /* waiting: refused, not repeated yet */
};

struct load;

/* The name of a partition. */
const char *load_name(char out[LOAD_NAME], unsigned partition);
/* Starts the thread; NULL with errno. */
struct load *load_start(const struct load_options *, const struct load_mix *);
/* From the next request on. */
void load_change(struct load *, const struct load_mix *);
/* Half of all requests go to the hot partitions, when there are any. */
void load_heat(struct load *, unsigned partition, bool hot);
struct load_counts load_count(struct load *);
/* No new requests; waits for answers, and until what was refused has been repeated, at most limit_ms. Adds all calls to
 * the history, frees. */
void load_stop(struct load **, unsigned limit_ms, struct history *);
uint64_t load_now_ns(void); /* CLOCK_MONOTONIC */

#endif
