/* SPDX-License-Identifier: MIT
 * One generation's entries: an inner map, mapped into berthd, and the stores of a change. Called through mirror.h by the
 * control thread; mirror_table_make and _free by the mirror's thread too. No system call but in these two.
 *
 * What orders the stores (M1, M2), against packet programs and against whoever reads table and mirror:
 * G1 mirror_hold, the table's word, mirror_store: the table's word is stored with release (P1 of writer/change.c), so the
 *    pass before it is seen by whoever sees it; the new word is stored here with release, so whoever loads it with acquire
 *    sees the table's word, or a later one. On x86-64 a program's plain load is one that acquires; elsewhere it needs
 *    BPF's load-acquire.
 * G2 mirror_key stores the key's bytes before the word (release): a program that loads a word that is neither 0 nor a
 *    tombstone compares with a complete key. It loads the word first, the key after it.
 * G3 The longest probe is stored (release) before the word of an entry that needs it, and never lowered.
 * G4 The slot of a key too long for it says pass whenever another one would say where its partition is; a program passes
 *    such names up before it looks, and no name that it looks for has the length 0xff. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/word.h"

#define KEY_LONG 0xffu

int mirror_inner_create(uint32_t n_elements)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);

	return bpf_map_create(BPF_MAP_TYPE_ARRAY, "berth_entries", 4, MIRROR_ENTRY, n_elements, &opts);
}

struct mirror_table *mirror_table_make(struct mirror *m, uint32_t generation, uint32_t capacity, uint32_t n_entries)
{
	struct mirror_table *t = calloc(1, sizeof *t);
	void *base;

	if (!t)
		return NULL;
	t->mirror = m;
	t->generation = generation;
	t->capacity = capacity;
	t->n_entries = n_entries;
	t->mapped = (1 + (size_t)n_entries) * MIRROR_ENTRY;
	t->fd = mirror_inner_create(1 + n_entries);
	base = t->fd < 0 ? MAP_FAILED : mmap(NULL, t->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
	if (base == MAP_FAILED) {
		int e = errno;

		if (t->fd >= 0)
			close(t->fd);
		free(t);
		errno = e;
		return NULL;
	}
	t->head = base;
	t->entries = (struct mirror_entry *)base + 1;
	mirror_head_store(t);
	return t;
}

void mirror_head_store(struct mirror_table *t)
{
	atomic_store_explicit(SHARED32(&t->head->generation), t->generation, memory_order_relaxed);
	atomic_store_explicit(SHARED32(&t->head->capacity), t->capacity, memory_order_relaxed);
	atomic_store_explicit(SHARED32(&t->head->n_entries), t->n_entries, memory_order_relaxed);
	CRASH_POINT(mirror_head_stored);
}

bool mirror_head_true(const struct mirror_table *t)
{
	return atomic_load_explicit(SHARED32(&t->head->generation), memory_order_relaxed) == t->generation &&
	       atomic_load_explicit(SHARED32(&t->head->capacity), memory_order_relaxed) == t->capacity &&
	       atomic_load_explicit(SHARED32(&t->head->n_entries), memory_order_relaxed) == t->n_entries;
}

void mirror_table_free(struct mirror_table **tp)
{
	struct mirror_table *t = *tp;

	if (!t)
		return;
	munmap(t->head, t->mapped);
	close(t->fd);
	free(t);
	*tp = NULL;
}

uint64_t mirror_table_bytes(const struct mirror_table *t)
{
	return t ? t->mapped : 0;
}

static __u64 *word_of(const struct mirror_table *t, uint32_t slot)
{
	return slot == MIRROR_DEFAULT ? &t->head->dflt : &t->entries[slot].word;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void mirror_key(struct mirror_table *t, uint32_t slot, const void *key, size_t len, uint64_t hash)
{
	__u64 words[MIRROR_KEY_WORDS] = {0};
	struct mirror_entry *e;

	if (!t)
		return;
	e = &t->entries[slot];
	if (len <= MIRROR_KEY_MAX)
		memcpy(words, key, len);
	for (unsigned i = 0; i < MIRROR_KEY_WORDS; i++)
		store64(&e->key[i], words[i]);
	store64(&e->hash, hash);
	*(volatile __u8 *)&e->len = len <= MIRROR_KEY_MAX ? (__u8)len : KEY_LONG;
	CRASH_POINT(mirror_key_stored);
	atomic_store_explicit(SHARED64(&e->word), MIRROR_WORD_PASS, memory_order_release); /* G2 */
	CRASH_POINT(mirror_slot_passes);
}

void mirror_longest_probe(struct mirror_table *t, uint32_t longest)
{
	if (t)
		atomic_store_explicit(SHARED32(&t->head->longest_probe), longest, memory_order_release); /* G3 */
	CRASH_POINT(mirror_probe_stored);
}

void mirror_hold(struct mirror_table *t, uint32_t slot)
{
	if (!t)
		return;
	t->held_ns = now_ns();
	atomic_store_explicit(SHARED64(word_of(t, slot)), MIRROR_WORD_PASS, memory_order_release); /* G1 */
	CRASH_POINT(mirror_held);
}

void mirror_store(struct mirror_table *t, uint32_t slot, uint64_t word)
{
	struct mirror_control *c;
	uint64_t lag;

	if (!t)
		return;
	c = t->mirror->control;
	if (slot != MIRROR_DEFAULT && word_live(word) && t->entries[slot].len == KEY_LONG)
		word = MIRROR_WORD_PASS;                                               /* G4 */
	atomic_store_explicit(SHARED64(word_of(t, slot)), word, memory_order_release); /* G1 */
	CRASH_POINT(mirror_word_stored);
	if (!t->held_ns)
		return; /* a copy */
	lag = now_ns() - t->held_ns;
	t->held_ns = 0;
	store64(&c->n_changes, load64(&c->n_changes) + 1);
	if (lag > load64(&c->lag_ns))
		store64(&c->lag_ns, lag);
	CRASH_POINT(mirror_change_counted);
}

uint64_t mirror_aged(const struct mirror_table *t)
{
	/* Acquire: pairs with the thread's release after the grace period. */
	return t ? atomic_load_explicit(&t->mirror->t.aged, memory_order_acquire) : UINT64_MAX;
}

struct mirror_entry mirror_entry_get(const struct mirror_table *t, uint32_t slot)
{
	struct mirror_entry e = {0};

	if (slot == MIRROR_DEFAULT)
		e.word = load64(&t->head->dflt);
	else
		e = t->entries[slot];
	return e;
}

uint32_t mirror_longest_probe_get(const struct mirror_table *t)
{
	return atomic_load_explicit(SHARED32(&t->head->longest_probe), memory_order_relaxed);
}
