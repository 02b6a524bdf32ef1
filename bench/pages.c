/* SPDX-License-Identifier: MIT
 * The same table on huge pages and on pages of 4 KiB, and what one cache miss costs there: a pointer chase through as
 * many lines as the table has entries, on pages of the same kind. A look-up that waits for the one before it needs an
 * entry that is nowhere in the caches, as the chase needs a line: what it takes more than that is berth's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "place.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define CALLS (1u << 18)
#define CALLS_QUICK (1u << 16)
#define LINE 64u
#define SIDES 2u /* huge pages, and 4 KiB pages */
#define QUICK 100000u
#define MEDIUM 1000000u
#define LARGE 10000000u
#define RATIO_GOAL 1.3

/* ---- what is mapped how -------------------------------------------------------------------------------------- */

struct mapped {
	uint64_t at, bytes, huge;
};

/* All mappings of this process whose line in smaps has `what`; a file, or an address. */
static struct mapped find_mapped(const char *what)
{
	struct mapped m = {0};
	unsigned long long from, to, kib;
	FILE *f = fopen("/proc/self/smaps", "r");
	bool ours = false;
	char line[4352];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-%llx ", &from, &to) == 2) {
			ours = strstr(line, what);
			m.bytes += ours ? to - from : 0;
			m.at = ours && m.at == 0 ? from : m.at;
		} else if (ours && (sscanf(line, "ShmemPmdMapped: %llu", &kib) == 1 ||
				    sscanf(line, "FilePmdMapped: %llu", &kib) == 1)) {
			m.huge += kib * 1024;
		}
	}
	if (f)
		fclose(f);
	if (m.bytes == 0)
		fail("/proc/self/smaps has no mapping of %s", what);
	return m;
}

static double part_huge(const struct mapped *m)
{
	return 100.0 * (double)m->huge / (double)m->bytes;
}

/* ---- one dependent miss -------------------------------------------------------------------------------------- */

struct chase {
	char *lines; /* each begins with the offset of the next: one cycle through all of them */
	size_t size, at;
	double huge; /* percent of it */
};

/* Sattolo's algorithm: line i is followed by line next[i]. */
static void link_lines(struct chase *c, uint32_t n)
{
	uint32_t *next = malloc(n * sizeof(*next)), with, other;
	uint64_t state = 4711;

	if (!next)
		fail("no memory for %u numbers", n);
	for (uint32_t i = 0; i < n; i++)
		next[i] = i;
	for (uint32_t i = n - 1; i > 0; i--) {
		with = (uint32_t)((random_u64(&state) >> 32) * i >> 32);
		other = next[with];
		next[with] = next[i];
		next[i] = other;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint64_t offset = (uint64_t)next[i] * LINE;

		memcpy(c->lines + (size_t)i * LINE, &offset, sizeof(offset));
	}
	free(next);
}

static void chase_make(const struct bench *b, struct chase *c, uint32_t n_lines, bool huge)
{
	int fd = memfd_create("chase", MFD_CLOEXEC);
	struct mapped m;
	char address[32];

	*c = (struct chase){.size = ((size_t)n_lines * LINE + SEG_HUGE - 1) / SEG_HUGE * SEG_HUGE};
	if (fd < 0 || ftruncate(fd, (off_t)c->size) != 0)
		fail("no memory for %zu bytes: %s", c->size, strerror(errno));
	c->lines = seg_map_file(fd, 0, c->size, PROT_READ | PROT_WRITE, 0);
	close(fd);
	if ((void *)c->lines == MAP_FAILED)
		fail("%zu bytes cannot be mapped: %s", c->size, strerror(errno));
	(void)!madvise(c->lines, c->size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(c->lines, 0, c->size);
	if (huge && madvise(c->lines, c->size, MADV_COLLAPSE) != 0)
		report_note(b, "the kernel makes no huge pages of %zu bytes (MADV_COLLAPSE: %s)", c->size,
			    strerror(errno));
	link_lines(c, n_lines);
	snprintf(address, sizeof(address), "%llx-", (unsigned long long)(uintptr_t)c->lines);
	m = find_mapped(address);
	c->huge = part_huge(&m);
}

static void chase_free(struct chase *c)
{
	munmap(c->lines, c->size);
}

static void follow(struct chase *c, size_t n)
{
	size_t at = c->at;

	for (size_t i = 0; i < n; i++)
		memcpy(&at, c->lines + at, sizeof(at));
	c->at = at;
}

/* One miss in ns. Goes on where it was: after lines that are not in the caches any more, unless all of them are. */
static double chase_measure(struct chase *c, uint32_t n_partitions, size_t n)
{
	uint64_t from;

	follow(c, n_partitions < LARGE ? n_partitions : n / 16); /* as place_warm does */
	from = busy_ns();
	follow(c, n);
	return busy_elapsed_ns(from) / (double)n;
}

/* ---- the workload -------------------------------------------------------------------------------------------- */

struct side {
	struct place *p;
	struct chase chase;
	double huge; /* percent of the table's mapping */
	struct samples route, bulk, chain, miss, ratio;
};

static void side_make(const struct bench *b, struct side *s, uint32_t partitions, bool small)
{
	struct mapped m;
	char file[160];

	memset(s, 0, sizeof(*s));
	s->p = place_of(b, partitions, small ? PLACE_SMALL_PAGES : 0);
	place_take(s->p, ORDER_UNIFORM);
	snprintf(file, sizeof(file), "%s/tables/table.", s->p->d.dir);
	m = find_mapped(file);
	s->huge = part_huge(&m);
	chase_make(b, &s->chase, ((const struct shm_table *)(uintptr_t)m.at)->capacity, !small);
}

static void side_measure(struct side *s, size_t n)
{
	double chain, miss;

	place_warm(s->p);
	add_sample(&s->route, place_measure_on(s->p, place_route, n));
	add_sample(&s->bulk, place_measure_on(s->p, place_route_bulk, n));
	chain = place_measure_on(s->p, place_route_chain, n);
	miss = chase_measure(&s->chase, s->p->n, n);
	add_sample(&s->chain, chain);
	add_sample(&s->miss, miss);
	add_sample(&s->ratio, chain / miss);
}

static void side_report(const struct bench *b, const struct side *s)
{
	bool alike = s->huge - s->chase.huge < 5 && s->chase.huge - s->huge < 5;
	bool small = s->p->flags & PLACE_SMALL_PAGES;
	struct samples huge = {.n = 1};
	const struct row {
		const char *name, *unit;
		const struct samples *s;
		double goal;
	} rows[] = {
		{"part of the table mapped by huge pages", "%", &huge, 0},
		{"berth_route", "ns", &s->route, 0},
		{"bulk of 32", "ns", &s->bulk, 0},
		{"berth_route, one waits for the last", "ns", &s->chain, 0},
		{"one dependent miss", "ns", &s->miss, 0},
		{"dependent look-up / one dependent miss", "ratio", &s->ratio,
		 alike && s->p->n >= LARGE ? RATIO_GOAL : 0},
	};
	static struct figure f = {.workload = "pages"};

	huge.v[0] = s->huge;
	if (!alike && s->p->n >= LARGE)
		report_note(b,
			    "no verdict: huge pages map %.0f %% of the table, but %.0f %% of what it is compared with",
			    s->huge, s->chase.huge);
	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u pages=%s", s->p->n, small ? "4KiB" : "2MiB");
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		snprintf(f.name, sizeof(f.name), "%s", rows[i].name);
		f.unit = rows[i].unit;
		f.goal = rows[i].goal;
		f.s = *rows[i].s;
		report(b, &f);
	}
}

/* n sides from `first` on, in turn. */
static void measure_sides(const struct bench *b, uint32_t partitions, unsigned first, unsigned n)
{
	static struct side sides[SIDES];

	for (unsigned i = first; i < first + n; i++)
		side_make(b, &sides[i], partitions, i == 1);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++)
		for (unsigned i = first; i < first + n; i++)
			side_measure(&sides[i], b->quick ? CALLS_QUICK : CALLS);
	pin_nowhere();
	for (unsigned i = first; i < first + n; i++) {
		side_report(b, &sides[i]);
		chase_free(&sides[i].chase);
	}
}

void workload_pages(const struct bench *b)
{
	if (b->quick) {
		measure_sides(b, QUICK, 0, SIDES);
	} else {
		measure_sides(b, MEDIUM, 0, SIDES);
		measure_sides(b, LARGE, 0, 1); /* so large that there is one at a time: place.h */
		if (b->full)
			measure_sides(b, LARGE, 1, 1);
	}
	places_release();
}
