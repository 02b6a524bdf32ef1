/* SPDX-License-Identifier: MIT
 * left_over.h. */
#include "left_over.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PATHS_MAX 64u
#define PATH_ROOM 192u

/* As a shell is started with them: the paths that there are stand without a gap behind the script's name. */
static char paths[PATHS_MAX][PATH_ROOM];
static const char *arguments[PATHS_MAX + 5];
static unsigned n_paths;
static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL}; /* ours may hold faults */
static pid_t maker;

/* Its input ends when the test program has. What that started dies with it, though not in the same instant, and may make
 * files until then: it is done when a look a moment later finds nothing. */
static const char script[] = "read nothing\n"
			     "for try in 1 2 3 4 5 6 7 8 9 10; do\n"
			     "	left=\n"
			     "	for path; do\n"
			     "		[ -e \"$path\" ] || continue\n"
			     "		left=1\n"
			     "		umount -l \"$path\"/* \"$path\"\n"
			     "		rmdir \"$path\" || rm -rf \"$path\"\n"
			     "	done\n"
			     "	[ \"$left\" ] || break\n"
			     "	sleep 0.1\n"
			     "done\n";

/* Async-signal-safe: no allocation, no lock, nothing of this process is written in the child but its descriptors and
 * signals, which are its own. */
static void remove_behind_us(void)
{
	int end[2], nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (pipe2(end, O_CLOEXEC) != 0)
		return;
	if (vfork() == 0) {
		setsid(); /* who ends our process group lets it do its work */
		dup2(end[0], STDIN_FILENO);
		dup2(nothing, STDOUT_FILENO); /* who reads ours to its end waits for us alone */
		dup2(nothing, STDERR_FILENO);
		execve("/bin/sh", (char *const *)(uintptr_t)arguments, (char *const *)(uintptr_t)environment);
		_exit(127);
	}
}

static void on_end(int number)
{
	if (getpid() == maker && n_paths > 0)
		remove_behind_us();
	signal(number, SIG_DFL);
	raise(number); /* once this returns */
}

static void at_exit(void)
{
	if (getpid() == maker && n_paths > 0)
		remove_behind_us();
}

static void begin(void)
{
	static const int ends[] = {SIGTERM, SIGINT, SIGHUP};
	struct sigaction now, ours = {.sa_handler = on_end};

	maker = getpid();
	arguments[0] = "sh";
	arguments[1] = "-c";
	arguments[2] = script;
	arguments[3] = "left_over";
	atexit(at_exit);
	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (sigaction(ends[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
			sigaction(ends[i], &ours, NULL);
}

void left_over_put(const char *path)
{
	unsigned place = 0;

	if (!maker)
		begin();
	if (getpid() != maker) /* its own place would be removed with it, ours with us */
		return;
	while (place < PATHS_MAX && paths[place][0])
		place++;
	if (place == PATHS_MAX || strlen(path) >= PATH_ROOM)
		fail_msg("%s: more than %u places at a time, or a path of more than %u bytes", path, PATHS_MAX,
			 PATH_ROOM - 1);
	strcpy(paths[place], path);
	arguments[4 + n_paths] = paths[place];
	n_paths++; /* a signal in between finds the end at NULL, or the new one */
}

void left_over_forget(const char *path)
{
	if (getpid() != maker)
		return;
	for (unsigned i = 0; i < n_paths; i++) {
		if (strcmp(arguments[4 + i], path) != 0)
			continue;
		char *gone = (char *)(uintptr_t)arguments[4 + i];

		n_paths--;
		memmove(&arguments[4 + i], &arguments[5 + i], (n_paths - i + 1) * sizeof(arguments[0]));
		*gone = '\0';
		return;
	}
}
