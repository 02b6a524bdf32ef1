-- SPDX-License-Identifier: MIT
-- libberth-seal for LuaJIT: cursor ids that carry their cluster. Needs neither libberth nor a daemon:
--
--   local seal = require "berth_seal"
--   local s = assert(seal.open("/etc/berth/seal.keys"))
--   local envelope = s:seal("c1", "acme", id)             -- to the client
--   local cluster, id = s:unseal(envelope, "acme")        -- nil, code: not one of ours, or another partition's
--
-- What each call promises is said in berth_seal.h. A call that cannot do it answers nil and a code (berth_errors.h). One
-- handle for each process, used by one thread at a time. Nothing here waits for another process; the key file is looked
-- at once a second at most.
local ffi = require "ffi"

ffi.cdef [[
struct berth_seal;
struct berth_unsealed {
	uint32_t key_id;
	uint16_t cluster_len, id_len;
	uint32_t reserved[6];
	char cluster[64];
	char id[4100];
};
int berth_seal_open(const char *, struct berth_seal **);
void berth_seal_close(struct berth_seal **);
int berth_seal_reload(struct berth_seal *);
int berth_seal_cursor(struct berth_seal *, const char *, size_t, const char *, size_t, const char *, size_t, char *,
		      size_t, size_t *);
int berth_seal_unseal(struct berth_seal *, const char *, size_t, const char *, size_t, struct berth_unsealed *);
const char *berth_seal_strerror(int);
char *strerror(int);
]]

if ffi.sizeof("struct berth_unsealed") ~= 4196 then
	error("berth_seal.lua: struct berth_unsealed has " .. ffi.sizeof("struct berth_unsealed") ..
		" bytes here, not 4196: this machine is not one that libberth-seal is built for")
end

local SIZE = 5920 -- BERTH_SEALED_SIZE
local E_SYSTEM = -13
local M = { ENVELOPE_MAX = SIZE - 1 }
local lib

-- path: a file, or a name for the system's loader. Without it the environment's BERTH_SEAL_LIBRARY, or "berth-seal".
function M.load(path)
	if not lib then
		lib = ffi.load(path or os.getenv("BERTH_SEAL_LIBRARY") or "berth-seal")
	end
	return lib
end

-- errno: as `open` answered it, or nil.
function M.strerror(code, errno)
	if code == E_SYSTEM and errno then
		return ffi.string(ffi.C.strerror(errno))
	end
	return ffi.string(M.load().berth_seal_strerror(code))
end

local S = {}
S.__index = S

-- key_file: its path. nil, code, errno (which means something for BERTH_E_SYSTEM alone): it cannot be used.
function M.open(key_file, library)
	local s = { lib = M.load(library), handle = ffi.new("struct berth_seal *[1]"), out = ffi.new("char[?]", SIZE),
		    len = ffi.new("size_t[1]"), unsealed = ffi.new("struct berth_unsealed") }
	local rc = s.lib.berth_seal_open(key_file, s.handle)
	if rc ~= 0 then
		return nil, rc, ffi.errno()
	end
	return setmetatable(s, S)
end

function S:close()
	self.lib.berth_seal_close(self.handle)
end

-- Reads the key file now. nil, code: it is wrong, and the keys are those of before.
function S:reload()
	local rc = self.lib.berth_seal_reload(self.handle[0])
	if rc ~= 0 then
		return nil, rc
	end
	return true
end

-- cluster: its id, a text. The envelope, a word of A-Z a-z 0-9 - _.
function S:seal(cluster, partition, id)
	local rc = self.lib.berth_seal_cursor(self.handle[0], cluster, #cluster, partition, #partition, id, #id, self.out,
		SIZE, self.len)
	if rc ~= 0 then
		return nil, rc
	end
	return ffi.string(self.out, self.len[0])
end

-- The cluster's id and the upstream id of an envelope that is this partition's.
function S:unseal(envelope, partition)
	local u = self.unsealed
	local rc = self.lib.berth_seal_unseal(self.handle[0], envelope, #envelope, partition, #partition, u)
	if rc ~= 0 then
		return nil, rc
	end
	return ffi.string(u.cluster, u.cluster_len), ffi.string(u.id, u.id_len)
end

return M
