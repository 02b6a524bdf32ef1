/* SPDX-License-Identifier: MIT
 * Envelopes of sealed cursors: what goes in comes out, for its partition alone, and nothing that differs from what was
 * sealed in a single bit is an envelope. */
#include "seal_place.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static struct seal_place *with_key(void **state)
{
	struct seal_place *p = *state;

	seal_keys_are(p, {1, -10});
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	return p;
}

static void an_envelope_is_these_very_bytes(void **state)
{
	/* Made by another implementation, from the page that describes the format: these never change. */
	static const char file[] = "1 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z "
				   "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
	static const char file2[] = "4294901244 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z "
				    "FFFEFDFCFBFAF9F8F7F6F5F4F3F2F1F0EFEEEDECEBEAE9E8E7E6E5E4E3E2E1E0\n";
	static const char id1[] = "DXF1ZXJ5QW5kRmV0Y2gBAAAAAAAAAD4WYm9laVYtZndUQlNsdDcwakFMNjU1QQ==";
	static const struct {
		const char *file, *cluster, *partition, *id;
		size_t id_len;
		uint32_t key;
		const char *envelope;
	} rows[] = {
		{file, "x", "y", "z", 1, 1, "AQAAAAEBeAF5AAF6VTJd4_cAlopoCt_fOj6M7A"},
		{file, "c1", "acme", id1, sizeof(id1) - 1, 1,
		 "AQAAAAECYzEEYWNtZQBARFhGMVpYSjVRVzVrUm1WMFkyZ0JBQUFBQUFBQUFENFdZbTlsYVZZdFpuZFVRbE5zZERjd2FrRk1O"
		 "alUxUVE9Pds1m5PJbT8L9IBqJP3Xd7w"},
		{file2, "eu-west.7_b",
		 "\xc3\xbc"
		 "ber",
		 "\0\xff\0", 3, 4294901244u, "Af_-_fwLZXUtd2VzdC43X2IFw7xiZXIAAwD_AIL4tKrqM3ird-hNSyj1zTg"},
	};
	struct seal_place *p = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		seal_file_is(p, rows[i].file, strlen(rows[i].file));
		assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
		assert_int_equal(berth_seal_cursor(p->seal, rows[i].cluster, strlen(rows[i].cluster), rows[i].partition,
						   strlen(rows[i].partition), rows[i].id, rows[i].id_len, p->envelope,
						   sizeof(p->envelope), &p->len),
				 BERTH_OK);
		assert_string_equal(p->envelope, rows[i].envelope);
		assert_int_equal(p->len, strlen(rows[i].envelope));
		assert_int_equal(unseal_as(p, rows[i].partition), BERTH_OK);
		assert_int_equal(p->u.key_id, rows[i].key);
		assert_string_equal(p->u.cluster, rows[i].cluster);
		assert_int_equal(p->u.id_len, rows[i].id_len);
		assert_memory_equal(p->u.id, rows[i].id, rows[i].id_len);
		berth_seal_close(&p->seal);
		assert_null(p->seal);
	}
}

/* One round trip of these lengths, in buffers whose ends a sanitizer watches. */
static void round_trip(struct seal_place *p, size_t cluster_len, size_t partition_len, size_t id_len)
{
	char *cluster = malloc(cluster_len);
	unsigned char *partition = malloc(partition_len), *id = malloc(id_len);
	size_t size = berth_seal_size(cluster_len, partition_len, id_len), len = 0;
	char *out = malloc(size), *copy = malloc(size - 1);

	memset(cluster, 'k', cluster_len);
	for (size_t i = 0; i < partition_len; i++)
		partition[i] = (unsigned char)(i * 7);
	for (size_t i = 0; i < id_len; i++)
		id[i] = (unsigned char)(255 - i * 3);
	assert_int_equal(berth_seal_cursor(p->seal, cluster, cluster_len, partition, partition_len, id, id_len, out,
					   size - 1, &len),
			 BERTH_E_INVAL);
	assert_int_equal(len, 0);
	assert_int_equal(
		berth_seal_cursor(p->seal, cluster, cluster_len, partition, partition_len, id, id_len, out, size, &len),
		BERTH_OK);
	assert_int_equal(len, size - 1);
	assert_int_equal(strlen(out), len);
	assert_int_equal(strspn(out, alphabet), len);
	memcpy(copy, out, len); /* without its NUL */
	memset(&p->u, 0xee, sizeof(p->u));
	assert_int_equal(berth_seal_unseal(p->seal, copy, len, partition, partition_len, &p->u), BERTH_OK);
	assert_int_equal(p->u.key_id, 1);
	assert_int_equal(p->u.cluster_len, cluster_len);
	assert_memory_equal(p->u.cluster, cluster, cluster_len);
	assert_int_equal(p->u.cluster[cluster_len], '\0');
	assert_int_equal(p->u.id_len, id_len);
	assert_memory_equal(p->u.id, id, id_len);
	assert_int_equal(p->u.id[id_len], '\0');
	assert_int_equal(p->u.reserved[0] | p->u.reserved[5], 0);
	free(cluster);
	free(partition);
	free(id);
	free(out);
	free(copy);
}

static void what_is_sealed_is_opened_at_all_borders_of_lengths(void **state)
{
	static const size_t clusters[] = {1, 2, 62, 63}, partitions[] = {1, 2, 254, 255};
	static const size_t ids[] = {1, 2, 3, 255, 256, 257, 4094, 4095, 4096};
	struct seal_place *p = with_key(state);

	for (size_t c = 0; c < sizeof(clusters) / sizeof(clusters[0]); c++)
		for (size_t t = 0; t < sizeof(partitions) / sizeof(partitions[0]); t++)
			for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
				round_trip(p, clusters[c], partitions[t], ids[i]);
	assert_int_equal(berth_seal_size(63, 255, 4096), BERTH_SEALED_SIZE);
}

static void what_is_out_of_range_is_not_sealed(void **state)
{
	struct seal_place *p = with_key(state);
	static char big[5000];
	char out[BERTH_SEALED_SIZE] = "as it was";
	size_t len = 77;

	memset(big, 'x', sizeof(big));
#define REFUSED(c, cn, t, tn, i, in, room) \
	assert_int_equal(berth_seal_cursor(p->seal, c, cn, t, tn, i, in, out, room, &len), BERTH_E_INVAL)
	REFUSED(big, 0, big, 1, big, 1, sizeof(out));
	REFUSED(big, 64, big, 1, big, 1, sizeof(out));
	REFUSED(big, 1, big, 0, big, 1, sizeof(out));
	REFUSED(big, 1, big, 256, big, 1, sizeof(out));
	REFUSED(big, 1, big, 1, big, 0, sizeof(out));
	REFUSED(big, 1, big, 1, big, 4097, sizeof(out));
	REFUSED(big, SIZE_MAX, big, SIZE_MAX, big, 4, sizeof(out));
	REFUSED(NULL, 1, big, 1, big, 1, sizeof(out));
	REFUSED(big, 1, NULL, 1, big, 1, sizeof(out));
	REFUSED(big, 1, big, 1, NULL, 1, sizeof(out));
	REFUSED(big, 1, big, 1, big, 1, 0);
	for (int c = 0; c < 256; c++) {
		char cluster[2] = {'a', (char)c};
		bool plain = c && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", c);
		char room[BERTH_SEALED_SIZE];

		assert_int_equal(berth_seal_cursor(p->seal, cluster, 2, "p", 1, "i", 1, room, sizeof(room), NULL),
				 plain ? BERTH_OK : BERTH_E_INVAL);
	}
	assert_string_equal(out, "as it was");
	assert_int_equal(len, 77);
	assert_int_equal(berth_seal_size(0, 1, 1) + berth_seal_size(64, 1, 1) + berth_seal_size(1, 0, 1) +
				 berth_seal_size(1, 256, 1) + berth_seal_size(1, 1, 0) + berth_seal_size(1, 1, 4097),
			 0);

	assert_int_equal(seal_one(p), BERTH_OK);
	assert_int_equal(unseal_as(p, ""), BERTH_E_INVAL);
	assert_int_equal(berth_seal_unseal(p->seal, p->envelope, p->len, big, 256, &p->u), BERTH_E_INVAL);
	assert_int_equal(berth_seal_unseal(p->seal, NULL, 1, "acme", 4, &p->u), BERTH_E_INVAL);
	assert_int_equal(berth_seal_unseal(p->seal, p->envelope, p->len, NULL, 4, &p->u), BERTH_E_INVAL);
	assert_int_equal(berth_seal_unseal(p->seal, p->envelope, p->len, "acme", 4, NULL), BERTH_E_INVAL);
}

/* Three envelopes, of the three lengths that base64 tells apart: 0, 4 and 2 bits of the last character carry nothing. */
static void each_ending(struct seal_place *p, void (*each)(struct seal_place *))
{
	for (size_t n = 1; n <= 3; n++) {
		assert_int_equal(berth_seal_cursor(p->seal, "c1", 2, "acme", 4, "idx", n, p->envelope,
						   sizeof(p->envelope), &p->len),
				 BERTH_OK);
		assert_int_equal(unseal_one(p), BERTH_OK);
		each(p);
		assert_int_equal(unseal_one(p), BERTH_OK);
	}
}

static void refused(struct seal_place *p, const char *text, size_t len, const char *what, size_t where)
{
	struct berth_unsealed u, before;
	char *copy = malloc(len ? len : 1);

	memset(&u, 0x5a, sizeof(u));
	before = u;
	memcpy(copy, text, len);
	int rc = berth_seal_unseal(p->seal, copy, len, "acme", 4, &u);
	if (rc != BERTH_E_UNKNOWN)
		fail_msg("%s at %zu is answered with %d", what, where, rc);
	assert_memory_equal(&u, &before, sizeof(u));
	free(copy);
}

static void flip_each_bit(struct seal_place *p)
{
	unsigned char raw[SEAL_RAW_MAX];
	size_t n = 0;

	for (size_t i = 0; i < p->len * 8; i++) { /* of the text */
		p->envelope[i / 8] ^= (char)(1 << i % 8);
		refused(p, p->envelope, p->len, "a flipped bit of the text", i);
		p->envelope[i / 8] ^= (char)(1 << i % 8);
	}
	assert_int_equal(sodium_base642bin(raw, sizeof(raw), p->envelope, p->len, NULL, &n, NULL,
					   sodium_base64_VARIANT_URLSAFE_NO_PADDING),
			 0);
	for (size_t i = 0; i < n * 8; i++) { /* of what it says: well-formed base64 all the time */
		char text[BERTH_SEALED_SIZE];

		raw[i / 8] ^= (unsigned char)(1 << i % 8);
		sodium_bin2base64(text, sizeof(text), raw, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
		refused(p, text, p->len, "a flipped bit of the bytes", i);
		raw[i / 8] ^= (unsigned char)(1 << i % 8);
	}
}

static void every_flipped_bit_is_refused(void **state)
{
	each_ending(with_key(state), flip_each_bit);
}

static void cut_everywhere(struct seal_place *p)
{
	for (size_t i = 0; i < p->len; i++) {
		refused(p, p->envelope, i, "a cut", i);
		if (i)
			refused(p, p->envelope + i, p->len - i, "a missing beginning", i);
	}
}

static void every_truncation_is_refused(void **state)
{
	each_ending(with_key(state), cut_everywhere);
}

static void write_otherwise(struct seal_place *p)
{
	char text[BERTH_SEALED_SIZE], last = p->envelope[p->len - 1];

	for (const char *c = alphabet; *c; c++) { /* another last character, also one with bits that carry nothing */
		memcpy(text, p->envelope, p->len);
		text[p->len - 1] = *c;
		if (*c != last)
			refused(p, text, p->len, "another last character", (size_t)(c - alphabet));
	}
	for (unsigned c = 0; c < 256; c++) { /* one character more, behind and in front */
		memcpy(text, p->envelope, p->len);
		text[p->len] = (char)c;
		refused(p, text, p->len + 1, "a character behind", c);
		text[0] = (char)c;
		memcpy(text + 1, p->envelope, p->len);
		refused(p, text, p->len + 1, "a character in front", c);
		memcpy(text + 1 + p->len / 2, p->envelope + p->len / 2, p->len - p->len / 2);
		memcpy(text, p->envelope, p->len / 2);
		text[p->len / 2] = (char)c;
		refused(p, text, p->len + 1, "a character inside", c);
	}
	memcpy(text, p->envelope, p->len);
	memcpy(text + p->len, "==", 3);
	refused(p, text, p->len + 2, "padding", 2);
}

static void an_envelope_is_written_in_one_way_only(void **state)
{
	struct seal_place *p = with_key(state);
	char text[BERTH_SEALED_SIZE];
	bool seen = false;

	each_ending(p, write_otherwise);
	/* The other base64, where it differs. */
	for (unsigned i = 0; i < 200 && !seen; i++) {
		assert_int_equal(berth_seal_cursor(p->seal, "c1", 2, "acme", 4, &i, sizeof(i), p->envelope,
						   sizeof(p->envelope), &p->len),
				 BERTH_OK);
		memcpy(text, p->envelope, p->len);
		for (size_t c = 0; c < p->len; c++) {
			text[c] = text[c] == '-' ? '+' : text[c] == '_' ? '/' : text[c];
			seen |= text[c] != p->envelope[c];
		}
		if (seen)
			refused(p, text, p->len, "the other alphabet", 0);
	}
	assert_true(seen);
}

static void another_partition_is_told_from_a_forgery(void **state)
{
	static const char *const others[] = {"acm", "acme2", "bcme", "acmf", "ACME", "a"};
	struct seal_place *p = with_key(state);

	assert_int_equal(seal_one(p), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_OK);
	memset(&p->u, 0x5a, sizeof(p->u));
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_int_equal(unseal_as(p, others[i]), BERTH_E_NOT_OWNER);
	assert_int_equal(berth_seal_unseal(p->seal, p->envelope, p->len, "acme\0", 5, &p->u), BERTH_E_NOT_OWNER);
	assert_int_equal(p->u.id_len, 0x5a5a);
	p->envelope[p->len - 3] ^= 1;
	assert_int_equal(unseal_as(p, "bcme"), BERTH_E_UNKNOWN);
}

/* An envelope with these lengths and these bytes behind them, and a tag that is right. */
static size_t craft(char *text, unsigned version, size_t n_cluster, size_t n_partition, size_t n_id, size_t n_more)
{
	static const unsigned char personal[16] = "berth.sealed.v1";
	unsigned char raw[8192] = {(unsigned char)version, 0, 0, 0, 1}, secret[SEAL_SECRET_SIZE];
	size_t at = 5;

	seal_secret(1, secret);
	raw[at++] = (unsigned char)n_cluster;
	memset(raw + at, 'c', n_cluster);
	at += n_cluster;
	raw[at++] = (unsigned char)n_partition;
	memset(raw + at, 'p', n_partition);
	at += n_partition;
	raw[at++] = (unsigned char)(n_id >> 8);
	raw[at++] = (unsigned char)n_id;
	memset(raw + at, 'i', n_id + n_more);
	at += n_id + n_more;
	crypto_generichash_blake2b_salt_personal(raw + at, 16, raw, at, secret, sizeof(secret), NULL, personal);
	at += 16;
	sodium_bin2base64(text, 11000, raw, at, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	return strlen(text);
}

static void lengths_out_of_range_are_refused_even_with_a_tag_that_is_right(void **state)
{
	struct seal_place *p = with_key(state);
	char *text = malloc(11000);

	size_t len = craft(text, 1, 2, 4, 2, 0);
	assert_int_equal(berth_seal_unseal(p->seal, text, len, "pppp", 4, &p->u), BERTH_OK);
	assert_string_equal(p->u.id, "ii");
	refused(p, text, craft(text, 0, 2, 4, 2, 0), "version", 0);
	refused(p, text, craft(text, 2, 2, 4, 2, 0), "version", 2);
	refused(p, text, craft(text, 1, 0, 4, 2, 0), "cluster", 0);
	refused(p, text, craft(text, 1, 64, 4, 2, 0), "cluster", 64);
	refused(p, text, craft(text, 1, 2, 0, 2, 0), "partition", 0);
	refused(p, text, craft(text, 1, 2, 4, 0, 0), "id", 0);
	refused(p, text, craft(text, 1, 2, 4, 4097, 0), "id", 4097);
	refused(p, text, craft(text, 1, 63, 255, 4096, 1), "too long", 1);
	refused(p, text, craft(text, 1, 2, 4, 2, 1), "left over", 1);
	refused(p, text, craft(text, 1, 2, 4, 2, 3000), "left over", 3000);
	refused(p, "", 0, "nothing", 0);
	free(text);
}

static void equal_arguments_make_equal_envelopes_and_no_others_do(void **state)
{
	static const char *const rows[][3] = {
		{"ab", "c", "d"}, {"a", "bc", "d"}, {"a", "b", "cd"}, {"ab", "cd", "e"}, {"b", "a", "cd"}};
	struct seal_place *p = with_key(state);
	char first[5][BERTH_SEALED_SIZE];

	for (size_t i = 0; i < 5; i++) {
		for (unsigned again = 0; again < 2; again++) {
			assert_int_equal(berth_seal_cursor(p->seal, rows[i][0], strlen(rows[i][0]), rows[i][1],
							   strlen(rows[i][1]), rows[i][2], strlen(rows[i][2]),
							   p->envelope, sizeof(p->envelope), NULL),
					 BERTH_OK);
			if (again)
				assert_string_equal(p->envelope, first[i]);
			strcpy(first[i], p->envelope);
		}
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(first[i], first[j]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SEAL_TEST(an_envelope_is_these_very_bytes),
		SEAL_TEST(what_is_sealed_is_opened_at_all_borders_of_lengths),
		SEAL_TEST(what_is_out_of_range_is_not_sealed),
		SEAL_TEST(every_flipped_bit_is_refused),
		SEAL_TEST(every_truncation_is_refused),
		SEAL_TEST(an_envelope_is_written_in_one_way_only),
		SEAL_TEST(another_partition_is_told_from_a_forgery),
		SEAL_TEST(lengths_out_of_range_are_refused_even_with_a_tag_that_is_right),
		SEAL_TEST(equal_arguments_make_equal_envelopes_and_no_others_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
