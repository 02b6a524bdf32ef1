/* SPDX-License-Identifier: MIT
 * What berth's pins are compared with: the affinity map that a proxy like osproxy keeps in its own process. Modelled: a
 * hash map behind a mutex that nobody else takes; an entry holds id, owner, cluster, and when it was pinned; a full map
 * looks at every entry for the oldest before it inserts. Made kinder than such maps are: entries lie side by side in one
 * array, so that looking at all of them is as quick as memory is, nothing is allocated, ids have one length, nothing
 * expires. What it cannot do is what pins are for: another process, or this one after a restart, knows nothing of it. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cursor.h"

struct entry {
	char id[ID_SHORT];
	char owner[KEY_ROOM];
	uint64_t pinned; /* a counter: lower is older */
	uint32_t next;   /* 1 + entry, of the bucket's chain */
	uint16_t cluster;
};

struct own_map {
	pthread_mutex_t lock;
	uint32_t capacity, n, mask;
	uint64_t counter;
	uint32_t *buckets; /* 1 + entry, 0: none */
	struct entry *entries;
};

struct own_map *own_map_make(uint32_t capacity)
{
	struct own_map *m = calloc(1, sizeof(*m));
	uint32_t n_buckets = 16;

	while (n_buckets < capacity)
		n_buckets *= 2;
	if (m) {
		m->capacity = capacity;
		m->mask = n_buckets - 1;
		m->buckets = calloc(n_buckets, sizeof(*m->buckets));
		m->entries = calloc(capacity, sizeof(*m->entries));
	}
	if (!m || !m->buckets || !m->entries || pthread_mutex_init(&m->lock, NULL) != 0)
		fail("no memory for a map of %u", capacity);
	return m;
}

static uint32_t *bucket(struct own_map *m, const void *id)
{
	uint64_t a, b;

	memcpy(&a, id, sizeof(a));
	memcpy(&b, (const char *)id + sizeof(a), sizeof(b));
	a ^= b * 0x9e3779b97f4a7c15u;
	return &m->buckets[random_u64(&a) & m->mask];
}

static struct entry *find(struct own_map *m, const void *id)
{
	for (uint32_t at = *bucket(m, id); at; at = m->entries[at - 1].next)
		if (memcmp(m->entries[at - 1].id, id, ID_SHORT) == 0)
			return &m->entries[at - 1];
	return NULL;
}

static struct entry *evict_oldest(struct own_map *m)
{
	struct entry *oldest = &m->entries[0];
	uint32_t *link;

	for (uint32_t i = 1; i < m->n; i++)
		if (m->entries[i].pinned < oldest->pinned)
			oldest = &m->entries[i];
	link = bucket(m, oldest->id);
	while (&m->entries[*link - 1] != oldest)
		link = &m->entries[*link - 1].next;
	*link = oldest->next;
	return oldest;
}

void own_map_pin(struct own_map *m, const void *id, const char *owner, uint16_t cluster)
{
	struct entry *e;

	pthread_mutex_lock(&m->lock);
	e = find(m, id);
	if (!e) {
		uint32_t *first = bucket(m, id);

		e = m->n < m->capacity ? &m->entries[m->n++] : evict_oldest(m);
		memcpy(e->id, id, ID_SHORT);
		memcpy(e->owner, owner, KEY_ROOM);
		e->next = *first;
		*first = (uint32_t)(e - m->entries) + 1;
	}
	e->cluster = cluster;
	e->pinned = ++m->counter;
	pthread_mutex_unlock(&m->lock);
}

bool own_map_find(struct own_map *m, const void *id, const char *owner, uint16_t *cluster)
{
	struct entry *e;
	bool found;

	pthread_mutex_lock(&m->lock);
	e = find(m, id);
	found = e && memcmp(e->owner, owner, KEY_ROOM) == 0;
	if (found)
		*cluster = e->cluster;
	pthread_mutex_unlock(&m->lock);
	return found;
}

uint32_t own_map_len(const struct own_map *m)
{
	return m->n;
}

void own_map_free(struct own_map *m)
{
	pthread_mutex_destroy(&m->lock);
	free(m->buckets);
	free(m->entries);
	free(m);
}
