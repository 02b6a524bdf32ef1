/* SPDX-License-Identifier: MIT
 * A temporary directory with a key file of sealed cursors, for tests of libberth-seal. Keys have secrets that follow
 * from their ids. Whatever fails fails the test. */
#ifndef BERTH_TESTS_SEAL_PLACE_H
#define BERTH_TESTS_SEAL_PLACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../reader_lib/seal/internal.h"

struct seal_place {
	char home[64];
	char path[80]; /* of the key file: home/keys */
	struct berth_seal *seal;
	struct berth_unsealed u;
	char envelope[BERTH_SEALED_SIZE];
	size_t len; /* of the envelope */
};

/* As cmocka wants them: *state is a place without a key file. */
int seal_setup(void **state);
int seal_teardown(void **state);
#define SEAL_TEST(f) cmocka_unit_test_setup_teardown(f, seal_setup, seal_teardown)

struct seal_spec { /* a key of a file */
	uint32_t id;
	int active_in_s; /* from now */
};
/* Writes these keys, id 0 ends them, as the tool does: a new file in the place of the old one. */
#define seal_keys_are(p, ...) seal_keys_write(p, (const struct seal_spec[]){__VA_ARGS__, {0, 0}})
void seal_keys_write(const struct seal_place *, const struct seal_spec *);
void seal_file_is(const struct seal_place *, const char *text, size_t len);
void seal_secret(uint32_t id, unsigned char secret[SEAL_SECRET_SIZE]);

/* Seals "id" of cluster c1 for acme into the place's envelope; opens it for acme. */
int seal_one(struct seal_place *);
int unseal_one(struct seal_place *);
int unseal_as(struct seal_place *, const char *partition);

#endif
