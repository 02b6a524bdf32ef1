/* SPDX-License-Identifier: MIT
 * A daemon with a mirror, and the mirror as programs see it: bpf_place.h. */
#include "bpf_place.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../bpf/mirror.h"
#include "../shm/hash.h"
#include "../shm/index.h"
#include "child.h"
#include "left_over.h"

#define BPFFS "/sys/fs/bpf"
#define BPFFS_MAGIC 0xcafe4a11

const char *bpf_unable(void)
{
	static char why[160];
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	struct statfs fs;
	int fd;

	if (statfs(BPFFS, &fs) != 0 || (unsigned long)fs.f_type != BPFFS_MAGIC) {
		if (mount("bpf", BPFFS, "bpf", 0, NULL) != 0 && errno != EBUSY) {
			snprintf(why, sizeof(why), "no BPF file system can be mounted at " BPFFS ": %s",
				 strerror(errno));
			return why;
		}
	}
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "berth_probe", 4, 64, 1, &opts);
	if (fd < 0) {
		snprintf(why, sizeof(why), "the kernel makes no map for packet programs: %s", strerror(errno));
		return why;
	}
	close(fd);
	return NULL;
}

void bpf_needed(const struct bpf_place *p)
{
	if (!p->able)
		SKIP("%s", bpf_unable());
}

void bpf_place_make(struct bpf_place *p, const char *store)
{
	memset(p, 0, sizeof(*p));
	p->able = bpf_unable() == NULL;
	daemon_make(&p->d, store);
	/* The instance is named after the directory, which nobody else has. */
	snprintf(p->d.dir, sizeof(p->d.dir), "%s/t-%s", p->d.home, strrchr(p->d.home, '-') + 1);
	mirror_path(p->d.dir, p->pins, sizeof(p->pins));
	left_over_put(p->pins);
}

void bpf_place_remove(struct bpf_place *p)
{
	daemon_remove(&p->d);
	remove_tree(p->pins);
	left_over_forget(p->pins);
}

int bpf_setup(void **state)
{
	struct bpf_place *p = calloc(1, sizeof(*p));

	bpf_place_make(p, *state ? *state : "memory");
	*state = p;
	if (p->able)
		daemon_start(&p->d, "--bpf", NULL);
	return 0;
}

int bpf_teardown(void **state)
{
	bpf_place_remove(*state);
	free(*state);
	return 0;
}

/* ---- maps -------------------------------------------------------------------------------------------------- */

int bpf_pinned(const struct bpf_place *p, const char *name)
{
	char path[192];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	fd = bpf_obj_get(path);
	if (fd < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return fd;
}

uint32_t bpf_map_id_of(int fd)
{
	struct bpf_map_info info = {0};
	__u32 size = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0)
		fail_msg("a map's info: %s", strerror(errno));
	return info.id;
}

static const void *view(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	close(fd);
	if (p == MAP_FAILED)
		fail_msg("a map of %zu bytes cannot be mapped: %s", size, strerror(errno));
	return p;
}

void bpf_view_open(const struct bpf_place *p, struct bpf_view *v)
{
	memset(v, 0, sizeof(*v));
	v->control = view(bpf_pinned(p, "control"), sizeof(*v->control));
	v->clusters = view(bpf_pinned(p, "clusters"), MIRROR_CLUSTERS * sizeof(*v->clusters));
	bpf_view_again(p, v);
}

static void view_forget(struct bpf_view *v)
{
	if (v->head)
		munmap((void *)(uintptr_t)v->head, v->mapped);
	v->head = NULL;
}

bool bpf_view_again(const struct bpf_place *p, struct bpf_view *v)
{
	int outer = bpf_pinned(p, "table"), inner;
	struct bpf_map_info info = {0};
	__u32 zero = 0, id = 0, size = sizeof(info);

	if (bpf_map_lookup_elem(outer, &zero, &id) != 0)
		fail_msg("the outer map holds no inner one: %s", strerror(errno));
	close(outer);
	if (v->head && id == v->inner_id)
		return false;
	inner = bpf_map_get_fd_by_id(id);
	if (inner < 0 && errno == ENOENT)
		return bpf_view_again(p, v); /* swapped in between */
	if (inner < 0 || bpf_obj_get_info_by_fd(inner, &info, &size) != 0)
		fail_msg("inner map %u: %s", id, strerror(errno));
	view_forget(v);
	v->mapped = (size_t)info.max_entries * MIRROR_ENTRY;
	v->head = view(inner, v->mapped);
	v->entries = (const struct mirror_entry *)v->head + 1;
	v->inner_id = id;
	return true;
}

void bpf_view_close(struct bpf_view *v)
{
	view_forget(v);
	munmap((void *)(uintptr_t)v->control, sizeof(*v->control));
	munmap((void *)(uintptr_t)v->clusters, MIRROR_CLUSTERS * sizeof(*v->clusters));
	memset(v, 0, sizeof(*v));
}

uint64_t bpf_view_find(const struct bpf_view *v, const char *key, size_t len, struct mirror_entry *out)
{
	uint64_t secret[4], hash;
	uint32_t slot, last;
	char padded[sizeof(((struct mirror_entry *)0)->key)] = "";

	for (unsigned i = 0; i < 4; i++)
		secret[i] = v->control->secret[i];
	memcpy(padded, key, len);
	hash = hash_key(secret, key, len);
	slot = index_home(hash, v->head->capacity);
	last = slot + v->head->longest_probe;
	for (; slot <= last && slot < v->head->n_entries; slot++) {
		const struct mirror_entry *e = &v->entries[slot];
		/* The word first, as programs do: acquire, pairs with mirror_store. */
		uint64_t word =
			atomic_load_explicit((const _Atomic uint64_t *)(uintptr_t)&e->word, memory_order_acquire);

		if (word == WORD_EMPTY)
			return 0;
		if (!word_live(word) || e->hash != hash || e->len != len || memcmp(e->key, padded, sizeof(padded)) != 0)
			continue;
		if (out) {
			*out = *e;
			out->word = word;
		}
		return word;
	}
	return 0;
}

/* ---- changes ----------------------------------------------------------------------------------------------- */

void bpf_cluster(struct wire *w, const char *id, const char *endpoint)
{
	wire_do(w, "cluster.set", "{s:s,s:s}", "id", id, "endpoint", endpoint);
}

void bpf_put(struct wire *w, const char *partition, const char *cluster)
{
	wire_do(w, "set", "{s:s,s:{s:s,s:s}}", "partition", partition, "placement", "mode", "dedicated-cluster",
		"cluster", cluster);
}

void bpf_fill(const struct bpf_place *p)
{
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c1", "http://10.0.0.1:9200");
	bpf_put(&w, "acme", "c1");
	wire_close(&w);
}

json_t *bpf_status(const struct daemon *d)
{
	json_t *all = daemon_ask(d, "status"), *bpf = json_incref(json_object_get(all, "bpf"));

	json_decref(all);
	assert_true(json_is_object(bpf));
	return bpf;
}

void bpf_expect_on(const struct daemon *d, bool on)
{
	json_t *bpf = bpf_status(d);

	if (is_true(bpf, "on") != on)
		fail_msg("the mirror is %s: %s", on ? "off" : "on", text_of(bpf, "reason"));
	assert_int_equal(*text_of(bpf, "reason") == '\0', on);
	json_decref(bpf);
}

void bpf_expect_equal(struct bpf_place *p)
{
	struct wire w;
	json_t *result;

	wire_open(&w, &p->d, WIRE_LOOK);
	result = wire_ok(&w, "bpf.verify", NULL);
	if (int_of(result, "differences") != 0)
		fail_msg("table and mirror differ: %s", json_dumps(result, 0));
	json_decref(result);
	wire_close(&w);
}
