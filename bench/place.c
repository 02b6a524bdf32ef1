/* SPDX-License-Identifier: MIT
 * Instances for measuring calls of libberth, and the measuring: place.h. Called by lookup.c and lease.c. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "place.h"

#define WARM_UP (1u << 18)

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

void place_make(const struct bench *b, struct place *p, const char *name, uint32_t n, bool leases)
{
	char full[32];
	int document = document_make(n, false);

	p->n = n;
	snprintf(full, sizeof(full), "%s-%u", name, n);
	daemon_start(b, &p->d, full, &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&p->d, document, n, NULL);
	close(document);
	attach(p, BERTH_WRITES_UNBRACKETED, &p->berth, &p->r);
	if (leases)
		attach(p, BERTH_WRITES_BRACKETED, &p->bracketed, &p->w);
	make_sequence(p);
}

void place_remove(struct place *p)
{
	berth_reader_close(&p->r);
	berth_reader_close(&p->w);
	berth_detach(&p->berth);
	berth_detach(&p->bracketed);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
	free(p->names);
	free(p->keys);
	free(p->epochs);
}

double place_measure(const struct place *p, place_calls *run, size_t n)
{
	volatile uint64_t kept;
	uint64_t from;
	double t;

	kept = run(p, n < WARM_UP ? n : WARM_UP);
	from = busy_ns();
	kept = run(p, n);
	t = busy_elapsed_ns(from) / (double)n;
	(void)kept;
	return t;
}
