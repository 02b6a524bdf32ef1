/* SPDX-License-Identifier: MIT
 * Mapping and reading cursors.<generation> (cursor_file.h), as readers do: nothing is locked, each pin is copied and its
 * version compared after the copy. */
#include "cursor_file.h"

#include <errno.h>
#include <stdio.h>

#define LOOKS 50
/* A file that is replaced faster than it can be mapped is no file. */
#define MAP_ATTEMPTS 100

static uint64_t generation_of(const struct tool *t)
{
	return atomic_load_explicit(&t->root->cursor_generation,
				    memory_order_acquire); /* pairs with the writer's flip */
}

int cursor_file_try(const struct tool *t, struct cursor_map *map)
{
	int rc = BERTH_E_NO_INSTANCE;

	*map = (struct cursor_map){0};
	for (int i = 0; rc == BERTH_E_NO_INSTANCE && i < MAP_ATTEMPTS; i++) {
		uint64_t generation = generation_of(t);
		if (generation == 0)
			return BERTH_OK;
		rc = cursor_map_open(t->tables_fd, t->root, generation, NULL, map);
		if (rc == BERTH_E_NO_INSTANCE && generation == generation_of(t))
			return BERTH_E_NO_INSTANCE;
	}
	return rc;
}

int cursor_file_open(const struct tool *t, struct cursor_map *map)
{
	int rc = cursor_file_try(t, map), saved = errno;
	char what[sizeof(t->path) + 40];

	if (rc == BERTH_OK)
		return EXIT_DONE;
	snprintf(what, sizeof(what), "%s/" SEG_TABLES "/" SEG_CURSORS "%llu", t->path,
		 (unsigned long long)generation_of(t));
	if (rc == BERTH_E_NO_INSTANCE)
		return tool_fail(t, EXIT_DAMAGE, "corrupt",
				 "%s is missing, and root names it: restart berthd, it makes a new one without pins",
				 what);
	errno = saved;
	return tool_fail_code(t, rc, what);
}

bool cursor_file_read(const struct cursor_map *m, uint32_t slot, struct pin *pin)
{
	const struct shm_cursor *s = &m->slots[slot];

	for (int i = 0; i < LOOKS; i++) {
		uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire); /* before the fields */
		if (version == 0)
			return false;
		pin->hash[0] = atomic_load_explicit(&s->hash[0], memory_order_relaxed);
		pin->hash[1] = atomic_load_explicit(&s->hash[1], memory_order_relaxed);
		pin->owner = atomic_load_explicit(&s->owner, memory_order_relaxed);
		uint64_t word = atomic_load_explicit(&s->word, memory_order_relaxed);
		pin->cluster = cursor_cluster(word);
		pin->expiry_ms = cursor_expiry(word);
		pin->order = atomic_load_explicit(&s->order, memory_order_relaxed);
		pin->pinned_ms = atomic_load_explicit(&s->pinned_ms, memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire); /* the copy is made before the version is loaded again */
		if (atomic_load_explicit(&s->version, memory_order_relaxed) == version)
			return true;
	}
	return false;
}

enum cursor_found cursor_file_find(const struct cursor_map *m, const void *id, size_t len, uint64_t *owner,
				   uint64_t *word)
{
	enum cursor_found found = CURSOR_CHANGED;
	uint64_t hash[2];

	cursor_hash(&m->file->keys, id, len, hash);
	for (int i = 0; found == CURSOR_CHANGED && i < LOOKS; i++)
		found = cursor_find(m, hash, owner, word);
	return found;
}

void cursor_file_counters(const struct cursor_map *m, json_t *object)
{
	const struct shm_cursors *f = m->file;
	const struct {
		const char *name;
		const _Atomic uint64_t *value;
	} counters[] = {
		{"owner_share", &f->owner_share}, {"ttl_ms", &f->ttl_ms},       {"pinned", &f->n_pinned},
		{"refreshed", &f->n_refreshed},   {"released", &f->n_released}, {"expired", &f->n_expired},
		{"evicted", &f->n_evicted},       {"refused", &f->n_refused},
	};

	tool_set_u64(object, "capacity", m->capacity);
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		tool_set_u64(object, counters[i].name, atomic_load_explicit(counters[i].value, memory_order_relaxed));
}
