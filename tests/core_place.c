/* SPDX-License-Identifier: MIT
 * core_place.h. The faulty store is the real one, but for its commit and its settle. */
#include "core_place.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum fault next_commit;
unsigned settle_refusals;
static const struct store_ops *real;
static struct store_ops faulty;

static enum store_result faulty_commit(struct store *s, struct refusal *r)
{
	enum fault fault = next_commit;
	enum store_result result = STORE_OK;

	next_commit = FAULT_NONE;
	if (fault == FAULT_NONE || fault == FAULT_UNKNOWN_IN)
		result = real->commit(s, r);
	else
		real->rollback(s);
	if (fault == FAULT_NONE || result != STORE_OK)
		return result;
	refuse(r, R_BACKEND, "the test's store was told so");
	return fault == FAULT_FAILED ? STORE_FAILED : STORE_UNKNOWN;
}

static enum store_result faulty_put_event(struct store *s, const struct store_event *e, struct refusal *r)
{
	if (next_commit != FAULT_PUT)
		return real->put_event(s, e, r);
	next_commit = FAULT_NONE;
	refuse(r, R_BACKEND, "the test's store was told so");
	return STORE_FAILED;
}

static enum store_result faulty_settle(struct store *s, bool *committed, struct refusal *r)
{
	if (settle_refusals) {
		settle_refusals--;
		refuse(r, R_BACKEND, "the test's store does not know yet");
		return STORE_UNKNOWN;
	}
	return real->settle(s, committed, r);
}

/* ---- up and down ------------------------------------------------------------------------------------------------ */

static uint64_t test_clock(void *arg)
{
	return ((struct core_place *)arg)->now_ms;
}

static void on_event(void *arg, const struct core_event *event)
{
	struct core_place *p = arg;

	p->n_events++;
	snprintf(p->event, sizeof(p->event), "%s %.*s %llu %s%s", event->what, (int)event->key_len,
		 event->key ? event->key : "", (unsigned long long)event->epoch,
		 !event->after      ? "-"
		 : event->after->at ? phase_name(event->after->phase)
				    : "nothing",
		 event->forced ? " forced" : "");
}

enum refusal_code try_up(struct core_place *p)
{
	struct core_options options = {.barrier_ms = p->barrier_ms,
				       .new_directory = p->new_directory,
				       .monotonic_ms = test_clock,
				       .clock_arg = p};
	enum refusal_code code;

	assert_false(p->up);
	real = p->ops;
	faulty = *p->ops;
	faulty.put_event = faulty_put_event;
	faulty.commit = faulty_commit;
	faulty.settle = faulty_settle;
	assert_ok(instance_open(p->dir, NULL, false, &p->instance, &p->r));
	code = core_open_with(&p->instance, &options, &faulty, p->argument, &p->core, &p->r);
	if (code != R_DONE) {
		assert_null(p->core);
		instance_close(&p->instance);
		return code;
	}
	core_listen(p->core, on_event, p);
	p->up = true;
	return R_DONE;
}

void up(struct core_place *p)
{
	assert_ok(try_up(p));
}

void down(struct core_place *p)
{
	assert_true(p->up);
	core_close(&p->core);
	instance_close(&p->instance);
	p->up = false;
}

void restart(struct core_place *p)
{
	down(p);
	up(p);
}

static void remove_tree(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (e->d_type == DT_DIR)
			remove_tree(dirfd(d), e->d_name);
		else
			unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		closedir(d);
	unlinkat(at, name, AT_REMOVEDIR);
}

int make_core_place(void **state)
{
	struct core_place *p = calloc(1, sizeof(*p));

	if (!p)
		return -1;
	p->ops = *state;
	*state = p;
	p->now_ms = 1000000;
	p->barrier_ms = 30000;
	next_commit = FAULT_NONE;
	settle_refusals = 0;
	strcpy(p->dir, "/dev/shm/berth-core-XXXXXX");
	strcpy(p->store_dir, "/tmp/berth-core-XXXXXX");
	if (!mkdtemp(p->dir) || !mkdtemp(p->store_dir))
		return -1;
	if (p->ops->durable)
		snprintf(p->argument, sizeof(p->argument), "%s/db", p->store_dir);
	up(p);
	assert_ok(cluster_set(p, "c1", "http://10.0.0.1:9200"));
	assert_ok(cluster_set(p, "c2", "http://10.0.0.2:9200"));
	assert_ok(cluster_set(p, "c3", ""));
	return 0;
}

int remove_core_place(void **state)
{
	struct core_place *p = *state;

	if (p->up)
		down(p);
	json_decref(p->summary.left);
	remove_tree(AT_FDCWD, p->dir);
	remove_tree(AT_FDCWD, p->store_dir);
	free(p);
	return 0;
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static char *text_room(void)
{
	static char ring[8][512];
	static unsigned next;

	return ring[next++ % 8];
}

const char *on(const char *cluster)
{
	char *t = text_room();

	snprintf(t, 512, "{\"mode\":\"dedicated-cluster\",\"cluster\":\"%s\"}", cluster);
	return t;
}

const char *ix(const char *cluster, const char *index)
{
	char *t = text_room();

	snprintf(t, 512, "{\"mode\":\"dedicated-index\",\"cluster\":\"%s\",\"index\":\"%s\"}", cluster, index);
	return t;
}

const char *sh(const char *cluster, const char *index)
{
	char *t = text_room();

	snprintf(t, 512,
		 "{\"mode\":\"shared-index\",\"cluster\":\"%s\",\"index\":\"%s\",\"inject\":[{\"field\":\"_tenant\","
		 "\"value\":{\"partition\":true}}]}",
		 cluster, index);
	return t;
}

static enum refusal_code apply_as(struct core_place *p, enum operation op, const char *key, const char *placement,
				  bool forced)
{
	json_error_t error;
	json_t *json = placement ? json_loads(placement, 0, &error) : NULL;
	enum refusal_code code;

	if (placement && !json)
		fail_msg("%s: %s", placement, error.text);
	code = core_apply(p->core, op, key, key ? strlen(key) : 0, json, forced, "a test", &p->result, &p->r);
	json_decref(json);
	return code;
}

enum refusal_code apply(struct core_place *p, enum operation op, const char *key, const char *placement)
{
	return apply_as(p, op, key, placement, false);
}

enum refusal_code force(struct core_place *p, enum operation op, const char *key, const char *placement)
{
	return apply_as(p, op, key, placement, true);
}

enum refusal_code cluster_set(struct core_place *p, const char *id, const char *endpoint)
{
	return core_cluster_set(p->core, id, strlen(id), endpoint, endpoint ? strlen(endpoint) : 0, "a test",
				&p->result, &p->r);
}

enum refusal_code cluster_remove(struct core_place *p, const char *id)
{
	return core_cluster_remove(p->core, id, strlen(id), "a test", &p->result, &p->r);
}

uint64_t done(struct core_place *p, enum operation op, const char *key, const char *placement)
{
	assert_ok(apply(p, op, key, placement));
	assert_true(p->result.changed);
	assert_int_not_equal(p->result.epoch, 0);
	return p->result.epoch;
}

void cut_over(struct core_place *p, const char *key, const char *from, const char *to)
{
	done(p, OP_SET, key, from);
	done(p, OP_BEGIN, key, to);
	done(p, OP_CUTOVER, key, NULL);
}

enum refusal_code load_with(struct core_place *p, const char *text, bool prune, bool override)
{
	const struct core_load_options options = {.prune = prune, .override = override};
	struct document *document = NULL;
	enum refusal_code code = document_parse(text, strlen(text), &document, &p->r);
	bool over = false;

	json_decref(p->summary.left);
	p->summary = (struct core_load_summary){0};
	if (code != R_DONE)
		fail_msg("%s: %s %s", text, p->r.path, p->r.message);
	code = core_load_start(p->core, document, &options, "document test", &p->r);
	while (code == R_DONE && !over)
		code = core_load_step(p->core, 0, &over, &p->summary, &p->r);
	return code;
}

enum refusal_code load(struct core_place *p, const char *text)
{
	return load_with(p, text, false, false);
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

static bool state_get(struct core_place *p, const char *key, struct state *s, uint64_t *document)
{
	struct table *t = core_table(p->core);

	return key ? table_get(t, key, strlen(key), s, document) : table_default(t, s, document);
}

void assert_state(struct core_place *p, const char *key, const char *expected)
{
	struct cluster_names names = table_names(core_table(p->core));
	struct state s = {0};
	json_t *json;
	char *text;

	if (!state_get(p, key, &s, NULL))
		s = (struct state){0};
	json = state_to_json(&s, &names);
	text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(json);
	assert_string_equal(text, expected);
	free(text);
}

void assert_at(struct core_place *p, const char *key, const char *placement)
{
	char expected[600];

	snprintf(expected, sizeof(expected), placement ? "{\"at\":%s}" : "null", placement);
	assert_state(p, key, expected);
}

uint64_t epoch_of(struct core_place *p, const char *key)
{
	struct state s = {0};

	return state_get(p, key, &s, NULL) ? s.epoch : 0;
}

struct collected {
	struct core_place *p;
	char *lines[256];
	size_t n;
};

static int collect(void *arg, const char *key, size_t len, const struct state *s, uint64_t document)
{
	struct collected *c = arg;
	struct cluster_names names = table_names(core_table(c->p->core));
	json_t *json = state_to_json(s, &names);
	char *text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);

	json_decref(json);
	assert_true(c->n < sizeof(c->lines) / sizeof(c->lines[0]));
	assert_true(asprintf(&c->lines[c->n++], "%.*s|%llu|%s|%llx\n", (int)len, key,
			     s->at ? (unsigned long long)s->epoch : 0, text, (unsigned long long)document) > 0);
	free(text);
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char *everything(struct core_place *p)
{
	struct collected c = {.p = p};
	const struct table *t = core_table(p->core);
	struct state dflt = {0};
	uint64_t document = 0;
	char *all = NULL;
	size_t size;
	FILE *f = open_memstream(&all, &size);

	assert_non_null(f);
	assert_int_equal(table_walk(t, collect, &c), 0);
	if (!state_get(p, NULL, &dflt, &document))
		dflt = (struct state){0};
	collect(&c, "(default)", 9, &dflt, document);
	qsort(c.lines, c.n, sizeof(c.lines[0]), by_text);
	for (size_t i = 0; i < c.n; i++) {
		fputs(c.lines[i], f);
		free(c.lines[i]);
	}
	for (unsigned n = 1; n < table_next_cluster(t); n++)
		if (table_cluster(t, n))
			fprintf(f, "%u=%s %s used %u\n", n, cluster_id(table_cluster(t, n)),
				cluster_endpoint(table_cluster(t, n)), table_cluster_uses(t, n));
	fprintf(f, "document %llu, next cluster %llu\n", (unsigned long long)table_document_version(t),
		(unsigned long long)table_next_cluster(t));
	fclose(f);
	return all;
}

struct newest {
	char text[512];
};

static int take_newest(void *arg, const struct store_event *e)
{
	struct newest *n = arg;

	snprintf(n->text, sizeof(n->text), "%s %.*s%s", e->what, (int)e->key_len, e->key ? e->key : "",
		 e->forced ? " forced" : "");
	return 1;
}

void assert_newest(struct core_place *p, const char *what, const char *key, bool forced)
{
	struct newest n = {""};
	const struct store_visitor visitor = {.event = take_newest, .arg = &n};
	char expected[512];

	core_history(p->core, NULL, 0, 1, &visitor, &p->r);
	snprintf(expected, sizeof(expected), "%s %s%s", what, key ? key : "", forced ? " forced" : "");
	assert_string_equal(n.text, expected);
}
