/* SPDX-License-Identifier: MIT
 * libFuzzer target for placement documents: any bytes, fed whole and in random cuts, get one and the same verdict; what
 * is accepted is JSON to another reader as well, its staged form is whole, and says of each partition, and of the
 * default, what that reader finds there. One thread; keeps nothing between runs.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../writer/document.h"
#include "../writer/placement.h"

#define HOLDS(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 16;
}

static enum refusal_code parse_in_cuts(const char *bytes, size_t len, struct document **d, struct refusal *r)
{
	struct document_parser *p = document_parser_new();
	unsigned seed = (unsigned)len + (len ? (unsigned char)bytes[len / 2] : 0);

	HOLDS(p);
	while (len) {
		size_t cut = next_random(&seed) % (next_random(&seed) % 8 ? 8 : 200);
		char *piece;
		if (cut > len)
			cut = len;
		/* a piece of its own, whose end a sanitizer watches */
		HOLDS((piece = malloc(cut + !cut)));
		memcpy(piece, bytes, cut);
		document_parser_feed(p, piece, cut, r);
		free(piece);
		bytes += cut;
		len -= cut;
	}
	return document_parser_finish(&p, d, r);
}

static void is_whole(struct document *d)
{
	struct refusal r;
	size_t len, last_len = 0;
	const char *last = NULL;

	for (uint32_t i = 0; i < d->n_placements; i++) {
		const struct shm_detail *placement = document_placement(d, i);
		HOLDS(detail_bounds(placement, SHM_RECORD_MAX) && placement->check == detail_checksum(placement));
		HOLDS(placement->cluster >= 1 && placement->cluster <= d->n_clusters);
	}
	for (uint32_t i = 0; i < d->n_partitions; i++) {
		const char *key = document_key(d, i, &len);
		HOLDS(check_partition(key, len, "", &r) == R_DONE && strlen(key) == len);
		if (last) {
			int order = memcmp(last, key, last_len < len ? last_len : len);
			HOLDS(order < 0 || (order == 0 && last_len < len));
		}
		last = key;
		last_len = len;
		HOLDS(d->partitions[i].placement < d->n_placements);
	}
	for (uint32_t i = 0; i < d->n_clusters; i++) {
		const struct document_cluster *c = &d->clusters[i];
		HOLDS(check_cluster_id(c->id, c->id_len, "", &r) == R_DONE);
		HOLDS(!c->endpoint || check_endpoint(c->endpoint, c->endpoint_len, "", &r) == R_DONE);
	}
	HOLDS(d->dflt == DOCUMENT_NO_PLACEMENT || d->dflt < d->n_placements);
}

static const char *id_of(void *arg, unsigned number)
{
	const struct document *d = arg;

	return number >= 1 && number <= d->n_clusters ? d->clusters[number - 1].id : NULL;
}

/* The other reader's placement, with what may be left out. */
static void same_placement(struct document *d, uint32_t number, json_t *says)
{
	const struct cluster_names names = {.id = id_of, .arg = d};
	json_t *placement = placement_to_json(document_placement(d, number), &names), *plain = json_copy(says);
	const char *mode = json_string_value(json_object_get(says, "mode"));

	HOLDS(placement && json_is_object(plain) && mode);
	if (json_array_size(json_object_get(plain, "inject")) == 0)
		json_object_del(plain, "inject");
	if (strcmp(mode, "shared-index") == 0 && !json_object_get(plain, "inject"))
		json_object_set_new(plain, "inject",
				    json_pack("[{s:s, s:{s:b}}]", "field", "_tenant", "value", "partition", 1));
	HOLDS(json_equal(placement, plain));
	json_decref(placement);
	json_decref(plain);
}

static void says_the_same(struct document *d, json_t *json)
{
	json_t *partitions = json_object_get(json, "partitions");
	size_t len;

	HOLDS(json_object_size(partitions) == d->n_partitions);
	for (uint32_t i = 0; i < d->n_partitions; i++)
		same_placement(d, d->partitions[i].placement, json_object_get(partitions, document_key(d, i, &len)));
	HOLDS((d->dflt != DOCUMENT_NO_PLACEMENT) == (json_object_get(json, "default") != NULL));
	if (d->dflt != DOCUMENT_NO_PLACEMENT)
		same_placement(d, d->dflt, json_object_get(json, "default"));
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	const char *bytes = (const char *)data;
	struct document *whole, *cut;
	struct refusal r = {0}, r_cut = {0};
	json_error_t error;

	enum refusal_code code = document_parse(bytes, size, &whole, &r);
	HOLDS(parse_in_cuts(bytes, size, &cut, &r_cut) == code);
	HOLDS((code == R_DONE) == (whole != NULL) && (code == R_DONE) == (cut != NULL));
	if (code != R_DONE) {
		HOLDS(code == R_BAD_DOCUMENT && r.path[0] == '$' && r.message[0]);
		HOLDS(strcmp(r.path, r_cut.path) == 0);
		return 0;
	}
	json_t *json = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &error);
	HOLDS(json_is_object(json));
	says_the_same(whole, json);
	says_the_same(cut, json);
	json_decref(json);
	is_whole(whole);
	HOLDS(cut->n_partitions == whole->n_partitions && cut->n_placements == whole->n_placements);
	document_free(&whole);
	document_free(&cut);
	return 0;
}
