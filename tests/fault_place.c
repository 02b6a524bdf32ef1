/* SPDX-License-Identifier: MIT
 * fault_place.h. */
#include "fault_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const no_options[] = {NULL};

/* ---- the daemon ------------------------------------------------------------------------------------------------- */

_Noreturn void fault_fail(struct fault_place *p, const char *format, ...)
{
	char *log = daemon_log(&p->d);
	size_t len = strlen(log);
	va_list args;

	/* Not by fail_msg, which cuts what is long. */
	fprintf(stderr, "%s: ", p->doing);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nend of its log:\n%s\n", log + (len > 3000 ? len - 3000 : 0));
	fail_msg("%s", p->doing);
	abort();
}

bool fault_place_start(struct fault_place *p, const char *const *options, int *status)
{
	uint64_t deadline = test_now_ms() + DAEMON_MS;
	struct pollfd f[2];
	char text[512];

	fault_preload(p->plan_path);
	daemon_spawn_with(&p->d, options);
	fault_preload(NULL);
	f[0] = (struct pollfd){.fd = p->d.notify_fd, .events = POLLIN};
	f[1] = (struct pollfd){.fd = p->d.pidfd, .events = POLLIN};
	while (test_now_ms() < deadline) {
		ssize_t n;

		poll(f, 2, 100);
		n = recv(p->d.notify_fd, text, sizeof text - 1, 0);
		if (n > 0) {
			text[n] = '\0';
			if (strstr(text, "READY=1"))
				return true;
		} else if (f[1].revents & POLLIN) {
			*status = daemon_wait(&p->d);
			return false;
		}
	}
	fault_fail(p, "berthd is neither ready nor gone after %d ms", DAEMON_MS);
}

void fault_lives(struct fault_place *p)
{
	struct pollfd f = {.fd = p->d.pidfd, .events = POLLIN};

	usleep(1000); /* a process that ends has closed its sockets before its end is told */
	if (poll(&f, 1, 0) == 1)
		fault_fail(p, "berthd has ended with %d", daemon_wait(&p->d));
}

void fault_place_admin(struct fault_place *p)
{
	if (!p->admin_open)
		wire_open(&p->admin, &p->d, WIRE_ADMIN);
	p->admin_open = true;
}

void fault_place_leave(struct fault_place *p)
{
	if (p->admin_open)
		wire_close(&p->admin);
	p->admin_open = false;
}

void fault_place_again(struct fault_place *p)
{
	int status;

	fault_place_leave(p);
	if (!fault_place_start(p, no_options, &status))
		fault_fail(p, "berthd ended with %d instead of serving", status);
}

void fault_place_make(struct fault_place *p, const char *store, const char *const *options)
{
	int status;

	memset(p, 0, sizeof *p);
	daemon_make(&p->d, store);
	/* A name that no other instance has: its mirror's pins have it. */
	snprintf(p->d.dir, sizeof p->d.dir, "%s/f-%s", p->d.home, strrchr(p->d.home, '-') + 1);
	snprintf(p->plan_path, sizeof p->plan_path, "%s/faults", p->d.home);
	p->plan = fault_plan_make(p->plan_path);
	strcpy(p->doing, "without a fault");
	if (!fault_place_start(p, options, &status))
		fault_fail(p, "berthd ended with %d", status);
	fault_place_admin(p);
	wire_do(&p->admin, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://10.0.0.1:9200");
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c2");
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "acme", "placement", "mode",
		"dedicated-index", "cluster", "c1", "index", "acme-index");
	assert_int_equal(berth_attach(p->d.dir, NULL, &p->b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
}

void fault_place_remove(struct fault_place *p)
{
	fault_place_leave(p);
	berth_reader_close(&p->holder);
	berth_reader_close(&p->r);
	berth_detach(&p->b);
	daemon_remove(&p->d);
	fault_plan_free(&p->plan);
}

int fault_setup(void **state)
{
	struct fault_place *p = NULL;

	if (fault_possible()) {
		p = calloc(1, sizeof *p);
		fault_place_make(p, *state, no_options);
	}
	*state = p;
	return 0;
}

int fault_teardown(void **state)
{
	if (*state)
		fault_place_remove(*state);
	free(*state);
	return 0;
}

struct fault_place *fault_needed(void **state)
{
	struct fault_place *p = *state;

	fault_plan_needed(p ? p->plan : NULL);
	return p;
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

json_t *fault_answer(struct fault_place *p, const char *method)
{
	struct pollfd f = {.fd = p->admin.fd, .events = POLLIN};
	json_t *answer;
	char *line;

	if (!p->admin.len && poll(&f, 1, DAEMON_MS) != 1)
		fault_fail(p, "no answer to %s within %d ms", method, DAEMON_MS);
	line = wire_line(&p->admin, DAEMON_MS);
	if (!line) {
		fault_place_leave(p);
		fault_lives(p);
		return NULL;
	}
	answer = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(answer))
		fault_fail(p, "this is no answer: %.300s", line);
	free(line);
	return answer;
}

json_t *fault_ask(struct fault_place *p, const char *method, const char *params, ...)
{
	json_t *packed = NULL, *whole;
	va_list args;
	char *text;
	bool sent;

	va_start(args, params);
	if (params)
		packed = json_vpack_ex(NULL, 0, params, args);
	va_end(args);
	fault_place_admin(p);
	whole = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", (int)++p->admin.id, "method", method,
			  "params", packed);
	text = json_dumps(whole, JSON_COMPACT | JSON_EMBED);
	json_decref(whole);
	sent = wire_text(&p->admin, "{") && wire_text(&p->admin, text) && wire_text(&p->admin, "}\n");
	free(text);
	if (sent)
		return fault_answer(p, method);
	fault_place_leave(p);
	return NULL;
}

bool fault_done(const json_t *answer)
{
	return json_object_get(answer, "result") != NULL;
}

const char *fault_code(const json_t *answer)
{
	return text_of(json_object_get(json_object_get(answer, "error"), "data"), "code");
}

void fault_must(struct fault_place *p, json_t *answer)
{
	if (!fault_done(answer))
		fault_fail(p, "refused: %s", answer ? json_dumps(answer, 0) : "(closed)");
	json_decref(answer);
}

json_t *fault_set(struct fault_place *p, const char *key, const char *index)
{
	return fault_ask(p, "set", "{s:s, s:b, s:{s:s, s:s, s:s}}", "partition", key, "force", 1, "placement", "mode",
			 "dedicated-index", "cluster", "c1", "index", index);
}

json_t *fault_set_default(struct fault_place *p, const char *index)
{
	return fault_ask(p, "default.set", "{s:b, s:{s:s, s:s, s:s}}", "force", 1, "placement", "mode",
			 "dedicated-index", "cluster", "c1", "index", index);
}

void fault_send_document(struct fault_place *p, const char *index)
{
	char path[128], text[400];
	int document, n;

	n = snprintf(text, sizeof text,
		     "{\"partitions\":{\"doc-a\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s\"},"
		     "\"doc-b\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s\"}}}",
		     index, index);
	assert_true(n < (int)sizeof text);
	daemon_file(&p->d, "document", text, path);
	document = open(path, O_RDONLY | O_CLOEXEC);
	fault_place_admin(p);
	wire_send_with(&p->admin, document, "load", NULL);
	close(document);
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

static const char *const keys[] = {"acme",   "globex", "mover", "many-0",     "many-1",
				   "many-4", "doc-a",  "doc-b", FAULT_DEFAULT};

bool fault_route(struct fault_place *p, const char *key, struct berth_route *route)
{
	int rc = berth_route(p->r, key, strlen(key), route);

	if (rc != BERTH_OK && rc != BERTH_E_UNKNOWN)
		fault_fail(p, "the reader's look-up of %s answers %s", key, berth_strerror(rc));
	return rc == BERTH_OK;
}

bool fault_index_is(struct fault_place *p, const char *key, const char *index)
{
	struct berth_placement at;
	bool is;

	berth_read_begin(p->r);
	is = berth_lookup(p->r, key, strlen(key), &at) == BERTH_OK && strcmp(at.index, index) == 0;
	berth_read_end(p->r);
	return is;
}

char *fault_view(struct fault_place *p)
{
	char *text = calloc(1, 4096), line[400];

	berth_maintain(p->b);
	for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		const char *key = keys[i];
		json_t *says = fault_ask(p, "get", "{s:s}", "partition", key), *result;
		struct berth_placement at = {0};
		char state[300] = "-";
		int rc;

		berth_read_begin(p->r);
		rc = berth_lookup(p->r, key, strlen(key), &at);
		result = json_object_get(says, "result");
		if (!says || (rc == BERTH_OK) != (result != NULL) || (rc != BERTH_OK && rc != BERTH_E_UNKNOWN))
			fault_fail(p, "%s: a look-up answers %d, get %s", key, rc,
				   says ? json_dumps(says, 0) : "nothing");
		if (result) {
			const json_t *shown = json_object_get(result, "state");
			const char *index = json_string_value(json_object_get(json_object_get(shown, "at"), "index"));

			if (int_of(result, "epoch") != (json_int_t)at.epoch ||
			    (json_object_get(shown, "phase") != NULL) != (at.phase != BERTH_SETTLED) ||
			    strcmp(index ? index : "", at.index) != 0)
				fault_fail(p, "%s: a look-up finds epoch %llu, phase %d, index `%s`, get %s", key,
					   (unsigned long long)at.epoch, at.phase, at.index, json_dumps(says, 0));
			json_dumpb(shown, state, sizeof state - 1, JSON_SORT_KEYS | JSON_COMPACT);
		}
		snprintf(line, sizeof line, "%s %llu %d %d %s\n", key, (unsigned long long)at.epoch, at.cluster,
			 at.is_default, state);
		berth_read_end(p->r);
		strcat(text, line);
		json_decref(says);
	}
	return text;
}

static bool follows_default(const char *row)
{
	int is_default = 0;

	return sscanf(row, "%*s %*u %*d %d", &is_default) == 1 && is_default;
}

char *fault_view_changes(const char *before, const char *after, const char *but)
{
	char *text = calloc(1, 8192 + 400);

	for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		size_t n = strcspn(before, "\n") + 1, m = strcspn(after, "\n") + 1;
		bool may = but && (strncmp(before, but, strlen(but)) == 0 ||
				   (strcmp(but, FAULT_DEFAULT) == 0 && follows_default(before)));

		if (!may && (n != m || memcmp(before, after, n) != 0))
			sprintf(text + strlen(text), "it was: %.*sit is:  %.*s", (int)n, before, (int)m, after);
		before += n;
		after += m;
	}
	if (*text)
		return text;
	free(text);
	return NULL;
}

unsigned fault_descriptors(const struct fault_place *p)
{
	char path[40];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/proc/%d/fd", p->d.pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

uint64_t fault_cpu_ms(const struct fault_place *p)
{
	unsigned long user = 0, kernel = 0;
	char path[40], text[512] = "", *at;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", p->d.pid);
	f = fopen(path, "r");
	if (f) {
		if (fgets(text, sizeof text, f) && (at = strrchr(text, ')')))
			sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel);
		fclose(f);
	}
	return (user + kernel) * 1000 / (unsigned long)sysconf(_SC_CLK_TCK);
}
