/* SPDX-License-Identifier: MIT
 * The statements of the sqlite store: structs of store.h into rows, rows into its visitors. Knows neither transactions
 * nor refusals: answers are sqlite's codes. Control thread only. */
#ifndef BERTH_WRITER_STORE_SQLITE_ROWS_H
#define BERTH_WRITER_STORE_SQLITE_ROWS_H

#include "store.h"
#include <sqlite3.h>

#define SQROWS_COMMIT "commit" /* the meta row that names the last transaction; no visitor sees it */

/* X(enum, SQL); columns and parameters are numbered in store_sqlite_rows.c */
#define SQROWS(X) \
	X(ST_BEGIN, "BEGIN IMMEDIATE") \
	X(ST_COMMIT, "COMMIT") \
	X(ST_ROLLBACK, "ROLLBACK") \
	X(ST_META, "INSERT OR REPLACE INTO meta VALUES(?,?)") \
	X(ST_CLUSTER, "INSERT OR REPLACE INTO clusters VALUES(?,?,?)") \
	X(ST_PARTITION, "INSERT OR REPLACE INTO partitions VALUES(?,?,?,?)") \
	X(ST_FORGET, "DELETE FROM partitions WHERE key=?") \
	X(ST_EVENT, "INSERT INTO history(at_ms,epoch,who,what,key,detail,forced) VALUES(?,?,?,?,?,?,?)") \
	X(ST_TRIM, "DELETE FROM history WHERE id < (SELECT min(id) FROM history) + ?2 " \
		   "AND id <= (SELECT max(id) FROM history) - ?1") \
	X(ST_COUNT, "SELECT count(*) FROM partitions") \
	X(ST_METAS, "SELECT name,value FROM meta WHERE name<>'" SQROWS_COMMIT "'") \
	X(ST_LAST, "SELECT value FROM meta WHERE name='" SQROWS_COMMIT "'") \
	X(ST_CLUSTERS, "SELECT number,id,endpoint FROM clusters ORDER BY number") \
	X(ST_PARTITIONS, "SELECT key,epoch,state,document FROM partitions ORDER BY key") \
	X(ST_EVENTS, "SELECT at_ms,epoch,who,what,key,detail,forced FROM history ORDER BY id DESC LIMIT ?") \
	X(ST_EVENTS_OF, \
	  "SELECT at_ms,epoch,who,what,key,detail,forced FROM history WHERE key=?2 ORDER BY id DESC LIMIT ?1")
enum sqrows_statement {
#define SQROWS_ENUM(e, sql) e,
	SQROWS(SQROWS_ENUM)
#undef SQROWS_ENUM
		ST_N
};
struct sqrows {
	sqlite3_stmt *st[ST_N];
};

int sqrows_prepare(struct sqrows *, sqlite3 *); /* SQLITE_OK; else finalize what there is */
void sqrows_finalize(struct sqrows *);

/* A statement without parameters or rows. SQLITE_OK or an extended code; so do all that follow. */
int sqrows_run(struct sqrows *, enum sqrows_statement);
int sqrows_put_meta(struct sqrows *, const char *name, const char *value);
int sqrows_put_cluster(struct sqrows *, const struct store_cluster *);
int sqrows_put_partition(struct sqrows *, const struct store_partition *);
int sqrows_put_event(struct sqrows *, const struct store_event *);
/* At most `slice` events of those that are not among the newest `keep`. *gone: there were some. */
int sqrows_trim(struct sqrows *, int64_t keep, int64_t slice, bool *gone);

int sqrows_count(struct sqrows *, uint64_t *n);
/* Whether the last transaction in the database is the one of this name. */
int sqrows_last_is(struct sqrows *, const char *name, bool *is);
/* *stop: what a callback returned, 0 if each was content. */
int sqrows_see_metas(struct sqrows *, const struct store_visitor *, int *stop);
int sqrows_see_clusters(struct sqrows *, const struct store_visitor *, int *stop);
int sqrows_see_partitions(struct sqrows *, const struct store_visitor *, int *stop);
int sqrows_see_events(struct sqrows *, const char *key, size_t key_len, unsigned limit, const struct store_visitor *,
		      int *stop);

#endif
