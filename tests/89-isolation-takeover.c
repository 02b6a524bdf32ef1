/* SPDX-License-Identifier: MIT
 * A writer that comes after another one, in another pid namespace, where a stranger has the number, and the start, of the
 * writer before or of a reader: it takes the stranger for neither. Needs root. */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "sandbox_daemon.h"

#define NUMBER 500

static struct sandbox one, two;
static struct wire w;

static int teardown(void **state)
{
	sandbox_close(&one);
	sandbox_close(&two);
	return users_remove(state);
}
#define TAKEOVER_TEST(f) cmocka_unit_test_setup_teardown(f, users_make, teardown)

/* Tells when the process of that number, which it can see, has started. */
static int tell_start(void *arg, int fd)
{
	uint64_t start = seg_process_start(*(pid_t *)arg);

	return send(fd, &start, sizeof start, MSG_NOSIGNAL) != sizeof start;
}

static uint64_t start_of(struct sandbox *s, pid_t number)
{
	uint64_t start = 0;
	int fd;
	pid_t teller = sandbox_fork(s, 0, tell_start, &number, sizeof number, &fd);

	assert_true(teller > 0);
	assert_int_equal(recv(fd, &start, sizeof start, 0), sizeof start);
	close(fd);
	assert_int_equal(sandbox_wait(s, teller), 0);
	return start;
}

/* Processes with one number in both, started in one tick of the clock that /proc shows: b's and, first, a's. */
static void make_twins(struct sandbox *a, int (*part)(void *, int), const void *arg, size_t size, int *fd_a,
		       struct sandbox *b, int *fd_b)
{
	for (unsigned tries = 0; tries < 200; tries++) {
		assert_int_equal(sandbox_fork(b, NUMBER, sandbox_stay, NULL, 0, fd_b), NUMBER);
		assert_int_equal(sandbox_fork(a, NUMBER, part, arg, size, fd_a), NUMBER);
		if (start_of(a, NUMBER) == start_of(b, NUMBER))
			return;
		sandbox_signal(a, NUMBER, SIGKILL);
		sandbox_wait(a, NUMBER);
		sandbox_signal(b, NUMBER, SIGKILL);
		sandbox_wait(b, NUMBER);
		close(*fd_a);
		close(*fd_b);
	}
	fail_msg("no two processes started in one tick");
}

/* Becomes berthd when the test says so. */
static int serve_when_told(void *arg, int fd)
{
	char c;
	int log = open(place->log, O_WRONLY | O_CREAT | O_APPEND, 0644);

	(void)arg;
	if (recv(fd, &c, 1, 0) != 1)
		return 1;
	dup2(log, STDERR_FILENO);
	execl(daemon_program("berthd"), "berthd", "--dir", place->dir, "--store", place->store, (char *)NULL);
	return 127;
}

static int takes_over(void *arg, int fd)
{
	(void)arg, (void)fd;
	place->pid = 0;
	return daemon_start_refused(place, "--takeover", NULL);
}

static void a_stranger_with_the_writer_s_number_is_not_killed_by_a_takeover(void **state)
{
	pid_t taker;
	int fd_one, fd_two, fd;

	(void)state;
	NEEDS_USERS();
	assert_int_equal(daemon_stop(place), 0);
	assert_int_equal(truncate(place->log, 0), 0);
	sandbox_open(&one, SANDBOX_PID, 0, 0, place);
	sandbox_open(&two, SANDBOX_PID, 0, 0, place);
	make_twins(&one, serve_when_told, NULL, 0, &fd_one, &two, &fd_two);
	assert_int_equal(send(fd_one, "x", 1, MSG_NOSIGNAL), 1);
	daemon_expect_log(place, "event=ready");
	taker = sandbox_fork(&two, 0, takes_over, NULL, 0, &fd);
	assert_int_equal(sandbox_wait(&two, taker), 1);
	daemon_expect_log(place, "not taken over");
	close(fd);
	close(fd_two); /* the stranger ends by itself: with 0 */
	assert_int_equal(sandbox_wait(&two, NUMBER), 0);
	sandbox_signal(&one, NUMBER, SIGTERM);
	assert_int_equal(sandbox_wait(&one, NUMBER), 0);
	close(fd_one);
}

/* A writer that can see a reader, and one in another namespace after it, where a stranger has the reader's number and
 * start: the stranger's end is not the reader's. */
static void a_writer_in_another_namespace_takes_no_stranger_for_a_reader(void **state)
{
	struct guest g = {.in = &one, .number = NUMBER};
	struct guest_plan plan = {.how = 0};
	int fd_two;

	(void)state;
	NEEDS_USERS();
	sandbox_move_daemon(&one);                    /* the first writer, and the reader */
	sandbox_open(&two, SANDBOX_PID, 0, 0, place); /* the second writer, and the stranger */
	wire_open(&w, place, WIRE_ADMIN);
	place_often(&w, "p", 1);
	snprintf(plan.dir, sizeof plan.dir, "%s", one.dir);
	make_twins(&one, guest_live, &plan, sizeof plan, &g.fd, &two, &fd_two);
	assert_int_equal(guest_await(&g), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "p", NULL), BERTH_OK);
	sandbox_signal(&one, NUMBER, SIGSTOP); /* it does not reattach */
	wire_close(&w);
	sandbox_serve_end(&one, SIGKILL);
	sandbox_serve(&two, NULL);
	close(fd_two);
	assert_int_equal(sandbox_wait(&two, NUMBER), 0);
	wire_open(&w, place, WIRE_ADMIN);
	begin_moving(&w, "p", "c2");
	for (unsigned i = 0; i < 20; i++) {
		expect_pending(&w, "p", "leases-open");
		usleep(5000);
	}
	sandbox_signal(&one, NUMBER, SIGCONT);
	guest_until(&g, BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_END, "", NULL), BERTH_OK);
	wire_do(&w, "complete", "{s:s, s:i}", "partition", "p", "wait_ms", 10000);
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TAKEOVER_TEST(a_stranger_with_the_writer_s_number_is_not_killed_by_a_takeover),
		TAKEOVER_TEST(a_writer_in_another_namespace_takes_no_stranger_for_a_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
