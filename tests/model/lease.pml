/* SPDX-License-Identifier: MIT
 * Leases and the drain: shm/lease.h; reader_lib/write.c, lease.c; writer/drain.c, registry_leases.c, core_drain.c. A
 * process that writes (thread 0 begins; thread 1 ends what is handed over to it), a daemon (thread 2), partitions P,
 * which moves, and Q. Time in ticks; the barrier is BAR of them, and assumption A1: what ended unknown, or was open
 * when its process died, has landed BAR ticks later.
 *
 * ANSWER   a write is admitted, or refused, by a word that was the truth at an instant of its call (M1, M2)
 * LATE     nothing is admitted to the old placement once `complete` has succeeded (INV-M2)
 * DRAINED  when it succeeds, nothing that was admitted before the cutover goes there any more (INV-M5)
 *
 * What happens: WRITES begins, SLOTS slots; with -D: OTHER (on Q too), HANDOVER (to thread 1), UNKNOWN, OVERFLOW (by an
 * end), YOUNG (by a begin, which takes the slot of a young unknown end), KILL (the process), CRASH (the daemon; another
 * one makes generation 1), ABORT (and a second cutover), HIGH_MARK, FENCES (membarrier does not reach the process),
 * MB_SPLIT and WEAK (tso.h). Rules broken on purpose: see README.md. */
#ifndef WRITES
#define WRITES 2
#endif
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef BAR
#define BAR 2
#endif
#ifndef TMAX
#define TMAX 4
#endif
#ifndef K
#define K 3
#endif
#define NT 3
#define GEN 0
#define WORD(g) (1 + (g))
#define HASH(k) (3 + 2 * (k))
#define STATE(k) (4 + 2 * (k))
#define HIGH (3 + 2 * SLOTS)
#define OVER (4 + 2 * SLOTS)
#define NA (5 + 2 * SLOTS)
#ifdef FENCES
#define NOMB 3
#endif
#define WATCH(t, a) ((t) == 0 && (a) < 3 || (t) == 2 && (a) >= 3)
#include "tso.h"
#ifdef LD_WORD_PLAIN
#define LD_WORD LDX
#else
#define LD_WORD LDAX
#endif
#ifdef LOOK_PLAIN
#define LD_LOOK LD
#else
#define LD_LOOK LDA
#endif

#define P 1
#define Q 2
#define OPEN 1
#define UNKNOWN_AT(t) (2 + (t)) /* a slot's state; also of own[] */
/* words: 0 from (its entry's, or the default's and no entry), 1 cutover, 2 from again (abort), 3 cutover, 4 to */
#define AT_FROM(w) ((w) == 0 || (w) == 2)
#define SHUT(w) ((w) == 1 || (w) == 3)
#define COMPLETED 4
#define TRUTH mem[WORD(mem[GEN])]
#define OLD(end) (now >= (end) + BAR)

byte now;
bool going[SLOTS]; /* truth: an admitted write that goes to `from` */
byte flying;       /* truth: bit t: one whose end is not known since t, and that may still arrive there */
byte own[SLOTS];   /* the library's knowledge: 0 free, 1 in use, UNKNOWN_AT */
chan give = [1] of { byte }; /* slots handed over */
bool dead, crash;
/* durable: the store, the ledger, the listing of registrations */
byte st;
byte ledger_end, ledger_over; /* time + 1 */
bool gone;

/* ---- the process that writes */

inline truth_lost(k) { /* nobody knows any more whether it arrives */
	if
	:: going[k] -> going[k] = 0; flying = flying | (1 << now)
	:: else
	fi
}
inline raise_overflow(t) { /* a locked instruction */
#if defined(WEAK) || defined(ARM)
	ST(t, OVER, s + 1)
#else
	d_step { bn[t] == 0 -> if :: mem[OVER] < s + 1 -> mem[OVER] = s + 1 :: else fi }
#endif
}
#ifdef PLAIN_CLEAR
#define CLEAR(t, k) ST(t, HASH(k), 0)
#else
#define CLEAR(t, k) STR(t, HASH(k), 0)
#endif
/* Ends the write in slot k on thread t; x: own[k] from then on. */
inline end_write(t, k, x) {
	if
	:: going[k] = 0; CLEAR(t, k); x = 0
#if defined(ARM) && defined(PLAIN_CLEAR)
	:: CLEAR(t, k); x = 0; going[k] = 0 /* a plain store need not wait for the loads before it: of the last answer */
#endif
#ifdef UNKNOWN
#ifdef END_EARLY /* the clock is read before the last attempt has ended */
	:: s = now; d_step { truth_lost(k) }
#else
	:: d_step { truth_lost(k) } s = now;
#endif
		if
		:: STR(t, STATE(k), UNKNOWN_AT(s)); x = UNKNOWN_AT(s)
#ifdef OVERFLOW
#ifdef CLEAR_FIRST
		:: CLEAR(t, k); raise_overflow(t); x = 0
#else
		:: raise_overflow(t); CLEAR(t, k); x = 0
#endif
#endif
		fi
#endif
	fi
}

#if defined(REUSE_YOUNG) || defined(YOUNG)
#define FREE(k) (own[k] == 0 || own[k] >= UNKNOWN_AT(0))
#else
#define FREE(k) (own[k] == 0 || (own[k] >= UNKNOWN_AT(0) && OLD(own[k] - UNKNOWN_AT(0))))
#endif
inline take_lease() {
#ifdef YOUNG /* x: what was in the slot; no other is free */
	if
	:: x >= UNKNOWN_AT(0) && !OLD(x - UNKNOWN_AT(0)) ->
		s = x - UNKNOWN_AT(0);
#ifdef CLEAR_FIRST
		CLEAR(0, k); raise_overflow(0)
#else
		raise_overflow(0); CLEAR(0, k)
#endif
	:: else
	fi;
#endif
#ifdef UNKNOWN
	if :: CLEAR(0, k) :: skip fi; /* an old unknown end: lease.c clears it first, lease_take need not have it so */
#endif
#ifdef HIGH_MARK
#if !defined(HIGH_SWAPPED) && !defined(HIGH_LATE)
	d_step { LDX(0, HIGH, s); if :: s <= k -> s = 1 :: else -> s = 0 fi }
	if :: s -> ST(0, HIGH, k + 1) :: else fi;
#endif
#endif
#ifdef HASH_FIRST
	ST(0, HASH(k), h); ST(0, STATE(k), OPEN);
#else
	ST(0, STATE(k), OPEN); STR(0, HASH(k), h);
#endif
#ifdef HIGH_SWAPPED
	ST(0, HIGH, k + 1);
#endif
#ifdef FENCES
#ifndef NO_FENCE
	FENCE(0);
#endif
#endif
}
proctype Begins() {
	byte n, k, h, gg, w, t0, s, x;
	{ do
	:: n < WRITES ->
		n++;
#ifdef OTHER
		if :: h = P :: h = Q fi;
#else
		h = P;
#endif
		/* look at the word: what is refused takes no slot */
		atomic { TOLD(0); t0 = TRUTH; LDAX(0, GEN, gg); LDAX(0, WORD(gg), w) }
		if
		:: h == P && SHUT(w)
		:: !(h == P && SHUT(w)) ->
			atomic { if
			:: FREE(0) -> k = 0
#if SLOTS > 1
			:: FREE(1) -> k = 1
#endif
			fi; x = own[k]; own[k] = 1 }
#ifndef LEASE_LATE
			take_lease();
#endif
			if
			:: h == Q
			:: h == P ->
#ifdef LEASE_LATE
				/* the first look decides */
				d_step { going[k] = AT_FROM(w); assert(!(st == COMPLETED && AT_FROM(w))) /* LATE */ }
				take_lease()
#else
				do
				::
#ifdef MISS_ONCE /* 0 is a partition without an entry, which the default answers: its word alone is loaded again */
					if :: w == 0 :: else -> atomic { LD_WORD(0, WORD(gg), w) } fi;
#else
					atomic { LD_WORD(0, WORD(gg), w) }
#endif
					atomic {
#ifndef NO_RELOAD
						LDX(0, GEN, x);
#else
						x = gg;
#endif
						if
						:: x == gg && !SHUT(w) ->
							assert(t0 <= w && w <= TRUTH) /* ANSWER */;
							assert(!(st == COMPLETED && AT_FROM(w))) /* LATE */;
							going[k] = AT_FROM(w)
						:: x == gg && SHUT(w) ->
							assert(t0 <= w && w <= TRUTH) /* ANSWER */
						:: else
						fi
					}
					if :: x == gg -> break :: else -> LDA(0, GEN, gg) fi
				od
#endif
			fi;
			x = 0;
#ifdef HIGH_LATE
			ST(0, HIGH, k + 1);
#endif
			if
			:: h == P && SHUT(w) -> CLEAR(0, k); own[k] = 0
			:: !(h == P && SHUT(w)) ->
				if
				:: end_write(0, k, x); own[k] = x
#ifdef HANDOVER
				:: atomic { bn[0] == 0 -> give!k } /* happens before */
#endif
				fi
			fi;
			s = 0; x = 0
		fi
	:: else -> break
	od } unless { dead }
}
#ifdef HANDOVER
proctype Ends() {
	byte k, s, x;
	{
end:
	do
	:: give?k -> end_write(1, k, x); atomic { bn[1] == 0 -> own[k] = x; s = 0; x = 0; k = 0 } /* happens before */
	od } unless { dead }
}
#endif
proctype Kill() {
	d_step { dead = 1; truth_lost(0)
#if SLOTS > 1
	; truth_lost(1)
#endif
	}
}

/* ---- the daemon: one that is killed forgets all of this */

byte g;      /* its generation */
bool looked; /* the look that began after the publication is over */
byte found;  /* bit k: slot k was open then, and has not been seen clear since */
byte ended, over; /* time + 1: the latest unknown end that was seen; likewise of the overflow */
bool ok;

#define LATER(to, t) if :: to < (t) -> to = t :: else fi
#define GONE_BY(t) (!(t) || OLD((t) - 1))
#define LOOKS_OVER (!found && GONE_BY(ended) && GONE_BY(over))
#define LEDGER_OVER (GONE_BY(ledger_end) && GONE_BY(ledger_over))
inline publish(v) { ST(2, WORD(g), v) }
inline barrier_then_forget() {
#ifndef NO_DAEMON_FENCE
#ifdef NO_MB
	FENCE(2); /* its own, and no more */
#else
	MB(2); skip;
#endif
#endif
#if !defined(LOOK_EARLY) && !defined(LOOKS_KEPT)
	d_step { looked = 0; found = 0; ended = 0; over = 0 }
#endif
}
inline load_slot(k) {
#ifdef STATE_FIRST
	LD_LOOK(2, STATE(k), s); LD_LOOK(2, HASH(k), h);
#else
	LD_LOOK(2, HASH(k), h); LD_LOOK(2, STATE(k), s);
#endif
}
inline look_slot(k) {
	if
	:: gone || high <= k
	:: else ->
		load_slot(k);
		d_step { if
		:: h == P && s >= UNKNOWN_AT(0) -> LATER(ended, s - UNKNOWN_AT(0) + 1)
		:: h == P && s < UNKNOWN_AT(0) -> found = found | (1 << k)
		:: else
		fi; h = 0; s = 0 }
	fi
}
inline look_overflow() { atomic { if :: !gone -> LDAX(2, OVER, s); LATER(over, s); s = 0 :: else fi } }
inline record_slot(k) {
	if
	:: mem[HASH(k)] == P && mem[STATE(k)] >= UNKNOWN_AT(0) ->
		LATER(ledger_end, mem[STATE(k)] - UNKNOWN_AT(0) + 1)
	:: mem[HASH(k)] == P && mem[STATE(k)] < UNKNOWN_AT(0) -> LATER(ledger_end, now + 1)
	:: else
	fi
}
inline record() {
	d_step {
#ifndef DROP_DEAD
	record_slot(0);
#if SLOTS > 1
	record_slot(1);
#endif
#endif
#ifndef DROP_OVERFLOW
	LATER(ledger_over, mem[OVER])
#endif
	}
}
/* Its death is proved, so its stores are out. */
#define DEAD (dead && !gone && bn[0] == 0 && bn[1] == 0)
inline bury() {
#ifdef REMOVE_FIRST
	gone = 1; record()
#else
	record(); gone = 1
#endif
}
/* The first look, from end to end but for what comes between the slices. */
inline look() {
#ifdef HIGH_MARK
	LDA(2, HIGH, high);
#else
	high = SLOTS;
#endif
#ifdef OVER_FIRST
	look_overflow();
#endif
	look_slot(0);
#if SLOTS > 1
#ifdef KILL
	if :: DEAD -> bury() :: skip fi; /* between two slices */
#endif
	look_slot(1);
#endif
#ifndef OVER_FIRST
	look_overflow();
#endif
	high = 0
}
/* A slot that was found open. */
inline look_again(k) {
#ifdef OVER_FIRST
	look_overflow();
#endif
	if
	:: gone -> found = found & ~(1 << k)
	:: else ->
		load_slot(k);
		if
		:: h == P && s < UNKNOWN_AT(0)
		:: h == P && s >= UNKNOWN_AT(0) ->
			d_step { LATER(ended, s - UNKNOWN_AT(0) + 1); found = found & ~(1 << k) }
		:: h != P ->
#if !defined(OVER_ONCE) && !defined(OVER_FIRST)
			look_overflow();
#endif
			found = found & ~(1 << k)
		fi;
		d_step { h = 0; s = 0 }
	fi
}
inline serve() {
	do
	:: st == 0 || st == 2 ->
		st++; publish(st);
#ifdef LOOK_EARLY
		d_step { looked = 0; found = 0; ended = 0; over = 0 }
		look(); looked = 1;
#endif
		barrier_then_forget()
#ifdef ABORT
	:: st == 1 -> st = 2; publish(st)
#endif
#ifdef KILL
	:: DEAD -> bury()
#endif
	:: SHUT(st) && !looked -> look(); looked = 1
	:: SHUT(st) && looked && (found & 1) -> look_again(0)
#if SLOTS > 1
	:: SHUT(st) && looked && (found & 2) -> look_again(1)
#endif
	:: SHUT(st) && looked ->
#ifdef LEDGER_FIRST
		ok = LEDGER_OVER;
		if :: DEAD -> bury() :: skip fi; /* as between any two looks */
		if :: found & 1 -> look_again(0) :: else fi;
#endif
		d_step { if
#ifdef LEDGER_FIRST
		:: ok && LOOKS_OVER ->
#else
		:: LOOKS_OVER && LEDGER_OVER ->
#endif
			assert(!going[0] && !going[SLOTS - 1] && !flying) /* DRAINED */;
			st = COMPLETED
		:: else
		fi; ok = 0 }
		if :: st == COMPLETED -> publish(st) :: else fi
	:: st == COMPLETED -> break
	od
}
proctype Daemon() {
	byte h, s, high;
	{ serve() } unless { crash };
	if
	:: crash -> /* another one: builds generation 1 from the store, flips, publishes anew, looks anew */
		bn[2] == 0; TOLD(2);
		d_step { bn[2] == 0 -> g = 1; h = 0; s = 0; high = 0; ok = 0;
			looked = 0; found = 0; ended = 0; over = 0 }
		ST(2, WORD(1), st); STR(2, GEN, 1);
#ifdef NO_MB_RESTART
		FENCE(2);
#else
		barrier_then_forget();
#endif
		serve()
	:: else
	fi
}
proctype Crash() { crash = 1 }
proctype Clock() {
	do
	:: now < TMAX -> d_step { now++; if :: now >= BAR -> flying = flying & ~(1 << (now - BAR)) :: else fi }
	:: else -> break
	od
}
init {
	atomic {
		run Begins(); run Daemon();
#ifdef HANDOVER
		run Ends();
#endif
#if defined(UNKNOWN) || defined(KILL)
		run Clock();
#endif
#ifdef KILL
		run Kill();
#endif
#ifdef CRASH
		run Crash();
#endif
	}
}
