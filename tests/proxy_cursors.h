/* SPDX-License-Identifier: MIT
 * What the tests of scrolls and points in time through nginx share: the proxy in one of its modes, connections to two of
 * its workers, and requests to the nodes of proxy_node.lua, each of which knows the ids that it made and says whose data
 * it tells. One thread. */
#ifndef BERTH_TESTS_PROXY_CURSORS_H
#define BERTH_TESTS_PROXY_CURSORS_H

#include "proxy_talk.h"

#define WORKERS 2
extern struct talk pc_at[WORKERS]; /* connections to different workers */
extern char pc_keys[128];          /* the key file */

/* As cmocka wants them, of the group. */
int pc_setup(void **state);
int pc_teardown(void **state);

/* The proxy with `cursors` set to this, NULL: off; and connections to its workers, new partitions. */
void pc_use(const char *mode);
/* A partition of this test's own, on c1. */
const char *pc_tenant(const char *name);
void pc_move(const char *partition, const char *to);
/* printf into memory that lasts for a while. */
const char *pc_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Percent-encoded, for free(). */
char *pc_encoded(const char *id);

/* A request to the nodes of proxy_node.lua. */
#define NODE(t, ...) TALK(t, .act = "node", __VA_ARGS__)
#define NODE_EXPECT(t, status, text, ...) TALK_EXPECT(t, status, text, .act = "node", __VA_ARGS__)
#define NEXT(id) pc_text("{\"scroll\":\"1m\",\"scroll_id\":\"%s\"}", id)

/* Opens a cursor at this cluster, from 0; its id as the client gets it, for free(). */
char *pc_open(struct talk *t, const char *partition, const char *act, const char *path, unsigned cluster);
char *pc_scroll(struct talk *t, const char *partition, unsigned cluster);
char *pc_pit(struct talk *t, const char *partition, unsigned cluster);
/* How many requests the nodes have had. */
int pc_asked(void);
/* A test, the last of a program or nearly: no lease is open, and no Lua failed. */
void pc_nothing_went_wrong(void **state);
/* Empties the proxy's error log. */
void pc_forget_log(void);

#endif
