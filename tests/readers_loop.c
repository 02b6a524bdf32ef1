/* SPDX-License-Identifier: MIT
 * readers_loop.h. A round: single routes with a write gate each, one bulk, one section of look-ups whose strings are
 * compared again at its end. Must not use cmocka: there is nobody to catch a failed assertion in this process. */
#include "readers_loop.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SINGLES 32
#define BULK 32
#define HELD 8
#define MAINTAIN_ROUNDS 32

struct seen {
	uint64_t epoch;
	uint32_t digest; /* cluster, kind, phase of that epoch */
};

struct looker {
	const struct readers_options *options;
	struct readers_shared *s;
	struct reader_report *report;
	struct berth *b;
	struct berth_reader *r;
	struct seen *seen;
	uint64_t random;
};

struct before { /* loaded before a call */
	uint64_t floor;
	uint32_t presence;
};

__attribute__((format(printf, 3, 4))) static void complain(struct looker *me, _Atomic uint64_t *counter,
							   const char *format, ...)
{
	va_list args;

	if (atomic_load(&me->report->failed) + atomic_load(&me->report->wrong) == 0) {
		va_start(args, format);
		vsnprintf(me->report->first, sizeof me->report->first, format, args);
		va_end(args);
	}
	atomic_fetch_add(counter, 1);
}
#define WRONG(me, ...) complain(me, &(me)->report->wrong, __VA_ARGS__)
#define FAILED(me, ...) complain(me, &(me)->report->failed, __VA_ARGS__)

static void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static uint32_t pick(struct looker *me)
{
	uint32_t n = atomic_load_explicit(&me->s->n_keys, memory_order_acquire);
	uint32_t hot = atomic_load_explicit(&me->s->n_hot, memory_order_acquire);
	uint64_t random = mp_random(&me->random);

	if (hot && random >> 63)
		return atomic_load_explicit(&me->s->hot[(uint32_t)random % hot], memory_order_relaxed);
	return (uint32_t)random % n;
}

static struct before look_before(const struct looker *me, uint32_t i)
{
	const struct shown *shown = &me->s->shown[i];
	struct before b;

	b.presence = atomic_load_explicit(&shown->presence, memory_order_acquire);
	b.floor = atomic_load_explicit(&shown->floor, memory_order_acquire);
	return b;
}

/* One answer. digest: cluster, kind and phase. */
static void judge(struct looker *me, const char *by, uint32_t i, const struct before *b, int rc, uint64_t epoch,
		  uint32_t digest, bool is_default)
{
	struct seen *seen = &me->seen[i];
	bool stands;

	atomic_thread_fence(memory_order_acquire); /* the call before this load */
	stands = atomic_load_explicit(&me->s->shown[i].presence, memory_order_relaxed) == b->presence;
	if (rc == BERTH_E_UNKNOWN) {
		if (stands && (b->presence & 3u) == PRESENT)
			FAILED(me, "%s: partition %u is not found", by, i);
		return;
	}
	if (rc != BERTH_OK) {
		FAILED(me, "%s: partition %u: %s", by, i, berth_strerror(rc));
		return;
	}
	if (stands && (b->presence & 3u) == ABSENT)
		WRONG(me, "%s: partition %u was removed, and is found with epoch %llu", by, i,
		      (unsigned long long)epoch);
	if (epoch < b->floor)
		WRONG(me, "%s: partition %u: epoch %llu, but %llu was acknowledged before", by, i,
		      (unsigned long long)epoch, (unsigned long long)b->floor);
	if (epoch == 0 || epoch < seen->epoch)
		WRONG(me, "%s: partition %u: epoch %llu after %llu", by, i, (unsigned long long)epoch,
		      (unsigned long long)seen->epoch);
	if (epoch == seen->epoch && digest != seen->digest)
		WRONG(me, "%s: partition %u: epoch %llu is both %x and %x", by, i, (unsigned long long)epoch,
		      seen->digest, digest);
	if (is_default || (digest >> 8 & 0xffu) != readers_kind(i))
		WRONG(me, "%s: partition %u answers as kind %u%s", by, i, digest >> 8 & 0xffu,
		      is_default ? ", default" : "");
	seen->epoch = epoch;
	seen->digest = digest;
}

static uint32_t digest_of(unsigned cluster, unsigned kind, unsigned phase)
{
	return cluster << 16 | kind << 8 | phase;
}

/* ---- single calls ------------------------------------------------------------------------------------------ */

static int ask_gate(struct looker *me, uint32_t i, const char *key, size_t len, uint64_t epoch)
{
	struct before b = look_before(me, i);
	int rc = berth_admit(me->r, key, len, epoch);

	switch (rc) {
	case BERTH_OK:
		if (epoch < b.floor)
			WRONG(me, "admit: partition %u at epoch %llu, but %llu was acknowledged before", i,
			      (unsigned long long)epoch, (unsigned long long)b.floor);
		count(&me->report->admitted);
		break;
	case BERTH_E_STALE:
	case BERTH_E_UNKNOWN:
		count(&me->report->stale);
		break;
	case BERTH_E_CUTOVER:
		count(&me->report->held_back);
		break;
	case BERTH_E_WRITER_DOWN:
		if (me->options->no_writer)
			break;
		/* fall through */
	default:
		FAILED(me, "admit: partition %u: %s", i, berth_strerror(rc));
	}
	return rc;
}

static void route_one(struct looker *me)
{
	uint32_t i = pick(me);
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, i);
	struct berth_route at = {0};
	uint64_t old = me->seen[i].epoch;
	struct before b = look_before(me, i);
	int rc = berth_route(me->r, key, len, &at);

	count(&me->report->routes);
	judge(me, "route", i, &b, rc, at.epoch, digest_of(at.cluster, at.kind, at.phase), at.is_default);
	if (rc == BERTH_OK && ask_gate(me, i, key, len, at.epoch) == BERTH_OK && at.phase == BERTH_CUTOVER)
		WRONG(me, "INV-M1: partition %u is admitted in cutover, epoch %llu", i, (unsigned long long)at.epoch);
	if (old && old != at.epoch)
		ask_gate(me, i, key, len, old);
}

static void route_bulk(struct looker *me)
{
	static char names[BULK][READERS_KEY_SIZE];
	struct berth_key keys[BULK];
	struct berth_route at[BULK];
	struct before b[BULK];
	uint32_t i[BULK];
	int status[BULK], rc;

	for (unsigned n = 0; n < BULK; n++) {
		i[n] = pick(me);
		keys[n].key = names[n];
		keys[n].len = readers_key(names[n], i[n]);
		b[n] = look_before(me, i[n]);
	}
	rc = berth_route_bulk(me->r, keys, BULK, at, status);
	if (rc != BERTH_OK) {
		FAILED(me, "route_bulk: %s", berth_strerror(rc));
		return;
	}
	count(&me->report->bulks);
	for (unsigned n = 0; n < BULK; n++)
		judge(me, "route_bulk", i[n], &b[n], status[n], at[n].epoch,
		      digest_of(at[n].cluster, at[n].kind, at[n].phase), at[n].is_default);
}

/* ---- sections ---------------------------------------------------------------------------------------------- */

struct held {
	const char *string;
	char copy[READERS_KEY_SIZE];
	size_t len;
};

static bool index_fits(const char *index, uint32_t i, const char *cluster)
{
	char want[READERS_KEY_SIZE];
	int n = snprintf(want, sizeof want, "t%u-%s-v", i, cluster);

	return strncmp(index, want, (size_t)n) == 0 && index[n] != '\0' &&
	       strspn(index + n, "0123456789") == strlen(index + n);
}

/* Does the placement belong to this partition and this cluster, all of it? */
static void check_placement(struct looker *me, uint32_t i, unsigned cluster, uint8_t kind, const char *index,
			    size_t index_len)
{
	struct berth_cluster c;
	int rc = berth_cluster(me->r, (uint16_t)cluster, &c);

	if (rc != BERTH_OK) {
		FAILED(me, "cluster %u of partition %u: %s", cluster, i, berth_strerror(rc));
		return;
	}
	if (strlen(c.id) != c.id_len || strlen(index) != index_len)
		WRONG(me, "partition %u: strings `%.60s`, `%.60s` are not as long as they say", i, c.id, index);
	if (kind == BERTH_DEDICATED_CLUSTER ? *index != '\0' : !index_fits(index, i, c.id))
		WRONG(me, "partition %u on %s (kind %u) has index `%.60s`", i, c.id, kind, index);
}

static void check_inject(struct looker *me, uint32_t i, const struct berth_placement *p)
{
	struct berth_inject tenant, mark;

	if (p->kind != BERTH_SHARED_INDEX) {
		if (p->n_inject != 0)
			WRONG(me, "partition %u of kind %u injects %u fields", i, p->kind, p->n_inject);
		return;
	}
	if (p->n_inject != 2 || berth_inject(p, 0, &tenant) != BERTH_OK || berth_inject(p, 1, &mark) != BERTH_OK) {
		WRONG(me, "partition %u injects %u fields, and should 2", i, p->n_inject);
		return;
	}
	if (tenant.kind != BERTH_INJECT_PARTITION || strcmp(tenant.field, "_tenant") != 0 ||
	    mark.kind != BERTH_INJECT_CONSTANT || strcmp(mark.field, "mark") != 0 || strcmp(mark.value, p->index) != 0)
		WRONG(me, "partition %u with index `%.60s` injects `%.40s`=`%.60s`", i, p->index, mark.field,
		      mark.value);
}

static void hold(struct held *h, const char *string)
{
	h->string = string;
	h->len = strlen(string);
	if (h->len >= sizeof h->copy)
		h->len = sizeof h->copy - 1;
	memcpy(h->copy, string, h->len + 1);
}

static void look_up_some(struct looker *me)
{
	struct held held[HELD];
	unsigned n_held = 0;
	struct berth_placement p;

	berth_read_begin(me->r);
	for (unsigned n = 0; n < HELD; n++) {
		uint32_t i = pick(me);
		char key[READERS_KEY_SIZE];
		size_t len = readers_key(key, i);
		struct before b = look_before(me, i);
		int rc;

		memset(&p, 0, sizeof p);
		rc = berth_lookup(me->r, key, len, &p);
		count(&me->report->lookups);
		judge(me, "lookup", i, &b, rc, p.epoch, digest_of(p.cluster, p.kind, p.phase), p.is_default);
		if (rc != BERTH_OK)
			continue;
		check_placement(me, i, p.cluster, p.kind, p.index, p.index_len);
		check_inject(me, i, &p);
		if (p.phase != BERTH_SETTLED)
			check_placement(me, i, p.to_cluster, p.to_kind, p.to_index, p.to_index_len);
		else if (p.to_kind != 0 || p.to_cluster != 0)
			WRONG(me, "partition %u is settled, and moves to cluster %u", i, p.to_cluster);
		if (!me->options->no_writer)
			hold(&held[n_held++], p.index);
	}
	for (unsigned n = 0; n < n_held; n++)
		if (memcmp(held[n].string, held[n].copy, held[n].len + 1) != 0)
			WRONG(me, "`%s` became `%.*s` within the section", held[n].copy, (int)held[n].len,
			      held[n].string);
	berth_read_end(me->r);
}

/* ---- the process ------------------------------------------------------------------------------------------- */

int readers_loop(const struct readers *rs, unsigned number)
{
	struct berth_attach_options options = {.size = sizeof options,
					       .wait_ms = rs->options.no_writer ? BERTH_NO_WAIT : 10000};
	struct looker me = {
		.options = &rs->options, .s = rs->s, .report = &rs->s->report[number], .random = number * 7919u + 1};
	bool maintains = rs->options.upkeep == ALL_MAINTAIN || (rs->options.upkeep == SOME_MAINTAIN && number % 2 == 0);
	int rc = berth_attach(rs->dir, &options, &me.b);

	me.seen = calloc(rs->options.max_keys, sizeof *me.seen);
	if (rc == BERTH_OK)
		rc = berth_reader_open(me.b, &me.r);
	if (rc != BERTH_OK || !me.seen) {
		FAILED(&me, "attach: %s", berth_strerror(rc));
		return 1;
	}
	if (rs->options.prepare)
		rs->options.prepare();
	atomic_store(&me.report->running, 1);
	for (uint64_t round = 1; atomic_load_explicit(&me.s->stop, memory_order_relaxed) == 0; round++) {
		for (unsigned n = 0; n < SINGLES; n++)
			route_one(&me);
		route_bulk(&me);
		look_up_some(&me);
		if (maintains && round % MAINTAIN_ROUNDS == 0)
			berth_maintain(me.b);
		atomic_store_explicit(&me.report->rounds, round, memory_order_release);
	}
	berth_reader_close(&me.r);
	rc = berth_detach(&me.b);
	if (rc != BERTH_OK)
		FAILED(&me, "detach: %s", berth_strerror(rc));
	free(me.seen);
	return 0;
}
