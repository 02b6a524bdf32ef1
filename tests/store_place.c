/* SPDX-License-Identifier: MIT
 * A store in a directory of its own (store_place.h), for 20-store.c and 21-store-disk.c. */
#include "store_place.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void open_store(struct place *p)
{
	assert_null(p->s);
	if (p->ops->open(p->path, &p->s, &p->r))
		fail_msg("open: %s", p->r.message);
}

void reopen(struct place *p)
{
	p->ops->close(&p->s);
	assert_null(p->s);
	open_store(p);
}

int make_place(void **state)
{
	const struct store_ops *ops = *state;
	struct place *p = calloc(1, sizeof(*p));

	if (!p)
		return -1;
	p->ops = ops;
	strcpy(p->dir, "/tmp/berth-store-XXXXXX");
	if (!mkdtemp(p->dir)) {
		free(p);
		return -1;
	}
	if (ops->durable)
		snprintf(p->path, sizeof(p->path), "%s/db", p->dir);
	*state = p;
	return 0;
}

int remove_place(void **state)
{
	struct place *p = *state;
	DIR *d = opendir(p->dir);
	struct dirent *e;

	p->ops->close(&p->s);
	while (d && (e = readdir(d))) {
		int is_dir = e->d_type == DT_DIR ? AT_REMOVEDIR : 0;

		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, is_dir);
	}
	if (d)
		closedir(d);
	rmdir(p->dir);
	free(p);
	return 0;
}

void put(struct place *p, const char *key, uint64_t epoch, const char *state, uint64_t document)
{
	struct store_partition row = {key, strlen(key), epoch, state, document};

	OK(p->ops->put_partition(p->s, &row, &p->r));
}

void put_event(struct place *p, const char *key, uint64_t epoch)
{
	struct store_event e = {
		.at_ms = (int64_t)epoch * 1000,
		.epoch = epoch,
		.who = "uid=0 pid=1 comm=test",
		.what = "set",
		.key = key,
		.key_len = key ? strlen(key) : 0,
		.detail = epoch % 2 ? "{\"at\":{}}" : NULL,
		.forced = epoch % 3 == 0,
	};

	OK(p->ops->put_event(p->s, &e, &p->r));
}

void commit_one(struct place *p, const char *key, uint64_t epoch)
{
	OK(p->ops->begin(p->s, &p->r));
	put(p, key, epoch, "{}", 0);
	OK(p->ops->commit(p->s, &p->r));
}

static int line(struct listing *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int line(struct listing *l, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(l->text + l->n, sizeof(l->text) - l->n, format, ap);
	va_end(ap);
	l->n += (size_t)n;
	assert_true(l->n < sizeof(l->text));
	return l->stop_after && !--l->stop_after ? 7 : 0;
}
static int line_meta(void *arg, const char *name, const char *value)
{
	return line(arg, "%s=%s\n", name, value);
}
static int line_cluster(void *arg, const struct store_cluster *c)
{
	return line(arg, "%u %s %s\n", c->number, c->id ? c->id : "(removed)", c->endpoint);
}
static int line_partition(void *arg, const struct store_partition *row)
{
	assert_int_equal(row->key[row->key_len], 0);
	return line(arg, "%.*s|%llu|%s|%llx\n", (int)row->key_len, row->key, (unsigned long long)row->epoch,
		    row->state ? row->state : "(none)", (unsigned long long)row->document);
}
static int line_event(void *arg, const struct store_event *e)
{
	assert_int_equal(e->at_ms, e->epoch * 1000);
	assert_string_equal(e->who, "uid=0 pid=1 comm=test");
	assert_int_equal(e->forced, e->epoch % 3 == 0);
	assert_int_equal(e->detail != NULL, e->epoch % 2);
	assert_int_equal(e->key != NULL, e->key_len != 0);
	return line(arg, "%llu %s %.*s\n", (unsigned long long)e->epoch, e->what, (int)e->key_len,
		    e->key ? e->key : "");
}
struct store_visitor lister(struct listing *l)
{
	memset(l, 0, sizeof(*l));
	return (struct store_visitor){line_meta, line_cluster, line_partition, line_event, l};
}

void assert_holds(struct place *p, const char *expected)
{
	struct listing l;
	struct store_visitor v = lister(&l);

	assert_int_equal(p->ops->load(p->s, &v, &p->r), 0);
	assert_string_equal(l.text, expected);
}

void assert_history(struct place *p, const char *key, unsigned limit, const char *expected)
{
	struct listing l;
	struct store_visitor v = lister(&l);

	assert_int_equal(p->ops->history(p->s, key, key ? strlen(key) : 0, limit, &v, &p->r), 0);
	assert_string_equal(l.text, expected);
}
