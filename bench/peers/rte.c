/* SPDX-License-Identifier: MIT
 * Peers: rte_hash of DPDK, a cuckoo table, with its lock-free readers (RW_CONCURRENCY_LF) and its own RCU
 * (rte_rcu_qsbr): the thread that looks up is registered, online, and reports a quiescent state after each 32. Keys are
 * padded to 16 bytes, for which rte_hash has a comparison of its own; the hash is its default, CRC32 where the processor
 * has it. A quarter more entries than keys, so that buckets have room. Single and bulk form share a table.
 *
 * The environment (EAL) is set up once in the process: no devices, no files but in the scratch directory. DPDK lives in
 * huge pages; most machines have none reserved, so the table lies in an external heap (rte_malloc_heap_*) in huge pages
 * of either kind. Run by peers.c, in its thread. */
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "peer.h"

#define BATCH 32u
#define READER 0u
#define HEAP "tenants"
#define HUGE_PAGE ((size_t)2 << 20)
#define BYTES_A_KEY 160u
#define BYTES_FIXED ((size_t)16 << 20)

static struct table {
	struct rte_hash *h;
	struct rte_rcu_qsbr *rcu;
	void *memory, *mapped; /* the heap's, and the mapping that has it */
	size_t size, mapped_size;
	unsigned users;
} table;

static bool start_environment(const struct bench *b)
{
	static int started; /* 1, or -1: it does not */
	char program[] = "peers", no_pci[] = "--no-pci", no_telemetry[] = "--no-telemetry", log[] = "--log-level=error";
	char no_huge[] = "--no-huge", no_files[] = "--no-shconf", cores_are[] = "--lcores", cores[16];
	char *argv[] = {program, no_pci, no_telemetry, log, no_huge, no_files, cores_are, cores, NULL};

	if (started)
		return started > 0;
	snprintf(cores, sizeof(cores), "0@%d", sched_getcpu());
	setenv("RUNTIME_DIRECTORY", b->disk, 1);
	fflush(stdout);
	started = rte_eal_init((int)(sizeof(argv) / sizeof(argv[0])) - 1, argv) < 0 ? -1 : 1;
	unsetenv("RUNTIME_DIRECTORY");
	if (started < 0)
		report_note(b, "rte_hash is left out: DPDK's environment does not start: %s", rte_strerror(rte_errno));
	else if (rte_malloc_heap_create(HEAP) != 0)
		fail("rte_hash: no heap for it: %s", rte_strerror(rte_errno));
	pin_nowhere();
	return started > 0;
}

static void *map(size_t size, int flags)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void give_memory(uint32_t n)
{
	size_t size = (BYTES_FIXED + (size_t)n * BYTES_A_KEY) / HUGE_PAGE * HUGE_PAGE;
	uintptr_t at;

	table.size = size;
	table.mapped_size = size;
	table.mapped = map(size, MAP_HUGETLB);
	if (!table.mapped) {
		table.mapped_size = size + HUGE_PAGE;
		table.mapped = map(table.mapped_size, 0);
	}
	if (!table.mapped)
		fail("rte_hash: no memory for %u partitions: %zu bytes", n, size);
	at = ((uintptr_t)table.mapped + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	table.memory = (void *)at;
	(void)!madvise(table.memory, size, MADV_HUGEPAGE);
	if (rte_malloc_heap_memory_add(HEAP, table.memory, size, NULL, 0, HUGE_PAGE) != 0)
		fail("rte_hash: the heap does not take %zu bytes: %s", size, rte_strerror(rte_errno));
}

static void make_rcu(void)
{
	size_t size = rte_rcu_qsbr_get_memsize(1);
	struct rte_hash_rcu_config config = {.mode = RTE_HASH_QSBR_MODE_SYNC};

	table.rcu = rte_zmalloc(NULL, size, RTE_CACHE_LINE_SIZE);
	config.v = table.rcu;
	if (!table.rcu || rte_rcu_qsbr_init(table.rcu, 1) != 0 ||
	    rte_rcu_qsbr_thread_register(table.rcu, READER) != 0 || rte_hash_rcu_qsbr_add(table.h, &config) != 0)
		fail("rte_hash: no RCU for it: %s", rte_strerror(rte_errno));
}

static void *open_table(const struct bench *b, uint32_t n)
{
	struct rte_hash_parameters parameters = {
		.name = "tenants",
		.entries = n + n / 4,
		.key_len = KEY_ROOM,
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
	};

	if (!start_environment(b))
		return NULL;
	if (table.users++)
		return &table;
	give_memory(n);
	parameters.socket_id = rte_malloc_heap_get_socket(HEAP);
	table.h = rte_hash_create(&parameters);
	if (!table.h)
		fail("rte_hash: no table for %u partitions: %s", n, rte_strerror(rte_errno));
	make_rcu();
	for (uint32_t i = 0; i < n; i++) {
		char name[KEY_ROOM];
		int rc;

		key_name(name, i);
		rc = rte_hash_add_key_data(table.h, name, (void *)(uintptr_t)value_of_key(i));
		if (rc != 0)
			fail("rte_hash: %s cannot be added: %s", name, rte_strerror(-rc));
	}
	return &table;
}

static void close_table(void *at)
{
	(void)at;
	if (--table.users)
		return;
	rte_hash_free(table.h);
	rte_rcu_qsbr_thread_unregister(table.rcu, READER);
	rte_free(table.rcu);
	if (rte_malloc_heap_memory_remove(HEAP, table.memory, table.size) != 0)
		fail("rte_hash: memory is left in use: %s", rte_strerror(rte_errno));
	munmap(table.mapped, table.mapped_size);
}

static uint64_t run_single(void *at, const struct sequence *s, size_t n)
{
	const struct table t = *(const struct table *)at;
	uint64_t sum = 0;

	rte_rcu_qsbr_thread_online(t.rcu, READER);
	for (size_t i = 0; i < n; i++) {
		void *value;

		if (rte_hash_lookup_data(t.h, s->names[i & (s->n - 1)], &value) >= 0)
			sum += (uintptr_t)value;
		if (i % BATCH == BATCH - 1)
			rte_rcu_qsbr_quiescent(t.rcu, READER);
	}
	rte_rcu_qsbr_thread_offline(t.rcu, READER);
	return sum;
}

static uint64_t run_bulk(void *at, const struct sequence *s, size_t n)
{
	const struct table t = *(const struct table *)at;
	const void *keys[BATCH];
	void *values[BATCH];
	uint64_t sum = 0, found;

	rte_rcu_qsbr_thread_online(t.rcu, READER);
	for (size_t i = 0; i < n; i += BATCH) {
		for (unsigned k = 0; k < BATCH; k++)
			keys[k] = s->names[(i + k) & (s->n - 1)];
		if (rte_hash_lookup_bulk_data(t.h, keys, BATCH, &found, values) != (int)BATCH)
			fail("rte_hash: a key was not found");
		for (unsigned k = 0; k < BATCH; k++)
			sum += (uintptr_t)values[k];
		rte_rcu_qsbr_quiescent(t.rcu, READER);
	}
	rte_rcu_qsbr_thread_offline(t.rcu, READER);
	return sum;
}

const struct peer peer_rte_hash = {
	.name = "rte_hash",
	.how = "DPDK, lock-free readers, rte_rcu_qsbr; quiescent state every 32 look-ups",
	.shared = true,
	.open = open_table,
	.run = run_single,
	.close = close_table,
};

const struct peer peer_rte_hash_bulk = {
	.name = "rte_hash, bulk",
	.how = "32 keys a call",
	.shared = true,
	.bulk = true,
	.open = open_table,
	.run = run_bulk,
	.close = close_table,
};
