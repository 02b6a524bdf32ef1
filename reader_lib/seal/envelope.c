/* SPDX-License-Identifier: MIT
 * Envelopes: their bytes, their text, their tag. Called by seal.c and by `berth seal inspect`. Decides nothing about
 * partitions, knows no file. Pure; any thread.
 *
 *    0         1            5      6                                              -16
 *    | version | key id (4) | n: 1 | cluster: n | n: 1 | partition: n | n: 2 | id: n | tag: 16 |
 *    '---------------------------------- the tag is over these ----------------------'
 *
 * Numbers are big-endian. Nothing is padded, nothing may be left over, and base64url is written without `=` and with
 * zeros in the bits of the last character that carry nothing: every envelope has one text, so a change anywhere in the
 * text is a change of what the tag covers, or no envelope. */
#include <sodium.h>
#include <string.h>

#include "internal.h"

_Static_assert(BERTH_SEALED_SIZE == (SEAL_RAW_MAX * 4 + 2) / 3 + 1, "BERTH_SEALED_SIZE is the largest envelope");
_Static_assert(SEAL_TAG_SIZE >= crypto_generichash_BYTES_MIN && SEAL_SECRET_SIZE == crypto_generichash_KEYBYTES,
	       "sizes that BLAKE2b takes");

/* Keyed BLAKE2b: a MAC by design, one pass, and its parameters (length, personalization) keep these tags apart from
 * whatever else a key may ever be used for. 16 bytes, because they travel with every page of every scroll, and a forger
 * has one try a request. */
static void make_tag(const unsigned char *bytes, size_t len, const unsigned char secret[SEAL_SECRET_SIZE],
		     unsigned char tag[SEAL_TAG_SIZE])
{
	static const unsigned char personal[crypto_generichash_blake2b_PERSONALBYTES] = "berth.sealed.v1";

	crypto_generichash_blake2b_salt_personal(tag, SEAL_TAG_SIZE, bytes, len, secret, SEAL_SECRET_SIZE, NULL,
						 personal);
}

bool bs_envelope_cluster_ok(const unsigned char *cluster, size_t len)
{
	static const char others[] = "._-";

	if (len < 1 || len > BERTH_SEAL_CLUSTER_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = cluster[i];
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!plain && !memchr(others, c, sizeof(others) - 1))
			return false;
	}
	return true;
}

/* n bytes of what is left; NULL when there are not so many. */
static const unsigned char *take(const unsigned char **at, const unsigned char *end, size_t n)
{
	const unsigned char *p = *at;

	if ((size_t)(end - p) < n)
		return NULL;
	*at = p + n;
	return p;
}

/* A length of `bytes` bytes, then so many: 1..most. NULL: not so. */
static const unsigned char *take_text(const unsigned char **at, const unsigned char *end, size_t bytes, size_t most,
				      size_t *len)
{
	const unsigned char *p = take(at, end, bytes);
	size_t n = 0;

	if (!p)
		return NULL;
	for (size_t i = 0; i < bytes; i++)
		n = n << 8 | p[i];
	if (n < 1 || n > most)
		return NULL;
	*len = n;
	return take(at, end, n);
}

bool bs_envelope_read(const char *text, size_t len, unsigned char raw[SEAL_RAW_MAX], struct seal_view *v)
{
	size_t n = 0;

	if (!bs_base64_read(text, len, raw, SEAL_RAW_MAX, &n))
		return false;

	const unsigned char *at = raw, *end = raw + n;
	const unsigned char *head = take(&at, end, 5);
	if (!head || head[0] != SEAL_VERSION)
		return false;
	v->bytes = raw;
	v->key_id = (uint32_t)head[1] << 24 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 8 | head[4];
	v->cluster = take_text(&at, end, 1, BERTH_SEAL_CLUSTER_MAX, &v->cluster_len);
	if (!v->cluster || !bs_envelope_cluster_ok(v->cluster, v->cluster_len))
		return false;
	v->partition = take_text(&at, end, 1, BERTH_SEAL_PARTITION_MAX, &v->partition_len);
	if (!v->partition)
		return false;
	v->id = take_text(&at, end, 2, BERTH_SEAL_ID_MAX, &v->id_len);
	if (!v->id)
		return false;
	v->tag = take(&at, end, SEAL_TAG_SIZE);
	return v->tag && at == end;
}

bool bs_envelope_authentic(const struct seal_view *v, const unsigned char secret[SEAL_SECRET_SIZE])
{
	unsigned char tag[SEAL_TAG_SIZE];

	make_tag(v->bytes, (size_t)(v->tag - v->bytes), secret, tag);
	bool same = sodium_memcmp(tag, v->tag, sizeof(tag)) == 0;
	sodium_memzero(tag, sizeof(tag)); /* after a forgery it is what the forger looks for */
	return same;
}

static void put(unsigned char **at, const void *bytes, size_t n)
{
	memcpy(*at, bytes, n);
	*at += n;
}

size_t bs_envelope_write(const struct seal_view *v, const unsigned char secret[SEAL_SECRET_SIZE], char *out)
{
	unsigned char raw[SEAL_RAW_MAX], *at = raw;
	const unsigned char head[] = {SEAL_VERSION,
				      (unsigned char)(v->key_id >> 24),
				      (unsigned char)(v->key_id >> 16),
				      (unsigned char)(v->key_id >> 8),
				      (unsigned char)v->key_id,
				      (unsigned char)v->cluster_len};
	const unsigned char partition_len = (unsigned char)v->partition_len;
	const unsigned char id_len[] = {(unsigned char)(v->id_len >> 8), (unsigned char)v->id_len};

	put(&at, head, sizeof(head));
	put(&at, v->cluster, v->cluster_len);
	put(&at, &partition_len, 1);
	put(&at, v->partition, v->partition_len);
	put(&at, id_len, sizeof(id_len));
	put(&at, v->id, v->id_len);
	make_tag(raw, (size_t)(at - raw), secret, at);
	at += SEAL_TAG_SIZE;
	return bs_base64_write(raw, (size_t)(at - raw), out);
}

size_t berth_seal_size(size_t cluster_len, size_t partition_len, size_t id_len)
{
	if (cluster_len < 1 || cluster_len > BERTH_SEAL_CLUSTER_MAX || partition_len < 1 ||
	    partition_len > BERTH_SEAL_PARTITION_MAX || id_len < 1 || id_len > BERTH_SEAL_ID_MAX)
		return 0;
	return ((SEAL_FIXED + cluster_len + partition_len + id_len) * 4 + 2) / 3 + 1;
}
