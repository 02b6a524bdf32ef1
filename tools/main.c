/* SPDX-License-Identifier: MIT
 * `berth`: parse the line, run the handler of the command, say how it went. Reading order of this folder: README.md. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "commands.h"
#include "instance.h"

/* A file that shrank while it was mapped: nothing of berth's does that. */
static void on_bus_error(int signal_number)
{
	static const char message[] = "berth: a file of the instance was cut short while it was read: it is damaged\n";

	(void)signal_number;
	if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
		_exit(EXIT_DAMAGE);
	_exit(EXIT_DAMAGE);
}

int main(int argc, char **argv)
{
	const char **room = calloc(2 * (size_t)argc + 1, sizeof(*room));
	struct tool t = {.dir_fd = -1, .tables_fd = -1};
	struct arguments a;
	const struct command *command;

	if (!room)
		tool_no_memory();
	signal(SIGBUS, on_bus_error);
	int code = arguments_parse(argc, argv, room, &t, &a, &command);
	if (code == EXIT_DONE && a.given & OPT(VERSION)) {
		printf("berth %s\n", BERTH_VERSION);
		code = tool_finish(&t, code);
	} else if (code == EXIT_DONE && a.given & OPT(HELP)) {
		if (command)
			help_command(command);
		else if (a.operand)
			help_group(a.operand);
		else
			help_all();
		code = tool_finish(&t, code);
	} else if (code == EXIT_DONE) {
		code = tool_finish(&t, command->run(&t, &a));
	}
	instance_close(&t);
	free(room);
	return code;
}
