/* SPDX-License-Identifier: MIT
 * Compares the table with its mirror, entry by entry, in slices: every minute, and at once when somebody asks
 * (`bpf.verify`). What differs is counted, named and stored again; nothing that berthd does makes a difference, so one is
 * somebody else's store into the maps, or a fault. A pass belongs to one generation and begins anew in the next.
 * Control thread only, between changes: no entry is held then. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "table_internal.h"

#define EVERY_MS 60000u
#define STEP 64u /* entries between two looks at the clock */

uint64_t table_compare(struct table *t)
{
	t->compare.asked = true;
	return t->compare.started + 1;
}

const struct table_compared *table_compared(const struct table *t)
{
	return &t->compare.last;
}

/* What the mirror has to say where the table says this (bpf/mirror_table.c, G4). */
static uint64_t expected(const struct shm_entry *e, uint64_t word)
{
	return word_reserved(word) || (word_live(word) && e->n == SHM_KEY_LONG) ? MIRROR_WORD_PASS : word;
}

static bool same_key(const struct shm_entry *e, const struct mirror_entry *m)
{
	if (m->hash != atomic_load_explicit(&e->hash, memory_order_relaxed) || m->len != e->n)
		return false;
	return e->n == SHM_KEY_LONG || memcmp(m->key, e->key, SHM_KEY_INLINE) == 0;
}

static void differs(struct table *t, const char *key, size_t len)
{
	struct table_compared *c = &t->compare.now;

	if (c->n_differ++ == 0) {
		c->first_len = len < sizeof c->first ? len : sizeof c->first;
		memcpy(c->first, key, c->first_len);
	}
}

static void compare_slot(struct table *t, uint32_t slot)
{
	struct generation *g = t->now;
	const struct shm_entry *e = gen_entry(g, slot);
	const struct mirror_entry m = mirror_entry_get(g->mirror, slot);
	uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed);
	bool keyed = word_live(word) || word_reserved(word);
	const unsigned char *key;
	size_t len;

	if (m.word == expected(e, word) && (!keyed || same_key(e, &m)))
		return;
	key = index_key(&g->map, e, &len);
	differs(t, key ? (const char *)key : "(no key)", key ? len : 8);
	if (!word_reserved(word))
		mirror_hold(g->mirror, slot);
	if (key)
		mirror_key(g->mirror, slot, key, len, atomic_load_explicit(&e->hash, memory_order_relaxed));
	if (!word_reserved(word))
		mirror_store(g->mirror, slot, word);
}

static void compare_default(struct table *t)
{
	uint64_t word = atomic_load_explicit(&gen_header(t->now)->dflt.word, memory_order_relaxed);
	uint32_t longest = atomic_load_explicit(&gen_header(t->now)->longest_probe, memory_order_relaxed);

	if (mirror_longest_probe_get(t->now->mirror) != longest) {
		differs(t, "(longest probe)", 15);
		mirror_longest_probe(t->now->mirror, longest);
	}
	if (mirror_entry_get(t->now->mirror, MIRROR_DEFAULT).word == word)
		return;
	differs(t, "(default)", 9);
	mirror_store(t->now->mirror, MIRROR_DEFAULT, word);
}

/* What says how entries are looked for, and whether they are. */
static void compare_control(struct table *t)
{
	int rc = mirror_mend(t->mirror, t->now->mirror, t->secret, t->now->map.termgen);

	if (rc == 0)
		return;
	differs(t, "(control)", 9);
	if (rc < 0)
		snprintf(t->mirror_off, sizeof t->mirror_off,
			 "the mirror's control is not as it was stored, and the kernel does not wait for programs: %s; "
			 "restart berthd, with the capability CAP_BPF",
			 strerror(errno));
}

static void begin(struct table *t)
{
	t->compare.asked = false;
	t->compare.runs = true;
	t->compare.at = 0;
	t->compare.generation = t->now->map.generation;
	t->compare.now = (struct table_compared){.run = ++t->compare.started};
}

static void end(struct table *t, uint64_t now_ms)
{
	struct mirror_control *c = mirror_control(t->mirror);

	compare_default(t);
	compare_control(t);
	c->n_compared += t->compare.now.entries;
	c->n_differences += t->compare.now.n_differ;
	c->compared_ms = seg_clock_ms(CLOCK_BOOTTIME);
	t->compare.last = t->compare.now;
	t->compare.runs = false;
	t->compare.next_ms = now_ms + EVERY_MS;
}

uint64_t mirror_compare_step(struct table *t, uint64_t now_ms, uint64_t until_ns)
{
	uint32_t n = t->now->map.n_entries;

	if (!t->now->mirror) {
		if (t->compare.asked || t->compare.runs) { /* whoever waits for it is told why there is none */
			t->compare.asked = t->compare.runs = false;
			t->compare.last = (struct table_compared){.run = ++t->compare.started};
		}
		return UINT64_MAX;
	}
	if (t->compare.next_ms == 0)
		t->compare.next_ms = now_ms + EVERY_MS;
	if (!t->compare.runs) {
		if (!t->compare.asked && now_ms < t->compare.next_ms)
			return t->compare.next_ms - now_ms;
		begin(t);
	}
	if (t->compare.generation != t->now->map.generation) {
		t->compare.generation = t->now->map.generation;
		t->compare.at = 0;
	}
	while (t->compare.at < n) {
		for (unsigned i = 0; i < STEP && t->compare.at < n; i++, t->compare.at++, t->compare.now.entries++)
			compare_slot(t, t->compare.at);
		if (t->compare.at < n && seg_clock_ns(CLOCK_MONOTONIC) >= until_ns)
			return 0;
	}
	end(t, now_ms);
	return t->compare.asked ? 0 : EVERY_MS;
}
