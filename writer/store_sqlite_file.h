/* SPDX-License-Identifier: MIT
 * The file under store_sqlite.c: claimed by one process, opened as one connection, its errors put into words.
 * Control thread only. */
#ifndef BERTH_WRITER_STORE_SQLITE_FILE_H
#define BERTH_WRITER_STORE_SQLITE_FILE_H

#include "refusals.h"
#include <sqlite3.h>

struct sqfile {
	char *path;        /* absolute, owned */
	const char *shown; /* its end, short enough for a message */
	int fd;            /* holds the claim; sqlite has descriptors of its own */
};

/* Finds or makes the file (mode 0600) and claims it, waiting 1 s at most for one that is about to end. R_DONE, or
 * R_INVALID (a path that can never work) or R_BACKEND with *r filled and nothing held. */
enum refusal_code sqfile_claim(const char *path, struct sqfile *, struct refusal *r);
/* R_BACKEND when the path no longer leads to the claimed file: what is committed to that one would be lost. */
enum refusal_code sqfile_in_place(const struct sqfile *, struct refusal *r);
/* Only after the connection was closed: closing a descriptor of the file drops sqlite's own locks. */
void sqfile_release(struct sqfile *);

/* A connection to the claimed file, its schema made or checked, its log made durable as it reads now. R_DONE, or
 * R_INVALID (not ours, nothing was changed) or R_BACKEND with *r filled and *db NULL. May wait 1 s for a lock. */
enum refusal_code sqfile_connect(const struct sqfile *, sqlite3 **db, struct refusal *r);
/* keep_log: leaves the write-ahead log as it is, for the next connection to read; false: writes it back. */
void sqfile_disconnect(sqlite3 **db, bool keep_log);

/* R_BACKEND: "path: doing: sqlite's words (errno's words): what to do". db may be NULL. */
enum refusal_code sqfile_refuse(const struct sqfile *, sqlite3 *db, int rc, const char *doing, struct refusal *r);

#endif
