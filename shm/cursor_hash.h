/* SPDX-License-Identifier: MIT
 * The hashes of cursor ids (128 bits) and of their owners (64 bits). Here, other than in the table of partitions, nothing
 * but the hash is compared: no slot has room for ids of 4 KiB. So it has to be sure that no tenant can make two ids meet.
 *
 * Multiply-add hashing (Dietzfelbinger 1996; Thorup, "High Speed Hashing for Integers and Strings", 2015, section 3.4): the
 * sum of random 128-bit numbers times 64-bit words, modulo 2^128, of which the upper 64 bits are taken, is strongly
 * universal: whatever two different inputs somebody chooses without knowing the numbers, their results are as two
 * independent random numbers, equal with a chance of 2^-64 for each half, 2^-128 for an id (twice that for ids of more
 * than a block, which are hashed block by block, then the blocks' hashes). That needs no assumption about the function,
 * only that the numbers are secret: they are drawn from the kernel when the file is made, and no hash ever leaves the
 * instance. SipHash-1-3, the usual answer, rests on the same secrecy and takes four times as long for an id of 16 bytes.
 *
 * The length is hashed too, so that padding with zeros makes no two inputs equal. No load outside the input; no call. */
#ifndef BERTH_SHM_CURSOR_HASH_H
#define BERTH_SHM_CURSOR_HASH_H

#include "hash.h"
#include "layout.h"

__extension__ typedef unsigned __int128 cursor_u128;

#define CURSOR_INLINE static inline __attribute__((always_inline))

CURSOR_INLINE cursor_u128 cursor_number(const uint64_t a[2])
{
	return (cursor_u128)a[1] << 64 | a[0];
}

/* One word into n_sums sums (1 or 2), each with a key of its own. */
CURSOR_INLINE void cursor_add(const struct shm_cursor_key *k, unsigned i, uint64_t word, cursor_u128 *sum,
			      unsigned n_sums)
{
	sum[0] += cursor_number(k[0].a[i]) * word;
	if (n_sums == 2)
		sum[1] += cursor_number(k[1].a[i]) * word;
}

/* The upper halves of n_sums sums over n bytes, at most a block, and `len`. For one n, equal words mean equal bytes: the
 * last word of 8 bytes or more overlaps the one before it. */
CURSOR_INLINE void cursor_sums(const struct shm_cursor_key *k, const unsigned char *p, size_t n, uint64_t len,
			       uint64_t *out, unsigned n_sums)
{
	cursor_u128 sum[2];
	unsigned i = 2;

	for (unsigned j = 0; j < n_sums; j++)
		sum[j] = cursor_number(k[j].a[0]);
	cursor_add(k, 1, len, sum, n_sums);
	if (__builtin_expect(n >= 8, 1)) {
		for (; n > 8; n -= 8, p += 8)
			cursor_add(k, i++, load_u64(p), sum, n_sums);
		cursor_add(k, i, load_u64(p + n - 8), sum, n_sums);
	} else if (n) {
		cursor_add(k, i, load_short(p, n), sum, n_sums);
	}
	for (unsigned j = 0; j < n_sums; j++)
		out[j] = (uint64_t)(sum[j] >> 64);
}

#define CURSOR_BLOCK (8u * SHM_CURSOR_WORDS)

/* More than a block: the blocks are hashed, then their hashes. */
static __attribute__((noinline, unused)) void cursor_hash_tree(const struct shm_cursor_keys *k, const unsigned char *id,
							       size_t len, uint64_t out[2])
{
	uint64_t blocks[SHM_CURSOR_WORDS];
	size_t n = 0;

	for (size_t left = len, part; left > 0; n += 2, id += part, left -= part) {
		part = left < CURSOR_BLOCK ? left : CURSOR_BLOCK;
		cursor_sums(k->block, id, part, part, &blocks[n], 2);
	}
	cursor_sums(k->tree, (const unsigned char *)blocks, n * sizeof *blocks, len, out, 2);
}
static_assert(SHM_CURSOR_ID_MAX / CURSOR_BLOCK * 2 <= SHM_CURSOR_WORDS, "the blocks' hashes are one block");

/* 1 <= len <= SHM_CURSOR_ID_MAX. */
CURSOR_INLINE void cursor_hash(const struct shm_cursor_keys *k, const void *id, size_t len, uint64_t out[2])
{
	if (__builtin_expect(len <= CURSOR_BLOCK, 1))
		cursor_sums(k->block, id, len, len, out, 2);
	else
		cursor_hash_tree(k, id, len, out);
}

/* 1 <= len <= SHM_KEY_MAX. */
CURSOR_INLINE uint64_t cursor_owner(const struct shm_cursor_keys *k, const void *owner, size_t len)
{
	uint64_t hash;

	cursor_sums(&k->owner, owner, len, len, &hash, 1);
	return hash;
}

#endif
