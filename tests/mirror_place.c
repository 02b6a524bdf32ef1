/* SPDX-License-Identifier: MIT
 * mirror_place.h. */
#include "mirror_place.h"

#include <stdlib.h>

#include "child.h"
#include "left_over.h"

void mirror_place_up(struct mirror_place *p, bool bpf)
{
	const struct table_options o = {.barrier_ms = 30000, .bpf = bpf};
	uint64_t epoch = 0;

	MIRROR_OK(table_open(&p->s.instance, &o, &p->t, &p->why));
	if (table_previous(p->t))
		epoch = atomic_load_explicit(&table_previous(p->t)->table->epoch, memory_order_relaxed);
	MIRROR_OK(table_build(p->t, 10, &p->why));
	table_load_counters(p->t, epoch, 1, 0, 0);
	MIRROR_OK(table_load_cluster(p->t, 1, "c1", "http://10.0.0.1:9200", &p->why));
	MIRROR_OK(table_load_cluster(p->t, 2, "c2", "", &p->why));
	MIRROR_OK(table_flip(p->t, &p->why));
}

int mirror_place_make(void **state)
{
	struct mirror_place *p = calloc(1, sizeof(*p));

	*state = p;
	if (bpf_unable())
		return 0;
	scratch_open(&p->s);
	mirror_path(p->s.path, p->pins, sizeof(p->pins));
	left_over_put(p->pins);
	mirror_place_up(p, true);
	return 0;
}

int mirror_place_remove(void **state)
{
	struct mirror_place *p = *state;

	table_close(&p->t);
	if (p->s.path[0])
		scratch_close(&p->s);
	if (p->pins[0]) {
		remove_tree(p->pins);
		left_over_forget(p->pins);
	}
	free(p);
	return 0;
}

void mirror_place_needed(const struct mirror_place *p)
{
	if (bpf_unable())
		SKIP("%s", bpf_unable());
	if (table_mirror_off(p->t))
		fail_msg("the mirror is off: %s", table_mirror_off(p->t));
}

static union detail_buffer details[2];
const struct shm_detail *mirror_place_on(unsigned cluster)
{
	assert_int_equal(detail_start(&details[cluster - 1], KIND_DEDICATED_CLUSTER, cluster, NULL, 0), BERTH_OK);
	detail_finish(&details[cluster - 1]);
	return &details[cluster - 1].detail;
}

void mirror_place_put(struct mirror_place *p, const char *key, enum word_phase phase, const struct shm_detail *at,
		      const struct shm_detail *to)
{
	struct table_change c = {
		.key = key, .len = key ? strlen(key) : 0, .after = {.phase = phase, .at = at, .to = to}};

	MIRROR_OK(table_reserve(p->t, &c, &p->why));
	c.after.epoch = table_take_epoch(p->t);
	table_publish(p->t, &c);
}

void mirror_place_compare(struct mirror_place *p)
{
	uint64_t run = table_compare(p->t), deadline = 0;

	while (table_compared(p->t)->run < run && within(&deadline))
		table_step(p->t, 100000);
	if (table_compared(p->t)->run < run || table_compared(p->t)->n_differ)
		fail_msg("table and mirror differ in %llu entries, first %.*s",
			 (unsigned long long)table_compared(p->t)->n_differ, (int)table_compared(p->t)->first_len,
			 table_compared(p->t)->first);
}
