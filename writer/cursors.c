/* SPDX-License-Identifier: MIT
 * The cursor thread and what the control thread may ask of it: cursors.h. What is in a ring: cursor_rings.c; falling asleep
 * and waking: cursor_bells.c.
 *
 *   round:  every registration, 64 entries of its rings each at most -> some pins that have expired
 *   nothing done for some microseconds -> cursor_bells_sleep -> round
 *
 * T1 The lock is held over one piece of a round at a time; who wants it (`wanted`) gets it next: a mutex is not fair, and
 *    this thread would take it again at once.
 * T2 After cursors_cluster_close has found no pin of it, nobody pins to that cluster any more: pins are counted and the bit
 *    is cleared under the lock, so no entry that saw it is still being applied.
 * T3 Rings of a process that is gone are looked at until nothing is left in them, or as much was done as they can hold:
 *    whoever else might write into them (a child of the dead) cannot keep them for ever.
 * T4 Busy, it offers its processor after each round. A thread that has just been woken there, the control thread above
 *    all, would else wait for the next tick, up to 4 ms away: under a flood of pins from one process the 99th percentile of
 *    a change made each millisecond was 3 ms without, 0.2 to 2 ms with it, from run to run (what is left: it is woken on
 *    the processor of who floods), and pins were no slower (2 processors). */
#include "cursors_internal.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"

#define ENTRIES_A_TURN 64u
#define LOOKS_A_TURN 256u /* at rings in which there is nothing */
#define EXPIRED_A_ROUND 64u
#define EXPIRED_AT_CLOSE 65536u
#define ROUNDS_A_YIELD 64u
#define IDLE_NS 5000u /* without work, before it sleeps */

/* ---- the lock ---------------------------------------------------------------------------------------------- */

/* Control thread. T1 */
static void take(struct cursors *c)
{
	atomic_fetch_add_explicit(&c->wanted, 1, memory_order_relaxed);
	pthread_mutex_lock(&c->lock);
	atomic_fetch_sub_explicit(&c->wanted, 1, memory_order_relaxed);
}

static void give(struct cursors *c)
{
	pthread_mutex_unlock(&c->lock);
}

/* Cursor thread. */
static void take_turn(struct cursors *c)
{
	while (atomic_load_explicit(&c->wanted, memory_order_relaxed))
		sched_yield();
	pthread_mutex_lock(&c->lock);
}

/* ---- a round ----------------------------------------------------------------------------------------------- */

/* A client's turn: 64 entries at most, whichever of its rings they are in, so that many rings give nobody more than one. */
static bool serve_client(struct cursor_client *g, const struct cursor_desk *desk)
{
	uint32_t high = cursor_rings_high(&g->rings);
	unsigned left = ENTRIES_A_TURN;

	if (g->leaving && g->owed == 0) /* T3 */
		return false;
	for (unsigned looks = 0; looks < high && looks < LOOKS_A_TURN && left > 0; looks++) {
		unsigned done;

		if (g->next >= high)
			g->next = 0;
		done = cursor_ring_serve(&g->rings, g->next++, left, desk);
		left -= done < left ? done : left;
	}
	if (g->leaving)
		g->owed -= ENTRIES_A_TURN - left < g->owed ? ENTRIES_A_TURN - left : g->owed;
	return left < ENTRIES_A_TURN;
}

/* False when there was nothing to do. Who is let go meanwhile may make the round miss another one: the next one has it. */
static bool make_round(struct cursors *c)
{
	const struct cursor_desk desk = {.table = c->table, .ledger = c->place.ledger, .exists = c->exists};
	bool worked = false;

	for (uint32_t at = 0;; at++) {
		take_turn(c);
		if (at >= c->n_clients)
			break;
		if (serve_client(c->clients[at], &desk))
			worked = true;
		give(c);
	}
	if (cursor_table_expire(c->table, seg_clock_ms(CLOCK_BOOTTIME), EXPIRED_A_ROUND))
		worked = true;
	give(c);
	return worked;
}

bool cursors_any_pending(struct cursors *c)
{
	bool any = false;

	for (uint32_t at = 0; !any; at++) {
		take_turn(c);
		if (at >= c->n_clients) {
			give(c);
			return false;
		}
		any = cursor_client_pending(c->clients[at]);
		give(c);
	}
	return true;
}

static void *run(void *arg)
{
	struct cursors *c = arg;
	uint64_t idle_since_ns = 0, rounds = 0, passes = 1;

	while (!atomic_load_explicit(&c->stop, memory_order_acquire)) {
		atomic_store_explicit(&c->passes, ++passes, memory_order_relaxed);
		if (make_round(c)) {
			idle_since_ns = 0;
			sched_yield(); /* T4 */
			continue;
		}
		if (c->options.busy_poll) {
			if (++rounds % ROUNDS_A_YIELD == 0)
				sched_yield(); /* T4 */
			seg_relax();
			continue;
		}
		if (idle_since_ns == 0)
			idle_since_ns = seg_clock_ns(CLOCK_MONOTONIC);
		if (seg_clock_ns(CLOCK_MONOTONIC) - idle_since_ns < IDLE_NS) {
			seg_relax();
		} else {
			cursor_bells_sleep(c);
			idle_since_ns = 0;
		}
	}
	return NULL;
}

/* ---- who is attached --------------------------------------------------------------------------------------- */

bool cursor_client_pending(const struct cursor_client *g)
{
	if (g->leaving && g->owed == 0)
		return false;
	for (uint32_t i = 0, high = cursor_rings_high(&g->rings); i < high; i++)
		if (cursor_ring_pending(&g->rings, i))
			return true;
	return false;
}

void cursors_attach(struct cursors *c, const struct registry_rings *rings, int bell)
{
	struct cursor_client *g = &c->by_slot[rings->slot];

	take(c);
	*g = (struct cursor_client){.rings = {.file = rings->file,
					      .rings = rings->rings,
					      .acks = c->place.acks + rings->first_ack,
					      .n = rings->n,
					      .first_ack = rings->first_ack},
				    .at = c->n_clients,
				    .bell = -1};
	c->clients[c->n_clients++] = g;
	cursor_bells_put(c, g, bell);
	give(c);
	cursor_bells_wake(c);
}

void cursors_reattach(struct cursors *c, uint32_t slot, int bell)
{
	take(c);
	cursor_bells_put(c, &c->by_slot[slot], bell);
	give(c);
	cursor_bells_wake(c);
}

static void forget(struct cursors *c, struct cursor_client *g)
{
	cursor_bells_drop(c, g);
	c->clients[g->at] = c->clients[--c->n_clients];
	c->clients[g->at]->at = g->at;
	*g = (struct cursor_client){.bell = -1};
}

bool cursors_let_go(struct cursors *c, uint32_t slot)
{
	struct cursor_client *g = &c->by_slot[slot];
	bool gone;

	take(c);
	if (!g->leaving) {
		g->leaving = true;
		g->owed = (uint64_t)g->rings.n * SHM_RING_ENTRIES; /* T3 */
	}
	gone = g->rings.n == 0 || !cursor_client_pending(g);
	if (gone && g->rings.n)
		forget(c, g);
	give(c);
	/* Also when it is gone: another client has its place now, behind who is just looking before it falls asleep. */
	cursor_bells_wake(c);
	return gone;
}

/* ---- clusters ---------------------------------------------------------------------------------------------- */

void cursors_cluster_open(struct cursors *c, unsigned cluster)
{
	/* Before anybody can know of the cluster: who pins to it has seen it in the table, and pushes with release. */
	atomic_fetch_or_explicit(&c->exists[cluster / 64], 1ull << cluster % 64, memory_order_release);
}

uint32_t cursors_cluster_close(struct cursors *c, unsigned cluster)
{
	uint64_t now_ms = seg_clock_ms(CLOCK_BOOTTIME);
	uint32_t uses;

	take(c); /* T2 */
	uses = cursor_table_cluster_uses(c->table, (uint16_t)cluster);
	if (uses) { /* some of them may be over */
		cursor_table_expire(c->table, now_ms, EXPIRED_AT_CLOSE);
		uses = cursor_table_cluster_uses(c->table, (uint16_t)cluster);
	}
	if (!uses) /* a refusal changes nothing: nobody's pin is refused meanwhile */
		atomic_fetch_and_explicit(&c->exists[cluster / 64], ~(1ull << cluster % 64), memory_order_relaxed);
	give(c);
	return uses;
}

/* ---- start and end ----------------------------------------------------------------------------------------- */

enum refusal_code cursors_open(const struct table_shared *place, const struct cursors_options *options,
			       struct cursors **out, struct refusal *r)
{
	struct cursors *c = calloc(1, sizeof(*c));
	enum refusal_code code;

	*out = NULL;
	if (!c)
		return refuse(r, R_FULL, "no memory for the cursor thread: give the daemon more");
	c->place = *place;
	c->options = *options;
	c->started_ms = seg_clock_ms(CLOCK_MONOTONIC);
	c->wake_fd = c->epoll_fd = -1;
	for (uint32_t slot = 0; slot < SHM_LEDGER_ROWS; slot++)
		c->by_slot[slot].bell = -1;
	pthread_mutex_init(&c->lock, NULL);
	code = cursor_bells_open(c, r);
	if (code == R_DONE)
		code = cursor_table_open(place->instance, place->root, &options->table, seg_clock_ms(CLOCK_BOOTTIME),
					 &c->table, r);
	if (code != R_DONE) {
		cursors_close(&c);
		return code;
	}
	*out = c;
	return R_DONE;
}

/* P2 and P3 of cursor_rings.c. */
static void finish(struct cursors *c)
{
	uint64_t doing = atomic_load_explicit(&c->place.ledger->cursor_doing, memory_order_relaxed);
	const struct cursor_desk desk = {.table = c->table, .ledger = c->place.ledger, .exists = c->exists};

	for (uint32_t at = 0; doing && at < c->n_clients; at++) {
		const struct cursor_rings *s = &c->clients[at]->rings;

		if (doing - 1 < s->first_ack || doing - 1 - s->first_ack >= s->n)
			continue;
		cursor_ring_serve(s, (uint32_t)(doing - 1 - s->first_ack), SHM_RING_ENTRIES, &desk);
		cursor_ring_wake(s, (uint32_t)(doing - 1 - s->first_ack)); /* P3: all may be done but this */
	}
}

enum refusal_code cursors_run(struct cursors *c, struct refusal *r)
{
	pthread_attr_t how;
	sigset_t all, before;
	cpu_set_t cpus;
	int rc;

	atomic_store_explicit(&c->place.ledger->cursor_sleeping, 0, memory_order_release);
	CRASH_POINT(cursors_awake);
	finish(c);
	pthread_attr_init(&how);
	CPU_ZERO(&cpus);
	if (c->options.busy_poll && c->options.cpu >= 0) {
		CPU_SET((unsigned)c->options.cpu, &cpus);
		pthread_attr_setaffinity_np(&how, sizeof(cpus), &cpus);
	}
	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* of a ring that its owner cuts off (sigbus.c) */
	pthread_sigmask(SIG_BLOCK, &all, &before);
	atomic_store_explicit(&c->passes, 1, memory_order_relaxed); /* who is asked before its first one is alive */
	rc = pthread_create(&c->thread, &how, run, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&how);
	if (rc != 0 && c->options.cpu >= 0)
		return refuse(r, R_BACKEND, "--busy-poll=%d: the cursor thread cannot run there: %s", c->options.cpu,
			      strerror(rc));
	if (rc != 0)
		return refuse(r, R_BACKEND, "the cursor thread does not start: %s: raise the limit of threads",
			      strerror(rc));
	c->runs = true;
	pthread_setname_np(c->thread, "berthd-cursors");
	return R_DONE;
}

void cursors_close(struct cursors **cp)
{
	struct cursors *c = *cp;

	if (!c)
		return;
	if (c->runs) {
		atomic_store_explicit(&c->stop, true, memory_order_release);
		cursor_bells_wake(c);
		pthread_join(c->thread, NULL);
	}
	for (uint32_t at = 0; at < c->n_clients; at++)
		cursor_bells_drop(c, c->clients[at]);
	cursor_bells_close(c);
	cursor_table_close(&c->table);
	pthread_mutex_destroy(&c->lock);
	free(c);
	*cp = NULL;
}

static uint64_t load(const _Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

bool cursors_alive(struct cursors *c)
{
	uint64_t passes = atomic_load_explicit(&c->passes, memory_order_relaxed);
	bool alive = passes != c->passes_seen;

	c->passes_seen = passes;
	cursor_bells_wake(c);
	return alive;
}

void cursors_stats(const struct cursors *c, struct cursors_stats *to)
{
	const struct shm_cursors *f = cursor_table_map(c->table)->file;

	*to = (struct cursors_stats){
		.pins = load(&f->n_live),
		.capacity = f->capacity,
		.owner_share = load(&f->owner_share),
		.pinned = load(&f->n_pinned),
		.refreshed = load(&f->n_refreshed),
		.released = load(&f->n_released),
		.expired = load(&f->n_expired),
		.evicted = load(&f->n_evicted),
		.refused = load(&f->n_refused),
		.processes = c->n_clients,
		.sleeping = atomic_load_explicit(&c->place.ledger->cursor_sleeping, memory_order_relaxed) != 0,
		.busy_poll = c->options.busy_poll,
	};
}
