/* SPDX-License-Identifier: MIT
 * The staged form of a document: where its names and placements live, how equal placements become one, how partitions
 * get into key order. Filled by document.c on a worker thread, read by the control thread afterwards. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "document_stage.h"

#define BLOCK (1u << 20)
#define SMALLEST 64u
#define ORDER_BYTES 8u

/* ---- memory ------------------------------------------------------------------------------------------------ */

/* Room for one more of an array of items; NULL when memory ran out, and the array stays as it was. */
static void *grown(void *array, uint32_t n, uint32_t *room, size_t item)
{
	if (n < *room)
		return array;
	uint32_t more = *room ? *room : SMALLEST / 2;
	if (more > UINT32_MAX - *room)
		return NULL;
	void *bigger = realloc(array, ((size_t)*room + more) * item);
	if (bigger)
		*room += more;
	return bigger;
}

/* size bytes in one piece, at a multiple of align; *offset finds them again. */
static char *arena_take(struct arena *a, size_t size, size_t align, size_t *offset)
{
	size_t at = (a->used + align - 1) & ~(align - 1);

	assert(size <= BLOCK);
	if (a->n_blocks == 0 || at + size > BLOCK) {
		char **blocks = grown(a->blocks, a->n_blocks, &a->room_blocks, sizeof(*blocks));
		if (!blocks)
			return NULL;
		a->blocks = blocks;
		if (!(blocks[a->n_blocks] = malloc(BLOCK)))
			return NULL;
		a->n_blocks++;
		at = 0;
	}
	a->used = at + size;
	*offset = (size_t)(a->n_blocks - 1) * BLOCK + at;
	return a->blocks[a->n_blocks - 1] + at;
}

static char *arena_at(const struct arena *a, size_t offset)
{
	return a->blocks[offset / BLOCK] + offset % BLOCK;
}

static void arena_free(struct arena *a)
{
	for (uint32_t i = 0; i < a->n_blocks; i++)
		free(a->blocks[i]);
	free(a->blocks);
}

/* Offsets in 32 bits reach as far as the arena grows: a document is at most DOCUMENT_BYTES_MAX bytes, each name in it
 * takes more of them than here, and each record takes fewer units of SHM_RECORD_ALIGN. */
static int store_name(struct document *d, const char *s, size_t len, uint32_t *offset)
{
	size_t at;
	char *name = arena_take(&d->memory->names, len + 2, 1, &at);

	if (!name || at > UINT32_MAX)
		return -1;
	name[0] = (char)len;
	memcpy(name + 1, s, len);
	name[len + 1] = '\0';
	*offset = (uint32_t)at;
	return 0;
}

int stage_new(struct document **out)
{
	struct document *d = calloc(1, sizeof(*d));

	if (!d || !(d->memory = calloc(1, sizeof(*d->memory)))) {
		free(d);
		return -1;
	}
	d->dflt = DOCUMENT_NO_PLACEMENT;
	*out = d;
	return 0;
}

void document_free(struct document **document)
{
	struct document *d = *document;

	if (!d)
		return;
	arena_free(&d->memory->names);
	arena_free(&d->memory->records);
	free(d->memory->placements);
	free(d->memory->by_cluster.slots);
	free(d->memory->by_placement.slots);
	free(d->memory);
	free(d->clusters);
	free(d->partitions);
	free(d);
	*document = NULL;
}

/* ---- equal things once ------------------------------------------------------------------------------------- */

/* One more will fit at 3/4 full. */
static int intern_room(struct intern *t)
{
	uint32_t size = t->slots ? t->mask + 1 : 0;

	if (size && t->n < size / 4 * 3)
		return 0;
	if (size > UINT32_MAX / 2)
		return -1;
	uint32_t mask = (size ? size * 2 : SMALLEST) - 1;
	struct intern_slot *slots = calloc((size_t)mask + 1, sizeof(*slots));
	if (!slots)
		return -1;
	for (uint32_t i = 0; i < size; i++) {
		if (t->slots[i].number == 0)
			continue;
		uint32_t at = t->slots[i].hash & mask;
		while (slots[at].number)
			at = (at + 1) & mask;
		slots[at] = t->slots[i];
	}
	free(t->slots);
	t->slots = slots;
	t->mask = mask;
	return 0;
}

static void intern_add(struct intern *t, uint32_t at, uint32_t hash, uint32_t number)
{
	t->slots[at] = (struct intern_slot){hash, number + 1};
	t->n++;
}

/* Whoever writes the document does not know where it will be staged: no chain of equal hashes made on purpose. */
static uint32_t hash_of(const struct document *d, const void *bytes, size_t len)
{
	return (uint32_t)XXH3_64bits_withSeed(bytes, len, (uintptr_t)d);
}

int stage_cluster(struct document *d, const char *id, size_t len, uint32_t *number)
{
	struct document_memory *m = d->memory;
	struct intern *t = &m->by_cluster;
	uint32_t hash = hash_of(d, id, len), name;

	if (intern_room(t))
		return -1;
	uint32_t at = hash & t->mask;
	for (; t->slots[at].number; at = (at + 1) & t->mask) {
		const struct document_cluster *c = &d->clusters[t->slots[at].number - 1];
		if (t->slots[at].hash == hash && c->id_len == len && memcmp(c->id, id, len) == 0) {
			*number = t->slots[at].number - 1;
			return 0;
		}
	}
	*number = SHM_CLUSTERS_MAX;
	if (d->n_clusters == SHM_CLUSTERS_MAX)
		return 0;
	struct document_cluster *clusters = grown(d->clusters, d->n_clusters, &m->room_clusters, sizeof(*clusters));
	if (!clusters)
		return -1;
	d->clusters = clusters;
	if (store_name(d, id, len, &name))
		return -1;
	clusters[d->n_clusters] = (struct document_cluster){
		.id = arena_at(&m->names, name) + 1, .id_len = (uint8_t)len, .implicit = true};
	intern_add(t, at, hash, d->n_clusters);
	*number = d->n_clusters++;
	return 0;
}

int stage_endpoint(struct document *d, uint32_t cluster, const char *endpoint, size_t len)
{
	struct document_cluster *c = &d->clusters[cluster];
	uint32_t name;

	c->implicit = false;
	if (!endpoint)
		return 0;
	if (store_name(d, endpoint, len, &name))
		return -1;
	c->endpoint = arena_at(&d->memory->names, name) + 1;
	c->endpoint_len = (uint8_t)len;
	return 0;
}

const struct shm_detail *document_placement(const struct document *d, uint32_t i)
{
	return (const struct shm_detail *)(const void *)arena_at(&d->memory->records,
								 (size_t)d->memory->placements[i] * SHM_RECORD_ALIGN);
}

int stage_placement(struct document *d, const struct shm_detail *placement, uint32_t *number)
{
	const size_t from = offsetof(struct shm_detail, size);
	struct document_memory *m = d->memory;
	struct intern *t = &m->by_placement;
	uint32_t hash = hash_of(d, (const char *)placement + from, placement->size - from);
	size_t offset;

	if (intern_room(t))
		return -1;
	uint32_t at = hash & t->mask;
	for (; t->slots[at].number; at = (at + 1) & t->mask) {
		*number = t->slots[at].number - 1;
		if (t->slots[at].hash == hash && detail_equal(document_placement(d, *number), placement))
			return 0;
	}
	uint32_t *placements = grown(m->placements, d->n_placements, &m->room_placements, sizeof(*placements));
	if (!placements)
		return -1;
	m->placements = placements;
	char *record = arena_take(&m->records, placement->size, SHM_RECORD_ALIGN, &offset);
	if (!record || offset / SHM_RECORD_ALIGN > UINT32_MAX)
		return -1;
	memcpy(record, placement, placement->size);
	placements[d->n_placements] = (uint32_t)(offset / SHM_RECORD_ALIGN);
	intern_add(t, at, hash, d->n_placements);
	*number = d->n_placements++;
	return 0;
}

void document_bind(struct document *d, const uint16_t *numbers, uint32_t first, uint32_t n)
{
	for (uint32_t i = first; i < d->n_placements && i - first < n; i++) {
		char *record = arena_at(&d->memory->records, (size_t)d->memory->placements[i] * SHM_RECORD_ALIGN);
		struct shm_detail *detail = (struct shm_detail *)(void *)record;
		assert(detail->cluster >= 1 && detail->cluster <= d->n_clusters);
		detail->cluster = numbers[detail->cluster - 1];
		detail->check = detail_checksum(detail);
	}
}

/* ---- key order --------------------------------------------------------------------------------------------- */

static const char *key_at(const struct document *d, const struct document_partition *p, size_t *len)
{
	const char *name = arena_at(&d->memory->names, p->key);

	*len = (unsigned char)name[0];
	return name + 1;
}

const char *document_key(const struct document *d, uint32_t i, size_t *len)
{
	return key_at(d, &d->partitions[i], len);
}

/* The bytes depth..depth+7 of a key as a number that sorts as they do. What the key lacks counts as 0: keys hold no
 * NUL, so the shorter comes first and only equal keys are equal at every depth. */
static uint64_t order_at(const char *key, size_t len, size_t depth)
{
	uint64_t order = 0;
	size_t n = len > depth ? len - depth : 0;

	memcpy(&order, key + (n ? depth : 0), n < ORDER_BYTES ? n : ORDER_BYTES);
	return __builtin_bswap64(order);
}

int stage_partition(struct document *d, const char *key, size_t len, uint32_t placement)
{
	struct document_memory *m = d->memory;
	struct document_partition *all, p = {.order = order_at(key, len, 0), .placement = placement};

	all = grown(d->partitions, d->n_partitions, &m->room_partitions, sizeof(*all));
	if (!all)
		return -1;
	d->partitions = all;
	if (store_name(d, key, len, &p.key))
		return -1;
	all[d->n_partitions++] = p;
	return 0;
}

static int by_order(const void *left, const void *right)
{
	uint64_t a = ((const struct document_partition *)left)->order;
	uint64_t b = ((const struct document_partition *)right)->order;

	return (a > b) - (a < b);
}

static void sort_run(struct document_partition *run, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		if (run[i - 1].order <= run[i].order)
			continue;
		qsort(run, n, sizeof(*run), by_order);
		return;
	}
}

/* Sorts n partitions that agree in all bytes before depth; order holds the next 8. Runs that agree in these too are
 * sorted by the 8 after them, and so on: as deep as keys are long, at most SHM_KEY_MAX / 8 levels. */
static bool sort_from(struct document *d, uint32_t first, uint32_t n, size_t depth, uint32_t *duplicate)
{
	struct document_partition *all = d->partitions;
	uint32_t end = first + n;

	sort_run(all + first, n);
	for (uint32_t run = first, next; run < end; run = next) {
		size_t len;
		next = run + 1;
		while (next < end && all[next].order == all[run].order)
			next++;
		if (next == run + 1)
			continue;
		if ((all[run].order & 0xff) == 0) { /* all of them end here */
			*duplicate = run;
			return false;
		}
		for (uint32_t i = run; i < next; i++) {
			const char *key = key_at(d, &all[i], &len);
			all[i].order = order_at(key, len, depth + ORDER_BYTES);
		}
		if (!sort_from(d, run, next - run, depth + ORDER_BYTES, duplicate))
			return false;
	}
	return true;
}

bool stage_sort(struct document *d, uint32_t *duplicate)
{
	free(d->memory->by_cluster.slots);
	free(d->memory->by_placement.slots);
	d->memory->by_cluster = d->memory->by_placement = (struct intern){0};
	return d->n_partitions < 2 || sort_from(d, 0, d->n_partitions, 0, duplicate);
}
