/* SPDX-License-Identifier: MIT
 * The table as the rest of the writer sees it: opening, the start (build, load, flip), looking, counters. table.h has
 * the contract; the subjects beneath it are in root.c, generation.c, records.c, change.c, grow.c, ledger.c, registry.c.
 * Control thread only. */
#include "table_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/lease.h"
#include "root.h"

#define CLUSTER_SLOTS 1024u

static uint64_t held_by(void *arg, uint64_t line)
{
	const struct table *t = arg;
	uint64_t bytes = 0;

	for (const struct old_file *o = t->old; o; o = o->next)
		if (!o->passed && section_holds(line, o->generation, o->tag))
			bytes += o->size;
	return bytes;
}

/* What is damaged or gone is done without, if it can be; what only cannot be mapped now is waited for. */
static enum refusal_code map_previous(struct table *t, struct refusal *r)
{
	uint64_t termgen = atomic_load_explicit(&t->root->termgen, memory_order_acquire);

	if (termgen &&
	    seg_table_map(t->instance->table_dir_fd, t->root, termgen, NULL, false, &t->previous) == BERTH_E_SYSTEM)
		return refuse(r, R_BACKEND,
			      "table.%u in %s cannot be mapped: %s: free memory or descriptors, then start again",
			      SHM_GENERATION(termgen), t->instance->path, strerror(errno));
	return R_DONE;
}

static uint64_t table_now(const struct table_options *o)
{
	return o->monotonic_ms ? o->monotonic_ms(o->clock_arg) : seg_clock_ms(CLOCK_MONOTONIC);
}

enum refusal_code table_open(struct instance *in, const struct table_options *o, struct table **out, struct refusal *r)
{
	struct table *t = calloc(1, sizeof *t);
	enum refusal_code rc;
	bool fresh, first, knew = o->uuid && *o->uuid;

	if (!t)
		return refuse(r, R_FULL, "out of memory: give the daemon more");
	t->instance = in;
	t->reserving_fd = -1;
	t->uses = calloc(SHM_CLUSTERS_MAX + 1, sizeof *t->uses);
	t->cluster_numbers = json_object();
	if (!t->uses || !t->cluster_numbers) {
		rc = refuse(r, R_FULL, "out of memory: give the daemon more");
		goto fail;
	}
	rc = root_open(t, o, &fresh, &first, r);
	if (rc != R_DONE)
		goto fail;
	t->membarrier = grace_register() == 0 && grace_barrier() == 0;
	t->term = SHM_TERM(atomic_load_explicit(&t->root->termgen, memory_order_relaxed));
	t->term = (t->term > o->term ? t->term : (uint32_t)o->term) + 1;
	rc = ledger_open(t, fresh, first && !knew ? 0 : table_now(o), r);
	if (rc != R_DONE)
		goto fail;
	rc = registry_open(in, t->root, t->ledger, t->membarrier, o->monotonic_ms, o->clock_arg, &t->registry, r);
	if (rc != R_DONE)
		goto fail;
	registry_set_held(t->registry, held_by, t);
	mirrored_open(t, o->bpf);
	rc = map_previous(t, r);
	if (rc != R_DONE)
		goto fail;
	old_files_find(t);
	reserve_reclaim(t);
	/* The old one first: a writer that is killed in between leaves both to the next. */
	atomic_store_explicit(&t->root->old_barrier_ms, o->old_barrier_ms, memory_order_release);
	CRASH_POINT(old_barrier_stored);
	atomic_store_explicit(&t->root->barrier_ms, o->barrier_ms, memory_order_release);
	CRASH_POINT(barrier_stored);
	*out = t;
	return R_DONE;
fail:
	table_close(&t);
	return rc;
}

void table_close(struct table **tp)
{
	struct table *t = *tp;

	if (!t)
		return;
	grow_stop(t);
	if (t->growth != GROW_IDLE && t->reserving_fd >= 0) {
		close(t->reserving_fd);
		unlinkat(t->instance->table_dir_fd, "reserve.new", 0);
	}
	generation_discard(t, &t->next);
	if (t->now)
		generation_forget(&t->now);
	old_files_close(t);
	registry_close(&t->registry);
	mirror_close(&t->mirror);
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		mirror_past_close(&t->pasts[i]);
	seg_table_unmap(&t->previous);
	ledger_close(t);
	root_close(t);
	json_decref(t->cluster_numbers);
	free(t->uses);
	free(t);
	*tp = NULL;
}

const char *table_uuid(const struct table *t)
{
	return t->uuid;
}
const char *table_boot_id(const struct table *t)
{
	return t->boot_id;
}
uint32_t table_term(const struct table *t)
{
	return t->term;
}
struct registry *table_registry(struct table *t)
{
	return t->registry;
}
struct table_shared table_shared(struct table *t)
{
	return (struct table_shared){t->instance, t->root, t->ledger, ledger_acks(t->ledger), t->membarrier};
}
const struct seg_map *table_previous(const struct table *t)
{
	return t->previous.table ? &t->previous : NULL;
}

/* ---- start ---- */

static uint32_t next_number(const struct table *t)
{
	uint32_t last = SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_relaxed));

	return last + 1 ? last + 1 : 1;
}

enum refusal_code table_build(struct table *t, uint64_t n, struct refusal *r)
{
	uint32_t capacity = capacity_for(n), slots = CLUSTER_SLOTS;
	enum refusal_code rc;

	if (t->previous.table) {
		/* The same size as before where it fits: the reserve is made for it. */
		if (n < GROW_MUST(t->previous.capacity) && n >= t->previous.capacity / 4)
			capacity = t->previous.capacity;
		if (t->previous.n_cluster_slots > slots)
			slots = t->previous.n_cluster_slots;
	}
	rc = generation_create(t, next_number(t), capacity, slots, &t->next, r);
	if (rc != R_DONE)
		return rc;
	if (generation_allocate(t->next, t->next->map.records_off) != 0) {
		refuse(r, R_FULL,
		       "no room for a table of %llu partitions (%llu bytes) in %s: %s; give its file system more room",
		       (unsigned long long)n, (unsigned long long)t->next->map.records_off, t->instance->path,
		       strerror(errno));
		generation_discard(t, &t->next);
		return R_FULL;
	}
	atomic_store_explicit(&gen_header(t->next)->next_cluster, 1, memory_order_relaxed);
	mirrored_begin(t, t->next);
	return R_DONE;
}

void table_load_counters(struct table *t, uint64_t epoch, uint64_t next_cluster, uint64_t document_version,
			 uint64_t default_document)
{
	struct shm_table *h = gen_header(t->next);

	atomic_store_explicit(&h->epoch, epoch, memory_order_relaxed);
	atomic_store_explicit(&h->next_cluster, next_cluster ? next_cluster : 1, memory_order_relaxed);
	atomic_store_explicit(&h->document_version, document_version, memory_order_relaxed);
	atomic_store_explicit(&h->default_document, default_document, memory_order_relaxed);
	CRASH_POINT(counters_loaded);
}

/* Clusters come first, so a table with more room for them is made before anything else is in it. */
static enum refusal_code more_cluster_slots(struct table *t, unsigned number, struct refusal *r)
{
	struct generation *old = t->next, *g;
	uint32_t slots = old->map.n_cluster_slots;
	enum refusal_code rc;

	while (slots <= number)
		slots *= 2;
	rc = generation_create(t, old->map.generation, old->map.capacity,
			       slots > SHM_CLUSTERS_MAX + 1 ? SHM_CLUSTERS_MAX + 1 : slots, &g, r);
	if (rc != R_DONE)
		return rc;
	if (generation_allocate(g, g->map.records_off) != 0) {
		generation_discard(t, &g);
		return refuse(r, R_FULL, "no room for %u clusters in %s", slots, t->instance->path);
	}
	for (unsigned n = 1; n < old->map.n_cluster_slots; n++) {
		uint32_t off = atomic_load_explicit(gen_cluster(old, n), memory_order_relaxed);
		const struct shm_cluster *c = off ? gen_record(old, off) : NULL;

		if (!c)
			continue;
		off = cluster_record_make(g, n, cluster_id(c), cluster_endpoint(c));
		if (!off) {
			refuse(r, R_FULL, "no room for cluster %s in %s", cluster_id(c), t->instance->path);
			generation_discard(t, &g);
			return R_FULL;
		}
		atomic_store_explicit(gen_cluster(g, n), off, memory_order_relaxed);
	}
	t->next = g;
	g->mirror = old->mirror; /* nothing is in it yet */
	old->mirror = NULL;
	table_load_counters(t, gen_header(old)->epoch, gen_header(old)->next_cluster, gen_header(old)->document_version,
			    gen_header(old)->default_document);
	generation_forget(&old);
	return R_DONE;
}

enum refusal_code table_load_cluster(struct table *t, unsigned number, const char *id, const char *endpoint,
				     struct refusal *r)
{
	uint32_t off;

	if (number == 0 || number > SHM_CLUSTERS_MAX)
		return refuse(r, R_INVALID, "cluster %s has number %u, which is not 1..%u", id, number,
			      SHM_CLUSTERS_MAX);
	if (number >= t->next->map.n_cluster_slots) {
		enum refusal_code rc = more_cluster_slots(t, number, r);

		if (rc != R_DONE)
			return rc;
	}
	off = cluster_record_make(t->next, number, id, endpoint);
	if (!off)
		return refuse(r, R_FULL, "no room for cluster %s in %s", id, t->instance->path);
	atomic_store_explicit(gen_cluster(t->next, number), off, memory_order_relaxed);
	CRASH_POINT(cluster_loaded);
	if (number >= table_next_cluster(t))
		atomic_store_explicit(&gen_header(t->next)->next_cluster, number + 1, memory_order_relaxed);
	json_object_set_new(t->cluster_numbers, id, json_integer((json_int_t)number));
	return R_DONE;
}

enum refusal_code table_load(struct table *t, const char *key, size_t len, const struct state *s, uint64_t document,
			     struct refusal *r)
{
	uint32_t slot = SLOT_NONE;

	if (key) {
		slot = slot_take(t->next, key, len, hash_key(t->secret, key, len));
		if (slot == SLOT_NONE)
			return refuse(r, R_FULL, "no room for partition %.*s in %s", (int)len, key, t->instance->path);
	}
	if (!cell_fill(t, t->next, slot, s, document))
		return refuse(r, R_FULL, "no room for the placement of %.*s in %s", key ? (int)len : 7,
			      key ? key : "default", t->instance->path);
	return R_DONE;
}

enum refusal_code table_flip(struct table *t, struct refusal *r)
{
	enum refusal_code rc;
	bool first = t->previous.table == NULL && !t->old;

	if (generation_seal(t->next, 0) != 0 || (first && reserve_make(t, t->next->limit) != 0)) {
		refuse(r, R_FULL,
		       "no room for the table (%llu bytes) and a reserve of its size, which a restart needs, in %s: "
		       "%s; give its file system more room",
		       (unsigned long long)t->next->map.size, t->instance->path, strerror(errno));
		unlinkat(t->instance->table_dir_fd, "reserve", 0);
		generation_discard(t, &t->next);
		return R_FULL;
	}
	atomic_store_explicit(&t->root->membarrier_mode,
			      t->membarrier ? SHM_MEMBARRIER_GLOBAL_EXPEDITED : SHM_MEMBARRIER_NONE,
			      memory_order_relaxed);
	CRASH_POINT(membarrier_mode_stored);
	atomic_store_explicit(&t->root->writer_pid, (uint64_t)getpid(), memory_order_relaxed);
	CRASH_POINT(writer_pid_stored);
	atomic_store_explicit(&t->root->writer_start, seg_process_start(getpid()), memory_order_relaxed);
	CRASH_POINT(writer_start_stored);
	table_heartbeat(t);
	rc = mirrored_suspend(t, r);
	if (rc == R_DONE)
		rc = generation_flip(t, r);
	if (rc == R_DONE)
		mirrored_start(t);
	seg_table_unmap(&t->previous);
	return rc;
}

/* ---- looking ---- */

bool table_get(const struct table *t, const char *key, size_t len, struct state *s, uint64_t *document)
{
	const struct shm_entry *e;
	uint64_t word;

	*s = (struct state){0};
	if (document)
		*document = 0;
	if (index_find(&t->now->map, key, len, hash_key(t->secret, key, len), true, &e, &word) != 1)
		return false;
	cell_state(t->now, word, e->det, s);
	if (document)
		*document = atomic_load_explicit(gen_document(t->now, (uint32_t)(e - t->now->map.entries)),
						 memory_order_relaxed);
	return s->at != NULL;
}

bool table_default(const struct table *t, struct state *s, uint64_t *document)
{
	const struct shm_table *h = gen_header(t->now);

	cell_state(t->now, atomic_load_explicit(&h->dflt.word, memory_order_relaxed), h->dflt.det, s);
	if (document)
		*document = atomic_load_explicit(&h->default_document, memory_order_relaxed);
	return s->at != NULL;
}

unsigned table_cluster_number(const struct table *t, const char *id, size_t len)
{
	return (unsigned)json_integer_value(json_object_getn(t->cluster_numbers, id, len));
}

const struct shm_cluster *table_cluster(const struct table *t, unsigned number)
{
	const struct generation *g = t->now ? t->now : t->next;
	uint32_t off = number < g->map.n_cluster_slots
			       ? atomic_load_explicit(gen_cluster(g, number), memory_order_relaxed)
			       : 0;

	return off ? gen_record(g, off) : NULL;
}

uint32_t table_cluster_uses(const struct table *t, unsigned number)
{
	return number <= SHM_CLUSTERS_MAX ? t->uses[number] : 0;
}

uint64_t table_hash(const struct table *t, const char *key, size_t len)
{
	return hash_key(t->secret, key, len);
}

const char *table_key_of_hash(const struct table *t, uint64_t hash, size_t *len)
{
	const struct seg_map *m = &t->now->map;
	uint32_t slot = index_home(hash, m->capacity);
	uint32_t last = slot + atomic_load_explicit(&m->table->longest_probe, memory_order_relaxed);

	/* 0 and 1 are one lease hash: they have the same home and the same tag. */
	for (; slot <= last && slot < m->n_entries; slot++) {
		const struct shm_entry *e = gen_entry(t->now, slot);
		uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed);

		if (word == WORD_EMPTY)
			return NULL;
		if (word_live(word) && lease_hash(atomic_load_explicit(&e->hash, memory_order_relaxed)) == hash)
			return (const char *)index_key(m, e, len);
	}
	return NULL;
}

static const struct shm_table *present(const struct table *t)
{
	return gen_header(t->now ? t->now : t->next);
}

uint64_t table_next_cluster(const struct table *t)
{
	return atomic_load_explicit(&present(t)->next_cluster, memory_order_relaxed);
}
uint64_t table_epoch(const struct table *t)
{
	return atomic_load_explicit(&present(t)->epoch, memory_order_relaxed);
}
uint64_t table_document_version(const struct table *t)
{
	return atomic_load_explicit(&present(t)->document_version, memory_order_relaxed);
}

static unsigned name_to_number(void *arg, const char *id, size_t len)
{
	return table_cluster_number(arg, id, len);
}
static const char *number_to_name(void *arg, unsigned number)
{
	const struct shm_cluster *c = table_cluster(arg, number);

	return c ? cluster_id(c) : NULL;
}
struct cluster_names table_names(struct table *t)
{
	return (struct cluster_names){name_to_number, number_to_name, t};
}

int table_walk(const struct table *t,
	       int (*each)(void *arg, const char *key, size_t len, const struct state *, uint64_t document), void *arg)
{
	const struct generation *g = t->now;

	for (uint32_t i = 0; i < g->map.n_entries; i++) {
		const struct shm_entry *e = gen_entry(g, i);
		uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed);
		uint64_t document = atomic_load_explicit(gen_document(g, i), memory_order_relaxed);
		const unsigned char *key;
		struct state s;
		size_t len;
		int rc;

		if (!word_live(word) && (word == WORD_EMPTY || document == 0))
			continue;
		key = index_key(&g->map, e, &len);
		if (!key)
			continue;
		cell_state(g, word, e->det, &s);
		rc = each(arg, (const char *)key, len, &s, document);
		if (rc)
			return rc;
	}
	return 0;
}

void table_stats(const struct table *t, struct table_stats *s)
{
	const struct shm_table *h = gen_header(t->now);

	*s = (struct table_stats){
		.n_live = atomic_load_explicit(&h->n_live, memory_order_relaxed),
		.n_tombstones = atomic_load_explicit(&h->n_tombstones, memory_order_relaxed),
		.capacity = t->now->map.capacity,
		.longest_probe = atomic_load_explicit(&h->longest_probe, memory_order_relaxed),
		.bytes = t->now->limit,
		.reserve_bytes = t->reserve_size,
		.record_bytes_used = t->now->records.used,
		.retired = t->n_retired,
		.grace_periods = t->grace_periods,
		.held_bytes = t->held_bytes,
		.generation = t->now->map.generation,
		.growing = t->growth != GROW_IDLE,
	};
}

/* ---- small changes ---- */

uint64_t table_take_epoch(struct table *t)
{
	uint64_t epoch = table_epoch(t) + 1;

	if (epoch > SHM_EPOCH_MAX)
		return 0;
	/* Release: the counter is there before any word that carries the epoch (P2 of change.c). */
	atomic_store_explicit(&gen_header(t->now)->epoch, epoch, memory_order_release);
	CRASH_POINT(epoch_taken);
	if (t->next)
		atomic_store_explicit(&gen_header(t->next)->epoch, epoch, memory_order_release);
	CRASH_POINT(epoch_taken_beside);
	return epoch;
}

void table_set_document_version(struct table *t, uint64_t version)
{
	atomic_store_explicit(&gen_header(t->now)->document_version, version, memory_order_relaxed);
	CRASH_POINT(document_version_stored);
	if (t->next)
		atomic_store_explicit(&gen_header(t->next)->document_version, version, memory_order_relaxed);
}

void table_set_barrier(struct table *t, uint64_t barrier_ms)
{
	atomic_store_explicit(&t->root->barrier_ms, barrier_ms, memory_order_release);
	CRASH_POINT(new_barrier_stored);
	atomic_store_explicit(&t->root->old_barrier_ms, 0, memory_order_release);
	CRASH_POINT(old_barrier_cleared);
}

int table_barrier(struct table *t)
{
	atomic_thread_fence(memory_order_seq_cst); /* for readers that fence for themselves (shm/grace.h) */
	return t->membarrier ? grace_barrier() : 0;
}

void table_heartbeat(struct table *t)
{
	atomic_store_explicit(&t->root->heartbeat_ms, seg_clock_ms(CLOCK_BOOTTIME), memory_order_relaxed);
	CRASH_POINT(heartbeat_stored);
}
