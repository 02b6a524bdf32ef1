/* SPDX-License-Identifier: MIT
 * Starting and stopping what an end-to-end run consists of (place.h). The proxy is configured by the file that proxies
 * are pointed to, reader_lib/lua/nginx.conf, with directories, ports and sizes replaced. */
#include "place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

#define START_MS 20000u

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t n = 0;

	if (!f)
		place_fail("cannot read %s: %s", path, strerror(errno));
	if (getdelim(&text, &n, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(f);
	return text;
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	if (!f || fputs(text, f) < 0 || fclose(f) != 0)
		place_fail("cannot write %s: %s", path, strerror(errno));
}

void place_fail(const char *format, ...)
{
	va_list arguments;
	const char *home = getenv("E2E_SHM");
	char command[512];

	va_start(arguments, format);
	fprintf(stderr, "e2e: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	if (home) { /* what the processes said last */
		snprintf(command, sizeof(command),
			 "tail -n 5 %s/*/berthd.log %s/*/*.err %s/*/error.log 2>/dev/null >&2", home, home, home);
		fflush(stderr);
		if (system(command) < 0)
			fprintf(stderr, "e2e: no logs in %s\n", home);
	}
	_exit(1);
}

const char *place_program(const char *name, char out[512])
{
	const char *build = getenv("BERTH_BUILD");

	snprintf(out, 512, "%s/%s", build ? build : "build", name);
	return out;
}

/* ---- words in files ---- */

static char *replace(char *text, const char *word, const char *by)
{
	size_t n = strlen(word), m = strlen(by), count = 0, room;
	char *out, *to;

	for (const char *at = text; (at = strstr(at, word)); at += n)
		count++;
	room = strlen(text) + count * m + 1;
	out = to = malloc(room);
	if (!out)
		place_fail("out of memory");
	for (const char *at = text;;) {
		const char *found = strstr(at, word);
		size_t len = found ? (size_t)(found - at) : strlen(at);
		memcpy(to, at, len);
		to += len;
		if (!found)
			break;
		memcpy(to, by, m);
		to += m;
		at = found + n;
	}
	*to = '\0';
	free(text);
	return out;
}

static char *replace_number(char *text, const char *word, unsigned number)
{
	char by[16];

	snprintf(by, sizeof(by), "%u", number);
	return replace(text, word, by);
}

/* ---- processes ---- */

static uint16_t free_port(int *hold)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(at);

	*hold = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*hold < 0 || bind(*hold, (struct sockaddr *)&at, n) != 0 ||
	    getsockname(*hold, (struct sockaddr *)&at, &n) != 0)
		place_fail("no free port on 127.0.0.1: %s", strerror(errno));
	return ntohs(at.sin_port);
}

/* A child with its output in home/log; ends with us. */
static pid_t spawn(const struct place *p, const char *log, int death, const char *const *argv)
{
	char path[256];
	pid_t us = getpid(), pid;

	snprintf(path, sizeof(path), "%s/%s", p->home, log);
	pid = fork();
	if (pid < 0)
		place_fail("cannot start %s: %s", argv[0], strerror(errno));
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, death);
	if (getppid() != us)
		_exit(127);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	dup2(fd, 1);
	dup2(fd, 2);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(2, "cannot execute %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static bool answers(uint16_t port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;

	close(fd);
	return yes;
}

static unsigned count_in(const char *path, const char *word)
{
	char *text = access(path, F_OK) == 0 ? read_file(path) : strdup("");
	unsigned n = 0;

	for (const char *at = text; (at = strstr(at, word)); at++)
		n++;
	free(text);
	return n;
}

static void wait_for(pid_t pid, const char *what, bool (*ready)(const struct place *, const void *),
		     const struct place *p, const void *arg)
{
	for (unsigned ms = 0; !ready(p, arg); ms += 5) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			place_fail("%s ended at once", what);
		if (ms > START_MS)
			place_fail("%s was not ready within %u ms", what, START_MS);
		usleep(5000);
	}
}

static bool port_ready(const struct place *p, const void *port)
{
	(void)p;
	return answers(*(const uint16_t *)port);
}

static bool berthd_ready(const struct place *p, const void *arg)
{
	char path[128];

	(void)arg;
	snprintf(path, sizeof(path), "%s/berthd.log", p->home);
	return count_in(path, "event=ready") >= p->starts;
}

void place_restart_berthd(struct place *p)
{
	char program[512], store[128], barrier[16];
	const char *argv[] = {
		place_program("berthd", program), "--dir", p->dir, "--store", store, "--barrier-ms", barrier,
		p->bpf ? "--bpf" : NULL,          NULL};

	snprintf(store, sizeof(store), "sqlite:%s", p->store);
	snprintf(barrier, sizeof(barrier), "%u", p->barrier_ms);
	p->starts++;
	p->berthd = spawn(p, "berthd.log", SIGKILL, argv);
	wait_for(p->berthd, "berthd", berthd_ready, p, NULL);
}

void place_kill_berthd(struct place *p)
{
	kill(p->berthd, SIGKILL);
	waitpid(p->berthd, NULL, 0);
	p->berthd = 0;
}

static void start_nginx(struct place *p, const char *name, pid_t *pid, uint16_t port, int death)
{
	char conf[128], log[32], error[128];
	const char *argv[] = {"/usr/sbin/nginx", "-p", p->home, "-c", conf, "-e", error, NULL};

	snprintf(conf, sizeof(conf), "%s/%s.conf", p->home, name);
	snprintf(log, sizeof(log), "%s.err", name);
	snprintf(error, sizeof(error), "%s/%s.err", p->home, name);
	*pid = spawn(p, log, death, argv);
	wait_for(*pid, name, port_ready, p, &port);
}

static void start_clusters(struct place *p)
{
	char path[128], *text = read_file("tests/e2e/upstream.conf"), *one, *all = strdup("");
	char *mark = strstr(text, "\n#server {");

	if (!mark)
		place_fail("tests/e2e/upstream.conf has no part that starts with #server {");
	*mark = '\0';
	for (unsigned i = 1; i <= p->n_clusters; i++) {
		one = replace(strdup(mark + 1), "\n#", "\n");
		one = replace_number(one, "@PORT@", p->cluster_port[i]);
		one = replace_number(one, "@CLUSTER@", i);
		char *more = malloc(strlen(all) + strlen(one) + 2);
		sprintf(more, "%s%s\n", all, one + 1); /* without the first # */
		free(one);
		free(all);
		all = more;
	}
	text = replace(text, "@SERVERS@", all);
	char here[4096];
	if (!realpath("tests/e2e", here))
		place_fail("tests/e2e is not here: start this from the top of the tree");
	text = replace(text, "@HERE@", here);
	text = replace(text, "@HOME@", p->home);
	snprintf(path, sizeof(path), "%s/clusters.conf", p->home);
	write_file(path, text);
	free(text);
	free(all);
	start_nginx(p, "clusters", &p->clusters, p->cluster_port[p->n_clusters], SIGKILL);
}

/* The file for operators, for here. Each line that is replaced has to be there. */
static const char *const proxy_lines[][2] = {
	{"user www-data berth;", "@USER@"},
	{"worker_processes 4;", "worker_processes @WORKERS@;\ndaemon off;"},
	{"# lua_package_path \"/opt/berth/share/lua/5.1/?.lua;;\";",
	 "lua_package_path \"@HERE@/reader_lib/lua/?.lua;/usr/share/lua/5.1/?.lua;;\";"},
	{"instance = \"/dev/shm/berth/default\",", "instance = \"@DIR@\", tries = @TRIES@,@HOLD@"},
	{"max_leases = 4096,", "max_leases = @LEASES@,"},
	{"cursors = \"off\",", "cursors = \"@CURSORS@\", seal_keys = \"@HOME@/seal.keys\","},
	{"access_log access.log berth;", "access_log off;"},
	{"listen 127.0.0.1:9280;", "listen @ADDRESS@:@PORT@;"},
	{"proxy_next_upstream off;", "proxy_next_upstream @NEXT@;"},
	{"add_header X-Berth-Cluster $berth_cluster always;",
	 "add_header X-Berth-Cluster $berth_cluster always;\n\t\t\tadd_header X-Upstream-Status $upstream_status "
	 "always;\n\t\t\tadd_header X-Worker $pid always;"},
};

/* Names a library for the workers. */
static void name_library(const char *variable, const char *file)
{
	char library[512], *absolute = realpath(place_program(file, library), NULL);

	if (!absolute)
		place_fail("%s is not there: run make", library);
	setenv(variable, absolute, 1);
	free(absolute);
}

static void make_keys(const struct place *p)
{
	char program[512], path[128];
	const char *argv[] = {place_program("berth", program), "seal", "keygen", path, NULL};
	int status = 0;

	snprintf(path, sizeof(path), "%s/seal.keys", p->home);
	if (waitpid(spawn(p, "keygen.err", SIGKILL, argv), &status, 0) < 0 || status != 0)
		place_fail("%s seal keygen %s failed", program, path);
}

static void start_proxy(struct place *p)
{
	char path[128], here[4096], hold[32] = "", *text = read_file("reader_lib/lua/nginx.conf");

	for (size_t i = 0; i < sizeof(proxy_lines) / sizeof(proxy_lines[0]); i++) {
		if (!strstr(text, proxy_lines[i][0]))
			place_fail("reader_lib/lua/nginx.conf has no `%s` any more: mend proxy_lines in place.c",
				   proxy_lines[i][0]);
		text = replace(text, proxy_lines[i][0], proxy_lines[i][1]);
	}
	if (!realpath(".", here))
		place_fail("where is this? %s", strerror(errno));
	text = replace(text, "@USER@", geteuid() == 0 ? "user root;" : "");
	text = replace_number(text, "@WORKERS@", p->n_workers);
	text = replace(text, "@HERE@", here);
	text = replace(text, "@DIR@", p->dir);
	text = replace(text, "@CURSORS@", p->cursors ? p->cursors : "off");
	text = replace(text, "@HOME@", p->home);
	text = replace(text, "@ADDRESS@", p->address ? p->address : "127.0.0.1");
	if (p->hold_ms)
		snprintf(hold, sizeof(hold), " hold_ms = %u,", p->hold_ms);
	text = replace(text, "@HOLD@", hold);
	text = replace_number(text, "@PORT@", p->proxy_port);
	text = replace_number(text, "@TRIES@", p->tries);
	text = replace_number(text, "@LEASES@", p->leases);
	text = replace(text, "@NEXT@", p->tries > 1 ? "error timeout" : "off");
	snprintf(path, sizeof(path), "%s/proxy.conf", p->home);
	write_file(path, text);
	free(text);
	name_library("BERTH_LIBRARY", "libberth.so");
	if (p->cursors && strcmp(p->cursors, "seal") == 0) {
		name_library("BERTH_SEAL_LIBRARY", "libberth-seal.so");
		make_keys(p);
	}
	start_nginx(p, "proxy", &p->proxy, p->proxy_port, SIGTERM);
}

static void make_clusters(const struct place *p)
{
	static struct rpc r;

	rpc_init(&r, p->dir);
	for (unsigned i = 1; i <= p->n_clusters; i++) {
		char id[16], url[64];
		snprintf(id, sizeof(id), "c%u", i);
		snprintf(url, sizeof(url), "http://127.0.0.1:%u", p->cluster_port[i]);
		json_decref(rpc_do(&r, "cluster.set", json_pack("{s:s,s:s}", "id", id, "endpoint", url)));
	}
	rpc_close(&r);
}

const char *place_missing(void)
{
	static const char *const files[] = {"/usr/sbin/nginx", "/usr/lib/nginx/modules/ndk_http_module.so",
					    "/usr/lib/nginx/modules/ngx_http_lua_module.so"};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (access(files[i], R_OK) != 0)
			return files[i];
	return NULL;
}

void place_open(struct place *p)
{
	static unsigned number;
	const char *home = getenv("E2E_HOME"), *shm = getenv("E2E_SHM");
	int hold[PLACE_CLUSTERS + 2];

	if (!home || !shm)
		place_fail("E2E_HOME and E2E_SHM are not set: not under place_guard");
	number++;
	snprintf(p->store, sizeof(p->store), "%s/%u.db", home, number);
	snprintf(p->home, sizeof(p->home), "%s/home%u", shm, number);
	/* The last part names pins, which all instances have in one directory. */
	snprintf(p->dir, sizeof(p->dir), "%s%s-%u", shm, strrchr(shm, '/'), number);
	if (mkdir(p->home, 0700) != 0)
		place_fail("cannot make %s: %s", p->home, strerror(errno));
	for (unsigned i = 0; i <= p->n_clusters; i++)
		*(i ? &p->cluster_port[i] : &p->proxy_port) = free_port(&hold[i]);
	for (unsigned i = 0; i <= p->n_clusters; i++)
		close(hold[i]);
	place_restart_berthd(p);
	make_clusters(p);
	start_clusters(p);
	start_proxy(p);
}

bool place_is_worker(const struct place *p, pid_t pid)
{
	char path[64], text[512] = "";
	int parent = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "re");
	const char *end = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	if (f)
		fclose(f);
	return end && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == p->proxy;
}

static void stop(pid_t *pid, const char *what, int number)
{
	int status;

	if (*pid == 0)
		return;
	if (waitpid(*pid, &status, WNOHANG) != 0)
		place_fail("%s had ended by itself", what);
	kill(*pid, number);
	for (unsigned ms = 0; waitpid(*pid, &status, WNOHANG) == 0; ms++) {
		if (ms > START_MS)
			place_fail("%s did not end within %u ms", what, START_MS);
		usleep(1000);
	}
	*pid = 0;
}

void place_close(struct place *p)
{
	stop(&p->proxy, "the proxy", SIGTERM);
	stop(&p->clusters, "the clusters", SIGTERM);
	stop(&p->berthd, "berthd", SIGTERM);
	for (unsigned i = 0; i < 2; i++) {
		static const char *const bad[] = {
			"[crit]", "[emerg]", "[alert]", "berth: ending a write", "lua entry thread", "failed to run"};
		char path[128];
		snprintf(path, sizeof(path), "%s/%s", p->home, i ? "upstream.log" : "error.log");
		for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++)
			if (count_in(path, bad[k]) && !(p->killed && strcmp(bad[k], "[alert]") == 0))
				place_fail("%s has lines with %s", path, bad[k]);
	}
}
