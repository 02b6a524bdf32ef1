/* SPDX-License-Identifier: MIT
 * torture_crash.h: scenes of changes: placements, migrations, documents, growth, on each store, with a mirror and without.
 * Partitions below STANDING are always there; the others come and go. */
#include "torture_crash.h"

#include <stdio.h>
#include <unistd.h>

#define STANDING 8u
#define GROWING_FIRST 40u
#define GROWING 110u
#define IDLE_MS 11000u

static void stand(struct crash *c)
{
	for (unsigned k = 1; k <= 4; k++)
		cr_cluster(c, k, "http://10.0.0.1:9200");
	for (unsigned i = 0; i < STANDING; i++)
		cr_set(c, i, 1 + i % 2, false);
	cr_set(c, 10, 1, false);
	cr_remove(c, 10);
	cr_await_rest(c);
}

/* ---- single placements ------------------------------------------------------------------------------------- */

/* Partitions that have no placement would be answered by it: readers ask for the others alone meanwhile. */
static void defaults(struct crash *c)
{
	if (c->readers.n) {
		atomic_store(&c->readers.s->n_keys, STANDING);
		readers_await(&c->readers, 3, 20000);
	}
	cr_default(c, 1);
	cr_default(c, 2);
	cr_default(c, 0);
	if (c->readers.n)
		atomic_store(&c->readers.s->n_keys, CR_KEYS);
}

static void new_partition(struct crash *c)
{
	cr_set(c, 10, 1, false);
	cr_set(c, 16, 2, false); /* a key with a record of its own */
}

static void placed_anew(struct crash *c)
{
	cr_set(c, 10, 1, true);
	cr_set(c, 10, 2, true);
	cr_set(c, 16, 2, true);
}

static void set_of_many(struct crash *c)
{
	cr_set_many(c, 20, 16, 1);
}

static void removals(struct crash *c)
{
	for (unsigned i = 8; i < GROWING_FIRST; i++)
		if (c->cells[i].state)
			cr_remove(c, i);
	cr_await_rest(c);
}

static void slot_used_again(struct crash *c)
{
	cr_set(c, 10, 1, false); /* its own tombstone */
	cr_remove(c, 10);
	cr_await_rest(c);
	for (unsigned i = 8; i < 14; i++)
		cr_set(c, i, 2, false);
	removals(c);
}

static void clusters(struct crash *c)
{
	cr_cluster(c, 5, "http://10.0.0.5:9200");
	cr_cluster(c, 5, "http://10.0.0.6:9201");
	cr_cluster(c, 5, NULL);
	cr_cluster(c, 4, "https://[fe80::1]:9243");
	cr_cluster(c, 4, "http://10.0.0.1:9200");
	cr_await_rest(c);
}

/* What is reserved is given back: the file is not where it was when the change is to be committed. */
static void store_away(struct crash *c)
{
	char at[128], away[128];
	json_t *answer;

	snprintf(at, sizeof at, "%s/store.db", c->d->home);
	snprintf(away, sizeof away, "%s/away.db", c->d->home);
	for (;;) {
		assert_int_equal(rename(at, away), 0);
		answer = cr_ask(c, "set",
				json_pack("{s:s, s:{s:s, s:s}}", "partition", "nobody-is-placed", "placement", "mode",
					  "dedicated-cluster", "cluster", "c1"),
				-1);
		assert_int_equal(rename(away, at), 0);
		if (answer)
			break;
		cr_settle(c);
	}
	answer_expect_refused(answer, "backend");
	cr_settle(c);
}

/* ---- migrations -------------------------------------------------------------------------------------------- */

static unsigned other(const struct crash *c, unsigned key)
{
	return 1 + c->cells[key].cluster % 3;
}

static void begins(struct crash *c)
{
	cr_begin(c, 3, other(c, 3));
	cr_begin(c, 0, other(c, 0));
	cr_begin(c, 1, other(c, 1));
}

static void cutovers(struct crash *c)
{
	cr_cutover(c, 3);
	cr_cutover(c, 0);
}

static void restart_with_cutovers(struct crash *c)
{
	cr_restart(c);
}

static void complete_behind_the_barrier(struct crash *c)
{
	while (!cr_complete(c, 3, false, 5 * CR_BARRIER))
		;
}

static void complete_forced(struct crash *c)
{
	assert_true(cr_complete(c, 0, true, 0));
}

static void aborts(struct crash *c)
{
	cr_abort(c, 1); /* while draining */
	cr_begin(c, 2, other(c, 2));
	cr_cutover(c, 2);
	cr_abort(c, 2);
	cr_await_rest(c);
}

/* ---- starts ------------------------------------------------------------------------------------------------ */

static void restart(struct crash *c)
{
	cr_stop(c);
	cr_settle(c);
	cr_await_rest(c);
}

static void takeover(struct crash *c)
{
	cr_takeover(c);
	cr_await_rest(c);
}

static const struct cr_step placements[] = {{"default", defaults, CR_PLAIN},
					    {"set", new_partition, CR_PLAIN},
					    {"set again", placed_anew, CR_PLAIN},
					    {"set of many", set_of_many, CR_PLAIN},
					    {"remove", removals, CR_PLAIN},
					    {"a slot used again", slot_used_again, CR_PLAIN},
					    {"clusters", clusters, CR_PLAIN},
					    {"restart", restart, CR_PLAIN},
					    {NULL, NULL, CR_PLAIN}};
static const struct cr_step takeovers[] = {{"takeover", takeover, CR_AGAIN}, {NULL, NULL, CR_PLAIN}};
static const struct cr_step placements_kept[] = {
	{"default", defaults, CR_PLAIN},        {"set", new_partition, CR_PLAIN}, {"set again", placed_anew, CR_PLAIN},
	{"set of many", set_of_many, CR_PLAIN}, {"remove", removals, CR_PLAIN},   {"clusters", clusters, CR_PLAIN},
	{"store away", store_away, CR_PLAIN},   {"restart", restart, CR_PLAIN},   {NULL, NULL, CR_PLAIN}};
static const struct cr_step migrations[] = {{"begin", begins, CR_PLAIN},
					    {"cutover", cutovers, CR_PLAIN},
					    {"restart with cutovers", restart_with_cutovers, CR_AGAIN},
					    {"complete behind the barrier", complete_behind_the_barrier, CR_PLAIN},
					    {"complete, forced", complete_forced, CR_PLAIN},
					    {"abort", aborts, CR_PLAIN},
					    {NULL, NULL, CR_PLAIN}};

/* ---- idle ---- */

/* What the store does after ten seconds without a change, when its log has grown (1024 pages). */
static void idle(struct crash *c)
{
	for (unsigned i = 0; i < 300; i++)
		cr_set(c, 1, 1 + i % 2, true);
	for (uint64_t until = mp_now_ms() + IDLE_MS; mp_now_ms() < until; mp_pause())
		if (cr_dead(c, false)) {
			cr_settle(c);
			return;
		}
}

static const struct cr_step idling[] = {{"idle", idle, CR_ONLY_MISSING}, {NULL, NULL, CR_PLAIN}};

/* ---- documents --------------------------------------------------------------------------------------------- */

static void document_plain(struct crash *c)
{
	cr_load(c, &(struct cr_document){
			   .first = 16, .n = 12, .cluster = 1, .made_cluster = 6, .endpoint = "http://10.0.0.7:9200"});
}

static void document_again(struct crash *c)
{
	cr_load(c, &(struct cr_document){.first = 16, .n = 12, .cluster = 1});
}

static void document_overrides(struct crash *c)
{
	cr_set(c, 20, 2, true);
	cr_load(c, &(struct cr_document){.first = 16, .n = 12, .cluster = 1, .override = true});
}

static void document_prunes(struct crash *c)
{
	cr_load(c, &(struct cr_document){.first = 16, .n = 4, .cluster = 1, .gone = 20, .n_gone = 8});
}

/* Prunes all that a document has named, so that nothing of it is remembered. */
static void document_ends(struct crash *c)
{
	cr_load(c, &(struct cr_document){.gone = 16, .n_gone = 4});
	cr_cluster(c, 6, NULL);
}

static const struct cr_step documents[] = {{"load", document_plain, CR_PLAIN},
					   {"load again", document_again, CR_PLAIN},
					   {"load, override", document_overrides, CR_PLAIN},
					   {"load, prune", document_prunes, CR_PLAIN},
					   {"remove after a document", document_ends, CR_PLAIN},
					   {NULL, NULL, CR_PLAIN}};

/* ---- growth ------------------------------------------------------------------------------------------------ */

static void grow(struct crash *c)
{
	cr_set_many(c, GROWING_FIRST, GROWING, 2);
	for (unsigned i = 24; i < 36; i++) /* beside what may grow on */
		cr_set(c, i, 1, false);
	cr_await_rest(c);
}

static void grow_one_by_one(struct crash *c)
{
	for (unsigned i = GROWING_FIRST; i < GROWING_FIRST + GROWING; i++)
		if (!c->cells[i].state)
			cr_set(c, i, 1, false);
	cr_await_rest(c);
}

static void shrink(struct crash *c)
{
	for (unsigned i = STANDING; i < GROWING_FIRST + GROWING; i++)
		if (c->cells[i].state)
			cr_remove(c, i);
	cr_restart(c);
	cr_await_rest(c);
}

static void grow_by_document(struct crash *c)
{
	cr_load(c, &(struct cr_document){.first = GROWING_FIRST, .n = GROWING, .cluster = 1, .override = true});
	cr_await_rest(c);
}

static void shrink_by_document(struct crash *c)
{
	cr_load(c, &(struct cr_document){.gone = GROWING_FIRST, .n_gone = GROWING});
	cr_restart(c);
	cr_await_rest(c);
}

static const struct cr_step growth[] = {{"growth by a batch", grow, CR_PLAIN},
					{"growth one by one", grow_one_by_one, CR_PLAIN},
					{"a smaller table", shrink, CR_PLAIN},
					{"growth by a document", grow_by_document, CR_PLAIN},
					{"a smaller table again", shrink_by_document, CR_PLAIN},
					{NULL, NULL, CR_PLAIN}};

#define BARRIER_TEXT_(n) #n
#define BARRIER_TEXT(n) BARRIER_TEXT_(n)
#define BARRIER "--barrier-ms", BARRIER_TEXT(CR_BARRIER)
const struct cr_scene cr_change_scenes[] = {
	{"placements, memory", "memory", 1, false, stand, NULL, placements, {BARRIER}},
	{"placements, sqlite", "sqlite", 1, false, stand, NULL, placements_kept, {BARRIER}},
	{"placements, memory, mirror", "memory", 1, true, stand, NULL, placements, {BARRIER, "--bpf"}},
	{"takeovers, sqlite", "sqlite", 1, false, stand, NULL, takeovers, {BARRIER}},
	{"takeovers, memory, mirror", "memory", 1, true, stand, NULL, takeovers, {BARRIER, "--bpf"}},
	{"migrations, memory", "memory", 1, false, stand, NULL, migrations, {BARRIER}},
	{"migrations, sqlite", "sqlite", 1, false, stand, NULL, migrations, {BARRIER}},
	{"migrations, sqlite, mirror", "sqlite", 1, true, stand, NULL, migrations, {BARRIER, "--bpf"}},
	{"idle, sqlite", "sqlite", 1, false, stand, NULL, idling, {BARRIER}},
	{"documents, memory", "memory", 1, false, stand, NULL, documents, {BARRIER}},
	{"documents, sqlite", "sqlite", 1, false, stand, NULL, documents, {BARRIER}},
	{"documents, memory, mirror", "memory", 1, true, stand, NULL, documents, {BARRIER, "--bpf"}},
	{"growth, memory", "memory", 1, false, stand, NULL, growth, {BARRIER}},
	{"growth, sqlite", "sqlite", 1, false, stand, NULL, growth, {BARRIER}},
	{"growth, memory, mirror", "memory", 1, true, stand, NULL, growth, {BARRIER, "--bpf"}},
	{NULL, NULL, 0, false, NULL, NULL, NULL, {NULL}}};
