/* SPDX-License-Identifier: MIT
 * History beyond what is kept goes in pieces, one after the other, without waiting for a change. */
#include "core_place.h"

#include <sqlite3.h>
#include <stdio.h>

#define OLD 3000u /* events that are to go: more than one piece */
#define KEPT 1000000u

static void sql(struct core_place *p, const char *text)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(p->argument, &db), SQLITE_OK);
	if (sqlite3_exec(db, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) ||
	    sqlite3_exec(db, text, NULL, NULL, NULL))
		fail_msg("%s: %s", text, sqlite3_errmsg(db));
	sqlite3_close(db);
}

static int count(void *arg, const struct store_event *e)
{
	(void)e;
	++*(unsigned *)arg;
	return 0;
}

static unsigned n_old(struct core_place *p)
{
	unsigned n = 0;
	const struct store_visitor visitor = {.event = count, .arg = &n};

	assert_int_equal(core_history(p->core, "old", 3, 10 * OLD, &visitor, &p->r), 0);
	return n;
}

static void old_events_go_one_piece_after_the_other(void **state)
{
	struct core_place *p = *state;
	unsigned before, n, pieces = 0;
	uint64_t wait;
	char text[400];

	down(p);
	snprintf(text, sizeof(text),
		 "DELETE FROM history;"
		 "INSERT INTO history WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%u) "
		 "SELECT i,1,1,'','set','old','',0 FROM n;"
		 "INSERT INTO history VALUES(%u,1,1,'','set','new','',0)",
		 OLD, OLD + KEPT);
	sql(p, text);
	up(p);
	while (core_step(p->core, 1000) == 0)
		;
	assert_int_equal(n_old(p), OLD);
	done(p, OP_SET, "p", on("c1")); /* the only change */
	core_step(p->core, 1000);
	assert_int_equal(n_old(p), OLD); /* the daemon is not idle yet */
	p->now_ms += 10000;
	for (before = OLD; before; before = n) {
		wait = core_step(p->core, 1000);
		n = n_old(p);
		if (n == before || ++pieces > OLD)
			fail_msg("%u of %u old events are left, and stay", n, OLD);
		assert_true(before - n < OLD / 2); /* a piece: the sockets are served in between */
		assert_true(wait > 0 && wait <= 1000);
		assert_int_equal(core_step(p->core, 1000) == 0, 0); /* not due: it does nothing */
		assert_int_equal(n_old(p), n);
		p->now_ms += wait;
	}
	printf("note: %u events went in %u pieces\n", OLD, pieces);
	core_step(p->core, 1000); /* finds nothing */
	p->now_ms += 1;
	assert_true(core_step(p->core, 1000) > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON(old_events_go_one_piece_after_the_other, store_sqlite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
