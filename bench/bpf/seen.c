/* SPDX-License-Identifier: MIT
 * The workload `seen`: one process changes a partition's word, a program in another one asks for it without a pause and
 * notes when it first had the new epoch (bpf_ktime_get_ns, the same clock). The daemon is stopped meanwhile, and this
 * process stores in its place, so that the store itself is timed; beside it, the update of the same key in the kernel's
 * hash map, by bpf(). */
#include <bpf/bpf.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../bpf/answer.h"
#include "../../shm/hash.h"
#include "../../shm/word.h"
#include "bpf.h"

#define PARTITIONS 1000u
#define CHANGES 1000u /* a run */
#define CHANGES_QUICK 100u
#define RUNS_A_CALL 100000u
#define SEEN_S 10u

struct mirrored { /* one entry, writable */
	void *memory;
	size_t bytes;
	_Atomic uint64_t *word;
	uint64_t before;
};

/* The entry of the first key of the list. */
static void find_entry(const struct place *p, struct mirrored *m)
{
	int outer = bpf_map__fd(p->walk->maps.berth_table), inner;
	struct bpf_map_info info = {0};
	struct mirror_entry *entries;
	uint32_t zero = 0, id = 0, size = sizeof(info);

	if (bpf_map_lookup_elem(outer, &zero, &id) != 0 || (inner = bpf_map_get_fd_by_id(id)) < 0 ||
	    bpf_obj_get_info_by_fd(inner, &info, &size) != 0)
		fail("the mirror's table cannot be opened: %s", strerror(errno));
	m->bytes = (size_t)info.max_entries * MIRROR_ENTRY;
	m->memory = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, inner, 0);
	close(inner);
	if (m->memory == MAP_FAILED)
		fail("the mirror's table cannot be mapped: %s", strerror(errno));
	entries = (struct mirror_entry *)m->memory + 1;
	for (uint32_t i = 0; i + 1 < info.max_entries; i++)
		if (entries[i].len == p->keys[0].len &&
		    memcmp(entries[i].key, p->keys[0].bytes, sizeof(entries[i].key)) == 0 &&
		    word_live(entries[i].word)) {
			m->word = (_Atomic uint64_t *)(uintptr_t)&entries[i].word;
			m->before = atomic_load(m->word);
			return;
		}
	fail("the mirror has no entry of the key");
}

static pid_t start_watcher(int program)
{
	static const struct packet frame = {.n = 64};
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_nowhere();
	pin_to(CPU_DAEMON);
	for (;;)
		program_ns(program, &frame, RUNS_A_CALL, NULL);
}

static void wait_seen(const struct place *p, uint64_t epoch)
{
	const _Atomic uint64_t *seen = (const _Atomic uint64_t *)(uintptr_t)&p->state->seen_epoch;
	uint64_t from = now_ns();

	while (atomic_load_explicit(seen, memory_order_acquire) != epoch)
		if (now_ns() - from > SEEN_S * 1000000000ull)
			fail("no program saw epoch %llu in %u s", (unsigned long long)epoch, SEEN_S);
}

static void pause_ns(uint64_t ns)
{
	uint64_t from = now_ns();

	while (now_ns() - from < ns)
		;
}

/* The median of one run's changes, in microseconds. m NULL: in the hash map. */
static double run(const struct bench *b, const struct place *p, const struct mirrored *m, uint64_t *epoch)
{
	static struct samples s;
	uint64_t random = *epoch;
	pid_t watcher;

	s.n = 0;
	p->state->mask = 0; /* the first key alone */
	watcher = start_watcher(bpf_program__fd(m ? p->walk->progs.watch_mirror : p->walk->progs.watch_map));
	for (unsigned i = 0; i <= (b->quick ? CHANGES_QUICK : CHANGES); i++) {
		uint64_t word = word_make(++*epoch, 1 + i % CLUSTERS, 0, KIND_DEDICATED_CLUSTER, PHASE_SETTLED), from;

		pause_ns(1000 + random_u64(&random) % 4000); /* not in step with the program */
		from = now_ns();
		if (m)
			atomic_store_explicit(m->word, word, memory_order_release);
		else if (bpf_map_update_elem(bpf_map__fd(p->walk->maps.walk_hash), p->keys[0].bytes, &word, BPF_ANY) !=
			 0)
			fail("the hash map does not take the key: %s", strerror(errno));
		wait_seen(p, *epoch);
		if (i > 0 && s.n < SAMPLES_MAX) /* the first one waits for the watcher's start */
			add_sample(&s, p->state->seen_ns > from ? (double)(p->state->seen_ns - from) / 1e3 : 0);
	}
	kill(watcher, SIGKILL);
	waitpid(watcher, NULL, 0);
	return quantile(&s, 0.5);
}

void workload_seen(const struct bench *b)
{
	struct figure store = {.workload = "seen",
			       .name = "a change's store until a packet program sees it",
			       .unit = "us",
			       .goal = 2},
		      update = {.workload = "seen",
				.name = "an update of the kernel's hash map until it is seen",
				.unit = "us"};
	static struct place p;
	struct mirrored m;
	uint64_t epoch;

	if (!place_open(b, &p, PARTITIONS, KEY_LEN))
		return;
	place_unpin(&p);
	find_entry(&p, &m);
	epoch = word_epoch(m.before);
	pin_to(CPU_SELF);
	if (kill(p.d.pid, SIGSTOP) != 0)
		fail("the daemon cannot be stopped: %s", strerror(errno));
	for (unsigned i = 0; i < b->runs; i++) {
		add_sample(&store.s, run(b, &p, &m, &epoch));
		add_sample(&update.s, run(b, &p, NULL, &epoch));
	}
	atomic_store(m.word, m.before);
	kill(p.d.pid, SIGCONT);
	pin_nowhere();
	report(b, &store);
	report(b, &update);
	munmap(m.memory, m.bytes);
	place_close(&p);
}
