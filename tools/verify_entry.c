/* SPDX-License-Identifier: MIT
 * One entry of the table, or the default, against everything that a writer promises of it (verify.h). A look at a
 * moment: whoever calls decides whether it counts. */
#include <inttypes.h>
#include <string.h>

#include "text.h"
#include "verify.h"

/* UTF-8 without control characters, as ids are. */
static bool clean_text(const char *s, size_t len)
{
	json_t *json = json_stringn(s, len);
	bool utf8 = json != NULL;

	json_decref(json);
	if (!utf8)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c < 0x20 || c == 0x7f || (c == 0xc2 && i + 1 < len && (unsigned char)s[i + 1] < 0xa0))
			return false;
	}
	return true;
}

static void check_record(const struct verify *v, const struct seg_map *m, const char *what, uint32_t off, uint64_t word,
			 struct faults *f, uint32_t *noted, uint16_t *size)
{
	const struct shm_detail *d = seg_detail(m, off);
	union detail_buffer copy;
	uint64_t room = d ? m->size - (uint64_t)((const char *)d - (const char *)m->table) : 0;

	if (room > sizeof(copy))
		room = sizeof(copy);
	if (d)
		memcpy(&copy, d, room);
	if (!d || !detail_bounds(&copy.detail, room)) {
		fault_add(f, what, "offset %" PRIu64 "\ta placement record inside the file",
			  (uint64_t)off * SHM_RECORD_ALIGN);
		return;
	}
	uint32_t check = detail_checksum(&copy.detail);
	if (check != copy.detail.check)
		fault_add(f, what, "record at %" PRIu64 " with checksum %08" PRIx32 "\t%08" PRIx32 " over its bytes",
			  (uint64_t)off * SHM_RECORD_ALIGN, copy.detail.check, check);
	if (copy.detail.cluster == 0 || copy.detail.cluster >= m->n_cluster_slots ||
	    !v->cluster_known[copy.detail.cluster])
		fault_add(f, what, "cluster %u in the record\ta cluster that exists", copy.detail.cluster);
	/* word 0: of the migration's target, which the word does not name. */
	if (word && copy.detail.cluster != word_cluster(word))
		fault_add(f, what, "cluster %u in the record\tcluster %u of the word", copy.detail.cluster,
			  word_cluster(word));
	if (word && copy.detail.kind != word_kind(word))
		fault_add(f, what, "kind %u in the record\tkind %u of the word", copy.detail.kind, word_kind(word));
	if (!clean_text(detail_index(&copy.detail), copy.detail.index_len) ||
	    strlen(detail_index(&copy.detail)) != copy.detail.index_len)
		fault_add(f, what, "index that is no clean text\tUTF-8 without control characters");
	*noted = off;
	*size = copy.detail.size;
}

/* A det that nothing refers to at present was one that something referred to. */
static void check_old_det(const struct seg_map *m, const char *what, uint32_t off, struct faults *f)
{
	uint64_t at = (uint64_t)off * SHM_RECORD_ALIGN;

	if (off && (at < m->records_off || at >= m->size))
		fault_add(f, what, "offset %" PRIu64 "\t0, or inside the records", at);
}

void verify_cell(const struct verify *v, const struct seg_map *m, uint64_t word, const _Atomic uint32_t det[2],
		 struct faults *f, struct entry_counts *c)
{
	unsigned which = word_which(word), cluster = word_cluster(word);

	if (word_phase(word) > PHASE_CUTOVER)
		fault_add(f, "word.phase", "%u\t0 settled, 1 draining or 2 cutover", word_phase(word));
	if (cluster == 0 || cluster >= m->n_cluster_slots || !v->cluster_known[cluster])
		fault_add(f, "word.cluster", "%u\ta cluster that exists", cluster);
	if (word_epoch(word) == 0)
		fault_add(f, "word.epoch", "0\tat least 1: every change takes an epoch");
	/* Loaded after the word: a change since then has a higher epoch there already. */
	uint64_t highest = atomic_load_explicit(&m->table->epoch, memory_order_acquire);
	if (word_epoch(word) > highest)
		fault_add(f, "word.epoch", "%" PRIu64 "\tat most the table's epoch, %" PRIu64, word_epoch(word),
			  highest);
	check_record(v, m, which ? "det[1]" : "det[0]", atomic_load_explicit(&det[which], memory_order_acquire), word,
		     f, &c->records[0], &c->sizes[0]);
	if (word_phase(word) != PHASE_SETTLED)
		check_record(v, m, which ? "det[0] (target)" : "det[1] (target)",
			     atomic_load_explicit(&det[!which], memory_order_acquire), 0, f, &c->records[1],
			     &c->sizes[1]);
	else
		check_old_det(m, which ? "det[0]" : "det[1]", atomic_load_explicit(&det[!which], memory_order_acquire),
			      f);
	c->epoch = word_epoch(word);
}

static void check_long_key(const struct seg_map *m, const struct shm_entry *e, struct faults *f, struct entry_counts *c)
{
	struct shm_long_key in;
	union {
		struct shm_key_record record;
		char bytes[sizeof(struct shm_key_record) + SHM_KEY_MAX + 1];
	} copy;
	size_t room = 0;

	memcpy(&in, e->key, sizeof(in));
	uint32_t off = load_u32(in.record);
	const struct shm_key_record *r = seg_record(m, off, sizeof(*r), &room);
	if (room > sizeof(copy))
		room = sizeof(copy);
	if (r)
		memcpy(&copy, r, room);
	if (!r || !key_record_bounds(&copy.record, room)) {
		fault_add(f, "key.record", "offset %" PRIu64 "\ta key record inside the file",
			  (uint64_t)off * SHM_RECORD_ALIGN);
		return;
	}
	uint32_t check = key_record_checksum(&copy.record);
	if (check != copy.record.check)
		fault_add(f, "key.record", "checksum %08" PRIx32 "\t%08" PRIx32 " over its bytes", copy.record.check,
			  check);
	if (copy.record.len <= SHM_KEY_INLINE)
		fault_add(f, "key.record", "%u bytes long\tlonger than %u: a shorter key is inside its entry",
			  copy.record.len, SHM_KEY_INLINE);
	else if (memcmp(in.prefix, copy.record.data, SHM_KEY_PREFIX) != 0)
		fault_add(f, "key.prefix", "another text\tthe first %u bytes of the key", SHM_KEY_PREFIX);
	if (in.pad[0] | in.pad[1] | in.pad[2])
		fault_add(f, "key.pad", "not zero\tzero");
	c->records[2] = off;
	c->sizes[2] = (uint16_t)key_record_size(copy.record.len);
}

/* The key of a live entry, or of a tombstone that remembers what a document said. */
static void check_key(const struct verify *v, const struct seg_map *m, uint32_t slot, struct faults *f,
		      struct entry_counts *c)
{
	const struct shm_entry *e = &m->entries[slot], *found;
	uint64_t hash = atomic_load_explicit(&e->hash, memory_order_relaxed), word;
	unsigned char key[SHM_KEY_MAX];
	uint64_t where;
	size_t len;

	if (e->n == SHM_KEY_LONG)
		check_long_key(m, e, f, c);
	else if (e->n == 0 || e->n > SHM_KEY_INLINE)
		fault_add(f, "n", "%u\t1 to %u, or 255 for a longer key", e->n, SHM_KEY_INLINE);
	else if (!bytes_zero(e->key, e->n, SHM_KEY_INLINE, &where))
		fault_add(f, "key", "not zero behind its %u bytes\tzero", e->n);
	const unsigned char *shared = index_key(m, e, &len);
	if (!shared || len == 0 || len > sizeof(key))
		return; /* told above */
	memcpy(key, shared, len);
	if (!clean_text((const char *)key, len))
		fault_add(f, "key", "no clean text\tUTF-8 without control characters");
	uint64_t right = hash_key(v->t->root->secret, key, len);
	if (hash != right) {
		fault_add(f, "hash", "%016" PRIx64 "\t%016" PRIx64 " of its key", hash, right);
		return;
	}
	uint32_t home = index_home(hash, m->capacity);
	uint32_t longest = atomic_load_explicit(&m->table->longest_probe, memory_order_relaxed);
	if (slot < home || slot - home > longest) {
		fault_add(f, "place",
			  "%" PRId64 " entries behind its home %" PRIu32 "\t0 to %" PRIu32 " (longest_probe)",
			  (int64_t)slot - (int64_t)home, home, longest);
		return;
	}
	unsigned tag = atomic_load_explicit(&m->tags[slot], memory_order_relaxed);
	if (tag != shm_tag(hash)) {
		fault_add(f, "tag", "%02x\t%02x of its hash", tag, shm_tag(hash));
		return;
	}
	int rc = index_find(m, key, len, hash, !c->live, &found, &word);
	if (rc < 0)
		fault_add(f, "place", "a damaged entry on the way from home %" PRIu32 "\tfound by a look-up", home);
	else if (rc == 0)
		fault_add(f, "place",
			  "not found from home %" PRIu32 ", an empty entry is on the way\tfound by a look-up", home);
	else if (found != e)
		fault_add(f, "place", "hidden by slot %td, which has the same key\tthe only entry of this key",
			  found - m->entries);
}

/* Nothing is in it, or what a writer had written of a new key when it was killed, before it stored the word. */
static void check_empty(const struct verify *v, const struct seg_map *m, uint32_t slot, struct faults *f,
			struct entry_counts *c)
{
	const struct shm_entry *e = &m->entries[slot];
	uint64_t document = atomic_load_explicit(&m->documents[slot], memory_order_relaxed);
	uint64_t hash = atomic_load_explicit(&e->hash, memory_order_relaxed), where;
	size_t len = 0;

	if (document)
		fault_add(f, "document", "%016" PRIx64 "\t0: the entry was never used", document);
	if (atomic_load_explicit(&e->det[0], memory_order_relaxed) ||
	    atomic_load_explicit(&e->det[1], memory_order_relaxed))
		fault_add(f, "det", "not zero\tzero: the entry was never used");
	c->residue = hash || e->n || !bytes_zero(e->key, 0, sizeof(e->key), &where);
	if (hash == 0 && e->n == 0)
		return;
	const unsigned char *key = index_key(m, e, &len);
	if (!key || len > SHM_KEY_MAX || !clean_text((const char *)key, len))
		fault_add(f, "n, key", "%u and no key\tzero, or a whole key: the entry was never used", e->n);
	else if (hash && hash != hash_key(v->t->root->secret, key, len))
		fault_add(f, "hash", "%016" PRIx64 "\tzero, or that of its key: the entry was never used", hash);
}

static void check_tombstone(const struct seg_map *m, uint64_t word, struct faults *f)
{
	uint64_t highest = atomic_load_explicit(&m->table->epoch, memory_order_acquire);
	bool reserved = word_reserved(word);
	uint64_t right = word_make(word_epoch(word), 0, !reserved && word_epoch(word) == 0, KIND_NONE,
				   reserved ? WORD_RESERVED : PHASE_SETTLED);

	if (word != right)
		fault_add(f, "word", "%016" PRIx64 "\t%016" PRIx64 ": a tombstone has nothing but its epoch", word,
			  right);
	if (word_epoch(word) > highest)
		fault_add(f, "word.epoch", "%" PRIu64 "\tat most the table's epoch, %" PRIu64, word_epoch(word),
			  highest);
}

/* Which partition a fault is about, as far as the key can be read. */
static void name_faults(const struct seg_map *m, uint32_t slot, struct faults *f, size_t from)
{
	size_t len;
	const unsigned char *key = index_key(m, &m->entries[slot], &len);

	for (size_t i = from; i < f->n; i++) {
		f->at[i].slot = slot;
		if (!key || len > SHM_KEY_MAX)
			continue;
		memcpy(f->at[i].key, key, len);
		f->at[i].key_len = (uint16_t)len;
	}
}

void verify_entry(const struct verify *v, const struct seg_map *m, uint32_t slot, struct faults *f,
		  struct entry_counts *c)
{
	const struct shm_entry *e = &m->entries[slot];
	uint64_t word = atomic_load_explicit(&e->word, memory_order_acquire);
	size_t before = f->n;

	*c = (struct entry_counts){0};
	if (word == WORD_EMPTY) {
		check_empty(v, m, slot, f, c);
	} else if (!word_live(word)) {
		check_tombstone(m, word, f);
		check_old_det(m, "det[0]", atomic_load_explicit(&e->det[0], memory_order_relaxed), f);
		check_old_det(m, "det[1]", atomic_load_explicit(&e->det[1], memory_order_relaxed), f);
		if (!word_reserved(word) && atomic_load_explicit(&m->documents[slot], memory_order_relaxed))
			check_key(v, m, slot, f, c);
		c->tombstone = true;
	} else {
		c->live = true;
		verify_cell(v, m, word, e->det, f, c);
		check_key(v, m, slot, f, c);
	}
	name_faults(m, slot, f, before);
}
