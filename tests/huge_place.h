/* SPDX-License-Identifier: MIT
 * The place of a test about huge pages: that of mp_place.h, without a running daemon yet; a file system of the test's
 * own, in a mount namespace of this process's own; the kernel's pool of huge pages, which is everybody's, and which the
 * keeper, a process that outlives this one, gives back however this one ends. One at a time, one thread. */
#ifndef BERTH_TESTS_HUGE_PLACE_H
#define BERTH_TESTS_HUGE_PLACE_H

#include "child.h"
#include "mp_place.h"

/* First and last in main, around everything else. */
void huge_begin(void);
void huge_end(void);

int huge_setup(void **state); /* *state: a struct mp_place with a memory store */
int huge_teardown(void **state);

/* ---- what the machine has ---- */
extern char huge_room[100];   /* where the file system of the test is mounted */
extern char huge_tables[120]; /* --table-dir in it */
/* False with errno when it cannot be mounted. */
bool huge_make_room(const char *type, const char *options);
/* 0, or the errno of a kernel that makes no huge pages of files in memory. */
int huge_collapse_refused(void);
/* Pages of 2 MiB; -1: there is no pool. */
long huge_pool(void);
long huge_pool_free(void);
/* So many more, until the teardown. False when the kernel could not find them. */
bool huge_pool_add(long pages);
/* The number behind `name` at the start of a line of this file; -1: none. */
long huge_number(const char *path, const char *name);

/* ---- looking ---- */
/* Attaches this process, and maps the present generation; the teardown detaches it, should the test not come to it. */
void huge_look_open(const struct mp_place *);
void huge_look_close(void);
/* Follows the daemon to the present generation. Partitions 0 .. n - 1, but for those from skip on that are below end,
 * are where the stream puts them first. */
void huge_expect_all(uint32_t skip, uint32_t end, uint32_t n);
/* Bytes of a process's mapping of this generation that are mapped as huge pages. */
uint64_t huge_mapped(pid_t, json_int_t generation);
uint64_t huge_file_size(const struct mp_place *, json_int_t generation);
/* Nothing is under way or held back, and a restart has its memory; waits for it. Then the directory of the tables must
 * have one table, one reserve and nothing that is half-made, of as many bytes as the daemon says, at most `most`. */
void huge_expect_tidy(struct mp_place *, uint64_t most);

#endif
