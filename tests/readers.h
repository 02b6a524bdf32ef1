/* SPDX-License-Identifier: MIT
 * Reader processes that route and look up without a pause and check every answer. The test's process forks them, then
 * says in memory that all share what readers may see; they count what they did, and keep the first thing that was
 * wrong. They attach to a real daemon and share nothing else with the test. One thread each.
 *
 * Each placement carries a relation to its key, so that a torn or a mixed answer proves itself: partition i, put on
 * cluster c<k> for the v-th time, has the index t<i>-c<k>-v<v> and, where it has one, a constant field that repeats it.
 * Besides: no call fails; an epoch never goes back, neither in one reader nor below what was acknowledged before the
 * call; one epoch is one placement; what is said to be present is found, what is said to be absent is not; strings stay
 * as they are to the end of the section; nothing is admitted at an epoch below an acknowledged one. */
#ifndef BERTH_TESTS_READERS_H
#define BERTH_TESTS_READERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../reader_lib/berth.h"

#define READERS_MAX 8
#define READERS_HOT 256
#define READERS_KEY_SIZE 80
#define READERS_JSON_SIZE 400

/* ---- names and placements ---- */
size_t readers_key(char out[READERS_KEY_SIZE], uint32_t i); /* of all lengths that an entry stores differently */
/* JSON of the placement of i on cluster c<k>, version v; which kind it is depends on i. */
const char *readers_placement(char out[READERS_JSON_SIZE], uint32_t i, unsigned k, unsigned v);

/* ---- what all share ---- */
enum presence { MAYBE, PRESENT, ABSENT };

struct shown {                     /* of one partition; written by the test */
	_Atomic uint64_t floor;    /* acknowledged: who looks after this was stored sees this epoch or a later one */
	_Atomic uint32_t presence; /* number of the change << 2 | enum presence */
	uint32_t pad;
};

struct reader_report { /* written by its reader */
	_Atomic uint64_t rounds, routes, bulks, lookups, admitted, stale, held_back, failed, wrong;
	_Atomic uint32_t running;
	char first[240]; /* what failed or was wrong first */
};

struct readers_shared {
	_Atomic uint32_t stop;
	_Atomic uint32_t n_keys; /* partitions 0 .. n_keys - 1 */
	_Atomic uint32_t n_hot;  /* half of the calls go to these ones; written before the readers begin */
	_Atomic uint32_t hot[READERS_HOT];
	struct reader_report report[READERS_MAX];
	struct shown shown[];
};

enum readers_upkeep { /* who calls berth_maintain; the look-ups of others map new generations themselves */
		      ALL_MAINTAIN,
		      SOME_MAINTAIN, /* the first, the third ... */
		      NONE_MAINTAINS,
};

struct readers_options {
	uint32_t max_keys;
	enum readers_upkeep upkeep;
	bool no_writer;        /* attach while no daemon is there: strings are copies, the gate may say WRITER_DOWN */
	void (*prepare)(void); /* in each after the attach, before the first look-up; what goes wrong there ends it */
};

struct readers {
	struct readers_shared *s;
	char dir[128];
	struct readers_options options;
	unsigned n;
	pid_t pid[READERS_MAX];
};

/* Shared memory, no process yet: partitions 0 .. n - 1 are present. */
void readers_open(struct readers *, const char *dir, uint32_t n_keys, const struct readers_options *);
void readers_add(struct readers *, unsigned n); /* more processes; returns when they look things up */
/* Each of them has gone through so many more rounds; the test fails when that takes longer than limit_ms. */
void readers_await(struct readers *, uint64_t rounds, unsigned limit_ms);
void readers_check(const struct readers *); /* nothing failed, nothing was wrong; else the test fails */
/* Ends them, checks, prints what they counted as a note that begins with `what`. Then gives the memory back. */
void readers_finish(struct readers *, const char *what);
void readers_heat(struct readers *, uint32_t i); /* one more hot partition */
void readers_kill_all(void);                     /* for teardowns: those of every struct readers that is open */

void readers_may_change(struct readers *, uint32_t i, enum presence); /* before a change that ends in this presence */
void readers_changed(struct readers *, uint32_t i, enum presence, uint64_t epoch); /* after its acknowledgement */

/* ---- small things of multi-process tests ---- */
uint64_t mp_now_ms(void);
/* fork: 0 in the child, which dies with the test's process, and of a signal that would be a failed test there. */
pid_t mp_fork(void);
bool mp_long(void); /* BERTH_LONG=1: longer runs */
unsigned mp_number(const char *variable, unsigned usual, unsigned when_long);
/* Waits for a child; its wait status. The test fails when it takes longer than limit_ms, and the child is killed. */
int mp_reap(pid_t, unsigned limit_ms);
uint64_t mp_seed(void); /* BERTH_SEED, or of the clock; printed as a note */
uint64_t mp_random(uint64_t *state);
void mp_pause(void); /* between two looks at a condition: a millisecond */

/* Polls a condition; the test fails with the text of it after limit_ms. */
#define MP_UNTIL(condition, limit_ms) \
	do { \
		uint64_t until_ = mp_now_ms() + (limit_ms); \
		while (!(condition)) { \
			if (mp_now_ms() > until_) \
				fail_msg("%s:%d: not within %u ms: %s", __FILE__, __LINE__, (unsigned)(limit_ms), \
					 #condition); \
			mp_pause(); \
		} \
	} while (0)

#endif
