/* SPDX-License-Identifier: MIT
 * The keyed hash of a partition id: 64 bits, from the instance's secret. Readers, writer and (by parts) packet programs
 * compute the same value. It places an entry and rejects most others at a glance; a key is always compared in full, so
 * it need not be a PRF, only unpredictable in its collisions to who does not know the secret.
 *
 * Folded multiplication in the manner of wyhash: every load is of fixed width, none reads outside the key, no call to
 * libc; 8..16 bytes cost two loads and two multiplications.
 *
 * Whoever changes what comes out raises SHM_ABI (layout.h) and MIRROR_ABI (../bpf/layout.h). */
#ifndef BERTH_SHM_HASH_H
#define BERTH_SHM_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t load_u64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

static inline uint32_t load_u32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

/* The two 64-bit words that a short key (1..7 bytes) is folded into: equal exactly when the keys of this length are. */
static inline uint64_t load_short(const unsigned char *p, size_t len)
{
	if (len >= 4)
		return (uint64_t)load_u32(p) << 32 | load_u32(p + len - 4);
	return (uint64_t)p[0] << 16 | (uint64_t)p[len >> 1] << 8 | p[len - 1];
}

static inline uint64_t hash_mum(uint64_t a, uint64_t b)
{
	__extension__ typedef unsigned __int128 u128;
	u128 r = (u128)a * b;

	return (uint64_t)r ^ (uint64_t)(r >> 64);
}

/* len >= 1. What is longer than 16 bytes goes through two lanes of 16 bytes that wait neither for one another nor the
 * tail for them: their multiplications overlap. */
static inline uint64_t hash_key(const uint64_t secret[4], const void *key, size_t len)
{
	const unsigned char *p = key;
	uint64_t a, b, lanes = secret[2];

	if (len >= 8 && len <= 16) {
		a = load_u64(p);
		b = load_u64(p + len - 8);
	} else if (len < 8) {
		a = load_short(p, len);
		b = 0;
	} else {
		uint64_t even = secret[2], odd = secret[2];
		const unsigned char *end = p + len;

		for (; end - p > 32; p += 32) {
			even = hash_mum(load_u64(p) ^ secret[1], load_u64(p + 8) ^ even);
			odd = hash_mum(load_u64(p + 16) ^ secret[3], load_u64(p + 24) ^ odd);
		}
		if (end - p > 16) {
			even = hash_mum(load_u64(p) ^ secret[1], load_u64(p + 8) ^ even);
			p += 16;
		}
		lanes = even ^ odd;
		a = load_u64(p + ((end - p - 1) & 8) - 8); /* the last whole word, or the one before it */
		b = load_u64(end - 8);
	}
	return hash_mum(secret[3] ^ lanes ^ len, hash_mum(a ^ secret[0], b ^ secret[1]));
}

#endif
