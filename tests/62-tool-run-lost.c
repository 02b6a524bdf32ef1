/* SPDX-License-Identifier: MIT
 * `berth migrate run` when the answer to one of its steps does not come: between it and a real daemon stands a process
 * that passes requests and answers on, and does with one of them what the test says. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "child.h"
#include "cli.h"
#include "holder.h"

#define LINE_ROOM 16384u

/* ---- the process between ---- */

enum fate {               /* of the first request of a method */
	    NOT_SENT,     /* the daemon never gets it, the tool no answer, and no connection any more */
	    NOT_ANSWERED, /* the daemon gets it, else the same */
	    LATE,         /* the tool's connection is closed; the daemon gets it right before it gets the second one */
	    DENIED,       /* no permission of the store: an answer that is no verdict of the partition's state */
};

struct between {
	const char *method;
	enum fate fate;
	pid_t pid;
	char ours[128], theirs[128]; /* sockets */
	int listener;
	char held[LINE_ROOM];
};

static int at(const char *path, int (*how)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", path);
	return how(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

/* One line, with its newline; false when there is none any more. */
static bool get_line(int fd, char *line, size_t room)
{
	size_t n = 0;

	while (n + 1 < room && read(fd, line + n, 1) == 1)
		if (line[n++] == '\n') {
			line[n] = '\0';
			return true;
		}
	return false;
}

static void put_line(int fd, const char *line)
{
	if (send(fd, line, strlen(line), MSG_NOSIGNAL) < 0)
		_exit(1);
}

static void deny(int fd, const char *request)
{
	char line[256];

	snprintf(line, sizeof(line),
		 "{\"jsonrpc\":\"2.0\",\"id\":%ld,\"error\":{\"code\":-32000,\"message\":\"the store may not be "
		 "written\",\"data\":{\"code\":\"backend\"}}}\n",
		 strtol(strstr(request, "\"id\":") + 5, NULL, 10));
	put_line(fd, line);
}

/* The request whose turn it is. False: the tool's connection ends. */
static bool strike(struct between *b, int tool, int daemon, const char request[LINE_ROOM], char answer[LINE_ROOM])
{
	b->method = "nothing more";
	if (b->fate == DENIED) {
		deny(tool, request);
		return true;
	}
	if (b->fate == LATE) {
		memcpy(b->held, request, sizeof(b->held));
		return false;
	}
	if (b->fate == NOT_ANSWERED) {
		put_line(daemon, request);
		get_line(daemon, answer, LINE_ROOM);
	}
	unlink(b->ours);
	_exit(0);
}

static void pass_on(struct between *b, int tool, int daemon)
{
	static char request[LINE_ROOM], answer[LINE_ROOM];
	char wanted[64];

	while (get_line(tool, request, sizeof(request))) {
		snprintf(wanted, sizeof(wanted), "\"method\":\"%s\"", b->method);
		if (strstr(request, wanted)) {
			if (!strike(b, tool, daemon, request, answer))
				return;
			continue;
		}
		if (b->held[0] && !strstr(request, "\"get\"")) {
			put_line(daemon, b->held);
			get_line(daemon, answer, sizeof(answer));
			b->held[0] = '\0';
		}
		put_line(daemon, request);
		if (!get_line(daemon, answer, sizeof(answer)))
			return;
		put_line(tool, answer);
	}
}

static void stand_between(struct between *b, const struct daemon *d, const char *method, enum fate fate)
{
	*b = (struct between){.method = method, .fate = fate};
	snprintf(b->ours, sizeof(b->ours), "%s/%s", d->dir, SEG_ADMIN_SOCKET);
	snprintf(b->theirs, sizeof(b->theirs), "%s/theirs", d->dir);
	assert_int_equal(rename(b->ours, b->theirs), 0);
	b->listener = at(b->ours, bind);
	assert_true(b->listener >= 0 && listen(b->listener, 16) == 0);
	fflush(NULL);
	b->pid = fork();
	if (b->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			int tool = accept(b->listener, NULL, NULL), daemon = at(b->theirs, connect);
			pass_on(b, tool, daemon);
			close(tool);
			close(daemon);
		}
	}
	assert_true(b->pid > 0);
	close(b->listener);
}

/* From here on the daemon is reached itself. */
static void step_aside(struct between *b)
{
	child_kill(&b->pid);
	assert_int_equal(rename(b->theirs, b->ours), 0);
}

/* ---- the place ---- */

static int setup(void **state)
{
	static struct holder h;
	int rc = daemon_setup(state);
	const struct daemon *d = *state;

	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "http://h1:9200");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "http://h2:9200");
	cli_expect(0, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c1");
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_begin(&h, "acme"); /* to the end: no drain ends */
	return rc;
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

static const char *phase_of(const struct daemon *d)
{
	static char phase[32];
	json_t *lines = cli_json(0, d, "get", "acme");
	const json_t *state = json_object_get(json_array_get(lines, 0), "state");
	const char *now = json_string_value(json_object_get(state, "phase"));

	assert_string_equal(text_of(json_object_get(state, "at"), "cluster"), "c1");
	snprintf(phase, sizeof(phase), "%s", now ? now : "settled");
	json_decref(lines);
	return phase;
}

/* It ended with 5 and this phase; epoch 0: null. */
static void ended_standing(const struct cli *c, const char *code, const char *phase, json_int_t epoch)
{
	json_t *line = json_loads(c->out, 0, NULL);
	const json_t *error = json_object_get(line, "error");

	cli_check(c, 5, NULL, NULL);
	assert_string_equal(text_of(error, "code"), code);
	assert_string_equal(text_of(error, "phase"), phase);
	assert_true(epoch ? int_of(error, "epoch") == epoch : json_is_null(json_object_get(error, "epoch")));
	json_decref(line);
}

static void give_up(struct cli *c)
{
	for (int i = 0; i < 2; i++) {
		kill(c->pid, SIGINT);
		poll(NULL, 0, 300);
	}
	cli_wait(c);
}

/* ---- begin ---- */

static void a_begin_without_an_answer_may_stand(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "begin", NOT_SENT);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	give_up(&c);
	ended_standing(&c, "interrupted", "unknown", 0);
	cli_check(&c, 5, "Whether acme is still in its migration is not known", NULL);
	cli_free(&c);
	assert_string_equal(phase_of(d), "settled");
	step_aside(&b);
}

static void a_begin_that_was_made_is_found_and_undone(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "begin", NOT_ANSWERED);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	assert_string_equal(phase_of(d), "draining");
	kill(c.pid, SIGINT);
	poll(NULL, 0, 300);
	step_aside(&b);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "acme: interrupted. The migration is undone, c1 keeps the partition");
	cli_free(&c);
	assert_string_equal(phase_of(d), "settled");
	/* None was made: nothing to undo. */
	stand_between(&b, d, "begin", NOT_SENT);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	kill(c.pid, SIGINT);
	poll(NULL, 0, 300);
	step_aside(&b);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "acme: interrupted before anything was done");
	cli_free(&c);
}

static void a_begin_that_comes_late_is_ours(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "begin", LATE);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: 1 write under way");
	step_aside(&b);
	kill(c.pid, SIGINT);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "acme: interrupted. The migration is undone, c1 keeps the partition");
	cli_free(&c);
}

/* ---- cutover and abort ---- */

static void a_cutover_without_an_answer_may_hold_back_writes(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "cutover", NOT_ANSWERED);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	give_up(&c);
	ended_standing(&c, "interrupted", "cutover", 3);
	cli_check(&c, 5, "The writes of acme are still held back", NULL);
	cli_free(&c);
	assert_string_equal(phase_of(d), "cutover");
	step_aside(&b);
	cli_expect(0, d, "migrate", "abort", "acme");
	stand_between(&b, d, "cutover", NOT_SENT);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	give_up(&c);
	ended_standing(&c, "interrupted", "unknown", 0);
	cli_check(&c, 5, "Whether acme is still in its migration, its writes held back, is not known", NULL);
	cli_free(&c);
	step_aside(&b);
}

static void a_cutover_that_was_made_is_ours_to_undo(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "cutover", NOT_ANSWERED);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting for berthd to come back");
	kill(c.pid, SIGINT);
	poll(NULL, 0, 300);
	step_aside(&b);
	/* The next answer is lost too: the abort's epoch is to be told from the cutover's. */
	stand_between(&b, d, "abort", LATE);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "acme: interrupted. The migration is undone, c1 keeps the partition");
	cli_check(&c, 130, NULL, "writes were held back for ");
	cli_free(&c);
	step_aside(&b);
	assert_string_equal(phase_of(d), "settled");
}

static void an_abort_without_an_answer_may_have_failed(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "abort", NOT_SENT);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2", "--max-blackout", "100");
	cli_expect_err(&c, "waiting for berthd to come back");
	give_up(&c);
	ended_standing(&c, "interrupted", "cutover", 3);
	cli_free(&c);
	step_aside(&b);
	cli_expect(0, d, "migrate", "abort", "acme");
	stand_between(&b, d, "abort", NOT_ANSWERED);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2", "--max-blackout", "100");
	cli_expect_err(&c, "waiting for berthd to come back");
	give_up(&c);
	ended_standing(&c, "interrupted", "unknown", 0);
	cli_free(&c);
	step_aside(&b);
}

static void an_abort_that_is_refused_leaves_it(void **state)
{
	struct daemon *d = *state;
	struct between b;
	struct cli c;

	stand_between(&b, d, "abort", DENIED);
	cli_run(&c, d, "--json", "migrate", "run", "acme", "--to", "c2", "--max-blackout", "100");
	ended_standing(&c, "max-blackout", "cutover", 3);
	cli_check(&c, 5, "could not be undone: the store may not be written. The writes of acme are still held back",
		  NULL);
	cli_free(&c);
	step_aside(&b);
	assert_string_equal(phase_of(d), "cutover");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_begin_without_an_answer_may_stand, setup, teardown),
		cmocka_unit_test_setup_teardown(a_begin_that_was_made_is_found_and_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_begin_that_comes_late_is_ours, setup, teardown),
		cmocka_unit_test_setup_teardown(a_cutover_without_an_answer_may_hold_back_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_cutover_that_was_made_is_ours_to_undo, setup, teardown),
		cmocka_unit_test_setup_teardown(an_abort_without_an_answer_may_have_failed, setup, teardown),
		cmocka_unit_test_setup_teardown(an_abort_that_is_refused_leaves_it, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
