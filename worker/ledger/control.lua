-- Pause, resume or cancel. KEYS: the batch's 5, active, served.
-- ARGV: what to do, seconds to keep results, prefix of all keys. Returns the state after it, '' for
-- unknown. A full server takes a pause and a cancel all the same.
local meta = redis.call('HMGET', KEYS[1], 'state', 'priority', 'id', 'job_key', 'finished_ms')
local state = meta[1]
if not state then return '' end
if meta[5] then return state end
if ARGV[1] == 'cancel' then
  -- Its remaining jobs get their rows by whoever claims their shards, before all other work.
  each_key(ARGV[3], meta[4], 'PERSIST')
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'sealed', 1)
  redis.call('ZADD', KEYS[6], 0, meta[3])
  settle(KEYS[6], ARGV[2], ARGV[3])
elseif ARGV[1] == 'pause' and state == 'active' then
  redis.call('ZREM', KEYS[6], meta[3])
  redis.call('HSET', KEYS[1], 'state', 'paused')
elseif ARGV[1] == 'resume' and state == 'paused' then
  redis.call('ZADD', KEYS[6], score(meta[2], KEYS[7]), meta[3])
  redis.call('HSET', KEYS[1], 'state', 'active')
end
return redis.call('HGET', KEYS[1], 'state')
