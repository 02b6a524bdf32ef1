/* SPDX-License-Identifier: MIT
 * packet_leases.h: where the array is, and what of it survives its mirror. The map is memory that somebody else writes:
 * whatever it holds is about the writes of packet programs alone, and no slot outside it is looked at. */
#include "packet_leases.h"

#include "registry_internal.h"

static_assert(sizeof(struct mirror_lease) == sizeof(struct shm_lease) &&
		      offsetof(struct mirror_lease, hash) == offsetof(struct shm_lease, hash) &&
		      offsetof(struct mirror_lease, state) == offsetof(struct shm_lease, state),
	      "one look does for both");

/* Words that other processors store into: the layout's are plain, for programs' sake. */
static const _Atomic uint64_t *shared(const __u64 *word)
{
	return (const _Atomic uint64_t *)(const void *)word;
}

static struct lease_array array_in(const struct mirror_control *control, const struct mirror_lease *leases)
{
	/* Acquire: a slot's first lease is stored after the mark (G3 of bpf/lease.bpf.h). */
	uint64_t high = atomic_load_explicit(shared(&control->lease_high), memory_order_acquire);

	return (struct lease_array){.slots = (const struct shm_lease *)(const void *)leases,
				    .overflow_ms = shared(&control->overflow_ms),
				    .high = high < MIRROR_LEASES ? (uint32_t)high : MIRROR_LEASES,
				    .pid = PACKET_PROGRAM};
}

bool packet_leases(const struct mirror *m, const struct mirror_past pasts[MIRROR_PASTS], unsigned n,
		   struct lease_array *array)
{
	if (n == 0 ? !m : !pasts[n - 1].control)
		return false;
	*array = n == 0 ? array_in(mirror_control(m), mirror_leases(m))
			: array_in(pasts[n - 1].control, pasts[n - 1].leases);
	return true;
}

/* The latest end there, into the ledger; what is open counts as ending now. */
static void note_ends(struct registry *r, const struct mirror_control *control, const struct mirror_lease *leases)
{
	const struct lease_array array = array_in(control, leases);
	uint64_t now_ms = registry_now(r), latest_ms = 0, overflow_ms;

	for (uint32_t i = 0; i < array.high; i++) {
		uint64_t state, end_ms, hash = lease_look(&array.slots[i], &state);

		if (!hash)
			continue;
		end_ms = lease_kind(state) == LEASE_UNKNOWN && lease_time(state) < now_ms ? lease_time(state) : now_ms;
		latest_ms = end_ms > latest_ms ? end_ms : latest_ms;
	}
	overflow_ms =
		atomic_load_explicit(array.overflow_ms, memory_order_acquire); /* G4 of lease.h: after the slots */
	overflow_ms = overflow_ms < now_ms ? overflow_ms : now_ms;
	latest_ms = overflow_ms > latest_ms ? overflow_ms : latest_ms;
	if (latest_ms)
		lease_book_overflow(registry_book(r), latest_ms, PACKET_PROGRAM);
}

void packet_leases_left(struct registry *r, const struct mirror_control *control, const struct mirror_lease *leases,
			bool kept)
{
	if (!kept)
		note_ends(r, control, leases);
	if (atomic_load_explicit(shared(&control->gated), memory_order_acquire))
		lease_book_unbracketed_left(registry_book(r), registry_now(r));
}

/* No program that looks things up by it is answered any more, so what is seen clear stays clear, but for begins that are
 * taken back; and one that makes room in a slot raises overflow_ms first (G4 of bpf/lease.bpf.h), which comes after the
 * slots here. */
bool packet_leases_over(struct registry *r, const struct mirror_past *past)
{
	if (mirror_any_open(past->control, past->leases))
		return false;
	note_ends(r, past->control, past->leases);
	return true;
}
