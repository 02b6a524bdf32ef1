/* SPDX-License-Identifier: MIT
 * hostile.h. */
#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEY_ROOM 220u
#define N_CLUSTERS 8u
#define COMMAND_MS 5000u
#define NONSENSE 50 /* exit code of a part: an answer that nothing in the file can mean */

struct daemon hostile_daemon;
char hostile_dir[160];
bool hostile_live;

/* ---- an instance with everything in it, and a copy of it -------------------------------------------------------- */

static const char *key_of(unsigned i)
{
	static char key[KEY_ROOM];
	int n = snprintf(key, sizeof key, i % 3 ? "tenant-%03u" : "a-tenant-with-a-long-name-that-is-in-a-record-%03u",
			 i);

	if (i % 24 == 0) /* the longest possible */
		for (; n < (int)sizeof key - 1; n++)
			key[n] = 'x';
	key[n] = '\0';
	return key;
}

static void write_document(const char *path)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fprintf(f, "{\"clusters\":{");
	for (unsigned i = 0; i < N_CLUSTERS; i++)
		fprintf(f, "%s\"c%u\":{\"endpoint\":\"http://10.0.0.%u:9200\"}", i ? "," : "", i, i);
	fprintf(f,
		"},\"default\":{\"mode\":\"shared-index\",\"cluster\":\"c0\",\"index\":\"shared\"},\"partitions\":{");
	for (unsigned i = 0; i < N_KEYS; i++) {
		static const char *const modes[] = {"\"dedicated-cluster\"", "\"dedicated-index\",\"index\":\"ix\"",
						    "\"shared-index\",\"index\":\"shared\",\"inject\":[{\"field\":\"_"
						    "tenant\",\"value\":{\"partition\":true}},"
						    "{\"field\":\"region\",\"value\":\"eu\"}]"};

		fprintf(f, "%s\"%s\":{\"cluster\":\"c%u\",\"mode\":%s}", i ? "," : "", key_of(i), i % N_CLUSTERS,
			modes[i % 3]);
	}
	fprintf(f, "}}\n");
	assert_int_equal(fclose(f), 0);
}

int hostile_make(void **state)
{
	char document[128];

	(void)state;
	daemon_make(&hostile_daemon, "sqlite");
	snprintf(hostile_dir, sizeof hostile_dir, "%s/copy", hostile_daemon.home);
	snprintf(document, sizeof document, "%s/document", hostile_daemon.home);
	write_document(document);
	daemon_start(&hostile_daemon, "--barrier-ms", "60000", NULL);
	tool_ok(&hostile_daemon, "load", document, NULL);
	tool_ok(&hostile_daemon, "remove", "tenant-001", "--force", NULL);
	tool_ok(&hostile_daemon, "migrate", "begin", "tenant-002", "--to", "c7", NULL);
	tool_ok(&hostile_daemon, "migrate", "begin", "tenant-004", "--to", "c7", NULL);
	tool_ok(&hostile_daemon, "migrate", "cutover", "tenant-004", NULL);
	return 0;
}

/* The first half of the tests has a living daemon. */
int hostile_alive(void **state)
{
	(void)state;
	hostile_live = true;
	return 0;
}

int hostile_dead(void **state)
{
	(void)state;
	if (hostile_daemon.pid)
		daemon_kill(&hostile_daemon);
	hostile_live = false;
	return 0;
}

static void copy_file(const char *name)
{
	char from[300], to[300], bytes[65536];
	int in, out;
	ssize_t n;

	snprintf(from, sizeof from, "%s/%s", hostile_daemon.dir, name);
	snprintf(to, sizeof to, "%s/%s", hostile_dir, name);
	in = open(from, O_RDONLY | O_CLOEXEC);
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, bytes, sizeof bytes)) > 0)
		assert_int_equal(write(out, bytes, (size_t)n), n);
	close(in);
	close(out);
}

struct hostile_image hostile_image;

static void *map_copy(const char *name, size_t *size)
{
	char path[300];
	struct stat st;
	void *p;
	int fd;

	snprintf(path, sizeof path, "%s/%s", hostile_dir, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	close(fd);
	*size = (size_t)st.st_size;
	return p;
}

void hostile_drop(void)
{
	if (hostile_image.root)
		munmap(hostile_image.root, SHM_PAGE);
	if (hostile_image.table)
		munmap(hostile_image.table, hostile_image.size);
	hostile_image = (struct hostile_image){0};
}

/* A fresh copy, mapped for writing. */
void hostile_copy(void)
{
	static const char *const sockets[] = {SEG_SOCKET, SEG_ADMIN_SOCKET};
	char tables[300];
	size_t size;

	hostile_drop();
	remove_tree(hostile_dir);
	assert_int_equal(mkdir(hostile_dir, 0755), 0);
	snprintf(tables, sizeof tables, "%s/" SEG_TABLES, hostile_dir);
	assert_int_equal(mkdir(tables, 0755), 0);
	copy_file("root");
	copy_file("ledger");
	hostile_image.root = map_copy("root", &size);
	snprintf(hostile_image.name, sizeof hostile_image.name, "tables/table.%u",
		 SHM_GENERATION(atomic_load(&hostile_image.root->termgen)));
	copy_file(hostile_image.name);
	hostile_image.table = map_copy(hostile_image.name, &hostile_image.size);
	hostile_image.entries_off = hostile_image.table->entries_off;
	hostile_image.records_off = hostile_image.table->records_off;
	hostile_image.n_entries = hostile_image.table->capacity + SHM_PROBE_MAX;
	snprintf(hostile_image.path, sizeof hostile_image.path, "%s/%s", hostile_dir, hostile_image.name);
	for (int i = 0; hostile_live && i < 2; i++) {
		char from[300], to[300];

		snprintf(from, sizeof from, "%s/%s", hostile_daemon.dir, sockets[i]);
		snprintf(to, sizeof to, "%s/%s", hostile_dir, sockets[i]);
		assert_int_equal(link(from, to), 0);
	}
}

/* By the header as it was: it may be damaged by now. */
struct shm_entry *hostile_entries(void)
{
	return (struct shm_entry *)(void *)((char *)hostile_image.table + hostile_image.entries_off);
}
uint32_t hostile_n_entries(void)
{
	return hostile_image.n_entries;
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

static volatile unsigned char eaten; /* every byte that is handed out is read */

static void eat(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		eaten = (unsigned char)(eaten + (unsigned char)s[i]);
}

static bool known(int rc)
{
	switch (rc) {
	case BERTH_OK:
	case BERTH_E_UNKNOWN:
	case BERTH_E_CORRUPT:
	case BERTH_E_AGAIN:
	case BERTH_E_NO_INSTANCE:
	case BERTH_E_ABI:
	case BERTH_E_UNSAFE:
	case BERTH_E_NOMEM:
	case BERTH_E_SYSTEM:
		return true;
	default:
		return false;
	}
}

static bool known_gate(int rc)
{
	return known(rc) || rc == BERTH_E_STALE || rc == BERTH_E_CUTOVER || rc == BERTH_E_FENCED ||
	       rc == BERTH_E_WRITER_DOWN;
}

static bool sane_word(uint64_t epoch, unsigned cluster, unsigned kind, unsigned phase, unsigned is_default)
{
	return epoch <= SHM_EPOCH_MAX && cluster != 0 && kind >= 1 && kind <= 3 && phase <= 2 && is_default <= 1;
}

static bool look_up(struct berth_reader *r, const char *key, size_t len, int *rc)
{
	struct berth_placement p;
	struct berth_inject pair;

	*rc = berth_lookup(r, key, len, &p);
	if (*rc != BERTH_OK)
		return known(*rc);
	if (!sane_word(p.epoch, p.cluster, p.kind, p.phase, p.is_default))
		return false;
	eat(p.index, p.index_len + 1);
	eat(p.to_index, p.to_index_len + 1);
	for (unsigned i = 0; i < p.n_inject; i++) {
		int told = berth_inject(&p, i, &pair);

		if (told != BERTH_OK && told != BERTH_E_CORRUPT)
			return false;
		if (told != BERTH_OK) {
			*rc = told;
			continue;
		}
		eat(pair.field, pair.field_len + 1);
		eat(pair.value, pair.value_len + 1);
	}
	return berth_inject(&p, p.n_inject, &pair) == BERTH_E_INVAL;
}

/* Everything that the library can be asked. *lookups: how many look-ups succeeded, with all that they name. */
static bool ask_all(struct berth_reader *r, unsigned *lookups)
{
	struct berth_key keys[N_KEYS];
	struct berth_route routes[N_KEYS] = {0}, at = {0};
	int status[N_KEYS], rc;
	static char texts[N_KEYS][KEY_ROOM];
	bool fine = true;

	*lookups = 0;
	for (unsigned i = 0; i < N_KEYS; i++) {
		memcpy(texts[i], key_of(i), KEY_ROOM);
		keys[i] = (struct berth_key){texts[i], strlen(texts[i])};
		rc = berth_route(r, keys[i].key, keys[i].len, &at);
		fine = fine && known(rc) &&
		       (rc != BERTH_OK || sane_word(at.epoch, at.cluster, at.kind, at.phase, at.is_default));
		fine = fine && known_gate(berth_admit(r, keys[i].key, keys[i].len, at.epoch));
	}
	fine = fine && known(berth_route(r, "nobody", 6, &at));
	fine = fine && known(berth_route_bulk(r, keys, N_KEYS, routes, status));
	berth_read_begin(r);
	for (unsigned i = 0; i < N_KEYS; i++) {
		fine = fine && known(status[i]) && look_up(r, keys[i].key, keys[i].len, &rc);
		*lookups += rc == BERTH_OK;
	}
	fine = fine && look_up(r, "nobody", 6, &rc);
	for (unsigned i = 0; i < 300; i++) {
		struct berth_cluster c;

		rc = berth_cluster(r, (uint16_t)(i < 290 ? i : 65545 - 10 - (i - 290)), &c);
		fine = fine && known(rc);
		if (rc != BERTH_OK)
			continue;
		eat(c.id, c.id_len + 1);
		eat(c.endpoint, c.endpoint_len + 1);
	}
	berth_read_end(r);
	return fine;
}

uint64_t hostile_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

void hostile_damage(uint64_t *seed)
{
	static const uint64_t favourites[] = {
		0, 1, 3, 0xff, 0xffff, 0x7fffffff, 0xffffffff, UINT64_MAX, UINT64_MAX - 63, 1ull << 63};
	uint64_t what = hostile_random(seed) % 8, value, at;
	unsigned char *base = (unsigned char *)hostile_image.table;
	size_t size = hostile_image.size, len = 1 + hostile_random(seed) % 16;

	if (what == 0) {
		base = (unsigned char *)hostile_image.root;
		size = 256;
	} else if (what == 1) {
		size = 256;
	}
	at = hostile_random(seed) % size;
	if (what >= 4) /* what is in use */
		at = (uint64_t)((unsigned char *)&hostile_entries()[hostile_random(seed) % hostile_n_entries()] -
				base) +
		     hostile_random(seed) % 64;
	if (what >= 6)
		at = hostile_image.records_off + hostile_random(seed) % 16384;
	value = hostile_random(seed) % 2 ? hostile_random(seed) : favourites[hostile_random(seed) % 10];
	if (at < size && size - at < len)
		len = size - at;
	if (at < size)
		memcpy(base + at, &value, len < 8 ? len : 8);
}

int hostile_ask(void *arg)
{
	const struct hostile_plan *plan = arg;
	struct berth_attach_options options = {.size = sizeof options, .max_readers = 2, .wait_ms = 2000};
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	uint64_t seed = plan->seed;
	unsigned lookups = 0;
	int rc;

	alarm(60);
	rc = berth_attach(hostile_dir, &options, &b);
	if (plan->expected != ANY && rc != plan->expected) {
		fprintf(stderr, "attach answers %d (%s), not %d\n", rc, berth_strerror(rc), plan->expected);
		return NONSENSE + 1;
	}
	if (rc > 0 || rc < BERTH_E_NOT_OWNER || (rc == BERTH_OK) != (b != NULL))
		return NONSENSE + 2;
	if (rc != BERTH_OK)
		return 0;
	rc = berth_maintain(b);
	if (rc > 0 || berth_reader_open(b, &r) != BERTH_OK)
		return NONSENSE + 3;
	for (int round = 0; round < (seed ? 150 : 1); round++) {
		if (!ask_all(r, &lookups))
			return NONSENSE + 4;
		if (seed)
			hostile_damage(&seed);
		if (seed && round % 8 == 0)
			berth_maintain(b);
	}
	if (!seed && (lookups < plan->least || lookups > plan->most)) {
		fprintf(stderr, "%u look-ups succeed, not %u to %u\n", lookups, plan->least, plan->most);
		return NONSENSE + 5;
	}
	berth_reader_close(&r);
	return berth_detach(&b) == BERTH_OK ? 0 : NONSENSE + 6;
}

void hostile_library(int expected, unsigned least, unsigned most)
{
	struct hostile_plan plan = {expected, least, most, 0};
	int rc = part_run(hostile_ask, &plan, LIBRARY_MS);

	if (rc != 0)
		fail_msg("a reader of the copy ended with %d", rc);
}

static int hostile_command(const char *a, const char *b)
{
	const char *argv[] = {daemon_program("berth"), "--dir", hostile_dir, a, b, NULL};
	char out[8192];
	int rc = child_run(argv, out, sizeof out, COMMAND_MS);

	if (rc < 0 || rc > 4 || strstr(out, "Sanitizer") || strstr(out, "runtime error"))
		fail_msg("berth %s %s ended with %d: %s", a, b ? b : "", rc, out);
	return rc;
}

/* Answers of `verify`. */
int hostile_commands(void)
{
	hostile_command("list", "--json");
	hostile_command("clusters", NULL);
	hostile_command("readers", NULL);
	hostile_command("dump", NULL);
	hostile_command("status", NULL);
	hostile_command("get", "tenant-005");
	hostile_command("get", "nobody");
	hostile_command("migrate", "status");
	return hostile_command("verify", NULL);
}
