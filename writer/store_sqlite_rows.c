/* SPDX-License-Identifier: MIT
 * Structs into rows and back, by statements that are prepared once and used again. Called by store_sqlite.c alone, from
 * the control thread. Must not begin or end a transaction by itself.
 *
 * Parameters are borrowed: every statement runs before its caller's strings end, and is bound anew before it runs
 * again. The default placement is the row with key ''; its events have key '' too. */
#include "store_sqlite_rows.h"

#include <string.h>

static const char *const sql[ST_N] = {
#define SQROWS_SQL(e, text) [e] = text,
	SQROWS(SQROWS_SQL)
#undef SQROWS_SQL
};

int sqrows_prepare(struct sqrows *rows, sqlite3 *db)
{
	for (int i = 0; i < ST_N; i++) {
		int rc = sqlite3_prepare_v3(db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &rows->st[i], NULL);

		if (rc)
			return rc;
	}
	return SQLITE_OK;
}

void sqrows_finalize(struct sqrows *rows)
{
	for (int i = 0; i < ST_N; i++)
		sqlite3_finalize(rows->st[i]);
	memset(rows, 0, sizeof(*rows));
}

/* ---- into rows --------------------------------------------------------------------------------------------- */

int sqrows_run(struct sqrows *rows, enum sqrows_statement n)
{
	int rc = sqlite3_step(rows->st[n]);

	sqlite3_reset(rows->st[n]);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void bind(sqlite3_stmt *st, int i, const char *text, size_t len)
{
	sqlite3_bind_text64(st, i, text, len, SQLITE_STATIC, SQLITE_UTF8);
}

static void bind_string(sqlite3_stmt *st, int i, const char *text) /* NULL stays NULL */
{
	bind(st, i, text, text ? strlen(text) : 0);
}

int sqrows_put_meta(struct sqrows *rows, const char *name, const char *value)
{
	bind_string(rows->st[ST_META], 1, name);
	bind_string(rows->st[ST_META], 2, value);
	return sqrows_run(rows, ST_META);
}

int sqrows_put_cluster(struct sqrows *rows, const struct store_cluster *c)
{
	sqlite3_stmt *st = rows->st[ST_CLUSTER];

	sqlite3_bind_int64(st, 1, c->number);
	bind_string(st, 2, c->id);
	bind_string(st, 3, c->endpoint ? c->endpoint : "");
	return sqrows_run(rows, ST_CLUSTER);
}

int sqrows_put_partition(struct sqrows *rows, const struct store_partition *p)
{
	enum sqrows_statement n = p->state || p->document ? ST_PARTITION : ST_FORGET;
	sqlite3_stmt *st = rows->st[n];

	bind(st, 1, p->key_len ? p->key : "", p->key_len);
	if (n == ST_PARTITION) {
		sqlite3_bind_int64(st, 2, (sqlite3_int64)p->epoch);
		bind_string(st, 3, p->state);
		sqlite3_bind_int64(st, 4, (sqlite3_int64)p->document);
	}
	return sqrows_run(rows, n);
}

int sqrows_put_event(struct sqrows *rows, const struct store_event *e)
{
	sqlite3_stmt *st = rows->st[ST_EVENT];

	sqlite3_bind_int64(st, 1, e->at_ms);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)e->epoch);
	bind_string(st, 3, e->who ? e->who : "");
	bind_string(st, 4, e->what ? e->what : "");
	bind(st, 5, e->key ? e->key : "", e->key ? e->key_len : 0);
	bind_string(st, 6, e->detail);
	sqlite3_bind_int(st, 7, e->forced);
	return sqrows_run(rows, ST_EVENT);
}

int sqrows_trim(struct sqrows *rows, int64_t keep, int64_t slice, bool *gone)
{
	int rc;

	sqlite3_bind_int64(rows->st[ST_TRIM], 1, keep);
	sqlite3_bind_int64(rows->st[ST_TRIM], 2, slice);
	rc = sqrows_run(rows, ST_TRIM);
	*gone = rc == SQLITE_OK && sqlite3_changes(sqlite3_db_handle(rows->st[ST_TRIM])) > 0;
	return rc;
}

/* ---- out of rows ------------------------------------------------------------------------------------------- */

/* NULL stays NULL. *bad: an error of sqlite, when it has no memory for it. */
static const char *text(sqlite3_stmt *st, int column, int *bad)
{
	const char *t = (const char *)sqlite3_column_text(st, column);

	if (!t && sqlite3_column_type(st, column) != SQLITE_NULL)
		*bad = SQLITE_NOMEM;
	return t;
}

/* Of a column that the schema keeps from being NULL, which holds for a file that we have made: who opens one is told. */
static const char *given(sqlite3_stmt *st, int column, int *bad)
{
	const char *t = text(st, column, bad);

	if (!t && !*bad)
		*bad = SQLITE_CORRUPT;
	return t;
}

int sqrows_count(struct sqrows *rows, uint64_t *n)
{
	sqlite3_stmt *st = rows->st[ST_COUNT];
	int rc = sqlite3_step(st);

	*n = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(st, 0) : 0;
	sqlite3_reset(st);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int sqrows_last_is(struct sqrows *rows, const char *name, bool *is)
{
	sqlite3_stmt *st = rows->st[ST_LAST];
	int rc = sqlite3_step(st);
	int bad = SQLITE_OK;
	const char *last = rc == SQLITE_ROW ? text(st, 0, &bad) : NULL;

	*is = last && !strcmp(last, name);
	sqlite3_reset(st);
	return bad ? bad : rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* One row: what the callback returned; *bad: it cannot be read, and no callback. */
typedef int see_fn(sqlite3_stmt *, const struct store_visitor *, int *bad);

static int see_meta(sqlite3_stmt *st, const struct store_visitor *v, int *bad)
{
	const char *name = given(st, 0, bad), *value = given(st, 1, bad);

	return *bad ? 0 : v->meta(v->arg, name, value);
}

static int see_cluster(sqlite3_stmt *st, const struct store_visitor *v, int *bad)
{
	struct store_cluster c = {
		.number = (unsigned)sqlite3_column_int64(st, 0),
		.id = text(st, 1, bad),
		.endpoint = given(st, 2, bad),
	};

	return *bad ? 0 : v->cluster(v->arg, &c);
}

static int see_partition(sqlite3_stmt *st, const struct store_visitor *v, int *bad)
{
	struct store_partition p = {
		.key = given(st, 0, bad),
		.key_len = (size_t)sqlite3_column_bytes(st, 0),
		.epoch = (uint64_t)sqlite3_column_int64(st, 1),
		.state = text(st, 2, bad),
		.document = (uint64_t)sqlite3_column_int64(st, 3),
	};

	return *bad ? 0 : v->partition(v->arg, &p);
}

static int see_event(sqlite3_stmt *st, const struct store_visitor *v, int *bad)
{
	struct store_event e = {
		.at_ms = sqlite3_column_int64(st, 0),
		.epoch = (uint64_t)sqlite3_column_int64(st, 1),
		.who = given(st, 2, bad),
		.what = given(st, 3, bad),
		.key = given(st, 4, bad),
		.key_len = (size_t)sqlite3_column_bytes(st, 4),
		.detail = text(st, 5, bad),
		.forced = sqlite3_column_int(st, 6) != 0,
	};

	if (!e.key_len)
		e.key = NULL;
	return *bad ? 0 : v->event(v->arg, &e);
}

static int see_all(sqlite3_stmt *st, see_fn *see, const struct store_visitor *v, int *stop)
{
	int rc = SQLITE_ROW, bad = SQLITE_OK;

	*stop = 0;
	while (!*stop && !bad && (rc = sqlite3_step(st)) == SQLITE_ROW)
		*stop = see(st, v, &bad);
	sqlite3_reset(st);
	return bad ? bad : *stop || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int sqrows_see_metas(struct sqrows *rows, const struct store_visitor *v, int *stop)
{
	return see_all(rows->st[ST_METAS], see_meta, v, stop);
}

int sqrows_see_clusters(struct sqrows *rows, const struct store_visitor *v, int *stop)
{
	return see_all(rows->st[ST_CLUSTERS], see_cluster, v, stop);
}

int sqrows_see_partitions(struct sqrows *rows, const struct store_visitor *v, int *stop)
{
	return see_all(rows->st[ST_PARTITIONS], see_partition, v, stop);
}

int sqrows_see_events(struct sqrows *rows, const char *key, size_t key_len, unsigned limit,
		      const struct store_visitor *v, int *stop)
{
	sqlite3_stmt *st = rows->st[key ? ST_EVENTS_OF : ST_EVENTS];

	sqlite3_bind_int64(st, 1, limit);
	if (key)
		bind(st, 2, key, key_len);
	return see_all(st, see_event, v, stop);
}
