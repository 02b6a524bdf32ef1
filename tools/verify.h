/* SPDX-License-Identifier: MIT
 * `berth verify`: every byte of an instance against what its writer promises (shm/layout.h, writer/change.c). The files
 * may hold anything; nothing found in them is used before it was checked. One thread.
 *
 *   verify.c          the order of things, and telling faults
 *   verify_files.c    root, the header of the table
 *   verify_ledger.c   the ledger
 *   verify_cursors.c  pins of cursors
 *   verify_table.c    clusters, the default, counters, epochs, records: what is about a table as a whole
 *   verify_entry.c    one entry
 *
 * Under a living daemon everything may change while it is looked at, so a fault counts only when it is still there
 * after several looks some ms apart. */
#ifndef BERTH_TOOLS_VERIFY_H
#define BERTH_TOOLS_VERIFY_H

#include "../shm/index.h"
#include "tool.h"

struct fault {
	const char *what; /* the field or the rule, a static text */
	char value[96];   /* what is there */
	char should[128]; /* what should be there */
	int64_t slot;     /* -1: not about an entry */
	char key[SHM_KEY_MAX + 1];
	uint16_t key_len; /* 0: not known */
};

struct faults { /* found, not told yet; faults_free ends it */
	struct fault *at;
	size_t n, room;
	uint64_t n_more; /* beyond FAULTS_MAX */
};
#define FAULTS_MAX 20000u
/* One printf for both texts, with a tab between what is there and what should be. */
void fault_add(struct faults *, const char *what, const char *format, ...) __attribute__((format(printf, 3, 4)));
void faults_free(struct faults *);

struct verify {
	struct tool *t;
	bool live; /* a daemon is there: look several times */
	char file[32];
	uint64_t n_faults, n_shown;
	bool unsettled;        /* counters could not be compared: the table changed all the time */
	bool pins_unsettled;   /* the same of pins */
	uint64_t n_pin_faults; /* of n_faults */
	/* counted */
	uint64_t n_residues; /* of killed writers in empty entries */
	uint64_t n_live, n_tombstones, n_clusters, n_default, n_readers, n_pins;
	uint64_t highest_epoch;
	uint64_t *epochs; /* of live entries; room for n_room */
	size_t n_epochs, n_room;
	uint64_t *records; /* offset << 16 | size of each record that something refers to */
	size_t n_records, n_records_room;
	char *cluster_known; /* by number: 1 when it has a good record */
};
/* Tells them, and empties the list. */
void verify_tell(struct verify *, struct faults *);

#define VERIFY_LOOKS 4 /* at what changes, before a fault counts */
void verify_pause(void);

/* verify_files.c. False: what follows cannot be looked at. */
bool verify_root(struct verify *);
bool verify_header(struct verify *, uint32_t generation);
/* For headers of other files too. A private copy of at most `room` bytes from the start of a file: the file's size; -1 with
 * errno. */
int64_t verify_read(int dir_fd, const char *name, void *out, size_t room);
/* False: it is no such file, nothing else in it means anything. */
bool verify_layout(struct faults *, uint64_t magic, uint64_t right, uint32_t abi, uint32_t fingerprint);
void verify_area(struct faults *, const char *what, uint64_t at, uint64_t len, uint64_t size, uint64_t after);
/* The bytes from..to hold nothing, and are zero. */
bool bytes_zero(const void *base, uint64_t from, uint64_t to, uint64_t *where);
void verify_zero(struct faults *, const void *base, const char *what, size_t from, size_t to);
#define VERIFY_ZERO(f, base, type, first, last) verify_zero(f, base, #first, offsetof(type, first), last)

/* verify_ledger.c, verify_cursors.c */
void verify_ledger(struct verify *);
void verify_cursors(struct verify *);

/* verify_table.c. EXIT_DONE, or what tool_fail returned. *again: a new generation came. */
int verify_table(struct verify *, bool *again);
void verify_note_record(struct verify *, uint32_t off, uint64_t size);

/* verify_entry.c. One look at one entry; what it counts goes to the totals only when it is good. */
struct entry_counts {
	bool live, tombstone;
	bool residue; /* an empty entry with something in it */
	uint64_t epoch;
	uint32_t records[3]; /* offsets; 0: none */
	uint16_t sizes[3];
};
void verify_entry(const struct verify *, const struct seg_map *, uint32_t slot, struct faults *, struct entry_counts *);
/* What entry and default share: a live word and its records. */
void verify_cell(const struct verify *, const struct seg_map *, uint64_t word, const _Atomic uint32_t det[2],
		 struct faults *, struct entry_counts *);

#endif
