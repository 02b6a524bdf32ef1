/* SPDX-License-Identifier: MIT
 * LMDB: a B+ tree in a file that processes map, with readers that never wait. Called by peers.c, in its one thread.
 *
 * The file lies in shared memory, filled in key order (MDB_APPEND: full pages) and then opened again to read only, as
 * another process would. Each look-up is in a read transaction of its own, renewed and reset, as LMDB's documentation
 * has it for a reader that must see changes and must not keep old pages from being used again; it must not be held
 * across look-ups, which would be faster and would see no change. */
#include <errno.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "peer.h"

#define KEYS_A_COMMIT 1000000u
#define BYTES_A_KEY 64u /* half of it is needed */
#define BYTES_LEAST (16u << 20)

struct lmdb {
	char dir[96];
	MDB_env *env;
	MDB_dbi dbi;
	MDB_txn *txn; /* reset between look-ups */
};

static void must(int error, const char *what)
{
	if (error)
		fail("LMDB: %s: %s", what, mdb_strerror(error));
}

static void open_environment(struct lmdb *l, uint32_t n, unsigned flags)
{
	must(mdb_env_create(&l->env), "mdb_env_create");
	must(mdb_env_set_mapsize(l->env, (size_t)n * BYTES_A_KEY + BYTES_LEAST), "mdb_env_set_mapsize");
	must(mdb_env_open(l->env, l->dir, flags, 0600), l->dir);
}

static void put_keys(struct lmdb *l, uint32_t from, uint32_t to)
{
	char name[KEY_ROOM];
	MDB_txn *txn;
	MDB_dbi dbi;

	must(mdb_txn_begin(l->env, NULL, 0, &txn), "mdb_txn_begin to write");
	must(mdb_dbi_open(txn, NULL, 0, &dbi), "mdb_dbi_open");
	for (uint32_t i = from; i < to; i++) {
		uint64_t value = value_of_key(i);
		MDB_val key = {.mv_size = KEY_LEN, .mv_data = name}, data = {.mv_size = 8, .mv_data = &value};

		key_name(name, i);
		must(mdb_put(txn, dbi, &key, &data, MDB_APPEND), name);
	}
	must(mdb_txn_commit(txn), "mdb_txn_commit");
}

/* Every page is mapped by this, so that no look-up is the first to touch one. */
static void walk(struct lmdb *l, uint32_t n)
{
	MDB_val key, data;
	MDB_cursor *cursor;
	uint32_t seen = 0;

	must(mdb_cursor_open(l->txn, l->dbi, &cursor), "mdb_cursor_open");
	while (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) == 0)
		seen++;
	mdb_cursor_close(cursor);
	if (seen != n)
		fail("LMDB: %u of %u keys are there", seen, n);
}

static void *lmdb_open(const struct bench *b, uint32_t n)
{
	struct lmdb *l = calloc(1, sizeof(*l));

	if (!l)
		fail("no memory for an LMDB environment");
	if (snprintf(l->dir, sizeof(l->dir), "%s/lmdb-XXXXXX", b->shm) >= (int)sizeof(l->dir) || !mkdtemp(l->dir))
		fail("%s: %s: no scratch directory for LMDB", l->dir, strerror(errno));
	open_environment(l, n, MDB_NOSYNC);
	for (uint32_t at = 0; at < n;) {
		uint32_t to = n - at > KEYS_A_COMMIT ? at + KEYS_A_COMMIT : n;

		put_keys(l, at, to);
		at = to;
	}
	mdb_env_close(l->env);
	open_environment(l, n, MDB_RDONLY);
	must(mdb_txn_begin(l->env, NULL, MDB_RDONLY, &l->txn), "mdb_txn_begin to read");
	must(mdb_dbi_open(l->txn, NULL, 0, &l->dbi), "mdb_dbi_open");
	walk(l, n);
	/* The handle is the environment's once the transaction that opened it has been committed. */
	must(mdb_txn_commit(l->txn), "mdb_txn_commit of a reader");
	must(mdb_txn_begin(l->env, NULL, MDB_RDONLY, &l->txn), "mdb_txn_begin to read");
	mdb_txn_reset(l->txn);
	return l;
}

static uint64_t lmdb_run(void *state, const struct sequence *q, size_t n)
{
	struct lmdb *l = state;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		MDB_val key = {.mv_size = KEY_LEN, .mv_data = q->names[i & (q->n - 1)]}, data;
		uint64_t value;
		int error = mdb_txn_renew(l->txn);

		if (!error)
			error = mdb_get(l->txn, l->dbi, &key, &data);
		if (error || data.mv_size != sizeof(value))
			fail("LMDB: %.15s: %s", (const char *)key.mv_data,
			     error ? mdb_strerror(error) : "a value that is not 8 bytes long");
		memcpy(&value, data.mv_data, sizeof(value)); /* it may lie anywhere in its page */
		mdb_txn_reset(l->txn);
		sum += value;
	}
	return sum;
}

static void lmdb_close(void *state)
{
	struct lmdb *l = state;

	mdb_txn_abort(l->txn);
	mdb_env_close(l->env);
	remove_tree(l->dir);
	free(l);
}

const struct peer peer_lmdb = {
	.name = "LMDB",
	.how = "a file in shared memory, mapped; a read transaction renewed for each look-up",
	.shared = true,
	.most = 10000000,
	.open = lmdb_open,
	.run = lmdb_run,
	.close = lmdb_close,
};
