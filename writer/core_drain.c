/* SPDX-License-Identifier: MIT
 * What stands against the cutovers that are under way: the drain's looks, what the ledger has of those who are gone,
 * and the judgement made of both. Called by core.c and through core.h by whoever waits; control thread only. Changes no
 * placement. The looks come first, the ledger and the processes attached last (D4 of drain.c). */
#include "../bpf/mirror.h"
#include "core_internal.h"
#include "lease_book.h"
#include "packet_leases.h"

static void add_process(struct barrier_who *who, uint32_t pid)
{
	if (pid == PACKET_PROGRAM) {
		who->packet = true;
		return;
	}
	for (unsigned i = 0; i < who->n; i++)
		if (who->pids[i] == pid)
			return;
	if (who->n < BARRIER_PIDS)
		who->pids[who->n++] = pid;
}

/* One end more of a kind: the latest counts, and who is to blame for one that is not over. */
static void add_end(const struct core *c, uint64_t *latest_ms, struct barrier_who *who, uint64_t end_ms, uint32_t pid,
		    uint64_t now_ms)
{
	if (end_ms > *latest_ms)
		*latest_ms = end_ms;
	if (end_ms && now_ms < barrier_over_ms(&c->rule, end_ms))
		add_process(who, pid);
}

static void add_ends(const struct core *c, uint64_t *latest_ms, struct barrier_who *who, const struct drain_ends *ends,
		     uint64_t now_ms)
{
	for (unsigned i = 0; i < ends->n; i++)
		add_end(c, latest_ms, who, ends->of[i].end_ms, ends->of[i].pid, now_ms);
}

struct barrier_facts core_facts(struct core *c)
{
	struct registry *registry = table_registry(c->table);
	struct barrier_facts f = {.left_ms = lease_book_left_ms(registry_book(registry))};

	f.unbracketed = registry_unbracketed(registry, f.without.pids, BARRIER_PIDS, &f.without.n);
	/* After table_barrier's fence, as the looks: pairs with berth_admit, which stores it before it loads the word. */
	if (mirror_gated(table_mirror(c->table)))
		f.unbracketed = f.without.packet = true;
	return f;
}

struct barrier core_judge(struct core *c, const struct migration_item *item, const struct barrier_facts *of_all)
{
	const struct lease_book *book = registry_book(table_registry(c->table));
	const struct drained *d = &item->drained;
	struct barrier_facts f = *of_all;
	const struct lease_left left = lease_book_find(book, d->hash), over = lease_book_overflown(book);
	uint64_t now_ms = core_now(c);
	uint32_t pids[BARRIER_PIDS];
	struct barrier b;

	f.looked = d->step == DRAIN_LOOKED;
	f.in_flight = d->open;
	for (unsigned i = drain_pids(c->drainer, d, pids, BARRIER_PIDS), k = 0; k < i; k++)
		add_process(&f.open, pids[k]);
	add_ends(c, &f.unknown.end_ms, &f.unknown.who, &d->unknown, now_ms);
	if (left.how == SHM_LEASE_END_UNKNOWN)
		add_end(c, &f.unknown.end_ms, &f.unknown.who, left.end_ms, left.pid, now_ms);
	else
		add_end(c, &f.died.end_ms, &f.died.who, left.end_ms, left.pid, now_ms);
	add_ends(c, &f.overflow.end_ms, &f.overflow.who, &d->overflow, now_ms);
	add_end(c, &f.overflow.end_ms, &f.overflow.who, over.end_ms, over.pid, now_ms);
	b = barrier_judge(&c->rule, item, &f, now_ms);
	if (b.reason && b.remaining_ms && (!c->told_ms || now_ms + b.remaining_ms < c->told_ms))
		c->told_ms = now_ms + b.remaining_ms;
	return b;
}

struct barrier core_look_and_judge(struct core *c, struct migration_item *item, uint64_t budget_us)
{
	struct barrier_facts of_all;

	if (item->published)
		drain_for(c->drainer, &item->drained, budget_us);
	of_all = core_facts(c); /* after the look */
	return core_judge(c, item, &of_all);
}

bool core_drain(struct core *c, uint64_t budget_us)
{
	bool changed;

	drain_step(c->drainer, budget_us);
	changed = drain_changed(c->drainer);
	if (c->told_ms && core_now(c) >= c->told_ms) {
		c->told_ms = 0;
		changed = true;
	}
	return changed;
}

struct barrier core_barrier(struct core *c, const char *key, size_t len)
{
	const struct migration_item *item = migrations_find(&c->migrations, key, len);
	struct barrier_facts of_all;

	if (!item || !item->epoch)
		return (struct barrier){0};
	of_all = core_facts(c);
	return core_judge(c, item, &of_all);
}
