/* SPDX-License-Identifier: MIT
 * The core of a daemon without its sockets, for its tests: an instance in a directory of its own under /dev/shm, a
 * store that fails when it is told to, and a clock that stands still until the test moves it. One thread. */
#ifndef BERTH_TESTS_CORE_PLACE_H
#define BERTH_TESTS_CORE_PLACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../writer/core_internal.h"

enum fault {
	FAULT_NONE,
	FAULT_PUT,         /* already the event cannot be written */
	FAULT_FAILED,      /* the commit fails, nothing is kept */
	FAULT_UNKNOWN_IN,  /* the commit is kept, but the store cannot say so */
	FAULT_UNKNOWN_OUT, /* ... is not kept, and the store cannot say so */
};

struct core_place {
	const struct store_ops *ops; /* of the real store under the faulty one */
	char dir[64], store_dir[64], argument[128];
	bool up;
	struct instance instance;
	struct core *core;
	uint64_t now_ms, barrier_ms;
	bool new_directory;
	struct refusal r;
	struct core_result result;
	struct core_load_summary summary;
	unsigned n_events;
	char event[512]; /* the last one: what key epoch */
};

/* The next commit does this; the store says so many times that it still does not know. */
extern enum fault next_commit;
extern unsigned settle_refusals;

int make_core_place(void **state); /* up, with clusters c1, c2, c3; the prestate is the ops */
int remove_core_place(void **state);
#define CORE_ON(test, store) \
	{ \
#test " (" #store ")", test, make_core_place, remove_core_place, (void *)(uintptr_t) & (store) \
	}
#define CORE_ON_BOTH(test) CORE_ON(test, store_sqlite), CORE_ON(test, store_memory)

/* The writer starts; dies (nothing is written that a kill would not leave); both. */
enum refusal_code try_up(struct core_place *);
void up(struct core_place *);
void down(struct core_place *);
void restart(struct core_place *);

/* Placements as JSON text: the last eight are valid. */
const char *on(const char *cluster);                    /* dedicated-cluster */
const char *ix(const char *cluster, const char *index); /* dedicated-index */
const char *sh(const char *cluster, const char *index); /* shared-index, _tenant = the partition */

/* key NULL: the default; placement NULL: none. Fills p->result and p->r. */
enum refusal_code apply(struct core_place *, enum operation, const char *key, const char *placement);
enum refusal_code force(struct core_place *, enum operation, const char *key, const char *placement);
enum refusal_code cluster_set(struct core_place *, const char *id, const char *endpoint);
enum refusal_code cluster_remove(struct core_place *, const char *id);
/* Epoch of the change; the test fails when there was none. */
uint64_t done(struct core_place *, enum operation, const char *key, const char *placement);
void cut_over(struct core_place *, const char *key, const char *from, const char *to); /* set, begin, cutover */

/* All slices of a document. */
enum refusal_code load_with(struct core_place *, const char *document, bool prune, bool override);
enum refusal_code load(struct core_place *, const char *document);

#define assert_code(call, expected) \
	do { \
		enum refusal_code code_ = (call); \
		if (code_ != (expected)) \
			fail_msg("%s: %s instead of %s: %s", #call, refusal_name(code_), refusal_name(expected), \
				 code_ == R_DONE ? "" : p->r.message); \
	} while (0)
#define assert_ok(call) assert_code(call, R_DONE)

/* What the table says of p, as state_to_json's text; "null" when there is no entry. key NULL: the default. */
void assert_state(struct core_place *, const char *key, const char *expected);
void assert_at(struct core_place *, const char *key, const char *placement); /* settled there; NULL: no entry */
uint64_t epoch_of(struct core_place *, const char *key);
/* Everything that the table holds, in one text, sorted: for "nothing has changed". free() it. */
char *everything(struct core_place *);
/* what/key/forced of the newest event of the history. */
void assert_newest(struct core_place *, const char *what, const char *key, bool forced);

#endif
