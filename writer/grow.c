/* SPDX-License-Identifier: MIT
 * What the table does in slices of the control thread's time: grace periods and freeing, burying dead readers, growing
 * into a new generation, releasing old ones.
 *
 * Growth: allocate (the new file and a reserve of its size, F1 and F4 of generation.c) -> copy slot by slot, while each
 * change goes to both tables (P5 of change.c) -> seal -> packet programs go over to the new mirror (mirror_follow.c),
 * while changes still go to both -> flip. It starts early enough (GROW_AT) that slices suffice;
 * where changes come faster they wait for it a little, each (grow_press), and it is done at once where that did not
 * suffice (GROW_MUST, a batch). It neither starts nor goes on between a reserve and its publish. One that the file system
 * has no room for is refused before it takes any (growth_fits): others have what is free, and who asks again and again
 * while the table is full is answered at once.
 *
 * Grace periods: guarantees in shm/grace.h. One runs whenever something is retired; what is retired while it runs waits
 * for the next. A section that holds memory back only delays what it can see. */
#include "../shm/crash_point.h"
#include "../shm/poison.h"
#include "lease_book.h"
#include "table_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define COPY_STEP 64u         /* slots between two looks at the clock */
#define FREE_STEP 64u         /* pieces of memory between two of them */
#define THREAD_LEAST SEG_HUGE /* bytes of a file: from here on a thread gets them */
#define ALLOCATING_MS 1u      /* between looks whether it is through */
#define PRESS_US 10u          /* of a change's time go into a growth that has to hurry, */
#define PRESS_MAX_US 1000u    /* so much of a request's at most */
#define RETRY_MS 1000u        /* after a growth or a reserve that found no room */
#define LOOK_MS 1u            /* between grace periods while something is retired */
#define RECLAIM_MS 500u       /* at a start, for readers to leave a file that is wanted */
#define BLOCKED_MS 20u        /* while a section holds it back */
#define EXPIRE_MS 5000u       /* between looks whether what the departed left is older than the barrier */

/* ---- grace periods ---- */

static bool ring_push(struct generation *g, struct retired item)
{
	if (g->retired_n == g->retired_size) {
		size_t size = g->retired_size ? g->retired_size * 2 : 64;
		struct retired *bigger = malloc(size * sizeof *bigger);

		if (!bigger)
			return false;
		for (size_t i = 0; i < g->retired_n; i++)
			bigger[i] = g->retired[(g->retired_head + i) % g->retired_size];
		free(g->retired);
		g->retired = bigger;
		g->retired_head = 0;
		g->retired_size = size;
	}
	g->retired[(g->retired_head + g->retired_n++) % g->retired_size] = item;
	return true;
}

void retire(struct table *t, struct generation *g, uint32_t off, uint64_t epoch)
{
	struct retired item = {atomic_load_explicit(&t->root->grace, memory_order_relaxed), epoch, off};

	if (g != t->now) { /* no reader has seen it */
		if (off)
			records_free(g, off);
		return;
	}
	if (ring_push(g, item)) /* out of memory: the record stays until its generation goes */
		t->n_retired++;
}

static bool passed_left(const struct table *t)
{
	return t->now->retired_n && t->now->retired[t->now->retired_head].tag < t->passed;
}

/* What was retired before t->passed: until the time is up, the rest is the next slice's. */
static void free_passed(struct table *t, uint64_t until_ns)
{
	struct generation *g = t->now;

	for (unsigned n = 1; passed_left(t); n++) {
		struct retired *item = &g->retired[g->retired_head];

		if (n % FREE_STEP == 0 && seg_clock_ns(CLOCK_MONOTONIC) >= until_ns)
			break;
		if (item->off)
			records_free(g, item->off);
		if (item->epoch > g->aged_epoch)
			g->aged_epoch = item->epoch;
		g->retired_head = (g->retired_head + 1) % g->retired_size;
		g->retired_n--;
		t->n_retired--;
	}
}

/* True when readers hold something back. */
static bool grace_period(struct table *t, uint64_t until_ns)
{
	uint64_t grace = atomic_load_explicit(&t->root->grace, memory_order_relaxed);
	uint64_t newest = 0, lowest;
	bool held = false;

	if (t->now->retired_n)
		newest = t->now->retired[(t->now->retired_head + t->now->retired_n - 1) % t->now->retired_size].tag + 1;
	for (struct old_file *o = t->old; o; o = o->next)
		if (!o->passed && o->tag + 1 > newest)
			newest = o->tag + 1;
	if (newest > grace) {
		if (grace_advance(t->root, t->membarrier) != 0)
			return true; /* no barrier, no freeing: tried again */
		grace++;
		t->grace_periods++;
	}
	registry_look(t->registry);
	/* A section with number n may see what was unlinked at n. What comes later has a higher tag, so this goes on
	 * being true. */
	lowest = registry_lowest(t->registry, t->now->map.generation);
	t->passed = lowest < grace ? lowest : grace;
	free_passed(t, until_ns);
	t->held_bytes = 0;
	for (struct old_file *o = t->old; o; o = o->next) {
		if (!o->passed && o->tag < grace && o->tag < registry_lowest(t->registry, o->generation)) {
			o->passed = true;
			poison_file(o->fd, o->size);
		}
		if (!o->passed)
			t->held_bytes += o->size;
		held = held || !o->passed;
	}
	return held || (t->now->retired_n && !passed_left(t) && t->now->retired[t->now->retired_head].tag < grace);
}

void reserve_reclaim(struct table *t)
{
	uint32_t current = SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_acquire));
	const struct timespec nap = {.tv_nsec = 1000000};
	bool advanced = false;

	for (unsigned ms = 0; (t->reserve_size == 0 || t->reserve_size < t->in_force) && ms < RECLAIM_MS; ms++) {
		bool held = false;

		/* Readers left those files behind at a flip before this writer's; the present one goes on being theirs.
		 */
		for (struct old_file *o = t->old; o && !advanced; o = o->next)
			if (o->generation != current)
				o->tag = atomic_load_explicit(&t->root->grace, memory_order_relaxed);
		if (!advanced && grace_advance(t->root, t->membarrier) != 0)
			return;
		advanced = true;
		registry_look(t->registry);
		for (struct old_file *o = t->old; o; o = o->next) {
			o->passed = o->generation != current && o->tag < registry_lowest(t->registry, o->generation);
			if (o->passed && o->punched == 0)
				poison_file(o->fd, o->size);
			held = held || (o->generation != current && !o->passed);
		}
		old_files_reclaim(t);
		if (!held)
			return;
		nanosleep(&nap, NULL);
	}
}

/* ---- growth ---- */

/* Of a file with this place for records, and of its reserve. */
static uint64_t growth_bytes(const struct table *t, uint64_t records_off)
{
	uint64_t records = t->now->records.high ? t->now->records.high - t->now->map.records_off : 0;

	return records_off + records + records / 2 + t->headroom + 4 * records_headroom();
}

/* Blocks come to a file in steps of SEG_HUGE (grow_allocate). Never more than that takes: what this lets pass may find
 * no room, what it refuses would have found none. has: bytes that the file has. */
static uint64_t growth_takes(uint64_t bytes, uint64_t has)
{
	uint64_t to = (bytes + SEG_HUGE - 1) / SEG_HUGE * SEG_HUGE;

	return bytes > has && to > has ? to - has : 0;
}

static enum refusal_code refuse_growth(const struct table *t, uint32_t capacity, const char *error, uint64_t lacks,
				       struct refusal *r)
{
	return refuse(r, R_FULL,
		      "no room for a table of %u entries and its reserve in %s: %s; give the file system %llu bytes "
		      "more",
		      capacity, t->instance->path, error, (unsigned long long)lacks);
}

/* One that has given back what it took. bytes: of one of its files, when it took so much that it may not be tried for
 * each insertion; a failing call, or a small file, is tried again at once. */
static void note_no_room(struct table *t, uint64_t bytes, uint64_t lacks, const struct refusal *r)
{
	t->no_room.why = *r;
	t->no_room.lacks = lacks;
	t->no_room.bytes = bytes;
	t->no_room.until_ms = seg_clock_ms(CLOCK_MONOTONIC) + RETRY_MS;
	file_system_lacks(t->instance->table_dir_fd, 0, &t->no_room.left);
}

/* Before a growth takes anything: it would have all that is free until it has to give up. The reserve is used for the
 * new file. */
static bool growth_fits(struct table *t, uint32_t capacity, uint32_t n_clusters, struct refusal *r)
{
	uint64_t bytes = growth_bytes(t, generation_records_off(capacity, n_clusters)), left;
	uint64_t takes = growth_takes(bytes, t->reserve_size) + growth_takes(bytes, 0);
	uint64_t lacks = file_system_lacks(t->instance->table_dir_fd, takes, &left);

	if (lacks) {
		t->no_room.lacks = lacks;
		refuse_growth(t, capacity, strerror(ENOSPC), lacks, &t->no_room.why);
	}
	/* One that was refused after it had allocated: an answer for who asks again at once. */
	if (lacks || (t->no_room.bytes && bytes >= t->no_room.bytes && left <= t->no_room.left &&
		      seg_clock_ms(CLOCK_MONOTONIC) < t->no_room.until_ms)) {
		*r = t->no_room.why;
		return false;
	}
	return true;
}

bool grow_start(struct table *t, uint32_t capacity, uint32_t n_clusters, struct refusal *r)
{
	uint32_t number = t->now->map.generation + 1;

	if (!growth_fits(t, capacity, n_clusters, r))
		return false;
	if (generation_create(t, number, capacity, n_clusters, &t->next, r) != R_DONE)
		goto refused;
	t->reserving_fd = openat(t->instance->table_dir_fd, "reserve.new",
				 O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (t->reserving_fd < 0) {
		refuse(r, R_BACKEND, "cannot make %s/reserve.new: %s", t->instance->path, strerror(errno));
		generation_discard(t, &t->next);
		goto refused;
	}
	CRASH_POINT(reserve_new_made);
	(void)!fchmod(t->reserving_fd, t->instance->table_mode);
	CRASH_POINT(reserve_new_modes_set);
	t->reserving = 0;
	t->asked = false;
	t->copied = 0;
	t->mirror_asked = false;
	t->growth = GROW_ALLOCATE;
	return true;
refused:
	note_no_room(t, 0, 0, r);
	return false;
}

/* Takes over what the thread has allocated. 0, or -1 with errno. */
static int allocated(struct table *t, bool wait)
{
	struct allocation_part parts[2];
	int rc;

	if (!t->allocating)
		return 0;
	rc = allocation_end(&t->allocating, parts, wait);
	t->next->allocated = parts[0].at;
	t->reserving = parts[1].at;
	return rc;
}

void grow_stop(struct table *t)
{
	(void)!allocated(t, false);
	mirrored_rest(t);
}

static void grow_give_up(struct table *t, uint64_t lacks, const struct refusal *r)
{
	uint64_t bytes = t->asked ? growth_bytes(t, t->next->map.records_off) : 0;

	grow_stop(t);
	mirrored_give_up(t);
	close(t->reserving_fd);
	t->reserving_fd = -1;
	unlinkat(t->instance->table_dir_fd, "reserve.new", 0);
	generation_discard(t, &t->next);
	t->growth = GROW_IDLE;
	t->headroom = 0;
	t->grow_again_ms = seg_clock_ms(CLOCK_MONOTONIC) + RETRY_MS;
	reserve_make(t, t->now->limit);
	note_no_room(t, bytes, lacks, r);
}

/* 1 done, 0 more to do, -1 no room. A small file, and what came to it while the thread was at work, in steps;
 * wait: this call may take as long as it does. */
static int grow_allocate(struct table *t, bool wait)
{
	uint64_t want = growth_bytes(t, t->next->map.records_off), to;

	if (want > t->next->mapped) {
		errno = ENOSPC; /* more than offsets reach */
		return -1;
	}
	if (!t->asked && want >= THREAD_LEAST) {
		const struct allocation_part parts[2] = {{t->next->fd, t->next->allocated}, {t->reserving_fd, 0}};

		to = (want / SEG_HUGE + 1) * SEG_HUGE;
		t->asked = true;
		t->allocating = allocation_start(parts, to < t->next->mapped ? to : t->next->mapped, t->next->huge);
	}
	if (t->allocating && !wait && !allocation_done(t->allocating))
		return 0;
	if (allocated(t, true) != 0)
		return -1;
	t->next->huge = false; /* the rest is little, and this thread may not pause as long as a huge page takes */
	if (t->next->allocated < want)
		return generation_allocate(t->next, (t->next->allocated / SEG_HUGE + 1) * SEG_HUGE) == 0 ? 0 : -1;
	if (t->reserving < want) {
		to = t->reserving + SEG_HUGE;
		if (file_allocate(t->reserving_fd, t->reserving, to, false) != 0)
			return -1;
		t->reserving = to;
		return 0;
	}
	return 1;
}

static bool copy_header(struct table *t)
{
	struct shm_table *from = gen_header(t->now), *to = gen_header(t->next);
	struct state s;

#define COPY(field) \
	atomic_store_explicit(&to->field, atomic_load_explicit(&from->field, memory_order_relaxed), \
			      memory_order_relaxed)
	COPY(epoch);
	COPY(document_version);
	COPY(next_cluster);
#undef COPY
	CRASH_POINT(header_copied);
	for (unsigned n = 1; n < t->now->map.n_cluster_slots; n++) {
		const struct shm_cluster *c = table_cluster(t, n);
		uint32_t off = c ? cluster_record_make(t->next, n, cluster_id(c), cluster_endpoint(c)) : 0;

		if (c && !off)
			return false;
		atomic_store_explicit(gen_cluster(t->next, n), off, memory_order_release);
		CRASH_POINT(cluster_copied);
	}
	cell_state(t->now, atomic_load_explicit(&from->dflt.word, memory_order_relaxed), from->dflt.det, &s);
	return cell_fill(t, t->next, SLOT_NONE, &s,
			 atomic_load_explicit(&from->default_document, memory_order_relaxed));
}

static bool copy_slot(struct table *t, uint32_t slot)
{
	const struct shm_entry *e = gen_entry(t->now, slot), *there;
	uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed), found;
	uint64_t document = atomic_load_explicit(gen_document(t->now, slot), memory_order_relaxed);
	const unsigned char *key;
	struct state s;
	uint32_t to;
	size_t len;

	if (!word_live(word) && (word == WORD_EMPTY || document == 0))
		return true;
	key = index_key(&t->now->map, e, &len);
	if (!key || index_find(&t->next->map, key, len, e->hash, true, &there, &found) == 1)
		return true; /* a change has put it there already (P5 of change.c) */
	to = slot_take(t->next, (const char *)key, len, e->hash);
	if (to == SLOT_NONE)
		return false;
	cell_state(t->now, word, e->det, &s);
	return cell_fill(t, t->next, to, &s, document);
}

/* Bytes that either file lacks. */
static uint64_t grow_lacks(const struct table *t)
{
	uint64_t want = growth_bytes(t, t->next->map.records_off),
		 has = t->next->allocated > t->next->recycled ? t->next->allocated : t->next->recycled;

	return (want > has ? want - has : 0) + (want > t->reserving ? want - t->reserving : 0);
}

/* For a thread, in table_step's slices. */
static bool grow_waits(const struct table *t)
{
	return t->allocating || t->mirror_making || t->growth == GROW_SWAP;
}

/* One slice. 1: flipped, or given up; 0: more to do. */
static int grow_slice(struct table *t, uint64_t until_ns, struct refusal *r)
{
	bool wait = until_ns == UINT64_MAX;
	uint32_t capacity;
	uint64_t lacks = 0;

	if (!t->next)
		return 1;
	capacity = t->next->map.capacity;
	while (t->growth == GROW_ALLOCATE) {
		int rc = grow_allocate(t, wait);

		if (rc < 0) {
			const char *error = strerror(errno);

			lacks = grow_lacks(t);
			refuse_growth(t, capacity, error, lacks, r);
			goto give_up;
		}
		if (rc > 0 && !t->mirror_asked) { /* its memory, once there is room for the table */
			t->mirror_asked = true;
			mirrored_grow(t);
		}
		if (rc > 0 && mirrored_grown(t, wait)) {
			t->growth = GROW_COPY;
			if (!copy_header(t))
				goto full;
		}
		if (grow_waits(t) || seg_clock_ns(CLOCK_MONOTONIC) >= until_ns)
			return 0;
	}
	while (t->growth == GROW_COPY && t->copied < t->now->map.n_entries) {
		for (unsigned i = 0; i < COPY_STEP && t->copied < t->now->map.n_entries; i++, t->copied++)
			if (!copy_slot(t, t->copied))
				goto full;
		if (seg_clock_ns(CLOCK_MONOTONIC) >= until_ns)
			return 0;
	}
	if (t->growth == GROW_COPY) {
		if (generation_seal(t->next, t->headroom) != 0)
			goto full;
		mirrored_swap(t);
		t->growth = GROW_SWAP;
	}
	if (!mirrored_swapped(t, wait))
		return 0;
	if (generation_flip(t, r) != R_DONE)
		goto full;
	t->growth = GROW_IDLE;
	t->headroom = 0;
	t->no_room.told = false;
	t->no_room.bytes = 0;
	mirrored_enable(t);
	return 1;
full:
	refuse(r, R_FULL, "a table of %u entries has no room for what is in the present one: give %s more room",
	       capacity, t->instance->path);
give_up:
	grow_give_up(t, lacks, r);
	return 1;
}

static uint32_t clusters_wanted(const struct table *t, uint64_t more)
{
	uint64_t next = table_next_cluster(t), n = t->now->map.n_cluster_slots;

	while (n < next + more + 8 && n <= SHM_CLUSTERS_MAX)
		n *= 2;
	return n > SHM_CLUSTERS_MAX + 1 ? SHM_CLUSTERS_MAX + 1 : (uint32_t)n;
}

static uint64_t live(const struct table *t)
{
	return atomic_load_explicit(&gen_header(t->now)->n_live, memory_order_relaxed);
}

static uint64_t taken(const struct table *t)
{
	return live(t) + atomic_load_explicit(&gen_header(t->now)->n_tombstones, memory_order_relaxed);
}

enum refusal_code grow_now(struct table *t, const struct table_room *more, struct refusal *r)
{
	uint32_t before = t->now->map.generation;
	uint64_t n = live(t) + more->partitions;

	r->code = R_DONE;
	if (t->next && t->growth == GROW_IDLE)
		return refuse(r, R_FULL, "the table is being built");
	t->headroom = more->record_bytes;
	if (!t->next && !grow_start(t, capacity_for(n + n / 16), clusters_wanted(t, more->clusters), r)) {
		t->headroom = 0;
		return r->code;
	}
	while (grow_slice(t, UINT64_MAX, r) == 0)
		;
	return t->now->map.generation != before ? R_DONE : r->code;
}

static bool has_room(const struct table *t, const struct table_room *more)
{
	const struct generation *g = t->now;
	uint64_t used = taken(t);
	uint64_t records = g->limit - (g->records.high ? g->records.high : g->map.records_off);

	return used + more->partitions <= GROW_AT(g->map.capacity) && more->record_bytes <= records &&
	       table_next_cluster(t) + more->clusters <= g->map.n_cluster_slots;
}

enum refusal_code table_expect(struct table *t, const struct table_room *more, struct refusal *r)
{
	enum refusal_code rc = R_DONE;

	if (t->next) /* a growth under way: its copy could be too small for the batch */
		rc = grow_now(t, more, r);
	if (rc == R_DONE && !has_room(t, more))
		rc = grow_now(t, more, r);
	return rc;
}

void grow_press(struct table *t, size_t n)
{
	uint32_t at = GROW_AT(t->now->map.capacity), must = GROW_MUST(t->now->map.capacity);
	uint64_t us = n < PRESS_MAX_US / PRESS_US ? n * PRESS_US : PRESS_MAX_US;
	const struct timespec nap = {.tv_nsec = (long)us * 1000};
	struct refusal ignored;

	if (t->growth == GROW_IDLE || t->n_reserved || taken(t) < at + (must - at) / 2)
		return;
	if (grow_waits(t))
		nanosleep(&nap, NULL);
	grow_slice(t, seg_clock_ns(CLOCK_MONOTONIC) + us * 1000u, &ignored);
}

static bool time_to_grow(const struct table *t)
{
	const struct shm_table *h = gen_header(t->now);

	return taken(t) > GROW_AT(t->now->map.capacity) ||
	       atomic_load_explicit(&h->longest_probe, memory_order_relaxed) > SHM_PROBE_MAX * 3 / 4;
}

const char *table_growth_failed(const struct table *t, uint64_t *lacks)
{
	*lacks = t->no_room.lacks;
	return t->no_room.told ? t->no_room.why.message : NULL;
}

uint64_t table_step(struct table *t, uint64_t budget_us)
{
	uint64_t start = seg_clock_ns(CLOCK_MONOTONIC), now_ms = start / 1000000u, wait = UINT64_MAX;
	uint64_t until_ns = start + budget_us * 1000u;
	struct refusal r = {.code = R_DONE};

	mirrored_age(t);
	if (passed_left(t)) {
		free_passed(t, until_ns);
	} else if ((t->n_retired || t->old) && now_ms >= t->next_look_ms) {
		bool held = grace_period(t, until_ns);

		if (held && registry_bury(t->registry))
			held = grace_period(t, until_ns);
		t->next_look_ms = now_ms + (held ? BLOCKED_MS : LOOK_MS);
	} else {
		registry_bury(t->registry);
	}
	if (!t->next && !t->n_reserved && now_ms >= t->grow_again_ms && time_to_grow(t)) {
		uint64_t n = live(t);

		/* Half full after the growth: 138 bytes a partition, less with each that comes. */
		if (!grow_start(t, capacity_for(n + n / 4), clusters_wanted(t, 0), &r))
			t->grow_again_ms = now_ms + RETRY_MS;
	}
	if (t->growth != GROW_IDLE && !t->n_reserved) {
		if (grow_slice(t, until_ns, &r) == 0)
			return grow_waits(t) ? ALLOCATING_MS : 0;
	} else if (now_ms >= t->grow_again_ms && old_files_step(t)) {
		return 0;
	}
	t->no_room.told = t->no_room.told || r.code != R_DONE;
	if (passed_left(t))
		return 0;
	if (t->reserve_size < t->now->limit && now_ms >= t->grow_again_ms)
		t->grow_again_ms = now_ms + RETRY_MS;
	wait = mirror_compare_step(t, now_ms, until_ns);
	if (wait > registry_next_ms(t->registry, now_ms))
		wait = registry_next_ms(t->registry, now_ms);
	if (lease_book_count(registry_book(t->registry))) {
		if (now_ms >= t->expire_ms) {
			lease_book_expire(registry_book(t->registry),
					  atomic_load_explicit(&t->root->barrier_ms, memory_order_relaxed),
					  registry_now(t->registry));
			t->expire_ms = now_ms + EXPIRE_MS;
		}
		wait = wait < t->expire_ms - now_ms ? wait : t->expire_ms - now_ms;
	}
	if ((t->n_retired || t->old) && wait > (t->next_look_ms > now_ms ? t->next_look_ms - now_ms : 0))
		wait = t->next_look_ms > now_ms ? t->next_look_ms - now_ms : 0;
	if (t->grow_again_ms > now_ms && wait > RETRY_MS)
		wait = RETRY_MS;
	return wait;
}
