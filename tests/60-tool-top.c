/* SPDX-License-Identifier: MIT
 * `berth top` on a terminal: what a narrow window shows, and that it ends when it is told to. Each run has a deadline. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "child.h"
#include "holder.h"

#define SHOWN 65536u

struct terminal {
	pid_t pid; /* of `berth top` on it */
	int fd;
	char text
		[SHOWN]; /* all that was written to it, without what moves the cursor; a new picture follows the last */
	size_t len;
};

struct start {
	const struct daemon *d;
	const char *name;
	unsigned short columns;
};

static int live(void *arg)
{
	const struct start *s = arg;
	const struct winsize size = {.ws_row = 40, .ws_col = s->columns};
	const char *argv[] = {daemon_program("berth"), "--dir", s->d->dir, "top", NULL};
	int fd;

	setsid();
	fd = open(s->name, O_RDWR); /* becomes its controlling terminal */
	if (fd < 0 || ioctl(fd, TIOCSWINSZ, &size) != 0)
		return 126;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	execv(argv[0], (char *const *)(uintptr_t)argv);
	return 127;
}

static void terminal_open(struct terminal *t, const struct daemon *d, unsigned short columns)
{
	struct start s = {.d = d, .columns = columns};

	*t = (struct terminal){.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
	if (t->fd < 0 || grantpt(t->fd) != 0 || unlockpt(t->fd) != 0)
		SKIP("no terminal: %s", strerror(errno));
	s.name = ptsname(t->fd);
	t->pid = part_start(live, &s);
}

/* What has come since, within so long. */
static void terminal_read(struct terminal *t, int ms)
{
	struct pollfd p = {.fd = t->fd, .events = POLLIN};
	char some[4096];
	ssize_t n = poll(&p, 1, ms) == 1 ? read(t->fd, some, sizeof(some)) : 0;

	for (ssize_t i = 0; i < n && t->len < SHOWN - 1; i++)
		if (some[i] != '\r')
			t->text[t->len++] = some[i];
	t->text[t->len] = '\0';
	for (char *at = t->text; (at = strstr(at, "\033[")) != NULL;) {
		size_t skip = 2 + strcspn(at + 2, "ABCDEFGHJKhlm");
		if (!at[skip])
			break; /* the rest of it comes */
		memmove(at, at + skip + 1, strlen(at + skip + 1) + 1);
	}
	t->len = strlen(t->text);
}

/* The texts of one line each, the words of one message over several: a new line is as good as a space. */
static void terminal_expect(struct terminal *t, const char *wanted)
{
	char flat[SHOWN];

	for (uint64_t deadline = test_now_ms() + child_patience(CHILD_MS); test_now_ms() < deadline;) {
		terminal_read(t, 50);
		memcpy(flat, t->text, t->len + 1);
		for (char *at = flat; *at; at++)
			*at = *at == '\n' ? ' ' : *at;
		if (strstr(flat, wanted))
			return;
	}
	fail_msg("`%s` was never shown:\n%s", wanted, t->text);
}

static void expect_lines_within(const struct terminal *t, size_t columns)
{
	for (const char *line = t->text; *line; line += strcspn(line, "\n") + (line[strcspn(line, "\n")] == '\n'))
		if (strcspn(line, "\n") > columns)
			fail_msg("a line of %zu columns: %.*s", strcspn(line, "\n"), (int)strcspn(line, "\n"), line);
}

/* Ends it by a key or a signal; how long that takes. */
static uint64_t terminal_end(struct terminal *t, const char *key, int number)
{
	uint64_t start = test_now_ms();

	if (key)
		assert_int_equal(write(t->fd, key, strlen(key)), (ssize_t)strlen(key));
	else
		kill(t->pid, number);
	assert_int_equal(child_wait(t->pid, CHILD_MS), 0);
	close(t->fd);
	return test_now_ms() - start;
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

static void a_narrow_window_shows_what_matters(void **state)
{
	struct daemon *d = *state;
	struct terminal *t = malloc(sizeof(*t));
	struct holder h;

	assert_non_null(t);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	terminal_open(t, d, 80);
	terminal_expect(t, "(q ends)");
	terminal_expect(t, "LAG  HELD BACK  REMARKS");
	assert_non_null(strstr(t->text, "PID  COMMAND"));
	assert_null(strstr(t->text, "SLOT"));
	assert_null(strstr(t->text, "UID"));
	expect_lines_within(t, 80);
	assert_true(terminal_end(t, "q", 0) < child_patience(3000));
	terminal_open(t, d, 200);
	terminal_expect(t, "(q ends)");
	terminal_expect(t, "SLOT");
	terminal_expect(t, "UID  ATTACHED FOR");
	terminal_end(t, NULL, SIGTERM);
	holder_stop(&h);
	free(t);
}

static void a_hung_daemon_is_told_whole_and_keeps_nobody(void **state)
{
	struct daemon *d = *state;
	struct terminal *t = malloc(sizeof(*t));

	assert_non_null(t);
	daemon_signal(d, SIGSTOP);
	terminal_open(t, d, 60);
	terminal_expect(t, "has not answered for 5 s: it is stopped or overloaded; if it hangs, start another one with "
			   "--takeover ");
	expect_lines_within(t, 60);
	terminal_read(t, 1500); /* it asks again, and waits */
	assert_true(terminal_end(t, "q", 0) < child_patience(2000));
	terminal_open(t, d, 60);
	terminal_read(t, 1000); /* asks for the first time */
	assert_true(terminal_end(t, NULL, SIGTERM) < child_patience(2000));
	daemon_signal(d, SIGCONT);
	free(t);
}

int main(void)
{
	struct CMUnitTest tests[] = {
		DAEMON_TEST(a_narrow_window_shows_what_matters, "memory"),
		DAEMON_TEST(a_hung_daemon_is_told_whole_and_keeps_nobody, "memory"),
	};

	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		tests[i].teardown_func = teardown;
	return cmocka_run_group_tests_name("tool top", tests, NULL, NULL);
}
