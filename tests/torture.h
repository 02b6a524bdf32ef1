/* SPDX-License-Identifier: MIT
 * Torture (`make torture`; `make soak` is the same for twenty minutes, sampled): processes of several threads that read,
 * write under leases and pin cursors, at random, while a coordinator migrates the partitions under them, loads documents
 * that make the table grow and shrink, kills and stops them, and kills, stops and replaces the daemon. Here: the memory
 * that all share, in which each write that travels is told, and what is judged by it.
 *
 * A write travels from berth_write_begin's return to right before berth_write_end; one that ends unknown, until at most a
 * barrier after a clock read before that end; one whose process died, until a barrier after a clock read before the kill.
 * So whoever finds one of an earlier epoch travelling after `complete` was acknowledged has found a violation, whatever
 * the scheduler did. Writer: record, then load the floor. Coordinator: store the floor, then look at the records. One of
 * the two sees the other.
 *
 * Documents: one number says which document is in force, odd while the next one is being loaded. A partition of theirs
 * that is looked up under one even number is there if and only if that document has it, with the index that says which
 * document it was. Pins: each is written by one thread, under a number that is odd meanwhile; what all others resolve
 * under one even number is what was acknowledged. A pin whose call was not acknowledged is given up.
 *
 * The build has BERTH_TORTURE: the daemon fills memory that it frees (shm/poison.h), so that a late look shows.
 *
 *   torture_run.c       the test: weather, the run, the end         coordinator, one thread
 *   torture_faults.c    processes and the daemon killed, stopped    coordinator
 *   torture_operator.c  migrations over the daemon's sockets        coordinator
 *   torture_document.c  documents; what of them may be seen         coordinator; all
 *   torture_sample.c    memory, descriptors, slots                  coordinator
 *   torture_flat.c      are they flat?                              coordinator
 *   torture_judge.c     gates, records, the judgement               all
 *   torture_process.c   a process: attach, upkeep                   its main thread
 *   torture_own_faults.c  what it does to itself                    its main thread
 *   torture_thread.c    begin, hold, hand over, end, read           its other threads
 *   torture_pin.c       pin, release, resolve                       its other threads
 *   torture_ambush.c    held up at a random instruction             its other threads */
#ifndef BERTH_TESTS_TORTURE_H
#define BERTH_TESTS_TORTURE_H

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
#define T_THREADS 2u
#define T_LANES (T_THREADS + 1) /* the main thread's too */
#define T_RECORDS 8192u         /* of one lane */
#define T_LOG (1u << 20)
#define T_PINS 64u    /* of one lane */
#define T_SPAN 30000u /* partitions that a document may name: numbers T_FIRST and on */
#define T_FIRST 1000u
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
	X(exact) \
	X(document_reads) \
	X(pins) \
	X(releases) \
	X(given_up) \
	X(resolves) \
	X(exits) \
	X(ends_inside) \
	X(stops_inside) \
	X(storms)
struct t_counts {
#define X(name) _Atomic uint64_t name;
	T_COUNTERS(X)
#undef X
};

struct t_pin {
	_Atomic uint64_t version; /* odd: its thread is changing it */
	_Atomic uint64_t number;  /* of the cursor id: a new one each time that it was given up */
	_Atomic uint32_t cluster; /* acknowledged; 0: it is not pinned */
	_Atomic uint32_t owner;
	_Atomic uint64_t lo, hi; /* CLOCK_BOOTTIME: its time is over at one of these milliseconds */
};

enum t_inside {
	T_OUTSIDE,
	T_INSIDE,
	T_STOPPED
}; /* a section of the main thread's, for the coordinator to stop it there */
struct t_process {
	_Atomic uint32_t running;
	_Atomic uint32_t inside;  /* enum t_inside */
	_Atomic uint32_t quiet;   /* all that it had begun is ended, and it begins nothing */
	_Atomic uint64_t died_ms; /* CLOCK_MONOTONIC before its kill or exec; 0: it lives */
	struct t_counts counts;
	_Atomic uint32_t high[T_LANES];
	struct t_record records[T_LANES][T_RECORDS];
	struct t_pin pins[T_THREADS][T_PINS];
};

struct t_weather {
	_Atomic uint32_t unknown_permille, hold_ms, pace_us, burst, storm;
};

struct t_document { /* has the partitions first .. first + n - 1; version: in the names of their indices */
	_Atomic uint32_t first, n, version;
};
struct t_documents {
	_Atomic uint64_t number; /* odd: next is being loaded; is is what was in force before */
	struct t_document is, next;
};

struct t_shared {
	_Atomic uint32_t stop, quiet; /* 1: processes end; end their writes and wait */
	_Atomic uint32_t wrong, told;
	char first[1200]; /* what was wrong first */
	char dir[128];
	struct t_weather weather;
	struct t_gate gates[T_PARTITIONS];
	struct t_documents documents;
	_Atomic uint64_t pin_numbers;
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
struct t_own;
size_t t_key(char key[READERS_KEY_SIZE], unsigned partition);
int t_process_run(unsigned number, uint64_t seed); /* its exit status */
bool t_pins(const struct t_own *);
void t_keep_up(struct t_own *);
bool t_attach_again(struct t_own *);
struct t_lane *t_main_lane(struct t_own *);

/* ---- torture_own_faults.c ---- */
bool t_own_fault(struct t_own *,
		 pid_t *child); /* one of them; child: forked and not reaped yet, or 0. False: it is wrong */
void t_storm(struct t_own *);   /* attaches, writes, detaches, some times */

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
	unsigned number, n_held, at, n_down, n_pins_down;
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

/* ---- torture_pin.c ---- */
void t_pin_step(struct t_lane *);
void t_pins_given_up(struct t_process *, unsigned lane); /* what its registration had pushed may yet be done */

/* ---- torture_document.c ---- */
void t_read_document(struct t_lane *);
struct daemon;
struct wire;
/* Sends one; the same again, when the last was not answered. */
void t_document_load(struct daemon *, struct wire *, uint64_t *random);
void t_document_loaded(void);

/* ---- torture_operator.c ---- */
struct t_totals {
	uint64_t completed, aborted, sabotaged, at_once, pending, reasons[7], longest_ms, adopted, documents, growths;
};
extern struct t_totals t_totals;
extern const char *const t_reasons[7];
void t_operators_open(struct daemon *, uint64_t seed);
void t_operators_connect(void);    /* to a daemon that was started again: what is there, is what may be there */
void t_operators_disconnect(void); /* before it is killed */
/* A look at the answers, next requests. finish: begin no migration, complete what is under way; true when none is. */
bool t_operators_step(bool finish);
void t_operators_rest(bool); /* the daemon is stopped: nothing that waits for its answer */
bool t_document(void);       /* begins to load one; false: one is under way */
struct json_t;
bool t_ask_status(struct json_t **); /* status of the daemon, to be given back; false: it rests */
char *t_dump(void);                  /* migrations and readers, for the report of a violation */

/* ---- torture_faults.c ---- */
struct mp_place;
struct t_faults {
	uint64_t kills, stops, stops_inside, grown_inside, daemon_kills, take_overs, ends, daemon_stops;
};
extern struct t_faults t_faults;
extern pid_t t_pids[T_PROCESSES];
void t_faults_open(struct mp_place *, uint64_t seed);
void t_start_processes(void);
void t_faults_step(bool spare_daemon); /* what is due */
bool t_all_quiet(void);                /* all processes are there, and hold nothing */
void t_end_processes(void);            /* stop was stored */
void t_let_go(void);                   /* at a teardown */
void t_daemon_goes_on(void);           /* in case that it is stopped */
void t_start_daemon_anew(void);        /* killed, and started again */
void t_check(void);                    /* fails the test when something was wrong */

/* ---- torture_sample.c ---- */
/* path: of the JSON lines; NULL: none. */
void t_sample_open(struct mp_place *, unsigned seconds, const char *path);
void t_sample_step(void); /* takes one when it is time */
/* No process is there: nor are registrations, rows, leases, memory held back, descriptors of the daemon's. */
void t_sample_nothing_left(void);

/* ---- torture_flat.c ---- */
void t_sample_bounded(double most_kb); /* prints the most of each; fails the test when the files had more */
void t_sample_judge(void);             /* prints what each quantity was; fails the test when one has grown */

#endif
