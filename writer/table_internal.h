/* SPDX-License-Identifier: MIT
 * What the table's files share: table.c (open, look), generation.c (files), records.c (memory inside a file),
 * change.c (reserve, publish), grow.c (growth, grace periods, upkeep), ledger.c. Control thread only. */
#ifndef BERTH_WRITER_TABLE_INTERNAL_H
#define BERTH_WRITER_TABLE_INTERNAL_H

#include "../shm/grace.h"
#include "../shm/index.h"
#include "registry.h"
#include "table.h"

#define SLOT_NONE UINT32_MAX
#define GROW_AT(capacity) ((capacity) - (capacity) / 4)   /* live + tombstones above this: a new generation */
#define GROW_MUST(capacity) ((capacity) - (capacity) / 8) /* no entry more before it is there */

/* ---- interned.c: one record for equal placements, counted ---- */

struct interned {
	uint32_t *at; /* open addressing: record offsets of the placements that are in use; 0: free */
	uint32_t mask, n;
	uint32_t *old; /* a smaller one, whose entries move over bit by bit; NULL: none */
	uint32_t old_mask, moved;
};

struct generation;
int interned_make(struct interned *);
void interned_destroy(struct interned *);
/* The one record of a placement, made if it is new, with one more reference. 0: no room. */
uint32_t records_intern(struct generation *, const struct shm_detail *);
/* One reference more to a placement that has some; its offset. */
uint32_t records_share(struct generation *, uint32_t off);
/* One reference less; true when it was the last: nobody finds the record any more, the caller retires it. */
bool records_release(struct generation *, uint32_t off);

/* ---- records.c: memory for records inside a generation's file, through a jemalloc arena ---- */

struct records {
	unsigned arena; /* jemalloc's number */
	bool made;
	struct hooks *hooks; /* what jemalloc calls back */
	struct interned interned;
	uint64_t used; /* bytes handed out */
	uint64_t high; /* where the last byte that was ever handed out ends, in the file */
};

int records_make(struct generation *);
/* No record ends beyond `limit` from now on. Bytes from base whose addresses are the arena's until records_destroy; those
 * beyond the file's end are never touched. */
uint64_t records_seal(struct generation *);
void records_destroy(struct generation *);
/* Bytes in which records of some more sizes find room: each size takes whole pages of jemalloc's, 4 KiB each on x86-64, and
 * 64 KiB where the kernel's pages may be of that size (aarch64). */
uint64_t records_headroom(void);
/* Offset / SHM_RECORD_ALIGN of size fresh bytes, allocated in the file; 0: no room. */
uint32_t records_alloc(struct generation *, size_t size);
void records_free(struct generation *, uint32_t off);

/* ---- generation.c: table.<generation>, the file being built, the reserve ---- */

struct retired { /* freed once a grace period has passed since `tag` */
	uint64_t tag;
	uint64_t epoch; /* of a tombstone; 0: none */
	uint32_t off;   /* of a record; 0: none */
};

struct generation {
	struct seg_map map; /* what readers see of it; .table, .entries … point into base */
	uint8_t *base;
	size_t mapped;      /* bytes mapped at base: more than the file's while it is being built */
	size_t held;        /* bytes of addresses at base, when more than mapped: records_seal */
	uint64_t allocated; /* bytes of the file that are backed by memory */
	uint64_t recycled;  /* bytes that the file had when it was taken over; 0: a new one */
	uint64_t limit;     /* the file's size, once sealed; until then mapped */
	int fd;
	bool huge; /* on huge pages, where there are any */
	struct records records;
	struct retired *retired; /* ring, FIFO */
	size_t retired_head, retired_n, retired_size;
	uint64_t aged_epoch;         /* tombstones up to this epoch may be used for other keys, as far as readers go */
	uint64_t programs_aged;      /* and up to this one as far as packet programs go, when there is a mirror */
	struct mirror_table *mirror; /* NULL: none */
	struct old_file *note; /* what is kept of it once there is a newer one: a flip cannot lack memory for it */
};

struct old_file { /* a generation that readers may still be in */
	struct old_file *next;
	uint32_t generation;
	uint64_t tag;
	uint64_t size, punched;
	uint8_t *base; /* mapping that goes with it; NULL: not mapped here */
	size_t mapped;
	int fd;
	char name[32];
	bool passed; /* no reader is in it any more */
	bool zeroed; /* up to `punched` it is zeros that are backed by memory, not holes */
};

/* GROW_SWAP: the copy is complete and packet programs may use either mirror. */
enum growth { GROW_IDLE, GROW_ALLOCATE, GROW_COPY, GROW_SWAP };

struct table {
	struct instance *instance;
	struct shm_root *root;
	struct shm_ledger *ledger;
	struct registry *registry;
	uint64_t secret[4];
	char uuid[33], boot_id[33];
	uint32_t term;
	bool membarrier;
	struct seg_map previous; /* of the writer before this one; until table_flip */
	struct generation *now;  /* what readers use */
	struct generation *next; /* being built: at a start, or growing */
	uint64_t reserve_size;   /* of the file `reserve`; 0: none */
	uint64_t in_force;       /* size of the table that a dead writer left in force; until the flip what counts */
	struct old_file *old;
	/* growth */
	enum growth growth;
	uint32_t copied;               /* slots of now that are in next */
	struct allocation *allocating; /* for next and the coming reserve; NULL: not started, or through */
	bool asked;                    /* it was started for this growth */
	uint64_t reserving;            /* bytes of the coming reserve that are allocated */
	int reserving_fd;
	uint64_t headroom;      /* bytes of records that next must have room for beyond the usual */
	uint64_t grow_again_ms; /* after a growth, or a reserve, that found no room */
	struct {                /* of the last growth that found no room */
		struct refusal why;
		uint64_t lacks; /* bytes of the file system; 0: it is not known how many */
		bool told;      /* that of table_step found none, and none has since */
		uint64_t bytes; /* of one file of one that had taken much; 0: it had not, or one has found room since */
		uint64_t left;  /* file_system_lacks after that; not repeated while it says so */
		uint64_t until_ms; /* and before this time */
	} no_room;
	uint64_t n_reserved; /* changes between reserve and publish */
	/* grace */
	uint64_t n_retired, grace_periods, blocked_ms, next_look_ms;
	uint64_t passed; /* what was retired with a lower number than this may be freed */
	uint64_t held_bytes;
	uint64_t expire_ms; /* when to look again whether records of leases are old */
	/* mirror_follow.c */
	struct mirror *mirror; /* NULL: none */
	struct mirror_past pasts[MIRROR_PASTS];
	uint64_t pasts_ms;    /* when to look again whether they are over */
	char mirror_off[400]; /* why it does not answer; "": it does */
	bool mirror_asked;    /* for this growth */
	bool mirror_making;   /* of next: the mirror's thread is at it */
	struct {
		bool asked, runs;
		uint64_t started; /* passes */
		uint32_t generation, at;
		uint64_t next_ms; /* of CLOCK_MONOTONIC: the next one by itself */
		struct table_compared now, last;
	} compare;
	/* clusters: private, so that looking one up costs no walk */
	json_t *cluster_numbers;
	uint32_t *uses; /* by number */
};

uint32_t capacity_for(uint64_t n_partitions); /* homes for so many, at the load that a fresh table has */
enum refusal_code generation_create(struct table *, uint32_t number, uint32_t capacity, uint32_t n_cluster_slots,
				    struct generation **, struct refusal *);
/* Where the records of such a generation begin: what it takes without them. */
uint64_t generation_records_off(uint32_t capacity, uint32_t n_cluster_slots);
bool huge_wanted(const struct table *, int fd);
/* Backs bytes up to `end` with memory. 0, or -1 with errno. */
int generation_allocate(struct generation *, uint64_t end);
/* Cuts the file to what is used, headroom bytes and some more room for records; maps no more than that. 0 or -1 with
 * errno. */
int generation_seal(struct generation *, uint64_t headroom);
/* Throws away one that no reader has seen; its file too, or (generation_forget) only our hold of it. */
void generation_discard(struct table *, struct generation **);
void generation_forget(struct generation **);
/* Gives the file its name and stores its number into root; what was `now` waits for a grace period. */
enum refusal_code generation_flip(struct table *, struct refusal *);
/* Old generations whose readers are gone: punch, recycle, unlink, a slice at a time. True when there is more to do. */
bool old_files_step(struct table *);
/* Finds what a dead writer left. */
void old_files_find(struct table *);
/* Makes the reserve of the first old file whose readers are gone, at once. */
void old_files_reclaim(struct table *);
void old_files_close(struct table *);
/* A reserve of at least size. 0 or -1 with errno. */
int reserve_make(struct table *, uint64_t size);

/* ---- allocation.c ---- */
/* Backs [from, to) of a table's file with memory. 0, or -1 with errno. huge: F6 of generation.c. */
int file_allocate(int fd, uint64_t from, uint64_t to, bool huge);
/* What the file system of a descriptor lacks for so many bytes more; 0: nothing, or it does not say. *left: a number
 * that goes up when it gets more room. */
uint64_t file_system_lacks(int fd, uint64_t bytes, uint64_t *left);
/* The same for two files up to one size, by a thread of its own. */
struct allocation;
struct allocation_part {
	int fd;
	uint64_t at; /* so much of it is backed */
};
struct allocation *allocation_start(const struct allocation_part[2], uint64_t to, bool huge); /* NULL: no thread */
bool allocation_done(const struct allocation *);
/* Ends it, done or, without wait, after the chunk that it is at. *parts: how far it came. 0, or -1 with errno. */
int allocation_end(struct allocation **, struct allocation_part[2], bool wait);

/* ---- change.c ---- */
/* The slot of a key, or a free one that now holds it; reserved, unless it is live or a document names it. SLOT_NONE: no
 * room. */
uint32_t slot_take(struct generation *, const char *key, size_t len, uint64_t hash);
/* What a cell (an entry, or the default) says, against this generation's records. */
void cell_state(const struct generation *, uint64_t word, const _Atomic uint32_t det[2], struct state *);
/* Writes a whole state into a slot that has none. */
bool cell_fill(struct table *, struct generation *, uint32_t slot, const struct state *, uint64_t document);
uint32_t cluster_record_make(struct generation *, unsigned number, const char *id, const char *endpoint);

/* ---- grow.c ---- */
void retire(struct table *, struct generation *, uint32_t off, uint64_t epoch);
/* At a start without a reserve: makes one of a file that the dead writer had not come to, as soon as no reader is in
 * it. Waits for sections of readers, half a second at most. */
void reserve_reclaim(struct table *);
/* Grows to the end, at once. */
enum refusal_code grow_now(struct table *, const struct table_room *, struct refusal *);
/* Ends the thread of a growth, so that its files can be closed. */
void grow_stop(struct table *);
/* Before n changes: when half of the room that is left at the start of a growth is gone, they wait for it a little, so
 * that they need not wait for all of it (grow_now). */
void grow_press(struct table *, size_t n);
/* Starts to grow when it is time; false when there is no room for it. */
bool grow_start(struct table *, uint32_t capacity, uint32_t n_cluster_slots, struct refusal *);

/* ---- mirror_follow.c: what the table does about its mirror, beyond the stores of a change (change.c) ---- */
/* At a start, after root is open: takes it over or makes it; no mirror is no failure. */
void mirrored_open(struct table *, bool wanted);
/* The mirror of a generation that is built at a start. */
void mirrored_begin(struct table *, struct generation *);
/* Before the flip of a start: nobody answers any more from what is there. R_BACKEND. */
enum refusal_code mirrored_suspend(struct table *, struct refusal *);
/* After it: programs answer again, from this generation. */
void mirrored_start(struct table *);
/* After the flip of a growth, when programs are there already. */
void mirrored_enable(struct table *);
/* Growth: begins to make next's; true when it is made, or will not be. wait: until then. */
void mirrored_grow(struct table *);
bool mirrored_grown(struct table *, bool wait);
/* Growth: programs go over to next's, while changes go to both; true when they are there. wait: until then. */
void mirrored_swap(struct table *);
bool mirrored_swapped(struct table *, bool wait);
/* A growth ends early. */
void mirrored_rest(struct table *);
void mirrored_give_up(struct table *);
/* What packet programs may still see of removed entries gets old. */
void mirrored_age(struct table *);

/* ---- mirror_compare.c ---- */
/* A slice of a compare. ms until the next call, as table_step. */
uint64_t mirror_compare_step(struct table *, uint64_t now_ms, uint64_t until_ns);

/* ---- ledger.c ---- */
/* fresh: of a root that was just made. left_ms: a ledger that is made anew does not know who has left: nobody (0), or
 * somebody who may have written without leases, then. */
enum refusal_code ledger_open(struct table *, bool fresh, uint64_t left_ms, struct refusal *);
void ledger_close(struct table *);

/* ---- registry.c, for the table alone ---- */
enum refusal_code registry_open(struct instance *, const struct shm_root *, struct shm_ledger *, bool membarrier,
				uint64_t (*clock)(void *arg), void *clock_arg, struct registry **, struct refusal *);
void registry_close(struct registry **);
/* Looks at every line (acquire) and remembers who is in a section, also as suspects for registry_bury. */
void registry_look(struct registry *);
/* Of that look: the lowest grace number among the sections that hold memory of `generation`; UINT64_MAX: none does. */
uint64_t registry_lowest(const struct registry *, uint32_t generation);
/* Removes the registrations whose process is proved dead: suspects and hinted ones. True when one went. */
bool registry_bury(struct registry *);
/* ms until a registration wants to be looked at again; UINT64_MAX: none does. */
uint64_t registry_next_ms(const struct registry *, uint64_t now_ms);
/* Tells how many bytes of old generations a line holds. */
void registry_set_held(struct registry *, uint64_t (*held)(void *arg, uint64_t line), void *arg);

static inline struct shm_ledger_row *ledger_rows(struct shm_ledger *l)
{
	return (struct shm_ledger_row *)((char *)l + SHM_PAGE);
}
static inline struct shm_ledger_cutover *ledger_cutovers(struct shm_ledger *l)
{
	return (struct shm_ledger_cutover *)(ledger_rows(l) + SHM_LEDGER_ROWS);
}
static inline struct shm_ledger_lease *ledger_leases(struct shm_ledger *l)
{
	return (struct shm_ledger_lease *)(ledger_cutovers(l) + SHM_LEDGER_CUTOVERS);
}
static inline struct shm_ledger_ring *ledger_rings(struct shm_ledger *l)
{
	return (struct shm_ledger_ring *)((char *)l + SHM_LEDGER_RINGS_OFF);
}
static inline _Atomic uint64_t *ledger_acks(struct shm_ledger *l)
{
	return (_Atomic uint64_t *)((char *)l + SHM_LEDGER_ACKS_OFF);
}

/* The generation that changes go to beside the one in use (P5 of change.c); NULL: none. It cannot change between a
 * reserve and its publish: growth rests meanwhile. */
static inline struct generation *gen_beside(const struct table *t)
{
	return t->growth == GROW_COPY || t->growth == GROW_SWAP ? t->next : NULL;
}

/* The writer's own, writable view of a generation. */
static inline struct shm_table *gen_header(const struct generation *g)
{
	return (struct shm_table *)g->base;
}
static inline struct shm_entry *gen_entry(const struct generation *g, uint32_t slot)
{
	return (struct shm_entry *)(uintptr_t)&g->map.entries[slot];
}
static inline _Atomic uint64_t *gen_document(const struct generation *g, uint32_t slot)
{
	return (_Atomic uint64_t *)(uintptr_t)&g->map.documents[slot];
}
static inline _Atomic uint8_t *gen_tag(const struct generation *g, uint32_t slot)
{
	return (_Atomic uint8_t *)(uintptr_t)&g->map.tags[slot];
}
static inline _Atomic uint32_t *gen_cluster(const struct generation *g, unsigned number)
{
	return (_Atomic uint32_t *)(uintptr_t)&g->map.clusters[number];
}
static inline void *gen_record(const struct generation *g, uint32_t off)
{
	return g->base + (uint64_t)off * SHM_RECORD_ALIGN;
}

#endif
