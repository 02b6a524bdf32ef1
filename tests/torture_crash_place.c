/* SPDX-License-Identifier: MIT
 * torture_crash.h: the daemon, its death, its start. One thread. */
#include "torture_crash.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "child.h"
#include "mirror_judge.h"

#define READY_MS 30000u
#define LOG_SHOWN 700u /* bytes, of its end: a message has no more room */

void cr_path(const struct crash *c, char path[192], const char *name)
{
	snprintf(path, 192, "%s/%s", c->d->dir, name);
}

const char *cr_log(const struct crash *c)
{
	const char *whole = daemon_log(c->d);
	size_t len = strlen(whole);

	return len > LOG_SHOWN ? whole + len - LOG_SHOWN : whole;
}

/* ---- death ------------------------------------------------------------------------------------------------- */

static void disconnect(struct crash *c)
{
	if (c->connected)
		wire_close(&c->wire);
	c->connected = false;
}

static void buried(struct crash *c)
{
	pid_t pid = c->d->pid;
	int status = daemon_wait(c->d);
	uint32_t died = atomic_load(&cr_file->died);

	disconnect(c);
	if (status != 128 + SIGKILL || died == 0)
		fail_msg("%s: berthd, process %ld, ended by itself, with %d; the last death is of process %u, at "
			 "%s:\n%s",
			 c->where, (long)pid, status, atomic_load(&cr_file->died_pid),
			 died ? cr_file->rows[died - 1].name : "no point", cr_log(c));
	cr_died(c);
	if (c->readers.n)
		readers_check(&c->readers);
}

bool cr_dead(struct crash *c, bool closed)
{
	struct pollfd p = {.fd = c->d->pidfd, .events = POLLIN};

	if (c->d->pid == 0)
		return true;
	if (poll(&p, 1, closed ? DAEMON_MS : 0) == 1) {
		buried(c);
		return true;
	}
	if (closed)
		fail_msg("%s: berthd closed a connection, and lives:\n%s", c->where, cr_log(c));
	return false;
}

/* ---- start ------------------------------------------------------------------------------------------------- */

/* False: it died. */
static bool await_ready(struct crash *c)
{
	uint64_t until = test_now_ms() + READY_MS;
	struct pollfd p[] = {{.fd = c->d->notify_fd, .events = POLLIN}, {.fd = c->d->pidfd, .events = POLLIN}};
	char text[512];

	while (test_now_ms() < until) {
		ssize_t n;

		poll(p, 2, 1000);
		n = recv(c->d->notify_fd, text, sizeof text - 1, MSG_DONTWAIT);
		text[n > 0 ? n : 0] = '\0';
		if (strstr(text, "READY=1"))
			return true;
		if (n <= 0 && (p[1].revents & POLLIN)) {
			buried(c);
			return false;
		}
	}
	fail_msg("%s: berthd was not ready within %u ms:\n%s", c->where, READY_MS, cr_log(c));
	return false;
}

/* False: it died first. */
static bool connect_wire(struct crash *c)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct wire *w = &c->wire;

	memset(w, 0, sizeof *w);
	w->passed = w->bell = -1;
	snprintf(address.sun_path, sizeof address.sun_path, "%s/admin.sock", c->d->dir);
	w->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	c->connected = true;
	if (connect(w->fd, (struct sockaddr *)&address, sizeof address) == 0)
		return true;
	(void)cr_dead(c, true);
	return false;
}

void cr_start(struct crash *c)
{
	bool ready;

	do {
		cr_starts(true);
		daemon_spawn_with(c->d, c->options);
		cr_counts.starts++;
		ready = await_ready(c);
		cr_starts(false);
	} while (!ready || !connect_wire(c));
}

void cr_stop(struct crash *c)
{
	struct pollfd p = {.fd = c->d->pidfd, .events = POLLIN};
	int status;

	if (cr_dead(c, false))
		return;
	disconnect(c);
	daemon_signal(c->d, SIGTERM);
	if (poll(&p, 1, DAEMON_MS) != 1)
		fail_msg("%s: berthd does not end", c->where);
	if (atomic_load(&cr_file->died)) {
		buried(c);
		return;
	}
	status = daemon_wait(c->d);
	if (status != 0)
		fail_msg("%s: berthd ended with %d on SIGTERM:\n%s", c->where, status, cr_log(c));
}

void cr_kill(struct crash *c)
{
	daemon_kill(c->d);
	disconnect(c);
	if (atomic_load(&cr_file->died)) /* it was quicker */
		cr_died(c);
}

void cr_restart(struct crash *c)
{
	if (!cr_dead(c, false))
		cr_kill(c);
	cr_settle(c);
}

void cr_takeover(struct crash *c)
{
	struct daemon first = *c->d;
	const uint32_t first_pid = (uint32_t)first.pid; /* daemon_wait forgets it */
	unsigned n = 0;
	bool ready;

	if (cr_dead(c, false)) {
		cr_settle(c);
		return;
	}
	while (c->options[n])
		n++;
	assert_true(n + 1 < CR_OPTIONS);
	c->options[n] = "--takeover";
	c->d->pid = 0;
	disconnect(c);
	daemon_spawn_with(c->d, c->options);
	cr_counts.starts++;
	ready = await_ready(c);
	c->options[n] = NULL;
	if (!ready) /* it died before it had killed the first one, or after */
		kill(first.pid, SIGKILL);
	daemon_wait(&first);
	if (atomic_load(&cr_file->died) && atomic_load(&cr_file->died_pid) == first_pid)
		cr_died(c); /* before it could be taken over */
	if (ready)
		(void)connect_wire(c);
	cr_settle(c);
}

/* ---- the place --------------------------------------------------------------------------------------------- */

static char judged[4][40];

static void mirror_equal(struct crash *c)
{
	json_t *answer = cr_ask(c, "bpf.verify", NULL, -1);

	if (!answer) {
		cr_settle(c);
		return;
	}
	if (int_of(json_object_get(answer, "result"), "differences") != 0)
		fail_msg("%s: table and mirror differ: %s", c->where, json_dumps(answer, 0));
	json_decref(answer);
}

void cr_place_open(struct crash *c, const struct cr_scene *scene)
{
	memset(c, 0, sizeof *c);
	c->scene = scene;
	snprintf(c->where, sizeof c->where, "%s", scene->name);
	c->d = &c->place.d;
	c->n_cells = CR_KEYS;
	memcpy(c->options, scene->options, sizeof c->options);
	bpf_place_make(&c->place, scene->store);
	for (unsigned i = 0; i < CR_OPTIONS; i++)
		if (c->options[i] && strcmp(c->options[i], "@tables") == 0) {
			snprintf(c->tables, sizeof c->tables, "%s/tables", c->d->home);
			assert_int_equal(mkdir(c->tables, 0755), 0);
			c->options[i] = c->tables;
		}
	c->recovered = scene->judged ? mirror_equal : NULL;
	cr_start(c);
	if (scene->open)
		scene->open(c);
	if (scene->judged) {
		for (unsigned i = 0; i < 4; i++) {
			char key[READERS_KEY_SIZE];

			readers_key(key, i == 0 ? 3 : i + 10);
			snprintf(judged[i], sizeof judged[i], "%.39s", key); /* none of the long ones */
		}
		c->judge = mirror_judge_start(c->d->dir, c->place.pins, judged, 4);
	}
	if (scene->n_readers) {
		readers_open(&c->readers, c->d->dir, CR_KEYS, NULL);
		for (unsigned i = 0; i < CR_KEYS; i++) {
			bool there = c->cells[i].state != NULL;

			readers_may_change(&c->readers, i, there ? PRESENT : ABSENT);
			readers_changed(&c->readers, i, there ? PRESENT : ABSENT, c->cells[i].epoch);
		}
		readers_add(&c->readers, scene->n_readers);
	}
}

void cr_place_close(struct crash *c)
{
	cr_await_reserve(c);
	cr_child_end(c);
	if (c->scene->close)
		c->scene->close(c);
	if (c->judge) {
		struct mirror_verdict v = mirror_judge_stop(&c->judge);

		cr_counts.looks += v.answers;
		if (v.wrong)
			fail_msg("%s: %llu answers of the mirror were wrong, the first: %s", c->where,
				 (unsigned long long)v.wrong, v.first);
	}
	if (c->readers.n) {
		for (unsigned i = 0; i < c->readers.n; i++) {
			const struct reader_report *r = &c->readers.s->report[i];

			cr_counts.looks +=
				atomic_load(&r->routes) + atomic_load(&r->lookups) + 32 * atomic_load(&r->bulks);
		}
		readers_finish(&c->readers, c->scene->name);
	}
	disconnect(c);
	bpf_place_remove(&c->place);
	for (unsigned i = 0; i <= CR_KEYS; i++)
		json_decref(c->cells[i].state);
}
