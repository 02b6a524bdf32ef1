/* SPDX-License-Identifier: MIT
 * The file root: the identity of an instance, made once with a fresh uuid and hash secret, kept (same inode) for as
 * long as the instance lives. A root of another boot or another layout gives way to a new one, which takes its name: from
 * then on the new one says which root the store may still know (known_uuid), until the store has learnt of it. So a
 * writer that dies or is refused in between is followed by one that starts. */
#include "root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"

static void hex(const uint8_t id[16], char out[33])
{
	for (unsigned i = 0; i < 16; i++)
		snprintf(out + 2 * i, 3, "%02x", id[i]);
}

static void unlink_all(int dir, const char *prefix)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0)
			unlinkat(dir, e->d_name, 0);
	CRASH_POINT(swept_files);
	closedir(d);
}

/* Nothing that an older root spoke of is of use to this one, but for `mirrored`: its mirror may answer still. The root
 * itself stays until the new one takes its name: who comes in between finds what the store knows. */
static void sweep(struct instance *in)
{
	unlink_all(in->table_dir_fd, "table.");
	unlink_all(in->table_dir_fd, "cursors.");
	unlinkat(in->table_dir_fd, "building", 0);
	CRASH_POINT(swept_building);
	unlinkat(in->table_dir_fd, "reserve", 0);
	CRASH_POINT(swept_reserve);
	unlinkat(in->table_dir_fd, "reserve.new", 0);
	CRASH_POINT(swept_reserve_new);
	unlink_all(in->readers_fd, "");
	unlinkat(in->dir_fd, "ledger", 0);
	CRASH_POINT(swept_ledger);
}

static struct shm_root *map_file(int fd)
{
	struct shm_root *root = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return root == MAP_FAILED ? NULL : root;
}

/* Of 32 hex digits; others are no uuid, and none is zeros. */
static void unhex(const char *text, uint8_t id[16])
{
	memset(id, 0, 16);
	for (unsigned i = 0; text && strlen(text) == 32 && i < 16; i++)
		if (sscanf(text + 2 * i, "%2hhx", &id[i]) != 1)
			break;
}

static enum refusal_code root_make(struct table *t, const uint8_t boot_id[16], const char *known, struct refusal *r)
{
	struct instance *in = t->instance;
	struct shm_root *root = NULL;
	int fd, e;

	unlinkat(in->dir_fd, "root.new", 0);
	CRASH_POINT(root_new_cleared);
	fd = openat(in->dir_fd, "root.new", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return refuse(r, R_BACKEND, "cannot make %s/root: %s", in->path, strerror(errno));
	CRASH_POINT(root_new_made);
	if (fchown(fd, (uid_t)-1, in->group) != 0)
		errno = 0;
	CRASH_POINT(root_new_owned);
	(void)!fchmod(fd, 0640);
	CRASH_POINT(root_new_modes_set);
	if (file_allocate(fd, 0, SHM_PAGE, false) == 0)
		root = map_file(fd);
	e = errno;
	CRASH_POINT(root_new_allocated);
	close(fd);
	if (!root) {
		unlinkat(in->dir_fd, "root.new", 0);
		return refuse(r, R_FULL, "no room for root (%u bytes) in %s: %s", SHM_PAGE, in->path, strerror(e));
	}
	memset(root, 0, sizeof *root);
	root->abi = SHM_ABI;
	root->fingerprint = SHM_FINGERPRINT;
	memcpy(root->boot_id, boot_id, 16);
	unhex(known, root->known_uuid);
	if (getrandom(root->uuid, sizeof root->uuid, 0) != (ssize_t)sizeof root->uuid ||
	    getrandom(root->secret, sizeof root->secret, 0) != (ssize_t)sizeof root->secret) {
		munmap(root, SHM_PAGE);
		return refuse(r, R_BACKEND, "getrandom: %s", strerror(errno));
	}
	root->created_ms = seg_clock_ms(CLOCK_REALTIME);
	atomic_store_explicit(&root->grace, 1, memory_order_relaxed);
	CRASH_POINT(root_filled);
	/* Last: pairs with the acquire in seg_root_map. */
	atomic_store_explicit(&root->magic, SHM_MAGIC_ROOT, memory_order_release);
	CRASH_POINT(root_magic_stored);
	if (renameat(in->dir_fd, "root.new", in->dir_fd, "root") != 0) {
		munmap(root, SHM_PAGE);
		return refuse(r, R_BACKEND, "cannot rename root.new in %s: %s", in->path, strerror(errno));
	}
	CRASH_POINT(root_named);
	t->root = root;
	return R_DONE;
}

static bool same_uuid(const uint8_t uuid[16], const char *text)
{
	char mine[33];

	hex(uuid, mine);
	return strcmp(mine, text) == 0;
}

static bool same_layout(const struct shm_root *root, const uint8_t boot_id[16])
{
	return atomic_load_explicit(&root->magic, memory_order_acquire) == SHM_MAGIC_ROOT && root->abi == SHM_ABI &&
	       root->fingerprint == SHM_FINGERPRINT && memcmp(root->boot_id, boot_id, 16) == 0;
}

static enum refusal_code refuse_root(struct refusal *r, const struct instance *in, const char *call)
{
	return refuse(r, R_BACKEND, "%s/root: %s: %s: it stays as it is; free memory or descriptors, then start again",
		      in->path, call, strerror(errno));
}

enum refusal_code root_open(struct table *t, const struct table_options *o, bool *fresh, bool *first, struct refusal *r)
{
	struct instance *in = t->instance;
	uint8_t boot_id[16];
	struct stat st;
	bool other;
	int fd;

	*fresh = false;
	if (seg_boot_id(boot_id) != BERTH_OK)
		return refuse(r, R_BACKEND, "cannot read /proc/sys/kernel/random/boot_id: %s", strerror(errno));
	hex(boot_id, t->boot_id);
	fd = openat(in->dir_fd, "root", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	*first = fd < 0 && errno == ENOENT;
	/* Only what is no root gives way to a new one: what cannot be looked at may be the one that readers use. */
	if (fd < 0 && errno != ENOENT && errno != ELOOP && errno != EISDIR && errno != ENXIO)
		return refuse_root(r, in, "open");
	if (fd >= 0 && fstat(fd, &st) != 0) {
		close(fd);
		return refuse_root(r, in, "fstat");
	}
	if (fd >= 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)SHM_PAGE && !(t->root = map_file(fd))) {
		close(fd);
		return refuse_root(r, in, "mmap");
	}
	if (fd >= 0)
		close(fd);
	other = t->root && !same_layout(t->root, boot_id);
	if (o->uuid && *o->uuid && !o->new_directory && o->boot_id && strcmp(o->boot_id, t->boot_id) == 0 &&
	    !(t->root && (same_uuid(t->root->uuid, o->uuid) || same_uuid(t->root->known_uuid, o->uuid)))) {
		root_close(t);
		return refuse(r, R_INVALID,
			      "the store served instance %s since this boot, and %s does not hold it: readers may "
			      "still route by the lost one. Give the old --dir, or, when no proxy uses it any more, "
			      "--new-directory",
			      o->uuid, in->path);
	}
	if (other && !o->durable && !o->new_directory && memcmp(t->root->boot_id, boot_id, 16) == 0) {
		refuse(r, R_BACKEND,
		       "%s/root is damaged, or of another layout (%u, %08x; this berthd has %u, %08x), and the store "
		       "keeps no copy of what lies there: start the berthd that made it, or, to give it up, this one "
		       "with --new-directory",
		       in->path, t->root->abi, t->root->fingerprint, SHM_ABI, SHM_FINGERPRINT);
		root_close(t);
		return R_BACKEND;
	}
	if (other) {
		/* No refusal of that root any more: readers of its layout stop admitting writes, and attach again. */
		atomic_store_explicit(&t->root->superseded, 1, memory_order_release);
		CRASH_POINT(superseded_stored);
		root_close(t);
	}
	if (!t->root) {
		enum refusal_code rc;

		*fresh = true;
		sweep(in);
		rc = root_make(t, boot_id, o->uuid, r);
		if (rc != R_DONE)
			return rc;
	}
	hex(t->root->uuid, t->uuid);
	memcpy(t->secret, t->root->secret, sizeof t->secret);
	return R_DONE;
}

void root_close(struct table *t)
{
	if (t->root)
		munmap(t->root, SHM_PAGE);
	t->root = NULL;
}
