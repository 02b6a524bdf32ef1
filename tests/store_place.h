/* SPDX-License-Identifier: MIT
 * A store in a directory of its own, for the tests of stores: made before and removed after each test, with helpers
 * that fail the test, naming the store's own words. One thread; not for a forked child, whose failures must not unwind.
 */
#ifndef BERTH_TESTS_STORE_PLACE_H
#define BERTH_TESTS_STORE_PLACE_H

#include "../writer/store.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

struct place {
	const struct store_ops *ops;
	struct store *s; /* NULL until open_store */
	struct refusal r;
	char dir[64];
	char path[128]; /* dir/db, or "" for memory: */
};

/* Setup and teardown; the prestate is the ops. */
int make_place(void **state);
int remove_place(void **state);
#define ON(test, store) \
	cmocka_unit_test_prestate_setup_teardown(test, make_place, remove_place, (void *)(uintptr_t) & (store))

#define OK(call) \
	do { \
		if ((call) != STORE_OK) \
			fail_msg("%s: %s", #call, p->r.message); \
	} while (0)

void open_store(struct place *);
void reopen(struct place *);
void put(struct place *, const char *key, uint64_t epoch, const char *state, uint64_t document);
/* All of its fields follow from the epoch: the listing checks that they still do. key NULL: the default's. */
void put_event(struct place *, const char *key, uint64_t epoch);
void commit_one(struct place *, const char *key, uint64_t epoch);

/* What a visitor was shown, a line each. */
struct listing {
	char text[8192];
	size_t n;
	int stop_after; /* callbacks, the last of which returns 7; 0: none does */
};
struct store_visitor lister(struct listing *); /* empties it */
void assert_holds(struct place *, const char *expected);
void assert_history(struct place *, const char *key, unsigned limit, const char *expected);

#endif
