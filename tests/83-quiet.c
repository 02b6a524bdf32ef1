/* SPDX-License-Identifier: MIT
 * A look-up makes no system call and allocates nothing, nor does a write in a lease, begun and ended. Ten million of them
 * run behind a seccomp filter that kills the process at the first system call, then under strace, then between two
 * readings of the allocator's own counters; each is shown first to notice what it is there for. Called with an instance's
 * directory, the program is the reader that strace runs. */
#include "child.h"

#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../reader_lib/berth.h"

#define ROUTES 10000000u
#define N_KEYS 1000u
#define LOOP_MS 120000u
#define SANITIZED "sanitizers make system calls of their own"
#define NOT_ALLOWED 40 /* exit code of a part: the kernel refuses seccomp filters */

static struct daemon *d;
static struct berth *b;
static struct berth_reader *r;
static struct berth *bracketed; /* attached a second time: berth_admit would take the leases' sense away */
static struct berth_reader *writer;
static struct berth_key keys[N_KEYS];
static uint64_t epochs[N_KEYS];

/* ---- the reader ------------------------------------------------------------------------------------------------- */

/* Slots of the writer: what is under way at once, and the first of the unknown ends; the others find no slot. */
#define LEASES 1024u
#define UNDER_WAY 64u

/* Attached, with every page that it will need looked at once. */
static bool open_reader(const char *dir)
{
	struct berth_attach_options options = {
		.size = sizeof options, .writes = BERTH_WRITES_BRACKETED, .max_readers = 1, .max_leases = LEASES};
	struct berth_route at;
	struct berth_write w;
	char key[32];

	if (berth_attach(dir, NULL, &b) != BERTH_OK || berth_reader_open(b, &r) != BERTH_OK)
		return false;
	if (berth_attach(dir, &options, &bracketed) != BERTH_OK || berth_reader_open(bracketed, &writer) != BERTH_OK)
		return false;
	for (unsigned i = 0; i < N_KEYS; i++) {
		snprintf(key, sizeof key, "tenant-%u", i);
		if (!keys[i].key)
			keys[i].key = strdup(key);
		keys[i].len = strlen(key);
		if (berth_route(r, keys[i].key, keys[i].len, &at) != BERTH_OK ||
		    berth_admit(r, keys[i].key, keys[i].len, at.epoch) != BERTH_OK ||
		    berth_write_begin(writer, keys[i].key, keys[i].len, at.epoch, &w) != BERTH_OK ||
		    berth_write_end(writer, &w, BERTH_DONE) != BERTH_OK)
			return false;
		epochs[i] = at.epoch;
	}
	return true;
}

/* One write begins, the one that began UNDER_WAY calls before ends; now and then what is refused, ends of which nobody
 * knows the outcome (more than there are slots), and many writes at once. */
static struct berth_write under_way[UNDER_WAY], many[UNDER_WAY];
static unsigned write_step(unsigned i, unsigned key)
{
	static int status[UNDER_WAY];
	struct berth_write *w = &under_way[i % UNDER_WAY], refused;
	const struct berth_key *k = &keys[key];
	unsigned wrong = 0;

	if (w->epoch)
		wrong += berth_write_end(writer, w, i % 512 == 0 ? BERTH_UNKNOWN : BERTH_DONE) != BERTH_OK;
	wrong += berth_write_begin(writer, k->key, k->len, i % 2 ? epochs[key] : 0, w) != BERTH_OK ||
		 w->epoch != epochs[key];
	if (i % 64 == 0) {
		wrong += berth_write_begin(writer, k->key, k->len, epochs[key] + 1, &refused) != BERTH_E_STALE;
		wrong += berth_write_begin(writer, "nobody", 6, 0, &refused) != BERTH_E_UNKNOWN;
	}
	if (i % 1024 == 0) {
		const struct berth_key *first = keys + key % (N_KEYS - UNDER_WAY);

		wrong += berth_write_begin_bulk(writer, first, NULL, UNDER_WAY, many, status) != BERTH_OK;
		for (unsigned n = 0; n < UNDER_WAY; n++)
			wrong += status[n] != BERTH_OK || berth_write_end(writer, &many[n], BERTH_DONE) != BERTH_OK;
	}
	return wrong;
}

/* Nothing but calls of libberth. How many went wrong. */
static unsigned loop(unsigned routes)
{
	static struct berth_route out[64];
	static int status[64];
	struct berth_route at;
	struct berth_placement p;
	struct berth_inject pair;
	struct berth_cluster c;
	unsigned wrong = 0;

	for (unsigned i = 0; i < routes; i++) {
		const struct berth_key *k = &keys[i % N_KEYS];

		wrong += berth_route(r, k->key, k->len, &at) != BERTH_OK || at.epoch != epochs[i % N_KEYS];
		if (i % 16 == 0)
			wrong += berth_admit(r, k->key, k->len, at.epoch) != BERTH_OK;
		if (i % 16 == 1)
			wrong += berth_admit(r, k->key, k->len, at.epoch + 1) != BERTH_E_STALE;
		if (i % 4 == 0)
			wrong += write_step(i / 4, i % N_KEYS);
		if (i % 32 == 0) {
			berth_read_begin(r);
			wrong += berth_lookup(r, k->key, k->len, &p) != BERTH_OK || p.n_inject != 1 ||
				 berth_inject(&p, 0, &pair) != BERTH_OK || berth_cluster(r, p.cluster, &c) != BERTH_OK;
			berth_read_end(r);
		}
		if (i % 4096 == 0)
			wrong += berth_route_bulk(r, keys + i % (N_KEYS - 64), 64, out, status) != BERTH_OK;
		if (i % 64 == 0)
			wrong += berth_route(r, "nobody", 6, &at) != BERTH_E_UNKNOWN;
	}
	for (unsigned i = 0; i < UNDER_WAY; i++)
		if (under_way[i].epoch)
			wrong += berth_write_end(writer, &under_way[i], BERTH_DONE) != BERTH_OK;
	return wrong;
}

/* ---- seccomp ---------------------------------------------------------------------------------------------------- */

/* From here on exit_group alone is allowed. */
static bool forbid_system_calls(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static int ready[2]; /* pipe: the reader has attached */

static int silent_loop(void *arg)
{
	unsigned routes = *(unsigned *)arg;

	if (!open_reader(d->dir) || write(ready[1], "x", 1) != 1)
		return 2;
	if (!forbid_system_calls())
		return NOT_ALLOWED;
	if (routes == 0)
		getppid(); /* the filter's own test */
	return loop(routes) != 0;
}

static void make_ready(void)
{
	assert_int_equal(pipe(ready), 0);
}

static void ten_million_routes_make_no_system_call(void **state)
{
	unsigned none = 0, routes = ROUTES;
	int rc;

	(void)state;
	if (child_sanitized())
		SKIP(SANITIZED);
	make_ready();
	rc = part_run(silent_loop, &none, CHILD_MS);
	if (rc == NOT_ALLOWED)
		SKIP("seccomp filters are not allowed here");
	assert_int_equal(rc, ENDED_BY_SIGNAL + SIGSYS); /* it notices */
	assert_int_equal(part_run(silent_loop, &routes, LOOP_MS), 0);
	close(ready[0]);
	close(ready[1]);
}

static void nor_do_they_while_the_writer_is_stopped(void **state)
{
	unsigned routes = ROUTES;
	char c;
	int rc;
	pid_t pid;

	(void)state;
	if (child_sanitized())
		SKIP(SANITIZED);
	make_ready();
	pid = part_start(silent_loop, &routes);
	close(ready[1]);
	(void)!read(ready[0], &c, 1);
	close(ready[0]);
	daemon_signal(d, SIGSTOP);
	rc = child_wait(pid, LOOP_MS);
	daemon_signal(d, SIGCONT);
	if (rc == NOT_ALLOWED)
		SKIP("seccomp filters are not allowed here");
	assert_int_equal(rc, 0);
}

static void nor_do_they_while_placements_change(void **state)
{
	unsigned routes = ROUTES / 4;
	unsigned changes = 0;
	struct wire w;
	int rc;
	pid_t pid;
	siginfo_t ended = {0};

	(void)state;
	if (child_sanitized())
		SKIP(SANITIZED);
	make_ready();
	pid = part_start(silent_loop, &routes);
	wire_open(&w, d, WIRE_ADMIN);
	while (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0) {
		char key[32];

		snprintf(key, sizeof key, "other-%u", changes % 20);
		if (changes++ % 40 < 20)
			wire_do(&w, "set", "{s:s, s:{s:s, s:s}}", "partition", key, "placement", "mode",
				"dedicated-cluster", "cluster", "c1");
		else
			wire_do(&w, "remove", "{s:s, s:b}", "partition", key, "force", 1);
	}
	wire_close(&w);
	rc = child_wait(pid, LOOP_MS);
	close(ready[0]);
	close(ready[1]);
	if (rc == NOT_ALLOWED)
		SKIP("seccomp filters are not allowed here");
	assert_int_equal(rc, 0);
	assert_true(changes > 0);
}

/* ---- strace ----------------------------------------------------------------------------------------------------- */

#define BEGINS "the loop begins"
#define ENDS "the loop has ended"

static int be_traced(const char *dir)
{
	unsigned wrong;

	if (!open_reader(dir))
		return 2;
	(void)!write(-1, BEGINS, strlen(BEGINS));
	wrong = loop(ROUTES);
	(void)!write(-1, ENDS, strlen(ENDS));
	return wrong != 0;
}

static void strace_sees_nothing_between_the_first_and_the_last(void **state)
{
	char self[512], out[128], text[1024], *end;
	const char *argv[] = {"/usr/bin/strace", "-f", "-o", out, self, d->dir, NULL};
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	unsigned lines = 0;
	bool inside = false, over = false;
	FILE *f;
	int rc;

	(void)state;
	assert_true(n > 0);
	self[n] = '\0';
	if (child_sanitized())
		SKIP(SANITIZED);
	if (access(argv[0], X_OK) != 0)
		SKIP("strace is not installed");
	snprintf(out, sizeof out, "%s/trace", d->home);
	rc = child_run(argv, text, sizeof text, LOOP_MS);
	if (rc != 0 && strstr(text, "ptrace"))
		SKIP("strace may not trace here");
	if (rc != 0)
		fail_msg("strace ended with %d: %s", rc, text);
	f = fopen(out, "r");
	assert_non_null(f);
	while (fgets(text, sizeof text, f)) {
		end = strstr(text, "write(-1");
		over = over || (end && strstr(end, ENDS));
		if (inside && !over)
			fail_msg("a system call in the loop: %s", text);
		inside = inside || (end && strstr(end, BEGINS));
		lines++;
	}
	fclose(f);
	assert_true(inside && over && lines > 20);
}

/* ---- the allocator ---------------------------------------------------------------------------------------------- */

static uint64_t counted(const char *name)
{
	uint64_t n = 0;
	size_t size = sizeof n;

	return mallctl(name, &n, &size, NULL, 0) == 0 ? n : 0;
}

static void ten_million_routes_allocate_nothing(void **state)
{
	uint64_t before, after, freed;
	void *volatile p;

	(void)state;
	if (child_sanitized())
		SKIP("a sanitizer brings its own allocator");
	assert_true(open_reader(d->dir));
	before = counted("thread.allocated");
	p = malloc(100);
	assert_true(counted("thread.allocated") >= before + 100); /* it counts */
	free(p);
	before = counted("thread.allocated");
	freed = counted("thread.deallocated");
	assert_int_equal(loop(ROUTES), 0);
	after = counted("thread.allocated");
	assert_int_equal(after, before);
	assert_int_equal(counted("thread.deallocated"), freed);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	berth_reader_close(&writer);
	assert_int_equal(berth_detach(&bracketed), BERTH_OK);
}

static int make_place(void **state)
{
	struct wire w;

	*state = (void *)(uintptr_t) "memory";
	daemon_setup(state);
	d = *state;
	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://h:9200");
	for (unsigned i = 0; i < N_KEYS; i++) {
		char key[32];

		snprintf(key, sizeof key, "tenant-%u", i);
		wire_do(&w, "set", "{s:s, s:{s:s, s:s, s:s, s:[{s:s, s:{s:b}}]}}", "partition", key, "placement",
			"mode", "shared-index", "cluster", "c1", "index", "shared", "inject", "field", "_tenant",
			"value", "partition", 1);
	}
	wire_close(&w);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ten_million_routes_make_no_system_call),
		cmocka_unit_test(nor_do_they_while_placements_change),
		cmocka_unit_test(nor_do_they_while_the_writer_is_stopped),
		cmocka_unit_test(strace_sees_nothing_between_the_first_and_the_last),
		cmocka_unit_test(ten_million_routes_allocate_nothing),
	};

	if (argc > 1)
		return be_traced(argv[1]);
	return cmocka_run_group_tests(tests, make_place, daemon_teardown);
}
