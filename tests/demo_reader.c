/* SPDX-License-Identifier: MIT
 * The reader processes of `make demo`, and its document. Run by tests/demo:
 *
 *   demo_reader document PARTITIONS CLUSTERS           prints a placement document, in the form that osproxy polls
 *   demo_reader read DIR PARTITIONS READERS            routes all the time until SIGTERM, then prints what it counted;
 *                                                      exit code 1 when something failed, was mixed, or went back
 *
 * Each placement proves itself: the index of a partition ends with the name of its cluster, so half an old and half a
 * new placement would not fit. One look-up in SAMPLE is timed by itself, with what the timer costs taken off. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"

#define READERS_MAX 64u
#define SAMPLE 64u    /* look-ups for one that is timed */
#define DETAILS 512u  /* ... for one of the whole placement */
#define UPKEEP 16384u /* ... for one berth_maintain */
#define TIMER_TRIES 4096u
#define KEY_ROOM 16u
#define SUB_BITS 5u /* the histogram's buckets are at most 1/32 of their value wide */
#define BUCKETS (64u << SUB_BITS)

struct report { /* of one process, in memory that the first one shares */
	uint64_t lookups, failed, mixed, back, details, admitted, held_back, maintained;
	uint64_t ns, ticks; /* how long it ran, in both */
	uint64_t timer;     /* ticks between two readings of the timer */
	uint64_t samples, longest;
	uint64_t histogram[BUCKETS]; /* of ticks */
	char first[160];
};

static volatile sig_atomic_t stop;
static pid_t pids[READERS_MAX]; /* of the readers; none in a reader */
static volatile sig_atomic_t n_pids;

static void on_signal(int number)
{
	stop = 1;
	for (int i = 0; i < n_pids; i++)
		kill(pids[i], number);
}

/* ---- the document ----------------------------------------------------------------------------------------------- */

static int key_of(char key[KEY_ROOM], unsigned i)
{
	return snprintf(key, KEY_ROOM, "tenant-%06u", i % 1000000);
}

static int print_document(unsigned partitions, unsigned clusters)
{
	char key[KEY_ROOM];

	printf("{\"partitions\": {");
	for (unsigned i = 0; i < partitions; i++) {
		unsigned c = 1 + i % clusters;

		key_of(key, i);
		printf("%s\n\"%s\": {\"mode\": \"", i ? "," : "", key);
		switch (i % 3) {
		case 0:
			printf("dedicated-index\", \"cluster\": \"c%u\", \"index\": \"%s-c%u\"}", c, key, c);
			break;
		case 1:
			printf("shared-index\", \"cluster\": \"c%u\", \"index\": \"shared-c%u\"}", c, c);
			break;
		default:
			printf("dedicated-cluster\", \"cluster\": \"c%u\"}", c);
		}
	}
	printf("}}\n");
	return fflush(stdout) != 0;
}

/* ---- timing ----------------------------------------------------------------------------------------------------- */

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* In order with what comes before and after it. */
static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
#else
	return clock_ns();
#endif
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t timer_cost(void)
{
	static uint64_t cost[TIMER_TRIES];

	for (unsigned i = 0; i < TIMER_TRIES; i++) {
		uint64_t t = ticks();

		cost[i] = ticks() - t;
	}
	qsort(cost, TIMER_TRIES, sizeof *cost, by_value);
	return cost[TIMER_TRIES / 2];
}

static unsigned bucket_of(uint64_t v)
{
	unsigned shift;

	if (v < 1u << SUB_BITS)
		return (unsigned)v;
	shift = 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;
	return ((shift + 1) << SUB_BITS) + (unsigned)(v >> shift & ((1u << SUB_BITS) - 1));
}

static uint64_t bucket_end(unsigned b)
{
	unsigned shift = b >> SUB_BITS;

	if (shift == 0)
		return b;
	return ((uint64_t)((1u << SUB_BITS) + (b & ((1u << SUB_BITS) - 1))) << (shift - 1)) + (1ull << (shift - 1)) - 1;
}

/* ---- a reader --------------------------------------------------------------------------------------------------- */

static void note(struct report *r, uint64_t *count, const char *what, const char *key, int code)
{
	if ((*count)++ == 0 && !r->first[0])
		snprintf(r->first, sizeof r->first, "%s: %s (%s)", what, key, berth_strerror(code));
}

/* Does all that is known of the partition fit together? */
static void check_details(struct berth_reader *reader, struct report *r, const char *key, size_t len)
{
	struct berth_placement p;
	struct berth_cluster c;
	char index[2 * KEY_ROOM + 64];
	int rc;

	berth_read_begin(reader);
	rc = berth_lookup(reader, key, len, &p);
	if (rc == BERTH_OK)
		rc = berth_cluster(reader, p.cluster, &c);
	r->details++;
	if (rc != BERTH_OK) {
		note(r, &r->failed, "look-up of everything", key, rc);
	} else {
		snprintf(index, sizeof index, "%s-%s", p.kind == BERTH_DEDICATED_INDEX ? key : "shared", c.id);
		if (p.kind == BERTH_DEDICATED_CLUSTER)
			index[0] = '\0';
		if (strcmp(index, p.index) != 0 || p.n_inject != (p.kind == BERTH_SHARED_INDEX) || p.epoch == 0 ||
		    p.is_default)
			note(r, &r->mixed, "placement that does not fit together", key, rc);
	}
	berth_read_end(reader);
}

static void read_all(struct berth *b, struct berth_reader *reader, struct report *r, unsigned partitions)
{
	char(*keys)[KEY_ROOM] = calloc(partitions, KEY_ROOM);
	uint64_t *seen = calloc(partitions, sizeof *seen), random = (uint64_t)getpid() * 0x9e3779b97f4a7c15u | 1;

	if (!keys || !seen)
		return;
	for (unsigned i = 0; i < partitions; i++)
		key_of(keys[i], i);
	r->timer = timer_cost();
	r->ns = clock_ns();
	r->ticks = ticks();
	for (uint64_t n = 1; !stop; n++) {
		struct berth_route at;
		char key[KEY_ROOM]; /* a proxy has just read it from a request */
		unsigned i;
		int rc;

		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		i = (unsigned)((random >> 32) * partitions >> 32);
		memcpy(key, keys[i], KEY_ROOM);
		if (n % SAMPLE == 0) {
			uint64_t start = ticks(), took;

			rc = berth_route(reader, key, KEY_ROOM - 3, &at);
			took = ticks() - start;
			took -= took < r->timer ? took : r->timer;
			r->histogram[bucket_of(took)]++;
			r->samples++;
			if (took > r->longest)
				r->longest = took;
		} else {
			rc = berth_route(reader, key, KEY_ROOM - 3, &at);
		}
		r->lookups++;
		if (rc != BERTH_OK) {
			note(r, &r->failed, "look-up", key, rc);
			continue;
		}
		if (at.epoch < seen[i])
			note(r, &r->back, "epoch that went back", key, rc);
		seen[i] = at.epoch;
		if (n % DETAILS == 0) {
			check_details(reader, r, key, KEY_ROOM - 3);
			rc = berth_admit(reader, key, KEY_ROOM - 3, at.epoch);
			r->admitted += rc == BERTH_OK;
			r->held_back += rc == BERTH_E_CUTOVER || rc == BERTH_E_STALE;
			if (rc != BERTH_OK && rc != BERTH_E_CUTOVER && rc != BERTH_E_STALE)
				note(r, &r->failed, "gate", key, rc);
		}
		if (n % UPKEEP == 0) {
			berth_maintain(b);
			r->maintained++;
		}
	}
	r->ticks = ticks() - r->ticks;
	r->ns = clock_ns() - r->ns;
}

static int be_reader(const char *dir, struct report *r, unsigned partitions)
{
	struct berth_attach_options options = {.size = sizeof options, .max_readers = 1};
	struct berth_reader *reader = NULL;
	struct berth *b = NULL;
	int rc = berth_attach(dir, &options, &b);

	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &reader);
	if (rc == BERTH_OK)
		read_all(b, reader, r, partitions);
	else
		note(r, &r->failed, "attach", dir, rc);
	berth_reader_close(&reader);
	berth_detach(&b);
	return 0;
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static double percentile(const struct report *sum, double share)
{
	uint64_t want = (uint64_t)((double)sum->samples * share), passed = 0;

	for (unsigned b = 0; b < BUCKETS; b++) {
		passed += sum->histogram[b];
		if (passed > want)
			return (double)bucket_end(b) * (double)sum->ns / (double)sum->ticks;
	}
	return 0;
}

static int print_sum(const struct report *reports, unsigned n)
{
	struct report sum = {0};
	double seconds = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct report *r = &reports[i];

		sum.lookups += r->lookups;
		sum.failed += r->failed;
		sum.mixed += r->mixed;
		sum.back += r->back;
		sum.details += r->details;
		sum.held_back += r->held_back;
		sum.samples += r->samples;
		sum.ns += r->ns;
		sum.ticks += r->ticks;
		sum.timer += r->timer / n;
		if (r->longest > sum.longest)
			sum.longest = r->longest;
		seconds = (double)r->ns / 1e9 > seconds ? (double)r->ns / 1e9 : seconds;
		for (unsigned b = 0; b < BUCKETS; b++)
			sum.histogram[b] += r->histogram[b];
		if (r->first[0])
			printf("reader %u: first of what went wrong: %s\n", i, r->first);
	}
	if (sum.lookups == 0 || sum.samples == 0 || sum.details == 0) {
		printf("the readers looked nothing up\n");
		return 1;
	}
	printf("look-ups by %u processes           %14" PRIu64 "   in %.1f s\n", n, sum.lookups, seconds);
	printf("look-ups per second, all together %14.0f\n", (double)sum.lookups / seconds);
	printf("one look-up, p50                  %14.0f ns   (%" PRIu64
	       " timed singly, %.0f ns of timer taken off each)\n",
	       percentile(&sum, 0.50), sum.samples, (double)sum.timer * (double)sum.ns / (double)sum.ticks);
	printf("             p99                  %14.0f ns\n", percentile(&sum, 0.99));
	printf("             p99.9                %14.0f ns\n", percentile(&sum, 0.999));
	printf("failed look-ups                   %14" PRIu64 "\n", sum.failed);
	printf("mixed answers                     %14" PRIu64 "   of %" PRIu64 " whole placements checked\n", sum.mixed,
	       sum.details);
	printf("epochs that went back             %14" PRIu64 "\n", sum.back);
	return sum.failed || sum.mixed || sum.back;
}

static int read_with(const char *dir, unsigned partitions, unsigned n)
{
	struct report *reports =
		mmap(NULL, n * sizeof *reports, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	pid_t parent = getpid();
	sigset_t term;
	int status, bad = 0;

	if (reports == MAP_FAILED)
		return 2;
	signal(SIGINT, SIG_IGN); /* tests/demo says when it is over */
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL); /* until each child is known, and each child knows that it is one */
	sigaction(SIGTERM, &action, NULL);
	for (unsigned i = 0; i < n; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			n_pids = 0;
			sigprocmask(SIG_UNBLOCK, &term, NULL);
			_exit(getppid() == parent ? be_reader(dir, &reports[i], partitions) : 0);
		}
		if (pids[i] < 0) {
			printf("no process for reader %u: %s\n", i, strerror(errno));
			bad = 1;
			break;
		}
		n_pids = n_pids + 1;
	}
	sigprocmask(SIG_UNBLOCK, &term, NULL);
	for (int i = 0; i < n_pids; i++) {
		while (waitpid(pids[i], &status, 0) < 0 && errno == EINTR)
			;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			printf("a reader ended with status %#x\n", (unsigned)status);
			bad = 1;
		}
	}
	return print_sum(reports, n) || bad;
}

int main(int argc, char **argv)
{
	unsigned partitions, clusters, readers;

	if (argc == 4 && strcmp(argv[1], "document") == 0) {
		partitions = (unsigned)strtoul(argv[2], NULL, 10);
		clusters = (unsigned)strtoul(argv[3], NULL, 10);
		if (partitions > 0 && partitions <= 1000000 && clusters > 0)
			return print_document(partitions, clusters);
	}
	if (argc == 5 && strcmp(argv[1], "read") == 0) {
		partitions = (unsigned)strtoul(argv[3], NULL, 10);
		readers = (unsigned)strtoul(argv[4], NULL, 10);
		if (partitions > 0 && partitions <= 1000000 && readers > 0 && readers <= READERS_MAX)
			return read_with(argv[2], partitions, readers);
	}
	fprintf(stderr, "usage: %s document PARTITIONS CLUSTERS | read DIR PARTITIONS READERS\n", argv[0]);
	return 2;
}
