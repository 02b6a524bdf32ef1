/* SPDX-License-Identifier: MIT
 * Attaching to the real daemon before it is there and after it was gone, and following the growth of its table from
 * processes that have given up a root directory, their user or their descriptors since they attached. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mp_place.h"

#define N_KEYS 1000u
#define N_GROWN 64000u

/* ---- the writer comes and goes ----------------------------------------------------------------------------- */

static int route(struct berth_reader *r, uint32_t i, struct berth_route *at)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, i);

	return berth_route(r, key, len, at);
}

static int admit(struct berth_reader *r, uint32_t i)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, i);
	struct berth_route at;

	return berth_route(r, key, len, &at) == BERTH_OK ? berth_admit(r, key, len, at.epoch) : BERTH_E_UNKNOWN;
}

static json_int_t reader_number(struct mp_place *p, const char *name)
{
	json_t *answer = wire_ok(&p->stream.wire, "readers", NULL);
	json_t *one = json_array_get(json_object_get(answer, "readers"), 0);
	json_int_t n;

	assert_int_equal(json_array_size(json_object_get(answer, "readers")), 1);
	n = json_is_boolean(json_object_get(one, name)) ? json_is_true(json_object_get(one, name)) : int_of(one, name);
	json_decref(answer);
	return n;
}

static void a_process_that_registered_once_keeps_gate_and_registration_over_restarts(void **state)
{
	struct mp_place *p = *state;
	json_int_t slot, attach;
	struct berth_reader *r;
	struct berth *b;

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	assert_int_equal(berth_attach(p->d.dir, NULL, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	slot = reader_number(p, "slot");
	attach = reader_number(p, "attach");
	for (unsigned i = 0; i < 5; i++) {
		daemon_kill(&p->d);
		assert_int_equal(admit(r, 7), BERTH_OK);
		MP_UNTIL(berth_maintain(b) == BERTH_E_WRITER_DOWN, 5000);
		assert_int_equal(admit(r, 7), BERTH_OK);
		daemon_start(&p->d, NULL);
		assert_int_equal(admit(r, 7), BERTH_OK);
		MP_UNTIL(berth_maintain(b) == BERTH_OK, 5000);
		stream_resume(&p->stream);
		assert_int_equal(admit(r, 7), BERTH_OK);
		assert_int_equal(reader_number(p, "slot"), slot);
		assert_int_equal(reader_number(p, "attach"), attach);
		assert_int_equal(reader_number(p, "connected"), 1);
	}
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

static void without_a_writer_there_are_look_ups_and_maintain_makes_them_whole_when_one_comes(void **state)
{
	struct mp_place *p = *state;
	struct berth_attach_options options = {.size = sizeof options, .wait_ms = BERTH_NO_WAIT};
	struct readers_options copying = {.no_writer = true};
	struct berth_reader *r;
	struct berth_route at;
	struct berth *b;

	mp_fill_with(p, N_KEYS, &copying);
	daemon_kill(&p->d);
	readers_add(&p->readers, 4);
	assert_int_equal(berth_attach(p->d.dir, &options, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	for (uint32_t i = 0; i < N_KEYS; i++)
		assert_int_equal(route(r, i, &at), BERTH_OK);
	assert_int_equal(admit(r, 1), BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_maintain(b), BERTH_E_WRITER_DOWN);
	readers_await(&p->readers, 50, 10000);
	daemon_start(&p->d, NULL);
	stream_resume(&p->stream);
	stream_use(&p->stream, &p->readers, 0, 64);
	stream_do(&p->stream, 500);
	MP_UNTIL(berth_maintain(b) == BERTH_OK, 5000);
	assert_int_equal(admit(r, 900), BERTH_OK);
	MP_UNTIL(mp_status(p, "readers") == 5, 5000);
	stream_do(&p->stream, 500);
	readers_await(&p->readers, 50, 10000);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	readers_finish(&p->readers, "attached without a writer");
}

/* Whoever has no registration is not waited for: what it reads may be reused under it, and it has to notice. */
static void a_reader_that_nobody_waits_for_gives_no_wrong_answer_while_the_table_changes_under_it(void **state)
{
	struct mp_place *p = *state;
	struct readers_options copying = {.no_writer = true, .upkeep = SOME_MAINTAIN, .max_keys = N_GROWN};

	mp_fill_with(p, N_KEYS, &copying);
	daemon_kill(&p->d);
	readers_add(&p->readers, 4); /* every second one never learns that a writer came */
	daemon_start(&p->d, NULL);
	stream_resume(&p->stream);
	stream_use(&p->stream, &p->readers, 0, 16);
	stream_do(&p->stream, 4000);
	assert_true(mp_status(p, "readers") <= 2);
	for (uint32_t to = 4 * N_KEYS; to <= N_GROWN; to *= 4) { /* old files are used again for new ones */
		stream_load(&p->stream, to / 4, to - to / 4);
		stream_do(&p->stream, 500);
	}
	for (unsigned i = 0; i < 5; i++) {
		daemon_kill(&p->d);
		daemon_start(&p->d, NULL);
		stream_resume(&p->stream);
		stream_do(&p->stream, 500);
	}
	readers_await(&p->readers, 50, 10000);
	readers_finish(&p->readers, "copying readers");
}

/* The writer makes a new, smaller table of the memory of an old one, while somebody sleeps in a look-up there. */
static void stopped_in_a_look_up_such_a_reader_survives_that_its_table_is_made_into_another_one(void **state)
{
	struct mp_place *p = *state;
	struct readers_options copying = {.no_writer = true, .upkeep = NONE_MAINTAINS};

	mp_fill_with(p, N_GROWN, &copying);
	daemon_kill(&p->d);
	readers_add(&p->readers, READERS_MAX);
	for (unsigned i = 0; i < READERS_MAX; i++) {
		kill(p->readers.pid[i], SIGSTOP); /* wherever it is */
		assert_int_equal(waitpid(p->readers.pid[i], NULL, WUNTRACED), p->readers.pid[i]);
	}
	for (unsigned i = 0; i < 3; i++) {
		daemon_start(&p->d, NULL);
		wire_close(&p->stream.wire);
		wire_open(&p->stream.wire, &p->d, WIRE_ADMIN);
		mp_await_freed(p);
		MP_UNTIL(mp_status(p, "reserve_bytes") >= mp_status(p, "bytes"), 10000);
		if (i == 0)
			stream_prune(&p->stream, 100);
		daemon_kill(&p->d);
	}
	for (uint32_t i = 100; i < N_GROWN; i++)
		readers_changed(&p->readers, i, ABSENT, 0);
	for (unsigned i = 0; i < READERS_MAX; i++)
		kill(p->readers.pid[i], SIGCONT);
	readers_await(&p->readers, 50, 20000);
	readers_finish(&p->readers, "stopped copying readers");
}

/* ---- what a process may have given up ---------------------------------------------------------------------- */

static char empty_directory[160];

static void leave_the_file_system(void)
{
	if (chroot(empty_directory) != 0 || chdir("/") != 0)
		_exit(3);
}

static void become_nobody(void)
{
	if (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0)
		_exit(3);
}

static void use_up_descriptors(void)
{
	struct rlimit few = {.rlim_cur = 64, .rlim_max = 64};

	if (setrlimit(RLIMIT_NOFILE, &few) != 0)
		_exit(3);
	while (dup(STDOUT_FILENO) >= 0)
		;
	if (errno != EMFILE)
		_exit(3);
}

static void grow_under(struct mp_place *p, void (*prepare)(void), const char *what)
{
	struct readers_options options = {.max_keys = N_GROWN, .upkeep = SOME_MAINTAIN, .prepare = prepare};

	mp_fill_with(p, N_KEYS, &options);
	readers_add(&p->readers, 4);
	stream_use(&p->stream, &p->readers, 0, 64);
	for (uint32_t to = 4 * N_KEYS; to <= N_GROWN; to *= 4) {
		json_int_t generation = mp_status(p, "generation");

		stream_do(&p->stream, 100);
		stream_load(&p->stream, to / 4, to - to / 4);
		assert_true(mp_status(p, "generation") > generation);
		stream_do(&p->stream, 100);
		readers_await(&p->readers, 50, 10000);
	}
	daemon_kill(&p->d); /* another generation, by another writer */
	daemon_start(&p->d, NULL);
	stream_resume(&p->stream);
	stream_do(&p->stream, 100);
	readers_await(&p->readers, 50, 10000);
	assert_int_equal(mp_status(p, "readers"), 4);
	mp_await_freed(p);
	readers_finish(&p->readers, what);
}

static void the_table_grows_under_a_process_in_an_empty_root_directory(void **state)
{
	struct mp_place *p = *state;

	if (geteuid() != 0) {
		printf("SKIP: chroot needs root\n");
		skip();
	}
	snprintf(empty_directory, sizeof empty_directory, "%s/empty", p->d.home);
	assert_int_equal(mkdir(empty_directory, 0755), 0);
	grow_under(p, leave_the_file_system, "chroot");
}

static void the_table_grows_under_a_process_that_has_dropped_its_user_and_its_groups(void **state)
{
	if (geteuid() != 0) {
		printf("SKIP: another user needs root\n");
		skip();
	}
	grow_under(*state, become_nobody, "user nobody");
}

static void the_table_grows_under_a_process_without_a_free_descriptor(void **state)
{
	grow_under(*state, use_up_descriptors, "no descriptors");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MP_TEST(a_process_that_registered_once_keeps_gate_and_registration_over_restarts, "memory"),
		MP_TEST(a_process_that_registered_once_keeps_gate_and_registration_over_restarts, "sqlite"),
		MP_TEST(without_a_writer_there_are_look_ups_and_maintain_makes_them_whole_when_one_comes, "sqlite"),
		MP_TEST(a_reader_that_nobody_waits_for_gives_no_wrong_answer_while_the_table_changes_under_it,
			"memory"),
		MP_TEST(stopped_in_a_look_up_such_a_reader_survives_that_its_table_is_made_into_another_one, "memory"),
		MP_TEST(the_table_grows_under_a_process_in_an_empty_root_directory, "memory"),
		MP_TEST(the_table_grows_under_a_process_that_has_dropped_its_user_and_its_groups, "memory"),
		MP_TEST(the_table_grows_under_a_process_without_a_free_descriptor, "memory"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
