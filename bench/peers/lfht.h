/* SPDX-License-Identifier: MIT
 * cds_lfht of liburcu, for both flavours of RCU: lfht_qsbr.c and lfht_memb.c include this behind the flavour's header,
 * by which rcu_* and cds_lfht_new get their meaning, and say what a reader does between batches (lfht_batch_end). Not
 * to be included elsewhere.
 *
 * Twice as many buckets as keys, rounded up to a power of two: more than the table would make by itself, and faster. It
 * does not resize itself, and its buckets are one piece (a greatest number is given): nothing is handicapped by growth. */
#ifndef BERTH_BENCH_PEERS_LFHT_H
#define BERTH_BENCH_PEERS_LFHT_H

#include <stdlib.h>
#include <urcu/rculfhash.h>

#include "../../shm/hash.h"
#include "peer.h"

#define LFHT_BATCH 32u /* requests that a server has at hand at a time: a power of two */

struct lfht_entry {
	struct cds_lfht_node node;
	char name[KEY_ROOM];
	uint64_t value;
};

struct lfht_table {
	struct cds_lfht *ht;
	struct lfht_entry *entries;
	uint32_t n;
};

static const uint64_t lfht_secret[4] = {0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u,
					0x589965cc75374cc3u};

static int lfht_match(struct cds_lfht_node *node, const void *key)
{
	const char *name = ((const struct lfht_entry *)(const void *)node)->name;

	return load_u64(name) == load_u64(key) &&
	       load_u64(name + KEY_LEN - 8) == load_u64((const char *)key + KEY_LEN - 8);
}

static void *lfht_open(const struct bench *b, uint32_t n)
{
	struct lfht_table *t = malloc(sizeof(*t));
	size_t buckets = 2;

	(void)b;
	while (buckets < (size_t)n * 2)
		buckets *= 2;
	rcu_register_thread();
	if (t) {
		t->n = n;
		t->ht = cds_lfht_new(buckets, buckets, buckets, 0, NULL);
		t->entries = calloc(n, sizeof(*t->entries));
	}
	if (!t || !t->ht || !t->entries)
		fail("cds_lfht: no memory for %u partitions", n);
	rcu_read_lock();
	for (uint32_t i = 0; i < n; i++) {
		struct lfht_entry *e = &t->entries[i];

		key_name(e->name, i);
		e->value = value_of_key(i);
		cds_lfht_node_init(&e->node);
		cds_lfht_add(t->ht, hash_key(lfht_secret, e->name, KEY_LEN), &e->node);
	}
	rcu_read_unlock();
	rcu_thread_offline();
	return t;
}

static uint64_t lfht_run(void *at, const struct sequence *s, size_t n)
{
	struct lfht_table *t = at;
	uint64_t sum = 0;

	rcu_thread_online();
	for (size_t i = 0; i < n; i++) {
		const char *name = s->names[i & (s->n - 1)];
		struct cds_lfht_iter iter;

		rcu_read_lock();
		cds_lfht_lookup(t->ht, hash_key(lfht_secret, name, KEY_LEN), lfht_match, name, &iter);
		if (iter.node)
			sum += ((const struct lfht_entry *)(const void *)iter.node)->value;
		rcu_read_unlock();
		if (i % LFHT_BATCH == LFHT_BATCH - 1)
			lfht_batch_end();
	}
	rcu_thread_offline();
	return sum;
}

static void lfht_close(void *at)
{
	struct lfht_table *t = at;

	rcu_thread_online();
	rcu_read_lock();
	for (uint32_t i = 0; i < t->n; i++)
		cds_lfht_del(t->ht, &t->entries[i].node);
	rcu_read_unlock();
	if (cds_lfht_destroy(t->ht, NULL) != 0)
		fail("cds_lfht: the table is not empty after %u removals", t->n);
	rcu_unregister_thread();
	free(t->entries);
	free(t);
}

#endif
