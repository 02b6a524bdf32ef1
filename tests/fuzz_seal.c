/* SPDX-License-Identifier: MIT
 * libFuzzer target for what sealed cursors take from outside: envelopes and key files. Whatever the bytes are, there is
 * no look outside of them, and one verdict: an envelope that is taken apart is the one text of what it says, opens under
 * its tag's key alone, and is what sealing its parts makes; a key file is taken whole, with keys that are what its lines
 * say. One thread; keeps nothing between runs but one key file in memory's file system.
 *
 * First byte of the input, what follows it:
 *   0  an envelope's text      1  the bytes of one, to be written as text      2  the same with a tag that is right
 *   3  a key file              4  a key line behind two good ones */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../reader_lib/seal/internal.h"

#define HOLDS(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

#define VARIANT sodium_base64_VARIANT_URLSAFE_NO_PADDING
#define SECRET1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
static const char good[] = "1 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z " SECRET1 "\n"
			   "7 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z ff" SECRET1 "\n";

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static struct berth_seal *seal;
static unsigned char secret[SEAL_SECRET_SIZE];

static void start(void)
{
	char text[sizeof(good)], path[64];
	size_t len = sizeof(good) - 1;

	/* of the second key: 64 digits, not 66 */
	memcpy(text, good, sizeof(good));
	text[len - 3] = '\n';
	len -= 2;
	snprintf(path, sizeof(path), "/dev/shm/berth-fuzz-seal-%d", (int)getpid());
	FILE *f = fopen(path, "w");
	HOLDS(f && fwrite(text, 1, len, f) == len && fclose(f) == 0 && chmod(path, 0600) == 0);
	HOLDS(berth_seal_open(path, &seal) == BERTH_OK);
	unlink(path);
	for (unsigned i = 0; i < SEAL_SECRET_SIZE; i++)
		secret[i] = (unsigned char)i;
}

/* ---- envelopes ---- */

/* Our decoder against that of libsodium, which forgives: what it takes must be the one text of its bytes. */
static void codec(const char *text, size_t len)
{
	unsigned char ours[SEAL_RAW_MAX], theirs[SEAL_RAW_MAX];
	char again[BERTH_SEALED_SIZE];
	size_t n = 0, m = 0;

	bool taken = bs_base64_read(text, len, ours, sizeof(ours), &n);
	bool same = sodium_base642bin(theirs, sizeof(theirs), text, len, NULL, &m, NULL, VARIANT) == 0;
	if (same) {
		sodium_bin2base64(again, sizeof(again), theirs, m, VARIANT);
		same = strlen(again) == len && memcmp(again, text, len) == 0;
	}
	HOLDS(taken == same);
	HOLDS(!taken || (n == m && memcmp(ours, theirs, n) == 0));
	if (taken)
		HOLDS(bs_base64_write(ours, n, again) == len && memcmp(again, text, len) == 0);
}

static void envelope(const char *text, size_t len, bool tagged)
{
	unsigned char raw[SEAL_RAW_MAX];
	struct berth_unsealed u;
	struct seal_view v;
	char again[BERTH_SEALED_SIZE], partition[BERTH_SEAL_PARTITION_MAX];

	codec(text, len);
	if (!bs_envelope_read(text, len, raw, &v)) {
		HOLDS(berth_seal_unseal(seal, text, len, "p", 1, &u) == BERTH_E_UNKNOWN);
		return;
	}
	memcpy(partition, v.partition, v.partition_len);
	int rc = berth_seal_unseal(seal, text, len, partition, v.partition_len, &u);
	HOLDS(rc == BERTH_OK || rc == BERTH_E_UNKNOWN);
	HOLDS((rc == BERTH_OK) == (bs_envelope_authentic(&v, secret) && v.key_id == 1) || v.key_id == 7);
	HOLDS(!tagged || v.key_id != 1 || rc == BERTH_OK);
	/* With the right tag it is what sealing makes of its parts; without it nothing but the tag may differ. */
	size_t n = bs_envelope_write(&v, secret, again);
	HOLDS(n == len && n + 1 == berth_seal_size(v.cluster_len, v.partition_len, v.id_len));
	HOLDS((memcmp(again, text, len) == 0) == bs_envelope_authentic(&v, secret));
	if (rc != BERTH_OK)
		return;
	HOLDS(u.id_len == v.id_len && memcmp(u.id, v.id, v.id_len) == 0 && u.id[u.id_len] == '\0');
	HOLDS(strlen(u.cluster) == u.cluster_len && u.key_id == v.key_id);
	partition[0] ^= 1;
	HOLDS(berth_seal_unseal(seal, text, len, partition, v.partition_len, &u) == BERTH_E_NOT_OWNER);
}

static void bytes(const unsigned char *data, size_t size, bool tagged)
{
	static const unsigned char personal[16] = "berth.sealed.v1";
	unsigned char raw[SEAL_RAW_MAX + 8];
	char text[BERTH_SEALED_SIZE + 16];
	size_t most = sizeof(raw) - (tagged ? SEAL_TAG_SIZE : 0);

	size = size < most ? size : most;
	memcpy(raw, data, size);
	if (tagged) {
		crypto_generichash_blake2b_salt_personal(raw + size, SEAL_TAG_SIZE, raw, size, secret, sizeof(secret),
							 NULL, personal);
		size += SEAL_TAG_SIZE;
	}
	sodium_bin2base64(text, sizeof(text), raw, size, VARIANT);
	char *copy = malloc(strlen(text) + 1); /* whose end a sanitizer watches */
	HOLDS(copy);
	memcpy(copy, text, strlen(text));
	envelope(copy, strlen(text), tagged);
	free(copy);
}

/* ---- key files ---- */

static void key_file(const char *text, size_t len)
{
	struct seal_keys *k = NULL;
	struct seal_fault fault = {0};
	unsigned lines = 1;

	int rc = bs_keys_parse(text, len, &k, &fault);
	for (size_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	if (rc != BERTH_OK) {
		HOLDS(rc == BERTH_E_CORRUPT && !k && fault.what && fault.line <= lines);
		return;
	}
	HOLDS(k->n >= 1 && k->n <= SEAL_KEYS_MAX && k->users == 1);
	for (unsigned i = 0; i < k->n; i++) {
		const struct seal_key *key = &k->key[i];
		char line[256], created[SEAL_TIME_SIZE], active[SEAL_TIME_SIZE];
		struct seal_keys *one = NULL;

		HOLDS(bs_keys_find(k, key->id) == (int)i && key->line >= 1 && key->line <= lines);
		bs_time_print(key->created_s, created);
		bs_time_print(key->active_s, active);
		int n = snprintf(line, sizeof(line), "%u %s %s ", key->id, created, active);
		sodium_bin2hex(line + n, sizeof(line) - (size_t)n, k->secret[i], SEAL_SECRET_SIZE);
		HOLDS(bs_keys_parse(line, strlen(line), &one, &fault) == BERTH_OK && one->n == 1);
		HOLDS(one->key[0].id == key->id && one->key[0].active_s == key->active_s &&
		      memcmp(one->secret[0], k->secret[i], SEAL_SECRET_SIZE) == 0);
		bs_keys_free(one);
		int s = bs_keys_sealing(k, key->active_s);
		HOLDS(s >= 0 && k->key[s].active_s == key->active_s && k->key[s].id >= key->id);
	}
	bs_keys_free(k);
}

static void behind_good_ones(const char *line, size_t len)
{
	size_t n = sizeof(good) - 1;
	char *text = malloc(n + len);

	HOLDS(text);
	memcpy(text, good, n);
	text[n - 3] = text[n - 2] = ' '; /* 64 digits, not 66 */
	memcpy(text + n, line, len);
	key_file(text, n + len);
	free(text);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	if (!seal)
		start();
	if (size == 0)
		return 0;
	switch (data[0] % 5) {
	case 0:
		envelope((const char *)data + 1, size - 1, false);
		break;
	case 1:
	case 2:
		bytes(data + 1, size - 1, data[0] % 5 == 2);
		break;
	case 3:
		key_file((const char *)data + 1, size - 1);
		break;
	default:
		behind_good_ones((const char *)data + 1, size - 1);
	}
	return 0;
}
