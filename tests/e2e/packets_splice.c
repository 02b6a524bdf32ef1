/* SPDX-License-Identifier: MIT
 * See packets_splice.h. Main thread. */
#include "packets_splice.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 20000 /* more than it takes to end, see splice_run.h */

static uint64_t read_number(FILE *f, const char *name)
{
	struct pollfd ready = {.fd = fileno(f), .events = POLLIN};
	char line[1024];

	if (poll(&ready, 1, ANSWER_MS) != 1)
		place_fail("berth bpf splice did not say its %s within %d ms", name, ANSWER_MS);
	json_t *said = fgets(line, sizeof(line), f) ? json_loads(line, 0, NULL) : NULL;
	const json_t *number = json_object_get(said, name);

	if (!number)
		place_fail("berth bpf splice did not say its %s: what it said is in its log, or in the run's output",
			   name);
	uint64_t value = (uint64_t)json_integer_value(number);
	json_decref(said);
	return value;
}

void splice_open(struct splice_process *s, const struct run *r, uint16_t port)
{
	char program[512], fallback[32], listen[32];
	int out[2];
	pid_t us = getpid();

	place_program("berth", program);
	snprintf(fallback, sizeof(fallback), "127.0.0.1:%u", r->place.proxy_port);
	snprintf(listen, sizeof(listen), "0.0.0.0:%u", port);
	const char *argv[] = {program, "--json",     "--dir",  r->place.dir, "bpf",         "splice", "--listen",
			      listen,  "--fallback", fallback, "--header",   "X-Partition", NULL};
	if (pipe(out) != 0 || (s->pid = fork()) < 0)
		place_fail("cannot start berth bpf splice: %s", strerror(errno));
	if (s->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != us)
			_exit(127);
		dup2(out[1], 1);
		close(out[0]);
		close(out[1]);
		execv(program, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(out[1]);
	s->out = fdopen(out[0], "r");
	if (!s->out)
		place_fail("cannot read from berth bpf splice: %s", strerror(errno));
	s->port = (uint16_t)read_number(s->out, "port");
}

void splice_kill(struct splice_process *s, struct run *r)
{
	struct hist_kill *k = history_kill(&r->history);

	k->from_ns = load_now_ns();
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	fclose(s->out);
	splice_open(s, r, s->port);
	k->to_ns = load_now_ns();
}

uint64_t splice_close(struct splice_process *s)
{
	uint64_t spliced;
	int status;

	kill(s->pid, SIGTERM);
	spliced = read_number(s->out, "spliced");
	fclose(s->out);
	if (waitpid(s->pid, &status, 0) != s->pid || status != 0)
		place_fail("berth bpf splice ended with status %x", (unsigned)status);
	return spliced;
}

static int by_write(const void *a, const void *b)
{
	const struct hist_call *x = a, *y = b;

	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	if (x->sequence != y->sequence)
		return x->sequence < y->sequence ? -1 : 1;
	return x->attempt < y->attempt ? -1 : x->attempt > y->attempt;
}

static int by_epoch(const void *a, const void *b)
{
	const struct hist_change *x = a, *y = b;

	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

void splice_epochs(struct history *h)
{
	qsort(h->calls, h->n_calls, sizeof(*h->calls), by_write);
	qsort(h->changes, h->n_changes, sizeof(*h->changes), by_epoch);
	for (size_t i = 0; i < h->n_effects; i++) {
		struct hist_effect *e = &h->effects[i];
		const struct hist_call key = {
			.partition = e->partition, .sequence = e->sequence, .attempt = e->attempt};
		const struct hist_call *call = bsearch(&key, h->calls, h->n_calls, sizeof(key), by_write);
		for (size_t k = 0; call && !e->epoch && k < h->n_changes; k++) {
			const struct hist_change *change = &h->changes[h->n_changes - 1 - k], *next = change + 1;
			bool is_last = k == 0 || next->partition != change->partition;
			if (change->partition == e->partition && change->at == e->cluster &&
			    change->what != HIST_CUTOVER && change->call_ns <= e->at_ns &&
			    (is_last || next->answer_ns >= call->call_ns))
				e->epoch = change->epoch;
		}
	}
}
