/* SPDX-License-Identifier: MIT
 * The table as a whole (verify.h): a walk over clusters, default and entries in batches, a section each; then what only
 * the whole can tell: counters, epochs that are there twice, records that overlap. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "instance.h"
#include "verify.h"

#define BATCH 1000u
#define SETTLE_TRIES 5

/* Where a number of the header is compared with what was counted. */
struct totals {
	uint64_t epoch, n_live, n_tombstones;
};

static struct totals totals_of(const struct shm_table *h)
{
	return (struct totals){
		.epoch = atomic_load_explicit(&h->epoch, memory_order_acquire),
		.n_live = atomic_load_explicit(&h->n_live, memory_order_relaxed),
		.n_tombstones = atomic_load_explicit(&h->n_tombstones, memory_order_relaxed),
	};
}

static void append(uint64_t **list, size_t *n, size_t *room, uint64_t value)
{
	if (*n == *room) {
		*room = *room ? 2 * *room : 4096;
		uint64_t *more = realloc(*list, *room * sizeof(**list));
		if (!more)
			tool_no_memory();
		*list = more;
	}
	(*list)[(*n)++] = value;
}

void verify_note_record(struct verify *v, uint32_t off, uint64_t size)
{
	if (off)
		append(&v->records, &v->n_records, &v->n_records_room, (uint64_t)off << 16 | size);
}

static void count(struct verify *v, const struct entry_counts *c)
{
	v->n_live += c->live;
	v->n_tombstones += c->tombstone;
	v->n_residues += c->residue;
	if (c->epoch)
		append(&v->epochs, &v->n_epochs, &v->n_room, c->epoch);
	for (int i = 0; i < 3; i++)
		verify_note_record(v, c->records[i], c->sizes[i]);
}

static void start_counting(struct verify *v)
{
	v->n_live = v->n_tombstones = v->n_clusters = v->n_default = 0;
	v->n_epochs = v->n_records = v->n_residues = 0;
}

/* ---- clusters and default ---- */

static bool cluster_text_good(const struct shm_cluster *c)
{
	const char *id = cluster_id(c), *url = cluster_endpoint(c);
	size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	if (n != c->id_len)
		return false;
	if (c->endpoint_len == 0)
		return true;
	for (size_t i = 0; i < c->endpoint_len; i++)
		if ((unsigned char)url[i] <= 0x20 || (unsigned char)url[i] >= 0x7f)
			return false;
	return strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
}

static void check_cluster(struct verify *v, const struct seg_map *m, unsigned number, struct faults *f, uint32_t *noted,
			  uint16_t *size)
{
	uint32_t off = atomic_load_explicit(&m->clusters[number], memory_order_acquire);
	union {
		struct shm_cluster record;
		char bytes[sizeof(struct shm_cluster) + SHM_CLUSTER_ID_MAX + SHM_ENDPOINT_MAX + 2];
	} copy;
	size_t room = 0;

	v->cluster_known[number] = 0;
	*noted = 0;
	if (off == 0)
		return;
	if (number == 0) {
		fault_add(f, "clusters[0]", "%" PRIu32 "\t0: the number 0 is no cluster", off);
		return;
	}
	const void *shared = seg_record(m, off, sizeof(copy.record), &room);
	memset(&copy, 0, sizeof(copy));
	if (shared)
		memcpy(&copy, shared, room < sizeof(copy) ? room : sizeof(copy));
	if (!shared || !cluster_bounds(&copy.record, room < sizeof(copy) ? room : sizeof(copy))) {
		fault_add(f, "cluster", "number %u at offset %" PRIu64 "\ta cluster record inside the file", number,
			  (uint64_t)off * SHM_RECORD_ALIGN);
		return;
	}
	uint32_t check = cluster_checksum(&copy.record);
	uint64_t next = atomic_load_explicit(&m->table->next_cluster, memory_order_relaxed);
	if (check != copy.record.check)
		fault_add(f, "cluster", "number %u with checksum %08" PRIx32 "\t%08" PRIx32 " over its bytes", number,
			  copy.record.check, check);
	if (copy.record.number != number)
		fault_add(f, "cluster", "number %u in the record of number %u\tthe same", copy.record.number, number);
	if (!cluster_text_good(&copy.record))
		fault_add(f, "cluster", "number %u with a bad id or endpoint\tan id of A-Z a-z 0-9 . _ -, a URL",
			  number);
	if (number > next) /* equal: a writer that was killed before it stored the next one */
		fault_add(f, "cluster", "number %u\tbelow next_cluster, %" PRIu64, number, next);
	*noted = off;
	*size = (uint16_t)cluster_size(copy.record.id_len, copy.record.endpoint_len);
	v->cluster_known[number] = 1;
}

/* One look that counts: all of them in a section, again after a pause as long as something is wrong. EXIT_DONE or what
 * tool_fail returned; *again: a new generation. */
static int check_clusters(struct verify *v, bool *again)
{
	struct tool *t = v->t;
	struct faults f = {0};
	int rc = EXIT_DONE;

	for (unsigned from = 0; from < t->map.n_cluster_slots && rc == EXIT_DONE && !*again; from += BATCH) {
		uint32_t noted[BATCH] = {0};
		uint16_t sizes[BATCH] = {0};
		unsigned n = t->map.n_cluster_slots - from < BATCH ? t->map.n_cluster_slots - from : BATCH;

		for (int look = 0; look < (v->live ? VERIFY_LOOKS : 1) && !*again; look++) {
			uint64_t termgen = t->map.termgen;
			if (look)
				verify_pause();
			f.n = 0;
			rc = instance_section(t);
			if (rc != EXIT_DONE)
				break;
			*again = t->map.termgen != termgen;
			for (unsigned i = 0; i < n && !*again; i++)
				check_cluster(v, &t->map, from + i, &f, &noted[i], &sizes[i]);
			*again = !instance_section_end(t) || *again;
			if (f.n == 0)
				break;
		}
		if (rc != EXIT_DONE || *again)
			break;
		verify_tell(v, &f);
		for (unsigned i = 0; i < n; i++) {
			v->n_clusters += v->cluster_known[from + i] != 0;
			verify_note_record(v, noted[i], sizes[i]);
		}
	}
	faults_free(&f);
	return rc;
}

static void check_default(const struct verify *v, const struct seg_map *m, struct faults *f, struct entry_counts *c)
{
	const struct shm_default *d = &m->table->dflt;
	uint64_t word = atomic_load_explicit(&d->word, memory_order_acquire);

	*c = (struct entry_counts){0};
	if (word_live(word)) {
		c->live = true;
		verify_cell(v, m, word, d->det, f, c);
		if (word_phase(word) != PHASE_SETTLED)
			fault_add(f, "word.phase", "%u of the default\t0: it does not migrate", word_phase(word));
	} else if (word && word != word_make(word_epoch(word), 0, word_epoch(word) == 0, KIND_NONE, PHASE_SETTLED)) {
		fault_add(f, "word", "%016" PRIx64 " of the default\ta tombstone with nothing but its epoch", word);
	}
}

/* ---- entries ---- */

struct batch { /* slots that are looked at; the suspicious ones stay for another look */
	uint32_t slots[BATCH];
	unsigned n;
	bool dflt; /* the default is among them */
};

/* One look at the batch, in one section. Good ones are counted and leave it; bad ones too when it is the last look. */
static void look_at(struct verify *v, struct batch *b, bool last, struct faults *f)
{
	unsigned kept = 0;
	struct entry_counts c;

	for (unsigned i = 0; i < b->n; i++) {
		size_t before = f->n;
		verify_entry(v, &v->t->map, b->slots[i], f, &c);
		if (f->n != before && !last) {
			f->n = before;
			b->slots[kept++] = b->slots[i];
			continue;
		}
		count(v, &c);
	}
	b->n = kept;
	if (b->dflt) {
		size_t before = f->n;
		check_default(v, &v->t->map, f, &c);
		if (f->n != before && !last) {
			f->n = before;
			return;
		}
		b->dflt = false;
		v->n_default = c.live;
		c.live = false;
		count(v, &c);
	}
}

/* Looks at the batch until it is good, or was bad several times. */
static int check_batch(struct verify *v, struct batch *b, struct faults *f, bool *again)
{
	for (int look = v->live ? 1 : VERIFY_LOOKS; look <= VERIFY_LOOKS && (b->n || b->dflt) && !*again; look++) {
		uint64_t termgen = v->t->map.termgen;
		if (v->live && look > 1)
			verify_pause();
		int rc = instance_section(v->t);
		if (rc != EXIT_DONE)
			return rc;
		*again = v->t->map.termgen != termgen;
		if (!*again)
			look_at(v, b, look == VERIFY_LOOKS, f);
		*again = !instance_section_end(v->t) || *again;
	}
	if (*again)
		f->n = 0; /* of a generation that went while it was looked at */
	verify_tell(v, f);
	return EXIT_DONE;
}

static int check_entries(struct verify *v, bool *again)
{
	struct batch b = {.dflt = true};
	struct faults f = {0};
	int rc = EXIT_DONE;

	for (uint32_t slot = 0; slot < v->t->map.n_entries && rc == EXIT_DONE && !*again; slot++) {
		b.slots[b.n++] = slot;
		if (b.n < BATCH && slot + 1 < v->t->map.n_entries)
			continue;
		rc = check_batch(v, &b, &f, again);
	}
	faults_free(&f);
	return rc;
}

/* ---- the whole ---- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void check_epochs(struct verify *v, struct faults *f)
{
	if (v->n_epochs == 0)
		return;
	qsort(v->epochs, v->n_epochs, sizeof(*v->epochs), compare_u64);
	for (size_t i = 1; i < v->n_epochs; i++)
		if (v->epochs[i] == v->epochs[i - 1])
			fault_add(f, "epoch", "%" PRIu64 " of two placements\tof one: an epoch never repeats",
				  v->epochs[i]);
}

static void check_records(struct verify *v, struct faults *f)
{
	uint64_t end = 0, at = 0;

	if (v->n_records == 0)
		return;
	qsort(v->records, v->n_records, sizeof(*v->records), compare_u64);
	for (size_t i = 0; i < v->n_records; i++) {
		uint64_t start = (v->records[i] >> 16) * SHM_RECORD_ALIGN;
		if (i && v->records[i] == v->records[i - 1])
			continue; /* shared */
		if (start < end)
			fault_add(f, "record", "at %" PRIu64 " inside the record at %" PRIu64 "\tbeside it", start, at);
		at = start;
		end = start + (v->records[i] & 0xffff);
	}
}

/* A writer that was killed between a word and its counters leaves them one apart, in one of these ways; the next writer
 * counts anew. */
static bool left_by_a_kill(int64_t live, int64_t tombstones)
{
	return (live == 0 && (tombstones == 1 || tombstones == -1)) || (live == -1 && tombstones == 1) ||
	       (live == 1 && tombstones == -1);
}

static void check_counts(const struct verify *v, struct faults *f, const struct totals *said)
{
	int64_t live = (int64_t)(said->n_live - v->n_live),
		tombstones = (int64_t)(said->n_tombstones - v->n_tombstones);

	if (!v->live && left_by_a_kill(live, tombstones))
		return;
	if (live)
		fault_add(f, "n_live", "%" PRIu64 "\t%" PRIu64 ", as counted", said->n_live, v->n_live);
	if (tombstones)
		fault_add(f, "n_tombstones", "%" PRIu64 "\t%" PRIu64 ", as counted", said->n_tombstones,
			  v->n_tombstones);
}

/* Areas between the parts of the file. */
static void check_gaps(const struct seg_map *m, struct faults *f)
{
	const struct shm_table *h = m->table;
	const uint64_t gaps[][2] = {
		{h->clusters_off + (uint64_t)m->n_cluster_slots * 4, h->entries_off},
		{h->documents_off + (uint64_t)m->n_entries * 8, h->tags_off},
		{h->tags_off + m->n_entries, h->records_off},
	};
	uint64_t where;

	for (int i = 0; i < 3; i++)
		if (gaps[i][0] <= gaps[i][1] && gaps[i][1] <= m->size && !bytes_zero(h, gaps[i][0], gaps[i][1], &where))
			fault_add(f, "gap", "%02x at byte %" PRIu64 "\t00: nothing is there",
				  ((const uint8_t *)h)[where], where);
}

/* One pass. *settled: nothing changed meanwhile, or so little that the counts can be compared. */
static int pass(struct verify *v, bool *again, bool *settled, struct faults *whole)
{
	start_counting(v);
	struct totals before = totals_of(v->t->map.table);
	int rc = check_clusters(v, again);
	if (rc == EXIT_DONE && !*again)
		rc = check_entries(v, again);
	if (rc != EXIT_DONE || *again)
		return rc;
	struct totals after = totals_of(v->t->map.table);
	*settled = memcmp(&before, &after, sizeof(before)) == 0;
	whole->n = 0;
	whole->n_more = 0;
	check_gaps(&v->t->map, whole);
	check_epochs(v, whole);
	if (!*settled)
		return EXIT_DONE;
	check_counts(v, whole, &after);
	if (v->n_residues > (v->live ? 0u : 1u)) /* a writer makes one change at a time */
		fault_add(whole, "empty entries", "%" PRIu64 " with something in them\tall zero", v->n_residues);
	check_records(v, whole);
	return EXIT_DONE;
}

int verify_table(struct verify *v, bool *again)
{
	struct tool *t = v->t;
	struct faults whole = {0};
	bool settled = false;
	int rc = instance_section(t);

	*again = false;
	if (rc != EXIT_DONE)
		return rc;
	instance_section_end(t);
	snprintf(v->file, sizeof(v->file), "table.%" PRIu32, t->map.generation);
	free(v->cluster_known);
	v->cluster_known = calloc(t->map.n_cluster_slots, 1);
	if (!v->cluster_known)
		tool_no_memory();
	uint64_t told = v->n_faults;
	for (int i = 0; i < SETTLE_TRIES && rc == EXIT_DONE && !*again; i++) {
		if (i)
			verify_pause();
		rc = pass(v, again, &settled, &whole);
		if (settled && (whole.n == 0 || !v->live))
			break;
		if (v->n_faults != told)
			break; /* told already: not a second time */
	}
	if (rc == EXIT_DONE && !*again)
		verify_tell(v, &whole);
	faults_free(&whole);
	v->unsettled = !settled;
	return rc;
}
