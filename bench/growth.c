/* SPDX-License-Identifier: MIT
 * An instance grows from a million partitions to two, by `set` of many partitions in small requests as fast as they are
 * answered; meanwhile another connection asks for one partition, again as soon as it is answered, and a registered
 * reader looks up partitions. How long does the daemon not answer, and a look-up take? Before that the same for as many
 * requests that set what is there already, so that nothing grows: what else the machine does shows in both.
 *
 * One process does all of it, and never sleeps: the daemon has the other processor for itself. The daemon is started
 * anew with its million partitions, so that its counters know of nothing else. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define PARTITIONS 1000000u
#define PARTITIONS_QUICK 20000u
#define RUNS_MOST 5u
#define NAMES 64u   /* of one request */
#define LOOKUPS 16u /* between two looks at the sockets */
#define LINE_ROOM 4096u
#define STATUS "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n"

struct talk { /* one request under way on one connection */
	int fd;
	uint64_t sent_ns;
	size_t len;
	char answer[LINE_ROOM];
};

struct place {
	struct daemon d;
	struct talk set, get;
	struct berth *berth;
	struct berth_reader *reader;
	uint64_t random;
};

struct phase {                     /* of one kind, all runs */
	struct histogram answers;  /* ns */
	struct histogram lookups;  /* ns */
	struct samples longest_ms; /* longest answer of a run, without what is usual */
	struct samples lookup_us;  /* longest look-up of a run */
	struct samples slice_ms;   /* the daemon's longest piece of upkeep of a run */
};

/* ---- talking ------------------------------------------------------------------------------------------------ */

static void say(struct talk *t, const char *line)
{
	t->len = 0;
	t->sent_ns = now_ns();
	send_all(t->fd, line, strlen(line), -1);
}

/* Is the answer there? Never waits. */
static bool heard(struct talk *t)
{
	ssize_t got = recv(t->fd, t->answer + t->len, LINE_ROOM - 1 - t->len, MSG_DONTWAIT);

	if (got == 0 || (got > 0 && t->len + (size_t)got == LINE_ROOM - 1))
		fail("the daemon closed a connection, or its answer is too long");
	if (got < 0)
		return false;
	t->len += (size_t)got;
	t->answer[t->len] = 0;
	if (t->answer[t->len - 1] != '\n')
		return false;
	if (!strstr(t->answer, "\"result\":"))
		fail("a request was refused: %.400s", t->answer);
	return true;
}

/* Of NAMES partitions from `first` on. */
static void say_set(struct talk *t, uint32_t first, const char *index)
{
	char line[LINE_ROOM], key[KEY_ROOM];
	size_t n = (size_t)snprintf(line, sizeof(line),
				    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partitions\":[");

	for (uint32_t i = 0; i < NAMES; i++) {
		key_name(key, first + i);
		n += (size_t)snprintf(line + n, sizeof(line) - n, "%s\"%s\"", i ? "," : "", key);
	}
	snprintf(line + n, sizeof(line) - n,
		 "],\"placement\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s\"},"
		 "\"force\":true}}\n",
		 index);
	say(t, line);
}

static void say_get(struct place *p, uint32_t partitions)
{
	char line[256], key[KEY_ROOM];

	key_name(key, (uint32_t)(random_u64(&p->random) % partitions));
	snprintf(line, sizeof(line),
		 "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"get\",\"params\":{\"partition\":\"%s\"}}\n", key);
	say(&p->get, line);
}

static uint64_t status_number(struct place *p, const char *name)
{
	static char answer[8192];

	daemon_call(&p->d, STATUS, -1, answer, sizeof(answer), NULL);
	return answer_number(answer, name);
}

/* ---- one run ------------------------------------------------------------------------------------------------ */

static void look_up(struct place *p, struct phase *to, uint32_t partitions, uint64_t *longest)
{
	struct berth_route out;
	char key[KEY_ROOM];

	for (unsigned i = 0; i < LOOKUPS; i++) {
		uint64_t from, took;
		int rc;

		key_name(key, (uint32_t)(random_u64(&p->random) % partitions));
		from = ticks_begin();
		rc = berth_route(p->reader, key, KEY_LEN, &out);
		took = ticks_end() - from;
		if (rc != BERTH_OK)
			fail("a reader does not find %s: %s", key, berth_strerror(rc));
		took = (uint64_t)ticks_ns(took > ticks_cost() ? took - ticks_cost() : 1);
		histogram_add(&to->lookups, took);
		*longest = took > *longest ? took : *longest;
	}
}

/* Requests for partitions first .. first + n - 1; look-ups of 0 .. partitions - 1. */
static void run_phase(struct place *p, struct phase *to, uint32_t first, uint32_t n, const char *index,
		      uint32_t partitions, double usual_ns)
{
	uint64_t longest_lookup = 0, longest_answer = 0;
	uint32_t at = first;

	say_set(&p->set, at, index);
	say_get(p, partitions);
	for (;;) {
		look_up(p, to, partitions, &longest_lookup);
		if (heard(&p->get)) {
			uint64_t took = now_ns() - p->get.sent_ns;

			histogram_add(&to->answers, took);
			longest_answer = took > longest_answer ? took : longest_answer;
			if (at == first + n)
				break;
			say_get(p, partitions);
		}
		if (at < first + n && heard(&p->set)) {
			if (answer_number(p->set.answer, "changed") != NAMES)
				fail("%u partitions were set, and this was answered: %s", NAMES, p->set.answer);
			at += NAMES;
			if (at < first + n)
				say_set(&p->set, at, index);
		}
	}
	if (usual_ns <= 0)
		usual_ns = histogram_quantile(&to->answers, 0.5);
	add_sample(&to->longest_ms, ((double)longest_answer - usual_ns) / 1e6);
	add_sample(&to->lookup_us, (double)longest_lookup / 1e3);
	add_sample(&to->slice_ms, (double)status_number(p, "upkeep_us_max") / 1e3);
}

static int connect_again(struct place *p)
{
	struct daemon other = p->d;

	daemon_connect(&other);
	return other.fd;
}

static void place_open_grown(const struct bench *b, struct place *p, int document, uint32_t partitions)
{
	const struct daemon_how how = {.cpu = CPU_DAEMON};
	int rc;

	*p = (struct place){.random = 1};
	daemon_start(b, &p->d, "growth", &how);
	daemon_load(&p->d, document, partitions, NULL);
	daemon_stop(&p->d);
	daemon_start(b, &p->d, "growth", &how);
	p->set.fd = connect_again(p);
	p->get.fd = connect_again(p);
	rc = berth_attach(p->d.dir, NULL, &p->berth);
	if (rc == BERTH_OK)
		rc = berth_reader_open(p->berth, &p->reader);
	if (rc != BERTH_OK)
		fail("cannot look at %s: %s", p->d.dir, berth_strerror(rc));
}

static void close_grown(struct place *p)
{
	berth_reader_close(&p->reader);
	berth_detach(&p->berth);
	close(p->set.fd);
	close(p->get.fd);
	daemon_stop(&p->d);
	remove_tree(p->d.dir);
}

static void one_run(const struct bench *b, int document, uint32_t partitions, struct phase *quiet, struct phase *grows)
{
	struct place p;
	uint64_t before;
	uint32_t n = partitions / NAMES * NAMES;

	place_open_grown(b, &p, document, partitions);
	pin_to(CPU_SELF);
	run_phase(&p, quiet, 0, n, "set", partitions, 0);
	before = status_number(&p, "generation");
	run_phase(&p, grows, partitions, n, "new", partitions, histogram_quantile(&quiet->answers, 0.5));
	if (status_number(&p, "generation") == before || status_number(&p, "partitions") != partitions + n)
		fail("%u partitions more, and the table has not grown", n);
	pin_nowhere();
	close_grown(&p);
}

/* ---- figures ------------------------------------------------------------------------------------------------ */

static void show(const struct bench *b, const char *what, const struct samples *s, const char *when, const char *unit,
		 double goal, uint32_t partitions)
{
	struct figure f = {.workload = "growth", .unit = unit, .goal = goal, .s = *s};

	snprintf(f.name, sizeof(f.name), "%s, %s", what, when);
	snprintf(f.parameters, sizeof(f.parameters), "from=%u to=%u", partitions, 2 * partitions);
	report(b, &f);
}

static void show_calls(const struct bench *b, const char *what, const struct histogram *h, const char *when,
		       uint32_t partitions)
{
	struct figure f = {.workload = "growth", .unit = "us"};

	snprintf(f.name, sizeof(f.name), "%s, %s", what, when);
	snprintf(f.parameters, sizeof(f.parameters), "from=%u to=%u", partitions, 2 * partitions);
	report_histogram(b, &f, h, 1e-3);
}

void workload_growth(const struct bench *b)
{
	static const char *const when[2] = {"nothing grows", "growing"};
	static struct phase phases[2];
	uint32_t partitions = b->quick ? PARTITIONS_QUICK : PARTITIONS;
	unsigned runs = b->runs < RUNS_MOST ? b->runs : RUNS_MOST;
	int document = document_make(partitions, false);

	memset(phases, 0, sizeof(phases));
	for (unsigned run = 0; run < runs; run++)
		one_run(b, document, partitions, &phases[0], &phases[1]);
	close(document);
	for (unsigned i = 0; i < 2; i++) {
		show(b, "longest pause of the daemon", &phases[i].longest_ms, when[i], "ms", i ? 2 : 0, partitions);
		show(b, "longest piece of upkeep", &phases[i].slice_ms, when[i], "ms", i ? 2 : 0, partitions);
		show(b, "longest look-up", &phases[i].lookup_us, when[i], "us", 0, partitions);
	}
	for (unsigned i = 0; i < 2; i++)
		show_calls(b, "answer of the daemon", &phases[i].answers, when[i], partitions);
	for (unsigned i = 0; i < 2; i++)
		show_calls(b, "look-up", &phases[i].lookups, when[i], partitions);
}
