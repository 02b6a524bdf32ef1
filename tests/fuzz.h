/* SPDX-License-Identifier: MIT
 * What the libFuzzer targets share. */
#ifndef BERTH_TESTS_FUZZ_H
#define BERTH_TESTS_FUZZ_H

#include <sanitizer/lsan_interface.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer keeps the input of an abort, and the log of the target what did not hold. */
#define HOLDS(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

/* For targets that keep something between two inputs: libFuzzer would look for leaks after each that allocated more than it
 * freed, which takes a second. They look themselves, when all is closed (fuzz_no_leak). */
int LLVMFuzzerInitialize(int *argc, char ***argv);
static inline int fuzz_keeps_state(int *argc, char ***argv)
{
	static char flag[] = "-detect_leaks=0";
	char **more = malloc(((size_t)*argc + 2) * sizeof(*more));

	HOLDS(more && *argc);
	more[0] = (*argv)[0];
	more[1] = flag;
	memcpy(more + 2, *argv + 1, (size_t)*argc * sizeof(*more)); /* and the NULL */
	++*argc;
	*argv = more;
	return 0;
}

static inline void fuzz_no_leak(void)
{
	HOLDS(__lsan_do_recoverable_leak_check() == 0);
}

/* Where a target keeps files: a directory that goes with the process, also when that ends with a finding, after which none
 * of its own code runs. */
static inline const char *fuzz_home(void)
{
	static char home[] = "/dev/shm/berth-fuzz-XXXXXX", command[100];
	static FILE *remover; /* its input ends when we do */

	if (!remover) {
		HOLDS(mkdtemp(home));
		snprintf(command, sizeof(command), "trap '' HUP INT TERM; read nothing; rm -rf %s", home);
		HOLDS((remover = popen(command, "we")));
	}
	return home;
}

/* The input, from its front. What is not there any more reads as zeros. */
struct fuzz_input {
	const unsigned char *at;
	size_t left;
};

static inline unsigned fuzz_u8(struct fuzz_input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint64_t fuzz_bytes(struct fuzz_input *in, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)fuzz_u8(in) << i * 8;
	return v;
}

/* Up to n bytes; *len says how many there were. */
static inline const unsigned char *fuzz_take(struct fuzz_input *in, size_t n, size_t *len)
{
	const unsigned char *at = in->at;

	*len = n < in->left ? n : in->left;
	in->at += *len;
	in->left -= *len;
	return at;
}

/* A copy of its own, whose end AddressSanitizer watches; free() it. */
static inline char *fuzz_copy(const void *bytes, size_t n)
{
	char *copy = malloc(n + !n);

	HOLDS(copy);
	memcpy(copy, bytes, n);
	return copy;
}

#endif
