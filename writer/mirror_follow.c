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
 * The file `mirrored` (mirror_mark.h) says by which mirror packet programs may answer: a writer that finds it, and not that
 * mirror, looks for it everywhere, does not start when it may not, and takes it that programs were writing until then. A
 * mirror that goes while leases are open in it is a past one (bpf/mirror_past.c), which the drain looks at until they have
 * ended; the file outlives those too.
 *
 * A mirror that cannot follow (memory, a refused call) is off for good: the table goes on without it, and why is told. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "lease_book.h"
#include "log.h"
#include "mirror_mark.h"
#include "packet_leases.h"
#include "table_internal.h"

/* ---- telling ---- */

struct mirror *table_mirror(const struct table *t)
{
	return t->mirror;
}

const struct mirror_past *table_mirror_pasts(const struct table *t)
{
	return t->pasts;
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

/* G1 of mirror_mark.h. */
static int left(void *arg, uint32_t id, const struct mirror_control *control, const struct mirror_lease *leases,
		bool kept)
{
	struct table *t = arg;
	struct mirror_mark m;

	if (leases) { /* another root's hashes are by another secret: what is open there says nothing here */
		kept = kept && memcmp(control->uuid, t->root->uuid, sizeof control->uuid) == 0;
		if (!kept && mirror_any_open(control, leases))
			log_event(LEVEL_WARN, "leases-not-kept", LOG_N("mirror", id),
				  LOG_S("message",
					"packet programs have writes under way by a mirror that goes, and so many "
					"mirrors went before it, or their root did, that they are not looked at: every "
					"migration waits for the barrier once; end those programs"));
		packet_leases_left(t->registry, control, leases, kept);
	} else {
		lost(t->registry);
	}
	m = mirror_mark_read(t);
	if (m.there && m.error) {
		errno = m.error;
		return -1;
	}
	return m.there && m.id == id ? mirror_mark_write(t, m.uuid, MIRROR_SILENT) : 0;
}

/* ---- mirrors that went ---- */

static bool any_past(const struct table *t)
{
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		if (t->pasts[i].control)
			return true;
	return false;
}

/* Finds what is still open in mirrors that went; uuid: of the root that there may be some of. */
static enum refusal_code pasts_find(struct table *t, const uint8_t uuid[16], bool any, struct refusal *r)
{
	const char *name = t->instance->path;

	mirror_pasts_clean(name, t->mirror);
	if (memcmp(uuid, t->root->uuid, 16) != 0) {
		(void)mirror_pasts_open(name, uuid, t->pasts); /* what hinders it, hinders the one below */
		for (unsigned i = 0; i < MIRROR_PASTS; i++)
			mirror_past_forget(name, t->pasts, i);
	}
	if (mirror_pasts_open(name, t->root->uuid, t->pasts) < 0 && (any || (errno != EACCES && errno != EPERM)))
		return refuse(
			r, R_BACKEND,
			"packet programs have writes under way by a mirror that went, and berthd cannot see whether "
			"they have ended: %s; start it as root, or with CAP_BPF as the owner of the pins past-* of "
			"the instance in /sys/fs/bpf/berth",
			strerror(errno));
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		if (t->pasts[i].control && !t->pasts[i].leases) {
			lost(t->registry);
			mirror_past_forget(name, t->pasts, i);
		}
	return R_DONE;
}

#define PASTS_MS 1000

/* Lets those go in which nothing is open any more. */
static void pasts_over(struct table *t)
{
	uint64_t now_ms = registry_now(t->registry);

	if (now_ms < t->pasts_ms || !any_past(t))
		return;
	t->pasts_ms = now_ms + PASTS_MS;
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		if (t->pasts[i].control && packet_leases_over(t->registry, &t->pasts[i]))
			mirror_past_forget(t->instance->path, t->pasts, i);
	if (!t->mirror && !any_past(t)) {
		unlinkat(t->instance->dir_fd, MIRROR_MARK, 0);
		CRASH_POINT(mark_removed_with_past);
	}
}

/* ---- a start ---- */

void mirrored_open(struct table *t, bool wanted)
{
	const struct mirror_left farewell = {left, t};

	if (wanted)
		mirror_open(t->instance->path, t->root->uuid, t->secret, &farewell, &t->mirror, t->mirror_off,
			    sizeof t->mirror_off);
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

/* The mirror that programs may answer by, when it is not the one that this writer has. */
static enum refusal_code find_stray(struct table *t, const struct mirror_mark *m, struct refusal *r)
{
	if (!m->there || m->id == MIRROR_SILENT || (t->mirror && m->id == mirror_id(t->mirror)))
		return R_DONE;
	if (mirror_stray(t->mirror, m->uuid) < 0)
		return refuse(
			r, R_BACKEND,
			"packet programs may answer by a mirror of this table that is pinned no more, and berthd "
			"cannot look for it: %s; start it as root once, or unload them and remove %.256s/" MIRROR_MARK,
			strerror(errno), t->instance->path);
	lost(t->registry);
	(void)!mirror_mark_write(t, m->uuid, MIRROR_SILENT); /* else the next one looks again */
	return R_DONE;
}

enum refusal_code mirrored_suspend(struct table *t, struct refusal *r)
{
	const struct mirror_left farewell = {left, t};
	struct mirror_mark m = mirror_mark_read(t);
	char text[400];

	if (!t->mirror) {
		int rc = mirror_withdraw(t->instance->path, m.uuid, &farewell, text, sizeof text);

		/* Where it may not look and none was ever let answer, there is none. */
		if (rc < 0 && (m.there || (errno != EACCES && errno != EPERM)))
			return refuse(r, R_BACKEND, "%s", text);
		m = mirror_mark_read(t); /* silent by now, if that was its mirror */
	}
	if (pasts_find(t, m.uuid, m.there, r) != R_DONE || find_stray(t, &m, r) != R_DONE)
		return R_BACKEND;
	if (!t->mirror) {
		if (!any_past(t))
			unlinkat(t->instance->dir_fd, MIRROR_MARK, 0);
		CRASH_POINT(mark_removed);
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
	uint32_t id = t->now->mirror ? mirror_id(t->mirror) : 0;

	if (t->now->mirror &&
	    (!id || mirror_mark_write(t, t->root->uuid, id) != 0 || mirror_swap(t->mirror, t->now->mirror) != 0)) {
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
	pasts_over(t);
	if (!t->now->mirror)
		return;
	t->now->programs_aged = mirror_aged(t->now->mirror);
	mirror_age(t->mirror, t->now->aged_epoch);
}
