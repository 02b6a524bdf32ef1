/* SPDX-License-Identifier: MIT
 * cursor_place.h. */
#include "cursor_place.h"

#include <stdlib.h>
#include <string.h>

struct cursor_place cursor_place;

static void start(struct cursor_place *p)
{
	if (cursor_table_open(&p->s.instance, p->root, &p->options, p->now, &p->t, &p->why) != R_DONE)
		fail_msg("the table does not open: %s: %s", refusal_name(p->why.code), p->why.message);
}

void cursor_place_open(struct cursor_place *p, uint32_t capacity, uint32_t owner_share)
{
	memset(p, 0, sizeof *p);
	scratch_open(&p->s);
	p->root = aligned_alloc(SHM_PAGE, sizeof *p->root);
	assert_non_null(p->root);
	memset(p->root, 0, sizeof *p->root);
	memcpy(p->root->uuid, "a test's own one", sizeof p->root->uuid);
	p->options = (struct cursor_table_options){capacity, CURSOR_TTL, owner_share};
	p->now = 1000000;
	start(p);
}

void cursor_place_restart(struct cursor_place *p)
{
	cursor_table_close(&p->t);
	start(p);
}

void cursor_place_close(struct cursor_place *p)
{
	cursor_table_close(&p->t);
	free(p->root);
	scratch_close(&p->s);
}

int cursor_place_done(void **state)
{
	(void)state;
	cursor_place_close(&cursor_place);
	return 0;
}

struct cursor_id cursor_id(uint64_t number)
{
	uint64_t x = (number + 1) * 0x9e3779b97f4a7c15ull;

	return (struct cursor_id){{x ^ x >> 29, ~number}};
}

struct cursor_id cursor_id_in(uint64_t bucket, uint64_t number)
{
	return (struct cursor_id){{bucket | number << 32, ~number}};
}

enum shm_pin_result cursor_pin(struct cursor_place *p, struct cursor_id id, uint64_t owner, unsigned cluster,
			       uint64_t ttl)
{
	return cursor_table_pin(p->t, id.hash, owner, (uint16_t)cluster, p->now + ttl, p->now);
}

enum shm_pin_result cursor_release(struct cursor_place *p, struct cursor_id id, uint64_t owner)
{
	return cursor_table_release(p->t, id.hash, owner, p->now);
}

unsigned cursor_seen(const struct cursor_map *m, struct cursor_id id, uint64_t now, uint64_t *owner)
{
	uint64_t who = 0, word = 0;
	enum cursor_found f = cursor_find(m, id.hash, &who, &word);

	if (f == CURSOR_MISS)
		return 0;
	if (f != CURSOR_HIT)
		fail_msg("a search at rest answers %d", f);
	if (now >= cursor_expiry(word))
		return 0;
	if (owner)
		*owner = who;
	return cursor_cluster(word);
}
