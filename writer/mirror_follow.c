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
 * The file `mirrored` in the instance's directory says that packet programs may answer by a mirror of this root. It is there
 * before the first enable, and goes when no mirror is left; a writer that finds it, and no pins, looks for that mirror
 * everywhere, and does not start when it may not.
 *
 * A mirror that cannot follow (memory, a refused call) is off for good: the table goes on without it, and why is told. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

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

static void left(void *registry, const struct mirror_control *control, const struct mirror_lease *leases)
{
	packet_leases_left(registry, control, leases);
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

/* A mirror that is not where it was. */
static enum refusal_code find_stray(struct table *t, struct refusal *r)
{
	if (t->mirror_found || faccessat(t->instance->dir_fd, MARK, F_OK, AT_SYMLINK_NOFOLLOW) != 0 ||
	    mirror_stray(t->mirror, t->root->uuid) == 0)
		return R_DONE;
	return refuse(
		r, R_BACKEND,
		"packet programs may answer by a mirror of this table that is pinned no more, and berthd cannot look "
		"for it: %s; start it as root once, or unload them and remove %.256s/" MARK,
		strerror(errno), t->instance->path);
}

static int mark(const struct table *t)
{
	int fd = openat(t->instance->dir_fd, MARK, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);

	return fd < 0 ? -1 : close(fd);
}

enum refusal_code mirrored_suspend(struct table *t, struct refusal *r)
{
	const struct mirror_left farewell = {left, t->registry};
	char text[400];

	if (!t->mirror) {
		int rc = mirror_withdraw(t->instance->path, t->root->uuid, &farewell, text, sizeof text);

		if (rc < 0)
			return refuse(r, R_BACKEND, "%s", text);
		t->mirror_found = rc == 1;
		if (find_stray(t, r) != R_DONE)
			return R_BACKEND;
		unlinkat(t->instance->dir_fd, MARK, 0);
		return R_DONE;
	}
	if (find_stray(t, r) != R_DONE)
		return R_BACKEND;
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
	mirror_switch_off(t->mirror);
	off_for_good(t, "packet programs had gone over to the mirror of a larger table", "the table could not follow");
}

void mirrored_age(struct table *t)
{
	if (!t->now->mirror)
		return;
	t->now->programs_aged = mirror_aged(t->now->mirror);
	mirror_age(t->mirror, t->now->aged_epoch);
}
