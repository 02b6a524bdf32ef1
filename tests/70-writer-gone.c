/* SPDX-License-Identifier: MIT
 * Reader processes while their writer, the real daemon, is stopped, or killed in the middle of changes and started
 * again. BERTH_STOP_MS, BERTH_KILLS: how long, how often. */
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "mp_place.h"

#define N_KEYS 1000u
#define N_HOT 64u

static void readers_go_on_while_the_writer_is_stopped(void **state)
{
	struct mp_place *p = *state;
	unsigned ms = mp_number("BERTH_STOP_MS", 5000, 10000);
	uint64_t until;
	unsigned turns = 0;

	mp_fill(p, N_KEYS);
	readers_add(&p->readers, 4);
	stream_use(&p->stream, &p->readers, 0, N_HOT);
	stream_do(&p->stream, 500);
	daemon_signal(&p->d, SIGSTOP);
	for (until = mp_now_ms() + ms; mp_now_ms() < until; turns++)
		readers_await(&p->readers, 50, 5000); /* each of them, again and again */
	daemon_signal(&p->d, SIGCONT);
	assert_true(turns > ms / 1000);
	stream_do(&p->stream, 500);
	readers_await(&p->readers, 50, 5000);
	stream_compare(&p->stream);
	readers_finish(&p->readers, "stopped writer");
}

/* A random moment of what the daemon does next: not a wait for anything. */
static void some_time(uint64_t *random)
{
	const struct timespec t = {.tv_nsec = (long)(mp_random(random) & ((1u << (12 + mp_random(random) % 9)) - 1))};

	nanosleep(&t, NULL);
}

static void killed_at_any_moment_the_writer_keeps_what_it_acknowledged_and_readers_notice_nothing(void **state)
{
	struct mp_place *p = *state;
	unsigned kills = mp_number("BERTH_KILLS", 50, 300);
	struct stream *s = &p->stream;
	uint64_t seed = mp_seed();
	json_t *status;

	mp_fill(p, N_KEYS);
	s->random = seed;
	readers_add(&p->readers, 4);
	stream_use(s, &p->readers, 0, N_HOT);
	for (unsigned i = 0; i < kills; i++) {
		stream_do(s, (unsigned)(mp_random(&s->random) % 50));
		for (unsigned n = 1 + (unsigned)(mp_random(&s->random) % STREAM_FLIGHTS); n > 0; n--)
			stream_send(s);
		some_time(&s->random);
		daemon_kill(&p->d);
		while (s->n_flights && stream_answer(s)) /* what has left before the end */
			;
		daemon_start(&p->d, NULL);
		stream_resume(s);
		readers_check(&p->readers);
	}
	stream_do(s, 200);
	readers_await(&p->readers, 20, 20000);
	stream_compare(s);
	status = wire_ok(&s->wire, "status", NULL);
	assert_int_equal(int_of(status, "readers"), 4); /* the same registrations */
	assert_int_equal(int_of(status, "term"), kills + 1);
	json_decref(status);
	printf("note: %u kills, %llu changes acknowledged and kept, of those in flight %llu kept and %llu not\n", kills,
	       (unsigned long long)s->n_acknowledged, (unsigned long long)s->n_adopted, (unsigned long long)s->n_lost);
	readers_finish(&p->readers, "killed writer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MP_TEST(readers_go_on_while_the_writer_is_stopped, "memory"),
		MP_TEST(killed_at_any_moment_the_writer_keeps_what_it_acknowledged_and_readers_notice_nothing,
			"sqlite"),
		MP_TEST(killed_at_any_moment_the_writer_keeps_what_it_acknowledged_and_readers_notice_nothing,
			"memory"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
