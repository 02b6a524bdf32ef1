/* SPDX-License-Identifier: MIT
 * cursors.h. Each thread has one cursor at a time and a connection for each request; counts and the flag are atomic. */
#include "cursors.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "answer.h"

#define THREADS_MOST 16u
#define TEXTS 8u
#define ID_MOST 1024u
#define ROOM 16384u

struct cursors {
	struct cursors_options options;
	pthread_t thread[THREADS_MOST];
	atomic_bool stop, excused;
	_Atomic uint64_t opened, continued, elsewhere, moved, foreign, cleared, n_excused, faults;
	_Atomic uint32_t seeds;
	char text[TEXTS][512];
};

/* What a thread has under way. */
struct round {
	struct cursors *c;
	uint64_t random;
	bool pit, excused; /* excused: the daemon was away at some time of the last request */
	uint32_t partition;
	uint16_t cluster; /* that opened it */
	int worker;       /* of the last request */
	char id[ID_MOST];
	char in[ROOM];
	struct answer answer; /* status 0: none */
};

static unsigned below(struct round *r, unsigned n)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (unsigned)((r->random >> 11) % n);
}

static void fault(struct round *r, const char *rule, const char *what)
{
	uint64_t n = atomic_fetch_add(&r->c->faults, 1);

	if (n < TEXTS)
		snprintf(r->c->text[n], sizeof(r->c->text[n]),
			 "%s: %s of tenant %" PRIu32 ", opened at c%u: %s: status %u, from c%u", rule,
			 r->pit ? "point in time" : "scroll", r->partition, r->cluster, what, r->answer.status,
			 r->answer.cluster);
}

/* ---- one request ---- */

static void ask(struct round *r, uint32_t as, const char *method, const char *path, const char *behave,
		const char *format, ...)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(r->c->options.port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 10};
	char body[ID_MOST + 128] = "", out[ID_MOST + 512], name[LOAD_NAME];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), len;
	enum answer_state state = ANSWER_PART;
	const char *worker;
	size_t n = 0;
	va_list args;

	va_start(args, format);
	vsnprintf(body, sizeof(body), format, args);
	va_end(args);
	r->excused = atomic_load(&r->c->excused);
	r->answer = (struct answer){0};
	r->in[0] = '\0';
	len = snprintf(out, sizeof(out),
		       "%s %s HTTP/1.1\r\nHost: e2e\r\nX-Partition: %s\r\nX-Behave: %s\r\nConnection: close\r\n"
		       "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
		       method, path, load_name(name, as), behave, strlen(body), body);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 && send(fd, out, (size_t)len, MSG_NOSIGNAL) == len)
		while (state == ANSWER_PART && n < ROOM - 1) {
			ssize_t got = recv(fd, r->in + n, ROOM - 1 - n, 0);

			if (got <= 0)
				break;
			n += (size_t)got;
			r->in[n] = '\0';
			state = answer_parse(r->in, n, &r->answer);
		}
	close(fd);
	if (state != ANSWER_WHOLE)
		r->answer = (struct answer){0};
	worker = strstr(r->in, "X-Worker: ");
	r->worker = worker ? (int)strtol(worker + 10, NULL, 10) : 0;
	r->excused = r->excused || atomic_load(&r->c->excused);
}

/* The daemon was away, and no cursor came of it. */
static bool was_excused(struct round *r)
{
	if (!r->excused || (r->answer.status != 0 && r->answer.status != 503))
		return false;
	atomic_fetch_add(&r->c->n_excused, 1);
	return true;
}

static bool take_id(struct round *r)
{
	const char *key = r->pit ? "\"pit_id\":\"" : "\"_scroll_id\":\"", *at = strstr(r->in, key);
	size_t n = at ? strcspn(at + strlen(key), "\"") : 0;

	if (n == 0 || n >= ID_MOST)
		return false;
	memcpy(r->id, at + strlen(key), n);
	r->id[n] = '\0';
	return true;
}

static bool is_ours(const struct round *r)
{
	char name[LOAD_NAME], text[LOAD_NAME + 16];

	snprintf(text, sizeof(text), "\"of\":\"%s\"", load_name(name, r->partition));
	return strstr(r->in, text) != NULL;
}

static void follow(struct round *r, uint32_t as)
{
	const char *behave = below(r, 2) ? "new" : "same";

	if (r->pit)
		ask(r, as, "POST", "/_search", behave, "{\"pit\":{\"id\":\"%s\",\"keep_alive\":\"1m\"}}", r->id);
	else
		ask(r, as, "POST", "/_search/scroll", behave, "{\"scroll\":\"1m\",\"scroll_id\":\"%s\"}", r->id);
}

/* ---- one cursor ---- */

static bool open_one(struct round *r)
{
	char path[64], name[LOAD_NAME];

	r->partition = below(r, r->c->options.n_partitions);
	r->pit = below(r, 4) == 0;
	r->cluster = 0;
	snprintf(path, sizeof(path), "/%s/_search%s", load_name(name, r->partition),
		 r->pit ? "/point_in_time?keep_alive=1m" : "?scroll=1m");
	ask(r, r->partition, "POST", path, "same", "{}");
	r->cluster = r->answer.cluster;
	if (r->answer.status == 200 && r->cluster && is_ours(r) && take_id(r)) {
		atomic_fetch_add(&r->c->opened, 1);
		return true;
	}
	if (!was_excused(r))
		fault(r, "cursor-cluster", "was not opened");
	return false;
}

/* False: it is lost. */
static bool continue_one(struct round *r)
{
	int before = r->worker;

	follow(r, r->partition);
	if (was_excused(r))
		return false;
	if (r->answer.status != 200 || r->answer.cluster != r->cluster || !is_ours(r) || !take_id(r)) {
		fault(r, "cursor-cluster", "was continued otherwise");
		return false;
	}
	atomic_fetch_add(&r->c->continued, 1);
	atomic_fetch_add(&r->c->elsewhere, before && r->worker && before != r->worker);
	return true;
}

static void try_as_another(struct round *r)
{
	uint32_t other = (r->partition + 1 + below(r, r->c->options.n_partitions - 1)) % r->c->options.n_partitions;

	follow(r, other);
	if (was_excused(r))
		return;
	if ((r->answer.status != 403 && r->answer.status != 404) || r->answer.cluster || strstr(r->in, "\"of\":"))
		fault(r, "cursor-owner", "another tenant asked");
	else
		atomic_fetch_add(&r->c->foreign, 1);
}

/* New reads go to another cluster by now, and it still goes on. */
static bool look_whether_it_moved(struct round *r)
{
	char path[64], name[LOAD_NAME];

	snprintf(path, sizeof(path), "/%s/doc", load_name(name, r->partition));
	ask(r, r->partition, "GET", path, "0", "%s", "");
	if (r->answer.status != 200 || r->answer.cluster == r->cluster)
		return true;
	if (!continue_one(r))
		return false;
	atomic_fetch_add(&r->c->moved, 1);
	return true;
}

static void clear_one(struct round *r)
{
	if (r->pit)
		ask(r, r->partition, "DELETE", "/_search/point_in_time", "same", "{\"pit_id\":[\"%s\"]}", r->id);
	else
		ask(r, r->partition, "DELETE", "/_search/scroll", "same", "{\"scroll_id\":\"%s\"}", r->id);
	if (was_excused(r))
		return;
	if (r->answer.status != 200 || r->answer.cluster != r->cluster) {
		fault(r, "cursor-clear", "was not cleared");
		return;
	}
	follow(r, r->partition);
	if (was_excused(r))
		return;
	if (r->answer.status != 404)
		fault(r, "cursor-clear", "goes on after it was cleared");
	else
		atomic_fetch_add(&r->c->cleared, 1);
}

static void *run(void *arg)
{
	struct cursors *c = arg;
	struct round *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->c = c;
	r->random = (c->options.seed + 7919u * atomic_fetch_add(&c->seeds, 1)) | 1;
	while (!atomic_load(&c->stop)) {
		unsigned n = 1 + below(r, 8), pause_ms = below(r, 2) ? 10 : 150;
		bool alive = open_one(r);

		for (unsigned i = 0; alive && i < n; i++) {
			usleep((1 + below(r, pause_ms)) * 1000);
			if (below(r, 3) == 0)
				try_as_another(r);
			alive = continue_one(r);
		}
		alive = alive && look_whether_it_moved(r);
		if (alive)
			clear_one(r);
		else
			usleep(5000);
	}
	free(r);
	return NULL;
}

/* ---- the caller's side ---- */

struct cursors *cursors_start(const struct cursors_options *options)
{
	struct cursors *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->options = *options;
	if (c->options.n_threads > THREADS_MOST)
		c->options.n_threads = THREADS_MOST;
	for (unsigned i = 0; i < c->options.n_threads; i++) {
		errno = pthread_create(&c->thread[i], NULL, run, c);
		if (errno) {
			c->options.n_threads = i;
			cursors_stop(&c, "");
			return NULL;
		}
	}
	return c;
}

void cursors_excuse(struct cursors *c, bool away)
{
	atomic_store(&c->excused, away);
}

struct cursors_counts cursors_stop(struct cursors **cursors, const char *prefix)
{
	struct cursors *c = *cursors;
	struct cursors_counts n;

	atomic_store(&c->stop, true);
	for (unsigned i = 0; i < c->options.n_threads; i++)
		pthread_join(c->thread[i], NULL);
	n = (struct cursors_counts){.opened = atomic_load(&c->opened),
				    .continued = atomic_load(&c->continued),
				    .elsewhere = atomic_load(&c->elsewhere),
				    .moved = atomic_load(&c->moved),
				    .foreign = atomic_load(&c->foreign),
				    .cleared = atomic_load(&c->cleared),
				    .excused = atomic_load(&c->n_excused),
				    .faults = atomic_load(&c->faults)};
	printf("%scursors: %" PRIu64 " opened, continued %" PRIu64 " times where they were opened (%" PRIu64
	       " through another worker, %" PRIu64 " found moved), %" PRIu64 " refused to other tenants, %" PRIu64
	       " cleared, %" PRIu64 " cut off or refused without a daemon\n",
	       prefix, n.opened, n.continued, n.elsewhere, n.moved, n.foreign, n.cleared, n.excused);
	for (uint64_t i = 0; i < n.faults && i < TEXTS; i++)
		printf("%sFAULT %s\n", prefix, c->text[i]);
	if (n.faults)
		printf("%sFAULTS of cursors: %" PRIu64 "\n", prefix, n.faults);
	free(c);
	*cursors = NULL;
	return n;
}
