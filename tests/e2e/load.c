/* SPDX-License-Identifier: MIT
 * The load generator (load.h). One thread with an epoll; the caller's threads touch only what is under the lock. A
 * connection has one request under way; what was refused waits in a list of its own, for the next connection that is
 * free, so that a partition that refuses writes for long does not hold up the others. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

const struct load_mix load_mix_breaking = {.ok = 85,
					   .before = 3,
					   .after = 3,
					   .late = 4,
					   .cut = 2,
					   .busy = 3,
					   .leave = 3,
					   .slow_percent = 30,
					   .slow_ms = 100,
					   .late_ms = 600};

#define MS 1000000ull
#define CONNECTIONS_MAX 512u
#define WAITING_MAX 512u   /* refused writes that wait */
#define WAITING_EACH 6u    /* of one partition */
#define REPEAT_NS (4 * MS) /* at least so long until a refused write is repeated, at most what the proxy said besides */
#define ANSWER_NS (20000 * MS) /* a proxy that takes longer has failed */
#define ROOM 16384u

struct op {
	uint64_t sequence; /* 0: a read */
	uint64_t due_ns;
	uint32_t partition;
	uint16_t attempt;
};

struct connection {
	int fd; /* -1: closed */
	bool busy;
	struct op op;
	uint64_t call_ns, free_ns; /* free_ns: may begin the next one */
	uint64_t leave_ns;         /* gives up on the answer then; 0: does not */
	size_t n;
	char in[ROOM];
};

struct load {
	struct load_options options;
	pthread_t thread;
	pthread_mutex_t lock;
	struct load_mix mix;                  /* under the lock */
	uint32_t hot[LOAD_PARTITIONS], n_hot; /* under the lock */
	_Atomic uint64_t reads, acknowledged, refused, unknown;
	_Atomic uint32_t n_waiting;
	_Atomic uint64_t stop_ns; /* 0: go on; else the time by which all has to be over */

	/* the thread's */
	int epoll;
	uint64_t random;
	uint64_t sequence[LOAD_PARTITIONS];
	unsigned waits[LOAD_PARTITIONS];
	struct op waiting[WAITING_MAX];
	struct history history;
	struct connection connection[CONNECTIONS_MAX];
};

uint64_t load_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const char *load_name(char out[LOAD_NAME], unsigned partition)
{
	snprintf(out, LOAD_NAME, "tenant-%03u", partition);
	return out;
}

/* ---- what to do ---- */

static uint64_t dice(struct load *l)
{
	uint64_t x = l->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return l->random = x;
}

static unsigned below(struct load *l, unsigned n)
{
	return n ? (unsigned)((dice(l) >> 11) % n) : 0;
}

static unsigned some_partition(struct load *l)
{
	uint32_t hot = UINT32_MAX;

	pthread_mutex_lock(&l->lock);
	if (l->n_hot && below(l, 2))
		hot = l->hot[below(l, l->n_hot)];
	pthread_mutex_unlock(&l->lock);
	return hot != UINT32_MAX ? hot : below(l, l->options.n_partitions);
}

static bool take_waiting(struct load *l, uint64_t now, struct op *op)
{
	uint32_t n = atomic_load(&l->n_waiting);

	for (uint32_t i = 0; i < n; i++)
		if (l->waiting[i].due_ns <= now) {
			*op = l->waiting[i];
			l->waiting[i] = l->waiting[n - 1];
			l->waits[op->partition]--;
			atomic_store(&l->n_waiting, n - 1);
			return true;
		}
	return false;
}

static bool next_op(struct load *l, uint64_t now, struct op *op)
{
	if (take_waiting(l, now, op))
		return true;
	if (atomic_load(&l->stop_ns))
		return false;
	*op = (struct op){.partition = some_partition(l), .attempt = 1};
	if (below(l, 100) < l->options.write_percent && l->waits[op->partition] < WAITING_EACH &&
	    atomic_load(&l->n_waiting) + CONNECTIONS_MAX / 2 < WAITING_MAX)
		op->sequence = ++l->sequence[op->partition];
	return true;
}

/* Words of upstream.lua for a write. Returns after how many ms the client leaves; 0: it does not. */
static unsigned behave(struct load *l, const struct load_mix *m, char *out, size_t room)
{
	enum { OK, BEFORE, AFTER, LATE, CUT, BUSY, LEAVE };
	const unsigned share[] = {m->ok, m->before, m->after, m->late, m->cut, m->busy, m->leave};
	unsigned a = 0, b = 0, sum = 0, verb = OK, one;
	char mend[32] = "";

	if (below(l, 100) < m->slow_percent) {
		b = 5 + below(l, m->slow_ms);
		a = below(l, 2) ? b : below(l, b + 1);
	}
	if (below(l, 100) < m->mend_percent)
		snprintf(mend, sizeof(mend), ",ok:%u:%u", a, b);
	for (unsigned i = OK; i <= LEAVE; i++)
		sum += share[i];
	for (one = below(l, sum); verb < LEAVE && one >= share[verb]; verb++)
		one -= share[verb];
	switch (verb) {
	case BEFORE:
		snprintf(out, room, "before:%u%s", b, mend);
		return 0;
	case AFTER:
		snprintf(out, room, "after:%u:%u%s", a, b, mend);
		return 0;
	case LATE:
		snprintf(out, room, "late:%u:%u%s", a, below(l, m->late_ms + 1), mend);
		return 0;
	case CUT:
		snprintf(out, room, "cut:%u:%u", a, b);
		return 0;
	case BUSY:
		snprintf(out, room, "busy:%u%s", b, mend);
		return 0;
	default:
		snprintf(out, room, "ok:%u:%u", a, b);
		return verb == LEAVE ? 1 + b / 2 : 0;
	}
}

static int request(struct load *l, struct connection *c, char *out, size_t room)
{
	char name[LOAD_NAME], how[64];
	unsigned number = (unsigned)(c - l->connection), leave_ms;
	struct load_mix mix;

	pthread_mutex_lock(&l->lock);
	mix = l->mix;
	pthread_mutex_unlock(&l->lock);
	load_name(name, c->op.partition);
	c->leave_ns = 0;
	if (!c->op.sequence)
		return snprintf(out, room,
				"GET /%s/doc HTTP/1.1\r\nHost: e2e\r\nX-Partition: %s\r\nX-Behave: %u\r\n\r\n", name,
				name, below(l, 100) < mix.slow_percent ? below(l, mix.slow_ms) : 0);
	leave_ms = behave(l, &mix, how, sizeof(how));
	c->leave_ns = leave_ms ? load_now_ns() + leave_ms * MS : 0;
	return snprintf(out, room,
			"PUT /%s/%" PRIu64 " HTTP/1.1\r\nHost: e2e\r\nX-Partition: %s\r\nX-Number: %" PRIu32
			"\r\nX-Sequence: %" PRIu64 "\r\nX-Attempt: %u\r\nX-Client: %u\r\nX-Behave: %s\r\n"
			"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
			name, c->op.sequence, name, c->op.partition, c->op.sequence, c->op.attempt, number, how);
}

/* ---- connections ---- */

static void close_connection(struct connection *c)
{
	close(c->fd);
	c->fd = -1;
}

static bool open_connection(struct load *l, struct connection *c)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(l->options.port), .sin_addr.s_addr = l->options.address};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return false;
	/* Blocking: to this machine a connect returns at once, or with a refusal. */
	if (connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0 ||
	    epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &event) != 0) {
		close_connection(c);
		return false;
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return true;
}

/* Repeats a refused write, unless the run is over. */
static void wait_and_repeat(struct load *l, const struct connection *c, struct hist_call *call, unsigned retry_ms)
{
	uint64_t stop = atomic_load(&l->stop_ns);
	uint32_t n = atomic_load(&l->n_waiting);
	struct op *op = &l->waiting[n];

	if ((stop && call->answer_ns > stop) || n == WAITING_MAX) {
		call->last = 1;
		return;
	}
	*op = c->op;
	op->attempt++;
	op->due_ns = call->answer_ns + REPEAT_NS + (retry_ms ? dice(l) % (retry_ms * MS) : 0);
	l->waits[op->partition]++;
	atomic_store(&l->n_waiting, n + 1);
}

/* The request that is under way on c is over. answer NULL: the connection broke, or time is up. */
static void finish(struct load *l, struct connection *c, const struct answer *answer)
{
	struct hist_call *call = history_call(&l->history);

	*call = (struct hist_call){.call_ns = c->call_ns,
				   .answer_ns = load_now_ns(),
				   .sequence = c->op.sequence,
				   .partition = c->op.partition,
				   .attempt = c->op.attempt,
				   .client = (uint16_t)(c - l->connection),
				   .outcome = HIST_UNKNOWN};
	if (answer) {
		call->status = answer->status;
		call->epoch = answer->epoch;
		call->cluster = answer->cluster;
		call->tries = answer->tries;
	}
	if (!call->sequence) {
		call->outcome = call->status == 200 ? HIST_OK : HIST_UNKNOWN;
		atomic_fetch_add(&l->reads, 1);
	} else if (answer && answer->status == 200) {
		call->outcome = HIST_OK;
		atomic_fetch_add(&l->acknowledged, 1);
	} else if (answer && answer->status == 409) {
		call->outcome = HIST_REFUSED;
		atomic_fetch_add(&l->refused, 1);
		wait_and_repeat(l, c, call, answer->retry_ms);
	} else {
		atomic_fetch_add(&l->unknown, 1);
	}
	c->busy = false;
	c->n = 0;
	c->free_ns = call->answer_ns + (l->options.pause_us ? dice(l) % (l->options.pause_us * 2000ull) : 0);
	if (c->fd >= 0 && (!answer || answer->close))
		close_connection(c);
}

static void begin(struct load *l, struct connection *c, uint64_t now)
{
	char out[1024];
	int n;

	if (c->fd < 0 && !open_connection(l, c)) {
		c->free_ns = now + 5 * MS;
		return;
	}
	if (!next_op(l, now, &c->op))
		return;
	n = request(l, c, out, sizeof(out));
	c->busy = true;
	c->n = 0;
	c->call_ns = load_now_ns();
	if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL) != n)
		finish(l, c, NULL);
}

static void on_bytes(struct load *l, struct connection *c)
{
	struct answer answer;
	ssize_t n = recv(c->fd, c->in + c->n, ROOM - c->n, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || !c->busy) {
		if (c->busy)
			finish(l, c, NULL);
		else
			close_connection(c);
		return;
	}
	c->n += (size_t)n;
	switch (answer_parse(c->in, c->n, &answer)) {
	case ANSWER_WHOLE:
		finish(l, c, &answer);
		break;
	case ANSWER_PART:
		if (c->n == ROOM)
			finish(l, c, NULL);
		break;
	case ANSWER_BAD:
		finish(l, c, NULL);
	}
}

/* Begins what may begin; false: nothing is under way, and nothing will be. */
static bool turn(struct load *l, uint64_t now)
{
	uint64_t stop = atomic_load(&l->stop_ns);
	bool any = !stop || (atomic_load(&l->n_waiting) && now < stop);

	for (unsigned i = 0; i < l->options.n_connections; i++) {
		struct connection *c = &l->connection[i];
		if (c->busy && now > (c->leave_ns ? c->leave_ns : c->call_ns + ANSWER_NS))
			finish(l, c, NULL);
		if (!c->busy && c->free_ns <= now && (!stop || now < stop))
			begin(l, c, now);
		any = any || c->busy;
	}
	return any;
}

static void *run(void *arg)
{
	struct load *l = arg;
	struct epoll_event events[64];

	while (turn(l, load_now_ns())) {
		int n = epoll_wait(l->epoll, events, 64, 1);
		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;
			if (c->fd >= 0)
				on_bytes(l, c);
		}
	}
	return NULL;
}

/* ---- the caller's side ---- */

struct load *load_start(const struct load_options *options, const struct load_mix *mix)
{
	struct load *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->options = *options;
	if (!l->options.address)
		l->options.address = htonl(INADDR_LOOPBACK);
	if (l->options.n_connections > CONNECTIONS_MAX)
		l->options.n_connections = CONNECTIONS_MAX;
	if (l->options.n_partitions > LOAD_PARTITIONS)
		l->options.n_partitions = LOAD_PARTITIONS;
	l->mix = *mix;
	l->random = options->seed | 1;
	pthread_mutex_init(&l->lock, NULL);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		l->connection[i].fd = -1;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0 || (errno = pthread_create(&l->thread, NULL, run, l)) != 0) {
		free(l);
		return NULL;
	}
	return l;
}

void load_change(struct load *l, const struct load_mix *mix)
{
	pthread_mutex_lock(&l->lock);
	l->mix = *mix;
	pthread_mutex_unlock(&l->lock);
}

void load_heat(struct load *l, unsigned partition, bool hot)
{
	uint32_t i = 0;

	pthread_mutex_lock(&l->lock);
	while (i < l->n_hot && l->hot[i] != partition)
		i++;
	if (hot && i == l->n_hot && partition < l->options.n_partitions)
		l->hot[l->n_hot++] = partition;
	else if (!hot && i < l->n_hot)
		l->hot[i] = l->hot[--l->n_hot];
	pthread_mutex_unlock(&l->lock);
}

struct load_counts load_count(struct load *l)
{
	return (struct load_counts){.reads = atomic_load(&l->reads),
				    .acknowledged = atomic_load(&l->acknowledged),
				    .refused = atomic_load(&l->refused),
				    .unknown = atomic_load(&l->unknown),
				    .waiting = atomic_load(&l->n_waiting)};
}

/* What waits still was never repeated: its last attempt in the history says so. */
static void mark_last(struct load *l)
{
	for (uint32_t w = 0; w < atomic_load(&l->n_waiting); w++)
		for (size_t i = l->history.n_calls; i-- > 0;) {
			struct hist_call *call = &l->history.calls[i];
			if (call->partition == l->waiting[w].partition && call->sequence == l->waiting[w].sequence) {
				call->last = 1;
				break;
			}
		}
}

void load_stop(struct load **load, unsigned limit_ms, struct history *h)
{
	struct load *l = *load;

	atomic_store(&l->stop_ns, load_now_ns() + limit_ms * MS);
	pthread_join(l->thread, NULL);
	mark_last(l);
	for (size_t i = 0; i < l->history.n_calls; i++)
		*history_call(h) = l->history.calls[i];
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (l->connection[i].fd >= 0)
			close(l->connection[i].fd);
	close(l->epoll);
	history_free(&l->history);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*load = NULL;
}
