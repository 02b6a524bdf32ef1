/* SPDX-License-Identifier: MIT
 * What to say when the kernel denies (programs.h): which capabilities an action needs, and which of them are missing
 * here. README.md has the table. */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "programs_internal.h"

#define LOADING (1u << PROGRAMS_TO_LOAD_STEER | 1u << PROGRAMS_TO_LOAD_CONNECT)
/* X(capability, actions that need it). steer adds what it has read to packet pointers: without CAP_PERFMON the verifier
 * guards against speculation there and refuses. Reading and attaching need CAP_BPF before Linux 5.19 alone; from then on
 * who may open the pins may do both. */
#define CAPABILITIES(X) \
	X(CAP_BPF, LOADING | 1u << PROGRAMS_TO_READ | 1u << PROGRAMS_TO_ATTACH) \
	X(CAP_PERFMON, 1u << PROGRAMS_TO_LOAD_STEER) \
	X(CAP_NET_ADMIN, LOADING)
static const struct {
	unsigned number, actions;
	const char *name;
} capabilities[] = {
#define ROW(name, actions) {name, actions, #name},
	CAPABILITIES(ROW)
#undef ROW
};
static const char *const actions[] = {
	[PROGRAMS_TO_READ] = "reading",
	[PROGRAMS_TO_LOAD_STEER] = "loading steer",
	[PROGRAMS_TO_LOAD_CONNECT] = "loading connect",
	[PROGRAMS_TO_ATTACH] = "attaching",
};

static bool has(unsigned number)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	return syscall(SYS_capget, &header, data) == 0 && (data[number / 32].effective & 1u << number % 32) != 0;
}

static void append(char *list, size_t size, const char *name)
{
	size_t at = strlen(list);

	snprintf(list + at, size - at, "%s%s", at ? ", " : "", name);
}

bool programs_lacks(enum programs_action action)
{
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		if (capabilities[i].actions & 1u << action && !has(capabilities[i].number))
			return true;
	return false;
}

int programs_fail_denied(struct programs_fault *fault, int error, const char *what, enum programs_action action)
{
	char needed[128] = "", missing[128] = "";

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
		if (!(capabilities[i].actions & 1u << action))
			continue;
		append(needed, sizeof(needed), capabilities[i].name);
		if (!has(capabilities[i].number))
			append(missing, sizeof(missing), capabilities[i].name);
	}
	if (!missing[0] || (error == EACCES && action != PROGRAMS_TO_LOAD_STEER && action != PROGRAMS_TO_LOAD_CONNECT))
		return programs_fail(fault, "permission",
				     "%s: %s: pins are for the user that berthd runs as: run it as that user, or with "
				     "CAP_DAC_OVERRIDE",
				     what, strerror(error));
	return programs_fail(fault, "permission",
			     "%s: %s: %s needs %s; this process lacks %s: run it as root, or give it those", what,
			     strerror(error), actions[action], needed, missing);
}
