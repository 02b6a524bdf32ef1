/* SPDX-License-Identifier: MIT
 * Requests to the cursor thread: reader_lib/cursor_ring.c (rings, doorbell, waiting); writer/cursor_rings.c, cursors.c,
 * cursor_bells.c (serving, sleeping, a start). Two processes with a reader each (threads 0 and 1) ask for changes of
 * one pin; thread 2 is the cursor thread. No time-out but that of a thread that lacks somebody's bell.
 *
 * STUCK    when nothing moves any more, all entries are done and all readers have gone on: no doorbell or wake is lost
 * ACKED    who was acknowledged finds its change, or one that was made after it
 * AGAIN    a change is made again only before any other is: what others were told is not undone
 * ENTRY    what is applied is what was pushed
 *
 * With -D: ONE (reader 0 alone), MORE (reader 0 asks twice, and need not wait; BATCH: does not), CRASH (the daemon, once; its successor has
 * reader 0's bell when that process has come back), FENCES=mask (of readers whom membarrier does not reach), MB_SPLIT
 * and WEAK (tso.h). FUTEX_WAIT and the doorbell order nothing here. Rules broken on purpose: see README.md. */
#ifndef FENCES
#define FENCES 0
#endif
#ifdef ARM
#define K 2
#define H 2
#endif
#ifndef K
#define K 3
#endif
#define NT 3
#define HEAD(r) (r)
#define WAITING(r) (2 + (r))
#define ACK(r) (4 + (r)) /* entries done */
#define SLEEPING 6
#define DOING 7 /* 1 + ring */
#define PIN 8   /* the change that it shows */
#define ENTRY(r, i) (9 + 2 * (r) + (i))
#define NA 13
#define NOMB FENCES
#define WATCH(t, a) ((t) < 2 && ((a) == SLEEPING || (a) == ACK(t) || (a) == PIN) || (t) == 2 && ((a) < ACK(0) || (a) > PIN))
#include "tso.h"
#ifdef HEAD_PLAIN
#define HEAD_ST ST
#else
#define HEAD_ST STR
#endif
#ifdef LD_HEAD_PLAIN
#define LD_HEAD LD
#else
#define LD_HEAD LDA
#endif
#ifdef ACK_PLAIN
#define ACK_ST ST
#else
#define ACK_ST STR
#endif
#ifdef LD_ACK_PLAIN
#define LD_ACK LD
#else
#define LD_ACK LDA
#endif

#define CHANGE(r, i) (1 + 2 * (r) + (i))
#ifdef MORE
#define ASKS(r) (2 - (r))
#else
#define ASKS(r) 1
#endif

/* the kernel */
bool asleep[2]; /* in FUTEX_WAIT */
bool bell;      /* something for epoll_wait: edge-triggered, one such call takes it all */
byte door[2];   /* which daemon's eventfd the process's number is */
/* the daemon */
byte daemon;
bool crash, deaf; /* deaf: reader 0's process has not come back */
/* truth */
byte made[5]; /* when a change was made first; 0: not yet */
byte n_made, latest;
bool finished[2];

proctype Reader(byte r) {
	byte i, x, seen;
	do
	:: i < ASKS(r) ->
#ifdef HEAD_FIRST
		HEAD_ST(r, HEAD(r), i + 1); ST(r, ENTRY(r, i), CHANGE(r, i));
#else
		ST(r, ENTRY(r, i), CHANGE(r, i)); HEAD_ST(r, HEAD(r), i + 1);
#endif
		i++;
#ifndef NO_READER_FENCE
		if :: FENCES & (1 << r) -> FENCE(r) :: else fi;
#endif
		LD(r, SLEEPING, x);
		if
		:: x -> atomic { if :: door[r] == daemon -> bell = 1 :: else fi } /* write to the eventfd */
		:: else
		fi;
		x = 0;
		if
#ifdef MORE
		:: i < ASKS(r) /* does not wait */
#endif
#ifdef BATCH
		:: i == ASKS(r) ->
#else
		:: skip ->
#endif
			do
			:: ST(r, WAITING(r), 1);
#ifndef NO_WAIT_FENCE
				FENCE(r);
#endif
				LD_ACK(r, ACK(r), seen);
				if :: seen == i -> break :: else fi;
				d_step { if :: mem[ACK(r)] == seen -> asleep[r] = 1 :: else fi } /* FUTEX_WAIT */
				!asleep[r];
				LD_ACK(r, ACK(r), seen);
				if :: seen == i -> break :: else fi
			od;
			skip;
			ST(r, WAITING(r), 0);
			atomic { LDX(r, PIN, x); assert(made[x] >= made[CHANGE(r, i - 1)] && made[x]) /* ACKED */; x = 0; seen = 0 }
		fi
	:: else -> break
	od;
	finished[r] = 1
}

/* Reader 0's process, when there is another daemon: reattach. (Reader 1's does all of it at once.) */
proctype Comes_back() {
	daemon == 1;
	atomic { deaf = 0; bell = 1 } /* cursors_reattach, with the control thread's bell; the answer is on its way */
#ifdef NO_RING_AFTER
	door[0] = 1
#else
	atomic { door[0] = 1; bell = 1 } /* dup3; the bell alone may come later, but nobody waits for it */
#endif
}

inline apply(x) {
	d_step {
		assert(x == CHANGE(r, done)) /* ENTRY */;
		assert(!made[x] || latest == x) /* AGAIN */;
		if :: !made[x] -> n_made++; made[x] = n_made :: else fi;
		latest = x
	}
	ST(2, PIN, x)
}
inline wake() {
#ifndef NO_WAKE_FENCE
	FENCE(2);
#endif
	LD(2, WAITING(r), x);
	if :: x -> asleep[r] = 0 :: else fi;
	x = 0
}
inline serve(ring) {
	r = ring;
	LD_HEAD(2, HEAD(r), head); LD(2, ACK(r), done);
	if
	:: head == done
	:: else ->
		worked = 1;
#ifndef DOING_LATE
		ST(2, DOING, r + 1);
#ifndef NO_DOING_FENCE
		RFENCE(2);
#endif
#endif
		do
		:: done < head ->
			LD(2, ENTRY(r, done), x);
#ifdef ACK_FIRST
			ACK_ST(2, ACK(r), done + 1); apply(x);
#else
			apply(x);
#ifdef DOING_LATE
			STR(2, DOING, r + 1);
#endif
			ACK_ST(2, ACK(r), done + 1);
#endif
			d_step { done++; x = 0 }
		:: else -> break
		od;
		wake()
	fi;
	d_step { r = 0; head = 0; done = 0 }
}
inline look(ring) {
	LD_HEAD(2, HEAD(ring), head); LD(2, ACK(ring), done);
	d_step { if :: head != done -> worked = 1 :: else fi; head = 0; done = 0 }
}
inline go_to_sleep() {
#ifdef SLEEP_LATE
	look(0); look(1);
	ST(2, SLEEPING, 1);
#else
	ST(2, SLEEPING, 1);
#endif
	FENCE(2);
#ifndef NO_MB
	MB(2);
#endif
#if !defined(NO_LOOK) && !defined(SLEEP_LATE)
	look(0); look(1);
#endif
	if
	:: !worked -> /* epoll_wait */
		atomic {
			if
			:: bell -> bell = 0
			:: deaf /* 2 ms */
			fi
		}
	:: else
	fi;
	ST(2, SLEEPING, 0)
}
inline rounds() {
	do
	:: worked = 0; serve(0); serve(1);
		if
		:: !worked -> go_to_sleep()
		:: else
		fi
	od
}
proctype Thread() {
	byte r, head, done, x;
	bool worked;
	{ rounds() } unless { crash };
	bn[2] == 0; TOLD(2);
	d_step { bn[2] == 0 -> /* what it stored is stored */
		daemon = 1; bell = 0; deaf = 1; door[1] = 1;
		r = 0; head = 0; done = 0; x = 0; worked = 0; crash = 0 }
	ST(2, SLEEPING, 0);
	LD(2, DOING, x);
#ifndef DOING_NOT_FIRST
	if
	:: x == 1 -> x = 0; serve(0); x = 1
	:: x == 2 -> x = 0; serve(1); x = 2
	:: else
	fi;
#endif
#ifndef NO_WAKE_AT_START
	if
	:: x -> r = x - 1; wake(); r = 0 /* the one before may have acknowledged, and not woken */
	:: else
	fi;
#endif
	x = 0;
	rounds()
}
proctype Crash() { crash = 1 }
proctype Judge() {
#ifdef ONE
	timeout -> assert(finished[0] && made[CHANGE(0, ASKS(0) - 1)]) /* STUCK */
#else
	timeout -> assert(finished[0] && finished[1] && made[CHANGE(0, ASKS(0) - 1)] && made[CHANGE(1, 0)]) /* STUCK */
#endif
}
init {
	atomic {
		run Reader(0); run Thread(); run Judge();
#ifndef ONE
		run Reader(1);
#endif
#ifdef CRASH
		run Crash(); run Comes_back()
#endif
	}
}
