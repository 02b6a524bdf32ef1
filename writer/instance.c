/* SPDX-License-Identifier: MIT
 * Makes, checks and locks the directory of an instance: instance.h. Modes do not depend on the umask; what exists
 * already is judged as a reader judges it (seg_dir_open), because who owns the directory routes everybody's writes. */
#include "instance.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "lock.h"

#define HUGETLBFS_MAGIC_ 0x958458f6

#define DIR_MODE 0750 /* the door: who is not in the group comes no further (tables/ in it is open to all) */

/* A group that this process may give files to: root any, others their own. Who cannot be asked is not taken for one that
 * is not there: the sockets would be another group's. */
static enum refusal_code group_find(const char *name, gid_t *group, struct refusal *r)
{
	gid_t mine[NGROUPS_MAX];
	struct group entry, *found = NULL;
	char buffer[16384];
	int n, e = getgrnam_r(name, &entry, buffer, sizeof(buffer), &found);

	*group = getegid();
	if (e == EMFILE || e == ENFILE || e == ENOMEM || e == EIO || e == EINTR)
		return refuse(r, R_BACKEND, "group %s cannot be looked up: %s: start again", name, strerror(e));
	if (e != 0 || !found)
		return R_DONE;
	n = geteuid() == 0 ? 0 : getgroups(NGROUPS_MAX, mine);
	if (geteuid() == 0)
		*group = found->gr_gid;
	for (int i = 0; i < n; i++) {
		if (mine[i] == found->gr_gid)
			*group = found->gr_gid;
	}
	return R_DONE;
}

static int mkdir_exact(const char *path, mode_t mode)
{
	mode_t old = umask(0);
	int rc = mkdir(path, mode);

	umask(old);
	CRASH_POINT(directory_made);
	return rc == 0 || errno == EEXIST ? 0 : -1;
}

static enum refusal_code refuse_dir(struct refusal *r, const char *path, int error)
{
	switch (error) {
	case BERTH_E_UNSAFE:
		return refuse(
			r, R_DENIED,
			"%s: it must be a directory, no symbolic link, owned by root, by this user or by user berth, "
			"and not writable by group or others: remove it, or name another one",
			path);
	case BERTH_E_PERMISSION:
		return refuse(r, R_DENIED, "%s: not permitted: run berthd as the owner of the directory", path);
	case BERTH_E_NO_INSTANCE:
		return refuse(r, R_BACKEND, "%s: no such directory: make it", path);
	default:
		return refuse(r, R_BACKEND, "%s: opening the directory: %s", path, strerror(errno));
	}
}

static enum refusal_code dir_make(const char *path, bool named, gid_t group, int *fd, struct refusal *r)
{
	struct stat st;
	uid_t owner;
	bool seen;
	int base, error;

	if (named) {
		if (mkdir_exact(SEG_DIR_BASE, 0755) != 0)
			return refuse(r, R_BACKEND, SEG_DIR_BASE ": making the directory: %s", strerror(errno));
		error = seg_dir_open(SEG_DIR_BASE, &base, NULL);
		if (error != BERTH_OK)
			return refuse_dir(r, SEG_DIR_BASE, error);
		close(base);
	}
	if (mkdir_exact(path, DIR_MODE) != 0)
		return refuse(r, R_BACKEND, "%s: making the directory: %s: make it for berthd's user", path,
			      strerror(errno));
	error = seg_dir_open(path, fd, &owner);
	if (error != BERTH_OK)
		return refuse_dir(r, path, error);
	if (owner != geteuid())
		return R_DONE; /* its owner has decided: the next step that is not allowed says so */
	seen = fstat(*fd, &st) == 0;
	if (!seen || (st.st_gid != group && fchown(*fd, (uid_t)-1, group) != 0) || fchmod(*fd, DIR_MODE) != 0) {
		refuse(r, R_BACKEND, "%s: setting group and mode: %s: start again", path, strerror(errno));
		close(*fd);
		return R_BACKEND;
	}
	CRASH_POINT(directory_modes_set);
	return R_DONE;
}

static enum refusal_code readers_make(struct instance *in, struct refusal *r)
{
	struct stat st;

	if (mkdirat(in->dir_fd, SEG_READERS, 0700) != 0 && errno != EEXIST)
		return refuse(r, R_BACKEND, "%s/" SEG_READERS ": making the directory: %s", in->path, strerror(errno));
	CRASH_POINT(readers_made);
	in->readers_fd = openat(in->dir_fd, SEG_READERS, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (in->readers_fd < 0)
		return refuse(r, errno == ENOTDIR || errno == ELOOP ? R_DENIED : R_BACKEND,
			      "%s/" SEG_READERS ": opening the directory: %s", in->path, strerror(errno));
	if (fstat(in->readers_fd, &st) != 0)
		return refuse(r, R_BACKEND, "%s/" SEG_READERS ": fstat: %s: start again", in->path, strerror(errno));
	if (st.st_uid != geteuid())
		return refuse(r, R_DENIED,
			      "%s/" SEG_READERS " belongs to uid %u: run berthd as that user, or remove it", in->path,
			      (unsigned)st.st_uid);
	if (fchmod(in->readers_fd, 0700) != 0)
		return refuse(r, R_BACKEND, "%s/" SEG_READERS ": setting its mode: %s", in->path, strerror(errno));
	CRASH_POINT(readers_modes_set);
	return R_DONE;
}

/* tables/ in the instance, which all may read who got that far; or a link to --table-dir, whose files the group may
 * read. Readers have it open, so it stays where it is. */
static enum refusal_code tables_make(struct instance *in, const char *table_dir, struct refusal *r)
{
	char old[PATH_MAX];
	ssize_t n = readlinkat(in->dir_fd, SEG_TABLES, old, sizeof(old) - 1);
	int error;

	if (table_dir) {
		if (n >= 0 && (old[n] = '\0', strcmp(old, table_dir) != 0))
			return refuse(r, R_INVALID, "--table-dir %s: the tables of %s lie in %s: give that", table_dir,
				      in->path, old);
		if (n < 0 && symlinkat(table_dir, in->dir_fd, SEG_TABLES) != 0 &&
		    (errno != EEXIST || unlinkat(in->dir_fd, SEG_TABLES, AT_REMOVEDIR) != 0 ||
		     symlinkat(table_dir, in->dir_fd, SEG_TABLES) != 0))
			return errno == ENOTEMPTY
				       ? refuse(r, R_INVALID,
						"--table-dir %s: the tables of %s lie in %s/" SEG_TABLES
						": start without it, or stop all that uses them and remove that "
						"directory",
						table_dir, in->path, in->path)
				       : refuse(r, R_INVALID, "--table-dir %s: linking it from %s/" SEG_TABLES ": %s",
						table_dir, in->path, strerror(errno));
	} else {
		if (n >= 0) {
			old[n] = '\0';
			return refuse(r, R_INVALID, "the tables of %s lie in %s: give --table-dir %s", in->path, old,
				      old);
		}
		if (mkdirat(in->dir_fd, SEG_TABLES, 0755) != 0 && errno != EEXIST)
			return refuse(r, R_BACKEND, "%s/" SEG_TABLES ": making the directory: %s", in->path,
				      strerror(errno));
	}
	CRASH_POINT(tables_made);
	error = seg_tables_open(in->dir_fd, &in->table_dir_fd);
	if (error != BERTH_OK) {
		in->table_dir_fd = -1;
		return refuse_dir(r, table_dir ? table_dir : in->path, error);
	}
	if (!table_dir && fchmod(in->table_dir_fd, 0755) != 0)
		return refuse(r, R_DENIED, "%s/" SEG_TABLES ": setting its mode: %s", in->path, strerror(errno));
	CRASH_POINT(tables_modes_set);
	in->table_mode = table_dir ? 0640 : 0644;
	return R_DONE;
}

enum refusal_code instance_open(const char *dir_or_instance, const char *table_dir, bool takeover, struct instance *in,
				struct refusal *r)
{
	bool named = !dir_or_instance || !strchr(dir_or_instance, '/');
	enum refusal_code code;

	memset(in, 0, sizeof(*in));
	in->dir_fd = in->table_dir_fd = in->readers_fd = in->lock_fd = -1;
	code = group_find("berth", &in->group, r);
	if (code == R_DONE)
		code = group_find("berth-admin", &in->admin_group, r);
	if (code != R_DONE)
		return code;
	if (seg_dir_path(dir_or_instance, in->path, sizeof(in->path)) != BERTH_OK)
		return refuse(
			r, R_INVALID,
			"instance `%.64s`: a name is 1 to 63 of A-Z, a-z, 0-9, `.`, `_`, `-`; a path has at most 3,999 "
			"bytes",
			dir_or_instance ? dir_or_instance : "");
	code = dir_make(in->path, named, in->group, &in->dir_fd, r);
	if (code != R_DONE) {
		in->dir_fd = -1;
		return code;
	}
	code = lock_take(in->dir_fd, in->path, takeover, &in->lock_fd, r);
	if (code != R_DONE) {
		in->lock_fd = -1;
		goto fail;
	}
	code = readers_make(in, r);
	if (code != R_DONE)
		goto fail;
	code = tables_make(in, table_dir, r);
	if (code != R_DONE)
		goto fail;
	return R_DONE;
fail:
	instance_close(in);
	return code;
}

uint64_t instance_file_block(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC_ ? (uint64_t)fs.f_bsize : SHM_PAGE;
}

void instance_close(struct instance *in)
{
	if (in->table_dir_fd >= 0)
		close(in->table_dir_fd);
	if (in->readers_fd >= 0)
		close(in->readers_fd);
	if (in->dir_fd >= 0)
		close(in->dir_fd);
	if (in->lock_fd >= 0)
		close(in->lock_fd); /* last: until then nobody else starts */
	in->dir_fd = in->table_dir_fd = in->readers_fd = in->lock_fd = -1;
}
