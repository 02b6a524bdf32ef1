/* SPDX-License-Identifier: MIT
 * Pins that are found while the cursor thread changes them: shm/cursor.h; the mending of writer/cursor_table.c. Two
 * buckets, three slots; pins A, C and E of bucket 0 and D of bucket 1; a search for A.
 *
 * MIX      a hit is one pin's: its owner, and a word that was stored for it (G1)
 * MISSED   a pin that was there from the beginning of the search to its end is not missed (G2)
 * ENDED    a hit's pin, and its word, ended after the search had begun: nothing comes back (G3, G5)
 * DAMAGE   a table that berthd wrote is not called damaged (G4); CHANGED is answered of a changed table only
 *
 * There is one writer and a search stores nothing, so the writer runs first and leaves a log of its stores. A search
 * begins where the log does (at any store), and ended before the first store of which it has seen nothing. x86: each
 * load sees the log's stores up to a place that only moves on. -DWEAK: C11, aarch64 included: a load sees any store of
 * its address but what is known to be overwritten. Known are all stores before one that an acquire load (or a load
 * before an acquire fence) has met, if that was a release; else those before the release fence that preceded it.
 *
 * With -D: OPS changes (of up to three pins that are there at first, FULL: of three), KILLS (of the writer at any
 * store, also while it mends), TRIES searches in a row while they answer CHANGED. Rules broken on purpose: see
 * README.md. */
#ifndef OPS
#define OPS 3
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef TRIES
#define TRIES 1
#endif
#ifndef LOG
#define LOG 40
#endif
#define NS 3
#define BUCKET(b) (b)
#define VER(s) (2 + 6 * (s))
#define H0(s) (3 + 6 * (s))
#define H1(s) (4 + 6 * (s))
#define OWN(s) (5 + 6 * (s))
#define WORD(s) (6 + 6 * (s))
#define NEXT(s) (7 + 6 * (s))
#define NA (2 + 6 * NS)
/* ids: the halves of C's or E's hash and of D's make A's */
#define A 1
#define C 2
#define E 3
#define D 4
#define HASH0(id) ((id) == D -> 1 : 0)
#define HASH1(id) ((id) == C -> 1 : ((id) == E -> 2 : 0))
/* release stores and acquire loads that are made plain */
#ifdef MAKE_PLAIN
#define MADE 0
#else
#define MADE 1
#endif
#ifdef BUCKET_PLAIN
#define TOLD 0
#else
#define TOLD 1
#endif
#ifdef DROP_PLAIN
#define DROPPED 0
#else
#define DROPPED 1
#endif
#ifdef LINK_PLAIN
#define LINKED 0
#else
#define LINKED 1
#endif
#ifdef LD_VERSION_PLAIN
#define LD_VERSION 0
#else
#define LD_VERSION 1
#endif
#ifdef LD_BUCKET_PLAIN
#define LD_BUCKET 0
#else
#define LD_BUCKET 1
#endif
#ifdef BUCKET_WRAPS /* its version has one bit */
#define BMAX 2
#else
#define BMAX 32
#endif
#define BVAL(v, first) (((v) % BMAX) * 4 + (first))
#define FIRST(b) ((b) % 4)
#define BVER(b) ((b) / 4)

byte mem[NA];  /* the writer's view; cleared when it has ended */
byte mem0[NA]; /* when the search begins */
byte n;        /* stores in the log: 1 .. n */
byte la[LOG], lv[LOG];
#ifdef WEAK
byte lf[LOG]; /* the stores 1 .. lf are before it */
byte fenced;
#endif
bool started;
byte changes; /* durable, as in the file */
/* truth, by the number that a pin (its owner field) and a word have */
#define NU (NS + OPS + 2)
#define NEVER 255
byte gu, gid[NU], glink[NU], gend[NU], gpin[NU], wend[NU];
byte kills, ops;
bool was_c;
hidden byte hi;

inline put(a, v, rel) {
	d_step {
		mem[a] = v;
		if
		:: started -> n++; assert(n < LOG); la[n] = a; lv[n] = v;
#ifdef WEAK
			lf[n] = (rel -> n : fenced)
#endif
		:: else -> mem0[a] = v
		fi
	}
}
inline before_a_store() { /* the search begins; a kill */
	if :: !started -> started = 1 :: skip fi;
#if KILLS
	if :: kills < KILLS -> kills++; goto mend :: skip fi;
#endif
	skip
}
inline store(a, v, rel) {
	atomic {
		before_a_store();
		put(a, v, rel)
	}
}
inline ends(s) { /* the pin in slot s */
	d_step { if :: gend[mem[OWN(s)]] == NEVER && gid[mem[OWN(s)]] -> gend[mem[OWN(s)]] = n + started :: else fi }
}
inline zero(s, rel) { /* `ends` goes with the store, the kill before both */
	atomic {
		before_a_store();
		if :: mem[VER(s)] -> ends(s) :: else fi;
		put(VER(s), 0, rel)
	}
}
inline fence() {
#ifdef WEAK
	fenced = n
#else
	skip
#endif
}
inline link(b, s) {
	atomic {
		before_a_store();
		put(BUCKET(b), BVAL(BVER(mem[BUCKET(b)]) + 1, (s) + 1), TOLD);
		glink[mem[OWN(s)]] = n
	}
}
inline make(s, id, v) { /* u: its number in the truth */
	d_step { gu++; u = gu }
#ifndef MAKE_NO_ZERO
	store(VER(s), 0, 0);
#endif
#ifndef NO_MAKE_FENCE
	fence();
#endif
	store(H0(s), HASH0(id), 0); store(H1(s), HASH1(id), 0); store(OWN(s), u, 0); store(WORD(s), u, 0);
	store(NEXT(s), FIRST(mem[BUCKET(HASH0(id))]), 0);
	atomic {
		before_a_store();
		put(VER(s), v, MADE);
		gid[u] = id; gpin[u] = u; gend[u] = NEVER; wend[u] = NEVER; glink[u] = NEVER
	}
	link(HASH0(id), s);
	u = 0
}
inline refresh(s) {
	d_step { gu++; u = gu; gpin[u] = mem[OWN(s)] }
	atomic {
		before_a_store();
		wend[mem[WORD(s)]] = n + started; wend[u] = NEVER;
		put(WORD(s), u, 0)
	}
	u = 0
}
inline unlink(s, a, v, rel) {
	atomic {
		before_a_store();
#ifdef NO_ZERO
		ends(s);
#endif
		put(a, v, rel)
	}
}
#ifdef DROP_NO_BUMP
#define DROP_BUMP 0
#else
#define DROP_BUMP 1
#endif
inline drop(s, before, b) { /* before: 1 + slot; 0: none */
#ifndef NO_ZERO
	zero(s, DROPPED);
#endif
	if
	:: before ->
#ifdef BUMP_FIRST
		store(BUCKET(b), BVAL(BVER(mem[BUCKET(b)]) + 1, FIRST(mem[BUCKET(b)])), 1);
#endif
		unlink(s, NEXT(before - 1), mem[NEXT(s)], LINKED);
#ifndef BUMP_FIRST
		store(BUCKET(b), BVAL(BVER(mem[BUCKET(b)]) + DROP_BUMP, FIRST(mem[BUCKET(b)])), TOLD)
#endif
	:: else -> unlink(s, BUCKET(b), BVAL(BVER(mem[BUCKET(b)]) + DROP_BUMP, mem[NEXT(s)]), TOLD)
	fi
}
inline choose(id) { /* E not before C: they are alike */
	if :: id = A :: id = C; was_c = 1 :: was_c -> id = E :: id = D fi
}
/* Where id's slot is, 1 + it, and the one before; 0: nowhere. In private memory of the real writer. */
inline where(id) {
	d_step {
		before = 0; at = FIRST(mem[BUCKET(HASH0(id))]);
		do
		:: at && !(mem[H0(at - 1)] == HASH0(id) && mem[H1(at - 1)] == HASH1(id)) ->
			before = at; at = mem[NEXT(at - 1)]
		:: else -> break
		od
	}
}
inline chained(s) { /* at: s is in a chain */
	d_step {
		at = FIRST(mem[BUCKET(0)]);
		do :: at && at != (s) + 1 -> at = mem[NEXT(at - 1)] :: else -> break od;
		if
		:: at
		:: else ->
			at = FIRST(mem[BUCKET(1)]);
			do :: at && at != (s) + 1 -> at = mem[NEXT(at - 1)] :: else -> break od
		fi
	}
}
#ifdef VERSION_REUSED /* the highest that is there, not the highest that was */
#define NUMBER v
#else
#define NUMBER changes
#endif

/* ---- the search */

byte began, last; /* last: the latest store that was seen */
#ifdef WEAK
byte known, pending, coh[NA];
#define KNOWN known
inline load(a, x, acquire) {
	atomic {
		d_step { /* the oldest store that may be met */
			hi = known; do :: hi && la[hi] != a -> hi-- :: else -> break od;
			if :: hi > coh[a] -> i = hi :: else -> i = coh[a] fi;
			hi = 0
		}
		do
		:: d_step {
			x = (i -> lv[i] : mem0[a]); coh[a] = i;
			if :: lf[i] > pending -> pending = lf[i] :: else fi;
			if :: acquire && lf[i] > known -> known = lf[i] :: else fi;
			if :: i > last -> last = i :: else fi;
			i = 0
		} break
		:: d_step { hi = i + 1; do :: hi <= n && la[hi] != a -> hi++ :: else -> break od }
			if :: hi <= n -> i = hi; hi = 0 :: else -> hi = 0; goto nothing fi
		od
	}
}
inline acquire_fence() { d_step { if :: pending > known -> known = pending :: else fi } }
#else
#define KNOWN last
inline load(a, x, acquire) { /* only a store of a in between makes a difference */
	atomic {
		do
		:: d_step { hi = last; do :: hi && la[hi] != a -> hi-- :: else -> break od;
			x = (hi -> lv[hi] : mem0[a]); hi = 0 } break
		:: d_step { hi = last + 1; do :: hi <= n && la[hi] != a -> hi++ :: else -> break od }
			if :: hi <= n -> last = hi; hi = 0 :: else -> hi = 0; goto nothing fi
		od
	}
}
inline acquire_fence() { skip }
#endif

active proctype Both() {
	byte s, id, u, v, at, before, b, i, tries, w, own, word, steps;
	bool yes;

	/* what is there at first */
	do
	:: s < NS ->
		atomic {
			choose(id);
			where(id);
			if
			:: at -> goto nothing
			:: else
			fi;
			d_step {
				changes++; gu++; gid[gu] = id; gpin[gu] = gu; gend[gu] = NEVER; wend[gu] = NEVER;
				put(H0(s), HASH0(id), 0); put(H1(s), HASH1(id), 0); put(OWN(s), gu, 0); put(WORD(s), gu, 0);
				put(NEXT(s), FIRST(mem[BUCKET(HASH0(id))]), 0); put(VER(s), changes, 0);
				put(BUCKET(HASH0(id)), s + 1, 0);
				s++; id = 0; at = 0; before = 0; v = changes
			}
		}
#ifndef FULL
	:: break
#else
	:: else -> break
#endif
	od;
	s = 0;

serve:
	do
	:: ops < OPS ->
		atomic { ops++; choose(id); where(id); b = HASH0(id) }
		if
		:: at -> s = at - 1; at = 0; before = 0; refresh(s)
		:: at -> s = at - 1; at = 0; drop(s, before, b); before = 0
		:: !at ->
			atomic {
				before = 0;
				if :: s = 0 :: s = 1 :: s = 2 fi;
				chained(s);
				if :: at -> goto nothing :: else fi;
#ifdef VERSION_REUSED
				v++
#else
				changes++
#endif
			}
			make(s, id, NUMBER)
		fi;
		d_step { s = 0; id = 0; b = 0 }
	:: else -> break
	od;
	goto search;

mend:
	atomic { /* another writer: knows what is in the file */
		u = 0; id = 0; b = 0; at = 0; before = 0; s = 0; v = 0;
#ifdef VERSION_REUSED
		do
		:: s < NS -> if :: mem[VER(s)] > v -> v = mem[VER(s)] :: else fi; s++
		:: else -> break
		od;
		s = 0
#endif
	}
#if KILLS
	do /* mend_chain: what ended leaves its chain; any slot may have left it, and the bucket not been told */
	:: b < 2 ->
		at = FIRST(mem[b]);
		if
		:: at ->
			do
			:: at && mem[VER(at - 1)] -> d_step { before = at; at = mem[NEXT(at - 1)] }
#ifdef MEND_REVIVES
			:: at && !mem[VER(at - 1)] -> changes++; store(VER(at - 1), changes, 1)
#else
			:: at && !mem[VER(at - 1)] ->
				if
				:: before -> store(NEXT(before - 1), mem[NEXT(at - 1)], 1)
				:: else -> store(BUCKET(b), BVAL(BVER(mem[b]) + 1, mem[NEXT(at - 1)]), 1)
				fi;
				at = mem[NEXT(at - 1)]
#endif
			:: else -> break
			od;
#ifndef MEND_NO_BUMP
			store(BUCKET(b), BVAL(BVER(mem[b]) + 1, FIRST(mem[b])), 1)
#endif
		:: else
		fi;
		skip;
		d_step { b++; at = 0; before = 0 }
	:: else -> break
	od;
	b = 0;
	do /* what is in no chain is no pin */
	:: s < NS ->
		chained(s);
		if
		:: !at && mem[VER(s)] -> zero(s, 1)
		:: else
		fi;
		d_step { s++; at = 0 }
	:: else -> break
	od;
	s = 0;
	goto serve;
#endif

search:
	skip;
	d_step {
		started = 1; kills = 0; ops = 0; changes = 0; u = 0; v = 0; at = 0; before = 0; s = 0; gu = 0; was_c = 0;
#ifdef WEAK
		fenced = 0;
#endif
		hi = 0; do :: hi < NA -> mem[hi] = 0; hi++ :: else -> break od; hi = 0
	}
again:
	began = KNOWN;
	load(BUCKET(0), b, LD_BUCKET);
	at = FIRST(b);
	do
	:: at && steps < NS /* SHM_CHAIN_MAX */ ->
		s = at - 1; steps++;
		load(VER(s), v, LD_VERSION);
		load(H0(s), w, 0);
		if
		:: w == HASH0(A) -> load(H1(s), w, 0); yes = (w == HASH1(A) && v != 0)
		:: else -> yes = 0
		fi;
		if
		:: yes ->
			load(OWN(s), own, 0);
			load(WORD(s), word, 0);
#ifndef NO_RELOAD
#ifndef NO_HIT_FENCE
			acquire_fence();
#endif
			load(VER(s), w, 0);
			if :: w != v -> goto changed :: else fi;
#endif
			assert(own < NU && word < NU && gid[own] == A && gpin[word] == own) /* MIX */;
			assert(gend[own] > began && wend[word] > began) /* ENDED */;
			goto done
		:: else
		fi;
		load(NEXT(s), at, 0)
	:: else -> break
	od;
#ifndef NO_MISS_FENCE
	acquire_fence();
#endif
	load(BUCKET(0), w, 0);
	if
	:: w != b -> goto changed
	:: else
	fi;
#ifdef MISSES /* a broken rule may lead a search round in a circle as well as to a wrong end */
	if :: at -> goto done :: else fi;
#endif
	assert(!at) /* DAMAGE */;
	d_step {
		u = 1;
		do
		:: u < NU -> assert(!(gid[u] == A && glink[u] <= began && gend[u] > last)) /* MISSED */; u++
		:: else -> break
		od
	}
	goto done;
changed:
	assert(last > began) /* DAMAGE */;
	tries++;
	if
	:: tries < TRIES -> d_step { b = 0; s = 0; v = 0; w = 0; own = 0; word = 0; steps = 0; at = 0; yes = 0 } goto again
	:: else
	fi;
done:
	skip;
nothing:
	skip
}
