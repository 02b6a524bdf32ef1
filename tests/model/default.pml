/* SPDX-License-Identifier: MIT
 * A miss, and the default that answers it: reader_lib/decide.h (attempt, still_true), shm/index.c (index_find);
 * writer/change.c, writer/grow.c, generation_flip. One reader (thread 0) looks p up, the writer (thread 1) applies one
 * document to the table in use, and to the copy that it is making, and flips to that.
 *
 * p has no entry, and the default is D; the document gives p an entry at D, then makes the default E. With -DREMOVE: p
 * has an entry at D, and the default is E; the document makes the default D, then removes p. With -DKILL: the writer is
 * killed, between any two stores; the next one builds a third table from what is durable, flips, punches both others, and
 * applies the document if it was not. What the dead has stored is performed before the next one has the lock.
 *
 * ONE      p is at D all the time: an answer from one instant of the call is D
 * BACK     who has seen the document's change of p never sees what was before it
 *
 * Rules broken on purpose: see README.md. */
#define NT 2
#ifndef K
#define K 4
#endif
#ifndef H
#define H 4
#endif
#define GEN 0
#define DEFAULT(g) (1 + 3 * (g))
#define TAG(g) (2 + 3 * (g))
#define WORD(g) (3 + 3 * (g))
#ifdef KILL
#define NA 10
#else
#define NA 7
#endif
#define WATCH(t, a) ((t) == 0)
#include "tso.h"
#define D 1
#define E 2
#define TOMBSTONE 3
#ifndef CALLS
#define CALLS 2
#endif

#ifdef GEN_PLAIN
#define LD_GEN LD
#else
#define LD_GEN LDA
#endif
#ifdef DEFAULT_PLAIN
#define LD_DEFAULT LD
#else
#define LD_DEFAULT LDA
#endif
#ifdef WORD_PLAIN
#define LD_WORD LD
#else
#define LD_WORD LDA
#endif
#ifdef AGAIN_PLAIN
#define LD_AGAIN LD
#else
#define LD_AGAIN LDA
#endif
proctype Reader() {
	byte n, g, before, x, w, answer;
	bool by_default, changed_seen;
	do
	:: n < CALLS ->
again:
		LD_GEN(0, GEN, g);
#ifndef DEFAULT_LATE
		LD_DEFAULT(0, DEFAULT(g), before);
#endif
		w = 0;
		LD(0, TAG(g), x);
		if
		:: x -> LD_WORD(0, WORD(g), w)
		:: else
		fi;
		if
		:: w == D || w == E ->
			answer = w;
#ifndef NO_AFENCE
			AFENCE(0);
#endif
			LD_AGAIN(0, WORD(g), x)
		:: else ->
#ifdef DEFAULT_LATE
			LD_DEFAULT(0, DEFAULT(g), before);
#endif
			answer = before; w = before; by_default = 1;
#ifndef NO_AFENCE
			AFENCE(0);
#endif
#ifdef DEFAULT_ONCE
			x = before
#else
			LD_AGAIN(0, DEFAULT(g), x)
#endif
		fi;
		if :: x != w -> by_default = 0; goto again :: else fi;
#ifndef NO_RECHECK
		LD(0, GEN, x);
		if :: x != g -> by_default = 0; goto again :: else fi;
#endif
		assert(answer == D) /* ONE */;
		d_step {
#ifdef REMOVE
			by_default = !by_default;
#endif
			assert(!(changed_seen && by_default)) /* BACK */;
			changed_seen = !by_default;
			n++; g = 0; before = 0; x = 0; w = 0; answer = 0; by_default = 0
		}
	:: else -> break
	od
}

bool growing, changed, durable, crash;
byte now;
inline set_default(g, v) {
#ifdef DEFAULT_STORE_PLAIN
	ST(1, DEFAULT(g), v)
#else
	STR(1, DEFAULT(g), v)
#endif
}
inline set_p(g) {
	ST(1, TAG(g), 1);
#ifdef WORD_STORE_PLAIN
	ST(1, WORD(g), D)
#else
	STR(1, WORD(g), D)
#endif
}
inline remove_p(g) { STR(1, WORD(g), TOMBSTONE) }
inline change() { /* one by one: sets, the default, removals; each to the table in use first */
#ifndef COMMIT_LATE
	durable = 1;
#endif
#ifdef REMOVE
	set_default(now, D); if :: growing -> set_default(1, D) :: else fi;
	remove_p(now); if :: growing -> remove_p(1) :: else fi;
#else
#ifdef DEFAULT_FIRST
	set_default(now, E); if :: growing -> set_default(1, E) :: else fi;
#endif
	set_p(now); if :: growing -> set_p(1) :: else fi;
#ifndef DEFAULT_FIRST
	set_default(now, E); if :: growing -> set_default(1, E) :: else fi;
#endif
#endif
	changed = 1; durable = 1
}
inline build(g, new) {
#ifdef REMOVE
	if
	:: new -> set_default(g, D)
	:: else -> set_default(g, E); set_p(g)
	fi
#else
	if
	:: new -> set_default(g, E); set_p(g)
	:: else -> set_default(g, D)
	fi
#endif
}
inline punch(g) { ST(1, TAG(g), 0); ST(1, WORD(g), 0); ST(1, DEFAULT(g), 0) }
inline first_life() {
	if :: change() :: skip fi;
	build(1, changed); /* the copy */
	growing = 1;
	if :: !changed -> change() :: skip fi;
#ifdef FLIP_PLAIN
	ST(1, GEN, 1);
#else
	STR(1, GEN, 1);
#endif
	now = 1; growing = 0;
	if :: !changed -> change() :: else fi;
	FENCE(1); /* no more: also of readers whom nobody waits for, and membarrier does not reach */
	punch(0)
}
#ifdef KILL
inline second_life() {
	bn[1] == 0; TOLD(1);
	d_step { crash = 0; growing = 0; changed = durable }
	build(2, durable);
#ifdef PUNCH_FIRST
	FENCE(1); punch(0); punch(1); FENCE(1);
#endif
#ifdef NEXT_FLIP_PLAIN
	ST(1, GEN, 2);
#elif defined(SAME_NUMBER)
	if
	:: mem[GEN] == 1 -> STR(1, GEN, 1)
	:: else -> STR(1, GEN, 2)
	fi;
#else
	STR(1, GEN, 2);
#endif
	now = 2;
	FENCE(1); punch(0); punch(1);
	if :: !changed -> change() :: else fi
}
proctype Writer() {
	{ first_life(); false } unless { crash };
	second_life()
}
proctype Crash() { crash = 1 }
#else
proctype Writer() { first_life() }
#endif
init {
	atomic {
#ifdef REMOVE
		mem[DEFAULT(0)] = E; mem[TAG(0)] = 1; mem[WORD(0)] = D;
#else
		mem[DEFAULT(0)] = D;
#endif
		run Reader(); run Writer();
#ifdef KILL
		run Crash()
#endif
	}
}
