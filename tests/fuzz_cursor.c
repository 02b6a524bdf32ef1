/* SPDX-License-Identifier: MIT
 * libFuzzer target for the file of pins, cursors.<generation>, that holds anything: searched by libberth, looked at by what
 * is behind `berth cursors` and `berth verify`, then taken over by a writer that pins, releases and expires in it, and once
 * more by the next one. Whatever is in it, nobody looks outside of it, no search goes on for ever, an answer is a pin that a
 * slot of the file says with this id and this owner, and after a take-over every chain is whole and holds nothing new. What
 * `berth verify` finds no fault with loses no pin. One thread; the clock is ours.
 *
 * First byte of the input:
 *   bits 0-1  0 1  overwrites of a valid file     2  where it ends, then those     3  its header is the input's bytes
 *   bit 2     the header's checksum is made to fit
 *   bits 3-4  the capacity of the writer that takes over     bits 5-6  the share of an owner in it
 * then a byte: how many overwrites; behind them, what that writer does. */
#include <sanitizer/asan_interface.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../reader_lib/pins.h"
#include "../writer/core_internal.h"
#include "../writer/log.h"
#include "fuzz.h"

/* Writer and tool have functions of the same names; the Makefile keeps apart those that are linked. */
#define cursor_count writer_cursor_count
#include "../writer/cursor_table_internal.h"
#undef cursor_count
#define cursor_file_open tool_cursor_file_open
#include "../tools/cursor_count.h"
#include "../tools/verify.h"
#undef cursor_file_open

#define CAPACITY 96u
#define CAPACITY_MAX 160u /* of a writer that takes over */
#define N_BUCKETS 256u
#define BUCKETS_OFF SHM_PAGE
#define SLOTS_OFF (BUCKETS_OFF + N_BUCKETS * 8)
#define FILE_SIZE (SLOTS_OFF + CAPACITY * sizeof(struct shm_cursor))
#define GENERATION 7u
#define NOW 1000000u
#define TTL 60000u
#define N_TEXTS 20u
#define N_LONG SHM_CHAIN_MAX /* pins of one bucket, the longest chain that there may be */
#define N_KNOWN (N_TEXTS + N_LONG)
#define N_OWNERS 3u

static const char *const owners[N_OWNERS] = {"a", "b", "a-third-owner"};
struct known {
	char text[320]; /* "": a hash that is no text's */
	uint64_t hash[2], owner, word;
};
static struct known known[N_KNOWN];

static unsigned char valid[FILE_SIZE] __attribute__((aligned(4096)));
static unsigned char image[4 * FILE_SIZE] __attribute__((aligned(4096)));
static char dir[64];
static struct instance instance;
static struct core *core;
static struct shm_root *root;
static struct tool tool;

/* ---- files -------------------------------------------------------------------------------------------------------- */

static void put_file(const unsigned char *bytes, size_t size)
{
	char name[40];
	int fd;

	snprintf(name, sizeof(name), SEG_CURSORS "%llu", (unsigned long long)atomic_load(&root->cursor_generation));
	unlinkat(instance.table_dir_fd, name, 0); /* the last writer's */
	snprintf(name, sizeof(name), SEG_CURSORS "%u", GENERATION);
	unlinkat(instance.table_dir_fd, name, 0);
	fd = openat(instance.table_dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	HOLDS(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
	close(fd);
	atomic_store(&root->cursor_generation, GENERATION);
}

static struct cursor_table *take_over(uint32_t capacity, uint32_t share, uint64_t now)
{
	const struct cursor_table_options o = {.capacity = capacity, .ttl_ms = TTL, .owner_share = share};
	struct cursor_table *t = NULL;
	struct refusal r = {0};

	/* damage costs pins, never the start */
	HOLDS(cursor_table_open(&instance, root, &o, now, &t, &r) == R_DONE && t);
	return t;
}

static void make_known(const struct shm_cursor_keys *keys)
{
	for (unsigned i = 0; i < N_KNOWN; i++) {
		struct known *k = &known[i];
		const char *owner = owners[i % N_OWNERS];

		k->owner = cursor_owner(keys, owner, strlen(owner));
		k->word = cursor_word(1 + i % 4, NOW + TTL + i);
		if (i < N_TEXTS) {
			snprintf(k->text, sizeof(k->text), "cursor-%0*u", i % 5 ? 1 : 300, i);
			cursor_hash(keys, k->text, strlen(k->text), k->hash);
		} else {
			k->hash[0] = 7 | (uint64_t)i << 32;
			k->hash[1] = ~(uint64_t)i;
		}
	}
}

/* Keys that are the same in each run: what an input overwrites stays what it is. */
static void make_valid(void)
{
	struct cursor_table *t = take_over(CAPACITY, 0, NOW);
	struct shm_cursors *h = (struct shm_cursors *)(void *)valid;
	uint64_t x = 1;

	memcpy(valid, t->header, FILE_SIZE);
	cursor_table_close(&t);
	HOLDS(h->buckets_off == BUCKETS_OFF && h->slots_off == SLOTS_OFF && h->n_buckets == N_BUCKETS);
	for (size_t at = offsetof(struct shm_cursors, keys); at < offsetof(struct shm_cursors, reserved); at += 8) {
		x = x * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
		memcpy(valid + at, &(uint64_t){x ^ x >> 32}, 8);
	}
	h->generation = GENERATION;
	h->size = FILE_SIZE;
	h->check = cursor_header_check(h);
	put_file(valid, FILE_SIZE);
	make_known(&h->keys);
	t = take_over(CAPACITY, 0, NOW);
	for (unsigned i = 0; i < N_KNOWN; i++)
		HOLDS(cursor_table_pin(t, known[i].hash, known[i].owner, (uint16_t)cursor_cluster(known[i].word),
				       cursor_expiry(known[i].word), NOW) == SHM_PIN_OK);
	memcpy(valid, t->header, FILE_SIZE);
	cursor_table_close(&t);
}

/* ---- damage ------------------------------------------------------------------------------------------------------- */

/* | place u8 | at u16 | len u8 | bytes | */
static void overwrite(struct fuzz_input *in)
{
	static const struct {
		size_t from, len, align;
	} places[] = {{0, 256, 4},
		      {BUCKETS_OFF, N_BUCKETS * 8, 8},
		      {BUCKETS_OFF, N_BUCKETS * 8, 1},
		      {SLOTS_OFF, FILE_SIZE - SLOTS_OFF, 64},
		      {SLOTS_OFF + offsetof(struct shm_cursor, next), FILE_SIZE - SLOTS_OFF - 64, 64},
		      {SLOTS_OFF, FILE_SIZE - SLOTS_OFF, 8},
		      {SLOTS_OFF, FILE_SIZE - SLOTS_OFF, 1},
		      {0, FILE_SIZE, 1}};
	unsigned place = fuzz_u8(in) % (unsigned)(sizeof(places) / sizeof(places[0]));
	size_t at = places[place].from + (size_t)fuzz_bytes(in, 2) * places[place].align % places[place].len, n;
	const unsigned char *bytes = fuzz_take(in, fuzz_u8(in) % 80u, &n);

	memcpy(image + at, bytes, n);
}

/* How long the file is; *intact: nothing was done to it. */
static size_t make_image(unsigned what, struct fuzz_input *in, bool *intact)
{
	struct shm_cursors *h = (struct shm_cursors *)(void *)image;
	size_t size = FILE_SIZE, n;
	const unsigned char *bytes;

	memset(image, 0, sizeof(image));
	memcpy(image, valid, FILE_SIZE);
	*intact = (what & 3) < 2;
	if ((what & 3) == 3) {
		bytes = fuzz_take(in, 128, &n);
		memcpy(image, bytes, n);
	} else if ((what & 3) == 2) {
		size = (size_t)fuzz_bytes(in, 2) % (2 * FILE_SIZE);
		if (fuzz_u8(in) & 1)
			h->size = size;
	}
	for (unsigned left = fuzz_u8(in) % 33; left > 0 && in->left > 4; left--) {
		overwrite(in);
		*intact = false;
	}
	if (what & 4)
		h->check = cursor_header_check(h);
	return size;
}

/* ---- what is in a file, by reading all of it ---------------------------------------------------------------------- */

static bool slot_says(const struct cursor_map *m, const uint64_t hash[2], uint64_t owner, uint64_t word)
{
	for (uint32_t i = 0; i < m->capacity; i++) {
		const struct shm_cursor *s = &m->slots[i];

		if (cursor_load(&s->version) != 0 && cursor_load(&s->hash[0]) == hash[0] &&
		    cursor_load(&s->hash[1]) == hash[1] && cursor_load(&s->owner) == owner &&
		    cursor_load(&s->word) == word)
			return true;
	}
	return false;
}

/* Every chain ends, in its own bucket's pins, each once; every pin is in one. old: where they all come from; NULL: not
 * asked. */
static void judge_whole(const struct cursor_table *t, const struct cursor_map *old)
{
	const struct cursor_map *m = cursor_table_map(t);
	uint32_t linked = 0;
	bool seen[CAPACITY_MAX + 1] = {false};

	HOLDS(m->capacity <= CAPACITY_MAX);
	for (uint64_t b = 0; b <= m->mask; b++) {
		unsigned n = 0;

		for (uint32_t at = SHM_BUCKET_FIRST(cursor_load(&m->buckets[b])); at != 0;
		     at = cursor_next(&m->slots[at - 1])) {
			const struct shm_cursor *s;

			HOLDS(at <= m->capacity && !seen[at] && n++ < SHM_CHAIN_MAX);
			seen[at] = true;
			linked++;
			s = &m->slots[at - 1];
			HOLDS(cursor_load(&s->version) != 0 && (cursor_load(&s->hash[0]) & m->mask) == b);
			HOLDS(cursor_cluster(cursor_load(&s->word)) != 0);
			if (old) {
				const uint64_t hash[2] = {cursor_load(&s->hash[0]), cursor_load(&s->hash[1])};

				HOLDS(slot_says(old, hash, cursor_load(&s->owner), cursor_load(&s->word)));
			}
		}
	}
	for (uint32_t at = 1; at <= m->capacity; at++)
		HOLDS(seen[at] || cursor_load(&m->slots[at - 1].version) == 0);
	for (uint32_t at = 1; at <= m->capacity; at++) {
		uint32_t n = 0;
		unsigned cluster = cursor_cluster(cursor_load(&m->slots[at - 1].word));

		for (uint32_t other = 1; seen[at] && other <= m->capacity; other++)
			n += seen[other] && cursor_cluster(cursor_load(&m->slots[other - 1].word)) == cluster;
		HOLDS(!seen[at] || cursor_table_cluster_uses(t, (uint16_t)cluster) == n);
	}
	HOLDS(linked == cursor_table_count(t));
}

/* ---- libberth ----------------------------------------------------------------------------------------------------- */

static void search(const struct cursor_map *m, bool intact)
{
	for (unsigned i = 0; i < N_KNOWN; i++) {
		const struct known *k = &known[i];
		uint64_t owner = 0, word = 0;
		enum cursor_found found = cursor_find(m, k->hash, &owner, &word);

		HOLDS(found != CURSOR_CHANGED); /* nobody changes it */
		HOLDS(found != CURSOR_HIT || slot_says(m, k->hash, owner, word));
		HOLDS(!intact || (found == CURSOR_HIT && owner == k->owner && word == k->word));
	}
}

/* A reader of a process that has registered, whose file is the one that root names. m: the same bytes; NULL: they are
 * refused. */
static void resolve(const struct cursor_map *m, uint64_t now)
{
	static _Atomic uint64_t page = 1;
	static struct berth berth = {.page = &page, .cursors = BERTH_CURSORS_PIN};
	static struct shm_ring ring;
	struct attachment at = {
		.tables_fd = instance.table_dir_fd, .root = root, .n_rings = 1, .users = 1, .spare = -1};
	struct berth_reader r = {.stamp_page = &page,
				 .stamp = 1,
				 .root = root,
				 .line = &r.own_line,
				 .owner = &berth,
				 .at = &at,
				 .ring = &ring,
				 .pins_generation = PINS_NONE};
	struct berth_cursor all[N_TEXTS];
	int codes[N_TEXTS], in_bulk[N_TEXTS];
	uint16_t clusters[N_TEXTS], cluster;

	for (unsigned i = 0; i < N_TEXTS * N_OWNERS; i++) {
		const char *text = known[i % N_TEXTS].text, *owner = owners[i / N_TEXTS];
		int rc = berth_cursor_resolve(&r, text, strlen(text), owner, strlen(owner), now, &cluster);
		uint64_t hash[2], who = 0, word = 0;
		enum cursor_found found;

		all[i % N_TEXTS] = (struct berth_cursor){text, strlen(text), owner, strlen(owner)};
		codes[i % N_TEXTS] = rc;
		if (!m) {
			HOLDS(rc != BERTH_OK && rc != BERTH_E_UNKNOWN && rc != BERTH_E_NOT_OWNER);
			continue;
		}
		cursor_hash(&m->file->keys, text, strlen(text), hash);
		found = cursor_find(m, hash, &who, &word);
		if (found == CURSOR_DAMAGED)
			HOLDS(rc == BERTH_E_CORRUPT);
		else if (found == CURSOR_MISS || cursor_expiry(word) <= now)
			HOLDS(rc == BERTH_E_UNKNOWN);
		else if (who != cursor_owner(&m->file->keys, owner, strlen(owner)))
			HOLDS(rc == BERTH_E_NOT_OWNER);
		else if (cursor_cluster(word) == 0)
			HOLDS(rc == BERTH_E_CORRUPT);
		else
			HOLDS(rc == BERTH_OK && cluster == cursor_cluster(word));
	}
	berth_cursor_resolve_bulk(&r, all, N_TEXTS, now, clusters, in_bulk); /* of the last owner */
	HOLDS(memcmp(in_bulk, codes, sizeof(codes)) == 0);
	bl_pins_put(r.pins_mapping);
	bl_pins_put(at.pins);
	if (atomic_load(&at.spare) >= 0)
		close(atomic_load(&at.spare));
}

/* ---- the tool ----------------------------------------------------------------------------------------------------- */

/* The pins that `berth verify` counted; -1: it found faults. */
static int64_t verify(void)
{
	struct verify v = {.t = &tool};

	verify_cursors(&v);
	return v.n_faults ? -1 : (int64_t)v.n_pins;
}

static void count(const struct cursor_map *m, uint64_t now)
{
	struct census c = {.now_ms = now};
	uint64_t n = 0;

	HOLDS((cursor_file_try(&tool, &c.map) == BERTH_OK) == (m != NULL));
	if (!m)
		return;
	HOLDS(cursor_count(&tool, &c, 10) == EXIT_DONE);
	for (uint32_t i = 0; i < m->capacity; i++)
		n += cursor_load(&m->slots[i].version) != 0;
	HOLDS(c.n_pins + c.n_not_swept == n && c.n_owners <= c.n_pins && c.n_shown <= 10);
	cursor_count_end(&c);
	cursor_map_close(&c.map);
}

/* ---- the writer --------------------------------------------------------------------------------------------------- */

static void operate(struct cursor_table *t, struct fuzz_input *in, uint64_t *now)
{
	while (in->left) {
		unsigned what = fuzz_u8(in);
		const struct known *k = &known[fuzz_u8(in) % N_KNOWN];
		uint64_t owner = known[what >> 2 & 3].owner, there = 0, word = 0;
		uint64_t expiry = *now + fuzz_u8(in) * 100u;
		uint16_t cluster = (uint16_t)(1 + (what >> 4));

		switch (what & 3) {
		case 0:
		case 1:
			if (cursor_table_pin(t, k->hash, owner, cluster, expiry, *now) != SHM_PIN_OK)
				break;
			HOLDS((cursor_find(cursor_table_map(t), k->hash, &there, &word) == CURSOR_HIT) ==
			      (expiry > *now));
			HOLDS(expiry <= *now || (there == owner && word == cursor_word(cluster, expiry)));
			break;
		case 2:
			if (cursor_table_release(t, k->hash, owner, *now) == SHM_PIN_OK)
				HOLDS(cursor_find(cursor_table_map(t), k->hash, &there, &word) == CURSOR_MISS);
			break;
		default:
			*now = expiry;
			cursor_table_expire(t, *now, what >> 2);
		}
	}
}

/* m: what the file holds, if a reader takes it; n_good: pins that must not be lost, -1: none is sure. */
static void write_on(unsigned what, struct fuzz_input *in, const struct cursor_map *m, int64_t n_good)
{
	static const uint32_t capacities[] = {CAPACITY, CAPACITY, 8, CAPACITY_MAX}, shares[] = {0, 0, 1, 5};
	uint32_t capacity = capacities[what >> 3 & 3], share = shares[what >> 5 & 3];
	struct cursor_table *t = take_over(capacity, share, NOW);
	uint64_t now = NOW, n;

	judge_whole(t, m);
	if (!m || cursor_load(&m->file->changes) >= CURSOR_CHANGES_MAX)
		HOLDS(cursor_table_count(t) == 0);
	else if (n_good >= 0 && capacity == m->capacity)
		HOLDS(cursor_table_count(t) == (uint64_t)n_good);
	operate(t, in, &now);
	judge_whole(t, NULL);
	resolve(cursor_table_map(t), now);
	n = t->changes < CURSOR_CHANGES_MAX ? cursor_table_count(t) : 0;
	cursor_table_close(&t);
	t = take_over(capacity, share, now);
	HOLDS(cursor_table_count(t) == n);
	judge_whole(t, NULL);
	cursor_table_close(&t);
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void end(void)
{
	seg_table_unmap(&tool.map);
	core_close(&core);
	instance_close(&instance);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	fuzz_no_leak();
}

static void start(void)
{
	const struct core_options options = {.store_url = "memory:", .barrier_ms = 20, .new_directory = true};
	struct refusal r = {0};

	json_object_seed(1);
	log_open(LEVEL_ERROR);
	snprintf(dir, sizeof(dir), "%s/i", fuzz_home());
	HOLDS(mkdir(dir, 0700) == 0 && instance_open(dir, NULL, false, &instance, &r) == R_DONE);
	instance.small_pages = true;
	HOLDS(core_open(&instance, &options, &core, &r) == R_DONE);
	root = table_shared(core_table(core)).root;
	tool = (struct tool){.json = true, .dir_fd = instance.dir_fd, .tables_fd = instance.table_dir_fd, .root = root};
	make_valid();
	atexit(end);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return fuzz_keeps_state(argc, argv);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned what = fuzz_u8(&in);
	struct cursor_map m = {0};
	bool intact, taken;
	size_t len;
	int64_t n;

	if (!dir[0])
		start();
	len = make_image(what, &in, &intact);
	put_file(image, len);
	ASAN_POISON_MEMORY_REGION(image + len, sizeof(image) - len);
	taken = len >= SHM_PAGE && cursor_map_check(image, len, root->uuid, &m) == BERTH_OK &&
		m.generation == GENERATION;
	HOLDS(!intact || taken);
	if (taken)
		search(&m, intact);
	resolve(taken ? &m : NULL, NOW);
	n = verify();
	HOLDS(!intact || n == N_KNOWN);
	count(taken ? &m : NULL, NOW);
	write_on(what, &in, taken ? &m : NULL, n);
	ASAN_UNPOISON_MEMORY_REGION(image, sizeof(image));
	return 0;
}
