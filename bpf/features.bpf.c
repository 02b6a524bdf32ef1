/* SPDX-License-Identifier: MIT
 * Tries of what the verifier can do (features.c): a program for each, loaded alone and never attached, of the oldest type.
 * Whatever one needs besides its subject is older than that. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("socket")
int loops(struct __sk_buff *ctx)
{
	__u32 n = ctx->len & 15, sum = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < n; i++) {
		asm volatile("" : "+r"(sum)); /* else the compiler knows a formula */
		sum += i;
	}
	return sum > 1000;
}

struct number {
	__u64 n;
};

__noinline int set_number(struct number *to, __u32 n)
{
	if (!to)
		return 0;
	to->n = n;
	return 1;
}

SEC("socket")
int pointers(struct __sk_buff *ctx)
{
	struct number number = {};

	return set_number(&number, ctx->len) && number.n > 1000;
}

SEC("socket")
int atomics(struct __sk_buff *ctx)
{
	__u64 number = ctx->len;

	return __sync_lock_test_and_set(&number, 1) == 2 || __sync_val_compare_and_swap(&number, 1, 3) == 2;
}
