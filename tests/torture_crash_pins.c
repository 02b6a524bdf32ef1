/* SPDX-License-Identifier: MIT
 * torture_crash.h: scenes of pins. Judged: a pin that was acknowledged resolves, one that was released does not. */
#include "torture_crash.h"

#include <stdio.h>
#include <string.h>

#define N_PINS 64u

static unsigned pinned[N_PINS]; /* the cluster; 0: none */

static void pin(struct crash *c, unsigned i, unsigned cluster)
{
	c->child->one[0].box->ttl_ms = 0;
	cr_tell_ok(c, 0, PIN, i, cluster);
	pinned[i] = cluster;
}

static void release_pin(struct crash *c, unsigned i)
{
	int rc = cr_tell(c, 0, RELEASE, i, 0);

	if (rc != BERTH_OK && rc != BERTH_E_UNKNOWN) /* done before a death, and asked for again after it */
		fail_msg("%s: release of pin %u: %s", c->where, i, berth_strerror(rc));
	pinned[i] = 0;
}

static void check_pins(struct crash *c)
{
	for (unsigned i = 0; i < N_PINS; i++) {
		unsigned cluster = pinned[i];
		int rc = cr_tell(c, 0, RESOLVE, i, 0);

		if (cluster ? rc != BERTH_OK || c->child->one[0].box->cluster != cluster : rc != BERTH_E_UNKNOWN)
			fail_msg("%s: pin %u is %s (cluster %u), and was acknowledged on %u (0: released)\n%s",
				 c->where, i, berth_strerror(rc), c->child->one[0].box->cluster, cluster, cr_log(c));
	}
	cr_counts.looks += N_PINS;
}

static void pins_open(struct crash *c)
{
	memset(pinned, 0, sizeof pinned);
	cr_children_open(c);
	cr_comes(c, 0, BERTH_WRITES_NONE, true);
}

static void pins_new(struct crash *c)
{
	for (unsigned i = 0; i < 8; i++)
		pin(c, i, 1 + i % 2);
	check_pins(c);
}

static void pins_again(struct crash *c)
{
	for (unsigned i = 0; i < 4; i++)
		pin(c, i, 2 - i % 2);
	check_pins(c);
}

static void pins_released(struct crash *c)
{
	for (unsigned i = 1; i < 8; i++)
		release_pin(c, i);
	check_pins(c);
}

/* More than an owner may have: the oldest go. */
static void pins_beyond_the_share(struct crash *c)
{
	for (unsigned i = 0; i < 16; i++)
		pin(c, 16 + i, 1);
	for (unsigned i = 0; i < 8; i++)
		pinned[16 + i] = 0;
	pinned[0] = 0;
	check_pins(c);
}

static void pins_expire(struct crash *c)
{
	release_pin(c, 24); /* room for it: what has expired when a start does it evicts nobody */
	c->child->one[0].box->ttl_ms = 30;
	cr_tell_ok(c, 0, PIN, 40, 1);
	for (uint64_t until = mp_now_ms() + 40; mp_now_ms() < until; mp_pause())
		if (cr_dead(c, false))
			cr_settle(c);
	check_pins(c);
}

static void pins_of_another_capacity(struct crash *c)
{
	cr_stop(c);
	c->options[3] = strcmp(c->options[3], "16") == 0 ? "17" : "16";
	cr_settle(c);
	check_pins(c);
	for (unsigned i = 0; i < 16; i++)
		release_pin(c, 16 + i);
}

static void pins_of_the_dead(struct crash *c)
{
	cr_comes(c, 1, BERTH_WRITES_NONE, true);
	c->child->one[1].box->ttl_ms = 0;
	cr_tell_ok(c, 1, PIN_ASYNC, 50, 2);
	cr_child_dies(c, 1);
	cr_await(c, "readers", 1, 1);
	pinned[50] = 2; /* what was in its ring was done before it went */
	check_pins(c);
	release_pin(c, 50);
}

static void pins_after_a_kill(struct crash *c)
{
	static const char *const junk[] = {"tables/cursors.new", "tables/cursors.999"};
	char path[192];

	pin(c, 3, 1);
	if (!cr_dead(c, false))
		cr_kill(c);
	for (unsigned i = 0; i < 2; i++) {
		FILE *f;

		cr_path(c, path, junk[i]);
		f = fopen(path, "we");
		assert_non_null(f);
		fclose(f);
	}
	cr_settle(c);
	check_pins(c);
	release_pin(c, 3);
}

static const struct cr_step pins[] = {{"pin", pins_new, CR_PLAIN},
				      {"pin again", pins_again, CR_PLAIN},
				      {"release", pins_released, CR_PLAIN},
				      {"pin beyond the share", pins_beyond_the_share, CR_PLAIN},
				      {"pins expire", pins_expire, CR_PLAIN},
				      {"another capacity", pins_of_another_capacity, CR_PLAIN},
				      {"pins of a dead process", pins_of_the_dead, CR_PLAIN},
				      {"pins after a kill", pins_after_a_kill, CR_PLAIN},
				      {NULL, NULL, CR_PLAIN}};

const struct cr_scene cr_pin_scenes[] = {
	{"pins, memory",
	 "memory",
	 0,
	 false,
	 pins_open,
	 NULL,
	 pins,
	 {"--barrier-ms", "60", "--cursor-capacity", "16", "--cursor-owner-share", "50"}},
	{NULL, NULL, 0, false, NULL, NULL, NULL, {NULL}}};
