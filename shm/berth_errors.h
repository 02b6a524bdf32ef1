/* SPDX-License-Identifier: MIT
 * The one table of error codes. Installed beside berth.h, which includes it; shm/ returns them too.
 * A row: name, value, HTTP status that a proxy answers with (0: none of its business), text of berth_strerror.
 * Adding a code takes one row; values are ABI and never change meaning. */
#ifndef BERTH_ERRORS_H
#define BERTH_ERRORS_H

#define BERTH_ERRORS(X) \
	X(BERTH_OK, 0, 200, "success") \
	X(BERTH_E_INVAL, -1, 500, "an argument is out of range, or a handle is used in a way that it forbids") \
	X(BERTH_E_UNKNOWN, -2, 404, "no placement for this partition, and no default; or no such cluster, or cursor") \
	X(BERTH_E_STALE, -3, 409, "the placement changed since it was resolved: resolve again, then retry") \
	X(BERTH_E_CUTOVER, -4, 409, "writes are held back while the partition changes clusters: retry soon") \
	X(BERTH_E_FENCED, -5, 503, "this host has lost its right to admit writes: retry elsewhere or later") \
	X(BERTH_E_AGAIN, -6, 503, "a resource is in use for the moment: retry") \
	X(BERTH_E_WRITER_DOWN, -7, 503, \
	  "this needs the writer process, which is gone or silent: berth_maintain retries") \
	X(BERTH_E_FORKED, -8, 500, "the handle belongs to the parent process: attach again after fork") \
	X(BERTH_E_CORRUPT, -9, 500, "shared memory holds something that no writer stores: run `berth verify`") \
	X(BERTH_E_FULL, -10, 503, "no room: max_readers, registrations of this user, or shared memory is used up") \
	X(BERTH_E_BUSY, -11, 500, "readers, sections or writes are still open on this handle") \
	X(BERTH_E_NOMEM, -12, 500, "out of memory") \
	X(BERTH_E_SYSTEM, -13, 500, "a system call failed: errno tells which way") \
	X(BERTH_E_NO_INSTANCE, -14, 500, \
	  "no instance in this directory: is berthd running, with the same --dir or --instance?") \
	X(BERTH_E_ABI, -15, 500, \
	  "the instance was made by a berth of another layout: use the libberth that came with its berthd") \
	X(BERTH_E_UNSAFE, -16, 500, \
	  "not safe: the instance must be a directory, no symbolic link, of plain files, all owned by root, user " \
	  "berth or this user, and nobody else may write to them") \
	X(BERTH_E_PERMISSION, -17, 500, \
	  "not permitted: be a member of the group of the instance's directory, usually berth") \
	X(BERTH_E_CLOCK, -18, 500, "this process lives in another time namespace than the writer") \
	X(BERTH_E_PROTOCOL, -19, 500, "the writer gave an answer that this library does not understand") \
	X(BERTH_E_REFUSED, -20, 500, "the writer refused to attach this process") \
	X(BERTH_E_NOT_OWNER, -21, 403, "the cursor belongs to another partition")

enum berth_error {
#define BERTH_ERROR_ENUM(name, value, http, text) name = value,
	BERTH_ERRORS(BERTH_ERROR_ENUM)
#undef BERTH_ERROR_ENUM
};

#endif
