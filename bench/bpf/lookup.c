/* SPDX-License-Identifier: MIT
 * The workload `lookup`: programs of bpf/walk.bpf.c that take one key after the other from a long list and ask the
 * mirror, or the kernel's hash map, in turn; what a program costs that takes the keys and asks nobody is taken off. The
 * sums of the answers are checked. */
#include <stdio.h>
#include <string.h>

#include "../../bpf/answer.h"
#include "bpf.h"

#define RUNS_A_SAMPLE (1u << 21)
#define RUNS_QUICK (1u << 16)

enum asked { NOBODY, MIRROR, HASH_MAP, N_ASKED };

static const struct packet frame = {.n = 64};

static double measure(const struct bench *b, struct place *p, enum asked whom)
{
	const int programs[N_ASKED] = {bpf_program__fd(p->walk->progs.walk_nothing),
				       bpf_program__fd(p->walk->progs.walk_mirror),
				       bpf_program__fd(p->walk->progs.walk_map)};
	/* whole rounds of the list, so that the sum is known */
	uint64_t runs = b->quick ? RUNS_QUICK : RUNS_A_SAMPLE, passed, found, sum, expected;
	double ns;

	if (runs < p->n_keys)
		runs = p->n_keys;
	program_ns(programs[whom], &frame, (unsigned)p->n_keys / 8, NULL); /* warm */
	p->state->next = 0;
	p->state->sum = 0;
	memset(p->state->n_code, 0, sizeof(p->state->n_code));
	ns = program_ns(programs[whom], &frame, (unsigned)runs, NULL);
	found = p->state->n_code[BERTH_BPF_OK];
	passed = p->state->n_code[BERTH_BPF_PASS];
	sum = p->state->sum;
	if (found + passed != runs || passed > runs / 1000)
		fail("of %llu look-ups %llu were answered and %llu passed on", (unsigned long long)runs,
		     (unsigned long long)found, (unsigned long long)passed);
	expected = p->sum * (runs / p->n_keys);
	if (whom != NOBODY && passed == 0 && sum != expected)
		fail("the clusters add up to %llu, not %llu: the answers are wrong", (unsigned long long)sum,
		     (unsigned long long)expected);
	return ns;
}

static void measure_size(const struct bench *b, uint32_t n, unsigned len)
{
	struct figure mirror = {.workload = "lookup", .name = "look-up in a packet program", .unit = "ns"},
		      map = {.workload = "lookup", .name = "the kernel's hash map", .unit = "ns"},
		      ratio = {.workload = "lookup",
			       .name = "the kernel's hash map / look-up",
			       .unit = "ratio",
			       .goal = 1,
			       .at_least = true};
	static struct place p;

	if (!place_open(b, &p, n, len))
		return;
	place_unpin(&p);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) {
		double ns[N_ASKED];

		for (enum asked whom = NOBODY; whom < N_ASKED; whom++)
			ns[whom] = measure(b, &p, whom);
		add_sample(&mirror.s, ns[MIRROR] - ns[NOBODY]);
		add_sample(&map.s, ns[HASH_MAP] - ns[NOBODY]);
		add_sample(&ratio.s, (ns[HASH_MAP] - ns[NOBODY]) / (ns[MIRROR] - ns[NOBODY]));
	}
	pin_nowhere();
	if (n == 1000 && len == KEY_LEN)
		mirror.goal = 40;
	snprintf(mirror.parameters, sizeof(mirror.parameters), "partitions=%u bytes=%u", n, len);
	memcpy(map.parameters, mirror.parameters, sizeof(map.parameters));
	memcpy(ratio.parameters, mirror.parameters, sizeof(ratio.parameters));
	report(b, &mirror);
	report(b, &map);
	report(b, &ratio);
	place_close(&p);
}

void workload_lookup(const struct bench *b)
{
	static const uint32_t sizes[] = {1000, 100000, 1000000};

	for (unsigned i = 0; i < (b->quick ? 2 : 3); i++)
		measure_size(b, sizes[i], KEY_LEN);
	measure_size(b, sizes[0], MIRROR_KEY_MAX);
}
