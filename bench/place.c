/* SPDX-License-Identifier: MIT
 * Instances for measuring calls of libberth, kept for the workloads that share them, and the measuring: place.h. Called
 * by the workloads. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "place.h"

#define WARM_UP (1u << 16)
#define CACHED_KEYS (1u << 20) /* as many partitions may well lie in a cache */
#define LARGE 5000000u

static struct place *places[PLACES_MAX];

/* ---- instances ----------------------------------------------------------------------------------------------- */

static void attach(const struct place *p, uint32_t writes, struct berth **berth, struct berth_reader **r)
{
	struct berth_attach_options options = {.size = sizeof(options), .writes = writes};
	int rc = berth_attach(p->d.dir, &options, berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(*berth, r);
	if (rc == BERTH_OK)
		rc = berth_maintain(*berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", p->d.dir, berth_strerror(rc));
}

static void make(const struct bench *b, struct place *p, const char *name, uint32_t n, unsigned flags)
{
	struct daemon_how how = {.cpu = CPU_DAEMON, .small_pages = flags & PLACE_SMALL_PAGES};
	char full[48];
	int document;

	*p = (struct place){.n = n, .flags = flags};
	snprintf(full, sizeof(full), "%s-%u-%u", name, n, flags);
	document = document_make(n, flags & PLACE_LONG_KEYS);
	daemon_start(b, &p->d, full, &how);
	daemon_load(&p->d, document, n, NULL);
	close(document);
	attach(p, BERTH_WRITES_UNBRACKETED, &p->berth, &p->r);
	if (flags & PLACE_LEASES)
		attach(p, BERTH_WRITES_BRACKETED, &p->bracketed, &p->w);
	place_take(p, ORDER_UNIFORM);
}

void place_make(const struct bench *b, struct place *p, const char *name, uint32_t n, bool leases)
{
	make(b, p, name, n, leases ? PLACE_LEASES : 0);
}

void place_remove(struct place *p)
{
	berth_reader_close(&p->r);
	berth_reader_close(&p->w);
	berth_detach(&p->berth);
	berth_detach(&p->bracketed);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
	for (unsigned i = 0; i < N_ORDERS; i++)
		sequence_free(&p->sequences[i]);
}

void place_release(struct place *p)
{
	for (unsigned i = 0; i < PLACES_MAX; i++)
		if (places[i] == p)
			places[i] = NULL;
	place_remove(p);
	free(p);
}

void places_release(void)
{
	for (unsigned i = 0; i < PLACES_MAX; i++)
		if (places[i])
			place_release(places[i]);
}

struct place *place_of(const struct bench *b, uint32_t n, unsigned flags)
{
	unsigned free_at = PLACES_MAX;

	for (unsigned i = 0; i < PLACES_MAX; i++) {
		if (places[i] && places[i]->n == n && places[i]->flags == flags)
			return places[i];
		if (places[i] && places[i]->n >= LARGE && n >= LARGE)
			place_release(places[i]);
		if (!places[i] && free_at == PLACES_MAX)
			free_at = i;
	}
	if (free_at == PLACES_MAX)
		fail("more than %u instances at a time", PLACES_MAX);
	places[free_at] = malloc(sizeof(*places[0]));
	if (!places[free_at])
		fail("no memory for an instance");
	make(b, places[free_at], "place", n, flags);
	return places[free_at];
}

void place_take(struct place *p, enum order order)
{
	struct sequence *s = &p->sequences[order];

	if (s->n == 0)
		sequence_make(s, p->r, p->n, order, p->flags & PLACE_LONG_KEYS);
	p->n_keys = s->n;
	p->stride = s->stride;
	p->key_len = s->len;
	p->bytes = s->bytes;
	p->names = p->flags & PLACE_LONG_KEYS ? NULL : (char(*)[KEY_ROOM])s->bytes;
	p->keys = s->keys;
	p->epochs = s->epochs;
}

/* ---- measuring ----------------------------------------------------------------------------------------------- */

double place_measure(const struct place *p, place_calls *run, size_t n)
{
	struct place at = *p;
	volatile uint64_t kept;
	uint64_t from;
	double t;

	kept = run(&at, WARM_UP);
	at.from += WARM_UP;
	from = busy_ns();
	kept = run(&at, n);
	t = busy_elapsed_ns(from) / (double)n;
	(void)kept;
	return t;
}

double place_measure_on(struct place *p, place_calls *run, size_t n)
{
	double t = place_measure(p, run, n);

	p->from += WARM_UP + n;
	return t;
}

void place_warm(struct place *p)
{
	volatile uint64_t kept = 0;

	if (p->n_keys <= CACHED_KEYS)
		kept = place_route_bulk(p, p->n_keys);
	(void)kept;
}

/* ---- calls --------------------------------------------------------------------------------------------------- */

uint64_t place_route(const struct place *p, size_t n)
{
	size_t from = p->from, mask = p->n_keys - 1, stride = p->stride, len = p->key_len;
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_route(p->r, p->bytes + ((from + i) & mask) * stride, len, &out);
		sum += out.epoch;
	}
	return sum;
}

uint64_t place_route_chain(const struct place *p, size_t n)
{
	size_t from = p->from, mask = p->n_keys - 1, stride = p->stride, len = p->key_len;
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		/* No epoch reaches bit 63: the same keys, but the processor cannot know. */
		size_t k = (from + i + (out.epoch >> 63)) & mask;

		sum += (uint64_t)berth_route(p->r, p->bytes + k * stride, len, &out);
		sum += out.epoch;
	}
	return sum;
}

uint64_t place_route_bulk(const struct place *p, size_t n)
{
	size_t from = p->from, mask = p->n_keys - 1;
	struct berth_route out[PLACE_BULK] = {{0}};
	int status[PLACE_BULK];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += PLACE_BULK) {
		sum += (uint64_t)berth_route_bulk(p->r, p->keys + ((from + i) & mask), PLACE_BULK, out, status);
		for (unsigned k = 0; k < PLACE_BULK; k++)
			sum += out[k].epoch + (uint64_t)status[k];
	}
	return sum;
}
