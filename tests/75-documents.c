/* SPDX-License-Identifier: MIT
 * A document never undoes a command: through the real daemon's --document, SIGHUP, `load` and restarts, as a reader in
 * this process sees it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mp_place.h"

#define CLUSTERS \
	"\"clusters\":{\"c1\":{\"endpoint\":\"http://10.0.0.1:9200\"},\"c2\":{\"endpoint\":\"http://10.0.0.2:9200\"}}"
#define ON(cluster, index) "{\"mode\":\"dedicated-index\",\"cluster\":\"" cluster "\",\"index\":\"" index "\"}"
#define DOCUMENT(version, p, q) "{\"version\":" version "," CLUSTERS ",\"partitions\":{\"p\":" p ",\"q\":" q "}}"

struct place {
	struct mp_place mp;
	char document[128];
	struct berth *b;
	struct berth_reader *r;
};

static struct wire *admin(struct place *p)
{
	return &p->mp.stream.wire;
}

static int setup(void **state)
{
	static struct place place;
	struct place *p = &place;

	memset(p, 0, sizeof *p);
	mp_place_make(&p->mp, *state);
	*state = p;
	daemon_file(&p->mp.d, "placements.json", DOCUMENT("7", ON("c1", "p-c1"), ON("c1", "q-c1")), p->document);
	daemon_start(&p->mp.d, "--document", p->document, "--barrier-ms", "20", NULL);
	wire_open(admin(p), &p->mp.d, WIRE_ADMIN);
	assert_int_equal(berth_attach(p->mp.d.dir, NULL, &p->b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	berth_reader_close(&p->r);
	berth_detach(&p->b);
	mp_place_remove(&p->mp);
	return 0;
}

/* Where a reader finds it; also its epoch. */
static uint64_t expect_on(struct place *p, const char *key, const char *cluster, const char *index)
{
	struct berth_placement found;
	struct berth_cluster c;

	berth_read_begin(p->r);
	assert_int_equal(berth_lookup(p->r, key, strlen(key), &found), BERTH_OK);
	assert_int_equal(berth_cluster(p->r, found.cluster, &c), BERTH_OK);
	assert_string_equal(c.id, cluster);
	assert_string_equal(found.index, index);
	assert_int_equal(found.phase, BERTH_SETTLED);
	berth_read_end(p->r);
	return found.epoch;
}

static void migrate_p(struct place *p)
{
	wire_do(admin(p), "begin", "{s:s, s:{s:s, s:s}}", "partition", "p", "to", "cluster", "c2", "index", "p-c2");
	wire_do(admin(p), "cutover", "{s:s}", "partition", "p");
	wire_do(admin(p), "complete", "{s:s, s:b}", "partition", "p", "force", 1);
}

static void restart(struct place *p)
{
	daemon_kill(&p->mp.d);
	wire_close(admin(p));
	daemon_start(&p->mp.d, "--document", p->document, "--barrier-ms", "20", NULL);
	wire_open(admin(p), &p->mp.d, WIRE_ADMIN);
}

/* SIGHUP, and the documents that the daemon has then gone through. */
static void hang_up(struct place *p)
{
	json_int_t before = mp_status(&p->mp, "documents");

	daemon_signal(&p->mp.d, SIGHUP);
	MP_UNTIL(mp_status(&p->mp, "documents") == before + 1, 10000);
}

static json_t *load(struct place *p, bool override)
{
	int fd = open(p->document, O_RDONLY | O_CLOEXEC);

	wire_send_with(admin(p), fd, "load", "{s:b}", "override", override);
	close(fd);
	return wire_answer(admin(p));
}

static void expect_left(struct place *p, const char *why)
{
	json_t *summary = answer_result(load(p, false)), *left = json_object_get(summary, "left");

	assert_int_equal(int_of(summary, why), 1);
	assert_int_equal(json_array_size(left), 1);
	assert_string_equal(text_of(json_array_get(left, 0), "partition"), "p");
	assert_string_equal(text_of(json_array_get(left, 0), "why"), why);
	json_decref(summary);
}

static void a_migrated_partition_stays_where_it_is_whatever_the_old_document_says(void **state)
{
	struct place *p = *state;
	uint64_t epoch;

	expect_on(p, "p", "c1", "p-c1");
	migrate_p(p);
	epoch = expect_on(p, "p", "c2", "p-c2");
	restart(p); /* with the same --document */
	assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
	hang_up(p);
	assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
	answer_expect_refused(load(p, false), "stale-document"); /* version 7 was the last one */
	/* A newer one that still says c1, and changes q. */
	daemon_file(&p->mp.d, "placements.json", DOCUMENT("8", ON("c1", "p-c1"), ON("c1", "q-new")), p->document);
	expect_left(p, "diverged");
	assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
	expect_on(p, "q", "c1", "q-new");
	restart(p);
	hang_up(p);
	assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
	/* By SIGHUP the same. */
	daemon_file(&p->mp.d, "placements.json", DOCUMENT("9", ON("c1", "p-c1"), ON("c1", "q-c1")), p->document);
	hang_up(p);
	daemon_expect_log(&p->mp.d, "diverged=1");
	assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
	expect_on(p, "q", "c1", "q-c1");
	/* The operator's word undoes it. */
	daemon_file(&p->mp.d, "placements.json", DOCUMENT("10", ON("c1", "p-c1"), ON("c1", "q-c1")), p->document);
	json_decref(answer_result(load(p, true)));
	assert_true(expect_on(p, "p", "c1", "p-c1") > epoch);
}

static void a_document_without_a_version_is_applied_again_and_again_and_undoes_nothing(void **state)
{
	static const char plain[] = "{\"partitions\":{\"p\":" ON("c1", "p-c1") ",\"q\":" ON("c1", "q-c1") "}}";
	struct place *p = *state;
	uint64_t epoch;

	migrate_p(p);
	epoch = expect_on(p, "p", "c2", "p-c2");
	daemon_file(&p->mp.d, "placements.json", plain, p->document);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t q = expect_on(p, "q", "c1", "q-c1");

		expect_left(p, "diverged");
		hang_up(p);
		restart(p);
		assert_int_equal(expect_on(p, "p", "c2", "p-c2"), epoch);
		assert_int_equal(expect_on(p, "q", "c1", "q-c1"), q); /* a no-op takes no epoch */
	}
}

static void a_partition_in_migration_is_left_to_its_migration(void **state)
{
	struct place *p = *state;

	wire_do(admin(p), "begin", "{s:s, s:{s:s, s:s}}", "partition", "p", "to", "cluster", "c2", "index", "p-c2");
	wire_do(admin(p), "cutover", "{s:s}", "partition", "p");
	daemon_file(&p->mp.d, "placements.json", DOCUMENT("8", ON("c1", "p-other"), ON("c1", "q-c1")), p->document);
	expect_left(p, "migrating");
	wire_do(admin(p), "complete", "{s:s, s:b}", "partition", "p", "force", 1);
	expect_on(p, "p", "c2", "p-c2");
	restart(p);
	expect_on(p, "p", "c2", "p-c2");
}

#define DOCUMENT_TEST(test, store) \
	{ \
#test " (" store ")", test, setup, teardown, (void *)(uintptr_t)(store) \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DOCUMENT_TEST(a_migrated_partition_stays_where_it_is_whatever_the_old_document_says, "sqlite"),
		DOCUMENT_TEST(a_migrated_partition_stays_where_it_is_whatever_the_old_document_says, "memory"),
		DOCUMENT_TEST(a_document_without_a_version_is_applied_again_and_again_and_undoes_nothing, "sqlite"),
		DOCUMENT_TEST(a_document_without_a_version_is_applied_again_and_again_and_undoes_nothing, "memory"),
		DOCUMENT_TEST(a_partition_in_migration_is_left_to_its_migration, "sqlite"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
