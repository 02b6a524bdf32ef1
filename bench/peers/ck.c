/* SPDX-License-Identifier: MIT
 * Peer: Concurrency Kit's hash table, one writer and any number of readers in one process. Byte strings are its keys;
 * their hash is the user's choice, here that of berth's folder shm: with the table's own default (MurmurHash64A) it is
 * slower. It keeps itself at most half full. Each look-up is in a ck_epoch section, which is what lets a writer free what
 * it replaced. Run by peers.c, in its thread. */
#include <ck_epoch.h>
#include <ck_ht.h>
#include <stdlib.h>

#include "../../shm/hash.h"
#include "peer.h"

#define SEED 0xa0761d6478bd642fu

struct table {
	ck_ht_t ht;
	ck_epoch_t epoch;
	ck_epoch_record_t *record;
	char (*names)[KEY_ROOM];
};

static void *give(size_t size)
{
	return malloc(size);
}

static void take(void *p, size_t size, bool defer)
{
	(void)size, (void)defer; /* no reader looks anything up while the table grows or goes */
	free(p);
}

static void hash(struct ck_ht_hash *h, const void *key, size_t len, uint64_t seed)
{
	const uint64_t secret[4] = {seed, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u};

	h->value = hash_key(secret, key, len);
}

static struct ck_malloc allocator = {.malloc = give, .free = take};

static void *open_table(const struct bench *b, uint32_t n)
{
	struct table *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);

	(void)b;
	if (!t || !ck_ht_init(&t->ht, CK_HT_MODE_BYTESTRING, hash, &allocator, (uint64_t)n * 2, SEED))
		fail("ck_ht: no memory for %u partitions", n);
	t->names = aligned_alloc(64, ((size_t)n * KEY_ROOM + 63) / 64 * 64);
	t->record = aligned_alloc(64, (sizeof(*t->record) + 63) / 64 * 64);
	if (!t->names || !t->record)
		fail("ck_ht: no memory for %u partitions", n);
	ck_epoch_init(&t->epoch);
	ck_epoch_register(&t->epoch, t->record, NULL);
	for (uint32_t i = 0; i < n; i++) {
		ck_ht_entry_t entry;
		ck_ht_hash_t h;

		key_name(t->names[i], i);
		ck_ht_hash(&h, &t->ht, t->names[i], KEY_LEN);
		ck_ht_entry_set(&entry, h, t->names[i], KEY_LEN, (const void *)(uintptr_t)value_of_key(i));
		if (!ck_ht_put_spmc(&t->ht, h, &entry))
			fail("ck_ht: %s cannot be put", t->names[i]);
	}
	return t;
}

static uint64_t run(void *at, const struct sequence *s, size_t n)
{
	struct table *t = at;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		const char *name = s->names[i & (s->n - 1)];
		ck_ht_entry_t entry;
		ck_ht_hash_t h;

		ck_epoch_begin(t->record, NULL);
		ck_ht_hash(&h, &t->ht, name, KEY_LEN);
		ck_ht_entry_key_set(&entry, name, KEY_LEN);
		if (ck_ht_get_spmc(&t->ht, h, &entry))
			sum += (uintptr_t)ck_ht_entry_value(&entry);
		ck_epoch_end(t->record, NULL);
	}
	return sum;
}

static void close_table(void *at)
{
	struct table *t = at;

	ck_ht_destroy(&t->ht);
	ck_epoch_unregister(t->record);
	free(t->record);
	free(t->names);
	free(t);
}

const struct peer peer_ck_ht = {
	.name = "ck_ht",
	.how = "Concurrency Kit, one writer; ck_epoch section for each look-up; threads of one process",
	.open = open_table,
	.run = run,
	.close = close_table,
};
