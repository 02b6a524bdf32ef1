/* SPDX-License-Identifier: MIT
 * torture.h: a thread of a process. Begins writes, one by one and in bulk, holds them for a while or hands them to
 * another thread, ends them, reads in between; closes its reader over open leases now and then. Must not use cmocka. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "torture.h"
#include "torture_ambush.h"

#define BULK 64u
#define BURST 3000u

bool t_read_only(const struct t_own *own)
{
	return own->number >= T_READ_ONLY;
}

void t_count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}
#define COUNT(lane, name) t_count(&(lane)->own->p->counts.name)

static uint64_t random_of(struct t_lane *l, uint64_t below)
{
	return mp_random(&l->random) % below;
}

static uint32_t weather(const _Atomic uint32_t *what)
{
	return atomic_load_explicit(what, memory_order_relaxed);
}

/* Opening never waits: while another thread of the process, stopped in the middle, takes over the same attachment, the
 * first calls of a new reader are answered AGAIN. */
static void await_reader(struct t_lane *l)
{
	char key[READERS_KEY_SIZE];
	size_t len = t_key(key, 0);
	struct berth_route at;

	for (unsigned i = 0; berth_route(l->r, key, len, &at) == BERTH_E_AGAIN; i++) {
		if (i == 0)
			COUNT(l, late_readers);
		if (i == 5000) {
			t_wrong("a new reader is told to try again for %u ms", i);
			return;
		}
		mp_pause();
	}
}

void t_open_reader(struct t_lane *l)
{
	int rc = berth_reader_open(l->own->b, &l->r);

	if (rc != BERTH_OK)
		t_wrong("a reader cannot be opened: %s", berth_strerror(rc));
	else
		await_reader(l);
}

/* ---- ends -------------------------------------------------------------------------------------------------- */

static void end_one(struct t_lane *l, struct t_held *h)
{
	uint32_t permille = weather(&t_shared->weather.unknown_permille) / (h->partition % 4 ? 8 : 1);
	bool unknown = random_of(l, 1000) < permille;
	uint64_t land = unknown ? mp_now_ms() + (random_of(l, 2) ? T_BARRIER_MS : random_of(l, T_BARRIER_MS)) : 0;
	int rc;

	t_ends(h->record, &h->w, land);
	if (l->number < T_THREADS && random_of(l, unknown ? 8 : 200) == 0)
		ambush_within(&l->random, unknown ? 400 : 60);
	rc = berth_write_end(l->r, &h->w, unknown ? BERTH_UNKNOWN : BERTH_DONE);
	if (rc != BERTH_OK)
		t_wrong("the end of a write is answered %s", berth_strerror(rc));
	if (random_of(l, 16) == 0 && (rc = berth_write_end(l->r, &h->w, BERTH_DONE)) != BERTH_E_INVAL)
		t_wrong("the second end of a write is answered %s", berth_strerror(rc));
	if (unknown)
		COUNT(l, ended_unknown);
	else
		COUNT(l, ended_done);
}

void t_end_all(struct t_lane *ender, struct t_lane *of)
{
	while (of->n_held > 0)
		end_one(ender, &of->held[--of->n_held]);
}

static bool pop(struct t_lane *l, struct t_held *h)
{
	struct t_queue *q = &l->own->queue;
	bool any;

	pthread_mutex_lock(&q->lock);
	any = q->n > 0;
	if (any) {
		*h = q->held[0];
		memmove(q->held, q->held + 1, --q->n * sizeof q->held[0]);
	}
	pthread_mutex_unlock(&q->lock);
	return any;
}

static bool push(struct t_lane *l, const struct t_held *h)
{
	struct t_queue *q = &l->own->queue;
	bool room;

	pthread_mutex_lock(&q->lock);
	room = q->n < T_QUEUE;
	if (room)
		q->held[q->n++] = *h;
	pthread_mutex_unlock(&q->lock);
	return room;
}

void t_end_queue(struct t_lane *ender)
{
	struct t_held h;

	while (pop(ender, &h)) {
		end_one(ender, &h);
		COUNT(ender, ended_by_others);
	}
}

static void end_due(struct t_lane *l)
{
	uint64_t now = mp_now_ms();
	struct t_held h;

	for (unsigned looks = l->n_held < 256 ? l->n_held : 256; looks > 0 && l->n_held > 0; looks--) {
		l->at = (l->at + 1) % l->n_held;
		if (l->held[l->at].due_ms <= now) {
			end_one(l, &l->held[l->at]);
			l->held[l->at] = l->held[--l->n_held];
		}
	}
	while (l->n_held < T_HELD && random_of(l, 16) && pop(l, &h)) {
		COUNT(l, ended_by_others);
		if (h.due_ms <= now)
			end_one(l, &h);
		else
			l->held[l->n_held++] = h;
	}
}

/* ---- begins ------------------------------------------------------------------------------------------------ */

static void hold(struct t_lane *l, unsigned partition, const struct berth_write *w)
{
	uint32_t most = weather(&t_shared->weather.hold_ms) + 1;
	struct t_held h = {.w = *w, .partition = partition};

	COUNT(l, begun);
	h.record = t_travels(l->own->p, l->number, partition, w);
	if (random_of(l, 3))
		most = most / 8 + 1;
	h.due_ms = mp_now_ms() + random_of(l, most);
	if (random_of(l, 4) == 0 && push(l, &h))
		COUNT(l, handed_over);
	else
		l->held[l->n_held++] = h;
}

/* The registration reaches a reader at one of its next calls. */
static bool is_registered(struct t_lane *l)
{
	return atomic_load(&l->own->registered) && l->n_down > 1000;
}

static void count_answer(struct t_lane *l, int rc, bool exact)
{
	l->n_down = rc == BERTH_E_WRITER_DOWN && atomic_load(&l->own->registered) ? l->n_down + 1 : 0;
	if (rc == BERTH_E_STALE)
		COUNT(l, stale);
	else if (rc == BERTH_E_CUTOVER)
		COUNT(l, held_back);
	else if (rc == BERTH_E_AGAIN)
		COUNT(l, again);
	else if (rc == BERTH_E_WRITER_DOWN)
		COUNT(l, writer_down);
	if (exact)
		COUNT(l, exact);
}

static uint64_t epoch_to_ask(struct t_lane *l, unsigned partition)
{
	uint64_t dice = random_of(l, 10);

	return dice < 5 ? 0 : l->last[partition] - (dice == 9 && l->last[partition] > 1);
}

void t_begin_one(struct t_lane *l)
{
	unsigned partition = (unsigned)random_of(l, T_PARTITIONS);
	uint64_t asked = epoch_to_ask(l, partition);
	bool registered = is_registered(l), sure;
	struct berth_write w = {0};
	char key[READERS_KEY_SIZE];
	size_t len = t_key(key, partition);
	struct t_view v;
	int rc;

	if (l->n_held == T_HELD || !t_room(l->own->p, l->number, 1))
		return;
	v = t_look(partition);
	if (!l->bursting && l->number < T_THREADS && random_of(l, 48) == 0)
		ambush_within(&l->random, 400);
	rc = berth_write_begin(l->r, key, len, asked, &w);
	sure = t_still(partition, &v);
	if (rc == BERTH_OK)
		hold(l, partition, &w);
	t_judge_begin(partition, &v, sure, asked, rc, &w, registered);
	count_answer(l, rc, sure && v.number % 2 == 0);
}

struct bulk {
	struct berth_key keys[BULK];
	struct berth_write w[BULK];
	struct t_view views[BULK];
	uint64_t asked[BULK];
	unsigned partitions[BULK];
	char names[T_PARTITIONS][READERS_KEY_SIZE];
	int status[BULK];
	bool sure[BULK];
};

static void judge_item(struct t_lane *l, struct bulk *k, unsigned i, bool registered)
{
	if (k->status[i] == BERTH_OK)
		hold(l, k->partitions[i], &k->w[i]);
	else if (k->w[i].opaque[0] || k->w[i].opaque[1] || k->w[i].epoch)
		t_wrong("item %u of a bulk, refused with %s, is filled", i, berth_strerror(k->status[i]));
	t_judge_begin(k->partitions[i], &k->views[i], k->sure[i], k->asked[i], k->status[i], &k->w[i], registered);
	count_answer(l, k->status[i], k->sure[i] && k->views[i].number % 2 == 0);
}

static void begin_bulk(struct t_lane *l)
{
	unsigned n = 2 + (unsigned)random_of(l, BULK - 1), of = 1 + (unsigned)random_of(l, T_PARTITIONS);
	bool registered = is_registered(l), present = random_of(l, 2);
	struct bulk k;
	int rc;

	if (l->n_held + n > T_HELD || !t_room(l->own->p, l->number, n))
		return;
	for (unsigned i = 0; i < n; i++) {
		unsigned p = k.partitions[i] = (unsigned)random_of(l, of);

		k.keys[i] = (struct berth_key){k.names[p], t_key(k.names[p], p)};
		k.asked[i] = present ? 0 : epoch_to_ask(l, p);
		k.views[i] = t_look(p);
	}
	memset(k.w, 0xff, sizeof k.w);
	rc = berth_write_begin_bulk(l->r, k.keys, present ? NULL : k.asked, n, k.w, k.status);
	for (unsigned i = 0; i < n; i++)
		k.sure[i] = t_still(k.partitions[i], &k.views[i]);
	for (unsigned i = 0; i < n; i++) {
		if (rc == BERTH_OK) {
			judge_item(l, &k, i, registered);
		} else if (k.status[i] != rc) {
			t_wrong("a bulk is answered %s, its item %u %s", berth_strerror(rc), i,
				berth_strerror(k.status[i]));
		}
	}
	if (rc != BERTH_OK && rc != BERTH_E_AGAIN && (rc != BERTH_E_WRITER_DOWN || registered))
		t_wrong("a bulk is answered %s", berth_strerror(rc));
	COUNT(l, bulks);
}

static void burst(struct t_lane *l)
{
	l->bursting = true;
	for (unsigned i = 0; i < BURST && l->n_held < T_HELD; i++)
		t_begin_one(l);
	l->bursting = false;
	COUNT(l, bursts);
}

/* ---- reads ------------------------------------------------------------------------------------------------- */

static int look_up(struct t_lane *l, const char *key, size_t len, struct t_answer *a)
{
	struct berth_placement p;
	char want[32];
	int rc;

	berth_read_begin(l->r);
	rc = berth_lookup(l->r, key, len, &p);
	if (rc == BERTH_OK) {
		*a = (struct t_answer){.epoch = p.epoch, .cluster = p.cluster, .phase = p.phase};
		snprintf(want, sizeof want, "on-%u", p.cluster);
		if (strcmp(p.index, want) != 0)
			t_wrong("INV-M4: %.20s is on cluster %u with index %.40s", key, p.cluster, p.index);
		snprintf(want, sizeof want, "on-%u", p.to_cluster);
		if (p.phase == BERTH_SETTLED ? p.to_kind != 0 : strcmp(p.to_index, want) != 0)
			t_wrong("INV-M4: %.20s moves to cluster %u with index %.40s", key, p.to_cluster, p.to_index);
	}
	berth_read_end(l->r);
	return rc;
}

static void read_one(struct t_lane *l)
{
	unsigned partition = (unsigned)random_of(l, T_PARTITIONS);
	char key[READERS_KEY_SIZE];
	size_t len = t_key(key, partition);
	struct t_view v = t_look(partition);
	struct t_answer a = {0};
	struct berth_route at;
	int rc;

	if (random_of(l, 64) == 0)
		ambush_within(&l->random, 300);
	if (random_of(l, 4) == 0) {
		rc = look_up(l, key, len, &a);
	} else {
		rc = berth_route(l->r, key, len, &at);
		if (rc == BERTH_OK)
			a = (struct t_answer){.epoch = at.epoch, .cluster = at.cluster, .phase = at.phase};
	}
	if (rc != BERTH_OK)
		t_wrong("INV-M4: a read of partition %u is answered %s", partition, berth_strerror(rc));
	else
		t_judge_read(partition, &v, t_still(partition, &v), &a, &l->last[partition]);
	COUNT(l, reads);
}

/* ---- the thread -------------------------------------------------------------------------------------------- */

static void nap(struct t_lane *l)
{
	struct timespec t = {.tv_nsec = (long)random_of(l, weather(&t_shared->weather.pace_us) + 1) * 1000};

	nanosleep(&t, NULL);
}

static void write_some(struct t_lane *l)
{
	uint64_t dice = random_of(l, 1000);

	if (dice < 150)
		begin_bulk(l);
	else
		t_begin_one(l);
	if (dice >= 995 && l->number == 0 && l->own->number < 2 && weather(&t_shared->weather.burst))
		burst(l);
	if (dice == 500 || dice == 501) {
		if (l->n_held > 0)
			COUNT(l, closed_over_leases);
		berth_reader_close(&l->r);
		t_open_reader(l);
	}
}

static void step(struct t_lane *l)
{
	bool quiet = atomic_load(&t_shared->quiet);
	struct berth_write w = {0};

	read_one(l);
	t_read_document(l);
	if (t_pins(l->own))
		t_pin_step(l);
	if (t_read_only(l->own)) {
		int rc = berth_write_begin(l->r, "p1", 2, 0, &w);

		if (rc != BERTH_E_INVAL)
			t_wrong("begin in a process that only reads is answered %s", berth_strerror(rc));
	} else if (quiet) {
		t_end_all(l, l);
		t_end_queue(l);
	} else {
		end_due(l);
		write_some(l);
		read_one(l);
	}
	atomic_store(&l->idle, quiet);
}

void *t_thread(void *lane)
{
	struct t_lane *l = lane;
	struct t_own *own = l->own;

	t_pins_given_up(own->p, l->number);
	t_open_reader(l);
	while (!atomic_load(&own->over) && l->r) {
		step(l);
		nap(l);
		if (!atomic_load(&own->pause))
			continue;
		berth_reader_close(&l->r);
		atomic_fetch_add(&own->n_paused, 1);
		while (atomic_load(&own->pause))
			mp_pause();
		t_open_reader(l);
		atomic_fetch_sub(&own->n_paused, 1);
	}
	berth_reader_close(&l->r);
	return NULL;
}
