/* SPDX-License-Identifier: MIT
 * A daemon whose groups berth and berth-admin exist, and users inside and outside of them, by number: in a mount
 * namespace of this process with an /etc/group of its own. Needs root. */
#ifndef BERTH_TESTS_USERS_H
#define BERTH_TESTS_USERS_H

#include <errno.h>
#include <string.h>

#include "child.h"

#define BERTH_GID 60901u
#define ADMIN_GID 60902u
#define STRANGER 61001u
#define MEMBER 61002u /* of group berth */
#define ADMIN 61004u  /* of berth-admin too */

extern struct daemon *place; /* NULL: it could not be made, the reason has been printed */

extern const char *const *users_options; /* of the daemons started from here on, NULL last; NULL: none */

/* As cmocka wants them: a daemon with clusters c1 and c2, and acme on c1. */
int users_make(void **state);
int users_remove(void **state);
#define USERS_TEST(f) cmocka_unit_test_setup_teardown(f, users_make, users_remove)
#define NEEDS_USERS() \
	do { \
		if (!place) \
			skip(); \
	} while (0)

/* A part of the test that begins with EXPECT(become(*(uid_t *)arg)); its exit code. */
int as_user(uid_t uid, int (*part)(void *));
bool become(uid_t uid);
/* What a part answers besides 0: the line where something was not as it should be (modulo 200, + 20). */
#define EXPECT(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno)); \
			return 20 + __LINE__ % 200; \
		} \
	} while (0)

const char *users_file(const char *name); /* its path; static */
const char *users_table(void);            /* name of the table in use; static */
int users_connect(const char *socket);    /* -1 with errno */
/* `berth --dir DIR A B C`, what is NULL left out; the exit code. */
int users_tool(const char *a, const char *b, const char *c);

json_int_t status_number(const char *name); /* of the daemon's status */
void expect_freed(void);                    /* nothing is held back for anybody, at once or soon */

#endif
