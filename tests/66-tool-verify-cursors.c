/* SPDX-License-Identifier: MIT
 * `berth verify` on pins of cursors: good files, also while pins come and go and after a kill; files with one thing wrong;
 * files of bytes that mean nothing, under every command that reads pins. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "../shm/cursor.h"
#include "../shm/segment.h"
#include "cli.h"
#include "readers.h"

#define PINS 300
#define SMALL "--cursor-capacity", "512"

static struct { /* what this process pins with */
	struct berth *b;
	struct berth_reader *r;
} self;

static int setup(void **state)
{
	struct berth_attach_options options = {
		.size = sizeof(options),
		.writes = BERTH_WRITES_NONE,
		.max_readers = 1,
		.wait_ms = DAEMON_MS,
		.cursors = BERTH_CURSORS_PIN,
	};
	struct daemon *d = calloc(1, sizeof(*d));

	daemon_make(d, "memory");
	*state = d;
	daemon_start(d, SMALL, NULL);
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "");
	assert_int_equal(berth_attach(d->dir, &options, &self.b), BERTH_OK);
	assert_int_equal(berth_maintain(self.b), BERTH_OK);
	assert_int_equal(berth_reader_open(self.b, &self.r), BERTH_OK);
	return 0;
}

static int teardown(void **state)
{
	berth_reader_close(&self.r);
	berth_detach(&self.b);
	return daemon_teardown(state);
}

static int pin(int number, uint32_t wait_ms)
{
	char id[24];
	int n = snprintf(id, sizeof(id), "cursor-%d", number);

	return berth_cursor_pin(self.r, id, (size_t)n, 1, "acme", 4, 0, wait_ms);
}

static int release(int number)
{
	char id[24];
	int n = snprintf(id, sizeof(id), "cursor-%d", number);

	return berth_cursor_release(self.r, id, (size_t)n, "acme", 4);
}

/* Files of the instance of a daemon that was killed, mapped writable; what they held at first. */
struct file {
	unsigned char *bytes, *kept;
	size_t size;
	char name[160];
};

static void file_open(struct file *f, const struct daemon *d, const char *name)
{
	struct stat st;

	snprintf(f->name, sizeof(f->name), "%s/%s", d->dir, name);
	int fd = open(f->name, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0)
		fail_msg("%s cannot be opened", f->name);
	f->size = (size_t)st.st_size;
	f->bytes = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(f->bytes, MAP_FAILED);
	close(fd);
	f->kept = malloc(f->size);
	memcpy(f->kept, f->bytes, f->size);
}

static void file_restore(struct file *f)
{
	memcpy(f->bytes, f->kept, f->size);
}

static void file_close(struct file *f)
{
	munmap(f->bytes, f->size);
	free(f->kept);
}

static struct file pins_file, ledger_file, root_file;

/* PINS pins, then the daemon is killed. */
static void fill_and_kill(struct daemon *d)
{
	for (int i = 0; i < PINS; i++)
		assert_int_equal(pin(i, DAEMON_MS), BERTH_OK);
	daemon_kill(d);
	cli_expect(0, d, "verify");
	file_open(&root_file, d, "root");
	file_open(&ledger_file, d, "ledger");
	file_open(&pins_file, d, "tables/cursors.1");
}

static void forget(void)
{
	file_close(&pins_file);
	file_close(&ledger_file);
	file_close(&root_file);
}

/* ---- what to damage ---- */

#define HEADER ((struct shm_cursors *)(void *)pins_file.bytes)
#define ROOT ((struct shm_root *)(void *)root_file.bytes)
#define LEDGER ((struct shm_ledger *)(void *)ledger_file.bytes)
#define RING ((struct shm_ledger_ring *)(void *)(ledger_file.bytes + SHM_LEDGER_RINGS_OFF))
#define ACK ((uint64_t *)(void *)(ledger_file.bytes + SHM_LEDGER_ACKS_OFF))

static uint64_t *buckets(void)
{
	return (uint64_t *)(void *)(pins_file.bytes + HEADER->buckets_off);
}
static struct shm_cursor *slots(void)
{
	return (struct shm_cursor *)(void *)(pins_file.bytes + HEADER->slots_off);
}
/* The n-th bucket whose chain has at least so many pins. */
static uint64_t *bucket_of(unsigned least, unsigned n)
{
	for (uint32_t i = 0; i < HEADER->n_buckets; i++) {
		unsigned length = 0;

		for (uint32_t at = SHM_BUCKET_FIRST(buckets()[i]); at; at = slots()[at - 1].next)
			length++;
		if (length >= least && n-- == 0)
			return &buckets()[i];
	}
	fail_msg("no bucket of %u pins", least);
	return NULL;
}
static struct shm_cursor *pin_of(unsigned n) /* the first of the n-th chain */
{
	return &slots()[SHM_BUCKET_FIRST(*bucket_of(1, n)) - 1];
}
static struct shm_cursor *last_of(unsigned least) /* of a chain of so many */
{
	struct shm_cursor *s = &slots()[SHM_BUCKET_FIRST(*bucket_of(least, 0)) - 1];

	while (s->next)
		s = &slots()[s->next - 1];
	return s;
}
static struct shm_cursor *free_slot(void)
{
	for (uint32_t i = 0; i < HEADER->capacity; i++)
		if (slots()[i].version == 0)
			return &slots()[i];
	fail_msg("no free slot");
	return NULL;
}
/* Of a registration that is not there: the row after ours. */
static void second_registration(void)
{
	struct shm_ledger_row *rows = (struct shm_ledger_row *)(LEDGER + 1);
	uint32_t mine = 0, other;

	while (rows[mine].attach == 0)
		mine++;
	other = mine + 1;
	memcpy(&rows[other], &rows[mine], sizeof(rows[0]));
	memcpy(&RING[other], &RING[mine], sizeof(*RING));
}
static struct shm_ledger_ring *my_ring(void)
{
	struct shm_ledger_ring *r = RING;

	while (r->attach == 0)
		r++;
	return r;
}

/* One would be a change half done. */
static void two_in_no_chain(void)
{
	*bucket_of(1, 0) = 0;
	*bucket_of(1, 0) = 0;
}
static void two_of_none(void)
{
	pin_of(0)->version = 0;
	pin_of(1)->version = 0;
	HEADER->n_live -= 2;
}

/* X(what is done to the files, words of the fault) */
#define DAMAGES(X) \
	X(HEADER->magic ^= 1, "cursors.1: magic") \
	X(HEADER->fingerprint ^= 1, "cursors.1: fingerprint") \
	X(HEADER->uuid[0] ^= 1, ": uuid") \
	X(HEADER->generation++, ": generation is 2; it should be 1") \
	X(HEADER->size += 64, ": size") \
	X(HEADER->capacity = 0, ": capacity is 0") \
	X(HEADER->capacity = UINT32_MAX, ": capacity") \
	X(HEADER->n_buckets--, ": n_buckets is 1023; it should be a power of two") \
	X(HEADER->n_buckets = 1u << 31, ": buckets_off") \
	X(HEADER->buckets_off += 8, ": buckets_off") \
	X(HEADER->slots_off = UINT64_MAX - 63, ": slots_off") \
	X(HEADER->ttl_ms = 0, ": ttl_ms is 0") \
	X(HEADER->owner_share = 513, ": owner_share is 513; it should be at most the capacity, 512") \
	X(HEADER->changes = 1ull << 63, ": changes") \
	X(memset(&HEADER->keys, 0, sizeof(HEADER->keys)), ": check is ") \
	X(HEADER->keys.owner.a[33][1] ^= 1ull << 63, ": check is ") \
	X(HEADER->check ^= 1, ": check is ") \
	X(HEADER->pad1[55] = 1, ": pad1") \
	X(HEADER->pad2[0] = 1, ": pad2") \
	X(HEADER->reserved[0] = 1, ": reserved") \
	X(HEADER->n_live = 513, ": n_live is 513; it should be at most the capacity, 512") \
	X(HEADER->n_live += 2, ": n_live is 302; it should be 300, the pins in chains") \
	X(HEADER->n_live -= 2, ": n_live is 298; it should be 300") \
	X(*bucket_of(1, 0) = SHM_BUCKET(1, 513), ": bucket is 513, in the chain of bucket ") \
	X(*bucket_of(1, 0) = SHM_BUCKET(1, UINT32_MAX), ": bucket is 4294967295") \
	X(last_of(1)->next = 1u << 31, ": next is 2147483648, in the chain of bucket ") \
	X(pin_of(0)->next = (uint32_t)(pin_of(0) - slots()) + 1, "which leads in a circle") \
	X(last_of(2)->next = SHM_BUCKET_FIRST(*bucket_of(2, 0)), "which leads in a circle") \
	X(*bucket_of(1, 0) = *bucket_of(1, 1), ": chain is that of bucket ") \
	X(last_of(1)->next = (uint32_t)(pin_of(1) - slots()) + 1, ": chain is that of bucket ") \
	X(pin_of(0)->hash[0] ^= 1, ": chain is that of bucket ") \
	X(memcpy(last_of(2)->hash, slots()[SHM_BUCKET_FIRST(*bucket_of(2, 0)) - 1].hash, 16), \
	  ": hash is that of slot ") \
	X(two_in_no_chain(), ": pin is in no chain") \
	X(two_of_none(), ": chains is 2 slots in a chain") \
	X(pin_of(0)->version = HEADER->changes + 1, ": version is 301; it should be at most") \
	X(pin_of(0)->order = HEADER->changes + 1, ": order is 301; it should be at most") \
	X(pin_of(0)->word = cursor_word(0, 1), ": word.cluster is 0") \
	X(pin_of(0)->pad0 = 1, ": pad0 is 1") \
	X(free_slot()->pad0 = 1, ": pad0 is 1") \
	X(ROOT->cursor_generation = 1ull << 32, "root: cursor_generation") \
	X(ROOT->cursor_generation = 7, "cursors.7: file is No such file or directory") \
	X(LEDGER->n_acks++, "ledger: n_acks is 65537") \
	X(LEDGER->cursor_sleeping = 2, "ledger: cursor_sleeping is 2") \
	X(LEDGER->cursor_doing = SHM_LEDGER_ACKS + 1, "ledger: cursor_doing is 65537") \
	X(LEDGER->pad0[0] = 1, "ledger: pad0") \
	X(LEDGER->pad1 = 1, "ledger: pad1") \
	X(my_ring()->n = 2, "ring.n is 2; it should be 1") \
	X(my_ring()->first = 4, "ring.first is 4, and 1 acks") \
	X(my_ring()->first = UINT32_MAX - 7, "ring.first is 4294967288") \
	X(ACK[my_ring()->first] |= 0xff, ": ack is ") \
	X(second_registration(), "apart from those of slot ")

static void expect_fault(const struct daemon *d, const char *what, const char *words)
{
	static const char *const looking[][4] = {
		{"cursors"}, {"resolve", "cursor-1", "--owner", "acme"}, {"status"}, {"readers"}};
	struct cli run;

	cli_run(&run, d, "verify");
	if (run.code != 4 || !strstr(run.out, words) || !strstr(run.err, "damage was found"))
		fail_msg("after %s: exit code %d, no `%s`:\n%s\n%s", what, run.code, words, run.out, run.err);
	cli_free(&run);
	for (size_t i = 0; i < sizeof(looking) / sizeof(looking[0]); i++) {
		cli_run(&run, d, looking[i][0], looking[i][1], looking[i][2], looking[i][3]);
		if (run.code > 4 || run.code == 2)
			fail_msg("after %s: %s ends with %d:\n%s\n%s", what, looking[i][0], run.code, run.out, run.err);
		cli_free(&run);
	}
}

static void every_damage_is_found(void **state)
{
	struct daemon *d = *state;
	unsigned n = 0;

	fill_and_kill(d);
#define DAMAGE(action, words) \
	action; \
	expect_fault(d, #action, words); \
	file_restore(&pins_file); \
	file_restore(&ledger_file); \
	file_restore(&root_file); \
	n++;
	DAMAGES(DAMAGE)
#undef DAMAGE
	printf("%u kinds of damage\n", n);
	cli_expect(0, d, "verify");
	forget();
}

static void a_chain_that_is_too_long_is_found(void **state)
{
	struct daemon *d = *state;

	fill_and_kill(d);
	/* All pins into one chain, as their hashes then say. */
	memset(buckets(), 0, HEADER->n_buckets * 8);
	for (uint32_t i = 0, next = 0; i < HEADER->capacity; i++) {
		if (slots()[i].version == 0)
			continue;
		slots()[i].hash[0] &= ~(uint64_t)(HEADER->n_buckets - 1);
		slots()[i].next = next;
		next = i + 1;
		buckets()[0] = SHM_BUCKET(1, next);
	}
	expect_fault(d, "one chain", "chain is of bucket 0, longer than 64");
	forget();
}

static void a_restart_mends_it_as_verify_advises(void **state)
{
	struct daemon *d = *state;
	struct cli run;

	fill_and_kill(d);
	uint64_t *bucket = bucket_of(1, 0);
	struct shm_cursor *last = last_of(2);
	*bucket = SHM_BUCKET(1, UINT32_MAX);
	last->next = 1u << 31;
	HEADER->n_live += 2;
	cli_run(&run, d, "verify");
	cli_check(&run, 4, NULL, "it keeps the pins that are whole");
	cli_free(&run);
	daemon_start(d, SMALL, NULL);
	cli_expect(0, d, "verify");
	/* What it keeps as it is. */
	HEADER->reserved[0] = 1;
	cli_expect(4, d, "verify");
	daemon_kill(d);
	assert_int_equal(unlink(pins_file.name), 0);
	daemon_start(d, SMALL, NULL);
	cli_expect(0, d, "verify");
	forget();
}

/* What a writer leaves that was killed between two stores. */
static void one_change_half_done_is_no_fault(void **state)
{
	struct daemon *d = *state;

	fill_and_kill(d);
	pin_of(0)->version = 0; /* cursor_drop's first store */
	cli_expect(0, d, "verify");
	file_restore(&pins_file);
	*bucket_of(1, 0) = SHM_BUCKET(9, pin_of(0)->next); /* cursor_make without its last */
	HEADER->n_live -= 1;
	cli_expect(0, d, "verify");
	file_restore(&pins_file);
	forget();
}

static void faults_are_told_as_json_with_their_place(void **state)
{
	struct daemon *d = *state;
	json_t *lines;

	fill_and_kill(d);
	lines = cli_json(0, d, "verify");
	assert_int_equal(int_of(json_object_get(json_array_get(lines, 0), "verify"), "pins"), PINS);
	json_decref(lines);
	struct shm_cursor *s = pin_of(3);
	s->word = cursor_word(0, 1);
	lines = cli_json(4, d, "verify");
	const json_t *fault = json_object_get(json_array_get(lines, 0), "fault");
	assert_string_equal(text_of(fault, "file"), "cursors.1");
	assert_string_equal(text_of(fault, "what"), "word.cluster");
	assert_int_equal(int_of(fault, "slot"), s - slots());
	json_decref(lines);
	forget();
}

/* ---- bytes that mean nothing ---- */

static void no_bytes_make_it_crash(void **state)
{
	static const char *const looking[][4] = {{"verify"},
						 {"verify", "--json"},
						 {"cursors"},
						 {"cursors", "--json"},
						 {"resolve", "cursor-1", "--owner", "acme"},
						 {"status"},
						 {"readers"}};
	struct daemon *d = *state;
	uint64_t random = mp_seed();
	struct cli run;

	fill_and_kill(d);
	for (int round = 0; round < 40; round++) {
		struct file *f = round % 10 == 9 ? &ledger_file : &pins_file;
		size_t from = round % 3 == 0 ? 0 : round % 3 == 1 ? 128 : SHM_PAGE, size = f->size;

		if (round % 7 == 6) {
			assert_int_equal(truncate(f->name, (off_t)(mp_random(&random) % f->size)), 0);
		} else {
			for (uint64_t n = 1 + mp_random(&random) % (round % 5 ? 40 : 100000); n; n--)
				f->bytes[from + mp_random(&random) % (size - from)] = (unsigned char)mp_random(&random);
		}
		for (size_t i = 0; i < sizeof(looking) / sizeof(looking[0]); i++) {
			cli_run(&run, d, looking[i][0], looking[i][1], looking[i][2], looking[i][3]);
			if (run.code != 0 && run.code != 1 && run.code != 3 && run.code != 4)
				fail_msg("round %d: %s ends with %d:\n%s\n%s", round, looking[i][0], run.code, run.out,
					 run.err);
			cli_free(&run);
		}
		assert_int_equal(truncate(f->name, (off_t)f->size), 0);
		file_restore(f);
	}
	forget();
}

/* ---- good files ---- */

static void pins_that_come_and_go_are_good(void **state)
{
	struct daemon *d = *state;
	struct cli run;

	for (int look = 0; look < 5; look++) {
		cli_start(&run, d, "verify");
		for (int i = 0; i < 4000; i++) {
			int number = (i * 17 + look) % 700; /* more than there is room for */

			if (i % 3 == 2)
				release(number);
			else
				pin(number, i % 64 ? 0 : DAEMON_MS);
		}
		cli_wait(&run);
		cli_check(&run, 0, "no damage", NULL);
		cli_free(&run);
	}
	/* And after a kill in the middle of it. */
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 200; i++)
			pin(i * 7 + round, 0);
		daemon_kill(d);
		cli_expect(0, d, "verify");
		daemon_start(d, SMALL, NULL);
		uint64_t deadline = 0;
		while (berth_maintain(self.b) != BERTH_OK)
			assert_true(within(&deadline));
		assert_int_equal(pin(0, DAEMON_MS), BERTH_OK);
		cli_expect(0, d, "verify");
	}
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(every_damage_is_found),
		TEST(a_chain_that_is_too_long_is_found),
		TEST(a_restart_mends_it_as_verify_advises),
		TEST(one_change_half_done_is_no_fault),
		TEST(faults_are_told_as_json_with_their_place),
		TEST(no_bytes_make_it_crash),
		TEST(pins_that_come_and_go_are_good),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
