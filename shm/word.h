/* SPDX-License-Identifier: MIT
 * The 64-bit word that alone decides: where a partition is, and whether a write may go there now.
 * Pure functions on a value; who loads and stores it, and in which order, is in index.h and table code.
 *
 *   63            21 20       5  4     3  2   1  0
 *   | epoch 43      | cluster  | which | kind | phase |
 *
 *              set                   begin                     cutover                complete
 *   nothing --------> settled{at} ----------> draining{at,to} ----------> cutover{at,to} -------> settled{to}
 *                      ^   | remove             | abort                    | abort
 *                      |   v                    v                          v
 *                      | tombstone            settled{at}                settled{at}
 */
#ifndef BERTH_SHM_WORD_H
#define BERTH_SHM_WORD_H

#include <stdbool.h>
#include <stdint.h>

enum word_kind { KIND_NONE = 0, KIND_DEDICATED_CLUSTER = 1, KIND_DEDICATED_INDEX = 2, KIND_SHARED_INDEX = 3 };
enum word_phase { PHASE_SETTLED = 0, PHASE_DRAINING = 1, PHASE_CUTOVER = 2 };

#define WORD_EMPTY 0ull
/* A slot that a change holds before it is published: a tombstone, with the epoch of the one that it was. */
#define WORD_RESERVED 3ull

#define WORD_CLUSTER (0xffffull << 5) /* its bits */

static inline uint64_t word_make(uint64_t epoch, unsigned cluster, unsigned which, unsigned kind, unsigned phase)
{
	return epoch << 21 | (uint64_t)(cluster & 0xffffu) << 5 | (uint64_t)(which & 1u) << 4 |
	       (uint64_t)(kind & 3u) << 2 | (uint64_t)(phase & 3u);
}
static inline uint64_t word_epoch(uint64_t w)
{
	return w >> 21;
}
static inline unsigned word_cluster(uint64_t w)
{
	return (unsigned)(w >> 5) & 0xffffu;
}
static inline unsigned word_which(uint64_t w)
{
	return (unsigned)(w >> 4) & 1u;
}
static inline unsigned word_kind(uint64_t w)
{
	return (unsigned)(w >> 2) & 3u;
}
static inline unsigned word_phase(uint64_t w)
{
	return (unsigned)w & 3u;
}
static inline bool word_reserved(uint64_t w)
{
	return (w & 0xfu) == WORD_RESERVED;
}
/* Something answers here: neither empty nor a tombstone. */
static inline bool word_live(uint64_t w)
{
	return (w & 0xcu) != 0;
}

#endif
