/* SPDX-License-Identifier: MIT
 * ARMv8's memory, operational and small: tso.h includes it instead of itself with -DARM, so that a model has both. The
 * same parameters, and H: what was overwritten that a thread remembers; WATCH(t, a): thread t loads a (all, if not
 * defined: the fewer, the fewer states).
 *
 * Stores  go into a window of the thread and are performed in any order that keeps each address's own order, and each
 *         release store (STR) after all that is before it. There is one memory: what one thread sees performed, all do
 *         (multi-copy atomic).
 * Loads   are executed in order, but may answer what memory had before: they were satisfied early, also past a branch,
 *         an acquire load, or other loads. For that each thread has a list of what has been overwritten. A load that
 *         answers from it rules out what is older of its address (coherence). An acquire load (LDA) rules out, for all
 *         later loads, what had been overwritten when its own value was stored: they were satisfied after it. An
 *         acquire fence (AFENCE) does so for all loads before it. This is the view of a thread in Promising-ARM.
 * LDL     a load that nothing of its thread depends on (what a section hands out is read): it may also be satisfied late,
 *         after stores that follow; not after a release store, a fence. ON_LATE(t, a) is done then.
 * TOLD    the thread has heard, in a way that orders, of all that is performed now: of whom it serves, say.
 * FENCE   dmb ish: all before, then all after; a release fence (RFENCE) is one too. MB: membarrier, a FENCE in all threads
 *         (but NOMB) that has seen all that was performed; MB_SPLIT as in tso.h.
 * Weaker than the machine: LDA is ldapr (it may pass a release store before it); an address dependency orders nothing.
 * Stronger: no store passes a load before it but LDL; no more than K stores wait, no more than H old values are known.
 * litmus.pml has the tests that are published for ARMv8, those allowed and those forbidden. */
#ifndef H
#define H 3
#endif
#ifndef WATCH
#define WATCH(t, a) 1
#endif
#ifndef NOMB
#define NOMB 0
#endif
#ifndef ON_LATE
#define ON_LATE(t, a) skip
#endif
#define RELEASE 1
#define LATE 2
#define NOWHERE 255
#define PASSED 254 /* a value that its thread can no longer answer; its place in the order still counts */
byte mem[NA];
byte bn[NT], ba[NT * K], bv[NT * K], bk[NT * K]; /* windows: address, value, kind */
byte on[NT], oa[NT * H], ov[NT * H];             /* overwritten: address, value; the oldest first */
byte lm[NT], sm[NT]; /* entries that were there when the latest value loaded, and the latest own store, was performed */
hidden byte hi, hj, ht, hl, hs, hm;

#define AT(t, i) ((t) * K + (i))
#define OLD_AT(t, i) ((t) * H + (i))
/* Forgets entries of thread t below `all`, and those of address a below `same`. */
#define FORGET(t_, a_, same_, all_) \
	hs = same_; hm = all_; hi = 0; hj = 0; hl = 0; \
	do \
	:: hi < on[t_] -> \
		if \
		:: hi < hm || (oa[OLD_AT(t_, hi)] == (a_) && hi < hs) -> hl = hl + (hi < lm[t_]) + 16 * (hi < sm[t_]) \
		:: else -> oa[OLD_AT(t_, hj)] = oa[OLD_AT(t_, hi)]; ov[OLD_AT(t_, hj)] = ov[OLD_AT(t_, hi)]; hj++ \
		fi; \
		hi++ \
	:: else -> break \
	od; \
	lm[t_] = lm[t_] - hl % 16; sm[t_] = sm[t_] - hl / 16; \
	do \
	:: on[t_] > hj -> on[t_]--; oa[OLD_AT(t_, on[t_])] = 0; ov[OLD_AT(t_, on[t_])] = 0 \
	:: else -> break \
	od; \
	hi = 0; hj = 0; hl = 0; hs = 0; hm = 0
#define FORGET_ALL(t_) FORGET(t_, NOWHERE, 0, on[t_])
/* A store of thread t becomes visible to all. */
#define PERFORM(t_, a_, v_) \
	ht = 0; \
	do \
	:: ht < NT -> \
		if \
		:: ht == (t_) -> FORGET(t_, a_, on[t_], 0); sm[t_] = on[t_] \
		:: ht != (t_) && WATCH(ht, a_) && mem[a_] != (v_) -> \
			if :: on[ht] == H -> FORGET(ht, NOWHERE, 0, 1) :: else fi; \
			oa[OLD_AT(ht, on[ht])] = a_; ov[OLD_AT(ht, on[ht])] = mem[a_]; on[ht]++ \
		:: else \
		fi; \
		ht++ \
	:: else -> break \
	od; \
	ht = 0; \
	mem[a_] = v_
/* Answers what memory had before entry i of the list; i == on: what it has. */
#define ANSWER(t_, a_, x_, i_, acquire_) \
	if :: (i_) < on[t_] -> x_ = ov[OLD_AT(t_, i_)] :: else -> x_ = mem[a_] fi; \
	hm = i_; /* below it: what was there when this value was stored */ \
	do :: hm > 0 && oa[OLD_AT(t_, hm - 1)] != (a_) -> hm-- :: else -> break od; \
	if :: hm > lm[t_] -> lm[t_] = hm :: else fi; \
	hs = 0; \
	if :: hm > 0 -> ov[OLD_AT(t_, hm - 1)] = PASSED; hs = hm - 1 :: else fi; \
	if :: acquire_ :: else -> hm = 0 fi; \
	FORGET(t_, a_, hs, hm)
#define PENDS(t, a, i) (bn[t] > (i) && ba[AT(t, i)] == (a) && bk[AT(t, i)] != LATE)
#define STALE(t, a, i) (on[t] > (i) && oa[OLD_AT(t, i)] == (a) && ov[OLD_AT(t, i)] != PASSED)
#if K > 3
#define OWN(t, a) (PENDS(t, a, 0) || PENDS(t, a, 1) || PENDS(t, a, 2) || PENDS(t, a, 3))
#elif K > 2
#define OWN(t, a) (PENDS(t, a, 0) || PENDS(t, a, 1) || PENDS(t, a, 2))
#else
#define OWN(t, a) (PENDS(t, a, 0) || PENDS(t, a, 1))
#endif
byte pick, who; /* 0 but inside atomic */
#define OWN_LOAD(t_, a_, x_) \
	d_step { hi = bn[t_] - 1; do :: !PENDS(t_, a_, hi) -> hi-- :: else -> break od; x_ = bv[AT(t_, hi)]; hi = 0 }
#if H > 3
#define OLDER(t, a) :: STALE(t, a, 0) -> pick = 0 :: STALE(t, a, 1) -> pick = 1 :: STALE(t, a, 2) -> pick = 2 :: STALE(t, a, 3) -> pick = 3
#elif H > 2
#define OLDER(t, a) :: STALE(t, a, 0) -> pick = 0 :: STALE(t, a, 1) -> pick = 1 :: STALE(t, a, 2) -> pick = 2
#else
#define OLDER(t, a) :: STALE(t, a, 0) -> pick = 0 :: STALE(t, a, 1) -> pick = 1
#endif
#define LOAD(t_, a_, x_, acquire_) /* inside atomic */ \
	if \
	:: OWN(t_, a_) -> OWN_LOAD(t_, a_, x_) \
	:: !OWN(t_, a_) -> /* no else: it would be that of an if whose option begins with a load */ \
		if :: pick = on[t_] OLDER(t_, a_) fi; \
		d_step { ANSWER(t_, a_, x_, pick, acquire_); pick = 0 } \
	fi
#define LDX(t, a, x) LOAD(t, a, x, 0)
#define LDAX(t, a, x) LOAD(t, a, x, 1)
#define LD(t, a, x) atomic { LOAD(t, a, x, 0) }
#define LDA(t, a, x) atomic { LOAD(t, a, x, 1) }
#define PUT(t_, a_, v_, kind_) /* blocks while the window is full */ \
	d_step { bn[t_] < K -> ba[AT(t_, bn[t_])] = a_; bv[AT(t_, bn[t_])] = v_; bk[AT(t_, bn[t_])] = kind_; bn[t_]++ }
#define ST(t, a, v) PUT(t, a, v, 0)
#define STR(t, a, v) PUT(t, a, v, RELEASE)
#define LDL(t, a) PUT(t, a, 0, LATE)
#define LATE_AT(t, i) (bn[t] > (i) && bk[AT(t, i)] == LATE)
#if K > 3
#define NO_LATE(t) (!LATE_AT(t, 0) && !LATE_AT(t, 1) && !LATE_AT(t, 2) && !LATE_AT(t, 3))
#elif K > 2
#define NO_LATE(t) (!LATE_AT(t, 0) && !LATE_AT(t, 1) && !LATE_AT(t, 2))
#else
#define NO_LATE(t) (!LATE_AT(t, 0) && !LATE_AT(t, 1))
#endif
#define AFENCE(t_) d_step { NO_LATE(t_) -> FORGET(t_, NOWHERE, 0, lm[t_]) }
#define FENCE(t_) \
	d_step { bn[t_] == 0 -> hm = lm[t_]; if :: sm[t_] > hm -> hm = sm[t_] :: else fi; FORGET(t_, NOWHERE, 0, hm) }
#define POPAT(t_, i_) \
	if \
	:: bk[AT(t_, i_)] == LATE -> ON_LATE(t_, ba[AT(t_, i_)]) \
	:: else -> PERFORM(t_, ba[AT(t_, i_)], bv[AT(t_, i_)]) \
	fi; \
	hj = i_; \
	do \
	:: hj + 1 < bn[t_] -> \
		ba[AT(t_, hj)] = ba[AT(t_, hj + 1)]; bv[AT(t_, hj)] = bv[AT(t_, hj + 1)]; \
		bk[AT(t_, hj)] = bk[AT(t_, hj + 1)]; hj++ \
	:: else -> break \
	od; \
	ba[AT(t_, hj)] = 0; bv[AT(t_, hj)] = 0; bk[AT(t_, hj)] = 0; bn[t_]--; hj = 0
#define RFENCE(t) FENCE(t)
#define TOLD(t) d_step { FORGET_ALL(t) }
#define FLUSHX(t_) do :: bn[t_] > 0 -> POPAT(t_, 0) :: else -> break od
#define REACHED(w, t) ((t) == (w) || !((NOMB) & (1 << (t))))
#ifdef MB_SPLIT
#define MB_BEGIN(w) d_step { FLUSHX(w); FORGET_ALL(w) }
#define MB_OF(t) FLUSHX(t); FORGET_ALL(t)
#define MB_END(w) skip; d_step { FORGET_ALL(w) }
#else
hidden byte hw;
#define MB(w_) \
	d_step { \
		hw = 0; do :: hw < NT -> if :: REACHED(w_, hw) -> FLUSHX(hw) :: else fi; hw++ :: else -> break od; \
		hw = 0; do :: hw < NT -> if :: REACHED(w_, hw) -> FORGET_ALL(hw) :: else fi; hw++ :: else -> break od; \
		hw = 0 \
	}
#endif

#define OTHER(t, i, j) (ba[AT(t, i)] != ba[AT(t, j)])
#define FREE_TO_GO(t, i) (bn[t] > (i) && bk[AT(t, i)] != RELEASE && OTHER(t, i, 0))
#define D0(t) :: bn[t] > 0 -> who = t
#define D1(t) :: FREE_TO_GO(t, 1) -> who = t; pick = 1
#define D2(t) :: FREE_TO_GO(t, 2) && OTHER(t, 2, 1) -> who = t; pick = 2
#define D3(t) :: FREE_TO_GO(t, 3) && OTHER(t, 3, 1) && OTHER(t, 3, 2) -> who = t; pick = 3
#if K > 3
#define DR(t) D0(t) D1(t) D2(t) D3(t)
#elif K > 2
#define DR(t) D0(t) D1(t) D2(t)
#else
#define DR(t) D0(t) D1(t)
#endif
active proctype drainer() {
end:
	do
	:: atomic {
		if
		DR(0)
		DR(1)
#if NT > 2
		DR(2)
#endif
#if NT > 3
		DR(3)
#endif
		fi;
		d_step { POPAT(who, pick); who = 0; pick = 0 }
	}
	od
}
