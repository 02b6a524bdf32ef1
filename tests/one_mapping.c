/* SPDX-License-Identifier: MIT
 * one_mapping.h. */
#include "one_mapping.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 64

static struct file {
	dev_t dev;
	ino_t ino;
	char *at;
	off_t from;
	size_t len;
	unsigned users;
} files[FILES];
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned n_shared; /* mappings that were there already */

/* Weak: a program that is linked without --wrap has no use for what is here. */
void *__real_mmap(void *, size_t, int, int, int, off_t) __attribute__((weak));
int __real_munmap(void *, size_t) __attribute__((weak));
void *__wrap_mmap(void *, size_t, int, int, int, off_t);
int __wrap_munmap(void *, size_t);

/* Always writable: whoever comes later may want it so. */
static void *map_file(struct file *f, void *at, size_t len, int protection, int flags, int fd, off_t from)
{
	char name[32];
	int writable;
	void *p;

	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	writable = open(name, O_RDWR | O_CLOEXEC);
	p = writable < 0 ? __real_mmap(at, len, protection, flags, fd, from)
			 : __real_mmap(at, len, PROT_READ | PROT_WRITE, flags, writable, from);
	if (writable >= 0)
		close(writable);
	if (p != MAP_FAILED)
		*f = (struct file){f->dev, f->ino, p, from, len, 1};
	return p;
}

void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t from)
{
	struct file *f, *room = NULL;
	struct stat st;
	void *p;

	if (!(flags & MAP_SHARED) || fd < 0 || fstat(fd, &st) != 0)
		return __real_mmap(at, len, protection, flags, fd, from);
	pthread_mutex_lock(&files_lock);
	for (f = files; f < files + FILES; f++) {
		if (f->users == 0)
			room = f;
		else if (f->dev == st.st_dev && f->ino == st.st_ino && f->from <= from &&
			 (size_t)(from - f->from) + len <= f->len)
			break;
	}
	if (f < files + FILES) {
		f->users++;
		atomic_fetch_add(&n_shared, 1);
		p = f->at + (from - f->from);
	} else if (!room) {
		p = MAP_FAILED;
	} else {
		room->dev = st.st_dev;
		room->ino = st.st_ino;
		p = map_file(room, at, len, protection, flags, fd, from);
	}
	pthread_mutex_unlock(&files_lock);
	return p;
}

/* A part of a mapping stays: another one may be in it. (The file lives as long, and so its inode means no other one.) */
int __wrap_munmap(void *at, size_t len)
{
	struct file *f;
	int rc = 0;

	pthread_mutex_lock(&files_lock);
	for (f = files; f < files + FILES; f++)
		if (f->users > 0 && (char *)at >= f->at && (char *)at < f->at + f->len)
			break;
	if (f == files + FILES)
		rc = __real_munmap(at, len);
	else if ((char *)at == f->at && --f->users == 0)
		rc = __real_munmap(f->at, f->len);
	pthread_mutex_unlock(&files_lock);
	return rc;
}

unsigned mappings_shared(void)
{
	return atomic_load(&n_shared);
}
