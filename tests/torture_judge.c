/* SPDX-License-Identifier: MIT
 * torture.h: what may be seen and what may travel. The gates are the coordinator's word of what is globally known:
 * "since this answer, and until the next call, the partition is here, in this phase, at this epoch". Called by all
 * processes and threads. Must not use cmocka. */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "torture.h"

struct t_shared *t_shared;

void t_wrong(const char *format, ...)
{
	va_list args;
	int n;

	if (atomic_fetch_add(&t_shared->wrong, 1) != 0)
		return;
	n = snprintf(t_shared->first, sizeof t_shared->first, "process %ld at %llu ms: ", (long)getpid(),
		     (unsigned long long)mp_now_ms());
	va_start(args, format);
	vsnprintf(t_shared->first + n, sizeof t_shared->first - (size_t)n, format, args);
	va_end(args);
	atomic_store(&t_shared->told, 1);
}

/* ---- gates ------------------------------------------------------------------------------------------------- */

struct t_view t_look(unsigned partition)
{
	const struct t_gate *g = &t_shared->gates[partition];
	struct t_view v;

	do {
		v.number = atomic_load_explicit(&g->number, memory_order_acquire);
		v.phase = atomic_load_explicit(&g->phase, memory_order_relaxed);
		v.at = atomic_load_explicit(&g->at, memory_order_relaxed);
		v.to = atomic_load_explicit(&g->to, memory_order_relaxed);
		v.completing = atomic_load_explicit(&g->completing, memory_order_relaxed);
		v.epoch = atomic_load_explicit(&g->epoch, memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&g->number, memory_order_relaxed) != v.number);
	return v;
}

bool t_still(unsigned partition, const struct t_view *v)
{
	atomic_thread_fence(memory_order_acquire); /* the call came before */
	return atomic_load_explicit(&t_shared->gates[partition].number, memory_order_relaxed) == v->number;
}

void t_call_begins(unsigned partition, bool completing)
{
	struct t_gate *g = &t_shared->gates[partition];

	atomic_store_explicit(&g->completing, completing, memory_order_relaxed);
	atomic_store(&g->number, atomic_load(&g->number) + 1);
	atomic_thread_fence(memory_order_seq_cst);
}

void t_call_ended(unsigned partition, enum t_phase phase, unsigned at, unsigned to, uint64_t epoch)
{
	struct t_gate *g = &t_shared->gates[partition];
	uint64_t cluster = phase == T_CUTOVER ? 0 : at;

	atomic_store(&t_shared->log[epoch % T_LOG], epoch << 16 | (uint64_t)partition << 8 | cluster);
	atomic_store_explicit(&g->phase, (uint32_t)phase, memory_order_relaxed);
	atomic_store_explicit(&g->at, at, memory_order_relaxed);
	atomic_store_explicit(&g->to, to, memory_order_relaxed);
	atomic_store_explicit(&g->epoch, epoch, memory_order_relaxed);
	atomic_store(&g->number, atomic_load(&g->number) + 1);
}

/* ---- answers ----------------------------------------------------------------------------------------------- */

#define LLU(x) ((unsigned long long)(x))
#define VIEW "(told: number %llu, phase %u, at %u, to %u, epoch %llu)"
#define OF_VIEW(v) LLU((v)->number), (v)->phase, (v)->at, (v)->to, LLU((v)->epoch)

void t_judge_read(unsigned partition, const struct t_view *v, bool sure, const struct t_answer *a, uint64_t *last)
{
	if (a->epoch < v->epoch || a->epoch < *last)
		t_wrong("INV-M3: partition %u is read at epoch %llu, after %llu " VIEW, partition, LLU(a->epoch),
			LLU(*last), OF_VIEW(v));
	*last = a->epoch;
	if (!sure)
		return;
	if (v->number % 2) {
		if (a->cluster != v->at && !(v->completing && a->cluster == v->to))
			t_wrong("INV-M4: partition %u is read on cluster %u during a call " VIEW, partition, a->cluster,
				OF_VIEW(v));
	} else if (a->cluster != v->at || a->epoch != v->epoch || a->phase != v->phase) {
		t_wrong("INV-M2, M4: partition %u is read on cluster %u, phase %u, epoch %llu " VIEW, partition,
			a->cluster, a->phase, LLU(a->epoch), OF_VIEW(v));
	}
}

static void judge_admitted(unsigned partition, const struct t_view *v, bool sure, uint64_t asked,
			   const struct berth_write *w)
{
	if (asked && w->epoch != asked)
		t_wrong("partition %u: begun at epoch %llu when %llu was asked " VIEW, partition, LLU(w->epoch),
			LLU(asked), OF_VIEW(v));
	if (v->phase == T_CUTOVER && w->epoch <= v->epoch)
		t_wrong("INV-M1: partition %u: a write was begun in cutover, at epoch %llu " VIEW, partition,
			LLU(w->epoch), OF_VIEW(v));
	if (w->epoch < v->epoch)
		t_wrong("INV-M2, M3: partition %u: a write was begun at epoch %llu, after a later one was "
			"acknowledged " VIEW,
			partition, LLU(w->epoch), OF_VIEW(v));
	if (w->phase != BERTH_SETTLED && w->phase != BERTH_DRAINING)
		t_wrong("partition %u: a write was begun in phase %u " VIEW, partition, w->phase, OF_VIEW(v));
	if (sure && w->cluster != v->at && !(v->number % 2 && v->completing && w->cluster == v->to))
		t_wrong("INV-M2, M3: partition %u: a write was begun to cluster %u " VIEW, partition, w->cluster,
			OF_VIEW(v));
	if (sure && v->number % 2 == 0 && w->epoch != v->epoch)
		t_wrong("partition %u: a write was begun at epoch %llu " VIEW, partition, LLU(w->epoch), OF_VIEW(v));
}

void t_judge_begin(unsigned partition, const struct t_view *v, bool sure, uint64_t asked, int rc,
		   const struct berth_write *w, bool registered)
{
	bool exact = sure && v->number % 2 == 0;

	switch (rc) {
	case BERTH_OK:
		judge_admitted(partition, v, sure, asked, w);
		return;
	case BERTH_E_CUTOVER:
		if (exact && v->phase != T_CUTOVER)
			t_wrong("partition %u is held back outside cutover " VIEW, partition, OF_VIEW(v));
		return;
	case BERTH_E_STALE:
		if (exact && (asked == 0 || asked == v->epoch))
			t_wrong("partition %u: its own epoch %llu is stale " VIEW, partition, LLU(asked), OF_VIEW(v));
		return;
	case BERTH_E_AGAIN: /* no slot: how many are taken, the quiet end tells */
		return;
	case BERTH_E_WRITER_DOWN:
		if (registered)
			t_wrong("partition %u: WRITER_DOWN in a process that was registered", partition);
		return;
	default:
		t_wrong("partition %u: begin at epoch %llu answers %s " VIEW, partition, LLU(asked), berth_strerror(rc),
			OF_VIEW(v));
	}
}

/* ---- records ----------------------------------------------------------------------------------------------- */

static uint64_t word_of(uint64_t before, unsigned partition, unsigned cluster, enum t_state state)
{
	return ((before >> 32) + 1) << 32 | (uint64_t)partition << 16 | (uint64_t)cluster << 8 | (uint64_t)state;
}

static enum t_state state_of(uint64_t word)
{
	return (enum t_state)(word & 0xff);
}

static bool is_free(const struct t_record *c, uint64_t now_ms)
{
	uint64_t word = atomic_load(&c->word);

	return state_of(word) == T_FREE || (state_of(word) == T_TRAVELS && atomic_load(&c->land_ms) < now_ms);
}

static uint32_t next_free(struct t_process *p, unsigned lane, uint32_t from, uint64_t now_ms)
{
	while (from < T_RECORDS && !is_free(&p->records[lane][from], now_ms))
		from++;
	return from;
}

bool t_room(struct t_process *p, unsigned lane, unsigned n)
{
	uint64_t now = mp_now_ms();
	uint32_t at = 0;

	for (; n > 0; n--)
		if ((at = next_free(p, lane, at, now) + 1) > T_RECORDS)
			return false;
	return true;
}

/* The write is of a tenure that `complete` ended while it was, or became, under way. */
static void judge_travelling(const struct t_record *c, const struct berth_write *w, const char *when)
{
	uint64_t word = atomic_load(&c->word);
	unsigned partition = (unsigned)(word >> 16 & 0xffff);
	uint64_t floor = atomic_load(&t_shared->gates[partition].floor);

	if (w->epoch < floor)
		t_wrong("INV-M5: partition %u: complete was acknowledged with epoch %llu, and a write of epoch %llu to "
			"cluster %u, begun %llu ms ago, was %s",
			partition, LLU(floor), LLU(w->epoch), w->cluster, LLU(mp_now_ms() - atomic_load(&c->begun_ms)),
			when);
}

struct t_record *t_travels(struct t_process *p, unsigned lane, unsigned partition, const struct berth_write *w)
{
	uint64_t now = mp_now_ms();
	uint32_t i = next_free(p, lane, 0, now);
	struct t_record *c = &p->records[lane][i];

	if (i == T_RECORDS)
		return NULL;
	if (i >= atomic_load(&p->high[lane]))
		atomic_store(&p->high[lane], i + 1);
	atomic_store(&c->epoch, w->epoch);
	atomic_store(&c->begun_ms, now);
	atomic_store(&c->word, word_of(atomic_load(&c->word), partition, w->cluster, T_OPEN));
	judge_travelling(c, w, "admitted nevertheless");
	return c;
}

void t_ends(struct t_record *c, const struct berth_write *w, uint64_t land_ms)
{
	uint64_t word = atomic_load(&c->word), log = atomic_load(&t_shared->log[w->epoch % T_LOG]);
	unsigned partition = (unsigned)(word >> 16 & 0xffff);

	judge_travelling(c, w, "still under its lease");
	if (log >> 16 == w->epoch && ((log >> 8 & 0xff) != partition || (log & 0xff) != w->cluster))
		t_wrong("INV-M1, M3: partition %u: a write was begun to cluster %u at epoch %llu, which is partition "
			"%u on cluster %u (0: in cutover)",
			partition, w->cluster, LLU(w->epoch), (unsigned)(log >> 8 & 0xff), (unsigned)(log & 0xff));
	atomic_store(&c->land_ms, land_ms);
	atomic_store(&c->word, word_of(word, partition, w->cluster, land_ms ? T_TRAVELS : T_FREE));
}

static void look_at_record(unsigned number, unsigned lane, const struct t_record *c, unsigned partition, uint64_t floor)
{
	uint64_t word = atomic_load(&c->word), epoch = atomic_load(&c->epoch), land = atomic_load(&c->land_ms),
		 died = atomic_load(&t_shared->processes[number].died_ms), now = mp_now_ms();

	if (state_of(word) == T_FREE || (word >> 16 & 0xffff) != partition || epoch >= floor)
		return;
	if (state_of(word) == T_OPEN)
		land = died ? died + T_BARRIER_MS : UINT64_MAX;
	if (land <= now || atomic_load(&c->word) != word)
		return;
	t_wrong("INV-M5: partition %u: complete was acknowledged with epoch %llu, and a write of epoch %llu to cluster "
		"%u "
		"still travels: process %u, thread %u, begun %llu ms ago, %s, %llu ms more",
		partition, LLU(floor), LLU(epoch), (unsigned)(word >> 8 & 0xff), number, lane,
		LLU(now - atomic_load(&c->begun_ms)),
		state_of(word) == T_TRAVELS ? "ended unknown or left by a dead process"
		: died                      ? "open when its process died"
					    : "under an open lease",
		land == UINT64_MAX ? 0 : LLU(land - now));
}

void t_completed(unsigned partition, uint64_t epoch)
{
	atomic_store(&t_shared->gates[partition].floor, epoch);
	for (unsigned n = 0; n < T_PROCESSES; n++) {
		struct t_process *p = &t_shared->processes[n];

		for (unsigned lane = 0; lane < T_LANES; lane++)
			for (uint32_t i = 0, high = atomic_load(&p->high[lane]); i < high; i++)
				look_at_record(n, lane, &p->records[lane][i], partition, epoch);
	}
}

void t_buried(struct t_process *p)
{
	uint64_t land = atomic_load(&p->died_ms) + T_BARRIER_MS;

	for (unsigned lane = 0; lane < T_LANES; lane++) {
		for (uint32_t i = 0, high = atomic_load(&p->high[lane]); i < high; i++) {
			struct t_record *c = &p->records[lane][i];
			uint64_t word = atomic_load(&c->word);

			if (state_of(word) != T_OPEN)
				continue;
			atomic_store(&c->land_ms, land);
			atomic_store(&c->word, word_of(word, (unsigned)(word >> 16 & 0xffff),
						       (unsigned)(word >> 8 & 0xff), T_TRAVELS));
		}
	}
}
