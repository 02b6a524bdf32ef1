/* SPDX-License-Identifier: MIT
 * The daemon, its mirror and the programs on it: bpf.h. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../../bpf/mirror.h"
#include "../../bpf/programs.h"
#include "bpf.h"

#define BPFFS_MAGIC 0xcafe4a11
#define LEAST_KEYS (1u << 14)
#define KEYS_A_BATCH 4096u

static bool able(const struct bench *b)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bench_probe", 4, 8, 1, NULL);
	struct statfs fs;

	if (fd < 0) {
		report_note(b, "nothing is measured: bpf(): %s: run it as root, or with CAP_BPF and CAP_NET_ADMIN",
			    strerror(errno));
		return false;
	}
	close(fd);
	if (statfs("/sys/fs/bpf", &fs) == 0 && (unsigned long)fs.f_type != BPFFS_MAGIC)
		(void)!mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL); /* if it fails, berthd says what is missing */
	return true;
}

static void *map_memory(const struct bpf_map *map, size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);

	if (p == MAP_FAILED)
		fail("map %s: %s", bpf_map__name(map), strerror(errno));
	return p;
}

static void name_of(const struct place *p, char name[MIRROR_KEY_MAX + 1], uint32_t number)
{
	memset(name, 'x', p->len);
	key_name(name, number);
	if (p->len > KEY_LEN)
		name[KEY_LEN] = '-';
	name[p->len] = 0;
}

static void set_key(const struct place *p, struct walk_key *k, uint32_t number)
{
	char name[MIRROR_KEY_MAX + 1];

	name_of(p, name, number);
	memset(k, 0, sizeof(*k));
	memcpy(k->bytes, name, p->len);
	k->len = p->len;
}

/* A document of all of them. */
static int document_of(const struct place *p)
{
	int fd = memfd_create("document", MFD_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "w");
	char name[MIRROR_KEY_MAX + 1];

	if (!f)
		fail("no memory for a document of %u partitions", p->n);
	fputs("{\"partitions\":{", f);
	for (uint32_t i = 0; i < p->n; i++) {
		name_of(p, name, i);
		fprintf(f, "%s\n\"%s\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"}", i ? "," : "", name,
			i % CLUSTERS);
	}
	fputs("\n}}\n", f);
	if (fclose(f) != 0)
		fail("cannot write a document of %u partitions", p->n);
	return fd;
}

static void fill_keys(struct place *p)
{
	uint64_t random = 42;

	for (uint64_t i = 0; i < p->n_keys; i++) {
		uint32_t number = (uint32_t)((random_u64(&random) >> 32) * p->n >> 32);

		set_key(p, &p->keys[i], number);
		p->sum += place_cluster(number);
	}
	p->state->mask = p->n_keys - 1;
}

/* Its values are words, as an entry's. */
static void fill_hash(const struct place *p)
{
	static struct {
		unsigned char keys[KEYS_A_BATCH][sizeof(((struct walk_key *)0)->bytes)];
		uint64_t words[KEYS_A_BATCH];
	} batch;

	for (uint32_t at = 0, n; at < p->n; at += n) {
		n = p->n - at < KEYS_A_BATCH ? p->n - at : KEYS_A_BATCH;
		for (uint32_t i = 0; i < n; i++) {
			struct walk_key k;

			set_key(p, &k, at + i);
			memcpy(batch.keys[i], k.bytes, sizeof(k.bytes));
			batch.words[i] = place_cluster(at + i) << 5 | (uint64_t)1 << 21;
		}
		__u32 done = n;
		if (bpf_map_update_batch(bpf_map__fd(p->walk->maps.walk_hash), batch.keys, batch.words, &done, NULL) !=
			    0 ||
		    done != n)
			fail("the kernel's hash map does not take %u keys: %s", n, strerror(errno));
	}
}

static void load_programs(struct place *p)
{
	char text[512];

	p->walk = walk__open();
	if (!p->walk)
		fail("the programs cannot be opened: %s", strerror(errno));
	bpf_map__set_max_entries(p->walk->maps.walk_keys, (uint32_t)p->n_keys);
	bpf_map__set_max_entries(p->walk->maps.walk_hash, p->n);
	if (programs_use_mirror(p->walk->obj, p->pins, text, sizeof(text)) != 0)
		fail("%s", text);
	if (walk__load(p->walk) != 0)
		fail("the programs are not loaded: %s", strerror(errno));
	p->state = map_memory(p->walk->maps.walk_state, sizeof(*p->state));
	p->keys = map_memory(p->walk->maps.walk_keys, p->n_keys * sizeof(*p->keys));
}

bool place_open(const struct bench *b, struct place *p, uint32_t n, unsigned len)
{
	struct daemon_how how = {.cpu = CPU_DAEMON, .bpf = true};
	char name[48];
	int document;

	if (!able(b))
		return false;
	memset(p, 0, sizeof(*p));
	p->n = n;
	p->len = len;
	for (p->n_keys = LEAST_KEYS; p->n_keys < n; p->n_keys *= 2)
		;
	snprintf(name, sizeof(name), "bench-%ld-%u-%u", (long)getpid(), n, len);
	daemon_start(b, &p->d, name, &how);
	mirror_path(p->d.dir, p->pins, sizeof(p->pins));
	document = document_of(p);
	daemon_load(&p->d, document, n, NULL);
	close(document);
	load_programs(p);
	fill_keys(p);
	fill_hash(p);
	return true;
}

void place_unpin(const struct place *p)
{
	remove_tree(p->pins);
}

void place_close(struct place *p)
{
	munmap(p->state, sizeof(*p->state));
	munmap(p->keys, p->n_keys * sizeof(*p->keys));
	walk__destroy(p->walk);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
}

double program_ns(int program, const struct packet *packet, unsigned runs, uint32_t *returned)
{
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet->bytes, .data_size_in = packet->n, .repeat = (int)runs);
	uint64_t from = busy_ns();

	if (bpf_prog_test_run_opts(program, &run) != 0)
		fail("BPF_PROG_TEST_RUN: %s", strerror(errno));
	if (returned)
		*returned = run.retval;
	return busy_elapsed_ns(from) / runs;
}
