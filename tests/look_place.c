/* SPDX-License-Identifier: MIT
 * A mirror that a test fills itself: look_place.h. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "bpf_place.h"
#include "look_place.h"

static int map_fd(const struct bpf_object *object, const char *name)
{
	int fd = bpf_object__find_map_fd_by_name(object, name);

	if (fd < 0)
		fail_msg("the object has no map %s", name);
	return fd;
}

static void *map_memory(int fd, size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		fail_msg("a map of %zu bytes cannot be mapped: %s", bytes, strerror(errno));
	return p;
}

void *look_map(const struct look_place *p, const char *name, size_t bytes)
{
	return map_memory(map_fd(p->object, name), bytes);
}

static void make_table(struct look_place *p, uint32_t capacity)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	uint32_t n = capacity + SHM_PROBE_MAX, zero = 0;

	p->inner_bytes = (size_t)(n + 1) * MIRROR_ENTRY;
	p->inner_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "test_inner", 4, MIRROR_ENTRY, n + 1, &options);
	if (p->inner_fd < 0)
		fail_msg("an inner map of %u elements: %s", n + 1, strerror(errno));
	p->head = map_memory(p->inner_fd, p->inner_bytes);
	p->entries = (struct mirror_entry *)(p->head + 1);
	p->head->generation = 1;
	p->head->capacity = capacity;
	p->head->n_entries = n;
	if (bpf_map_update_elem(map_fd(p->object, "berth_table"), &zero, &p->inner_fd, 0) != 0)
		fail_msg("the inner map is not taken: %s", strerror(errno));
}

void look_open(struct look_place *p, const char *name, uint32_t capacity, uint32_t n_keys)
{
	const char *cannot = bpf_unable();
	char file[64];
	struct bpf_map *map;

	if (cannot)
		SKIP("%s", cannot);
	memset(p, 0, sizeof(*p));
	snprintf(file, sizeof(file), "bpf/%s.bpf.o", name);
	p->object = bpf_object__open_file(daemon_program(file), NULL);
	if (!p->object)
		fail_msg("%s: %s", file, strerror(errno));
	map = bpf_object__find_map_by_name(p->object, "walk_keys");
	if (map)
		bpf_map__set_max_entries(map, n_keys);
	if (bpf_object__load(p->object) != 0)
		fail_msg("%s is not loaded: %s", file, strerror(errno));
	p->control = look_map(p, "berth_control", sizeof(*p->control));
	if (bpf_object__find_map_by_name(p->object, "berth_clusters"))
		p->clusters = look_map(p, "berth_clusters", MIRROR_CLUSTERS * sizeof(*p->clusters));
	make_table(p, capacity);
	if (getrandom(p->control->secret, sizeof(p->control->secret), 0) != sizeof(p->control->secret))
		fail_msg("no random numbers");
	p->control->state = 1ull << 32 | 1;
}

void look_close(struct look_place *p)
{
	if (!p->object)
		return;
	munmap(p->head, p->inner_bytes);
	close(p->inner_fd);
	bpf_object__close(p->object);
	p->object = NULL;
}

uint32_t look_run(const struct bpf_object *object, const char *program, struct look_frame *f, uint32_t repeat)
{
	struct look_frame in = *f;
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = &in, .data_size_in = sizeof(in), .data_out = f,
		    .data_size_out = sizeof(*f), .repeat = (int)repeat);
	struct bpf_program *p = bpf_object__find_program_by_name(object, program);

	if (!p)
		fail_msg("the object has no program %s", program);
	if (bpf_prog_test_run_opts(bpf_program__fd(p), &run) != 0)
		fail_msg("%s is not run: %s", program, strerror(errno));
	return run.retval;
}

/* ---- entries ---- */

uint64_t look_hash(const struct look_place *p, const void *key, size_t len)
{
	uint64_t secret[4];

	memcpy(secret, p->control->secret, sizeof(secret));
	return hash_key(secret, key, len);
}

void look_put_at(struct look_place *p, uint32_t slot, const void *key, size_t len, uint64_t word)
{
	struct mirror_entry *e = &p->entries[slot];

	memset(e, 0, sizeof(*e));
	memcpy(e->key, key, len);
	e->len = (uint8_t)len;
	e->hash = look_hash(p, key, len);
	e->word = word;
}

uint32_t look_put(struct look_place *p, const void *key, size_t len, uint64_t word)
{
	uint32_t home = index_home(look_hash(p, key, len), p->head->capacity), slot = home;

	while (p->entries[slot].word != 0)
		slot++;
	if (p->head->longest_probe < slot - home)
		p->head->longest_probe = slot - home;
	look_put_at(p, slot, key, len, word);
	return slot;
}

uint64_t look_settled(struct look_place *p, unsigned cluster)
{
	return word_make(++p->epoch, cluster, 0, KIND_DEDICATED_CLUSTER, PHASE_SETTLED);
}

/* ---- frames ---- */

static struct look_frame ask(const struct bpf_object *object, uint8_t op, const void *key, size_t len, uint64_t epoch)
{
	struct look_frame f = {.to = {2, 0, 0, 0, 0, 1}, .from = {2, 0, 0, 0, 0, 2}, .op = op, .len = (uint8_t)len};
	uint32_t verdict;

	f.type = htons(LOOK_ETHERTYPE);
	f.epoch = epoch;
	memset(f.key, 'x', sizeof(f.key)); /* what is behind the key is no part of it */
	memcpy(f.key, key, len < sizeof(f.key) ? len : sizeof(f.key));
	verdict = look_run(object, "look", &f, 1);
	if (verdict != XDP_TX)
		fail_msg("look did not answer: %u", verdict);
	assert_int_equal(f.to[5], 2);
	assert_int_equal(f.from[5], 1);
	return f;
}

struct look_frame look_ask(const struct bpf_object *object, const void *key, size_t len)
{
	return ask(object, LOOK_ROUTE, key, len, 0);
}

struct look_frame look_admit(const struct bpf_object *object, const void *key, size_t len, uint64_t epoch)
{
	return ask(object, LOOK_ADMIT, key, len, epoch);
}
