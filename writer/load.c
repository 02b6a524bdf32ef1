/* SPDX-License-Identifier: MIT
 * Documents, from an open descriptor to the answer: load.h.
 *
 * The worker reads the whole document into its staged form before anything of it is applied, so a file that changes,
 * ends or hangs meanwhile costs this load alone. It looks at `abandoned` between two pieces; a pipe is waited for with
 * a limit. The control thread touches the document only after the worker is through. */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "rpc.h"
#include "text.h"

#define PIECE 65536u
#define PIPE_IDLE_MS 30000
#define LOOK_MS 100 /* how often a worker that waits, and the control thread, look whether somebody still wants it */
#define SLICE_US 2000u
#define STOP_NS 3000000000ull /* how long a stop waits for the document that is being applied */
#define NAME_MAX_BYTES 255u

struct load {
	struct server *server;
	struct conn *conn; /* NULL: --document, or gone */
	json_t *id;
	int fd;
	int own[2];    /* of a pipe: what was taken from it; else -1 */
	bool applying; /* core_load_start took it */
	struct core_load_options options;
	char who[400];
	uint64_t started_ms;
	uv_thread_t worker; /* of its own: libuv ends the process when it cannot start the threads of its pool */
	uv_async_t parsed;  /* the worker is through */
	uv_timer_t look;
	_Atomic bool abandoned;
	/* of the worker, then of the control thread */
	struct document *document;
	struct refusal refusal;
	uint64_t bytes;
};

/* ---- worker thread ----------------------------------------------------------------------------------------- */

/* The next piece of a pipe, which may never come, or may go to somebody who has the pipe's end as well: a read after
 * the poll could wait for ever, a splice need not. O_NONBLOCK would be set for all who have it. 0: the end. */
static ssize_t read_pipe(struct load *l, char *piece)
{
	for (int waited = 0;; waited += LOOK_MS) {
		struct pollfd p = {.fd = l->fd, .events = POLLIN};
		ssize_t n = poll(&p, 1, LOOK_MS);

		if (n > 0) {
			n = splice(l->fd, NULL, l->own[1], NULL, PIECE, SPLICE_F_NONBLOCK);
			if (n == 0)
				return 0;
			if (n > 0)
				return read(l->own[0], piece, (size_t)n);
		}
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -1;
		if (atomic_load(&l->abandoned) || waited >= PIPE_IDLE_MS) {
			errno = ETIMEDOUT;
			return -1;
		}
	}
}

static enum refusal_code parse(struct load *l, struct document_parser *parser, char *piece)
{
	struct refusal *r = &l->refusal;

	for (;;) {
		ssize_t n = l->own[0] >= 0 ? read_pipe(l, piece) : pread(l->fd, piece, PIECE, (off_t)l->bytes);
		enum refusal_code code;

		if (n == 0)
			return R_DONE;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return refuse(r, R_BACKEND,
				      "reading the document: %s: give a file, or a pipe that is written to",
				      strerror(errno));
		l->bytes += (uint64_t)n;
		if (l->bytes > LOAD_BYTES_MAX)
			return refuse(r, R_BAD_DOCUMENT, "the document is longer than %llu bytes: split it",
				      LOAD_BYTES_MAX);
		if (atomic_load(&l->abandoned))
			return refuse(r, R_BUSY, "given up");
		code = document_parser_feed(parser, piece, (size_t)n, r);
		if (code != R_DONE)
			return code;
	}
}

static void work(void *arg)
{
	struct load *l = arg;
	struct document_parser *parser = document_parser_new();
	char *piece = malloc(PIECE);

	if (!parser || !piece)
		refuse(&l->refusal, R_FULL, "no memory for the document: give the daemon more");
	else if (parse(l, parser, piece) == R_DONE)
		document_parser_finish(&parser, &l->document, &l->refusal);
	document_parser_free(&parser);
	free(piece);
	uv_async_send(&l->parsed);
}

/* ---- control thread ---------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void on_look_closed(uv_handle_t *handle)
{
	struct load *l = handle->data;

	uv_close((uv_handle_t *)&l->parsed, on_closed);
}

static void put_summary(struct buffer *out, const struct core_load_summary *s)
{
	buffer_format(out,
		      "{\"partitions\":%llu,\"applied\":%llu,\"unchanged\":%llu,\"removed\":%llu,\"adopted\":%llu,"
		      "\"diverged\":%llu,\"migrating\":%llu,\"version\":%llu,\"left\":",
		      (unsigned long long)s->partitions, (unsigned long long)s->applied,
		      (unsigned long long)s->unchanged, (unsigned long long)s->removed, (unsigned long long)s->adopted,
		      (unsigned long long)s->diverged, (unsigned long long)s->migrating,
		      (unsigned long long)s->version);
	if (s->left)
		buffer_json(out, s->left);
	else
		buffer_text(out, "[]");
	buffer_text(out, "}");
}

static void tell_conn(struct load *l, const struct core_load_summary *summary)
{
	struct buffer answer = {0};
	struct conn *c = l->conn;

	c->load = NULL;
	if (summary) {
		rpc_result_begin(&answer, l->id);
		put_summary(&answer, summary);
		rpc_result_end(&answer);
		if (answer.failed) {
			buffer_cut(&answer, 0);
			refuse(&l->refusal, R_BACKEND,
			       "the document was applied, but there is no memory for the answer: look, or load it "
			       "again");
			summary = NULL;
		}
	}
	if (!summary)
		rpc_refuse(&answer, l->id, &l->refusal);
	buffer_add(&c->out, answer.data, answer.len);
	buffer_free(&answer);
	c->heard_ms = uv_now(&c->server->loop);
	conn_run(c);
}

static void tell_log(struct load *l, const struct core_load_summary *s)
{
	uint64_t took = uv_now(&l->server->loop) - l->started_ms;

	if (!s)
		log_event(l->refusal.code == R_STALE_DOCUMENT ? LEVEL_INFO : LEVEL_ERROR, "document-refused",
			  LOG_S("who", l->who), LOG_S("code", refusal_name(l->refusal.code)),
			  LOG_S("path", l->refusal.path), LOG_S("message", l->refusal.message));
	else
		log_event(s->diverged || s->migrating ? LEVEL_WARN : LEVEL_INFO, "document", LOG_S("who", l->who),
			  LOG_N("bytes", l->bytes), LOG_N("version", s->version), LOG_N("partitions", s->partitions),
			  LOG_N("applied", s->applied), LOG_N("unchanged", s->unchanged), LOG_N("removed", s->removed),
			  LOG_N("adopted", s->adopted), LOG_N("diverged", s->diverged),
			  LOG_N("migrating", s->migrating), LOG_N("took_ms", took));
}

static void close_all(const struct load *l)
{
	close(l->fd);
	if (l->own[0] >= 0) {
		close(l->own[0]);
		close(l->own[1]);
	}
}

/* The one way out: with a summary, or with l->refusal. */
static void finish(struct load *l, struct core_load_summary *summary)
{
	struct server *s = l->server;

	s->n_loads++;
	if (!summary)
		s->n_loads_refused++;
	tell_log(l, summary);
	s->load = NULL;
	if (l->conn)
		tell_conn(l, summary);
	if (summary)
		json_decref(summary->left);
	document_free(&l->document);
	json_decref(l->id);
	close_all(l);
	uv_close((uv_handle_t *)&l->look, on_look_closed);
	if (!core_loading(s->core) || s->load_unknown)
		conns_unpark(s);
	upkeep_soon(s, 1);
	if (s->stopping)
		return;
	server_ready(s);
	if (s->document_again) {
		s->document_again = false;
		load_document(s);
	}
}

/* What is in the store already is applied all the same: the core goes on with it in core_step. */
static void cancel(struct load *l)
{
	const char *why = l->server->stopping ? "the daemon is stopping" : "the client is gone";

	core_load_cancel(l->server->core);
	refuse(&l->refusal, R_BUSY, "%s: %s", why,
	       core_loading(l->server->core) ? "the document was in the store already, and will be applied"
					     : "nothing of the document was applied");
	finish(l, NULL);
}

bool load_step(struct server *s)
{
	struct core_load_summary summary = {0};
	struct load *l = s->load;
	bool done = false;

	if (!l || !l->applying)
		return false;
	if (atomic_load(&l->abandoned)) {
		cancel(l);
	} else if (core_load_step(s->core, SLICE_US, &done, &summary, &l->refusal) != R_DONE) {
		s->load_unknown = core_loading(s->core);
		finish(l, NULL);
	} else if (done) {
		finish(l, &summary);
	}
	return s->load != NULL;
}

static void load_stop(struct load *l)
{
	atomic_store(&l->abandoned, true);
	if (l->applying)
		upkeep_wake(l->server); /* else the worker looks at it, and on_parsed comes all the same */
}

void load_finish(struct server *s)
{
	uint64_t until = uv_hrtime() + STOP_NS;

	while (s->load && s->load->applying && uv_hrtime() < until)
		load_step(s);
	if (s->load)
		load_stop(s->load);
	load_step(s);
	until = uv_hrtime() + STOP_NS;
	while (core_loading(s->core) && uv_hrtime() < until)
		if (core_step(s->core, SLICE_US) != 0) /* nothing to do but to ask the store again what became of it */
			uv_sleep(1);
}

static void on_parsed(uv_async_t *parsed)
{
	struct load *l = parsed->data;
	struct server *s = l->server;

	uv_thread_join(&l->worker);
	if (l->refusal.code == R_DONE && atomic_load(&l->abandoned))
		refuse(&l->refusal, R_BUSY, "given up before anything was applied: retry");
	if (l->refusal.code == R_DONE) {
		if (core_load_start(s->core, l->document, &l->options, l->who, &l->refusal) != R_BACKEND)
			s->load_unknown = false; /* the core has asked the store what became of the one before */
		l->document = NULL;
	}
	if (l->refusal.code != R_DONE) {
		finish(l, NULL);
		return;
	}
	l->applying = true;
	upkeep_wake(s);
}

/* A connection that waits for its document is not read: whether it is still there shows only here. */
static void on_look(uv_timer_t *timer)
{
	struct load *l = timer->data;

	if (l->conn && conn_gone(l->conn))
		conn_close(l->conn);
}

void load_abandon(struct load *l)
{
	l->conn->load = NULL;
	l->conn = NULL;
	load_stop(l);
}

bool load_over(const struct server *s)
{
	return !s->load;
}

/* Takes fd. */
static enum refusal_code load_begin(struct server *s, int fd, const struct core_load_options *options, const char *who,
				    struct load **out, struct refusal *r)
{
	struct stat st;
	struct load *l;
	int mode, rc;

	if (fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode))) {
		close(fd);
		return refuse(r, R_INVALID, "the document is neither a file nor a pipe: open the file, or pipe it in");
	}
	mode = fcntl(fd, F_GETFL);
	if (mode < 0 || (mode & O_PATH) || (mode & O_ACCMODE) == O_WRONLY) {
		close(fd);
		return refuse(r, R_INVALID, "the document's descriptor is not open for reading");
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > LOAD_BYTES_MAX) {
		close(fd);
		return refuse(r, R_BAD_DOCUMENT, "the document has %llu bytes, at most %llu are taken: split it",
			      (unsigned long long)st.st_size, LOAD_BYTES_MAX);
	}
	l = calloc(1, sizeof(*l));
	if (!l) {
		close(fd);
		return refuse(r, R_FULL, "no memory for the document: give the daemon more");
	}
	l->server = s;
	l->fd = fd;
	l->own[0] = l->own[1] = -1;
	if (S_ISFIFO(st.st_mode) && pipe2(l->own, O_CLOEXEC) != 0) {
		refuse(r, R_BACKEND, "a pipe for the document: %s: allow more descriptors, then retry",
		       strerror(errno));
		close(fd);
		free(l);
		return r->code;
	}
	l->options = *options;
	snprintf(l->who, sizeof(l->who), "%s", who);
	l->started_ms = uv_now(&s->loop);
	l->parsed.data = l->look.data = l;
	rc = uv_async_init(&s->loop, &l->parsed, on_parsed);
	if (rc != 0) {
		close_all(l);
		free(l);
		return refuse(r, R_BACKEND, "the event loop: %s: retry", uv_strerror(rc));
	}
	rc = uv_thread_create(&l->worker, work, l);
	if (rc != 0) {
		close_all(l);
		uv_close((uv_handle_t *)&l->parsed, on_closed);
		return refuse(r, R_BACKEND,
			      "no thread for the document: %s: free memory, or allow more threads, then retry",
			      uv_strerror(rc));
	}
	uv_timer_init(&s->loop, &l->look);
	uv_timer_start(&l->look, on_look, LOOK_MS, LOOK_MS);
	s->load = *out = l;
	return R_DONE;
}

void load_document(struct server *s)
{
	const struct core_load_options options = {0};
	const char *path = s->options->document;
	struct refusal r = {.code = R_DONE};
	struct load *l;
	char who[400];
	int fd;

	if (s->load) {
		s->document_again = true;
		return;
	}
	snprintf(who, sizeof(who), "document %s", path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		refuse(&r, R_BACKEND, "%s: %s: name a file that berthd may read", path, strerror(errno));
	else
		load_begin(s, fd, &options, who, &l, &r);
	if (r.code == R_DONE)
		return;
	s->n_loads++;
	s->n_loads_refused++;
	log_event(LEVEL_ERROR, "document-refused", LOG_S("who", who), LOG_S("code", refusal_name(r.code)),
		  LOG_S("message", r.message));
	server_ready(s);
}

enum refusal_code method_load(struct call *call, struct refusal *r)
{
	struct core_load_options options = {.prune = arg_true(call, 0), .override = arg_true(call, 1)};
	const char *name = NULL, *fault = NULL;
	int fd = conn_take_fd(call->conn);
	enum refusal_code code;
	size_t len = 0;
	struct load *l;
	char who[400];

	if (call->args[2]) {
		name = arg_string(call, 2, &len);
		fault = len > NAME_MAX_BYTES ? "is longer than 255 bytes" : text_fault(name, len);
	}
	if (fd < 0)
		return refuse(r, R_INVALID,
			      "no descriptor came with the request: send the open document along (SCM_RIGHTS)");
	if (fault) {
		char shown[TEXT_SHOWN];

		close(fd);
		return refuse_at(r, R_INVALID, "$.name", "name %s %s", text_show(shown, sizeof(shown), name, len),
				 fault);
	}
	snprintf(who, sizeof(who), "%s%s%s", conn_who(call->conn), name ? " document=" : "", name ? name : "");
	code = load_begin(call->server, fd, &options, who, &l, r);
	if (code != R_DONE)
		return code;
	l->id = json_incref((json_t *)(uintptr_t)call->id);
	l->conn = call->conn;
	call->conn->load = l;
	call->later = true;
	return R_DONE;
}
