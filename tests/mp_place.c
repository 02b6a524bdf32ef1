/* SPDX-License-Identifier: MIT
 * mp_place.h. */
#include "mp_place.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void mp_begin(void)
{
	signal(SIGPIPE, SIG_IGN);
}

void mp_place_make(struct mp_place *p, const char *store)
{
	daemon_make(&p->d, store);
}

int mp_setup(void **state)
{
	struct mp_place *p = calloc(1, sizeof *p);

	mp_place_make(p, *state);
	*state = p;
	daemon_start(&p->d, NULL);
	return 0;
}

void mp_place_remove(struct mp_place *p)
{
	if (p->readers.s)
		readers_kill_all();
	daemon_remove(&p->d);
	free(p->stream.items);
	p->stream.items = NULL;
}

int mp_teardown(void **state)
{
	struct mp_place *p = *state;

	mp_place_remove(p);
	free(p);
	return 0;
}

void mp_fill_with(struct mp_place *p, uint32_t n, const struct readers_options *options)
{
	stream_open(&p->stream, &p->d, n, n, 1);
	readers_open(&p->readers, p->d.dir, n, options);
}

void mp_fill(struct mp_place *p, uint32_t n)
{
	mp_fill_with(p, n, NULL);
}

json_int_t mp_status(struct mp_place *p, const char *name)
{
	json_t *status = wire_ok(&p->stream.wire, "status", NULL);
	json_int_t n = int_of(status, name);

	json_decref(status);
	return n;
}

void mp_await_freed(struct mp_place *p)
{
	MP_UNTIL(mp_status(p, "retired") == 0 && mp_status(p, "held_bytes") == 0, 20000);
}
