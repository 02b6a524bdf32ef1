/* SPDX-License-Identifier: MIT
 * Readers that see little of the machine: as another user, in a container with the instance's directory alone, beside a
 * writer that cannot see them, behind a filter of system calls. Needs root. Equal numbers of processes are in
 * 89-isolation-pids.c, other clocks in 89-isolation-clocks.c. */
#include <signal.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "sandbox_daemon.h"

static struct sandbox box, writers;

static int teardown(void **state)
{
	sandbox_close(&box);
	sandbox_close(&writers);
	return users_remove(state);
}
#define ISOLATION_TEST(f) cmocka_unit_test_setup_teardown(f, users_make, teardown)

static void a_reader_does_all_that_readers_do(struct guest *g, struct wire *w, const char *name)
{
	long value;

	assert_int_equal(guest_does(g, GUEST_ROUTE, name, &value), BERTH_OK);
	assert_int_equal(value, 1);
	/* memory that it sees is not reused under its section */
	assert_int_equal(guest_does(g, GUEST_HOLD, name, NULL), BERTH_OK);
	place_often(w, name, 200);
	assert_true(status_number("retired") > 0);
	assert_int_equal(guest_does(g, GUEST_LOOK, "", &value), BERTH_OK);
	assert_int_equal(value, 1);
	expect_freed();
	/* pins */
	assert_int_equal(guest_does(g, GUEST_PIN, name, NULL), BERTH_OK);
	assert_int_equal(guest_does(g, GUEST_RESOLVE, name, &value), BERTH_OK);
	assert_int_equal(value, 1);
	/* a migration waits for its write, and no longer */
	assert_int_equal(guest_does(g, GUEST_BEGIN, name, NULL), BERTH_OK);
	begin_moving(w, name, "c2");
	expect_pending(w, name, "leases-open");
	assert_int_equal(guest_does(g, GUEST_END, "", NULL), BERTH_OK);
	wire_do(w, "complete", "{s:s, s:i}", "partition", name, "wait_ms", 10000);
	assert_int_equal(guest_does(g, GUEST_ROUTE, name, &value), BERTH_OK);
	assert_int_equal(value, 2);
	assert_int_equal(guest_does(g, GUEST_MAINTAIN, "", NULL), BERTH_OK);
	wire_do(w, "set", "{s:s, s:b, s:{s:s, s:s}}", "partition", name, "force", 1, "placement", "mode",
		"dedicated-cluster", "cluster", "c1");
}

/* In each way in which a process ends, what it held is found. */
static void a_reader_s_death_is_found(struct sandbox *s, struct wire *w, const char *name)
{
	struct guest g;

	assert_int_equal(guest_start(&g, s, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_HOLD, name, NULL), BERTH_OK);
	place_often(w, name, 100);
	assert_true(status_number("retired") > 0);
	guest_kill(&g); /* in its section */
	expect_freed();
	expect_readers(0);

	assert_int_equal(guest_start(&g, s, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_BEGIN, name, NULL), BERTH_OK);
	begin_moving(w, name, "c2");
	expect_pending(w, name, "leases-open");
	guest_kill(&g); /* over its write */
	expect_pending(w, name, "reader-died");
	expect_readers(0);
	wire_do(w, "abort", "{s:s}", "partition", name);

	assert_int_equal(guest_start(&g, s, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_DETACH, "", NULL), BERTH_OK);
	assert_int_equal(guest_end(&g), 0);
	expect_readers(0);
	if (s->what & SANDBOX_ROOT) /* there is no program to become */
		return;
	assert_int_equal(guest_start(&g, s, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&g, GUEST_HOLD, name, NULL), BERTH_OK);
	guest_does(&g, GUEST_EXEC, "", NULL);
	expect_readers(0); /* while the process lives */
	guest_kill(&g);
}

static void a_reader_works(struct sandbox *s, const char *name)
{
	struct guest g;
	struct wire w;

	wire_open(&w, place, WIRE_ADMIN);
	place_often(&w, name, 1);
	assert_int_equal(guest_start(&g, s, 0, GUEST_CURSORS), BERTH_OK);
	a_reader_does_all_that_readers_do(&g, &w, name);
	assert_int_equal(guest_does(&g, GUEST_DETACH, "", NULL), BERTH_OK);
	assert_int_equal(guest_end(&g), 0);
	expect_readers(0);
	a_reader_s_death_is_found(s, &w, name);
	wire_close(&w);
}

/* ---- users and containers --------------------------------------------------------------------------------------- */

static void another_user_with_the_group_alone_reads_writes_and_pins(void **state)
{
	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, 0, MEMBER, BERTH_GID, place);
	a_reader_works(&box, "acme");
}

static void a_container_with_the_directory_alone_read_only_reads_writes_and_pins(void **state)
{
	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	a_reader_works(&box, "acme");
}

static void the_writer_knows_a_container_s_reader_by_its_user_outside(void **state)
{
	json_t *answer, *one;
	struct guest g;
	struct wire w;

	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	assert_int_equal(guest_start(&g, &box, 300, 0), BERTH_OK);
	wire_open(&w, place, WIRE_LOOK);
	answer = wire_ok(&w, "readers", NULL);
	one = json_array_get(json_object_get(answer, "readers"), 0);
	assert_int_equal(int_of(one, "uid"), MEMBER);
	assert_true(int_of(one, "pid") > 0);
	assert_int_not_equal(int_of(one, "pid"), 300);
	assert_string_equal(text_of(one, "comm"), "guest");
	json_decref(answer);
	wire_close(&w);
}

static int attach_to(void *arg, int fd)
{
	struct berth *b = NULL;
	int code = berth_attach(arg, NULL, &b);

	(void)fd;
	return -code;
}

/* Whose directory cannot be told from inside: it must be what the container was given, and not to be written. */
static void a_directory_of_an_unknown_owner_is_trusted_only_as_a_read_only_mount(void **state)
{
	char sub[100];
	pid_t number;
	int fd;

	(void)state;
	NEEDS_USERS();
	sandbox_open(&box, SANDBOX_USER | SANDBOX_PID, MEMBER, BERTH_GID, place); /* all of the machine's files */
	number = sandbox_fork(&box, 0, attach_to, place->dir, sizeof place->dir, &fd);
	assert_true(number > 0);
	assert_int_equal(sandbox_wait(&box, number), -BERTH_E_UNSAFE);
	close(fd);
	sandbox_close(&box);
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	snprintf(sub, sizeof sub, SANDBOX_DIR "/" SEG_TABLES); /* in the mount, not the mount */
	number = sandbox_fork(&box, 0, attach_to, sub, sizeof sub, &fd);
	assert_true(number > 0);
	assert_int_equal(sandbox_wait(&box, number), -BERTH_E_UNSAFE);
	close(fd);
}

/* ---- a writer in another pid namespace -------------------------------------------------------------------------- */

static void a_writer_that_cannot_see_its_readers_serves_them(void **state)
{
	json_t *answer, *one;
	struct guest g;
	struct wire w;

	(void)state;
	NEEDS_USERS();
	sandbox_move_daemon(&writers);
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	assert_int_equal(guest_start(&g, &box, 0, 0), BERTH_OK);
	wire_open(&w, place, WIRE_LOOK);
	answer = wire_ok(&w, "readers", NULL);
	one = json_array_get(json_object_get(answer, "readers"), 0);
	assert_int_equal(int_of(one, "pid"), 0); /* else this test would show nothing */
	json_decref(answer);
	wire_close(&w);
	guest_kill(&g);
	expect_readers(0);
	a_reader_works(&box, "acme");
	sandbox_close(&box);
	sandbox_open(&box, SANDBOX_PID, MEMBER, BERTH_GID, place); /* where it can become another program */
	a_reader_works(&box, "umbrella");
}

static void a_writer_that_cannot_see_its_readers_finds_them_again_when_it_is_killed(void **state)
{
	struct guest held, died;
	struct wire w;
	long value;

	(void)state;
	NEEDS_USERS();
	sandbox_move_daemon(&writers);
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	wire_open(&w, place, WIRE_ADMIN);
	wire_do(&w, "set", "{s:s, s:{s:s, s:s}}", "partition", "other", "placement", "mode", "dedicated-cluster",
		"cluster", "c1");
	assert_int_equal(guest_start(&held, &box, 0, 0), BERTH_OK);
	assert_int_equal(guest_start(&died, &box, 0, 0), BERTH_OK);
	assert_int_equal(guest_does(&held, GUEST_BEGIN, "acme", NULL), BERTH_OK);
	assert_int_equal(guest_does(&died, GUEST_BEGIN, "other", NULL), BERTH_OK);
	wire_close(&w);
	sandbox_serve_end(&writers, SIGKILL);
	guest_kill(&died);
	assert_int_equal(guest_does(&held, GUEST_ROUTE, "acme", &value), BERTH_OK);
	sandbox_serve(&writers, NULL);
	wire_open(&w, place, WIRE_ADMIN);
	expect_readers(1);
	begin_moving(&w, "acme", "c2");
	begin_moving(&w, "other", "c2");
	expect_pending(&w, "acme", "leases-open");
	expect_pending(&w, "other", "reader-died");
	guest_until(&held, BERTH_OK);
	assert_int_equal(guest_does(&held, GUEST_END, "", NULL), BERTH_OK);
	wire_do(&w, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 10000);
	wire_close(&w);
}

/* ---- system calls ----------------------------------------------------------------------------------------------- */

static void grow(struct wire *w)
{
	json_int_t generation = status_number("generation");
	char name[32];

	for (unsigned i = 0; status_number("generation") == generation && i < 100000;)
		for (unsigned end = i + 500; i < end; i++) {
			snprintf(name, sizeof name, "another-%u", i);
			wire_do(w, "set", "{s:s, s:{s:s, s:s}}", "partition", name, "placement", "mode",
				"dedicated-cluster", "cluster", "c1");
		}
	assert_int_not_equal(status_number("generation"), generation);
}

static void a_reader_behind_a_filter_of_the_documented_system_calls_works(void **state)
{
	struct guest g;
	struct wire w;
	long value;

	(void)state;
	NEEDS_USERS();
	if (child_sanitized())
		SKIP("sanitizers make system calls of their own");
	sandbox_open(&box, SANDBOX_CONTAINER, MEMBER, BERTH_GID, place);
	for (unsigned round = 0; round < 2; round++) {
		wire_open(&w, place, WIRE_ADMIN);
		assert_int_equal(guest_start(&g, &box, 0, GUEST_FILTERED | (round ? GUEST_CURSORS : 0)), BERTH_OK);
		if (round)
			a_reader_does_all_that_readers_do(&g, &w, "acme");
		assert_int_equal(guest_does(&g, GUEST_BEGIN, "acme", NULL), BERTH_OK);
		assert_int_equal(guest_does(&g, GUEST_END, "acme", NULL), BERTH_OK);
		if (round == 0)
			grow(&w);
		assert_int_equal(guest_does(&g, GUEST_ROUTE, "acme", &value), BERTH_OK);
		wire_close(&w);
		daemon_kill(place);
		daemon_start(place, NULL);
		guest_until(&g, BERTH_OK);
		assert_int_equal(guest_does(&g, GUEST_ROUTE, "acme", &value), BERTH_OK);
		assert_int_equal(guest_does(&g, GUEST_DETACH, "", NULL), BERTH_OK);
		assert_int_equal(guest_end(&g), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ISOLATION_TEST(another_user_with_the_group_alone_reads_writes_and_pins),
		ISOLATION_TEST(a_container_with_the_directory_alone_read_only_reads_writes_and_pins),
		ISOLATION_TEST(the_writer_knows_a_container_s_reader_by_its_user_outside),
		ISOLATION_TEST(a_directory_of_an_unknown_owner_is_trusted_only_as_a_read_only_mount),
		ISOLATION_TEST(a_writer_that_cannot_see_its_readers_serves_them),
		ISOLATION_TEST(a_writer_that_cannot_see_its_readers_finds_them_again_when_it_is_killed),
		ISOLATION_TEST(a_reader_behind_a_filter_of_the_documented_system_calls_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
