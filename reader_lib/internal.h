/* SPDX-License-Identifier: MIT
 * What the files of libberth share: the structs behind the handles, and each file's functions. Not installed. Their
 * prefix is bl_, so that a program which links the archive meets no name of its own.
 *
 *   struct berth ---- now --> struct attachment ---- ready --> struct mapping
 *        | readers[]             ^ root, registration            ^ one generation of the table
 *        +--> struct berth_reader --- at ---+------- mapping ----+
 *
 * An attachment never changes what it is once readers can see it: another root, or a registration where there was none,
 * is another attachment, published in `now`; each reader takes it over at its next outermost section. Attachments and
 * mappings are counted, and go with their last user. */
#ifndef BERTH_READER_LIB_INTERNAL_H
#define BERTH_READER_LIB_INTERNAL_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "../shm/cursor.h"
#include "../shm/details.h"
#include "../shm/grace.h"
#include "../shm/index.h"
#include "../shm/lease.h"
#include "../shm/segment.h"

#pragma GCC visibility push(default)
#include "berth.h"
#pragma GCC visibility pop

static_assert(sizeof(struct berth_attach_options) == 64, "ABI");
static_assert(sizeof(struct berth_route) == 16, "ABI");
static_assert(sizeof(struct berth_placement) == 80, "ABI");
static_assert(sizeof(struct berth_inject) == 32, "ABI");
static_assert(sizeof(struct berth_cluster) == 48, "ABI");
static_assert(sizeof(struct berth_write) == 48, "ABI");
static_assert((int)BERTH_SHARED_INDEX == (int)KIND_SHARED_INDEX && (int)BERTH_CUTOVER == (int)PHASE_CUTOVER &&
		      (int)BERTH_INJECT_PARTITION == (int)INJECT_PARTITION,
	      "public numbers are those of the word");
static_assert(BERTH_MAX_READERS == SHM_READERS_MAX, "one line for each reader");
static_assert(BERTH_MAX_LEASES == SHM_LEASES_MAX, "as many as an array may have");

#define COLD __attribute__((cold, noinline))
#define HOT __attribute__((flatten)) /* all that it calls in its file is compiled into it, index_find above all */
#define NOINLINE __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define HEARTBEAT_OLD_MS 3000u /* the daemon's heart beats once a second */
/* Attempts at a decision before BERTH_E_AGAIN: only memory that changes without end, under a hostile or a broken
 * writer, gets there. */
#define ATTEMPTS 200u
/* Generations that one section may have gone through: their mappings wait for its end. */
#define HELD_MAX 8u

/* ---- mapping.c --------------------------------------------------------------------------------------------- */

/* One mapped generation. Readers copy `map` and keep a count. */
struct mapping {
	struct seg_map map;
	_Atomic uint32_t users;
};

/* ---- lease.c ----------------------------------------------------------------------------------------------- */

#define LEASE_NO_SLOT UINT32_MAX

/* One reader's lease slots, and which of them are free: lists through `link`, so that taking and giving back is a step or
 * two whatever is under way. Private memory, as old as the attachment: a reader_close leaves it to the next reader_open
 * on the same place. */
struct lease_pool {
	struct shm_leases *array;
	_Atomic uint32_t *link; /* of a free slot: the next one; of one that a bulk begin shares: what write.c says */
	uint32_t n;             /* slots */
	uint32_t free, fresh;   /* owner: list of free slots; those from `fresh` on were never taken */
	uint32_t sequence;      /* owner: of leases */
	_Atomic uint32_t returned
		__attribute__((aligned(64))); /* list of the slots that other threads have given back */
} __attribute__((aligned(64)));

/* ---- pins.c ------------------------------------------------------------------------------------------------ */

/* One mapped generation of the file of pins. Readers copy `map` and keep a count. */
struct pins {
	struct cursor_map map;
	_Atomic uint32_t users;
};

/* ---- attachment.c ------------------------------------------------------------------------------------------ */

struct attachment {
	int dir_fd, tables_fd;
	dev_t root_dev;
	ino_t root_ino;
	const struct shm_root *root;
	/* of the registration; reg NULL: none, readers copy */
	struct shm_registration *reg;
	size_t reg_size;
	uint32_t lines_off, line_stride;
	uint32_t slot;
	uint64_t number;
	bool fences;
	struct lease_pool *pools; /* one for each reader; NULL: it takes no leases */
	uint32_t n_pools;
	/* of a registration with rings; n_rings 0: it pins no cursors */
	uint64_t rings_off;
	uint32_t n_rings;
	int doorbell;                    /* the same number for the attachment's life: a new one is put in its place */
	const struct shm_ledger *ledger; /* mapped for its acks; NULL: no rings */
	const _Atomic uint64_t *acks;    /* of ring 0 */
	struct attachment *retired;      /* the next in struct berth.retired */
	_Atomic bool abandoned;          /* replaced: nothing more is admitted by it */
	/* shared by the threads of the process; nothing on the hot path touches it */
	_Atomic uint32_t users;
	_Atomic int spare;     /* a descriptor kept for EMFILE; -1: in use by a thread that maps just now */
	_Atomic bool locked;   /* guards `ready` and `pins`, and taking a count of them */
	struct mapping *ready; /* the newest generation that somebody here has mapped; one count is its own */
	struct pins *pins;     /* likewise, of the file of pins */
};

/* ---- connection.c ------------------------------------------------------------------------------------------ */

enum conn_state { CONN_CLOSED, CONN_ATTACHING, CONN_REATTACHING, CONN_UP };

struct connection { /* to the writer; berth_attach, then berth_maintain's thread alone */
	enum conn_state state;
	int fd;
	int passed[2];         /* descriptors that came with the answer, -1: none */
	uint64_t monotonic_ns; /* our clocks before the request */
	uint64_t boottime_ns;
	bool fences; /* as said in the request */
	size_t n;    /* bytes of line */
	char line[1024];
};

/* ---- the handles ------------------------------------------------------------------------------------------- */

#define PINS_NONE UINT64_MAX

enum gate { GATE_OPEN, GATE_UNSAID /* the sticky flag is not stored yet */, GATE_NONE, GATE_NO_WRITER };

struct berth_reader {
	/* hot: what every call reads; written by its own thread */
	const _Atomic uint64_t *stamp_page; /* struct berth.page */
	uint64_t stamp;                     /* *stamp_page when `at` was taken over */
	const struct shm_root *root;
	struct shm_line *line; /* own_line while there is no registration */
	uint32_t depth;        /* of berth_read_begin; with the next four bytes one number: quiet() in decide.h */
	bool fences;
	bool copying;
	uint8_t zeros[2];
	struct lease_pool *pool; /* NULL: no leases */
	uint64_t secret[4];
	uint8_t gate;         /* enum gate: berth_admit's */
	struct seg_map map;   /* copy of mapping->map; of no table when mapping is NULL */
	uint64_t section_low; /* section_low(map.generation) */
	uint64_t section;     /* what the line holds, when depth > 0 */
	/* cursors */
	uint64_t pins_generation; /* of root, when pins was mapped; PINS_NONE: there are none */
	struct cursor_map pins;   /* copy of pins_mapping->map; bl_no_pins when that is NULL */
	struct shm_ring *ring;    /* NULL: no registration with rings */
	const _Atomic uint64_t *ack;
	uint64_t ring_head, ring_done; /* entries pushed; acknowledged, when that was last looked at */
	/* cold */
	struct berth *owner;
	struct attachment *at;
	struct mapping *mapping;
	struct pins *pins_mapping;
	struct mapping *held[HELD_MAX];
	unsigned n_held;
	_Atomic uint32_t open;
	struct reader_copies *copies;
	struct shm_line own_line;
} __attribute__((aligned(128)));

/* Private copies of records, while there is no registration: a union detail_buffer each, and a struct shm_cluster.
 * Bytes, because those end in flexible arrays. */
#define COPY_ALIGN __attribute__((aligned(SHM_RECORD_ALIGN)))
struct reader_copies {
	char at[SHM_RECORD_MAX] COPY_ALIGN;
	char to[SHM_RECORD_MAX] COPY_ALIGN;
	char cluster[sizeof(struct shm_cluster) + SHM_CLUSTER_ID_MAX + SHM_ENDPOINT_MAX + 2] COPY_ALIGN;
};

struct berth {
	_Atomic uint64_t *page; /* MADV_WIPEONFORK: the number of `now`; 0 in a forked child */
	struct berth_reader *readers;
	uint32_t max_readers, max_leases, writes, cursors, wait_ms;
	bool membarrier; /* this process is registered for membarrier(2) */
	_Atomic uint32_t n_open;
	_Atomic bool locked; /* guards `now`, and taking a count of it */
	struct attachment *now;
	struct attachment *retired; /* replaced, and mapped for as long as readers or leases are on them */
	/* upkeep: berth_attach, then berth_maintain's thread alone */
	struct connection conn;
	int link_status;     /* what the last attempt to register came to */
	bool doubted;        /* a refusal of our clocks was not believed: the next one is */
	uint64_t retry_ms;   /* CLOCK_MONOTONIC: no attempt before */
	uint64_t inspect_ms; /* CLOCK_MONOTONIC: no look at root's inode before */
	int inspect_status;
	char path[PATH_MAX];
};

/* The answer to damage, counted on the reader's own line where the writer shows it (`berth readers`). */
COLD int bl_damaged(struct berth_reader *);
/* What is looked at where there is none. The entry holds nothing. The file of pins is damaged: no generation is
 * PINS_NONE, so whoever comes to look at it has read that in root, which is damage. */
extern const struct shm_entry bl_no_entry;
extern const struct cursor_map bl_no_pins;

/* What is given back, or freed, leaves the handle first: fork may come at any instruction, in another thread, and
 * berth_reader_close and berth_detach of the child give back what they find. This keeps the compiler to the order; the
 * child sees what this thread has stored. */
INLINE void fork_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

INLINE bool forked(const _Atomic uint64_t *page)
{
	return atomic_load_explicit(page, memory_order_relaxed) == 0;
}

/* A lock that is only ever tried: whoever fails does without. Held for a few instructions, never over a system call. */
static inline bool bl_lock_try(_Atomic bool *locked)
{
	return !atomic_exchange_explicit(locked, true, memory_order_acquire); /* pairs with bl_lock_release */
}
static inline void bl_lock_release(_Atomic bool *locked)
{
	atomic_store_explicit(locked, false, memory_order_release);
}
/* For upkeep: waits for the few instructions of another thread of this process. */
void bl_lock_take(_Atomic bool *);

/* A reader in a section of its caller stays on its attachment, and may not admit by it any more. */
INLINE bool at_abandoned(const struct berth_reader *r)
{
	atomic_thread_fence(memory_order_acquire); /* after the page; pairs with bl_publish */
	return r->at && atomic_load_explicit(&r->at->abandoned, memory_order_relaxed);
}

/* mapping.c: any thread. */
int bl_mapping_get(struct attachment *, uint64_t termgen, bool populate,
		   struct mapping **); /* one count for the caller */
void bl_mapping_put(struct mapping *);
int bl_mapping_ahead(struct attachment *);

/* attachment.c. bl_attachment_open: by path, or (path NULL) by a descriptor of the directory; without a registration.
 * bl_attachment_register: gives it one, before anybody else sees it. */
int bl_attachment_open(const char *path, int dir_fd, struct attachment **);
int bl_attachment_register(struct attachment *, struct connection *, const struct berth *, bool fences);
/* A new writer's doorbell takes the place of the old one. */
int bl_attachment_doorbell(const struct attachment *, const struct connection *);
void bl_attachment_put(struct attachment *);
bool bl_attachment_root_changed(const struct attachment *);
void bl_attachment_abandon(struct attachment *); /* bl_attachment_put in a forked child */

/* lease.c. bl_pools_make: of a registration that is checked. bl_leases_open: is a write of this attachment under way? Any
 * thread; sure only where none can begin meanwhile. bl_slot_find: a slot that is free, not the first of the owner's list
 * (there is none); LEASE_NO_SLOT. bl_slot_short: are fewer than a quarter free? Any thread. */
int bl_pools_make(struct attachment *, uint32_t n_readers, uint32_t n_leases);
void bl_pools_free(struct attachment *);
bool bl_leases_open(const struct attachment *);
static inline uint32_t bl_slot_pop(struct lease_pool *p)
{
	uint32_t i = p->free;

	if (likely(i != LEASE_NO_SLOT))
		p->free = atomic_load_explicit(&p->link[i], memory_order_relaxed);
	return i;
}
/* Any thread. */
static inline void bl_slot_return(struct lease_pool *p, uint32_t i)
{
	uint32_t first = atomic_load_explicit(&p->returned, memory_order_relaxed);

	do
		atomic_store_explicit(&p->link[i], first, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&p->returned, &first, i, memory_order_release,
						      memory_order_relaxed));
}
COLD uint32_t bl_slot_find(struct lease_pool *, const struct shm_root *);
COLD bool bl_slot_short(const struct lease_pool *, const struct shm_root *);

/* pins.c. bl_pins_renew: the file in force into r->pins, or what stands against pins at all. bl_pins_none: of no file.
 * bl_pins_ahead: upkeep. */
COLD int bl_pins_renew(struct berth_reader *);
void bl_pins_none(struct berth_reader *);
void bl_pins_put(struct pins *);
void bl_pins_ahead(struct attachment *);

/* connection.c. */
void bl_connection_init(struct connection *);
int bl_connection_request(struct connection *, int dir_fd, const char *path, const char *line, size_t len);
int bl_connection_receive(struct connection *);
void bl_connection_close(struct connection *);
void bl_connection_drop_passed(struct connection *);

/* answer.c: the writer's answer line. BERTH_OK for a result, else the code for its error; *gone: the registration is
 * unknown to the writer. */
int bl_answer_parse(const char *line, bool *gone);

/* maintain.c. */
int bl_link_step(struct berth *);
void bl_publish(struct berth *, struct attachment *);
void bl_retired_sweep(struct berth *); /* lets go what nobody is on any more */

/* reader.c: the cold half of decide.h. */
COLD int bl_reader_wake(struct berth_reader *);
COLD int bl_reader_renew(struct berth_reader *);
int bl_reader_refresh(struct berth_reader *);

#endif
