/* SPDX-License-Identifier: MIT
 * One reader on CPU 1, processor time of a look-up, while a client and the daemon on CPU 0 change all partitions one
 * after the other, each from one of two placements to the other: so many changes a second, or none, in turn. 1,000 a
 * second are requests for one partition each, 100,000 a second are requests for BATCH partitions, sent when they are
 * due, with up to WINDOW of them not answered yet. Reached is what the daemon has answered: what it does not manage is
 * not made up for in the ratio, so read the one with the other. Called by processes.c. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cursor.h"
#include "place.h"
#include "processes.h"

#define CALLS (1u << 22)
#define CALLS_QUICK (1u << 18)
#define BATCH 500u
#define WINDOW 8u
#define SETTLE_US 100000u
#define REQUEST_ROOM (64u << 10)
#define REFUSAL_SHOWN 400

struct shared {
	_Atomic uint32_t rate; /* wanted, a second; STOP: the end */
	_Atomic uint64_t changed;
};
#define STOP UINT32_MAX

static const struct row {
	uint32_t rate;
	double goal; /* of the ratio */
	double goal_rate;
} rows[] = {{0, 0, 0}, {1000, 0, 0}, {100000, 1.10, 95000}};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

/* ---- the client ------------------------------------------------------------------------------------------------ */

struct client {
	struct daemon d; /* a connection of its own */
	struct shared *shared;
	uint32_t n, next, pass; /* partitions; the one to change next; how often all have been changed */
	uint64_t sent, done;    /* requests */
	/* Partitions of the requests that are not answered, the oldest at [done % WINDOW]. */
	uint32_t waiting[WINDOW];
	size_t have;
	char answers[REQUEST_ROOM];
};

/* Partitions pass by pass; those of one request are of the same. */
static void send_request(struct client *c, uint32_t most)
{
	static char line[REQUEST_ROOM];
	uint32_t count = c->n - c->next < most ? c->n - c->next : most;
	size_t at = (size_t)snprintf(line, sizeof(line),
				     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"%s\":",
				     most == 1 ? "partition" : "partitions");

	if (most > 1)
		line[at++] = '[';
	for (uint32_t i = 0; i < count; i++) {
		if (i > 0)
			line[at++] = ',';
		line[at++] = '"';
		key_name(line + at, c->next + i);
		at += KEY_LEN;
		line[at++] = '"';
	}
	if (most > 1)
		line[at++] = ']';
	at += (size_t)snprintf(
		line + at, sizeof(line) - at,
		",\"placement\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"orders-%u\"},"
		"\"force\":true}}\n",
		c->pass % 2);
	send_all(c->d.fd, line, at, -1);
	c->waiting[c->sent++ % WINDOW] = count;
	c->next += count;
	if (c->next == c->n) {
		c->next = 0;
		c->pass++;
	}
}

/* Every partition has to have changed: what is refused, or was there before, would be quick. */
static void take_answer(struct client *c, const char *line)
{
	uint32_t count = c->waiting[c->done++ % WINDOW];

	if (!strstr(line, "\"result\":") ||
	    (!strstr(line, "\"changed\":true") && answer_number(line, "changed") != count))
		fail("%u partitions were not changed: %.*s", count, REFUSAL_SHOWN, line);
	atomic_fetch_add(&c->shared->changed, count);
}

/* What has come; wait: at least something. */
static void receive(struct client *c, bool wait)
{
	ssize_t got = recv(c->d.fd, c->answers + c->have, sizeof(c->answers) - 1 - c->have, wait ? 0 : MSG_DONTWAIT);
	char *from = c->answers, *end;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0)
		fail("the daemon is gone, or its answer too long");
	c->have += (size_t)got;
	c->answers[c->have] = 0;
	while ((end = strchr(from, '\n'))) {
		*end = 0;
		take_answer(c, from);
		from = end + 1;
	}
	c->have -= (size_t)(from - c->answers);
	memmove(c->answers, from, c->have);
}

static _Noreturn void run_client(struct client *c)
{
	uint32_t rate = 0, now_rate;
	uint64_t from = 0, asked = 0;

	daemon_connect(&c->d);
	pin_to(CPU_DAEMON);
	while ((now_rate = atomic_load(&c->shared->rate)) != STOP) {
		uint64_t due, now = now_ns();

		if (now_rate != rate) {
			rate = now_rate;
			from = now;
			asked = 0;
		}
		while (c->sent > c->done && (rate == 0 || c->sent - c->done == WINDOW))
			receive(c, true);
		if (rate == 0) {
			usleep(1000);
			continue;
		}
		due = from + asked * 1000000000u / rate;
		if (due > now) {
			usleep((useconds_t)((due - now) / 1000));
			if (c->sent > c->done)
				receive(c, false);
			continue;
		}
		send_request(c, rate > 1000 ? BATCH : 1);
		asked += c->waiting[(c->sent - 1) % WINDOW];
	}
	close(c->d.fd);
	exit(0);
}

/* ---- measuring ------------------------------------------------------------------------------------------------ */

static void report_rows(const struct bench *b, const struct place *p, struct samples times[N_ROWS],
			struct samples ratios[N_ROWS], struct samples reached[N_ROWS])
{
	for (unsigned k = 0; k < N_ROWS; k++) {
		struct figure f = {.workload = "processes", .unit = "ns", .s = times[k]};

		snprintf(f.parameters, sizeof(f.parameters), "partitions=%u rate=%u", p->n, rows[k].rate);
		snprintf(f.name, sizeof(f.name), "berth_route under changes");
		report(b, &f);
		if (rows[k].rate == 0)
			continue;
		snprintf(f.name, sizeof(f.name), "changes a second reached");
		f.unit = "1/s";
		f.goal = rows[k].goal_rate;
		f.at_least = true;
		f.s = reached[k];
		report(b, &f);
		snprintf(f.name, sizeof(f.name), "under changes / without");
		f.unit = "ratio";
		f.goal = rows[k].goal;
		f.at_least = false;
		f.s = ratios[k];
		report(b, &f);
	}
}

void processes_changes(const struct bench *b, const struct place *p)
{
	static struct samples times[N_ROWS], ratios[N_ROWS], reached[N_ROWS];
	static struct client client;
	struct shared *shared = shared_memory(sizeof(*shared));
	pid_t pid;

	client = (struct client){.d = p->d, .shared = shared, .n = p->n};
	pid = child_fork();
	if (pid == 0)
		run_client(&client);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++)
		for (unsigned k = 0; k < N_ROWS; k++) {
			uint64_t from, changed;

			atomic_store(&shared->rate, rows[k].rate);
			usleep(SETTLE_US);
			changed = atomic_load(&shared->changed);
			from = now_ns();
			add_sample(&times[k], place_measure(p, place_route, b->quick ? CALLS_QUICK : CALLS));
			changed = atomic_load(&shared->changed) - changed;
			add_sample(&reached[k], (double)changed * 1e9 / elapsed_ns(from));
			add_sample(&ratios[k], times[k].v[run] / times[0].v[run]);
		}
	pin_nowhere();
	atomic_store(&shared->rate, STOP);
	child_wait(pid, "the client that changes partitions");
	munmap(shared, sizeof(*shared));
	report_rows(b, p, times, ratios, reached);
}
