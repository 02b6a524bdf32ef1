/* SPDX-License-Identifier: MIT
 * Peers: a table in this process's own memory. `private` has no lock and can have no writer: the floor, what looking a
 * key up costs by itself. `rwlock` is the same table behind a lock that processes can share, taken for each look-up; its
 * readers write the lock, and `2 threads` shows what that does to them.
 *
 * Open addressing by groups of 16 (a Swiss table): a control byte for each slot, seven bits of the hash or `empty`, 16 of
 * them compared in one instruction; at most 7/8 full. Run by peers.c, in its thread; the second thread is here. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../../shm/hash.h"
#include "peer.h"

#define GROUP 16u
#define EMPTY 0x80u

struct entry {
	char name[KEY_ROOM];
	uint64_t value;
};

struct table {
	uint8_t *control;
	struct entry *entries;
	size_t groups; /* a power of two */
	uint64_t secret[4];
};

/* ---- 16 control bytes ---------------------------------------------------------------------------------------- */

#if defined(__SSE2__)
#define MATCH_BITS 1u /* of a match, for each slot */
static inline uint64_t match_byte(const uint8_t *control, uint8_t byte)
{
	__m128i group = _mm_load_si128((const __m128i *)(const void *)control);

	return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(group, _mm_set1_epi8((char)byte)));
}
#elif defined(__ARM_NEON)
#define MATCH_BITS 4u
static inline uint64_t match_byte(const uint8_t *control, uint8_t byte)
{
	uint8x16_t same = vceqq_u8(vld1q_u8(control), vdupq_n_u8(byte));
	uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(same), 4);

	return vget_lane_u64(vreinterpret_u64_u8(nibbles), 0) & 0x1111111111111111u;
}
#else
#define MATCH_BITS 1u
static inline uint64_t match_byte(const uint8_t *control, uint8_t byte)
{
	uint64_t match = 0;

	for (unsigned i = 0; i < GROUP; i++)
		match |= (uint64_t)(control[i] == byte) << i;
	return match;
}
#endif

static inline unsigned first_slot(uint64_t match)
{
	return (unsigned)__builtin_ctzll(match) / MATCH_BITS;
}

/* ---- the table ----------------------------------------------------------------------------------------------- */

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("private: no memory for a table of %zu bytes", size);
	(void)!madvise(p, size, MADV_HUGEPAGE);
	return p;
}

static void put(struct table *t, uint32_t number)
{
	char name[KEY_ROOM];
	uint64_t h, free_slots;
	size_t g, step = 0;

	key_name(name, number);
	h = hash_key(t->secret, name, KEY_LEN);
	g = (h >> 7) & (t->groups - 1);
	while (!(free_slots = match_byte(t->control + g * GROUP, EMPTY)))
		g = (g + ++step) & (t->groups - 1);
	g = g * GROUP + first_slot(free_slots);
	t->control[g] = h & 0x7f;
	memcpy(t->entries[g].name, name, KEY_ROOM);
	t->entries[g].value = value_of_key(number);
}

static void fill(struct table *t, uint32_t n)
{
	uint64_t state = 7;

	for (unsigned i = 0; i < 4; i++)
		t->secret[i] = random_u64(&state) | 1;
	t->groups = 1;
	while (t->groups * GROUP / 8 * 7 < n)
		t->groups *= 2;
	t->control = map(t->groups * GROUP);
	t->entries = map(t->groups * GROUP * sizeof(*t->entries));
	memset(t->control, EMPTY, t->groups * GROUP);
	for (uint32_t i = 0; i < n; i++)
		put(t, i);
}

static void drop(struct table *t)
{
	munmap(t->control, t->groups * GROUP);
	munmap(t->entries, t->groups * GROUP * sizeof(*t->entries));
}

/* The key's value, 0: it is not there. */
static inline uint64_t get(const struct table *t, const char *name)
{
	uint64_t h = hash_key(t->secret, name, KEY_LEN);
	uint64_t first = load_u64(name), last = load_u64(name + KEY_LEN - 8);
	size_t g = (h >> 7) & (t->groups - 1), step = 0;

	for (;;) {
		const uint8_t *control = t->control + g * GROUP;
		uint64_t match = match_byte(control, h & 0x7f);

		for (; match; match &= match - 1) {
			const struct entry *e = &t->entries[g * GROUP + first_slot(match)];

			if (load_u64(e->name) == first && load_u64(e->name + KEY_LEN - 8) == last)
				return e->value;
		}
		if (match_byte(control, EMPTY))
			return 0;
		g = (g + ++step) & (t->groups - 1);
	}
}

/* ---- private ------------------------------------------------------------------------------------------------- */

static void *private_open(const struct bench *b, uint32_t n)
{
	struct table *t = calloc(1, sizeof(*t));

	(void)b;
	if (!t)
		fail("private: no memory");
	fill(t, n);
	return t;
}

static uint64_t private_run(void *at, const struct sequence *s, size_t n)
{
	const struct table t = *(const struct table *)at;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += get(&t, s->names[i & (s->n - 1)]);
	return sum;
}

static void private_close(void *at)
{
	drop(at);
	free(at);
}

/* ---- rwlock -------------------------------------------------------------------------------------------------- */

struct locked {
	struct table t;
	pthread_rwlock_t *lock;
	bool two;
	/* The second thread, between the two barriers, makes look-ups until `enough`. */
	pthread_t second;
	pthread_barrier_t begin, end;
	const struct sequence *s; /* NULL: it ends */
	_Atomic bool enough;
	uint64_t kept;
};

static uint64_t locked_get(struct locked *l, const char *name)
{
	uint64_t value;

	pthread_rwlock_rdlock(l->lock);
	value = get(&l->t, name);
	pthread_rwlock_unlock(l->lock);
	return value;
}

static void *second_thread(void *at)
{
	struct locked *l = at;

	pin_to(CPU_DAEMON);
	while (pthread_barrier_wait(&l->begin), l->s) {
		for (size_t i = l->s->n / 2; !atomic_load_explicit(&l->enough, memory_order_relaxed); i++)
			l->kept += locked_get(l, l->s->names[i & (l->s->n - 1)]);
		pthread_barrier_wait(&l->end);
	}
	return NULL;
}

static void *locked_open(uint32_t n, bool two)
{
	struct locked *l = aligned_alloc(64, (sizeof(*l) + 63) / 64 * 64);
	pthread_rwlockattr_t attributes;

	if (!l)
		fail("rwlock: no memory");
	memset(l, 0, sizeof(*l));
	fill(&l->t, n);
	l->two = two;
	l->lock = mmap(NULL, sizeof(*l->lock), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	if (l->lock == MAP_FAILED || pthread_rwlock_init(l->lock, &attributes) != 0)
		fail("rwlock: no lock that processes can share");
	pthread_rwlockattr_destroy(&attributes);
	if (two && (pthread_barrier_init(&l->begin, NULL, 2) != 0 || pthread_barrier_init(&l->end, NULL, 2) != 0 ||
		    pthread_create(&l->second, NULL, second_thread, l) != 0))
		fail("rwlock: no second thread");
	return l;
}

static void *rwlock_open(const struct bench *b, uint32_t n)
{
	(void)b;
	return locked_open(n, false);
}

static void *rwlock_two_open(const struct bench *b, uint32_t n)
{
	(void)b;
	return locked_open(n, true);
}

static uint64_t rwlock_run(void *at, const struct sequence *s, size_t n)
{
	struct locked *l = at;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += locked_get(l, s->names[i & (s->n - 1)]);
	return sum;
}

static uint64_t rwlock_two_run(void *at, const struct sequence *s, size_t n)
{
	struct locked *l = at;
	uint64_t sum;

	l->s = s;
	atomic_store(&l->enough, false);
	pthread_barrier_wait(&l->begin);
	sum = rwlock_run(at, s, n);
	atomic_store(&l->enough, true);
	pthread_barrier_wait(&l->end);
	return sum;
}

static void rwlock_close(void *at)
{
	struct locked *l = at;

	if (l->two) {
		l->s = NULL;
		pthread_barrier_wait(&l->begin);
		pthread_join(l->second, NULL);
		pthread_barrier_destroy(&l->begin);
		pthread_barrier_destroy(&l->end);
	}
	pthread_rwlock_destroy(l->lock);
	munmap(l->lock, sizeof(*l->lock));
	drop(&l->t);
	free(l);
}

const struct peer peer_private = {
	.name = "private",
	.how = "a Swiss table in memory of this process, no lock, no writer possible: the floor",
	.open = private_open,
	.run = private_run,
	.close = private_close,
};

const struct peer peer_rwlock = {
	.name = "rwlock",
	.how = "the same table, a process-shared pthread_rwlock taken for each look-up",
	.shared = true,
	.open = rwlock_open,
	.run = rwlock_run,
	.close = rwlock_close,
};

const struct peer peer_rwlock_two = {
	.name = "rwlock, 2 threads",
	.how = "the same, a look-up of one of two threads, each on a processor of its own",
	.shared = true,
	.open = rwlock_two_open,
	.run = rwlock_two_run,
	.close = rwlock_close,
};
