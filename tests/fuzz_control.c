/* SPDX-License-Identifier: MIT
 * libFuzzer target for the sockets: bytes of a peer over the daemon's own connections (conn.c), frames, methods and core,
 * with a memory store in a directory of its own, and libuv's loop. Whatever comes, each whole line gets one answer in its
 * order, an answer is JSON, and who watches gets JSON. One thread beside the daemon's own; what an input has changed is
 * undone before the next one.
 *
 * The input: flags, how the bytes are cut, two bytes with the length of a document, the document, then the peer's bytes,
 * in which bytes 1, 2 and 3 stand for our pid and two clocks (`attach` asks for them).
 * Flags: 1 admin.sock, 2 somebody watches, 4 the peer reads slowly, 8 the document's descriptor comes with the bytes. */
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "../writer/control.h"
#include "../writer/load.h"
#include "../writer/log.h"
#include "../writer/pinning.h"
#include "../writer/watch.h"
#include "fuzz.h"

#define BARRIER_MS 20
#define TURNS_MAX 20000u
#define UNDONE_MAX 500u /* inputs between two starts */

static const struct options options = {
	.store = "memory:", .name = "fuzz", .barrier_ms = BARRIER_MS, .cursor_capacity = 64, .cursor_ttl_ms = 60000};
static char dir[64];
static struct server server;
static uint64_t changes_at_start;
static unsigned n_undone;

/* ---- the daemon: main.c's order of start and stop, without signals and HTTP -------------------------------------- */

static void place(const char *key, enum operation op, const char *text)
{
	json_t *placement = text ? json_loads(text, 0, NULL) : NULL;
	struct core_result result;
	struct refusal r = {0};

	if (core_apply(server.core, op, key, key ? 1 : 0, placement, false, "fuzz", &result, &r) != R_DONE) {
		fprintf(stderr, "%s: %s\n", key, r.message);
		abort();
	}
	json_decref(placement);
}

/* What every input begins with. */
static void put_all(void)
{
	struct core_result result;
	struct refusal r = {0};

	HOLDS(core_cluster_set(server.core, "c1", 2, "http://10.0.0.1:9200", 20, "fuzz", &result, &r) == R_DONE);
	HOLDS(core_cluster_set(server.core, "c2", 2, "", 0, "fuzz", &result, &r) == R_DONE);
	place("p", OP_SET, "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}");
	place("q", OP_SET, "{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}");
	place("q", OP_BEGIN, "{\"cluster\":\"c2\"}");
	place("r", OP_SET, "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}");
	place("r", OP_BEGIN, "{\"cluster\":\"c2\"}");
	place("r", OP_CUTOVER, NULL);
	changes_at_start = core_changes(server.core);
}

static void start(void)
{
	const struct core_options core = {.store_url = options.store, .barrier_ms = options.barrier_ms};
	struct refusal r = {0};

	snprintf(dir, sizeof(dir), "%s/i", fuzz_home());
	HOLDS(mkdir(dir, 0700) == 0);
	memset(&server, 0, sizeof(server));
	server.options = &options;
	server.n_descriptors_max = 4096;
	HOLDS(uv_loop_init(&server.loop) == 0);
	HOLDS(instance_open(dir, NULL, false, &server.instance, &r) == R_DONE);
	server.instance.small_pages = true;
	HOLDS(core_open(&server.instance, &core, &server.core, &r) == R_DONE);
	HOLDS(seg_root_map(server.instance.dir_fd, &server.root) == BERTH_OK);
	pinning_open(&server);
	HOLDS(control_open(&server, &r) == R_DONE && upkeep_open(&server) == 0);
	for (int i = 0; i < server.n_signals; i++)
		uv_signal_stop(&server.signals[i]);
	watch_open(&server);
	server.ready = true;
	put_all();
	n_undone = 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void stop(void)
{
	server.stopping = true;
	load_finish(&server);
	control_close(&server);
	upkeep_close(&server);
	pinning_close(&server);
	for (unsigned i = 0; uv_run(&server.loop, UV_RUN_NOWAIT) != 0 && i < 5000; i++)
		usleep(1000);
	core_close(&server.core);
	seg_root_unmap(&server.root);
	instance_close(&server.instance);
	HOLDS(uv_loop_close(&server.loop) == 0);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void end(void)
{
	stop();
	fuzz_no_leak();
}

struct keys {
	char *key[256];
	size_t len[256];
	bool migrating[256];
	unsigned n;
};

static int note_key(void *arg, const char *key, size_t len, const struct state *state, uint64_t document)
{
	struct keys *k = arg;

	(void)document;
	if (!state->at)
		return 0;
	if (k->n == sizeof(k->key) / sizeof(k->key[0]))
		return 1;
	k->migrating[k->n] = state->phase != PHASE_SETTLED;
	k->len[k->n] = len;
	k->key[k->n++] = fuzz_copy(key, len);
	return 0;
}

/* As after a start, but for epochs and cluster numbers: a start takes forty times as long. False: start anew. */
static bool undo(void)
{
	struct core_result result;
	struct keys k = {.n = 0};
	struct refusal r = {0};
	struct table *t = core_table(server.core);
	bool undone = n_undone++ < UNDONE_MAX && table_walk(t, note_key, &k) == 0 && !core_loading(server.core);

	for (unsigned i = 0; i < k.n; i++) {
		if (k.migrating[i] && undone)
			undone = core_apply(server.core, OP_ABORT, k.key[i], k.len[i], NULL, true, "fuzz", &result,
					    &r) == R_DONE;
		if (undone)
			undone = core_apply(server.core, OP_REMOVE, k.key[i], k.len[i], NULL, true, "fuzz", &result,
					    &r) == R_DONE;
		free(k.key[i]);
	}
	if (undone)
		undone = core_apply(server.core, OP_DEFAULT, NULL, 0, NULL, true, "fuzz", &result, &r) == R_DONE;
	for (unsigned n = 1; undone && n < table_next_cluster(t); n++) {
		const struct shm_cluster *c = table_cluster(t, n);
		char id[SHM_CLUSTER_ID_MAX + 1];

		if (!c)
			continue;
		memcpy(id, cluster_id(c), c->id_len);
		undone = core_cluster_remove(server.core, id, c->id_len, "fuzz", &result, &r) == R_DONE;
	}
	if (undone)
		put_all();
	return undone;
}

/* ---- peers -------------------------------------------------------------------------------------------------------- */

struct peer {
	int fd;
	bool gone, slow;
	char *text;
	size_t len, size;
	unsigned answers;
};

static struct conn *connect_peer(struct peer *p, bool admin, bool slow)
{
	int pair[2], least = 1;

	HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
	if (slow)
		setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
	*p = (struct peer){.fd = pair[0], .slow = slow};
	struct conn *c = conn_open(&server, pair[1], admin, getuid(), getpid());
	HOLDS(c);
	return c;
}

static void judge_line(struct peer *p, const char *line, size_t len)
{
	json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL), *data;

	HOLDS(json_is_object(o) && strcmp(json_string_value(json_object_get(o, "jsonrpc")), "2.0") == 0);
	if (json_object_get(o, "method")) {
		HOLDS(!json_object_get(o, "id"));
	} else {
		HOLDS(json_object_get(o, "id") && !json_object_get(o, "result") == !!json_object_get(o, "error"));
		data = json_object_get(json_object_get(o, "error"), "data");
		HOLDS(json_object_get(o, "result") || json_is_string(json_object_get(data, "code")));
		p->answers++;
	}
	json_decref(o);
}

/* What is there to read, a few bytes when slow; whole lines are judged. */
static bool hear(struct peer *p)
{
	size_t begin = 0;
	ssize_t n;
	char *end;

	if (p->gone)
		return false;
	if (p->size - p->len < 70000)
		HOLDS((p->text = realloc(p->text, p->size += 140000)));
	n = recv(p->fd, p->text + p->len, p->slow ? 700 : 65536, MSG_DONTWAIT);
	if (n <= 0) {
		p->gone = n == 0 || (errno != EAGAIN && errno != EINTR);
		return false;
	}
	p->len += (size_t)n;
	while ((end = memchr(p->text + begin, '\n', p->len - begin))) {
		judge_line(p, p->text + begin, (size_t)(end - p->text) - begin);
		begin = (size_t)(end - p->text) + 1;
	}
	memmove(p->text, p->text + begin, p->len -= begin);
	return true;
}

static void hang_up(struct peer *p)
{
	if (p->gone)
		HOLDS(p->len == 0); /* no half a line is ever sent to who reads */
	close(p->fd);
	free(p->text);
}

/* Turns of the loop until nobody has anything to do. */
static void settle(struct peer *p, struct peer *watcher)
{
	for (unsigned quiet = 0, i = 0; quiet < 2 && i < TURNS_MAX; i++) {
		if (server.stopping)
			break;
		uv_run(&server.loop, server.load ? UV_RUN_ONCE : UV_RUN_NOWAIT);
		bool heard = hear(p);

		if (watcher && hear(watcher))
			heard = true;
		quiet = heard || uv_is_active((uv_handle_t *)&server.idle) || server.load ? 0 : quiet + 1;
	}
}

static void say(struct peer *p, const char *bytes, size_t n, int passed)
{
	struct iovec part = {(void *)(uintptr_t)bytes, n};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	ssize_t sent;

	if (passed >= 0) {
		control.header = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(&control.header), &passed, sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
	}
	sent = sendmsg(p->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 || (size_t)sent < n)
		p->gone = p->gone || (sent < 0 && errno != EAGAIN);
}

/* ---- one input ---------------------------------------------------------------------------------------------------- */

/* With our pid and clocks in place; *len at most a few lines of the longest. */
static char *peer_bytes(struct fuzz_input *in, size_t *len)
{
	char *bytes = malloc(in->left * 20 + 1);

	HOLDS(bytes);
	*len = 0;
	for (; in->left; in->at++, in->left--) {
		if (*in->at == 1)
			*len += (size_t)sprintf(bytes + *len, "%d", (int)getpid());
		else if (*in->at == 2 || *in->at == 3)
			*len += (size_t)sprintf(
				bytes + *len, "%llu",
				(unsigned long long)seg_clock_ns(*in->at == 2 ? CLOCK_MONOTONIC : CLOCK_BOOTTIME));
		else
			bytes[(*len)++] = (char)*in->at;
	}
	return bytes;
}

/* Whole lines before one that is too long. */
static unsigned whole_lines(const char *bytes, size_t len, bool *too_long)
{
	unsigned n = 0;

	for (*too_long = false;; n++) {
		const char *end = memchr(bytes, '\n', len);

		*too_long = (end ? (size_t)(end - bytes) : len) > FRAME_MAX;
		if (*too_long || !end)
			return n;
		len -= (size_t)(end - bytes) + 1;
		bytes = end + 1;
	}
}

static bool is_there(const struct conn *c)
{
	struct conn *other;

	TAILQ_FOREACH (other, &server.conns, link)
		if (other == c)
			return true;
	return false;
}

static void judge(const struct conn *c, const struct peer *p, unsigned lines, bool too_long)
{
	bool there = is_there(c);

	if (server.stopping)
		return;
	if (there && (c->queued || c->load)) /* one of them waits */
		HOLDS(p->answers < lines);
	else
		HOLDS(p->answers == lines + too_long);
	if (too_long && !(there && c->queued))
		HOLDS(!there);
}

static int document_fd(struct fuzz_input *in)
{
	size_t len;
	const unsigned char *bytes = fuzz_take(in, (size_t)fuzz_bytes(in, 2), &len);
	int fd = memfd_create("document", MFD_CLOEXEC);

	HOLDS(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return fuzz_keeps_state(argc, argv);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned flags = fuzz_u8(&in), cuts = fuzz_u8(&in), lines;
	struct peer p, watcher;
	bool too_long, watched = flags & 2;
	size_t len, done = 0;
	int document = document_fd(&in);
	char *bytes = peer_bytes(&in, &len);
	struct conn *c;

	if (!dir[0]) {
		log_open(LEVEL_ERROR);
		json_object_seed(1);
		start();
		atexit(end);
	}
	if (watched) {
		connect_peer(&watcher, false, flags & 4);
		say(&watcher, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"watch\"}\n", 43, -1);
	}
	c = connect_peer(&p, flags & 1, flags & 4);
	while (done < len && !p.gone) {
		size_t cut = cuts & 3 ? 1 + (cuts * 7919u + done * 31) % (cuts & 1 ? 40 : 20000) : len;
		cut = cut < len - done ? cut : len - done;
		cut = cut < 60000 ? cut : 60000; /* what the socket takes at once */
		say(&p, bytes + done, cut, flags & 8 && done == 0 ? document : -1);
		done += cut;
		settle(&p, watched ? &watcher : NULL);
	}
	close(document);
	lines = whole_lines(bytes, done, &too_long);
	judge(c, &p, lines, too_long);
	hang_up(&p);
	if (watched)
		hang_up(&watcher);
	for (unsigned i = 0; !server.stopping && !TAILQ_EMPTY(&server.conns) && i < 5; i++)
		uv_run(&server.loop, UV_RUN_NOWAIT);
	while (!server.stopping && (server.load || !TAILQ_EMPTY(&server.conns))) {
		if (TAILQ_EMPTY(&server.conns)) /* a document is given up */
			uv_run(&server.loop, UV_RUN_ONCE);
		else /* one that waits for something is not read from, and would be looked for later */
			conn_close(TAILQ_FIRST(&server.conns));
	}
	free(bytes);
	for (unsigned i = 0;
	     !server.stopping && !server.cursors && registry_count(table_registry(core_table(server.core))) && i < 10;
	     i++)
		uv_run(&server.loop, UV_RUN_ONCE);
	if (server.stopping || server.cursors || registry_count(table_registry(core_table(server.core))) ||
	    (core_changes(server.core) != changes_at_start && !undo())) {
		stop();
		start();
	}
	return 0;
}
