/* SPDX-License-Identifier: MIT
 * Reader processes that are killed, stopped, forked, replaced by exec, or come and go, against the real daemon: what
 * they may still see is not reused, and as soon as they are proved gone nothing of theirs is left. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mp_place.h"

#define N_KEYS 1000u
#define N_HELD 200u
#define FREED_MS 5000u /* from the proof of a death to the last byte */

static struct { /* between the test and its one child */
	_Atomic uint32_t step;
	char wrong[240];
} * shared;
static pid_t child;

static int setup(void **state)
{
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = 0;
	return shared == MAP_FAILED ? -1 : mp_setup(state);
}

static int teardown(void **state)
{
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	munmap(shared, sizeof *shared);
	return mp_teardown(state);
}

/* ---- the child --------------------------------------------------------------------------------------------- */

struct held {
	const char *string;
	char copy[READERS_KEY_SIZE];
};

__attribute__((format(printf, 1, 2))) static _Noreturn void give_up(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(shared->wrong, sizeof shared->wrong, format, args);
	va_end(args);
	_exit(1);
}

static void must(int rc, const char *what)
{
	if (rc != BERTH_OK)
		give_up("%s: %s", what, berth_strerror(rc));
}

static void attach_and_open(const char *dir, struct berth **b, struct berth_reader **r)
{
	must(berth_attach(dir, NULL, b), "attach");
	must(berth_reader_open(*b, r), "open");
}

/* Opens a section and takes zero-copy strings of the first partitions in it. */
static void hold_strings(struct berth_reader *r, struct held held[N_HELD])
{
	berth_read_begin(r);
	for (uint32_t i = 0; i < N_HELD; i++) {
		char key[READERS_KEY_SIZE];
		size_t len = readers_key(key, i);
		struct berth_placement p;

		must(berth_lookup(r, key, len, &p), "lookup");
		held[i].string = p.index;
		snprintf(held[i].copy, sizeof held[i].copy, "%s", p.index);
	}
}

static void compare_strings(const struct held held[N_HELD])
{
	for (uint32_t i = 0; i < N_HELD; i++)
		if (strcmp(held[i].string, held[i].copy) != 0)
			give_up("`%s` became `%.60s` while its section was open", held[i].copy, held[i].string);
}

static _Noreturn void sleep_in_a_section(const char *dir)
{
	static struct held held[N_HELD];
	struct berth_reader *r;
	struct berth *b;

	attach_and_open(dir, &b, &r);
	hold_strings(r, held);
	atomic_store(&shared->step, 1);
	for (;;)
		pause();
}

/* ---- the daemon's side ------------------------------------------------------------------------------------- */

/* The one registration, as `readers` shows it; the caller's. */
static json_t *only_reader(struct mp_place *p)
{
	json_t *answer = wire_ok(&p->stream.wire, "readers", NULL), *readers = json_object_get(answer, "readers"), *one;

	assert_int_equal(json_array_size(readers), 1);
	one = json_incref(json_array_get(readers, 0));
	json_decref(answer);
	return one;
}

static json_int_t held_by_reader(struct mp_place *p)
{
	json_t *one = only_reader(p);
	json_int_t held = int_of(one, "held_bytes");

	json_decref(one);
	return held;
}

static void change_all(struct mp_place *p, unsigned v)
{
	for (uint32_t i = 0; i < N_HELD; i++)
		stream_set(&p->stream, i, 1 + (i + v) % STREAM_CLUSTERS, v);
}

static void grow(struct mp_place *p, uint32_t from, uint32_t to)
{
	json_int_t generation = mp_status(p, "generation");

	stream_load(&p->stream, from, to - from);
	assert_true(mp_status(p, "generation") > generation);
}

static void a_reader_killed_in_a_section_holds_nothing_back(void **state)
{
	struct mp_place *p = *state;
	uint64_t start, slowest = 0;
	unsigned rounds = mp_number("BERTH_READER_KILLS", 20, 200);

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	for (unsigned i = 0; i < rounds; i++) {
		atomic_store(&shared->step, 0);
		child = mp_fork();
		if (child == 0)
			sleep_in_a_section(p->d.dir);
		MP_UNTIL(atomic_load(&shared->step) == 1, 20000);
		change_all(p, 2 + i);
		/* Grace periods run, and free nothing of what was in use when the section began. */
		MP_UNTIL(mp_status(p, "retired") >= N_HELD - N_HELD / 5, 5000);
		if (i % 2 && i < 12) {
			grow(p, N_KEYS << (i / 2), N_KEYS << (i / 2 + 1));
			MP_UNTIL(held_by_reader(p) > 0, 5000);
		}
		kill(child, SIGKILL);
		start = mp_now_ms();
		MP_UNTIL(mp_status(p, "retired") == 0 && mp_status(p, "held_bytes") == 0 &&
				 mp_status(p, "readers") == 0,
			 FREED_MS);
		slowest = mp_now_ms() - start > slowest ? mp_now_ms() - start : slowest;
		mp_reap(child, 5000); /* a zombie until now: dead all the same */
		child = 0;
	}
	printf("note: all memory of a reader killed in a section was free after %llu ms at most\n",
	       (unsigned long long)slowest);
}

/* ---- stopped ----------------------------------------------------------------------------------------------- */

static _Noreturn void stop_in_a_section(const char *dir)
{
	static struct held held[N_HELD];
	struct berth_reader *r;
	struct berth *b;
	char key[READERS_KEY_SIZE];
	struct berth_route at;

	attach_and_open(dir, &b, &r);
	hold_strings(r, held);
	atomic_store(&shared->step, 1);
	raise(SIGSTOP); /* the test goes on when it sees that */
	compare_strings(held);
	for (uint32_t i = 0; i < N_KEYS; i++) { /* the section goes on in what is there now */
		size_t len = readers_key(key, i);

		must(berth_route(r, key, len, &at), "route after the stop");
	}
	compare_strings(held);
	berth_read_end(r);
	for (uint32_t i = 0; i < 100; i++)
		must(berth_route(r, key, readers_key(key, i), &at), "route after the section");
	while (berth_maintain(b) != BERTH_OK)
		mp_pause();
	atomic_store(&shared->step, 2);
	while (atomic_load(&shared->step) != 3)
		mp_pause();
	berth_reader_close(&r);
	must(berth_detach(&b), "detach");
	_exit(0);
}

static void await_stop(void)
{
	int status;

	assert_int_equal(waitpid(child, &status, WUNTRACED), child);
	if (!WIFSTOPPED(status))
		fail_msg("the reader ended: %s", shared->wrong);
}

static void nothing_that_a_stopped_reader_sees_is_reused_and_the_culprit_is_named(void **state)
{
	struct mp_place *p = *state;
	json_t *one, *section;
	json_int_t held;
	int status;

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	child = mp_fork();
	if (child == 0)
		stop_in_a_section(p->d.dir);
	await_stop();
	for (unsigned v = 2; v < 5; v++)
		change_all(p, v);
	for (uint32_t i = 0; i < N_HELD; i++)
		stream_remove(&p->stream, i);
	grow(p, N_KEYS, 8 * N_KEYS);
	for (uint32_t i = 0; i < N_HELD; i++)
		stream_set(&p->stream, i, 1 + (i + 6) % STREAM_CLUSTERS, 6);
	change_all(p, 7);
	MP_UNTIL(held_by_reader(p) > 0, 5000);
	one = only_reader(p);
	assert_int_equal(int_of(one, "pid"), child);
	section = json_array_get(json_object_get(one, "sections"), 0);
	assert_true(int_of(section, "grace_lag") > 0);
	held = int_of(one, "held_bytes");
	assert_int_equal(held, mp_status(p, "held_bytes"));
	json_decref(one);
	/* Another writer finds it, and respects it as well. */
	daemon_kill(&p->d);
	daemon_start(&p->d, NULL);
	wire_close(&p->stream.wire);
	wire_open(&p->stream.wire, &p->d, WIRE_ADMIN);
	grow(p, 8 * N_KEYS, 32 * N_KEYS);
	change_all(p, 8);
	MP_UNTIL(held_by_reader(p) > 0, 5000);
	assert_true(mp_status(p, "held_bytes") > 0);
	assert_true(held_by_reader(p) >= held / 2);
	kill(child, SIGCONT);
	MP_UNTIL(atomic_load(&shared->step) == 2 || waitpid(child, &status, WNOHANG) == child, 20000);
	if (atomic_load(&shared->step) != 2) {
		child = 0;
		fail_msg("the reader ended: %s", shared->wrong);
	}
	mp_await_freed(p); /* its section has ended */
	assert_int_equal(mp_status(p, "readers"), 1);
	atomic_store(&shared->step, 3);
	status = mp_reap(child, 20000);
	child = 0;
	if (status != 0)
		fail_msg("%s", shared->wrong);
	MP_UNTIL(mp_status(p, "readers") == 0, FREED_MS);
	printf("note: a stopped reader held %d bytes of old tables, over a growth and a kill of the writer\n",
	       (int)held);
}

/* ---- coming and going -------------------------------------------------------------------------------------- */

static unsigned entries_of(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	if (!d)
		fail_msg("%s cannot be listed", path);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static unsigned descriptors_of(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%ld/fd", (long)pid);
	return entries_of(path);
}

static long resident_kib(pid_t pid)
{
	char path[64], line[256];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
	f = fopen(path, "r");
	while (f && kib < 0 && fgets(line, sizeof line, f))
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = strtol(line + 8, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static uint64_t shared_bytes(const char *dir)
{
	char path[400];
	uint64_t bytes = 0;
	struct dirent *e;
	struct stat st;
	DIR *d = opendir(dir);

	while (d && (e = readdir(d)) != NULL) {
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
			bytes += (uint64_t)st.st_blocks * 512;
	}
	if (d)
		closedir(d);
	return bytes;
}

struct usage {
	unsigned ours, theirs, slots;
	long resident, theirs_resident;
	uint64_t shared;
};

static struct usage use_now(struct mp_place *p)
{
	char path[128];
	struct usage u;

	MP_UNTIL(mp_status(p, "readers") == 0 && mp_status(p, "connections") == 1, FREED_MS);
	snprintf(path, sizeof path, "%s/readers", p->d.dir);
	u.ours = descriptors_of(getpid());
	u.theirs = descriptors_of(p->d.pid);
	u.slots = entries_of(path);
	u.resident = resident_kib(getpid());
	u.theirs_resident = resident_kib(p->d.pid);
	u.shared = shared_bytes(p->d.dir);
	return u;
}

static void come_and_go(const char *dir, unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		struct berth_placement found;
		struct berth_reader *r;
		struct berth *b;

		assert_int_equal(berth_attach(dir, NULL, &b), BERTH_OK);
		assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
		berth_read_begin(r);
		assert_int_equal(berth_lookup(r, "p1", 2, &found), BERTH_OK);
		berth_read_end(r);
		assert_int_equal(berth_admit(r, "p1", 2, found.epoch), BERTH_OK);
		berth_reader_close(&r);
		assert_int_equal(berth_detach(&b), BERTH_OK);
	}
}

static void coming_and_going_a_thousand_times_leaves_nothing_behind(void **state)
{
	struct mp_place *p = *state;
	struct usage before, after;

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	come_and_go(p->d.dir, 200);
	before = use_now(p);
	come_and_go(p->d.dir, 1000);
	after = use_now(p);
	assert_int_equal(after.ours, before.ours);
	assert_int_equal(after.theirs, before.theirs);
	assert_int_equal(after.slots, 0);
	assert_int_equal(after.shared, before.shared);
	if (!getenv("BERTH_SANITIZED")) { /* whose allocators keep what was freed */
		assert_true(after.resident <= before.resident + 64);
		assert_true(after.theirs_resident <= before.theirs_resident + 256);
	}
	printf("note: 1000 times: descriptors %u and %u, shared bytes %llu as before; daemon's memory %ld -> %ld KiB, "
	       "ours %ld -> "
	       "%ld KiB\n",
	       after.ours, after.theirs, (unsigned long long)after.shared, before.theirs_resident,
	       after.theirs_resident, before.resident, after.resident);
}

/* ---- fork and exec ----------------------------------------------------------------------------------------- */

static _Noreturn void use_the_parents(struct berth *b, struct berth_reader *r, struct berth_reader *in_section)
{
	struct berth_placement found;
	struct berth_route at;
	int rc = berth_route(r, "p1", 2, &at);

	if (rc != BERTH_E_FORKED)
		give_up("route in the child: %s", berth_strerror(rc));
	if (berth_admit(r, "p1", 2, 1) != BERTH_E_FORKED || berth_maintain(b) != BERTH_E_FORKED ||
	    berth_lookup(in_section, "p1", 2, &found) != BERTH_E_FORKED)
		give_up("admit, maintain or lookup in the child");
	berth_read_end(in_section);
	berth_reader_close(&r);
	must(berth_detach(&b), "detach in the child");
	atomic_store(&shared->step, 1);
	for (;;)
		pause();
}

static void the_child_of_a_fork_is_told_so_and_does_not_stand_for_its_parent(void **state)
{
	struct mp_place *p = *state;
	struct berth_reader *r, *in_section;
	struct berth *b;
	struct berth_placement found;
	char copy[READERS_KEY_SIZE];
	int status = 0;

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	assert_int_equal(berth_attach(p->d.dir, NULL, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &in_section), BERTH_OK);
	berth_read_begin(in_section);
	assert_int_equal(berth_lookup(in_section, "p1", 2, &found), BERTH_OK);
	snprintf(copy, sizeof copy, "%s", found.index);
	child = mp_fork();
	if (child == 0)
		use_the_parents(b, r, in_section);
	MP_UNTIL(atomic_load(&shared->step) == 1 || waitpid(child, &status, WNOHANG) == child, 20000);
	if (status != 0)
		fail_msg("%s", shared->wrong);
	/* The child closed its copies: the parent's section still holds. */
	change_all(p, 2);
	change_all(p, 3);
	assert_string_equal(found.index, copy);
	assert_true(mp_status(p, "retired") > 0);
	berth_read_end(in_section);
	mp_await_freed(p);
	assert_int_equal(berth_route(r, "p1", 2, &(struct berth_route){0}), BERTH_OK);
	berth_reader_close(&in_section);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	MP_UNTIL(mp_status(p, "readers") == 0, FREED_MS); /* while the child lives on */
	assert_int_equal(waitpid(child, &status, WNOHANG), 0);
}

static void a_process_that_becomes_another_program_gives_its_registration_back(void **state)
{
	struct mp_place *p = *state;
	int status;

	stream_open(&p->stream, &p->d, N_KEYS, N_KEYS, 1);
	child = mp_fork();
	if (child == 0) {
		static struct held held[N_HELD];
		struct berth_reader *r;
		struct berth *b;

		attach_and_open(p->d.dir, &b, &r);
		hold_strings(r, held);
		atomic_store(&shared->step, 1);
		while (atomic_load(&shared->step) != 2)
			mp_pause();
		execl("/bin/sleep", "sleep", "1000", (char *)NULL);
		_exit(127);
	}
	MP_UNTIL(atomic_load(&shared->step) == 1, 20000);
	change_all(p, 2);
	MP_UNTIL(mp_status(p, "retired") > 0, 5000);
	assert_int_equal(mp_status(p, "readers"), 1);
	atomic_store(&shared->step, 2);
	MP_UNTIL(mp_status(p, "readers") == 0 && mp_status(p, "retired") == 0, FREED_MS);
	assert_int_equal(waitpid(child, &status, WNOHANG), 0); /* it lives */
}

#define GONE_TEST(test, store) \
	{ \
#test " (" store ")", test, setup, teardown, (void *)(uintptr_t)(store) \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GONE_TEST(a_reader_killed_in_a_section_holds_nothing_back, "memory"),
		GONE_TEST(nothing_that_a_stopped_reader_sees_is_reused_and_the_culprit_is_named, "memory"),
		GONE_TEST(nothing_that_a_stopped_reader_sees_is_reused_and_the_culprit_is_named, "sqlite"),
		GONE_TEST(coming_and_going_a_thousand_times_leaves_nothing_behind, "memory"),
		GONE_TEST(the_child_of_a_fork_is_told_so_and_does_not_stand_for_its_parent, "memory"),
		GONE_TEST(a_process_that_becomes_another_program_gives_its_registration_back, "memory"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
