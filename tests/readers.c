/* SPDX-License-Identifier: MIT
 * readers.h: the processes, and what the test does with them. What one of them checks is in readers_loop.c. */
#include "readers.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "readers_loop.h"

#define OPEN_MAX_ 4

static struct readers *open_ones[OPEN_MAX_];

/* ---- small things ------------------------------------------------------------------------------------------ */

uint64_t mp_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

pid_t mp_fork(void)
{
	static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGABRT, SIGTERM, SIGINT, SIGHUP};
	pid_t parent = getpid(), pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail_msg("fork");
	if (pid > 0)
		return pid;
	for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
		signal(caught[i], SIG_DFL); /* cmocka's would go on with the tests, in this process too */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	return 0;
}

bool mp_long(void)
{
	const char *s = getenv("BERTH_LONG");

	return s && *s && strcmp(s, "0") != 0;
}

unsigned mp_number(const char *variable, unsigned usual, unsigned when_long)
{
	const char *s = getenv(variable);

	if (s && *s)
		return (unsigned)strtoul(s, NULL, 10);
	if (getenv("BERTH_SANITIZED")) /* everything takes several times as long */
		return usual > 5 ? usual / 5 : 1;
	return mp_long() ? when_long : usual;
}

void mp_pause(void)
{
	const struct timespec t = {.tv_nsec = 1000000};

	nanosleep(&t, NULL);
}

uint64_t mp_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint64_t mp_seed(void)
{
	const char *s = getenv("BERTH_SEED");
	uint64_t seed = s && *s ? strtoull(s, NULL, 10) : mp_now_ms() * 2654435761u % 1000000007u;

	printf("note: seed %llu (BERTH_SEED repeats it)\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

int mp_reap(pid_t pid, unsigned limit_ms)
{
	uint64_t until = mp_now_ms() + limit_ms;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (mp_now_ms() > until) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			fail_msg("process %ld did not end within %u ms", (long)pid, limit_ms);
		}
		mp_pause();
	}
	return status;
}

/* ---- names ------------------------------------------------------------------------------------------------- */

size_t readers_key(char out[READERS_KEY_SIZE], uint32_t i)
{
	static const char *const forms[8] = {
		"a-tenant-whose-name-does-not-fit-into-one-entry-%u", /* a record of its own */
		"p%u",                                                /* shorter than a word */
		"a-tenant-of-middle-length-%u",                       /* more than two words */
		"tenant-%06u",
		"tenant-%06u",
		"tenant-%06u",
		"tenant-%06u",
		"tenant-%06u"};
	const char *form = forms[i % 8];
	char *at = out;

	for (; *form && *form != '%'; form++) /* no snprintf: this is most of what a reader would do */
		*at++ = *form;
	if (*form) {
		char digits[16];
		int n = 0, least = form[1] == '0' ? 6 : 1;

		do
			digits[n++] = (char)('0' + i % 10);
		while ((i /= 10) != 0 || n < least);
		while (n > 0)
			*at++ = digits[--n];
	}
	*at = '\0';
	return (size_t)(at - out);
}

const char *readers_placement(char out[READERS_JSON_SIZE], uint32_t i, unsigned k, unsigned v)
{
	switch (readers_kind(i)) {
	case BERTH_DEDICATED_CLUSTER:
		snprintf(out, READERS_JSON_SIZE, "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"}", k);
		break;
	case BERTH_DEDICATED_INDEX:
		snprintf(out, READERS_JSON_SIZE,
			 "{\"mode\":\"dedicated-index\",\"cluster\":\"c%u\",\"index\":\"t%u-c%u-v%u\"}", k, i, k, v);
		break;
	default:
		snprintf(out, READERS_JSON_SIZE,
			 "{\"mode\":\"shared-index\",\"cluster\":\"c%u\",\"index\":\"t%u-c%u-v%u\",\"inject\":["
			 "{\"field\":\"_tenant\",\"value\":{\"partition\":true}},"
			 "{\"field\":\"mark\",\"value\":\"t%u-c%u-v%u\"}]}",
			 k, i, k, v, i, k, v);
	}
	return out;
}

/* ---- the processes ----------------------------------------------------------------------------------------- */

void readers_open(struct readers *rs, const char *dir, uint32_t n_keys, const struct readers_options *options)
{
	size_t size;

	memset(rs, 0, sizeof *rs);
	if (options)
		rs->options = *options;
	if (rs->options.max_keys < n_keys)
		rs->options.max_keys = n_keys;
	snprintf(rs->dir, sizeof rs->dir, "%s", dir);
	size = sizeof *rs->s + rs->options.max_keys * sizeof rs->s->shown[0];
	rs->s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rs->s == MAP_FAILED)
		fail_msg("no shared memory for %u partitions", rs->options.max_keys);
	for (uint32_t i = 0; i < n_keys; i++)
		atomic_store(&rs->s->shown[i].presence, PRESENT);
	atomic_store(&rs->s->n_keys, n_keys);
	for (unsigned i = 0; i < OPEN_MAX_; i++) {
		if (!open_ones[i]) {
			open_ones[i] = rs;
			return;
		}
	}
	fail_msg("more than %d sets of readers", OPEN_MAX_);
}

void readers_add(struct readers *rs, unsigned n)
{
	unsigned first = rs->n;

	assert_true(first + n <= READERS_MAX);
	for (; n > 0; n--, rs->n++) {
		pid_t pid = mp_fork();

		if (pid == 0) {
			(void)!nice(5); /* a daemon that shares two processors with them gets on */
			_exit(readers_loop(rs, rs->n));
		}
		rs->pid[rs->n] = pid;
	}
	for (unsigned i = first; i < rs->n; i++) {
		struct reader_report *report = &rs->s->report[i];
		uint64_t until = mp_now_ms() + 20000;

		while (atomic_load(&report->running) == 0 || atomic_load(&report->rounds) == 0) {
			if (waitpid(rs->pid[i], NULL, WNOHANG) == rs->pid[i]) {
				rs->pid[i] = 0;
				fail_msg("reader %u ended before it began: %s", i, report->first);
			}
			if (mp_now_ms() > until)
				fail_msg("reader %u did not begin within 20 s: %s", i, report->first);
			mp_pause();
		}
	}
}

void readers_await(struct readers *rs, uint64_t rounds, unsigned limit_ms)
{
	uint64_t from[READERS_MAX], until = mp_now_ms() + limit_ms;

	for (unsigned i = 0; i < rs->n; i++)
		from[i] = atomic_load(&rs->s->report[i].rounds);
	for (unsigned i = 0; i < rs->n; i++) {
		while (rs->pid[i] && atomic_load(&rs->s->report[i].rounds) < from[i] + rounds) {
			int status;

			if (waitpid(rs->pid[i], &status, WNOHANG) == rs->pid[i]) {
				rs->pid[i] = 0;
				fail_msg("reader %u ended with wait status %x: %s", i, (unsigned)status,
					 rs->s->report[i].first);
			}
			if (mp_now_ms() > until)
				fail_msg("reader %u went through %llu rounds of %llu in %u ms: %s", i,
					 (unsigned long long)(atomic_load(&rs->s->report[i].rounds) - from[i]),
					 (unsigned long long)rounds, limit_ms, rs->s->report[i].first);
			mp_pause();
		}
	}
}

void readers_check(const struct readers *rs)
{
	for (unsigned i = 0; i < rs->n; i++) {
		const struct reader_report *r = &rs->s->report[i];
		uint64_t failed = atomic_load(&r->failed), wrong = atomic_load(&r->wrong);

		if (failed || wrong)
			fail_msg("reader %u: %llu calls failed, %llu answers were wrong; the first: %s", i,
				 (unsigned long long)failed, (unsigned long long)wrong, r->first);
	}
}

static void close_memory(struct readers *rs)
{
	for (unsigned i = 0; i < OPEN_MAX_; i++)
		if (open_ones[i] == rs)
			open_ones[i] = NULL;
	munmap(rs->s, sizeof *rs->s + rs->options.max_keys * sizeof rs->s->shown[0]);
	rs->s = NULL;
}

void readers_finish(struct readers *rs, const char *what)
{
	uint64_t sum[9] = {0};
	int status[READERS_MAX] = {0};

	atomic_store(&rs->s->stop, 1);
	for (unsigned i = 0; i < rs->n; i++) {
		pid_t pid = rs->pid[i];

		rs->pid[i] = 0;
		if (pid)
			status[i] = mp_reap(pid, 20000);
	}
	readers_check(rs);
	for (unsigned i = 0; i < rs->n; i++) {
		const struct reader_report *r = &rs->s->report[i];
		const _Atomic uint64_t *counters[9] = {&r->rounds, &r->routes,    &r->bulks,  &r->lookups, &r->admitted,
						       &r->stale,  &r->held_back, &r->failed, &r->wrong};

		if (status[i] != 0)
			fail_msg("reader %u ended with wait status %x: %s", i, (unsigned)status[i], r->first);
		for (unsigned c = 0; c < 9; c++)
			sum[c] += atomic_load(counters[c]);
	}
	printf("note: %s: %u readers, %llu routes, %llu in bulk, %llu look-ups, %llu admitted, %llu stale, %llu held "
	       "back, "
	       "%llu failed, %llu wrong\n",
	       what, rs->n, (unsigned long long)sum[1], (unsigned long long)sum[2], (unsigned long long)sum[3],
	       (unsigned long long)sum[4], (unsigned long long)sum[5], (unsigned long long)sum[6],
	       (unsigned long long)sum[7], (unsigned long long)sum[8]);
	fflush(stdout);
	close_memory(rs);
}

void readers_heat(struct readers *rs, uint32_t i)
{
	uint32_t n = atomic_load(&rs->s->n_hot);

	assert_true(n < READERS_HOT);
	atomic_store(&rs->s->hot[n], i);
	atomic_store(&rs->s->n_hot, n + 1);
}

void readers_kill_all(void)
{
	for (unsigned o = 0; o < OPEN_MAX_; o++) {
		struct readers *rs = open_ones[o];

		for (unsigned i = 0; rs && i < rs->n; i++) {
			if (rs->pid[i] > 0) {
				kill(rs->pid[i], SIGKILL);
				waitpid(rs->pid[i], NULL, 0);
			}
			rs->pid[i] = 0;
		}
		if (rs)
			close_memory(rs);
	}
}

/* ---- what readers may see ---------------------------------------------------------------------------------- */

static void say(struct shown *shown, enum presence presence)
{
	uint32_t number = atomic_load_explicit(&shown->presence, memory_order_relaxed) >> 2;

	atomic_store_explicit(&shown->presence, (number + 1) << 2 | (uint32_t)presence, memory_order_seq_cst);
}

void readers_may_change(struct readers *rs, uint32_t i, enum presence presence)
{
	struct shown *shown = &rs->s->shown[i];

	if ((atomic_load_explicit(&shown->presence, memory_order_relaxed) & 3u) != (uint32_t)presence)
		say(shown, MAYBE);
}

void readers_changed(struct readers *rs, uint32_t i, enum presence presence, uint64_t epoch)
{
	struct shown *shown = &rs->s->shown[i];

	if (epoch)
		atomic_store_explicit(&shown->floor, epoch, memory_order_release);
	if ((atomic_load_explicit(&shown->presence, memory_order_relaxed) & 3u) != (uint32_t)presence)
		say(shown, presence);
}
