/* SPDX-License-Identifier: MIT
 * A reader that comes back to a daemon which cannot look at its process for a moment: it keeps what it has. */
#include <errno.h>
#include <stdlib.h>

#include "fault_place.h"

static const char *const none[] = {NULL};

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
	struct fault_place p = {.admin_open = false};
	uint64_t deadline = 0;
	json_int_t before;
	int status;

	(void)state;
	if (!fault_possible())
		SKIP("a sanitizer's own library stands where faults.so would");
	fault_place_make(&p, "sqlite", none);
	before = only_attach_number(&p);
	wire_close(&p.admin);
	p.admin_open = false;
	daemon_kill(&p.d);
	assert_true(fault_place_start(&p, none, &status));
	fault_arm(p.plan, CALL_OPEN, 1, EMFILE, true, "/stat");
	while (within(&deadline) && berth_maintain(p.b) != BERTH_OK)
		;
	assert_int_equal(berth_maintain(p.b), BERTH_OK);
	assert_true(fault_disarm(p.plan) > 0);
	assert_int_equal(only_attach_number(&p), before);
	fault_place_remove(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reader_whose_start_cannot_be_read_now_is_not_taken_for_another_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
