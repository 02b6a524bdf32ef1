/* SPDX-License-Identifier: MIT
 * berth_admit: may a write resolved at this epoch go out now? The reader's own thread.
 *
 * G1 The process's sticky `unbracketed` flag is visible before the word that admits is loaded: a writer that has
 *    stored a cutover and issued its membarrier either sees the flag, or its word was seen here.
 * G2 The fence deadline and `superseded` are loaded after the word: what was lost before the word was loaded is
 *    noticed. Guarantees of the decision: decide.h. */
#include <errno.h>
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

static COLD int open_gate(struct berth_reader *r)
{
	if (r->gate == GATE_NONE)
		return BERTH_E_INVAL;
	if (r->gate == GATE_NO_WRITER)
		return BERTH_E_WRITER_DOWN;
	if (atomic_load_explicit(&r->at->reg->unbracketed, memory_order_relaxed) == 0)
		atomic_store_explicit(&r->at->reg->unbracketed, 1, memory_order_relaxed);
	section_fence(r->fences); /* G1; pairs with the writer's membarrier after its word, as a section's line does */
	r->gate = GATE_OPEN;
	return BERTH_OK;
}

static bool fenced(const struct shm_root *root)
{
	uint64_t deadline = atomic_load_explicit(&root->fence_deadline_ms, memory_order_relaxed);

	return unlikely(deadline != 0) && seg_clock_ms(CLOCK_BOOTTIME) >= deadline;
}

INLINE int judge(const struct shm_root *root, int rc, uint64_t word, uint64_t epoch)
{
	/* G2: the fence of the decision came after the word. Relaxed: each is judged by itself. */
	if (unlikely(atomic_load_explicit(&root->superseded, memory_order_relaxed) != 0))
		return BERTH_E_WRITER_DOWN;
	if (unlikely(rc != BERTH_OK))
		return gate_code(rc);
	if (unlikely(word_phase(word) == PHASE_CUTOVER))
		return BERTH_E_CUTOVER;
	if (unlikely(word_epoch(word) != epoch || epoch == 0))
		return BERTH_E_STALE;
	return fenced(root) ? BERTH_E_FENCED : BERTH_OK;
}

static HOT NOINLINE int admit_unusual(struct berth_reader *r, const void *key, size_t len, uint64_t epoch)
{
	struct decision d = {0};
	bool own;
	int rc;

	if (len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = handle(r);
	if (rc == BERTH_OK && r->gate != GATE_OPEN)
		rc = open_gate(r);
	if (rc != BERTH_OK)
		return rc;
	own = section_open(r);
	rc = decide(r, key, len, hash_key(r->secret, key, len), &d);
	section_close(r, own);
	return judge(r->root, rc, d.word, epoch);
}

HOT int berth_admit(struct berth_reader *r, const void *key, size_t len, uint64_t epoch)
{
	if (unlikely(!r || !key))
		return BERTH_E_INVAL;
	if (usual_handle(r) && likely(r->gate == GATE_OPEN) && usual_len(len)) {
		struct decision d;
		bool own = section_open(r);

		if (current(r) && likely(attempt_guess(r, key, len, hash_key(r->secret, key, len), &d))) {
			section_close(r, own);
			return judge(r->root, BERTH_OK, d.word, epoch);
		}
		section_close(r, own);
	}
	return admit_unusual(r, key, len, epoch);
}
