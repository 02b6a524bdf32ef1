/* SPDX-License-Identifier: MIT
 * libFuzzer target for what a store hands back: the texts of placements, rows of any types in a database of SQLite, and
 * its file's bytes. Whatever they are, the start is refused or the table holds what the rows say, and nothing else: each
 * state can be written as JSON again, a text that was seen before (the memo of core_rows.c) means what it means alone, and
 * a store that was taken once is taken again. One thread.
 *
 * First byte of the input, by its remainder of 4, what follows it:
 *   0 1  texts of states, a line each    2  rows    3  overwrites of a file that was good */
#include <fcntl.h>
#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* The memo is static there: here is another copy of that file. */
#define core_load_rows fuzz_load_rows
#include "../writer/core_rows.c"
#undef core_load_rows

#include "../writer/log.h"
#include "fuzz.h"

static char dir[64], path[80], instance_path[80];

/* ---- texts -------------------------------------------------------------------------------------------------------- */

static unsigned number_of(void *arg, const char *id, size_t len)
{
	(void)arg;
	return len == 2 && id[0] == 'c' && id[1] >= '1' && id[1] <= '3' ? (unsigned)(id[1] - '0') : 0;
}

static const char *id_of(void *arg, unsigned number)
{
	static const char *const ids[] = {NULL, "c1", "c2", "c3"};

	(void)arg;
	return number < 4 ? ids[number] : NULL;
}

static bool same(const struct state *a, const struct state *b)
{
	return a->phase == b->phase && !a->at == !b->at && !a->to == !b->to && (!a->at || detail_equal(a->at, b->at)) &&
	       (!a->to || detail_equal(a->to, b->to));
}

static void one_text(struct loading *l, struct loading *alone, const char *text)
{
	struct state state = {0}, again = {0}, by_text = {0};
	enum refusal_code code = state_of(l, text, &state), direct = parse_state(alone, text, &again);
	json_t *json;
	char *written;

	HOLDS((code == R_DONE) == (direct == R_DONE));
	if (code != R_DONE)
		return;
	HOLDS(same(&state, &again));
	HOLDS(detail_bounds(state.at, SHM_RECORD_MAX) && state.at->check == detail_checksum(state.at));
	HOLDS(!state.to || (detail_bounds(state.to, SHM_RECORD_MAX) && state.to->check == detail_checksum(state.to)));
	HOLDS((state.phase != PHASE_SETTLED) == (state.to != NULL));
	/* what it is written as says the same */
	json = state_to_json(&state, &l->names);
	HOLDS(json && (written = json_dumps(json, JSON_COMPACT)));
	json_decref(json);
	HOLDS(parse_state(alone, written, &by_text) == R_DONE);
	free(written);
	HOLDS(same(&state, &by_text));
}

static void texts(struct fuzz_input *in)
{
	struct loading *l = calloc(1, sizeof(*l)), *alone = calloc(1, sizeof(*alone));
	union detail_buffer buffers[4];
	struct refusal r[2] = {0};
	size_t len;

	HOLDS(l && alone);
	l->names = alone->names = (struct cluster_names){.number = number_of, .id = id_of};
	l->at = &buffers[0];
	l->to = &buffers[1];
	alone->at = &buffers[2];
	alone->to = &buffers[3];
	l->r = &r[0];
	alone->r = &r[1];
	while (in->left) {
		const unsigned char *end = memchr(in->at, '\n', in->left);
		const unsigned char *line = fuzz_take(in, end ? (size_t)(end - in->at) : in->left, &len);
		char *text = malloc(len + 1);

		HOLDS(text);
		memcpy(text, line, len);
		text[len] = '\0';
		one_text(l, alone, text);
		free(text);
		fuzz_u8(in);
	}
	for (unsigned i = 0; i < MEMO_ROWS; i++)
		memo_forget(&l->memo[i]);
	free(l);
	free(alone);
}

/* ---- a start over a database -------------------------------------------------------------------------------------- */

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(name);
}

static void end(void)
{
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	fuzz_no_leak();
}

static int judge_entry(void *arg, const char *key, size_t len, const struct state *state, uint64_t document)
{
	struct cluster_names names = table_names(arg);
	struct refusal r;
	json_t *json = state_to_json(state, &names);

	(void)document;
	HOLDS(json && check_partition(key, len, "", &r) == R_DONE && state->epoch <= SHM_EPOCH_MAX);
	HOLDS(!state->at || state->epoch);
	json_decref(json);
	return 0;
}

static int judge_event(void *arg, const struct store_event *e)
{
	HOLDS(e->who && e->what && (e->key_len == 0 || e->key));
	*(size_t *)arg += strlen(e->who) + strlen(e->what) + (e->detail ? strlen(e->detail) : 0) + e->key_len;
	return 0;
}

static bool start(void)
{
	const struct core_options options = {.store_url = path, .barrier_ms = 20, .new_directory = true};
	struct instance instance;
	struct core_result result;
	struct refusal r = {0};
	struct core *core = NULL;
	size_t seen = 0;
	const struct store_visitor visitor = {.event = judge_event, .arg = &seen};
	bool taken;

	HOLDS(instance_open(instance_path, NULL, false, &instance, &r) == R_DONE);
	instance.small_pages = true;
	taken = core_open(&instance, &options, &core, &r) == R_DONE;
	HOLDS(taken == (core != NULL));
	HOLDS(taken || (r.code != R_DONE && r.message[0]));
	if (taken) {
		table_walk(core_table(core), judge_entry, core_table(core));
		core_history(core, NULL, 0, 100, &visitor, &r);
		core_history(core, "p", 1, 100, &visitor, &r);
		core_step(core, 1000);
		core_cluster_set(core, "c9", 2, "http://a", 8, "fuzz", &result, &r);
		core_apply(core, OP_REMOVE, "p", 1, NULL, true, "fuzz", &result, &r);
		core_step(core, 1000);
		core_close(&core);
	}
	instance_close(&instance);
	return taken;
}

static void remove_database(void)
{
	static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
	char name[100];

	for (unsigned i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%s%s", path + 7, ends[i]);
		unlink(name);
	}
}

/* sound: SQLite finds no fault in the file. Else what the first start has written may bring one to light that it did not
 * meet itself; the second one then says so. */
static void judge_database(bool sound)
{
	if (start()) {
		bool again = start();

		HOLDS(again || !sound); /* what it took, it takes again */
	}
	nftw(instance_path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	remove_database();
}

/* ---- rows --------------------------------------------------------------------------------------------------------- */

/* The store's tables, without its rules of types. */
static const char lax[] = "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; BEGIN;"
			  "CREATE TABLE meta(name, value);"
			  "CREATE TABLE clusters(number, id, endpoint);"
			  "CREATE TABLE partitions(key, epoch, state, document);"
			  "CREATE TABLE history(id INTEGER PRIMARY KEY, at_ms, epoch, who, what, key, detail, forced);"
			  "CREATE INDEX history_key ON history(key);"
			  "PRAGMA application_id=0x62727468; PRAGMA user_version=1;";

static void bind_any(sqlite3_stmt *st, int i, struct fuzz_input *in)
{
	unsigned kind = fuzz_u8(in);
	size_t len = kind >= 8 ? kind - 8 : 0, n;
	const unsigned char *bytes;

	switch (kind) {
	case 0:
		sqlite3_bind_null(st, i);
		break;
	case 1:
		sqlite3_bind_int64(st, i, (sqlite3_int64)fuzz_bytes(in, 8));
		break;
	case 2:
		sqlite3_bind_int64(st, i, fuzz_u8(in));
		break;
	case 3:
		sqlite3_bind_double(st, i, (double)(int64_t)fuzz_bytes(in, 8) / 3);
		break;
	case 4:
		bytes = fuzz_take(in, fuzz_u8(in), &n);
		sqlite3_bind_blob(st, i, bytes, (int)n, SQLITE_TRANSIENT);
		break;
	case 5:
		len = fuzz_bytes(in, 2);
		/* fall through */
	default:
		bytes = fuzz_take(in, len, &n);
		sqlite3_bind_text(st, i, (const char *)bytes, (int)n, SQLITE_TRANSIENT);
	}
}

static void rows(struct fuzz_input *in)
{
	static const char *const inserts[] = {"INSERT INTO meta VALUES(?,?)", "INSERT INTO clusters VALUES(?,?,?)",
					      "INSERT INTO partitions VALUES(?,?,?,?)",
					      "INSERT INTO history VALUES(NULL,?,?,?,?,?,?,?)"};
	static const int columns[] = {2, 3, 4, 7};
	sqlite3_stmt *st[4];
	sqlite3 *db;

	remove_database();
	HOLDS(sqlite3_open(path + 7, &db) == SQLITE_OK && sqlite3_exec(db, lax, NULL, NULL, NULL) == SQLITE_OK);
	for (unsigned i = 0; i < 4; i++)
		HOLDS(sqlite3_prepare_v2(db, inserts[i], -1, &st[i], NULL) == SQLITE_OK);
	for (unsigned n = 0; in->left && n < 60; n++) {
		unsigned table = fuzz_u8(in) % 4;

		for (int i = 1; i <= columns[table]; i++)
			bind_any(st[table], i, in);
		sqlite3_step(st[table]);
		sqlite3_reset(st[table]);
	}
	for (unsigned i = 0; i < 4; i++)
		sqlite3_finalize(st[i]);
	HOLDS(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK && sqlite3_close(db) == SQLITE_OK);
	chmod(path + 7, 0600);
	judge_database(true);
}

/* ---- bytes -------------------------------------------------------------------------------------------------------- */

static unsigned char *good;
static size_t good_len;

static void make_good(void)
{
	static const char *const set = "{\"mode\":\"shared-index\",\"cluster\":\"c1\",\"index\":\"i\"}";
	const struct core_options options = {.store_url = path, .barrier_ms = 20, .new_directory = true};
	struct instance instance;
	struct core_result result;
	struct refusal r = {0};
	struct core *core = NULL;
	json_t *placement = json_loads(set, 0, NULL), *to = json_loads("{\"cluster\":\"c2\"}", 0, NULL);
	struct stat st;
	int fd;

	HOLDS(instance_open(instance_path, NULL, false, &instance, &r) == R_DONE);
	HOLDS(core_open(&instance, &options, &core, &r) == R_DONE);
	core_cluster_set(core, "c1", 2, "http://a", 8, "fuzz", &result, &r);
	core_cluster_set(core, "c2", 2, "", 0, "fuzz", &result, &r);
	for (unsigned i = 0; i < 8; i++) {
		char key = (char)('m' + i);

		core_apply(core, OP_SET, &key, 1, placement, false, "fuzz", &result, &r);
		if (i % 3 == 0)
			core_apply(core, OP_BEGIN, &key, 1, to, false, "fuzz", &result, &r);
		if (i % 6 == 0)
			core_apply(core, OP_CUTOVER, &key, 1, NULL, false, "fuzz", &result, &r);
	}
	json_decref(placement);
	json_decref(to);
	core_close(&core);
	instance_close(&instance);
	nftw(instance_path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	fd = open(path + 7, O_RDONLY);
	HOLDS(fd >= 0 && fstat(fd, &st) == 0);
	good_len = (size_t)st.st_size;
	HOLDS((good = malloc(good_len)) && read(fd, good, good_len) == st.st_size);
	close(fd);
	remove_database();
}

static void overwrites(struct fuzz_input *in)
{
	unsigned char *bytes;
	size_t len = good_len;
	int fd;

	if (!good)
		make_good();
	bytes = (unsigned char *)fuzz_copy(good, good_len);
	if (fuzz_u8(in) & 1)
		len = fuzz_bytes(in, 2) % good_len;
	while (in->left > 3) {
		size_t at = fuzz_bytes(in, 2) % good_len, n;
		const unsigned char *from = fuzz_take(in, fuzz_u8(in) % 32, &n);

		memcpy(bytes + at, from, n < good_len - at ? n : good_len - at);
	}
	fd = open(path + 7, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	HOLDS(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	close(fd);
	free(bytes);
	judge_database(false);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return fuzz_keeps_state(argc, argv);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned what = fuzz_u8(&in) % 4;

	if (!dir[0]) {
		log_open(LEVEL_ERROR);
		json_object_seed(1);
		snprintf(dir, sizeof(dir), "%s/i", fuzz_home());
		HOLDS(mkdir(dir, 0700) == 0);
		snprintf(path, sizeof(path), "sqlite:%s/db", dir);
		snprintf(instance_path, sizeof(instance_path), "%s/instance", dir);
		atexit(end);
	}
	if (what < 2)
		texts(&in);
	else if (what == 2)
		rows(&in);
	else
		overwrites(&in);
	return 0;
}
