/* SPDX-License-Identifier: MIT
 * seal_place.h. */
#include "seal_place.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int seal_setup(void **state)
{
	struct seal_place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	snprintf(p->home, sizeof(p->home), "/tmp/berth-test-seal-XXXXXX");
	assert_non_null(mkdtemp(p->home));
	assert_int_equal(chmod(p->home, 0755), 0); /* other users come here too */
	snprintf(p->path, sizeof(p->path), "%s/keys", p->home);
	*state = p;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int what, struct FTW *ftw)
{
	(void)st;
	(void)what;
	(void)ftw;
	return remove(path);
}

int seal_teardown(void **state)
{
	struct seal_place *p = *state;

	berth_seal_close(&p->seal);
	nftw(p->home, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(p);
	return 0;
}

void seal_secret(uint32_t id, unsigned char secret[SEAL_SECRET_SIZE])
{
	for (unsigned i = 0; i < SEAL_SECRET_SIZE; i++)
		secret[i] = (unsigned char)(id * 37 + i);
}

void seal_file_is(const struct seal_place *p, const char *text, size_t len)
{
	char fresh[96];

	snprintf(fresh, sizeof(fresh), "%s.new", p->path);
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || close(fd) != 0 || rename(fresh, p->path) != 0)
		fail_msg("%s: %s", fresh, strerror(errno));
}

void seal_keys_write(const struct seal_place *p, const struct seal_spec *spec)
{
	char text[SEAL_KEYS_MAX * 128] = "", created[SEAL_TIME_SIZE], active[SEAL_TIME_SIZE];
	size_t at = 0;

	bs_time_print(time(NULL), created);
	for (; spec->id; spec++) {
		unsigned char secret[SEAL_SECRET_SIZE];

		bs_time_print(time(NULL) + spec->active_in_s, active);
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%u %s %s ", spec->id, created, active);
		seal_secret(spec->id, secret);
		for (unsigned i = 0; i < sizeof(secret); i++)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%02x", secret[i]);
		text[at++] = '\n';
	}
	seal_file_is(p, text, at);
}

int seal_one(struct seal_place *p)
{
	return berth_seal_cursor(p->seal, "c1", 2, "acme", 4, "id", 2, p->envelope, sizeof(p->envelope), &p->len);
}

int unseal_as(struct seal_place *p, const char *partition)
{
	return berth_seal_unseal(p->seal, p->envelope, p->len, partition, strlen(partition), &p->u);
}

int unseal_one(struct seal_place *p)
{
	return unseal_as(p, "acme");
}
