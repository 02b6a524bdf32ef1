/* SPDX-License-Identifier: MIT
 * Grace periods across processes: what a reader stores on its section line, and what the writer concludes from the
 * lines. The reader half is inline, two plain stores a section; the writer half is in grace.c.
 *
 *   line: | grace:40 | generation:15 | moved:1 | depth:8 |      0: outside any section
 *
 * Reader, outermost entry: load root.grace; store the line (relaxed); [full fence if membarrier was refused to this
 * process]; load root.termgen (acquire): only this load chooses the mapping. When it is not the line's generation, then
 * or at any later check in the section: store the line with `moved`; [fence]; load root.termgen again; only then touch
 * the newer table. Outermost exit: store 0 (release). Writer: unlink (store words); tag what was unlinked with
 * root.grace; membarrier; root.grace := tag + 1; look at all lines (acquire); what is tagged `tag` is free once every
 * line, in a look begun after that, was seen empty, or with a grace number above the tag, or of a generation that
 * cannot see the memory.
 *
 * G1 What a section may still see is not freed: either the line's store was visible to the look (then it holds), or
 *    membarrier ordered it: the reader's loads come after the unlinking and see what is linked now.
 * G2 A line of generation g holds the memory of g; a moved one that of g and of every later generation.
 * G3 The number is never reset: a line stored under a dead writer still means what it meant.
 * G4 A failed membarrier is no barrier: nothing is freed on its account.
 * Model: tests/model/grace.pml, tests/model/section.pml. */
#ifndef BERTH_SHM_GRACE_H
#define BERTH_SHM_GRACE_H

#include <stdbool.h>

#include "layout.h"

#define GRACE_BITS 40
#define GRACE_MASK ((1ull << GRACE_BITS) - 1)
#define SECTION_DEPTH_MAX 255u

static inline uint64_t section_make(uint64_t grace, uint32_t generation, bool moved, unsigned depth)
{
	return (grace & GRACE_MASK) << 24 | (uint64_t)(generation & 0x7fffu) << 9 | (uint64_t)moved << 8 | depth;
}
/* All of it but the grace number, for the outermost section of this generation: kept by whoever enters often. */
static inline uint64_t section_low(uint32_t generation)
{
	return section_make(0, generation, false, 1);
}
static inline uint64_t section_grace(uint64_t s)
{
	return s >> 24;
}
static inline uint32_t section_generation(uint64_t s)
{
	return (uint32_t)(s >> 9) & 0x7fffu;
}
static inline bool section_moved(uint64_t s)
{
	return (s >> 8 & 1) != 0;
}
static inline unsigned section_depth(uint64_t s)
{
	return (unsigned)s & 0xffu;
}

/* Full fence of a reader that membarrier does not reach. */
static inline void section_fence(bool fences)
{
	if (__builtin_expect(fences, 0))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst); /* the compiler must not reorder; the writer's membarrier
							      does the processor's half */
}

/* Outermost entry; low: section_low of the generation that is mapped. Returns the line's value, to be kept by the caller;
 * afterwards the caller loads root->termgen. */
static inline uint64_t section_enter(struct shm_line *line, const struct shm_root *root, uint64_t low, bool fences)
{
	/* Any older number is only more conservative: relaxed. */
	uint64_t s = atomic_load_explicit(&root->grace, memory_order_relaxed) << 24 | low;

	atomic_store_explicit(&line->section, s, memory_order_relaxed);
	section_fence(fences); /* pairs with the membarrier in grace_advance: G1 */
	return s;
}

/* The section goes on in a newer generation: afterwards the caller loads root->termgen again, then touches the table.
 */
static inline uint64_t section_move(struct shm_line *line, uint64_t s, bool fences)
{
	s |= 1u << 8;
	atomic_store_explicit(&line->section, s, memory_order_relaxed);
	section_fence(fences); /* pairs with the membarrier in grace_advance: G2 */
	return s;
}

/* Outermost exit. Release: the section's loads stay before it; pairs with the acquire look in grace.c. */
static inline void section_exit(struct shm_line *line)
{
	atomic_store_explicit(&line->section, 0, memory_order_release);
}

/* Does a line with this value keep memory of `generation` alive that was unlinked under the number tag? */
static inline bool section_holds(uint64_t s, uint32_t generation, uint64_t tag)
{
	uint32_t behind = (generation - section_generation(s)) & 0x7fffu; /* how much older the line's generation is */

	if (s == 0 || section_grace(s) > tag)
		return false;
	return behind == 0 || (section_moved(s) && behind < 0x4000u); /* G2 */
}

/* membarrier(2): registered once per process, before its readers (the first call forks a child that visits each
 * processor: grace.c has the reason); a barrier on all registered processes. 0 or -1 with errno. A processor that others
 * keep busy makes the visit wait: grace_register_within gives it up after limit_ms, and returns within 100 ms more
 * (ETIMEDOUT: this process fences for itself, as where membarrier is refused, and a later call tries again);
 * grace_register, a writer's, after ten seconds. */
int grace_register(void);
int grace_register_within(unsigned limit_ms);
int grace_barrier(void);

/* The writer: what was unlinked so far was tagged with root.grace; from now on sections carry a higher number. Returns
 * 0, or -1 with errno when the barrier failed: then nothing has changed (G4). Lines are looked at after this call. */
int grace_advance(struct shm_root *root, bool membarrier);

#endif
