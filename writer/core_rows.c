/* SPDX-License-Identifier: MIT
 * From the rows of a durable store into the generation that is being built. A row that cannot be is damage: the start
 * is refused and says which, for a guess would route somebody's writes. Called by core_start.c; control thread.
 *
 * The states of most rows are the same few texts, or differ in the index name alone. So a text that was parsed is
 * remembered without its index name, and the next row that reads the same gets the same placement with its own name:
 * that makes a million rows a matter of a second. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core_internal.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define MEMO_ROWS 4096u /* direct-mapped, a power of two */

/* A text around the value of its one index, or the whole of it: as state_to_json writes it, `"index":"` is nowhere
 * else, for within a string its quotes would be escaped. */
struct cut {
	const char *before, *index, *after; /* index NULL: not cut, all of it is `before` */
	size_t before_len, index_len, after_len;
	uint64_t hash;
};

struct memo_row {   /* a text that was parsed, and what it says */
	char *text; /* before, then after */
	size_t before_len, after_len;
	uint64_t hash;
	bool indexed;
	enum word_phase phase;
	struct shm_detail *at, *to;
};

struct loading {
	struct core *core;
	struct counters *counters;
	struct cluster_names names;
	struct memo_row memo[MEMO_ROWS];
	union detail_buffer *at, *to;
	struct refusal *r;
};

/* ---- the memo --------------------------------------------------------------------------------------------------- */

static struct cut cut_text(const char *text)
{
	static const char settled[] = "{\"at\":", key[] = "\"index\":\"";
	struct cut c = {.before = text, .before_len = strlen(text)};
	const char *at = strncmp(text, settled, sizeof(settled) - 1) == 0 ? strstr(text, key) : NULL;
	const char *end = at ? strchr(at + sizeof(key) - 1, '"') : NULL;

	if (end && !memchr(at, '\\', (size_t)(end - at))) {
		c.index = at + sizeof(key) - 1;
		c.index_len = (size_t)(end - c.index);
		c.after = end;
		c.after_len = c.before_len - (size_t)(end - text);
		c.before_len = (size_t)(c.index - text);
	}
	c.hash = XXH3_64bits_withSeed(c.before, c.before_len, c.index != NULL);
	if (c.after_len)
		c.hash = XXH3_64bits_withSeed(c.after, c.after_len, c.hash);
	return c;
}

static bool memo_is(const struct memo_row *row, const struct cut *c)
{
	return row->text && row->hash == c->hash && row->indexed == (c->index != NULL) &&
	       row->before_len == c->before_len && row->after_len == c->after_len &&
	       memcmp(row->text, c->before, c->before_len) == 0 &&
	       (!c->after_len || memcmp(row->text + c->before_len, c->after, c->after_len) == 0);
}

static struct shm_detail *detail_copy(const struct shm_detail *d)
{
	struct shm_detail *copy = d ? malloc(d->size) : NULL;

	return copy ? memcpy(copy, d, d->size) : NULL;
}

static void memo_forget(struct memo_row *row)
{
	free(row->text);
	free(row->at);
	free(row->to);
	*row = (struct memo_row){0};
}

/* Without memory for it the row is simply not remembered. */
static void memo_keep(struct memo_row *row, const struct cut *c, const struct state *state)
{
	memo_forget(row);
	row->text = malloc(c->before_len + c->after_len + 1);
	row->at = detail_copy(state->at);
	row->to = detail_copy(state->to);
	if (!row->text || !row->at || (state->to && !row->to)) {
		memo_forget(row);
		return;
	}
	memcpy(row->text, c->before, c->before_len);
	if (c->after_len)
		memcpy(row->text + c->before_len, c->after, c->after_len);
	row->before_len = c->before_len;
	row->after_len = c->after_len;
	row->hash = c->hash;
	row->indexed = c->index != NULL;
	row->phase = state->phase;
}

/* The remembered placement with another index name. */
static enum refusal_code with_index(struct loading *l, const struct shm_detail *d, const struct cut *c)
{
	enum refusal_code code = check_index(c->index, c->index_len, "$.at.index", l->r);
	struct detail_inject pair;
	int rc;

	if (code != R_DONE)
		return code;
	rc = detail_start(l->at, d->kind, d->cluster, c->index, c->index_len);
	for (unsigned i = 0; rc == BERTH_OK && detail_inject(d, i, &pair); i++)
		rc = detail_add_inject(l->at, pair.field, pair.field_len, pair.kind, pair.value, pair.value_len);
	if (rc != BERTH_OK)
		return refuse(l->r, R_BACKEND, "its placement is too long");
	detail_finish(l->at);
	return R_DONE;
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

static enum refusal_code parse_state(struct loading *l, const char *text, struct state *state)
{
	json_error_t error;
	json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	enum refusal_code code;

	if (!json)
		return refuse(l->r, R_BACKEND, "%s", error.text);
	code = state_from_json(json, &l->names, l->at, l->to, state, l->r);
	json_decref(json);
	if (code == R_DONE && !state->at)
		return refuse(l->r, R_BACKEND, "it says that there is nothing");
	return code;
}

static enum refusal_code state_of(struct loading *l, const char *text, struct state *state)
{
	const struct cut c = cut_text(text);
	struct memo_row *row = &l->memo[c.hash & (MEMO_ROWS - 1)];
	enum refusal_code code;

	if (memo_is(row, &c)) {
		*state = (struct state){.phase = row->phase, .at = row->at, .to = row->to};
		if (!row->indexed)
			return R_DONE;
		state->at = &l->at->detail;
		return with_index(l, row->at, &c);
	}
	code = parse_state(l, text, state);
	if (code == R_DONE && !(c.index && state->to)) /* another order of keys: the index may be that of `to` */
		memo_keep(row, &c, state);
	return code;
}

static int damaged(struct loading *l, const struct store_partition *p, const char *why)
{
	char shown[TEXT_SHOWN];

	refuse(l->r, R_BACKEND, "the store's row of %s%s is damaged: %s; restore the store",
	       p->key_len ? "partition " : "the default placement",
	       p->key_len ? text_show(shown, sizeof(shown), p->key, p->key_len) : "", why);
	return -1;
}

static int see_partition(void *arg, const struct store_partition *p)
{
	struct loading *l = arg;
	struct state state = {0};
	struct refusal said;
	enum refusal_code code;

	if (p->key_len && check_partition(p->key, p->key_len, "", &said) != R_DONE)
		return damaged(l, p, said.message);
	if (p->epoch > SHM_EPOCH_MAX || (p->state && p->epoch == 0))
		return damaged(l, p, "its epoch is out of range");
	if (p->state && state_of(l, p->state, &state) != R_DONE) {
		said = *l->r;
		return damaged(l, p, said.message);
	}
	if (!p->key_len && state.to)
		return damaged(l, p, "it is in a migration");
	state.epoch = p->epoch;
	if (l->counters->epoch < p->epoch)
		l->counters->epoch = p->epoch;
	if (!p->key_len)
		l->counters->default_document = p->document;
	code = table_load(l->core->table, p->key_len ? p->key : NULL, p->key_len, &state, p->document, l->r);
	if (code == R_DONE && state.to)
		code = core_found_migration(l->core, p->key, p->key_len, &state, l->r);
	return code == R_DONE ? 0 : -1;
}

static int see_cluster(void *arg, const struct store_cluster *cluster)
{
	struct loading *l = arg;
	const char *endpoint = cluster->endpoint ? cluster->endpoint : "";
	struct refusal said;

	if (cluster->number == 0 || cluster->number > SHM_CLUSTERS_MAX) {
		refuse(l->r, R_BACKEND, "the store's cluster \"%.64s\" has the number %u: restore the store",
		       cluster->id ? cluster->id : "", cluster->number);
		return -1;
	}
	if (l->counters->next_cluster <= cluster->number)
		l->counters->next_cluster = cluster->number + 1u;
	if (!cluster->id) /* removed */
		return 0;
	if (check_cluster_id(cluster->id, strlen(cluster->id), "", &said) != R_DONE ||
	    check_endpoint(endpoint, strlen(endpoint), "", &said) != R_DONE) {
		refuse(l->r, R_BACKEND, "the store's cluster number %u is damaged: %s; restore the store",
		       cluster->number, said.message);
		return -1;
	}
	return table_load_cluster(l->core->table, cluster->number, cluster->id, endpoint, l->r) == R_DONE ? 0 : -1;
}

enum refusal_code core_load_rows(struct core *c, struct counters *counters, struct refusal *r)
{
	struct loading *l = calloc(1, sizeof(*l));
	const struct store_visitor visitor = {.cluster = see_cluster, .partition = see_partition, .arg = l};
	union detail_buffer at, to;
	enum refusal_code code = R_DONE;

	if (!l)
		return refuse(r, R_FULL, "no memory to load the store: give the daemon more");
	l->core = c;
	l->counters = counters;
	l->names = table_names(c->table);
	l->at = &at;
	l->to = &to;
	l->r = r;
	r->code = R_DONE;
	if (c->ops->load(c->store, &visitor, r) != 0)
		code = core_failed(c, STORE_FAILED, r);
	for (unsigned i = 0; i < MEMO_ROWS; i++)
		memo_forget(&l->memo[i]);
	free(l);
	return code;
}
