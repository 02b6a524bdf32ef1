/* SPDX-License-Identifier: MIT
 * Look-ups of a registered reader, by number of partitions. Each call takes the next key of a random sequence that was
 * made before: the keys lie side by side, as a proxy has its key at hand, so what is measured is the table, not the
 * caller's memory. Throughput: nothing makes a call wait for the one before it, but in `chain`. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define BATCH 32u
#define CALLS (1u << 21)
#define CALLS_QUICK (1u << 16)
#define WARM_UP (1u << 18)

struct place { /* an instance with n partitions, and a reader of it */
	uint32_t n;
	struct daemon d;
	struct berth *berth;
	struct berth_reader *r;
	size_t n_keys;           /* of the sequence, a power of two */
	char (*names)[KEY_ROOM]; /* in the order of the sequence */
	struct berth_key *keys;  /* likewise */
	uint64_t *epochs;        /* likewise */
};

/* X(call, what it is, goal at each size) */
#define CALL_ROWS(X) \
	X(route, "berth_route", {15, 0, 80}) \
	X(bulk, "berth_route_bulk of 32, a key", {0, 0, 0}) \
	X(lookup, "begin, berth_lookup, end", {0, 0, 0}) \
	X(admit, "berth_admit", {0, 0, 0}) \
	X(chain, "berth_route, one waits for the last", {0, 0, 0})
#define SIZES \
	{ \
		1000, 100000, 1000000 \
	}
#define N_SIZES 3u

/* Each makes n calls and returns something of every answer, so that nothing can be left out. */

static uint64_t calls_route(const struct place *p, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_route(p->r, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static uint64_t calls_chain(const struct place *p, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		/* No epoch reaches bit 63: the same keys, but the processor cannot know. */
		berth_route(p->r, p->names[(i + (out.epoch >> 63)) & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static uint64_t calls_bulk(const struct place *p, size_t n)
{
	struct berth_route out[BATCH] = {{0}};
	int status[BATCH];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		sum += (uint64_t)berth_route_bulk(p->r, p->keys + (i & (p->n_keys - 1)), BATCH, out, status);
		for (unsigned k = 0; k < BATCH; k++)
			sum += out[k].epoch + (uint64_t)status[k];
	}
	return sum;
}

static uint64_t calls_lookup(const struct place *p, size_t n)
{
	struct berth_placement out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		berth_read_begin(p->r);
		sum += (uint64_t)berth_lookup(p->r, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch + out.index_len;
		berth_read_end(p->r);
	}
	return sum;
}

static uint64_t calls_admit(const struct place *p, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t k = i & (p->n_keys - 1);

		sum += (uint64_t)berth_admit(p->r, p->names[k], KEY_LEN, p->epochs[k]);
	}
	return sum;
}

static const struct call {
	const char *name;
	double goal[N_SIZES];
	uint64_t (*run)(const struct place *, size_t n);
} calls[] = {
#define CALL_ROW(name, text, ...) {text, __VA_ARGS__, calls_##name},
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
};
enum {
#define CALL_ROW(name, text, ...) CALL_##name,
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
		N_CALLS
};

static void make_sequence(struct place *p)
{
	uint64_t state = 42;

	p->n_keys = 1u << 14;
	while (p->n_keys < p->n)
		p->n_keys *= 2;
	p->names = aligned_alloc(64, p->n_keys * KEY_ROOM);
	p->keys = calloc(p->n_keys, sizeof(*p->keys));
	p->epochs = calloc(p->n_keys, sizeof(*p->epochs));
	if (!p->names || !p->keys || !p->epochs)
		fail("no memory for %zu keys", p->n_keys);
	for (size_t i = 0; i < p->n_keys; i++) {
		struct berth_route out;
		int rc;

		key_name(p->names[i], (uint32_t)((random_u64(&state) >> 32) * p->n >> 32));
		p->keys[i] = (struct berth_key){.key = p->names[i], .len = KEY_LEN};
		rc = berth_route(p->r, p->names[i], KEY_LEN, &out);
		if (rc != BERTH_OK)
			fail("%s: %s", p->names[i], berth_strerror(rc));
		p->epochs[i] = out.epoch;
	}
}

static void make_place(const struct bench *b, struct place *p, uint32_t n)
{
	char name[32];
	int document = document_make(n), rc;

	p->n = n;
	snprintf(name, sizeof(name), "lookup-%u", n);
	daemon_start(b, &p->d, name, NULL, CPU_DAEMON, false);
	daemon_load(&p->d, document, n, NULL);
	close(document);
	rc = berth_attach(p->d.dir, NULL, &p->berth);
	if (rc == BERTH_OK)
		rc = berth_reader_open(p->berth, &p->r);
	if (rc == BERTH_OK)
		rc = berth_maintain(p->berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", p->d.dir, berth_strerror(rc));
	make_sequence(p);
}

static void remove_place(struct place *p)
{
	berth_reader_close(&p->r);
	berth_detach(&p->berth);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
	free(p->names);
	free(p->keys);
	free(p->epochs);
}

static double measure(const struct place *p, const struct call *c, size_t n)
{
	volatile uint64_t kept;
	uint64_t from;
	double t;

	kept = c->run(p, n < WARM_UP ? n : WARM_UP);
	from = busy_ns();
	kept = c->run(p, n);
	t = busy_elapsed_ns(from) / (double)n;
	(void)kept;
	return t;
}

void workload_lookup(const struct bench *b)
{
	static struct place places[N_SIZES];
	static struct samples s[N_SIZES][N_CALLS], halves[N_SIZES];
	static const uint32_t sizes[N_SIZES] = SIZES;
	unsigned n_sizes = b->quick ? N_SIZES - 1 : N_SIZES;
	size_t n = b->quick ? CALLS_QUICK : CALLS;

	for (unsigned i = 0; i < n_sizes; i++)
		make_place(b, &places[i], sizes[i]);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs;
	     run++) /* everything in turn: a slow moment of the machine hits all alike */
		for (unsigned i = 0; i < n_sizes; i++) {
			for (unsigned k = 0; k < N_CALLS; k++)
				add_sample(&s[i][k], measure(&places[i], &calls[k], n));
			add_sample(&halves[i], s[i][CALL_bulk].v[run] / s[i][CALL_route].v[run]);
		}
	pin_nowhere();
	for (unsigned i = 0; i < n_sizes; i++) {
		struct figure f = {.workload = "lookup"};

		snprintf(f.parameters, sizeof(f.parameters), "%u partitions", sizes[i]);
		for (unsigned k = 0; k < N_CALLS; k++) {
			snprintf(f.name, sizeof(f.name), "%s", calls[k].name);
			f.unit = "ns";
			f.goal = calls[k].goal[i];
			f.s = s[i][k];
			report(b, &f);
		}
		snprintf(f.name, sizeof(f.name), "bulk / single");
		f.unit = "ratio";
		f.goal = 0.5;
		f.s = halves[i];
		report(b, &f);
		remove_place(&places[i]);
	}
}
