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

#include "../shm/details.h"
#include "../shm/grace.h"
#include "../shm/index.h"
#include "../shm/segment.h"

#pragma GCC visibility push(default)
#include "berth.h"
#pragma GCC visibility pop

static_assert(sizeof(struct berth_attach_options) == 64, "ABI");
static_assert(sizeof(struct berth_route) == 16, "ABI");
static_assert(sizeof(struct berth_placement) == 80, "ABI");
static_assert(sizeof(struct berth_inject) == 32, "ABI");
static_assert(sizeof(struct berth_cluster) == 48, "ABI");
static_assert((int)BERTH_SHARED_INDEX == (int)KIND_SHARED_INDEX && (int)BERTH_CUTOVER == (int)PHASE_CUTOVER &&
		      (int)BERTH_INJECT_PARTITION == (int)INJECT_PARTITION,
	      "public numbers are those of the word");
static_assert(BERTH_MAX_READERS == SHM_READERS_MAX, "one line for each reader");

#define COLD __attribute__((cold, noinline))
#define HOT __attribute__((flatten)) /* all that it calls in its file is compiled into it, index_find above all */
#define NOINLINE __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

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
	/* shared by the threads of the process; nothing on the hot path touches it */
	_Atomic uint32_t users;
	_Atomic int spare;     /* a descriptor kept for EMFILE; -1: in use by a thread that maps just now */
	_Atomic bool locked;   /* guards `ready`, and taking a count of it */
	struct mapping *ready; /* the newest generation that somebody here has mapped; one count is its own */
};

/* ---- connection.c ------------------------------------------------------------------------------------------ */

enum conn_state { CONN_CLOSED, CONN_ATTACHING, CONN_REATTACHING, CONN_UP };

struct connection { /* to the writer; berth_attach, then berth_maintain's thread alone */
	enum conn_state state;
	int fd;
	int passed;            /* descriptor that came with the answer, -1: none */
	uint64_t monotonic_ns; /* our clocks before the request */
	uint64_t boottime_ns;
	bool fences; /* as said in the request */
	size_t n;    /* bytes of line */
	char line[1024];
};

/* ---- the handles ------------------------------------------------------------------------------------------- */

enum gate { GATE_OPEN, GATE_UNSAID /* the sticky flag is not stored yet */, GATE_NONE, GATE_NO_WRITER };

struct berth_reader {
	/* hot: what every call reads; written by its own thread */
	const _Atomic uint64_t *stamp_page; /* struct berth.page */
	uint64_t stamp;                     /* *stamp_page when `at` was taken over */
	const struct shm_root *root;
	struct shm_line *line; /* own_line while there is no registration */
	unsigned depth;        /* of berth_read_begin */
	bool fences;
	bool copying;
	uint8_t gate; /* enum gate */
	uint64_t secret[4];
	struct seg_map map; /* copy of mapping->map; of no table when mapping is NULL */
	uint64_t section;   /* what the line holds, when depth > 0 */
	/* cold */
	struct berth *owner;
	struct attachment *at;
	struct mapping *mapping;
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
	uint32_t max_readers, writes, wait_ms;
	bool membarrier; /* this process is registered for membarrier(2) */
	_Atomic uint32_t n_open;
	_Atomic bool locked; /* guards `now`, and taking a count of it */
	struct attachment *now;
	/* upkeep: berth_attach, then berth_maintain's thread alone */
	struct connection conn;
	int link_status;     /* what the last attempt to register came to */
	uint64_t retry_ms;   /* CLOCK_MONOTONIC: no attempt before */
	uint64_t inspect_ms; /* CLOCK_MONOTONIC: no look at root's inode before */
	int inspect_status;
	char path[PATH_MAX];
};

/* The answer to damage, counted on the reader's own line where the writer shows it (`berth readers`). */
COLD int bl_damaged(struct berth_reader *);

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

/* mapping.c: any thread. */
int bl_mapping_get(struct attachment *, uint64_t termgen, bool populate,
		   struct mapping **); /* one count for the caller */
void bl_mapping_put(struct mapping *);
int bl_mapping_ahead(struct attachment *);

/* attachment.c. bl_attachment_open: by path, or (path NULL) by a descriptor of the directory; without a registration.
 * bl_attachment_register: gives it one, before anybody else sees it. */
int bl_attachment_open(const char *path, int dir_fd, struct attachment **);
int bl_attachment_register(struct attachment *, const struct connection *, uint32_t n_readers, bool fences);
void bl_attachment_put(struct attachment *);
bool bl_attachment_root_changed(const struct attachment *);
void bl_attachment_abandon(struct attachment *); /* bl_attachment_put in a forked child */

/* connection.c. */
void bl_connection_init(struct connection *);
int bl_connection_request(struct connection *, int dir_fd, const char *path, const char *line, size_t len);
int bl_connection_receive(struct connection *);
void bl_connection_close(struct connection *);

/* answer.c: the writer's answer line. BERTH_OK for a result, else the code for its error; *gone: the registration is
 * unknown to the writer. */
int bl_answer_parse(const char *line, bool *gone);

/* maintain.c. */
int bl_link_step(struct berth *);
void bl_publish(struct berth *, struct attachment *);

/* reader.c: the cold half of decide.h. */
COLD int bl_reader_wake(struct berth_reader *);
COLD int bl_reader_renew(struct berth_reader *);
int bl_reader_refresh(struct berth_reader *);

#endif
