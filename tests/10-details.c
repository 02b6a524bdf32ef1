/* SPDX-License-Identifier: MIT
 * Records: what is built passes the checks and reads back, and no damage makes a reader look outside of a record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../shm/berth_errors.h"
#include "../shm/details.h"
#include "../shm/word.h"

static void build(union detail_buffer *b)
{
	assert_int_equal(detail_start(b, KIND_SHARED_INDEX, 7, "shared", 6), BERTH_OK);
	assert_int_equal(detail_add_inject(b, "_tenant", 7, INJECT_PARTITION, "", 0), BERTH_OK);
	assert_int_equal(detail_add_inject(b, "region", 6, INJECT_CONSTANT, "eu", 2), BERTH_OK);
	detail_finish(b);
}

/* A copy whose end is the end of its allocation, so that a sanitizer sees each byte read too many. */
static void *exact(const void *from, size_t size)
{
	void *copy = malloc(size ? size : 1);

	assert_non_null(copy);
	memcpy(copy, from, size);
	return copy;
}

static void a_built_record_reads_back(void **state)
{
	union detail_buffer b;
	struct detail_inject pair;

	(void)state;
	build(&b);
	assert_true(detail_bounds(&b.detail, b.detail.size));
	assert_int_equal(b.detail.check, detail_checksum(&b.detail));
	assert_string_equal(detail_index(&b.detail), "shared");
	assert_int_equal(b.detail.index_len, 6);
	assert_true(detail_inject(&b.detail, 0, &pair));
	assert_string_equal(pair.field, "_tenant");
	assert_int_equal(pair.kind, INJECT_PARTITION);
	assert_int_equal(pair.value_len, 0);
	assert_true(detail_inject(&b.detail, 1, &pair));
	assert_string_equal(pair.field, "region");
	assert_string_equal(pair.value, "eu");
	assert_int_equal(pair.field_len, 6);
	assert_int_equal(pair.value_len, 2);
	assert_int_equal(pair.kind, INJECT_CONSTANT);
	assert_false(detail_inject(&b.detail, 2, &pair));
	assert_false(detail_inject(&b.detail, UINT32_MAX, &pair));
}

static void a_record_without_index_has_the_empty_one(void **state)
{
	union detail_buffer b;
	struct detail_inject pair;

	(void)state;
	assert_int_equal(detail_start(&b, KIND_DEDICATED_CLUSTER, 65535, NULL, 0), BERTH_OK);
	detail_finish(&b);
	assert_int_equal(b.detail.size, sizeof(struct shm_detail) + 1);
	assert_true(detail_bounds(&b.detail, b.detail.size));
	assert_string_equal(detail_index(&b.detail), "");
	assert_false(detail_inject(&b.detail, 0, &pair));
}

static void values_that_do_not_fit_are_refused(void **state)
{
	union detail_buffer b;
	char long_text[5000];

	(void)state;
	memset(long_text, 'x', sizeof(long_text));
	assert_int_equal(detail_start(&b, KIND_NONE, 1, "i", 1), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, 4, 1, "i", 1), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, KIND_DEDICATED_INDEX, 0, "i", 1), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, KIND_DEDICATED_INDEX, 65536, "i", 1), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, KIND_DEDICATED_INDEX, 1, long_text, 256), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, KIND_DEDICATED_INDEX, 1, NULL, 1), BERTH_E_INVAL);
	assert_int_equal(detail_start(&b, KIND_SHARED_INDEX, 1, long_text, 255), BERTH_OK);
	assert_int_equal(detail_add_inject(&b, "", 0, INJECT_CONSTANT, "v", 1), BERTH_E_INVAL);
	assert_int_equal(detail_add_inject(&b, long_text, 256, INJECT_CONSTANT, "v", 1), BERTH_E_INVAL);
	assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, NULL, 1), BERTH_E_INVAL);
	assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, long_text, SIZE_MAX - 10), BERTH_E_FULL);
	size_t room = SHM_RECORD_MAX - b.detail.size - 4 - 2 - 1;
	assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, long_text, room + 1), BERTH_E_FULL);
	assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, long_text, room), BERTH_OK);
	assert_int_equal(b.detail.size, SHM_RECORD_MAX);
	assert_true(detail_bounds(&b.detail, SHM_RECORD_MAX));
	assert_int_equal(detail_add_inject(&b, "g", 1, INJECT_CONSTANT, "", 0), BERTH_E_FULL);
}

static void the_inject_list_ends_at_its_maximum(void **state)
{
	union detail_buffer b;

	(void)state;
	assert_int_equal(detail_start(&b, KIND_SHARED_INDEX, 1, "i", 1), BERTH_OK);
	for (unsigned i = 0; i < SHM_INJECT_MAX; i++)
		assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, "v", 1), BERTH_OK);
	assert_int_equal(detail_add_inject(&b, "f", 1, INJECT_CONSTANT, "v", 1), BERTH_E_FULL);
	assert_true(detail_bounds(&b.detail, b.detail.size));
}

static void equal_placements_are_equal_whatever_their_counts(void **state)
{
	union detail_buffer a, b;

	(void)state;
	build(&a);
	build(&b);
	b.detail.refs = 99;
	assert_true(detail_equal(&a.detail, &b.detail));
	assert_true(detail_fingerprint(&a.detail) == detail_fingerprint(&b.detail));
	assert_int_equal(detail_checksum(&a.detail), detail_checksum(&b.detail));
	b.detail.cluster++;
	assert_false(detail_equal(&a.detail, &b.detail));
	assert_true(detail_fingerprint(&a.detail) != detail_fingerprint(&b.detail));
	assert_true(detail_fingerprint(&a.detail) != 0);
	assert_int_not_equal(detail_checksum(&a.detail), detail_checksum(&b.detail));
}

static void a_record_with_less_room_than_its_size_is_refused(void **state)
{
	union detail_buffer b;

	(void)state;
	build(&b);
	for (size_t room = 0; room < b.detail.size; room++) {
		void *copy = exact(&b, room);
		assert_false(detail_bounds(copy, room));
		free(copy);
	}
	assert_true(detail_bounds(&b.detail, SIZE_MAX));
}

/* Each byte with each value: what passes must be walkable inside the record (a sanitizer watches). */
static void no_damaged_byte_leads_outside_of_a_record(void **state)
{
	union detail_buffer b;
	struct detail_inject pair;

	(void)state;
	build(&b);
	size_t size = b.detail.size;
	unsigned char *copy = exact(&b, size);
	struct shm_detail *d = (void *)copy;
	for (size_t at = 0; at < size; at++) {
		unsigned char good = copy[at];
		for (unsigned value = 0; value < 256; value++) {
			copy[at] = (unsigned char)value;
			if (!detail_bounds(d, size))
				continue;
			assert_true(d->size <= size && d->n_inject <= SHM_INJECT_MAX);
			assert_true(detail_index(d)[d->index_len] == '\0');
			for (unsigned i = 0; i < d->n_inject; i++) {
				assert_true(detail_inject(d, i, &pair));
				assert_true(pair.field[pair.field_len] == '\0' && pair.value[pair.value_len] == '\0');
				assert_true((const unsigned char *)pair.value + pair.value_len < copy + size);
			}
			detail_checksum(d);
		}
		copy[at] = good;
	}
	assert_true(detail_bounds(d, size));
	free(copy);
}

static void refuse_detail(const union detail_buffer *good, size_t at, unsigned char value)
{
	union detail_buffer b = *good;

	b.bytes[at] = (char)value;
	assert_false(detail_bounds(&b.detail, sizeof(b)));
}

static void each_damage_to_a_placement_is_seen(void **state)
{
	union detail_buffer b;
	size_t data = offsetof(struct shm_detail, data);

	(void)state;
	memset(&b, 0xff, sizeof(b));
	assert_false(detail_bounds(&b.detail, sizeof(b)));
	memset(&b, 0, sizeof(b));
	assert_false(detail_bounds(&b.detail, sizeof(b)));
	build(&b);
	refuse_detail(&b, offsetof(struct shm_detail, size), 16);       /* no room for a NUL */
	refuse_detail(&b, offsetof(struct shm_detail, size), 3);        /* shorter than its header */
	refuse_detail(&b, offsetof(struct shm_detail, size) + 1, 0x20); /* longer than any record */
	refuse_detail(&b, offsetof(struct shm_detail, size),
		      (unsigned char)(b.detail.size + 1)); /* bytes behind the list */
	refuse_detail(&b, offsetof(struct shm_detail, kind), 0);
	refuse_detail(&b, offsetof(struct shm_detail, kind), 4);
	refuse_detail(&b, offsetof(struct shm_detail, n_inject), 1); /* a pair too few */
	refuse_detail(&b, offsetof(struct shm_detail, n_inject), 3); /* and one too many */
	refuse_detail(&b, offsetof(struct shm_detail, n_inject), 255);
	refuse_detail(&b, offsetof(struct shm_detail, index_len), 5);
	refuse_detail(&b, offsetof(struct shm_detail, index_len) + 1, 1); /* longer than any index */
	refuse_detail(&b, data + 6, 'x');                                 /* the index's NUL */
	refuse_detail(&b, data + 7, 2);                                   /* inject kind */
	refuse_detail(&b, data + 8, 0);                                   /* field of no length */
	refuse_detail(&b, data + 8, 255);                                 /* longer than the record */
	refuse_detail(&b, data + 9, 1);
	refuse_detail(&b, data + 10, 255);
	refuse_detail(&b, data + 11 + 7, 'x'); /* the field's NUL */
	refuse_detail(&b, data + 11 + 8, 'x'); /* the value's */
}

static void cluster_records_are_judged_exactly(void **state)
{
	union {
		struct shm_cluster cluster;
		char bytes[512];
	} b;

	(void)state;
	memset(&b, 0xff, sizeof(b));
	b.cluster.number = 3;
	b.cluster.id_len = 2;
	b.cluster.endpoint_len = 12;
	memcpy(b.cluster.data, "c1\0http://host1", 16);
	size_t size = cluster_size(2, 12);
	assert_int_equal(size, 8 + 3 + 13);
	assert_string_equal(cluster_id(&b.cluster), "c1");
	assert_string_equal(cluster_endpoint(&b.cluster), "http://host1");
	assert_true(cluster_bounds(&b.cluster, size));
	for (size_t room = 0; room < size; room++) {
		void *copy = exact(&b, room);
		assert_false(cluster_bounds(copy, room));
		free(copy);
	}
	uint32_t check = cluster_checksum(&b.cluster);
	b.cluster.check = 1;
	assert_int_equal(cluster_checksum(&b.cluster), check);
	b.cluster.data[1] = '2';
	assert_int_not_equal(cluster_checksum(&b.cluster), check);
	b.cluster.data[2] = 'x';
	assert_false(cluster_bounds(&b.cluster, sizeof(b)));
	b.cluster.data[2] = '\0';
	b.cluster.data[15] = 'x';
	assert_false(cluster_bounds(&b.cluster, sizeof(b)));
	b.cluster.data[15] = '\0';
	assert_true(cluster_bounds(&b.cluster, sizeof(b)));
	b.cluster.id_len = 0;
	assert_false(cluster_bounds(&b.cluster, sizeof(b)));
	b.cluster.id_len = 64;
	assert_false(cluster_bounds(&b.cluster, sizeof(b)));
}

static void key_records_are_judged_exactly(void **state)
{
	union {
		struct shm_key_record key;
		char bytes[512];
	} b;

	(void)state;
	memset(&b, 'k', sizeof(b));
	b.key.len = 40;
	b.key.pad = 0;
	b.key.data[40] = '\0';
	assert_true(key_record_bounds(&b.key, key_record_size(40)));
	for (size_t room = 0; room < key_record_size(40); room++) {
		void *copy = exact(&b, room);
		assert_false(key_record_bounds(copy, room));
		free(copy);
	}
	uint32_t check = key_record_checksum(&b.key);
	b.key.data[39] = 'l';
	assert_int_not_equal(key_record_checksum(&b.key), check);
	b.key.data[40] = 'x';
	assert_false(key_record_bounds(&b.key, sizeof(b)));
	b.key.data[40] = '\0';
	b.key.len = 0;
	assert_false(key_record_bounds(&b.key, sizeof(b)));
	b.key.len = 256;
	b.key.data[256] = '\0';
	assert_false(key_record_bounds(&b.key, sizeof(b)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_built_record_reads_back),
		cmocka_unit_test(a_record_without_index_has_the_empty_one),
		cmocka_unit_test(values_that_do_not_fit_are_refused),
		cmocka_unit_test(the_inject_list_ends_at_its_maximum),
		cmocka_unit_test(equal_placements_are_equal_whatever_their_counts),
		cmocka_unit_test(a_record_with_less_room_than_its_size_is_refused),
		cmocka_unit_test(no_damaged_byte_leads_outside_of_a_record),
		cmocka_unit_test(each_damage_to_a_placement_is_seen),
		cmocka_unit_test(cluster_records_are_judged_exactly),
		cmocka_unit_test(key_records_are_judged_exactly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
