/* SPDX-License-Identifier: MIT
 * migrations.h: a sorted array of pointers (a begin or an end moves eight bytes for each migration behind it; a commit
 * costs more than that for any number of them), and the arithmetic of the barrier. Called by the core; control thread.
 */
#include "migrations.h"

#include <stdlib.h>
#include <string.h>

#include "../shm/lease.h"

static int compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int c = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int compare_items(const void *a, const void *b)
{
	const struct migration_item *x = *(struct migration_item *const *)a, *y = *(struct migration_item *const *)b;

	return compare(x->key, x->key_len, y->key, y->key_len);
}

/* Where key is, or where it would be. */
static size_t position(const struct migrations *m, const char *key, size_t len, bool *here)
{
	size_t low = 0, high = m->n;

	*here = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int c = compare(m->items[middle]->key, m->items[middle]->key_len, key, len);

		if (c == 0) {
			*here = true;
			return middle;
		}
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void migrations_free(struct migrations *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->items[i]);
	free(m->items);
	*m = (struct migrations){0};
}

struct migration_item *migrations_find(const struct migrations *m, const char *key, size_t len)
{
	bool here;
	size_t at = position(m, key, len, &here);

	return here ? m->items[at] : NULL;
}

struct migration_item *migrations_reserve(struct migrations *m, const char *key, size_t len)
{
	struct migration_item *item;

	if (m->n == m->room) {
		size_t room = m->room ? 2 * m->room : 64;
		struct migration_item **items = realloc(m->items, room * sizeof(*items));

		if (!items)
			return NULL;
		m->items = items;
		m->room = room;
	}
	item = malloc(sizeof(*item) + len + 1);
	if (!item)
		return NULL;
	*item = (struct migration_item){.key_len = len};
	memcpy(item->key, key, len);
	item->key[len] = '\0';
	return item;
}

void migrations_insert(struct migrations *m, struct migration_item *item)
{
	bool here;
	size_t at = position(m, item->key, item->key_len, &here);

	memmove(m->items + at + 1, m->items + at, (m->n - at) * sizeof(*m->items));
	m->items[at] = item;
	m->n++;
}

void migrations_append(struct migrations *m, struct migration_item *item)
{
	m->items[m->n++] = item;
}

void migrations_sort(struct migrations *m)
{
	if (m->n)
		qsort(m->items, m->n, sizeof(*m->items), compare_items);
}

void migrations_end(struct migrations *m, struct migration_item *item)
{
	bool here;
	size_t at = position(m, item->key, item->key_len, &here);

	if (item->epoch && !item->published)
		m->n_unpublished--;
	m->n--;
	memmove(m->items + at, m->items + at + 1, (m->n - at) * sizeof(*m->items));
	free(item);
}

void migrations_hold(struct migrations *m, struct migration_item *item, uint64_t epoch, uint64_t now_ms)
{
	item->epoch = epoch;
	item->held_ms = now_ms;
	item->proved_ms = 0;
	item->published = false;
	m->n_unpublished++;
}

void migrations_published(struct migrations *m, struct migration_item *item, uint64_t now_ms)
{
	item->published = true;
	item->published_ms = item->proved_ms ? item->proved_ms : now_ms;
	if (item->proved_ms && item->proved_ms < item->held_ms)
		item->held_ms = item->proved_ms;
	m->n_unpublished--;
}

/* The first ms at which something of this moment is older than the span. */
static uint64_t older_at(uint64_t moment_ms, uint64_t span_ms)
{
	return moment_ms + span_ms + LEASE_SLACK_MS + 1;
}

uint64_t barrier_rule_ends_ms(const struct barrier_rule *rule)
{
	if (!rule->old_ms || rule->old_ms == rule->barrier_ms)
		return rule->start_ms;
	return older_at(rule->start_ms, rule->old_ms > rule->barrier_ms ? rule->old_ms : rule->barrier_ms);
}

uint64_t barrier_over_ms(const struct barrier_rule *rule, uint64_t moment_ms)
{
	uint64_t over = older_at(moment_ms, rule->barrier_ms), ends = barrier_rule_ends_ms(rule);

	if (rule->old_ms <= rule->barrier_ms)
		return over;
	if (over < ends)
		over = ends; /* a shorter barrier counts once the old one has passed ... */
	if (older_at(moment_ms, rule->old_ms) < over)
		over = older_at(moment_ms, rule->old_ms); /* ... which may be so for this moment before */
	return over;
}

static void blame(struct barrier *b, const struct barrier_who *who)
{
	b->packet = who->packet;
	b->n_pids = who->n;
	memcpy(b->pids, who->pids, sizeof(b->pids));
}

/* Of the writes whose end nobody saw: the one that is over last. */
static bool judge_ends(const struct barrier_rule *rule, const struct barrier_facts *f, uint64_t now_ms,
		       struct barrier *b)
{
	const struct {
		const char *reason;
		uint64_t end_ms;
		const struct barrier_who *who;
	} ends[] = {{"unknown-outcome", f->unknown.end_ms, &f->unknown.who},
		    {"unknown-overflow", f->overflow.end_ms, &f->overflow.who},
		    {"reader-died", f->died.end_ms, &f->died.who}};
	unsigned latest = 0;

	for (unsigned i = 1; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (ends[i].end_ms > ends[latest].end_ms)
			latest = i;
	if (!ends[latest].end_ms || now_ms >= barrier_over_ms(rule, ends[latest].end_ms))
		return false;
	b->reason = ends[latest].reason;
	b->remaining_ms = barrier_over_ms(rule, ends[latest].end_ms) - now_ms;
	blame(b, ends[latest].who);
	return true;
}

struct barrier barrier_judge(const struct barrier_rule *rule, const struct migration_item *item,
			     const struct barrier_facts *f, uint64_t now_ms)
{
	struct barrier b = {.in_flight = f->in_flight};
	uint64_t held = rule->old_ms && rule->old_ms < rule->barrier_ms ? barrier_rule_ends_ms(rule) : 0, due = held;

	if (!item->published) {
		b.reason = "not-published";
		b.remaining_ms = older_at(0, rule->barrier_ms);
		return b;
	}
	if (now_ms >= held) {
		if (!f->looked || f->in_flight) {
			b.reason = "leases-open";
			blame(&b, &f->open);
			return b;
		}
		if (judge_ends(rule, f, now_ms, &b))
			return b;
	}
	if ((f->unbracketed || (f->left_ms && barrier_over_ms(rule, f->left_ms) > item->published_ms)) &&
	    due < barrier_over_ms(rule, item->published_ms))
		due = barrier_over_ms(rule, item->published_ms);
	if (now_ms < due) {
		b.reason = "reader-without-leases";
		b.remaining_ms = due - now_ms;
		blame(&b, &f->without);
	}
	return b;
}
