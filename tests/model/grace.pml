/* Grace periods (shm/grace.h): a grace period over registration memory.
 * Variants: NO_MB SCAN_FIRST GP_FIRST OLD_GP (must fail); ASYNC = call_rcu queue with numbers
 * (ASYNC_NOTAG must fail); NEST = nested section that stores again (fail), NEST_OK keeps the outer;
 * LATE = a thread opened during the grace period: LATE_BEFORE reads the thread count before membarrier (fail);
 * RESTART = kill and new writer; RESTART_RESET = its number starts at 1 again (fail);
 * NOMB=1 with FENCE0 (ok) / without (fail): a reader that membarrier does not reach. */
#ifndef NR
#define NR 2
#endif
#ifndef NSEC
#define NSEC 2
#endif
#ifndef NUPD
#define NUPD 2
#endif
#define W  NR
#define NT (NR+1)
#ifndef K
#define K  3
#endif
#define PTR 0
#define GP  1
#define NTHR 2
#define SLOT(r) (3+(r))
#define NA (3+NR)
#define WATCH(t, a) ((t) < NR && ((a) == PTR || (a) == GP) || (t) == W && (a) >= 3)
#define PTR_OF(o) ((o) + 4 * ver[o])   /* an object and its life */
#define ON_LATE(t, a) assert(!isfree[(a) % 4] && ver[(a) % 4] == (a) / 4)
byte ver[4];        /* ghost: counts frees of the object */
bit  isfree[4];     /* ghost */
#include "tso.h"
#ifdef RESTART
#define NOBJ 4
#else
#define NOBJ 3
#endif
#ifdef EXIT_PLAIN
#define ENDSTORE ST
#else
#define ENDSTORE STR
#endif
#define PUBLISH STR
#ifdef GP_PLAIN
#define GP_ST ST
#else
#define GP_ST STR
#endif
#ifdef PTR_PLAIN
#define LD_PTR LD
#else
#define LD_PTR LDA
#endif
#ifdef LOOK_PLAIN
#define LD_LINE LD
#else
#define LD_LINE LDA
#endif

proctype reader(byte t) {
  byte n, g, p, v;
#ifdef LATE
  if :: t == 1 -> ST(1,NTHR,2) :: else fi;
#endif
  n = 0;
  do
  :: n < NSEC ->
     LD(t,GP,g);
     ST(t,SLOT(t),g);
#ifdef FENCE0
     if :: t == 0 -> FENCE(t) :: else fi;
#endif
     atomic { LD_PTR(t,PTR,p); v = p / 4; p = p % 4; g = 0 };
#if defined(NEST)
     LD(t,GP,g); ST(t,SLOT(t),g); g = 0;              /* inner berth_route() stores again */
#endif
     atomic { assert(!isfree[p] && ver[p] == v); LDL(t, PTR_OF(p)); p = 0; v = 0 };
     ENDSTORE(t,SLOT(t),0);
     n++
  :: else -> break
  od
}

byte wobj, wgp = 1;
inline ALLOC(o) {
#ifdef RESTART
  if :: die -> o = 3 :: !die && isfree[0] -> o = 0 :: !die && isfree[1] -> o = 1 :: !die && isfree[2] -> o = 2 fi;
#else
  if :: isfree[0] -> o = 0 :: isfree[1] -> o = 1 :: isfree[2] -> o = 2 fi;
#endif
  isfree[o] = 0 }
inline FREE(o)  { d_step { isfree[o] = 1; ver[o]++ } }

#ifndef ASYNC
inline SCAN(lim) {      /* wait until every line is zero or new enough */
  r = 0;
#ifdef LATE
#ifdef LATE_BEFORE
  skip;
#else
  LD(W,NTHR,nr);
#endif
#endif
  do
  :: r < nr -> LD_LINE(W,SLOT(r),s); if :: s == 0 || s >= lim -> r++ :: else fi; s = 0
  :: else -> break
  od; r = 0
}
bit die, killed;
#ifdef RESTART
active proctype killer() { if :: die = 1 :: skip fi }
#endif
inline UPDATE() {
     atomic { ALLOC(o); old = wobj };
#if defined(LATE) && defined(LATE_BEFORE)
     LD(W,NTHR,nr);
#endif
#if defined(SCAN_FIRST)
     MB(W); wgp++; GP_ST(W,GP,wgp); SCAN(wgp);
     PUBLISH(W,PTR,PTR_OF(o)); wobj = o; FENCE(W);
#elif defined(GP_FIRST)
     wgp++; GP_ST(W,GP,wgp); PUBLISH(W,PTR,PTR_OF(o)); wobj = o; MB(W); SCAN(wgp);
#elif defined(NO_MB)
     PUBLISH(W,PTR,PTR_OF(o)); wobj = o; FENCE(W); wgp++; GP_ST(W,GP,wgp); FENCE(W); SCAN(wgp);
#elif defined(GP_BEFORE_MB)
     PUBLISH(W,PTR,PTR_OF(o)); wobj = o; wgp++; STR(W,GP,wgp); MB(W); SCAN(wgp);
#elif defined(OLD_GP)
     PUBLISH(W,PTR,PTR_OF(o)); wobj = o; MB(W); wgp++; GP_ST(W,GP,wgp); SCAN(wgp-1);
#else
     atomic { PUBLISH(W,PTR,PTR_OF(o)); wobj = o };
     MB(W);
     atomic { wgp++; GP_ST(W,GP,wgp) };
     SCAN(wgp);
#endif
     atomic { FREE(old); o = 0; old = 0; u++ }
}
proctype writer() {
  byte u, r, s, o, old, nr = NR;
  { do
    :: u < NUPD -> UPDATE()
    :: else -> break
    od
  } unless { die }
#ifdef RESTART
  ;
  if
  :: atomic { die ->
       FLUSHX(W); o = 0; old = 0; r = 0; s = 0; u = 0;
       /* the new writer knows the pointer and, unless RESTART_RESET, the number in root;
          what was unlinked but not freed leaks here (in berth: the file goes as a whole) */
#ifdef RESTART_RESET
       wgp = 1; mem[GP] = 1;
#else
       wgp = mem[GP];
#endif
       wobj = mem[PTR] % 4;
       /* its allocator is new: an object not current and never retired by the dead writer */
       isfree[3] = 1 }
     UPDATE()
  :: else
  fi
#endif
}
#else
/* retired objects carry the number that was current when they were unlinked */
proctype writer() {
  byte u, adv, r, s, o, low, gs, q0, t0, q1, t1; bit h0, h1;
  do
  :: u < NUPD && !(h0 && h1) && (isfree[0]||isfree[1]||isfree[2]) ->
     atomic { ALLOC(o); u++ };
     PUBLISH(W,PTR,PTR_OF(o));
     atomic { if :: !h0 -> h0 = 1; q0 = wobj; t0 = wgp :: else -> h1 = 1; q1 = wobj; t1 = wgp fi; wobj = o; o = 0 }
  :: (h0 || h1) && adv < 3 && ((h0 && t0 == wgp) || (h1 && t1 == wgp)) ->
     MB(W); atomic { wgp++; adv++; GP_ST(W,GP,wgp) }
  :: h0 || h1 ->
     atomic { gs = wgp; low = 255; r = 0 };
     do
     :: r < NR -> LD_LINE(W,SLOT(r),s); atomic { if :: s != 0 && s < low -> low = s :: else fi; s = 0; r++ }
     :: else -> break
     od;
     atomic {
#ifdef ASYNC_NOTAG
     /* frees whatever no line is older than, also what was retired after the last membarrier */
     if :: h0 && t0 < low -> FREE(q0); h0 = 0; q0 = 0; t0 = 0 :: else fi;
     if :: h1 && t1 < low -> FREE(q1); h1 = 0; q1 = 0; t1 = 0 :: else fi;
#else
     if :: h0 && t0 < gs && t0 < low -> FREE(q0); h0 = 0; q0 = 0; t0 = 0 :: else fi;
     if :: h1 && t1 < gs && t1 < low -> FREE(q1); h1 = 0; q1 = 0; t1 = 0 :: else fi;
#endif
     low = 0; gs = 0; r = 0 }
  :: u == NUPD && !h0 && !h1 -> break
  od
}
#endif
init {
  atomic {
    mem[GP] = 1; isfree[1] = 1; isfree[2] = 1;
#ifdef LATE
    mem[NTHR] = 1;
#endif
    run reader(0);
#if NR > 1
    run reader(1);
#endif
#if NR > 2
    run reader(2);
#endif
    run writer()
  }
}
