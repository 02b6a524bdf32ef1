/* SPDX-License-Identifier: MIT
 * Named points of the writer at which `make torture-crash` kills it: behind each store and each system call that changes
 * what others can see or what a restart finds. CRASH_POINT(word_stored) says what has just been done, so the gap between
 * two changes is a point, and so is the one before the first of a function: it lies behind the last of the one before.
 * tests/crash-points looks that no change is without one.
 *
 * In every build but that of the torture runs (BERTH_TORTURE) the macro is nothing. There each point is an element of the
 * linker's section `crash_points`: nobody keeps a list. What is passed, and where to die, is in a file that the test has
 * mapped too and that outlives the writer; a process that did not open it (readers, tests that run the writer in their own
 * process) passes all points for nothing. Any thread. */
#ifndef BERTH_SHM_CRASH_POINT_H
#define BERTH_SHM_CRASH_POINT_H

#ifdef BERTH_TORTURE
#include <stdatomic.h>
#include <stdint.h>

#define CRASH_POINTS_MAX 1024u
#define CRASH_NAME_SIZE 48u
#define CRASH_FILE_SIZE 48u
#define CRASH_FILE_ENV "BERTH_CRASH_FILE"      /* path; read by crash_points_open */
enum { CRASH_NOWHERE, CRASH_ROWS, CRASH_ANY }; /* crash_file.armed */

struct crash_row {
	char name[CRASH_NAME_SIZE];
	char file[CRASH_FILE_SIZE]; /* of the source, as the compiler was told */
	_Atomic uint64_t passed;
	_Atomic int64_t left; /* CRASH_ROWS: dies at the passage that takes it to 0; 0 or less: passes */
};

struct crash_file { /* zeros, when the test makes it; rows by the first writer, and all others have the same program */
	_Atomic uint32_t n;     /* rows; stored with release when all have their names */
	_Atomic uint32_t armed; /* by the test, last; taken by the one that dies */
	_Atomic int64_t left;   /* CRASH_ANY: the same for all rows together */
	_Atomic uint32_t died;  /* 1 + row: where the last one did */
	_Atomic uint32_t died_pid;
	struct crash_row rows[CRASH_POINTS_MAX];
};

struct crash_point {
	const char *name, *file;
	uint32_t row;
} __attribute__((aligned(32)));

void crash_points_open(void);
void crash_point_pass(const struct crash_point *);

#define CRASH_POINT(name_) \
	do { \
		static struct crash_point crash_point_##name_ \
			__attribute__((section("crash_points"), used)) = {#name_, __FILE__, 0}; \
		crash_point_pass(&crash_point_##name_); \
	} while (0)
#else
#define CRASH_POINT(name) ((void)0)
#define crash_points_open() ((void)0)
#endif

#endif
