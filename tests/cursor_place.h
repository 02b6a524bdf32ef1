/* SPDX-License-Identifier: MIT
 * A table of pins in the process of a test, on a clock that the test turns, with what a reader sees beside it. */
#ifndef BERTH_TESTS_CURSOR_PLACE_H
#define BERTH_TESTS_CURSOR_PLACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../writer/cursor_table_internal.h"
#include "scratch.h"

#define CURSOR_TTL 300000u

struct cursor_place {
	struct scratch s;
	struct shm_root *root;
	struct cursor_table_options options;
	struct cursor_table *t;
	uint64_t now;
	struct refusal why;
};

/* A first table; a start that fails fails the test. */
void cursor_place_open(struct cursor_place *, uint32_t capacity, uint32_t owner_share);
void cursor_place_close(struct cursor_place *);
/* Another writer takes it over; with place->options. */
void cursor_place_restart(struct cursor_place *);

/* What most tests of it are made of: two owners; one place for a whole program, which a test opens, and its teardown. */
#define A 0xa11ceull
#define B 0xb0bull
#define WITH(capacity) cursor_place_open(&cursor_place, (capacity), 0)
extern struct cursor_place cursor_place;
int cursor_place_done(void **state);

/* The id with this number: of a bucket that other ids may share. */
struct cursor_id {
	uint64_t hash[2];
};
struct cursor_id cursor_id(uint64_t number);
/* One whose bucket is number `bucket`, in every table of fewer than 2^32 buckets. */
struct cursor_id cursor_id_in(uint64_t bucket, uint64_t number);

enum shm_pin_result cursor_pin(struct cursor_place *, struct cursor_id, uint64_t owner, unsigned cluster, uint64_t ttl);
enum shm_pin_result cursor_release(struct cursor_place *, struct cursor_id, uint64_t owner);
/* What a reader answers: the cluster; 0: unknown. *owner may be NULL. Ends the test when the search does not answer. */
unsigned cursor_seen(const struct cursor_map *, struct cursor_id, uint64_t now, uint64_t *owner);

#define assert_pins(p, id, owner, cluster, ttl) \
	assert_int_equal(cursor_pin((p), (id), (owner), (cluster), (ttl)), SHM_PIN_OK)
#define assert_seen(p, id, owner, cluster) \
	do { \
		uint64_t owner_ = 0; \
		assert_int_equal(cursor_seen(cursor_table_map((p)->t), (id), (p)->now, &owner_), (cluster)); \
		assert_int_equal(owner_, (owner)); \
	} while (0)
#define assert_unseen(p, id) assert_int_equal(cursor_seen(cursor_table_map((p)->t), (id), (p)->now, NULL), 0)
#define COUNTED(p, name) cursor_load(&cursor_table_map((p)->t)->file->name)

#endif
