/* SPDX-License-Identifier: MIT
 * What a process may write into its registration, or do to it, and what `complete` makes of it: contents that are no
 * leases, ends in the future, files that are cut off, shapes that cannot be; and a barrier that fails. */
#include "fake_reader.h"

#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../writer/sigbus.h"

/* ---- lies -------------------------------------------------------------------------------------------------------- */

static void whatever_is_no_lease_counts_as_open(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 1, "p");
	fake_begin(p, &f, 0, 2, "p");
	atomic_store(&fake_slot(&f, 0, 1)->state, 0);
	atomic_store(&fake_slot(&f, 0, 2)->state, UINT64_MAX);
	atomic_store(&fake_array(&f, 0)->high, UINT32_MAX);
	atomic_store(&fake_array(&f, 1)->high, UINT32_MAX);
	memset(fake_slot(&f, 1, 0), 0xff, 8 * sizeof(struct shm_lease));
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 2, 0, 77);
	fake_done(&f, 0, 1);
	fake_done(&f, 0, 2);
	done(p, OP_COMPLETE, "p", NULL);
	fake_begin(p, &f, 0, 1, "p");
	atomic_store(&fake_slot(&f, 0, 1)->state, UINT64_MAX);
	fake_gone(p, &f);
	done(p, OP_BEGIN, "p", on("c1"));
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "reader-died", 0, WHOLE_MS, 77);
}

static void an_end_in_the_future_is_now(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	uint64_t never = (1ull << 48) - 1;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	start_moving(p, "q");
	fake_begin(p, &f, 0, 0, "p");
	fake_unknown(&f, 0, 0, never);
	done(p, OP_CUTOVER, "p", NULL);
	expect_until(p, "p", "unknown-outcome", WHOLE_MS, 77);
	atomic_store(&fake_array(&f, 0)->overflow_ms, UINT64_MAX);
	done(p, OP_CUTOVER, "q", NULL);
	expect_until(p, "q", "unknown-overflow", WHOLE_MS, 77);
	fake_begin(p, &f, 0, 1, "q");
	fake_unknown(&f, 0, 1, never);
	fake_gone(p, &f);
	cut_over(p, "r", on("c1"), on("c2"));
	expect_until(p, "r", "unknown-overflow", WHOLE_MS, 77);
}

static void a_file_that_is_cut_off_may_have_held_anything(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	sigbus_install(); /* cmocka has its own */
	fake_attach(p, &f, 4, 4096, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 3, 9, "p");
	assert_int_equal(ftruncate(f.fd, SHM_PAGE + 512), 0);
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "reader-without-leases", 0, WHOLE_MS, 77);
	fake_gone(p, &f);
	p->now_ms += 10;
	cut_over(p, "q", on("c1"), on("c2"));
	expect_until(p, "q", "reader-without-leases", WHOLE_MS, 0);
	fake_attach(p, &f, 1, 8, 78); /* the same slot, whole */
	p->now_ms += WHOLE_MS;
	cut_over(p, "r", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "r", NULL);
	fake_begin(p, &f, 0, 0, "r");
	assert_int_equal(ftruncate(f.fd, 0), 0);
	fake_gone(p, &f); /* cut off where nobody looked before it was gone */
	cut_over(p, "s", on("c1"), on("c2"));
	expect(p, "s", "reader-without-leases", 0, WHOLE_MS, 0);
}

static void a_shape_that_cannot_be_is_refused(void **state)
{
	struct core_place *p = *state;
	struct registry *registry = table_registry(core_table(p->core));
	const struct registry_peer peer = {.pid = 1, .uid = getuid(), .pidfd = -1};
	static const struct {
		uint32_t readers, leases;
		enum shm_writes writes;
		const char *path;
	} shapes[] = {{0, 8, SHM_WRITES_BRACKETED, "$.readers"},
		      {SHM_READERS_MAX + 1, 8, SHM_WRITES_BRACKETED, "$.readers"},
		      {1, 0, SHM_WRITES_BRACKETED, "$.leases"},
		      {1, SHM_LEASES_MAX + 1, SHM_WRITES_BRACKETED, "$.leases"},
		      {257, SHM_LEASES_MAX, SHM_WRITES_BRACKETED, "$.leases"},
		      {1, 8, SHM_WRITES_UNBRACKETED, "$.leases"},
		      {1, 8, SHM_WRITES_NONE, "$.leases"}};
	uint64_t attach;
	uint32_t slot;
	int fd;

	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct registry_wish wish = {
			.n_readers = shapes[i].readers, .n_leases = shapes[i].leases, .writes = shapes[i].writes};

		assert_code(registry_attach(registry, &peer, &wish, &fd, &slot, &attach, &p->r), R_INVALID);
		assert_string_equal(p->r.path, shapes[i].path);
	}
	assert_int_equal(registry_count(registry), 0);
}

/* ---- a barrier that fails ---------------------------------------------------------------------------------------- */

static int without_membarrier(struct core_place *p)
{
	struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	const struct sock_fprog program = {.len = 4, .filter = code};

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) != 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		return 2;
	cut_over(p, "q", on("c1"), on("c2"));
	p->now_ms += 1000000;
	return apply(p, OP_COMPLETE, "p", NULL) == R_DONE && apply(p, OP_COMPLETE, "q", NULL) == R_BARRIER_PENDING &&
			       strcmp(p->r.reason, "not-published") == 0 && force(p, OP_COMPLETE, "q", NULL) == R_DONE
		       ? 0
		       : 1;
}

static void without_a_barrier_nothing_is_published(void **state)
{
	struct core_place *p = *state;
	int status;
	pid_t pid;

	cut_over(p, "p", on("c1"), on("c2"));
	pid = fork();
	if (pid == 0)
		_exit(without_membarrier(p));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 2)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON(whatever_is_no_lease_counts_as_open, store_memory),
		CORE_ON(an_end_in_the_future_is_now, store_memory),
		CORE_ON(a_file_that_is_cut_off_may_have_held_anything, store_memory),
		CORE_ON(a_shape_that_cannot_be_is_refused, store_memory),
		CORE_ON(without_a_barrier_nothing_is_published, store_memory),
	};

	return cmocka_run_group_tests_name("drain-lies", tests, NULL, NULL);
}
