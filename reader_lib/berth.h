/* SPDX-License-Identifier: MIT
 * libberth: where a tenant (a partition) lives, and whether a write may go there now, from shared memory that the
 * daemon berthd writes. This is the whole public interface; README.md of this folder and berth(3) introduce it.
 *
 *   struct berth *b;  struct berth_reader *r;  struct berth_route at;
 *   berth_attach(NULL, NULL, &b);  berth_reader_open(b, &r);
 *   if (berth_route(r, "acme", 4, &at) == BERTH_OK) ... at.cluster, at.epoch ...
 *   berth_reader_close(&r);  berth_detach(&b);
 *
 * Words. Partition: an id of 1..255 bytes, not NUL-terminated here. Cluster: a number 1..65535, never reused while the
 * instance lives; berth_cluster tells its name and endpoint. Epoch: number of a placement's last change, never 0.
 *
 * Threads. A struct berth may be shared by all threads of a process, except that berth_maintain and berth_maintain_fd
 * are for one thread at a time, and berth_detach for the last one. A struct berth_reader is used by one thread at a
 * time (handing it over needs a happens-before) and closed before that thread ends. No call from a signal handler that
 * can interrupt another call on the same reader. No call creates a thread, prints, aborts, installs a handler or raises
 * SIGPIPE.
 *
 * Fork. In the child of a fork every call on the parent's handles answers BERTH_E_FORKED, and writes to nothing shared;
 * berth_reader_close and berth_detach there free private memory only. The child attaches for itself.
 *
 * Sections. What berth_lookup and berth_cluster hand out points into shared memory and stays valid to the end of the
 * outermost read section (berth_read_begin .. berth_read_end). A section holds back memory of the daemon, so it is kept
 * short: no blocking call, no yield of a coroutine inside. Calls that hand out numbers alone need no section.
 * While no daemon has been reached yet the strings are private copies of the reader, and valid until its next call of
 * the same function, at most to the end of the section. Write code for the stricter rule: copy what is to be kept.
 *
 * Errors. Each call returns BERTH_OK (0) or a negative code of berth_errors.h, and on an error leaves *out as it was.
 * The row of a code also has the HTTP status that a proxy answers with, where one fits:
 *   berth_route, berth_lookup:  UNKNOWN 404;  AGAIN 503;  CORRUPT, FORKED, INVAL 500
 *   berth_admit, berth_write_begin:  STALE 409, CUTOVER 409 (resolve again, then retry);  UNKNOWN 404;
 *                               FENCED, AGAIN, WRITER_DOWN 503;  CORRUPT, FORKED, INVAL 500
 *   berth_cursor_pin, _resolve, _release:  NOT_OWNER 403;  UNKNOWN 404;  AGAIN, WRITER_DOWN 503;  CORRUPT, FORKED,
 *                               INVAL 500
 * BERTH_E_SYSTEM leaves its cause in errno. BERTH_E_FORKED and BERTH_E_INVAL (a null pointer where none may be, a
 * handle used in a way that it forbids) may come from every call and are not repeated below. */
#ifndef BERTH_H
#define BERTH_H

#include <stddef.h>
#include <stdint.h>

#include "berth_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

struct berth;        /* an attachment of this process to an instance */
struct berth_reader; /* what one thread looks things up with */

/* ---- attaching --------------------------------------------------------------------------------------------- */

/* How this process writes, said at attach; how long a migration holds back writes depends on it. */
enum berth_writes {
	BERTH_WRITES_UNBRACKETED = 0, /* the default: berth_admit, then the write; each cutover waits the daemon's whole
					 barrier */
	BERTH_WRITES_BRACKETED = 1,   /* each write between berth_write_begin and berth_write_end: a cutover waits for
					 those writes, and no longer. One berth_admit makes the process unbracketed */
	BERTH_WRITES_NONE = 2         /* reads only: the gate answers BERTH_E_INVAL, and no cutover waits for us */
};

/* Which bindings of cursors to clusters this process uses, said at attach. (Sealed cursors need none: berth_seal.h.) */
enum berth_cursors {
	BERTH_CURSORS_OFF = 0, /* the default: cursor calls answer BERTH_E_INVAL */
	BERTH_CURSORS_PIN = 1  /* pins in shared memory. 16 KiB of it for each of max_readers */
};

#define BERTH_NO_WAIT 0xffffffffu
#define BERTH_MAX_READERS 4096u
#define BERTH_MAX_LEASES 65536u

/* Zero-filled but for size: the defaults. What lies beyond the fields that a library knows has to be zero. */
struct berth_attach_options {
	uint32_t size;        /* sizeof(struct berth_attach_options) */
	uint32_t writes;      /* enum berth_writes */
	uint32_t max_readers; /* readers open at the same time, 1..BERTH_MAX_READERS; 0: 64 */
	uint32_t wait_ms;     /* longest wait for the daemon's answer; 0: 1000; BERTH_NO_WAIT: none at all */
	uint32_t max_leases;  /* writes under way at the same time for each reader, 1..BERTH_MAX_LEASES; 0: 4096. Times
				 max_readers at most 2^24. 16 bytes of shared memory each: with the defaults 4 MiB
				 for the process. BERTH_WRITES_BRACKETED only */
	uint32_t cursors;     /* enum berth_cursors */
	uint32_t reserved[10];
};

/* Attaches this process to an instance. dir_or_instance: a directory (anything with a slash), or the name of an
 * instance below /dev/shm/berth, or NULL for the instance `default`. options may be NULL. The directory's path is kept,
 * and so is a descriptor of it, through which everything is opened from here on (chroot and dropped groups do no harm).
 *
 * When no daemon answers in time, attaching still succeeds, for look-ups: the gate answers BERTH_E_WRITER_DOWN until
 * berth_maintain has reached one. Waits at most wait_ms; the first one of a process also visits each processor once, which
 * takes milliseconds where they are busy, 0.2 s at most (a process that did not get everywhere in 0.1 s fences for itself:
 * its calls take some nanoseconds more). Keeps four descriptors open, five with pins. An attachment that berth_maintain
 * has replaced keeps three, or four, until every reader has followed and its writes have ended. Any thread.
 *
 * *out is the caller's, until berth_detach.
 *   BERTH_E_NO_INSTANCE  no such directory, or no complete instance in it
 *   BERTH_E_UNSAFE       the directory or a file in it has an owner or a mode that is not to be trusted
 *   BERTH_E_PERMISSION   the directory or the daemon does not admit this user
 *   BERTH_E_ABI          the instance has another layout than this library
 *   BERTH_E_CLOCK        the daemon's clocks are not ours (time namespace)
 *   BERTH_E_FULL         the daemon has no room for another registration (of this user)
 *   BERTH_E_REFUSED      the daemon refused for another reason
 *   BERTH_E_PROTOCOL     the daemon's answer is not understood
 *   BERTH_E_CORRUPT      root or table is damaged
 *   BERTH_E_INVAL        options or name out of range
 *   BERTH_E_NOMEM, BERTH_E_SYSTEM */
int berth_attach(const char *dir_or_instance, const struct berth_attach_options *options, struct berth **out);

/* Ends the attachment, frees it and sets *b to NULL. A null *b is BERTH_OK. No other call may run on it.
 *   BERTH_E_BUSY  a reader is open, or a lease is (berth_write_end was not called): nothing was done */
int berth_detach(struct berth **b);

/* Upkeep that the hot path is spared: maps a new table generation ahead of the readers, notices a daemon that went,
 * came back or was replaced, registers with it. Call it from the proxy's loop, when berth_maintain_fd is readable and
 * at least once a second. One thread at a time. Never waits: what takes time is finished by a later call. Readers
 * follow at their next outermost section: another registration, or another instance, is another attachment for them.
 *   BERTH_OK             registered with a daemon that holds its socket open; whether its heart still beats is looked at by
 *                        berth_cursor_pin and berth_cursor_release alone, which need its answer
 *   BERTH_E_WRITER_DOWN  no daemon answers at present; look-ups go on, and so does the gate once registered
 *   others, as of berth_attach: what stands against registering again; it is tried again */
int berth_maintain(struct berth *b);

/* The descriptor whose readability means that berth_maintain has work, or -1 while there is none. It may be another one
 * after each berth_maintain. Owned by the library: only to be polled. -1 in a forked child. */
int berth_maintain_fd(struct berth *b);

/* ---- readers ----------------------------------------------------------------------------------------------- */

/* Opens a reader for the calling thread. Never waits for the daemon. *out is the caller's until berth_reader_close.
 *   BERTH_E_FULL   max_readers are open
 *   BERTH_E_NOMEM */
int berth_reader_open(struct berth *b, struct berth_reader **out);

/* Closes the reader, its section if one is open too, and sets *r to NULL. A null *r is allowed. Writes that were begun
 * with it stay under way; any reader of the process may end them. */
void berth_reader_close(struct berth_reader **r);

/* Opens a read section, or goes one level deeper in the open one. Never fails: what is wrong is answered by the calls
 * inside. A null r does nothing; so in berth_read_end. */
void berth_read_begin(struct berth_reader *r);

/* Ends a level of the section; the outermost end makes every string handed out in it invalid. */
void berth_read_end(struct berth_reader *r);

/* ---- look-ups ---------------------------------------------------------------------------------------------- */

enum berth_kind { BERTH_DEDICATED_CLUSTER = 1, BERTH_DEDICATED_INDEX = 2, BERTH_SHARED_INDEX = 3 };
enum berth_phase { BERTH_SETTLED = 0, BERTH_DRAINING = 1, BERTH_CUTOVER = 2 };

/* Where reads of a partition go now; writes too, unless the phase is BERTH_CUTOVER. */
struct berth_route {
	uint64_t epoch; /* to be given to berth_admit */
	uint16_t cluster;
	uint8_t kind;       /* enum berth_kind */
	uint8_t phase;      /* enum berth_phase */
	uint8_t is_default; /* 1: the partition has no placement of its own, the default answers */
	uint8_t reserved[3];
};

struct berth_key {
	const void *key; /* a partition id, */
	size_t len;      /* of 1..255 bytes */
};

/* Resolves one partition: the answer was true at an instant between call and return. With or without a section. Makes
 * no system call, takes no lock, allocates nothing; but the first call after the daemon made a new table maps it,
 * unless berth_maintain has.
 *   BERTH_E_UNKNOWN   no placement, and no default
 *   BERTH_E_AGAIN     the table changed under every one of many attempts, or the section has outlived too many
 *                     generations of the table: end it, then call again
 *   BERTH_E_CORRUPT   the table is damaged
 *   BERTH_E_NO_INSTANCE, BERTH_E_ABI, BERTH_E_UNSAFE, BERTH_E_PERMISSION, BERTH_E_NOMEM, BERTH_E_SYSTEM
 *                     a new generation of the table could not be mapped
 *   BERTH_E_INVAL     len is not 1..255 */
int berth_route(struct berth_reader *r, const void *key, size_t len, struct berth_route *out);

/* Resolves n partitions in one section, several at a time: status[i] is what berth_route would return for keys[i], and
 * out[i] is filled when that is BERTH_OK. Each answer is true at an instant of its own between call and return. Returns
 * BERTH_OK when every status was found out; otherwise what stood against it, and then every status from there on is
 * that code too. n may be 0. */
int berth_route_bulk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
		     int *status);

/* The whole placement. Strings are NUL-terminated and may be empty, never null; see "Sections" for how long they live.
 */
struct berth_placement {
	uint64_t epoch;
	uint16_t cluster;
	uint8_t kind;       /* enum berth_kind */
	uint8_t phase;      /* enum berth_phase */
	uint8_t is_default; /* 1: the default answers */
	uint8_t to_kind;    /* enum berth_kind of the migration's target; 0: BERTH_SETTLED */
	uint16_t to_cluster;
	const char *index;
	const char *to_index;
	uint32_t index_len;
	uint32_t to_index_len;
	uint32_t n_inject; /* pairs that berth_inject tells */
	uint32_t reserved0;
	const void *opaque; /* the library's */
	uint64_t opaque_len;
	uint64_t reserved[2];
};

/* Resolves one partition with all that is known of it. Inside a read section only (else BERTH_E_INVAL). Zero-copy.
 * Errors as of berth_route. */
int berth_lookup(struct berth_reader *r, const void *key, size_t len, struct berth_placement *out);

enum berth_inject_kind {
	BERTH_INJECT_CONSTANT = 0, /* field := value */
	BERTH_INJECT_PARTITION = 1 /* field := the partition's id; value is "" */
};

/* A field that the proxy adds to documents and filters of a BERTH_SHARED_INDEX placement. */
struct berth_inject {
	const char *field;
	const char *value;
	uint32_t field_len;
	uint32_t value_len;
	uint32_t kind; /* enum berth_inject_kind */
	uint32_t reserved;
};

/* The i-th pair of a placement that berth_lookup filled, in the same section. Strings live as long as those of p.
 *   BERTH_E_INVAL    i is not below p->n_inject
 *   BERTH_E_CORRUPT  the record is damaged */
int berth_inject(const struct berth_placement *p, unsigned i, struct berth_inject *out);

struct berth_cluster {
	const char *id;
	const char *endpoint; /* URL; may be "" */
	uint32_t id_len;
	uint32_t endpoint_len;
	uint16_t number;
	uint16_t reserved0[3];
	uint64_t reserved[2];
};

/* Name and endpoint of a cluster. Inside a read section only (else BERTH_E_INVAL). Zero-copy; see "Sections".
 *   BERTH_E_UNKNOWN  no such cluster. One that a look-up has named just before was removed in between, and its partition
 *                    moved before that: look the partition up again, in the same section (examples/lookup.c)
 *   other errors as of berth_route */
int berth_cluster(struct berth_reader *r, uint16_t cluster, struct berth_cluster *out);

/* ---- the write gate ---------------------------------------------------------------------------------------- */

/* May a write on this partition, resolved at this epoch, go out now? Ask right before the write goes out; from then on
 * it has to end within the daemon's barrier. The answer was true at an instant between call and return. With or without
 * a section; costs what berth_route costs, plus reading a clock on a host of a fleet.
 *   BERTH_OK             yes, to the cluster that was resolved with this epoch
 *   BERTH_E_CUTOVER      409: the partition changes clusters just now; resolve again and retry soon
 *   BERTH_E_STALE        409: the placement changed since it was resolved (or epoch is 0); resolve again, then retry
 *   BERTH_E_UNKNOWN      404: no placement, and no default
 *   BERTH_E_FENCED       503: this host lost its right to admit writes
 *   BERTH_E_WRITER_DOWN  503: this process was never registered with a daemon, or the instance has been replaced;
 *                        berth_maintain mends it
 *   BERTH_E_AGAIN        503: a resource (descriptors, memory) is short, or the table changed too often: retry
 *   BERTH_E_CORRUPT      500: the table is damaged
 *   BERTH_E_INVAL        500: attached with BERTH_WRITES_NONE, or len is not 1..255
 * It answers no other code. */
int berth_admit(struct berth_reader *r, const void *key, size_t len, uint64_t epoch);

/* ---- writes in leases -------------------------------------------------------------------------------------- */

/* A write under way: where it goes, and the lease that tells the daemon that it is. The caller's memory; may be moved and
 * copied (the copies are one lease: only one of them is ended). */
struct berth_write {
	uint64_t epoch;
	uint16_t cluster;
	uint8_t kind;       /* enum berth_kind */
	uint8_t phase;      /* BERTH_SETTLED or BERTH_DRAINING */
	uint8_t is_default; /* 1: the default answered */
	uint8_t reserved[3];
	void *opaque[2]; /* the library's; both null: no lease */
	uint64_t reserved1[2];
};

enum berth_outcome {
	BERTH_DONE = 0,   /* every attempt ended with a final answer of the node that does the write (refused counts) */
	BERTH_UNKNOWN = 1 /* anything else: a time-out, a broken connection, a 502, 503 or 504 of a gateway, a task that
			     goes on behind the answer. The write may still arrive; a cutover waits a barrier for it */
};

/* Looks the partition up, asks the gate and takes a lease, in one step: from here until berth_write_end no migration of
 * this partition completes. One lease covers all attempts of the write, retries too. epoch: as resolved before, or 0: the
 * present one. Process attached with BERTH_WRITES_BRACKETED. With or without a section of the caller. Makes no system
 * call, takes no lock, allocates nothing (but see berth_route). *w is filled on BERTH_OK; else left as it was, and
 * nothing is held. Answers as berth_admit, and
 *   BERTH_E_AGAIN  503: also when max_leases writes of this reader are under way
 *   BERTH_E_INVAL  500: not attached with BERTH_WRITES_BRACKETED, or len is not 1..255 */
int berth_write_begin(struct berth_reader *r, const void *key, size_t len, uint64_t epoch, struct berth_write *w);

/* Begins n writes: status[i] is what berth_write_begin would return for keys[i] at epochs[i] (epochs may be NULL: all
 * present ones), and w[i] is filled when that is BERTH_OK, all zero otherwise. Writes on one partition share a slot; each
 * is ended by itself all the same, and the slot is free after the last. Each answer is true at an instant of its own
 * between call and return. Returns BERTH_OK, or what stood against all (every status is that code, nothing is held):
 *   BERTH_E_AGAIN  no slot for all that were admitted */
int berth_write_begin_bulk(struct berth_reader *r, const struct berth_key *keys, const uint64_t *epochs, size_t n,
			   struct berth_write *w, int *status);

/* Ends a write; w is zeroed. r: the ending thread's reader, which need not be the one that began it (what happened
 * between has to happen before this call). Never fails for a write that was begun and not ended. Each write is ended once:
 * to end a copy of one that has ended is a mistake, which is noticed as a rule, but not always. Of writes of a bulk begin
 * on one partition it ends another one's share, and once berth_maintain has replaced the attachment it looks at memory
 * that may be gone.
 *   BERTH_E_INVAL   w is under no lease: never begun, or ended already; outcome is none of the enum. A copy of it was
 *                   ended: only while the attachment is the present one, and not of a bulk begin's writes that share a
 *                   partition */
int berth_write_end(struct berth_reader *r, struct berth_write *w, enum berth_outcome outcome);

/* ---- cursor affinity --------------------------------------------------------------------------------------- */

/* A scroll or point-in-time id means something on the cluster alone that made it, wherever its partition has moved since.
 * A pin binds the id to that cluster, for one partition (its owner) and for a time, in memory that every proxy of the
 * instance sees; it outlives proxies and daemon, not the machine. All calls: process attached with BERTH_CURSORS_PIN, or
 * BERTH_E_INVAL. With or without a section. Each may answer
 *   BERTH_E_WRITER_DOWN  503: this process was never registered with a daemon, or the instance has been replaced:
 *                        berth_maintain mends it. To pin and to release also needs a daemon that lives
 *   BERTH_E_AGAIN        503: see there; also when a descriptor or memory is short, or under changes without end: retry
 *   BERTH_E_CORRUPT      500: the table of pins is damaged
 *   BERTH_E_INVAL        500: id_len is not 1..4096, or owner_len not 1..255
 * Order holds within one reader's calls. */

#define BERTH_CURSOR_ID_MAX 4096u

/* Pins a cursor: id belongs to this cluster, for this owner, for ttl_ms from now (0: the daemon's default, 300 s). An id
 * that its owner has pinned already gets the new ttl and cluster, and nothing is evicted; else, with no room left, what
 * has expired goes first, then the pin that was pinned, or pinned again, the longest time ago. O(1), whatever is pinned.
 * wait_ms > 0: returns when every process sees it, or after so long. wait_ms 0: returns at once, without a system call
 * but the one that wakes a sleeping daemon; others see it soon (and what is refused then is counted in `berth cursors`).
 *   BERTH_E_NOT_OWNER    403: another partition has pinned this id
 *   BERTH_E_UNKNOWN      404: there is no such cluster
 *   BERTH_E_AGAIN        503: not seen to be done within wait_ms: the pin may or may not exist. Or 256 requests of this
 *                        reader wait for the daemon: nothing was asked. Pinning again is safe */
int berth_cursor_pin(struct berth_reader *r, const void *id, size_t id_len, uint16_t cluster, const void *owner,
		     size_t owner_len, uint32_t ttl_ms, uint32_t wait_ms);

/* The cluster that a cursor is pinned to. Never refreshes it. now_ms: CLOCK_BOOTTIME in ms, 0: the call reads it; a pin
 * whose age is its ttl or more is none, daemon or no daemon. Makes no system call, takes no lock, allocates nothing (but
 * the first call after the daemon made a new file of pins maps it). *cluster is written on BERTH_OK.
 *   BERTH_E_NOT_OWNER  403: it is another partition's
 *   BERTH_E_UNKNOWN    404: no such pin, or not any more */
int berth_cursor_resolve(struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len,
			 uint64_t now_ms, uint16_t *cluster);

struct berth_cursor {
	const void *id;
	size_t id_len;
	const void *owner;
	size_t owner_len;
};

/* Resolves n cursors, several at a time: status[i] is what berth_cursor_resolve would return for cursors[i], and
 * clusters[i] is filled when that is BERTH_OK. Each answer is true at an instant of its own. Returns BERTH_OK when every
 * status was found out; else what stood against all, and then every status is that code. n may be 0. */
int berth_cursor_resolve_bulk(struct berth_reader *r, const struct berth_cursor *cursors, size_t n, uint64_t now_ms,
			      uint16_t *clusters, int *status);

/* Ends a pin. Waits for the daemon as long as berth_attach did at most (wait_ms there; BERTH_NO_WAIT: not at all, and
 * BERTH_OK means that it was asked).
 *   BERTH_E_NOT_OWNER  403: it is another partition's, and stays
 *   BERTH_E_UNKNOWN    404: no such pin, or not any more
 *   BERTH_E_AGAIN      503: as of berth_cursor_pin; releasing again is safe */
int berth_cursor_release(struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len);

/* How many pins there are, those included that have expired within the last second or so. */
int berth_cursor_len(struct berth_reader *r, uint64_t *n);

/* ---- texts ------------------------------------------------------------------------------------------------- */

/* English text of a code, static, never null. Any thread, any handle state. */
const char *berth_strerror(int code);

/* "major.minor.patch" of the library, static. */
const char *berth_version(void);

#ifdef __cplusplus
}
#endif

#endif
