/* SPDX-License-Identifier: MIT
 * From the last generation into the one that is being built, for a store that keeps nothing: what readers saw is what
 * there is. Reads it as a reader does, word first, details checked; nobody writes it any more. Damage refuses the
 * start. Called by core_start.c; control thread. */
#include "../shm/index.h"
#include "core_internal.h"
#include "text.h"

static enum refusal_code damaged(struct refusal *r, const char *what, const char *key)
{
	return refuse(r, R_BACKEND,
		      "the last generation of the table is damaged (%s%s%s), and this store keeps no copy: run `berth "
		      "verify`, or start with an empty directory",
		      what, key ? " of " : "", key ? key : "");
}

/* What the last document said of the entry with this word: what is stored for it, unless the writer was killed before
 * it came to that. */
static uint64_t document_of(const struct seg_map *m, uint64_t word, const _Atomic uint64_t *stored)
{
	uint64_t under_way = atomic_load_explicit(&m->table->said_epoch, memory_order_acquire);

	return atomic_load_explicit(under_way && under_way == word_epoch(word) ? &m->table->said_document : stored,
				    memory_order_relaxed);
}

/* Something that a start has to take over: an entry, or a tombstone whose document is remembered. */
static bool wanted(const struct seg_map *m, uint32_t slot, uint64_t *word, uint64_t *document)
{
	*word = atomic_load_explicit(&m->entries[slot].word, memory_order_acquire); /* pairs with table_publish */
	*document = document_of(m, *word, &m->documents[slot]);
	/* A tombstone without an epoch is a slot that was taken for a change that never came. */
	return word_live(*word) || (word_epoch(*word) && *document);
}

uint64_t core_rebuild_count(const struct seg_map *m)
{
	uint64_t n = 0, word, document;

	for (uint32_t i = 0; i < m->n_entries; i++)
		n += wanted(m, i, &word, &document);
	return n;
}

/* False: a record is damaged, or is not what the word says. */
static bool state_of(const struct seg_map *m, uint64_t word, const _Atomic uint32_t det[2], struct state *s)
{
	unsigned which = word_which(word);

	*s = (struct state){.epoch = word_epoch(word)};
	if (!word_live(word))
		return true;
	s->phase = (enum word_phase)word_phase(word);
	s->at = seg_detail(m, atomic_load_explicit(&det[which], memory_order_acquire));
	if (!s->at || s->at->cluster != word_cluster(word) || s->at->kind != word_kind(word) || s->epoch == 0)
		return false;
	if (s->phase == PHASE_SETTLED)
		return true;
	s->to = seg_detail(m, atomic_load_explicit(&det[!which], memory_order_acquire));
	return s->to && (s->phase == PHASE_DRAINING || s->phase == PHASE_CUTOVER);
}

static enum refusal_code clusters(struct core *c, const struct seg_map *m, struct counters *n, struct refusal *r)
{
	for (unsigned number = 1; number < m->n_cluster_slots && number <= SHM_CLUSTERS_MAX; number++) {
		bool none = false;
		const struct shm_cluster *cluster = seg_cluster(m, number, &none);
		enum refusal_code code;

		if (none)
			continue;
		if (!cluster)
			return damaged(r, "a cluster", NULL);
		code = table_load_cluster(c->table, number, cluster_id(cluster), cluster_endpoint(cluster), r);
		if (code != R_DONE)
			return code;
		if (n->next_cluster <= number)
			n->next_cluster = number + 1u;
	}
	return R_DONE;
}

static enum refusal_code entry(struct core *c, const struct seg_map *m, uint32_t slot, uint64_t word, uint64_t document,
			       struct refusal *r)
{
	const struct shm_entry *e = &m->entries[slot];
	char shown[TEXT_SHOWN];
	struct state state;
	size_t len;
	const char *key = (const char *)index_key(m, e, &len);
	enum refusal_code code;

	if (!key)
		return damaged(r, "a key", NULL);
	if (!state_of(m, word, e->det, &state))
		return damaged(r, "the placement", text_show(shown, sizeof(shown), key, len));
	code = table_load(c->table, key, len, &state, document, r);
	return code == R_DONE && state.to ? core_found_migration(c, key, len, &state, r) : code;
}

enum refusal_code core_rebuild(struct core *c, const struct seg_map *m, struct counters *n, struct refusal *r)
{
	const struct shm_table *t = m->table;
	uint64_t word, document;
	struct state state;
	enum refusal_code code = clusters(c, m, n, r);

	if (code != R_DONE)
		return code;
	n->document_version = atomic_load_explicit(&t->document_version, memory_order_relaxed);
	word = atomic_load_explicit(&t->dflt.word, memory_order_acquire); /* pairs with table_publish */
	n->default_document = document_of(m, word, &t->default_document);
	if (!state_of(m, word, t->dflt.det, &state) || state.to)
		return damaged(r, "the default placement", NULL);
	if (word != WORD_EMPTY || n->default_document)
		code = table_load(c->table, NULL, 0, &state, n->default_document, r);
	for (uint32_t i = 0; code == R_DONE && i < m->n_entries; i++)
		if (wanted(m, i, &word, &document))
			code = entry(c, m, i, word, document, r);
	return code;
}
