/* SPDX-License-Identifier: MIT
 * What the files of programs.h share. */
#ifndef BERTH_BPF_PROGRAMS_INTERNAL_H
#define BERTH_BPF_PROGRAMS_INTERNAL_H

#include <stdarg.h>

#include "mirror.h"
#include "programs.h"

#define PROGRAMS_BPFFS "/sys/fs/bpf"

/* Fills *fault; -1. */
int programs_fail(struct programs_fault *, const char *code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* What is done, for the two below: each needs capabilities of its own. */
enum programs_action {
	PROGRAMS_TO_READ,
	PROGRAMS_TO_LOAD_STEER,
	PROGRAMS_TO_LOAD_CONNECT,
	PROGRAMS_TO_ATTACH,
};
/* EPERM or EACCES: says which capabilities the action needs, and which of them this process lacks. -1. */
int programs_fail_denied(struct programs_fault *, int error, const char *what, enum programs_action);
bool programs_lacks(enum programs_action);

/* programs_mirror.c */
int programs_open_map(const char *instance, const char *name, struct programs_fault *); /* descriptor, or -1 */
int programs_check_mirror(const char *instance, struct programs_fault *);
int programs_take_maps(struct bpf_object *, const char *instance, struct programs_fault *);

/* programs_pins.c: the directory of pins, and their names. */
struct programs_dir {
	char path[PATH_MAX];
	int fd;
};
#define PROGRAMS_PATH (PATH_MAX + 300) /* room for the path of a pin */
int programs_dir(const char *instance, bool make, struct programs_dir *, struct programs_fault *);
/* The same for those who change it: one at a time, until dir->fd is closed. */
int programs_lock(const char *instance, bool make, struct programs_dir *, struct programs_fault *);

/* Of a pin, and of the one that is to take its place. */
void programs_pin_paths(const struct programs_dir *, const char *name, char path[PROGRAMS_PATH],
			char beside[PROGRAMS_PATH]);
/* Pins beside the old pin; what is beside takes the pin's place, so that there is always one. 0, or a negative errno. */
int programs_pin_beside(const struct programs_dir *, const char *name, int fd);
int programs_pin_over(const struct programs_dir *, const char *name);

struct programs_name { /* of a pin */
	enum programs_kind kind;
	char program[32];
	uint64_t number, netns; /* of a link: interface or cgroup; XDP: namespace */
};
void programs_link_path(const struct programs_dir *, const struct programs_name *, char path[PROGRAMS_PATH]);
/* Calls `each` for every program and link, by name, until it answers something else than 0; that, or a negative errno
 * when they cannot be listed. */
int programs_names(const struct programs_dir *, int (*each)(const char *path, const struct programs_name *, void *arg),
		   void *arg);
/* The rest of what an object, or NULL: all, had there, once its programs and links are gone; then the directory. */
void programs_forget(const struct programs_dir *, const char *object);
const char *programs_object_of(const char *program); /* "steer" of "steer_mark" */
uint64_t programs_netns(void);                       /* this process's namespace */
/* A link whose device or cgroup is gone does nothing, for ever. fd: of the link. */
bool programs_link_gone(int fd);

/* programs.c: what an object that is loaded was configured with; false: not known. */
bool programs_config(const struct programs_dir *, const char *object, void *config, size_t size);

#endif
