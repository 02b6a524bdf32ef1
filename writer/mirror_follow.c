/* SPDX-License-Identifier: MIT
 * How the table keeps its mirror for packet programs (bpf/mirror.h) true over starts and growths. The stores of a change
 * are in change.c, the compare in mirror_compare.c. Control thread only.
 *
 *   start   root -> mirror opened -> new generation's mirror filled -> suspend -> the table flips -> swap -> enable
 *   growth  next's mirror made (the mirror's thread) -> filled with the copy -> seal -> swap (the thread), changes to both
 *           -> the table flips -> enable
 *
 * The mirror of a dead writer goes on answering until the suspend: the table that it mirrors is what readers read. In a
 * growth there is no suspend: both mirrors say the same, or pass, until no program uses the old one.
 *
 * The file `mirrored` in the instance's directory says that packet programs may answer by the mirror of a root: its uuid and
 * the boot. It is there before the first enable, outlives the root, and goes when no mirror is left; a writer that finds
 * it, and no pins, looks for that mirror everywhere, does not start when it may not, and takes it that programs were
 * writing until then. Where it is not, no mirror ever answered, and a writer that may not look at the pins starts.
 *
 * A mirror that cannot follow (memory, a refused call) is off for good: the table goes on without it, and why is told. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lease_book.h"
#include "packet_leases.h"
#include "table_internal.h"

/* ---- telling ---- */

struct mirror *table_mirror(const struct table *t)
{
	return t->mirror;
}

const char *table_mirror_off(const struct table *t)
{
	return t->mirror_off[0] ? t->mirror_off : NULL;
}

uint64_t table_mirror_bytes(const struct table *t)
{
	return mirror_table_bytes(t->now->mirror);
}

static void off_for_good(struct table *t, const char *what, const char *why)
{
	snprintf(t->mirror_off, sizeof t->mirror_off,
		 "%s: %s; restart berthd, with more memory and the capability CAP_BPF", what, why);
}

/* A mirror went, and nobody can say what programs had under way, nor whether one wrote without leases. */
static void lost(struct registry *registry)
{
	uint64_t now_ms = registry_now(registry);

	lease_book_overflow(registry_book(registry), now_ms, PACKET_PROGRAM);
	lease_book_unbracketed_left(registry_book(registry), now_ms);
}

static void left(void *registry, const struct mirror_control *control, const struct mirror_lease *leases)
{
	if (leases)
		packet_leases_left(registry, control, leases);
	else
		lost(registry);
}

/* ---- a start ---- */

void mirrored_open(struct table *t, bool wanted)
{
	const struct mirror_left farewell = {left, t->registry};

	if (wanted)
		t->mirror_found = mirror_open(t->instance->path, t->root->uuid, t->secret, &farewell, &t->mirror,
					      t->mirror_off, sizeof t->mirror_off) == 1;
	else
		snprintf(t->mirror_off, sizeof t->mirror_off, "not asked for (--bpf)");
}

void mirrored_begin(struct table *t, struct generation *g)
{
	if (!t->mirror)
		return;
	g->mirror = mirror_table_make(t->mirror, g->map.generation, g->map.capacity, g->map.n_entries);
	if (!g->mirror)
		off_for_good(t, "the mirror of the table cannot be made", strerror(errno));
}

#define MARK "mirrored"

/* For whose root it is, in uuid: this one's or, when a new one was made since, the one's before. False: for none. */
static bool marked(const struct table *t, uint8_t uuid[16])
{
	char text[2 * 33 + 1] = "";
	uint8_t marks[16];
	int fd = openat(t->instance->dir_fd, MARK, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t n;

	memcpy(uuid, t->root->uuid, 16);
	if (fd < 0) /* without a descriptor to spare, the name tells */
		return faccessat(t->instance->dir_fd, MARK, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n != (ssize_t)sizeof text - 1) /* whoever wrote it was killed, and had this root */
		return true;
	for (unsigned i = 0; i < 16; i++)
		if (sscanf(text + 2 * i, "%2hhx", &marks[i]) != 1)
			return true;
	if (strncmp(text + 33, t->boot_id, 32) != 0) /* no mirror outlives a boot */
		return false;
	memcpy(uuid, marks, 16);
	return true;
}

static int mark(const struct table *t)
{
	char text[2 * 33 + 1];
	int n = snprintf(text, sizeof text, "%s %s\n", t->uuid, t->boot_id);
	int fd = openat(t->instance->dir_fd, MARK, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	bool written = fd >= 0 && write(fd, text, (size_t)n) == n;

	return fd < 0 || close(fd) != 0 || !written ? -1 : 0;
}

/* The mirror of this root, when it is not where it was, or there is another one. */
static enum refusal_code find_stray(struct table *t, const uint8_t uuid[16], struct refusal *r)
{
	bool found = t->mirror_found && (!t->mirror || memcmp(uuid, t->root->uuid, 16) == 0);
	int rc = mirror_stray(t->mirror, uuid);

	if (rc < 0 && !found)
		return refuse(r, R_BACKEND,
			      "packet programs may answer by a mirror of this table that is pinned no more, and berthd "
			      "cannot look for it: %s; start it as root once, or unload them and remove %.256s/" MARK,
			      strerror(errno), t->instance->path);
	if (rc == 1 || !found)
		lost(t->registry);
	return R_DONE;
}

enum refusal_code mirrored_suspend(struct table *t, struct refusal *r)
{
	const struct mirror_left farewell = {left, t->registry};
	uint8_t uuid[16];
	bool any = marked(t, uuid);
	char text[400];

	if (!t->mirror) {
		int rc = mirror_withdraw(t->instance->path, uuid, &farewell, text, sizeof text);

		/* Where it may not look and none was ever let answer, there is none. */
		if (rc < 0 && (any || (errno != EACCES && errno != EPERM)))
			return refuse(r, R_BACKEND, "%s", text);
		t->mirror_found = rc == 1;
	}
	if (any && find_stray(t, uuid, r) != R_DONE)
		return R_BACKEND;
	if (!t->mirror) {
		unlinkat(t->instance->dir_fd, MARK, 0);
		return R_DONE;
	}
	if (mirror_suspend(t->mirror) != 0)
		return refuse(r, R_BACKEND,
			      "packet programs may still answer by the last table, and the kernel does not wait for "
			      "them: %s; start berthd again, or unload them",
			      strerror(errno));
	for (unsigned n = 1; n <= SHM_CLUSTERS_MAX; n++) {
		const struct shm_cluster *c = table_cluster(t, n);

		mirror_cluster_set(t->mirror, n, c ? cluster_endpoint(c) : NULL);
	}
	return R_DONE;
}

void mirrored_start(struct table *t)
{
	if (t->now->mirror && (mark(t) != 0 || mirror_swap(t->mirror, t->now->mirror) != 0)) {
		off_for_good(t, "packet programs cannot be given the mirror of the table", strerror(errno));
		mirror_table_drop(&t->now->mirror);
	}
	mirrored_enable(t);
}

void mirrored_enable(struct table *t)
{
	if (t->now->mirror)
		mirror_enable(t->mirror, t->now->map.termgen);
}

/* ---- a growth ---- */

void mirrored_grow(struct table *t)
{
	const struct seg_map *m = &t->next->map;

	if (!t->now->mirror || mirror_is_off(t->mirror))
		return;
	mirror_make_start(t->mirror, m->generation, m->capacity, m->n_entries);
	t->mirror_making = true;
}

bool mirrored_grown(struct table *t, bool wait)
{
	int rc;

	if (!t->mirror_making)
		return true;
	if (wait)
		mirror_wait(t->mirror);
	rc = mirror_make_done(t->mirror, &t->next->mirror);
	if (rc == 0)
		return false;
	t->mirror_making = false;
	if (rc < 0)
		off_for_good(t, "the mirror of a larger table cannot be made", strerror(errno));
	return true;
}

void mirrored_swap(struct table *t)
{
	if (t->next->mirror)
		mirror_swap_start(t->mirror, t->next->mirror);
}

bool mirrored_swapped(struct table *t, bool wait)
{
	int rc;

	if (!t->next->mirror)
		return true;
	if (wait)
		mirror_wait(t->mirror);
	rc = mirror_swap_done(t->mirror);
	if (rc < 0) {
		off_for_good(t, "packet programs cannot be given the mirror of a larger table", strerror(errno));
		mirror_table_drop(&t->next->mirror);
	}
	return rc != 0;
}

void mirrored_rest(struct table *t)
{
	(void)!mirrored_grown(t, true);
	if (t->growth == GROW_SWAP && t->next->mirror)
		mirror_wait(t->mirror);
}

void mirrored_give_up(struct table *t)
{
	if (t->growth != GROW_SWAP || !t->next->mirror)
		return;
	/* Programs may have gone over to a mirror that nobody will store into. */
	if (mirror_switch_off(t->mirror) == 0)
		mirror_table_drop(&t->now->mirror);
	off_for_good(t, "packet programs had gone over to the mirror of a larger table", "the table could not follow");
}

void mirrored_age(struct table *t)
{
	if (!t->now->mirror)
		return;
	t->now->programs_aged = mirror_aged(t->now->mirror);
	mirror_age(t->mirror, t->now->aged_epoch);
}
