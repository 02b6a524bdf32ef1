/* SPDX-License-Identifier: MIT
 * drain_place.h. */
#include "drain_place.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void drain_start(struct drain_place *p, const char *barrier_ms)
{
	const struct berth_attach_options o = {.size = sizeof(o),
					       .writes = BERTH_WRITES_BRACKETED,
					       .max_readers = 2,
					       .wait_ms = DAEMON_MS,
					       .max_leases = 1024};

	if (barrier_ms)
		daemon_start(&p->d, "--barrier-ms", barrier_ms, NULL);
	else
		daemon_start(&p->d, NULL);
	wire_open(&p->admin, &p->d, WIRE_ADMIN);
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c2");
	assert_int_equal(berth_attach(p->d.dir, &o, &p->b), BERTH_OK);
	assert_int_equal(berth_maintain(p->b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
}

int drain_setup(void **state)
{
	const char *what = *state, *barrier_ms = strchr(what, ' ');
	struct drain_place *p = calloc(1, sizeof(*p));
	char store[16];

	assert_non_null(p);
	snprintf(store, sizeof(store), "%.*s", (int)strcspn(what, " "), what);
	daemon_make(&p->d, store);
	drain_start(p, barrier_ms ? barrier_ms + 1 : NULL);
	*state = p;
	return 0;
}

int drain_teardown(void **state)
{
	struct drain_place *p = *state;

	daemon_remove(&p->d);
	wire_close(&p->admin);
	berth_reader_close(&p->r);
	berth_detach(&p->b); /* with writes under way it refuses: the process ends soon */
	free(p);
	return 0;
}

/* ---- partitions and writes --------------------------------------------------------------------------------- */

void drain_put(struct drain_place *p, const char *partition)
{
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s}}", "partition", partition, "placement", "mode",
		"dedicated-cluster", "cluster", "c1");
}

void drain_cut_over(struct drain_place *p, const char *partition)
{
	wire_do(&p->admin, "begin", "{s:s, s:{s:s}}", "partition", partition, "to", "cluster", "c2");
	wire_do(&p->admin, "cutover", "{s:s}", "partition", partition);
}

void drain_begin_write(struct drain_place *p, const char *partition, struct berth_write *w)
{
	assert_int_equal(berth_write_begin(p->r, partition, strlen(partition), 0, w), BERTH_OK);
}

void drain_end_write(struct drain_place *p, struct berth_write *w, enum berth_outcome outcome)
{
	assert_int_equal(berth_write_end(p->r, w, outcome), BERTH_OK);
}

void drain_prepare(struct drain_place *p, const char *partition, struct berth_write *w)
{
	drain_put(p, partition);
	drain_begin_write(p, partition, w);
	drain_cut_over(p, partition);
}

/* ---- complete ---------------------------------------------------------------------------------------------- */

void drain_send_complete(struct wire *w, const char *partition, int wait_ms)
{
	wire_send_with(w, -1, "complete", "{s:s, s:i}", "partition", partition, "wait_ms", wait_ms);
}

void drain_open_complete(struct drain_place *p, struct wire *w, const char *partition, int wait_ms)
{
	wire_open(w, &p->d, WIRE_ADMIN);
	drain_send_complete(w, partition, wait_ms);
}

void drain_expect_completed(json_t *answer)
{
	json_t *r = answer_result(answer);

	assert_true(is_true(r, "changed"));
	assert_true(int_of(r, "epoch") > 0);
	assert_true(int_of(r, "blackout_ms") >= 0);
	json_decref(r);
}

json_t *drain_pending(json_t *answer, const char *reason)
{
	json_t *data = json_incref(json_object_get(json_object_get(answer, "error"), "data"));

	if (!data)
		fail_msg("completed, or refused without data: %s", json_dumps(answer, JSON_COMPACT));
	json_decref(answer);
	assert_string_equal(text_of(data, "code"), "barrier-pending");
	assert_string_equal(text_of(data, "reason"), reason);
	assert_true(is_true(data, "retryable"));
	return data;
}

void drain_expect_at(struct drain_place *p, const char *partition, const char *cluster, const char *phase)
{
	json_t *r = wire_ok(&p->admin, "get", "{s:s}", "partition", partition), *state = json_object_get(r, "state");

	assert_string_equal(text_of(json_object_get(state, "at"), "cluster"), cluster);
	assert_string_equal(json_object_get(state, "phase") ? text_of(state, "phase") : "settled", phase);
	json_decref(r);
}

/* ---- the daemon -------------------------------------------------------------------------------------------- */

json_int_t drain_status(struct drain_place *p, const char *name)
{
	json_t *r = wire_ok(&p->admin, "status", NULL);
	json_int_t n = int_of(r, name);

	json_decref(r);
	return n;
}

uint64_t drain_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void read_proc(const struct daemon *d, const char *name, char *text, size_t size)
{
	char path[48];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", d->pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	n = read(fd, text, size - 1);
	close(fd);
	assert_true(n > 0);
	text[n] = '\0';
}

uint64_t drain_switches(const struct daemon *d)
{
	static const char name[] = "\nvoluntary_ctxt_switches:";
	char text[4096], *at;

	read_proc(d, "status", text, sizeof(text));
	at = strstr(text, name);
	assert_non_null(at);
	return strtoull(at + sizeof(name) - 1, NULL, 10);
}

uint64_t drain_cpu_ms(const struct daemon *d)
{
	unsigned long user, system;
	char text[1024], *at;

	read_proc(d, "stat", text, sizeof(text));
	at = strrchr(text, ')'); /* the name may hold anything */
	assert_non_null(at);
	assert_int_equal(sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system), 2);
	return (user + system) * 1000 / (unsigned long)sysconf(_SC_CLK_TCK);
}
