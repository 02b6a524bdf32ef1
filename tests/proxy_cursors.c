/* SPDX-License-Identifier: MIT
 * proxy_cursors.h. */
#include "proxy_cursors.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY 20000

struct talk pc_at[WORKERS];
char pc_keys[128];
static unsigned serial;

/* The proxy with this setting, NULL: off; and connections to its workers. */
void pc_use(const char *mode)
{
	static char line[256];
	static char now[8] = "none";

	talk_close(pc_at, WORKERS);
	if (strcmp(now, mode ? mode : "off") != 0) {
		if (mode && strcmp(mode, "seal") == 0)
			snprintf(line, sizeof(line), "cursors = \"seal\", seal_keys = \"%s\", cursor_body_max = 16384,",
				 pc_keys);
		else if (mode)
			snprintf(line, sizeof(line), "cursors = \"%s\", cursor_body_max = 16384,", mode);
		proxy.cursors = mode ? line : NULL;
		proxy_stop(&proxy);
		proxy_again(&proxy);
		snprintf(now, sizeof(now), "%s", mode ? mode : "off");
	}
	serial++;
	talk_open(pc_at, WORKERS);
}

/* A partition of this test's own, on c1. */
const char *pc_tenant(const char *name)
{
	static char names[64][64];
	static unsigned n;
	char *out = names[n++ % 64];

	snprintf(out, sizeof(names[0]), "%s-%u", name, serial);
	proxy_put(out, "c1");
	return out;
}

void pc_move(const char *partition, const char *to)
{
	tool_ok(&proxy.d, "migrate", "run", partition, "--to", to, NULL);
}

const char *pc_text(const char *format, ...)
{
	static char text[64][BODY]; /* a table of a test has many at the same time */
	static unsigned n;
	char *out = text[n++ % 64];
	va_list args;

	va_start(args, format);
	vsnprintf(out, BODY, format, args);
	va_end(args);
	return out;
}

/* Percent-encoded, for free(). */
char *pc_encoded(const char *id)
{
	char *out = calloc(3, strlen(id) + 1);

	assert_non_null(out);
	for (size_t i = 0, n = 0; id[i]; i++)
		n += (size_t)sprintf(out + n, "%%%02x", (unsigned char)id[i]);
	return out;
}

/* Opens a cursor; its id as the client gets it, for free(). */
char *pc_open(struct talk *t, const char *partition, const char *act, const char *path, unsigned cluster)
{
	struct said s = TALK(t, .act = act, .method = "POST", .path = path, .partition = partition, .body = "{}");
	char *id;

	said_expect(&s, 200, PORT(cluster));
	if (!s.id)
		fail_msg("no id in %s", s.body);
	id = strdup(s.id);
	said_free(&s);
	return id;
}

char *pc_scroll(struct talk *t, const char *partition, unsigned cluster)
{
	return pc_open(t, partition, "node", "/i/_search?scroll=1m", cluster);
}

char *pc_pit(struct talk *t, const char *partition, unsigned cluster)
{
	return pc_open(t, partition, "node", "/i/_search/point_in_time?keep_alive=1m", cluster);
}

/* nginx appends to it. */
void pc_forget_log(void)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/error.log", proxy.d.home);
	assert_int_equal(truncate(path, 0), 0);
}

/* How many requests the nodes have had. */
int pc_asked(void)
{
	struct said s = NODE(&pc_at[0], .path = "/asked", .partition = pc_tenant("asking"));
	int n = (int)int_of(s.json, "asked");

	said_free(&s);
	return n;
}

int pc_setup(void **state)
{
	int rc = proxy_setup(state);

	for (unsigned i = 0; i < WORKERS; i++)
		pc_at[i].fd = -1;
	if (rc == 0 && !proxy_skip) {
		snprintf(pc_keys, sizeof(pc_keys), "%s/seal.keys", proxy.d.home);
		tool_ok(&proxy.d, "seal", "keygen", pc_keys, NULL);
	}
	return rc;
}

int pc_teardown(void **state)
{
	talk_close(pc_at, WORKERS);
	return proxy_teardown(state);
}

void pc_nothing_went_wrong(void **state)
{
	char *log;
	const char *fault;

	PROXY_NEEDED;
	proxy_expect_open(NULL, 0);
	log = proxy_log(&proxy);
	fault = strstr(log, "lua entry thread aborted");
	fault = fault ? fault : strstr(log, "attempt to ");
	fault = fault ? fault : strstr(log, "failed to run");
	fault = fault ? fault : strstr(log, "was not looked at");
	if (fault)
		fail_msg("%.2000s", fault);
	free(log);
}
