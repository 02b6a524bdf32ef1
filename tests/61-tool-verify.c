/* SPDX-License-Identifier: MIT
 * `berth verify` on good tables, on copies with one field wrong, and all looking commands on bytes that mean nothing.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/details.h"
#include "../shm/index.h"
#include "cli.h"
#include "readers.h"

struct copy {            /* of a directory, its files mapped writable */
	struct daemon d; /* dir alone: what cli_run wants of it */
	struct shm_root *root;
	struct shm_table *table;
	struct shm_ledger *ledger;
	size_t table_size, ledger_size;
	char table_name[128];
};

static void *copy_file(const char *from_dir, const char *to_dir, const char *name, size_t *size)
{
	char from[256], to[256], buffer[65536];
	ssize_t n;

	snprintf(from, sizeof(from), "%s/%s", from_dir, name);
	snprintf(to, sizeof(to), "%s/%s", to_dir, name);
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	assert_true(in >= 0 && out >= 0);
	*size = 0;
	while ((n = read(in, buffer, sizeof(buffer))) > 0) {
		assert_int_equal(write(out, buffer, (size_t)n), n);
		*size += (size_t)n;
	}
	void *base = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
	assert_ptr_not_equal(base, MAP_FAILED);
	close(in);
	close(out);
	return base;
}

static void copy_make(struct copy *c, const struct daemon *from)
{
	char name[40], tables[160];
	size_t size;

	memset(c, 0, sizeof(*c));
	snprintf(c->d.dir, sizeof(c->d.dir), "%s/copy", from->home);
	mkdir(c->d.dir, 0755);
	snprintf(tables, sizeof(tables), "%s/tables", c->d.dir);
	mkdir(tables, 0755);
	c->root = copy_file(from->dir, c->d.dir, "root", &size);
	snprintf(name, sizeof(name), "tables/table.%u", SHM_GENERATION(c->root->termgen));
	snprintf(c->table_name, sizeof(c->table_name), "%s/%s", c->d.dir, name);
	c->table = copy_file(from->dir, c->d.dir, name, &c->table_size);
	c->ledger = copy_file(from->dir, c->d.dir, "ledger", &c->ledger_size);
}

static void copy_forget(struct copy *c)
{
	munmap(c->root, sizeof(*c->root));
	munmap(c->table, c->table_size);
	munmap(c->ledger, c->ledger_size);
}

/* ---- what to damage ---- */

static struct shm_entry *entry_of(const struct copy *c, const char *key)
{
	struct shm_entry *e = (struct shm_entry *)((char *)c->table + c->table->entries_off);

	for (uint32_t i = 0; i < c->table->capacity + SHM_PROBE_MAX; i++)
		if (word_live(e[i].word) && e[i].n != SHM_KEY_LONG && strncmp((char *)e[i].key, key, e[i].n + 1u) == 0)
			return &e[i];
	fail_msg("no entry %s", key);
	return NULL;
}

static struct shm_entry *some_entry(const struct copy *c, bool (*wanted)(const struct shm_entry *))
{
	struct shm_entry *e = (struct shm_entry *)((char *)c->table + c->table->entries_off);

	for (uint32_t i = 0; i < c->table->capacity + SHM_PROBE_MAX; i++)
		if (wanted(&e[i]))
			return &e[i];
	fail_msg("no such entry");
	return NULL;
}
static bool is_long(const struct shm_entry *e)
{
	return word_live(e->word) && e->n == SHM_KEY_LONG;
}
static bool is_empty(const struct shm_entry *e)
{
	return e->word == WORD_EMPTY;
}
static bool is_tombstone(const struct shm_entry *e)
{
	return e->word != WORD_EMPTY && !word_live(e->word);
}

static void *record(const struct copy *c, uint32_t off)
{
	return (char *)c->table + (size_t)off * SHM_RECORD_ALIGN;
}
static struct shm_detail *detail_of(const struct copy *c, const char *key)
{
	struct shm_entry *e = entry_of(c, key);

	return record(c, e->det[word_which(e->word)]);
}
static _Atomic uint32_t *clusters(const struct copy *c)
{
	return (_Atomic uint32_t *)((char *)c->table + c->table->clusters_off);
}
static uint64_t with_epoch(uint64_t word, uint64_t epoch)
{
	return word_make(epoch, word_cluster(word), word_which(word), word_kind(word), word_phase(word));
}
static uint64_t with_cluster(uint64_t word, unsigned cluster)
{
	return word_make(word_epoch(word), cluster, word_which(word), word_kind(word), word_phase(word));
}

static struct shm_ledger_lease *lease_of(struct shm_ledger *l)
{
	struct shm_ledger_row *rows = (struct shm_ledger_row *)(l + 1);

	return (struct shm_ledger_lease *)((struct shm_ledger_cutover *)(rows + SHM_LEDGER_ROWS) + SHM_LEDGER_CUTOVERS);
}

/* X(what it does, the words of the fault) */
#define DAMAGES(X) \
	X(c->root->magic ^= 1, "root: magic") \
	X(c->root->fingerprint ^= 1, "root: fingerprint") \
	X(memset(c->root->uuid, 0, 16), "root: uuid") \
	X(memset(c->root->secret, 0, 32), "root: secret") \
	X(c->root->grace = 1ull << 40, "root: grace") \
	X(c->root->termgen += 1, "should be a file that can be read") \
	X(c->root->membarrier_mode = 7, "root: membarrier_mode") \
	X(c->root->heartbeat_ms = UINT64_MAX / 2, "root: heartbeat_ms") \
	X(c->root->reserved[99] = 1, "root: reserved is 01") \
	X(c->table->magic ^= 1, ": magic") \
	X(c->table->uuid[3] ^= 1, ": uuid") \
	X(c->table->generation += 1, ": generation") \
	X(c->table->size += 4096, ": size") \
	X(c->table->capacity = 0, ": capacity") \
	X(c->table->capacity = UINT32_MAX, ": entries_off") \
	X(c->table->n_cluster_slots = UINT32_MAX, ": n_cluster_slots") \
	X(c->table->entries_off += 1, ": entries_off") \
	X(c->table->documents_off = UINT64_MAX - 64, ": documents_off") \
	X(c->table->records_off = 1ull << 40, ": records_off") \
	X(c->table->longest_probe = SHM_PROBE_MAX + 1, ": longest_probe") \
	X(c->table->epoch = 1, ": word.epoch") \
	X(c->table->n_live += 1, ": n_live") \
	X(c->table->n_tombstones += 2, ": n_tombstones") \
	X(c->table->next_cluster = 1, ": cluster is number 2; it should be below next_cluster") \
	X(c->table->reserved[7] = 1, ": reserved") \
	X(c->table->said_epoch = UINT64_MAX, ": said_epoch is") \
	X(c->table->dflt.word = with_cluster(c->table->dflt.word, 77), "word.cluster is 77") \
	X(c->table->dflt.word |= PHASE_DRAINING, "of the default") \
	X(c->table->dflt.det[0] = UINT32_MAX, ": det[0] is offset") \
	X(clusters(c)[0] = 5, ": clusters[0]") \
	X(clusters(c)[1] = UINT32_MAX, ": cluster is number 1 at offset") \
	X(((struct shm_cluster *)record(c, clusters(c)[1]))->data[0] ^= 1, ": cluster is number 1 with checksum") \
	X(((struct shm_cluster *)record(c, clusters(c)[1]))->number = 2, \
	  ": cluster is number 2 in the record of number 1") \
	X(clusters(c)[2] = 0, "word.cluster is 2") \
	X(entry_of(c, "acme")->word |= 3, "(acme): word.phase is 3") \
	X(entry_of(c, "acme")->word ^= 4, "(acme): det[0] is kind") \
	X(entry_of(c, "acme")->word = with_cluster(entry_of(c, "acme")->word, 2), \
	  "(acme): det[0] is cluster 1 in the record") \
	X(entry_of(c, "acme")->word = with_epoch(entry_of(c, "acme")->word, 0), "(acme): word.epoch is 0") \
	X(entry_of(c, "acme")->word = with_epoch(entry_of(c, "acme")->word, 1u << 30), \
	  "(acme): word.epoch is 1073741824") \
	X(entry_of(c, "acme")->word = with_epoch(entry_of(c, "acme")->word, word_epoch(entry_of(c, "globex")->word)), \
	  "epoch is 2 of two placements") \
	X(entry_of(c, "acme")->word = WORD_EMPTY, ": n_live") \
	X(entry_of(c, "acme")->hash ^= 1, "(acme): hash is") \
	X(entry_of(c, "acme")->det[0] += 1, "(acme): det[0]") \
	X(entry_of(c, "acme")->det[0] = UINT32_MAX, "(acme): det[0] is offset 68719476720") \
	X(entry_of(c, "moving")->det[!word_which(entry_of(c, "moving")->word)] = 0, "(moving): det[1] (target)") \
	X(entry_of(c, "acme")->n = 99, ": n is 99") \
	X(entry_of(c, "acme")->n = 3, "(acm): key is not zero behind its 3 bytes") \
	X(entry_of(c, "acme")->key[0] = 7, "key is no clean text") \
	X(entry_of(c, "acme")->key[39 - 1] = 1, "(acme): key is not zero behind") \
	X(memcpy(entry_of(c, "acme")->key, "beta", 4), "(beta): hash is") \
	X(*entry_of(c, "acme") = *entry_of(c, "globex"), "(globex): place") \
	X(((uint8_t *)c->table + \
	   c->table->tags_off)[entry_of(c, "acme") - \
			       (struct shm_entry *)((char *)c->table + c->table->entries_off)] ^= 0x80, \
	  "(acme): tag is") \
	X(c->table->tags_off += 1, ": tags_off") \
	X(detail_of(c, "acme")->data[0] ^= 1, "(acme): det[0] is record at") \
	X(detail_of(c, "acme")->check ^= 1, "with checksum") \
	X(detail_of(c, "acme")->size = 1, "a placement record inside the file") \
	X(detail_of(c, "acme")->index_len = 4000, "a placement record inside the file") \
	X(detail_of(c, "acme")->n_inject = 200, "a placement record inside the file") \
	X(some_entry(c, is_long)->key[4] ^= 1, "key.prefix") \
	X(some_entry(c, is_long)->key[38] = 1, "key.pad") \
	X(some_entry(c, is_long)->key[3] = 0xff, "key.record is offset") \
	X(((struct shm_key_record *)record(c, load_u32(some_entry(c, is_long)->key)))->data[40] ^= 1, \
	  "key.record is checksum") \
	X(some_entry(c, is_empty)->det[0] = 1, ": det is not zero") \
	X(some_entry(c, is_empty)->hash = 1, ": n, key") \
	X(some_entry(c, is_empty)->word = UINT64_MAX, "word.phase is 3") \
	X(some_entry(c, is_tombstone)->word |= 1 << 6, "a tombstone has nothing but its epoch") \
	X(((uint64_t *)((char *)c->table + \
			c->table->documents_off))[some_entry(c, is_empty) - \
						  (struct shm_entry *)((char *)c->table + c->table->entries_off)] = 1, \
	  ": document is") \
	X(c->ledger->magic ^= 1, "ledger: magic") \
	X(c->ledger->n_rows = 1u << 30, "ledger: n_rows") \
	X(c->ledger->n_leases++, "ledger: n_leases is 16385") \
	X(c->ledger->reserved[1] = 1, "ledger: reserved") \
	X(lease_of(c->ledger)->hash = 1, "ledger slot 0: lease.how is 0") \
	X(((struct shm_ledger_row *)(c->ledger + 1))->attach = 1u << 20, "ledger slot 0: row.attach is 1048576")

static unsigned n_damages;

static void expect_fault(const struct copy *c, const char *what, const char *words)
{
	static const char *const looking[][2] = {{"list"}, {"dump"}, {"get", "acme"}, {"clusters"}, {"status"}};
	struct cli run;

	cli_run(&run, &c->d, "verify");
	if (run.code != 4 || !strstr(run.out, words) || !strstr(run.err, "damage was found"))
		fail_msg("after %s: exit code %d, no `%s`:\n%s\n%s", what, run.code, words, run.out, run.err);
	cli_free(&run);
	for (size_t i = 0; i < sizeof(looking) / sizeof(looking[0]); i++) {
		cli_run(&run, &c->d, looking[i][0], looking[i][1]);
		if (run.code > 4 || run.code == 2)
			fail_msg("after %s: %s ends with %d:\n%s\n%s", what, looking[i][0], run.code, run.out, run.err);
		cli_free(&run);
	}
	n_damages++;
}

/* A daemon that has seen everything, killed. */
static void fill_and_kill(struct daemon *d)
{
	struct wire w;
	char key[80];

	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s,s:s}", "id", "c1", "endpoint", "http://h1:9200");
	wire_do(&w, "cluster.set", "{s:s,s:s}", "id", "c2", "endpoint", "http://h2:9200");
	wire_do(&w, "set", "{s:s,s:{s:s,s:s,s:s}}", "partition", "acme", "placement", "mode", "dedicated-index",
		"cluster", "c1", "index", "acme");
	wire_do(&w, "set", "{s:s,s:{s:s,s:s}}", "partition", "globex", "placement", "mode", "dedicated-cluster",
		"cluster", "c2");
	wire_do(&w, "set", "{s:s,s:{s:s,s:s}}", "partition", "moving", "placement", "mode", "dedicated-cluster",
		"cluster", "c1");
	wire_do(&w, "begin", "{s:s,s:{s:s}}", "partition", "moving", "to", "cluster", "c2");
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), "a-name-that-is-too-long-to-be-inside-its-entry-%d", i);
		wire_do(&w, "set", "{s:s,s:{s:s,s:s,s:s}}", "partition", i % 2 ? key : key + 40, "placement", "mode",
			"dedicated-index", "cluster", i % 3 ? "c1" : "c2", "index", "i");
	}
	wire_do(&w, "set", "{s:s,s:{s:s,s:s}}", "partition", "gone", "placement", "mode", "dedicated-cluster",
		"cluster", "c1");
	wire_do(&w, "remove", "{s:s}", "partition", "gone");
	wire_do(&w, "default.set", "{s:{s:s,s:s}}", "placement", "mode", "dedicated-cluster", "cluster", "c1");
	wire_close(&w);
	daemon_kill(d);
}

static void every_damaged_field_is_found(void **state)
{
	struct daemon *d = *state;
	struct copy copy, *c = &copy;

	fill_and_kill(d);
	copy_make(c, d);
	cli_expect(0, &c->d, "verify");
	copy_forget(c);
#define DAMAGE(action, words) \
	copy_make(c, d); \
	action; \
	expect_fault(c, #action, words); \
	copy_forget(c);
	DAMAGES(DAMAGE)
#undef DAMAGE
	printf("%u kinds of damage\n", n_damages);
}

static void faults_are_told_as_json_with_their_place(void **state)
{
	struct daemon *d = *state;
	struct copy c;
	json_t *lines;

	fill_and_kill(d);
	copy_make(&c, d);
	lines = cli_json(0, &c.d, "verify");
	assert_int_equal(json_array_size(lines), 1);
	json_t *sum = json_object_get(json_array_get(lines, 0), "verify");
	assert_true(is_true(sum, "ok"));
	assert_int_equal(int_of(sum, "partitions"), 23);
	assert_int_equal(int_of(sum, "clusters"), 2);
	json_decref(lines);
	entry_of(&c, "acme")->hash ^= 1;
	lines = cli_json(4, &c.d, "verify");
	json_t *fault = json_object_get(json_array_get(lines, 0), "fault");
	assert_string_equal(text_of(fault, "partition"), "acme");
	assert_string_equal(text_of(fault, "what"), "hash");
	assert_true(int_of(fault, "slot") >= 0);
	assert_int_equal(strlen(text_of(fault, "value")), 16);
	sum = json_object_get(json_array_get(lines, json_array_size(lines) - 1), "verify");
	assert_false(is_true(sum, "ok"));
	assert_int_equal(int_of(sum, "faults"), json_array_size(lines) - 1);
	json_decref(lines);
	/* What the damage hides is said where it would show. */
	cli_expect(0, &c.d, "get", "globex");
	entry_of(&c, "globex")->det[0] = UINT32_MAX;
	cli_expect(4, &c.d, "get", "globex");
	cli_expect(4, &c.d, "list");
	cli_expect(4, &c.d, "dump");
	copy_forget(&c);
}

/* ---- bytes that mean nothing ---- */

static void no_bytes_make_it_crash(void **state)
{
	static const char *const looking[][2] = {{"verify"}, {"verify", "--json"}, {"list"},
						 {"dump"},   {"get", "acme"},      {"clusters"},
						 {"status"}, {"readers"},          {"migrate", "status"}};
	struct daemon *d = *state;
	uint64_t random = mp_seed();
	struct copy c;
	struct cli run;

	fill_and_kill(d);
	for (int round = 0; round < 60; round++) {
		copy_make(&c, d);
		bool of_ledger = round % 10 == 9, of_root = round % 10 == 8;
		unsigned char *bytes = of_ledger ? (void *)c.ledger : of_root ? (void *)c.root : (void *)c.table;
		size_t size = of_ledger ? c.ledger_size : of_root ? sizeof(*c.root) : c.table_size;
		size_t from = round % 3 ? 128 : 0; /* behind the magic, to get further */

		if (round % 7 == 6) {
			assert_int_equal(truncate(c.table_name, (off_t)(mp_random(&random) % c.table_size)), 0);
		} else {
			for (uint64_t n = 1 + mp_random(&random) % (round % 5 ? 40 : 100000); n; n--)
				bytes[from + mp_random(&random) % (size - from)] = (unsigned char)mp_random(&random);
		}
		for (size_t i = 0; i < sizeof(looking) / sizeof(looking[0]); i++) {
			cli_run(&run, &c.d, looking[i][0], looking[i][1]);
			if (run.code != 0 && run.code != 1 && run.code != 3 && run.code != 4)
				fail_msg("round %d: %s ends with %d:\n%s\n%s", round, looking[i][0], run.code, run.out,
					 run.err);
			cli_free(&run);
		}
		copy_forget(&c);
	}
}

/* ---- good tables ---- */

static void a_table_that_changes_all_the_time_is_good(void **state)
{
	struct daemon *d = *state;
	struct wire w;
	struct cli run;
	char key[80];

	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&w, "cluster.set", "{s:s}", "id", "c2");
	for (int look = 0; look < 5; look++) {
		cli_start(&run, d, "verify");
		for (int i = 0; i < 400; i++) {
			snprintf(key, sizeof(key), "%s%d",
				 i % 5 ? "t" : "a-name-that-is-too-long-to-be-inside-its-entry-",
				 (i * 17 + look) % 300);
			if (i % 3 == 2)
				json_decref(wire_call(&w, "remove", "{s:s}", "partition", key));
			else
				wire_do(&w, "set", "{s:s,s:{s:s,s:s,s:s},s:b}", "partition", key, "placement", "mode",
					"dedicated-index", "cluster", i % 2 ? "c1" : "c2", "index", i % 7 ? "i" : "k",
					"force", 1);
		}
		cli_wait(&run);
		cli_check(&run, 0, "no damage", NULL);
		cli_free(&run);
	}
	wire_close(&w);
	/* And after a kill in the middle of it. */
	daemon_kill(d);
	cli_expect(0, d, "verify");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(every_damaged_field_is_found, "memory"),
		DAEMON_TEST(faults_are_told_as_json_with_their_place, "memory"),
		DAEMON_TEST(no_bytes_make_it_crash, "memory"),
		DAEMON_TEST(a_table_that_changes_all_the_time_is_good, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
