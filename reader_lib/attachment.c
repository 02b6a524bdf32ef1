/* SPDX-License-Identifier: MIT
 * One view of an instance: its directory, root, and this process's registration if it has one. Made by berth_attach and
 * berth_maintain, used by readers, gone with the last of them. Knows no socket.
 *
 * G1 Nothing of an attachment but its counts, spare and ready changes after bl_publish().
 * G2 The registration is not inherited by a forked child (MADV_DONTFORK): the writer takes its being mapped as a proof
 *    of life, and the child must not touch it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

static int root_inode(int dir_fd, struct stat *st)
{
	return fstatat(dir_fd, "root", st, AT_SYMLINK_NOFOLLOW) == 0 ? BERTH_OK : BERTH_E_NO_INSTANCE;
}

/* Maps root and learns its inode: looked up before and after, because only the name can be asked. */
static int map_root(struct attachment *at)
{
	for (unsigned i = 0; i < 4; i++) {
		struct stat before, after;
		int rc = root_inode(at->dir_fd, &before);

		if (rc == BERTH_OK)
			rc = seg_root_map(at->dir_fd, &at->root);
		if (rc != BERTH_OK)
			return rc;
		if (root_inode(at->dir_fd, &after) == BERTH_OK && before.st_ino == after.st_ino &&
		    before.st_dev == after.st_dev) {
			at->root_dev = after.st_dev;
			at->root_ino = after.st_ino;
			return BERTH_OK;
		}
		seg_root_unmap(&at->root);
	}
	return BERTH_E_NO_INSTANCE;
}

bool bl_attachment_root_changed(const struct attachment *at)
{
	struct stat st;

	return root_inode(at->dir_fd, &st) != BERTH_OK || st.st_ino != at->root_ino || st.st_dev != at->root_dev;
}

int bl_attachment_open(const char *path, int dir_fd, struct attachment **out)
{
	struct attachment *at = calloc(1, sizeof *at);
	int rc = BERTH_OK;

	if (!at)
		return BERTH_E_NOMEM;
	at->dir_fd = at->tables_fd = at->doorbell = -1;
	atomic_init(&at->users, 1);
	atomic_init(&at->spare, -1);
	if (path) {
		rc = seg_dir_open(path, &at->dir_fd, NULL);
	} else {
		at->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
		if (at->dir_fd < 0)
			rc = BERTH_E_SYSTEM;
	}
	if (rc == BERTH_OK)
		rc = map_root(at);
	if (rc == BERTH_OK)
		rc = seg_tables_open(at->dir_fd, &at->tables_fd);
	if (rc == BERTH_OK)
		rc = bl_mapping_ahead(at); /* what cannot be mapped is told now, not by the first look-up */
	if (rc != BERTH_OK) {
		bl_attachment_put(at);
		return rc;
	}
	*out = at;
	return BERTH_OK;
}

static bool lines_fit(const struct shm_registration *r, size_t size, uint32_t n_readers)
{
	return r->n_readers >= n_readers && r->lines_off >= SHM_PAGE && r->lines_off % 64 == 0 &&
	       r->lines_off <= size && r->line_stride >= sizeof(struct shm_line) && r->line_stride % 64 == 0 &&
	       (size - r->lines_off) / r->line_stride >= n_readers;
}

/* Lease arrays of so many slots for each reader; 0: none are asked for. */
static bool leases_fit(const struct shm_registration *r, size_t size, uint32_t n_readers, uint32_t n_leases)
{
	return n_leases == 0 || (r->n_leases >= n_leases && r->n_leases <= SHM_LEASES_MAX &&
				 r->leases_off >= SHM_PAGE && r->leases_off % 128 == 0 && r->leases_off <= size &&
				 r->lease_stride % 128 == 0 && r->lease_stride >= SHM_LEASE_STRIDE(r->n_leases) &&
				 (size - r->leases_off) / r->lease_stride >= n_readers);
}

/* Rings for each reader, if they are asked for, and where their acks are. */
static bool rings_fit(const struct shm_registration *r, size_t size, const struct berth *b)
{
	return b->cursors != BERTH_CURSORS_PIN ||
	       (r->n_rings >= b->max_readers && r->rings_off >= SHM_PAGE && r->rings_off % 128 == 0 &&
		r->rings_off <= size && (size - r->rings_off) / SHM_RING_STRIDE >= b->max_readers &&
		r->first_ack <= SHM_LEDGER_ACKS && SHM_LEDGER_ACKS - r->first_ack >= b->max_readers);
}

/* The file says all that the answer says, and what the answer could not be trusted to say: whose it is, and when. */
static int check_registration(const struct shm_registration *r, size_t size, const struct attachment *at,
			      const struct connection *c, const struct berth *b)
{
	if (r->magic != SHM_MAGIC_READER)
		return BERTH_E_PROTOCOL;
	if (r->abi != SHM_ABI || r->fingerprint != SHM_FINGERPRINT)
		return BERTH_E_ABI;
	if (memcmp(r->uuid, at->root->uuid, sizeof r->uuid) != 0 || r->size > size ||
	    !lines_fit(r, size, b->max_readers) || !leases_fit(r, size, b->max_readers, b->max_leases) ||
	    !rings_fit(r, size, b))
		return BERTH_E_PROTOCOL;
	/* Made between our request and now, by clocks that are ours: else deadlines and barriers mean nothing here. */
	if (r->monotonic_ns < c->monotonic_ns || r->monotonic_ns > seg_clock_ns(CLOCK_MONOTONIC) ||
	    r->boottime_ns < c->boottime_ns || r->boottime_ns > seg_clock_ns(CLOCK_BOOTTIME))
		return BERTH_E_CLOCK;
	return BERTH_OK;
}

/* What pins need besides the registration: the ledger, where they are acknowledged, and the doorbell. */
static int take_rings(struct attachment *at, struct connection *c, const struct berth *b)
{
	int rc;

	if (b->cursors != BERTH_CURSORS_PIN)
		return BERTH_OK;
	if (c->passed[1] < 0)
		return BERTH_E_PROTOCOL;
	rc = seg_ledger_map(at->dir_fd, at->root, &at->ledger);
	if (rc != BERTH_OK)
		return rc;
	at->doorbell = c->passed[1];
	c->passed[1] = -1;
	at->acks = seg_ledger_acks(at->ledger) + at->reg->first_ack;
	at->rings_off = at->reg->rings_off;
	at->n_rings = at->reg->n_rings;
	bl_pins_ahead(at);
	return BERTH_OK;
}

int bl_attachment_doorbell(const struct attachment *at, const struct connection *c)
{
	const uint64_t one = 1;
	ssize_t rang;

	if (c->passed[0] < 0)
		return BERTH_E_PROTOCOL;
	if (dup3(c->passed[0], at->doorbell, O_CLOEXEC) < 0)
		return BERTH_E_SYSTEM;
	/* For who has just rung the old one. It cannot be full, and the writer looks by timer anyway. */
	do
		rang = write(at->doorbell, &one, sizeof one);
	while (rang < 0 && errno == EINTR);
	return rang < 0 && errno != EAGAIN ? BERTH_E_SYSTEM : BERTH_OK;
}

int bl_attachment_register(struct attachment *at, struct connection *c, const struct berth *b, bool fences)
{
	struct shm_registration *r;
	struct stat st;
	int rc;

	if (c->passed[0] < 0)
		return BERTH_E_PROTOCOL;
	if (fstat(c->passed[0], &st) != 0)
		return BERTH_E_SYSTEM;
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)SHM_PAGE)
		return BERTH_E_PROTOCOL;
	r = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->passed[0], 0);
	if (r == MAP_FAILED)
		return BERTH_E_SYSTEM;
	rc = check_registration(r, (size_t)st.st_size, at, c, b);
	if (rc == BERTH_OK && madvise(r, (size_t)st.st_size, MADV_DONTFORK) != 0) /* G2 */
		rc = BERTH_E_SYSTEM;
	if (rc != BERTH_OK) {
		munmap(r, (size_t)st.st_size);
		return rc;
	}
	/* Before any line is used. Release for form: the first look that matters follows a line. */
	if (fences)
		atomic_store_explicit(&r->fences, 1, memory_order_release);
	at->fences = fences;
	at->reg = r;
	at->reg_size = (size_t)st.st_size;
	at->lines_off = r->lines_off;
	at->line_stride = r->line_stride;
	at->slot = r->slot;
	at->number = r->attach;
	rc = take_rings(at, c, b);
	return rc == BERTH_OK ? bl_pools_make(at, b->max_readers, b->max_leases) : rc;
}

void bl_attachment_put(struct attachment *at)
{
	int spare;

	/* acq_rel: what every user did with it comes before its end. */
	if (!at || atomic_fetch_sub_explicit(&at->users, 1, memory_order_acq_rel) != 1)
		return;
	bl_mapping_put(at->ready);
	bl_pins_put(at->pins);
	bl_pools_free(at);
	seg_ledger_unmap(&at->ledger);
	if (at->doorbell >= 0)
		close(at->doorbell);
	if (at->reg)
		munmap(at->reg, at->reg_size);
	seg_root_unmap(&at->root);
	spare = atomic_load_explicit(&at->spare, memory_order_relaxed);
	if (spare >= 0)
		close(spare);
	if (at->tables_fd >= 0)
		close(at->tables_fd);
	if (at->dir_fd >= 0)
		close(at->dir_fd);
	free(at);
}

void bl_attachment_abandon(struct attachment *at)
{
	if (at)
		at->reg = NULL; /* not mapped here (G2): its address may be another mapping's by now */
	bl_attachment_put(at);
}
