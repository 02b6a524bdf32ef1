/* SPDX-License-Identifier: MIT
 * How long after the store that decides a change a reader in another process sees it. The daemon is stopped, and this
 * process stands in for it (stand_in.h) on CPU 0; a reader on CPU 1 calls berth_route for one partition all the time.
 *
 * Why the stand-in is honest. A change becomes visible by one store of one word (change.c, P1): what it makes visible
 * was stored before. That store is made here, with the daemon's own function for a word and its memory order, into the
 * same entry of the same file, which the reader has mapped and polls as any reader does. What the daemon does before it
 * is work on a request, not a reader's wait for what has been decided: that is measured with the daemon as well, as
 * `request to seen`, from the first byte of a `set` to when the reader sees its epoch, client and daemon on CPU 0.
 *
 * One way needs one clock for two processors: the processor's time stamp, which counts on all of them together. That is
 * not taken for granted: `half a round trip` of a bare cache line has both its stamps from one processor, `one way` of
 * the same line has one of each; what they differ by is what the clocks do. From the stamp before the store to the
 * stamp after the look-up that answered: nothing is taken off. Called by the main program. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shm/word.h"
#include "cursor.h"
#include "place.h"
#include "stand_in.h"

#define PARTITIONS 1000u
#define STORES 20000u /* of a run */
#define STORES_QUICK 1000u
#define REQUESTS 500u
#define REQUESTS_QUICK 50u
#define PAUSE_TICKS 4096u /* at most so many between one and the next: in any phase of the reader's loop */
#define PAUSE_US 100u
#define TOO_MANY (1ull << 34) /* looks: minutes */
#define LINE_FIRST (1ull << 48)
#define LINE_ROOM 1024u

enum polls { POLL_NOTHING, POLL_ROUTE, POLL_LINE, POLL_END };

struct shared { /* lines of their own, in pairs as they are fetched */
	_Alignas(128) _Atomic uint32_t polls;
	_Atomic uint32_t polling;            /* by the reader: what it does */
	_Alignas(128) _Atomic uint64_t line; /* the bare one */
	_Alignas(128) _Atomic uint64_t seen; /* by the reader: an epoch, or what the bare line held */
	uint64_t ticks;                      /* its time stamp then; stored before */
};

/* ---- the process that looks ----------------------------------------------------------------------------------- */

static void saw(struct shared *shared, uint64_t what)
{
	shared->ticks = ticks_end();
	atomic_store_explicit(&shared->seen, what, memory_order_release);
}

static void poll_route(struct shared *shared, struct berth_reader *r, const char *key)
{
	struct berth_route out = {0};
	uint64_t last = 0;

	while (atomic_load_explicit(&shared->polls, memory_order_relaxed) == POLL_ROUTE) {
		if (berth_route(r, key, KEY_LEN, &out) != BERTH_OK)
			fail("%s is not found any more", key);
		if (out.epoch != last)
			saw(shared, last = out.epoch);
	}
}

static void poll_line(struct shared *shared)
{
	uint64_t last = 0, now;

	while (atomic_load_explicit(&shared->polls, memory_order_relaxed) == POLL_LINE) {
		now = atomic_load_explicit(&shared->line, memory_order_acquire);
		if (now != last)
			saw(shared, last = now);
	}
}

static _Noreturn void run_reader(const struct place *p, struct shared *shared)
{
	struct berth *berth;
	struct berth_reader *r;
	int rc = berth_attach(p->d.dir, NULL, &berth);
	uint32_t polls;

	if (rc == BERTH_OK)
		rc = berth_reader_open(berth, &r);
	if (rc != BERTH_OK)
		fail("the reader cannot attach to %s: %s", p->d.dir, berth_strerror(rc));
	pin_to(CPU_SELF);
	while ((polls = atomic_load(&shared->polls)) != POLL_END) {
		atomic_store(&shared->polling, polls);
		if (polls == POLL_ROUTE)
			poll_route(shared, r, p->names[0]);
		else if (polls == POLL_LINE)
			poll_line(shared);
		else
			usleep(PAUSE_US);
	}
	berth_reader_close(&r);
	berth_detach(&berth);
	exit(0);
}

/* ---- measuring ------------------------------------------------------------------------------------------------ */

enum what { ROUTE, LINE, HALF, REQUEST, N_WHAT };
struct results {
	struct histogram all[N_WHAT]; /* ticks */
	struct samples p50[N_WHAT];   /* of each run, in the figure's unit */
	struct samples ratio;
};

static const struct row {
	const char *name, *p50, *unit;
	double scale, goal;
} rows[N_WHAT] = {
	[ROUTE] = {"seen by another process", "seen by another process, p50", "ns", 1, 300},
	[LINE] = {"a bare cache line, one way", "a bare cache line, one way, p50", "ns", 1, 0},
	[HALF] = {"a bare cache line, half a round trip", "a bare cache line, half a round trip, p50", "ns", 1, 0},
	[REQUEST] = {"request to seen", "request to seen, p50", "us", 1e-3, 0},
};

static void wait_seen(const struct shared *shared, uint64_t what)
{
	for (uint64_t i = 0; atomic_load_explicit(&shared->seen, memory_order_acquire) != what; i++)
		if (i > TOO_MANY)
			fail("the reader does not see a change");
}

static void begin_polls(struct shared *shared, uint32_t polls, uint64_t present)
{
	atomic_store(&shared->seen, 0);
	atomic_store(&shared->polls, polls);
	wait_seen(shared, present);
}

static void end_polls(struct shared *shared)
{
	atomic_store(&shared->polls, POLL_NOTHING);
	while (atomic_load(&shared->polling) != POLL_NOTHING)
		usleep(PAUSE_US);
}

static uint64_t between(uint64_t from, uint64_t to)
{
	return to > from ? to - from : 0;
}

/* One store, and until the reader has seen it: it has been seen before the next. */
static void store_one(struct shared *shared, _Atomic uint64_t *at, uint64_t value, uint64_t what,
		      struct histogram *one_way, struct histogram *half)
{
	static uint64_t state = 7;
	uint64_t pause = random_u64(&state) % PAUSE_TICKS, from = ticks_begin();

	while (ticks_begin() - from < pause)
		;
	from = ticks_begin();
	atomic_store_explicit(at, value, memory_order_release);
	wait_seen(shared, what);
	if (half)
		histogram_add(half, (ticks_end() - from) / 2);
	histogram_add(one_way, between(from, shared->ticks));
}

/* The reader keeps the epoch that was there: the word is as it was when the daemon goes on. */
static void measure_route(const struct stand_in *s, struct shared *shared, _Atomic uint64_t *word, unsigned n,
			  struct histogram *h)
{
	uint64_t was = atomic_load_explicit(word, memory_order_acquire), epoch = word_epoch(was);

	stand_in_begin(s);
	begin_polls(shared, POLL_ROUTE, epoch);
	for (unsigned i = 0; i < n; i++) {
		epoch++;
		store_one(shared, word,
			  word_make(epoch, word_cluster(was), word_which(was), word_kind(was), word_phase(was)), epoch,
			  h, NULL);
	}
	atomic_store_explicit(word, was, memory_order_release);
	wait_seen(shared, word_epoch(was));
	end_polls(shared);
	stand_in_end(s);
}

static void measure_line(struct shared *shared, unsigned n, struct histogram *one_way, struct histogram *half)
{
	uint64_t value = LINE_FIRST;

	atomic_store(&shared->line, value);
	begin_polls(shared, POLL_LINE, value);
	for (unsigned i = 0; i < n; i++) {
		value++;
		store_one(shared, &shared->line, value, value, one_way, half);
	}
	end_polls(shared);
}

static void measure_request(const struct place *p, struct shared *shared, const _Atomic uint64_t *word, unsigned n,
			    struct histogram *h)
{
	begin_polls(shared, POLL_ROUTE, word_epoch(atomic_load_explicit(word, memory_order_acquire)));
	for (unsigned i = 0; i < n; i++) {
		char line[LINE_ROOM], answer[LINE_ROOM];
		uint64_t from;

		snprintf(line, sizeof(line),
			 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"%s\","
			 "\"placement\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"orders-%u\"},"
			 "\"force\":true}}\n",
			 p->names[0], i % 2);
		usleep(PAUSE_US);
		from = ticks_begin();
		send_all(p->d.fd, line, strlen(line), -1);
		receive_line(p->d.fd, answer, sizeof(answer));
		if (!strstr(answer, "\"changed\":true"))
			fail("%s was answered with %s", line, answer);
		wait_seen(shared, answer_number(answer, "epoch"));
		histogram_add(h, between(from, shared->ticks));
	}
	end_polls(shared);
}

/* ---- the workload --------------------------------------------------------------------------------------------- */

static void report_all(const struct bench *b, const struct results *r)
{
	struct figure f = {.workload = "seen"};

	for (unsigned k = 0; k < N_WHAT; k++) {
		f.unit = rows[k].unit;
		snprintf(f.name, sizeof(f.name), "%s", rows[k].name);
		report_histogram(b, &f, &r->all[k], ticks_ns(1) * rows[k].scale);
	}
	for (unsigned k = 0; k < N_WHAT; k++) {
		f.unit = rows[k].unit;
		f.goal = rows[k].goal;
		f.s = r->p50[k];
		snprintf(f.name, sizeof(f.name), "%s", rows[k].p50);
		report(b, &f);
	}
	f.unit = "ratio";
	f.goal = 0;
	f.s = r->ratio;
	snprintf(f.name, sizeof(f.name), "seen by another process / a bare cache line");
	report(b, &f);
}

static void measure(const struct bench *b, const struct place *p, const struct stand_in *s, struct shared *shared,
		    struct results *r)
{
	static struct histogram run[N_WHAT];
	unsigned stores = b->quick ? STORES_QUICK : STORES, requests = b->quick ? REQUESTS_QUICK : REQUESTS;
	_Atomic uint64_t *word = stand_in_word(s, p->names[0], KEY_LEN);

	memset(run, 0, sizeof(run));
	measure_line(shared, stores, &run[LINE], &run[HALF]);
	measure_route(s, shared, word, stores, &run[ROUTE]);
	measure_request(p, shared, word, requests, &run[REQUEST]);
	for (unsigned k = 0; k < N_WHAT; k++) {
		add_sample(&r->p50[k], histogram_quantile(&run[k], 0.5) * ticks_ns(1) * rows[k].scale);
		histogram_merge(&r->all[k], &run[k]);
	}
	add_sample(&r->ratio, histogram_quantile(&run[ROUTE], 0.5) / histogram_quantile(&run[LINE], 0.5));
}

void workload_seen(const struct bench *b)
{
	static struct results results;
	static struct place p;
	struct shared *shared = shared_memory(sizeof(*shared));
	struct stand_in s;
	pid_t reader;

	place_make(b, &p, "seen", PARTITIONS, false);
	reader = child_fork();
	if (reader == 0)
		run_reader(&p, shared);
	stand_in_make(&s, &p.d);
	pin_to(CPU_DAEMON);
	for (unsigned run = 0; run < b->runs; run++)
		measure(b, &p, &s, shared, &results);
	pin_nowhere();
	atomic_store(&shared->polls, POLL_END);
	child_wait(reader, "the reader");
	stand_in_remove(&s);
	munmap(shared, sizeof(*shared));
	place_remove(&p);
	report_all(b, &results);
}
