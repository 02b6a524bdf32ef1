/* SPDX-License-Identifier: MIT
 * Is the memory of these models a machine's? The litmus tests that are published for x86-TSO and ARMv8, by -DARM with
 * weak.h, else with tso.h. A row that must pass is an outcome that the machine forbids, one that must fail is allowed
 * there, and seen here. -DTEST names the test, more flags what is in it beside plain loads and stores. */
#define NT 4
#define K 2
#define NA 2
#define X 0
#define Y 1
byte r[6]; /* what was loaded */
#define ON_LATE(t, a) r[t] = mem[a]
#include "tso.h"

#define SB 1
#define MP 2
#define LB 3
#define S 4
#define CORR 5
#define TWO 6 /* 2+2W */
#define WRC 7
#define IRIW 8
#ifdef REL
#define PUBLISH STR
#else
#define PUBLISH ST
#endif
#ifdef ACQ
#define LOOK LDA
#else
#define LOOK LD
#endif
#ifdef DMB0 /* between the two of a thread that stores first, or of the first thread */
#define FENCE0(t) FENCE(t)
#else
#define FENCE0(t) skip
#endif
#ifdef DMB1
#define FENCE1(t) FENCE(t)
#elif defined(DMBLD)
#define FENCE1(t) AFENCE(t)
#else
#define FENCE1(t) skip
#endif
byte done;
#define END d_step { done++ }

proctype T0() {
#if TEST == SB
	ST(0, X, 1);
#ifdef MEMBARRIER
	MB(0);
#else
	FENCE0(0);
#endif
	LOOK(0, Y, r[0]);
#elif TEST == LB
	LDL(0, X); FENCE0(0); PUBLISH(0, Y, 1);
#elif TEST == CORR
	ST(0, X, 1);
#elif TEST == TWO
	ST(0, X, 1); FENCE0(0); PUBLISH(0, Y, 2);
#elif TEST == S
	ST(0, X, 2); FENCE0(0); PUBLISH(0, Y, 1);
#elif TEST == WRC || TEST == IRIW
	ST(0, X, 1);
#else
	ST(0, X, 1); FENCE0(0); PUBLISH(0, Y, 1);
#endif
	END
}
proctype T1() {
#if TEST == SB
#ifdef REL
	STR(1, Y, 1);
#else
	ST(1, Y, 1);
#endif
	FENCE1(1); LOOK(1, X, r[1]);
#elif TEST == LB
	LDL(1, Y); FENCE1(1); PUBLISH(1, X, 1);
#elif TEST == CORR
	LD(1, X, r[0]); LD(1, X, r[1]);
#elif TEST == TWO
	ST(1, Y, 1); FENCE1(1); PUBLISH(1, X, 2);
#elif TEST == S
	LOOK(1, Y, r[0]); ST(1, X, 1);
#elif TEST == WRC
	LD(1, X, r[0]); PUBLISH(1, Y, 1);
#elif TEST == IRIW
	ST(1, Y, 1);
#else
	LOOK(1, Y, r[0]); FENCE1(1); LD(1, X, r[1]);
#endif
	END
}
proctype T2() {
#if TEST == WRC
	LOOK(2, Y, r[1]); LD(2, X, r[2]);
#elif TEST == IRIW
	LOOK(2, X, r[0]); FENCE1(2); LD(2, Y, r[1]);
#endif
	END
}
proctype T3() {
#if TEST == IRIW
	LOOK(3, Y, r[2]); FENCE1(3); LD(3, X, r[3]);
#endif
	END
}
#if TEST == SB
#define OUTCOME (r[0] == 0 && r[1] == 0)
#elif TEST == MP
#define OUTCOME (r[0] == 1 && r[1] == 0)
#elif TEST == LB
#define OUTCOME (r[0] == 1 && r[1] == 1)
#elif TEST == S
#define OUTCOME (r[0] == 1 && mem[X] == 2)
#elif TEST == CORR
#define OUTCOME (r[0] == 1 && r[1] == 0)
#elif TEST == TWO
#define OUTCOME (mem[X] == 1 && mem[Y] == 1)
#elif TEST == WRC
#define OUTCOME (r[0] == 1 && r[1] == 1 && r[2] == 0)
#else
#define OUTCOME (r[0] == 1 && r[1] == 0 && r[2] == 1 && r[3] == 0)
#endif
init {
	atomic { run T0(); run T1(); run T2(); run T3() }
	d_step { done == 4 && !bn[0] && !bn[1] && !bn[2] && !bn[3] -> assert(!OUTCOME) }
}
