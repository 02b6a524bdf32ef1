/* SPDX-License-Identifier: MIT
 * Reading a key file, after a look at who could have written it and who can read it. Called by seal.c and `berth seal`.
 * Writes nothing, keeps no descriptor. Any thread. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static bool uid_trusted(uid_t uid)
{
	char buffer[4096];
	struct passwd pw, *found = NULL;

	if (uid == 0 || uid == geteuid())
		return true;
	return getpwnam_r("berth", &pw, buffer, sizeof(buffer), &found) == 0 && found && found->pw_uid == uid;
}

static int unsafe(struct seal_fault *fault, const char *what)
{
	*fault = (struct seal_fault){.what = what};
	return BERTH_E_UNSAFE;
}

static int check(const struct stat *st, struct seal_fault *fault)
{
	if (!S_ISREG(st->st_mode))
		return unsafe(fault, "it is no regular file");
	if (!uid_trusted(st->st_uid))
		return unsafe(fault, "its owner is not root, user berth or this user: chown it");
	if (st->st_mode & (S_IRWXO | S_IWGRP))
		return unsafe(fault, "others have access to it, or its group may write it: chmod it to 640 or 600");
	if (st->st_size > SEAL_FILE_MAX) {
		*fault = (struct seal_fault){.what = "it is longer than 64 KiB"};
		return BERTH_E_CORRUPT;
	}
	return BERTH_OK;
}

/* All of it, at most SEAL_FILE_MAX + 1 bytes; -1 with errno. */
static ssize_t read_all(int fd, char *text)
{
	size_t len = 0;

	while (len <= SEAL_FILE_MAX) {
		ssize_t n = read(fd, text + len, SEAL_FILE_MAX + 1 - len);
		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return -1;
		len += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)len;
}

static int read_checked(int fd, char **out, size_t *len, struct stat *st, struct seal_fault *fault)
{
	int rc = fstat(fd, st) == 0 ? check(st, fault) : BERTH_E_SYSTEM;

	if (rc != BERTH_OK)
		return rc;
	char *text = sodium_malloc(SEAL_FILE_MAX + 1);
	if (!text)
		return BERTH_E_NOMEM;
	ssize_t n = read_all(fd, text);
	if (n < 0 || n > SEAL_FILE_MAX) {
		int saved = errno;
		sodium_free(text);
		errno = saved;
		*fault = (struct seal_fault){.what = "it is longer than 64 KiB"}; /* by now */
		return n < 0 ? BERTH_E_SYSTEM : BERTH_E_CORRUPT;
	}
	*out = text;
	*len = (size_t)n;
	return BERTH_OK;
}

int bs_file_read(const char *path, char **text, size_t *len, struct stat *st, struct seal_fault *fault)
{
	if (sodium_init() < 0) { /* no source of randomness for the guards around secrets */
		errno = EIO;
		return BERTH_E_SYSTEM;
	}
	/* Nothing of what may stand there instead is followed, waited for, or made a terminal. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 && errno == ELOOP)
		return unsafe(fault, "it is a symlink: name the file itself");
	if (fd < 0 && errno == ENXIO)
		return unsafe(fault, "it is no regular file");
	if (fd < 0)
		return errno == EACCES || errno == EPERM ? BERTH_E_PERMISSION : BERTH_E_SYSTEM;
	int rc = read_checked(fd, text, len, st, fault), saved = errno;
	close(fd);
	errno = saved;
	return rc;
}

int bs_file_load(const char *path, struct seal_keys **out, struct stat *st, struct seal_fault *fault)
{
	char *text = NULL;
	size_t len = 0;
	int rc = bs_file_read(path, &text, &len, st, fault);

	if (rc != BERTH_OK)
		return rc;
	rc = bs_keys_parse(text, len, out, fault);
	sodium_free(text);
	return rc;
}
