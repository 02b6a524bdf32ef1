/* SPDX-License-Identifier: MIT
 * libFuzzer target for what readers find in shared memory: a table file's bytes, whatever they are, are either refused
 * or read without a look outside of them, and what is found is what was asked for. Also the writer's answer to
 * `attach`, and what the writer concludes from section lines. One thread; keeps nothing between runs.
 *
 * First byte of the input, what follows it:
 *   0 1 2  overwrites of a valid image, then where it ends    (2: the image ends before its last byte)
 *   3      the whole image: header and body
 *   4      the header page of a valid image
 *   5      an answer line        6      section lines */
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>

#include "../reader_lib/internal.h"
#include "../writer/core_internal.h"

#define HOLDS(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

#define CAPACITY 40u
#define N_ENTRIES (CAPACITY + SHM_PROBE_MAX)
#define N_CLUSTERS 16u
#define CLUSTERS_OFF SHM_PAGE
#define ENTRIES_OFF (CLUSTERS_OFF + N_CLUSTERS * 4)
#define DOCUMENTS_OFF (ENTRIES_OFF + N_ENTRIES * 64)
#define TAGS_OFF ((DOCUMENTS_OFF + N_ENTRIES * 8 + 63) / 64 * 64)
#define RECORDS_OFF ((TAGS_OFF + N_ENTRIES + SHM_TAG_WINDOW + SHM_PAGE - 1) / SHM_PAGE * SHM_PAGE)
#define IMAGE_SIZE (RECORDS_OFF + 2 * SHM_PAGE)

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static const uint64_t secret[4] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0x2545f4914f6cdd1d};
static const uint8_t uuid[16] = "fuzz-table-uuid";
static char long_key[SHM_KEY_MAX + 1];
/* of every length class of the hash and of the comparison; the last ones are in no entry */
static const char *const keys[] = {"a",
				   "abc",
				   "abcd123",
				   "abcd1234",
				   "sixteen-bytes-16",
				   "seventeen-bytes-1",
				   "thirty-three-bytes-thirty-three-b",
				   "thirty-nine-bytes-is-the-longest-inline",
				   "forty-bytes-is-the-shortest-in-a-record!",
				   long_key,
				   "tombstone",
				   "none",
				   "none-of-these-lives-in-the-table"};
#define N_LIVE 10u
#define N_KEYS (sizeof keys / sizeof keys[0])

static unsigned char valid[IMAGE_SIZE] __attribute__((aligned(4096)));
static unsigned char image[IMAGE_SIZE + 64] __attribute__((aligned(4096)));
static unsigned char asked_for; /* where sums go that keep the compiler from leaving out a look */

/* ---- a valid image ---------------------------------------------------------------------------------------------- */

static uint32_t record_at = RECORDS_OFF / SHM_RECORD_ALIGN;

static uint32_t put_record(const void *record, size_t size)
{
	uint32_t off = record_at;

	memcpy(valid + (size_t)off * SHM_RECORD_ALIGN, record, size);
	record_at += (uint32_t)((size + SHM_RECORD_ALIGN - 1) / SHM_RECORD_ALIGN);
	return off;
}

static uint32_t put_detail(unsigned kind, unsigned cluster, const char *index, unsigned n_inject)
{
	union detail_buffer d;

	HOLDS(detail_start(&d, kind, cluster, index, strlen(index)) == BERTH_OK);
	for (unsigned i = 0; i < n_inject; i++)
		HOLDS(detail_add_inject(&d, "_tenant", 7, i % 2 ? INJECT_CONSTANT : INJECT_PARTITION, "x", i % 2) ==
		      BERTH_OK);
	detail_finish(&d);
	return put_record(&d, d.detail.size);
}

static void put_cluster(unsigned number)
{
	char bytes[64] __attribute__((aligned(16))) = {0};
	struct shm_cluster *c = (struct shm_cluster *)(void *)bytes;

	c->number = (uint16_t)number;
	c->id_len = 2;
	c->endpoint_len = 8;
	memcpy(c->data, "c0\0http://h", 12);
	c->data[1] = (char)('0' + number);
	c->check = cluster_checksum(c);
	((uint32_t *)(void *)(valid + CLUSTERS_OFF))[number] = put_record(bytes, cluster_size(2, 8));
}

static void put_entry(unsigned i, uint64_t word, uint32_t at, uint32_t to)
{
	struct shm_entry *e = (struct shm_entry *)(void *)(valid + ENTRIES_OFF);
	struct shm_table *h = (struct shm_table *)(void *)valid;
	size_t len = strlen(keys[i]);
	uint64_t hash = hash_key(secret, keys[i], len);
	uint32_t home = index_home(hash, CAPACITY), slot = home;

	while (atomic_load(&e[slot].word) != WORD_EMPTY)
		slot++;
	if (slot - home > atomic_load(&h->longest_probe))
		atomic_store(&h->longest_probe, slot - home);
	atomic_store(&e[slot].hash, hash);
	valid[TAGS_OFF + slot] = shm_tag(hash);
	atomic_store(&e[slot].det[0], at);
	atomic_store(&e[slot].det[1], to);
	if (len <= SHM_KEY_INLINE) {
		e[slot].n = (uint8_t)len;
		memcpy(e[slot].key, keys[i], len);
	} else {
		char bytes[SHM_KEY_MAX + 16] __attribute__((aligned(16))) = {0};
		struct shm_key_record *r = (struct shm_key_record *)(void *)bytes;
		uint32_t off;

		r->len = (uint16_t)len;
		memcpy(r->data, keys[i], len);
		r->check = key_record_checksum(r);
		off = put_record(bytes, key_record_size(len));
		e[slot].n = SHM_KEY_LONG;
		memcpy(e[slot].key, &off, 4);
		memcpy(e[slot].key + 4, keys[i], SHM_KEY_PREFIX);
	}
	atomic_store(&e[slot].word, word);
}

static void make_valid(void)
{
	struct shm_table *h = (struct shm_table *)(void *)valid;
	uint32_t index = put_detail(KIND_DEDICATED_INDEX, 1, "an-index", 0),
		 cluster = put_detail(KIND_DEDICATED_CLUSTER, 2, "", 0),
		 shared = put_detail(KIND_SHARED_INDEX, 1, "shared", SHM_INJECT_MAX);

	memset(long_key, 'k', SHM_KEY_MAX);
	h->magic = SHM_MAGIC_TABLE;
	h->abi = SHM_ABI;
	h->fingerprint = SHM_FINGERPRINT;
	memcpy(h->uuid, uuid, 16);
	h->generation = 7;
	h->capacity = CAPACITY;
	h->n_cluster_slots = N_CLUSTERS;
	h->size = IMAGE_SIZE;
	h->clusters_off = CLUSTERS_OFF;
	h->entries_off = ENTRIES_OFF;
	h->documents_off = DOCUMENTS_OFF;
	h->tags_off = TAGS_OFF;
	h->records_off = RECORDS_OFF;
	atomic_store(&h->dflt.word, word_make(1, 1, 0, KIND_SHARED_INDEX, PHASE_SETTLED));
	atomic_store(&h->dflt.det[0], shared);
	put_cluster(1);
	put_cluster(2);
	for (unsigned i = 0; i <= N_LIVE; i++) {
		if (i == N_LIVE)
			put_entry(i, word_make(99, 1, 0, KIND_NONE, PHASE_SETTLED), index, 0);
		else if (i % 3 == 0)
			put_entry(i, word_make(2 + i, 1, 0, KIND_DEDICATED_INDEX, PHASE_SETTLED), index, 0);
		else if (i % 3 == 1)
			put_entry(i, word_make(2 + i, 1, 1, KIND_SHARED_INDEX, PHASE_DRAINING), cluster, shared);
		else
			put_entry(i, word_make(2 + i, 2, 0, KIND_DEDICATED_CLUSTER, PHASE_CUTOVER), cluster, index);
	}
	memcpy(image, valid, sizeof valid);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void look(const void *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		asked_for = (unsigned char)(asked_for + ((const unsigned char *)p)[i]);
}

static void read_detail(const struct seg_map *m, uint32_t off)
{
	const struct shm_detail *d = seg_detail(m, off);
	struct berth_placement p = {0};
	struct berth_inject public;
	struct detail_inject pair;

	if (!d)
		return;
	HOLDS(strlen(detail_index(d)) <= d->index_len);
	look(d, d->size);
	p.opaque = d;
	p.opaque_len = m->size - (size_t)((const char *)d - (const char *)m->table);
	p.n_inject = d->n_inject;
	for (unsigned i = 0; i <= d->n_inject; i++) {
		bool there = detail_inject(d, i, &pair);

		HOLDS(there == (i < d->n_inject));
		HOLDS((berth_inject(&p, i, &public) == BERTH_OK) == there);
		if (!there)
			continue;
		look(pair.field, pair.field_len + 1);
		look(pair.value, pair.value_len + 1);
		HOLDS(public.field == pair.field && public.value_len == pair.value_len);
	}
	HOLDS(detail_equal(d, d) && detail_fingerprint(d) != 0);
	asked_for += detail_checksum(d) == d->check;
}

static void find(const struct seg_map *m, const char *key, size_t len, bool dead, bool intact)
{
	const struct shm_entry *e = NULL;
	uint64_t word = 0;
	int rc = index_find(m, key, len, hash_key(secret, key, len), dead, &e, &word);
	const unsigned char *found;
	size_t found_len;

	HOLDS(rc == 1 || rc == 0 || rc == BERTH_E_CORRUPT);
	HOLDS(!intact || rc >= 0);
	if (rc != 1)
		return;
	HOLDS(e >= m->entries && e < m->entries + m->n_entries && (dead || word_live(word)));
	found = index_key(m, e, &found_len);
	HOLDS(found && found_len == len && memcmp(found, key, len) == 0); /* never another tenant's */
	read_detail(m, atomic_load(&e->det[word_which(word)]));
	read_detail(m, atomic_load(&e->det[!word_which(word)]));
}

static void read_clusters(const struct seg_map *m)
{
	for (unsigned n = 0; n <= m->n_cluster_slots + 1 && n < 70; n++) {
		bool none;
		const struct shm_cluster *c = seg_cluster(m, n, &none);

		if (!c)
			continue;
		HOLDS(!none && strlen(cluster_id(c)) <= c->id_len && strlen(cluster_endpoint(c)) <= c->endpoint_len);
		asked_for += cluster_checksum(c) == c->check;
	}
}

static void read_table(const unsigned char *bytes, size_t size, bool intact)
{
	struct seg_map m = {0};
	int rc = seg_table_check(bytes, size, uuid, &m);

	HOLDS(rc == BERTH_OK || rc == BERTH_E_CORRUPT || rc == BERTH_E_ABI);
	HOLDS(!intact || rc == BERTH_OK);
	if (rc != BERTH_OK) {
		HOLDS(!m.table);
		return;
	}
	for (unsigned i = 0; i < N_KEYS; i++) {
		find(&m, keys[i], strlen(keys[i]), false, intact);
		find(&m, keys[i], strlen(keys[i]), true, intact);
	}
	read_detail(&m, atomic_load(&m.table->dflt.det[0]));
	read_detail(&m, atomic_load(&m.table->dflt.det[1]));
	read_clusters(&m);
	for (uint32_t i = 0; i < m.n_entries; i++) {
		const struct shm_entry *e = &m.entries[i];
		const unsigned char *key;
		size_t len;

		if (atomic_load_explicit(&e->word, memory_order_relaxed) == WORD_EMPTY && e->n == 0)
			continue;
		key = index_key(&m, e, &len);
		if (key) {
			HOLDS(len >= 1 && len <= SHM_KEY_MAX);
			HOLDS(key != e->key || len <= SHM_KEY_INLINE); /* never the next entry's bytes */
			look(key, len);
		}
		read_detail(&m, atomic_load(&e->det[0]));
		look((const void *)&m.documents[i], 8);
	}
	asked_for += (unsigned char)core_rebuild_count(&m);
}

/* ---- damaging --------------------------------------------------------------------------------------------------- */

struct touched {
	uint32_t at, len;
};

/* Where writes hurt: | place u8 | at u16 | len u8 | bytes |; each place has offsets of its own. */
static struct touched overwrite(const unsigned char **data, size_t *left)
{
	static const struct {
		uint32_t from, len, align;
	} places[] = {{0, 256, 8},
		      {CLUSTERS_OFF, N_CLUSTERS * 4, 4},
		      {ENTRIES_OFF, N_ENTRIES * 64, 8},
		      {ENTRIES_OFF, CAPACITY * 64, 8},
		      {ENTRIES_OFF, CAPACITY * 64, 1},
		      {RECORDS_OFF, 768, 1},
		      {RECORDS_OFF, IMAGE_SIZE - RECORDS_OFF, 1},
		      {0, IMAGE_SIZE, 1}};
	const unsigned char *p = *data;
	unsigned place = p[0] % (unsigned)(sizeof places / sizeof places[0]);
	uint32_t at = (uint32_t)(p[1] | p[2] << 8) * places[place].align % places[place].len + places[place].from;
	uint32_t len = p[3] % 64u;

	*data += 4;
	*left -= 4;
	if (len > *left)
		len = (uint32_t)*left;
	if (len > IMAGE_SIZE - at)
		len = IMAGE_SIZE - at;
	memcpy(image + at, *data, len);
	*data += len;
	*left -= len;
	return (struct touched){at, len};
}

static void damaged_image(const unsigned char *data, size_t left, bool cut)
{
	struct touched touched[32];
	unsigned n = 0;
	size_t size = IMAGE_SIZE;

	if (cut && left >= 4) {
		size = (data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16) % IMAGE_SIZE;
		/* with and without a header that says so */
		if (data[3] & 1) {
			memcpy(image + offsetof(struct shm_table, size), &(uint64_t){size}, 8);
			touched[n++] = (struct touched){offsetof(struct shm_table, size), 8};
		}
		data += 4;
		left -= 4;
	}
	while (left >= 4 && n < sizeof touched / sizeof touched[0])
		touched[n++] = overwrite(&data, &left);
	ASAN_POISON_MEMORY_REGION(image + size, sizeof image - size);
	read_table(image, size, n == 0 && !cut);
	ASAN_UNPOISON_MEMORY_REGION(image, sizeof image);
	while (n--)
		memcpy(image + touched[n].at, valid + touched[n].at, touched[n].len);
}

static void raw_bytes(const unsigned char *data, size_t left)
{
	unsigned char *copy = aligned_alloc(64, (left + 64) / 64 * 64);

	HOLDS(copy);
	memcpy(copy, data, left);
	ASAN_POISON_MEMORY_REGION(copy + left, (left + 64) / 64 * 64 - left);
	read_table(copy, left, false);
	ASAN_UNPOISON_MEMORY_REGION(copy, (left + 64) / 64 * 64);
	free(copy);
}

static void raw_header(const unsigned char *data, size_t left)
{
	size_t n = left < SHM_PAGE ? left : SHM_PAGE;

	memcpy(image, data, n);
	read_table(image, IMAGE_SIZE, n == 0);
	memcpy(image, valid, n);
}

static void answer_line(const unsigned char *data, size_t left)
{
	char *line = malloc(left + 1);
	bool gone;
	int rc;

	HOLDS(line);
	memcpy(line, data, left);
	line[left] = '\0';
	rc = bl_answer_parse(line, &gone);
	HOLDS(rc <= BERTH_OK && (rc != BERTH_OK || !gone));
	free(line);
}

/* Whatever a reader writes on its line: it holds back nothing of an older generation, or of what was unlinked before
 * its section began. */
static void section_lines(const unsigned char *data, size_t left)
{
	for (; left >= 16; data += 16, left -= 16) {
		uint64_t line = load_u64(data), tag = load_u64(data + 8) & GRACE_MASK;
		uint32_t generation = (uint32_t)load_u64(data + 4);

		if (line == 0 || section_grace(line) > tag)
			HOLDS(!section_holds(line, generation, tag));
		else
			HOLDS(section_holds(line, section_generation(line), tag));
		if (!section_moved(line) && section_generation(line) != (generation & 0x7fffu))
			HOLDS(!section_holds(line, generation, tag));
		asked_for += (unsigned char)section_depth(line);
	}
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	static bool made;

	if (!made) {
		make_valid();
		made = true;
	}
	if (size == 0)
		return 0;
	switch (data[0] % 7) {
	case 0:
	case 1:
		damaged_image(data + 1, size - 1, false);
		break;
	case 2:
		damaged_image(data + 1, size - 1, true);
		break;
	case 3:
		raw_bytes(data + 1, size - 1);
		break;
	case 4:
		raw_header(data + 1, size - 1);
		break;
	case 5:
		answer_line(data + 1, size - 1);
		break;
	default:
		section_lines(data + 1, size - 1);
	}
	return 0;
}
