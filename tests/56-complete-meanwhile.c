/* SPDX-License-Identifier: MIT
 * While a `complete` waits (56-complete.c): what others and its own connection are served, and the ends of the wait that
 * others cause: an abort, a closed connection, a daemon that stops or is killed. */
#include "child.h"
#include "drain_place.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_MS 15000 /* of waits that something else is to end */
#define SOON_MS 1000u /* generous: a sanitizer, a busy machine */

/* ---- others meanwhile -------------------------------------------------------------------------------------- */

static void others_are_served_meanwhile(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w, watcher;
	uint64_t slowest = 0;
	json_t *m;
	int fd;

	drain_prepare(p, "p", &one);
	wire_open(&w, &p->d, WIRE_ADMIN);
	wire_do(&w, "watch", NULL); /* who waits is told of changes all the same */
	wire_open(&watcher, &p->d, WIRE_LOOK);
	wire_do(&watcher, "watch", NULL);
	drain_send_complete(&w, "p", LONG_MS);
	for (int i = 0; i < 20; i++) {
		uint64_t start = test_now_ms();
		char q[16];

		snprintf(q, sizeof(q), "q%d", i);
		drain_put(p, q);
		drain_cut_over(p, q);
		drain_expect_completed(
			wire_call(&p->admin, "complete", "{s:s, s:i}", "partition", q, "wait_ms", LONG_MS));
		drain_expect_at(p, q, "c2", "settled");
		drain_expect_at(p, "p", "c1", "cutover");
		slowest = test_now_ms() - start > slowest ? test_now_ms() - start : slowest;
	}
	assert_true(slowest < SOON_MS);
	for (int i = 0; i < 80; i++) {
		json_decref(wire_message(&watcher));
		json_decref(wire_message(&w));
	}
	/* A document too; it leaves p alone. */
	fd = memfd_create("document", MFD_CLOEXEC);
	assert_int_equal(write(fd, "{\"partitions\":{}}", 17), 17);
	wire_send_with(&p->admin, fd, "load", NULL);
	close(fd);
	json_decref(answer_result(wire_answer(&p->admin)));
	for (;;) {
		m = wire_message(&watcher);
		if (strcmp(text_of(json_object_get(m, "params"), "what"), "load") == 0)
			break;
		json_decref(m);
	}
	json_decref(m);
	json_decref(wire_message(&w));
	assert_true(wire_silent(&w, 20));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w)); /* the answer first */
	m = wire_message(&w);
	assert_string_equal(text_of(json_object_get(m, "params"), "what"), "complete");
	json_decref(m);
	wire_close(&watcher);
	wire_close(&w);
}

/* A document that is being applied holds it up like every change, and it is answered all the same. */
static void a_document_comes_first(void **state)
{
	enum { N = 60000 };
	struct drain_place *p = *state;
	FILE *f = fdopen(memfd_create("document", MFD_CLOEXEC), "r+");
	struct berth_write one, two;
	struct wire w, late, loader;
	uint64_t deadline = 0;

	fputs("{\"partitions\":{", f);
	for (int i = 0; i < N; i++)
		fprintf(f, "%s\"tenant-%d\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}",
			i ? "," : "", i);
	fputs("}}", f);
	fflush(f);
	drain_prepare(p, "p", &one);
	drain_prepare(p, "q", &two);
	drain_open_complete(p, &w, "p", LONG_MS);
	drain_open_complete(p, &late, "q", 20);
	wire_open(&loader, &p->d, WIRE_ADMIN);
	wire_send_with(&loader, fileno(f), "load", NULL);
	while (within(&deadline) && drain_status(p, "partitions") < 100) /* the wait for q ends meanwhile */
		;
	drain_end_write(p, &one, BERTH_DONE);
	json_decref(answer_result(wire_answer(&loader)));
	drain_expect_completed(wire_answer(&w));
	json_decref(drain_pending(wire_answer(&late), "leases-open"));
	assert_int_equal(drain_status(p, "partitions"), N + 2);
	drain_end_write(p, &two, BERTH_DONE);
	fclose(f);
	wire_close(&w);
	wire_close(&late);
	wire_close(&loader);
}

static void what_comes_behind_it_on_its_connection_waits(void **state)
{
	static const char behind[] =
		"{\"jsonrpc\":\"2.0\",\"id\":77,\"method\":\"cluster.set\",\"params\":{\"id\":\"c9\"}}\n"
		"{\"jsonrpc\":\"2.0\",\"id\":78,\"method\":\"status\"}\n";
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;
	json_t *r;

	drain_prepare(p, "p", &one);
	wire_open(&w, &p->d, WIRE_ADMIN);
	wire_do(&w, "status", NULL);
	drain_send_complete(&w, "p", LONG_MS);
	assert_true(wire_send(&w, behind, 40)); /* in two pieces, around its being taken up */
	assert_true(wire_silent(&w, 50));
	assert_true(wire_text(&w, behind + 40));
	assert_true(wire_silent(&w, 50));
	assert_int_equal(drain_status(p, "clusters"), 2);
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	r = wire_message(&w);
	assert_int_equal(int_of(r, "id"), 77);
	json_decref(r);
	r = wire_message(&w);
	assert_int_equal(int_of(r, "id"), 78);
	assert_int_equal(int_of(json_object_get(r, "result"), "clusters"), 3);
	json_decref(r);
	wire_close(&w);
}

static void an_abort_ends_the_wait(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w, second;
	uint64_t start;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	drain_open_complete(p, &second, "p", LONG_MS);
	assert_true(wire_silent(&w, 50));
	start = test_now_ms();
	wire_do(&p->admin, "abort", "{s:s}", "partition", "p");
	answer_expect_refused(wire_answer(&w), "not-migrating");
	answer_expect_refused(wire_answer(&second), "not-migrating");
	assert_true(test_now_ms() - start < SOON_MS);
	drain_expect_at(p, "p", "c1", "settled");
	drain_end_write(p, &one, BERTH_DONE);
	/* Two that wait for the same: one of them has done it. */
	drain_begin_write(p, "p", &one);
	drain_cut_over(p, "p");
	drain_send_complete(&w, "p", LONG_MS);
	assert_true(wire_silent(&w, 20));
	drain_send_complete(&second, "p", LONG_MS);
	assert_true(wire_silent(&second, 20));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	answer_expect_refused(wire_answer(&second), "not-migrating");
	wire_close(&w);
	wire_close(&second);
}

/* Who waits for one migration does not complete the next one, however fast that came. */
static void another_migration_is_not_completed_in_its_place(void **state)
{
	static const char anew[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"abort\",\"params\":{\"partition\":\"p\"}}\n"
		"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"begin\",\"params\":{\"partition\":\"p\",\"to\":{"
		"\"cluster\":\"c2\"}}}\n"
		"{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"cutover\",\"params\":{\"partition\":\"p\"}}\n";
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 50));
	assert_true(wire_text(&p->admin, anew));
	for (int i = 0; i < 3; i++)
		json_decref(answer_result(wire_message(&p->admin)));
	drain_end_write(p, &one, BERTH_DONE);
	answer_expect_refused(wire_answer(&w), "not-migrating");
	drain_expect_at(p, "p", "c1", "cutover");
	drain_send_complete(&w, "p", LONG_MS);
	drain_expect_completed(wire_answer(&w));
	wire_close(&w);
}

/* ---- the store fails --------------------------------------------------------------------------------------- */

static int full_setup(void **state)
{
	struct drain_place *p = calloc(1, sizeof(*p));
	char room[100];

	*state = p;
	if (!own_mounts())
		return 0;
	daemon_make(&p->d, "sqlite");
	snprintf(room, sizeof(room), "%s/s", p->d.home);
	snprintf(p->d.store, sizeof(p->d.store), "sqlite:%s/s/store.db", p->d.home);
	assert_int_equal(mkdir(room, 0755), 0);
	assert_int_equal(mount("room", room, "tmpfs", 0, "size=4m,mode=0755"), 0);
	drain_start(p, NULL);
	return 0;
}

static int full_teardown(void **state)
{
	struct drain_place *p = *state;
	char room[100];

	if (!p->b) {
		free(p);
		return 0;
	}
	snprintf(room, sizeof(room), "%s/s", p->d.home);
	daemon_kill(&p->d);
	umount2(room, MNT_DETACH);
	return drain_teardown(state);
}

static void fill(const char *path)
{
	static const char page[4096] = {0};
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	while (write(fd, page, sizeof(page)) == sizeof(page))
		;
	assert_int_equal(errno, ENOSPC);
	close(fd);
}

/* Told at once, and nothing is done; asked again when there is room, it is. */
static void a_store_that_fails_is_told(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;
	char filler[100];
	bool failed = false;

	if (!p->b)
		skip();
	snprintf(filler, sizeof(filler), "%s/s/filler", p->d.home);
	wire_open(&w, &p->d, WIRE_ADMIN);
	for (int i = 0; i < 20 && !failed; i++) { /* the store has some room of its own */
		char q[16];
		json_t *answer;

		snprintf(q, sizeof(q), "p%d", i);
		drain_prepare(p, q, &one);
		fill(filler);
		drain_send_complete(&w, q, LONG_MS);
		assert_true(wire_silent(&w, 20));
		drain_end_write(p, &one, BERTH_DONE);
		answer = wire_answer(&w);
		failed = json_object_get(answer, "error") != NULL;
		if (failed) {
			answer_expect_refused(answer, "backend");
			drain_expect_at(p, q, "c1", "cutover");
			assert_int_equal(unlink(filler), 0);
			drain_send_complete(&w, q, LONG_MS);
			answer = wire_answer(&w);
		}
		drain_expect_completed(answer);
		unlink(filler);
	}
	assert_true(failed);
	wire_close(&w);
}

/* ---- connections and the daemon end ------------------------------------------------------------------------ */

static void a_closed_connection_drops_its_wait(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one, two;
	struct wire w;
	uint64_t deadline = 0;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 50));
	assert_int_equal(drain_status(p, "connections"), 3); /* with the reader's */
	wire_close(&w);
	drain_end_write(p, &one, BERTH_DONE); /* at once: nobody has looked for the peer yet */
	poll(NULL, 0, 200);
	drain_expect_at(p, "p", "c1", "cutover");
	/* And with a write that goes on: the connection does not stay for its sake. */
	drain_prepare(p, "q", &two);
	drain_open_complete(p, &w, "q", 3 * DAEMON_MS);
	assert_true(wire_silent(&w, 50));
	wire_close(&w);
	while (within(&deadline) && drain_status(p, "connections") > 2)
		;
	assert_int_equal(drain_status(p, "connections"), 2);
	drain_end_write(p, &two, BERTH_DONE);
	drain_expect_at(p, "q", "c1", "cutover");
	wire_do(&p->admin, "complete", "{s:s}", "partition", "p");
}

static void who_sends_no_more_still_gets_its_answer(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_int_equal(shutdown(w.fd, SHUT_WR), 0);
	assert_true(wire_silent(&w, 300));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	assert_null(wire_line(&w, DAEMON_MS));
	wire_close(&w);
}

static void a_stop_answers_who_waits(void **state)
{
	static const char behind[] =
		"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"abort\",\"params\":{\"partition\":\"p\"}}\n";
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;
	uint64_t start;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_text(&w, behind));
	assert_true(wire_silent(&w, 50));
	start = test_now_ms();
	daemon_signal(&p->d, SIGTERM);
	json_decref(drain_pending(wire_answer(&w), "leases-open"));
	assert_null(wire_line(&w, DAEMON_MS)); /* what came behind it is not done */
	assert_int_equal(daemon_wait(&p->d), 0);
	assert_true(test_now_ms() - start < 2 * SOON_MS);
	wire_close(&w);
	daemon_start(&p->d, NULL);
	wire_close(&p->admin);
	wire_open(&p->admin, &p->d, WIRE_ADMIN);
	drain_expect_at(p, "p", "c1", "cutover");
	/* The same write, seen by the next writer. */
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 100));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	wire_close(&w);
}

static void after_a_crash_the_client_asks_again(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 50));
	daemon_kill(&p->d);
	assert_null(wire_line(&w, DAEMON_MS));
	wire_close(&w);
	daemon_start(&p->d, NULL);
	wire_close(&p->admin);
	wire_open(&p->admin, &p->d, WIRE_ADMIN);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 100));
	berth_maintain(p->b);
	assert_true(wire_silent(&w, 50));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	drain_expect_at(p, "p", "c2", "settled");
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DRAIN_ON_BOTH(others_are_served_meanwhile),
		DRAIN_ON_BOTH(a_document_comes_first),
		DRAIN_TEST(what_comes_behind_it_on_its_connection_waits, "memory"),
		DRAIN_TEST(an_abort_ends_the_wait, "memory"),
		DRAIN_TEST(another_migration_is_not_completed_in_its_place, "memory"),
		cmocka_unit_test_setup_teardown(a_store_that_fails_is_told, full_setup, full_teardown),
		DRAIN_TEST(a_closed_connection_drops_its_wait, "memory"),
		DRAIN_TEST(who_sends_no_more_still_gets_its_answer, "memory"),
		DRAIN_ON_BOTH(a_stop_answers_who_waits),
		DRAIN_ON_BOTH(after_a_crash_the_client_asks_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
