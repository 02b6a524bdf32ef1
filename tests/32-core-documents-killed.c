/* SPDX-License-Identifier: MIT
 * A writer that is killed while a document changes an entry, with a store that keeps nothing: word and what the document
 * said of it are two stores, and the restart takes them for one. Here memory is made to look as such a death leaves it;
 * torture-crash kills there. */
#include "core_place.h"

#include "../writer/table_internal.h"

#define ONLY(key, cluster) "{\"partitions\":{\"" key "\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"" cluster "\"}}}"
#define INDEX(name) "{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"" name "\"}"

static struct shm_table *header(struct core_place *p)
{
	return gen_header(core_table(p->core)->now);
}

/* Where it stands what the last document said of p; key NULL: of the default. *epoch: of its word. */
static _Atomic uint64_t *said_of(struct core_place *p, const char *key, uint64_t *epoch)
{
	struct table *t = core_table(p->core);
	const struct shm_entry *e;
	uint64_t word;

	if (!key) {
		*epoch = word_epoch(header(p)->dflt.word);
		return &header(p)->default_document;
	}
	assert_int_equal(
		index_find(&t->now->map, key, strlen(key), hash_key(t->secret, key, strlen(key)), true, &e, &word), 1);
	*epoch = word_epoch(word);
	return gen_document(t->now, (uint32_t)(e - t->now->map.entries));
}

/* The document is applied, and it is as if the writer had died right after the word of p. */
static void die_after_the_word(struct core_place *p, const char *document, bool prune, const char *key)
{
	uint64_t epoch, before = *said_of(p, key, &epoch), after;
	_Atomic uint64_t *said;

	assert_ok(load_with(p, document, prune, true));
	said = said_of(p, key, &epoch);
	after = *said;
	assert_true(before != after);
	assert_int_equal(header(p)->said_epoch, 0); /* cleared, or a command's change would be taken for it */
	header(p)->said_document = after;
	header(p)->said_epoch = epoch;
	*said = before;
	restart(p);
}

static void expect(struct core_place *p, unsigned applied, unsigned diverged)
{
	assert_int_equal(p->summary.applied, applied);
	assert_int_equal(p->summary.diverged, diverged);
}

static void the_next_document_finds_that_only_documents_have_spoken(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, ONLY("p", "c1")));
	die_after_the_word(p,
			   "{\"partitions\":{\"p\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}}}",
			   false, "p");
	assert_at(p, "p", ix("c1", "i"));
	assert_ok(load(p, ONLY("p", "c1")));
	expect(p, 1, 0);
	assert_at(p, "p", on("c1"));
}

static void so_it_does_of_one_that_was_removed(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, ONLY("p", "c1")));
	die_after_the_word(p, ONLY("q", "c1"), true, "p");
	assert_at(p, "p", NULL);
	assert_ok(load(p, ONLY("p", "c2")));
	expect(p, 1, 0);
	assert_at(p, "p", on("c2"));
}

static void so_it_does_of_the_default(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, "{\"default\":" INDEX("i") "}"));
	die_after_the_word(p, "{\"default\":" INDEX("j") "}", false, NULL);
	assert_at(p, NULL, ix("c1", "j"));
	assert_ok(load(p, "{\"default\":" INDEX("k") "}"));
	assert_int_equal(p->summary.diverged, 0);
	assert_at(p, NULL, ix("c1", "k"));
}

/* What was under way is over: a command's change is a command's, after this death too. */
static void a_command_after_it_is_not_taken_for_the_document(void **state)
{
	struct core_place *p = *state;

	assert_ok(load(p, ONLY("p", "c1")));
	die_after_the_word(p,
			   "{\"partitions\":{\"p\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}}}",
			   false, "p");
	done(p, OP_SET, "p", ix("c1", "by-hand"));
	restart(p);
	assert_ok(load(p, ONLY("p", "c1")));
	expect(p, 0, 1);
	assert_at(p, "p", ix("c1", "by-hand"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON(the_next_document_finds_that_only_documents_have_spoken, store_memory),
		CORE_ON(so_it_does_of_one_that_was_removed, store_memory),
		CORE_ON(so_it_does_of_the_default, store_memory),
		CORE_ON(a_command_after_it_is_not_taken_for_the_document, store_memory),
	};

	return cmocka_run_group_tests_name("documents of a killed writer", tests, NULL, NULL);
}
