/* SPDX-License-Identifier: MIT
 * Headers: root, that of the table (verify.h), and what all files' headers are checked with. They are read here without the
 * checks of shm/segment.c, so that a fault gets its name. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

void verify_zero(struct faults *f, const void *base, const char *what, size_t from, size_t to)
{
	uint64_t where;

	if (!bytes_zero(base, from, to, &where))
		fault_add(f, what, "%02x at byte %" PRIu64 "\t00: nothing is there",
			  ((const unsigned char *)base)[where], where);
}

int64_t verify_read(int dir_fd, const char *name, void *out, size_t room)
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

bool verify_layout(struct faults *f, uint64_t magic, uint64_t right, uint32_t abi, uint32_t fingerprint)
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
	int64_t size = verify_read(v->t->dir_fd, "root", &r, sizeof(r));

	snprintf(v->file, sizeof(v->file), "root");
	if (size < 0)
		fault_add(&f, "file", "%s\ta file that can be read", strerror(errno));
	else if (size < (int64_t)sizeof(r))
		fault_add(&f, "size", "%" PRId64 " bytes\t%zu bytes", size, sizeof(r));
	if (f.n || !verify_layout(&f, r.magic, SHM_MAGIC_ROOT, r.abi, r.fingerprint)) {
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
	if (r.cursor_generation > UINT32_MAX)
		fault_add(&f, "cursor_generation", "%" PRIu64 "\tat most %u", r.cursor_generation, UINT32_MAX);
	if (r.membarrier_mode > SHM_MEMBARRIER_GLOBAL_EXPEDITED)
		fault_add(&f, "membarrier_mode", "%" PRIu32 "\t0 or 1", r.membarrier_mode);
	if (r.superseded > 1)
		fault_add(&f, "superseded", "%" PRIu32 "\t0 or 1", r.superseded);
	if (this_boot && r.heartbeat_ms > now + 1000)
		fault_add(&f, "heartbeat_ms", "%" PRIu64 "\tat most the clock, %" PRIu64, r.heartbeat_ms, now);
	if (r.writer_pid > INT32_MAX)
		fault_add(&f, "writer_pid", "%" PRIu64 "\ta process number", r.writer_pid);
	VERIFY_ZERO(&f, &r, struct shm_root, pad0, offsetof(struct shm_root, secret));
	VERIFY_ZERO(&f, &r, struct shm_root, pad1, offsetof(struct shm_root, termgen));
	VERIFY_ZERO(&f, &r, struct shm_root, pad2, offsetof(struct shm_root, heartbeat_ms));
	VERIFY_ZERO(&f, &r, struct shm_root, pad3, offsetof(struct shm_root, known_uuid));
	VERIFY_ZERO(&f, &r, struct shm_root, reserved, sizeof(r));
	verify_tell(v, &f);
	faults_free(&f);
	return true;
}

static int64_t read_table_start(const struct verify *v, uint32_t generation, struct shm_table *h)
{
	char name[64];

	snprintf(name, sizeof(name), SEG_TABLES "/table.%" PRIu32, generation);
	return verify_read(v->t->dir_fd, name, h, sizeof(*h));
}

void verify_area(struct faults *f, const char *what, uint64_t at, uint64_t len, uint64_t size, uint64_t after)
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
	if (f.n || !verify_layout(&f, h.magic, SHM_MAGIC_TABLE, h.abi, h.fingerprint)) {
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
	verify_area(&f, "clusters_off", h.clusters_off, (uint64_t)h.n_cluster_slots * 4, (uint64_t)size, SHM_PAGE);
	verify_area(&f, "entries_off", h.entries_off, n_entries * sizeof(struct shm_entry), (uint64_t)size,
		    h.clusters_off + (uint64_t)h.n_cluster_slots * 4);
	verify_area(&f, "documents_off", h.documents_off, n_entries * 8, (uint64_t)size,
		    h.entries_off + n_entries * sizeof(struct shm_entry));
	verify_area(&f, "tags_off", h.tags_off, n_entries + SHM_TAG_WINDOW, (uint64_t)size,
		    h.documents_off + n_entries * 8);
	verify_area(&f, "records_off", h.records_off, 0, (uint64_t)size, h.tags_off + n_entries + SHM_TAG_WINDOW);
	bool whole = f.n == 0;
	if (h.longest_probe > SHM_PROBE_MAX)
		fault_add(&f, "longest_probe", "%" PRIu32 "\tat most %u", h.longest_probe, SHM_PROBE_MAX);
	if (h.epoch > SHM_EPOCH_MAX)
		fault_add(&f, "epoch", "%" PRIu64 "\tat most %" PRIu64, h.epoch, (uint64_t)SHM_EPOCH_MAX);
	if (h.next_cluster == 0 || h.next_cluster > SHM_CLUSTERS_MAX + 1u)
		fault_add(&f, "next_cluster", "%" PRIu64 "\t1 to %u", h.next_cluster, SHM_CLUSTERS_MAX + 1);
	if (h.pad0)
		fault_add(&f, "pad0", "%" PRIu32 "\t0", h.pad0);
	VERIFY_ZERO(&f, &h, struct shm_table, pad1, offsetof(struct shm_table, dflt));
	VERIFY_ZERO(&f, &h, struct shm_table, pad2, offsetof(struct shm_table, epoch));
	if (h.said_epoch > SHM_EPOCH_MAX)
		fault_add(&f, "said_epoch", "%" PRIu64 "\tat most %" PRIu64, h.said_epoch, (uint64_t)SHM_EPOCH_MAX);
	VERIFY_ZERO(&f, &h, struct shm_table, reserved, sizeof(h));
	verify_tell(v, &f);
	faults_free(&f);
	return whole;
}
