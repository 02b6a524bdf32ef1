/* SPDX-License-Identifier: MIT
 * What happened in a run, as seen from outside: the calls that clients made (load.c), the lines that clusters logged
 * (logs.c), the changes of placements that the daemon acknowledged (moves.c). checker.c judges them. All times are
 * CLOCK_MONOTONIC in ns, of one machine. Structs alone, and growing arrays of them. */
#ifndef BERTH_E2E_HISTORY_H
#define BERTH_E2E_HISTORY_H

#include <stddef.h>
#include <stdint.h>

enum hist_outcome {
	HIST_OK,      /* acknowledged */
	HIST_REFUSED, /* 409: the gate said no */
	HIST_UNKNOWN, /* anything else, also no answer: it may have happened, or happen yet */
};

/* One request of a client and its answer. A write has a number of its own in its partition; repeated after a refusal it
 * keeps it, with the next attempt. */
struct hist_call {
	uint64_t call_ns, answer_ns; /* before the first byte went out; after the last byte came, or the end */
	uint64_t sequence;           /* of the write, from 1; 0: a read */
	uint64_t epoch;              /* as the proxy told it; 0: it did not */
	uint32_t partition;
	uint16_t attempt; /* from 1 */
	uint16_t status;  /* 0: no whole answer */
	uint16_t cluster; /* that answered, as it said itself; 0: none did */
	uint16_t client;
	uint8_t outcome; /* enum hist_outcome */
	uint8_t tries;   /* how often the proxy sent it to a cluster, as far as it told; 0: it did not */
	uint8_t last;    /* the run ended before a refused write could be repeated */
};

/* One line of a cluster's log: there a write took effect. */
struct hist_effect {
	uint64_t at_ns;
	uint64_t sequence;
	uint64_t epoch; /* as the proxy told the cluster */
	uint32_t partition;
	uint16_t attempt;
	uint16_t cluster;
	uint16_t client;
};

enum hist_what { HIST_SET, HIST_BEGIN, HIST_CUTOVER, HIST_COMPLETE, HIST_ABORT };

/* A change of a partition's placement that was acknowledged. */
struct hist_change {
	uint64_t call_ns, answer_ns; /* it became visible somewhere between them */
	uint64_t epoch;
	uint32_t partition;
	uint16_t at; /* the cluster that reads go to from here on; writes too, unless what is HIST_CUTOVER */
	uint8_t what;
};

/* A time in which connections of clients broke because the test killed a proxy: reads then may go without an answer. */
struct hist_kill {
	uint64_t from_ns, to_ns;
};

struct history {
	struct hist_call *calls;
	struct hist_effect *effects;
	struct hist_change *changes;
	struct hist_kill *kills;
	size_t n_calls, n_effects, n_changes, n_kills;
	size_t room_calls, room_effects, room_changes, room_kills;
	unsigned max_tries; /* a proxy sends a write at most so often */
};

/* Appends a zeroed one and returns it, until the next call of its kind; ends the process when memory is short. */
struct hist_call *history_call(struct history *);
struct hist_effect *history_effect(struct history *);
struct hist_change *history_change(struct history *);
struct hist_kill *history_kill(struct history *);
void history_free(struct history *);

#endif
