/* SPDX-License-Identifier: MIT
 * Migrations over admin.sock (moves.h). Each thread has a connection of its own; the history's changes and the list of
 * free partitions are under one lock. */
#include "moves.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESTART_MS 20000u /* how long a daemon may be gone */

static const char *const reasons[MOVE_REASON_N] = {
#define MOVE_ROW(e, name) [e] = name,
	MOVE_REASONS(MOVE_ROW)
#undef MOVE_ROW
};

static pthread_mutex_t changes_lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(struct history *h, const struct hist_change *change)
{
	pthread_mutex_lock(&changes_lock);
	*history_change(h) = *change;
	pthread_mutex_unlock(&changes_lock);
}

static json_t *cluster_of(unsigned number)
{
	char name[16];

	snprintf(name, sizeof(name), "c%u", number);
	return json_pack("{s:s,s:s}", "mode", "dedicated-cluster", "cluster", name);
}

static uint64_t number_of(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

void moves_place(const struct place *p, unsigned n_partitions, struct history *h)
{
	static struct rpc r;
	char name[LOAD_NAME];

	rpc_init(&r, p->dir);
	for (unsigned i = 0; i < n_partitions; i++) {
		uint16_t at = (uint16_t)(1 + i % p->n_clusters);
		struct hist_change change = {.partition = i, .what = HIST_SET, .at = at, .call_ns = load_now_ns()};
		json_t *answer =
			rpc_do(&r, "set",
			       json_pack("{s:s,s:o}", "partition", load_name(name, i), "placement", cluster_of(at)));
		change.answer_ns = load_now_ns();
		change.epoch = number_of(answer, "epoch");
		json_decref(answer);
		remember(h, &change);
	}
	rpc_close(&r);
}

/* ---- one step ---- */

/* The daemon is gone in the middle of a step: waits until it is back, then asks. True: the step was done, at *epoch. */
static bool ask_again(struct mover *m, uint64_t *epoch)
{
	char name[LOAD_NAME];
	json_t *answer;

	for (unsigned ms = 0; ms < RESTART_MS; ms += 5) {
		json_t *params = json_pack("{s:s}", "partition", load_name(name, m->partition));
		if (rpc_call(&m->rpc, "get", params, &answer) == RPC_OK) {
			*epoch = number_of(answer, "epoch");
			json_decref(answer);
			return *epoch != m->epoch;
		}
		json_decref(answer);
		usleep(5000);
	}
	place_fail("%s: berthd was not back within %u ms", load_name(name, m->partition), RESTART_MS);
}

static void note_pending(struct mover *m, const json_t *data)
{
	const char *reason = json_string_value(json_object_get(data, "reason"));
	const json_t *pids = json_object_get(data, "pids");

	for (unsigned i = 0; i < MOVE_REASON_N; i++)
		if (reason && strcmp(reason, reasons[i]) == 0)
			m->move.reasons |= 1u << i;
	for (m->move.n_pids = 0; m->move.n_pids < 4 && m->move.n_pids < json_array_size(pids); m->move.n_pids++)
		m->move.pids[m->move.n_pids] = (uint32_t)json_integer_value(json_array_get(pids, m->move.n_pids));
	if (reason && strcmp(reason, reasons[MOVE_READER_DIED]) == 0 && m->move.n_pids)
		m->move.died_pid = m->move.pids[0];
}

/* params: a new reference, is kept for repeating. True: done, and remembered; false: the barrier stands. */
static bool step(struct mover *m, const char *method, json_t *params, struct hist_change change)
{
	char name[LOAD_NAME];
	json_t *answer = NULL;
	bool done = false, pending = false;

	json_object_set_new(params, "partition", json_string(load_name(name, m->partition)));
	change.partition = m->partition;
	change.call_ns = load_now_ns();
	while (!done && !pending) {
		const json_t *data;
		switch (rpc_call(&m->rpc, method, json_incref(params), &answer)) {
		case RPC_OK:
			change.epoch = number_of(answer, "epoch");
			m->move.told_ms = number_of(answer, "blackout_ms");
			done = true;
			break;
		case RPC_REFUSED:
			data = json_object_get(answer, "data");
			if (strcmp(json_string_value(json_object_get(data, "code")), "barrier-pending") != 0)
				place_fail("%s of %s was refused: %s", method, name,
					   json_string_value(json_object_get(answer, "message")));
			note_pending(m, data);
			pending = true;
			break;
		case RPC_LOST:
			done = ask_again(m, &change.epoch);
		}
		json_decref(answer);
	}
	json_decref(params);
	if (done) {
		change.answer_ns = load_now_ns();
		m->epoch = change.epoch;
		remember(m->h, &change);
	}
	return done;
}

void mover_open(struct mover *m, const struct place *p, struct history *h, uint32_t partition)
{
	char name[LOAD_NAME];
	json_t *answer;
	const char *at;

	rpc_init(&m->rpc, p->dir);
	m->place = p;
	m->h = h;
	m->partition = partition;
	m->move = (struct move){.partition = partition};
	m->epoch = 0;
	while (rpc_call(&m->rpc, "get", json_pack("{s:s}", "partition", load_name(name, partition)), &answer) !=
	       RPC_OK) {
		uint64_t epoch;
		json_decref(answer);
		ask_again(m, &epoch);
	}
	m->epoch = number_of(answer, "epoch");
	at = json_string_value(json_object_get(json_object_get(json_object_get(answer, "state"), "at"), "cluster"));
	m->at = (uint16_t)(at ? strtoul(at + 1, NULL, 10) : 0);
	json_decref(answer);
}

void mover_close(struct mover *m)
{
	rpc_close(&m->rpc);
}

void mover_begin(struct mover *m, uint16_t to)
{
	m->to = to;
	step(m, "begin", json_pack("{s:o}", "to", cluster_of(to)),
	     (struct hist_change){.what = HIST_BEGIN, .at = m->at});
}

void mover_cutover(struct mover *m)
{
	m->cutover_ns = load_now_ns();
	step(m, "cutover", json_object(), (struct hist_change){.what = HIST_CUTOVER, .at = m->at});
}

bool mover_complete(struct mover *m, unsigned wait_ms)
{
	if (!step(m, "complete", json_pack("{s:i}", "wait_ms", (int)wait_ms),
		  (struct hist_change){.what = HIST_COMPLETE, .at = m->to}))
		return false;
	m->at = m->to;
	m->move.held_ns = load_now_ns() - m->cutover_ns;
	return true;
}

void mover_abort(struct mover *m)
{
	step(m, "abort", json_object(), (struct hist_change){.what = HIST_ABORT, .at = m->at});
	m->move.undone = true;
	m->move.held_ns = load_now_ns() - m->cutover_ns;
}

/* ---- many ---- */

struct moves {
	struct moves_options options;
	struct history *h;
	pthread_t thread[32];
	pthread_mutex_t lock;
	uint64_t random; /* under the lock, as all below */
	bool moving[LOAD_PARTITIONS];
	unsigned n_begun;
	struct move *move;
	_Atomic unsigned n_done;
};

static unsigned below(struct moves *m, unsigned n)
{
	uint64_t x = m->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	m->random = x;
	return n ? (unsigned)((x >> 11) % n) : 0;
}

struct plan {
	uint32_t partition;
	unsigned to_offset;
	bool undone;
	unsigned draining_us, undo_us, pause_us;
};

/* The next migration; false: there are enough. */
static bool next(struct moves *m, struct plan *plan)
{
	const struct moves_options *o = &m->options;
	bool any;

	pthread_mutex_lock(&m->lock);
	any = m->n_begun < o->n_moves;
	if (any) {
		m->n_begun++;
		do
			plan->partition = below(m, o->n_partitions);
		while (m->moving[plan->partition]);
		m->moving[plan->partition] = true;
		plan->to_offset = 1 + below(m, o->place->n_clusters - 1);
		plan->undone = below(m, 100) < o->undone_percent;
		plan->draining_us = below(m, o->draining_ms * 1000 + 1);
		plan->undo_us = below(m, 5000);
		plan->pause_us = below(m, o->pause_ms * 1000 + 1);
	}
	pthread_mutex_unlock(&m->lock);
	return any;
}

static void one(struct moves *m, const struct plan *plan)
{
	const struct moves_options *o = &m->options;
	struct mover *v = malloc(sizeof(*v));

	if (!v)
		place_fail("out of memory");
	if (o->load)
		load_heat(o->load, plan->partition, true);
	mover_open(v, o->place, m->h, plan->partition);
	mover_begin(v, (uint16_t)(1 + (v->at - 1 + plan->to_offset) % o->place->n_clusters));
	usleep(plan->draining_us);
	mover_cutover(v);
	if (plan->undone) {
		usleep(plan->undo_us);
		mover_abort(v);
	} else {
		while (!mover_complete(v, o->wait_ms))
			;
	}
	mover_close(v);
	if (o->load)
		load_heat(o->load, plan->partition, false);
	pthread_mutex_lock(&m->lock);
	m->moving[plan->partition] = false;
	m->move[m->n_done++] = v->move;
	pthread_mutex_unlock(&m->lock);
	free(v);
	usleep(plan->pause_us);
}

static void *run(void *arg)
{
	struct moves *m = arg;
	struct plan plan;

	while (next(m, &plan))
		one(m, &plan);
	return NULL;
}

struct moves *moves_start(const struct moves_options *o, struct history *h)
{
	struct moves *m = calloc(1, sizeof(*m));

	if (m)
		m->move = calloc(o->n_moves + 1, sizeof(*m->move));
	if (!m || !m->move)
		place_fail("out of memory");
	m->options = *o;
	if (m->options.n_threads > 32)
		m->options.n_threads = 32;
	m->h = h;
	m->random = o->seed | 1;
	pthread_mutex_init(&m->lock, NULL);
	for (unsigned i = 0; i < m->options.n_threads; i++)
		if (pthread_create(&m->thread[i], NULL, run, m) != 0)
			place_fail("cannot start a thread");
	return m;
}

unsigned moves_done(struct moves *m)
{
	return atomic_load(&m->n_done);
}

size_t moves_wait(struct moves **moves, struct move **out)
{
	struct moves *m = *moves;
	size_t n;

	for (unsigned i = 0; i < m->options.n_threads; i++)
		pthread_join(m->thread[i], NULL);
	pthread_mutex_destroy(&m->lock);
	n = m->n_done;
	*out = m->move;
	free(m);
	*moves = NULL;
	return n;
}

static int by_held(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

double moves_held_ms(const struct move *move, size_t n, unsigned percent)
{
	uint64_t *held = calloc(n + 1, sizeof(*held));
	size_t k = 0;
	double ms;

	for (size_t i = 0; held && i < n; i++)
		if (!move[i].undone)
			held[k++] = move[i].held_ns;
	if (k)
		qsort(held, k, sizeof(*held), by_held);
	ms = k ? (double)held[percent >= 100 ? k - 1 : (k - 1) * percent / 100] / 1e6 : 0;
	free(held);
	return ms;
}
