/* SPDX-License-Identifier: MIT
 * A VFS over sqlite's default one: everything passes, but what `disk` says of the write-ahead log. Used by the tests of
 * the sqlite store; one thread. */
#include "bad_disk.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>

struct disk disk;
unsigned disk_log_opens;

struct disk_file {
	sqlite3_file base;
	bool is_log;
	sqlite3_file *real;
};
static sqlite3_vfs *real_vfs;

static bool fails(int *countdown)
{
	if (*countdown > 1)
		(*countdown)--;
	else if (*countdown == 1)
		return true;
	return false;
}

#define REAL(f) (((struct disk_file *)(void *)(f))->real)
#define PASS(f, method, ...) (REAL(f)->pMethods->method(REAL(f), ##__VA_ARGS__))

#define PASS_ON(name, method, parameters, ...) \
	static int name parameters \
	{ \
		return PASS(f, method, ##__VA_ARGS__); \
	}
PASS_ON(disk_close, xClose, (sqlite3_file * f))
PASS_ON(disk_truncate, xTruncate, (sqlite3_file * f, sqlite3_int64 size), size)
PASS_ON(disk_size, xFileSize, (sqlite3_file * f, sqlite3_int64 *size), size)
PASS_ON(disk_lock, xLock, (sqlite3_file * f, int level), level)
PASS_ON(disk_unlock, xUnlock, (sqlite3_file * f, int level), level)
PASS_ON(disk_reserved, xCheckReservedLock, (sqlite3_file * f, int *out), out)
PASS_ON(disk_control, xFileControl, (sqlite3_file * f, int op, void *arg), op, arg)
PASS_ON(disk_sector, xSectorSize, (sqlite3_file * f))
PASS_ON(disk_traits, xDeviceCharacteristics, (sqlite3_file * f))

static int disk_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at)
{
	int rc = PASS(f, xRead, to, n, at);

	if (((struct disk_file *)(void *)f)->is_log && disk.hide_from && at >= disk.hide_from)
		memset(to, 0, (size_t)n);
	return rc;
}

static int disk_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
	if (((struct disk_file *)(void *)f)->is_log && fails(&disk.fail_write)) {
		if (n > 8) /* a part of it arrives */
			PASS(f, xWrite, from, n / 2, at);
		return disk.code;
	}
	return PASS(f, xWrite, from, n, at);
}

static int disk_sync(sqlite3_file *f, int flags)
{
	if (((struct disk_file *)(void *)f)->is_log && fails(&disk.fail_sync))
		return SQLITE_IOERR_FSYNC;
	return PASS(f, xSync, flags);
}

/* Version 1: no shared memory, so a store that would let others in could not open its log at all. */
static const sqlite3_io_methods disk_methods = {
	.iVersion = 1,
	.xClose = disk_close,
	.xRead = disk_read,
	.xWrite = disk_write,
	.xTruncate = disk_truncate,
	.xSync = disk_sync,
	.xFileSize = disk_size,
	.xLock = disk_lock,
	.xUnlock = disk_unlock,
	.xCheckReservedLock = disk_reserved,
	.xFileControl = disk_control,
	.xSectorSize = disk_sector,
	.xDeviceCharacteristics = disk_traits,
};

static int disk_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
	struct disk_file *d = (void *)f;
	int rc;

	(void)vfs;
	d->is_log = flags & SQLITE_OPEN_WAL;
	disk_log_opens += d->is_log;
	d->real = (void *)(d + 1);
	d->real->pMethods = NULL;
	rc = real_vfs->xOpen(real_vfs, name, d->real, flags, out);
	f->pMethods = d->real->pMethods ? &disk_methods : NULL;
	return rc;
}

void disk_install(void)
{
	static sqlite3_vfs vfs;

	real_vfs = sqlite3_vfs_find(NULL);
	vfs = *real_vfs;
	vfs.zName = "disk";
	vfs.pNext = NULL;
	vfs.szOsFile = (int)sizeof(struct disk_file) + real_vfs->szOsFile;
	vfs.xOpen = disk_open;
	sqlite3_vfs_register(&vfs, 1);
}
