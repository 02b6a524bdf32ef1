/* SPDX-License-Identifier: MIT
 * The ledger: what must outlive the writer and is about readers or cutovers. Here: the file, and the records of
 * published cutovers; its rows belong to registry.c, what the departed have left under way to lease_book.c, where acks of
 * pin rings lie to registry_rings.c; the acks themselves are the cursor thread's. Called by the table's files and, through table.h, by the core. */
#include "table_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"

static bool ledger_valid(const struct shm_ledger *l, const struct shm_root *root)
{
	return l->magic == SHM_MAGIC_LEDGER && l->abi == SHM_ABI && l->fingerprint == SHM_FINGERPRINT &&
	       memcmp(l->uuid, root->uuid, 16) == 0 && l->n_rows == SHM_LEDGER_ROWS &&
	       l->n_cutovers == SHM_LEDGER_CUTOVERS && l->n_leases == SHM_LEDGER_LEASES && l->n_acks == SHM_LEDGER_ACKS;
}

enum refusal_code ledger_open(struct table *t, bool fresh, uint64_t left_ms, struct refusal *r)
{
	int dir = t->instance->dir_fd, fd, e;
	struct shm_ledger *l = MAP_FAILED;
	struct stat st;

	if (fresh)
		unlinkat(dir, SEG_LEDGER, 0);
	CRASH_POINT(ledger_cleared);
	fd = openat(dir, SEG_LEDGER, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return refuse(r, R_BACKEND, "cannot open %s/ledger: %s", t->instance->path, strerror(errno));
	CRASH_POINT(ledger_made);
	if (fchown(fd, (uid_t)-1, t->instance->group) != 0)
		errno = 0;
	CRASH_POINT(ledger_owned);
	(void)!fchmod(fd, 0640);
	CRASH_POINT(ledger_modes_set);
	if (file_allocate(fd, 0, SHM_LEDGER_SIZE, false) == 0 && fstat(fd, &st) == 0)
		l = mmap(NULL, SHM_LEDGER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	e = errno;
	CRASH_POINT(ledger_allocated);
	close(fd);
	if (l == MAP_FAILED)
		return refuse(r, R_FULL, "no room for the ledger (%zu bytes) in %s: %s", SHM_LEDGER_SIZE,
			      t->instance->path, strerror(e));
	if (!ledger_valid(l, t->root)) {
		memset(l, 0, SHM_LEDGER_SIZE);
		CRASH_POINT(ledger_zeroed);
		l->abi = SHM_ABI;
		l->fingerprint = SHM_FINGERPRINT;
		memcpy(l->uuid, t->root->uuid, 16);
		l->n_rows = SHM_LEDGER_ROWS;
		l->n_cutovers = SHM_LEDGER_CUTOVERS;
		l->n_leases = SHM_LEDGER_LEASES;
		l->n_acks = SHM_LEDGER_ACKS;
		atomic_store_explicit(&l->unbracketed_left_ms, left_ms, memory_order_relaxed);
		CRASH_POINT(ledger_filled);
		l->magic = SHM_MAGIC_LEDGER;
		CRASH_POINT(ledger_magic_stored);
	}
	t->ledger = l;
	return R_DONE;
}

void ledger_close(struct table *t)
{
	if (t->ledger)
		munmap(t->ledger, SHM_LEDGER_SIZE);
	t->ledger = NULL;
}

static struct shm_ledger_cutover *cutover_find(const struct table *t, uint64_t epoch)
{
	struct shm_ledger_cutover *c = ledger_cutovers(t->ledger);

	for (uint32_t i = 0; i < SHM_LEDGER_CUTOVERS; i++)
		if (atomic_load_explicit(&c[i].epoch, memory_order_relaxed) == epoch)
			return &c[i];
	return NULL;
}

void table_cutover_record(struct table *t, uint64_t epoch, uint64_t published_ms)
{
	struct shm_ledger_cutover *c = cutover_find(t, 0);

	if (!c)
		return;
	atomic_store_explicit(&c->published_ms, published_ms, memory_order_relaxed);
	CRASH_POINT(cutover_time_stored);
	atomic_store_explicit(&c->epoch, epoch,
			      memory_order_release); /* last: a writer killed in between left nothing */
	CRASH_POINT(cutover_recorded);
}

bool table_cutover_find(const struct table *t, uint64_t epoch, uint64_t *published_ms)
{
	struct shm_ledger_cutover *c = epoch ? cutover_find(t, epoch) : NULL;

	if (c)
		*published_ms = atomic_load_explicit(&c->published_ms, memory_order_relaxed);
	return c != NULL;
}

void table_cutover_forget(struct table *t, uint64_t epoch)
{
	struct shm_ledger_cutover *c = epoch ? cutover_find(t, epoch) : NULL;

	if (c)
		atomic_store_explicit(&c->epoch, 0, memory_order_release);
	CRASH_POINT(cutover_forgotten);
}

void table_cutovers_sweep(struct table *t, bool (*stands)(const void *arg, uint64_t epoch), const void *arg)
{
	struct shm_ledger_cutover *c = ledger_cutovers(t->ledger);

	for (uint32_t i = 0; i < SHM_LEDGER_CUTOVERS; i++) {
		uint64_t epoch = atomic_load_explicit(&c[i].epoch, memory_order_relaxed);

		if (epoch && !stands(arg, epoch)) {
			atomic_store_explicit(&c[i].epoch, 0, memory_order_release);
			CRASH_POINT(cutover_swept);
		}
	}
}
