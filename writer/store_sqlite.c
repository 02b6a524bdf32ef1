/* SPDX-License-Identifier: MIT
 * `sqlite:PATH`, the default store: one SQLite database in WAL mode with synchronous=FULL, claimed by one process.
 * Called by the control thread alone, through store_sqlite. Its file is store_sqlite_file.c's business, its rows are
 * store_sqlite_rows.c's; here are the transaction and what becomes of it.
 *
 *              +--put_* failed--> BROKEN --rollback, or commit (STORE_FAILED)--+
 *              |                                                               v
 *   IDLE --begin--> OPEN --commit (STORE_OK, STORE_FAILED), rollback--------> IDLE
 *                    +--commit (STORE_UNKNOWN)--> UNKNOWN --settle----------> IDLE
 *
 * Each transaction leaves a name of its own in meta: after a commit of unknown fate the connection is closed, opened
 * again, and that name says whether the transaction is in. If it is not, another name is committed before the answer,
 * so that what the lost transaction left behind in the log can never be read again.
 *
 * History: the newest HISTORY_KEEP events; older ones go a slice at a time when the writer is idle. */
#include "../shm/crash_point.h"
#include "store.h"
#include "store_sqlite_file.h"
#include "store_sqlite_rows.h"

#include <stdio.h>
#include <stdlib.h>

#define HISTORY_KEEP 1000000
#define HISTORY_SLICE 500
#define LOG_IDLE_PAGES 1024   /* idle writes the log back from here on (pages of 4 KiB) */
#define LOG_SHRINK_PAGES 4096 /* and gives its space back from here on */
#define LOG_BUSY_PAGES 65536  /* begin does it, if there was no idle moment for so long */
#define CACHE_IDLE (8 << 20)  /* a page cache above this is given back when idle; bytes */

struct store {
	struct sqfile file;
	sqlite3 *db; /* NULL: closed after a failure, to be opened again */
	struct sqrows rows;
	enum { IDLE, OPEN, BROKEN, UNKNOWN } phase;
	bool committed;  /* the last transaction is in: what settle answers when nothing is unknown */
	bool suspect;    /* the disk failed us outside a commit: connect anew before the next transaction */
	uint64_t origin; /* random: names of two openings never meet */
	uint64_t n_commits;
	char name[48]; /* of the last transaction */
	int log_pages;
};

/* ---- connection -------------------------------------------------------------------------------------------- */

static void disconnect(struct store *s, bool keep_log)
{
	sqrows_finalize(&s->rows);
	sqfile_disconnect(&s->db, keep_log);
	s->log_pages = 0;
}

static int log_grew(void *arg, sqlite3 *db, const char *name, int pages)
{
	struct store *s = arg;

	(void)db;
	(void)name;
	s->log_pages = pages;
	return SQLITE_OK;
}

static enum refusal_code connect_anew(struct store *s, struct refusal *r)
{
	enum refusal_code code;
	int rc;

	disconnect(s, true);
	code = sqfile_connect(&s->file, &s->db, r);
	if (code)
		return code;
	rc = sqrows_prepare(&s->rows, s->db);
	if (rc) {
		code = sqfile_refuse(&s->file, s->db, rc, "prepare", r);
		disconnect(s, true);
		return code;
	}
	sqlite3_wal_hook(s->db, log_grew, s);
	s->log_pages = LOG_SHRINK_PAGES; /* whatever was found: the first idle moment writes it back */
	s->suspect = false;
	return R_DONE;
}

static enum refusal_code sqlite_open(const char *path, struct store **out, struct refusal *r)
{
	struct store *s = calloc(1, sizeof(*s));
	enum refusal_code code;

	*out = NULL;
	if (!s)
		return refuse(r, R_BACKEND, "sqlite: out of memory");
	code = sqfile_claim(path, &s->file, r);
	if (code)
		goto no_claim;
	code = connect_anew(s, r);
	if (code)
		goto no_connection;
	sqlite3_randomness(sizeof(s->origin), &s->origin);
	*out = s;
	return R_DONE;
no_connection:
	sqfile_release(&s->file);
no_claim:
	free(s);
	return code;
}

static void sqlite_close(struct store **sp)
{
	struct store *s = *sp;

	if (!s)
		return;
	disconnect(s, s->phase == UNKNOWN || s->suspect);
	sqfile_release(&s->file);
	free(s);
	*sp = NULL;
}

/* True for the errors after which the end of the transaction cannot be in the log: sqlite gave up before it wrote, or
 * (FULL) the log's last write, which is the one that commits, was cut short. A failed write or sync may have left it
 * there whole; so may a lack of memory, which sqlite can meet after the sync. */
static bool surely_out(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_CONSTRAINT:
	case SQLITE_READONLY:
		return true;
	default:
		return false;
	}
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

static int readable(struct store *s, struct refusal *r)
{
	if (s->phase == UNKNOWN)
		refuse(r, R_BACKEND, "%s: the last commit's fate is not known yet: retry", s->file.shown);
	else if (s->db || !connect_anew(s, r))
		return 0;
	return -1;
}

static int seen(struct store *s, int rc, int stop, struct refusal *r)
{
	if (!rc)
		return stop;
	sqfile_refuse(&s->file, s->db, rc, "read", r);
	return -1;
}

static int sqlite_count(struct store *s, uint64_t *n, struct refusal *r)
{
	return readable(s, r) ? -1 : seen(s, sqrows_count(&s->rows, n), 0, r);
}

static int sqlite_load(struct store *s, const struct store_visitor *v, struct refusal *r)
{
	int rc = SQLITE_OK, stop = 0;

	if (readable(s, r))
		return -1;
	if (v->meta)
		rc = sqrows_see_metas(&s->rows, v, &stop);
	if (!rc && !stop && v->cluster)
		rc = sqrows_see_clusters(&s->rows, v, &stop);
	if (!rc && !stop && v->partition)
		rc = sqrows_see_partitions(&s->rows, v, &stop);
	return seen(s, rc, stop, r);
}

static int sqlite_history(struct store *s, const char *key, size_t key_len, unsigned limit,
			  const struct store_visitor *v, struct refusal *r)
{
	int rc, stop = 0;

	if (readable(s, r))
		return -1;
	if (!v->event)
		return 0;
	rc = sqrows_see_events(&s->rows, key, key_len, limit, v, &stop);
	return seen(s, rc, stop, r);
}

/* ---- changing ---------------------------------------------------------------------------------------------- */

static void checkpoint(struct store *s)
{
	int mode = s->log_pages >= LOG_SHRINK_PAGES ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;

	/* A failure costs space alone: the log stays, and the next checkpoint copies from its start. */
	if (!sqlite3_wal_checkpoint_v2(s->db, NULL, mode, NULL, NULL))
		s->log_pages = 0;
	CRASH_POINT(log_written_back);
}

static enum store_result sqlite_begin(struct store *s, struct refusal *r)
{
	int rc;

	if (s->phase != IDLE) {
		refuse(r, R_BACKEND, "%s: %s: retry", s->file.shown,
		       s->phase == UNKNOWN ? "the last commit's fate is not known yet" : "a change is under way");
		return STORE_FAILED;
	}
	if ((!s->db || s->suspect) && connect_anew(s, r))
		return STORE_FAILED;
	if (sqfile_in_place(&s->file, r))
		return STORE_FAILED;
	if (s->log_pages >= LOG_BUSY_PAGES)
		checkpoint(s);
	rc = sqrows_run(&s->rows, ST_BEGIN);
	if (rc) {
		sqfile_refuse(&s->file, s->db, rc, "begin", r);
		return STORE_FAILED;
	}
	s->phase = OPEN;
	return STORE_OK;
}

/* After an error sqlite may have rolled the transaction back by itself: what followed would commit one by one. */
static bool changing(struct store *s, struct refusal *r)
{
	if (s->phase == OPEN)
		return true;
	refuse(r, R_BACKEND, "%s: no change is under way, or a part of it failed: roll it back and retry",
	       s->file.shown);
	return false;
}

static enum store_result put(struct store *s, int rc, struct refusal *r)
{
	if (!rc)
		return STORE_OK;
	s->phase = BROKEN;
	s->suspect |= !surely_out(rc);
	sqfile_refuse(&s->file, s->db, rc, "write", r);
	return STORE_FAILED;
}

static enum store_result sqlite_put_meta(struct store *s, const char *name, const char *value, struct refusal *r)
{
	return changing(s, r) ? put(s, sqrows_put_meta(&s->rows, name, value), r) : STORE_FAILED;
}

static enum store_result sqlite_put_cluster(struct store *s, const struct store_cluster *c, struct refusal *r)
{
	return changing(s, r) ? put(s, sqrows_put_cluster(&s->rows, c), r) : STORE_FAILED;
}

static enum store_result sqlite_put_partition(struct store *s, const struct store_partition *p, struct refusal *r)
{
	return changing(s, r) ? put(s, sqrows_put_partition(&s->rows, p), r) : STORE_FAILED;
}

static enum store_result sqlite_put_event(struct store *s, const struct store_event *e, struct refusal *r)
{
	return changing(s, r) ? put(s, sqrows_put_event(&s->rows, e), r) : STORE_FAILED;
}

static void sqlite_rollback(struct store *s)
{
	if (s->phase == UNKNOWN)
		return;
	if (s->db && !sqlite3_get_autocommit(s->db) && sqrows_run(&s->rows, ST_ROLLBACK))
		disconnect(s, true); /* ends it without the disk: what was not committed is not read again */
	s->phase = IDLE;
	s->committed = false;
}

static enum store_result sqlite_commit(struct store *s, struct refusal *r)
{
	int rc;

	snprintf(s->name, sizeof(s->name), "%016llx-%llu", (unsigned long long)s->origin,
		 (unsigned long long)++s->n_commits);
	if (sqlite_put_meta(s, SQROWS_COMMIT, s->name, r))
		goto failed;
	CRASH_POINT(transaction_written);
	rc = sqrows_run(&s->rows, ST_COMMIT);
	if (!rc) {
		CRASH_POINT(transaction_committed);
		s->phase = IDLE;
		s->committed = true;
		return STORE_OK;
	}
	sqfile_refuse(&s->file, s->db, rc, "commit", r);
	if (surely_out(rc))
		goto failed;
	s->phase = UNKNOWN;
	return STORE_UNKNOWN;
failed:
	sqlite_rollback(s);
	return STORE_FAILED;
}

static int commit_over(struct store *s)
{
	char other[sizeof(s->name) + 8];
	int rc = sqrows_run(&s->rows, ST_BEGIN);

	snprintf(other, sizeof(other), "%s-undone", s->name);
	if (!rc)
		rc = sqrows_put_meta(&s->rows, SQROWS_COMMIT, other);
	if (!rc)
		rc = sqrows_run(&s->rows, ST_COMMIT);
	return rc;
}

static enum store_result sqlite_settle(struct store *s, bool *committed, struct refusal *r)
{
	bool in;
	int rc;

	if (s->phase != UNKNOWN) {
		*committed = s->committed;
		return STORE_OK;
	}
	if (connect_anew(s, r))
		return STORE_UNKNOWN;
	rc = sqrows_last_is(&s->rows, s->name, &in);
	if (!rc && !in)
		rc = commit_over(s);
	if (rc) {
		sqfile_refuse(&s->file, s->db, rc, "read back the last commit", r);
		disconnect(s, true);
		return STORE_UNKNOWN;
	}
	s->phase = IDLE;
	s->committed = *committed = in;
	return STORE_OK;
}

/* ---- idle -------------------------------------------------------------------------------------------------- */

static bool sqlite_idle(struct store *s)
{
	int rc, now = 0, high = 0;
	bool gone;

	if (s->phase != IDLE || !s->db || s->suspect)
		return false;
	/* commits by itself; nobody asks whether it is in */
	rc = sqrows_trim(&s->rows, HISTORY_KEEP, HISTORY_SLICE, &gone);
	CRASH_POINT(history_trimmed);
	if (rc && !surely_out(rc)) {
		s->suspect = true;
		return false;
	}
	if (s->log_pages >= LOG_IDLE_PAGES)
		checkpoint(s);
	if (!sqlite3_db_status(s->db, SQLITE_DBSTATUS_CACHE_USED, &now, &high, 0) && now > CACHE_IDLE)
		sqlite3_db_release_memory(s->db);
	return gone;
}

const struct store_ops store_sqlite = {
	.scheme = "sqlite",
	.durable = true,
	.open = sqlite_open,
	.close = sqlite_close,
	.count = sqlite_count,
	.load = sqlite_load,
	.history = sqlite_history,
	.begin = sqlite_begin,
	.put_meta = sqlite_put_meta,
	.put_cluster = sqlite_put_cluster,
	.put_partition = sqlite_put_partition,
	.put_event = sqlite_put_event,
	.commit = sqlite_commit,
	.rollback = sqlite_rollback,
	.settle = sqlite_settle,
	.idle = sqlite_idle,
};
