/* SPDX-License-Identifier: MIT
 * Time, processors, samples. Called by every workload. */
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

#define CALIBRATIONS 10001

void fail(const char *format, ...)
{
	va_list arguments;

	fflush(stdout);
	fprintf(stderr, "%s: ", program_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

void pin_to(int cpu)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0 || !CPU_ISSET((size_t)cpu, &set))
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fail("cannot pin to CPU %d", cpu);
}

void pin_nowhere(void)
{
	cpu_set_t set;

	memset(&set, 0xff, sizeof(set)); /* the kernel leaves those out that are not ours */
	(void)!sched_setaffinity(0, sizeof(set), &set);
}

static uint64_t read_clock(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* What two readings of a clock in a row are apart: the median of many. */
static double clock_cost(clockid_t clock)
{
	static double v[CALIBRATIONS];

	for (unsigned i = 0; i < CALIBRATIONS; i++) {
		uint64_t from = read_clock(clock);

		v[i] = (double)(read_clock(clock) - from);
	}
	qsort(v, CALIBRATIONS, sizeof(v[0]), compare);
	return v[CALIBRATIONS / 2];
}

static double elapsed(clockid_t clock, uint64_t from, double *cost)
{
	double t = (double)(read_clock(clock) - from);

	if (*cost < 0)
		*cost = clock_cost(clock);
	return t > *cost ? t - *cost : 0;
}

uint64_t now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}
uint64_t busy_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

double elapsed_ns(uint64_t from)
{
	static double cost = -1;

	return elapsed(CLOCK_MONOTONIC, from, &cost);
}

double busy_elapsed_ns(uint64_t from)
{
	static double cost = -1;

	return elapsed(CLOCK_THREAD_CPUTIME_ID, from, &cost);
}

uint64_t ticks_begin(void)
{
#if defined(__x86_64__)
	uint64_t t;

	__builtin_ia32_lfence(); /* what came before is done */
	t = __builtin_ia32_rdtsc();
	__builtin_ia32_lfence();
	return t;
#else
	uint64_t t;

	__asm__ volatile("isb; mrs %0, cntvct_el0; isb" : "=r"(t)::"memory");
	return t;
#endif
}

uint64_t ticks_end(void)
{
#if defined(__x86_64__)
	unsigned cpu;
	uint64_t t = __builtin_ia32_rdtscp(&cpu); /* what came before is done */

	__builtin_ia32_lfence();
	return t;
#else
	return ticks_begin();
#endif
}

#define TICKS_CALIBRATE_NS 20000000u

double ticks_ns(uint64_t ticks)
{
	static double ns_a_tick;

	if (ns_a_tick <= 0) {
		uint64_t from = read_clock(CLOCK_MONOTONIC), at = ticks_begin(), now;

		do
			now = read_clock(CLOCK_MONOTONIC);
		while (now - from < TICKS_CALIBRATE_NS);
		ns_a_tick = (double)(now - from) / (double)(ticks_begin() - at);
	}
	return (double)ticks * ns_a_tick;
}

uint64_t ticks_cost(void)
{
	static double v[CALIBRATIONS];
	static uint64_t cost;

	if (cost == 0) {
		for (unsigned i = 0; i < CALIBRATIONS; i++) {
			uint64_t from = ticks_begin();

			v[i] = (double)(ticks_end() - from);
		}
		qsort(v, CALIBRATIONS, sizeof(v[0]), compare);
		cost = (uint64_t)v[CALIBRATIONS / 2];
	}
	return cost;
}

void add_sample(struct samples *s, double value)
{
	if (s->n == SAMPLES_MAX)
		fail("more than %u samples", SAMPLES_MAX);
	s->v[s->n++] = value;
}

double quantile(const struct samples *s, double q)
{
	double v[SAMPLES_MAX], at;
	unsigned below;

	if (s->n == 0)
		fail("a figure without a run");
	memcpy(v, s->v, s->n * sizeof(v[0]));
	qsort(v, s->n, sizeof(v[0]), compare);
	at = q * (s->n - 1);
	below = (unsigned)at;
	return below + 1 == s->n ? v[below] : v[below] + (at - below) * (v[below + 1] - v[below]);
}

uint64_t random_u64(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}
