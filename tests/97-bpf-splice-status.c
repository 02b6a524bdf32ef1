/* SPDX-License-Identifier: MIT
 * `berth bpf status` of an instance with splice: where it listens, for how many, and whether it runs, was killed, or is on a
 * mirror that went. */
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "splice_place.h"

/* Waits for so many connections; what the status says of splice, to be freed. */
static json_t *status(struct splice_place *p, json_int_t connections)
{
	uint64_t deadline = 0;

	for (;;) { /* told at the end of a turn of its loop */
		json_t *lines = cli_json(0, &p->b->d, "bpf", "status");
		json_t *splice = json_incref(json_object_get(json_array_get(lines, 0), "splice"));

		json_decref(lines);
		if (json_is_null(splice) || int_of(splice, "connections") == connections || !within(&deadline))
			return splice;
		json_decref(splice);
	}
}

static void status_says_where_splice_listens_and_for_how_many(void **state)
{
	struct splice_place *p = splice_place(state);
	char at[64];
	int fds[3];
	struct cli c;
	json_t *s = status(p, 0);

	assert_true(json_is_null(s));
	json_decref(s);
	splice_start(p, NULL, NULL);
	for (int i = 0; i < 3; i++) {
		fds[i] = splice_connect(p->port);
		splice_expect(splice_go(fds[i], SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	}
	close(fds[0]);
	s = status(p, 2);
	snprintf(at, sizeof(at), "127.0.0.1:%u", p->port);
	assert_string_equal(text_of(s, "listen"), at);
	assert_int_equal(int_of(s, "pid"), p->pid);
	assert_int_equal(int_of(s, "connections"), 2);
	assert_int_equal(int_of(s, "accepted"), 3);
	assert_true(is_true(s, "lives") && is_true(s, "attached"));
	assert_false(is_true(s, "stale"));
	json_decref(s);
	cli_run(&c, &p->b->d, "bpf", "status");
	cli_check(&c, 0, at, NULL);
	cli_free(&c);
	close(fds[1]);
	close(fds[2]);
	assert_int_equal(splice_stop(p), 0);
	s = status(p, 0);
	assert_true(json_is_null(s));
	json_decref(s);
}

static void one_that_was_killed_is_told_so_until_the_next(void **state)
{
	struct splice_place *p = splice_place(state);
	struct cli c;
	json_t *s;

	splice_start(p, NULL, NULL);
	child_kill(&p->pid);
	s = status(p, 0);
	assert_false(is_true(s, "lives"));
	json_decref(s);
	cli_run(&c, &p->b->d, "bpf", "status");
	cli_check(&c, 0, "was killed: start it again", NULL);
	cli_free(&c);
	splice_start(p, NULL, NULL);
	s = status(p, 0);
	assert_true(is_true(s, "lives"));
	assert_int_equal(int_of(s, "pid"), p->pid);
	json_decref(s);
}

static void on_a_mirror_that_went_it_is_stale(void **state)
{
	struct splice_place *p = splice_place(state);
	struct cli c;
	json_t *s;

	splice_start(p, NULL, NULL);
	wire_close(&p->admin);
	daemon_kill(&p->b->d);
	daemon_start(&p->b->d, NULL);
	wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
	s = status(p, 0);
	assert_true(is_true(s, "lives") && is_true(s, "stale"));
	json_decref(s);
	cli_run(&c, &p->b->d, "bpf", "status");
	cli_check(&c, 0, "everything goes to the fallback", NULL);
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(status_says_where_splice_listens_and_for_how_many, 30000),
		SPLICE_TEST(one_that_was_killed_is_told_so_until_the_next, 30000),
		SPLICE_TEST(on_a_mirror_that_went_it_is_stale, 30000),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
