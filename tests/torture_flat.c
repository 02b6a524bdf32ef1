/* SPDX-License-Identifier: MIT
 * torture.h: are the samples flat? Flat is: the median of the last quarter of the run is not above that of the second one by
 * more than a tolerance; of what is the daemon's own, not above that of the third: one daemon lives from three eighths of the
 * run to its end, so that what it leaks adds up. What comes before is for warming up. Coordinator only; uses cmocka. */
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>

#include "torture.h"
#include "torture_sample.h"

static const struct {
	const char *name;
	double percent, besides;
	enum of of;
} quantities[QUANTITIES_N] = {
#define X(name, percent, besides, of) {#name, percent, besides, of},
	QUANTITIES(X)
#undef X
};

static int by_size(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of the samples of one part of the run, in eighths of it. */
static double median(enum quantity q, unsigned from, unsigned to)
{
	static double sorted[S_MOST];
	double eighth = (double)t_samples.length_ms / 8000;
	unsigned n = 0;

	for (unsigned i = 0; i < t_samples.n; i++)
		if (t_samples.at[i] >= from * eighth && t_samples.at[i] < to * eighth)
			sorted[n++] = t_samples.values[q][i];
	if (n < 5)
		fail_msg("only %u samples in eighths %u to %u of the run", n, from, to);
	qsort(sorted, n, sizeof sorted[0], by_size);
	return sorted[n / 2];
}

static bool grew(enum quantity q, double before, double after)
{
	return after > before * (1 + quantities[q].percent / 100) + quantities[q].besides;
}

void t_sample_judge(void)
{
	unsigned n_grown = 0;

	printf("note: medians of the second, third and last quarter (growth that is allowed, to the last from "
	       "where):\n");
	for (enum quantity q = 0; q < QUANTITIES_N; q++) {
		double second = median(q, 2, 4), third = median(q, 4, 6), last = median(q, 6, 8);
		bool own = quantities[q].of == OF_DAEMON, bad = grew(q, own ? third : second, last);

		printf("note: %-20s %8.0f %8.0f %8.0f (%2.0f %% + %.0f from the %s)%s\n", quantities[q].name, second,
		       third, last, quantities[q].percent, quantities[q].besides, own ? "third" : "second",
		       bad ? " GREW" : "");
		n_grown += bad;
	}
	fflush(stdout);
	if (n_grown)
		fail_msg("%u quantities have grown", n_grown);
}

/* Reported of every run, and at most so much: a table of the most partitions that there can be, twice, a reserve, the pins,
 * and the arrays of the processes. */
void t_sample_bounded(double most_kb)
{
	double most[QUANTITIES_N] = {0};
	const double *capacity = t_samples.values[Q_capacity];
	unsigned n_larger = 0, n_smaller = 0;

	for (unsigned q = 0; q < QUANTITIES_N; q++)
		for (unsigned i = 0; i < t_samples.n; i++)
			if (t_samples.values[q][i] > most[q])
				most[q] = t_samples.values[q][i];
	for (unsigned i = 1; i < t_samples.n; i++) {
		n_larger += capacity[i] > capacity[i - 1];
		n_smaller += capacity[i] < capacity[i - 1];
	}
	printf("note: %u samples; from one to the next the table had become larger %u times, smaller %u times; at "
	       "most: ",
	       t_samples.n, n_larger, n_smaller);
	for (unsigned q = 0; q < QUANTITIES_N; q++)
		printf("%s %.0f%s", quantities[q].name, most[q], q + 1 < QUANTITIES_N ? ", " : "\n");
	if (most[Q_instance_kb] > most_kb)
		fail_msg("the instance's files had %.0f kB, more than %.0f", most[Q_instance_kb], most_kb);
}
