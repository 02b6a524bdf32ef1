/* SPDX-License-Identifier: MIT
 * Placement documents through the core: all of one or nothing, and never against a command. */
#include "core_place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ON(p, c) "\"" p "\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"" c "\"}"
#define IX(p, c, i) "\"" p "\":{\"mode\":\"dedicated-index\",\"cluster\":\"" c "\",\"index\":\"" i "\"}"

/* applied/unchanged/removed/adopted/diverged/migrating */
static void assert_counts(struct core_place *p, const char *expected)
{
	char text[128];

	snprintf(text, sizeof(text), "%u/%u/%u/%u/%u/%u", (unsigned)p->summary.applied, (unsigned)p->summary.unchanged,
		 (unsigned)p->summary.removed, (unsigned)p->summary.adopted, (unsigned)p->summary.diverged,
		 (unsigned)p->summary.migrating);
	assert_string_equal(text, expected);
}

static void assert_left(struct core_place *p, const char *expected)
{
	char *text = json_dumps(p->summary.left, JSON_COMPACT);

	assert_string_equal(text, expected);
	free(text);
}

static void assert_untouched(struct core_place *p, const char *before, uint64_t epoch)
{
	char *after = everything(p);

	assert_string_equal(before, after);
	assert_int_equal(table_epoch(core_table(p->core)), epoch);
	assert_false(core_loading(p->core));
	free(after);
}

/* ---- what a document does --------------------------------------------------------------------------------------- */

static void a_document_is_applied_clusters_sets_default_removals(void **state)
{
	struct core_place *p = *state;
	uint64_t before = table_epoch(core_table(p->core));

	assert_ok(load(p, "{\"version\":3,\"clusters\":{\"new\":{\"endpoint\":\"http://n:1\"},\"c1\":{\"endpoint\":"
			  "\"http://other:1\"}},\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"new\"},"
			  "\"partitions\":{" ON("b", "new") "," ON("a", "c1") "}}"));
	assert_counts(p, "2/0/0/0/0/0");
	assert_int_equal(p->summary.version, 3);
	assert_int_equal(p->summary.partitions, 2);
	assert_at(p, "a", on("c1"));
	assert_at(p, "b", on("new"));
	assert_at(p, NULL, on("new"));
	assert_int_equal(epoch_of(p, "a"), before + 1);
	assert_int_equal(epoch_of(p, "b"), before + 2);
	assert_int_equal(epoch_of(p, NULL), before + 3);
	assert_string_equal(cluster_endpoint(table_cluster(core_table(p->core), 1)), "http://other:1");
	assert_string_equal(cluster_endpoint(table_cluster(core_table(p->core), 4)), "http://n:1");
	assert_int_equal(table_cluster_uses(core_table(p->core), 4), 2);
	assert_string_equal(p->event, "load  0 -");
	assert_newest(p, "load", NULL, false);
	restart(p);
	assert_at(p, "b", on("new"));
	assert_int_equal(epoch_of(p, NULL), before + 3);
}

static void the_document_of_osproxy_java_is_accepted_as_it_is(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"partitions\":{" IX("acme", "cluster-7",
						 "acme-idx") ",\"globex\":{\"mode\":\"shared-index\","
							     "\"cluster\":\"cluster-8\",\"index\":\"shared\"}}}"));
	assert_counts(p, "2/0/0/0/0/0");
	assert_at(p, "acme", ix("cluster-7", "acme-idx"));
	assert_at(p, "globex", sh("cluster-8", "shared"));
	assert_int_equal(table_cluster_number(core_table(p->core), "cluster-7", 9), 4);
	assert_string_equal(cluster_endpoint(table_cluster(core_table(p->core), 4)), "");
	restart(p);
	assert_at(p, "acme", ix("cluster-7", "acme-idx"));
}

static void the_same_document_again_is_a_no_op(void **state)
{
	struct core_place *p = *state;
	const char *document = "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},\"partitions\":{" ON(
		"a", "c1") "," IX("b", "c1", "i") "}}";
	char *before;
	uint64_t epoch;
	unsigned events;

	assert_ok(load(p, document));
	before = everything(p);
	epoch = table_epoch(core_table(p->core));
	events = p->n_events;
	for (unsigned i = 0; i < 2; i++) {
		assert_ok(load_with(p, document, true, false));
		assert_counts(p, "0/2/0/0/0/0");
		assert_untouched(p, before, epoch);
		assert_int_equal(p->n_events, ++events); /* that it was loaded */
		assert_ok(load_with(p, document, false, true));
		assert_untouched(p, before, epoch);
		events = p->n_events;
		restart(p);
	}
	free(before);
}

static void a_document_changes_what_only_documents_have_spoken_of(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"partitions\":{" ON("a", "c1") "}}"));
	assert_ok(load(p, "{\"partitions\":{" IX("a", "c1", "i") "}}"));
	assert_counts(p, "1/0/0/0/0/0");
	assert_at(p, "a", ix("c1", "i"));
	assert_ok(load(p, "{\"partitions\":{}}"));
	assert_at(p, "a", ix("c1", "i")); /* what is missing stays */
}

/* ---- never against a command ------------------------------------------------------------------------------------ */

static void a_migrated_partition_stays_where_it_was_migrated_to(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"version\":1,\"partitions\":{" ON("p", "c1") "}}"));
	done(p, OP_BEGIN, "p", on("c2"));
	done(p, OP_CUTOVER, "p", NULL);
	assert_ok(load(p, "{\"version\":2,\"partitions\":{" ON("p", "c1") "}}"));
	assert_counts(p, "0/0/0/0/0/1");
	assert_left(p, "[{\"partition\":\"p\",\"why\":\"migrating\"}]");
	p->now_ms += 30011;
	done(p, OP_COMPLETE, "p", NULL);
	restart(p);
	assert_code(load(p, "{\"version\":2,\"partitions\":{" ON("p", "c1") "}}"), R_STALE_DOCUMENT);
	assert_ok(load(p, "{\"version\":3,\"partitions\":{" ON("p", "c1") "}}"));
	assert_counts(p, "0/0/0/0/1/0");
	assert_left(p, "[{\"partition\":\"p\",\"why\":\"diverged\"}]");
	assert_at(p, "p", on("c2"));
	assert_ok(load(p, "{\"version\":4,\"partitions\":{" ON("p", "c2") "}}"));
	assert_counts(p, "0/0/0/1/0/0"); /* now they agree */
	assert_ok(load(p, "{\"version\":5,\"partitions\":{" IX("p", "c2", "i") "}}"));
	assert_counts(p, "1/0/0/0/0/0"); /* so documents have a say again */
	assert_at(p, "p", ix("c2", "i"));
}

static void override_applies_what_diverged_by_force(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"partitions\":{" ON("p", "c1") "," ON("q", "c1") "}}"));
	assert_ok(force(p, OP_SET, "p", on("c2")));
	done(p, OP_BEGIN, "q", on("c2"));
	assert_ok(load_with(p, "{\"partitions\":{" ON("p", "c1") "," ON("q", "c3") "}}", false, true));
	assert_counts(p, "1/0/0/0/0/1");
	assert_left(p, "[{\"partition\":\"q\",\"why\":\"migrating\"}]"); /* not even then */
	assert_at(p, "p", on("c1"));
	assert_newest(p, "load", NULL, true);
}

static void prune_removes_what_only_documents_have_spoken_of(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"partitions\":{" ON("a", "c1") "," ON("b", "c1") "," ON("c", "c1") "," ON(
				  "d", "c1") "," ON("e", "c1") "}}"));
	done(p, OP_SET, "b", ix("c1", "by-hand"));
	done(p, OP_SET, "mine", on("c1"));
	done(p, OP_BEGIN, "c", on("c2"));
	done(p, OP_REMOVE, "d", NULL);
	assert_code(load_with(p, "{\"clusters\":{}}", true, false), R_INVALID);
	assert_ok(load_with(p, "{\"partitions\":{" ON("e", "c1") "}}", true, false));
	assert_counts(p, "0/1/1/0/2/1");
	assert_at(p, "a", NULL);
	assert_at(p, "b", ix("c1", "by-hand"));
	assert_at(p, "mine", on("c1"));
	restart(p);
	assert_at(p, "a", NULL);
	assert_at(p, "e", on("c1"));
	done(p, OP_ABORT, "c", NULL);
	assert_ok(load_with(p, "{\"partitions\":{" ON("d", "c1") "}}", true, true));
	assert_counts(p, "1/0/4/0/0/0"); /* the removal of d was forgotten; b, c, e and mine go by force */
	assert_at(p, "mine", NULL);
	assert_at(p, "d", on("c1"));
}

static void the_default_follows_the_same_rule(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}"));
	assert_at(p, NULL, on("c1"));
	assert_ok(force(p, OP_DEFAULT, NULL, on("c2")));
	restart(p);
	assert_ok(load(p, "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}"));
	assert_counts(p, "0/0/0/0/1/0");
	assert_left(p, "[{\"partition\":null,\"why\":\"diverged\"}]");
	assert_at(p, NULL, on("c2"));
	assert_ok(load(p, "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c2\"}}"));
	assert_ok(load(p, "{\"default\":{\"mode\":\"dedicated-index\",\"cluster\":\"c2\",\"index\":\"i\"}}"));
	assert_at(p, NULL, ix("c2", "i"));
	restart(p);
	assert_ok(load_with(p, "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c3\"}}", false, true));
	assert_at(p, NULL, on("c3"));
}

/* ---- all or nothing --------------------------------------------------------------------------------------------- */

static void a_refused_document_leaves_table_and_epochs_as_they_were(void **state)
{
	struct core_place *p = *state;
	char *before;
	uint64_t epoch;

	assert_ok(load(
		p, "{\"version\":5,\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},\"partitions\":{" ON(
			   "a", "c1") "," ON("b", "c1") "}}"));
	before = everything(p);
	epoch = table_epoch(core_table(p->core));
	assert_code(load(p, "{\"version\":5,\"partitions\":{" IX("a", "c1", "x") "}}"), R_STALE_DOCUMENT);
	assert_code(load(p, "{\"version\":4,\"partitions\":{}}"), R_STALE_DOCUMENT);
	assert_code(load(p, "{\"clusters\":{\"new\":{}},\"partitions\":{" IX("a", "c1", "x") "," ON("n", "c9") "}}"),
		    R_UNKNOWN_CLUSTER);
	assert_non_null(strstr(p->r.message, "c9"));
	assert_code(load(p, "{\"partitions\":{" IX("a", "c1", "x") "," ON("b", "c2") "}}"), R_WOULD_MOVE);
	assert_string_equal(p->r.path, "$.partitions.b");
	assert_code(load(p, "{\"partitions\":{" ON("over the default", "c2") "}}"), R_WOULD_MOVE);
	assert_string_equal(p->r.path, "$.partitions[\"over the default\"]");
	assert_code(load(p, "{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c2\"},\"partitions\":{" IX(
				    "a", "c1", "x") "}}"),
		    R_WOULD_MOVE);
	assert_string_equal(p->r.path, "$.default");
	assert_untouched(p, before, epoch);
	next_commit = FAULT_FAILED;
	assert_code(load(p, "{\"clusters\":{\"new\":{},\"c1\":{\"endpoint\":\"\"}},\"partitions\":{" IX(
				    "a", "c1", "x") "," ON("n", "c1") "}}"),
		    R_BACKEND);
	assert_true(table_epoch(core_table(p->core)) == epoch + 2); /* burnt */
	assert_untouched(p, before, epoch + 2);
	next_commit = FAULT_PUT;
	assert_code(load(p, "{\"clusters\":{\"new\":{}}}"), R_BACKEND);
	restart(p);
	assert_untouched(p, before, epoch + 2);
	done(p, OP_SET, "c", on("c1"));
	free(before);
}

static void a_removed_cluster_is_made_anew_with_another_number(void **state)
{
	struct core_place *p = *state;

	assert_ok(cluster_remove(p, "c3"));
	assert_code(load(p, "{\"clusters\":{},\"partitions\":{" ON("a", "c3") "}}"), R_UNKNOWN_CLUSTER);
	assert_ok(load(p, "{\"partitions\":{" ON("a", "c3") "}}"));
	assert_int_equal(table_cluster_number(core_table(p->core), "c3", 2), 4);
	assert_code(cluster_remove(p, "c3"), R_CLUSTER_IN_USE);
}

static struct document *parsed(struct core_place *p, const char *text)
{
	struct document *d = NULL;

	assert_ok(document_parse(text, strlen(text), &d, &p->r));
	return d;
}

static void changes_are_refused_busy_while_a_document_is_applied(void **state)
{
	struct core_place *p = *state;
	const struct core_load_options options = {0};
	bool over = false;
	char *before = everything(p);
	uint64_t epoch = table_epoch(core_table(p->core));

	assert_ok(core_load_start(p->core, parsed(p, "{\"partitions\":{" ON("a", "c1") "}}"), &options, NULL, &p->r));
	assert_true(core_loading(p->core));
	assert_code(apply(p, OP_SET, "b", on("c1")), R_BUSY);
	assert_code(cluster_set(p, "c9", NULL), R_BUSY);
	assert_code(core_load_start(p->core, parsed(p, "{\"partitions\":{}}"), &options, NULL, &p->r), R_BUSY);
	core_load_cancel(p->core);
	core_step(p->core, 1000);
	assert_untouched(p, before, epoch);
	/* Given up at each slice in turn: until the commit nothing is left of it, after it all. */
	for (unsigned slices = 1; !over; slices++) {
		assert_ok(core_load_start(p->core,
					  parsed(p, "{\"clusters\":{\"new\":{}},\"partitions\":{" ON("a", "new") "}}"),
					  &options, NULL, &p->r));
		for (unsigned i = 0; i < slices && !over; i++)
			assert_ok(core_load_step(p->core, 0, &over, &p->summary, &p->r));
		json_decref(p->summary.left);
		p->summary.left = NULL;
		core_load_cancel(p->core);
		while (core_loading(p->core))
			core_step(p->core, 0);
		if (!over && epoch_of(p, "a")) { /* committed: the next round sees it done */
			assert_at(p, "a", on("new"));
			break;
		}
		if (!over) {
			char *after = everything(p);

			assert_string_equal(before, after);
			free(after);
		}
	}
	assert_at(p, "a", on("new"));
	free(before);
}

static void a_document_of_unknown_fate_is_adopted_or_undone_whole(void **state)
{
	struct core_place *p = *state;
	const char *document =
		"{\"version\":9,\"clusters\":{\"new\":{}},\"partitions\":{" ON("a", "new") "," ON("b", "c1") "}}";
	char *before = everything(p);
	uint64_t epoch = table_epoch(core_table(p->core));

	next_commit = FAULT_UNKNOWN_OUT;
	assert_code(load(p, document), R_BACKEND);
	assert_true(core_loading(p->core));
	settle_refusals = 1;
	assert_code(apply(p, OP_SET, "q", on("c1")), R_BACKEND);
	assert_code(apply(p, OP_SET, "q", on("c1")), R_BUSY); /* it is being undone */
	core_step(p->core, 1000);
	assert_untouched(p, before, epoch + 2);
	next_commit = FAULT_UNKNOWN_IN;
	assert_code(load(p, document), R_BACKEND);
	assert_at(p, "a", NULL);
	for (p->now_ms += 1000; core_loading(p->core); p->now_ms += 100)
		core_step(p->core, 1000);
	assert_at(p, "a", on("new"));
	assert_at(p, "b", on("c1"));
	assert_int_equal(epoch_of(p, "b"), epoch + 4);
	assert_int_equal(table_document_version(core_table(p->core)), 9);
	next_commit = FAULT_UNKNOWN_IN;
	assert_code(load(p, "{\"version\":10,\"partitions\":{" IX("b", "c1", "i") "}}"), R_BACKEND);
	if (p->ops->durable) {
		restart(p);
		assert_at(p, "b", ix("c1", "i"));
		assert_int_equal(table_document_version(core_table(p->core)), 10);
	}
	free(before);
}

static void a_big_document_is_applied_in_slices_and_reported_in_short(void **state)
{
	struct core_place *p = *state;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	const unsigned n = 20000;

	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < n; i++)
		fprintf(f, "%s\"p%05u\":{\"mode\":\"dedicated-index\",\"cluster\":\"c%u\",\"index\":\"i%u\"}",
			i ? "," : "", i, i % 3 + 1, i % 7000);
	fputs("}}", f);
	fclose(f);
	assert_ok(load(p, text));
	assert_int_equal(p->summary.applied, n);
	assert_at(p, "p12345", ix("c1", "i5345"));
	for (unsigned i = 0; i < 150; i++) {
		char key[16];

		snprintf(key, sizeof(key), "p%05u", i);
		assert_ok(force(p, OP_SET, key, on("c1")));
	}
	restart(p);
	assert_at(p, "p12345", ix("c1", "i5345"));
	assert_ok(load_with(p, text, true, false));
	assert_int_equal(p->summary.diverged, 150);
	assert_int_equal(p->summary.unchanged, n - 150);
	assert_int_equal(json_array_size(p->summary.left), 100);
	assert_ok(load_with(p, "{\"partitions\":{}}", true, false));
	assert_int_equal(p->summary.removed, n - 150);
	assert_at(p, "p12345", NULL);
	restart(p);
	assert_at(p, "p12345", NULL);
	assert_at(p, "p00149", on("c1"));
	free(text);
}

static void a_document_may_bring_thousands_of_clusters(void **state)
{
	struct core_place *p = *state;
	char *text = NULL, key[16];
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < 3000; i++)
		fprintf(f, "%s\"p%u\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"k%u\"}", i ? "," : "", i, i);
	fputs("}}", f);
	fclose(f);
	assert_ok(load(p, text));
	restart(p);
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		assert_in_range(table_cluster_number(core_table(p->core), key, strlen(key)), 4, 3003);
	}
	assert_at(p, "p2999", on("k2999"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(a_document_is_applied_clusters_sets_default_removals),
		CORE_ON_BOTH(the_document_of_osproxy_java_is_accepted_as_it_is),
		CORE_ON_BOTH(the_same_document_again_is_a_no_op),
		CORE_ON_BOTH(a_document_changes_what_only_documents_have_spoken_of),
		CORE_ON_BOTH(a_migrated_partition_stays_where_it_was_migrated_to),
		CORE_ON_BOTH(override_applies_what_diverged_by_force),
		CORE_ON_BOTH(prune_removes_what_only_documents_have_spoken_of),
		CORE_ON_BOTH(the_default_follows_the_same_rule),
		CORE_ON_BOTH(a_refused_document_leaves_table_and_epochs_as_they_were),
		CORE_ON_BOTH(a_removed_cluster_is_made_anew_with_another_number),
		CORE_ON_BOTH(changes_are_refused_busy_while_a_document_is_applied),
		CORE_ON_BOTH(a_document_of_unknown_fate_is_adopted_or_undone_whole),
		CORE_ON_BOTH(a_big_document_is_applied_in_slices_and_reported_in_short),
		CORE_ON_BOTH(a_document_may_bring_thousands_of_clusters),
	};

	return cmocka_run_group_tests_name("core and documents", tests, NULL, NULL);
}
