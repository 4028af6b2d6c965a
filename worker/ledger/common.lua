-- Shared by the scripts; put before each, after the constants of scripts.py. KEYS 1 to 5 are a batch's:
-- meta, shards, rows, done, failed. The server's clock is the only clock.
--
-- All or nothing: a script's first write is refused by a server that is full, or none is. Where
-- the first write is one that a full server still takes (PERSIST, XACK, ZREM, XCLAIM), all of them are.

local TIER = 1e12  -- served numbers stay below it, so that a priority is a tier of its own
local TOP = 1000  -- above every priority

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The fence: the shard's entry in the list of pending ones, if this lease still holds it.
local function held(entry, lease)
  local pending = redis.pcall('XPENDING', KEYS[2], GROUP, entry, entry, 1, lease)
  if pending.err then return nil end
  return pending[1]
end

-- Shards that were never given away. (XPENDING would count as well, but lists every lease.)
local function num_new()
  local group = redis.call('XINFO', 'GROUPS', KEYS[2])[1]
  for at = 1, #group, 2 do
    if group[at] == 'pending' then return redis.call('XLEN', KEYS[2]) - group[at + 1] end
  end
end

-- A lease is a consumer of the group; here it ends, unless it still holds something.
local function forget(lease)
  if #redis.call('XPENDING', KEYS[2], GROUP, '-', '+', 1, lease) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[2], GROUP, lease)
  end
end

-- The shard is on the list no more.
local function strike(entry, lease)
  redis.call('XACK', KEYS[2], GROUP, entry)
  redis.call('XDEL', KEYS[2], entry)
  forget(lease)
end

local function score(priority, served)
  return (TOP - tonumber(priority)) * TIER + redis.call('INCR', served)
end

-- The batch's keys live equally long, and its job key with them.
local function each_key(root, job_key, command, ...)
  for number = 1, 5 do redis.call(command, KEYS[number], ...) end
  if job_key ~= '' then redis.call(command, root .. 'key:' .. job_key, ...) end
end

-- After a change: a batch whose every job has its row is finished, and expires in results_s; one
-- whose input has not ended expires when nothing moves any more.
local function settle(active, results_s, root)
  local meta = redis.call('HMGET', KEYS[1], 'sealed', 'num_jobs', 'num_done', 'state', 'job_key', 'id')
  if meta[1] ~= '1' then return each_key(root, meta[5], 'EXPIRE', ABANDONED_S) end
  if meta[2] ~= meta[3] then return end
  redis.call('ZREM', active, meta[6])
  if redis.call('HSETNX', KEYS[1], 'finished_ms', now_ms()) == 0 then return end
  if meta[4] ~= 'cancelled' then redis.call('HSET', KEYS[1], 'state', 'done') end
  redis.call('DEL', KEYS[2])  -- a shard may be left whose every job got its row in another
  each_key(root, meta[5], 'EXPIRE', results_s)
end

-- index, status pairs from ARGV[first] on: the jobs that have a row already.
local function already_done(first, num_rows)
  local done = {}
  for at = first, first + 2 * num_rows - 2, 2 do
    if redis.call('GETBIT', KEYS[4], ARGV[at]) == 1 then done[#done + 1] = ARGV[at] end
  end
  return done
end

local function write_rows(blob, first, num_rows)
  redis.call('XADD', KEYS[3], '*', 'b', blob)
  local counts = {}
  for at = first, first + 2 * num_rows - 2, 2 do
    redis.call('SETBIT', KEYS[4], ARGV[at], 1)
    local status = ARGV[at + 1]
    counts[status] = (counts[status] or 0) + 1
  end
  for status, count in pairs(counts) do redis.call('HINCRBY', KEYS[1], 'num_' .. status, count) end
  redis.call('HINCRBY', KEYS[1], 'num_done', num_rows)
end
