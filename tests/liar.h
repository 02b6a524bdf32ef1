/* SPDX-License-Identifier: MIT
 * A proxy of group berth that somebody else runs: a process that has its registration, its connection and its descriptors
 * in its own hands. And another reader, this process, to which nothing of it may matter. Needs root. One at a time, or as
 * many as there are copies of liars.box and liars.fd. */
#ifndef BERTH_TESTS_LIAR_H
#define BERTH_TESTS_LIAR_H

#include "../shm/layout.h"
#include "sandbox_daemon.h"

#define LIAR_LEASES 64u

extern struct liars {
	struct berth *b; /* the other reader; NULL: there is no place */
	struct berth_reader *r;
	struct wire admin;
	struct sandbox box;
	int fd; /* to the process in it */
} liars;

/* As cmocka wants them: users.h's place, with partitions mine, theirs and quiet on c1. */
int liar_setup(void **state);
int liar_teardown(void **state);
#define LIAR_TEST(f) cmocka_unit_test_setup_teardown(f, liar_setup, liar_teardown)

/* Remembers the table's bytes, and runs this in a process of that user, of the group; returns once it has done its worst.
 * Its number. The test fails when it could not, or something was possible that must not be. */
pid_t liar_start(int (*worst)(void *, int fd), uid_t uid);
void liar_ends(pid_t);
/* First that the table's bytes are those, then that all goes on: the other reader reads and writes, another partition
 * moves at once, the first daemon serves. Leaves the table changed, and remembers it. */
void everybody_else_is_whole(void);

/* ---- in that process ---- */

extern struct shm_registration *liar_registration; /* mapped whole */
extern int liar_file;                              /* its descriptor */
/* Attaches over a connection of its own, which stays open; bracketed. */
bool liar_attach(unsigned readers, unsigned leases);
/* The last of a part: tells the test (0: as it should be), and lives until the test ends it. */
int liar_done(int fd, int how);
#define LIAR_MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno)); \
			return liar_done(fd, 1); \
		} \
	} while (0)

#endif
