/* SPDX-License-Identifier: MIT
 * The writer's table with a mirror in this process, for tests of the mirror: an instance in a directory of its own, with
 * clusters c1 (http://10.0.0.1:9200) and c2 (no endpoint). Pins and directory go with the test. One thread. */
#ifndef BERTH_TESTS_MIRROR_PLACE_H
#define BERTH_TESTS_MIRROR_PLACE_H

#include "../writer/table_internal.h"
#include "bpf_place.h"
#include "scratch.h"

struct mirror_place {
	struct scratch s;
	struct table *t;
	struct refusal why;
	char pins[320];
};

/* As OK of scratch.h, for a call that is given &p->why. */
#define MIRROR_OK(call) scratch_done((call), #call, &p->why)

/* As cmocka wants them. */
int mirror_place_make(void **state);
int mirror_place_remove(void **state);
#define MIRROR_TEST(test) cmocka_unit_test_setup_teardown(test, mirror_place_make, mirror_place_remove)
/* The first line of a test: ends it with SKIP when BPF does not work here. */
void mirror_place_needed(const struct mirror_place *);
/* A new writer, whose store is empty. */
void mirror_place_up(struct mirror_place *, bool bpf);
/* One change, as the core makes it; key NULL: the default. */
void mirror_place_put(struct mirror_place *, const char *key, enum word_phase, const struct shm_detail *at,
		      const struct shm_detail *to);
const struct shm_detail *mirror_place_on(unsigned cluster); /* dedicated-cluster, 1 or 2 */
/* A whole compare, which must find no difference. */
void mirror_place_compare(struct mirror_place *);

#endif
