/* SPDX-License-Identifier: MIT
 * reader_place.h. */
#include "reader_place.h"

#include "../shm/hash.h"
#include "../writer/pinning.h"
#include "../writer/table_internal.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <fcntl.h>

#define CONNECTIONS 16

struct row {
	char *key; /* NULL: the default */
	struct state state;
	union detail_buffer *at, *to;
};

#define DONE(call) \
	do { \
		if ((call) != R_DONE) \
			fail_msg("%s: %s", #call, p->r.message); \
	} while (0)

/* ---- the table ----------------------------------------------------------------------------------------------- */

static struct row *row_of(struct reader_place *p, const char *key, bool make)
{
	for (size_t i = 0; i < p->n_rows; i++)
		if (key ? p->rows[i].key && strcmp(p->rows[i].key, key) == 0 : !p->rows[i].key)
			return &p->rows[i];
	if (!make)
		return NULL;
	if (p->n_rows == p->rows_size) {
		p->rows_size = p->rows_size ? 2 * p->rows_size : 64;
		p->rows = realloc(p->rows, p->rows_size * sizeof *p->rows);
		assert_non_null(p->rows);
	}
	p->rows[p->n_rows] = (struct row){.key = key ? strdup(key) : NULL};
	return &p->rows[p->n_rows++];
}

static void start_writer(struct reader_place *p)
{
	struct table_options o = {.barrier_ms = 30000};
	uint64_t epoch = 0;

	DONE(table_open(&p->instance, &o, &p->table, &p->r));
	DONE(table_build(p->table, p->n_rows, &p->r));
	DONE(table_load_cluster(p->table, 1, "c1", "http://10.0.0.1:9200", &p->r));
	DONE(table_load_cluster(p->table, 2, "c2", "", &p->r));
	for (size_t i = 0; i < p->n_rows; i++) {
		struct row *row = &p->rows[i];

		if (row->state.epoch > epoch)
			epoch = row->state.epoch;
		if (row->state.at)
			DONE(table_load(p->table, row->key, row->key ? strlen(row->key) : 0, &row->state, 0, &p->r));
	}
	table_load_counters(p->table, epoch, 3, 0, 0);
	DONE(table_flip(p->table, &p->r));
}

static void map_root(struct reader_place *p)
{
	int fd = openat(p->instance.dir_fd, "root", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	p->root = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p->root != MAP_FAILED);
	close(fd);
}

int make_reader_place(void **state)
{
	struct reader_place *p = calloc(1, sizeof *p);

	*state = p;
	strcpy(p->dir, "/tmp/berth-reader-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	DONE(instance_open(p->dir, NULL, false, &p->instance, &p->r));
	start_writer(p);
	map_root(p);
	return 0;
}

static void remove_tree(const char *path)
{
	char command[160];

	snprintf(command, sizeof command, "rm -rf '%s'", path);
	if (system(command) != 0)
		print_message("left behind: %s\n", path);
}

int remove_reader_place(void **state)
{
	struct reader_place *p = *state;

	stop_serving(p);
	table_close(&p->table);
	instance_close(&p->instance);
	munmap(p->root, SHM_PAGE);
	for (size_t i = 0; i < p->n_rows; i++) {
		free(p->rows[i].key);
		free(p->rows[i].at);
		free(p->rows[i].to);
	}
	free(p->rows);
	remove_tree(p->dir);
	free(p);
	return 0;
}

void restart_writer(struct reader_place *p)
{
	table_close(&p->table);
	start_writer(p);
}

void replace_directory(struct reader_place *p)
{
	remove_tree(p->dir);
	table_close(&p->table);
	instance_close(&p->instance);
	munmap(p->root, SHM_PAGE);
	DONE(instance_open(p->dir, NULL, false, &p->instance, &p->r));
	start_writer(p);
	map_root(p);
}

static uint64_t publish(struct reader_place *p, struct row *row, enum word_phase phase)
{
	struct table_change c = {.key = row->key, .len = row->key ? strlen(row->key) : 0};

	c.after.phase = phase;
	c.after.at = row->at ? &row->at->detail : NULL;
	c.after.to = row->to ? &row->to->detail : NULL;
	DONE(table_reserve(p->table, &c, &p->r));
	c.after.epoch = table_take_epoch(p->table);
	table_publish(p->table, &c);
	row->state = c.after;
	return c.after.epoch;
}

static union detail_buffer *placement(unsigned cluster, const char *index, bool shared)
{
	union detail_buffer *d = calloc(1, sizeof *d);
	unsigned kind = shared ? KIND_SHARED_INDEX : index ? KIND_DEDICATED_INDEX : KIND_DEDICATED_CLUSTER;

	assert_non_null(d);
	assert_int_equal(detail_start(d, kind, cluster, index, index ? strlen(index) : 0), BERTH_OK);
	if (shared) {
		assert_int_equal(detail_add_inject(d, "_tenant", 7, INJECT_PARTITION, "", 0), BERTH_OK);
		assert_int_equal(detail_add_inject(d, "region", 6, INJECT_CONSTANT, "eu", 2), BERTH_OK);
	}
	detail_finish(d);
	return d;
}

static uint64_t put(struct reader_place *p, const char *key, union detail_buffer *d)
{
	struct row *row = row_of(p, key, true);

	free(row->at);
	row->at = d;
	return publish(p, row, PHASE_SETTLED);
}

uint64_t place_set(struct reader_place *p, const char *key, unsigned cluster, const char *index)
{
	return put(p, key, placement(cluster, index, false));
}

uint64_t place_shared(struct reader_place *p, const char *key, unsigned cluster, const char *index)
{
	return put(p, key, placement(cluster, index, true));
}

uint64_t place_begin(struct reader_place *p, const char *key, unsigned cluster, const char *index)
{
	struct row *row = row_of(p, key, false);

	row->to = placement(cluster, index, false);
	return publish(p, row, PHASE_DRAINING);
}

uint64_t place_phase(struct reader_place *p, const char *key, enum word_phase phase)
{
	struct row *row = row_of(p, key, false);

	if (phase == PHASE_SETTLED) {
		free(row->at);
		row->at = row->to;
		row->to = NULL;
	}
	return publish(p, row, phase);
}

uint64_t place_remove(struct reader_place *p, const char *key)
{
	struct row *row = row_of(p, key, false);

	free(row->at);
	row->at = NULL;
	return publish(p, row, PHASE_SETTLED);
}

void reclaim(struct reader_place *p)
{
	do
		p->table->next_look_ms = 0; /* now, not in a few ms */
	while (table_step(p->table, 100000) == 0);
}

bool place_is_set(struct reader_place *p, const char *key)
{
	struct row *row = row_of(p, key, false);

	return row && row->at;
}

/* ---- the daemon's stand-in ----------------------------------------------------------------------------------- */

/* Made by the writer's registry, then spoiled as the test wants it. The test's thread waits for it meanwhile. */
static int registration(struct reader_place *p, enum answers how, const char *request, char *result, size_t size)
{
	struct registry_peer peer = {.pid = getpid(), .uid = getuid(), .pidfd = -1};
	const char *readers = strstr(request, "\"readers\":"), *leases = strstr(request, "\"leases\":");
	bool none = strstr(request, "\"none\"") != NULL;
	struct registry_wish wish = {.n_leases = leases ? (uint32_t)strtoul(leases + 9, NULL, 10) : 0,
				     .writes = none     ? SHM_WRITES_NONE
					       : leases ? SHM_WRITES_BRACKETED
							: SHM_WRITES_UNBRACKETED,
				     .fences = strstr(request, "\"fences\":true") != NULL,
				     .cursors = strstr(request, "\"cursors\":true") != NULL};
	struct shm_registration *r;
	struct refusal why;
	struct stat st;
	uint32_t slot;
	uint64_t attach;
	int fd = -1;

	if (!readers)
		abort();
	wish.n_readers = (uint32_t)strtoul(readers + 10, NULL, 10);
	if (registry_attach(table_registry(p->table), &peer, &wish, &fd, &slot, &attach, &why) || fstat(fd, &st) != 0)
		abort();
	r = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (r == MAP_FAILED)
		abort();
	r->uuid[0] ^= how == ANSWER_OTHER_UUID;
	if (how == ANSWER_OLD_CLOCK)
		r->boottime_ns -= 1000000000;
	if (how == ANSWER_FUTURE_CLOCK)
		r->monotonic_ns += 1000000000;
	if (how == ANSWER_FEW_LINES)
		r->n_readers--;
	if (how == ANSWER_FEW_LEASES)
		r->n_leases--;
	if (how == ANSWER_LEASES_OUTSIDE)
		r->leases_off += 128;
	atomic_store(&p->registration, r); /* stays mapped: the tests look at it */
	snprintf(result, size, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"slot\":%u,\"attach\":%llu}}\n", slot,
		 (unsigned long long)attach);
	return fd;
}

/* A registration's descriptor, a doorbell, both or neither (-1); they are closed. */
static void reply(int socket, const char *line, int fd, int bell)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	struct iovec part = {(void *)(uintptr_t)line, strlen(line)};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
	const int fds[2] = {fd >= 0 ? fd : bell, bell};
	size_t n = (size_t)(fd >= 0) + (size_t)(bell >= 0);

	if (n > 0) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, n * sizeof(int));
	}
	if (sendmsg(socket, &m, MSG_NOSIGNAL) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

/* The process's end of a doorbell; -1: it pins nothing. As attach.c. */
static int doorbell(struct reader_place *p, uint32_t slot, uint64_t attach, bool again)
{
	struct registry_rings rings;
	struct refusal why;
	int bell[2];

	if (!p->cursors || !registry_rings(table_registry(p->table), slot, attach, &rings))
		return -1;
	if (pinning_bell(bell, &why) != R_DONE)
		abort();
	if (again)
		cursors_reattach(p->cursors, slot, bell[1]);
	else
		cursors_attach(p->cursors, &rings, bell[1]);
	return bell[0];
}

static void refuse_with(int socket, const char *code)
{
	char line[160];

	snprintf(line, sizeof line,
		 "{\"jsonrpc\": \"2.0\", \"id\": 1, \"error\": {\"message\": \"a \\\"}, quoted\", \"code\": -32021, "
		 "\"data\": {\"retryable\": true, \"code\": \"%s\"}}}\n",
		 code);
	reply(socket, line, -1, -1);
}

static uint64_t number_in(const char *line, const char *name)
{
	const char *at = strstr(line, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void answer(struct reader_place *p, int socket, const char *request)
{
	enum answers how = (enum answers)atomic_load(&p->answers);
	bool again = strstr(request, "\"reattach\"") != NULL;
	char result[128];
	int fd;

	if (how == ANSWER_NOTHING)
		return;
	if (how == ANSWER_LIMIT)
		return refuse_with(socket, "limit");
	if (how == ANSWER_DENIED)
		return refuse_with(socket, "denied");
	if (how == ANSWER_RUBBISH)
		return reply(socket, "{\"result\"\n", -1, -1);
	if (again && how == ANSWER_UNKNOWN) {
		atomic_store(&p->answers, ANSWER_REGISTER);
		return refuse_with(socket, "invalid");
	}
	if (again) {
		atomic_fetch_add(&p->n_reattached, 1);
		return reply(socket, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n", -1,
			     doorbell(p, (uint32_t)number_in(request, "\"slot\":"), number_in(request, "\"attach\":"),
				      true));
	}
	atomic_fetch_add(&p->n_attached, 1);
	fd = registration(p, how, request, result, sizeof result);
	if (how == ANSWER_NO_FD)
		close(fd);
	reply(socket, result, how == ANSWER_NO_FD ? -1 : fd,
	      doorbell(p, (uint32_t)number_in(result, "\"slot\":"), number_in(result, "\"attach\":"), false));
}

static void *server(void *arg)
{
	struct reader_place *p = arg;
	struct pollfd polls[2 + CONNECTIONS] = {{.fd = p->wake[0], .events = POLLIN},
						{.fd = p->listener, .events = POLLIN}};
	nfds_t n = 2;

	while (poll(polls, n, -1) >= 0 && !polls[0].revents) {
		if (polls[1].revents && n < 2 + CONNECTIONS) {
			polls[n] =
				(struct pollfd){.fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC), .events = POLLIN};
			n++;
		}
		for (nfds_t i = 2; i < n; i++) {
			char line[1024];
			ssize_t got = polls[i].revents ? recv(polls[i].fd, line, sizeof line - 1, 0) : -1;

			polls[i].revents = 0;
			if (got > 0) {
				line[got] = 0;
				answer(p, polls[i].fd, line);
			} else if (got == 0) {
				close(polls[i].fd);
				polls[i] = polls[--n];
			}
		}
	}
	for (nfds_t i = 2; i < n; i++)
		close(polls[i].fd);
	return NULL;
}

void serve(struct reader_place *p, enum answers how)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	atomic_store(&p->answers, how);
	if (p->serving)
		return;
	snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", p->dir, SEG_SOCKET);
	unlink(a.sun_path);
	p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(p->listener, 8), 0);
	assert_int_equal(pipe2(p->wake, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&p->thread, NULL, server, p), 0);
	p->serving = true;
}

void stop_serving(struct reader_place *p)
{
	if (!p->serving)
		return;
	assert_int_equal(write(p->wake[1], "", 1), 1); /* closing would not do: a child may have it open too */
	pthread_join(p->thread, NULL);
	close(p->wake[1]);
	close(p->wake[0]);
	close(p->listener);
	p->serving = false;
}

/* ---- libberth ------------------------------------------------------------------------------------------------ */

struct berth *attach_with(struct reader_place *p, const struct berth_attach_options *o, int expected)
{
	struct berth *b = NULL;
	int rc = berth_attach(p->dir, o, &b);

	if (rc != expected)
		fail_msg("attach: %s, expected: %s", berth_strerror(rc), berth_strerror(expected));
	return b;
}

struct berth *attached(struct reader_place *p)
{
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = 10000};
	struct berth *b;

	serve(p, ANSWER_REGISTER);
	b = attach_with(p, &o, BERTH_OK);
	assert_int_equal(berth_maintain(b), BERTH_OK);
	return b;
}

struct berth *copying(struct reader_place *p)
{
	struct berth *b = attach_with(p, NULL, BERTH_OK);

	assert_int_equal(berth_maintain(b), BERTH_E_WRITER_DOWN);
	return b;
}

struct berth_reader *opened(struct berth *b)
{
	struct berth_reader *r = NULL;

	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	return r;
}

void close_all(struct berth *b, struct berth_reader *r)
{
	berth_reader_close(&r);
	assert_null(r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	assert_null(b);
}

void maintain_until(struct berth *b, int code)
{
	uint64_t end = seg_clock_ms(CLOCK_MONOTONIC) + 10000;
	int rc;

	while ((rc = berth_maintain(b)) != code) {
		struct pollfd fd = {.fd = berth_maintain_fd(b), .events = POLLIN};

		if (seg_clock_ms(CLOCK_MONOTONIC) > end)
			fail_msg("maintain: %s, expected: %s", berth_strerror(rc), berth_strerror(code));
		poll(&fd, 1, 20);
	}
}

struct shm_line *line_of(struct reader_place *p, unsigned i)
{
	char *reg = (char *)atomic_load(&p->registration);

	return (struct shm_line *)(reg + SHM_PAGE) + i;
}

struct shm_leases *leases_of(struct reader_place *p, unsigned i)
{
	struct shm_registration *reg = atomic_load(&p->registration);

	return (struct shm_leases *)((char *)reg + reg->leases_off + (size_t)i * reg->lease_stride);
}

/* ---- writes in leases ---------------------------------------------------------------------------------------- */

struct berth *bracketed(struct reader_place *p, uint32_t max_leases)
{
	struct berth_attach_options o = {
		.size = sizeof o, .wait_ms = 10000, .writes = BERTH_WRITES_BRACKETED, .max_leases = max_leases};

	serve(p, ANSWER_REGISTER);
	return attach_with(p, &o, BERTH_OK);
}

struct slots slots_of(struct reader_place *p, unsigned reader, const char *key)
{
	struct shm_leases *a = leases_of(p, reader);
	struct slots n = {0};

	for (uint32_t i = 0; i < atomic_load(&a->high); i++) {
		uint64_t state, hash = lease_look(&lease_slots(a)[i], &state);

		if (!hash || (key && hash != lease_hash(hash_key(p->root->secret, key, strlen(key)))))
			continue;
		*(lease_kind(state) == LEASE_OPEN ? &n.open : &n.unknown) += 1;
		n.time_ms = lease_time(state);
	}
	return n;
}

void must_begin(struct berth_reader *r, const char *key, struct berth_write *w)
{
	assert_int_equal(berth_write_begin(r, KEY(key), 0, w), BERTH_OK);
}
void must_end(struct berth_reader *r, struct berth_write *w, enum berth_outcome outcome)
{
	assert_int_equal(berth_write_end(r, w, outcome), BERTH_OK);
}
