/* SPDX-License-Identifier: MIT
 * mirror_judge.h. The thread never ends the test: it writes down what it saw. */
#include "mirror_judge.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bpf/layout.h"
#include "../shm/index.h"
#include "daemon.h"

enum what { PASS, ENTRY, DEFAULT, UNKNOWN };
struct answer {
	enum what what;
	uint64_t word; /* without its bit `which`, which is each generation's own */
};
#define WHICH (1ull << 4)

struct known {         /* of one key */
	uint64_t seen; /* highest epoch of an entry that anybody showed */
	uint64_t gone; /* entries up to this epoch are over */
};

struct mirror_judge {
	pthread_t thread;
	_Atomic bool stop;
	char (*keys)[40];
	unsigned n;
	struct known *known, dflt;
	/* table */
	int dir_fd;
	const struct shm_root *root;
	uint64_t secret[4];
	struct seg_map map;
	/* mirror */
	int outer;
	const struct mirror_control *control;
	const struct mirror_head *head;
	const struct mirror_entry *entries;
	size_t mapped;
	uint32_t id;
	_Atomic uint64_t looks, answers, passes, discarded, wrong; /* stored by the thread */
	char first[400];
};

static uint64_t load(const __u64 *p)
{
	return atomic_load_explicit((const _Atomic uint64_t *)(uintptr_t)p, memory_order_acquire);
}

/* ---- the table, by a look that is made again when the generation changed ---- */

static bool map_table(struct mirror_judge *j, uint64_t termgen)
{
	if (j->map.table && j->map.termgen == termgen)
		return true;
	seg_table_unmap(&j->map);
	return seg_table_map(j->dir_fd, j->root, termgen, NULL, false, &j->map) == BERTH_OK;
}

static struct answer table_says(struct mirror_judge *j, const char *key, size_t len, uint64_t hash)
{
	while (!atomic_load_explicit(&j->stop, memory_order_relaxed)) {
		uint64_t termgen = atomic_load_explicit(&j->root->termgen, memory_order_acquire), dflt, word = 0;
		struct answer a;
		const struct shm_entry *e;
		int rc;

		if (!map_table(j, termgen))
			continue;
		dflt = atomic_load_explicit(&j->map.table->dflt.word, memory_order_acquire);
		rc = index_find(&j->map, key, len, hash, false, &e, &word);
		if (rc < 0)
			continue; /* a file that is being freed: there is a newer one */
		a = rc == 1 ? (struct answer){ENTRY, word & ~WHICH}
			    : (struct answer){word_live(dflt) ? DEFAULT : UNKNOWN, word_live(dflt) ? dflt & ~WHICH : 0};
		if (rc == 0 && atomic_load_explicit(&j->map.table->dflt.word, memory_order_acquire) != dflt)
			continue;
		if (atomic_load_explicit(&j->root->termgen, memory_order_acquire) == termgen)
			return a;
	}
	return (struct answer){PASS, 0}; /* it ends */
}

/* ---- the mirror ---- */

static uint32_t inner_id(const struct mirror_judge *j)
{
	__u32 zero = 0, id = 0;

	return bpf_map_lookup_elem(j->outer, &zero, &id) == 0 ? id : 0;
}

static bool map_mirror(struct mirror_judge *j, uint32_t id)
{
	struct bpf_map_info info = {0};
	__u32 size = sizeof(info);
	void *p;
	int fd;

	if (id == 0)
		return false;
	if (id == j->id)
		return true;
	fd = bpf_map_get_fd_by_id(id);
	if (fd < 0)
		return false;
	if (j->head)
		munmap((void *)(uintptr_t)j->head, j->mapped);
	j->head = NULL;
	j->id = 0;
	if (bpf_obj_get_info_by_fd(fd, &info, &size) == 0) {
		j->mapped = (size_t)info.max_entries * MIRROR_ENTRY;
		p = mmap(NULL, j->mapped, PROT_READ, MAP_SHARED, fd, 0);
		if (p != MAP_FAILED) {
			j->head = p;
			j->entries = (const struct mirror_entry *)p + 1;
			j->id = id;
		}
	}
	close(fd);
	return j->head != NULL;
}

static struct answer mirror_says(const struct mirror_judge *j, const char padded[40], size_t len, uint64_t hash)
{
	uint64_t dflt = load(&j->head->dflt);
	uint32_t slot = index_home(hash, j->head->capacity);
	uint32_t longest = atomic_load_explicit((const _Atomic uint32_t *)(uintptr_t)&j->head->longest_probe,
						memory_order_acquire);

	for (uint32_t last = slot + longest; slot <= last && slot < j->head->n_entries; slot++) {
		const struct mirror_entry *e = &j->entries[slot];
		uint64_t word = load(&e->word);

		if (word == WORD_EMPTY)
			break;
		if (word_live(word) && e->hash == hash && e->len == len && memcmp(e->key, padded, 40) == 0)
			return (struct answer){word_phase(word) == MIRROR_PHASE_PASS ? PASS : ENTRY, word & ~WHICH};
	}
	if (load(&j->head->dflt) != dflt || (word_live(dflt) && word_phase(dflt) == MIRROR_PHASE_PASS))
		return (struct answer){PASS, 0};
	return (struct answer){word_live(dflt) ? DEFAULT : UNKNOWN, word_live(dflt) ? dflt & ~WHICH : 0};
}

/* ---- judging ---- */

static void wrong(struct mirror_judge *j, const char *key, const char *why, struct answer before, struct answer is,
		  struct answer after)
{
	static const char *const names[] = {"pass", "entry", "default", "unknown"};

	if (j->wrong++)
		return;
	snprintf(j->first, sizeof(j->first),
		 "%s: %s: the table said %s %" PRIu64 "/%u, then the mirror %s %" PRIu64
		 "/%u, then the table %s %" PRIu64 "/%u (epoch/phase)",
		 key, why, names[before.what], word_epoch(before.word), word_phase(before.word), names[is.what],
		 word_epoch(is.word), word_phase(is.word), names[after.what], word_epoch(after.word),
		 word_phase(after.word));
}

/* What the table says makes everything else of its kind older than that over. */
static void learn(struct known *k, bool has, uint64_t word)
{
	uint64_t epoch = has ? word_epoch(word) : 0;

	if (epoch > k->seen)
		k->seen = epoch;
	if (has ? epoch > k->gone + 1 : true)
		k->gone = has ? epoch - 1 : k->seen;
}

static void judge(struct mirror_judge *j, unsigned i, struct answer before, struct answer is, struct answer after)
{
	const char *key = j->keys[i];
	bool same = before.what == after.what && before.word == after.word;

	if (is.what == ENTRY) {
		if (word_epoch(is.word) <= j->known[i].gone)
			wrong(j, key, "an entry that was over (J1, J2)", before, is, after);
		if (after.what == ENTRY && word_epoch(after.word) < word_epoch(is.word))
			wrong(j, key, "newer than the table (J1)", before, is, after);
		if ((before.what == ENTRY && word_epoch(before.word) == word_epoch(is.word) &&
		     before.word != is.word) ||
		    (after.what == ENTRY && word_epoch(after.word) == word_epoch(is.word) && after.word != is.word))
			wrong(j, key, "another word of the same epoch (J1)", before, is, after);
		return;
	}
	if (same && before.what == ENTRY)
		wrong(j, key, "missed (J3)", before, is, after);
	if (is.what == DEFAULT && word_epoch(is.word) <= j->dflt.gone)
		wrong(j, key, "a default that was over (J4)", before, is, after);
	if (is.what == UNKNOWN && same && before.what == DEFAULT)
		wrong(j, key, "the default missed (J4)", before, is, after);
}

static void look(struct mirror_judge *j, unsigned i)
{
	const char *key = j->keys[i];
	size_t len = strlen(key);
	char padded[40] = "";
	uint64_t hash = hash_key(j->secret, key, len), state;
	struct answer before, is, after;
	uint32_t id;

	memcpy(padded, key, len);
	j->looks++;
	id = inner_id(j);
	state = load(&j->control->state);
	if (state == 0 || !map_mirror(j, id)) {
		j->passes++;
		return;
	}
	before = table_says(j, key, len, hash);
	if (before.what == PASS)
		return;
	if (before.what == ENTRY) {
		learn(&j->known[i], true, before.word);
	} else {
		learn(&j->known[i], false, 0);
		learn(&j->dflt, before.what == DEFAULT, before.word);
	}
	is = mirror_says(j, padded, len, hash);
	/* A program would have been waited for. */
	if (load(&j->control->state) != state || inner_id(j) != id) {
		j->discarded++;
		return;
	}
	if (is.what == PASS) {
		j->passes++;
		return;
	}
	after = table_says(j, key, len, hash);
	if (after.what == PASS)
		return;
	j->answers++;
	judge(j, i, before, is, after);
	if (is.what == ENTRY && word_epoch(is.word) > j->known[i].seen)
		j->known[i].seen = word_epoch(is.word);
	if (is.what == DEFAULT && word_epoch(is.word) > j->dflt.seen)
		j->dflt.seen = word_epoch(is.word);
}

static void *run(void *arg)
{
	struct mirror_judge *j = arg;
	unsigned seed = 1;

	while (!atomic_load_explicit(&j->stop, memory_order_relaxed)) {
		for (unsigned n = 0; n < 64; n++) {
			seed = seed * 1664525u + 1013904223u;
			look(j, (seed >> 16) % (n % 4 ? 2 : j->n));
		}
	}
	return NULL;
}

/* ---- the test's ---- */

static const void *view(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		fail_msg("it cannot be mapped: %s", strerror(errno));
	return p;
}

struct mirror_judge *mirror_judge_start(const char *dir, const char *pins, char (*keys)[40], unsigned n)
{
	struct mirror_judge *j = calloc(1, sizeof(*j));
	char path[256];
	int fd;

	j->keys = keys;
	j->n = n;
	j->known = calloc(n, sizeof(*j->known));
	snprintf(path, sizeof(path), "%s/root", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	j->root = view(fd, SHM_PAGE);
	memcpy(j->secret, j->root->secret, sizeof(j->secret));
	snprintf(path, sizeof(path), "%s/tables", dir);
	j->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/control", pins);
	j->control = view(bpf_obj_get(path), sizeof(*j->control));
	snprintf(path, sizeof(path), "%s/table", pins);
	j->outer = bpf_obj_get(path);
	if (j->dir_fd < 0 || j->outer < 0)
		fail_msg("%s: %s", path, strerror(errno));
	if (pthread_create(&j->thread, NULL, run, j) != 0)
		fail_msg("no thread");
	return j;
}

struct mirror_verdict mirror_judge_so_far(struct mirror_judge *j)
{
	return (struct mirror_verdict){.looks = j->looks,
				       .answers = j->answers,
				       .passes = j->passes,
				       .discarded = j->discarded,
				       .wrong = j->wrong};
}

struct mirror_verdict mirror_judge_stop(struct mirror_judge **jp)
{
	struct mirror_judge *j = *jp;
	struct mirror_verdict v;

	atomic_store(&j->stop, true);
	pthread_join(j->thread, NULL);
	v = mirror_judge_so_far(j);
	memcpy(v.first, j->first, sizeof(v.first));
	seg_table_unmap(&j->map);
	if (j->head)
		munmap((void *)(uintptr_t)j->head, j->mapped);
	munmap((void *)(uintptr_t)j->control, sizeof(*j->control));
	munmap((void *)(uintptr_t)j->root, SHM_PAGE);
	close(j->outer);
	close(j->dir_fd);
	free(j->known);
	free(j);
	*jp = NULL;
	return v;
}
