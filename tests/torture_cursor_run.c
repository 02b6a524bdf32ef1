/* SPDX-License-Identifier: MIT
 * torture_cursor.h: the run. Much room: calls on own and shared ids under all faults, then what happened to the shared ones
 * is judged. Then little room, in a new file of pins that the newest went over to. Coordinator, one thread; uses cmocka. */
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mp_place.h"
#include "torture_cursor.h"

#define CARRIED 800u /* pins that a new file of pins must take over, with C_LITTLE_ROOM */

static struct c_me keeper; /* the coordinator's own */

/* ---- the coordinator's own pins ---------------------------------------------------------------------------- */

static void keep(char set, unsigned number, unsigned cluster)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	struct berth_cursor name = c_name(buffer, set, 9, number, 1);
	uint64_t until = mp_now_ms() + 20000;
	int rc;

	do {
		c_keep_up(&keeper);
		rc = berth_cursor_pin(keeper.r, name.id, name.id_len, (uint16_t)cluster, name.owner, name.owner_len,
				      2 * C_LONG_MS, 3000);
	} while ((rc == BERTH_E_AGAIN || rc == BERTH_E_WRITER_DOWN) && mp_now_ms() < until);
	if (rc != BERTH_OK)
		fail_msg("pin of %.*s is answered %s", 20, buffer, berth_strerror(rc));
}

static void is_kept(char set, unsigned number, unsigned cluster)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	struct berth_cursor name = c_name(buffer, set, 9, number, 1);
	uint16_t found = 0;
	int rc = berth_cursor_resolve(keeper.r, name.id, name.id_len, name.owner, name.owner_len, 0, &found);

	if (rc != BERTH_OK || found != cluster)
		fail_msg("%.*s, pinned to %u and acknowledged, is answered %s, cluster %u", 20, buffer, cluster,
			 berth_strerror(rc), found);
}

static void release(char set, unsigned number)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	struct berth_cursor name = c_name(buffer, set, 9, number, 1);
	int rc = berth_cursor_release(keeper.r, name.id, name.id_len, name.owner, name.owner_len);

	if (rc != BERTH_OK)
		fail_msg("release of %.*s is answered %s", 20, buffer, berth_strerror(rc));
}

static void kill_and_start(void *unused)
{
	(void)unused;
	c_kill_daemon();
	c_start_daemon(0);
	c_faults.restarts++;
}

/* ---- phases ------------------------------------------------------------------------------------------------ */

static void until_done(const struct c_options *o, uint64_t ops, bool readers_too)
{
	uint64_t from = mp_now_ms(), until = from + 1000ull * (o->seconds ? o->seconds : 600);

	atomic_store(&c_shared->quiet, 0);
	atomic_store(&c_shared->ops, 0);
	atomic_store(&c_shared->most_ops, ops);
	c_start_processes();
	while (atomic_load(&c_shared->ops) < ops && mp_now_ms() < until) {
		c_keep_up(&keeper);
		c_step(readers_too);
	}
	if (atomic_load(&c_shared->ops) < ops && o->seconds == 0)
		fail_msg("%llu calls are not done within 600 s", (unsigned long long)ops);
	atomic_store(&c_shared->quiet, 1);
	for (until = mp_now_ms() + 30000; !c_all_quiet(); c_step(false))
		if (mp_now_ms() > until)
			fail_msg("the processes do not get quiet within 30 s");
	c_end_processes();
	printf("note: %s room: %llu calls in %.1f s\n", readers_too ? "much" : "little",
	       (unsigned long long)(atomic_load(&c_shared->ops) < ops ? atomic_load(&c_shared->ops) : ops),
	       (double)(mp_now_ms() - from) / 1000);
}

static uint64_t count(unsigned kind, unsigned outcome)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < C_PROCESSES; i++)
		n += atomic_load(&c_shared->processes[i].counts[kind][outcome]);
	return n;
}

#define SUM(member) \
	(atomic_load(&c_shared->processes[0].member) + atomic_load(&c_shared->processes[1].member) + \
	 atomic_load(&c_shared->processes[2].member) + atomic_load(&c_shared->processes[3].member))

static void print_counts(const struct c_judged *j)
{
	static const char *const kinds[C_KINDS] = {"pin",     "async pin",           "release",
						   "resolve", "resolve (of a bulk)", "len"};

	for (unsigned k = 0; k < C_KINDS; k++) {
		printf("note: %s:", kinds[k]);
		for (unsigned o = 0; o < C_OUTCOMES; o++)
			printf(" %s %llu%s", c_text(o), (unsigned long long)count(k, o),
			       o + 1 < C_OUTCOMES ? "," : "\n");
	}
	printf("note: daemon killed %llu times, started again %llu times, stopped %llu times; processes killed %llu "
	       "times, paused %llu times; refused removals of a cluster %llu, documents %llu\n",
	       (unsigned long long)c_faults.kills, (unsigned long long)c_faults.restarts,
	       (unsigned long long)c_faults.stops, (unsigned long long)c_faults.departures,
	       (unsigned long long)c_faults.pauses, (unsigned long long)c_faults.removals,
	       (unsigned long long)c_faults.documents);
	printf("note: own ids: long pins found %llu, ends narrowed down %llu, asked right at a known end %llu, "
	       "releases "
	       "done twice over a kill %llu, answers without a model (after a kill in the middle of noting) %llu\n",
	       (unsigned long long)SUM(long_found), (unsigned long long)SUM(narrowed), (unsigned long long)SUM(at_end),
	       (unsigned long long)SUM(redone), (unsigned long long)SUM(vague));
	printf("note: shared ids: %llu, events %llu; found and explained %llu, not owner %llu, absent %llu; ids whose "
	       "calls "
	       "have an order %llu, too many to tell %llu\n",
	       (unsigned long long)j->ids, (unsigned long long)j->events, (unsigned long long)j->found,
	       (unsigned long long)j->not_owner, (unsigned long long)j->certain, (unsigned long long)j->ordered,
	       (unsigned long long)j->too_many);
	printf("note: little room: pins found that were among the last 200 that must be there: %llu\n",
	       (unsigned long long)SUM(last_pinned));
	printf("note: wrong %u (must be 0)\n", atomic_load(&c_shared->wrong));
}

static void open_keeper(void)
{
	memset(&keeper, 0, sizeof keeper);
	keeper.p = &c_shared->processes[0];
	keeper.random = c_shared->seed;
	if (!c_attach(&keeper))
		c_check();
}

void c_run(struct mp_place *place, const struct c_options *o)
{
	struct c_judged judged;

	printf("note: seed %llu, store %s, %llu calls\n", (unsigned long long)o->seed, o->store,
	       (unsigned long long)o->ops);
	fflush(stdout);
	c_shared->seed = o->seed;
	c_shared->began_ns = c_ms() * 1000000; /* so that what is told in ms compares */
	snprintf(c_shared->dir, sizeof c_shared->dir, "%s", place->d.dir);
	for (unsigned i = 0; i < C_PROCESSES; i++)
		for (unsigned k = 0; k < C_OWN; k++)
			c_shared->processes[i].own[k].now.n = 1;
	/* Less than half of all calls are on shared ids. */
	c_shared->room = (unsigned)(C_PROCESSES * C_OWN + o->ops / 2 / C_WINDOW_STEP + 2 * C_WINDOW);
	c_faults_open(place, o->seed, c_shared->room);
	open_keeper();
	keep('k', 2, C_CLUSTERS + 1);
	until_done(o, o->ops, true);
	is_kept('k', 2, C_CLUSTERS + 1);
	c_cluster_is_held(true);
	release('k', 2);
	c_cluster_is_held(false);
	if (!c_judge(&judged))
		c_check();
	if (judged.found == 0 || judged.not_owner == 0 || judged.certain == 0)
		fail_msg("nothing happened to the shared ids");

	for (unsigned i = 0; i < CARRIED; i++)
		keep('c', i, 1 + i % C_CLUSTERS);
	c_kill_daemon();
	c_start_daemon(C_LITTLE_ROOM);
	for (unsigned i = 0; i < CARRIED; i++)
		is_kept('c', i, 1 + i % C_CLUSTERS);
	atomic_store(&c_shared->phase, C_SMALL_ROOM);
	until_done(o, o->small_ops, false);
	c_small_exact(&keeper, C_LITTLE_ROOM, kill_and_start, NULL);
	c_check();
	c_leave(&keeper);
	print_counts(&judged);
}
