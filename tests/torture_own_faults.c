/* SPDX-License-Identifier: MIT
 * torture.h: what a process does to itself, in its main thread, as programs do: forks with handles open, becomes another
 * program by exec and exits, with writes under way and inside a section; stands in a section while it is stopped and the
 * table grows; detaches and attaches again; attaches a second time, and a third. Must not use cmocka. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "torture.h"

#define STANDS_MS 20000u /* for the coordinator to come by */

/* ---- fork -------------------------------------------------------------------------------------------------- */

static void expect_forked(int rc, const char *call)
{
	if (rc != BERTH_E_FORKED)
		t_wrong("%s in a forked child is answered %s", call, berth_strerror(rc));
}

static _Noreturn void in_child(struct t_own *own, uint64_t dice)
{
	struct t_lane *me = t_main_lane(own);
	char key[READERS_KEY_SIZE];
	size_t len = t_key(key, 1);
	struct berth_write w = {0};
	struct berth_route at;

	expect_forked(berth_route(me->r, key, len, &at), "route");
	if (!t_read_only(own))
		expect_forked(berth_write_begin(me->r, key, len, 0, &w), "begin");
	if (me->n_held > 0)
		expect_forked(berth_write_end(me->r, &me->held[0].w, BERTH_DONE), "end");
	for (uint64_t i = dice % 100; i > 0; i--)
		mp_pause();
	if (dice % 3 == 0)
		execl("/bin/true", "true", (char *)NULL);
	_exit(0);
}

static void fork_once(struct t_own *own, pid_t *child)
{
	struct t_lane *me = t_main_lane(own);
	uint64_t dice = mp_random(&me->random);

	if (*child > 0)
		return;
	if (!t_read_only(own))
		t_begin_one(me);
	*child = fork();
	if (*child == 0)
		in_child(own, dice);
	t_count(&own->p->counts.forks);
	t_end_all(me, me);
}

/* ---- ends -------------------------------------------------------------------------------------------------- */

static void end_as(struct t_own *own, uint64_t dice)
{
	struct t_lane *me = t_main_lane(own);
	char key[READERS_KEY_SIZE];
	struct berth_placement p;
	bool inside = dice % 2, exits = dice / 2 % 2;

	if (!t_read_only(own))
		t_begin_one(me);
	if (inside) {
		berth_read_begin(me->r);
		(void)berth_lookup(me->r, key, t_key(key, (unsigned)(dice % T_PARTITIONS)), &p);
	}
	t_count(exits ? &own->p->counts.exits : &own->p->counts.execs);
	if (inside)
		t_count(&own->p->counts.ends_inside);
	atomic_store(&own->p->died_ms, mp_now_ms());
	if (exits)
		_exit(0);
	execl("/bin/sleep", "sleep", "0.2", (char *)NULL);
	t_wrong("no /bin/sleep");
	_exit(1);
}

/* ---- stops ------------------------------------------------------------------------------------------------- */

/* Finds one of the documents' that has an index: the next document makes its record free. */
static bool look_up_some(struct t_lane *me, struct berth_placement *p)
{
	char key[READERS_KEY_SIZE];

	for (unsigned i = 0; i < 100; i++) {
		size_t len = t_key(key, T_FIRST + (unsigned)(mp_random(&me->random) % T_SPAN));

		if (berth_lookup(me->r, key, len, p) == BERTH_OK && p->index_len > 0)
			return true;
	}
	return berth_lookup(me->r, key, t_key(key, 0), p) == BERTH_OK; /* the document is a small one */
}

/* The coordinator stops the process while it stands here, and a document is loaded meanwhile. What was handed out stays as
 * it is to the end of the section. */
static void stand_inside(struct t_own *own)
{
	struct t_lane *me = t_main_lane(own);
	uint64_t until = mp_now_ms() + STANDS_MS;
	struct berth_placement p;
	char before[64];

	berth_read_begin(me->r);
	if (look_up_some(me, &p)) {
		memcpy(before, p.index, strnlen(p.index, sizeof before - 1) + 1);
		atomic_store(&own->p->inside, T_INSIDE);
		while (atomic_load(&own->p->inside) != T_OUTSIDE && mp_now_ms() < until &&
		       !atomic_load(&t_shared->quiet))
			mp_pause();
		atomic_store(&own->p->inside, T_OUTSIDE);
		if (strcmp(p.index, before) != 0)
			t_wrong("INV-M4: index %s, handed out in a section, began with %02x %02x before its end",
				before, (unsigned char)p.index[0], (unsigned char)p.index[1]);
		t_count(&own->p->counts.stops_inside);
	}
	berth_read_end(me->r);
}

/* ---- storms ------------------------------------------------------------------------------------------------ */

/* A write under a lease of an attachment that is gone right afterwards. */
static void write_once(struct t_own *own, struct berth_reader *r, uint64_t dice)
{
	struct t_lane *me = t_main_lane(own);
	unsigned partition = (unsigned)(dice % T_PARTITIONS);
	char key[READERS_KEY_SIZE];
	size_t len = t_key(key, partition);
	struct berth_write w = {0};
	struct t_record *record;

	if (!t_room(own->p, me->number, 1) || berth_write_begin(r, key, len, 0, &w) != BERTH_OK)
		return;
	record = t_travels(own->p, me->number, partition, &w);
	if (record)
		t_ends(record, &w, 0);
	if (berth_write_end(r, &w, BERTH_DONE) != BERTH_OK)
		t_wrong("the end of a write of a second attachment is refused");
}

void t_storm(struct t_own *own)
{
	struct t_lane *me = t_main_lane(own);

	for (unsigned i = 0; i < 5; i++) {
		uint64_t dice = mp_random(&me->random);
		struct berth_attach_options options = {.size = sizeof options, .max_readers = 1 + (uint32_t)(dice % 8)};
		struct berth_reader *r = NULL;
		struct berth *b = NULL;
		int rc;

		options.writes = dice / 8 % 16 ? dice / 128 % 2 ? BERTH_WRITES_BRACKETED : BERTH_WRITES_NONE
					       : BERTH_WRITES_UNBRACKETED;
		options.max_leases = options.writes == BERTH_WRITES_BRACKETED ? 16 : 0;
		options.cursors = dice / 256 % 2 ? BERTH_CURSORS_PIN : 0;
		options.wait_ms = dice / 512 % 2 ? 0 : BERTH_NO_WAIT;
		rc = berth_attach(t_shared->dir, &options, &b);
		if (rc == BERTH_OK)
			rc = berth_reader_open(b, &r);
		if (rc != BERTH_OK)
			t_wrong("an attachment in a storm is answered %s", berth_strerror(rc));
		else if (options.writes == BERTH_WRITES_BRACKETED)
			write_once(own, r, dice / 1024);
		berth_reader_close(&r);
		rc = berth_detach(&b);
		if (rc != BERTH_OK)
			t_wrong("a detach in a storm is answered %s", berth_strerror(rc));
		t_count(&own->p->counts.storms);
	}
}

/* ---- one of them ------------------------------------------------------------------------------------------- */

bool t_own_fault(struct t_own *own, pid_t *child)
{
	uint64_t dice = mp_random(&t_main_lane(own)->random), which = dice % 100;

	if (which < 16)
		end_as(own, dice / 100);
	else if (which < 40)
		fork_once(own, child);
	else if (which < 55)
		stand_inside(own);
	else if (which < 70)
		t_storm(own);
	else
		return t_attach_again(own);
	return true;
}
