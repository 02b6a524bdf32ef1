/* SPDX-License-Identifier: MIT
 * The ledger (verify.h): its header, its rows and their rings of pins, cutovers, leases. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ledger.h"
#include "verify.h"

static void check_row(const struct ledger *l, uint32_t slot, uint64_t highest, struct faults *f)
{
	const struct shm_ledger_row *row = &l->rows[slot];
	struct ledger_reader r;
	size_t before = f->n;
	uint64_t where = 0;

	if (!ledger_read(l, slot, &r))
		return;
	if (r.attach > highest)
		fault_add(f, "row.attach", "%" PRIu64 "\tat most the highest given out, %" PRIu64, r.attach, highest);
	if (r.pid > INT32_MAX)
		fault_add(f, "row.pid", "%" PRIu64 "\ta process number", r.pid);
	if (r.n_readers == 0 || r.n_readers > SHM_READERS_MAX)
		fault_add(f, "row.n_readers", "%" PRIu32 "\t1 to %u", r.n_readers, SHM_READERS_MAX);
	if (r.writes > SHM_WRITES_UNBRACKETED)
		fault_add(f, "row.writes", "%" PRIu32 "\t0 to %d", r.writes, SHM_WRITES_UNBRACKETED);
	if (atomic_load_explicit(&row->fences, memory_order_relaxed) > 1)
		fault_add(f, "row.fences", "%" PRIu32 "\t0 or 1",
			  atomic_load_explicit(&row->fences, memory_order_relaxed));
	size_t len = strnlen(row->comm, sizeof(row->comm));
	if (!bytes_zero(row->comm, len, sizeof(row->comm), &where))
		fault_add(f, "row.comm", "not zero behind its text\tzero");
	for (size_t i = before; i < f->n; i++)
		f->at[i].slot = slot;
}

static void check_cutover(const struct ledger *l, uint32_t slot, uint64_t highest_epoch, struct faults *f)
{
	const struct shm_ledger_cutover *c = &l->cutovers[slot];
	uint64_t epoch = atomic_load_explicit(&c->epoch, memory_order_acquire);
	size_t before = f->n;

	if (epoch > SHM_EPOCH_MAX || (highest_epoch && epoch > highest_epoch))
		fault_add(f, "cutover.epoch", "%" PRIu64 "\tat most the table's epoch, %" PRIu64, epoch, highest_epoch);
	for (size_t i = before; i < f->n; i++)
		f->at[i].slot = slot;
}

static void check_lease(const struct ledger *l, uint32_t slot, struct faults *f)
{
	const struct shm_ledger_lease *r = &l->leases[slot];
	size_t before = f->n;

	if (atomic_load_explicit(&r->hash, memory_order_acquire) == 0) /* stored last */
		return;
	uint32_t pid = atomic_load_explicit(&r->pid, memory_order_relaxed);
	uint32_t end = atomic_load_explicit(&r->how, memory_order_relaxed);
	if (pid > INT32_MAX)
		fault_add(f, "lease.pid", "%" PRIu32 "\ta process number", pid);
	if (end != SHM_LEASE_END_UNKNOWN && end != SHM_LEASE_END_DIED)
		fault_add(f, "lease.how", "%" PRIu32 "\t%d or %d", end, SHM_LEASE_END_UNKNOWN, SHM_LEASE_END_DIED);
	for (size_t i = before; i < f->n; i++)
		f->at[i].slot = slot;
}

/* Acks of a registration, up to the line that the next one's may start with. */
static uint64_t ring_end(uint32_t first, uint32_t n)
{
	return ((uint64_t)first + n + 7) & ~UINT64_C(7);
}

/* Where its acks lie; false: it has none. */
static bool ring_read(const struct ledger *l, uint32_t slot, uint32_t *first, uint32_t *n)
{
	const struct shm_ledger_ring *ring = &l->rings[slot];
	uint64_t attach = atomic_load_explicit(&ring->attach, memory_order_acquire); /* stored last */

	*first = atomic_load_explicit(&ring->first, memory_order_relaxed);
	*n = atomic_load_explicit(&ring->n, memory_order_relaxed);
	return attach && attach == atomic_load_explicit(&l->rows[slot].attach, memory_order_acquire);
}

static void check_acks(const struct ledger *l, uint32_t first, uint32_t n, struct faults *f)
{
	for (uint32_t i = first; i < first + n; i++) {
		uint64_t ack = atomic_load_explicit(&l->acks[i], memory_order_relaxed);
		if (SHM_ACK_RESULT(ack) > SHM_PIN_INVALID)
			fault_add(f, "ack", "%016" PRIx64 ", the %" PRIu32 "th\ta result from 0 to %d", ack, i,
				  SHM_PIN_INVALID);
	}
}

static void check_ring(const struct ledger *l, uint32_t slot, struct faults *f)
{
	uint32_t first, n, other_first, other_n;
	struct ledger_reader r;
	size_t before = f->n;

	if (!ledger_read(l, slot, &r) || !ring_read(l, slot, &first, &n))
		return;
	if (n != r.n_readers)
		fault_add(f, "ring.n", "%" PRIu32 "\t%" PRIu32 ", one for each reader", n, r.n_readers);
	if (first % 8 || n == 0 || n > SHM_READERS_MAX || ring_end(first, n) > l->n_acks) {
		fault_add(f, "ring.first", "%" PRIu32 ", and %" PRIu32 " acks\ta multiple of 8, inside %" PRIu32, first,
			  n, l->n_acks);
	} else {
		check_acks(l, first, n, f);
		for (uint32_t other = 0; other < l->n_rows; other++)
			if (other != slot && ring_read(l, other, &other_first, &other_n) &&
			    other_first < ring_end(first, n) && first < ring_end(other_first, other_n))
				fault_add(f, "ring.first",
					  "%" PRIu32 ", and %" PRIu32 " acks\tapart from those of slot %" PRIu32
					  ", from %" PRIu32 " on",
					  first, n, other, other_first);
	}
	for (size_t i = before; i < f->n; i++)
		f->at[i].slot = slot;
}

static void check_ledger_header(const struct verify *v, const struct shm_ledger *h, int64_t size, struct faults *f)
{
	if (!verify_layout(f, h->magic, SHM_MAGIC_LEDGER, h->abi, h->fingerprint))
		return;
	if (memcmp(h->uuid, v->t->root->uuid, sizeof(h->uuid)) != 0)
		fault_add(f, "uuid", "another one\tthat of root: the file belongs to another instance");
	if (h->n_rows != SHM_LEDGER_ROWS)
		fault_add(f, "n_rows", "%" PRIu32 "\t%u", h->n_rows, SHM_LEDGER_ROWS);
	if (h->n_cutovers != SHM_LEDGER_CUTOVERS)
		fault_add(f, "n_cutovers", "%" PRIu32 "\t%u", h->n_cutovers, SHM_LEDGER_CUTOVERS);
	if (h->n_leases != SHM_LEDGER_LEASES)
		fault_add(f, "n_leases", "%" PRIu32 "\t%u", h->n_leases, SHM_LEDGER_LEASES);
	if (h->n_acks != SHM_LEDGER_ACKS)
		fault_add(f, "n_acks", "%" PRIu32 "\t%u", h->n_acks, SHM_LEDGER_ACKS);
	if ((uint64_t)size < SHM_LEDGER_SIZE)
		fault_add(f, "size", "%" PRId64 " bytes\tat least %zu", size, SHM_LEDGER_SIZE);
	if (h->cursor_sleeping > 1)
		fault_add(f, "cursor_sleeping", "%" PRIu32 "\t0 or 1", h->cursor_sleeping);
	if (h->cursor_doing > SHM_LEDGER_ACKS)
		fault_add(f, "cursor_doing", "%" PRIu64 "\tat most %u", h->cursor_doing, SHM_LEDGER_ACKS);
	VERIFY_ZERO(f, h, struct shm_ledger, pad0, offsetof(struct shm_ledger, cursor_sleeping));
	VERIFY_ZERO(f, h, struct shm_ledger, pad1, offsetof(struct shm_ledger, cursor_doing));
	VERIFY_ZERO(f, h, struct shm_ledger, reserved, sizeof(*h));
}

/* A row, a cutover or a lease; under a living daemon several looks, as long as there are not many faults. */
static void check_slot(struct verify *v, const struct ledger *l, uint32_t slot, bool patient, struct faults *f)
{
	const struct shm_table *h = v->t->map.table;

	for (int look = 0; look < (patient ? VERIFY_LOOKS : 1); look++) {
		if (look)
			verify_pause();
		f->n = 0;
		/* What bounds them, loaded before each look: it only grows, but it is stored first. */
		uint64_t attach = atomic_load_explicit(&l->header->attach_number, memory_order_acquire);
		uint64_t epoch = h ? atomic_load_explicit(&h->epoch, memory_order_acquire) : 0;
		if (slot < l->n_rows) {
			check_row(l, slot, attach, f);
			check_ring(l, slot, f);
		} else if (slot - l->n_rows < l->n_cutovers) {
			check_cutover(l, slot - l->n_rows, epoch, f);
		} else {
			check_lease(l, slot - l->n_rows - l->n_cutovers, f);
		}
		if (f->n == 0)
			break;
	}
}

static void check_ledger(struct verify *v, const struct ledger *l)
{
	struct faults f = {0};
	uint64_t before = v->n_faults;

	for (uint32_t slot = 0; slot < l->n_rows + l->n_cutovers + l->n_leases; slot++) {
		check_slot(v, l, slot, v->live && v->n_faults - before < 50, &f);
		verify_tell(v, &f);
		v->n_readers +=
			slot < l->n_rows && atomic_load_explicit(&l->rows[slot].attach, memory_order_relaxed) != 0;
	}
	v->n_readers -= v->live && v->n_readers; /* our own */
	faults_free(&f);
}

void verify_ledger(struct verify *v)
{
	struct faults f = {0};
	struct shm_ledger h;
	struct ledger l;
	int64_t size = verify_read(v->t->dir_fd, SEG_LEDGER, &h, sizeof(h));

	snprintf(v->file, sizeof(v->file), SEG_LEDGER);
	if (size < 0)
		fault_add(&f, "file", "%s\ta file that can be read", strerror(errno));
	else if (size < (int64_t)sizeof(h))
		fault_add(&f, "size", "%" PRId64 " bytes\tat least %zu bytes", size, sizeof(h));
	else
		check_ledger_header(v, &h, size, &f);
	bool whole = f.n == 0;
	verify_tell(v, &f);
	if (whole && ledger_open(v->t, &l) == BERTH_OK) {
		check_ledger(v, &l);
		ledger_close(&l);
	}
	faults_free(&f);
}
