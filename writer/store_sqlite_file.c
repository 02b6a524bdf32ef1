/* SPDX-License-Identifier: MIT
 * The file of the sqlite store: claim, connection, schema, words for its errors. Called by store_sqlite.c alone, from
 * the control thread. Must not open the database file a second time: closing any descriptor of it drops the locks that
 * sqlite holds in this process (POSIX locks are like that), which is why the claim is a flock kept beside them.
 *
 * Durability: sqlite syncs the log (PATH-wal) before COMMIT returns. When such a sync fails, Linux may keep pages in
 * memory that the disk has not, and calls them clean: a later read shows them, a later sync says nothing. So a log that
 * is found when connecting is written once more and synced before it is believed (durable_log). The database file needs
 * no such thing: sqlite keeps the log until a sync of what it copied from it succeeded, and copies again otherwise. */
#include "store_sqlite_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"

#define APPLICATION_ID 0x62727468 /* "brth" */
#define SCHEMA_VERSION 1
#define WAIT_MS 1000
#define SHOWN_MAX 160u
#define STR_(x) #x
#define STR(x) STR_(x)

/* locking_mode comes first: with it, sqlite takes an exclusive lock at the first access, keeps it, and has the index of
 * its log in its heap instead of in a file that others may map. Checkpoints are store_sqlite.c's. */
static const char connection[] = "PRAGMA locking_mode=EXCLUSIVE;"
				 "PRAGMA cache_size=-32768;" /* KiB */
				 "PRAGMA temp_store=MEMORY;"
				 "PRAGMA trusted_schema=OFF;"
				 "PRAGMA synchronous=FULL;"
				 "PRAGMA journal_size_limit=16777216;"
				 "PRAGMA wal_autocheckpoint=0;";

/* key '' is the default placement. history.id only grows, and rows leave at its low end alone. */
static const char schema[] =
	"BEGIN IMMEDIATE;"
	"CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE clusters(number INTEGER PRIMARY KEY, id TEXT, endpoint TEXT NOT NULL) STRICT;"
	"CREATE TABLE partitions(key TEXT PRIMARY KEY, epoch INTEGER NOT NULL, state TEXT,"
	"	document INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE history(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, epoch INTEGER NOT NULL,"
	"	who TEXT NOT NULL, what TEXT NOT NULL, key TEXT NOT NULL, detail TEXT,"
	"	forced INTEGER NOT NULL) STRICT;"
	"CREATE INDEX history_key ON history(key);"
	"PRAGMA application_id=" STR(APPLICATION_ID) ";"
						     "PRAGMA user_version=" STR(SCHEMA_VERSION) ";"
												"COMMIT;";

/* ---- words ------------------------------------------------------------------------------------------------- */

static const char *advice(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return "free space on its file system, then retry";
	case SQLITE_IOERR:
		return "look at the disk and the kernel's log, then retry";
	case SQLITE_CORRUPT:
		return "stop berthd and restore the file from a backup, or `sqlite3 FILE .recover`";
	case SQLITE_NOTADB:
		return "give the path of a berth database, or of a file that does not exist yet";
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
	case SQLITE_AUTH:
		return "the file and its directory must be writable for berthd's user";
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return "another process has it open: end that one, then retry";
	case SQLITE_NOMEM:
		return "give the machine memory, then retry";
	default:
		return "retry; if it stays, report it with this message";
	}
}

enum refusal_code sqfile_refuse(const struct sqfile *f, sqlite3 *db, int rc, const char *doing, struct refusal *r)
{
	int e = db && (rc & 0xff) != SQLITE_NOMEM ? sqlite3_system_errno(db) : 0;
	bool system =
		e && ((rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_CANTOPEN || (rc & 0xff) == SQLITE_FULL);

	return refuse(r, R_BACKEND, "%s: %s: %s (sqlite %d%s%s): %s", f->shown, doing, sqlite3_errstr(rc), rc,
		      system ? ", " : "", system ? strerror(e) : "", advice(rc));
}

static enum refusal_code refuse_errno(const struct sqfile *f, int e, const char *doing, const char *todo,
				      struct refusal *r)
{
	return refuse(r, R_BACKEND, "%s: %s: %s: %s", f->shown, doing, strerror(e), todo);
}

static enum refusal_code refuse_in_use(const struct sqfile *f, struct refusal *r)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET}; /* whole file: whoever holds sqlite's locks */
	char who[48] = "another process";

	if (!fcntl(f->fd, F_GETLK, &lock) && lock.l_type != F_UNLCK && lock.l_pid > 0)
		snprintf(who, sizeof(who), "process %ld", (long)lock.l_pid);
	return refuse(r, R_BACKEND,
		      "%s: in use by %s: a store serves one berthd; end that one or give this one another path",
		      f->shown, who);
}

/* ---- claim ------------------------------------------------------------------------------------------------- */

static int lock_within(int fd, int wait_ms)
{
	const struct timespec nap = {.tv_nsec = 10 * 1000 * 1000};

	for (;; wait_ms -= 10) {
		if (!flock(fd, LOCK_EX | LOCK_NB))
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return errno;
		if (wait_ms <= 0)
			return EWOULDBLOCK;
		nanosleep(&nap, NULL);
	}
}

static enum refusal_code check_inode(const struct sqfile *f, struct refusal *r)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return refuse_errno(f, errno, "fstat", "retry", r);
	if (!S_ISREG(st.st_mode))
		return refuse(r, R_INVALID, "%s: not a regular file: give the path of a file of berthd's own",
			      f->shown);
	if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
		return refuse(
			r, R_BACKEND,
			"%s: uid %u, mode %04o: others could change placements through it: chown it to berthd's user, "
			"chmod 600",
			f->shown, (unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
	return R_DONE;
}

static enum refusal_code refuse_open(const struct sqfile *f, int e, struct refusal *r)
{
	switch (e) {
	case EISDIR:
		return refuse(r, R_INVALID, "%s: is a directory: give the path of a file in it", f->shown);
	case ENOENT:
		return refuse_errno(f, e, "open", "make its directory first", r);
	case ENOTDIR:
		return refuse_errno(f, e, "open", "a part of the path is a file", r);
	case EACCES:
	case EPERM:
	case EROFS:
		return refuse_errno(f, e, "open", "the file and its directory must be writable for berthd's user", r);
	default:
		return refuse_errno(f, e, "open", "give a path that can be opened for writing", r);
	}
}

enum refusal_code sqfile_claim(const char *path, struct sqfile *f, struct refusal *r)
{
	size_t len = path ? strlen(path) : 0;
	enum refusal_code code;
	int e;

	*f = (struct sqfile){.fd = -1, .shown = len > SHOWN_MAX ? path + len - SHOWN_MAX : path};
	if (!len)
		return refuse(r, R_INVALID, "store \"sqlite:\": needs a path, such as sqlite:/var/lib/berth/berth.db");
	f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (f->fd < 0)
		return refuse_open(f, errno, r);
	CRASH_POINT(store_made);
	code = check_inode(f, r);
	if (code)
		goto out;
	e = lock_within(f->fd, WAIT_MS);
	if (e) {
		code = e == EWOULDBLOCK ? refuse_in_use(f, r)
					: refuse_errno(f, e, "flock", "use a file system that has locks", r);
		goto out;
	}
	f->path = realpath(path, NULL); /* absolute: sqlite takes no path that starts with / for a URI */
	if (!f->path) {
		code = refuse_errno(f, errno, "realpath", "give a path that stays where it is", r);
		goto out;
	}
	len = strlen(f->path);
	f->shown = len > SHOWN_MAX ? f->path + len - SHOWN_MAX : f->path;
	return R_DONE;
out:
	sqfile_release(f);
	return code;
}

enum refusal_code sqfile_in_place(const struct sqfile *f, struct refusal *r)
{
	struct stat named, held;

	if (stat(f->path, &named) || fstat(f->fd, &held))
		return refuse_errno(f, errno, "stat", "put the file back where it was, or restart berthd", r);
	if (named.st_ino != held.st_ino || named.st_dev != held.st_dev)
		return refuse(r, R_BACKEND, "%s: not the file that was opened: put that one back, or restart berthd",
			      f->shown);
	return R_DONE;
}

void sqfile_release(struct sqfile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	*f = (struct sqfile){.fd = -1};
}

/* ---- connection -------------------------------------------------------------------------------------------- */

static int rewrite(int fd, char *buffer, size_t size)
{
	off_t at = 0;

	for (;;) {
		ssize_t n = pread(fd, buffer, size, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		if (n == 0)
			return fsync(fd) ? errno : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = pwrite(fd, buffer + done, (size_t)(n - done), at + done);

			if (w < 0 && errno != EINTR)
				return errno;
			done += w > 0 ? w : 0;
			CRASH_POINT(log_rewritten);
		}
		at += n;
	}
}

static enum refusal_code durable_log(const struct sqfile *f, struct refusal *r)
{
	static const size_t size = 1u << 20;
	char *name = sqlite3_mprintf("%s-wal", f->path), *buffer = malloc(size);
	enum refusal_code code = R_DONE;
	int fd = -1, e = 0;

	if (!name || !buffer) {
		code = sqfile_refuse(f, NULL, SQLITE_NOMEM, "read its log", r);
		goto out;
	}
	fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT)
		goto out;
	e = fd < 0 ? errno : rewrite(fd, buffer, size);
	if (e)
		code = refuse_errno(f, e, "make its log (-wal) durable", advice(SQLITE_IOERR), r);
out:
	if (fd >= 0)
		close(fd);
	free(buffer);
	sqlite3_free(name);
	return code;
}

static int number(sqlite3 *db, const char *sql, int *value)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

	if (rc)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*value = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
}

/* What is in there, before anything is changed: *fresh, ours, or not ours. */
static int inspect(const struct sqfile *f, sqlite3 *db, bool *fresh, enum refusal_code *code, struct refusal *r)
{
	int application = 0, version = 0, tables = 0, rc;

	rc = sqlite3_exec(db, connection, NULL, NULL, NULL);
	if (!rc)
		rc = number(db, "PRAGMA application_id", &application);
	if (!rc)
		rc = number(db, "PRAGMA user_version", &version);
	if (!rc)
		rc = number(db, "SELECT count(*) FROM sqlite_schema", &tables);
	if (rc)
		return rc;
	*fresh = !application && !version && !tables;
	if (!*fresh && application != APPLICATION_ID)
		*code = refuse(r, R_INVALID,
			       "%s: a database of another application (application_id 0x%08x, %d tables and indexes): "
			       "give berthd a path of its own",
			       f->shown, (unsigned)application, tables);
	else if (!*fresh && version != SCHEMA_VERSION)
		*code = refuse(r, R_INVALID,
			       "%s: schema %d, this berthd knows %d: use the berthd that wrote it, or a newer one",
			       f->shown, version, SCHEMA_VERSION);
	return SQLITE_OK;
}

static int use_log(sqlite3 *db)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db, "PRAGMA journal_mode=WAL", -1, &st, NULL);

	if (rc)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) /* the mode that it has now: a refusal is no error */
		rc = strcmp((const char *)sqlite3_column_text(st, 0), "wal") ? SQLITE_CANTOPEN : SQLITE_OK;
	sqlite3_finalize(st);
	return rc;
}

enum refusal_code sqfile_connect(const struct sqfile *f, sqlite3 **out, struct refusal *r)
{
	enum refusal_code code;
	sqlite3 *db = NULL;
	bool fresh = false;
	int rc;

	*out = NULL;
	code = sqfile_in_place(f, r);
	if (code)
		return code;
	code = durable_log(f, r);
	if (code)
		return code;
	rc = sqlite3_open_v2(f->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
			     NULL);
	if (rc)
		goto failed;
	sqlite3_extended_result_codes(db, 1);
	sqlite3_busy_timeout(db, WAIT_MS);
	rc = inspect(f, db, &fresh, &code, r);
	if (!rc && !code)
		rc = use_log(db);
	CRASH_POINT(log_in_use);
	if (!rc && !code && fresh)
		rc = sqlite3_exec(db, schema, NULL, NULL, NULL);
	CRASH_POINT(schema_made);
	if (!rc && !code) {
		*out = db;
		return R_DONE;
	}
failed:
	if (!code && (rc & 0xff) == SQLITE_BUSY)
		code = refuse_in_use(f, r);
	else if (!code)
		code = sqfile_refuse(f, db, rc, "open", r);
	if ((rc & 0xff) == SQLITE_NOTADB)
		code = r->code = R_INVALID;
	sqfile_disconnect(&db, true);
	return code;
}

void sqfile_disconnect(sqlite3 **db, bool keep_log)
{
	if (*db && keep_log)
		sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_close(*db);
	*db = NULL;
}
