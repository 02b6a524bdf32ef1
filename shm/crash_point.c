/* SPDX-License-Identifier: MIT
 * crash_point.h, of the torture build alone. */
#include "crash_point.h"

#ifdef BERTH_TORTURE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The linker's. Weak: a program without the writer has no point. */
extern struct crash_point __start_crash_points[] __attribute__((weak, visibility("hidden")));
extern struct crash_point __stop_crash_points[] __attribute__((weak, visibility("hidden")));

static struct crash_file *file; /* set before there is another thread */

/* Points in functions of headers are there once for each file that has them: a name has one row. */
static uint32_t row_of(const struct crash_point *p, uint32_t *n)
{
	for (uint32_t i = 0; i < *n; i++)
		if (strcmp(file->rows[i].name, p->name) == 0)
			return i;
	if (*n == CRASH_POINTS_MAX || strlen(p->name) >= CRASH_NAME_SIZE || strlen(p->file) >= CRASH_FILE_SIZE) {
		fprintf(stderr, "crash point %s of %s: longer names than %u and %u, or more than %u points\n", p->name,
			p->file, CRASH_NAME_SIZE - 1, CRASH_FILE_SIZE - 1, CRASH_POINTS_MAX);
		abort();
	}
	snprintf(file->rows[*n].name, CRASH_NAME_SIZE, "%s", p->name);
	snprintf(file->rows[*n].file, CRASH_FILE_SIZE, "%s", p->file);
	return (*n)++;
}

void crash_points_open(void)
{
	const char *path = getenv(CRASH_FILE_ENV);
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	uint32_t n;

	if (fd < 0)
		return;
	file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (file == MAP_FAILED) {
		perror(path);
		abort();
	}
	n = atomic_load_explicit(&file->n, memory_order_acquire);
	for (struct crash_point *p = __start_crash_points; p < __stop_crash_points; p++)
		p->row = row_of(p, &n);
	atomic_store_explicit(&file->n, n, memory_order_release); /* pairs with the test's load */
}

void crash_point_pass(const struct crash_point *p)
{
	struct crash_row *row;
	uint32_t armed;

	if (!file)
		return;
	row = &file->rows[p->row];
	atomic_fetch_add_explicit(&row->passed, 1, memory_order_relaxed);
	armed = atomic_load_explicit(&file->armed, memory_order_acquire); /* pairs with the test's store */
	if (armed == CRASH_NOWHERE)
		return;
	if (atomic_fetch_sub_explicit(armed == CRASH_ANY ? &file->left : &row->left, 1, memory_order_relaxed) != 1)
		return; /* not yet */
	if (atomic_exchange_explicit(&file->armed, CRASH_NOWHERE, memory_order_relaxed) == CRASH_NOWHERE)
		return; /* another thread dies, or in a take-over the other process */
	atomic_store_explicit(&file->died_pid, (uint32_t)getpid(), memory_order_relaxed);
	atomic_store_explicit(&file->died, p->row + 1, memory_order_release); /* pairs with the test's load */
	for (;;) /* as kill -9: nothing is cleaned up, and this thread does not come back */
		kill(getpid(), SIGKILL);
}
#endif
