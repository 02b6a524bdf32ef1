/* SPDX-License-Identifier: MIT
 * Leases of packet programs and the drain: bpf/lease.bpf.h, bpf/berth.bpf.h (berth_admit); writer/drain.c,
 * packet_leases.c, core_drain.c, and the mirror's words in between (bpf/mirror.h, M1). Two processors run a program
 * (threads 0 and 1, a connection and its slot each; -DSLOTS=1: one), a daemon (the last thread), partition P, which
 * moves. A fetching atomic (LOCK) stores to memory at once, and only when its processor's buffer is empty. Time, barrier
 * and assumption A1 as in lease.pml.
 *
 * ANSWER   what is admitted was so in the table when the mirror's word was loaded
 * LATE     nothing is admitted to the old placement once `complete` has succeeded (INV-M2)
 * DRAINED  when it succeeds, nothing that was admitted before the cutover goes there any more (INV-M5)
 *
 * With -D: UNKNOWN (ends), HIGH_MARK, GATE (writes without leases too), ABORT (and a second cutover), CRASH (the daemon;
 * another one takes the maps over), WITHDRAW (the daemon gives the mirror up), PAST (and goes on looking at what is open
 * in it), WEAK (tso.h). Rules broken on purpose: see README.md. */
#ifndef WRITES
#define WRITES 2
#endif
#ifndef SLOTS
#define SLOTS 2
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
#define NT (SLOTS + 1)
#define DAEMON SLOTS
#define ON 0
#define TABLE 1
#define MIRROR 2
#define HIGH 3
#define OVER 4
#define GATED 5
#define HASH(k) (6 + 2 * (k))
#define STATE(k) (7 + 2 * (k))
#define NA (6 + 2 * SLOTS)
#include "tso.h"

#define LOCK(t, a, v) d_step { bn[t] == 0 -> mem[a] = v }
#define OPEN 1
#define UNKNOWN_AT(t) (2 + (t)) /* a slot's state */
/* words: 0 from, 1 cutover, 2 from again (abort), 3 cutover, 4 to */
#define AT_FROM(w) ((w) == 0 || (w) == 2)
#define SHUT(w) ((w) == 1 || (w) == 3)
#define COMPLETED 4
#define PASS 9
#define ADMITS(w) (!SHUT(w) && (w) != PASS)
#define OLD(end) (now >= (end) + BAR)
#define LATER(to, t) if :: to < (t) -> to = t :: else fi

byte now;
bool going[SLOTS]; /* truth: an admitted write that goes to `from` */
byte flying;       /* truth: bit t: one whose end is not known since t, and that may still arrive there */
bool crash;
/* durable: the store, the ledger */
byte st;
byte ledger_over, ledger_left; /* time + 1 */
byte withdrawn; /* 2: and what was open in it is still looked at */

/* ---- the programs */

inline load_word() {
	d_step { w = mem[MIRROR]; same = (w == mem[TABLE]) }
}
/* The answer counts: is it let through? */
inline admitted_now() {
	assert(same) /* ANSWER */;
	assert(!(st == COMPLETED && AT_FROM(w))) /* LATE */
}
inline raise_high(k) {
#ifdef HIGH_MARK
	if :: mem[HIGH] <= k -> LOCK(k, HIGH, SLOTS) :: else fi /* in steps: here one */
#else
	skip
#endif
}
inline raise_overflow(k) {
	d_step { bn[k] == 0 -> LATER(mem[OVER], mem[STATE(k)] - UNKNOWN_AT(0) + 1) }
}
inline take(k) {
	if
	:: mem[HASH(k)] -> /* unknown */
#ifdef CLEAR_FIRST
		LOCK(k, HASH(k), 0); raise_overflow(k)
#else
#ifndef NO_OVERFLOW
		raise_overflow(k);
#endif
		LOCK(k, HASH(k), 0)
#endif
	:: else
	fi;
#ifndef HIGH_LATE
	raise_high(k);
#endif
	ST(k, STATE(k), OPEN);
#ifdef PLAIN_LEASE
	STR(k, HASH(k), 1)
#else
	LOCK(k, HASH(k), 1)
#endif
}
inline write_leased(k) {
#ifdef LEASE_LATE
	load_word();
	take(k);
#else
	take(k);
	on = mem[ON];
	load_word();
#endif
	d_step {
#if !defined(NO_RELOAD) && !defined(LEASE_LATE)
		on = on && mem[ON];
#endif
		if
		:: on && ADMITS(w) -> admitted_now(); going[k] = AT_FROM(w)
		:: else
		fi
	}
#ifdef HIGH_LATE
	raise_high(k);
#endif
	if
	:: on && ADMITS(w) ->
		if
		:: going[k] = 0; LOCK(k, HASH(k), 0)
#ifdef UNKNOWN
#ifdef END_EARLY /* the clock is read before the last attempt has ended */
		:: s = now; d_step { if :: going[k] -> going[k] = 0; flying = flying | (1 << now) :: else fi }
#else
		:: d_step { if :: going[k] -> going[k] = 0; flying = flying | (1 << now) :: else fi } s = now;
#endif
			LOCK(k, STATE(k), UNKNOWN_AT(s))
#endif
		fi
	:: else -> LOCK(k, HASH(k), 0)
	fi;
	d_step { s = 0; w = 0; same = 0; on = 1 }
}
inline write_gated(k) {
#ifndef GATED_LATE
#ifdef GATED_PLAIN
	ST(k, GATED, 1);
#else
	if :: !mem[GATED] -> LOCK(k, GATED, 1) :: else fi;
#endif
#endif
	d_step { /* A1: it is not held up for a barrier between the load and the write */
		w = mem[MIRROR];
		if
		:: mem[ON] && ADMITS(w) ->
			same = (w == mem[TABLE]);
			admitted_now();
			if :: AT_FROM(w) -> flying = flying | (1 << now) :: else fi
		:: else
		fi
	}
#ifdef GATED_LATE
	LOCK(k, GATED, 1);
#endif
	d_step { w = 0; same = 0 }
}
proctype Program(byte k) {
	byte n, w, s;
	bool on = 1, same;
	do
	:: n < WRITES -> n++;
		if
		:: true -> write_leased(k)
#ifdef GATE
		:: true -> write_gated(k)
#endif
		fi
	:: else -> break
	od
}

/* ---- the daemon: one that is killed forgets all of this */

bool looked; /* the look that began after the publication is over */
byte found;  /* bit k: slot k was open then, and has not been seen clear since */
byte ended, over; /* time + 1: the latest unknown end that was seen; likewise of the overflow */
byte published;

#define GONE_BY(t) (!(t) || OLD((t) - 1))
inline forget() { d_step { looked = 0; found = 0; ended = 0; over = 0 } }
inline publish(v) {
	if
	:: !withdrawn ->
#ifndef NO_HOLD
		ST(DAEMON, MIRROR, PASS);
#endif
		STR(DAEMON, TABLE, v); STR(DAEMON, MIRROR, v)
	:: else -> STR(DAEMON, TABLE, v)
	fi
}
inline fence_then_forget() {
#ifndef NO_DAEMON_FENCE
	FENCE(DAEMON);
#endif
#ifndef LOOK_EARLY
	forget();
#endif
	published = now
}
inline look_slot(k) {
	if
	:: withdrawn == 1 || high <= k
	:: else ->
		h = mem[HASH(k)]; s = mem[STATE(k)];
		d_step { if
		:: h && s >= UNKNOWN_AT(0) -> LATER(ended, s - UNKNOWN_AT(0) + 1)
		:: h && s < UNKNOWN_AT(0) -> found = found | (1 << k)
		:: else
		fi; h = 0; s = 0 }
	fi
}
inline look_overflow() { d_step { if :: withdrawn != 1 -> LATER(over, mem[OVER]) :: else fi } }
inline look() {
#ifdef HIGH_MARK
	high = mem[HIGH];
#else
	high = SLOTS;
#endif
#ifdef OVER_FIRST
	look_overflow();
#endif
	look_slot(0);
#if SLOTS > 1
	look_slot(1);
#endif
#ifndef OVER_FIRST
	look_overflow();
#endif
	high = 0
}
inline look_again(k) {
	if
	:: withdrawn == 1 -> found = found & ~(1 << k)
	:: else ->
		h = mem[HASH(k)]; s = mem[STATE(k)];
		if
		:: h && s < UNKNOWN_AT(0)
		:: h && s >= UNKNOWN_AT(0) ->
			d_step { LATER(ended, s - UNKNOWN_AT(0) + 1); found = found & ~(1 << k) }
		:: !h ->
#ifndef OVER_ONCE
			look_overflow();
#endif
			found = found & ~(1 << k)
		fi;
		d_step { h = 0; s = 0 }
	fi
}
inline left_slot(k) {
	if
	:: mem[HASH(k)] && mem[STATE(k)] >= UNKNOWN_AT(0) -> LATER(ledger_over, mem[STATE(k)] - UNKNOWN_AT(0) + 1)
	:: mem[HASH(k)] && mem[STATE(k)] < UNKNOWN_AT(0) -> LATER(ledger_over, now + 1)
	:: else
	fi
}
#define IS_OPEN(k) (mem[HASH(k)] && mem[STATE(k)] < UNKNOWN_AT(0))
#define ANY_OPEN (IS_OPEN(0) || IS_OPEN(SLOTS - 1))
inline withdraw() {
	ST(DAEMON, ON, 0);
#ifndef NO_WITHDRAW_FENCE
	FENCE(DAEMON);
#endif
	d_step { if
#ifdef PAST
	:: ANY_OPEN ->
		withdrawn = 2;
		if :: mem[GATED] -> ledger_left = now + 1 :: else fi
#endif
	:: else ->
#ifndef DROP_LEASES
		left_slot(0);
#if SLOTS > 1
		left_slot(1);
#endif
		LATER(ledger_over, mem[OVER]);
#endif
#ifndef DROP_GATED
		if :: mem[GATED] -> ledger_left = now + 1 :: else fi;
#endif
		/* A1: nobody sees these leases any more, so the writes have landed a barrier later */
		if :: going[0] || going[SLOTS - 1] -> going[0] = 0; going[SLOTS - 1] = 0; flying = flying | (1 << now) :: else fi;
		withdrawn = 1
	fi }
}
/* The past mirror goes: what ended unknown there is the ledger's. */
inline past_over() {
	d_step {
		left_slot(0);
#if SLOTS > 1
		left_slot(1);
#endif
		LATER(ledger_over, mem[OVER]);
		withdrawn = 1
	}
}
inline serve() {
	do
	:: st == 0 || st == 2 ->
		st++; publish(st);
#ifdef LOOK_EARLY
		forget(); look(); looked = 1;
#endif
		fence_then_forget()
#ifdef ABORT
	:: st == 1 -> st = 2; publish(st)
#endif
#ifdef WITHDRAW
	:: !withdrawn -> withdraw()
#endif
#ifdef PAST
#ifdef PAST_SOON
	:: withdrawn == 2 -> withdrawn = 1
#else
	:: withdrawn == 2 && !ANY_OPEN -> past_over()
#endif
#endif
	:: SHUT(st) && !looked -> look(); looked = 1
	:: SHUT(st) && looked && (found & 1) -> look_again(0)
#if SLOTS > 1
	:: SHUT(st) && looked && (found & 2) -> look_again(1)
#endif
	:: SHUT(st) && looked ->
		d_step { if
		:: !found && GONE_BY(ended) && GONE_BY(over) && GONE_BY(ledger_over) &&
		   ((withdrawn || !mem[GATED]) && !ledger_left || OLD(published)) ->
			assert(!going[0] && !going[SLOTS - 1] && !flying) /* DRAINED */;
			st = COMPLETED
		:: else
		fi }
		if :: st == COMPLETED -> publish(st) :: else fi
	:: st == COMPLETED -> break
	od
}
proctype Daemon() {
	byte h, s, high;
	{ serve() } unless { crash };
	if
	:: crash -> /* another one publishes anew, and looks anew at what is in the maps */
		d_step { bn[DAEMON] == 0 -> h = 0; s = 0; high = 0; forget() }
		publish(st);
#ifndef NO_FENCE_RESTART
		fence_then_forget();
#else
		published = now;
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
		mem[ON] = 1;
		run Program(0);
#if SLOTS > 1
		run Program(1);
#endif
		run Daemon();
#if defined(UNKNOWN) || defined(GATE) || defined(WITHDRAW)
		run Clock();
#endif
#ifdef CRASH
		run Crash();
#endif
	}
}
