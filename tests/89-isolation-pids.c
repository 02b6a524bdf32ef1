/* SPDX-License-Identifier: MIT
 * Numbers of processes that mean more than one: readers with equal numbers in two pid namespaces, numbers that are given
 * out again. Nobody is taken for somebody else: what the dead held is accounted for, what the living hold stays. Needs
 * root. Writers that follow each other in two namespaces are in 89-isolation-takeover.c. */
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli.h"
#include "sandbox_daemon.h"

#define NUMBER 500

static struct sandbox one, two, writers;
static struct wire w;

static int teardown(void **state)
{
	sandbox_close(&one);
	sandbox_close(&two);
	sandbox_close(&writers);
	return users_remove(state);
}
#define PIDS_TEST(f) cmocka_unit_test_setup_teardown(f, users_make, teardown)

static void put(const char *partition)
{
	place_often(&w, partition, 1);
}

/* ---- at the same time ------------------------------------------------------------------------------------------- */

static void twins_are_told_apart(void)
{
	struct guest dies, lives;
	long value;

	wire_open(&w, place, WIRE_ADMIN);
	put("p");
	put("q");
	assert_int_equal(guest_start(&dies, &one, NUMBER, 0), BERTH_OK);
	assert_int_equal(guest_start(&lives, &two, NUMBER, 0), BERTH_OK);
	assert_int_equal(guest_does(&dies, GUEST_BEGIN, "p", NULL), BERTH_OK);
	assert_int_equal(guest_does(&lives, GUEST_BEGIN, "q", NULL), BERTH_OK);
	assert_int_equal(guest_does(&lives, GUEST_HOLD, "acme", NULL), BERTH_OK);
	place_often(&w, "acme", 100);
	begin_moving(&w, "p", "c2");
	begin_moving(&w, "q", "c2");
	expect_pending(&w, "p", "leases-open");
	expect_pending(&w, "q", "leases-open");
	guest_kill(&dies);
	expect_pending(&w, "p", "reader-died");
	expect_readers(1);
	expect_pending(&w, "q", "leases-open"); /* looked at after that burial */
	assert_true(status_number("retired") > 0);
	assert_int_equal(guest_does(&lives, GUEST_LOOK, "", &value), BERTH_OK);
	assert_int_equal(value, 1);
	expect_freed();
	assert_int_equal(guest_does(&lives, GUEST_END, "", NULL), BERTH_OK);
	wire_do(&w, "complete", "{s:s, s:i}", "partition", "q", "wait_ms", 10000);
	expect_pending(&w, "p", "reader-died");
	wire_close(&w);
}

static void readers_with_equal_numbers_in_two_namespaces_are_told_apart(void **state)
{
	(void)state;
	NEEDS_USERS();
	sandbox_open(&one, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	sandbox_open(&two, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	twins_are_told_apart();
}

static void so_they_are_by_a_writer_that_sees_neither(void **state)
{
	(void)state;
	NEEDS_USERS();
	sandbox_move_daemon(&writers);
	sandbox_open(&one, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	sandbox_open(&two, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	twins_are_told_apart();
}

/* The writer and its readers in one namespace, in which the test gives the numbers out. */
static bool numbered_place(void)
{
	if (!place)
		return false;
	sandbox_move_daemon(&one);
	return true;
}
#define NEEDS_NUMBERED_PLACE() \
	do { \
		if (!numbered_place()) \
			skip(); \
	} while (0)

/* ---- one after the other ---------------------------------------------------------------------------------------- */

/* While the daemon is stopped, so that it cannot have seen the death, or dead. */
static void number_is_given_to_a_stranger(bool restart)
{
	struct guest g;
	pid_t stranger;
	int fd;

	wire_open(&w, place, WIRE_ADMIN);
	put("p");
	assert_int_equal(guest_start(&g, &one, NUMBER, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "p", NULL), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_HOLD, "acme", NULL), BERTH_OK);
	place_often(&w, "acme", 100);
	assert_true(status_number("retired") > 0);
	if (restart) {
		wire_close(&w);
		sandbox_serve_end(&one, SIGKILL);
	} else {
		sandbox_serve_signal(SIGSTOP);
	}
	guest_kill(&g);
	stranger = sandbox_fork(&one, NUMBER, sandbox_stay, NULL, 0, &fd);
	assert_int_equal(stranger, NUMBER);
	if (restart) {
		sandbox_serve(&one, NULL);
		wire_open(&w, place, WIRE_ADMIN);
	} else {
		sandbox_serve_signal(SIGCONT);
	}
	begin_moving(&w, "p", "c2");
	expect_pending(&w, "p", "reader-died");
	expect_freed();
	assert_int_equal(status_number("readers"), 0);
	close(fd);
	assert_int_equal(sandbox_wait(&one, stranger), 0); /* nobody harmed it */
	wire_close(&w);
}

static void a_stranger_with_a_dead_reader_s_number_holds_nothing_of_it(void **state)
{
	(void)state;
	NEEDS_NUMBERED_PLACE();
	number_is_given_to_a_stranger(false);
}

static void nor_does_it_for_the_next_writer(void **state)
{
	(void)state;
	NEEDS_NUMBERED_PLACE();
	number_is_given_to_a_stranger(true);
}

static void a_reader_with_a_dead_reader_s_number_has_nothing_of_it(void **state)
{
	struct guest first, second;

	(void)state;
	NEEDS_NUMBERED_PLACE();
	for (unsigned round = 0; round < 2; round++) {
		const char *left = round ? "left-1" : "left-0", *has = round ? "has-1" : "has-0";

		wire_open(&w, place, WIRE_ADMIN);
		put(left);
		put(has);
		assert_int_equal(guest_start(&first, &one, NUMBER, 0), BERTH_OK);
		assert_int_equal(guest_does(&first, GUEST_BEGIN, left, NULL), BERTH_OK);
		wire_close(&w);
		if (round)
			sandbox_serve_end(&one, SIGKILL);
		guest_kill(&first);
		if (round)
			sandbox_serve(&one, NULL);
		assert_int_equal(guest_start(&second, &one, NUMBER, 0), BERTH_OK);
		guest_until(&second, BERTH_OK);
		wire_open(&w, place, WIRE_ADMIN);
		assert_int_equal(guest_does(&second, GUEST_BEGIN, has, NULL), BERTH_OK);
		begin_moving(&w, left, "c2");
		begin_moving(&w, has, "c2");
		expect_pending(&w, left, "reader-died");
		expect_pending(&w, has, "leases-open");
		assert_int_equal(guest_does(&second, GUEST_END, "", NULL), BERTH_OK);
		wire_do(&w, "complete", "{s:s, s:i}", "partition", has, "wait_ms", 10000);
		assert_int_equal(status_number("readers"), 1);
		wire_close(&w);
		guest_kill(&second);
	}
}

/* ---- who asks for another one's registration -------------------------------------------------------------------- */

struct claim {
	char dir[100];
	json_int_t slot, attach;
	uid_t uid; /* whose it says it is; 0: this process's */
};

/* Reattaches by hand to a registration that is not its own, and stays. Tells the test the answer's code. */
static int claims(void *arg, int fd)
{
	const struct claim *c = arg;
	struct daemon d = {0};
	struct wire mine;
	json_t *answer;
	char refused;

	if (c->uid && !become(c->uid))
		return 2;
	snprintf(d.dir, sizeof d.dir, "%.*s", (int)sizeof d.dir - 1, c->dir);
	wire_open(&mine, &d, WIRE_LOOK);
	answer = wire_call(&mine, "reattach", "{s:I, s:I, s:i}", "slot", c->slot, "attach", c->attach, "pid",
			   (int)getpid());
	refused = json_object_get(answer, "error") ? 'r' : 'a';
	return send(fd, &refused, 1, MSG_NOSIGNAL) == 1 ? sandbox_stay(NULL, fd) : 1;
}

static struct claim claim_of_only_reader(const struct sandbox *from)
{
	json_t *answer = wire_ok(&w, "readers", NULL), *reader = json_array_get(json_object_get(answer, "readers"), 0);
	struct claim c = {.slot = int_of(reader, "slot"), .attach = int_of(reader, "attach")};

	snprintf(c.dir, sizeof c.dir, "%s", from->dir);
	json_decref(answer);
	return c;
}

/* Refused; and when it dies, the registration is as it was. */
static void claim_is_refused(struct sandbox *from, pid_t number, const struct claim *c)
{
	char said = 0;
	pid_t liar;
	int fd;

	liar = sandbox_fork(from, number, claims, c, sizeof *c, &fd);
	assert_true(liar > 0);
	if (recv(fd, &said, 1, 0) != 1)
		fail_msg("the liar ended with %d", sandbox_wait(from, liar));
	close(fd);
	assert_int_equal(sandbox_wait(from, liar), 0);
	assert_int_equal(said, 'r');
}

static void a_number_that_was_given_out_again_is_no_claim_to_a_registration(void **state)
{
	struct guest g;
	struct claim c;
	long child;

	(void)state;
	NEEDS_NUMBERED_PLACE();
	wire_open(&w, place, WIRE_ADMIN);
	put("p");
	assert_int_equal(guest_start(&g, &one, NUMBER, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "p", NULL), BERTH_OK);
	c = claim_of_only_reader(&one);
	assert_int_equal(guest_does(&g, GUEST_SPAWN, "", &child), BERTH_OK); /* it has the socket: no hint */
	guest_kill(&g);
	assert_int_equal(status_number("readers"), 1); /* else nothing is left to claim */
	claim_is_refused(&one, NUMBER, &c);
	begin_moving(&w, "p", "c2");
	expect_pending(&w, "p", "reader-died");
	wire_close(&w);
}

static void who_can_be_seen_has_no_claim_to_what_is_of_one_that_cannot(void **state)
{
	struct guest hidden;
	struct claim c;

	(void)state;
	NEEDS_USERS();
	sandbox_move_daemon(&writers);
	sandbox_open(&one, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	wire_open(&w, place, WIRE_ADMIN);
	put("p");
	assert_int_equal(guest_start(&hidden, &one, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&hidden, GUEST_BEGIN, "p", NULL), BERTH_OK);
	c = claim_of_only_reader(&writers);
	c.uid = MEMBER; /* the same user, in the writer's namespace */
	claim_is_refused(&writers, 0, &c);
	begin_moving(&w, "p", "c2");
	expect_pending(&w, "p", "leases-open");
	expect_pending(&w, "p", "leases-open");
	assert_int_equal(status_number("readers"), 1);
	assert_int_equal(guest_does(&hidden, GUEST_END, "", NULL), BERTH_OK);
	wire_do(&w, "complete", "{s:s, s:i}", "partition", "p", "wait_ms", 10000);
	wire_close(&w);
}

/* ---- without a writer ------------------------------------------------------------------------------------------- */

/* The ledger's numbers are of the writer's namespace: here they are nobody's, or a stranger's. */
static void the_tool_does_not_say_whether_one_lives_whom_it_cannot_see(void **state)
{
	json_t *lines;
	struct guest g;
	struct cli c;

	(void)state;
	NEEDS_NUMBERED_PLACE();
	assert_int_equal(guest_start(&g, &one, NUMBER, 0), BERTH_OK);
	sandbox_serve_end(&one, SIGKILL);
	lines = cli_json(0, place, "readers");
	assert_int_equal(json_array_size(lines), 1);
	assert_int_equal(int_of(json_array_get(lines, 0), "pid"), NUMBER);
	assert_true(json_is_null(json_object_get(json_array_get(lines, 0), "process_exists")));
	json_decref(lines);
	cli_run(&c, place, "readers");
	cli_check(&c, 0, "not visible from here", "not running");
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIDS_TEST(readers_with_equal_numbers_in_two_namespaces_are_told_apart),
		PIDS_TEST(so_they_are_by_a_writer_that_sees_neither),
		PIDS_TEST(a_stranger_with_a_dead_reader_s_number_holds_nothing_of_it),
		PIDS_TEST(nor_does_it_for_the_next_writer),
		PIDS_TEST(a_reader_with_a_dead_reader_s_number_has_nothing_of_it),
		PIDS_TEST(a_number_that_was_given_out_again_is_no_claim_to_a_registration),
		PIDS_TEST(the_tool_does_not_say_whether_one_lives_whom_it_cannot_see),
		PIDS_TEST(who_can_be_seen_has_no_claim_to_what_is_of_one_that_cannot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
