/* SPDX-License-Identifier: MIT
 * A whole migration, driven from outside the daemon: what run.c (the steps), run_end.c (how it ends), session.c (the
 * connection, and what became of a step when it broke) and copy.c (the copy command) share. One thread.
 *
 *   begin -> copy -> cutover -> complete, which waits in the daemon until the writes have ended -> done
 *     |        |        |           |
 *     +--------+--------+-----------+--> abort: the copy failed, the blackout got too long, a signal came
 *
 * Each step is known by the epoch that it took. After a broken connection the present state and its epoch tell whether
 * the step was done, is to be done again, or whether somebody else has changed the partition meanwhile. A run that ends
 * without knowing that, or with the partition still in its migration, ends with EXIT_STANDS. */
#ifndef BERTH_TOOLS_RUN_H
#define BERTH_TOOLS_RUN_H

#include <stdio.h>

#include "client.h"
#include "process.h"

#define RUN_RECONNECT_MS 30000u
#define RUN_RETRYABLE_MS \
	30000u /* a store that fails for the moment is borne with for so long, though writes are held back */

enum step_result {
	STEP_DONE,    /* run->epoch is its epoch; *answer may be NULL when it is known from the state alone */
	STEP_REFUSED, /* *answer: the error object */
	STEP_FOREIGN, /* somebody else has changed the partition: run->state */
	STEP_LOST,    /* no daemon for RUN_RECONNECT_MS: run->c.fault */
	STEP_STOPPED, /* a signal came (`stoppable`), or run_hurried: what became of the request is told by run->open */
};

struct run;
/* A step: the call, and whatever it takes to know what became of it. */
struct step {
	const char *method;
	json_t *params;    /* borrowed */
	const char *phase; /* of the state once it is done; "" is settled */
	bool target;       /* settled at the target, not where it was */
	bool stoppable;    /* by the first signal: while there is no connection, and with wait_ms */
	uint64_t (*wait_ms)(
		const struct run *); /* the daemon is to wait for so long before it refuses. NULL: it does not */
};

struct run {
	struct tool *t;
	const char *partition;
	char from[SHM_CLUSTER_ID_MAX + 1]; /* where it was before begin */
	struct client c;
	json_t *to;       /* of begin, as asked for */
	uint64_t epoch;   /* of the last step of ours; before begin: of the present placement */
	struct step open; /* was sent, and what became of it is not known; method NULL: there is none */
	json_t *state;    /* of the last look; NULL: none */
	uint64_t state_epoch;
	uint64_t begun_ms, cutover_ms; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t copy_ms;
	uint64_t max_blackout_ms;   /* 0: no limit */
	uint64_t blackout_ms;       /* as the daemon told, or as seen from here */
	struct processes processes; /* names of those that are waited for */
	/* progress */
	bool tty;
	uint64_t told_ms;
	char stage[64]; /* last told; "": the line is ended */
};

/* ---- run.c ---- */
/* Waits for ms, or until a signal: one that asks for the end (then run_interrupted), or SIGCHLD. Signals come in here,
 * and while an answer is waited for, only. */
void run_wait(uint64_t ms);
bool run_interrupted(void);
/* A second signal came: the good end is not waited for either. */
bool run_hurried(void);
void run_be_patient(void); /* then it is run_hurried again by another one only */
extern const struct client_stop run_stop, run_stop_hurried;
/* One line about what is going on: rewritten on a terminal, else told at another stage, or five seconds later. */
void run_progress(struct run *, const char *stage, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Ends the line on a terminal, so that what comes next has its own. */
void run_progress_end(struct run *);

/* ---- session.c ---- */
enum step_result session_step(struct run *, const struct step *, json_t **answer);
/* Looks at the partition: run->state, run->state_epoch. STEP_DONE, STEP_REFUSED, STEP_LOST, STEP_STOPPED. */
enum step_result session_look(struct run *, bool stoppable, json_t **answer);
/* Looks what became of run->open. STEP_DONE: it is known, and so is run->epoch when it was done; else as session_look, or
 * STEP_FOREIGN. */
enum step_result session_look_open(struct run *, bool stoppable, bool *was_done, json_t **answer);
/* The phase that readers see in the table ("" is settled), no daemon needed. NULL: the partition is not in it, or it
 * cannot be read. */
const char *session_table_phase(const struct run *, uint64_t *epoch);
/* Does the last look show what a `complete` of ours makes of it? */
bool session_moved(const struct run *);
/* The endpoint of a cluster, "" when there is none; out has room for SHM_ENDPOINT_MAX + 1. */
void session_endpoint(struct run *, const char *cluster, char *out);
void session_close(struct run *);

/* ---- run_end.c ---- */
const char *run_to(const struct run *); /* the cluster */
json_t *run_params(const struct run *); /* {"partition": ...}; new reference */
void run_from(struct run *);            /* the last look shows where it is before, or after, begin */
/* Each of these tells how it ended, and returns the exit code. They take the answer over, but for run_finished. */
int run_finished(struct run *, const json_t *answer); /* NULL: the blackout is as seen from here */
int run_foreign(struct run *);
/* Undoes the migration, and says why. code, name: of the run's end. */
int run_undo(struct run *, enum tool_exit code, const char *name, const char *why);
int run_undo_interrupted(struct run *);
/* What all steps but `complete` do with what is not STEP_DONE. */
int run_ended(struct run *, enum step_result, json_t *answer);

/* ---- copy.c ---- */
enum copy_result { COPY_DONE, COPY_FAILED, COPY_INTERRUPTED };
/* Runs CMD to its end, or ends it when run_interrupted. text: how it failed. */
enum copy_result copy_run(struct run *, const char *cmd, char *text, size_t room);

#endif
