/* SPDX-License-Identifier: MIT
 * Owners of pins (cursor_owners.h): chained buckets of owners out of one array, each with a list of its pins. The cursor
 * thread. */
#include "cursor_owners.h"

#include <stdlib.h>

bool owners_open(struct cursor_owners *o, uint32_t capacity)
{
	unsigned bits = 1;

	while ((1ull << bits) < capacity)
		bits++;
	*o = (struct cursor_owners){.shift = 64 - bits, .unused = 1};
	o->pins = calloc((size_t)capacity + 1, sizeof *o->pins);
	o->owners = calloc((size_t)capacity, sizeof *o->owners);
	o->buckets = calloc((size_t)1 << bits, sizeof *o->buckets);
	if (!o->pins || !o->owners || !o->buckets) {
		owners_close(o);
		return false;
	}
	for (uint32_t i = 0; i + 1 < capacity; i++)
		o->owners[i].next = i + 2;
	return true;
}

void owners_close(struct cursor_owners *o)
{
	free(o->pins);
	free(o->owners);
	free(o->buckets);
	*o = (struct cursor_owners){0};
}

static uint32_t *bucket_of(const struct cursor_owners *o, uint64_t hash)
{
	return &o->buckets[hash * 0x9e3779b97f4a7c15ull >> o->shift];
}

static struct cursor_owner *find(const struct cursor_owners *o, uint64_t hash)
{
	for (uint32_t i = *bucket_of(o, hash); i != 0; i = o->owners[i - 1].next)
		if (o->owners[i - 1].hash == hash)
			return &o->owners[i - 1];
	return NULL;
}

const struct cursor_owner *owners_find(const struct cursor_owners *o, uint64_t hash)
{
	return find(o, hash);
}

/* There is one for each pin, so there is one. */
static struct cursor_owner *owner_new(struct cursor_owners *o, uint64_t hash)
{
	uint32_t *bucket = bucket_of(o, hash), i = o->unused;
	struct cursor_owner *owner = &o->owners[i - 1];

	o->unused = owner->next;
	*owner = (struct cursor_owner){.hash = hash, .next = *bucket};
	*bucket = i;
	return owner;
}

static void owner_end(struct cursor_owners *o, struct cursor_owner *owner)
{
	uint32_t *at = bucket_of(o, owner->hash), i = (uint32_t)(owner - o->owners) + 1;

	while (*at != i)
		at = &o->owners[*at - 1].next;
	*at = owner->next;
	owner->next = o->unused;
	o->unused = i;
}

static void append(struct cursor_owners *o, struct cursor_owner *owner, uint32_t at)
{
	o->pins[at] = (struct owned){.owner = (uint32_t)(owner - o->owners), .older = owner->youngest};
	if (owner->youngest)
		o->pins[owner->youngest].younger = at;
	else
		owner->oldest = at;
	owner->youngest = at;
}

static void unlink_pin(struct cursor_owners *o, struct cursor_owner *owner, uint32_t at)
{
	const struct owned *p = &o->pins[at];

	*(p->older ? &o->pins[p->older].younger : &owner->oldest) = p->younger;
	*(p->younger ? &o->pins[p->younger].older : &owner->youngest) = p->older;
}

void owners_add(struct cursor_owners *o, uint32_t at, uint64_t hash)
{
	struct cursor_owner *owner = find(o, hash);

	if (!owner)
		owner = owner_new(o, hash);
	append(o, owner, at);
	owner->n_pins++;
}

void owners_remove(struct cursor_owners *o, uint32_t at)
{
	struct cursor_owner *owner = &o->owners[o->pins[at].owner];

	unlink_pin(o, owner, at);
	if (--owner->n_pins == 0)
		owner_end(o, owner);
}

void owners_renew(struct cursor_owners *o, uint32_t at)
{
	struct cursor_owner *owner = &o->owners[o->pins[at].owner];

	unlink_pin(o, owner, at);
	append(o, owner, at);
}
