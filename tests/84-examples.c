/* SPDX-License-Identifier: MIT
 * What users copy: every program of reader_lib/examples against a living instance, and an installed berth: pkg-config,
 * a program in C and one in C++ that are built with it, and an uninstall that leaves nothing. Run from the top of the
 * sources, as `make check` does. */
#include "child.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon *d;

static int make_place(void **state)
{
	*state = (void *)(uintptr_t) "memory";
	daemon_setup(state);
	d = *state;
	tool_ok(d, "cluster", "set", "c1", "--endpoint", "http://10.0.0.1:9200", NULL);
	tool_ok(d, "cluster", "set", "c2", "--endpoint", "http://10.0.0.2:9200", NULL);
	tool_ok(d, "set", "acme", "--mode", "dedicated-index", "--cluster", "c1", "--index", "acme-idx", NULL);
	tool_ok(d, "set", "globex", "--mode", "shared-index", "--cluster", "c2", "--index", "shared", "--inject",
		"_tenant=@partition", NULL);
	return 0;
}

/* ---- examples --------------------------------------------------------------------------------------------------- */

/* What each one says of acme and globex. One that is not here has to end with 0 and say something. */
static const struct {
	const char *name, *lines[3];
} expected[] = {
	{"route",
	 {"acme: cluster 1, dedicated-index, settled, epoch 1\n",
	  "globex: cluster 2, shared-index, settled, epoch 2\n"}},
	{"lookup",
	 {"acme: c1 http://10.0.0.1:9200 index \"acme-idx\"\n",
	  "globex: c2 http://10.0.0.2:9200 index \"shared\" _tenant=globex\n"}},
	{"bulk", {"acme: cluster 1\n", "globex: cluster 2\n"}},
	{"admit", {"acme: the write may go to cluster 1\n", "globex: the write may go to cluster 2\n"}},
	{"write", {"acme: written to cluster 1\n", "globex: written to cluster 2\n"}},
	{"cursor",
	 {"acme: the next page of scroll-of-acme comes from cluster 1\n",
	  "globex: the next page of scroll-of-globex comes from cluster 2\n"}},
	{"maintain", {"acme: cluster 1, epoch 1; daemon: success\n"}},
};

static void run_example(const char *name)
{
	char path[600], out[4096];
	const char *argv[] = {path, d->dir, "acme", "globex", NULL};
	int rc;

	snprintf(path, sizeof path, "%s/%s", daemon_program("examples"), name);
	if (strcmp(name, "maintain") == 0)
		argv[3] = NULL;
	rc = child_run(argv, out, sizeof out, CHILD_MS);
	if (rc != 0 || !out[0])
		fail_msg("%s ended with %d: %s", name, rc, out);
	for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
		for (int l = 0; strcmp(expected[i].name, name) == 0 && expected[i].lines[l]; l++)
			if (!strstr(out, expected[i].lines[l]))
				fail_msg("%s does not say `%s`, but: %s", name, expected[i].lines[l], out);
}

static void every_example_runs_and_says_what_it_should(void **state)
{
	DIR *dir = opendir("reader_lib/examples");
	struct dirent *e;
	unsigned n = 0;

	(void)state;
	if (!dir)
		SKIP("not run from the top of the sources");
	while ((e = readdir(dir))) {
		size_t len = strlen(e->d_name);

		if (len < 3 || strcmp(e->d_name + len - 2, ".c") != 0)
			continue;
		e->d_name[len - 2] = '\0';
		run_example(e->d_name);
		n++;
	}
	closedir(dir);
	assert_true(n >= sizeof expected / sizeof expected[0]);
}

static void examples_fail_where_there_is_nothing(void **state)
{
	char path[600], out[4096];
	const char *argv[] = {path, "/dev/shm/berth-test-nothing-here/i", "acme", NULL};

	(void)state;
	for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", daemon_program("examples"), expected[i].name);
		assert_int_equal(child_run(argv, out, sizeof out, CHILD_MS), 1);
		assert_non_null(strstr(out, "no instance"));
	}
}

/* ---- installing ------------------------------------------------------------------------------------------------- */

static int shell(char *out, size_t size, const char *format, ...)
{
	char command[4096];
	const char *argv[] = {"/bin/sh", "-ec", command, NULL};
	va_list list;

	va_start(list, format);
	vsnprintf(command, sizeof command, format, list);
	va_end(list);
	return child_run(argv, out, size, 60000);
}

static void shell_ok(const char *command)
{
	char out[8192];
	int rc = shell(out, sizeof out, "%s", command);

	if (rc != 0)
		fail_msg("%s\nended with %d: %s", command, rc, out);
}

static char left[1024];

static int note_file(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)where;
	if (type != FTW_D && type != FTW_DP)
		snprintf(left + strlen(left), sizeof left - strlen(left), " %s", path);
	return 0;
}

/* The program of the README, as far as it is one; good C and good C++. */
static const char user_program[] =
	"#include <berth.h>\n"
	"#include <stdio.h>\n"
	"int main(int argc, char **argv)\n"
	"{\n"
	"\tstruct berth *b = NULL;\n"
	"\tstruct berth_reader *r = NULL;\n"
	"\tstruct berth_route at;\n"
	"\tif (argc < 2 || berth_attach(argv[1], NULL, &b) != BERTH_OK || berth_reader_open(b, &r) != BERTH_OK)\n"
	"\t\treturn 1;\n"
	"\tif (berth_route(r, \"acme\", 4, &at) == BERTH_OK)\n"
	"\t\tprintf(\"cluster %u: %s\\n\", at.cluster, berth_strerror(berth_admit(r, \"acme\", 4, at.epoch)));\n"
	"\tberth_reader_close(&r);\n"
	"\treturn berth_detach(&b) == BERTH_OK ? 0 : 1;\n"
	"}\n";

static void build_and_run(const char *compiler, const char *source, const char *link)
{
	char command[2048], out[4096];

	snprintf(command, sizeof command, "command -v %s >/dev/null || exit 42", compiler);
	if (shell(out, sizeof out, "%s", command) == 42)
		return;
	snprintf(command, sizeof command,
		 "cd %s; export PKG_CONFIG_SYSROOT_DIR=$PWD/root PKG_CONFIG_PATH=$PWD/root/usr/lib/pkgconfig; %s -Wall "
		 "-Wextra "
		 "-Werror -pedantic -o user %s $(pkg-config --cflags berth) %s",
		 d->home, compiler, source, link);
	shell_ok(command);
	snprintf(command, sizeof command, "LD_LIBRARY_PATH=%s/root/usr/lib %s/user %s", d->home, d->home, d->dir);
	if (shell(out, sizeof out, "%s", command) != 0 || strcmp(out, "cluster 1: success\n") != 0)
		fail_msg("built by %s, it says: %s", compiler, out);
}

static void an_installed_berth_serves_c_and_cxx_and_can_be_uninstalled(void **state)
{
	char command[1024], path[128], top[512];
	const char *build;

	(void)state;
	if (child_sanitized())
		SKIP("what is installed is never built with a sanitizer");
	if (access("Makefile", R_OK) != 0 || access("reader_lib/berth.h", R_OK) != 0 || !getcwd(top, sizeof top))
		SKIP("not run from the top of the sources");
	if (shell(command, sizeof command, "command -v make pkg-config gcc") != 0)
		SKIP("make, pkg-config or gcc is missing");
	build = daemon_program(".");
	/* the make that runs us has flags and a job server that are not for this one */
	unsetenv("MAKEFLAGS");
	unsetenv("MFLAGS");
	unsetenv("MAKELEVEL");
	snprintf(command, sizeof command, "make -s install BUILD=%.*s DESTDIR=%s/root PREFIX=/usr",
		 (int)strlen(build) - 2, build, d->home);
	shell_ok(command);
	daemon_file(d, "user.c", user_program, path);
	daemon_file(d, "user.cc", user_program, path);
	build_and_run("gcc", "user.c", "$(pkg-config --libs berth)");
	build_and_run("gcc -std=c99", "user.c", "$(pkg-config --libs berth)");
	build_and_run("gcc -std=c11", "user.c", "root/usr/lib/libberth.a");
	build_and_run("clang", "user.c", "$(pkg-config --libs berth)");
	build_and_run("g++ -std=c++17", "user.cc", "$(pkg-config --libs berth)");
	build_and_run("clang++ -std=c++17", "user.cc", "$(pkg-config --libs berth)");
	snprintf(command, sizeof command,
		 "test \"$(PKG_CONFIG_PATH=%s/root/usr/lib/pkgconfig pkg-config --modversion berth)\" = "
		 "\"$(%s/root/usr/bin/berthd --version | sed 's/.* //')\"",
		 d->home, d->home);
	shell_ok(command);
	snprintf(command, sizeof command, "%s/root/usr/bin/berth --dir %s get acme | grep -q c1", d->home, d->dir);
	shell_ok(command);
	snprintf(command, sizeof command, "make -s uninstall BUILD=%.*s DESTDIR=%s/root PREFIX=/usr",
		 (int)strlen(build) - 2, build, d->home);
	shell_ok(command);
	snprintf(path, sizeof path, "%s/root", d->home);
	left[0] = '\0';
	nftw(path, note_file, 16, FTW_PHYS);
	if (left[0])
		fail_msg("uninstall leaves%s", left);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_example_runs_and_says_what_it_should),
		cmocka_unit_test(examples_fail_where_there_is_nothing),
		cmocka_unit_test(an_installed_berth_serves_c_and_cxx_and_can_be_uninstalled),
	};

	return cmocka_run_group_tests(tests, make_place, daemon_teardown);
}
