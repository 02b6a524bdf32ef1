/* SPDX-License-Identifier: MIT
 * Changes a second through the admin socket of a memory: daemon: a request each and one at a time, the same with many
 * under way, and `set` of many partitions in one request. Requests are made before the clock runs; two placements in
 * turn, so that every one of them changes every partition that it names. Daemon and client have a processor each.
 * Each answer is looked at, and a reader sees the last epoch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define ONE_BY_ONE 4000u /* changes a run */
#define PIPELINED 512u   /* windows a run */
#define MANY 1000000u
#define QUICK_SHARE 50u    /* --quick: so much less */
#define WINDOW 128u        /* single changes that are sent at a time; as many more are under way before them */
#define NAMES 3000u        /* of one request: 54 KB of at most 64 */
#define ANSWER_ROOM 65536u /* of a window's answers */
#define LINE_ROOM 512u

struct lines { /* requests, one behind the other */
	char *bytes;
	size_t len, room;
};

struct side {
	struct daemon d;
	uint32_t partitions;
	struct berth *berth;
	struct berth_reader *reader;
	uint64_t n_waited; /* answers waited for: of a request of many, or of a window */
	size_t heard;      /* bytes of answers that nobody has asked for yet */
	char answers[ANSWER_ROOM], last[LINE_ROOM];
};

/* ---- requests ----------------------------------------------------------------------------------------------- */

static void add_bytes(struct lines *l, const char *bytes, size_t n)
{
	if (!l->bytes || l->room - l->len < n) {
		l->room = 2 * (l->room + n);
		l->bytes = realloc(l->bytes, l->room);
		if (!l->bytes)
			fail("no memory for requests");
	}
	memcpy(l->bytes + l->len, bytes, n);
	l->len += n;
}

static void add_text(struct lines *l, const char *text)
{
	add_bytes(l, text, strlen(text));
}

/* One request for partitions first .. first + n - 1, n 0: for `first` in the form for one. */
static void add_request(struct lines *l, uint32_t first, uint32_t n, unsigned which)
{
	char text[LINE_ROOM], key[KEY_ROOM];

	snprintf(text, sizeof(text), "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"%s\":",
		 n ? "partitions" : "partition");
	add_text(l, text);
	for (uint32_t i = 0; i < (n ? n : 1); i++) {
		key_name(key, first + i);
		snprintf(text, sizeof(text), "%s\"%s\"", i ? "," : n ? "[" : "", key);
		add_text(l, text);
	}
	snprintf(text, sizeof(text),
		 "%s,\"placement\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"orders-%u\"},"
		 "\"force\":true}}\n",
		 n ? "]" : "", which);
	add_text(l, text);
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

/* Takes n answers; *last: the last of them. */
static void receive_answers(struct side *s, unsigned n, char *last)
{
	for (;;) {
		char *at = s->answers, *end;
		ssize_t got;

		for (; n > 0 && (end = memchr(at, '\n', s->heard)); at = end + 1, n--) {
			*end = 0;
			if (!strstr(at, "\"changed\":") || strstr(at, "\"changed\":false") || end - at >= LINE_ROOM)
				fail("a change was answered with %.400s", at);
			memcpy(last, at, (size_t)(end - at) + 1);
			s->heard -= (size_t)(end + 1 - at);
		}
		memmove(s->answers, at, s->heard);
		if (n == 0)
			break;
		got = recv(s->d.fd, s->answers + s->heard, sizeof(s->answers) - s->heard, 0);
		if (got <= 0)
			fail("the daemon is gone, or an answer too long");
		s->heard += (size_t)got;
	}
	s->n_waited++;
}

/* A reader finds the answer's epoch. */
static void check_seen(const struct side *s, uint32_t number, const char *answer)
{
	struct berth_route out = {0};
	char key[KEY_ROOM];
	int rc;

	key_name(key, number);
	rc = berth_route(s->reader, key, KEY_LEN, &out);
	if (rc != BERTH_OK || out.epoch != answer_number(answer, "epoch"))
		fail("a reader sees epoch %llu of %s after %s", (unsigned long long)out.epoch, key, answer);
}

/* ---- the three ways: each sets what it sets to the one placement, then to the other ------------------------------ */

static double one_by_one(struct side *s, unsigned n)
{
	char *at, *end;
	struct lines l = {0};
	uint64_t from;
	double t;

	for (unsigned i = 0; i < n; i++)
		add_request(&l, i / 2 % s->partitions, 0, i % 2);
	from = now_ns();
	for (at = l.bytes; at < l.bytes + l.len; at = end) {
		end = (char *)memchr(at, '\n', l.len - (size_t)(at - l.bytes)) + 1;
		send_all(s->d.fd, at, (size_t)(end - at), -1);
		receive_answers(s, 1, s->last);
	}
	t = elapsed_ns(from);
	check_seen(s, (n - 1) / 2 % s->partitions, s->last);
	free(l.bytes);
	return n / t * 1e9;
}

/* Before each but the first it waits for the `answers` of the one before the last: the daemon always has one to go on
 * with. changed: what each answer says, 0: true. In ns. */
static double send_in_turn(struct side *s, struct lines *lines, unsigned n, unsigned answers, uint32_t changed)
{
	uint64_t from = now_ns();
	double t;

	for (unsigned i = 0; i <= n; i++) {
		if (i < n)
			send_all(s->d.fd, lines[i].bytes, lines[i].len, -1);
		if (i == 0)
			continue;
		receive_answers(s, answers, s->last);
		if (changed && answer_number(s->last, "changed") != changed)
			fail("%u partitions were set, and this was answered: %s", changed, s->last);
	}
	t = elapsed_ns(from);
	for (unsigned i = 0; i < n; i++)
		free(lines[i].bytes);
	free(lines);
	return t;
}

static struct lines *lines_make(unsigned n)
{
	struct lines *lines = calloc(n, sizeof(*lines));

	if (!lines)
		fail("no memory for requests");
	return lines;
}

static double pipelined(struct side *s, unsigned n_windows)
{
	struct lines *windows = lines_make(n_windows);
	unsigned n = n_windows * WINDOW;
	double t;

	for (unsigned i = 0; i < n; i++)
		add_request(&windows[i / WINDOW], i / 2 % s->partitions, 0, i % 2);
	t = send_in_turn(s, windows, n_windows, WINDOW, 0);
	check_seen(s, (n - 1) / 2 % s->partitions, s->last);
	return n / t * 1e9;
}

/* As many partitions as come to half of that, with the one placement, and then with the other; all of them again and
 * again where there are fewer. */
static double many(struct side *s, unsigned n_changes)
{
	uint32_t names = s->partitions < NAMES ? s->partitions : NAMES, a_round = s->partitions / names;
	unsigned n = n_changes / names / 2 * 2;
	struct lines *requests = lines_make(n);
	double t;

	if (a_round > n / 2)
		a_round = n / 2;
	n -= n % (2 * a_round);
	for (unsigned i = 0; i < n; i++)
		add_request(&requests[i], i % a_round * names, names, i / a_round % 2);
	t = send_in_turn(s, requests, n, 1, names);
	check_seen(s, (n - 1) % a_round * names + names - 1, s->last);
	return (double)n * names / t * 1e9;
}

/* ---- an instance -------------------------------------------------------------------------------------------- */

static uint64_t grace_periods(struct side *s)
{
	static char answer[8192];

	daemon_call(&s->d, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n", -1, answer, sizeof(answer), NULL);
	return answer_number(answer, "grace_periods");
}

static void side_open(const struct bench *b, struct side *s, uint32_t partitions)
{
	int document = document_make(partitions, false), rc;

	*s = (struct side){.partitions = partitions};
	daemon_start(b, &s->d, "batch", &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&s->d, document, partitions, NULL);
	close(document);
	rc = berth_attach(s->d.dir, NULL, &s->berth);
	if (rc == BERTH_OK)
		rc = berth_reader_open(s->berth, &s->reader);
	if (rc != BERTH_OK)
		fail("cannot look at %s: %s", s->d.dir, berth_strerror(rc));
}

static void side_close(struct side *s)
{
	berth_reader_close(&s->reader);
	berth_detach(&s->berth);
	daemon_stop(&s->d);
	remove_tree(s->d.dir);
}

static void measure(const struct bench *b, uint32_t partitions)
{
	struct figure f[] = {
		{.name = "changes, one request at a time", .unit = "/s"},
		{.name = "changes, requests pipelined", .unit = "/s"},
		{.name = "changes, many in a request", .unit = "/s", .goal = 1e6, .at_least = true},
		{.name = "grace periods a request of many", .unit = "number"},
	};
	unsigned less = b->quick ? QUICK_SHARE : 1;
	static struct side s;

	side_open(b, &s, partitions);
	pin_to(CPU_SELF);
	one_by_one(&s, ONE_BY_ONE / 4 / less);
	many(&s, MANY / less); /* the first time, memory for records is made */
	for (unsigned run = 0; run < b->runs; run++) {
		uint64_t grace, requests;

		add_sample(&f[0].s, one_by_one(&s, ONE_BY_ONE / less));
		add_sample(&f[1].s, pipelined(&s, PIPELINED / less));
		grace = grace_periods(&s);
		requests = s.n_waited;
		add_sample(&f[2].s, many(&s, MANY / less));
		add_sample(&f[3].s, (double)(grace_periods(&s) - grace) / (double)(s.n_waited - requests));
	}
	pin_nowhere();
	side_close(&s);
	for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		uint32_t names = partitions < NAMES ? partitions : NAMES;

		f[i].workload = "batch";
		if (i < 2)
			snprintf(f[i].parameters, sizeof(f[i].parameters), "partitions=%u", partitions);
		else
			snprintf(f[i].parameters, sizeof(f[i].parameters), "partitions=%u names=%u", partitions, names);
		report(b, &f[i]);
	}
}

void workload_batch(const struct bench *b)
{
	measure(b, 1000);
	measure(b, b->quick ? 20000 : 1000000);
}
