/* SPDX-License-Identifier: MIT
 * The parts of an instance that have one place: root, the header of the table, the ledger (verify.h). They are mapped
 * here without the checks of shm/segment.c, so that a fault gets its name. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ledger.h"
#include "verify.h"

bool bytes_zero(const void *base, uint64_t from, uint64_t to, uint64_t *where)
{
	const unsigned char *p = base;

	for (uint64_t i = from; i < to; i++) {
		if (p[i]) {
			*where = i;
			return false;
		}
	}
	return true;
}

#define CHECK_ZERO(f, base, type, first, last) check_zero(f, base, #first, offsetof(type, first), last)
static void check_zero(struct faults *f, const void *base, const char *what, size_t from, size_t to)
{
	uint64_t where;

	if (!bytes_zero(base, from, to, &where))
		fault_add(f, what, "%02x at byte %" PRIu64 "\t00: nothing is there",
			  ((const unsigned char *)base)[where], where);
}

/* A private copy of at most `room` bytes from the start of a file. The file's size; -1 with errno. */
static int64_t read_start(int dir_fd, const char *name, void *out, size_t room)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	memset(out, 0, room);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) != 0 || (S_ISREG(st.st_mode) && pread(fd, out, room, 0) < 0)) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	close(fd);
	return S_ISREG(st.st_mode) ? st.st_size : 0;
}

static bool check_layout(struct faults *f, uint64_t magic, uint64_t right, uint32_t abi, uint32_t fingerprint)
{
	if (magic != right)
		fault_add(f, "magic", "%016" PRIx64 "\t%016" PRIx64, magic, right);
	else if (abi != SHM_ABI)
		fault_add(f, "abi", "%" PRIu32 "\t%u: it is damaged, or of another version of berth", abi, SHM_ABI);
	else if (fingerprint != SHM_FINGERPRINT)
		fault_add(f, "fingerprint", "%08" PRIx32 "\t%08" PRIx32 ": it is damaged, or of another build of berth",
			  fingerprint, (uint32_t)SHM_FINGERPRINT);
	return f->n == 0;
}

bool verify_root(struct verify *v)
{
	struct faults f = {0};
	struct shm_root r;
	uint64_t where, now = seg_clock_ms(CLOCK_BOOTTIME);
	uint8_t boot[16];
	int64_t size = read_start(v->t->dir_fd, "root", &r, sizeof(r));

	snprintf(v->file, sizeof(v->file), "root");
	if (size < 0)
		fault_add(&f, "file", "%s\ta file that can be read", strerror(errno));
	else if (size < (int64_t)sizeof(r))
		fault_add(&f, "size", "%" PRId64 " bytes\t%zu bytes", size, sizeof(r));
	if (f.n || !check_layout(&f, r.magic, SHM_MAGIC_ROOT, r.abi, r.fingerprint)) {
		verify_tell(v, &f);
		faults_free(&f);
		return false;
	}
	bool this_boot = seg_boot_id(boot) == BERTH_OK && memcmp(boot, r.boot_id, 16) == 0;
	if (!this_boot)
		tool_note(v->t,
			  "root is not of this boot of the machine: berthd will make a new one, readers attach again");
	if (bytes_zero(r.uuid, 0, sizeof(r.uuid), &where))
		fault_add(&f, "uuid", "zero\ta random number");
	if (bytes_zero(r.secret, 0, sizeof(r.secret), &where))
		fault_add(&f, "secret", "zero\ta random number");
	if (r.grace == 0 || r.grace >> 40)
		fault_add(&f, "grace", "%" PRIu64 "\t1 to %" PRIu64, r.grace, (UINT64_C(1) << 40) - 1);
	if ((SHM_GENERATION(r.termgen) == 0) != (r.termgen == 0))
		fault_add(&f, "termgen", "%016" PRIx64 "\tgeneration 0 without a term, or another generation",
			  r.termgen);
	if (r.membarrier_mode > SHM_MEMBARRIER_GLOBAL_EXPEDITED)
		fault_add(&f, "membarrier_mode", "%" PRIu32 "\t0 or 1", r.membarrier_mode);
	if (r.superseded > 1)
		fault_add(&f, "superseded", "%" PRIu32 "\t0 or 1", r.superseded);
	if (this_boot && r.heartbeat_ms > now + 1000)
		fault_add(&f, "heartbeat_ms", "%" PRIu64 "\tat most the clock, %" PRIu64, r.heartbeat_ms, now);
	if (r.writer_pid > INT32_MAX)
		fault_add(&f, "writer_pid", "%" PRIu64 "\ta process number", r.writer_pid);
	CHECK_ZERO(&f, &r, struct shm_root, pad0, offsetof(struct shm_root, secret));
	CHECK_ZERO(&f, &r, struct shm_root, pad1, offsetof(struct shm_root, termgen));
	CHECK_ZERO(&f, &r, struct shm_root, pad2, offsetof(struct shm_root, heartbeat_ms));
	CHECK_ZERO(&f, &r, struct shm_root, pad3, sizeof(r));
	verify_tell(v, &f);
	faults_free(&f);
	return true;
}

static int64_t read_table_start(const struct verify *v, uint32_t generation, struct shm_table *h)
{
	char name[64];

	snprintf(name, sizeof(name), SEG_TABLES "/table.%" PRIu32, generation);
	return read_start(v->t->dir_fd, name, h, sizeof(*h));
}

static void check_area(struct faults *f, const char *what, uint64_t at, uint64_t len, uint64_t size, uint64_t after)
{
	if (at < after || at % 64 || at > size || len > size - at)
		fault_add(f, what,
			  "%" PRIu64 ", %" PRIu64 " bytes long\ta multiple of 64 from %" PRIu64 " on, inside %" PRIu64
			  " bytes",
			  at, len, after, size);
}

bool verify_header(struct verify *v, uint32_t generation)
{
	const struct shm_root *root = v->t->root;
	struct faults f = {0};
	struct shm_table h;
	int64_t size = read_table_start(v, generation, &h);
	uint64_t n_entries = (uint64_t)h.capacity + SHM_PROBE_MAX;

	snprintf(v->file, sizeof(v->file), "table.%" PRIu32, generation);
	if (size < 0)
		fault_add(&f, "file", "%s\ta file that can be read: root names it", strerror(errno));
	else if (size < (int64_t)sizeof(h))
		fault_add(&f, "size", "%" PRId64 " bytes\tat least %zu bytes", size, sizeof(h));
	if (f.n || !check_layout(&f, h.magic, SHM_MAGIC_TABLE, h.abi, h.fingerprint)) {
		verify_tell(v, &f);
		faults_free(&f);
		return false;
	}
	if (memcmp(h.uuid, root->uuid, sizeof(h.uuid)) != 0)
		fault_add(&f, "uuid", "another one\tthat of root: the file belongs to another instance");
	if (h.generation != generation)
		fault_add(&f, "generation", "%" PRIu32 "\t%" PRIu32 ", as in its name", h.generation, generation);
	if (h.size != (uint64_t)size)
		fault_add(&f, "size", "%" PRIu64 "\t%" PRId64 ", the size of the file", h.size, size);
	if (h.capacity == 0 || h.capacity > UINT32_MAX - SHM_PROBE_MAX)
		fault_add(&f, "capacity", "%" PRIu32 "\t1 to %" PRIu32, h.capacity, UINT32_MAX - SHM_PROBE_MAX);
	if (h.n_cluster_slots == 0 || h.n_cluster_slots > SHM_CLUSTERS_MAX + 1)
		fault_add(&f, "n_cluster_slots", "%" PRIu32 "\t1 to %u", h.n_cluster_slots, SHM_CLUSTERS_MAX + 1);
	check_area(&f, "clusters_off", h.clusters_off, (uint64_t)h.n_cluster_slots * 4, (uint64_t)size, SHM_PAGE);
	check_area(&f, "entries_off", h.entries_off, n_entries * sizeof(struct shm_entry), (uint64_t)size,
		   h.clusters_off + (uint64_t)h.n_cluster_slots * 4);
	check_area(&f, "documents_off", h.documents_off, n_entries * 8, (uint64_t)size,
		   h.entries_off + n_entries * sizeof(struct shm_entry));
	check_area(&f, "tags_off", h.tags_off, n_entries + SHM_TAG_WINDOW, (uint64_t)size,
		   h.documents_off + n_entries * 8);
	check_area(&f, "records_off", h.records_off, 0, (uint64_t)size, h.tags_off + n_entries + SHM_TAG_WINDOW);
	bool whole = f.n == 0;
	if (h.longest_probe > SHM_PROBE_MAX)
		fault_add(&f, "longest_probe", "%" PRIu32 "\tat most %u", h.longest_probe, SHM_PROBE_MAX);
	if (h.epoch > SHM_EPOCH_MAX)
		fault_add(&f, "epoch", "%" PRIu64 "\tat most %" PRIu64, h.epoch, (uint64_t)SHM_EPOCH_MAX);
	if (h.next_cluster == 0 || h.next_cluster > SHM_CLUSTERS_MAX + 1u)
		fault_add(&f, "next_cluster", "%" PRIu64 "\t1 to %u", h.next_cluster, SHM_CLUSTERS_MAX + 1);
	if (h.pad0)
		fault_add(&f, "pad0", "%" PRIu32 "\t0", h.pad0);
	CHECK_ZERO(&f, &h, struct shm_table, pad1, offsetof(struct shm_table, dflt));
	CHECK_ZERO(&f, &h, struct shm_table, pad2, offsetof(struct shm_table, epoch));
	CHECK_ZERO(&f, &h, struct shm_table, pad3, sizeof(h));
	verify_tell(v, &f);
	faults_free(&f);
	return whole;
}

/* ---- ledger ---- */

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

static void check_ledger_header(const struct verify *v, const struct shm_ledger *h, int64_t size, struct faults *f)
{
	if (!check_layout(f, h->magic, SHM_MAGIC_LEDGER, h->abi, h->fingerprint))
		return;
	if (memcmp(h->uuid, v->t->root->uuid, sizeof(h->uuid)) != 0)
		fault_add(f, "uuid", "another one\tthat of root: the file belongs to another instance");
	if (h->n_rows != SHM_LEDGER_ROWS)
		fault_add(f, "n_rows", "%" PRIu32 "\t%u", h->n_rows, SHM_LEDGER_ROWS);
	if (h->n_cutovers != SHM_LEDGER_CUTOVERS)
		fault_add(f, "n_cutovers", "%" PRIu32 "\t%u", h->n_cutovers, SHM_LEDGER_CUTOVERS);
	if (h->n_leases != SHM_LEDGER_LEASES)
		fault_add(f, "n_leases", "%" PRIu32 "\t%u", h->n_leases, SHM_LEDGER_LEASES);
	uint64_t need = SHM_PAGE + (uint64_t)SHM_LEDGER_ROWS * sizeof(struct shm_ledger_row) +
			(uint64_t)SHM_LEDGER_CUTOVERS * sizeof(struct shm_ledger_cutover) +
			(uint64_t)SHM_LEDGER_LEASES * sizeof(struct shm_ledger_lease);
	if ((uint64_t)size < need)
		fault_add(f, "size", "%" PRId64 " bytes\tat least %" PRIu64, size, need);
	CHECK_ZERO(f, h, struct shm_ledger, reserved, sizeof(*h));
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
		if (slot < l->n_rows)
			check_row(l, slot, attach, f);
		else if (slot - l->n_rows < l->n_cutovers)
			check_cutover(l, slot - l->n_rows, epoch, f);
		else
			check_lease(l, slot - l->n_rows - l->n_cutovers, f);
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
	faults_free(&f);
}

void verify_ledger(struct verify *v)
{
	struct faults f = {0};
	struct shm_ledger h;
	struct ledger l;
	int64_t size = read_start(v->t->dir_fd, "ledger", &h, sizeof(h));

	snprintf(v->file, sizeof(v->file), "ledger");
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
