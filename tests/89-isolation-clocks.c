/* SPDX-License-Identifier: MIT
 * Clocks of readers and of the writer: a reader with others cannot attach, one whose writer comes back with others writes
 * nothing, one that was merely heard late keeps what it has. Needs root. */
#include <poll.h>
#include <signal.h>

#include "sandbox_daemon.h"

static struct sandbox box, writers;

static int teardown(void **state)
{
	sandbox_close(&box);
	sandbox_close(&writers);
	return users_remove(state);
}
#define CLOCKS_TEST(f) cmocka_unit_test_setup_teardown(f, users_make, teardown)

static void who_has_other_clocks_cannot_attach(void **state)
{
	struct guest g;

	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, SANDBOX_TIME, MEMBER, BERTH_GID, place);
	assert_int_equal(guest_start(&g, &box, 0, 0), BERTH_E_CLOCK);
	expect_readers(0);
}

/* Its ends would be of a clock that the writer does not have. */
static void a_reader_admits_nothing_by_a_writer_that_came_back_with_other_clocks(void **state)
{
	struct guest g;
	long value;

	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, 0, MEMBER, BERTH_GID, place);
	assert_int_equal(guest_start(&g, &box, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_END, "", NULL), BERTH_OK);
	daemon_kill(place);
	/* It does not see the reader either: its clocks are all that tells. */
	sandbox_open(&writers, SANDBOX_PID | SANDBOX_TIME, 0, 0, place);
	sandbox_serve(&writers, NULL);
	guest_until(&g, BERTH_E_CLOCK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_E_WRITER_DOWN);
	assert_int_equal(guest_does(&g, GUEST_ROUTE, "acme", &value), BERTH_OK); /* reads go on */
	expect_readers(0);
	sandbox_serve_end(&writers, SIGTERM);
	daemon_start(place, NULL); /* in the reader's time again */
	guest_until(&g, BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_END, "", NULL), BERTH_OK);
}

static json_int_t number_of_the_registration(void)
{
	json_t *answer = daemon_ask(place, "readers");
	json_int_t attach = int_of(json_array_get(json_object_get(answer, "readers"), 0), "attach");

	json_decref(answer);
	return attach;
}

/* Its clocks were right when it asked; the writer was stopped for longer than it takes a request for. */
static void a_reader_whose_request_was_read_late_keeps_its_registration(void **state)
{
	struct guest g;
	json_int_t attach;
	uint64_t asked;

	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, 0, MEMBER, BERTH_GID, place);
	assert_int_equal(guest_start(&g, &box, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_OK);
	attach = number_of_the_registration();
	sandbox_signal(&box, g.number, SIGSTOP);
	daemon_kill(place);
	daemon_start(place, NULL);
	daemon_signal(place, SIGSTOP);
	sandbox_signal(&box, g.number, SIGCONT);
	assert_int_equal(guest_does(&g, GUEST_MAINTAIN, "", NULL), BERTH_E_WRITER_DOWN); /* it has asked */
	for (asked = test_now_ms(); test_now_ms() - asked < 10500;)
		poll(NULL, 0, 100);
	daemon_signal(place, SIGCONT);
	guest_until(&g, BERTH_OK);
	assert_int_equal(number_of_the_registration(), attach);
	expect_readers(1);
	assert_int_equal(guest_does(&g, GUEST_END, "", NULL), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CLOCKS_TEST(who_has_other_clocks_cannot_attach),
		CLOCKS_TEST(a_reader_admits_nothing_by_a_writer_that_came_back_with_other_clocks),
		CLOCKS_TEST(a_reader_whose_request_was_read_late_keeps_its_registration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
