/* SPDX-License-Identifier: MIT
 * A reader process as the writer sees it, played by the test: a registration whose file the test has mapped and writes
 * into, lawfully (lease.h) or not. It is attached as long as the test has it, and dead once nobody has. One thread. */
#ifndef BERTH_TESTS_FAKE_READER_H
#define BERTH_TESTS_FAKE_READER_H

#include "../shm/lease.h"
#include "core_place.h"

struct fake_reader {
	struct shm_registration *file;
	size_t size;
	int fd;
	uint32_t slot, n_leases;
	uint64_t attach;
};

/* Bracketed when n_leases is not 0, else unbracketed. pid is what the writer is told; 0: not visible. */
void fake_attach(struct core_place *, struct fake_reader *, uint32_t n_readers, uint32_t n_leases, pid_t pid);
void fake_attach_as(struct core_place *, struct fake_reader *, uint32_t n_readers, uint32_t n_leases, enum shm_writes,
		    pid_t pid);
/* Its process ends: it unmaps and closes the file. The writer is not told. */
void fake_die(struct fake_reader *);
/* Its socket is closed: the writer looks at its next upkeep. */
void fake_hang_up(struct core_place *, const struct fake_reader *);

/* The writer finds out that it is dead: its socket is closed, and upkeep looks. */
void fake_gone(struct core_place *, struct fake_reader *);

struct shm_leases *fake_array(const struct fake_reader *, uint32_t reader);
struct shm_lease *fake_slot(const struct fake_reader *, uint32_t reader, uint32_t index);
/* A lease on this partition in this slot, begun now. */
void fake_begin(struct core_place *, const struct fake_reader *, uint32_t reader, uint32_t index, const char *key);
void fake_done(const struct fake_reader *, uint32_t reader, uint32_t index);
void fake_unknown(const struct fake_reader *, uint32_t reader, uint32_t index, uint64_t end_ms);
void fake_overflow(const struct fake_reader *, uint32_t reader, uint32_t index, uint64_t end_ms);

/* ---- what `complete` says, with the usual barrier ---- */
#define WHOLE_MS 30011 /* the barrier, ten milliseconds, and the one after which it is older */

/* What `complete` says; pid 0: nobody is named. */
#define expect(p, key, why, n_open, ms, pid) \
	do { \
		assert_code(apply(p, OP_COMPLETE, key, NULL), R_BARRIER_PENDING); \
		assert_string_equal(p->r.reason, why); \
		assert_int_equal(p->r.in_flight, n_open); \
		assert_int_equal(p->r.remaining_ms, ms); \
		assert_int_equal(p->r.n_pids, (pid) ? 1 : 0); \
		if (pid) \
			assert_int_equal(p->r.pids[0], pid); \
	} while (0)

/* Pending for so long and no millisecond longer. */
#define expect_until(p, key, why, ms, pid) \
	do { \
		expect(p, key, why, 0, ms, pid); \
		p->now_ms += (ms)-1; \
		expect(p, key, why, 0, 1, pid); \
		p->now_ms += 1; \
		done(p, OP_COMPLETE, key, NULL); \
	} while (0)

void start_moving(struct core_place *, const char *key); /* on c1, being moved to c2 */

#endif
