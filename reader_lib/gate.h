/* SPDX-License-Identifier: MIT
 * The write gate's judgement of a decision, shared by admit.c and write.c. The reader's own thread.
 *
 * G1 The fence deadline and `superseded` are loaded after the word (the decision ends with a fence): what was lost before
 *    the word was loaded is noticed. */
#ifndef BERTH_READER_LIB_GATE_H
#define BERTH_READER_LIB_GATE_H

#include <time.h>

#include "decide.h"

/* What a gate may answer (berth.h): what stands in the way of mapping a table is told as what the caller can do. */
static COLD int gate_code(int rc)
{
	switch (rc) {
	case BERTH_E_SYSTEM:
	case BERTH_E_NOMEM:
	case BERTH_E_FULL:
		return BERTH_E_AGAIN;
	case BERTH_E_NO_INSTANCE:
	case BERTH_E_PERMISSION:
	case BERTH_E_UNSAFE:
	case BERTH_E_ABI:
		return BERTH_E_WRITER_DOWN;
	default:
		return rc;
	}
}

INLINE bool gate_fenced(const struct shm_root *root)
{
	uint64_t deadline = atomic_load_explicit(&root->fence_deadline_ms, memory_order_relaxed);

	return unlikely(deadline != 0) && seg_clock_ms(CLOCK_BOOTTIME) >= deadline;
}

/* The word alone: may a write go by it at this epoch? */
INLINE int gate_word(uint64_t word, uint64_t epoch)
{
	if (unlikely(word_phase(word) == PHASE_CUTOVER))
		return BERTH_E_CUTOVER;
	return likely(word_epoch(word) == epoch && epoch != 0) ? BERTH_OK : BERTH_E_STALE;
}

/* G1. Relaxed: each is judged by itself. */
INLINE bool gate_superseded(const struct shm_root *root)
{
	return unlikely(atomic_load_explicit(&root->superseded, memory_order_relaxed) != 0);
}

/* rc: of the decision, or of gate_word. */
INLINE int gate_judge(const struct shm_root *root, int rc)
{
	if (gate_superseded(root))
		return BERTH_E_WRITER_DOWN;
	if (unlikely(rc != BERTH_OK))
		return gate_code(rc);
	return gate_fenced(root) ? BERTH_E_FENCED : BERTH_OK;
}

#endif
