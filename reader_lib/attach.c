/* SPDX-License-Identifier: MIT
 * berth_attach and berth_detach: the handle that a process has on an instance. Any thread, once each. Upkeep in between
 * is in maintain.c, readers in reader.c. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define READERS_DEFAULT 64
#define LEASES_DEFAULT 4096
#define WAIT_MS_DEFAULT 1000
#define BACKLOG_WAIT_MS 5
#define VISIT_MS 100 /* to be seen by membarriers (shm/grace.h), or to fence */

static bool zeros(const unsigned char *p, size_t n)
{
	while (n > 0)
		if (p[--n] != 0)
			return false;
	return true;
}

/* Options of a caller that was built with an older or a newer header: what we do not know must be zero. */
static int read_options(const struct berth_attach_options *given, struct berth *b)
{
	struct berth_attach_options o = {0};

	if (given) {
		size_t size = given->size;

		if (size < sizeof o.size || size > SHM_PAGE)
			return BERTH_E_INVAL;
		memcpy(&o, given, size < sizeof o ? size : sizeof o);
		if (size > sizeof o && !zeros((const unsigned char *)given + sizeof o, size - sizeof o))
			return BERTH_E_INVAL;
		if (!zeros((const unsigned char *)o.reserved, sizeof o.reserved))
			return BERTH_E_INVAL;
	}
	if (o.writes > BERTH_WRITES_NONE || o.cursors > BERTH_CURSORS_PIN || o.max_readers > BERTH_MAX_READERS ||
	    o.max_leases > BERTH_MAX_LEASES || (o.max_leases && o.writes != BERTH_WRITES_BRACKETED))
		return BERTH_E_INVAL;
	b->writes = o.writes;
	b->cursors = o.cursors;
	b->max_readers = o.max_readers ? o.max_readers : READERS_DEFAULT;
	if (o.writes == BERTH_WRITES_BRACKETED)
		b->max_leases = o.max_leases ? o.max_leases : LEASES_DEFAULT;
	if ((uint64_t)b->max_readers * b->max_leases > SHM_LEASES_TOTAL_MAX)
		return BERTH_E_INVAL;
	b->wait_ms = o.wait_ms == BERTH_NO_WAIT ? 0 : o.wait_ms ? o.wait_ms : WAIT_MS_DEFAULT;
	return BERTH_OK;
}

/* The path is asked again when the instance has been replaced, whatever the working directory is then. */
static int read_path(const char *dir_or_instance, struct berth *b)
{
	size_t n;
	int rc = seg_dir_path(dir_or_instance, b->path, sizeof b->path);

	if (rc != BERTH_OK || b->path[0] == '/')
		return rc;
	if (!getcwd(b->path, sizeof b->path))
		return BERTH_E_SYSTEM;
	n = strlen(b->path);
	b->path[n++] = '/';
	return seg_dir_path(dir_or_instance, b->path + n, sizeof b->path - n);
}

static void *pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int make_memory(struct berth *b)
{
	b->page = pages(SHM_PAGE);
	b->readers = pages(b->max_readers * sizeof *b->readers);
	if (!b->page || !b->readers)
		return BERTH_E_NOMEM;
	if (madvise(b->page, SHM_PAGE, MADV_WIPEONFORK) != 0)
		return BERTH_E_SYSTEM;
	atomic_store_explicit(b->page, 1, memory_order_relaxed);
	return BERTH_OK;
}

static void destroy(struct berth *b)
{
	/* Unmaps the registrations before the socket's end makes the writer look. */
	for (struct attachment *at = b->retired, *next; at; at = next) {
		next = at->retired;
		bl_attachment_put(at);
	}
	bl_attachment_put(b->now);
	bl_connection_close(&b->conn);
	if (b->readers)
		munmap(b->readers, b->max_readers * sizeof *b->readers);
	if (b->page)
		munmap(b->page, SHM_PAGE);
	free(b);
}

/* Steps until registered, refused, or out of time. */
static int wait_for_writer(struct berth *b)
{
	uint64_t end = seg_clock_ms(CLOCK_MONOTONIC) + b->wait_ms;

	for (;;) {
		int rc = bl_link_step(b);
		uint64_t now = seg_clock_ms(CLOCK_MONOTONIC), wait = end - now;
		struct pollfd p = {.fd = b->conn.fd, .events = POLLIN};

		if (rc != BERTH_E_AGAIN)
			return rc;
		if (now >= end)
			return BERTH_E_WRITER_DOWN; /* berth_maintain goes on from here */
		if (p.fd < 0 && wait > BACKLOG_WAIT_MS)
			wait = BACKLOG_WAIT_MS;
		poll(&p, 1, wait > INT_MAX ? INT_MAX : (int)wait);
	}
}

int berth_attach(const char *dir_or_instance, const struct berth_attach_options *options, struct berth **out)
{
	struct berth *b;
	int rc;

	if (!out)
		return BERTH_E_INVAL;
	b = calloc(1, sizeof *b);
	if (!b)
		return BERTH_E_NOMEM;
	bl_connection_init(&b->conn);
	rc = read_options(options, b);
	if (rc == BERTH_OK)
		rc = read_path(dir_or_instance, b);
	if (rc == BERTH_OK)
		rc = make_memory(b);
	if (rc == BERTH_OK)
		rc = bl_attachment_open(b->path, -1, &b->now);
	if (rc == BERTH_OK) {
		b->membarrier = grace_register_within(VISIT_MS) == 0;
		rc = wait_for_writer(b);
	}
	if (rc != BERTH_OK && rc != BERTH_E_WRITER_DOWN) {
		int saved = errno;

		destroy(b);
		errno = saved;
		return rc;
	}
	*out = b;
	return BERTH_OK;
}

static bool leases_open(const struct berth *b)
{
	for (const struct attachment *at = b->retired; at; at = at->retired)
		if (bl_leases_open(at))
			return true;
	return bl_leases_open(b->now);
}

int berth_detach(struct berth **handle)
{
	struct berth *b;

	if (!handle)
		return BERTH_E_INVAL;
	b = *handle;
	if (!b)
		return BERTH_OK;
	if (forked(b->page)) {
		for (uint32_t i = 0; i < b->max_readers; i++) { /* their threads are not here to close them */
			struct berth_reader *r = &b->readers[i];

			if (atomic_load_explicit(&r->open, memory_order_relaxed) != 0 && r->owner)
				berth_reader_close(&r);
		}
		bl_attachment_abandon(b->now);
		b->now = NULL;
		for (struct attachment *at = b->retired, *next; at; at = next) {
			next = at->retired;
			bl_attachment_abandon(at);
		}
		b->retired = NULL;
	} else if (atomic_load_explicit(&b->n_open, memory_order_acquire) != 0) { /* pairs with berth_reader_close */
		return BERTH_E_BUSY;
	} else if (leases_open(b)) {
		return BERTH_E_BUSY;
	}
	*handle = NULL;
	destroy(b);
	return BERTH_OK;
}
