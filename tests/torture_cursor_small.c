/* SPDX-License-Identifier: MIT
 * torture_cursor.h: little room. Processes pin new ids and old ones again, all for long, and release none; a pin since
 * which fewer calls were made, by all, than there is room for must be there. Called by the processes; c_small_exact by
 * the coordinator's own. Must not use cmocka. */
#include <poll.h>

#include "torture_cursor.h"

static uint64_t sum(bool started)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < C_PROCESSES; i++) {
		struct c_process *p = &c_shared->processes[i];

		n += atomic_load(started ? &p->small_started : &p->small_done);
	}
	return n;
}

static unsigned owner_of(uint64_t number)
{
	return 1 + (unsigned)(number % C_OWNERS);
}

static void pin(struct c_me *me, uint64_t number)
{
	struct c_small *s = &c_shared->small[number];
	char buffer[BERTH_CURSOR_ID_MAX];
	struct berth_cursor name = c_name(buffer, 'l', 0, (unsigned)number, owner_of(number));
	uint16_t cluster = (uint16_t)(1 + c_die(me, C_CLUSTERS));
	uint64_t version = atomic_load(&s->version), mark = sum(false);
	enum c_kind kind = c_die(me, 8) ? C_PIN : C_ASYNC;
	enum c_outcome outcome;
	int rc;

	/* One process at a time; one that another is at is left alone. */
	if (version % 2 || !atomic_compare_exchange_strong(&s->version, &version, version + 1))
		return;
	atomic_fetch_add(&me->p->number, 1);
	atomic_fetch_add(&me->p->small_started, 1);
	rc = berth_cursor_pin(me->r, name.id, name.id_len, cluster, name.owner, name.owner_len, C_LONG_MS,
			      kind == C_PIN ? 3000 : 0);
	outcome = c_outcome(me, kind, rc);
	if (outcome == C_UNKNOWN || outcome == C_NOT_OWNER)
		c_wrong("little room: pin of id %llu by its owner is answered %s", (unsigned long long)number,
			berth_strerror(rc));
	if (outcome == C_OK && kind == C_PIN) {
		atomic_store(&s->mark, mark);
		atomic_store(&s->known, 1 + cluster);
		atomic_store(&me->p->small_done, atomic_load(&me->p->small_started));
		atomic_store(&s->version, version + 2);
		return;
	}
	/* It may be done at any time, also after a later one of another process: this id is left alone from here on. */
	if (outcome != C_OK) {
		c_keep_up(me);
		poll(NULL, 0, 1);
	}
}

static void look(struct c_me *me, uint64_t number)
{
	struct c_small *s = &c_shared->small[number];
	char buffer[BERTH_CURSOR_ID_MAX];
	unsigned owner = c_die(me, 8) ? owner_of(number) : 1 + (unsigned)c_die(me, C_OWNERS);
	struct berth_cursor name = c_name(buffer, 'l', 0, (unsigned)number, owner);
	uint64_t version = atomic_load(&s->version), known = atomic_load(&s->known), mark = atomic_load(&s->mark),
		 since;
	uint16_t cluster = 0;
	enum c_outcome outcome;

	if (version % 2)
		return;
	outcome = c_outcome(me, C_RESOLVE,
			    berth_cursor_resolve(me->r, name.id, name.id_len, name.owner, name.owner_len, 0, &cluster));
	since = sum(true) - mark;
	if (outcome == C_AGAIN || known == 0 || atomic_load(&s->version) != version)
		return;
	if (outcome == C_UNKNOWN && since > C_LITTLE_ROOM)
		return;
	if (outcome == C_UNKNOWN)
		c_wrong("little room: id %llu is not there, though at most %llu were pinned since it was, and there is "
			"room for %u",
			(unsigned long long)number, (unsigned long long)since, C_LITTLE_ROOM);
	else if ((outcome == C_NOT_OWNER) != (owner != owner_of(number)) || (outcome == C_OK && 1u + cluster != known))
		c_wrong("little room: id %llu of owner %u, pinned to cluster %llu, is answered %s, cluster %u, to "
			"owner %u",
			(unsigned long long)number, owner_of(number), (unsigned long long)known - 1, c_text(outcome),
			cluster, owner);
	else if (since <= C_LITTLE_ROOM && since > C_LITTLE_ROOM - 200)
		atomic_fetch_add(&me->p->last_pinned, 1);
}

void c_small_step(struct c_me *me)
{
	uint64_t newest = atomic_load(&c_shared->small_next), dice = c_die(me, 100), n;
	uint64_t back = newest < 2 * C_LITTLE_ROOM ? newest : 2 * C_LITTLE_ROOM;

	if (dice < 35 || newest == 0) {
		newest = atomic_fetch_add(&c_shared->small_next, 1);
		if (newest < C_SMALL)
			pin(me, newest);
	} else if (dice < 45) {
		pin(me, newest - 1 - c_die(me, back));
	} else if (dice < 99) {
		n = newest - 1 - c_die(me, back);
		/* Mostly those that are next to go. */
		look(me, dice < 75 && newest > C_LITTLE_ROOM ? newest - c_die(me, C_LITTLE_ROOM / 2) - C_LITTLE_ROOM / 3
							     : n);
	} else if (c_outcome(me, C_LEN, berth_cursor_len(me->r, &n)) == C_OK && n > C_LITTLE_ROOM) {
		c_wrong("little room: len is %llu, and there is room for %u", (unsigned long long)n, C_LITTLE_ROOM);
	}
}

/* With nobody else there: exactly the last ones are left, in whatever order a restart found them. */
void c_small_exact(struct c_me *me, unsigned room, void (*halfway)(void *), void *arg)
{
	unsigned n = 2 * room, from = 1u << 24;
	uint64_t len = 0;

	for (unsigned i = 0; i < n && !atomic_load(&c_shared->wrong); i++) {
		char buffer[BERTH_CURSOR_ID_MAX];
		struct berth_cursor name = c_name(buffer, 'e', 0, from + i, owner_of(i));
		int rc;

		do {
			c_keep_up(me);
			rc = berth_cursor_pin(me->r, name.id, name.id_len, 1, name.owner, name.owner_len, C_LONG_MS,
					      3000);
		} while (rc == BERTH_E_AGAIN || rc == BERTH_E_WRITER_DOWN);
		if (rc != BERTH_OK)
			c_wrong("little room: pin %u is answered %s", i, berth_strerror(rc));
		if (i % (n / 4) == n / 8)
			halfway(arg);
	}
	for (unsigned i = 0; i < n && !atomic_load(&c_shared->wrong); i++) {
		char buffer[BERTH_CURSOR_ID_MAX];
		struct berth_cursor name = c_name(buffer, 'e', 0, from + i, owner_of(i));
		uint16_t cluster = 0;
		int rc = berth_cursor_resolve(me->r, name.id, name.id_len, name.owner, name.owner_len, 0, &cluster);

		if (rc != (i < n - room ? BERTH_E_UNKNOWN : BERTH_OK))
			c_wrong("little room: of %u pins, with room for %u, number %u is answered %s", n, room, i,
				berth_strerror(rc));
	}
	if (berth_cursor_len(me->r, &len) != BERTH_OK || len != room)
		c_wrong("little room: len is %llu, and %u are pinned", (unsigned long long)len, room);
}
