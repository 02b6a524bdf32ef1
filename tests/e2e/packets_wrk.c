/* SPDX-License-Identifier: MIT
 * See packets_wrk.h. wrk is told to stop by a file, and interrupted once all its requests are answered: an interrupt ends
 * its connections in the middle of whatever they do. */
#include "packets_wrk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"
#include "net.h"
#include "place.h"

#define CLIENT 60001u             /* its number in the clusters' logs */
#define ANSWERS_NS 20000000000ull /* a proxy that takes longer has failed */

struct wrk {
	struct wrk_options options;
	pid_t pid;
	char home[256];
};

const char *wrk_missing(void)
{
	char out[64];

	return net_run(out, sizeof(out), "command -v wrk") == 0 ? NULL : "the package wrk is missing";
}

struct wrk *wrk_start(const struct wrk_options *options)
{
	struct wrk *w = calloc(1, sizeof(*w));
	const char *home = getenv("E2E_SHM");
	char threads[16], connections[16], url[64], first[16], client[16], log[280];
	pid_t us = getpid();

	if (!w || !home)
		place_fail("no memory for wrk, or not under place_guard");
	w->options = *options;
	snprintf(w->home, sizeof(w->home), "%s/wrk-XXXXXX", home);
	if (!mkdtemp(w->home))
		place_fail("cannot make %s: %s", w->home, strerror(errno));
	snprintf(threads, sizeof(threads), "-t%u", options->n_partitions);
	snprintf(connections, sizeof(connections), "-c%u", options->n_partitions);
	snprintf(url, sizeof(url), "http://%s:%" PRIu16 "/", options->address, options->port);
	snprintf(first, sizeof(first), "%u", options->first);
	snprintf(client, sizeof(client), "%u", CLIENT);
	snprintf(log, sizeof(log), "%s/log", w->home);
	w->pid = fork();
	if (w->pid < 0)
		place_fail("cannot start wrk: %s", strerror(errno));
	if (w->pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != us || fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
			_exit(127);
		execlp("wrk", "wrk", threads, connections, "-d600s", "--timeout", "20s", "-s",
		       "tests/e2e/packets_wrk.lua", url, "--", w->home, first, client, (char *)NULL);
		_exit(127);
	}
	return w;
}

/* One thread's file: its calls into h, unless h is NULL. False: a request has no answer yet. */
static bool read_calls(const struct wrk *w, unsigned thread, struct history *h, uint64_t *n_answered)
{
	char path[280], line[128];
	struct hist_call call = {0};
	bool waits = false;
	unsigned status, cluster;
	uint64_t at;

	snprintf(path, sizeof(path), "%s/wrk-%u", w->home, thread);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && strchr(line, '\n')) {
		if (line[0] == 'c') {
			if (waits && h) /* its connection broke */
				*history_call(h) = call;
			call = (struct hist_call){.client = CLIENT, .outcome = HIST_UNKNOWN};
			if (sscanf(line, "c %" SCNu32 " %" SCNu64 " %" SCNu16 " %" SCNu64, &call.partition,
				   &call.sequence, &call.attempt, &call.call_ns) != 4)
				place_fail("%s: %s", path, line);
			call.answer_ns = load_now_ns();
			waits = true;
		} else if (waits && sscanf(line, "a %u %u %" SCNu64, &status, &cluster, &at) == 3) {
			call.status = (uint16_t)status;
			call.cluster = (uint16_t)cluster;
			call.answer_ns = at;
			call.outcome = status == 200                    ? HIST_OK
				       : status == 409 && call.sequence ? HIST_REFUSED
									: HIST_UNKNOWN;
			if (h)
				*history_call(h) = call;
			++*n_answered;
			waits = false;
		} else {
			place_fail("%s: %s", path, line);
		}
	}
	if (f)
		fclose(f);
	if (waits && h)
		*history_call(h) = call;
	return f && !waits;
}

uint64_t wrk_stop(struct wrk **wp, struct history *h)
{
	struct wrk *w = *wp;
	char path[280], out[4096];
	uint64_t until = load_now_ns() + ANSWERS_NS, n_answered;
	unsigned settled = 0;

	snprintf(path, sizeof(path), "%s/stop", w->home);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		place_fail("cannot make %s: %s", path, strerror(errno));
	close(fd);
	/* What was about to be sent when it was told is a line soon: all answered, twice in a row, with the same number. */
	for (uint64_t before = 0; settled < 2 && load_now_ns() < until; usleep(20000)) {
		bool all = true;
		n_answered = 0;
		for (unsigned i = 0; i < w->options.n_partitions; i++)
			all = read_calls(w, i, NULL, &n_answered) && all;
		settled = all && n_answered == before ? settled + 1 : 0;
		before = n_answered;
	}
	kill(w->pid, SIGINT);
	waitpid(w->pid, NULL, 0);
	n_answered = 0;
	for (unsigned i = 0; i < w->options.n_partitions; i++)
		read_calls(w, i, h, &n_answered);
	if (n_answered == 0) {
		net_run(out, sizeof(out), "cat %s/log", w->home);
		place_fail("wrk had no answer: %s", out);
	}
	free(w);
	*wp = NULL;
	return n_answered;
}
