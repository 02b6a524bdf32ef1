/* SPDX-License-Identifier: MIT
 * A change through the admin socket of a memory: daemon, from the request's first byte to the answer's last: by then
 * readers see it. Against a peer that does nothing but read as many bytes and write as many back, on the same
 * processor, in turn with it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define CHANGES 4000u
#define CHANGES_QUICK 200u
#define PARTITIONS 1000u
#define LINE_ROOM 512u

struct sides {
	struct daemon d;
	pid_t peer;
	int fd; /* to the peer */
	size_t request_len, answer_len;
};

/* Two placements in turn, so that each request changes something; all requests are equally long. */
static size_t request(char *line, unsigned i)
{
	char key[KEY_ROOM];

	key_name(key, i / 2 % PARTITIONS);
	return (size_t)snprintf(
		line, LINE_ROOM,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"%s\","
		"\"placement\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"orders-%u\"},"
		"\"force\":true}}\n",
		key, i % 2);
}

static void receive(int fd, char *line, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t got = recv(fd, line + at, n - at, 0);

		if (got <= 0)
			fail("the other side of a ping-pong is gone");
		at += (size_t)got;
	}
}

static _Noreturn void run_peer(int fd, size_t request_len, size_t answer_len)
{
	char line[LINE_ROOM] = "";

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(CPU_DAEMON);
	for (;;) {
		for (size_t at = 0; at < request_len;) {
			ssize_t got = recv(fd, line + at, request_len - at, 0);

			if (got <= 0)
				_exit(0);
			at += (size_t)got;
		}
		if (send(fd, line, answer_len, MSG_NOSIGNAL) != (ssize_t)answer_len)
			_exit(1);
	}
}

static void start_sides(const struct bench *b, struct sides *s)
{
	char line[LINE_ROOM], answer[LINE_ROOM];
	int pair[2], document = document_make(PARTITIONS, false);

	daemon_start(b, &s->d, "change", &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&s->d, document, PARTITIONS, NULL);
	close(document);
	s->request_len = request(line, 0);
	send_all(s->d.fd, line, s->request_len, -1);
	s->answer_len = receive_line(s->d.fd, answer, sizeof(answer));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		fail("socketpair: %s", strerror(errno));
	fflush(stdout);
	s->peer = fork();
	if (s->peer < 0)
		fail("fork: %s", strerror(errno));
	if (s->peer == 0) {
		close(pair[0]);
		run_peer(pair[1], s->request_len, s->answer_len);
	}
	close(pair[1]);
	s->fd = pair[0];
}

static double measure_peer(const struct sides *s, unsigned n)
{
	char line[LINE_ROOM], answer[LINE_ROOM];
	uint64_t from = now_ns();

	for (unsigned i = 0; i < n; i++) {
		send_all(s->fd, line, request(line, i), -1);
		receive(s->fd, answer, s->answer_len);
	}
	return elapsed_ns(from) / n / 1000;
}

/* Every answer is looked at: a refusal, or nothing changed, would be quick too. */
static double measure_daemon(const struct sides *s, unsigned n)
{
	char line[LINE_ROOM], answer[LINE_ROOM];
	uint64_t from = now_ns();

	for (unsigned i = 0; i < n; i++) {
		send_all(s->d.fd, line, request(line, i), -1);
		receive_line(s->d.fd, answer, sizeof(answer));
		if (!strstr(answer, "\"changed\":true"))
			fail("%s was answered with %s", line, answer);
	}
	return elapsed_ns(from) / n / 1000;
}

/* The answered epoch is what a reader sees. */
static void check_seen(const struct sides *s)
{
	char line[LINE_ROOM], answer[LINE_ROOM], key[KEY_ROOM];
	struct berth_reader *r = NULL;
	struct berth *berth = NULL;
	struct berth_route out = {0};
	int rc = berth_attach(s->d.dir, NULL, &berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(berth, &r);
	key_name(key, 0);
	for (unsigned i = 0; i < 100 && rc == BERTH_OK; i++) {
		send_all(s->d.fd, line, request(line, i % 2), -1);
		receive_line(s->d.fd, answer, sizeof(answer));
		rc = berth_route(r, key, KEY_LEN, &out);
		if (out.epoch != answer_number(answer, "epoch"))
			fail("a reader sees epoch %llu after %s", (unsigned long long)out.epoch, answer);
	}
	if (rc != BERTH_OK)
		fail("cannot look at %s: %s", s->d.dir, berth_strerror(rc));
	berth_reader_close(&r);
	berth_detach(&berth);
}

void workload_change(const struct bench *b)
{
	struct figure bare = {.workload = "change", .name = "ping-pong of a bare socket", .unit = "us"};
	struct figure change = {.workload = "change", .name = "change through admin.sock", .unit = "us"};
	struct figure ratio = {.workload = "change", .name = "change / ping-pong", .unit = "ratio", .goal = 1.5};
	unsigned n = b->quick ? CHANGES_QUICK : CHANGES;
	struct sides s;

	start_sides(b, &s);
	check_seen(&s);
	snprintf(bare.parameters, sizeof(bare.parameters), "request=%zu answer=%zu", s.request_len, s.answer_len);
	pin_to(CPU_SELF);
	measure_peer(&s, n / 4);
	measure_daemon(&s, n / 4);
	for (unsigned run = 0; run < b->runs; run++) {
		add_sample(&bare.s, measure_peer(&s, n));
		add_sample(&change.s, measure_daemon(&s, n));
		add_sample(&ratio.s, change.s.v[run] / bare.s.v[run]);
	}
	pin_nowhere();
	close(s.fd);
	waitpid(s.peer, NULL, 0);
	daemon_stop(&s.d);
	remove_tree(s.d.dir);
	report(b, &bare);
	report(b, &change);
	report(b, &ratio);
}
