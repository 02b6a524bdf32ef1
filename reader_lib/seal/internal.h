/* SPDX-License-Identifier: MIT
 * What the files of libberth-seal share, and what `berth seal` uses of them: envelopes as bytes, sets of keys, key
 * files. Nothing here is installed. Functions are pure unless they say otherwise; any thread. */
#ifndef BERTH_SEAL_INTERNAL_H
#define BERTH_SEAL_INTERNAL_H

#include <stdbool.h>
#include <sys/stat.h>

#pragma GCC visibility push(default)
#include "berth_seal.h"
#pragma GCC visibility pop

enum {
	SEAL_VERSION = 1,
	SEAL_TAG_SIZE = 16,
	SEAL_SECRET_SIZE = 32,
	SEAL_KEYS_MAX = 64,                             /* in one file */
	SEAL_FILE_MAX = 65536,                          /* bytes of one file */
	SEAL_TIME_SIZE = 21,                            /* "2026-01-31T23:59:58Z" */
	SEAL_FIXED = 1 + 4 + 1 + 1 + 2 + SEAL_TAG_SIZE, /* bytes of an envelope beside its three texts */
	SEAL_RAW_MAX = SEAL_FIXED + BERTH_SEAL_CLUSTER_MAX + BERTH_SEAL_PARTITION_MAX + BERTH_SEAL_ID_MAX
};

/* ---- keys (keys.c) ------------------------------------------------------------------------------------------------ */

struct seal_key {
	uint32_t id;                 /* 1.., never another key's */
	unsigned line;               /* of the file, from 1 */
	int64_t created_s, active_s; /* CLOCK_REALTIME */
};

/* The keys of one reading. Never changed after bs_keys_parse but for `users`, which its holder guards. */
struct seal_keys {
	unsigned users, n;
	struct seal_key key[SEAL_KEYS_MAX];
	unsigned char (*secret)[SEAL_SECRET_SIZE]; /* n of them in memory of libsodium: locked, guarded, read-only */
};

/* What is wrong with a key file, and where; line 0: with the file as a whole. */
struct seal_fault {
	unsigned line;
	const char *what; /* static */
};

/* A set from the text of a key file, with one user. BERTH_E_CORRUPT with *fault filled, BERTH_E_NOMEM. sodium_init() has
 * to have run. */
int bs_keys_parse(const char *text, size_t len, struct seal_keys **out, struct seal_fault *fault);
void bs_keys_free(struct seal_keys *); /* NULL is allowed */
/* Index of the key that seals at that time, of the key with that id; -1: none. */
int bs_keys_sealing(const struct seal_keys *, int64_t now_s);
int bs_keys_find(const struct seal_keys *, uint32_t id);

/* RFC 3339 in UTC, to the second: "2026-01-31T23:59:58Z", years 1970 to 9999. */
bool bs_time_parse(const char *text, size_t len, int64_t *out_s);
void bs_time_print(int64_t s, char out[SEAL_TIME_SIZE]); /* s: of that range */

/* ---- key files (key_file.c) --------------------------------------------------------------------------------------- */

/* Reads the text of a key file into memory of libsodium, after the checks of berth_seal_open; errors as there. *st: the
 * file as it was before it was read. *text is freed with sodium_free. Makes system calls. */
int bs_file_read(const char *path, char **text, size_t *len, struct stat *st, struct seal_fault *fault);
/* bs_file_read, then bs_keys_parse. */
int bs_file_load(const char *path, struct seal_keys **out, struct stat *st, struct seal_fault *fault);

/* ---- envelopes (envelope.c) --------------------------------------------------------------------------------------- */

/* An envelope's parts, pointing into its bytes. */
struct seal_view {
	uint32_t key_id;
	size_t cluster_len, partition_len, id_len;
	const unsigned char *cluster, *partition, *id;
	const unsigned char *bytes, *tag; /* the tag is over all from bytes to itself */
};

/* Takes the text of an envelope apart, into raw and *v. Says nothing of who made it. False: no envelope, or not written
 * in the one way in which that envelope is written. */
bool bs_envelope_read(const char *text, size_t len, unsigned char raw[SEAL_RAW_MAX], struct seal_view *v);
/* Is the tag the one that this secret makes? In constant time. */
bool bs_envelope_authentic(const struct seal_view *v, const unsigned char secret[SEAL_SECRET_SIZE]);
/* The parts of *v (key_id, the three texts; in range) as an envelope's text with a NUL; its length. out: room for
 * berth_seal_size() bytes. */
size_t bs_envelope_write(const struct seal_view *v, const unsigned char secret[SEAL_SECRET_SIZE], char *out);
bool bs_envelope_cluster_ok(const unsigned char *cluster, size_t len);

/* ---- their text (base64.c) ---------------------------------------------------------------------------------------- */

/* base64url without padding, and a NUL; the length without it. out: (n * 4 + 2) / 3 + 1 bytes. */
size_t bs_base64_write(const unsigned char *bytes, size_t n, char *out);
/* The bytes of a text, at most `room`. False: too many, or it is not what bs_base64_write makes of any bytes. */
bool bs_base64_read(const char *text, size_t len, unsigned char *out, size_t room, size_t *n);

#endif
