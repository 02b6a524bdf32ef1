/* SPDX-License-Identifier: MIT
 * Sets of keys, from the text of a key file. Called by key_file.c, seal.c and `berth seal`. Opens nothing; secrets live
 * in memory of libsodium alone. Pure; any thread.
 *
 * A key file has a key a line; empty lines and what begins with # are passed over:
 *    ID  CREATED               ACTIVE-FROM           SECRET
 *    2   2026-01-31T12:00:00Z  2026-01-31T12:05:00Z  64 hex digits
 * It is taken whole or not at all. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

struct field {
	const char *at;
	size_t len;
};

static bool number(const char *s, size_t len, uint64_t most, uint64_t *out)
{
	uint64_t n = 0;

	if (len < 1 || len > 10)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(s[i] - '0');
	}
	*out = n;
	return n <= most;
}

bool bs_time_parse(const char *text, size_t len, int64_t *out_s)
{
	static const char form[] = "dddd-dd-ddTdd:dd:ddZ";
	uint64_t n[6] = {0};
	size_t part = 0;

	if (len != sizeof(form) - 1)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (form[i] != 'd') {
			if (text[i] != form[i])
				return false;
			part++;
		} else if (text[i] < '0' || text[i] > '9') {
			return false;
		} else {
			n[part] = n[part] * 10 + (uint64_t)(text[i] - '0');
		}
	}
	struct tm tm = {.tm_year = (int)n[0] - 1900,
			.tm_mon = (int)n[1] - 1,
			.tm_mday = (int)n[2],
			.tm_hour = (int)n[3],
			.tm_min = (int)n[4],
			.tm_sec = (int)n[5]};
	char again[SEAL_TIME_SIZE];
	int64_t s = n[0] < 1970 ? -1 : timegm(&tm);

	if (s < 0 || tm.tm_year > 9999 - 1900)
		return false;
	bs_time_print(s, again);
	if (memcmp(again, text, len) != 0) /* no such day, or hour */
		return false;
	*out_s = s;
	return true;
}

void bs_time_print(int64_t s, char out[SEAL_TIME_SIZE])
{
	time_t t = (time_t)s;
	struct tm tm = {0};

	gmtime_r(&t, &tm);
	if (strftime(out, SEAL_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		out[0] = '\0';
}

/* Splits a line at blanks; how many fields there are, at most `most` of which are kept. */
static size_t split(const char *line, size_t len, struct field *fields, size_t most)
{
	size_t n = 0, i = 0;

	for (;;) {
		while (i < len && (line[i] == ' ' || line[i] == '\t'))
			i++;
		if (i == len || line[i] == '#')
			return n;
		size_t start = i;
		while (i < len && line[i] != ' ' && line[i] != '\t')
			i++;
		if (n < most)
			fields[n] = (struct field){line + start, i - start};
		n++;
	}
}

/* One line with fields into key k->n; NULL, or what is wrong. */
static const char *take_key(struct seal_keys *k, const struct field f[4], size_t n, unsigned line)
{
	uint64_t id;
	size_t got = 0;

	if (n != 4)
		return "a key has four fields: id, created, active-from, 64 hex digits";
	if (!number(f[0].at, f[0].len, UINT32_MAX, &id) || id == 0 || f[0].at[0] == '0')
		return "the id is a number from 1 to 4294967295";
	if (k->n == SEAL_KEYS_MAX)
		return "more than 64 keys: drop old ones with `berth seal rotate --keep`";
	if (bs_keys_find(k, (uint32_t)id) >= 0)
		return "this id is another key's already";
	struct seal_key *key = &k->key[k->n];
	*key = (struct seal_key){.id = (uint32_t)id, .line = line};
	if (!bs_time_parse(f[1].at, f[1].len, &key->created_s))
		return "created is no time like 2026-01-31T23:59:58Z";
	if (!bs_time_parse(f[2].at, f[2].len, &key->active_s))
		return "active-from is no time like 2026-01-31T23:59:58Z";
	if (f[3].len != 2 * SEAL_SECRET_SIZE ||
	    sodium_hex2bin(k->secret[k->n], SEAL_SECRET_SIZE, f[3].at, f[3].len, NULL, &got, NULL) != 0 ||
	    got != SEAL_SECRET_SIZE)
		return "the secret is not 64 hex digits";
	if (sodium_is_zero(k->secret[k->n], SEAL_SECRET_SIZE))
		return "the secret is all zero: make one with `berth seal keygen` or `rotate`";
	k->n++;
	return NULL;
}

static const char *take_lines(struct seal_keys *k, const char *text, size_t len, unsigned *line)
{
	for (size_t at = 0; at < len;) {
		const char *end = memchr(text + at, '\n', len - at);
		size_t n = end ? (size_t)(end - text) - at : len - at;
		struct field fields[4] = {{0}};

		++*line;
		size_t n_fields = split(text + at, n, fields, 4);
		const char *what = n_fields ? take_key(k, fields, n_fields, *line) : NULL;
		if (what)
			return what;
		at += n + 1;
	}
	*line = 0;
	return k->n ? NULL : "there is no key in it: make one with `berth seal keygen`";
}

int bs_keys_parse(const char *text, size_t len, struct seal_keys **out, struct seal_fault *fault)
{
	struct seal_keys *k = calloc(1, sizeof(*k));
	unsigned line = 0;

	if (k)
		k->secret = sodium_allocarray(SEAL_KEYS_MAX, SEAL_SECRET_SIZE);
	if (!k || !k->secret) {
		free(k);
		return BERTH_E_NOMEM;
	}
	const char *what = take_lines(k, text, len, &line);
	if (what) {
		*fault = (struct seal_fault){.line = line, .what = what};
		bs_keys_free(k);
		return BERTH_E_CORRUPT;
	}
	sodium_mprotect_readonly(k->secret);
	k->users = 1;
	*out = k;
	return BERTH_OK;
}

void bs_keys_free(struct seal_keys *k)
{
	if (k)
		sodium_free(k->secret); /* wipes it */
	free(k);
}

int bs_keys_sealing(const struct seal_keys *k, int64_t now_s)
{
	int best = -1;

	for (unsigned i = 0; i < k->n; i++) {
		const struct seal_key *key = &k->key[i], *other = best < 0 ? NULL : &k->key[best];

		if (key->active_s > now_s)
			continue;
		if (!other || key->active_s > other->active_s ||
		    (key->active_s == other->active_s && key->id > other->id))
			best = (int)i;
	}
	return best;
}

int bs_keys_find(const struct seal_keys *k, uint32_t id)
{
	for (unsigned i = 0; i < k->n; i++)
		if (k->key[i].id == id)
			return (int)i;
	return -1;
}
