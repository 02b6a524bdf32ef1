/* SPDX-License-Identifier: MIT
 * proxy_place.h. The node does what the header X-Do says: words, each a name and maybe a number.
 *   sleep=MS      waits before it answers             status=N  answers so (default 200)
 *   drop          closes without an answer            cut       closes in the middle of its answer
 *   first-…       a word that holds for the first attempt only of a request (told by its X-Id)
 *   big=BYTES     so long an answer                   empty     204
 *   node          answers as a node of OpenSearch does, with scrolls and points in time: proxy_node.lua */
#include "proxy_place.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NGINX "/usr/sbin/nginx"
#define MODULE "/usr/lib/nginx/modules/ngx_http_lua_module.so"
#define CONF "reader_lib/lua/nginx.conf"
#define MODULES "load_module /usr/lib/nginx/modules/ndk_http_module.so;\nload_module " MODULE ";\n"

static const char *const ways[WAYS] = {"header", "path",   "strip", "retry", "redirect",
				       "finish", "forget", "deaf",  "blind"};

static const char nodes_conf[] =
	"user root;\nworker_processes 1;\nerror_log nodes.log info;\npid nodes.pid;\nenv BERTH_LIBRARY;\n"
	"env BERTH_SEAL_LIBRARY;\n" MODULES "events { worker_connections 4096; }\n"
	"http {\n"
	"access_log off;\nlua_package_path \"%s/reader_lib/lua/?.lua;%s/tests/?.lua;;\";\nlua_shared_dict seen 1m;\n"
	"client_body_temp_path nodes_body;\nproxy_temp_path nodes_proxy;\nfastcgi_temp_path nodes_fastcgi;\n"
	"uwsgi_temp_path nodes_uwsgi;\nscgi_temp_path nodes_scgi;\nclient_max_body_size 100m;\n"
	"server {\n"
	"listen 127.0.0.1:%u; listen 127.0.0.1:%u; listen 127.0.0.1:%u;\n"
	"location = /layout { content_by_lua_block {\n"
	"  require 'berth'; local ffi = require 'ffi'; ngx.req.read_body()\n"
	"  for name, field in ngx.req.get_body_data():gmatch('(%%S+) (%%S+)\\n') do\n"
	"    ngx.say(name, ' ', field, ' ', ffi.offsetof('struct ' .. name, field)) end } }\n"
	"location = /errors { content_by_lua_block { local berth = require 'berth'\n"
	"  for code = 0, -21, -1 do local row = berth.errors[code]\n"
	"    ngx.say(row.name, ' ', code, ' ', row.http, ' ', berth[row.name:sub(7)]) end } }\n"
	"location = /lookup { content_by_lua_block { local berth = require 'berth'\n"
	"  local b = assert(berth.attach('%s', {writes = 'unbracketed'}))\n"
	"  local p, code = b:lookup(ngx.var.arg_p)\n"
	"  if not p then ngx.say('code ', code) else\n"
	"    ngx.say(p.cluster_id, ' ', p.endpoint, ' ', p.kind, ' ', p.index, ' ', p.phase, ' ', "
	"tostring(p.is_default))\n"
	"    for _, pair in ipairs(p.inject) do ngx.say('inject ', pair.field, '=', pair.value) end\n"
	"    if p.to then ngx.say('to ', p.to.cluster_id, ' ', p.to.endpoint, ' ', p.to.kind, ' ', p.to.index) end\n"
	"    ngx.say('admit ', b:admit(ngx.var.arg_p, p.epoch) or 'no', ' ', (select(2, b:admit(ngx.var.arg_p, 99))))\n"
	"    local w = berth.new_write(); ngx.say('begin ', (select(2, b:write_begin(w, ngx.var.arg_p))))\n"
	"    ngx.say('end ', (select(2, b:write_end(w, berth.DONE))))\n"
	"  end\n"
	"  ngx.say('maintain ', b:maintain(), ' close ', b:close()) } }\n"
	"location /berth/ { content_by_lua_block { require('proxy_node').call('%s') } }\n"
	"location / { content_by_lua_block {\n"
	"  ngx.req.read_body()\n"
	"  local act, id = ngx.var.http_x_do or '', ngx.var.http_x_id\n"
	"  if act:find('^node') then return require('proxy_node').serve(act) end\n"
	"  local again = id and not ngx.shared.seen:add(id, 1)\n"
	"  local big, cut = 0, false\n"
	"  for word, number in act:gmatch('([%%a-]+)=?(%%d*)') do\n"
	"    local first = word:match('^first%%-(.*)')\n"
	"    if first and again then word = '' end\n"
	"    word = first or word; number = tonumber(number)\n"
	"    if first and again then word = ''\n"
	"    elseif word == 'sleep' then ngx.sleep(number / 1000)\n"
	"    elseif word == 'status' then ngx.status = number\n"
	"    elseif word == 'empty' then return ngx.exit(204)\n"
	"    elseif word == 'drop' then return ngx.exit(444)\n"
	"    elseif word == 'cut' then cut = true\n"
	"    elseif word == 'big' then big = number end\n"
	"  end\n"
	"  local length = #(ngx.req.get_body_data() or '')\n"
	"  local text = 'port=' .. ngx.var.server_port .. ' method=' .. ngx.req.get_method() .. ' uri=' ..\n"
	"    ngx.var.request_uri .. ' host=' .. ngx.var.http_host .. ' epoch=' .. (ngx.var.http_x_berth_epoch or '') "
	"..\n"
	"    ' length=' .. length .. '\\n'\n"
	"  if cut then ngx.header.content_length = #text + 100; ngx.print(text); ngx.flush(true); ngx.exit(444) end\n"
	"  ngx.print(text); if big > 0 then ngx.print(string.rep('x', big)) end\n"
	"} }\n}\n}\n";

/* ---- files ---------------------------------------------------------------------------------------------------------- */

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t size = 0;

	if (!f || getdelim(&text, &size, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	if (f)
		fclose(f);
	return text;
}

/* The text with the first `from` replaced; fails the test when there is none. Takes the text. */
static char *swap(char *text, const char *from, const char *to)
{
	char *at = strstr(text, from), *out = NULL;

	if (!at)
		fail_msg("%s has no `%s`", CONF, from);
	assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
	free(text);
	return out;
}

static char *server_for(const struct proxy_place *p, const char *block, size_t len, enum proxy_way way)
{
	static const char call[] = "berth.access(ngx.var.http_x_partition)";
	char *text = strndup(block, len), listen[160];

	snprintf(listen, sizeof(listen), "listen unix:%s/%s;", p->d.home, ways[way]);
	text = swap(text, "listen 127.0.0.1:9280;", listen);
	text = swap(text, "proxy_read_timeout 60s;", "proxy_read_timeout 3s;");
	if (way == WAY_PATH)
		text = swap(text, call, "berth.access(berth.first_segment())");
	else if (way == WAY_STRIP)
		text = swap(text, call, "berth.access(berth.first_segment('strip'))");
	else if (way == WAY_RETRY)
		text = swap(text, "proxy_next_upstream off;",
			    "proxy_next_upstream error timeout http_500 http_503 non_idempotent;");
	else if (way == WAY_FINISH)
		text = swap(text, "proxy_ignore_client_abort off;", "proxy_ignore_client_abort on;");
	else if (way == WAY_FORGET)
		text = swap(text, "\t\tlocation / {",
			    "\t\tlocation / { body_filter_by_lua_block { } log_by_lua_block { }");
	else if (way == WAY_DEAF)
		text = swap(text, "\t\tlocation / {", "\t\tlocation / { header_filter_by_lua_block { }");
	else if (way == WAY_BLIND)
		text = swap(text, "\t\tlocation / {", "\t\tlocation / { body_filter_by_lua_block { }");
	else if (way == WAY_REDIRECT) {
		text = swap(text, "proxy_next_upstream off;",
			    "proxy_intercept_errors on; error_page 502 503 504 /sorry; error_page 500 = @other;");
		text = swap(text, "\t\tlocation / {",
			    "\t\tlocation = /sorry { return 200 \"sorry\\n\"; }\n"
			    "\t\tlocation @other { access_by_lua_block { require('berth_nginx').access('globex') }\n"
			    "\t\t\tproxy_pass $berth_url; proxy_set_header X-Do ''; }\n"
			    "\t\tlocation / {");
	}
	return text;
}

static void write_proxy_conf(const struct proxy_place *p)
{
	char *text = read_file(CONF), *block, *end, top[512], line[640], path[128];

	assert_non_null(getcwd(top, sizeof(top)));
	text = swap(text, "user www-data berth;", "user root;");
	snprintf(line, sizeof(line), "lua_package_path \"%s/reader_lib/lua/?.lua;;\";", top);
	text = swap(text, "# lua_package_path \"/opt/berth/share/lua/5.1/?.lua;;\";", line);
	snprintf(line, sizeof(line), "tries = 2, instance = \"%s\"", p->d.dir);
	text = swap(text, "instance = \"/dev/shm/berth/default\"", line);
	if (p->cursors)
		text = swap(text, "cursors = \"off\",", p->cursors);
	block = strstr(text, "\tserver {\n");
	end = block ? strstr(block, "\n\t}\n") : NULL;
	assert_non_null(end);
	end += 4;
	for (enum proxy_way way = 0; way < WAYS; way++) {
		char *server = server_for(p, block, (size_t)(end - block), way), *out = NULL;
		size_t from = (size_t)(block - text), to = (size_t)(end - text);

		/* each goes before the file's own, which ends up as the last and is cut out below */
		assert_true(asprintf(&out, "%.*s%s%s", (int)from, text, server, block) > 0);
		block = out + from + strlen(server);
		end = block + (to - from);
		free(server);
		free(text);
		text = out;
	}
	memmove(block, end, strlen(end) + 1);
	daemon_file(&p->d, "proxy.conf", text, path);
	free(text);
}

static unsigned free_port(int *fd)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(*fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(*fd, (struct sockaddr *)&a, &len), 0);
	return ntohs(a.sin_port);
}

static void write_nodes_conf(struct proxy_place *p)
{
	char *text = NULL, top[512], path[128];
	int fds[4];

	assert_non_null(getcwd(top, sizeof(top)));
	for (int i = 0; i < 4; i++)
		p->ports[i] = free_port(&fds[i]);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	assert_true(asprintf(&text, nodes_conf, top, top, p->ports[0], p->ports[1], p->ports[2], p->d.dir, p->d.dir) >
		    0);
	daemon_file(&p->d, "nodes.conf", text, path);
	free(text);
}

/* ---- processes ------------------------------------------------------------------------------------------------------ */

const char *proxy_missing(void)
{
	if (child_sanitized())
		return "nginx cannot load a library that was built with a sanitizer";
	if (access(NGINX, X_OK) != 0 || access(MODULE, R_OK) != 0)
		return "there is no nginx with its Lua module (Debian: nginx, libnginx-mod-http-lua)";
	if (access(CONF, R_OK) != 0)
		return "not run from the top of the sources";
	return NULL;
}

static void name_library(const char *variable, const char *file)
{
	const char *path = daemon_program(file);
	char top[500], library[600];

	assert_non_null(getcwd(top, sizeof(top)));
	snprintf(library, sizeof(library), "%s%s%s", path[0] == '/' ? "" : top, path[0] == '/' ? "" : "/", path);
	setenv(variable, library, 1);
}

/* The master in the foreground; a SIGTERM, which it gets too when the test dies, ends its workers. */
static pid_t start_nginx(const struct proxy_place *p, const char *conf)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(127);
		name_library("BERTH_LIBRARY", "libberth.so");
		name_library("BERTH_SEAL_LIBRARY", "libberth-seal.so");
		execl(NGINX, NGINX, "-p", p->d.home, "-c", conf, "-g", "daemon off;", (char *)NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	return pid;
}

static void end_nginx(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGTERM);
		child_wait(*pid, CHILD_MS);
	}
	*pid = 0;
}

char *proxy_log(const struct proxy_place *p)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/error.log", p->d.home);
	return read_file(path);
}

unsigned proxy_workers(const struct proxy_place *p, pid_t *pids, unsigned size)
{
	char path[64], *text, *at;
	unsigned n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)p->proxy, (int)p->proxy);
	text = read_file(path);
	for (char *word = strtok_r(text, " \n", &at); word && n < size; word = strtok_r(NULL, " \n", &at))
		pids[n++] = (pid_t)strtol(word, NULL, 10);
	free(text);
	return n;
}

static bool listens(unsigned port)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

	close(fd);
	return yes;
}

void proxy_start(struct proxy_place *p)
{
	char endpoint[64], id[8];

	p->proxy = p->nodes = 0;
	p->cursors = NULL;
	daemon_make(&p->d, "memory");
	write_nodes_conf(p);
	daemon_start(&p->d, "--barrier-ms", "5000", NULL);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(id, sizeof(id), "c%u", i + 1);
		snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", p->ports[i]);
		tool_ok(&p->d, "cluster", "set", id, "--endpoint", endpoint, NULL);
	}
	p->nodes = start_nginx(p, "nodes.conf");
	proxy_again(p);
}

void proxy_stop(struct proxy_place *p)
{
	end_nginx(&p->proxy);
}

void proxy_again(struct proxy_place *p)
{
	uint64_t deadline = 0;

	write_proxy_conf(p);
	p->proxy = start_nginx(p, "proxy.conf");
	while (within(&deadline)) {
		pid_t workers[8];
		struct answer a = proxy_ask(p, &(struct ask){.path = "/berth-status"});
		bool up = a.status == 200 && strstr(a.text, "\"daemon\":true") && listens(p->ports[0]) &&
			  proxy_workers(p, workers, 8) == 4;

		free(a.text);
		if (up)
			return;
	}
	fail_msg("nginx does not come up: %s", proxy_log(p));
}

void proxy_end(struct proxy_place *p)
{
	end_nginx(&p->proxy);
	end_nginx(&p->nodes);
	daemon_remove(&p->d);
}

/* ---- HTTP ----------------------------------------------------------------------------------------------------------- */

int proxy_connect(const struct proxy_place *p, enum proxy_way way)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.70s/%s", p->d.home, ways[way]);
	assert_true(fd >= 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void proxy_send(int fd, const struct ask *q, bool keep_alive)
{
	char *text = NULL;
	int len = asprintf(&text, "%s %s HTTP/1.1\r\nHost: proxy\r\n%s%s%s%s%s%s%s%sContent-Length: %zu\r\n\r\n%s",
			   q->method ? q->method : "GET", q->path ? q->path : "/",
			   keep_alive ? "" : "Connection: close\r\n", q->partition ? "X-Partition: " : "",
			   q->partition ? q->partition : "", q->partition ? "\r\n" : "", q->act ? "X-Do: " : "",
			   q->act ? q->act : "", q->act ? "\r\n" : "", q->extra ? q->extra : "",
			   q->body ? strlen(q->body) : 0, q->body ? q->body : "");
	size_t done = 0;

	assert_true(len > 0);
	while (done < (size_t)len) {
		ssize_t n = send(fd, text + done, (size_t)len - done, MSG_NOSIGNAL);

		if (n <= 0)
			break; /* answered and closed before it had read all */
		done += (size_t)n;
	}
	free(text);
}

struct answer proxy_answer(int fd)
{
	struct answer a = {.text = malloc(4096)};
	uint64_t end = test_now_ms() + DAEMON_MS;
	size_t size = 4096;
	ssize_t n = 1;

	while (n > 0) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, (int)(end - test_now_ms())) <= 0 || test_now_ms() >= end)
			fail_msg("no answer in time; so far: %.*s", (int)a.len, a.text);
		if (a.len + 1 == size)
			a.text = realloc(a.text, size *= 2);
		n = recv(fd, a.text + a.len, size - a.len - 1, 0);
		a.len += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	a.text[a.len] = '\0';
	if (a.len > 12 && strncmp(a.text, "HTTP/1.1 ", 9) == 0)
		a.status = (int)strtol(a.text + 9, NULL, 10);
	return a;
}

struct answer proxy_ask(const struct proxy_place *p, const struct ask *q)
{
	int fd = proxy_connect(p, q->way);

	if (fd < 0)
		return (struct answer){.text = strdup("")};
	proxy_send(fd, q, false);
	return proxy_answer(fd);
}

int proxy_status(const struct proxy_place *p, const struct ask *q)
{
	struct answer a = proxy_ask(p, q);

	free(a.text);
	return a.status;
}
