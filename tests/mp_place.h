/* SPDX-License-Identifier: MIT
 * The place of a multi-process test: a daemon, a stream of changes to it, a set of reader processes; all of them gone
 * with the test, however it ends. One at a time. */
#ifndef BERTH_TESTS_MP_PLACE_H
#define BERTH_TESTS_MP_PLACE_H

#include "stream.h"

struct mp_place {
	struct daemon d;
	struct stream stream;
	struct readers readers;
};

/* At the start of main: a process that has gone is an error of the write to it, not the end of the test. */
void mp_begin(void);

void mp_place_make(struct mp_place *, const char *store); /* for a setup that starts the daemon in its own way */
void mp_place_remove(struct mp_place *);
int mp_setup(void **state); /* a running daemon, with the store that the prestate names */
int mp_teardown(void **state);
#define MP_TEST(test, store_name) \
	{ \
#test " (" store_name ")", test, mp_setup, mp_teardown, (void *)(uintptr_t)(store_name) \
	}

/* n partitions by a document, a stream over them, and readers' memory for them, without readers yet. */
void mp_fill(struct mp_place *, uint32_t n);
void mp_fill_with(struct mp_place *, uint32_t n, const struct readers_options *);

/* A number of the daemon's status. */
json_int_t mp_status(struct mp_place *, const char *name);
/* Waits until the daemon holds nothing back for anybody: status.retired and held_bytes are 0. */
void mp_await_freed(struct mp_place *);

#endif
