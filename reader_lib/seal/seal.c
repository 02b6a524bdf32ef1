/* SPDX-License-Identifier: MIT
 * The handle: which keys are the present ones, when the key file is read again, and the two calls that a proxy makes.
 * Called by the proxy's threads, any number at once; starts none.
 *
 * G1 A set of keys is never changed; a call uses the one that it took hold of to its end, and the last user frees it.
 * G2 `hold` guards `keys` and every set's `users`, and is held for a few instructions. `reading` is held by who reads
 *    the file, over system calls; `seen` and `again` are its. Order: reading, then hold.
 * G3 An envelope of a key that is in the file is not refused because another thread has just begun to read the file:
 *    who does not find a key waits for `reading`, then looks again. */
#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

#define LOOK_MS 1000u /* between two looks at the file that nothing asked for */
#define SETTLED_S 2   /* a file that was changed less long ago may change again without another time */

_Static_assert(sizeof(struct berth_unsealed) == 4196, "struct berth_unsealed is ABI");
_Static_assert(offsetof(struct berth_unsealed, cluster) == 32 && offsetof(struct berth_unsealed, id) == 96, "ABI");

struct berth_seal {
	char *path;
	pthread_mutex_t hold, reading;
	struct seal_keys *keys;
	struct stat seen;                      /* of the last reading, successful or not */
	bool again;                            /* read it at the next look even if it seems the same */
	_Atomic uint64_t next_look, next_miss; /* CLOCK_MONOTONIC_COARSE, ms */
};

static uint64_t coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int64_t realtime_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec;
}

/* Once every LOOK_MS, for one of the threads that ask. */
static bool due(_Atomic uint64_t *next)
{
	uint64_t now = coarse_ms(), at = atomic_load_explicit(next, memory_order_relaxed);

	/* Relaxed: it orders nothing, it only picks a thread. */
	return now >= at && atomic_compare_exchange_strong_explicit(next, &at, now + LOOK_MS, memory_order_relaxed,
								    memory_order_relaxed);
}

static struct seal_keys *keys_get(struct berth_seal *s)
{
	pthread_mutex_lock(&s->hold);
	struct seal_keys *k = s->keys;
	k->users++;
	pthread_mutex_unlock(&s->hold);
	return k;
}

static void keys_put(struct berth_seal *s, struct seal_keys *k)
{
	pthread_mutex_lock(&s->hold);
	bool last = --k->users == 0;
	pthread_mutex_unlock(&s->hold);
	if (last)
		bs_keys_free(k);
}

/* Reads the file; on BERTH_OK its keys are the present ones. `reading` is held. */
static int load(struct berth_seal *s)
{
	struct seal_keys *fresh = NULL, *old;
	struct seal_fault fault;
	struct stat st = {0};
	int rc = bs_file_load(s->path, &fresh, &st, &fault);

	s->seen = st;
	s->again = rc != BERTH_OK || realtime_s() - st.st_mtim.tv_sec < SETTLED_S;
	if (rc != BERTH_OK)
		return rc;
	pthread_mutex_lock(&s->hold);
	old = s->keys;
	s->keys = fresh;
	pthread_mutex_unlock(&s->hold);
	if (old)
		keys_put(s, old);
	return BERTH_OK;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* `reading` is held. A file that is gone has not changed: its keys stay. */
static bool changed(const struct berth_seal *s)
{
	struct stat st;

	return lstat(s->path, &st) == 0 &&
	       (st.st_ino != s->seen.st_ino || st.st_dev != s->seen.st_dev || st.st_size != s->seen.st_size ||
		st.st_mode != s->seen.st_mode || !same_time(&st.st_mtim, &s->seen.st_mtim) ||
		!same_time(&st.st_ctim, &s->seen.st_ctim));
}

/* The look once a second; never waits for another thread. */
static void look(struct berth_seal *s)
{
	if (!due(&s->next_look) || pthread_mutex_trylock(&s->reading) != 0)
		return;
	if (s->again || changed(s))
		load(s);
	pthread_mutex_unlock(&s->reading);
}

/* An envelope names a key that is not in `k`: the present keys if it is in them, after a reading if need be (G3); else
 * NULL. Takes k over. Whoever floods us with made-up ids gets a reading a second out of it, and an lstat each. */
static struct seal_keys *keys_with(struct berth_seal *s, struct seal_keys *k, uint32_t id)
{
	keys_put(s, k);
	pthread_mutex_lock(&s->reading);
	k = keys_get(s);
	if (bs_keys_find(k, id) < 0 && (changed(s) || due(&s->next_miss)) && load(s) == BERTH_OK) {
		keys_put(s, k);
		k = keys_get(s);
	}
	pthread_mutex_unlock(&s->reading);
	if (bs_keys_find(k, id) >= 0)
		return k;
	keys_put(s, k);
	return NULL;
}

/* ---- the handle --------------------------------------------------------------------------------------------------- */

int berth_seal_open(const char *key_file, struct berth_seal **out)
{
	if (!key_file || !key_file[0] || !out)
		return BERTH_E_INVAL;
	struct berth_seal *s = calloc(1, sizeof(*s));
	if (!s || !(s->path = strdup(key_file))) {
		free(s);
		return BERTH_E_NOMEM;
	}
	pthread_mutex_init(&s->hold, NULL); /* neither fails: Linux has nothing to allocate for them */
	pthread_mutex_init(&s->reading, NULL);
	atomic_init(&s->next_look, coarse_ms() + LOOK_MS);
	pthread_mutex_lock(&s->reading);
	int rc = load(s), saved = errno;
	pthread_mutex_unlock(&s->reading);
	if (rc == BERTH_OK)
		*out = s;
	else
		berth_seal_close(&s);
	errno = saved;
	return rc;
}

void berth_seal_close(struct berth_seal **handle)
{
	struct berth_seal *s = handle ? *handle : NULL;

	if (!s)
		return;
	bs_keys_free(s->keys);
	pthread_mutex_destroy(&s->hold);
	pthread_mutex_destroy(&s->reading);
	free(s->path);
	free(s);
	*handle = NULL;
}

int berth_seal_reload(struct berth_seal *s)
{
	if (!s)
		return BERTH_E_INVAL;
	pthread_mutex_lock(&s->reading);
	int rc = load(s), saved = errno;
	pthread_mutex_unlock(&s->reading);
	errno = saved;
	return rc;
}

/* ---- sealing and opening ------------------------------------------------------------------------------------------ */

int berth_seal_cursor(struct berth_seal *s, const char *cluster, size_t cluster_len, const void *partition,
		      size_t partition_len, const void *id, size_t id_len, char *out, size_t size, size_t *out_len)
{
	size_t need = berth_seal_size(cluster_len, partition_len, id_len);

	if (!s || !cluster || !partition || !id || !out || !need || size < need ||
	    !bs_envelope_cluster_ok((const unsigned char *)cluster, cluster_len))
		return BERTH_E_INVAL;
	look(s);
	struct seal_keys *k = keys_get(s);
	int i = bs_keys_sealing(k, realtime_s());
	if (i >= 0) {
		const struct seal_view v = {.key_id = k->key[i].id,
					    .cluster_len = cluster_len,
					    .partition_len = partition_len,
					    .id_len = id_len,
					    .cluster = (const unsigned char *)cluster,
					    .partition = partition,
					    .id = id};
		size_t len = bs_envelope_write(&v, k->secret[i], out);
		if (out_len)
			*out_len = len;
	}
	keys_put(s, k);
	return i >= 0 ? BERTH_OK : BERTH_E_AGAIN;
}

static bool authentic(struct berth_seal *s, const struct seal_view *v)
{
	struct seal_keys *k = keys_get(s);

	if (bs_keys_find(k, v->key_id) < 0)
		k = keys_with(s, k, v->key_id);
	if (!k)
		return false;
	bool yes = bs_envelope_authentic(v, k->secret[bs_keys_find(k, v->key_id)]);
	keys_put(s, k);
	return yes;
}

int berth_seal_unseal(struct berth_seal *s, const char *envelope, size_t len, const void *partition,
		      size_t partition_len, struct berth_unsealed *out)
{
	unsigned char raw[SEAL_RAW_MAX];
	struct seal_view v;

	if (!s || !envelope || !partition || partition_len < 1 || partition_len > BERTH_SEAL_PARTITION_MAX || !out)
		return BERTH_E_INVAL;
	look(s);
	if (!bs_envelope_read(envelope, len, raw, &v) || !authentic(s, &v))
		return BERTH_E_UNKNOWN;
	if (v.partition_len != partition_len || sodium_memcmp(v.partition, partition, partition_len) != 0)
		return BERTH_E_NOT_OWNER;
	out->key_id = v.key_id;
	out->cluster_len = (uint16_t)v.cluster_len;
	out->id_len = (uint16_t)v.id_len;
	memset(out->reserved, 0, sizeof(out->reserved));
	memcpy(out->cluster, v.cluster, v.cluster_len);
	out->cluster[v.cluster_len] = '\0';
	memcpy(out->id, v.id, v.id_len);
	out->id[v.id_len] = '\0';
	return BERTH_OK;
}

const char *berth_seal_strerror(int code)
{
	switch (code) { /* what the common text says of placements and shared memory, said of envelopes and keys */
	case BERTH_E_UNKNOWN:
		return "no envelope that a key of the key file has sealed";
	case BERTH_E_AGAIN:
		return "no key of the key file is active yet";
	case BERTH_E_CORRUPT:
		return "the key file has a line that is no key, or no key at all: `berth seal inspect` says which";
	case BERTH_E_UNSAFE:
		return "the key file is no regular file, or has an owner or a mode that would let others read or "
		       "change it";
	}
	switch (code) {
#define TEXT(name, value, http, text) \
	case value: \
		return text;
		BERTH_ERRORS(TEXT)
#undef TEXT
	default:
		return "not a code of berth";
	}
}
