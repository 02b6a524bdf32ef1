/* SPDX-License-Identifier: MIT
 * Torture of pins (`make torture-cursor`; a small dose of it in 77-cursors.c): four processes pin, pin again, resolve and
 * release at random, while a coordinator kills, stops and restarts the daemon, and kills them. Here: the memory that all
 * share, which outlives a process that is killed, and what is judged by it.
 *
 * Own ids. Each process has cursor ids that no other writes. For each there is a model: the states that the pin may be in,
 * and the calls that the daemon may not have done yet, in their order. An answer that none of them explains is a violation.
 * After an acknowledged call there is one state, so from then on the model is exact. What a killed process had pushed is
 * done, in its order, by the time its registration is gone (the row of the ledger is free): "accepted" is "kept" for pins
 * that nobody waited for, too. An end by time lies between the clock before and after the call; asked at a time of the
 * caller's, the answers narrow it down to the millisecond.
 *
 * Shared ids. Every process writes them. Each call is an event with its begin and its end on CLOCK_BOOTTIME; afterwards
 * each answer needs an explanation: a cluster, a pin that may have stood then; nothing found, no pin that certainly stood
 * then. A pin certainly stood when it was acknowledged before, no other call may have ended it since, and its time was not
 * over. "May" is always read in the daemon's favour, so a violation is one whatever the scheduler did. That tells why; then
 * all calls on an id, as a whole, must have an order that gives all their answers.
 *
 * Then, with little room: a pin since which fewer were pinned than there is room for must be there.
 *
 *   torture_cursor.c          the program: a seed, OPS or TORTURE_SECONDS
 *   torture_cursor_run.c      the run: phases, the end, the counts         coordinator, one thread
 *   torture_cursor_faults.c   processes, kills, stops, restarts            coordinator
 *   torture_cursor_process.c  a process: attach, upkeep, its life          its one thread
 *   torture_cursor_calls.c    calls with much room                         processes
 *   torture_ambush.c          held up at a random instruction              processes
 *   torture_cursor_own.c      the model of own ids                         processes
 *   torture_cursor_shared.c   events of shared ids, and their judgement    processes; coordinator
 *   torture_cursor_order.c    is there an order that explains all          coordinator
 *   torture_cursor_small.c    little room                                  both */
#ifndef BERTH_TESTS_TORTURE_CURSOR_H
#define BERTH_TESTS_TORTURE_CURSOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../reader_lib/berth.h"
#include "readers.h"

#define C_PROCESSES 4u
#define C_OWN 1024u         /* own ids of a process */
#define C_EVENTS (1u << 20) /* of a process, on shared ids */
#define C_LIVES 1024u       /* processes that took each other's place */
#define C_WINDOW 8u         /* shared ids in use at a time */
#define C_WINDOW_STEP 128u  /* calls on them, of all processes, until it moves on by one */
#define C_OWNERS 3u         /* partitions 1 .. 3 */
#define C_CLUSTERS 4u       /* 1 .. 4; the next holds a pin all the time, so that it cannot be removed */
#define C_NO_CLUSTER 60000u
#define C_LITTLE_ROOM 1000u
#define C_NEVER (UINT64_MAX / 4)
#define C_BULK_MAX 24u
#define C_LONG_MS 600000u /* a time to live that no run outlives */

enum c_kind { C_PIN, C_ASYNC, C_RELEASE, C_RESOLVE, C_BULK, C_LEN, C_KINDS };
enum c_outcome { C_OK, C_UNKNOWN, C_NOT_OWNER, C_AGAIN, C_DOWN, C_OUTCOMES };

struct c_call { /* a change that was asked for */
	uint64_t asked_ms;
	uint64_t lo, hi; /* pin: its time is over at one of these milliseconds of CLOCK_BOOTTIME */
	uint32_t number;
	uint32_t ttl_ms;
	uint16_t cluster;
	uint8_t kind, owner;
	bool maybe; /* perhaps it never reached the daemon */
};

/* ---- own ids ---- */
#define C_STATES 8u
#define C_PENDING 6u
struct c_state {
	uint64_t lo, hi; /* as of the call that made it */
	uint32_t since;  /* its number */
	uint16_t cluster;
	uint8_t owner; /* 0: no pin */
};
struct c_set {
	struct c_state states[C_STATES];
	unsigned n;
	bool vague; /* too many to tell: any answer will do */
};
struct c_own {
	struct c_set now;                 /* what it may be once all before the pending calls is done */
	struct c_call pending[C_PENDING]; /* in order */
	unsigned n_pending;
	unsigned seen; /* so many of the pending calls are done, an answer has shown */
};

/* ---- shared ids ---- */
struct c_event {
	uint64_t begin_ns, end_ns; /* of the call; end 0: its process died in it */
	uint64_t done_ns;          /* by then it was done, or never will be; 0: by the burial of the process */
	uint64_t lo, hi;           /* pin: its end; resolve: lo is the time asked at, 0: the clock's */
	uint32_t id, number;
	uint16_t cluster, life;
	uint8_t kind, owner, outcome, process;
	bool restarted; /* a daemon ended meanwhile: what it did may have been done again */
};

/* ---- little room ---- */
#define C_SMALL (1u << 20)
struct c_small {                  /* a pin */
	_Atomic uint64_t version; /* odd: it is being pinned, nothing is known */
	_Atomic uint64_t mark;    /* calls of all processes that were certainly done when it was pinned last */
	_Atomic uint64_t known;   /* 1 + the cluster that was acknowledged; 0: none was */
};

struct c_process {
	_Atomic uint32_t running, quiet;
	_Atomic uint32_t life;      /* number of the process that is in this place */
	_Atomic uint32_t first;     /* number of its first call */
	_Atomic uint32_t number;    /* of the last call */
	_Atomic uint32_t confirmed; /* calls up to this number are done; of the present life */
	_Atomic uint64_t confirmed_ms;
	_Atomic uint32_t changing; /* 1 + own id whose model is being changed */
	_Atomic uint64_t counts[C_KINDS][C_OUTCOMES];
	_Atomic uint64_t narrowed, at_end, redone, vague, long_found, last_pinned;
	_Atomic uint64_t buried_ns[C_LIVES]; /* its registration was seen gone; 0: not yet */
	_Atomic uint64_t small_started, small_done;
	struct c_own own[C_OWN];
	_Atomic uint32_t n_events;
	struct c_event events[C_EVENTS];
};

enum c_phase { C_LARGE, C_SMALL_ROOM };
struct c_shared {
	_Atomic uint32_t stop, quiet, phase;
	_Atomic uint32_t wrong, told;
	_Atomic uint64_t daemon_ends; /* counted before and after each kill */
	_Atomic uint64_t ops, most_ops;
	_Atomic uint64_t window; /* calls on shared ids */
	_Atomic uint64_t small_next;
	uint64_t began_ns, seed;
	unsigned
		room; /* of the first phase: as many pins as there are ids, so that none is evicted and chains are long */
	char first[1600];
	char dir[128];
	struct c_process processes[C_PROCESSES];
	struct c_small small[C_SMALL];
};
extern struct c_shared *c_shared;

/* ---- a process has ---- */
struct c_me {
	unsigned number;
	struct c_process *p;
	struct berth *b;
	struct berth_reader *r;
	uint64_t random;
	bool registered;
	uint32_t open[4096], n_open; /* own events that are not confirmed: indices */
};

/* ---- torture_cursor_process.c ---- */
int c_process_run(unsigned number, uint64_t seed);
bool c_attach(struct c_me *);
void c_leave(struct c_me *);
void c_keep_up(struct c_me *);
uint64_t c_ns(void);
uint64_t c_ms(void); /* CLOCK_BOOTTIME */
uint64_t c_die(struct c_me *, uint64_t below);
struct berth_cursor c_name(char id[BERTH_CURSOR_ID_MAX], char set, unsigned process, unsigned number, unsigned owner);
/* The call. outcome of rc; a code that no call may answer is a violation. */
enum c_outcome c_outcome(struct c_me *, enum c_kind, int rc);
const char *c_text(unsigned outcome);
/* Is it known that the call was done, and with what result? Then all before it in the same ring are done too. (A pin that
 * does not wait tells not-owner from the table, if nothing is left in its ring.) */
bool c_definite(unsigned kind, unsigned outcome);
void c_confirmed(struct c_me *, uint32_t number, uint64_t at_ns); /* calls up to this one are done */
__attribute__((format(printf, 1, 2))) void c_wrong(const char *format, ...);

/* ---- torture_cursor_calls.c ---- */
void c_large_step(struct c_me *); /* one call */
void c_own_change(struct c_me *); /* one that may be acknowledged */

/* ---- torture_cursor_own.c ---- */
bool c_own_room(struct c_process *, unsigned id, unsigned room); /* for so many calls; none of a dead process pends */
void c_own_asks(struct c_process *, unsigned id, const struct c_call *);
void c_own_answered(struct c_process *, unsigned id, const struct c_call *, unsigned outcome, bool restarted);
void c_own_resolved(struct c_process *, unsigned id, unsigned owner, uint64_t at_ms, uint64_t before_ms,
		    uint64_t after_ms, unsigned outcome, unsigned cluster);
/* A time worth asking at: right before, at, after the end that the model knows; 0: none. */
uint64_t c_own_end(const struct c_own *, uint64_t dice, unsigned *owner);
void c_own_taken_over(struct c_process *); /* a new process in the place of one that died at any instruction */

/* ---- torture_cursor_shared.c ---- */
unsigned c_shared_id(struct c_me *);
struct c_event *c_event_begin(struct c_me *, const struct c_event *);
void c_event_end(struct c_me *, struct c_event *, unsigned outcome, unsigned cluster);
struct c_judged {
	uint64_t events, ids, found, not_found, not_owner, certain, ordered, too_many;
};
bool c_judge(struct c_judged *); /* after all processes have ended; false: c_wrong was called */

uint64_t c_done_ns(const struct c_event *);

/* ---- torture_cursor_order.c ---- */
/* Events of one id, by their begin: the one at whose end no order is left; -1: there is one, or there are too many to tell. */
int c_order_missing(struct c_event **events, unsigned n, bool *too_many);

/* ---- torture_cursor_small.c ---- */
void c_small_step(struct c_me *);
void c_small_exact(struct c_me *, unsigned room, void (*halfway)(void *), void *arg); /* nobody else pins */

/* ---- torture_cursor_faults.c ---- */
struct mp_place;
struct c_faults {
	uint64_t kills, stops, restarts, departures, pauses, removals, documents;
};
extern struct c_faults c_faults;
void c_faults_open(struct mp_place *, uint64_t seed, unsigned room);
void c_start_daemon(unsigned room);
void c_kill_daemon(void);
void c_start_processes(void);
void c_step(bool readers_too); /* a look at all, and a fault that is due */
void c_end_processes(void);
bool c_all_quiet(void);
void c_check(void);                /* fails the test when something was wrong */
void c_let_go(void);               /* at a teardown */
void c_cluster_is_held(bool held); /* the cluster that the coordinator's own pin holds: remove is refused, or is done */

/* ---- torture_cursor_run.c ---- */
struct c_options {
	uint64_t ops, small_ops;
	unsigned seconds; /* at most, for ops; 0: until they are done */
	uint64_t seed;
	const char *store;
};
void c_run(struct mp_place *, const struct c_options *); /* a place without a daemon */

#endif
