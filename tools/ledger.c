/* SPDX-License-Identifier: MIT
 * Mapping and reading the ledger (ledger.h). For people and for `verify`: nothing is decided by it here. */
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "instance.h"

int ledger_open(const struct tool *t, struct ledger *l)
{
	int fd = openat(t->dir_fd, SEG_LEDGER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	off_t size = 0;
	int rc;

	*l = (struct ledger){0};
	if (fd < 0)
		return errno == ENOENT ? BERTH_E_NO_INSTANCE : errno == EACCES ? BERTH_E_PERMISSION : BERTH_E_SYSTEM;
	rc = seg_file_trusted(fd, geteuid(), &size);
	if (rc == BERTH_OK && size < (off_t)SHM_PAGE)
		rc = BERTH_E_CORRUPT;
	void *base = rc == BERTH_OK ? mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
	if (rc == BERTH_OK && base == MAP_FAILED)
		rc = BERTH_E_SYSTEM;
	close(fd);
	if (rc != BERTH_OK)
		return rc;
	l->header = base;
	l->size = (size_t)size;
	l->n_rows = l->header->n_rows;
	l->pid_namespace = atomic_load_explicit(&l->header->pid_namespace, memory_order_relaxed);
	l->n_cutovers = l->header->n_cutovers;
	l->n_leases = l->header->n_leases;
	l->n_acks = l->header->n_acks;
	uint64_t need = SHM_PAGE + (uint64_t)l->n_rows * sizeof(struct shm_ledger_row) +
			(uint64_t)l->n_cutovers * sizeof(struct shm_ledger_cutover) +
			(uint64_t)l->n_leases * sizeof(struct shm_ledger_lease) +
			(uint64_t)l->n_rows * sizeof(struct shm_ledger_ring) + (uint64_t)l->n_acks * sizeof(uint64_t);
	bool whole = need <= l->size;
	l->rows = (const struct shm_ledger_row *)((const char *)base + SHM_PAGE);
	l->cutovers = (const struct shm_ledger_cutover *)(l->rows + (whole ? l->n_rows : 0));
	l->leases = (const struct shm_ledger_lease *)(l->cutovers + (whole ? l->n_cutovers : 0));
	l->rings = (const struct shm_ledger_ring *)(l->leases + (whole ? l->n_leases : 0));
	l->acks = (const _Atomic uint64_t *)(l->rings + (whole ? l->n_rows : 0));
	if (l->header->magic != SHM_MAGIC_LEDGER || !whole ||
	    (t->root && memcmp(l->header->uuid, t->root->uuid, 16) != 0))
		rc = BERTH_E_CORRUPT;
	else if (l->header->abi != SHM_ABI || l->header->fingerprint != SHM_FINGERPRINT)
		rc = BERTH_E_ABI;
	if (rc != BERTH_OK)
		ledger_close(l);
	return rc;
}

void ledger_close(struct ledger *l)
{
	if (l->header)
		munmap((void *)(uintptr_t)l->header, l->size);
	*l = (struct ledger){0};
}

bool ledger_read(const struct ledger *l, uint32_t slot, struct ledger_reader *r)
{
	const struct shm_ledger_row *row = &l->rows[slot];

	*r = (struct ledger_reader){0};
	r->attach = atomic_load_explicit(&row->attach, memory_order_acquire); /* stored last */
	if (r->attach == 0)
		return false;
	r->pid = atomic_load_explicit(&row->pid, memory_order_relaxed);
	r->start = atomic_load_explicit(&row->start, memory_order_relaxed);
	r->attached_ms = atomic_load_explicit(&row->attached_ms, memory_order_relaxed);
	r->uid = atomic_load_explicit(&row->uid, memory_order_relaxed);
	r->n_readers = atomic_load_explicit(&row->n_readers, memory_order_relaxed);
	r->writes = atomic_load_explicit(&row->writes, memory_order_relaxed);
	memcpy(r->comm, row->comm, sizeof(row->comm));
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&row->attach, memory_order_relaxed) != r->attach)
		return false;
	r->seen = r->pid && (!l->pid_namespace || l->pid_namespace == seg_pid_namespace());
	r->exists = r->seen && instance_process_lives(r->pid, r->start);
	return true;
}

uint32_t ledger_count(const struct ledger *l)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < l->n_rows; i++)
		n += atomic_load_explicit(&l->rows[i].attach, memory_order_relaxed) != 0;
	return n;
}

const char *ledger_writes(uint32_t writes)
{
	static const char *const names[] = {"none", "bracketed", "unbracketed"};

	return writes < 3 ? names[writes] : "?";
}
