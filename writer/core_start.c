/* SPDX-License-Identifier: MIT
 * Opening and closing the core. A start never trusts a table that a dead writer left: it builds a new generation from
 * what the store has committed (core_rows.c), or, for a store that keeps nothing, from the words of the last generation
 * (core_rebuild.c), and flips to it.
 *
 *   store's metas -> root, ledger -> new generation: clusters, default, partitions, counters
 *     -> metas committed (this root, this boot, this term) -> flip -> standing cutovers published anew
 *
 * The metas are committed before the flip: a root that readers use is one that the store knows. Control thread only. */
#include "core_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the store knows of the instance ----------------------------------------------------------------------- */

struct metas {
	struct counters counters;
	uint64_t barrier_ms, term;
	char uuid[64], boot_id[64];
	struct refusal *r;
};

static int see_meta(void *arg, const char *name, const char *value)
{
	struct metas *m = arg;
	struct refusal *r = m->r;
	struct {
		const char *name;
		uint64_t *number;
		char *text;
	} const known[] = {{"epoch", &m->counters.epoch, NULL},
			   {"next_cluster", &m->counters.next_cluster, NULL},
			   {"document_version", &m->counters.document_version, NULL},
			   {"barrier_ms", &m->barrier_ms, NULL},
			   {"term", &m->term, NULL},
			   {"uuid", NULL, m->uuid},
			   {"boot_id", NULL, m->boot_id}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		char *end = NULL;

		if (strcmp(name, known[i].name) != 0)
			continue;
		if (known[i].number) {
			errno = 0;
			*known[i].number = strtoull(value, &end, 10);
		}
		if (known[i].number ? errno || end == value || *end || *value == '-'
				    : strlen(value) >= sizeof(m->uuid)) {
			refuse(r, R_BACKEND, "the store says that %s is \"%.64s\", which cannot be: restore the store",
			       name, value);
			return -1;
		}
		if (known[i].text)
			memcpy(known[i].text, value, strlen(value) + 1);
		break;
	}
	return 0;
}

static enum store_result put_metas(struct core *c, const struct counters *n, struct refusal *r)
{
	struct {
		const char *name, *value;
	} const texts[] = {{"uuid", table_uuid(c->table)}, {"boot_id", table_boot_id(c->table)}};
	struct {
		const char *name;
		uint64_t value;
	} const numbers[] = {{"term", table_term(c->table)},
			     {"epoch", n->epoch},
			     {"next_cluster", n->next_cluster},
			     {"barrier_ms", c->stored_barrier_ms}};
	enum store_result result = c->ops->begin(c->store, r);

	if (result != STORE_OK)
		return result;
	for (size_t i = 0; result == STORE_OK && i < sizeof(texts) / sizeof(texts[0]); i++)
		result = c->ops->put_meta(c->store, texts[i].name, texts[i].value, r);
	for (size_t i = 0; result == STORE_OK && i < sizeof(numbers) / sizeof(numbers[0]); i++)
		result = core_put_number(c, numbers[i].name, numbers[i].value, r);
	if (result == STORE_OK)
		return c->ops->commit(c->store, r);
	if (result == STORE_FAILED)
		c->ops->rollback(c->store);
	return result;
}

/* ---- what the last writer left in root ------------------------------------------------------------------------- */

struct last_root {
	uint64_t barrier_ms, termgen;
	char uuid[33];
};

/* False, with errno: there may be one, but it cannot be looked at. */
static bool look_at_root(const struct instance *instance, struct last_root *out)
{
	const struct shm_root *root = NULL;
	struct last_root last = {0};
	uint64_t old_ms;
	int rc = seg_root_map(instance->dir_fd, &root);

	*out = last;
	if (rc != BERTH_OK)
		return rc != BERTH_E_SYSTEM;
	last.barrier_ms = atomic_load_explicit(&root->barrier_ms, memory_order_acquire);
	old_ms = atomic_load_explicit(&root->old_barrier_ms, memory_order_relaxed);
	last.barrier_ms = old_ms ? old_ms : last.barrier_ms;
	last.termgen = atomic_load_explicit(&root->termgen, memory_order_acquire);
	for (unsigned i = 0; i < 16; i++)
		snprintf(last.uuid + 2 * i, 3, "%02x", root->uuid[i]);
	seg_root_unmap(&root);
	*out = last;
	return true;
}

/* Readers have a generation that this writer cannot read, and no store has a copy: starting empty would lose it all. */
static bool generation_lost(const struct core *c, const struct core_options *options, const struct last_root *last)
{
	return !c->ops->durable && !options->new_directory && last->termgen && !table_previous(c->table) &&
	       strcmp(last->uuid, table_uuid(c->table)) == 0;
}

/* Readers have partitions, and the durable store has never heard of an instance: they would see an empty table. The
 * metas come before the flip, so the store of whoever served this table knows one. */
static enum refusal_code check_store(const struct core *c, const struct core_options *options, const char *argument,
				     const char *uuid, const struct instance *instance, struct refusal *r)
{
	const struct seg_map *previous = table_previous(c->table);
	uint64_t live;
	bool dflt;

	if (!previous || !c->ops->durable || options->new_directory || *uuid)
		return R_DONE;
	live = atomic_load_explicit(&previous->table->n_live, memory_order_relaxed);
	dflt = word_live(atomic_load_explicit(&previous->table->dflt.word, memory_order_relaxed));
	if (!live && !dflt)
		return R_DONE;
	return refuse(
		r, R_INVALID,
		"store %s:%.96s knows of no instance, but readers of %.96s see %llu partition%s%s now, of another "
		"store: give that one with --store; or go over to this one: `berth dump`, start with "
		"--new-directory, `berth load`; or give them up: --new-directory alone",
		c->ops->scheme, argument, instance->path, (unsigned long long)live, live == 1 ? "" : "s",
		dflt ? " and a default" : "");
}

/* ---- the barrier's length over restarts ------------------------------------------------------------------------- */

/* The old length stays in the store until the rules that come from it are over (core_step), so that a writer that dies
 * before then leaves them standing. */
static void take_barrier(struct core *c, const struct core_options *options, uint64_t stored, uint64_t in_root)
{
	c->rule.barrier_ms = options->barrier_ms;
	c->rule.old_ms = stored ? stored : in_root;
	c->stored_barrier_ms = c->rule.old_ms ? c->rule.old_ms : c->rule.barrier_ms;
}

/* ---- standing migrations ---------------------------------------------------------------------------------------- */

enum refusal_code core_found_migration(struct core *c, const char *key, size_t len, const struct state *state,
				       struct refusal *r)
{
	struct migration_item *item = migrations_reserve(&c->migrations, key, len);

	if (!item)
		return refuse(r, R_FULL, "no memory for the list of migrations: give the daemon more");
	migrations_append(&c->migrations, item);
	if (state->phase == PHASE_CUTOVER)
		item->epoch = state->epoch; /* held once the flip has shown it to readers */
	return R_DONE;
}

static bool stands(const void *arg, uint64_t epoch)
{
	const struct migrations *m = arg;

	for (size_t i = 0; i < m->n; i++)
		if (m->items[i]->epoch == epoch)
			return true;
	return false;
}

/* The flip has stored the words of all cutovers; they count as published from the barrier after it on, unless the
 * ledger proves that a writer before this one has published the same epoch. */
static void stand_cutovers(struct core *c)
{
	uint64_t now = core_now(c);

	migrations_sort(&c->migrations);
	table_cutovers_sweep(c->table, stands, &c->migrations);
	for (size_t i = 0; i < c->migrations.n; i++) {
		struct migration_item *item = c->migrations.items[i];
		uint64_t proved;

		if (!item->epoch)
			continue;
		migrations_hold(&c->migrations, item, item->epoch, now);
		if (table_cutover_find(c->table, item->epoch, &proved) && proved && proved <= now)
			item->proved_ms = proved;
	}
	core_publish_cutovers(c);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static void raise_to(uint64_t *n, uint64_t least)
{
	if (*n < least)
		*n = least;
}

/* The new generation, whole, but not shown to anybody. */
static enum refusal_code build(struct core *c, struct counters *n, struct refusal *r)
{
	const struct seg_map *previous = table_previous(c->table);
	uint64_t rows = 0;
	enum refusal_code code;

	if (c->ops->durable) {
		r->code = R_DONE;
		if (c->ops->count(c->store, &rows, r) != 0)
			return core_failed(c, STORE_FAILED, r);
	} else if (previous) {
		rows = core_rebuild_count(previous);
	}
	if ((code = table_build(c->table, rows, r)) != R_DONE)
		return code;
	if (c->ops->durable)
		code = core_load_rows(c, n, r);
	else if (previous)
		code = core_rebuild(c, previous, n, r);
	if (code != R_DONE)
		return code;
	if (previous) { /* of the same root: what its writer has tried is burnt, committed or not */
		uint64_t epoch = atomic_load_explicit(&previous->table->epoch, memory_order_acquire);
		uint64_t next = atomic_load_explicit(&previous->table->next_cluster, memory_order_relaxed);

		if (epoch <= SHM_EPOCH_MAX)
			raise_to(&n->epoch, epoch);
		if (next <= SHM_CLUSTERS_MAX + 1u)
			raise_to(&n->next_cluster, next);
	}
	raise_to(&n->next_cluster, 1);
	if (n->epoch > SHM_EPOCH_MAX)
		return refuse(r, R_BACKEND,
			      "the store holds epoch %llu, the highest possible is %llu: restore the store",
			      (unsigned long long)n->epoch, (unsigned long long)SHM_EPOCH_MAX);
	table_load_counters(c->table, n->epoch, n->next_cluster, n->document_version, n->default_document);
	return R_DONE;
}

static uint64_t clock_monotonic(void *arg)
{
	(void)arg;
	return seg_clock_ms(CLOCK_MONOTONIC);
}

enum refusal_code core_open_with(struct instance *instance, const struct core_options *options,
				 const struct store_ops *ops, const char *argument, struct core **out,
				 struct refusal *r)
{
	struct core *c = calloc(1, sizeof(*c));
	struct metas metas = {.r = r};
	const struct store_visitor visitor = {.meta = see_meta, .arg = &metas};
	struct table_options table = {.new_directory = options->new_directory, .bpf = options->bpf};
	struct last_root last;
	enum store_result written;
	enum refusal_code code;

	*out = NULL;
	if (!c)
		return refuse(r, R_FULL, "no memory to start: give the daemon more");
	if (!look_at_root(instance, &last)) {
		code = refuse(r, R_BACKEND, "%s/root: %s: free memory or descriptors, then start again", instance->path,
			      strerror(errno));
		goto fail;
	}
	c->ops = ops;
	c->hand_at = malloc(sizeof(*c->hand_at));
	c->hand_to = malloc(sizeof(*c->hand_to));
	if (!c->hand_at || !c->hand_to) {
		code = refuse(r, R_FULL, "no memory to start: give the daemon more");
		goto fail;
	}
	c->clock = options->monotonic_ms ? options->monotonic_ms : clock_monotonic;
	c->clock_arg = options->clock_arg;
	if ((code = ops->open(argument, &c->store, r)) != R_DONE)
		goto fail;
	r->code = R_DONE;
	if (ops->load(c->store, &visitor, r) != 0) {
		code = core_failed(c, STORE_FAILED, r);
		goto fail;
	}
	take_barrier(c, options, metas.barrier_ms, last.barrier_ms);
	/* Readers keep what they saw for the longer of the two. */
	table.old_barrier_ms = c->rule.old_ms;
	table.barrier_ms = c->rule.old_ms > c->rule.barrier_ms ? c->rule.old_ms : c->rule.barrier_ms;
	table.uuid = metas.uuid;
	table.boot_id = metas.boot_id;
	table.term = metas.term < UINT32_MAX ? metas.term : 0;
	table.durable = ops->durable;
	table.monotonic_ms = c->clock;
	table.clock_arg = c->clock_arg;
	if ((code = table_open(instance, &table, &c->table, r)) != R_DONE)
		goto fail;
	c->drainer = drain_open(c->table);
	if (!c->drainer) {
		code = refuse(r, R_FULL, "no memory to start: give the daemon more");
		goto fail;
	}
	if (generation_lost(c, options, &last)) {
		code = refuse(
			r, R_BACKEND,
			"the last generation of the table in %.256s cannot be read, and store %s: keeps no copy: run "
			"`berth verify`, or give up what it holds with --new-directory",
			instance->path, ops->scheme);
		goto fail;
	}
	if ((code = check_store(c, options, argument, metas.uuid, instance, r)) != R_DONE)
		goto fail;
	if ((code = build(c, &metas.counters, r)) != R_DONE)
		goto fail;
	r->code = R_DONE;
	written = put_metas(c, &metas.counters, r);
	if (written != STORE_OK) { /* nothing in it but this start's own names: the next start writes them again */
		code = core_failed(c, STORE_FAILED, r);
		goto fail;
	}
	if ((code = table_flip(c->table, r)) != R_DONE)
		goto fail;
	c->rule.start_ms = core_now(c);
	stand_cutovers(c);
	*out = c;
	return R_DONE;
fail:
	core_close(&c);
	return code;
}

enum refusal_code core_open(struct instance *instance, const struct core_options *options, struct core **out,
			    struct refusal *r)
{
	const struct store_ops *ops;
	const char *argument;
	enum refusal_code code = store_find(options->store_url, &ops, &argument, r);

	*out = NULL;
	return code == R_DONE ? core_open_with(instance, options, ops, argument, out, r) : code;
}

void core_close(struct core **core)
{
	struct core *c = *core;

	if (!c)
		return;
	core_load_cancel(c);
	while (core_load_orphan_step(c, UINT32_MAX)) /* what is committed is published, for stores that keep nothing */
		;
	core_load_free(&c->load);
	hand_drop(&c->hand);
	drain_close(&c->drainer);
	migrations_free(&c->migrations);
	table_close(&c->table);
	if (c->store)
		c->ops->close(&c->store);
	free(c->hand_at);
	free(c->hand_to);
	free(c);
	*core = NULL;
}
