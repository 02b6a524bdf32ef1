/* SPDX-License-Identifier: MIT
 * berth_admit: may a write resolved at this epoch go out now? The reader's own thread.
 *
 * G1 The process's sticky `unbracketed` flag is visible before the word that admits is loaded: a writer that has
 *    stored a cutover and issued its membarrier either sees the flag, or its word was seen here.
 * Guarantees of the decision: decide.h; of the judgement: gate.h. */
#include "gate.h"

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

static HOT NOINLINE int admit_unusual(struct berth_reader *r, const void *key, size_t len, uint64_t epoch)
{
	struct decision d = {0};
	bool own, was_guessed; /* by who came here: decide_usual() */
	int rc;

	if (!r || !key || len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = handle(r);
	if (rc == BERTH_OK && r->gate != GATE_NONE && at_abandoned(r))
		return BERTH_E_WRITER_DOWN;
	if (rc == BERTH_OK && r->gate != GATE_OPEN)
		rc = open_gate(r);
	if (rc != BERTH_OK)
		return rc;
	was_guessed = quiet(r) && usual_len(len);
	own = section_open(r);
	rc = decide_after(r, key, len, hash_key(r->secret, key, len), &d, was_guessed);
	section_close(r, own);
	return gate_judge(r->root, rc == BERTH_OK ? gate_word(d.word, epoch) : rc);
}

HOT int berth_admit(struct berth_reader *r, const void *key, size_t len, uint64_t epoch)
{
	uint64_t w;

	if (likely(r) && usual_handle(r) && likely(key) && quiet(r) && likely(r->gate == GATE_OPEN) && usual_len(len) &&
	    likely(decide_usual(r, key, len, &w)))
		return gate_judge(r->root, gate_word(w, epoch));
	return admit_unusual(r, key, len, epoch);
}
