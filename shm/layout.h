/* SPDX-License-Identifier: MIT
 * Every byte that processes share: the files root, table.<generation>, cursors.<generation>, ledger and readers/<slot>.
 * Included by all; holds structs, constants, static asserts. Little-endian machines only.
 *
 *   root       one page, the same inode for the life of the instance
 *   table.<g>  | header 4096 | clusters: u32 each | entries: 64 each | documents: u64 each | tags: 1 each |
 *              | records, up to the end |
 *   cursors.<g>| header 4096 | buckets: 8 each | slots: 64 each |
 *   ledger     | header 4096 | rows: 64 each | cutovers: 16 each | leases: 32 each | rings: 16 each | acks: 8 each |
 *   readers/N  | header 4096 | lines: 128 each | lease arrays: lease_stride each | pin rings: SHM_RING_STRIDE each |
 *
 * Fields are grouped by who writes them. What a reader process writes (readers/N) shares no cache line, and no
 * file, with what all read. All offsets are relative to the start of the file; none is trusted before it was
 * checked against the mapping. */
#ifndef BERTH_SHM_LAYOUT_H
#define BERTH_SHM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "berth's files are little-endian"
#endif

#define SHM_ABI 2u
#define SHM_PAGE 4096u
#define SHM_MAGIC_ROOT 0x31746f6f72687462ull    /* "bthroot1" */
#define SHM_MAGIC_TABLE 0x3162617468747265ull   /* "erthtab1" */
#define SHM_MAGIC_CURSORS 0x3163727568747265ull /* "erthurc1" */
#define SHM_MAGIC_LEDGER 0x3167646c68747265ull  /* "erthldg1" */
#define SHM_MAGIC_READER 0x3172647268747265ull  /* "erthrdr1" */

/* Limits of ids and placements, and of this layout. */
#define SHM_KEY_MAX 255u   /* partition id, bytes */
#define SHM_KEY_INLINE 39u /* longest key inside the entry */
#define SHM_CLUSTER_ID_MAX 63u
#define SHM_ENDPOINT_MAX 255u
#define SHM_INDEX_MAX 255u
#define SHM_CLUSTERS_MAX 65535u /* numbers 1..65535; 0 is none */
#define SHM_INJECT_MAX 16u
#define SHM_RECORD_MAX 4096u /* longest record, bytes */
#define SHM_RECORD_ALIGN 16u /* records start at multiples; det[] and clusters[] count in it */
#define SHM_PROBE_MAX 1024u  /* entries behind the last home: a probe never wraps */
#define SHM_TAG_WINDOW 16u   /* tags are read so many at a time: as many more follow the last entry's */
#define SHM_EPOCH_MAX ((1ull << 43) - 1)
#define SHM_READERS_MAX 4096u /* lines of one registration */
#define SHM_LEDGER_ROWS 4096u /* registrations of one instance */
#define SHM_LEDGER_CUTOVERS 16384u
#define SHM_LEDGER_LEASES 16384u
#define SHM_LEASES_MAX 65536u           /* slots of one reader */
#define SHM_LEASES_TOTAL_MAX (1u << 24) /* slots of one registration: 256 MiB */
#define SHM_CURSOR_ID_MAX 4096u         /* cursor id, bytes */
#define SHM_CURSORS_MAX (1u << 24)      /* pins of one instance */
#define SHM_CHAIN_MAX 64u               /* pins of one bucket */
#define SHM_RING_ENTRIES 256u           /* of one reader's ring; a power of two */
#define SHM_LEDGER_ACKS 65536u          /* rings of one instance */

/* ---- root -------------------------------------------------------------------------------------------------- */

enum shm_membarrier { SHM_MEMBARRIER_NONE = 0, SHM_MEMBARRIER_GLOBAL_EXPEDITED = 1 };

/* magic, abi, fingerprint, boot_id, uuid, superseded and known_uuid keep their places in all layouts: a writer of another
 * one finds by them whether this is the root that its store knows, and says `superseded` in it. */
struct shm_root {
	/* identity: written once, magic last (release) */
	_Atomic uint64_t magic;
	uint32_t abi;
	uint32_t fingerprint; /* SHM_FINGERPRINT of the writer that made it */
	uint8_t boot_id[16];
	uint8_t uuid[16];
	uint64_t created_ms; /* CLOCK_REALTIME */
	uint8_t pad0[8];
	/* hash secret: written once */
	uint64_t secret[4];
	uint8_t pad1[32];
	/* read by every section; written at a start, a flip, a grace period */
	_Atomic uint64_t termgen; /* term:32 | generation:32; 0: no table yet */
	_Atomic uint64_t grace;   /* grace number, 40 bits used; never reset */
	_Atomic uint64_t cursor_generation;
	_Atomic uint64_t barrier_ms;
	_Atomic uint64_t old_barrier_ms; /* of the writer before, while what follows from it is not over; 0: none */
	uint8_t pad2[24];
	/* liveness: written by the running writer */
	_Atomic uint64_t heartbeat_ms; /* CLOCK_BOOTTIME, once a second */
	_Atomic uint64_t writer_pid;
	_Atomic uint64_t writer_start;      /* field 22 of /proc/PID/stat */
	_Atomic uint64_t fence_deadline_ms; /* CLOCK_BOOTTIME; 0: not in a fleet, no fence */
	_Atomic uint32_t membarrier_mode;   /* enum shm_membarrier of the writer */
	_Atomic uint32_t superseded;        /* 1: a writer of another layout has made a new directory */
	uint8_t pad3[24];
	uint8_t known_uuid[16]; /* that the store had of the root before: it may not have learnt of this one yet */
	uint8_t reserved[SHM_PAGE - 272];
};
static_assert(sizeof(struct shm_root) == SHM_PAGE, "root is one page");
static_assert(offsetof(struct shm_root, termgen) == 128, "the hot line of root");
static_assert(offsetof(struct shm_root, heartbeat_ms) == 192, "the liveness line of root");

#define SHM_TERMGEN(term, generation) (((uint64_t)(term) << 32) | (uint32_t)(generation))
#define SHM_TERM(termgen) ((uint32_t)((termgen) >> 32))
#define SHM_GENERATION(termgen) ((uint32_t)(termgen))

/* ---- table.<generation> ------------------------------------------------------------------------------------ */

/* One partition: one cache line. word.h says what the word holds.
 *
 *  0        8        16       20       24 25                            64
 *  | word   | hash   | det[0] | det[1] |n| key (up to 39 bytes)          |
 *
 *      insert: key, hash, det[0] -> word           set: det[!which] -> word (flips which)
 *      begin:  det[!which] -> word                  complete, abort, remove: word alone
 *
 * word all zero: never used, a probe ends here. kind 0 and the rest non-zero: tombstone, a probe goes on; hash and
 * key stay until a grace period has passed and another key moves in. n = SHM_KEY_LONG: key holds a struct
 * shm_long_key. Unused bytes of key are zero. */
struct shm_entry {
	_Atomic uint64_t word;
	_Atomic uint64_t hash;
	_Atomic uint32_t det[2]; /* record offset / SHM_RECORD_ALIGN; 0: none */
	uint8_t n;
	uint8_t key[SHM_KEY_INLINE];
};
static_assert(sizeof(struct shm_entry) == 64, "an entry is one cache line");
static_assert(offsetof(struct shm_entry, key) == 25, "key follows its length");

/* An entry's tag: 8 bits of its hash, 0 (alone) when it was never used. Sixteen tags in one load tell which of sixteen
 * entries to look at, or that none of them is the one: a look-up touches one line of tags, and one entry. Stored before
 * the word, and only ever a hint: a hit is judged by its entry alone. */
static inline uint8_t shm_tag(uint64_t hash)
{
	return (uint8_t)((uint8_t)hash + ((uint8_t)hash == 0));
}

#define SHM_KEY_LONG 0xffu
#define SHM_KEY_PREFIX 32u
struct shm_long_key {      /* in shm_entry.key of a key longer than SHM_KEY_INLINE */
	uint8_t record[4]; /* little-endian record offset / SHM_RECORD_ALIGN of a struct shm_key_record */
	uint8_t prefix[SHM_KEY_PREFIX];
	uint8_t pad[3];
};
static_assert(sizeof(struct shm_long_key) == SHM_KEY_INLINE, "fits the key of an entry");

/* The default placement has the form of an entry without a key. */
struct shm_default {
	_Atomic uint64_t word; /* 0: no default; kind 0 and the rest non-zero: none any more */
	_Atomic uint32_t det[2];
};

struct shm_table {
	/* written before the file gets its name, never after */
	uint64_t magic;
	uint32_t abi;
	uint32_t fingerprint;
	uint8_t uuid[16]; /* of root */
	uint32_t generation;
	uint32_t capacity;        /* homes; entries are capacity + SHM_PROBE_MAX */
	uint32_t n_cluster_slots; /* highest cluster number + 1 that fits */
	uint32_t pad0;
	uint64_t size; /* of the file */
	uint64_t clusters_off;
	uint64_t entries_off;
	uint64_t documents_off;
	uint64_t records_off; /* records end at size */
	uint64_t tags_off;
	uint8_t pad1[32];
	/* line at 128: read on a miss; written on a change of the default */
	struct shm_default dflt;
	_Atomic uint32_t longest_probe; /* stored before an entry that needs it */
	uint8_t pad2[44];
	/* line at 192: read by nobody in a hurry; written by each change */
	_Atomic uint64_t epoch; /* highest epoch taken; stored before the word that carries it */
	_Atomic uint64_t n_live;
	_Atomic uint64_t n_tombstones;
	_Atomic uint64_t document_version; /* last applied; 0: none */
	_Atomic uint64_t default_document; /* what the last document said of the default: its fingerprint, 0: nothing */
	_Atomic uint64_t next_cluster;     /* lowest number never given out */
	/* While an entry, or the default, is changed: the word with this epoch goes with this fingerprint, whatever
	 * documents[] or default_document says yet. Epoch 0: nothing is under way. For the start after a writer that was
	 * killed in between. */
	_Atomic uint64_t said_epoch;
	_Atomic uint64_t said_document;
	uint8_t reserved[SHM_PAGE - 256];
};
static_assert(sizeof(struct shm_table) == SHM_PAGE, "the table's header is one page");
static_assert(offsetof(struct shm_table, dflt) == 128, "the miss line");
static_assert(offsetof(struct shm_table, epoch) == 192, "the counter line");

/* Records: immutable once something visible refers to them, freed a grace period after nothing does.
 * check = low half of XXH3-64 over the bytes from `size` (or `len`, `number`) to the record's end. */

/* A placement. Equal placements share one record. data: index, NUL, then n_inject times
 * | kind u8 | field_len u8 | value_len u16 | field | NUL | value | NUL |. */
struct shm_detail {
	uint32_t check;
	_Atomic uint32_t refs; /* the writer's own count: not covered by check, ignored by readers */
	uint16_t size;         /* of the record, header and data, at most SHM_RECORD_MAX */
	uint16_t cluster;
	uint8_t kind; /* enum word_kind, never 0 */
	uint8_t n_inject;
	uint16_t index_len;
	char data[];
};
static_assert(sizeof(struct shm_detail) == 16, "detail header");

struct shm_key_record { /* a key longer than SHM_KEY_INLINE; lives as long as its entry holds the key */
	uint32_t check;
	uint16_t len;
	uint16_t pad;
	char data[];
};
static_assert(sizeof(struct shm_key_record) == 8, "key record header");

struct shm_cluster { /* data: id, NUL, endpoint, NUL */
	uint32_t check;
	uint16_t number;
	uint8_t id_len;
	uint8_t endpoint_len;
	char data[];
};
static_assert(sizeof(struct shm_cluster) == 8, "cluster record header");

/* ---- ledger ------------------------------------------------------------------------------------------------ */

struct shm_ledger {
	uint64_t magic;
	uint32_t abi;
	uint32_t fingerprint;
	uint8_t uuid[16];
	uint32_t n_rows;
	uint32_t n_cutovers;
	_Atomic uint64_t attach_number; /* highest given out */
	uint32_t n_leases;
	uint32_t n_acks;
	/* CLOCK_MONOTONIC, ms; 0: never. What had no row of its own below, or was an array's overflow: counts for every
	 * partition */
	_Atomic uint64_t lease_overflow_ms;
	_Atomic uint64_t lease_overflow_pid;
	_Atomic uint64_t unbracketed_left_ms; /* when the last process that may write without leases was found gone */
	_Atomic uint64_t pid_namespace; /* in which the rows' pids have their meaning (seg_pid_namespace); 0: unknown */
	uint8_t pad0[40];
	/* line at 128: loaded after each push into a ring; written by the cursor thread when it goes to sleep and wakes */
	_Atomic uint32_t cursor_sleeping; /* 1: ring the doorbell */
	uint32_t pad1;
	_Atomic uint64_t cursor_doing; /* 1 + the ack of the ring whose entry is being worked on; 0: none */
	uint8_t reserved[SHM_PAGE - 144];
};
static_assert(sizeof(struct shm_ledger) == SHM_PAGE, "the ledger's header is one page");

struct shm_ledger_row {               /* of readers/<index of the row> */
	_Atomic uint64_t attach;      /* stored last; 0: free */
	_Atomic uint64_t pid;         /* as the writer sees it; 0: not visible from here */
	_Atomic uint64_t start;       /* field 22 of /proc/PID/stat; 0: unknown */
	_Atomic uint64_t attached_ms; /* CLOCK_BOOTTIME */
	_Atomic uint32_t uid;
	_Atomic uint32_t n_readers;
	char comm[16];
	_Atomic uint16_t writes;   /* enum shm_writes */
	_Atomic uint16_t fences;   /* 1: its readers do not rely on membarrier */
	_Atomic uint32_t n_leases; /* slots of each reader's array; 0: no arrays */
};
static_assert(sizeof(struct shm_ledger_row) == 64, "one row, one line");

struct shm_ledger_cutover {     /* proof that this cutover was published, and when; an epoch names its partition */
	_Atomic uint64_t epoch; /* stored last; 0: free */
	_Atomic uint64_t published_ms; /* CLOCK_MONOTONIC */
};
static_assert(sizeof(struct shm_ledger_cutover) == 16, "cutover record");

enum shm_lease_end { SHM_LEASE_END_UNKNOWN = 1, SHM_LEASE_END_DIED = 2 }; /* the process ended it so; died over it */
struct shm_ledger_lease {        /* what a process that is gone has left: of each partition the latest end */
	_Atomic uint64_t hash;   /* stored last; 0: free */
	_Atomic uint64_t end_ms; /* CLOCK_MONOTONIC */
	_Atomic uint32_t pid;
	_Atomic uint32_t how; /* enum shm_lease_end */
	uint8_t pad[8];
};
static_assert(sizeof(struct shm_ledger_lease) == 32, "lease record");

struct shm_ledger_ring {         /* of readers/<index>: where the acknowledgements of its rings are */
	_Atomic uint64_t attach; /* stored last; another one than the row's: none */
	_Atomic uint32_t first;  /* of the acks; a multiple of 8, so that no two processes share a line */
	_Atomic uint32_t n;      /* rings, one for each reader */
};
static_assert(sizeof(struct shm_ledger_ring) == 16, "ring record");

#define SHM_LEDGER_RINGS_OFF \
	(SHM_PAGE + SHM_LEDGER_ROWS * sizeof(struct shm_ledger_row) + \
	 SHM_LEDGER_CUTOVERS * sizeof(struct shm_ledger_cutover) + \
	 SHM_LEDGER_LEASES * sizeof(struct shm_ledger_lease))
#define SHM_LEDGER_ACKS_OFF (SHM_LEDGER_RINGS_OFF + SHM_LEDGER_ROWS * sizeof(struct shm_ledger_ring))
#define SHM_LEDGER_SIZE (SHM_LEDGER_ACKS_OFF + SHM_LEDGER_ACKS * sizeof(uint64_t))

/* An ack, u64: entries done, ever, of one ring << 8 | enum shm_pin_result of the last of them. Its low half is a futex. */
#define SHM_ACK(done, result) ((uint64_t)(done) << 8 | (uint64_t)(result))
#define SHM_ACK_DONE(ack) ((ack) >> 8)
#define SHM_ACK_RESULT(ack) ((unsigned)(ack)&0xffu)
enum shm_pin_result {
	SHM_PIN_OK = 0,
	SHM_PIN_NOT_OWNER = 1,  /* another partition's cursor */
	SHM_PIN_UNKNOWN = 2,    /* release: no such pin */
	SHM_PIN_NO_CLUSTER = 3, /* pin: no such cluster */
	SHM_PIN_INVALID = 4     /* what no library sends */
};

/* ---- readers/<slot> ---------------------------------------------------------------------------------------- */

enum shm_writes { SHM_WRITES_NONE = 0, SHM_WRITES_BRACKETED = 1, SHM_WRITES_UNBRACKETED = 2 };

/* Made and filled by the writer, handed over as a descriptor; from then on the reader process may write anything
 * anywhere in it, so the writer trusts none of it but a line's meaning for that process. */
struct shm_registration {
	uint64_t magic;
	uint32_t abi;
	uint32_t fingerprint;
	uint8_t uuid[16];
	uint64_t attach;
	uint64_t monotonic_ns; /* the writer's clocks when it made this: the reader compares (time namespaces) */
	uint64_t boottime_ns;
	uint32_t slot;
	uint32_t n_readers;
	uint32_t lines_off;
	uint32_t line_stride;
	uint64_t size;
	uint32_t n_leases; /* slots of each reader's array; 0: no arrays */
	uint32_t lease_stride;
	uint64_t leases_off;
	/* written by the reader process */
	_Atomic uint32_t fences;      /* 1: its readers fence for themselves, membarrier was refused */
	_Atomic uint32_t unbracketed; /* sticky: stored before the word is loaded in berth_admit */
	/* by the writer again */
	uint64_t rings_off;
	uint32_t n_rings;   /* one for each reader; 0: it pins no cursors */
	uint32_t first_ack; /* of ring 0, in the ledger */
	/* written by the reader process */
	_Atomic uint32_t rings_high; /* rings below it have been in use; stored before the first push */
	uint8_t reserved[SHM_PAGE - 124];
};
static_assert(sizeof(struct shm_registration) == SHM_PAGE, "a registration's header is one page");

/* One thread's section line; grace.h says what it holds. 128: adjacent lines are fetched in pairs. */
struct shm_line {
	_Atomic uint64_t section;
	_Atomic uint32_t in_use;  /* a berth_reader is open on it */
	_Atomic uint32_t tid;     /* for people: the thread that opened it */
	_Atomic uint64_t damaged; /* answers that found damage (BERTH_E_CORRUPT), since the registration was made */
	uint8_t pad[104];
};
static_assert(sizeof(struct shm_line) == 128, "a line owns its pair of cache lines");

/* One reader's leases; lease.h says what they mean. The array's header, then n_leases slots. */
struct shm_leases {
	_Atomic uint32_t high; /* slots below it have been in use */
	uint32_t pad0;
	_Atomic uint64_t overflow_ms; /* CLOCK_MONOTONIC: latest end of an unknown outcome that got no slot; 0: none */
	uint8_t pad1[112];
};
static_assert(sizeof(struct shm_leases) == 128, "slots start on a pair of cache lines");

struct shm_lease {
	_Atomic uint64_t hash;  /* of the partition, 0 stored as 1; 0: free */
	_Atomic uint64_t state; /* kind:2 | sequence:14 | ms of CLOCK_MONOTONIC:48 */
};
static_assert(sizeof(struct shm_lease) == 16, "four slots a cache line");

#define SHM_LEASE_STRIDE(n_leases) \
	((uint32_t)((sizeof(struct shm_leases) + (n_leases) * sizeof(struct shm_lease) + 127u) & ~127u))

/* One reader's ring of requests to the cursor thread: its own thread is the one producer. Header, then entries. */
struct shm_ring {
	_Atomic uint64_t head;    /* entries pushed, ever: stored last (release) */
	_Atomic uint32_t waiting; /* 1: its reader sleeps until the ack changes (futex) */
	uint8_t pad[116];
};
static_assert(sizeof(struct shm_ring) == 128, "entries start on a pair of cache lines");

enum shm_pin_op { SHM_OP_PIN = 1, SHM_OP_RELEASE = 2 };
struct shm_ring_entry {
	_Atomic uint64_t hash[2]; /* of the cursor id */
	_Atomic uint64_t owner;   /* hash of the partition */
	_Atomic uint64_t expiry;  /* pin: CLOCK_BOOTTIME in ms, absolute, so that doing it twice changes nothing */
	_Atomic uint32_t op;      /* enum shm_pin_op */
	_Atomic uint32_t cluster;
	uint8_t pad[24];
};
static_assert(sizeof(struct shm_ring_entry) == 64, "an entry is a cache line");
#define SHM_RING_STRIDE ((uint32_t)(sizeof(struct shm_ring) + SHM_RING_ENTRIES * sizeof(struct shm_ring_entry)))

/* ---- cursors.<generation> ---------------------------------------------------------------------------------- */

/* Random numbers, written once, that ids and owners are hashed with (cursor_hash.h). */
#define SHM_CURSOR_WORDS 32u /* 64-bit words of a block: 256 bytes */
struct shm_cursor_key {      /* for one 64-bit result: constant, length, words; 128-bit numbers, low half first */
	uint64_t a[2 + SHM_CURSOR_WORDS][2];
};
struct shm_cursor_keys {
	struct shm_cursor_key block[2]; /* the two halves of an id's hash */
	struct shm_cursor_key tree[2];  /* of ids longer than a block */
	struct shm_cursor_key owner;
};

struct shm_cursors {
	/* written before root names the file, never after */
	uint64_t magic;
	uint32_t abi;
	uint32_t fingerprint;
	uint8_t uuid[16]; /* of root */
	uint32_t generation;
	uint32_t capacity;  /* slots */
	uint32_t n_buckets; /* a power of two, not below capacity */
	uint32_t check;     /* of this line and the keys (cursor_header_check): with damaged keys, ids could meet */
	uint64_t size;      /* of the file */
	uint64_t buckets_off;
	uint64_t slots_off;
	uint8_t pad1[56];
	/* line at 128: written at each start of a writer */
	_Atomic uint64_t ttl_ms;      /* of pins that name none */
	_Atomic uint64_t owner_share; /* pins that one owner may have; 0: as many as there is room for */
	uint8_t pad2[48];
	/* line at 192: written by each change */
	_Atomic uint64_t changes; /* number of the last change of a slot: stored before the slot carries it */
	_Atomic uint64_t n_live;  /* pins, those included that have expired and were not swept yet */
	_Atomic uint64_t n_pinned, n_refreshed, n_released, n_expired, n_evicted;
	_Atomic uint64_t n_refused; /* not-owner, no such cluster, garbage */
	struct shm_cursor_keys keys;
	uint8_t reserved[SHM_PAGE - 256 - sizeof(struct shm_cursor_keys)];
};
static_assert(sizeof(struct shm_cursors) == SHM_PAGE, "the header is one page");
static_assert(offsetof(struct shm_cursors, ttl_ms) == 128 && offsetof(struct shm_cursors, changes) == 192, "lines");

/* Bucket, u64: version:32 | 1 + first slot of its chain:32 (0: none). The version counts the changes of the chain. */
#define SHM_BUCKET(version, first) ((uint64_t)(version) << 32 | (uint32_t)(first))
#define SHM_BUCKET_VERSION(b) ((uint32_t)((b) >> 32))
#define SHM_BUCKET_FIRST(b) ((uint32_t)(b))

/* One pin: one cache line. cursor.h says how it is read and changed. */
struct shm_cursor {
	_Atomic uint64_t
		version; /* number of the change that made it, never used again; 0: free, or just being changed */
	_Atomic uint64_t hash[2]; /* of the cursor id */
	_Atomic uint64_t owner;   /* hash of the partition */
	_Atomic uint64_t word;    /* cluster:16 | expiry:48, ms of CLOCK_BOOTTIME */
	_Atomic uint32_t next;    /* 1 + next slot of the chain; 0: the last */
	uint32_t pad0;
	/* not for readers */
	_Atomic uint64_t order;     /* number of the change that pinned it last: the lowest is the oldest */
	_Atomic uint64_t pinned_ms; /* CLOCK_BOOTTIME of the writer then; for people */
};
static_assert(sizeof(struct shm_cursor) == 64, "a pin is one cache line");

/* Of sizes and offsets, so that two builds that disagree about the bytes never meet. */
#define SHM_FP_(h, x) (((h) ^ (uint32_t)(x)) * 0x01000193u)
#define SHM_FINGERPRINT \
	SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(SHM_FP_(0x811c9dc5u, SHM_ABI), \
										sizeof(struct shm_root)), \
									offsetof(struct shm_root, superseded) ^ \
										offsetof(struct shm_root, known_uuid) \
											<< 16), \
								offsetof(struct shm_table, tags_off) ^ \
									offsetof(struct shm_table, said_epoch) << 8 ^ \
									SHM_TAG_WINDOW << 16), \
							sizeof(struct shm_entry)), \
						sizeof(struct shm_detail)), \
					sizeof(struct shm_ledger_row) ^ offsetof(struct shm_ledger_row, n_leases) \
										<< 8), \
				sizeof(struct shm_line)), \
			offsetof(struct shm_registration, unbracketed)), \
		sizeof(struct shm_ledger_cutover) ^ sizeof(struct shm_ledger_lease) << 8 ^ \
			sizeof(struct shm_lease) << 16 ^ sizeof(struct shm_cursor) << 20 ^ SHM_RING_STRIDE << 10 ^ \
			sizeof(struct shm_cursor_keys))

#endif
