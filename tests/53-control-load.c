/* SPDX-License-Identifier: MIT
 * Placement documents through the real daemon: by descriptor, at the start, at SIGHUP; and what the sockets do
 * meanwhile. What a document means is tested without sockets, in 13-document.c and 32-core-documents*.c. */
#include "daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int document(const char *text)
{
	int fd = memfd_create("document", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static json_t *load(struct wire *w, const char *text)
{
	int fd = document(text);

	wire_send_with(w, fd, "load", NULL);
	close(fd);
	return wire_answer(w);
}

static const char small[] =
	"{\"version\":7,\"clusters\":{\"c1\":{\"endpoint\":\"http://a:1\"},\"c2\":{\"endpoint\":\"\"}},"
	"\"default\":{\"mode\":\"shared-index\",\"cluster\":\"c1\",\"index\":\"shared\"},"
	"\"partitions\":{\"p\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
	"\"q\":{\"mode\":\"dedicated-index\",\"cluster\":\"c2\",\"index\":\"q\"}}}";

static void a_document_is_applied_and_summed_up(void **state)
{
	struct wire w;
	json_t *r, *events;

	wire_open(&w, *state, WIRE_ADMIN);
	r = answer_result(load(&w, small));
	assert_int_equal(int_of(r, "partitions"), 2);
	assert_int_equal(int_of(r, "version"), 7);
	assert_int_equal(json_array_size(json_object_get(r, "left")), 0);
	json_decref(r);
	r = wire_ok(&w, "get", "{s:s}", "partition", "q");
	assert_string_equal(text_of(json_object_get(json_object_get(r, "state"), "at"), "index"), "q");
	json_decref(r);
	answer_expect_refused(load(&w, small), "stale-document");
	r = wire_ok(&w, "history", "{s:i}", "limit", 50);
	events = json_object_get(r, "events");
	assert_memory_equal(text_of(json_array_get(events, 0), "who"), "uid=", 4);
	json_decref(r);
	wire_close(&w);
}

static void what_is_left_alone_is_reported(void **state)
{
	struct wire w;
	json_t *r, *left;
	int fd;

	wire_open(&w, *state, WIRE_ADMIN);
	json_decref(answer_result(load(&w, small)));
	wire_do(&w, "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c2");
	wire_do(&w, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "q", "placement", "mode", "dedicated-index",
		"cluster", "c2", "index", "mine");
	fd = document("{\"partitions\":{\"p\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"x\"},"
		      "\"q\":{\"mode\":\"dedicated-index\",\"cluster\":\"c2\",\"index\":\"y\"}}}");
	wire_send_with(&w, fd, "load", "{s:s}", "name", "tenants.json");
	r = answer_result(wire_answer(&w));
	left = json_object_get(r, "left");
	assert_int_equal(int_of(r, "migrating"), 1);
	assert_int_equal(int_of(r, "diverged"), 1);
	assert_int_equal(json_array_size(left), 2);
	assert_string_equal(text_of(json_array_get(left, 0), "partition"), "p");
	json_decref(r);
	wire_send_with(&w, fd, "load", "{s:b, s:b}", "override", 1, "prune", 1);
	r = answer_result(wire_answer(&w));
	assert_int_equal(int_of(r, "applied"), 1);
	json_decref(r);
	close(fd);
	daemon_expect_log(*state, "document=tenants.json");
	wire_close(&w);
}

static void a_bad_document_changes_nothing_and_says_where(void **state)
{
	struct wire w;
	json_t *answer, *data, *r;

	wire_open(&w, *state, WIRE_ADMIN);
	answer = load(&w, "{\"partitions\":{\"p\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
			  "\"q\":{\"mode\":\"sideways\",\"cluster\":\"c1\"}}}");
	data = json_object_get(json_object_get(answer, "error"), "data");
	assert_non_null(strstr(text_of(data, "path"), "q"));
	answer_expect_refused(answer, "bad-document");
	answer_expect_refused(load(&w, ""), "bad-document");
	answer_expect_refused(load(&w, "{} {}"), "bad-document");
	r = wire_ok(&w, "status", NULL);
	assert_int_equal(int_of(r, "partitions"), 0);
	assert_int_equal(int_of(r, "clusters"), 0);
	assert_int_equal(int_of(r, "changes"), 0);
	json_decref(r);
	wire_close(&w);
}

static void a_descriptor_must_come_along_and_be_readable(void **state)
{
	struct daemon *d = *state;
	struct wire w, other;
	int fds[3], pipes[2];

	wire_open(&w, d, WIRE_ADMIN);
	wire_deny(&w, "invalid", "load", NULL);
	fds[0] = open("/", O_RDONLY | O_DIRECTORY);
	fds[1] = open("/dev/null", O_RDONLY);
	fds[2] = open(d->log, O_WRONLY);
	for (int i = 0; i < 3; i++) {
		wire_send_with(&w, fds[i], "load", NULL);
		answer_expect_refused(wire_answer(&w), "invalid");
		close(fds[i]);
	}
	/* One that came with another request is not kept for this one. */
	fds[0] = document(small);
	wire_send_with(&w, fds[0], "status", NULL);
	json_decref(answer_result(wire_answer(&w)));
	wire_deny(&w, "invalid", "load", NULL);
	/* A pipe is read to its end; nobody waits meanwhile. */
	assert_int_equal(pipe(pipes), 0);
	wire_send_with(&w, pipes[0], "load", NULL);
	close(pipes[0]);
	wire_open(&other, d, WIRE_ADMIN);
	wire_do(&other, "cluster.set", "{s:s}", "id", "c9");
	assert_int_equal(write(pipes[1], small, 30), 30);
	wire_do(&other, "status", NULL);
	assert_int_equal(write(pipes[1], small + 30, strlen(small) - 30), strlen(small) - 30);
	close(pipes[1]);
	json_decref(answer_result(wire_answer(&w)));
	close(fds[0]);
	wire_close(&w);
	wire_close(&other);
}

/* A document that takes a while; rewritten with another index each time, so that all of it is changes. */
static int large(int n, int round)
{
	FILE *f = fdopen(memfd_create("large", MFD_CLOEXEC), "r+");
	int fd;

	fputs("{\"clusters\":{\"c1\":{\"endpoint\":\"\"}},\"partitions\":{", f);
	for (int i = 0; i < n; i++)
		fprintf(f, "%s\"tenant-%d\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i%d\"}",
			i ? "," : "", i, round);
	fputs("}}", f);
	fflush(f);
	fd = dup(fileno(f));
	fclose(f);
	return fd;
}

static bool loading(struct wire *w)
{
	json_t *status = wire_ok(w, "status", NULL);
	bool is = is_true(status, "loading");

	json_decref(status);
	return is;
}

static json_int_t count(struct wire *w, const char *name)
{
	json_t *status = wire_ok(w, "status", NULL);
	json_int_t n = int_of(status, name);

	json_decref(status);
	return n;
}

static void looking_goes_on_and_changing_waits(void **state)
{
	enum { N = 60000 };
	struct wire w, look, changer, second;
	uint64_t worst = 0;
	int fd = large(N, 0), served = 0;
	json_t *r;

	wire_open(&w, *state, WIRE_ADMIN);
	wire_open(&look, *state, WIRE_LOOK);
	wire_open(&changer, *state, WIRE_ADMIN);
	wire_open(&second, *state, WIRE_ADMIN);
	wire_send_with(&w, fd, "load", NULL);
	while (!loading(&look))
		;
	/* Not refused: answered when the document is through, or before it was taken up. */
	assert_true(wire_text(&changer,
			      "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"cluster.set\",\"params\":{\"id\":\"c2\"}}\n"
			      "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"status\"}\n"));
	wire_send_with(&second, fd, "load", NULL);
	for (bool on = true; on; served++) {
		uint64_t start = test_now_ms(), took;

		on = loading(&look) && poll(&(struct pollfd){.fd = w.fd, .events = POLLIN}, 1, 0) == 0;
		took = test_now_ms() - start;
		worst = took > worst ? took : worst;
	}
	print_message("%d look requests were served during the load, the slowest took %d ms\n", served, (int)worst);
	assert_true(served > 3);
	r = answer_result(wire_answer(&w));
	assert_int_equal(int_of(r, "partitions"), N);
	assert_int_equal(int_of(r, "applied"), N);
	json_decref(r);
	for (int id = 1; id <= 2; id++) {
		r = wire_message(&changer);
		assert_int_equal(int_of(r, "id"), id);
		json_decref(answer_result(r));
	}
	r = answer_result(wire_answer(&second));
	assert_int_equal(int_of(r, "unchanged"), N);
	json_decref(r);
	close(fd);
	wire_close(&w);
	wire_close(&look);
	wire_close(&changer);
	wire_close(&second);
}

static void a_client_that_goes_away_cancels_its_document(void **state)
{
	struct wire w, look;
	int pipes[2], fd;
	json_t *status;

	wire_open(&look, *state, WIRE_ADMIN);
	/* while it is read: a pipe that never ends */
	wire_open(&w, *state, WIRE_ADMIN);
	assert_int_equal(pipe(pipes), 0);
	wire_send_with(&w, pipes[0], "load", NULL);
	while (!loading(&look))
		;
	wire_close(&w);
	for (uint64_t deadline = 0; within(&deadline) && loading(&look);)
		;
	assert_false(loading(&look));
	close(pipes[0]);
	close(pipes[1]);
	/* at any moment of a large one: whole or not at all */
	for (int ms = 0; ms < 200; ms += 20) {
		json_int_t partitions, documents = count(&look, "documents");

		fd = large(20000, ms);
		wire_open(&w, *state, WIRE_ADMIN);
		wire_send_with(&w, fd, "load", NULL);
		poll(NULL, 0, ms);
		wire_close(&w);
		close(fd);
		for (uint64_t deadline = 0;
		     within(&deadline) && (count(&look, "documents") == documents || loading(&look));)
			;
		status = wire_ok(&look, "status", NULL);
		partitions = int_of(status, "partitions");
		assert_true(partitions == 0 || partitions == 20000);
		assert_false(is_true(status, "loading"));
		json_decref(status);
	}
	wire_do(&look, "cluster.set", "{s:s}", "id", "after");
	wire_close(&look);
}

static void half_closed_clients_still_get_their_summary(void **state)
{
	struct wire w;
	int fd = document(small);

	wire_open(&w, *state, WIRE_ADMIN);
	wire_send_with(&w, fd, "load", NULL);
	shutdown(w.fd, SHUT_WR);
	json_decref(answer_result(wire_answer(&w)));
	close(fd);
	wire_close(&w);
}

static void a_stop_in_the_middle_of_a_document_is_clean(void **state)
{
	struct daemon *d = *state;
	struct wire w, look;
	int fd = large(60000, 1);
	json_t *answer, *status;
	bool refused;

	wire_open(&w, d, WIRE_ADMIN);
	wire_open(&look, d, WIRE_LOOK);
	wire_send_with(&w, fd, "load", NULL);
	while (!loading(&look))
		;
	poll(NULL, 0, 30);
	assert_int_equal(daemon_stop(d), 0);
	{
		char *line = wire_line(&w, DAEMON_MS);

		answer = line ? json_loads(line, 0, NULL) : NULL; /* while it is read, the connection just ends */
		refused = !json_object_get(answer, "result");
		free(line);
		json_decref(answer);
	}
	wire_close(&w);
	wire_close(&look);
	daemon_start(d, NULL);
	wire_open(&look, d, WIRE_LOOK);
	status = wire_ok(&look, "status", NULL);
	if (refused)
		assert_int_equal(int_of(status, "partitions"), 0);
	else
		assert_int_equal(int_of(status, "partitions"), 60000);
	json_decref(status);
	close(fd);
	wire_close(&look);
}

/* ---- --document -------------------------------------------------------------------------------------------- */

static json_int_t partitions(struct daemon *d)
{
	return daemon_status(d, "partitions");
}

static void the_document_is_applied_before_ready_and_again_at_sighup(void **state)
{
	struct daemon *d = *state;
	char path[128];
	uint64_t deadline = 0;

	assert_int_equal(daemon_stop(d), 0);
	daemon_file(d, "doc.json", small, path);
	daemon_start(d, "--document", path, NULL);
	assert_int_equal(partitions(d), 2);
	daemon_file(d, "doc.json",
		    "{\"version\":8,\"clusters\":{\"c1\":{}},\"partitions\":{"
		    "\"r\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}}",
		    path);
	daemon_signal(d, SIGHUP);
	while (within(&deadline) && partitions(d) != 3)
		;
	assert_int_equal(partitions(d), 3);
	daemon_signal(d, SIGHUP); /* the same again is stale, and told in the log */
	daemon_expect_log(d, "code=stale-document");
	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, "--document", path, NULL);
	assert_int_equal(partitions(d), 3);
}

static void a_document_that_is_refused_does_not_keep_it_from_starting(void **state)
{
	struct daemon *d = *state;
	uint64_t deadline = 0;
	struct wire look;
	char path[128];

	assert_int_equal(daemon_stop(d), 0);
	daemon_file(d, "doc.json", "{\"partitions\":7}", path);
	daemon_start(d, "--document", path, NULL);
	daemon_expect_log(d, "code=bad-document");
	assert_int_equal(partitions(d), 0);
	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, "--document", "/nonexistent/doc.json", NULL);
	daemon_expect_log(d, "/nonexistent/doc.json");
	daemon_signal(d, SIGHUP);
	assert_int_equal(partitions(d), 0);
	wire_open(&look, d, WIRE_LOOK);
	while (within(&deadline) && count(&look, "documents_refused") != 2)
		;
	assert_int_equal(count(&look, "documents"), 2); /* refused or not */
	wire_close(&look);
}

#define ON_BOTH(test) DAEMON_TEST(test, "memory"), DAEMON_TEST(test, "sqlite")

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_BOTH(a_document_is_applied_and_summed_up),
		DAEMON_TEST(what_is_left_alone_is_reported, "memory"),
		ON_BOTH(a_bad_document_changes_nothing_and_says_where),
		DAEMON_TEST(a_descriptor_must_come_along_and_be_readable, "memory"),
		ON_BOTH(looking_goes_on_and_changing_waits),
		ON_BOTH(a_client_that_goes_away_cancels_its_document),
		DAEMON_TEST(half_closed_clients_still_get_their_summary, "memory"),
		ON_BOTH(a_stop_in_the_middle_of_a_document_is_clean),
		ON_BOTH(the_document_is_applied_before_ready_and_again_at_sighup),
		DAEMON_TEST(a_document_that_is_refused_does_not_keep_it_from_starting, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
