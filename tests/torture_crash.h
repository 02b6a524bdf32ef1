/* SPDX-License-Identifier: MIT
 * `make torture-crash`: the writer dies at each of its crash points (shm/crash_point.h), of each operation that passes it,
 * and is started again; then what it has is what was acknowledged, and at most what was in flight, each whole. Reader
 * processes (readers.h) look all the time and judge.
 *
 * A scene is a daemon with a store, and steps, each an operation that may be interrupted at any point: whoever talks to the
 * daemon finds it dead, starts it, compares, and asks again for what has not been done. All steps together lead back to
 * where they began, so they are done again and again, each time with other points armed.
 *
 *   torture_crash.c        the test: scenes, the sum
 *   torture_crash_points.c which point is armed in which step, what was passed, where it died
 *   torture_crash_place.c  the daemon, its death, its start; torture_crash_requests.c
 *   torture_crash_model.c  changes: what was acknowledged, what is in flight
 *   torture_crash_compare.c   the comparison with what is there
 *   torture_crash_child.c  processes that attach
 *   torture_crash_{changes,starts,held,leases,pins}.c   scenes */
#ifndef BERTH_TESTS_TORTURE_CRASH_H
#define BERTH_TESTS_TORTURE_CRASH_H

#include "bpf_place.h"
#include "readers.h"

#include "../shm/crash_point.h"

#define CR_KEYS 160u       /* partitions that the model knows; readers_key() names them */
#define CR_DEFAULT CR_KEYS /* the cell of the default */
#define CR_CLUSTERS 8u     /* c1 .. c8 */
#define CR_BARRIER 60      /* ms */
#define CR_OPTIONS 12u

struct crash;
enum cr_how {
	CR_PLAIN,        /* its starts are like those of other steps with this store: tried once for all of them */
	CR_OWN_STARTS,   /* they are like no others */
	CR_AGAIN,        /* likewise; and it needs no other step before it can be done once more */
	CR_ONLY_MISSING, /* takes long: only where it has died in no step before */
};
struct cr_step {
	const char *name;
	void (*run)(struct crash *);
	enum cr_how how;
};
struct cr_scene {
	const char *name, *store;
	unsigned n_readers;           /* processes that look; they want standing clusters and partitions */
	bool judged;                  /* by who looks in the mirror all the time; its options ask for one */
	void (*open)(struct crash *); /* after the first start; may be NULL, as close */
	void (*close)(struct crash *);
	const struct cr_step *steps; /* a NULL name ends them */
	const char *options[CR_OPTIONS];
};
extern const struct cr_scene cr_change_scenes[], cr_start_scenes[], cr_held_scenes[], cr_lease_scenes[],
	cr_pin_scenes[]; /* a NULL name ends them */

struct cr_cell {
	json_t *state; /* NULL: none */
	uint64_t epoch;
	unsigned cluster, version; /* of its placement, as readers_placement has them */
};

struct cr_flight { /* one request */
	struct {
		unsigned cell, cluster;
		json_t *state;
	} items[CR_KEYS + 1];
	unsigned n;
	unsigned n_cluster;   /* a cluster of this number: */
	const char *endpoint; /* NULL: removed */
	bool acknowledged;
	uint64_t epoch; /* acknowledged for all of it; 0: not, or each has its own */
	bool whole;     /* a store that keeps transactions: all of it or nothing */
	bool ordered;   /* else: what comes first is there first */
};

struct crash {
	const struct cr_scene *scene;
	struct bpf_place place;
	struct daemon *d;
	struct wire wire;
	bool connected, settling;
	char where[200]; /* scene, step, last death: for messages */
	const char *options[CR_OPTIONS];
	char tables[96]; /* what the option "@tables" stands for */
	struct readers readers;
	struct cr_cell cells[CR_KEYS + 1];
	unsigned n_cells; /* partitions that are compared */
	const char *endpoints[CR_CLUSTERS + 1];
	struct cr_flight flight;
	uint64_t highest;                  /* epoch that was seen */
	void (*recovered)(struct crash *); /* after each comparison that followed a death; may be NULL */
	struct mirror_judge *judge;
	struct cr_child *child;
};

/* ---- torture_crash_points.c ---- */
#define CR_STEPS_MAX 16u
extern struct crash_file *cr_file;
struct cr_counts {
	uint64_t kills, behind, operations, starts, comparisons, looks;
};
extern struct cr_counts cr_counts;
enum cr_mode {
	CR_NO_DEATH,  /* to see what is passed, or to come back to where all began */
	CR_EACH,      /* at points where it has not died yet in this step, one after the other */
	CR_BEHIND,    /* at one, and at another after it */
	CR_AT_RANDOM, /* at any passage */
};
void cr_points_open(uint64_t seed, uint64_t until_ms); /* 0: no dose; else where it has died it need not die again */
bool cr_time_is_up(void);                              /* of a dose */
uint64_t cr_random(uint64_t below);
uint32_t cr_n_points(void);
bool cr_covered(uint32_t row);
bool cr_mirrored(const char *const options[CR_OPTIONS]); /* the daemon's: with a mirror, which needs BPF */
void cr_points_of_scene(void);                           /* nothing is known of its steps yet */
/* before, then: rows, of CR_BEHIND. False: CR_EACH, and nothing was left to arm; of a dose: it did not die. */
bool cr_step(struct crash *, unsigned number, enum cr_mode, uint32_t before, uint32_t then);
/* All steps, for a point that is still missing, of those that a start after a death in this scene passes. */
bool cr_behind_a_death(struct crash *);
/* Points that the steps of the scene pass, and those of them at which it did not die there. */
void cr_points_count(const struct cr_scene *, unsigned *n, unsigned *missed);
void cr_died(struct crash *); /* at a point: counts, arms what is to follow */
void cr_starts(bool begin);   /* a start begins, or is over */
void cr_recovered(void);

/* ---- torture_crash_place.c ---- */
void cr_place_open(struct crash *, const struct cr_scene *);
void cr_place_close(struct crash *);
/* Whether it is dead (waits a moment for its end when `closed`); then it has died at a point, or the test fails. */
bool cr_dead(struct crash *, bool closed);
void cr_start(struct crash *);   /* until it is ready; it may die on the way, and is started again */
void cr_kill(struct crash *);    /* by SIGKILL */
void cr_restart(struct crash *); /* likewise */
void cr_stop(struct crash *);    /* by SIGTERM; the wire too */
void cr_takeover(struct crash *);
const char *cr_log(const struct crash *);                             /* the end of the daemon's, for messages */
void cr_path(const struct crash *, char path[192], const char *name); /* in the instance's directory */

/* ---- torture_crash_requests.c ---- */
/* An answer, to be freed; NULL: it died. fd: handed over; -1: none. params: taken. */
json_t *cr_ask(struct crash *, const char *method, json_t *params, int fd);
/* n requests in one go. params: taken. False: it died; no answer is left. */
bool cr_ask_all(struct crash *, const char *method, unsigned n, json_t *params[], json_t *answers[]);
/* Waits until a number of status is as it should be: at least, or exactly. */
void cr_await(struct crash *, const char *name, json_int_t least, json_int_t most);
/* The table is at rest: nothing grows, nothing is retired. */
void cr_await_rest(struct crash *);
void cr_await_reserve(struct crash *); /* and there is a reserve as large as the table */

/* ---- torture_crash_compare.c ---- */
/* Starts what is dead until what is there could be compared, whole. */
void cr_settle(struct crash *);
void cr_compare(struct crash *); /* whole, though nothing died */
void cr_forget(struct crash *);  /* the model is empty from here on */
bool cr_durable(const struct crash *);
bool cr_same(const json_t *, const json_t *); /* either may be NULL */

/* ---- torture_crash_model.c ---- */
void cr_set(struct crash *, unsigned key, unsigned cluster, bool force);
void cr_set_many(struct crash *, unsigned first, unsigned n, unsigned cluster); /* those of them that have no index */
void cr_remove(struct crash *, unsigned key);
void cr_begin(struct crash *, unsigned key, unsigned cluster);
void cr_cutover(struct crash *, unsigned key);
void cr_abort(struct crash *, unsigned key);
bool cr_complete(struct crash *, unsigned key, bool force, unsigned wait_ms); /* false: still pending */
void cr_default(struct crash *, unsigned cluster);                            /* 0: unset */
void cr_cluster(struct crash *, unsigned cluster, const char *endpoint);      /* NULL: removed */
/* A document of partitions first .. first + n - 1 on a cluster (n 0: of none), and of one cluster with an endpoint
 * (0: none). prune: those that the last one named and this one does not, gone .. gone + n_gone - 1, go. */
struct cr_document {
	unsigned first, n, cluster, made_cluster, gone, n_gone;
	const char *endpoint;
	bool override;
};
void cr_load(struct crash *, const struct cr_document *);

/* ---- torture_crash_child.c ---- */
#define CR_CHILDREN 2u
enum cr_act { ATTACH, DETACH, WRITE_BEGIN, WRITE_END, PIN, PIN_ASYNC, RELEASE, RESOLVE, ENTER, LEAVE /* a section */ };
struct cr_child {
	struct cr_one {
		pid_t pid;
		struct cr_mailbox {
			_Atomic uint32_t asked, answered;
			enum cr_act act;
			unsigned a, b, ttl_ms; /* key or pin; cluster, outcome or writes */
			bool cursors;
			int rc;
			uint16_t cluster;
		} * box;
	} one[CR_CHILDREN];
};
void cr_children_open(struct crash *); /* none yet; clusters c1 .. c3, partitions 0 .. 7 */
void cr_child_end(struct crash *);
void cr_comes(struct crash *, unsigned i, unsigned writes, bool cursors);
/* Its registration is gone then, `left` are there; the look for that comes with a grace period. */
void cr_departs(struct crash *, unsigned i, json_int_t left);
void cr_child_dies(struct crash *, unsigned i);
/* Its answer, over as many deaths of the daemon as there are. */
int cr_tell(struct crash *, unsigned i, enum cr_act, unsigned a, unsigned b);
void cr_tell_ok(struct crash *, unsigned i, enum cr_act, unsigned a, unsigned b);

#endif
