/* SPDX-License-Identifier: MIT
 * libberth's attaching and its refusals, upkeep over dead, new and replaced writers, fork, and threads; against the
 * writer's own table and a stand-in for its daemon. */
#include "reader_place.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"

/* ---- attaching ----------------------------------------------------------------------------------------------- */

static void attach_says_what_is_wrong(void **state)
{
	struct reader_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = 10000};
	static const struct {
		enum answers how;
		int code;
	} cases[] = {{ANSWER_LIMIT, BERTH_E_FULL},          {ANSWER_DENIED, BERTH_E_PERMISSION},
		     {ANSWER_RUBBISH, BERTH_E_PROTOCOL},    {ANSWER_NO_FD, BERTH_E_PROTOCOL},
		     {ANSWER_OLD_CLOCK, BERTH_E_CLOCK},     {ANSWER_FUTURE_CLOCK, BERTH_E_CLOCK},
		     {ANSWER_OTHER_UUID, BERTH_E_PROTOCOL}, {ANSWER_FEW_LINES, BERTH_E_PROTOCOL}};
	struct berth *b = NULL;
	uint64_t root_abi;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		serve(p, cases[i].how);
		assert_null(attach_with(p, &o, cases[i].code));
	}
	o.writes = BERTH_WRITES_BRACKETED;
	serve(p, ANSWER_FEW_LEASES);
	attach_with(p, &o, BERTH_E_PROTOCOL);
	serve(p, ANSWER_LEASES_OUTSIDE);
	attach_with(p, &o, BERTH_E_PROTOCOL);
	o.max_leases = BERTH_MAX_LEASES + 1;
	attach_with(p, &o, BERTH_E_INVAL);
	o.max_leases = BERTH_MAX_LEASES; /* times readers: more than a registration has */
	o.max_readers = 257;
	attach_with(p, &o, BERTH_E_INVAL);
	o = (struct berth_attach_options){.size = sizeof o, .max_leases = 1};
	attach_with(p, &o, BERTH_E_INVAL);
	o = (struct berth_attach_options){.size = sizeof o, .writes = BERTH_WRITES_NONE + 1};
	attach_with(p, &o, BERTH_E_INVAL);
	o = (struct berth_attach_options){.size = sizeof o, .max_readers = BERTH_MAX_READERS + 1};
	attach_with(p, &o, BERTH_E_INVAL);
	o = (struct berth_attach_options){.size = sizeof o, .reserved = {1}};
	attach_with(p, &o, BERTH_E_INVAL);
	assert_int_equal(berth_attach("/nonexistent/x", NULL, &b), BERTH_E_NO_INSTANCE);
	assert_int_equal(berth_attach("bad name", NULL, &b), BERTH_E_INVAL);
	assert_int_equal(berth_attach(p->dir, NULL, NULL), BERTH_E_INVAL);
	root_abi = p->root->abi;
	p->root->abi++;
	attach_with(p, NULL, BERTH_E_ABI);
	p->root->abi = (uint32_t)root_abi;
	assert_int_equal(chmod(p->dir, 0777), 0);
	attach_with(p, NULL, BERTH_E_UNSAFE);
	assert_int_equal(chmod(p->dir, 0750), 0);
}

static void attach_waits_no_longer_than_it_was_told(void **state)
{
	struct reader_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = 100};
	uint64_t start;
	struct berth *b;

	serve(p, ANSWER_NOTHING);
	start = seg_clock_ms(CLOCK_MONOTONIC);
	b = attach_with(p, &o, BERTH_OK);
	assert_in_range(seg_clock_ms(CLOCK_MONOTONIC) - start, 100, 5000);
	assert_int_equal(berth_maintain(b), BERTH_E_WRITER_DOWN);
	close_all(b, NULL);
	o.wait_ms = BERTH_NO_WAIT;
	start = seg_clock_ms(CLOCK_MONOTONIC);
	b = attach_with(p, &o, BERTH_OK);
	assert_in_range(seg_clock_ms(CLOCK_MONOTONIC) - start, 0, 90);
	close_all(b, NULL);
}

static void readers_are_counted_and_reused(void **state)
{
	struct reader_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .max_readers = 2, .wait_ms = 10000};
	struct berth_reader *r[3] = {NULL};
	struct berth *b;

	serve(p, ANSWER_REGISTER);
	b = attach_with(p, &o, BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r[0]), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r[1]), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r[2]), BERTH_E_FULL);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY);
	berth_reader_close(&r[0]);
	assert_int_equal(berth_reader_open(b, &r[2]), BERTH_OK);
	berth_reader_close(&r[1]);
	berth_reader_close(&r[1]); /* null: nothing */
	berth_reader_close(&r[2]);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	assert_null(b);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

/* ---- upkeep -------------------------------------------------------------------------------------------------- */

static void copying_reader_is_made_whole_at_an_outermost_section(void **state)
{
	struct reader_place *p = *state;
	uint64_t epoch = place_set(p, "acme", 1, "a");
	struct berth *b = copying(p);
	struct berth_reader *r = opened(b);
	struct berth_placement l;

	assert_int_equal(berth_maintain_fd(b), -1);
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_OK);
	serve(p, ANSWER_REGISTER);
	maintain_until(b, BERTH_OK);
	assert_true(berth_maintain_fd(b) >= 0);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_E_WRITER_DOWN); /* this section began without */
	assert_string_equal(l.index, "a");
	berth_read_end(r);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	assert_int_equal(atomic_load(&line_of(p, 0)->in_use), 1);
	close_all(b, r);
}

static void registration_and_gate_outlive_the_writer(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	uint64_t epoch = place_set(p, "acme", 1, "a");

	stop_serving(p);
	maintain_until(b, BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	restart_writer(p);
	serve(p, ANSWER_REGISTER);
	maintain_until(b, BERTH_OK);
	assert_int_equal(atomic_load(&p->n_attached), 1);
	assert_int_equal(atomic_load(&p->n_reattached), 1);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	close_all(b, r);
}

static void registration_that_the_writer_forgot_is_replaced(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	uint64_t epoch = place_set(p, "acme", 1, "a");

	stop_serving(p);
	maintain_until(b, BERTH_E_WRITER_DOWN);
	serve(p, ANSWER_UNKNOWN);
	maintain_until(b, BERTH_OK);
	assert_int_equal(atomic_load(&p->n_attached), 2);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	assert_int_equal(atomic_load(&line_of(p, 0)->in_use), 1);
	close_all(b, r);
}

static void reader_follows_to_the_instance_that_replaced_its_own(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	struct shm_root *old = p->root;
	struct berth_route at;
	uint64_t epoch;
	int fd = open(p->dir, O_RDONLY | O_CLOEXEC), root = openat(fd, "root", O_RDWR | O_CLOEXEC);

	place_set(p, "acme", 1, "a");
	place_set(p, "acme", 1, "b");
	old = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, root, 0);
	assert_true(old != MAP_FAILED);
	stop_serving(p);
	replace_directory(p);
	epoch = place_set(p, "acme", 2, "c");
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(at.cluster, 1); /* nobody has told it yet */
	atomic_store(&old->heartbeat_ms, seg_clock_ms(CLOCK_BOOTTIME) - 10000);
	serve(p, ANSWER_REGISTER);
	maintain_until(b, BERTH_OK);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(at.cluster, 2);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	munmap(old, SHM_PAGE);
	close(root);
	close(fd);
	close_all(b, r);
}

/* ---- fork, threads ------------------------------------------------------------------------------------------- */

static int in_child(struct berth *b, struct berth_reader *r)
{
	struct berth_route at;
	struct berth_placement l;
	struct berth_reader *other;
	int status;

	if (berth_route(r, KEY("acme"), &at) != BERTH_E_FORKED || berth_admit(r, KEY("acme"), 1) != BERTH_E_FORKED)
		return 1;
	berth_read_begin(r);
	if (berth_lookup(r, KEY("acme"), &l) != BERTH_E_FORKED)
		return 2;
	berth_read_end(r);
	if (berth_route_bulk(r, &(struct berth_key){"acme", 4}, 1, &at, &status) != BERTH_E_FORKED ||
	    status != BERTH_E_FORKED)
		return 3;
	if (berth_maintain(b) != BERTH_E_FORKED || berth_maintain_fd(b) != -1)
		return 4;
	if (berth_reader_open(b, &other) != BERTH_E_FORKED)
		return 5;
	berth_reader_close(&r);
	return berth_detach(&b) == BERTH_OK && !b ? 0 : 6;
}

static void forked_child_is_refused_and_touches_nothing(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b), *other = opened(b);
	struct berth_route at;
	int status;
	pid_t pid;

	if (!fork_wipes())
		skip();
	place_set(p, "acme", 1, "a");
	berth_read_begin(r);
	pid = fork();
	if (pid == 0)
		_exit(in_child(b, r));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_not_equal(atomic_load(&line_of(p, 0)->section), 0);
	assert_int_equal(atomic_load(&line_of(p, 0)->in_use), 1);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(berth_maintain(b), BERTH_OK);
	berth_read_end(r);
	berth_reader_close(&other);
	close_all(b, r);
}

/* What ended children of this process have cost. The one that an attach sends to the processors (shm/grace.c) is no other
 * child of ours, so it counts here alone. */
static long faults_of_children(void)
{
	struct rusage u;

	return getrusage(RUSAGE_CHILDREN, &u) == 0 ? u.ru_minflt : -1;
}

static int attach_twice(const char *dir)
{
	struct berth *first = NULL, *second = NULL;
	long before = faults_of_children(), between, after;

	if (berth_attach(dir, NULL, &first) != BERTH_OK)
		return 1;
	between = faults_of_children();
	if (berth_attach(dir, NULL, &second) != BERTH_OK)
		return 2;
	after = faults_of_children();
	berth_detach(&first);
	berth_detach(&second);
	return between == before ? 3 : after != between ? 4 : 0;
}

/* A visit waits for its turn on every processor: milliseconds, where they are busy. */
static void a_process_visits_the_processors_at_its_first_attach_alone(void **state)
{
	struct reader_place *p = *state;
	int status;
	pid_t pid;

	if (grace_register() != 0 || grace_barrier() != 0) {
		printf("SKIP: membarrier is refused to this process\n");
		skip();
	}
	pid = fork(); /* an address space that nobody has registered yet */
	if (pid == 0)
		_exit(attach_twice(p->dir));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

struct looker {
	pthread_t thread;
	struct berth *b;
	_Atomic bool *stop;
	uint64_t n, wrong;
};

/* The index name of "relay" is the number of its cluster: a mix of two placements would show. */
static void *look(void *arg)
{
	struct looker *l = arg;
	struct berth_reader *r = NULL;

	if (berth_reader_open(l->b, &r) != BERTH_OK)
		return NULL;
	while (!atomic_load_explicit(l->stop, memory_order_relaxed)) {
		struct berth_placement at;
		uint64_t last = 0;

		berth_read_begin(r);
		for (unsigned i = 0; i < 3; i++) {
			int rc = berth_lookup(r, KEY("relay"), &at);

			l->wrong += rc != BERTH_OK || at.index_len != 1 || at.index[0] != '0' + at.cluster ||
				    at.epoch < last;
			last = at.epoch;
		}
		berth_read_end(r);
		l->n++;
	}
	berth_reader_close(&r);
	return NULL;
}

static void threads_see_old_or_new_never_a_mix_over_changes_and_restarts(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	_Atomic bool stop = false;
	struct looker l[3] = {0};

	place_set(p, "relay", 1, "1");
	for (unsigned i = 0; i < 3; i++) {
		l[i].b = b;
		l[i].stop = &stop;
		assert_int_equal(pthread_create(&l[i].thread, NULL, look, &l[i]), 0);
	}
	for (unsigned i = 0; i < 2000; i++) {
		place_set(p, "relay", 1 + i % 2, i % 2 ? "2" : "1");
		reclaim(p); /* what no section holds */
		if (i % 100 == 99)
			restart_writer(p);
		if (i % 50 == 0)
			assert_int_equal(berth_maintain(b), BERTH_OK);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(l[i].thread, NULL);
		assert_true(l[i].n > 0);
		assert_int_equal(l[i].wrong, 0);
	}
	close_all(b, NULL);
}

#if defined(__SANITIZE_THREAD__)
#define WATCHED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WATCHED 1
#endif
#endif

/* Key i is placed on cluster c at index "i-c", so that whatever is put together from two of them shows. */
static void *look_at_copies(void *arg)
{
	struct looker *l = arg;
	struct berth_reader *r = NULL;

	if (berth_reader_open(l->b, &r) != BERTH_OK)
		return NULL;
	for (unsigned i = 0; !atomic_load_explicit(l->stop, memory_order_relaxed); i = (i + 1) % 8) {
		char key[64], index[16];
		struct berth_placement at;
		struct berth_cluster c;
		int rc;

		snprintf(key, sizeof key, i % 2 ? "key-%u" : "a-key-that-does-not-fit-into-an-entry-%u-at-all", i);
		berth_read_begin(r);
		rc = berth_lookup(r, KEY(key), &at);
		if (rc == BERTH_OK) {
			snprintf(index, sizeof index, "%u-%u", i, at.cluster);
			l->wrong += strcmp(at.index, index) != 0;
			l->wrong += berth_cluster(r, at.cluster, &c) != BERTH_OK || c.id[1] != '0' + at.cluster;
			l->n++;
		} else {
			l->wrong += rc != BERTH_E_UNKNOWN;
		}
		berth_read_end(r);
	}
	berth_reader_close(&r);
	return NULL;
}

static void copies_are_whole_though_memory_is_reused_under_them(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = copying(p);
	_Atomic bool stop = false;
	struct looker l[2] = {{.b = b, .stop = &stop}, {.b = b, .stop = &stop}};

#ifdef WATCHED
	skip(); /* the writer is another process to the reader, but not to ThreadSanitizer */
#endif
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&l[i].thread, NULL, look_at_copies, &l[i]), 0);
	for (unsigned n = 0; n < 6000; n++) {
		unsigned i = n * 2654435761u >> 29, cluster = 1 + (n >> 7) % 2;
		char key[64], index[16];

		snprintf(key, sizeof key, i % 2 ? "key-%u" : "a-key-that-does-not-fit-into-an-entry-%u-at-all", i);
		snprintf(index, sizeof index, "%u-%u", i, cluster);
		if (n % 3 == 2 && place_is_set(p, key))
			place_remove(p, key);
		else
			place_set(p, key, cluster, index);
		reclaim(p);
		if (n % 1000 == 999)
			restart_writer(p);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(l[i].thread, NULL);
		assert_true(l[i].n > 0);
		assert_int_equal(l[i].wrong, 0);
	}
	close_all(b, NULL);
}

static void every_code_has_a_text(void **state)
{
	(void)state;
	for (int code = BERTH_E_NOT_OWNER; code <= 0; code++)
		assert_string_not_equal(berth_strerror(code), berth_strerror(1));
	assert_non_null(strchr(berth_version(), '.'));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(attach_says_what_is_wrong),
		IN_PLACE(attach_waits_no_longer_than_it_was_told),
		IN_PLACE(readers_are_counted_and_reused),
		IN_PLACE(copying_reader_is_made_whole_at_an_outermost_section),
		IN_PLACE(registration_and_gate_outlive_the_writer),
		IN_PLACE(registration_that_the_writer_forgot_is_replaced),
		IN_PLACE(reader_follows_to_the_instance_that_replaced_its_own),
		IN_PLACE(forked_child_is_refused_and_touches_nothing),
		IN_PLACE(a_process_visits_the_processors_at_its_first_attach_alone),
		IN_PLACE(threads_see_old_or_new_never_a_mix_over_changes_and_restarts),
		IN_PLACE(copies_are_whole_though_memory_is_reused_under_them),
		cmocka_unit_test(every_code_has_a_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
