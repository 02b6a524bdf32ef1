/* SPDX-License-Identifier: MIT
 * Every way in which the writer says no: one table, from which come the enum, the codes on the wire (and in the exit
 * messages of `berth --json`), whether a retry can help, and the JSON-RPC error number (-32000 - row, but for the ones
 * that JSON-RPC names itself). Filled by whoever refuses, carried to the client untouched. */
#ifndef BERTH_WRITER_REFUSALS_H
#define BERTH_WRITER_REFUSALS_H

#include <stdbool.h>
#include <stdint.h>

/* X(enum, code on the wire, retryable) */
#define REFUSALS(X) \
	X(R_DONE, "ok", false) \
	X(R_UNKNOWN_CLUSTER, "unknown-cluster", false) \
	X(R_ALREADY_MIGRATING, "already-migrating", false) \
	X(R_WOULD_MOVE, "would-move", false) \
	X(R_UNKNOWN_PARTITION, "unknown-partition", false) \
	X(R_SAME_PLACEMENT, "same-placement", false) \
	X(R_NOT_MIGRATING, "not-migrating", false) \
	X(R_NOT_DRAINING, "not-draining", false) \
	X(R_NOT_CUTOVER, "not-cutover", false) \
	X(R_BARRIER_PENDING, "barrier-pending", true) \
	X(R_BACKEND, "backend", true) \
	X(R_FULL, "full", true) \
	X(R_FENCED, "fenced", true) \
	X(R_EPOCHS_EXHAUSTED, "epochs-exhausted", false) \
	X(R_CLUSTER_IN_USE, "cluster-in-use", false) \
	X(R_STALE_DOCUMENT, "stale-document", false) \
	X(R_BAD_DOCUMENT, "bad-document", false) \
	X(R_INVALID, "invalid", false) /* a parameter: field and value in the message */ \
	X(R_BUSY, "busy", true)        /* a document is being applied */ \
	X(R_DENIED, "denied", false)   /* a changing method on the looking socket */ \
	X(R_LIMIT, "limit", true)      /* connections, registrations of one user */ \
	X(R_OVERRUN, "overrun", true)  /* a watcher was too slow */ \
	X(R_PARSE, "parse-error", false) \
	X(R_NO_METHOD, "no-such-method", false) \
	X(R_CLOCK, "clock", false) /* attach from another time namespace */

enum refusal_code {
#define REFUSAL_ENUM(e, code, retry) e,
	REFUSALS(REFUSAL_ENUM)
#undef REFUSAL_ENUM
		R_COUNT
};

#define REFUSAL_PIDS 8u

struct refusal {
	enum refusal_code code;
	char path[320];    /* JSON path of the fault, for documents and parameters; else empty */
	char message[512]; /* what was wrong, the value, what to do */
	/* of barrier-pending */
	const char *reason; /* static: not-published, leases-open, unknown-outcome, ...; NULL otherwise */
	uint64_t remaining_ms;
	uint64_t in_flight;
	bool packet;     /* a packet program is among those that it is about */
	unsigned n_pids; /* processes that it is about, the first of them; 0 is one that is not visible from here */
	uint32_t pids[REFUSAL_PIDS];
};

const char *refusal_name(enum refusal_code);
bool refusal_retryable(enum refusal_code);

/* Fills *r (path empty) and returns the code, so that `return refuse(r, R_X, "...")` reads well. What is too long is
 * cut at a character. No argument may point into *r. */
enum refusal_code refuse(struct refusal *r, enum refusal_code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with a path. */
enum refusal_code refuse_at(struct refusal *r, enum refusal_code, const char *path, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Puts a step in front of r->path unless code is R_DONE, and returns code: each level of a check adds its own part on
 * the way out, `return refuse_under(r, check_index(…), ".index")`, and a check that passes formats nothing. */
enum refusal_code refuse_under(struct refusal *r, enum refusal_code code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
