/* SPDX-License-Identifier: MIT
 * The placement table as its writer has it: root, generations, growth, publishing, the ledger. Control thread only, the
 * only code that stores into root, table.* and ledger. Knows nothing of stores, documents, JSON or sockets.
 *
 * A change goes through three steps, so that publishing cannot fail:
 *   table_reserve (memory, slot; may say `full`) -> the store's commit -> table_publish   (or table_cancel)
 * Readers see a change at the one store of its word in table_publish.
 *
 * A start:  table_open -> table_build -> table_load* -> table_flip. Until the flip, readers live on the last
 * generation, which nobody ever writes again. */
#ifndef BERTH_WRITER_TABLE_H
#define BERTH_WRITER_TABLE_H

#include "../bpf/mirror.h"
#include "instance.h"
#include "placement.h"

struct table;

struct table_options {
	uint64_t barrier_ms;                 /* that readers count with: the longer of the old and the new one */
	uint64_t old_barrier_ms;             /* of the writer before; 0: there was none */
	const char *uuid;                    /* of the root that the store knows; NULL or "": any, or none yet */
	const char *boot_id;                 /* of the boot in which the store last saw it; hex, 32 digits */
	uint64_t term;                       /* of the last writer that the store knows; 0: none */
	bool durable;                        /* the store keeps what the table holds */
	bool new_directory;                  /* accept that the root that the store knows is gone (--new-directory) */
	uint64_t (*monotonic_ms)(void *arg); /* for leases: when they end; NULL: CLOCK_MONOTONIC */
	void *clock_arg;
	bool bpf; /* with a mirror for packet programs */
};

/* Maps or makes root and ledger. R_BACKEND (system call, no room; another layout, and the store keeps nothing), R_INVALID
 * (not the root that the store knows, and not --new-directory). */
enum refusal_code table_open(struct instance *, const struct table_options *, struct table **, struct refusal *);
void table_close(struct table **); /* leaves the files; memory is unmapped */

const char *table_uuid(const struct table *);    /* hex, 32 digits, lives as long as the table */
const char *table_boot_id(const struct table *); /* likewise */
uint32_t table_term(const struct table *);       /* of this writer: higher than any before it */
struct registry *table_registry(struct table *); /* registry.h */
struct table_shared {                            /* what the cursor thread works on besides its own file */
	struct instance *instance;
	struct shm_root *root;
	struct shm_ledger *ledger;
	_Atomic uint64_t *acks; /* of the ledger */
	bool membarrier;        /* readers rely on it */
};
struct table_shared table_shared(struct table *);
/* The last generation of a writer before this one, read-only; NULL when there is none or it is damaged. Valid until
 * table_flip. */
const struct seg_map *table_previous(const struct table *);

/* ---- the mirror for packet programs (mirror_follow.c) ---- */
/* NULL: none. One that was switched off is still given: programs may have leases open in it. */
struct mirror *table_mirror(const struct table *);
/* MIRROR_PASTS of them: those that went while programs had leases open in them. */
const struct mirror_past *table_mirror_pasts(const struct table *);
/* Why packet programs have no answers; NULL: they have. Lives until the next call that changes the table. */
const char *table_mirror_off(const struct table *);
uint64_t table_mirror_bytes(const struct table *);

struct table_compared {    /* table against mirror, one whole pass */
	uint64_t run;      /* its number, from 1; 0: none has ended yet */
	uint64_t entries;  /* compared */
	uint64_t n_differ; /* found, and stored again */
	char first[300];   /* of the first: its partition, or "(default)" */
	size_t first_len;
};
/* A pass that begins after this call, at once: the number that its end will have. */
uint64_t table_compare(struct table *);
/* The last pass that ended. */
const struct table_compared *table_compared(const struct table *);

/* ---- start ---- */
enum refusal_code table_build(struct table *, uint64_t n_partitions, struct refusal *);
/* The new generation has no epoch, cluster, default or partition until they are loaded. R_FULL. */
void table_load_counters(struct table *, uint64_t epoch, uint64_t next_cluster, uint64_t document_version,
			 uint64_t default_document);
enum refusal_code table_load_cluster(struct table *, unsigned number, const char *id, const char *endpoint,
				     struct refusal *);
/* key NULL: the default. state->at NULL: nothing but `document` is remembered. */
enum refusal_code table_load(struct table *, const char *key, size_t len, const struct state *, uint64_t document,
			     struct refusal *);
/* Makes the built generation the one that readers use. */
enum refusal_code table_flip(struct table *, struct refusal *);

/* ---- looking (pointers live until the next change) ---- */
/* True when there is an entry; then *state is it. *document (may be NULL): what was remembered, also without an entry.
 */
bool table_get(const struct table *, const char *key, size_t len, struct state *, uint64_t *document);
bool table_default(const struct table *, struct state *, uint64_t *document);
unsigned table_cluster_number(const struct table *, const char *id, size_t len); /* 0: unknown */
const struct shm_cluster *table_cluster(const struct table *, unsigned number);  /* NULL: unknown */
uint32_t table_cluster_uses(const struct table *, unsigned number); /* partitions, migration targets, default */
uint64_t table_next_cluster(const struct table *);
uint64_t table_epoch(const struct table *);
uint64_t table_document_version(const struct table *);
struct cluster_names table_names(struct table *); /* for placement.h */
/* Every entry and every remembered document, in no order. A non-zero return of the callback ends it. No change
 * meanwhile. */
int table_walk(const struct table *,
	       int (*)(void *arg, const char *key, size_t len, const struct state *, uint64_t document), void *arg);

struct table_stats {
	uint64_t n_live, n_tombstones, capacity, longest_probe;
	uint64_t bytes;         /* of the present generation's file */
	uint64_t reserve_bytes; /* kept for the next one */
	uint64_t record_bytes_used;
	uint64_t retired; /* pieces of memory that wait for a grace period */
	uint64_t grace_periods;
	uint64_t held_bytes; /* of older generations that a reader still holds */
	uint32_t generation;
	bool growing;
};
void table_stats(const struct table *, struct table_stats *);
/* Why the growth of table_step found no room; NULL: it did, or none was needed yet. *lacks: bytes of the file system; 0: it
 * is not known how many. Lives until the next call that changes the table. */
const char *table_growth_failed(const struct table *, uint64_t *lacks);

/* ---- changing ---- */
/* Takes the next epoch for good: it is never handed out again, whatever becomes of the change. 0: exhausted. */
uint64_t table_take_epoch(struct table *);

struct table_change {
	const char *key; /* NULL: the default */
	size_t len;
	struct state after; /* after.at NULL: the entry goes. Copied by table_reserve but for key */
	uint64_t document;  /* what is remembered of it afterwards */
	struct {
		uint32_t slot[2], det[2][2];
	} priv; /* [generation in use, generation being built] */
};
struct table_room {                    /* what a batch will need at most */
	uint64_t partitions, clusters; /* new ones */
	uint64_t record_bytes;         /* sum of table_record_bytes over its placements, long keys, clusters */
};
/* Room for a batch, made before it so that its reserves succeed: R_FULL when there is none. Grows at once where it must
 * (readers go on meanwhile). */
enum refusal_code table_expect(struct table *, const struct table_room *, struct refusal *);
/* What a record of so many bytes may take up. */
static inline uint64_t table_record_bytes(uint64_t size)
{
	return size + size / 4 + 32;
}
enum refusal_code table_reserve(struct table *, struct table_change *, struct refusal *);
/* The same for n of other partitions, all or none; grows for all of them where it must. */
enum refusal_code table_reserve_all(struct table *, struct table_change *, size_t n, struct refusal *);
void table_publish(struct table *, struct table_change *); /* after.epoch is set by now */
void table_cancel(struct table *, struct table_change *);

struct table_cluster_change {
	unsigned number; /* 0: a new one is taken, and stored here by the reserve */
	const char *id;  /* NULL: remove; else NUL-terminated */
	const char *endpoint;
	uint32_t priv[2];
};
enum refusal_code table_cluster_reserve(struct table *, struct table_cluster_change *, struct refusal *);
void table_cluster_publish(struct table *, struct table_cluster_change *);
void table_cluster_cancel(struct table *, struct table_cluster_change *);

void table_set_document_version(struct table *, uint64_t);
/* The barrier that readers count with from now on (root). */
void table_set_barrier(struct table *, uint64_t barrier_ms);

uint64_t table_hash(const struct table *, const char *key, size_t len); /* as leases carry it, but for lease_hash */
/* The name of a live partition with this hash (as lease_hash); NULL: none, one that the default answers or that is
 * gone. For people only: two partitions may share a hash. */
const char *table_key_of_hash(const struct table *, uint64_t hash, size_t *len);

/* ---- cutovers ---- */
/* A barrier on all readers: 0, or -1 with errno (then no publication may be concluded). */
int table_barrier(struct table *);
/* The ledger's proof that the cutover with this epoch was published at that time of CLOCK_MONOTONIC. The ledger may be
 * full: then there is no proof, and a restart starts the clock anew. */
void table_cutover_record(struct table *, uint64_t epoch, uint64_t published_ms);
bool table_cutover_find(const struct table *, uint64_t epoch, uint64_t *published_ms);
void table_cutover_forget(struct table *, uint64_t epoch);
/* Forgets those whose cutover does not stand any more: of writers that were killed before they could. */
void table_cutovers_sweep(struct table *, bool (*stands)(const void *arg, uint64_t epoch), const void *arg);

/* ---- upkeep ---- */
/* One slice of work (growing, grace periods, freeing, the dead) of about budget_us. Returns how many ms may pass until
 * the next call: 0 when there is more to do now, UINT64_MAX when nothing is waiting. */
uint64_t table_step(struct table *, uint64_t budget_us);
void table_heartbeat(struct table *);

#endif
