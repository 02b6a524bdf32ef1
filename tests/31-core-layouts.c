/* SPDX-License-Identifier: MIT
 * A writer of another layout than the last one: an update of berth, or the way back. With a store that keeps what the
 * table holds it takes over, and the gates of the last layout's readers close; with one that keeps nothing it refuses and
 * leaves all as it was. Whoever is refused, or dies in between, is followed by one that starts. */
#include "core_place.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* As a reader that keeps it mapped has it. */
static struct shm_root *map_root(const struct core_place *p)
{
	char path[128];
	struct shm_root *root;
	int fd;

	snprintf(path, sizeof path, "%s/root", p->dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	root = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(root != MAP_FAILED);
	close(fd);
	return root;
}

static void unmap_root(struct shm_root *root)
{
	munmap(root, SHM_PAGE);
}

/* From now on it is another layout's; the daemon is down. */
static struct shm_root *of_another_layout(struct core_place *p)
{
	struct shm_root *root = map_root(p);

	root->abi++;
	return root;
}

static void it_takes_over_and_the_old_gates_close(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));
	uint32_t term = table_term(core_table(p->core));
	struct shm_root *old;

	down(p);
	old = of_another_layout(p);
	up(p);
	assert_int_equal(old->superseded, 1);
	assert_at(p, "p", on("c1"));
	assert_int_equal(epoch_of(p, "p"), epoch);
	assert_true(done(p, OP_SET, "p", ix("c1", "i")) > epoch);
	assert_true(table_term(core_table(p->core)) > term);
	restart(p); /* the store knows the new one */
	assert_at(p, "p", ix("c1", "i"));
	unmap_root(old);
}

static void one_that_gets_not_so_far_as_to_tell_the_store_is_followed_by_one_that_starts(void **state)
{
	struct core_place *p = *state;
	struct shm_root *old, *middle;

	done(p, OP_SET, "p", on("c1"));
	down(p);
	old = of_another_layout(p);
	next_commit = FAULT_FAILED;
	assert_code(try_up(p), R_BACKEND);
	assert_int_equal(old->superseded, 1);
	middle = of_another_layout(p); /* and once more, before the store has heard of the first */
	next_commit = FAULT_FAILED;
	assert_code(try_up(p), R_BACKEND);
	assert_int_equal(middle->superseded, 1);
	next_commit = FAULT_FAILED;
	assert_code(try_up(p), R_BACKEND);
	up(p);
	assert_at(p, "p", on("c1"));
	restart(p);
	assert_at(p, "p", on("c1"));
	unmap_root(old);
	unmap_root(middle);
}

static void one_that_is_refused_leaves_the_gates_open(void **state)
{
	struct core_place *p = *state;
	struct shm_root *old;

	done(p, OP_SET, "p", on("c1"));
	down(p);
	old = of_another_layout(p);
	old->uuid[0] ^= 1; /* not the one that the store knows */
	assert_code(try_up(p), R_INVALID);
	assert_int_equal(old->superseded, 0);
	old->uuid[0] ^= 1;
	old->abi--;
	up(p);
	assert_at(p, "p", on("c1"));
	assert_int_equal(old->superseded, 0);
	unmap_root(old);
}

static void with_a_store_that_keeps_nothing_it_refuses_and_leaves_all(void **state)
{
	struct core_place *p = *state;
	struct shm_root *old;
	char *before, *after;

	done(p, OP_SET, "p", on("c1"));
	before = everything(p);
	down(p);
	old = of_another_layout(p);
	assert_code(try_up(p), R_BACKEND);
	assert_non_null(strstr(p->r.message, "--new-directory"));
	assert_int_equal(old->superseded, 0);
	old->abi--;
	old->magic++; /* as little is known of one that is damaged */
	assert_code(try_up(p), R_BACKEND);
	old->magic--;
	up(p);
	after = everything(p);
	assert_string_equal(before, after);
	down(p);
	old->abi++;
	p->new_directory = true;
	up(p);
	assert_int_equal(old->superseded, 1);
	assert_at(p, "p", NULL);
	unmap_root(old);
	free(before);
	free(after);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON(it_takes_over_and_the_old_gates_close, store_sqlite),
		CORE_ON(one_that_gets_not_so_far_as_to_tell_the_store_is_followed_by_one_that_starts, store_sqlite),
		CORE_ON(one_that_is_refused_leaves_the_gates_open, store_sqlite),
		CORE_ON(with_a_store_that_keeps_nothing_it_refuses_and_leaves_all, store_memory),
	};

	return cmocka_run_group_tests_name("core over layouts", tests, NULL, NULL);
}
