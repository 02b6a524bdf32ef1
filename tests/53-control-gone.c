/* SPDX-License-Identifier: MIT
 * Requests that wait for a document, and clients that close their connection meanwhile: nothing is done for them, and
 * their connections do not pile up. */
#include "daemon.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PLACED "{s:s, s:{s:s, s:s}}", "partition"
#define IN_C1 "placement", "mode", "dedicated-cluster", "cluster", "c1"

/* A document that takes a while; with another index each time, so that all of it is changes. */
static int large(int round)
{
	FILE *f = fdopen(memfd_create("large", MFD_CLOEXEC), "r+");
	int fd;

	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (int i = 0; i < 150000; i++)
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

static void connections_go_down_to(struct wire *w, int n)
{
	json_int_t now = -1;

	for (uint64_t deadline = 0; now != n && within(&deadline);) {
		json_t *status = wire_ok(w, "status", NULL);

		now = int_of(status, "connections");
		json_decref(status);
	}
	assert_int_equal(now, n);
}

/* Sends changes, each over a connection of its own, until one waits for the document: its name, and the connection.
 * False: the document is through. */
static bool one_waits(struct daemon *d, struct wire *look, struct wire *w, int round, char *name, size_t size)
{
	for (int i = 0; loading(look); i++) {
		snprintf(name, size, "late-%d-%d", round, i);
		wire_open(w, d, WIRE_ADMIN);
		wire_do(w, "status", NULL); /* it is accepted */
		assert_true(wire_request(w, -1, "set", json_pack(PLACED, name, IN_C1)));
		/* What was sent before this question is looked at before the answer to the next one. */
		if (loading(look) && loading(look) && wire_is_open(w))
			return true;
		json_decref(answer_result(wire_answer(w)));
		wire_close(w);
	}
	return false;
}

static void cut_over(struct wire *admin, const char *partition)
{
	wire_do(admin, "set", PLACED, partition, IN_C1);
	wire_do(admin, "begin", "{s:s, s:{s:s}}", "partition", partition, "to", "cluster", "c2");
	wire_do(admin, "cutover", "{s:s}", "partition", partition);
}

static void what_waits_for_a_document_is_not_done_for_who_is_gone(void **state)
{
	struct wire admin, look, late, completing;
	char name[32], moving[32];
	struct daemon *d = *state;
	bool waited = false;

	wire_open(&admin, d, WIRE_ADMIN);
	wire_open(&look, d, WIRE_LOOK);
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c2");
	for (int round = 0; round < 20 && !waited; round++) { /* until a document takes long enough */
		int fd = large(round);

		snprintf(moving, sizeof(moving), "moving-%d", round);
		cut_over(&admin, moving);
		wire_open(&completing, d, WIRE_ADMIN);
		wire_do(&completing, "status", NULL);
		wire_send_with(&admin, fd, "load", NULL);
		close(fd);
		if (one_waits(d, &look, &late, round, name, sizeof(name))) {
			assert_true(wire_request(&completing, -1, "complete",
						 json_pack("{s:s, s:i}", "partition", moving, "wait_ms", 10000)));
			waited = loading(&look) && loading(&look) && wire_is_open(&completing) && wire_is_open(&late);
			wire_close(&late);
		}
		wire_close(&completing);
		json_decref(answer_result(wire_answer(&admin)));
	}
	assert_true(waited);
	connections_go_down_to(&look, 2);
	wire_deny(&look, "unknown-partition", "get", "{s:s}", "partition", name);
	wire_do(&admin, "complete", "{s:s}", "partition", moving); /* it was possible, and nobody has done it */
	wire_close(&admin);
	wire_close(&look);
}

static void who_is_gone_is_closed_while_the_document_is_read(void **state)
{
	enum { GONE = 20 };
	static const char small[] = "{\"clusters\":{\"c1\":{\"endpoint\":\"\"}}}";
	struct wire first, look, second;
	struct daemon *d = *state;
	int pipes[2], fd = large(0);
	json_t *status;

	assert_int_equal(pipe(pipes), 0);
	wire_open(&first, d, WIRE_ADMIN);
	wire_open(&look, d, WIRE_LOOK);
	wire_send_with(&first, pipes[0], "load", NULL);
	close(pipes[0]);
	while (!loading(&look))
		;
	for (int i = 0; i < GONE; i++) { /* each waits for the whole of the first */
		wire_open(&second, d, WIRE_ADMIN);
		wire_send_with(&second, fd, "load", NULL);
		wire_close(&second);
	}
	close(fd);
	connections_go_down_to(&look, 2);
	assert_true(loading(&look));
	assert_int_equal(write(pipes[1], small, strlen(small)), strlen(small));
	close(pipes[1]);
	json_decref(answer_result(wire_answer(&first)));
	status = wire_ok(&look, "status", NULL);
	assert_int_equal(int_of(status, "documents"), 1);
	json_decref(status);
	wire_close(&first);
	wire_close(&look);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(what_waits_for_a_document_is_not_done_for_who_is_gone, "memory"),
		DAEMON_TEST(what_waits_for_a_document_is_not_done_for_who_is_gone, "sqlite"),
		DAEMON_TEST(who_is_gone_is_closed_while_the_document_is_read, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
