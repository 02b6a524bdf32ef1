/* SPDX-License-Identifier: MIT
 * Records of placements, clusters and long keys: made in private memory, judged when they come from shared memory.
 * Called by readers, writer and tool, from any thread; keeps no state, allocates nothing, never aborts. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string.h>

#include "berth_errors.h"
#include "details.h"
#include "word.h"

/* One inject pair in front of its strings: | kind u8 | field_len u8 | value_len u16 | field | NUL | value | NUL |. */
#define INJECT_HEADER 4u
#define DETAIL_HEADER sizeof(struct shm_detail)

/* What is judged and then used must be one load: the bytes may be foreign. */
static size_t load16(const uint16_t *p)
{
	return *(const volatile uint16_t *)p;
}

static size_t load8(const uint8_t *p)
{
	return *(const volatile uint8_t *)p;
}

static uint64_t hash_from(const void *record, size_t from, size_t size)
{
	return XXH3_64bits((const char *)record + from, size - from);
}

int detail_start(union detail_buffer *b, unsigned kind, unsigned cluster, const char *index, size_t index_len)
{
	if (kind < KIND_DEDICATED_CLUSTER || kind > KIND_SHARED_INDEX)
		return BERTH_E_INVAL;
	if (cluster == 0 || cluster > SHM_CLUSTERS_MAX)
		return BERTH_E_INVAL;
	if (index_len > SHM_INDEX_MAX || (index_len && !index))
		return BERTH_E_INVAL;
	memset(&b->detail, 0, DETAIL_HEADER);
	b->detail.size = (uint16_t)(DETAIL_HEADER + index_len + 1);
	b->detail.cluster = (uint16_t)cluster;
	b->detail.kind = (uint8_t)kind;
	b->detail.index_len = (uint16_t)index_len;
	if (index_len)
		memcpy(b->detail.data, index, index_len);
	b->detail.data[index_len] = '\0';
	return BERTH_OK;
}

int detail_add_inject(union detail_buffer *b, const char *field, size_t field_len, enum inject_kind kind,
		      const char *value, size_t value_len)
{
	size_t size = b->detail.size;
	char *at = b->bytes + size;

	if (field_len == 0 || field_len > UINT8_MAX || !field || (value_len && !value))
		return BERTH_E_INVAL;
	if (kind != INJECT_CONSTANT && kind != INJECT_PARTITION)
		return BERTH_E_INVAL;
	if (b->detail.n_inject >= SHM_INJECT_MAX || value_len > SHM_RECORD_MAX ||
	    size + INJECT_HEADER + field_len + 1 + value_len + 1 > SHM_RECORD_MAX)
		return BERTH_E_FULL;
	*at++ = (char)kind;
	*at++ = (char)field_len;
	*at++ = (char)(value_len & 0xff);
	*at++ = (char)(value_len >> 8);
	memcpy(at, field, field_len);
	at += field_len;
	*at++ = '\0';
	if (value_len)
		memcpy(at, value, value_len);
	at += value_len;
	*at++ = '\0';
	b->detail.size = (uint16_t)(at - b->bytes);
	b->detail.n_inject++;
	return BERTH_OK;
}

void detail_finish(union detail_buffer *b)
{
	b->detail.check = detail_checksum(&b->detail);
}

const char *detail_index(const struct shm_detail *d)
{
	return d->data;
}

bool detail_equal(const struct shm_detail *a, const struct shm_detail *b)
{
	const size_t from = offsetof(struct shm_detail, size);

	return a->size == b->size && memcmp((const char *)a + from, (const char *)b + from, a->size - from) == 0;
}

uint64_t detail_fingerprint(const struct shm_detail *d)
{
	uint64_t h = hash_from(d, offsetof(struct shm_detail, size), d->size);

	return h ? h : 1;
}

/* Reads the pair that starts at *at of len bytes and moves *at behind it. False when it does not lie inside. */
static bool next_inject(const char *data, size_t len, size_t *at, struct detail_inject *out)
{
	const uint8_t *head = (const uint8_t *)data + *at;
	size_t left = len - *at;

	if (left < INJECT_HEADER + 2)
		return false;
	left -= INJECT_HEADER + 2; /* the two NULs are counted in */
	size_t kind = load8(head);
	out->field_len = load8(head + 1);
	out->value_len = load8(head + 2) | load8(head + 3) << 8;
	if (kind > INJECT_PARTITION || out->field_len == 0 || out->field_len > left ||
	    out->value_len > left - out->field_len)
		return false;
	out->kind = (enum inject_kind)kind;
	out->field = data + *at + INJECT_HEADER;
	out->value = out->field + out->field_len + 1;
	if (out->field[out->field_len] != '\0' || out->value[out->value_len] != '\0')
		return false;
	*at += INJECT_HEADER + out->field_len + 1 + out->value_len + 1;
	return true;
}

bool detail_inject(const struct shm_detail *d, unsigned i, struct detail_inject *out)
{
	size_t size = load16(&d->size), at = load16(&d->index_len) + 1;

	if (i >= load8(&d->n_inject) || size < DETAIL_HEADER || at > size - DETAIL_HEADER)
		return false;
	do {
		if (!next_inject(d->data, size - DETAIL_HEADER, &at, out))
			return false;
	} while (i--);
	return true;
}

bool detail_bounds(const struct shm_detail *d, size_t room)
{
	struct detail_inject pair;

	if (room < DETAIL_HEADER + 1)
		return false;
	size_t size = load16(&d->size), index_len = load16(&d->index_len);
	size_t kind = load8(&d->kind), n = load8(&d->n_inject), at = index_len + 1;
	if (size > room || size > SHM_RECORD_MAX || index_len > SHM_INDEX_MAX || size < DETAIL_HEADER + at)
		return false;
	if (kind < KIND_DEDICATED_CLUSTER || kind > KIND_SHARED_INDEX || n > SHM_INJECT_MAX)
		return false;
	if (d->data[index_len] != '\0')
		return false;
	while (n--)
		if (!next_inject(d->data, size - DETAIL_HEADER, &at, &pair))
			return false;
	return at == size - DETAIL_HEADER;
}

bool cluster_bounds(const struct shm_cluster *c, size_t room)
{
	if (room < cluster_size(1, 0))
		return false;
	size_t id_len = load8(&c->id_len), endpoint_len = load8(&c->endpoint_len);
	if (id_len == 0 || id_len > SHM_CLUSTER_ID_MAX || cluster_size(id_len, endpoint_len) > room)
		return false;
	return c->data[id_len] == '\0' && c->data[id_len + 1 + endpoint_len] == '\0';
}

bool key_record_bounds(const struct shm_key_record *k, size_t room)
{
	if (room < key_record_size(1))
		return false;
	size_t len = load16(&k->len);
	if (len == 0 || len > SHM_KEY_MAX || key_record_size(len) > room)
		return false;
	return k->data[len] == '\0';
}

uint32_t detail_checksum(const struct shm_detail *d)
{
	return (uint32_t)hash_from(d, offsetof(struct shm_detail, size), d->size);
}

uint32_t cluster_checksum(const struct shm_cluster *c)
{
	size_t size = cluster_size(c->id_len, c->endpoint_len);

	return (uint32_t)hash_from(c, offsetof(struct shm_cluster, number), size);
}

uint32_t key_record_checksum(const struct shm_key_record *k)
{
	return (uint32_t)hash_from(k, offsetof(struct shm_key_record, len), key_record_size(k->len));
}
