/* SPDX-License-Identifier: MIT
 * A reader that comes back to a daemon which cannot look at its process for a moment: it keeps what it has. */
#include <errno.h>
#include <stdlib.h>

#include "fault_place.h"

static json_int_t only_attach_number(struct fault_place *p)
{
	json_t *answer, *readers;
	json_int_t attach;

	fault_place_admin(p);
	answer = wire_ok(&p->admin, "readers", NULL);
	readers = json_object_get(answer, "readers");
	assert_int_equal(json_array_size(readers), 1);
	attach = int_of(json_array_get(readers, 0), "attach");
	json_decref(answer);
	return attach;
}

static void a_reader_whose_start_cannot_be_read_now_is_not_taken_for_another_process(void **state)
{
	struct fault_place *p = fault_needed(state);
	uint64_t deadline = 0;
	json_int_t before = only_attach_number(p);

	daemon_kill(&p->d);
	fault_place_again(p);
	fault_arm(p->plan, CALL_OPEN, 1, EMFILE, true, "/stat");
	while (within(&deadline) && berth_maintain(p->b) != BERTH_OK)
		;
	assert_int_equal(berth_maintain(p->b), BERTH_OK);
	assert_true(fault_disarm(p->plan) > 0);
	assert_int_equal(only_attach_number(p), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(a_reader_whose_start_cannot_be_read_now_is_not_taken_for_another_process, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
