/* SPDX-License-Identifier: MIT
 * An instance in a directory of its own, for the tests of libberth: the writer's real table, without its daemon, and a
 * thread that answers on berth.sock as the test wants it to. The test's thread is the writer's control thread. */
#ifndef BERTH_TESTS_READER_PLACE_H
#define BERTH_TESTS_READER_PLACE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define KEY(k) (k), strlen(k)

#include "../reader_lib/berth.h"
#include "../shm/grace.h"
#include "../shm/lease.h"
#include "../shm/segment.h"
#include "../writer/cursors.h"
#include "../writer/registry.h"
#include "../writer/table.h"

enum answers {
	ANSWER_REGISTER, /* attach and reattach succeed */
	ANSWER_LIMIT,    /* an error, data.code "limit" */
	ANSWER_DENIED,
	ANSWER_UNKNOWN, /* reattach: "invalid", once; then as ANSWER_REGISTER */
	ANSWER_NOTHING, /* accepts, and says nothing */
	ANSWER_RUBBISH,
	ANSWER_NO_FD, /* a result without its descriptor */
	ANSWER_OLD_CLOCK,
	ANSWER_FUTURE_CLOCK,
	ANSWER_OTHER_UUID,
	ANSWER_FEW_LINES,
	ANSWER_FEW_LEASES,
	ANSWER_LEASES_OUTSIDE
};

struct reader_place {
	char dir[64];
	struct instance instance;
	struct table *table;
	struct refusal r;
	struct row *rows;
	size_t n_rows, rows_size;
	bool has_default;
	struct shm_root *root; /* our own writable mapping, for damage */
	/* the daemon's stand-in */
	pthread_t thread;
	bool serving;
	int listener, wake[2];
	_Atomic int answers;
	_Atomic int n_attached, n_reattached;
	struct shm_registration *_Atomic registration; /* the last one that was handed over */
	struct cursors *cursors;                       /* of a test that has the cursor thread: told of who pins */
};

int make_reader_place(void **state); /* clusters 1 "c1" and 2 "c2" */
int remove_reader_place(void **state);
#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, make_reader_place, remove_reader_place)

/* Changes; each returns its epoch. index NULL: a dedicated cluster. key NULL: the default. */
uint64_t place_set(struct reader_place *, const char *key, unsigned cluster, const char *index);
uint64_t place_shared(struct reader_place *, const char *key, unsigned cluster, const char *index);
uint64_t place_begin(struct reader_place *, const char *key, unsigned cluster, const char *index);
uint64_t place_phase(struct reader_place *, const char *key, enum word_phase); /* CUTOVER, or SETTLED: complete */
uint64_t place_remove(struct reader_place *, const char *key);
/* Frees and gives back at once what no registered section holds. */
void reclaim(struct reader_place *);
bool place_is_set(struct reader_place *, const char *key);
/* The writer ends and another one starts: a new generation, a higher term. */
void restart_writer(struct reader_place *);
/* Another instance moves into the directory's path, with other inodes; the old table stays open. */
void replace_directory(struct reader_place *);

void serve(struct reader_place *, enum answers);
void stop_serving(struct reader_place *); /* closes the socket and all connections */

struct berth *attach_with(struct reader_place *, const struct berth_attach_options *, int expected);
struct berth *attached(struct reader_place *); /* registered */
struct berth *copying(struct reader_place *);  /* nobody serves */
struct berth_reader *opened(struct berth *);
/* Of the registration that was handed over last. */
struct shm_line *line_of(struct reader_place *, unsigned i);
struct shm_leases *leases_of(struct reader_place *, unsigned i);
struct berth *bracketed(struct reader_place *, uint32_t max_leases); /* attached so, and registered */

/* What is in the lease slots of a reader; of one partition, or (key NULL) of all. */
struct slots {
	unsigned open, unknown;
	uint64_t time_ms; /* of the last one seen */
};
struct slots slots_of(struct reader_place *, unsigned reader, const char *key);
#define EXPECT_SLOTS(p, reader, key, n_open, n_unknown) \
	do { \
		struct slots s_ = slots_of(p, reader, key); \
		assert_int_equal(s_.open, n_open); \
		assert_int_equal(s_.unknown, n_unknown); \
	} while (0)

void must_begin(struct berth_reader *, const char *key, struct berth_write *);
void must_end(struct berth_reader *, struct berth_write *, enum berth_outcome);
void close_all(struct berth *, struct berth_reader *);
/* Calls berth_maintain until it answers `code`, at most ten seconds. */
void maintain_until(struct berth *, int code);

#endif
