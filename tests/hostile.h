/* SPDX-License-Identifier: MIT
 * An instance with everything in it, copies of it to be damaged, and a look at such a copy with all that libberth and
 * `berth` can look with. One at a time. */
#ifndef BERTH_TESTS_HOSTILE_H
#define BERTH_TESTS_HOSTILE_H

#include "../reader_lib/berth.h"
#include "../shm/details.h"
#include "../shm/segment.h"
#include "../shm/word.h"
#include "child.h"

#define N_KEYS 240u /* partitions; one of them is removed again, and answered by the default */
#define ANY 1       /* attach may answer what it likes */
#define LIBRARY_MS 10000u

extern struct daemon hostile_daemon;
extern char hostile_dir[160]; /* of the copy */
extern bool hostile_live;     /* the daemon of the original runs */

/* As cmocka wants them. */
int hostile_make(void **state);
int hostile_alive(void **state);
int hostile_dead(void **state);

extern struct hostile_image { /* the copy, mapped for writing */
	struct shm_root *root;
	struct shm_table *table;
	size_t size, entries_off, records_off;
	uint32_t n_entries;
	char name[32], path[300];
} hostile_image;

void hostile_copy(void); /* a fresh one; with the daemon's sockets, while it lives */
void hostile_drop(void);
struct shm_entry *hostile_entries(void);
uint32_t hostile_n_entries(void);
uint64_t hostile_random(uint64_t *seed);
/* One blow: some bytes of root or of the table, mostly where the header, entries, or records are. */
void hostile_damage(uint64_t *seed);

struct hostile_plan {
	int expected;         /* of berth_attach; ANY */
	unsigned least, most; /* look-ups that succeed */
	uint64_t seed;        /* not 0: damage goes on while the reader has the files mapped */
};
/* A reader of the copy, to be run as a part: 0 when every answer could be. */
int hostile_ask(void *plan);
/* The same, without more damage; fails the test. */
void hostile_library(int expected, unsigned least, unsigned most);
/* Every looking command of `berth`: each ends in time with one of its exit codes. The one of `verify`. */
int hostile_commands(void);

#endif
