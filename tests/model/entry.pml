/* One entry (shm/index.h, writer/change.c), its word and its two detail slots; the writer does any NOPS legal
 * operations in a row (set/begin/complete/abort/remove/insert), a reader routes or looks up any key.
 * cutover is left out: to a reader it is one more word with the same det.  A word's value is its epoch;
 * what its other bits say is kept in ghost tables indexed by the epoch.
 * NO_RELOAD, WORD_FIRST (word before det), NO_GRACE (tombstone reused by another key at once),
 * SLOT_SAME (set fills det[which]), EARLY_FREE must fail.
 * NO_GRACE + ROUTE_RELOAD (route reads the word again after the key) passes.
 * OWN_KEY: a removed key may come back in its own tombstone at once, without a grace period; passes.
 * LONGKEY: key compared in the detail record.
 * WEAK: det/key stores are plain; WEAK_REL: det and key stores are release. */
#ifndef NR
#define NR 1
#endif
#ifndef NSEC
#define NSEC 2
#endif
#ifndef NOPS
#define NOPS 5
#endif
#define W  NR
#define NT (NR+1)
#ifndef K
#define K 4
#endif
#define WORD 0
#define DET(x) (1+(x))
#define KEYA 3
#define KEYB 4
#define NA 5
#define WATCH(t, a) ((t) < NR)
#include "tso.h"
#define NE (NOPS+2)
/* ghosts, by epoch: which, placement now, placement of the target (0: none), owner key (0: tombstone) */
bit  gwh[NE]; byte gpl[NE]; byte gtg[NE]; byte gow[NE];
bit  dfree[NE];                 /* detail records: id = epoch of the operation that made it */
bit  insec[NR]; byte secno[NR];
#define KA(k) ((k)==2 -> 2 : 1)    /* keys 1=(1,1) 2=(2,2) 3=(1,2): 3 is never inserted */
#define KB(k) ((k)==1 -> 1 : 2)
#ifdef ARM                         /* as it is in the code, but for what is broken on purpose */
#ifdef DET_PLAIN
#define DST ST
#else
#define DST STR
#endif
#ifdef WORD_PLAIN
#define WST ST
#else
#define WST STR
#endif
#define KST ST
#elif defined(WEAK) && !defined(WEAK_REL)
#define DST ST
#define WST STR
#elif defined(WEAK_REL)
#define DST STR
#define WST STR
#else
#define DST ST
#define WST ST
#endif
#ifndef KST
#define KST DST
#endif
#ifdef LD_WORD_PLAIN
#define LD_WORD LD
#else
#define LD_WORD LDA
#endif
#ifdef LD_DET_PLAIN
#define LD_DET LD
#else
#define LD_DET LDA
#endif
#ifdef NO_AFENCE
#define STILL_TRUE_FENCE(t) skip
#else
#define STILL_TRUE_FENCE(t) AFENCE(t)
#endif
#if K < 3
#error K
#endif
byte nhit, nlook;

proctype reader(byte t) {
  byte n, w, w2, ka, kb, k, d, g;
  do
  :: n < NSEC ->
     atomic { insec[t] = 1; if :: k = 1 :: k = 2 :: k = 3 fi };
again:
     LD_WORD(t,WORD,w);
     if
     :: w == 0 || gow[w] == 0 -> skip          /* empty, tombstone */
     :: else ->
#ifdef LONGKEY                                 /* the key is in the detail record: read before any re-load */
        LD_DET(t,DET(gwh[w]),d); assert(!dfree[d]);
        if
        :: gow[d] == k -> d = 0;
#else
        LD(t,KEYA,ka); LD(t,KEYB,kb);
        if
        :: ka == KA(k) && kb == KB(k) ->
#endif
#ifdef ROUTE_RELOAD
           LD(t,WORD,w2);
           if :: w2 != w -> atomic { w = 0; w2 = 0; ka = 0; kb = 0; goto again } :: else fi;
#endif
           assert(gow[w] == k);                /* berth_route returns w here */
           if
           :: skip                             /* ... and is done */
           :: LD_DET(t,DET(gwh[w]),d);
              if :: gtg[w] != 0 -> LD_DET(t,DET(1-gwh[w]),g) :: else fi;
#ifndef NO_RELOAD
              STILL_TRUE_FENCE(t); LDA(t,WORD,w2);
              if :: w2 != w -> atomic { w = 0; w2 = 0; ka = 0; kb = 0; d = 0; g = 0; goto again } :: else fi;
#endif
              assert(d == gpl[w]);             /* INV-M4: no mix */
              assert(gtg[w] == 0 || g == gtg[w]);
              assert(!dfree[d] && !(g != 0 && dfree[g]));   /* reads the records, until the section ends */
              assert(!dfree[d] && !(g != 0 && dfree[g]))
           fi
        :: else
        fi
     fi;
     atomic { insec[t] = 0; secno[t]++; n++; w = 0; w2 = 0; ka = 0; kb = 0; d = 0; g = 0; k = 0 }
  :: else -> break
  od
}

byte e, cur;            /* the last epoch, = the word */
byte ret[3]; byte nret; /* retired records */
bit  tombok;            /* a grace period has passed since the removal */
/* a grace period, abstract (grace.pml): membarrier, then every section that was open has ended */
inline GRACE() {
  atomic {
  MB(W);
  s0 = (insec[0] -> secno[0] : 255);
#if NR > 1
  s1 = (insec[1] -> secno[1] : 255);
#endif
  };
  (s0 == 255 || !insec[0] || secno[0] != s0);
#if NR > 1
  (s1 == 255 || !insec[1] || secno[1] != s1);
#endif
  d_step { s0 = 0; s1 = 0; hi = 0;
    do :: hi < nret -> dfree[ret[hi]] = 1; ret[hi] = 0; hi++ :: else -> break od; nret = 0; hi = 0; tombok = 1 }
}
inline RETIRE(rx) { d_step { ret[nret] = rx; nret++ } }
inline G(g1,g2,g3,g4) { d_step { gwh[e+1] = g1; gpl[e+1] = g2; gtg[e+1] = g3; gow[e+1] = g4; e++ } }
/* fill one detail slot and store the word, in the order under test */
inline PUB(px,pd_) {
#ifdef WORD_FIRST
  WST(W,WORD,e); DST(W,DET(px),pd_)
#else
  DST(W,DET(px),pd_); WST(W,WORD,e)
#endif
}
byte lastk;             /* the key that lies in the entry, also under a tombstone */
proctype writer() {
  byte n, s0, s1, old, k;
  do
  :: n < NOPS ->
     n++;
     if
     :: gow[e] != 0 && gtg[e] == 0 ->                       /* set */
        old = gpl[e];
#ifdef SLOT_SAME
        G(gwh[e], e+1, 0, gow[e]); PUB(gwh[e], e);
#else
        G(1-gwh[e], e+1, 0, gow[e]); PUB(gwh[e], e);
#endif
#ifdef EARLY_FREE
        FENCE(W); dfree[old] = 1
#else
        RETIRE(old)
#endif
     :: gow[e] != 0 && gtg[e] == 0 ->                       /* begin */
        G(gwh[e], gpl[e], e+1, gow[e]); PUB(1-gwh[e], e)
     :: gow[e] != 0 && gtg[e] != 0 ->                       /* complete: one word */
        old = gpl[e];
        G(1-gwh[e], gtg[e], 0, gow[e]); WST(W,WORD,e); RETIRE(old)
     :: gow[e] != 0 && gtg[e] != 0 ->                       /* abort: one word */
        old = gtg[e];
        G(gwh[e], gpl[e], 0, gow[e]); WST(W,WORD,e); RETIRE(old)
     :: gow[e] != 0 && gtg[e] == 0 ->                       /* remove: tombstone */
        old = gpl[e];
        G(0, 0, 0, 0); WST(W,WORD,e); RETIRE(old); tombok = 0
#ifdef NO_GRACE
     :: gow[e] == 0 ->
#else
     :: gow[e] == 0 && (e == 0 || tombok) ->                /* insert: empty, or tombstone after a grace period */
#endif
        if :: k = 1 :: k = 2 fi;
        lastk = k;
        G(0, e+1, 0, k);
#ifdef WORD_FIRST
        WST(W,WORD,e); KST(W,KEYA,KA(k)); KST(W,KEYB,KB(k)); DST(W,DET(0),e);
#else
        KST(W,KEYA,KA(k)); KST(W,KEYB,KB(k)); DST(W,DET(0),e); WST(W,WORD,e);
#endif
        k = 0
#ifdef OWN_KEY
     :: gow[e] == 0 && lastk != 0 ->                        /* the same key: nothing but det and word is stored */
        G(0, e+1, 0, lastk); DST(W,DET(0),e); WST(W,WORD,e)
#endif
     :: nret > 0 || (e > 0 && gow[e] == 0 && !tombok) -> n--; GRACE()
     fi;
     old = 0;
     if :: nret == 3 -> GRACE() :: else fi
  :: else -> break
  od
}
init { atomic { run reader(0);
#if NR > 1
  run reader(1);
#endif
  run writer() } }
