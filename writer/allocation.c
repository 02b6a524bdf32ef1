/* SPDX-License-Identifier: MIT
 * Memory for the files of tables: huge pages where the kernel gives them (MADV_COLLAPSE on tmpfs), others where not.
 * And a thread that gets it, for a growth: making huge pages takes milliseconds for each call, for the kernel first asks
 * every processor to give back what it holds, and the control thread may not pause that long.
 *
 * The thread knows two descriptors and a size, nothing of the table. It ends by itself, or is told to between two chunks
 * (allocation_end), and is always joined by the control thread, which alone calls what is in this file. */
#include "table_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statvfs.h>

#include "../shm/crash_point.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; the C library's headers may be older */
#endif
#define CHUNK (64u << 20)

/* Multiples of SEG_HUGE. What this leaves undone, file_allocate does. */
static void make_huge(int fd, uint64_t from, uint64_t to)
{
	void *p;

	/* The kernel makes a huge page of a range that holds a page, by copying what is there; this one is the last, so that
	 * the file reaches as far as the huge page. */
	for (uint64_t page = from + SEG_HUGE; page <= to; page += SEG_HUGE)
		if (posix_fallocate(fd, (off_t)(page - SHM_PAGE), SHM_PAGE) != 0)
			return;
	p = seg_map_file(fd, from, to - from, PROT_READ | PROT_WRITE, 0);
	if (p == MAP_FAILED)
		return;
	(void)!madvise(p, to - from, MADV_COLLAPSE);
	munmap(p, to - from);
}

static int allocate_chunk(int fd, uint64_t from, uint64_t to, bool huge)
{
	uint64_t first = from / SEG_HUGE * SEG_HUGE, last = to / SEG_HUGE * SEG_HUGE;
	int e;

	if (huge && first < last)
		make_huge(fd, first, last);
	do
		e = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
	while (e == EINTR);
	CRASH_POINT(table_memory_allocated);
	errno = e;
	return e ? -1 : 0;
}

static uint64_t chunk_end(uint64_t from, uint64_t to)
{
	uint64_t end = (from / CHUNK + 1) * CHUNK;

	return end < to ? end : to;
}

int file_allocate(int fd, uint64_t from, uint64_t to, bool huge)
{
	while (from < to) {
		uint64_t next = chunk_end(from, to);

		if (allocate_chunk(fd, from, next, huge) != 0)
			return -1;
		from = next;
	}
	return 0;
}

uint64_t file_system_lacks(int fd, uint64_t bytes, uint64_t *left)
{
	struct statvfs s;
	uint64_t blocks;

	*left = 0;
	/* Without a limit (tmpfs with size=0, hugetlbfs without one) it says 0 blocks, or more than there can be. */
	if (fstatvfs(fd, &s) != 0 || s.f_frsize == 0 || s.f_blocks == 0)
		return 0;
	*left = s.f_bfree; /* not f_bavail: what is kept for root may be ours */
	blocks = (bytes + s.f_frsize - 1) / s.f_frsize;
	return blocks > s.f_bfree ? (blocks - s.f_bfree) * s.f_frsize : 0;
}

struct allocation {
	pthread_t thread;
	struct allocation_part parts[2];
	uint64_t to;
	bool huge;
	int error; /* errno; read once done is seen */
	_Atomic bool stop;
	_Atomic bool done; /* stored last (release), loaded with acquire */
};

static void *run(void *arg)
{
	struct allocation *a = arg;

	for (unsigned i = 0; i < 2 && a->error == 0; i++) {
		struct allocation_part *p = &a->parts[i];

		while (p->at < a->to && a->error == 0 && !atomic_load_explicit(&a->stop, memory_order_relaxed)) {
			uint64_t next = chunk_end(p->at, a->to);

			if (allocate_chunk(p->fd, p->at, next, a->huge) != 0)
				a->error = errno ? errno : ENOSPC;
			else
				p->at = next;
		}
	}
	atomic_store_explicit(&a->done, true, memory_order_release); /* pairs with allocation_done */
	return NULL;
}

struct allocation *allocation_start(const struct allocation_part parts[2], uint64_t to, bool huge)
{
	struct allocation *a = calloc(1, sizeof *a);
	sigset_t all, before;
	int rc;

	if (!a)
		return NULL;
	a->parts[0] = parts[0];
	a->parts[1] = parts[1];
	a->to = to;
	a->huge = huge;
	sigfillset(&all); /* signals are the control thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&a->thread, NULL, run, a);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0)
		return a;
	free(a);
	return NULL;
}

bool allocation_done(const struct allocation *a)
{
	return atomic_load_explicit(&a->done, memory_order_acquire);
}

int allocation_end(struct allocation **ap, struct allocation_part parts[2], bool wait)
{
	struct allocation *a = *ap;
	int e;

	*ap = NULL;
	if (!wait)
		atomic_store_explicit(&a->stop, true, memory_order_relaxed);
	pthread_join(a->thread, NULL);
	e = a->error;
	parts[0] = a->parts[0];
	parts[1] = a->parts[1];
	free(a);
	errno = e;
	return e ? -1 : 0;
}
