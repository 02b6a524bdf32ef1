/* SPDX-License-Identifier: MIT
 * Torture of leases (`make torture-lease`): processes of several threads that write under leases, at random, while a
 * coordinator migrates the partitions under them, kills and stops them, and restarts the daemon. Here: the memory that
 * all share, in which each write that travels is told, and what is judged by it.
 *
 * A write travels from berth_write_begin's return to right before berth_write_end; one that ends unknown, until at most a
 * barrier after a clock read before that end; one whose process died, until a barrier after a clock read before the kill.
 * So whoever finds one of an earlier epoch travelling after `complete` was acknowledged has found a violation, whatever
 * the scheduler did. Writer: record, then load the floor. Coordinator: store the floor, then look at the records. One of
 * the two sees the other.
 *
 *   torture_lease.c     the test: weather, faults, the end          coordinator, one thread
 *   torture_operator.c  migrations over the daemon's sockets        coordinator
 *   torture_judge.c     gates, records, the judgement               all
 *   torture_process.c   a process: attach, upkeep, its own faults   its main thread
 *   torture_thread.c    begin, hold, hand over, end, read           its other threads
 *   torture_ambush.c    held up at a random instruction             its other threads */
#ifndef BERTH_TESTS_TORTURE_LEASE_H
#define BERTH_TESTS_TORTURE_LEASE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../reader_lib/berth.h"
#include "readers.h"

#define T_PARTITIONS 20u
#define T_CLUSTERS 4u
#define T_PROCESSES 8u
#define T_READ_ONLY 6u /* processes from this one on attach as BERTH_WRITES_NONE */
#define T_THREADS 3u
#define T_LANES (T_THREADS + 1) /* the main thread's too */
#define T_RECORDS 8192u         /* of one lane */
#define T_LOG (1u << 20)
#define T_BARRIER 400 /* ms */
#define T_BARRIER_MS ((uint64_t)T_BARRIER)

enum t_phase { T_SETTLED, T_DRAINING, T_CUTOVER };

struct t_gate {                         /* one partition; written by the coordinator */
	_Atomic uint64_t number;        /* odd: a call is under way, and the fields say what was before it */
	_Atomic uint32_t phase, at, to; /* enum t_phase, clusters */
	_Atomic uint32_t completing;    /* the call under way may make `to` the placement */
	_Atomic uint64_t epoch;
	_Atomic uint64_t floor; /* epoch of the last `complete` that was acknowledged */
};

struct t_view {
	uint64_t number, epoch;
	uint32_t phase, at, to, completing;
};

enum t_state { T_FREE, T_OPEN, T_TRAVELS };
struct t_record {
	_Atomic uint64_t word; /* number:32 | partition:16 | cluster:8 | enum t_state:8 */
	_Atomic uint64_t epoch, begun_ms;
	_Atomic uint64_t land_ms; /* T_TRAVELS: until then */
};

#define T_COUNTERS(X) \
	X(begun) \
	X(bulks) \
	X(stale) \
	X(held_back) \
	X(again) \
	X(writer_down) \
	X(ended_done) \
	X(ended_unknown) \
	X(handed_over) \
	X(ended_by_others) \
	X(bursts) \
	X(closed_over_leases) \
	X(detaches) \
	X(busy) \
	X(forks) \
	X(execs) \
	X(late_readers) \
	X(reads) \
	X(exact)
struct t_counts {
#define X(name) _Atomic uint64_t name;
	T_COUNTERS(X)
#undef X
};

struct t_process {
	_Atomic uint32_t running;
	_Atomic uint32_t quiet;   /* all that it had begun is ended, and it begins nothing */
	_Atomic uint64_t died_ms; /* CLOCK_MONOTONIC before its kill or exec; 0: it lives */
	struct t_counts counts;
	_Atomic uint32_t high[T_LANES];
	struct t_record records[T_LANES][T_RECORDS];
};

struct t_weather {
	_Atomic uint32_t unknown_permille, hold_ms, pace_us, burst;
};

struct t_shared {
	_Atomic uint32_t stop, quiet; /* 1: processes end; end their writes and wait */
	_Atomic uint32_t wrong, told;
	char first[1200]; /* what was wrong first */
	char dir[128];
	struct t_weather weather;
	struct t_gate gates[T_PARTITIONS];
	_Atomic uint64_t log[T_LOG]; /* of an acknowledged epoch: epoch:43 | partition:8 | cluster:8 (0: cutover) */
	struct t_process processes[T_PROCESSES];
};
extern struct t_shared *t_shared;

/* ---- torture_judge.c ---- */
__attribute__((format(printf, 1, 2))) void t_wrong(const char *format, ...);
struct t_view t_look(unsigned partition);
bool t_still(unsigned partition, const struct t_view *);
struct t_answer { /* of a read */
	uint64_t epoch;
	unsigned cluster, phase;
};
/* A read that began after the view was seen. sure: and ended before anything of it changed. */
void t_judge_read(unsigned partition, const struct t_view *, bool sure, const struct t_answer *, uint64_t *last);
/* An answer of the gate. w: on BERTH_OK. registered: WRITER_DOWN would be wrong. */
void t_judge_begin(unsigned partition, const struct t_view *, bool sure, uint64_t asked, int rc,
		   const struct berth_write *w, bool registered);
/* Tells that a write travels from now on. NULL: no record is free (t_room said that there is one). */
struct t_record *t_travels(struct t_process *, unsigned lane, unsigned partition, const struct berth_write *w);
bool t_room(struct t_process *, unsigned lane, unsigned n);
/* Before berth_write_end; land_ms: until when it travels on after an unknown end, 0: it is done. */
void t_ends(struct t_record *, const struct berth_write *w, uint64_t land_ms);
/* Coordinator. */
void t_call_begins(unsigned partition, bool completing);
void t_call_ended(unsigned partition, enum t_phase, unsigned at, unsigned to, uint64_t epoch);
void t_completed(unsigned partition, uint64_t epoch); /* floor and look: before t_call_ended */
void t_buried(struct t_process *); /* it has ended: all that it had open travels until a barrier after its death */

/* ---- torture_process.c ---- */
struct t_lane;
size_t t_key(char key[READERS_KEY_SIZE], unsigned partition);
int t_process_run(unsigned number, uint64_t seed); /* its exit status */

/* ---- torture_thread.c ---- */
struct t_held {
	struct berth_write w;
	struct t_record *record;
	uint64_t due_ms;
	unsigned partition;
};
#define T_HELD 4096u
#define T_QUEUE 64u
struct t_queue { /* writes that another thread is to end */
	pthread_mutex_t lock;
	struct t_held held[T_QUEUE];
	unsigned n;
};
struct t_lane { /* of one thread */
	struct t_own *own;
	unsigned number, n_held, at, n_down;
	uint64_t random, last[T_PARTITIONS];
	struct berth_reader *r; /* NULL: paused */
	bool bursting;
	_Atomic bool idle; /* told to be quiet, and holds nothing */
	struct t_held held[T_HELD];
};
struct t_own { /* of one process */
	struct t_process *p;
	unsigned number;
	struct berth *b;
	_Atomic bool registered, pause, over;
	_Atomic uint32_t n_paused;
	struct t_queue queue;
	struct t_lane lanes[T_LANES];
};
bool t_read_only(const struct t_own *);
void *t_thread(void *lane);
void t_begin_one(struct t_lane *);
void t_open_reader(struct t_lane *);
void t_end_all(struct t_lane *ender, struct t_lane *of); /* with the ender's reader; of may be the ender */
void t_end_queue(struct t_lane *ender);
void t_count(_Atomic uint64_t *);

/* ---- torture_operator.c ---- */
struct daemon;
struct t_totals {
	uint64_t completed, aborted, sabotaged, at_once, pending, reasons[7], longest_ms, restarts, growths, adopted;
};
extern struct t_totals t_totals;
extern const char *const t_reasons[7];
void t_operators_open(struct daemon *, uint64_t seed);
void t_operators_connect(void);    /* to a daemon that was started again: what is there, is what may be there */
void t_operators_disconnect(void); /* before it is killed */
/* A look at the answers, next requests. finish: begin no migration, complete what is under way; true when none is. */
bool t_operators_step(bool finish);
bool t_document(uint32_t n); /* begins to load a document of n new partitions; false: one is under way */
char *t_dump(void);          /* migrations and readers, for the report of a violation */

#endif
