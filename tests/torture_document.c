/* SPDX-License-Identifier: MIT
 * torture.h: documents, large and small, each with --prune, so that the table grows and what it held goes again; loaded
 * while migrations run. And what a thread may see of their partitions meanwhile: of the one in force, or, while another is
 * being loaded, of either. */
#include "daemon.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "torture.h"
#include "torture_ambush.h"

/* ---- coordinator ------------------------------------------------------------------------------------------- */

static unsigned cluster_of(uint32_t i)
{
	return 1 + i % T_CLUSTERS; /* always: a document moves nobody */
}

static void choose(struct t_documents *d, uint64_t *random)
{
	uint32_t n = mp_random(random) % 3 ? 10000 + (uint32_t)(mp_random(random) % (T_SPAN - 10000))
					   : 200 + (uint32_t)(mp_random(random) % 2000);

	if (atomic_load(&d->next.version) % 5 == 0)
		n = T_SPAN; /* so that every run soon sees the largest */
	atomic_store(&d->next.n, n);
	atomic_store(&d->next.first, T_FIRST + (uint32_t)(mp_random(random) % (T_SPAN - n + 1)));
	atomic_store(&d->next.version, atomic_load(&d->next.version) + 1);
	atomic_store(&d->number, atomic_load(&d->number) + 1);
	atomic_thread_fence(memory_order_seq_cst);
}

void t_document_load(struct daemon *daemon, struct wire *wire, uint64_t *random)
{
	struct t_documents *d = &t_shared->documents;
	char path[128], key[READERS_KEY_SIZE], text[READERS_JSON_SIZE];
	uint32_t first, n, version;
	FILE *f;
	int fd;

	if (atomic_load(&d->number) % 2 == 0)
		choose(d, random);
	first = atomic_load(&d->next.first);
	n = atomic_load(&d->next.n);
	version = atomic_load(&d->next.version);
	snprintf(path, sizeof path, "%s/document", daemon->home);
	f = fopen(path, "w");
	if (!f)
		fail_msg("%s cannot be written", path);
	fputs("{\"partitions\":{", f);
	for (uint32_t i = first; i < first + n; i++) {
		readers_key(key, i);
		fprintf(f, "%s\"%s\":%s", i > first ? ",\n" : "", key,
			readers_placement(text, i, cluster_of(i), version));
	}
	fputs("}}", f);
	if (fclose(f) != 0)
		fail_msg("%s cannot be written", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	wire_send_with(wire, fd, "load", "{s:b}", "prune", 1);
	close(fd);
	unlink(path);
}

void t_document_loaded(void)
{
	struct t_documents *d = &t_shared->documents;

	/* Under the odd number: whoever reads these two meanwhile sees another number afterwards. */
	atomic_store(&d->is.first, atomic_load(&d->next.first));
	atomic_store(&d->is.n, atomic_load(&d->next.n));
	atomic_store(&d->is.version, atomic_load(&d->next.version));
	atomic_store(&d->number, atomic_load(&d->number) + 1);
}

/* ---- threads ----------------------------------------------------------------------------------------------- */

struct expected {
	bool has;
	char index[48];
};

static struct expected expected_of(const struct t_document *d, uint32_t i)
{
	uint32_t first = atomic_load(&d->first);
	struct expected e = {.has = i >= first && i - first < atomic_load(&d->n)};

	snprintf(e.index, sizeof e.index, "t%u-c%u-v%u", i, cluster_of(i), atomic_load(&d->version));
	return e;
}

static bool fits(const struct expected *e, int rc, const struct berth_placement *p, uint32_t i, const char *index)
{
	if (rc != BERTH_OK || !e->has)
		return rc == BERTH_E_UNKNOWN && !e->has;
	return p->cluster == cluster_of(i) && p->phase == BERTH_SETTLED &&
	       (p->kind == BERTH_DEDICATED_CLUSTER || strcmp(index, e->index) == 0);
}

void t_read_document(struct t_lane *l)
{
	const struct t_documents *d = &t_shared->documents;
	uint64_t number = atomic_load(&d->number);
	uint32_t i = T_FIRST + (uint32_t)(mp_random(&l->random) % T_SPAN);
	struct expected is = expected_of(&d->is, i), next = expected_of(&d->next, i);
	char key[READERS_KEY_SIZE], index[64] = "";
	size_t len = t_key(key, i);
	struct berth_placement p = {0};
	struct berth_inject mark;
	int rc;

	if (atomic_load(&d->number) != number)
		return;
	if (mp_random(&l->random) % 64 == 0)
		ambush_within(&l->random, 400);
	berth_read_begin(l->r);
	rc = berth_lookup(l->r, key, len, &p);
	if (rc == BERTH_OK)
		snprintf(index, sizeof index, "%s", p.index);
	if (rc == BERTH_OK && p.kind == BERTH_SHARED_INDEX &&
	    (berth_inject(&p, 1, &mark) != BERTH_OK || strcmp(mark.value, p.index) != 0))
		t_wrong("INV-M4: %s has index %s, and injects another's", key, index);
	berth_read_end(l->r);
	atomic_thread_fence(memory_order_seq_cst);
	if (rc != BERTH_OK && rc != BERTH_E_UNKNOWN)
		t_wrong("a look-up of %s is answered %s", key, berth_strerror(rc));
	else if (atomic_load(&d->number) == number && !fits(&is, rc, &p, i, index) &&
		 (number % 2 == 0 || !fits(&next, rc, &p, i, index)))
		t_wrong("%s is answered %s, cluster %u, phase %u, kind %u, index %s; document in force: %s, %s; %s: "
			"%s, %s",
			key, berth_strerror(rc), p.cluster, p.phase, p.kind, index, is.has ? "has it" : "has it not",
			is.index, number % 2 ? "being loaded" : "the last one", next.has ? "has it" : "has it not",
			next.index);
	t_count(&l->own->p->counts.document_reads);
}
