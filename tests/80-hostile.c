/* SPDX-License-Identifier: MIT
 * Damaged instances: copies of root and table.* of a daemon, live or dead, overwritten, cut and forged. libberth and
 * every looking command of `berth` answer with an error or with data; none crashes, hangs or hands out nonsense. The
 * copy of a living daemon's directory has its socket too, so that readers register and read without copying. */
#include "hostile.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- forged --------------------------------------------------------------------------------------------------------
 */

static void damage_is_found(int expected, unsigned least, unsigned most)
{
	hostile_library(expected, least, most);
	assert_int_not_equal(hostile_commands(), 0);
}

static void an_intact_copy_is_read(void **state)
{
	(void)state;
	hostile_copy();
	hostile_library(BERTH_OK, N_KEYS, N_KEYS);
	assert_int_equal(hostile_commands(), 0);
}

static void files_that_were_cut_short_are_refused(void **state)
{
	const size_t sizes[] = {0, 1, 255, SHM_PAGE - 1, SHM_PAGE, SHM_PAGE * 3 + 17, hostile_image.size / 2};
	char root[300];

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		hostile_copy();
		assert_int_equal(truncate(hostile_image.path, (off_t)sizes[i]), 0);
		damage_is_found(BERTH_E_CORRUPT, 0, 0);
	}
	for (unsigned i = 1; i < 3; i++) {
		hostile_copy();
		assert_int_equal(truncate(hostile_image.path, (off_t)(hostile_image.size - (i == 1 ? 1 : SHM_PAGE))),
				 0);
		damage_is_found(BERTH_E_CORRUPT, 0, 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		hostile_copy();
		snprintf(root, sizeof root, "%s/root", hostile_dir);
		assert_int_equal(truncate(root, (off_t)sizes[i]), 0);
		damage_is_found(BERTH_E_CORRUPT, 0, 0);
	}
	hostile_copy();
	assert_int_equal(unlink(hostile_image.path), 0);
	damage_is_found(BERTH_E_NO_INSTANCE, 0, 0);
}

static void offsets_and_counts_beyond_the_end_are_refused(void **state)
{
	static const size_t wide[] = {offsetof(struct shm_table, size), offsetof(struct shm_table, clusters_off),
				      offsetof(struct shm_table, entries_off),
				      offsetof(struct shm_table, documents_off),
				      offsetof(struct shm_table, records_off)};
	static const size_t narrow[] = {offsetof(struct shm_table, capacity),
					offsetof(struct shm_table, n_cluster_slots)};

	(void)state;
	hostile_copy();
	const uint64_t values[] = {
		hostile_image.size + 64, hostile_image.size * 2, UINT64_MAX, UINT64_MAX - 63, 1ull << 63, 7};
	for (unsigned f = 0; f < 5; f++)
		for (unsigned v = 0; v < 6; v++) {
			hostile_copy();
			memcpy((char *)hostile_image.table + wide[f], &values[v], 8);
			hostile_library(BERTH_E_CORRUPT, 0, 0);
			if (v % 3 == 0)
				assert_int_equal(hostile_commands(), 4);
		}
	for (unsigned f = 0; f < 2; f++)
		for (unsigned v = 0; v < 3; v++) {
			const uint32_t counts[] = {UINT32_MAX, UINT32_MAX - SHM_PROBE_MAX, 1u << 24};

			hostile_copy();
			memcpy((char *)hostile_image.table + narrow[f], &counts[v], 4);
			damage_is_found(BERTH_E_CORRUPT, 0, 0);
		}
	hostile_copy();
	hostile_image.table->capacity = 0;
	damage_is_found(BERTH_E_CORRUPT, 0, 0);
}

static void a_wrong_identity_is_refused(void **state)
{
	(void)state;
	hostile_copy();
	hostile_image.table->uuid[3] ^= 1;
	damage_is_found(BERTH_E_CORRUPT, 0, 0);
	hostile_copy();
	hostile_image.table->fingerprint ^= 1;
	damage_is_found(BERTH_E_ABI, 0, 0);
	hostile_copy();
	hostile_image.table->abi++;
	damage_is_found(BERTH_E_ABI, 0, 0);
	hostile_copy();
	hostile_image.table->generation++;
	damage_is_found(BERTH_E_CORRUPT, 0, 0);
	hostile_copy();
	hostile_image.table->magic ^= 1;
	damage_is_found(BERTH_E_CORRUPT, 0, 0);
	hostile_copy();
	hostile_image.root->fingerprint ^= 1;
	damage_is_found(BERTH_E_ABI, 0, 0);
	hostile_copy();
	atomic_store(&hostile_image.root->magic, 0);
	damage_is_found(BERTH_E_NO_INSTANCE, 0, 0);
	hostile_copy();
	atomic_store(&hostile_image.root->magic, 1);
	damage_is_found(BERTH_E_CORRUPT, 0, 0);
	hostile_copy();
	atomic_store(&hostile_image.root->termgen, atomic_load(&hostile_image.root->termgen) + 1);
	damage_is_found(BERTH_E_NO_INSTANCE, 0, 0);
	hostile_copy();
	atomic_store(&hostile_image.root->termgen, 0); /* as before the first start is over */
	hostile_library(BERTH_E_NO_INSTANCE, 0, 0);
	hostile_commands();
	hostile_copy();
	hostile_image.root->uuid[0] ^= 1; /* both agree, but for the living daemon it is somebody else's */
	hostile_image.table->uuid[0] ^= 1;
	hostile_library(hostile_live ? BERTH_E_PROTOCOL : BERTH_OK, N_KEYS, N_KEYS);
	hostile_commands();
}

static void a_table_full_of_tombstones_ends_a_probe(void **state)
{
	(void)state;
	hostile_copy();
	for (uint32_t i = 0; i < hostile_n_entries(); i++)
		atomic_store(&hostile_entries()[i].word, word_make(5, 1, 0, KIND_NONE, PHASE_SETTLED));
	atomic_store(&hostile_image.table->longest_probe, SHM_PROBE_MAX);
	damage_is_found(BERTH_OK, N_KEYS, N_KEYS); /* by the default */
	atomic_store(&hostile_image.table->dflt.word, 0);
	damage_is_found(BERTH_OK, 0, 0);
	hostile_copy();
	for (uint32_t i = 0; i < hostile_n_entries();
	     i++) { /* equal hashes and lengths, so that every key is compared */
		struct shm_entry *e = &hostile_entries()[i];

		atomic_store(&e->word, word_make(5, 1, 0, KIND_DEDICATED_CLUSTER, PHASE_SETTLED));
		e->n = SHM_KEY_LONG;
		memset(e->key, 0xff, sizeof e->key);
	}
	atomic_store(&hostile_image.table->longest_probe, SHM_PROBE_MAX);
	damage_is_found(BERTH_OK, 0, N_KEYS);
}

static void a_probe_length_that_cannot_be_is_damage(void **state)
{
	static const uint32_t lengths[] = {SHM_PROBE_MAX + 1, 1u << 20, UINT32_MAX};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		hostile_copy();
		atomic_store(&hostile_image.table->longest_probe, lengths[i]);
		damage_is_found(BERTH_OK, 1, N_KEYS - 1); /* what is where it is guessed needs no probe */
	}
}

static void details_outside_the_file_are_damage(void **state)
{
	hostile_copy();
	const uint32_t offsets[] = {(uint32_t)(hostile_image.size / SHM_RECORD_ALIGN) - 1,
				    (uint32_t)(hostile_image.size / SHM_RECORD_ALIGN), UINT32_MAX, 1, 0};

	(void)state;
	for (unsigned o = 0; o < 5; o++) {
		hostile_copy();
		/* a record that seems to begin in the last bytes of the file */
		memset((char *)hostile_image.table + hostile_image.size - 16, 0xff, 16);
		for (uint32_t i = 0; i < hostile_n_entries(); i++) {
			atomic_store(&hostile_entries()[i].det[0], offsets[o]);
			atomic_store(&hostile_entries()[i].det[1], offsets[o]);
		}
		atomic_store(&hostile_image.table->dflt.det[0], offsets[o]);
		atomic_store(&hostile_image.table->dflt.det[1], offsets[o]);
		damage_is_found(BERTH_OK, 0, 0);
	}
	hostile_copy(); /* one that would be fine if the file went on behind it */
	{
		uint64_t at = hostile_image.size - 32;
		struct shm_detail d = {.size = 272, .cluster = 1, .kind = KIND_DEDICATED_INDEX, .index_len = 255};

		memset((char *)hostile_image.table + at, 'x', 32);
		memcpy((char *)hostile_image.table + at, &d, sizeof d);
		for (uint32_t i = 0; i < hostile_n_entries(); i++) {
			atomic_store(&hostile_entries()[i].det[0], (uint32_t)(at / SHM_RECORD_ALIGN));
			atomic_store(&hostile_entries()[i].det[1], (uint32_t)(at / SHM_RECORD_ALIGN));
		}
		damage_is_found(BERTH_OK, 0, 1); /* 1: the removed partition, by the default */
	}
	for (unsigned o = 0; o < 4; o++) {
		hostile_copy();
		for (unsigned n = 1; n < hostile_image.table->n_cluster_slots; n++)
			((_Atomic uint32_t *)(void *)((char *)hostile_image.table +
						      hostile_image.table->clusters_off))[n] = offsets[o];
		damage_is_found(BERTH_OK, N_KEYS, N_KEYS);
	}
	for (unsigned o = 0; o < 3; o++) { /* records of long keys */
		hostile_copy();
		for (uint32_t i = 0; i < hostile_n_entries(); i++)
			if (hostile_entries()[i].n == SHM_KEY_LONG)
				memcpy(hostile_entries()[i].key, &offsets[o], 4);
		damage_is_found(BERTH_OK, N_KEYS - N_KEYS / 3 - 1, N_KEYS - N_KEYS / 3);
	}
}

/* Each record in use gets a length that leads out of it. */
static void lengths_inside_a_record_are_checked(void **state)
{
	static const struct {
		size_t at, len;
	} fields[] = {{offsetof(struct shm_detail, size), 2},
		      {offsetof(struct shm_detail, n_inject), 1},
		      {offsetof(struct shm_detail, index_len), 2},
		      {offsetof(struct shm_detail, kind), 1}};

	(void)state;
	for (unsigned f = 0; f < 4; f++) {
		hostile_copy();
		for (uint32_t i = 0; i < hostile_n_entries(); i++)
			for (int k = 0; k < 2; k++) {
				uint64_t at = (uint64_t)atomic_load(&hostile_entries()[i].det[k]) * SHM_RECORD_ALIGN;

				if (at && at + 16 <= hostile_image.size)
					memset((char *)hostile_image.table + at + fields[f].at, 0xff, fields[f].len);
			}
		damage_is_found(BERTH_OK, 0, 1); /* 1: the removed partition, by the default, whose record is its own */
	}
	hostile_copy(); /* a list that seems to be shorter than its record */
	for (uint32_t i = 0; i < hostile_n_entries(); i++) {
		uint64_t at = (uint64_t)atomic_load(&hostile_entries()[i].det[0]) * SHM_RECORD_ALIGN;
		struct shm_detail *d = (struct shm_detail *)(void *)((char *)hostile_image.table + at);

		if (at && d->n_inject)
			d->n_inject--;
	}
	damage_is_found(BERTH_OK, 0, N_KEYS - N_KEYS / 3 + 1);
	for (unsigned f = 0; f < 3; f++) { /* the header of each inject pair: kind, length of the field, of the value */
		hostile_copy();
		for (uint32_t i = 0; i < hostile_n_entries(); i++) {
			uint64_t at = (uint64_t)atomic_load(&hostile_entries()[i].det[0]) * SHM_RECORD_ALIGN;
			struct shm_detail *d = (struct shm_detail *)(void *)((char *)hostile_image.table + at);

			if (at && d->n_inject)
				memset(d->data + d->index_len + 1 + f, 0xff, f == 2 ? 2 : 1);
		}
		damage_is_found(BERTH_OK, 0, N_KEYS - N_KEYS / 3 + 1);
	}
}

/* ---- at random -------------------------------------------------------------------------------------------------- */

static uint64_t random_seed(void)
{
	const char *given = getenv("BERTH_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : 0;

	if (!seed && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
		seed = 1;
	printf("note: BERTH_SEED=%#llx\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

static void random_bytes_in_a_copy_stop_nobody(void **state)
{
	uint64_t seed = random_seed();

	(void)state;
	for (unsigned round = 0; round < 90; round++) {
		unsigned blows = 1u << hostile_random(&seed) % 10;

		hostile_copy();
		while (blows--)
			hostile_damage(&seed);
		if (hostile_random(&seed) % 8 == 0)
			assert_int_equal(
				truncate(hostile_image.path, (off_t)(hostile_random(&seed) % hostile_image.size)), 0);
		hostile_library(ANY, 0, N_KEYS);
		if (round % 3 == 0)
			hostile_commands();
	}
}

static void random_bytes_under_a_reader_stop_nobody(void **state)
{
	uint64_t seed = random_seed();

	(void)state;
	for (unsigned round = 0; round < 24; round++) {
		struct hostile_plan plan = {ANY, 0, N_KEYS, hostile_random(&seed)};
		int rc;

		hostile_copy();
		rc = part_run(hostile_ask, &plan, LIBRARY_MS);
		if (rc != 0)
			fail_msg("seed %#llx: a reader ended with %d", (unsigned long long)plan.seed, rc);
	}
}

/* The daemon itself is not disturbed by who attaches with such files. */
static void the_daemon_went_on(void **state)
{
	(void)state;
	tool_ok(&hostile_daemon, "verify", NULL);
	tool_ok(&hostile_daemon, "set", "another", "--mode", "dedicated-cluster", "--cluster", "c1", "--force", NULL);
}

static int remove_instance(void **state)
{
	(void)state;
	hostile_drop();
	daemon_remove(&hostile_daemon);
	return 0;
}

#define LIVE(test) \
	{ \
#test " (live)", test, hostile_alive, NULL, NULL \
	}
#define DEAD(test) \
	{ \
#test " (dead)", test, hostile_dead, NULL, NULL \
	}
#define EACH(WITH) \
	WITH(an_intact_copy_is_read), WITH(files_that_were_cut_short_are_refused), \
		WITH(offsets_and_counts_beyond_the_end_are_refused), WITH(a_wrong_identity_is_refused), \
		WITH(a_table_full_of_tombstones_ends_a_probe), WITH(a_probe_length_that_cannot_be_is_damage), \
		WITH(details_outside_the_file_are_damage), WITH(lengths_inside_a_record_are_checked), \
		WITH(random_bytes_in_a_copy_stop_nobody), WITH(random_bytes_under_a_reader_stop_nobody)

int main(void)
{
	const struct CMUnitTest tests[] = {EACH(LIVE), LIVE(the_daemon_went_on), EACH(DEAD)};

	return cmocka_run_group_tests(tests, hostile_make, remove_instance);
}
