/* SPDX-License-Identifier: MIT
 * old_kernel.h. */
#include "old_kernel.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define INSTRUCTIONS 65536u /* of a program, looked at */

static struct {
	pthread_mutex_t lock;
	struct old_kernel now;
	int error, fd;
} kernel = {.lock = PTHREAD_MUTEX_INITIALIZER, .error = EINVAL, .fd = -1};

void old_kernel_is(const struct old_kernel *k)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.now = *k;
	pthread_mutex_unlock(&kernel.lock);
}

void old_kernel_says(int error)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.error = error;
	pthread_mutex_unlock(&kernel.lock);
}

static bool read_from(pid_t pid, uint64_t at, void *to, size_t size)
{
	struct iovec local = {to, size}, remote = {(void *)(uintptr_t)at, size};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

static bool instruction_is_lacking(const struct old_kernel *k, uint32_t type, const struct bpf_insn *i)
{
	bool jumps = BPF_CLASS(i->code) == BPF_JMP || BPF_CLASS(i->code) == BPF_JMP32;

	switch (k->lack) {
	case LACKS_HELPER:
		return i->code == (BPF_JMP | BPF_CALL) && i->src_reg == 0 && (uint32_t)i->imm == k->what &&
		       type == k->where;
	case LACKS_FUNCTIONS:
		return i->code == (BPF_JMP | BPF_CALL) && i->src_reg == BPF_PSEUDO_CALL;
	case LACKS_LOOPS:
		return jumps && BPF_OP(i->code) != BPF_CALL && BPF_OP(i->code) != BPF_EXIT && i->off < 0;
	case LACKS_OPCODE:
		return i->code == (k->what & 0xff) && (i->imm & 0xff) == (int)(k->what >> 8);
	default:
		return false;
	}
}

/* What the verifier's log says of a helper that it does not have. */
static void tell_verifier(pid_t pid, const union bpf_attr *a, int function)
{
	char text[64];
	size_t size = (size_t)snprintf(text, sizeof(text), "unknown func #%d\n", function) + 1;
	struct iovec local = {text, size}, remote = {(void *)(uintptr_t)a->log_buf, size};

	if (a->log_level && a->log_size >= size)
		(void)!process_vm_writev(pid, &local, 1, &remote, 1, 0);
}

static bool program_is_lacking(const struct old_kernel *k, pid_t pid, const union bpf_attr *a, int error)
{
	static struct bpf_insn code[INSTRUCTIONS];
	uint32_t n = a->insn_cnt < INSTRUCTIONS ? a->insn_cnt : INSTRUCTIONS;

	if (k->lack == LACKS_PROGRAM_TYPE)
		return a->prog_type == k->what;
	if (k->lack < LACKS_HELPER || !read_from(pid, a->insns, code, n * sizeof(code[0])))
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (instruction_is_lacking(k, a->prog_type, &code[i])) {
			if (k->lack == LACKS_HELPER && error == EINVAL)
				tell_verifier(pid, a, code[i].imm);
			return true;
		}
	return false;
}

static bool is_lacking(const struct old_kernel *k, pid_t pid, const uint64_t args[6], int error)
{
	union bpf_attr a = {0};

	if (k->lack == LACKS_COMMAND)
		return args[0] == k->what;
	if (k->lack == LACKS_NOTHING || !read_from(pid, args[1], &a, args[2] < sizeof(a) ? args[2] : sizeof(a)))
		return false;
	switch (args[0]) {
	case BPF_MAP_CREATE:
		return (k->lack == LACKS_MAP_TYPE && a.map_type == k->what) ||
		       (k->lack == LACKS_MAP_FLAG && a.map_flags & k->what) ||
		       (k->lack == LACKS_VALUES_OF && a.map_type == k->where && a.value_size == k->what);
	case BPF_PROG_LOAD:
		return program_is_lacking(k, pid, &a, error);
	case BPF_PROG_ATTACH:
		return k->lack == LACKS_ATTACH_TYPE && a.attach_type == k->what;
	case BPF_LINK_CREATE:
		return k->lack == LACKS_ATTACH_TYPE && a.link_create.attach_type == k->what;
	}
	return false;
}

static void *answer(void *arg)
{
	struct seccomp_notif asked;
	struct seccomp_notif_resp says;

	(void)arg;
	for (;;) {
		struct old_kernel k;
		uint64_t args[6];
		int error;

		memset(&asked, 0, sizeof(asked));
		if (ioctl(kernel.fd, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) {
			if (errno == EINTR || errno == ENOENT) /* who asked was killed */
				continue;
			return NULL;
		}
		pthread_mutex_lock(&kernel.lock);
		k = kernel.now;
		error = kernel.error;
		pthread_mutex_unlock(&kernel.lock);
		for (int i = 0; i < 6; i++)
			args[i] = asked.data.args[i];
		says = (struct seccomp_notif_resp){.id = asked.id};
		if (is_lacking(&k, (pid_t)asked.pid, args, error))
			says.error = -error;
		else
			says.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(kernel.fd, SECCOMP_IOCTL_NOTIF_SEND, &says);
	}
}

const char *old_kernel_make(void)
{
	struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 0, 1),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	const struct sock_fprog filter = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
	static char why[128];
	pthread_t thread;

	kernel.fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
	if (kernel.fd < 0) {
		snprintf(why, sizeof(why), "no seccomp filter that asks can be had here: %s", strerror(errno));
		return why;
	}
	if (pthread_create(&thread, NULL, answer, NULL) != 0)
		abort(); /* the next bpf(2) would wait for ever */
	pthread_detach(thread);
	return NULL;
}
