/* SPDX-License-Identifier: MIT
 * See packets_curl.h. The thread writes a file of requests, runs curl, and reads one line an answer. When a request of a
 * batch was sent is not known: all have the time of the whole batch, which the checker's rules allow for. */
#include "packets_curl.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "net.h"
#include "place.h"

#define BATCH 8u      /* writes; as many reads */
#define CLIENT 60000u /* its number in the clusters' logs */

struct op {
	uint32_t partition;
	uint16_t attempt; /* 0: none */
	uint64_t sequence;
};

struct curl {
	struct curl_options options;
	pthread_t thread;
	_Atomic int stop;
	uint64_t sequence[LOAD_PARTITIONS];
	struct op op[BATCH];
	char path[128]; /* of the file of requests */
	struct history history;
};

const char *curl_missing(void)
{
	char out[64];

	return net_run(out, sizeof(out), "curl --version") == 0 ? NULL : "the package curl is missing";
}

static void write_requests(const struct curl *c)
{
	FILE *f = fopen(c->path, "we");

	for (unsigned i = 0; f && i < BATCH; i++) {
		const struct op *op = &c->op[i];
		char name[LOAD_NAME];
		load_name(name, op->partition);
		for (unsigned write = 0; write < 2; write++) {
			if (i + write)
				fprintf(f, "next\n");
			fprintf(f,
				"url = \"http://%s:%" PRIu16 "/%s/%" PRIu64 "\"\nheader = \"X-Partition: %s\"\n"
				"max-time = 20\nsilent\noutput = /dev/null\n"
				"write-out = \"%%{http_code},%%header{x-cluster},%%header{x-berth-epoch}\\n\"\n",
				c->options.address, c->options.port, name, op->sequence, name);
			if (write)
				fprintf(f,
					"request = PUT\nheader = \"X-Number: %" PRIu32
					"\"\nheader = \"X-Sequence: %" PRIu64
					"\"\nheader = \"X-Attempt: %u\"\nheader = \"X-Client: %u\"\n"
					"header = \"X-Behave: ok:0:0\"\ndata = \"{}\"\n",
					op->partition, op->sequence, op->attempt, CLIENT);
		}
	}
	if (!f || fclose(f) != 0)
		place_fail("cannot write %s", c->path);
}

static void note(struct curl *c, struct op *op, const char *line, const struct hist_call *when)
{
	struct hist_call *call = history_call(&c->history);
	unsigned status = 0, cluster = 0;
	int at = 0;

	*call = *when;
	if (sscanf(line, "%u,%n", &status, &at) != 1 || !at)
		place_fail("curl says: %s", line);
	cluster = (unsigned)strtoul(line + at, NULL, 10);
	const char *comma = strchr(line + at, ',');
	call->partition = op->partition;
	call->client = CLIENT;
	call->status = (uint16_t)status;
	call->cluster = (uint16_t)cluster;
	call->epoch = comma ? strtoull(comma + 1, NULL, 10) : 0;
	call->outcome = status == 200 ? HIST_OK : HIST_UNKNOWN;
}

static void batch(struct curl *c)
{
	struct hist_call when = {.attempt = 1, .call_ns = load_now_ns()};
	char out[BATCH * 2 * 128], *line = out, *end;

	write_requests(c);
	net_run(out, sizeof(out), "curl --config %s", c->path);
	when.answer_ns = load_now_ns();
	for (unsigned i = 0; i < BATCH * 2; i++, line = end + 1) {
		struct op *op = &c->op[i / 2];
		end = strchr(line, '\n');
		if (!end)
			place_fail("curl answered %u of %u requests: %s", i, BATCH * 2, out);
		*end = '\0';
		note(c, op, line, &when);
		if (i % 2 == 0)
			continue;
		struct hist_call *call = &c->history.calls[c->history.n_calls - 1];
		call->sequence = op->sequence;
		call->attempt = op->attempt++;
		if (call->status == 409)
			call->outcome = HIST_REFUSED;
		else
			op->attempt = 0;
	}
}

static void *run(void *arg)
{
	struct curl *c = arg;

	for (unsigned turn = 0;; turn++) {
		bool stop = atomic_load(&c->stop), any = false;
		for (unsigned i = 0; i < BATCH; i++) {
			struct op *op = &c->op[i];
			any = any || op->attempt;
			if (op->attempt)
				continue;
			op->partition = c->options.first + (turn * BATCH + i) % c->options.n_partitions;
			op->sequence = ++c->sequence[op->partition];
			op->attempt = 1;
		}
		if (stop && !any)
			return NULL;
		batch(c);
	}
}

struct curl *curl_start(const struct curl_options *options)
{
	struct curl *c = calloc(1, sizeof(*c));
	const char *home = getenv("E2E_SHM");

	if (!c || !home)
		place_fail("no memory for curl, or not under place_guard");
	c->options = *options;
	snprintf(c->path, sizeof(c->path), "%s/curl", home);
	if (pthread_create(&c->thread, NULL, run, c) != 0)
		place_fail("cannot start a thread");
	return c;
}

void curl_stop(struct curl **curl, struct history *h)
{
	struct curl *c = *curl;

	atomic_store(&c->stop, 1);
	pthread_join(c->thread, NULL);
	for (size_t i = 0; i < c->history.n_calls; i++)
		*history_call(h) = c->history.calls[i];
	history_free(&c->history);
	free(c);
	*curl = NULL;
}
