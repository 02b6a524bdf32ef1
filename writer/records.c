/* SPDX-License-Identifier: MIT
 * Memory for records inside a generation's file: a jemalloc arena of its own, whose extents come from the records area.
 * Called by the table's files alone; placements come through interned.c.
 *
 * jemalloc keeps its own data outside the area (metadata_use_hooks = false) and never touches what it hands out, so an
 * extent costs nothing until a record lies in it: the file is backed by memory (generation_allocate) just before use.
 * Extents are never given back or purged: the whole file goes with its generation. They may reach beyond the file's end
 * (jemalloc asks for more than it needs): as long as the arena lives, those addresses are nobody else's, or jemalloc
 * would take the extents of two arenas for one. */
#include "../shm/poison.h"
#include "table_internal.h"

#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <stdio.h>
#include <stdlib.h>

#define HEADROOM_PAGES 16u
#define ALLOCATE_STEP (256u << 10) /* the file grows in steps of this while it is being built */

struct hooks { /* the first member is what jemalloc knows */
	extent_hooks_t table;
	uint8_t *start;
	size_t used, size;
};

struct arena_config { /* jemalloc 5.3, experimental.arenas_create_ext */
	extent_hooks_t *extent_hooks;
	bool metadata_use_hooks;
};

static void *hook_alloc(extent_hooks_t *t, void *at, size_t size, size_t align, bool *zero, bool *commit,
			unsigned arena)
{
	struct hooks *h = (struct hooks *)t;
	uintptr_t start = (uintptr_t)h->start + h->used;
	size_t skip = (size_t)(-start & (align - 1));

	(void)arena;
	if (at || size > h->size - h->used || skip > h->size - h->used - size)
		return NULL;
	h->used += skip + size;
	*zero = false; /* a recycled file may hold anything */
	*commit = true;
	return (void *)(start + skip);
}
static bool hook_keep(extent_hooks_t *t, void *at, size_t size, bool committed, unsigned arena)
{
	(void)t, (void)at, (void)size, (void)committed, (void)arena;
	return true; /* jemalloc keeps the extent for itself */
}
static bool hook_yes(extent_hooks_t *t, void *at, size_t size, size_t off, size_t len, unsigned arena)
{
	(void)t, (void)at, (void)size, (void)off, (void)len, (void)arena;
	return false;
}
static bool hook_no(extent_hooks_t *t, void *at, size_t size, size_t off, size_t len, unsigned arena)
{
	(void)t, (void)at, (void)size, (void)off, (void)len, (void)arena;
	return true;
}
static bool hook_split(extent_hooks_t *t, void *at, size_t size, size_t a, size_t b, bool committed, unsigned arena)
{
	(void)t, (void)at, (void)size, (void)a, (void)b, (void)committed, (void)arena;
	return false;
}
static bool hook_merge(extent_hooks_t *t, void *a, size_t a_size, void *b, size_t b_size, bool committed,
		       unsigned arena)
{
	(void)t, (void)a, (void)a_size, (void)b, (void)b_size, (void)committed, (void)arena;
	return false;
}

static void arena_control(unsigned arena, const char *what, const void *value, size_t size)
{
	char name[64];
	ssize_t copy = 0;

	if (value)
		memcpy(&copy, value, size);
	snprintf(name, sizeof name, "arena.%u.%s", arena, what);
	mallctl(name, NULL, NULL, value ? &copy : NULL, value ? size : 0);
}

uint64_t records_headroom(void)
{
	size_t page = 0, size = sizeof page;

	if (mallctl("arenas.page", &page, &size, NULL, 0) != 0)
		page = 64u << 10; /* the largest that Debian builds it for */
	return HEADROOM_PAGES * page;
}

int records_make(struct generation *g)
{
	struct records *r = &g->records;
	struct hooks *h = calloc(1, sizeof *h);
	struct arena_config config = {.metadata_use_hooks = false};
	size_t size = sizeof r->arena;
	ssize_t never = -1;

	if (!h)
		return -1;
	h->table = (extent_hooks_t){.alloc = hook_alloc,
				    .dalloc = hook_keep,
				    .commit = hook_yes,
				    .decommit = hook_no,
				    .purge_lazy = hook_no,
				    .purge_forced = hook_no,
				    .split = hook_split,
				    .merge = hook_merge};
	h->start = g->base + g->map.records_off;
	h->size = g->mapped - g->map.records_off;
	r->hooks = h;
	if (interned_make(&r->interned) != 0)
		return -1;
	config.extent_hooks = &h->table;
	if (mallctl("experimental.arenas_create_ext", &r->arena, &size, &config, sizeof config) != 0)
		return -1;
	r->made = true;
	arena_control(r->arena, "dirty_decay_ms", &never, sizeof never);
	arena_control(r->arena, "muzzy_decay_ms", &never, sizeof never);
	return 0;
}

uint64_t records_seal(struct generation *g)
{
	struct hooks *h = g->records.hooks;
	size_t within = g->limit - g->map.records_off;

	h->size = h->used > within ? h->used : within;
	return g->map.records_off + h->size;
}

void records_destroy(struct generation *g)
{
	struct records *r = &g->records;

	if (r->made)
		arena_control(r->arena, "destroy", NULL, 0);
	free(r->hooks);
	interned_destroy(&r->interned);
	*r = (struct records){0};
}

static int flags(const struct records *r)
{
	return (int)(MALLOCX_ARENA(r->arena) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(SHM_RECORD_ALIGN));
}

/* How far to allocate for what ends there: a step, but not out of what the file has (F4), nor beyond its end. */
static uint64_t ahead(const struct generation *g, uint64_t end)
{
	uint64_t to = end + ALLOCATE_STEP;

	if (end <= g->recycled && to > g->recycled)
		to = g->recycled;
	return to < g->limit ? to : g->limit;
}

uint32_t records_alloc(struct generation *g, size_t size)
{
	struct records *r = &g->records;
	uint8_t *p = mallocx(size, flags(r));
	uint64_t end;

	if (!p)
		return 0;
	end = (uint64_t)(p - g->base) + size;
	if (end > g->limit || (end > g->allocated && generation_allocate(g, ahead(g, end)) != 0)) {
		dallocx(p, flags(r));
		return 0;
	}
	r->used += nallocx(size, flags(r));
	if (end > r->high)
		r->high = end;
	return (uint32_t)((uint64_t)(p - g->base) / SHM_RECORD_ALIGN);
}

void records_free(struct generation *g, uint32_t off)
{
	void *p = gen_record(g, off);
	size_t size = sallocx(p, flags(&g->records)), backed = g->allocated - (size_t)((uint8_t *)p - g->base);

	(void)backed; /* jemalloc's size may reach beyond the file's memory, the record did not */
	poison(p, size < backed ? size : backed);
	g->records.used -= size;
	dallocx(p, flags(&g->records));
}
