/* SPDX-License-Identifier: MIT
 * Judges a history: is every partition linearizable over its moves? Pure: no I/O, no clock. */
#ifndef BERTH_E2E_CHECKER_H
#define BERTH_E2E_CHECKER_H

#include "history.h"

/* X(enum, name, what has to hold). A tenure is the time from the change that brought a partition to a cluster to the
 * `complete` that takes it away; an abort stays in the tenure. */
#define CHECK_RULES(X) \
	X(CHECK_CHANGES, "changes", "the acknowledged changes of a partition rise in epoch and time") \
	X(CHECK_LOST, "lost", "an acknowledged write took effect") \
	X(CHECK_OUTSIDE, "outside", "an acknowledged write took effect between its call and its answer") \
	X(CHECK_TWICE, "twice", "a write took effect at most as often as the proxy sent it") \
	X(CHECK_REFUSED, "refused", "a refused attempt never took effect") \
	X(CHECK_NOBODY, "nobody", "what took effect was called before, by that client, at that epoch") \
	X(CHECK_CLUSTER, "cluster", "a write took effect at the cluster of its epoch, at an epoch that admits writes") \
	X(CHECK_GATE, "gate", "a write was admitted at an epoch that stood at some instant of its call") \
	X(CHECK_AFTER, "after-complete", "no write reached the old cluster after complete had returned") \
	X(CHECK_ORDER, "order", "no write of an earlier tenure took effect after one of a later tenure") \
	X(CHECK_WHY, "refused-why", "a write was refused only while its partition was in a cutover") \
	X(CHECK_REPEAT, "repeat", "a write that was refused was repeated until it was not") \
	X(CHECK_READ, "read-refused", "every read was answered with 200") \
	X(CHECK_PLACE, "read-place", "a read was answered by a cluster that the partition was on during its call")

enum check_rule {
#define CHECK_ENUM(e, name, text) e,
	CHECK_RULES(CHECK_ENUM)
#undef CHECK_ENUM
		CHECK_N
};

#define CHECK_TEXTS 12
struct check_report {
	uint64_t n_faults;
	uint64_t by_rule[CHECK_N];
	/* counted */
	uint64_t n_reads, n_acknowledged, n_refused, n_repeated, n_unknown, n_effects;
	uint64_t n_unknown_happened; /* of n_unknown */
	uint64_t n_late;             /* effects that came after the client had its answer, or none */
	uint64_t n_tenures;
	unsigned most_tries; /* of one write by the proxy */
	/* The first of each rule, at most; which write or read, which times, which rule. */
	unsigned n_texts;
	char text[CHECK_TEXTS][400];
};

const char *check_rule_name(enum check_rule);
const char *check_rule_text(enum check_rule);
/* Sorts the arrays of h. */
void check_history(struct history *h, struct check_report *);

#endif
