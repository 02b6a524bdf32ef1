/* SPDX-License-Identifier: MIT
 * The mirror of the placement table in eBPF maps, as berthd has it: made or taken over, stored into, swapped, compared.
 * Knows maps and bytes (layout.h), nothing of tables, stores or requests. All calls are the control thread's, unless one
 * says otherwise. No call makes a system call but those that say so: a change costs stores into mapped memory.
 *
 * M1 Every change goes: the entry says pass (mirror_hold), then the table's word, then the entry's new word
 *    (mirror_store). So a mirror that is stale or half-made passes up, and never admits what the table does not.
 * M2 An entry's key is written while its word is 0, or a tombstone that a kernel grace period has passed since
 *    (mirror_aged), or its own key's: no program compares it meanwhile.
 * M3 While programs may use either of two inner maps, a change holds its entry in both before the table's word.
 * M4 An inner map is in the outer one only when it is complete; the one before goes after a kernel grace period, which the
 *    update of an array of maps waits for (Linux: maybe_wait_bpf_programs).
 * M5 A start finds what a dead writer left; while the table changes hands, control.state is 0 and a kernel grace period has
 *    passed since: no program answers. */
#ifndef BERTH_BPF_MIRROR_H
#define BERTH_BPF_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/* Told of this root's mirror that goes: no program answers by it any more, its pins are still there. id: mirror_id; leases
 * NULL: nobody can say what programs have under way. kept: what is open in it is to be seen in one of mirror_pasts_open. 0,
 * or -1 with errno: then its pins stay. */
struct mirror_left {
	int (*tell)(void *arg, uint32_t id, const struct mirror_control *, const struct mirror_lease *, bool kept);
	void *arg;
};

/* A mirror that went while leases were open in it: they end there, and can be seen (mirror_past.c). */
#define MIRROR_PASTS 4u
struct mirror_past {
	struct mirror_control *control;    /* read-only. NULL: there is none */
	const struct mirror_lease *leases; /* NULL: they are pinned no more, and nobody can say what is open */
};

struct mirror;                    /* the maps of an instance */
struct mirror_table;              /* one inner map: of one generation */
#define MIRROR_DEFAULT UINT32_MAX /* in place of a slot: the default */

/* name: the path of the instance's directory. Takes over what is pinned for this root (uuid), removes what is left there of
 * an instance that is gone, or makes all anew; nothing of it answers differently than before, until mirror_suspend.
 * Pins of another instance are left alone, whether its writer runs or not: -1. System calls; starts the mirror's thread.
 * 1: there was one of this root; 0: there was none; -1 with a text: what was wrong and what to do. */
int mirror_open(const char *name, const uint8_t uuid[16], const uint64_t secret[4], const struct mirror_left *,
		struct mirror **, char *text, size_t size);
/* Leaves the pins and what they say: the table goes on being true without its writer. */
void mirror_close(struct mirror **);
/* For a writer without a mirror: what an earlier one pinned for this root passes everything up from now on, and is
 * unpinned; what is another's is left alone. 1: so it is; 0: there was none of this root; -1 with errno and a text: if
 * there is one, it answers still. EACCES, EPERM: nobody knows whether there is one. */
int mirror_withdraw(const char *name, const uint8_t uuid[16], const struct mirror_left *, char *text, size_t size);
/* Which mirror it is, among all that this kernel had since it started: the number of its map `control`. 0 with errno: the
 * kernel does not say. */
uint32_t mirror_id(const struct mirror *);
/* For a writer, before mirror_pasts_open: takes away what a kill left, that is the pins of a past one that is m itself, taken
 * over again, and leases without control. m NULL: it has no mirror. */
void mirror_pasts_clean(const char *name, const struct mirror *m);
/* Adds those of this root that are not in it yet: how many, or -1 with errno: there may be one that cannot be seen. */
int mirror_pasts_open(const char *name, const uint8_t uuid[16], struct mirror_past pasts[MIRROR_PASTS]);
void mirror_past_close(struct mirror_past *);
/* The same, and its pins go: nothing is open in it, and what ended unknown is written down elsewhere. */
void mirror_past_forget(const char *name, struct mirror_past pasts[MIRROR_PASTS], unsigned n);
bool mirror_any_open(const struct mirror_control *, const struct mirror_lease *); /* a lease */
/* The map of leases of the n-th, of whichever root: a descriptor, or -1 with errno, ENOENT when there is none. */
int mirror_past_leases(const char *name, unsigned n);
/* For a writer that knows of a mirror of this root which is not pinned any more: wherever its programs are, they pass
 * everything up from now on. except: the one that this writer has, NULL: none. 1: one answered until now; 0: none did; -1
 * with errno: it may answer still. */
int mirror_stray(const struct mirror *except, const uint8_t uuid[16]);
/* /sys/fs/bpf/berth/<instance>; name as above. The last part is the name with what bpffs refuses replaced. */
void mirror_path(const char *name, char *path, size_t size);

/* Memory for one generation; system calls, any thread. NULL with errno. */
struct mirror_table *mirror_table_make(struct mirror *, uint32_t generation, uint32_t capacity, uint32_t n_entries);
void mirror_table_free(struct mirror_table **); /* system calls, likewise; programs that run keep it alive */
void mirror_table_drop(struct mirror_table **); /* the same by the mirror's thread, for unmapping takes milliseconds */
uint64_t mirror_table_bytes(const struct mirror_table *);

/* t NULL: nothing is done, so that a table without a mirror needs no case of its own. */
void mirror_key(struct mirror_table *, uint32_t slot, const void *key, size_t len, uint64_t hash); /* then: pass */
void mirror_longest_probe(struct mirror_table *, uint32_t longest); /* before mirror_key */
void mirror_hold(struct mirror_table *, uint32_t slot);
void mirror_store(struct mirror_table *, uint32_t slot, uint64_t word); /* ends what mirror_hold began */

/* number 1..MIRROR_CLUSTERS-1; endpoint NULL: removed. */
void mirror_cluster_set(struct mirror *, unsigned number, const char *endpoint);

/* A start: suspend (M5; system call, waits for a kernel grace period), the table flips, swap, enable. 0, or -1 with
 * errno; after a suspend that failed the table must not change hands. */
int mirror_suspend(struct mirror *);
int mirror_swap(struct mirror *, struct mirror_table *); /* system call, waits likewise */
void mirror_enable(struct mirror *, uint64_t termgen);

/* A growth: what takes long is the mirror's thread's. done: 1 done, 0 not yet, -1 failed (errno); after a failure the
 * mirror is off for good (mirror_switch_off). */
void mirror_make_start(struct mirror *, uint32_t generation, uint32_t capacity, uint32_t n_entries);
int mirror_make_done(struct mirror *, struct mirror_table **);
void mirror_swap_start(struct mirror *, struct mirror_table *); /* until it is done: M3 */
int mirror_swap_done(struct mirror *);
void mirror_wait(struct mirror *); /* until what was started is done */
/* For good: programs find no entries any more, and their memory goes. Waits for a kernel grace period; -1 with errno: the
 * kernel refused to wait, twice, and a program that was running may end after this with what it found before. */
int mirror_switch_off(struct mirror *);
bool mirror_is_off(const struct mirror *); /* so; NULL: true */

/* Tombstones up to `epoch` are to be aged: the thread waits for a kernel grace period. mirror_aged: up to here they are; t
 * NULL: UINT64_MAX. */
void mirror_age(struct mirror *, uint64_t epoch);
uint64_t mirror_aged(const struct mirror_table *);

/* What programs go by beside entries: this secret, the table's head, and, unless the mirror is off, this state. 0: it is
 * so. 1: it was not, and is again; meanwhile, for a kernel grace period, no program answered. -1 with errno: as 1, but the
 * kernel does not wait, and the mirror is off for good. System calls when it is not so. */
int mirror_mend(struct mirror *, struct mirror_table *, const uint64_t secret[4], uint64_t termgen);

/* A program admits writes without leases (control.gated). m NULL: false. */
bool mirror_gated(const struct mirror *);

/* What an entry says, for compares; MIRROR_DEFAULT: its word alone. */
struct mirror_entry mirror_entry_get(const struct mirror_table *, uint32_t slot);
uint32_t mirror_longest_probe_get(const struct mirror_table *);
const char *mirror_pins(const struct mirror *);                  /* their directory */
struct mirror_control *mirror_control(const struct mirror *);    /* counters for status; leases' high mark */
const struct mirror_lease *mirror_leases(const struct mirror *); /* MIRROR_LEASES of them; programs store there */

#endif
