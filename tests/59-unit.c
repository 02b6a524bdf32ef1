/* SPDX-License-Identifier: MIT
 * What systemd gets from us: signs of life that a thread which hangs cannot give, and units that it takes without a word.
 * What the units do when they run is for `make check-unit`. */
#include "cursor_daemon.h"

#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCHDOG_MS 400u
#define SILENCE_MS 1500 /* no sign of life in so long: there is none */

/* ---- signs of life ---------------------------------------------------------------------------------------------- */

/* True when one comes within so long. */
static bool ping_comes(const struct daemon *d, int ms)
{
	uint64_t until = test_now_ms() + (uint64_t)ms;

	for (;;) {
		struct pollfd p = {.fd = d->notify_fd, .events = POLLIN};
		uint64_t now = test_now_ms();
		char text[512];
		ssize_t n;

		if (now >= until || poll(&p, 1, (int)(until - now)) != 1)
			return false;
		n = recv(d->notify_fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? n : 0] = '\0';
		if (strstr(text, "WATCHDOG=1"))
			return true;
	}
}

static void restart_watched(struct pin_place *p, unsigned ms, const char *option)
{
	const char *const options[] = {option, NULL};

	daemon_stop(&p->d);
	p->d.watchdog_ms = ms;
	pin_restart_with(p, options);
}

/* The thread of the daemon with this name. */
static pid_t thread_named(const struct daemon *d, const char *name)
{
	DIR *dir = daemon_proc(d, "task");
	char path[300], line[32];
	struct dirent *e;
	pid_t tid = 0;

	while (tid == 0 && (e = readdir(dir)) != NULL) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm", d->pid, e->d_name);
		f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (f && fgets(line, sizeof(line), f) && strncmp(line, name, strlen(name)) == 0)
			tid = (pid_t)atoi(e->d_name);
		if (f)
			fclose(f);
	}
	closedir(dir);
	assert_true(tid > 0);
	return tid;
}

/* One thread stands still, the others go on. */
static void thread_freeze(pid_t tid)
{
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0)
		SKIP("a thread may not be stopped here (ptrace)");
	assert_int_equal(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL), 0);
	assert_int_equal(waitpid(tid, NULL, __WALL), tid);
}

static void thread_thaw(pid_t tid)
{
	assert_int_equal(ptrace(PTRACE_DETACH, tid, NULL, NULL), 0);
}

static void it_gives_signs_of_life_when_it_is_asked_to_and_none_else(void **state)
{
	struct pin_place *p = *state;
	uint64_t until;
	unsigned n = 0;

	assert_false(ping_comes(&p->d, SILENCE_MS));
	restart_watched(p, WATCHDOG_MS, NULL);
	until = test_now_ms() + 2000;
	while (test_now_ms() < until)
		n += ping_comes(&p->d, 100);
	assert_true(n <= 2000 / (WATCHDOG_MS / 2) + 2);
	for (int i = 0; i < 3; i++)
		assert_true(ping_comes(&p->d, DAEMON_MS));
}

static void freeze_and_thaw(struct pin_place *p, const char *name)
{
	pid_t tid = thread_named(&p->d, name);
	bool silent = false;
	uint64_t deadline = 0;

	assert_true(ping_comes(&p->d, DAEMON_MS));
	thread_freeze(tid);
	while (!silent && within(&deadline)) /* of the interval in which it still ran one may come */
		silent = !ping_comes(&p->d, SILENCE_MS);
	thread_thaw(tid); /* before anything may fail: who is traced cannot be ended and waited for */
	assert_true(silent);
	assert_true(ping_comes(&p->d, DAEMON_MS));
	assert_true(ping_comes(&p->d, DAEMON_MS));
}

static void none_comes_while_the_control_thread_hangs(void **state)
{
	struct pin_place *p = *state;

	restart_watched(p, WATCHDOG_MS, NULL);
	freeze_and_thaw(p, "berthd\n");
}

static void none_comes_while_the_thread_that_takes_pins_hangs(void **state)
{
	struct pin_place *p = *state;
	struct player q;

	for (int busy = 0; busy < 2; busy++) {
		restart_watched(p, WATCHDOG_MS, busy ? "--busy-poll" : NULL);
		player_attach(&q, p, 1);
		freeze_and_thaw(p, "berthd-cursors");
		daemon_expect_log(&p->d, "event=cursors-hang");
		player_die(&q);
	}
}

/* ---- units ------------------------------------------------------------------------------------------------------ */

static void sh(const struct pin_place *p, const char *script)
{
	char out[16384], build[600];
	const char *argv[] = {"/bin/sh", "-ec", script, "sh", p->d.home, build, NULL};
	int rc;

	snprintf(build, sizeof(build), "%s", daemon_program("berthd"));
	rc = child_run(argv, out, sizeof(out), 60000);
	if (rc == 42)
		SKIP("systemd-analyze is missing (package systemd)");
	if (rc != 0)
		fail_msg("it ended with %d: %s", rc, out);
}

/* As `make install` does it, for a berthd that is there. */
#define UNITS \
	"command -v systemd-analyze >/dev/null || exit 42; units=$1/units; mkdir -p $units $1/bin;" \
	"ln -sf $(realpath $2) $1/bin/berthd;" \
	"for u in berthd.service:default berthd@.service:%i; do sed \"s|@PREFIX@|$1|;s|@INSTANCE@|${u#*:}|\"" \
	" writer/systemd/berthd.service.in >$units/${u%:*}; done;"

static void systemd_finds_no_fault_in_the_units(void **state)
{
	if (access("writer/systemd/berthd.service.in", R_OK) != 0)
		SKIP("not run from the top of the sources");
	sh(*state, UNITS "for u in berthd.service berthd@.service; do"
			 " systemd-analyze verify --man=no --recursive-errors=no $units/$u >$units/said 2>&1 || true;"
			 " if grep berthd $units/said; then exit 1; fi; done;"
			 "echo 'NoSuchSetting=1' >>$units/berthd.service;" /* it would have said so */
			 "systemd-analyze verify --man=no $units/berthd.service 2>&1 | grep -q berthd.service");
}

static void the_exposure_of_the_units_is_2_or_better_with_each_drop_in(void **state)
{
	if (access("writer/systemd/berthd.service.in", R_OK) != 0)
		SKIP("not run from the top of the sources");
	sh(*state,
	   UNITS "cd writer/systemd; for with in '' bpf.conf http.conf 'bpf.conf http.conf'; do"
		 " rm -rf $units/*.d; for u in berthd berthd@; do mkdir $units/$u.service.d;"
		 " for c in $with; do cp $c $units/$u.service.d; done;"
		 " (cd $units; systemd-analyze security --offline=true --threshold=20 ./$u.service); done; done");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(it_gives_signs_of_life_when_it_is_asked_to_and_none_else),
		PIN_TEST(none_comes_while_the_control_thread_hangs),
		PIN_TEST(none_comes_while_the_thread_that_takes_pins_hangs),
		PIN_TEST(systemd_finds_no_fault_in_the_units),
		PIN_TEST(the_exposure_of_the_units_is_2_or_better_with_each_drop_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
