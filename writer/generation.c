/* SPDX-License-Identifier: MIT
 * The files of generations: the one being built, table.<generation>, the reserve, and old ones until their readers are
 * gone. Called by the table's files alone.
 *
 *   reserve --(rename)--> building --(seal, rename, one store into root)--> table.<g> --(grace period)--> reserve, or gone
 *
 * F1 Memory of a file is allocated before it is touched: a full file system is an error here, never a SIGBUS in
 *    us or in a reader.
 * F2 A table has its name only when it is complete; what a dead writer left half-made is unlinked.
 * F3 After the flip nobody stores into the older file. It is punched only after no reader is in it (grow.c).
 * F4 While the writer runs there is a reserve as large as the present file, or it is being made of an old file: a
 *    restart needs no memory that somebody else could have taken. So memory that is to be used again is
 *    overwritten with zeros where it is, and never given back in between.
 * F5 A file that was a table once is never cut. Who reads without a registration is not waited for (F3): stopped
 *    in the middle of a look-up, it goes on in that file, whatever is in it by now, and finds out afterwards. So
 *    an instance takes as much memory as it once needed, until its directory is made anew.
 * F6 Memory is huge pages where the kernel gives them (allocation.c), before anybody reads there: a look-up
 *    in a large table then misses the cache, but not the TLB. Where it does not, everything is as it was. */
#include "table_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/crash_point.h"

#define BUILDING "building"
#define RESERVE "reserve"
#define PUNCH_STEP (1u << 20)
#define HUGE_STEPS (16u << 20)    /* files of this size and more */
#define RECORDS_END (63ull << 30) /* offsets are 32 bits, of SHM_RECORD_ALIGN bytes: 64 GiB */

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

uint32_t capacity_for(uint64_t n)
{
	/* 2/3 full: 64 + 8 + 1 bytes an entry make 110 bytes a partition. */
	uint64_t capacity = n * 3 / 2 + 64;

	return capacity > UINT32_MAX - 2 * SHM_PROBE_MAX ? UINT32_MAX - 2 * SHM_PROBE_MAX : (uint32_t)capacity;
}

/* Zeros, in memory that the file has. 0 or -1. */
static int zero_range(int fd, uint64_t from, uint64_t to)
{
	void *p;

	if (from >= to)
		return 0;
	if (file_allocate(fd, from, to, false) != 0) /* holes: F1 */
		return -1;
	p = mmap(NULL, (size_t)(to - from), PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)from);
	if (p == MAP_FAILED)
		return -1;
	memset(p, 0, (size_t)(to - from));
	CRASH_POINT(zeroed);
	munmap(p, (size_t)(to - from));
	return 0;
}

/* A smaller reserve is none: a restart would find no room, and make none, because there is one. */
static uint64_t least_reserve(const struct table *t)
{
	return t->now ? t->now->limit : t->in_force;
}

/* Makes the reserve of a file that no reader has seen, of which `allocated` bytes are backed and `dirty` may be other
 * than zero (F4); or removes it, when there is a reserve already, it is too small for one, or nobody needs one. */
static void take_back(struct table *t, const char *name, int fd, uint64_t allocated, uint64_t dirty)
{
	int dir = t->instance->table_dir_fd;
	uint64_t size = allocated / instance_file_block(fd) * instance_file_block(fd);

	if (t->reserve_size == 0 && size > 0 && size >= least_reserve(t) &&
	    atomic_load_explicit(&t->root->termgen, memory_order_relaxed) != 0 && ftruncate(fd, (off_t)size) == 0) {
		CRASH_POINT(taken_back_cut);
		if (zero_range(fd, 0, dirty < size ? dirty : size) == 0 && renameat(dir, name, dir, RESERVE) == 0) {
			CRASH_POINT(taken_back_named);
			t->reserve_size = size;
			return;
		}
	}
	unlinkat(dir, name, 0);
	CRASH_POINT(taken_back_unlinked);
}

int generation_allocate(struct generation *g, uint64_t end)
{
	uint64_t to = round_up(end, instance_file_block(g->fd));

	if (g->huge && g->allocated >= HUGE_STEPS)
		to = round_up(to, SEG_HUGE); /* so that what grows bit by bit gets huge pages too */
	if (end <= g->recycled && to > g->recycled)
		to = g->recycled; /* what the reserve has is enough, and may be all that there is (F4) */
	if (to > g->mapped)
		to = g->mapped;
	if (to <= g->allocated)
		return 0;
	if (file_allocate(g->fd, g->allocated, to, g->huge) != 0)
		return -1;
	g->allocated = to;
	return 0;
}

bool huge_wanted(const struct table *t, int fd)
{
	return !t->instance->small_pages && instance_file_block(fd) < SEG_HUGE;
}

static void file_modes(const struct table *t, int fd)
{
	if (fchown(fd, (uid_t)-1, t->instance->group) != 0)
		errno = 0; /* not ours to give: the mode still keeps others out */
	(void)!fchmod(fd, t->instance->table_mode);
	CRASH_POINT(table_modes_set);
}

/* A file to build in: the reserve if there is one. */
static int building_open(struct table *t, uint64_t *allocated)
{
	int dir = t->instance->table_dir_fd, fd;

	*allocated = 0;
	if (t->reserve_size && renameat(dir, RESERVE, dir, BUILDING) == 0) {
		CRASH_POINT(reserve_taken);
		*allocated = t->reserve_size;
		t->reserve_size = 0;
		return openat(dir, BUILDING, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	}
	t->reserve_size = 0;
	if (unlinkat(dir, BUILDING, 0) != 0 && errno != ENOENT)
		return -1;
	CRASH_POINT(building_cleared);
	fd = openat(dir, BUILDING, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	CRASH_POINT(building_made);
	return fd;
}

static void lay_out(struct shm_table *h, uint32_t capacity, uint32_t n_clusters)
{
	uint64_t n_entries = (uint64_t)capacity + SHM_PROBE_MAX;

	h->capacity = capacity;
	h->n_cluster_slots = n_clusters;
	h->clusters_off = SHM_PAGE;
	h->entries_off = round_up(h->clusters_off + (uint64_t)n_clusters * 4, 64);
	h->documents_off = h->entries_off + n_entries * sizeof(struct shm_entry);
	h->tags_off = round_up(h->documents_off + n_entries * 8, 64);
	h->records_off = round_up(h->tags_off + n_entries + SHM_TAG_WINDOW, SHM_PAGE);
}

uint64_t generation_records_off(uint32_t capacity, uint32_t n_clusters)
{
	struct shm_table h;

	lay_out(&h, capacity, n_clusters);
	return h.records_off;
}

static void header_fill(const struct table *t, struct generation *g, uint32_t number, uint32_t capacity,
			uint32_t n_clusters)
{
	struct shm_table *h = gen_header(g);

	memset(h, 0, sizeof *h);
	h->magic = SHM_MAGIC_TABLE;
	h->abi = SHM_ABI;
	h->fingerprint = SHM_FINGERPRINT;
	memcpy(h->uuid, t->root->uuid, 16);
	h->generation = number;
	lay_out(h, capacity, n_clusters);
	h->size = g->mapped;
}

enum refusal_code generation_create(struct table *t, uint32_t number, uint32_t capacity, uint32_t n_clusters,
				    struct generation **out, struct refusal *r)
{
	struct generation *g = calloc(1, sizeof *g);
	uint64_t n_entries = (uint64_t)capacity + SHM_PROBE_MAX, block;

	if (!g || !(g->note = calloc(1, sizeof *g->note))) {
		free(g);
		return refuse(r, R_FULL, "no memory for a new table generation: give the daemon more");
	}
	g->fd = building_open(t, &g->allocated);
	g->recycled = g->allocated;
	if (g->fd < 0) {
		free(g->note);
		free(g);
		return refuse(r, R_BACKEND, "cannot make %s/" BUILDING ": %s", t->instance->path, strerror(errno));
	}
	file_modes(t, g->fd);
	block = instance_file_block(g->fd);
	g->huge = huge_wanted(t, g->fd);
	if (g->huge)
		g->allocated = 0; /* what it has may be on small pages: allocated once more, which costs no memory */
	/* Address space, not memory: each partition may have the longest record of its own, as far as offsets reach. Cut by
	 * generation_seal. */
	g->mapped = SHM_PAGE + (uint64_t)n_clusters * 4 +
		    n_entries * (sizeof(struct shm_entry) + 8 + 1 + 2 * SHM_RECORD_MAX) + (1ull << 30);
	if (g->mapped > RECORDS_END)
		g->mapped = RECORDS_END;
	g->mapped = round_up(g->mapped, block);
	g->limit = g->mapped;
	g->base = MAP_FAILED;
	if (ftruncate(g->fd, (off_t)g->mapped) != 0)
		goto full;
	CRASH_POINT(building_sized);
	if (generation_allocate(g, SHM_PAGE) != 0)
		goto full;
	/* In two steps: in a process that locks its memory, the kernel fills a mapping of hugetlbfs to its end at once, though
	 * it was told to lock on fault; it does not with one that nobody may touch. */
	g->base = seg_map_file(g->fd, 0, g->mapped, PROT_NONE, MAP_NORESERVE);
	if (g->base == MAP_FAILED || mprotect(g->base, g->mapped, PROT_READ | PROT_WRITE) != 0)
		goto full;
	header_fill(t, g, number, capacity, n_clusters);
	CRASH_POINT(building_header_stored);
	if (seg_table_check(g->base, g->mapped, t->root->uuid, &g->map) != BERTH_OK || records_make(g) != 0) {
		errno = ENOMEM;
		goto full;
	}
	*out = g;
	return R_DONE;
full:
	refuse(r, R_FULL, "cannot make a table of %u entries in %s: %s; give its file system more room", capacity,
	       t->instance->path, strerror(errno));
	generation_discard(t, &g);
	return R_FULL;
}

int generation_seal(struct generation *g, uint64_t headroom)
{
	uint64_t used = g->records.high ? g->records.high - g->map.records_off : 0;
	uint64_t least = round_up(g->map.records_off + used + headroom + SHM_RECORD_MAX, instance_file_block(g->fd));
	uint64_t size = round_up(least + used / 4 + records_headroom(), instance_file_block(g->fd)), before;

	if (size > g->mapped)
		size = g->mapped;
	if (size < g->recycled) /* F5 */
		size = g->recycled;
	if (generation_allocate(g, size) != 0) { /* do without the headroom */
		size = least < g->recycled ? g->recycled : least;
		if (generation_allocate(g, size) != 0)
			return -1;
	}
	if (ftruncate(g->fd, (off_t)size) != 0)
		return -1;
	CRASH_POINT(building_cut);
	before = g->mapped;
	g->mapped = g->limit = size;
	g->held = round_up(records_seal(g), instance_file_block(g->fd));
	if (g->held < size)
		g->held = size;
	if (g->held < before)
		munmap(g->base + g->held, before - g->held);
	if (g->allocated > size)
		g->allocated = size;
	gen_header(g)->size = size;
	CRASH_POINT(building_sealed);
	seg_map_size(&g->map, size);
	return 0;
}

static void generation_free(struct generation **gp, bool unmap)
{
	struct generation *g = *gp;

	records_destroy(g);
	if (g->held > g->mapped)
		munmap(g->base + g->mapped, g->held - g->mapped);
	mirror_table_drop(&g->mirror);
	if (unmap) {
		if (g->base && g->base != MAP_FAILED)
			munmap(g->base, g->mapped);
		close(g->fd);
	}
	free(g->retired);
	free(g->note);
	free(g);
	*gp = NULL;
}

void generation_discard(struct table *t, struct generation **gp)
{
	if (*gp) { /* while a growth only allocates, nothing but the header was written */
		uint64_t has = (*gp)->allocated > (*gp)->recycled ? (*gp)->allocated : (*gp)->recycled;

		/* No more than a reserve needs is kept from others; what was a table once stays whole (F5). */
		if (t->now && has > t->now->limit)
			has = t->now->limit > (*gp)->recycled ? t->now->limit : (*gp)->recycled;
		take_back(t, BUILDING, (*gp)->fd, has, t->growth == GROW_ALLOCATE ? SHM_PAGE : UINT64_MAX);
		generation_free(gp, true);
	}
}

void generation_forget(struct generation **gp)
{
	generation_free(gp, true);
}

/* note: taken. */
static void old_add(struct table *t, struct old_file *note, uint32_t number, int fd, uint64_t size)
{
	note->generation = number;
	note->fd = fd;
	note->size = size;
	snprintf(note->name, sizeof note->name, "table.%u", number);
	note->next = t->old;
	t->old = note;
}

/* Readers may be in it until the grace period of its tag is over; its file goes then. */
static void generation_leave(struct table *t, struct generation *last)
{
	struct old_file *note = last->note;

	last->note = NULL;
	old_add(t, note, last->map.generation, last->fd, last->mapped); /* `limit` may be less: F4 */
	note->tag = atomic_load_explicit(&t->root->grace, memory_order_relaxed);
	note->base = last->base;
	note->mapped = last->mapped;
	t->n_retired -= last->retired_n; /* they go with the file */
	generation_free(&last, false);
}

enum refusal_code generation_flip(struct table *t, struct refusal *r)
{
	struct generation *g = t->next, *last = t->now;
	int dir = t->instance->table_dir_fd;
	char name[32];

	snprintf(name, sizeof name, "table.%u", g->map.generation);
	if (renameat(dir, BUILDING, dir, name) != 0)
		return refuse(r, R_BACKEND, "cannot rename %s/" BUILDING " to %s: %s", t->instance->path, name,
			      strerror(errno));
	CRASH_POINT(table_named);
	g->map.termgen = SHM_TERMGEN(t->term, g->map.generation);
	g->aged_epoch =
		atomic_load_explicit(&gen_header(g)->epoch, memory_order_relaxed); /* no reader saw a tombstone of it */
	/* The flip. Release: whoever loads this number with acquire finds the table complete. */
	atomic_store_explicit(&t->root->termgen, g->map.termgen, memory_order_release);
	CRASH_POINT(flipped);
	t->now = g;
	t->next = NULL;
	for (struct old_file *o = t->old; o; o = o->next)
		if (!o->base && !o->tag) /* a dead writer's: readers could come to it until now */
			o->tag = atomic_load_explicit(&t->root->grace, memory_order_relaxed);
	if (last)
		generation_leave(t, last);
	if (t->reserving_fd >= 0) {
		if (renameat(dir, RESERVE ".new", dir, RESERVE) == 0)
			t->reserve_size = t->reserving;
		CRASH_POINT(reserve_named);
		close(t->reserving_fd);
		t->reserving_fd = -1;
	}
	t->next_look_ms = 0;
	return R_DONE;
}

/* One slice for one file whose readers are gone. True while there is more of it. */
static bool old_slice(struct table *t, struct old_file *o, bool recycle)
{
	int dir = t->instance->table_dir_fd;
	uint64_t full = o->size, len = full - o->punched < PUNCH_STEP ? full - o->punched : PUNCH_STEP;

	recycle = recycle && (o->punched == 0 || o->zeroed); /* what has holes is no reserve */
	o->zeroed = recycle;
	if (len > 0) {
		len = round_up(len, instance_file_block(o->fd));
		if (o->base)
			munmap(o->base + o->punched, len < o->mapped - o->punched ? len : o->mapped - o->punched);
		if (!recycle)
			(void)!fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)o->punched,
					 (off_t)len);
		CRASH_POINT(old_slice_let_go);
		if (recycle && zero_range(o->fd, o->punched, o->punched + len) != 0)
			o->size = o->punched; /* it had holes, and somebody was quicker: the reserve is what we have */
		else
			o->punched += len;
		if (o->punched < o->size)
			return true;
	}
	if (recycle && o->punched >= full && renameat(dir, o->name, dir, RESERVE) == 0) { /* F5 */
		CRASH_POINT(old_recycled);
		t->reserve_size = o->punched;
		return false;
	}
	unlinkat(dir, o->name, 0);
	CRASH_POINT(old_unlinked);
	return false;
}

/* A slice for the files whose readers are gone. True when there was one. */
static bool old_files_slice(struct table *t, bool recycle)
{
	for (struct old_file **at = &t->old; *at; at = &(*at)->next) {
		struct old_file *o = *at;

		if (!o->passed)
			continue;
		if (old_slice(t, o, recycle))
			return true;
		*at = o->next;
		close(o->fd);
		free(o);
		return true;
	}
	return false;
}

bool old_files_step(struct table *t)
{
	if (old_files_slice(t, t->reserve_size == 0 && t->growth == GROW_IDLE && t->next == NULL))
		return true;
	if (t->reserve_size < t->now->limit && !t->old && t->growth == GROW_IDLE && !t->next) {
		uint64_t to = t->reserve_size + PUNCH_STEP;

		if (reserve_make(t, to < t->now->limit ? to : t->now->limit) == 0)
			return true;
		if (t->reserve_size >= t->now->records.high + SHM_RECORD_MAX)
			t->now->limit = t->reserve_size; /* F4: no more is used than a restart has room for */
	}
	return false;
}

void old_files_reclaim(struct table *t)
{
	bool larger = false; /* than a reserve that is smaller than the table in force */

	for (const struct old_file *o = t->old; o; o = o->next)
		larger = larger || (o->passed && o->size > t->reserve_size);
	if (t->reserve_size && t->reserve_size < t->in_force && larger) {
		unlinkat(t->instance->table_dir_fd, RESERVE, 0);
		CRASH_POINT(reserve_dropped);
		t->reserve_size = 0;
	}
	while (t->reserve_size == 0 && old_files_slice(t, true))
		;
}

/* What the dead writer had ready or half-made, and no reader has seen (F2, F4). */
static void left_over(struct table *t, const char *name)
{
	int fd = openat(t->instance->table_dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0) {
		uint64_t backed = (uint64_t)st.st_blocks * 512, size = (uint64_t)st.st_size;

		if (strcmp(name, RESERVE) != 0)
			take_back(t, name, fd, backed < size ? backed : size, UINT64_MAX);
		else
			t->reserve_size = backed < size ? 0 : size;
	}
	close(fd);
}

void old_files_find(struct table *t)
{
	uint32_t current = SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_relaxed));
	int fd = openat(t->instance->table_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	char unseen[32] = "";

	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(d)) != NULL) {
		struct old_file *note;
		struct stat st;
		char *end;
		unsigned long n;

		if (strncmp(e->d_name, "table.", 6) != 0 || e->d_name[6] < '0' || e->d_name[6] > '9')
			continue;
		n = strtoul(e->d_name + 6, &end, 10);
		if (*end || n > UINT32_MAX)
			continue;
		if (n > current) { /* named, but the writer died before the flip: nobody has seen it, and its name is
				      wanted */
			if (*unseen) {
				unlinkat(t->instance->table_dir_fd, unseen, 0);
				CRASH_POINT(unseen_unlinked);
			}
			snprintf(unseen, sizeof unseen, "table.%lu", n);
			continue;
		}
		fd = openat(t->instance->table_dir_fd, e->d_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			continue;
		note = calloc(1, sizeof *note);
		if (fstat(fd, &st) != 0 || !note) {
			close(fd);
			free(note);
			continue;
		}
		old_add(t, note, (uint32_t)n, fd, (uint64_t)st.st_size);
		if (n == current)
			t->in_force = (uint64_t)st.st_size;
	}
	closedir(d);
	left_over(t, RESERVE);
	if (*unseen)
		left_over(t, unseen);
	left_over(t, BUILDING);
	unlinkat(t->instance->table_dir_fd, RESERVE ".new", 0);
	CRASH_POINT(reserve_new_cleared);
}

void old_files_close(struct table *t)
{
	while (t->old) {
		struct old_file *o = t->old;

		t->old = o->next;
		if (o->base)
			munmap(o->base + o->punched, o->mapped - o->punched);
		close(o->fd);
		free(o);
	}
}

int reserve_make(struct table *t, uint64_t size)
{
	int dir = t->instance->table_dir_fd, fd;

	if (size <= t->reserve_size) /* it may be larger, and stays so: F5 */
		return 0;
	fd = openat(dir, RESERVE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return -1;
	CRASH_POINT(reserve_made);
	file_modes(t, fd);
	/* Huge pages at a start alone: later they would be a pause. */
	if (file_allocate(fd, t->reserve_size, round_up(size, instance_file_block(fd)),
			  t->now == NULL && huge_wanted(t, fd)) != 0) {
		int e = errno;

		(void)!ftruncate(fd, (off_t)t->reserve_size);
		close(fd);
		errno = e;
		return -1;
	}
	t->reserve_size = round_up(size, instance_file_block(fd));
	close(fd);
	return 0;
}
