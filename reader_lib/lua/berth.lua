-- SPDX-License-Identifier: MIT
-- libberth for LuaJIT: where a partition lives, whether a write may go there now, and the leases of writes under way.
-- For nginx there is more in berth_nginx.lua, which calls this; any other LuaJIT program calls it directly:
--
--   local berth = require "berth"
--   local b = assert(berth.attach("default", {writes = "bracketed"}))
--   local at = b:route("acme")                      --> at.cluster, at.epoch, at.phase
--   local w = berth.new_write()
--   local ok, code = b:write_begin(w, "acme")       --> ok: the write may go to w.cluster
--   b:write_end(w, berth.DONE)
--
-- What each call promises is said in berth.h. A call that cannot do it answers nil and a code (a negative number;
-- berth.errors[code] has its name, HTTP status and text); wrong types of arguments raise an error, as in all Lua.
--
-- One attachment for each process, made after fork, used by one thread at a time. Nothing here yields or blocks, but
-- attach and cursor_release (at most its wait_ms) and cursor_pin (at most the one it is given). It allocates nothing on
-- the way of a request but the strings that it returns.
local ffi = require "ffi"

ffi.cdef [[
struct berth;
struct berth_reader;
struct berth_attach_options {
	uint32_t size, writes, max_readers, wait_ms, max_leases, cursors;
	uint32_t reserved[10];
};
struct berth_route {
	uint64_t epoch;
	uint16_t cluster;
	uint8_t kind, phase, is_default;
	uint8_t reserved[3];
};
struct berth_placement {
	uint64_t epoch;
	uint16_t cluster;
	uint8_t kind, phase, is_default, to_kind;
	uint16_t to_cluster;
	const char *index, *to_index;
	uint32_t index_len, to_index_len, n_inject, reserved0;
	const void *opaque;
	uint64_t opaque_len;
	uint64_t reserved[2];
};
struct berth_inject {
	const char *field, *value;
	uint32_t field_len, value_len, kind, reserved;
};
struct berth_cluster {
	const char *id, *endpoint;
	uint32_t id_len, endpoint_len;
	uint16_t number;
	uint16_t reserved0[3];
	uint64_t reserved[2];
};
struct berth_write {
	uint64_t epoch;
	uint16_t cluster;
	uint8_t kind, phase, is_default;
	uint8_t reserved[3];
	void *opaque[2];
	uint64_t reserved1[2];
};
int berth_attach(const char *, const struct berth_attach_options *, struct berth **);
int berth_detach(struct berth **);
int berth_maintain(struct berth *);
int berth_maintain_fd(struct berth *);
int berth_reader_open(struct berth *, struct berth_reader **);
void berth_reader_close(struct berth_reader **);
void berth_read_begin(struct berth_reader *);
void berth_read_end(struct berth_reader *);
int berth_route(struct berth_reader *, const char *, size_t, struct berth_route *);
int berth_lookup(struct berth_reader *, const char *, size_t, struct berth_placement *);
int berth_inject(const struct berth_placement *, unsigned, struct berth_inject *);
int berth_cluster(struct berth_reader *, uint16_t, struct berth_cluster *);
int berth_admit(struct berth_reader *, const char *, size_t, uint64_t);
int berth_write_begin(struct berth_reader *, const char *, size_t, uint64_t, struct berth_write *);
int berth_write_end(struct berth_reader *, struct berth_write *, int);
int berth_cursor_pin(struct berth_reader *, const char *, size_t, uint16_t, const char *, size_t, uint32_t, uint32_t);
int berth_cursor_resolve(struct berth_reader *, const char *, size_t, const char *, size_t, uint64_t, uint16_t *);
int berth_cursor_release(struct berth_reader *, const char *, size_t, const char *, size_t);
int berth_cursor_len(struct berth_reader *, uint64_t *);
const char *berth_strerror(int);
const char *berth_version(void);
]]

-- As reader_lib/internal.h asserts them: another berth.h would have other structs.
for name, size in pairs { berth_attach_options = 64, berth_route = 16, berth_placement = 80, berth_inject = 32,
			  berth_cluster = 48, berth_write = 48 } do
	if ffi.sizeof("struct " .. name) ~= size then
		error("berth.lua: struct " .. name .. " has " .. ffi.sizeof("struct " .. name) .. " bytes here, not " .. size ..
			": this machine is not one that libberth is built for")
	end
end

local M = { DONE = 0, UNKNOWN = 1, NO_WAIT = 0xffffffff, SETTLED = 0, DRAINING = 1, CUTOVER = 2 }
M.kinds = { "dedicated-cluster", "dedicated-index", "shared-index" }
M.phases = { [0] = "settled", "draining", "cutover" }
local WRITES = { unbracketed = 0, bracketed = 1, none = 2 }
local CURSORS = { off = 0, pin = 1 }

-- ---- the library and its errors -----------------------------------------------------------------------------------

local lib

-- path: a file, or a name for the system's loader. Without it the environment's BERTH_LIBRARY, or "berth".
function M.load(path)
	if not lib then
		lib = ffi.load(path or os.getenv("BERTH_LIBRARY") or "berth")
	end
	return lib
end

-- Codes as in berth_errors.h: [code] = {code, name, http}; also by name. `text` comes from the library.
M.errors = {}
for code, row in pairs {
	[0] = { "OK", 200 }, [-1] = { "E_INVAL", 500 }, [-2] = { "E_UNKNOWN", 404 }, [-3] = { "E_STALE", 409 },
	[-4] = { "E_CUTOVER", 409 }, [-5] = { "E_FENCED", 503 }, [-6] = { "E_AGAIN", 503 },
	[-7] = { "E_WRITER_DOWN", 503 }, [-8] = { "E_FORKED", 500 }, [-9] = { "E_CORRUPT", 500 },
	[-10] = { "E_FULL", 503 }, [-11] = { "E_BUSY", 500 }, [-12] = { "E_NOMEM", 500 }, [-13] = { "E_SYSTEM", 500 },
	[-14] = { "E_NO_INSTANCE", 500 }, [-15] = { "E_ABI", 500 }, [-16] = { "E_UNSAFE", 500 },
	[-17] = { "E_PERMISSION", 500 }, [-18] = { "E_CLOCK", 500 }, [-19] = { "E_PROTOCOL", 500 },
	[-20] = { "E_REFUSED", 500 }, [-21] = { "E_NOT_OWNER", 403 } } do
	M.errors[code] = { code = code, name = "BERTH_" .. row[1], http = row[2] }
	M[row[1]] = code -- berth.E_CUTOVER
end
-- A library that is newer than this file may know more.
setmetatable(M.errors, { __index = function(_, code)
	return type(code) == "number" and { code = code, name = "BERTH_E_" .. -code, http = 500 } or nil
end })

function M.strerror(code)
	return ffi.string(M.load().berth_strerror(code))
end

function M.version()
	return ffi.string(M.load().berth_version())
end

-- ---- attaching ----------------------------------------------------------------------------------------------------

local B = {}
B.__index = B

-- dir_or_instance: as berth_attach; nil is the instance `default`. options (all may be left out): writes =
-- "unbracketed" | "bracketed" | "none"; cursors = "off" | "pin"; max_leases, max_readers (1 here: this makes one
-- reader), wait_ms; library = a path for berth.load.
function M.attach(dir_or_instance, options)
	options = options or {}
	local b = { lib = M.load(options.library), handle = ffi.new("struct berth *[1]"),
		    reader = ffi.new("struct berth_reader *[1]"), at = ffi.new("struct berth_route"),
		    placement = ffi.new("struct berth_placement"), pair = ffi.new("struct berth_inject"),
		    cluster = ffi.new("struct berth_cluster"), cluster_to = ffi.new("struct berth_cluster"),
		    number = ffi.new("uint16_t[1]"), count = ffi.new("uint64_t[1]"), numbers = {} }
	local writes = WRITES[options.writes or "unbracketed"]
	if not writes then
		error('berth.attach: writes is "' .. tostring(options.writes) ..
			'"; it may be "unbracketed", "bracketed" or "none"', 2)
	end
	local cursors = CURSORS[options.cursors or "off"]
	if not cursors then
		error('berth.attach: cursors is "' .. tostring(options.cursors) .. '"; it may be "off" or "pin"', 2)
	end
	local o = ffi.new("struct berth_attach_options", { size = 64, writes = writes, wait_ms = options.wait_ms or 0,
		max_readers = options.max_readers or 1, max_leases = options.max_leases or 0,
		cursors = cursors })
	local rc = b.lib.berth_attach(dir_or_instance, o, b.handle)
	if rc ~= 0 then
		return nil, rc
	end
	rc = b.lib.berth_reader_open(b.handle[0], b.reader)
	if rc ~= 0 then
		b.lib.berth_detach(b.handle)
		return nil, rc
	end
	return setmetatable(b, B)
end

-- Ends the attachment; every call on it answers E_INVAL from then on. E_BUSY: a write is under way, and nothing was done:
-- end it, then close again.
function B:close()
	self.lib.berth_reader_close(self.reader)
	local rc = self.lib.berth_detach(self.handle)
	if rc == M.E_BUSY then
		self.lib.berth_reader_open(self.handle[0], self.reader)
	end
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- Once a second at least, and when what maintain_fd names is readable. true: registered with a living daemon.
function B:maintain()
	local rc = self.lib.berth_maintain(self.handle[0])
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

function B:maintain_fd()
	return self.lib.berth_maintain_fd(self.handle[0])
end

-- ---- look-ups -----------------------------------------------------------------------------------------------------

-- Its route: epoch (a 64-bit number, see berth.epoch_text), cluster, kind, phase, is_default. Overwritten by the next.
function B:route(partition)
	local rc = self.lib.berth_route(self.reader[0], partition, #partition, self.at)
	if rc ~= 0 then
		return nil, rc
	end
	return self.at
end

-- A cluster by its number: its endpoint (a URL, may be ""), and its id. nil, code: unknown.
function B:endpoint(number)
	local r, c = self.reader[0], self.cluster
	self.lib.berth_read_begin(r)
	local rc = self.lib.berth_cluster(r, number, c)
	local endpoint, id
	if rc == 0 then
		endpoint, id = ffi.string(c.endpoint, c.endpoint_len), ffi.string(c.id, c.id_len)
	end
	self.lib.berth_read_end(r)
	if rc ~= 0 then
		return nil, rc
	end
	return endpoint, id
end

-- The number of the cluster with this id, or nil. Remembered, and looked at again each time: a number is never another
-- cluster's. One that is not known yet costs a look at all numbers, some milliseconds.
function B:cluster_number(id)
	local r, c, known = self.reader[0], self.cluster, self.numbers[id]
	local function is(number)
		return self.lib.berth_cluster(r, number, c) == 0 and ffi.string(c.id, c.id_len) == id
	end
	self.lib.berth_read_begin(r)
	local number = known and is(known) and known
	for n = 1, number and 0 or 65535 do
		if is(n) then
			number = n
			break
		end
	end
	self.lib.berth_read_end(r)
	self.numbers[id] = number or nil
	return number or nil
end

local function injected(lib_, p, pair, partition)
	local list = {}
	for i = 0, p.n_inject - 1 do
		local rc = lib_.berth_inject(p, i, pair)
		if rc ~= 0 then
			return nil, rc
		end
		list[i + 1] = { field = ffi.string(pair.field, pair.field_len),
				value = pair.kind == 1 and partition or ffi.string(pair.value, pair.value_len) }
	end
	return list
end

-- The placement and its clusters. A cluster that is unknown was removed since the partition was looked up, which is then
-- somewhere else: a code, and true.
local function placed(b, partition)
	local p = b.placement
	local rc = b.lib.berth_lookup(b.reader[0], partition, #partition, p)
	if rc ~= 0 then
		return rc
	end
	rc = b.lib.berth_cluster(b.reader[0], p.cluster, b.cluster)
	if rc == 0 and p.phase ~= M.SETTLED then
		rc = b.lib.berth_cluster(b.reader[0], p.to_cluster, b.cluster_to)
	end
	return rc, rc == M.E_UNKNOWN
end

local function whole_placement(b, partition)
	local p, c, to = b.placement, b.cluster, b.cluster_to
	local rc, moved
	for _ = 1, 10 do
		rc, moved = placed(b, partition)
		if not moved then
			break
		end
	end
	if rc ~= 0 then
		return nil, moved and M.E_AGAIN or rc
	end
	local inject, code = injected(b.lib, p, b.pair, partition)
	if not inject then
		return nil, code
	end
	local out = { epoch = p.epoch, cluster = p.cluster, cluster_id = ffi.string(c.id, c.id_len),
		      endpoint = ffi.string(c.endpoint, c.endpoint_len), kind = M.kinds[p.kind], phase = M.phases[p.phase],
		      is_default = p.is_default ~= 0, index = ffi.string(p.index, p.index_len), inject = inject }
	if p.phase ~= M.SETTLED then
		out.to = { cluster = p.to_cluster, cluster_id = ffi.string(to.id, to.id_len), kind = M.kinds[p.to_kind],
			   endpoint = ffi.string(to.endpoint, to.endpoint_len), index = ffi.string(p.to_index, p.to_index_len) }
	end
	return out
end

-- The whole placement, copied into a new table: epoch, cluster, cluster_id, endpoint, kind, phase, is_default, index,
-- inject = {{field, value}...}, and in a migration `to` = {cluster, cluster_id, endpoint, kind, index}.
function B:lookup(partition)
	self.lib.berth_read_begin(self.reader[0])
	local placement, code = whole_placement(self, partition)
	self.lib.berth_read_end(self.reader[0])
	return placement, code
end

-- ---- writes -------------------------------------------------------------------------------------------------------

-- Memory of one write, to be used again and again, by one write at a time.
function M.new_write()
	return ffi.new("struct berth_write")
end

-- Looks up, asks the gate, takes a lease. epoch: nil for the present one. true: w.cluster and w.epoch say where it goes,
-- and write_end has to follow, whatever happens.
function B:write_begin(w, partition, epoch)
	local rc = self.lib.berth_write_begin(self.reader[0], partition, #partition, epoch or 0, w)
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- outcome: berth.DONE when every attempt got a final answer of the node, else berth.UNKNOWN.
function B:write_end(w, outcome)
	local rc = self.lib.berth_write_end(self.reader[0], w, outcome)
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- For those who attached as "unbracketed": may a write that was resolved at this epoch go out now?
function B:admit(partition, epoch)
	local rc = self.lib.berth_admit(self.reader[0], partition, #partition, epoch)
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- ---- cursors ------------------------------------------------------------------------------------------------------
-- For those who attached with cursors = "pin".

-- Binds a cursor id to the cluster of this number, for its owner (a partition), for ttl_ms (0 or nil: the daemon's
-- default). wait_ms: until every process sees it, so long at most; 0 or nil: it is only asked for.
function B:cursor_pin(id, cluster, owner, ttl_ms, wait_ms)
	local rc = self.lib.berth_cursor_pin(self.reader[0], id, #id, cluster, owner, #owner, ttl_ms or 0, wait_ms or 0)
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- The number of the cluster that a cursor is pinned to. now_ms: as berth_cursor_resolve has it; nil: the call looks.
function B:cursor_resolve(id, owner, now_ms)
	local rc = self.lib.berth_cursor_resolve(self.reader[0], id, #id, owner, #owner, now_ms or 0, self.number)
	if rc ~= 0 then
		return nil, rc
	end
	return self.number[0]
end

function B:cursor_release(id, owner)
	local rc = self.lib.berth_cursor_release(self.reader[0], id, #id, owner, #owner)
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- How many pins there are.
function B:cursor_len()
	local rc = self.lib.berth_cursor_len(self.reader[0], self.count)
	if rc ~= 0 then
		return nil, rc
	end
	return tonumber(self.count[0])
end

-- ---- epochs as text -----------------------------------------------------------------------------------------------

-- Decimal digits of a 64-bit number.
function M.epoch_text(epoch)
	if epoch < 9007199254740992ULL then
		return string.format("%d", tonumber(epoch))
	end
	return (string.gsub(tostring(epoch), "%D", ""))
end

-- The number of such a text; nil: it is none, or not one from 1 to 2^64-1.
function M.epoch_of_text(text)
	if #text > 20 or not string.find(text, "^[1-9]%d*$") then
		return nil
	end
	if #text < 16 then
		return tonumber(text)
	end
	local low = ffi.cast("uint64_t", tonumber(string.sub(text, -10)))
	local epoch = ffi.cast("uint64_t", tonumber(string.sub(text, 1, -11))) * 10000000000ULL + low
	return M.epoch_text(epoch) == text and epoch or nil
end

return M
