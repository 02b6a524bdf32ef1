/* SPDX-License-Identifier: MIT
 * A kernel that lacks something of BPF, for the calling thread and all that it starts from then on: a seccomp filter hands
 * their calls of bpf(2) to a thread of this program, which reads what is asked and has the kernel answer EINVAL, as a
 * kernel does that does not know of it; everything else goes on to the kernel. Root. */
#ifndef BERTH_TESTS_OLD_KERNEL_H
#define BERTH_TESTS_OLD_KERNEL_H

#include <stdint.h>

enum old_kernel_lack {
	LACKS_NOTHING,
	LACKS_COMMAND,      /* what: of enum bpf_cmd */
	LACKS_MAP_TYPE,     /* what: of enum bpf_map_type */
	LACKS_MAP_FLAG,     /* what: BPF_F_... */
	LACKS_VALUES_OF,    /* what: size in bytes; where: the type of map */
	LACKS_PROGRAM_TYPE, /* what: of enum bpf_prog_type */
	LACKS_ATTACH_TYPE,  /* what: of enum bpf_attach_type, in attaching and linking */
	LACKS_HELPER,       /* what: of enum bpf_func_id; where: the type of program */
	LACKS_OPCODE,       /* what: opcode and the immediate's low byte << 8, as of an atomic that fetches */
	LACKS_LOOPS,        /* jumps backwards */
	LACKS_FUNCTIONS     /* calls from program to program */
};
struct old_kernel {
	enum old_kernel_lack lack;
	uint32_t what, where;
};

/* Once, by the thread that is to have it. NULL, or why it cannot be had. */
const char *old_kernel_make(void);
/* From now on; LACKS_NOTHING to begin with. */
void old_kernel_is(const struct old_kernel *);
/* What the calls that it does not know end with: EINVAL to begin with; another one is no kernel's way to say so. */
void old_kernel_says(int error);

#endif
